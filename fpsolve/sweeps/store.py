"""Datasets on disk, each with the question that it answers.

A store is written by one thread of one process at a time: under another name, read back, then moved. The
sha256 of all that it holds is its attribute ``store_sha256``, which is checked at every reading. A finished
store is read without a lock.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.files import netcdf_bytes
from fpsolve.results import plain, shortened
from fpsolve.sweeps.lock import alone

_HASH = "store_sha256"


def checked_store(store: str | Path | None) -> Path | None:
    """The path of a store that can be written, found out before any work."""
    if store is None:
        return None
    path = Path(store)
    if path.suffix not in (".zarr", ".nc"):
        raise ValueError(f"store={str(store)!r} must end in .zarr or .nc")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"store={str(store)!r}: there is no directory {path.parent}; create it first")
    if path.exists() and path.is_dir() != (path.suffix == ".zarr"):
        kind = "directory" if path.is_dir() else "file"
        raise ValueError(f"store={str(store)!r} is a {kind}; choose another name, or delete it")
    if path.suffix == ".zarr" and find_spec("zarr") is None:
        raise ValueError(
            f"store={str(store)!r} needs zarr: pip install 'fpsolve[distributed]', or use a .nc file"
        )
    return path


def write_store(dataset: xr.Dataset, path: Path) -> None:
    """Write beside the store, read that back, then move: the store is there whole or not at all.

    The caller holds the lock. A TypeError names what a file cannot hold, or would give back changed.
    """
    path = Path(os.path.realpath(path))
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # by a process that was killed
        _remove(left)
    with _written(dataset, path) as part:
        os.replace(part, path)
    _sync(path.parent)


def check_storable(dataset: xr.Dataset, path: Path) -> None:
    """Write beside the store, read that back, and remove it; fails as :func:`write_store`."""
    with _written(dataset, Path(os.path.realpath(path))):
        pass


@contextmanager
def _written(dataset: xr.Dataset, path: Path) -> Iterator[Path]:
    """The Dataset in a file or directory beside the store, read back once; removed at the end."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        hashes = _hashes(dataset)
        whole = dataset.assign_attrs({_HASH: _joined(hashes)})
        if path.suffix == ".nc":
            part.write_bytes(netcdf_bytes(whole))
            _sync(part)
        else:
            whole.to_zarr(part, mode="w", zarr_format=2, consolidated=True)  # v3 has no consolidation
        with _opened(part, path) as back:
            found = _hashes(back)
        for name in sorted(hashes.keys() | found.keys()):
            if hashes.get(name) != found.get(name):
                raise TypeError(f"{name} would come back changed")
        yield part
    except OSError as error:
        raise OSError(f"store={str(path)!r} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        raise TypeError(f"store={str(path)!r} cannot hold the result: {_said(error, 200)}") from error
    finally:
        _remove(part)


def read_store(path: Path) -> xr.Dataset:
    """A finished store, in memory; a ValueError in one line if it is damaged or carries no hash."""
    try:
        with _opened(path, path) as dataset:
            said, found = dataset.attrs.get(_HASH), _with_plain_attrs(dataset.load())
        if said is not None and said != _joined(_hashes(found)):
            raise ValueError(f"its content does not have its {_HASH}")
    except Exception as error:  # h5py, zarr, the codecs and xarray raise nearly all there are
        if isinstance(error, PermissionError | BlockingIOError | MemoryError) or not path.exists():
            raise
        raise ValueError(
            f"store={str(path)!r} is damaged ({_said(error, 80)}); delete it to begin again"
        ) from error
    if said is None:
        raise ValueError(
            f"store={str(path)!r} has no {_HASH}: another program or an earlier version wrote it, and damage "
            "could not be told; choose another store, or delete that one"
        )
    return found


def _opened(path: Path, store: Path) -> xr.Dataset:
    """The Dataset of a file or directory as its store's name says, not yet in memory."""
    return xr.open_dataset(path, engine="h5netcdf" if store.suffix == ".nc" else "zarr", cache=False)


def _with_plain_attrs(dataset: xr.Dataset) -> xr.Dataset:
    """The same data with attributes as :func:`fpsolve.results.plain` makes them, without the hash."""
    found = dataset.copy()
    found.attrs = plain({key: value for key, value in dataset.attrs.items() if key != _HASH})
    for variable in found.variables.values():
        variable.attrs = plain(variable.attrs)
    return found


def _said(error: Exception, length: int) -> str:
    return shortened(" ".join(str(error).split()), length) or type(error).__name__


def _hashes(dataset: xr.Dataset) -> dict[str, str]:
    """For each variable the sha256 of its values, with dims and attributes; and the Dataset's attributes.

    Texts have no width, numbers no byte order, and all NaN are one. A TypeError for other objects.
    """
    plain_one = _with_plain_attrs(dataset)
    found = {"the attributes": json.dumps(plain_one.attrs, sort_keys=True)}
    for name, variable in plain_one.variables.items():
        values = np.asarray(variable.values)
        if values.dtype.kind in "OUT":
            if not all(isinstance(value, str) for value in values.flat):
                raise TypeError(f"{name} holds objects; give numbers or text")
            values = values.astype(object).astype(str)
        else:
            values = values.astype(values.dtype.newbyteorder("="), order="C", copy=False)
        if values.dtype.kind in "fc" and np.isnan(values).any():
            parts = values.reshape(-1).view(values.real.dtype)
            values = np.where(np.isnan(parts), parts.dtype.type(np.nan), parts)
        said = [variable.dims, variable.shape, name in dataset.coords, variable.attrs]
        found[f"variable {name}"] = digest(values) + json.dumps(said, sort_keys=True)
    return found


def _joined(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Ask the disk to hold what was written, where it can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def kept(
    store: str | Path | None, compute: Callable[[], xr.Dataset], *, asked: Mapping[str, object]
) -> xr.Dataset:
    """Cache a Dataset on disk: a second call with the same question returns the stored answer.

    Of several threads and processes that ask at once, one computes; the others wait, and read what it stored.

    Parameters
    ----------
    store : path or None
        ``….nc`` or ``….zarr``; written whole or not at all, with the sha256 of the content, which is checked
        on reading. None: compute, and keep nothing.
    compute : callable
        Takes nothing and gives the result.
    asked : mapping
        The question: everything that the result depends on, such as a :func:`digest` of weights and data,
        layer, seed and settings, of text, numbers, None, lists and mappings. Stored as JSON in
        ``attrs["asked"]`` and compared as text: tuples and arrays are lists, NumPy's numbers are plain ones,
        NaN is NaN, order of keys does not count; 1, 1.0 and True are three numbers, and so are 0.0 and −0.0.

    Returns
    -------
    Dataset
        In memory; ``attrs["cpu_seconds"]``: processor time of ``compute``, unless it says so itself. A
        UserWarning says that the disk did not take it.
        A TypeError if the question is not such; after the work, if the result is no Dataset or cannot be
        stored. Before any work, a ValueError if the question is empty, or the store cannot be written, is
        damaged, holds the answer to another question, or says no question.
    """
    path, question = checked_store(store), _question(asked)

    def answer() -> xr.Dataset:
        began = time.process_time()
        result = compute()
        if not isinstance(result, xr.Dataset):
            raise TypeError(f"compute gives {type(result).__name__}, not Dataset")
        seconds = time.process_time() - began
        result = _with_plain_attrs(result.load())
        result.attrs = {"cpu_seconds": seconds} | result.attrs | {"asked": question}
        return result

    if path is None:
        return answer()
    if not path.exists():
        with alone(path, wait=True):
            if not path.exists():
                result = answer()
                try:
                    write_store(result, path)
                except OSError as error:  # such as a full disk: the work is not lost
                    warnings.warn(f"{error}; the result is returned, not kept", stacklevel=2)
                return result
    found = read_store(path)
    _refuse_other_question(path, found.attrs.get("asked"), question)
    return found


def _question(asked: Mapping[str, object]) -> str:
    """A question as JSON, keys in order."""
    if not isinstance(asked, Mapping):
        raise TypeError(f"asked={asked!r} must be a mapping")
    if not asked:
        raise ValueError("asked={} says nothing of what the result depends on")
    try:
        return json.dumps(_as_json(asked, "asked"), sort_keys=True)
    except RecursionError:
        raise TypeError("asked holds itself") from None


def _as_json(value: object, what: str) -> object:
    """NumPy's numbers and arrays, tuples and mappings as plain ones; a TypeError names what is not JSON."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(item, what) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_json(item, f"{what}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{what} holds {shortened(repr(value), 80)}, which is not JSON; give text, numbers, lists, mappings "
        "with text as keys, or a digest"
    )


def _refuse_other_question(path: Path, there: object, question: str) -> None:
    """Raise unless a store answers exactly this question; the message names the first difference."""
    advice = "choose another store, or delete that one"
    if there is None:
        raise ValueError(f"store={str(path)!r} does not say which question it answers; {advice}")
    if there == question:
        return
    stored, wanted = json.loads(str(there)), json.loads(question)
    for key in sorted(stored.keys() | wanted.keys()):
        if key not in stored or key not in wanted:
            where = "without" if key not in stored else "with"
            raise ValueError(f"store={str(path)!r} was made {where} {key} in its question; {advice}")
        if json.dumps(stored[key], sort_keys=True) != json.dumps(wanted[key], sort_keys=True):
            old, new = (shortened(repr(value[key]), 80) for value in (stored, wanted))
            raise ValueError(f"store={str(path)!r} was made with {key}={old}, not {new}; {advice}")


def digest(*arrays: ArrayLike) -> str:
    """The sha256 of arrays' bytes, shapes and types: weights or data in a question of :func:`kept`.

    Parameters
    ----------
    *arrays : array_like
        On the processor; their order counts.

    Returns
    -------
    str
        In hexadecimal. A TypeError if an array holds Python objects.
    """
    found = hashlib.sha256()
    for values in map(np.asarray, arrays):
        if values.dtype.hasobject:
            raise TypeError("an array of objects has no digest; give numbers or text")
        found.update(f"{np.lib.format.dtype_to_descr(values.dtype)}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def instructions(code: CodeType) -> str:
    """A compiled function without its place in a file, as text; the same in every process of one Python."""
    constants = [
        instructions(value) if isinstance(value, CodeType)
        else repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
        for value in code.co_consts
    ]  # fmt: skip
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"
