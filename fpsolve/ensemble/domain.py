"""Where walkers may be: walls of a box, and the ends of the region in which D is a covariance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import sympy as sp

from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process

Wall: TypeAlias = Literal["reflecting", "periodic", "absorbing"]
#: An end of an axis: a wall, or "edge", where D ceases to be a covariance. None: the axis goes on.
End: TypeAlias = tuple[str, float] | None
#: −ζ(1/2)/√(2π): mean overshoot of a Gaussian random walk, in standard deviations of a step.
OVERSHOOT = 0.5825971579390107
#: Distances from a start at which D is looked at, in both directions along each axis.
_DISTANCES = np.geomspace(1e-6, 1e6, 481)
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Domain:
    """The lower and the upper end of every axis.

    A step of a walker that ends beyond

    - a reflecting wall is mirrored there, along D n with n the wall's normal: the direction of no flux
      (symmetrised Euler, weak order one: Bossy, Gobet, Talay, J. Appl. Probab. 41, 877 (2004));
    - a periodic end goes on at the other one;
    - an absorbing wall, moved inwards by 0.5826 √(2 D_n dt), the mean overshoot of a step, ends the walker;
    - an edge of D is kept as an excess over the edge: b and D are those of the edge until the excess is gone
      (full truncation: Lord, Koekkoek, van Dijk, Quant. Finance 10, 177 (2010)).
    """

    ends: tuple[tuple[End, End], ...]

    def axes(self, kind: str) -> list[int]:
        """Axes with at least one end of a kind."""
        return [i for i, pair in enumerate(self.ends) if any(end and end[0] == kind for end in pair)]

    @property
    def excess_axes(self) -> list[int]:
        return self.axes("edge")

    def words(self, names: Sequence[str]) -> str:
        """Every end in words, for ``attrs``; empty without one."""
        kinds = {"edge": "edge of D (full truncation)"}
        parts = [
            f"{name} = {end[1]:g}: {kinds.get(end[0], end[0])}"
            for name, pair in zip(names, self.ends, strict=True)
            for end in pair
            if end is not None
        ]
        return "; ".join(parts)

    def to_text(self) -> str:
        """As :meth:`from_text` reads it."""
        return json.dumps(self.ends)

    @classmethod
    def from_text(cls, text: str) -> Domain:
        pairs = json.loads(text)
        ends = [[None if end is None else (str(end[0]), float(end[1])) for end in pair] for pair in pairs]
        return cls(tuple((low, high) for low, high in ends))

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (k, n) lie beyond an end, shape (k,)."""
        low = np.array([-math.inf if pair[0] is None else pair[0][1] for pair in self.ends])
        high = np.array([math.inf if pair[1] is None else pair[1][1] for pair in self.ends])
        return np.asarray(((points < low) | (points > high)).any(axis=1))


def free_domain(n: int) -> Domain:
    """No end on any of n axes."""
    return Domain(((None, None),) * n)


def chosen_domain(
    process: Process,
    points: np.ndarray,
    box: Mapping[str, tuple[float, float]] | None,
    walls: Mapping[str, Wall] | Wall | None,
) -> Domain:
    """The walls that are asked for, and the edges of D on the other axes, for walkers from ``points`` (k, n).

    ``box`` holds the ends of axes; ``walls`` says what they are, for all or by name, reflecting by default.
    A ValueError if one names another variable, a wall has no place, or there is no noise across a mirror.
    """
    names = [str(variable) for variable in process.variables]
    box = box or {}
    kinds = _kinds(names, box, walls)
    edges = _edges(process, points)
    ends: list[tuple[End, End]] = []
    for name, (low, high) in zip(names, edges, strict=True):
        if name not in kinds:
            ends.append((None if low is None else ("edge", low), None if high is None else ("edge", high)))
            continue
        a, b = (float(end) for end in box[name])
        if not (math.isfinite(a) and math.isfinite(b) and a < b):
            raise ValueError(f"box[{name!r}] = ({a:g}, {b:g}) must be two finite, ascending numbers")
        # A wall at or beyond an edge of D is that edge: a mirror there would be met where D vanishes
        near = 1e-9 * (b - a)
        lower: End = (kinds[name], a) if low is None or a > low + near else ("edge", low)
        upper: End = (kinds[name], b) if high is None or b < high - near else ("edge", high)
        ends.append((lower, upper))
    return Domain(tuple(ends))


def _kinds(
    names: Sequence[str],
    box: Mapping[str, tuple[float, float]] | None,
    walls: Mapping[str, Wall] | Wall | None,
) -> dict[str, Wall]:
    """What the walls of each axis of the box are."""
    box = box or {}
    given = dict(walls) if isinstance(walls, Mapping) else dict.fromkeys(box, walls or "reflecting")
    for word, mapping in (("box", box), ("walls", given)):
        if strangers := [name for name in mapping if name not in names]:
            raise ValueError(f"{word} names {strangers[0]}; the variables are {', '.join(names)}")
    if walls is not None and not box:
        raise ValueError("walls need their places: give box={name: (low, high)} too")
    if placeless := [name for name in given if name not in box]:
        raise ValueError(f"walls of {placeless[0]} need their places: give box[{placeless[0]!r}] too")
    kinds = {name: given.get(name, "reflecting") for name in box}
    for name, kind in kinds.items():
        if kind not in get_args(Wall):
            raise ValueError(f"walls[{name!r}]={kind!r} must be one of {', '.join(get_args(Wall))}")
    return kinds


def is_covariance(D: np.ndarray) -> np.ndarray:
    """Which of the matrices (k, n, n) are finite and positive semidefinite up to rounding, shape (k,)."""
    finite = np.isfinite(D).all(axis=(1, 2))
    values = np.linalg.eigvalsh(np.where(finite[:, None, None], D, 0.0))
    return finite & (values[:, 0] >= -_ROUNDING * np.abs(values).max(axis=1))


def diffusion_at(process: Process, points: np.ndarray) -> np.ndarray | None:
    """D at points (k, n), shape (k, n, n); None where a process has nothing but a root of 2D."""
    values = getattr(process, "diffusion_values", None)
    return None if values is None else np.asarray(values(points))


def _edges(process: Process, points: np.ndarray) -> list[tuple[float | None, float | None]]:
    """Ends of the interval on each axis in which D is a covariance, whatever the other coordinates are.

    None where there is no end, where it moves with the other coordinates, and where noise or drift lead
    across it: a walker that comes to such a place is reported by :func:`refuse_indefinite`.
    """
    n = points.shape[1]
    none: list[tuple[float | None, float | None]] = [(None, None)] * n
    # The noise of a landscape is a covariance everywhere
    if process.landscape is not None or diffusion_at(process, points[:1]) is None:
        return none
    if not process.diffusion.free_symbols:
        return none
    generator = np.random.default_rng(0)
    first = points[generator.integers(len(points), size=4)]
    found = [(_edge(process, first, i, -1.0), _edge(process, first, i, 1.0)) for i in range(n)]
    # Other coordinates a step away in every direction must give the same ends
    for sign in (-1.0, 1.0):
        for j in range(n):
            moved = first.copy()
            moved[:, j] += sign * 0.1 * (1.0 + np.abs(moved[:, j]))
            moved = moved[is_covariance(diffusion_at(process, moved))]  # type: ignore[arg-type]
            for i in range(n):
                if i != j and len(moved):
                    again = (_edge(process, moved, i, -1.0), _edge(process, moved, i, 1.0))
                    found[i] = tuple(  # type: ignore[assignment]
                        a if a is not None and b is not None and abs(a - b) <= 1e-9 * (1 + abs(a)) else None
                        for a, b in zip(found[i], again, strict=True)
                    )
    return [
        tuple(  # type: ignore[misc]
            end if end is not None and _holds(process, first, i, end, sign) else None
            for end, sign in zip(pair, (-1.0, 1.0), strict=True)
        )
        for i, pair in enumerate(found)
    ]


def _holds(process: Process, points: np.ndarray, axis: int, edge: float, sign: float) -> bool:
    """Whether noise across an edge vanishes there and the drift does not lead out, so that walkers stay."""
    there = points.copy()
    there[:, axis] = edge
    D, inside = (diffusion_at(process, p)[:, axis, axis] for p in (there, points))  # type: ignore[index]
    drift = numpy_function(process.drift[axis], process.variables)(*there.T)
    return bool((np.abs(D) <= 1e-6 * inside).all() and (sign * drift <= 0).all())


def _edge(process: Process, points: np.ndarray, axis: int, sign: float) -> float | None:
    """Where D ceases to be a covariance along an axis; None if nowhere, or at different places."""
    edges = []
    for point in points:
        line = np.repeat(point[None], len(_DISTANCES), axis=0)
        line[:, axis] += sign * _DISTANCES * (1.0 + abs(point[axis]))
        good = is_covariance(diffusion_at(process, line))  # type: ignore[arg-type]
        if good.all():
            return None
        first = int(np.argmin(good))
        inner = point[axis] if first == 0 else line[first - 1, axis]
        edges.append(_bisected(process, point, axis, inner, line[first, axis]))
    values = np.array(edges)
    if np.ptp(values) > 1e-9 * (1.0 + np.abs(values).max()):
        return None
    edge = float(values[0])
    # An edge at a short decimal number, such as 0 or 1, is that number; another is moved inwards by rounding
    if abs(edge - round(edge, 9)) < 1e-10 * (1.0 + abs(edge)):
        return round(edge, 9)
    return edge - sign * 1e-10 * (1.0 + abs(edge))


def _bisected(process: Process, point: np.ndarray, axis: int, inner: float, outer: float) -> float:
    """The last place along an axis, between two, where D is a covariance."""
    for _ in range(200):
        middle = (inner + outer) / 2
        if middle in (inner, outer):
            break
        probe = point[None].copy()
        probe[0, axis] = middle
        if is_covariance(diffusion_at(process, probe))[0]:  # type: ignore[arg-type]
            inner = middle
        else:
            outer = middle
    return float(inner)


def covariance_condition(process: Process) -> sp.Expr | None:
    """A number below 0 where D is no covariance, for a root in symbols that does not show it; else None.

    The root of a full 2×2 D takes a negative determinant as 0, because rounding makes one. Other roots are
    NaN where D is no covariance.
    """
    D = getattr(process, "diffusion", None)
    if process.landscape is not None or D is None or D.shape != (2, 2) or D[0, 1] == 0 or not D.free_symbols:
        return None
    return D.det() + _ROUNDING * D.trace() ** 2


def refuse_indefinite(process: Process, points: np.ndarray, when: str) -> None:
    """ValueError if D is no covariance at one of the points (k, n)."""
    if not len(points) or (D := diffusion_at(process, points)) is None:
        return
    bad = ~is_covariance(D)
    if not bad.any():
        return
    worst = D[bad][0]
    names = [str(variable) for variable in process.variables]
    where = ", ".join(f"{n}={v:.6g}" for n, v in zip(names, points[bad][0], strict=True))
    reason = "is not finite"
    if np.isfinite(worst).all():
        reason = f"is no covariance (eigenvalue {np.linalg.eigvalsh(worst)[0]:.3g})"
    raise ValueError(f"D {reason} at {where}, {when}: {process.remedy}")


def wall_lines(domain: Domain, names: Sequence[str], root: Sequence[str], number) -> list[str]:
    """Lines of a kernel that bring the new positions ``new{i}`` back into the domain.

    ``root`` holds the texts of G (n, m) row by row at the start of the step, and ``number`` turns a number
    into its text. ``absorbed`` is set where there are absorbing walls, ``over{i}`` on axes with an edge.
    """
    n = len(names)
    m = len(root) // n
    lines = ["absorbed = False"] if domain.axes("absorbing") else []
    for i, (low, high) in enumerate(domain.ends):
        if low and low[0] == "periodic" and high:
            a, width = number(sp.Float(low[1])), number(sp.Float(high[1] - low[1]))
            lines.append(f"new{i} = new{i} - {width} * np.floor((new{i} - {a}) / {width})")
            continue
        for end, sign in ((low, 1.0), (high, -1.0)):
            if end and end[0] == "absorbing":
                place = number(sp.Float(end[1]))
                spread = " + ".join(f"({G}) * ({G})" for G in root[i * m : (i + 1) * m] if G != "0.0")
                shift = f"{OVERSHOOT!r} * scale * math.sqrt({spread or '0.0'})"
                beyond = f"new{i} <= {place} + {shift}" if sign > 0 else f"new{i} >= {place} - {shift}"
                lines.append(f"absorbed = absorbed | ({beyond})")
            elif end and end[0] == "reflecting":
                lines += _mirror(i, number(sp.Float(end[1])), sign, n, m, root)
        clipped = [end and end[0] == "edge" for end in (low, high)]
        if any(clipped):
            lines.append(f"raw = new{i}")
        for end, function in ((low, "max"), (high, "min")):
            if end and end[0] in ("edge", "reflecting"):
                relation = ">" if function == "max" else "<"
                place = number(sp.Float(end[1]))
                lines.append(f"new{i} = new{i} if new{i} {relation} {place} else {place}")
        if any(clipped):
            lines.append(f"over{i} = raw - new{i}")
    return lines


def _mirror(i: int, place: str, sign: float, n: int, m: int, root: Sequence[str]) -> list[str]:
    """Lines that move a walker beyond a wall by twice its overshoot along D n / D_nn."""
    beyond = f"{place} - new{i}" if sign > 0 else f"new{i} - {place}"
    lines = [f"beyond = {beyond}", "beyond = 2.0 * beyond if beyond > 0.0 else 0.0"]
    rows = [root[j * m : (j + 1) * m] for j in range(n)]
    square = " + ".join(f"({G}) * ({G})" for G in rows[i] if G != "0.0")
    plus = "+" if sign > 0 else "-"
    for j in range(n):
        pairs = [(A, B) for A, B in zip(rows[i], rows[j], strict=True) if "0.0" not in (A, B)]
        if j != i and pairs:
            share = " + ".join(f"({A}) * ({B})" for A, B in pairs)
            lines.append(f"new{j} = new{j} {plus} beyond * ({share}) / ({square})")
    lines.append(f"new{i} = new{i} {plus} beyond")
    return lines
