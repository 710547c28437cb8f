"""The points of a sweep on disk, and its Dataset.

A sweep's journal is text, one line per record: a CRC-32 in hexadecimal, a blank, JSON. The first record says
which sweep it is; each other one holds a point, numbers as base64 of their bytes, which keeps every bit.
Lines are appended in one write each. After a kill, at most the last line is incomplete, and is dropped.
"""

from __future__ import annotations

import base64
import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import xarray as xr

from fpsolve.results import plain, quantity, shortened
from fpsolve.sweeps.lock import alone
from fpsolve.sweeps.store import read_store

Axes: TypeAlias = Mapping[str, np.ndarray]
Provenance: TypeAlias = Mapping[str, str | int]

#: The kernel keeps what was written when the process dies; fsync is for a power cut, and costs milliseconds.
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Entry:
    """One variable at one point."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: Mapping[str, str | int | float] = field(default_factory=dict)

    @classmethod
    def checked(cls, name: str, value: object, taken: Mapping[str, object]) -> Entry:
        """From a number, an array, a tuple (dims, values, attrs) or a variable of xarray."""
        dims, attrs = None, {}
        if isinstance(value, xr.Variable | xr.DataArray):
            value = value.dims, value.to_numpy(), value.attrs
        if isinstance(value, tuple) and value and isinstance(value[0], (str, tuple, list)):
            dims = (value[0],) if isinstance(value[0], str) else tuple(value[0])
            attrs = plain(dict(value[2])) if len(value) > 2 else {}
            value = value[1]
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be a number or an array of numbers, not {type(value).__name__}")
        if dims is None:
            dims = tuple(f"{name}_{axis}" for axis in range(array.ndim))
        if not name or any("/" in text or not text for text in (name, *dims)):
            raise ValueError(f"{name!r}, with dims {dims}, needs names without '/'")
        if len(dims) != array.ndim or set(dims) & set(taken) or name in taken:
            raise ValueError(
                f"{name}, of shape {array.shape}, cannot have dims {dims} beside {sorted(taken)}"
            )
        return cls(dims, np.ascontiguousarray(array).reshape(array.shape), attrs)

    def packed(self) -> list:
        """As JSON."""
        data = base64.b64encode(self.values.tobytes()).decode("ascii")
        return [list(self.dims), self.values.dtype.str, list(self.values.shape), data, dict(self.attrs)]

    @classmethod
    def unpacked(cls, record: list) -> Entry:
        """From JSON."""
        dims, dtype, shape, data, attrs = record
        values = np.frombuffer(base64.b64decode(data), dtype=np.dtype(str(dtype))).reshape(tuple(shape))
        if (
            values.dtype.kind not in "biuf"
            or len(dims) != values.ndim
            or not all(map(isinstance, dims, repeat(str)))
        ):
            raise ValueError("a variable is none")
        return cls(tuple(dims), values, plain(attrs))


def check_sizes(entries: Mapping[str, Entry]) -> None:
    """ValueError if two variables of a point give one dim two sizes, or one bears the name of a dim."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, entry in entries.items():
        for dim, size in zip(entry.dims, entry.values.shape, strict=True):
            there, other = sizes.setdefault(dim, (size, name))
            if there != size:
                raise ValueError(f"dim {dim!r} has size {there} in {other!r} and {size} in {name!r}")


@dataclass
class Journal:
    """Finished points of one sweep, in memory and, if there is a file, on disk."""

    provenance: Provenance
    entries: dict[int, dict[str, Entry]] = field(default_factory=dict)
    complete: xr.Dataset | None = None
    file: IO[bytes] | None = None
    path: Path | None = None
    synced: float = 0.0

    @property
    def total(self) -> int:
        """Points of the grid."""
        return math.prod(len(values) for values in json.loads(str(self.provenance["grid_values"])).values())

    @classmethod
    @contextmanager
    def opened(cls, store: Path | None, provenance: Provenance) -> Iterator[Journal]:
        """The journal to write to, held alone, with the points of an earlier run; or the complete store."""
        if store is None:
            yield cls(provenance)
            return
        path = journal_path(store)
        if not store.exists():
            with alone(store, wait=False):
                if not store.exists():
                    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
                        journal = cls(provenance, file=file, path=path)
                        journal._take_up(store)
                        yield journal
                    return
        complete = read_store(store)
        _refuse_other(store, complete.attrs, provenance)
        path.unlink(missing_ok=True)
        yield cls(provenance, complete=complete)

    @classmethod
    def read(cls, store: Path) -> xr.Dataset:
        """Dataset of the finished store, or of the journal, without touching either."""
        text = b""
        with suppress(FileNotFoundError):  # the store is finished, perhaps just now
            text = journal_path(store).read_bytes()
        if store.exists():
            return read_store(store)
        header, entries, _ = _records(text, journal_path(store))
        if header is None or not entries:
            raise ValueError(f"no point of the sweep in {store} is finished yet")
        return finished_dataset(entries, _axes(header), header)

    def _take_up(self, store: Path) -> None:
        """Read the journal, drop an incomplete last line, begin one if there is none."""
        assert self.file is not None and self.path is not None
        header, self.entries, good = _records(self.file.read(), self.path)
        if not self.entries:  # nothing is lost with a header, which may be that of a function since mended
            header, good = None, 0
        self.file.seek(good)
        self.file.truncate()
        if header is None:
            self._append(dict(self.provenance))
        else:
            _refuse_other(store, header, self.provenance)

    def add(self, i: int, values: dict[str, Entry]) -> None:
        """Keep a finished point."""
        self.entries[i] = values
        if self.file is not None:
            self._append({"point": i, "values": {name: entry.packed() for name, entry in values.items()}})

    def _append(self, record: dict) -> None:
        assert self.file is not None
        text = json.dumps(record, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        if self.file.write(line) != len(line):
            raise OSError(f"{self.path}: no room for another point")
        if time.monotonic() - self.synced > _SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def misfit(self, values: Mapping[str, Entry]) -> str | None:
        """How a point's names, dims or shapes differ from those of the points before, or None."""
        return misfit(next(iter(self.entries.values())), values) if self.entries else None


def misfit(first: Mapping[str, Entry], values: Mapping[str, Entry]) -> str | None:
    """How names, dims or shapes of a point differ from those of the first one, or None."""
    if values.keys() != first.keys():
        return f"returned {sorted(values)}, where other points returned {sorted(first)}"
    for name, entry in values.items():
        expected = first[name]
        if entry.dims != expected.dims or entry.values.shape != expected.values.shape:
            return (
                f"returned {name} with shape {entry.values.shape} and dims {entry.dims}, where other "
                f"points returned {expected.values.shape} and {expected.dims}"
            )
    return None


def _records(text: bytes, path: Path) -> tuple[dict | None, dict[int, dict[str, Entry]], int]:
    """Header, points and the length of the good part; an incomplete last line is left out."""
    header: dict | None = None
    entries: dict[int, dict[str, Entry]] = {}
    good, total = 0, 0
    while good < len(text):
        end = text.find(b"\n", good)
        line = text[good:end] if end >= 0 else b""
        if not (line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:])):
            if end >= 0 and end + 1 < len(text):
                raise ValueError(f"{path} is damaged at byte {good}; delete it to begin again")
            break
        try:
            record = json.loads(line[9:])
            if header is None:
                header, total = record, math.prod(map(len, _axes(record).values()))
            else:
                _take(record, entries, total)
        except Exception as error:  # a line whose checksum is right, but which no sweep has written
            raise ValueError(
                f"{path} is no journal of a sweep at byte {good} ({shortened(str(error))}); "
                "delete it to begin again"
            ) from error
        good = end + 1
    return header, entries, good


def _axes(header: Mapping) -> dict[str, np.ndarray]:
    """The grid of a journal."""
    found = {name: np.array(values) for name, values in json.loads(str(header["grid_values"])).items()}
    if not found or any(values.ndim != 1 or values.dtype.kind not in "iufU" for values in found.values()):
        raise ValueError("its grid is none")
    if not {"run", "grid"} <= header.keys():
        raise ValueError("it does not say which sweep it is")
    plain(header)
    return found


def _take(record: Mapping, entries: dict[int, dict[str, Entry]], total: int) -> None:
    """Add the point of a record to those before it, which it must be like."""
    point = record["point"]
    values = {name: Entry.unpacked(entry) for name, entry in record["values"].items()}
    if not isinstance(point, int) or not 0 <= point < total or not values:
        raise ValueError(f"point {point!r} is not on the grid")
    if entries and (wrong := misfit(next(iter(entries.values())), values)):
        raise ValueError(f"a point {wrong}")
    entries[point] = values


def _refuse_other(store: Path, found: Mapping, wanted: Provenance) -> None:
    """Raise if a store belongs to another sweep."""
    words = {"grid_values": "grid", "run_hash": "function (source or fixed values)"}
    for key in ("grid_values", "seed", "run", "run_hash", "fpsolve_version"):
        if found.get(key) != wanted[key]:
            old, new = (shortened(str(value.get(key)), 80) for value in (found, wanted))
            said = "differs" if key == "run_hash" else f"is {old}, not {new}"
            raise ValueError(
                f"store={store} holds another sweep: its {words.get(key, key)} {said}; "
                "choose another store, or delete that one"
            )


def journal_path(store: Path) -> Path:
    """Where finished points wait until the store is complete."""
    return store.with_name(store.name + ".journal")


def finished_dataset(
    entries: Mapping[int, Mapping[str, Entry]], axes: Axes, provenance: Provenance
) -> xr.Dataset:
    """All points as one Dataset; NaN, and ``finished``, where some are missing."""
    shape = tuple(len(values) for values in axes.values())
    total = math.prod(shape)
    dataset = xr.Dataset(coords={name: (name, values) for name, values in axes.items()})
    dataset.attrs = {"title": f"sweep of {provenance['run']} over {provenance['grid']}", **provenance}
    order = sorted(entries)
    for name, first in entries[order[0]].items() if order else ():
        dtype = np.result_type(*{entries[i][name].values.dtype for i in order})
        if len(order) < total and dtype.kind != "f":
            dtype = np.dtype(float)
        whole = np.full((total, *first.values.shape), np.nan if dtype.kind == "f" else 0, dtype)
        for i in order:
            whole[i] = entries[i][name].values
        attrs = {"long_name": name, "units": "1", **first.attrs}
        dataset[name] = ((*axes, *first.dims), whole.reshape(*shape, *first.values.shape), attrs)
    if len(order) < total:
        finished = np.isin(np.arange(total), order).astype(np.int8).reshape(shape)
        dataset["finished"] = quantity(finished, tuple(axes), "1 if the point is finished")
    return dataset
