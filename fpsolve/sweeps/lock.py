"""A lock on a file, among threads and processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    from msvcrt import LK_NBLCK, locking

    def _lock(descriptor: int) -> None:
        locking(descriptor, LK_NBLCK, 1)

else:
    from fcntl import LOCK_EX, LOCK_NB, flock

    def _lock(descriptor: int) -> None:
        flock(descriptor, LOCK_EX | LOCK_NB)


#: Lock files that this process holds or tries, by descriptor, each with its thread.
_locks: dict[int, tuple[Path, int]] = {}


def _let_go() -> None:
    """In a forked worker: close the parent's locks, which would else last as long as the worker."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def alone(store: Path, *, wait: bool) -> Iterator[None]:
    """Hold a store among all threads and processes; if it is held, wait, or raise a ValueError.

    The lock is on an empty file beside the store, and ends with the process, however that ends.
    """
    real, said = Path(os.path.realpath(store)), f"store={str(store)!r}"
    lock = real.with_name(real.name + ".lock")
    if (lock, threading.get_ident()) in list(_locks.values()):
        raise ValueError(f"{said} is asked for by the very function that fills it")
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{said} cannot be written ({error.strerror}); choose another folder") from None
        _locks[descriptor] = lock, threading.get_ident()
        try:
            if _is_taken(descriptor, lock, said):
                try:
                    yield
                finally:
                    if descriptor in _locks:  # else in a forked child
                        with suppress(OSError):  # on Windows an open file stays
                            lock.unlink()
                return
        finally:
            if _locks.pop(descriptor, None):
                os.close(descriptor)
        if not wait:
            raise ValueError(f"{said}: another sweep is writing there; wait for it")
        time.sleep(0.05)


def _is_taken(descriptor: int, lock: Path, said: str) -> bool:
    """Lock a file, unless it is locked, or was removed by its last holder after it was opened."""
    try:
        _lock(descriptor)
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except (BlockingIOError, PermissionError, FileNotFoundError):
        return False
    except OSError as error:
        raise ValueError(f"{said}: this disk has no locks ({error.strerror}); choose another") from None
