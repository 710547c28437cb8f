"""Machine code of kernels on disk, by numba's cache: in our own directory, with checksums, and bounded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

#: Bytes that the cache may hold; beyond that the files unused for longest go.
LARGEST = 256_000_000
_DIGEST = hashlib.sha256().digest_size


def keep(dispatcher: Any, directory: Path, name: str) -> None:
    """Let a compiled function look for its machine code in a directory, and leave it there.

    Numba's own choice of a directory may be one that others can write to (``NUMBA_CACHE_DIR``).
    """
    dispatcher._cache = _KernelCache(dispatcher.py_func, directory, name)


class _CheckedFiles(IndexDataCacheFile):
    """Index and data files that end with a checksum, looked at before anything is read from them."""

    def _load_index(self) -> dict:
        _check(Path(self._index_path))
        return super()._load_index()

    def _load_data(self, name: str) -> object:
        _check(Path(self._data_path(name)))
        return super()._load_data(name)

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


class _KernelCache(FunctionCache):
    """Machine code of one kernel; the name of its module holds the hash of its source."""

    def __init__(self, py_func: Any, directory: Path, name: str) -> None:
        # Not numba's __init__, which chooses the directory
        self._name, self._py_func, self._directory = name, py_func, directory
        self._cache_path = str(directory)
        # Processors of different kinds may share the directory: each has its own index
        machine = hashlib.sha256(repr(cpu_target.target_context.codegen().magic_tuple()).encode()).hexdigest()
        self._cache_file = _CheckedFiles(self._cache_path, f"{name}-{machine[:12]}", name)
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        try:
            found = self._cache_file.load(self._index_key(sig, target_context.codegen()))
            return None if found is None else self._rebuilt(target_context, found)
        except Exception:  # whatever a damaged file raises: compile anew
            for path in self._files():
                with contextlib.suppress(OSError):
                    path.unlink()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            return
        with contextlib.suppress(OSError):  # a full disk costs the next process a compilation
            self._cache_file.save(self._index_key(sig, data.codegen), data._reduce())
            _prune(self._directory)

    def _rebuilt(self, target_context: Any, found: Any) -> Any:
        for path in self._files():  # the time of the last use
            with contextlib.suppress(OSError):
                os.utime(path)
        return CompileResult._rebuild(target_context, *found)

    def _files(self) -> list[Path]:
        return list(self._directory.glob(f"{self._name}-*.nb[ic]"))


def _check(path: Path) -> None:
    """ValueError if a file does not end with the checksum of what stands before."""
    if not path.exists():
        return
    content = path.read_bytes()
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise ValueError(f"{path} is damaged")


def _prune(directory: Path) -> None:
    """Delete the files unused for longest until the cache has less than ``LARGEST`` bytes."""
    files = []
    for path in directory.glob("fpsolve_*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    room = LARGEST
    for _, size, path in sorted(files, key=lambda file: -file[0]):
        room -= size
        if room < 0:
            with contextlib.suppress(OSError):
                path.unlink()
