"""Stationary density of a process as a labelled array: adaptive finite volumes, or spectral elements."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

import numpy as np
import xarray as xr

from fpsolve.density.grid import (
    Box,
    Grid,
    checked_box,
    checked_shape,
    kept_axes,
    loss_values,
    mirror_symmetries,
)
from fpsolve.density.operator import NullVector, Scheme, coefficients, fokker_planck_matrix, null_vector
from fpsolve.density.window import default_shape, starting_window
from fpsolve.results import provenance, quantity
from theory.langevin import Process

#: Largest number of cells that automatic refinement uses, by dimension.
MAX_CELLS = {1: 100_000, 2: 240_000, 3: 60_000}
#: Outer share of the box whose mass is reported as ``boundary_mass``.
RIM = 0.02


def stationary_density(
    process: Process,
    *,
    method: Literal["finite-volume", "spectral"] = "finite-volume",
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    cross_diffusion: bool = True,
    scheme: Literal["auto", "central", "exponential"] | Sequence[Scheme] = "auto",
    walls: Literal["far", "reflecting"] = "far",
    symmetry: bool = True,
    accuracy: float = 1e-3,
) -> xr.DataArray:
    """Stationary probability density of an Itô process.

    Solves 0 = Σ_i ∂_i[−b_i P] + Σ_ij ∂_i∂_j[D_ij P] with zero flux through the box. The
    finite-volume operator is central or exponentially fitted per axis, cross terms included;
    the spectral one is described in :mod:`fpsolve.density.spectral`.

    Parameters
    ----------
    process : Process
        A :class:`theory.Langevin` system or :class:`theory.Diffusion` in one to three variables.
    method : {"finite-volume", "spectral"}
        Finite volumes assembled by FiPy, or spectral elements.
    box : mapping of name to (low, high), optional
        Where to solve. Default: found from the reduced density of a valley, or from the local
        widths at the minima, then widened until its rim holds no mass.
    shape : int or sequence of int, optional
        Cells per axis of the box (finite volumes only). Default: from the width of the density,
        refined until the half-grid estimate is below ``accuracy``.
    cross_diffusion : bool
        False drops D_ij for i ≠ j, as the supplement of Yang, Tang, Tu (2023) does.
    scheme : "auto", "central", "exponential", or one of the two per axis
        Face values of the convective flux. "auto": exponential where the cell Péclet number is
        below one in the bulk or the noise is isotropic, else central.
    walls : {"far", "reflecting"}
        "far": the density is expected to fit into the box, a loaded rim is an error.
        "reflecting": the walls are meant; mass at the rim is only recorded.
    symmetry : bool
        Solve on the part v ≥ 0 of every variable v whose reflection leaves the law unchanged,
        and mirror the result. Both wells of a symmetric landscape then weigh the same by
        construction, however slow the exchange between them.
    accuracy : float
        Target for the half-grid estimate of relative errors in ⟨v²⟩ and std|v|.

    Returns
    -------
    DataArray
        Dims named by the variables, coordinate ``cell_volume`` with
        ``(P * cell_volume).sum() == 1``. ``attrs`` tell the scheme, the symmetry used and every
        self-check: ``mass``, ``residual``, ``column_sum``, ``negative_mass``, ``boundary_mass``,
        ``second_eigenvalue`` (slowest relaxation rate, within the symmetric sector), and
        ``half_grid_estimate`` (largest relative error of ⟨v²⟩ and std|v| by Richardson).

    Raises
    ------
    ValueError
        If a parameter has no value, the box does not fit the variables, D is not positive
        semidefinite, or the density does not fit into the box.

    Warns
    -----
    UserWarning
        Where a self-check fails, with the remedy.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 10; Scharfetter, Gummel, IEEE Trans.
    Electron Devices 16, 64 (1969) for exponential fitting. Order 2 in the cell width:
    tests/fpsolve/density/test_convergence.py.
    """
    process = numeric_process(process, cross_diffusion)
    mirrored = mirror_symmetries(process) if symmetry else ()
    given = None if box is None else checked_box(process, box)
    if given is not None:
        mirrored = tuple(v for v in mirrored if np.isclose(given[v][0], -given[v][1], rtol=1e-12))
    if method == "spectral":
        from fpsolve.density.spectral import spectral_density

        region = given or _widened(starting_window(process, mirrored).box, mirrored)
        return titled(spectral_density(process, box=region, symmetric=mirrored), process)
    if method != "finite-volume":
        raise ValueError(f"method={method!r} must be 'finite-volume' or 'spectral'")
    solution = _solve_adaptively(process, given, shape, scheme, mirrored, accuracy)
    _judge(solution, walls, accuracy)
    return titled(_labelled(solution), process)


def _widened(box: Box, mirrored: tuple[str, ...], share: float = 0.12) -> Box:
    """An automatic box enlarged by 12 % per side, so that truncation is negligible for spectral elements."""
    wide: Box = {}
    for v, (low, high) in box.items():
        extra = share * (high - low)
        inner = -(high + extra) if low == -high else low - extra
        wide[v] = (max(inner, 0.0) if v in mirrored and low >= 0 else inner, high + extra)
    return wide


def numeric_process(process: Process, cross_diffusion: bool = True) -> Process:
    """A process with numeric coefficients in at most three variables."""
    if not isinstance(process, Process):
        raise TypeError(f"expected a theory.Langevin or theory.Diffusion, got {type(process).__name__}")
    if process.free_parameters:
        raise ValueError(f"give values to the parameters {', '.join(process.free_parameters)} first")
    if len(process.variables) > 3:
        raise ValueError(
            f"a density in {len(process.variables)} variables is out of reach of a mesh; use simulate"
        )
    return process if cross_diffusion else process.without_cross_diffusion()


@dataclass(frozen=True)
class _Solution:
    """A discrete stationary state on its grid, with the numbers that :func:`_judge` needs."""

    grid: Grid
    folded: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    state: NullVector
    boundary_mass: float
    half_grid_estimate: float
    peclet: tuple[float, ...]


def _solve_adaptively(
    process: Process,
    box: Box | None,
    shape: Sequence[int] | int | None,
    scheme: str | Sequence[Scheme],
    mirrored: tuple[str, ...],
    accuracy: float,
) -> _Solution:
    """Solve; widen an automatic box while its rim holds mass, refine an automatic mesh."""
    dimension = len(process.variables)
    found = starting_window(process, mirrored) if box is None else None
    region = dict(box) if box is not None else dict(found.box)  # type: ignore[union-attr]
    cells = checked_shape(shape, dimension)
    automatic_shape = cells is None
    if cells is None:
        cells = found.shape if found is not None else default_shape(process, mirrored)
    elif mirrored:
        # The user counts the cells of the whole box; an odd count keeps a cell at the middle.
        odd = [n for n, v in zip(cells, process.names, strict=True) if v in mirrored and n % 2]
        mirrored = () if odd else mirrored
        cells = tuple(n // 2 if v in mirrored else n for n, v in zip(cells, process.names, strict=True))
    for _ in range(8):
        grid = _grid(process, region, cells, mirrored)
        solution = _solve(process, grid, scheme, mirrored)
        if box is None and _refit(solution, region):
            continue
        excess = solution.half_grid_estimate / accuracy
        if not automatic_shape or excess <= 1.0:
            break
        room = (MAX_CELLS[dimension] / np.prod(cells)) ** (1.0 / dimension)
        factor = min(2.0, 1.1 * np.sqrt(excess), room)
        if factor < 1.1:
            break
        cells = tuple(2 * int(n * factor / 2) for n in cells)
    return solution


def _grid(process: Process, box: Box, cells: tuple[int, ...], mirrored: tuple[str, ...]) -> Grid:
    """The grid of the part of the box that is solved: v ≥ 0 for mirrored variables.

    A mirrored window [a, b] with a > 0 keeps a wall at a, where there is no density; a is moved
    to a multiple of the cell width, so that the mirrored result has one uniform grid.
    """
    low, high = [], []
    for v, n in zip(process.names, cells, strict=True):
        a, b = (max(0.0, box[v][0]) if v in mirrored else box[v][0]), box[v][1]
        if v in mirrored and a > 0.0:
            whole = int(a * n / (b - a))
            a = whole * b / (whole + n)
        low.append(a)
        high.append(b)
    at_zero = tuple(v for v, a in zip(process.names, low, strict=True) if v in mirrored and a == 0.0)
    return Grid(process.names, tuple(low), tuple(high), cells, at_zero)


def _solve(
    process: Process, grid: Grid, scheme: str | Sequence[Scheme], folded: tuple[str, ...]
) -> _Solution:
    """Solve on the grid and on the one with half as many cells per axis."""
    weights = _coarse_density(process, grid)
    peclet = _bulk_peclet(process, grid, weights)
    schemes = fixed_schemes(process, scheme, peclet)
    half = grid.coarsened()
    coarse = null_vector(
        fokker_planck_matrix(process, half, schemes), half, pin=_nearest_cell(weights, half), eigenvalue=False
    )
    if scheme == "auto" and "central" in schemes and coarse.negative_mass > 1e-2:
        # Degenerate noise (D singular along a line): central faces oscillate, exponential ones do not.
        return _solve(process, grid, "exponential", folded)
    pin = _nearest_cell(coarse.density, grid)
    state = null_vector(fokker_planck_matrix(process, grid, schemes), grid, pin=pin)
    difference = _moments(state.density, grid) - _moments(coarse.density, half)
    scale = np.abs(_moments(state.density, grid, scales=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(np.nanmax(np.abs(difference) / scale) / 3.0)
    return _Solution(grid, folded, schemes, state, _rim_mass(state.density, grid), estimate, peclet)


def _coarse_density(process: Process, grid: Grid) -> np.ndarray:
    """A rough, positive density on a small grid: where the bulk is, and which cell to pin."""
    small = {1: 200, 2: 48, 3: 12}[len(grid.shape)]
    coarse = Grid(grid.names, grid.low, grid.high, tuple(min(n, small) for n in grid.shape), grid.mirrored)
    matrix = fokker_planck_matrix(process, coarse, ["exponential"] * len(grid.shape))
    pin = 0
    if process.landscape is not None:
        pin = int(np.argmin(loss_values(process, coarse.points())))  # type: ignore[arg-type]
    return np.abs(null_vector(matrix, coarse, pin=pin, eigenvalue=False).density)


def _nearest_cell(density: np.ndarray, grid: Grid) -> int:
    """Index in ``grid`` of the cell at the mode of a density on another grid of the same region."""
    place = np.unravel_index(int(np.argmax(density)), density.shape)
    index = [
        min(n - 1, int((i + 0.5) * n / m)) for i, m, n in zip(place, density.shape, grid.shape, strict=True)
    ]
    return int(np.ravel_multi_index(index, grid.shape))


def _bulk_peclet(process: Process, grid: Grid, weights: np.ndarray) -> tuple[float, ...]:
    """Cell Péclet number per axis that 99.9 % of the probability stays below."""
    small = Grid(grid.names, grid.low, grid.high, weights.shape, grid.mirrored)
    values = coefficients(process, small)
    bulk = []
    for axis in range(len(grid.shape)):
        inner = (np.delete(weights, 0, axis=axis) + np.delete(weights, -1, axis=axis)).ravel()
        number = values.peclet(small, axis).ravel() * grid.widths[axis] / small.widths[axis]
        order = np.argsort(number)
        reached = np.cumsum(inner[order]) / inner.sum()
        bulk.append(float(number[order][np.searchsorted(reached, 0.999)]))
    return tuple(bulk)


def chosen_schemes(process: Process, grid: Grid) -> tuple[Scheme, ...]:
    """The scheme of each axis that :func:`stationary_density` would choose on a grid."""
    return fixed_schemes(process, "auto", _bulk_peclet(process, grid, _coarse_density(process, grid)))


def fixed_schemes(
    process: Process, scheme: str | Sequence[Scheme], peclet: tuple[float, ...]
) -> tuple[Scheme, ...]:
    """The scheme of each axis.

    Exponential fitting adds the diffusion D·Pe²/12. The sum is exact in equilibrium. It is wrong along a
    slow axis whose drift fluctuates with a fast variable, where Pe ≫ 1 and the mean drift is small.
    """
    dimension = len(process.variables)
    if not isinstance(scheme, str):
        if len(scheme) != dimension or not set(scheme) <= {"central", "exponential"}:
            raise ValueError(f"scheme={scheme!r} must name 'central' or 'exponential' for each variable")
        return cast(tuple[Scheme, ...], tuple(scheme))
    if scheme in ("central", "exponential"):
        return cast(tuple[Scheme, ...], (scheme,) * dimension)
    if scheme != "auto":
        raise ValueError(f"scheme={scheme!r} must be 'auto', 'central', 'exponential', or one per axis")
    if _is_isotropic(process):
        peclet = (0.0,) * dimension
    chosen: list[Scheme] = ["exponential" if number <= 1.0 else "central" for number in peclet]
    return tuple(chosen)


def _is_isotropic(process: Process) -> bool:
    """True for a landscape with constant D·I, where exp(−L/D) is the exact answer."""
    return process.landscape is not None and process.temperature is not None


def _moments(density: np.ndarray, grid: Grid, *, scales: bool = False) -> np.ndarray:
    """⟨v²⟩ and std per axis (of |v| where mirrored), ⟨u v⟩ per pair, by the midpoint rule.

    With ``scales``, the sizes that errors of these numbers are compared with.
    """
    dimension = len(grid.shape)
    P = density / density.sum()
    lines = [grid.centres(axis) for axis in range(dimension)]
    numbers, squares = [], []
    for axis in range(dimension):
        marginal = kept_axes(P, axis)
        mean = float(marginal @ lines[axis])
        squares.append(float(marginal @ lines[axis] ** 2))
        numbers += [squares[-1], math.sqrt(max(float(marginal @ (lines[axis] - mean) ** 2), 0.0))]
    for i, j in combinations(range(dimension), 2):
        product = float(lines[i] @ kept_axes(P, i, j) @ lines[j])
        numbers.append(float(np.sqrt(abs(squares[i] * squares[j]))) if scales else product)
    return np.array(numbers)


def _rim_masses(density: np.ndarray, grid: Grid) -> dict[tuple[str, str], float]:
    """Probability in the outer ``RIM`` share of the box, for every end that is a wall."""
    masses = {}
    for axis, name in enumerate(grid.names):
        marginal = kept_axes(np.abs(density), axis) * grid.cell_volume
        rim = max(1, round(RIM * grid.shape[axis]))
        if name not in grid.mirrored:
            masses[name, "low"] = float(marginal[:rim].sum())
        masses[name, "high"] = float(marginal[-rim:].sum())
    return masses


def _rim_mass(density: np.ndarray, grid: Grid) -> float:
    return sum(_rim_masses(density, grid).values())


def _refit(solution: _Solution, box: Box) -> bool:
    """Fit an automatic ``box`` to its density, in place; False if it fits already.

    Walls that hold mass move out by a third; a box that is much wider than the density (the
    reduced theory overestimates heavy tails) is cut where the tail holds 1e-10.
    """
    grid, state = solution.grid, solution.state
    changed = False
    # Where the exchange between wells is lost in rounding, an empty tail may be a lost well.
    trusted = state.second_eigenvalue > state.rounding_rate
    masses = _rim_masses(solution.state.density, grid)
    for axis, name in enumerate(grid.names):
        low, high = box[name]
        mirrored = name in grid.mirrored
        marginal = kept_axes(np.abs(state.density), axis) * grid.cell_volume
        span = grid.high[axis] - grid.low[axis]
        if masses[name, "high"] > 1e-8:
            high, changed = high + 0.3 * span, True
        elif trusted:
            tail = grid.high[axis] - grid.widths[axis] * _empty_cells(marginal[::-1])
            if tail < grid.high[axis] - 0.25 * span:
                high, changed = tail, True
        if mirrored:
            low = -high
        elif masses[name, "low"] > 1e-8:
            low, changed = low - 0.3 * span, True
        elif trusted:
            tail = grid.low[axis] + grid.widths[axis] * _empty_cells(marginal)
            if tail > grid.low[axis] + 0.25 * span:
                low, changed = tail, True
        box[name] = (low, high)
    return changed


def _empty_cells(marginal: np.ndarray) -> int:
    """How many leading cells hold less than 1e-10 of the mass together, less one for safety."""
    return max(0, int(np.searchsorted(np.cumsum(marginal), 1e-10)) - 1)


def _judge(solution: _Solution, walls: str, accuracy: float) -> None:
    """Refuse a density that does not fit its box; warn of every other self-check that fails."""
    if walls not in ("far", "reflecting"):
        raise ValueError(f"walls={walls!r} must be 'far' or 'reflecting'")
    state, grid = solution.state, solution.grid
    rim = _rim_masses(state.density, grid)
    if walls == "far" and solution.boundary_mass > 1e-2:
        (name, end), mass = max(rim.items(), key=lambda item: item[1])
        raise ValueError(
            f"the loss does not confine the density in the box: {mass:.1%} of the mass lies at the "
            f"{end} end of {name}; enlarge the box, or say walls='reflecting' if the wall is meant"
        )
    if not np.isfinite(solution.half_grid_estimate) or state.negative_mass > 0.1:
        raise ValueError(
            f"the mesh does not resolve this density (negative cells hold {state.negative_mass:.1%} of the "
            "mass): use more cells (shape=), a smaller box=, or a loss and noise that are smooth in it"
        )
    complaints = []
    if walls == "far" and solution.boundary_mass > 1e-6:
        complaints.append(
            f"the rim of the box holds {solution.boundary_mass:.1e} of the mass: enlarge the box"
        )
    if state.residual > 1e-9:
        complaints.append(f"the relative residual is {state.residual:.1e}: the matrix is nearly singular")
    if state.negative_mass > 1e-4:
        complaints.append(
            f"negative cells hold {state.negative_mass:.1e} of the mass: use more cells (shape=)"
        )
    if solution.half_grid_estimate > 3 * accuracy:
        complaints.append(
            f"moments are good to about {solution.half_grid_estimate:.1e} only: use more cells (shape=)"
        )
    if not state.second_eigenvalue > state.rounding_rate:
        complaints.append(
            f"the slowest relaxation rate is {state.second_eigenvalue:.1e}: the weights of separate valleys "
            "are lost in rounding; solve one valley at a time (box=) or raise the noise"
        )
    for complaint in complaints:
        warnings.warn(complaint, stacklevel=3)


def _labelled(solution: _Solution) -> xr.DataArray:
    """The density on the whole box, mirrored where only half was solved."""
    grid, density, folded = solution.grid, solution.state.density, solution.folded
    coordinates = {}
    for axis, name in enumerate(grid.names):
        line = grid.centres(axis)
        if name in folded:
            # Cells between the walls of two distant mirrored windows hold no density.
            empty = round(grid.low[axis] / grid.widths[axis])
            density = np.pad(density, [(empty if a == axis else 0, 0) for a in range(density.ndim)])
            line = (np.arange(empty + grid.shape[axis]) + 0.5) * grid.widths[axis]
            density = np.concatenate([np.flip(density, axis), density], axis)
            line = np.concatenate([-line[::-1], line])
        coordinates[name] = quantity(line, name, name)
    density = density / (density.sum() * grid.cell_volume)
    volume = np.full(density.shape, grid.cell_volume)
    coordinates["cell_volume"] = quantity(volume, grid.names, "cell volume")
    result = xr.DataArray(density, dims=grid.names, coords=coordinates, name="density")
    scheme = ", ".join(f"{s} in {v}" for v, s in zip(grid.names, solution.schemes, strict=True))
    mirrors = ", ".join(f"{v} -> -{v}" for v in folded)
    solved = ", ".join(f"{grid.low[grid.names.index(v)]:.4g} <= {v}" for v in folded)
    result.attrs = {
        "method": "finite-volume",
        "scheme": f"{scheme}; cross terms on 9 points" if len(grid.names) > 1 else scheme,
        "symmetry": f"solved on {solved}; mirrored by {mirrors}" if folded else "none used",
        "cells": grid.cells,
        "mass": float((density * grid.cell_volume).sum()),
        "residual": solution.state.residual,
        "column_sum": solution.state.column_sum,
        "negative_mass": solution.state.negative_mass,
        "boundary_mass": solution.boundary_mass,
        "second_eigenvalue": solution.state.second_eigenvalue,
        "half_grid_estimate": solution.half_grid_estimate,
        "bulk_peclet": ", ".join(f"{number:.3g}" for number in solution.peclet),
    }
    return result


def titled(density: xr.DataArray, process: Process) -> xr.DataArray:
    """The density with its title, unit and process in the attributes."""
    density.attrs |= {"long_name": "stationary probability density", "units": "1"} | provenance(
        f"Stationary density: {process.name}",
        landscape="" if process.landscape is None else str(process.landscape.loss),
        cross_diffusion=int(getattr(process, "cross_diffusion", True)),
        dimension=len(process.variables),
    )
    return density
