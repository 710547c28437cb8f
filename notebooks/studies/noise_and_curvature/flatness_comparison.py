"""Whose noise makes solutions flatter: SGD, gradient descent and white noise from the same starts.

Flatness grows along training whatever the noise, and the weights grow with it. So runs are compared at equal
steps and at equal loss, training by training; and F at the starting norms beside F as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from torch import nn

from fpsolve.statistics import over_trainings
from nets.data.datasets import Data
from nets.measure.noise import noise_trace
from nets.training.optimizers import Optimizer
from nets.training.train import continued, sgd
from notebooks.studies.noise_and_curvature.flatness import flatness_dynamics, layer_norms

At = Literal["step", "epoch", "time", "loss"]
Flatness = Literal["flatness", "flatness_rescaled"]
_COURSE = ("flatness", "flatness_rescaled", "loss", "test_accuracy", "weight_norm")


def flatness_along(
    net: nn.Sequential,
    data: Data,
    *,
    steps: Sequence[int],
    learning_rate: float,
    batch_size: int | None = None,
    noise: float | None = None,
    layer: int | None = 1,
    samples: int | None = None,
    rng: int | None = None,
) -> xr.Dataset:
    """Flatness after so many steps of one kind of training, from these weights on.

    Parameters
    ----------
    net : nn.Sequential
        Where training starts; its norms are those of reference.
    data : Data
    steps : sequence of int
        Whole epochs for SGD.
    learning_rate : float
    batch_size : int, optional
        SGD with shuffled minibatches; without it every step takes all samples.
    noise : float, optional
        D of white noise in full-batch steps (no ``batch_size`` then); without it gradient descent.
    layer, samples
        As in :func:`notebooks.studies.noise_and_curvature.flatness.flatness_dynamics`.
    rng : int, optional

    Returns
    -------
    Dataset, dim epoch
        As :func:`notebooks.studies.noise_and_curvature.flatness.flatness_dynamics`.

    Raises
    ------
    ValueError
        If steps are not whole epochs, or both a batch size and white noise are asked for.
    """
    if batch_size is not None and noise is not None:
        raise ValueError(
            f"batch_size={batch_size} and noise={noise:g}: white noise goes with full-batch steps"
        )
    length = 1 if batch_size is None else data.samples // batch_size
    if any(s % length for s in steps):
        raise ValueError(f"steps={list(steps)} must be whole epochs of {length}")
    optimizer: Optimizer = (
        "sgd" if batch_size is not None else "gd" if noise is None else "gd_isotropic_noise"
    )
    run = sgd(
        net, data, learning_rate=learning_rate, batch_size=batch_size, epochs=1, optimizer=optimizer,
        noise=noise, rng=rng,
    )  # fmt: skip
    epochs = [s // length for s in steps]
    return flatness_dynamics(run, epochs=epochs, norms=layer_norms(net), layer=layer, samples=samples)


def mean_white_noise(
    net: nn.Sequential, data: Data, *, learning_rate: float, batch_size: int, epochs: Sequence[int], rng: int
) -> float:
    """D of white noise as strong as SGD's on average: η ⟨Tr C₁⟩ / (2 B N).

    Parameters
    ----------
    net : nn.Sequential
        Where training starts.
    data : Data
    learning_rate : float
    batch_size : int
        B of the SGD run it is measured along.
    epochs : sequence of int
        Where; the mean over time is by trapezoids between them.
    rng : int
        Of that run.

    Returns
    -------
    float
        Tr D of SGD, spread evenly over all N weights.
    """
    run, traces = None, []
    for epoch in epochs:
        if run is None:
            run = sgd(net, data, learning_rate=learning_rate, batch_size=batch_size, epochs=epoch, rng=rng)
        else:
            run = continued(run, epoch - run.epoch)
        traces.append(noise_trace(run.net, data.train_inputs, data.train_labels))
    mean = np.trapezoid(traces, epochs) / (epochs[-1] - epochs[0]) if len(epochs) > 1 else traces[0]
    return float(learning_rate * mean / (2 * batch_size * sum(p.numel() for p in net.parameters())))


def log_flatness(result: xr.Dataset, *, at: At, value: float, name: Flatness = "flatness") -> float:
    """ln F where a run has reached some step, epoch, time or loss.

    Parameters
    ----------
    result : Dataset
        From :func:`flatness_along`.
    at : {"step", "epoch", "time", "loss"}
        Of the first three one must have been measured there; for the loss ln F is interpolated in ln(loss).
    value : float
    name : {"flatness", "flatness_rescaled"}

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If nothing was measured there, or the loss is out of range.
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
    """Mean over trainings of ln F(one) − ln F(other), each pair from the same start, with its interval.

    Parameters
    ----------
    results, others : sequence of Dataset
        From :func:`flatness_along`, in the same order of starts.
    at : {"step", "loss"}
        At equal steps; or at equal loss, which takes out that one may be further along.
    value : float, optional
        Where; default the last step of both, or the lowest loss that both of a pair have reached.
    name : {"flatness", "flatness_rescaled"}

    Returns
    -------
    Dataset
        ``gain``, ``gain_low``, ``gain_high``: Student's interval over trainings.

    Raises
    ------
    ValueError
        If there are fewer than two pairs.
    """
    differences = []
    for one, other in zip(results, others, strict=True):
        ends = [float(r["step"][-1] if at == "step" else r["loss"].min()) for r in (one, other)]
        there = value if value is not None else min(ends) if at == "step" else max(ends)
        a, b = (log_flatness(r, at=at, value=there, name=name) for r in (one, other))
        differences.append(xr.Dataset({"gain": ((), a - b, {"long_name": "gain in ln F", "units": "1"})}))
    return over_trainings(differences)


def flatness_slope(
    cases: Sequence[Sequence[xr.Dataset]],
    *,
    at: At,
    value: float | None = None,
    name: Flatness = "flatness",
) -> xr.Dataset:
    """Slope d ln F / d ln(η/B) over several learning rates or batch sizes.

    Parameters
    ----------
    cases : sequence of sequence of Dataset
        From :func:`flatness_along`: for each (η, B) one for each training, in the same order of starts.
    at : {"step", "epoch", "time", "loss"}
    value : float, optional
        Where, as in :func:`log_flatness`; for the loss default the lowest that all cases of a start reached.
    name : {"flatness", "flatness_rescaled"}

    Returns
    -------
    Dataset
        ``slope``, ``slope_low``, ``slope_high``: least squares in each training, Student's interval.

    Raises
    ------
    ValueError
        If there are fewer than two cases or trainings, all cases have one η/B, or no value is given.
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
        slopes.append(
            xr.Dataset(
                {"slope": ((), np.polyfit(x, y, 1)[0], {"long_name": "d ln F / d ln(η/B)", "units": "1"})}
            )
        )
    return over_trainings(slopes)


def flatness_summary(results: Sequence[xr.Dataset], *, over: Literal["step", "epoch", "time"]) -> xr.Dataset:
    """Mean course of flatness over trainings, with Student's intervals.

    Parameters
    ----------
    results : sequence of Dataset
        From :func:`flatness_along`, measured at the same places.
    over : {"step", "epoch", "time"}
        Dimension of the result.

    Returns
    -------
    Dataset, dim ``over``
        ``flatness``, ``flatness_rescaled`` and ``loss``, averaged by their logarithms, ``ln_flatness`` and
        ``ln_flatness_rescaled``, each with ``_low`` and ``_high``; means of ``test_accuracy`` and
        ``weight_norm`` without.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    unused = {"epoch", "step", "time"} - {over}
    parts = [r.swap_dims(epoch=over)[list(_COURSE)].drop_vars(unused) for r in results]
    found = over_trainings([part[list(_COURSE[:3])] for part in parts], geometric=_COURSE[:3])
    others = [part[list(_COURSE[3:])] for part in parts]
    found = found.merge(xr.concat(others, dim="training").mean("training", keep_attrs=True))
    return found.assign(
        {f"ln_{n}{end}": np.log(found[f"{n}{end}"]) for n in _COURSE[:2] for end in ("", "_low", "_high")}
    )


def flatness_growth(
    results: Sequence[xr.Dataset], *, steps: tuple[int, int], name: Flatness = "flatness"
) -> xr.Dataset:
    """Mean over trainings of the growth of ln F between two steps.

    Parameters
    ----------
    results : sequence of Dataset
        From :func:`flatness_along`.
    steps : tuple of int
        The earlier and the later.
    name : {"flatness", "flatness_rescaled"}

    Returns
    -------
    Dataset
        ``growth``, ``growth_low``, ``growth_high``.

    Raises
    ------
    ValueError
        If it was not measured at these steps, or there are fewer than two trainings.
    """
    words = {"long_name": "growth of ln F", "units": "1"}
    logs = [[log_flatness(r, at="step", value=s, name=name) for s in steps] for r in results]
    return over_trainings([xr.Dataset({"growth": ((), later - earlier, words)}) for earlier, later in logs])
