"""The closed loop: nets trained, measured, followed, and compared with theory, density and ensemble.

References: Yang, Tang, Tu, PRL 130, 237101 (2023), Eqs. 7–16; Xie, Sato, Sugiyama, ICLR 2021, Eqs. 5–7.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xarray as xr

from fpsolve.results import dataset, quantity
from fpsolve.sweeps.store import kept
from nets.data import datasets
from nets.data.datasets import Data
from nets.measure import valley as valleys
from nets.measure.valley import Flat, MeasuredValley, Reading, measure_valley, weights_at
from nets.models import fully_connected
from nets.training import train
from nets.training.recipe import Precision
from notebooks.studies.closed_loop.budget import variance_budget
from notebooks.studies.closed_loop.predictions import SGD, Numbers, numbers_of, prediction, theory_variances
from notebooks.studies.closed_loop.walks import walk

#: Resamples of the copies for the interval of SGD's variance.
RESAMPLES = 400
_OTHER_NOISE: dict[Reading, str] = {
    "measured": "Var y_i by theory with the finite step, noise as at w₀",
    "random_shift": "Var y_i by theory with the finite step, noise 2σH² with one σ",
}


def closed_loop(
    valley: MeasuredValley, walked: xr.Dataset, *, noise: Reading = "local", walkers: int = 2000,
    confidence: float = 0.95, rng: int = 0, progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Predictions of theory, density and ensemble beside what SGD did, for one net.

    ``walked`` comes from ``walks.walk``; options and result are those of ``predictions.prediction``, with SGD
    as one method more. Errors of SGD are standard errors over replicas; ``sgd_low``, ``sgd_high`` (mode) are
    bootstraps at ``confidence``, a ValueError outside (0, 1). With the variables of
    ``budget.variance_budget`` where the sampling is with replacement. ``log_flatness_net`` is the growth of
    ln F̂ by Hessians at the copies' own weights; ``noise_curvature`` (mode), BC_ii/λ_i at w₀, is 1 where C =
    H/B. The other variables say what they are in their ``long_name``.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    steps = int(walked.attrs["steps"])
    sgd, drawn = _of_sgd(valley, walked, rng)
    low, high = np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)
    settings: dict[str, Any] = {"walkers": walkers, "rng": rng, "progress": progress}
    both = prediction(valley, steps=steps, noise=noise, others={SGD: sgd}, **settings)
    others = {
        f"theory_{other}": quantity(theory_variances(valley, steps=steps, noise=other), "mode", text)
        for other, text in _OTHER_NOISE.items()
    }
    both = both.assign(others | _along(valley) | _at_ends(valley, walked)).assign(
        sgd_low=quantity(low, "mode", "lower end of SGD's variance"),
        sgd_high=quantity(high, "mode", "its upper end"),
        learning_rate=quantity(valley.learning_rate, (), "learning rate"),
        explained=quantity(valley.profile.attrs["explained"], (), "share of the displacement along u"),
        fit_error=quantity(valley.profile.attrs["curvature_fit_error"], (), "largest error of a fitted λ_i"),
    )
    if valley.run.recipe.sampling == "with_replacement":
        both = xr.merge([both, variance_budget(valley, walked)], combine_attrs="override")
    both.attrs |= {
        "title": "prediction of the measured valley beside SGD", "confidence": confidence,
        "data": valley.run.data.name, "batch_size": valley.run.batch_size,
    }  # fmt: skip
    return both


def _of_sgd(valley: MeasuredValley, walked: xr.Dataset, rng: int) -> tuple[Numbers, np.ndarray]:
    """SGD as one more method of a prediction, and Var y_i of resampled replicas, shape (RESAMPLES, n)."""
    step = walked["step"].to_numpy()
    late = step - step[0] >= (step[-1] - step[0]) / 2
    y, x = walked["y"].to_numpy()[late], walked["x"].to_numpy()[-1]
    picks = np.random.default_rng([rng, 2]).integers(len(x), size=(RESAMPLES, len(x)))
    drawn = np.array([y[:, pick].var(1, ddof=1).mean(0) for pick in picks])
    place, climb = (v.std(ddof=1) / np.sqrt(len(x)) for v in (x, valley.log_weighted_flatness(x)))
    spread = x.var(ddof=1) * np.sqrt(2 / (len(x) - 1))
    return (numbers_of(valley, x, y), np.array([*drawn.std(0, ddof=1), place, spread, climb])), drawn


def _along(valley: MeasuredValley) -> dict[str, xr.Variable]:
    """The profile along the flat direction as measured, and its fits."""
    profile, places, plane = valley.profile, valley.profile["x"].to_numpy(), ("point", "mode")
    C = np.diagonal(profile["covariance"].to_numpy(), axis1=1, axis2=2)
    return {
        "place_along": quantity(places, "point", "x of the points measured"),
        "loss_along": quantity(profile["loss"].to_numpy(), "point", "training loss there"),
        "curvature_along": quantity(profile["curvature"].to_numpy(), plane, "curvature λ_i there"),
        "curvature_fit": quantity(valley.curvatures(places), plane, "its fit"),
        "noise_along": quantity(C[:, :-1], plane, "gradient noise C_ii there"),
        "noise_fit": quantity(valley.noise(places)[:, :-1], plane, "its fit"),
    }


def _at_ends(valley: MeasuredValley, walked: xr.Dataset) -> dict[str, xr.Variable]:
    """Curvature, noise and loss at w₀, and flatness and loss where the copies end."""
    profile, origin = valley.profile, _curvature_at_start(valley)
    grown = _growth(walked["curvature"].to_numpy(), valley)
    C0 = np.diag(valley.covariance)[: valley.n_sharp]
    end = np.interp(walked["x"].to_numpy()[-1].mean(), profile["x"].to_numpy(), profile["loss"])
    return {
        "log_flatness_net": quantity(grown.mean(), (), "growth of ln F̂ at the copies' own weights"),
        "log_flatness_net_error": quantity(grown.std(ddof=1) / np.sqrt(len(grown)), (), "its standard error"),
        "curvature": quantity(origin, "mode", "curvature λ_i at w₀"),
        "noise_curvature": quantity(valley.run.batch_size * C0 / origin, "mode", "B C_ii / λ_i at w₀"),
        "loss": quantity(profile.attrs["loss_at_start"], (), "training loss at w₀"),
        "loss_line": quantity(end, (), "on the line where SGD ends"),
        "loss_net": quantity(float(walked["loss"].mean()), (), "training loss of the copies at the end"),
    }


def _curvature_at_start(valley: MeasuredValley) -> np.ndarray:
    return valley.profile["curvature"].sel(x=0.0, method="nearest").to_numpy()


def _growth(lam: np.ndarray, valley: MeasuredValley) -> np.ndarray:
    """ln F̂ of curvatures λ_i less that at the origin."""
    origin = _curvature_at_start(valley)
    of = valleys.log_weighted_flatness
    return of(lam, origin) - of(origin, origin)


@dataclass(frozen=True)
class LoopStudy:
    """One setting of the closed loop: how a net is trained, measured and followed.

    ``data`` is a name for :func:`nets.data.datasets.load`. ``learning_rate``, ``batch_size`` and ``epochs``
    are of the training before the loop is closed, with replacement. ``window`` counts epochs of pilots and
    walk. The other fields are those of :func:`nets.measure.valley.measure_valley`, ``walks.walk`` and
    ``predictions.prediction``. The control has minibatches ``quiet`` times as large, equally many steps and
    equally long ones: a noise so many times smaller. ``dtype`` is of training and of the search for
    eigenvectors; losses and derivatives are measured in float64. A number too small to measure anything with
    is a ValueError.
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
    def asked(self) -> dict[str, str | int | float]:
        """All fields as text or numbers, to be stored beside results."""
        return {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(self).items()}

    @property
    def name(self) -> str:
        """For files."""
        layers = "-".join(map(str, self.hidden))
        return f"{self.data}_{layers}_eta{self.learning_rate:g}_B{self.batch_size}_{self.flat}"


def closed_loops(
    study: LoopStudy, *, nets: int = 3, seed: int = 0, folder: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """The closed loop of several nets, each with its own initial weights and minibatches, over ``training``.

    ``seed`` is that of the first net; the others follow. Data files are found through the environment
    variable ``FPSOLVE_DATA``. Every part is kept in ``folder``; run again to go on after a kill. Beside
    :func:`closed_loop` the result has ``quiet_…`` of the control with hardly any noise. Fewer than two nets,
    a missing folder and numbers that do not fit the data are a ValueError before any work, as is a store of
    another question.
    """
    if nets < 2:
        raise ValueError(f"nets={nets}: an interval needs at least 2")
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"folder={str(folder)!r} is no directory; create it first")
    data = datasets.load(study.data)
    if (rows := study.quiet * study.batch_size) > data.samples:
        raise ValueError(f"quiet={study.quiet} asks for minibatches of {rows} of {data.samples} samples")
    if (steps := study.window * (data.samples // study.batch_size)) < 20:
        raise ValueError(f"window={study.window} has {steps} steps; take more epochs, for at least 20")
    trainings = xr.IndexVariable("training", np.arange(seed, seed + nets))
    each = [_one_net(study, data, int(net), folder, progress) for net in trainings]
    return xr.concat(each, trainings, combine_attrs="override").assign_attrs(study.asked)


def _one_net(
    study: LoopStudy, data: Data, seed: int, folder: str | Path | None, progress: bool
) -> xr.Dataset:
    """The closed loop of one net, with every part kept in ``folder``."""
    asked = study.asked | {"net": seed, "data_digest": data.digest}

    def place(kind: str, name: str = study.name, ending: str = "nc") -> Path | None:
        return None if folder is None else Path(folder) / f"{name}_{kind}_{seed}.{ending}"

    def settings(*names: str) -> dict[str, Any]:
        return {name: getattr(study, name) for name in names}

    def compute() -> xr.Dataset:
        began = time.process_time()
        trained = study.name.rsplit("_", 1)[0]  # the same for every flat direction
        run = train.sgd(
            fully_connected((data.features, *study.hidden, len(data.classes)), rng=seed), data, rng=seed,
            sampling="with_replacement", progress=progress,
            checkpoint=place("trained", trained, "safetensors"),
            **settings("learning_rate", "batch_size", "epochs", "dtype"),
        )  # fmt: skip
        after_training = time.process_time()
        valley = measure_valley(
            run, epochs=study.window, rng=seed, store=place("valley"), progress=progress,
            **settings("n_sharp", "pilots", "points", "degree", "flat", "tolerance"),
        )  # fmt: skip
        counts = settings("replicas", "measured")
        walked = walk(valley, rng=seed, store=place("walk"), progress=progress, **counts)
        quiet = kept(place("quiet"), lambda: _quiet(study, valley, seed), asked=asked)
        followed = time.process_time()
        found = closed_loop(valley, walked, walkers=study.walkers, rng=seed, progress=progress)
        parts = sum(float(part.attrs["cpu_seconds"]) for part in (valley.profile, walked, quiet))
        seconds = after_training - began + parts + time.process_time() - followed
        spent = quantity(seconds, (), "processor time of this net")
        return found.assign({**quiet.data_vars, "cpu_seconds": spent}).assign_attrs(cpu_seconds=seconds)

    return kept(place("loop"), compute, asked=asked)


def _quiet(study: LoopStudy, valley: MeasuredValley, seed: int) -> xr.Dataset:
    """Training with hardly any noise: larger minibatches, as many steps of the same length."""
    run, batch = valley.run, study.quiet * study.batch_size
    steps, per_epoch = study.window * run.steps_per_epoch, run.data.samples // batch
    later = train.sgd(
        run.net, run.data, learning_rate=study.learning_rate, batch_size=batch,
        epochs=max(1, round(steps / per_epoch)), rng=valleys.walk_seed(seed, 3, 0), dtype=study.dtype,
        sampling="with_replacement",
    )  # fmt: skip
    w, climb = weights_at(later), valley.log_weighted_flatness
    x = float((w - weights_at(run)) @ valley.directions[:, -1])
    rows = run.data.train_inputs.double(), run.data.train_labels
    H = valleys.at_weights(run, w, *rows, valley.directions).hessian
    net = _growth(np.diag(H)[: valley.n_sharp], valley)
    return dataset(
        {
            "quiet_displacement": quantity(x, (), "x at the end with hardly any noise"),
            "quiet_log_flatness": quantity(float(climb(x) - climb(0.0)), (), "growth of ln F̂ by the fits"),
            "quiet_log_flatness_net": quantity(float(net), (), "growth of ln F̂ at its own weights"),
        },
        title="training with hardly any noise",
    )
