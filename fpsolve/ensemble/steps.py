"""One step of a walker as kernel text: Euler–Maruyama, a Taylor step of second order, or BAOAB.

- ``euler``: X + b dt + G √dt ξ, weak order one; with dt = η an iteration of SGD.
- ``taylor``, for constant G: X + b dt + ½ 𝓛b dt² + (G + ½ J G dt) √dt ξ with J = ∂b/∂X and
  𝓛b = J b + D:∂∂b, weak order two (Talay, Stochastics 9, 275 (1983); Kloeden, Platen 14.2).
- ``baoab``, for x' = v, v' = f(x) − γ v + noise, γ and G constant: half a kick, half a drift, friction and
  noise exactly, half a drift, half a kick; weak order two, and stable without friction (Leimkuhler,
  Matthews, Appl. Math. Res. Express 2013, 34).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import sympy as sp

from fpsolve.ensemble.domain import Domain, wall_lines
from fpsolve.ensemble.lanes import euler_maruyama
from fpsolve.symbols.functions import check_expressions
from fpsolve.symbols.source import Emitter
from theory.breakpoints import switches
from theory.evaluate import lambdified
from theory.langevin import Process

Scheme: TypeAlias = Literal["euler", "taylor", "baoab"]
#: Weak order of each scheme, and its name in results.
ORDER: dict[Scheme, int] = {"euler": 1, "taylor": 2, "baoab": 2}
TITLE: dict[Scheme, str] = {
    "euler": "Euler-Maruyama", "taylor": "Taylor step of weak order two", "baoab": "BAOAB splitting",
}  # fmt: skip


@dataclass(frozen=True)
class Underdamped:
    """x' = v, v' = force(x) − friction v + strength ξ, for each pair of a position and its velocity."""

    positions: tuple[int, ...]
    velocities: tuple[int, ...]
    forces: tuple[sp.Expr, ...]
    frictions: tuple[sp.Expr, ...]


def weak_order(process: Process, scheme: Scheme) -> float:
    """The weak order of a scheme: one half at least where the drift jumps, whatever the scheme.

    Euler steps have order 1/2 for any bounded drift, and nearly 1 in one variable where its derivative is a
    measure (Bencheikh, Jourdain, *Convergence in total variation of the Euler–Maruyama scheme applied to
    diffusion processes with measurable drift coefficient and additive noise*, 2022). Which one is seen
    depends on the steps.
    """
    jumps = drift_jumps(tuple(process.drift), tuple(process.variables))
    return 0.5 if jumps else float(ORDER[scheme])


def extrapolation(ratio: float, order: float) -> tuple[float, float]:
    """w in fine + (w − 1)(fine − coarse) for dt → 0 from steps of a ratio, and how uncertain w is.

    An order below one stands for any between it and one: w is then the middle of theirs.
    """
    ends = [ratio**p / (ratio**p - 1) for p in {order, max(order, 1.0)}]
    return (max(ends) + min(ends)) / 2, (max(ends) - min(ends)) / 2


@lru_cache(maxsize=64)
def drift_jumps(drift: tuple[sp.Expr, ...], variables: tuple[sp.Symbol, ...]) -> bool:
    """Whether the drift has two values at a border of its formulas, as Newton's method finds it anywhere."""
    radius = np.geomspace(1e-12, 1e20, 65).repeat(4)
    start = radius[:, None] * np.random.default_rng(7).normal(size=(len(radius), len(variables)))
    b = lambdified(drift, variables)
    for switch in switches(drift).jumps:
        if not switch.free_symbols & set(variables):
            continue
        value, slope = (lambdified(f, variables) for f in (switch, [sp.diff(switch, v) for v in variables]))
        with np.errstate(all="ignore"):
            points = start
            for _ in range(60):
                normal = slope(*points.T)
                points = points - (value(*points.T) / (normal**2).sum(axis=0) * normal).T
            reach = 1e-7 * (np.abs(points).max(axis=1) + radius) / np.sqrt((normal**2).sum(axis=0))
            sides = [b(*(points.T + part * reach * normal)) for part in (1.0, -1.0, 0.01, -0.01)]
            wide, narrow = (np.abs(sides[k] - sides[k + 1]).max(axis=0) for k in (0, 2))
            # A jump stays as it is where a steep place shrinks with the distance
            found = (narrow > 0.5 * wide) & (wide > 1e-6 * np.abs(sides[0]).max(axis=0))
        if found.any():
            return True
    return False


class StepText(NamedTuple):
    """Lines for ``new{i}``, lines before all steps, and texts of G and further expressions at the start."""

    lines: list[str]
    before: list[str]
    root: list[str]
    others: list[str]
    emitter: Emitter


def underdamped(
    drift: sp.MatrixBase, root: sp.MatrixBase, variables: Sequence[sp.Symbol]
) -> Underdamped | None:
    """The parts of an underdamped process; None if it is none."""
    n = len(variables)
    if root.free_symbols & set(variables):
        return None
    quiet = [i for i in range(n) if all(entry == 0 for entry in root.row(i))]
    pairs = {i: variables.index(drift[i]) for i in quiet if drift[i] in variables}
    velocities = list(pairs.values())
    if not quiet or len(pairs) != len(quiet) or sorted([*pairs, *velocities]) != list(range(n)):
        return None
    forces, frictions = [], []
    for v in velocities:
        friction = -sp.diff(drift[v], variables[v])
        force = sp.expand(drift[v] + friction * variables[v])
        if (force.free_symbols | friction.free_symbols) & {variables[k] for k in velocities}:
            return None
        if friction.free_symbols & set(variables):
            return None
        forces.append(force)
        frictions.append(friction)
    return Underdamped(tuple(pairs), tuple(velocities), tuple(forces), tuple(frictions))


def best_scheme(drift: sp.MatrixBase, root: sp.MatrixBase, variables: Sequence[sp.Symbol]) -> Scheme:
    """BAOAB for an underdamped process, the Taylor step for constant noise and a smooth drift, else Euler."""
    if underdamped(drift, root, variables) is not None:
        return "baoab"
    return "euler" if any(switches(tuple(drift))) or root.free_symbols & set(variables) else "taylor"


def step_text(
    drift: sp.MatrixBase,
    root: sp.MatrixBase,
    variables: tuple[sp.Symbol, ...],
    *,
    scheme: Scheme,
    domain: Domain,
    others: Sequence[sp.Expr] = (),
    emitter: Emitter | None = None,
) -> StepText:
    """The step with its walls; ``others`` are further expressions that are wanted at its start."""
    n = len(variables)
    if emitter is None:
        emitter = Emitter({variable: f"x{i}" for i, variable in enumerate(variables)})
    check_expressions([*drift, *root, *others], variables)
    for i in domain.axes("reflecting"):
        if scheme != "baoab" and all(entry == 0 for entry in root.row(i)):
            raise ValueError(f"a mirror needs noise across it, and {variables[i]} has none; use another wall")
    if scheme == "baoab":
        return _baoab(drift, root, variables, domain, others, emitter)
    b, G = sp.Matrix(drift), sp.Matrix(root)
    if scheme == "taylor":
        dt = sp.Dummy("dt")
        emitter.names[dt] = "time_step"
        J, D = b.jacobian(list(variables)), G * G.T / 2
        bent = [sum(D.multiply_elementwise(sp.hessian(f, variables)), sp.Integer(0)) for f in b]
        b, G = b + dt / 2 * (J * b + sp.Matrix(bent)), G + dt / 2 * J * G
    # Beside the root of the step, walls and bridges take that of an instant, G itself
    instant = list(root) if scheme == "taylor" else []
    lines, texts = emitter.statements([*b, *G, *instant, *others])
    slopes, noise, texts = texts[:n], texts[n : n + len(G)], texts[n + len(G) :]
    entries = texts[: len(instant)] or noise
    lines = [*lines, *euler_maruyama(slopes, noise)]
    for i in domain.excess_axes:
        lines.append(f"new{i} = new{i} + o{i}")
    lines += wall_lines(domain, [str(v) for v in variables], entries, emitter.number)
    return StepText(lines, [], entries, texts[len(instant) :], emitter)


def _baoab(
    drift: sp.MatrixBase, root: sp.MatrixBase, variables: tuple[sp.Symbol, ...], domain: Domain,
    others: Sequence[sp.Expr], emitter: Emitter,
) -> StepText:  # fmt: skip
    """Kick, drift, friction and noise, drift, kick; walls stand between the drifts and the last kick."""
    parts = underdamped(drift, root, variables)
    assert parts is not None
    n, m = root.shape
    lines, texts = emitter.statements([*parts.forces, *root, *others])
    forces, entries = texts[: len(parts.forces)], texts[len(parts.forces) :][: n * m]
    lines, before = list(lines), []
    for k, (x, v, friction) in enumerate(
        zip(parts.positions, parts.velocities, parts.frictions, strict=True)
    ):
        rate = emitter.number(friction)
        before += [
            f"decay{k} = math.exp(-{rate} * time_step)",
            f"spread{k} = math.sqrt(-math.expm1(-2.0 * {rate} * time_step) / (2.0 * {rate} * time_step))"
            if friction != 0
            else f"spread{k} = 1.0",
        ]
        noise = " + ".join(f"({G}) * xi{j}" for j, G in enumerate(entries[v * m : (v + 1) * m]) if G != "0.0")
        lines += [
            f"new{v} = x{v} + 0.5 * time_step * ({forces[k]})",
            f"new{x} = x{x} + 0.5 * time_step * new{v}",
            f"new{v} = decay{k} * new{v} + spread{k} * ({noise or '0.0'})",
            f"new{x} = new{x} + 0.5 * time_step * new{v}",
        ]
        for end, sign in zip(domain.ends[x], (1.0, -1.0), strict=True):
            if end and end[0] == "reflecting":
                place = emitter.number(sp.Float(end[1]))
                beyond = f"new{x} < {place}" if sign > 0 else f"new{x} > {place}"
                lines += [
                    f"met = {beyond}",
                    f"new{v} = -new{v} if met else new{v}",
                    f"new{x} = 2.0 * {place} - new{x} if met else new{x}",
                ]
    elsewhere = Domain(
        tuple(
            (None, None) if i in parts.positions and any(e and e[0] == "reflecting" for e in pair) else pair
            for i, pair in enumerate(domain.ends)
        )
    )
    lines += wall_lines(elsewhere, [str(v) for v in variables], entries, emitter.number)
    after = Emitter({variable: f"new{i}" for i, variable in enumerate(variables)}, prefix="after_")
    after.constants = emitter.constants
    more, kicks = after.statements(list(parts.forces))
    lines += more
    lines += [
        f"new{v} = new{v} + 0.5 * time_step * ({kick})"
        for v, kick in zip(parts.velocities, kicks, strict=True)
    ]
    return StepText(lines, before, entries, texts[len(parts.forces) + n * m :], emitter)
