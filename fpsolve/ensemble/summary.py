"""Results of an ensemble: averages, with standard errors from the scatter between walkers."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.ensemble.domain import refuse_indefinite
from fpsolve.ensemble.lanes import from_lanes
from fpsolve.ensemble.state import State, process_hash, variable_names
from fpsolve.ensemble.steps import TITLE, weak_order
from fpsolve.results import provenance, quantity
from fpsolve.statistics import student_factor
from fpsolve.symbols.counter_rng import GENERATOR, key_text
from theory.langevin import Process

#: Half of the normal law's 95 % interval, in standard errors.
_NORMAL = float(stats.norm.ppf(0.975))
#: Share of diverged walkers above which a table shows no number of theirs.
MOST_LOST = 0.1
_AVERAGES = ("mean", "abs_mean", "std", "abs_std", "second_moment", "covariance")
#: Names in a result beside those of the variables.
RESERVED = frozenset(f"{name}{end}" for name in _AVERAGES for end in ("", "_stderr")) | {
    "walker", "time", "variable", "variable_2", "moment", "moment_sum", "path", "diverged",
    "divergence_time", "divergence_step", "absorbed", "absorption_time", "excess", "axis",
    "histogram", "histogram_outside", "density",
}  # fmt: skip


def ensemble_dataset(
    process: Process, state: State, paths: np.ndarray, saved_steps: np.ndarray
) -> xr.Dataset:
    """The state at the end of a run, averages, and saved ``paths`` (times, groups, n, lanes), as one Dataset.

    :func:`fpsolve.simulate` describes it.
    """
    names = variable_names(process)
    points = from_lanes(state.positions, state.walkers)
    exit_step = from_lanes(state.exit_step, state.walkers)
    sums = from_lanes(state.sums, state.walkers)
    alive = exit_step < 0
    absorbed = from_lanes(state.bounds, state.walkers) < 0
    if process.landscape is None:
        refuse_indefinite(process, points[~alive & ~absorbed], "where a walker came")
    pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
    labels = [*names, *(f"|{n}|" for n in names), *(f"{names[i]} {names[j]}" for i, j in pairs)]
    dataset = xr.Dataset(
        {name: quantity(points[:, i], "walker", f"final {name}") for i, name in enumerate(names)}
        | divergences(exit_step, state.time_step, state.divergence, absorbed)
        | _beyond_edges(state)
        | {"moment_sum": quantity(sums, ("walker", "moment"), "sum over steps after burn-in")},
        coords={
            "walker": state.first_walker + np.arange(state.walkers),
            "variable": list(names),
            "variable_2": list(names),
            "moment": labels,
        },
        attrs=provenance(
            f"ensemble of walkers, {TITLE[state.scheme]}",
            scheme=state.scheme,
            weak_order=weak_order(process, state.scheme),
            walls=state.domain.words(names) or "none",
            domain=state.domain.to_text(),
            landscape=str(getattr(process, "name", "")),
            process_hash=process_hash(process),
            seed=key_text(state.key),
            generator=GENERATOR,
            walkers=state.walkers,
            first_walker=state.first_walker,
            diverged_walkers=int((~alive & ~absorbed).sum()),
            absorbed_walkers=int(absorbed.sum()),
            divergence=state.divergence,
            time=state.step * state.time_step,
            time_step=state.time_step,
            steps=state.step,
            burn_in=state.burn_in * state.time_step,
            burn_in_steps=state.burn_in,
            stderr=error_note(int(alive.sum())),
        ),
    )
    dataset.update(_averages(sums[alive] / (state.step - state.burn_in), names, pairs))
    if state.edges:
        _add_histogram(dataset, state)
    if len(saved_steps):
        dataset["time"] = quantity(saved_steps * state.time_step, "time", "time", "time")
        dataset["path"] = quantity(
            np.moveaxis(from_lanes(paths, state.walkers), 0, 1),
            ("walker", "time", "variable"),
            "saved positions",
        )
    return dataset


def _averages(
    means: np.ndarray, names: tuple[str, ...], pairs: list[tuple[int, int]]
) -> dict[str, xr.Variable]:
    """Averages of the time averages per walker, shape (walkers, moments), with standard errors.

    Walkers are independent, so their scatter holds all correlation in time. Errors of the
    nonlinear ones are by the delta method: cov = ⟨xy⟩ − ⟨x⟩⟨y⟩ varies as xy − ⟨x⟩y − ⟨y⟩x.
    """
    n = len(names)
    first, absolute, second = means[:, :n], means[:, n : 2 * n], np.empty((len(means), n, n))
    for k, (i, j) in enumerate(pairs):
        second[:, i, j] = second[:, j, i] = means[:, 2 * n + k]
    m, m_abs, m2 = mean(first), mean(absolute), mean(second)
    covariance = m2 - np.outer(m, m)
    covariance_error = stderr(second - first[:, :, None] * m[None, None, :] - first[:, None, :] * m[:, None])
    std = np.sqrt(np.clip(np.diagonal(covariance), 0, None))
    squares = np.diagonal(second, axis1=1, axis2=2)
    abs_std = np.sqrt(np.clip(np.diagonal(m2) - m_abs**2, 0, None))
    abs_error = stderr(squares - 2 * m_abs * absolute)
    std_error = np.diagonal(covariance_error)
    one, two = "variable", ("variable", "variable_2")
    rows = (
        ("mean", one, m, stderr(first), "average"),
        ("abs_mean", one, m_abs, stderr(absolute), "average absolute value"),
        ("std", one, std, _half_over(std_error, std), "standard deviation"),
        ("abs_std", one, abs_std, _half_over(abs_error, abs_std), "standard deviation of the absolute value"),
        ("second_moment", two, m2, stderr(second), "average product"),
        ("covariance", two, covariance, covariance_error, "covariance"),
    )
    return {name: values for row in rows for name, values in with_stderr(*row).items()}


def with_stderr(
    name: str, dims: str | tuple[str, ...], value: np.ndarray, error: np.ndarray, words: str, units: str = "1"
) -> dict[str, xr.Variable]:
    """An average and its standard error, as ``name`` and ``name_stderr``."""
    return {
        name: quantity(value, dims, words, units),
        f"{name}_stderr": quantity(error, dims, f"standard error of {name}", units),
    }


def divergences(
    exit_step: np.ndarray, time_step: float, limit: float, absorbed: np.ndarray | None = None
) -> dict[str, xr.Variable]:
    """Which walkers diverged and when, from steps (walkers,), -1 if never; warns if any did.

    Those that walls have ``absorbed`` ended too, but did not diverge.
    """
    absorbed = np.zeros(len(exit_step), bool) if absorbed is None else absorbed
    diverged = (exit_step >= 0) & ~absorbed
    if diverged.any():
        warnings.warn(lost_words(int(diverged.sum()), len(diverged), limit), stacklevel=4)
    times = np.where(exit_step < 0, np.nan, exit_step * time_step)
    divergence = np.where(diverged, times, np.nan)
    found = {
        "diverged": quantity(diverged.astype(np.int8), "walker", "1 if the walker diverged"),
        "divergence_time": quantity(divergence, "walker", "time of divergence", "time"),
        "divergence_step": quantity(exit_step, "walker", "step of divergence or absorption, -1 if none"),
    }
    if absorbed.any():
        found["absorbed"] = quantity(absorbed.astype(np.int8), "walker", "1 if a wall absorbed the walker")
        absorption = np.where(absorbed, times, np.nan)
        found["absorption_time"] = quantity(absorption, "walker", "time of absorption", "time")
    return found


def lost_words(lost: int, walkers: int, limit: float) -> str:
    """How many walkers diverged, what that does to averages, and what to do."""
    remedy = "use a smaller time_step, or check that the drift leads back from everywhere"
    diverged = f"diverged (a coordinate came to divergence={limit:g} or was no number)"
    if lost == walkers:
        return f"all {walkers} walkers {diverged}, so there are no averages: {remedy}"
    return (
        f"{lost} of {walkers} walkers ({lost / walkers:.2g} of all) {diverged}; averages are over the rest "
        f"and leave out the places from which walkers diverge: {remedy}"
    )


def _beyond_edges(state: State) -> dict[str, xr.Variable]:
    """How far walkers are beyond the edges of D, which a continued run needs; empty without edges."""
    if not state.domain.excess_axes:
        return {}
    values = from_lanes(state.excess, state.walkers)
    return {"excess": quantity(values, ("walker", "axis"), "distance beyond an edge of D")}


def error_note(used: int) -> str:
    """Where standard errors of averages over so many walkers come from."""
    note = "from the scatter between independent walkers; 1.96 of them are half of Student's 95 % interval"
    return note if used >= 30 else f"{note}; only {used} walkers, so errors are themselves uncertain"


def mean(values: np.ndarray) -> np.ndarray:
    """Average over walkers; NaN if there are none."""
    return values.mean(axis=0) if len(values) else np.full(values.shape[1:], np.nan)


def stderr(values: np.ndarray) -> np.ndarray:
    """Standard error of the average over walkers; NaN below two.

    It is widened for few walkers, so that 1.96 of it is half of Student's 95 % interval.
    """
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) * student_factor(len(values)) / _NORMAL


def _half_over(error: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Error of a square root, from the error of the square."""
    return np.divide(error, 2 * value, out=np.zeros_like(error), where=value > 0)


def _add_histogram(dataset: xr.Dataset, state: State) -> None:
    dims = [f"{name}_bin" for name in state.edges]
    widths = [np.diff(edges) for edges in state.edges.values()]
    counts = state.histogram[:-1].reshape([len(width) for width in widths])
    total = max(int(state.histogram.sum()), 1)
    volume = np.ones(())
    for width in widths:
        volume = volume[..., None] * width
    for name, edges in state.edges.items():
        dataset[f"{name}_edges"] = quantity(edges, f"{name}_edge", f"edges of bins in {name}")
        centres = (edges[1:] + edges[:-1]) / 2
        dataset.coords[f"{name}_bin"] = quantity(centres, f"{name}_bin", f"{name}, bin centres")
    dataset["histogram"] = quantity(counts, dims, "visits per bin")
    dataset["histogram_outside"] = quantity(state.histogram[-1], (), "visits outside all bins")
    dataset["density"] = quantity(counts / (total * volume), dims, "visits per volume, of all visits")
