"""``fpsolve phases``: a phase diagram from a landscape and a [phases] table with its grid over (σ, η)."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import xarray as xr

from fpsolve.command.output import pyplot, report
from fpsolve.command.problem import WALKERS, chosen_landscape, configuration, problem_table
from fpsolve.command.reader import Check, checked, number, one_of, positive, refuse_unknown, whole
from fpsolve.command.sizes import check_processes, check_walkers
from fpsolve.phases.diagram import boundaries, check_valley, phase_diagram
from theory.landscape import Landscape
from theory.noise import NOISE_KINDS

MAX_POINTS = 1_000_000


def parse_phases(text: str) -> tuple[Landscape, dict[str, Any]]:
    """The landscape of a configuration given as TOML text, and the options of ``phase_diagram``.

    A ValueError says what is wrong.
    """
    table = problem_table(text)
    noise = table.get("noise", {})
    if isinstance(noise, Mapping) and noise.get("kind", "random_shift") != "random_shift":
        one_of(noise["kind"], "noise.kind", tuple(NOISE_KINDS))
        raise ValueError(
            f"noise.kind = {noise['kind']!r}: phases are those of random_shift, whose sigma and "
            "learning_rate span the diagram; leave [noise] out, or try --example valley"
        )
    landscape = chosen_landscape(table)
    check_valley(landscape)
    options = _DEFAULTS | checked(table.get("phases", {}), _PHASES, "phases")
    points = len(options["sigma"]) * len(options["learning_rate"])
    if points > MAX_POINTS:
        raise ValueError(f"phases has {points:,} points; use at most {MAX_POINTS:,}")
    longest = options["time"] + options.get("search_limit", options["time"])
    steps = len(options["sigma"]) * sum(longest / rate for rate in options["learning_rate"])
    check_walkers(options["walkers"], steps, variables=2, where="phases", runs=points)
    return landscape, options


def _real(value: object, name: str) -> float:
    """A finite number, as a float where it is whole."""
    return float(number(value, name))


def _duration(value: object, name: str) -> float:
    return float(positive(value, name))


def _start(value: object, name: str) -> tuple[float, ...]:
    """A pair of numbers."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, such as start = [1.5, 1.5]")
    return tuple(_real(v, name) for v in value)


def _values(given: object, name: str) -> tuple[float, ...]:
    """A list, or ends and a number of points even in logarithm."""
    if isinstance(given, list):
        values = tuple(_real(v, name) for v in given)
    elif isinstance(given, Mapping):
        refuse_unknown(given, ("from", "to", "points"), name)
        low, high = (_real(given.get(key), f"{name}.{key}") for key in ("from", "to"))
        points = whole(given.get("points"), f"{name}.points", at_least=1)
        if not 0 < low <= high or points > MAX_POINTS:
            raise ValueError(f"{name}: 0 < from <= to, and at most {MAX_POINTS:,} points")
        values = tuple(np.geomspace(low, high, points).tolist())
    else:
        raise ValueError(f"{name} must be a list, or {{ from = 1e-3, to = 1, points = 20 }}")
    if not values or min(values) <= 0 or len(set(values)) < len(values):
        raise ValueError(f"{name} must hold positive numbers, each once")
    return values


_PHASES: dict[str, Check] = {
    **WALKERS, "sigma": _values, "learning_rate": _values, "start": _start,
    "time": _duration, "burn_in": _real, "search_limit": _duration,
}  # fmt: skip
#: The grid shows all three phases of the reference valley in a minute.
_DEFAULTS: dict[str, Any] = {
    "sigma": _values({"from": 1e-3, "to": 3.0, "points": 12}, "phases.sigma"),
    "learning_rate": _values({"from": 0.01, "to": 0.25, "points": 8}, "phases.learning_rate"),
    "walkers": 32, "time": 3000.0, "burn_in": 2000.0, "seed": 0,
}  # fmt: skip


def run_phases(options: argparse.Namespace, out: Path | None) -> int:
    """A phase diagram as the options of the command line ask; files go to ``out``. The exit code is 0."""
    landscape, settings = parse_phases(configuration(options))
    if options.seed is not None:
        settings["seed"] = options.seed
    borders = boundaries(landscape, learning_rate=settings["learning_rate"], time=settings["time"])
    if borders.leading.isnull().all():
        words = "no transition from I to II: the flattest point of this valley is at 0 without noise already"
        print(f"fpsolve: note: {words}", file=sys.stderr)
    points = len(settings["sigma"]) * len(settings["learning_rate"])
    processes = check_processes(options.workers, points)
    # spawned, since threads may be running here, which forks do not survive
    workers = (
        nullcontext(None)
        if processes == 1
        else ProcessPoolExecutor(processes, get_context("spawn"), initializer=end_with_parent)
    )
    with workers as executor:
        diagram = phase_diagram(
            landscape, executor=executor, store=options.store, progress=not options.json, **settings
        )
    rows = _rows(diagram, borders)
    named = borders.rename({name: f"border_{name}" for name in borders})
    report(
        "phases", _table(rows, diagram), {"rows": rows}, out=out, quiet=options.json,
        figure=None if out is None else _figure(diagram, borders),
        results={"phases": diagram.merge(named, combine_attrs="override")},
    )  # fmt: skip
    return 0


def end_with_parent() -> None:
    """In a worker: end when the process that started it does, however that ends."""
    parent = parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        Thread(target=wait, daemon=True).start()


def _figure(diagram: xr.Dataset, borders: xr.Dataset):
    """Maps of flatness and search time, with theory's borders."""
    from fpsolve.phases.plot import phase_map

    figure, axes = pyplot().subplots(1, 2, figsize=(11, 5), layout="constrained")
    for ax, quantity in zip(axes, ("flatness", "search_time"), strict=True):
        phase_map(diagram.sortby(["sigma", "learning_rate"]), quantity, borders=borders, ax=ax)
    return figure


#: Columns of the table: key of a row, title, width.
_COLUMNS = (
    ("I_to_II", "I to II, cells", 19),
    ("finite_step_second_order", "finite eta", 10),
    ("leading", "leading", 9),
    ("II_to_III", "II to III, cells", 19),
    ("lifetime", "lifetime", 9),
    ("kappa_at_zero", "Delta_m/eta", 11),
)


def _rows(diagram: xr.Dataset, borders: xr.Dataset) -> list[dict]:
    """Per learning rate: the cells between which the phase changes, and theory's borders."""
    rows = []
    diagram = diagram.sortby("sigma")
    sigma = diagram.sigma.to_numpy()
    for k, eta in enumerate(diagram.learning_rate.to_numpy()):
        phase = diagram.phase.sel(learning_rate=eta).to_numpy()
        row = {
            "learning_rate": float(eta),
            "phases": " ".join(("", "I", "II", "III")[p] for p in phase).strip(),
            "I_to_II": _between(sigma, phase >= 2),
            "II_to_III": _between(sigma, phase >= 3),
            "diverged": int(diagram.diverged.sel(learning_rate=eta).sum()),
        }
        for name in ("leading", "finite_step_second_order", "lifetime", "kappa_at_zero"):
            value = float(borders[name].isel(learning_rate=k))
            row[name] = value if math.isfinite(value) and value > 0 else None
        rows.append(row)
    return rows


def _between(sigma: np.ndarray, beyond: np.ndarray) -> list[float] | None:
    """The neighbouring σ between which a phase first changes."""
    first = int(np.argmax(beyond))
    return [float(sigma[first - 1]), float(sigma[first])] if beyond[first] and first > 0 else None


def _table(rows: list[dict], diagram: xr.Dataset) -> str:
    """The rows as text."""
    lines = [" ".join([f"{'eta':>8}", *(f"{title:>{width}}" for _, title, width in _COLUMNS), "diverged"])]
    for row in rows:
        cells = " ".join(f"{_shown(row[key]):>{width}}" for key, _, width in _COLUMNS)
        lines.append(f"{row['learning_rate']:8.4g} {cells} {row['diverged']:8d}")
    counts = [int((diagram.phase == number).sum()) for number in (1, 2, 3)]
    unsettled = int(((diagram.settled == 0) & (diagram.phase != 3)).sum())
    lines.append(
        f"sigma at the borders of the phases; cells: {counts[0]} I, {counts[1]} II, {counts[2]} III; "
        f"{unsettled} not settled within the run"
    )
    return "\n".join(lines)


def _shown(value: float | list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3g} .. {value[1]:.3g}" if isinstance(value, list) else f"{value:.3g}"
