"""The density at time 0 of an evolution: from an array, a formula or a point, as cell averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import sympy as sp
import xarray as xr

from fpsolve.density.grid import Grid, checked_box, checked_shape, is_number
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process

Start: TypeAlias = xr.DataArray | sp.Expr | Callable[..., np.ndarray] | Mapping[str, float]
#: Gauss points per cell and axis at which a formula is averaged, by dimension.
NODES = {1: 6, 2: 4, 3: 2}
#: Averages on parts of cells and on parts twice as many shall differ by less than this share of the mass.
AGREE = 1e-3
MOST_POINTS = 8e6


def initial_state(
    process: Process,
    initial: Start,
    box: Mapping[str, tuple[float, float]] | None,
    shape: Sequence[int] | int | None,
) -> tuple[Grid, np.ndarray]:
    """The grid and the normalised initial density on it, as cell averages.

    A ValueError if it is negative, not finite, without mass, outside the box, or on a grid that is not
    uniform.
    """
    if isinstance(initial, xr.DataArray):
        grid = grid_of(process, initial)
        density = initial.transpose(*process.names).to_numpy().astype(float)
    else:
        if box is None or shape is None:
            raise ValueError("an initial density that is no array needs box= and shape= as well")
        cells = checked_shape(shape, len(process.variables))
        assert cells is not None  # shape is given
        grid = Grid.on(checked_box(process, box), cells)
        density = (
            at_point(grid, initial) if isinstance(initial, Mapping) else _averaged(process, grid, initial)
        )
    total = density.sum() * grid.cell_volume
    if not np.isfinite(density).all() or density.min() < -1e-9 * density.max():
        raise ValueError("the initial density must be finite and not negative in the box")
    if not total > 0:
        raise ValueError(
            "the initial density holds no mass in the box, or is too narrow for its cells: give a box that "
            'contains the start, more cells (shape=), or a narrow start as a point such as {"x": 0.5}'
        )
    return grid, density / total


def grid_of(process: Process, density: xr.DataArray) -> Grid:
    """The uniform grid under a labelled density."""
    if set(density.dims) != set(process.names):
        raise ValueError(f"the density has dims {density.dims}; the process has variables {process.names}")
    box = {}
    for name in process.names:
        line = density[name].to_numpy()
        h = np.diff(line)
        if len(line) < 8 or not np.allclose(h, h[0], rtol=1e-9):
            raise ValueError(f"the density's grid along {name} is not uniform (at least 8 equal cells)")
        box[name] = float(line[0] - h[0] / 2), float(line[-1] + h[0] / 2)
    return Grid.on(box, tuple(density.sizes[name] for name in process.names))


def on_coarser(density: np.ndarray, grid: Grid, coarse: Grid) -> np.ndarray:
    """Cell averages on another grid of the same region, its mass kept."""
    for axis, (n, m) in enumerate(zip(grid.shape, coarse.shape, strict=True)):
        fine, wide = np.arange(n + 1) / n, np.arange(m + 1) / m
        overlap = np.minimum(fine[1:], wide[1:, None]) - np.maximum(fine[:-1], wide[:-1, None])
        density = np.moveaxis(np.tensordot(np.maximum(overlap, 0.0) * m, density, (1, axis)), 0, axis)
    return density


def _averaged(process: Process, grid: Grid, initial: sp.Expr | Callable[..., np.ndarray]) -> np.ndarray:
    """Cell averages of a function, on parts of the cells that are refined until they agree."""
    function = numpy_function(initial, process.variables) if isinstance(initial, sp.Expr) else initial
    if not callable(function):
        raise ValueError(
            f"the start must be a density, a formula, a function or a point by names, got {initial!r}"
        )
    before, parts = np.zeros(grid.shape), 1
    while True:
        values = _averaged_on_parts(function, grid, parts)
        change, whole = np.abs(values - before).sum(), np.abs(values).sum()
        if parts > 1 and (change < AGREE * whole or not np.isfinite(whole)):
            return values
        before, parts = values, 2 * parts
        if grid.cells * (parts * NODES[len(grid.shape)]) ** len(grid.shape) > MOST_POINTS:
            break
    if whole > 0 and change > 0.1 * whole:
        raise ValueError(
            "the initial density is too narrow for the cells to be averaged: use more cells (shape=), a "
            'smaller box=, or a narrow start as a point such as {"x": 0.5}'
        )
    return values


def _averaged_on_parts(function: Callable[..., np.ndarray], grid: Grid, parts: int) -> np.ndarray:
    """Cell averages by Gauss's rule on so many parts of each cell along each axis."""
    gauss, shares = np.polynomial.legendre.leggauss(NODES[len(grid.shape)])
    nodes = ((np.arange(parts)[:, None] + 0.5 * (gauss + 1)) / parts - 0.5).ravel()
    weights = np.tile(shares, parts) / (2.0 * parts)
    count = len(nodes)
    lines = [(grid.centres(axis)[:, None] + h * nodes).ravel() for axis, h in enumerate(grid.widths)]
    points = np.meshgrid(*lines, indexing="ij")
    values = np.broadcast_to(np.asarray(function(*points), float), points[0].shape)
    for axis, n in enumerate(grid.shape):
        split = values.reshape(*values.shape[:axis], n, count, *values.shape[axis + 1 :])
        values = np.moveaxis(np.tensordot(split, weights, (axis + 1, 0)), -1, -1)
    return values


def at_point(grid: Grid, point: Mapping[str, float]) -> np.ndarray:
    """All mass at a point, by quadratic splines: its mean is the point and its variance always h²/4.

    Errors of the moments then fall by four from a grid to one of half the cells.
    """
    if set(point) != set(grid.names):
        raise ValueError(f"the start has the variables {sorted(point)}; the process has {sorted(grid.names)}")
    density = np.ones(())
    for axis, name in enumerate(grid.names):
        low, high, h, n = grid.low[axis], grid.high[axis], grid.widths[axis], grid.shape[axis]
        if not is_number(value := point[name]):
            raise ValueError(f"the start {name}={value!r} must be a number")
        if not low <= value <= high:
            raise ValueError(f"the start {name}={value:g} lies outside the box ({low:g}, {high:g})")
        away = np.abs(np.arange(-1, n + 1) + 0.5 - (value - low) / h)
        line = np.where(away < 0.5, 0.75 - away**2, 0.5 * np.clip(1.5 - away, 0.0, None) ** 2) / h
        line[1] += line[0]  # what would lie beyond a wall
        line[-2] += line[-1]
        line = line[1:-1]
        density = np.multiply.outer(density, line)
    return density
