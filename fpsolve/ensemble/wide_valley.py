"""Ensembles in valleys of many dimensions: how flatness grows under SGD, gradient descent and Langevin noise.

Steps and normals are those of :func:`fpsolve.simulate`. The kernel loops over arrays of coefficients instead
of symbols, so that a hundred variables compile in a second and no Hessian is built. It records curvatures,
flatness and the predictions of the averaged dynamics, but no second moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.lanes import LANES, from_lanes, to_lanes
from fpsolve.ensemble.parts import cuts, finished, in_threads
from fpsolve.ensemble.state import available_threads, checked_step, saving_steps, whole_steps
from fpsolve.ensemble.summary import divergences, error_note, mean, stderr, with_stderr
from fpsolve.ensemble.wide_kernel import RECORDED_BESIDE, valley_kernel
from fpsolve.results import provenance, quantity
from fpsolve.symbols.counter_rng import GENERATOR, Seed, key_text, random_key
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.valley.flatness import WideValley, coefficients, flatness_from

_CHUNK = 4e5  # walker-steps between looks at Ctrl-C: a fraction of a second


def simulate_valley(
    process: Langevin | Landscape,
    *,
    walkers: int,
    time: float,
    time_step: float | None = None,
    start: Mapping[str, ArrayLike] | None = None,
    record_every: float | None = None,
    rng: Seed = None,
    threads: int | None = None,
    divergence: float = 1e6,
    first_walker: int = 0,
    executor: Executor | None = None,
    parts: int = 32,
    progress: bool = False,
) -> xr.Dataset:
    """Flatness, loss and final positions of an ensemble in a valley of many dimensions.

    Each walker follows θ − dt ∇L + √dt G(θ) ξ with G = √(2Δ_S) H for random shifts (with dt = η one
    iteration of SGD), √(2D) for isotropic noise, 0 for a bare landscape (gradient descent). Bits depend
    on the seed and the walker's number only, not on threads, chunks, or which walkers run together.
    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 3, 5–7, 16 and Figs. 2a, 3.

    Parameters
    ----------
    process : Langevin or Landscape
        A valley that :func:`theory.valley.flatness.coefficients` can read, under random shifts or isotropic
        noise; a landscape alone is descended without noise.
    time : float
        Duration, rounded up to whole steps.
    time_step : float, optional
        dt; default the process's learning rate.
    start : mapping, optional
        ``"flat"`` and ``"sharp"``: a number, one per variable, or an array of shape (walkers, variables).
        What is left out is 0.
    record_every : float, optional
        Time between records, a multiple of the time step; default the whole run. Records take
        8 (N_S + 4) bytes per walker and time.
    divergence : float
        A walker with |θ| not below this has diverged: it stays where it was before, is counted in
        ``diverged``, and is left out of all averages.
    rng, threads, first_walker, executor, parts, progress
        As in :func:`fpsolve.simulate`; :func:`joined` puts results together that ran apart.

    Returns
    -------
    Dataset
        Averages over walkers with ``_stderr`` from their scatter, dims ``time``: ``flatness`` F,
        ``weighted_flatness`` F̂, ``log_weighted_flatness`` ln F̂, ``loss``; ``curvature`` λ_i (time, sharp).
        Per walker: ``flat``, ``sharp`` (final positions), ``diverged``, ``divergence_time``,
        ``walker_curvature`` (walker, time, sharp), ``walker_loss`` and what :func:`flatness_growth` reads.
        A UserWarning if every walker diverged. Before any step, a ValueError if the loss is no such valley or
        an argument makes no sense, and a NotImplementedError for other noise.
    """
    landscape = process.landscape if isinstance(process, Langevin) else process
    if not isinstance(landscape, Landscape):
        raise TypeError(f"expected a theory.Langevin or theory.Landscape, got {type(process).__name__}")
    time_step = checked_step(process, time_step, divergence, first_walker)
    if walkers < 1:
        raise ValueError(f"walkers={walkers} must be at least 1")
    valley = coefficients(landscape)
    shift, uniform = _noise(process)
    points = _first_points(valley, walkers, start, divergence)
    steps = whole_steps(time, time_step, "time")
    if steps < 1:
        raise ValueError(f"time={time:g} must be at least one time step")
    every = saving_steps(record_every, time_step) or steps
    key = random_key(rng)
    if executor is not None:
        run = partial(
            simulate_valley, process, time=time, time_step=time_step, record_every=record_every,
            rng=key_text(key), threads=1 if threads is None else threads, divergence=divergence,
        )  # fmt: skip
        return _run_apart(run, points, valley.n_flat, int(first_walker), executor, parts, progress)
    per_walker = _run(
        landscape.names, valley, points, shift, uniform, key, int(first_walker), steps, every, time_step,
        divergence, available_threads(threads), progress,
    )  # fmt: skip
    attrs = provenance(
        "ensemble in a valley of many dimensions, Euler-Maruyama",
        landscape=landscape.name,
        noise=str(process.noise) if isinstance(process, Langevin) else "none (gradient descent)",
        delta_s=shift**2 / 2,
        isotropic_diffusion=uniform**2 / 2,
        lift=valley.lift,
        sum_of_squared_curvatures=float(np.sum(valley.constant**2)),
        seed=key_text(key),
        generator=GENERATOR,
        divergence=float(divergence),
        time_step=float(time_step),
        steps=int(steps),
    )
    return _summarised(per_walker.assign_attrs(attrs))


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """One ensemble from results of :func:`simulate_valley` that ran apart, in any order: the bits of one run.

    Fails if they differ in more than their walkers, or their walkers are not consecutive.
    """
    if not parts:
        raise ValueError("parts is empty; give at least one result of simulate_valley")
    ordered = sorted(parts, key=lambda part: int(part.walker[0]))
    own = ("walkers", "first_walker", "diverged_walkers", "stderr")
    common = [{k: v for k, v in part.attrs.items() if k not in own} for part in ordered]
    for attrs in common[1:]:
        different = sorted(k for k in common[0] if attrs.get(k) != common[0][k])
        if different:
            raise ValueError(f"the parts differ in {', '.join(different)}; join parts of one ensemble only")
    numbers = np.concatenate([part.walker.to_numpy() for part in ordered])
    if not np.array_equal(numbers, numbers[0] + np.arange(len(numbers))):
        raise ValueError("the walkers of the parts are not consecutive; set first_walker of each part")
    per_walker = [part[[v for v in part.data_vars if "walker" in part[v].dims]] for part in ordered]
    whole = xr.concat(per_walker, "walker")
    return _summarised(whole.assign_attrs(common[0]))


def flatness_growth(run: xr.Dataset, *, after: float = 0.0) -> xr.Dataset:
    """Rate of growth of ln F̂ in every interval between records, beside what the averaged dynamics predicts.

    In an interval, the measured rate is the difference of ln F̂ over time; predictions are averaged over
    the interval's ends. With ⟨y_i²⟩ replaced by its value at fixed x,

    * ``published``: d ln F̂/dt = (ΣΔ_i)|∇ ln F̂|² with Δ_i = Δ_S λ_i(0)², for ε → 0 and λ_i(x) near λ_i(0),
    * ``with_floor``: −ε λ̄₀ x·∇ ln F̂ added,
    * ``averaged``: with λ_i(x) instead of λ_i(0), and the map's ⟨y_i²⟩ = Δ_S λ_i/(1 − ηλ_i/2).

    Parameters
    ----------
    run : Dataset
        Of :func:`simulate_valley` under random shifts, with records.
    after : float
        Leave out intervals that begin before this time, while y still depends on its start.

    Returns
    -------
    Dataset
        dims ``time`` (middles of intervals): ``measured``, ``published``, ``with_floor``, ``averaged``, and
        ``excess_published``, … = measured − predicted, each with ``_stderr`` over walkers. The same names
        ending in ``_overall`` are averages over all intervals, with the error of that average. A ValueError
        if there are no two records after that time, or the noise is not of random shifts.
    """
    delta_s, strength = float(run.attrs["delta_s"]), float(run.attrs["sum_of_squared_curvatures"])
    if not delta_s > 0:
        raise ValueError("the growth of flatness is predicted for random shifts only")
    alive = run.isel(walker=np.flatnonzero(run.diverged == 0)).sel(time=slice(after, None))
    if alive.sizes["time"] < 2:
        raise ValueError(f"fewer than two records after={after:g}; record more often (record_every=)")
    times = alive.time.to_numpy()
    logarithm = np.log(flatness_from(alive.walker_curvature.to_numpy(), run.weight.to_numpy()))
    floor = -float(run.attrs["lift"]) * alive.walker_floor_product.to_numpy()
    published = delta_s * strength * alive.walker_squared_slope.to_numpy()
    averaged = floor - delta_s * alive.walker_noise_product.to_numpy()
    predicted = {"published": published, "with_floor": published + floor, "averaged": averaged}
    rates = {"measured": np.diff(logarithm, axis=1) / np.diff(times)}
    rates |= {name: (values[:, 1:] + values[:, :-1]) / 2 for name, values in predicted.items()}
    rates |= {f"excess_{name}": rates["measured"] - rates[name] for name in predicted}
    found: dict[str, xr.Variable] = {}
    for name, values in rates.items():
        words = f"rate of growth of the logarithm of the weighted flatness, {name.replace('_', ' ')}"
        found |= _mean_with_error(name, ("time",), values, words, "1/time")
        overall = np.average(values, axis=1, weights=np.diff(times))
        found |= _mean_with_error(f"{name}_overall", (), overall, f"{words}, all intervals", "1/time")
    middles = quantity((times[1:] + times[:-1]) / 2, "time", "time", "time")
    return xr.Dataset(found, coords={"time": middles}, attrs=run.attrs)


def _noise(process: Langevin | Landscape) -> tuple[float, float]:
    """The strengths √(2Δ_S) of H ξ and √(2D) of ξ."""
    if isinstance(process, Landscape):
        return 0.0, 0.0
    strengths = process.noise.linear_strengths
    if strengths is None or not (process.cross_diffusion or process.noise.is_isotropic):
        raise NotImplementedError(
            "only random_shift (with its cross terms) and isotropic noise run in many dimensions; "
            "for other noise use simulate"
        )
    if symbols := strengths[0].free_symbols | strengths[1].free_symbols:
        raise ValueError(f"give values to the parameters {', '.join(map(str, symbols))} first")
    return math.sqrt(2 * float(strengths[0])), math.sqrt(2 * float(strengths[1]))


def _first_points(
    valley: WideValley, walkers: int, start: Mapping[str, ArrayLike] | None, divergence: float
) -> np.ndarray:
    """First positions, shape (walkers, N_F + N_S)."""
    given, sizes = dict(start or {}), {"flat": valley.n_flat, "sharp": valley.n_sharp}
    if unknown := sorted(set(given) - set(sizes)):
        raise ValueError(f"start names {', '.join(unknown)}; it may hold 'flat' and 'sharp'")
    columns = []
    for name, size in sizes.items():
        values = np.asarray(given.get(name, 0.0), float)
        if values.shape not in {(), (size,), (walkers, size)}:
            raise ValueError(
                f"start[{name!r}] of shape {values.shape} must be a number, or have shape ({size},) or "
                f"({walkers}, {size})"
            )
        columns.append(np.broadcast_to(values, (walkers, size)))
    points = np.concatenate(columns, axis=1)
    largest = np.sqrt((points**2).sum(axis=1).max())
    if not largest < divergence:
        raise ValueError(f"start has |θ| = {largest:g}, not below divergence={divergence:g}")
    return points


def _run(
    names: tuple[str, ...], valley: WideValley, points: np.ndarray, shift: float, uniform: float,
    key: tuple[int, int], first_walker: int, steps: int, every: int, time_step: float, divergence: float,
    threads: int, progress: bool,
) -> xr.Dataset:  # fmt: skip
    """Final positions, steps of divergence and records of walkers from ``points`` (walkers, N), labelled."""
    walkers, sharp, flat = len(points), valley.n_sharp, valley.n_flat
    advance = valley_kernel(sharp)
    positions = to_lanes(points)
    bounds, exit_step = to_lanes(np.full(walkers, divergence**2)), to_lanes(np.full(walkers, -1))
    groups = len(positions)
    records = np.empty((steps // every + 1, groups, sharp + len(RECORDED_BESIDE), LANES))
    # One more row, of zeros: the kernel takes flat variables two at a time
    quadratic, quartic = (np.vstack([c.T, np.zeros(sharp)]) for c in (valley.quadratic, valley.quartic))

    def part(_: int, begin: int, end: int, low: int, high: int) -> None:
        advance(
            positions, bounds, exit_step, valley.constant, quadratic, quartic, valley.lift,
            valley.weights, shift, uniform, np.uint64(key[0]), np.uint64(key[1]), np.uint64(first_walker),
            begin, end, time_step, every, records, low, high,
        )  # fmt: skip

    in_threads(part, cuts(groups, threads), first=0, last=steps, chunk=_CHUNK, progress=progress)
    final, recorded = from_lanes(positions, walkers), np.moveaxis(from_lanes(records, walkers), 0, 1)
    moment = ("walker", "time")
    found = {
        "flat": quantity(final[:, :flat], ("walker", "flat_variable"), "final x"),
        "sharp": quantity(final[:, flat:], ("walker", "sharp_variable"), "final y"),
        "divergence_step": ("walker", from_lanes(exit_step, walkers)),
        "walker_curvature": quantity(
            recorded[..., :sharp], (*moment, "sharp_variable"), "curvature along a sharp variable"
        ),
    }
    for k, (name, words) in enumerate(RECORDED_BESIDE.items(), sharp):
        found[f"walker_{name}"] = quantity(recorded[..., k], moment, words)
    coords = {
        "walker": first_walker + np.arange(walkers),
        "time": quantity(every * time_step * np.arange(recorded.shape[1]), "time", "time", "time"),
        "flat_variable": list(names[:flat]),
        "sharp_variable": list(names[flat:]),
        "weight": quantity(valley.weights, "sharp_variable", "weight in the weighted flatness"),
    }
    return xr.Dataset(found, coords)


def _run_apart(
    run: Callable[..., xr.Dataset], points: np.ndarray, n_flat: int, first_walker: int,
    executor: Executor, parts: int, progress: bool,
) -> xr.Dataset:  # fmt: skip
    """The joined results of ``run`` for parts of the walkers that start at ``points``, on an executor."""
    ends = np.minimum(np.array(cuts(-(-len(points) // LANES), parts)) * LANES, len(points))
    jobs = {
        executor.submit(
            run,
            walkers=high - low,
            first_walker=first_walker + low,
            start={"flat": points[low:high, :n_flat], "sharp": points[low:high, n_flat:]},
        ): low
        for low, high in pairwise(ends.tolist())
    }
    return joined([result for _, result in finished(jobs, progress=progress)])


def _summarised(run: xr.Dataset) -> xr.Dataset:
    """The per-walker results with averages over the walkers that did not diverge."""
    alive = run.divergence_step.to_numpy() < 0
    run.update(
        divergences(
            run.divergence_step.to_numpy(), float(run.attrs["time_step"]), float(run.attrs["divergence"])
        )
    )
    curvatures = run.walker_curvature.to_numpy()[alive]
    weighted = flatness_from(curvatures, run.weight.to_numpy())
    for name, values, words in (
        ("flatness", flatness_from(curvatures), "flatness F"),
        ("weighted_flatness", weighted, "weighted flatness"),
        ("log_weighted_flatness", np.log(weighted), "logarithm of the weighted flatness"),
        ("loss", run.walker_loss.to_numpy()[alive], "loss"),
    ):
        run.update(_mean_with_error(name, ("time",), values, words, "1"))
    run.update(_mean_with_error("curvature", ("time", "sharp_variable"), curvatures, "curvature", "1"))
    used = int(alive.sum())
    return run.assign_attrs(
        walkers=len(alive), first_walker=int(run.walker[0]), diverged_walkers=len(alive) - used,
        stderr=error_note(used),
    )  # fmt: skip


def _mean_with_error(name: str, dims: tuple[str, ...], values: np.ndarray, words: str, units: str) -> dict:
    """An average over walkers (axis 0) and its standard error; NaN where there are too few."""
    return with_stderr(name, dims, mean(values), stderr(values), f"average {words}", units)
