"""Exponential law or power law? Fits of escape rates along a scan, by likelihood, and the spread of times."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from fpsolve.results import dataset, quantity
from fpsolve.statistics import Estimate, bootstrap, poisson_line

Scanned = Literal["learning_rate", "batch_size", "sharpness", "injected_noise"]
LAWS = ("exponential", "power")


def fit_laws(
    x: ArrayLike, *, scanned: Scanned, escapes: ArrayLike, total_time: ArrayLike,
    variation: ArrayLike | None = None, confidence: float = 0.95,
) -> xr.Dataset:  # fmt: skip
    """Two laws with two parameters each, fitted to n escapes in observed times S by likelihood.

    - "exponential": ln γ = a − b u with u = B, or 1/x for a learning rate, a sharpness, an injected D, as
      ICLR 2021 reads its figures;
    - "power": ln γ = a + p ln x.

    The likelihood is that of exponential waiting times, Σ (n ln γ − γ S). Its maximum does not depend on the
    true spread of the times. Where times spread less, its differences are too small: multiplied by 1/cv² they
    are about right (a quasi-likelihood), so the AIC differences stated here are cautious. The interval of a
    slope uses the spread, and grows by √(χ²/dof) where the law does not fit.

    ``x``, ``escapes`` n > 0, ``total_time`` S and ``variation``, the coefficient of variation of the times
    (default 1), have shape (points,). ``scanned`` says what x is. Fewer than three points, or one without
    escapes, are a ValueError.

    Returned over ``law`` are the numbers of ``_VARIABLES``: ``slope`` is b or p, ``r_squared`` is unweighted
    as a figure shows it, ``chi_squared`` has errors cv/√n. ``fitted`` has dims law and point. A positive
    ``aic_difference``, exponential minus power law, favours the power law.

    References: Xie, Sato, Sugiyama, ICLR 2021, Figs. 5, 6, 10–19; Akaike, IEEE Trans. Autom. Control 19,
    716 (1974).
    """
    x, n, S = (np.asarray(v, dtype=float) for v in (x, escapes, total_time))
    cv = np.ones_like(x) if variation is None else np.asarray(variation, dtype=float)
    if scanned not in get_args(Scanned):
        raise ValueError(f"scanned={scanned!r} must be one of {', '.join(get_args(Scanned))}")
    if x.ndim != 1 or len(x) < 3 or not (x.shape == n.shape == S.shape == cv.shape):
        raise ValueError("x, escapes, total_time and variation must be one-dimensional, of 3 or more points")
    if not ((n > 0) & (S > 0) & (x > 0) & (cv > 0)).all():
        raise ValueError("every point needs an escape, and a positive x, time and variation; drop the others")
    u = {"exponential": -x if scanned == "batch_size" else -1 / x, "power": np.log(x)}
    z = stats.norm.isf((1 - confidence) / 2)
    each = [_fitted(u[law], n, S, cv, z) for law in LAWS]
    found = {name: quantity([one[name] for one in each], "law", text) for name, text in _VARIABLES.items()}
    found["fitted"] = quantity([one["fitted"] for one in each], ("law", "point"), "rate by the law")
    exponential, power = (one["aic"] for one in each)
    found["aic_difference"] = quantity(exponential - power, (), "AIC, exponential − power law")
    coords = {"law": list(LAWS), "x": quantity(x, "point", scanned)}
    return dataset(found, title="laws of escape", coords=coords, scanned=scanned)


_VARIABLES = {
    "intercept": "ln γ where the variable is 0",
    "slope": "b of exp(−b u), or the power p",
    "slope_low": "lower end of its interval",
    "slope_high": "upper end of its interval",
    "aic": "Akaike's criterion",
    "r_squared": "squared correlation of ln γ with the law's variable",
    "residual": "root mean square residual of ln γ",
    "chi_squared": "χ² per degree of freedom",
}


def _fitted(u: np.ndarray, n: np.ndarray, S: np.ndarray, cv: np.ndarray, z: float) -> dict[str, Any]:
    """One law, ln γ = a + b u, with the half width of b's interval in z standard errors."""
    (a, b), bread, expected = poisson_line(u, n, S)
    log_rate = a + b * u
    # Error of n/S for times of spread cv, and the sandwich of the likelihood's own fit.
    X = np.stack([np.ones_like(u), u], 1)
    error = np.sqrt(np.diag(bread @ (X.T @ ((expected**2 * cv**2 / n)[:, None] * X)) @ bread))[1]
    residual = np.log(n / S) - log_rate
    chi = float((residual**2 * n / cv**2).sum() / (len(u) - 2))
    width = z * error * math.sqrt(max(1.0, chi))
    return {
        "intercept": a, "slope": b, "slope_low": b - width, "slope_high": b + width,
        "aic": 4 - 2 * float((n * log_rate - expected).sum()),
        "r_squared": float(np.corrcoef(u, np.log(n / S))[0, 1] ** 2),
        "residual": float(np.sqrt(np.mean(residual**2))), "chi_squared": chi, "fitted": np.exp(log_rate),
    }  # fmt: skip


def variation(times: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Coefficient of variation of uncensored escape times, bootstrap interval; 1 for an exponential law.

    Fewer than three times are a ValueError.
    """
    t = np.asarray(times, dtype=float)
    if t.ndim != 1 or len(t) < 3:
        raise ValueError(f"times of shape {t.shape} must be at least three numbers")
    return bootstrap(lambda drawn: drawn.std(-1, ddof=1) / drawn.mean(-1), t, confidence=confidence)
