"""Degenerate valleys in many dimensions: λ_i(x) as arrays of coefficients, random or read from a loss.

L(x, y) = ½ Σ_i λ_i(x) y_i² + ½ ε λ̄₀ Σ_j x_j² with λ_i(x) = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴), N_S sharp
variables y and N_F flat ones x. A hundred symbols are slow to differentiate and to compile; arrays are not.
Flatness is F_i = λ_i^{−1/2}, F = (Π F_i)^{1/N_S}, and F̂ = Π F_i^{γ_i} with γ_i = Δ_i/ΣΔ_i, Δ_i = Δ_S λ_i(0)².

Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 5, 6, 15, 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from theory.landscape import Landscape, Parameter, exact


@dataclass(frozen=True, eq=False)
class WideValley:
    """Coefficients of a degenerate valley, and what follows from them at points.

    Made by :func:`coefficients`. Points are arrays of shape (..., N_F); results have shape (..., N_S),
    (..., N_F) or (...).

    Parameters
    ----------
    constant : ndarray, shape (N_S,)
        λ_i0.
    quadratic, quartic : ndarray, shape (N_S, N_F)
        a_ij and b_ij.
    lift : float
        ε λ̄₀, the curvature along the valley's floor.
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
        return flatness(self.curvatures(x))

    def weighted_flatness(self, x: np.ndarray) -> np.ndarray:
        """F̂(x), shape (...) (PRL 16)."""
        return flatness(self.curvatures(x), self.weights)

    def log_flatness_gradient(self, x: np.ndarray) -> np.ndarray:
        """∇ ln F̂(x), shape (..., N_F)."""
        inverse = self.weights / self.curvatures(x)
        return -np.einsum("...i,...ij->...j", inverse, self.slopes(x)) / 2

    def averaged_drift(
        self, x: np.ndarray, *, delta_s: float, learning_rate: float = 0.0, frozen: bool = False
    ) -> np.ndarray:
        """Drift of x when y is averaged out under random shifts: −ε λ̄₀ x − ½ Σ_i s_i ∇λ_i.

        Parameters
        ----------
        x : ndarray, shape (..., N_F)
        delta_s : float
            Δ_S.
        learning_rate : float
            η of the map, for which s_i = ⟨y_i²⟩ = Δ_S λ_i/(1 − ηλ_i/2); 0 is continuous time.
        frozen : bool
            s_i ∇λ_i with λ_i² taken at x = 0, which makes the sum −2 (ΣΔ_i) ∇ ln F̂ (behind PRL 16).

        Returns
        -------
        ndarray, shape (..., N_F)
            To leading order in Δ_S.
        """
        x = np.asarray(x, float)
        if frozen:
            strength = delta_s * np.sum(self.constant**2)
            return -self.lift * x + strength * self.log_flatness_gradient(x)
        curvatures = self.curvatures(x)
        variances = delta_s * curvatures / (1 - learning_rate * curvatures / 2)
        return -self.lift * x - np.einsum("...i,...ij->...j", variances, self.slopes(x)) / 2


def flatness(curvatures: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Π λ_i^{−w_i/2}: F with equal weights, F̂ with γ.

    Parameters
    ----------
    curvatures : ndarray, shape (..., N_S)
    weights : ndarray, shape (N_S,), optional
        Summing to one; default 1/N_S.

    Returns
    -------
    ndarray, shape (...)
    """
    curvatures = np.asarray(curvatures, float)
    if weights is None:
        weights = np.full(curvatures.shape[-1], 1.0 / curvatures.shape[-1])
    return np.exp(-(np.log(curvatures) @ weights) / 2)


def random_valley(
    n_sharp: int = 5,
    n_flat: int = 100,
    *,
    epsilon: Parameter = 1e-3,
    depth: float = 0.5,
    rng: int | np.random.SeedSequence | np.random.Generator | None = 0,
) -> Landscape:
    """A degenerate valley with random coefficients, sharp at the origin and flatter around it.

    λ_i(x) = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴) with λ_i0 = 8 t, a_ij = −(2 λ̄₀/Σ_k λ_k0²) λ_i0 u and
    b_ij = a_ij² N_F/(4 · depth · λ_i0) · v, where all t, u and 1/v are independent and uniform on [½, 3/2].

    The published high-dimensional figures do not give their coefficients. These are chosen so that
    one flat and one sharp variable have the λ₀ = 8, λ₁ = −2 of the published two-dimensional
    example on average; that −ε λ̄₀/Σ_i a_ij λ_i0, the noise Δ_S at which x_j leaves the origin, is spread
    around ε/2 whatever the dimensions; and that λ_i falls to about (1 − depth) λ_i0 at its flattest point,
    where x_j² is about depth · Σ_k λ_k0²/(λ̄₀ N_F). Further out every λ_i grows like x⁴.

    Parameters
    ----------
    n_sharp, n_flat : int
        N_S and N_F.
    epsilon : number or sympy expression
        ε.
    depth : float
        Between 0 and 2/3, so that every λ_i stays positive.
    rng : int, SeedSequence, Generator or None
        The default is a fixed seed: a landscape should be the same at every call.

    Returns
    -------
    Landscape
        Variables x1 … x{N_F} and y1 … y{N_S} (x and y where there is one), the y in ``fast``. Coefficients
        have six decimals.

    Raises
    ------
    ValueError
        If a size is below one, ε < 0 or ``depth`` is out of range.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 5 and Figs. 2a, 3 (N_S = 5, N_F = 100).
    """
    if n_sharp < 1 or n_flat < 1:
        raise ValueError(f"n_sharp={n_sharp} and n_flat={n_flat} must be at least 1")
    if not 0 < depth < 2 / 3:
        raise ValueError(f"depth={depth:g} must lie between 0 and 2/3: λ would not be positive")
    lift = exact(epsilon, "epsilon")
    if lift.is_negative:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    generator = np.random.default_rng(rng)
    constant = np.round(8.0 * generator.uniform(0.5, 1.5, n_sharp), 6)
    scale = 2 * constant.mean() / np.sum(constant**2) * constant[:, None]
    quadratic = np.round(-scale * generator.uniform(0.5, 1.5, (n_sharp, n_flat)), 6)
    share = generator.uniform(0.5, 1.5, (n_sharp, n_flat)) * depth / n_flat
    quartic = np.round(quadratic**2 / (4 * share * constant[:, None]), 6)
    flat = _symbols("x", n_flat)
    sharp = _symbols("y", n_sharp)
    curvatures = [
        sp.Add(
            exact(constant[i]),
            *(
                exact(a) * x**2 + exact(b) * x**4
                for a, b, x in zip(quadratic[i], quartic[i], flat, strict=True)
            ),
        )
        for i in range(n_sharp)
    ]
    floor = lift * exact(round(float(constant.mean()), 9)) / 2
    loss = sp.Add(
        *(c * y**2 / 2 for c, y in zip(curvatures, sharp, strict=True)), *(floor * x**2 for x in flat)
    )
    return Landscape(
        loss, (*flat, *sharp), fast=sharp, name=f"random degenerate valley, {n_sharp} sharp and {n_flat} flat"
    )


def _symbols(letter: str, count: int) -> tuple[sp.Symbol, ...]:
    names = [letter] if count == 1 else [f"{letter}{k + 1}" for k in range(count)]
    return tuple(sp.Symbol(name, real=True) for name in names)


@lru_cache(maxsize=16)
def coefficients(landscape: Landscape) -> WideValley:
    """The coefficients of a valley, read from its loss.

    Parameters
    ----------
    landscape : Landscape
        L = ½ Σ_i λ_i(x) y_i² + ½ c Σ_j x_j² with λ_i = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴), variables in the
        order x1, …, y1, …, the y in ``fast``; numbers only.

    Returns
    -------
    WideValley

    Raises
    ------
    ValueError
        If the loss is not of this form, or some λ_i is not positive everywhere.
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
