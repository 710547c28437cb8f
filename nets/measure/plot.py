"""Figures of principal components and of the loss along them. They draw data they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve.style import axes, curve, few_ticks
from nets.measure.exponents import Exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP"


def spectrum(modes: Mapping[str, xr.DataArray], *, ax: Axes | None = None, **line) -> Axes:
    """Axes with variances σ_i² against rank i, on logarithmic scales (PNAS Fig. 1A).

    ``modes`` maps labels to variances, dim ``mode``; ``line`` goes to ``plot``.
    """
    ax = _against_rank(modes, "variance $\\sigma_i^2$", ax, line)
    if len(modes) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def _against_rank(curves: Mapping[str, xr.DataArray], ylabel: str, ax: Axes | None, line: dict) -> Axes:
    """Labelled curves over ``mode`` on logarithmic scales."""
    ax = axes(ax)
    for k, (label, values) in enumerate(curves.items()):
        colour, dash = curve(k)
        ax.plot(values["mode"], values, **{"color": colour, "ls": dash, "label": label, **line})
    ax.set(xscale="log", yscale="log", xlabel="mode $i$", ylabel=ylabel)
    return ax


def cumulative_variance(share: xr.DataArray, *, level: float = 0.9, ax: Axes | None = None, **line) -> Axes:
    """Axes with the share of the variance in the first modes, and where it reaches a level (PNAS Fig. 1B).

    ``share`` is from :func:`nets.measure.components.cumulative_variance`.
    """
    ax = axes(ax)
    ax.plot(share["mode"], share, **{"color": curve(0)[0], **line})
    if float(share[-1]) >= level:
        mode = int(share["mode"][int(np.argmax(share.to_numpy() >= level))])
        ax.plot([mode, mode, 1], [0, level, level], color="0.5", lw=0.8, ls=":")
        ax.annotate(
            f"{level:.0%} at mode {mode}", (mode, 0.5 * level), xytext=(6, 0), textcoords="offset points"
        )
    first = int(share["mode"][0])
    ax.set(xlabel="mode $i$", ylabel=f"share of the variance, modes {first} to $i$", ylim=(0, 1.02))
    ax.set_xlim(0, min(float(share["mode"][-1]), 200))
    return ax


def trajectory(modes: xr.Dataset, first: int, second: int, *, ax: Axes | None = None, **line) -> Axes:
    """Axes with the ``projection`` of modes in the plane of two of them, counted from 1 (PNAS Fig. 1C, D)."""
    ax = axes(ax)
    x, y = (modes["projection"].sel(mode=m) for m in (first, second))
    ax.plot(x, y, **{"color": curve(0)[0], "lw": 0.4, "rasterized": True, **line})
    ax.plot(x[0], y[0], "o", color=curve(1)[0], ms=4)
    ax.locator_params(nbins=4)
    ax.set(xlabel=f"$\\theta_{{{first}}}$", ylabel=f"$\\theta_{{{second}}}$")
    return ax


def against_flatness(
    width: xr.DataArray,
    quantities: Mapping[str, xr.DataArray],
    *,
    fits: Mapping[str, Exponent] | None = None,
    ax: Axes | None = None,
    **points,
) -> Axes:
    """Axes with quantities of the modes against their flatness, and their power laws (PNAS Fig. 2D, 3B).

    ``width`` is F_i and ``quantities`` maps labels to values, both over ``mode``; open-ended modes are left
    out. ``fits`` maps labels to exponents, each drawn as its line over the modes it was fitted to. ``points``
    goes to ``plot``.
    """
    ax = axes(ax)
    for k, (label, values) in enumerate(quantities.items()):
        colour, dash = curve(k)
        F, y = xr.align(width, values, join="inner")
        F = F[np.isfinite(F) & np.isfinite(y) & (y > 0)]
        fit = (fits or {}).get(label)
        name = label if fit is None else f"{label}: {fit.estimate:.2f}"
        style: dict = {"marker": MARKERS[k % len(MARKERS)], "color": colour, "label": name}
        ax.plot(F, y.sel(mode=F["mode"]), **({"ls": "", "ms": 2.5, "alpha": 0.7} | style | points))
        if fit is not None:
            used = F.sel(mode=slice(fit.first, fit.last))
            ends = np.array([used.min(), used.max()])
            ax.plot(ends, fit(ends), color=colour, ls=dash, lw=1.2)
    ax.set(xscale="log", yscale="log", xlabel="flatness $F_i$")
    few_ticks(ax)
    ax.legend(frameon=False, fontsize=7)
    return ax


def correlation_times(
    motions: Mapping[str, xr.DataArray],
    *,
    nulls: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    **line,
) -> Axes:
    """Axes with τ_i = σ_i²/D_i against rank, and what uncorrelated steps would give.

    ``motions`` maps labels to correlation times over ``mode``, ``nulls`` labels to numbers, such as
    :func:`theory.random_landscape.null_correlation_time`.
    """
    ax = _against_rank(motions, "correlation time $\\tau_i$ (steps)", ax, {"lw": 1, **line})
    for k, (label, value) in enumerate((nulls or {}).items()):
        ax.axhline(value, color="0.45", ls=(":", "--", "-.")[k % 3], lw=0.9, label=label)
    ax.legend(frameon=False, fontsize=7)
    return ax


def profiles(profiles: xr.Dataset, *, fits: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Axes with ln(L/L₀) along modes, the level that defines flatness, and inverse Gaussians (PNAS Fig. 2B).

    ``profiles`` are from :func:`nets.measure.loss_widths.profiles`; ``fits``, dotted, from
    :func:`nets.measure.loss_widths.profile_fits`.
    """
    ax = axes(ax)
    start = float(profiles.attrs["loss"])
    for k, mode in enumerate(profiles["mode"].to_numpy()):
        colour = curve(k)[0]
        part = profiles.sel(mode=mode)
        x = part["distance"].to_numpy()
        ax.plot(x, np.log(part["loss"] / start), color=colour, label=f"$i = {mode}$")
        if fits is not None:
            own = fits.sel(mode=mode)
            fitted = float(own["slope"]) * x + 0.5 * float(own["curvature"]) * x**2
            ax.plot(x, fitted, color=colour, ls=":", lw=1)
    ax.axhline(1.0, color="0.5", lw=0.8)
    ax.set(xlabel="displacement along $p_i$", ylabel="$\\ln(L_i / L_0)$")
    ax.legend(frameon=False, fontsize=8)
    return ax
