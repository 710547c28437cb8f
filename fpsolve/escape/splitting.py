"""Splitting levels on the way out of a valley: the algorithm behind :func:`fpsolve.split_escape`.

The walks are those of :func:`fpsolve.simulate_escape`. Let ξ be a level that rises towards the target B,
A = {ξ ≤ ξ₀} the source, ξ₁ > ξ₀, and ρ the law of the place where a walker from the start first comes to A.
Put every walker that reaches B back into A, at a place drawn from ρ. This process renews itself at each
arrival in B and has a stationary state, in which arrivals occur at the rate k = 1/E_ρ[T] (renewal theorem):
time spent beyond B counts nowhere. With ℓ₀ the mean time from the start to A or B, and q₀ the probability
that it is B, the strong Markov property gives, for any barrier,

    T(start) = ℓ₀ + (1 − q₀)/k.

An *entry* is the first step with ξ ≥ ξ₁ (or in B) after a visit to A. Then k = f · E[h(X)], where f is the
number of entries per time, X an entry and h(x) the probability to go from x to B before A. Levels
ξ₁ < ξ₂ < … split h: N trials start from the entries, N from the successes among them, and so on. If the
levels were fixed before, f times the product of the shares that succeeded has the mean k exactly, however
few the trials. Proof, from the last stage back: a trial goes on with a Markov path up to a stopping time, so
h at its start is the mean of h at its end (0 in A, 1 in B). Hence the share of successes times their mean h
has as its expectation the mean h of the starts, and drawing starts evenly from earlier successes keeps that.

The proof holds for any level, watched at the ends of steps only: a level defines a stopping time of the
discrete walk. Crossings between steps matter for B alone, where ``boundary`` says how they are treated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fpsolve.ensemble.lanes import Kernel
from fpsolve.escape.kernel import ABOVE, BELOW, CENSORED, DIVERGED, ESCAPED, Boundary
from fpsolve.escape.passages import Passages, PointFunction, passage_times, run_walkers
from fpsolve.progress import bar

#: Independent repetitions inside one call; their spread gives the interval.
GROUPS = 20
#: Aim for the shares: 0.2 costs least if trials were independent, and larger ones keep their paths apart.
SHARE = 0.3
_PILOT = 1000
#: Relaxation times and loops of each walker before anything is counted, and loops that are counted.
_RELAXATIONS, _SETTLING, _LOOPS = 10, 5, 10


@dataclass
class Walk:
    """Runs batches of walkers, each with the next numbers (from ``used``), and counts their steps."""

    kernel: Kernel
    signed: PointFunction
    boundary: Boundary
    key: tuple[int, int]
    time_step: float
    divergence: float
    threads: int
    max_step: int
    #: Steps for which a walker depends on its start.
    relaxation: int
    #: Draws among places.
    choice: np.random.Generator
    used: int = 0
    steps: int = 0
    diverged: int = 0

    def run(
        self, points: np.ndarray, lower: float = -math.inf, upper: float = math.inf, steps: int | None = None
    ) -> Passages:
        """Passages from ``points``; without ``steps``, each must end."""
        if not len(points):
            return Passages(np.zeros(0, np.int8), np.zeros(0, np.int64), points, np.zeros(0))
        end = run_walkers(
            self.kernel, self.signed, points, key=self.key, first_walker=self.used,
            time_step=self.time_step, max_step=self.max_step if steps is None else steps,
            divergence=self.divergence, threads=self.threads, lower=lower, upper=upper,
        )  # fmt: skip
        self.used += len(points)
        self.steps += int(end.steps.sum())
        lost = int((end.outcome == DIVERGED).sum())
        self.diverged += lost
        if 2 * lost > len(points) >= 100:
            raise ValueError(
                f"{lost} of {len(points)} walkers diverged (a coordinate came to divergence="
                f"{self.divergence:g}), or met a D that is not positive: use a time_step below "
                f"{self.time_step:g}, or a larger divergence"
            )
        stuck = end.outcome == CENSORED
        if steps is None and stuck.any():
            where = ", ".join(f"{value:.3g}" for value in end.points[stuck][0])
            raise ValueError(
                f"a walker stayed near ({where}) for max_time={self.max_step * self.time_step:g}, between "
                "source and target: add that valley to the target, choose source or level so that it "
                "belongs to the source, or give a larger max_time"
            )
        return end

    def times(self, end: Passages) -> np.ndarray:
        """Time of each passage."""
        return passage_times(end, self.time_step, self.boundary)

    def drawn(self, home: np.ndarray, count: int) -> np.ndarray:
        """So many of the places ``home``, any of them as often as it is drawn."""
        return home[self.choice.integers(len(home), size=count)]

    def put_back(self, end: Passages, outcome: int, home: np.ndarray) -> np.ndarray:
        """Last places; walkers that did not end with ``outcome`` are put back to places of ``home``."""
        gone, points = end.outcome != outcome, end.points.copy()
        points[gone] = self.drawn(home, int(gone.sum()))
        return points

    def relaxed(self, points: np.ndarray, home: np.ndarray) -> np.ndarray:
        """Places after ten relaxation times, after each of which walkers that ended are put back."""
        for _ in range(_RELAXATIONS):
            points = self.put_back(self.run(points, steps=self.relaxation), CENSORED, home)
        return points


class Plan(NamedTuple):
    """Choices of the pilot: the source's level, the levels above it, the mean time of a loop."""

    source: float
    levels: np.ndarray
    loop_time: float


class Counts(NamedTuple):
    """Results of each group: ℓ₀, q₀, and the logs of flux and shares, shape (groups, 1 + levels)."""

    first_time: np.ndarray
    first_share: np.ndarray
    log_factors: np.ndarray


class _Entries(NamedTuple):
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
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def take(self, index: np.ndarray) -> _Entries:
        return _Entries(*(values[index] for values in self))

    def counts(self) -> np.ndarray:
        return np.bincount(self.group, minlength=GROUPS)

    def beyond(self, upper: float) -> np.ndarray:
        return self.arrived | (self.levels >= upper)

    def resampled(self, choice: np.random.Generator, count: int) -> _Entries:
        """``count`` of each group that has any: all equally often, but for a remainder drawn at random."""
        order = np.argsort(self.group, kind="stable")
        index = []
        for members in np.split(order, np.cumsum(self.counts())[:-1]):
            if members.size:
                whole, rest = divmod(count, members.size)
                index += [np.tile(members, whole), choice.permutation(members)[:rest]]
        return self.take(np.concatenate(index))


def pilot(
    walk: Walk, start: np.ndarray, level_at: PointFunction, *, source: float | None, max_levels: int
) -> Plan:
    """Where the source ends, and levels that a share of about ``SHARE`` of the trials passes.

    ``level_at`` gives ξ at points (k, n), and ``start`` has shape (1, n). ``source`` is ξ₀; None takes the
    median of walkers that have relaxed from the start. No walk of the pilot is counted later, so the levels
    are fixed for those that are. Fails if the source holds all or none of the relaxed walkers, or the levels
    do not come to the target.
    """
    points = walk.relaxed(np.repeat(start, _PILOT, axis=0), start)
    heights = level_at(points)
    source = float(np.median(heights)) if source is None else source
    inside = heights <= source
    if inside.all() or not inside.any():
        raise ValueError(
            f"{'all' if inside.all() else 'none'} of {_PILOT} walkers that relaxed from the start are at or "
            f"below the source's level {source:.6g}: choose source or level so that some are on either side"
        )
    levels = [float(np.quantile(heights[~inside], 1 - SHARE))]
    begun = Plan(source, np.array(levels), 0.0)
    entries, loop_time = _loops(walk, points, points[inside], begun, np.zeros(_PILOT, int), rounds=5)
    while True:
        trials = entries.resampled(walk.choice, _PILOT)
        number = walk.used
        end = walk.run(trials.points, lower=source)
        tops = np.maximum(trials.levels, end.top_level)
        tops[trials.arrived | (end.outcome == ESCAPED)] = math.inf
        if (tops == math.inf).mean() >= SHARE:
            return Plan(source, np.array(levels), loop_time)
        higher = tops[tops > levels[-1]]
        wanted = np.quantile(tops, 1 - SHARE, method="higher")
        following = max(float(wanted), float(higher.min(initial=math.inf)))
        if following == math.inf and higher.size:  # no level in between, but some come to the target
            return Plan(source, np.array(levels), loop_time)
        if following == math.inf or len(levels) >= max_levels:
            raise ValueError(
                f"the target is not reached: {len(levels)} levels from {source:.6g} to {levels[-1]:.6g}, "
                f"each passed by a share of about {SHARE:g}; can walkers come there? Does D vanish "
                "before? Give another level or a larger max_levels"
            )
        levels.append(following)
        # The same numbers give the same walks, now stopped at the new level
        walk.used = number
        end = walk.run(trials.points, lower=source, upper=following)
        entries = _successes(trials, np.arange(_PILOT), end, following)


def counted(
    walk: Walk, start: np.ndarray, plan: Plan, *, start_level: float, walkers: int, progress: bool
) -> Counts:
    """The runs that count: from the start to the source, entries in time, and from level to level.

    ``start_level`` is ξ at the start and ``walkers`` the trials of each level. Fails if no walker comes to
    some level in any group, or none returns from the start to the source.
    """
    each = walkers // GROUPS
    with bar(len(plan.levels) + 1, unit="level", progress=progress) as shown_bar:
        home, first_time, first_share = start, np.zeros(GROUPS), np.zeros(GROUPS)
        if start_level > plan.source:
            home, first_time, first_share = _first_way(walk, start, plan.source, each)
        group = np.arange(max(1, each // _LOOPS) * GROUPS) % GROUPS
        points = walk.relaxed(walk.drawn(home, len(group)), home)
        window = (_SETTLING * plan.loop_time, (_SETTLING + _LOOPS) * plan.loop_time)
        entries, _ = _loops(walk, points, home, plan, group, window=window)
        factors = [entries.counts() * GROUPS / (len(group) * (window[1] - window[0]))]
        shown_bar.update(1)
        for number, upper in enumerate([*plan.levels[1:], math.inf]):
            if entries.group.size:
                trials = entries.resampled(walk.choice, each)
                walked = np.flatnonzero(~trials.beyond(upper))
                end = walk.run(trials.points[walked], lower=plan.source, upper=upper)
                entries = _successes(trials, walked, end, upper)
            if not entries.group.size:
                raise ValueError(
                    f"no walker went on from level {plan.levels[number]:.6g} ({number + 1} of "
                    f"{len(plan.levels)}) in any group: raise walkers={walkers}"
                )
            factors.append(entries.counts() / each)
            shown_bar.update(1)
    with np.errstate(divide="ignore"):
        return Counts(first_time, first_share, np.log(np.stack(factors, axis=1)))


def log_mean(logs: np.ndarray) -> float:
    """ln of the mean of exponentials, shape (k,) to a number."""
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _loops(
    walk: Walk,
    points: np.ndarray,
    home: np.ndarray,
    plan: Plan,
    group: np.ndarray,
    *,
    window: tuple[float, float] = (0.0, math.inf),
    rounds: float = math.inf,
) -> tuple[_Entries, float]:
    """Entries in a window of each walker's clock, and the mean time from one return to the next."""
    end = walk.run(points, lower=plan.source)  # so that whoever then comes to the first level enters it
    points = walk.put_back(end, BELOW, home)
    clock, active, loops, found = np.zeros(len(points)), np.arange(len(points)), 0, []
    while active.size and loops < rounds * len(points):
        end = walk.run(points[active], upper=plan.levels[0])
        clock[active] += walk.times(end)
        inside = (clock[active] >= window[0]) & (clock[active] < window[1])
        found.append(_Entries.of(end, group[active], inside & (end.outcome != DIVERGED)))
        points[active] = walk.put_back(end, ABOVE, home)
        above = active[end.outcome == ABOVE]
        if above.size:
            end = walk.run(points[above], lower=plan.source)
            clock[above] += walk.times(end)
            points[above] = walk.put_back(end, BELOW, home)
        loops += active.size
        active = active[clock[active] < window[1]]
    return _Entries.joined(found), float(clock.sum()) / loops


def _successes(trials: _Entries, walked: np.ndarray, end: Passages, upper: float) -> _Entries:
    """Trials that were beyond ``upper`` from the start, and those of the ``walked`` that came there."""
    beyond = trials.beyond(upper)
    came = ((end.outcome == ABOVE) | (end.outcome == ESCAPED)) & ~beyond[walked]
    at_once = trials.take(np.flatnonzero(beyond))
    return _Entries.joined([at_once, _Entries.of(end, trials.group[walked], came)])


def _first_way(
    walk: Walk, start: np.ndarray, source: float, each: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where walkers from the start first come to the source; ℓ₀ and q₀ of each group."""
    group = np.arange(each * GROUPS) % GROUPS
    end = walk.run(np.repeat(start, len(group), axis=0), lower=source)
    home = end.points[end.outcome == BELOW]
    if not len(home):
        raise ValueError(
            f"none of {len(group)} walkers comes from the start to the source: use simulate_escape"
        )
    first_time, escaped = (np.bincount(group, w) / each for w in (walk.times(end), end.outcome == ESCAPED))
    return home, first_time, escaped
