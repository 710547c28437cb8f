"""Where the stationary density of one variable lies, from Φ = ln D − ∫ b/D: p ∝ e^{−Φ}.

Φ is monotonic between the zeros of b − D′, which are all known (:mod:`theory.zeros`). Between them it is
integrated on panels that are graded towards every zero, so that no width is preferred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, NoReturn

import numpy as np
import sympy as sp

from theory.evaluate import lambdified
from theory.intervals import far_out
from theory.langevin import Process
from theory.levels import FAR, Unconfined
from theory.starts import without_kinks
from theory.zeros import all_zeros

#: Depth of Φ, counted from its minimum, at which the density is cut off.
DEPTH = 36.0
#: Beyond the highest barrier, for passage times from everywhere.
ABOVE = 15.0
#: Wells and barriers higher than this above the lowest well are left out of a window for times.
HIGHEST = 300.0
#: The same for a density, whose box holds a well without weight if it has at most so many sharpest widths.
HIGHEST_WELL, WIDEST_WITH_IT = 500.0, 250.0
#: A box wider than this in units of the narrowest well cannot be solved on uniform cells.
WIDEST = 1e5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class LineWindow(NamedTuple):
    """The box of one variable, and the width on which Φ rises by one half from its sharpest well."""

    low: float
    high: float
    width: float


@dataclass(frozen=True)
class _Reach:
    """Φ over one domain: places ascending, Φ there, which of them are zeros of b − D′, the domain's ends."""

    places: np.ndarray
    phi: np.ndarray
    turns: np.ndarray
    ends: tuple[float, float]

    @property
    def is_law(self) -> bool:
        """Whether p can be normalised at the finite ends: p ~ d^(−q) at distance d with q < 1."""
        return all(self._power(end, side) < 1 for end, side in zip(self.ends, (0, 1), strict=True))

    def _power(self, end: float, side: int) -> float:
        if not np.isfinite(end):
            return -np.inf
        near, far = (0, 5) if side == 0 else (-1, -6)
        rise = self.phi[far] - self.phi[near]
        return float(rise / np.log(abs(self.places[far] - end) / abs(self.places[near] - end)))


def _no_law(process: Process) -> NoReturn:
    raise Unconfined(
        f"{process.name} has no stationary law: its drift does not hold the walker for good; a box= with "
        "walls='reflecting' gives the law of the box"
    )


def line_window(process: Process, *, with_barriers: bool) -> LineWindow | None:
    """The box of a process of one variable; for passage times it holds every barrier with a margin.

    Ends where D vanishes or the drift has a pole, and the end 0 of a positive variable, are natural ends of
    the box. None where D vanishes between places with weight, or a formula has no interval bounds. An
    :class:`Unconfined` error says that there is no stationary law, another ValueError that its tails are too
    heavy for a mesh.
    """
    (x,) = process.variables
    b, D = process.drift[0], process.diffusion[0, 0]
    field = b - without_kinks(sp.diff(D, x))
    slope, noise = far_out(-field / D, x), lambdified(D, (x,))
    try:
        turning = _places(field, x)
        edges = _places(D * sp.denom(sp.together(field)), x)
    except NotImplementedError:
        return None
    found = [r for ends in _domains(x, edges, noise) if (r := _reach(slope, turning, ends)) is not None]
    if not all(r.is_law for r in found) and not D.free_symbols:
        _no_law(process)
    if len(found) > 1 or not all(r.is_law for r in found):
        return None
    if not found:
        _no_law(process)
    low, high, width = _cut(found[0], x, with_barriers)
    if high - low > WIDEST * width:
        raise ValueError(
            f"the density reaches from {x}={low:.3g} to {high:.3g} with features of {width:.2g}: too wide "
            "for uniform cells; give box="
        )
    return LineWindow(low, high, width)


def _places(expression: sp.Expr, x: sp.Symbol) -> np.ndarray:
    found = all_zeros((expression,), (x,))
    return np.sort(found.places.ravel())


def _domains(x: sp.Symbol, edges: np.ndarray, noise: Callable) -> list[tuple[float, float]]:
    """Intervals between zeros of D, within the range of the symbol, on which D is positive."""
    low = 0.0 if x.is_nonnegative else -np.inf
    high = 0.0 if x.is_nonpositive else np.inf
    ends = [low, *(e for e in edges if low < e < high), high]
    return [pair for pair in pairwise(ends) if noise(np.array(_inside(*pair))) > 0]


def _inside(low: float, high: float) -> float:
    if np.isfinite([low, high]).all():
        return (low + high) / 2
    if np.isfinite(low):
        return low + (abs(low) or 1.0)
    return high - (abs(high) or 1.0) if np.isfinite(high) else 0.0


def _reach(slope: Callable, turning: np.ndarray, ends: tuple[float, float]) -> _Reach | None:
    """Φ over a domain; None if it falls towards an open end and the walker is not held there."""
    low, high = ends
    inner = turning[(turning > low) & (turning < high)]
    start = inner if len(inner) else np.array([_inside(low, high)])
    pieces = [_outwards(start[0], low)[::-1], start[:1]]
    for a, c in pairwise(start):
        half = (c - a) * np.geomspace(1e-12, 0.5, 60)
        pieces += [a + half, (c - half[:-1])[::-1], np.array([c])]
    pieces.append(_outwards(start[-1], high))
    places = np.unique(np.concatenate(pieces))
    width = np.diff(places)[:, None]
    nodes = places[:-1, None] + width * (_NODES + 1) / 2
    with np.errstate(all="ignore"):
        steps = (slope(nodes) * width / 2 * _WEIGHTS).sum(axis=1)
        inside = np.clip(steps, -1e300, 1e300)
    if np.isnan(inside).any():
        return None
    phi = np.concatenate([[0.0], np.cumsum(inside)])
    # Counted from the first turning place: nothing is lost against the heights far out.
    k = int(np.searchsorted(places, start[0]))
    phi = np.concatenate([-np.cumsum(inside[:k][::-1])[::-1], [0.0], np.cumsum(inside[k:])])
    rising_left, rising_right = phi[0] > phi[1], phi[-1] > phi[-2]
    held = (rising_left or np.isfinite(low)) and (rising_right or np.isfinite(high))
    if not held or (not len(inner) and not np.isfinite([low, high]).any()):
        return None
    return _Reach(places, phi, np.isin(places, inner), ends)


def _outwards(start: float, end: float) -> np.ndarray:
    """Places from ``start`` (left out) to an end, closer at both; to far out for an open end."""
    if np.isfinite(end):
        gap = end - start
        near = np.geomspace(1e-12, 0.5, 60)
        return np.concatenate([start + gap * near, end - gap * near[-2::-1], [end - gap * 1e-13]])
    smallest = 1e-10 * abs(start) if start else 1e-24
    return start + np.sign(end) * np.geomspace(smallest, FAR, 2000)


def _cut(reach: _Reach, x: sp.Symbol, with_barriers: bool) -> LineWindow:
    """The part of a domain where Φ is below the depth, and the width of its sharpest well."""
    places, phi = reach.places, reach.phi
    lowest = phi.min()
    depth = DEPTH
    if with_barriers and reach.turns.any():
        known = phi[reach.turns] - lowest
        depth = max(depth, float(known[known < HIGHEST].max(initial=0.0)) + ABOVE)
    low_enough = np.flatnonzero(phi <= lowest + depth)
    first, last = int(low_enough[0]), int(low_enough[-1])
    open_ends = [not np.isfinite(end) for end in reach.ends]
    for k, is_open, end in ((first, open_ends[0], 0), (last, open_ends[1], len(phi) - 1)):
        if is_open and k == end:
            raise Unconfined(
                f"nothing confines {x}: its density does not fall off towards {x}={places[end]:.1g}, no "
                "stationary law exists; a box= with walls='reflecting' gives that of the box"
            )
    width = _sharpest(reach, lowest + DEPTH) or float(places[last] - places[first]) / 20
    if not with_barriers:
        first, last = _with_high_wells(reach, first, last, width)
    low, high = places[max(first - 1, 0)], places[min(last + 1, len(phi) - 1)]
    # A natural end is an end of the box, where the density comes near it.
    near = 1e-3 * (high - low)
    low = reach.ends[0] if low - reach.ends[0] < near else low
    high = reach.ends[1] if reach.ends[1] - high < near else high
    return LineWindow(float(low), float(high), width)


def _with_high_wells(reach: _Reach, first: int, last: int, width: float) -> tuple[int, int]:
    """The part widened to hold all of wells that hold next to no weight, as far as few cells resolve them."""
    places, phi = reach.places, reach.phi
    level = phi.min() + HIGHEST_WELL
    sharpest = min(width, _sharpest(reach, level) or width)
    for k in sorted(_wells(reach, level), key=lambda k: phi[k]):
        shallow = np.flatnonzero(phi <= phi[k] + DEPTH)
        a, b = min(first, int(shallow[0])), max(last, int(shallow[-1]))
        if phi[a:b].max() < level and places[b] - places[a] < WIDEST_WITH_IT * sharpest:
            first, last = a, b
    return first, last


def _wells(reach: _Reach, level: float) -> list[int]:
    """Minima of Φ below a level, ends left out."""
    phi, turns = reach.phi, np.flatnonzero(reach.turns)
    inner = [int(k) for k in turns if 0 < k < len(phi) - 1 and phi[k] < level]
    return [k for k in inner if phi[k] <= phi[k - 1] and phi[k] <= phi[k + 1]]


def _sharpest(reach: _Reach, level: float) -> float | None:
    """The width of the sharpest well below a level."""
    widths = [_rise(reach.places, reach.phi, k) for k in _wells(reach, level)]
    return min(widths, default=None)


def _rise(places: np.ndarray, phi: np.ndarray, k: int) -> float:
    """How far from a well Φ has risen by one half: a standard deviation."""
    after = k + int(np.argmax(phi[k:] > phi[k] + 0.5))
    before = k - int(np.argmax(phi[k::-1] > phi[k] + 0.5))
    gaps = [abs(places[m] - places[k]) for m in (after, before) if m != k]
    return float(min(gaps, default=np.inf))
