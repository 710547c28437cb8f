"""Verdicts: what a paper claims, its number, ours, and whether the claim holds; and all of them on one page.

A :class:`Claim` holds a paper's claim as data; :meth:`Claim.judge` gives its :class:`Verdict`. A notebook
shows its verdicts as a :class:`VerdictTable`. The output keeps the rows as data beside the table;
``fpsolve verdicts notebooks --out VERDICTS.md`` collects them from the stored notebooks and runs none.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from fpsolve.results import interval_text
from fpsolve.table import markdown

Outcome = Literal["holds", "holds in part", "does not hold", "not decided"]
#: What a verdict may begin with, from good to bad; the reason follows after a colon, semicolon or comma.
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: Where a notebook's output keeps the rows as data.
MIME = "application/vnd.fpsolve.verdicts+json"
#: Larger notebooks are refused: a stored page of figures has a few megabytes.
LARGEST = 50_000_000


@dataclass(frozen=True)
class Verdict:
    """One claim of a paper beside what was measured.

    Parameters
    ----------
    claim : str
        One short sentence and its place: "⟨x²⟩ grows as Δ_S^(1/2) (PRL Eq. 12)".
    paper : str
        The paper's number, or what it says where it gives none.
    ours : str
        The measured number with its interval.
    verdict : str
        "holds", "holds in part", "does not hold" or "not decided", and why. Another beginning, and a field
        that is empty or not text, are a ValueError.
    """

    claim: str
    paper: str
    ours: str
    verdict: str

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{name} of a verdict must be text that is not empty, not {text!r}")
        self.outcome  # noqa: B018  (raises where there is none)

    @property
    def outcome(self) -> str:
        """The first words of the verdict: one of :data:`OUTCOMES`."""
        for outcome in OUTCOMES:
            rest = self.verdict.removeprefix(outcome)
            if rest != self.verdict and rest[:1] in ("", ":", ";", ","):
                return outcome
        words = ", ".join(OUTCOMES)
        raise ValueError(f"a verdict begins with {words}, then ':', ';' or ',' and why; not {self.verdict!r}")


class Measured(Protocol):
    """A number with its interval, such as an :class:`fpsolve.statistics.Estimate`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Expected(Protocol):
    """What a claim expects of a number: decides the outcome from the number and its interval."""

    def outcome(self, measured: Measured) -> Outcome: ...


@dataclass(frozen=True)
class Below:
    """Less than ``border``. The whole interval decides; where the border is inside, nothing is decided.

    Above ``refuted``, by default the border, the claim does not hold.
    """

    border: float = 0.0
    refuted: float | None = None

    def outcome(self, measured: Measured) -> Outcome:
        if measured.low > (self.border if self.refuted is None else self.refuted):
            return "does not hold"
        return "holds" if measured.high < self.border else "not decided"


@dataclass(frozen=True)
class Between:
    """From ``low`` to ``high``. The value decides; where only its interval reaches the range, in part."""

    low: float
    high: float

    def outcome(self, measured: Measured) -> Outcome:
        if self.low <= measured.value <= self.high:
            return "holds"
        reached = measured.low <= self.high and measured.high >= self.low
        return "holds in part" if reached else "does not hold"


@dataclass(frozen=True)
class About:
    """Near ``target``, a positive number.

    A claim holds where the value is off by less than the share ``near``, or the interval holds the target.
    Such an interval decides nothing where its width exceeds the share ``wide`` of the target. Within a factor
    of two a claim holds in part.
    """

    target: float = 1.0
    near: float = 0.1
    wide: float = 0.7

    def outcome(self, measured: Measured) -> Outcome:
        value, low, high = (v / self.target for v in (measured.value, measured.low, measured.high))
        inside = low <= 1 <= high
        if inside and high - low > self.wide:
            return "not decided"
        if inside or abs(value - 1) < self.near:
            return "holds"
        return "holds in part" if 0.5 < value < 2 else "does not hold"


@dataclass(frozen=True)
class Sides:
    """By the side of 0 on which the whole interval lies; ``neither`` where the interval holds 0.

    A claim does not hold where both ends are nearer to 0 than ``negligible``.
    """

    above: Outcome
    below: Outcome = "not decided"
    neither: Outcome = "not decided"
    negligible: float = 0.0

    def outcome(self, measured: Measured) -> Outcome:
        if max(abs(measured.low), abs(measured.high)) < self.negligible:
            return "does not hold"
        if measured.low > 0:
            return self.above
        return self.below if measured.high < 0 else self.neither


@dataclass(frozen=True)
class Claim:
    """A claim of a paper as data: what it expects of a number, and the number that was measured.

    Parameters
    ----------
    name : str
        One short sentence.
    paper : str
        The paper's number, or what it says where it gives none.
    measured : number with ``value``, ``low`` and ``high``
        Such as :class:`fpsolve.statistics.Estimate`.
    expected : Below, Between, About or Sides
    source : str
        Where the paper says so, "PRL Eq. 12".
    shown : str
        How the measured number is shown; default "value [low, high]" with three digits.
    """

    name: str
    paper: str
    measured: Measured
    expected: Expected
    source: str = ""
    shown: str = ""

    @property
    def outcome(self) -> Outcome:
        """One of :data:`OUTCOMES`."""
        return self.expected.outcome(self.measured)

    def judge(self, why: Mapping[Outcome, str] | str = "") -> Verdict:
        """The claim beside what was measured, with its outcome.

        The text ``why``, or what the mapping ``why`` holds for the outcome, follows after a colon.
        """
        outcome, m = self.outcome, self.measured
        reason = why if isinstance(why, str) else why.get(outcome, "")
        return Verdict(
            claim=f"{self.name} ({self.source})" if self.source else self.name,
            paper=self.paper,
            ours=self.shown or interval_text(m.value, m.low, m.high, 3),
            verdict=f"{outcome}: {reason}" if reason else outcome,
        )


@dataclass(frozen=True, repr=False)
class VerdictTable:
    """The verdicts of one notebook; shown as a table, and as data, as the last expression of a cell.

    Parameters
    ----------
    rows : sequence of Verdict
        None at all are a ValueError.
    setting : str
        What was run: "full: MNIST, 5 trainings".
    seconds : float, optional
        Processor time of what was run, on one core.
    """

    rows: Sequence[Verdict]
    setting: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a table of verdicts needs rows")

    def __str__(self) -> str:
        """The table in Markdown."""
        cells = [[_cell(text) for text in asdict(row).values()] for row in self.rows]
        return markdown(("claim", "paper", "measured", "verdict"), cells)

    def __repr__(self) -> str:
        return str(self)

    @property
    def source(self) -> str:
        """Setting and processor time, in words."""
        taken = ""
        if self.seconds is not None:
            time = f"{self.seconds:.0f} s" if self.seconds < 100 else f"{self.seconds / 60:.0f} min"
            taken = f"{time} of one core"
        return "; ".join(part for part in (self.setting, taken) if part)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        shown = f"{self}\n\n{self.source}" if self.source else str(self)
        data = {"setting": self.setting, "seconds": self.seconds, "rows": [asdict(row) for row in self.rows]}
        return {"text/plain": shown, "text/markdown": shown, MIME: data}


def _cell(text: str) -> str:
    """Text that stays inside its cell and is no markup."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def read_verdicts(path: str | Path) -> tuple[str, list[VerdictTable]]:
    """Title and verdicts of a stored notebook, which is read and not run.

    Parameters
    ----------
    path : path
        An ``.ipynb`` file. One that is too large, no notebook, or holds rows that are no verdicts is a
        ValueError.

    Returns
    -------
    title : str
        Its first heading.
    tables : list of VerdictTable
        In the order of the notebook; empty where it shows none.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST // 1_000_000} MB: no notebook of verdicts")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines = [line for c in cells for line in "".join(c["source"]).splitlines()]
        titles = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
        shown = [output.get("data", {}) for c in cells for output in c.get("outputs", [])]
        tables = [
            VerdictTable([Verdict(**row) for row in own["rows"]], own["setting"], own["seconds"])
            for own in (data[MIME] for data in shown if MIME in data)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no notebook with verdicts: {error}") from error
    if not titles:
        raise ValueError(f"{path} has no heading")
    return titles[0], tables


def verdict_page(notebooks: Iterable[str | Path], *, relative_to: str | Path = ".") -> str:
    """One page of all verdicts of stored notebooks, in Markdown.

    Parameters
    ----------
    notebooks : iterable of path
        In the order in which they shall appear.
    relative_to : path
        Folder of the page; links point from there.

    Returns
    -------
    str
        Counts of outcomes, then a table for each notebook that has verdicts. A ValueError if none has, or
        one cannot be read.
    """
    sections, counted = [], Counter[str]()
    for path in map(Path, notebooks):
        title, tables = read_verdicts(path)
        if not tables:
            continue
        link = Path(os.path.relpath(path, relative_to)).as_posix()
        sections.append(f"## [{_cell(title)}]({link})")
        for table in tables:
            counted.update(row.outcome for row in table.rows)
            sections += [f"*{_cell(table.source)}*"] if table.source else []
            sections.append(str(table))
    if not sections:
        raise ValueError("no notebook holds verdicts: run them first")
    counts = ", ".join(f"{o}: {counted[o]}" for o in OUTCOMES if counted[o])
    head = [
        "# Verdicts",
        f"Every claim that the notebooks check: {counted.total()} ({counts}). Intervals: 95 % unless stated.",
        "Written by `fpsolve verdicts notebooks --out VERDICTS.md` from the outputs stored in the notebooks.",
    ]
    return "\n\n".join([*head, *sections]) + "\n"
