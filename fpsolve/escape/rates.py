"""Escape rates and their intervals from escape times, some of them cut short."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from fpsolve.escape.kernel import DIVERGED, ESCAPED
from fpsolve.results import dataset, quantity


def escape_rate(
    runs: xr.Dataset | None = None,
    *,
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
        ``runs`` and ``times`` are given, or n < 3 with ``"asymptotic"``. A UserWarning if walkers diverged:
        leaving by divergence then competes with escape.

    References
    ----------
    Epstein, Sobel, J. Am. Stat. Assoc. 48, 486 (1953); Cox, Biometrika 40, 354 (1953): χ² intervals.
    Xie, Sato, Sugiyama, ICLR 2021, appendix D: (n − 2)/Σt. Coverage as measured:
    tests/fpsolve/escape/test_passages.py.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    if method not in ("exact", "asymptotic"):
        raise ValueError(f"method={method!r} must be 'exact' or 'asymptotic'")
    if (runs is None) == (times is None):
        raise ValueError("give either runs (from simulate_escape) or times")
    source, diverged = "", 0
    if runs is not None:
        if not {"outcome", "observed_time"} <= set(runs.variables):
            raise ValueError("runs must be a result of simulate_escape, with outcome and observed_time")
        n = int((runs["outcome"] == ESCAPED).sum())
        diverged = int((runs["outcome"] == DIVERGED).sum())
        observed = np.asarray(runs["observed_time"].values, dtype=float)
        source = str(runs.attrs.get("title", ""))
    else:
        escaped = np.atleast_1d(np.asarray(times, dtype=float))
        n = escaped.size
        observed = np.concatenate([escaped.ravel(), np.ravel(np.asarray(censored_time, dtype=float))])
    if not (np.isfinite(observed).all() and (observed >= 0).all()):
        raise ValueError("times must be finite and not negative; put stopped walkers into censored_time")
    S = math.fsum(observed)
    if S <= 0:
        raise ValueError("the total observed time is 0, so there is no rate; give times above 0")
    if diverged:
        warnings.warn(f"{diverged} walkers diverged: the rate is that of escape before it", stacklevel=2)
    tail = (1 - confidence) / 2
    if method == "exact":
        rate, low = n / S, float(stats.chi2.ppf(tail, 2 * n) / (2 * S)) if n else 0.0
        high = float(stats.chi2.isf(tail, 2 * n + 2) / (2 * S))
    elif n < 3:
        raise ValueError(f"(n − 2)/S needs at least 3 escapes, and there are {n}; use method='exact'")
    else:
        rate, width = (n - 2) / S, float(stats.norm.isf(tail)) / math.sqrt(n)
        low, high = rate * max(0.0, 1 - width), rate * (1 + width)
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
