"""Ensembles of walkers: Euler–Maruyama paths of a Langevin system, moments and histograms.

One step of size dt is X + b(X) dt + G(X) √dt ξ with G Gᵀ = 2D, in the Itô sense. With dt equal to
the learning rate, this is the law of one SGD iteration under random-shift noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.domain import Domain, Wall, covariance_condition
from fpsolve.ensemble.kernel import ensemble_kernel
from fpsolve.ensemble.lanes import LANES, from_lanes
from fpsolve.ensemble.numpy_step import numpy_advance
from fpsolve.ensemble.parts import cuts, finished, in_threads
from fpsolve.ensemble.state import (
    PER_WALKER,
    Start,
    State,
    available_threads,
    fresh_state,
    restored_state,
    saving_steps,
    symbolic_root,
    variable_names,
    whole_steps,
)
from fpsolve.ensemble.summary import RESERVED, ensemble_dataset
from fpsolve.ensemble.wells import exchange_remark
from fpsolve.results import check_names
from fpsolve.symbols.counter_rng import Seed
from theory.langevin import Process

_CHUNK = 4e7  # walker-steps between looks at the clock and at Ctrl-C: a fraction of a second


def simulate(
    process: Process,
    *,
    walkers: int | None = None,
    time: float,
    time_step: float | None = None,
    start: Start = None,
    burn_in: float = 0.0,
    bins: Mapping[str, ArrayLike] | None = None,
    save_every: float | None = None,
    rng: Seed = None,
    threads: int | None = None,
    divergence: float | None = None,
    first_walker: int = 0,
    box: Mapping[str, tuple[float, float]] | None = None,
    walls: Mapping[str, Wall] | Wall | None = None,
    executor: Executor | None = None,
    parts: int = 32,
    progress: bool = False,
) -> xr.Dataset:
    """Final positions, moments, histograms and paths of an ensemble of walkers.

    Each walker follows X + b(X) dt + G(X) √dt ξ; an underdamped process, x' = v, v' = f(x) − γv + noise with
    constant γ and noise, takes BAOAB splitting steps unless dt is its learning rate. ``attrs["scheme"]`` and
    ``attrs["weak_order"]`` say which. The normals ξ are a function of the seed, the
    walker's number and the step's number, so the bits of a result do not depend on ``threads``, on
    how a run is cut in time, or on which walkers run together. They may depend on the processor's
    kind (fused multiply-add) and on the mathematical library, for landscapes with exp or sin.

    Sources: Kloeden, Platen, *Numerical Solution of Stochastic Differential Equations* (1992), 10.2; Yang,
    Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 3, 7 and supplement S1–S12.

    A result given as ``start`` is continued for another ``time``, with its walkers, seed, time step, burn-in
    and bins, and ends in the same bits as one long run.

    Parameters
    ----------
    process : theory.Langevin or theory.Diffusion
        ``variables``, ``drift`` and ``root``, without free parameters. Where no symbolic root
        exists, ``root_values(points)`` is used by a NumPy loop, tens of times slower.
    walkers : int
        Number of independent walkers. May be left out where ``start`` says it.
    time : float
        Duration of the run, burn-in included; rounded up to whole steps.
    time_step : float, optional
        dt; default the process's learning rate.
    start : mapping, array of shape (walkers, n), or Dataset, optional
        First positions: a number or an array of length ``walkers`` for each variable. Default the
        lowest minimum of the landscape. A Dataset is an earlier result, to be continued.
    burn_in : float, optional
        Moments and histograms leave out states up to this time.
    bins : mapping, optional
        Edges per variable, ascending. The joint histogram over these variables counts the walkers
        in cells ``[edge, next edge)`` at every step after ``burn_in``.
    save_every : float, optional
        Time between saved states, a multiple of ``time_step``; saved are the states at all
        multiples of it, time 0 included.
    rng : int, SeedSequence, Generator or str, optional
        Seed. A string is the ``seed`` of an earlier result, to replay it.
    threads : int, optional
        Default the number of processors this process may use, or one in each part on an executor.
    divergence : float, optional
        A walker with a coordinate not below this in size has diverged: it stays where it was
        before, is counted in ``diverged``, and its whole path is left out of the moments. The
        histogram keeps its visits from before. Default a power of ten of at least 10⁶ sizes of a walk, from
        the starts, the box, the noise and the drift: :mod:`fpsolve.ensemble.divergence`.
    first_walker : int, optional
        Number of the first walker: parts of an ensemble can run apart, or one walker alone.
    box, walls : mapping, optional
        Ends of axes, ``{"x": (-1, 1)}``, and what they are, ``{"x": "periodic"}`` or one word for all:
        "reflecting" (default), "periodic" or "absorbing", as :class:`fpsolve.ensemble.domain.Domain` says. A
        walker that a wall absorbs is left out of the averages. Where D vanishes at the end of the axis on
        which it is a covariance, and the drift does not lead out, walkers are kept inside by full truncation.
        ``attrs["walls"]`` says which ends were used.
    executor : concurrent.futures.Executor, optional
        Where parts of the ensemble run: processes, loky, MPI, ``Client(…).get_executor(pure=False)`` of
        dask. Default: here. The bits are the same, whatever it is. It is never shut down.
    parts : int, optional
        With an executor: parts of about equal size, at most one per 32 walkers. Several per worker
        level out their speeds.

    Returns
    -------
    Dataset
        Per walker: each variable's final position, ``diverged`` (0 or 1), ``divergence_time``,
        ``moment_sum``. Averages over time and walkers with ``_stderr`` from the scatter between
        walkers, widened for few walkers as Student's interval is: ``mean``, ``abs_mean``, ``std``,
        ``abs_std`` (variable), ``second_moment``, ``covariance`` (variable, variable_2). With ``bins``:
        ``histogram``, ``density``. With
        ``save_every``: ``path`` (walker, time, variable). A ValueError, before any step, if an argument, the
        start or a coefficient at the start makes no sense, and at the end if a walker came to a place where D
        is no covariance. A UserWarning if walkers diverged, or went from well to well too rarely.
    """
    check_names(variable_names(process), RESERVED)
    given = {
        "walkers": walkers, "time_step": time_step, "burn_in": burn_in, "bins": bins, "rng": rng,
        "divergence": divergence, "first_walker": first_walker, "box": box, "walls": walls,
    }  # fmt: skip
    if isinstance(start, xr.Dataset):
        state = restored_state(process, start, **given)  # type: ignore[arg-type]
    else:
        state = fresh_state(process, start=start, time=time, **given)  # type: ignore[arg-type]
    first = None if isinstance(start, xr.Dataset) else from_lanes(state.positions, state.walkers).copy()
    last_step = state.step + whole_steps(time, state.time_step, "time")
    save_steps = saving_steps(save_every, state.time_step)
    threads = available_threads(1 if executor is not None and threads is None else threads)
    if executor is None:
        found = _run(process, state, last_step, save_steps, threads, progress)
    else:
        found = _run_apart(process, state, last_step, save_steps, threads, executor, parts, progress)
    result = ensemble_dataset(process, *found)
    if first is not None and (remark := _unmixed(process, first, result)):
        warnings.warn(remark, stacklevel=2)
    return result


def _unmixed(process: Process, first: np.ndarray, result: xr.Dataset) -> str:
    """A remark if walkers that did not end changed their wells too rarely."""
    alive = result["divergence_step"].to_numpy() < 0
    last = np.stack([result[name].to_numpy() for name in variable_names(process)], axis=1)
    domain = Domain.from_text(result.attrs["domain"])
    return exchange_remark(process, first[alive], last[alive], domain)


def _run(
    process: Process, state: State, last_step: int, save_steps: int, threads: int, progress: bool = False
) -> tuple[State, np.ndarray, np.ndarray]:
    """The state advanced to ``last_step``, the saved positions and their steps."""
    groups, n, _ = state.positions.shape
    saved_steps = np.arange(0, last_step + 1, save_steps) if save_steps else np.zeros(0, int)
    saved_steps = saved_steps[(saved_steps > state.step) | (saved_steps == 0) & (state.step == 0)]
    paths = np.empty((len(saved_steps), groups, n, LANES))
    first_saved = int(saved_steps[0]) // save_steps if len(saved_steps) else 0
    if len(saved_steps) and saved_steps[0] == 0:
        paths[0] = state.positions
    # Parts are as many as threads, whatever their number: no sum crosses a part
    ends = cuts(groups, threads)
    histograms = [np.zeros_like(state.histogram) for _ in ends[1:]]
    kernel, constants = _kernel(process, state)
    edges = np.concatenate([np.zeros(0), *state.edges.values()])
    edge_start = np.cumsum([0, *(len(e) for e in state.edges.values())], dtype=np.int64)
    edge_axis = np.array([variable_names(process).index(name) for name in state.edges], dtype=np.int64)

    def part(k: int, begin: int, end: int, low: int, high: int) -> None:
        kernel(
            state.positions, state.excess, state.bounds, state.exit_step, state.sums, constants,
            np.uint64(state.key[0]), np.uint64(state.key[1]), np.uint64(state.first_walker),
            begin, end, state.burn_in, state.time_step, histograms[k], edges, edge_start,
            edge_axis, save_steps, paths, first_saved, low, high,
        )  # fmt: skip

    in_threads(part, ends, first=state.step, last=last_step, chunk=_CHUNK, progress=progress)
    state.step = last_step
    for histogram in histograms:
        state.histogram += histogram
    return state, paths, saved_steps


def _run_apart(
    process: Process, state: State, last_step: int, save_steps: int, threads: int, executor: Executor,
    parts: int, progress: bool,
) -> tuple[State, np.ndarray, np.ndarray]:  # fmt: skip
    """As :func:`_run`, with groups of walkers on an executor, where each worker compiles for itself."""
    jobs = {}
    for groups in (slice(*ends) for ends in pairwise(cuts(len(state.positions), parts))):
        first, empty = state.first_walker + groups.start * LANES, np.zeros_like(state.histogram)
        # Copies, since workers may share memory
        arrays = {name: getattr(state, name)[groups].copy() for name in PER_WALKER}
        taken = replace(state, first_walker=first, histogram=empty, **arrays)
        jobs[executor.submit(_run, process, taken, last_step, save_steps, threads)] = groups
    paths, saved_steps = np.empty(0), np.empty(0, int)
    for groups, (part, part_paths, saved_steps) in finished(jobs, progress=progress):
        for name in PER_WALKER:
            getattr(state, name)[groups] = getattr(part, name)
        state.histogram += part.histogram
        if not paths.size:
            paths = np.empty((len(saved_steps), *state.positions.shape))
        paths[:, groups] = part_paths
    state.step = last_step
    return state, paths, saved_steps


def _kernel(process: Process, state: State) -> tuple[Callable[..., None], np.ndarray]:
    """The compiled step and its constants, or the NumPy loop where the root has no symbols."""
    root = symbolic_root(process)
    if root is None:
        return numpy_advance(process), np.zeros(0)
    compiled = ensemble_kernel(
        process.drift, root, process.variables, scheme=state.scheme, domain=state.domain,
        condition=covariance_condition(process),
    )  # fmt: skip
    return compiled.advance, compiled.constants
