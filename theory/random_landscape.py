"""Random-landscape theory: what an ensemble of quadratic log-losses, one a minibatch, says about their mean.

Near a solution, in coordinates θ_i along the principal components, each minibatch μ has the loss
L^μ(θ) = L^μ_0 exp[½ Σ_ij M^μ_ij (θ_iθ_j − 2θ_iθ^μ_j)], with L^μ_0 its value at θ = 0 (PNAS 9). The curvatures
M^μ_ij and the places θ^μ_i of the minima are independent normal numbers.

Velocities and their variances are per minibatch step Δt = 1 here, as in the paper: D_i = ⟨v_i²⟩, which is
*twice* the diffusion coefficient of the other modules times the square of the step.

References: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021); arXiv20 = its preprint of 2020, arXiv:2001.01117.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.landscape import Seed


@dataclass(frozen=True)
class Sample:
    """Minibatch losses drawn from a random landscape.

    ``curvature`` (batches, N, N) is M^μ, ``position`` (batches, N) is θ^μ, ``loss`` (batches,) is L^μ_0.
    """

    curvature: np.ndarray
    position: np.ndarray
    loss: np.ndarray

    def losses(self, theta: ArrayLike) -> np.ndarray:
        """L^μ(θ) of every minibatch, shape (batches,) (PNAS 9)."""
        x = np.asarray(theta, float)
        pull = np.einsum("bij,bj->bi", self.curvature, self.position)
        exponent = 0.5 * np.einsum("bij,i,j->b", self.curvature, x, x) - pull @ x
        return self.loss * np.exp(exponent)

    def minimum_positions(self) -> np.ndarray:
        """θ̃^μ_i: where L^μ is smallest along mode i with the others at zero, shape (batches, N).

        θ̃_i = θ^μ_i + (1/M_ii) Σ_{j≠i} M_ij θ^μ_j. (The preprint prints the sum without θ^μ_j.)
        """
        pull = np.einsum("bij,bj->bi", self.curvature, self.position)
        return pull / np.einsum("bii->bi", self.curvature)


@dataclass(frozen=True)
class RandomLandscape:
    """Statistics of the ensemble of minibatch losses in N principal directions (PNAS 9–12).

    ``curvature`` and ``curvature_std`` (N,) are M⁰_i and σ_M,i of the diagonal curvatures of ln L^μ;
    ``coupling_std`` (N, N) is σ_ij of the others, symmetric, its diagonal not read; ``position_std`` (N,) is
    σ_θ,i of the places of the minima; ``drift_position`` is θ⁰_1, their mean along the first (drift) mode,
    zero along the others; ``loss`` and ``loss_std`` are mean and standard deviation of L^μ_0.
    """

    curvature: np.ndarray
    curvature_std: np.ndarray
    coupling_std: np.ndarray
    position_std: np.ndarray
    drift_position: float = 0.0
    loss: float = 1.0
    loss_std: float = 0.0

    def __post_init__(self) -> None:
        n = np.size(self.curvature)
        for name in ("curvature", "curvature_std", "position_std", "coupling_std"):
            shape = (n, n) if name == "coupling_std" else (n,)
            value = np.asarray(getattr(self, name), float)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite and of shape {shape}, got shape {value.shape}")
            if name != "curvature" and (value < 0).any():
                raise ValueError(f"{name} must not be negative")
            object.__setattr__(self, name, value)
        if not np.array_equal(self.coupling_std, self.coupling_std.T):
            raise ValueError("coupling_std must be symmetric, as the curvatures are")
        if not self.loss > 0 or self.loss_std < 0:
            raise ValueError(f"loss={self.loss:g} must be positive, loss_std={self.loss_std:g} not negative")

    @property
    def _coupled(self) -> np.ndarray:
        """Σ_{j≠i} σ_ij² ⟨(θ^μ_j)²⟩ with ⟨(θ^μ_j)²⟩ = σ_θ,j² + δ_j1 (θ⁰_1)²."""
        variance, square = self.coupling_std**2, self.position_std**2
        np.fill_diagonal(variance, 0.0)
        square[:1] += self.drift_position**2
        return variance @ square

    @property
    def slope(self) -> float:
        """β of ln L = ln L₀ + βθ₁ + …: −M⁰_1 θ⁰_1 (arXiv20 10)."""
        return float(-self.curvature[0] * self.drift_position)

    @property
    def mean_curvature(self) -> np.ndarray:
        """M_ii of the mean loss, shape (N,): M⁰_i plus the variance of the pull Σ_j M^μ_ij θ^μ_j.

        For i ≥ 2: M⁰_i + σ_θ,i²(M⁰_i² + σ_M,i²) + Σ_{j≠i} σ_ij²[σ_θ,j² + δ_j1(θ⁰_1)²] (arXiv20 below 10).
        The drift mode has σ_M,1²(θ⁰_1)² beside it, from the same second cumulant.
        """
        variance = self.position_std**2 * (self.curvature**2 + self.curvature_std**2) + self._coupled
        variance[:1] += (self.curvature_std[:1] * self.drift_position) ** 2
        return self.curvature + variance

    @property
    def flatness(self) -> np.ndarray:
        """F_i = √(8/M_ii), shape (N,): width of {L_i ≤ e L₀}; NaN where M_ii ≤ 0."""
        return flatness(self.mean_curvature)

    @property
    def minimum_position_std(self) -> np.ndarray:
        """σ̃_θ,i of θ̃^μ_i, with ⟨M_ii⁻²⟩ taken as 1/M⁰_i², shape (N,) (arXiv20 11)."""
        with np.errstate(divide="ignore"):
            return np.sqrt(self.position_std**2 + self._coupled / self.curvature**2)

    def mean_loss(self, theta: ArrayLike) -> np.ndarray:
        """L(θ) = L₀ exp(βθ₁ + Σ M_ii θ_i²/2) for θ of shape (…, N), shape (…) (PNAS 10)."""
        x = np.asarray(theta, float)
        return self.loss * np.exp(self.slope * x[..., 0] + 0.5 * x**2 @ self.mean_curvature)

    def drift_velocity(self, learning_rate: float) -> float:
        """⟨v₁⟩ = α L₀ M⁰_1 θ⁰_1 per step (arXiv20 below 13)."""
        return -learning_rate * self.loss * self.slope

    def velocity_variance(self, learning_rate: float) -> np.ndarray:
        """D_i = α² ⟨(L^μ_0)²⟩ ⟨(M_ii)²⟩ σ̃_θ,i² per step, shape (N,) (PNAS 12)."""
        loss, curvature = self.loss**2 + self.loss_std**2, self.curvature**2 + self.curvature_std**2
        return velocity_variance(learning_rate, loss, curvature, self.minimum_position_std**2)

    def sample(self, batches: int, *, rng: Seed = None) -> Sample:
        """Minibatches drawn at random, for checks of the formulas by sampling."""
        if batches < 1:
            raise ValueError(f"batches={batches} must be at least 1")
        rng = np.random.default_rng(rng)
        n = len(self.curvature)
        matrix = np.triu(rng.normal(size=(batches, n, n)) * self.coupling_std, 1)
        matrix += np.swapaxes(matrix, 1, 2)
        index = np.arange(n)
        matrix[:, index, index] = rng.normal(self.curvature, self.curvature_std, (batches, n))
        position = rng.normal(0.0, self.position_std, (batches, n))
        position[:, :1] += self.drift_position
        # Gamma numbers are positive, as losses are, and have the mean and variance that are asked for.
        spread = (self.loss_std / self.loss) ** 2
        loss = self.loss * (rng.gamma(1 / spread, spread, batches) if spread > 0 else np.ones(batches))
        return Sample(matrix, position, loss)


def flatness(mean_curvature: ArrayLike) -> np.ndarray:
    """F = √(8/M): width of {L ≤ e L₀} of L = L₀ exp(Mθ²/2) (PNAS 10); NaN where M is not positive."""
    curvature = np.asarray(mean_curvature, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(curvature > 0, np.sqrt(8.0 / curvature), np.nan)


def velocity_variance(
    learning_rate: float,
    mean_square_loss: ArrayLike,
    mean_square_curvature: ArrayLike,
    position_variance: ArrayLike,
) -> np.ndarray:
    """D_i = α² ⟨(L^μ_0)²⟩ ⟨(M^μ_ii)²⟩ σ̃_θ,i² per step Δt = 1, the three factors independent (PNAS 12)."""
    product = np.asarray(mean_square_curvature, float) * np.asarray(position_variance, float)
    return learning_rate**2 * np.asarray(mean_square_loss, float) * product


def null_correlation_time(
    steps: int,
    *,
    origin: Literal["mean", "start"] = "mean",
    steps_per_epoch: int | None = None,
    detrended: bool = False,
) -> float:
    """τ = σ²/D in steps of motion without any correlation between minibatches: the null of a measured τ.

    - independent steps, θ about its mean over the window (as after PCA): (T² − 1)/(6T) ≈ T/6; with the
      straight line in time removed as well (``detrended``), ≈ T/15; about the window's start
      (``origin="start"``): (T − 1)/2, the paper's T_w/2;
    - every sample once an epoch (m = ``steps_per_epoch``, T = Km): each epoch is a bridge that returns to
      its start, so (m + 1)/6 about the start and (m + 1)/6 · (1 − 1/2K) about the mean: ≈ m/6, whatever the
      window.

    T is the number of recorded ``steps`` in the window. No whole number of epochs, and a combination without
    a formula, are ValueErrors.
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2")
    T = float(steps)
    if detrended and (origin != "mean" or steps_per_epoch is not None):
        raise ValueError("detrended=True is known for independent steps about the mean only")
    if steps_per_epoch is None:
        if origin == "start":
            return (T - 1) / 2
        # Residual of a straight-line fit of a random walk: (T² − 4)/(15 T).
        return (T**2 - 4) / (15 * T) if detrended else (T**2 - 1) / (6 * T)
    if steps_per_epoch < 2 or steps % steps_per_epoch:
        raise ValueError(f"steps={steps} must be a whole number of epochs of {steps_per_epoch} steps")
    # After k of m steps of variance D a bridge has variance D k(m − k)/(m − 1); its mean (m + 1)/12.
    about_start = (steps_per_epoch + 1) / 6
    return about_start if origin == "start" else about_start * (1 - steps_per_epoch / (2 * T))


def correlation_time_from_velocities(correlation: ArrayLike, *, steps: int) -> np.ndarray:
    """τ = (1/T) Σ_t Σ_{t',t''≤t} c(t' − t'') in steps, origin at the window's start (PNAS 13).

    ``correlation`` (lags, …) is the normalised velocity correlation c(0) = 1, c(1), …, zero beyond the lags
    given; the result has shape (…). T/2 for c = δ (the paper's null; (T − 1)/2 with discrete steps). More
    lags than steps are a ValueError.
    """
    c = np.asarray(correlation, float)
    if len(c) > steps:
        raise ValueError(f"{len(c)} lags do not fit into a window of {steps} steps")
    # θ after t steps has variance Σ_k w_k c(k), w_0 = t, w_k = 2 (t − k)_+; averaged over t = 0 … T − 1.
    k = np.arange(len(c))
    weight = (steps - k) * (steps - k - 1) / steps
    weight[0] /= 2
    return np.tensordot(weight, c, axes=(0, 0))
