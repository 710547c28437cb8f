"""Which penalty forgets least, each at its best, with intervals over trainings.

"At its best" means λ, N_c and, where asked for, the stop of task 2 with the least ε₁ + ε₂. Were they chosen
on the same trainings that are reported, more settings alone would make a penalty look better. So some
trainings, the pilots, do nothing but choose, and the others do nothing but report: their errors are
independent of the choice, differences between penalties are paired within them, and Student's intervals
hold as they should (tests/test_forgetting.py).

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Fig. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.intervals import student_factor
from notebooks.studies.forgetting.penalties import Method

__all__ = ["Gap", "Study", "at_best", "difference", "gap", "interval", "summary"]


@dataclass(frozen=True, eq=False)
class Study:
    """Trainings that choose settings, and trainings that are reported.

    Attributes
    ----------
    pilots, reported : Dataset
        Of the same constraints and tasks, as :func:`notebooks.studies.forgetting.continual.scan` returns them.
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
        """The first trainings of a scan choose, the others are reported.

        Parameters
        ----------
        result : Dataset
            From :func:`notebooks.studies.forgetting.continual.scan`.
        pilots : int
            How many choose.

        Returns
        -------
        Study

        Raises
        ------
        ValueError
            If no training would choose, or fewer than two are left.
        """
        if not 1 <= pilots <= result.sizes["training"] - 2:
            raise ValueError(
                f"pilots={pilots} of {result.sizes['training']} trainings: at least 1 chooses, 2 are reported"
            )
        return cls(result.isel(training=slice(pilots)), result.isel(training=slice(pilots, None)))

    def position(self, method: Method, strength: float = 0.0, count: int = 0) -> int:
        """Where a setting is along ``constraint``.

        Parameters
        ----------
        method : str
        strength, count : float, int

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If it was not scanned.
        """
        there = self.settings(method, count)
        found = there[self.reported["strength"].to_numpy()[there] == strength]
        if not found.size:
            raise ValueError(f"{method!r} with strength={strength:g} and count={count} was not scanned")
        return int(found[0])

    def settings(self, method: str, count: int | None = None) -> np.ndarray:
        """Positions of a penalty's settings, with one N_c or all; "L2" and "none" have none, and ignore it.

        Parameters
        ----------
        method : str
        count : int, optional

        Returns
        -------
        ndarray of int

        Raises
        ------
        ValueError
            If there are none.
        """
        if not self.has(method, count):
            there = ", ".join(self.methods)
            raise ValueError(f"method={method!r} with count={count} is not in this study, which has {there}")
        return np.flatnonzero(self._among(method, count))

    def has(self, method: str, count: int | None = None) -> bool:
        """Whether a penalty was scanned, with that N_c.

        Parameters
        ----------
        method : str
        count : int, optional

        Returns
        -------
        bool
        """
        return bool(self._among(method, count).any())

    def _among(self, method: str, count: int | None) -> np.ndarray:
        kept = self.reported["penalty"].to_numpy() == method
        if count is not None and method not in ("L2", "none"):
            kept &= self.reported["count"].to_numpy() == count
        return kept

    @property
    def methods(self) -> tuple[Method, ...]:
        """Penalties, in the order of the scan."""
        there = dict.fromkeys(self.reported["penalty"].to_numpy().astype(str))
        return tuple(cast(Method, method) for method in there)

    def everything(self, method: str) -> int:
        """What N_c = 0 stands for: all principal directions, or all weights.

        Parameters
        ----------
        method : str

        Returns
        -------
        int
        """
        one = self.reported
        return one.sizes["mode"] if method.startswith("LDC") else int(one["weights"].max())


def at_best(
    study: Study, method: Method, *, count: int | None = None, checkpoint: int | None = -1
) -> xr.Dataset:
    """Errors of each reported training at the λ and N_c that are best in the mean over the pilots.

    Parameters
    ----------
    study : Study
    method : str
    count : int, optional
        Only this N_c (0: all); default whichever is best. "L2" and "none" have none, and ignore it.
    checkpoint : int or None
        When, as a position in ``checkpoint``; default at the end. None: task 2 stops at whichever checkpoint
        is best, chosen with λ and N_c.

    Returns
    -------
    Dataset, dim training
        ``error_first``, ``error_second`` and ``total`` = ε₁ + ε₂. ``attrs``: ``strength``, ``count`` and
        ``stop`` (a position in ``checkpoint``) that were chosen; ``at_edge``, 1 if that λ is the first or
        last scanned, so that the best may lie outside; ``pilot``, the pilots' mean of ``total`` there;
        ``least``, the least mean over the reported trainings that any choice could have had.

    Raises
    ------
    ValueError
        If the method, with that N_c, was not scanned.
    """
    there = study.settings(method, count)
    last = study.reported.sizes["checkpoint"]
    stops = np.arange(last) if checkpoint is None else np.array([checkpoint % last])
    pilots = _totals(study.pilots, there, stops).mean(0)
    place, stop = np.divmod(int(pilots.argmin()), len(stops))
    best, at = int(there[place]), int(stops[stop])
    first, second = (
        study.reported[name].transpose("training", "constraint", "checkpoint").to_numpy()[:, best, at]
        for name in ("error_first", "error_second")
    )
    strength, own = study.reported["strength"].to_numpy(), int(study.reported["count"][best])
    scanned = strength[there[study.reported["count"].to_numpy()[there] == own]]
    edge = len(scanned) > 1 and strength[best] in (scanned.min(), scanned.max())
    columns = {
        "error_first": (first, "test error of task 1, ε₁"),
        "error_second": (second, "test error of task 2, ε₂"),
        "total": (first + second, "ε₁ + ε₂"),
    }
    return xr.Dataset(
        {k: ("training", v, {"long_name": text, "units": "1"}) for k, (v, text) in columns.items()},
        attrs={
            "title": f"{method}, at the setting that is best for the pilots", "penalty": method,
            "strength": float(strength[best]), "count": own, "stop": at, "at_edge": int(edge),
            "pilot": float(pilots.min()),
            "least": float(_totals(study.reported, there, stops).mean(0).min()),
        },
    )  # fmt: skip


def summary(
    study: Study, *, count: int | None = None, checkpoint: int | None = -1, confidence: float = 0.95
) -> xr.Dataset:
    """Every penalty at its best: means and Student's intervals over the reported trainings.

    Parameters
    ----------
    study : Study
    count : int, optional
        Hold all penalties to this N_c; those that were not scanned there are left out.
    checkpoint : int or None
        As in :func:`at_best`.
    confidence : float

    Returns
    -------
    Dataset, dim penalty
        ``error_first``, ``error_second``, ``total``, each with ``_low`` and ``_high``; ``strength``,
        ``count``, ``stop``, ``at_edge`` and ``least`` as in :func:`at_best`.
    """
    names, rows = [], []
    for method in study.methods:
        if not study.has(method, count):
            continue
        best = at_best(study, method, count=count, checkpoint=checkpoint)
        row: dict[str, float] = {}
        for name in ("error_first", "error_second", "total"):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(best[name].to_numpy(), confidence)
        names.append(method)
        rows.append(row | {k: best.attrs[k] for k in ("strength", "count", "stop", "at_edge", "least")})
    return xr.Dataset(
        {k: ("penalty", np.array([row[k] for row in rows]), {"long_name": k, "units": "1"}) for k in rows[0]},
        {"penalty": names},
        attrs=dict(study.reported.attrs) | {"confidence": confidence},
    )


@dataclass(frozen=True)
class Gap:
    """Mean of paired differences, Student's interval, and how often they are below 0."""

    mean: float
    low: float
    high: float
    below: int
    trainings: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.high < 0 or self.low > 0

    @property
    def sign_test(self) -> float:
        """p of the two-sided sign test, which no training far out moves; of 5 trainings at least 0.06."""
        return float(stats.binomtest(self.below, self.trainings).pvalue)


def difference(
    study: Study,
    one: Method,
    other: Method,
    *,
    count: int | None = None,
    checkpoint: int | None = -1,
    confidence: float = 0.95,
) -> Gap:
    """ε₁ + ε₂ of one penalty less that of another, both at their best, paired by training.

    Parameters
    ----------
    study : Study
    one, other : str
    count, checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    Gap
        Below 0 ``one`` forgets less.
    """
    totals = [at_best(study, m, count=count, checkpoint=checkpoint)["total"] for m in (one, other)]
    return gap(totals[0], totals[1], confidence=confidence)


def gap(one: xr.DataArray, other: xr.DataArray, *, confidence: float = 0.95) -> Gap:
    """Paired differences of two arrays over the same trainings.

    Parameters
    ----------
    one, other : DataArray, dim training
    confidence : float

    Returns
    -------
    Gap
        Of ``one`` less ``other``.
    """
    values = one.to_numpy() - other.to_numpy()
    return Gap(*interval(values, confidence), below=int((values < 0).sum()), trainings=len(values))


def interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and the ends of Student's interval.

    Parameters
    ----------
    values : array_like, shape (n,)
        Independent, at least 2.
    confidence : float

    Returns
    -------
    tuple of float
        Mean, low, high.
    """
    numbers = np.asarray(values, float)
    half = student_factor(len(numbers), confidence) * float(numbers.std(ddof=1))
    mean = float(numbers.mean())
    return mean, mean - half, mean + half


def _totals(result: xr.Dataset, there: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """ε₁ + ε₂, shape (training, settings × stops)."""
    grid = np.ix_(np.arange(result.sizes["training"]), there, stops)
    both = [
        result[name].transpose("training", "constraint", "checkpoint").to_numpy()[grid]
        for name in ("error_first", "error_second")
    ]
    return (both[0] + both[1]).reshape(len(both[0]), -1)
