"""Figures of escape times: one table, many barriers, scans with slopes, the bias of the crossing test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve.style import axes, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fpsolve.table import Row, Table

#: Method's first word → colour and marker (Okabe, Ito 2008); others are formulas.
STYLES = {
    "exact": (palette["black"], "o"),
    "backward": (palette["blue"], "s"),
    "splitting": (palette["green"], "D"),
    "simulation": (palette["orange"], "^"),
    "map": (palette["pink"], "v"),
}
FORMULA = (palette["vermilion"], "P")
#: Labels of what −ln γ is drawn against.
ABSCISSAE = {
    "1/k": "$1/k$ (inverse sharpness)",
    "B": "batch size $B$",
    "1/learning_rate": r"$1/\eta$",
    "1/D": "$1/D$",
    "ln k": r"$\ln k$",
    "ln(1/dt)": r"$\ln(1/dt)$",
}


def escape_times(table: Table, *, ax: Axes | None = None) -> Axes:
    """Axes with the mean escape time of every method and its interval.

    ``table`` is one of :func:`fpsolve.compare.escape`.
    """
    ax = axes(ax)
    rows = _times(table)
    for height, row in enumerate(reversed(rows)):
        colour, marker = _style(row.method)
        ax.errorbar(
            row.value, height, xerr=_whiskers([row]), fmt=marker, color=colour, capsize=3, ms=6, zorder=3
        )  # fmt: skip
    ax.axvline(_reference(table), color="0.6", lw=0.8)
    ax.set_yticks(range(len(rows)), [row.method for row in reversed(rows)])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    low, high = min(r.value for r in rows), max(r.value for r in rows)
    if high > 5 * low:
        ax.set_xscale("log")
    ax.set(xlabel="mean escape time (learning rate × iterations)", title=table.title.split(":")[0])
    ax.grid(axis="x", alpha=0.3)
    return ax


def escape_barriers(tables: Sequence[Table]) -> Figure:
    """Figure with mean times by every method against ΔL/D, and their ratios to the reference.

    ``tables`` are those of :func:`fpsolve.compare.escape`, one for each barrier.
    """
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.4, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    points = [(t.rows[0].value, row, _reference(t)) for t in tables for row in _times(t)]
    for word in dict.fromkeys(row.method.split(",")[0] for _, row, _ in points):
        barriers, rows, best = zip(*(p for p in points if p[1].method.split(",")[0] == word), strict=True)
        colour, marker = _style(word)
        values = np.array([row.value for row in rows])
        line = "-" if word in ("exact", "Kramers", "Eyring-Kramers") else ""
        options = {"color": colour, "marker": marker, "ls": line, "ms": 5, "mfc": "none", "label": word}
        upper.errorbar(barriers, values, yerr=_whiskers(rows), capsize=2, **options)
        if word != tables[0].reference:
            bars = None if _style(word) == FORMULA else _whiskers(rows) / best
            lower.errorbar(barriers, values / best, yerr=bars, capsize=2, **options)
    upper.set(yscale="log", ylabel="mean escape time")
    upper.legend(frameon=False)
    lower.axhline(1.0, color="0.5", lw=0.8)
    lower.set(xlabel=r"barrier $\Delta L / D$", ylabel=f"ratio to {tables[0].reference}")
    for ax in (upper, lower):
        ax.grid(alpha=0.3)
    return figure


def crossing_bias(bias: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with the relative bias of mean escape times against the step, per treatment of the boundary.

    ``bias`` has the variables ``bias`` and ``bias_stderr``, of dims ``boundary`` and ``time_step``.
    """
    ax = axes(ax)
    steps = bias["time_step"].to_numpy()
    styles = {"none": STYLES["simulation"], "bridge": STYLES["splitting"], "shift": STYLES["backward"]}
    for name in map(str, bias["boundary"].to_numpy()):
        one = bias.sel(boundary=name)
        colour, marker = styles[name]
        ax.errorbar(
            steps, 100 * one["bias"], yerr=196 * one["bias_stderr"], color=colour, marker=marker, ms=5,
            capsize=3, label=name, lw=1,
        )  # fmt: skip
    ax.axhline(0.0, color="0.5", lw=0.8)
    ax.set(xscale="log", xlabel="time step", ylabel="bias of the mean escape time (%)")
    ax.legend(frameon=False, title="boundary")
    ax.grid(alpha=0.3)
    return ax


def escape_scan(
    scan: xr.Dataset, fit: xr.Dataset | None = None, *, ax: Axes | None = None, label: str = "simulated"
) -> Axes:
    """Axes with −ln γ against 1/k, B, 1/η, 1/D or ln(1/dt): points with intervals, line and theory.

    ``scan`` is a result of :func:`fpsolve.scan_escape`; ``fit``, one of :func:`fpsolve.fit_slope`, adds the
    fitted line and a shaded wedge with every slope that the theorem allows, through the middle of the points.
    Values without an escape are lower limits (triangles). ``label`` names the points in the legend.
    """
    ax = axes(ax)
    u = scan["abscissa"].to_numpy()
    seen = scan["n_escaped"].to_numpy() > 0
    rate, low, high = (scan[name].to_numpy() for name in ("rate", "low", "high"))
    y = -np.log(rate[seen])
    errors = np.stack([y + np.log(high[seen]), -np.log(low[seen]) - y])
    ax.errorbar(
        u[seen], y, errors, fmt="o", ms=4.5, color=palette["orange"], mec="black", mew=0.5, ecolor="black",
        elinewidth=1, capsize=2, label=label, zorder=3,
    )  # fmt: skip
    if not seen.all():
        ax.plot(u[~seen], -np.log(high[~seen]), "^", color=palette["orange"], mec="black", label="none seen")
    exact = scan["exact_log_time"].to_numpy()
    if np.isfinite(exact).all() and np.ptp(u) > 0:
        ax.plot(u, exact, "x--", color=palette["blue"], lw=1, ms=5, label="exact Langevin")
    if fit is not None:
        _draw_slopes(ax, scan, fit, u)
    ax.set(xlabel=ABSCISSAE.get(scan.attrs["abscissa"], scan.attrs["abscissa"]), ylabel=r"$-\ln \gamma$")
    ax.legend(frameon=False, fontsize=7)
    return ax


def _draw_slopes(ax, scan: xr.Dataset, fit: xr.Dataset, u: np.ndarray) -> None:
    """The fitted line, and the theorem's slopes through its middle."""
    line = np.linspace(u.min(), u.max(), 60)
    order = np.argsort(u)
    known = np.interp(line, u[order], scan["prefactor"].to_numpy()[order])
    known = known if fit.attrs["prefactor"] != "none" else 0.0 * line
    slope, intercept = float(fit["slope"]), float(fit["intercept"])
    ax.plot(
        line, intercept + slope * line + known, "-", color="black", lw=1.2, label=f"fit, slope {slope:.3g}"
    )
    ends = [float(fit["slope_minimum"]), float(fit["slope_saddle"])]
    if not np.isfinite(ends).all():
        return
    middle = 0.5 * (u.min() + u.max())
    edges = [intercept + slope * middle + end * (line - middle) + known for end in ends]
    words = f"{min(ends):.3g}" if ends[0] == ends[1] else f"{min(ends):.3g} to {max(ends):.3g}"
    for edge in edges:
        ax.plot(line, edge, ":", color=palette["vermilion"], lw=1)
    ax.fill_between(
        line, *edges, color=palette["vermilion"], alpha=0.15, lw=0, label=f"theory, slope {words}"
    )


def _times(table: Table) -> list[Row]:
    return [row for row in table.rows if row.quantity == "mean time"]


def _reference(table: Table) -> float:
    return next(row.value for row in _times(table) if row.method == table.reference)


def _style(method: str) -> tuple[str, str]:
    return STYLES.get(method.split()[0].rstrip(","), FORMULA)


def _whiskers(rows: Sequence[Row]) -> np.ndarray:
    """Lengths below and above the values, shape (2, rows); none where there is no interval."""
    ends = np.array([[r.value - r.low, r.high - r.value] for r in rows]).T
    return np.nan_to_num(np.maximum(ends, 0.0), nan=0.0, posinf=0.0)
