"""The table: an error on every number, deviations from the best, remarks, and what it refuses."""

import json

import numpy as np
import pytest
import sympy as sp

from fpsolve import compare, plot, simulate, stationary_density
from theory import Landscape, Langevin, adiabatic, degenerate_valley, double_well, isotropic, random_shift

SGD = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))


@pytest.fixture(scope="module")
def results():
    density = stationary_density(SGD)
    referee = stationary_density(SGD, method="spectral")
    no_cross = stationary_density(SGD, cross_diffusion=False)
    options = {"walkers": 256, "time": 400, "burn_in": 200, "start": {"x": 0.675, "y": 0.0}}
    coarse = simulate(SGD, time_step=0.01, rng=0, bins={"x": np.linspace(-0.8, 0.8, 81)}, **options)
    fine = simulate(SGD, time_step=0.005, rng=1, **options)
    reduced = [adiabatic.eliminate(SGD, fast="y", order=o) for o in (0, 1, 2)]
    return density, referee, no_cross, coarse, fine, *reduced


@pytest.fixture(scope="module")
def table(results):
    return compare.stationary(SGD, *results)


def test_every_number_has_an_error_and_says_where_it_comes_from(table):
    assert all(np.isfinite(row.error) and row.error >= 0 and row.error_kind for row in table.rows)
    kinds = {row.error_kind for row in table.rows}
    assert any("half-grid" in k for k in kinds) and any("standard error" in k for k in kinds)


def test_the_referee_is_the_reference_and_all_good_methods_meet_it(table):
    assert table.reference == "spectral"
    for quantity in ("<x^2>", "std(|x|)", "<y^2>"):
        assert abs(table.value(quantity, "finite-volume").deviation) < 2e-3
        assert table.value(quantity, "ensemble, dt -> 0").sigmas < 4
    assert table.value("std(|x|)", "finite-volume, no cross terms").deviation > 1.0
    assert abs(table.value("std(|x|)", "theory, order 2").deviation) < 0.005
    assert table.value("std(|x|)", "theory, order 0").deviation > 0.9


def test_the_finite_step_is_remarked_and_extrapolation_removes_it(table):
    assert any("dt*lambda/2 = 4.00%" in remark for remark in table.remarks)
    assert table.value("<y^2>", "ensemble, dt = 0.01").sigmas > 4


def test_the_table_prints_and_turns_into_json_and_a_frame(table):
    text = str(table)
    assert "reference" in text and "spectral" in text
    assert len(json.loads(json.dumps(table.to_dict()))["rows"]) == len(table.rows)
    assert len(table.to_dataframe()) == len(table.rows)
    with pytest.raises(KeyError, match="no 'q'"):
        table.value("q", "spectral")


def test_without_burn_in_the_final_positions_are_used_and_that_is_said():
    well = Langevin(double_well(), isotropic(0.2))
    density = stationary_density(well)
    paths = simulate(well, walkers=3000, time=30, time_step=0.005, rng=0)
    table = compare.stationary(well, density, paths)
    assert any("no burn-in" in remark for remark in table.remarks)
    assert table.value("<x^2>", "ensemble, dt = 0.005").sigmas < 4


def test_remarks_of_walls_and_steps_are_made_where_they_are_true():
    x = sp.Symbol("x", real=True)
    flat, well = Langevin(Landscape(x**4 / 4, (x,)), isotropic(0.2)), Langevin(double_well(), isotropic(0.2))
    paths = simulate(well, walkers=50, time=5, time_step=0.02, start={"x": 0}, rng=0)
    walled = paths.assign_attrs(walls="x = -1: reflecting")
    meant = stationary_density(flat, box={"x": (-1, 1)}, walls="reflecting", shape=100)
    far = [stationary_density(flat), stationary_density(flat, box={"x": (-4, 4)})]
    for density, run, missing in (
        (far[0], paths, False),
        (far[1], paths, False),
        (meant, paths, True),
        (meant, walled, False),
    ):
        remarks = compare.stationary(flat, density, run).remarks
        assert any("the ensemble has none" in remark for remark in remarks) == missing
        assert ("walls of the ensemble: x = -1: reflecting" in remarks) == (run is walled)
    # No curvature, no figure in per cent
    assert any("dt = 0.02 widens the sharpest direction of the ensemble against" in r for r in remarks)


def test_results_of_another_problem_are_refused(results):
    well = Langevin(double_well(), isotropic(0.2))
    with pytest.raises(ValueError, match="dims"):
        compare.stationary(well, results[0])
    with pytest.raises(TypeError, match="cannot compare"):
        compare.stationary(SGD, 3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to compare"):
        compare.stationary(SGD)


def test_figures_draw_what_they_are_given_and_leave_settings_alone(results, table):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    density, referee, _, coarse, _, *reduced = results
    figure = plot.stationary(density, referee=referee, ensemble=coarse, reduced=reduced, table=table)
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert "$x$" in labels and "$|x|$" in labels
    assert plot.density(density, ax=None).get_xlabel() == "$x$"
    assert dict(mpl.rcParams) == before


def test_a_marginal_of_a_product_density_is_its_factor():
    x, y = sp.symbols("x y", real=True)
    product = stationary_density(Langevin(Landscape(x**2 + 3 * y**2, (x, y)), isotropic(0.5)))
    line, values = plot.marginal_values(product, "x")
    assert np.trapezoid(values, line) == pytest.approx(1.0, abs=1e-6)
    assert values == pytest.approx(np.exp(-2 * line**2) / np.sqrt(np.pi / 2), abs=1e-4)
