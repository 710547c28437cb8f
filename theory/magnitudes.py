"""Enclosures of formulas whose exponentials overflow or underflow: every bound is a sign and a logarithm.

A number v is kept as s = sign v and l = ln |v|, so that e^(−x²) at x = 10²⁰ has a sign and a size. Far out, a
quotient of sums of exponentials has a sign there, where floats give 0/0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import NamedTuple, TypeAlias

import numpy as np
import sympy as sp

#: Lower and upper ends as floats, arrays of one shape.
Interval: TypeAlias = tuple[np.ndarray, np.ndarray]
#: Relative rounding of a logarithm.
_ROUNDING = 1e-15
#: The smallest float.
_LEAST = 5e-324


class _End(NamedTuple):
    """One end of many intervals: signs −1, 0 or 1, and ln |v|; NaN where there is no value."""

    sign: np.ndarray
    size: np.ndarray

    def key(self) -> np.ndarray:
        """Grows with the value among ends of one sign."""
        return np.where(self.sign == 0, 0.0, self.sign * self.size)

    def where(self, use: np.ndarray, other: _End) -> _End:
        return _End(np.where(use, self.sign, other.sign), np.where(use, self.size, other.size))

    def shifted(self, way: int, about: np.ndarray | float = 0.0) -> _End:
        """Rounded down (way −1) or up (1), where numbers with logarithm ``about`` went in."""
        finite = np.isfinite(self.size)
        slack = _ROUNDING * (1 + np.abs(self.size) + np.where(np.isfinite(about), np.abs(about), 0.0))
        return _End(self.sign, np.where(finite, self.size + way * self.sign * slack, self.size))


_Pair: TypeAlias = tuple[_End, _End]


def has_exponentials(expression: sp.Basic) -> bool:
    """Whether an exponential, or a power of an exponent with symbols, is in the formula."""
    return any(isinstance(n, sp.exp) or n.args[1].free_symbols for n in expression.atoms(sp.exp, sp.Pow))


@lru_cache(maxsize=512)
def balanced(expression: sp.Expr) -> sp.Expr:
    """The formula with every e^u/(e^u + e^w + …) written as 1/(1 + e^(w−u) + …), which has sharp bounds."""
    if not expression.has(sp.exp, sp.sinh, sp.cosh):
        return expression
    quotients = [n for n in expression.atoms(sp.Pow) if n.exp.is_number and n.exp.is_negative]
    if not any(n.base.has(sp.exp, sp.sinh, sp.cosh) for n in quotients):
        return expression
    plain = expression.replace(lambda n: isinstance(n, sp.sinh | sp.cosh), lambda n: n.rewrite(sp.exp))
    return plain.replace(lambda n: isinstance(n, sp.Mul), _quotient)


def _quotient(product: sp.Mul) -> sp.Expr:
    """A product of sums over sums of exponentials, each term divided by itself."""
    below = [
        p for p in product.args if isinstance(p, sp.Pow) and p.exp.is_Integer and p.exp < 0 and p.base.is_Add
    ]
    below = [p for p in below if p.base.has(sp.exp)]
    above = [p for p in product.args if p not in below]
    if not below or not any(p.has(sp.exp) for p in above):
        return product
    terms = []
    for term in sp.Add.make_args(sp.expand_mul(sp.Mul(*above))):
        exponent = sum((f.args[0] for f in sp.Mul.make_args(term) if isinstance(f, sp.exp)), sp.Integer(0))
        rest = sp.Mul(*(f for f in sp.Mul.make_args(term) if not isinstance(f, sp.exp)))
        share = exponent / -sum(p.exp for p in below)
        sums = [
            sp.Add(*(_shifted(t, share) for t in sp.Add.make_args(sp.expand_mul(p.base)))) ** p.exp
            for p in below
        ]
        terms.append(sp.Mul(rest, *sums))
    return sp.Add(*terms)


def _shifted(term: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    """term · e^(−exponent), with one exponential."""
    factors = sp.Mul.make_args(term)
    own = sum((f.args[0] for f in factors if isinstance(f, sp.exp)), sp.Integer(0))
    rest = sp.Mul(*(f for f in factors if not isinstance(f, sp.exp)))
    return rest * sp.exp(sp.expand(own - exponent))


def enclosed_by_size(expression: sp.Basic, plain: Callable[[sp.Basic], Interval], signs: bool) -> Interval:
    """The enclosure of a formula; ``plain`` gives that of any node in floats.

    With ``signs`` a bound that is not zero is never closer to it than the smallest float.
    """
    return _decoded(_pair(expression, {}, plain), signs)


def _pair(node: sp.Basic, known: dict[sp.Basic, _Pair], plain) -> _Pair:
    if node in known:
        return known[node]
    followed = isinstance(node, sp.exp) or any(isinstance(node, kind) for kind in _RULES)
    parts = [_pair(a, known, plain) for a in node.args] if followed else []
    if not has_exponentials(node) and not isinstance(node, sp.exp):
        pair = _encoded(plain(node))
    elif isinstance(node, sp.exp):
        pair = _exponential(_argument(node.args[0], parts[0], plain))
    else:
        rule = next((rule for kind, rule in _RULES.items() if isinstance(node, kind)), None)
        pair = rule(node, *parts) if rule else _encoded(plain(node))
    known[node] = pair
    return pair


def _argument(node: sp.Basic, pair: _Pair, plain) -> Interval:
    """The float enclosure of an exponent where there is one: it has more digits."""
    low, high = plain(node)
    wide = _decoded(pair)
    return np.where(np.isfinite(low), low, wide[0]), np.where(np.isfinite(high), high, wide[1])


def _encoded(ends: Interval) -> _Pair:
    low, high = (_End(np.sign(v), np.log(np.abs(v))) for v in ends)
    return low.shifted(-1), high.shifted(1)


def _decoded(pair: _Pair, signs: bool = False) -> Interval:
    low, high = pair[0].shifted(-1), pair[1].shifted(1)
    least = _LEAST if signs else 0.0
    low_value, high_value = (e.sign * np.maximum(np.exp(e.size), least) for e in (low, high))
    if signs:
        return low_value, high_value
    return np.nextafter(low_value, -np.inf), np.nextafter(high_value, np.inf)


def _constant(sign: float, size: float, like: _End) -> _End:
    return _End(np.full(like.sign.shape, sign), np.full(like.size.shape, size))


def _added(a: _End, b: _End, way: int) -> _End:
    """The sum, rounded; inf − inf is the infinity of the side."""
    first = a.where((a.size >= b.size) | np.isnan(a.sign), b)
    second = b.where((a.size >= b.size) | np.isnan(a.sign), a)
    gap = second.size - first.size  # ≤ 0
    same = first.sign * second.sign >= 0
    grown = first.size + np.where(same, np.log1p(np.exp(gap)), np.log(-np.expm1(gap)))
    size = np.where((second.sign == 0) | (gap == -np.inf) & np.isfinite(first.size), first.size, grown)
    sign = np.where(size == -np.inf, 0.0, first.sign)
    infinite = first.size == np.inf
    clash = infinite & (second.size == np.inf) & ~same
    sign = np.where(infinite, np.where(clash, way, first.sign), sign)
    none = np.isnan(a.sign) | np.isnan(b.sign)
    result = _End(np.where(none, np.nan, sign), np.where(infinite, np.inf, size))
    return result.shifted(way, first.size)


def _sum(_: sp.Basic, *parts: _Pair) -> _Pair:
    return reduce(lambda a, b: (_added(a[0], b[0], -1), _added(a[1], b[1], 1)), parts)


def _least(a: _End, b: _End) -> _End:
    return a.where((a.sign < b.sign) | ((a.sign == b.sign) & (a.key() <= b.key())) | np.isnan(a.sign), b)


def _most(a: _End, b: _End) -> _End:
    return a.where((a.sign > b.sign) | ((a.sign == b.sign) & (a.key() >= b.key())) | np.isnan(a.sign), b)


def _times(a: _Pair, b: _Pair) -> _Pair:
    products = []
    for p in a:
        for q in b:
            sign = p.sign * q.sign
            products.append(_End(sign, np.where(sign == 0, -np.inf, p.size + q.size)))
    about = np.maximum.reduce([np.where(np.isfinite(e.size), np.abs(e.size), 0.0) for e in (*a, *b)])
    return reduce(_least, products).shifted(-1, about), reduce(_most, products).shifted(1, about)


def _product(_: sp.Basic, *parts: _Pair) -> _Pair:
    return reduce(_times, parts)


def _reciprocal(base: _Pair) -> _Pair:
    low, high = base
    least, most = _constant(-1.0, np.inf, low), _constant(1.0, np.inf, low)
    open_ = low.sign * high.sign < 0
    new_low = least.where(open_ | (high.sign == 0), _End(high.sign, -high.size))
    new_high = most.where(open_ | (low.sign == 0), _End(low.sign, -low.size))
    return new_low, new_high


def _power(node: sp.Basic, base: _Pair, exponent: _Pair) -> _Pair:
    n = node.args[1]
    if not n.is_number:
        return _exponential(_decoded(_times(_logarithm(node, base), exponent)))
    if n.is_Integer:
        k = abs(int(n))
        low, high = base
        if k % 2 == 0:
            a, b = (_End(np.abs(e.sign), e.size) for e in base)
            zero = _constant(0.0, -np.inf, low)
            low, high = zero.where(low.sign * high.sign < 0, _least(a, b)), _most(a, b)
        raised = _End(low.sign, low.size * k).shifted(-1), _End(high.sign, high.size * k).shifted(1)
        return raised if n > 0 else _reciprocal(raised)
    power = abs(float(n))
    zero = _constant(0.0, -np.inf, base[0])
    ends = [
        zero.where(e.sign < 0, _End(e.sign, np.where(e.sign == 0, -np.inf, e.size * power))) for e in base
    ]
    none = base[1].sign < 0
    low, high = (_End(np.where(none, np.nan, e.sign), np.where(none, np.nan, e.size)) for e in ends)
    raised = low.shifted(-1), high.shifted(1)
    return raised if n > 0 else _reciprocal(raised)


def _exponential(argument: Interval) -> _Pair:
    low, high = (_End(np.where(v == -np.inf, 0.0, np.where(np.isnan(v), np.nan, 1.0)), v) for v in argument)
    return low.shifted(-1), high.shifted(1)


def _logarithm(_: sp.Basic, argument: _Pair) -> _Pair:
    low, high = argument
    a = np.where(low.sign <= 0, -np.inf, low.size)
    b = np.where(high.sign == 0, -np.inf, high.size)
    none = (high.sign < 0) | np.isnan(high.sign)
    return _encoded((np.where(none, np.nan, a), np.where(none, np.nan, b)))


_RULES: dict[type, Callable[..., _Pair]] = {
    sp.Add: _sum,
    sp.Mul: _product,
    sp.Pow: _power,
    sp.log: _logarithm,
}
