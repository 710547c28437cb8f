"""Random-landscape theory: formulas against sampled ensembles, null correlation times, limits, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import random_landscape
from theory.random_landscape import RandomLandscape


def _landscape(drift_position=0.05, scale=1.0):
    rng = np.random.default_rng(5)
    coupling = rng.uniform(0.5, 2.0, (4, 4))
    return RandomLandscape(
        curvature=np.array([9.0, 7.0, 5.0, 3.0]) * scale,
        curvature_std=np.array([2.0, 1.5, 1.0, 0.5]) * scale,
        coupling_std=0.5 * (coupling + coupling.T) * scale,
        position_std=np.array([0.05, 0.1, 0.15, 0.2]),
        drift_position=drift_position,
        loss=2.0,
        loss_std=0.7,
    )


def _mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def test_curvature_and_slope_of_the_mean_loss_meet_a_sampled_ensemble_to_second_order():
    landscape = _landscape()
    sample = landscape.sample(200_000, rng=1)
    pull = np.einsum("bij,bj->bi", sample.curvature, sample.position)
    # ∂_i ln⟨L^μ⟩ and ∂_i² ln⟨L^μ⟩ at 0 with L^μ_0 independent: −⟨pull_i⟩ and ⟨M_ii⟩ + Var(pull_i).
    for i in range(4):
        second = sample.curvature[:, i, i] + (pull[:, i] - pull[:, i].mean()) ** 2
        mean, error = _mean_and_error(second)
        assert abs(mean - landscape.mean_curvature[i]) < 4 * error
    slope, error = _mean_and_error(-pull[:, 0])
    assert abs(slope - landscape.slope) < 4 * error
    # Without the coupling of the modes the curvature is another one.
    alone = RandomLandscape(
        landscape.curvature, landscape.curvature_std, np.zeros((4, 4)), landscape.position_std
    )
    second = sample.curvature[:, 3, 3] + (pull[:, 3] - pull[:, 3].mean()) ** 2
    assert abs(second.mean() - alone.mean_curvature[3]) > 10 * _mean_and_error(second)[1]


def test_the_mean_loss_is_the_mean_of_the_minibatch_losses_near_the_solution():
    landscape = _landscape()
    sample = landscape.sample(200_000, rng=2)
    theta = 0.02 * np.array([1.0, -1.0, 1.0, 1.0])
    ratio, error = _mean_and_error(sample.losses(theta) / sample.loss)
    predicted = landscape.mean_loss(theta) / landscape.loss
    cross = 2e-4  # terms θ_iθ_j of the second cumulant, which the formula leaves out, and third order
    assert abs(ratio - predicted) < 4 * error + cross
    assert abs(ratio - 1.0) > 4 * error + cross


def test_velocity_variance_is_that_of_sampled_gradients_without_spread_of_curvature():
    still = _landscape(drift_position=0.0)
    landscape = RandomLandscape(
        still.curvature,
        np.zeros(4),
        still.coupling_std,
        still.position_std,
        loss=still.loss,
        loss_std=still.loss_std,
    )
    sample = landscape.sample(200_000, rng=3)
    pull = np.einsum("bij,bj->bi", sample.curvature, sample.position)
    for i in range(4):
        mean, error = _mean_and_error((0.1 * sample.loss * pull[:, i]) ** 2)
        assert abs(mean - landscape.velocity_variance(0.1)[i]) < 4 * error
        assert abs(mean - (0.1 * landscape.loss) ** 2 * pull[:, i].var()) > 4 * error  # ⟨L²⟩, not ⟨L⟩²
    spread = np.quantile(sample.minimum_positions(), [0.25, 0.75], axis=0)
    assert np.allclose((spread[1] - spread[0]) / 1.349, landscape.minimum_position_std, rtol=0.05)


def test_drift_velocity_is_the_mean_step():
    landscape = _landscape()
    sample = landscape.sample(200_000, rng=4)
    pull = np.einsum("bij,bj->bi", sample.curvature, sample.position)[:, 0]
    mean, error = _mean_and_error(0.1 * sample.loss * pull)
    assert abs(mean - landscape.drift_velocity(0.1)) < 4 * error


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10.0))
def test_stretching_the_coordinates_leaves_the_loss_as_it_is(c):
    a = _landscape()
    b = RandomLandscape(
        a.curvature / c**2,
        a.curvature_std / c**2,
        a.coupling_std / c**2,
        a.position_std * c,
        a.drift_position * c,
    )
    theta = np.array([0.1, -0.2, 0.3, 0.05])
    assert b.mean_loss(c * theta) == pytest.approx(a.mean_loss(theta) / a.loss, rel=1e-9)
    assert b.flatness == pytest.approx(c * a.flatness, rel=1e-9)


def test_flatness_is_the_width_at_which_the_loss_is_e_times_larger():
    F = random_landscape.flatness(3.0)
    assert pytest.approx(1.0) == 3.0 * (F / 2) ** 2 / 2
    assert np.isnan(random_landscape.flatness([-1.0, 0.0])).all()


def _paths(v):
    return np.concatenate([np.zeros((len(v), 1)), np.cumsum(v, axis=1)[:, :-1]], axis=1)


@pytest.mark.parametrize("case", ["mean", "start", "detrended", "epoch mean", "epoch start"])
def test_null_correlation_times_meet_simulated_walks(case):
    rng = np.random.default_rng(0)
    v = rng.normal(size=(40_000, 60))
    options = {}
    if "epoch" in case:
        v = v.reshape(-1, 5, 12)
        v = (v - v.mean(2, keepdims=True)).reshape(-1, 60)
        options = {"steps_per_epoch": 12}
    theta = _paths(v)
    if case == "detrended":
        time = np.arange(60) - 29.5
        theta = theta - theta.mean(1, keepdims=True) - np.outer(theta @ time / (time @ time), time)
        options = {"detrended": True}
    origin = "start" if "start" in case else "mean"
    square = np.square(theta).mean(1) if origin == "start" else theta.var(1)
    tau, error = _mean_and_error(square / np.square(v).mean())
    assert abs(tau - random_landscape.null_correlation_time(60, origin=origin, **options)) < 4 * error
    assert abs(tau - random_landscape.null_correlation_time(66, origin=origin)) > 4 * error


def test_large_windows_approach_the_round_numbers_of_the_theory():
    assert random_landscape.null_correlation_time(12_000) == pytest.approx(2000, rel=1e-3)
    assert random_landscape.null_correlation_time(12_000, origin="start") == pytest.approx(6000, rel=1e-3)
    assert random_landscape.null_correlation_time(
        12_000, steps_per_epoch=1200, origin="start"
    ) == pytest.approx(200, rel=1e-2)
    assert random_landscape.null_correlation_time(12_000, detrended=True) == pytest.approx(800, rel=1e-3)


def test_the_double_sum_of_velocity_correlations_is_the_second_moment_about_the_start():
    rng = np.random.default_rng(1)
    white = rng.normal(size=(40_000, 41))
    v = white[:, 1:] + 0.6 * white[:, :-1]
    c = np.array([1.0, 0.6 / 1.36])
    tau, error = _mean_and_error(np.square(_paths(v)).mean(1) / 1.36)
    assert abs(tau - random_landscape.correlation_time_from_velocities(c, steps=40)) < 4 * error
    assert random_landscape.correlation_time_from_velocities([1.0], steps=40) == pytest.approx(19.5)


def test_input_that_makes_no_sense_is_refused_by_name():
    with pytest.raises(ValueError, match="coupling_std must be symmetric"):
        RandomLandscape(np.ones(2), np.ones(2), np.array([[0.0, 1.0], [2.0, 0.0]]), np.ones(2))
    with pytest.raises(ValueError, match="position_std must not be negative"):
        RandomLandscape(np.ones(2), np.ones(2), np.zeros((2, 2)), -np.ones(2))
    with pytest.raises(ValueError, match="curvature_std must be finite and of shape"):
        RandomLandscape(np.ones(2), np.ones(3), np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="whole number of epochs"):
        random_landscape.null_correlation_time(100, steps_per_epoch=30)
    with pytest.raises(ValueError, match="detrended"):
        random_landscape.null_correlation_time(100, origin="start", detrended=True)
    with pytest.raises(ValueError, match="lags do not fit"):
        random_landscape.correlation_time_from_velocities(np.ones(5), steps=4)
