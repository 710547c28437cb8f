"""Mean escape times that no simulation could wait for: multilevel splitting of the passages out of a valley.

The walks are those of :func:`fpsolve.simulate_escape`. Let ξ be a level that rises towards the target B,
A = {ξ ≤ ξ₀} the source, ξ₁ > ξ₀, and ρ the law of the place where a walker from the start first comes to A.
Put every walker that reaches B back into A, at a place drawn from ρ. This process renews itself at each
arrival in B and has a stationary state, in which arrivals occur at rate k = 1/E_ρ[T] (renewal theorem): the
time spent beyond B counts nowhere. With ℓ₀ the mean time from the start to A or B, and q₀ the probability
of B, the strong Markov property gives, at any barrier,

    T(start) = ℓ₀ + (1 − q₀)/k.

An *entry* is the first step with ξ ≥ ξ₁ (or in B) after a visit to A. Then k = f · E[h(X)], where f is the
number of entries per time, X an entry and h(x) the probability to go from x to B before A. Levels
ξ₁ < ξ₂ < … < ξ_n split h: N trials start from the entries, N from the successes of the first, and so on;
f times the product of the shares that succeeded has mean k exactly, however few the trials, if the levels
were fixed before. Proof, backwards: the mean of h_i over the trials of stage i, times their share of
successes, has the mean of h_{i−1} over stage i−1, because a trial is a continuation of a Markov path up to a
stopping time. A level need not be a good one for that, nor be watched between steps: it only names a
stopping time of the walk itself. What is watched between steps is B, as ``boundary`` says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp
import xarray as xr
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.interpolate import RegularGridInterpolator

import fpsolve
from fpsolve.compiled import check_expressions, numpy_function
from fpsolve.counter_rng import Seed
from fpsolve.ensemble_state import from_lanes, process_hash, variable_names, whole_steps
from fpsolve.escape import (
    Passages,
    available_threads,
    chosen_boundary,
    passage_times,
    passages,
    signed_members,
    start_state,
)
from fpsolve.escape_kernel import ABOVE, BELOW, CENSORED, DIVERGED, ESCAPED, Boundary, EscapeKernel, escape_kernel
from fpsolve.target import signed_function
from theory.langevin import Process
from theory.vanishing_noise import dimension_at, vectorised, verdict, zeros_of_noise

#: Independent repetitions inside one call; their spread gives the interval.
GROUPS = 20
#: Aim of the conditional probabilities; 0.2 costs least if trials were independent, 0.5 keeps more of them apart.
SHARE = 0.3
_PILOT = 1000
_BASIN_LOOPS = 10


def split_escape(
    process: Process,
    *,
    start: Mapping[str, float],
    target: sp.Basic,
    level: sp.Expr | xr.DataArray | None = None,
    source: float | None = None,
    walkers: int = 20_000,
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

    T = ℓ₀ + (1 − q₀)/k and k = f p₁ p₂ … p_n, right at low barriers too (see the module's first lines).
    A pilot run places the levels where a share of 0.3 of the trials succeeds; the counted runs are new
    ones, in 20 independent groups. The interval is Student's on their spread, on a logarithmic scale.

    The level decides the variance, never the mean. In one variable, the target's signed function is as
    good as any. In several, the committor is the best one (it makes h constant on each level). Only the
    order of its values matters to splitting. It falls by a factor in each cell, so that its logarithm
    is what is interpolated between the cells; a level named "committor" is transformed so.

    Parameters
    ----------
    process : Process
        Without free parameters, with a symbolic ``root``.
    start : mapping
        A number for each variable, outside the target.
    target : sympy condition
        Such as ``x > 0``; And, Or, Not of inequalities.
    level : Expr or DataArray, optional
        What rises from the source to the target: an expression in the variables, or a field on a uniform
        grid such as that of :func:`fpsolve.committor`. Default the signed function of the target.
    source : float, optional
        ξ₀: a walker at this level or below is back in the source. Default the median level of walkers that
        have relaxed from the start; ξ₁ is then exceeded by 15 % of them (of those above ``source``).
    walkers : int, optional
        Trials on each level, at least 100. The relative error falls as 1/√walkers.
    time_step : float, optional
        dt; default the process's learning rate, or 0.02 over the largest curvature (eigenvalue of −∂b)
        at the minimum below the start. The bias is O(dt).
    relaxation_time : float, optional
        Time to forget the start inside the valley; ten of them pass before anything is counted. Default
        1 over the smallest curvature at the minimum.
    boundary : {"bridge", "shift", "none"}, optional
        As in :func:`fpsolve.simulate_escape`.
    max_time : float, optional
        Longest time between two events of one walker; default 10⁶ steps.
    max_levels : int, optional
        More levels than this mean that the target is not reached.
    confidence : float, optional
        Probability of the intervals, in (0, 1).
    rng, threads, divergence
        As in :func:`fpsolve.simulate_escape`; the bits do not depend on ``threads``.
    progress : bool, optional
        Show a bar of finished levels.

    Returns
    -------
    Dataset
        ``rate``, ``low``, ``high`` (1/time), ``mean_time`` with ``mean_time_low`` and ``mean_time_high``,
        ``log_mean_time`` and its ``log_mean_time_stderr``; ``flux`` f; per ``level`` the
        ``level_value`` ξ_i and the ``conditional_probability`` p_i to go on to the next, the last one to the
        target (NaN-free, product times flux is k); ``n_levels``; per ``group`` its ``log_rate`` ln k;
        ``walker_steps`` made, and ``brute_force_steps``: T/dt steps for each of as many escapes as have
        the same relative error. Results of several seeds may be averaged: their k are unbiased.

    Raises
    ------
    ValueError
        If the start is inside the target or the drift leads there, D vanishes on every way to the target,
        all trials of a level fail, the levels do not reach the target, walkers stay away from both source
        and target, or an argument makes no sense.

    Warns
    -----
    UserWarning
        If walkers diverged, or so few groups succeeded that the interval cannot be trusted.

    References
    ----------
    Cérou, Guyader, Stoch. Anal. Appl. 25, 417 (2007): adaptive multilevel splitting; Bréhier et al., Ann.
    Appl. Probab. 26, 3559 (2016): what makes it unbiased; Allen, Valeriani, ten Wolde, J. Phys. Condens.
    Matter 21, 463102 (2009): flux times conditional probabilities; Hill, *Free Energy Transduction in
    Biology* (1977): the rate of a process put back at its source.
    Error, coverage and gain as measured: tests/test_rare_events.py.
    """
    _check_numbers(walkers, confidence, max_levels, relaxation_time)
    coordinate, level_at = _coordinate(process, target, level)
    if time_step is None:
        time_step = getattr(process, "learning_rate", None)
    place = {name: np.asarray(value, dtype=float) for name, value in start.items()}
    state = start_state(
        process, start=place, target=target, walkers=1, time_step=1.0 if time_step is None else time_step,
        max_time=1.0, rng=rng, divergence=divergence,
    )  # fmt: skip
    point = from_lanes(state.positions, 1)
    if time_step is None or relaxation_time is None:
        slow, fast = _curvatures(process, point[0], target)
        time_step = 0.02 / fast if time_step is None else time_step
        relaxation_time = 1.0 / slow if relaxation_time is None else relaxation_time
    boundary = chosen_boundary(process, time_step, boundary)
    if boundary != "none":
        _check_noise(process, point[0], target)
    walk = _Walk(
        escape_kernel(process, target, boundary, coordinate), signed_members(process, target), boundary,
        state.key, float(time_step), state.divergence, available_threads(threads),
        10**6 if max_time is None else whole_steps(max_time, time_step, "max_time"),
    )  # fmt: skip
    choice = np.random.default_rng(np.random.SeedSequence(state.key))
    relaxation = max(1, math.ceil(relaxation_time / time_step))
    plan = _pilot(walk, choice, point, level_at, source, relaxation, max_levels)
    run = _counted(walk, choice, point, plan, walkers, relaxation, progress)
    return _dataset(
        process, walk, plan, run, target=str(target), level=_words(coordinate), walkers=walkers,
        confidence=confidence,
    )  # fmt: skip


@dataclass
class _Walk:
    """Runs batches of walkers, each with a number never used before, and counts their steps."""

    kernel: EscapeKernel
    signed: Callable[[np.ndarray], np.ndarray]
    boundary: Boundary
    key: tuple[int, int]
    time_step: float
    divergence: float
    threads: int
    max_step: int
    used: int = 0
    steps: int = 0
    diverged: int = 0

    def run(
        self,
        points: np.ndarray,
        *,
        lower: float = -math.inf,
        upper: float = math.inf,
        steps: int | None = None,
        first: int | None = None,
    ) -> Passages:
        """Passages from ``points``; without ``steps``, each must end. ``first`` repeats an earlier batch."""
        end = passages(
            self.kernel, self.signed, points, key=self.key,
            first_walker=self.used if first is None else first, time_step=self.time_step,
            max_step=self.max_step if steps is None else steps, divergence=self.divergence,
            threads=self.threads, lower=lower, upper=upper,
        )  # fmt: skip
        self.used += len(points) if first is None else 0
        self.steps += int(end.steps.sum())
        lost = int((end.outcome == DIVERGED).sum())
        self.diverged += lost
        if lost > len(points) // 2:
            raise ValueError(
                f"{lost} of {len(points)} walkers diverged (or met a D that is not positive): use a smaller "
                f"time_step than {self.time_step:g}, or a larger divergence"
            )
        stuck = end.outcome == CENSORED
        if steps is None and stuck.any():
            where = ", ".join(f"{value:.3g}" for value in end.points[stuck][0])
            raise ValueError(
                f"a walker stayed at ({where}) for max_time={self.max_step * self.time_step:g}, away from "
                "source and target: add that valley to the target, choose source or level so that it "
                "belongs to the source, or give a larger max_time"
            )
        return end

    def times(self, end: Passages) -> np.ndarray:
        return passage_times(end, self.time_step, self.boundary)


@dataclass(frozen=True)
class _Plan:
    """What the pilot decides: the source's level, the levels above it, the mean time of a loop."""

    source: float
    levels: np.ndarray
    loop_time: float
    start_level: float


@dataclass(frozen=True)
class _Run:
    """Results of each group: ℓ₀, q₀, and the logs of flux and shares, shape (groups, 1 + levels)."""

    first_time: np.ndarray
    first_share: np.ndarray
    log_factors: np.ndarray


@dataclass(frozen=True)
class _Entries:
    """Where walkers were when they entered a level: place, level there, group, already in the target."""

    points: np.ndarray
    levels: np.ndarray
    group: np.ndarray
    arrived: np.ndarray

    @classmethod
    def of(cls, end: Passages, group: np.ndarray, chosen: np.ndarray) -> _Entries:
        return cls(end.points[chosen], end.top_level[chosen], group[chosen], end.outcome[chosen] == ESCAPED)

    @classmethod
    def joined(cls, parts: list[_Entries]) -> _Entries:
        names = ("points", "levels", "group", "arrived")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, index: np.ndarray) -> _Entries:
        return _Entries(self.points[index], self.levels[index], self.group[index], self.arrived[index])

    def counts(self) -> np.ndarray:
        return np.bincount(self.group, minlength=GROUPS)

    def resampled(self, choice: np.random.Generator, count: int) -> _Entries:
        """``count`` of each group that has any: all equally often, but for a remainder drawn by lot."""
        order = np.argsort(self.group, kind="stable")
        index = []
        for members in np.split(order, np.cumsum(np.bincount(self.group))[:-1]):
            if members.size:
                whole, rest = divmod(count, members.size)
                index += [np.tile(members, whole), choice.permutation(members)[:rest]]
        return self.take(np.concatenate(index))


def _relaxed(
    walk: _Walk, choice: np.random.Generator, points: np.ndarray, home: np.ndarray, steps: int
) -> np.ndarray:
    """Places after ``steps``, in pieces after which walkers that ended are put back to a place of ``home``."""
    pieces = 40
    for _ in range(pieces):
        end = walk.run(points, steps=-(-steps // pieces))
        gone = end.outcome != CENSORED
        points = _put_back(end.points, gone, home, choice)
    return points


def _put_back(
    points: np.ndarray, gone: np.ndarray, home: np.ndarray, choice: np.random.Generator
) -> np.ndarray:
    points = points.copy()
    points[gone] = home[choice.integers(len(home), size=int(gone.sum()))]
    return points


def _loops(
    walk: _Walk,
    choice: np.random.Generator,
    points: np.ndarray,
    home: np.ndarray,
    *,
    source: float,
    first_level: float,
    group: np.ndarray,
    window: tuple[float, float],
) -> tuple[_Entries, float]:
    """Entries in a window of each walker's clock, and the mean time from one return to the next."""
    end = walk.run(points, lower=source)  # so that whoever comes to the first level then enters it
    points = _put_back(end.points, end.outcome != BELOW, home, choice)
    clock, active, loops, found = np.zeros(len(points)), np.arange(len(points)), 0, []
    while active.size:
        end = walk.run(points[active], upper=first_level)
        clock[active] += walk.times(end)
        inside = (clock[active] >= window[0]) & (clock[active] < window[1])
        found.append(_Entries.of(end, group[active], inside & (end.outcome != DIVERGED)))
        points[active] = _put_back(end.points, end.outcome != ABOVE, home, choice)
        above = active[end.outcome == ABOVE]
        if above.size:
            end = walk.run(points[above], lower=source)
            clock[above] += walk.times(end)
            points[above] = _put_back(end.points, end.outcome != BELOW, home, choice)
        loops += active.size
        active = active[clock[active] < window[1]]
    return _Entries.joined(found), float(clock.sum()) / loops


def _pilot(
    walk: _Walk,
    choice: np.random.Generator,
    start: np.ndarray,
    level_at: Callable[[np.ndarray], np.ndarray],
    source: float | None,
    relaxation: int,
    max_levels: int,
) -> _Plan:
    """Where the source ends, and the levels; nothing of it is counted."""
    points = _relaxed(walk, choice, np.repeat(start, _PILOT, axis=0), start, 10 * relaxation)
    heights = level_at(points)
    if source is None:
        source = float(np.median(heights))
    home = points[heights <= source]
    higher = heights[heights > source]
    if not (home.size and higher.size):
        raise ValueError(
            f"{len(home)} of {_PILOT} walkers that relaxed from the start are at or below the source's level "
            f"{source:g}, the others above: choose source (or level) so that both happen"
        )
    first = float(np.quantile(higher, 1 - SHARE))
    one = np.zeros(_PILOT, int)
    entries, loop_time = _loops(
        walk, choice, points, home, source=source, first_level=first, group=one,
        window=(0.0, 4.0 * relaxation * walk.time_step),
    )  # fmt: skip
    levels = [first]
    while True:
        entries = entries.resampled(choice, _PILOT)
        number = walk.used
        end = walk.run(entries.points, lower=source)
        tops = np.maximum(entries.levels, end.top_level)
        tops[(end.outcome == ESCAPED) | entries.arrived] = math.inf
        if (tops == math.inf).mean() >= SHARE:
            return _Plan(source, np.array(levels), loop_time, float(level_at(start)[0]))
        following = np.quantile(tops, 1 - SHARE, method="higher")
        following = min(tops[tops > levels[-1]], default=math.inf) if following <= levels[-1] else following
        if not math.isfinite(following) or len(levels) >= max_levels:
            raise ValueError(
                f"the target is not reached: {len(levels)} levels from {source:.6g} to {levels[-1]:.6g}, each "
                f"passed by a share of about {SHARE:g}; is it reachable (does D vanish on the way)? "
                "Give another level, or a larger max_levels"
            )
        levels.append(float(following))
        # The same numbers give the same walks, now stopped at the new level
        end = walk.run(entries.points, lower=source, upper=levels[-1], first=number)
        entries = _joined_successes(entries, np.arange(_PILOT), end, levels[-1])


def _joined_successes(
    trials: _Entries, walked: np.ndarray, end: Passages, upper: float
) -> _Entries:
    """Trials that were beyond ``upper`` from the start, and those (``walked``) that came there."""
    beyond = trials.arrived | (trials.levels >= upper)
    came = ((end.outcome == ABOVE) | (end.outcome == ESCAPED)) & ~beyond[walked]
    return _Entries.joined([trials.take(np.flatnonzero(beyond)), _Entries.of(end, trials.group[walked], came)])


def _counted(
    walk: _Walk,
    choice: np.random.Generator,
    start: np.ndarray,
    plan: _Plan,
    walkers: int,
    relaxation: int,
    progress: bool,
) -> _Run:
    """The runs that count: from the start to the source, entries in time, and from level to level."""
    if progress:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    with tqdm(total=len(plan.levels) + 1, unit="level", disable=not progress) as bar:
        group = np.arange(max(1, walkers // (10 * GROUPS)) * GROUPS) % GROUPS
        home, first_time, first_share = _first_way(walk, start, plan, group)
        drawn = home[choice.integers(len(home), size=len(group))]
        points = _relaxed(walk, choice, drawn, home, 10 * relaxation)
        settled = 5.0 * plan.loop_time
        length = _BASIN_LOOPS * plan.loop_time
        entries, _ = _loops(
            walk, choice, points, home, source=plan.source, first_level=plan.levels[0], group=group,
            window=(settled, settled + length),
        )  # fmt: skip
        factors = [entries.counts() / (len(group) / GROUPS * length)]
        bar.update()
        count = walkers // GROUPS
        for number, upper in enumerate([*plan.levels[1:], math.inf], start=1):
            if not entries.group.size:
                raise ValueError(
                    f"no walker came to level {number} of {len(plan.levels)} ({plan.levels[number - 1]:g}): "
                    f"raise walkers={walkers}"
                )
            trials = entries.resampled(choice, count)
            walked = np.flatnonzero(~(trials.arrived | (trials.levels >= upper)))
            end = walk.run(trials.points[walked], lower=plan.source, upper=upper)
            entries = _joined_successes(trials, walked, end, upper)
            factors.append(entries.counts() / count)
            bar.update()
    with np.errstate(divide="ignore"):
        logs = np.log(np.stack(factors, axis=1))
    return _Run(first_time, first_share, logs)


def _first_way(
    walk: _Walk, start: np.ndarray, plan: _Plan, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where walkers from the start first come to the source; ℓ₀ and q₀ of each group."""
    if plan.start_level <= plan.source:
        return start, np.zeros(GROUPS), np.zeros(GROUPS)
    end = walk.run(np.repeat(start, len(group), axis=0), lower=plan.source)
    home = end.points[end.outcome == BELOW]
    if not len(home):
        raise ValueError("from the start no walker comes back to the source: use simulate_escape")
    number = np.bincount(group)
    hits = np.bincount(group, end.outcome == ESCAPED)
    return home, np.bincount(group, walk.times(end)) / number, hits / number


def _estimate(run: _Run, confidence: float) -> dict[str, float]:
    """ln T, its standard error and half its interval, from what each group adds to the error."""
    log_rates = run.log_factors.sum(axis=1)
    log_rate = _log_mean(log_rates)
    away = 1.0 - run.first_share.mean()
    first = run.first_time.mean()
    log_time = float(np.logaddexp(math.log(first) if first else -math.inf, math.log(away) - log_rate))
    late = math.exp(math.log(away) - log_rate - log_time)
    parts = late * (1 - np.exp(log_rates - log_rate)) + late * (1 - (1 - run.first_share) / away)
    parts = parts + (run.first_time - first) * math.exp(-log_time)
    error = float(parts.std(ddof=1)) / math.sqrt(GROUPS)
    return {
        "log_time": log_time,
        "error": error,
        "half_width": error * float(stats.t.isf((1 - confidence) / 2, GROUPS - 1)),
        "alive": int(np.isfinite(log_rates).sum()),
    }


def _log_mean(logs: np.ndarray) -> float:
    """ln of the mean of exponentials."""
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _dataset(
    process: Process,
    walk: _Walk,
    plan: _Plan,
    run: _Run,
    *,
    target: str,
    level: str,
    walkers: int,
    confidence: float,
) -> xr.Dataset:
    found = _estimate(run, confidence)
    if found["alive"] < GROUPS // 2:
        warnings.warn(
            f"only {found['alive']:g} of {GROUPS} groups reached the target: raise walkers={walkers}",
            stacklevel=3,
        )
    if walk.diverged:
        warnings.warn(f"{walk.diverged} walkers diverged; they were put back at the source", stacklevel=3)
    log_time, error, half = found["log_time"], found["error"], found["half_width"]
    reached = [_log_mean(run.log_factors[:, : i + 1].sum(axis=1)) for i in range(run.log_factors.shape[1])]
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        low, middle, high = np.exp([log_time - half, log_time, log_time + half])
        brute = np.exp(log_time - math.log(walk.time_step) - 2 * math.log(error)) if error else math.inf
        rates = np.exp([-log_time - half, -log_time, -log_time + half])
    percent = f"{100 * confidence:g} % interval"
    scalars = {
        "rate": ("escape rate, 1 / mean time", "1/time", rates[1]),
        "low": (f"lower end of the {percent} of the rate", "1/time", rates[0]),
        "high": (f"upper end of the {percent} of the rate", "1/time", rates[2]),
        "mean_time": ("mean time to the target from the start", "time", middle),
        "mean_time_low": (f"lower end of the {percent}", "time", low),
        "mean_time_high": (f"upper end of the {percent}", "time", high),
        "log_mean_time": ("natural logarithm of the mean time", "1", log_time),
        "log_mean_time_stderr": ("standard error of it", "1", error),
        "flux": ("entries to the first level per time", "1/time", math.exp(reached[0])),
        "n_levels": ("levels above the source", "1", len(plan.levels)),
        "walker_steps": ("steps made, pilot included", "1", walk.steps),
        "brute_force_steps": ("steps of as many plain escapes as have this error", "1", float(brute)),
    }
    dataset = xr.Dataset(
        {name: ((), value, {"long_name": words, "units": unit}) for name, (words, unit, value) in scalars.items()},
        coords={"level": np.arange(1, len(plan.levels) + 1), "group": np.arange(GROUPS)},
    )
    dataset["level_value"] = ("level", plan.levels, {"long_name": "reaction coordinate", "units": "1"})
    dataset["conditional_probability"] = (
        "level",
        np.exp(np.diff(reached)),
        {"long_name": "probability to reach the next level, or the target, before the source", "units": "1"},
    )
    dataset["log_rate"] = (
        "group",
        run.log_factors.sum(axis=1),
        {"long_name": "ln of the rate k of each group", "units": "1"},
    )
    dataset.attrs = {
        "title": f"rare escape from {process.name} to {target}",
        "landscape": str(process.name),
        "target": target,
        "level": level,
        "source": plan.source,
        "boundary": walk.boundary,
        "time_step": walk.time_step,
        "walkers": int(walkers),
        "confidence": float(confidence),
        "n_diverged": walk.diverged,
        "seed": f"0x{walk.key[0]:016x}{walk.key[1]:016x}",
        "process_hash": process_hash(process),
        "fpsolve_version": fpsolve.__version__,
    }
    return dataset


def _words(coordinate: sp.Expr | xr.DataArray) -> str:
    return f"grid of {coordinate.name}" if isinstance(coordinate, xr.DataArray) else str(coordinate)


def _check_numbers(walkers, confidence, max_levels, relaxation_time) -> None:
    if walkers < 100:
        raise ValueError(f"walkers={walkers} must be at least 100, {GROUPS} groups share them")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    if max_levels < 1:
        raise ValueError(f"max_levels={max_levels} must be at least 1")
    if relaxation_time is not None and not (math.isfinite(relaxation_time) and relaxation_time > 0):
        raise ValueError(f"relaxation_time={relaxation_time:g} must be positive and finite")


def _coordinate(
    process: Process, target: sp.Basic, level: sp.Expr | xr.DataArray | None
) -> tuple[sp.Expr | xr.DataArray, Callable[[np.ndarray], np.ndarray]]:
    """The level as the kernel takes it, and as a function of points (k, n)."""
    if not isinstance(level, xr.DataArray):
        expression = signed_function(target, process.variables) if level is None else sp.sympify(level)
        check_expressions([expression], process.variables)
        function = numpy_function(expression, process.variables)
        return expression, lambda points: np.broadcast_to(function(*points.T), len(points))
    names = variable_names(process)
    if set(map(str, level.dims)) != set(names):
        raise ValueError(f"level has dims {', '.join(map(str, level.dims))}; give {', '.join(names)}")
    field = level.transpose(*names)
    if field.name == "committor":
        field = np.log(field.clip(min=1e-300))
    axes = [field[name].values for name in names]
    table = RegularGridInterpolator(axes, field.values)
    low, high = np.array([axis[[0, -1]] for axis in axes]).T
    return field, lambda points: table(np.clip(points, low, high))


def _curvatures(process: Process, start: np.ndarray, target: sp.Basic) -> tuple[float, float]:
    """Smallest and largest rate of −∂b at the end of the noiseless path from the start."""
    remedy = "; give time_step and relaxation_time"
    variables = process.variables
    b = numpy_function(list(process.drift), variables)
    jacobian = numpy_function(sp.Matrix(process.drift).jacobian(variables), variables)
    g = numpy_function(signed_function(target, variables), variables)

    def rates(point: np.ndarray) -> np.ndarray:
        return -np.linalg.eigvals(np.reshape(jacobian(*point), (len(point), len(point))))

    point = start
    span = 1.0 / max(float(np.abs(rates(start)).max()), 1e-6)
    for _ in range(60):
        path = solve_ivp(
            lambda _, x: np.ravel(b(*x)), (0.0, span), point, method="LSODA", rtol=1e-8, atol=1e-10
        )
        if not path.success or (g(*path.y) > 0).any():
            raise ValueError(
                f"without noise the walker runs from the start into the target {target}: there is no barrier; "
                "use simulate_escape" if path.success else f"the drift cannot be followed from the start{remedy}"
            )
        moved = float(np.abs(path.y[:, -1] - point).max())
        point, span = path.y[:, -1], 2.0 * span
        if moved < 1e-6 * (1.0 + float(np.abs(point).max())):
            break
    found = rates(point)
    slow, fast = float(found.real.min()), float(max(np.abs(found).max(), np.abs(rates(start)).max()))
    if not slow > 1e-6 * fast:
        shown = ", ".join(f"{value:.4g}" for value in point)
        raise ValueError(
            f"without noise the walker comes from the start to ({shown}), where the smallest curvature is "
            f"{slow:.2g}, not positive: no quadratic minimum{remedy}"
        )
    return slow, fast


def _check_noise(process: Process, start: np.ndarray, target: sp.Basic) -> None:
    """In one variable: the noise must not vanish on every way to the target, or T is infinite."""
    if len(process.variables) != 1:
        return
    (x,) = process.variables
    b, D = (vectorised(x, f) for f in (process.drift[0], process.diffusion[0, 0]))
    g = vectorised(x, signed_function(target, process.variables))
    away = np.geomspace(1e-6, 1e4, 20_001) * max(1.0, abs(start[0]))
    blocked = []
    for side in (-1, 1):
        inside = np.flatnonzero(g(start[0] + side * away) > 0)
        if not inside.size:
            continue
        line = np.linspace(start[0], start[0] + side * away[inside[0]], 20_001)
        step = 1e-4 * (line[-1] - line[0])
        walls = [(place, dimension_at(place, b, D, step=step)) for place in zeros_of_noise(D, line)]
        walls = [(place, dimension) for place, dimension in walls if not dimension < 0]
        if not walls:
            return
        blocked += walls[:1]
    if blocked:
        place, dimension = blocked[0]
        raise ValueError(
            f"D vanishes at {x}={place:.6g} on the way to the target {target} ({verdict(dimension)}); for the "
            "SGD map, whose steps are finite, give its learning rate as time_step"
        )
