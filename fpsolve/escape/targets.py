"""Targets as walkers meet them: whether there is a place, how wide they are, near ends in one variable."""

from __future__ import annotations

import itertools
import math

import numpy as np
import sympy as sp
from scipy.optimize import minimize
from scipy.stats import qmc

from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.target import signed_function, target_edges
from theory.langevin import Process

#: Distances and directions in which the width of a target is looked for, in units of 1 + |place|.
_DISTANCES = np.geomspace(1e-6, 1e3, 181)
_DIRECTIONS = 24
#: Most times that a time step may be shorter than the one that resolves the curvature.
FINEST = 1e4


def gap_target(target: sp.Basic, variables: tuple[sp.Symbol, ...], starts: np.ndarray) -> sp.Basic:
    """In one variable, the ends of the gap around the starts (k, 1) as the target; else the target itself.

    A path on a line comes to no other point of the target first, so that the crossing test sees every end as
    a half-line, however thin the target is. The target itself, too, where starts lie in several gaps, or its
    inequalities are no polynomials. A ValueError if the target is empty.
    """
    if len(variables) > 1 or not (edges := target_edges(target, variables[0])):
        return target
    x = variables[0]
    g = numpy_function(signed_function(target, variables), variables)
    middles = [
        edges[0] - 1.0,
        *((a + b) / 2 for a, b in itertools.pairwise(edges)),
        edges[-1] + 1,
    ]
    inside = g(np.array(middles)) > 0
    parts = [
        (a, b)
        for a, b, held in zip((-math.inf, *edges), (*edges, math.inf), inside, strict=True)
        if held and a < b
    ]
    if not parts:
        raise ValueError(f"the target {target} is empty; give a condition that some place meets")
    low, high = float(starts.min()), float(starts.max())
    if any(low < a < high for part in parts for a in part):
        return target
    below, above = [b for _, b in parts if b <= low], [a for a, _ in parts if a >= high]
    ends = [x < sp.Float(max(below))] if below else []
    ends += [x > sp.Float(min(above))] if above else []
    return sp.Or(*ends) if ends else target


def target_width(process: Process, target: sp.Basic, starts: np.ndarray) -> tuple[float, np.ndarray]:
    """Width of a target in several variables at a place deep inside, and that place; inf and a start in one.

    It is the largest value of the signed function found from quasi-random places and the starts (k, n). A
    ValueError if the target holds no place at all.
    """
    n = len(process.variables)
    g = numpy_function(signed_function(target, process.variables), process.variables)
    sample = 2 * qmc.Sobol(n, scramble=True, rng=0).random(1024) - 1
    reach = 1.0 + np.abs(starts[0])
    points = np.concatenate(
        [starts[:64], *(starts[0] + scale * reach * sample for scale in (0.1, 1, 10, 100))]
    )
    values = np.broadcast_to(g(*points.T), len(points))
    order = np.argsort(np.where(np.isfinite(values), -values, math.inf))[:6]
    best, place = -math.inf, points[order[0]]
    for point in points[order]:
        if best > 0:
            break
        found = minimize(
            lambda p: -float(g(*p)), point, method="Nelder-Mead", options={"xatol": 1e-12, "fatol": 1e-14}
        )
        if np.isfinite(found.fun) and -found.fun > best:
            best, place = -float(found.fun), found.x
    if not best > 0:
        raise ValueError(f"no place in the target {target} was found: it is empty, or a single place")
    if n == 1:
        return math.inf, starts[0]
    generator = np.random.default_rng(0)
    directions = np.concatenate([np.eye(n), generator.normal(size=(_DIRECTIONS, n))])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scale = 1.0 + float(np.abs(place).max())
    width = math.inf
    for direction in directions:
        chord = 0.0
        for sign in (-1.0, 1.0):
            line = place + sign * scale * _DISTANCES[:, None] * direction
            outside = ~(np.broadcast_to(g(*line.T), len(line)) > 0)
            chord += scale * float(_DISTANCES[np.argmax(outside)]) if outside.any() else math.inf
        width = min(width, chord)
    return width, place


def step_for(process: Process, width: float, place: np.ndarray) -> float:
    """The longest step, four of whose lengths √(2D dt) are as long as a target is wide."""
    noise = float((root_at(process, place) ** 2).sum(axis=1).max())
    return math.inf if not (math.isfinite(width) and noise > 0) else (width / 4) ** 2 / noise


def step_on_target(process: Process, target: sp.Basic, starts: np.ndarray, step: float) -> float:
    """The step, or a shorter one that sees a thin target; a ValueError if it is ``FINEST`` times shorter."""
    width, place = target_width(process, target, starts)
    longest = step_for(process, width, place)
    if longest < step / FINEST:
        raise ValueError(
            f"the target {target} is {width:.2g} wide: steps that see it, {longest:.1e}, are "
            f"{step / longest:.0e} times shorter than the drift needs, and walkers take as much longer; "
            "give a larger target, or time_step="
        )
    return min(step, longest)


def root_at(process: Process, place: np.ndarray) -> np.ndarray:
    """G at one place (n,), shape (n, m)."""
    return np.asarray(numpy_function(process.root, process.variables)(*place))
