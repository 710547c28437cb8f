"""Figures of principal components, of the loss along them, and of exponents. They draw given data.

Every function draws into ``ax``, by default pyplot's current axes, and returns them. The further keywords of
a function go to ``plot``. Dimensions are those of ``dimension.against_width``, a ``table`` is from
``tables.table``; experiments of the table that were not run are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from fpsolve.style import axes, curve, few_ticks, sides
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness.claims import Row
from notebooks.studies.variance_flatness.dimension import DIMENSIONS
from notebooks.studies.variance_flatness.experiment import NEXT, SAME

#: Quantities as labels.
SYMBOLS = {"psi": "$\\psi$", "psi_D": "$\\psi_D$", "psi_tau": "$\\psi_\\tau$", "gamma": "$\\gamma$"}
MARKERS = "osD^vP"


def spectrum(modes: Mapping[str, xr.DataArray], *, ax: Axes | None = None, **line) -> Axes:
    """Axes with labelled variances σ_i², dim ``mode``, against rank, on logarithmic scales (PNAS Fig. 1A)."""
    ax = _curves(modes, "mode", ax, line, ylabel="variance $\\sigma_i^2$", **_RANK)
    if len(modes) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def _curves(each: Mapping[str, xr.DataArray], x: str, ax: Axes | None, line: Mapping, **labels: str) -> Axes:
    """Labelled curves over their coordinate ``x``, on a logarithmic y-axis."""
    ax = axes(ax)
    for k, (label, values) in enumerate(each.items()):
        colour, dash = curve(k)
        ax.plot(values[x], values, **{"color": colour, "ls": dash, "label": label, **line})
    ax.set(yscale="log", **labels)
    return ax


_RANK = {"xscale": "log", "xlabel": "mode $i$"}


def cumulative_variance(share: xr.DataArray, *, level: float = 0.9, ax: Axes | None = None, **line) -> Axes:
    """Axes with a ``components.cumulative_variance``, and where it reaches a level (PNAS Fig. 1B)."""
    ax = axes(ax)
    ax.plot(share["mode"], share, **{"color": curve(0)[0], **line})
    if float(share[-1]) >= level:
        mode = int(share["mode"][int(np.argmax(share.to_numpy() >= level))])
        ax.plot([mode, mode, 1], [0, level, level], color="0.5", lw=0.8, ls=":")
        text = f"{level:.0%} at mode {mode}"
        ax.annotate(text, (mode, 0.5 * level), xytext=(6, 0), textcoords="offset points")
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
    width: xr.DataArray, quantities: Mapping[str, xr.DataArray], *,
    fits: Mapping[str, Exponent] | None = None, ax: Axes | None = None, **points,
) -> Axes:  # fmt: skip
    """Axes with quantities of the modes against their flatness, and their power laws (PNAS Fig. 2D, 3B).

    ``width`` is F_i and ``quantities`` maps labels to values, both over ``mode``; open-ended modes are left
    out. ``fits`` maps labels to exponents, each drawn as its line over the modes it was fitted to.
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
    motions: Mapping[str, xr.DataArray], *, nulls: Mapping[str, float] | None = None, ax: Axes | None = None,
    **line,
) -> Axes:  # fmt: skip
    """Axes with τ_i = σ_i²/D_i against rank, and what uncorrelated steps would give.

    ``motions`` maps labels to correlation times over ``mode``, ``nulls`` labels to numbers, such as
    :func:`theory.random_landscape.null_correlation_time`.
    """
    ylabel = "correlation time $\\tau_i$ (steps)"
    ax = _curves(motions, "mode", ax, {"lw": 1, **line}, ylabel=ylabel, **_RANK)
    for k, (label, value) in enumerate((nulls or {}).items()):
        ax.axhline(value, color="0.45", ls=(":", "--", "-.")[k % 3], lw=0.9, label=label)
    ax.legend(frameon=False, fontsize=7)
    return ax


def profiles(profiles: xr.Dataset, *, fits: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Axes with ln(L/L₀) along modes, the level that defines flatness, and inverse Gaussians (PNAS Fig. 2B).

    Both are from :mod:`nets.measure.loss_widths`: ``profiles``, and ``fits``, dotted, by ``profile_fits``.
    """
    ax = axes(ax)
    start = float(profiles.attrs["loss"])
    for k, mode in enumerate(profiles["mode"].to_numpy()):
        colour, part = curve(k)[0], profiles.sel(mode=mode)
        x = part["distance"].to_numpy()
        ax.plot(x, np.log(part["loss"] / start), color=colour, label=f"$i = {mode}$")
        if fits is not None:
            slope, curvature = (float(fits[name].sel(mode=mode)) for name in ("slope", "curvature"))
            ax.plot(x, slope * x + 0.5 * curvature * x**2, color=colour, ls=":", lw=1)
    ax.axhline(1.0, color="0.5", lw=0.8)
    ax.set(xlabel="displacement along $p_i$", ylabel="$\\ln(L_i / L_0)$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def loss_history(
    history: xr.DataArray, *, windows: Sequence[tuple[float, float]] = (), ax: Axes | None = None
) -> Axes:
    """Axes with the loss against the epoch, and the analysed ``windows``, pairs of first and last epoch."""
    ax = axes(ax)
    ax.plot(history["epoch"], history, color=curve(0)[0])
    for k, (start, end) in enumerate(windows):
        ax.axvspan(start, end, color=curve(1 + k % 2)[0], alpha=0.2, lw=0, label=f"window {k + 1}")
    ax.set(yscale="log", xlabel="epoch", ylabel="training loss")
    if windows:
        ax.legend(frameon=False, fontsize=8)
    return ax


def minibatch_profiles(profiles: xr.Dataset, mode: int, *, shown: int = 12, ax: Axes | None = None) -> Axes:
    """Axes with ln L^μ of some minibatches along one mode, and ln L of all (PNAS Fig. 3A).

    ``profiles`` are from :func:`nets.measure.minibatch_losses.profiles`; so many minibatches are ``shown``.
    """
    ax = axes(ax)
    part = profiles.sel(mode=mode)
    count = min(shown, part.sizes["batch"])
    thin: dict = {"color": curve(0)[0], "lw": 0.7, "ls": "--"}
    ax.plot(part["distance"], part["minibatch_loss"][:, :count], alpha=0.7, **thin)
    ax.plot([], [], label="minibatches", **thin)
    ax.plot(part["distance"], part["loss"], color=curve(1)[0], lw=2, label="their mean")
    ax.set(yscale="log", xlabel=f"displacement along $p_{{{mode}}}$", ylabel="loss")
    ax.legend(frameon=False, fontsize=8)
    return ax


def agreement(
    measured: xr.DataArray, predicted: Mapping[str, xr.DataArray], *, ax: Axes | None = None, **points
) -> Axes:
    """Axes with labelled predictions against measurements, dim ``mode``, and the line of equality."""
    ax = axes(ax)
    for k, (label, values) in enumerate(predicted.items()):
        dots: dict = {"ls": "", "marker": MARKERS[k], "ms": 4, "color": curve(k)[0], "label": label}
        ax.plot(*xr.align(measured, values, join="inner"), **dots | points)
    ax.set(xscale="log", yscale="log", xlabel="measured", ylabel="predicted")
    middle = float(measured.median())
    ax.axline((middle, middle), (2 * middle, 2 * middle), color="0.5", lw=0.8)
    few_ticks(ax)
    if len(predicted) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def temperatures(result: xr.Dataset, *, ax: Axes | None = None, **line) -> Axes:
    """Axes with T_i(x), from ``nets.active_temperature``, against the displacement (PNAS Fig. 5A)."""
    each = {f"$i = {mode}$": result["temperature"].sel(mode=mode) for mode in result["mode"].to_numpy()}
    labels = {"xlabel": "displacement along $p_i$", "ylabel": "active temperature $T_i$"}
    ax = _curves(each, "distance", ax, line, **labels)
    ax.legend(frameon=False, fontsize=8)
    return ax


def controls(row: Row, *, ax: Axes | None = None) -> Axes:
    """Axes with one exponent in every case, its intervals, and the paper's range."""
    ax = axes(ax)
    for k, e in enumerate(row.measured.values()):
        colour = curve(int(k == 0))[0]
        ax.plot([e.low, e.high], [k, k], color=colour, lw=1.5)
        ax.plot(e.value, k, "o", color=colour, ms=5)
    _rows(ax, list(row.measured), (row.paper_low, row.paper_high))
    # An exponent without any correlation behind it has an interval that hides the others.
    narrow = [e for e in row.measured.values() if e.high - e.low < 4]
    low = min([row.paper_low, 0.0, *(e.low for e in narrow)])
    high = max([row.paper_high, *(e.high for e in narrow)])
    ax.set_xlim(low - 0.3, high + 0.3)
    symbol = SYMBOLS.get(row.quantity)
    ax.set_xlabel(f"{symbol} (grey: the paper)" if symbol else row.quantity)
    return ax


def _rows(ax: Axes, names: Sequence[str], paper: tuple[float, float] | None) -> None:
    """Name the rows from top to bottom; mark 0 and the paper's range."""
    if paper is not None:
        ax.axvspan(*paper, color="0.85", lw=0, zorder=0, label="the paper")
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)


def experiments(
    table: xr.Dataset, quantity: str, *, cases: Sequence[str] = (SAME, NEXT),
    paper: tuple[float, float] | None = None, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Axes with one exponent, such as "psi", of every experiment, its intervals, and the paper's range."""
    ax = axes(ax)
    run = table.isel(experiment=np.flatnonzero(table["seeds"] > 0))
    there = [case for case in cases if case in run["case"]]
    for k, case in enumerate(there):
        part, colour = run.sel(case=case), curve(k)[0]
        y = np.arange(run.sizes["experiment"]) + 0.16 * (2 * k - len(cases) + 1)
        ax.hlines(y, part[f"{quantity}_low"], part[f"{quantity}_high"], color=colour, lw=1.3)
        ax.plot(part[quantity], y, MARKERS[k % len(MARKERS)], color=colour, ms=4, label=case)
    _rows(ax, run["experiment"].to_numpy().tolist(), paper)
    # Few seeds can have intervals so wide that nothing else is seen: the axis follows the values.
    values = run[quantity].sel(case=there)
    ends = [float(values.min()), float(values.max()), 0.0, *(paper or ())]
    ax.set_xlim(min(ends) - 1.0, max(ends) + 1.0)
    ax.set_xlabel(SYMBOLS.get(quantity, quantity))
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def against_setting(
    table: xr.Dataset, setting: str, groups: Mapping[str, Sequence[str]], *, quantity: str = "psi",
    cases: Sequence[str] = (SAME, NEXT), ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Axes with an exponent against learning rate or batch size, for groups of experiments (PNAS Fig. 2D).

    ``setting`` is "learning_rate" or "batch_size"; ``groups`` maps labels to experiments, such as those at
    equal epochs and those at equal loss.
    """
    ax = axes(ax)
    for g, (label, names) in enumerate(groups.items()):
        for k, case in enumerate(case for case in cases if case in table["case"]):
            part = table.sel(case=case, experiment=list(names)).sortby(setting)
            part = part.isel(experiment=np.flatnonzero(part["seeds"] > 0))
            # Groups side by side, not on top of each other.
            x = part[setting].to_numpy() * 1.05 ** (g - (len(groups) - 1) / 2)
            ax.errorbar(
                x, part[quantity], np.abs(sides(part, quantity)), color=curve(k)[0],
                marker=MARKERS[g % len(MARKERS)], ms=5, ls=("-", "--", ":")[g % 3], lw=1, capsize=2,
                mfc=None if g == 0 else "w", label=f"{case}, {label}",
            )  # fmt: skip
    values = np.unique(table[setting].sel(experiment=[n for names in groups.values() for n in names]))
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.minorticks_off()
    names_of = {"learning_rate": "learning rate $\\alpha$", "batch_size": "batch size $B$"}
    ax.set(xlabel=names_of.get(setting, setting), ylabel=f"$\\{quantity}$")
    ax.legend(frameon=False, fontsize=7)
    return ax


def flatness_spectra(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with F by rank for nets of several widths, the geometric mean over seeds (PNAS Fig. 6A)."""
    F = result["width_mean"].assign_coords(rank=np.arange(1, result.sizes["rank"] + 1))
    each = {f"$H = {H}$": F.sel(hidden_width=H) for H in F["hidden_width"].to_numpy()}
    ax = _curves(each, "rank", ax, {}, xscale="log", xlabel="rank", ylabel="flatness $F$")
    ax.axhline(result.attrs["common_threshold"], color="0.4", lw=0.9, ls=":", label="one threshold")
    ax.legend(frameon=False, fontsize=8)
    return ax


def dimensions(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with effective dimensions against the number of weights, intervals over seeds (PNAS Fig. 6B)."""
    ax = axes(ax)
    N = result["hidden_width"].to_numpy() ** 2
    labels = "$D_s$", "$D_s$, one threshold", "$D_l$, 99 %", "$D_l$, 99.9 %"
    for k, (name, label) in enumerate(zip(DIMENSIONS, labels, strict=True)):
        colour, dash = curve(k)
        mean = result[f"{name}_mean"]
        ax.errorbar(
            N, mean, sides(result.assign({name: mean}), name), color=colour, ls=dash, marker=MARKERS[k], ms=4,
            capsize=2, label=label,
        )  # fmt: skip
    bound = (result["sharp_at_most"] > result["sharp"]).any("training").to_numpy()
    if bound.any():
        most = result["sharp_at_most_mean"][bound]
        ax.plot(N[bound], most, "^", mfc="none", color=curve(0)[0], label="$D_s$ at most")
    ax.plot(N, N, color="0.6", ls=":", lw=1, label="all weights")
    ax.set(xscale="log", yscale="log", xlabel="weights $N_p = H^2$", ylabel="effective dimension")
    ax.legend(frameon=False, fontsize=8)
    return ax
