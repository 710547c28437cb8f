"""Numbers with their intervals as text, and as tables of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import xarray as xr

if TYPE_CHECKING:
    import pandas as pd


def with_interval(summary: xr.Dataset, name: str, *, digits: int = 2) -> str:
    """One number and its interval, "0.21 [0.19, 0.22]".

    Parameters
    ----------
    summary : Dataset
        With scalars ``name``, ``name_low``, ``name_high``, as :func:`nets.measure.overlaps.over_seeds`
        gives them.
    name : str
    digits : int
        Significant ones.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is not one number.
    """
    values = [summary[n] for n in (name, f"{name}_low", f"{name}_high")]
    if any(v.ndim for v in values):
        raise ValueError(f"{name} has dims {values[0].dims}: select one place along each")
    value, low, high = (f"{float(v):.{digits}g}" for v in values)
    return f"{value} [{low}, {high}]"


def side_of_zero(summary: xr.Dataset, name: str) -> Literal["above", "below", "neither"]:
    """On which side of 0 an interval lies as a whole.

    Parameters
    ----------
    summary : Dataset
        With scalars ``name_low`` and ``name_high``.
    name : str

    Returns
    -------
    {"above", "below", "neither"}
    """
    low, high = float(summary[f"{name}_low"]), float(summary[f"{name}_high"])
    return "above" if low > 0 else "below" if high < 0 else "neither"


def interval_table(
    summary: xr.Dataset, columns: Mapping[str, str], *, over: str = "epoch", digits: int = 2
) -> pd.DataFrame:
    """Numbers with intervals along one dimension: a row for each place, a column for each number.

    Parameters
    ----------
    summary : Dataset
        Of one dimension; a variable without ``_low`` and ``_high`` is shown without an interval.
    columns : mapping of str to str
        Variable → heading.
    over : str
        The dimension.
    digits : int

    Returns
    -------
    pandas.DataFrame of str
    """
    import pandas as pd

    rows = {}
    for place in summary[over].to_numpy():
        here = summary.sel({over: place})
        rows[place] = {
            heading: with_interval(here, name, digits=digits)
            if f"{name}_low" in here
            else f"{float(here[name]):.{digits}g}"
            for name, heading in columns.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(over)
