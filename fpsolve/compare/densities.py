"""Stationary averages by theory, density and simulation in one table: errors, deviations from the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import xarray as xr

from fpsolve.density.grid import mirror_symmetries
from fpsolve.density.moments import averages, spread_name
from fpsolve.table import Row, Table
from theory.langevin import Process
from theory.valley import elimination
from theory.valley.reduced import Reduced

#: The method that others are measured against: the first of these that is in the table, by name or family.
TRUST = ("spectral", "finite-volume", "ensemble, dt -> 0", "ensemble")


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
        with different time steps also give their extrapolation to dt → 0.

    Returns
    -------
    Table
        Per variable v: ⟨v²⟩, and std(|v|) where v → −v is a symmetry, else ⟨v⟩ and std(v); per pair
        of variables that are not symmetric ⟨u v⟩. Errors are the half-grid estimate (finite
        volumes), the change at the last refinement (spectral), the standard error between walkers
        (ensemble) and the last term of the expansion (theory).

    Raises
    ------
    TypeError
        If a result is none of these.
    ValueError
        If a result has other variables, or nothing is given.
    """
    if not results:
        raise ValueError("nothing to compare: give densities, ensembles or reductions")
    symmetric = mirror_symmetries(process)
    estimates, remarks = [], []
    for result in results:
        _check_belongs(process, result)
        if isinstance(result, xr.DataArray):
            estimates.append(_from_density(process, result, symmetric))
        elif isinstance(result, xr.Dataset):
            estimates.append(_from_ensemble(process, result, symmetric))
            remarks += _ensemble_remarks(process, result)
        elif isinstance(result, Reduced):
            estimates.append(_from_reduced(result))
        else:
            raise TypeError(f"cannot compare a {type(result).__name__}")
    ensembles = [r for r in results if isinstance(r, xr.Dataset)]
    if len({float(r.attrs["time_step"]) for r in ensembles}) == 2:
        estimates.append(_extrapolated(process, ensembles, symmetric))
    methods = [e.method for e in estimates]
    reference = min(methods, key=_rank)
    title = f"Stationary averages: {process.name}"
    return Table(title, reference, _rows(estimates, reference), tuple(dict.fromkeys(remarks)))


def _rank(method: str) -> int:
    """Place in ``TRUST`` of a method or its family, which is the word before the comma."""
    names = (method, method.split(",")[0])
    return next((k for k, trusted in enumerate(TRUST) if trusted in names), len(TRUST))


def _check_belongs(process: Process, result: object) -> None:
    """Refuse a result in other variables."""
    names = set(process.names)
    if isinstance(result, xr.DataArray) and set(result.dims) != names:
        raise ValueError(f"a density has dims {result.dims}; the process has variables {process.names}")
    if isinstance(result, xr.Dataset) and not names <= set(result.data_vars):
        raise ValueError(f"an ensemble lacks variables {sorted(names - set(result.data_vars))}")
    if isinstance(result, Reduced) and set(map(str, (*result.slow, *result.fast))) != names:
        raise ValueError(f"a reduction has variables {result.slow + result.fast}")


def _from_density(process: Process, density: xr.DataArray, symmetric: Sequence[str]) -> _Estimate:
    """Averages of a density, with the relative error that its own check states."""
    method = str(density.attrs.get("method", "density"))
    if int(density.attrs.get("cross_diffusion", 1)) != int(getattr(process, "cross_diffusion", True)):
        method += ", no cross terms"
    values = averages(density, symmetric)
    if "half_grid_estimate" in density.attrs:
        relative, kind = float(density.attrs["half_grid_estimate"]), "half-grid estimate"
    else:
        relative, kind = float(density.attrs.get("convergence", math.nan)), "change at last refinement"
    scales = _scales(values)
    return _Estimate(method, values, {q: relative * scales[q] for q in values}, kind)


def _scales(values: dict[str, float]) -> dict[str, float]:
    """The size that a relative error of a quantity refers to.

    ⟨v⟩ and ⟨u v⟩ may vanish: their sizes are products of root mean squares. Others are their own size.
    """
    root = {q[1:-3]: math.sqrt(max(v, 0.0)) for q, v in values.items() if q.endswith("^2>")}
    scales = {}
    for quantity, value in values.items():
        names = quantity.strip("<>").split()
        vanishing = quantity.startswith("<") and not quantity.endswith("^2>")
        scale = math.prod(root[n] for n in names) if vanishing else abs(value)
        scales[quantity] = scale or 1.0
    return scales


def _from_ensemble(process: Process, ensemble: xr.Dataset, symmetric: Sequence[str]) -> _Estimate:
    """Time averages after burn-in; without burn-in the final positions, which depend least on the start."""
    if float(ensemble.attrs.get("burn_in", 0.0)) > 0.0:
        return _time_averages(process, ensemble, symmetric)
    alive = ensemble["diverged"].to_numpy() == 0
    points = np.stack([ensemble[v].to_numpy()[alive] for v in process.names], axis=1)
    count = len(points)
    values: dict[str, float] = {}
    errors: dict[str, float] = {}

    def add(quantity: str, value: float, influence: np.ndarray) -> None:
        values[quantity], errors[quantity] = value, float(influence.std(ddof=1) / math.sqrt(count))

    for axis, name in enumerate(process.names):
        v = np.abs(points[:, axis]) if name in symmetric else points[:, axis]
        if name not in symmetric:
            add(f"<{name}>", float(v.mean()), v)
        add(f"<{name}^2>", float((v**2).mean()), v**2)
        spread = float(v.std())
        add(spread_name(name, symmetric), spread, (v - v.mean()) ** 2 / (2 * spread or 1.0))
    for i, j in combinations(range(len(process.names)), 2):
        u, v = process.names[i], process.names[j]
        if u not in symmetric and v not in symmetric:
            add(f"<{u} {v}>", float((points[:, i] * points[:, j]).mean()), points[:, i] * points[:, j])
    return _Estimate(_ensemble_name(ensemble), values, errors, "standard error, final positions")


def _time_averages(process: Process, ensemble: xr.Dataset, symmetric: Sequence[str]) -> _Estimate:
    """Averages over time after the burn-in and over walkers."""
    values: dict[str, float] = {}
    errors: dict[str, float] = {}

    def add(quantity: str, summary: str, *variables: str) -> None:
        at = dict(zip(("variable", "variable_2"), variables, strict=False))
        values[quantity] = float(ensemble[summary].sel(at))
        errors[quantity] = float(ensemble[f"{summary}_stderr"].sel(at))

    for v in process.names:
        if v not in symmetric:
            add(f"<{v}>", "mean", v)
        add(f"<{v}^2>", "second_moment", v, v)
        add(spread_name(v, symmetric), "abs_std" if v in symmetric else "std", v)
    for u, v in combinations(process.names, 2):
        if u not in symmetric and v not in symmetric:
            add(f"<{u} {v}>", "second_moment", u, v)
    return _Estimate(_ensemble_name(ensemble), values, errors, "standard error, time averages")


def _ensemble_name(ensemble: xr.Dataset) -> str:
    return f"ensemble, dt = {float(ensemble.attrs['time_step']):g}"


def _extrapolated(process: Process, ensembles: list[xr.Dataset], symmetric: Sequence[str]) -> _Estimate:
    """Two time steps extrapolated linearly to dt → 0 (Euler–Maruyama is of weak order one)."""
    ordered = sorted(ensembles, key=lambda e: float(e.attrs["time_step"]))
    fine, coarse = ordered[0], ordered[-1]
    small, large = float(fine.attrs["time_step"]), float(coarse.attrs["time_step"])
    a, b = _from_ensemble(process, fine, symmetric), _from_ensemble(process, coarse, symmetric)
    w = large / (large - small)
    values = {q: w * a.values[q] - (w - 1) * b.values[q] for q in a.values}
    errors = {q: math.hypot(w * a.errors[q], (w - 1) * b.errors[q]) for q in a.values}
    return _Estimate("ensemble, dt -> 0", values, errors, "standard error, extrapolated")


def _ensemble_remarks(process: Process, ensemble: xr.Dataset) -> list[str]:
    """Differences between an ensemble and a density in continuous time: step, burn-in, diverged walkers."""
    remarks = []
    step = float(ensemble.attrs["time_step"])
    if process.landscape is not None:
        minima = [c for c in process.landscape.critical_points() if c.kind == "minimum"]
        if minima:
            stiffness = max(max(c.eigenvalues) for c in minima)
            remarks.append(
                f"dt = {step:g} widens the sharpest direction of the ensemble by dt*lambda/2 = "
                f"{step * stiffness / 2:.2%} against continuous time; two ensembles extrapolate"
            )
    if float(ensemble.attrs.get("burn_in", 0.0)) == 0.0:
        remarks.append("the ensemble has no burn-in, so its final positions are used, not its time averages")
    diverged = int(ensemble["diverged"].sum())
    if diverged:
        remarks.append(f"{diverged} of {ensemble.sizes['walker']} walkers diverged and are left out")
    return remarks


def _from_reduced(reduced: Reduced) -> _Estimate:
    """Moments of the reduced density; the error is the change from the previous order."""
    values = reduced.moments()
    del values[f"mode |{reduced.slow_variable}|"]
    # The change to the next order is the error of orders 0 and 1; the change from order 1 bounds that of 2.
    other = 1 if reduced.order == 2 else 2
    neighbour = elimination.eliminate(
        reduced.process,
        [str(y) for y in reduced.fast],
        order=other,  # type: ignore[arg-type]
    ).moments()
    errors = {q: abs(v - neighbour[q]) for q, v in values.items()}
    direction = "to" if other == 2 else "from"
    return _Estimate(f"theory, order {reduced.order}", values, errors, f"change {direction} order {other}")


def _rows(estimates: list[_Estimate], reference: str) -> tuple[Row, ...]:
    """Rows by quantity, in the reference's order, each with its deviation from the reference."""
    best = next(e for e in estimates if e.method == reference)
    rows = []
    for quantity, target in best.values.items():
        scale = _scales(best.values)[quantity]
        for estimate in estimates:
            if quantity not in estimate.values:
                continue
            value, error = estimate.values[quantity], estimate.errors[quantity]
            combined = math.hypot(error, best.errors[quantity])
            difference = value - target
            sigmas = abs(difference) / combined if estimate is not best and combined > 0 else math.nan
            deviation = 0.0 if estimate is best else difference / scale
            found = (value, error, estimate.error_kind, error / scale, deviation, sigmas)
            rows.append(Row(quantity, estimate.method, *found))
    return tuple(rows)
