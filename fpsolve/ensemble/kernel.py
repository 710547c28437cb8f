"""The compiled step of an ensemble: source text for one process, in lanes of walkers.

Positions, moments, histograms and saved paths come from the same function, whatever is asked for,
so that what is recorded never changes the bits of a path.
"""

from __future__ import annotations

import numpy as np
import sympy as sp

from fpsolve.ensemble.domain import Domain, free_domain
from fpsolve.ensemble.lanes import Kernel, block, header, inside, loads, normals, rows
from fpsolve.ensemble.steps import Scheme, step_text
from fpsolve.symbols.cache import load_module
from fpsolve.symbols.functions import check_expressions
from fpsolve.symbols.source import Emitter


def ensemble_kernel(
    drift: sp.MatrixBase,
    root: sp.MatrixBase,
    variables: tuple[sp.Symbol, ...],
    *,
    scheme: Scheme = "euler",
    domain: Domain | None = None,
    condition: sp.Expr | None = None,
) -> Kernel:
    """The compiled step of an ensemble, X + b(X) dt + G(X) √dt ξ by default, with its walls.

    ``drift`` is b, shape (n, 1), and ``root`` is G with G Gᵀ = 2D, shape (n, m). A walker diverges where
    ``condition`` is below 0.
    Numbers in the expressions are arguments of the kernel, so a sweep over them compiles once. Fails if an
    expression cannot be compiled.
    """
    check_expressions([*drift, *root], variables)
    scale, root = _common_factor(root, variables)
    n, m = root.shape
    domain = free_domain(n) if domain is None else domain
    emitter = Emitter({variable: f"x{i}" for i, variable in enumerate(variables)})
    factor = emitter.number(scale)
    others = [] if condition is None else [condition]
    text = step_text(drift, root, variables, scheme=scheme, domain=domain, emitter=emitter, others=others)
    pairs, excess = (m + 1) // 2, domain.excess_axes
    layout = rows(
        {"X": n, "XI": 2 * pairs, "BOUND": 1, "NEXT": n, "OVER": len(excess)}
        | {"SUMS": 2 * n + n * (n + 1) // 2}
    )
    load = [*loads("x", "X", n), *loads("xi", "XI", m)]
    load += [f"o{i} = lane[(OVER + {k}) * LANES + l]" for k, i in enumerate(excess)]
    store = [f"lane[(NEXT + {i}) * LANES + l] = new{i} if inside else x{i}" for i in range(n)]
    store += [f"lane[(OVER + {k}) * LANES + l] = over{i} if inside else o{i}" for k, i in enumerate(excess)]
    absorbing = bool(domain.axes("absorbing"))
    within = [inside(n), *(f"({other} >= 0.0)" for other in text.others), *["(not absorbed)"] * absorbing]
    left = "bound * inside"
    if absorbing:  # a bound below 0 marks a walker that an absorbing wall has ended
        left = "bound if inside else (-1.0 if (absorbed & (bound > 0.0)) | (bound < 0.0) else 0.0)"
    source = header({"N": n, "PAIRS": pairs, "EXCESS": len(excess), **layout}) + _TEMPLATE.format(
        normals=normals(
            "XI + 2 * pair", "XI + 2 * pair", counter="counter", walker="walker0 + np.uint64({l})", indent=16
        ),
        unpack=block([f"c{k} = constants[{k}]" for k in range(len(emitter.constants))], 4),
        before=block(text.before, 4),
        factor=factor,
        load=block(load, 16),
        step=block(text.lines, 16),
        inside=" & ".join(within),
        left=left,
        store=block(store, 16),
        moments=block([*loads("x", "X", n), *_moments(n)], 20),
    )
    module = load_module(source, prefix="ensemble")
    return Kernel(module.advance, np.array(emitter.constants, dtype=float), source, layout["TOTAL"])


def _common_factor(root: sp.MatrixBase, variables: tuple[sp.Symbol, ...]) -> tuple[sp.Expr, sp.MatrixBase]:
    """The number shared by all entries (it then scales the normals once), and the rest."""
    split = [sp.sympify(e, strict=True).as_independent(*variables, as_Add=False) for e in root if e != 0]
    if not split or any(number != split[0][0] for number, _ in split):
        return sp.Integer(1), root
    rest = iter(split)
    return split[0][0], sp.Matrix(*root.shape, [next(rest)[1] if e != 0 else 0 for e in root])


def _moments(n: int) -> list[str]:
    """Lines that add a state to the sums of x_i, |x_i| and x_i x_j, i ≤ j."""
    terms = [f"x{i}" for i in range(n)] + [f"abs(x{i})" for i in range(n)]
    terms += [f"x{i} * x{j}" for i in range(n) for j in range(i, n)]
    return [f"lane[(SUMS + {k}) * LANES + l] += {term}" for k, term in enumerate(terms)]


_TEMPLATE = '''

@njit(error_model="numpy")
def histogram_cell(lane, l, edges, edge_start, edge_axis):
    """Index of a walker's cell, -1 outside; guessed as if edges were uniform, then corrected."""
    cell = 0
    for a in range(edge_axis.size):
        value = lane[edge_axis[a] * LANES + l]
        low = edge_start[a]
        high = edge_start[a + 1] - 1
        if not (edges[low] <= value < edges[high]):
            return -1
        i = low + int((value - edges[low]) / (edges[high] - edges[low]) * (high - low))
        i = min(i, high - 1)
        if not (edges[i] <= value < edges[i + 1]):
            left = low
            right = high
            while right - left > 1:
                middle = (left + right) // 2
                if value < edges[middle]:
                    right = middle
                else:
                    left = middle
            i = left
        cell = cell * (high - low) + i - low
    return cell


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def advance(
    positions, excess, bounds, exit_step, sums, constants, key0, key1, first_walker, first_step, last_step,
    burn_in, time_step, histogram, edges, edge_start, edge_axis, save_every, paths, first_saved,
    first_group, last_group,
):
    {unpack}
    {before}
    scale = math.sqrt(time_step) * {factor}
    lane = np.empty(TOTAL * LANES, np.float64)
    words = lane.view(np.uint64)
    for group in range(first_group, last_group):
        lane[: N * LANES] = positions[group].ravel()
        lane[OVER * LANES : (OVER + EXCESS) * LANES] = excess[group].ravel()
        lane[SUMS * LANES :] = sums[group].ravel()
        lane[BOUND * LANES : (BOUND + 1) * LANES] = bounds[group]
        alive = np.sum(bounds[group] > 0.0)
        walker0 = np.uint64(first_walker) + np.uint64(group * LANES)
        for step in range(first_step, last_step):
            for pair in range(PAIRS):
                counter = np.uint64(step) * np.uint64(PAIRS) + np.uint64(pair)
                {normals}
            inside_count = 0
            for l in range(LANES):
                {load}
                {step}
                bound = lane[BOUND * LANES + l]
                inside = {inside}
                {store}
                lane[BOUND * LANES + l] = {left}
                inside_count += inside
            # In two moves: a choice stored over the old value becomes a slow conditional store
            for i in range(N):
                for l in range(LANES):
                    lane[i * LANES + l] = lane[(NEXT + i) * LANES + l]
            if inside_count != alive:
                alive = inside_count
                for l in range(LANES):
                    if lane[BOUND * LANES + l] <= 0.0 and exit_step[group, l] < 0:
                        exit_step[group, l] = step + 1
            if step >= burn_in:
                for l in range(LANES):
                    {moments}
                if histogram.size > 0:
                    for l in range(LANES):
                        if lane[BOUND * LANES + l] > 0.0:
                            cell = histogram_cell(lane, l, edges, edge_start, edge_axis)
                            histogram[cell] += 1
            if save_every > 0 and (step + 1) % save_every == 0:
                saved = (step + 1) // save_every - first_saved
                paths[saved, group] = lane[: N * LANES].reshape(N, LANES)
        positions[group] = lane[: N * LANES].reshape(N, LANES)
        excess[group] = lane[OVER * LANES : (OVER + EXCESS) * LANES].reshape(EXCESS, LANES)
        sums[group] = lane[SUMS * LANES :].reshape(TOTAL - SUMS, LANES)
        bounds[group] = lane[BOUND * LANES : (BOUND + 1) * LANES]
'''
