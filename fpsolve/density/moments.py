"""Averages ⟨v⟩, ⟨v²⟩, ⟨u v⟩ and marginals of a density on cells or quadrature nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    numbers: dict[str, float] = {}
    for name in map(str, density.dims):
        v = abs(density[name]) if name in symmetric else density[name]
        mean, square = float((weight * v).sum()), float((weight * v**2).sum())
        if name not in symmetric:
            numbers[f"<{name}>"] = mean
        numbers[f"<{name}^2>"] = square
        numbers[spread_name(name, symmetric)] = math.sqrt(max(square - mean**2, 0.0))
    for first, second in combinations(map(str, density.dims), 2):
        if first not in symmetric and second not in symmetric:
            numbers[f"<{first} {second}>"] = float((weight * density[first] * density[second]).sum())
    return numbers


def spread_name(name: str, symmetric: Sequence[str]) -> str:
    """What the width of a variable is called in :func:`averages`."""
    return f"std(|{name}|)" if name in symmetric else f"std({name})"


def marginal_values(density: xr.DataArray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and values of a marginal: the density summed over the other variables' cell widths.

    Parameters
    ----------
    density : DataArray
        On a uniform tensor grid, with the coordinate ``cell_volume``.
    name : str
        The variable that stays.

    Returns
    -------
    tuple of ndarray
        Coordinates and p(v), both of shape (n,).
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
