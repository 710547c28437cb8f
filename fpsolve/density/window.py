"""Default box and cell counts for a stationary density: from the reduced theory, or around the minima."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

from fpsolve.density.chain import suits_chain
from fpsolve.density.choices import Scheme
from fpsolve.density.grid import Box, Grid, drift_values, kept_axes, lowest
from fpsolve.density.operator import fokker_planck_matrix, null_vector
from fpsolve.density.upwind import lacks_noise
from fpsolve.symbols.functions import numpy_function
from theory.landscape import exact
from theory.langevin import FiniteStep, Langevin, Process
from theory.valley import elimination
from theory.valley.reduced import Reduced

#: Cells per standard deviation along a slow variable, and cells across a fast one (half, if mirrored).
SLOW_CELLS_PER_WIDTH = 16
FAST_CELLS = 176
#: Cells per axis where no reduced density says better, by dimension.
DEFAULT_CELLS = {1: 2000, 2: 200, 3: 30}
#: The same for differences of order five, whose matrices are fuller.
DEFAULT_CELLS_UPWIND = {2: 150, 3: 24}
#: Half-width of the box along a fast variable, in standard deviations.
FAST_WIDTHS = 6.0
#: Mass of a tail of a coarse density that is left out, by dimension; upwind densities have tails of any sign.
EMPTY_TAIL, EMPTY_TAIL_UPWIND = {1: 1e-12, 2: 1e-12, 3: 1e-9}, 1e-9
#: Half-width in standard deviations of the box around the minima that a search starts from.
DEVIATIONS = {1: 8.0, 2: 8.0, 3: 6.2}


class Window(NamedTuple):
    """A box and the cells per axis of the part that is solved (half of a mirrored axis)."""

    box: Box
    shape: tuple[int, ...]


def default_shape(process: Process, mirrored: tuple[str, ...] = ()) -> tuple[int, ...]:
    """``DEFAULT_CELLS`` of every axis, half of them on a mirrored one."""
    n = (DEFAULT_CELLS_UPWIND if lacks_noise(process) else DEFAULT_CELLS)[len(process.variables)]
    return tuple(n // 2 if v in mirrored else n for v in process.names)


def starting_window(process: Process, mirrored: tuple[str, ...]) -> Window:
    """Box and cell counts for a process without a given box.

    A valley with one slow variable gets them from its reduced density (adiabatic elimination, order 2).
    Anything else starts from the local covariance at the minima, and a coarse density decides where mass is.
    A ValueError says that no minimum is found, or that the density does not settle in a finite box.
    """
    return _valley_window(process, mirrored) or _search_window(process, mirrored)


def _valley_window(process: Process, mirrored: tuple[str, ...]) -> Window | None:
    """The window of a valley from its reduced density, or None where that does not apply."""
    if isinstance(process, FiniteStep):
        return _finite_step_window(process, mirrored)
    if not isinstance(process, Langevin) or len(process.landscape.slow) != 1 or not process.landscape.fast:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warnings concern accuracy that a window does not need
            reduced = elimination.eliminate(process, order=2)
            low, high = reduced.support
            width = reduced.moments()[f"std(|{reduced.slow_variable}|)"]
    except (NotImplementedError, ValueError):
        return None
    slow = str(reduced.slow_variable)
    if slow in mirrored:
        high = max(abs(low), abs(high))
        low = _inner_edge(reduced, high)
    line = np.linspace(low, high, 401)
    variances = dict(zip(map(str, reduced.fast), reduced.conditional_variance, strict=True))
    box: Box = {}
    shape: list[int] = []
    for name in process.names:
        if name == slow:
            box[name] = (low, high) if low > 0 or slow not in mirrored else (-high, high)
            count = int(np.clip((high - low) * SLOW_CELLS_PER_WIDTH / width, 128, 640))
            shape.append(2 * (count // 2))
        else:
            values = numpy_function(variances[name], reduced.slow)(line)
            reach = FAST_WIDTHS * float(np.sqrt(np.max(values)))
            box[name] = (-reach, reach)
            shape.append(FAST_CELLS if name in mirrored else 2 * FAST_CELLS)
    if len(shape) == 3:
        shape = [min(n, 32) for n in shape]
    return Window(box, tuple(shape))


def _finite_step_window(process: FiniteStep, mirrored: tuple[str, ...]) -> Window | None:
    """The window that holds the valley with its noise and with 1 + ηλ times as much."""
    valley = process.process
    near = _valley_window(valley, mirrored)
    if near is None or not isinstance(valley, Langevin):
        return None
    stiffest = max(c.eigenvalues[-1] for c in valley.landscape.critical_points())
    wider = replace(valley, noise=valley.noise.scaled(1 + process.step * exact(stiffest)))
    far = _valley_window(wider, mirrored) or near
    box = {v: _around(near.box[v], far.box[v]) for v in near.box}
    return Window(box, tuple(map(max, near.shape, far.shape)))


def _inner_edge(reduced: Reduced, high: float) -> float:
    """0, or the point below which the density of |x| is negligible (two wells far apart)."""
    line = np.linspace(0.0, high, 2001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = reduced.density(line)
    if p[0] > 1e-14 * p.max():
        return 0.0
    edge = float(line[np.flatnonzero(p > 1e-15 * p.max())[0]])
    return edge if edge > 0.05 * high else 0.0


def _search_window(process: Process, mirrored: tuple[str, ...]) -> Window:
    """Start at the minima with local covariances; let a coarse density widen and narrow the box."""
    dimension = len(process.variables)
    box, hull = _covariance_box(process, _minima(process), DEVIATIONS[dimension]), wells_hull(process)
    widest = 1e3 * max(high - low for low, high in box.values())
    if lacks_noise(process):  # the exponential scheme adds noise where there is none: the box would only grow
        scheme, cells, empty = "upwind", {2: 120, 3: 18}[dimension], EMPTY_TAIL_UPWIND
    else:
        scheme, cells, empty = "exponential", {1: 400, 2: 80, 3: 20}[dimension], EMPTY_TAIL[dimension]
    for _ in range(30):
        grid = Grid.on(box, (cells,) * dimension)
        chain: Scheme | None = "chain" if suits_chain(process, grid) else None
        matrix = fokker_planck_matrix(process, grid, [chain or cast(Scheme, scheme)] * dimension)
        try:
            mode = lowest(process, grid.points()) if scheme == "upwind" else None
            density = np.abs(null_vector(matrix, grid, mode=mode).density)
        except RuntimeError:
            break  # wells that exchange nothing on cells this wide: keep them all
        fitted = {
            v: _around(hull[v], _fitted(density, grid, axis, empty)) for axis, v in enumerate(grid.names)
        }
        settled = all(np.allclose(fitted[v], box[v], atol=0.15 * (box[v][1] - box[v][0])) for v in box)
        for v in mirrored:
            reach = max(map(abs, fitted[v]))
            fitted[v] = -reach, reach
        box = fitted
        if max(high - low for low, high in box.values()) > widest:
            raise ValueError(
                "the density does not settle in a finite box: the loss does not confine it; give box="
            )
        if settled:
            break
    return Window(box, default_shape(process, mirrored))


def _minima(process: Process) -> np.ndarray:
    """Minima of the loss, shape (k, N); the origin for a process without a landscape."""
    if isinstance(process, FiniteStep):
        process = process.process
    if process.landscape is None:
        return np.zeros((1, len(process.variables)))
    points = [list(c.point.values()) for c in process.landscape.critical_points() if c.kind == "minimum"]
    if not points:
        raise ValueError(f"no minimum found for the loss {process.landscape.loss}; give box=")
    return np.array(points)


def _around(inner: tuple[float, float], outer: tuple[float, float]) -> tuple[float, float]:
    """The smallest interval that holds both."""
    return min(inner[0], outer[0]), max(inner[1], outer[1])


def wells_hull(process: Process) -> Box:
    """What an automatic box holds at least: six standard deviations around each of several minima.

    A high well may hold next to no mass, but times and rates depend on it.
    """
    minima = _minima(process)
    return _covariance_box(process, minima, 6.0 if len(minima) > 1 else 0.0)


def _covariance_box(process: Process, minima: np.ndarray, deviations: float) -> Box:
    """So many standard deviations around every minimum, from the linearised process."""
    variances = [np.diag(_local_covariance(process, point)) for point in minima]
    widths = deviations * np.sqrt(np.maximum(variances, 1e-12))
    low, high = (minima - widths).min(axis=0), (minima + widths).max(axis=0)
    return {v: (float(a), float(b)) for v, a, b in zip(process.names, low, high, strict=True)}


def _local_covariance(process: Process, point: np.ndarray) -> np.ndarray:
    """Σ with A Σ + Σ Aᵀ = 2D for the drift's Jacobian −A at a point; unit where it is unstable."""
    step = 1e-5
    ahead, behind = (
        np.stack([drift_values(process, point + sign * e) for e in step * np.eye(len(point))], axis=1)
        for sign in (1, -1)
    )
    jacobian = (ahead - behind) / (2 * step)
    if np.max(np.linalg.eigvals(jacobian).real) >= 0:
        return np.eye(len(point)) / 16.0
    return solve_continuous_lyapunov(jacobian, -2.0 * process.diffusion_values(point[None])[0])


def _fitted(density: np.ndarray, grid: Grid, axis: int, empty: float) -> tuple[float, float]:
    """The interval outside of which a coarse marginal holds less than ``empty``, or a wider one."""
    marginal = kept_axes(density, axis) / density.sum()
    h, low, high = grid.widths[axis], grid.low[axis], grid.high[axis]
    below, above = (int(np.searchsorted(np.cumsum(m), empty)) for m in (marginal, marginal[::-1]))
    margin = 0.3 * (high - low)
    start = low - margin if below < 1 else low + (below - 1) * h
    stop = high + margin if above < 1 else high - (above - 1) * h
    return start, stop
