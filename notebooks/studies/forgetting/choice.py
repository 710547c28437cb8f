"""Which penalty forgets least, each at its best, with intervals over trainings.

"At its best" means λ, N_c and, where asked for, the stop of task 2 with the least ε₁ + ε₂. If these were
chosen on the trainings that are reported, more settings alone would make a penalty look better. So some
trainings, the pilots, only choose, and the others only report. The reported errors are independent of the
choice, differences between penalties are paired by training, and Student's intervals have their stated
coverage (tests/notebooks/studies/forgetting/test_forgetting.py).

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Fig. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.results import quantity
from fpsolve.statistics import Estimate, over_trainings, paired
from notebooks.studies.forgetting.penalties import METHODS

BOTH = ("error_first", "error_second")


class How(TypedDict, total=False):
    """What a penalty may choose: only this N_c (0: all), and the position of the stop of task 2.

    Without ``count`` all N_c compete. ``checkpoint`` is the end, -1, by default; None lets all stops compete.
    """

    count: int | None
    checkpoint: int | None


@dataclass(frozen=True, eq=False)
class Study:
    """Trainings that choose settings, ``pilots``, and trainings that are ``reported``.

    Both are results of ``continual.scan`` with the same constraints and tasks. Different constraints, or
    fewer than two reported trainings, are a ValueError.
    """

    pilots: xr.Dataset
    reported: xr.Dataset

    def __post_init__(self) -> None:
        if self.reported.sizes["training"] < 2:
            raise ValueError("an interval needs at least 2 trainings that are reported")
        for name in ("penalty", "strength", "count"):
            if not np.array_equal(self.pilots[name], self.reported[name]):
                raise ValueError(f"pilots and reported trainings differ in {name}")

    @classmethod
    def split(cls, result: xr.Dataset, pilots: int) -> Study:
        """The first ``pilots`` trainings of a scan choose, the others, at least two, are reported."""
        there = result.sizes["training"]
        if not 1 <= pilots <= there - 2:
            raise ValueError(f"pilots={pilots} of {there} trainings: at least 1 chooses, 2 are reported")
        return cls(result.isel(training=slice(pilots)), result.isel(training=slice(pilots, None)))

    def position(self, method: str, strength: float = 0.0, count: int = 0) -> int:
        """Where a setting is along ``constraint``; a ValueError if it was not scanned."""
        there = self.settings(method, count)
        found = there[self.reported["strength"].to_numpy()[there] == strength]
        if not found.size:
            raise ValueError(f"{method!r} with strength={strength:g} and count={count} was not scanned")
        return int(found[0])

    def settings(self, method: str, count: int | None = None) -> np.ndarray:
        """Positions of a penalty's settings with N_c = ``count``, or any; a ValueError if none was scanned.

        Penalties without N_c, "none" and "L2", ignore ``count``.
        """
        if not self.has(method, count):
            there = ", ".join(self.methods)
            raise ValueError(f"method={method!r} with count={count} is not in this study, which has {there}")
        return np.flatnonzero(self._among(method, count))

    def has(self, method: str, count: int | None = None) -> bool:
        """Whether a penalty was scanned, with N_c = ``count`` where that is given."""
        return bool(self._among(method, count).any())

    def _among(self, method: str, count: int | None) -> np.ndarray:
        every = count is None or not METHODS[method].counted
        chosen = self.reported["penalty"].to_numpy() == method
        return chosen if every else chosen & (self.reported["count"].to_numpy() == count)

    @property
    def methods(self) -> tuple[str, ...]:
        """Penalties, in the order of the scan."""
        return tuple(dict.fromkeys(self.reported["penalty"].to_numpy().astype(str)))

    def everything(self, method: str) -> int:
        """What N_c = 0 stands for: all principal directions, or all weights."""
        along = METHODS[method].along_directions
        return self.reported.sizes["mode"] if along else int(self.reported["weights"].max())


def at_best(study: Study, method: str, **how: Unpack[How]) -> xr.Dataset:
    """Errors of each reported training at the λ, N_c and stop that are best in the mean over the pilots.

    A method, with that N_c, that was not scanned is a ValueError. Returned over ``training``:
    ``error_first``, ``error_second`` and ``total`` = ε₁ + ε₂. In ``attrs``: the chosen ``strength``,
    ``count`` and ``stop``; ``at_edge``, 1 if that λ is the first or last scanned, so that the best may lie
    outside; ``pilot``, the pilots' mean of ``total`` there; ``least``, the least mean over the reported
    trainings that any choice could have had.
    """
    there, checkpoint = study.settings(method, how.get("count")), how.get("checkpoint", -1)
    last = study.reported.sizes["checkpoint"]
    stops = np.arange(last) if checkpoint is None else np.array([checkpoint % last])
    pilots = _totals(study.pilots, there, stops).mean(0)
    place, stop = np.divmod(int(pilots.argmin()), len(stops))
    best, at = int(there[place]), int(stops[stop])
    first, second = (_errors(study.reported, name)[:, best, at] for name in BOTH)
    strength, counts = study.reported["strength"].to_numpy(), study.reported["count"].to_numpy()
    scanned = strength[there[counts[there] == counts[best]]]
    edge = len(scanned) > 1 and strength[best] in (scanned.min(), scanned.max())
    return xr.Dataset(
        {
            "error_first": quantity(first, "training", "test error of task 1, ε₁"),
            "error_second": quantity(second, "training", "test error of task 2, ε₂"),
            "total": quantity(first + second, "training", "ε₁ + ε₂"),
        },
        attrs={
            "title": f"{method}, at the setting that is best for the pilots", "penalty": method,
            "strength": float(strength[best]), "count": int(counts[best]), "stop": at, "at_edge": int(edge),
            "pilot": float(pilots.min()),
            "least": float(_totals(study.reported, there, stops).mean(0).min()),
        },
    )  # fmt: skip


def summary(study: Study, *, confidence: float = 0.95, **how: Unpack[How]) -> xr.Dataset:
    """Every penalty at its best: means and Student's intervals over the reported trainings, over ``penalty``.

    Penalties without the ``count`` that is asked for are left out. ``error_first``, ``error_second`` and
    ``total`` have ``_low`` and ``_high`` beside them; ``strength``, ``count``, ``stop``, ``at_edge`` and
    ``least`` are those of :func:`at_best`.
    """
    methods = [m for m in study.methods if study.has(m, how.get("count"))]
    each = [at_best(study, m, **how) for m in methods]
    return _together(each, xr.IndexVariable("penalty", methods), confidence, **study.reported.attrs)


def front(
    study: Study, method: str, *, count: int | None = None, checkpoint: int = -1, confidence: float = 0.95
) -> xr.Dataset:
    """(ε₁, ε₂) of the settings that no other setting of a penalty beats in both, by ε₁ (PNAS Fig. 4 E).

    The pilots say which settings these are. Over ``setting``: means over the reported trainings with
    intervals, ``strength`` λ and ``count`` N_c.
    """
    there = study.settings(method, count)
    e1, e2 = (_errors(study.pilots, name)[:, there, checkpoint].mean(0) for name in BOTH)
    beaten = [(((e1 <= a) & (e2 <= b)) & ((e1 < a) | (e2 < b))).any() for a, b in zip(e1, e2, strict=True)]
    reported = study.reported.isel(constraint=there[~np.array(beaten)], checkpoint=checkpoint)
    found = over_trainings(reported[list(BOTH)], confidence=confidence).rename(constraint="setting")
    found = found.reset_coords(["strength", "count"]).drop_vars(["penalty", "step"], errors="ignore")
    found.attrs = {"title": f"front of {method}", "penalty": method, "confidence": confidence}
    return found.isel(setting=np.argsort(found["error_first"].to_numpy(), kind="stable"))


def over_counts(
    study: Study, method: str, *, checkpoint: int | None = -1, confidence: float = 0.95
) -> xr.Dataset:
    """A penalty over N_c as in :func:`summary`, for each N_c at its best λ (PNAS Fig. 4 F).

    Where N_c = 0 stood for all, ``count`` holds the number of all.
    """
    scanned = {int(c) for c in study.reported["count"].to_numpy()[study.settings(method)]}
    counts = sorted(scanned, key=lambda c: c or np.inf)
    each = [at_best(study, method, count=count, checkpoint=checkpoint) for count in counts]
    every = [c or study.everything(method) for c in counts]
    over = xr.IndexVariable("count", every, {"long_name": "constraints N_c", "units": "1"})
    return _together(each, over, confidence, title=f"{method} over N_c", penalty=method)


def over_steps(study: Study, *, confidence: float = 0.95) -> xr.Dataset:
    """:func:`summary` over ``checkpoint``, the length of task 2, each penalty at its best for that length."""
    last = study.reported.sizes["checkpoint"]
    parts = [summary(study, checkpoint=k, confidence=confidence) for k in range(last)]
    both = xr.concat(parts, "checkpoint", combine_attrs="override")
    return both.transpose("penalty", "checkpoint").assign_coords(step=study.reported["step"])


def learning_curve(result: xr.Dataset, constraint: int, *, confidence: float = 0.95) -> xr.Dataset:
    """Both test errors over ``checkpoint`` with intervals over trainings (PNAS Fig. 4 A, C).

    ``result`` comes from ``continual.scan``; ``constraint`` is the position of one.
    """
    chosen = result[list(BOTH)].isel(constraint=constraint)
    return over_trainings(chosen, confidence=confidence).assign_coords(step=result["step"])


def _together(each: Sequence[xr.Dataset], over: xr.IndexVariable, confidence: float, **attrs) -> xr.Dataset:
    """Results of :func:`at_best` along one dimension: their intervals, and what the pilots chose."""
    names = [k for k in ("strength", "count", "stop", "at_edge", "least") if k != over.name]
    parts = [
        over_trainings(best, confidence=confidence).assign({k: quantity(best.attrs[k], (), k) for k in names})
        for best in each
    ]
    found = xr.concat(parts, over, combine_attrs="override")
    found.attrs = {"confidence": confidence} | attrs
    return found


@dataclass(frozen=True)
class Gap(Estimate):
    """Mean of paired differences with Student's interval, and how often they are below 0."""

    below: int
    trainings: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.side() != "neither"

    @property
    def sign_test(self) -> float:
        """p of the two-sided sign test, robust to one outlying training; with 5 trainings at least 0.06."""
        return float(stats.binomtest(self.below, self.trainings).pvalue)


def difference(study: Study, one: str, other: str, *, confidence: float = 0.95, **how: Unpack[How]) -> Gap:
    """ε₁ + ε₂ of ``one`` less that of ``other``, as in :func:`at_best`; below 0 ``one`` forgets less."""
    return gap(*(at_best(study, m, **how)["total"] for m in (one, other)), confidence=confidence)


def gap(one: xr.DataArray, other: xr.DataArray, *, confidence: float = 0.95) -> Gap:
    """``one`` less ``other``, paired by training."""
    found, below = paired(one, other, confidence), int((one.to_numpy() < other.to_numpy()).sum())
    return Gap(found.value, found.low, found.high, below=below, trainings=one.size)


def _errors(result: xr.Dataset, name: str) -> np.ndarray:
    return result[name].transpose("training", "constraint", "checkpoint").to_numpy()


def _totals(result: xr.Dataset, there: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """ε₁ + ε₂, shape (training, settings × stops)."""
    grid = np.ix_(np.arange(result.sizes["training"]), there, stops)
    first, second = (_errors(result, name)[grid] for name in BOTH)
    return (first + second).reshape(len(first), -1)
