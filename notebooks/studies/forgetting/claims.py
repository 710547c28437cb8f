"""What became of PNAS Fig. 4: its claims beside the intervals over trainings, and tasks side by side.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.compare.verdicts import Verdict
from notebooks.studies.forgetting.choice import Gap, Study, at_best, difference, gap, interval
from notebooks.studies.forgetting.penalties import (
    METHODS,
    PAPER_BOUND,
    PAPER_CONSTRAINTS,
    PAPER_STRENGTH,
    Method,
)

#: A test error of task 1 this much larger than before counts as forgetting.
FORGOTTEN = 0.01
#: Level of the sign test, as of the intervals.
SIGNIFICANT = 0.05

__all__ = ["bound", "comparisons", "verdicts"]


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
        From :func:`notebooks.studies.forgetting.continual.scan`, with that setting of "LDC".
    strength, count : float, int
        λ and N_c.
    confidence : float

    Returns
    -------
    Dataset
        With intervals over trainings: ``inside``, the share of directions with q_i ≤ 0.008 F_i;
        ``largest``, max q_i/F_i; ``slope`` of ln q_i over ln F_i by least squares (1 for a bound ∝ F); and
        ``free_largest`` and ``free_inside``, the same with no penalty. Directions with infinite F are left
        out.

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
    values: dict[str, list[float]] = {
        k: [] for k in ("inside", "largest", "slope", "free_inside", "free_largest")
    }
    for training in range(result.sizes["training"]):
        one = result.isel(training=training)
        F = one["width"].to_numpy()[:count]
        kept = np.isfinite(F)
        q = one["displacement"].to_numpy()[rows[0], :count][kept]
        ratio = q / F[kept]
        values["inside"].append(float((ratio <= PAPER_BOUND).mean()))
        values["largest"].append(float(ratio.max()))
        values["slope"].append(float(stats.linregress(np.log(F[kept]), np.log(q)).slope))
        if free.size:
            ratio = one["displacement"].to_numpy()[free[0], :count][kept] / F[kept]
            values["free_inside"].append(float((ratio <= PAPER_BOUND).mean()))
            values["free_largest"].append(float(ratio.max()))
    columns = {}
    for name, numbers in values.items():
        if numbers:
            for suffix, value in zip(("", "_low", "_high"), interval(numbers, confidence), strict=True):
                columns[name + suffix] = ((), value, {"long_name": name, "units": "1"})
    return xr.Dataset(
        columns, attrs={"title": "displacements against F", "count": count, "strength": strength}
    )


def verdicts(studies: Mapping[str, Study], *, main: str | None = None) -> list[Verdict]:
    """What became of PNAS Fig. 4, from the intervals alone.

    Parameters
    ----------
    studies : mapping of str to Study
        Name of the tasks → its trainings.
    main : str, optional
        The one that all claims are tested on; default the first. It has all penalties, N_c = 200 and all, and
        the paper's λ = 10. On the others LDC is set beside EWC and L2.

    Returns
    -------
    list of Verdict
    """
    main = next(iter(studies)) if main is None else main
    study, small = studies[main], PAPER_CONSTRAINTS
    rows = [_forgetting(study), _paper_setting(study), _bound(study)]
    for fisher in ("true", "empirical"):
        claim, place = f"LDC forgets less than EWC ({fisher} Fisher)", "Fig. 4 E"
        other: Method = "EWC true" if fisher == "true" else "EWC empirical"
        rows.append(_compared(f"{claim}, each at its best λ and N_c ({place})", study, "LDC", other))
        rows.append(_compared(f"{claim}, both with N_c = {small}", study, "LDC", other, count=small))
        rows.append(_compared(f"{claim}, each also stopped at its best step", study, "LDC", other, stop=True))
        rows.append(
            _compared(f"{claim}, N_c = {small} and stopped", study, "LDC", other, count=small, stop=True)
        )
    if study.has("EWC floored", 0):
        rows.append(
            _compared(
                "LDC forgets less than EWC with G not below its median",
                study,
                "LDC",
                "EWC floored",
                paper="not tried",
            )
        )
    rows.append(_compared("LDC forgets less than plain L2", study, "LDC", "L2", paper="not tried"))
    rows.append(
        _compared(
            "LDC forgets less than plain L2, each also stopped",
            study,
            "LDC",
            "L2",
            stop=True,
            paper="not tried",
        )
    )
    rows.append(
        _compared(
            f"LDC with N_c = {small} forgets less than plain L2, each also stopped",
            study,
            "LDC",
            "L2",
            count=small,
            stop=True,
            paper="not tried",
        )
    )
    rows.append(
        _compared(
            "measured F serves better than equal F (Eq. 14)", study, "LDC", "LDC equal F", paper="implied"
        )
    )
    claim = f"measured F serves better than equal F, both with N_c = {small}"
    rows.append(_compared(claim, study, "LDC", "LDC equal F", count=small, paper="implied"))
    rows.append(_fewer(study, stop=False))
    rows.append(_fewer(study, stop=True))
    rows.append(_all_weights(study))
    rows.append(_psi(study))
    for name in studies:
        if name != main:
            rows += _elsewhere(name, studies[name])
    return rows


def comparisons(studies: Mapping[str, Study], *, one: Method = "LDC") -> str:
    """ε₁ + ε₂ of one penalty less that of every other, task by task, as a table in Markdown.

    Parameters
    ----------
    studies : mapping of str to Study
        Name of the tasks → its trainings.
    one : str

    Returns
    -------
    str
        A negative difference says that ``one`` forgets less; intervals that exclude 0 are bold.
    """
    every = {m for study in studies.values() for m in study.methods}
    others = [m for m in METHODS if m in every and m != one]
    lines = [
        f"| tasks | {one}: ε₁, ε₂ (λ, N_c) | " + " | ".join(f"less {m}" for m in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    cases: tuple[tuple[str, int | None, int | None], ...] = (
        ("", None, -1), (", best stop", None, None), (f", N_c = {PAPER_CONSTRAINTS}", PAPER_CONSTRAINTS, -1),
        (f", N_c = {PAPER_CONSTRAINTS}, best stop", PAPER_CONSTRAINTS, None),
    )  # fmt: skip
    for name, study in studies.items():
        for label, count, checkpoint in cases:
            if not study.has(one, count):
                continue
            best = at_best(study, one, count=count, checkpoint=checkpoint)
            first, second = (_shown(*interval(best[k].to_numpy())) for k in ("error_first", "error_second"))
            held = best.attrs["count"] or study.everything(one)
            cells = [f"{first}, {second} ({best.attrs['strength']:g}, {held})"]
            for other in others:
                if not study.has(other, count):
                    cells.append("-")
                    continue
                found = difference(study, one, other, count=count, checkpoint=checkpoint)
                bold = "**" if found.decided else ""
                cells.append(f"{bold}{_shown(found.mean, found.low, found.high)}{bold}")
            lines.append(f"| {name}{label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _forgetting(study: Study) -> Verdict:
    before = interval(study.reported["error_before"].to_numpy())
    none = at_best(study, "none")
    first, second = (interval(none[k].to_numpy()) for k in ("error_first", "error_second"))
    forgets = first[1] > before[2]
    return Verdict(
        "without constraints task 1 is forgotten (Fig. 4 A)", "ε₁ grows fast, ε₂ small",
        f"ε₁ {_shown(*before)} before, {_shown(*first)} after; ε₂ {_shown(*second)}",
        f"holds: ε₁ grows {first[0] / max(before[0], 1e-6):.0f}-fold" if forgets
        else "not decided: the intervals of ε₁ before and after overlap",
    )  # fmt: skip


def _paper_setting(study: Study) -> Verdict:
    place = study.position("LDC", PAPER_STRENGTH, PAPER_CONSTRAINTS)
    end = study.reported.isel(constraint=place, checkpoint=-1)
    before, first, second = (
        interval(v.to_numpy())
        for v in (study.reported["error_before"], end["error_first"], end["error_second"])
    )
    grown = gap(end["error_first"], study.reported["error_before"])
    said = f"ε₁ grows by {_shown(grown.mean, grown.low, grown.high)}"
    word = "does not hold" if grown.low > 0 else "holds" if grown.high < FORGOTTEN else "not decided"
    return Verdict(
        f"λ = {PAPER_STRENGTH:g}, N_c = {PAPER_CONSTRAINTS} keep task 1 as good as before (Fig. 4 C)",
        "ε₁ about as before",
        f"ε₁ {_shown(*before)} before, {_shown(*first)} after; ε₂ {_shown(*second)}",
        f"{word}: {said}",
    )  # fmt: skip


def _bound(study: Study) -> Verdict:
    found = bound(study.reported)
    low, high, largest = (float(found[k]) for k in ("largest_low", "largest_high", "largest"))
    if low > PAPER_BOUND:
        word = f"does not hold: the largest is {largest / PAPER_BOUND:.1f} times the bound"
    elif high <= PAPER_BOUND:
        word = f"holds: the largest is {largest / PAPER_BOUND:.2f} of the bound, which alone keeps no task"
    else:
        word = f"not decided: {float(found['inside']):.1%} of the directions are inside"
    return Verdict(
        f"there q_i ≤ {PAPER_BOUND} F_i for all constrained i (Fig. 4 D)", f"{PAPER_BOUND}",
        f"max q_i/F_i {_ends(found, 'largest')}, {_ends(found, 'free_largest')} unconstrained; slope of ln q "
        f"over ln F {_ends(found, 'slope')}",
        word,
    )  # fmt: skip


def _compared(
    claim: str,
    study: Study,
    one: Method,
    other: Method,
    *,
    count: int | None = None,
    stop: bool = False,
    paper: str = "less",
) -> Verdict:
    checkpoint = None if stop else -1
    best = [at_best(study, m, count=count, checkpoint=checkpoint) for m in (one, other)]
    found = gap(best[0]["total"], best[1]["total"])
    shown = ", ".join(
        f"{m} {_shown(*interval(b['total'].to_numpy()))}" for m, b in zip((one, other), best, strict=True)
    )
    ours = f"ε₁ + ε₂: {shown}; difference {_shown(found.mean, found.low, found.high)}"
    return Verdict(claim, paper, ours, _word(found))


def _word(found: Gap) -> str:
    """By the mean; where single trainings far out leave that open, by the sign test."""
    often = f"in {found.below} of {found.trainings} trainings"
    if found.high < 0:
        return f"holds: less {often}"
    if found.low > 0:
        return f"does not hold: the other forgets less; this one {often}"
    if found.sign_test < SIGNIFICANT:
        p = f"sign test p = {found.sign_test:.2g}"
        if 2 * found.below > found.trainings:
            return f"holds in part: less {often} ({p}), by how much in the mean is open"
        return f"does not hold: less {often} only ({p}), by how much in the mean is open"
    return f"not decided: the interval of the difference includes 0; less {often}"


def _fewer(study: Study, *, stop: bool, name: str = "") -> Verdict:
    """Whether 200 directions do as well as all."""
    checkpoint, small = None if stop else -1, PAPER_CONSTRAINTS
    totals = {c: at_best(study, "LDC", count=c, checkpoint=checkpoint)["total"] for c in (small, 0)}
    found = gap(totals[0], totals[small])
    best = at_best(study, "LDC", checkpoint=checkpoint).attrs["count"] or study.everything("LDC")
    often = f"in {found.below} of {found.trainings} trainings"
    if found.high < 0:
        word = f"does not hold: all directions forget less, {often}"
    elif found.low > 0:
        word = f"holds in part: {small} forget less than all; the best scanned is {best}"
    else:
        word = f"holds in part: between {small} and all no difference is seen; all forget less {often}"
    when = ", task 2 stopped at its best step" if stop else ""
    return Verdict(
        f"{name}LDC is best near N_c = {small}{when} (Fig. 4 F)",
        f"{small}",
        f"ε₁ + ε₂ with all {study.everything('LDC')} less that with {small}: "
        f"{_shown(found.mean, found.low, found.high)}; best N_c {best}",
        word,
    )  # fmt: skip


def _all_weights(study: Study) -> Verdict:
    totals = [at_best(study, "EWC true", count=c)["total"] for c in (0, PAPER_CONSTRAINTS)]
    found = gap(*totals)
    return Verdict(
        "EWC is best with all weights constrained (Fig. 4 F)", "all",
        f"ε₁ + ε₂ with all {study.everything('EWC true')} less that with {PAPER_CONSTRAINTS} (true Fisher): "
        f"{_shown(found.mean, found.low, found.high)}",
        _word(found).replace("the other forgets", f"{PAPER_CONSTRAINTS} forget"),
    )  # fmt: skip


def _psi(study: Study) -> Verdict:
    methods: tuple[Method, ...] = ("LDC psi 3", "LDC psi 4", "LDC psi 5")
    pairs = {
        f"ψ = {methods[a][-1]} less {methods[b][-1]}": difference(study, methods[a], methods[b])
        for a, b in ((0, 1), (1, 2), (0, 2))
    }
    totals = "; ".join(
        f"ψ = {m[-1]}: {_shown(*interval(at_best(study, m)['total'].to_numpy()))}" for m in methods
    )
    apart = [name for name, found in pairs.items() if found.decided]
    largest = max(max(abs(found.low), abs(found.high)) for found in pairs.values())
    if apart:
        word = f"does not hold: {apart[0]} is {pairs[apart[0]].mean:.2g}"
    else:
        word = (
            f"holds in part: no difference is seen, nor would one below {largest:.2g} have been for certain"
        )
    shown = ", ".join(f"{name} {_shown(f.mean, f.low, f.high)}" for name, f in pairs.items())
    return Verdict(
        "LDC with F from the variance does not depend on ψ (SI S7)", "no dependence, ψ = 3, 4, 5",
        f"ε₁ + ε₂: {totals}; {shown}", word,
    )  # fmt: skip


def _elsewhere(name: str, study: Study) -> list[Verdict]:
    """LDC beside the EWC that is the better one for the pilots, L2, equal F and fewer constraints."""
    rows: list[Verdict] = []
    fishers: tuple[Method, ...] = ("EWC true", "EWC empirical")
    paper, place = ("not tried", "") if study.reported.attrs.get("layer") == "None" else ("less", " (SI S8)")
    for stop in (False, True):
        best = [at_best(study, m, checkpoint=None if stop else -1).attrs for m in fishers]
        ewc: Method = "EWC true" if best[0]["pilot"] <= best[1]["pilot"] else "EWC empirical"
        how = ", each also stopped" if stop else ""
        others: tuple[Method, ...] = (ewc, "L2")
        for other in others:
            claim = f"{name}: LDC forgets less than {other}{how}{place}"
            rows.append(_compared(claim, study, "LDC", other, stop=stop, paper=paper))
    claim = f"{name}: measured F serves better than equal F"
    rows.append(_compared(claim, study, "LDC", "LDC equal F", paper=paper.replace("less", "implied")))
    if study.has("LDC", PAPER_CONSTRAINTS):
        rows.append(_fewer(study, stop=False, name=f"{name}: "))
    return rows


def _shown(mean: float, low: float, high: float) -> str:
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def _ends(dataset: xr.Dataset, name: str) -> str:
    return _shown(*(float(dataset[f"{name}{end}"]) for end in ("", "_low", "_high")))
