"""Where the coefficients of a process are smooth: places at which elements of polynomials must end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import sympy as sp

from fpsolve.density.grid import Box, place
from fpsolve.symbols.functions import numpy_function
from theory.breakpoints import borders, denominators, switches
from theory.langevin import Process
from theory.zeros import all_zeros

#: Points at which slanted borders, and values beside aligned ones, are looked at.
SAMPLES = 400


class Pieces(NamedTuple):
    """Ends of elements by variable, and whether D P is to be solved for instead of P."""

    points: dict[str, tuple[float, ...]]
    itos: bool


def smooth_pieces(process: Process, box: Box) -> Pieces:
    """The places at which loss, drift and D jump or bend.

    A ValueError where elements cannot follow them: the loss jumps, so that P does; D jumps in several
    variables; or a border runs slanted through the box.
    """
    found = switches(_expressions(process))
    points, _ = borders((*found.jumps, *found.bends), box)
    sample = _sample(process, box)
    for switch in borders(found.jumps, box).oblique:
        sides = _across(process, switch, sample)
        if sides is not None and any(not _alike(*values) for values in _sides(process, sides)):
            raise ValueError(
                f"coefficients jump where {switch} = 0, along which no elements end; use "
                "method='finite-volume'"
            )
    jumps = {v: [w for w in points[v] if _jumps(process, sample, axis, w)] for axis, v in enumerate(box)}
    where = [f"{v} = {w:.4g}" for v, found_there in jumps.items() for w in found_there]
    if where and len(box) > 1:
        raise ValueError(f"D jumps at {where[0]}, and P with it; use method='finite-volume'")
    return Pieces(points, bool(where))


def _expressions(process: Process) -> tuple[sp.Basic, ...]:
    """Loss, drift and D."""
    loss = () if process.landscape is None else (process.landscape.loss,)
    return (*loss, *process.drift, *process.diffusion)


def _jumps(process: Process, sample: np.ndarray, axis: int, at: float) -> bool:
    """Whether D jumps at a place on an axis; a ValueError if the loss does."""
    step = 1e-7 * float(np.ptp(sample[:, axis]))
    below, above = sample.copy(), sample.copy()
    below[:, axis], above[:, axis] = at - step, at + step
    if process.landscape is not None:
        loss = numpy_function(process.landscape.loss, process.variables)
        if not _alike(loss(*below.T), loss(*above.T), float(np.ptp(loss(*sample.T)))):
            raise ValueError(
                f"the loss jumps at {process.names[axis]} = {at:.4g}, and P with it; use "
                "method='finite-volume'"
            )
    D = process.diffusion_values
    return not _alike(D(below), D(above), float(np.abs(D(sample)).max()))


def _alike(a: np.ndarray, b: np.ndarray, scale: float = 0.0) -> bool:
    """Equal but for what a smooth function changes over a ten-millionth of the box."""
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-5 * max(1e-300, scale, float(np.abs(a).max()))))


def refuse_unfit(process: Process, box: Box) -> None:
    """ValueError where drift or D is infinite or not real inside the box, or D is no covariance."""
    sample = _sample(process, box)
    usual = _size(process, sample)
    with np.errstate(all="ignore"):
        D = process.diffusion_values(sample)
    if not np.isfinite(usual).all():
        where = place(process.names, sample[~np.isfinite(usual)][0])
        raise ValueError(f"drift or D is not finite and real at {where}; choose a box that avoids it")
    lowest = np.linalg.eigvalsh(D)[:, 0]
    if (lowest < -1e-9 * np.abs(D).max(axis=(1, 2))).any():
        where = place(process.names, sample[int(np.argmin(lowest))])
        raise ValueError(
            f"D is not positive semidefinite: its lowest eigenvalue is {lowest.min():.3g} at {where}"
        )
    points, oblique = borders(denominators((*process.drift, *process.diffusion)), box)
    beside = [(f"{v} = {w:.4g}", _moved(sample, k, w)) for k, v in enumerate(box) for w in points[v]]
    for suspect in oblique:
        if (sides := _across(process, suspect, sample)) is not None:
            beside.append((f"{suspect} = 0", sides))
    for where, places in beside:
        size = _size(process, places)
        if not np.isfinite(size).all() or np.median(size) > 1e4 * np.median(usual):
            raise ValueError(f"drift or D is not finite at {where}; choose a box that avoids it")


def refuse_collapse(process: Process, box: Box) -> None:
    """ValueError where the loss falls to −∞ inside the box so fast that exp(−L/D) has no integral."""
    if process.landscape is None:
        return
    loss = process.landscape.loss
    sample, value = _sample(process, box), numpy_function(loss, process.variables)
    points, _ = borders(denominators((loss,)), box)
    for axis, name in enumerate(box):
        for v in points[name]:
            for side in (-1.0, 1.0):
                far, near = (_moved(sample, axis, v, side * step) for step in (1e-6, 1e-9))
                noise = process.diffusion_values(far)[:, axis, axis]
                with np.errstate(all="ignore"):
                    growth = (value(*far.T) - value(*near.T)) / noise
                # A thousand times closer to the pole P is larger by more than a thousand.
                if (growth > np.log(1e3)).any():
                    raise ValueError(
                        f"no density: the loss falls to -infinity at {name} = {v:.4g}, where exp(-L/D) has "
                        "no integral; choose a box that avoids it"
                    )


def uncrossed(process: Process, low: float, high: float) -> list[float]:
    """Places between two in one variable where D and the drift vanish together: no path crosses them."""
    if len(process.variables) > 1 or not (D := process.diffusion[0, 0]).free_symbols:
        return []
    try:
        found = all_zeros((D,), process.variables)
    except NotImplementedError:
        return []
    drift = numpy_function(list(process.drift), process.variables)
    inside = sorted(float(v) for v in found.places.ravel() if low < v < high)
    scale = np.abs(drift(np.linspace(low, high, SAMPLES))).max()
    return [v for v in inside if np.abs(drift(np.array([v]))).max() <= 1e-9 * scale]


def _sample(process: Process, box: Box) -> np.ndarray:
    """Random points of the box, shape (SAMPLES, N), the same at every call."""
    low, high = np.array([box[v] for v in process.names]).T
    return low + (high - low) * np.random.default_rng(3).random((SAMPLES, len(box)))


def _moved(sample: np.ndarray, axis: int, at: float, aside: float = 1e-9) -> np.ndarray:
    """The points, moved beside a place on an axis, by a share of their extent."""
    moved = sample.copy()
    moved[:, axis] = at + aside * np.ptp(sample[:, axis])
    return moved


def _size(process: Process, points: np.ndarray) -> np.ndarray:
    """|b| + |D| at points (k, N)."""
    drift = numpy_function(list(process.drift), process.variables)(*points.T)
    with np.errstate(all="ignore"):
        D = process.diffusion_values(points)
    return np.abs(drift).sum(axis=0) + np.abs(D).sum(axis=(1, 2))


def _sides(process: Process, points: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Drift, D and loss at two points, each as a pair."""
    drift = numpy_function(list(process.drift), process.variables)(*points.T).T
    values = [drift, process.diffusion_values(points)]
    if process.landscape is not None:
        values.append(numpy_function(process.landscape.loss, process.variables)(*points.T))
    return [(v[0], v[1]) for v in values]


def _across(process: Process, switch: sp.Expr, sample: np.ndarray) -> np.ndarray | None:
    """Two points on both sides of a zero of a switch, by bisection; None if the sample shows no zero."""
    function = numpy_function(switch, process.variables)
    values = function(*sample.T)
    below, above = sample[int(np.argmin(values))], sample[int(np.argmax(values))]
    if not values.min() < 0 < values.max():
        return None
    for _ in range(40):
        middle = (below + above) / 2
        below, above = (middle, above) if float(function(*middle)) < 0 else (below, middle)
    return np.array([below, above])
