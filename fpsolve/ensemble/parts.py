"""Ensembles in parts: groups of walkers over threads, with stops in time, and over an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from fpsolve.ensemble.lanes import LANES
from fpsolve.progress import bar

Key = TypeVar("Key")


def cuts(total: int, parts: int) -> list[int]:
    """Ends of parts of about equal size, 0 and ``total`` among them; at most one part per unit."""
    if parts < 1:
        raise ValueError(f"parts={parts} must be at least 1")
    return np.linspace(0, total, min(parts, total) + 1).astype(int).tolist()


def in_threads(
    advance: Callable[[int, int, int, int, int], None], ends: Sequence[int], *, first: int, last: int,
    chunk: float, progress: bool,
) -> None:  # fmt: skip
    """Call ``advance(part, begin, end, low, high)`` for steps ``first`` to ``last``, one thread per part.

    ``low`` and ``high`` are the part's groups of lanes, between its ``ends``. After ``chunk`` walker-steps of
    a part all threads meet, the bar moves, and Ctrl-C is seen.
    """
    parts = len(ends) - 1
    length = max(1, int(chunk * parts / (ends[-1] * LANES)))
    with ThreadPoolExecutor(parts) as pool, bar(last - first, unit="step", progress=progress) as shown_bar:
        for begin in range(first, last, length):
            end = min(begin + length, last)
            jobs = [
                pool.submit(advance, part, begin, end, *groups) for part, groups in enumerate(pairwise(ends))
            ]
            for job in jobs:
                job.result()
            shown_bar.update(end - begin)


def finished(jobs: Mapping[Future, Key], *, progress: bool) -> Iterator[tuple[Key, Any]]:
    """Keys and results of jobs in the order in which they finish; if one fails, the others are cancelled."""
    try:
        with bar(len(jobs), unit="part", progress=progress) as shown_bar:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
                shown_bar.update(1)
    finally:
        for job in jobs:
            job.cancel()
