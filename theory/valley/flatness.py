"""Flatness of a valley with several sharp variables, and the losses that SGD adds to it.

For L = ½ Σ_i λ_i(x) y_i² + V(x), in symbols; :mod:`theory.valley.wide` has the same for arrays of a hundred
variables. Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 6, 15, 16.
"""

from __future__ import annotations

import sympy as sp

from theory.landscape import Landscape, Parameter, exact


def curvatures(landscape: Landscape) -> tuple[sp.Expr, ...]:
    """λ_i(x) = ∂²L/∂y_i² on the floor y = 0, one per sharp variable.

    Parameters
    ----------
    landscape : Landscape
        With ``fast`` variables.

    Returns
    -------
    tuple of sympy.Expr

    Raises
    ------
    ValueError
        If the landscape has no fast or no slow variables.
    """
    if not landscape.fast or not landscape.slow:
        raise ValueError("flatness needs a landscape with slow and fast variables: Landscape(..., fast=(y,))")
    floor = dict.fromkeys(landscape.fast, 0)
    return tuple(sp.diff(landscape.loss, y, 2).subs(floor) for y in landscape.fast)


def log_flatness(landscape: Landscape) -> sp.Expr:
    """ln F(x) = −(1/2N_S) Σ_i ln λ_i (PRL 6).

    Parameters
    ----------
    landscape : Landscape

    Returns
    -------
    sympy.Expr
    """
    found = curvatures(landscape)
    return -sum(map(sp.log, found), sp.Integer(0)) / (2 * len(found))


def noise_strengths(landscape: Landscape, *, delta_s: Parameter) -> tuple[sp.Expr, ...]:
    """Δ_i = Δ_S λ_i(0)², the noise along each sharp variable at the origin.

    Parameters
    ----------
    landscape : Landscape
    delta_s : number or sympy expression
        Δ_S.

    Returns
    -------
    tuple of sympy.Expr
    """
    origin = dict.fromkeys(landscape.slow, 0)
    return tuple(exact(delta_s, "delta_s") * c.subs(origin) ** 2 for c in curvatures(landscape))


def log_weighted_flatness(landscape: Landscape) -> sp.Expr:
    """ln F̂(x) = Σ_i γ_i ln F_i with γ_i = Δ_i/ΣΔ_i (PRL 16).

    Parameters
    ----------
    landscape : Landscape

    Returns
    -------
    sympy.Expr
        Independent of Δ_S.
    """
    strengths = noise_strengths(landscape, delta_s=1)
    pairs = zip(strengths, curvatures(landscape), strict=True)
    return -sum(d * sp.log(c) for d, c in pairs) / (2 * sp.Add(*strengths))


def flatness_loss(landscape: Landscape, *, delta_s: Parameter, kappa: Parameter) -> sp.Expr:
    """L_SGD,F(x) = Σ_i (Δ̄ − κΔ_i) ln F_i(x), the flatness-dependent part of the effective loss (PRL 15).

    For constant noise, Δ_i along y_i and Δ̄/κ along every x_j, −Δ̄ ln P = L_SGD,F + κV on the floor y = 0.

    Parameters
    ----------
    landscape : Landscape
    delta_s, kappa : number or sympy expression
        Δ_S and the anisotropy κ.

    Returns
    -------
    sympy.Expr
    """
    strengths, ratio = noise_strengths(landscape, delta_s=delta_s), exact(kappa, "kappa")
    mean = sp.Add(*strengths) / len(strengths)
    return -sum(
        (mean - ratio * d) * sp.log(c) / 2 for d, c in zip(strengths, curvatures(landscape), strict=True)
    )


def averaged_loss(landscape: Landscape, *, delta_s: Parameter, learning_rate: Parameter = 0) -> sp.Expr:
    """U(x) = V + ¼ Δ_S Σ_i λ_i², whose gradient x descends on average under random shifts.

    With ⟨y_i²⟩ = Δ_S λ_i the averaged force ½ Σ_i ⟨y_i²⟩ ∇λ_i is itself a gradient, so that flatness is
    sought whatever the number of variables; near x = 0 it is −(ΣΔ_i) ∇ ln F̂. At a finite learning rate
    ⟨y_i²⟩ is Δ_S λ_i/(1 − ηλ_i/2) and ¼ λ_i² becomes −λ_i/η − (2/η²) ln(1 − ηλ_i/2). Not in the paper.

    Parameters
    ----------
    landscape : Landscape
    delta_s : number or sympy expression
        Δ_S.
    learning_rate : number or sympy expression
        η; 0 is continuous time.

    Returns
    -------
    sympy.Expr
        To leading order in Δ_S.
    """
    noise, rate = exact(delta_s, "delta_s"), exact(learning_rate, "learning_rate")
    floor = landscape.loss.subs(dict.fromkeys(landscape.fast, 0))
    if rate == 0:
        return floor + noise * sum(c**2 for c in curvatures(landscape)) / 4
    terms = (-c / rate - 2 * sp.log(1 - rate * c / 2) / rate**2 for c in curvatures(landscape))
    return floor + noise * sum(terms, sp.Integer(0))
