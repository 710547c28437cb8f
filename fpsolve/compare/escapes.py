"""How long until the walker leaves: every method that applies, in one table with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import sympy as sp

from fpsolve.density.backward import mean_first_passage_time
from fpsolve.density.grid import checked_box
from fpsolve.density.stationary import numeric_process
from fpsolve.escape.passages import simulate_escape, start_state
from fpsolve.escape.rare_events import split_escape
from fpsolve.escape.rates import escape_rate
from fpsolve.escape.ways_out import Exit, ways_out
from fpsolve.symbols.counter_rng import Seed
from fpsolve.table import Row, Table
from theory import escape as formulas
from theory.evaluate import values_at
from theory.langevin import Langevin, Process

Method: TypeAlias = Literal["exact", "backward", "theory", "splitting", "simulation"]
METHODS: tuple[Method, ...] = get_args(Method)
#: Walker-steps that the simulation may take unless a time is given: a few seconds on one core.
BUDGET = 1e9
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
    rng: Seed = 0,
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

    Parameters
    ----------
    process : Process
        In numbers.
    start : mapping of name to number
    target : sympy condition
        See :func:`fpsolve.simulate_escape`.
    methods : sequence of str, optional
        Which; default all. One that cannot be used is left out with a remark.
    walkers : int, optional
        Of the simulation; fewer where that would take more than 1e9 walker-steps, none below 100.
    time_step : float, optional
        Of simulation and splitting; default 0.02 / (the largest curvature at the start's minimum and at the
        saddles), or 1/50 of the learning rate where that is smaller than ten times it.
    max_time : float, optional
        When walkers are stopped; default ten times the mean time of the best method before it.
    box : mapping, optional
        Reflecting walls of the backward equation; default where the stationary density is.
    rng : int, SeedSequence, Generator or str, optional
    progress : bool, optional

    Returns
    -------
    Table
        Intervals are 95 % for splitting and simulation, half-grid estimates for the backward equation, and
        s from 0 to 1 for formulas with a path-dependent share; Kramers' carries ± D/ΔL, the size of the next
        term. Deviations refer to the first of exact, backward, splitting, simulation that is there.

    Raises
    ------
    ValueError
        If the start is inside the target, a name is unknown, or no method can be used.
    """
    process = numeric_process(process, True)
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods={list(methods)} must be some of {', '.join(METHODS)}")
    if box is not None:
        box = checked_box(process, box)
    start = {name: float(value) for name, value in start.items()}
    # Refuses bad input before any work
    start_state(
        process, start=start, target=target, walkers=1, time_step=time_step or 1.0, max_time=1e300, rng=0,
        divergence=1e6,
    )  # fmt: skip
    work = _Work(process, start, target, walkers, time_step, max_time, box, rng, progress, [], [])
    return work.table(methods)


@dataclass(frozen=True)
class _Estimate:
    method: str
    value: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class _Work:
    """The problem, and the estimates and remarks found so far."""

    process: Process
    start: dict[str, float]
    target: sp.Basic
    walkers: int
    time_step: float | None
    max_time: float | None
    box: Mapping[str, tuple[float, float]] | None
    rng: Seed
    progress: bool
    found: list[_Estimate]
    remarks: list[str]

    def table(self, methods: Sequence[Method]) -> Table:
        exits = self._exits()
        jobs: dict[Method, Callable[[], object]] = {
            "exact": self._exact,
            "backward": self._backward,
            "theory": lambda: self._theory(exits),
            "splitting": lambda: self._splitting(exits),
            "simulation": lambda: self._simulation(exits),
        }
        for method in METHODS:
            if method not in methods:
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                try:
                    jobs[method]()
                except (ValueError, NotImplementedError, OverflowError, RuntimeError) as error:
                    self.remarks.append(f"{method}: {error}")
            self.remarks.extend(
                f"{method}: {w.message}" for w in caught if issubclass(w.category, UserWarning)
            )
        if not self.found:
            raise ValueError(f"no method can be used here: {'; '.join(self.remarks)}")
        best = next((e for e in self.found if not _is_formula(e)), self.found[0])
        barrier, words = self._barrier(exits)
        rows = (
            [Row(words, "landscape", barrier, 0.0, "", 0.0, math.nan, math.nan)]
            if math.isfinite(barrier)
            else []
        )
        rows += [_row(e, best) for e in self.found]
        title = f"Escape from {_shown(self.start)} to {self.target}: {self.process.name}"
        return Table(title, best.method, tuple(rows), tuple(dict.fromkeys(self.remarks)))

    def _exits(self) -> list[Exit]:
        if self.process.landscape is None:
            return []
        try:
            return ways_out(self.process.landscape, start=self.start, target=self.target)
        except (ValueError, NotImplementedError) as error:
            self.remarks.append(f"theory: {error}")
            return []

    def _barrier(self, exits: list[Exit]) -> tuple[float, str]:
        """ΔL/D over the lowest saddle; D along the escape direction at the minimum."""
        if not exits:
            return math.nan, ""
        lowest = min(exits, key=lambda p: p.barrier)
        exact = isinstance(self.process, Langevin) and self.process.noise.is_isotropic
        words = "ΔL/D" if exact else "ΔL/D at minimum"
        T = lowest.temperature(self.process, lowest.minimum)
        return (lowest.barrier / T if T > 0 else math.nan), words

    def _exact(self) -> None:
        if len(self.process.variables) != 1:
            return
        x0 = self.start[self.process.names[0]]
        ends = _ends(self.target, self.process.variables[0], x0)
        if len(ends) == 2:
            value = formulas.exact_exit_time(self.process, x0, ends=(ends[0], ends[1]))
        else:
            value = formulas.exact_mean_time(self.process, x0, ends[0])
        self._add("exact", value, value * (1 - 1e-9), value * (1 + 1e-9), "quadrature, 1e-9")

    def _backward(self) -> None:
        if len(self.process.variables) > 3:
            self.remarks.append("backward: more than three variables")
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            times = mean_first_passage_time(self.process, target=self.target, box=self.box)
        self.remarks.extend(f"backward: {w.message}" for w in caught)
        outside = [
            n for n, v in self.start.items() if not float(times[n].min()) <= v <= float(times[n].max())
        ]
        if outside:
            raise ValueError(f"the start {_shown(self.start)} is outside the box; give box=")
        if not times.attrs["usable"]:
            return
        value = float(times.interp(self.start, method="cubic"))
        error = float(times.attrs["half_grid_estimate"]) * value
        self._add("backward equation", value, value - error, value + error, "half-grid estimate")

    def _theory(self, exits: list[Exit]) -> None:
        if not isinstance(self.process, Langevin) or not exits:
            return
        noise, landscape = self.process.noise, self.process.landscape
        if noise.is_isotropic:
            times = [
                formulas.kramers_time(self.process, minimum=p.minimum, saddle=p.saddle, to=p.to)
                for p in exits
            ]
            value = 1.0 / formulas.total_rate(times)
            next_term = 1.0 / self._barrier(exits)[0]
            name = "Kramers" if len(self.process.variables) == 1 else "Eyring-Kramers"
            self._add(
                name, value, value * (1 - min(1.0, next_term)), value * (1 + next_term), "next term, D/ΔL"
            )
            return
        if noise.hessian_factor is not None:
            strength = float(noise.hessian_factor)

            def formula(p: Exit, s: float) -> float:
                # Strength is η/2B: any pair with that ratio will do.
                return formulas.sgd_escape_time(
                    landscape,
                    minimum=p.minimum,
                    saddle=p.saddle,
                    learning_rate=2 * strength,
                    batch_size=1,
                    s=s,
                )

            name = "noise ∝ Hessian, s = 1/2"
        else:

            def formula(p: Exit, s: float) -> float:
                T_a, T_b = (p.temperature(self.process, q) for q in (p.minimum, p.saddle))
                return formulas.two_temperature_time(
                    landscape, minimum=p.minimum, saddle=p.saddle, T_a=T_a, T_b=T_b, s=s
                )

            name = "two temperatures, s = 1/2"
        share = {"well": 1.0, "saddle": 0.5}
        values = []
        for s in (0.5, 1e-9, 1 - 1e-9):
            with warnings.catch_warnings():
                if s != 0.5:  # one warning is enough
                    warnings.simplefilter("ignore")
                times = [share[p.to] * formula(p, s) for p in exits]
            values.append(1.0 / formulas.total_rate(times))
        self._add(name, values[0], min(values[1:]), max(values[1:]), "s from 0 to 1")

    def _splitting(self, exits: list[Exit]) -> None:
        runs = split_escape(
            self.process, start=self.start, target=self.target, time_step=self._step(exits), rng=self.rng,
            progress=self.progress,
        )  # fmt: skip
        self._add(
            "splitting",
            float(1 / runs["rate"]),
            float(1 / runs["high"]),
            float(1 / runs["low"]),
            "95 % interval",
        )

    def _simulation(self, exits: list[Exit]) -> None:
        step = self._step(exits)
        self._simulated(step, f"simulation, dt = {step:.3g}")
        rate = self.process.learning_rate
        if rate is not None and not math.isclose(rate, step, rel_tol=1e-9):
            self._simulated(rate, f"map of SGD, η = {rate:.3g}")

    def _simulated(self, step: float, name: str) -> None:
        known = [e for e in self.found if not _is_formula(e)] or self.found
        mean = known[0].value if known else math.nan
        max_time = self.max_time
        if max_time is None:
            max_time = 10 * mean if math.isfinite(mean) else BUDGET * step / self.walkers
        walkers = self.walkers
        if math.isfinite(mean) and walkers * min(mean, max_time) / step > BUDGET:
            walkers = int(BUDGET * step / min(mean, max_time))
            if walkers < 100:
                self.remarks.append(
                    f"{name}: not run; 100 walkers would take {100 * min(mean, max_time) / step:.1e} steps"
                )
                return
        runs = simulate_escape(
            self.process, start=self.start, target=self.target, walkers=walkers, time_step=step,
            max_time=max(max_time, step), rng=self.rng, progress=self.progress,
        )  # fmt: skip
        if runs.attrs["n_diverged"]:
            self.remarks.append(f"{name}: {runs.attrs['n_diverged']} of {walkers} walkers diverged")
        if runs.attrs["n_escaped"] == walkers:
            times = runs["escape_time"].to_numpy()
            error = 1.96 * float(times.std(ddof=1)) / math.sqrt(walkers)
            self._add(name, float(times.mean()), times.mean() - error, times.mean() + error, "95 % interval")
            return
        rate = escape_rate(runs)
        low, high = float(rate.low), float(rate.high)
        if not int(rate.n_escaped):
            S = float(rate.total_time)
            self.remarks.append(
                f"{name}: no escape in a total of {S:.3g}; the mean time is above {1 / high:.4g}"
            )
            return
        kind = "95 % interval, exponential law"
        self._add(name, 1 / float(rate.rate), 1 / high, 1 / low if low > 0 else math.inf, kind)

    def _step(self, exits: list[Exit]) -> float:
        """A step that resolves the sharpest curvature on the way."""
        if self.time_step is not None:
            return self.time_step
        curvature = max((p.largest_curvature for p in exits), default=math.nan)
        if not math.isfinite(curvature):
            point = np.array([[self.start[n] for n in self.process.names]])
            gradient = sp.Matrix(self.process.drift).jacobian(list(self.process.variables))
            values = values_at(gradient, self.process.variables, point)
            curvature = float(np.abs(np.linalg.eigvals(values)).max())
        step = 0.02 / curvature if curvature > 0 else 0.01
        rate = self.process.learning_rate
        # A step near the learning rate would be taken for the map; continuous time needs one well below
        return step if rate is None else min(step, rate / 10)

    def _add(self, method: str, value: float, low: float, high: float, kind: str) -> None:
        self.found.append(_Estimate(method, float(value), float(low), float(high), kind))


def _row(estimate: _Estimate, best: _Estimate) -> Row:
    """One estimate against the reference, deviations in logarithms so that intervals are symmetric."""
    error = _log_error(estimate)
    combined = math.hypot(error, _log_error(best))
    difference = math.log(estimate.value / best.value) if estimate.value > 0 else math.nan
    formula = _is_formula(estimate)
    sigmas = math.nan if estimate is best or formula or combined == 0 else abs(difference) / combined
    return Row(
        QUANTITY, estimate.method, estimate.value, error * estimate.value, estimate.kind, error,
        estimate.value / best.value - 1, sigmas, estimate.low, estimate.high,
    )  # fmt: skip


def _log_error(estimate: _Estimate) -> float:
    """Standard error of ln T: an interval is taken for 95 %, other errors for one standard error."""
    if not (estimate.low > 0 and math.isfinite(estimate.high)):
        return math.nan
    half = math.log(estimate.high / estimate.low) / 2
    return half / 1.96 if "95 %" in estimate.kind else half


def _is_formula(estimate: _Estimate) -> bool:
    return estimate.kind.startswith(("next term", "s from"))


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
