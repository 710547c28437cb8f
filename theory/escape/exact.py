"""Exact mean first-passage times in one dimension, by quadrature in log space.

For dX = b dt + √(2D) dW (Itô) and Ψ = −∫ b/D, with an absorbing target and a natural or reflecting other
end,

    T(x) = ∫_x^target dy e^{Ψ(y)} ∫_end^y dz e^{−Ψ(z)}/D(z).

Integrals are kept as logarithms, so mean times of e^{500} lose no digit. The panels are halved until the
value no longer changes. Interval bounds see every feature of the loss, however narrow; a function that has
none may hide a feature, whose place goes into ``breakpoints``.
Source: Gardiner, *Stochastic Methods* (2009), sec. 5.5.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, Unpack

import numpy as np

from theory.escape.quadrature import Coefficients, Line
from theory.langevin import Process


class FarSide(TypedDict, total=False):
    """What lies behind the start; by default a natural boundary at infinity."""

    other_end: float | None
    wall: Literal["reflecting", "absorbing"]
    breakpoints: Sequence[float]


#: Accepted change of ln T when the panels are halved; a 16-point rule gains far more than it shows.
TOLERANCE = 1e-10


def exact_log_mean_time(process: Process, start: float, target: float, **far_side: Unpack[FarSide]) -> float:
    """ln of the mean time to reach ``target`` from ``start``.

    Parameters
    ----------
    process, start, target, other_end, wall, breakpoints
        As in :func:`exact_mean_time`, with the same errors but OverflowError.

    Returns
    -------
    float
        Finite where the time itself would overflow.
    """
    return _settled(Line.log_mean_time, process, start, target, **far_side)


def exact_mean_time(process: Process, start: float, target: float, **far_side: Unpack[FarSide]) -> float:
    """Mean first-passage time in one dimension, right to 1e-9 (Gardiner 2009, Eq. 5.5.24 ff.).

    Parameters
    ----------
    process : Process
        One variable, numeric; constant or position-dependent D > 0.
    start, target : float
        Where the walker starts, and the absorbing point on either side of it.
    other_end : float, optional
        The end of the line on the far side of the start; default a natural boundary at infinity.
    wall : {"reflecting", "absorbing"}
        What ``other_end`` does. With an absorbing one this is the mean time to leave the interval by
        either end.
    breakpoints : sequence of float, optional
        Places that panels shall not straddle; needed only for features of functions without interval bounds.

    Returns
    -------
    float
        T in units of time. To a saddle it is half the time to the other well (for high barriers):
        from the top the walker returns with probability one half. A ValueError if the process is not
        one-dimensional, D is not positive on the path (a zero of D is named with what it means, see
        :func:`inflection_dimension`), start and target coincide, or the loss does not confine the walker on
        the far side. An OverflowError if the time exceeds the largest float; use
        :func:`exact_log_mean_time`. A UserWarning if halving the panels still changes ln T by
        more than 1e-10.

    Examples
    --------
    >>> from theory import Langevin, double_well, isotropic
    >>> round(exact_mean_time(Langevin(double_well(), isotropic(0.05)), -1, 0), 8)
    361.9037595
    """
    return _exp(_settled(Line.log_mean_time, process, start, target, **far_side), "mean time")


def exact_second_moment(process: Process, start: float, target: float, **far_side: Unpack[FarSide]) -> float:
    """⟨T²⟩ of the first-passage time: 𝓛T₂ = −2T₁.

    Parameters
    ----------
    process, start, target, other_end, wall, breakpoints
        As in :func:`exact_mean_time`, with the same errors.

    Returns
    -------
    float
        In units of time², right to 1e-9. For a high barrier 2⟨T⟩²: the law is exponential.
    """
    return _exp(_settled(Line.log_second_moment, process, start, target, **far_side), "second moment")


def exact_splitting_probability(process: Process, start: float, *, target: float, other: float) -> float:
    """Probability to reach ``target`` before ``other``: ∫_other^start e^Ψ / ∫_other^target e^Ψ.

    Parameters
    ----------
    process : Process
        One variable, numeric, D > 0 between the ends; otherwise a ValueError.
    start, target, other : float
        The start, between the absorbing ends; otherwise a ValueError.

    Returns
    -------
    float
        In [0, 1].
    """
    _check_between(start, target, other)
    logarithm = _settled(Line.log_splitting, process, start, target, other_end=other, wall="absorbing")
    return _exp(logarithm, "probability")


def exact_exit_time(process: Process, start: float, *, ends: tuple[float, float]) -> float:
    """Mean time to leave an interval with two absorbing ends.

    Parameters
    ----------
    process : Process
        One variable, numeric, D > 0 in the interval; otherwise a ValueError.
    start : float
        Inside the interval; otherwise a ValueError.
    ends : pair of float
        The absorbing ends, in either order.

    Returns
    -------
    float
        From the Green function, a sum of positive terms, right to 1e-9.
    """
    other, target = sorted(map(float, ends))
    _check_between(start, target, other)
    return exact_mean_time(process, start, target, other_end=other, wall="absorbing")


def _check_between(start: float, target: float, other: float) -> None:
    if not min(target, other) < start < max(target, other):
        raise ValueError(f"start={start:g} must lie between the ends {other:g} and {target:g}")


def _exp(logarithm: float, name: str) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        raise OverflowError(
            f"the {name} is e^{logarithm:.6g}, above the largest float; use exact_log_mean_time"
        ) from None


def _settled(
    value: Callable[[Line], float], process: Process, start: float, target: float, **far_side: Unpack[FarSide]
) -> float:
    """A logarithm of the quadrature, on panels halved until it changes by less than the tolerance."""
    functions, edges, first = _prepared(process, float(start), float(target), **far_side)
    previous, change = math.inf, math.inf
    for _ in range(5):
        line = functions.line(edges, first, absorbing=far_side.get("wall") == "absorbing")
        result = value(line)
        change = abs(result - previous)
        # ln T is a difference of Ψ: its own rounding cannot be beaten.
        if change <= max(TOLERANCE, 1e-15 * float(np.ptp(line.psi))):
            return result
        # Between two kinks one rounding apart the middle is one of them
        previous, edges = result, np.unique(np.append(edges, (edges[1:] + edges[:-1]) / 2))
    warnings.warn(f"the quadrature is right to {change:.1e} only: the path is too rough", stacklevel=3)
    return previous


def _prepared(
    process: Process,
    start: float,
    target: float,
    other_end: float | None = None,
    wall: str = "reflecting",
    breakpoints: Sequence[float] = (),
) -> tuple[Coefficients, np.ndarray, float]:
    """Checked coefficients, panel edges and the start, in the coordinate that grows towards the target."""
    if len(process.variables) != 1:
        raise ValueError(f"exact times are one-dimensional, not of {len(process.variables)} variables")
    if process.free_parameters:
        raise ValueError(f"give values to the parameters {', '.join(process.free_parameters)} first")
    if wall not in ("reflecting", "absorbing"):
        raise ValueError(f"wall={wall!r} must be 'reflecting' or 'absorbing'")
    if start == target or not np.isfinite([start, target]).all():
        raise ValueError(f"start={start:g} and target={target:g} must be finite and differ")
    sign = 1.0 if target > start else -1.0
    functions = Coefficients.of(process, sign)
    first, last = sign * start, sign * target
    natural = other_end is None or sign * float(other_end) == -math.inf
    if natural and wall == "absorbing":
        raise ValueError("wall='absorbing' needs a finite other_end")
    if natural:
        functions.check_positive(first, last, passes=first)
        low = functions.natural_end(first, last)
    else:
        low = sign * float(other_end)  # type: ignore[arg-type]
        if not (low < first or (low == first and wall == "reflecting")):
            raise ValueError(f"other_end={other_end:g} must lie on the far side of start={start:g}")
    functions.check_positive(low, last, passes=first)
    edges = functions.panel_edges(first, last, breakpoints)
    if low < first:
        edges = np.concatenate([functions.panel_edges(low, first, breakpoints), edges[1:]])
    return functions, edges, first
