"""Colours, axes and labels of all figures; labels are read from the attributes of the data."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

#: Eight colours that stay apart for colour-blind readers: Okabe, Ito, Color Universal Design (2008).
palette = MappingProxyType(
    {
        "black": "#000000",
        "blue": "#0072B2",
        "vermilion": "#D55E00",
        "green": "#009E73",
        "pink": "#CC79A7",
        "orange": "#E69F00",
        "sky": "#56B4E9",
        "yellow": "#F0E442",
    }
)


def axes(ax: Axes | None = None) -> Axes:
    """These axes, or pyplot's current ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def label(values: xr.DataArray) -> str:
    """Text for an axis: the values' ``long_name``, else their name; the unit in brackets unless it is 1."""
    name = str(values.attrs.get("long_name", values.name))
    units = str(values.attrs.get("units", "1"))
    return name if units == "1" else f"{name} ({units})"
