"""Compiled ensemble steps: expression by expression against NumPy, their noise, errors, records, cache."""

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from scipy import stats

from fpsolve import simulate
from fpsolve.ensemble.kernel import ensemble_kernel
from fpsolve.symbols.counter_rng import random_key, standard_normals
from fpsolve.symbols.functions import numpy_function
from theory import Landscape, Langevin, degenerate_valley, random_shift

x, y = sp.symbols("x y", real=True)
VALLEY = Langevin(degenerate_valley(), random_shift(learning_rate=0.01, sigma=0.1))
QUADRATIC = Langevin(Landscape(4 * y**2 + x**2 / 2, (x, y)), random_shift(learning_rate=0.1, sigma=0.05))


class Coefficients:
    """A process of nothing but coefficients."""

    learning_rate, landscape, name = None, None, "coefficients"

    def __init__(self, drift, root, variables=(x, y)):
        self.drift, self.root, self.variables = sp.Matrix(drift), sp.Matrix(root), variables


# The generator


def test_normals_are_normal_and_independent_across_walkers_steps_and_pairs():
    z = np.stack([standard_normals((3, 4), np.arange(100_000), step, 3) for step in (0, 1)])
    z = z.reshape(6, -1)
    for sample in z:
        assert stats.kstest(sample, "norm").pvalue > 1e-4
        assert stats.kstest(sample * 1.03, "norm").pvalue < 1e-4  # a wrong law must be seen
    n = z.shape[1]
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert np.all(abs((z**power).mean(axis=1) - moment) < 4.5 * np.sqrt(variance / n))
    assert np.all(abs(np.corrcoef(z) - np.eye(6)) < 4.5 / np.sqrt(n))
    assert np.all(abs(np.corrcoef(z[:, 1:], z[:, :-1])[:6, 6:]) < 4.5 / np.sqrt(n))


def test_key_is_drawn_once_from_any_seed_and_read_back_from_a_result():
    assert random_key(7) == random_key(np.random.default_rng(7)) == random_key(np.random.SeedSequence(7))
    assert random_key(None) != random_key(None)
    assert random_key(f"0x{5:016x}{6:016x}") == (5, 6)
    with pytest.raises(ValueError, match="no recorded key"):
        random_key("seven")


# One step, against NumPy


def test_compiled_step_equals_numpy_for_every_kind_of_expression():
    kinds = [
        sp.exp(-(x**2)) + sp.sin(x) * sp.cos(y) / 3 + sp.tan(x / 4) + sp.sinh(x) - sp.cosh(y) + sp.E,
        sp.Piecewise((x**2, x > 0), (sp.sqrt(-x), True)) + sp.Max(x, y, x * y) - sp.Min(x, 2 * y),
        sp.Abs(x) ** sp.Rational(3, 2) + sp.sign(y) + sp.Heaviside(x - y) + sp.log(1 + y**2) ** -2,
        sp.tanh(x) + sp.erf(y) + x**5 * y**-4 + (x**2 + 1) ** sp.Rational(-1, 2) + sp.atan(x) + sp.pi,
        sp.Piecewise((1, (x > 0) & ~(y > 0)), (2, (x < -1) | sp.Eq(y, 5)), (3, True)) * (1 + x**2) ** x,
        sp.Piecewise((sp.asin(x / 3), x <= y), (sp.acos(y / 3), sp.Ne(x, 1))) - 1000 * x**7,
    ]
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 2, size=(100, 2)) * rng.choice([-1, 1], size=(100, 2))
    for pair in (kinds[:2], kinds[2:4], kinds[4:]):
        paths = simulate(Coefficients(pair, [[0], [0]]), start=points, time=0.125, time_step=0.125, rng=0)
        expected = points + 0.125 * numpy_function(pair, (x, y))(*points.T).T
        np.testing.assert_allclose(np.stack([paths.x, paths.y], axis=1), expected, rtol=1e-12, atol=1e-12)


def test_compiled_noise_equals_the_root_times_the_documented_normals():
    process = Coefficients([0, 0], [[1 + y**2, 0, sp.sqrt(2) * x], [0, sp.Rational(1, 3), x * y]])
    points = np.random.default_rng(1).normal(size=(70, 2))
    paths = simulate(process, start=points, time=0.03, time_step=0.01, rng=5, first_walker=1000)
    G = numpy_function(process.root, (x, y))
    expected = points.T
    for step in range(3):
        xi = standard_normals(random_key(5), 1000 + np.arange(70), step, 3)
        expected = expected + 0.1 * np.einsum("ijk,jk->ik", G(*expected), xi)
    np.testing.assert_allclose(np.stack([paths.x, paths.y]), expected, rtol=1e-12, atol=1e-13)


def test_functions_of_symbols_keep_shapes_and_hide_branches_not_taken():
    f = numpy_function(sp.Matrix([[x * y, 1], [sp.Piecewise((sp.log(x), x > 0), (0, True)), y]]), (x, y))
    grid = f(np.linspace(-1, 1, 3)[:, None], np.array([1.0, 2.0]))
    assert grid.shape == (2, 2, 3, 2)
    assert np.all(grid[0, 1] == 1) and np.all(grid[1, 0] == 0)
    assert numpy_function(sp.Integer(3), (x,))(np.zeros(4)).tolist() == [3.0] * 4
    assert numpy_function([x, 2 * x], (x,))(1.5).tolist() == [1.5, 3.0]
    with np.errstate(all="raise"):
        assert np.isnan(numpy_function(sp.sqrt(x), (x,))(-1.0))
    for wrong, message in (
        (sp.gamma(x), "gamma"),
        (sp.I * x, "ImaginaryUnit"),
        (sp.Symbol("a"), "number for a"),
    ):
        with pytest.raises(ValueError, match=message):
            numpy_function(wrong, (x,))


# Errors of averages


def test_standard_errors_cover_as_often_as_they_should():
    """Scores over independent ensembles are standard: correlation in time does not shrink the error."""
    scores = []
    exact = 0.1 * 0.05 / (1 - 0.1 / 2)
    for seed in range(60):
        paths = simulate(QUADRATIC, walkers=64, time=30, burn_in=10, start={"x": 0, "y": 0}, rng=seed)
        at = {"variable": "x", "variable_2": "x"}
        scores.append(
            (paths.second_moment.sel(at).item() - exact) / paths.second_moment_stderr.sel(at).item()
        )
    assert 0.7 < np.std(scores) < 1.35
    assert abs(np.mean(scores)) < 0.6


def test_one_walker_has_averages_without_errors():
    alone = simulate(VALLEY, walkers=1, time=3, rng=6, first_walker=73)
    assert np.isfinite(alone["mean"]).all()
    assert np.isnan(alone.mean_stderr).all()
    assert "only 1 walkers" in alone.attrs["stderr"]


# What is recorded


def test_histogram_and_moments_agree_with_the_saved_path():
    edges = {"x": np.array([-0.2, -0.05, 0.0, 0.1, 0.5]), "y": np.linspace(-0.2, 0.2, 12)}
    paths = simulate(VALLEY, walkers=40, time=3, burn_in=1, rng=9, bins=edges, save_every=0.01)
    assert paths.path.sizes == {"walker": 40, "time": 301, "variable": 2}
    assert np.array_equal(paths.path.isel(time=-1, variable=0), paths.x)
    late = paths.path.isel(time=slice(101, None)).values.reshape(-1, 2)
    counts = np.histogramdd(late, bins=list(edges.values()))[0]
    np.testing.assert_array_equal(paths.histogram, counts)
    assert paths.histogram.sum() + paths.histogram_outside == 40 * 200
    volume = np.diff(edges["x"])[:, None] * np.diff(edges["y"])
    np.testing.assert_allclose((paths.density * volume).sum(), counts.sum() / 8000)
    np.testing.assert_allclose(paths["mean"], late.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(paths.abs_std, abs(late).std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(paths.covariance, np.cov(late.T, ddof=0), atol=1e-14)


def test_recording_more_leaves_the_bits_and_parts_join_to_the_whole():
    edges = {"y": np.linspace(-0.3, 0.3, 9), "x": np.array([-0.5, -0.1, 0.0, 0.3])}
    bare = simulate(VALLEY, walkers=100, time=5, burn_in=1, rng=4)
    full = simulate(VALLEY, walkers=100, time=5, burn_in=1, rng=4, bins=edges, save_every=0.5)
    assert full.histogram.dims == ("y_bin", "x_bin")
    for name in bare.data_vars:
        assert bare[name].values.tobytes() == full[name].values.tobytes()
    parts = [
        simulate(VALLEY, walkers=n, time=5, burn_in=1, rng=bare.attrs["seed"], first_walker=first)
        for first, n in ((0, 37), (37, 63))
    ]
    for name in ("x", "y", "moment_sum"):
        assert np.concatenate([p[name].values for p in parts]).tobytes() == bare[name].values.tobytes()


def test_histogram_and_path_go_on_with_a_continued_run():
    run = {"walkers": 90, "burn_in": 4, "rng": 8, "save_every": 0.25}
    run["bins"] = {"y": np.linspace(-0.3, 0.3, 7), "x": np.linspace(-1, 1, 21)}
    whole = simulate(VALLEY, time=10, **run)
    first = simulate(VALLEY, time=6.03, **run)
    second = simulate(VALLEY, start=first, time=3.97, save_every=0.25)
    xr.testing.assert_identical(second.drop_dims("time"), whole.drop_dims("time"))
    xr.testing.assert_identical(xr.concat([first.path, second.path], "time"), whole.path)


def test_continuation_refuses_another_process_or_setting():
    first = simulate(QUADRATIC, walkers=5, time=1, rng=0)
    with pytest.raises(ValueError, match="not for this process"):
        simulate(VALLEY, start=first, time=1)
    with pytest.raises(ValueError, match=r"time_step=0\.05 differs"):
        simulate(QUADRATIC, start=first, time=1, time_step=0.05)
    with pytest.raises(ValueError, match="bins differ"):
        simulate(QUADRATIC, start=first, time=1, bins={"x": [0, 1]})


def test_attributes_are_plain_and_every_variable_has_units():
    paths = simulate(VALLEY, walkers=4, time=1, rng=0, bins={"x": [-1, 0, 1]}, save_every=0.5)
    assert all(type(value) in (str, int, float) for value in paths.attrs.values())
    assert all({"units", "long_name"} <= set(v.attrs) for v in paths.data_vars.values())


def test_diverged_walker_stays_at_its_last_place_inside_also_when_continued():
    process = Coefficients([x**3, -y], [[1, 0], [0, 1]])
    far = np.where(np.arange(60) % 2, 100.0, 0.0)
    paths = simulate(process, time=0.05, time_step=0.01, start={"x": far, "y": 0}, rng=0, divergence=1e6)
    np.testing.assert_array_equal(paths.diverged, far > 0)
    assert paths.attrs["diverged_walkers"] == 30
    np.testing.assert_allclose(paths.divergence_time[1::2], 0.02)
    assert np.isnan(paths.divergence_time[::2]).all()
    assert np.isfinite(paths.x).all() and abs(paths.x).max() < 1e6
    assert abs(paths["mean"].sel(variable="x")) < 1
    more = simulate(process, start=paths, time=0.05)
    np.testing.assert_array_equal(more.x[1::2], paths.x[1::2])
    assert np.all(more.x[::2] != paths.x[::2])


# Compilation and its cache


def test_other_numbers_in_a_landscape_do_not_compile_again():
    processes = [
        Langevin(degenerate_valley((8, -2, 1), e), random_shift(learning_rate=0.01, sigma=s))
        for e, s in ((1e-3, 0.1), (2e-3, 0.07))
    ]
    first, second = (ensemble_kernel(p.drift, p.root, p.variables) for p in processes)
    assert first.advance is second.advance
    assert not np.array_equal(first.constants, second.constants)


# Refusals beyond the ordinary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_step": float("nan")}, "time_step=nan must be"),
        ({"walkers": None}, "walkers=None must be a whole number, at least 1"),
        ({"time": float("inf")}, "time=inf must be finite"),
        ({"burn_in": -1.0}, "burn_in=-1"),
        ({"start": {"x": np.zeros(3), "y": 0}}, "start holds 3 walkers"),
        ({"start": np.zeros((10, 3))}, r"start of shape \(10, 3\)"),
        ({"start": {"x": 2e6, "y": 0}, "divergence": 1e6}, "not below divergence"),
        ({"bins": {"x": [0, 0]}}, "ascending"),
        ({"save_every": 0.015}, "not a multiple"),
        ({"save_every": 0.0}, "save_every=0 must be positive"),
        ({"threads": 0}, "threads=0"),
        ({"divergence": -1.0}, "divergence=-1"),
        ({"first_walker": -1}, "first_walker=-1"),
    ],
)
def test_senseless_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(VALLEY, **({"walkers": 10, "time": 5.0, "rng": 0} | change))


def test_senseless_processes_are_refused():
    run = {"walkers": 1, "time": 1, "time_step": 0.1}
    with pytest.raises(ValueError, match="root of the diffusion is not finite at the start x=0"):
        simulate(Coefficients([0], [[1 / x]], (x,)), start={"x": 0}, **run)
    with pytest.raises(ValueError, match="start is needed"):
        simulate(Coefficients([0], [[1]], (x,)), **run)
    with pytest.raises(ValueError, match="no number for a"):
        simulate(Coefficients([sp.Symbol("a")], [[1]], (x,)), start={"x": 0}, **run)
    time = sp.Symbol("time", real=True)
    with pytest.raises(ValueError, match="rename the variable time"):
        simulate(Coefficients([0], [[1]], (time,)), start={"time": 0}, **run)


def test_roots_of_long_decimal_fractions_are_evaluated():
    # exact rationals of 18 digits, whose numerators under the root do not fit into 64 bits
    long = sp.Rational(192801509042847512760832233018035, 10**36)
    values = numpy_function([sp.sqrt(long) * x, x / sp.sqrt(long)], [x])(np.array([2.0]))
    assert values.ravel() == pytest.approx([2 * float(long) ** 0.5, 2 / float(long) ** 0.5], rel=1e-15)
