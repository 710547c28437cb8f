"""Enclosures of a formula over boxes, by interval arithmetic on many boxes at once.

An enclosure holds every value that the formula takes in the box. Rounding is outwards. A formula that has no
value anywhere in a box, such as log x for x < 0, gives NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
import sympy as sp
from sympy.core.relational import GreaterThan, LessThan, Relational, StrictGreaterThan, StrictLessThan

from theory.evaluate import lambdified
from theory.magnitudes import Interval, balanced, enclosed_by_size, has_exponentials

#: Bounds of exponentials below this are lost to underflow.
SMALL = 1e-280


def enclosed(
    expressions: Sequence[sp.Expr],
    variables: Sequence[sp.Symbol],
    low: np.ndarray,
    high: np.ndarray,
    *,
    signs: bool = False,
) -> Interval:
    """Bounds of n expressions over k boxes: ``low``, ``high`` of shape (k, N) give two arrays (k, n).

    With ``signs`` a bound that underflows is the smallest float of its sign, not zero. Both then say of a
    quotient such as e^(−x²)/(1 + e^(−x²)) that it does not vanish far out.
    A function that has no rule here is a NotImplementedError.
    """
    known: dict[sp.Basic, Interval] = {v: (low[:, i], high[:, i]) for i, v in enumerate(variables)}
    shape = low.shape[0]
    expressions = [balanced(sp.sympify(e, strict=True)) for e in expressions]
    with np.errstate(all="ignore"):
        pairs = [_enclosed(e, known) for e in expressions]
    bounds = [np.stack([np.broadcast_to(p[end], shape) for p in pairs], axis=1) for end in (0, 1)]
    for k, expression in enumerate(expressions):
        _sharpen(expression, variables, (low, high), (bounds[0][:, k], bounds[1][:, k]), signs)
    return bounds[0], bounds[1]


def _sharpen(
    expression: sp.Basic, variables: Sequence[sp.Symbol], box: Interval, bounds: Interval, signs: bool
) -> None:
    """Narrows, in place, bounds of a formula with exponentials that overflowed or underflowed."""
    low, high = bounds
    lost = ~(np.isfinite(low) & np.isfinite(high)) | (np.maximum(np.abs(low), np.abs(high)) < SMALL)
    if not lost.any() or not has_exponentials(expression):
        return
    known = {v: (box[0][lost, i], box[1][lost, i]) for i, v in enumerate(variables)}
    shape = (int(lost.sum()),)

    def plain(node: sp.Basic) -> Interval:
        a, b = _enclosed(node, known)
        return np.broadcast_to(a, shape), np.broadcast_to(b, shape)

    with np.errstate(all="ignore"):
        a, b = enclosed_by_size(expression, plain, signs)
        low[lost], high[lost] = np.fmax(low[lost], a), np.fmin(high[lost], b)


def far_out(expression: sp.Expr, x: sp.Symbol) -> Callable[[np.ndarray], np.ndarray]:
    """A formula of one variable, also where its exponentials overflow; values beyond floats are ±1e300."""
    plain = lambdified(expression, (x,))

    def function(points: np.ndarray) -> np.ndarray:
        values = plain(points)
        lost = ~np.isfinite(values)
        if lost.any():
            places = points[lost][:, None]
            low, high = (
                np.clip(end[:, 0], -1e300, 1e300) for end in enclosed([expression], (x,), places, places)
            )
            values[lost] = np.where(low * high >= 0, low / 2 + high / 2, values[lost])
        return values

    return function


def _enclosed(node: sp.Basic, known: dict[sp.Basic, Interval]) -> Interval:
    """The enclosure of a node; each node of the formula is worked out once."""
    if node not in known:
        if node.is_number:
            value = np.array(float(node))
            known[node] = (value, value) if node.is_Integer else _outwards(value, value)
        elif isinstance(node, sp.Piecewise):
            known[node] = _piecewise(node, known)
        else:
            rule = next((rule for kind, rule in _RULES.items() if isinstance(node, kind)), None)
            if rule is None:
                raise NotImplementedError(f"no enclosure of {type(node).__name__}")
            known[node] = rule(node, *(_enclosed(a, known) for a in node.args))
    return known[node]


def _outwards(low: np.ndarray, high: np.ndarray) -> Interval:
    """The bounds rounded outwards."""
    return np.nextafter(low, -np.inf), np.nextafter(high, np.inf)


def _sum(_: sp.Basic, *parts: Interval) -> Interval:
    return reduce(_plus, parts)


def _plus(a: Interval, b: Interval) -> Interval:
    low, high = a[0] + b[0], a[1] + b[1]
    unknown = ~np.isnan(a[0]) & ~np.isnan(b[0])  # inf - inf may be anything
    low = np.where(np.isnan(low) & unknown, -np.inf, low)
    return _outwards(low, np.where(np.isnan(high) & unknown, np.inf, high))


def _product(_: sp.Basic, *parts: Interval) -> Interval:
    return reduce(_times, parts)


def _times(a: Interval, b: Interval) -> Interval:
    products = np.stack(np.broadcast_arrays(a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]))
    empty = np.isnan(a[0] + a[1] + b[0] + b[1]) & (np.isnan(a[0]) | np.isnan(b[0]))
    products = np.where(np.isnan(products), 0.0, products)  # 0 · inf at a closed end is 0
    low, high = products.min(axis=0), products.max(axis=0)
    return _outwards(np.where(empty, np.nan, low), np.where(empty, np.nan, high))


def _power(node: sp.Basic, base: Interval, exponent: Interval) -> Interval:
    low, high = base
    n = node.args[1]
    if n.is_Integer and n > 0:
        ends = low ** int(n), high ** int(n)
        if n % 2:
            return _outwards(*ends)
        top = np.maximum(*ends)
        return _outwards(np.where(low * high < 0, 0.0, np.minimum(*ends)), top)
    if n.is_Integer:
        return _reciprocal(_power(node.args[0] ** (-n), base, exponent) if n != -1 else base)
    if n.is_number:
        power = float(n)
        # Odd roots of negative numbers are complex in sympy: the base must not be negative.
        empty = high < 0
        ends = np.maximum(low, 0.0) ** power, high**power
        return _outwards(*(np.where(empty, np.nan, f(*ends)) for f in (np.minimum, np.maximum)))
    logarithm = _monotone(np.log)(node, (np.where(high < 0, np.nan, np.maximum(low, 0.0)), high))
    return _monotone(np.exp)(node, _times(logarithm, exponent))


def _reciprocal(base: Interval) -> Interval:
    low, high = base
    crosses = (low < 0) & (high > 0)
    ends = 1.0 / np.where(low == 0, 0.0, low), 1.0 / np.where(high == 0, -0.0, high)
    return _outwards(np.where(crosses, -np.inf, ends[1]), np.where(crosses, np.inf, ends[0]))


def _monotone(function: Callable, low: float = -np.inf, high: float = np.inf) -> Callable[..., Interval]:
    """The rule of a growing function with values in [low, high]; NaN outside its domain."""

    def rule(_: sp.Basic, argument: Interval) -> Interval:
        a, b = function(argument[0]), function(argument[1])
        a = np.where(np.isnan(a) & ~np.isnan(b), low, a)
        a, b = (np.where(np.isfinite(v), v * (1 - 4e-16 * np.sign(v) * s), v) for v, s in ((a, 1), (b, -1)))
        a, b = _outwards(a, b)
        return np.maximum(a, low), np.minimum(b, high)

    return rule


def _wave(function: Callable, peak: float) -> Callable[..., Interval]:
    """The rule of sin or cos, with a maximum at ``peak`` and every 2π."""
    turn = 2 * np.pi

    def rule(_: sp.Basic, argument: Interval) -> Interval:
        low, high = argument
        ends = function(low), function(high)
        low, high = (v + s * 1e-15 * np.abs(v) for v, s in ((low, -1), (high, 1)))
        wide = ~(high - low < turn)
        top, bottom = (
            wide | (np.floor((high - at) / turn) >= np.ceil((low - at) / turn)) for at in (peak, peak + np.pi)
        )
        a, b = _outwards(*_outwards(np.minimum(*ends), np.maximum(*ends)))
        return np.where(bottom, -1.0, np.maximum(a, -1.0)), np.where(top, 1.0, np.minimum(b, 1.0))

    return rule


_sine, _cosine = _wave(np.sin, np.pi / 2), _wave(np.cos, 0.0)


def _tangent(node: sp.Basic, argument: Interval) -> Interval:
    return _times(_sine(node, argument), _reciprocal(_cosine(node, argument)))


def _hyperbolic_cosine(_: sp.Basic, argument: Interval) -> Interval:
    low, high = _absolute(_, argument)
    return _monotone(np.cosh)(_, (low, high))


def _absolute(_: sp.Basic, argument: Interval) -> Interval:
    low, high = argument
    ends = np.abs(low), np.abs(high)
    return np.where((low < 0) & (high > 0), 0.0, np.minimum(*ends)), np.maximum(*ends)


def _sign(_: sp.Basic, argument: Interval) -> Interval:
    return np.where(argument[0] > 0, 1.0, -1.0), np.where(argument[1] < 0, -1.0, 1.0)


def _step(node: sp.Basic, argument: Interval, *_: Interval) -> Interval:
    low, high = _sign(node, argument)
    return (low + 1) / 2, (high + 1) / 2


def _peak(_: sp.Basic, argument: Interval, *__: Interval) -> Interval:
    """A delta function: no bound where its argument may vanish."""
    inside = (argument[0] <= 0) & (argument[1] >= 0)
    return np.where(inside, -np.inf, 0.0), np.where(inside, np.inf, 0.0)


def _extreme(choose: Callable) -> Callable[..., Interval]:
    return lambda _, *parts: (reduce(choose, [p[0] for p in parts]), reduce(choose, [p[1] for p in parts]))


def _arcus(function: Callable, growing: bool) -> Callable[..., Interval]:
    def rule(node: sp.Basic, argument: Interval) -> Interval:
        empty = (argument[1] < -1) | (argument[0] > 1)
        ends = [function(np.clip(end, -1, 1)) for end in (argument if growing else argument[::-1])]
        low, high = _outwards(*ends)
        return np.where(empty, np.nan, low), np.where(empty, np.nan, high)

    return rule


def _piecewise(node: sp.Piecewise, known: dict[sp.Basic, Interval]) -> Interval:
    """The hull of all branches that may be taken somewhere in the box."""
    low, high, open_ = np.array(np.inf), np.array(-np.inf), np.array(True)
    for branch, condition in node.args:
        may, must = _truth(condition, known)
        a, b = _enclosed(branch, known)
        use = open_ & may & ~np.isnan(a)
        low, high = np.where(use, np.minimum(low, a), low), np.where(use, np.maximum(high, b), high)
        open_ = open_ & ~must
    none = low > high
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def _truth(condition: sp.Basic, known: dict[sp.Basic, Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Whether a condition may hold somewhere in the box, and whether it holds everywhere."""
    if condition in (sp.true, sp.false):
        value = np.array(condition == sp.true)
        return value, value
    if isinstance(condition, sp.And | sp.Or):
        parts = [_truth(part, known) for part in condition.args]
        join = np.logical_and if isinstance(condition, sp.And) else np.logical_or
        return reduce(join, [p[0] for p in parts]), reduce(join, [p[1] for p in parts])
    if isinstance(condition, sp.Not):
        may, must = _truth(condition.args[0], known)
        return ~must, ~may
    if not isinstance(condition, Relational):
        raise NotImplementedError(f"no enclosure of the condition {condition}")
    low, high = _enclosed(condition.lhs - condition.rhs, known)
    tests: Mapping[type, tuple[np.ndarray, np.ndarray]] = {
        StrictLessThan: (low < 0, high < 0),
        LessThan: (low <= 0, high <= 0),
        StrictGreaterThan: (high > 0, low > 0),
        GreaterThan: (high >= 0, low >= 0),
        sp.Eq: ((low <= 0) & (high >= 0), (low == 0) & (high == 0)),
        sp.Ne: ((low != 0) | (high != 0), (low > 0) | (high < 0)),
    }
    return next(result for kind, result in tests.items() if isinstance(condition, kind))


_Z = sp.Symbol("z", real=True)
_ERF = lambdified(sp.erf(_Z), (_Z,))
_RULES: Mapping[type, Callable[..., Interval]] = {
    sp.Add: _sum,
    sp.Mul: _product,
    sp.Pow: _power,
    sp.exp: _monotone(np.exp, low=0.0),
    sp.log: _monotone(np.log),
    sp.sinh: _monotone(np.sinh),
    sp.tanh: _monotone(np.tanh, -1.0, 1.0),
    sp.atan: _monotone(np.arctan),
    sp.erf: _monotone(_ERF, -1.0, 1.0),
    sp.asin: _arcus(np.arcsin, True),
    sp.acos: _arcus(np.arccos, False),
    sp.cosh: _hyperbolic_cosine,
    sp.cos: _cosine,
    sp.sin: _sine,
    sp.tan: _tangent,
    sp.Abs: _absolute,
    sp.sign: _sign,
    sp.Heaviside: _step,
    sp.DiracDelta: _peak,
    sp.Max: _extreme(np.maximum),
    sp.Min: _extreme(np.minimum),
}
