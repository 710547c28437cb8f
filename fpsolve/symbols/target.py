"""Target sets: sympy conditions as signed functions that are positive inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from fpsolve.symbols.functions import numpy_function

#: A condition, or a signed function of one array per variable, positive inside.
Target: TypeAlias = sp.Basic | Callable[..., np.ndarray]


def signed_function(condition: sp.Basic, variables: Sequence[sp.Symbol]) -> sp.Expr:
    """A function g(θ) that is positive exactly where a condition holds, and zero on its boundary.

    Parameters
    ----------
    condition : sympy condition
        An inequality (half-space, ball, …), or And, Or, Not of such (boxes, unions, complements).
    variables : sequence of Symbol
        The symbols it may use.

    Returns
    -------
    sympy.Expr
        Left side minus right side of a lower bound, the reverse of an upper bound; the minimum for And, the
        maximum for Or, the negative for Not. A ValueError if the condition is no inequality, is always true
        or false, or uses other symbols.
    """
    if condition in (sp.true, sp.false, True, False):
        raise ValueError(f"the target is always {bool(condition)}; give a condition such as x > 0")
    strangers = sorted(map(str, getattr(condition, "free_symbols", set()) - set(variables)))
    if strangers:
        raise ValueError(
            f"the target uses {', '.join(strangers)}; the process has {', '.join(map(str, variables))}"
        )
    if isinstance(condition, (sp.StrictGreaterThan, sp.GreaterThan, sp.StrictLessThan, sp.LessThan)):
        return condition.gts - condition.lts
    if isinstance(condition, sp.And):
        return sp.Min(*(signed_function(part, variables) for part in condition.args))
    if isinstance(condition, sp.Or):
        return sp.Max(*(signed_function(part, variables) for part in condition.args))
    if isinstance(condition, sp.Not):
        return -signed_function(condition.args[0], variables)
    kind = "an equation" if isinstance(condition, Relational) else f"a {type(condition).__name__}"
    raise ValueError(f"the target must be an inequality or And, Or, Not of inequalities, not {kind}")


def inequalities(condition: sp.Basic) -> tuple[sp.Basic, list[Relational]]:
    """A target in negation normal form, and its inequalities in the order in which kernels number them."""
    normal = sp.to_nnf(condition, simplify=False)
    return normal, sorted(normal.atoms(Relational), key=sp.default_sort_key)


def target_edges(condition: sp.Basic, variable: sp.Symbol) -> tuple[float, ...]:
    """Points where a target of one variable may begin or end, in ascending order.

    They are the real roots of its inequalities; none if one of them is no polynomial.
    """
    roots: set[float] = set()
    for atom in condition.atoms(Relational):
        difference = atom.lhs - atom.rhs
        if not difference.is_polynomial(variable):
            return ()
        values = np.roots([float(c) for c in sp.Poly(difference, variable).all_coeffs()])
        roots |= {float(v.real) for v in values if abs(v.imag) <= 1e-9 * max(1.0, abs(v))}
    return tuple(sorted(roots))


def target_function(condition: Target, variables: Sequence[sp.Symbol]) -> Callable[..., np.ndarray]:
    """The signed function of a target as a NumPy function of one array per variable.

    Parameters
    ----------
    condition : sympy condition or callable
        A callable is taken as the signed function itself, positive inside.
    variables : sequence of Symbol
        Order of the arrays.

    Returns
    -------
    callable
        Fails as :func:`signed_function`.
    """
    if callable(condition) and not isinstance(condition, sp.Basic):
        return condition
    return numpy_function(signed_function(condition, variables), variables)
