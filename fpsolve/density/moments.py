"""Averages ⟨v⟩, ⟨v²⟩, ⟨u v⟩ and marginals of a density on cells or quadrature nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import xarray as xr


def averages(density: xr.DataArray, symmetric: Sequence[str] = ()) -> dict[str, float]:
    """Stationary averages of a density.

    Parameters
    ----------
    density : DataArray
        With a ``cell_volume`` coordinate and unit mass.
    symmetric : sequence of str
        Variables whose mean vanishes by symmetry; for these std(|v|) stands in for std(v).

    Returns
    -------
    dict
        ``"<v>"``, ``"<v^2>"``, ``"std(v)"`` or ``"std(|v|)"``, and ``"<u v>"``.
    """
    weight = density * density.cell_volume
    lines = {str(d): density[d] for d in density.dims}

    def mean(values: xr.DataArray) -> float:
        return float((weight * values).sum())

    numbers: dict[str, float] = {}
    for quantity, (statistic, u, v) in statistics_of(lines, symmetric).items():
        if statistic == "second_moment":
            numbers[quantity] = mean(lines[u] * lines[v])
        elif statistic == "mean":
            numbers[quantity] = mean(lines[u])
        else:
            centre = mean(abs(lines[u]) if statistic == "abs_std" else lines[u])
            numbers[quantity] = math.sqrt(max(mean(lines[u] ** 2) - centre**2, 0.0))
    return numbers


def statistics_of(names: Iterable[str], symmetric: Sequence[str] = ()) -> dict[str, tuple[str, str, str]]:
    """What is averaged of variables: by quantity, such as "<u v>", the statistic of an ensemble, u and v.

    Statistics are ``second_moment`` of u and v, and ``mean`` and ``std`` of u, or ``abs_std`` alone where u
    is symmetric. For those of one variable v is u.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for v in names:
        if v in symmetric:
            found |= {f"<{v}^2>": ("second_moment", v, v), f"std(|{v}|)": ("abs_std", v, v)}
        else:
            found[f"<{v}>"] = ("mean", v, v)
            found |= {f"<{v}^2>": ("second_moment", v, v), f"std({v})": ("std", v, v)}
    pairs = combinations([v for v in names if v not in symmetric], 2)
    return found | {f"<{u} {v}>": ("second_moment", u, v) for u, v in pairs}


def marginal_values(density: xr.DataArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and values of a marginal: the density summed over the other variables' cell widths.

    Parameters
    ----------
    density : DataArray
        On a uniform tensor grid, with the coordinate ``cell_volume``.
    name : str
        The variable v that stays.

    Returns
    -------
    points, values : ndarray, shape (n,)
        v and p(v).
    """
    others = [d for d in density.dims if d != name]
    volume = density.cell_volume
    # The volume is a product of one-dimensional widths; those of ``name`` divide out of the sum.
    widths = volume.sum(others) / float(volume.sum())
    line = density[name].to_numpy()
    mass = (density * volume).sum(others)
    # Length of the interval that uniform cells centred on the line cover.
    span = float((line[-1] - line[0]) * len(line) / (len(line) - 1))
    return line, (mass / (widths * span)).to_numpy()
