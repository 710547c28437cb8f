"""The slow process that elimination leaves: density, effective loss and moments, in symbols and numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import sympy as sp

from theory.evaluate import lambdified
from theory.langevin import Diffusion, Langevin

#: Of the elimination, see :mod:`theory.valley.elimination`.
Order: TypeAlias = Literal[0, 1, 2]
#: Ratios of fast to slow scales above this are outside the expansion's range.
VALID_BELOW = 0.1


@dataclass(frozen=True)
class Reduced:
    """The slow process dX = b dt + √(2d) dW left when the fast variables are eliminated.

    Attributes
    ----------
    process : Langevin
        Where it comes from.
    order : int
        0, 1 or 2, see :mod:`theory.valley.elimination`.
    drift, diffusion : sympy.Expr
        b(x) and d(x); for several slow variables a column and a square Matrix. For a landscape b = −⟨∂_x L⟩
        at lowest order.
    conditional_variance : tuple of sympy.Expr
        s_i(x) = ⟨y_i²⟩ at fixed x, lowest order: Δ/λ for constant noise, Δ_S λ for D = Δ_S H².
    """

    process: Langevin
    slow: tuple[sp.Symbol, ...]
    fast: tuple[sp.Symbol, ...]
    order: int
    drift: sp.Expr
    diffusion: sp.Expr
    conditional_variance: tuple[sp.Expr, ...]

    @property
    def slow_variable(self) -> sp.Symbol:
        """The only slow variable; an error if there are several."""
        if len(self.slow) != 1:
            raise NotImplementedError(f"closed forms need one slow variable, here {self.slow}")
        return self.slow[0]

    @property
    def slow_process(self) -> Diffusion:
        """The reduced process, for any solver: densities, paths, first-passage times of x alone."""
        size = len(self.slow)
        drift, diffusion = sp.Matrix([self.drift]), sp.Matrix([self.diffusion])
        name = f"{self.process.name}, reduced to {', '.join(map(str, self.slow))} (order {self.order})"
        return Diffusion(drift.reshape(size, 1), diffusion.reshape(size, size), self.slow, name)

    @property
    def floor(self) -> dict[sp.Symbol, sp.Integer]:
        """The substitution y = 0."""
        return dict.fromkeys(self.fast, sp.Integer(0))

    @cached_property
    def curvatures(self) -> tuple[sp.Expr, ...]:
        """λ_i(x) = ∂²L/∂y_i² on the floor."""
        return tuple(sp.diff(self.process.landscape.loss, y, 2).subs(self.floor) for y in self.fast)

    @cached_property
    def flatness(self) -> sp.Expr:
        """F(x) = Π_i λ_i(x)^{−1/(2 N_S)} (PRL 6)."""
        return sp.Mul(*self.curvatures) ** sp.Rational(-1, 2 * len(self.fast))

    @cached_property
    def noise_strength(self) -> sp.Expr:
        """Δ(x): D_yy on the floor, averaged over the fast variables."""
        D = self.process.diffusion
        index = [self.process.variables.index(y) for y in self.fast]
        return sp.factor(sum(D[i, i].subs(self.floor) for i in index) / sp.Integer(len(index)))

    @property
    def anisotropy(self) -> sp.Expr:
        """κ(x) = Δ(x)/d(x) (PRL, below Eq. 12)."""
        return self.noise_strength / self.diffusion

    @cached_property
    def log_density(self) -> sp.Expr:
        """ln p(x) up to a constant: ∫ b/d dx, minus ln d except at order 0."""
        x = self.slow_variable
        integrand = self.drift / self.diffusion
        if self.diffusion.has(x):
            u = sp.Dummy("u", real=True)
            primitive: sp.Expr = sp.Integral(integrand.subs(x, u), (u, 0, x))
        else:
            primitive = sp.integrate(sp.expand(self.drift), x) / self.diffusion
        return primitive if self.order == 0 else primitive - sp.log(self.diffusion)

    @cached_property
    def effective_loss(self) -> sp.Expr:
        """L_eff on the floor: −Δ(x) ln P(x, y=0) up to Δ(x) × constant (PRL 12–14)."""
        conditional = sum(sp.log(1 / s) for s in self.conditional_variance) / sp.Integer(2)
        return -self.noise_strength * (self.log_density + conditional)

    @cached_property
    def regularisation(self) -> sp.Expr:
        """L_SGD(x) = L_eff(x, 0) − L(x, 0) (PRL 13; order 0 is its printed form)."""
        return self.effective_loss - self.process.landscape.loss.subs(self.floor)

    @cached_property
    def validity(self) -> dict[str, sp.Expr]:
        """Ratios that must be ≪ 1: ``timescale`` τ_y/τ_x and ``noise`` s λ'²/λ² (S14, S47–S48)."""
        x = self.slow_variable
        loss = self.process.landscape.loss
        widths = zip(self.fast, map(sp.sqrt, self.conditional_variance), strict=True)
        bending = sp.diff(loss, x, 2).subs(dict(widths))
        slowest = self.curvatures[0] if len(self.fast) == 1 else sp.Min(*self.curvatures)
        pairs = zip(self.curvatures, self.conditional_variance, strict=True)
        noise = [s * sp.diff(c, x) ** 2 / c**2 for c, s in pairs]
        return {
            "timescale": sp.Abs(bending) / slowest,
            "noise": noise[0] if len(noise) == 1 else sp.Max(*noise),
        }

    def effective_loss_at(self, points: np.ndarray, *, zero_at: float = 0.0) -> np.ndarray:
        """L_eff on the floor in numbers, zero at ``zero_at``: −Δ(x) [ln P(x, 0) − ln P(zero_at, 0)].

        Where Δ depends on x, the constant in ln P changes the shape of L_eff and moves its minimum, which is
        therefore not the mode of p(x) (see PRL 13). Parameters without values and a reduced diffusion that
        is not positive in between are ValueErrors.
        """
        points = np.asarray(points, float)
        self._check_numeric()
        ends = np.append(points.ravel(), zero_at)
        grid, log = self._log_density_on(np.unique([*np.linspace(ends.min(), ends.max(), 2001), *ends]))
        log = log - 0.5 * sum(np.log(self._numeric(s)(grid)) for s in self.conditional_variance)
        at = np.searchsorted(grid, points)
        return -self._numeric(self.noise_strength)(points) * (log[at] - log[np.searchsorted(grid, zero_at)])

    def density(self, points: np.ndarray) -> np.ndarray:
        """p(x) at the given points, normalised on the whole line.

        Warns if the expansion is used outside its range (a ratio of :attr:`validity` above 0.1
        where the density is).
        """
        grid, p = self._checked_table()
        log = np.interp(np.asarray(points, float), grid, np.log(np.maximum(p, 1e-300)), left=-700, right=-700)
        return np.exp(log)

    def moments(self) -> dict[str, float]:
        """⟨x²⟩, std(|x|), the mode and ⟨y_i²⟩ of the reduced density."""
        grid, p = self._checked_table()
        weight = p * np.gradient(grid)
        weight /= weight.sum()
        absolute = np.abs(grid)
        x = str(self.slow_variable)
        numbers = {
            f"<{x}^2>": float(weight @ grid**2),
            f"std(|{x}|)": float(np.sqrt(max(weight @ absolute**2 - (weight @ absolute) ** 2, 0.0))),
            f"mode |{x}|": float(absolute[np.argmax(p)]),
        }
        for y, s in zip(self.fast, self.conditional_variance, strict=True):
            numbers[f"<{y}^2>"] = float(weight @ self._numeric(s)(grid))
        return numbers

    @property
    def support(self) -> tuple[float, float]:
        """Where p(x) is above 1e-16 of its maximum."""
        grid, p = self._tabulated
        inside = grid[p > 1e-16 * p.max()]
        return float(inside[0]), float(inside[-1])

    def _checked_table(self) -> tuple[np.ndarray, np.ndarray]:
        """The grid and p on it; a warning where the expansion is outside its range."""
        grid, p = self._tabulated
        bulk = grid[p > 1e-3 * p.max()]
        for name, ratio in self.validity.items():
            worst = float(np.max(self._numeric(ratio)(bulk)))
            if worst > VALID_BELOW:
                said = f"adiabatic elimination needs a small {name} ratio; here it reaches {worst:.2g}"
                warnings.warn(said, stacklevel=3)
        return grid, p

    def _check_numeric(self) -> None:
        symbols = (self.drift.free_symbols | self.diffusion.free_symbols) - {self.slow_variable}
        if symbols:
            raise ValueError(f"give values to the parameters {sorted(map(str, symbols))} first")

    def _numeric(self, expression: sp.Expr):
        return lambdified(expression, self.slow)

    @cached_property
    def _tabulated(self) -> tuple[np.ndarray, np.ndarray]:
        """A grid and p on it; the grid grows until the tails fall to 1e-17, then is refined."""
        self._check_numeric()
        low, high = -1.0, 1.0
        for _ in range(12):
            grid, log = self._log_density_on(np.linspace(low, high, 8001))
            inside = np.flatnonzero(log > log.max() - 40.0)
            ends = inside[0] == 0, inside[-1] == len(grid) - 1
            if not any(ends) or high - low > 1e3:
                break
            low, high = low * (1.5 if ends[0] else 1.0), high * (1.5 if ends[1] else 1.0)
        else:
            warnings.warn("the reduced density does not decay: it is not normalisable", stacklevel=3)
        inside = np.flatnonzero(log > log.max() - 40.0)
        first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(grid) - 1)
        grid, log = self._log_density_on(np.linspace(grid[first], grid[last], 20001))
        p = np.exp(log - log.max())
        return grid, p / np.trapezoid(p, grid)

    def _log_density_on(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln p on a grid; ∫ b/d by 3-point Gauss–Legendre in every interval."""
        b, d = self._numeric(self.drift), self._numeric(self.diffusion)
        with np.errstate(all="ignore"):
            floor = d(grid)
            if not (floor > 0).all():
                where = grid[~(floor > 0)][0]
                raise ValueError(f"the reduced diffusion is not positive at {self.slow_variable}={where:.3g}")
            nodes, weights = np.polynomial.legendre.leggauss(3)
            h = np.diff(grid)
            places = grid[:-1, None] + h[:, None] * (nodes + 1) / 2
            pieces = (b(places) / d(places)) @ weights * h / 2
        log = np.concatenate([[0.0], np.cumsum(pieces)])
        return grid, log if self.order == 0 else log - np.log(floor)
