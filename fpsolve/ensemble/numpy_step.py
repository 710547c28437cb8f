"""The step of the compiled ensemble kernel in NumPy, for processes whose noise has no symbolic root."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fpsolve.ensemble.lanes import LANES, from_lanes, to_lanes
from fpsolve.ensemble.state import root_values
from fpsolve.symbols.counter_rng import standard_normals
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process


def numpy_advance(process: Process) -> Callable[..., None]:
    """A stand-in for the compiled kernel, with its arguments; tens of times slower.

    Same normals and same outputs up to rounding. Each step evaluates all walkers at once, so the
    cost is that of ``root_values`` (an eigen-decomposition per walker for Hessian noise).
    """
    drift = numpy_function(list(process.drift), process.variables)

    def advance(
        positions, excess, bounds, exit_step, sums, constants, key0, key1, first_walker, first_step,
        last_step, burn_in, time_step, histogram, edges, edge_start, edge_axis, save_every, paths,
        first_saved, low, high,
    ):  # fmt: skip
        count = (high - low) * LANES
        points = from_lanes(positions[low:high], count)
        total = from_lanes(sums[low:high], count).copy()
        bound, left = bounds[low:high].reshape(count), exit_step[low:high].reshape(count)
        walkers = int(first_walker) + low * LANES + np.arange(count)
        upper = np.triu_indices(points.shape[1])
        for step in range(first_step, last_step):
            G = root_values(process, points)
            xi = standard_normals((key0, key1), walkers, step, G.shape[2])
            with np.errstate(all="ignore"):  # walkers about to diverge may overflow
                noise = np.einsum("kij,jk->ki", G, xi)
                new = points + time_step * drift(*points.T).T + np.sqrt(time_step) * noise
                inside = (np.abs(new) < bound[:, None]).all(axis=1)
            points = np.where(inside[:, None], new, points)
            left[~inside & (left < 0) & (bound > 0)] = step + 1
            bound[~inside] = 0.0
            if step >= burn_in:
                products = points[:, upper[0]] * points[:, upper[1]]
                total += np.concatenate([points, np.abs(points), products], axis=1)
                if histogram.size:
                    _count(histogram, points[bound > 0], edges, edge_start, edge_axis)
            if save_every and (step + 1) % save_every == 0:
                saved = (step + 1) // save_every - first_saved
                paths[saved, low:high] = to_lanes(points)
        positions[low:high] = to_lanes(points)
        sums[low:high] = to_lanes(total)
        bounds[low:high] = bound.reshape(-1, LANES)
        exit_step[low:high] = left.reshape(-1, LANES)

    return advance


def _count(histogram, points, edges, edge_start, edge_axis) -> None:
    cell = np.zeros(len(points), dtype=np.int64)
    inside = np.ones(len(points), dtype=bool)
    for low, high, axis in zip(edge_start[:-1], edge_start[1:], edge_axis, strict=True):
        index = np.searchsorted(edges[low:high], points[:, axis], side="right") - 1
        inside &= (index >= 0) & (index < high - low - 1)
        cell = cell * (high - low - 1) + index
    np.add.at(histogram, np.where(inside, cell, histogram.size - 1), 1)
