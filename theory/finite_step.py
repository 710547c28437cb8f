"""Itô processes that follow the map X + η b(X) + √(2ηD(X)) ξ to the next order in its step η.

One step of the map and e^{η𝓛̃} agree up to O(η³) for 𝓛̃ = 𝓛 + η(A₂ − 𝓛²/2), where 𝓛 = b·∂ + D:∂∂ and
A₂ is ½𝓛² with its coefficients held fixed (backward error analysis of one Euler–Maruyama step, which for
dt = η is one iteration of SGD). With J = ∂b/∂X, so J = −H for a landscape, that is

* b̃ = b − (η/2) 𝓛b, for a landscape −∇(L + (η/4)|∇L|²) + (η/2) D:∇∇∇L,
* D̃ = D − (η/2)(J D + D Jᵀ + 𝓛D), for a landscape D + (η/2)(HD + DH − 𝓛D),
* and third derivatives −η Σ_k D_kl (∂_k D_ij) ∂_l∂_i∂_j, which no Itô process has.

For constant D the third derivatives vanish and the process is complete. Otherwise they are as large as
(η/2) D:∂∂D, of second order in the noise: a density is then right to O(η), with a remainder of O(ηD²).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import sympy as sp

Form: TypeAlias = Literal["small-noise", "expanded", "stationary", "drift-only"]


def corrected_drift(
    b: sp.Matrix, D: sp.Matrix, variables: Sequence[sp.Symbol], *, step: sp.Expr, form: Form
) -> sp.Matrix:
    """b̃ = b − (η/2) 𝓛b, and η 𝓛D' more in the stationary form, which has one variable."""
    corrected = b - step / 2 * _generator(b, b, D, variables)
    if form == "stationary":
        corrected += step * _generator(D.diff(variables[0]), b, D, variables)
    return corrected


def corrected_diffusion(
    b: sp.Matrix, D: sp.Matrix, variables: Sequence[sp.Symbol], *, step: sp.Expr, form: Form
) -> sp.Matrix:
    """D̃ = D − (η/2)(J D + D Jᵀ + 𝓛D), and η(bD' + 2DD'') more in the stationary form (one variable)."""
    J = b.jacobian(variables)
    corrected = D - step / 2 * (J * D + D * J.T + _generator(D, b, D, variables))
    if form == "stationary":
        slope = D.diff(variables[0])
        corrected += step * (b * slope + 2 * D * slope.diff(variables[0]))
    return corrected


def corrected_root(b: sp.Matrix, G: sp.Matrix, variables: Sequence[sp.Symbol], *, step: sp.Expr) -> sp.Matrix:
    """G̃ = G − (η/2)(J G + b·∂G), for which G̃ G̃ᵀ = 2D̃ up to O(η²) and O(ηD²)."""
    return G - step / 2 * (b.jacobian(variables) * G + _advection(G, b, variables))


def corrected_loss(loss: sp.Expr, D: sp.Matrix, variables: Sequence[sp.Symbol], *, step: sp.Expr) -> sp.Expr:
    """L + (η/4)|∇L|² − (η/2) D:∇∇L, of which b̃ is minus the gradient where D is constant."""
    gradient, hessian = sp.Matrix([loss]).jacobian(variables), sp.hessian(loss, variables)
    bending = sum(D.multiply_elementwise(hessian), sp.Integer(0))
    return loss + step / 4 * gradient.dot(gradient) - step / 2 * bending


def _advection(f: sp.Matrix, b: sp.Matrix, variables: Sequence[sp.Symbol]) -> sp.Matrix:
    """b·∂f of every entry of f."""
    pairs = list(zip(b, variables, strict=True))
    return f.applyfunc(lambda entry: sum((c * sp.diff(entry, v) for c, v in pairs), sp.Integer(0)))


def _generator(f: sp.Matrix, b: sp.Matrix, D: sp.Matrix, variables: Sequence[sp.Symbol]) -> sp.Matrix:
    """𝓛f = b·∂f + D:∂∂f of every entry of f."""
    pairs = [(D[i, j], v, w) for i, v in enumerate(variables) for j, w in enumerate(variables)]
    bent = f.applyfunc(lambda entry: sum((c * sp.diff(entry, v, w) for c, v, w in pairs), sp.Integer(0)))
    return _advection(f, b, variables) + bent
