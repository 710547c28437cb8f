"""Which penalty forgets least, each at its best, with intervals over trainings; what became of PNAS Fig. 4.

"At its best" means λ and N_c of the least ε₁ + ε₂ among those scanned. Where settings are chosen on the same
test errors that are reported, more settings alone make a method look better. So they are chosen for each
training on the mean of the *other* trainings, and its own errors are reported. That leaves no bias; but where
many settings tie, the choice couples the trainings, and of intervals meant for 95 % only 90 % hold with five
trainings (86 % with eight): tests/test_continual.py.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from nets.penalties import METHODS, PAPER_CONSTRAINTS, PAPER_STRENGTH, Method

#: Slope of the upper bound of q_i over F_i in PNAS Fig. 4 D.
PAPER_BOUND = 0.008

__all__ = [
    "Verdict",
    "at_best",
    "bound",
    "comparisons",
    "difference",
    "front",
    "joined",
    "over_counts",
    "over_steps",
    "summary",
    "table",
    "verdict",
]


def joined(result: xr.Dataset, *others: xr.Dataset) -> xr.Dataset:
    """Several scans of the same trainings as one, their constraints one after the other.

    Trainings depend on the seed and on the first task, not on how many principal directions are kept: more
    constraints can be added to a scan later.

    Parameters
    ----------
    result, *others : Dataset
        From :func:`nets.continual.scan`. What does not depend on the constraint is taken from the first.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If seeds, tasks or errors after task 1 differ.
    """
    for other in others:
        if not np.array_equal(result["error_before"], other["error_before"]) or not np.array_equal(
            result["error_second"].isel(constraint=0, checkpoint=0),
            other["error_second"].isel(constraint=0, checkpoint=0),
        ):
            raise ValueError("these scans are not of the same trainings: their errors after task 1 differ")
    return xr.concat(
        [result, *others], "constraint", data_vars="minimal", coords="minimal", compat="override",
        join="outer", combine_attrs="override",
    )  # fmt: skip


def at_best(
    result: xr.Dataset, method: Method, *, count: int | None = None, checkpoint: int | None = -1
) -> xr.Dataset:
    """Errors of each training at the λ and N_c that are best for the other trainings.

    Parameters
    ----------
    result : Dataset
        From :func:`nets.continual.scan`.
    method : str
    count : int, optional
        Only this N_c (0: all); default whichever is best. "L2" and "none" have none, and ignore it.
    checkpoint : int or None
        When, as a position in ``result.checkpoint``; default at the end. None: task 2 stops at whichever
        checkpoint is best, chosen with λ and N_c.

    Returns
    -------
    Dataset, dim training
        ``error_first``, ``error_second``, ``total`` = ε₁ + ε₂, and ``chosen``, a position in
        ``result.constraint``. ``attrs``: ``strength``, ``count`` and ``stop`` (a position in
        ``result.checkpoint``) best over all trainings, and ``at_edge``: 1 if that λ is the first or last
        scanned, so that the best may lie outside.

    Raises
    ------
    ValueError
        If the method, with that N_c, is not in the result, or there is one training only.
    """
    if result.sizes.get("training", 1) < 2:
        raise ValueError("choosing on other trainings needs at least 2 of them")
    there = _where(result, method, count)
    last = result.sizes["checkpoint"]
    stops = np.arange(last) if checkpoint is None else np.array([checkpoint % last])
    grid = np.ix_(np.arange(result.sizes["training"]), there, stops)
    first, second = (
        result[name]
        .transpose("training", "constraint", "checkpoint")
        .to_numpy()[grid]
        .reshape(len(grid[0]), -1)
        for name in ("error_first", "error_second")
    )
    total = first + second
    others = (total.sum(0) - total) / (len(total) - 1)
    chosen, rows = others.argmin(1), np.arange(len(total))
    place, stop = np.divmod(total.mean(0).argmin(), len(stops))
    best = there[place]
    strength, own = result["strength"].to_numpy(), int(result["count"][best])
    scanned = strength[there[result["count"].to_numpy()[there] == own]]
    edge = len(scanned) > 1 and strength[best] in (scanned.min(), scanned.max())
    columns = {
        "error_first": (first[rows, chosen], "test error of task 1, ε₁"),
        "error_second": (second[rows, chosen], "test error of task 2, ε₂"),
        "total": (total[rows, chosen], "ε₁ + ε₂"),
        "chosen": (there[chosen // len(stops)], "position of the constraint"),
    }
    return xr.Dataset(
        {k: ("training", v, {"long_name": text, "units": "1"}) for k, (v, text) in columns.items()},
        attrs={
            "title": f"{method}, at the best setting for the other trainings", "penalty": method,
            "strength": float(strength[best]), "count": own, "stop": int(stops[stop]), "at_edge": int(edge),
        },
    )  # fmt: skip


def summary(
    result: xr.Dataset, *, count: int | None = None, checkpoint: int | None = -1, confidence: float = 0.95
) -> xr.Dataset:
    """Every method at its best: means and Student's intervals over trainings.

    Parameters
    ----------
    result : Dataset
        From :func:`nets.continual.scan`.
    count : int, optional
        Hold all methods to this N_c; those that were not scanned there are left out.
    checkpoint : int or None
        As in :func:`at_best`.
    confidence : float

    Returns
    -------
    Dataset, dim penalty
        ``error_first``, ``error_second``, ``total``, each with ``_low`` and ``_high``; ``strength``,
        ``count``, ``stop`` and ``at_edge`` of the setting best over all trainings.
    """
    names, rows = [], []
    for method in dict.fromkeys(result["penalty"].to_numpy().astype(str)):
        if count is not None and not _has(result, method, count):
            continue
        best = at_best(result, method, count=count, checkpoint=checkpoint)
        row: dict[str, float] = {}
        for name in ("error_first", "error_second", "total"):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = _interval(best[name].to_numpy(), confidence)
        names.append(method)
        rows.append(row | {k: best.attrs[k] for k in ("strength", "count", "stop", "at_edge")})
    return xr.Dataset(
        {k: ("penalty", np.array([row[k] for row in rows]), {"long_name": k, "units": "1"}) for k in rows[0]},
        {"penalty": names},
        attrs=dict(result.attrs) | {"confidence": confidence, "trainings": result.sizes["training"]},
    )


def difference(
    result: xr.Dataset,
    one: Method,
    other: Method,
    *,
    count: int | None = None,
    checkpoint: int | None = -1,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """ε₁ + ε₂ of one method less that of another, both at their best, paired by training.

    Parameters
    ----------
    result : Dataset
    one, other : str
    count, checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    tuple of float
        Mean and the ends of Student's interval; below 0 ``one`` forgets less.
    """
    totals = [
        at_best(result, m, count=count, checkpoint=checkpoint)["total"].to_numpy() for m in (one, other)
    ]
    return _interval(totals[0] - totals[1], confidence)


def front(
    result: xr.Dataset,
    method: Method,
    *,
    count: int | None = None,
    checkpoint: int = -1,
    confidence: float = 0.95,
) -> xr.Dataset:
    """(ε₁, ε₂) of every setting of a method that no other setting of it beats in both, by ε₁ (PNAS Fig. 4 E).

    Parameters
    ----------
    result : Dataset
    method : str
    count, checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    Dataset, dim setting
        Means over trainings with intervals, ``strength`` λ and ``count`` N_c. Settings are chosen and
        measured on the same trainings: for single numbers see :func:`at_best`.
    """
    there = _where(result, method, count)
    errors = {
        name: result[name].isel(checkpoint=checkpoint).to_numpy()[:, there]
        for name in ("error_first", "error_second")
    }
    e1, e2 = (e.mean(0) for e in errors.values())
    beaten = [(((e1 <= a) & (e2 <= b)) & ((e1 < a) | (e2 < b))).any() for a, b in zip(e1, e2, strict=True)]
    kept = np.flatnonzero(~np.array(beaten))
    kept = kept[np.argsort(e1[kept])]
    columns: dict[str, np.ndarray] = {}
    for name, values in errors.items():
        ends = np.array([_interval(values[:, k], confidence) for k in kept]).T
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    for name in ("strength", "count"):
        columns[name] = result[name].to_numpy()[there[kept]]
    return xr.Dataset(
        {k: ("setting", v, {"long_name": k, "units": "1"}) for k, v in columns.items()},
        attrs={"title": f"front of {method}", "penalty": method, "confidence": confidence},
    )


def over_counts(
    result: xr.Dataset, method: Method, *, checkpoint: int = -1, confidence: float = 0.95
) -> xr.Dataset:
    """ε₁ + ε₂ over N_c, each at its best λ (PNAS Fig. 4 F).

    Parameters
    ----------
    result : Dataset
    method : str
    checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    Dataset, dim count
        ``total`` with its interval, ``strength``, ``at_edge``. Where 0 stood for all, the number is given.
    """
    every = _all(result, method)
    counts = sorted(
        {int(c) for c in result["count"].to_numpy()[_where(result, method, None)]}, key=lambda c: c or np.inf
    )
    rows = []
    for count in counts:
        best = at_best(result, method, count=count, checkpoint=checkpoint)
        ends = _interval(best["total"].to_numpy(), confidence)
        rows.append((*ends, best.attrs["strength"], best.attrs["at_edge"]))
    names = ("total", "total_low", "total_high", "strength", "at_edge")
    return xr.Dataset(
        {
            k: ("count", np.array(v), {"long_name": k, "units": "1"})
            for k, v in zip(names, zip(*rows, strict=True), strict=True)
        },
        {"count": ("count", [c or every for c in counts], {"long_name": "constraints N_c", "units": "1"})},
        attrs={"title": f"{method} over N_c", "penalty": method, "confidence": confidence},
    )


def over_steps(result: xr.Dataset, *, confidence: float = 0.95) -> xr.Dataset:
    """ε₁ + ε₂ over the length of task 2, each method at its best λ and N_c for that length.

    Parameters
    ----------
    result : Dataset
        From :func:`nets.continual.scan`.
    confidence : float

    Returns
    -------
    Dataset, dims penalty, checkpoint
        ``total`` with its interval, ``strength``, ``count``; coordinate ``step``.
    """
    parts = [summary(result, checkpoint=k, confidence=confidence) for k in range(result.sizes["checkpoint"])]
    names = ["total", "total_low", "total_high", "strength", "count"]
    both = xr.concat([part[names] for part in parts], "checkpoint", combine_attrs="override")
    return both.transpose("penalty", "checkpoint").assign_coords(step=result["step"])


def bound(
    result: xr.Dataset,
    *,
    strength: float = PAPER_STRENGTH,
    count: int = PAPER_CONSTRAINTS,
    confidence: float = 0.95,
) -> xr.Dataset:
    """How far task 2 moves along the constrained directions of "LDC", against F (PNAS Fig. 4 D).

    Parameters
    ----------
    result : Dataset
        With that setting of "LDC".
    strength, count : float, int
        λ and N_c.
    confidence : float

    Returns
    -------
    Dataset
        With intervals over trainings: ``inside``, the share of directions with q_i ≤ 0.008 F_i;
        ``largest``, max q_i/F_i; ``slope`` of ln q_i over ln F_i by least squares (1 for a bound ∝ F); and
        ``free_largest``, max q_i/F_i with no penalty. Directions with infinite F are left out.

    Raises
    ------
    ValueError
        If the setting is not in the result.
    """
    rows = np.flatnonzero(
        (result["penalty"] == "LDC") & (result["strength"] == strength) & (result["count"] == count)
    )
    if not rows.size:
        raise ValueError(f"the result has no LDC with strength={strength:g} and count={count}")
    free = np.flatnonzero(result["penalty"] == "none")
    values: dict[str, list[float]] = {k: [] for k in ("inside", "largest", "slope", "free_largest")}
    for training in range(result.sizes["training"]):
        one = result.isel(training=training)
        F = one["width"].to_numpy()[:count]
        q = one["displacement"].to_numpy()[rows[0], :count]
        kept = np.isfinite(F)
        ratio = q[kept] / F[kept]
        values["inside"].append(float((ratio <= PAPER_BOUND).mean()))
        values["largest"].append(float(ratio.max()))
        values["slope"].append(float(stats.linregress(np.log(F[kept]), np.log(q[kept])).slope))
        if free.size:
            q0 = one["displacement"].to_numpy()[free[0], :count]
            values["free_largest"].append(float((q0[kept] / F[kept]).max()))
    columns = {}
    for name, numbers in values.items():
        if numbers:
            for suffix, value in zip(("", "_low", "_high"), _interval(numbers, confidence), strict=True):
                columns[name + suffix] = ((), value, {"long_name": name, "units": "1"})
    return xr.Dataset(
        columns, attrs={"title": "displacements against F", "count": count, "strength": strength}
    )


@dataclass(frozen=True)
class Verdict:
    """One claim of the paper, its number, ours with its interval, and what follows."""

    claim: str
    paper: str
    ours: str
    verdict: str


def verdict(result: xr.Dataset) -> list[Verdict]:
    """What became of PNAS Fig. 4, from the intervals alone.

    Parameters
    ----------
    result : Dataset
        From :func:`nets.continual.scan` with all methods, N_c = 200 and all.

    Returns
    -------
    list of Verdict
    """
    small = PAPER_CONSTRAINTS if _has(result, "LDC", PAPER_CONSTRAINTS) else _smallest(result)
    every = summary(result)
    rows = [_forgetting(every, result)]
    if _has(result, "LDC", PAPER_CONSTRAINTS, PAPER_STRENGTH):
        rows += _paper_setting(result)
    for other in ("EWC true", "EWC empirical"):
        rows.append(
            _comparison(
                f"LDC forgets less than EWC ({other[4:]} Fisher), each at its best",
                "better",
                "LDC",
                other,
                result,
            )
        )
        rows.append(
            _comparison(
                f"the same with both held to {small} constraints", "-", "LDC", other, result, count=small
            )
        )
        claim = "the same where each also stops task 2 at its best step"
        rows.append(_comparison(claim, "-", "LDC", other, result, checkpoint=None))
    if _has(result, "EWC floored", 0):
        claim_floored = "LDC forgets less than EWC with G raised to its median, where it is less"
        rows.append(_comparison(claim_floored, "-", "LDC", "EWC floored", result))
    rows.append(_comparison("LDC forgets less than plain L2", "-", "LDC", "L2", result))
    rows.append(_comparison(claim, "-", "LDC", "L2", result, checkpoint=None))
    rows.append(_comparison("measured F serves better than equal F", "implied", "LDC", "LDC equal F", result))
    rows.append(
        _comparison(
            f"the same with {small} constraints", "implied", "LDC", "LDC equal F", result, count=small
        )
    )
    rows.append(_counts(result, "LDC", small, f"LDC is best near N_c = {PAPER_CONSTRAINTS}", "200"))
    rows.append(_counts(result, "EWC true", small, "EWC is best with all weights constrained", "all"))
    rows.append(_psi(result))
    return rows


def table(rows: Sequence[Verdict]) -> str:
    """The verdict as a table in Markdown.

    Parameters
    ----------
    rows : sequence of Verdict

    Returns
    -------
    str
    """
    lines = ["| claim | paper | ours (95 % interval) | verdict |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {r.claim} | {r.paper} | {r.ours} | {r.verdict} |" for r in rows])


def comparisons(results: Mapping[str, xr.Dataset], *, one: Method = "LDC") -> str:
    """ε₁ + ε₂ of one penalty less that of every other, task by task, as a table in Markdown.

    Parameters
    ----------
    results : mapping of str to Dataset
        Name of the tasks → result of :func:`nets.continual.scan`.
    one : str

    Returns
    -------
    str
        A negative difference says that ``one`` forgets less; intervals that exclude 0 are bold.
    """
    every = {str(m) for result in results.values() for m in result["penalty"].to_numpy()}
    others = [m for m in METHODS if m in every and m != one]
    lines = [
        f"| tasks | {one}: ε₁, ε₂ (λ, N_c) | " + " | ".join(f"less {m}" for m in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    for name, result in results.items():
        for label, checkpoint in (("", -1), (", best stop", None)):
            best = at_best(result, one, checkpoint=checkpoint)
            first, second = (
                _shown(_interval(best[k].to_numpy(), 0.95)) for k in ("error_first", "error_second")
            )
            count = best.attrs["count"] or _all(result, one)
            cells = [f"{first}, {second} ({best.attrs['strength']:g}, {count})"]
            for other in others:
                if not _has(result, other, 0):
                    cells.append("-")
                    continue
                gap = difference(result, one, other, checkpoint=checkpoint)
                bold = "" if gap[1] <= 0 <= gap[2] else "**"
                cells.append(f"{bold}{_shown(gap)}{bold}")
            lines.append(f"| {name}{label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _forgetting(every: xr.Dataset, result: xr.Dataset) -> Verdict:
    none = every.sel(penalty="none")
    before = _interval(result["error_before"].to_numpy(), float(every.attrs["confidence"]))
    forgets = float(none["error_first_low"]) > before[2]
    return Verdict(
        "without constraints task 1 is forgotten", "ε₁ large, ε₂ small",
        f"ε₁ {_shown(before)} before, {_ends(none, 'error_first')} after; ε₂ {_ends(none, 'error_second')}",
        "confirmed" if forgets else "not seen",
    )  # fmt: skip


def _paper_setting(result: xr.Dataset) -> list[Verdict]:
    row = np.flatnonzero(
        (result["penalty"] == "LDC")
        & (result["strength"] == PAPER_STRENGTH)
        & (result["count"] == PAPER_CONSTRAINTS)
    )[0]
    first, second = (
        _interval(result[f"error_{task}"].isel(constraint=row, checkpoint=-1).to_numpy(), 0.95)
        for task in ("first", "second")
    )
    before = _interval(result["error_before"].to_numpy(), 0.95)
    found = bound(result)
    low, high = float(found["largest_low"]), float(found["largest_high"])
    holds = "refuted" if low > PAPER_BOUND else "confirmed" if high <= PAPER_BOUND else "undecided"
    return [
        Verdict(
            "λ = 10, N_c = 200 keep task 1 as good as before", "ε₁ about as before",
            f"ε₁ {_shown(before)} before, {_shown(first)} after; ε₂ {_shown(second)}",
            "refuted"
            if first[1] > before[2]
            else "confirmed"
            if first[2] < before[2] + 0.01
            else "undecided",
        ),
        Verdict(
            "there q_i ≤ 0.008 F_i for all constrained i", "0.008",
            f"max q_i/F_i {_ends(found, 'largest')}; inside {_ends(found, 'inside')}; "
            f"slope of ln q over ln F {_ends(found, 'slope')}",
            holds,
        ),
    ]  # fmt: skip


def _comparison(
    claim: str,
    paper: str,
    one: Method,
    other: Method,
    result: xr.Dataset,
    *,
    count: int | None = None,
    checkpoint: int | None = -1,
) -> Verdict:
    gap = difference(result, one, other, count=count, checkpoint=checkpoint)
    both = [at_best(result, m, count=count, checkpoint=checkpoint)["total"].to_numpy() for m in (one, other)]
    shown = ", ".join(f"{m} {_shown(_interval(t, 0.95))}" for m, t in zip((one, other), both, strict=True))
    word = (
        "confirmed" if gap[2] < 0 else "refuted: the other is better" if gap[1] > 0 else "no difference seen"
    )
    return Verdict(claim, paper, f"ε₁ + ε₂: {shown}; difference {_shown(gap)}", word)


def _counts(result: xr.Dataset, method: Method, small: int, claim: str, paper: str) -> Verdict:
    totals = {count: at_best(result, method, count=count)["total"].to_numpy() for count in (small, 0)}
    gap = _interval(totals[0] - totals[small], 0.95)
    best = at_best(result, method)
    shown = f"ε₁ + ε₂ with {_all(result, method)} less that with {small}: {_shown(gap)}"
    shown += f"; best N_c {best.attrs['count'] or _all(result, method)}"
    if gap[1] <= 0 <= gap[2]:
        return Verdict(claim, paper, shown, "no difference seen")
    all_better = gap[2] < 0
    return Verdict(
        claim, paper, shown, "confirmed" if all_better == (paper == "all") else "refuted: more are better"
    )


def _psi(result: xr.Dataset) -> Verdict:
    gaps = [difference(result, "LDC", m) for m in ("LDC psi 3", "LDC psi 4", "LDC psi 5")]
    shown = "; ".join(f"ψ = {psi}: {_shown(g)}" for psi, g in zip((3, 4, 5), gaps, strict=True))
    same = all(low <= 0 <= high for _, low, high in gaps)
    return Verdict(
        "F from the variance serves as well, whatever ψ", "no dependence on ψ = 3, 4, 5",
        f"ε₁ + ε₂ with measured F less that with F from σ: {shown}",
        "no difference seen" if same else "they differ",
    )  # fmt: skip


def _all(result: xr.Dataset, method: str) -> int:
    """What N_c = 0 stands for."""
    return result.sizes["mode"] if method.startswith("LDC") else int(result["weights"].max())


def _where(result: xr.Dataset, method: str, count: int | None) -> np.ndarray:
    """Positions of a method's settings."""
    kept = result["penalty"].to_numpy() == method
    if count is not None and method not in ("L2", "none"):
        kept &= result["count"].to_numpy() == count
    if not kept.any():
        there = ", ".join(dict.fromkeys(result["penalty"].to_numpy().astype(str)))
        raise ValueError(f"method={method!r} with count={count} is not in this result, which has {there}")
    return np.flatnonzero(kept)


def _has(result: xr.Dataset, method: str, count: int, strength: float | None = None) -> bool:
    if method in ("L2", "none"):
        return method in result["penalty"]
    kept = (result["penalty"] == method) & (result["count"] == count)
    return bool((kept if strength is None else kept & (result["strength"] == strength)).any())


def _smallest(result: xr.Dataset) -> int:
    counts = result["count"].to_numpy()
    return int(counts[counts > 0].min())


def _interval(values: Sequence[float] | np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean and the ends of Student's interval."""
    numbers = np.asarray(values, float)
    half = stats.t.ppf((1 + confidence) / 2, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers))
    mean = float(numbers.mean())
    return mean, mean - float(half), mean + float(half)


def _shown(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"


def _ends(dataset: xr.Dataset, name: str) -> str:
    return _shown((float(dataset[name]), float(dataset[f"{name}_low"]), float(dataset[f"{name}_high"])))
