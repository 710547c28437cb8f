"""Every zero of a vector field, found by cutting space into boxes: Newton's method with interval bounds.

A box without a zero is dropped when the bounds of one component exclude zero, or when the interval Newton
operator (Krawczyk's) leaves it. A box in which that operator contracts holds exactly one zero. Boxes are
halved in u with x = δ sinh u, so that no unit of length is preferred: places from 1e-24 to 1e90 are seen.
Sources: Krawczyk, Computing 4, 187 (1969); Hansen, Walster, *Global Optimization Using Interval Analysis*
(2004), ch. 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache

import numpy as np
import sympy as sp

from theory.evaluate import values_at
from theory.intervals import enclosed

#: The length δ below which boxes are cut evenly.
SMALLEST = 1e-60
#: A coordinate below this is zero.
ZERO = 1e-24
#: Sums of overflowing terms are not looked at beyond this distance.
OVERFLOW = 1e25
#: |u| that is searched: |x| ≤ 1e90. Odd factors keep the origin and simple numbers off the cuts.
REACH = float(np.arcsinh(1e90 / SMALLEST)) * 1.0123
#: A box this narrow in u is not cut any more: what is in it is one zero, of higher order or at a kink.
NARROWEST = 1e-8
#: Relative rounding of u on the way to x and back.
ROUNDING = 1e-14
#: Undecided boxes this close to one another in u are one zero.
TORN = 3e-5
#: Boxes looked at before the search gives up, and boxes at one time that count as a line of zeros.
MOST_BOXES = 400_000
MOST_AT_ONCE = 20_000


@dataclass(frozen=True)
class Zeros:
    """The zeros of a field: simple ones, those of higher order or at kinks, and lines of zeros.

    ``simple`` (k, N) are proved to be the only ones in their boxes. ``singular`` (m, N) are the others, of a
    line one point; ``hulls`` (m, 2, N) are the ends of boxes around them, wide for lines. ``complete`` says
    that there is no other zero. ``settled`` is False where the later half of a search from many starts still
    came to new ones.
    """

    simple: np.ndarray
    singular: np.ndarray
    hulls: np.ndarray
    complete: bool
    settled: bool = True

    @property
    def places(self) -> np.ndarray:
        """All zeros, the simple ones first, shape (k + m, N)."""
        return np.concatenate([self.simple, self.singular])


def all_zeros(
    field: Sequence[sp.Expr],
    variables: Sequence[sp.Symbol],
    box: Mapping[str, tuple[float, float]] | None = None,
) -> Zeros:
    """All zeros of N expressions in N variables, in a box or in all space.

    An expression without interval bounds is a NotImplementedError.
    """
    ends = None if box is None else tuple((float(box[str(v)][0]), float(box[str(v)][1])) for v in variables)
    return _zeros(tuple(field), tuple(variables), ends)


@lru_cache(maxsize=64)
def _zeros(field: tuple[sp.Expr, ...], variables: tuple[sp.Symbol, ...], ends) -> Zeros:
    search = _Search(field, variables, sp.Matrix(field).jacobian(list(variables)))
    low, high = search_region(variables, ends)
    simple, undecided, complete = search.run(low[None], high[None])
    simple = _distinct(search.told_apart(search.polished(simple)))
    singular, hulls = [], []
    for places in _clusters(*undecided):
        hull = np.array([places.min(axis=(0, 1)), places.max(axis=(0, 1))])
        if is_point(hull):
            # A simple zero on the edge of the hull is the same zero.
            margin = 1e-6 * np.abs(hull).max()
            simple = simple[~((simple >= hull[0] - margin) & (simple <= hull[1] + margin)).all(axis=1)]
            singular.append(hull.mean(axis=0))
            hulls.append(hull)
            continue
        regular, line = search.descended(places.mean(axis=0), hull)
        complete = complete or (len(line) > 0 and not len(regular))
        simple = _distinct(np.concatenate([simple, regular]))
        singular += [line[np.argmin(np.abs(line).max(axis=1))]] if len(line) else []
        hulls += [hull] if len(line) else []
    if ends is not None and len(simple):
        inside = (simple >= np.array(ends)[:, 0]) & (simple <= np.array(ends)[:, 1])
        simple = simple[inside.all(axis=1)]
    size = len(variables)
    points = _rounded(np.reshape(singular, (-1, size)))
    first = [k for k, p in enumerate(points) if not any((points[:k] == p).all(axis=1))]
    return Zeros(_rounded(simple), points[first], np.reshape(hulls, (-1, 2, size))[first], complete)


def _rounded(points: np.ndarray) -> np.ndarray:
    """Points whose coordinates are zero where they cannot be told from it."""
    return np.where(np.abs(points) < ZERO, 0.0, points)


def is_point(hull: np.ndarray) -> bool:
    """Whether a hull is one point to the digits of the search."""
    return bool(np.ptp(hull, axis=0).max() <= 1e-4 * np.abs(hull).max() + ZERO)


def search_region(variables: Sequence[sp.Symbol], ends) -> tuple[np.ndarray, np.ndarray]:
    """The first box in u; a variable declared positive or negative has one side only."""
    low = np.full(len(variables), -REACH * 0.977)
    high = np.full(len(variables), REACH)
    if ends is not None:
        low, high = np.arcsinh(np.array(ends).T / SMALLEST)
    for i, v in enumerate(variables):
        low[i] = max(low[i], 0.0) if v.is_nonnegative else low[i]
        high[i] = min(high[i], 0.0) if v.is_nonpositive else high[i]
    return low, high


def away(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest distance of a coordinate from 0 that all of a box keeps, shape (k,)."""
    return np.where((low < 0) & (high > 0), 0.0, np.minimum(np.abs(low), np.abs(high))).max(axis=1)


def cancels(field: Sequence[sp.Expr], variables: Sequence[sp.Symbol], points: np.ndarray) -> np.ndarray:
    """Whether the terms of every component cancel at points (k, N).

    Where fast functions of place have no digits left, far out, Newton's steps are small and mean nothing.
    """
    settled = np.ones(len(points), bool)
    for f in field:
        terms = list(sp.Add.make_args(sp.expand_mul(f)))
        if len(terms) > 1 and len(points):
            values = values_at(terms, variables, points)
            settled &= np.abs(values.sum(axis=1)) <= 1e-13 * np.abs(values).sum(axis=1)
    return settled


def place(u: np.ndarray) -> np.ndarray:
    """x = δ sinh u."""
    return SMALLEST * np.sinh(u)


@dataclass(frozen=True)
class _Search:
    """The field, its variables and its Jacobian."""

    field: tuple[sp.Expr, ...]
    variables: tuple[sp.Symbol, ...]
    jacobian: sp.Matrix
    #: Boxes around coordinates 0 proved to hold one zero each: what lies in one is not cut any more.
    proved: list[np.ndarray] = dataclass_field(default_factory=list)

    def run(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], bool]:
        """Centres of boxes with one zero, undecided boxes (in x), and whether the search came to its end."""
        found, left, seen, complete = [], [], 0, True
        while len(low):
            seen += len(low)
            if seen > MOST_BOXES or len(low) > MOST_AT_ONCE:
                left.append((place(low), place(high)))
                complete = False
                break
            x, (low, high), (a, b) = self._looked_at(low, high)
            found.append(x)
            narrow = (high - low).max(axis=1, initial=0.0) < NARROWEST
            left.append((a[narrow], b[narrow]))
            low, high = halved(low[~narrow], high[~narrow])
        undecided = tuple(np.concatenate(part) for part in zip(*left, strict=True))
        return np.concatenate(found), undecided, complete  # type: ignore[return-value]

    def _looked_at(self, low: np.ndarray, high: np.ndarray):
        """Zeros proved in the boxes, and the boxes left over, in u and in x."""
        a, b = place(low), place(high)
        far = away(a, b)
        keep = _holds_zero(*enclosed(self.field, self.variables, a, b, signs=True), far)
        low, high, a, b = low[keep], high[keep], a[keep], b[keep]
        n, size = len(low), len(self.variables)
        if not n:
            return np.empty((0, size)), (low, high), (a, b)
        J = [m.reshape(n, size, size) for m in enclosed(list(self.jacobian), self.variables, a, b)]
        centre = place((low + high) / 2)
        with np.errstate(all="ignore"):
            contracted, usable = self._krawczyk(centre, a, b, J)
            middle = (contracted[0] + contracted[1]) / 2
        new_a, new_b = np.maximum(a, contracted[0]), np.minimum(b, contracted[1])
        empty = usable & (new_a > new_b).any(axis=1)
        slack = 0.1 * (b - a)
        proved = usable & ((contracted[0] > a - slack) & (contracted[1] < b + slack)).all(axis=1)
        if (alone := proved & ~empty).any():
            self._remember((a - slack)[alone], (b + slack)[alone])
        rest = ~empty & ~proved & ~self._known(a, b)
        shrink = (usable & rest)[:, None]
        a, b = np.where(shrink, new_a, a)[rest], np.where(shrink, new_b, b)[rest]
        # A box that Newton's operator made a point must not lose its zero to the rounding of u.
        inner_low, inner_high = np.arcsinh(a / SMALLEST), np.arcsinh(b / SMALLEST)
        inner_low = inner_low - ROUNDING * np.abs(inner_low)
        inner_high = inner_high + ROUNDING * np.abs(inner_high)
        low = np.maximum(low[rest], np.where(shrink[rest], inner_low, low[rest]))
        high = np.minimum(high[rest], np.where(shrink[rest], inner_high, high[rest]))
        return middle[proved & ~empty], (low, np.maximum(low, high)), (a, b)

    def _remember(self, a: np.ndarray, b: np.ndarray) -> None:
        """Keeps boxes with one zero each where coordinates vanish: the cuts there are finer than rounding."""
        n, size = len(a), len(self.variables)
        J = [m.reshape(n, size, size) for m in enclosed(list(self.jacobian), self.variables, a, b)]
        with np.errstate(all="ignore"):
            (low, high), usable = self._krawczyk((a + b) / 2, a, b, J)
        inside = usable & ((low > a) & (high < b)).all(axis=1) & ((a <= 0) & (b >= 0)).any(axis=1)
        self.proved.extend(np.stack([a, b], axis=1)[inside])

    def _known(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which boxes lie in one that is proved: rounding leaves them undecided beside its zero."""
        inside = np.zeros(len(a), bool)
        for low, high in self.proved:
            inside |= ((a >= low) & (b <= high)).all(axis=1)
        return inside

    def _krawczyk(self, centre: np.ndarray, a: np.ndarray, b: np.ndarray, J: list[np.ndarray]):
        """c − Y f(c) + (1 − Y J)(X − c) on boxes a tenth wider than given, and where it is finite."""
        size = len(self.variables)
        f = enclosed(self.field, self.variables, centre, centre)
        ends = enclosed(list(self.jacobian), self.variables, centre, centre)
        slope = ((ends[0] + ends[1]) / 2).reshape(-1, size, size)
        good = np.isfinite(slope).all(axis=(1, 2)) & np.isfinite(J[0]).all(axis=(1, 2))
        good &= np.isfinite(J[1]).all(axis=(1, 2)) & np.isfinite(f[0] + f[1]).all(axis=1)
        # Rows and columns may have any units: scaled before the inverse is taken.
        rows = np.maximum(np.abs(slope).max(axis=2, initial=0.0), 1e-300)
        scaled = np.where(good[:, None, None], slope / rows[:, :, None], np.eye(size))
        columns = np.maximum(np.abs(scaled).max(axis=1), 1e-300)
        scaled = scaled / columns[:, None, :]
        good &= np.abs(np.linalg.det(scaled)) > 1e-12
        scaled = np.where(good[:, None, None], scaled, np.eye(size))
        Y = np.linalg.inv(scaled) / columns[:, :, None] / rows[:, None, :]
        middle, radius = (J[0] + J[1]) / 2, (J[1] - J[0]) / 2
        remainder = np.abs(np.eye(size) - Y @ middle) + np.abs(Y) @ radius
        reach = np.maximum(b - centre, centre - a)
        step = np.einsum("kij,kj->ki", Y, (f[0] + f[1]) / 2)
        error = np.einsum("kij,kj->ki", np.abs(Y), (f[1] - f[0]) / 2)
        error = error + np.einsum("kij,kj->ki", remainder, reach) * 1.1 + 4e-16 * np.abs(centre)
        return (centre - step - error, centre - step + error), good & np.isfinite(error).all(axis=1)

    def _value(self, expressions: Sequence[sp.Expr], points: np.ndarray) -> np.ndarray:
        """Expressions at points (k, N), shape (k, n); 0 for a delta function beside its peak."""
        low, high = enclosed(expressions, self.variables, points, points)
        return (low + high) / 2

    def polished(self, points: np.ndarray) -> np.ndarray:
        """Points next to simple zeros, moved onto them by Newton steps."""
        for _ in range(4 if len(points) else 0):
            f = self._value(self.field, points)
            slope = self._value(list(self.jacobian), points)
            slope = slope.reshape(*points.shape, -1)
            rows = np.abs(slope).max(axis=2)
            points = points - np.linalg.solve(slope / rows[..., None], (f / rows)[..., None])[..., 0]
        return points

    def told_apart(self, points: np.ndarray) -> np.ndarray:
        """One point for each zero: points in one proved box are the same zero."""
        for low, high in self.proved:
            inside = ((points >= low) & (points <= high)).all(axis=1)
            inside[np.argmax(inside)] = False
            points = points[~inside]
        return points

    def descended(self, points: np.ndarray, hull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zeros reached by least-squares Newton steps inside a hull: simple ones, and points of lines."""
        points = points[np.linspace(0, len(points) - 1, min(len(points), 60)).astype(int)]
        size = points.shape[1]
        with np.errstate(all="ignore"):
            for _ in range(60):
                f = self._value(self.field, points)
                slope = self._value(list(self.jacobian), points)
                good = np.isfinite(f).all(axis=1) & np.isfinite(slope).all(axis=1)
                points, f, slope = points[good], f[good], slope[good].reshape(-1, size, size)
                step = (np.linalg.pinv(slope, rcond=1e-9) @ f[..., None])[..., 0]
                points = points - step
        width = np.ptp(hull, axis=0)
        inside = ((points >= hull[0] - width) & (points <= hull[1] + width)).all(axis=1)
        # A hull of a search without end is wide and says nothing about the digits of a zero.
        lengths = np.abs(points) + np.minimum(width.max(), np.abs(points).max(axis=1, keepdims=True))
        settled = inside & (np.abs(step) < 1e-6 * lengths + ZERO).all(axis=1)
        settled &= cancels(self.field, self.variables, points)
        values = np.linalg.svd(slope, compute_uv=False)
        flat = values[:, -1] <= 1e-6 * values[:, 0]
        return points[settled & ~flat], points[settled & flat]


def _holds_zero(low: np.ndarray, high: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Where every component may vanish; a component without a value excludes the box."""
    # Beyond every length that matters both bounds overflow: the terms that win do so before.
    unknown = ((low == -np.inf) & (high == np.inf)).any(axis=1) & (far > OVERFLOW)
    # A field that underflows as a whole, far out, has no zero there.
    lost = ((low > -1e-280) & (high < 1e-280)).all(axis=1) & (low < 0).all(axis=1)
    return ((low <= 0) & (high >= 0)).all(axis=1) & ~(lost & (far > 1e-20)) & ~unknown


def halved(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both halves of every box, cut across its longest side."""
    if not len(low):
        return low, high
    rows, axis = np.arange(len(low)), np.argmax(high - low, axis=1)
    # Not in the middle: simple numbers and symmetry planes stay off the cuts.
    middle = low[rows, axis] + 0.4967 * (high - low)[rows, axis]
    left, right = high.copy(), low.copy()
    left[rows, axis], right[rows, axis] = middle, middle
    return np.concatenate([low, right]), np.concatenate([left, high])


def _distinct(points: np.ndarray) -> np.ndarray:
    """Points that differ by more than rounding."""
    kept = np.empty((0, points.shape[1]))
    for point in points:
        near = np.abs(kept - point).max(axis=1) <= 1e-9 * np.abs(kept).max(axis=1) + ZERO
        if not near.any():
            kept = np.concatenate([kept, point[None]])
    return kept


def _clusters(low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Boxes (k, N) in groups that touch one another: their ends, each of shape (2, m, N)."""
    if not len(low):
        return []
    a, b = np.arcsinh(low / SMALLEST), np.arcsinh(high / SMALLEST)
    # Rounding tears the box around a zero of higher order into pieces.
    reach = 1.5 * float((b - a).max()) + TORN
    tiles, tile = np.unique(np.round((a + b) / 2 / reach).astype(int), axis=0, return_inverse=True)
    label = _touching(tiles)[tile.ravel()]
    return [np.stack([low[label == k], high[label == k]]) for k in np.unique(label)]


def _touching(tiles: np.ndarray) -> np.ndarray:
    """A number for every tile (k, N) of integers, the same for tiles that are joined by neighbours."""
    steps = [np.array(s) - 1 for s in np.ndindex(*(3,) * tiles.shape[1])]
    left = {tuple(t): k for k, t in enumerate(tiles.tolist())}
    label = np.empty(len(tiles), int)
    while left:
        start, number = left.popitem()
        label[number] = name = number
        waiting = [start]
        while waiting:
            around = [tuple((np.array(waiting[-1]) + s).tolist()) for s in steps]
            waiting.pop()
            for near in around:
                if near in left:
                    label[left.pop(near)] = name
                    waiting.append(near)
    return label
