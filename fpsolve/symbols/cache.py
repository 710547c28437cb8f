"""Cache of compiled kernels: each generated source text is a module, compiled once and named by its hash."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType


class _SourceText(importlib.abc.SourceLoader):
    """Loads a module from a text in memory, whatever file or bytecode lies at its path."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return self.text.encode()


def load_module(source: str, *, prefix: str) -> ModuleType:
    """The module of a generated source text, kept in a file named by the prefix and the text's hash.

    The file gives numba's cache an address, so a second process starts without compiling. The same text gives
    the same object within one process.
    """
    name = f"fpsolve_{prefix}_{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    if name in sys.modules:
        return sys.modules[name]
    path = cache_directory() / f"{name}.py"
    try:
        current = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        current = None
    if current != source:
        _write_atomically(path, source)
    spec = importlib.util.spec_from_loader(name, _SourceText(source, path), origin=str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba's cache finds the module by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def cache_directory() -> Path:
    """Existing, writable directory of compiled kernels: ``FPSOLVE_CACHE``, else the user's cache directory.

    Compiled code is loaded from there, so a directory that others can write to is not used; a
    fresh temporary directory takes its place, and kernels are then compiled anew in each process.
    """
    named = os.environ.get("FPSOLVE_CACHE")
    if named:
        path = Path(named).expanduser()
    elif sys.platform == "win32":
        path = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fpsolve" / "cache"
    elif sys.platform == "darwin":
        path = Path.home() / "Library" / "Caches" / "fpsolve"
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpsolve"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(path):
            return path
    return _temporary_directory()


def _is_private(path: Path) -> bool:
    """Whether we can write to a directory and nobody else can."""
    if not os.access(path, os.W_OK):
        return False
    if sys.platform == "win32":
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@cache
def _temporary_directory() -> Path:
    """One private temporary directory per process."""
    return Path(tempfile.mkdtemp(prefix="fpsolve-"))


def _write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
