"""Colours, axes and labels of all figures; labels are read from the attributes of the data."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

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
#: Colours and dashes of curves that belong to no method; told apart in grey as well.
CURVES = tuple(
    (palette[colour], dashes)
    for colour, dashes in {"blue": "-", "vermilion": "--", "green": ":", "pink": "-.", "sky": "-"}.items()
)


def curve(k: int) -> tuple[str, str]:
    """Colour and dashes of the k-th curve; after the last of :data:`CURVES` they begin again."""
    return CURVES[k % len(CURVES)]


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


def sides(summary: xr.Dataset, name: str) -> np.ndarray:
    """Lengths of the error bars of ``name``: down to ``name_low`` and up to ``name_high``, shape (2, …)."""
    value, low, high = (summary[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
    return np.stack([value - low, high - value])


def band(ax: Axes, x: ArrayLike, summary: xr.Dataset, name: str, *, shade: float = 0.2, **line) -> None:
    """Draw ``name`` over x as a line, and ``name_low`` to ``name_high`` as a band of its colour."""
    (drawn,) = ax.plot(x, summary[name], **line)
    ends = summary[f"{name}_low"], summary[f"{name}_high"]
    ax.fill_between(x, *ends, color=drawn.get_color(), alpha=shade, lw=0)


def few_ticks(ax: Axes, *, span: float = 30.0) -> None:
    """Ticks at 1, 2, 5 on logarithmic axes that span less than a factor ``span``, else at powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in (axis for axis in (ax.xaxis, ax.yaxis) if axis.get_scale() == "log"):
        low, high = axis.get_view_interval()
        if high < span * low:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axis.set_minor_formatter(NullFormatter())
