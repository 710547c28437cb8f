"""What the variance-flatness experiment says: exponents, their controls and the paper's numbers.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fpsolve.statistics import student_factor
from nets.measure import exponents
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness.experiment import MOTION, NEXT, SAME, Config
from theory.random_landscape import null_correlation_time

#: What the paper says, with the range that its wording or its figure allows.
PAPER = {
    "psi": (4.0, 3.5, 4.5),
    "psi_D": (2.0, 1.75, 2.25),
    "psi_tau": (1.8, 1.55, 2.05),
    "gamma": (2.6, 2.0, 3.0),
    "modes for 90 %": (35.0, 30.0, 40.0),
}
#: Cases whose spectrum falls with rank because a PCA made it.
RANKED = (SAME, "same window, detrended", "shuffled", "random walk")

__all__ = [
    "PAPER",
    "Row",
    "correlation_times",
    "correlation_times_text",
    "exponents_of",
    "over_seeds",
    "text",
    "verdict",
]


def exponents_of(
    result: xr.Dataset, config: Config, *, fit: tuple[int, int] | None = None
) -> dict[tuple[str, str], Exponent]:
    """Every exponent of one seed, by (case, name).

    Parameters
    ----------
    result : Dataset
        From :func:`measure`.
    config : Config
    fit : (int, int), optional
        Another range of modes than the configuration's.

    Returns
    -------
    dict of (str, str) to Exponent
    """
    found: dict[tuple[str, str], Exponent] = {}
    for case in result["case"].to_numpy().astype(str):
        row = result[["width", *MOTION]].sel(case=case)
        row = row.isel(mode=~np.isnan(row["width"].to_numpy()))  # not measured; open-ended ones are infinite
        motion = row.drop_vars("width")
        control = next((c for c in ("shuffled", "random walk") if case.startswith(c)), "")
        motion.attrs = dict(result.attrs) | {"basis": str(row["basis"].item()), "control": control}
        widths = xr.Dataset({"width": row["width"]}, attrs={"loss": result.attrs["loss"]})
        for name, exponent in exponents.variance_flatness(motion, widths, fit=fit or config.fit).items():
            found[case, name] = exponent
    for case in (case for case in RANKED if case in result["case"]):
        variance = result["variance"].sel(case=case)
        attributes = dict(result.attrs) | {
            "basis": str(variance["basis"].item()),
            "control": case if case in ("shuffled", "random walk") else "",
            "loss_end": result.attrs["loss"],
        }
        spectrum = xr.Dataset({"variance": variance.dropna("mode")}, attrs=attributes)
        found[case, "gamma"] = exponents.rank_exponent(spectrum, fit=config.rank_fit)
    return found


def over_seeds(
    results: Sequence[xr.Dataset], config: Config, *, fit: tuple[int, int] | None = None
) -> dict[tuple[str, str], Exponent]:
    """Every exponent with its interval over seeds; with one seed, over modes.

    Parameters
    ----------
    results : sequence of Dataset
    config : Config
    fit : (int, int), optional

    Returns
    -------
    dict of (str, str) to Exponent
    """
    each = [exponents_of(result, config, fit=fit) for result in results]
    if len(each) == 1:
        return each[0]
    return {key: exponents.over_seeds([found[key] for found in each]) for key in each[0]}


@dataclass(frozen=True)
class Row:
    """One number of the paper beside ours.

    Attributes
    ----------
    quantity : str
    paper, paper_low, paper_high : float
    measured : dict of str to Exponent
        By case.
    judgement : str
    """

    quantity: str
    paper: float
    paper_low: float
    paper_high: float
    measured: Mapping[str, Exponent]
    judgement: str


def verdict(results: Sequence[xr.Dataset], config: Config) -> list[Row]:
    """Each number of the paper, ours with its interval, and whether it survives its controls.

    *Reproduced*: the estimate in the same window lies in the paper's range; *compatible*: only its interval
    reaches it. The same for directions from one window and motion from the next. What the shuffled increments
    show comes from choosing directions in the window that is measured: they have no correlation in time.

    Parameters
    ----------
    results : sequence of Dataset
        From :func:`notebooks.studies.variance_flatness.experiment.run_seeds`.
    config : Config

    Returns
    -------
    list of Row
    """
    found = over_seeds(results, config)
    rows = []
    for quantity in ("psi", "psi_D", "psi_tau", "gamma"):
        measured = {case: e for (case, name), e in found.items() if name == quantity}
        rows.append(Row(quantity, *PAPER[quantity], measured, _judgement(quantity, measured)))
    counts = np.array([float(r.attrs["modes_for_90_percent"]) for r in results])
    half = 0.0
    if len(counts) > 1:
        half = student_factor(len(counts)) * float(counts.std(ddof=1))
    like = found[SAME, "gamma"]
    mean = float(counts.mean())
    share = Exponent(
        "modes for 90 %", mean, mean - half, mean + half, "seeds", float("nan"), like.points, 0, 2,
        int(results[0].sizes["rank"]), like.basis, like.sampler, like.loss, len(counts),
    )  # fmt: skip
    rows.append(Row(share.name, *PAPER[share.name], {SAME: share}, _judgement(share.name, {SAME: share})))
    return rows


def _judgement(quantity: str, measured: Mapping[str, Exponent]) -> str:
    """A few words that follow from the intervals."""
    _, low, high = PAPER[quantity]

    def agrees(case: str) -> str:
        e = measured[case]
        if low <= e.value <= high:
            return "yes"
        return "within the interval" if e.low <= high and e.high >= low else "no"

    words = [{"yes": "reproduced", "within the interval": "compatible", "no": "not reproduced"}[agrees(SAME)]]
    if NEXT in measured:
        words.append(
            {
                "yes": "holds in the next window",
                "within the interval": "compatible in the next window",
                "no": "not in the next window",
            }[agrees(NEXT)]
        )
    if "shuffled" in measured and quantity != "psi_D":
        least = measured["shuffled"].low
        words.append(
            "shuffled increments show at least as much"
            if measured["shuffled"].value >= measured[SAME].low
            else "shuffled increments show less"
            if least > 0
            else "shuffled increments show none"
        )
    return "; ".join(words)


def correlation_times(results: Sequence[xr.Dataset], config: Config) -> xr.Dataset:
    """Median τ_i of the fitted modes in every case, beside what uncorrelated minibatches give.

    Directions that the window did not choose, with the drift removed, show whether successive minibatches are
    correlated at all: without correlations τ is the null, for every flatness.

    Parameters
    ----------
    results : sequence of Dataset
        At least two seeds for an interval.
    config : Config

    Returns
    -------
    Dataset, dim case
        ``median`` (mean over seeds of the median over modes), ``low``, ``high`` (95 %, Student's t; NaN for
        one seed), in steps; ``attrs["null"]``: see :func:`theory.random_landscape.null_correlation_time`.
    """
    first, last = config.fit
    tau = xr.concat(
        [r["correlation_time"].sel(mode=slice(first, last)).median("mode") for r in results], "seed"
    )
    n = len(results)
    mean = tau.mean("seed")
    half = mean * np.nan
    if n > 1:
        half = student_factor(n) * tau.std("seed", ddof=1)
    epoch = int(results[0].attrs["steps_per_epoch"])
    bridge = epoch if config.sampling == "without_replacement" else None
    words = {"median": mean, "low": mean - half, "high": mean + half}
    return xr.Dataset(
        {k: v.assign_attrs(long_name=f"correlation time, {k}", units="steps") for k, v in words.items()},
        attrs={
            "title": f"median correlation times of modes {first} to {last}",
            "null": null_correlation_time(config.window * epoch, steps_per_epoch=bridge),
            "seeds": n,
        },
    )


def text(rows: Sequence[Row]) -> str:
    """The verdict as a table of text: a line for each case, and one for the judgement.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    str
    """
    lines = []
    for row in rows:
        lines.append(
            f"{row.quantity}: paper {row.paper:g} ({row.paper_low:g} to {row.paper_high:g}) "
            f"-> {row.judgement}"
        )
        for case, e in row.measured.items():
            interval = f"[{e.low:.2f}, {e.high:.2f}]"
            r = "" if np.isnan(e.correlation) else f"  r = {e.correlation:5.2f}  n = {e.points}"
            lines.append(f"    {case:24} {e.value:6.2f} {interval:>16}{r}")
    seeds = max(e.seeds for row in rows for e in row.measured.values())
    source = "Student's t over seeds" if seeds > 1 else "blocks of modes, one seed"
    lines.append(f"95 % intervals from {source}; {seeds} seed(s).")
    return "\n".join(lines)


def correlation_times_text(times: xr.Dataset) -> str:
    """Median correlation times as lines of text, the null first.

    Parameters
    ----------
    times : Dataset
        From :func:`correlation_times`.

    Returns
    -------
    str
    """
    lines = [f"{times.attrs['title']} (steps); uncorrelated minibatches: {float(times.attrs['null']):.0f}"]
    for case in times["case"].to_numpy():
        row = times.sel(case=case)
        lines.append(
            f"    {case!s:24} {float(row['median']):7.1f}  "
            f"[{float(row['low']):.1f}, {float(row['high']):.1f}]"
        )
    return "\n".join(lines)
