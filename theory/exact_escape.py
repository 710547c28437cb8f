"""Exact first-passage times in one dimension by quadrature in log space.

For dX = b dt + √(2D) dW and Ψ = −∫ b/D, with an absorbing target and a natural or reflecting other end,

    T(x) = ∫_x^target dy e^{Ψ(y)} ∫_end^y dz e^{−Ψ(z)}/D(z).

Panels are cut until Ψ changes by less than one on each; integrals inside a panel use 16 Gauss–Legendre
points and sums over panels are kept as logarithms, so mean times of e^{500} lose no digit.
Source: Gardiner, *Stochastic Methods* (2009), sec. 5.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.polynomial import legendre

from theory.langevin import Process

POINTS = 16
#: A natural end is cut where e^{−Ψ} has fallen by this exponent below its maximum.
TAIL = 60.0
MAX_PANELS = 200_000


def exact_log_mean_time(
    process: Process, start: float, target: float, *, other_end: float | None = None
) -> float:
    """ln of the mean time to reach ``target`` from ``start``; see :func:`exact_mean_time`.

    Parameters
    ----------
    process, start, target, other_end
        As there.

    Returns
    -------
    float
        Finite where the time itself would overflow.
    """
    line = _Line.of(process, start, target, other_end)
    return float(_log_sum(line.outer_from_start()))


def exact_mean_time(
    process: Process, start: float, target: float, *, other_end: float | None = None
) -> float:
    """Mean first-passage time in one dimension, right to 1e-9.

    Parameters
    ----------
    process : Process
        One variable, numeric; constant or position-dependent D > 0.
    start, target : float
        Where the walker starts, and the absorbing point on either side of it.
    other_end : float, optional
        A reflecting wall on the far side of the start; default a natural boundary at infinity.

    Returns
    -------
    float
        T in units of time. To a saddle it is half the time to the other well (for high barriers):
        from the top the walker returns with probability one half.

    Raises
    ------
    ValueError
        If the process is not one-dimensional, D is not positive on the path, start and target
        coincide, or the loss does not confine the walker on the far side.
    OverflowError
        If the time exceeds the largest float; use :func:`exact_log_mean_time`.

    References
    ----------
    Gardiner, *Stochastic Methods* (2009), Eq. 5.5.24 ff.

    Examples
    --------
    >>> from theory import Langevin, double_well, isotropic
    >>> round(exact_mean_time(Langevin(double_well(), isotropic(0.05)), -1, 0), 8)
    361.9037595
    """
    return math.exp(exact_log_mean_time(process, start, target, other_end=other_end))


def exact_second_moment(
    process: Process, start: float, target: float, *, other_end: float | None = None
) -> float:
    """⟨T²⟩ of the first-passage time: 𝓛T₂ = −2T₁.

    Parameters
    ----------
    process, start, target, other_end
        As in :func:`exact_mean_time`.

    Returns
    -------
    float
        For a high barrier 2⟨T⟩²: the law is exponential.
    """
    line = _Line.of(process, start, target, other_end)
    return 2.0 * math.exp(float(_log_sum(line.outer_from_start(weight=line.log_mean_time_everywhere()))))


def exact_splitting_probability(process: Process, start: float, *, target: float, other: float) -> float:
    """Probability to reach ``target`` before ``other``: ∫_other^start e^Ψ / ∫_other^target e^Ψ.

    Parameters
    ----------
    process : Process
        One variable, numeric.
    start : float
        Between the two.
    target, other : float
        The absorbing ends.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the start is not between the ends.
    """
    _check_between(start, target, other)
    line = _Line.of(process, start, target, other)
    terms = line.psi + np.log(line.weights)
    return float(np.exp(_log_sum(terms[line.before_start]) - _log_sum(terms)))


def exact_exit_time(process: Process, start: float, *, ends: tuple[float, float]) -> float:
    """Mean time to leave an interval with two absorbing ends.

    Parameters
    ----------
    process : Process
        One variable, numeric.
    start : float
        Inside the interval.
    ends : pair of float
        The absorbing ends.

    Returns
    -------
    float
        From the Green function, a sum of positive terms.

    Raises
    ------
    ValueError
        If the start is not inside.
    """
    other, target = sorted(map(float, ends))
    _check_between(start, target, other)
    line = _Line.of(process, start, target, other)
    scale = line.psi + np.log(line.weights)
    whole = _log_sum(scale)
    below, above = line.running(scale), line.running(scale[::-1])[::-1]
    left, right = _log_sum(scale[line.before_start]), _log_sum(scale[~line.before_start])
    source = -line.psi - np.log(line.D) + np.log(line.weights)
    terms = np.where(line.before_start, right + below, left + above) + source - whole
    return math.exp(float(_log_sum(terms)))


def _check_between(start: float, target: float, other: float) -> None:
    if not min(target, other) < start < max(target, other):
        raise ValueError(f"start={start:g} must lie between the ends {other:g} and {target:g}")


@dataclass(frozen=True)
class _Line:
    """Quadrature nodes from the far end to the target, in panels, with Ψ and D on them."""

    nodes: np.ndarray  # (panels, POINTS), flattened
    weights: np.ndarray
    psi: np.ndarray
    D: np.ndarray
    before_start: np.ndarray
    panels: int

    @classmethod
    def of(cls, process: Process, start: float, target: float, other_end: float | None) -> _Line:
        start, target = float(start), float(target)
        _check_process(process)
        if start == target or not np.isfinite([start, target]).all():
            raise ValueError(f"start={start:g} and target={target:g} must be finite and differ")
        sign = 1.0 if target > start else -1.0
        functions = _Functions.of(process, sign)
        first, last = sign * start, sign * target
        if other_end is None:
            low = functions.natural_end(first, last)
        else:
            low = sign * float(other_end)
            if not low < first:
                raise ValueError(f"other_end={other_end:g} must lie on the far side of start={start:g}")
        functions.check_positive(low, last)
        edges = np.concatenate([functions.panel_edges(low, first), functions.panel_edges(first, last)[1:]])
        nodes, weights, psi, D = functions.on_panels(edges)
        return cls(
            nodes.ravel(), weights.ravel(), psi.ravel(), D.ravel(), nodes.ravel() < first, len(edges) - 1
        )

    def running(self, log_terms: np.ndarray) -> np.ndarray:
        """ln of the integral from the first node's panel start up to each node (Gauss weights inside)."""
        local = log_terms.reshape(self.panels, POINTS)
        totals = np.logaddexp.reduce(local, axis=1)
        before = np.concatenate([[-np.inf], np.logaddexp.accumulate(totals)[:-1]])
        # Inside a panel: ∫ up to the node from the polynomial through the panel's nodes.
        peak = local.max(axis=1, keepdims=True)
        density = np.exp(local - peak) / _GAUSS_WEIGHTS
        inner = np.maximum(density @ _PARTIAL.T, 1e-300)
        return np.logaddexp(before[:, None], np.log(inner) + peak).ravel()

    def outer_from_start(self, weight: np.ndarray | float = 0.0) -> np.ndarray:
        """ln of e^Ψ ∫ e^{−Ψ} w/D dz times quadrature weights, on the nodes after the start."""
        inner = self.running(-self.psi - np.log(self.D) + np.log(self.weights) + weight)
        return (self.psi + inner + np.log(self.weights))[~self.before_start]

    def log_mean_time_everywhere(self) -> np.ndarray:
        """ln T₁ on every node."""
        inner = self.running(-self.psi - np.log(self.D) + np.log(self.weights))
        terms = self.psi + inner + np.log(self.weights)
        return self.running(terms[::-1])[::-1]


@dataclass(frozen=True)
class _Functions:
    """b, D and Ψ along u = ±x, oriented so that the target lies at larger u."""

    slope: object  # Ψ'(u) = −b/D in the oriented coordinate
    diffusion: object
    potential: object | None  # Ψ itself where D is constant and there is a loss

    @classmethod
    def of(cls, process: Process, sign: float) -> _Functions:
        (x,) = process.variables
        b, D = process.drift[0], process.diffusion[0, 0]

        def along(expression: sp.Expr):
            function = sp.lambdify(x, expression, "numpy")
            return lambda u: np.broadcast_to(np.asarray(function(sign * u), float), np.shape(u))

        potential = None
        if process.landscape is not None and not D.free_symbols:
            potential = along(process.landscape.loss / D)
        return cls(along(-sign * b / D), along(D), potential)

    def natural_end(self, first: float, last: float) -> float:
        """Where e^{−Ψ}/D has become negligible on the far side."""
        reach = max(1.0, last - first)
        for _ in range(60):
            line = np.linspace(first - reach, last, 4001)
            slope = self.slope(line)  # type: ignore[operator]
            psi = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(line))])
            weight = -psi - np.log(np.maximum(self.diffusion(line), 1e-300))  # type: ignore[operator]
            high = np.flatnonzero(weight > weight.max() - TAIL)
            if high[0] > 0:
                return float(line[high[0] - 1])
            reach *= 1.5
        raise ValueError("the loss does not confine the walker away from the target; give other_end=")

    def check_positive(self, low: float, last: float) -> None:
        """Refuse D ≤ 0 on the path, isolated zeros included."""
        line = np.linspace(low, last, 20_001)
        D = self.diffusion(line)  # type: ignore[operator]
        if not np.isfinite(D).all() or not np.isfinite(self.slope(line)).all():  # type: ignore[operator]
            raise ValueError("drift or D is not finite on the path")
        k = int(np.argmin(D))
        a, b = line[max(k - 1, 0)], line[min(k + 1, len(line) - 1)]
        for _ in range(80):  # golden-section search for the smallest D
            c, d = b - 0.618 * (b - a), a + 0.618 * (b - a)
            inner = self.diffusion(np.array([c, d]))  # type: ignore[operator]
            a, b = (a, d) if inner[0] < inner[1] else (c, b)
        smallest = float(self.diffusion(np.array([(a + b) / 2]))[0])  # type: ignore[operator]
        if not smallest > 1e-9 * float(np.max(D)):
            raise ValueError(
                f"non-positive D on the path: D = {smallest:.2g} near |x| = {abs((a + b) / 2):.6g}; where "
                "noise vanishes and drift does not, the walker may never pass (see inflection_dimension)"
            )

    def panel_edges(self, low: float, high: float) -> np.ndarray:
        """Edges of panels on which Ψ changes by less than one."""
        edges = np.linspace(low, high, 65)
        while True:
            probe = edges[:-1, None] + np.diff(edges)[:, None] * np.linspace(0, 1, 9)
            change = np.abs(self.slope(probe)).max(axis=1) * np.diff(edges)  # type: ignore[operator]
            parts = np.ceil(np.maximum(change, 1.0)).astype(int)
            if (parts == 1).all():
                return edges
            if parts.sum() > MAX_PANELS:
                raise ValueError("the potential changes too fast on the path for this quadrature")
            pieces = [
                np.linspace(a, b, n + 1)[:-1] for a, b, n in zip(edges[:-1], edges[1:], parts, strict=True)
            ]
            edges = np.append(np.concatenate(pieces), edges[-1])

    def on_panels(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Nodes, weights, Ψ and D on all panels, (panels, POINTS) each."""
        width = np.diff(edges)[:, None]
        nodes = edges[:-1, None] + width * (_GAUSS_NODES + 1) / 2
        weights = width / 2 * _GAUSS_WEIGHTS
        D = self.diffusion(nodes)  # type: ignore[operator]
        if self.potential is not None:
            psi = np.asarray(self.potential(nodes))  # type: ignore[operator]
        else:
            slope = self.slope(nodes)  # type: ignore[operator]
            total = np.concatenate([[0.0], np.cumsum((slope * weights).sum(axis=1))[:-1]])
            psi = total[:, None] + slope @ _PARTIAL.T * width / 2
        return nodes, weights, psi - psi.min(), D


def _check_process(process: Process) -> None:
    if len(process.variables) != 1:
        raise ValueError(
            f"exact times are one-dimensional; this process has {len(process.variables)} variables"
        )
    if process.free_parameters:
        raise ValueError(f"give values to the parameters {', '.join(process.free_parameters)} first")


def _log_sum(terms: np.ndarray) -> np.floating:
    """ln Σ exp(terms)."""
    return np.logaddexp.reduce(terms)


def _partial_weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss nodes and weights on [−1, 1], and the matrix of integrals from −1 to each node."""
    nodes, weights = legendre.leggauss(POINTS)
    modes = legendre.legvander(nodes, POINTS - 1)
    integrals = np.stack(
        [
            np.polynomial.legendre.legval(nodes, np.polynomial.legendre.legint(row, lbnd=-1))
            for row in np.eye(POINTS)
        ],
        axis=1,
    )
    return nodes, weights, integrals @ np.linalg.inv(modes)


_GAUSS_NODES, _GAUSS_WEIGHTS, _PARTIAL = _partial_weights()
