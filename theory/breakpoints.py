"""Places where expressions jump or bend, found from their symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from theory.evaluate import lambdified

#: Points at which a switch that is no polynomial is looked at for changes of sign.
SAMPLES = 4001


class Switches(NamedTuple):
    """Expressions at whose zeros others may jump, or at least bend."""

    jumps: tuple[sp.Expr, ...]
    bends: tuple[sp.Expr, ...]


class Borders(NamedTuple):
    """Zeros of switches in a box: points by variable, and switches of several variables."""

    points: dict[str, tuple[float, ...]]
    oblique: tuple[sp.Expr, ...]


@lru_cache(maxsize=256)
def switches(expressions: tuple[sp.Basic, ...]) -> Switches:
    """Borders of Piecewise branches, arguments of sign and Heaviside; those of Abs, ties of Min and Max."""
    jumps: set[sp.Expr] = set()
    bends: set[sp.Expr] = set()
    for node in {node for entry in expressions for node in sp.preorder_traversal(entry)}:
        if isinstance(node, sp.Piecewise):
            conditions = {r for _, condition in node.args for r in condition.atoms(Relational)}
            jumps |= {relation.lhs - relation.rhs for relation in conditions}
        elif isinstance(node, sp.sign | sp.Heaviside):
            jumps.add(node.args[0])
        elif isinstance(node, sp.Abs):
            bends.add(node.args[0])
        elif isinstance(node, sp.Min | sp.Max):
            bends |= {a - b for a, b in combinations(node.args, 2)}
    ordered = (tuple(sorted(found, key=sp.default_sort_key)) for found in (jumps, bends))
    return Switches(*ordered)


@lru_cache(maxsize=256)
def denominators(expressions: tuple[sp.Basic, ...]) -> tuple[sp.Expr, ...]:
    """Expressions at whose zeros others may be infinite: bases of negative powers, arguments of log."""
    found: set[sp.Expr] = set()
    for node in {node for entry in expressions for node in sp.preorder_traversal(entry)}:
        if isinstance(node, sp.Pow) and node.exp.is_number and not node.exp.is_nonnegative:
            found.add(node.base)
        elif isinstance(node, sp.log):
            found.add(node.args[0])
        elif isinstance(node, sp.tan):
            found.add(sp.cos(node.args[0]))
    return tuple(sorted((f for f in found if f.free_symbols), key=sp.default_sort_key))


def borders(zero_at: Iterable[sp.Expr], box: Mapping[str, tuple[float, float]]) -> Borders:
    """The zeros of switches inside a box.

    A switch of one variable is zero at points; one of several variables is returned as it is. Zeros of a
    polynomial are all found. Those of another function are where it changes its sign on ``SAMPLES`` points.
    """
    points: dict[str, set[float]] = {name: set() for name in box}
    oblique = []
    for switch in zero_at:
        variables = sorted(switch.free_symbols, key=str)
        if len(variables) == 1:
            low, high = box[str(variables[0])]
            points[str(variables[0])] |= {
                v for v in _zeros(switch, variables[0], low, high) if low < v < high
            }
        elif variables:
            oblique.append(switch)
    return Borders({name: tuple(sorted(found)) for name, found in points.items()}, tuple(oblique))


def _zeros(switch: sp.Expr, variable: sp.Symbol, low: float, high: float) -> list[float]:
    """Real zeros of an expression of one variable."""
    if switch.is_polynomial(variable):
        roots = np.roots([float(c) for c in sp.Poly(switch, variable).all_coeffs()])
        return [float(r.real) for r in roots if abs(r.imag) <= 1e-7 * max(1.0, abs(r))]
    function = lambdified(switch, (variable,))
    line = np.linspace(low, high, SAMPLES)
    values = function(line)
    with np.errstate(invalid="ignore"):
        changes = np.flatnonzero(values[1:] * values[:-1] < 0)
    below, above, sign = line[changes], line[changes + 1], np.sign(values[changes])
    for _ in range(60):
        middle = (below + above) / 2
        same = np.sign(function(middle)) == sign
        below, above = np.where(same, middle, below), np.where(same, above, middle)
    return [*line[values == 0].tolist(), *((below + above) / 2).tolist()]
