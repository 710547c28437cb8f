"""Memory and time of what a file or an option asks for; what is beyond reason is refused before any work."""

from __future__ import annotations

import math
import os

#: Most memory in bytes and most walker-steps of one command: 12 days of one core.
MOST_MEMORY = 16e9
MOST_STEPS = 1e14
#: Measured per walker-step and variable on one core, and per process with its libraries.
SECONDS_PER_STEP = 1e-8
PROCESS_MEMORY = 0.3e9
#: Most processes per core.
MOST_PROCESSES = 4


def check_walkers(walkers: float, steps: float, *, variables: int, where: str, runs: float = 1) -> None:
    """ValueError if ``runs`` ensembles of so many walkers, with ``steps`` in all, are too large."""
    # positions and running sums of two moments, each three times: in lanes, as arrays, in results
    memory = 24.0 * walkers * (4 * variables + 2 * variables**2)
    if memory > MOST_MEMORY:
        at_most = _rounded(walkers * MOST_MEMORY / memory)
        raise ValueError(
            f"{where}.walkers = {walkers:g} take {_bytes(memory)} of memory; use at most {at_most:g} "
            f"({_bytes(MOST_MEMORY)})"
        )
    total = walkers * steps
    if total > MOST_STEPS:
        days = total * SECONDS_PER_STEP * variables / 86400
        each = f" in {runs:g} runs" if runs > 1 else ""
        raise ValueError(
            f"[{where}] asks for {walkers:g} walkers and {steps:.3g} steps{each}, about {days:.2g} days on "
            f"one core; use at most {MOST_STEPS:g} walker-steps"
        )


def check_cells(cells: int, dimension: int, shown: str) -> None:
    """ValueError if the factorisation of a mesh takes too much memory."""
    # entries of the factors of 12 bytes: N^(4/3) in space, a few hundred per cell in the plane
    memory = 100.0 * cells ** (4 / 3) if dimension > 2 else 8000.0 * cells
    if memory > MOST_MEMORY:
        exponent = 0.75 if dimension > 2 else 1.0
        at_most = int(_rounded(cells * (MOST_MEMORY / memory) ** exponent))
        raise ValueError(
            f"{shown} makes {cells:,} cells, whose factorisation takes {_bytes(memory)}; "
            f"use at most {at_most:,}"
        )


def check_processes(workers: int, points: int) -> int:
    """The number of processes for so many points; a ValueError if the machine cannot hold those asked for."""
    cores = os.cpu_count() or 1
    if workers > MOST_PROCESSES * cores:
        raise ValueError(
            f"--workers {workers} would take {_bytes(workers * PROCESS_MEMORY)} of memory; this machine has "
            f"{cores} cores: use at most {MOST_PROCESSES * cores}"
        )
    return min(workers, points)


def _bytes(number: float) -> str:
    return f"{number / 1e9:.3g} GB"


def _rounded(number: float) -> float:
    """Two significant digits, rounded down."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return math.floor(number / unit * (1 + 1e-12)) * unit
