"""Where the reduced slow process settles, and how long it takes to get there, or to get lost.

The search time is the mean first-passage time of the reduced process from a start to the steady state
x_ss (Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), supplement S44):

    T(x) = ∫_target^x dy e^{Ψ(y)} ∫_y^∞ dz e^{−Ψ(z)}/d(z),    Ψ = −∫ b/d.

The same formula gives the lifetime of phase II: the mean time until the walker comes to where ⟨y²⟩ of
the SGD map grows (S9) and the iteration runs away. That is what sets phase III in a run of finite
length; it is not in that paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import sympy as sp

from theory.evaluate import lambdified
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.noise import random_shift
from theory.valley.borders import flattest_point, floor_curvature, second_moment_limit
from theory.valley.elimination import eliminate
from theory.valley.reduced import Order
from theory.valley.step_map import eliminate_map

_NODES = 8000
#: Beyond this far past the start, walkers do not matter: the inner integral has decayed.
_MARGIN = 1.0


def steady_state(
    landscape: Landscape, *, delta_s: float, order: Order = 2, learning_rate: float = 0.0
) -> float:
    """x_ss ≥ 0: the mode of the reduced density p(x), of a valley even in x, at noise Δ_S.

    Parameters
    ----------
    landscape : Landscape
        A numeric two-variable valley.
    delta_s : float
        Δ_S = ησ.
    order : {0, 1, 2}
        Of the elimination; order 0 has no Itô prefactor.
    learning_rate : float
        Of the SGD map at this Δ_S = ησ, order 2 (:func:`theory.valley.step_map.eliminate_map`); 0:
        continuous time.

    Returns
    -------
    float
        0 in phase I.
    """
    b, _, slope = _coefficients(landscape, order, learning_rate)
    reach = max(2.0, 2.0 * flattest_point(landscape))
    places = np.linspace(0.0, reach, 20001)[1:]
    ascent = b(places, delta_s) - (slope(places, delta_s) if order else 0.0)  # d · (ln p)'
    falls = np.flatnonzero((ascent[:-1] > 0) & (ascent[1:] <= 0))
    if not falls.size:
        return 0.0
    k = falls[0]
    return float(places[k] + (places[1] - places[0]) * ascent[k] / (ascent[k] - ascent[k + 1]))


def search_time(
    landscape: Landscape,
    *,
    delta_s: float,
    start: float,
    target: float | None = None,
    order: Order = 2,
    learning_rate: float = 0.0,
) -> float:
    """τ_s: mean time of the reduced process |x| from ``start`` to ``target``, default x_ss (S44).

    Both wells of a valley even in x count as one: from below, |x| is reflected at 0.

    Parameters
    ----------
    landscape : Landscape
        A numeric two-variable valley.
    delta_s : float
        Δ_S = ησ.
    start, target : float
        At least 0.
    order : {0, 1, 2}
        Of the elimination; 0 and 1 have the same process.
    learning_rate : float
        Of the SGD map at this Δ_S = ησ, order 2. Continuous time, 0, is right for it only at
        :func:`theory.valley.borders.equivalent_noise` and near x = 0: on the reference valley at η = 0.04
        it is 15 to 22 % too slow above the transition, where the map's own process is right to 2–4 %.

    Returns
    -------
    float
        In units of time, η × iterations. Right to 10⁻³ (quadrature; see
        :func:`theory.escape.exact.exact_mean_time` for nine digits and a hundred times the cost). A
        ValueError if the start is the target, one of them is negative, or another order than 2 is asked of
        the map.
    """
    if target is None:
        target = steady_state(landscape, delta_s=delta_s, order=order, learning_rate=learning_rate)
    if start == target or start < 0 or target < 0:
        raise ValueError(f"start={start:g} must be at least 0 and differ from the target, {target:g}")
    distance = abs(start - target)
    fine = np.geomspace(1e-7, distance, _NODES // 2)
    path = np.unique(np.concatenate([fine, np.linspace(0, distance, _NODES // 2)]))
    if start > target:
        path, beyond = target + path, start + np.geomspace(1e-7, _MARGIN, _NODES // 4)
    else:
        path, beyond = target - path, np.linspace(start, 0.0, _NODES // 4)[1:] if start > 0 else np.array([])
    return math.exp(_log_time(_coefficients(landscape, order, learning_rate), delta_s, path, beyond))


def log_lifetime(landscape: Landscape, *, sigma: float, learning_rate: float, order: Order = 1) -> float:
    """ln of the mean time that phase II lasts: from x_F to where the map's ⟨y²⟩ grows (S9).

    Parameters
    ----------
    landscape : Landscape
        A numeric two-variable valley, even in x.
    sigma, learning_rate : float
        σ and η.
    order : {0, 1, 2}
        Of the elimination. At these noises it is used at the edge of its range.

    Returns
    -------
    float
        ``inf`` if y is stable everywhere, ``-inf`` if it is unstable at x_F already.
    """
    start = flattest_point(landscape)
    target = second_moment_limit(landscape, sigma=sigma, learning_rate=learning_rate)
    if not start < target < math.inf:
        return -math.inf if target <= start else math.inf
    path = np.linspace(target, start, _NODES // 4)
    beyond = np.linspace(start, 0.0, _NODES // 4)[1:] if start > 0 else np.array([])
    return _log_time(_coefficients(landscape, order), learning_rate * sigma, path, beyond)


def divergence_sigma(landscape: Landscape, *, learning_rate: float, time: float, order: Order = 1) -> float:
    """σ at which half of all walkers are lost within ``time`` (η × iterations): lifetime = time/ln 2.

    For a numeric two-variable valley, even in x; 0 if ηλ_F ≥ 2. Against simulation 5 to 35 % high on the
    reference valley for η from 0.01 to 0.2, where Δ_m/η (S40) is 30 to 100 times too high.
    """
    wanted = math.log(time / math.log(2))
    low, high = 1e-6, 1e3 / learning_rate
    if log_lifetime(landscape, sigma=low, learning_rate=learning_rate, order=order) < wanted:
        return 0.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        longer = log_lifetime(landscape, sigma=middle, learning_rate=learning_rate, order=order) > wanted
        low, high = (middle, high) if longer else (low, middle)
        if high < low * 1.0005:
            break
    return math.sqrt(low * high)


def divergence_learning_rate(landscape: Landscape, *, delta_s: float, order: Literal[1, 2] = 1) -> float:
    """η = 2/⟨λ⟩ with ⟨λ⟩ over the full reduced density p(x) at Δ_S: the first-order condition S7–S8.

    For a numeric two-variable valley, even in x, also at a Δ_S far outside the elimination's range. ⟨λ⟩
    grows little with noise (7.0 to 7.5 on the reference valley), so this border hardly depends on σ. Order 0
    is left out: without the Itô prefactor the density of a strong noise does not decay.
    """
    b, d, _ = _coefficients(landscape, order)
    reach = max(2.0, 3.0 * flattest_point(landscape))
    x = np.concatenate([np.linspace(0, reach, 12001), np.geomspace(reach, 30 * reach, 2001)[1:]])
    middle = (x[1:] + x[:-1]) / 2
    log_p = np.concatenate([[0.0], np.cumsum(b(middle, delta_s) / d(middle, delta_s) * np.diff(x))])
    log_p -= np.log(d(x, delta_s))
    p = np.exp(log_p - log_p.max())
    curvature = lambdified(floor_curvature(landscape), landscape.slow)(x)
    return float(2 * np.trapezoid(p, x) / np.trapezoid(p * curvature, x))


def _log_time(
    coefficients: Sequence[Callable], delta_s: float, path: np.ndarray, beyond: np.ndarray
) -> float:
    """ln T from path[-1] to path[0]; ``beyond`` goes on behind the start to the wall at its end.

    With I(y) = ∫_y^end e^{Ψ(y) − Ψ(z)}/d dz, T = ∫ I dy. I follows from its value at the next node, the
    interval's own share being exact for constant b/d: steep drifts need no fine grid.
    """
    b, d, _ = coefficients
    nodes = np.concatenate([path, beyond])
    h, middle = np.diff(nodes), (nodes[1:] + nodes[:-1]) / 2
    diffusion = d(middle, delta_s)
    if not (diffusion > 0).all():
        raise ValueError(f"the reduced diffusion is not positive at Δ_S={delta_s:g}")
    rise = -b(middle, delta_s) / diffusion * h  # Ψ(next) − Ψ(here)
    with np.errstate(all="ignore"):
        share = np.where(np.abs(rise) < 1e-8, 1.0, -np.expm1(-rise) / rise)
        # −expm1(−rise)/rise overflows where Ψ falls by hundreds within one interval
        log_share = np.where(rise < -500, -rise - np.log(np.abs(rise)), np.log(share))
    log_share += np.log(np.abs(h) / diffusion)
    log_inner = np.full(len(nodes), -np.inf)
    for i in range(len(nodes) - 2, -1, -1):
        log_inner[i] = np.logaddexp(log_inner[i + 1] - rise[i], log_share[i])
    along = log_inner[: len(path)]
    # between nodes I changes by decades where Ψ is steep: trapezoids of ln I
    left, right, step = along[:-1], along[1:], np.log(np.abs(np.diff(path)))
    gap = np.abs(right - left)
    with np.errstate(all="ignore"):
        log_mean = np.log(np.where(gap < 1e-6, 1.0, -np.expm1(-gap) / gap))
    return float(np.logaddexp.reduce(np.maximum(left, right) + log_mean + step))


@lru_cache(maxsize=32)
def _coefficients(landscape: Landscape, order: Order, learning_rate: float = 0.0) -> tuple[Callable, ...]:
    """b(x, Δ_S), d(x, Δ_S) and d'(x, Δ_S) of the elimination, on arrays."""
    delta_s = sp.Symbol("Delta_S", positive=True)
    if learning_rate and order != 2:
        raise ValueError(f"the map is eliminated to order 2 only, not {order}")
    if learning_rate:
        reduced = eliminate_map(landscape, delta_s=delta_s, learning_rate=learning_rate)
    else:
        reduced = eliminate(Langevin(landscape, random_shift(delta_s=delta_s)), order=order)
    x = reduced.slow_variable
    expressions = (reduced.drift, reduced.diffusion, sp.diff(reduced.diffusion, x))
    return tuple(lambdified(expression, (x, delta_s)) for expression in expressions)
