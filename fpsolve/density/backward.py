"""First-passage times, committors and relaxation modes from the backward equation on the density's mesh.

The generator 𝓛 = b·∇ + D:∇∇ is the transpose of the finite-volume Fokker–Planck operator. Where a cell
outside the target has a neighbour inside it, the rate between them is that to the place where the boundary
cuts the line, which keeps second order wherever the boundary lies.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast, get_args

import numpy as np
import scipy.sparse as sparse
import xarray as xr

from fpsolve.density.absorption import Outside, lines_with_jumps
from fpsolve.density.choices import BackwardMethod, Scheme, Walls
from fpsolve.density.dissection import Dissection, wells, width_in_wells
from fpsolve.density.elimination import Elimination, ShutIn, eliminate
from fpsolve.density.grid import Grid, checked_box, checked_shape, checked_walls, lowest, place
from fpsolve.density.modes import SlowModes, slow_modes
from fpsolve.density.operator import NullVector, fokker_planck_matrix, null_vector
from fpsolve.density.richardson import at, error_left, extrapolated, resampled
from fpsolve.density.shear import Sheared, sheared
from fpsolve.density.stationary import SMALLEST_WELL, chosen_schemes, numeric_process, order
from fpsolve.density.truncation import cut_off
from fpsolve.density.upwind import noiseless_directions
from fpsolve.density.window import default_shape, starting_window
from fpsolve.results import dataset, provenance, quantity
from fpsolve.symbols.target import Target, target_function
from theory.langevin import Process

#: Negative times, as a share of the largest, that upwind differences may have next to the target.
LARGEST_UNDERSHOOT = 1e-2
#: Second differences from cell to cell, in units of the mode, of modes of the mesh (4 at most).
JAGGED = 1.0
#: Name and unit of the moments of the first-passage time.
_MOMENTS = {1: ("mean first-passage time", "time"), 2: ("second moment of the first-passage time", "time^2")}


def mean_first_passage_time(
    process: Process,
    *,
    target: Target,
    method: BackwardMethod = "finite-volume",
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
    method : {"finite-volume", "chain"}
        As in :func:`stationary_density`.
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
        Extrapolated over grids where that brings them together. ``attrs["half_grid_estimate"]``:
        relative error in each well, from the changes between the grids.
    """
    if moment not in _MOMENTS:
        raise ValueError(f"moment={moment} must be 1 or 2")
    process = numeric_process(process, cross_diffusion)
    if change := _shear(process, method, walls):
        inside = change.function(target_function(target, process.variables))
        solve = partial(mean_first_passage_time, target=inside, moment=moment)
        return change.solved(solve, box, shape)[1].assign_attrs(target=str(target))
    problems = _on_grids(process, [target], method, box, shape, walls, 4, moment == 1)
    values = []
    for problem in problems:
        times = problem.times(np.ones(problem.grid.cells))
        values.append(problem.times(2.0 * times) if moment == 2 else times)
    undershoot = max(float(-v.min() / v.max()) for v in values[: 1 if problems[0].upwind else 2])
    negative = not undershoot <= (LARGEST_UNDERSHOOT if problems[0].upwind else 1e-6)
    if len(problems) > 2 and all(v.min() >= 0.0 for v in values[:3]):
        values[0], estimate = _extrapolated_times(problems, values)
    else:
        estimate = _error_of_times(problems[:2], values[:2])
    if problems[0].upwind and not negative:  # times next to the target are good to that share of the largest
        estimate, values[0] = max(estimate, undershoot), np.maximum(values[0], 0.0)
    if negative:
        _warn(
            "some times come out negative: the mesh does not resolve where the noise is weak against the "
            "drift; use more cells (shape=), method='chain' or simulate_escape"
        )
    elif not estimate <= 1e-2:
        _warn(f"the times are good to about {estimate:.1e} only: use more cells (shape=)")
    attrs = {"target": str(target), "half_grid_estimate": estimate, "usable": int(not negative)}
    return problems[0].labelled(values[0], *_MOMENTS[moment], attrs)


def committor(
    process: Process,
    *,
    source: Target,
    target: Target,
    method: BackwardMethod = "finite-volume",
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
) -> xr.DataArray:
    """Probability to reach the target before the source: 𝓛q = 0, q = 1 on the target, 0 on the source.

    A ValueError if source and target overlap, or one of them is not in the box. A RuntimeError if a well
    reaches neither, or if values leave [0, 1] by more than 0.1. A UserWarning where they leave it by more
    than the half-grid estimate, or where the half-grid estimate is above 0.01.

    Parameters
    ----------
    source, target : sympy condition or callable
        Disjoint sets, given as the target of :func:`mean_first_passage_time`.
    process, method, box, shape, walls, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    DataArray
        Dims named by the variables. ``attrs["half_grid_estimate"]``: error of the values, from the largest
        change on half the grid.
    """
    process = numeric_process(process, cross_diffusion)
    if change := _shear(process, method, walls):
        sets = [change.function(target_function(c, process.variables)) for c in (source, target)]
        solve = partial(committor, source=sets[0], target=sets[1])
        q = change.solved(solve, box, shape)[1]
        return q.assign_attrs(source=str(source), target=str(target))
    problems = _on_grids(process, [source, target], method, box, shape, walls, 2)
    values = [problem.probabilities() for problem in problems]
    excess = max(float(-values[0].min()), float(values[0].max()) - 1.0, 0.0)
    if excess > 0.1:
        raise RuntimeError(
            f"the committor leaves [0, 1] by {excess:.2g}: the mesh does not resolve where the noise is weak "
            "against the drift; use more cells (shape=) or method='chain'"
        )
    if excess < 1e-12:
        values[0] = np.clip(values[0], 0.0, 1.0)
    estimate = _error_of_probabilities(problems, values)
    if excess > max(1e-9, estimate):
        _warn(f"the committor leaves [0, 1] by {excess:.1e}: use more cells (shape=) or method='chain'")
    if not estimate <= 1e-2:
        _warn(f"the committor is good to about {estimate:.1e} only: use more cells (shape=)")
    attrs = {"source": str(source), "target": str(target), "half_grid_estimate": estimate}
    return problems[0].labelled(values[0], "committor", "1", attrs)


def relaxation_rates(
    process: Process,
    *,
    count: int = 2,
    method: BackwardMethod = "finite-volume",
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
) -> np.ndarray:
    """The slowest relaxation rates: eigenvalues of −𝓛, the zero one left out.

    A ValueError if ``count`` is not positive. A RuntimeError if the rates do not converge. A UserWarning if
    one of them is not good to 1 %, by half the grid and by how much of its mode the ends of the box cut off.

    Parameters
    ----------
    count : int
        How many.
    process, method, box, shape, walls, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    ndarray, shape (count,)
        By ascending real part, units 1 / time; complex where modes rotate. With two wells the first is the
        sum of both escape rates.
    """
    process = numeric_process(process, cross_diffusion)
    if change := _shear(process, method, walls):  # a change of variables keeps the rates
        given = None if box is None else change.box(checked_box(process, box))
        return relaxation_rates(change.process, count=count, box=given, shape=shape)
    _, modes, _ = _slow_modes(process, count, method, box, shape, walls, with_left=False)
    return modes.rates.real if np.all(modes.rates.imag == 0) else modes.rates


def relaxation_modes(
    process: Process,
    *,
    count: int = 2,
    method: BackwardMethod = "finite-volume",
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    cross_diffusion: bool = True,
) -> xr.Dataset:
    """The slowest modes of relaxation: rates and eigenfunctions of 𝓛φ = −λφ and 𝓛*ψ = −λψ.

    A density relaxes as P(t) = P + Σ c_k exp(−λ_k t) ψ_k, the mean of φ_k as exp(−λ_k t). Fails and warns as
    :func:`relaxation_rates`. Source: Risken, *The Fokker–Planck Equation* (1989), sec. 5.4 and 6.

    Parameters
    ----------
    count : int
        How many.
    process, method, box, shape, walls, cross_diffusion
        As in :func:`mean_first_passage_time`.

    Returns
    -------
    Dataset
        Over ``mode``: ``rate`` and ``frequency``, real and imaginary part of λ, by ascending rate, and
        ``rate_error``, from half the grid and the ends of the box: the rate itself where it is one of the
        mesh alone. Over ``mode`` and the variables: ``right`` φ, largest value 1, and ``left`` ψ, ∫|ψ| = 1;
        complex where modes rotate. The stationary mode is left out.
    """
    process = numeric_process(process, cross_diffusion)
    if len(noiseless_directions(process)) and (change := _shear(process, method, walls)):
        turned = ", ".join(shear.words(process.names) for shear in change.shears)
        raise ValueError(
            f"noise is missing in a direction that is no axis: use relaxation_rates, or {turned} as variables"
        )
    grid, modes, errors = _slow_modes(process, count, method, box, shape, walls, with_left=True)
    right, left = modes.right, modes.left / np.abs(modes.left).sum(axis=0) / grid.cell_volume
    if np.all(modes.rates.imag == 0):
        right, left = right.real, left.real
    dims = ("mode", *grid.names)
    variables = {
        "rate": quantity(modes.rates.real, "mode", "relaxation rate", "1 / time"),
        "frequency": quantity(modes.rates.imag, "mode", "angular frequency", "1 / time"),
        "rate_error": quantity(errors, "mode", "error of the eigenvalue", "1 / time"),
        "right": quantity(right.T.reshape(-1, *grid.shape), dims, "right eigenfunction", "1"),
        "left": quantity(left.T.reshape(-1, *grid.shape), dims, "left eigenfunction", "1"),
    }
    title = f"Relaxation modes: {process.name}"
    return dataset(variables, title=title, coords=dict(grid.coordinates), cells=grid.cells)


def _slow_modes(
    process: Process, count: int, method: BackwardMethod, box, shape, walls, *, with_left: bool
) -> tuple[Grid, SlowModes, np.ndarray]:
    """The grid, its slowest modes, and the errors of their rates from half the grid and ends of the box."""
    if not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"count={count!r} must be a whole number, at least 1")
    grid = _grid(process, box, shape, walls)
    half, schemes = grid.coarsened(), _schemes(process, grid, method)
    state = _stationary(process, half, schemes)
    coarse = slow_modes(state.rates, state.chain, count, with_left=False)
    state = _stationary(process, grid, schemes)
    fine = slow_modes(state.rates, state.chain, count, with_left=with_left, look_far=coarse.far)
    power, sizes = order(process, grid, schemes), np.abs(fine.rates)
    changes = [error_left(c, power) for c in np.abs(fine.rates - coarse.rates) / sizes]
    errors = np.maximum(changes, _unresolved(grid, state.rates)) * sizes
    errors = np.where(_jagged(fine.right, grid), sizes, errors)
    cut = cut_off(process, grid, state, fine.right, checked_walls(process, walls, box))
    errors = np.minimum(errors + cut * sizes, np.maximum(errors, sizes))
    worst = float((errors / sizes).max())
    if (those := np.flatnonzero((errors > 1e-2 * sizes) & (2 * cut * sizes > errors))).size:
        numbers = ", ".join(str(k + 1) for k in those)
        _warn(
            f"the relaxation rates are good to about {worst:.1e} only: the ends of the box cut modes "
            f"{numbers}, or they belong to a continuum of rates; enlarge the box, or say walls='reflecting' "
            "if walls are meant"
        )
    elif not worst <= 1e-2:
        _warn(f"the relaxation rates are good to about {worst:.1e} only: use more cells (shape=)")
    return grid, fine, errors


def _jagged(modes: np.ndarray, grid: Grid) -> np.ndarray:
    """Which modes (cells, count) change sign from cell to cell: modes of the mesh, not of the process."""
    fields = modes.reshape(*grid.shape, -1)
    jumps = [np.diff(fields, 2, axis=k).reshape(-1, modes.shape[1]) for k in range(len(grid.shape))]
    typical = np.linalg.norm(modes, axis=0) / np.sqrt(len(modes))
    rough = np.array([np.sqrt((np.abs(jump) ** 2).mean(axis=0)) for jump in jumps])
    return np.asarray(rough.max(axis=0) > JAGGED * typical)


def _stationary(process: Process, grid: Grid, schemes: Sequence[Scheme]) -> NullVector:
    """The stationary state of a process on a grid."""
    mode = lowest(process, grid.points()) if "upwind" in schemes else None
    return null_vector(fokker_planck_matrix(process, grid, schemes), grid, mode=mode)


def _shear(process: Process, method: BackwardMethod, walls) -> Sheared | None:
    """Variables with independent noise, where noise is missing in a direction that is no axis."""
    ends = [walls] if isinstance(walls, str) else [*(walls or {}).values()]
    return None if method != "finite-volume" or "periodic" in ends else sheared(process)


def _warn(complaint: str) -> None:
    warnings.warn(complaint, stacklevel=3)


def _schemes(process: Process, grid: Grid, method: BackwardMethod) -> tuple[Scheme, ...]:
    if method not in get_args(BackwardMethod):
        names = " or ".join(map(repr, get_args(BackwardMethod)))
        raise ValueError(f"method={method!r} must be {names}")
    schemes = chosen_schemes(process, grid, "chain" if method == "chain" else "auto")
    if "central" not in schemes:
        return schemes
    # Where coefficients jump along an axis only fitted rates know how.
    fitted = cast(tuple[Scheme, ...], ("exponential",) * len(schemes))
    jumps = {line.axis for line in lines_with_jumps(process, grid, fitted)}
    return tuple(f if axis in jumps else s for axis, (s, f) in enumerate(zip(schemes, fitted, strict=True)))


def _grid(process: Process, box, shape, walls) -> Grid:
    """The whole box as a grid; targets break mirror symmetry."""
    ends = checked_walls(process, walls, box)
    periodic = tuple(v for v in process.names if ends[v] == "periodic")
    if box is not None:
        region, cells = checked_box(process, box), default_shape(process)
    else:
        region, cells = starting_window(process, (), with_barriers=True)
    return Grid.on(region, checked_shape(shape, len(region)) or cells, periodic)


def _on_grids(
    process: Process,
    sets: Sequence[Target],
    method: BackwardMethod,
    box,
    shape,
    walls,
    count: int,
    exact: bool = True,
) -> list[_Absorbing]:
    """The backward equation with absorbing sets on ``count`` grids, each of cells twice as wide.

    Fewer than ``count`` where the sets or wells fall between the cells of the third or a later one, or where
    nothing is to be extrapolated. What is ``exact`` on a line with jumps is solved on one grid with two
    quadratures.
    """
    functions = [target_function(condition, process.variables) for condition in sets]
    grid = _grid(process, box, shape, walls)
    if exact and len(grid.shape) == 1 and lines_with_jumps(process, grid, _schemes(process, grid, method)):
        # Exact at the centres but for the integrals between them.
        return [_Absorbing.of(process, grid, functions, method, parts) for parts in (16, 8)]
    problems = [_Absorbing.of(process, g, functions, method) for g in (grid, grid.coarsened())]
    with suppress(ValueError, RuntimeError):
        while len(problems) < count and problems[0].order == 2:
            problems.append(_Absorbing.of(process, problems[-1].grid.coarsened(), functions, method))
    return problems


@dataclass(frozen=True)
class _Absorbing:
    """The backward equation outside absorbing sets."""

    process: Process
    grid: Grid
    schemes: tuple[Scheme, ...]
    members: list[np.ndarray]
    keep: np.ndarray  # cells outside the sets
    rates: sparse.csr_matrix  # among all cells
    chain: Elimination

    @classmethod
    def of(
        cls,
        process: Process,
        grid: Grid,
        functions: list[Callable[..., np.ndarray]],
        method: BackwardMethod,
        parts: int = 4,
    ) -> _Absorbing:
        """The equation on a grid; each signed function is positive inside its set."""
        schemes = _schemes(process, grid, method)
        matrix = fokker_planck_matrix(process, grid, schemes)
        members, keep, inner, exits = Outside.of(process, matrix, grid, functions, schemes, parts)
        try:
            chain = eliminate(Dissection.of(inner, grid.indices()[keep]), inner, exits)
        except ShutIn as error:
            where = place(grid.names, grid.points().reshape(grid.cells, -1)[keep[error.state]])
            raise RuntimeError(
                f"the target is never reached from {where}, or over a barrier above about 670 D, which no "
                "float holds; use theory.escape or a box= without that well"
            ) from None
        return cls(process, grid, schemes, members, keep, matrix.T.tocsr(), chain)

    @property
    def upwind(self) -> bool:
        """Whether noise is missing along an axis."""
        return "upwind" in self.schemes

    @property
    def order(self) -> int:
        """The order of convergence in the cell width."""
        return order(self.process, self.grid, self.schemes)

    def times(self, right: np.ndarray) -> np.ndarray:
        """u with −𝓛u = right outside the sets, 0 on them."""
        u = np.zeros(self.grid.cells)
        u[self.keep] = self.chain.solve(right[self.keep])
        return u

    def probabilities(self) -> np.ndarray:
        """Probability to reach the last set first."""
        q = self.members[-1].astype(float)
        q[self.keep] = self.chain.exit_probabilities()[:, -1]
        return q

    def labelled(self, values: np.ndarray, name: str, unit: str, attrs: Mapping[str, object]) -> xr.DataArray:
        """Values on the cells as a labelled array."""
        variable = quantity(values.reshape(self.grid.shape), self.grid.names, name, unit)
        result = xr.DataArray(variable, coords=self.grid.coordinates, name=re.sub(r"\W", "_", name))
        result.attrs |= provenance(f"{name}: {self.process.name}", cells=self.grid.cells, **attrs)
        return result


def _extrapolated_times(
    problems: Sequence[_Absorbing], values: Sequence[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Times by Richardson extrapolation where they are in its range, and their largest error in a well.

    Without a well outside the target that of the largest time. In the corners of the box, where it is else,
    walls that cut the noise aslant leave errors of another order.
    """
    grids, fine = [p.grid for p in problems], problems[0]
    with np.errstate(divide="ignore"):
        fields = [np.log(v).reshape(g.shape) for v, g in zip(values, grids, strict=True)]
    fields = [np.where(np.isfinite(field), field, np.nan) for field in fields]
    spots = fine.grid.points().reshape(fine.grid.cells, -1)[wells(fine.rates, SMALLEST_WELL)]
    known = np.array([np.isfinite(at(f, g, spots)) for f, g in zip(fields, grids, strict=True)])
    apart, used = known[:3].all(axis=0), 4 if known.all(axis=0).sum() == known[:3].all(axis=0).sum() else 3

    def numbers(field: np.ndarray, grid: Grid) -> np.ndarray:
        return at(field, grid, spots[apart]) if apart.any() else np.array([np.nanmax(field)])

    better = extrapolated(fields[:used], grids[:used], numbers, steep=False)
    error = max(better.error, _unresolved(fine.grid, fine.rates))
    return np.nan_to_num(np.exp(better.field)).ravel(), error


def _error_of_times(problems: Sequence[_Absorbing], values: Sequence[np.ndarray]) -> float:
    """Relative error of the times in every well outside the target, and of the largest one.

    Times are all but constant in a well, and there they matter.
    """
    fine, coarse = problems
    largest = int(np.argmax(values[0]))
    if fine.upwind:
        return _change_of_most_times(fine, coarse, values)
    spots = np.union1d(
        np.setdiff1d(wells(fine.rates, SMALLEST_WELL), np.flatnonzero(fine.members[0])), largest
    )
    there, ratio = fine.grid.indices()[spots], np.array(coarse.grid.shape) / fine.grid.shape
    nearest = np.floor((there + 0.5) * ratio).astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = [np.log(v).reshape(p.grid.shape) for v, p in zip(values, problems, strict=True)]
        changes = np.abs(resampled(logarithms[0], fine.grid, coarse.grid) - logarithms[1])
    change = changes[tuple(nearest.T)]
    change = change[np.isfinite(change)]
    if not len(change):  # all of them are next to the target
        ratio = values[1].max() / values[0].max()
        change = np.array([abs(math.log(ratio)) if ratio > 0 else math.inf])
    return max(error_left(float(change.max()), fine.order), _unresolved(fine.grid, fine.rates))


def _change_of_most_times(fine: _Absorbing, coarse: _Absorbing, values: Sequence[np.ndarray]) -> float:
    """Change from half the grid in three of four cells whose times are no less than 1 % of the largest.

    Where the edge of the target turns along the drift, times are a singular power of the distance.
    """
    here = resampled(values[0].reshape(fine.grid.shape), fine.grid, coarse.grid)
    there = values[1].reshape(coarse.grid.shape)
    counted = (there > 0.01 * there.max()) & np.isfinite(here)
    change = float(np.quantile(np.abs(here[counted] / there[counted] - 1.0), 0.75))
    return max(change, abs(1.0 - float(values[1].max() / values[0].max())))


def _unresolved(grid: Grid, rates: sparse.csr_matrix) -> float:
    """A least error for cells wider than a well in several variables, which two such grids have in common."""
    width = width_in_wells(rates) if len(grid.shape) > 1 else 0.0
    return min(0.5, width / 16) if width > 0.5 else 0.0


def _error_of_probabilities(problems: Sequence[_Absorbing], values: Sequence[np.ndarray]) -> float:
    """Largest error of the committor, from its change on the cells of half the grid.

    Without noise along an axis that of 19 cells in 20: it has corners where sets turn along the drift.
    """
    fine, coarse = problems
    shown = values[0].copy()
    shown[np.any(fine.members, axis=0)] = np.nan  # no polynomial through the kink at a set
    outside = np.where(np.any(coarse.members, axis=0), np.nan, values[1]).reshape(coarse.grid.shape)
    change = np.abs(resampled(shown.reshape(fine.grid.shape), fine.grid, coarse.grid) - outside)
    change = change[np.isfinite(change)]
    counted = float(np.quantile(change, 0.95 if fine.upwind else 1.0)) if len(change) else float("nan")
    worst = error_left(counted, fine.order)
    return max(worst, _unresolved(fine.grid, fine.rates))
