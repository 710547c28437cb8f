"""Stationary averages by theory, density and simulation in one table: errors, deviations from the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from fpsolve.density.moments import averages, statistics_of
from fpsolve.density.symmetry import mirror_symmetries
from fpsolve.ensemble.steps import extrapolation
from fpsolve.ensemble.summary import MOST_LOST, lost_words
from fpsolve.statistics import mean_and_error
from fpsolve.table import Row, Table
from theory.langevin import Process
from theory.valley import elimination
from theory.valley.reduced import Reduced

#: The method that others are measured against: the first of these that is in the table, by name or family.
TRUST = ("spectral", "chain", "finite-volume", "ensemble, dt -> 0", "ensemble")


@dataclass(frozen=True)
class _Estimate:
    """Numbers of one method with their errors."""

    method: str
    values: dict[str, float]
    errors: dict[str, float]
    error_kind: str


def stationary(process: Process, *results: xr.DataArray | xr.Dataset | Reduced) -> Table:
    """Table of stationary averages by every method, with errors and deviations.

    Parameters
    ----------
    process : Process
        The system all results belong to.
    *results : DataArray, Dataset or Reduced
        Densities from :func:`fpsolve.stationary_density`, ensembles from :func:`fpsolve.simulate`,
        reductions from :func:`theory.valley.elimination.eliminate`; any number, any order. Two ensembles
        with different time steps also give their extrapolation to dt → 0. Another kind is a TypeError; none,
        other variables than the process has, and ensembles alone that lost too many walkers, are ValueErrors.

    Returns
    -------
    Table
        Per variable v: ⟨v²⟩, and std(|v|) where v → −v is a symmetry, else ⟨v⟩ and std(v); per pair
        of variables that are not symmetric ⟨u v⟩. Errors are the half-grid estimate (finite
        volumes), the change at the last refinement (spectral), the standard error between walkers
        (ensemble) and the last term of the expansion (theory). Diverged walkers are remarked on;
        an ensemble that lost more than a tenth of its walkers is left out.
    """
    if not results:
        raise ValueError("nothing to compare: give densities, ensembles or reductions")
    symmetric = mirror_symmetries(process)
    estimates, ensembles, remarks = [], [], []
    for result in results:
        reader = next((read for kind, read in _READERS.items() if isinstance(result, kind)), None)
        if reader is None:
            raise TypeError(f"cannot compare a {type(result).__name__}")
        if isinstance(result, xr.Dataset):
            remarks += _ensemble_remarks(process, result)
            if _lost(result) > MOST_LOST:
                continue
            ensembles.append(result)
        estimates.append(reader(process, result, symmetric))
    if not estimates:
        raise ValueError(f"no result can be used: {'; '.join(remarks)}")
    remarks += _wall_remarks(results)
    if len({float(r.attrs["time_step"]) for r in ensembles}) == 2:
        estimates.append(_extrapolated(process, ensembles, symmetric))
    reference = min(estimates, key=lambda e: _rank(e.method))
    rows = _rows(estimates, reference, _scales(process, reference.values, symmetric))
    title = f"Stationary averages: {process.name}"
    return Table(title, reference.method, rows, tuple(dict.fromkeys(remarks)))


def _lost(ensemble: xr.Dataset) -> float:
    """Share of the walkers that diverged."""
    return float(ensemble["diverged"].mean())


def _wall_remarks(results: Sequence[object]) -> list[str]:
    """Walls of one result that another does not have."""
    densities = [r for r in results if isinstance(r, xr.DataArray)]
    meant = any(
        not kind.endswith("far") for r in densities for kind in r.attrs.get("walls", "far").split(", ")
    )
    walkers = [r.attrs.get("walls", "none") for r in results if isinstance(r, xr.Dataset)]
    remarks = [f"walls of the ensemble: {walls}" for walls in walkers if walls != "none"]
    if meant and "none" in walkers:
        remarks.append("the density has walls and the ensemble has none: give box= and walls= to simulate")
    return remarks


def _rank(method: str) -> int:
    """Place in ``TRUST`` of a method or its family, which is the word before the comma."""
    names = (method, method.split(",")[0])
    return next((k for k, trusted in enumerate(TRUST) if trusted in names), len(TRUST))


def _from_density(process: Process, density: xr.DataArray, symmetric: Sequence[str]) -> _Estimate:
    """Averages of a density, with the relative error that its own check states."""
    if set(density.dims) != set(process.names):
        raise ValueError(f"a density has dims {density.dims}; the process has variables {process.names}")
    method = str(density.attrs.get("method", "density"))
    if int(density.attrs.get("cross_diffusion", 1)) != int(getattr(process, "cross_diffusion", True)):
        method += ", no cross terms"
    values = averages(density, symmetric)
    if "half_grid_estimate" in density.attrs:
        relative, kind = float(density.attrs["half_grid_estimate"]), "half-grid estimate"
    else:
        relative, kind = float(density.attrs.get("convergence", math.nan)), "change at last refinement"
    scales = _scales(process, values, symmetric)
    return _Estimate(method, values, {q: relative * scales[q] for q in values}, kind)


def _scales(process: Process, values: dict[str, float], symmetric: Sequence[str]) -> dict[str, float]:
    """The size that a relative error of a quantity refers to.

    ⟨v⟩ and ⟨u v⟩ may vanish: their sizes are products of root mean squares. Others are their own size.
    """
    scales = {quantity: abs(value) or 1.0 for quantity, value in values.items()}
    for quantity, (statistic, u, v) in statistics_of(process.names, symmetric).items():
        if quantity in values and (statistic == "mean" or u != v):
            factors = [math.sqrt(max(values[f"<{n}^2>"], 0.0)) for n in dict.fromkeys((u, v))]
            scales[quantity] = math.prod(factors) or 1.0
    return scales


def _from_ensemble(process: Process, ensemble: xr.Dataset, symmetric: Sequence[str]) -> _Estimate:
    """Time averages after burn-in; without burn-in the final positions, which depend least on the start."""
    if missing := set(process.names) - set(map(str, ensemble.data_vars)):
        raise ValueError(f"an ensemble lacks variables {sorted(missing)}")
    if averaged := float(ensemble.attrs.get("burn_in", 0.0)) > 0.0:
        statistic_of = _time_average
    else:
        ensemble = ensemble.isel(walker=ensemble["diverged"].to_numpy() == 0)
        statistic_of = _final_average
    wanted = statistics_of(process.names, symmetric)
    found = {quantity: statistic_of(ensemble, *asked) for quantity, asked in wanted.items()}
    values, errors = ({q: pair[k] for q, pair in found.items()} for k in (0, 1))
    name = f"ensemble, dt = {float(ensemble.attrs['time_step']):g}"
    kind = f"standard error, {'time averages' if averaged else 'final positions'}"
    return _Estimate(name, values, errors, kind)


def _time_average(ensemble: xr.Dataset, statistic: str, u: str, v: str) -> tuple[float, float]:
    """A statistic over time and walkers, and its standard error."""
    at = {"variable": u, "variable_2": v} if statistic == "second_moment" else {"variable": u}
    return float(ensemble[statistic].sel(at)), float(ensemble[f"{statistic}_stderr"].sel(at))


def _final_average(ensemble: xr.Dataset, statistic: str, u: str, v: str) -> tuple[float, float]:
    """A statistic of the walkers' final positions, and its standard error (of a width, by its influence)."""
    sample, other = ensemble[u].to_numpy(), ensemble[v].to_numpy()
    if statistic == "second_moment":
        sample = sample * other
    if statistic in ("mean", "second_moment"):
        return mean_and_error(sample)
    sample = np.abs(sample) if statistic == "abs_std" else sample
    width = float(sample.std())
    return width, mean_and_error((sample - sample.mean()) ** 2 / (2 * width or 1.0))[1]


def _extrapolated(process: Process, ensembles: list[xr.Dataset], symmetric: Sequence[str]) -> _Estimate:
    """Two time steps extrapolated to dt → 0 with the weak order of their steps, one for Euler–Maruyama."""
    ordered = sorted(ensembles, key=lambda e: float(e.attrs["time_step"]))
    fine, coarse = ordered[0], ordered[-1]
    small, large = (float(ensemble.attrs["time_step"]) for ensemble in (fine, coarse))
    a, b = _from_ensemble(process, fine, symmetric), _from_ensemble(process, coarse, symmetric)
    w, doubt = extrapolation(large / small, float(fine.attrs.get("weak_order", 1)))
    values = {q: w * a.values[q] - (w - 1) * b.values[q] for q in a.values}
    errors = {
        q: math.hypot(w * a.errors[q], (w - 1) * b.errors[q], doubt * (a.values[q] - b.values[q]))
        for q in a.values
    }
    return _Estimate("ensemble, dt -> 0", values, errors, "standard error, extrapolated")


def _ensemble_remarks(process: Process, ensemble: xr.Dataset) -> list[str]:
    """Differences between an ensemble and a density in continuous time: step, burn-in, diverged walkers."""
    remarks = []
    step = float(ensemble.attrs["time_step"])
    if process.landscape is not None:
        minima = [c for c in process.landscape.critical_points() if c.kind == "minimum"]
        if minima:
            stiffness = max(max(c.eigenvalues) for c in minima)
            size = f" by dt*lambda/2 = {step * stiffness / 2:.2%}" if stiffness > 0 else ""
            remarks.append(
                f"dt = {step:g} widens the sharpest direction of the ensemble{size} against continuous time; "
                "two ensembles extrapolate"
            )
    if float(ensemble.attrs.get("burn_in", 0.0)) == 0.0:
        remarks.append("the ensemble has no burn-in, so its final positions are used, not its time averages")
    diverged = int(ensemble["diverged"].sum())
    if diverged:
        words = lost_words(diverged, ensemble.sizes["walker"], ensemble.attrs["divergence"])
        text = f"ensemble, dt = {step:g}: {words}"
        too_many = f"; above {MOST_LOST:.0%} its averages are not shown"
        remarks.append(text + (too_many if _lost(ensemble) > MOST_LOST else ""))
    return remarks


def _from_reduced(process: Process, reduced: Reduced, symmetric: Sequence[str]) -> _Estimate:
    """Moments of the reduced density; the error is the change from the previous order."""
    if set(map(str, (*reduced.slow, *reduced.fast))) != set(process.names):
        raise ValueError(f"a reduction has variables {reduced.slow + reduced.fast}")
    values = reduced.moments()
    del values[f"mode |{reduced.slow_variable}|"]
    # The change to the next order is the error of orders 0 and 1; the change from order 1 bounds that of 2.
    other: Literal[1, 2] = 1 if reduced.order == 2 else 2
    fast = [str(y) for y in reduced.fast]
    neighbour = elimination.eliminate(reduced.process, fast, order=other).moments()
    errors = {q: abs(v - neighbour[q]) for q, v in values.items()}
    direction = "to" if other == 2 else "from"
    return _Estimate(f"theory, order {reduced.order}", values, errors, f"change {direction} order {other}")


#: How the averages of each kind of result are found.
_READERS: dict[type, Callable[..., _Estimate]] = {
    xr.DataArray: _from_density,
    xr.Dataset: _from_ensemble,
    Reduced: _from_reduced,
}


def _rows(estimates: list[_Estimate], best: _Estimate, scales: dict[str, float]) -> tuple[Row, ...]:
    """Rows by quantity, in the reference's order, each with its deviation from the reference."""
    rows = []
    for quantity, target in best.values.items():
        for estimate in (e for e in estimates if quantity in e.values):
            value, error = estimate.values[quantity], estimate.errors[quantity]
            combined = math.hypot(error, best.errors[quantity])
            other = estimate is not best
            sigmas = abs(value - target) / combined if other and combined > 0 else math.nan
            deviation = (value - target) / scales[quantity] if other else 0.0
            method, kind, relative = estimate.method, estimate.error_kind, error / scales[quantity]
            rows.append(Row(quantity, method, value, error, kind, relative, deviation, sigmas))
    return tuple(rows)
