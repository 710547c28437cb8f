"""Figures of principal components, flatness, minibatch losses and verdicts. They draw data they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve.density.plot import CURVES
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness.claims import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vP"

__all__ = [
    "against_flatness",
    "against_setting",
    "agreement",
    "controls",
    "correlation_times",
    "cumulative_variance",
    "dimensions",
    "experiments",
    "flatness_spectra",
    "loss_history",
    "minibatch_profiles",
    "profiles",
    "spectrum",
    "temperatures",
    "trajectory",
]


def _style(given: Mapping, **defaults) -> dict:
    """What is given, and defaults for the rest."""
    return defaults | dict(given)


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    return plt.gca() if ax is None else ax


def _few_ticks(*axes) -> None:
    """Ticks at 1, 2, 5 on logarithmic axes that hold about a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in axes:
        low, high = axis.get_view_interval()
        if high < 30 * low:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axis.set_minor_formatter(NullFormatter())


def spectrum(modes: Mapping[str, xr.DataArray], *, ax: Axes | None = None, **line) -> Axes:
    """Axes with variances σ_i² against rank i, on logarithmic scales (PNAS Fig. 1A).

    Parameters
    ----------
    modes : mapping of str to DataArray
        Label → variances, dim ``mode``.
    ax : Axes, optional
    **line
        Passed to ``plot``.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for k, (label, variance) in enumerate(modes.items()):
        colour, dash = CURVES[k % len(CURVES)]
        ax.plot(variance["mode"], variance, **_style(line, color=colour, ls=dash, label=label))
    ax.set(xscale="log", yscale="log", xlabel="mode $i$", ylabel="variance $\\sigma_i^2$")
    if len(modes) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def cumulative_variance(share: xr.DataArray, *, level: float = 0.9, ax: Axes | None = None, **line) -> Axes:
    """Axes with the share of the variance in the first modes, and where it reaches a level (PNAS Fig. 1B).

    Parameters
    ----------
    share : DataArray
        From :func:`nets.measure.components.cumulative_variance`.
    level : float
    ax : Axes, optional
    **line

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    ax.plot(share["mode"], share, **_style(line, color=CURVES[0][0]))
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
    """Axes with the motion in the plane of two modes (PNAS Fig. 1C, D).

    Parameters
    ----------
    modes : Dataset
        With ``projection``.
    first, second : int
        Modes, counted from 1.
    ax : Axes, optional
    **line

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    x, y = (modes["projection"].sel(mode=m) for m in (first, second))
    ax.plot(x, y, **_style(line, color=CURVES[0][0], lw=0.4, rasterized=True))
    ax.plot(x[0], y[0], "o", color=CURVES[1][0], ms=4)
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

    Parameters
    ----------
    width : DataArray, dim mode
        F_i; modes that are open-ended or were not measured are left out.
    quantities : mapping of str to DataArray
        Label → values, dim ``mode``.
    fits : mapping of str to Exponent, optional
        By the same labels: drawn through the geometric mean of the fitted modes.
    ax : Axes, optional
    **points
        Passed to ``plot``.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for k, (label, values) in enumerate(quantities.items()):
        colour, dash = CURVES[k % len(CURVES)]
        F, y = (a.to_numpy() for a in xr.align(width, values, join="inner"))
        mode = xr.align(width, values, join="inner")[0]["mode"].to_numpy()
        shown = np.isfinite(F) & np.isfinite(y) & (y > 0)
        fit = None if fits is None else fits.get(label)
        name = label if fit is None else f"{label}: {fit.value:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
        style: dict = {
            "ls": "",
            "marker": MARKERS[k % len(MARKERS)],
            "ms": 2.5,
            "color": colour,
            "alpha": 0.7,
        }
        ax.plot(F[shown], y[shown], **(style | {"label": name} | points))
        if fit is not None:
            used = shown & (mode >= fit.first) & (mode <= fit.last)
            line = np.array([F[used].min(), F[used].max()])
            u, v = np.log(F[used]).mean(), np.log(y[used]).mean()
            ax.plot(line, np.exp(v - fit.value * (np.log(line) - u)), color=colour, ls=dash, lw=1.2)
    ax.set(xscale="log", yscale="log", xlabel="flatness $F_i$")
    _few_ticks(ax.xaxis, ax.yaxis)
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

    Parameters
    ----------
    motions : mapping of str to DataArray
        Label → correlation times, dim ``mode``.
    nulls : mapping of str to float, optional
        Label → value, such as :func:`theory.random_landscape.null_correlation_time`.
    ax : Axes, optional
    **line

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for k, (label, tau) in enumerate(motions.items()):
        colour, dash = CURVES[k % len(CURVES)]
        ax.plot(tau["mode"], tau, **_style(line, color=colour, ls=dash, lw=1, label=label))
    for k, (label, value) in enumerate((nulls or {}).items()):
        ax.axhline(value, color="0.45", ls=(":", "--", "-.")[k % 3], lw=0.9, label=label)
    ax.set(xscale="log", yscale="log", xlabel="mode $i$", ylabel="correlation time $\\tau_i$ (steps)")
    ax.legend(frameon=False, fontsize=7)
    return ax


def profiles(profiles: xr.Dataset, *, fits: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Axes with ln(L/L₀) along modes, the level that defines flatness, and inverse Gaussians (PNAS Fig. 2B).

    Parameters
    ----------
    profiles : Dataset
        From :func:`nets.measure.loss_widths.profiles`.
    fits : Dataset, optional
        From :func:`nets.measure.loss_widths.profile_fits`: dotted.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    start = float(profiles.attrs["loss"])
    for k, mode in enumerate(profiles["mode"].to_numpy()):
        colour = CURVES[k % len(CURVES)][0]
        part = profiles.sel(mode=mode)
        x = part["distance"].to_numpy()
        ax.plot(x, np.log(part["loss"] / start), color=colour, label=f"$i = {mode}$")
        if fits is not None:
            own = fits.sel(mode=mode)
            curve = float(own["slope"]) * x + 0.5 * float(own["curvature"]) * x**2
            ax.plot(x, curve, color=colour, ls=":", lw=1)
    ax.axhline(1.0, color="0.5", lw=0.8)
    ax.set(xlabel="displacement along $p_i$", ylabel="$\\ln(L_i / L_0)$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def minibatch_profiles(profiles: xr.Dataset, mode: int, *, shown: int = 12, ax: Axes | None = None) -> Axes:
    """Axes with ln L^μ of some minibatches along one mode, and ln L of all (PNAS Fig. 3A).

    Parameters
    ----------
    profiles : Dataset
        From :func:`nets.measure.minibatch_losses.profiles`.
    mode : int
    shown : int
        How many minibatches.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    part = profiles.sel(mode=mode)
    count = min(shown, part.sizes["batch"])
    ax.plot(
        part["distance"], part["minibatch_loss"][:, :count], color=CURVES[0][0], lw=0.7, ls="--", alpha=0.7
    )
    ax.plot([], [], color=CURVES[0][0], lw=0.7, ls="--", label="minibatches")
    ax.plot(part["distance"], part["loss"], color=CURVES[1][0], lw=2, label="their mean")
    ax.set(yscale="log", xlabel=f"displacement along $p_{{{mode}}}$", ylabel="loss")
    ax.legend(frameon=False, fontsize=8)
    return ax


def agreement(
    measured: xr.DataArray, predicted: Mapping[str, xr.DataArray], *, ax: Axes | None = None, **points
) -> Axes:
    """Axes with predictions against measurements of the same modes, and the line on which both are equal.

    Parameters
    ----------
    measured : DataArray, dim mode
    predicted : mapping of str to DataArray
        Label → values, dim ``mode``.
    ax : Axes, optional
    **points
        Passed to ``plot``.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for k, (label, values) in enumerate(predicted.items()):
        x, y = xr.align(measured, values, join="inner")
        style = _style(points, ls="", marker=MARKERS[k], ms=4, color=CURVES[k % len(CURVES)][0], label=label)
        ax.plot(x, y, **style)
    ax.set(xscale="log", yscale="log")
    middle = float(measured.median())
    ax.axline((middle, middle), (2 * middle, 2 * middle), color="0.5", lw=0.8)
    ax.set(xlabel="measured", ylabel="predicted")
    _few_ticks(ax.xaxis, ax.yaxis)
    if len(predicted) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def temperatures(result: xr.Dataset, *, ax: Axes | None = None, **line) -> Axes:
    """Axes with active temperatures T_i(x) against the displacement (PNAS Fig. 5A).

    Parameters
    ----------
    result : Dataset
        From :func:`nets.measure.temperature.active_temperature`.
    ax : Axes, optional
    **line

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for k, mode in enumerate(result["mode"].to_numpy()):
        colour, dash = CURVES[k % len(CURVES)]
        part = result.sel(mode=mode)
        style: dict = {"color": colour, "ls": dash, "label": f"$i = {mode}$"}
        ax.plot(part["distance"], part["temperature"], **(style | line))
    ax.set(yscale="log", xlabel="displacement along $p_i$", ylabel="active temperature $T_i$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def loss_history(
    history: xr.DataArray, *, windows: Sequence[tuple[float, float]] = (), ax: Axes | None = None
) -> Axes:
    """Axes with the loss against the epoch, and the windows that were analysed.

    Parameters
    ----------
    history : DataArray, dim epoch
    windows : sequence of (float, float)
        First and last epoch of each.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    ax.plot(history["epoch"], history, color=CURVES[0][0])
    for k, (start, end) in enumerate(windows):
        ax.axvspan(start, end, color=CURVES[1 + k % 2][0], alpha=0.2, lw=0, label=f"window {k + 1}")
    ax.set(yscale="log", xlabel="epoch", ylabel="training loss")
    if windows:
        ax.legend(frameon=False, fontsize=8)
    return ax


def controls(row: Row, *, ax: Axes | None = None) -> Axes:
    """Axes with one exponent in every case, its intervals, and the paper's range.

    Parameters
    ----------
    row : Row
        From :func:`notebooks.studies.variance_flatness.claims.verdict`.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    cases = list(row.measured)
    for k, case in enumerate(cases):
        e = row.measured[case]
        colour = CURVES[1][0] if case == cases[0] else CURVES[0][0]
        ax.plot([e.low, e.high], [k, k], color=colour, lw=1.5)
        ax.plot(e.value, k, "o", color=colour, ms=5)
    ax.axvspan(row.paper_low, row.paper_high, color="0.85", lw=0, zorder=0)
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set_yticks(range(len(cases)), cases, fontsize=8)
    ax.set_ylim(len(cases) - 0.5, -0.5)
    # An exponent without any correlation behind it has an interval that hides the others.
    known = [e for e in row.measured.values() if e.high - e.low < 4]
    low = min([row.paper_low, 0.0, *(e.low for e in known)])
    high = max([row.paper_high, *(e.high for e in known)])
    ax.set_xlim(low - 0.3, high + 0.3)
    names = {"psi": "\\psi", "psi_D": "\\psi_D", "psi_tau": "\\psi_\\tau", "gamma": "\\gamma"}
    ax.set(xlabel=f"${names[row.quantity]}$ (grey: the paper)" if row.quantity in names else row.quantity)
    return ax


def experiments(
    table: xr.Dataset,
    quantity: str,
    *,
    cases: Sequence[str] = ("same window", "next window"),
    paper: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Axes with one exponent of every experiment, its intervals, and the paper's range.

    Parameters
    ----------
    table : Dataset
        From :func:`notebooks.studies.variance_flatness.tables.table`; experiments that were not run are
        left out.
    quantity : str
        Such as "psi".
    cases : sequence of str
    paper : (float, float), optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    run = table.isel(experiment=np.flatnonzero(table["seeds"] > 0))
    place = np.arange(run.sizes["experiment"])
    for k, case in enumerate(case for case in cases if case in run["case"]):
        part, colour = run.sel(case=case), CURVES[k % len(CURVES)][0]
        y = place + 0.16 * (2 * k - len(cases) + 1)
        ax.hlines(y, part[f"{quantity}_low"], part[f"{quantity}_high"], color=colour, lw=1.3)
        ax.plot(part[quantity], y, MARKERS[k % len(MARKERS)], color=colour, ms=4, label=case)
    if paper is not None:
        ax.axvspan(*paper, color="0.85", lw=0, zorder=0, label="the paper")
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set_yticks(place, run["experiment"].to_numpy(), fontsize=8)
    ax.set_ylim(len(place) - 0.5, -0.5)
    # Few seeds can have intervals so wide that nothing else is seen: the axis follows the values.
    values = run[quantity].sel(case=[c for c in cases if c in run["case"]])
    ends = [float(values.min()), float(values.max()), 0.0, *(paper or ())]
    ax.set_xlim(min(ends) - 1.0, max(ends) + 1.0)
    names = {"psi": "$\\psi$", "psi_D": "$\\psi_D$", "psi_tau": "$\\psi_\\tau$", "gamma": "$\\gamma$"}
    ax.set_xlabel(names.get(quantity, quantity))
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def against_setting(
    table: xr.Dataset,
    setting: str,
    groups: Mapping[str, Sequence[str]],
    *,
    quantity: str = "psi",
    cases: Sequence[str] = ("same window", "next window"),
    ax: Axes | None = None,
) -> Axes:
    """Axes with an exponent against learning rate or batch size, for groups of experiments (PNAS Fig. 2D).

    Parameters
    ----------
    table : Dataset
        From :func:`notebooks.studies.variance_flatness.tables.table`; experiments that were not run are
        left out.
    setting : {"learning_rate", "batch_size"}
    groups : mapping of str to sequence of str
        Label → experiments, such as those at equal epochs and those at equal loss.
    quantity : str
    cases : sequence of str
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for g, (label, names) in enumerate(groups.items()):
        for k, case in enumerate(case for case in cases if case in table["case"]):
            part = table.sel(case=case, experiment=list(names)).sortby(setting)
            part = part.isel(experiment=np.flatnonzero(part["seeds"] > 0))
            value = part[quantity].to_numpy()
            # Groups side by side, not on top of each other.
            x = part[setting].to_numpy() * 1.05 ** (g - (len(groups) - 1) / 2)
            sides = np.abs(np.stack([part[f"{quantity}_low"], part[f"{quantity}_high"]]) - value)
            ax.errorbar(
                x, value, sides, color=CURVES[k % len(CURVES)][0], marker=MARKERS[g % len(MARKERS)], ms=5,
                ls=("-", "--", ":")[g % 3], lw=1, capsize=2, mfc=None if g == 0 else "w",
                label=f"{case}, {label}",
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
    """Axes with F by rank for nets of several widths, the geometric mean over seeds (PNAS Fig. 6A).

    Parameters
    ----------
    result : Dataset
        From :func:`notebooks.studies.variance_flatness.dimension.against_width`.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    rank = np.arange(1, result.sizes["rank"] + 1)
    for k, H in enumerate(result["hidden_width"].to_numpy()):
        widths = result["width"].sel(hidden_width=H).transpose("seed", "rank").to_numpy()
        F = np.exp(np.log(widths).mean(0))
        colour, dash = CURVES[k % len(CURVES)]
        ax.plot(rank, F, color=colour, ls=dash, label=f"$H = {H}$")
    ax.axhline(result.attrs["common_threshold"], color="0.4", lw=0.9, ls=":", label="one threshold")
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="flatness $F$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def dimensions(result: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with effective dimensions against the number of weights, with intervals over seeds (PNAS Fig. 6B).

    Parameters
    ----------
    result : Dataset
        From :func:`notebooks.studies.variance_flatness.dimension.against_width`.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    N = result["hidden_width"].to_numpy() ** 2
    labels = {
        "sharp": "$D_s$", "sharp_common": "$D_s$, one threshold", "learning_99": "$D_l$, 99 %",
        "learning_999": "$D_l$, 99.9 %",
    }  # fmt: skip
    for k, (name, label) in enumerate(labels.items()):
        mean = result[f"{name}_mean"].to_numpy()
        sides = np.stack([mean - result[f"{name}_low"], result[f"{name}_high"] - mean])
        colour, dash = CURVES[k % len(CURVES)]
        ax.errorbar(N, mean, sides, color=colour, ls=dash, marker=MARKERS[k], ms=4, capsize=2, label=label)
    bound = (result["sharp_at_most"] > result["sharp"]).any("seed").to_numpy()
    if bound.any():
        ax.plot(
            N[bound], result["sharp_at_most"].mean("seed")[bound], "^", mfc="none", color=CURVES[0][0],
            label="$D_s$ at most",
        )  # fmt: skip
    ax.plot(N, N, color="0.6", ls=":", lw=1, label="all weights")
    ax.set(xscale="log", yscale="log", xlabel="weights $N_p = H^2$", ylabel="effective dimension")
    ax.legend(frameon=False, fontsize=8)
    return ax
