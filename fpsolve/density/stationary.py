"""Stationary density of a process as a labelled array: adaptive finite volumes, or spectral elements."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Literal, cast, get_args

import numpy as np
import xarray as xr

from fpsolve.density import grid as mesh
from fpsolve.density.chain import in_equilibrium, suits_chain
from fpsolve.density.choices import Method, Scheme, Walls
from fpsolve.density.dissection import separate_wells, wells
from fpsolve.density.fitted import fitted_axis, natural_ends
from fpsolve.density.grid import Box, Grid, kept_axes, unfolded
from fpsolve.density.operator import NullVector, coefficients, fokker_planck_matrix, null_vector
from fpsolve.density.pieces import refuse_collapse, uncrossed
from fpsolve.density.richardson import changes, error_left, extrapolated, remainder
from fpsolve.density.shear import Sheared, sheared
from fpsolve.density.symmetry import mirror_symmetries
from fpsolve.density.upwind import PECLET, check_reach, lacks_noise
from fpsolve.density.window import (
    MAX_CELLS,
    default_shape,
    is_linear,
    starting_window,
    wells_hull,
    why_unconfined,
    within_range,
)
from fpsolve.results import provenance, quantity
from theory.langevin import Process

#: Ratio of cell Péclet numbers of two axes from which one of them counts as one with hardly any noise.
UNLIKE = 50.0
#: Share of the cells from which on a well is one.
SMALLEST_WELL = 0.02
#: Difference in ln weight from which on one well is heavier than another.
LEVEL = 0.02
#: Relative error of a moment above which an automatic mesh is refused.
LARGEST_ESTIMATE = 0.5
#: Share of the mass on either side of a place that no path crosses, from which on it is told.
SMALLEST_SIDE = 1e-6
#: ``MAX_CELLS`` for upwind differences, whose matrices are fuller.
MAX_CELLS_UPWIND = {2: 90_000, 3: 14_000}
#: Share of a moment that the walls of an automatic box may cut off: 1e-8 of the mass at six deviations.
SMALLEST_ESTIMATE = 1e-6


def stationary_density(
    process: Process,
    *,
    method: Method = "finite-volume",
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    cross_diffusion: bool = True,
    scheme: Literal["auto"] | Scheme | Sequence[Scheme] = "auto",
    walls: Walls | Mapping[str, Walls] = "far",
    symmetry: bool = True,
    accuracy: float = 1e-3,
) -> xr.DataArray:
    """Stationary probability density of an Itô process.

    Solves 0 = Σ_i ∂_i[−b_i P] + Σ_ij ∂_i∂_j[D_ij P] with zero flux through the box. The finite-volume
    operator is central or exponentially fitted per axis and contains the cross terms; the chain is described
    in :mod:`fpsolve.density.chain`, the spectral operator in :mod:`fpsolve.density.spectral`. Sources: Yang,
    Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 10; Scharfetter, Gummel, IEEE Trans. Electron Devices
    16, 64 (1969) for exponential fitting.
    Order 2 in the cell width: tests/fpsolve/density/test_convergence.py.

    A ValueError if a parameter has no value, the box does not fit the variables, D is not positive
    semidefinite, or the density does not fit into the box. A UserWarning with the remedy where a self-check
    fails.

    Parameters
    ----------
    process : Process
        A :class:`theory.Langevin` system or :class:`theory.Diffusion` in one to three variables.
    method : {"finite-volume", "chain", "spectral"}
        Finite volumes assembled by FiPy; a chain of jumps with nonnegative rates, for noise that is missing
        in no direction, extrapolated over three meshes; or spectral elements, for which ``shape``,
        ``scheme`` and ``accuracy`` have no meaning.
    box : mapping of name to (low, high), optional
        Where to solve. Default: found from the reduced density of a valley, or from the local
        widths at the minima, then widened until its rim holds no mass.
    shape : int or sequence of int, optional
        Cells per axis of the box. Default: from the width of the density, refined until the half-grid
        estimate is below ``accuracy``.
    cross_diffusion : bool
        False drops D_ij for i ≠ j, as the supplement of Yang, Tang, Tu (2023) does.
    scheme : "auto", "central", "exponential", or one of the two per axis; "upwind", "chain"
        Face values of the convective flux. "auto": exponential where the cell Péclet number is
        below one in the bulk or the noise is isotropic, else central; "upwind" where noise is missing along
        an axis, :mod:`fpsolve.density.upwind`; "chain", the same as ``method="chain"``, where D is constant
        and has off-diagonal entries, or the dimension is three.
    walls : "far", "reflecting", "periodic", or a mapping of names to these
        "far": the density shall fit into the box; more than 1 % of the mass in the rim is an error.
        "reflecting": the walls are meant; mass in the rim is only recorded. "periodic": the ends of the
        box are one place; the loss may be tilted, drift and D must repeat. An end where D vanishes is
        the natural end of a variable (0 of a positive one) and needs no wall.
    symmetry : bool
        Solve on the part v ≥ 0 of every variable v whose reflection provably leaves the law
        unchanged (:mod:`fpsolve.density.symmetry`), and mirror the result. Both wells of a
        symmetric landscape then weigh the same by construction, however slow their exchange.
    accuracy : float
        Target for the half-grid estimate of relative errors in ⟨v²⟩ and std|v|.

    Returns
    -------
    DataArray
        Dims named by the variables, coordinate ``cell_volume`` with
        ``(P * cell_volume).sum() == 1``. ``attrs`` tell the scheme, the symmetry used and every
        self-check: ``mass``, ``residual``, ``column_sum``, ``negative_mass``, ``boundary_mass``,
        ``second_eigenvalue`` (slowest relaxation rate, within the symmetric sector),
        ``weights_estimate`` (error of the logarithm of the weight of any well, 0 if there is one well; from
        half the grid) and ``half_grid_estimate`` (largest relative error of ⟨v²⟩ and std|v| by Richardson;
        of the chain after extrapolation).
    """
    process = numeric_process(process, cross_diffusion)
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} must be {' or '.join(map(repr, get_args(Method)))}")
    if not (mesh.is_number(accuracy) and 0 < accuracy < 1):
        raise ValueError(f"accuracy={accuracy!r} must be a number between 0 and 1, such as 1e-3")
    ends = mesh.checked_walls(process, walls, box)
    check_reach(process)
    plain = method == "finite-volume" and scheme == "auto" and "periodic" not in ends.values()
    if plain and (change := sheared(process)):
        return _in_sheared_variables(process, change, box, shape, walls, accuracy)
    mirrored = mirror_symmetries(process) if symmetry and not lacks_noise(process) else ()
    given = None if box is None else mesh.checked_box(process, box)
    if given is not None:
        refuse_collapse(process, given)
        mirrored = tuple(v for v in mirrored if given[v][0] == -given[v][1])
    mirrored = tuple(v for v in mirrored if ends[v] != "periodic")
    if given is not None and "far" in ends.values():
        _warn_if_metastable(process, given, ends)
    density = _METHODS[method](
        process, given, mirrored, shape=shape, scheme=scheme, walls=ends, accuracy=accuracy
    )
    density.attrs["walls"] = mesh.walls_in_words(ends)
    _warn_of_several_laws(process, density)
    return titled(density, process)


def _in_sheared_variables(
    process: Process, change: Sheared, box, shape, walls, accuracy: float
) -> xr.DataArray:
    """The density in variables with independent noise, as one in the process's own: a shear keeps volumes."""
    solve = partial(stationary_density, walls=walls, accuracy=accuracy)
    inner, density = change.solved(solve, box, shape, smooth=True)
    volume = float(np.prod([line[1] - line[0] for line in density.coords.values()]))
    density = density / (density.sum() * volume)
    density.coords["cell_volume"] = quantity(np.full(density.shape, volume), process.names, "cell volume")
    density.attrs |= inner.attrs | {"cells": density.size}
    exact, own = change.moments(_second_moments(inner)), _second_moments(density)
    error = float((np.abs(own - exact) / np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))).max())
    if error > accuracy:
        warnings.warn(
            f"moments are good to about {error:.1e} only, as the cells do not resolve a ridge across the "
            "variables: use more cells (shape=)",
            stacklevel=3,
        )
    density.attrs["half_grid_estimate"] += error
    return titled(density, process)


def _second_moments(density: xr.DataArray) -> np.ndarray:
    """⟨x_i x_j⟩, shape (N, N)."""
    weights = density.to_numpy().ravel() / float(density.sum())
    points = [np.ravel(line) for line in np.meshgrid(*(density[v] for v in density.dims), indexing="ij")]
    return np.array(points) @ (weights * np.array(points)).T


def _warn_of_several_laws(process: Process, density: xr.DataArray) -> None:
    """Warn of weights on both sides of a place that no path crosses."""
    line = density[density.dims[0]].to_numpy()
    weights = (density * density.cell_volume).to_numpy()
    for place in uncrossed(process, float(line[0]), float(line[-1])):
        below = float(weights[line < place].sum() / weights.sum())
        if SMALLEST_SIDE < below < 1 - SMALLEST_SIDE:
            name = process.names[0]
            warnings.warn(
                f"noise and drift vanish at {name}={place:.4g}, which no path crosses: each side has a law "
                f"of its own, and their weights, here {below:.3g} and {1 - below:.3g}, are the start's; give "
                "a box= that ends there",
                stacklevel=3,
            )


def _warn_if_metastable(process: Process, box: Box, walls: Mapping[str, Walls]) -> None:
    held = set(walls.values()) != {"far"}  # by a wall that is meant, or a period
    if reason := why_unconfined(process, None if held else box):
        warnings.warn(f"the density is metastable, of walkers still in the box: {reason}", stacklevel=3)


def _finite_volumes(
    process: Process, box: Box | None, mirrored: tuple[str, ...], *, shape, scheme, walls, accuracy: float
) -> xr.DataArray:
    """The density by finite volumes, after its self-checks."""
    solution = _solve_adaptively(process, box, shape, scheme, mirrored, accuracy, walls)
    _judge(solution, walls, accuracy, LARGEST_ESTIMATE if shape is None else math.inf)
    return _labelled(solution)


def _chain(
    process: Process, box: Box | None, mirrored: tuple[str, ...], *, shape, scheme, walls, accuracy: float
) -> xr.DataArray:
    """The density by the chain of jumps, after its self-checks."""
    if scheme not in ("auto", "chain"):
        raise ValueError(f"scheme={scheme!r} has no meaning for method='chain'")
    return _finite_volumes(
        process, box, mirrored, shape=shape, scheme="chain", walls=walls, accuracy=accuracy
    )


def _spectral_elements(
    process: Process, box: Box | None, mirrored: tuple[str, ...], *, walls, **finite_volumes_only: object
) -> xr.DataArray:
    """The density by spectral elements; an automatic box is enlarged by 12 % per side against truncation."""
    from fpsolve.density.spectral import spectral_density

    meant = box is not None
    if box is None:
        box = starting_window(process, mirrored).box
        for v, (low, high) in box.items():
            extra = 0.12 * (high - low)
            inner = -(high + extra) if low == -high else low - extra
            box[v] = (max(inner, 0.0) if v in mirrored and low >= 0 else inner, high + extra)
        box = within_range(process, box)
    return spectral_density(process, box=box, walls=walls, meant=meant, symmetric=mirrored)


_METHODS: dict[Method, Callable[..., xr.DataArray]] = {
    "finite-volume": _finite_volumes,
    "chain": _chain,
    "spectral": _spectral_elements,
}


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
    #: Ends of the box that are no walls: where D vanishes.
    natural: frozenset[tuple[str, str]]
    schemes: tuple[Scheme, ...]
    state: NullVector
    half_grid_estimate: float
    peclet: tuple[float, ...]
    #: Error of the logarithm of the weight of any well.
    weights_estimate: float
    extrapolated: bool = False

    def marginal(self, axis: int) -> np.ndarray:
        """|Mass| of the cells along an axis."""
        return kept_axes(np.abs(self.state.density), axis) * self.grid.cell_volume

    @cached_property
    def rim(self) -> dict[tuple[str, str], float]:
        """Mass in the rim of the box, for every end that is a wall: those where D vanishes are none."""
        masses = mesh.rim_masses(self.state.density, self.grid)
        return {end: mass for end, mass in masses.items() if end not in self.natural}


def _solve_adaptively(
    process: Process, given: Box | None, shape, scheme, mirrored: tuple[str, ...], accuracy: float, walls
) -> _Solution:
    """Solve; widen an automatic box while its rim holds mass, refine an automatic mesh."""
    dimension = len(process.variables)
    box, cells = (given, default_shape(process, mirrored)) if given else starting_window(process, mirrored)
    if asked := mesh.checked_shape(shape, dimension):
        # The user counts the cells of the whole box; an odd count keeps a cell at the middle.
        counts = dict(zip(process.names, asked, strict=True))
        mirrored = () if any(counts[v] % 2 for v in mirrored) else mirrored
        cells = tuple(n // 2 if v in mirrored else n for v, n in counts.items())
    before: _Solution | None = None
    for _ in range(8):
        solution = _solve(process, _grid(process, box, cells, mirrored, walls), scheme, mirrored)
        if before and solution.half_grid_estimate > 1.2 * max(before.half_grid_estimate, 10 * accuracy):
            return before  # the mass in the rim was that of cells too wide: wider ones spread it further
        before = solution
        if (
            given is None
            and not is_linear(process)
            and (fitted := _refitted(process, solution, box)) is not None
        ):
            box = within_range(process, fitted)
            continue
        excess = solution.half_grid_estimate / accuracy
        if asked or excess <= 1.0:
            break
        most = MAX_CELLS_UPWIND if "upwind" in solution.schemes else MAX_CELLS
        room = (most[dimension] / np.prod(cells)) ** (1.0 / dimension)
        factor = min(2.0, 1.1 * np.sqrt(excess), room)
        if factor < 1.1:
            break
        cells = tuple(2 * int(n * factor / 2) for n in cells)
    return solution


def _grid(process: Process, box: Box, cells: tuple[int, ...], mirrored: tuple[str, ...], walls) -> Grid:
    """The grid of the part of the box that is solved: v ≥ 0 for mirrored variables.

    A mirrored window [a, b] with a > 0 keeps a wall at a, where there is no density. The wall is moved to a
    multiple of the cell width, so that the mirrored result has one uniform grid.
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
    periodic = tuple(v for v in process.names if walls[v] == "periodic")
    return Grid(process.names, tuple(low), tuple(high), cells, at_zero, periodic)


def _solve(process: Process, grid: Grid, scheme, folded: tuple[str, ...]) -> _Solution:
    """Solve on the grid and on the one with half as many cells per axis."""
    if scheme == "chain" or (scheme == "auto" and suits_chain(process, grid)):
        return _solve_chain(process, grid, folded)
    # Without noise there is no Péclet number.
    rough = None if lacks_noise(process) else _coarse_density(process, grid)
    peclet = () if rough is None else _bulk_peclet(process, grid, rough)
    schemes = chosen_schemes(process, grid, scheme, peclet)
    upwind, power = "upwind" in schemes, order(process, grid, schemes)
    half = grid.coarsened()
    matrix = fokker_planck_matrix(process, half, schemes)
    mode = mesh.lowest(process, half.points()) if rough is None else _nearest_cell(rough, half)
    coarse = null_vector(matrix, half, mode=mode)
    if scheme == "auto" and "central" in schemes and coarse.negative_mass > 1e-2:
        # Degenerate noise (D singular along a line): central faces oscillate, exponential ones do not.
        return _solve(process, grid, "exponential", folded)
    matrix = fokker_planck_matrix(process, grid, schemes)
    state = null_vector(matrix, grid, mode=_nearest_cell(np.abs(coarse.density), grid))
    numbers, scales = moments(state.density, grid)
    difference = numbers - moments(coarse.density, half)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(np.nanmax(np.abs(difference) / scales) / (2.0**power - 1.0))
    if upwind:  # the walls cut off moments of this size, and ripples add such
        estimate = max(estimate, SMALLEST_ESTIMATE, 2.0 * state.negative_mass)
    masses = _masses_of_wells(state, grid)
    of_wells = _error_of_weights(masses, [state, coarse], [grid, half], power)
    return _Solution(grid, folded, natural_ends(process, grid), schemes, state, estimate, peclet, of_wells)


def _masses_of_wells(state: NullVector, grid: Grid) -> Callable[[np.ndarray, Grid], np.ndarray]:
    """Logarithms of the weights of the wells of a state: a function of a density on any mesh of its box.

    Moments do not feel the weight of a shallow well, nor an error in the exponent of one between them.
    """
    label = separate_wells(state.rates, state.density.ravel()).reshape(grid.shape)
    found, sizes = np.unique(label, return_counts=True)
    found = found[sizes >= SMALLEST_WELL * grid.cells]

    def masses(density: np.ndarray, other: Grid) -> np.ndarray:
        lines = zip(other.shape, grid.shape, strict=True)
        labels = label[np.ix_(*((np.arange(m) * 2 + 1) * n // (2 * m) for m, n in lines))]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log([density[labels == well].sum() / density.sum() for well in found])

    return masses if len(found) > 1 else lambda density, other: np.zeros(1)


def _error_of_weights(
    masses: Callable[[np.ndarray, Grid], np.ndarray],
    states: Sequence[NullVector],
    grids: Sequence[Grid],
    power: int,
) -> float:
    """Error of the logarithm of the weight of any well, from its change on half the grid.

    Under a current cells too wide act as more noise, r = ln(w/w₀) ∝ 1/(D + c hᵖ): 1/r is what converges. If
    it changes by more than a third its order is not reached, and is taken to be one; infinite where no finite
    r is left.
    """
    fine, coarse = (masses(state.density, grid) for state, grid in zip(states, grids, strict=True))
    left = error_left(changes([fine, coarse])[0], power)
    if not math.isfinite(left) or in_equilibrium(states[0].rates, states[0].density.ravel()):
        return left
    first = int(np.argmax(fine))
    here, there = fine - fine[first], coarse - coarse[first]
    told = (np.abs(here) > LEVEL) & (np.abs(here - there) > LEVEL)
    here, there = here[told], there[told]
    with np.errstate(divide="ignore"):
        share = here / there - 1.0  # the change of 1/r in units of it
    rest = 1.0 - share / np.where(np.abs(share) > 1 / 3, 1.0, 2.0**power - 1.0)
    errors = np.where(rest > 0.0, np.abs(here * (1.0 / np.where(rest > 0.0, rest, 1.0) - 1.0)), np.inf)
    return float(max(left, *errors)) if len(errors) else left


def order(process: Process, grid: Grid, schemes: Sequence[Scheme]) -> int:
    """The order of convergence that a density can be trusted to have.

    Two where coefficients are smooth. One for upwind differences; where coefficients jump within cells that
    no face can follow; and at an end where D vanishes: P may be a singular power of the distance, which
    moments by the midpoint rule feel.
    """
    if "upwind" in schemes:
        return 1
    fitted = [fitted_axis(process, grid, axis) for axis in range(len(grid.shape))]
    return 1 if any(f is not None and (any(f.ends) or len(grid.shape) > 1) for f in fitted) else 2


def _solve_chain(process: Process, grid: Grid, folded: tuple[str, ...]) -> _Solution:
    """Solve the chain on the grid and on coarser ones, and extrapolate the logarithm of the density."""
    grids = [grid, grid.coarsened(), grid.coarsened().coarsened()]
    if min(grids[-1].shape) >= 16:  # the fourth serves the error alone
        grids.append(grids[-1].coarsened())
    schemes = cast(tuple[Scheme, ...], ("chain",) * len(grid.shape))
    states = [null_vector(fokker_planck_matrix(process, g, schemes), g) for g in grids]
    scales = moments(states[0].density, grid)[1]
    logarithms = [np.log(np.maximum(state.density, 1e-300)) for state in states]
    state, used = states[0], not in_equilibrium(states[0].rates, states[0].density.ravel())
    masses = _masses_of_wells(states[0], grid)
    of_wells = _error_of_weights(masses, states[:2], grids[:2], 2)
    if used:
        better = extrapolated(logarithms, grids, lambda field, g: moments(np.exp(field), g)[0] / scales)
        used, error, density = better.used, better.error, np.exp(better.field)
        if used:
            state = replace(state, density=density / (density.sum() * grid.cell_volume))
            fields = zip(better.fields, grids[:-1], strict=True)
            left = remainder(changes([masses(np.exp(f - f.max()), g) for f, g in fields]))
            of_wells = left if of_wells < LARGEST_ESTIMATE else max(left, of_wells)
    else:  # the density is exact at the cell centres: its moments have the error of the midpoint rule alone
        numbers = [moments(s.density, g)[0] / scales for s, g in zip(states[:3], grids[:3], strict=True)]
        last, before = changes(numbers)
        error = max(last * min(1.0, max(last / max(before, 1e-300), 1 / 64)), 1e-12)
    peclet = _bulk_peclet(process, grid, np.abs(states[-1].density))
    natural = natural_ends(process, grid)
    return _Solution(grid, folded, natural, schemes, state, error, peclet, of_wells, used)


def _coarse_density(process: Process, grid: Grid) -> np.ndarray:
    """A rough, positive density on a small grid: where the bulk is."""
    small = {1: 200, 2: 48, 3: 12}[len(grid.shape)]
    coarse = replace(grid, shape=tuple(min(n, small) for n in grid.shape))
    matrix = fokker_planck_matrix(process, coarse, ["exponential"] * len(grid.shape))
    try:
        return np.abs(null_vector(matrix, coarse).density)
    except RuntimeError:  # on cells this wide the wells exchange nothing
        bulk = np.zeros(coarse.cells)
        bulk[wells(matrix.T)] = 1.0
        return bulk.reshape(coarse.shape)


def _nearest_cell(density: np.ndarray, grid: Grid) -> int:
    """Index in ``grid`` of the cell at the mode of a density on another grid of the same region."""
    place = np.array(np.unravel_index(int(np.argmax(density)), density.shape))
    index = ((place + 0.5) * grid.shape / density.shape).astype(int)
    return int(np.ravel_multi_index(tuple(index), grid.shape))


def _bulk_peclet(process: Process, grid: Grid, weights: np.ndarray) -> tuple[float, ...]:
    """Cell Péclet number per axis that 99.9 % of the probability stays below."""
    small = replace(grid, shape=weights.shape)
    values = coefficients(process, small)
    bulk = []
    for axis in range(len(grid.shape)):
        both = weights + np.roll(weights, -1, axis=axis)
        inner = np.take(both, range(values.velocity[axis].shape[axis]), axis=axis).ravel()
        number = values.peclet(small, axis).ravel() * grid.widths[axis] / small.widths[axis]
        if (fitted := fitted_axis(process, small, axis)) is not None:  # a jump of D is no drift
            number = fitted.peclet().ravel() * grid.widths[axis] / small.widths[axis]
        order = np.argsort(number)
        reached = np.cumsum(inner[order]) / inner.sum()
        bulk.append(float(number[order][np.searchsorted(reached, 0.999)]))
    return tuple(bulk)


def chosen_schemes(
    process: Process,
    grid: Grid,
    scheme: Literal["auto"] | Scheme | Sequence[Scheme] = "auto",
    peclet: tuple[float, ...] | None = None,
) -> tuple[Scheme, ...]:
    """The scheme of each axis, given or chosen by the cell Péclet number of the bulk.

    Exponential fitting adds the diffusion D·Pe²/12. The sum is exact in equilibrium. It is wrong along a
    slow axis whose drift fluctuates with a fast variable, where Pe ≫ 1 and the mean drift is small.
    """
    size = len(grid.shape)
    chosen: tuple[str, ...] = (
        (scheme,) * size if isinstance(scheme, str) else tuple(np.atleast_1d(np.asarray(scheme, object)))
    )
    if scheme == "auto" and lacks_noise(process):
        chosen = ("upwind",) * size
    elif scheme == "auto" and suits_chain(process, grid):
        chosen = ("chain",) * size
    elif scheme == "auto" and process.landscape is not None and process.temperature is not None:
        chosen = ("exponential",) * size
    elif scheme == "auto" and size == 1:
        chosen = ("exponential",)  # between two cells the flux is constant: the fit is exact
    elif scheme == "auto":
        peclet = peclet or _bulk_peclet(process, grid, _coarse_density(process, grid))
        chosen = tuple("exponential" if number <= 1.0 else "central" for number in peclet)
        D = process.diffusion
        if max(peclet) > max(PECLET, UNLIKE * min(peclet)) and D.is_diagonal() and not D.free_symbols:
            chosen = ("upwind",) * size  # central differences have slow modes of their own along such an axis
    mixed = "chain" in chosen and set(chosen) != {"chain"}
    if len(chosen) != size or mixed or not set(chosen) <= set(get_args(Scheme)):
        names = ", ".join(map(repr, get_args(Scheme)))
        raise ValueError(f"scheme={scheme!r} must be 'auto', {names}, or one of these for each variable")
    return cast(tuple[Scheme, ...], chosen)


def moments(density: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """⟨v²⟩, std and ⟨v⟩ per axis (of |v| where mirrored), ⟨u v⟩ per pair; and the scale of each.

    By the midpoint rule. The scales of ⟨v⟩ and ⟨u v⟩, which may vanish, are products of root mean squares.
    """
    P = density / density.sum()
    lines = [grid.centres(axis) for axis in range(P.ndim)]
    squares, numbers, means = [], [], []
    for axis, v in enumerate(lines):
        marginal = kept_axes(P, axis)
        mean = float(marginal @ v)
        squares.append(float(marginal @ v**2))
        numbers += [squares[-1], math.sqrt(max(float(marginal @ (v - mean) ** 2), 0.0))]
        means.append(mean)
    pairs = [*combinations(range(P.ndim), 2)]
    products = [lines[i] @ kept_axes(P, i, j) @ lines[j] for i, j in pairs]
    sizes = [np.sqrt(abs(squares[i] * squares[j])) for i, j in pairs]
    roots = np.sqrt(np.abs(squares))
    return np.array([*numbers, *means, *products]), np.abs([*numbers, *roots, *sizes])


def _refitted(process: Process, solution: _Solution, box: Box) -> Box | None:
    """An automatic box fitted to its density; None if it fits already.

    Walls that hold more than 1e-8 of the mass, and more than ripples do, move out by 0.3 of the width. A wall
    moves in to where the tail holds 1e-10 if that takes off more than a quarter (the reduced theory
    overestimates heavy tails), but not into any well: one may hold less.
    """
    grid = solution.grid
    fitted, moved = {}, False
    for axis, name in enumerate(grid.names):
        h, span = grid.widths[axis], grid.high[axis] - grid.low[axis]
        ends = {"low": box[name][0], "high": box[name][1]}
        for end, wall, out in (("low", grid.low[axis], -1), ("high", grid.high[axis], 1)):
            if (name, end) not in solution.rim:
                continue
            marginal = solution.marginal(axis)[::-out]
            # Leading cells that hold less than 1e-10 of the mass together, less one for safety.
            empty = max(0, int(np.searchsorted(np.cumsum(marginal), 1e-10)) - 1)
            if solution.rim[name, end] > max(1e-8, solution.state.negative_mass):
                ends[end] = wall + out * 0.3 * span
            elif h * empty > 0.25 * span:
                outermost = wells_hull(process)[name][out > 0]
                ends[end] = out * max(out * wall - h * empty, out * outermost)
            moved |= abs(ends[end] - wall) > 0.25 * span
        fitted[name] = (-ends["high"] if name in grid.mirrored else ends["low"], ends["high"])
    return fitted if moved else None


def _judge(solution: _Solution, walls: Mapping[str, Walls], accuracy: float, largest: float) -> None:
    """Refuse a density that does not fit its box or mesh; warn of every other self-check that fails."""
    state = solution.state
    rim = {end: mass for end, mass in solution.rim.items() if walls[end[0]] == "far"}
    outside = sum(rim.values())
    if solution.half_grid_estimate <= LARGEST_ESTIMATE and outside > 1e-2:
        (name, end), mass = max(rim.items(), key=lambda item: item[1])
        raise ValueError(
            f"the loss does not confine the density in the box: {mass:.1%} of the mass lies at the "
            f"{end} end of {name}; enlarge the box, or say walls='reflecting' if the wall is meant"
        )
    unresolved = not solution.half_grid_estimate <= (LARGEST_ESTIMATE if outside > 1e-2 else largest)
    if unresolved or math.isinf(solution.half_grid_estimate) or state.negative_mass > 0.1:
        raise ValueError(
            f"the mesh does not resolve this density (moments are good to {solution.half_grid_estimate:.0%}, "
            f"negative cells hold {state.negative_mass:.1%} of the mass): use more cells (shape=), a smaller "
            "box=, method='spectral' or simulate, or a loss and noise that are smooth in the box"
        )
    estimate = solution.half_grid_estimate
    weights = solution.weights_estimate
    complaints = {
        "the weights of wells are not resolved: use more cells (shape=)": weights > 5.0,
        f"the weights of wells are good to a factor of {math.exp(min(weights, 700)):.2g} only: "
        "use more cells (shape=)": 0.1 < weights <= 5.0,
        f"the rim of the box holds {outside:.1e} of the mass: enlarge the box": outside > 1e-6,
        f"the relative residual is {state.residual:.1e}: the matrix is nearly singular": state.residual
        > 1e-9,
        f"negative cells hold {state.negative_mass:.1e} of the mass: "
        "use more cells (shape=)": state.negative_mass > 1e-4,
        f"moments are good to about {estimate:.1e} only: use more cells (shape=)": estimate > 3 * accuracy,
    }
    for complaint, true in complaints.items():
        if true:
            warnings.warn(complaint, stacklevel=4)


def _labelled(solution: _Solution) -> xr.DataArray:
    """The density on the whole box, mirrored where only half was solved."""
    grid, density, folded = solution.grid, solution.state.density, solution.folded
    low = list(grid.low)
    for axis, name in enumerate(grid.names):
        if name in folded:
            # Cells between the walls of two distant mirrored windows hold no density.
            empty = round(grid.low[axis] / grid.widths[axis])
            density = np.pad(density, [(empty if a == axis else 0, 0) for a in range(density.ndim)])
            density = unfolded(density, axis)
            low[axis] = -grid.high[axis]
    # As on an unfolded grid, to the last bit.
    coordinates = replace(grid, low=tuple(low), shape=density.shape).coordinates
    density = density / (density.sum() * grid.cell_volume)
    volume = np.full(density.shape, grid.cell_volume)
    coordinates["cell_volume"] = quantity(volume, grid.names, "cell volume")
    scheme = ", ".join(f"{s} in {v}" for v, s in zip(grid.names, solution.schemes, strict=True))
    if len(grid.names) > 1 and "upwind" not in solution.schemes:
        scheme = f"{scheme}; cross terms on 9 points"
    chain = "chain" in solution.schemes
    if chain:
        scheme = "jumps along Selling's offsets" + (", extrapolated" if solution.extrapolated else "")
    mirrors = ", ".join(f"{v} -> -{v}" for v in folded)
    solved = ", ".join(f"{grid.low[grid.names.index(v)]:.4g} <= {v}" for v in folded)
    state = solution.state
    attrs = {
        "method": "chain" if chain else "finite-volume",
        "scheme": scheme,
        "symmetry": f"solved on {solved}; mirrored by {mirrors}" if folded else "none used",
        "cells": grid.cells,
        "mass": float((density * grid.cell_volume).sum()),
        "residual": state.residual,
        "column_sum": state.column_sum,
        "negative_mass": state.negative_mass,
        "boundary_mass": sum(solution.rim.values()),
        "second_eigenvalue": state.slowest_rate().real,
        "half_grid_estimate": solution.half_grid_estimate,
        "weights_estimate": solution.weights_estimate,
        "bulk_peclet": ", ".join(f"{number:.3g}" for number in solution.peclet),
    }
    return xr.DataArray(density, coordinates, grid.names, name="density", attrs=attrs)


def titled(
    density: xr.DataArray,
    process: Process,
    long_name: str = "stationary probability density",
    title: str = "Stationary density",
) -> xr.DataArray:
    """The density with its title, unit and process in the attributes."""
    density.attrs |= {"long_name": long_name, "units": "1"} | provenance(
        f"{title}: {process.name}",
        landscape="" if process.landscape is None else str(process.landscape.loss),
        cross_diffusion=int(getattr(process, "cross_diffusion", True)),
        dimension=len(process.variables),
    )
    return density
