"""Formulas with exponentials far out, against mpmath with 50 digits."""

import mpmath
import numpy as np
import pytest
import sympy as sp

from theory import Landscape
from theory.intervals import enclosed, far_out
from theory.zeros import all_zeros

x = sp.Symbol("x", real=True)
MIXTURE = -sp.log(sp.exp(-((x - 2) ** 2) / 2) / 3 + sp.exp(-((x + 2) ** 2) / 8))
FORMULAS = [
    MIXTURE,
    MIXTURE.diff(x),
    sp.exp(-x) + x,
    sp.log(1 + sp.exp(x)) - x / 2,
    sp.log(sp.cosh(3 * x)),
    sp.exp(-(x**2)) / (sp.exp(-(x**2)) + sp.exp(-2 * x)),
    (1 - sp.exp(-x)) ** 2 * 3 + x**2 / 10,
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_enclosures_hold_the_values_at_every_distance(formula):
    rng = np.random.default_rng(1)
    low = rng.choice([-1, 1], 200) * 10 ** rng.uniform(-3, 4, 200)
    high = low + np.abs(low) * 10 ** rng.uniform(-9, 0, 200)
    low_bound, high_bound = enclosed([formula], (x,), low[:, None], high[:, None])
    with mpmath.workdps(50):
        value = sp.lambdify(x, formula, "mpmath")
        for a, b, bottom, top in zip(low, high, low_bound[:, 0], high_bound[:, 0], strict=True):
            inside = value(mpmath.mpf(a) + (mpmath.mpf(b) - mpmath.mpf(a)) / 3)
            assert bottom <= inside <= top


@pytest.mark.parametrize("formula", [f.diff(x) for f in (MIXTURE, sp.log(1 + sp.exp(x)), sp.log(sp.cosh(x)))])
def test_slopes_far_out_are_those_of_many_digits(formula):
    places = np.array([-3e3, -800.0, -50.0, 50.0, 800.0, 3e3])
    with mpmath.workdps(4000):
        exact = [float(sp.lambdify(x, formula, "mpmath")(mpmath.mpf(p))) for p in places]
    assert far_out(formula, x)(places) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (-sp.log(sp.exp(-((x - 2) ** 2) / 2) + sp.exp(-((x + 2) ** 2) / 2)), [-1.99865135, 0, 1.99865135]),
        (sp.exp(-x) + x, [0]),
        (sp.exp(2 * x) - 6 * x, [np.log(3) / 2]),
        (sp.log(1 + sp.exp(x)) - x / 3, [-np.log(2)]),
        (sp.log(sp.cosh(x)) + x / 2, [-np.arctanh(0.5)]),
    ],
)
def test_zeros_of_fields_that_overflow_are_all_found_once(loss, where):
    found = all_zeros([-loss.diff(x)], (x,))
    assert found.complete and not len(found.singular)
    assert np.sort(found.simple.ravel()) == pytest.approx(where, abs=1e-8)
    assert len(Landscape(loss, (x,)).critical_points()) == len(where)
