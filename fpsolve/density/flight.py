"""Whether the drift carries walkers away for ever: there is then no stationary law, whatever the noise."""

from __future__ import annotations

import numpy as np

from fpsolve.density.grid import Box, drift_values, place
from theory.langevin import Process

#: Starts in units of the box' extent, directions at each, and the distance that counts as infinity.
RADII, WAYS, FAR = (0.6, 1.0, 2.0, 5.0, 20.0), 24, 1e9
#: Length of a step as a share of the distance from the middle of the box.
STEP = 0.1


def why_it_flies(process: Process, box: Box, ends: Box) -> str:
    """Why walkers around a box fly to infinity: a place from which the drift takes them there; else empty.

    Paths of the drift start at random places in and around the box: noise takes a walker across any barrier
    in time. A path counts if the drift outweighs the noise where it has come to, r b·n > n·D·n, as ln r then
    grows. Paths that start beyond the natural ``ends`` of the variables, or meet a place without drift or
    covariance, are left out.
    """
    first, last = np.array([ends[v] for v in process.names]).T
    low, high = np.array([box[v] for v in process.names]).T
    middle, extent = (low + high) / 2, (high - low) / 2
    size = len(middle)
    ways = np.concatenate([np.eye(size), -np.eye(size), np.random.default_rng(7).normal(size=(WAYS, size))])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    starts = (np.array(RADII)[:, None, None] * ways).reshape(-1, size)
    inside = ((middle + extent * starts > first) & (middle + extent * starts < last)).all(axis=1)
    starts = starts[inside]
    u, ended = starts.copy(), np.zeros(len(starts), bool)
    with np.errstate(all="ignore"):
        for _ in range(int(1.5 * np.log(FAR) / STEP)):
            half = u + _step(process, middle, extent, u) / 2
            u = u + np.where(ended[:, None], 0.0, _step(process, middle, extent, half))
            ended |= ~(np.linalg.norm(u, axis=1) < FAR)
        gone = np.flatnonzero(ended & np.isfinite(u).all(axis=1))
        if not len(gone):
            return ""
        r = extent * u[gone]
        outwards = np.einsum("ki,ki->k", drift_values(process, middle + r), r)
        noise = np.einsum("ki,kij,kj->k", r, process.diffusion_values(middle + r), r) / np.sum(r**2, axis=1)
        flying = gone[np.isfinite(noise) & (noise >= 0) & (outwards > noise)]
    if not len(flying):
        return ""
    nearest = flying[np.argmin(np.linalg.norm(starts[flying], axis=1))]
    where = place(process.names, middle + extent * starts[nearest])
    return f"the drift carries walkers from {where} to infinity"


def _step(process: Process, middle: np.ndarray, extent: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A step along the drift from scaled places u, a share ``STEP`` of the distance long."""
    b = drift_values(process, middle + extent * u) / extent
    length = STEP * np.maximum(np.linalg.norm(u, axis=1), 0.1)
    return b * (length / np.maximum(np.linalg.norm(b, axis=1), 1e-300))[:, None]
