"""Kramers' time at flat minima, near flat ones, and over saddles of other wells: against exact times, or refused."""

import warnings

import pytest
import sympy as sp

from theory import Landscape, Langevin, isotropic
from theory.escape import exact_mean_time, kramers_time

R = sp.Rational
x, y = sp.symbols("x y", real=True)
THREE_WELLS = (x**2 - 1) ** 2 * (x - 4) ** 2 / 16 + x / 50


def langevin(loss, D, *variables):
    return Langevin(Landscape(loss, variables or (x,)), isotropic(D))


@pytest.mark.parametrize("n", [2, 4, 6, 8])
def test_the_power_of_a_flat_minimum_sets_the_prefactor(n):
    loss = x**n - R(n, n + 2) * x ** (n + 2)  # a minimum of power n at 0, tops at -1 and 1
    errors = []
    for ratio in (20, 40):
        process = langevin(loss, (1 - R(n, n + 2)) / ratio)
        # Half of the well behind a reflecting wall, half of the walkers return from the top.
        exact = 2 * exact_mean_time(process, 0, 1, other_end=0)
        errors.append(kramers_time(process, minimum=0, saddle=1, to="saddle") / exact - 1)
    assert abs(errors[1]) < abs(errors[0]) < 0.2


def test_a_curvature_that_the_noise_does_not_see_is_warned_of():
    loss = R(1, 4) * x**2 / 2 + 4 * x**4 - 4 * x**6
    top = max(p.point["x"] for p in Landscape(loss, (x,)).critical_points())
    with pytest.warns(UserWarning, match="bends within the width of the noise"):
        kramers_time(langevin(loss, R(1, 256)), minimum=0, saddle=top)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kramers_time(langevin(x**4 / 4 - x**2 / 2, R(1, 50)), minimum=-1, saddle=0)


def test_a_time_beyond_the_largest_float_is_said():
    with pytest.raises(OverflowError, match="above the largest float"):
        kramers_time(langevin(x**4 / 4 - x**2 / 2, R(1, 10**5)), minimum=-1, saddle=0)


def test_a_saddle_of_another_pair_of_wells_is_refused():
    for loss, variables in ((THREE_WELLS, (x,)), (THREE_WELLS + y**2 + x * y / 5, (x, y))):
        points = sorted(Landscape(loss, variables).critical_points(), key=lambda p: p.point["x"])
        left, first, middle, second, right = (p.point for p in points)
        process = langevin(loss, R(1, 20), *variables)
        for minimum, saddle in ((left, first), (middle, first), (middle, second), (right, second)):
            assert kramers_time(process, minimum=minimum, saddle=saddle) > 0
        for minimum, saddle in ((left, second), (right, first)):
            with pytest.raises(ValueError, match="does not lead out of the well"):
                kramers_time(process, minimum=minimum, saddle=saddle)


def test_flat_ends_across_the_path_are_counted_as_along_it():
    line = x**4 / 4 - x**2 / 2
    process = langevin(line + y**2 / 10**6 + y**4, R(1, 50), x, y)
    alone = kramers_time(langevin(line, R(1, 50)), minimum=-1, saddle=0)
    assert kramers_time(process, minimum=(-1, 0), saddle=(0, 0)) == pytest.approx(alone, rel=1e-9)
