"""Exponents of several experiments in one table: optimisers, layers, architectures, data sets, B and α.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Fig. 2D and the Discussion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import fpsolve
from notebooks.studies.variance_flatness import claims
from notebooks.studies.variance_flatness.experiment import CASES, NEXT, SAME, Config, load, seed_path

QUANTITIES = {
    "psi": "ψ",
    "psi_D": "ψ_D",
    "psi_tau": "ψ_τ",
    "gamma": "γ",
    "modes_for_90_percent": "modes for 90 %",
}
#: What the table as text shows: a quantity and the case it is measured in.
COLUMNS = (
    ("psi", SAME),
    ("psi", NEXT),
    ("psi_D", SAME),
    ("psi_D", NEXT),
    ("psi_tau", SAME),
    ("psi_tau", NEXT),
    ("gamma", SAME),
    ("modes_for_90_percent", SAME),
)

__all__ = ["markdown", "stored", "table"]


def stored(config: Config, out: Path) -> list[xr.Dataset]:
    """The seeds of an experiment that are stored; nothing is measured.

    Parameters
    ----------
    config : Config
        Seeds measured with other settings are not its.
    out : Path
        As in :func:`notebooks.studies.variance_flatness.experiment.run_seeds`.

    Returns
    -------
    list of Dataset
        Perhaps empty.
    """
    paths = (seed_path(out, config, s) for s in range(config.first_seed, config.first_seed + config.seeds))
    results = [load(path) for path in paths if path.exists()]
    return [result for result in results if result.attrs.get("digest") == config.digest]


def table(configs: Sequence[Config], results: Mapping[str, Sequence[xr.Dataset]]) -> xr.Dataset:
    """Every exponent of every experiment, with its interval over seeds.

    Parameters
    ----------
    configs : sequence of Config
        The rows, in their order.
    results : mapping of str to sequence of Dataset
        The seeds of each, by name, from ``experiment.run_seeds`` or
        :func:`stored`. An experiment without seeds was not run: its row is NaN, its number of seeds 0.

    Returns
    -------
    Dataset, dims experiment, case
        ``psi``, ``psi_D``, ``psi_tau``, ``gamma``, ``modes_for_90_percent``, each with ``…_low``, ``…_high``
        (95 %, Student's t over seeds; blocks of modes for one seed) and ``psi_correlation``; NaN where a case
        was not measured. ``loss`` L₀ at w₀ (geometric mean over seeds), ``loss_low`` and ``loss_high`` its
        smallest and largest seed, ``epoch`` of w₀, ``seeds``, ``cpu_seconds`` (of all seeds),
        ``learning_rate``, ``batch_size``.

    Raises
    ------
    ValueError
        Without experiments, or if two have one name.
    """
    names = [config.name for config in configs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"experiments {names} must be at least one, each with a name of its own")
    cases = [case for case in CASES if any(case in config.cases for config in configs)]
    shape = (len(configs), len(cases))
    found = {
        name: np.full(shape, np.nan)
        for q in QUANTITIES
        for name in (q, f"{q}_low", f"{q}_high", *(["psi_correlation"] if q == "psi" else []))
    }
    columns = {
        name: np.full(len(configs), np.nan)
        for name in ("loss", "loss_low", "loss_high", "epoch", "cpu_seconds")
    }
    for i, config in enumerate(configs):
        seeds = list(results.get(config.name, ()))
        if not seeds:
            continue
        for row in claims.verdict(seeds, config):
            quantity = row.quantity.replace(" ", "_").replace("%", "percent")
            for case, e in row.measured.items():
                j = cases.index(case)
                found[quantity][i, j] = e.value
                found[f"{quantity}_low"][i, j], found[f"{quantity}_high"][i, j] = e.low, e.high
                if quantity == "psi":
                    found["psi_correlation"][i, j] = e.correlation
        losses = np.array([r.attrs["loss"] for r in seeds])
        columns["loss"][i] = np.exp(np.log(losses).mean())
        columns["loss_low"][i], columns["loss_high"][i] = losses.min(), losses.max()
        columns["epoch"][i] = np.mean([r.attrs["epoch_start"] + config.window for r in seeds])
        columns["cpu_seconds"][i] = sum(float(r.attrs["cpu_seconds"]) for r in seeds)
    words = {
        "loss": "training loss L₀ at w₀",
        "loss_low": "smallest L₀ of a seed",
        "loss_high": "largest L₀ of a seed",
        "epoch": "epoch of w₀",
        "cpu_seconds": "processor time",
    }
    data: dict[str, tuple] = {
        name: (("experiment", "case"), value, {"long_name": _long_name(name), "units": "1"})
        for name, value in found.items()
    }
    for name, column in columns.items():
        unit = "s" if name == "cpu_seconds" else "1"
        data[name] = ("experiment", column, {"long_name": words[name], "units": unit})
    for name in ("learning_rate", "batch_size"):
        value = np.array([getattr(config, name) for config in configs])
        data[name] = ("experiment", value, {"long_name": name.replace("_", " "), "units": "1"})
    counts = np.array([len(results.get(name, ())) for name in names], np.int64)
    data["seeds"] = ("experiment", counts, {"long_name": "seeds", "units": "1"})
    return xr.Dataset(
        data,
        {"experiment": np.array(names), "case": np.array(cases)},
        {"title": "exponents across experiments", "fpsolve_version": fpsolve.__version__},
    )


def markdown(table: xr.Dataset, *, columns: Sequence[tuple[str, str]] = COLUMNS) -> str:
    """The table as text: a line for each experiment, the value and its interval in each cell.

    Parameters
    ----------
    table : Dataset
        From :func:`table`.
    columns : sequence of (str, str)
        Quantity and case.

    Returns
    -------
    str
    """
    there = [(q, case) for q, case in columns if case in table["case"]]
    heads = ["experiment", "L₀", "seeds"]
    for quantity, case in there:
        both = sum(q == quantity for q, _ in there) > 1
        heads.append(f"{QUANTITIES[quantity]}, {case}" if both else QUANTITIES[quantity])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in table["experiment"].to_numpy():
        row = table.sel(experiment=name)
        if not int(row["seeds"]):
            lines.append(f"| {name} |" + " not run |" + " |" * (len(heads) - 2))
            continue
        cells = [str(name), f"{float(row['loss']):.1e}", str(int(row["seeds"]))]
        for quantity, case in there:
            value, low, high = (float(row[quantity + end].sel(case=case)) for end in ("", "_low", "_high"))
            digits = 0 if quantity == "modes_for_90_percent" else 2
            cells.append(
                "–" if np.isnan(value) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _long_name(name: str) -> str:
    """Of a quantity or an end of its interval."""
    if name == "psi_correlation":
        return "correlation of ln σ² with ln F"
    for end in ("_low", "_high"):
        if name.endswith(end):
            return f"{QUANTITIES[name.removesuffix(end)]}, {end[1:]} end of 95 %"
    return QUANTITIES[name]
