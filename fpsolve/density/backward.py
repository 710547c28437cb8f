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
import sympy as sp
import xarray as xr

from fpsolve.density.absorption import boundary_cuts
from fpsolve.density.choices import Walls
from fpsolve.density.dissection import Dissection
from fpsolve.density.elimination import Elimination, ShutIn, eliminate
from fpsolve.density.grid import Box, Grid, checked_box, checked_shape, checked_walls, place
from fpsolve.density.modes import slow_modes
from fpsolve.density.operator import fokker_planck_matrix, null_vector
from fpsolve.density.stationary import chosen_schemes, numeric_process, order
from fpsolve.density.window import default_shape, starting_window
from fpsolve.results import provenance, quantity
from fpsolve.symbols.target import target_function
from theory.langevin import Process

Target: TypeAlias = sp.Basic | Callable[..., np.ndarray]
#: Name and unit of the moments of the first-passage time.
_MOMENTS = {1: ("mean first-passage time", "time"), 2: ("second moment of the first-passage time", "time^2")}


def mean_first_passage_time(
    process: Process,
    *,
    target: Target,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
    moment: int = 1,
) -> xr.DataArray:
    """Mean time to reach a target from everywhere: 𝓛T = −1 outside, T = 0 on it.

    Source: Gardiner, *Stochastic Methods* (2009), sec. 5.5 and 6.6. Order 2 in the cell width:
    tests/fpsolve/density/test_backward.py. A ValueError if the target is outside the box or fills it, or the
    process is not numeric. A RuntimeError if a well does not reach the target, or over a barrier above about
    670 D. A UserWarning if some times come out negative (then ``attrs["usable"]`` is 0), and where the
    half-grid estimate is above 1 %.

    Parameters
    ----------
    process : Process
        A Langevin system or diffusion in one to three variables.
    target : sympy condition or callable
        Such as ``x > 0``; And, Or, Not of inequalities; or a signed function of one array per
        variable, positive inside the target.
    box : mapping of name to (low, high), optional
        Where to solve; default where the stationary density is. Must hold part of the target.
    shape : int or sequence of int, optional
        Cells per axis; default 2000, 200², 30³.
    walls : "far", "reflecting", "periodic", or a mapping of names to these
        "far" walls reflect as well. "periodic": the ends of the box are one place, which needs ``box``.
    cross_diffusion : bool
        False drops D_ij for i ≠ j.
    moment : {1, 2}
        ⟨T⟩, or ⟨T²⟩ from 𝓛T₂ = −2T₁.

    Returns
    -------
    DataArray
        Dims named by the variables, zero on the target, units time (time² for the second moment).
        ``attrs["half_grid_estimate"]``: relative change of the largest value on half the grid, over 3; not
        divided where coefficients jump in several variables, D vanishes at an end or noise is missing.
    """
    if moment not in _MOMENTS:
        raise ValueError(f"moment={moment} must be 1 or 2")
    process = numeric_process(process, cross_diffusion)
    function = target_function(target, process.variables)
    grid = _grid(process, box, shape, walls)
    power = 2.0 ** order(process, grid, chosen_schemes(process, grid)) - 1.0
    values, largest, negative = [], [], False
    for mesh in (grid, grid.coarsened()):
        problem = _Absorbing.of(process, mesh, [function])
        times = problem.times(np.ones(mesh.cells))
        if moment == 2:
            times = problem.times(2.0 * times)
        values.append(times)
        largest.append(float(times.max()))
        negative |= not times.min() >= -1e-6 * largest[-1]
    estimate = abs(1.0 - largest[1] / largest[0]) / power if largest[0] > 0 else float("nan")
    complaint = _complaint(estimate, negative)
    if complaint:
        warnings.warn(complaint, stacklevel=2)
    usable = int(not negative)
    attrs = {"target": str(target), "half_grid_estimate": estimate, "usable": usable}
    return _labelled(values[0], grid, process, *_MOMENTS[moment], attrs)


def _complaint(estimate: float, negative: bool) -> str:
    """The reason why the times are inaccurate, with a remedy; empty where they are accurate."""
    if negative:
        return (
            "some times come out negative: the mesh does not resolve where the noise is weak against the "
            "drift; use more cells (shape=) or simulate_escape"
        )
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
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
) -> xr.DataArray:
    """Probability to reach the target before the source: 𝓛q = 0, q = 1 on the target, 0 on the source.

    Parameters
    ----------
    source, target : sympy condition or callable
        Disjoint sets, given as the target of :func:`mean_first_passage_time`.
    process, box, shape, walls, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    DataArray
        Values in [0, 1], dims named by the variables. A ValueError if source and target overlap, or one of
        them is not in the box.
    """
    process = numeric_process(process, cross_diffusion)
    inside = [target_function(c, process.variables) for c in (source, target)]
    grid = _grid(process, box, shape, walls)
    problem = _Absorbing.of(process, grid, inside)
    q = problem.probabilities()
    attrs = {"source": str(source), "target": str(target)}
    return _labelled(q, grid, process, "committor", "1", attrs)


def relaxation_rates(
    process: Process,
    *,
    count: int = 2,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
) -> np.ndarray:
    """The slowest relaxation rates: eigenvalues of −𝓛 closest to zero, the zero one left out.

    Parameters
    ----------
    process, box, shape, walls, cross_diffusion
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
    grid = _grid(process, box, shape, walls)
    matrix = fokker_planck_matrix(process, grid, chosen_schemes(process, grid))
    state = null_vector(matrix, grid)
    return slow_modes(state.rates, state.chain, count).rates.real


def _grid(process: Process, box, shape, walls) -> Grid:
    """The whole box as a grid; targets break mirror symmetry."""
    ends = checked_walls(process, walls, box)
    region: Box = checked_box(process, box) if box is not None else starting_window(process, ()).box
    periodic = tuple(v for v in process.names if ends[v] == "periodic")
    return Grid.on(region, checked_shape(shape, len(region)) or default_shape(process), periodic)


@dataclass(frozen=True)
class _Absorbing:
    """The backward equation outside absorbing sets."""

    keep: np.ndarray  # cells outside the sets
    chain: Elimination
    members: list[np.ndarray]

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
        keep = np.flatnonzero(~np.any(members, axis=0))
        if not len(keep):
            raise ValueError("the target fills the whole box")
        rates = fokker_planck_matrix(process, grid, chosen_schemes(process, grid)).T.tocsr()[keep]
        exits = np.zeros((len(keep), len(members)))
        for k, (g, member) in enumerate(zip(signed, members, strict=True)):
            jumps = rates[:, member].tocoo()
            cut = boundary_cuts(grid, g, np.flatnonzero(member)[jumps.col], keep[jumps.row])
            np.add.at(exits[:, k], jumps.row, jumps.data / cut)
        inner = rates[:, keep]
        try:
            chain = eliminate(Dissection.of(inner, grid.indices()[keep]), inner, exits)
        except ShutIn as error:
            where = place(grid.names, grid.points().reshape(grid.cells, -1)[keep[error.state]])
            raise RuntimeError(
                f"the target is never reached from {where}, or over a barrier above about 670 D, which no "
                "float holds; use theory.escape or a box= without that well"
            ) from None
        return cls(keep, chain, members)

    def times(self, right: np.ndarray) -> np.ndarray:
        """u with −𝓛u = right outside the sets, 0 on them."""
        u = np.zeros(len(self.members[0]))
        u[self.keep] = self.chain.solve(right[self.keep])
        return u

    def probabilities(self) -> np.ndarray:
        """Probability to reach the last set first."""
        q = self.members[-1].astype(float)
        q[self.keep] = self.chain.exit_probabilities()[:, -1]
        return q


def _labelled(
    values: np.ndarray, grid: Grid, process: Process, name: str, unit: str, attrs: Mapping[str, object]
) -> xr.DataArray:
    """Values on the cells as a labelled array."""
    variable = quantity(values.reshape(grid.shape), grid.names, name, unit)
    result = xr.DataArray(variable, coords=grid.coordinates, name=re.sub(r"\W", "_", name))
    result.attrs |= provenance(f"{name}: {process.name}", cells=grid.cells, **attrs)
    return result
