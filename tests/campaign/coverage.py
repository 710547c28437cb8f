"""``python -m tests.campaign.coverage 200``: how often 95 % intervals of escape times hold the exact time.

Six systems at the defaults of :func:`fpsolve.split_escape`: an exit to 6σ, both ends of a harmonic well, a
double well, a limit cycle, an underdamped well and noise that depends on the place.
"""

from __future__ import annotations

import argparse
import math
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import sympy as sp
from scipy import integrate, linalg, stats

from fpsolve import split_escape
from fpsolve.progress import bar
from tests.campaign.referees import passage_line
from theory import Diffusion, Landscape, Langevin, isotropic

x, y = sp.symbols("x y", real=True)
R = sp.Rational
RADIUS = x**2 + y**2


def _line(potential, D, start: float, target: float, end: float) -> float:
    """Exact time in one dimension; ``potential`` is −∫ b/D."""
    return passage_line(potential, lambda z: D(z) + 0.0 * z, start, target, end)


def _around_a_cycle(D: float = 0.05, outer: float = math.sqrt(2.2)) -> float:
    """Time from r = 1 to r = outer with r' = r − r³ + D/r: rotation changes nothing."""
    U = lambda r: r**4 / 4 - r**2 / 2 + 0.25  # noqa: E731
    inner = lambda z: integrate.quad(lambda s: s * math.exp(-U(s) / D), 0, z)[0]  # noqa: E731
    outwards = lambda z: inner(z) * math.exp(U(z) / D) / (D * z)  # noqa: E731
    return integrate.quad(outwards, 1, outer, epsabs=0, epsrel=1e-9)[0]


def _oscillator(friction=0.5, temperature=0.1, target=0.8, step=0.01, walkers=20_000) -> float:
    """Time of x' = v, v' = −x − γv + √(2γT)ξ from rest to x > target, by its exact propagator; good to 0.8 %."""
    turn = linalg.expm(step * np.array([[0, 1], [-1, -friction]]))
    spread = np.linalg.cholesky(temperature * (np.eye(2) - turn @ turn.T))
    rng, z, total, k = np.random.default_rng(5), np.zeros((2, walkers)), 0.0, 0
    while z.shape[1]:
        z, k = turn @ z + spread @ rng.standard_normal(z.shape), k + 1
        out = z[0] > target
        total += (k - 0.5) * step * out.sum()
        z = z[:, ~out]
    return total / walkers


def systems() -> dict:
    """Name: process, start, target, exact time as a function, options."""
    six = 6 * math.sqrt(0.5)
    harmonic = Langevin(Landscape(x**2 / 2, (x,)), isotropic(R(1, 20)))
    double = Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), isotropic(R(1, 20)))
    cycle = Diffusion([x * (1 - RADIUS) - 2 * y, y * (1 - RADIUS) + 2 * x], sp.eye(2) / 20, (x, y))
    under = Diffusion([y, -x - y / 2], sp.diag(0, R(1, 20)), (x, y))
    wide = Diffusion([-x], [[R(1, 4) + x**2 / 8]], (x,))
    return {
        "OU to 6 sigma": (
            Diffusion([-x], [[R(1, 2)]], (x,)), {"x": 0}, x > six,
            lambda: _line(lambda z: z**2, lambda z: 0.5, 0.0, six, -6.0), {},
        ),
        "harmonic well, both ends": (
            # by symmetry that of one end with a reflecting wall at 0
            harmonic, {"x": 0}, sp.Or(x > 1, x < -1), lambda: _line(lambda z: 10 * z**2, lambda z: 0.05, 0.0, 1.0, 0.0), {},
        ),
        "double well to the top": (
            double, {"x": -1}, x > 0, lambda: _line(lambda z: 5 * z**4 - 10 * z**2, lambda z: 0.05, -1.0, 0.0, -3.0), {},
        ),
        "limit cycle": (cycle, {"x": 1, "y": 0}, R(11, 5) < RADIUS, _around_a_cycle, {"time_step": 0.02, "relaxation_time": 2.0}),
        "underdamped well": (under, {"x": 0, "y": 0}, x > R(4, 5), _oscillator, {}),
        "noise of place": (
            wide, {"x": 0}, x > 4, lambda: _line(lambda z: 4 * np.log(2 + z**2), lambda z: 0.25 + z**2 / 8, 0.0, 4.0, -60.0), {},
        ),
    }  # fmt: skip


def held(name: str, walkers: int, seed: int) -> tuple[float, float, float]:
    """Ends of the interval of one run, and ln T."""
    process, start, target, _, options = systems()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = split_escape(
            process, start=start, target=target, rng=seed, walkers=walkers, threads=1, **options
        )
    return float(run.mean_time_low), float(run.mean_time_high), float(run.log_mean_time)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=200)
    parser.add_argument("--walkers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first seed")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with (
        ProcessPoolExecutor(given.workers) as pool,
        bar(6 * given.seeds, unit="run", progress=True) as progress,
    ):
        for name, (_, _, _, referee, _) in systems().items():
            exact, runs = referee(), []
            for run in pool.map(
                partial(held, name, given.walkers), range(given.seed, given.seed + given.seeds)
            ):
                runs.append(run)
                progress.update(1)
            low, high, logs = np.array(runs).T
            inside = int(((low <= exact) & (exact <= high)).sum())
            interval = stats.binomtest(inside, len(runs)).proportion_ci(0.95)
            miss = logs - math.log(exact)
            print(
                f"{name:28} exact {exact:12.6g}, held {inside}/{len(runs)} = {inside / len(runs):.3f} "
                f"[{interval.low:.3f}, {interval.high:.3f}], bias of ln T {miss.mean():+.4f} "
                f"± {miss.std() / math.sqrt(len(runs)):.4f}"
            )


if __name__ == "__main__":
    main()
