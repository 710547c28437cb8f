"""Flatness that SGD reaches in a valley of many dimensions, over (σ, η): the sweep behind PRL Fig. 3c."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.wide_valley import simulate_valley
from fpsolve.phases.plane import outcome, over_plane, with_error
from fpsolve.statistics import mean_and_error
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.noise import random_shift
from theory.valley.flatness import coefficients, flatness_from

#: Relative change of the mean flatness between the halves of the measured time that counts as settled.
SETTLED = 0.01


def flatness_point(
    sigma: float,
    learning_rate: float,
    rng: np.random.SeedSequence,
    *,
    landscape: Landscape,
    walkers: int = 32,
    time: float = 2000.0,
    burn_in: float = 1000.0,
    start: tuple[float, float] = (0.6, 0.3),
    records: int = 40,
) -> Mapping[str, object]:
    """Mean flatness after the burn-in, and diverged walkers, at one (σ, η). A function for a sweep.

    The landscape is a valley that :func:`fpsolve.simulate_valley` runs. ``time`` and ``burn_in`` are in units
    of η × iterations, ``start`` is the first value of every flat and of every sharp variable, and curvatures
    are recorded at ``records`` times.

    ``flatness`` ⟨F⟩ and ``weighted_flatness`` ⟨F̂⟩, with ``_stderr``, are means over walkers and records after
    the burn-in. ``settled`` is 1 if ⟨F⟩ of both halves agrees to 1 %. ``phase`` is 3 if half of the walkers
    or more diverged, else 0: no sharp border divides the rest.
    """
    sgd = Langevin(landscape, random_shift(learning_rate=learning_rate, sigma=sigma))
    every = max(1, round(time / records / learning_rate)) * learning_rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that all walkers diverged is an outcome here
        run = simulate_valley(
            sgd, walkers=walkers, time=time, record_every=every, rng=rng, threads=1,
            start={"flat": start[0], "sharp": start[1]},
        )  # fmt: skip
    lost = int(run.diverged.sum())
    late = run.isel(walker=np.flatnonzero(run.diverged == 0)).sel(time=slice(burn_in, None))
    curvatures = late.walker_curvature.to_numpy()
    gone = 2 * lost >= walkers
    found: dict[str, object] = {}
    settled = False
    for name, weights, words in (
        ("weighted_flatness", run.weight.to_numpy(), r"weighted flatness $\langle\hat F\rangle$"),
        ("flatness", None, r"flatness $\langle F\rangle$"),
    ):
        mean = error = math.nan
        if not gone:
            values = flatness_from(curvatures, weights)
            mean, error = mean_and_error(values.mean(axis=1))
            first, second = (half.mean() for half in np.array_split(values, 2, axis=1))
            settled = bool(abs(second - first) < SETTLED * second)
        found |= with_error(name, mean, error, words)
    return found | outcome(lost=lost, settled=settled, phase=3 if gone else 0, phases="3 where half diverged")


def flatness_diagram(
    landscape: Landscape,
    *,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    walkers: int = 32,
    time: float = 2000.0,
    burn_in: float = 1000.0,
    start: tuple[float, float] = (0.6, 0.3),
    executor: Executor | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Flatness of SGD's steady state in a valley of many dimensions, on a grid of (σ, η).

    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Fig. 3c.

    Parameters
    ----------
    landscape : Landscape
        From :func:`theory.degenerate_valley` with ``n_sharp`` and ``n_flat``.
    sigma, learning_rate : array_like
        The grid.
    time, burn_in : float
        Length of the run in units of η × iterations, and the part that is left out.
    start : (flat, sharp)
        First value of every flat and every sharp variable.
    executor, store, seed, progress
        As in :func:`fpsolve.sweep`.

    Returns
    -------
    Dataset
        Dims ``("sigma", "learning_rate")``. ``flatness`` ⟨F⟩ over walkers and time after the burn-in,
        ``weighted_flatness`` ⟨F̂⟩, with ``_stderr``; ``diverged`` walkers; ``settled``, 1 if ⟨F⟩ of both
        halves agrees to 1 %; ``phase``, 3 if half of the walkers or more diverged, else 0. Drawn by
        :func:`fpsolve.plot_phases.phase_map`. A ValueError, before any run, if the landscape is no such
        valley, σ or η is not positive, or the burn-in is not shorter than the time.
    """
    coefficients(landscape)
    grid = {"sigma": sigma, "learning_rate": learning_rate}
    run = {"walkers": walkers, "time": time, "burn_in": burn_in, "start": start}
    options = {"executor": executor, "store": store, "seed": seed, "progress": progress}
    return over_plane(flatness_point, landscape, grid, run, options, title="flatness")
