"""Densities in time: steps whose error is stated, starts at points, absorbing sets and passage times."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
import xarray as xr
from scipy.special import erf

from fpsolve import evolve, mean_first_passage_time, passage_time_law, stationary_density
from fpsolve.density import averages
from fpsolve.density.grid import Grid
from fpsolve.density.operator import fokker_planck_matrix
from fpsolve.density.stepping import Stepper
from theory import Diffusion, Landscape, Langevin, escape, isotropic

R = sp.Rational
x, y = sp.symbols("x y", real=True)
OU = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))
BROWNIAN = Diffusion([0], [[R(1, 2)]], (x,))


def at(density, k):
    frame = density.isel(time=k)
    return averages(frame)


@pytest.mark.parametrize("time_step", [None, 2.0, 0.01])
def test_a_narrow_start_relaxes_as_the_transition_density_whatever_step_is_asked_for(time_step):
    density = evolve(
        OU, sp.exp(-50 * (x - 3) ** 2), times=[2.0], time_step=time_step, box={"x": (-8, 8)}, shape=800
    )
    stated = density.attrs["half_grid_estimate"] + density.attrs["time_error"]
    assert at(density, 0)["<x^2>"] == pytest.approx(1.146708, rel=stated)
    assert density.attrs["time_error"] <= 1e-3
    assert density.attrs["negative_mass"] == 0.0


def test_the_stated_error_in_time_bounds_the_distance_from_the_matrix_exponential():
    process = Diffusion([x - x**3], [[R(1, 4) + x**2 / 8]], (x,))
    start = xr.DataArray(np.eye(60)[13], {"x": (np.arange(60) + 0.5) / 10 - 3}, name="p")
    for accuracy in (1e-2, 1e-3, 1e-4):
        density = evolve(process, start, times=[0.01, 0.1, 1.0, 7.0], accuracy=accuracy, walls="reflecting")
        matrix = fokker_planck_matrix(process, Grid.on({"x": (-3, 3)}, (60,)), ["exponential"]).toarray()
        for frame in density:
            exact = scipy.linalg.expm(matrix * float(frame.time)) @ start.to_numpy() / 0.1
            assert np.abs(frame - exact).sum() * 0.1 < density.attrs["time_error"] <= accuracy


def test_steps_are_second_order_where_their_length_is_given():
    matrix = fokker_planck_matrix(OU, Grid.on({"x": (-5, 5)}, (100,)), ["exponential"])
    start = np.exp(-((np.linspace(-4.95, 4.95, 100) - 1) ** 2))
    exact = scipy.linalg.expm(matrix.toarray()) @ start
    steps, errors = [4, 8, 16, 32], []
    for n in steps:
        found = start
        stepper = Stepper(matrix)
        for _ in range(n):
            found = stepper.advance(found, 1.0 / n).density
        errors.append(np.abs(found - exact).sum())
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.2)


def test_a_point_start_stays_positive_and_follows_the_transition_density():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at the first time the law is as narrow as a cell
        density = evolve(OU, {"x": 0.37}, times=[0.001, 0.1, 1.0, 10.0], box={"x": (-8, 8)}, shape=401)
    assert density.attrs["negative_mass"] == 0.0
    assert float(density.min()) >= 0.0
    for k, t in enumerate(density.time.to_numpy()):
        mean, variance = 0.37 * np.exp(-t), 1 - np.exp(-2 * t)
        assert at(density, k)["<x>"] == pytest.approx(mean, abs=1e-3)
        assert at(density, k)["<x^2>"] == pytest.approx(mean**2 + variance, abs=1e-3)


def test_a_start_in_one_cell_does_not_undershoot():
    start = xr.DataArray(np.eye(80)[40], {"x": (np.arange(80) + 0.5) / 10 - 4}, name="p")
    free = Diffusion([0], [[1]], (x,))
    density = evolve(free, start, times=[0.05, 0.1], time_step=0.05, walls="reflecting")
    assert float(density.min()) >= 0.0


def test_reflecting_walls_agree_with_the_sum_over_images():
    times = [0.02, 0.3]
    start = sp.exp(-((x - R(1, 4)) ** 2) / (2 * R(1, 400)))
    density = evolve(BROWNIAN, start, times=times, box={"x": (0, 1)}, shape=400, walls="reflecting")
    for k, t in enumerate(times):
        variance = 0.05**2 + t
        images = sum(
            np.exp(-((density.x - m) ** 2) / (2 * variance))
            for n in range(-6, 7)
            for m in (2 * n + 0.25, 2 * n - 0.25)
        )
        exact = images / np.sqrt(2 * np.pi * variance)
        assert float((abs(density[k] - exact) * density.cell_volume).sum()) < 2e-3


def test_periodic_walls_agree_with_the_wrapped_gaussian():
    density = evolve(
        Diffusion([1], [[R(1, 2)]], (x,)), sp.exp(-50 * (x - R(1, 2)) ** 2), times=[3.5], box={"x": (0, 4)}, shape=400,
        walls="periodic",
    )  # fmt: skip
    variance = 0.01 + 3.5
    exact = sum(np.exp(-((density.x - 4.0 + 4 * n) ** 2) / (2 * variance)) for n in range(-9, 10))
    exact = exact / np.sqrt(2 * np.pi * variance)
    assert float(abs(density[0] - exact).max()) < 2e-3 * float(exact.max())


def passage(times, start=0.3):
    """Survival and density of the exit time of Brownian motion with D = 1/2 from (0, 1)."""
    n = np.arange(1, 400)[:, None]
    amplitude = (1 - (-1.0) ** n) * np.sin(n * np.pi * start) * np.exp(-(n**2) * np.pi**2 * times / 2)
    return (2 / (n * np.pi) * amplitude).sum(axis=0), (n * np.pi * amplitude).sum(axis=0)


@pytest.mark.parametrize("shape", [281, 400])
def test_passage_law_of_brownian_motion_in_an_interval(shape):
    times = np.linspace(0.02, 1.2, 25)
    law = passage_time_law(
        BROWNIAN, {"x": 0.3}, target=(x > 1) | (x < 0), times=times, box={"x": (-0.2, 1.2)}, shape=shape
    )
    survival, density = passage(times)
    assert (np.abs(law.survival - survival) <= 1.5 * law.survival_error).all()
    assert np.abs(law.survival - survival).max() < 3e-4
    assert np.abs(law.passage_density - density).max() < 5e-3
    assert law.attrs["quasi_stationary_rate"] == pytest.approx(
        np.pi**2 / 2, abs=2 * law.attrs["quasi_stationary_rate_error"]
    )
    quasi = law.quasi_stationary
    inside = (quasi.x > 0) & (quasi.x < 1)
    exact = np.pi / 2 * np.sin(np.pi * quasi.x).where(inside, 0.0)
    assert float(abs(quasi - exact).max()) < 2e-2
    # A wrong law: twice the diffusion.
    assert np.abs(law.survival - passage(2 * times)[0]).max() > 0.1


@pytest.mark.parametrize("accuracy", [1e-2, 1e-3, 1e-5])
def test_the_law_of_a_passage_lies_within_its_errors_early_and_late(accuracy):
    times = np.array([0.02, 0.1, 0.4, 1.0, 2.0, 3.0])
    law = passage_time_law(
        BROWNIAN, {"x": 0.3}, target=(x > 1) | (x < 0), times=times, box={"x": (-0.2, 1.2)}, shape=700,
        accuracy=accuracy,
    )  # fmt: skip
    for name, exact in zip(("survival", "passage_density"), passage(times), strict=True):
        error = np.abs(law[name] - exact)
        assert (error <= 1.5 * law[f"{name}_error"]).all()
        assert (law[f"{name}_error"] < 30 * accuracy * exact + 2e-3 * exact).all()
    # A wrong law: a thousandth more diffusion, late enough.
    wrong = passage(1.001 * times)[1]
    if accuracy == 1e-5:
        assert np.abs(law.passage_density - wrong)[-1] > 5 * law.passage_density_error[-1]


@pytest.mark.parametrize("loss", [x**2 / 2, x**4 / 4 - x**2 / 2, x**6 / 6 - x**4 / 2 + x**2 / 10])
@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-7])
def test_rates_of_rare_passages_are_right_at_any_barrier_and_none_is_made_up_beyond_floats(loss, noise):
    process = Langevin(Landscape(loss, (x,)), isotropic(noise))
    law = passage_time_law(
        process, {"x": 0.9}, target=x < -0.5, times=[1.0, 100.0], box={"x": (-2.2, 2.2)}, shape=400
    )
    assert law.survival.to_numpy() == pytest.approx([1.0, 1.0], abs=1e-3)
    rate, error = (law.attrs[f"quasi_stationary_rate{end}"] for end in ("", "_error"))
    if noise < 1e-6:
        assert np.isnan(rate)
    else:  # down to 1e-208: the mean time is one over the rate but for the time within the well
        exact = escape.exact_log_mean_time(process, start=0.9, target=-0.5)
        assert np.log(rate) == pytest.approx(-exact, abs=2 * error / rate)
        assert error < 0.03 * rate


def _first_passage_to_zero(times):
    """Survival and density for dx = −x dt + √2 dW from 1 to 0: images."""
    decay = np.exp(-times)
    far = decay / np.sqrt(2 * (1 - decay**2))
    slope = far * (1 + decay**2 / (1 - decay**2))
    return erf(far), 2 / np.sqrt(np.pi) * np.exp(-(far**2)) * slope


@pytest.mark.parametrize(("dimension", "shape"), [(1, 100), (1, 150), (1, 333), (2, (60, 40))])
def test_laws_of_ornstein_and_uhlenbeck_lie_within_their_errors_on_any_grid(dimension, shape):
    times = np.array([0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0])
    process, start, box = Diffusion([-x], [[1]], (x,)), {"x": 1.0}, {"x": (-1, 7)}
    if dimension == 2:
        process = Diffusion([-x, -2 * y], [[1, 0], [0, sp.Rational(1, 2)]], (x, y))
        start, box = {"x": 1.0, "y": 0.0}, {"x": (-1, 7), "y": (-3, 3)}
    law = passage_time_law(process, start, target=x < 0, times=times, box=box, shape=shape)
    for name, exact in zip(("survival", "passage_density"), _first_passage_to_zero(times), strict=True):
        error = np.abs(law[name] - exact) / law[f"{name}_error"]
        assert float(error.max()) < 1.5 and float((error < 1.0).mean()) >= 0.75
        assert float((law[f"{name}_error"] / exact)[2:5].max()) < 0.03


def test_the_area_under_the_survival_is_the_mean_passage_time():
    times = np.linspace(0.0, 60.0, 601)
    box = {"x": (-6, 3)}
    law = passage_time_law(OU, {"x": 0.0}, target=x > 1, times=times, box=box, shape=900)
    backward = mean_first_passage_time(OU, target=x > 1, box=box, shape=900)
    area = float(np.trapezoid(law.survival, times))
    assert area == pytest.approx(float(backward.interp(x=0.0)), rel=2e-3)


def test_a_density_with_an_absorbing_set_keeps_what_has_not_arrived():
    density = evolve(
        BROWNIAN, {"x": 0.3}, times=[0.1, 0.5], absorbing=(x > 1) | (x < 0), box={"x": (-0.2, 1.2)}, shape=280
    )
    assert density.survival.to_numpy() == pytest.approx(passage(density.time.to_numpy())[0], abs=3e-4)
    assert (density * density.cell_volume).sum("x").to_numpy() == pytest.approx(density.survival.to_numpy())
    assert float(density.sel(x=slice(1.0, None)).max()) == 0.0


def test_starts_outside_the_box_or_without_mass_are_refused():
    options = {"times": [1.0], "box": {"x": (-8, 8)}, "shape": 100}
    for start, words in (
        ({"x": 9.0}, "outside the box"),
        ({"y": 0.0}, "start has the variables"),
        (sp.exp(-50 * (x - 60) ** 2), "holds no mass"),
        (sp.exp(-((x - 9) ** 2)), "rim of the box"),
        (sp.cos(x), "not negative"),
    ):
        with pytest.raises(ValueError, match=words):
            evolve(OU, start, **options)
    with pytest.raises(ValueError, match="fills the whole box"):
        evolve(OU, {"x": 0.0}, absorbing=x < 100, **options)


def test_narrow_starts_keep_their_weights_and_what_no_cell_sees_is_refused():
    box = {"x": (-6, 6)}
    narrow = 3 * sp.exp(-5e6 * (x - 1) ** 2) + sp.exp(-5e6 * (x + 1.013) ** 2)
    density = evolve(OU, narrow, times=[0.1], box=box, shape=300)
    mean = float((density * density.x * density.cell_volume).sum())
    assert mean == pytest.approx((3 - 1.013) / 4 * np.exp(-0.1), abs=0.01)
    with pytest.raises(ValueError, match="too narrow for its cells"):
        evolve(OU, sp.exp(-5e19 * (x - 1) ** 2), times=[0.1], box=box, shape=300)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"times": [float("inf")]}, "times must be finite"),
        ({"accuracy": 0}, "accuracy=0"),
        ({"accuracy": "a"}, "accuracy='a'"),
        ({"time_step": "a"}, "time_step='a'"),
        ({"initial": {"x": "a"}}, "x='a' must be a number"),
        ({"initial": 3}, "got 3"),
    ],
)
def test_arguments_that_are_none_are_named(given, words):
    settings = {"initial": {"x": 0.2}, "times": [1.0], "box": {"x": (-6, 6)}, "shape": 200} | given
    with pytest.raises(ValueError, match=words):
        evolve(OU, settings.pop("initial"), **settings)


def test_a_start_in_the_target_has_no_law():
    with pytest.raises(ValueError, match="lies in the target"):
        passage_time_law(OU, {"x": 2.0}, target=x > 1, times=[1.0], box={"x": (-6, 6)}, shape=200)


def test_mass_that_reaches_the_rim_is_warned_of():
    with pytest.warns(UserWarning, match="rim of the box"):
        evolve(BROWNIAN, {"x": 0.0}, times=[4.0], box={"x": (-5, 5)}, shape=200)


def test_an_evolving_density_ends_in_the_stationary_one_across_a_jump():
    process = Diffusion([-x], [[sp.Piecewise((R(1, 2), x < 0), (R(1, 4), True))]], (x,))
    box = {"x": (-5, 5)}
    final = evolve(process, {"x": 1.0}, times=[25.0], box=box, shape=400)[0]
    assert (
        float((abs(final - stationary_density(process, box=box, shape=400)) * final.cell_volume).sum()) < 1e-3
    )
