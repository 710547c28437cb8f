"""One compilation of sympy expressions for all modules: shapes, names, cache."""

import numpy as np
import pytest
import sympy as sp

from theory.evaluate import lambdified, values_at

X, Y = sp.symbols("x y", real=True)


def test_shapes_follow_the_expressions_and_the_points():
    grid = np.linspace(0, 1, 5)
    assert lambdified(sp.Integer(3), (X,))(grid).tolist() == [3.0] * 5
    assert lambdified([X, 2], (X,))(0.5).tolist() == [0.5, 2.0]
    assert lambdified(sp.Matrix([[X, Y, 1]]), (X, Y))(grid[:, None], grid).shape == (1, 3, 5, 5)
    assert values_at(X + Y, (X, Y), np.ones((4, 2))).tolist() == [2.0] * 4
    assert values_at([X, Y, 0], (X, Y), np.ones((4, 2))).shape == (4, 3)
    assert values_at(sp.eye(2), (X, Y), np.empty((0, 2))).shape == (0, 2, 2)


@pytest.mark.parametrize("name", ["e", "maximum", "reduce", "exp", "numpy", "lambda"])
def test_a_variable_may_bear_the_name_of_a_function(name):
    v = sp.Symbol(name, real=True)
    assert lambdified(sp.Max(v, 0, 1 - v) * sp.exp(v) * sp.E, (v,))(2.0) == pytest.approx(2 * np.exp(3))


def test_the_same_expressions_are_compiled_once_and_complex_values_are_nan():
    assert lambdified([X**2, Y], (X, Y)) is lambdified((X**2, Y), [X, Y])
    assert np.isnan(lambdified(sp.sqrt(X), (X,))(-1.0)) and np.isnan(
        lambdified(sp.sqrt(X - 2) * sp.I, (X,))(3.0)
    )


def test_integers_beyond_those_of_numpy_are_floating_point_numbers():
    huge = sp.Integer(10) ** 300
    assert lambdified(sp.log(huge) * X, (X,))(2.0) == pytest.approx(600 * np.log(10), rel=1e-15)
    assert lambdified(sp.sqrt(X + huge), (X,))(1.0) == pytest.approx(1e150, rel=1e-15)
    third = sp.Rational(33333333333333333333, 10**20)
    assert lambdified(X * third + third, (X,))(3.0) == pytest.approx(4 / 3, rel=1e-15)
    assert lambdified(X**third, (X,))(8.0) == pytest.approx(2.0, rel=1e-15)
