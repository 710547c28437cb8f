"""Constants in formulas: their values in bounded arithmetic, found before sympy simplifies them exactly.

sympy evaluates constants exactly, which a short text such as ``exp(exp(exp(9)))`` makes endless. Here every
constant is a number of 60 digits beside its exact form, and the exact form is kept only while it is short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import mpmath
import sympy as sp

#: Sizes of constants: products with derivatives of a formula must stay floating-point numbers.
LARGEST, SMALLEST = mpmath.mpf(10) ** 300, mpmath.mpf(10) ** -300
#: Most bits of numerator and denominator of a number that stays exact.
MAX_BITS = 400
#: Most parts of an expression such as sqrt(2) + pi/3 that stays exact.
MAX_PARTS = 30
#: Most bits of a base, and largest denominator of an exponent, of roots that stay exact.
MAX_ROOT_BITS, MAX_ROOT = 64, 12

_TOO_LARGE = "is not a finite number, or beyond 1e300"
_TOO_SMALL = "is nearer to 0 than 1e-300; write 0"

_context = mpmath.MPContext()
_context.prec = 200
#: What cancels to below this share of its parts is zero.
_CANCELLED = _context.mpf(2) ** -150
_NUMBERS = {sp.pi: +_context.pi, sp.E: +_context.e}
_FUNCTIONS: dict[type, Callable] = {
    sp.exp: _context.exp, sp.log: _context.log, sp.sin: _context.sin, sp.cos: _context.cos,
    sp.tan: _context.tan, sp.atan: _context.atan, sp.sinh: _context.sinh, sp.cosh: _context.cosh,
    sp.tanh: _context.tanh, sp.Abs: abs,
}  # fmt: skip


class NotANumber(ValueError):
    """A constant that is not finite, not real, or beyond the sizes that are calculated with."""


@dataclass(frozen=True)
class Constant:
    """A number: in symbols, in 60 digits, and how many roots and functions are nested in its symbols."""

    symbols: sp.Expr
    value: mpmath.mpf
    depth: int = 0

    @classmethod
    def of(cls, expression: sp.Expr) -> Constant:
        """From an expression without free symbols, evaluated from its leaves."""
        if expression.is_Rational:
            return cls(expression, _in_range(_context.mpf(expression.p) / expression.q))
        if expression.is_Float:
            return cls(expression, _in_range(_context.make_mpf(expression._mpf_)))
        if expression in _NUMBERS:
            return cls(expression, _NUMBERS[expression])
        parts = [cls.of(part) for part in expression.args]
        if expression.func in (sp.Add, sp.Mul) and parts:
            found = parts[0]
            for part in parts[1:]:
                found = found + part if expression.func is sp.Add else found * part
            return found
        if expression.is_Pow:
            return parts[0] ** parts[1]
        if expression.func in _FUNCTIONS and len(parts) == 1:
            return parts[0].under(expression.func)
        raise NotANumber(_TOO_LARGE if expression.is_infinite else "is not a real number")

    def __neg__(self) -> Constant:
        return Constant(-self.symbols, -self.value, self.depth)

    def __abs__(self) -> Constant:
        return self.under(sp.Abs)

    def __add__(self, other: Constant) -> Constant:
        value = self.value + other.value
        if abs(value) <= _CANCELLED * max(abs(self.value), abs(other.value)):
            return Constant(sp.S.Zero, _context.mpf(0))
        return _short(value, max(self.depth, other.depth), lambda: self.symbols + other.symbols)

    def __sub__(self, other: Constant) -> Constant:
        return self + (-other)

    def __mul__(self, other: Constant) -> Constant:
        depth = max(self.depth, other.depth)
        return _short(self.value * other.value, depth, lambda: self.symbols * other.symbols)

    def __truediv__(self, other: Constant) -> Constant:
        if other.value == 0:
            raise NotANumber("is a division by zero")
        depth = max(self.depth, other.depth)
        return _short(self.value / other.value, depth, lambda: self.symbols / other.symbols)

    def __pow__(self, other: Constant) -> Constant:
        base, power = self.value, other.value
        whole = other.symbols.is_Integer
        if base == 0 and power < 0:
            raise NotANumber("is a division by zero")
        if base < 0 and not whole:
            raise NotANumber("is not a real number")
        if base != 0 and abs(_context.log(abs(base)) * power) > _context.log(LARGEST):
            raise NotANumber(_TOO_LARGE if (abs(base) > 1) == (power > 0) else _TOO_SMALL)
        depth = max(self.depth, other.depth) + (not whole)
        if not (other.symbols.is_Rational and self._has_short(other.symbols)):
            depth = 2
        return _short(base**power, depth, lambda: self.symbols**other.symbols)

    def _has_short(self, power: sp.Rational) -> bool:
        """Whether a rational power is worth its exact form."""
        bits = _bits(self.symbols) if self.symbols.is_Rational else MAX_ROOT_BITS
        if power.q == 1:
            return abs(power.p) * bits <= 10 * MAX_BITS
        return (
            self.symbols.is_Rational
            and bits <= MAX_ROOT_BITS
            and power.q <= MAX_ROOT
            and abs(power.p) <= MAX_BITS
        )

    def under(self, function: type) -> Constant:
        """A function of this number."""
        if function is sp.sqrt:
            return self ** Constant(sp.S.Half, _context.mpf(0.5))
        argument = self.value
        if function is sp.log and argument <= 0:
            raise NotANumber("is not a real number" if argument else _TOO_LARGE)
        if function in (sp.exp, sp.sinh, sp.cosh) and abs(argument) > _context.log(LARGEST):
            raise NotANumber(_TOO_SMALL if function is sp.exp and argument < 0 else _TOO_LARGE)
        value = _FUNCTIONS[function](argument)
        if function in (sp.sin, sp.cos, sp.tan) and abs(value) <= _CANCELLED * abs(argument):
            value = _context.mpf(0)
        return _short(value, self.depth + 1, lambda: function(self.symbols))


def _short(value: mpmath.mpf, depth: int, exact: Callable[[], sp.Expr]) -> Constant:
    """A number in its exact form if that is short, else as a decimal fraction of 20 digits."""
    value = _in_range(value)
    if depth <= 1:
        symbols = exact()
        if symbols.is_infinite or symbols is sp.nan:
            raise NotANumber(_TOO_LARGE)
        if symbols.is_Rational and _bits(symbols) <= MAX_BITS:
            return Constant(symbols, _context.mpf(symbols.p) / symbols.q)
        parts = list(islice(sp.preorder_traversal(symbols), MAX_PARTS + 1))
        short = all(_bits(part) <= MAX_BITS for part in parts if part.is_Rational)
        if short and not symbols.is_Rational and len(parts) <= MAX_PARTS:
            return Constant(symbols, value, depth)
    return Constant(sp.Rational(_context.nstr(value, 20)), value)


def _in_range(value: mpmath.mpf) -> mpmath.mpf:
    """A value that floating-point numbers can hold together with its derivatives."""
    if not _context.isfinite(value) or abs(value) > LARGEST:
        raise NotANumber(_TOO_LARGE)
    if value != 0 and abs(value) < SMALLEST:
        raise NotANumber(_TOO_SMALL)
    return value


def _bits(symbols: sp.Expr) -> int:
    """Bits of a rational number; more than any limit for another one."""
    if not symbols.is_Rational:
        return 10**6
    return max(int(symbols.p).bit_length(), int(symbols.q).bit_length())
