"""Exponential law or power law? Fits of escape rates along a scan, by likelihood, and the spread of times."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

import fpsolve

Scanned = Literal["learning_rate", "batch_size", "sharpness", "injected_noise"]
LAWS = ("exponential", "power")


def fit_laws(
    x: ArrayLike,
    *,
    scanned: Scanned,
    escapes: ArrayLike,
    total_time: ArrayLike,
    variation: ArrayLike | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Two laws with two parameters each, fitted to n escapes in observed times S by likelihood.

    - "exponential": ln γ = a − b u with u = B, or 1/x for a learning rate, a sharpness, an injected D, as
      ICLR 2021 reads its figures;
    - "power": ln γ = a + p ln x.

    The likelihood is that of exponential waiting times, Σ (n ln γ − γ S), whose maximum does not depend on
    their true spread. Where times spread less, differences of it are too small: multiplied by 1/cv² they
    are about right (a quasi-likelihood), so AIC differences stated here are cautious. The interval of a
    slope does use the spread, and grows by √(χ²/dof) where the law does not fit.

    Parameters
    ----------
    x : array, shape (points,)
    scanned : {"learning_rate", "batch_size", "sharpness", "injected_noise"}
        What x is.
    escapes, total_time : array, shape (points,)
        n > 0 and S.
    variation : array, shape (points,), optional
        Coefficient of variation of the times; default 1.
    confidence : float

    Returns
    -------
    Dataset, dim ``law``
        ``intercept``, ``slope`` (b or p) with ``slope_low``, ``slope_high``; ``aic``; ``r_squared`` of ln n/S
        against u or ln x, unweighted as a figure shows it; ``residual``, root mean square of ln γ;
        ``chi_squared`` per degree of freedom, with errors cv/√n. ``fitted`` (law, point). ``aic_difference``
        is that of the exponential minus that of the power law: positive favours the power law.

    Raises
    ------
    ValueError
        If there are fewer than three points, or one without escapes.

    References
    ----------
    Xie, Sato, Sugiyama, ICLR 2021, Figs. 5, 6, 10–19; Akaike, IEEE Trans. Autom. Control 19, 716 (1974).
    """
    x, n, S = (np.asarray(v, dtype=float) for v in (x, escapes, total_time))
    cv = np.ones_like(x) if variation is None else np.asarray(variation, dtype=float)
    if scanned not in ("learning_rate", "batch_size", "sharpness", "injected_noise"):
        raise ValueError(
            f"scanned={scanned!r} must be learning_rate, batch_size, sharpness or injected_noise"
        )
    if x.ndim != 1 or len(x) < 3 or not (x.shape == n.shape == S.shape == cv.shape):
        raise ValueError("x, escapes, total_time and variation must be one-dimensional, of 3 or more points")
    if not ((n > 0) & (S > 0) & (x > 0) & (cv > 0)).all():
        raise ValueError("every point needs an escape, and a positive x, time and variation; drop the others")
    u = {"exponential": -x if scanned == "batch_size" else -1 / x, "power": np.log(x)}
    z = stats.norm.isf((1 - confidence) / 2)
    columns: dict[str, list] = {name: [] for name in _VARIABLES}
    for law in LAWS:
        fit = _fitted(u[law], n, S)
        a, b = fit
        log_rate = a + b * u[law]
        # Error of n/S for times of spread cv, and the sandwich of the likelihood's own fit.
        X = np.stack([np.ones_like(x), u[law]], 1)
        weight = np.exp(log_rate) * S
        bread = np.linalg.inv(X.T @ (weight[:, None] * X))
        error = np.sqrt(np.diag(bread @ (X.T @ ((weight**2 * cv**2 / n)[:, None] * X)) @ bread))[1]
        residual = np.log(n / S) - log_rate
        chi = float((residual**2 * n / cv**2).sum() / (len(x) - 2))
        width = z * error * math.sqrt(max(1.0, chi))
        columns["intercept"].append(a)
        columns["slope"].append(b)
        columns["slope_low"].append(b - width)
        columns["slope_high"].append(b + width)
        columns["aic"].append(4 - 2 * float((n * log_rate - np.exp(log_rate) * S).sum()))
        columns["r_squared"].append(float(np.corrcoef(u[law], np.log(n / S))[0, 1] ** 2))
        columns["residual"].append(float(np.sqrt(np.mean(residual**2))))
        columns["chi_squared"].append(chi)
        columns["fitted"].append(np.exp(log_rate))
    variables = {
        name: (
            ("law", "point") if name == "fitted" else "law",
            np.array(columns[name]),
            {"long_name": text, "units": "1"},
        )
        for name, text in _VARIABLES.items()
    }
    data = xr.Dataset(
        variables,
        {"law": list(LAWS), "x": ("point", x, {"long_name": scanned, "units": "1"})},
        {"title": "laws of escape", "scanned": scanned, "fpsolve_version": fpsolve.__version__},
    )
    data["aic_difference"] = data.aic.sel(law="exponential", drop=True) - data.aic.sel(law="power", drop=True)
    data["aic_difference"].attrs = {"long_name": "AIC, exponential − power law", "units": "1"}
    return data


_VARIABLES = {
    "intercept": "ln γ where the variable is 0",
    "slope": "b of exp(−b u), or the power p",
    "slope_low": "lower end of its interval",
    "slope_high": "upper end of its interval",
    "aic": "Akaike's criterion",
    "r_squared": "squared correlation of ln γ with the law's variable",
    "residual": "root mean square residual of ln γ",
    "chi_squared": "χ² per degree of freedom",
    "fitted": "rate by the law",
}


def _fitted(u: np.ndarray, n: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Maximum of Σ n (a + b u) − S exp(a + b u), a concave function, by Newton's method."""
    X = np.stack([np.ones_like(u), (u - u.mean()) / u.std()], 1)
    beta = np.linalg.lstsq(X, np.log(n / S), rcond=None)[0]
    for _ in range(100):
        expected = S * np.exp(X @ beta)
        step = np.linalg.solve(X.T @ (expected[:, None] * X), X.T @ (n - expected))
        beta = beta + step / max(1.0, abs(step).max())
        if abs(step).max() < 1e-12:
            break
    slope = beta[1] / u.std()
    return np.array([beta[0] - slope * u.mean(), slope])


def variation(
    times: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, rng: int = 0
) -> tuple[float, float, float]:
    """Coefficient of variation of escape times, with a bootstrap interval; 1 for an exponential law.

    Parameters
    ----------
    times : array, shape (n,)
        Uncensored.
    confidence : float
    resamples : int
    rng : int

    Returns
    -------
    value, low, high : float

    Raises
    ------
    ValueError
        If there are fewer than three times.
    """
    t = np.asarray(times, dtype=float)
    if t.ndim != 1 or len(t) < 3:
        raise ValueError(f"times of shape {t.shape} must be at least three numbers")
    drawn = t[np.random.default_rng(rng).integers(len(t), size=(resamples, len(t)))]
    spread = drawn.std(1, ddof=1) / drawn.mean(1)
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(t.std(ddof=1) / t.mean()), float(low), float(high)
