"""Integrals of e^{±Ψ} along a line, in logarithms: the numerics behind exact escape times.

Panels are cut until interval bounds prove that Ψ and ln D change by less than one on each; integrals inside a
panel use 16 Gauss–Legendre points, sums over panels stay logarithms. 𝓛u = −f is solved by the Green function
of the line, a sum of positive terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.polynomial import legendre

from theory.breakpoints import switches
from theory.escape.vanishing_noise import Function, dimension_at, verdict, zeros_of_noise
from theory.evaluate import lambdified
from theory.intervals import enclosed
from theory.langevin import Process
from theory.zeros import all_zeros

POINTS = 16
#: A natural end is cut where e^{−Ψ}/D has fallen by this exponent below its maximum beyond the start.
TAIL = 60.0
#: How far to look for the end, and for valleys beyond it, in units of the path.
REACH = 1e30
MAX_PANELS = 200_000
_GAUSS_NODES, _GAUSS_WEIGHTS = legendre.leggauss(POINTS)
_integrals = [legendre.legval(_GAUSS_NODES, legendre.legint(row, lbnd=-1)) for row in np.eye(POINTS)]
#: The matrix of integrals from −1 to each node.
_PARTIAL = np.stack(_integrals, axis=1) @ np.linalg.inv(legendre.legvander(_GAUSS_NODES, POINTS - 1))
_log_sum = np.logaddexp.reduce


@dataclass(frozen=True)
class Line:
    """Quadrature nodes from the far end to the target, in panels, with Ψ and D on them."""

    panels: int
    absorbing: bool
    weights: np.ndarray  # (panels · POINTS,), like the next three
    psi: np.ndarray
    D: np.ndarray
    before_start: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """ln of the scale density e^Ψ, times quadrature weights."""
        return self.psi + np.log(self.weights)

    @property
    def speed(self) -> np.ndarray:
        """ln of the speed density e^{−Ψ}/D, times quadrature weights."""
        return -self.psi - np.log(self.D) + np.log(self.weights)

    def log_mean_time(self) -> float:
        """ln T₁ at the start."""
        return self._at_start(self.speed)

    def log_second_moment(self) -> float:
        """ln T₂ at the start."""
        return math.log(2.0) + self._at_start(self.speed + self._everywhere(self.speed))

    def log_splitting(self) -> float:
        """ln of the probability to reach the target before the other end."""
        return float(_log_sum(self.scale[self.before_start]) - _log_sum(self.scale))

    def _at_start(self, source: np.ndarray) -> float:
        """ln u at the start, for 𝓛u = −f with the terms ``source`` of ln(f e^{−Ψ}/D)."""
        if not self.absorbing:
            return float(_log_sum((self.scale + self.running(source))[~self.before_start]))
        left, right = _log_sum(self.scale[self.before_start]), _log_sum(self.scale[~self.before_start])
        below, above = self.running(self.scale), self.backwards(self.scale)
        green = np.where(self.before_start, right + below, left + above)
        return float(_log_sum(green + source) - _log_sum(self.scale))

    def _everywhere(self, source: np.ndarray) -> np.ndarray:
        """ln u on every node."""
        if not self.absorbing:
            return self.backwards(self.scale + self.running(source))
        below, above = self.running(self.scale), self.backwards(self.scale)
        parts = above + self.running(below + source), below + self.backwards(above + source)
        return np.logaddexp(*parts) - _log_sum(self.scale)

    def running(self, log_terms: np.ndarray) -> np.ndarray:
        """ln of the integral from the far end up to each node."""
        local = log_terms.reshape(self.panels, POINTS)
        totals = np.logaddexp.reduce(local, axis=1)
        before = np.concatenate([[-np.inf], np.logaddexp.accumulate(totals)[:-1]])
        # Inside a panel: ∫ up to the node from the polynomial through the panel's nodes.
        peak = local.max(axis=1, keepdims=True)
        density = np.exp(local - peak) / _GAUSS_WEIGHTS
        inner = np.maximum(density @ _PARTIAL.T, 1e-300)
        return np.logaddexp(before[:, None], np.log(inner) + peak).ravel()

    def backwards(self, log_terms: np.ndarray) -> np.ndarray:
        """ln of the integral from each node up to the target."""
        return self.running(log_terms[::-1])[::-1]


@dataclass(frozen=True)
class Coefficients:
    """b, D and Ψ along u = ±x, oriented so that the target lies at larger u."""

    sign: float
    drift: Function
    diffusion: Function
    potential: Function | None  # Ψ itself where D is constant and there is a loss
    process: Process

    @classmethod
    def of(cls, process: Process, sign: float) -> Coefficients:
        b, D = process.drift[0], process.diffusion[0, 0]

        def along(expression) -> Function:
            function = lambdified(expression, process.variables)
            return lambda u: function(sign * u)

        potential = None
        if process.landscape is not None and not D.free_symbols:
            potential = along(process.landscape.loss / D)
        return cls(sign, along(sign * b), along(D), potential, process)

    def slope(self, u: np.ndarray) -> np.ndarray:
        """Ψ′ = −b/D."""
        return -self.drift(u) / self.diffusion(u)

    def bounds(self, expression: sp.Expr, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of a formula on panels; NotImplementedError where a function in it has none."""
        a, b = np.minimum(self.sign * low, self.sign * high), np.maximum(self.sign * low, self.sign * high)
        below, above = enclosed([expression], self.process.variables, a[:, None], b[:, None])
        return below[:, 0], above[:, 0]

    def natural_end(self, first: float, last: float) -> float:
        """Where e^{−Ψ}/D has become negligible on the far side, and stays so; or where D vanishes."""
        span = last - first
        distance = np.append(0.0, np.geomspace(1e-4 * span, REACH * span, 1500))
        places = self._beyond(first, distance)
        distance = first - places
        width = np.diff(distance)[:, None]
        with np.errstate(all="ignore"):
            nodes = first - distance[:-1, None] - width * (_GAUSS_NODES + 1) / 2
            steps = (-self.slope(nodes) * width / 2 * _GAUSS_WEIGHTS).sum(axis=1)
            D = self.diffusion(places[1:])
            # Mass per e-fold of distance, so that slow tails are not cut too early.
            rise = np.cumsum(steps)
            if self.potential is not None:
                rise = np.asarray(self.potential(places[1:])) - float(self.potential(np.array(first)))
            weight = -rise - np.log(D) + np.log(distance[1:])
            most = self._most(places, distance, weight)
        bad = np.flatnonzero(np.isnan(weight) | (D <= 0))
        known = weight[: bad[0]] if bad.size else weight
        heavy = np.flatnonzero(most[: len(known)] > known.max(initial=-np.inf) - TAIL)
        if heavy.size and heavy[-1] + 1 >= len(known) and bad.size:
            end = self._vanishing(
                places[bad[0]] if bad[0] else first - span * 1e-9, places[bad[0] + 1], first
            )
            if end is not None:
                return end
        if not heavy.size or heavy[-1] + 1 >= len(known):
            place = self.sign * (first - distance[min(len(known), len(distance) - 1)])
            raise ValueError(
                f"the loss does not confine the walker away from the target (looked up to x={place:.3g}); "
                "give other_end="
            )
        return float(first - distance[heavy[-1] + 2 if heavy[-1] + 2 < len(distance) else -1])

    def _beyond(self, first: float, distance: np.ndarray) -> np.ndarray:
        """Places on the far side, from the start outwards; bounds of a known Ψ see what lies between."""
        places = first - distance
        if self.potential is not None:
            return places
        try:
            turning = _zeros_of(self.process.drift[0], self.process)
        except NotImplementedError:
            return places
        far = self.sign * turning
        near = [
            c + abs(c - first) * s * np.geomspace(1e-9, 0.4, 40) for c in far[far < first] for s in (-1, 1)
        ]
        return -np.unique(-np.concatenate([places, *near]))

    def _most(self, places: np.ndarray, distance: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The largest weight on each panel: from bounds of Ψ where it is known as a formula."""
        if self.potential is None:
            return weight
        loss, D = self.process.landscape.loss, self.process.diffusion[0, 0]  # type: ignore[union-attr]
        try:
            low, _ = self.bounds(loss / D, places[1:], places[:-1])
        except NotImplementedError:
            return weight
        shift = float(self.potential(np.array(places[0]))) - math.log(float(D))
        return np.fmax(weight, shift - low + np.log(distance[1:]))

    def _vanishing(self, inside: float, outside: float, first: float) -> float | None:
        """The place next to a zero of D where the drift points inwards; None if there is none."""
        for zero in self.sign * _zeros_of(self.process.diffusion[0, 0], self.process):
            if outside <= zero <= inside < first and float(self.drift(np.array(zero))) >= 0:
                return float(zero + max(4e-16 * abs(zero), 1e-250 * (first - zero)))
        return None

    def check_positive(self, low: float, last: float, *, passes: float) -> None:
        """Refuse D ≤ 0 on the path, isolated zeros included; beyond ``passes`` say what they mean."""
        if float(self.diffusion(np.array(low))) < 1e-12 * float(self.diffusion(np.array(passes))):
            low = passes  # a natural end, next to which panels are graded
        # Linear on the path itself, graded on the way out to a far end.
        line = near = np.linspace(max(low, 2 * passes - last), last, 20_001)
        if low < near[0]:
            line = np.append(passes - np.geomspace(passes - low, passes - near[0], 5000)[:-1], near)
        with np.errstate(all="ignore"):
            finite = np.isfinite(self.diffusion(line)) & np.isfinite(self.drift(line))
        if not finite.all():
            raise ValueError(f"drift or D is not finite on the path at x={self.sign * line[~finite][0]:.6g}")
        for place in zeros_of_noise(self.diffusion, line):
            x = self.sign * place
            dimension = dimension_at(place, self.drift, self.diffusion, step=1e-4 * (last - low))
            if not passes < place < last:
                meaning = "give other_end= on the near side of it"
            elif math.isfinite(dimension) or dimension > 0:
                meaning = verdict(dimension)
            else:
                meaning = "see inflection_dimension"
            raise ValueError(f"non-positive D on the path at x={x:.6g}; {meaning}")

    def panel_edges(self, low: float, high: float, breakpoints: Sequence[float] = ()) -> np.ndarray:
        """Edges of panels on which Ψ and ln D provably change by less than one.

        Kinks are edges. Without interval bounds of a function, values at nine points of each panel are
        compared, which may pass over a feature between two breakpoints.
        """
        breaks = self.sign * np.array([*breakpoints, *_kinks(self.process)], float)
        near, far = (float(self.diffusion(np.array(end))) for end in (low, high))
        if near < 1e-12 * far:  # a natural end
            breaks = np.append(breaks, low + (high - low) * np.geomspace(1e-250, 1, 600))
        edges = np.unique(
            np.concatenate([np.linspace(low, high, 65), breaks[(breaks > low) & (breaks < high)]])
        )
        while True:
            change = self._change(edges[:-1], edges[1:])
            # At most four parts at once, so that panels grade towards the steep places.
            parts = np.clip(np.ceil(np.nan_to_num(change, nan=4.0, posinf=4.0)), 1, 4).astype(int)
            parts[np.diff(edges) <= 1e-15 * np.maximum(np.abs(edges[1:]), np.abs(edges[:-1]))] = 1
            if (parts == 1).all():
                return edges
            if parts.sum() > MAX_PANELS:
                raise ValueError(
                    "the potential changes too much on the path for a quadrature: by more than "
                    f"{MAX_PANELS:g} noise units; see kramers_time"
                )
            start, width = np.repeat(edges[:-1], parts), np.repeat(np.diff(edges) / parts, parts)
            number = np.arange(len(start)) - np.repeat(np.cumsum(parts) - parts, parts)
            edges = np.unique(np.append(start + number * width, edges[-1]))

    def _change(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """A bound on the change of Ψ and of ln D on every panel."""
        with np.errstate(all="ignore"):
            try:
                b, D = (
                    self.bounds(f, low, high) for f in (self.process.drift[0], self.process.diffusion[0, 0])
                )
            except NotImplementedError:
                probe = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 9)
                change = np.abs(self.slope(probe)).max(axis=1) * (high - low)
                return np.maximum(change, np.ptp(np.log(self.diffusion(probe)), axis=1))
            steepest = np.maximum(np.abs(b[0]), np.abs(b[1])) * (high - low)
            positive = D[0] > 0
            change = np.maximum(
                steepest / np.where(positive, D[0], 1.0), np.log(D[1] / np.where(positive, D[0], 1.0))
            )
            return np.where(positive, change, np.inf)

    def line(self, edges: np.ndarray, first: float, *, absorbing: bool) -> Line:
        """The nodes on all panels between the edges, for a start at ``first``."""
        width = np.diff(edges)[:, None]
        nodes = edges[:-1, None] + width * (_GAUSS_NODES + 1) / 2
        weights = width / 2 * _GAUSS_WEIGHTS
        if self.potential is not None:
            psi = np.asarray(self.potential(nodes))
        else:
            slope = self.slope(nodes)
            total = np.concatenate([[0.0], np.cumsum((slope * weights).sum(axis=1))[:-1]])
            psi = total[:, None] + slope @ _PARTIAL.T * width / 2
        arrays = (weights, psi - psi.min(), self.diffusion(nodes), nodes < first)
        return Line(len(edges) - 1, absorbing, *(array.ravel() for array in arrays))


def _zeros_of(expression: sp.Expr, process: Process) -> np.ndarray:
    """All zeros of a formula of one variable, kinks included."""
    found = all_zeros((expression,), process.variables)
    return found.places.ravel()


def _kinks(process: Process) -> list[float]:
    """Where drift or D has a kink or a jump: zeros of what stands in Abs, sign, Max, Piecewise and others."""
    (x,) = process.variables
    found = switches((process.drift[0], process.diffusion[0, 0]))
    places: list[float] = []
    for formula in (*found.jumps, *found.bends):
        if x in formula.free_symbols:
            with suppress(NotImplementedError):
                places += _zeros_of(formula, process).tolist()
    return places
