"""NumPy functions of sympy expressions, and the check of which expressions can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

_ALLOWED_FUNCTIONS: tuple[type, ...] = (
    sp.exp,
    sp.log,
    sp.sin,
    sp.cos,
    sp.tan,
    sp.sinh,
    sp.cosh,
    sp.tanh,
    sp.asin,
    sp.acos,
    sp.atan,
    sp.erf,
    sp.Abs,
    sp.sign,
    sp.Heaviside,
    sp.Min,
    sp.Max,
    sp.Piecewise,
    sp.functions.elementary.piecewise.ExprCondPair,
    sp.Add,
    sp.Mul,
    sp.Pow,
    sp.Symbol,
    sp.Number,
    sp.NumberSymbol,
    sp.core.relational.Relational,
    sp.And,
    sp.Or,
    sp.Not,
    sp.logic.boolalg.BooleanTrue,
    sp.logic.boolalg.BooleanFalse,
)

Expressions: TypeAlias = sp.Expr | sp.MatrixBase | Sequence[sp.Expr]


def numpy_function(expressions: Expressions, variables: Sequence[sp.Symbol]) -> Callable[..., np.ndarray]:
    """Vectorised function of the variables, for one expression or an array of them.

    Common subexpressions are evaluated once for all entries.

    Parameters
    ----------
    expressions : Expr, sequence of k Expr, or Matrix of shape (n, m)
        Real expressions with no symbols but ``variables``.
    variables : sequence of Symbol
        The arguments of the returned function, in order.

    Returns
    -------
    callable
        Takes one array per variable, of shapes that broadcast to ``S``; returns float64 of shape
        ``S``, ``(k,) + S`` or ``(n, m) + S``. Constant entries are broadcast. Branches of a
        ``Piecewise`` that are not taken may be undefined; a value that is not real is NaN.

    Raises
    ------
    ValueError
        If an expression has other free symbols, or a function outside the known ones.
    """
    if isinstance(expressions, sp.MatrixBase):
        shape: tuple[int, ...] = expressions.shape
        entries = [sp.sympify(entry, strict=True) for entry in expressions]
    elif isinstance(expressions, sp.Basic):
        shape, entries = (), [expressions]
    else:
        entries = [sp.sympify(entry, strict=True) for entry in expressions]
        shape = (len(entries),)
    check_expressions(entries, variables)
    entries = [entry.replace(_overflows, sp.Expr.evalf) for entry in entries]
    function = sp.lambdify(list(variables), entries, modules=["scipy", "numpy"], cse=True)

    def evaluate(*values: ArrayLike) -> np.ndarray:
        arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
        points = np.broadcast_shapes(*(array.shape for array in arrays))
        result = np.empty((len(entries), *points))
        with np.errstate(all="ignore"):  # branches that are not taken may be undefined
            for index, value in enumerate(function(*arrays)):
                result[index] = _real(np.asarray(value))
        return result.reshape(shape + points)

    return evaluate


def check_expressions(entries: Iterable[sp.Basic], variables: Sequence[sp.Symbol]) -> None:
    """Raise ValueError unless the entries hold only known functions of the variables."""
    for entry in entries:
        unknown = sorted(map(str, entry.free_symbols - set(variables)))
        if unknown:
            raise ValueError(
                f"expression {entry} has no number for {', '.join(unknown)}; substitute its value "
                f"first (variables are {', '.join(map(str, variables))})"
            )
        for node in sp.preorder_traversal(entry):
            if not isinstance(node, _ALLOWED_FUNCTIONS):
                raise ValueError(
                    f"expression {entry} holds {type(node).__name__}, which cannot be compiled; "
                    "write it with exp, log, sqrt, powers, trigonometric or hyperbolic functions, "
                    "Abs, Min, Max, Piecewise"
                )


def _overflows(node: sp.Basic) -> bool:
    """A root of an integer above 2⁶³, such as of an exact decimal fraction: NumPy has no such integers."""
    if not (node.is_Pow and node.is_number):
        return False
    base = node.args[0]
    return bool(base.is_Rational) and max(abs(base.p), base.q) >= 2**63


def _real(value: np.ndarray) -> np.ndarray:
    """The real part where a value is real, NaN elsewhere."""
    if not np.iscomplexobj(value):
        return value
    return np.where(np.abs(value.imag) <= 1e-12 * np.abs(value.real), value.real, np.nan)
