"""State of an ensemble between steps: at the start, at the end of an earlier result, and checks of both."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.ensemble.divergence import divergence_limit
from fpsolve.ensemble.domain import Domain, Wall, chosen_domain, free_domain, refuse_indefinite
from fpsolve.ensemble.lanes import to_lanes
from fpsolve.ensemble.steps import Scheme, underdamped
from fpsolve.symbols.counter_rng import Seed, random_key
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process

Start = Mapping[str, ArrayLike] | np.ndarray | xr.Dataset | None

#: Arrays of a state whose axis 0 is the group of walkers.
PER_WALKER = ("positions", "excess", "bounds", "exit_step", "sums")
#: Steps are counted in 64 bits.
_MOST_STEPS = 1e18


@dataclass
class State:
    """Everything that a run continues from; axis 0 of the arrays is the group of lanes, the last the lane."""

    key: tuple[int, int]
    first_walker: int
    walkers: int
    step: int
    burn_in: int
    time_step: float
    divergence: float
    #: Where walkers may be, and their step: :mod:`fpsolve.ensemble.steps`.
    domain: Domain
    scheme: Scheme
    positions: np.ndarray
    #: How far walkers are beyond the edges of D, on the axes that have one.
    excess: np.ndarray
    bounds: np.ndarray
    exit_step: np.ndarray
    sums: np.ndarray
    edges: dict[str, np.ndarray] = field(default_factory=dict)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def fresh_state(
    process: Process,
    *,
    start: Start,
    time: float,
    walkers: int | None,
    time_step: float | None,
    rng: Seed,
    divergence: float | None = None,
    burn_in: float = 0.0,
    bins: Mapping[str, ArrayLike] | None = None,
    first_walker: int = 0,
    box: Mapping[str, tuple[float, float]] | None = None,
    walls: Mapping[str, Wall] | Wall | None = None,
) -> State:
    """The checked state at time 0, for arguments of :func:`fpsolve.simulate`."""
    names, time_step = variable_names(process), checked_step(process, time_step, divergence, first_walker)
    walkers = None if walkers is None else checked_count(walkers, "walkers")
    time, burn_in = checked_number(time, "time"), checked_number(burn_in, "burn_in")
    if not 0 <= burn_in < time:
        raise ValueError(f"burn_in={burn_in:g} must be at least 0 and below time={time:g}")
    points = _first_points(process, names, start, walkers)
    _check_start(process, names, points, divergence)
    if divergence is None:
        distinct = np.unique(points, axis=0)
        divergence = divergence_limit(process, distinct, root_values(process, distinct), time_step, box)
    root = symbolic_root(process)
    domain = _checked_domain(process, points, time_step, root, box, walls)
    count, n = points.shape
    edges = _checked_edges(names, bins)
    cells = math.prod(len(e) - 1 for e in edges.values())
    return State(
        key=random_key(rng),
        first_walker=int(first_walker),
        walkers=count,
        step=0,
        burn_in=whole_steps(burn_in, time_step, "burn_in"),
        time_step=time_step,
        divergence=float(divergence),
        domain=domain,
        scheme=simulated_scheme(process, root, time_step),
        positions=to_lanes(points),
        excess=to_lanes(np.zeros((count, len(domain.excess_axes)))),
        bounds=to_lanes(np.full(count, float(divergence))),
        exit_step=to_lanes(np.full(count, -1)),
        sums=to_lanes(np.zeros((count, 2 * n + n * (n + 1) // 2))),
        edges=edges,
        histogram=np.zeros(cells + 1 if edges else 0, dtype=np.int64),
    )


def restored_state(
    process: Process, previous: xr.Dataset, *, bins: Mapping[str, ArrayLike] | None, **given: Any
) -> State:
    """The state at the end of an earlier result.

    ``given`` holds further arguments of :func:`fpsolve.simulate` by name; one that is not its default and
    differs from the result's is a ValueError.
    """
    names, attrs = variable_names(process), previous.attrs
    domain = Domain.from_text(attrs["domain"]) if "domain" in attrs else free_domain(len(names))
    box, walls = given.pop("box", None), given.pop("walls", None)
    if attrs.get("process_hash") != process_hash(process):
        raise ValueError(
            f"start is a result for {attrs.get('landscape', 'something else')}, not for this "
            "process; to start another process from its last positions, give "
            "start={'x': result.x, ...}"
        )
    defaults = {"burn_in": 0.0, "first_walker": 0}
    for name, value in given.items():
        recorded = attrs["seed" if name == "rng" else name]
        if value != defaults.get(name) and value != recorded:
            raise ValueError(
                f"{name}={value} differs from {recorded} of the result that is continued; leave it out"
            )
    points = np.stack([previous[name].values for name in names], axis=1)
    if box is not None and chosen_domain(process, points, box, walls) != domain:
        raise ValueError("box or walls differ from those of the result that is continued; leave them out")
    edges, histogram = _restored_histogram(names, previous)
    given_edges = edges if bins is None else _checked_edges(names, bins)
    if given_edges.keys() != edges.keys() or any(not np.array_equal(given_edges[k], edges[k]) for k in edges):
        raise ValueError("bins differ from those of the result that is continued; leave them out")
    steps = previous["divergence_step"].values
    ended = np.where(previous["absorbed"].values > 0, -1.0, 0.0) if "absorbed" in previous else 0.0
    excess = previous["excess"].values if "excess" in previous else np.zeros((len(points), 0))
    return State(
        key=random_key(str(attrs["seed"])),
        first_walker=int(attrs["first_walker"]),
        walkers=int(attrs["walkers"]),
        step=int(attrs["steps"]),
        burn_in=int(attrs["burn_in_steps"]),
        time_step=float(attrs["time_step"]),
        divergence=float(attrs["divergence"]),
        domain=domain,
        scheme=attrs.get("scheme", "euler"),
        positions=to_lanes(points),
        excess=to_lanes(excess),
        bounds=to_lanes(np.where(steps < 0, float(attrs["divergence"]), ended)),
        exit_step=to_lanes(steps),
        sums=to_lanes(previous["moment_sum"].values),
        edges=edges,
        histogram=histogram,
    )


def symbolic_root(process: Process) -> sp.MatrixBase | None:
    """G in symbols, None where it has none."""
    try:
        return process.root
    except NotImplementedError:
        return None


def simulated_scheme(process: Process, root: sp.MatrixBase | None, time_step: float) -> Scheme:
    """BAOAB for an underdamped process in continuous time, else Euler–Maruyama."""
    if root is None or is_discrete(process, time_step):
        return "euler"
    return "baoab" if underdamped(process.drift, root, tuple(process.variables)) is not None else "euler"


def is_discrete(process: Process, time_step: float) -> bool:
    """Whether a step is one iteration of SGD."""
    rate = getattr(process, "learning_rate", None)
    return rate is not None and math.isclose(rate, time_step, rel_tol=1e-9)


def _checked_domain(
    process: Process, points: np.ndarray, time_step: float, root: sp.MatrixBase | None,
    box: Mapping[str, tuple[float, float]] | None, walls: Mapping[str, Wall] | Wall | None,
) -> Domain:  # fmt: skip
    """The domain of walkers from ``points``, which lie inside, with steps much shorter than the box."""
    names = variable_names(process)
    if root is None:
        if box or walls:
            raise ValueError(f"{process.name}: walls need a root of 2D in symbols, and it has none")
        return free_domain(len(names))
    domain = chosen_domain(process, points, box, walls)
    apart = "a wall, or an edge of D, lies between the walkers and"
    refuse_points(names, points, domain.outside(points), apart)
    noise = np.sqrt(time_step * (root_values(process, points) ** 2).sum(axis=2)).max(axis=0)
    for name, (low, high), length in zip(names, domain.ends, noise, strict=True):
        if low is None or high is None or low[0] == high[0] == "edge":
            continue
        if not 4 * length < high[1] - low[1]:
            raise ValueError(
                f"time_step={time_step:g} is too long for the walls of {name}: a step of {length:.2g} must "
                f"be below a quarter of {high[1] - low[1]:.2g}"
            )
    return domain


def _restored_histogram(
    names: tuple[str, ...], previous: xr.Dataset
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Edges in the order of the histogram's axes, as bins were given, and counts, last those outside."""
    edges = {name: previous[f"{name}_edges"].values for name in names if f"{name}_edges" in previous}
    if not edges:
        return edges, np.zeros(0, np.int64)
    order = [str(dim).removesuffix("_bin") for dim in previous["histogram"].dims]
    outside = np.int64(previous["histogram_outside"].item())
    return {name: edges[name] for name in order}, np.append(previous["histogram"].values.ravel(), outside)


def whole_steps(time: float, time_step: float, name: str) -> int:
    """Number of steps that reach ``time``."""
    time = checked_number(time, name)
    if not math.isfinite(time) or time < 0:
        raise ValueError(f"{name}={time:g} must be finite and at least 0")
    if not time / time_step < _MOST_STEPS:
        raise ValueError(f"{name}={time:g} is more than {_MOST_STEPS:g} steps of {time_step:g}")
    return math.ceil(time / time_step * (1 - 1e-12))


def saving_steps(save_every: float | None, time_step: float) -> int:
    """Steps between saved states, 0 for none; fails if ``save_every`` is not a multiple of the step."""
    if save_every is None:
        return 0
    save_every = checked_number(save_every, "save_every")
    if not math.isfinite(save_every) or save_every <= 0:
        raise ValueError(f"save_every={save_every:g} must be positive and finite")
    steps = round(save_every / time_step)
    if steps < 1 or abs(steps * time_step - save_every) > 1e-9 * save_every:
        raise ValueError(
            f"save_every={save_every:g} is not a multiple of time_step={time_step:g}; "
            f"use {max(steps, 1) * time_step:g}"
        )
    return steps


def available_threads(threads: int | None) -> int:
    """The given number of threads, or as many as there are processors for this process."""
    if threads is None:
        available = getattr(os, "sched_getaffinity", None)
        return len(available(0)) if available else os.cpu_count() or 1
    return checked_count(threads, "threads")


def variable_names(process: Process) -> tuple[str, ...]:
    """The variables' names, in order."""
    return tuple(str(variable) for variable in process.variables)


def process_hash(process: Process) -> str:
    """Short hash of the coefficients, the same in every Python process."""
    try:
        root = sp.srepr(sp.ImmutableMatrix(process.root))
    except NotImplementedError:
        root = str(getattr(process, "name", ""))
    text = f"{process.variables} {sp.srepr(sp.ImmutableMatrix(process.drift))} {root}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def root_values(process: Process, points: np.ndarray) -> np.ndarray:
    """G at points (k, n), shape (k, n, m), from the symbols where there are any."""
    try:
        root = process.root
    except NotImplementedError:
        return process.root_values(points)
    return np.moveaxis(numpy_function(root, process.variables)(*points.T), -1, 0)


def checked_count(value: object, name: str, least: int = 1) -> int:
    """A whole number that is not too small, as an int; else a ValueError."""
    try:
        count = checked_number(value, name)
    except ValueError:
        count = math.nan
    if not (math.isfinite(count) and count == int(count) and count >= least):
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")
    return int(count)


def checked_number(value: object, name: str) -> float:
    """A number as a float; text, truth values and whatever has no float are a ValueError."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r} must be a number") from None


def checked_step(
    process: object, time_step: float | None, divergence: float | None, first_walker: int
) -> float:
    """The given time step, or the learning rate of the process.

    A ValueError without either, and if one of the three numbers makes no sense.
    """
    time_step = getattr(process, "learning_rate", None) if time_step is None else time_step
    if time_step is None:
        raise ValueError("time_step is needed: this process has no learning rate to take it from")
    time_step = checked_number(time_step, "time_step")
    if not (math.isfinite(time_step) and time_step > 0):
        raise ValueError(f"time_step={time_step:g} must be positive and finite")
    size = 1.0 if divergence is None else checked_number(divergence, "divergence")
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"divergence={size:g} must be a positive, finite size")
    checked_count(first_walker, "first_walker", 0)
    return time_step


def _first_points(process: Process, names: tuple[str, ...], start: Start, walkers: int | None) -> np.ndarray:
    """First positions, shape (walkers, n)."""
    if start is None:
        landscape = getattr(process, "landscape", None)
        if landscape is None:
            raise ValueError("start is needed: this process has no landscape whose minimum to take")
        start = landscape.minimum()
    if isinstance(start, Mapping):
        if set(start) != set(names):
            raise ValueError(
                f"start names {', '.join(map(str, start))}; the variables are {', '.join(names)}"
            )
        columns = [np.asarray(start[name], dtype=float) for name in names]
        lengths = {column.size for column in columns if column.ndim}
        if any(column.ndim > 1 for column in columns) or len(lengths) > 1:
            raise ValueError("start must hold numbers, or arrays of one length, one per walker")
        count = lengths.pop() if lengths else walkers
        points = np.stack([np.broadcast_to(column, count or 1) for column in columns], axis=1)
    else:
        points = np.array(start, dtype=float)
        if points.ndim != 2 or points.shape[1] != len(names):
            raise ValueError(
                f"start of shape {points.shape} must have shape (walkers, {len(names)}), "
                f"columns {', '.join(names)}"
            )
        count = len(points)
    if count is None or count < 1:
        raise ValueError(f"walkers={count} must be a whole number, at least 1")
    if walkers is not None and walkers != count:
        raise ValueError(f"walkers={walkers}, but start holds {count} walkers; leave one out")
    return points


def _check_start(
    process: Process, names: tuple[str, ...], points: np.ndarray, divergence: float | None
) -> None:
    """ValueError unless the start lies below ``divergence`` and the coefficients are finite there."""
    if not np.isfinite(points).all():
        bad = [names[i] for i in np.flatnonzero(~np.isfinite(points).all(axis=0))]
        raise ValueError(f"start is not finite for {', '.join(bad)}")
    if divergence is not None and (np.abs(points) >= divergence).any():
        raise ValueError(
            f"start has |{names[0]}| or another coordinate of {np.abs(points).max():g}, not below "
            f"divergence={divergence:g}; give a larger divergence"
        )
    distinct = np.unique(points, axis=0)
    if process.landscape is None:
        refuse_indefinite(process, distinct, "where walkers start")
    drift = numpy_function(list(process.drift), process.variables)(*distinct.T)
    for word, values in (
        ("drift", drift.reshape(len(names), -1).T),
        ("root of the diffusion", root_values(process, distinct).reshape(len(distinct), -1)),
    ):
        bad = ~np.isfinite(values).all(axis=1)
        refuse_points(names, distinct, bad, f"the {word} is not finite at the start")


def refuse_points(names: tuple[str, ...], points: np.ndarray, bad: np.ndarray, problem: str) -> None:
    """ValueError with the problem and the first of the points (k, n) that are ``bad`` (k,), if any is."""
    if bad.any():
        where = ", ".join(f"{n}={v:g}" for n, v in zip(names, points[bad][0], strict=True))
        raise ValueError(f"{problem} {where}; start elsewhere")


def _checked_edges(names: tuple[str, ...], bins: Mapping[str, ArrayLike] | None) -> dict[str, np.ndarray]:
    edges = {}
    for name, values in (bins or {}).items():
        if name not in names:
            raise ValueError(f"bins name {name}; the variables are {', '.join(names)}")
        edges[name] = np.array(values, dtype=float)
        if edges[name].ndim != 1 or edges[name].size < 2 or not (np.diff(edges[name]) > 0).all():
            raise ValueError(f"bins[{name!r}] must be at least two ascending, finite edges")
    return edges
