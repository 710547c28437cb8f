"""The probability current of a density, with its error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
import xarray as xr
from scipy.ndimage import maximum_filter

from fpsolve.density.choices import Method, Scheme, Walls
from fpsolve.density.grid import Grid, checked_walls, drift_values
from fpsolve.density.richardson import resampled
from fpsolve.density.start import grid_of
from fpsolve.density.stationary import stationary_density
from fpsolve.results import dataset, quantity
from theory.langevin import Process

#: Share of an axis within which the error of a cell is looked for: where it changes sign it is no zero.
NEARBY = 0.01
#: An error of order 2 is a third of its change on half the grid; two thirds are stated.
LEFT = 1.5


def probability_current(
    process: Process, density: xr.DataArray, *, walls: Walls | Mapping[str, Walls] | None = None
) -> xr.Dataset:
    """Probability current J_i = b_i P − Σ_j ∂_j(D_ij P) of a density on a uniform grid.

    Parameters
    ----------
    process : Process
        The process that the density belongs to.
    density : DataArray
        On cell centres of a uniform grid, dims named by the variables; from finite volumes.
    walls : "far", "reflecting", "periodic", or a mapping of names to these, optional
        Periodic axes are differentiated around. Default: those that the density was solved with.

    Returns
    -------
    Dataset
        One component per variable, named ``J_x`` etc., second order in the cell width; zero everywhere only
        in equilibrium. ``J_x_error`` is its error in every cell: the largest change nearby from the current
        of the stationary density on half the grid; of other densities that when differences are taken over
        twice the width. On a periodic axis ``attrs["mean_velocity_x"]`` is ∫J_x, beside its error. A
        ValueError if the density's dims or grid do not fit, or it is a spectral one.
    """
    if density.attrs.get("method") == "spectral":
        raise ValueError(
            "a spectral density lies on nodes that are not uniform; give one by method='finite-volume'"
        )
    grid = grid_of(process, density)
    ends = checked_walls(process, walls if walls is not None else _walls_of(density), {})
    periodic = [v for v in grid.names if ends[v] == "periodic"]
    P = density.transpose(*grid.names).to_numpy()
    near, other = _current(process, grid, P, periodic, 1), _on_half_the_grid(process, density, grid, ends)
    if other is None:
        far, left = _current(process, grid, P, periodic, 2), 1.0  # the density's own error is not in it
    else:
        half = grid_of(process, other)
        values = _current(process, half, other.transpose(*grid.names).to_numpy(), periodic, 1)
        far, left = [resampled(J, half, grid) for J in values], LEFT
    components, attrs = {}, {}
    for name, J, rough in zip(grid.names, near, far, strict=True):
        words = f"probability current along {name}"
        components[f"J_{name}"] = quantity(J, grid.names, words, "1 / time")
        error = np.abs(J - rough) / left
        modes = ["wrap" if v in periodic else "nearest" for v in grid.names]
        nearby = maximum_filter(error, [1 + 2 * math.ceil(NEARBY * n) for n in grid.shape], mode=modes)
        components[f"J_{name}_error"] = quantity(nearby, grid.names, f"error of the {words}", "1 / time")
        if name in periodic:
            attrs[f"mean_velocity_{name}"] = float(J.sum() * grid.cell_volume)
            attrs[f"mean_velocity_{name}_error"] = float(error.sum() * grid.cell_volume)
    title = f"Probability current: {process.name}"
    return dataset(components, title=title, coords={v: density[v] for v in grid.names}, **attrs)


def _current(
    process: Process, grid: Grid, P: np.ndarray, periodic: Sequence[str], reach: int
) -> list[np.ndarray]:
    """J_i of a density on the cells of a grid, from differences over ``reach`` cells to either side."""
    points, size = grid.points(), len(grid.shape)
    D = process.diffusion_values(points.reshape(-1, size)).reshape(*P.shape, size, size)
    current = []
    for i, b in enumerate(np.moveaxis(drift_values(process, points), -1, 0)):
        slopes = [_slope(D[..., i, j] * P, grid, j, v in periodic, reach) for j, v in enumerate(grid.names)]
        current.append(b * P - sum(slopes))
    return current


def _on_half_the_grid(
    process: Process, density: xr.DataArray, grid: Grid, walls: Mapping[str, Walls]
) -> xr.DataArray | None:
    """A stationary density solved again with cells twice as wide; None of any other density."""
    method, words = density.attrs.get("method"), str(density.attrs.get("scheme", ""))
    if "weights_estimate" not in density.attrs or min(grid.shape) < 16:
        return None
    given = [part.split(" in ")[0] for part in words.split(";")[0].split(", ")]
    scheme = given if method == "finite-volume" and len(given) == len(grid.names) else "auto"
    box = dict(zip(grid.names, zip(grid.low, grid.high, strict=True), strict=True))
    symmetry = density.attrs.get("symmetry") != "none used"
    half = [2 * (n // 4) if symmetry else n // 2 for n in grid.shape]
    crossed = bool(density.attrs.get("cross_diffusion", 1))
    with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
        warnings.simplefilter("ignore")  # the density itself was judged
        return stationary_density(
            process, method=cast(Method, method), box=box, shape=half, scheme=cast(list[Scheme], scheme),
            walls=walls, symmetry=symmetry, cross_diffusion=crossed,
        )  # fmt: skip
    return None


def _walls_of(density: xr.DataArray) -> dict[str, Walls]:
    """The walls that a density's attributes tell, "x: periodic, y: far"."""
    words = str(density.attrs.get("walls", ""))
    parts = (part.split(": ") for part in words.split(", ") if ": " in part)
    return {name: cast(Walls, kind) for name, kind in parts}


def _slope(values: np.ndarray, grid: Grid, axis: int, periodic: bool, reach: int) -> np.ndarray:
    """Second-order derivative from values ``reach`` cells away; one-sided at ends that are not periodic."""
    h = grid.widths[axis] * reach
    if periodic:
        return (np.roll(values, -reach, axis=axis) - np.roll(values, reach, axis=axis)) / (2 * h)
    slope = np.empty_like(values)
    for first in range(reach):
        part = (slice(None),) * axis + (slice(first, None, reach),)
        slope[part] = np.gradient(values[part], h, axis=axis, edge_order=2)
    return slope
