"""Progress bars on long work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shown(items: Sequence[Item], *, unit: str, progress: bool, leave: bool = False) -> Iterable[Item]:
    """The items, under a bar if one is wanted.

    Parameters
    ----------
    items : sequence
    unit : str
    progress : bool
        False loads nothing: ``tqdm.auto`` warns in notebooks without widgets, even when not shown.
    leave : bool
        Whether the bar stays when the work is done.

    Returns
    -------
    iterable
    """
    if not progress:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, unit=unit, leave=leave)
