"""Whether walkers went from well to well often enough to find the wells' weights themselves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fpsolve.ensemble.domain import Domain
from theory.evaluate import values_at
from theory.landscape import Landscape
from theory.langevin import Process
from theory.zeros import all_zeros

#: Variables up to which wells are looked for, and the weight below which one is left out.
_DIMENSIONS, _LIGHT = 3, 1e-3
#: Points of the integral of a potential from one well to another.
_NODES = 801


def exchange_remark(process: Process, first: np.ndarray, last: np.ndarray, domain: Domain) -> str:
    """A remark if fewer walkers changed their well than would in balance by half; empty if not.

    ``first`` and ``last`` are positions (k, n). A walker's well is the minimum of the domain next to it, or
    the stable zero of a drift. In balance a walker is in well i with w_i ∝ exp(−E_i), whatever its start: a
    share Σ s_i (1 − w_i) has changed from shares s_i at the start. Where the drift has no potential, wells
    are taken to weigh alike. Processes with more than three variables are not looked at.
    """
    if len(process.variables) > _DIMENSIONS or len(first) < 2:
        return ""
    places, exponents = _wells(process)
    if len(places):
        inside = ~domain.outside(places)
        places, exponents = places[inside], exponents[inside]
    if len(places) < 2:
        return ""
    known = bool(np.isfinite(exponents).all())
    weights = np.exp(-(exponents - exponents.min())) if known else np.ones(len(places))
    weights /= weights.sum()
    begin, end = (np.linalg.norm(p[:, None] - places, axis=2).argmin(axis=1) for p in (first, last))
    expected = len(first) * float((1 - weights[begin]).mean())
    changed = int((begin != end).sum())
    if expected < max(1.0, _LIGHT * len(first)) or changed >= expected / (2 if known else 20):
        return ""
    balance = "would in balance" if known else f"would if the {len(places)} wells of the drift weighed alike"
    return (
        f"{changed} of {len(first)} walkers ended in another well than they began in, and about "
        f"{expected:.0f} {balance}: averages weigh the wells as the start does; give a longer time "
        "and burn_in, or first positions drawn from a density"
    )


@lru_cache(maxsize=32)
def _wells(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """Places (k, n) of the wells and exponents E (k,) of their weights, NaN where not known."""
    try:
        landscape = process.landscape
        places, exponents = _stable_zeros(process) if landscape is None else _minima(process, landscape)
    except (ValueError, NotImplementedError, ArithmeticError, TypeError, AttributeError):
        # Not found, or a process of nothing but drift and root.
        return np.empty((0, len(process.variables))), np.empty(0)
    return places, exponents


def _minima(process: Process, landscape: Landscape) -> tuple[np.ndarray, np.ndarray]:
    """E_i = L_i/T + ½ ln det H_i at the minima of a loss, T the mean of D's diagonal; none without noise."""
    minima = [c for c in landscape.critical_points() if c.kind == "minimum"]
    places = np.array([[c.point[name] for name in landscape.names] for c in minima])
    if len(places) < 2:
        return places, np.zeros(len(places))
    determinants = np.maximum([np.prod(np.abs(c.eigenvalues)) for c in minima], 1e-300)
    D = np.asarray(process.diffusion_values(places))
    T = np.trace(D, axis1=1, axis2=2) / D.shape[1]
    if not (np.isfinite(T).all() and (T > 0).all()):
        return places[:0], T[:0]
    losses = np.array([c.loss for c in minima])
    return places, (losses - losses.min()) / T + np.log(determinants) / 2


def _stable_zeros(process: Process) -> tuple[np.ndarray, np.ndarray]:
    """E_i = −φ_i + ½ ln(det J_i / det D_i) at the stable zeros of a drift, φ = ∫ D⁻¹(b − div D) · dx.

    NaN where φ differs on two ways from the first zero, or D is singular.
    """
    places = all_zeros(tuple(process.drift), process.variables).places
    # A zero at which several boxes of the search meet is found more than once.
    near = np.linalg.norm(places[:, None] - places, axis=2) <= 1e-6 * (1e-6 + np.abs(places).max(initial=0.0))
    places = places[~np.tril(near, -1).any(axis=1)]
    slopes = values_at(process.drift.jacobian(list(process.variables)), process.variables, places)
    eigenvalues = np.linalg.eigvals(slopes)
    stable = eigenvalues.real.max(axis=1, initial=-np.inf) < 0
    places, slopes = places[stable], slopes[stable]
    if len(places) < 2:
        return places, np.zeros(len(places))
    with np.errstate(all="ignore"):
        D = process.diffusion_values(places)
        rise = np.array([_rise(process, places[0], place) for place in places])
        exponents = np.log(np.abs(np.linalg.det(slopes)) / np.linalg.det(D)) / 2 - rise
    return places, exponents if np.isfinite(exponents).all() else np.full(len(places), np.nan)


def _rise(process: Process, start: np.ndarray, end: np.ndarray) -> float:
    """φ(end) − φ(start) by the midpoint rule; NaN where an arc and the straight way differ."""
    t = (np.arange(_NODES) + 0.5) / _NODES
    aside = np.random.default_rng(4).normal(size=len(start)) * np.linalg.norm(end - start) / 3
    found = []
    for bend in (0.0, 1.0 if len(start) > 1 else 0.0):
        points = start + np.outer(t, end - start) + bend * np.outer(t * (1 - t), aside)
        along = (end - start + bend * np.outer(1 - 2 * t, aside)) / _NODES
        step = 1e-4 * (np.abs(end - start).max() or 1.0)
        drift = values_at(process.drift, process.variables, points)[..., 0]
        D = process.diffusion_values(points)
        for k, shift in enumerate(np.eye(len(start)) * step):
            ahead, behind = (process.diffusion_values(points + sign * shift) for sign in (1, -1))
            drift = drift - (ahead - behind)[:, k] / (2 * step)
        if (np.linalg.cond(D) > 1e12).any():
            return float("nan")
        found.append(float(np.sum(np.linalg.solve(D, drift[..., None])[..., 0] * along)))
    return found[0] if abs(found[1] - found[0]) < 0.1 + 0.02 * abs(found[0]) else float("nan")
