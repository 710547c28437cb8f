"""Principal components of windows: exact against an SVD, conventions, controls, what a random walk looks like."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nets.measure import components, controls
from theory.random_landscape import null_correlation_time


def _window(weights, **attrs):
    return xr.Dataset({"weights": (("step", "weight"), weights)}, attrs=attrs)


def _walk(steps=400, size=12, seed=0, drift=0.0):
    rng = np.random.default_rng(seed)
    increments = rng.normal(size=(steps, size)) * np.geomspace(1, 0.05, size) + drift
    return np.cumsum(increments, axis=0) + 3.0


@pytest.mark.parametrize(("steps", "size"), [(300, 12), (20, 50)])
def test_modes_are_those_of_a_singular_value_decomposition(steps, size):
    weights = _walk(steps, size)
    modes = components.analyse(_window(weights))
    _, singular, rows = np.linalg.svd(weights - weights.mean(0), full_matrices=False)
    n = min(size, steps - 1)
    assert modes.sizes["mode"] == n
    assert np.allclose(modes.variance, singular[:n] ** 2 / steps, rtol=1e-9)
    assert np.allclose(np.abs(np.sum(modes.direction.to_numpy()[:5] * rows[:5], axis=1)), 1, atol=1e-9)
    assert float(modes.attrs["total_variance"]) == pytest.approx(np.square(singular).sum() / steps)


def test_weights_are_origin_plus_projections_times_directions():
    weights = _walk()
    for origin in ("mean", "start"):
        modes = components.analyse(_window(weights), origin=origin)
        again = modes.origin + modes.projection @ modes.direction
        assert np.allclose(again.transpose("step", "weight"), weights, atol=1e-4)
    assert np.allclose(modes.origin, weights[0])
    # The second moment about the start is what the eigenvalues of that convention are.
    assert np.allclose(np.square(modes.projection).mean("step"), modes.variance, rtol=1e-4)


def test_the_first_few_modes_are_the_first_few_of_all():
    weights = _walk()
    every = components.analyse(_window(weights))
    few = components.analyse(_window(weights), count=4)
    assert np.allclose(few.variance, every.variance[:4])
    assert np.allclose(few.direction, every.direction[:4], atol=1e-8)
    assert few.attrs["total_variance"] == pytest.approx(every.attrs["total_variance"])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_scaling_and_rotating_the_weights_scales_the_variances_and_keeps_the_times(scale, seed):
    weights = _walk(60, 6, seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    before = components.analyse(_window(weights))
    after = components.analyse(_window(scale * weights @ rotation))
    assert np.allclose(after.variance, scale**2 * before.variance, rtol=1e-6)
    assert np.allclose(after.correlation_time, before.correlation_time, rtol=1e-6)


def test_a_drift_is_the_first_mode_and_detrending_removes_it_from_all():
    direction = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0][0]
    weights = _walk(seed=2) + np.outer(np.arange(400), direction)
    modes = components.analyse(_window(weights))
    # The persistent velocity stands out by more standard errors than any other, and its sign is positive.
    assert float(modes.drift[0]) == pytest.approx(1.0, abs=0.2)
    assert float(modes.drift[0] / modes.drift_stderr[0]) > 10
    assert abs(modes.direction[0].to_numpy() @ direction) > 0.9
    flat = components.analyse(_window(weights), detrend=True)
    plain = components.analyse(_window(_walk(seed=2)), detrend=True)
    assert np.allclose(flat.variance, plain.variance, rtol=1e-6)


def test_projecting_the_same_window_gives_its_own_variances():
    window = _window(_walk())
    modes = components.analyse(window, count=6)
    again = components.project(window, modes)
    for name in ("variance", "velocity_variance", "correlation_time", "drift"):
        assert np.allclose(again[name], modes[name], rtol=1e-6), name
    assert "another window" in again.attrs["basis"] and "same window" in modes.attrs["basis"]


def test_directions_chosen_in_one_window_carry_less_variance_in_the_next_though_the_walk_is_the_same():
    # A walk with one D in all directions: its own principal components promise a spectrum that is not there.
    weights = np.cumsum(np.random.default_rng(0).normal(size=(4000, 60)), axis=0)
    modes = components.analyse(_window(weights[:2000]))
    own = float(modes.variance[1] / modes.variance[30])
    there = components.project(_window(weights[2000:]), modes)
    spread = np.log(there.variance[1:31]).mean() - np.log(there.variance[31:]).mean()
    assert own > 20
    assert abs(float(spread)) < 4 * 0.8 * np.sqrt(2 / 30)  # ln variance of a walk scatters by about 0.8


def test_correlation_times_along_random_directions_of_a_random_walk_meet_their_nulls():
    rng = np.random.default_rng(3)
    weights = np.cumsum(rng.normal(size=(300, 2000)), axis=0)
    axes = xr.Dataset({"direction": (("mode", "weight"), np.eye(2000))}, coords={"mode": np.arange(1, 2001)})
    for detrend, origin in ((False, "mean"), (True, "mean"), (False, "start")):
        motion = components.project(_window(weights), axes, detrend=detrend)
        tau = motion["correlation_time" if origin == "mean" else "correlation_time_from_start"].to_numpy()
        null = null_correlation_time(300, origin=origin, detrended=detrend)
        assert abs(tau.mean() - null) < 4 * tau.std() / np.sqrt(len(tau))
        assert abs(tau.mean() - 1.5 * null) > 4 * tau.std() / np.sqrt(len(tau))


def test_velocity_correlations_are_those_of_a_moving_average():
    rng = np.random.default_rng(4)
    white = rng.normal(size=(4001, 50))
    weights = np.cumsum(white[1:] + 0.6 * white[:-1], axis=0)
    axes = xr.Dataset({"direction": (("mode", "weight"), np.eye(50))}, coords={"mode": np.arange(1, 51)})
    motion = components.project(_window(weights), axes)
    c = components.velocity_correlation(motion, lags=3)
    error = 4 * 1.5 / np.sqrt(4000 * 50)
    assert c.dims == ("lag", "mode") and np.allclose(c[0], 1)
    assert abs(float(c[1].mean()) - 0.6 / 1.36) < error
    assert abs(float(c[2].mean())) < error and abs(float(c[3].mean())) < error
    tau = components.correlation_times(motion, lags=1)
    # (1 + 2 · 0.441) T/2 for a window of T steps.
    assert float(tau.mean()) == pytest.approx((1 + 2 * 0.6 / 1.36) * 2000, rel=0.02)


def test_cumulative_variance_leaves_out_the_drift_mode_and_reaches_one():
    modes = components.analyse(_window(_walk()))
    share = components.cumulative_variance(modes)
    assert int(share.mode[0]) == 2 and float(share[-1]) == pytest.approx(1)
    few = components.cumulative_variance(components.analyse(_window(_walk()), count=4))
    assert np.allclose(few, share[:3])


def test_shuffled_increments_keep_the_ends_and_the_velocity_variance():
    window = _window(_walk(), learning_rate=0.1)
    other = controls.shuffled(window, rng=0)
    assert np.allclose(other.weights[[0, -1]], window.weights[[0, -1]])
    steps = [np.sort(np.diff(w.weights, axis=0), axis=0) for w in (window, other)]
    assert np.allclose(*steps, atol=1e-9)
    assert not np.allclose(other.weights, window.weights)
    assert other.attrs["control"] == "shuffled increments" and other.attrs["learning_rate"] == 0.1
    assert np.array_equal(other.weights, controls.shuffled(window, rng=0).weights)


def test_an_isotropic_walk_has_the_mean_square_step_in_every_direction():
    window = _window(_walk(2000))
    other = controls.random_walk(window, rng=0)
    steps = np.diff(other.weights, axis=0)
    wanted = np.square(np.diff(window.weights, axis=0)).mean()
    assert np.allclose(np.square(steps).mean(0), wanted, rtol=5 * np.sqrt(2 / 2000))


def test_unusable_windows_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least 3"):
        components.analyse(_window(np.ones((2, 3))))
    with pytest.raises(ValueError, match="do not move"):
        components.analyse(_window(np.ones((9, 3))))
    broken = _walk()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="not finite from step 7"):
        components.analyse(_window(broken))
    with pytest.raises(ValueError, match="origin='middle'"):
        components.analyse(_window(_walk()), origin="middle")
    modes = components.analyse(_window(_walk()))
    with pytest.raises(ValueError, match="different layers"):
        components.project(_window(_walk(size=7)), modes)
    with pytest.raises(ValueError, match="lags=400"):
        components.velocity_correlation(modes, lags=400)
    with pytest.raises(ValueError, match="one variable over"):
        components.analyse(xr.Dataset({"a": ("x", [1.0])}))


@pytest.mark.parametrize("control", [controls.shuffled, controls.random_walk])
def test_controls_take_the_windows_that_analyse_takes(control):
    window = _window(_walk(), learning_rate=0.1)
    own = control(window["weights"].rename("w"), rng=0)
    assert np.array_equal(own.weights, control(window, rng=0).weights)
    assert components.analyse(own, count=2).attrs["control"] == own.attrs["control"]
    with pytest.raises(ValueError, match="step"):
        control(xr.DataArray(np.ones((3, 2))), rng=0)
