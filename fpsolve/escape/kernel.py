"""The compiled first-passage step, with Brownian-bridge crossing: walkers run to a target, level or time.

Lanes are refilled: as soon as a walker has ended, the next one takes its place, so that long times
do not leave the lanes idle. A walker's path is a function of the seed, its number and its own step
count alone, so neither its lane nor the thread matters to its bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import sympy as sp
import xarray as xr

from fpsolve.ensemble.domain import OVERSHOOT, Domain, covariance_condition, free_domain
from fpsolve.ensemble.lanes import Kernel, block, header, inside, loads, normals, rows
from fpsolve.ensemble.steps import Scheme, step_text
from fpsolve.symbols.cache import load_module
from fpsolve.symbols.functions import check_expressions
from fpsolve.symbols.source import Emitter
from fpsolve.symbols.target import inequalities, signed_function
from theory.langevin import Process

Boundary: TypeAlias = Literal["bridge", "shift", "none"]
#: How a walker can end: at the time limit, in the target, far away, at or beyond a level above or below, at
#: an absorbing wall.
CENSORED, ESCAPED, DIVERGED, ABOVE, BELOW, ABSORBED = range(6)
_OUTCOMES = {"CENSORED": CENSORED, "ESCAPED": ESCAPED, "DIVERGED": DIVERGED, "ABOVE": ABOVE, "BELOW": BELOW}
_OUTCOMES |= {"ABSORBED": ABSORBED}


def escape_kernel(
    process: Process,
    target: sp.Basic,
    boundary: Boundary,
    level: sp.Expr | xr.DataArray | None = None,
    *,
    scheme: Scheme = "euler",
    domain: Domain | None = None,
) -> Kernel:
    """The compiled step of a scheme, with walls and a crossing test.

    ``level`` is a reaction coordinate, watched after each step; an array, its dims in the order of the
    variables, is interpolated linearly. ``target`` was checked by ``signed_function``. Fails if an
    expression cannot be compiled, or the noise has no root in symbols.
    """
    variables = tuple(process.variables)
    try:
        root = process.root
    except NotImplementedError:
        raise ValueError(f"{process.name}: escapes need a root of 2D in symbols, and it has none") from None
    condition, atoms = inequalities(target)
    members = condition.args if isinstance(condition, sp.Or) else (condition,)
    parts = members if boundary == "bridge" else ()
    signed = [signed_function(atom, variables) for atom in atoms]
    domain = free_domain(len(variables)) if domain is None else domain
    moved = _step(process, root, signed, level, scheme, domain, variances=boundary != "none")
    lines, before, constants, grid = moved
    excess, absorbing = domain.excess_axes, bool(domain.axes("absorbing"))
    if boundary == "shift":
        lines += [f"h{k} = h{k} + {OVERSHOOT!r} * math.sqrt(v{k})" for k in range(len(atoms))]
    lines += _crossing(condition, parts, atoms)
    n, m = root.shape
    pairs, watched = (m + 1) // 2, level is not None
    places = rows(
        {"X": n, "NOISE": 2 * pairs, "NEXT": n, "BOUND": 1, "SIGNED": len(atoms), "EXPONENTS": len(parts)}
        | {"HIT": 1, "TOP": 1, "LEVEL": 1, "OVER": len(excess), "GONE": int(absorbing)}
    )
    numbers = {"N": n, "PAIRS": pairs, "PARTS": len(parts), "ATOMS": len(atoms), "EXCESS": len(excess)}
    numbers |= {"HAS_LEVEL": watched, "HAS_WALLS": absorbing}
    stored = [f"lane[(NEXT + {i}) * LANES + l] = new{i} if inside else x{i}" for i in range(n)]
    stored += [f"lane[(SIGNED + {k}) * LANES + l] = h{k}" for k in range(len(atoms))]
    stored += [f"lane[(EXPONENTS + {j}) * LANES + l] = a{j}" for j in range(len(parts))]
    stored += [f"lane[(OVER + {k}) * LANES + l] = over{i}" for k, i in enumerate(excess)]
    stored += ["lane[GONE * LANES + l] = 1.0 * absorbed"] * absorbing + (_WATCH if watched else [])
    load = [*loads("x", "X", n), *loads("xi", "NOISE", m), *loads("g", "SIGNED", len(atoms))]
    load += [f"o{i} = lane[(OVER + {k}) * LANES + l]" for k, i in enumerate(excess)]
    source = header({**_OUTCOMES, **numbers, **places}) + _TEMPLATE.format(
        normals=normals(
            "NOISE + 2 * pair", "NOISE + 2 * pair", indent=12,
            counter="np.uint64(lane_step[{l}]) * np.uint64(PAIRS) + np.uint64(pair)",
            walker="first_walker + np.uint64(lane_walker[{l}])",
        ),
        unpack=block([f"c{k} = constants[{k}]" for k in range(len(constants))], 4),
        before=block(before, 4),
        load=block(load, 12),
        step=block(lines, 12),
        inside=f"{inside(n)} & valid",
        absorbed="absorbed" if absorbing else "False",
        near=" | ".join(f"(a{j} < NEAR)" for j in range(len(parts))) or "False",
        refill_first=block(_REFILL, 12),
        refill=block(_REFILL, 20),
        watch="(level >= upper) | (level <= lower)" if watched else "False",
        store=block(stored, 12),
    )  # fmt: skip
    advance = load_module(source, prefix="escape").advance
    return Kernel(advance, np.array(constants, dtype=float), source, places["TOTAL"], grid)


def _step(
    process: Process, root: sp.MatrixBase, signed: list[sp.Expr], level: sp.Expr | xr.DataArray | None,
    scheme: Scheme, domain: Domain, *, variances: bool,
) -> tuple[list[str], list[str], list[float], np.ndarray]:  # fmt: skip
    """Lines for new positions, members h_k there, v_k and the level; lines before; constants; grid."""
    variables = tuple(process.variables)
    n, m = root.shape
    gradients = [sp.diff(g, variable) for g in signed for variable in variables]
    expressions = [*signed, level] if isinstance(level, sp.Expr) else signed
    check_expressions(expressions, variables)
    condition = covariance_condition(process)
    others = gradients if condition is None else [*gradients, condition]
    text = step_text(process.drift, root, variables, scheme=scheme, domain=domain, others=others)
    lines = [*text.lines, *(f"valid = {other} >= 0.0" for other in text.others[len(gradients) :])]
    lines += ["valid = True"] if condition is None else []
    if variances:
        lines += _variances(len(signed), n, m, text.root, text.others[: len(gradients)])
    after = Emitter({variable: f"new{i}" for i, variable in enumerate(variables)})
    after.constants = text.emitter.constants
    more, values = after.statements(expressions)
    lines += more + [f"h{k} = {value}" for k, value in enumerate(values[: len(signed)])]
    if isinstance(level, xr.DataArray):
        interpolated, grid = _interpolation(level, variables)
        return lines + interpolated, text.before, after.constants, grid
    if level is not None:
        lines.append(f"level = {values[-1]}")
    return lines, text.before, after.constants, np.zeros(0)


def _variances(atoms: int, n: int, m: int, entries: list[str], slopes: list[str]) -> list[str]:
    """Lines for v_k = 2 ∇gᵀD∇g dt, the variance of g_k over a step, at its start."""
    lines = []
    for k in range(atoms):
        squares = []
        for j in range(m):
            pairs = zip(slopes[k * n : (k + 1) * n], entries[j::m], strict=True)
            terms = [f"{slope} * {G}" for slope, G in pairs if "0.0" not in (slope, G)]
            if terms:
                lines.append(f"w{k}_{j} = " + " + ".join(terms))
                squares.append(f"w{k}_{j} * w{k}_{j}")
        lines.append(f"v{k} = time_step * ({' + '.join(squares) or '0.0'})")
    return lines


def _crossing(condition: sp.Basic, parts: Sequence[sp.Basic], atoms: Sequence[sp.Basic]) -> list[str]:
    """Lines for ``hit``, whether a step ends inside, and for the exponents a_j = 2 g₀g₁/v of each part.

    A compound part takes its member nearest to being violated, in units of √v.
    """
    places: dict[str, dict] = {
        name: {atom: sp.Symbol(f"{name}{k}") > 0 for k, atom in enumerate(atoms)}
        for name in ("h", "start", "end")
    }
    names = {ends.lhs: str(ends.lhs) for members in places.values() for ends in members.values()}
    lines, (hit,) = Emitter(names).statements([condition.xreplace(places["h"])])
    lines.append(f"hit = {hit}")
    for j, part in enumerate(parts):
        if part in atoms:
            k = atoms.index(part)
            lines.append(f"a{j} = 2.0 * g{k} * h{k} / v{k}")
            continue
        members = [k for k, atom in enumerate(atoms) if part.has(atom)]
        lines += [f"r{k} = 1.0 / math.sqrt(v{k})" for k in members]
        for name, letter in (("start", "g"), ("end", "h")):
            lines += [f"{name}{k} = {letter}{k} * r{k}" for k in members]
            nearest = signed_function(part.xreplace(places[name]), tuple(names))
            more, (text,) = Emitter(names).statements([nearest])
            lines += [*more, f"{name} = {text}"]
        lines.append(f"a{j} = 2.0 * start * end")
    return lines


def _interpolation(level: xr.DataArray, variables: tuple[sp.Symbol, ...]) -> tuple[list[str], np.ndarray]:
    """Lines that interpolate a field on a uniform grid, constant beyond it; origin, spacing, values."""
    names = [str(variable) for variable in variables]
    if min(level.shape) < 2 or not np.isfinite(level.values).all():
        raise ValueError("level must be finite, with at least two points on each axis")
    head: list[float] = []
    lines = []
    for i, name in enumerate(names):
        axis = np.asarray(level[name].values, dtype=float)
        spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
        if not (spacing > 0 and np.allclose(np.diff(axis), spacing, rtol=1e-6)):
            raise ValueError(f"level must lie on a uniform, ascending grid of {name}")
        head += [float(axis[0]), 1.0 / spacing]
        last = len(axis) - 1
        lines += [
            f"q{i} = (new{i} - grid[{2 * i}]) * grid[{2 * i + 1}]",
            f"q{i} = q{i} if q{i} > 0.0 else 0.0",
            f"q{i} = q{i} if q{i} < {last}.0 else {last}.0",
            f"j{i} = min(int(q{i}), {last - 1})",
            f"q{i} = q{i} - j{i}",
        ]
    strides = [int(np.prod(level.shape[i + 1 :])) for i in range(len(names))]
    base = " + ".join(f"j{i} * {stride}" for i, stride in enumerate(strides))
    lines.append(f"corner = {len(head)} + {base}")
    terms = []
    for bits in itertools.product((0, 1), repeat=len(names)):
        weight = " * ".join(f"q{i}" if bit else f"(1.0 - q{i})" for i, bit in enumerate(bits))
        offset = sum(bit * stride for bit, stride in zip(bits, strides, strict=True))
        terms.append(f"{weight} * grid[corner + {offset}]")
    lines.append("level = " + " + ".join(terms))
    return lines, np.concatenate([head, level.values.astype(float).ravel()])


_REFILL = [
    "lane_walker[l] = queue[0]",
    "queue[0] += 1",
    "lane_step[l] = 0",
    "for i in range(N):",
    "    lane[i * LANES + l] = starts[lane_walker[l], i]",
    "for k in range(ATOMS):",
    "    lane[(SIGNED + k) * LANES + l] = signed[lane_walker[l], k]",
    "for k in range(EXCESS):",
    "    lane[(OVER + k) * LANES + l] = 0.0",
    "lane[TOP * LANES + l] = -math.inf",
]
_WATCH = [
    "top = lane[TOP * LANES + l]",
    "lane[TOP * LANES + l] = level if level > top else top",
    "lane[LEVEL * LANES + l] = level",
]


_TEMPLATE = """
NEAR = 37.0  # exp(-37) is below the spacing of the uniforms


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def advance(
    starts, signed, outcome, end_step, final, top_level, constants, grid, key0, key1, first_walker,
    time_step, max_step, divergence, lower, upper, lane, lane_walker, lane_step, queue, iterations,
):
    {unpack}
    {before}
    scale = math.sqrt(time_step)
    words = lane.view(np.uint64)
    running = 0
    deadline = max_step
    for l in range(LANES):
        if lane_walker[l] < 0 and queue[0] < queue[1]:
            {refill_first}
            lane[BOUND * LANES + l] = divergence
        if lane_walker[l] >= 0:
            running += 1
            deadline = min(deadline, max_step - lane_step[l])
    for _ in range(iterations):
        if running == 0:
            break
        for pair in range(PAIRS):
            {normals}
        events = 0
        for l in range(LANES):
            {load}
            {step}
            bound = lane[BOUND * LANES + l]
            live = bound > 0.0
            inside = {inside}
            event = hit | {near} | {watch} | {absorbed}
            {store}
            lane[HIT * LANES + l] = 2.0 * inside + hit
            events += (live & event) | (inside != live)
        # In two moves: a choice stored over the old value becomes a slow conditional store
        for i in range(N):
            for l in range(LANES):
                lane[i * LANES + l] = lane[(NEXT + i) * LANES + l]
        for l in range(LANES):
            lane_step[l] += 1
        deadline -= 1
        if events == 0 and deadline > 0:
            continue
        deadline = max_step
        for l in range(LANES):
            walker = lane_walker[l]
            if walker < 0:
                continue
            code = -1
            flag = lane[HIT * LANES + l]
            if flag < 2.0:
                code = DIVERGED
            elif HAS_WALLS and lane[GONE * LANES + l] > 0.0:
                code = ABSORBED
            elif flag == 3.0:
                code = ESCAPED
            else:
                survive = 1.0
                for j in range(PARTS):
                    if lane[(EXPONENTS + j) * LANES + l] < NEAR:
                        survive *= 1.0 - math.exp(-lane[(EXPONENTS + j) * LANES + l])
                if survive < 1.0:
                    # The top bit of the counter sets these words apart from those of the normals
                    word, _w = threefry2x64(
                        key0, key1, np.uint64(lane_step[l] - 1) | np.uint64(0x8000000000000000),
                        first_walker + np.uint64(walker),
                    )
                    if np.float64(word >> np.uint64(11)) * 1.1102230246251565e-16 >= survive:
                        code = ESCAPED
                if code < 0 and HAS_LEVEL:
                    if lane[LEVEL * LANES + l] >= upper:
                        code = ABOVE
                    elif lane[LEVEL * LANES + l] <= lower:
                        code = BELOW
                if code < 0 and lane_step[l] >= max_step:
                    code = CENSORED
            if code >= 0:
                outcome[walker] = code
                end_step[walker] = lane_step[l]
                top_level[walker] = lane[TOP * LANES + l]
                for i in range(N):
                    final[walker, i] = lane[i * LANES + l]
                if queue[0] < queue[1]:
                    {refill}
                else:
                    lane_walker[l] = -1
                    lane[BOUND * LANES + l] = 0.0
                    running -= 1
                    continue
            deadline = min(deadline, max_step - lane_step[l])
    return running
"""
