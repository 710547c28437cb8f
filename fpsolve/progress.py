"""Progress bars on long work; where none is wanted, tqdm is not loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")


class Silent:
    """A bar that is not shown."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def update(self, done: float = 1) -> None:
        """Nothing to move."""

    def set_postfix_str(self, text: str) -> None:
        """Nothing to write."""


def shown(items: Sequence[Item], *, unit: str, progress: bool, leave: bool = False) -> Iterable[Item]:
    """The items, under a bar if ``progress``, which stays when the work is done if ``leave``."""
    if not progress:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, unit=unit, leave=leave)


def bar(
    total: int, *, unit: str, progress: bool, leave: bool = True, initial: int = 0
) -> tqdm[NoReturn] | Silent:
    """A bar to be moved by ``update()`` within a ``with`` statement, shown if ``progress``."""
    if not progress:
        return Silent()
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, leave=leave, initial=initial)
