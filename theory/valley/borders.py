"""Critical noise Δ_S* and the other borders of phases: I (sharp, x = 0) to II (flat), II to III (divergence).

The boundaries are named by the noise Δ_S = ησ at which they are crossed, or by σ at a given learning
rate η. Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), appendix and supplement S7–S9,
S34–S40; the finite-η ones are not in that paper. Where phase III really begins depends on how long one
waits, see :mod:`theory.valley.times`: the conditions on η⟨λ⟩ here lie far above it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import sympy as sp

from theory.evaluate import lambdified
from theory.landscape import Landscape, Parameter, exact
from theory.langevin import Langevin
from theory.noise import random_shift
from theory.valley.elimination import eliminate
from theory.valley.flatness import curvatures
from theory.valley.reduced import Order, Reduced


def transition_condition(reduced: Reduced) -> sp.Expr:
    """d(0) (ln p)''(0), which is negative while x = 0 is a maximum of p(x).

    Parameters
    ----------
    reduced : Reduced
        Of any order, of a landscape even in x; at order 0 the Itô prefactor is left out.

    Returns
    -------
    sympy.Expr
        b'(0) at order 0, else b'(0) − d''(0).
    """
    x = reduced.slow_variable
    condition = sp.diff(reduced.drift, x)
    if reduced.order > 0:
        condition -= sp.diff(reduced.diffusion, x, 2)
    return sp.factor(sp.expand(condition.subs(x, 0)))


class NoTransition(ValueError):
    """A valley whose flattest point is at x = 0 without noise already."""


def critical_noise(landscape: Landscape, *, order: Order = 1, cross_diffusion: bool = True) -> float:
    """Δ_S* at which x = 0 turns from the maximum of p(x) into a minimum (phase I to II).

    Parameters
    ----------
    landscape : Landscape
        A numeric valley, even in x, under random-shift noise.
    order : {0, 1, 2}
        0: the leading −ε/λ₁ (S34–S35); 1: with the Itô prefactor; 2: second-order elimination.
    cross_diffusion : bool
        Matters at order 2 only.

    Returns
    -------
    float
        The smallest positive root. Without one a NoTransition, a ValueError: the flattest point is at x = 0
        already.
    """
    delta_s = sp.Symbol("Delta_S", positive=True)
    process = Langevin(landscape, random_shift(delta_s=delta_s), cross_diffusion)
    condition = transition_condition(eliminate(process, order=order))
    numerator = sp.Poly(sp.numer(sp.together(condition)), delta_s)
    roots = [complex(r) for r in numerator.nroots(n=20, maxsteps=200)]
    scale = max((abs(r) for r in roots), default=1.0)
    positive = sorted(r.real for r in roots if abs(r.imag) < 1e-12 * scale and r.real > 1e-14)
    if not positive:
        raise NoTransition(f"no transition: the density keeps its maximum at x = 0 for {landscape.loss}")
    return positive[0]


def critical_sigma(landscape: Landscape, *, learning_rate: Parameter) -> sp.Expr:
    """σ* = −ε(1 − ηλ₀/2)/(λ₁η): the transition of the SGD map at finite learning rate.

    At fixed x the map has ⟨y²⟩ = Δ_S λ/(1 − ηλ/2) to leading order in Δ_S, so the boundary bends away from
    Δ_S* = −ε/λ₁. Not in the paper.

    Parameters
    ----------
    landscape : Landscape
        A two-variable valley. λ''(0) ≥ 0 is a ValueError: x = 0 is then the flattest point.
    learning_rate : number or sympy expression
        η.

    Returns
    -------
    sympy.Expr
    """
    curvature = floor_curvature(landscape)
    (x,), (y,) = landscape.slow, landscape.fast
    lift = sp.diff(landscape.loss.subs(y, 0), x, 2).subs(x, 0)
    bend = sp.diff(curvature, x, 2).subs(x, 0) / 2
    if bend.is_nonnegative:
        raise NoTransition(f"no transition: λ''(0)/2 = {bend} is not negative")
    rate, stiffness = exact(learning_rate, "learning_rate"), curvature.subs(x, 0)
    return -lift / stiffness * (1 - rate * stiffness / 2) / (bend * rate)


def sgd_fast_variance(landscape: Landscape, *, delta_s: Parameter, learning_rate: Parameter) -> sp.Expr:
    """⟨y²⟩ of the SGD map at fixed x: Δ_S λ/(1 − ηλ/2 − Δ_S λ'²/λ), for D = Δ_S H².

    Parameters
    ----------
    landscape : Landscape
        A two-variable valley.
    delta_s, learning_rate : number or sympy expression
        Δ_S = ησ and η; η = 0 gives the continuous-time value.

    Returns
    -------
    sympy.Expr
        In x. Diverges where the map's second moment does (S9).
    """
    curvature = floor_curvature(landscape)
    noise, rate = exact(delta_s, "delta_s"), exact(learning_rate, "learning_rate")
    slope = sp.diff(curvature, landscape.slow[0])
    return noise * curvature / (1 - rate * curvature / 2 - noise * slope**2 / curvature)


def equivalent_noise(landscape: Landscape, *, sigma: Parameter, learning_rate: Parameter) -> sp.Expr:
    """Δ_S = ησ/(1 − ηλ₀/2): continuous-time noise with the same ⟨y²⟩ at x = 0 as the SGD map.

    Theory for D = Δ_S H² near the transition is compared with the map at this Δ_S; the map's own
    transition, :func:`critical_sigma`, is where it equals Δ_S*.

    Parameters
    ----------
    landscape : Landscape
        A two-variable valley.
    sigma, learning_rate : number or sympy expression
        σ and η.

    Returns
    -------
    sympy.Expr
    """
    curvature = floor_curvature(landscape).subs(landscape.slow[0], 0)
    rate = exact(learning_rate, "learning_rate")
    return rate * exact(sigma, "sigma") / (1 - rate * curvature / 2)


def floor_curvature(landscape: Landscape) -> sp.Expr:
    """λ(x) = ∂²L/∂y² on the floor of a two-variable valley.

    Parameters
    ----------
    landscape : Landscape
        More or fewer than one slow and one fast variable are a ValueError.

    Returns
    -------
    sympy.Expr
    """
    if len(landscape.slow) != 1 or len(landscape.fast) != 1:
        raise ValueError(f"phase boundaries need one slow and one fast variable, not {landscape.variables}")
    return curvatures(landscape)[0]


@lru_cache(maxsize=64)
def flattest_point(landscape: Landscape, *, reach: float = 10.0) -> float:
    """x_F ≥ 0 with the smallest λ(x), for a valley even in x.

    Parameters
    ----------
    landscape : Landscape
        Numeric.
    reach : float
        The search covers 0 ≤ x ≤ reach.

    Returns
    -------
    float
    """
    curvature = lambdified(floor_curvature(landscape), landscape.slow)
    low, high = 0.0, reach
    for _ in range(40):  # a grid within a cell of the last grid's minimum
        grid = np.linspace(low, high, 201)
        k = int(np.argmin(curvature(grid)))
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, 200)]
        if high - low < 1e-9 * reach:
            break
    return 0.0 if low == 0.0 else float((low + high) / 2)


def divergence_noise(landscape: Landscape, *, learning_rate: float) -> float:
    """Δ_m ≈ √((2/(ηλ_F) − 1)/3)/|λ₁|: η⟨λ⟩ = 2 with κ taken at x = 0, far above the transition (S36–S40).

    An upper bound, and a poor one: walkers are lost at noise 50 to 100 times weaker, see
    :func:`theory.valley.times.divergence_sigma`.

    Parameters
    ----------
    landscape : Landscape
        A numeric two-variable valley.
    learning_rate : float
        η.

    Returns
    -------
    float
        0 where ηλ_F ≥ 2 already without noise, ``inf`` where λ₁ = 0.
    """
    (x,) = landscape.slow
    curvature = floor_curvature(landscape)
    flattest = float(curvature.subs(x, flattest_point(landscape)))
    bend = float(sp.diff(curvature, x, 2).subs(x, 0)) / 2
    if learning_rate * flattest >= 2:
        return 0.0
    if bend == 0:
        return math.inf
    return math.sqrt((2 / (learning_rate * flattest) - 1) / 3) / abs(bend)


def second_moment_limit(landscape: Landscape, *, sigma: float, learning_rate: float) -> float:
    """The smallest x ≥ x_F at which ⟨y²⟩ of the map grows: (1 − ηλ)² + 2ση²λ'² = 1 (S9).

    Parameters
    ----------
    landscape : Landscape
        A numeric two-variable valley, even in x.
    sigma, learning_rate : float
        σ and η.

    Returns
    -------
    float
        ``inf`` if there is none, x_F if y is unstable there already.
    """
    (x,) = landscape.slow
    curvature = floor_curvature(landscape)
    growth = (1 - learning_rate * curvature) ** 2 + 2 * sigma * (learning_rate * sp.diff(curvature, x)) ** 2
    g = lambdified(growth, landscape.slow)
    low = flattest_point(landscape)
    if g(low) >= 1:
        return low
    # Steps of 2 % are finer than any wiggle of a polynomial λ of low degree; then bisection.
    places = low + np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 700)])
    beyond = np.flatnonzero(g(places) >= 1)
    if not beyond.size:
        return math.inf
    low, high = places[beyond[0] - 1], places[beyond[0]]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if g(middle) >= 1 else (middle, high)
    return float(high)
