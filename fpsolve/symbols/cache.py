"""Cache of compiled kernels: each generated source text is a module, compiled once and named by its hash."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.abc
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import ModuleType

#: Threads that need the same kernel at the same time get one module, complete.
_LOCK = threading.RLock()


class _SourceText(importlib.abc.SourceLoader):
    """Loads a module from a text in memory, whatever file or bytecode lies at its path."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return self.text.encode()


def load_module(source: str, *, prefix: str) -> ModuleType:
    """The module of a generated source text, named by the prefix and the text's hash.

    Its function ``advance``, if it is compiled, is kept as machine code in :func:`cache_directory`, so that a
    second process starts without compiling. A file there that is damaged, or cannot be written, costs time
    and nothing else. The same text gives the same object within one process, in any thread.
    """
    name = f"fpsolve_{prefix}_{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    with _LOCK:
        if name in sys.modules:
            return sys.modules[name]
        path = cache_directory() / f"{name}.py"
        spec = importlib.util.spec_from_loader(name, _SourceText(source, path), origin=str(path))
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {path}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "advance"):
            from fpsolve.symbols.machine_code import keep

            keep(module.advance, path.parent, name)
        # Registered only now: another thread must not find it half executed
        sys.modules[name] = module
        return module


def cache_directory() -> Path:
    """Existing, writable directory of compiled kernels: ``FPSOLVE_CACHE``, else the user's cache directory.

    Compiled code is loaded from there, so a directory that others can write to is not used; a
    fresh temporary directory takes its place, and kernels are then compiled anew in each process.
    """
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        path = _wanted_directory()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(path):
            return path
    return _temporary_directory()


def _wanted_directory() -> Path:
    """The directory that the environment names, or the platform's."""
    if named := os.environ.get("FPSOLVE_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "fpsolve" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fpsolve"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpsolve"


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
    """One private temporary directory per process, removed at its end."""
    path = tempfile.mkdtemp(prefix="fpsolve-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)
