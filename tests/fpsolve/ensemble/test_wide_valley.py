"""Valleys of many dimensions: coefficients, the kernel over arrays against symbols, growth of flatness, refusals."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sympy as sp
import xarray as xr

from fpsolve import simulate
from fpsolve.ensemble import wide_valley
from fpsolve.ensemble.wide_valley import flatness_growth, joined, simulate_valley
from theory import Landscape, Langevin, anisotropic, degenerate_valley, double_well, isotropic, random_shift
from theory.catalogue import random_valley
from theory.valley.flatness import coefficients, flatness_from

x, y = sp.symbols("x y", real=True)
WIDE = degenerate_valley(n_sharp=5, n_flat=100, epsilon=1e-4)
START = {"flat": 0.6, "sharp": 0.3}


def _bytes(run):
    return {
        name: run[name].to_numpy().tobytes()
        for name in run.variables
        if name.startswith(("wa", "fl", "sh", "d"))
    }


# Coefficients


def test_coefficients_of_the_reference_valley_are_read_from_its_loss():
    valley = coefficients(degenerate_valley((8, -2, 1), 1e-3))
    assert valley.constant.tolist() == [8] and valley.lift == pytest.approx(8e-3)
    assert valley.quadratic.tolist() == [[-2]] and valley.quartic.tolist() == [[1]]
    several = coefficients(degenerate_valley(((8, -2, 1), (5, 0, 0.25)), 1e-2))
    assert several.quartic.tolist() == [[1], [0.25]] and several.lift == pytest.approx(0.065)


def test_a_random_valley_is_what_its_documentation_says():
    valley = coefficients(WIDE)
    assert (valley.n_sharp, valley.n_flat) == (5, 100) and len(WIDE.variables) == 105
    assert valley.constant.min() >= 4 and valley.constant.max() <= 12
    lowest = valley.constant - (valley.quadratic**2 / (4 * valley.quartic)).sum(axis=1)
    assert lowest / valley.constant == pytest.approx(0.5, abs=0.06)  # depth, up to the mean of 100 draws
    transition = -valley.lift / (valley.constant @ valley.quadratic)
    assert np.median(transition) == pytest.approx(1e-4 / 2, rel=0.1)
    assert (transition > 1e-4 / 3).all() and (transition < 1e-4).all()
    assert (
        valley.flatness(np.full(100, 0.4))
        > valley.flatness(np.zeros(100))
        > valley.flatness(np.full(100, 0.6))
    )


def test_a_random_valley_is_the_same_at_every_call_and_differs_by_seed():
    assert degenerate_valley(n_sharp=2, n_flat=3).loss == random_valley(2, 3).loss
    assert random_valley(2, 3, rng=1).loss != random_valley(2, 3, rng=2).loss
    assert random_valley(1, 1).names == ("x", "y") and random_valley(1, 2).names == ("x1", "x2", "y")


def test_array_formulas_are_those_of_the_symbols():
    landscape = random_valley(3, 2, rng=4)
    valley, rng = coefficients(landscape), np.random.default_rng(0)
    points, heights = rng.normal(size=(5, 2)) / 2, rng.normal(size=(5, 3))
    floor = dict.fromkeys(landscape.fast, 0)
    curvatures = [landscape.loss.diff(v, 2).subs(floor) for v in landscape.fast]
    logarithm = -sum(g * sp.log(c) for g, c in zip(valley.weights, curvatures, strict=True)) / 2
    for point, height in zip(points, heights, strict=True):
        at = dict(zip(landscape.slow, point, strict=True))
        values = [float(c.subs(at)) for c in curvatures]
        assert valley.curvatures(point) == pytest.approx(values)
        assert valley.flatness(point) == pytest.approx(np.prod(values) ** (-1 / 6))
        assert valley.weighted_flatness(point) == pytest.approx(float(sp.exp(logarithm.subs(at))))
        slope = [float(logarithm.diff(v).subs(at)) for v in landscape.slow]
        assert valley.log_flatness_gradient(point) == pytest.approx(slope)
        full = at | dict(zip(landscape.fast, height, strict=True))
        assert valley.loss(point, height) == pytest.approx(float(landscape.loss.subs(full)))
        drift = [
            float((-landscape.loss.subs(floor) - sum(1e-3 * c**2 for c in curvatures) / 4).diff(v).subs(at))
            for v in landscape.slow
        ]
        assert valley.averaged_drift(point, delta_s=1e-3) == pytest.approx(drift)
        frozen = valley.averaged_drift(point, delta_s=1e-3, frozen=True) + valley.lift * point
        assert frozen == pytest.approx(1e-3 * np.sum(valley.constant**2) * np.array(slope))


def test_other_losses_are_refused_with_the_term_that_does_not_fit():
    for landscape, message in (
        (double_well(), "sharp ones"),
        (Landscape(y**2 * (1 + x**6) / 2 + x**2, (x, y), fast=(y,)), "does not fit"),
        (Landscape(y**2 * (1 + x**2) / 2 + x**2, (y, x), fast=(y,)), "flat ones followed by sharp"),
        (Landscape(y**2 * (1 - x**2 + x**4 / 8) / 2 + x**2, (x, y), fast=(y,)), "positive everywhere"),
        (Landscape(y**2 * (1 + sp.Symbol("a") * x**2) + x**2, (x, y), fast=(y,)), "give values"),
    ):
        with pytest.raises(ValueError, match=message):
            coefficients(landscape)
    for options, message in (
        ({"n_flat": 0, "n_sharp": 1}, "at least 1"),
        ({"depth": 0.7}, "depth=0.7"),
        ({"epsilon": -1}, "epsilon=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            random_valley(**options)
    with pytest.raises(ValueError, match="not both"):
        degenerate_valley((5, 1), n_flat=3)


# The kernel


@pytest.mark.parametrize("noise", ["random shift", "isotropic"])
@pytest.mark.parametrize(("n_sharp", "n_flat"), [(1, 1), (2, 3), (3, 2), (2, 2)])
def test_paths_are_those_of_the_symbolic_system_with_the_same_normals(n_sharp, n_flat, noise):
    landscape = random_valley(n_sharp, n_flat, rng=3)
    model = random_shift(learning_rate=0.02, sigma=0.05) if noise == "random shift" else isotropic(0.01)
    process = Langevin(landscape, model)
    names = landscape.names
    start = dict(zip(names, [0.7] * n_flat + [0.4] * n_sharp, strict=True))
    run = {"walkers": 40, "time": 3, "time_step": 0.02, "rng": 5, "first_walker": 77}
    symbols = simulate(process, start=start, save_every=0.2, **run)
    arrays = simulate_valley(process, start={"flat": 0.7, "sharp": 0.4}, record_every=0.2, **run)
    ends = np.concatenate([arrays.flat, arrays.sharp], axis=1)
    np.testing.assert_allclose(ends, np.stack([symbols[n] for n in names], axis=1), rtol=1e-11, atol=1e-12)
    valley, path = coefficients(landscape), symbols.path.to_numpy()
    flat, sharp = path[..., :n_flat], path[..., n_flat:]
    np.testing.assert_allclose(arrays.walker_curvature, valley.curvatures(flat), rtol=1e-11)
    np.testing.assert_allclose(arrays.walker_loss, valley.loss(flat, sharp), rtol=1e-10)
    slope = valley.log_flatness_gradient(flat)
    np.testing.assert_allclose(arrays.walker_squared_slope, (slope**2).sum(-1), rtol=1e-10, atol=1e-14)
    drift = valley.averaged_drift(flat, delta_s=1e-3, learning_rate=0.02)
    recorded = -valley.lift * arrays.walker_floor_product - 1e-3 * arrays.walker_noise_product
    np.testing.assert_allclose(recorded, (slope * drift).sum(-1), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(arrays.flatness, valley.flatness(flat).mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(
        arrays.weighted_flatness, valley.weighted_flatness(flat).mean(axis=0), rtol=1e-11
    )


def test_gradient_descent_follows_the_gradient():
    landscape = random_valley(2, 5, rng=1)
    valley = coefficients(landscape)
    run = simulate_valley(landscape, walkers=2, time=4, time_step=0.05, start=START)
    flat, sharp = np.full(5, 0.6), np.full(2, 0.3)
    for _ in range(80):
        pull = valley.lift * flat + (valley.slopes(flat) * sharp[:, None] ** 2).sum(axis=0) / 2
        flat, sharp = flat - 0.05 * pull, sharp - 0.05 * valley.curvatures(flat) * sharp
    np.testing.assert_allclose(run.flat, [flat, flat], rtol=1e-12)
    np.testing.assert_allclose(run.sharp, [sharp, sharp], rtol=1e-12)


def test_bits_depend_neither_on_threads_nor_on_chunks_nor_on_how_walkers_are_split(monkeypatch):
    process = Langevin(WIDE, random_shift(learning_rate=0.02, sigma=0.05))
    run = {"time": 1, "rng": 9, "start": START, "record_every": 0.2}
    whole = simulate_valley(process, walkers=100, **run)
    monkeypatch.setattr(wide_valley, "_CHUNK", 700.0)
    assert _bytes(simulate_valley(process, walkers=100, threads=2, **run)) == _bytes(whole)
    parts = [
        simulate_valley(process, walkers=n, first_walker=k, **(run | {"rng": whole.attrs["seed"]}))
        for k, n in ((63, 37), (0, 5), (5, 58))
    ]
    xr.testing.assert_identical(joined(parts), whole)
    with ThreadPoolExecutor(2) as pool:
        apart = simulate_valley(process, walkers=100, executor=pool, parts=3, **run)
    xr.testing.assert_identical(apart, whole)
    with pytest.raises(ValueError, match="not consecutive"):
        joined(parts[:2])
    other = simulate_valley(process, walkers=5, first_walker=100, **(run | {"rng": 1}))
    with pytest.raises(ValueError, match="differ in seed"):
        joined([whole, other])


def test_walkers_that_diverge_are_counted_and_left_where_they_were():
    steep = Langevin(random_valley(2, 3, rng=0), random_shift(learning_rate=0.1, sigma=0.01))
    flat = np.zeros((64, 3))
    flat[::2] = 6.0  # there ηλ is far above 2
    run = simulate_valley(steep, walkers=64, time=4, rng=0, start={"flat": flat, "sharp": 0.1})
    assert run.diverged.to_numpy().tolist() == [1, 0] * 32 and run.attrs["diverged_walkers"] == 32
    assert np.isfinite(run.flat).all() and np.isfinite(run.flatness).all()
    assert np.isfinite(run.divergence_time[::2]).all() and np.isnan(run.divergence_time[1::2]).all()
    with pytest.warns(UserWarning, match="all 4 walkers diverged"):
        simulate_valley(steep, walkers=4, time=4, rng=0, start={"flat": 6.0, "sharp": 0.1})


# Flatness


def test_flatness_grows_as_the_averaged_dynamics_says_and_not_as_its_form_frozen_at_the_origin():
    process = Langevin(WIDE, random_shift(learning_rate=0.01, sigma=0.03))
    run = simulate_valley(process, walkers=96, time=36, record_every=0.5, rng=2, start=START)
    growth = flatness_growth(run, after=16.0)
    measured, error = float(growth.measured_overall), float(growth.excess_averaged_overall_stderr)
    # What averaging leaves out is smaller by the ratio of timescales, below 1 % here.
    assert abs(float(growth.excess_averaged_overall)) < 0.01 * measured + 4 * error
    # λ_i(0)² where λ_i(x)² belongs: wrong by a quarter and far outside the error.
    for wrong in ("with_floor", "published"):
        excess = float(growth[f"excess_{wrong}_overall"])
        assert excess < -0.1 * measured - 10 * float(growth[f"excess_{wrong}_overall_stderr"])


def test_random_shifts_flatten_faster_than_gradient_descent_and_equal_isotropic_noise_does_not():
    run = {"time": 40, "time_step": 0.01, "rng": 0, "start": START}
    shifted = Langevin(WIDE, random_shift(learning_rate=0.01, sigma=0.1))
    trace = 1e-3 * np.sum(coefficients(WIDE).constant ** 2) / 105  # the same trace of D at the origin
    found = {
        name: simulate_valley(process, walkers=count, **run).flatness
        for name, process, count in (
            ("SGD", shifted, 32),
            ("GD", WIDE, 1),
            ("GLD", Langevin(WIDE, isotropic(trace)), 32),
        )
    }
    begin = float(found["GD"][0])
    assert float(found["SGD"][-1]) > float(found["GD"][-1]) + 0.05 > begin + 0.05
    assert float(found["GLD"][-1]) < begin


def test_flatness_is_a_geometric_mean():
    assert flatness_from(np.array([4.0, 4.0])) == pytest.approx(0.5)
    assert flatness_from(np.array([1.0, 16.0]), np.array([1.0, 0.0])) == pytest.approx(1.0)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_step": -1.0}, "time_step=-1"),
        ({"walkers": 0}, "walkers=0"),
        ({"time": 0.0}, "time=0"),
        ({"start": {"x": 0.0}}, "start names x"),
        ({"start": {"flat": np.zeros(7)}}, "shape"),
        ({"start": {"flat": 1e7}}, "divergence"),
        ({"record_every": 0.015}, "not a multiple"),
        ({"divergence": 0.0}, "divergence=0"),
        ({"first_walker": -1}, "first_walker=-1"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_senseless_arguments_are_refused(change, message):
    process = Langevin(random_valley(1, 2), random_shift(learning_rate=0.01, sigma=0.1))
    with pytest.raises(ValueError, match=message):
        simulate_valley(process, **({"walkers": 4, "time": 1.0, "rng": 0} | change))


def test_other_noise_and_missing_steps_are_refused():
    valley = random_valley(1, 2)
    with pytest.raises(NotImplementedError, match="random_shift"):
        simulate_valley(Langevin(valley, anisotropic(0.1, 4)), walkers=1, time=1, time_step=0.1)
    with pytest.raises(ValueError, match="time_step is needed"):
        simulate_valley(valley, walkers=1, time=1)
    descended = simulate_valley(valley, walkers=1, time=1, time_step=0.1, record_every=0.5)
    with pytest.raises(ValueError, match="random shifts only"):
        flatness_growth(descended)
    shifted = simulate_valley(
        Langevin(valley, random_shift(learning_rate=0.1, sigma=0.01)), walkers=2, time=1, rng=0
    )
    with pytest.raises(ValueError, match="record more often"):
        flatness_growth(shifted, after=0.5)
