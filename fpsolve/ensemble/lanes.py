"""Lanes: walkers advance 32 at a time; the text that the three compiled kernels share.

One generated file holds everything that a kernel uses, the random-number generator included, so that
numba's cache cannot go stale. Short loops over the lanes (structure of arrays) become SIMD code, and one
scratch buffer with rows at constant places spares LLVM the alias checks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fpsolve.symbols.counter_rng import box_muller, rotated, threefry2x64

LANES = 32


@dataclass(frozen=True)
class Kernel:
    """A compiled step, its source, the rows of its scratch buffer, and the numbers it reads at run time."""

    advance: Callable[..., Any]
    constants: np.ndarray
    source: str
    rows: int
    grid: np.ndarray = field(default_factory=lambda: np.zeros(0))


_HEADER = f'''"""Generated; never edited by hand."""

import math

import numpy as np
from numba import njit

FAST = {{"contract", "nsz", "arcp"}}
LANES = {LANES}
'''


def header(constants: Mapping[str, object]) -> str:
    """Start of a kernel's file: imports, named constants, and the generator of normals."""
    named = "".join(f"{name} = {value}\n" for name, value in constants.items())
    compiled = '\n\n@njit(fastmath=FAST, error_model="numpy")\n'
    generator = (compiled + inspect.getsource(f) for f in (rotated, threefry2x64, box_muller))
    return _HEADER + named + "".join(generator)


def rows(counts: Mapping[str, int]) -> dict[str, int]:
    """First row of each named group in the scratch buffer, and ``TOTAL``, the number of rows."""
    places, total = {}, 0
    for name, count in counts.items():
        places[name] = total
        total += count
    return {**places, "TOTAL": total}


def normals(words: str, out: str, *, counter: str, walker: str, indent: int) -> str:
    """Text that fills rows ``out`` and ``out + 1`` with normals times ``scale``, one pair for each lane.

    ``counter`` and ``walker`` are the two words of the generator's counter in terms of the lane ``{l}``;
    rows ``words`` and ``words + 1`` hold random words in between, and may be the same rows.
    """
    text = f"""\
# Two walkers at a time: their chains of operations overlap in the processor
for l in range(LANES // 2):
    h = l + LANES // 2
    a0, a1 = threefry2x64(key0, key1, {counter.format(l="l")}, {walker.format(l="l")})
    b0, b1 = threefry2x64(key0, key1, {counter.format(l="h")}, {walker.format(l="h")})
    words[({words}) * LANES + l] = a0
    words[({words} + 1) * LANES + l] = a1
    words[({words}) * LANES + h] = b0
    words[({words} + 1) * LANES + h] = b1
for l in range(LANES // 2):
    h = l + LANES // 2
    y0, y1 = box_muller(words[({words}) * LANES + l], words[({words} + 1) * LANES + l])
    z0, z1 = box_muller(words[({words}) * LANES + h], words[({words} + 1) * LANES + h])
    lane[({out}) * LANES + l] = scale * y0
    lane[({out} + 1) * LANES + l] = scale * y1
    lane[({out}) * LANES + h] = scale * z0
    lane[({out} + 1) * LANES + h] = scale * z1"""
    return block(text.splitlines(), indent)


def block(lines: Iterable[str], indent: int) -> str:
    """Lines as an indented block, to be put at an indented place of a template."""
    return "\n".join(" " * indent + line for line in lines).lstrip()


def euler_maruyama(drift: Sequence[str], root: Sequence[str]) -> list[str]:
    """Lines new_i = x_i + dt b_i + Σ_j G_ij ξ_j, without the terms that are zero.

    ``drift`` holds the texts of b (n), and ``root`` those of G (n, m), row by row.
    """
    lines, m = [], len(root) // len(drift)
    for i, slope in enumerate(drift):
        terms = [f"x{i}"] + [f"time_step * ({slope})"] * (slope != "0.0")
        terms += [f"({G}) * xi{j}" for j, G in enumerate(root[i * m : (i + 1) * m]) if G != "0.0"]
        lines.append(f"new{i} = " + " + ".join(terms))
    return lines


def inside(n: int) -> str:
    """The condition that all n new coordinates of a lane are below ``bound``."""
    return " & ".join(f"(abs(new{i}) < bound)" for i in range(n))


def loads(name: str, row: str, count: int) -> list[str]:
    """Lines that read scalars ``name0``, ``name1``, … of a lane from consecutive rows."""
    return [f"{name}{i} = lane[({row} + {i}) * LANES + l]" for i in range(count)]


def to_lanes(values: np.ndarray) -> np.ndarray:
    """Shape (walkers, k) as (groups, k, LANES), or (walkers,) as (groups, LANES), filled up with zeros."""
    groups = -(-len(values) // LANES)
    padded = np.zeros((groups * LANES, *values.shape[1:]), dtype=values.dtype)
    padded[: len(values)] = values
    return np.ascontiguousarray(np.moveaxis(padded.reshape(groups, LANES, *values.shape[1:]), 1, -1))


def from_lanes(values: np.ndarray, walkers: int) -> np.ndarray:
    """Shape (..., groups, k, LANES) as (..., walkers, k), or (groups, LANES) as (walkers,)."""
    if values.ndim == 2:
        return values.reshape(-1)[:walkers]
    *rest, groups, k, lanes = values.shape
    return values.swapaxes(-1, -2).reshape(*rest, groups * lanes, k)[..., :walkers, :]
