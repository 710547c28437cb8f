"""Results of an ensemble: averages with their errors from the scatter between walkers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import xarray as xr

from fpsolve.ensemble.lanes import from_lanes
from fpsolve.ensemble.state import State, process_hash, variable_names
from theory.langevin import Process

_RESERVED = frozenset(
    {
        "walker", "time", "variable", "variable_2",
        "moment", "mean", "mean_stderr", "abs_mean",
        "abs_mean_stderr", "std", "std_stderr", "abs_std",
        "abs_std_stderr", "second_moment", "second_moment_stderr", "covariance",
        "covariance_stderr", "diverged", "divergence_time", "divergence_step",
        "moment_sum", "histogram", "histogram_outside", "density",
        "path",
    }
)  # fmt: skip


def check_names(process: Process) -> None:
    """Raise ValueError if a variable's name is needed for a result."""
    clash = _RESERVED.intersection(variable_names(process))
    if clash:
        raise ValueError(f"rename the variable {min(clash)}: results use that name")


def ensemble_dataset(
    process: Process, state: State, paths: np.ndarray, saved_steps: np.ndarray
) -> xr.Dataset:
    """The state, the averages and what was recorded, as one Dataset.

    Parameters
    ----------
    process : Process
    state : State
        At the end of the run.
    paths : ndarray, shape (times, groups, n, lanes)
    saved_steps : ndarray of ints, shape (times,)

    Returns
    -------
    Dataset
        As :func:`fpsolve.simulate` describes it.
    """
    names = variable_names(process)
    points = from_lanes(state.positions, state.walkers)
    exit_step = from_lanes(state.exit_step[:, None], state.walkers)[:, 0]
    sums = from_lanes(state.sums, state.walkers)
    alive = exit_step < 0
    divergence_time = np.where(alive, np.nan, exit_step * state.time_step)
    pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
    labels = [*names, *(f"|{n}|" for n in names), *(f"{names[i]} {names[j]}" for i, j in pairs)]
    dataset = xr.Dataset(
        {name: ("walker", points[:, i], _words(f"final {name}")) for i, name in enumerate(names)}
        | {
            "diverged": ("walker", (~alive).astype(np.int8), _words("1 if the walker diverged")),
            "divergence_time": ("walker", divergence_time, _words("time of divergence", "time")),
            "divergence_step": ("walker", exit_step, _words("step of divergence, -1 if none")),
            "moment_sum": (("walker", "moment"), sums, _words("sum over steps after burn-in")),
        },
        coords={
            "walker": state.first_walker + np.arange(state.walkers),
            "variable": list(names),
            "variable_2": list(names),
            "moment": labels,
        },
        attrs=_attributes(process, state, int(alive.sum())),
    )
    if not alive.any():
        warnings.warn(
            f"all {state.walkers} walkers diverged, so there are no averages; a smaller time_step "
            "or weaker noise may keep them",
            stacklevel=3,
        )
    dataset.update(_averages(sums[alive] / (state.step - state.burn_in), names, pairs))
    if state.edges:
        _add_histogram(dataset, state)
    if len(saved_steps):
        dataset["time"] = ("time", saved_steps * state.time_step, _words("time", "time"))
        dataset["path"] = (
            ("walker", "time", "variable"),
            np.moveaxis(from_lanes(paths, state.walkers), 0, 1),
            _words("saved positions"),
        )
    return dataset


def _averages(means: np.ndarray, names: tuple[str, ...], pairs: list[tuple[int, int]]) -> dict[str, tuple]:
    """Averages of the time averages per walker, shape (walkers, moments), with standard errors.

    Walkers are independent, so their scatter holds all correlation in time. Errors of the
    nonlinear ones are by the delta method: cov = ⟨xy⟩ − ⟨x⟩⟨y⟩ varies as xy − ⟨x⟩y − ⟨y⟩x.
    """
    n = len(names)
    first, absolute, second = means[:, :n], means[:, n : 2 * n], np.empty((len(means), n, n))
    for k, (i, j) in enumerate(pairs):
        second[:, i, j] = second[:, j, i] = means[:, 2 * n + k]
    m, m_abs, m2 = _mean(first), _mean(absolute), _mean(second)
    m1, m_abs1 = m, m_abs
    covariance = m2 - np.outer(m1, m1)
    covariance_error = _stderr(
        second - first[:, :, None] * m1[None, None, :] - first[:, None, :] * m1[None, :, None]
    )
    std = np.sqrt(np.clip(np.diagonal(covariance), 0, None))
    squares = np.diagonal(second, axis1=1, axis2=2)
    abs_std = np.sqrt(np.clip(np.diagonal(m2) - m_abs1**2, 0, None))
    abs_error = _stderr(squares - 2 * m_abs1 * absolute)
    std_error = np.diagonal(covariance_error)
    one, two = "variable", ("variable", "variable_2")
    return {
        "mean": (one, m, _words("average")),
        "mean_stderr": (one, _stderr(first), _words("standard error of mean")),
        "abs_mean": (one, m_abs, _words("average absolute value")),
        "abs_mean_stderr": (one, _stderr(absolute), _words("standard error of abs_mean")),
        "std": (one, std, _words("standard deviation")),
        "std_stderr": (one, _half_over(std_error, std), _words("standard error of std")),
        "abs_std": (one, abs_std, _words("standard deviation of the absolute value")),
        "abs_std_stderr": (
            one, _half_over(abs_error, abs_std), _words("standard error of abs_std"),
        ),
        "second_moment": (two, m2, _words("average product")),
        "second_moment_stderr": (two, _stderr(second), _words("standard error of second_moment")),
        "covariance": (two, covariance, _words("covariance")),
        "covariance_stderr": (two, covariance_error, _words("standard error of covariance")),
    }  # fmt: skip


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over walkers; NaN if there are none."""
    return values.mean(axis=0) if len(values) else np.full(values.shape[1:], np.nan)


def _stderr(values: np.ndarray) -> np.ndarray:
    """Standard error of the average over walkers; NaN below two."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))


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
        dataset[f"{name}_edges"] = (f"{name}_edge", edges, _words(f"edges of bins in {name}"))
        centres = (edges[1:] + edges[:-1]) / 2
        dataset.coords[f"{name}_bin"] = (f"{name}_bin", centres, _words(f"{name}, bin centres"))
    dataset["histogram"] = (dims, counts, _words("visits per bin"))
    dataset["histogram_outside"] = ((), state.histogram[-1], _words("visits outside all bins"))
    dataset["density"] = (
        dims,
        counts / (total * volume),
        _words("visits per volume, of all visits", "1"),
    )


def _attributes(process: Process, state: State, used: int) -> dict[str, str | int | float]:
    from fpsolve import __version__

    note = "from the scatter between independent walkers"
    if used < 30:
        note += f"; only {used} walkers, so errors are themselves uncertain"
    return {
        "title": "ensemble of walkers, Euler-Maruyama",
        "landscape": str(getattr(process, "name", "")),
        "process_hash": process_hash(process),
        "seed": f"0x{state.key[0]:016x}{state.key[1]:016x}",
        "generator": "threefry2x64-13, counter (step, walker), Box-Muller",
        "fpsolve_version": __version__,
        "walkers": state.walkers,
        "first_walker": state.first_walker,
        "diverged_walkers": state.walkers - used,
        "divergence": state.divergence,
        "time": state.step * state.time_step,
        "time_step": state.time_step,
        "steps": state.step,
        "burn_in": state.burn_in * state.time_step,
        "burn_in_steps": state.burn_in,
        "stderr": note,
    }


def _words(long_name: str, units: str = "1") -> dict[str, str]:
    return {"long_name": long_name, "units": units}
