"""Sweeps: overhead per point of each executor, and points per second on one and two workers.

The processor time of the process that hands out and stores points, unlike wall time, hardly depends on
what else the machine does: its inverse bounds the points per second of a sweep on any number of cores.

``python -m tests.benchmarks.bench_sweeps``; medians of repeats, all in one run.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fpsolve import simulate, sweep
from theory import Langevin, degenerate_valley, random_shift

REPEATS = 3
EMPTY_POINTS = 400
WORK_POINTS = 32


def nothing(i, rng):
    """A point that costs nothing: what remains is overhead."""
    return {"value": float(i)}


def histogram(i, rng):
    """A point that costs nothing and returns 80 kB."""
    return {"value": np.full(10_000, float(i))}


def work(i, rng):
    """A tenth of a second or so of walkers."""
    sgd = Langevin(degenerate_valley(), random_shift(learning_rate=0.01, sigma=0.1))
    run = simulate(sgd, walkers=512, time=200.0, start={"x": 0.7, "y": 0.0}, rng=rng, threads=1)
    return {"value": float(run.second_moment[0, 0])}


@contextmanager
def executors(kind: str, workers: int):
    """A warm executor of a kind."""
    if kind == "none":
        yield None
    elif kind == "threads":
        with ThreadPoolExecutor(workers) as executor:
            yield executor
    elif kind == "processes":
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            yield executor
    elif kind == "loky":
        from loky import get_reusable_executor

        executor = get_reusable_executor(workers)
        yield executor
        executor.shutdown()
    elif kind == "dask":
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor(pure=False)


def seconds(run, points: int, executor, store: bool) -> tuple[float, float]:
    """Median wall time of a sweep and processor time of this process, a first one to warm up left out."""
    times = []
    for repeat in range(REPEATS + 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.zarr" if store else None
            begin = time.perf_counter(), time.process_time()
            sweep(run, {"i": np.arange(points)}, executor=executor, store=path, seed=repeat)
            times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    wall, processor = zip(*times[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    """Print the tables."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores; per empty point in ms, wall / processor time here ({EMPTY_POINTS} points, 1 worker)"
    )
    print(f"{'executor':>10} {'no store':>14} {'store':>14} {'80 kB each':>14}")
    for kind in ("none", "threads", "processes", "loky", "dask"):
        with executors(kind, 1) as executor:
            cells = [
                "{:.2f} / {:.2f}".format(
                    *(1e3 * t / EMPTY_POINTS for t in seconds(run, EMPTY_POINTS, executor, store))
                )
                for run, store in ((nothing, False), (nothing, True), (histogram, True))
            ]
        print(f"{kind:>10} " + " ".join(f"{cell:>14}" for cell in cells), flush=True)
    print(f"\npoints per second ({WORK_POINTS} points of walkers, with a store)")
    print(f"{'executor':>10} {'1 worker':>9} {'2 workers':>10} {'ratio':>6}")
    for kind in ("none", "processes", "loky", "dask"):
        rates = []
        for workers in (1, 2) if kind != "none" else (1,):
            with executors(kind, workers) as executor:
                rates.append(WORK_POINTS / seconds(work, WORK_POINTS, executor, True)[0])
        second = f"{rates[1]:10.2f} {rates[1] / rates[0]:6.2f}" if len(rates) > 1 else ""
        print(f"{kind:>10} {rates[0]:9.2f} {second}", flush=True)


if __name__ == "__main__":
    main()
