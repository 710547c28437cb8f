"""Default box and cell counts for a stationary density: from the reduced theory, or around the minima."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from scipy.linalg import matrix_balance, solve_continuous_lyapunov

from fpsolve.density.chain import suits_chain
from fpsolve.density.choices import Scheme
from fpsolve.density.flight import why_it_flies
from fpsolve.density.grid import Box, Grid, drift_values, kept_axes, lowest
from fpsolve.density.line import ABOVE, HIGHEST, HIGHEST_WELL, line_window
from fpsolve.density.operator import fokker_planck_matrix, null_vector
from fpsolve.density.upwind import lacks_noise
from fpsolve.symbols.functions import numpy_function
from theory.evaluate import values_at
from theory.landscape import exact
from theory.langevin import FiniteStep, Langevin, Process
from theory.levels import Unconfined, sublevel_box
from theory.starts import known_zeros, without_kinks
from theory.valley import elimination
from theory.valley.reduced import Reduced

#: Cells per standard deviation along a slow variable, and cells across a fast one (half, if mirrored).
SLOW_CELLS_PER_WIDTH = 16
FAST_CELLS = 176
#: Depth of a level set that holds the density, in D.
LEVEL = {1: 36.0, 2: 36.0, 3: 24.0}
#: Cells per standard deviation of the sharpest well.
CELLS_PER_WIDTH = {1: 8, 2: 3, 3: 1}
#: Largest number of cells of an automatic mesh, by dimension.
MAX_CELLS = {1: 100_000, 2: 240_000, 3: 60_000}
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


def starting_window(process: Process, mirrored: tuple[str, ...], *, with_barriers: bool = False) -> Window:
    """Box and cell counts for a process without a given box.

    In one variable the box comes from the potential Φ of the density (:mod:`fpsolve.density.line`), for
    isotropic noise from the level set of the loss, for a valley with one slow variable from its reduced
    density (adiabatic elimination, order 2). Anything else starts from the local covariance at the stable
    points, and a coarse density decides where mass is. With ``with_barriers`` the box holds every well and
    saddle with a margin, for passage times from everywhere. A ValueError says that there is no stationary law
    or no stable point, or that the density does not settle in a finite box.
    """
    if len(process.variables) == 1:
        line = line_window(process, with_barriers=with_barriers)
        if line is not None:
            box = {process.names[0]: (line.low, line.high)}
            return Window(_symmetric(box, mirrored), _cells(process, box, [line.width], mirrored))
    valley = _valley_window(process, mirrored)
    return valley or _level_window(process, mirrored, with_barriers) or _search_window(process, mirrored)


def _symmetric(box: Box, mirrored: tuple[str, ...]) -> Box:
    """The box, wide enough to be its own image for mirrored variables."""
    reach = {v: max(map(abs, box[v])) for v in mirrored}
    return {v: (-reach[v], reach[v]) if v in mirrored else ends for v, ends in box.items()}


def _cells(process: Process, box: Box, widths: Sequence[float], mirrored: tuple[str, ...]) -> tuple[int, ...]:
    """Cells per axis that resolve the sharpest well, as far as the largest mesh allows."""
    dimension = len(box)
    wanted = [
        max(n, CELLS_PER_WIDTH[dimension] * (high - low) / w * n / DEFAULT_CELLS[dimension])
        for n, (low, high), w in zip(default_shape(process, mirrored), box.values(), widths, strict=True)
    ]
    excess = float(np.prod(wanted)) / MAX_CELLS[dimension]
    if excess > 1.0:
        wanted = [n / excess ** (1 / dimension) for n in wanted]
    whole = [2 if v in mirrored else 1 for v in process.names]
    cell = [(high - low) / n / k for n, k, (low, high) in zip(wanted, whole, box.values(), strict=True)]
    coarse = [k for k, (h, w) in enumerate(zip(cell, widths, strict=True)) if h > w]
    if coarse:
        k = coarse[0]
        warnings.warn(
            f"a well is only {widths[k]:.2g} wide in {process.names[k]}, and a cell of the largest mesh "
            f"{cell[k]:.2g}: the density is not resolved; give a smaller box=",
            stacklevel=4,
        )
    return tuple(2 * int(n / 2) for n in wanted)


def _level_window(process: Process, mirrored: tuple[str, ...], with_barriers: bool) -> Window | None:
    """The window of isotropic noise from {L − L_min ≤ depth · D}; None for other noise."""
    landscape, D = process.landscape, process.temperature
    if landscape is None or D is None:
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        points = landscape.critical_points()
    minima = [p for p in points if p.kind == "minimum"]
    if not minima:
        raise ValueError(f"no minimum found for the loss {landscape.loss}; give box=")
    lowest = min(p.loss for p in minima)
    depth = LEVEL[len(process.variables)]
    if with_barriers:
        heights = [(p.loss - lowest) / D for p in points]
        depth = max(depth, max(h for h in heights if h < HIGHEST) + ABOVE)
    level = lowest + depth * D
    inside = np.array([list(p.point.values()) for p in minima if p.loss <= level])
    try:
        low, high = sublevel_box(landscape.loss, process.variables, level, inside)
    except NotImplementedError:
        return None
    box = _symmetric(
        dict(zip(process.names, zip(low.tolist(), high.tolist(), strict=True), strict=True)), mirrored
    )
    if said:  # a search that does not end in all space may end in the box, which holds all that is low
        found = [list(p.point.values()) for p in landscape.critical_points(box) if p.loss <= level]
        inside = np.array(found) if found else inside
    curvatures = np.array(
        [np.diag(values_at(landscape.hessian, process.variables, p[None])[0]) for p in inside]
    )
    with np.errstate(all="ignore"):
        sharpest = np.sqrt(D / np.where(np.isfinite(curvatures), curvatures, 0.0).max(axis=0))
    spans = high - low
    widths = np.where(np.isfinite(sharpest), np.minimum(sharpest, spans), spans)
    return Window(box, _cells(process, box, widths.tolist(), mirrored))


def why_unconfined(process: Process, box: Box | None) -> str:
    """Why the process has no stationary law; empty if it has one, or that is not known.

    Seen from a box with far walls, where the paths of the drift are to tell it.
    """
    try:
        if len(process.variables) == 1:
            line_window(process, with_barriers=False)
        elif process.landscape is not None and process.temperature is not None:
            _level_window(process, (), False)
        elif box is not None:
            return why_it_flies(process, box, natural_range(process))
    except Unconfined as error:
        return str(error)
    except ValueError:
        return ""
    return ""


@lru_cache(maxsize=64)
def natural_range(process: Process) -> dict[str, tuple[float, float]]:
    """The range of every variable: from 0 of positive ones, and where D vanishes at 0 and b points up."""
    ends = {}
    for k, v in enumerate(process.variables):
        low = 0.0 if v.is_nonnegative else -np.inf
        noise = process.diffusion[k, k]
        if low < 0 and v in noise.free_symbols and noise.subs(v, 0) == 0:
            stable = _stable_points(process)
            edge = np.where(np.arange(stable.shape[1]) == k, 0.0, stable)
            inwards = drift_values(process, edge)[:, k]
            edge[:, k] = 1e-12 * stable[:, k]  # x ln x has a limit at 0, but no value
            inwards = np.where(np.isfinite(inwards), inwards, drift_values(process, edge)[:, k])
            if (stable[:, k] > 0).all() and (inwards >= 0).all():
                low = 0.0
        ends[str(v)] = low, 0.0 if v.is_nonpositive else np.inf
    return ends


def within_range(process: Process, box: Box) -> Box:
    """A box cut at the natural ends of its variables."""
    ends = natural_range(process)
    return {v: (max(low, ends[v][0]), min(high, ends[v][1])) for v, (low, high) in box.items()}


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
    """Start at the stable points with local covariances; let a coarse density widen and narrow the box."""
    stable = _stable_points(process)
    box = within_range(process, _covariance_box(process, stable))
    if is_linear(process):
        return Window(_symmetric(box, mirrored), default_shape(process, mirrored))
    if reason := why_it_flies(process, box, natural_range(process)):
        raise ValueError(f"no stationary law: {reason}; give box= for a metastable density")
    hull = within_range(process, wells_hull(process))
    widest = 1e3 * max(high - low for low, high in box.values())
    dimension = len(process.variables)
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
            state = null_vector(matrix, grid, mode=mode)
        except RuntimeError:
            break  # wells that exchange nothing on cells this wide: keep them all
        density = np.abs(state.density)
        if scheme == "upwind":  # no tail can be told from ripples
            empty = max(EMPTY_TAIL_UPWIND, state.negative_mass)
        fitted = {
            v: _around(hull[v], _fitted(density, grid, axis, empty)) for axis, v in enumerate(grid.names)
        }
        settled = all(np.allclose(fitted[v], box[v], atol=0.15 * (box[v][1] - box[v][0])) for v in box)
        for v in mirrored:
            reach = max(map(abs, fitted[v]))
            fitted[v] = -reach, reach
        box = within_range(process, fitted)
        if max(high - low for low, high in box.values()) > widest:
            raise ValueError(
                "the density does not settle in a finite box: the loss does not confine it; give box="
            )
        if settled:
            break
    return Window(box, default_shape(process, mirrored))


def _stable_points(process: Process) -> np.ndarray:
    """Minima of the loss, or fixed points of the drift, the stable ones if there are any, shape (k, N)."""
    if isinstance(process, FiniteStep):
        process = process.process
    if process.landscape is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever makes the window says what is not known
            found = process.landscape.critical_points()
        minima = [c for c in found if c.kind == "minimum"]
        if not minima:
            raise ValueError(f"no minimum found for the loss {process.landscape.loss}; give box=")
        # Far along a curved valley rounding makes minima, higher than any law reaches.
        top = minima[0].loss + HIGHEST_WELL * process.temperature if process.temperature else np.inf
        return np.array([list(c.point.values()) for c in minima if c.loss <= top])
    fixed = known_zeros(tuple(process.drift), process.variables)
    singular, simple = fixed.singular, fixed.simple
    if simple.any():  # rounding in the coefficients makes degenerate zeros far away, where terms cancel
        singular = singular[np.abs(singular).max(axis=1, initial=0.0) < 1e6 * np.abs(simple).max()]
    places = np.concatenate([simple, singular])
    if not len(places):
        raise ValueError("the drift vanishes nowhere: no stable point is known; give box=")
    slopes = _jacobians(process, places)
    usable = np.isfinite(slopes).all(axis=(1, 2))  # not at an end where the drift is steep, as x ln x at 0
    if not usable.any():
        return places
    places, slopes = places[usable], slopes[usable]
    growth = np.linalg.eigvals(slopes).real.max(axis=1)
    return places[growth < 0] if (growth < 0).any() else places


def _jacobians(process: Process, points: np.ndarray) -> np.ndarray:
    """∂b/∂X at points (k, N), shape (k, N, N); kinks left out."""
    slopes = process.drift.jacobian(list(process.variables))
    return values_at(without_kinks(slopes), process.variables, points)


def is_linear(process: Process) -> bool:
    """Whether the density is a Gaussian, whose box is known: linear drift, constant D."""
    free = set(process.variables)
    slopes = process.drift.jacobian(list(process.variables))
    return not (slopes.free_symbols | process.diffusion.free_symbols) & free


def _around(inner: tuple[float, float], outer: tuple[float, float]) -> tuple[float, float]:
    """The smallest interval that holds both."""
    return min(inner[0], outer[0]), max(inner[1], outer[1])


def wells_hull(process: Process) -> Box:
    """What an automatic box holds at least: a share of the way out from each of several wells.

    A high well may hold next to no mass, but times and rates depend on it.
    """
    stable = _stable_points(process)
    share = 0.75 if process.landscape is not None else 0.45
    return _covariance_box(process, stable, share if len(stable) > 1 else 0.0)


def _covariance_box(process: Process, stable: np.ndarray, share: float = 1.0) -> Box:
    """Several standard deviations around every stable point, or as far as the drift lets the noise carry."""
    reach = share * np.array([_reach(process, point) for point in stable])
    low, high = (stable - reach).min(axis=0), (stable + reach).max(axis=0)
    return {v: (float(a), float(b)) for v, a, b in zip(process.names, low, high, strict=True)}


def _reach(process: Process, point: np.ndarray) -> np.ndarray:
    """Half-widths of a box around one point: from A Σ + Σ Aᵀ = 2D for the Jacobian −A, if it is stable."""
    jacobian = _jacobians(process, point[None])[0]
    D = process.diffusion_values(point[None])[0]
    if not np.isfinite(jacobian).all():
        return np.full(len(point), _return_distance(process, point))
    balanced, units = matrix_balance(jacobian, permute=False, separate=True)
    units = units[0]  # in which the rates are alike
    if np.linalg.eigvals(balanced).real.max() < -1e-9 * np.abs(balanced).max():
        noise = D / np.outer(units, units)
        variances = units**2 * np.diag(solve_continuous_lyapunov(balanced, -2.0 * noise))
        if (variances > 0).all():
            return DEVIATIONS[len(point)] * np.sqrt(variances)
    return np.full(len(point), _return_distance(process, point))


def _return_distance(process: Process, point: np.ndarray) -> float:
    """The distance r beyond which −r b·n > 40 n·D·n in every direction n: the drift outweighs the noise."""
    size = len(point)
    ways = np.concatenate([np.eye(size), -np.eye(size), np.random.default_rng(3).normal(size=(40, size))])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    distances = np.geomspace(1e-12, 1e12, 481)
    places = point + distances[:, None, None] * ways
    with np.errstate(all="ignore"):
        inwards = -np.einsum("rki,ki->rk", drift_values(process, places), ways) * distances[:, None]
        D = process.diffusion_values(places.reshape(-1, size)).reshape(*places.shape, size)
        held = (inwards > 40 * np.einsum("rkij,ki,kj->rk", D, ways, ways)).all(axis=1)
    failing = np.flatnonzero(~held & np.isfinite(inwards).all(axis=1))
    if failing.size and failing[-1] + 1 < len(distances):
        return float(distances[failing[-1] + 1])
    return 1.0 if not point.any() else float(np.abs(point).max())


def _fitted(density: np.ndarray, grid: Grid, axis: int, empty: float) -> tuple[float, float]:
    """The interval outside of which a coarse marginal holds less than ``empty``, or a wider one."""
    marginal = kept_axes(density, axis) / density.sum()
    h, low, high = grid.widths[axis], grid.low[axis], grid.high[axis]
    below, above = (int(np.searchsorted(np.cumsum(m), empty)) for m in (marginal, marginal[::-1]))
    margin = 0.3 * (high - low)
    start = low - margin if below < 1 else low + (below - 1) * h
    stop = high + margin if above < 1 else high - (above - 1) * h
    return start, stop
