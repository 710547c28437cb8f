"""Densities in time by TR-BDF2 steps from a given start, and the probability current of a density."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sparse
import sympy as sp
import xarray as xr

from fpsolve.density.choices import Scheme
from fpsolve.density.grid import Grid, checked_box, checked_shape, drift_values
from fpsolve.density.operator import fokker_planck_matrix, time_stepper
from fpsolve.density.stationary import chosen_schemes, numeric_process, titled
from fpsolve.progress import bar
from fpsolve.results import dataset, quantity
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process


def evolve(
    process: Process,
    initial: xr.DataArray | sp.Expr | Callable[..., np.ndarray],
    *,
    times: Sequence[float],
    time_step: float,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    scheme: Literal["auto"] | Scheme | Sequence[Scheme] = "auto",
    cross_diffusion: bool = True,
    progress: bool = False,
) -> xr.DataArray:
    """Probability density at the given times, from a given initial density.

    Solves ∂_t P = Σ_i ∂_i[−b_i P] + Σ_ij ∂_i∂_j[D_ij P] with the operator of
    :func:`stationary_density` and TR-BDF2 steps (second order, L-stable).

    Parameters
    ----------
    process : Process
        A Langevin system or diffusion in one to three variables.
    initial : DataArray, sympy expression, or callable
        The density at time 0, normalised here: on the cell centres of a uniform grid (such as a
        finite-volume result), or a formula in the variables evaluated on ``box`` and ``shape``.
    times : sequence of float
        Increasing output times ≥ 0, in units of learning rate × iterations.
    time_step : float
        Longest step; every interval between output times is cut into equal steps.
    box, shape : optional
        The grid, needed unless ``initial`` brings one.
    scheme, cross_diffusion : see :func:`stationary_density`.
    progress : bool
        Show a progress bar over the steps.

    Returns
    -------
    DataArray
        Dims ``time`` and the variables; ``attrs["mass_drift"]`` is the largest |mass − 1| met. A ValueError
        if the times do not increase, the step is not positive, or the initial density is negative, not
        finite, without mass, or on a grid that is not uniform.
    """
    process = numeric_process(process, cross_diffusion)
    instants = np.asarray(times, float)
    if instants.ndim != 1 or len(instants) == 0 or (np.diff(instants, prepend=0.0) < 0).any():
        raise ValueError("times must be an increasing sequence of times >= 0")
    if not (np.isfinite(time_step) and time_step > 0):
        raise ValueError(f"time_step={time_step} must be positive and finite")
    grid, density = _initial_state(process, initial, box, shape)
    schemes = chosen_schemes(process, grid, scheme)
    matrix = fokker_planck_matrix(process, grid, schemes)
    frames, drift = _frames(matrix, density, grid, instants, time_step, progress)
    coordinates = {"time": quantity(instants, "time", "time", "learning rate x iterations")}
    coordinates |= grid.coordinates
    coordinates["cell_volume"] = quantity(np.full(grid.shape, grid.cell_volume), grid.names, "cell volume")
    result = xr.DataArray(frames, dims=("time", *grid.names), coords=coordinates, name="density")
    result.attrs = {
        "method": "finite-volume, TR-BDF2",
        "scheme": ", ".join(f"{s} in {v}" for v, s in zip(grid.names, schemes, strict=True)),
        "time_step": float(time_step),
        "mass_drift": drift,
    }
    return titled(result, process, "probability density", "Evolving density")


def _frames(
    matrix: sparse.csc_matrix, density: np.ndarray, grid: Grid, times: np.ndarray, longest: float, shown: bool
) -> tuple[np.ndarray, float]:
    """The density at each time, shape (times, *grid.shape), and the largest |mass − 1| on the way."""
    spans = np.diff(times, prepend=0.0)
    steps = np.ceil(spans / longest - 1e-9).astype(int)
    frames = np.empty((len(times), *grid.shape))
    current, drift, step = density.ravel(), 0.0, math.nan
    with bar(int(steps.sum()), unit="step", progress=shown, leave=False) as counted:
        for frame, span, count in zip(frames, spans, steps, strict=True):
            if count and not np.isclose(span / count, step, rtol=1e-12):
                step = span / count
                advance = time_stepper(matrix, step)
            for _ in range(count):
                current = advance(current)
                drift = max(drift, abs(float(current.sum()) * grid.cell_volume - 1.0))
                counted.update()
            frame[...] = current.reshape(grid.shape)
    return frames, drift


def _initial_state(process: Process, initial, box, shape) -> tuple[Grid, np.ndarray]:
    """The grid and the normalised initial density on it."""
    if isinstance(initial, xr.DataArray):
        grid = _grid_of(process, initial)
        density = initial.transpose(*process.names).to_numpy().astype(float)
    else:
        if box is None or shape is None:
            raise ValueError("a formula for the initial density needs box= and shape= as well")
        region, cells = checked_box(process, box), checked_shape(shape, len(process.variables))
        assert cells is not None  # shape is given
        grid = Grid.on(region, cells)
        function = numpy_function(initial, process.variables) if isinstance(initial, sp.Expr) else initial
        density = np.broadcast_to(np.asarray(function(*np.moveaxis(grid.points(), -1, 0)), float), grid.shape)
    total = density.sum() * grid.cell_volume
    if not np.isfinite(density).all() or not total > 0 or density.min() < -1e-9 * density.max():
        raise ValueError("the initial density must be finite, not negative, and have mass")
    return grid, density / total


def _grid_of(process: Process, density: xr.DataArray) -> Grid:
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


def probability_current(process: Process, density: xr.DataArray) -> xr.Dataset:
    """Probability current J_i = b_i P − Σ_j ∂_j(D_ij P) of a density on a uniform grid.

    Parameters
    ----------
    process : Process
        The process that the density belongs to.
    density : DataArray
        On cell centres of a uniform grid, dims named by the variables.

    Returns
    -------
    Dataset
        One component per variable, named ``J_x`` etc., second order in the cell width; zero
        everywhere only in equilibrium. A ValueError if the density's dims or grid do not fit.
    """
    grid = _grid_of(process, density)
    P = density.transpose(*process.names).to_numpy()
    points = grid.points()
    b = drift_values(process, points)
    dimension = len(grid.shape)
    D = process.diffusion_values(points.reshape(-1, dimension)).reshape(*P.shape, dimension, dimension)
    components = {}
    for i, name in enumerate(grid.names):
        current = b[..., i] * P
        for j, h in enumerate(grid.widths):
            current = current - np.gradient(D[..., i, j] * P, h, axis=j, edge_order=2)
        words = f"probability current along {name}"
        components[f"J_{name}"] = quantity(current, grid.names, words, "1 / time")
    title = f"Probability current: {process.name}"
    return dataset(components, title=title, coords={v: density[v] for v in grid.names})
