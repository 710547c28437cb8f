"""Whether PNAS Fig. 4 holds: its claims beside the intervals over trainings, and penalties task by task.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.compare.verdicts import Below, Claim, Sides, Verdict
from fpsolve.results import with_interval
from fpsolve.statistics import Estimate, estimate, over_trainings
from fpsolve.table import markdown
from notebooks.studies.forgetting.choice import BOTH, Gap, How, Study, at_best, difference, gap
from notebooks.studies.forgetting.penalties import METHODS, PAPER_BOUND, PAPER_CONSTRAINTS, PAPER_STRENGTH

#: A test error of task 1 this much larger than before counts as forgetting.
FORGOTTEN = 0.01
#: Level of the sign test, as of the intervals.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Pair:
    """A claim that the penalty ``one`` forgets less than the ``other``, both at their best within ``how``.

    ``paper`` is what the paper says.
    """

    claim: str
    other: str
    how: How = field(default_factory=How)
    paper: str = "less"
    one: str = "LDC"


_SMALL = PAPER_CONSTRAINTS
_FEW: How = {"count": _SMALL}
_STOPPED: How = {"checkpoint": None}
_L2, _EQUAL = "forgets less than plain L2", "measured F serves better than equal F"
#: The claims about pairs of penalties on the main tasks, in the order of the table.
PAIRS = (
    *(
        Pair(f"LDC forgets less than EWC ({fisher} Fisher){words}", f"EWC {fisher}", how)
        for fisher in ("true", "empirical")
        for words, how in (
            (", each at its best λ and N_c (Fig. 4 E)", How()),
            (f", both with N_c = {_SMALL}", _FEW),
            (", each also stopped at its best step", _STOPPED),
            (f", N_c = {_SMALL} and stopped", _FEW | _STOPPED),
        )
    ),
    Pair("LDC forgets less than EWC with G not below its median", "EWC floored", paper="not tried"),
    Pair(f"LDC {_L2}", "L2", paper="not tried"),
    Pair(f"LDC {_L2}, each also stopped", "L2", _STOPPED, "not tried"),
    Pair(f"LDC with N_c = {_SMALL} {_L2}, each also stopped", "L2", _FEW | _STOPPED, "not tried"),
    Pair(f"{_EQUAL} (Eq. 14)", "LDC equal F", paper="implied"),
    Pair(f"{_EQUAL}, both with N_c = {_SMALL}", "LDC equal F", _FEW, "implied"),
)


def less(gap: Gap, other: str = "the other forgets") -> str:
    """Whether a gap is below 0, and why, in words.

    The interval of the mean decides; the sign test does, where outlying trainings leave the mean open.
    """
    often = f"in {gap.below} of {gap.trainings} trainings"
    if gap.decided:
        return f"holds: less {often}" if gap.high < 0 else f"does not hold: {other} less; this one {often}"
    if gap.sign_test >= SIGNIFICANT:
        return f"not decided: the interval of the difference includes 0; less {often}"
    most = 2 * gap.below > gap.trainings
    found = f"holds in part: less {often}" if most else f"does not hold: less {often} only"
    return f"{found} (sign test p = {gap.sign_test:.2g}), by how much in the mean is open"


def compared(pair: Pair, study: Study) -> Verdict:
    """The verdict on one pair of penalties."""
    best = [at_best(study, m, **pair.how) for m in (pair.one, pair.other)]
    found = gap(best[0]["total"], best[1]["total"])
    each = ", ".join(f"{b.attrs['penalty']} {_over(b['total'])}" for b in best)
    return Verdict(pair.claim, pair.paper, f"ε₁ + ε₂: {each}; difference {found:.3g}", less(found))


def bound(
    result: xr.Dataset, *, strength: float = PAPER_STRENGTH, count: int = PAPER_CONSTRAINTS,
    confidence: float = 0.95,
) -> xr.Dataset:  # fmt: skip
    """How far task 2 moves along the constrained directions of "LDC", against F (PNAS Fig. 4 D).

    ``result`` comes from ``continual.scan``; without "LDC" at this λ and N_c it is a ValueError. Returned
    with intervals over trainings: ``inside``, the share of directions with q_i ≤ 0.008 F_i; ``largest``, max
    q_i/F_i; ``slope`` of ln q_i over ln F_i by least squares (1 for a bound ∝ F); ``free_largest`` and
    ``free_inside``, the same with no penalty. Directions with infinite F are left out.
    """
    penalty, same = result["penalty"], (result["strength"] == strength) & (result["count"] == count)
    rows, free = np.flatnonzero((penalty == "LDC") & same), np.flatnonzero(penalty == "none")
    if not rows.size:
        raise ValueError(f"the result has no LDC with strength={strength:g} and count={count}")
    each = []
    for training in range(result.sizes["training"]):
        one = result.isel(training=training)
        F, moved = one["width"].to_numpy()[:count], one["displacement"].to_numpy()[:, :count]
        F, moved = F[np.isfinite(F)], moved[:, np.isfinite(F)]
        found = {"slope": stats.linregress(np.log(F), np.log(moved[rows[0]])).slope}
        for name, places in (("", rows), ("free_", free)):
            if places.size:
                ratio = moved[places[0]] / F
                found |= {f"{name}inside": (ratio <= PAPER_BOUND).mean(), f"{name}largest": ratio.max()}
        each.append(xr.Dataset({name: float(value) for name, value in found.items()}))
    attrs = {"title": "displacements against F", "count": count, "strength": strength}
    return over_trainings(each, confidence=confidence).assign_attrs(attrs)


def verdicts(studies: Mapping[str, Study], *, main: str | None = None) -> list[Verdict]:
    """Whether PNAS Fig. 4 holds, from the intervals alone.

    ``studies`` maps the name of the tasks to its trainings. All claims are tested on ``main``, by default
    the first, which has all penalties, N_c = 200 and all, and the paper's λ = 10. On the others LDC is set
    beside EWC and L2.
    """
    main = next(iter(studies)) if main is None else main
    study = studies[main]
    pairs = [pair for pair in PAIRS if pair.other != "EWC floored" or study.has(pair.other, 0)]
    rows = [_forgetting(study), _paper_setting(study), _bound(study)]
    rows += [compared(pair, study) for pair in pairs]
    rows += [_fewer(study, How()), _fewer(study, _STOPPED), _all_weights(study), _psi(study)]
    return rows + [row for name, other in studies.items() if name != main for row in _elsewhere(name, other)]


def comparisons(studies: Mapping[str, Study], *, one: str = "LDC") -> str:
    """ε₁ + ε₂ of one penalty less that of every other, task by task, as a table in Markdown.

    A negative difference says that ``one`` forgets less; intervals that exclude 0 are bold.
    """
    every = {m for study in studies.values() for m in study.methods}
    others = [m for m in METHODS if m in every and m != one]
    head = ["tasks", f"{one}: ε₁, ε₂ (λ, N_c)", *(f"less {m}" for m in others)]
    settings = [
        (label + when, count | stop)
        for label, count in (("", How()), (f", N_c = {_SMALL}", _FEW))
        for when, stop in (("", How()), (", best stop", _STOPPED))
    ]
    rows = [
        [f"{name}{words}", *_compared_with(study, one, others, how)]
        for name, study in studies.items()
        for words, how in settings
        if study.has(one, how.get("count"))
    ]
    return markdown(head, rows)


def _compared_with(study: Study, one: str, others: list[str], how: How) -> list[str]:
    """One row of :func:`comparisons`: the errors of ``one`` and its differences to ``others``."""
    best = at_best(study, one, **how)
    errors = ", ".join(_over(best[name]) for name in BOTH)
    cells = [f"{errors} ({best.attrs['strength']:g}, {best.attrs['count'] or study.everything(one)})"]
    for other in others:
        found = difference(study, one, other, **how) if study.has(other, how.get("count")) else None
        cells.append("-" if found is None else f"**{found:.3g}**" if found.decided else f"{found:.3g}")
    return cells


def _forgetting(study: Study) -> Verdict:
    none, initial = at_best(study, "none"), study.reported["error_before"]
    before, after = estimate(initial), estimate(none["error_first"])
    grown = Estimate(after.value - before.value, after.low - before.high, after.high - before.low)
    return Claim(
        "without constraints task 1 is forgotten", "ε₁ grows fast, ε₂ small", grown,
        Sides(above="holds"), source="Fig. 4 A",
        shown=f"ε₁ {before:.3g} before, {after:.3g} after; ε₂ {_over(none['error_second'])}",
    ).judge({
        "holds": f"ε₁ grows {after.value / max(before.value, 1e-6):.0f}-fold",
        "not decided": "the intervals of ε₁ before and after overlap",
    })  # fmt: skip


def _paper_setting(study: Study) -> Verdict:
    place = study.position("LDC", PAPER_STRENGTH, _SMALL)
    before, end = study.reported["error_before"], study.reported.isel(constraint=place, checkpoint=-1)
    grown = gap(end["error_first"], before)
    shown = f"ε₁ {_over(before)} before, {_over(end['error_first'])} after; ε₂ {_over(end['error_second'])}"
    return Claim(
        f"λ = {PAPER_STRENGTH:g}, N_c = {_SMALL} keep task 1 as good as before", "ε₁ about as before", grown,
        Below(FORGOTTEN, refuted=0.0), source="Fig. 4 C", shown=shown,
    ).judge(f"ε₁ grows by {grown:.3g}")  # fmt: skip


def _bound(study: Study) -> Verdict:
    found = bound(study.reported)
    largest = Estimate(*(float(found[f"largest{end}"]) for end in ("", "_low", "_high")))
    free, slope = (with_interval(found, name, digits=3) for name in ("free_largest", "slope"))
    return Claim(
        f"there q_i ≤ {PAPER_BOUND} F_i for all constrained i", f"{PAPER_BOUND}", largest, Below(PAPER_BOUND),
        source="Fig. 4 D",
        shown=f"max q_i/F_i {largest:.3g}, {free} unconstrained; slope of ln q over ln F {slope}",
    ).judge({
        "does not hold": f"the largest is {largest.value / PAPER_BOUND:.1f} times the bound",
        "holds": f"the largest is {largest.value / PAPER_BOUND:.2f} of the bound, which alone keeps no task",
        "not decided": f"{float(found['inside']):.1%} of the directions are inside",
    })  # fmt: skip


def _fewer(study: Study, how: How, name: str = "") -> Verdict:
    """Whether 200 directions do as well as all."""
    every = study.everything("LDC")
    found = _all_less_few(study, "LDC", how)
    best = at_best(study, "LDC", **how).attrs["count"] or every
    often = f"in {found.below} of {found.trainings} trainings"
    why = {
        "below": f"all directions forget less, {often}",
        "above": f"{_SMALL} forget less than all; the best scanned is {best}",
        "neither": f"between {_SMALL} and all no difference is seen; all forget less {often}",
    }
    when = ", task 2 stopped at its best step" if how else ""
    return Claim(
        f"{name}LDC is best near N_c = {_SMALL}{when}", f"{_SMALL}", found,
        Sides(above="holds in part", below="does not hold", neither="holds in part"), source="Fig. 4 F",
        shown=f"ε₁ + ε₂ with all {every} less that with {_SMALL}: {found:.3g}; best N_c {best}",
    ).judge(why[found.side()])  # fmt: skip


def _all_less_few(study: Study, method: str, how: How) -> Gap:
    """ε₁ + ε₂ of a penalty with all directions or weights, less that with 200 of them."""
    return gap(*(at_best(study, method, **(how | How(count=c)))["total"] for c in (0, _SMALL)))


def _all_weights(study: Study) -> Verdict:
    found = _all_less_few(study, "EWC true", How())
    every, claim = study.everything("EWC true"), "EWC is best with all weights constrained (Fig. 4 F)"
    shown = f"ε₁ + ε₂ with all {every} less that with {_SMALL} (true Fisher): {found:.3g}"
    return Verdict(claim, "all", shown, less(found, f"{_SMALL} forget"))


def _psi(study: Study) -> Verdict:
    """The first pair that differs refutes; where none does, the ends of all intervals say what is open."""
    pairs = {
        f"ψ = {a} less {b}": difference(study, f"LDC psi {a}", f"LDC psi {b}")
        for a, b in ((3, 4), (4, 5), (3, 5))
    }
    totals = "; ".join(f"ψ = {k}: {_over(at_best(study, f'LDC psi {k}')['total'])}" for k in (3, 4, 5))
    name, found = max(pairs.items(), key=lambda pair: pair[1].decided)
    open_to = max(max(abs(each.low), abs(each.high)) for each in pairs.values())
    return Claim(
        "LDC with F from the variance does not depend on ψ", "no dependence, ψ = 3, 4, 5", found,
        Sides(above="does not hold", below="does not hold", neither="holds in part"), source="SI S7",
        shown=f"ε₁ + ε₂: {totals}; " + ", ".join(f"{name} {each:.3g}" for name, each in pairs.items()),
    ).judge({
        "does not hold": f"{name} is {found.value:.2g}",
        "holds in part": f"no difference is seen, nor would one below {open_to:.2g} have been for certain",
    })  # fmt: skip


def _elsewhere(name: str, study: Study) -> list[Verdict]:
    """LDC beside the EWC that is the better one for the pilots, L2, equal F and fewer constraints."""
    whole = study.reported.attrs.get("layer") == "None"
    paper, place = ("not tried", "") if whole else ("less", " (SI S8)")
    rows: list[Verdict] = []
    for when, how in (("", How()), (", each also stopped", _STOPPED)):
        fishers = [at_best(study, m, **how).attrs for m in ("EWC true", "EWC empirical")]
        ewc = min(fishers, key=lambda attrs: attrs["pilot"])["penalty"]
        for other in (ewc, "L2"):
            claim = f"{name}: LDC forgets less than {other}{when}{place}"
            rows.append(compared(Pair(claim, other, how, paper), study))
    paper = "not tried" if whole else "implied"
    rows.append(compared(Pair(f"{name}: {_EQUAL}", "LDC equal F", paper=paper), study))
    if study.has("LDC", _SMALL):
        rows.append(_fewer(study, How(), f"{name}: "))
    return rows


def _over(values: xr.DataArray) -> str:
    """Mean over trainings and its interval, in words."""
    return f"{estimate(values):.3g}"
