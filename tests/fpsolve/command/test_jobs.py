"""The command line's jobs from Python: the plan, starting points, an ensemble unasked, the memory of a start."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from fpsolve import stationary_density
from fpsolve.command import jobs
from fpsolve.command.problem import EXAMPLES, parse_problem

WELL = """
variables = ["x"]
loss = "x**2"
[noise]
kind = "isotropic"
D = 0.1
"""


@pytest.fixture(scope="module")
def well():
    problem = parse_problem(WELL)
    return problem, stationary_density(problem.process, shape=200)


def test_a_plan_names_the_jobs_that_a_method_asks_for():
    problem = parse_problem(EXAMPLES["double_well"])
    both = ["ensemble", "ensemble, half the step"]
    assert list(jobs.plan(problem)) == ["density", "spectral", *both]
    assert list(jobs.plan(problem, method="spectral", simulation=False)) == ["spectral"]
    assert list(jobs.plan(replace(problem, simulate=None), method="spectral")) == ["spectral"]
    assert list(jobs.plan(replace(problem, simulate=None), method="finite-volume")) == ["density", *both]


def test_starting_points_have_the_densitys_variance(well):
    drawn = jobs.samples(well[1], 20_000, 0)["x"]
    assert drawn.shape == (20_000,) and drawn.var() == pytest.approx(0.1 / 2, rel=0.05)
    assert np.array_equal(drawn, jobs.samples(well[1], 20_000, 0)["x"])


def test_an_ensemble_unasked_is_stable_and_outlasts_its_memory(well):
    problem, density = well
    chosen = jobs.default_ensemble(problem.process, density)
    assert chosen["time_step"] == pytest.approx(0.05)  # a tenth of 1/2
    rate = density.attrs["second_eigenvalue"]
    # The density is folded: its rate is that of even functions, and odd ones take twice as long
    assert chosen["time"] == pytest.approx(200 / rate, rel=0.01) and chosen["burn_in"] < 0.31 * chosen["time"]
    stuck = jobs.default_ensemble(problem.process, density.assign_attrs(second_eigenvalue=1e-12))
    assert stuck["walkers"] * stuck["time"] / stuck["time_step"] == pytest.approx(2e8, rel=1e-3)
    found = jobs.ensemble(problem, density, seed=3)
    assert float(found["covariance"].squeeze()) == pytest.approx(0.1 / 2, rel=0.1)


def test_a_burn_in_shorter_than_the_memory_is_remarked(well):
    problem, _ = well
    slow = {"density": xr.DataArray(0.0, attrs={"second_eigenvalue": 0.1})}
    short, long = (replace(problem, simulate={"burn_in": b, "time": 100.0}) for b in (10.0, 40.0))
    assert "burn_in = 30 or more, not 10" in jobs.memory_remark(short, slow)
    assert jobs.memory_remark(long, slow) is jobs.memory_remark(problem, slow) is None


def test_a_solution_holds_results_reductions_and_their_table():
    problem = parse_problem(WELL.replace("x**2", "x**2 + 0*x"))
    solved = jobs.solve(problem, method="finite-volume", simulation=False)
    assert list(solved.results) == ["density"] and solved.reductions == ()
    assert solved.table.value("<x^2>", "finite-volume").value == pytest.approx(0.05, rel=1e-3)


def _densities(loss, walls):
    text = WELL.replace("x**2", loss).replace("D = 0.1", "D = 1.0")
    problem = parse_problem(f'{text}[box]\nx = [-1.0, 1.0]\n[solver]\nwalls = "{walls}"\n')
    return jobs.plan(problem, simulation=False).values()


def test_walls_of_a_file_are_those_of_every_density():
    exact = 1 - 2 * np.exp(-0.5) / (np.sqrt(2 * np.pi) * 0.6826894921370859)  # of a normal law within (−1, 1)
    for compute in _densities("x**2/2", "reflecting"):
        density = compute({})
        square = float((density * density.cell_volume * density.x**2).sum())
        assert square == pytest.approx(exact, rel=1e-5)
    for compute in _densities("cos(3.141592653589793*x)", "periodic"):
        assert compute({}).attrs["walls"] == "x: periodic"
    for compute in _densities("x**2/2", "far"):
        with pytest.raises(ValueError, match="does not confine"):
            compute({})


def test_walls_that_are_meant_hold_for_the_walkers_too():
    walled = parse_problem(WELL + "[box]\nx = [-0.2, 0.2]\n[solver]\nwalls = 'reflecting'\n")
    assert jobs.walls_of(walled) == {"box": {"x": (-0.2, 0.2)}, "walls": {"x": "reflecting"}}
    far = parse_problem(WELL + "[box]\nx = [-2.0, 2.0]\n")
    assert jobs.walls_of(far) == {}
    density = stationary_density(walled.process, box=walled.box, walls="reflecting", shape=200)
    simulate = {"walkers": 400, "time": 20.0, "burn_in": 2.0, "time_step": 2e-3}
    found = jobs.ensemble(replace(walled, simulate=simulate), density, seed=1)
    right = float((density * density.cell_volume * density.x**2).sum())
    value, error = (float(found[f"second_moment{end}"].squeeze()) for end in ("", "_stderr"))
    assert abs(value - right) < 4 * error + 0.01 * right  # the mirror's error is of first order in dt
    assert abs(value - 0.05) > 4 * error  # without walls
