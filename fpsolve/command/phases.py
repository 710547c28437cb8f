"""``fpsolve phases``: a phase diagram from a landscape and a [phases] table with its grid over (σ, η)."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr

from fpsolve.command.problem import EXAMPLES, chosen_landscape, problem_table
from fpsolve.command.reader import number, one_of, read_text, refuse_unknown, whole
from fpsolve.phases.diagram import boundaries, check_valley, phase_diagram
from theory.landscape import Landscape

PHASES_KEYS = (
    "sigma", "learning_rate", "walkers", "time", "burn_in", "start", "search_limit", "seed",
)  # fmt: skip
#: A grid that shows all three phases of the reference valley in a minute.
DEFAULT_SIGMA = (1e-3, 3.0, 12)
DEFAULT_LEARNING_RATE = (0.01, 0.25, 8)
MAX_POINTS = 1_000_000


@dataclass(frozen=True)
class PhasesProblem:
    """A checked configuration: the landscape, the grid, options of ``phase_diagram``."""

    landscape: Landscape
    sigma: tuple[float, ...]
    learning_rate: tuple[float, ...]
    options: Mapping[str, object] = field(default_factory=dict)


def parse_phases(text: str) -> PhasesProblem:
    """Check a configuration of a phase diagram given as TOML text; a ValueError says what is wrong."""
    table = problem_table(text)
    noise = table.get("noise", {})
    if isinstance(noise, Mapping) and noise.get("kind", "random_shift") != "random_shift":
        one_of(noise["kind"], ("random_shift",), "noise.kind")
    landscape = chosen_landscape(table)
    check_valley(landscape)
    given = table.get("phases", {})
    refuse_unknown(given, PHASES_KEYS, "[phases]")
    sigma = _values(given.get("sigma"), DEFAULT_SIGMA, "phases.sigma")
    learning_rate = _values(given.get("learning_rate"), DEFAULT_LEARNING_RATE, "phases.learning_rate")
    if len(sigma) * len(learning_rate) > MAX_POINTS:
        raise ValueError(f"phases has {len(sigma) * len(learning_rate):,} points; use at most {MAX_POINTS:,}")
    options: dict[str, object] = {"walkers": whole(given.get("walkers", 32), "phases.walkers", at_least=2)}
    for key, default in (("time", 3000.0), ("burn_in", 2000.0), ("search_limit", None)):
        if key in given or default is not None:
            options[key] = float(number(given.get(key, default), f"phases.{key}"))
    options["seed"] = whole(given.get("seed", 0), "phases.seed", at_least=0)
    if "start" in given:
        start = given["start"]
        if not isinstance(start, list) or len(start) != 2:
            raise ValueError("phases.start must be two numbers, such as start = [1.5, 1.5]")
        options["start"] = tuple(float(number(v, "phases.start")) for v in start)
    return PhasesProblem(landscape, sigma, learning_rate, options)


def _values(given: object, default: tuple[float, float, int], name: str) -> tuple[float, ...]:
    """A list, or ends and a number of points even in logarithm."""
    if isinstance(given, list):
        values = [float(number(v, name)) for v in given]
    else:
        low, high, points = default
        if given is not None:
            if not isinstance(given, Mapping):
                raise ValueError(f"{name} must be a list, or {{ from = 1e-3, to = 1, points = 20 }}")
            refuse_unknown(given, ("from", "to", "points"), name)
            low, high = (float(number(given.get(key), f"{name}.{key}")) for key in ("from", "to"))
            points = whole(given.get("points"), f"{name}.points", at_least=1)
        if not 0 < low <= high or points > MAX_POINTS:
            raise ValueError(f"{name}: 0 < from <= to, and at most {MAX_POINTS:,} points")
        values = np.geomspace(low, high, points).tolist()
    if not values or min(values) <= 0 or len(set(values)) < len(values):
        raise ValueError(f"{name} must hold positive numbers, each once")
    return tuple(values)


def run_phases(options: argparse.Namespace, out: Path | None) -> int:
    """A phase diagram as the options of the command line ask; files go to ``out``. The exit code is 0."""
    problem = parse_phases(EXAMPLES[options.example] if options.example else read_text(options.config))
    settings: dict = dict(problem.options)
    if options.seed is not None:
        settings["seed"] = options.seed
    # spawned, since threads may be running here, which forks do not survive
    workers = (
        nullcontext(None)
        if options.workers == 1
        else ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))
    )
    with workers as executor:
        diagram = phase_diagram(
            problem.landscape, sigma=problem.sigma, learning_rate=problem.learning_rate, executor=executor,
            store=options.store, progress=not options.json, **settings,
        )  # fmt: skip
    borders = boundaries(problem.landscape, learning_rate=problem.learning_rate, time=settings["time"])
    rows = _rows(diagram, borders)
    print(json.dumps({"rows": rows}) if options.json else _table(rows, diagram))
    if out is not None:
        _write(out, problem, diagram, borders, rows)
        if not options.json:
            print(f"wrote {', '.join(str(out / f'phases.{kind}') for kind in ('json', 'nc', 'png', 'txt'))}")
    return 0


def _rows(diagram: xr.Dataset, borders: xr.Dataset) -> list[dict]:
    """Per learning rate: the cells between which the phase changes, and theory's borders."""
    rows = []
    diagram = diagram.sortby("sigma")
    for k, eta in enumerate(diagram.learning_rate.to_numpy()):
        phase = diagram.phase.sel(learning_rate=eta).to_numpy()
        column = borders.isel(learning_rate=k)
        theory = {
            name: _finite(column[name])
            for name in ("leading", "finite_step_second_order", "lifetime", "kappa_at_zero")
        }
        rows.append(
            {
                "learning_rate": float(eta),
                "phases": "".join(("", "I", "II", "III")[p] + " " for p in phase).strip(),
                "I_to_II": _between(diagram.sigma.to_numpy(), phase >= 2),
                "II_to_III": _between(diagram.sigma.to_numpy(), phase >= 3),
                "diverged": int(diagram.diverged.sel(learning_rate=eta).sum()),
                **theory,
            }
        )
    return rows


def _finite(value: xr.DataArray) -> float | None:
    number = float(value)
    return number if math.isfinite(number) and number > 0 else None


def _between(sigma: np.ndarray, beyond: np.ndarray) -> list[float] | None:
    """The neighbouring σ between which a phase first changes."""
    first = int(np.argmax(beyond))
    return [float(sigma[first - 1]), float(sigma[first])] if beyond[first] and first > 0 else None


def _table(rows: list[dict], diagram: xr.Dataset) -> str:
    """The rows as text."""
    keys = ("I_to_II", "finite_step_second_order", "leading", "II_to_III", "lifetime", "kappa_at_zero")
    head = ("I to II, cells", "finite eta", "leading", "II to III, cells", "lifetime", "Delta_m/eta")
    widths = (19, 10, 9, 19, 9, 11)
    titles = " ".join(f"{word:>{width}}" for word, width in zip(head, widths, strict=True))
    lines = [f"{'eta':>8} {titles} diverged"]
    for row in rows:
        cells = " ".join(f"{_shown(row[key]):>{width}}" for key, width in zip(keys, widths, strict=True))
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


def _write(
    out: Path, problem: PhasesProblem, diagram: xr.Dataset, borders: xr.Dataset, rows: list[dict]
) -> None:
    """Table, data and figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fpsolve.phases.plot import phase_map

    (out / "phases.txt").write_text(_table(rows, diagram) + "\n", encoding="utf-8")
    (out / "phases.json").write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    diagram.merge(
        borders.rename({name: f"border_{name}" for name in borders}), combine_attrs="override"
    ).to_netcdf(out / "phases.nc", engine="h5netcdf")
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for ax, quantity in zip(axes, ("flatness", "search_time"), strict=True):
        phase_map(diagram.sortby(["sigma", "learning_rate"]), quantity, borders=borders, ax=ax)
    figure.savefig(out / "phases.png", dpi=150)
    plt.close(figure)
