"""Critical points of a loss: all of them in up to three variables, by a search from many starts in more.

The slope's zeros are those of :mod:`theory.starts`. Where the curvature vanishes or does not exist (x⁴, |x|)
the kind is seen by comparing losses around the point; of a line of critical points one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, TypeAlias

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.intervals import enclosed
from theory.starts import known_zeros, without_kinks
from theory.zeros import ZERO, is_point

Kind: TypeAlias = Literal["minimum", "saddle", "maximum"]
Box: TypeAlias = Mapping[str, tuple[float, float]]
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
        return without_kinks(self.hessian)

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
) -> tuple[tuple[CriticalPoint, ...], bool, bool]:
    """Critical points, lowest loss first; whether they are proved to be all, and a search found no more."""
    box = None if ends is None else dict(zip(map(str, surface.variables), ends, strict=True))
    found = known_zeros(surface.gradient, surface.variables, box, starts)
    others = found.places
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
    return _ordered([p for p in points if np.isfinite(p.loss)]), found.complete, found.settled


def _radius(place: np.ndarray, others: np.ndarray, size: float) -> float:
    """How far to look around a degenerate point: less than to the others, or than the line it lies on."""
    away = np.abs(others - place).max(axis=1)
    away = away[away > max(2 * size, 1e-4 * np.abs(place).max(), ZERO)]
    own = 0.1 * float(np.abs(place).max()) or 1.0
    return min(0.05 * float(away.min(initial=np.inf)), own, 0.01 * size or own)


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
