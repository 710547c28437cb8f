"""Phases of SGD on a valley in the (σ, η) plane, found by simulation, with the borders that theory gives.

Phase I: the density of the slow variable peaks at x = 0, the sharp minimum. Phase II: it peaks away from
it, at flatter x_ss. Phase III: half of the walkers or more diverged. Walkers follow the SGD map with
random-shift noise, dt = η. Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Fig. 5.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.simulation import simulate
from fpsolve.escape.kernel import CENSORED, DIVERGED
from fpsolve.escape.passages import simulate_escape
from fpsolve.phases.plane import Number, check_positive, number, outcome, over_plane, with_error
from fpsolve.results import dataset, quantity
from fpsolve.statistics import mean_and_error
from fpsolve.sweeps.runner import sweep
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.noise import random_shift
from theory.valley import borders, elimination
from theory.valley import times as slow_passage
from theory.valley.reduced import Order, Reduced

#: ⟨|x|⟩²/⟨x²⟩ of exp(−x⁴), the density whose peak is about to split; 2/π for a Gaussian, 1 for two points.
_SPLIT = math.gamma(0.5) ** 2 / (math.gamma(0.25) * math.gamma(0.75))
#: Relative change of ⟨|x|⟩ between the halves of the measured time that counts as settled.
_SETTLED = 0.05


def phase_point(
    sigma: float,
    learning_rate: float,
    rng: np.random.SeedSequence,
    *,
    landscape: Landscape,
    walkers: int = 64,
    time: float = 3000.0,
    burn_in: float = 2000.0,
    start: tuple[float, float] = (1.5, 1.5),
    search_limit: float | None = None,
) -> Mapping[str, object]:
    """Steady state, flatness, search time, diverged walkers and phase of SGD at one (σ, η).

    A function for :func:`fpsolve.sweep`, as :func:`phase_diagram` calls it.

    Parameters
    ----------
    sigma, learning_rate : float
        Noise strength and η.
    landscape : Landscape
        A valley with one slow and one fast variable, even in both.
    time, burn_in : float
        Length of the run in units of η × iterations, and the part that is left out of the averages.
    start : (slow, fast)
        Where all ``walkers`` begin; the slow one at least 0.
    search_limit : float, optional
        When to stop walkers that have not reached x_ss; default ``time``.

    Returns
    -------
    dict
        ``steady_state`` x_ss = ⟨|x|⟩ over time and walkers that did not diverge (0 in phase I),
        ``flatness`` λ(x_ss)^{−1/2}, ``abs_x``, ``square_x``, ``diverged`` walkers, ``settled`` (1 if ⟨|x|⟩ of
        the two halves agrees to 5 %), ``phase`` (1, 2, 3), ``search_time`` τ_s = η⟨t⟩ and
        ``searching``, the walkers that were stopped (τ_s is then a lower bound). Errors end in ``_stderr``.
    """
    slow, fast = map(str, (*landscape.slow, *landscape.fast))
    sgd = Langevin(landscape, random_shift(learning_rate=learning_rate, sigma=sigma))
    paths_seed, search_seed = (
        np.random.SeedSequence(rng.entropy, spawn_key=(*rng.spawn_key, k)) for k in (0, 1)
    )
    first = {slow: start[0], fast: start[1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that all walkers diverged is an outcome here
        half = simulate(
            sgd, walkers=walkers, time=(burn_in + time) / 2, burn_in=burn_in, start=first, rng=paths_seed,
            threads=1,
        )  # fmt: skip
        whole = simulate(sgd, time=(time - burn_in) / 2, start=half, threads=1)
    lost = int(whole.diverged.sum())
    abs_x, abs_x_stderr = (float(whole[name].sel(variable=slow)) for name in ("abs_mean", "abs_mean_stderr"))
    square_x = float(whole.second_moment.sel(variable=slow, variable_2=slow))
    split = abs_x**2 > _SPLIT * square_x
    phase = 3 if 2 * lost >= walkers else 2 if split else 1
    x_ss, error = {1: (0.0, 0.0), 2: (abs_x, abs_x_stderr), 3: (math.nan, math.nan)}[phase]
    flatness, slope = _flatness(landscape, x_ss)
    before = float(half.abs_mean.sel(variable=slow))
    settled = phase != 3 and abs(2 * (abs_x - before)) <= max(_SETTLED * abs_x, 1e-3)
    limit = time if search_limit is None else search_limit
    return {
        "abs_x": abs_x,
        "abs_x_stderr": abs_x_stderr,
        "square_x": square_x,
        **with_error("steady_state", x_ss, error, "steady state $x_{ss}$"),
        **with_error("flatness", flatness, abs(slope) * error, "flatness $F(x_{ss})$"),
        **outcome(lost=lost, settled=settled, phase=phase, phases="phase (1: I, 2: II, 3: III)"),
        **_searched(sgd, first, x_ss, walkers, limit, search_seed),
    }


def _flatness(landscape: Landscape, place: float) -> tuple[float, float]:
    """F and dF/dx."""
    if math.isnan(place):
        return math.nan, math.nan
    (x,) = landscape.slow
    F = borders.floor_curvature(landscape) ** sp.Rational(-1, 2)
    return float(F.subs(x, place)), float(sp.diff(F, x).subs(x, place))


def _searched(
    sgd: Langevin, start: dict, target: float, walkers: int, limit: float, rng: np.random.SeedSequence
) -> dict[str, Number]:
    """τ_s with its error, and how many walkers were stopped on the way."""
    (x,) = sgd.landscape.slow
    times, stopped = np.array([]), 0
    if not math.isnan(target) and start[str(x)] != target:
        reached = x < target if start[str(x)] > target else sp.Or(x > target, x < -target)
        end = simulate_escape(
            sgd, start=start, target=reached, walkers=walkers, max_time=limit, rng=rng, threads=1
        )
        times = end.observed_time.to_numpy()[end.outcome.to_numpy() != DIVERGED]
        stopped = int((end.outcome == CENSORED).sum())
    found = with_error("search_time", *mean_and_error(times), r"search time $\tau_s$", "time")
    return found | {"searching": number(stopped, "walkers stopped before they reached the steady state")}


def phase_diagram(
    landscape: Landscape,
    *,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    walkers: int = 64,
    time: float = 3000.0,
    burn_in: float = 2000.0,
    start: tuple[float, float] = (1.5, 1.5),
    search_limit: float | None = None,
    executor: Executor | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Steady state, flatness, search time and phase of SGD on a grid of (σ, η).

    Parameters
    ----------
    landscape : Landscape
        A numeric valley with one slow and one fast variable, even in both.
    sigma, learning_rate : array_like
        The grid.
    walkers, time, burn_in, start, search_limit
        As in :func:`phase_point`.
    executor, store, seed, progress
        As in :func:`fpsolve.sweep`.

    Returns
    -------
    Dataset
        Dims ``("sigma", "learning_rate")``; variables of :func:`phase_point`, ``diverged`` counted per
        cell. Phase III is what diverges within ``time``: a longer run has more of it.
        A ValueError, before any run, if the landscape is no such valley, σ or η is not positive, the burn-in
        is not shorter than the time, ``start`` has a negative slow variable, or there are fewer than two
        walkers.
    """
    check_valley(landscape)
    if start[0] < 0:
        raise ValueError(f"start={start} must have the slow variable at least 0: the valley is even in it")
    if walkers < 2:
        raise ValueError(f"walkers={walkers} must be at least 2")
    limit = float(time if search_limit is None else search_limit)
    grid = {"sigma": sigma, "learning_rate": learning_rate}
    run = {"walkers": walkers, "time": time, "burn_in": burn_in, "start": start, "search_limit": limit}
    options = {"executor": executor, "store": store, "seed": seed, "progress": progress}
    diagram = over_plane(phase_point, landscape, grid, run, options, title="phases")
    return diagram.assign_attrs(landscape=str(landscape.loss))


def boundaries(landscape: Landscape, *, learning_rate: ArrayLike, time: float) -> xr.Dataset:
    """σ at which theory puts the borders of the phases, for each learning rate.

    Parameters
    ----------
    landscape : Landscape
        A numeric valley with one slow and one fast variable, even in x.
    learning_rate : array_like, shape (n,)
        η.
    time : float
        Length of the runs in which phase III is found.

    Returns
    -------
    Dataset
        Dim ``learning_rate``. From I to II, NaN without a transition: ``leading`` Δ_S*/η, ``ito_prefactor``,
        ``second_order``, ``finite_step`` −ε(1 − ηλ₀/2)/(λ₁η), ``finite_step_second_order``. From II to III:
        ``kappa_at_zero`` Δ_m/η (S40), ``lifetime`` (:func:`theory.valley.times.divergence_sigma`).
        Dim ``delta_s``: ``density_learning_rate`` = 2/⟨λ⟩ over the full p(x), a border at σ = Δ_S/η.
    """
    check_valley(landscape)
    check_positive(learning_rate=learning_rate)
    eta = np.array(learning_rate, float)
    star = {order: _transition_noise(landscape, order) for order in (0, 1, 2)}
    (x,) = landscape.slow
    stiffness = float(borders.floor_curvature(landscape).subs(x, 0))
    bend = np.maximum(1 - eta * stiffness / 2, 0.0)
    noise = np.geomspace(star[0] if star[0] < 1 else 1e-3, 1.0, 13)
    lasting = [slow_passage.divergence_sigma(landscape, learning_rate=rate, time=time) for rate in eta]
    upper = [borders.divergence_noise(landscape, learning_rate=rate) / rate for rate in eta]
    mean_field = [slow_passage.divergence_learning_rate(landscape, delta_s=d) for d in noise]
    curves = {
        "leading": ("leading order", star[0] / eta),
        "ito_prefactor": ("Itô prefactor", star[1] / eta),
        "second_order": ("second order", star[2] / eta),
        "finite_step": (r"finite $\eta$", star[0] * bend / eta),
        "finite_step_second_order": (r"finite $\eta$, second order", star[2] * bend / eta),
        "kappa_at_zero": (r"$\Delta_m$, $\kappa$ at 0", np.array(upper)),
        "lifetime": (f"lifetime of II = {time:g}", np.array(lasting)),
    }
    variables = {name: quantity(values, "learning_rate", title) for name, (title, values) in curves.items()}
    variables["density_learning_rate"] = quantity(
        mean_field, "delta_s", r"$\eta\langle\lambda\rangle = 2$, full $p(x)$"
    )
    title = f"borders of the phases of SGD on {landscape.name}"
    return dataset(variables, title=title, coords={"learning_rate": eta, "delta_s": noise}, time=float(time))


def _transition_noise(landscape: Landscape, order: Order) -> float:
    """Δ_S*, or NaN where there is no transition."""
    try:
        return borders.critical_noise(landscape, order=order)
    except borders.NoTransition:
        return math.nan


def curvature_point(
    factor: float,
    learning_rate: float,
    rng: np.random.SeedSequence,
    *,
    landscape: Landscape,
    walkers: int = 512,
    time: float = 3e4,
    burn_in: float = 1e4,
    blocks: int = 8,
) -> dict[str, object]:
    """(ln p)'' at x = 0 of the map's stationary density, at σ = factor × the finite-η transition.

    Walkers start from the second-order reduced density at the equivalent continuous-time noise; the burn-in
    removes what depends on the start. ln p is fitted by an even polynomial of degree six over two standard
    deviations of the critical density; the error is from the scatter between blocks of walkers.

    Parameters
    ----------
    factor : float
        σ in units of :func:`theory.valley.borders.critical_sigma`.
    walkers, blocks : int
        How many walkers, in how many blocks.
    time, burn_in : float
        Length of the run in units of η × iterations, and the part that is left out.

    Returns
    -------
    dict
        ``sigma``, ``curvature``, ``curvature_stderr``.
    """
    slow, fast = map(str, (*landscape.slow, *landscape.fast))
    sigma = factor * float(borders.critical_sigma(landscape, learning_rate=learning_rate))
    noise = float(borders.equivalent_noise(landscape, sigma=sigma, learning_rate=learning_rate))
    critical = borders.critical_noise(landscape, order=2)
    half_width = 2 * math.sqrt(_reduced(landscape, critical).moments()[f"<{slow}^2>"])
    start = _draws(_reduced(landscape, noise), walkers, rng)
    sgd = Langevin(landscape, random_shift(learning_rate=learning_rate, sigma=sigma))
    every = max(1, round(2.0 / learning_rate)) * learning_rate
    run = simulate(
        sgd, walkers=walkers, time=time, start={slow: start, fast: 0.0}, save_every=every, rng=rng, threads=1
    )
    x = np.abs(run.path.sel(variable=slow, time=run.time > burn_in).to_numpy())
    edges = np.linspace(0, half_width, 21)
    middle = (edges[1:] + edges[:-1]) / 2
    powers = np.stack([middle ** (2 * k) for k in range(4)], axis=1)
    found = []
    for block in np.array_split(x, blocks):
        counts = np.histogram(block, edges)[0] + 1.0
        root = np.sqrt(counts)
        found.append(2 * np.linalg.lstsq(powers * root[:, None], np.log(counts) * root, rcond=None)[0][1])
    curvature, error = mean_and_error(found)
    return {"sigma": sigma, "curvature": curvature, "curvature_stderr": error}


def transition(
    landscape: Landscape,
    *,
    learning_rate: ArrayLike,
    factor: ArrayLike = (0.985, 0.995, 1.005, 1.015),
    walkers: int = 512,
    time: float = 3e4,
    burn_in: float = 1e4,
    executor: Executor | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """σ* of the SGD map, simulated: where the curvature of ln p at x = 0 changes sign.

    Parameters
    ----------
    landscape : Landscape
        A numeric valley with one slow and one fast variable, even in both.
    factor : array_like
        At least 3 noise strengths, in units of the finite-η boundary.
    walkers, time, burn_in
        As in :func:`curvature_point`.
    executor, store, seed, progress
        As in :func:`fpsolve.sweep`.

    Returns
    -------
    Dataset
        For each learning rate ``sigma_star`` with ``_low`` and ``_high`` (95 %), from a weighted line
        through the curvatures; and the curvatures. A ValueError if the landscape is no such valley, a
        learning rate or factor is not positive, or there are fewer than three factors.
    """
    check_valley(landscape)
    check_positive(learning_rate=learning_rate, factor=factor)
    if np.size(factor) < 3:
        raise ValueError(f"factor={factor!r} needs at least 3 values for a line with an error")
    run = partial(
        curvature_point, landscape=landscape, walkers=int(walkers), time=float(time), burn_in=float(burn_in)
    )
    grid = {"factor": factor, "learning_rate": learning_rate}
    points = sweep(run, grid, executor=executor, store=store, seed=seed, progress=progress)
    columns = zip(points.curvature.to_numpy().T, points.curvature_stderr.to_numpy().T, strict=True)
    roots = [_root(points.factor.to_numpy(), *column) for column in columns]
    unit = (points.sigma / points.factor).isel(factor=0).to_numpy()
    centre, error = np.array(roots).T
    for end, factors in (("", centre), ("_low", centre - 1.96 * error), ("_high", centre + 1.96 * error)):
        long_name = f"simulated transition{end.replace('_', ', ')}"
        points[f"sigma_star{end}"] = quantity(unit * factors, "learning_rate", long_name)
    return points.assign_attrs(title=f"transition of SGD on {landscape.name}, simulated")


def _root(places: np.ndarray, values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Zero of the weighted line through the values, and its standard error (delta method)."""
    at = places.mean()
    design = np.stack([np.ones_like(places), places - at], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    level, slope = covariance @ design.T @ (values / errors)
    scatter = ((values / errors - design @ [level, slope]) ** 2).sum() / (len(places) - 2)
    gradient = np.array([-1 / slope, level / slope**2])
    # Scatter beyond the errors widens the interval
    variance = gradient @ covariance @ gradient * max(1.0, scatter)
    return at - level / slope, math.sqrt(variance)


def _reduced(landscape: Landscape, delta_s: float) -> Reduced:
    """The second-order reduction at noise Δ_S."""
    return elimination.eliminate(Langevin(landscape, random_shift(delta_s=delta_s)), order=2)


def _draws(reduced: Reduced, count: int, rng: np.random.SeedSequence) -> np.ndarray:
    """Samples of a reduced density."""
    points = np.linspace(*reduced.support, 20001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        below = np.cumsum(reduced.density(points))
    return np.interp(np.random.default_rng(rng).random(count), below / below[-1], points)


def check_valley(landscape: Landscape) -> None:
    """Raise ValueError unless a landscape is a valley whose phases can be told apart.

    Parameters
    ----------
    landscape : Landscape
        One slow and one fast variable, no parameters, and L even in both; otherwise a ValueError.
    """
    borders.floor_curvature(landscape)
    if landscape.parameters:
        raise ValueError(f"give values to the parameters {landscape.parameters} first (with_parameters)")
    for variable in landscape.variables:
        if sp.expand(landscape.loss - landscape.loss.subs(variable, -variable)) != 0:
            raise ValueError(f"phases are told apart by |{variable}|: the loss must be even in {variable}")
