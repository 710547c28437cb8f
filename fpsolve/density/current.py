"""The probability current of a density, with its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import xarray as xr

from fpsolve.density.choices import Walls
from fpsolve.density.grid import Grid, checked_walls, drift_values
from fpsolve.density.start import grid_of
from fpsolve.results import dataset, quantity
from theory.langevin import Process


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
        in equilibrium. ``J_x_error`` is its error in every cell: the change when differences are taken over
        twice the width, and the density's ``half_grid_estimate`` times the two terms that J is the difference
        of. On a periodic axis ``attrs["mean_velocity_x"]`` is ∫J_x, beside its error. A ValueError if the
        density's dims or grid do not fit, or it is a spectral one.
    """
    if density.attrs.get("method") == "spectral":
        raise ValueError(
            "a spectral density lies on nodes that are not uniform; give one by method='finite-volume'"
        )
    grid = grid_of(process, density)
    ends = checked_walls(process, walls if walls is not None else _walls_of(density), {})
    P = density.transpose(*process.names).to_numpy()
    points = grid.points()
    b = drift_values(process, points)
    dimension = len(grid.shape)
    D = process.diffusion_values(points.reshape(-1, dimension)).reshape(*P.shape, dimension, dimension)
    estimate = float(density.attrs.get("half_grid_estimate", 0.0))
    components, attrs = {}, {}
    for i, name in enumerate(grid.names):
        near = far = b[..., i] * P
        size = np.abs(near)
        for j, other in enumerate(grid.names):
            slopes = [_slope(D[..., i, j] * P, grid, j, ends[other] == "periodic", k) for k in (1, 2)]
            near, far, size = near - slopes[0], far - slopes[1], size + np.abs(slopes[0])
        words = f"probability current along {name}"
        components[f"J_{name}"] = quantity(near, grid.names, words, "1 / time")
        error = quantity(
            np.abs(near - far) + estimate * size, grid.names, f"error of the {words}", "1 / time"
        )
        components[f"J_{name}_error"] = error
        if ends[name] == "periodic":
            attrs[f"mean_velocity_{name}"] = float(near.sum() * grid.cell_volume)
            attrs[f"mean_velocity_{name}_error"] = float(error.to_numpy().sum() / 3 * grid.cell_volume)
    title = f"Probability current: {process.name}"
    return dataset(components, title=title, coords={v: density[v] for v in grid.names}, **attrs)


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
