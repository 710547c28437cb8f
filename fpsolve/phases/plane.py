"""Runs of SGD over the (σ, η) plane: what every phase diagram shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.sweeps.runner import sweep
from theory.landscape import Landscape

#: A number of one run: no dims, its value, long name and units.
Number: TypeAlias = tuple[tuple[()], float, dict[str, str]]


def number(value: float, long_name: str, units: str = "1") -> Number:
    """A number of one run, as a sweep takes it."""
    return (), value, {"long_name": long_name, "units": units}


def with_error(name: str, value: float, error: float, long_name: str, units: str = "1") -> dict[str, Number]:
    """A number of one run and its standard error, named ``name`` and ``name_stderr``."""
    words = f"standard error of {name}"
    return {name: number(value, long_name, units), f"{name}_stderr": number(error, words, units)}


def outcome(*, lost: int, settled: bool, phase: int, phases: str) -> dict[str, Number]:
    """Diverged walkers of a run, whether its halves agree, and its phase, which ``phases`` explains."""
    return {
        "diverged": number(lost, "diverged walkers"),
        "settled": number(int(settled), "1 if the halves of the run agree"),
        "phase": number(phase, phases),
    }


def over_plane(
    point: Callable[..., Mapping[str, object]],
    landscape: Landscape,
    grid: Mapping[str, ArrayLike],
    run: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    title: str,
) -> xr.Dataset:
    """``point`` at every (σ, η) of the grid; ``options`` are those of :func:`fpsolve.sweep`.

    ``run`` fixes keywords of ``point``: it holds ``walkers``, ``time``, ``burn_in`` and ``start``. A
    ValueError names a σ or η that is not positive, and a burn-in that is not shorter than the time.
    """
    check_positive(**grid)
    fixed = {name: kind(run[name]) for name, kind in (("walkers", int), ("time", float), ("burn_in", float))}
    if not 0 <= fixed["burn_in"] < fixed["time"]:
        raise ValueError(f"burn_in={run['burn_in']:g} must be at least 0 and below time={run['time']:g}")
    start = tuple(map(float, run["start"]))
    each = partial(point, landscape=landscape, **{**run, **fixed, "start": start})
    return sweep(each, grid, **options).assign_attrs(title=f"{title} of SGD on {landscape.name}", **fixed)


def check_positive(**values: ArrayLike) -> None:
    """Raise ValueError unless every value is a list of positive numbers."""
    for name, given in values.items():
        numbers = np.array(given, float)
        if numbers.ndim != 1 or not numbers.size or not (np.isfinite(numbers) & (numbers > 0)).all():
            raise ValueError(f"{name}={given!r} must be a list of positive numbers")
