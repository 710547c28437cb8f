"""Figures of gradient noise, curvature and flatness. Further keywords go to ``plot``, ``errorbar`` or
``stairs``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fpsolve.laws import law_density
from fpsolve.style import axes, band, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def noise_against_curvature(results: Mapping[str, xr.Dataset], *, ax: Axes | None = None, **points) -> Axes:
    """Axes with Ĉ_ii·B against Ĥ_ii in H's eigenbasis, with the lines C·B = H and C ∝ H².

    ``results`` maps labels to results of :func:`nets.measure.overlaps.noise_alignment`.
    """
    ax, largest = axes(ax), 0.0
    for k, (label, result) in enumerate(results.items()):
        x = result["eigenvalue"].to_numpy()
        y = result["diagonal"].sel(matrix="noise").to_numpy()
        shown = (x > 1e-6 * x.max()) & (y > 0)
        style: dict = {"ls": "", "marker": ".", "ms": 3, "color": curve(k)[0], "label": label}
        ax.plot(x[shown], y[shown], **(style | points))
        largest = max(largest, float(x.max()))
    line = np.array([1e-5, 1.0]) * largest
    ax.plot(line, line, color="0.4", lw=1, label="$C B = H$")
    ax.plot(largest * np.array([10**-2.5, 1]), line, ":", color="0.4", lw=1, label="$C \\propto H^2$")
    ax.set(xscale="log", yscale="log", xlabel="$\\hat H_{ii}$", ylabel="$B\\,\\hat C_{ii}$")
    return ax


def spectrum(density: xr.DataArray, *, ax: Axes | None = None, **line) -> Axes:
    """Axes with a :func:`nets.measure.curvature.spectral_density` on a logarithmic scale."""
    ax = axes(ax)
    ax.plot(density["eigenvalue"], np.maximum(density, 1e-12), **line)
    scale = "log" if density.attrs.get("scale") == "log" else "linear"
    ax.set(xscale=scale, yscale="log", xlabel="eigenvalue $\\lambda$ of $H$", ylabel="density")
    return ax


def along_training(
    summary: xr.Dataset, name: str, *, over: str = "epoch", ax: Axes | None = None, **line
) -> Axes:
    """Axes with a number of :func:`fpsolve.statistics.over_trainings` along its dim ``over``, and a band."""
    ax, x = axes(ax), summary[over]
    style: dict = {"marker": "o", "ms": 3} | line
    band(ax, x, summary, name, **style)
    ax.set(xlabel=str(x.attrs.get("long_name", over)), ylabel=str(summary[name].attrs.get("long_name", name)))
    return ax


def with_intervals(
    x: Sequence[float], summaries: Sequence[xr.Dataset], name: str, *, ax: Axes | None = None, **style
) -> Axes:
    """Axes with the scalar ``name`` of a summary for each x, with ``_low`` and ``_high`` as error bars."""
    ax = axes(ax)
    middle, low, high = (np.array([float(s[name + end]) for s in summaries]) for end in ("", "_low", "_high"))
    ax.errorbar(x, middle, [middle - low, high - middle], **({"capsize": 2} | style))
    ax.set(ylabel=str(summaries[0][name].attrs.get("long_name", name)))
    return ax


def histogram(samples: Mapping[str, np.ndarray], *, bins: int = 40, ax: Axes | None = None, **step) -> Axes:
    """Axes with histograms of several samples on common bins, as densities."""
    ax = axes(ax)
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(v) for v in samples.values()]), bins)
    for k, (label, values) in enumerate(samples.items()):
        style = dict(zip(("color", "ls"), curve(k), strict=True)) | {"label": label} | step
        ax.stairs(np.histogram(values, edges, density=True)[0], edges, **style)
    ax.set(ylabel="density")
    return ax


def component_laws(
    components: np.ndarray, fit: xr.Dataset, *, bins: int = 40, ax: Axes | None = None
) -> Axes:
    """Axes with the density of |components| and those of the Gaussian and the stable law fitted to them.

    ``components`` are such as the noise of one minibatch, one for each weight; ``fit`` is from
    :func:`fpsolve.laws.law_fits`. The ``bins`` have one width in the logarithm.
    """
    ax, sizes = axes(ax), np.abs(np.ravel(components))
    alpha, scale = float(fit["alpha"]), float(fit["scale"])
    edges = np.geomspace(0.03 * scale, 1.01 * sizes.max(), bins + 1)
    colour, gauss, stable = (curve(k)[0] for k in range(3))
    found = np.histogram(sizes, edges)[0] / (len(sizes) * np.diff(edges))
    ax.stairs(found, edges, color=colour, label="noise")
    normal = 2 * law_density(edges, alpha=2.0, scale=float(np.std(components)) / np.sqrt(2))
    ax.plot(edges, normal, "--", color=gauss, label="Gaussian fit")
    heavy = 2 * law_density(edges, alpha=alpha, scale=scale)
    ax.plot(edges, heavy, ":", color=stable, label=f"stable fit, α = {alpha:.2f}")
    lowest = 0.5 / (len(sizes) * np.diff(edges)[-1])
    ax.set(xscale="log", yscale="log", ylabel="density", ylim=(lowest, None))
    return ax
