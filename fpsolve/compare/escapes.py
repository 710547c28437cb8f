"""Mean escape times by every method that applies, in one table with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import sympy as sp
import xarray as xr

from fpsolve.density.backward import mean_first_passage_time
from fpsolve.density.grid import checked_box
from fpsolve.density.stationary import numeric_process
from fpsolve.ensemble.domain import Wall
from fpsolve.ensemble.steps import ORDER
from fpsolve.escape.passages import chosen_scheme, simulate_escape, start_state
from fpsolve.escape.rare_events import split_escape
from fpsolve.escape.rates import escape_rate, extrapolation_weight
from fpsolve.escape.saddles import (
    Exit,
    largest_rate_on_the_way,
    local_jacobian,
    relaxation_rates_below,
    ways_out,
)
from fpsolve.escape.targets import FINEST, gap_target, step_for, step_on_target, target_width
from fpsolve.symbols.counter_rng import Seed, random_key
from fpsolve.table import Row, Table
from theory import escape as formulas
from theory.langevin import Langevin, Process

Method: TypeAlias = Literal["exact", "backward", "theory", "splitting", "simulation"]
METHODS: tuple[Method, ...] = get_args(Method)
#: Walker-steps that the simulation may take unless a time is given: a few seconds on one core.
BUDGET = 1e9
#: Trials a level of splitting, and walker-steps in which all of them forget their start once.
TRIALS, RELAXATIONS = (2000, 40_000), 5e7
QUANTITY = "mean time"


def escape(
    process: Process,
    *,
    start: Mapping[str, float],
    target: sp.Basic,
    methods: Sequence[Method] = METHODS,
    walkers: int = 2000,
    time_step: float | None = None,
    max_time: float | None = None,
    box: Mapping[str, tuple[float, float]] | None = None,
    walls: Mapping[str, Wall] | Wall | None = None,
    rng: Seed = 0,
    divergence: float | None = None,
    progress: bool = False,
) -> Table:
    """Table of the mean time from ``start`` to ``target`` by every method, with intervals and ΔL/D.

    - ``exact``: quadrature, one variable.
    - ``backward``: 𝓛T = −1 on the mesh, up to three variables.
    - ``theory``: Eyring–Kramers for isotropic noise, the formula for noise ∝ Hessian, and two temperatures
      for any other, over every saddle that leads from the start's valley into the target (rates add).
    - ``splitting``: adaptive multilevel splitting.
    - ``simulation``: walkers with the Brownian bridge; for a process with a learning rate also the map of SGD
      itself, which is watched at its own steps.

    Splitting and simulation run with dt and dt/2 and are extrapolated to dt → 0; the map of SGD is not.

    Parameters
    ----------
    process : Process
        With numbers for all parameters.
    start, target : mapping of name to number, and sympy condition
        As in :func:`fpsolve.simulate_escape`.
    methods : sequence of str, optional
        Which; default all. One that cannot be used is left out with a remark.
    walkers : int, optional
        Of the simulation; fewer where that would take more than 1e9 walker-steps, none below 100.
    time_step : float, optional
        Of simulation and splitting, the longer of the two; default 0.04 / (the largest curvature at the
        start's minimum, at the saddles and, in one variable, on the way to the target), less for thin
        targets, and at most a tenth of the learning rate.
    max_time : float, optional
        When walkers are stopped; default ten times the mean time of the best method before it.
    box : mapping, optional
        Walls of the backward equation, reflecting; default where the stationary density is.
    walls : mapping or str, optional
        Walls of the walkers at the ends of ``box``, as in :func:`fpsolve.simulate`; default none: the box is
        then taken as far away. Only "reflecting" ones are those of the backward equation.
    rng, divergence, progress
        As in :func:`fpsolve.simulate_escape`.

    Returns
    -------
    Table
        Intervals are 95 % for splitting and simulation, half-grid estimates for the backward equation, and
        s from 0 to 1 for formulas with a path-dependent share; Kramers' carries ± D/ΔL, the size of the next
        term. Deviations refer to the first of exact, backward, splitting, simulation that is there. A
        ValueError if the start is inside the target, a name is unknown, or no method can be used. A
        simulation of which more than a tenth diverged gives a remark and no number.
    """
    process = numeric_process(process, True)
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods={list(methods)} must be some of {', '.join(METHODS)}")
    if box is not None:
        box = checked_box(process, box)
    start = {name: float(value) for name, value in start.items()}
    # Refuses bad input before any work
    start_state(process, target, 1e300, start=start, walkers=1, time_step=time_step or 1.0, rng=0)
    remarks: list[str] = []
    exits = _exits(process, start, target, remarks)
    problem = _Problem(
        process, start, target, walkers, time_step, max_time, box, walls, rng, divergence, progress, exits
    )
    if time_step is not None:
        problem.check_step()
    found = _estimates(problem, [m for m in METHODS if m in methods], remarks)
    if not found:
        raise ValueError(f"no method can be used here: {'; '.join(remarks)}")
    best = _best(found)
    barrier, words = problem.barrier()
    rows = [estimate.row(best) for estimate in found]
    if math.isfinite(barrier):
        rows.insert(0, Row(words, "landscape", barrier, 0.0, "", 0.0, math.nan, math.nan))
    title = f"Escape from {_shown(start)} to {target}: {process.name}"
    return Table(title, best.method, tuple(rows), tuple(dict.fromkeys(remarks)))


@dataclass(frozen=True)
class _Estimate:
    """A mean time with its interval; ``kind`` says where the interval is from."""

    method: str
    value: float
    low: float
    high: float
    kind: str
    #: 95 % interval, where others are one standard error.
    wide: bool = False
    #: Closed form, which is no reference for others.
    formula: bool = False

    @property
    def log_error(self) -> float:
        """Standard error of ln T; NaN without an interval."""
        if not (self.low > 0 and math.isfinite(self.high)):
            return math.nan
        half = math.log(self.high / self.low) / 2
        return half / 1.96 if self.wide else half

    def row(self, best: _Estimate) -> Row:
        """Deviations from the reference, in logarithms so that intervals are symmetric."""
        error = self.log_error
        combined = math.hypot(error, best.log_error)
        difference = math.log(self.value / best.value) if self.value > 0 else math.nan
        apart = math.nan if self is best or self.formula or combined == 0 else abs(difference) / combined
        return Row(
            QUANTITY, self.method, self.value, error * self.value, self.kind, error,
            self.value / best.value - 1, apart, self.low, self.high,
        )  # fmt: skip


@dataclass(frozen=True)
class _Problem:
    """The question that every method answers, and the ways out of the start's valley."""

    process: Process
    start: dict[str, float]
    target: sp.Basic
    walkers: int
    time_step: float | None
    max_time: float | None
    box: Mapping[str, tuple[float, float]] | None
    walls: Mapping[str, Wall] | Wall | None
    rng: Seed
    divergence: float | None
    progress: bool
    exits: list[Exit]

    def walked(self) -> dict[str, Any]:
        """Arguments of every simulation; a box without walls is no box for walkers."""
        box, walls = self.box, self.walls
        if isinstance(walls, Mapping) and box is not None:
            box = {name: ends for name, ends in box.items() if name in walls}
        walled = {} if walls is None else {"box": box, "walls": walls}
        given = {"start": self.start, "target": self.target, "progress": self.progress}
        return given | {"divergence": self.divergence} | walled

    def barrier(self) -> tuple[float, str]:
        """ΔL/D over the lowest saddle, NaN without one; D along the escape direction at the minimum."""
        if not self.exits:
            return math.nan, ""
        lowest = min(self.exits, key=lambda p: p.barrier)
        exact = isinstance(self.process, Langevin) and self.process.noise.is_isotropic
        words = "ΔL/D" if exact else "ΔL/D at minimum"
        T = lowest.temperature(self.process, lowest.minimum)
        return (lowest.barrier / T if T > 0 else math.nan), words

    def step(self) -> float:
        """The given time step, or :meth:`own_step`."""
        return self.own_step() if self.time_step is None else self.time_step

    def own_step(self) -> float:
        """The longer of two time steps that resolve the sharpest curvature on the way, and the target."""
        # A step near the learning rate would be taken for the map; continuous time needs one well below
        rate = self.process.learning_rate
        step = step_on_target(self.process, *self._way, self._curvature_step())
        return step if rate is None else min(step, rate / 10)

    def check_step(self) -> None:
        """A ValueError if the given time step is far shorter than curvature and target need."""
        needed = min(self._curvature_step(), step_for(self.process, *target_width(self.process, *self._way)))
        if self.time_step is not None and self.time_step < needed / FINEST:
            raise ValueError(
                f"time_step={self.time_step:g} is {needed / self.time_step:.0e} times shorter than "
                f"{needed:.2g}, which resolves the curvature: the walkers would take as much longer; use at "
                f"least {needed / FINEST:.2g}"
            )

    @cached_property
    def _way(self) -> tuple[sp.Basic, np.ndarray]:
        """The target as walkers from the start meet it, and the start (1, n)."""
        place = np.array([[self.start[n] for n in self.process.names]])
        return gap_target(self.target, tuple(self.process.variables), place), place

    def _curvature_step(self) -> float:
        """The longer of two time steps that resolve the sharpest curvature on the way."""
        met, place = self._way
        curvature = max((p.largest_curvature for p in self.exits), default=math.nan)
        if not math.isfinite(curvature):
            slopes = local_jacobian(self.process, place[0])
            curvature = float(np.abs(np.linalg.eigvals(slopes)).max())
        curvature = max(curvature, largest_rate_on_the_way(self.process, place[0], met))
        return 0.04 / curvature if curvature > 0 else 0.02


def _exits(process: Process, start: dict[str, float], target: sp.Basic, remarks: list[str]) -> list[Exit]:
    """The ways out; none, and a remark, where they cannot be found."""
    if process.landscape is None:
        return []
    try:
        return ways_out(process.landscape, start=start, target=target)
    except (ValueError, NotImplementedError) as error:
        remarks.append(f"theory: {error}")
        return []


def _estimates(problem: _Problem, methods: Sequence[Method], remarks: list[str]) -> list[_Estimate]:
    """Estimates in the order of the methods; errors and warnings of a method become ``remarks``."""
    found: list[_Estimate] = []
    for method in methods:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                for result in _ESTIMATE[method](problem, found):
                    if isinstance(result, str):
                        remarks.append(result)
                    else:
                        found.append(result)
            except (ValueError, NotImplementedError, OverflowError, RuntimeError, MemoryError) as error:
                remarks.append(f"{method}: {error}")
        remarks.extend(f"{method}: {w.message}" for w in caught if issubclass(w.category, UserWarning))
    return found


def _best(found: Sequence[_Estimate]) -> _Estimate:
    """The first estimate that is no formula, else the first."""
    return next((e for e in found if not e.formula), found[0])


def _exact(problem: _Problem, found: Sequence[_Estimate]) -> Iterator[_Estimate]:
    """Quadrature in one variable."""
    process = problem.process
    if len(process.variables) != 1:
        return
    x0 = problem.start[process.names[0]]
    ends = _ends(problem.target, process.variables[0], x0)
    if len(ends) == 2:
        value = formulas.exact_exit_time(process, x0, ends=(ends[0], ends[1]))
    else:
        value = formulas.exact_mean_time(process, x0, ends[0])
    yield _Estimate("exact", value, value * (1 - 1e-9), value * (1 + 1e-9), "quadrature, 1e-9")


def _backward(problem: _Problem, found: Sequence[_Estimate]) -> Iterator[_Estimate]:
    """The backward equation on the mesh, at the start."""
    start = problem.start
    times = mean_first_passage_time(problem.process, target=problem.target, box=problem.box)
    if any(not float(times[n].min()) <= v <= float(times[n].max()) for n, v in start.items()):
        raise ValueError(f"the start {_shown(start)} is outside the box; give box=")
    if times.attrs["usable"]:
        value = float(times.interp(start, method="cubic"))
        error = float(times.attrs["half_grid_estimate"]) * value
        yield _Estimate("backward equation", value, value - error, value + error, "half-grid estimate")


def _theory(problem: _Problem, found: Sequence[_Estimate]) -> Iterator[_Estimate]:
    """The formula for the noise, over all ways out."""
    process = problem.process
    if isinstance(process, Langevin) and problem.exits:
        formula = _kramers if process.noise.is_isotropic else _path_dependent
        yield formula(problem, process)


def _kramers(problem: _Problem, process: Langevin) -> _Estimate:
    """Eyring–Kramers; the interval is ± D/ΔL, the size of the next term."""
    ways = problem.exits
    times = [formulas.kramers_time(process, minimum=p.minimum, saddle=p.saddle, to=p.to) for p in ways]
    value = 1.0 / formulas.total_rate(times)
    next_term = 1.0 / problem.barrier()[0]
    name = "Kramers" if len(process.variables) == 1 else "Eyring-Kramers"
    low, high = value * (1 - min(1.0, next_term)), value * (1 + next_term)
    return _Estimate(name, value, low, high, "next term, D/ΔL", formula=True)


def _path_dependent(problem: _Problem, process: Langevin) -> _Estimate:
    """Noise ∝ Hessian, or two temperatures, at s = 1/2; the interval has s from 0 to 1."""
    noise, landscape = process.noise, process.landscape

    def formula(p: Exit, s: float) -> float:
        a, b = p.minimum, p.saddle
        if noise.hessian_factor is not None:
            # The factor is η/2B: any pair with that ratio will do.
            rate = 2 * float(noise.hessian_factor)
            options = {"learning_rate": rate, "batch_size": 1, "s": s}
            return formulas.sgd_escape_time(landscape, minimum=a, saddle=b, **options)
        T_a, T_b = (p.temperature(process, place) for place in (a, b))
        return formulas.two_temperature_time(landscape, minimum=a, saddle=b, T_a=T_a, T_b=T_b, s=s)

    share = {"well": 1.0, "saddle": 0.5}

    def mean_time(s: float) -> float:
        return 1.0 / formulas.total_rate([share[p.to] * formula(p, s) for p in problem.exits])

    value = mean_time(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning is enough
        low, high = sorted((mean_time(1e-9), mean_time(1 - 1e-9)))
    law = "noise ∝ Hessian" if noise.hessian_factor is not None else "two temperatures"
    return _Estimate(f"{law}, s = 1/2", value, low, high, "s from 0 to 1", formula=True)


def _splitting(problem: _Problem, found: Sequence[_Estimate]) -> Iterator[_Estimate]:
    """Adaptive multilevel splitting, with fewer trials where walkers take long to forget their start."""
    process, step = problem.process, problem.step()
    place = np.array([problem.start[n] for n in process.names])
    slow, _ = relaxation_rates_below(process, place, target=problem.target)
    trials = int(np.clip(RELAXATIONS * slow * step, *TRIALS))
    runs = split_escape(process, time_step=step, rng=problem.rng, walkers=trials, **problem.walked())
    value, low, high = (float(1 / runs[name]) for name in ("rate", "high", "low"))
    name = "splitting, dt -> 0" if runs.attrs["extrapolated"] else "splitting"
    yield _Estimate(name, value, low, high, "95 % interval", wide=True)


def _simulation(problem: _Problem, found: Sequence[_Estimate]) -> Iterator[_Estimate | str]:
    """Walkers in continuous time, dt → 0; with a learning rate also the map of SGD."""
    step, rate = problem.step(), problem.process.learning_rate
    if rate is not None and math.isclose(rate, step, rel_tol=1e-9):
        yield from _simulated(problem, found, step, f"map of SGD, η = {rate:.3g}", problem.walkers, 0)[0]
        return
    # Shares of the walkers that cost least for the same error: see split_escape
    scheme = chosen_scheme(problem.process, "bridge")
    shares = np.array([1.0, math.sqrt(2) / 2 ** ORDER[scheme]])
    numbers = np.maximum(np.round(problem.walkers * shares / shares.sum()), 2).astype(int)
    pair = []
    for number, (h, walkers) in enumerate(zip((step / 2, step), numbers.tolist(), strict=True)):
        estimates, runs = _simulated(problem, found, h, f"simulation, dt = {h:.3g}", walkers, number)
        yield from (e for e in estimates if isinstance(e, str))
        pair += [(e, runs) for e in estimates if isinstance(e, _Estimate) and runs is not None]
    if len(pair) == 2:
        (fine, fine_runs), (coarse, coarse_runs) = pair
        w, doubt = extrapolation_weight(coarse_runs, fine_runs)
        change = math.log(fine.value / coarse.value)
        log_time = math.log(fine.value) + (w - 1) * change
        half = 1.96 * math.hypot(w * fine.log_error, (w - 1) * coarse.log_error) + doubt * abs(change)
        value, low, high = (math.exp(log_time + part) for part in (0.0, -half, half))
        yield _Estimate("simulation, dt -> 0", value, low, high, fine.kind, wide=True)
    if rate is not None:
        yield from _simulated(problem, found, rate, f"map of SGD, η = {rate:.3g}", problem.walkers, 2)[0]


def _simulated(
    problem: _Problem, found: Sequence[_Estimate], step: float, name: str, walkers: int, number: int
) -> tuple[list[_Estimate | str], xr.Dataset | None]:
    """One simulation, as long as the estimates before it advise: its estimate or a remark, and its runs."""
    mean, max_time = _best(found).value if found else math.nan, problem.max_time
    asked = walkers
    if max_time is None:
        max_time = 10 * mean if math.isfinite(mean) else BUDGET * step / walkers
    if math.isfinite(mean) and walkers * min(mean, max_time) / step > BUDGET:
        walkers = int(BUDGET * step / min(mean, max_time))
        if walkers < 100:
            return [
                f"{name}: not run; 100 walkers would take {100 * min(mean, max_time) / step:.1e} steps"
            ], None
    said: list[_Estimate | str] = []
    if walkers < asked:
        said.append(f"{name}: {walkers} walkers, not {asked}, which would take over {BUDGET:.0e} steps")
    runs = simulate_escape(
        problem.process, walkers=walkers, time_step=step, max_time=max(max_time, step),
        rng=np.random.SeedSequence(random_key(problem.rng), spawn_key=(number,)), **problem.walked(),
    )  # fmt: skip
    if runs.attrs["n_escaped"] == walkers:
        times = runs["escape_time"].to_numpy()
        mean, error = float(times.mean()), 1.96 * float(times.std(ddof=1)) / math.sqrt(walkers)
        return [*said, _Estimate(name, mean, mean - error, mean + error, "95 % interval", wide=True)], runs
    rate = escape_rate(runs)
    low, high = float(rate.low), float(rate.high)
    if not int(rate.n_escaped):
        total = float(rate.total_time)
        remark = f"{name}: no escape in a total of {total:.3g}; the mean time is above {1 / high:.4g}"
        return [*said, remark], None
    longest = 1 / low if low > 0 else math.inf
    kind = "95 % interval, exponential law"
    return [*said, _Estimate(name, 1 / float(rate.rate), 1 / high, longest, kind, wide=True)], runs


#: How each method estimates the mean time, given the estimates before it; a text is a remark.
_ESTIMATE: dict[Method, Callable[[_Problem, Sequence[_Estimate]], Iterator[_Estimate | str]]] = {
    "exact": _exact,
    "backward": _backward,
    "theory": _theory,
    "splitting": _splitting,
    "simulation": _simulation,
}


def _ends(target: sp.Basic, x: sp.Symbol, start: float) -> list[float]:
    """The boundary points of a one-dimensional target next to the start."""
    # Inequalities of real symbols; the set is taken over a fresh symbol to allow any assumptions
    points = target.as_set().boundary
    if not isinstance(points, sp.FiniteSet):
        raise NotImplementedError(f"the boundary of {target} is not a list of points")
    values = sorted(float(p) for p in points)
    below, above = [v for v in values if v <= start], [v for v in values if v >= start]
    return [*below[-1:], *above[:1]]


def _shown(start: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in start.items())
