"""Tables of the closed loop over several nets: all methods beside SGD, and the factors by which they fail."""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from fpsolve.statistics import Scale, estimate, mean_interval
from fpsolve.table import Row, Table
from notebooks.studies.closed_loop.budget import CORRECTIONS
from notebooks.studies.closed_loop.predictions import FLAT, METHODS, SGD


def loop_table(found: xr.Dataset) -> Table:
    """Theory, density, ensemble and network in one table, every number with its error.

    Values are geometric means over nets, errors those of each method for one net over the root of their
    number. Deviation is that of the mean ratio to SGD; sigmas is the mean of that ratio's logarithm over
    its standard error, from the scatter of nets or from the errors of both, whichever is larger.
    """
    places = [(f"Var y{m}", "variance", {"mode": m}) for m in found["mode"].to_numpy()]
    places += [(_SYMBOLS[name], name, {}) for name in FLAT]
    rows = []
    for quantity, name, place in places:
        parts = [found[n].sel(place) for n in (name, f"{name}_error")]
        network, *others = ([part.sel(by=m).to_numpy() for part in parts] for m in (SGD, *METHODS, SGD))
        rows += [
            _row(quantity, method, *own, *network)
            for method, own in zip((*METHODS, SGD), others, strict=True)
            if np.isfinite(own[0]).all()
        ]
    title = f"Closed loop: {found.attrs.get('data', '')}, {found.sizes['training']} nets"
    return Table(title, SGD, tuple(rows), tuple(_remarks(found)))


def _remarks(found: xr.Dataset) -> list[str]:
    """Where the numbers of the table hold."""
    nets, places = found.sizes["training"], found["stationary_place"].to_numpy()
    nowhere = int(np.isnan(places).sum())
    remarks = [
        f"values are geometric means over {nets} nets, errors those of one net over the root of {nets}"
    ]
    if nowhere:
        remarks.append(
            f"{nowhere} of {nets} nets have no stationary density in x: the averaged drift vanishes nowhere "
            "in the range measured; y given x is quasi-stationary"
        )
    if nowhere < nets:
        ends = found["displacement"].sel(by=SGD).to_numpy()[np.isfinite(places)]
        remarks.append(
            f"in {nets - nowhere} of {nets} nets the averaged drift vanishes, at x from "
            f"{np.nanmin(places):.2f} to {np.nanmax(places):.2f}; SGD ends at x from {ends.min():.2f} to "
            f"{ends.max():.2f}, where the density in x still evolves"
        )
    steps = "of the densities, those without 'finite step' are of continuous time; SGD has steps of the rate"
    return [*remarks, steps]


_SYMBOLS = {"displacement": "<x>", "flat_variance": "Var x", "log_flatness": "growth of ln F"}


def _row(
    quantity: str, method: str, value: np.ndarray, error: np.ndarray, sgd: np.ndarray, sgd_error: np.ndarray
) -> Row:
    """One method, all nets."""
    root = np.sqrt(len(value))
    known = bool(np.isfinite(error).all())
    mean = float(np.exp(np.log(value).mean()) if (value > 0).all() else value.mean())
    own = float(error.mean() / root) if known else np.nan
    kind = ("standard error, copies" if method == SGD else METHODS[method]) if known else "none"
    deviation, sigmas = 0.0, np.nan
    if method != SGD and ((value > 0) & (sgd > 0)).all():
        logs = np.log(value / sgd)
        together = np.sqrt(np.mean((error / value) ** 2 if known else 0.0) + np.mean((sgd_error / sgd) ** 2))
        deviation = float(np.exp(logs.mean()) - 1)
        sigmas = float(abs(logs.mean()) / (max(float(logs.std(ddof=1)), float(together)) / root))
    elif method != SGD:
        deviation = float(value.mean() / sgd.mean() - 1)
    return Row(quantity, method, mean, own, kind, own / abs(mean), deviation, sigmas)


def budget_table(found: xr.Dataset, *, confidence: float = 0.95) -> Table:
    """SGD / prediction by correction, with intervals over nets; one that holds 1 closes the budget."""
    rows = []
    for mode, (correction, text) in product(found["mode"].to_numpy(), CORRECTIONS.items()):
        predicted = found["predicted"].sel(mode=mode, correction=correction)
        ratio = (found["sgd"].sel(mode=mode) / predicted).to_numpy()
        mean, low, high = (float(v) for v in mean_interval(ratio, confidence=confidence, scale="log"))
        share = float(np.log(ratio).std(ddof=1) / np.sqrt(len(ratio)))
        sigmas = abs(np.log(mean)) / share
        own = f"mode {mode}", correction, mean, share * mean, text, share, mean - 1, sigmas, low, high
        rows.append(Row(*own))
    title = f"Var y of SGD over its prediction: {found.attrs.get('data', '')}, {found.sizes['training']} nets"
    how = f"each line adds a correction; intervals: {confidence:.0%} over nets, Student's t of the logarithms"
    return Table(title, "SGD", tuple(rows), (how,))


def pooled_factor(found: xr.Dataset, correction: str) -> xr.DataArray:
    """SGD's variance over its prediction by a correction, geometric mean over modes, of each net."""
    return over_modes(found["sgd"] / found["predicted"].sel(correction=correction))


def over_modes(values: xr.DataArray) -> xr.DataArray:
    """Geometric mean over modes of positive numbers, for each net."""
    return xr.apply_ufunc(np.exp, xr.apply_ufunc(np.log, values).mean("mode"))


def noise_exponent(found: xr.Dataset) -> np.ndarray:
    """Exponent of C_ii against λ_i over the sharp modes at w₀ of each net: 2 where C = 2σH², 1 where C ∝ H.

    Slopes of ln C_ii by least squares, shape (nets,); a single mode is a ValueError.
    """
    if found.sizes["mode"] < 2:
        raise ValueError("an exponent over modes needs at least 2: measure with a larger n_sharp")
    x = np.log(found["curvature"].transpose("training", "mode").to_numpy())
    y = x + np.log(found["noise_curvature"].transpose("training", "mode").to_numpy())
    x = x - x.mean(1, keepdims=True)
    return (x * y).sum(1) / (x**2).sum(1)


def in_words(values: xr.DataArray | np.ndarray, *, scale: Scale = "log", form: str = ".2f") -> str:
    """Mean over nets, geometric on the scale "log", and its interval: "1.02 [0.97, 1.08]" for ".2f"."""
    return f"{estimate(values, scale=scale):{form}}"
