"""Simulated first passages: when each walker of an ensemble reaches a target, if it does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.domain import Wall, refuse_indefinite
from fpsolve.ensemble.lanes import LANES, Kernel, from_lanes
from fpsolve.ensemble.parts import cuts
from fpsolve.ensemble.state import (
    State,
    available_threads,
    checked_number,
    fresh_state,
    is_discrete,
    process_hash,
    refuse_points,
    symbolic_root,
    variable_names,
    whole_steps,
)
from fpsolve.ensemble.steps import Scheme, best_scheme, weak_order
from fpsolve.escape.kernel import ABSORBED, CENSORED, DIVERGED, ESCAPED, Boundary, escape_kernel
from fpsolve.escape.targets import gap_target, step_for, target_width
from fpsolve.progress import bar
from fpsolve.results import check_names, dataset, quantity
from fpsolve.symbols.counter_rng import Seed, key_text
from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.target import inequalities, signed_function, target_edges
from theory.escape.vanishing_noise import inflection_dimension, verdict
from theory.langevin import Process

_ITERATIONS = 400_000  # lane steps between looks at Ctrl-C and the bar: under a second
#: Values at points (k, n).
PointFunction: TypeAlias = Callable[[np.ndarray], np.ndarray]
_RESERVED = frozenset({"walker", "escape_time", "outcome", "observed_time", "end_step"})


class VanishingNoise(UserWarning):
    """D vanishes on every way to the target: escapes are jumps of finite steps over that place."""


def simulate_escape(
    process: Process,
    *,
    start: Mapping[str, ArrayLike] | np.ndarray,
    target: sp.Basic,
    walkers: int | None = None,
    time_step: float | None = None,
    max_time: float,
    rng: Seed = None,
    threads: int | None = None,
    boundary: Boundary | None = None,
    divergence: float | None = None,
    box: Mapping[str, tuple[float, float]] | None = None,
    walls: Mapping[str, Wall] | Wall | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Time at which each walker first reaches a target, or that it did not.

    Walkers take the best step for their process, ``attrs["scheme"]`` of :mod:`fpsolve.ensemble.steps`:
    BAOAB for an underdamped process, a Taylor step of weak order two for constant noise, else Euler–Maruyama,
    X + b(X) dt + G(X) √dt ξ. Times then err as dt to the power ``attrs["weak_order"]``; two runs extrapolate,
    ``escape_rate(runs, finer=...)``. Without a treatment of the boundary (``"none"``) the step is Euler's, an
    iteration of SGD. Looking at the ends of steps only misses passages
    in between and overestimates times by O(√dt). With g the signed function of the target,
    positive inside, the boundary is treated in one of three ways:

    - ``"bridge"``: if both ends of a step are outside, the walker has crossed with probability
      exp(−2 d₀d₁/(2D_n dt)) = exp(−g₀g₁/(∇gᵀD∇g dt)), D and ∇g at the start of the step: that of a
      Brownian bridge at a flat boundary. Then the time is the middle of the step. The remaining
      error is O(dt).
    - ``"shift"``: the boundary is moved towards the walker by 0.5826 √(2D_n dt), the mean overshoot.
    - ``"none"``: nothing. If dt is the learning rate, one step is one iteration of SGD: the discrete
      map is then the model itself, and this is the default.

    In a union (Or), each member is a boundary of its own and the probabilities of not crossing are
    multiplied. In an intersection (And), the member nearest to being violated counts, in units of its
    own √(∇gᵀD∇g dt): right along the faces, approximate within √(D dt) of an edge.

    The normals are those of :func:`fpsolve.simulate`, and the bridge draws from separate words, so
    a path is the same for "bridge" and "shift" and whatever the target. The bits of a result do not depend on
    ``threads``.

    Parameters
    ----------
    process : Process
        Without free parameters, with a symbolic ``root``.
    start : mapping, or array of shape (walkers, n)
        First positions: a number or an array of length ``walkers`` for each variable.
    target : sympy condition
        Such as ``x > 0`` or ``x**2 + y**2 > 4``; And, Or, Not of inequalities.
    walkers : int, optional
        May be left out where ``start`` says it.
    time_step : float, optional
        dt; default the process's learning rate.
    max_time : float
        A walker that has not escaped by then is censored; rounded up to whole steps.
    rng, threads
        As in :func:`fpsolve.simulate`.
    boundary : {"bridge", "shift", "none"}, optional
        Default ``"none"`` if ``time_step`` is the process's learning rate, else ``"bridge"``.
    divergence : float, optional
        A walker with a coordinate not below this in size has diverged, even inside the target. Default as in
        :func:`fpsolve.simulate`.
    box, walls : mapping, optional
        As in :func:`fpsolve.simulate`; a walker at an absorbing wall ends there, outcome 5, and has not
        escaped.
    progress : bool, optional
        Show a bar of finished walkers.

    Returns
    -------
    Dataset
        Per walker: ``escape_time`` (NaN if it did not escape), ``outcome`` (0 censored, 1 escaped,
        2 diverged, 5 absorbed), ``observed_time``, ``end_step``, and each variable's position at the end of
        its last step (before it, if it diverged). ``total_time`` is the sum of ``observed_time``.
        A ValueError before any step, if a start is inside the target or on its boundary, the target is empty
        or uses other variables, or an argument or a coefficient at the start makes no sense; at the end, if a
        walker came to a place where D is no covariance. A UserWarning if walkers diverged, if the target is
        thinner than four steps are long, and, in one variable, if D
        vanishes between every start and the target and ``time_step`` is not the learning rate: the time to
        pass is then set by the step and grows without end as dt → 0.

    References
    ----------
    Gobet, Stoch. Proc. Appl. 87, 167 (2000): bridges. Broadie, Glasserman, Kou, Math. Finance 7,
    325 (1997), and Gobet, Menozzi, Stoch. Proc. Appl. 120, 130 (2010): the shift, flat and curved.
    """
    given = {"start": start, "walkers": walkers, "time_step": time_step, "rng": rng, "divergence": divergence}
    given |= {"box": box, "walls": walls}
    state = start_state(process, target, max_time, **given)
    boundary = chosen_boundary(process, state.time_step, boundary)
    state.scheme = chosen_scheme(process, boundary)
    starts = from_lanes(state.positions, state.walkers)
    met = gap_target(target, tuple(process.variables), starts)
    if remark := thin_remark(process, met, starts, state.time_step, boundary):
        warnings.warn(remark, stacklevel=2)
    if barrier := noise_barrier(process, target, state.time_step, starts):
        warnings.warn(
            f"{barrier}. Escapes seen with time_step={state.time_step:g} jump over it, and their time grows "
            "without end as dt falls; for SGD give time_step=learning_rate: there the map is the model",
            VanishingNoise,
            stacklevel=2,
        )
    max_step = whole_steps(max_time, state.time_step, "max_time")
    kernel = escape_kernel(process, met, boundary, scheme=state.scheme, domain=state.domain)
    end = run_walkers(
        kernel, signed_members(process, met), starts, key=state.key, first_walker=0,
        time_step=state.time_step, max_step=max_step, divergence=state.divergence,
        threads=available_threads(threads), progress=progress,
    )  # fmt: skip
    lost = end.outcome == DIVERGED
    if lost.any():
        if process.landscape is None:
            refuse_indefinite(process, end.points[lost], "where a walker came")
        warnings.warn(lost_passages(int(lost.sum()), len(lost), state.divergence), stacklevel=2)
    return passage_dataset(
        variable_names(process), end, passage_times(end, state.time_step, boundary),
        title=f"escape from {process.name} to {target}", landscape=str(process.name), target=str(target),
        boundary=boundary, time_step=state.time_step, key=state.key, max_time=float(max_time),
        divergence=state.divergence, process_hash=process_hash(process), scheme=state.scheme,
        weak_order=weak_order(process, state.scheme),
        walls=state.domain.words(variable_names(process)) or "none",
    )  # fmt: skip


def lost_passages(lost: int, walkers: int, limit: float) -> str:
    """How many walkers diverged before they escaped, and what to do."""
    return (
        f"{lost} of {walkers} walkers ({lost / walkers:.2g} of all) diverged before they escaped (a "
        f"coordinate came to divergence={limit:g} or was no number): use a smaller time_step, or check that "
        "the drift leads back from everywhere"
    )


def chosen_scheme(process: Process, boundary: Boundary) -> Scheme:
    """Euler's step where it is an iteration that is looked at as it is, else the best for the process."""
    root = symbolic_root(process)
    if boundary == "none" or root is None:
        return "euler"
    return best_scheme(process.drift, root, tuple(process.variables))


def thin_remark(
    process: Process, target: sp.Basic, starts: np.ndarray, time_step: float, boundary: Boundary
) -> str:
    """A remark if a target in several variables is thinner than four steps are long; fails if it is empty."""
    width, place = target_width(process, target, starts)
    longest = step_for(process, width, place)
    if boundary == "none" or time_step <= longest:
        return ""
    return (
        f"the target {target} is {width:.2g} wide, and steps of time_step={time_step:g} jump over it unseen: "
        f"times are too long; use a time_step below {longest:.2g}"
    )


class Passages(NamedTuple):
    """How and where walkers ended: shapes (k,), and (k, n) for ``points``."""

    outcome: np.ndarray
    steps: np.ndarray
    points: np.ndarray
    top_level: np.ndarray


def start_state(process: Process, target: sp.Basic, max_time: float, **given: Any) -> State:
    """The checked state at time 0, outside the target; ``given`` is for ``fresh_state``."""
    check_names(process.names, _RESERVED)
    max_time = checked_number(max_time, "max_time")
    if not (math.isfinite(max_time) and max_time > 0):
        raise ValueError(f"max_time={max_time:g} must be positive and finite")
    g = numpy_function(signed_function(target, process.variables), process.variables)
    state = fresh_state(process, time=max_time, **given)
    points = np.unique(from_lanes(state.positions, state.walkers), axis=0)
    values = g(*points.T)
    for bad, problem in (
        (~np.isfinite(values), f"the target {target} has no finite value at the start"),
        (values > 0, f"the start is inside the target {target} at"),
        (values == 0, f"the start is on the boundary of the target {target}, where the time is 0, at"),
    ):
        refuse_points(variable_names(process), points, bad, problem)
    return state


def chosen_boundary(process: Process, time_step: float, boundary: Boundary | None) -> Boundary:
    """The given treatment of the boundary, or the default."""
    if boundary is None:
        return "none" if is_discrete(process, time_step) else "bridge"
    if boundary not in ("bridge", "shift", "none"):
        raise ValueError(f"boundary={boundary!r} must be 'bridge', 'shift' or 'none'")
    return boundary


def noise_barrier(process: Process, target: sp.Basic, time_step: float, starts: np.ndarray) -> str:
    """Where D vanishes on every way of a Langevin walker from ``starts`` (k, n) to a target, in words.

    Empty where there is a way with D > 0 throughout, in several variables, and for the map of SGD.
    """
    if len(process.variables) > 1 or is_discrete(process, time_step) or not process.diffusion.free_symbols:
        return ""
    low, high = float(starts.min()), float(starts.max())
    edges = target_edges(target, process.variables[0])
    ways = [(high, edge) for edge in edges if edge > high][:1]
    ways += [(low, edge) for edge in edges if edge < low][-1:]
    zeros = [inflection_dimension(process, start=start, target=edge) for start, edge in ways]
    barred = [[(place, dimension) for place, dimension in way if not dimension < 0] for way in zeros]
    if not barred or not all(barred):
        return ""
    place, dimension = barred[0][0]
    name = process.variables[0]
    return f"D vanishes at {name} = {place:.6g} on the way to the target, {verdict(dimension)}"


def signed_members(process: Process, target: sp.Basic) -> PointFunction:
    """Values (k, members) at points (k, n) of the inequalities of a target, in the kernel's order."""
    _, atoms = inequalities(target)
    function = numpy_function([signed_function(a, process.variables) for a in atoms], process.variables)
    return lambda points: np.ascontiguousarray(function(*points.T).T)


def run_walkers(
    kernel: Kernel,
    signed: PointFunction,
    starts: np.ndarray,
    *,
    key: tuple[int, int],
    first_walker: int,
    time_step: float,
    max_step: int,
    divergence: float,
    threads: int = 1,
    lower: float = -math.inf,
    upper: float = math.inf,
    progress: bool = False,
) -> Passages:
    """Run walkers from ``starts`` (k, n) until each has ended."""
    count = len(starts)
    starts = np.ascontiguousarray(starts)
    end = Passages(np.zeros(count, np.int8), np.zeros(count, np.int64), starts.copy(), np.empty(count))
    members = signed(starts)
    ends = cuts(count, min(threads, -(-count // LANES)))

    def start_job(low: int, high: int) -> Callable[[], tuple[int, int]]:
        lane, walker = np.zeros(kernel.rows * LANES), np.full(LANES, -1, np.int64)
        steps, queue = np.zeros(LANES, np.int64), np.array([low, high], np.int64)

        def job() -> tuple[int, int]:
            running = kernel.advance(
                starts, members, end.outcome, end.steps, end.points, end.top_level, kernel.constants,
                kernel.grid, np.uint64(key[0]), np.uint64(key[1]), np.uint64(first_walker), time_step,
                max_step, divergence, lower, upper, lane, walker, steps, queue, _ITERATIONS,
            )  # fmt: skip
            return int(running), int(queue[0] - low - running)

        return job

    _run([start_job(*part) for part in pairwise(ends)], count, progress)
    return end


def _run(jobs: list[Callable[[], tuple[int, int]]], count: int, progress: bool) -> None:
    """Call each job until none of its walkers runs; a job gives the numbers that run and that have ended."""
    finished = dict.fromkeys(jobs, 0)
    with ThreadPoolExecutor(len(jobs)) as pool, bar(count, unit="walker", progress=progress) as shown_bar:
        while jobs:
            results = {job: call.result() for job, call in [(job, pool.submit(job)) for job in jobs]}
            for job, (_, done) in results.items():
                shown_bar.update(done - finished[job])
                finished[job] = done
            jobs = [job for job, (running, _) in results.items() if running]


def passage_times(end: Passages, time_step: float, boundary: Boundary) -> np.ndarray:
    """Observed times: ends of steps, or the middle of the step of a crossing seen with bridges."""
    middle = 0.5 * (end.outcome == ESCAPED) if boundary == "bridge" else 0.0
    return (end.steps - middle) * time_step


def passage_dataset(
    names: Sequence[str], end: Passages, observed: np.ndarray, *, title: str, time_step: float,
    key: tuple[int, int], **attrs: str | int | float,
) -> xr.Dataset:  # fmt: skip
    """Passages and their ``observed`` times (walkers,), as :func:`simulate_escape` describes them."""
    times = np.where(end.outcome == ESCAPED, observed, np.nan)
    outcomes = {"n_escaped": ESCAPED, "n_censored": CENSORED, "n_diverged": DIVERGED, "n_absorbed": ABSORBED}
    stopped = "time until the walker escaped, diverged or was stopped"
    variables = {
        "escape_time": quantity(times, "walker", "escape time, NaN if none", "time"),
        "outcome": quantity(end.outcome, "walker", "0 censored, 1 escaped, 2 diverged, 5 absorbed"),
        "observed_time": quantity(observed, "walker", stopped, "time"),
        "end_step": quantity(end.steps, "walker", "steps made"),
        **{name: quantity(end.points[:, i], "walker", f"final {name}") for i, name in enumerate(names)},
        "total_time": quantity(math.fsum(observed), (), "total observed time", "time"),
    }
    return dataset(
        variables,
        coords={"walker": np.arange(len(observed))},
        title=title,
        time_step=time_step,
        **{name: int((end.outcome == code).sum()) for name, code in outcomes.items()},
        walker_steps=int(end.steps.sum()),
        seed=key_text(key),
        **attrs,
    )
