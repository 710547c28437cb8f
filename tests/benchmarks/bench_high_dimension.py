"""Ensembles of the 105-dimensional valley with random-shift noise: nanoseconds per walker-step.

Run ``python -m tests.benchmarks`` or ``python -m tests.benchmarks.bench_high_dimension``. A C compiler is
needed for the reference, ``valley_high_dimension.c``; without one it is left out. All runs do the same work
in float64: Euler–Maruyama with dt = η from the same place, H never built, a divergence check in every step.
The reference has one xoshiro256++ per walker; ``NumPy`` is vectorised over walkers, with BLAS products
and PCG64. Runs take turns, so that a busy machine slows all of them; times are of the thread, medians of repeats;
compilation is not counted.
"""

from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpsolve.ensemble.wide_valley import simulate_valley
from theory import Langevin, degenerate_valley, random_shift
from theory.valley.flatness import WideValley, coefficients

WALKERS, REPEATS, LANES = 512, 7, 32
ETA, SIGMA = 0.01, 0.1
FLAGS = [
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-shared",
    "-fPIC",
    f"-DLANES={LANES}",
]


def main() -> None:
    """Print medians, and ratios to C and to NumPy."""
    landscape = degenerate_valley(n_sharp=5, n_flat=100)
    valley = coefficients(landscape)
    process = Langevin(landscape, random_shift(learning_rate=ETA, sigma=SIGMA))

    def compiled(steps: int) -> float:
        run = simulate_valley(
            process, walkers=WALKERS, time=steps * ETA, rng=0, threads=1, start={"flat": 0.6, "sharp": 0.3}
        )
        return float((run.sharp**2).mean())

    runs: dict[str, tuple[Callable[[int], float], int]] = {"simulate_valley, 1 thread": (compiled, 1500)}
    with tempfile.TemporaryDirectory() as directory:
        reference = _c_run(Path(directory), valley)
        if reference is not None:
            runs["C"] = (reference, 1500)
        runs["NumPy"] = (lambda steps: _numpy_run(valley, steps), 60)
        times: dict[str, list[float]] = {name: [] for name in runs}
        values = {}
        for run, _ in runs.values():
            run(2)  # compiles
        for _ in range(REPEATS):
            for name, (run, steps) in runs.items():
                before = time.process_time()
                values[name] = run(steps)
                times[name].append((time.process_time() - before) / (WALKERS * steps) * 1e9)
    medians = {name: statistics.median(sample) for name, sample in times.items()}
    print(f"{len(landscape.variables)} variables, {WALKERS} walkers, {REPEATS} repeats")
    for name, median in medians.items():
        print(f"{name:28}{median:9.0f} ns  fastest {min(times[name]):6.0f}  <y²> {values[name]:.3g}")
    ours = medians["simulate_valley, 1 thread"]
    if "C" in medians:
        print(f"against C: {ours / medians['C']:.2f} (target 1.5 or less)")
    print(f"against NumPy: {medians['NumPy'] / ours:.1f} times faster (target 4.5)")


def _c_run(directory: Path, valley: WideValley) -> Callable[[int], float] | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = directory / "valley.so"
    source = Path(__file__).with_name("valley_high_dimension.c")
    subprocess.run([compiler, *FLAGS, str(source), "-o", str(target), "-lm"], check=True)
    function = ctypes.CDLL(str(target)).valley
    long, real, pointer = ctypes.c_long, ctypes.c_double, ctypes.c_void_p
    function.argtypes = [long, long, ctypes.c_uint64, long, *[real] * 4, *[pointer] * 5]
    function.restype = None
    a, b = (np.ascontiguousarray(c.T) for c in (valley.quadratic, valley.quartic))

    def run(steps: int) -> float:
        positions = np.full((WALKERS // LANES, 105, LANES), 0.6)
        positions[:, 100:] = 0.3
        exits = np.full(WALKERS, -1)
        pointers = [array.ctypes.data for array in (valley.constant, a, b, positions, exits)]
        function(WALKERS // LANES, steps, 1, 100, ETA, ETA * SIGMA, valley.lift, 1e6, *pointers)
        return float((positions[:, 100:] ** 2).mean())

    return run


def _numpy_run(valley: WideValley, steps: int) -> float:
    """All walkers at once, in columns; products with the coefficients by BLAS."""
    rng = np.random.default_rng(0)
    a, b = valley.quadratic, valley.quartic
    aT, bT = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    x, y = np.full((100, WALKERS), 0.6), np.full((5, WALKERS), 0.3)
    inside = np.ones(WALKERS, bool)
    shift, scale = np.sqrt(2 * ETA * SIGMA), np.sqrt(ETA)
    for _ in range(steps):
        noise = rng.standard_normal((105, WALKERS))
        noise *= scale
        mu, nu = noise[:100], noise[100:]
        q, h = x * x, 0.5 * y * y
        w = shift * y * nu - ETA * h
        curvature = valley.constant[:, None] + a @ q + b @ (q * q)
        xm = x * mu
        cross = a @ xm + 2 * (b @ (q * xm))
        stiffness = valley.lift + 2 * (aT @ h) + 12 * q * (bT @ h)
        new_x = x * (1 - ETA * valley.lift + 2 * (aT @ w) + 4 * q * (bT @ w)) + shift * stiffness * mu
        new_y = y - ETA * curvature * y + shift * (curvature * nu + 2 * y * cross)
        inside &= (new_x**2).sum(axis=0) + (new_y**2).sum(axis=0) < 1e12
        x, y = np.where(inside, new_x, x), np.where(inside, new_y, y)
    return float((y**2).mean())


if __name__ == "__main__":
    main()
