"""Figures of phases: maps over (σ, η) with borders, trajectories, the transition, critical behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve import style
from fpsolve.statistics import PowerLaw
from fpsolve.style import palette
from theory.evaluate import lambdified
from theory.landscape import Landscape
from theory.valley.borders import flattest_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour and dash of each border; what simulation follows is solid.
BORDERS = {
    "leading": (palette["vermilion"], ":"),
    "ito_prefactor": (palette["pink"], "-."),
    "second_order": (palette["green"], "--"),
    "finite_step": (palette["black"], "-"),
    "finite_step_second_order": (palette["sky"], (0, (4, 1, 1, 1))),
    "kappa_at_zero": ("#7F3C8D", (0, (1, 1))),
    "lifetime": (palette["blue"], "-"),
}
_DIVERGED = "0.72"
_TRACES = (("vermilion", "-"), ("blue", "--"), ("green", "-."), ("pink", ":"))


def phase_map(
    diagram: xr.Dataset,
    quantity: str = "flatness",
    *,
    borders: xr.Dataset | None = None,
    names: Sequence[str] = ("leading", "ito_prefactor", "finite_step", "kappa_at_zero", "lifetime"),
    ax: Axes | None = None,
) -> Axes:
    """Axes with one quantity over (σ, η); phase III is grey, cells that have not settled carry a dot.

    ``diagram`` is from :func:`fpsolve.phases.phase_diagram`, and ``quantity`` any of its variables; times are
    drawn on a logarithmic scale. Of ``borders``, from :func:`fpsolve.phases.boundaries`, those in ``names``
    are drawn.
    """
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patches import Patch

    ax = style.axes(ax)
    diagram = diagram.transpose("learning_rate", "sigma", ...)
    values, phase = diagram[quantity], diagram.phase.to_numpy()
    name, norm = values.attrs["long_name"], None
    if values.attrs.get("units") == "time":
        values = values.clip(min=diagram.learning_rate)  # not below one iteration
        name, norm = f"{name} (time $= \\eta\\,\\times$ iterations)", LogNorm()
    edges = [_edges(diagram[name].to_numpy()) for name in ("sigma", "learning_rate")]
    masked = np.ma.masked_invalid(values.to_numpy())
    image = ax.pcolormesh(*edges, masked, cmap="viridis", norm=norm, rasterized=True)
    grey = np.ma.masked_where(phase != 3, np.ones_like(phase, float))
    ax.pcolormesh(*edges, grey, cmap=ListedColormap([_DIVERGED]), rasterized=True)
    ax.figure.colorbar(image, ax=ax).set_label(name)
    eta, sigma = np.meshgrid(diagram.learning_rate, diagram.sigma, indexing="ij")
    waiting = (diagram.settled.to_numpy() == 0) & (phase != 3)
    ax.plot(sigma[waiting], eta[waiting], ".", color="white", ms=2.5)
    ax.set(xscale="log", yscale="log", xlabel=r"noise strength $\sigma$", ylabel=r"learning rate $\eta$")
    ax.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    for number, numeral in ((1, "I"), (2, "II"), (3, "III")):
        if (phase == number).any():
            x, y = (np.exp(np.log(v[phase == number]).mean()) for v in (sigma, eta))
            ax.text(x, y, numeral, color="black" if number == 3 else "white", fontsize=13, weight="bold")
    handles = [Patch(color=_DIVERGED, label="III: half diverged")] if (phase == 3).any() else []
    if borders is not None:
        handles += _draw_borders(ax, borders, names)
    ax.legend(
        handles=handles, frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16)
    )
    return ax


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells whose centres are even in logarithm, or nearly."""
    logs = np.log(centres)
    half = (np.diff(logs) if len(logs) > 1 else np.array([1.0])) / 2
    return np.exp(np.concatenate([[logs[0] - half[0]], logs[:-1] + half, [logs[-1] + half[-1]]]))


def _draw_borders(ax: Axes, borders: xr.Dataset, names: Sequence[str]) -> list:
    """Lines σ(η), and their handles."""
    eta = borders.learning_rate
    lines = [(borders[n].where(borders[n] > 0), eta, borders[n], *BORDERS[n]) for n in names]
    if "kappa_at_zero" in names:
        eta = borders.density_learning_rate
        lines.append((borders.delta_s / eta, eta, eta, palette["orange"], "--"))
    return [
        ax.plot(sigma, eta, color=colour, ls=dashes, lw=1.6, label=named.attrs["long_name"])[0]
        for sigma, eta, named, colour, dashes in lines
    ]


def transition(simulated: xr.Dataset, borders: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Axes with the simulated border of phases I and II as ησ*, beside every formula for it.

    The two Datasets are from :func:`fpsolve.phases.transition` and :func:`fpsolve.phases.boundaries`.
    """
    ax = style.axes(ax)
    for name in ("leading", "ito_prefactor", "second_order", "finite_step", "finite_step_second_order"):
        colour, dashes = BORDERS[name]
        label = borders[name].attrs["long_name"]
        noise = borders[name] * borders.learning_rate * 1e4
        ax.plot(borders.learning_rate, noise, color=colour, ls=dashes, label=label)
    eta = simulated.learning_rate
    low, high = (simulated[f"sigma_star_{end}"] for end in ("low", "high"))
    centre = simulated.sigma_star * eta * 1e4
    spread = [centre - low * eta * 1e4, high * eta * 1e4 - centre]
    ax.errorbar(eta, centre, spread, fmt="o", color=palette["blue"], ms=5, capsize=3, label="simulated, 95 %")
    ax.set(xlabel=r"learning rate $\eta$", ylabel=r"$\Delta_S^* = \eta\sigma^*$  ($10^{-4}$)")
    ax.legend(frameon=False, fontsize=8)
    return ax


def trajectories(
    paths: Mapping[str, xr.Dataset], landscape: Landscape, *, axes: Sequence[Axes]
) -> Sequence[Axes]:
    """Two axes: paths on the landscape, and the slow variable against iterations.

    ``paths`` maps labels to Datasets of :func:`fpsolve.simulate` with ``save_every`` and dt = η; the first
    walker is drawn. The landscape has one slow and one fast variable.
    """
    slow, fast = map(str, (*landscape.slow, *landscape.fast))
    reach = 1.15 * max(float(np.abs(p.path.isel(walker=0)).max()) for p in paths.values())
    grid = np.linspace(-reach, reach, 201)
    loss = lambdified(landscape.loss, (*landscape.slow, *landscape.fast))(*np.meshgrid(grid, grid))
    logarithm = np.log10(np.maximum(loss, 1e-6))
    image = axes[0].contourf(grid, grid, logarithm, levels=15, cmap="Greys_r", alpha=0.6)
    axes[0].figure.colorbar(image, ax=axes[0]).set_label(r"$\log_{10} L$")
    flattest = flattest_point(landscape)
    axes[0].plot(
        [-flattest, flattest], [0, 0], "x", color=palette["yellow"], mew=2, ms=8, zorder=5, label="flattest"
    )
    axes[0].plot(0, 0, "o", color="#CC0000", ms=5, zorder=5, label="minimum")
    corners = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    for k, (label, run) in enumerate(paths.items()):
        (colour, dashes), (a, b) = _TRACES[k % len(_TRACES)], corners[k % len(corners)]
        path = run.path.isel(walker=0)
        x, y = path.sel(variable=slow), path.sel(variable=fast)
        axes[0].plot(a * x, b * y, color=palette[colour], ls=dashes, lw=1)
        axes[0].plot(a * x[0], b * y[0], "o", color=palette[colour], ms=5)
        iterations = np.maximum(run.time / run.attrs["time_step"], 1)
        axes[1].plot(iterations, x, color=palette[colour], ls=dashes, lw=1.2, label=label)
    axes[0].set(xlabel=f"${slow}$", ylabel=f"${fast}$", title="starts drawn in mirrored corners")
    axes[1].set(xscale="log", xlabel="iterations $t$", ylabel=f"${slow}_t$")
    axes[0].legend(fontsize=7, loc="lower right")
    axes[1].legend(frameon=False, fontsize=8)
    return axes


def critical(
    x: np.ndarray,
    y: np.ndarray,
    *,
    stderr: np.ndarray | None = None,
    fits: Sequence[PowerLaw] = (),
    theory: tuple[np.ndarray, np.ndarray] | None = None,
    stopped: np.ndarray | None = None,
    labels: tuple[str, str] = ("", ""),
    ax: Axes | None = None,
) -> Axes:
    """Axes with a quantity against noise near the transition, its fitted power laws and a theory's line.

    ``x``, ``y`` and ``stderr``, shape (n,), are noise, quantity and its standard error. Each of ``fits`` is
    drawn on its side of its origin, over the points there. ``theory`` is the x and y of a line to compare
    with. Points that are ``stopped`` (bool, shape (n,)) are lower bounds, drawn as arrows.
    """
    ax = style.axes(ax)
    bound = np.zeros(len(x), bool) if stopped is None else np.asarray(stopped, bool)
    error = None if stderr is None else 1.96 * np.asarray(stderr)[~bound]
    ax.errorbar(x[~bound], y[~bound], error, fmt="o", color=palette["blue"], ms=4, label="simulated, 95 %")
    if bound.any():
        ax.plot(x[bound], y[bound], "^", color=palette["blue"], ms=5, mfc="none", label="lower bound")
    if theory is not None:
        ax.plot(*theory, color=palette["vermilion"], lw=1.3, label="reduced theory")
    for k, fit in enumerate(fits):
        line = np.linspace(*fit.span, 200)
        ax.plot(line, fit(line), color="black", ls=("--", ":")[k % 2], label=f"fit: exponent {fit}")
    for origin in {fit.origin for fit in fits}:
        ax.axvline(origin, color="0.6", lw=0.8)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.legend(frameon=False, fontsize=7)
    return ax
