"""Arguments that make no sense are refused by name: unknown options, numbers not whole or out of range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import cast

import numpy as np


def check_option(word: str, value: object, known: Iterable[str]) -> None:
    """A ValueError that names the nearest option unless ``value`` is a known one."""
    options = tuple(known)
    if value not in options:
        close = difflib.get_close_matches(str(value), options, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{word}={value!r}: {hint}known are {', '.join(options)}")


def check_whole(name: str, value: object, most: float = math.inf, of: str = "", *, least: int = 1) -> None:
    """ValueError unless an argument is a whole number from ``least`` to ``most``, the number ``of``."""
    if not is_whole(value) or not least <= cast(int, value) <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}, {of}"
        raise ValueError(f"{name}={value} must be a whole number, {bounds}")


def is_whole(value: object) -> bool:
    """Whether a number is a whole one, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
