"""Results of long work on disk: computed once, found again by whoever asks for the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import xarray as xr

from fpsolve.sweeps.store import checked_store, read_store, write_store


def kept(
    store: str | Path | None,
    compute: Callable[[], xr.Dataset],
    *,
    asked: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """What is in a store, if it answers the same question; else the result of ``compute``, put there.

    Parameters
    ----------
    store : path or None
        ``….nc`` or ``….zarr``; written whole or not at all. None: compute, and keep nothing.
    compute : callable
        Takes nothing and gives the result.
    asked : mapping, optional
        What the result depends on, as JSON knows it; kept in ``attrs["asked"]``. Without it nothing is
        compared: give each result a file of its own.

    Returns
    -------
    Dataset
        In memory; ``attrs["cpu_seconds"]``: processor time of ``compute``, unless it says so itself.

    Raises
    ------
    ValueError
        If the store cannot be written, or holds the answer to another question; before any work.
    """
    path, question = checked_store(store), dict(asked or {})
    if path is not None and path.exists():
        found = read_store(path)
        there = json.loads(str(found.attrs.get("asked", "{}")))
        for key, value in question.items():
            if there.get(key) != value:
                raise ValueError(
                    f"store={str(store)!r} was made with {key}={there.get(key)!r}, not {value!r}; choose "
                    "another store, or delete that one"
                )
        return found
    began = time.process_time()
    result = compute()
    result.attrs.setdefault("cpu_seconds", time.process_time() - began)
    if question:
        result.attrs["asked"] = json.dumps(question, sort_keys=True)
    if path is not None:
        write_store(result, path)
    return result
