"""Readings of a noise that depends on the place: the Itô drift of Stratonovich and isothermal equations.

Sources: Gardiner, *Stochastic Methods* (2009), sec. 4.3.6; Hänggi, Thomas, Phys. Rep. 88, 207 (1982), and
Lau, Lubensky, Phys. Rev. E 76, 011123 (2007), for the isothermal reading, whose law for b = −D∇U is e^{−U}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import sympy as sp

Reading: TypeAlias = Literal["ito", "stratonovich", "isothermal"]


def ito_drift(
    drift: sp.Matrix, diffusion: sp.Matrix, variables: Sequence[sp.Symbol], reading: Reading
) -> sp.ImmutableMatrix:
    """The drift b̂ with which dX = b̂ dt + √(2D) dW in Itô's reading is the given process.

    * ``"ito"``: b̂ = b, the noise at the start of a step.
    * ``"stratonovich"``: b̂_i = b_i + ½ Σ_jk G_jk ∂_j G_ik, the noise in the middle; for a diagonal D that is
      b_i + ½ ∂_i D_ii.
    * ``"isothermal"``: b̂_i = b_i + Σ_j ∂_j D_ij, the noise at the end of a step (Hänggi, Klimontovich).

    A ValueError for an unknown reading, and for Stratonovich's where D depends on X and is not diagonal: the
    drift then depends on which root G of 2D drives the process, and D alone does not tell.
    """
    if reading not in get_args(Reading):
        raise ValueError(f"reading={reading!r} must be one of {', '.join(get_args(Reading))}")
    size, D = len(variables), sp.Matrix(diffusion)
    if reading == "isothermal":
        lift = [sum((D[i, j].diff(variables[j]) for j in range(size)), sp.Integer(0)) for i in range(size)]
    elif reading == "ito" or not D.free_symbols & set(variables):
        lift = [sp.Integer(0)] * size
    elif D.is_diagonal():
        lift = [D[i, i].diff(variables[i]) / 2 for i in range(size)]
    else:
        raise ValueError(
            "the Stratonovich drift of a D with off-diagonal entries depends on which root of 2D drives the "
            "process: add ½ Σ G_jk ∂_j G_ik to the drift by hand and give reading='ito'"
        )
    return sp.ImmutableMatrix(sp.Matrix(drift) + sp.Matrix(lift))
