"""From the steps of a study to rates, intervals, fitted laws and the readings beside them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.escape.rates import escape_rate
from fpsolve.results import dataset, quantity
from fpsolve.statistics import Estimate
from notebooks.studies.box_escape.laws import Scanned, fit_laws, variation
from notebooks.studies.box_escape.scans import DYNAMICS, SCANS

Scan = Literal["learning_rate", "shuffled", "batch_size", "injected_noise", "sharpness_sgld", "sharpness"]
READINGS = ("diffusion", "level", "quadratic")
_SCANNED: dict[str, Scanned] = {
    "learning_rate": "learning_rate", "shuffled": "learning_rate", "batch_size": "batch_size",
    "injected_noise": "injected_noise", "sharpness_sgld": "sharpness", "sharpness": "sharpness",
}  # fmt: skip


def scan_rates(
    study: xr.Dataset, scan: Scan, *, dynamics: str = "network", confidence: float = 0.95
) -> xr.Dataset:
    """Rates with exact intervals along one scan of one start, over ``point`` with coordinate ``x``.

    ``study`` is one point of a sweep over ``scans.escape_study``, ``sweep.isel(…)``; ``dynamics`` is one of
    ``DYNAMICS``. The scan "sharpness" is the scan over the learning rate read as L(√k θ): k = η/η_min at the
    learning rate η_min, the same steps in another unit of time. A scan that does not exist, or in which
    nothing was run, is a ValueError.

    ``rate``, ``low``, ``high`` are per unit of time η × steps; ``mean_steps`` and ``variation``, with its
    ends, are NaN where some replicas were censored. Points without a run are left out.
    """
    if scan not in _SCANNED or dynamics not in DYNAMICS:
        raise ValueError(f"scan={scan!r}, dynamics={dynamics!r} must be of {tuple(_SCANNED)}, {DYNAMICS}")
    steps = _of(study.steps, scan).isel(dynamics=DYNAMICS.index(dynamics)).values
    eta, x = _of(study.learning_rate, scan).values, _of(study.x, scan).values
    if scan == "sharpness":
        x = eta / eta.min()
        eta = np.full_like(eta, eta.min())
    ran = np.isfinite(steps).any(1)
    if not ran.any():
        raise ValueError(f"no {dynamics} was run in the scan over {scan}")
    rows = [_rate(signed, e, confidence) for signed, e in zip(steps[ran], eta[ran], strict=True)]
    units = {"rate": "1/time", "low": "1/time", "high": "1/time", "total_time": "time"}
    columns = {
        name: quantity([row[name] for row in rows], "point", name.replace("_", " "), units.get(name, "1"))
        for name in rows[0]
    }
    coords = {"x": quantity(x[ran], "point", _SCANNED[scan].replace("_", " "))}
    title = f"escape rates, {dynamics}"
    return dataset(columns, title=title, coords=coords, scan=scan, confidence=float(confidence))


def _rate(signed: np.ndarray, eta: float, confidence: float) -> dict[str, float]:
    """The numbers of :func:`scan_rates` at one point, from signed steps at a learning rate."""
    signed = signed[np.isfinite(signed)]
    out, stayed = signed[signed > 0], -signed[signed < 0]
    rate = escape_rate(times=eta * out, censored_time=eta * stayed, confidence=confidence)
    row = {name: float(rate[name]) for name in ("rate", "low", "high", "total_time")}
    row |= {"escapes": float(len(out)), "replicas": float(len(signed))}
    spread, mean, error = Estimate(math.nan, math.nan, math.nan), math.nan, math.nan
    if not len(stayed) and len(out) >= 3:
        spread, mean, error = variation(out, confidence=confidence), out.mean(), stats.sem(out)
    row |= {"mean_steps": float(mean), "mean_steps_stderr": float(error)}
    return row | {"variation": spread.value, "variation_low": spread.low, "variation_high": spread.high}


def dynamics_rates(study: xr.Dataset, scan: Scan) -> dict[str, xr.Dataset]:
    """:func:`scan_rates` of each of the dynamics that was run in a scan."""
    ran = _of(study.steps, scan).notnull().any(["point", "replica"]).values
    return {name: scan_rates(study, scan, dynamics=name) for name in np.array(DYNAMICS)[ran].tolist()}


def scan_fits(study: xr.Dataset, scan: Scan, *, confidence: float = 0.95) -> xr.Dataset:
    """The two laws fitted to the points of a scan with escapes, see ``fit_laws``."""
    rates = scan_rates(study, scan, confidence=confidence)
    rates = rates.isel(point=np.flatnonzero(rates.escapes > 0))
    # Where replicas are censored the spread is unknown: that of an exponential law, the widest seen here.
    spread = np.where(np.isfinite(rates.variation), rates.variation, 1.0)
    return fit_laws(
        rates.x.values, scanned=_SCANNED[scan], escapes=rates.escapes.values,
        total_time=rates.total_time.values, variation=spread, confidence=confidence,
    )  # fmt: skip


def scan_readings(study: xr.Dataset, scan: Scan) -> xr.Dataset:
    """Measured over predicted mean steps along one scan, for each prediction; nothing is fitted.

    Over ``reading`` (diffusion, level, quadratic) and ``point``: ``predicted`` mean steps; ``ratio`` =
    measured/predicted, NaN where unknown; ``ratio_error``, one standard error; ``off`` (reading) = root
    mean square of ln ratio, and ``points`` used in it.
    """
    rates, runs = scan_rates(study, scan), _of(study.steps, scan)
    at = np.flatnonzero(runs.isel(dynamics=DYNAMICS.index("network")).notnull().any("replica"))
    predicted = np.full((len(READINGS), len(at)), np.nan)
    relative = np.zeros_like(predicted)
    predicted[0] = _of(study.diffusion_steps, scan).values[at]
    relative[0] = float(study.free_high - study.free_low) / (2 * 1.96 * float(study.free_mean))
    predicted[1] = 1 / (_of(study.level_rate, scan) * _of(study.learning_rate, scan)).values[at]
    for j, signed in enumerate(runs.isel(dynamics=DYNAMICS.index("quadratic")).values[at]):
        signed = signed[np.isfinite(signed)]
        if len(signed) >= 3 and (signed > 0).all():
            predicted[2, j] = signed.mean()
            relative[2, j] = stats.sem(signed) / signed.mean()
    measured, plane = rates.mean_steps.values, ("reading", "point")
    ratio = measured / predicted
    error = ratio * np.hypot(rates.mean_steps_stderr.values / measured, relative)
    known = np.isfinite(ratio)
    log, many = np.log(np.where(known, ratio, 1.0)), known.sum(1)
    off = np.sqrt(np.where(many > 0, (log**2).sum(1) / np.maximum(many, 1), np.nan))
    return dataset(
        {
            "predicted": quantity(predicted, plane, "predicted mean steps"),
            "ratio": quantity(ratio, plane, "measured over predicted mean steps"),
            "ratio_error": quantity(error, plane, "its standard error"),
            "off": quantity(off, "reading", "root mean square of ln ratio"),
            "points": quantity(many, "reading", "points used"),
        },
        title="readings of escape", scan=scan,
        coords={"reading": list(READINGS), "x": rates.x},
    )  # fmt: skip


def _slope_ratio(study: xr.Dataset, scan: Scan, slope: float) -> float:
    """Fitted b over ΔL/D divided by the law's variable, which is the same at every point."""
    x, exponent = _of(study.x, scan).values, _of(study.level_exponent, scan).values
    if scan in ("injected_noise", "sharpness_sgld") or not exponent.min() > 0:
        return math.nan
    u = x if scan == "batch_size" else (x.min() if scan == "sharpness" else 1.0) / x
    return slope / float((exponent / u).mean())


def _of(values: xr.DataArray, scan: str) -> xr.DataArray:
    return values.isel(scan=SCANS.index("learning_rate" if scan == "sharpness" else scan))


def compare_laws(studies: xr.Dataset, scan: Scan) -> xr.Dataset:
    """Laws, spread of times and readings along one scan, for every start of a sweep over ``escape_study``.

    Over the dims of the sweep: ``power``, ``power_low``, ``power_high``: γ ∝ x^power, per unit of time;
    ``r2_exponential``, ``r2_power``; ``aic_difference``, exponential − power; ``residual_ratio``, squared
    residuals of the exponential over those of the power law; ``variation_min``, ``variation_max`` along the
    scan; ``off_diffusion``, ``off_level``, ``off_quadratic``, root mean square of ln(measured/predicted);
    ``uphill``, least share of exits where the loss still rises; ``exponent_max`` ΔL/D of the basin;
    ``slope_ratio``, the fitted b of the exponential over that of ΔL/D (1 if the exponential is the basin's,
    and s of ICLR's Theorem 3.2 if C = H), NaN where noise is injected. NaN where a start was not scanned.
    """
    dims = [d for d in studies.dims if d in ("training_seed", "problem", "start")]
    shape = [studies.sizes[d] for d in dims]
    columns = {name: np.full(shape, np.nan) for name in _COMPARED}
    for place in np.ndindex(*shape):
        study = studies.isel(dict(zip(dims, place, strict=True)))
        if not np.isfinite(_of(study.steps, scan).isel(dynamics=DYNAMICS.index("network"))).any():
            continue
        for name, value in zip(_COMPARED, _laws_of(study, scan), strict=True):
            columns[name][place] = float(value)
    numbers = {name: quantity(values, dims, name.replace("_", " ")) for name, values in columns.items()}
    coords = {d: studies[d] for d in dims}
    return dataset(numbers, title="laws of escape over starts", coords=coords, scan=scan)


_COMPARED = (
    "power", "power_low", "power_high", "r2_exponential", "r2_power", "aic_difference", "residual_ratio",
    "variation_min", "variation_max", "uphill", "exponent_max", "slope_ratio",
    *(f"off_{name}" for name in READINGS),
)  # fmt: skip


def _laws_of(study: xr.Dataset, scan: Scan) -> list:
    """The numbers named by ``_COMPARED`` for one start."""
    rates, fits, readings = scan_rates(study, scan), scan_fits(study, scan), scan_readings(study, scan)
    exponential, power = fits.sel(law="exponential"), fits.sel(law="power")
    return [
        power.slope, power.slope_low, power.slope_high, exponential.r_squared, power.r_squared,
        fits.aic_difference, (exponential.residual / power.residual) ** 2,
        rates.variation.min(), rates.variation.max(), _of(study.uphill, scan).min(),
        _of(study.level_exponent, scan).max(), _slope_ratio(study, scan, float(exponential.slope)),
        *readings.off,
    ]  # fmt: skip
