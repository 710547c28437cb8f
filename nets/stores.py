"""Results that take long are kept in files: computed once, read afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import xarray as xr


def kept(path: str | os.PathLike[str] | None, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The result in a file if it is there; else it is computed, and written.

    Parameters
    ----------
    path : path or None
        A netCDF file; its folder is made. Without one the result is computed each time.
    compute : callable
        Takes nothing and gives the result.

    Returns
    -------
    Dataset
        With the processor time its computation took in ``attrs["cpu_seconds"]``, be it now or then.

    Notes
    -----
    A file is written beside its place and then moved there, so that a killed run leaves a whole one or none.
    It is not asked whether the file comes from the same computation: give each its own name.
    """
    place = None if path is None else Path(path)
    if place is not None and place.exists():
        return xr.load_dataset(place)
    began = time.process_time()
    result = compute()
    result = result.assign_attrs(cpu_seconds=time.process_time() - began)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        result.to_netcdf(unfinished)
        unfinished.replace(place)
    return result
