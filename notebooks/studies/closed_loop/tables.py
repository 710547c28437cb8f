"""Tables of the closed loop over several nets: all methods beside SGD, and the factors by which they fail."""

from __future__ import annotations

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
    variance, variance_error = found["variance"], found["variance_error"]
    quantities = [
        (f"Var y{m}", variance.sel(mode=m), variance_error.sel(mode=m)) for m in found["mode"].to_numpy()
    ]
    quantities += [(_SYMBOLS[name], found[name], found[name + "_error"]) for name in FLAT]
    rows = []
    for quantity, value, error in quantities:
        network = [part.sel(by=SGD).to_numpy() for part in (value, error)]
        for method in [*METHODS, SGD]:
            own = [part.sel(by=method).to_numpy() for part in (value, error)]
            if np.isfinite(own[0]).all():
                rows.append(_row(quantity, method, *own, *network))
    nets = found.sizes["training"]
    return Table(
        f"Closed loop: {found.attrs.get('data', '')}, {nets} nets", SGD, tuple(rows), tuple(_remarks(found))
    )


def _remarks(found: xr.Dataset) -> list[str]:
    """Where the numbers of the table hold."""
    nets, nowhere = found.sizes["training"], int(np.isnan(found["stationary_place"]).sum())
    remarks = [
        f"values are geometric means over {nets} nets, errors those of one net over the root of {nets}"
    ]
    if nowhere:
        remarks.append(
            f"{nowhere} of {nets} nets have no stationary density in x: the averaged drift vanishes nowhere "
            "in the range measured; y given x is quasi-stationary"
        )
    places = found["stationary_place"].to_numpy()
    if nowhere < nets:
        ends = found["displacement"].sel(by=SGD).to_numpy()[np.isfinite(places)]
        remarks.append(
            f"in {nets - nowhere} of {nets} nets the averaged drift vanishes, at x from "
            f"{np.nanmin(places):.2f} to {np.nanmax(places):.2f}; SGD ends at x from {ends.min():.2f} to "
            f"{ends.max():.2f}, where the density in x still evolves"
        )
    remarks.append(
        "of the densities, those without 'finite step' are of continuous time; SGD has steps of the rate"
    )
    return remarks


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
    """SGD's variance over its prediction, one correction after the other, with intervals over nets.

    ``value`` is the factor SGD / prediction; an interval that holds 1 closes the budget.
    """
    rows = []
    for mode in found["mode"].to_numpy():
        for correction, text in CORRECTIONS.items():
            predicted = found["predicted"].sel(mode=mode, correction=correction)
            ratio = (found["sgd"].sel(mode=mode) / predicted).to_numpy()
            mean, low, high = (float(v) for v in mean_interval(ratio, confidence=confidence, scale="log"))
            relative = float(np.log(ratio).std(ddof=1) / np.sqrt(len(ratio)))
            sigmas = abs(np.log(mean)) / relative
            row = Row(
                f"mode {mode}", correction, mean, relative * mean, text, relative, mean - 1, sigmas, low, high
            )
            rows.append(row)
    title = f"Var y of SGD over its prediction: {found.attrs.get('data', '')}, {found.sizes['training']} nets"
    remark = (
        f"each line adds a correction; intervals: {confidence:.0%} over nets, Student's t of the logarithms"
    )
    return Table(title, "SGD", tuple(rows), (remark,))


def pooled_factor(found: xr.Dataset, correction: str) -> xr.DataArray:
    """SGD's variance over its prediction by a correction, geometric mean over modes, of each net."""
    return over_modes(found["sgd"] / found["predicted"].sel(correction=correction))


def over_modes(values: xr.DataArray) -> xr.DataArray:
    """Geometric mean over modes of positive numbers, for each net."""
    logs = xr.apply_ufunc(np.log, values)
    return xr.apply_ufunc(np.exp, logs.mean("mode"))


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
    """Mean over nets and its interval, "1.02 [0.97, 1.08]", with numbers in the format ``form``.

    On the scale "log" it is the geometric mean of positive numbers.
    """
    return f"{estimate(values, scale=scale):{form}}"
