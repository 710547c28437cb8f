"""How many threads torch uses, set for a while and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads inside ``with``; None leaves the number as it is.

    Small nets are fastest on one thread, and only one thread promises the same bits everywhere.

    Parameters
    ----------
    count : int or None
    """
    if count is not None and count < 1:
        raise ValueError(f"threads={count} must be at least 1")
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
