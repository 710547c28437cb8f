"""Predictions of first exits: free diffusion, level crossing, the basin's covariance."""

import math

import numpy as np
import pytest
import torch

from fpsolve import escape_rate
from nets import models
from notebooks.studies.box_escape.box import simulate_box_escape
from notebooks.studies.box_escape.dynamics import (
    LocalDynamics,
    local_dynamics,
    net_dynamics,
    noise_and_curvature,
)
from notebooks.studies.box_escape.laws import variation
from notebooks.studies.box_escape.predictions import (
    SHIFT,
    basin_covariance,
    free_exit_time,
    isotropic_exit_time,
    level_crossing_rate,
    positive_part,
)
from notebooks.studies.box_escape.starts import gaussian_noise


def test_free_exit_of_independent_coordinates_is_exact():
    assert isotropic_exit_time(1, half_width=2, diffusion=0.5) == pytest.approx(4.0, rel=1e-10)  # r²/2D
    for P in (1, 5, 40):
        free = free_exit_time(np.eye(P), half_width=2, walkers=1500, steps=400, rng=P)
        exact = isotropic_exit_time(P, half_width=2, diffusion=0.5)
        stderr = float(free.high - free["mean"]) / 1.96
        assert abs(float(free["mean"]) - exact) < 4 * stderr
    with pytest.raises(ValueError, match="parameters"):
        isotropic_exit_time(0)


def test_a_wrong_law_of_free_exit_is_rejected():
    free = free_exit_time(np.eye(5), half_width=2, walkers=1500, steps=400, rng=5)
    assert not float(free.low) < isotropic_exit_time(1, half_width=2, diffusion=0.5) / 5 < float(free.high)
    assert float(free.variation) < 0.8  # nothing like the 1 of an exponential law


def test_free_walks_of_a_net_obey_the_parameter_free_diffusion():
    net, eta, B = models.fully_connected((5, 10, 2), bias=True, rng=1), 2e-3, 2
    dynamics = net_dynamics(net, gaussian_noise(2000, 5, rng=0))
    C = noise_and_curvature(dynamics)[1]
    free = free_exit_time(C, walkers=600, steps=400, rng=0)
    runs = simulate_box_escape(
        local_dynamics(dynamics), learning_rate=eta, batch_size=B, sampling="with_replacement",
        replicas=150, max_steps=100_000, rng=1,
    )  # fmt: skip
    # Looked at once a step, a walk ends 0.58 standard deviations of a step behind the wall.
    late = (1 + SHIFT * eta * math.sqrt(C.diagonal().max() / B) / 0.05) ** 2
    predicted = float(free["mean"]) * B / eta**2 * late
    error = float(free.high - free.low) / 3.92 * B / eta**2
    stderr = math.hypot(float(runs.steps.std()) / math.sqrt(150), error)
    assert abs(float(runs.steps.mean()) - predicted) < 4 * stderr
    assert abs(float(runs.steps.mean()) - predicted * eta) > 4 * stderr  # per iteration it is η², not η


def test_level_crossing_is_kramers_in_one_dimension_and_cancels_the_curvature():
    h, c, eta, B, r = 0.7, 0.3, 0.01, 2.0, 0.05
    D = eta * c / (2 * B)
    barrier = h * r**2 / (2 * D)
    rate, exponent = level_crossing_rate([[c]], [[h]], learning_rate=eta, batch_size=B, half_width=r)
    assert exponent == pytest.approx(barrier)
    assert rate == pytest.approx(2 * h * math.sqrt(barrier / math.pi) * math.exp(-barrier))
    H = np.array([[2.0, 0.5], [0.5, 0.1]])
    H = H @ H
    assert level_crossing_rate(H, H, learning_rate=eta, batch_size=B)[1] == pytest.approx(B * 0.05**2 / eta)
    assert math.isnan(level_crossing_rate(np.eye(2), np.diag([1.0, 0.0]), learning_rate=1, batch_size=1)[0])


def test_the_basin_has_the_covariance_of_lyapunovs_equation():
    rng = np.random.default_rng(0)
    A, F = rng.standard_normal((2, 4, 4))
    C, H = A @ A.T, F @ F.T + 0.1 * np.eye(4)
    sigma = basin_covariance(C, H)
    assert np.allclose(H @ sigma + sigma @ H, C)
    silent = np.diag([1.0, 0.0])
    assert np.allclose(basin_covariance(silent, silent), np.diag([0.5, 0.0]))
    assert np.allclose(positive_part(np.diag([-2.0, 1.0])), np.diag([2.0, 1.0]))


def test_rare_exits_of_an_ornstein_uhlenbeck_basin_come_at_the_level_crossing_rate():
    # One-dimensional logistic model in disguise: frozen ±1 noise, curvature 1, many steps per relaxation.
    noise = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(2000, 1)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    basin = LocalDynamics(zero, noise, zero, one, {})
    eta, r = 0.01, 0.2
    runs = simulate_box_escape(
        basin, learning_rate=eta, batch_size=1, half_width=r, replicas=150, sampling="with_replacement",
        max_steps=100_000, rng=0,
    )  # fmt: skip
    rate = escape_rate(runs)
    # Seen once a step the wall stands 0.58 η further; the next order in D/ΔL adds 1/(exponent) or so.
    wall = r + SHIFT * eta
    slow = {"learning_rate": eta, "batch_size": 1, "half_width": wall}
    predicted, exponent = level_crossing_rate([[1.0]], [[1.0]], **slow)
    assert 4 < exponent < 5
    assert float(rate.low) < predicted * (1 - 1 / (2 * exponent)) < float(rate.high)
    found = variation(runs.steps)
    # Exponential times, here at last, after about one relaxation time 1/η h in which nobody can leave.
    assert found.low < 1 - 1 / (eta * float(runs.steps.mean())) < found.high
