"""``fpsolve phases``: a phase diagram from a configuration file, as a table, a figure and a netCDF file."""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xarray as xr

from fpsolve.command.phase_problem import PhasesProblem, parse_phases
from fpsolve.command.problem import EXAMPLES, read_text
from fpsolve.phases.diagram import boundaries, phase_diagram


def run_phases(options: argparse.Namespace, out: Path | None) -> int:
    """Do what the command line asks.

    Parameters
    ----------
    options : Namespace
        ``config`` or ``example``, ``seed``, ``workers``, ``store``, ``json``.
    out : Path, optional
        Where files go.

    Returns
    -------
    int
        0.
    """
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
