"""Results as labelled data: how a number is named, how a dataset is headed, how an interval is written."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve import __version__

Attribute = str | int | float


def quantity(
    values: ArrayLike, dims: str | Sequence[Hashable], long_name: str, units: str = "1", **attrs: object
) -> xr.Variable:
    """Values with their dims, name and unit; one axis for each of ``dims``, () for a number.

    Further ``attrs`` are checked as in :func:`provenance`.
    """
    return xr.Variable(dims, values, {"long_name": long_name, "units": units} | plain(attrs))


def dataset(
    variables: Mapping[str, Any], *, title: str, coords: Mapping[str, Any] | None = None, **attrs: object
) -> xr.Dataset:
    """A Dataset of variables and coordinates, headed by :func:`provenance`; no name may be both."""
    check_names(coords or {}, set(variables))
    return xr.Dataset(variables, coords, provenance(title, **attrs))


def provenance(title: str, **attrs: object) -> dict[str, Attribute]:
    """Attributes of a result: its title, what it depends on, and ``fpsolve_version``.

    Only text, integers and floats can be stored: NumPy scalars and truth values are turned into them, None is
    left out, and anything else is a TypeError that names it.
    """
    return plain({"title": title} | attrs | {"fpsolve_version": __version__})


def plain(attrs: Mapping[str, object]) -> dict[str, Attribute]:
    """The attributes as text, integers and floats; see :func:`provenance`."""
    found: dict[str, Attribute] = {}
    for name, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        if value is None:
            continue
        if not isinstance(value, str | int | float):
            raise TypeError(f"{name}={value!r} must be text or a number to be stored beside a result")
        found[name] = int(value) if isinstance(value, bool) else value
    return found


def check_names(names: Collection[str], reserved: Set[str]) -> None:
    """ValueError if a variable's name is needed for a result."""
    if clash := reserved & set(names):
        raise ValueError(f"rename the variable {min(clash)}: results use that name")


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters of a text, the last three of them dots where some are left out."""
    return text if len(text) <= most else text[: most - 3] + "..."


def interval_text(value: float, low: float, high: float, digits: int = 2, *, form: str = "") -> str:
    """An estimate and its interval, "0.21 [0.19, 0.22]".

    ``digits`` are significant; a format such as ".2f" in ``form`` replaces them.
    """
    mean, lower, upper = (format(float(v), form or f".{digits}g") for v in (value, low, high))
    return f"{mean} [{lower}, {upper}]"


def with_interval(summary: xr.Dataset, name: str, *, digits: int = 2) -> str:
    """:func:`interval_text` of the scalars ``name``, ``name_low`` and ``name_high`` of a summary.

    ``summary`` is as :func:`fpsolve.statistics.over_trainings` gives it. Where it does
    not hold one number, a ValueError names the dims that are left.
    """
    values = [summary[n] for n in (name, f"{name}_low", f"{name}_high")]
    if any(v.ndim for v in values):
        raise ValueError(f"{name} has dims {values[0].dims}: select one place along each")
    value, low, high = map(float, values)
    return interval_text(value, low, high, digits)


def side_of_zero(summary: xr.Dataset, name: str) -> Literal["above", "below", "neither"]:
    """On which side of 0 the interval from the scalars ``name_low`` to ``name_high`` lies as a whole."""
    low, high = float(summary[f"{name}_low"]), float(summary[f"{name}_high"])
    return "above" if low > 0 else "below" if high < 0 else "neither"
