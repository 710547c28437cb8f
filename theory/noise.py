"""Models of the gradient noise: rules that give D(θ) and its root for any landscape.

D is the diffusion coefficient of dθ = −∇L dt + √(2D) dW; gradient noise of covariance C has D = ηC/2 (Yang,
Tang, Tu 2023, supplement S10–S12; Xie, Sato, Sugiyama 2021, Eq. 2).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, TypeAlias

import numpy as np
import sympy as sp

from theory.landscape import Landscape, Parameter, exact, positive

#: A parameter, or None where another one stands for it.
Given: TypeAlias = Parameter | None


class Noise(ABC):
    """A model of the gradient noise: a rule that gives D(θ) and its root for any landscape.

    D is proportional to the first field of every model.
    """

    learning_rate: sp.Expr | None = None
    #: D is a multiple of the unit matrix, so that exp(−L/D) is the stationary density.
    is_isotropic: ClassVar[bool] = False

    @abstractmethod
    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        """D(θ), shape (N, N)."""

    def root(self, landscape: Landscape) -> sp.Matrix:
        """A matrix G(θ), shape (N, m), with G Gᵀ = 2 D."""
        return square_root(2 * self.diffusion(landscape))

    @property
    def hessian_factor(self) -> sp.Expr | None:
        """c where D = c|H|; else None. |H| has no expansion where det H changes sign."""
        return None

    @property
    def linear_strengths(self) -> tuple[sp.Expr, sp.Expr] | None:
        """(a, b) where √(2a) H + √(2b) I is a root of 2D; else None."""
        return None

    def scaled(self, factor: sp.Expr) -> Noise:
        """The same noise with D multiplied by ``factor`` (power counting in expansions)."""
        strength = fields(self)[0].name  # type: ignore[arg-type]
        return replace(self, **{strength: getattr(self, strength) * factor})  # type: ignore[type-var]

    def substituted(self, values: Mapping[sp.Symbol, sp.Expr]) -> Noise:
        """The same noise with symbols replaced."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v if v is None else v.subs(values) for k, v in own.items()})  # type: ignore[type-var]

    def __str__(self) -> str:
        kind = "-".join(re.findall("[A-Z][a-z]*", type(self).__name__)).lower()
        named = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]
        shown = [f"{k} = {v if getattr(v, 'free_symbols', True) else _decimal(v)}" for k, v in named]
        return f"{kind} noise, {', '.join(shown)}"


@dataclass(frozen=True)
class Isotropic(Noise):
    """D(θ) = D·I."""

    D: sp.Expr
    is_isotropic = True

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        return self.D * sp.eye(len(landscape.variables))

    @property
    def linear_strengths(self) -> tuple[sp.Expr, sp.Expr]:
        return sp.Integer(0), self.D


@dataclass(frozen=True)
class Anisotropic(Noise):
    """Constant D = diag(Δ/κ on slow, Δ on fast variables)."""

    delta: sp.Expr
    kappa: sp.Expr

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        if not landscape.fast or not landscape.slow:
            raise ValueError(
                "anisotropic(delta=, kappa=) needs a landscape with slow and fast variables: "
                "give Landscape(..., fast=(y,)), or a constant matrix anisotropic(D=...)"
            )
        slow = self.delta / self.kappa
        return sp.diag(*(self.delta if v in landscape.fast else slow for v in landscape.variables))


@dataclass(frozen=True)
class ConstantMatrix(Noise):
    """A constant symmetric D, given or measured."""

    matrix: sp.ImmutableMatrix
    learning_rate: sp.Expr | None = None

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        size = len(landscape.variables)
        if self.matrix.shape != (size, size):
            raise ValueError(f"D has shape {self.matrix.shape}; the landscape has {size} variables")
        return sp.Matrix(self.matrix)

    def root(self, landscape: Landscape) -> sp.Matrix:
        return square_root_or_factor(2 * self.diffusion(landscape))


@dataclass(frozen=True)
class RandomShift(Noise):
    """D(θ) = Δ_S H(θ)²."""

    delta_s: sp.Expr
    learning_rate: sp.Expr | None = None

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        H = landscape.hessian
        return self.delta_s * (H * H)

    def root(self, landscape: Landscape) -> sp.Matrix:
        return sp.sqrt(2 * self.delta_s) * landscape.hessian

    @property
    def linear_strengths(self) -> tuple[sp.Expr, sp.Expr]:
        return self.delta_s, sp.Integer(0)


@dataclass(frozen=True)
class HessianProportional(Noise):
    """D(θ) = strength·|H(θ)|, |H| = U|Λ|Uᵀ."""

    strength: sp.Expr
    learning_rate: sp.Expr | None = None

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        return self.strength * _absolute_matrix(landscape.hessian)

    @property
    def hessian_factor(self) -> sp.Expr:
        return self.strength


@dataclass(frozen=True)
class DataShift(Noise):
    """D(θ) = strength Σ_n vⁿ/n! (∂ⁿ∇L)(∂ⁿ∇L)ᵀ, n ≥ 1: every order of the noise of shifted data."""

    strength: sp.Expr
    variance: sp.Expr
    learning_rate: sp.Expr | None = None

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        variables, size = landscape.variables, len(landscape.variables)
        if not all(sp.sympify(g, strict=True).is_polynomial(*variables) for g in landscape.gradient):
            raise ValueError("data_shift needs a polynomial loss; random_shift is its lowest order")
        total = sp.zeros(size, size)
        # Derivatives along variables i ≤ j ≤ …, each reached once. Weight v^|n| / n! of the multi-index n.
        found: list[tuple[tuple[int, ...], sp.Matrix]] = [((), landscape.gradient)]
        for along, vector in found:  # grows until no derivative is left
            for i in range(max(along, default=0), size):
                slope = vector.diff(variables[i])
                if any(slope):
                    found.append(((*along, i), slope))
                    orders = [(*along, i).count(k) for k in range(size)]
                    weight = self.variance ** sum(orders) / sp.prod(map(sp.factorial, orders))
                    total += weight * slope * slope.T
        return (self.strength * total).applyfunc(sp.expand)


def _decimal(value: sp.Basic) -> str:
    """A number or matrix of numbers in few digits."""
    if isinstance(value, sp.MatrixBase):
        return str([[float(f"{float(v):.4g}") for v in row] for row in value.tolist()])
    return f"{float(value):.6g}"


def _absolute_matrix(H: sp.Matrix) -> sp.Matrix:
    """|H| = √(H²) for diagonal or 2×2 H."""
    if H.is_diagonal():
        return sp.diag(*(sp.Abs(entry) for entry in H.diagonal()))
    return _by_cayley_hamilton(H * H, sp.Abs(H.det()))


def square_root(S: sp.Matrix) -> sp.Matrix:
    """√S of a symmetric positive semidefinite matrix that is diagonal or 2×2."""
    if S.is_diagonal():
        return sp.diag(*(sp.sqrt(entry) for entry in S.diagonal()))
    return _by_cayley_hamilton(S, sp.sqrt(sp.Max(S.det(), 0)))


def square_root_or_factor(S: sp.Matrix) -> sp.Matrix:
    """√S; where S holds numbers only and is not diagonal, G with G Gᵀ = S from its eigenvectors."""
    if S.is_diagonal() or S.free_symbols:
        return square_root(S)
    values, vectors = np.linalg.eigh(np.array(S, float))
    return sp.Matrix(vectors * np.sqrt(np.clip(values, 0.0, None)))


def _by_cayley_hamilton(S: sp.Matrix, determinant: sp.Expr) -> sp.Matrix:
    """√S of a 2×2 matrix, with det √S given: (S + det √S)/tr √S."""
    if S.shape != (2, 2):
        raise NotImplementedError(
            "no closed form for the root of a non-diagonal matrix of this size; use root_values (numeric)"
        )
    trace = sp.sqrt(S.trace() + 2 * determinant)
    # The denominator vanishes only where the numerator does: 0/0 there must give 0.
    return (S + determinant * sp.eye(2)) / sp.Max(trace, sp.Float("1e-150"))


def isotropic(D: Parameter) -> Noise:
    """Isotropic noise D·I (gradient Langevin dynamics; ICLR 2021, Thm 3.1).

    Parameters
    ----------
    D : number or sympy expression
        Diffusion coefficient > 0, units loss (a temperature, since time is η × iterations). A number that is
        not positive and finite is a ValueError.

    Returns
    -------
    Noise
    """
    return Isotropic(positive(D, "D"))


def anisotropic(delta: Given = None, kappa: Given = None, *, D: Sequence | None = None) -> Noise:
    """Constant anisotropic noise: diag(Δ/κ on the slow, Δ on the fast variables), or any matrix.

    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 9–12.

    Parameters
    ----------
    delta, kappa : number or sympy expression
        Noise strength Δ in the sharp directions, and anisotropy κ = Δ/D_slow.
    D : sequence, shape (N,) or (N, N)
        Instead of the two: the diagonal, or the whole symmetric positive semidefinite matrix.

    Returns
    -------
    Noise
        A ValueError if both or neither form is given, or D is not symmetric positive semidefinite.
    """
    if D is not None:
        if delta is not None or kappa is not None:
            raise ValueError("give either delta and kappa, or D, not both")
        return ConstantMatrix(_constant_matrix(D, "D"))
    if delta is None or kappa is None:
        raise ValueError("anisotropic needs delta and kappa, or D")
    return Anisotropic(positive(delta, "delta"), positive(kappa, "kappa"))


def random_shift(delta_s: Given = None, *, learning_rate: Given = None, sigma: Given = None) -> Noise:
    """Minibatch losses that are randomly shifted copies of L: C = 2σH², D = Δ_S H², Δ_S = ησ.

    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 7, supplement S1–S4.

    Parameters
    ----------
    delta_s : number or sympy expression, optional
        Effective noise level Δ_S.
    learning_rate, sigma : number or sympy expression, optional
        η and the shift strength σ (μ ~ N(0, 2σI)); Δ_S = ησ. With ``delta_s`` given,
        ``learning_rate`` alone fixes σ = Δ_S/η.

    Returns
    -------
    Noise
        A ValueError if Δ_S is not determined, or determined twice.
    """
    rate = None if learning_rate is None else positive(learning_rate, "learning_rate")
    if delta_s is not None and sigma is None:
        return RandomShift(positive(delta_s, "delta_s"), rate)
    if delta_s is not None or sigma is None:
        raise ValueError("random_shift needs delta_s, or learning_rate and sigma")
    if rate is None:
        raise ValueError("random_shift(sigma=...) needs learning_rate as well")
    return RandomShift(rate * positive(sigma, "sigma"), rate)


def hessian_proportional(
    strength: Given = None, *, learning_rate: Given = None, batch_size: Given = None
) -> Noise:
    """Noise proportional to curvature: C = |H|/B, D = (η/2B)|H|, |H| = U|Λ|Uᵀ (ICLR 2021, Eqs. 5–7).

    Parameters
    ----------
    strength : number or sympy expression, optional
        η/2B in one number.
    learning_rate, batch_size : number or sympy expression, optional
        η and B. A strength that is not determined, or determined twice, is a ValueError.

    Returns
    -------
    Noise
    """
    rate = None if learning_rate is None else positive(learning_rate, "learning_rate")
    if strength is not None and batch_size is not None:
        raise ValueError("give either strength, or learning_rate and batch_size")
    if strength is not None:
        return HessianProportional(positive(strength, "strength"), rate)
    if rate is None or batch_size is None:
        raise ValueError("hessian_proportional needs strength, or learning_rate and batch_size")
    return HessianProportional(rate / (2 * positive(batch_size, "batch_size")), rate)


def data_shift(*, learning_rate: Parameter, batch_size: Parameter, variance: Parameter = 1) -> Noise:
    """Noise of minibatches whose samples shift the loss, f(θ − x) with x ~ N(0, vI): all orders, exactly.

    For L(θ) = E f(θ − x) the covariance of one sample's gradient is C = Σ_{n≥1} vⁿ/n! (∂ⁿ∇L)(∂ⁿ∇L)ᵀ
    (all n-th derivatives; the sum ends, as L is a polynomial), and D = (η/2B) C. Its first term, vH², is
    :func:`random_shift` with Δ_S = ηv/2B; only the others are left where H vanishes. Minibatches also
    have higher cumulants, which a Langevin equation leaves out. The setting is that of Xie, Sato, Sugiyama,
    ICLR 2021, appendix E.1; the expansion is the Hermite series of ∇f.

    Parameters
    ----------
    learning_rate, batch_size, variance : number or sympy expression
        η, B and v; a number that is not positive is a ValueError.

    Returns
    -------
    Noise
        For landscapes that are the *mean* loss L, such as ``styblinski_tang(shift_variance=1)``; another
        loss than a polynomial is refused when D is asked for.

    Examples
    --------
    >>> from theory import Langevin, styblinski_tang
    >>> noise = data_shift(learning_rate=2, batch_size=1)
    >>> Langevin(styblinski_tang(shift_variance=1), noise).diffusion[0, 0]  # (6x² − 10)² + 72x² + 24
    36*x**4 - 48*x**2 + 124
    """
    rate = positive(learning_rate, "learning_rate")
    strength = rate / (2 * positive(batch_size, "batch_size"))
    return DataShift(strength, positive(variance, "variance"), rate)


def measured(covariance: Sequence, *, learning_rate: Parameter) -> Noise:
    """Constant noise from a measured gradient covariance C: D = ηC/2.

    Parameters
    ----------
    covariance : array, shape (N, N)
        C = Cov_μ(∇L^μ), e.g. from per-sample gradients; a ValueError if not symmetric positive semidefinite.
    learning_rate : number
        η.

    Returns
    -------
    Noise
    """
    rate = positive(learning_rate, "learning_rate")
    return ConstantMatrix(_constant_matrix(covariance, "covariance") * rate / 2, rate)


def _constant_matrix(entries: Sequence, name: str) -> sp.ImmutableMatrix:
    """A symmetric positive semidefinite matrix from its diagonal or all its entries."""
    rows = list(np.asarray(entries, object))
    if rows and not isinstance(rows[0], (list, tuple, np.ndarray)):
        matrix = sp.diag(*(exact(v, f"{name}[{i}]") for i, v in enumerate(rows)))
    else:
        exactly = [[exact(v, f"{name}[{i}][{j}]") for j, v in enumerate(r)] for i, r in enumerate(rows)]
        matrix = sp.Matrix(exactly)
    if matrix.rows != matrix.cols or matrix != matrix.T:
        raise ValueError(f"{name} must be a square symmetric matrix, got {matrix.tolist()}")
    if not matrix.free_symbols:
        lowest = float(np.linalg.eigvalsh(np.array(matrix, float))[0])
        if lowest < -1e-12 * max(1e-300, float(np.abs(np.array(matrix, float)).max())):
            raise ValueError(f"{name} must be positive semidefinite; its lowest eigenvalue is {lowest:.3g}")
    return sp.ImmutableMatrix(matrix)


#: Noise models known by name to configuration files and the command line.
NOISE_KINDS: dict[str, Callable[..., Noise]] = {
    factory.__name__: factory
    for factory in (isotropic, anisotropic, random_shift, hessian_proportional, data_shift, measured)
}
