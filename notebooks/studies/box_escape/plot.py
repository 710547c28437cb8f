"""Figures of escapes from trained minima, drawn into ``ax`` from what the module ``summary`` returns.

The further keywords of a function go to ``errorbar``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from fpsolve import style
from notebooks.studies.box_escape.laws import LAWS

#: Colours, with marks and dashes that tell them apart in grey.
STYLES = {
    "network": (style.palette["black"], "o", "network"),
    "none": (style.palette["sky"], "^", "frozen noise, no landscape"),
    "quadratic": (style.palette["green"], "s", "quadratic basin, frozen noise"),
}
LINES = {
    "diffusion": (style.palette["blue"], ":", "free diffusion, measured C"),
    "level": (style.palette["vermilion"], "--", "level crossing, measured C and H"),
    "exponential": (style.palette["vermilion"], "-", "exponential (Thm 3.2)"),
    "power": (style.palette["blue"], "-", "power law"),
}


def exits(rates: Mapping[str, xr.Dataset], readings: xr.Dataset, *, ax: Axes | None = None, **points) -> Axes:
    """Axes with mean steps to the exit along a scan, by ``dynamics_rates``, and the predictions; no fits."""
    ax = style.axes(ax)
    scan = str(readings.attrs["scan"])
    for name in ("diffusion", "level"):
        color, dashes, label = LINES[name]
        predicted = readings.predicted.sel(reading=name).values
        if np.isfinite(predicted).sum() > 1 and not (
            name == "level" and scan in ("injected_noise", "sharpness_sgld")
        ):
            ax.plot(readings.x, predicted, dashes, color=color, label=label)
    for name, own in rates.items():
        color, marker, label = STYLES[name]
        face = color if name == "network" else "none"
        options: dict = {"fmt": marker, "ls": "", "ms": 4, "capsize": 2, "color": color, "mfc": face} | points
        ax.errorbar(own.x, own.mean_steps, 1.96 * own.mean_steps_stderr, label=label, **options)
    ax.set(xscale="log", yscale="log", xlabel=_axis(scan), ylabel="mean steps to the exit")
    style.few_ticks(ax, span=100)
    return ax


def as_in_the_paper(rates: xr.Dataset, fits: xr.Dataset, *, ax: Axes | None = None, **points) -> Axes:
    """Axes with −ln γ against 1/k, B, 1/η or 1/D, and both fitted laws: straight is the exponential."""
    ax = style.axes(ax)
    scan = str(rates.attrs["scan"])
    inverse = scan != "batch_size"
    u = 1 / rates.x if inverse else rates.x
    y = -np.log(rates.rate)
    options: dict = {"fmt": "o", "ms": 4, "capsize": 2, "color": STYLES["network"][0]} | points
    ax.errorbar(u, y, np.abs(np.stack([y + np.log(rates.high), -y - np.log(rates.low)])), **options)
    fine = np.geomspace(float(rates.x.min()), float(rates.x.max()), 100)
    at = 1 / fine if inverse else fine
    for law in LAWS:
        color, dashes, label = LINES[law]
        own = fits.sel(law=law)
        shape = -at if law == "exponential" else np.log(fine)
        line = -(float(own.intercept) + float(own.slope) * shape)
        ax.plot(at, line, dashes, color=color, label=f"{label}, $R^2$ = {float(own.r_squared):.3f}")
    symbol = _SCANNED[scan][0]
    ax.set(xlabel=f"$1/{symbol}$" if inverse else f"${symbol}$", ylabel="$-\\ln\\gamma$")
    return ax


def spread_of_times(each: Mapping[str, xr.Dataset], *, ax: Axes | None = None, **points) -> Axes:
    """Axes with coefficients of variation of exit times along a scan; an exponential law has 1.

    ``each`` maps labels to ``scan_rates`` of one start, all along the same scan.
    """
    ax = style.axes(ax)
    colours = [style.palette[c] for c in ("black", "vermilion", "green", "blue", "pink", "orange")]
    for i, (label, rates) in enumerate(each.items()):
        bars = style.sides(rates, "variation")
        options: dict = {"fmt": "osD^v<"[i % 6], "ls": "-", "lw": 0.7, "ms": 4, "capsize": 2} | points
        ax.errorbar(rates.x, rates.variation, bars, color=colours[i % 6], label=label, **options)
    ax.axhline(1, color="0.4", lw=0.8, ls="--")
    ax.text(0.02, 0.98, "1: exponential law", transform=ax.transAxes, va="top", fontsize="small", color="0.3")
    scan = str(next(iter(each.values())).attrs["scan"])
    ax.set(xscale="log", xlabel=_axis(scan), ylabel="coefficient of variation", ylim=(0, 1.4))
    style.few_ticks(ax, span=100)
    return ax


#: Symbol and words for what is scanned.
_SCANNED = {
    "learning_rate": ("\\eta", "learning rate"), "shuffled": ("\\eta", "learning rate, shuffled epochs"),
    "batch_size": ("B", "batch size"), "injected_noise": ("D", "injected noise"),
    "sharpness_sgld": ("k", "sharpness"), "sharpness": ("k", "sharpness"),
}  # fmt: skip


def _axis(scan: str) -> str:
    symbol, words = _SCANNED[scan]
    return f"{words} ${symbol}$"
