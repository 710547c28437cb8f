"""Ways out of the start's valley: saddles that lead into a target, and rates of relaxation at the minimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.target import signed_function, target_edges, target_function
from theory.breakpoints import borders, switches
from theory.critical import CriticalPoint
from theory.evaluate import lambdified
from theory.landscape import Landscape
from theory.langevin import Process

_REMEDY = "; give time_step and relaxation_time"
#: Steps along a drift with kinks.
_MOST_STEPS = 20_000


@dataclass(frozen=True)
class Exit:
    """A minimum, a saddle of index one, and whether the target begins at the saddle or in the next well."""

    minimum: dict[str, float]
    saddle: dict[str, float]
    to: Literal["well", "saddle"]
    barrier: float
    #: Unit vector of the escape direction at the saddle.
    direction: np.ndarray
    largest_curvature: float

    def temperature(self, process: Process, place: Mapping[str, float]) -> float:
        """D along the escape direction."""
        point = np.array([[place[n] for n in process.names]])
        D = process.diffusion_values(point)[0]
        return float(self.direction @ D @ self.direction)


def ways_out(landscape: Landscape, *, start: Mapping[str, float], target: sp.Basic) -> list[Exit]:
    """Saddles over which a walker leaves the start's valley for a target, lowest barrier first.

    Parameters
    ----------
    landscape : Landscape
        Without parameters.
    start, target : mapping, sympy condition
        A number for each variable; a condition on them.

    Returns
    -------
    list of Exit
        A saddle counts if gradient flow leads from one side of it to the start's minimum, and the target
        begins at the saddle itself or somewhere on the way down the other side. A ValueError says why there
        is no such saddle, or that the start's minimum lies in the target.
    """
    variables, signed = landscape.variables, target_function(target, landscape.variables)
    gradient, hessian = (lambdified(f, variables) for f in (list(landscape.gradient), landscape.hessian))
    flow = _Flow(landscape, gradient, hessian, lambda point: float(signed(*point)))
    points = landscape.critical_points()
    minima = [p for p in points if p.kind == "minimum"]
    if not minima:
        raise ValueError("the landscape has no minimum, so no formula applies")
    home, _ = flow.down(np.array([start[n] for n in landscape.names]), minima)
    if home is None:
        raise ValueError("gradient flow from the start reaches no minimum")
    if flow.signed(_array(landscape, home)) > 0:
        raise ValueError("the target holds the minimum of the start's valley: there is no barrier to cross")
    ways = [flow.over(home, saddle, minima) for saddle in points if saddle.index == 1]
    found = [way for way in ways if isinstance(way, Exit)]
    if not found:
        early = [way for way in ways if isinstance(way, str)]
        raise ValueError(early[0] if early else "no saddle leads from the start's valley into the target")
    return sorted(found, key=lambda p: p.barrier)


@dataclass(frozen=True)
class _Flow:
    """Gradient flow dθ/dt = −∇L with the target's signed function of a point (n,)."""

    landscape: Landscape
    gradient: Callable[..., np.ndarray]
    hessian: Callable[..., np.ndarray]
    signed: Callable[[np.ndarray], float]

    def down(self, point: np.ndarray, minima: list[CriticalPoint]) -> tuple[CriticalPoint | None, np.ndarray]:
        """The minimum that gradient flow reaches, and the path, shape (k, n)."""
        places = np.array([_array(self.landscape, m) for m in minima])
        scale = max(1.0, float(np.abs(places).max()))

        def arrived(_t: float, theta: np.ndarray) -> float:
            return float(np.linalg.norm(places - theta, axis=1).min()) - 1e-3 * scale

        arrived.terminal = True  # type: ignore[attr-defined]
        path = point[None]
        if arrived(0.0, point) > 0:
            path = solve_ivp(
                lambda _, x: -self.gradient(*x), (0, 1e8), point, "LSODA",
                jac=lambda _, x: -self.hessian(*x), events=arrived, rtol=1e-6, atol=1e-9,
            ).y.T  # fmt: skip
        distance = np.linalg.norm(places - path[-1], axis=1)
        k = int(distance.argmin())
        return (minima[k] if distance[k] <= 2e-3 * scale else None), path

    def over(
        self, home: CriticalPoint, saddle: CriticalPoint, minima: list[CriticalPoint]
    ) -> Exit | str | None:
        """The way out over a saddle; a text says why a way into the target is none."""
        a, b = _array(self.landscape, home), _array(self.landscape, saddle)
        curvatures = [self.hessian(*place) for place in (a, b)]
        if not np.isfinite(curvatures).all():
            return "the loss has a kink at the minimum or the saddle, where no formula applies"
        values, vectors = np.linalg.eigh(curvatures[1])
        direction = vectors[:, 0]
        reach = 1e-3 * max(1.0, float(np.linalg.norm(b - a)))
        sides = [self.down(b + sign * reach * direction, minima) for sign in (1.0, -1.0)]
        away = [(end, path) for end, path in sides if end is not home]
        if len(away) != 1:
            return None
        end, path = away[0]
        # Distance of the saddle from the boundary, in units of the walk from minimum to saddle
        size = max(abs(self.signed(a)), abs(self.signed(b)), 1e-300)
        at_saddle = abs(self.signed(b)) <= 1e-6 * size
        # The next well's minimum is the end of the path, and may lie on the boundary itself
        last = -math.inf if end is None else self.signed(_array(self.landscape, end)) + 1e-9 * size
        inside = max(last, *(self.signed(point) for point in path)) > 0
        barrier = float(saddle.loss - home.loss)
        if not at_saddle and self.signed(b) > 0:
            return "the target begins before the saddle, where no formula applies"
        if not (at_saddle or inside) or not barrier > 0:
            return None
        curvature = max(float(np.linalg.eigvalsh(curvatures[0]).max()), float(np.abs(values).max()))
        low, top = (dict(zip(self.landscape.names, point.tolist(), strict=True)) for point in (a, b))
        return Exit(low, top, "saddle" if at_saddle else "well", barrier, direction, curvature)


def has_kinks(process: Process) -> bool:
    """Whether the drift may jump, so that its derivatives do not say how it leads back."""
    return bool(switches(tuple(process.drift)).jumps)


def local_jacobian(process: Process, place: np.ndarray) -> np.ndarray:
    """∂b/∂x at a place (n,); for a drift with kinks its mean slope over the noise's own length there.

    That length ℓ_i solves ℓ_i² = D_ii/κ_i with κ_i the largest mean slope along axis i,
    |b(x + ℓ_i e_i) − b(x − ℓ_i e_i)|/2ℓ_i: √(D/κ) of a parabola, D/|b| at a jump from |b| to −|b|.
    An axis without noise takes the largest D_jj.
    """
    variables = process.variables
    if not has_kinks(process):
        return np.asarray(numpy_function(sp.Matrix(process.drift).jacobian(variables), variables)(*place))
    return _smoothed(process, place).slopes


class _Smoothed(NamedTuple):
    """A drift over the lengths of the noise: mean slopes (n, n), mean drift and lengths (n,)."""

    slopes: np.ndarray
    drift: np.ndarray
    lengths: np.ndarray
    #: The largest D_ii.
    noise: float

    def rests(self) -> bool:
        """Whether a zero of the mean drift lies within the lengths."""
        if np.linalg.matrix_rank(self.slopes) < len(self.drift):
            return False
        return bool((np.abs(np.linalg.solve(self.slopes, self.drift)) <= self.lengths).all())


def _smoothed(process: Process, place: np.ndarray) -> _Smoothed:
    """The drift around a place (n,) over lengths that noise and slope decide together."""
    b = numpy_function(list(process.drift), process.variables)
    D = np.diag(process.diffusion_values(place[None])[0])
    D = np.where(D > 0, D, D.max())
    lengths = np.where(place != 0, np.abs(place), 1.0)
    # A fixed point: each step brings ln ℓ nearer by a quarter at a jump, at once elsewhere.
    for _ in range(80):
        ends = place + np.concatenate([np.diag(lengths), -np.diag(lengths)])
        values = np.reshape(b(*ends.T), (len(place), -1))
        above, below = np.split(values, 2, axis=1)
        slopes = (above - below) / (2 * lengths)
        largest = np.abs(slopes).max(axis=0)
        moves = (largest > 0) & np.isfinite(largest) & (D > 0)
        lengths = np.where(moves, np.sqrt(lengths * np.sqrt(D / np.where(moves, largest, 1.0))), lengths)
    return _Smoothed(slopes, values.mean(axis=1), lengths, float(D.max()) or 1e-300)


def _rates_below_kinks(process: Process, start: np.ndarray, target: sp.Basic) -> tuple[float, float]:
    """As :func:`relaxation_rates_below`, for a drift that jumps: rates from mean slopes.

    Steps follow the drift, no longer than a tenth of the noise's lengths, to where the mean drift is zero.
    The slowest rate of a valley b|x| is b²/4D, a quarter of its mean slope; so are others taken.
    """
    b = numpy_function(list(process.drift), process.variables)
    g = numpy_function(signed_function(target, process.variables), process.variables)
    near, point = _smoothed(process, start), start
    fast = float(np.abs(np.linalg.eigvals(near.slopes)).max())
    for step in range(1, _MOST_STEPS):
        drift = np.ravel(b(*point))
        steep = max(float(drift @ drift) / near.noise, float(np.abs(near.slopes).max()))
        rate = max(float((np.abs(drift) / near.lengths).max()), steep)
        point = point + 0.1 * drift / max(rate, 1e-300)
        if not np.isfinite(point).all():
            raise ValueError(f"the drift cannot be followed from the start{_REMEDY}")
        if float(g(*point)) > 0:
            raise ValueError(_leads_into(target))
        if step % 20 == 0 and (near := _smoothed(process, point)).rests():
            break
    else:
        raise ValueError(f"the drift from the start comes to no rest{_REMEDY}")
    found = -np.linalg.eigvals(near.slopes)
    return _checked_rates(process, point, found / 4, max(fast, float(np.abs(found).max())))


def _leads_into(target: sp.Basic) -> str:
    return (
        f"the drift alone leads from the start into the target {target}: there is no barrier; use "
        "simulate_escape"
    )


def relaxation_rates_below(process: Process, start: np.ndarray, *, target: sp.Basic) -> tuple[float, float]:
    """Slowest and fastest rate of relaxation at the minimum that the drift leads to from a start.

    ẋ = b(x) is followed from ``start`` (n,) until it rests. The rates are the eigenvalues of −∂b/∂x there
    (the curvatures, for a landscape): the smallest real part, and the largest size at the start and at the
    end, in 1/time. Fails if the path enters the target, or its end is no quadratic minimum.
    """
    if has_kinks(process):
        return _rates_below_kinks(process, start, target)
    variables = process.variables
    b = numpy_function(list(process.drift), variables)
    jacobian = numpy_function(sp.Matrix(process.drift).jacobian(variables), variables)
    g = numpy_function(signed_function(target, variables), variables)
    at_start = -np.linalg.eigvals(jacobian(*start))
    point, span = start, 1.0 / max(float(np.abs(at_start).max()), 1e-6)
    for _ in range(60):
        path = solve_ivp(lambda _, x: np.ravel(b(*x)), (0, span), point, "LSODA", rtol=1e-8, atol=1e-10)
        if not path.success:
            raise ValueError(f"the drift cannot be followed from the start{_REMEDY}")
        if (np.broadcast_to(g(*path.y), len(path.t)) > 0).any():
            raise ValueError(_leads_into(target))
        moved = float(np.abs(path.y[:, -1] - point).max())
        point, span = path.y[:, -1], 2.0 * span
        if moved < 1e-6 * (1.0 + float(np.abs(point).max())):
            break
    found = -np.linalg.eigvals(jacobian(*point))
    return _checked_rates(process, point, found, float(max(np.abs(found).max(), np.abs(at_start).max())))


def _checked_rates(
    process: Process, point: np.ndarray, found: np.ndarray, fast: float
) -> tuple[float, float]:
    """The slowest of the rates ``found`` at a place, and the fastest; a ValueError if it is no minimum."""
    slow = float(found.real.min())
    if not slow > 1e-6 * fast:
        shown = ", ".join(f"{name}={value:.4g}" for name, value in zip(process.names, point, strict=True))
        raise ValueError(
            f"the drift leads from the start to {shown}, where the smallest curvature is {slow:.2g}: no "
            f"quadratic minimum{_REMEDY}"
        )
    return slow, fast


def largest_rate_on_the_way(process: Process, start: np.ndarray, target: sp.Basic) -> float:
    """Largest size of ∂b/∂x between a start (1,) and the ends of a target in one variable; 0 in several."""
    if len(process.variables) > 1 or not (edges := target_edges(target, process.variables[0])):
        return 0.0
    slope = lambdified(sp.diff(process.drift[0], process.variables[0]), process.variables)
    sizes = np.abs([slope(np.linspace(start[0], edge, 201)) for edge in edges])
    found = float(sizes[np.isfinite(sizes)].max(initial=0.0))
    kinks = switches(tuple(process.drift))
    name, ends = str(process.variables[0]), (float(min(start[0], *edges)), float(max(start[0], *edges)))
    places = borders(kinks.jumps, {name: ends}).points[name]
    return max([found, *(abs(float(local_jacobian(process, np.array([p]))[0, 0])) for p in places)])


def _array(landscape: Landscape, point: CriticalPoint) -> np.ndarray:
    return np.array([float(point.point[n]) for n in landscape.names])
