"""Integrals of e^{±Ψ} along a line, in logarithms: the numerics behind exact escape times.

Panels are cut until Ψ and ln D change by less than one on each; integrals inside a panel use 16
Gauss–Legendre points, sums over panels stay logarithms. 𝓛u = −f is solved by the Green function of the
line, a sum of positive terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from theory.escape.vanishing_noise import Function, dimension_at, verdict, zeros_of_noise
from theory.evaluate import lambdified
from theory.langevin import Process

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

    @classmethod
    def of(cls, process: Process, sign: float) -> Coefficients:
        b, D = process.drift[0], process.diffusion[0, 0]

        def along(expression) -> Function:
            function = lambdified(expression, process.variables)
            return lambda u: function(sign * u)

        potential = None
        if process.landscape is not None and not D.free_symbols:
            potential = along(process.landscape.loss / D)
        return cls(sign, along(sign * b), along(D), potential)

    def slope(self, u: np.ndarray) -> np.ndarray:
        """Ψ′ = −b/D."""
        return -self.drift(u) / self.diffusion(u)

    def natural_end(self, first: float, last: float) -> float:
        """Where e^{−Ψ}/D has become negligible on the far side, and stays so."""
        span = last - first
        distance = np.append(0.0, np.geomspace(1e-4 * span, REACH * span, 1500))
        width = np.diff(distance)[:, None]
        with np.errstate(all="ignore"):
            nodes = first - distance[:-1, None] - width * (_GAUSS_NODES + 1) / 2
            steps = (-self.slope(nodes) * width / 2 * _GAUSS_WEIGHTS).sum(axis=1)
            D = self.diffusion(first - distance[1:])
            # Mass per e-fold of distance, so that slow tails are not cut too early.
            weight = -np.cumsum(steps) - np.log(D) + np.log(distance[1:])
        bad = np.flatnonzero(np.isnan(weight) | (D <= 0))
        known = weight[: bad[0]] if bad.size else weight
        heavy = np.flatnonzero(known > known.max(initial=-np.inf) - TAIL)
        if not heavy.size or heavy[-1] + 1 >= len(known):
            place = self.sign * (first - distance[min(len(known), len(distance) - 1)])
            raise ValueError(
                f"the loss does not confine the walker away from the target (looked up to x={place:.3g}); "
                "give other_end="
            )
        return float(first - distance[heavy[-1] + 2])

    def check_positive(self, low: float, last: float, *, passes: float) -> None:
        """Refuse D ≤ 0 on the path, isolated zeros included; beyond ``passes`` say what they mean."""
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

    def panel_edges(self, low: float, high: float) -> np.ndarray:
        """Edges of panels on which Ψ and ln D change by less than one."""
        edges = np.linspace(low, high, 65)
        while True:
            probe = edges[:-1, None] + np.diff(edges)[:, None] * np.linspace(0, 1, 9)
            change = np.abs(self.slope(probe)).max(axis=1) * np.diff(edges)
            change = np.maximum(change, np.ptp(np.log(self.diffusion(probe)), axis=1))
            # At most four parts at once, so that panels grade towards the steep places.
            parts = np.clip(np.ceil(change), 1, 4).astype(int)
            if (parts == 1).all():
                return edges
            if parts.sum() > MAX_PANELS:
                raise ValueError("the potential changes too fast on the path for this quadrature")
            panels = zip(edges[:-1], edges[1:], parts, strict=True)
            pieces = [np.linspace(a, b, n + 1)[:-1] for a, b, n in panels]
            edges = np.append(np.concatenate(pieces), edges[-1])

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
