"""Escape of SGD on a finite data set: minibatches are drawn, without a model of their noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.escape.kernel import CENSORED, DIVERGED, ESCAPED
from fpsolve.escape.passages import Passages, passage_dataset
from fpsolve.progress import shown
from fpsolve.symbols.counter_rng import Seed, random_key
from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.target import signed_function
from theory.landscape import Landscape


def simulate_minibatch_escape(
    landscape: Landscape,
    data: np.ndarray,
    *,
    start: Mapping[str, ArrayLike],
    target: sp.Basic,
    learning_rate: float,
    batch_size: int,
    walkers: int,
    max_steps: int,
    divergence: float = 1e6,
    rng: Seed = None,
    progress: bool = False,
) -> xr.Dataset:
    """Time at which SGD on shifted data first reaches a target: θ ← θ − (η/B) Σ_b ∇f(θ − x_b).

    Each step of each walker draws B samples with replacement. The mean loss over x ~ N(0, vI) is that of
    ``styblinski_tang(shift_variance=v)``. Its Langevin equation has :func:`theory.data_shift` noise; SGD
    differs from that by finite steps and by the higher cumulants of a minibatch.

    Parameters
    ----------
    landscape : Landscape
        f, without parameters.
    data : array, shape (M, n)
        x; shape (M,) in one dimension.
    start, target
        As in :func:`fpsolve.simulate_escape`; the target is looked at after each iteration.
    learning_rate, batch_size : float, int
        η and B.
    walkers, max_steps : int
        A walker that has not escaped after ``max_steps`` iterations is censored.
    divergence : float, optional
        A walker with a coordinate not below this in size has diverged, even inside the target.

    Returns
    -------
    Dataset
        As from :func:`fpsolve.simulate_escape`, for :func:`fpsolve.escape_rate`; times are η × iterations.
        A ValueError if a start is inside the target, the data have another number of columns than f has
        variables or are not finite, or a number is not positive. Source: Xie, Sato, Sugiyama, ICLR 2021,
        appendix E.1 (50 000 samples of N(0, I)).
    """
    samples = np.asarray(data, float).reshape(len(data), -1)
    n = len(landscape.variables)
    if samples.shape[1] != n or not np.isfinite(samples).all():
        raise ValueError(f"data of shape {np.shape(data)} must be finite, with {n} columns")
    for name, value in (("batch_size", batch_size), ("walkers", walkers), ("max_steps", max_steps)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name}={value} must be a whole number, at least 1")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate={learning_rate:g} must be positive and finite")
    if set(start) != set(landscape.names):
        raise ValueError(f"start names {sorted(start)}; the landscape has {list(landscape.names)}")
    inside = numpy_function(signed_function(target, landscape.variables), landscape.variables)
    places = [np.broadcast_to(np.asarray(start[name], float), (walkers,)) for name in landscape.names]
    if not (inside(*places) <= 0).all():
        raise ValueError(f"a start is inside the target {target}; start elsewhere")
    key = random_key(rng)
    gradient = numpy_function(list(landscape.gradient), landscape.variables)
    outcome, steps = np.full(walkers, CENSORED, np.int8), np.full(walkers, max_steps, np.int64)
    final = np.stack(places)
    alive, theta = np.arange(walkers), final.copy()
    stream = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
    columns = np.ascontiguousarray(samples.T)
    for step in shown(range(1, max_steps + 1), unit="iteration", progress=progress, leave=True):
        drawn = columns[:, stream.integers(0, len(samples), (len(alive), int(batch_size)))]
        theta = theta - learning_rate * gradient(*(theta[:, :, None] - drawn)).mean(axis=-1)
        lost = ~(np.abs(theta) < divergence).all(axis=0)
        ended = lost | (inside(*theta) > 0)
        final[:, alive[~lost]] = theta[:, ~lost]
        if ended.any():
            outcome[alive[ended]] = np.where(lost[ended], DIVERGED, ESCAPED)
            steps[alive[ended]] = step
            alive, theta = alive[~ended], theta[:, ~ended]
            if not len(alive):
                break
    return passage_dataset(
        landscape.names, Passages(outcome, steps, final.T, np.full(walkers, -np.inf)), steps * learning_rate,
        title=f"escape of minibatch SGD on {landscape.name}, B = {int(batch_size)}",
        landscape=landscape.name, target=str(target), boundary="none", time_step=float(learning_rate),
        key=key, batch_size=int(batch_size), samples=len(samples),
        divergence=float(divergence),
    )  # fmt: skip
