"""Escape rates against sharpness, batch size, learning rate and noise, and their slopes against theory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from fpsolve.escape.passages import VanishingNoise
from fpsolve.escape.rates import escape_rate
from fpsolve.escape.setting import EscapeSetting, NoiseName, Reading, styblinski_tang_setting
from fpsolve.progress import shown
from fpsolve.results import dataset, provenance, quantity
from fpsolve.statistics import poisson_line
from fpsolve.table import columns

Scanned: TypeAlias = Literal["sharpness", "batch_size", "learning_rate", "D", "time_step"]

#: For each number that is scanned: the abscissa u in which −ln γ is a straight line, and u of the number.
_ABSCISSAE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "sharpness": ("1/k", np.reciprocal),
    "batch_size": ("B", np.positive),
    "learning_rate": ("1/learning_rate", np.reciprocal),
    "D": ("1/D", np.reciprocal),
    "time_step": ("ln(1/dt)", lambda dt: -np.log(dt)),
}
#: That of sharpness for noise that does not depend on the landscape.
_LOG_SHARPNESS = ("ln k", np.log)


def scan_escape(
    setting: EscapeSetting,
    over: Scanned,
    values: ArrayLike,
    *,
    walkers: int = 400,
    max_steps: int = 100_000,
    rng: int | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Escape rates for several values of one number of a setting, all else as it is.

    Parameters
    ----------
    values : array
        Distinct and positive.
    walkers, max_steps : int, optional
        Walkers per value, and steps after which each is stopped.
    rng : int, optional
        Seed; point i uses ``SeedSequence(rng, spawn_key=(i,))``.
    executor : concurrent.futures.Executor, optional
        Where the points run, with the same bits; default here, one after another. For grids of several
        numbers, with a store, see :func:`styblinski_tang_point`.

    Returns
    -------
    Dataset, dim ``over``
        ``rate``, ``low``, ``high`` (1/time, exact 95 % interval), ``n_escaped``, ``n_diverged``,
        ``total_time``, ``abscissa`` (1/k, B, 1/η, 1/D or ln(1/dt); ln k for isotropic noise),
        ``exact_log_time`` (ln of the exact mean time of the Langevin equation; NaN where there is none),
        ``prefactor`` (ln of the theorems' prefactor relative to sharpness 1) and the predicted slopes at
        both ends of the path-dependent share, ``slope_minimum`` (s = 1) and ``slope_saddle`` (s = 0).
        A ValueError if the values make no sense, or the setting's noise has no number ``over``.
    """
    grid = _checked_grid(setting, over, values)
    seed = np.random.SeedSequence(rng).entropy if rng is None else rng
    run = partial(escape_point, setting, over, walkers=walkers, max_steps=max_steps)
    seeds = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in range(len(grid))]
    tasks = [partial(run, float(v), rng=own) for v, own in zip(grid, seeds, strict=True)]
    calls: list[Callable] = [executor.submit(task).result if executor else task for task in tasks]
    points = [call() for call in shown(calls, unit="point", progress=progress, leave=True)]
    scan = xr.concat(points, dim=xr.DataArray(grid, dims=over, name=over))
    log_k = over == "sharpness" and setting.kind.thermal
    abscissa, values_of = _LOG_SHARPNESS if log_k else _ABSCISSAE[over]
    scan["abscissa"] = quantity(values_of(grid), over, "abscissa")
    scan["slope_minimum"], scan["slope_saddle"] = _slopes(setting, over, log_k)
    described = {
        name: float(v)
        for name in ("learning_rate", "batch_size", "D", "sharpness", "time_step", "shift_variance")
        if name != over and (v := getattr(setting, name)) is not None
    }
    scan.attrs = provenance(
        f"escape of {setting.landscape.name}, {setting.noise} noise, against {over}",
        landscape=setting.landscape.name,
        dimensions=len(setting.landscape.variables),
        noise=setting.noise,
        over=over,
        abscissa=abscissa,
        target=str(setting.target),
        walkers=int(walkers),
        max_steps=int(max_steps),
        seed=str(seed),
        **described,
    )
    return scan


def _checked_grid(setting: EscapeSetting, over: str, values: ArrayLike) -> np.ndarray:
    """The scanned values; ValueError if they are not positive and distinct, or the noise lacks ``over``."""
    grid = np.asarray(values, float)
    if grid.ndim != 1 or len(np.unique(grid)) != grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(f"values={grid} must be distinct, positive and finite, in one list")
    allowed = sorted(setting.kind.scanned)
    if over not in allowed:
        raise ValueError(f"over={over!r} must be one of {allowed} for noise {setting.noise!r}")
    return grid


def escape_point(setting: EscapeSetting, over: Scanned, value: float, **options: Any) -> xr.Dataset:
    """One point of :func:`scan_escape`, for any worker: rate, interval, exact time, prefactor; no dims.

    ``value`` replaces the setting's number named by ``over``; ``options`` are those of ``setting.simulate``.
    """
    point = replace(setting, **{over: float(value)})  # type: ignore[arg-type]
    with warnings.catch_warnings():
        if over == "time_step":  # a scan of dt measures the growth that the warning is about
            warnings.simplefilter("ignore", VanishingNoise)
        runs = point.simulate(**options)
    exact = math.nan if over == "time_step" else point.exact_log_time()
    # Theorem 3.2: τ = 2π/(k|H_be|) exp(…/k); in Theorem 3.1 the slope against ln k holds it.
    log_prefactor = 0.0 if point.kind.thermal else -math.log(point.sharpness)
    rate = escape_rate(runs).drop_attrs(deep=False)
    return rate.assign(
        exact_log_time=quantity(exact, (), "ln of the exact mean time, Langevin"),
        prefactor=quantity(log_prefactor, (), "ln of the prefactor against k = 1"),
    )


def styblinski_tang_point(
    *,
    reading: Reading = "unshifted",
    dimensions: int = 1,
    noise: NoiseName | None = None,
    learning_rate: float | None = None,
    batch_size: float | None = None,
    D: float | None = None,
    sharpness: float = 1.0,
    time_step: float | None = None,
    walkers: int = 400,
    max_steps: int = 100_000,
    rng: int | np.random.SeedSequence | None = None,
) -> dict[str, float]:
    """One point of a grid of Styblinski–Tang experiments, as plain numbers, for :func:`fpsolve.sweep`.

    ``sweep(functools.partial(styblinski_tang_point, reading="data", batch_size=1), {"learning_rate": […],
    "sharpness": […]}, executor=…, store=…)`` gives the rates on a grid.

    Arguments are as in :func:`fpsolve.styblinski_tang_setting` and :func:`scan_escape`. The answer holds
    ``rate``, ``low``, ``high``, ``n_escaped``, ``n_diverged``, ``total_time`` and ``exact_log_time``.
    """
    setting = styblinski_tang_setting(
        reading, dimensions=dimensions, noise=noise, learning_rate=learning_rate,
        batch_size=batch_size, D=D, time_step=time_step,
    )  # fmt: skip
    point = escape_point(setting, "sharpness", sharpness, walkers=walkers, max_steps=max_steps, rng=rng)
    return {str(name): point[name].item() for name in point.data_vars if name != "prefactor"}


def _slopes(setting: EscapeSetting, over: str, log_k: bool) -> tuple:
    """Slopes of −ln γ that the theorems give at s = 1 and s = 0."""
    if log_k:
        ends = (-1.0, -1.0)
    elif over == "time_step":
        ends = (setting.step_exponent(),) * 2
    else:
        unit = setting.batch_size if over == "batch_size" else 1 / float(getattr(setting, over))
        ends = (setting.exponent(1.0) / float(unit), setting.exponent(0.0) / float(unit))  # type: ignore[arg-type]
    return tuple(quantity(end, (), f"predicted slope, s = {s}") for end, s in zip(ends, (1, 0), strict=True))


def fit_slope(scan: xr.Dataset, *, prefactor: bool = True, confidence: float = 0.95) -> xr.Dataset:
    """Straight line −ln γ = intercept + slope · u through a scan, by Poisson likelihood.

    The number of escapes in the total observed time S is Poisson with mean γS, so that values without an
    escape count as well, and each value weighs as much as its escapes.

    Parameters
    ----------
    scan : Dataset
        Of :func:`scan_escape`.
    prefactor : bool, optional
        Take the theorem's prefactor, ∝ 1/k for SGD, as known. False fits −ln γ itself.
    confidence : float, optional
        Probability of the interval, in (0, 1).

    Returns
    -------
    Dataset
        ``slope``, ``slope_low``, ``slope_high``, ``intercept``; ``pearson``, of −ln γ with u where
        escapes were seen; ``deviance``, ``degrees_of_freedom`` and ``p_value`` of the straight line;
        ``slope_minimum`` and ``slope_saddle``, the theorem's at s = 1 and s = 0; ``s``, ``s_low``,
        ``s_high``, the share that the fitted slope amounts to (outside (0, 1): the theorem is not met);
        ``exact_slope``, of the exact Langevin times with the same weights, NaN where there are none.
        A ValueError if fewer than two values saw an escape. Source: McCullagh, Nelder, *Generalized Linear
        Models* (1989), ch. 6. Coverage as measured: tests/fpsolve/escape/test_setting.py.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    u, n, S = (scan[name].to_numpy().astype(float) for name in ("abscissa", "n_escaped", "total_time"))
    if (n > 0).sum() < 2:
        raise ValueError(f"{int((n > 0).sum())} values saw an escape; a slope needs two. Raise max_steps")
    known = scan["prefactor"].to_numpy() if prefactor else np.zeros_like(u)
    line, covariance, expected = poisson_line(u, n, S * np.exp(-known))
    intercept, slope = -line
    z = float(stats.norm.isf((1 - confidence) / 2))
    error = z * math.sqrt(covariance[1, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        deviance = 2 * float(np.sum(np.where(n > 0, n * np.log(n / expected), 0.0) - (n - expected)))
    seen = n > 0
    log_time, exact = np.log(S[seen] / n[seen]) - known[seen], scan["exact_log_time"].to_numpy() - known
    varied = seen.sum() > 2 and np.ptp(log_time) > 0
    straight = float(np.corrcoef(u[seen], log_time)[0, 1]) if varied else math.nan
    exact_slope = np.polyfit(u, exact, 1, w=np.sqrt(expected))[0] if np.isfinite(exact).all() else math.nan
    at_one, at_zero = float(scan["slope_minimum"]), float(scan["slope_saddle"])
    share = lambda value: (value - at_zero) / (at_one - at_zero) if at_one != at_zero else math.nan  # noqa: E731
    shares = sorted((share(slope - error), share(slope + error)))
    values = {
        "slope": (slope, "slope of −ln γ"),
        "slope_low": (slope - error, "lower end"),
        "slope_high": (slope + error, "upper end"),
        "intercept": (intercept, "intercept of −ln γ"),
        "pearson": (straight, "Pearson correlation"),
        "deviance": (deviance, "deviance from the line"),
        "degrees_of_freedom": (u.size - 2, "degrees of freedom"),
        "p_value": (float(stats.chi2.sf(deviance, u.size - 2)) if u.size > 2 else math.nan, "p of the line"),
        "slope_minimum": (at_one, "predicted slope, s = 1"),
        "slope_saddle": (at_zero, "predicted slope, s = 0"),
        "s": (share(slope), "share s of the fitted slope"),
        "s_low": (shares[0], "lower end of s"),
        "s_high": (shares[1], "upper end of s"),
        "exact_slope": (float(exact_slope), "slope of the exact Langevin times"),
    }
    own = {"confidence": float(confidence), "prefactor": "that of the theorem" if prefactor else "none"}
    return dataset(
        {name: quantity(value, (), words) for name, (value, words) in values.items()},
        **scan.attrs | own | {"title": f"slope: {scan.attrs['title']}"},
    )


def slope_table(fits: Sequence[xr.Dataset] | Mapping[str, xr.Dataset]) -> str:
    """Fitted slopes beside the theorems', one line each.

    Parameters
    ----------
    fits : sequence, or mapping of label to Dataset
        Of :func:`fit_slope`; without labels their titles are shown.

    Returns
    -------
    str
        Columns: label, abscissa, fitted slope with its interval, slopes at s = 1 and s = 0, s, Pearson's
        correlation, p of the straight line, and slope of the exact Langevin times.
    """
    named = dict(fits) if isinstance(fits, Mapping) else {str(f.attrs["title"]): f for f in fits}
    rows = [("", "against", "slope", "interval", "s = 1", "s = 0", "s", "Pearson", "p", "exact")]
    for label, fit in named.items():
        v = {str(name): float(fit[name]) for name in fit.data_vars}
        rows.append(
            (
                label, str(fit.attrs["abscissa"]), f"{v['slope']:.4g}",
                f"[{v['slope_low']:.4g}, {v['slope_high']:.4g}]", f"{v['slope_minimum']:.4g}",
                f"{v['slope_saddle']:.4g}", f"{v['s']:.2f}", f"{v['pearson']:.4f}", f"{v['p_value']:.1g}",
                f"{v['exact_slope']:.4g}",
            )
        )  # fmt: skip
    return "\n".join(columns(rows))
