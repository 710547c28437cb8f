"""Ensembles of the 2D degenerate valley with random-shift noise: nanoseconds per walker-step.

Run ``python -m tests.benchmarks`` or ``python -m tests.benchmarks.bench_ensemble``. A C compiler is
needed for the references, jax and diffrax (not dependencies of the package) for the peer; what is
missing is left out. All runs do the same work in float64: Euler–Maruyama with dt = η from the
minimum, running sums of x, y, |x|, |y|, xx, xy, yy, and a divergence check. Runs take turns, so that
a busy machine slows all of them; compilation is not counted.

``C, lanes`` is the compiled kernel's arithmetic with one xoshiro256++ per walker: the fastest C found.
``C, plain`` is one walker after the other, with libm. Both in ``valley.c``. diffrax (jitted, vmapped, one core, no divergence check, the sums as
further equations) runs with both of its sources of noise: independent increments, its fastest and
only for fixed steps, and the Brownian tree, which can be replayed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpsolve.ensemble.numpy_step import numpy_advance
from fpsolve.ensemble.simulation import simulate
from fpsolve.ensemble.state import fresh_state
from theory import Langevin, degenerate_valley, random_shift

WALKERS, REPEATS = 4096, 7
ETA, SIGMA, EPSILON = 0.01, 0.1, 1e-3
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC"]


def main() -> None:
    """Print medians, and ratios to the fastest C."""
    process = Langevin(
        degenerate_valley(lambda_=(8, -2, 1), epsilon=EPSILON), random_shift(learning_rate=ETA, sigma=SIGMA)
    )
    runs: dict[str, tuple[Callable[[int], float], int]] = {}  # name: second moment of y, steps
    with tempfile.TemporaryDirectory() as directory:
        library = _c_library(Path(directory))
        if library is not None:
            runs["C, lanes"] = (lambda steps: _c_run(library.valley_lanes, WALKERS // 32, steps), 4000)
            runs["C, plain"] = (lambda steps: _c_run(library.valley_plain, WALKERS, steps), 500)
        start = {"x": 0.0, "y": 0.0}

        def compiled(threads: int) -> Callable[[int], float]:
            def run(steps: int) -> float:
                paths = simulate(
                    process, walkers=WALKERS, time=steps * ETA, start=start, rng=0, threads=threads
                )
                return float(paths.second_moment[1, 1])

            return run

        runs["simulate, 1 thread"] = (compiled(1), 40_000)
        runs["simulate, 2 threads"] = (compiled(2), 80_000)
        runs["NumPy, same generator"] = (lambda steps: _numpy_counter_run(process, steps), 20)
        runs["NumPy, plain"] = (_numpy_run, 100)
        if importlib.util.find_spec("diffrax") is not None:
            runs["diffrax, increments"] = (_diffrax_run(tree=False), 100)
            runs["diffrax, Brownian tree"] = (_diffrax_run(tree=True), 20)
        times: dict[str, list[float]] = {name: [] for name in runs}
        values: dict[str, float] = {}
        for run, steps in runs.values():
            run(steps)  # compiles
        for _ in range(REPEATS):
            for name, (run, steps) in runs.items():
                before = time.perf_counter()
                values[name] = run(steps)
                times[name].append((time.perf_counter() - before) / (WALKERS * steps) * 1e9)
    medians = {name: statistics.median(sample) for name, sample in times.items()}
    print(f"{WALKERS} walkers, {REPEATS} repeats, {os.cpu_count()} processors")
    print(f"{'':24}{'ns/step':>9}{'fastest':>9}{'/ C lanes':>11}{'<y²>':>11}")
    for name, median in medians.items():
        ratio = median / medians["C, lanes"] if "C, lanes" in medians else float("nan")
        print(f"{name:24}{median:9.2f}{min(times[name]):9.2f}{ratio:11.2f}{values[name]:11.3g}")
    one, two = medians["simulate, 1 thread"], medians["simulate, 2 threads"]
    print(f"two threads against one: {one / two:.2f} (target 1.8)")
    if "C, lanes" in medians:
        print(f"against the fastest C: {one / medians['C, lanes']:.2f} (target 1.6 or less)")
    for name in [name for name in medians if "diffrax" in name]:
        print(f"against {name}: {medians[name] / one:.0f} times faster (target 25)")


def _c_library(directory: Path) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    target = directory / "valley.so"
    source = Path(__file__).with_name("valley.c")
    subprocess.run([compiler, *FLAGS, str(source), "-o", str(target), "-lm"], check=True)
    library = ctypes.CDLL(str(target))
    for function in (library.valley_lanes, library.valley_plain):
        long, real, pointer = ctypes.c_long, ctypes.c_double, ctypes.c_void_p
        function.argtypes = [long, long, ctypes.c_uint64, *[real] * 7, pointer, pointer]
        function.restype = None
    return library


def _c_run(function: Callable[..., None], count: int, steps: int) -> float:
    positions, sums = np.zeros(2 * WALKERS), np.zeros(7 * WALKERS)
    numbers = (ETA, ETA * SIGMA, 8 * EPSILON, 8.0, -2.0, 1.0, 1e6)
    function(count, steps, 1, *numbers, positions.ctypes.data, sums.ctypes.data)
    lanes = 32 if count < WALKERS else 1
    return float(sums.reshape(-1, 7, lanes)[:, 6].mean() / steps)


def _numpy_run(steps: int) -> float:
    """One NumPy expression per line, PCG64."""
    rng = np.random.default_rng(0)
    X, Y, sums = np.zeros(WALKERS), np.zeros(WALKERS), np.zeros((7, WALKERS))
    scale = np.sqrt(2 * ETA * SIGMA * ETA)
    for _ in range(steps):
        A, B = scale * rng.standard_normal((2, WALKERS))
        x2, half = X * X, 0.5 * Y * Y
        curvature, slope, bend = 8 + x2 * (x2 - 2), X * (4 * x2 - 4), 12 * x2 - 4
        cross = slope * Y
        new_x = X - ETA * (8 * EPSILON * X + slope * half) + (8 * EPSILON + bend * half) * A + cross * B
        new_y = Y - ETA * curvature * Y + cross * A + curvature * B
        inside = (abs(new_x) < 1e6) & (abs(new_y) < 1e6)
        X, Y = np.where(inside, new_x, X), np.where(inside, new_y, Y)
        for row, value in zip(sums, (X, Y, abs(X), abs(Y), X * X, X * Y, Y * Y), strict=True):
            row += value
    return float(sums[6].mean() / steps)


def _numpy_counter_run(process: Langevin, steps: int) -> float:
    """The loop that stands in where noise has no symbolic root."""
    state = fresh_state(
        process, walkers=WALKERS, time=steps * ETA, time_step=None, start={"x": 0.0, "y": 0.0}, burn_in=0.0,
        bins=None, rng=0, divergence=1e6, first_walker=0,
    )  # fmt: skip
    empty = np.zeros(0, np.int64)
    numpy_advance(process)(
        state.positions, state.excess, state.bounds, state.exit_step, state.sums, np.zeros(0), *state.key, 0,
        0, steps, 0, ETA, empty, np.zeros(0), np.zeros(1, np.int64), empty, 0, np.zeros(0), 0, 0,
        len(state.positions),
    )  # fmt: skip
    return float(state.sums[:, 6].mean() / steps)


def _diffrax_run(*, tree: bool) -> Callable[[int], float]:
    """diffrax's Euler with a Brownian path per walker; the sums are seven more equations."""
    if hasattr(os, "sched_setaffinity"):  # its threads inherit one processor; ours go on with all
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(everywhere)})
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    root = np.sqrt(2 * ETA * SIGMA)

    def drift(t, z, _):
        x, y = z[0], z[1]
        x2 = x * x
        slope = x * (4 * x2 - 4)
        b = [-(8 * EPSILON * x + slope * y * y / 2), -(8 + x2 * (x2 - 2)) * y]
        return jnp.stack([*b, x, y, abs(x), abs(y), x * x, x * y, y * y])

    def diffusion(t, z, _):
        x, y = z[0], z[1]
        x2 = x * x
        cross = x * (4 * x2 - 4) * y
        bend = 8 * EPSILON + (12 * x2 - 4) * y * y / 2
        G = root * jnp.array([[bend, cross], [cross, 8 + x2 * (x2 - 2)]])
        return jnp.concatenate([G, jnp.zeros((7, 2))])

    def ensemble(keys, steps):
        end = steps * ETA

        def one(key):
            if tree:
                noise = diffrax.VirtualBrownianTree(0.0, end, tol=ETA / 2, shape=(2,), key=key)
            else:
                noise = diffrax.UnsafeBrownianPath(shape=(2,), key=key)
            terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, noise))
            solution = diffrax.diffeqsolve(
                terms, diffrax.Euler(), 0.0, end, ETA, jnp.zeros(9), max_steps=None,
                adjoint=diffrax.ForwardMode(),
            )  # fmt: skip
            return solution.ys[-1, 8] / end

        return jax.vmap(one)(keys)

    jitted = jax.jit(ensemble, static_argnums=1)
    keys = jax.block_until_ready(jax.random.split(jax.random.key(0), WALKERS))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, everywhere)
    return lambda steps: float(jitted(keys, steps).mean())


if __name__ == "__main__":
    main()
