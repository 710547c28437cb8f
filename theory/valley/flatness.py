"""Flatness of valleys with several sharp variables, and the losses that SGD adds to the floor.

For L = ½ Σ_i λ_i(x) y_i² + V(x) with N_S sharp variables y and N_F flat ones x: F_i = λ_i^{−1/2},
F = (Π F_i)^{1/N_S} and F̂ = Π F_i^{γ_i} with γ_i = Δ_i/ΣΔ_i, Δ_i = Δ_S λ_i(0)². Functions of a landscape give
sympy expressions. A hundred symbols are slow to differentiate and to compile; :class:`WideValley` has the
same for arrays of coefficients, λ_i(x) = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴) and V = ½ ε λ̄₀ Σ_j x_j².

Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 5, 6, 15, 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from theory.landscape import Landscape, Parameter, exact


def curvatures(landscape: Landscape) -> tuple[sp.Expr, ...]:
    """λ_i(x) = ∂²L/∂y_i² on the floor y = 0, one per sharp variable.

    A landscape without fast or without slow variables is a ValueError.
    """
    if not landscape.fast or not landscape.slow:
        raise ValueError("flatness needs a landscape with slow and fast variables: Landscape(..., fast=(y,))")
    floor = dict.fromkeys(landscape.fast, 0)
    return tuple(sp.diff(landscape.loss, y, 2).subs(floor) for y in landscape.fast)


def log_flatness(landscape: Landscape) -> sp.Expr:
    """ln F(x) = −(1/2N_S) Σ_i ln λ_i (PRL 6)."""
    found = curvatures(landscape)
    return -sum(map(sp.log, found), sp.Integer(0)) / (2 * len(found))


def noise_strengths(landscape: Landscape, *, delta_s: Parameter) -> tuple[sp.Expr, ...]:
    """Δ_i = Δ_S λ_i(0)², the noise along each sharp variable at the origin."""
    origin = dict.fromkeys(landscape.slow, 0)
    return tuple(exact(delta_s, "delta_s") * c.subs(origin) ** 2 for c in curvatures(landscape))


def log_weighted_flatness(landscape: Landscape) -> sp.Expr:
    """ln F̂(x) = Σ_i γ_i ln F_i with γ_i = Δ_i/ΣΔ_i (PRL 16), which does not depend on Δ_S."""
    strengths = noise_strengths(landscape, delta_s=1)
    pairs = zip(strengths, curvatures(landscape), strict=True)
    return -sum(d * sp.log(c) for d, c in pairs) / (2 * sp.Add(*strengths))


def flatness_loss(landscape: Landscape, *, delta_s: Parameter, kappa: Parameter) -> sp.Expr:
    """L_SGD,F(x) = Σ_i (Δ̄ − κΔ_i) ln F_i(x), the flatness-dependent part of the effective loss (PRL 15).

    For constant noise, Δ_i along y_i and Δ̄/κ along every x_j, −Δ̄ ln P = L_SGD,F + κV on the floor y = 0.
    """
    strengths, ratio = noise_strengths(landscape, delta_s=delta_s), exact(kappa, "kappa")
    mean = sp.Add(*strengths) / len(strengths)
    pairs = zip(strengths, curvatures(landscape), strict=True)
    return -sum((mean - ratio * d) * sp.log(c) / 2 for d, c in pairs)


def averaged_loss(landscape: Landscape, *, delta_s: Parameter, learning_rate: Parameter = 0) -> sp.Expr:
    """U(x) = V + ¼ Δ_S Σ_i λ_i², whose gradient x descends on average under random shifts.

    To leading order in Δ_S. With ⟨y_i²⟩ = Δ_S λ_i the averaged force ½ Σ_i ⟨y_i²⟩ ∇λ_i is itself a gradient,
    so x drifts to flat places in any number of variables; near x = 0 it is −(ΣΔ_i) ∇ ln F̂. At a
    learning rate η > 0 ⟨y_i²⟩ is Δ_S λ_i/(1 − ηλ_i/2) and ¼ λ_i² becomes −λ_i/η − (2/η²) ln(1 − ηλ_i/2); η =
    0 is continuous time. Not in the paper.
    """
    noise, rate = exact(delta_s, "delta_s"), exact(learning_rate, "learning_rate")
    floor = landscape.loss.subs(dict.fromkeys(landscape.fast, 0))
    if rate == 0:
        return floor + noise * sum(c**2 for c in curvatures(landscape)) / 4
    terms = (-c / rate - 2 * sp.log(1 - rate * c / 2) / rate**2 for c in curvatures(landscape))
    return floor + noise * sum(terms, sp.Integer(0))


@dataclass(frozen=True, eq=False)
class WideValley:
    """Coefficients of a degenerate valley, and what follows from them at points.

    Made by :func:`coefficients`. ``constant`` (N_S,) is λ_i0, ``quadratic`` and ``quartic`` (N_S, N_F) are
    a_ij and b_ij, ``lift`` is ε λ̄₀, the curvature along the floor. Points are arrays of shape (..., N_F);
    results have shape (..., N_S), (..., N_F) or (...).
    """

    constant: np.ndarray
    quadratic: np.ndarray
    quartic: np.ndarray
    lift: float

    @property
    def n_sharp(self) -> int:
        """N_S."""
        return self.quadratic.shape[0]

    @property
    def n_flat(self) -> int:
        """N_F."""
        return self.quadratic.shape[1]

    @property
    def weights(self) -> np.ndarray:
        """γ_i ∝ λ_i(0)², summing to one."""
        return self.constant**2 / np.sum(self.constant**2)

    def curvatures(self, x: np.ndarray) -> np.ndarray:
        """λ_i(x), shape (..., N_S)."""
        squares = np.asarray(x, float) ** 2
        return self.constant + squares @ self.quadratic.T + squares**2 @ self.quartic.T

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """∂_j λ_i(x), shape (..., N_S, N_F)."""
        x = np.asarray(x, float)[..., None, :]
        return x * (2 * self.quadratic + 4 * self.quartic * x**2)

    def loss(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """L(x, y), shape (...)."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        return (self.curvatures(x) * y**2).sum(-1) / 2 + self.lift * (x**2).sum(-1) / 2

    def flatness(self, x: np.ndarray) -> np.ndarray:
        """F(x), shape (...) (PRL 6)."""
        return flatness_from(self.curvatures(x))

    def weighted_flatness(self, x: np.ndarray) -> np.ndarray:
        """F̂(x), shape (...) (PRL 16)."""
        return flatness_from(self.curvatures(x), self.weights)

    def log_flatness_gradient(self, x: np.ndarray) -> np.ndarray:
        """∇ ln F̂(x), shape (..., N_F)."""
        inverse = self.weights / self.curvatures(x)
        return -np.einsum("...i,...ij->...j", inverse, self.slopes(x)) / 2

    def averaged_drift(
        self, x: np.ndarray, *, delta_s: float, learning_rate: float = 0.0, frozen: bool = False
    ) -> np.ndarray:
        """Drift of x (..., N_F) when y is averaged out under random shifts: −ε λ̄₀ x − ½ Σ_i s_i ∇λ_i.

        To leading order in Δ_S. s_i = ⟨y_i²⟩ = Δ_S λ_i/(1 − ηλ_i/2) for the map; η = 0 is continuous time.
        ``frozen`` takes s_i ∇λ_i with λ_i² at x = 0, which makes the sum −2 (ΣΔ_i) ∇ ln F̂ (behind PRL 16).
        """
        x = np.asarray(x, float)
        if frozen:
            strength = delta_s * np.sum(self.constant**2)
            return -self.lift * x + strength * self.log_flatness_gradient(x)
        curvatures = self.curvatures(x)
        variances = delta_s * curvatures / (1 - learning_rate * curvatures / 2)
        return -self.lift * x - np.einsum("...i,...ij->...j", variances, self.slopes(x)) / 2


def flatness_from(curvatures: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Π λ_i^{−w_i/2} of curvatures (..., N_S), shape (...): F with equal weights (default), F̂ with γ.

    ``weights`` (N_S,) sum to one.
    """
    curvatures = np.asarray(curvatures, float)
    if weights is None:
        weights = np.full(curvatures.shape[-1], 1.0 / curvatures.shape[-1])
    return np.exp(-(np.log(curvatures) @ weights) / 2)


@lru_cache(maxsize=16)
def coefficients(landscape: Landscape) -> WideValley:
    """The coefficients of a valley, read from its loss L = ½ Σ_i λ_i(x) y_i² + ½ c Σ_j x_j².

    λ_i = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴); the variables are x1, …, y1, … in this order, the y in
    ``fast``; numbers only. Another loss, and a λ_i that is not positive everywhere, are ValueErrors.
    """
    flat, sharp = landscape.slow, landscape.fast
    if landscape.parameters:
        raise ValueError(f"give values to the parameters {landscape.parameters} first (with_parameters)")
    if not flat or not sharp or landscape.variables != (*flat, *sharp):
        raise ValueError(
            f"the variables {', '.join(landscape.names)} must be flat ones followed by sharp ones (fast=)"
        )
    place = {v: k for k, v in enumerate(flat)} | {v: k for k, v in enumerate(sharp)}
    constant = np.zeros(len(sharp))
    powers = {2: np.zeros((len(sharp), len(flat))), 4: np.zeros((len(sharp), len(flat)))}
    floor = np.zeros(len(flat))
    for term in _terms(landscape.loss):
        number, rest = term.as_independent(*landscape.variables, as_Add=False)
        exponents = {v: rest.as_powers_dict()[v] for v in rest.free_symbols}
        y = [v for v in exponents if v in sharp]
        x = [v for v in exponents if v in flat]
        twice = 2 * float(number)
        if len(y) == 1 and not x and exponents[y[0]] == 2:
            constant[place[y[0]]] += twice
        elif len(y) == 1 and len(x) == 1 and exponents[y[0]] == 2 and exponents[x[0]] in powers:
            powers[int(exponents[x[0]])][place[y[0]], place[x[0]]] += twice
        elif not y and len(x) == 1 and exponents[x[0]] == 2:
            floor[place[x[0]]] += twice
        else:
            raise ValueError(
                f"the term {term} does not fit ½ Σ_i λ_i(x) y_i² + ½ c Σ_j x_j² with "
                "λ_i = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴)"
            )
    if not np.allclose(floor, floor[0], rtol=1e-12):
        raise ValueError("the curvature of the floor must be the same along every flat variable")
    _check_positive(constant, powers[2], powers[4], landscape)
    return WideValley(constant, powers[2], powers[4], float(floor[0]))


def _terms(expression: sp.Expr) -> Iterator[sp.Expr]:
    """The summands of a sum of products of sums; expanding all at once is slow for thousands."""
    for term in sp.Add.make_args(expression):
        sums = [factor for factor in sp.Mul.make_args(term) if factor.is_Add]
        if len(sums) == 1:
            rest = term / sums[0]
            yield from (rest * part for part in sums[0].args)
        else:
            yield from sp.Add.make_args(sp.expand(term))


def _check_positive(constant: np.ndarray, a: np.ndarray, b: np.ndarray, landscape: Landscape) -> None:
    """The lowest value of every λ_i is positive: each x_j contributes −a²/4b at best where a < 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lowest = constant - np.where(a < 0, a**2 / (4 * b), 0.0).sum(axis=1)
    for i in range(len(constant)):
        if (b[i] < 0).any() or not lowest[i] > 0:
            raise ValueError(
                f"the curvature along {landscape.fast[i]} must be positive everywhere; it falls to "
                f"{lowest[i]:.3g}"
            )
