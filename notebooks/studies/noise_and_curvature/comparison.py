"""Whose noise makes solutions flatter: SGD, gradient descent and white noise from the same starts.

Flatness grows along training whatever the noise, and the weights grow with it. So runs are compared at equal
steps and at equal loss, training by training; and F at the starting norms beside F as it is. Courses are
those of :func:`notebooks.studies.noise_and_curvature.dynamics.flatness_along`. A mean over trainings needs at
least two and has Student's interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from fpsolve.results import quantity
from fpsolve.statistics import over_trainings

At = Literal["step", "epoch", "time", "loss"]
Flatness = Literal["flatness", "flatness_rescaled"]
_AVERAGED = ("flatness", "flatness_rescaled", "loss")
_MEANS = ("test_accuracy", "weight_norm")


def log_flatness(result: xr.Dataset, *, at: At, value: float, name: Flatness = "flatness") -> float:
    """ln F where a run has reached some step, epoch, time or loss.

    At a step, epoch or time F must have been measured, to 1 %; for the loss ln F is interpolated in ln(loss).
    A ValueError if nothing was measured there, or the loss is out of range.
    """
    places = result[at].to_numpy().astype(float)
    logs = np.log(result[name].to_numpy())
    if at != "loss":
        near = int(np.abs(places - value).argmin())
        if abs(places[near] - value) > 0.01 * abs(value):
            raise ValueError(f"{at}={value:g} was not measured; there are {places.tolist()}")
        return float(logs[near])
    if not places.min() <= value <= places.max():
        raise ValueError(f"loss={value:g} is not between {places.min():g} and {places.max():g}")
    order = np.argsort(places)
    return float(np.interp(np.log(value), np.log(places[order]), logs[order]))


def flatness_gain(
    results: Sequence[xr.Dataset],
    others: Sequence[xr.Dataset],
    *,
    at: Literal["step", "loss"] = "step",
    value: float | None = None,
    name: Flatness = "flatness",
) -> xr.Dataset:
    """Mean over trainings of ln F(one) − ln F(other), pairs from the same start: ``gain``, its interval.

    Equal loss takes out that one run may be further along. ``value`` is by default the last step of both, or
    the lowest loss that both of a pair have reached.
    """
    gains = []
    for pair in zip(results, others, strict=True):
        ends = [float(r["step"][-1] if at == "step" else r["loss"].min()) for r in pair]
        there = value if value is not None else min(ends) if at == "step" else max(ends)
        one, other = (log_flatness(r, at=at, value=there, name=name) for r in pair)
        gains.append(one - other)
    return _mean("gain", gains, "gain in ln F")


def flatness_slope(
    cases: Sequence[Sequence[xr.Dataset]], *, at: At, value: float | None = None, name: Flatness = "flatness"
) -> xr.Dataset:
    """``slope`` d ln F / d ln(η/B) over several learning rates or batch sizes, with its interval.

    ``cases`` hold, for each (η, B), one course for each training, in the same order of starts; in each
    training the slope is by least squares. ``value`` is the place, as in :func:`log_flatness`; for the loss
    it is by default the lowest that all cases of a start reached. A ValueError if there are fewer than two
    cases or trainings, all cases have one η/B, or no value is given.
    """
    if value is None and at != "loss":
        raise ValueError(f"at={at!r} needs a value")
    if len(cases) < 2:
        raise ValueError(f"a slope needs at least two cases, not {len(cases)}")
    slopes = []
    for start in zip(*cases, strict=True):
        there = max(float(r["loss"].min()) for r in start) if value is None else value
        x = np.log([float(r.attrs["learning_rate"]) / float(r.attrs["batch_size"]) for r in start])
        if np.ptp(x) == 0:
            raise ValueError("all cases have the same η/B")
        y = [log_flatness(r, at=at, value=there, name=name) for r in start]
        slopes.append(np.polyfit(x, y, 1)[0])
    return _mean("slope", slopes, "d ln F / d ln(η/B)")


def flatness_summary(results: Sequence[xr.Dataset], *, over: Literal["step", "epoch", "time"]) -> xr.Dataset:
    """Mean course of flatness over trainings measured at the same places; ``over`` is the result's dim.

    ``flatness``, ``flatness_rescaled`` and ``loss``, averaged by their logarithms, ``ln_flatness`` and
    ``ln_flatness_rescaled``, each with ``_low`` and ``_high``; means of ``test_accuracy`` and
    ``weight_norm`` without.
    """
    unused = {"epoch", "step", "time"} - {over}
    parts = [r.swap_dims(epoch=over).drop_vars(unused) for r in results]
    found = over_trainings([part[list(_AVERAGED)] for part in parts], geometric=_AVERAGED)
    others = xr.concat([part[list(_MEANS)] for part in parts], dim="training")
    found = found.merge(others.mean("training", keep_attrs=True))
    return found.assign(
        {f"ln_{n}{end}": np.log(found[f"{n}{end}"]) for n in _AVERAGED[:2] for end in ("", "_low", "_high")}
    )


def flatness_growth(
    results: Sequence[xr.Dataset], *, steps: tuple[int, int], name: Flatness = "flatness"
) -> xr.Dataset:
    """Mean over trainings of the ``growth`` of ln F between two steps, the earlier and the later."""
    logs = [[log_flatness(r, at="step", value=s, name=name) for s in steps] for r in results]
    return _mean("growth", [later - earlier for earlier, later in logs], "growth of ln F")


def _mean(name: str, values: Sequence[float], words: str) -> xr.Dataset:
    """One number of each training, averaged."""
    return over_trainings([xr.Dataset({name: quantity(v, (), words)}) for v in values])
