"""Whether walkers went from well to well often enough to find the wells' weights themselves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fpsolve.ensemble.domain import Domain
from theory.landscape import Landscape
from theory.langevin import Process

#: Variables up to which wells are looked for, and the weight below which one is left out.
_DIMENSIONS, _LIGHT = 3, 1e-3


def exchange_remark(process: Process, first: np.ndarray, last: np.ndarray, domain: Domain) -> str:
    """A remark if fewer walkers changed their well than would in balance by half; empty if not.

    ``first`` and ``last`` are positions (k, n). A walker's well is the minimum of the domain next to it. In
    balance a walker is in well i with w_i ∝ exp(−L_i/T)/√det H_i, T the mean of D's diagonal there, whatever
    its start: a share Σ s_i (1 − w_i) has changed from shares s_i at the start. Processes without a
    landscape, and with more than three variables, are not looked at.
    """
    landscape = process.landscape
    if landscape is None or len(process.variables) > _DIMENSIONS or len(first) < 2:
        return ""
    places, losses, determinants = _wells(landscape)
    if len(places):
        inside = ~domain.outside(places)
        places, losses, determinants = places[inside], losses[inside], determinants[inside]
    if len(places) < 2:
        return ""
    D = np.asarray(process.diffusion_values(places))
    T = np.trace(D, axis1=1, axis2=2) / D.shape[1]
    if not (np.isfinite(T).all() and (T > 0).all()):
        return ""
    exponents = (losses - losses.min()) / T + np.log(determinants) / 2
    weights = np.exp(-(exponents - exponents.min()))
    weights /= weights.sum()
    begin, end = (np.linalg.norm(p[:, None] - places, axis=2).argmin(axis=1) for p in (first, last))
    expected = len(first) * float((1 - weights[begin]).mean())
    changed = int((begin != end).sum())
    if expected < max(1.0, _LIGHT * len(first)) or changed >= expected / 2:
        return ""
    return (
        f"{changed} of {len(first)} walkers ended in another well than they began in, and about "
        f"{expected:.0f} would in balance: averages weigh the wells as the start does; give a longer time "
        "and burn_in, or first positions drawn from a density"
    )


@lru_cache(maxsize=32)
def _wells(landscape: Landscape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (k, n), losses and determinants of the Hessian (k,) of the minima; none if none are found."""
    try:
        minima = [c for c in landscape.critical_points() if c.kind == "minimum"]
    except (ValueError, NotImplementedError, ArithmeticError, TypeError):
        minima = []
    places = np.array([[c.point[name] for name in landscape.names] for c in minima])
    determinants = np.array([np.prod(np.abs(c.eigenvalues)) for c in minima])
    return places, np.array([c.loss for c in minima]), np.maximum(determinants, 1e-300)
