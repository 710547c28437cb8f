"""First-passage times, committors and relaxation rates from the backward equation on the density's mesh.

The generator 𝓛 = b·∇ + D:∇∇ is the transpose of the finite-volume Fokker–Planck operator. Where a cell
outside the target has a neighbour inside it, the neighbour's value is extrapolated linearly through the
place where the boundary cuts the line between them, which keeps second order wherever the boundary lies.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
import sympy as sp
import xarray as xr

from fpsolve.density.grid import Box, Grid, checked_box, checked_shape
from fpsolve.density.operator import factorised, fokker_planck_matrix, null_vector
from fpsolve.density.stationary import chosen_schemes, numeric_process
from fpsolve.density.window import default_shape, starting_window
from fpsolve.results import provenance, quantity
from fpsolve.symbols.target import target_function
from theory.langevin import Process

Target: TypeAlias = sp.Basic | Callable[..., np.ndarray]
#: Name and unit of the moments of the first-passage time.
_MOMENTS = {1: ("mean first-passage time", "time"), 2: ("second moment of the first-passage time", "time^2")}
#: A boundary is kept at least this share of a cell away from a cell's centre.
SMALLEST_CUT = 1e-3


def mean_first_passage_time(
    process: Process,
    *,
    target: Target,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    cross_diffusion: bool = True,
    moment: int = 1,
) -> xr.DataArray:
    """Mean time to reach a target from everywhere: 𝓛T = −1 outside, T = 0 on it.

    Source: Gardiner, *Stochastic Methods* (2009), sec. 5.5 and 6.6. Order 2 in the cell width:
    tests/fpsolve/density/test_backward.py. A ValueError if the target is outside the box or fills it, or the
    process is not numeric. A UserWarning if the times are lost in rounding or some come out negative (then
    ``attrs["usable"]`` is 0), and where the half-grid estimate is above 1 %.

    Parameters
    ----------
    process : Process
        A Langevin system or diffusion in one to three variables.
    target : sympy condition or callable
        Such as ``x > 0``; And, Or, Not of inequalities; or a signed function of one array per
        variable, positive inside the target.
    box : mapping of name to (low, high), optional
        Reflecting walls; default where the stationary density is. Must hold part of the target.
    shape : int or sequence of int, optional
        Cells per axis; default 2000, 200², 30³.
    cross_diffusion : bool
        False drops D_ij for i ≠ j.
    moment : {1, 2}
        ⟨T⟩, or ⟨T²⟩ from 𝓛T₂ = −2T₁.

    Returns
    -------
    DataArray
        Dims named by the variables, zero on the target, units time (time² for the second moment).
        ``attrs["half_grid_estimate"]``: relative change of the largest value on half the grid, over three.
    """
    if moment not in _MOMENTS:
        raise ValueError(f"moment={moment} must be 1 or 2")
    process = numeric_process(process, cross_diffusion)
    function = target_function(target, process.variables)
    grid = _grid(process, box, shape)
    values, largest, lost, negative = [], [], False, False
    for mesh in (grid, grid.coarsened()):
        problem = _Absorbing.of(process, mesh, [function])
        times = problem.solve(-np.ones(mesh.cells))
        if moment == 2:
            times = problem.solve(-2.0 * times)
        values.append(times)
        largest.append(float(times.max()))
        lost |= problem.lost
        negative |= not times.min() >= -1e-6 * largest[-1]
    estimate = abs(1.0 - largest[1] / largest[0]) / 3.0 if largest[0] > 0 else float("nan")
    complaint = _complaint(largest[0], estimate, lost, negative)
    if complaint:
        warnings.warn(complaint, stacklevel=2)
    usable = int(not (lost or negative))
    attrs = {"target": str(target), "half_grid_estimate": estimate, "usable": usable}
    return _labelled(values[0], grid, process, *_MOMENTS[moment], attrs)


def _complaint(largest: float, estimate: float, lost: bool, negative: bool) -> str:
    """The reason why the times are inaccurate, with a remedy; empty where they are accurate."""
    if negative and not lost:
        return (
            "some times come out negative: the mesh does not resolve where the noise is weak against the "
            "drift; use more cells (shape=) or simulate_escape"
        )
    if lost or not largest > 0:
        return f"times of {largest:.1e} are lost in rounding; use theory.escape or split_escape"
    if estimate > 1e-2:
        return f"the times are good to about {estimate:.1e} only: use more cells (shape=)"
    return ""


def committor(
    process: Process,
    *,
    source: Target,
    target: Target,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    cross_diffusion: bool = True,
) -> xr.DataArray:
    """Probability to reach the target before the source: 𝓛q = 0, q = 1 on the target, 0 on the source.

    Parameters
    ----------
    source, target : sympy condition or callable
        Disjoint sets, given as the target of :func:`mean_first_passage_time`.
    process, box, shape, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    DataArray
        Values in [0, 1], dims named by the variables. A ValueError if source and target overlap, or one of
        them is not in the box.
    """
    process = numeric_process(process, cross_diffusion)
    inside = [target_function(c, process.variables) for c in (source, target)]
    grid = _grid(process, box, shape)
    problem = _Absorbing.of(process, grid, inside)
    q = problem.solve(np.zeros(grid.cells), boundary_values=[0.0, 1.0])
    attrs = {"source": str(source), "target": str(target)}
    return _labelled(np.clip(q, 0.0, 1.0), grid, process, "committor", "1", attrs)


def relaxation_rates(
    process: Process,
    *,
    count: int = 2,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    cross_diffusion: bool = True,
) -> np.ndarray:
    """The slowest relaxation rates: eigenvalues of −𝓛 closest to zero, the zero one left out.

    Parameters
    ----------
    process, box, shape, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    ndarray, shape (count,)
        Real parts, ascending, units 1 / time. With two wells the first is the sum of both escape rates.
        A ValueError if ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    process = numeric_process(process, cross_diffusion)
    grid = _grid(process, box, shape)
    matrix = fokker_planck_matrix(process, grid, chosen_schemes(process, grid))
    state = null_vector(matrix, grid, pin=grid.cells // 2, eigenvalue=False)
    return state.pinned.slowest_rates(state.density.ravel(), count)


def _grid(process: Process, box, shape) -> Grid:
    """The whole box as a grid; targets break mirror symmetry."""
    region: Box = checked_box(process, box) if box is not None else starting_window(process, ()).box
    return Grid.on(region, checked_shape(shape, len(region)) or default_shape(process))


@dataclass(frozen=True)
class _Absorbing:
    """The backward equation outside absorbing sets: couplings between kept cells, and to the sets."""

    keep: np.ndarray  # kept cells
    size: int
    lu: sparse_linalg.SuperLU
    #: Pairs of kept cells and their rates, for residuals from differences of values.
    first: np.ndarray
    second: np.ndarray
    rate: np.ndarray
    #: Per absorbing set: kept cell, rate / cut.
    exits: list[tuple[np.ndarray, np.ndarray]]
    members: list[np.ndarray]
    lost: bool

    @classmethod
    def of(cls, process: Process, grid: Grid, functions: list[Callable[..., np.ndarray]]) -> _Absorbing:
        """The equation on a grid; each signed function is positive inside its set."""
        points = np.moveaxis(grid.points(), -1, 0)
        signed = [np.broadcast_to(np.asarray(f(*points), float), grid.shape).ravel() for f in functions]
        members = [g > 0 for g in signed]
        if not all(member.any() for member in members):
            raise ValueError("the target holds no cell of the box: enlarge the box or use more cells")
        if np.sum(members, axis=0).max() > 1:
            raise ValueError("source and target overlap")
        outside = ~np.any(members, axis=0)
        if not outside.any():
            raise ValueError("the target fills the whole box")
        # Backward: row i of the transpose. Entries (j, i) of A, i kept, are the rates i → j.
        rates = fokker_planck_matrix(process, grid, chosen_schemes(process, grid)).tocoo()
        start, end, rate = rates.col, rates.row, rates.data
        chosen = (start != end) & outside[start] & (rate != 0)
        start, end, rate = start[chosen], end[chosen], rate[chosen]
        number, count = np.cumsum(outside) - 1, int(outside.sum())
        inner = outside[end]
        first, second, inside_rate = number[start[inner]], number[end[inner]], rate[inner]
        diagonal = np.zeros(count)
        np.add.at(diagonal, first, -inside_rate)
        exits = []
        for g, member in zip(signed, members, strict=True):
            out = member[end]
            # The boundary cuts the line between the cells at this share of its length.
            cut = np.clip(g[start[out]] / (g[start[out]] - g[end[out]]), SMALLEST_CUT, 1.0)
            exits.append((number[start[out]], rate[out] / cut))
            np.add.at(diagonal, exits[-1][0], -exits[-1][1])
        system = sparse.coo_matrix((inside_rate, (first, second)), shape=(count, count)).tocsc()
        lu = factorised((system + sparse.diags(diagonal)).tocsc())
        # An escape slower than the rounding of the diagonal is lost.
        slowest = 1.0 / float(np.abs(lu.solve(np.ones(count))).max())
        lost = not slowest > np.finfo(float).eps * float(np.abs(diagonal).max())
        return cls(np.flatnonzero(outside), grid.cells, lu, first, second, inside_rate, exits, members, lost)

    def solve(self, right: np.ndarray, boundary_values: list[float] | None = None) -> np.ndarray:
        """u with 𝓛u = right outside the sets and u given on them; refined from differences of values."""
        values = boundary_values or [0.0] * len(self.exits)
        wanted = right[self.keep]
        u = np.zeros(len(self.keep))
        for _ in range(4):
            residual = wanted - self._generator(u, values)
            correction = self.lu.solve(residual)
            u = u + correction
            if np.abs(correction).max() < 1e-13 * np.abs(u).max():
                break
        full = np.zeros(self.size)
        full[self.keep] = u
        for member, value in zip(self.members, values, strict=True):
            full[member] = value
        return full

    def _generator(self, u: np.ndarray, values: list[float]) -> np.ndarray:
        """𝓛u from differences of neighbouring values, which stay accurate where u is large."""
        total = np.bincount(self.first, self.rate * (u[self.second] - u[self.first]), len(u))
        for (cells, rate), value in zip(self.exits, values, strict=True):
            total += np.bincount(cells, rate * (value - u[cells]), len(u))
        return total


def _labelled(
    values: np.ndarray, grid: Grid, process: Process, name: str, unit: str, attrs: Mapping[str, object]
) -> xr.DataArray:
    """Values on the cells as a labelled array."""
    variable = quantity(values.reshape(grid.shape), grid.names, name, unit)
    result = xr.DataArray(variable, coords=grid.coordinates, name=re.sub(r"\W", "_", name))
    result.attrs |= provenance(f"{name}: {process.name}", cells=grid.cells, **attrs)
    return result
