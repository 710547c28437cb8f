"""Figures of one net from ``loop.closed_loop``, and of several from ``loop.closed_loops``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from fpsolve import style
from fpsolve.statistics import mean_interval
from notebooks.studies.closed_loop.budget import CORRECTIONS
from notebooks.studies.closed_loop.predictions import SGD

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def valley_profile(
    found: xr.Dataset, kind: Literal["curvature", "noise"] = "curvature", *, ax: Axes | None = None
) -> Axes:
    """Axes with λ_i(x) or C_ii(x) of one net as measured, their fits, and where SGD ended."""
    ax = style.axes(ax)
    x = found["place_along"].to_numpy()
    line = np.linspace(x[0], x[-1], 200)
    for i, mode in enumerate(found["mode"].to_numpy()):
        colour = style.curve(i)[0]
        ax.plot(x, found[f"{kind}_along"].sel(mode=mode), "o", ms=4, color=colour)
        fit = np.polynomial.Polynomial.fit(x, np.log(found[f"{kind}_fit"].sel(mode=mode)), len(x) - 1)
        ax.plot(line, np.exp(fit(line)), color=colour, lw=1.2, label=f"mode {mode}")
    _sgd_span(found, ax)
    symbol = {"curvature": r"curvature $\lambda_i$", "noise": "gradient noise $C_{ii}$"}[kind]
    ax.set(xlabel="$x$ along the flat direction", ylabel=symbol, ylim=(0, None))
    return ax


def valley_floor(found: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with the training loss along the flat direction of one net, and where SGD ended."""
    ax = style.axes(ax)
    ax.plot(found["place_along"], found["loss_along"], "o-", ms=4, lw=1.2, color="0.25")
    _sgd_span(found, ax)
    ax.set(xlabel="$x$ along the flat direction", ylabel="training loss")
    return ax


def _sgd_span(found: xr.Dataset, ax: Axes) -> None:
    """Where the copies are at the walk's end, two standard deviations on either side."""
    x, width = (float(found[name].sel(by=SGD)) for name in ("displacement", "flat_variance"))
    ax.axvspan(x - 2 * width**0.5, x + 2 * width**0.5, color="0.85", zorder=0, label="SGD at the end")


def variance_factors(found: xr.Dataset, *, ax: Axes | None = None, confidence: float = 0.95) -> Axes:
    """Axes with SGD's variance over its prediction by correction, a line per mode, intervals over nets."""
    ax = style.axes(ax)
    ratio = (found["sgd"] / found["predicted"]).transpose("training", "correction", "mode")
    mean, low, high = mean_interval(ratio, confidence=confidence, scale="log")
    modes, at = found["mode"].to_numpy(), np.arange(len(CORRECTIONS))
    for i, mode in enumerate(modes):
        shift = 0.5 * (i - (len(modes) - 1) / 2) / max(len(modes), 2)
        error = np.abs(np.array([low[:, i], high[:, i]]) - mean[:, i])
        ax.errorbar(
            at + shift, mean[:, i], error, color=style.curve(i)[0], marker="o", ms=4, lw=0.8,
            capsize=2, label=f"mode {mode}",
        )  # fmt: skip
    ax.axhline(1.0, color="0.4", lw=1, zorder=0)
    ax.set_xticks(at, list(CORRECTIONS), rotation=30, ha="right")
    ax.set(yscale="log", ylabel="Var $y_i$: SGD / predicted")
    ticks = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    return ax
