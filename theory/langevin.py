"""Noise models and the Langevin system dθ = −∇L dt + √(2D) dW that every face of the toolkit reads.

One convention everywhere (Itô): dX = b dt + √(2D) dW, so ∂p/∂t = −∂_i(b_i p) + ∂_i∂_j(D_ij p), and
for a landscape b = −∇L. Time is learning rate × iterations, D = η C / 2 for gradient noise of
covariance C (Yang, Tang, Tu 2023, supplement S10–S12; Xie, Sato, Sugiyama 2021, Eq. 2).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from theory.landscape import Landscape, Parameter, exact


class Noise(ABC):
    """A model of the gradient noise: a rule that gives D(θ) and its root for any landscape."""

    learning_rate: sp.Expr | None = None

    @abstractmethod
    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        """D(θ), shape (N, N)."""

    @abstractmethod
    def root(self, landscape: Landscape) -> sp.Matrix:
        """A matrix G(θ), shape (N, m), with G Gᵀ = 2 D."""

    def __str__(self) -> str:
        kind = "-".join(re.findall("[A-Z][a-z]*", type(self).__name__)).lower()
        named = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]
        shown = [f"{k} = {v if getattr(v, 'free_symbols', True) else _decimal(v)}" for k, v in named]
        return f"{kind} noise, {', '.join(shown)}"

    @abstractmethod
    def scaled(self, factor: sp.Expr) -> Noise:
        """The same noise with D multiplied by ``factor`` (power counting in expansions)."""


@dataclass(frozen=True)
class Isotropic(Noise):
    """D(θ) = D·I."""

    D: sp.Expr

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        return self.D * sp.eye(len(landscape.variables))

    def root(self, landscape: Landscape) -> sp.Matrix:
        return sp.sqrt(2 * self.D) * sp.eye(len(landscape.variables))

    def scaled(self, factor: sp.Expr) -> Noise:
        return replace(self, D=self.D * factor)


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
        return sp.diag(
            *(self.delta if v in landscape.fast else self.delta / self.kappa for v in landscape.variables)
        )

    def root(self, landscape: Landscape) -> sp.Matrix:
        return sp.diag(*(sp.sqrt(2 * entry) for entry in self.diffusion(landscape).diagonal()))

    def scaled(self, factor: sp.Expr) -> Noise:
        return replace(self, delta=self.delta * factor)


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
        D = self.diffusion(landscape)
        if D.is_diagonal():
            return sp.diag(*(sp.sqrt(2 * entry) for entry in D.diagonal()))
        if D.free_symbols:
            return _square_root_2x2(2 * D) if D.shape == (2, 2) else _no_symbolic_root()
        values, vectors = np.linalg.eigh(np.array(2 * D, float))
        return sp.Matrix(vectors * np.sqrt(np.clip(values, 0.0, None)))

    def scaled(self, factor: sp.Expr) -> Noise:
        return replace(self, matrix=self.matrix * factor)


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

    def scaled(self, factor: sp.Expr) -> Noise:
        return replace(self, delta_s=self.delta_s * factor)


@dataclass(frozen=True)
class HessianProportional(Noise):
    """D(θ) = strength·|H(θ)|, |H| = U|Λ|Uᵀ."""

    strength: sp.Expr
    learning_rate: sp.Expr | None = None

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        return self.strength * _absolute_matrix(landscape.hessian)

    def root(self, landscape: Landscape) -> sp.Matrix:
        absolute = 2 * self.strength * _absolute_matrix(landscape.hessian)
        if absolute.is_diagonal():
            return sp.diag(*(sp.sqrt(entry) for entry in absolute.diagonal()))
        return _square_root_2x2(absolute)

    def scaled(self, factor: sp.Expr) -> Noise:
        return replace(self, strength=self.strength * factor)


def _decimal(value: sp.Basic) -> str:
    """A number or matrix of numbers in few digits."""
    if isinstance(value, sp.MatrixBase):
        return str([[float(f"{float(v):.4g}") for v in row] for row in value.tolist()])
    return f"{float(value):.6g}"


def _no_symbolic_root():
    raise NotImplementedError(
        "no closed form for the root of a non-diagonal matrix of this size; use root_values (numeric)"
    )


def _absolute_matrix(H: sp.Matrix) -> sp.Matrix:
    """|H| = √(H²) for diagonal or 2×2 H."""
    if H.is_diagonal():
        return sp.diag(*(sp.Abs(entry) for entry in H.diagonal()))
    if H.shape != (2, 2):
        _no_symbolic_root()
    # √(H²) by Cayley–Hamilton; det √(H²) = |det H|.
    determinant = sp.Abs(H.det())
    trace = sp.sqrt((H * H).trace() + 2 * determinant)
    return (H * H + determinant * sp.eye(2)) / _nonzero(trace)


def _square_root_2x2(S: sp.Matrix) -> sp.Matrix:
    """√S of a symmetric positive semidefinite 2×2 matrix, by Cayley–Hamilton."""
    determinant = sp.sqrt(sp.Max(S.det(), 0))
    trace = sp.sqrt(S.trace() + 2 * determinant)
    return (S + determinant * sp.eye(2)) / _nonzero(trace)


def _nonzero(positive: sp.Expr) -> sp.Expr:
    """A denominator that vanishes only where its numerator does: 0/0 there must give 0."""
    return sp.Max(positive, sp.Float("1e-150"))


class Process(ABC):
    """An Itô process dX = b dt + √(2D) dW with symbolic coefficients.

    Every process has ``variables``, ``drift`` b(X) of shape (N, 1), ``diffusion`` D(X) of shape
    (N, N), ``root`` G(X) of shape (N, m) with G Gᵀ = 2D, a ``name``, and ``landscape`` and
    ``learning_rate``, which are None where there is none.
    """

    if TYPE_CHECKING:
        # Fields in one subclass, properties in the other: read-only as far as solvers are concerned.
        @property
        def variables(self) -> tuple[sp.Symbol, ...]: ...
        @property
        def name(self) -> str: ...
        @property
        def drift(self) -> sp.Matrix: ...
        @property
        def diffusion(self) -> sp.Matrix: ...
        @property
        def root(self) -> sp.Matrix: ...
        @property
        def landscape(self) -> Landscape | None: ...
        @property
        def learning_rate(self) -> float | None: ...

    @abstractmethod
    def without_cross_diffusion(self) -> Process:
        """The process whose off-diagonal D_ij are dropped (the paper's approximation, not a law)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names, in order."""
        return tuple(str(variable) for variable in self.variables)

    @property
    def free_parameters(self) -> tuple[str, ...]:
        """Names of symbols without a value; numerical solvers need this to be empty."""
        used = self.drift.free_symbols | self._diffusion_symbols()
        return tuple(sorted(str(s) for s in used - set(self.variables)))

    def _diffusion_symbols(self) -> set[sp.Basic]:
        return self.diffusion.free_symbols

    def diffusion_values(self, points: np.ndarray) -> np.ndarray:
        """D at ``points`` of shape (k, N), as an array of shape (k, N, N)."""
        return _matrix_values(self.diffusion, self.variables, points)

    def root_values(self, points: np.ndarray) -> np.ndarray:
        """G at ``points`` of shape (k, N), as an array of shape (k, N, m), from a numerical factor of 2D."""
        values, vectors = np.linalg.eigh(2.0 * self.diffusion_values(points))
        return vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]


@dataclass(frozen=True)
class Langevin(Process):
    """The Langevin system of a landscape under a noise model: dθ = −∇L dt + √(2D) dW.

    Parameters
    ----------
    landscape : Landscape
    noise : Noise
        From :func:`isotropic`, :func:`anisotropic`, :func:`random_shift`,
        :func:`hessian_proportional` or :func:`measured`.
    cross_diffusion : bool
        False drops the off-diagonal D_ij, as the supplement of Yang, Tang, Tu (2023) does.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 9, 10 (Itô reading, S10–S12);
    Xie, Sato, Sugiyama, ICLR 2021, Eqs. 2–4.
    """

    landscape: Landscape
    noise: Noise
    cross_diffusion: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.landscape, Landscape):
            raise TypeError(f"landscape must be a theory.Landscape, got {type(self.landscape).__name__}")
        if not isinstance(self.noise, Noise):
            raise TypeError(
                f"noise must be a noise model such as theory.isotropic(0.1), got {type(self.noise).__name__}"
            )

    @property
    def variables(self) -> tuple[sp.Symbol, ...]:
        """The coordinates θ."""
        return self.landscape.variables

    @property
    def name(self) -> str:
        """Landscape and noise model in words."""
        return f"{self.landscape.name}, {self.noise}"

    @property
    def learning_rate(self) -> float | None:
        """η, if the noise model knows it: dt = η makes one Euler–Maruyama step one SGD iteration."""
        rate = self.noise.learning_rate
        return None if rate is None or rate.free_symbols else float(rate)

    @cached_property
    def drift(self) -> sp.Matrix:
        """b = −∇L."""
        return -self.landscape.gradient

    @cached_property
    def diffusion(self) -> sp.Matrix:
        """D(θ) of the noise model, without its off-diagonal part if ``cross_diffusion`` is False."""
        D = self.noise.diffusion(self.landscape)
        return D if self.cross_diffusion else sp.diag(*D.diagonal())

    @cached_property
    def root(self) -> sp.Matrix:
        """G with G Gᵀ = 2D; for random shifts √(2Δ_S) H itself."""
        if self.cross_diffusion:
            return self.noise.root(self.landscape)
        return sp.diag(*(sp.sqrt(2 * entry) for entry in self.diffusion.diagonal()))

    def without_cross_diffusion(self) -> Langevin:
        """The same landscape with D_ij = 0 for i ≠ j."""
        return replace(self, cross_diffusion=False)

    def _diffusion_symbols(self) -> set[sp.Basic]:
        if isinstance(self.noise, HessianProportional):
            return self.noise.strength.free_symbols | self.landscape.hessian.free_symbols
        return self.diffusion.free_symbols

    def diffusion_values(self, points: np.ndarray) -> np.ndarray:
        """D at ``points`` (k, N) as (k, N, N); by eigen-decomposition where no closed form exists."""
        if not isinstance(self.noise, HessianProportional):
            return super().diffusion_values(points)
        H = _matrix_values(self.landscape.hessian, self.variables, points)
        values, vectors = np.linalg.eigh(H)
        D = float(self.noise.strength) * np.einsum("kia,ka,kja->kij", vectors, np.abs(values), vectors)
        return D if self.cross_diffusion else D * np.eye(len(self.variables))


@dataclass(frozen=True)
class Diffusion(Process):
    """A general Itô process, for drifts that are not a gradient.

    Parameters
    ----------
    drift : sympy.Matrix, shape (N, 1) or (N,)
        b(X).
    diffusion : sympy.Matrix, shape (N, N)
        D(X), symmetric, with dX = b dt + √(2D) dW.
    variables : tuple of sympy.Symbol

    Raises
    ------
    ValueError
        If the shapes do not fit or D is not symmetric.
    """

    drift: sp.Matrix
    diffusion: sp.Matrix
    variables: tuple[sp.Symbol, ...]
    name: str = "diffusion process"
    landscape: Landscape | None = field(default=None, init=False)
    learning_rate: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        size = len(self.variables)
        drift, D = sp.ImmutableMatrix(self.drift), sp.ImmutableMatrix(self.diffusion)
        if drift.shape not in {(size, 1), (1, size)} or D.shape != (size, size):
            raise ValueError(f"{size} variables need drift ({size}, 1) and diffusion ({size}, {size})")
        if (D - D.T).applyfunc(sp.simplify) != sp.zeros(size, size):
            raise ValueError("diffusion must be symmetric")
        object.__setattr__(self, "drift", drift.reshape(size, 1))
        object.__setattr__(self, "diffusion", D)
        object.__setattr__(self, "variables", tuple(self.variables))

    @cached_property
    def root(self) -> sp.Matrix:
        """G with G Gᵀ = 2D (diagonal, constant or 2×2 D)."""
        D = sp.Matrix(self.diffusion)
        if D.is_diagonal():
            return sp.diag(*(sp.sqrt(2 * entry) for entry in D.diagonal()))
        if not D.free_symbols:
            values, vectors = np.linalg.eigh(np.array(2 * D, float))
            return sp.Matrix(vectors * np.sqrt(np.clip(values, 0.0, None)))
        return _square_root_2x2(2 * D) if D.shape == (2, 2) else _no_symbolic_root()

    def without_cross_diffusion(self) -> Diffusion:
        """The same drift with D_ij = 0 for i ≠ j."""
        return replace(self, diffusion=sp.diag(*sp.Matrix(self.diffusion).diagonal()))


def _matrix_values(matrix: sp.Matrix, variables: Sequence[sp.Symbol], points: np.ndarray) -> np.ndarray:
    """A symbolic matrix at ``points`` (k, N), as an array (k, rows, columns)."""
    points = np.asarray(points, float)
    values = _compiled(sp.ImmutableMatrix(matrix), tuple(variables))(*points.T)
    flat = [np.broadcast_to(np.asarray(v, float), (len(points),)) for v in values]
    return np.stack(flat, axis=1).reshape(len(points), *matrix.shape)


@lru_cache(maxsize=64)
def _compiled(matrix: sp.ImmutableMatrix, variables: tuple[sp.Symbol, ...]):
    """The entries of a matrix as one NumPy function; solvers ask for the same one many times."""
    return sp.lambdify(variables, list(matrix), "numpy", cse=True)


def isotropic(D: Parameter) -> Noise:
    """Isotropic noise D·I (gradient Langevin dynamics; ICLR 2021, Thm 3.1).

    Parameters
    ----------
    D : number or sympy expression
        Diffusion coefficient, units loss (a temperature, since time is η × iterations).

    Returns
    -------
    Noise

    Raises
    ------
    ValueError
        If a numeric ``D`` is not positive and finite.
    """
    return Isotropic(_positive(D, "D"))


def anisotropic(
    delta: Parameter | None = None, kappa: Parameter | None = None, *, D: Sequence | None = None
) -> Noise:
    """Constant anisotropic noise: diag(Δ/κ on the slow, Δ on the fast variables), or any matrix.

    Parameters
    ----------
    delta, kappa : number or sympy expression
        Noise strength Δ in the sharp directions, and anisotropy κ = Δ/D_slow.
    D : sequence, shape (N,) or (N, N)
        Instead of the two: the diagonal, or the whole symmetric positive semidefinite matrix.

    Returns
    -------
    Noise

    Raises
    ------
    ValueError
        If both or neither form is given, or D is not symmetric positive semidefinite.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 9–12.
    """
    if D is not None:
        if delta is not None or kappa is not None:
            raise ValueError("give either delta and kappa, or D, not both")
        return ConstantMatrix(_constant_matrix(D, "D"))
    if delta is None or kappa is None:
        raise ValueError("anisotropic needs delta and kappa, or D")
    return Anisotropic(_positive(delta, "delta"), _positive(kappa, "kappa"))


def random_shift(
    delta_s: Parameter | None = None,
    *,
    learning_rate: Parameter | None = None,
    sigma: Parameter | None = None,
) -> Noise:
    """Minibatch losses that are randomly shifted copies of L: C = 2σH², D = Δ_S H², Δ_S = ησ.

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

    Raises
    ------
    ValueError
        If Δ_S is not determined, or determined twice.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 7, supplement S1–S4.
    """
    rate = None if learning_rate is None else _positive(learning_rate, "learning_rate")
    if (delta_s is None) == (sigma is None):
        raise ValueError("random_shift needs delta_s, or learning_rate and sigma")
    if delta_s is not None:
        return RandomShift(_positive(delta_s, "delta_s"), rate)
    if rate is None:
        raise ValueError("random_shift(sigma=...) needs learning_rate as well")
    return RandomShift(rate * _positive(sigma, "sigma"), rate)


def hessian_proportional(
    strength: Parameter | None = None,
    *,
    learning_rate: Parameter | None = None,
    batch_size: Parameter | None = None,
) -> Noise:
    """Noise proportional to curvature: C = |H|/B, D = (η/2B)|H|, |H| = U|Λ|Uᵀ.

    Parameters
    ----------
    strength : number or sympy expression, optional
        η/2B in one number.
    learning_rate, batch_size : number or sympy expression, optional
        η and B.

    Returns
    -------
    Noise

    Raises
    ------
    ValueError
        If the strength is not determined, or determined twice.

    References
    ----------
    Xie, Sato, Sugiyama, ICLR 2021, Eqs. 5–7.
    """
    if strength is not None:
        if batch_size is not None:
            raise ValueError("give either strength, or learning_rate and batch_size")
        rate = None if learning_rate is None else _positive(learning_rate, "learning_rate")
        return HessianProportional(_positive(strength, "strength"), rate)
    if learning_rate is None or batch_size is None:
        raise ValueError("hessian_proportional needs strength, or learning_rate and batch_size")
    rate = _positive(learning_rate, "learning_rate")
    return HessianProportional(rate / (2 * _positive(batch_size, "batch_size")), rate)


def measured(covariance: Sequence, *, learning_rate: Parameter) -> Noise:
    """Constant noise from a measured gradient covariance C: D = ηC/2.

    Parameters
    ----------
    covariance : array, shape (N, N)
        C = Cov_μ(∇L^μ), e.g. from per-sample gradients.
    learning_rate : number
        η.

    Returns
    -------
    Noise

    Raises
    ------
    ValueError
        If C is not symmetric positive semidefinite.
    """
    rate = _positive(learning_rate, "learning_rate")
    return ConstantMatrix(_constant_matrix(covariance, "covariance") * rate / 2, rate)


def _positive(value: Parameter, name: str) -> sp.Expr:
    """``value`` as an exact expression; a number that is not positive is refused."""
    expression = exact(value, name)
    if expression.is_nonpositive:
        raise ValueError(f"{name}={value} must be positive")
    return expression


def _constant_matrix(entries: Sequence, name: str) -> sp.ImmutableMatrix:
    """A symmetric positive semidefinite matrix from its diagonal or all its entries."""
    rows = list(np.asarray(entries, object))
    if rows and not isinstance(rows[0], (list, tuple, np.ndarray)):
        matrix = sp.diag(*(exact(v, f"{name}[{i}]") for i, v in enumerate(rows)))
    else:
        matrix = sp.Matrix(
            [[exact(v, f"{name}[{i}][{j}]") for j, v in enumerate(r)] for i, r in enumerate(rows)]
        )
    if matrix.rows != matrix.cols or matrix != matrix.T:
        raise ValueError(f"{name} must be a square symmetric matrix, got {matrix.tolist()}")
    if not matrix.free_symbols:
        lowest = float(np.linalg.eigvalsh(np.array(matrix, float))[0])
        if lowest < -1e-12 * max(1e-300, float(np.abs(np.array(matrix, float)).max())):
            raise ValueError(f"{name} must be positive semidefinite; its lowest eigenvalue is {lowest:.3g}")
    return sp.ImmutableMatrix(matrix)


#: Noise models known by name to configuration files and the command line.
NOISE_KINDS: dict[str, Callable[..., Noise]] = {
    "isotropic": isotropic,
    "anisotropic": anisotropic,
    "random_shift": random_shift,
    "hessian_proportional": hessian_proportional,
    "measured": measured,
}
