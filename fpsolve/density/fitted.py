"""Rates between neighbouring cells from exact integrals along an axis: for jumps, and ends where D vanishes.

In the Itô form the flux along an axis is J = b P − ∂(D P). With φ = ∫ b/D and u = D P it reads
J = −e^φ ∂(u e^{−φ}), so between two cell centres J ∫ e^{−φ} = u₀ e^{−φ₀} − u₁ e^{−φ₁}. A cell holds the mass
∫ (u/D), with u ∝ e^φ. Where J is constant and no other axis interferes, neither statement has an error: D and
the potential may jump, and P may grow like a power towards an end where D vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp

from fpsolve.density.choices import Scheme
from fpsolve.density.grid import Grid, drift_values, loss_values, place
from theory.breakpoints import borders, switches
from theory.langevin import Langevin, Process

#: Halvings of the half cell at an end where D vanishes; a power law holds what is beyond the last.
HALVINGS = 25
#: D at an end, over D at the next cell centre, below which D counts as zero there.
VANISHES = 1e-9
#: Rise of φ over half a cell above which a cell does not fill as in equilibrium.
FILLED = 2.0
#: Rise of φ over a part of a cell above which its exponential is integrated as that of a straight line.
STEEP = 6.0
#: Gauss points per part of a cell, and weights on [0, 1]; integrals from 0 to each point.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(4)[k] / 2.0 for k in (0, 1))
_NODES = _NODES + 0.5
_POWERS = np.arange(1, 5)
_INTEGRALS = (_NODES[:, None] ** _POWERS / _POWERS) @ np.linalg.inv(_NODES[:, None] ** (_POWERS - 1))


def vanishing_ends(process: Process, grid: Grid, axis: int) -> tuple[bool, bool]:
    """Whether D_ii is zero at the low and the high end of an axis: a natural end, if the density exists."""
    found = []
    for edge, index in ((grid.low[axis], 0), (grid.high[axis], -1)):
        near = np.take(grid.points(), [index], axis=axis).reshape(-1, len(grid.shape))
        at = near.copy()
        at[:, axis] = edge
        with np.errstate(all="ignore"):
            D, inside = (process.diffusion_values(points)[:, axis, axis] for points in (at, near))
        found.append(bool((inside > 0).all() and (np.abs(D) <= VANISHES * inside).all()))
    return (False, False) if grid.names[axis] in grid.periodic else (found[0], found[1])


def natural_ends(process: Process, grid: Grid) -> frozenset[tuple[str, str]]:
    """The ends ("x", "low") or ("x", "high") of the box where D_ii vanishes."""
    ends = {name: vanishing_ends(process, grid, axis) for axis, name in enumerate(grid.names)}
    return frozenset(
        (v, end)
        for v, two in ends.items()
        for end, is_one in zip(("low", "high"), two, strict=True)
        if is_one
    )


def jumps_along(process: Process, grid: Grid, axis: int) -> tuple[bool, tuple[float, ...]]:
    """Whether D_ii, b_i or the loss jumps along an axis, and the points where some coefficient may.

    Jumps along curves that are not on the axis' faces count as jumps without a point.
    """
    loss = () if process.landscape is None else (process.landscape.loss,)
    found = switches((*loss, process.drift[axis], *_diffusion_entries(process, axis)))
    if not found.jumps:
        return False, ()
    box = dict(zip(grid.names, zip(grid.low, grid.high, strict=True), strict=True))
    places, oblique = borders(found.jumps, box)
    points = places[grid.names[axis]]
    variable = process.variables[axis]
    slanted = any(variable in switch.free_symbols for switch in oblique)
    return slanted or any(_jumps_at(process, grid, axis, v) for v in points), points


def _diffusion_entries(process: Process, axis: int) -> tuple[sp.Expr, ...]:
    """The expressions that decide D_ii; the Hessian where D itself has no closed form."""
    if isinstance(process, Langevin) and process.noise.hessian_factor is not None:
        return tuple(process.landscape.hessian)
    return (process.diffusion[axis, axis],)


def _jumps_at(process: Process, grid: Grid, axis: int, v: float) -> bool:
    """Whether b_i, D_ii or the loss differs on the two sides of a place on an axis."""
    step = 1e-7 * (grid.high[axis] - grid.low[axis])
    points = np.take(grid.points(), [0], axis=axis)
    sides = []
    for side in (v - step, v + step):
        at = points.copy()
        at[..., axis] = side
        sides.append(_along(process, at, axis))
    scales = [max(1e-300, float(np.abs(values).max())) for values in _along(process, grid.points(), axis)]
    return any(
        not np.allclose(a, b, rtol=1e-4, atol=1e-5 * scale)
        for a, b, scale in zip(*sides, scales, strict=True)
    )


def _along(process: Process, points: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """b_i, D_ii and the loss (0 without one) at points (..., N)."""
    flat = points.reshape(-1, points.shape[-1])
    with np.errstate(all="ignore"):
        D = process.diffusion_values(flat)[:, axis, axis].reshape(points.shape[:-1])
        loss = loss_values(process, points)
        return drift_values(process, points)[..., axis], D, np.zeros_like(D) if loss is None else loss


def fitted_axis(process: Process, grid: Grid, axis: int) -> FittedAxis | None:
    """The integrals along an axis that has jumps or an end where D vanishes; None for any other."""
    jumps, points = jumps_along(process, grid, axis)
    ends = vanishing_ends(process, grid, axis)
    return FittedAxis(process, grid, axis, points, ends) if jumps or any(ends) else None


@dataclass(frozen=True)
class FittedAxis:
    """Exact integrals along one axis: ``points`` where coefficients jump, ``ends`` where D vanishes."""

    process: Process
    grid: Grid
    axis: int
    points: tuple[float, ...]
    ends: tuple[bool, bool]

    def rates(self, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
        """Rates upwards and downwards through the inner faces (and a periodic end), in the grid's shape."""
        potential, mass, resistance, _ = self._integrals()
        periodic = self.grid.names[self.axis] in self.grid.periodic
        step, below, above = (
            potential["steps"], resistance["right"], np.roll(resistance["left"], -1, axis=-1)
        )  # fmt: skip
        masses = mass, np.roll(mass, -1, axis=-1)
        if not periodic:
            step, below, above = step[..., :-1], below[..., :-1], above[..., :-1]
            masses = mass[..., :-1], mass[..., 1:]
        if scheme == "central" and not any(self.ends):
            up, down = self._central(masses)
        else:
            # The smaller exponential of the two, so that neither overflows.
            smaller, upwards = np.exp(-np.abs(step)), step > 0
            whole = np.where(upwards, below + smaller * above, smaller * below + above)
            up = np.where(upwards, 1.0, smaller) / (whole * masses[0])
            down = np.where(upwards, smaller, 1.0) / (whole * masses[1])
        if not (np.isfinite(up).all() and np.isfinite(down).all()):
            name = self.grid.names[self.axis]
            raise ValueError(
                f"D vanishes along {name} inside the box; solve on one side of that place (box=)"
            )
        return np.moveaxis(up, -1, self.axis), np.moveaxis(down, -1, self.axis)

    def peclet(self) -> np.ndarray:
        """Cell Péclet number |b| h/D on the faces that have rates, in the grid's shape."""
        faces = self.grid.points(face_axis=self.axis)
        b, D, _ = _along(self.process, faces, self.axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(np.abs(b) * self.grid.widths[self.axis] / D, nan=0.0, posinf=np.inf)

    @property
    def steps_of_loss(self) -> bool:
        """Whether the loss jumps, so that the drift is infinite there."""
        landscape = self.process.landscape
        return landscape is not None and bool(switches((landscape.loss,)).jumps)

    def towards(
        self, cells: np.ndarray, side: int, share: np.ndarray, parts: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """∫ e^{−φ} and ∫ w e^φ/D from centres to places at ``share`` of the way to the next ones, shape (k,).

        φ is 0 at the centre, ``side`` is 1 upwards and −1 downwards. w falls from 1 to 0: the probability to
        come back to the centre before the place. With this mass times are exact at centres, but for the
        integrals, which are cut at jumps and into ``parts``.
        """
        centres = self.grid.points().reshape(self.grid.cells, -1)[cells]
        here, far = centres[:, self.axis], share[:, None] * self.grid.widths[self.axis]
        parts *= int(np.clip(self.peclet().max() / 48.0, 1.0, 16.0))
        jumps = np.clip(side * (np.asarray(self.points) - here[:, None]), 0.0, far)
        edges = np.sort(np.concatenate([far * np.linspace(0.0, 1.0, parts + 1), jumps], axis=1), axis=1)
        width = np.diff(edges, axis=1)[..., None]
        nodes = edges[:, :-1, None] + width * _NODES
        places = np.broadcast_to(centres[:, None, None], (*nodes.shape, centres.shape[1])).copy()
        places[..., self.axis] += side * nodes
        b, D, _ = _along(self.process, places, self.axis)
        slope = side * b / D
        rise = np.cumsum((slope * width) @ _WEIGHTS, axis=1)
        start = np.concatenate([np.zeros((len(here), 1)), rise[:, :-1]], axis=1)[..., None]
        phi = np.clip(start + (slope @ _INTEGRALS.T) * width, -700.0, 700.0)
        each = (np.exp(-phi) * width) @ _WEIGHTS
        # What is left of the way, summed from its end: where φ is steep, a difference would be rounding.
        later = np.cumsum(each[:, ::-1], axis=1)[:, ::-1] - each
        left = later[..., None] + (np.exp(-phi) @ (_WEIGHTS - _INTEGRALS).T) * width
        whole = each.sum(axis=1)
        back = left / whole[:, None, None]
        return whole, ((back * np.exp(phi) / D * width) @ _WEIGHTS).sum(axis=1)

    def mass_of_halves(self) -> np.ndarray:
        """∫ e^φ/D of each cell's half below and above its centre, shape (2, …), the axis last."""
        return np.array(self._integrals()[3])

    def _central(self, masses: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Rates of J = mean of b P − ΔDP/h, with D P of a cell from its mass."""
        h, count = self.grid.widths[self.axis], masses[0].shape[-1]
        b, D, _ = (np.moveaxis(v, self.axis, -1) for v in _along(self.process, self.grid.points(), self.axis))
        slope = b / D
        ahead = np.roll(slope, -1, axis=-1)[..., :count]
        return (1 / h + slope[..., :count] / 2) / masses[0], (1 / h - ahead / 2) / masses[1]

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the parts that half cells are cut into, and the half cell of each part."""
        low, h, n = self.grid.low[self.axis], self.grid.widths[self.axis], self.grid.shape[self.axis]
        halves = low + 0.5 * h * np.arange(2 * n + 1)
        halves[-1] = self.grid.high[self.axis]
        shrinking = 0.5 * h * 0.5 ** np.arange(1, HALVINGS + 1)
        extra = np.concatenate(
            [
                np.asarray(self.points),
                low + shrinking if self.ends[0] else [],
                halves[-1] - shrinking if self.ends[1] else [],
            ]
        )
        # Jumps within rounding of an edge lie on it.
        apart = np.array([np.abs(halves - v).min() for v in extra]) > 1e-12 * (halves[-1] - low)
        edges = np.unique(np.concatenate([halves, extra[apart.astype(bool)]]))
        middle = (edges[1:] + edges[:-1]) / 2
        return edges, np.clip(np.searchsorted(halves, middle) - 1, 0, 2 * n - 1)

    def _integrals(self):
        """Steps of φ between centres; ∫ e^φ/D of cells; ∫ e^{−φ} and ∫ e^φ/D of halves; φ is 0 at centres."""
        edges, half = self._parts()
        width = np.diff(edges)
        nodes = edges[:-1, None] + width[:, None] * _NODES
        b, D = self._on(nodes)
        with np.errstate(all="ignore"):
            f = b / D
        inner = (f @ _INTEGRALS.T) * width[:, None]
        rise = (f @ _WEIGHTS) * width
        # Beyond the last halving a power law stands for the integrals.
        first, last = (1 if self.ends[0] else 0), (-1 if self.ends[1] else None)
        cut = np.ones(len(width))
        cut[:first], cut[len(width) if last is None else last :] = 0.0, 0.0
        inner, rise = inner * cut[:, None], rise * cut
        jump = self._loss_jumps(edges, D)
        start = np.concatenate([np.zeros_like(rise[..., :1]), np.cumsum(rise, axis=-1)], axis=-1)
        start = start + np.cumsum(jump, axis=-1)
        cells = half // 2
        centre = start[..., np.searchsorted(half, 2 * np.arange(self.grid.shape[self.axis]) + 1)]
        phi = np.clip(start[..., :-1, None] + inner - centre[..., cells, None], -700.0, 700.0)
        with np.errstate(all="ignore"):
            mass = ((np.exp(self._moderate(phi, rise, half)) / D) @ _WEIGHTS) * width
            # What is lost to the limit of −700 beside an end is nothing, and no power law.
            beside = ((half == 0) & self.ends[0]) | ((half == half[-1]) & self.ends[1])
            mass = np.where(beside & (phi <= -700.0).all(axis=-1), 0.0, mass)
            # Where φ rises steeply the integral of a straight line is better than four points.
            line = np.exp(-np.clip(start[..., :-1] - centre[..., cells], -700.0, 700.0))
            line = line * (-np.expm1(-np.clip(rise, -700.0, 700.0)) / rise)
            resistance = np.where(np.abs(rise) > STEEP, line, np.exp(-phi) @ _WEIGHTS) * width
        mass = self._with_tails(mass)
        starts = np.searchsorted(half, np.arange(half[-1] + 1))
        whole = np.add.reduceat(mass, starts, axis=-1)
        whole = self._without_steep_ends(whole, centre, start[..., starts], start[..., -1:])
        resistance = np.add.reduceat(resistance, starts, axis=-1)
        around = start[..., -1:] - centre[..., -1:] + centre[..., :1] - start[..., :1]
        steps = np.concatenate([np.diff(centre, axis=-1), around + jump[..., :1]], axis=-1)
        halves = {"left": resistance[..., ::2], "right": resistance[..., 1::2]}
        masses = whole[..., ::2], whole[..., 1::2]
        return {"steps": steps}, masses[0] + masses[1], halves, masses

    def _moderate(self, phi: np.ndarray, rise: np.ndarray, half: np.ndarray) -> np.ndarray:
        """φ for the mass of cells, flattened in half cells where it rises by more than ``FILLED``.

        A cell that P crosses steeply is not filled as in equilibrium: mass runs through it with the drift.
        """
        starts = np.searchsorted(half, np.arange(half[-1] + 1))
        reach = np.add.reduceat(np.abs(rise), starts, axis=-1)
        factor = 1.0 / np.maximum(1.0, reach / FILLED) ** 2
        if self.ends[0]:
            factor[..., 0] = 1.0
        if self.ends[1]:
            factor[..., -1] = 1.0
        return phi * factor[..., half, None]

    def _without_steep_ends(self, whole, centre, start, last) -> np.ndarray:
        """Masses of half cells; at an end where P vanishes steeply that of the other half of the cell."""
        whole = whole.copy()
        faces = np.concatenate([start, last], axis=-1)
        for end, (outer, inner, cell, face) in zip(self.ends, ((0, 1, 0, 2), (-1, -2, -1, -3)), strict=True):
            if end:
                steep = np.abs(faces[..., face] - centre[..., cell]) > FILLED
                whole[..., outer] = np.where(steep, whole[..., inner], whole[..., outer])
        return whole

    def _on(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """b and D on nodes (parts, q) of the axis and the cell centres of the others, axis last."""
        points = self._points(nodes.ravel())
        b, D, _ = _along(self.process, points, self.axis)
        return tuple(v.reshape(*v.shape[:-1], *nodes.shape) for v in (b, D))  # type: ignore[return-value]

    def _points(self, line: np.ndarray) -> np.ndarray:
        """Points with ``line`` on the axis, which comes last, and cell centres on the others."""
        others = [a for a in range(len(self.grid.shape)) if a != self.axis]
        lines = np.meshgrid(*(self.grid.centres(a) for a in others), line, indexing="ij")
        points = np.empty((*lines[0].shape, len(self.grid.shape)))
        for a, values in zip([*others, self.axis], lines, strict=True):
            points[..., a] = values
        return points

    def _loss_jumps(self, edges: np.ndarray, D: np.ndarray) -> np.ndarray:
        """−ΔL/D where the loss jumps on an edge, (..., edges); zero elsewhere."""
        jump = np.zeros((*D.shape[:-2], len(edges)))
        if not self.steps_of_loss:
            return jump
        near = 1e-9 * self.grid.widths[self.axis] * np.array([-1.0, 1.0])
        smallest = 1e-7 * float(np.ptp(_along(self.process, self.grid.points(), self.axis)[2]))
        for v in self.points:
            k = int(np.argmin(np.abs(edges - v)))
            _, noise, loss = _along(self.process, self._points(edges[k] + near), self.axis)
            (below, above), (D_below, D_above) = (np.moveaxis(values, -1, 0) for values in (loss, noise))
            if (np.abs(above - below) <= smallest).all():
                continue
            if not np.allclose(D_below, D_above, rtol=1e-4):
                where = place([self.grid.names[self.axis]], np.array([v]))
                raise ValueError(
                    f"the loss and D both jump at {where}: the limit of smooth ones is not unique; "
                    "write one of them as a steep smooth function"
                )
            jump[..., k] = (below - above) / D_above
        return jump

    def _with_tails(self, mass: np.ndarray) -> np.ndarray:
        """The masses with those beyond the last halving, which continue the geometric series."""
        mass = mass.copy()
        for end, (tail, last, before) in zip(self.ends, ((0, 1, 2), (-1, -2, -3)), strict=True):
            if not end:
                continue
            with np.errstate(all="ignore"):
                ratio = np.nan_to_num(mass[..., last] / mass[..., before])
            if (ratio > 0.999).any():
                name, side = self.grid.names[self.axis], "low" if tail == 0 else "high"
                raise ValueError(
                    f"no density: it is not integrable at the {side} end of {name}, where D vanishes and the "
                    "drift does not point inwards strongly enough; mass collects there"
                )
            mass[..., tail] = mass[..., last] * ratio / (1.0 - ratio)
        return mass
