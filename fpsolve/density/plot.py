"""Figures of densities and comparisons. They draw data they are given and return what they drew on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve.density.moments import marginal_values
from fpsolve.density.spectral import marginal as spectral_marginal
from fpsolve.style import CURVES, axes, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fpsolve.table import Table
    from theory.valley.reduced import Reduced

#: Colour of each family of methods; told apart in grey print as well.
INK = {
    "density": palette["blue"],
    "spectral": palette["black"],
    "ensemble": palette["orange"],
    "theory": palette["vermilion"],
}
#: Dash of each order of the reduced theory.
ORDER_STYLES = {0: ":", 1: "--", 2: "-"}
#: Colours and dashes of a loss after reshaping: never solid, the first dash-dotted as in PRL Fig. 4.
RESHAPED = (
    (palette["vermilion"], "-."),
    (palette["blue"], "--"),
    (palette["green"], ":"),
    (palette["pink"], (0, (5, 1, 1, 1, 1, 1))),
)


def density(density: xr.DataArray, *, ax: Axes | None = None, decades: float = 6.0, **mesh) -> Axes:
    """Axes with a probability density: a curve in one dimension, a map of log₁₀ P in two.

    The map reaches ``decades`` below its maximum. ``mesh`` is passed to ``plot`` or ``pcolormesh``. Another
    field, such as a committor, is drawn as it is, under its own ``long_name``. A ValueError if there are more
    than two dims: take a marginal first.
    """
    ax = axes(ax)
    said = str(density.attrs.get("long_name", density.name or "density"))
    is_density = "density" in said
    if density.ndim == 1:
        (name,) = map(str, density.dims)
        ax.plot(density[name], density, **({"color": INK["density"]} | mesh))
        ax.set(xlabel=_axis_label(density, name), ylabel=f"$p({name})$" if is_density else said)
        return ax
    if density.ndim != 2:
        raise ValueError(f"cannot draw a density with dims {density.dims}; use fpsolve.plot.marginal")
    first, second = map(str, density.dims)
    shown = _thinned(density)
    floor = float(shown.max()) * 10.0**-decades
    drawn = np.log10(np.maximum(shown, floor)) if is_density else shown
    options: dict = {"shading": "auto", "cmap": "cividis", "rasterized": True} | mesh
    image = ax.pcolormesh(shown[first], shown[second], drawn.T, **options)
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(f"$\\log_{{10}} P({first}, {second})$" if is_density else said)
    ax.set(xlabel=_axis_label(density, first), ylabel=_axis_label(density, second))
    return ax


def _thinned(density: xr.DataArray, most: int = 600) -> xr.DataArray:
    """Every k-th cell, so that a figure holds no more cells than pixels."""
    return density.isel({d: slice(None, None, max(1, -(-n // most))) for d, n in density.sizes.items()})


def _axis_label(density: xr.DataArray, name: str) -> str:
    """A variable in mathematics, with its unit."""
    unit = str(density[name].attrs.get("units", "1"))
    return f"${name}$" if unit == "1" else f"${name}$ ({unit})"


def marginal(density: xr.DataArray, name: str, *, ax: Axes | None = None, **line) -> Axes:
    """Axes with the marginal density of one variable, as :func:`marginal_values` gives it.

    ``line`` is passed to ``plot``.
    """
    ax = axes(ax)
    line_values, values = marginal_values(density, name)
    ax.plot(line_values, values, **({"color": INK["density"]} | line))
    ax.set(xlabel=_axis_label(density, name), ylabel=f"$p({name})$")
    return ax


def landscape(
    points: np.ndarray,
    before: np.ndarray,
    after: Mapping[str, np.ndarray],
    *,
    variable: str = "x",
    ax: Axes | None = None,
) -> Axes:
    """Axes with the loss along a valley: solid before the noise reshapes it, broken lines after.

    ``points`` are places along the valley, ``before`` is L on the valley's floor and ``after`` L_eff there by
    label, each of shape (n,).
    """
    ax = axes(ax)
    ax.plot(points, before, color="black", lw=1.8, label="before")
    _draw_curves(ax, points, after, variable, RESHAPED)
    ax.set(ylabel="loss on the valley floor")
    ax.legend(frameon=False, fontsize=8)
    return ax


def profiles(
    points: np.ndarray, curves: Mapping[str, np.ndarray], *, variable: str = "x", ax: Axes | None = None
) -> Axes:
    """Axes with functions of one variable, told apart by colour and by dash.

    ``points`` has shape (n,), and so has each of the ``curves`` by label.
    """
    ax = axes(ax)
    _draw_curves(ax, points, curves, variable, CURVES)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def _draw_curves(ax: Axes, points: np.ndarray, curves: Mapping, variable: str, looks: Sequence) -> None:
    """Curves over the whole width of the axes; ``looks`` are colours and dashes, which begin again."""
    for (label, values), (colour, dashes) in zip(curves.items(), cycle(looks), strict=False):
        ax.plot(points, values, color=colour, ls=dashes, lw=1.6, label=label)
    ax.set(xlabel=f"${variable}$", xlim=(points[0], points[-1]))


def stationary(
    density_map: xr.DataArray,
    *,
    referee: xr.DataArray | None = None,
    ensemble: xr.Dataset | None = None,
    reduced: Sequence[Reduced] = (),
    table: Table | None = None,
    slow: str | None = None,
) -> Figure:
    """Figure of the main job: the density, its slow marginal by every method, and the deviations.

    ``density_map`` is the finite-volume density, ``referee`` the spectral one. ``ensemble`` is a simulation
    with ``bins`` in the slow variable. ``reduced`` holds reduced densities of any order. ``table``, from
    :func:`fpsolve.compare.stationary`, is drawn as deviations with error bars. ``slow`` names the variable of
    the marginal, by default the first.
    """
    import matplotlib.pyplot as plt

    slow = slow or str(density_map.dims[0])
    columns = 1 + (density_map.ndim == 2) + (table is not None)
    figure, drawn = plt.subplots(
        1, columns, figsize=(4.6 * columns, 4.4), layout="constrained", squeeze=False
    )
    panels = iter(drawn[0])
    if density_map.ndim == 2:
        shown = density(density_map, ax=next(panels))
        shown.set_title(f"{density_map.attrs.get('method', '')} density".strip())
    _draw_marginals(next(panels), density_map, referee, ensemble, reduced, slow)
    if table is not None:
        deviations(table, ax=next(panels))
    return figure


def _draw_marginals(ax, density_map, referee, ensemble, reduced, slow) -> None:
    """The slow marginal by every method; of |v| where both halves mirror each other."""
    line, values = marginal_values(density_map, slow)
    folded = f"{slow} -> -{slow}" in str(density_map.attrs.get("symmetry", ""))
    factor = 2.0 if folded else 1.0
    if folded:
        line, values = line[line > 0], factor * values[line > 0]
    shown = values > 1e-4 * values.max()
    line, values = line[shown], values[shown]
    if ensemble is not None and "density" in ensemble:
        edges, heights = _histogram(ensemble, slow, folded)
        label = f"ensemble, dt = {float(ensemble.attrs['time_step']):g}"
        ax.stairs(heights, edges, color=INK["ensemble"], fill=True, alpha=0.4, label=label)
    for item in reduced:
        dashes, label = ORDER_STYLES[item.order], f"theory, order {item.order}"
        ax.plot(line, factor * item.density(line), color=INK["theory"], ls=dashes, lw=1.3, label=label)
    if referee is not None:
        exact = factor * spectral_marginal(referee, slow, line)
        ax.plot(line, exact, color=INK["spectral"], lw=4, alpha=0.25, label="spectral")
    ax.plot(line, values, color=INK["density"], lw=1.4, label="finite volumes")
    name = f"|{slow}|" if folded else slow
    ax.set(xlim=(line[0], line[-1]), xlabel=f"${name}$", ylabel=f"$p({name})$", title="marginal density")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _histogram(ensemble: xr.Dataset, slow: str, folded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edges and heights of the slow histogram, other bins summed; of |v| if folded and symmetric."""
    histogram = ensemble["density"]
    for d in [str(d) for d in histogram.dims if d != f"{slow}_bin"]:
        width = np.diff(ensemble[f"{d.removesuffix('_bin')}_edges"].to_numpy())
        histogram = (histogram * xr.DataArray(width, dims=d)).sum(d)
    edges, heights = ensemble[f"{slow}_edges"].to_numpy(), histogram.to_numpy()
    half = len(heights) // 2
    if folded and len(heights) % 2 == 0 and np.allclose(edges, -edges[::-1]):
        return edges[half:], heights[half:] + heights[:half][::-1]
    return edges, heights


def deviations(table: Table, *, ax: Axes | None = None) -> Axes:
    """Axes with |relative deviation| of every number from the reference; a dash marks its stated error.

    The table is from :func:`fpsolve.compare.stationary`. A marker above its dash deviates by more than the
    stated error. Colours are those of the marginal, one for each family, with a marker for each member.
    Deviations below 10⁻⁷ are drawn at the lower edge.
    """
    ax = axes(ax)
    # A family is the word before the comma; its members stand side by side
    known = {"finite-volume": "density", "chain": "density", "spectral": "spectral", "ensemble": "ensemble"}
    family = {row.method: known.get(row.method.split(",")[0], "theory") for row in table.rows}
    methods = sorted((m for m in family if m != table.reference), key=lambda m: [*INK].index(family[m]))
    quantities = list(dict.fromkeys(row.quantity for row in table.rows))
    spacing = 0.8 / max(len(methods), 1)
    floor = 1e-7
    for k, method in enumerate(methods):
        rows = [row for row in table.rows if row.method == method]
        offset = spacing * (k - (len(methods) - 1) / 2)
        at = [quantities.index(row.quantity) + offset for row in rows]
        colour, marker = INK[family[method]], "osD^vP*X"[k % 8]
        size = [max(abs(row.deviation), floor) for row in rows]
        error = [max(row.relative_error, floor) for row in rows]
        ax.plot(at, size, marker, color=colour, ms=5, label=method, clip_on=False, zorder=3)
        ax.plot(at, error, "_", color=colour, ms=8, mew=1.6)
    for k in range(1, len(quantities)):
        ax.axvline(k - 0.5, color="0.85", lw=0.8)
    ax.set_yscale("log")
    ax.set_xticks(range(len(quantities)), [_mathematics(q) for q in quantities])
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.5, len(quantities) - 0.5), ylim=(floor, max(2.0, ax.get_ylim()[1])))
    ax.set(ylabel=f"relative deviation from {table.reference}", title="every number (dash: stated error)")
    ax.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    ax.grid(axis="y", alpha=0.3)
    return ax


def _mathematics(quantity: str) -> str:
    """The name of a quantity, such as "<x^2>", as mathematics."""
    text = quantity.replace("<", r"\langle ").replace(">", r" \rangle").replace("std", r"\mathrm{std}")
    return f"${text}$"
