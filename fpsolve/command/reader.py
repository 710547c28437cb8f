"""One reader of TOML files: known keys, kinds and ranges; every mistake is a ValueError in one line."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from fpsolve.results import shortened

#: A configuration is a page of text; anything larger is a mistake.
MAX_BYTES = 64 * 1024
#: Sizes of numbers in a file.
SMALLEST, LARGEST = 1e-100, 1e100
#: Reads a value of a file: the value and its name in messages; what is wrong is a ValueError.
Check: TypeAlias = Callable[[object, str], object]


def read_text(path: str | Path) -> str:
    """The text of a file of at most 64 KiB in UTF-8, with or without a byte order mark."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def shipped(folder: Path) -> dict[str, str]:
    """The texts of the TOML files of a folder, by name."""
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.toml"))}


def parse(text: str, known: Iterable[str], *, tables: Sequence[str] = ()) -> dict[str, object]:
    """TOML text as a mapping with known keys only; those of ``tables`` must hold tables."""
    try:
        found = tomllib.loads(text.removeprefix("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not valid TOML: {error}") from None
    refuse_unknown(found, (*known, *tables), "the file")
    for name in tables:
        if name in found and not isinstance(found[name], dict):
            raise ValueError(f"[{name}] must be a table")
    return found


def refuse_unknown(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """An unknown key is an error that names the nearest known one."""
    names = tuple(known)
    for key in table:
        if key not in names:
            raise ValueError(f"unknown key {key!r} in {where}; {_nearest(key, names)}")


def checked(table: Mapping[str, object], checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    """The values of a table, each as ``check(value, "where.key")`` of its key reads it; no other keys."""
    refuse_unknown(table, checks, f"[{where}]")
    return {key: checks[key](value, f"{where}.{key}") for key, value in table.items()}


def one_of(value: object, name: str, known: Sequence[str]) -> str:
    """A word from a fixed set."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} = {short(value)} is not known; {_nearest(str(value), known)}")
    return value


def _nearest(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def number(value: object, name: str) -> float:
    """0, or a number of a size between 1e-100 and 1e100, so that its square is one; whole ones stay whole."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            if value and not SMALLEST <= abs(value) <= LARGEST:
                raise ValueError(
                    f"{name} = {short(value)} must be 0 or between {SMALLEST:g} and {LARGEST:g} in size"
                )
            return value
    except OverflowError:  # an integer beyond the floats
        pass
    raise ValueError(f"{name} = {short(value)} must be a finite number")


def positive(value: object, name: str) -> float:
    """A number above 0."""
    found = number(value, name)
    if found <= 0:
        raise ValueError(f"{name} = {found:g} must be positive")
    return found


def whole(value: object, name: str, *, at_least: int, at_most: float = math.inf) -> int:
    """A whole number that is not too small and not too large."""
    found = number(value, name)
    if found != int(found) or not at_least <= found <= at_most:
        most = f" and at most {at_most:g}" if at_most < math.inf else ""
        raise ValueError(f"{name} = {short(value)} must be a whole number, at least {at_least}{most}")
    return int(found)


def like(value: object, name: str, default: object) -> object:
    """A value of the kind of a default: text, a truth value, a whole number, a number, or a list of one kind.

    A list becomes a tuple, and a whole number a float where the default is one.
    """
    if isinstance(default, tuple):
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} = {short(value)} must be a list, such as {list(default)}")
        return tuple(like(item, name, default[0]) for item in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(number(value, name))
    if type(value) is not type(default):
        wanted = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ValueError(f"{name} = {short(value)} must be {wanted}")
    return value


def short(value: object) -> str:
    """At most 60 characters of a value for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = "an integer of thousands of digits"
    return shortened(text)
