"""Critical points of a loss: all of them in up to three variables, by a search from many starts in more.

In up to three variables space is cut into boxes until each is proved to hold one critical point or none
(:mod:`theory.zeros`). What is left are points where the curvature vanishes or does not exist (x⁴, |x|), whose
kind is seen by comparing losses around them, and lines of critical points, of which one point is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, TypeAlias

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.intervals import enclosed
from theory.zeros import ZERO, Zeros, all_zeros, is_point

Kind: TypeAlias = Literal["minimum", "saddle", "maximum"]
Box: TypeAlias = Mapping[str, tuple[float, float]]
#: More variables than this are searched from many starts.
MOST_CUT = 3
#: Points that a search from many starts may add.
MOST_ADDED = 100
#: A curvature below this share of the largest is none.
FLAT = 1e-9
_GAUSS, _GAUSS_WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(8))


@dataclass(frozen=True)
class CriticalPoint:
    """A point with ∇L = 0: its coordinates, its loss and the eigenvalues of its Hessian (ascending).

    ``seen`` is the kind where the Hessian does not tell it: the curvature vanishes in a direction, or is
    infinite at a kink. It is None at ordinary points.
    """

    point: dict[str, float]
    loss: float
    eigenvalues: tuple[float, ...]
    seen: Kind | None = None

    @property
    def degenerate(self) -> bool:
        """Whether a quadratic form does not describe the loss around the point."""
        return self.seen is not None

    @property
    def index(self) -> int:
        """Number of directions in which the loss falls (0: minimum, 1: saddle that a path crosses)."""
        if self.seen is not None:
            return {"minimum": 0, "saddle": 1, "maximum": len(self.eigenvalues)}[self.seen]
        scale = max(map(abs, self.eigenvalues))
        return sum(value < -1e-8 * scale for value in self.eigenvalues)

    @property
    def kind(self) -> Kind:
        """``"minimum"``, ``"saddle"`` or ``"maximum"``; an inflection with zero slope is a saddle."""
        if self.seen is not None:
            return self.seen
        if self.index == 0:
            return "minimum"
        return "maximum" if self.index == len(self.eigenvalues) else "saddle"


@dataclass(frozen=True)
class Surface:
    """A loss with its derivatives, in the order of its variables."""

    loss: sp.Expr
    variables: tuple[sp.Symbol, ...]
    gradient: tuple[sp.Expr, ...]
    hessian: sp.ImmutableMatrix

    @cached_property
    def curvatures(self) -> sp.ImmutableMatrix:
        """The Hessian away from kinks."""
        return self.hessian.replace(sp.DiracDelta, lambda *_: sp.Integer(0))

    def described(self, place: np.ndarray, seen: Kind | None = None) -> CriticalPoint:
        """The critical point at a place."""
        names = map(str, self.variables)
        loss = values_at(self.loss, self.variables, place[None])[0]
        return CriticalPoint(
            dict(zip(names, place.tolist(), strict=True)), float(loss), self._spectrum(place), seen
        )

    def _spectrum(self, place: np.ndarray) -> tuple[float, ...]:
        """Eigenvalues of the Hessian, ascending; infinite for a variable with a kink."""
        size = len(place)
        try:
            low, high = enclosed(list(self.hessian), self.variables, place[None], place[None])
            H = np.where(np.isfinite(low) & np.isfinite(high), low, np.nan).reshape(size, size)
        except NotImplementedError:
            H = values_at(self.curvatures, self.variables, place[None])[0]
        smooth = np.isfinite(H.diagonal()) & np.isfinite(H[:, np.isfinite(H.diagonal())]).all(axis=1)
        values = np.linalg.eigvalsh(H[np.ix_(smooth, smooth)]) if smooth.any() else np.empty(0)
        values = np.where(np.abs(values) < 1e-280, 0.0, values)
        return (*values.tolist(), *[float("inf")] * int((~smooth).sum()))

    def seen_kind(self, place: np.ndarray, radius: float) -> Kind:
        """The kind from the loss on a sphere: a minimum where it falls nowhere."""
        size = len(place)
        rng = np.random.default_rng(11)
        ways = np.concatenate([np.eye(size), -np.eye(size), rng.normal(size=(200, size))])
        ways = radius * ways / np.linalg.norm(ways, axis=1, keepdims=True)
        # The rise of the loss is the integral of its slope: no digit of the loss itself is lost.
        points = place + (_GAUSS + 0.5)[:, None, None] * ways
        slopes = values_at(list(self.gradient), self.variables, points.reshape(-1, size)).reshape(
            points.shape
        )
        rise = np.einsum("q,qki,ki->k", _GAUSS_WEIGHTS, slopes, ways)
        small = 1e-6 * np.abs(rise).max()
        if (rise >= -small).all():
            return "minimum"
        return "maximum" if (rise <= small).all() else "saddle"


@lru_cache(maxsize=64)
def critical_points(
    surface: Surface, ends: tuple[tuple[float, float], ...] | None, starts: int
) -> tuple[tuple[CriticalPoint, ...], bool]:
    """Critical points, lowest loss first, and whether they are proved to be all."""
    box = None if ends is None else dict(zip(map(str, surface.variables), ends, strict=True))
    found: Zeros | None = None
    if len(surface.variables) <= MOST_CUT:
        try:
            found = all_zeros(surface.gradient, surface.variables, box)
        except NotImplementedError:
            found = None
    if found is None or not found.complete:
        found = _joined(found, from_many_starts(surface, ends, starts))
    others = np.concatenate([found.simple, found.singular])
    points = []
    for place in found.simple:
        point = surface.described(place)
        sizes = np.abs(point.eigenvalues)
        if not np.isfinite(sizes).all() or sizes.min() <= FLAT * sizes.max():
            point = surface.described(place, surface.seen_kind(place, _radius(place, others, 0.0)))
        points.append(point)
    for place, hull in zip(found.singular, found.hulls, strict=True):
        size = 0.0 if is_point(hull) else float(np.ptp(hull, axis=0).max())
        points.append(surface.described(place, surface.seen_kind(place, _radius(place, others, size))))
    # A pole is no critical point.
    return _ordered([p for p in points if np.isfinite(p.loss)]), found.complete


def _radius(place: np.ndarray, others: np.ndarray, size: float) -> float:
    """How far to look around a degenerate point: less than to the others, or than the line it lies on."""
    away = np.abs(others - place).max(axis=1)
    away = away[away > max(2 * size, 1e-4 * np.abs(place).max(), ZERO)]
    own = 0.1 * float(np.abs(place).max()) or 1.0
    return min(0.05 * float(away.min(initial=np.inf)), own, 0.01 * size or own)


def _joined(found: Zeros | None, more: np.ndarray) -> Zeros:
    """The zeros found by cutting, and those from many starts that are not among them."""
    if found is None:
        return Zeros(more, np.empty((0, more.shape[1])), np.empty((0, 2, more.shape[1])), False)
    known = np.concatenate([found.simple, found.singular])
    new = [p for p in more if all(np.abs(p - q).max() > 1e-6 * np.abs(q).max() for q in known)]
    inside = [any(((p >= h[0]) & (p <= h[1])).all() for h in found.hulls) for p in new]
    extra = [p for p, is_inside in zip(new, inside, strict=True) if not is_inside][:MOST_ADDED]
    return replace(found, simple=np.concatenate([found.simple, *(p[None] for p in extra)]))


def _ordered(points: list[CriticalPoint]) -> tuple[CriticalPoint, ...]:
    """Lowest loss first; equal losses, mirror images, by place, so that the answer is the same everywhere."""
    if not points:
        return ()
    losses = np.array([c.loss for c in points])
    places = np.array([list(c.point.values()) for c in points])
    heights = np.round((losses - losses.min()) / max(np.ptp(losses), 1e-300), 9)
    sizes = np.round(places / np.maximum(np.abs(places).max(axis=0), 1e-300), 9)
    order = sorted(range(len(points)), key=lambda k: (heights[k], *sizes[k]))
    return tuple(points[k] for k in order)


def from_many_starts(surface: Surface, ends, starts: int) -> np.ndarray:
    """Zeros of the gradient by Newton's method from quasi-random starts, shape (k, N)."""
    points = _converged(surface, *_start_points(surface, ends, starts))
    if ends is not None:
        low, high = np.array(ends).T
        points = points[((points >= low) & (points <= high)).all(axis=1)]
    kept: list[np.ndarray] = []
    scale = np.abs(points).max(initial=0.0)
    for point in points:
        if all(np.linalg.norm(point - q) > 1e-5 * (np.linalg.norm(q) + 1e-4 * scale) for q in kept):
            kept.append(np.where(np.abs(point) < 1e-12 * scale, 0.0, point))
    return np.reshape(kept, (len(kept), points.shape[1]))


def _start_points(surface: Surface, ends, starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (k, N), the origin first, and the size of the region that each belongs to."""
    rng = np.random.default_rng(20230607)
    unit = rng.uniform(-1.0, 1.0, size=(starts, len(surface.variables)))
    if ends is not None:
        low, high = np.array(ends).T
        return low + (unit + 1.0) / 2.0 * (high - low), np.full(starts, np.linalg.norm(high - low))
    unit[0] = 0.0
    smallest, largest = _scales(surface)
    sizes = np.geomspace(smallest, largest, max(starts // 8, 2))
    sizes = np.resize(sizes, starts)
    return unit * sizes[:, None], sizes


def _scales(surface: Surface) -> tuple[float, float]:
    """The distances between which the gradient is no single power of the distance: where its zeros are."""
    radii = np.geomspace(1e-12, 1e12, 193)
    ways = np.random.default_rng(5).normal(size=(16, len(surface.variables)))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    points = (radii[:, None, None] * ways).reshape(-1, ways.shape[1])
    with np.errstate(all="ignore"):
        slopes = values_at(list(surface.gradient), surface.variables, points).reshape(
            len(radii), -1, ways.shape[1]
        )
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
    surface: Surface, points: np.ndarray, sizes: np.ndarray, *, iterations: int = 200
) -> np.ndarray:
    """Newton's method on ∇L = 0 from every row of ``points`` (k, N); the rows that converged."""
    gradient, size = list(surface.gradient), len(surface.variables)
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            g, h = (values_at(f, surface.variables, points) for f in (gradient, surface.curvatures))
            good = np.isfinite(g).all(axis=1) & np.isfinite(h).all(axis=(1, 2))
            points, sizes, g, h = points[good], sizes[good], g[good], h[good]
            if not len(points):
                return points
            # A tiny shift keeps exactly singular Hessians (flat directions) solvable.
            shift = 1e-12 * np.abs(h).max(axis=(1, 2)) + 1e-300
            step = np.linalg.solve(h + shift[:, None, None] * np.eye(size), g[..., None])[..., 0]
            length = np.linalg.norm(step, axis=1)
            limit = 0.5 * (sizes + np.linalg.norm(points, axis=1))
            points = points - step * np.minimum(1.0, limit / np.maximum(length, 1e-300))[:, None]
            if (length < 1e-15 * limit).all():
                break
        g, h = (values_at(f, surface.variables, points) for f in (gradient, surface.curvatures))
    scale = np.abs(h).max(axis=(1, 2)) * (sizes + np.abs(points).max(axis=1))
    return points[np.abs(g).max(axis=1) < 1e-9 * scale]
