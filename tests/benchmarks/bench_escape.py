"""First passages out of a tilted double well in 2D: nanoseconds per walker-step with the crossing test on.

Run ``python -m tests.benchmarks`` or ``python -m tests.benchmarks.bench_escape``. All runs follow walkers from
the same minimum with the same step until a time limit, far below the mean escape time, so that almost none
ends early. ``simulate`` does the same steps without a target (it keeps running sums instead). The scalar loop
is what one writes by hand in numba; NumPy moves all walkers at once. Runs take turns; compilation is not
counted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import sympy as sp
from numba import njit

from fpsolve import simulate, simulate_escape
from theory import Landscape, Langevin, isotropic

WALKERS, REPEATS = 4096, 7
DT, D = 0.01, 0.02
x, y = sp.symbols("x y", real=True)
START = {"x": -1.0, "y": 0.1}
HALF_SPACE, DISC = x > sp.Rational(1, 2), (x - 1) ** 2 + y**2 < sp.Rational(1, 4)


def main() -> None:
    """Print medians, and ratios to the step without a target."""
    process = Langevin(Landscape(x**4 / 4 - x**2 / 2 + y**2 + x * y / 4, (x, y)), isotropic(D))

    def escape(target, boundary, threads=1) -> Callable[[int], int]:
        def run(steps: int) -> int:
            runs = simulate_escape(
                process, start=START, target=target, walkers=WALKERS, time_step=DT, max_time=steps * DT, rng=0,
                boundary=boundary, threads=threads,
            )  # fmt: skip
            return runs.attrs["walker_steps"]

        return run

    def free(steps: int) -> int:
        simulate(process, walkers=WALKERS, time=steps * DT, time_step=DT, start=START, rng=0, threads=1)
        return WALKERS * steps

    runs: dict[str, tuple[Callable[[int], int], int]] = {
        "simulate, no target": (free, 10_000),
        "half-space, none": (escape(HALF_SPACE, "none"), 10_000),
        "half-space, bridge": (escape(HALF_SPACE, "bridge"), 10_000),
        "half-space, shift": (escape(HALF_SPACE, "shift"), 10_000),
        "disc, bridge": (escape(DISC, "bridge"), 10_000),
        "half-space, bridge, 2 threads": (escape(HALF_SPACE, "bridge", 2), 20_000),
        "numba, scalar loop": (lambda steps: int(_scalar(np.random.default_rng(0), WALKERS, steps)), 1000),
        "NumPy": (_numpy, 200),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run, steps in runs.values():
        run(steps // 10)  # compiles
    for _ in range(REPEATS):
        for name, (run, steps) in runs.items():
            before = time.perf_counter()
            made = run(steps)
            times[name].append((time.perf_counter() - before) / made * 1e9)
    medians = {name: statistics.median(sample) for name, sample in times.items()}
    base = medians["simulate, no target"]
    print(f"{WALKERS} walkers, {REPEATS} repeats")
    print(f"{'':32}{'ns/step':>9}{'steps/s':>10}{'/ no target':>13}")
    for name, median in medians.items():
        print(f"{name:32}{median:9.2f}{1e9 / median:10.2g}{median / base:13.2f}")


@njit
def _scalar(rng: np.random.Generator, walkers: int, steps: int) -> int:
    """Bridge test at x = 1/2, one walker after the other."""
    scale = math.sqrt(2 * D * DT)
    made = 0
    for _ in range(walkers):
        a, b = -1.0, 0.1
        for _ in range(steps):
            new = a - DT * (a**3 - a + b / 4) + scale * rng.standard_normal()
            b += -DT * (2 * b + a / 4) + scale * rng.standard_normal()
            made += 1
            if new > 0.5 or rng.random() < math.exp(-(0.5 - a) * (0.5 - new) / (D * DT)):
                break
            a = new
    return made


def _numpy(steps: int) -> int:
    """The same with one NumPy expression per line."""
    rng = np.random.default_rng(0)
    scale = math.sqrt(2 * D * DT)
    a, b = np.full(WALKERS, -1.0), np.full(WALKERS, 0.1)
    alive, made = np.ones(WALKERS, bool), 0
    for _ in range(steps):
        xi = scale * rng.standard_normal((2, WALKERS))
        new = a - DT * (a**3 - a + b / 4) + xi[0]
        b = b - DT * (2 * b + a / 4) + xi[1]
        made += int(alive.sum())
        crossed = rng.random(WALKERS) < np.exp(-np.maximum(0.5 - a, 0) * np.maximum(0.5 - new, 0) / (D * DT))
        alive &= ~(crossed | (new > 0.5))
        a = new
    return made


if __name__ == "__main__":
    main()
