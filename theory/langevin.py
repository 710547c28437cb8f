"""The Langevin system dθ = −∇L dt + √(2D) dW that every face of the toolkit reads, and general Itô processes.

One convention everywhere (Itô): dX = b dt + √(2D) dW, so ∂p/∂t = −∂_i(b_i p) + ∂_i∂_j(D_ij p), and
for a landscape b = −∇L. Time is learning rate × iterations (Yang, Tang, Tu 2023, supplement S10–S12).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.landscape import Landscape, Parameter
from theory.noise import HessianProportional, Noise, no_symbolic_root, square_root_2x2

if TYPE_CHECKING:
    from theory.finite_step import FiniteStep, Form


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

    def at_finite_step(self, *, learning_rate: Parameter, form: Form = "small-noise") -> FiniteStep:
        """This process corrected for a finite learning rate: :func:`theory.finite_step.at_finite_step`."""
        from theory.finite_step import at_finite_step  # it builds on this module

        return at_finite_step(self, learning_rate=learning_rate, form=form)

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
        return values_at(self.diffusion, self.variables, points)

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
        H = values_at(self.landscape.hessian, self.variables, points)
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
        return square_root_2x2(2 * D) if D.shape == (2, 2) else no_symbolic_root()

    def without_cross_diffusion(self) -> Diffusion:
        """The same drift with D_ij = 0 for i ≠ j."""
        return replace(self, diffusion=sp.diag(*sp.Matrix(self.diffusion).diagonal()))
