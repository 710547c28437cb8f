"""Mean escape times beyond the reach of direct simulation, by adaptive multilevel splitting."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sympy as sp
import xarray as xr
from scipy import stats
from scipy.interpolate import RegularGridInterpolator

from fpsolve.ensemble.divergence import divergence_limit
from fpsolve.ensemble.domain import Wall
from fpsolve.ensemble.lanes import from_lanes
from fpsolve.ensemble.state import (
    State,
    available_threads,
    checked_count,
    checked_number,
    process_hash,
    root_values,
    variable_names,
    whole_steps,
)
from fpsolve.ensemble.steps import ORDER, extrapolation, weak_order
from fpsolve.escape.kernel import Boundary, escape_kernel
from fpsolve.escape.passages import (
    PointFunction,
    chosen_boundary,
    chosen_scheme,
    noise_barrier,
    signed_members,
    start_state,
    thin_remark,
)
from fpsolve.escape.saddles import largest_rate_on_the_way, relaxation_rates_below
from fpsolve.escape.splitting import GROUPS, Counts, Plan, Walk, counted, log_mean, pilot
from fpsolve.escape.targets import gap_target, step_on_target
from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Seed, key_text, random_key
from fpsolve.symbols.functions import check_expressions, numpy_function
from fpsolve.symbols.target import signed_function
from theory.langevin import Process


def split_escape(
    process: Process,
    *,
    start: Mapping[str, float],
    target: sp.Basic,
    level: sp.Expr | xr.DataArray | None = None,
    source: float | None = None,
    walkers: int = 40_000,
    time_step: float | None = None,
    relaxation_time: float | None = None,
    boundary: Boundary | None = None,
    max_time: float | None = None,
    max_levels: int = 300,
    confidence: float = 0.95,
    rng: Seed = None,
    threads: int | None = None,
    divergence: float | None = None,
    extrapolate: bool = True,
    box: Mapping[str, tuple[float, float]] | None = None,
    walls: Mapping[str, Wall] | Wall | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Mean time to reach a target behind a high barrier, by adaptive multilevel splitting.

    T = ℓ₀ + (1 − q₀)/k with k = f p₁ p₂ … p_n: the flux f of entries into the first level out of the
    source, and the probability p_i to go on from each level before falling back. ℓ₀ is the mean time from
    the start to source or target, and q₀ the probability that it is the target. The formula holds at low
    barriers too: derivation in :mod:`fpsolve.escape.splitting`. A pilot run places the levels where a share
    of 0.3 succeeds; the counted walks are new ones, in 20 independent groups, so that each group's k has no
    bias. All of that is done with dt and with dt/2, and ln T is extrapolated to dt → 0 with the weak order p
    of the steps (those of :func:`fpsolve.simulate_escape`): ln T = w ln T(dt/2) − (w − 1) ln T(dt),
    w = 2^p/(2^p − 1). The interval of ln T is Student's on the spread of the groups of both.

    The level decides the variance, never the mean. In one variable the signed function of the target is as
    good as any. In several, the committor is best: the chance of success is then the same all over a level.
    Only the order of a level's values matters. A level named "committor" is interpolated in its logarithm,
    because it is exponentially flat near the source and its relative error is small there.

    Parameters
    ----------
    process : Process
        Without free parameters, with a symbolic ``root``.
    start : mapping
        A number for each variable, outside the target.
    target : sympy condition
        Such as ``x > 0``; And, Or, Not of inequalities.
    level : Expr or DataArray, optional
        A function that rises from the source to the target: an expression in the variables, or a field on a
        uniform grid such as that of :func:`fpsolve.committor`. Default the signed function of the target.
    source : float, optional
        ξ₀: a walker at this level or below is back in the source. Default the median level of walkers that
        have relaxed from the start; ξ₁ is then exceeded by 15 % of them (of those above ``source``).
    walkers : int, optional
        Trials on each level with dt/2, at least 100; with dt it is √2/2^p times as many.
        The relative error falls as 1/√walkers: with 40 000 it is about 2 % at ΔL/D = 3 and 5 % at 20.
    time_step : float, optional
        dt, the longer of the two steps; default the process's learning rate (one step is then one iteration
        of SGD, and nothing is extrapolated), or 0.04 over the largest curvature (eigenvalue of −∂b) at the
        start, at the minimum below it and, in one variable, on the way to the target; less for thin targets.
        Above ΔL/D = 100 give a smaller one: levels then lie closer than one step's noise, and in some groups
        no walker reaches the target.
    relaxation_time : float, optional
        Time in which a walker inside the valley becomes independent of its start; ten of them pass before
        anything is counted. Default 1 over the smallest curvature at the minimum.
    boundary : {"bridge", "shift", "none"}, optional
        As in :func:`fpsolve.simulate_escape`.
    max_time : float, optional
        Longest time of one walker from one event to the next; default 10⁶ steps.
    max_levels : int, optional
        More levels than this mean that the target is not reached.
    confidence : float, optional
        Probability of the intervals, in (0, 1).
    extrapolate : bool, optional
        False: one run, with ``time_step`` itself. The bias is then O(dt^p). So it is with boundary="none".
    box, walls : mapping, optional
        As in :func:`fpsolve.simulate`, without absorbing walls: those belong to the target.
    rng, threads, divergence, progress
        As in :func:`fpsolve.simulate_escape`; the bits do not depend on ``threads``; the bar shows levels.

    Returns
    -------
    Dataset
        ``rate``, ``low``, ``high`` (1/time), ``mean_time`` with ``mean_time_low`` and ``mean_time_high``,
        ``log_mean_time`` and ``log_mean_time_stderr`` (what remains finite above 10³⁰⁸); per ``step`` dt its
        ``step_log_mean_time`` and ``step_log_mean_time_stderr``. Of the finest step alone: ``flux`` f; per
        ``level`` its ``level_value`` and ``conditional_probability`` to go on to the next, for the last one
        to the target; ``n_levels``; per ``group`` its ``log_rate`` ln k; ``walker_steps`` made, and
        ``brute_force_steps``: T/dt for each of as many escapes as have the same relative error. To go on
        until an error is met, average the exponentials of ``log_rate`` over several seeds.
        A ValueError if the start is inside the target or the drift leads there, D vanishes on every way to
        the target, all trials of a level fail, the levels do not reach the target, walkers stay away from
        both source and target, or an argument makes no sense. A UserWarning if walkers diverged, or the
        groups spread so much that the interval is rough.

    References
    ----------
    Cérou, Guyader, Stoch. Anal. Appl. 25, 417 (2007): adaptive multilevel splitting; Bréhier et al., Ann.
    Appl. Probab. 26, 3559 (2016): what makes it unbiased; Allen, Valeriani, ten Wolde, J. Phys. Condens.
    Matter 21, 463102 (2009): flux times conditional probabilities; Hill, *Free Energy Transduction in
    Biology* (1977): the rate of a process put back at its source.
    Error, coverage and gain as measured: tests/fpsolve/escape/test_rare_events.py.
    """
    _check_numbers(walkers, confidence, max_levels, relaxation_time, source)
    coordinate, level_at = _coordinate(process, target, level)
    state, time_step, relaxation_time = _started(
        process, start, target, time_step, relaxation_time, rng, divergence, box, walls
    )
    if state.domain.axes("absorbing"):
        raise ValueError("absorbing walls are ways out: add them to the target, or use simulate_escape")
    point = from_lanes(state.positions, 1)
    boundary = chosen_boundary(process, time_step, boundary)
    state.scheme = chosen_scheme(process, boundary)
    if barrier := noise_barrier(process, target, time_step, point):
        raise ValueError(f"{barrier}; for the SGD map, whose steps are finite, give time_step=learning_rate")
    if remark := thin_remark(process, target, point, time_step, boundary):
        warnings.warn(remark, stacklevel=2)
    extrapolate = extrapolate and boundary != "none"
    walks = [
        _Walks(
            process, target, coordinate, boundary, state, threads, time_step / k, relaxation_time, max_time
        )
        for k in ((2, 1) if extrapolate else (1,))
    ]
    runs = _finished(walks, point, level_at, source, walkers, max_levels, progress)
    order = weak_order(process, state.scheme)
    result = dataset(
        _variables(runs, order, confidence),
        coords={"level": np.arange(1, len(runs[0].plan.levels) + 1), "group": np.arange(GROUPS)}
        | {"step": quantity([run.walk.time_step for run in runs], "step", "time step", "time")},
        title=f"rare escape from {process.name} to {target}",
        landscape=str(process.name), target=str(target), level=_level_words(coordinate),
        source=runs[0].plan.source, boundary=boundary, scheme=state.scheme, weak_order=order,
        extrapolated=int(len(runs) > 1), walls=state.domain.words(variable_names(process)) or "none",
        time_step=runs[0].walk.time_step, relaxation_time=float(relaxation_time), walkers=int(walkers),
        confidence=float(confidence), n_diverged=sum(run.walk.diverged for run in runs),
        seed=key_text(state.key), process_hash=process_hash(process),
    )  # fmt: skip
    _warn(runs, walkers, float(result.log_mean_time_stderr))
    return result


def _level_words(coordinate: sp.Expr | xr.DataArray) -> str:
    return f"grid of {coordinate.name}" if isinstance(coordinate, xr.DataArray) else str(coordinate)


def _finished(
    walks: Sequence[_Walks], point: np.ndarray, level_at: PointFunction, source: float | None, walkers: int,
    max_levels: int, progress: bool,
) -> list[_Run]:  # fmt: skip
    """The runs of all steps, the finest first; it has ``walkers`` trials a level."""
    # What costs least for the same error: trials in proportion to the weight over the root of the cost
    shares = (walkers, max(100, round(walkers * math.sqrt(2) / 2 ** ORDER[walks[0].state.scheme])))
    runs = []
    for number, (own, trials) in enumerate(zip(walks, shares, strict=False)):
        walk = own.walk(number)
        plan = pilot(walk, point, level_at, source=source, max_levels=max_levels)
        start_level = float(level_at(point)[0])
        counts = counted(walk, point, plan, start_level=start_level, walkers=trials, progress=progress)
        runs.append(_Run(walk, plan, counts, *_estimate(counts)))
    return runs


class _Run(NamedTuple):
    """A finished run with one step, ln T and its standard error."""

    walk: Walk
    plan: Plan
    counts: Counts
    log_time: float
    error: float


@dataclass(frozen=True)
class _Walks:
    """What makes the walk of one time step."""

    process: Process
    target: sp.Basic
    coordinate: sp.Expr | xr.DataArray
    boundary: Boundary
    state: State
    threads: int | None
    time_step: float
    relaxation_time: float
    max_time: float | None

    def walk(self, number: int) -> Walk:
        """The walk of the ``number``-th step, with random numbers of its own."""
        process, state, dt = self.process, self.state, self.time_step
        met = gap_target(self.target, tuple(process.variables), from_lanes(state.positions, 1))
        key = state.key if number == 0 else random_key(np.random.SeedSequence([*state.key, number]))
        kernel = escape_kernel(
            process, met, self.boundary, self.coordinate, scheme=state.scheme, domain=state.domain
        )
        return Walk(
            kernel, signed_members(process, met), self.boundary, key, float(dt), state.divergence,
            available_threads(self.threads),
            10**6 if self.max_time is None else whole_steps(self.max_time, dt, "max_time"),
            max(1, math.ceil(self.relaxation_time / dt)),
            np.random.default_rng(np.random.SeedSequence(key)),
        )  # fmt: skip


def _started(
    process: Process, start: Mapping[str, float], target: sp.Basic, time_step: float | None,
    relaxation_time: float | None, rng: Seed, divergence: float | None,
    box: Mapping[str, tuple[float, float]] | None, walls: Mapping[str, Wall] | Wall | None,
) -> tuple[State, float, float]:  # fmt: skip
    """The checked state of one walker at the start; the time step and relaxation time, or their defaults."""
    if time_step is None:
        time_step = getattr(process, "learning_rate", None)
    step = 1e-12 if time_step is None else time_step
    state = start_state(
        process, target, 1.0, start=start, walkers=1, time_step=step, rng=rng, divergence=divergence,
        box=box, walls=walls,
    )  # fmt: skip
    if time_step is None or relaxation_time is None:
        point = from_lanes(state.positions, 1)
        slow, fast = relaxation_rates_below(process, point[0], target=target)
        if time_step is None:
            met = gap_target(target, tuple(process.variables), point)
            fast = max(fast, largest_rate_on_the_way(process, point[0], met))
            time_step = step_on_target(process, met, point, 0.04 / fast)
        relaxation_time = 1.0 / slow if relaxation_time is None else relaxation_time
    if divergence is None:
        point = from_lanes(state.positions, 1)
        state.divergence = divergence_limit(process, point, root_values(process, point), time_step, box)
    return state, time_step, relaxation_time


def _estimate(counts: Counts) -> tuple[float, float]:
    """ln T and its standard error.

    The error is that of first order, from the contribution of each group. Groups of few trials scatter like a
    log-normal law, whose sample underrates it: then σ²/n + σ⁴/(2(n − 1)) from the variance σ² of the n
    logarithms (Cox's method, Zhou, Gao, Stat. Med. 16, 783 (1997)) is larger, and is taken.
    """
    log_rates = counts.log_factors.sum(axis=1)
    log_rate, away, first = log_mean(log_rates), 1.0 - counts.first_share.mean(), counts.first_time.mean()
    late = math.log(away) - log_rate
    log_time = float(np.logaddexp(math.log(first), late)) if first else late
    parts = 1 - np.exp(log_rates - log_rate) + 1 - (1 - counts.first_share) / away
    parts = math.exp(late - log_time) * parts + (counts.first_time - first) * math.exp(-log_time)
    spread = float(log_rates.var(ddof=1)) if np.isfinite(log_rates).all() else 0.0
    skewed = math.exp(late - log_time) * math.sqrt(spread / GROUPS + spread**2 / (2 * (GROUPS - 1)))
    return log_time, max(float(parts.std(ddof=1)) / math.sqrt(GROUPS), skewed)


def _variables(runs: list[_Run], order: float, confidence: float) -> dict[str, xr.Variable]:
    """Rate, mean time and their intervals for dt → 0; shares of each level and the rate of each group."""
    walk, plan, counts, log_time, error = runs[0]
    freedom = float(GROUPS - 1)
    if len(runs) > 1:
        w, doubt = extrapolation(2.0, order)
        parts = np.array([w * error, (w - 1) * runs[1].error]) ** 2
        freedom *= float(parts.sum() ** 2 / (parts**2).sum())  # Welch, Satterthwaite
        change = log_time - runs[1].log_time
        log_time, error = log_time + (w - 1) * change, math.hypot(math.sqrt(parts.sum()), doubt * change)
    half = error * float(stats.t.isf((1 - confidence) / 2, freedom))
    log_rates = np.cumsum(counts.log_factors, axis=1)
    reached = [log_mean(column) for column in log_rates.T]
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        times = np.exp(log_time + half * np.array([-1, 0, 1]))
        rates = np.exp(-log_time + half * np.array([-1, 0, 1]))
        brute = np.exp(log_time - math.log(walk.time_step) - 2 * np.log(error))
    percent = f"{100 * confidence:g} % interval"
    steps = sum(run.walk.steps for run in runs)
    scalars = {
        "rate": ("escape rate, 1 / mean time", "1/time", rates[1]),
        "low": (f"lower end of the {percent}", "1/time", rates[0]),
        "high": (f"upper end of the {percent}", "1/time", rates[2]),
        "mean_time": ("mean time from the start to the target", "time", times[1]),
        "mean_time_low": (f"lower end of the {percent}", "time", times[0]),
        "mean_time_high": (f"upper end of the {percent}", "time", times[2]),
        "log_mean_time": ("natural logarithm of the mean time", "1", log_time),
        "log_mean_time_stderr": ("standard error of the logarithm", "1", error),
        "flux": ("entries into the first level per time", "1/time", math.exp(reached[0])),
        "n_levels": ("levels above the source", "1", len(plan.levels)),
        "walker_steps": ("steps made, pilot included", "1", steps),
        "brute_force_steps": ("steps of as many simulated escapes as have this error", "1", brute),
    }
    shares = np.exp(np.diff(reached))
    by_step = [run.log_time for run in runs], [run.error for run in runs]
    return {name: quantity(v, (), words, units) for name, (words, units, v) in scalars.items()} | {
        "level_value": quantity(plan.levels, "level", "reaction coordinate"),
        "conditional_probability": quantity(shares, "level", "share that goes on before it falls back"),
        "log_rate": quantity(log_rates[:, -1], "group", "ln of the rate k of each group"),
        "step_log_mean_time": quantity(by_step[0], "step", "ln of the mean time with a time step"),
        "step_log_mean_time_stderr": quantity(by_step[1], "step", "standard error of step_log_mean_time"),
    }


def _warn(runs: list[_Run], walkers: int, error: float) -> None:
    alive = min(int(np.isfinite(run.counts.log_factors[:, -1]).sum()) for run in runs)
    if alive < GROUPS / 2 or error > 0.3:
        warnings.warn(
            f"{alive} of {GROUPS} groups came to the target, with a standard error of {error:.2g} in "
            f"ln T: the interval is rough; raise walkers={walkers}, or, with a barrier above 100 D, lower "
            f"time_step={runs[-1].walk.time_step:.2g}",
            stacklevel=3,
        )
    if lost := sum(run.walk.diverged for run in runs):
        share, limit = lost / sum(run.walk.used for run in runs), runs[0].walk.divergence
        warnings.warn(
            f"{lost} walkers ({share:.2g} of all) diverged (came to divergence={limit:g}) and "
            "were put back at the source: use a smaller time_step, or check that the drift leads back from "
            "everywhere",
            stacklevel=3,
        )


def _check_numbers(
    walkers: int, confidence: float, max_levels: int, relaxation_time: float | None, source: float | None
) -> None:
    if checked_count(walkers, "walkers") < 100:
        raise ValueError(f"walkers={walkers} must be at least 100: {GROUPS} groups share them")
    if not 0 < checked_number(confidence, "confidence") < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    checked_count(max_levels, "max_levels")
    if source is not None:
        checked_number(source, "source")
    if relaxation_time is not None and not 0 < checked_number(relaxation_time, "relaxation_time") < math.inf:
        raise ValueError(f"relaxation_time={relaxation_time:g} must be positive and finite")


def _coordinate(
    process: Process, target: sp.Basic, level: sp.Expr | xr.DataArray | None
) -> tuple[sp.Expr | xr.DataArray, PointFunction]:
    """The level as the kernel takes it, and as a function of points (k, n)."""
    if level is None:
        level = signed_function(target, process.variables)
    if isinstance(level, sp.Expr):
        check_expressions([level], process.variables)
        function = numpy_function(level, process.variables)
        return level, lambda points: np.broadcast_to(function(*points.T), len(points))
    if not isinstance(level, xr.DataArray):
        raise TypeError(f"level must be a sympy expression or a DataArray, not {type(level).__name__}")
    names = variable_names(process)
    if set(map(str, level.dims)) != set(names):
        raise ValueError(f"level has dims {', '.join(map(str, level.dims))}; give {', '.join(names)}")
    grid = level.transpose(*names)
    if grid.name == "committor":
        grid = grid.copy(data=np.log(np.maximum(grid.values, 1e-300)))
    axes = [grid[name].values for name in names]
    table = RegularGridInterpolator(axes, grid.values)
    low, high = np.array([axis[[0, -1]] for axis in axes]).T
    return grid, lambda points: table(np.clip(points, low, high))
