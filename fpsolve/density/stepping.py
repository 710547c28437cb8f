"""Steps in time of dP/dt = A P, with lengths chosen by an estimate of each step's error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.operator import factorised

#: γ of TR-BDF2 for which both stages share one matrix, and the constant of its third-order error.
GAMMA = 2.0 - np.sqrt(2.0)
ERROR = (-3.0 * GAMMA**2 + 4.0 * GAMMA - 2.0) / (12.0 * (2.0 - GAMMA))
#: The estimate, filtered twice, is 0.7 to 1.2 times the error on the negative axis; so much more is a bound.
SAFETY = 1.5
#: An interval between output times is halved at most this often.
HALVINGS = 50
Solve: TypeAlias = Callable[[np.ndarray], np.ndarray]
#: Factorised steps that are kept.
KEPT = 3
#: Steps that follow the mass that is left do so down to this share of it.
SMALLEST_LEFT = 1e-8


class Step(NamedTuple):
    """The density after a step, and the sum over cells of the absolute estimate of its error.

    Of a density with two columns the second is corrected by the estimate: it is of third order.
    """

    density: np.ndarray
    error: float


class Interval(NamedTuple):
    """Several steps: the density after them, the sum of their errors, the shortest, and the next to try.

    ``negative`` is the largest sum of −P over negative cells that was met.
    """

    density: np.ndarray
    error: float
    negative: float
    shortest: float
    guess: float


@dataclass
class Stepper:
    """TR-BDF2 steps of dP/dt = A P of any length; factorised matrices of recent lengths are kept.

    Second order, L-stable, mass-conserving: Bank et al., IEEE Trans. CAD 4, 436 (1985). The error of a step
    is the embedded estimate of Hosea, Shampine, Appl. Numer. Math. 20, 21 (1996), filtered twice through the
    implicit matrix, so that modes which a long step rightly kills do not count.
    """

    matrix: sparse.csc_matrix
    _kept: dict[float, tuple[Solve, Solve]] = field(default_factory=dict)

    def _solver(self, step: float) -> tuple[Solve, Solve]:
        """Solve with I − (γ/2) Δt A, with refinement and without."""
        if step not in self._kept:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            size = self.matrix.shape[0]
            implicit = (sparse.identity(size, format="csc") - 0.5 * GAMMA * step * self.matrix).tocsc()
            lu = factorised(implicit)

            def solve(right: np.ndarray) -> np.ndarray:
                result = lu.solve(right)
                return result + lu.solve(right - implicit @ result)

            self._kept[step] = solve, lu.solve
        return self._kept[step]

    def advance(self, density: np.ndarray, step: float) -> Step:
        """One step."""
        (solve, filtered), g = self._solver(step), GAMMA
        before = step * (self.matrix @ density)
        middle = solve(density + 0.5 * g * before)
        after = solve((middle / g - density * (1.0 - g) ** 2 / g) / (2.0 - g))
        slopes = before / g - step * (self.matrix @ middle) / (g * (1.0 - g))
        slopes += step * (self.matrix @ after) / (1.0 - g)
        estimate = filtered(filtered(2.0 * ERROR * slopes))
        if density.ndim == 1:
            return Step(after, SAFETY * float(np.abs(estimate).sum()))
        after[:, 1] += estimate[:, 1]
        return Step(after, SAFETY * float(np.abs(estimate[:, 0]).sum()))

    def interval(
        self,
        density: np.ndarray,
        span: float,
        longest: float,
        allowed: float,
        guess: float,
        whole_mass: float | None = None,
    ) -> Interval:
        """The density after a span of time.

        Steps are the span over powers of two, at most ``longest``, and aligned. A step whose error is above
        ``allowed`` is halved; the next one is twice as long if its error is expected below. With
        ``whole_mass``, the sum of the density at time 0, ``allowed`` follows the share of it that is left.
        """
        whole = 2**HALVINGS
        unit = span / whole
        limit = _power_of_two_below(longest / unit * (1 + 1e-9), whole)
        wanted = min(limit, _power_of_two_below(guess / unit, whole))
        position, total, negative, shortest = 0, 0.0, 0.0, whole
        while position < whole:
            length = min(wanted, position & -position or whole)
            step = self.advance(density, length * unit)
            left = 1.0 if whole_mass is None else max(float(density.T[0].sum()) / whole_mass, SMALLEST_LEFT)
            if step.error > left * allowed and length > 1:
                wanted = length // 2
                continue
            position, total, density = position + length, total + step.error, step.density
            negative, shortest = max(negative, float(-density[density < 0].sum())), min(shortest, length)
            wanted = min(limit, 2 * length if 8.0 * step.error < 0.8 * left * allowed else length)
        return Interval(density, total, negative, shortest * unit, wanted * unit)


def _power_of_two_below(value: float, largest: int) -> int:
    """The largest power of two that is at most ``value``, between 1 and ``largest``."""
    return 1 << min(max(int(np.floor(np.log2(min(max(value, 1.0), 2.0**60)))), 0), largest.bit_length() - 1)
