"""Mean escape times beyond the reach of direct simulation, by adaptive multilevel splitting."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import sympy as sp
import xarray as xr
from scipy import stats
from scipy.interpolate import RegularGridInterpolator

from fpsolve.ensemble.lanes import from_lanes
from fpsolve.ensemble.state import State, available_threads, process_hash, variable_names, whole_steps
from fpsolve.escape.kernel import Boundary, escape_kernel
from fpsolve.escape.passages import PointFunction, chosen_boundary, noise_barrier, signed_members, start_state
from fpsolve.escape.saddles import relaxation_rates_below
from fpsolve.escape.splitting import GROUPS, Counts, Plan, Walk, counted, log_mean, pilot
from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Seed, key_text
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
    divergence: float = 1e6,
    progress: bool = False,
) -> xr.Dataset:
    """Mean time to reach a target behind a high barrier, by adaptive multilevel splitting.

    T = ℓ₀ + (1 − q₀)/k with k = f p₁ p₂ … p_n: the flux f of entries into the first level out of the
    source, and the probability p_i to go on from each level before falling back. ℓ₀ is the mean time from
    the start to source or target, and q₀ the probability that it is the target. The formula holds at low
    barriers too: derivation in :mod:`fpsolve.escape.splitting`. A pilot run places the levels where a share
    of 0.3 succeeds; the counted walks are new ones, in 20 independent groups, so that each group's k has no
    bias. The interval of ln T is Student's on the spread of the groups.

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
        Trials on each level, at least 100. The relative error falls as 1/√walkers: with 40 000 it is about
        1 % at ΔL/D = 3 and 3 % at 20.
    time_step : float, optional
        dt; default the process's learning rate (one step is then one iteration of SGD), or 0.02 over the
        largest curvature (eigenvalue of −∂b) at the start and at the minimum below it. The bias is O(dt).
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
    rng, threads, divergence, progress
        As in :func:`fpsolve.simulate_escape`; the bits do not depend on ``threads``; the bar shows levels.

    Returns
    -------
    Dataset
        ``rate``, ``low``, ``high`` (1/time), ``mean_time`` with ``mean_time_low`` and ``mean_time_high``,
        ``log_mean_time`` and ``log_mean_time_stderr`` (what remains finite above 10³⁰⁸); ``flux`` f; per
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
    _check_numbers(walkers, confidence, max_levels, relaxation_time)
    coordinate, level_at = _coordinate(process, target, level)
    state, time_step, relaxation_time = _started(
        process, start, target, time_step, relaxation_time, rng, divergence
    )
    point = from_lanes(state.positions, 1)
    boundary = chosen_boundary(process, time_step, boundary)
    if barrier := noise_barrier(process, target, time_step, point):
        raise ValueError(f"{barrier}; for the SGD map, whose steps are finite, give time_step=learning_rate")
    walk = Walk(
        escape_kernel(process, target, boundary, coordinate), signed_members(process, target), boundary,
        state.key, float(time_step), state.divergence, available_threads(threads),
        10**6 if max_time is None else whole_steps(max_time, time_step, "max_time"),
        max(1, math.ceil(relaxation_time / time_step)),
        np.random.default_rng(np.random.SeedSequence(state.key)),
    )  # fmt: skip
    plan = pilot(walk, point, level_at, source=source, max_levels=max_levels)
    start_level = float(level_at(point)[0])
    counts = counted(walk, point, plan, start_level=start_level, walkers=walkers, progress=progress)
    result = dataset(
        _variables(walk, plan, counts, confidence),
        coords={"level": np.arange(1, len(plan.levels) + 1), "group": np.arange(GROUPS)},
        title=f"rare escape from {process.name} to {target}",
        landscape=str(process.name),
        target=str(target),
        level=f"grid of {coordinate.name}" if isinstance(coordinate, xr.DataArray) else str(coordinate),
        source=plan.source,
        boundary=walk.boundary,
        time_step=walk.time_step,
        relaxation_time=float(relaxation_time),
        walkers=int(walkers),
        confidence=float(confidence),
        n_diverged=walk.diverged,
        seed=key_text(walk.key),
        process_hash=process_hash(process),
    )
    _warn(counts, walk, walkers, float(result.log_mean_time_stderr))
    return result


def _started(
    process: Process, start: Mapping[str, float], target: sp.Basic, time_step: float | None,
    relaxation_time: float | None, rng: Seed, divergence: float,
) -> tuple[State, float, float]:  # fmt: skip
    """The checked state of one walker at the start; the time step and relaxation time, or their defaults."""
    if time_step is None:
        time_step = getattr(process, "learning_rate", None)
    step = 1.0 if time_step is None else time_step
    state = start_state(
        process, target, 1.0, start=start, walkers=1, time_step=step, rng=rng, divergence=divergence
    )
    if time_step is None or relaxation_time is None:
        slow, fast = relaxation_rates_below(process, from_lanes(state.positions, 1)[0], target=target)
        time_step = 0.02 / fast if time_step is None else time_step
        relaxation_time = 1.0 / slow if relaxation_time is None else relaxation_time
    return state, time_step, relaxation_time


def _estimate(counts: Counts) -> tuple[float, float]:
    """ln T and its standard error, from the contribution of each group to the first-order error."""
    log_rates = counts.log_factors.sum(axis=1)
    log_rate, away, first = log_mean(log_rates), 1.0 - counts.first_share.mean(), counts.first_time.mean()
    late = math.log(away) - log_rate
    log_time = float(np.logaddexp(math.log(first), late)) if first else late
    parts = 1 - np.exp(log_rates - log_rate) + 1 - (1 - counts.first_share) / away
    parts = math.exp(late - log_time) * parts + (counts.first_time - first) * math.exp(-log_time)
    return log_time, float(parts.std(ddof=1)) / math.sqrt(GROUPS)


def _variables(walk: Walk, plan: Plan, counts: Counts, confidence: float) -> dict[str, xr.Variable]:
    """Rate, mean time and their intervals; shares of each level and the rate of each group."""
    log_time, error = _estimate(counts)
    half = error * float(stats.t.isf((1 - confidence) / 2, GROUPS - 1))
    log_rates = np.cumsum(counts.log_factors, axis=1)
    reached = [log_mean(column) for column in log_rates.T]
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        times = np.exp(log_time + half * np.array([-1, 0, 1]))
        rates = np.exp(-log_time + half * np.array([-1, 0, 1]))
        brute = np.exp(log_time - math.log(walk.time_step) - 2 * np.log(error))
    percent = f"{100 * confidence:g} % interval"
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
        "walker_steps": ("steps made, pilot included", "1", walk.steps),
        "brute_force_steps": ("steps of as many simulated escapes as have this error", "1", brute),
    }
    shares = np.exp(np.diff(reached))
    return {name: quantity(v, (), words, units) for name, (words, units, v) in scalars.items()} | {
        "level_value": quantity(plan.levels, "level", "reaction coordinate"),
        "conditional_probability": quantity(shares, "level", "share that goes on before it falls back"),
        "log_rate": quantity(log_rates[:, -1], "group", "ln of the rate k of each group"),
    }


def _warn(counts: Counts, walk: Walk, walkers: int, error: float) -> None:
    alive = int(np.isfinite(counts.log_factors[:, -1]).sum())
    if alive < GROUPS / 2 or error > 0.3:
        warnings.warn(
            f"{alive} of {GROUPS} groups came to the target, with a standard error of {error:.2g} in "
            f"ln T: the interval is rough; raise walkers={walkers}, or, with a barrier above 100 D, lower "
            f"time_step={walk.time_step:.2g}",
            stacklevel=3,
        )
    if walk.diverged:
        warnings.warn(f"{walk.diverged} walkers diverged and were put back at the source", stacklevel=3)


def _check_numbers(walkers: int, confidence: float, max_levels: int, relaxation_time: float | None) -> None:
    if walkers < 100:
        raise ValueError(f"walkers={walkers} must be at least 100: {GROUPS} groups share them")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    if max_levels < 1:
        raise ValueError(f"max_levels={max_levels} must be at least 1")
    if relaxation_time is not None and not (math.isfinite(relaxation_time) and relaxation_time > 0):
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
