"""Elimination for the SGD map: its limit, its coefficients against Gaussian moments, and the map itself."""

import numpy as np
import pytest
import sympy as sp

from fpsolve import simulate, simulate_escape
from theory import (
    Landscape,
    Langevin,
    adiabatic,
    degenerate_valley,
    phase_boundaries,
    random_shift,
    slow_passage,
)
from theory.valley.step_map import eliminate_map

VALLEY = degenerate_valley()
x, y = VALLEY.variables


def test_without_a_step_it_is_the_continuous_elimination():
    reduced = eliminate_map(VALLEY, delta_s=sp.Rational(1, 1000), learning_rate=0)
    continuous = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=sp.Rational(1, 1000))), order=2)
    for name in ("drift", "diffusion"):
        assert sp.simplify(getattr(reduced, name) - getattr(continuous, name)) == 0


@pytest.mark.parametrize("a", [0.05, 0.3, 0.8, 1.5])
def test_the_fluctuating_force_sums_up_to_the_formula(a):
    # f = −½λ'y² + λ'yμ with λ' = 1 and y ← (1 − a) y + aμ (units of ηλ = a, η = 1): Isserlis, term by term
    r, variance = 1 - a, 0.7
    s = a**2 * variance / (1 - r**2)

    def covariance(k):
        """⟨δf_0 δf_k⟩ from the joint Gaussian of (y_0, μ_0, y_k, μ_k)."""
        C = np.diag([s, variance, s, variance])
        C[0, 2] = C[2, 0] = r**k * s
        C[1, 2] = C[2, 1] = r ** (k - 1) * a * variance
        pair = lambda i, j, k, l: C[i, k] * C[j, l] + C[i, l] * C[j, k]  # noqa: E731  ⟨ij kl⟩ − ⟨ij⟩⟨kl⟩
        return pair(0, 0, 2, 2) / 4 - pair(0, 0, 2, 3) / 2 - pair(0, 1, 2, 2) / 2 + pair(0, 1, 2, 3)

    at_once = s**2 / 2 + s * variance
    total = at_once + 2 * sum(covariance(k) for k in range(1, 2000))
    growth = 1.5 * a + r**2 / (2 - a)
    assert 0.5 * total == pytest.approx(s**2 / (2 * a) * growth, rel=1e-12)


def test_the_place_of_the_map_is_that_of_its_own_elimination_and_not_that_of_the_equivalent_noise():
    eta, sigma = 0.04, 0.04
    paths = simulate(
        Langevin(VALLEY, random_shift(learning_rate=eta, sigma=sigma)), walkers=1024, time=3000, burn_in=1000,
        time_step=eta, start={"x": 0.8, "y": 0.0}, bins={"x": np.linspace(-1.5, 1.5, 1201)}, rng=0,
    )  # fmt: skip
    square = float(paths.second_moment.sel(variable="x", variable_2="x"))
    theory = eliminate_map(VALLEY, delta_s=eta * sigma, learning_rate=eta).moments()["<x^2>"]
    noise = phase_boundaries.equivalent_noise(VALLEY, sigma=sigma, learning_rate=eta)
    equivalent = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=noise)), order=2).moments()[
        "<x^2>"
    ]
    assert abs(square / theory - 1) < 0.003 < 0.007 < abs(square / equivalent - 1)


@pytest.mark.slow
def test_search_times_above_the_transition_are_those_of_the_map_and_not_of_continuous_time():
    eta = 0.04
    sigma = 1.07 * float(phase_boundaries.critical_sigma(VALLEY, learning_rate=eta))
    noise = float(phase_boundaries.equivalent_noise(VALLEY, sigma=sigma, learning_rate=eta))
    target = slow_passage.steady_state(VALLEY, delta_s=noise)
    process = Langevin(VALLEY, random_shift(learning_rate=eta, sigma=sigma))
    runs = simulate_escape(
        process, start={"x": 1.5, "y": 0.0}, target=x < sp.Float(target), walkers=1024, time_step=eta,
        max_time=4e4, rng=1, boundary="none",
    )  # fmt: skip
    mean = float(runs.escape_time.mean())
    error = float(runs.escape_time.std()) / 32
    reduced = {"start": 1.5, "target": target}
    of_the_map = slow_passage.search_time(VALLEY, delta_s=eta * sigma, learning_rate=eta, **reduced)
    continuous = slow_passage.search_time(VALLEY, delta_s=noise, **reduced)
    assert abs(mean - of_the_map) < 3 * error + 0.02 * mean
    assert continuous - mean > 5 * error


def test_what_it_cannot_eliminate_is_refused():
    with pytest.raises(ValueError, match="order 2 only"):
        slow_passage.search_time(VALLEY, delta_s=1e-3, start=1.5, order=1, learning_rate=0.04)
    z = sp.Symbol("z", real=True)
    wide = Landscape((2 + x**2) * y**2 / 2 + (3 + x**2) * z**2 / 2 + x**2 / 1000, (x, y, z), fast=(y, z))
    with pytest.raises(NotImplementedError, match="one slow and one fast"):
        eliminate_map(wide, delta_s=1e-3, learning_rate=0.1)
