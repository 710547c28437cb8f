"""Densities in time from a given start, and the law of the time at which a set is reached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sparse
import xarray as xr

from fpsolve.density.absorption import Absorbed
from fpsolve.density.choices import Scheme, Walls
from fpsolve.density.fitted import natural_ends
from fpsolve.density.grid import Grid, checked_walls, is_number, rim_masses, walls_in_words
from fpsolve.density.operator import fokker_planck_matrix
from fpsolve.density.start import Start, at_point, initial_state, on_coarser
from fpsolve.density.stationary import chosen_schemes, moments, numeric_process, order, titled
from fpsolve.density.stepping import Stepper
from fpsolve.progress import bar
from fpsolve.results import dataset, quantity
from fpsolve.symbols.target import Target, target_function
from theory.langevin import Process

#: The error allowed in one step, over the accuracy asked for, at the first attempt.
FIRST_SHARE = 0.02
ATTEMPTS = 4
#: Of the relative correction of a density, the least that is stated for what leaves it and what is left.
LEAST_SHARE = 0.2
#: Errors of a law from cells are this much more than the order leaves, and no order holds for large changes.
CELLS_SAFETY, LARGE_CHANGE = 1.5, 0.2
#: Share of the mass left that may be missed in a time as long as that since the start.
EARLIEST = 1e-10


def evolve(
    process: Process,
    initial: Start,
    *,
    times: Sequence[float],
    time_step: float | None = None,
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    absorbing: Target | None = None,
    accuracy: float = 1e-3,
    scheme: Literal["auto"] | Scheme | Sequence[Scheme] = "auto",
    cross_diffusion: bool = True,
    progress: bool = False,
) -> xr.DataArray:
    """Probability density at the given times, from a given initial density.

    Solves ∂_t P = Σ_i ∂_i[−b_i P] + Σ_ij ∂_i∂_j[D_ij P] with the operator of :func:`stationary_density` and
    TR-BDF2 steps (second order, L-stable), whose lengths follow an estimate of their error. Rates that are
    not negative shorten every distance between densities, so that the errors of the steps add up to a bound;
    with central faces and cross terms it is an estimate.

    Parameters
    ----------
    process : Process
        A Langevin system or diffusion in one to three variables.
    initial : DataArray, sympy expression, callable or mapping
        The density at time 0, normalised here: on the cell centres of a uniform grid (such as a
        finite-volume result); a formula in the variables, averaged over the cells of ``box`` and ``shape``;
        or a point, ``{"x": 0.5}``.
    times : sequence of float
        Increasing output times ≥ 0, in units of learning rate × iterations.
    time_step : float, optional
        Longest step.
    box, shape : optional
        The grid, needed unless ``initial`` brings one.
    walls : "far", "reflecting", "periodic", or a mapping of names to these
        As in :func:`stationary_density`. "far": mass in the rim is warned of.
    absorbing : sympy condition or callable, optional
        A set whose walkers are taken out, such as ``x > 1``. The mass left is ``survival``.
    accuracy : float
        Target for ``time_error``.
    scheme, cross_diffusion : see :func:`stationary_density`.
    progress : bool
        Show a progress bar over the output times.

    Returns
    -------
    DataArray
        Dims ``time`` and the variables, coordinates ``cell_volume`` and ``survival`` (the mass) over time.
        ``attrs["time_error"]``: bound on ∫|error| from the steps in time; ``attrs["half_grid_estimate"]``:
        largest error of ⟨v⟩, ⟨v²⟩, std and of the survival, relative to their scales, from the cells, by a
        run on half as many per axis. ``mass_drift`` and ``negative_mass`` are the largest met. A ValueError
        if the times do not increase, the step or accuracy is not positive, the start is outside the box or
        the set fills it. A UserWarning where an error is above what was asked or 1 %.
    """
    run = _Run.of(process, initial, times, time_step, box, shape, walls, absorbing, accuracy, scheme,
                  cross_diffusion)  # fmt: skip
    fine, coarse = run.both(progress)
    estimate = run.half_grid_estimate(fine, coarse)
    grid = run.grid
    coordinates = {"time": quantity(run.times, "time", "time", "learning rate x iterations")}
    coordinates |= grid.coordinates
    coordinates["cell_volume"] = quantity(np.full(grid.shape, grid.cell_volume), grid.names, "cell volume")
    coordinates["survival"] = quantity(fine.mass, "time", "probability of not having reached the set")
    result = xr.DataArray(fine.frames, dims=("time", *grid.names), coords=coordinates, name="density")
    result.attrs = {
        "method": "finite-volume, TR-BDF2",
        "scheme": ", ".join(f"{s} in {v}" for v, s in zip(grid.names, run.schemes, strict=True)),
        "walls": walls_in_words(run.walls),
        "absorbing": "none" if absorbing is None else str(absorbing),
        "shortest_step": fine.shortest,
        "time_error": fine.error,
        "half_grid_estimate": estimate,
        "mass_drift": fine.drift,
        "negative_mass": fine.negative,
    }
    for complaint in run.complaints(fine, estimate):
        warnings.warn(complaint, stacklevel=2)
    return titled(result, run.process, "probability density", "Evolving density")


def passage_time_law(
    process: Process,
    initial: Start,
    *,
    target: Target,
    times: Sequence[float],
    box: Mapping[str, tuple[float, float]] | None = None,
    shape: Sequence[int] | int | None = None,
    walls: Walls | Mapping[str, Walls] = "far",
    accuracy: float = 1e-3,
    cross_diffusion: bool = True,
) -> xr.Dataset:
    """The law of the time at which a target is first reached, and the state that survives longest.

    The survival S(t) is the mass of :func:`evolve` with the target absorbing; the law has the density −S'(t),
    the flux into the target. Both are those of steps corrected by the estimate of their error (third order),
    whose lengths follow the mass that is left down to 1e-8 of it; the error of the steps is what the
    correction changes, that of the cells what half of them change.
    Sources: Gardiner, *Stochastic Methods* (2009), sec. 5.5; Collet, Martínez, San Martín, *Quasi-Stationary
    Distributions* (2013), ch. 2.

    Parameters
    ----------
    target : sympy condition or callable
        As in :func:`mean_first_passage_time`.
    process, initial, times, box, shape, walls, accuracy, cross_diffusion
        As in :func:`evolve`.

    Returns
    -------
    Dataset
        Over ``time``: ``survival`` and ``passage_density`` with their errors from cells and steps,
        ``survival_error`` and ``passage_density_error``. Over the variables: ``quasi_stationary``, the
        density of those that have not reached the target for long. ``attrs``: ``quasi_stationary_rate``, at
        which S decays in the end (NaN where no float holds it), ``quasi_stationary_rate_error`` by half
        the cells, ``time_error`` and ``half_grid_estimate``, both of S. Fails and warns as :func:`evolve`.
    """
    run = _Run.of(process, initial, times, None, box, shape, walls, target, accuracy, "auto",
                  cross_diffusion)  # fmt: skip
    if not run.starts_outside():
        raise ValueError("the start lies in the target, which is reached at once")
    fine, coarse = replace(run, law=True).both(False)
    distances = run.distances(fine, coarse)
    pairs = (fine.mass, coarse.mass), (fine.outflow, coarse.outflow)
    cells = [_from_cells(a, b, distances, run.power) for a, b in pairs]
    survival = float(cells[0].max())
    for complaint in run.complaints(fine, survival):
        warnings.warn(complaint, stacklevel=2)
    rate, state = fine.absorbed.slowest_decay()  # type: ignore[union-attr]
    # How the target's boundary cuts the cells differs on half the grid: twice what the order leaves.
    rate_error = 2 * abs(coarse.absorbed.slowest_decay()[0] - rate) / run.power  # type: ignore[union-attr]
    quasi = np.zeros(run.grid.cells)
    quasi[fine.absorbed.keep] = state / run.grid.cell_volume  # type: ignore[union-attr]
    variables = {
        "survival": quantity(fine.mass, "time", "probability of not having reached the target"),
        "survival_error": quantity(cells[0] + fine.mass_steps, "time", "error of the survival"),
        "passage_density": quantity(fine.outflow, "time", "density of the passage time", "1 / time"),
        "passage_density_error": quantity(
            cells[1] + fine.outflow_steps, "time", "error of the density", "1 / time"
        ),
        "quasi_stationary": quantity(
            quasi.reshape(run.grid.shape), run.grid.names, "quasi-stationary probability density"
        ),
    }
    coords = {"time": quantity(run.times, "time", "time", "learning rate x iterations")}
    return dataset(
        variables, title=f"Passage time: {run.process.name}", coords=coords | run.grid.coordinates,
        target=str(target), quasi_stationary_rate=rate, quasi_stationary_rate_error=rate_error,
        time_error=fine.error,
        half_grid_estimate=survival, walls=walls_in_words(run.walls), negative_mass=fine.negative,
    )  # fmt: skip


def _from_cells(fine: np.ndarray, coarse: np.ndarray, distances: np.ndarray, power: float) -> np.ndarray:
    """Errors of numbers over time by half the cells; distances are those of the whole densities."""
    change = np.abs(fine - coarse)
    # No order is counted on where the change is large.
    plain = change * np.where(change > LARGE_CHANGE * np.abs(fine), 1.0, CELLS_SAFETY / power)
    # A change may be changing sign: that of the whole density stands for it.
    return np.maximum(plain, distances * np.abs(fine) * CELLS_SAFETY / power)


@dataclass(frozen=True)
class _Frames:
    """Densities at the output times on one grid, and what was met on the way."""

    frames: np.ndarray
    mass: np.ndarray
    outflow: np.ndarray
    mass_steps: np.ndarray  # errors from the steps, of a law
    outflow_steps: np.ndarray
    error: float
    drift: float
    negative: float
    shortest: float
    absorbed: Absorbed | None


@dataclass(frozen=True)
class _Run:
    """A checked question: where, from what, until when."""

    process: Process
    grid: Grid
    start: np.ndarray
    times: np.ndarray
    longest: float
    walls: dict[str, Walls]
    absorbing: Callable[..., np.ndarray] | None
    accuracy: float
    schemes: tuple[Scheme, ...]
    point: Mapping[str, float] | None = None  # the start, if it is one
    law: bool = False  # the law of a passage time is asked for

    @classmethod
    def of(
        cls, process, initial, times, time_step, box, shape, walls, absorbing, accuracy, scheme, cross
    ) -> _Run:  # fmt: skip
        """Check what :func:`evolve` was given."""
        process = numeric_process(process, cross)
        instants = np.asarray(times, float)
        if instants.ndim != 1 or len(instants) == 0 or not (np.diff(instants, prepend=0.0) >= 0).all():
            raise ValueError("times must be an increasing sequence of times >= 0")
        if not np.isfinite(instants).all():
            raise ValueError(
                "times must be finite; for what is left in the end see stationary_density, or "
                "quasi_stationary of passage_time_law"
            )
        for name, value in (("time_step", time_step), ("accuracy", accuracy)):
            if value is not None and not (is_number(value) and 0 < value < np.inf):
                raise ValueError(f"{name}={value!r} must be positive and finite")
        grid, start = initial_state(process, initial, box, shape)
        ends = checked_walls(process, walls, {})
        grid = replace(grid, periodic=tuple(v for v in grid.names if ends[v] == "periodic"))
        run = cls(
            process, grid, start, instants, np.inf if time_step is None else float(time_step), ends,
            None if absorbing is None else target_function(absorbing, process.variables), float(accuracy),
            chosen_schemes(process, grid, scheme), initial if isinstance(initial, Mapping) else None,
        )  # fmt: skip
        if (held := run.rim(start)) > 1e-2:
            raise ValueError(
                f"{held:.1%} of the initial mass lies in the rim of the box: enlarge the box, or say "
                "walls='reflecting' if the wall is meant"
            )
        return run

    @property
    def power(self) -> float:
        """What the difference between two grids is divided by, for the error of the finer one."""
        return 2.0 ** order(self.process, self.grid, self.schemes) - 1.0

    @cached_property
    def natural(self) -> frozenset[tuple[str, str]]:
        """Ends of the box where D vanishes."""
        return natural_ends(self.process, self.grid)

    def rim(self, density: np.ndarray) -> float:
        """Mass in the outer share of the box, at walls that shall be far."""
        masses = rim_masses(density, self.grid)
        return sum(m for end, m in masses.items() if self.walls[end[0]] == "far" and end not in self.natural)

    def starts_outside(self) -> bool:
        """Whether the set leaves mass at the start."""
        signed = self.absorbing(*np.moveaxis(self.grid.points(), -1, 0))  # type: ignore[misc]
        return bool((self.start * (np.asarray(signed) <= 0)).any())

    def both(self, progress: bool) -> tuple[_Frames, _Frames]:
        """The frames on the grid and on half of it."""
        half = self.grid.coarsened()
        matrix = fokker_planck_matrix(self.process, half, self.schemes)
        start = on_coarser(self.start, self.grid, half) if self.point is None else at_point(half, self.point)
        coarse, allowed = self._accurate(matrix, half, start, FIRST_SHARE * self.accuracy, False)
        matrix = fokker_planck_matrix(self.process, self.grid, self.schemes)
        # The error of a step is nearly that on half the grid.
        return self._accurate(matrix, self.grid, self.start, allowed, progress)[0], coarse

    def _accurate(
        self, matrix: sparse.csc_matrix, grid: Grid, start: np.ndarray, allowed: float, progress: bool
    ) -> tuple[_Frames, float]:
        """The frames with an error in time below the accuracy, if that is reached in few attempts.

        The first attempt allows an error of ``allowed`` in each step; what the last one allows comes second.
        """
        absorbed = (
            None
            if self.absorbing is None
            else Absorbed.of(self.process, matrix, grid, self.absorbing, self.schemes)
        )
        for _ in range(ATTEMPTS):
            found, used = self._frames(matrix, absorbed, grid, start, allowed, progress), allowed
            if found.error <= self.accuracy:
                break
            # The sum of n errors of third order falls like their 2/3rd power.
            allowed *= 0.7 * (self.accuracy / found.error) ** 1.5
        return found, used

    def _frames(self, matrix, absorbed, grid, start, allowed: float, progress: bool) -> _Frames:
        """One attempt with a given error allowed in each step."""
        volume, keep = grid.cell_volume, slice(None) if absorbed is None else absorbed.keep
        stepper = Stepper(matrix if absorbed is None else absorbed.matrix)
        current = start.ravel()[keep].copy()
        whole = float(current.sum()) if self.law else None
        frames, corrections = np.zeros((2, len(self.times), grid.cells))
        # Before the first step nothing is known: the mass that moves in a time tells its length.
        speed = (
            float(np.abs(stepper.matrix @ current).sum() / np.abs(current).sum()) if current.any() else 0.0
        )
        guess = 0.1 / speed if speed > 0 else np.inf
        if self.law:
            current = np.column_stack([current, current])  # as it steps, and corrected
        error, negative, shortest, span = 0.0, 0.0, np.inf, 0.0
        with bar(len(self.times), unit="time", progress=progress, leave=False) as counted:
            waits = np.diff(self.times, prepend=0.0)
            for frame, correction, wait in zip(frames, corrections, waits, strict=True):
                if wait > 0:
                    # Spans that differ by rounding share their factorised steps.
                    span = span if np.isclose(wait, span, rtol=1e-12, atol=0.0) else float(wait)
                    outcome = stepper.interval(current, span, self.longest, allowed / volume, guess, whole)
                    current, guess = outcome.density, outcome.guess
                    error, negative = error + outcome.error, max(negative, outcome.negative)
                    shortest = min(shortest, outcome.shortest)
                frame[keep] = current.T[-1] if self.law else current
                correction[keep] = current.T[-1] - current.T[0] if self.law else 0.0
                counted.update()
        mass, mass_steps = (part.sum(axis=1) * volume for part in (frames, corrections))
        exits = 0.0 if absorbed is None else absorbed.exits * volume
        outflow, outflow_steps = ((part[:, keep] * exits).sum(axis=1) for part in (frames, corrections))
        # Where a correction changes sign in time, a share of that of the whole density stands for it.
        share = LEAST_SHARE * np.abs(corrections).sum(axis=1) / np.maximum(np.abs(frames).sum(axis=1), 1e-300)
        mass_steps, outflow_steps = (
            np.maximum(np.abs(change), share * np.abs(value))
            for change, value in ((mass_steps, mass), (outflow_steps, outflow))
        )
        # Steps do not resolve the few that come before most could.
        outflow_steps = outflow_steps + EARLIEST * np.abs(mass) / np.maximum(self.times, 1e-300)
        drift = float(np.abs(mass - 1.0).max()) if absorbed is None else 0.0
        return _Frames(
            frames.reshape(-1, *grid.shape), mass, outflow, mass_steps, outflow_steps,
            error * volume, drift, negative * volume, shortest, absorbed,
        )  # fmt: skip

    def distances(self, fine: _Frames, coarse: _Frames) -> np.ndarray:
        """∫|change| of the density by half the cells over its mass, at every time."""
        half = self.grid.coarsened()
        pairs = zip(fine.frames, coarse.frames, strict=True)
        changes = np.array([np.abs(on_coarser(a, self.grid, half) - b).sum() for a, b in pairs])
        masses = np.array([np.abs(frame).sum() for frame in coarse.frames])
        return changes / np.maximum(masses, 1e-300)

    def half_grid_estimate(self, fine: _Frames, coarse: _Frames) -> float:
        """Largest error of the moments and the survival at any time, relative to their scales."""
        errors = [np.abs(fine.mass - coarse.mass).max()]
        half = self.grid.coarsened()
        for a, b in zip(fine.frames, coarse.frames, strict=True):
            if not min(a.sum(), b.sum()) > 0:
                continue
            (numbers, scales), (others, _) = moments(a, self.grid), moments(b, half)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.abs(numbers - others) / scales
            errors.append(np.max(ratio[np.isfinite(ratio)], initial=0.0))
        return float(max(errors) / self.power)

    def complaints(self, fine: _Frames, estimate: float) -> list[str]:
        """What a user is warned of."""
        rim = max(self.rim(frame) for frame in fine.frames)
        found = {
            f"the rim of the box holds {rim:.1e} of the mass: enlarge the box": rim > 1e-6,
            f"steps in time are good to {fine.error:.1e} only (accuracy={self.accuracy:g})": fine.error
            > 1.5 * self.accuracy,
            f"negative cells hold {fine.negative:.1e} of the mass: use more cells (shape=) or "
            "scheme='exponential'": fine.negative > 1e-4,
            f"moments are good to about {estimate:.1e} only: use more cells (shape=)": estimate > 1e-2,
        }
        return [complaint for complaint, true in found.items() if true]
