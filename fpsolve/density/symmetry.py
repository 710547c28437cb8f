"""Mirror symmetries of a process, proved on its formulas. A mesh is halved by each of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import comb, prod

import sympy as sp

from theory.langevin import Langevin, Process

#: Above so many terms an expression is not expanded, and a symmetry that needs it is not used.
MAX_TERMS = 20_000
#: sin and cos of larger multiples of an angle are not expanded: they are polynomials of that degree.
MAX_MULTIPLE = 20


@lru_cache(maxsize=64)
def mirror_symmetries(process: Process) -> tuple[str, ...]:
    """Names of the variables v for which the law is provably unchanged by v → −v.

    b_v must be odd and the other drifts even in v, and D_ij must change sign when exactly one of i, j is v.
    Each identity is proved on the formula, for v > 0: the difference of both sides vanishes when it is
    expanded over one denominator. A symmetry that cannot be proved so is not used. Noise D = c|H| of an even
    loss needs no proof of its own: |H| is a function of the matrix H, which changes as D must.
    """
    return tuple(str(v) for v in process.variables if not v.is_nonnegative and _is_mirrored(process, v))


def _is_mirrored(process: Process, variable: sp.Symbol) -> bool:
    # Beyond v > 0 nothing needs a proof: v = 0 is one point. There Abs, Max and Piecewise lose their kinks.
    half = {v: sp.Dummy(str(v), real=True, positive=v == variable or None) for v in process.variables}
    image = {**half, variable: -half[variable]}
    if process.landscape is not None and not _are_equal(process.landscape.loss, image, half, 1):
        return False
    sign = [-1 if v == variable else 1 for v in process.variables]
    if not isinstance(process, Langevin):
        if not all(_are_equal(b, image, half, s) for b, s in zip(process.drift, sign, strict=True)):
            return False
    elif process.noise.hessian_factor is not None:
        return True
    D, size = process.diffusion, range(len(sign))
    return all(_are_equal(D[i, j], image, half, sign[i] * sign[j]) for i in size for j in size if i <= j)


def _are_equal(expression: sp.Expr, image: Mapping, half: Mapping, sign: int) -> bool:
    """Whether the expression at ``image`` is proved to be ``sign`` times the one at ``half``."""
    rationals = {f: sp.Rational(f) for f in expression.atoms(sp.Float)}
    exact = sp.sympify(expression, strict=True).xreplace(rationals)
    difference = exact.subs(image, simultaneous=True) - sign * exact.subs(half, simultaneous=True)
    if difference == 0:
        return True
    if _terms(difference) > MAX_TERMS:
        return False
    difference = sp.expand(difference)
    if difference == 0:
        return True
    numerator = sp.together(difference).as_numer_denom()[0]
    if _terms(numerator) > MAX_TERMS:
        return False
    waves = numerator.atoms(sp.sin, sp.cos, sp.tan)
    if all(abs(n) <= MAX_MULTIPLE for wave in waves for n in wave.atoms(sp.Integer)):
        numerator = sp.expand_trig(numerator)
    return sp.expand(numerator) == 0


def _terms(expression: sp.Basic) -> int:
    """An upper bound of the number of terms after expansion, of the expression or of anything in it."""
    parts = [_terms(part) for part in expression.args]
    if expression.is_Mul:
        return prod(parts)
    if expression.is_Pow and expression.exp.is_Integer:
        power = abs(int(expression.exp))
        return (
            comb(power + parts[0] - 1, power) if parts[0] < MAX_TERMS and power < MAX_TERMS else MAX_TERMS + 1
        )
    return max(1, sum(parts))
