"""Slow diffusion of the SGD map: adiabatic elimination for steps of length η instead of continuous time.

In a valley with noise of shifted minibatches one step is, with a = ηλ(x) and μ ~ N(0, 2σ),

    y ← (1 − a) y + ηλ μ_y + …,    x ← x − η [½λ'y² − λ'y μ_y + ελ₀x − …].

At fixed x, y is an autoregression of variance s = Δ_S λ/(1 − a/2). The force along the valley has mean
−½λ's, and its fluctuations sum up to a diffusion (η/2) Σ_k ⟨δf_t δf_{t+k}⟩. By Isserlis' theorem, r = 1 − a,

    d(x) ∋ (s²λ'²/2λ) G(a),    G(a) = 3a/2 + r²/(2 − a),    G(0) = ½,

which is ¼ Δ_S² λλ'² in continuous time. The coefficient is the rest of three terms that cancel in part, so it
depends on the step far more than s does: at a = 0.3, where s is 18 % larger, d is twice as large.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from theory.landscape import Landscape, Parameter, exact
from theory.langevin import Langevin
from theory.noise import random_shift
from theory.valley.elimination import eliminate
from theory.valley.reduced import Reduced


def eliminate_map(landscape: Landscape, *, delta_s: Parameter, learning_rate: Parameter) -> Reduced:
    """The slow process of the SGD map with shifted minibatches in a valley, to second order.

    Δ_S becomes Δ_S/(1 − ηλ(x)/2) in drift and diffusion of :func:`theory.valley.elimination.eliminate`,
    and d(x) gains (G(ηλ) − ½) s²λ'²/2λ with the G of the module. Corrections of the drift other than that
    of ⟨y²⟩ are those of continuous time.

    Parameters
    ----------
    landscape : Landscape
        A valley of one slow and one fast variable, otherwise a NotImplementedError. One without a floor at
        y = 0 is a ValueError.
    delta_s : number or Symbol
        Δ_S = ησ.
    learning_rate : number or Symbol
        η; 0 gives ``eliminate(..., order=2)``.

    Returns
    -------
    Reduced
        Time is η × iterations.
    """
    symbol, eta = sp.Dummy("Delta_S", positive=True), exact(learning_rate)
    reduced = eliminate(Langevin(landscape, random_shift(delta_s=symbol)), order=2)
    if len(reduced.slow) != 1 or len(reduced.fast) != 1:
        raise NotImplementedError(
            f"the map is eliminated for one slow and one fast variable, not {reduced.slow} and {reduced.fast}"
        )
    curvature = reduced.curvatures[0]
    a = eta * curvature
    local = exact(delta_s) / (1 - a / 2)
    spread = local * curvature
    growth = sp.Rational(3, 2) * a + (1 - a) ** 2 / (2 - a)
    fluctuations = spread**2 * sp.diff(curvature, reduced.slow_variable) ** 2 / (2 * curvature)
    return replace(
        reduced,
        process=Langevin(landscape, random_shift(delta_s=delta_s)),
        drift=reduced.drift.subs(symbol, local),
        diffusion=reduced.diffusion.subs(symbol, local) + (growth - sp.Rational(1, 2)) * fluctuations,
        conditional_variance=(spread,),
    )
