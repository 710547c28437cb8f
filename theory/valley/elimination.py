"""Adiabatic elimination of fast variables, with the Itô prefactor and to second order.

Near the floor y = 0 of a valley the fast variables relax at rates λ_i(x) while x drifts slowly.
With formal parameter t counting one power for the noise, for the floor's own loss V(x) = L(x, 0)
and for every pair of fast variables (y = √t z), the generator splits as 𝓛 = 𝓛₀ + t𝓛₁ + t²𝓛₂ + …
with 𝓛₀ = Σ_i (−λ_i z_i ∂_i + D_i ∂_i²). Averages ⟨·⟩ are over its stationary law z_i ~ N(0, D_i/λ_i).

* order 0, 1: drift ⟨b_x⟩ and diffusion ⟨D_xx⟩; order 0 leaves the Itô prefactor 1/d out of p(x), as
  Eq. 13 of the paper does, order 1 keeps it (supplement S26–S33).
* order 2: adds −⟨𝓛₁ 𝓛₀⁻¹(𝓛₁ − ⟨𝓛₁⟩)⟩, the slow noise from fluctuations of ∂_x L and its correlation
  with y through D_xy, which are of the same order as ⟨D_xx⟩.

Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 11–14; order 2 is the standard
averaging formula (Pavliotis, Stuart, *Multiscale Methods* (2008), ch. 11), not in that paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import sympy as sp

from theory.landscape import Landscape, Parameter, exact
from theory.langevin import Langevin
from theory.valley.reduced import Order, Reduced


def eliminate(process: Langevin, fast: str | Sequence[str] | None = None, *, order: Order = 2) -> Reduced:
    """Eliminate the fast variables of a valley.

    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 11–14 and supplement S14–S33 (orders 0
    and 1). At order 2, for D = Δ_S H², d = Δ_S[(ελ₀)² + ελ₀λ''s + ¾λ''²s²] + c Δ_S² λ λ'² with c = ¼ (5/4
    without cross terms) where order 1 has c = 1.

    Parameters
    ----------
    process : Langevin
        A landscape whose floor is y = 0 (∂_y L = 0 there) with diagonal curvature in y; parameters
        may be symbols. Without its cross terms (``process.without_cross_diffusion()``) the
        elimination leaves them out as well.
    fast : str or sequence of str, optional
        Names of the fast variables; default: the landscape's own.
    order : {0, 1, 2}
        0: the paper's form (no Itô prefactor), 1: with the prefactor, 2: with the averaged
        fluctuations; see the module.

    Returns
    -------
    Reduced
        Drift and diffusion as sympy expressions in the slow variables. A ValueError if the fast variables are
        unknown or y = 0 is not the floor of the valley. A NotImplementedError if the noise is not smooth in
        y, or the expansion has terms this order does not cover.
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order={order} must be 0, 1 or 2")
    return _eliminated(process, *_split(process, fast), order)


@lru_cache(maxsize=64)
def _eliminated(
    process: Langevin, slow: tuple[sp.Symbol, ...], quick: tuple[sp.Symbol, ...], order: Order
) -> Reduced:
    """The work of :func:`eliminate`; windows, referees and tables ask for the same reductions."""
    # The functions of x stay names until the end: shorter terms, and valleys of one form share the work.
    named, values = _with_named_functions(process, slow, quick)
    found = _expanded(named, slow, quick, order)
    if values:
        found = tuple(m.applyfunc(lambda e: e.subs(values).doit()) for m in found)
    drift, diffusion, variances = found
    if len(slow) == 1:
        drift, diffusion = _tidy(drift[0]), _tidy(diffusion[0])
    return Reduced(process, slow, quick, order, drift, diffusion, tuple(variances))


@lru_cache(maxsize=64)
def _expanded(
    process: Langevin, slow: tuple[sp.Symbol, ...], quick: tuple[sp.Symbol, ...], order: Order
) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """Drift, diffusion and the fast variables' variances, not tidied."""
    expansion = _Expansion(process, slow, quick)
    drift, diffusion = expansion.lowest_order()
    if order == 2:
        extra_drift, extra_diffusion = expansion.second_order()
        drift, diffusion = drift + extra_drift, diffusion + extra_diffusion
    return drift, diffusion, sp.Matrix(expansion.variances)


def _with_named_functions(
    process: Langevin, slow: tuple[sp.Symbol, ...], quick: tuple[sp.Symbol, ...]
) -> tuple[Langevin, dict[sp.Expr, sp.Expr]]:
    """The process with names for λ_i(x) and V(x), and what they are; itself where L has other terms."""
    loss, nowhere = process.landscape.loss, dict.fromkeys(quick, 0)
    floor, curvatures = loss.subs(nowhere), [sp.diff(loss, y, 2).subs(nowhere) for y in quick]
    rest = loss - floor - sum(c * y**2 for c, y in zip(curvatures, quick, strict=True)) / 2
    if not _is_zero(rest):
        return process, {}
    names = [sp.Function(f"curvature{i}", positive=True)(*slow) for i in range(len(quick))]
    below = sp.Function("floor", real=True)(*slow)
    named = sum(n * y**2 for n, y in zip(names, quick, strict=True)) / 2 + below
    landscape = Landscape(named, process.landscape.variables, process.landscape.fast)
    return replace(process, landscape=landscape), {**dict(zip(names, curvatures, strict=True)), below: floor}


def _split(process: Langevin, fast) -> tuple[tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]]:
    """Slow and fast symbols from names."""
    if not isinstance(process, Langevin):
        raise TypeError("adiabatic elimination needs a theory.Langevin system")
    names = [fast] if isinstance(fast, str) else [str(v) for v in (fast or process.landscape.fast)]
    known = dict(zip(process.names, process.variables, strict=True))
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(names) == len(known):
        raise ValueError(f"fast={names} must name some, not all, of the variables {list(known)}")
    quick = tuple(known[name] for name in names)
    return tuple(v for v in process.variables if v not in quick), quick


def _tidy(expression: sp.Expr) -> sp.Expr:
    """A common form for rational functions; anything else is left as it is."""
    try:
        return sp.factor(expression)
    except (sp.PolynomialError, NotImplementedError):
        return expression


class _Expansion:
    """The generator's coefficients as polynomials in z, order by order in t = τ²."""

    def __init__(self, process: Langevin, slow, fast) -> None:
        if process.noise.hessian_factor is not None:
            raise NotImplementedError(
                "D = strength |H| is not smooth at y = 0, where det H changes sign: no expansion in y"
            )
        self.slow, self.fast = slow, fast
        tau = sp.Dummy("tau", positive=True)
        floor = dict.fromkeys(fast, 0)
        for y in fast:
            if not _is_zero(sp.diff(process.landscape.loss, y).subs(floor)):
                raise ValueError(f"{y} = 0 is not the floor of the valley: ∂L/∂{y} does not vanish there")
        V = process.landscape.loss.subs(floor)
        counted = Langevin(
            replace(process.landscape, loss=process.landscape.loss + (tau**2 - 1) * V),
            process.noise.scaled(tau**2),
            process.cross_diffusion,
        )
        scale = {y: tau * y for y in fast}

        def by_order(expressions: list[sp.Expr], divide: int, orders: int) -> list[tuple[sp.Expr, ...]]:
            """The even powers τ⁰, τ², … of every expression(x, τz)/τ^divide; odd ones must vanish."""
            rows = []
            for expression in expressions:
                found = _taylor(expression.subs(scale, simultaneous=True), tau, 2 * orders - 1 + divide)
                if any(not _is_zero(c) for n, c in enumerate(found) if (n - divide) % 2 or n < divide):
                    raise NotImplementedError(
                        "the expansion in the fast variables has odd terms (y³, or constant D_xy); "
                        "only landscapes and noise even in y are covered"
                    )
                rows.append(found[divide::2])
            return list(zip(*rows, strict=True))

        b, D = counted.drift, counted.diffusion
        x, y = ([process.variables.index(v) for v in group] for group in (slow, fast))
        self.b_x, self.b_z = by_order([b[i] for i in x], 0, 3), by_order([b[i] for i in y], 1, 3)
        self.D_xx = [by_order([D[i, j] for j in x], 0, 4) for i in x]
        self.D_xz = [by_order([D[i, j] for j in y], 1, 3) for i in x]
        self.D_zz = [by_order([D[i, j] for j in y], 2, 2) for i in y]
        self.curvatures, self.variances = self._fast_law()
        if any(not _is_zero(e) for e in self.b_x[0]) or any(not _is_zero(e) for r in self.D_xz for e in r[0]):
            raise NotImplementedError("slow and fast variables are coupled at lowest order")

    def _fast_law(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
        """λ_i(x) and s_i(x) = D_i/λ_i of the fast process at fixed x."""
        floor = dict.fromkeys(self.fast, 0)
        curvatures, variances = [], []
        for i, y in enumerate(self.fast):
            force = self.b_z[0][i]
            curvature = -sp.diff(force, y)
            own = not curvature.has(*self.fast) and _is_zero(force + curvature * y)
            if not own or not _is_zero(force.subs(floor)):
                raise ValueError(
                    f"{y} has no curvature of its own: near the floor ∂L/∂{y} must be λ(x) {y} + higher "
                    "orders; choose coordinates in which the curvature is diagonal"
                )
            for j in range(len(self.fast)):
                if i != j and not _is_zero(self.D_zz[i][0][j]):
                    raise NotImplementedError("the fast variables' noise is correlated at lowest order")
            curvatures.append(curvature)
            variances.append(_tidy(self.D_zz[i][0][i] / curvature))
        return tuple(curvatures), tuple(variances)

    def average(self, expression: sp.Expr) -> sp.Expr:
        """⟨expression⟩ over z_i ~ N(0, s_i): ⟨z^{2m}⟩ = (2m−1)!! s^m."""
        total = sp.Integer(0)
        for powers, c in self._terms(expression).items():
            if all(n % 2 == 0 for n in powers):
                pairs = zip(powers, self.variances, strict=True)
                total += c * sp.Mul(*(sp.factorial2(n - 1) * s ** (n // 2) for n, s in pairs))
        return total

    def _terms(self, expression: sp.Expr) -> dict[tuple[int, ...], sp.Expr]:
        """Powers of z to coefficients in x."""
        # Split by hand: sp.Poly would build a domain for the coefficients in x, ten times slower.
        found: dict[tuple[int, ...], sp.Expr] = {}
        for term in sp.Add.make_args(sp.expand(expression)):
            c, rest = term.as_independent(*self.fast, as_Add=False)
            factors = rest.as_powers_dict()
            powers = tuple(int(factors.pop(z, 0)) for z in self.fast)
            if any(base.has(*self.fast) for base in factors):
                raise NotImplementedError(f"{rest} is not a polynomial in the fast variables")
            found[powers] = found.get(powers, sp.Integer(0)) + c
        return {powers: c for powers, c in found.items() if c != 0}

    def inverse(self, expression: sp.Expr) -> sp.Expr:
        """The mean-zero g with 𝓛₀ g = expression − ⟨expression⟩, highest powers first."""
        rest = self._terms(expression)
        solution: sp.Expr = sp.Integer(0)
        while rest:
            powers = max(rest, key=lambda p: (sum(p), p))
            c = rest.pop(powers)
            if sum(powers) == 0:
                continue  # what is left of the constant is the mean
            rate = sum(n * k for n, k in zip(powers, self.curvatures, strict=True))
            g = -c / rate
            solution += g * sp.Mul(*(z**n for z, n in zip(self.fast, powers, strict=True)))
            for i, n in enumerate(powers):
                if n >= 2:
                    lower = tuple(m - 2 * (j == i) for j, m in enumerate(powers))
                    rest[lower] = rest.get(lower, sp.Integer(0)) - g * self.D_zz[i][0][i] * n * (n - 1)
        return sp.expand(solution - self.average(solution))

    def lowest_order(self) -> tuple[sp.Matrix, sp.Matrix]:
        """⟨b_x⟩ and ⟨D_xx⟩."""
        size = range(len(self.slow))
        drift = [self.average(sum(self.b_x[k][a] for k in (1, 2))) for a in size]
        diffusion = [[self.average(sum(self.D_xx[a][k][c] for k in range(4))) for c in size] for a in size]
        return sp.Matrix(drift), sp.Matrix(diffusion)

    def second_order(self) -> tuple[sp.Matrix, sp.Matrix]:
        """Drift and diffusion of −⟨𝓛₁ 𝓛₀⁻¹(𝓛₁ − ⟨𝓛₁⟩)⟩."""
        n_slow, n_fast = range(len(self.slow)), range(len(self.fast))
        if any(self.D_xx[a][1][c].has(*self.fast) for a, c in product(n_slow, n_slow)):
            raise NotImplementedError("D_xx depends on y at first order: a reduction needs third derivatives")
        g = [self.inverse(self.b_x[1][a]) for a in n_slow]
        drift, diffusion = sp.zeros(len(self.slow), 1), sp.zeros(len(self.slow), len(self.slow))
        for a in n_slow:
            first = sum(self.b_x[1][c] * sp.diff(g[a], self.slow[c]) for c in n_slow)
            pairs = ((self.D_xx[c][1][e], self.slow[c], self.slow[e]) for c, e in product(n_slow, n_slow))
            first += sum(d * sp.diff(g[a], v, w) for d, v, w in pairs)
            for i, z in enumerate(self.fast):
                dg = sp.diff(g[a], z)
                first += self.b_z[1][i] * dg
                first += sum(self.D_zz[i][1][j] * sp.diff(dg, self.fast[j]) for j in n_fast)
                first += sum(2 * self.D_xz[c][1][i] * sp.diff(dg, self.slow[c]) for c in n_slow)
            drift[a] = -self.average(first)
            for c in n_slow:
                second = self.b_x[1][c] * g[a]
                second += sum(2 * self.D_xx[c][1][e] * sp.diff(g[a], self.slow[e]) for e in n_slow)
                second += sum(2 * self.D_xz[c][1][i] * sp.diff(g[a], z) for i, z in enumerate(self.fast))
                diffusion[a, c] = -self.average(second)
        return drift, (diffusion + diffusion.T) / 2


def _taylor(expression: sp.Expr, symbol: sp.Symbol, highest: int) -> list[sp.Expr]:
    """Taylor coefficients of ``symbol**0 … symbol**highest`` at zero."""
    expanded = sp.expand(expression)
    if expanded.is_polynomial(symbol):
        return [expanded.coeff(symbol, n) for n in range(highest + 1)]
    derivatives = [expression]
    for _ in range(highest):
        derivatives.append(sp.diff(derivatives[-1], symbol))
    return [sp.expand(d.subs(symbol, 0) / sp.factorial(n)) for n, d in enumerate(derivatives)]


def _is_zero(expression: sp.Expr) -> bool:
    """Zero after expansion, or after simplification where expansion is not enough."""
    expanded = sp.expand(expression)
    return expanded == 0 or sp.simplify(expanded) == 0


def effective_loss_constant_noise(landscape: Landscape, *, delta: Parameter, kappa: Parameter) -> sp.Expr:
    """L_eff(x, y) = L + Δ(1−κ) ln F(x) + (κ−1) L(x, 0) for D = diag(Δ/κ, Δ) (PRL 12, 14).

    Parameters
    ----------
    landscape : Landscape
        A valley with fast variables.
    delta, kappa : number or sympy expression
        Δ and κ = Δ/D_slow.

    Returns
    -------
    sympy.Expr
        In the landscape's variables; P(x, y) ∝ exp(−L_eff/Δ). κ > 1 favours flat solutions.
    """
    strength, ratio = exact(delta, "delta"), exact(kappa, "kappa")
    floor = dict.fromkeys(landscape.fast, 0)
    # Σ_i ln F_i = −½ Σ_i ln λ_i: the sum over fast variables, of which the paper has one.
    log_flatness = -sum(sp.log(sp.diff(landscape.loss, y, 2).subs(floor)) for y in landscape.fast) / 2
    return landscape.loss + strength * (1 - ratio) * log_flatness + (ratio - 1) * landscape.loss.subs(floor)
