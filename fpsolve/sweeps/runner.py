"""Sweeps: one function at every point of a grid, on any executor; a sweep that was killed can be continued.

Point i, counted through the grid with the last axis fastest, gets ``SeedSequence(seed, spawn_key=(i,))``,
so its bits depend on nothing but the seed and its place: not on the executor, the number of workers,
the order in which points finish, or how often the sweep was stopped.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import queue
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.progress import bar
from fpsolve.results import quantity, shortened
from fpsolve.sweeps.journal import (
    Axes,
    Entry,
    Journal,
    Provenance,
    check_sizes,
    finished_dataset,
    journal_path,
)
from fpsolve.sweeps.store import check_storable, checked_store, instructions, write_store

#: Points handed to the executor ahead of those that have come back: enough for any cluster, little memory.
_IN_FLIGHT = 4096

Parameters: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Failure:
    """A point whose run raised an error: its parameters, the message, and the traceback."""

    parameters: Parameters
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{shown}: {self.message}"


class _Unusable(Failure):
    """A point whose run returned what no sweep can hold."""


Outcome: TypeAlias = tuple[int, Parameters, dict[str, Entry] | Failure]


class SweepError(RuntimeError):
    """Some points of a grid of ``total`` failed, those in ``failures``; all others are kept."""

    def __init__(self, failures: Sequence[Failure], total: int) -> None:
        self.failures, self.total = tuple(failures), total
        shown = "; ".join(str(failure) for failure in self.failures[:3])
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        super().__init__(f"{len(self.failures)} of {total} points failed: {shown}{more}")

    def __reduce__(self) -> str | tuple:
        return type(self), (self.failures, self.total)


def sweep(
    run: Callable[..., Mapping[str, object]],
    grid: Mapping[str, ArrayLike],
    *,
    executor: Executor | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    errors: Literal["raise", "record"] = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """The values that ``run`` returns at every point of a grid, as one Dataset over its axes.

    With a ``store``, every finished point goes to the journal ``store + ".journal"`` before the next point is
    looked at: one line with a checksum, in one write. After a kill an incomplete last line is dropped and its
    point alone is run again. After the last point the store appears in one move, with the sha256 of its
    content, and the journal goes. The store's bytes depend neither on the executor nor on the order nor on
    restarts. ``open_sweep`` reads either.

    Parameters
    ----------
    run : callable
        A module-level function, or ``functools.partial`` of one with fixed keyword values: numbers,
        strings, arrays, sympy expressions, and tuples or dataclasses of these, such as a landscape, or
        objects with a ``digest`` of what they hold, such as data of ``nets``.
        Called as ``run(sigma=…, learning_rate=…, rng=…)`` with values of the grid and the point's own
        ``SeedSequence``, it returns a mapping of names to numbers, arrays, tuples ``(dims, values, attrs)``
        or variables of xarray; shapes are the same at every point.
    grid : mapping
        Values per axis, shape (n,), each value once. The result keeps their order.
    executor : concurrent.futures.Executor, optional
        Processes, loky, mpi4py, or ``dask.distributed.Client(…).get_executor(pure=False)``; never shut
        down. Default: here, one after another.
    store : path, optional
        ``….zarr`` (needs zarr) or ``….nc``; run the same sweep again to go on. Default: nothing is kept.
    seed : int
        At least 0.
    errors : {"raise", "record"}
        Once all other points are done: raise a SweepError that names those that failed, or return
        NaN there and the reasons in the variable ``error``. Either way the next run tries them again.
    progress : bool
        Show a bar with the time left.

    Returns
    -------
    Dataset
        Dims of the grid, then those of the arrays; ``attrs`` hold seed, version and hashes of ``run`` and
        grid. Before any point, a ValueError if an argument makes no sense, or the store is damaged, in use or
        that of another sweep: another grid, seed, version or function (source and fixed values, not what it
        calls); at the first point, if a sweep or the store cannot hold what ``run`` returns. A RuntimeError
        if the executor itself broke (a worker was killed): run again to go on.
    """
    axes = _checked_grid(grid)
    _check_run(run, axes)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number, at least 0")
    if errors not in ("raise", "record"):
        raise ValueError(f"errors={errors!r} must be 'raise' or 'record'")
    path = checked_store(store)
    provenance = _provenance(run, axes, int(seed))
    with Journal.opened(path, provenance) as journal:
        if journal.complete is not None:
            return journal.complete
        failures = _filled(journal, run, axes, int(seed), executor, progress, path)
        if failures and errors == "raise":
            raise SweepError([failures[i] for i in sorted(failures)], journal.total)
        dataset = finished_dataset(journal.entries, axes, provenance)
        if failures:
            said = [str(failures[i]) if i in failures else "" for i in range(journal.total)]
            shape = [len(values) for values in axes.values()]
            dataset["error"] = quantity(np.array(said).reshape(shape), tuple(axes), "why a point failed")
        elif path is not None:
            write_store(dataset, path)
            journal_path(path).unlink(missing_ok=True)  # all is in the store
        return dataset


def open_sweep(store: str | Path) -> xr.Dataset:
    """The points of a store that are finished, also while the sweep is running or after it was killed.

    Parameters
    ----------
    store : path
        As given to :func:`sweep`.

    Returns
    -------
    Dataset
        As :func:`sweep` returns it; NaN where a point is missing, and ``finished`` (0 or 1) if any is.
        A ValueError if there is neither a store nor a journal.
    """
    path = checked_store(store)
    assert path is not None
    if not path.exists() and not journal_path(path).exists():
        raise ValueError(f"there is no sweep in {path}")
    return Journal.read(path)


def _filled(
    journal: Journal,
    run: Callable,
    axes: Axes,
    seed: int,
    executor: Executor | None,
    progress: bool,
    path: Path | None,
) -> dict[int, Failure]:
    """Run the points that are missing; finished ones go to the journal at once, failed ones come back."""
    failures: dict[int, Failure] = {}
    points = list(itertools.product(*(values.tolist() for values in axes.values())))
    missing = [i for i in range(len(points)) if i not in journal.entries]
    tasks = ((i, dict(zip(axes, points[i], strict=True))) for i in missing)
    outcomes: Iterator[Outcome] = ((i, given, _point(run, given, seed, i)) for i, given in tasks)
    if executor is not None:
        outcomes = _parallel(run, tasks, seed, executor)
    done = len(points) - len(missing)
    with bar(len(points), unit="point", progress=progress, initial=done) as counted:
        for i, parameters, outcome in outcomes:
            if not isinstance(outcome, Failure):
                if not journal.entries and path is not None:
                    _check_first(path, axes, parameters, outcome)
                if (wrong := journal.misfit(outcome)) is None:
                    journal.add(i, outcome)
                else:
                    outcome = Failure(parameters, wrong)
            if isinstance(outcome, _Unusable) and not journal.entries:
                raise ValueError(f"run returns what a sweep cannot hold, at {outcome}")
            if isinstance(outcome, Failure):
                failures[i] = outcome
                counted.set_postfix_str(f"{len(failures)} failed")
            counted.update()
    return failures


def _parallel(
    run: Callable, tasks: Iterator[tuple[int, dict]], seed: int, executor: Executor
) -> Iterator[Outcome]:
    """Outcomes in the order in which the points finish."""
    # Callbacks, not as_completed: points are stored while others are still being handed out.
    done: queue.SimpleQueue = queue.SimpleQueue()
    flying: dict = {}
    try:
        while True:
            for i, parameters in itertools.islice(tasks, _IN_FLIGHT - len(flying)):
                future = executor.submit(_point, run, parameters, seed, i)
                flying[future] = (i, parameters)
                future.add_done_callback(done.put)
            if not flying:
                return
            future = done.get()
            i, parameters = flying.pop(future)
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                raise RuntimeError(
                    f"the executor broke ({error}) with {len(flying) + 1} points unfinished; one of them may "
                    "have killed its worker. Finished points are kept: run the sweep again to go on"
                ) from error
            yield i, parameters, _failure(parameters, error) if error is not None else future.result()
    finally:
        for future in flying:
            future.cancel()


def _point(run: Callable, parameters: Parameters, seed: int, i: int) -> dict[str, Entry] | Failure:
    """One point, here or in a worker; an error comes back as text, since not every one can be pickled."""
    try:
        result = run(**parameters, rng=np.random.SeedSequence(seed, spawn_key=(i,)))
    except Exception as error:
        return _failure(parameters, error)
    try:
        if not isinstance(result, Mapping) or not result:
            raise TypeError(f"run must return a dict of numbers or arrays, not {type(result).__name__}")
        entries = {str(name): Entry.checked(str(name), value, parameters) for name, value in result.items()}
        check_sizes(entries)
        return entries
    except Exception as error:
        return _Unusable(parameters, f"{type(error).__name__}: {error}")


def _check_first(path: Path, axes: Axes, parameters: Parameters, entries: dict[str, Entry]) -> None:
    """ValueError if the store could not hold the first finished point."""
    here = {name: np.array([value], axes[name].dtype) for name, value in parameters.items()}
    try:
        check_storable(finished_dataset({0: entries}, here, {"run": "", "grid": ""}), path)
    except TypeError as error:
        raise ValueError(f"{error}; run returned {', '.join(map(repr, entries))}") from error


def _failure(parameters: Parameters, error: BaseException) -> Failure:
    return Failure(parameters, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def _checked_grid(grid: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Axes as arrays of numbers or strings, each value once."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError("grid must map at least one name to its values, such as {'sigma': [0.1, 0.2]}")
    axes = {}
    for name, values in grid.items():
        array = np.array(values)
        if not isinstance(name, str) or not name.isidentifier() or name == "rng":
            raise ValueError(f"grid names {name!r}, which cannot be an argument of run")
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iufU":
            raise ValueError(f"grid[{name!r}] must be a list of numbers, or of strings, not {values!r}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"grid[{name!r}] must be finite")
        if len(np.unique(array)) < array.size:
            raise ValueError(f"grid[{name!r}] holds a value twice")
        axes[name] = array
    return axes


def _check_run(run: Callable, axes: Axes) -> None:
    function = run.func if isinstance(run, partial) else run
    name = getattr(function, "__qualname__", None)
    if name is None or "<" in name or inspect.ismethod(function):
        raise ValueError(
            f"run={run!r} must be a function defined at the level of its module, to reach workers"
        )
    if isinstance(run, partial):
        if run.args:
            raise ValueError("run, a partial, must fix its values by keyword")
        for key, value in run.keywords.items():
            if _identity(value) is None:
                raise ValueError(
                    f"run fixes {key}={value!r}, which must be a number, string, array, sympy expression, "
                    "a tuple or dataclass of these, or have a digest, to be recognised in a store"
                )
    try:
        inspect.signature(run).bind(**dict.fromkeys(axes), rng=None)
    except TypeError as error:
        raise ValueError(f"run cannot be called as {name}({', '.join(axes)}, rng): {error}") from None


def _identity(value: object) -> str | None:
    """Text that tells a fixed value apart in every Python process; None where there is none."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        return f"array {value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (tuple, list)):
        parts = [_identity(item) for item in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    if isinstance(digest := getattr(value, "digest", None), str):
        return f"{type(value).__qualname__} {digest}"
    if is_dataclass(value) and not isinstance(value, type):
        whole = _identity(tuple(getattr(value, field.name) for field in fields(value)))
        return None if whole is None else type(value).__qualname__ + whole
    if hasattr(value, "free_symbols") and hasattr(value, "subs"):  # sympy, which is not imported for this
        from sympy import srepr

        return srepr(value)
    return None


def _words(value: object) -> str:
    """A fixed value as it is shown."""
    if isinstance(value, str):
        return repr(value)
    return (_identity(value) or "") if isinstance(getattr(value, "digest", None), str) else str(value)


def _provenance(run: Callable, axes: Axes, seed: int) -> Provenance:
    """Attributes that a store must share with a sweep that is continued in it."""
    from fpsolve import __version__

    function, fixed = (run.func, run.keywords) if isinstance(run, partial) else (run, {})
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = instructions(function.__code__) if inspect.isfunction(function) else ""
    words = [f"{name}={shortened(_words(value))}" for name, value in sorted(fixed.items())]
    identity = "; ".join(f"{name}={_identity(value)}" for name, value in sorted(fixed.items()))
    return {
        "run": f"{function.__qualname__}({', '.join(words)})",
        "run_hash": hashlib.sha256(f"{source}\n{identity}".encode()).hexdigest()[:16],
        "grid": " × ".join(f"{name} ({values.size})" for name, values in axes.items()),
        "grid_values": json.dumps({name: values.tolist() for name, values in axes.items()}),
        "seed": seed,
        "fpsolve_version": __version__,
    }
