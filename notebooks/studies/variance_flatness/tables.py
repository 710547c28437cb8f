"""Exponents of several experiments in one table: optimisers, layers, architectures, data sets, B and α.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Fig. 2D and the Discussion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fpsolve.results import interval_text, provenance, quantity
from fpsolve.sweeps.store import read_store
from fpsolve.table import markdown as table_in_markdown
from notebooks.studies.variance_flatness import claims
from notebooks.studies.variance_flatness.experiment import CASES, NEXT, SAME, Config, seed_path

QUANTITIES = {
    "psi": "ψ",
    "psi_D": "ψ_D",
    "psi_tau": "ψ_τ",
    "gamma": "γ",
    "modes_for_90_percent": "modes for 90 %",
}
#: Columns of the table: every quantity with the ends of its interval.
_COLUMNS = {
    name + end: symbol + text
    for name, symbol in QUANTITIES.items()
    for end, text in (("", ""), ("_low", ", low end of 95 %"), ("_high", ", high end of 95 %"))
} | {"psi_correlation": "correlation of ln σ² with ln F"}
#: What the table as text shows: a quantity and the case it is measured in.
COLUMNS = (
    *((name, case) for name in ("psi", "psi_D", "psi_tau") for case in (SAME, NEXT)),
    ("gamma", SAME),
    ("modes_for_90_percent", SAME),
)


def stored(config: Config, out: Path) -> list[xr.Dataset]:
    """The seeds of an experiment that are stored with exactly these settings; nothing is measured."""
    paths = (seed_path(out, config, s) for s in range(config.first_seed, config.first_seed + config.seeds))
    results = [read_store(path) for path in paths if path.exists()]
    return [result for result in results if result.attrs.get("digest") == config.digest]


def table(configs: Sequence[Config], results: Mapping[str, Sequence[xr.Dataset]]) -> xr.Dataset:
    """Every exponent of every experiment, with its interval over seeds.

    The rows are the ``configs`` in their order; ``results`` hold the trainings of each by the experiment's
    name, from :func:`stored` or ``experiment.run_trainings``. An experiment without trainings was not run:
    its row is NaN, its number of seeds 0. A ValueError without experiments, or if two have one name.

    The Dataset, dims experiment and case, holds ``psi``, ``psi_D``, ``psi_tau``, ``gamma`` and
    ``modes_for_90_percent``, each with ``…_low`` and ``…_high`` (95 %, Student's t over seeds; blocks of
    modes for one seed), and ``psi_correlation``; NaN where a case was not measured. ``loss`` is L₀ at w₀
    (geometric mean over seeds), ``loss_low`` and ``loss_high`` its smallest and largest seed; there are
    ``epoch`` of w₀, ``seeds``, ``cpu_seconds`` of all seeds, ``learning_rate`` and ``batch_size``.
    """
    names = [config.name for config in configs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"experiments {names} must be at least one, each with a name of its own")
    cases = [case for case in CASES if any(case in config.cases for config in configs)]
    rows = [_row(config, results.get(config.name, ()), cases) for config in configs]
    found = xr.concat(rows, xr.IndexVariable("experiment", names), combine_attrs="override")
    return found.assign_attrs(provenance("exponents across experiments"))


def _row(config: Config, seeds: Sequence[xr.Dataset], cases: Sequence[str]) -> xr.Dataset:
    """One experiment, dim case."""
    values = {name: np.full(len(cases), np.nan) for name in _COLUMNS}
    for row in claims.verdict(seeds, config) if seeds else ():
        name = row.quantity.replace(" ", "_").replace("%", "percent")
        for case, e in row.measured.items():
            j = cases.index(case)
            values[name][j], values[f"{name}_low"][j], values[f"{name}_high"][j] = e.value, e.low, e.high
            if name == "psi":
                values["psi_correlation"][j] = e.correlation
    names = ("loss", "epoch_start", "cpu_seconds")
    losses, epochs, seconds = (np.array([s.attrs[n] for s in seeds] or [np.nan], float) for n in names)
    scalars = {
        "loss": quantity(np.exp(np.log(losses).mean()), (), "training loss L₀ at w₀"),
        "loss_low": quantity(losses.min(), (), "smallest L₀ of a seed"),
        "loss_high": quantity(losses.max(), (), "largest L₀ of a seed"),
        "epoch": quantity(epochs.mean() + config.window, (), "epoch of w₀"),
        "cpu_seconds": quantity(seconds.sum(), (), "processor time", "s"),
        "learning_rate": quantity(config.learning_rate, (), "learning rate"),
        "batch_size": quantity(config.batch_size, (), "batch size"),
        "seeds": quantity(len(seeds), (), "seeds"),
    }
    columns = {name: quantity(value, "case", _COLUMNS[name]) for name, value in values.items()}
    return xr.Dataset(columns | scalars, {"case": np.array(cases)})


def markdown(table: xr.Dataset, *, columns: Sequence[tuple[str, str]] = COLUMNS) -> str:
    """The table as text, a line for each experiment; a column for each pair of a quantity and a case."""
    there = [(q, case) for q, case in columns if case in table["case"]]
    several = {name for name, _ in there if sum(q == name for q, _ in there) > 1}
    heads = [f"{QUANTITIES[q]}, {case}" if q in several else QUANTITIES[q] for q, case in there]
    rows = []
    for name in table["experiment"].to_numpy():
        row, cells = table.sel(experiment=name), ["not run", "", *[""] * len(there)]
        if seeds := int(row["seeds"]):
            measured = [_cell(row.sel(case=case), column) for column, case in there]
            cells = [f"{float(row['loss']):.1e}", str(seeds), *measured]
        rows.append([str(name), *cells])
    return table_in_markdown(["experiment", "L₀", "seeds", *heads], rows)


def _cell(row: xr.Dataset, name: str) -> str:
    """A quantity of one experiment and case with its interval."""
    value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
    form = ".0f" if name == "modes_for_90_percent" else ".2f"
    return "–" if np.isnan(value) else interval_text(value, low, high, form=form)
