"""The Langevin system dθ = −∇L dt + √(2D) dW that every face of the toolkit reads, and general Itô processes.

One convention everywhere (Itô): dX = b dt + √(2D) dW, so ∂p/∂t = −∂_i(b_i p) + ∂_i∂_j(D_ij p), and
for a landscape b = −∇L. Time is learning rate × iterations (Yang, Tang, Tu 2023, supplement S10–S12).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.landscape import Landscape, Parameter, checked_symbols, positive, substitution
from theory.noise import Noise, square_root_or_factor
from theory.reading import Reading, ito_drift

Form: TypeAlias = Literal["small-noise", "expanded", "stationary", "drift-only"]


class Process(ABC):
    """An Itô process dX = b dt + √(2D) dW with symbolic coefficients.

    Every process has ``variables``, ``drift`` b(X) of shape (N, 1), ``diffusion`` D(X) of shape
    (N, N), ``root`` G(X) of shape (N, m) with G Gᵀ = 2D, a ``name``, and ``landscape`` and
    ``learning_rate``, None where there is none. ``remedy`` says what helps where D is no covariance.
    """

    remedy = "there is no such process; correct D, or keep walkers away by box= and walls="

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
        """This process corrected for a finite learning rate: :func:`at_finite_step`."""
        return at_finite_step(self, learning_rate=learning_rate, form=form)

    def with_parameters(self, values: Mapping[str, Parameter] | None = None, /, **named: Parameter) -> Self:
        """The process with parameters replaced, by mapping or keyword; an unknown name is a ValueError."""
        return self._substituted(substitution(self._parameters, values, named))

    @abstractmethod
    def _substituted(self, values: Mapping[sp.Symbol, sp.Expr]) -> Self:
        """The process with symbols replaced."""

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names, in order."""
        return tuple(str(variable) for variable in self.variables)

    @property
    def _parameters(self) -> set[sp.Symbol]:
        return {
            s for s in self.drift.free_symbols | self._diffusion_symbols() if isinstance(s, sp.Symbol)
        } - set(self.variables)

    @property
    def free_parameters(self) -> tuple[str, ...]:
        """Names of symbols without a value; numerical solvers need this to be empty."""
        return tuple(sorted(map(str, self._parameters)))

    def _diffusion_symbols(self) -> set[sp.Basic]:
        return self.diffusion.free_symbols

    @property
    def temperature(self) -> float | None:
        """D where the diffusion is D·I with a number D; else None."""
        D = self.diffusion
        return float(D[0, 0]) if not D.free_symbols and D[0, 0] * sp.eye(D.rows) == D else None

    def diffusion_values(self, points: np.ndarray) -> np.ndarray:
        """D at ``points`` of shape (k, N), as an array of shape (k, N, N)."""
        return values_at(self.diffusion, self.variables, points)

    def root_values(self, points: np.ndarray) -> np.ndarray:
        """G at ``points`` of shape (k, N), as an array of shape (k, N, m), from a numerical factor of 2D.

        NaN where D is not finite, or not positive semidefinite by more than rounding.
        """
        D = self.diffusion_values(points)
        finite = np.isfinite(D).all(axis=(1, 2), keepdims=True)
        values, vectors = np.linalg.eigh(np.where(finite, 2.0 * D, 0.0))
        indefinite = values[:, :1] < -1e-12 * np.abs(values).max(axis=1, keepdims=True)
        values = np.where(indefinite | ~finite[:, :, 0], np.nan, values)
        return vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]


@dataclass(frozen=True)
class Langevin(Process):
    """The Langevin system of a landscape under a noise model: dθ = −∇L dt + √(2D) dW.

    Sources: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 9, 10 (Itô reading, S10–S12); Xie,
    Sato, Sugiyama, ICLR 2021, Eqs. 2–4.

    Parameters
    ----------
    landscape, noise
        Noise from :func:`isotropic`, :func:`anisotropic`, :func:`random_shift`,
        :func:`hessian_proportional` or :func:`measured`.
    cross_diffusion : bool
        False drops the off-diagonal D_ij, as the supplement of Yang, Tang, Tu (2023) does.
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

    def _substituted(self, values: Mapping[sp.Symbol, sp.Expr]) -> Self:
        loss = self.landscape.loss.subs(values)
        return replace(
            self, landscape=replace(self.landscape, loss=loss), noise=self.noise.substituted(values)
        )

    def without_cross_diffusion(self) -> Langevin:
        """The same landscape with D_ij = 0 for i ≠ j."""
        return replace(self, cross_diffusion=False)

    @property
    def temperature(self) -> float | None:
        """D where the noise is D·I with a number D; else None. |H| counts as changing with θ."""
        return None if self.noise.hessian_factor is not None else super().temperature

    def _diffusion_symbols(self) -> set[sp.Basic]:
        factor = self.noise.hessian_factor
        if factor is None:
            return super()._diffusion_symbols()
        return factor.free_symbols | self.landscape.hessian.free_symbols

    def diffusion_values(self, points: np.ndarray) -> np.ndarray:
        """D at ``points`` (k, N) as (k, N, N); by eigen-decomposition where no closed form exists."""
        factor = self.noise.hessian_factor
        if factor is None:
            return super().diffusion_values(points)
        H = values_at(self.landscape.hessian, self.variables, points)
        values, vectors = np.linalg.eigh(H)
        D = float(factor) * np.einsum("kia,ka,kja->kij", vectors, np.abs(values), vectors)
        return D if self.cross_diffusion else D * np.eye(len(self.variables))


@dataclass(frozen=True)
class Diffusion(Process):
    """A general Itô process, for drifts that are not a gradient.

    Parameters
    ----------
    drift : sympy.Matrix, shape (N, 1) or (N,)
        b(X), in the reading given. ``process.drift`` is the drift of the Itô reading.
    diffusion : sympy.Matrix, shape (N, N)
        D(X), symmetric, with dX = b dt + √(2D) dW. Another D, or shapes that do not fit, are a ValueError.
    reading : {"ito", "stratonovich", "isothermal"}
        How the noise is read where D depends on X: :func:`theory.reading.ito_drift`.
    """

    drift: sp.Matrix
    diffusion: sp.Matrix
    variables: tuple[sp.Symbol, ...]
    name: str = "diffusion process"
    landscape: Landscape | None = field(default=None, init=False)
    learning_rate: float | None = field(default=None, init=False)
    reading: InitVar[Reading] = field(default="ito", kw_only=True)

    def __post_init__(self, reading: Reading) -> None:
        size = len(self.variables)
        drift, D = sp.ImmutableMatrix(self.drift), sp.ImmutableMatrix(self.diffusion)
        if drift.shape not in {(size, 1), (1, size)} or D.shape != (size, size):
            raise ValueError(f"{size} variables need drift ({size}, 1) and diffusion ({size}, {size})")
        if not all(_equal(D[i, j], D[j, i]) for i, j in combinations(range(size), 2)):
            raise ValueError("diffusion must be symmetric")
        D = sp.ImmutableMatrix(size, size, lambda i, j: D[min(i, j), max(i, j)])
        object.__setattr__(self, "drift", drift.reshape(size, 1))
        object.__setattr__(self, "diffusion", D)
        used = drift.free_symbols | D.free_symbols
        object.__setattr__(self, "variables", checked_symbols(self.variables, used))
        if reading != "ito":
            object.__setattr__(self, "drift", ito_drift(self.drift, D, self.variables, reading))
            object.__setattr__(self, "name", f"{self.name}, {reading}")

    @cached_property
    def root(self) -> sp.Matrix:
        """G with G Gᵀ = 2D (diagonal, constant or 2×2 D)."""
        return square_root_or_factor(2 * sp.Matrix(self.diffusion))

    def _substituted(self, values: Mapping[sp.Symbol, sp.Expr]) -> Self:
        drift, D = sp.Matrix(self.drift).subs(values), sp.Matrix(self.diffusion).subs(values)
        return replace(self, drift=drift, diffusion=D)

    def without_cross_diffusion(self) -> Diffusion:
        """The same drift with D_ij = 0 for i ≠ j."""
        return replace(self, diffusion=sp.diag(*sp.Matrix(self.diffusion).diagonal()))


def _equal(a: sp.Expr, b: sp.Expr) -> bool:
    """Equal, up to rounding of the decimal numbers in them."""
    scale = max((abs(c) for c in a.atoms(sp.Float)), default=0)
    left = sp.expand(a - b)
    rounding = all(abs(c) <= 1e-12 * scale for c in left.as_coefficients_dict().values())
    return rounding or sp.simplify(left) == 0


@dataclass(frozen=True)
class FiniteStep(Process):
    """A process that follows the map X + η b(X) + √(2ηD(X)) ξ to the next order in its step η.

    Made by :func:`at_finite_step`. One step of the map and e^{η𝓛̃} agree up to O(η³) for
    𝓛̃ = 𝓛 + η(A₂ − 𝓛²/2), where 𝓛 = b·∂ + D:∂∂ and A₂ is ½𝓛² with its coefficients held fixed (backward error
    analysis of one Euler–Maruyama step, which for dt = η is one iteration of SGD). With J = ∂b/∂X, so J = −H
    for a landscape, that is

    * b̃ = b − (η/2) 𝓛b, for a landscape −∇(L + (η/4)|∇L|²) + (η/2) D:∇∇∇L,
    * D̃ = D − (η/2)(J D + D Jᵀ + 𝓛D), for a landscape D + (η/2)(HD + DH − 𝓛D),
    * and third derivatives −η Σ_k D_kl (∂_k D_ij) ∂_l∂_i∂_j, which no Itô process has.

    For constant D the third derivatives vanish and the process is complete. Otherwise they are as large as
    (η/2) D:∂∂D, of second order in the noise: a density is then right to O(η), with a remainder of O(ηD²).
    It has no ``learning_rate``: a path of this process with dt = η would count the step twice, and needs a
    time step well below ``step``, the η of the map.
    """

    process: Process
    step: sp.Expr
    form: Form = "small-noise"
    learning_rate = None
    remedy = "use form='small-noise' or a smaller learning_rate"

    @property
    def variables(self) -> tuple[sp.Symbol, ...]:
        """The coordinates of the process."""
        return self.process.variables

    @cached_property
    def landscape(self) -> Landscape | None:
        """L + (η/4)|∇L|² − (η/2) D:∇∇L where D is constant: then b̃ is minus its gradient. Else None."""
        old, (_, D) = self.process.landscape, self._limit
        if old is None or D.free_symbols & set(self.variables):
            return None
        bending = sum(D.multiply_elementwise(old.hessian), sp.Integer(0))
        lift = self.step / 4 * old.gradient.dot(old.gradient) - self.step / 2 * bending
        return replace(old, loss=old.loss + lift)

    @property
    def name(self) -> str:
        """The process and the step, in words."""
        step = f"{float(self.step):g}" if self.step.is_number else str(self.step)
        return f"{self.process.name}, corrected for steps of {step} ({self.form})"

    @cached_property
    def drift(self) -> sp.Matrix:
        """b̃ = b − (η/2) 𝓛b, and η 𝓛D' more in the stationary form."""
        b, D = self._limit
        corrected = b - self.step / 2 * self._generator(b)
        if self.form == "stationary":
            corrected += self.step * self._generator(D.diff(self.variables[0]))
        return corrected

    @cached_property
    def diffusion(self) -> sp.Matrix:
        """D̃ of the form: that of the class, and η(bD' + 2DD'') more in the stationary form."""
        b, D = self._limit
        if self.form == "drift-only":
            return D
        if self.form == "small-noise":
            return self.root * self.root.T / 2
        J = b.jacobian(self.variables)
        corrected = D - self.step / 2 * (J * D + D * J.T + self._generator(D))
        if self.form == "stationary":
            slope = D.diff(self.variables[0])
            corrected += self.step * (b * slope + 2 * D * slope.diff(self.variables[0]))
        return corrected

    @cached_property
    def root(self) -> sp.Matrix:
        """G̃ with G̃ G̃ᵀ = 2D̃: G − (η/2)(J G + b·∂G) for small noise, G itself for the drift alone.

        For small noise that holds up to O(η²) and O(ηD²). The other forms may have no root:
        :meth:`root_values` looks at every point.
        """
        if self.form in ("expanded", "stationary"):
            raise NotImplementedError("D of this form need not be positive: use root_values (numeric)")
        G = sp.Matrix(self.process.root)
        if self.form == "drift-only":
            return G
        J = self._limit[0].jacobian(self.variables)
        return G - self.step / 2 * (J * G + self._advection(G))

    def root_values(self, points: np.ndarray) -> np.ndarray:
        """G̃ at ``points`` (k, N) as (k, N, m); an error where D̃ is not positive semidefinite."""
        lowest = np.linalg.eigvalsh(self.diffusion_values(points))[:, 0]
        if lowest.min() < 0:
            worst = np.asarray(points)[int(np.argmin(lowest))]
            where = ", ".join(f"{n}={v:.4g}" for n, v in zip(self.names, worst, strict=True))
            raise ValueError(
                f"D of the {self.form} form is not positive semidefinite: its lowest eigenvalue is "
                f"{lowest.min():.3g} at {where}; {self.remedy}"
            )
        return super().root_values(points)

    def _substituted(self, values: Mapping[sp.Symbol, sp.Expr]) -> Self:
        return replace(self, process=self.process._substituted(values), step=self.step.subs(values))

    def without_cross_diffusion(self) -> Diffusion:
        """The same drift with D̃_ij = 0 for i ≠ j."""
        return Diffusion(self.drift, sp.diag(*self.diffusion.diagonal()), self.variables, self.name)

    @property
    def _limit(self) -> tuple[sp.Matrix, sp.Matrix]:
        """b and D of the process in continuous time."""
        return sp.Matrix(self.process.drift), sp.Matrix(self.process.diffusion)

    def _advection(self, f: sp.Matrix) -> sp.Matrix:
        """b·∂f of every entry of f."""
        pairs = list(zip(self._limit[0], self.variables, strict=True))
        return f.applyfunc(lambda entry: sum((c * sp.diff(entry, v) for c, v in pairs), sp.Integer(0)))

    def _generator(self, f: sp.Matrix) -> sp.Matrix:
        """𝓛f = b·∂f + D:∂∂f of every entry of f."""
        pairs = list(zip(self._limit[1], product(self.variables, repeat=2), strict=True))
        bent = f.applyfunc(lambda entry: sum((c * sp.diff(entry, *v) for c, v in pairs), sp.Integer(0)))
        return self._advection(f) + bent


def at_finite_step(process: Process, *, learning_rate: Parameter, form: Form = "small-noise") -> FiniteStep:
    """The Itô process that follows SGD of learning rate η more closely than its limit η → 0.

    A Process like any other, for densities, paths and first-passage times in time t = η × iterations. Errors
    as measured, for L = x²/2 + x⁴/4 with D = 0.2 and η = 0.1, L1 distance of the density from that of the
    map: 0.022 uncorrected, 0.042 drift-only, 0.0029 small-noise, of second order in η. Sources: Li, Tai, E,
    "Stochastic modified equations and adaptive stochastic gradient algorithms", ICML (2017), for the
    drift-only form; Zygalakis, SIAM J. Sci. Comput. 33, 102 (2011) for modified generators.

    Parameters
    ----------
    process : Process
        The limit: drift b and diffusion D of the map X + η b + √(2ηD) ξ. D itself is what it is at this
        η: for random shifts Δ_S = ησ, and a noise model that knows its learning rate must have this one.
    learning_rate : number or sympy expression
        η.
    form : {"small-noise", "expanded", "stationary", "drift-only"}
        * small-noise: D̃ = ½G̃G̃ᵀ with G̃ = G − (η/2)(JG + b·∂G), G the process's root. Positive by
          construction; equal to the expanded form up to O(η²) and up to the terms of O(ηD²) that are
          incomplete there anyway.
        * expanded: D̃ = D − (η/2)(JD + DJᵀ + 𝓛D). Third derivatives leave second moments alone, which are
          right to O(η²) where b is linear, but D̃ may be negative where D nearly vanishes.
        * stationary (one variable): the process with the same stationary density as the third-order
          generator, up to O(η²), for any D(x): 𝓛̃(1 + ηD'∂) has no third derivative left and
          annihilates the same density.
        * drift-only: b̃ and the old D. Known as the second-order stochastic modified equation; that
          order counts D itself as O(η) and holds for finite times. Stationary widths get worse by it.

    Returns
    -------
    FiniteStep
        A ValueError if the learning rate is not positive, differs from the noise model's, or the form is
        unknown or does not exist in this many variables.
    """
    step = positive(learning_rate, "learning_rate")
    if process.learning_rate is not None and step.is_number and float(step) != process.learning_rate:
        raise ValueError(
            f"learning_rate={float(step):g} differs from {process.learning_rate:g} of the noise model, which "
            "decides D; give the noise model this one"
        )
    if form not in get_args(Form):
        raise ValueError(f"form={form!r} must be one of {', '.join(get_args(Form))}")
    if form == "stationary" and len(process.variables) != 1:
        raise ValueError(f"form='stationary' needs one variable, here {', '.join(process.names)}")
    return FiniteStep(process, step, form)
