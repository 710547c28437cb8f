"""Zeros of drifts whose search by cutting does not come to its end."""

import numpy as np
import pytest
import sympy as sp

from theory.starts import known_zeros

x, y = sp.symbols("x y", real=True)


@pytest.mark.parametrize("swirl", [-1, 1])
def test_far_out_where_fast_functions_have_no_digits_there_are_no_zeros(swirl):
    angle = sp.Rational(2, 5) * x + 1
    turn = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    D, slope = turn * sp.diag(1, sp.Rational(1, 8)) * turn.T, sp.Matrix([x, 2 * y])
    spread = sp.Matrix([sum(sp.diff(D[i, j], (x, y)[j]) for j in range(2)) for i in range(2)])
    drift = spread - D * slope + swirl * sp.Matrix([slope[1], -slope[0]])
    found = known_zeros(tuple(drift), (x, y))
    places = np.concatenate([found.simple, found.singular])
    # (D + swirl J) slope = spread bounds the slope
    assert 1 <= len(places) <= 5 and np.abs(places).max() < 10
    values = sp.lambdify((x, y), list(drift))(*places.T)
    assert np.abs(values).max() < 1e-10
