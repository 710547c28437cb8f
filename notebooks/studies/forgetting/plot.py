"""Figures of two tasks learned one after the other (PNAS Fig. 4). They draw data they are given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from fpsolve import style
from notebooks.studies.forgetting.choice import BOTH
from notebooks.studies.forgetting.penalties import PAPER_BOUND

#: Colour and marker of each penalty; told apart in grey by the marker.
STYLES = {
    name: (style.palette.get(colour, colour), marker)
    for name, colour, marker in (
        ("none", "0.5", "x"), ("L2", "black", "o"),
        ("EWC true", "vermilion", "s"), ("EWC empirical", "orange", "D"), ("EWC floored", "pink", "P"),
        ("LDC", "blue", "o"), ("LDC equal F", "sky", "v"), ("LDC capped", "#004488", "*"),
        ("LDC psi 3", "green", "<"), ("LDC psi 4", "green", "^"), ("LDC psi 5", "green", ">"),
    )
}  # fmt: skip


def _drawn(name: str, **line) -> dict:
    """How the penalty ``name`` is drawn."""
    colour, marker = STYLES.get(name, ("0.3", "o"))
    return {"color": colour, "marker": marker, "ms": 4, "label": name} | line


def learning_curves(curve: xr.Dataset, *, ax: Axes | None = None, labels: bool = True) -> Axes:
    """Axes with both test errors over the steps of task 2, and intervals over trainings (PNAS Fig. 4 A, C).

    ``curve`` comes from ``choice.learning_curve``.
    """
    ax = style.axes(ax)
    texts = {"error_first": "task 1, $\\epsilon_1$", "error_second": "task 2, $\\epsilon_2$"}
    for k, (name, text) in enumerate(texts.items()):
        colour, dash = style.curve(k)
        label = text if labels else None
        style.band(ax, curve["step"], curve, name, color=colour, ls=dash, marker=".", label=label)
    ax.set_xscale("symlog", linthresh=1)
    ends = {"xlim": (0, float(curve["step"][-1])), "ylim": (-0.02, 1.02)}
    ax.set(xlabel="steps of task 2", ylabel="test error", **ends)
    return ax


def displacements(result: xr.Dataset, constraint: int, *, ax: Axes | None = None, bound: bool = True) -> Axes:
    """Axes with q_i over the rank of the principal direction, all trainings, and 0.008 F_i (PNAS 4 B, D).

    N_c of the constraint is marked; ``bound`` draws the paper's bound.
    """
    ax = style.axes(ax)
    rank = result["mode"].to_numpy()
    for k in range(result.sizes["training"]):
        one = result.isel(training=k)
        q = one["displacement"].isel(constraint=constraint).to_numpy()
        dots, line = style.curve(0)[0], style.curve(1)[0]
        ax.plot(rank, q, ".", ms=2, color=dots, alpha=0.4, label=None if k else "$q_i$")
        if bound:
            label = None if k else "$0.008\\,F_i$"
            ax.plot(rank, PAPER_BOUND * one["width"], "--", lw=0.8, color=line, label=label)
    if count := int(result["count"][constraint]):
        ax.axvline(count, color="0.4", lw=0.8, ls=":", label=f"$N_c = {count}$")
    ax.set(xscale="log", yscale="log", xlabel="principal direction $i$", ylabel="displacement $q_i$")
    return ax


def fronts(results: Mapping[str, xr.Dataset], *, ax: Axes | None = None, floor: float = 1e-3) -> Axes:
    """Axes with (ε₁, ε₂) of the fronts of several penalties, with intervals over trainings (PNAS Fig. 4 E).

    ``results`` maps penalties to results of ``choice.front``. Errors and interval ends below ``floor`` are
    drawn there, since the axes are logarithmic.
    """
    ax = style.axes(ax)
    for name, result in results.items():
        drawn = result[[f"{error}{end}" for error in BOTH for end in ("", "_low", "_high")]].clip(min=floor)
        (x, dx), (y, dy) = ((drawn[error], style.sides(drawn, error)) for error in BOTH)
        ax.errorbar(x, y, dy, dx, **_drawn(name, lw=0.8, elinewidth=0.6))
    ax.set(xscale="log", yscale="log", xlabel="$\\epsilon_1$, test error of task 1")
    ax.set(ylabel="$\\epsilon_2$, test error of task 2")
    return ax


def counts(results: Mapping[str, xr.Dataset], *, ax: Axes | None = None) -> Axes:
    """Axes with ε₁ + ε₂ over the number of constraints, each at its best λ (PNAS Fig. 4 F).

    ``results`` maps penalties to results of ``choice.over_counts``.
    """
    ax = style.axes(ax)
    for name, result in results.items():
        sides = style.sides(result, "total")
        ax.errorbar(result["count"], result["total"], sides, **_drawn(name, lw=1, capsize=2))
    ax.set(xscale="log", xlabel="constraints $N_c$", ylim=(0, None))
    ax.set(ylabel="$\\epsilon_1 + \\epsilon_2$ at the best $\\lambda$")
    return ax


def over_steps(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with ε₁ + ε₂ over the length of task 2, a ``result`` of ``choice.over_steps``."""
    ax = style.axes(ax)
    shown = result.isel(checkpoint=result["step"].to_numpy() > 0)
    shown = shown.assign(total_low=shown["total_low"].clip(min=1e-3))
    for k, name in enumerate(shown["penalty"].to_numpy().astype(str)):
        style.band(ax, shown["step"], shown.isel(penalty=k), "total", shade=0.12, **_drawn(name, lw=1))
    ax.set(xscale="log", yscale="log", xlabel="steps of task 2", ylim=(1e-2, 1.5))
    ax.set(ylabel="$\\epsilon_1 + \\epsilon_2$, each at its best")
    return ax


def at_their_best(
    summary: xr.Dataset, *, each: Mapping[str, np.ndarray] | None = None, ax: Axes | None = None,
    floor: float = 5e-3,
) -> Axes:  # fmt: skip
    """Axes with ε₁ + ε₂ of every penalty at its best, with intervals over trainings.

    ``summary`` comes from ``choice.summary``. ``each`` maps penalties to ε₁ + ε₂ of single trainings, drawn
    as small dots. Ends of intervals below ``floor`` are drawn there.
    """
    ax = style.axes(ax)
    names = summary["penalty"].to_numpy().astype(str)
    for place, name in enumerate(names):
        line, one = _drawn(name, ms=6, label=None), summary.isel(penalty=place)
        colour = line["color"]
        ax.plot(one[["total_low", "total_high"]].to_array().clip(min=floor), [place] * 2, color=colour, lw=2)
        ax.plot(one["total"], place, **line)
        if each is not None and name in each:
            values = np.maximum(each[name], floor)
            ax.plot(values, np.full(len(values), place + 0.28), ls="", marker=".", ms=4, color=colour)
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", xlabel="$\\epsilon_1 + \\epsilon_2$, each at its best $\\lambda$ and $N_c$")
    ax.invert_yaxis()
    return ax
