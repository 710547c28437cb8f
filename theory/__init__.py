"""Symbolic theory of SGD as a stochastic process: landscapes, noise, closed forms (sympy and numpy)."""

from theory import adiabatic, escape, flatness, phase_boundaries, slow_passage
from theory.expressions import parse_condition, parse_expression
from theory.landscape import CriticalPoint, Landscape, degenerate_valley, double_well, styblinski_tang
from theory.langevin import Diffusion, Langevin
from theory.noise import anisotropic, data_shift, hessian_proportional, isotropic, measured, random_shift

__all__ = [
    "CriticalPoint",
    "Diffusion",
    "Landscape",
    "Langevin",
    "adiabatic",
    "anisotropic",
    "data_shift",
    "degenerate_valley",
    "double_well",
    "escape",
    "flatness",
    "hessian_proportional",
    "isotropic",
    "measured",
    "parse_condition",
    "parse_expression",
    "phase_boundaries",
    "random_shift",
    "slow_passage",
    "styblinski_tang",
]
