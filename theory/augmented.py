"""Processes of more variables made from a landscape or a process: velocities, coloured noise."""

from __future__ import annotations

import sympy as sp

from theory.landscape import Landscape, Parameter, positive
from theory.langevin import Diffusion, Process


def underdamped(landscape: Landscape, friction: Parameter, temperature: Parameter) -> Diffusion:
    """A particle of mass one with friction in a landscape: x' = v, v' = −∇L − γv + √(2γT) ξ.

    Its law is e^{−(L + v²/2)/T} whatever γ. For γ ≫ √|∇∇L| the places follow the overdamped equation with
    D = T/γ and drift −∇L/γ. Source: Risken, *The Fokker–Planck Equation* (1989), ch. 10.

    Parameters
    ----------
    landscape : Landscape
        L(x).
    friction, temperature : number or sympy expression
        γ (1/time) and T (units of the loss). A number that is not positive is a ValueError.

    Returns
    -------
    Diffusion
        In x and v_x for every variable x; a ValueError if the loss has symbols of these names.
    """
    gamma, T = positive(friction, "friction"), positive(temperature, "temperature")
    places = landscape.variables
    speeds = _beside(places, "v", landscape.loss.free_symbols)
    drift = [*speeds, *(-g - gamma * v for g, v in zip(landscape.gradient, speeds, strict=True))]
    noise = sp.diag(*[0] * len(places), *[gamma * T] * len(places))
    return Diffusion(sp.Matrix(drift), noise, (*places, *speeds), f"{landscape.name}, underdamped")


def coloured(process: Process, correlation_time: Parameter) -> Diffusion:
    """The process driven by noise of correlation time τ: X' = b + √(2D) z, z' = −z/τ + ξ/τ.

    Each z is an Ornstein–Uhlenbeck process with ⟨z(t) z(s)⟩ = e^{−|t − s|/τ}/2τ; for τ → 0 the process is
    that of Stratonovich's reading. Source: Hänggi, Jung, Adv. Chem. Phys. 89, 239 (1995).

    Parameters
    ----------
    process : Process
        With a root G of 2D in symbols; D may depend on the place.
    correlation_time : number or sympy expression
        τ > 0; a number that is not positive is a ValueError.

    Returns
    -------
    Diffusion
        In the variables of the process and one z for each noise.
    """
    tau, root = positive(correlation_time, "correlation_time"), sp.Matrix(process.root)
    driven = [k for k in range(root.cols) if any(root[:, k])]
    names = tuple(sp.Symbol(str(process.variables[min(k, root.rows - 1)])) for k in driven)
    colours = _beside(names, "z", sp.Matrix(process.drift).free_symbols | root.free_symbols)
    drift = sp.Matrix(process.drift) + root[:, driven] * sp.Matrix(colours)
    noise = sp.diag(*[0] * root.rows, *[1 / (2 * tau**2)] * len(driven))
    relax = sp.Matrix([-z / tau for z in colours])
    name = f"{process.name}, noise of correlation time {tau}"
    return Diffusion(drift.col_join(relax), noise, (*process.variables, *colours), name)


def _beside(variables: tuple[sp.Symbol, ...], letter: str, used: set) -> tuple[sp.Symbol, ...]:
    """A real symbol ``letter``_x for every variable x; a ValueError where one is taken."""
    names = [f"{letter}_{v}" for v in variables]
    if taken := sorted(set(names) & {str(s) for s in used}):
        raise ValueError(f"{', '.join(taken)} is used in the formulas; give it another name")
    return tuple(sp.Symbol(name, real=True) for name in names)
