"""Escape rates and their intervals from escape times, some of them cut short."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from fpsolve.ensemble.steps import extrapolation
from fpsolve.ensemble.summary import MOST_LOST
from fpsolve.escape.kernel import DIVERGED, ESCAPED
from fpsolve.escape.passages import lost_passages
from fpsolve.results import dataset, quantity


def escape_rate(
    runs: xr.Dataset | None = None,
    *,
    finer: xr.Dataset | None = None,
    times: ArrayLike | None = None,
    censored_time: ArrayLike = 0.0,
    confidence: float = 0.95,
    method: Literal["exact", "asymptotic"] = "exact",
) -> xr.Dataset:
    """Rate of escape, with an interval, from n escapes in a total observed time S.

    For exponential times, with some walkers stopped before they escape:

    - ``"exact"``: the maximum-likelihood rate n/S with the interval
      [χ²_{2n}(α/2), χ²_{2n+2}(1 − α/2)]/(2S), α = 1 − ``confidence``. With n = 0 the rate and its
      lower end are 0, and the upper end is finite.
    - ``"asymptotic"``: (n − 2)/S (1 ± z/√n), z = 1.96 at 95 %; it needs n ≥ 3.

    Parameters
    ----------
    runs : Dataset, optional
        From :func:`fpsolve.simulate_escape`. A walker that diverged counts as observed until then.
    finer : Dataset, optional
        The same with a smaller time step and another seed: the rate is then extrapolated to dt → 0 with the
        weak order of the steps, ln k = w ln k_finer − (w − 1) ln k. Its interval is that of the normal law
        for ln k, with variance 1/n from n escapes in each. Where the drift jumps, at a kink of the loss, the
        order lies between 1/2 and 1: w is the middle of theirs, the interval holds both, and a
        UserWarning says so.
    times : array, optional
        Escape times, instead of ``runs``.
    censored_time : number or array, optional
        With ``times``: the observed times of the walkers that did not escape, or their sum.
    confidence : float, optional
        Probability of the interval, in (0, 1).

    Returns
    -------
    Dataset
        ``rate``, ``low``, ``high`` (1/time), ``n_escaped`` and ``total_time``.
        A ValueError if there is no observed time, a time is negative or not finite, neither or both of
        ``runs`` and ``times`` are given, n < 3 with ``"asymptotic"``, or more than a tenth of the walkers
        diverged: there is then no rate of the process. A UserWarning if some did: leaving by divergence then
        competes with escape.

    References
    ----------
    Epstein, Sobel, J. Am. Stat. Assoc. 48, 486 (1953); Cox, Biometrika 40, 354 (1953): χ² intervals.
    Xie, Sato, Sugiyama, ICLR 2021, appendix D: (n − 2)/Σt. Coverage as measured:
    tests/fpsolve/escape/test_passages.py.
    """
    if finer is not None:
        return _extrapolated(runs, finer, confidence, method)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    if method not in ("exact", "asymptotic"):
        raise ValueError(f"method={method!r} must be 'exact' or 'asymptotic'")
    if (runs is None) == (times is None):
        raise ValueError("give either runs (from simulate_escape) or times")
    source, diverged, limit = "", 0, math.nan
    if runs is not None:
        if not {"outcome", "observed_time"} <= set(runs.variables):
            raise ValueError("runs must be a result of simulate_escape, with outcome and observed_time")
        n = int((runs["outcome"] == ESCAPED).sum())
        diverged = int((runs["outcome"] == DIVERGED).sum())
        observed = np.asarray(runs["observed_time"].values, dtype=float)
        source, limit = str(runs.attrs.get("title", "")), float(runs.attrs.get("divergence", math.nan))
    else:
        escaped = np.atleast_1d(np.asarray(times, dtype=float))
        n = escaped.size
        observed = np.concatenate([escaped.ravel(), np.ravel(np.asarray(censored_time, dtype=float))])
    if not (np.isfinite(observed).all() and (observed >= 0).all()):
        raise ValueError("times must be finite and not negative; put stopped walkers into censored_time")
    S = math.fsum(observed)
    if S <= 0:
        raise ValueError("the total observed time is 0, so there is no rate; give times above 0")
    if diverged > MOST_LOST * len(observed):
        raise ValueError(f"no rate: {lost_passages(diverged, len(observed), limit)}")
    if diverged:
        warnings.warn(
            f"{lost_passages(diverged, len(observed), limit)}; the rate is that of escape before it",
            stacklevel=2,
        )
    tail = (1 - confidence) / 2
    if method == "exact":
        rate, low = n / S, float(stats.chi2.ppf(tail, 2 * n) / (2 * S)) if n else 0.0
        high = float(stats.chi2.isf(tail, 2 * n + 2) / (2 * S))
    elif n < 3:
        raise ValueError(f"(n − 2)/S needs at least 3 escapes, and there are {n}; use method='exact'")
    else:
        rate, width = (n - 2) / S, float(stats.norm.isf(tail)) / math.sqrt(n)
        low, high = rate * max(0.0, 1 - width), rate * (1 + width)
    return _labelled(rate, low, high, n, diverged, S, source, method, confidence)


def extrapolation_weight(coarse: xr.Dataset, fine: xr.Dataset) -> tuple[float, float]:
    """w in w fine + (1 − w) coarse, for dt → 0, from steps and weak order of two results; its error."""
    steps = [float(run.attrs["time_step"]) for run in (coarse, fine)]
    orders = {float(run.attrs["weak_order"]) for run in (coarse, fine)}
    if len(orders) > 1 or not steps[1] < steps[0]:
        raise ValueError(
            f"time steps {steps[0]:g} and {steps[1]:g}: finer must be the same process with a smaller step"
        )
    return extrapolation(steps[0] / steps[1], orders.pop())


def _extrapolated(
    runs: xr.Dataset | None, finer: xr.Dataset, confidence: float, method: Literal["exact", "asymptotic"]
) -> xr.Dataset:
    """The rate for dt → 0 from two steps."""
    if runs is None:
        raise ValueError("finer needs runs of a longer time step")
    if runs.attrs.get("process_hash") != finer.attrs.get("process_hash"):
        raise ValueError("runs and finer belong to different processes")
    if runs.attrs.get("seed") == finer.attrs.get("seed"):
        raise ValueError("runs and finer have one seed: they are not independent; give each its own rng")
    coarse, fine = (escape_rate(r, confidence=confidence, method=method) for r in (runs, finer))
    if not (int(coarse.n_escaped) and int(fine.n_escaped)):
        raise ValueError("no escape in one of the two: there is nothing to extrapolate")
    w, doubt = extrapolation_weight(runs, finer)
    if doubt:
        warnings.warn(
            "the drift jumps (a kink of the loss): extrapolation with the order of smooth drifts does not "
            "hold. The interval holds the orders 1/2 and 1, but not what is left of steps that are too long "
            "beside the kink; see that still shorter steps give the same",
            stacklevel=3,
        )
    change = math.log(float(fine.rate) / float(coarse.rate))
    log_rate = math.log(float(fine.rate)) + (w - 1) * change
    error = math.hypot(w / math.sqrt(int(fine.n_escaped)), (w - 1) / math.sqrt(int(coarse.n_escaped)))
    half = error * float(stats.norm.isf((1 - confidence) / 2)) + doubt * abs(change)
    rate, low, high = (math.exp(log_rate + part) for part in (0, -half, half))
    n, lost, total = (
        coarse[name].item() + fine[name].item() for name in ("n_escaped", "n_diverged", "total_time")
    )
    source = str(finer.attrs.get("title", "")) + ", dt -> 0"
    return _labelled(rate, low, high, n, lost, total, source, method, confidence)


def _labelled(
    rate: float, low: float, high: float, n: int, diverged: int, S: float, source: str, method: str,
    confidence: float,
) -> xr.Dataset:  # fmt: skip
    """The rate and its interval, labelled."""
    percent = f"{100 * confidence:g} % interval"
    return dataset(
        {
            "rate": quantity(rate, (), "escape rate", "1/time"),
            "low": quantity(low, (), f"lower end of the {percent}", "1/time"),
            "high": quantity(high, (), f"upper end of the {percent}", "1/time"),
            "n_escaped": quantity(n, (), "escapes"),
            "n_diverged": quantity(diverged, (), "walkers that diverged"),
            "total_time": quantity(S, (), "total observed time", "time"),
        },
        title=f"escape rate: {source}" if source else "escape rate",
        method=method,
        confidence=float(confidence),
    )
