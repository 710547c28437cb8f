"""Zeros of the noise on a path, and whether a walker can pass them.

For dX = b dt + √(2D) dW with D ≈ D′r at distance r before a zero of D, R = 2r/D′ obeys
dR = δ dt + 2√R dW: a squared-Bessel process of dimension δ = −2b/D′ (b counted towards the zero; for a
landscape δ = 2L′/D′). At the zero itself only the drift acts, so δ > 0 turns every walker back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from theory.evaluate import lambdified
from theory.langevin import Process

Function: TypeAlias = Callable[[np.ndarray], np.ndarray]

#: D at a zero, relative to D one sample away: golden-section search reaches 1e-8 of a sample for D ∝ r².
_VANISHING = 1e-6
_SAMPLES = 20_001


def inflection_dimension(process: Process, *, start: float, target: float) -> list[tuple[float, float]]:
    """Zeros of D between two points of one variable, with the squared-Bessel dimension δ there.

    δ = 2 L′ / (dD/dx), both taken towards the zero from ``start``. δ ≥ 2: the walker never reaches the
    zero. 0 < δ < 2: it touches the zero, but the drift, alone there, turns it back. In both cases the mean
    time to the far side is infinite. δ < 0: the drift carries it through.

    For D = (η/2B)|L″| the zeros are the inflection points of L and δ = (4B/η) L′/|L‴|; there Theorem 3.2 of
    Xie, Sato, Sugiyama is no statement about this D: it rests on a temperature that stays constant near
    each end. Real escapes come from finite steps and from the noise's higher orders. Sources: Xie, Sato,
    Sugiyama, ICLR 2021, Eqs. 7 and 51 (neglects ∇D at the ends); Revuz, Yor, *Continuous Martingales and
    Brownian Motion* (1999), ch. XI (squared-Bessel processes).

    Parameters
    ----------
    process : Process
        One variable, numeric; otherwise a ValueError.
    start, target : float
        The path; a ValueError if the points coincide.

    Returns
    -------
    list of (place, dimension)
        In the order of the path. The dimension is ±inf where D touches zero with zero slope (as D ∝ H²
        does) and NaN where drift and noise vanish together so. Zeros closer than 5e-5 of the path are seen
        as one.

    Examples
    --------
    >>> from theory import Langevin, double_well, hessian_proportional
    >>> sgd = Langevin(double_well(), hessian_proportional(learning_rate=0.1, batch_size=5))
    >>> [(place, dimension)] = inflection_dimension(sgd, start=-1, target=0)
    >>> round(place, 6), round(dimension, 4)  # 2 · 0.3849 / (0.01 · 3.4641): never reached
    (-0.57735, 22.2222)
    """
    if len(process.variables) != 1 or process.free_parameters:
        raise ValueError("inflection_dimension needs one variable and no free parameters")
    start, target = float(start), float(target)
    if start == target or not np.isfinite([start, target]).all():
        raise ValueError(f"start={start:g} and target={target:g} must be finite and differ")
    b, D = (lambdified(f, process.variables) for f in (process.drift[0], process.diffusion[0, 0]))
    places = zeros_of_noise(D, np.linspace(start, target, _SAMPLES))
    return [(place, dimension_at(place, b, D, step=1e-4 * (target - start))) for place in places]


def zeros_of_noise(D: Function, line: np.ndarray) -> list[float]:
    """Points of a monotonic ``line`` (ends included) where D falls to zero or below, in its order."""
    with np.errstate(all="ignore"):
        values = np.asarray(D(line))
        left, right = np.append(np.inf, values[:-1]), np.append(values[1:], np.inf)
        # A minimum that is deep between samples; constant or smooth D gives no candidates.
        dips = (values < left) & (values <= right) & (values < 0.9 * np.maximum(left, right))
        found: list[float] = []
        for k in map(int, np.flatnonzero(np.asarray(dips | (values <= 0)))):
            low, high = line[max(k - 1, 0)], line[min(k + 1, len(line) - 1)]
            place = _lowest(D, low, high)
            near = max(float(D(np.array(low))), float(D(np.array(high))))
            vanishes = float(D(np.array(place))) <= _VANISHING * near or values[k] <= 0
            if vanishes and not (found and abs(place - found[-1]) <= abs(high - low)):
                found.append(place)
    return found


def _lowest(D: Function, low: float, high: float) -> float:
    """Golden-section search for the minimum of D between two points."""
    for _ in range(80):
        c, d = high - 0.618 * (high - low), low + 0.618 * (high - low)
        inner = D(np.array([c, d]))
        low, high = (low, d) if inner[0] < inner[1] else (c, high)
    return float((low + high) / 2)


def dimension_at(place: float, b: Function, D: Function, *, step: float) -> float:
    """δ at a zero of D that is approached along the sign of ``step``."""
    towards = float(b(np.array(place))) * math.copysign(1.0, step)
    far, near = (float(D(np.array(place - step * h))) / abs(step * h) for h in (1.0, 0.5))
    if near < 0.7 * far:  # D/r halves with r: zero slope
        return -math.inf * towards if towards else math.nan
    slope = 2.0 * near - far  # removes the error of first order in the step
    return -2.0 * towards / slope


def verdict(dimension: float) -> str:
    """What a dimension means for a walker that has to pass."""
    if dimension >= 2:
        return f"dimension {dimension:.3g} >= 2: never reached, the time to the far side is infinite"
    if dimension > 0:
        return f"dimension {dimension:.3g}: reached but not crossed, the time to the far side is infinite"
    return f"dimension {dimension:.3g}: the drift carries the walker through, which this quadrature omits"
