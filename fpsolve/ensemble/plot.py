"""Figures of flatness in valleys of many dimensions: its course in time and the rate at which it grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import xarray as xr

from fpsolve.style import axes, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = {"vermilion": "-", "blue": "--", "green": "-.", "pink": ":", "black": (0, (5, 1))}
_LINES = tuple((palette[colour], dashes) for colour, dashes in _DASHES.items())
_RATES = {
    "measured": (palette["black"], "o", "simulated, 95 %"),
    "averaged": (palette["blue"], "-", r"averaged: $\lambda_i(x)$, finite $\eta$"),
    "with_floor": (palette["green"], "--", r"$\lambda_i(0)$, with $\varepsilon$"),
    "published": (palette["vermilion"], ":", r"$(\sum\Delta_i)\,|\nabla\ln\hat F|^2$"),
}


def flatness_dynamics(
    runs: Mapping[str, xr.Dataset], quantity: str = "flatness", *, ax: Axes | None = None
) -> Axes:
    """Axes with the flatness of ensembles against time; bands are 95 % of the mean.

    ``runs`` are results of :func:`fpsolve.simulate_valley` with ``record_every``, by label; ``quantity`` is
    ``"flatness"``, ``"weighted_flatness"`` or ``"loss"``.
    """
    ax = axes(ax)
    for k, (label, run) in enumerate(runs.items()):
        colour, dashes = _LINES[k % len(_LINES)]
        mean, error = run[quantity], 1.96 * run[f"{quantity}_stderr"].fillna(0.0)
        ax.plot(run.time, mean, color=colour, ls=dashes, lw=1.6, label=label)
        ax.fill_between(run.time, mean - error, mean + error, color=colour, alpha=0.25, lw=0)
    symbol = {"flatness": "$F$", "weighted_flatness": r"$\hat F$", "loss": "$L$"}[quantity]
    words = quantity.replace("_", " ")
    ax.set(xlabel=r"time ($\eta\,\times$ iterations)", ylabel=f"{words} {symbol}")
    ax.legend(frameon=False, fontsize=8)
    return ax


def growth(rates: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with d ln F̂/dt as simulated and as three forms of the averaged dynamics predict it.

    ``rates`` are those of :func:`fpsolve.flatness_growth`.
    """
    ax = axes(ax)
    for name, (colour, style, label) in _RATES.items():
        if style == "o":
            error = 1.96 * rates[f"{name}_stderr"]
            ax.errorbar(rates.time, rates[name], error, fmt="o", ms=3, color=colour, label=label)
        else:
            ax.plot(rates.time, rates[name], color=colour, ls=style, lw=1.6, label=label)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set(xlabel=r"time ($\eta\,\times$ iterations)", ylabel=r"$d\ln\hat F/dt$ (1/time)")
    ax.legend(frameon=False, fontsize=8)
    return ax
