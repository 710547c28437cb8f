"""Exact times see every feature, however narrow or far: against scipy with the places given, and closed forms."""

import math
import warnings

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from theory import Diffusion, Landscape, Langevin, isotropic
from theory.escape import exact_log_mean_time, exact_mean_time, exact_splitting_probability

R = sp.Rational
x = sp.Symbol("x", real=True)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def langevin(loss, D):
    return Langevin(Landscape(loss, (x,)), isotropic(D))


def referee(loss, D, start, target, low, points):
    """T by nested trapezoids on a grid that is graded towards the places given."""
    graded = np.concatenate([p + s * np.geomspace(1e-9, 40, 4000) for p in points for s in (-1, 1)])
    line = np.unique(
        np.concatenate([np.linspace(low, target, 40_001), graded[(graded > low) & (graded < target)]])
    )
    psi = sp.lambdify(x, loss / D, "numpy")(line)
    middle = sp.lambdify(x, loss / D, "numpy")((line[1:] + line[:-1]) / 2)

    def running(values, inner):
        return np.concatenate([[0], np.cumsum(np.diff(line) * (values[1:] + values[:-1] + 4 * inner) / 6)])

    inside = running(np.exp(-psi), np.exp(-middle)) / float(D)
    between = (inside[1:] + inside[:-1]) / 2
    outer = running(np.exp(psi) * inside, np.exp(middle) * between)
    return outer[-1] - np.interp(start, line, outer)


@pytest.mark.parametrize("width", [R(1, 10), R(1, 10**4), R(1, 10**6)])
@pytest.mark.parametrize("height", [8, -8])
def test_a_barrier_or_a_well_of_any_width_is_seen(width, height):
    place = R(123, 100)
    loss = x**2 / 2 + height * sp.exp(-((x - place) ** 2) / (2 * width**2))
    expected = referee(loss, 1, 0.0, 2.0, -9.0, [float(place)])
    assert exact_mean_time(langevin(loss, 1), 0, 2) == pytest.approx(expected, rel=1e-5)


def test_a_steep_step_without_a_critical_point_is_seen():
    jump = sp.tanh(10**7 * (x - 1))
    smooth, steep = (exact_mean_time(langevin(x**2 / 2 + s * jump, 1), 0, 2) for s in (0, 4))
    # Behind the step e^8 is added to all that was below it.
    below = quad(lambda u: math.exp(-u * u / 2), -12, 1)[0]
    beyond = quad(lambda u: math.exp(u * u / 2), 1, 2)[0]
    assert steep - smooth == pytest.approx((math.exp(8) - 1) * below * beyond, rel=1e-6)


def test_a_splitting_probability_sees_a_narrow_barrier():
    bump = 20 * sp.exp(-((x - R(123, 1000)) ** 2) * 10**12)
    process = langevin(bump + x**2 / 100, 1)
    wall = quad(lambda u: math.exp(20 * math.exp(-u * u)), -8, 8)[0] * 1e-6 * math.exp(0.123**2 / 100)
    parts = [quad(lambda u: math.exp(u * u / 100), *ends)[0] for ends in ((-1, 0.5), (-1, 1))]
    expected = (parts[0] + wall) / (parts[1] + wall)
    assert exact_splitting_probability(process, 0.5, target=1, other=-1) == pytest.approx(expected, rel=1e-6)


def test_a_deep_well_far_behind_the_start_counts():
    loss = x**2 / 2 - 40 * sp.exp(-((x + 5) ** 2) / 2)
    near = exact_log_mean_time(langevin(x**2 / 2, 1), 0, 1)
    expected = math.log(referee(loss, 1, 0.0, 1.0, -14.0, [-5.0]))
    assert exact_log_mean_time(langevin(loss, 1), 0, 1) == pytest.approx(expected, abs=1e-5)
    assert expected > near + 20
    drift = Diffusion([-sp.diff(loss, x)], [[1]], (x,))
    assert exact_log_mean_time(drift, 0, 1) == pytest.approx(expected, abs=1e-5)


def test_a_tilted_washboard_confines_upwards():
    process = langevin(2 * sp.cos(2 * sp.pi * x) - x, 1)
    free = exact_mean_time(process, 0, 3)
    assert free == pytest.approx(exact_mean_time(process, 0, 3, other_end=-100), rel=1e-10)
    # Every period takes as long as the one before.
    assert exact_mean_time(process, 0, 6) == pytest.approx(2 * free, rel=1e-9)


def test_small_noise_is_noise():
    tiny = sp.exp(-100)
    ou = Diffusion([-x * tiny], [[tiny]], (x,))
    assert exact_log_mean_time(ou, 0, 1) == pytest.approx(
        100 + exact_log_mean_time(langevin(x**2 / 2, 1), 0, 1), abs=1e-9
    )


def test_a_potential_of_too_many_noise_units_is_refused():
    with pytest.raises(ValueError, match="changes too much on the path"):
        exact_log_mean_time(langevin(x**4 / 4 - x**2 / 2, sp.exp(-100)), -1, 0)


@pytest.mark.parametrize("a", [R(1, 4), 1, 3])
def test_a_positive_process_ends_where_its_noise_vanishes(a):
    process = Diffusion([2 * (a - x)], [[x]], (x,))
    inner = lambda z: z ** (2 * float(a) - 1) * math.exp(-2 * z)  # noqa: E731
    outer = lambda y: math.exp(2 * y) / y ** (2 * float(a)) * quad(inner, 0, y)[0]  # noqa: E731
    assert exact_mean_time(process, 1, 3) == pytest.approx(quad(outer, 1, 3)[0], rel=1e-7)


def test_kinks_and_jumps_are_edges_of_panels():
    def time(loss, D, start, target):
        return exact_mean_time(langevin(loss, D), start, target)

    # L = |x|, D = 1/2 from 0 to 2: e^4 - 3 by hand.
    assert time(sp.Abs(x), R(1, 2), 0, 2) == pytest.approx(math.exp(4) - 3, rel=1e-9)
    jump = Diffusion([-x], [[sp.Piecewise((R(1, 2), x < 0), (R(1, 4), True))]], (x,))
    assert exact_mean_time(jump, 0, 1) == pytest.approx(8.69248782, rel=1e-8)
    smooth = x**2 / 2 + sp.erf(x)
    assert time(smooth, 1, 0, 2) == pytest.approx(34.36380467, rel=1e-8)
    # scipy knows erf; the referee's numpy does not.
    weight = sp.lambdify(x, smooth, "scipy")
    value = quad(lambda u: math.exp(weight(u)) * quad(lambda v: math.exp(-weight(v)), -9, u)[0], 0, 2)[0]
    assert value == pytest.approx(34.36380467, rel=1e-7)


@given(
    st.lists(st.tuples(st.integers(-30, 18), st.integers(-4, 4), st.integers(0, 8)), min_size=1, max_size=3)
)
@settings(max_examples=10, deadline=None)
def test_random_narrow_features_against_a_graded_grid(features):
    loss = x**2 / 2 + sum(R(a) * sp.exp(-((x - R(c, 10)) ** 2) * 4**w) for c, a, w in features)
    expected = referee(loss, 1, 0.0, 2.0, -9.0, [c / 10 for c, _, _ in features])
    assert exact_mean_time(langevin(loss, 1), 0, 2) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("D", "time"), [(0.25, 433.0336), (0.5, 27.52885), (1.0, 6.98407)])
def test_a_maximum_with_a_kink_has_its_time_by_adaptive_quadrature(D, time):
    loss = sp.Min((x + 1) ** 2, 2 * (x - 1) ** 2 + 0.5)
    written = sp.Piecewise((loss.args[0], loss.args[0] < loss.args[1]), (loss.args[1], True))
    for form in (loss, -sp.Max(*(-part for part in loss.args)), written):
        process = Langevin(Landscape(form, (x,)), isotropic(D))
        with np.errstate(all="raise"):
            assert exact_mean_time(process, -1, 1) == pytest.approx(time, rel=1e-6)
