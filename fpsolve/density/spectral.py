"""Stationary densities by spectral elements and a Hermite basis: a reference good to eight or more digits.

Weak form with zero flux through the box: for every test function φ,
∫ Σ_i ∂_iφ [c_i P + Σ_j D_ij ∂_j P] = 0 with c_i = −b_i + Σ_j ∂_j D_ij. The basis is a tensor product.
Each axis has either Lagrange polynomials on Gauss–Lobatto points of a few elements, or, for the fast
variable of a valley, Hermite functions He_n(z) exp(−z²/2), z = y/α, tested with He_n(z): polynomial
coefficients are then integrated exactly and the law of y at fixed x needs a dozen functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, pairwise
from math import prod, sqrt
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import scipy.sparse as sparse
import sympy as sp
import xarray as xr
from numpy.polynomial import hermite_e, legendre
from scipy.sparse.linalg import SuperLU

from fpsolve.density.choices import Walls
from fpsolve.density.fitted import natural_ends
from fpsolve.density.grid import RIM, Box, Grid, kept_axes, lowest, unfolded
from fpsolve.density.operator import check_periodic, factorised, pinned_system
from fpsolve.density.pieces import refuse_unfit, smooth_pieces
from fpsolve.results import quantity
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Langevin, Process
from theory.valley import elimination

_Coefficients: TypeAlias = tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]
#: (degree, Hermite functions, elements on a whole axis) per refinement level, by dimension.
LEVELS = {
    1: [(8, 0, 32), (12, 0, 32), (16, 0, 32), (20, 0, 48), (24, 0, 96)],
    2: [(7, 12, 12), (10, 18, 12), (14, 26, 12), (18, 36, 14), (18, 40, 30)],
    3: [(3, 6, 5), (4, 9, 5), (5, 12, 5), (6, 16, 5)],
}
#: The last two levels must lie this near each other in ∫|ΔP|; the later one is then far nearer to the truth.
NEAR = 1e-5
#: Hermite functions are used below this ratio Δλ'²/λ² of the fast variable's noise (heavier tails above).
HERMITE_BELOW = 0.05
#: Hermite solutions are reported to this many scales α from the floor, where they are below 1e-17.
HERMITE_REACH = 9.0


#: A box this many scales α wide on both sides cuts off less than 1e-8 of a Hermite axis.
WIDE_ENOUGH = 6.0
#: Memory in bytes that a level may need.
MEMORY = 4 * 2**30
#: Entries of the factors over those of the matrix, by dimension, as measured on these levels.
FILL = {1: 3, 2: 8, 3: 20}


@dataclass(frozen=True)
class Axis:
    """Basis of one axis on its quadrature points; E elements, q points and m functions in each."""

    name: str
    points: np.ndarray  # (E, q)
    weights: np.ndarray  # (E, q)
    trial: np.ndarray  # (E, q, m)
    trial_slope: np.ndarray
    test: np.ndarray
    test_slope: np.ndarray
    index: np.ndarray  # (E, m) → 0 … size − 1
    size: int
    folded: bool
    #: Where the solution is reported: Gauss points of intervals, their weights, the trial functions there.
    nodes: np.ndarray  # (K, r)
    node_weights: np.ndarray  # (K, r)
    node_values: np.ndarray  # (K, r, m)
    edges: np.ndarray  # (K + 1,)
    hermite: bool = False
    periodic: bool = False

    @property
    def line(self) -> np.ndarray:
        """All nodes in one row."""
        return self.nodes.ravel()


def _lagrange_axis(
    name: str, edges: np.ndarray, degree: int, folded: bool = False, periodic: bool = False
) -> Axis:
    """Elements between ``edges`` with Lagrange polynomials on Gauss–Lobatto points."""
    inner = legendre.Legendre.basis(degree).deriv().roots()
    nodes = np.concatenate([[-1.0], np.sort(inner.real), [1.0]])
    u, w = legendre.leggauss(degree + 6)
    modes = legendre.legvander(nodes, degree)
    values = np.linalg.solve(modes.T, legendre.legvander(u, degree).T).T
    derivative = np.stack(
        [legendre.Legendre.basis(n).deriv()(u) if n else 0 * u for n in range(degree + 1)], axis=1
    )
    slopes = np.linalg.solve(modes.T, derivative.T).T
    half = np.diff(edges)[:, None] / 2
    count = len(edges) - 1
    basis = np.broadcast_to(values, (count, *values.shape))
    slope = slopes / half[..., None]
    index = np.arange(count)[:, None] * degree + np.arange(degree + 1)
    size = count * degree + (0 if periodic else 1)
    index = index % size  # the ends of a periodic axis are one point
    points = edges[:-1, None] + half * (u + 1)
    weights = half * w
    return Axis(
        name, points, weights, basis, slope, basis, slope, index, size, folded,
        nodes=points, node_weights=weights, node_values=basis, edges=edges, periodic=periodic,
    )  # fmt: skip


def _hermite_axis(name: str, scale: float, functions: int, even: bool) -> Axis:
    """Hermite functions of z = v/scale; only the even ones for a mirrored variable."""
    step = 2 if even else 1
    highest = step * (functions - 1)
    z, w = hermite_e.hermegauss(highest + 12)
    norms = np.cumprod([1.0, *np.sqrt(np.arange(1, highest + 1))])
    values = hermite_e.hermevander(z, highest) / norms
    # He_n' = n He_{n−1}, so the normalised slope is √n h_{n−1}.
    slopes = np.zeros_like(values)
    slopes[:, 1:] = values[:, :-1] * np.sqrt(np.arange(1, highest + 1))
    chosen = slice(0, highest + 1, step)
    h, dh = values[:, chosen], slopes[:, chosen]
    # Reported on intervals of the line, so that sums with |y| or y > a are accurate as well.
    edges = np.linspace(0.0 if even else -HERMITE_REACH, HERMITE_REACH, 9 if even else 17)
    u, v = legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    nodes = edges[:-1, None] + half * (u + 1)
    reported = hermite_e.hermevander(nodes, highest)[..., chosen] / norms[chosen]
    return Axis(
        name, (scale * z)[None], (scale * w)[None], h[None], ((dh - z[:, None] * h) / scale)[None],
        h[None], (dh / scale)[None], np.arange(h.shape[1])[None], h.shape[1], even,
        nodes=scale * nodes, node_weights=scale * half * v,
        node_values=reported * np.exp(-(nodes**2) / 2)[..., None], edges=scale * edges,
        hermite=True,
    )  # fmt: skip


def spectral_density(
    process: Process,
    *,
    box: Box,
    walls: Mapping[str, Walls] | None = None,
    meant: bool = True,
    symmetric: Sequence[str] = (),
    tolerance: float = 1e-9,
) -> xr.DataArray:
    """Stationary density on quadrature nodes, refined until its moments settle.

    ``box`` says where to solve. A valley's fast variable is not cut there but unbounded where its wall is far
    and the box is not ``meant``, or so wide that it makes no difference. Elements end where coefficients jump
    or bend; in one variable D may jump: then D P is solved for. ``walls`` are as in
    :func:`fpsolve.stationary_density`. Variables in
    ``symmetric`` leave the law unchanged when reflected: solved on v ≥ 0 and mirrored. ``tolerance`` bounds
    the change of ⟨v⟩, ⟨v²⟩, std|v| and ⟨u v⟩ between the last two levels, relative to their scales.

    Dims of the result are named by the variables. Coordinates are quadrature nodes and ``cell_volume`` their
    weights, so ``(P * f * cell_volume).sum()`` is ⟨f⟩ to spectral accuracy for smooth f.
    ``attrs["convergence"]`` is the change achieved, or the estimated ``rounding_error`` where that is larger.
    Neither contains what the box cuts off: compare ``boundary_mass``, the mass in the outermost intervals, or
    solve in a wider box.

    NotImplementedError where D has no closed form (three-dimensional Hessian-proportional noise). MemoryError
    where not even the coarsest level fits into ``MEMORY``; finer levels that do not are left out. ValueError
    where a coefficient has a pole, jumps in a way that elements cannot follow, or the density is no density:
    mass at a far wall, or negative. Warns of less of that, where the tolerance is not reached, or where
    rounding decides the weights of separate valleys.

    Karniadakis, Sherwin, *Spectral/hp Element Methods* (2005), ch. 2; Hermite functions for fast variables as
    in Risken, *The Fokker–Planck Equation* (1989), ch. 10.
    """
    walls = walls or dict.fromkeys(process.names, "far")
    periodic = tuple(v for v in process.names if walls[v] == "periodic")
    region = Grid.on(box, (8,) * len(box), periodic)
    check_periodic(process, region)
    refuse_unfit(process, box)
    smooth = smooth_pieces(process, box)
    coefficients = _coefficients(process, smooth.itos)
    scales = {
        v: s
        for v, s in _hermite_scales(process, box).items()
        if walls[v] == "far" and (not meant or min(-box[v][0], box[v][1]) > WIDE_ENOUGH * s)
    }
    solution: _Solution | None = None
    change = np.inf
    for level in LEVELS[len(box)]:
        axes = _axes(process, box, symmetric, scales, level, smooth.points, periodic)
        if memory_needed(axes) > MEMORY:
            break
        try:
            finer = _solve(process, coefficients, axes, solution, smooth.itos)
        except MemoryError:
            break
        change = np.inf if solution is None else _change(finer, solution)
        # Moments converge twice as fast as the density: the level before this one must be near it too.
        near = solution is None or _distance(finer, solution) < NEAR
        solution = finer
        # Below its rounding error the change is noise: finer levels cost much and gain nothing.
        if change < max(tolerance, solution.rounding) and near:
            break
        if solution.rounding < tolerance:  # else a well that rounding has emptied would be cut off unseen
            box = _trimmed(solution, box)
    if solution is None:
        raise MemoryError(
            f"the coarsest level of the spectral method needs more than {MEMORY / 2**30:.0f} GiB; use "
            "method='finite-volume'"
        )
    _judge(change, solution.rounding, tolerance)
    result = _labelled(solution, max(change, solution.rounding))
    _judge_mass(result, solution, {v for v in walls if walls[v] == "far"}, natural_ends(process, region))
    return result


def _judge_mass(
    result: xr.DataArray, solution: _Solution, far: set[str], natural: frozenset[tuple[str, str]]
) -> None:
    """Refuse or warn of mass at walls that shall be far, and of negative mass."""
    mass = np.abs(solution.density * solution.volume)
    rim = {
        (axis.name, end): held
        for k, axis in enumerate(solution.axes)
        for end, held in _rim(mass, k, axis).items()
        if axis.name in far and (axis.name, end) not in natural
    }
    (name, end), most = max(rim.items(), key=lambda item: item[1], default=(("", ""), 0.0))
    negative, outside = float(result.attrs["negative_mass"]), sum(rim.values())
    if most > 1e-2:
        raise ValueError(
            f"the loss does not confine the density in the box: {most:.1%} of the mass lies at the {end} end "
            f"of {name}; enlarge the box, or say walls='reflecting' if the wall is meant"
        )
    if negative > 0.1:
        raise ValueError(
            f"the spectral density is negative on {negative:.1%} of the mass: it is not resolved; give a "
            "smaller box=, or use method='finite-volume'"
        )
    complaints = {
        f"the rim of the box holds {outside:.1e} of the mass: enlarge the box": outside > 1e-6,
        f"the spectral density is negative on {negative:.1e} of the mass: values in its tails are wrong; use "
        "method='finite-volume' for them": negative > 1e-4,
    }
    for complaint, true in complaints.items():
        if true:
            warnings.warn(complaint, stacklevel=6)


def _judge(change: float, rounding: float, tolerance: float) -> None:
    """Warn of what keeps the accuracy above the tolerance, with what would help against it."""
    # The estimate of rounding is right to an order of magnitude: no warning below ten tolerances.
    if rounding > 10 * tolerance and change < 100 * rounding:
        message = (
            f"rounding limits the spectral density to {rounding:.1e} (tolerance {tolerance:.0e}): where "
            "valleys hardly exchange mass, solve one at a time (box=) or raise the noise"
        )
    elif not change < max(tolerance, rounding):
        message = (
            f"spectral moments still change by {change:.1e} (tolerance {tolerance:.0e}): "
            "give a smaller box=, or use method='finite-volume' for noise that is not smooth"
        )
    else:
        return
    warnings.warn(message, stacklevel=5)


def _trimmed(solution: _Solution, box: Box) -> Box:
    """The box without ends that hold less than 1e-13 of the mass, where elements would be wasted."""
    trimmed = dict(box)
    mass = np.abs(solution.density * solution.volume)
    for k, axis in enumerate(solution.axes):
        if axis.hermite or axis.periodic:
            continue
        marginal = kept_axes(mass, k).reshape(axis.nodes.shape).sum(axis=1)
        below = int(np.searchsorted(np.cumsum(marginal), 1e-13))
        above = int(np.searchsorted(np.cumsum(marginal[::-1]), 1e-13))
        low, high = float(axis.edges[below]), float(axis.edges[len(marginal) - above])
        trimmed[axis.name] = (-high if axis.folded and low == 0.0 else low, high)
    return trimmed


def _coefficients(process: Process, itos: bool = False) -> _Coefficients:
    """c and D of the weak form as functions of the coordinates: (N, ...) and (N, N, ...).

    With ``itos`` those of u = D P in one variable: −b/D and 1.
    """
    variables, D = process.variables, process.diffusion
    if itos:
        return numpy_function([-process.drift[0] / D[0, 0]], variables), numpy_function(sp.eye(1), variables)
    size = range(len(variables))
    velocity = [-process.drift[i] + sum(sp.diff(D[i, j], variables[j]) for j in size) for i in size]
    return numpy_function(velocity, variables), numpy_function(sp.Matrix(D), variables)


def _hermite_scales(process: Process, box: Box) -> dict[str, float]:
    """α² = max s(x) over the window for fast variables whose law at fixed x is nearly Gaussian."""
    if not isinstance(process, Langevin) or len(process.landscape.slow) != 1 or not process.landscape.fast:
        return {}
    try:
        reduced = elimination.eliminate(process, order=1)
    except (NotImplementedError, ValueError):
        return {}
    line = np.linspace(*box[str(reduced.slow_variable)], 201)
    if np.max(numpy_function(reduced.validity["noise"], reduced.slow)(line)) > HERMITE_BELOW:
        return {}
    pairs = zip(reduced.fast, reduced.conditional_variance, strict=True)
    # The series in (1 − s/α²)^n converges for every s ≤ α².
    return {str(y): sqrt(float(np.max(numpy_function(s, reduced.slow)(line)))) for y, s in pairs}


def _axes(
    process, box, symmetric, scales, level: tuple[int, int, int], points=MappingProxyType({}), periodic=()
) -> list[Axis]:
    """One axis per variable at the given level of resolution; elements end at ``points``."""
    degree, functions, elements = level
    axes = []
    for name in process.names:
        low, high = box[name]
        half = name in symmetric
        if name in scales:
            axes.append(_hermite_axis(name, scales[name], functions, half))
            continue
        low = max(low, 0.0) if half else low
        count = (elements + 1) // 2 if half and low == 0.0 else elements
        edges = _edges(low, high, count, points.get(name, ()))
        axes.append(_lagrange_axis(name, edges, degree, half, name in periodic))
    return axes


def memory_needed(axes: list[Axis]) -> float:
    """Bytes for the matrix of the weak form, while it is assembled, and its factors."""
    entries = prod(len(a.points) * a.index.shape[1] ** 2 for a in axes)
    return entries * (40.0 + 12.0 * FILL[len(axes)])


def _edges(low: float, high: float, count: int, points: Sequence[float]) -> np.ndarray:
    """Ends of elements, shape (≥ count + 1,): equal ones between points where elements must end."""
    apart = 1e-9 * (high - low)
    stops = [low, *(v for v in points if low + apart < v < high - apart), high]
    parts = [
        np.linspace(a, b, int(np.ceil(count * (b - a) / (high - low) - 1e-9)) + 1)[:-1]
        for a, b in pairwise(stops)
    ]
    return np.append(np.concatenate(parts), high)


@dataclass(frozen=True)
class _Solution:
    """The density at all nodes, with checks; arrays have one axis per variable."""

    axes: list[Axis]
    density: np.ndarray
    volume: np.ndarray
    residual: float
    #: Relative error of the weights of separate valleys from rounding in the matrix.
    rounding: float
    unknowns: int


def _solve(
    process: Process,
    coefficients: _Coefficients,
    axes: list[Axis],
    earlier: _Solution | None,
    itos: bool = False,
) -> _Solution:
    """Assemble, pin one unknown near the mode, factorise, refine, normalise, evaluate."""
    matrix = _assembled(coefficients, axes)
    pin = _pinned_unknown(process, axes, earlier)
    keep, inner, right = pinned_system(matrix, pin)
    lu = factorised(inner)
    values = lu.solve(right)
    if not np.isfinite(values).all():
        raise ValueError(
            "the spectral method finds no density: parts of the box exchange no mass; give a smaller box=, "
            "or use method='finite-volume'"
        )
    values += lu.solve(right - inner @ values)
    unknowns = np.empty(matrix.shape[0])
    unknowns[keep], unknowns[pin] = values, 1.0
    residual = float(np.abs(matrix @ unknowns).max() / abs(matrix).dot(np.abs(unknowns)).max())
    density = _evaluated(unknowns, axes)
    if itos:
        density = density / process.diffusion_values(axes[0].line[:, None])[:, 0, 0]
    volume = reduce(np.multiply.outer, [a.node_weights.ravel() for a in axes])
    rounding = _rounding_error(inner, lu, axes, keep)
    density = density / (density * volume).sum()
    return _Solution(axes, density, volume, residual, rounding, matrix.shape[0])


def _rounding_error(inner: sparse.csc_matrix, lu: SuperLU, axes: list[Axis], keep: np.ndarray) -> float:
    """Rounding in the matrix relative to the mass that flows, for the slowest exchange.

    Mass fed in everywhere must flow to the pinned unknown; from a separate valley it must cross the barrier.
    A slower exchange piles up more mass in that valley, whose balance then carries a larger rounding error.
    The density does not show this error: a valley whose weight was lost is empty at every level.
    """
    fed = reduce(np.multiply.outer, [np.arange(a.size) == 0 if a.hermite else np.ones(a.size) for a in axes])
    source = np.asarray(fed, float).ravel()[keep]
    piled = np.abs(lu.solve(source))
    return float(np.finfo(float).eps * np.linalg.norm(abs(inner) @ piled) / source.sum())


def _assembled(coefficients: _Coefficients, axes: list[Axis]) -> sparse.csc_matrix:
    """The weak form's matrix, element by element."""
    dimension, shape = range(len(axes)), tuple(a.size for a in axes)
    velocity, diffusion = coefficients
    pairs = [_basis_pairs(a) for a in axes]
    # (a0 b0 a1 b1 …) → (a0 a1 …, b0 b1 …)
    counts = [a.index.shape[1] for a in axes]
    order = [*range(0, 2 * len(axes), 2), *range(1, 2 * len(axes), 2)]
    size = int(np.prod(counts))
    rows, columns, entries = [], [], []
    for element in np.ndindex(*(len(a.points) for a in axes)):
        parts = [*zip(axes, element, strict=True)]
        points = np.meshgrid(*(a.points[e] for a, e in parts), indexing="ij")
        weight = reduce(np.multiply.outer, [a.weights[e] for a, e in parts])
        c, D = velocity(*points) * weight, diffusion(*points) * weight
        local: np.ndarray | float = 0.0
        for i in dimension:
            local = local + _contracted(c[i], pairs, element, i, None)
            for j in dimension:
                local = local + _contracted(D[i, j], pairs, element, i, j)
        local = np.asarray(local).reshape([n for m in counts for n in (m, m)]).transpose(order)
        unknowns = np.meshgrid(*(a.index[e] for a, e in parts), indexing="ij")
        index = np.ravel_multi_index(unknowns, shape).ravel()
        rows.append(np.repeat(index, size))
        columns.append(np.tile(index, size))
        entries.append(local.reshape(size * size))
    places = np.concatenate(rows), np.concatenate(columns)
    total = int(np.prod(shape))
    return sparse.coo_matrix((np.concatenate(entries), places), shape=(total, total)).tocsc()


def _basis_pairs(axis: Axis) -> dict[tuple[bool, bool], np.ndarray]:
    """Products test × trial on the quadrature points, (E, q, m·m), by (test slope?, trial slope?)."""
    tests, trials = {False: axis.test, True: axis.test_slope}, {False: axis.trial, True: axis.trial_slope}
    return {
        (s, t): np.einsum("eqa,eqb->eqab", tests[s], trials[t]).reshape(*axis.points.shape, -1)
        for s in (False, True)
        for t in (False, True)
    }


def _contracted(values: np.ndarray, pairs, element, i: int, j: int | None) -> np.ndarray:
    """Σ_q values · Π_axes (test, trial), with slopes on axis i of the test and j of the trial."""
    for axis in range(len(pairs)):
        values = np.tensordot(values, pairs[axis][axis == i, axis == j][element[axis]], axes=([0], [0]))
    return values


def _pinned_unknown(process: Process, axes: list[Axis], earlier: _Solution | None) -> int:
    """An unknown near the mode of an earlier solution, else near the lowest loss or smallest drift."""
    if earlier is not None:
        top = np.unravel_index(int(np.argmax(earlier.density)), earlier.density.shape)
        place = [a.line[k] for a, k in zip(earlier.axes, top, strict=True)]
    else:
        mesh = np.stack(np.meshgrid(*(a.points.ravel() for a in axes), indexing="ij"), axis=-1)
        place = list(mesh.reshape(-1, len(axes))[lowest(process, mesh)])
    index = [_unknown_at(axis, v) for axis, v in zip(axes, place, strict=True)]
    return int(np.ravel_multi_index(index, tuple(a.size for a in axes)))


def _unknown_at(axis: Axis, v: float) -> int:
    """The basis function that weighs most at a place; the Gaussian itself on a Hermite axis."""
    if axis.hermite:
        return 0
    element, point = np.unravel_index(int(np.argmin(np.abs(axis.points - v))), axis.points.shape)
    return int(axis.index[element, np.argmax(axis.trial[element, point])])


def _evaluated(unknowns: np.ndarray, axes: list[Axis]) -> np.ndarray:
    """P at every node."""
    values = unknowns.reshape([a.size for a in axes])
    for axis in axes:
        # The first remaining axis is contracted and its nodes are appended at the end.
        count, nodes, _ = axis.node_values.shape
        index = np.broadcast_to(axis.index, (count, axis.index.shape[1]))
        line = np.einsum("eqm,em...->eq...", axis.node_values, values[index])
        values = np.moveaxis(line.reshape(count * nodes, *values.shape[1:]), 0, -1)
    return values


def _change(solution: _Solution, earlier: _Solution) -> float:
    """Largest change of ⟨v²⟩ and std|v|, of ⟨v⟩ and of ⟨u v⟩, each relative to its scale."""
    (now, scales), (before, _) = _moments(solution), _moments(earlier)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmax(np.abs(now - before) / scales))


def _distance(solution: _Solution, earlier: _Solution) -> float:
    """∫|P − P of the earlier level|, on the nodes of the later one; 0 where an axis has Hermite functions."""
    if any(axis.hermite for axis in (*solution.axes, *earlier.axes)):
        return 0.0
    before = earlier.density
    for k, (axis, old) in enumerate(zip(solution.axes, earlier.axes, strict=True)):
        carried = np.tensordot(_interpolation(old.nodes, old.edges, axis.line), before, (1, k))
        before = np.moveaxis(carried, 0, k)
    return float(np.sum(np.abs(solution.density - before) * solution.volume))


def _interpolation(nodes: np.ndarray, edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The matrix that takes values on nodes (K, r) of K intervals between ``edges`` to points."""
    from scipy.interpolate import BarycentricInterpolator

    matrix = np.zeros((len(points), nodes.size))
    interval = np.clip(np.searchsorted(edges, points, side="right") - 1, 0, len(nodes) - 1)
    for k in np.unique(interval):
        inside, own = np.flatnonzero(interval == k), np.arange(nodes[k].size) + k * nodes[k].size
        matrix[np.ix_(inside, own)] = BarycentricInterpolator(nodes[k], np.eye(len(own)))(points[inside])
    return matrix


def _moments(solution: _Solution) -> tuple[np.ndarray, np.ndarray]:
    """⟨v²⟩, std and ⟨v⟩ (of |v| where folded) per axis, ⟨u v⟩ per pair; and the scale of each.

    A mean or a correlation may vanish: its scale is the root mean square of what is averaged.
    """
    mass = solution.density * solution.volume
    lines = [np.abs(a.line) if a.folded else a.line for a in solution.axes]
    numbers, scales, spreads = [], [], []
    for k, v in enumerate(lines):
        marginal = kept_axes(mass, k)
        mean, square = marginal @ v, marginal @ v**2
        width = np.sqrt(max(square - mean**2, 0.0))
        spreads.append(np.sqrt(abs(square)))
        numbers += [square, width, mean]
        scales += [abs(square), width, spreads[-1]]
    for i, j in combinations(range(mass.ndim), 2):
        numbers.append(lines[i] @ kept_axes(mass, i, j) @ lines[j])
        scales.append(spreads[i] * spreads[j])
    return np.array(numbers), np.array(scales)


def _labelled(solution: _Solution, change: float) -> xr.DataArray:
    """The density with its nodes, mirrored where half was solved, and the outcome of the checks."""
    density, volume = solution.density, solution.volume
    names = [a.name for a in solution.axes]
    coordinates, rim = {}, 0.0
    for k, axis in enumerate(solution.axes):
        rim += 0.0 if axis.periodic else sum(_rim(np.abs(density * volume), k, axis).values())
        line, weight = axis.line, axis.node_weights.ravel()
        if axis.folded:
            density, volume = unfolded(density, k), unfolded(volume, k)
            line, weight = unfolded(line, odd=True), unfolded(weight)
        coordinates[f"{axis.name}_weight"] = quantity(weight, axis.name, "quadrature weight")
        coordinates[axis.name] = quantity(line, axis.name, axis.name, points_per_element=axis.nodes.shape[1])
    density = density / (density * volume).sum()
    coordinates["cell_volume"] = quantity(volume, names, "quadrature weight")
    mass = density * volume
    folded = sorted((a for a in solution.axes if a.folded), key=lambda a: a.hermite)
    symmetries = [f"even functions of {a.name}" if a.hermite else f"{a.name} >= 0 mirrored" for a in folded]
    attrs = {
        "long_name": "stationary probability density",
        "units": "1",
        "method": "spectral",
        "scheme": ", ".join(map(_basis, solution.axes)),
        "symmetry": ", ".join(symmetries) or "none used",
        "unknowns": solution.unknowns,
        "mass": float(mass.sum()),
        "residual": solution.residual,
        "rounding_error": solution.rounding,
        "negative_mass": float(abs(mass[mass < 0].sum())),
        "boundary_mass": rim,
        "convergence": change,
    }
    return xr.DataArray(density, coordinates, names, name="density", attrs=attrs)


def _rim(mass: np.ndarray, k: int, axis: Axis) -> dict[str, float]:
    """Mass in the outer ``RIM`` share of an axis, by end; v = 0 of a mirrored one and Hermite left out."""
    if axis.hermite:
        return {}
    line, low, high = axis.line, axis.edges[0], axis.edges[-1]
    reach, marginal = RIM * (high - low), kept_axes(mass, k)
    held = {"high": float(marginal[line > high - reach].sum())}
    if not (axis.folded and low == 0.0):
        held["low"] = float(marginal[line < low + reach].sum())
    return held


def _basis(axis: Axis) -> str:
    """The basis of an axis in words."""
    if axis.hermite:
        return f"{axis.index.shape[1]} Hermite functions in {axis.name}"
    return f"{len(axis.points)} elements of degree {axis.index.shape[1] - 1} in {axis.name}"


def marginal(density: xr.DataArray, name: str, points: np.ndarray) -> np.ndarray:
    """Marginal density p(v) of a spectral result at any points, zero outside its window.

    p is the polynomial through the nodes of each element, as accurate as the solution itself.

    Parameters
    ----------
    density : DataArray
        From :func:`stationary_density` by the spectral method.
    name : str
        The variable v.
    points : ndarray
        Values of v, of any shape.

    Returns
    -------
    ndarray
        p, in the shape of ``points``.
    """
    others = [d for d in density.dims if d != name]
    values = ((density * density.cell_volume).sum(others) / density[f"{name}_weight"]).to_numpy()
    nodes = density[name].to_numpy().reshape(-1, int(density[name].attrs["points_per_element"]))
    u, _ = legendre.leggauss(nodes.shape[1])
    half = (nodes[:, 1] - nodes[:, 0]) / (u[1] - u[0])
    left = nodes[:, 0] - half * (1 + u[0])
    edges, points = np.append(left, left[-1] + 2 * half[-1]), np.asarray(points, float)
    flat = points.ravel()
    inside = (flat >= edges[0] - 1e-12) & (flat <= edges[-1] + 1e-12)
    found = np.where(inside, _interpolation(nodes, edges, flat) @ values, 0.0)
    return found.reshape(points.shape)
