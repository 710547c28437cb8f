"""Exponents of power laws near a transition, with intervals that include the transition's own error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 2000


@dataclass(frozen=True)
class PowerLaw:
    """y = amplitude |x − origin|^exponent, with the exponent's interval.

    ``span`` holds the ends of the fitted x. ``misfit`` is χ² per degree of freedom of the line in
    logarithms: well above 1, the points do not lie on a power law, whatever the interval says.
    """

    exponent: float
    low: float
    high: float
    amplitude: float
    origin: float
    span: tuple[float, float]
    misfit: float

    def __str__(self) -> str:
        return f"{self.exponent:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The fitted values at x."""
        return self.amplitude * np.abs(np.asarray(x, float) - self.origin) ** self.exponent


def power_law(
    x: ArrayLike,
    y: ArrayLike,
    *,
    origin: float,
    stderr: ArrayLike | None = None,
    origin_stderr: float = 0.0,
    confidence: float = 0.95,
    rng: int | np.random.SeedSequence | np.random.Generator | None = 0,
) -> PowerLaw:
    """Fit of y = A |x − origin|^p by weighted least squares in logarithms.

    Parameters
    ----------
    x : array_like, shape (n,)
        All on one side of ``origin``.
    y : array_like, shape (n,)
        Positive.
    origin : float
        Where the law starts.
    stderr : array_like, shape (n,), optional
        Standard errors of y; without them all points weigh the same.
    origin_stderr : float
    confidence : float
    rng : optional
        For the resampling.

    Returns
    -------
    PowerLaw
        The interval holds the given share of exponents fitted to resampled y and origin. Without
        ``stderr``, y is resampled with the scatter about the line.

    Raises
    ------
    ValueError
        If there are fewer than 3 points, y is not positive, or x lies on both sides.
    """
    x, y = np.array(x, float), np.array(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(f"x and y must have one shape (n,) with n ≥ 3, not {x.shape} and {y.shape}")
    if not (y > 0).all():
        raise ValueError("y must be positive: subtract its value at the transition, leave zeros out")
    if len(set(np.sign(x - origin))) != 1 or (x == origin).any():
        raise ValueError(f"x must lie on one side of origin={origin:g}")
    relative = None if stderr is None else np.maximum(np.array(stderr, float) / y, 1e-12)
    p, log_a, misfit = _line(np.log(np.abs(x - origin)), np.log(y), relative)
    noise = np.full(len(x), np.sqrt(misfit)) if relative is None else relative * max(1.0, np.sqrt(misfit))
    generator = np.random.default_rng(rng)
    moved = origin + origin_stderr * generator.normal(size=_RESAMPLES)
    distance = x - moved[:, None]
    distance = np.abs(distance[(distance > 0).all(axis=1) | (distance < 0).all(axis=1)])
    shaken = np.log(y) + noise * generator.normal(size=distance.shape)
    found = _line(np.log(distance), shaken, relative)[0]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    span = (float(x.min()), float(x.max()))
    return PowerLaw(
        exponent=float(p), low=float(low), high=float(high), amplitude=float(np.exp(log_a)),
        origin=float(origin), span=span, misfit=float(misfit),
    )  # fmt: skip


def _line(x: np.ndarray, y: np.ndarray, errors: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Slope, intercept, and χ² per degree of freedom, along the last axis."""
    weight = np.ones(x.shape[-1]) if errors is None else errors**-2.0
    share = weight / weight.sum()
    mean_x, mean_y = (v @ share for v in (x, y))
    left_x, left_y = x - mean_x[..., None], y - mean_y[..., None]
    slope = (left_x * left_y) @ weight / (left_x**2 @ weight)
    rest = (left_y - slope[..., None] * left_x) ** 2 @ weight
    return slope, mean_y - slope * mean_x, rest / (x.shape[-1] - 2)
