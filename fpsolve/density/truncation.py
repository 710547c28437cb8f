"""What the ends of a box do to rates of relaxation: errors that grids of one box have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.choices import Walls
from fpsolve.density.fitted import natural_ends
from fpsolve.density.grid import Grid
from fpsolve.density.operator import NullVector
from theory.langevin import Process

#: Share of an axis that is its rim.
RIM = 0.05
#: Stationary mass in a rim from which on a wall is meant, though it is called far.
MEANT = 1e-2
#: A density that falls off by this power of the distance or less has a heavy tail.
POWER = 9.0
#: Cells next to an end where D vanishes, and the largest share of a rate of the process that they make up.
CELLS, LARGEST = 2, 0.05


def cut_off(
    process: Process, grid: Grid, state: NullVector, modes: np.ndarray, walls: Mapping[str, Walls]
) -> np.ndarray:
    """Relative errors of the rates of right modes (cells, count); 1 is no rate of the process at all.

    A wall at a moves a rate by ∂λ/∂a = −λ p, p = P|φ|² per ∫P|φ|². From the outermost ``RIM`` to the one
    before p changes by a ratio r. Beyond the wall it goes on as a geometric series. Under a heavy tail it may
    be one in the logarithm of the distance, of which the box holds few units. At an end where D vanishes
    cells have a mode of their own if they make up a share of λ = ∫D|φ′|²P / ∫|φ|²P that does not shrink with
    them.
    """
    P = np.abs(state.density).ravel()
    weight = P[:, None] * np.abs(modes) ** 2
    weight /= weight.sum(axis=0)
    places, natural = grid.indices(), natural_ends(process, grid)
    error = np.zeros(modes.shape[1])
    for axis, name in enumerate(grid.names):
        for end in ("low", "high"):
            n = grid.shape[axis]
            depth = places[:, axis] if end == "low" else n - 1 - places[:, axis]
            if (name, end) in natural:
                share = _share(state.rates, P, modes, depth < CELLS)
                error = np.maximum(error, share > LARGEST)
                continue
            width = max(2, round(RIM * n))
            rim, next_to_it = depth < width, (depth >= width) & (depth < 2 * width)
            if walls[name] == "far" and P[rim].sum() < MEANT * P.sum():
                outer, inner = (weight[part].sum(axis=0) + 1e-300 for part in (rim, next_to_it))
                series = 1.0 / np.maximum(1.0 - outer / inner, 1e-3)
                error = error + outer * np.maximum(series, _rims_beyond(depth, P, width))
    return np.minimum(error, 1.0)


def _rims_beyond(depth: np.ndarray, P: np.ndarray, width: int) -> float:
    """∫p beyond a wall in units of that in the rim of ``width`` cells, under a heavy tail of P; else 0."""
    rim, next_to_it = P[depth < width].sum(), P[(depth >= width) & (depth < 2 * width)].sum()
    mean = float(P @ depth / P.sum())
    rims, spread = mean / width, np.sqrt(float(P @ (depth - mean) ** 2 / P.sum())) + 1.0
    heavy = rim > next_to_it * np.exp(-POWER / rims)
    return float(rims * np.log(1.0 + mean / spread)) if heavy else 0.0


def _share(rates: sparse.csr_matrix, P: np.ndarray, modes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Share of Σ P_i q_ij |φ_i − φ_j|² that some cells have in each mode."""
    entries = rates.tocoo()
    row, column = entries.row, entries.col
    steps = (P[row] * np.abs(entries.data))[:, None] * np.abs(modes[row] - modes[column]) ** 2
    near = cells[row] | cells[column]
    return np.asarray(steps[near].sum(axis=0) / steps.sum(axis=0))
