"""Zeros of a vector field: all of them in up to three variables, by a search from many starts in more.

In up to three variables space is cut into boxes until each is proved to hold one zero or none
(:mod:`theory.zeros`). Where that does not end, or a formula has no interval bounds, Newton's method starts
from many places on every scale, and nothing proves that it misses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.zeros import Zeros, all_zeros, cancels

Field: TypeAlias = Sequence[sp.Expr]
Variables: TypeAlias = Sequence[sp.Symbol]
_Formula = TypeVar("_Formula", sp.Expr, sp.Matrix)
#: More variables than this are searched from many starts.
MOST_CUT = 3
#: Points that a search from many starts may add.
MOST_ADDED = 100
#: Starts of a search.
STARTS = 200


def without_kinks(slopes: _Formula) -> _Formula:
    """Derivatives, one or a matrix of them, away from kinks."""
    return slopes.replace(sp.DiracDelta, lambda *_: sp.Integer(0))


def known_zeros(field: Field, variables: Variables, box=None, starts: int = STARTS) -> Zeros:
    """The zeros of N expressions in N variables, in a box or in all space; ``complete`` if they are all."""
    found: Zeros | None = None
    if len(variables) <= MOST_CUT:
        try:
            found = all_zeros(field, variables, box)
        except NotImplementedError:
            found = None
    if found is None or not found.complete:
        ends = None if box is None else tuple(box[str(v)] for v in variables)
        found = _joined(found, *from_many_starts(field, variables, ends, starts))
    return found


def _joined(found: Zeros | None, more: np.ndarray, settled: bool) -> Zeros:
    """The zeros found by cutting, and those from many starts that are not among them."""
    if found is None:
        return Zeros(more, np.empty((0, more.shape[1])), np.empty((0, 2, more.shape[1])), False, settled)
    known = found.places
    new = [p for p in more if all(np.abs(p - q).max() > 1e-6 * np.abs(q).max() for q in known)]
    inside = [any(((p >= h[0]) & (p <= h[1])).all() for h in found.hulls) for p in new]
    extra = [p for p, is_inside in zip(new, inside, strict=True) if not is_inside][:MOST_ADDED]
    return replace(found, simple=np.concatenate([found.simple, *(p[None] for p in extra)]))


def from_many_starts(field: Field, variables: Variables, ends, starts: int) -> tuple[np.ndarray, bool]:
    """Zeros of a field by Newton's method from random starts on every scale, shape (k, N).

    And whether the later half of the starts came to none that the earlier half had not found.
    """
    begun, sizes = _start_points(field, variables, ends, starts)
    halves = [_converged(field, variables, begun[h], sizes[h]) for h in np.array_split(np.arange(starts), 2)]
    points, late = np.concatenate(halves), np.repeat([False, True], [len(half) for half in halves])
    if ends is not None:
        low, high = np.array(ends).T
        inside = ((points >= low) & (points <= high)).all(axis=1)
        points, late = points[inside], late[inside]
    kept: list[np.ndarray] = []
    scale = max(np.abs(points).max(initial=0.0), sizes.min(initial=np.inf))
    settled = True
    for point, is_late in zip(points, late, strict=True):
        if all(np.linalg.norm(point - q) > 1e-5 * (np.linalg.norm(q) + 1e-4 * scale) for q in kept):
            kept.append(np.where(np.abs(point) < 1e-12 * scale, 0.0, point))
            settled &= not is_late
    return np.reshape(kept, (len(kept), points.shape[1])), settled


def _start_points(field: Field, variables: Variables, ends, starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (k, N), the origin first, and the size of the region that each belongs to."""
    rng = np.random.default_rng(20230607)
    unit = rng.uniform(-1.0, 1.0, size=(starts, len(variables)))
    if ends is not None:
        low, high = np.array(ends).T
        return low + (unit + 1.0) / 2.0 * (high - low), np.full(starts, np.linalg.norm(high - low))
    unit[0] = 0.0
    smallest, largest = _scales(field, variables)
    sizes = np.geomspace(smallest, largest, max(starts // 8, 2))
    sizes = np.resize(sizes, starts)
    return unit * sizes[:, None], sizes


def _scales(field: Field, variables: Variables) -> tuple[float, float]:
    """The distances between which the field is no single power of the distance: where its zeros are."""
    radii = np.geomspace(1e-12, 1e12, 193)
    ways = np.random.default_rng(5).normal(size=(16, len(variables)))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    points = (radii[:, None, None] * ways).reshape(-1, ways.shape[1])
    with np.errstate(all="ignore"):
        slopes = values_at(list(field), variables, points).reshape(len(radii), -1, ways.shape[1])
        size = np.log(np.linalg.norm(slopes, axis=2))
    power = np.diff(size, axis=0) / np.diff(np.log(radii))[:, None]
    usable = np.isfinite(power).all(axis=1)
    if not usable.any():
        return 0.1, 10.0
    power, radii = power[usable], radii[1:][usable]
    bent = (np.abs(power - power[0]) > 0.02).any(axis=1) & (np.abs(power - power[-1]) > 0.02).any(axis=1)
    places = radii[bent]
    return (places.min() / 2, places.max() * 4) if places.size else (0.1, 10.0)


def _converged(
    field: Field, variables: Variables, points: np.ndarray, sizes: np.ndarray, *, iterations: int = 200
) -> np.ndarray:
    """Newton's method from every row of ``points`` (k, N); the rows that converged."""
    size, slopes = len(variables), without_kinks(sp.Matrix(list(field)).jacobian(list(variables)))
    smallest = sizes.min(initial=np.inf)
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            g, h = (values_at(f, variables, points) for f in (list(field), slopes))
            good = np.isfinite(g).all(axis=1) & np.isfinite(h).all(axis=(1, 2))
            points, sizes, g, h = points[good], sizes[good], g[good], h[good]
            if not len(points):
                return points
            # A tiny shift keeps exactly singular slopes (flat directions) solvable.
            shift = 1e-12 * np.abs(h).max(axis=(1, 2)) + 1e-300
            step = np.linalg.solve(h + shift[:, None, None] * np.eye(size), g[..., None])[..., 0]
            length = np.linalg.norm(step, axis=1)
            limit = 0.5 * (sizes + np.linalg.norm(points, axis=1))
            points = points - step * np.minimum(1.0, limit / np.maximum(length, 1e-300))[:, None]
            if (length < 1e-15 * limit).all():
                break
        g, h = (values_at(f, variables, points) for f in (list(field), slopes))
    # A start far out says nothing about the digits of the zero that it came to.
    lengths = np.abs(points).max(axis=1) + smallest
    near = np.abs(g).max(axis=1) < 1e-9 * np.abs(h).max(axis=(1, 2)) * lengths
    # A coordinate that has shrunk to rounding is zero, where its terms need not cancel.
    rounded = np.where(np.abs(points) < 1e-12 * lengths[:, None], 0.0, points)
    settled = cancels(field, variables, points) | cancels(field, variables, rounded)
    return points[near & settled]
