"""What the variance-flatness experiment says: exponents, their controls and the paper's numbers.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fpsolve.compare.verdicts import Between
from fpsolve.results import dataset, quantity
from fpsolve.statistics import mean_interval
from nets.measure import exponents
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness.experiment import CASES, MOTION, NEXT, SAME, Config
from theory.random_landscape import null_correlation_time

#: What the paper says, with the range that its wording or its figure allows.
PAPER = {
    "psi": (4.0, 3.5, 4.5),
    "psi_D": (2.0, 1.75, 2.25),
    "psi_tau": (1.8, 1.55, 2.05),
    "gamma": (2.6, 2.0, 3.0),
    "modes for 90 %": (35.0, 30.0, 40.0),
}
#: How outcomes are worded, by the case that decides.
WORDS = {
    SAME: {"holds": "reproduced", "holds in part": "compatible", "does not hold": "not reproduced"},
    NEXT: {
        outcome: f"{word} in the next window"
        for outcome, word in (("holds", "holds"), ("holds in part", "compatible"), ("does not hold", "not"))
    },
}


def exponents_of(result: xr.Dataset, config: Config) -> dict[tuple[str, str], Exponent]:
    """Every exponent of one training, by (case, name)."""
    found: dict[tuple[str, str], Exponent] = {}
    for case in result["case"].to_numpy().astype(str):
        here = result.sel(case=case)
        attrs = dict(result.attrs) | {"basis": str(here["basis"].item()), "control": CASES[case].control}
        measured = here.isel(mode=~np.isnan(here["width"].to_numpy()))  # open-ended ones are infinite
        motion = measured[[*MOTION]].assign_attrs(attrs)
        widths = xr.Dataset({"width": measured["width"]}, attrs={"loss": result.attrs["loss"]})
        each = exponents.variance_flatness(motion, widths, fit=config.fit)
        found |= {(case, name): exponent for name, exponent in each.items()}
        if CASES[case].ranked:
            attrs["loss_end"] = result.attrs["loss"]
            spectrum = xr.Dataset({"variance": here["variance"].dropna("mode")}, attrs=attrs)
            found[case, "gamma"] = exponents.rank_exponent(spectrum, fit=config.rank_fit)
    return found


def exponents_over(results: Sequence[xr.Dataset], config: Config) -> dict[tuple[str, str], Exponent]:
    """Every exponent, by (case, name), with its interval over trainings; of one training, over modes."""
    each = [exponents_of(result, config) for result in results]
    if len(each) == 1:
        return each[0]
    return {key: exponents.over_trainings([found[key] for found in each]) for key in each[0]}


@dataclass(frozen=True)
class Row:
    """One number of the paper, the ends of its range, ours by case, and what the intervals say."""

    quantity: str
    paper: float
    paper_low: float
    paper_high: float
    measured: Mapping[str, Exponent]
    judgement: str


def verdict(results: Sequence[xr.Dataset], config: Config) -> list[Row]:
    """Each number of the paper, ours with its interval, and whether it survives its controls.

    ``results`` are from ``experiment.run_trainings``. *Reproduced*: the estimate in the same window lies in
    the paper's range; *compatible*: only its interval reaches the range. The same is said for directions of
    one window and motion of the next. Shuffled increments have no correlation in time: what they show comes
    from choosing directions in the window that is measured.
    """
    found = exponents_over(results, config)
    found[SAME, "modes for 90 %"] = _modes_for_90_percent(results, like=found[SAME, "gamma"])
    by_name = {name: {case: e for (case, of), e in found.items() if of == name} for name in PAPER}
    return [Row(name, *PAPER[name], each, _judgement(name, each)) for name, each in by_name.items()]


def _modes_for_90_percent(results: Sequence[xr.Dataset], *, like: Exponent) -> Exponent:
    """How many modes hold 90 % of the variance, in the form of an exponent."""
    counts = [float(result.attrs["modes_for_90_percent"]) for result in results]
    mean, low, high = map(float, mean_interval(counts)) if len(counts) > 1 else counts * 3
    return Exponent(
        "modes for 90 %", mean, low, high, "seeds", float("nan"), like.points, 0, 2,
        int(results[0].sizes["rank"]), like.basis, like.sampler, like.loss, len(counts),
    )  # fmt: skip


def _judgement(name: str, measured: Mapping[str, Exponent]) -> str:
    """A few words that follow from the intervals."""
    expected = Between(*PAPER[name][1:])
    words = [WORDS[case][expected.outcome(measured[case])] for case in (SAME, NEXT) if case in measured]
    if "shuffled" in measured and name != "psi_D":
        shuffled, as_much = measured["shuffled"], measured["shuffled"].value >= measured[SAME].low
        shown = "at least as much" if as_much else "less" if shuffled.low > 0 else "none"
        words.append(f"shuffled increments show {shown}")
    return "; ".join(words)


def correlation_times(results: Sequence[xr.Dataset], config: Config) -> xr.Dataset:
    """Median τ_i of the fitted modes in every case, beside what uncorrelated minibatches give.

    Directions that the window did not choose, with the drift removed, show whether successive minibatches are
    correlated at all: without correlations τ is the null, for every flatness.

    The Dataset, dim case, holds ``median``, the mean over trainings of the median over modes, and ``low`` and
    ``high`` (95 %, Student's t; NaN for one training), in steps; ``attrs["null"]`` is
    :func:`theory.random_landscape.null_correlation_time` of the window.
    """
    each = [r["correlation_time"].sel(mode=slice(*config.fit)).median("mode") for r in results]
    nothing = np.full(each[0].shape, np.nan)
    found = mean_interval(each) if len(each) > 1 else (each[0].to_numpy(), nothing, nothing)
    epoch = int(results[0].attrs["steps_per_epoch"])
    bridge = epoch if config.sampling == "without_replacement" else None
    ends = zip(("median", "low", "high"), found, strict=True)
    return dataset(
        {name: quantity(v, "case", f"correlation time, {name}", "steps") for name, v in ends},
        coords={"case": results[0]["case"]},
        title=f"median correlation times of modes {config.fit[0]} to {config.fit[1]}",
        null=null_correlation_time(config.window * epoch, steps_per_epoch=bridge),
        seeds=len(results),
    )


def text(rows: Sequence[Row]) -> str:
    """The verdict as a table of text: a line for each case, and one for the judgement."""
    lines = []
    for row in rows:
        paper = f"paper {row.paper:g} ({row.paper_low:g} to {row.paper_high:g})"
        lines.append(f"{row.quantity}: {paper} -> {row.judgement}")
        for case, e in row.measured.items():
            interval = f"[{e.low:.2f}, {e.high:.2f}]"
            r = "" if np.isnan(e.correlation) else f"  r = {e.correlation:5.2f}  n = {e.points}"
            lines.append(f"    {case:24} {e.value:6.2f} {interval:>16}{r}")
    seeds = max(e.seeds for row in rows for e in row.measured.values())
    source = "Student's t over seeds" if seeds > 1 else "blocks of modes, one seed"
    lines.append(f"95 % intervals from {source}; {seeds} seed(s).")
    return "\n".join(lines)


def correlation_times_text(times: xr.Dataset) -> str:
    """Median correlation times, from :func:`correlation_times`, as lines of text, the null first."""
    lines = [f"{times.attrs['title']} (steps); uncorrelated minibatches: {float(times.attrs['null']):.0f}"]
    for case in times["case"].to_numpy():
        value, low, high = (float(times[name].sel(case=case)) for name in ("median", "low", "high"))
        lines.append(f"    {case!s:24} {value:7.1f}  [{low:.1f}, {high:.1f}]")
    return "\n".join(lines)
