"""The generator where noise never acts along some axes: upwind along these, central along the others.

𝓛 = Σ_i b_i ∂_i + Σ_i D_ii ∂_i². Along an axis with D_ii = 0, such as the position of an underdamped
particle, a path moves by the drift alone. 𝓛u then takes values of u only from where the drift goes, and
data on a set only where the drift enters the set; elsewhere u jumps at its boundary. Differences are upwind
of order five along these axes and central of order four along the others, and of lower order next to sets
and walls. The forward matrix is the transpose, so that moments converge with the same order; the density
itself has order 1.6 where a drift changes sign along its own axis. Not monotone. Upwind differences of
order one are monotone, and wrong by 10 to 80 % in times over barriers with ten cells per standard
deviation, as they add the diffusion |b|h/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.grid import Grid, drift_values, place
from theory.langevin import Process

#: Cells of a stencil, counted from its own, and ends of its line.
Nodes: TypeAlias = tuple[int | str, ...]
#: A boundary is kept at least this share of a cell away from a cell's centre.
SMALLEST_CUT = 1e-3
#: A direction is without noise if D along it, in units in which its diagonal is one, is below this.
NO_NOISE = 1e-13
#: Cell Péclet number |b|h/D beyond which the drift of a cell is upwind.
PECLET = 20.0
#: What a path meets beyond the last free cell of a line, where it is no set.
_WALL = -1
#: Nodes of a stencil that are no cells: where the line ends, ahead or behind.
_AHEAD, _BEHIND = "ahead", "behind"


@dataclass(frozen=True)
class Backward:
    """𝓛u = rates (u_j − u_i) + exits (u on the sets − u_i) on the ``outside`` cells of a grid."""

    outside: np.ndarray  # numbers of the cells outside all sets
    rates: sparse.csr_matrix  # among these, without diagonal; some are negative
    exits: np.ndarray  # (cells outside, sets)


def backward(process: Process, grid: Grid, signed: Sequence[np.ndarray] = ()) -> Backward:
    """The generator on a grid, outside of sets.

    ``signed`` are functions on the cells, shape grid.shape, each positive inside its set. Nothing passes the
    walls of the box. A ValueError if D is not diagonal, or drift or D are not finite.
    """
    points = grid.points()
    b = drift_values(process, points)
    D = process.diffusion_values(points.reshape(-1, len(grid.shape))).reshape(*points.shape, -1)
    if np.any(D * (1 - np.eye(len(grid.shape))) != 0):
        raise ValueError("scheme='upwind' needs a diagonal D; leave the choice to scheme='auto'")
    if not (fine := np.isfinite(b).all(axis=-1) & np.isfinite(D).all(axis=(-2, -1))).all():
        raise ValueError(f"drift or D is not finite at {place(grid.names, points[~fine][0])}")
    rows = _Rows(grid, signed)
    for axis, h in enumerate(grid.widths):
        drift, noise = b[..., axis] / h, D[..., axis, axis] / h**2
        moved = np.where(np.abs(drift) > PECLET * noise, drift, 0.0)
        if noise.any():
            rows.add_central(axis, drift - moved, noise)
        for step in (1, -1) if moved.any() else ():
            rows.add_upwind(axis, step, np.maximum(step * moved, 0.0))
    return rows.collected()


def forward_matrix(process: Process, grid: Grid) -> sparse.csc_matrix:
    """A with dP/dt = A P, shape (cells, cells): the transpose of the generator. Its columns sum to zero."""
    rates = backward(process, grid).rates
    return (rates - sparse.diags(np.asarray(rates.sum(axis=1)).ravel())).T.tocsc()


def noiseless_directions(process: Process) -> np.ndarray:
    """Orthonormal directions n with D(x) n = 0 everywhere, shape (k, N); none if D vanishes altogether.

    D is positive semidefinite, so that a null vector of the mean of D over some points is one of D at each.
    """
    dimension = len(process.variables)
    points = np.random.default_rng(11).normal(size=(60, dimension)) * np.resize([0.1, 1.0, 10.0], 60)[:, None]
    with np.errstate(all="ignore"):
        D = process.diffusion_values(points)
    D = D[np.isfinite(D).all(axis=(1, 2))]
    # Points where D is no diffusion lie beyond the natural end of a variable.
    D = D[np.linalg.eigvalsh(D)[:, 0] >= -1e-9 * np.abs(D).max(axis=(1, 2), initial=0.0)]
    largest = np.abs(D).max(axis=(1, 2), initial=0.0)
    if not (largest > 0).any():
        return np.empty((0, dimension))
    mean = np.mean(D[largest > 0] / largest[largest > 0, None, None], axis=0)
    units = _sizes(mean.diagonal())
    values, vectors = np.linalg.eigh(mean / np.outer(units, units))
    silent = vectors[:, values < NO_NOISE] / units[:, None]
    return np.linalg.qr(silent / np.abs(silent).max(axis=0, initial=0.0))[0].T


def _sizes(variances: np.ndarray) -> np.ndarray:
    """Units in which variances are one, or zero."""
    return np.sqrt(np.where(variances > 0, variances, 1.0))


def check_reach(process: Process) -> None:
    """A ValueError if the law of a variable, or of a sum of them, becomes sharp: noise never gets there.

    Noise reaches the span of D, JD, J²D, … with the drift's Jacobian J; only a direction outside of it at
    each of some random points is refused.
    """
    if not len(noiseless_directions(process)):
        return
    dimension = len(process.variables)
    points = np.random.default_rng(12).normal(size=(40, dimension))
    step = 1e-5
    with np.errstate(all="ignore"):
        sides = [drift_values(process, points[:, None] + sign * step * np.eye(dimension)) for sign in (1, -1)]
        J = np.swapaxes((sides[0] - sides[1]) / (2 * step), 1, 2)
        D = process.diffusion_values(points)
        units = _sizes(np.nanmean(np.diagonal(D, axis1=1, axis2=2), axis=0))
        fine = np.isfinite(J).all(axis=(1, 2)) & np.isfinite(D).all(axis=(1, 2))
    J, D = J[fine], D[fine]
    values, vectors = np.linalg.eigh(D / np.outer(units, units))
    noisy = np.where(values > NO_NOISE * values.max(initial=0.0), np.sqrt(np.maximum(values, 0.0)), 0.0)
    columns = units[:, None] * vectors * noisy[:, None, :]
    reach = [columns]
    for _ in range(dimension - 1):
        sizes, columns = np.abs(J) @ np.abs(columns), J @ columns
        columns = np.where(np.abs(columns) > 1e-8 * sizes, columns, 0.0)  # not what differences leave
        columns = columns / np.maximum(np.abs(columns).max(axis=(1, 2), keepdims=True), 1e-300)
        reach.append(columns)
    spanned = np.concatenate(reach, axis=-1).transpose(1, 0, 2).reshape(dimension, -1)
    if not spanned.any():
        return
    scales = np.ones(dimension)
    for _ in range(5):  # the span in no unit
        rows, spanned = _balanced(spanned)
        scales *= rows
    vectors, values = np.linalg.svd(spanned, full_matrices=False)[:2]
    if values[-1] < 3e-5 * values[0]:
        own = vectors[:, -1]
        n = scales * own / np.abs(scales * own).max()
        terms = [f"{c:.3g} {v}" for c, v, part in zip(n, process.names, own, strict=True) if abs(part) > 1e-6]
        what = terms[0].split()[1] if len(terms) == 1 else " + ".join(terms)
        raise ValueError(
            f"no noise reaches {what}, neither itself nor through the drift: its law is no density; "
            "leave it out, or give it noise"
        )


def _balanced(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the rows are divided by, inverted, and the matrix with rows and then columns of unit length."""
    lengths = np.linalg.norm(matrix, axis=1)
    rows = 1.0 / np.where(lengths > 0, lengths, 1.0)
    matrix = rows[:, None] * matrix
    lengths = np.linalg.norm(matrix, axis=0)
    return rows, matrix / np.where(lengths > 0, lengths, 1.0)


def lacks_noise(process: Process) -> bool:
    """Whether noise acts along some axes only, and independently there: what this module is for."""
    directions = np.abs(noiseless_directions(process))
    return len(directions) > 0 and bool((np.sort(directions)[:, :-1] < NO_NOISE).all())


class _Rows:
    """Rows of the generator, stencil by stencil."""

    def __init__(self, grid: Grid, signed: Sequence[np.ndarray]) -> None:
        self.signed = signed
        self.wraps = [name in grid.periodic for name in grid.names]
        self.number = np.arange(grid.cells).reshape(grid.shape)
        self.member = np.zeros(grid.shape, int)  # 0 outside all sets, else the number of the set from 1
        for k, g in enumerate(signed, start=1):
            self.member[g > 0] = k
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.exits = np.zeros((grid.cells, len(signed)))

    def add_upwind(self, axis: int, step: int, speed: np.ndarray) -> None:
        """speed × ∂u towards ``step`` along one axis, in cells."""
        ahead, behind = self._line(axis, step, 3), self._line(axis, -step, 2)
        into_set = ahead.beyond > 0
        stencils = [
            ((ahead.free == 3) & (behind.free == 2), (-2, -1, 0, 1, 2, 3)),
            ((ahead.free >= 2) & (behind.free >= 1), (-1, 0, 1, 2)),
            (ahead.free >= 2, (0, 1, 2)),
            ((ahead.free == 1) & into_set & (behind.free >= 1), (-1, 0, 1)),
            (ahead.free == 1, (0, 1)),
            (into_set & (behind.free >= 1), (-1, 0, _AHEAD)),
            (into_set, (0, _AHEAD)),
        ]
        self._add(axis, step, stencils, (ahead, behind), speed, np.zeros_like(speed))

    def add_central(self, axis: int, drift: np.ndarray, noise: np.ndarray) -> None:
        """drift × ∂u + noise × ∂²u along one axis, in cells."""
        ahead, behind = self._line(axis, 1, 2), self._line(axis, -1, 2)
        stencils: list[tuple[np.ndarray, Nodes]] = [
            ((ahead.free == 2) & (behind.free == 2), (-2, -1, 0, 1, 2))
        ]
        for open_behind, open_ahead in product((True, False), repeat=2):
            fits = ((behind.free > 0) == open_behind) & ((ahead.free > 0) == open_ahead)
            stencils.append((fits, (-1 if open_behind else _BEHIND, 0, 1 if open_ahead else _AHEAD)))
        self._add(axis, 1, stencils, (ahead, behind), drift, noise)

    def _add(
        self,
        axis: int,
        step: int,
        stencils: Sequence[tuple[np.ndarray, Nodes]],
        lines: tuple[_Line, _Line],
        drift: np.ndarray,
        noise: np.ndarray,
    ) -> None:
        """Every open cell by the first stencil whose condition holds; nodes count cells towards ``step``."""
        todo = self.member == 0
        ends = dict(zip((_AHEAD, _BEHIND), lines, strict=True))
        for condition, nodes in stencils:
            cells = np.flatnonzero(condition & todo)
            todo &= ~condition
            places = np.empty((len(cells), len(nodes)))
            for k, node in enumerate(nodes):
                places[:, k] = ends[node].edge.ravel()[cells] if node in ends else node
            places[:, [node == _BEHIND for node in nodes]] *= -1.0
            first, second = _weights(places)
            weights = drift.ravel()[cells, None] * first + noise.ravel()[cells, None] * second
            for node, weight in zip(nodes, weights.T, strict=True):
                if node in ends:  # into a set; nothing crosses a wall
                    beyond = ends[node].beyond.ravel()[cells]
                    inside = beyond > 0
                    self.exits[cells[inside], beyond[inside] - 1] += weight[inside]
                elif isinstance(node, int) and node:
                    there = _shifted(self.number, axis, step * node, self.wraps[axis], 0)
                    self.entries.append((cells, there.ravel()[cells], weight))

    def _line(self, axis: int, step: int, reach: int) -> _Line:
        """Free cells from every cell along an axis, at most ``reach``, and what ends them."""
        free = np.zeros(self.member.shape, int)
        beyond = np.zeros(self.member.shape, int)
        edge = np.ones(self.member.shape)
        going = self.member == 0
        for k in range(1, reach + 1):
            met = _shifted(self.member, axis, k * step, self.wraps[axis], _WALL)
            stopped = going & (met != 0)
            beyond[stopped], edge[stopped] = met[stopped], k
            for number, g in enumerate(self.signed, start=1):
                last = _shifted(g, axis, (k - 1) * step, self.wraps[axis], 0.0)
                inside = _shifted(g, axis, k * step, self.wraps[axis], 1.0)
                cut = stopped & (met == number)
                share = last[cut] / (last[cut] - inside[cut])
                edge[cut] = k - 1 + np.clip(share, SMALLEST_CUT, 1.0)
            going &= ~stopped
            free += going
        return _Line(free, beyond, edge)

    def collected(self) -> Backward:
        """The generator from all stencils added so far."""
        start, end, rate = (np.concatenate(part) for part in zip(*self.entries, strict=True))
        size = self.number.size
        rates = sparse.csr_matrix((rate, (start, end)), shape=(size, size))
        outside = np.flatnonzero(self.member == 0)
        return Backward(outside, rates[outside][:, outside], self.exits[outside])


@dataclass(frozen=True)
class _Line:
    """From every cell along an axis: free cells, the set (from 1) or wall that ends them, its distance."""

    free: np.ndarray
    beyond: np.ndarray
    edge: np.ndarray


def _shifted(values: np.ndarray, axis: int, by: int, wraps: bool, fill: float) -> np.ndarray:
    """values[i + by] along an axis; beyond its ends ``fill``, or from the other end if it ``wraps``."""
    pads = [(abs(by) if a == axis else 0,) * 2 for a in range(values.ndim)]
    padded = np.pad(values, pads, mode="wrap") if wraps else np.pad(values, pads, constant_values=fill)
    start = abs(by) + by
    return np.take(padded, np.arange(start, start + values.shape[axis]), axis=axis)


def _weights(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (k, nodes) of first and second derivatives at 0 from values at ``places`` (k, nodes)."""
    same, inverse = np.unique(places, axis=0, return_inverse=True)
    nodes = same.shape[1]
    powers = same[:, None, :] ** np.arange(nodes)[None, :, None]
    wanted = np.zeros((nodes, 2))
    wanted[1, 0] = 1.0
    wanted[2:3, 1] = 2.0
    first, second = np.moveaxis(
        np.linalg.solve(powers, np.broadcast_to(wanted, (len(same), nodes, 2))), -1, 0
    )
    return first[inverse.ravel()], second[inverse.ravel()]
