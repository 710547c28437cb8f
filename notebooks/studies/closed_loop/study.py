"""The closed loop over several nets: each trained, measured, followed and compared, and kept once done."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import xarray as xr

from nets.data import datasets
from nets.training import train
from nets.data.datasets import Data
from nets.measure.valley import (
    Flat,
    MeasuredValley,
    at_weights,
    log_weighted_flatness,
    measure_valley,
    says,
    walk_seed,
    weights_at,
)  # fmt: skip
from nets.models import fully_connected
from nets.training.recipe import Precision
from fpsolve.sweeps.store import kept
from notebooks.studies.closed_loop.loop import closed_loop
from notebooks.studies.closed_loop.walks import walk

__all__ = ["LoopStudy", "closed_loops"]


@dataclass(frozen=True)
class LoopStudy:
    """One setting of the closed loop: how a net is trained, measured and followed.

    Parameters
    ----------
    data : str
        See :func:`nets.data.datasets.load`.
    hidden : tuple of int
    learning_rate, batch_size, epochs
        Of the training before the loop is closed; minibatches with replacement.
    window : int
        Epochs of pilots and walk.
    n_sharp, pilots, points, degree, tolerance, flat
        See :func:`nets.measure.valley.measure_valley`.
    replicas, measured : int
        See :func:`notebooks.studies.closed_loop.walks.walk`.
    walkers : int
        See :func:`notebooks.studies.closed_loop.predictions.prediction`.
    quiet : int
        The control has minibatches this many times as large, equally many steps and equally long ones: a
        noise so many times smaller.
    dtype : {"float32", "float64"}
        Of training and of the search for eigenvectors; losses and derivatives are measured in float64.

    Raises
    ------
    ValueError
        If a number is too small to measure anything with.
    """

    data: str
    hidden: tuple[int, ...]
    learning_rate: float = 0.1
    batch_size: int = 50
    epochs: int = 10
    window: int = 1
    n_sharp: int = 4
    pilots: int = 8
    points: int = 8
    degree: int = 3
    tolerance: float = 1e-3
    flat: Flat = "pilots"
    replicas: int = 64
    measured: int = 16
    walkers: int = 2000
    quiet: int = 20
    dtype: Precision = "float64"

    def __post_init__(self) -> None:
        least = {
            "epochs": 1, "window": 1, "n_sharp": 1, "pilots": 1, "degree": 1, "points": self.degree + 3,
            "replicas": 8, "measured": 2, "walkers": 100, "quiet": 2,
        }  # fmt: skip
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {lowest}")
        if self.measured > self.replicas:
            raise ValueError(f"measured={self.measured} is more than the {self.replicas} replicas")
        if self.flat not in get_args(Flat):
            raise ValueError(f"flat={self.flat!r} must be one of {get_args(Flat)}")

    @property
    def name(self) -> str:
        """For files."""
        layers = "-".join(map(str, self.hidden))
        return f"{self.data}_{layers}_eta{self.learning_rate:g}_B{self.batch_size}_{self.flat}"


def closed_loops(
    study: LoopStudy,
    *,
    nets: int = 3,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The closed loop of several independently trained nets.

    Parameters
    ----------
    study : LoopStudy
        Data files are found through the environment variable ``FPSOLVE_DATA``.
    nets : int
        Each with its own initial weights and minibatches, at least 2.
    seed : int
        Of the first net; the others follow.
    folder : path, optional
        Trainings, valleys, walks and comparisons are kept there one by one; run again to go on after a kill.
    progress : bool

    Returns
    -------
    Dataset
        As :func:`closed_loop` over ``net``, with ``quiet_displacement``, ``quiet_log_flatness`` and
        ``quiet_log_flatness_net`` of the control with hardly any noise.

    Raises
    ------
    ValueError
        If an argument makes no sense, before any work, or a store holds something else.
    """
    if nets < 2:
        raise ValueError(f"nets={nets}: an interval needs at least 2")
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"folder={str(folder)!r} is no directory; create it first")
    data = datasets.load(study.data)
    if study.quiet * study.batch_size > data.samples:
        raise ValueError(
            f"quiet={study.quiet} asks for minibatches of {study.quiet * study.batch_size}, more than the "
            f"{data.samples} samples"
        )
    if (steps := study.window * (data.samples // study.batch_size)) < 20:
        raise ValueError(f"window={study.window} has {steps} steps; take more epochs, for at least 20")
    each = [_one_net(study, data, seed + i, folder, progress) for i in range(nets)]
    result = xr.concat(each, xr.IndexVariable("net", np.arange(seed, seed + nets)), combine_attrs="override")
    result.attrs |= {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(study).items()}
    return result


def _one_net(
    study: LoopStudy, data: Data, seed: int, folder: str | Path | None, progress: bool
) -> xr.Dataset:
    def place(kind: str, ending: str = "nc", flat: bool = True) -> Path | None:
        name = study.name if flat else study.name.rsplit("_", 1)[0]
        return None if folder is None else Path(folder) / f"{name}_{kind}_{seed}.{ending}"

    def compute() -> xr.Dataset:
        began = time.process_time()
        run = train.sgd(
            fully_connected((data.features, *study.hidden, len(data.classes)), rng=seed), data,
            learning_rate=study.learning_rate, batch_size=study.batch_size, epochs=study.epochs, rng=seed,
            sampling="with_replacement", dtype=study.dtype, progress=progress,
            checkpoint=place("trained", "safetensors", False),
        )  # fmt: skip
        trained = time.process_time()
        valley = measure_valley(
            run, n_sharp=study.n_sharp, epochs=study.window, pilots=study.pilots, points=study.points,
            degree=study.degree, flat=study.flat, tolerance=study.tolerance, rng=seed, store=place("valley"),
            progress=progress,
        )  # fmt: skip
        walked = walk(
            valley, replicas=study.replicas, measured=study.measured, rng=seed, store=place("walk"),
            progress=progress,
        )  # fmt: skip
        quiet = kept(place("quiet"), lambda: _quiet(study, valley, seed), asked=asked | {"net": seed})
        followed = time.process_time()
        found = closed_loop(valley, walked, walkers=study.walkers, rng=seed, progress=progress)
        found = found.assign({k: quiet[k] for k in quiet.data_vars})
        parts = sum(float(part.attrs["cpu_seconds"]) for part in (valley.profile, walked, quiet))
        seconds = trained - began + parts + time.process_time() - followed
        return found.assign(cpu_seconds=((), seconds, says("processor time of this net"))).assign_attrs(
            cpu_seconds=seconds
        )

    asked = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(study).items()}
    return kept(place("loop"), compute, asked=asked | {"net": seed})


def _quiet(study: LoopStudy, valley: MeasuredValley, seed: int) -> xr.Dataset:
    """Training with hardly any noise: larger minibatches, as many steps of the same length."""
    run, w0 = valley.run, weights_at(valley.run)
    batch = study.quiet * study.batch_size
    steps = study.window * run.steps_per_epoch
    per_epoch = run.data.samples // batch
    later = train.sgd(
        run.net, run.data, learning_rate=study.learning_rate, batch_size=batch,
        epochs=max(1, round(steps / per_epoch)), rng=walk_seed(seed, 3, 0), sampling="with_replacement",
        dtype=study.dtype,
    )  # fmt: skip
    w = weights_at(later)
    x = float((w - w0) @ valley.directions[:, -1])
    inputs = run.data.train_inputs.double()
    H = at_weights(run, w, inputs, run.data.train_labels, valley.directions).hessian
    origin = valley.profile["curvature"].sel(x=0.0, method="nearest").to_numpy()
    net = log_weighted_flatness(np.diag(H)[: valley.n_sharp], origin) - log_weighted_flatness(origin, origin)
    climb = valley.log_weighted_flatness
    return xr.Dataset(
        {
            "quiet_displacement": ((), x, says("x at the end with hardly any noise")),
            "quiet_log_flatness": ((), float(climb(x) - climb(0.0)), says("growth of ln F̂ by the fits")),
            "quiet_log_flatness_net": ((), float(net), says("growth of ln F̂ at its own weights")),
        }
    )
