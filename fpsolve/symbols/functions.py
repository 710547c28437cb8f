"""NumPy functions of sympy expressions, and the check of which expressions can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import sympy as sp

from theory.evaluate import Expressions, lambdified

_ALLOWED_FUNCTIONS: tuple[type, ...] = (
    sp.exp, sp.log, sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh, sp.asin, sp.acos, sp.atan, sp.erf,
    sp.Abs, sp.sign, sp.Heaviside, sp.Min, sp.Max,
    sp.Piecewise, sp.functions.elementary.piecewise.ExprCondPair,
    sp.Add, sp.Mul, sp.Pow, sp.Symbol, sp.Number, sp.NumberSymbol,
    sp.core.relational.Relational, sp.And, sp.Or, sp.Not,
    sp.logic.boolalg.BooleanTrue, sp.logic.boolalg.BooleanFalse,
)  # fmt: skip


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
        A ValueError if an expression has other free symbols, or a function outside the known ones.
    """
    entries = [expressions] if isinstance(expressions, sp.Basic) else list(expressions)
    check_expressions([sp.sympify(entry, strict=True) for entry in entries], variables)
    return lambdified(expressions, variables)


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
