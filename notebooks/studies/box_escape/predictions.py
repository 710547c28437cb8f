"""Predictions for the exit from a box, from the measured noise C and curvature H, without a fit.

1. Free diffusion: no barrier, no landscape. dΔ = √(ηC/B) dW from the centre of the box; the mean exit time
   is s B/η with s a number that C and the box fix, so that per iteration 1/⟨n⟩ = η²/(sB).
2. Level crossing in the basin ½ ΔᵀHΔ of the same noise: exponential in B/η, for rare exits.
3. The basin itself, simulated with the frozen noise of the samples: ``local_dynamics(…, drift="quadratic")``.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import integrate, linalg, stats

from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Rng

#: |ζ(1/2)|/√(2π). A walk that is checked every dt crosses a boundary as late as Brownian motion crosses one
#: this many standard deviations of a step farther (Broadie, Glasserman, Kou, Math. Finance 7, 325, 1997).
SHIFT = 0.5825971579390106


def free_exit_time(
    C: ArrayLike, *, half_width: float = 0.05, walkers: int = 1000, steps: int = 1000,
    confidence: float = 0.95, rng: Rng = None,
) -> xr.Dataset:  # fmt: skip
    """Times s at which a Brownian motion of covariance C per unit of s first leaves the box |Δ_i| ≤ r.

    For SGD s = (η/B) · time = (η²/B) · iterations; with noise D injected, C → C + (2BD/η) I. C has shape
    (P, P); r is ``half_width``; the exit takes about ``steps`` steps, with the boundary moved in by
    :data:`SHIFT` for exits between two of them. Returned: ``mean`` with its ends ``low`` and ``high`` at the
    ``confidence``, ``variation`` = standard deviation / mean, and ``s`` (walker). A C that is no covariance,
    or zero, is a ValueError.
    """
    C = np.asarray(C, dtype=float)
    if C.ndim != 2 or C.shape[0] != C.shape[1] or not np.allclose(C, C.T, atol=1e-9 * abs(C).max()):
        raise ValueError(f"C of shape {C.shape} must be a symmetric matrix")
    values, vectors = linalg.eigh(C)
    if not values[-1] > 0 or values[0] < -1e-6 * values[-1]:
        raise ValueError(f"C must be a covariance, not of eigenvalues {values[0]:.2g} to {values[-1]:.2g}")
    rng = np.random.default_rng(rng)
    kept = values > 1e-9 * values[-1]
    variance = np.diag(C)
    # The fastest coordinate alone takes r²/C_ii; many together about ln P times less.
    ds = half_width**2 / (variance.max() * steps * (1 + math.log(len(C))) / 2)
    factor = vectors[:, kept] * np.sqrt(values[kept] * ds)
    edge = half_width - SHIFT * np.sqrt(variance * ds)
    position, left, inside, n = np.zeros((walkers, len(C))), np.zeros(walkers), np.arange(walkers), 0
    while len(inside):
        n += 1
        position += rng.standard_normal((len(inside), factor.shape[1])) @ factor.T
        stay = (np.abs(position) <= edge).all(1)
        if not stay.all():
            left[inside[~stay]] = (n - 0.5) * ds
            inside, position = inside[stay], position[stay]
    mean, spread = left.mean(), left.std(ddof=1)
    width = stats.norm.isf((1 - confidence) / 2) * spread / math.sqrt(walkers)
    variables = {
        "mean": quantity(mean, (), "mean exit in s"),
        "low": quantity(mean - width, (), "lower end of its interval"),
        "high": quantity(mean + width, (), "upper end of its interval"),
        "variation": quantity(spread / mean, (), "coefficient of variation"),
        "s": quantity(left, "walker", "exit in s"),
    }
    asked = {"half_width": float(half_width), "confidence": float(confidence)}
    return dataset(variables, title="exit of free diffusion from a box", coords=None, **asked)


def isotropic_exit_time(parameters: int, *, half_width: float = 0.05, diffusion: float = 1.0) -> float:
    """Mean time until the first of P independent coordinates leaves ±r by diffusion alone, exactly.

    T = ∫ S(t)^P dt with S(t) = (4/π) Σ_n (−1)ⁿ/(2n + 1) exp(−(2n + 1)² π² D t / 4r²). For P = 1 this is
    r²/2D. The rate 1/T is ∝ D, and, with the box r/√k, ∝ k, as reported for SGLD. A P, r or D that is not
    positive is a ValueError.
    """
    if not min(parameters, half_width, diffusion) > 0:
        raise ValueError(f"{parameters=}, {half_width=} and {diffusion=} must be positive")
    n = np.arange(200)

    def inside(u: float) -> float:  # u = D t / r²
        if u < 1e-3:
            return 1.0  # exp(−1/4u) is below rounding
        terms = (-1.0) ** n / (2 * n + 1) * np.exp(-((2 * n + 1) ** 2) * math.pi**2 * u / 4)
        return min(1.0, 4 / math.pi * float(terms.sum())) ** parameters

    edges = np.array([0, 0.01, 0.03, 0.1, 0.3, 1, 3, 12])
    parts = [integrate.quad(inside, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges)]
    return half_width**2 / diffusion * math.fsum(parts)


def basin_covariance(C: ArrayLike, H: ArrayLike) -> np.ndarray:
    """Stationary covariance Σ of dΔ = −HΔ dt + √C dW, HΣ + ΣH = C. SGD's basin has (η/B) Σ.

    C, H and Σ have shape (P, P). Directions of no curvature and no noise, such as a ReLU net's symmetries,
    have no variance. Directions of no curvature and some noise, or of negative curvature, have no stationary
    state: Σ is infinite on the diagonal of each coordinate with a part in such a direction.
    """
    values, U = linalg.eigh(np.asarray(H, dtype=float))
    noise = U.T @ np.asarray(C, dtype=float) @ U
    small = 1e-9 * max(abs(values).max(), np.finfo(float).tiny)
    silent = np.diag(noise) <= 1e-9 * np.trace(noise)
    lost = (values <= small) & ~silent
    total = values[:, None] + values
    good = (values > small)[:, None] & (values > small)
    sigma = U @ np.where(good, noise / np.where(good, total, 1.0), 0.0) @ U.T
    if lost.any():
        reached = (np.abs(U[:, lost]) > 1e-6).any(1)
        sigma[reached, reached] = math.inf
    return sigma


def positive_part(H: ArrayLike) -> np.ndarray:
    """[H]₊ = U |Λ| Uᵀ, shape (P, P), as ICLR 2021 writes it below Eq. 7: eigenvalues by their size."""
    values, U = linalg.eigh(np.asarray(H, dtype=float))
    return (U * np.abs(values)) @ U.T


def level_crossing_rate(
    C: ArrayLike, H: ArrayLike, *, learning_rate: float, batch_size: float, half_width: float = 0.05
) -> tuple[float, float]:
    """Rate at which SGD in its quadratic basin leaves a box, for rare exits; and the exponent ΔL/D.

    With D = ηC/2B, Σ of :func:`basin_covariance` and r the ``half_width``, the rate is the density at the
    face Δ_i = r times the speed of the way out, both faces of each coordinate:

        γ = Σ_i 2 (D_ii r/Σ'_ii) exp(−r²/2Σ'_ii) / √(2πΣ'_ii),   Σ' = (η/B) Σ.

    γ is per unit of time, η × iterations. The exponent is the smallest r²/2Σ'_ii; γ holds where it is ≫ 1.
    Without a stationary state they are NaN and 0. For C = H the exponent is B r²/η for *every* direction: the
    curvature cancels. ICLR's Theorem 3.2 for such a face is s times that, s ∈ (0, 1) (it sets both curvatures
    of its path, H_ae and H_be).

    Gardiner, *Stochastic Methods* (2009), first passage in several dimensions.
    """
    D = learning_rate / (2 * batch_size) * np.diag(np.asarray(C, dtype=float))
    variance = learning_rate / batch_size * np.diag(basin_covariance(C, H))
    if np.isinf(variance).any():
        return math.nan, 0.0
    moving = variance > 0
    v, d = variance[moving], D[moving]
    exponents = half_width**2 / (2 * v)
    rates = 2 * d * half_width / v * np.exp(-exponents) / np.sqrt(2 * math.pi * v)
    return float(rates.sum()), float(exponents.min())
