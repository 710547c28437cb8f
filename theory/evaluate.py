"""Sympy expressions as NumPy functions, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

Expressions: TypeAlias = sp.Expr | sp.MatrixBase | Sequence[sp.Expr]


def lambdified(expressions: Expressions, variables: Sequence[sp.Symbol]) -> Callable[..., np.ndarray]:
    """NumPy function of the variables for one expression, a sequence of k of them or a matrix (n, m).

    The function takes one array per variable, of shapes that broadcast to S, and returns float64 of shape S,
    (k, *S) or (n, m, *S). Constants are broadcast. Common subexpressions are evaluated once. A value that is
    not real is NaN; a Dirac delta is 0 except at its place. Branches of a Piecewise that are not taken may be
    undefined. A variable may bear the name of anything in NumPy. A symbol that is no variable is a NameError
    when the function is called.
    """
    single = isinstance(expressions, sp.Basic) and not isinstance(expressions, sp.MatrixBase)
    entries = (expressions,) if single else tuple(expressions)
    shape = () if single else getattr(expressions, "shape", (len(entries),))
    return _compiled(tuple(sp.sympify(entry, strict=True) for entry in entries), shape, tuple(variables))


def values_at(expressions: Expressions, variables: Sequence[sp.Symbol], points: ArrayLike) -> np.ndarray:
    """The expressions at ``points`` (k, N): shape (k,), for a sequence (k, n), for a matrix (k, n, m)."""
    columns = np.asarray(points, float).T
    return np.ascontiguousarray(np.moveaxis(lambdified(expressions, variables)(*columns), -1, 0))


@lru_cache(maxsize=256)
def _compiled(
    entries: tuple[sp.Basic, ...], shape: tuple[int, ...], variables: tuple[sp.Symbol, ...]
) -> Callable[..., np.ndarray]:
    """The function of :func:`lambdified`; solvers ask for the same one many times."""
    printable = [entry.replace(_overflows, lambda n: sp.Float(n, 18)) for entry in entries]
    # Dummy names: an argument called ``maximum`` would hide the function of that name in the printed code.
    modules = [{"DiracDelta": _peak}, "scipy", "numpy"]
    function = sp.lambdify(list(variables), printable, modules=modules, cse=True, dummify=True)

    def evaluate(*values: ArrayLike) -> np.ndarray:
        arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
        points = np.broadcast_shapes(*(array.shape for array in arrays))
        result = np.empty((len(entries), *points))
        with np.errstate(all="ignore"):  # branches that are not taken may be undefined
            for index, value in enumerate(function(*arrays)):
                result[index] = _real(np.asarray(value))
        return result.reshape(shape + points)

    return evaluate


def _overflows(node: sp.Basic) -> bool:
    """An integer above 2⁶³, as in an exact decimal fraction: NumPy has no roots or logarithms of such."""
    return bool(node.is_Rational) and max(abs(node.p), node.q) >= 2**63


def _peak(value: ArrayLike, order: int = 0) -> np.ndarray:
    """A Dirac delta at numbers: zero, and infinite at its place."""
    return np.where(np.asarray(value) == 0, np.inf, 0.0)


def _real(value: np.ndarray) -> np.ndarray:
    """The real part where a value is real, NaN elsewhere."""
    if not np.iscomplexobj(value):
        return value
    return np.where(np.abs(value.imag) <= 1e-12 * np.abs(value.real), value.real, np.nan)
