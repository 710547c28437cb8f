"""The variance-flatness experiment: train, record two windows, measure every exponent beside its controls.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from fpsolve.command.reader import number, one_of, positive, whole
from fpsolve.results import quantity
from fpsolve.sweeps.store import kept
from nets import models
from nets.data import datasets
from nets.measure import components as pca
from nets.measure import controls, exponents, loss_widths, temperature
from nets.measure import minibatch_losses as minibatch_ensemble
from nets.training.run import Run, run_attributes
from nets.training.train import sgd
from nets.training.window import record_and_continue

SAME, NEXT = "same window", "next window"


@dataclass(frozen=True)
class Case:
    """Where directions come from, and where the motion along them is measured.

    ``directions`` are principal components of the "first" or the "second" window, of the first with each
    weight's straight line in time removed ("detrended") or with its increments in a random order
    ("shuffled"), or of an isotropic "random walk" of the same length; or eigenvectors of the "Hessian"
    between the windows. The motion is that of what gave the components, or else of a window: the "first", the
    "second", or the second "shuffled"; ``straight`` removes each mode's straight line in time. Flatness is
    measured between the windows, or ``at_start`` of the first. ``control`` names a motion that no optimiser
    made.
    """

    directions: str
    motion: str = ""
    straight: bool = False
    at_start: bool = False
    control: str = ""

    @property
    def ranked(self) -> bool:
        """Whether the spectrum falls with rank because a PCA made it, and no other case has the same one."""
        return not (self.motion or self.at_start)


CASES = {
    SAME: Case("first"),
    "flatness at start": Case("first", at_start=True),
    "same window, detrended": Case("detrended"),
    NEXT: Case("first", "second"),
    "next window, detrended": Case("first", "second", straight=True),
    "previous window": Case("second", "first"),
    "shuffled": Case("shuffled", control="shuffled"),
    "shuffled, next window": Case("shuffled", "shuffled", control="shuffled"),
    "random walk": Case("random walk", control="random walk"),
    "Hessian": Case("Hessian", "first"),
    "Hessian, detrended": Case("Hessian", "first", straight=True),
}
#: Nets by the name in a file, from the layer sizes (of a fully connected net) and the seed.
MODELS: dict[str, Callable[[tuple[int, ...], np.random.SeedSequence], nn.Sequential]] = {
    "fully_connected": lambda sizes, rng: models.fully_connected(sizes, rng=rng),
    "lenet_mnist": lambda sizes, rng: models.lenet_mnist(rng=rng),
    "lenet_cifar10": lambda sizes, rng: models.lenet_cifar10(rng=rng),
}
MOTION = ("variance", "velocity_variance", "correlation_time")
_SGD = ("learning_rate", "batch_size", "optimizer", "sampling", "threads")


@dataclass(frozen=True)
class Config:
    """One experiment; the defaults are the paper's network on MNIST.

    ``name`` is that of the folder its seeds are stored in. ``data`` is a data set, ``root`` the directory it
    lies in (default: see :func:`nets.data.datasets.load`); only the first ``samples`` training rows are used,
    0 takes all. ``standardise`` "channel" scales all pixels alike, as is the habit for MNIST (the paper does
    not say); "pixel" makes rare pixels of a few images huge, so that single samples dominate gradients and
    leading modes; "none" leaves them. ``model`` is one of :data:`MODELS`, with ``sizes`` where it is fully
    connected; the weights of ``layer`` are analysed.

    ``optimizer``, ``learning_rate``, ``batch_size``, ``momentum`` (0 leaves its default), ``sampling`` and
    ``threads`` are those of :func:`nets.training.train.sgd`. ``epochs`` are trained before the first of two
    windows of ``window`` epochs each. With a positive ``stop_at_loss`` the windows are placed so that w₀,
    between them, is the end of the first epoch whose training loss is not above it, to compare settings at
    equal loss; ``epochs`` is then the most that is tried. ``seeds`` trainings begin at ``first_seed``.

    Flatness is measured for every ``stride``-th of the first ``directions`` modes. ``fit`` and ``rank_fit``
    are first and last mode of the fits of ψ and of γ. ``cases`` are keys of :data:`CASES`; "same window" is
    always among them. ``ensemble`` is the number of modes, spread evenly over ``fit``, for the
    minibatch-loss ensemble; 0 leaves it out.
    """

    name: str = "mnist"
    data: str = "mnist"
    root: str = ""
    standardise: str = "channel"
    samples: int = 0
    model: str = "fully_connected"
    sizes: tuple[int, ...] = (784, 50, 50, 10)
    layer: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    batch_size: int = 50
    momentum: float = 0.0
    sampling: str = "without_replacement"
    epochs: int = 50
    stop_at_loss: float = 0.0
    window: int = 10
    seeds: int = 5
    first_seed: int = 0
    directions: int = 300
    stride: int = 1
    fit: tuple[int, int] = exponents.FIT
    rank_fit: tuple[int, int] = exponents.RANK_FIT
    cases: tuple[str, ...] = tuple(CASES)
    ensemble: int = 40
    threads: int = 1

    def __post_init__(self) -> None:
        each = ("batch_size", "epochs", "window", "seeds", "directions", "stride", "threads", "learning_rate")
        for name in each:
            positive(getattr(self, name), name)
        for name in ("samples", "layer", "first_seed", "ensemble"):
            whole(getattr(self, name), name, at_least=0)
        for name in ("momentum", "stop_at_loss"):
            if number(getattr(self, name), name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)!r} must not be negative")
        one_of(self.model, "model", tuple(MODELS))
        for case in self.cases:
            one_of(case, "case", tuple(CASES))
        for name, modes in (("fit", self.fit), ("rank_fit", self.rank_fit)):
            if len(modes) != 2 or not 1 <= modes[0] < modes[1]:
                raise ValueError(f"{name} = {list(modes)} must be two modes, the first below the last")
        if self.fit[1] > self.directions:
            raise ValueError(f"fit reaches mode {self.fit[1]}, flatness is measured to {self.directions}")
        if not self.name or self.name != Path(self.name).name or self.name.startswith("."):
            raise ValueError(f"name = {self.name!r} must be a plain name of a folder")
        if SAME not in self.cases:
            object.__setattr__(self, "cases", (SAME, *self.cases))

    @property
    def digest(self) -> str:
        """Of everything that decides what a seed measures."""
        others = ("name", "root", "seeds", "first_seed", "threads")
        own = {name: value for name, value in asdict(self).items() if name not in others}
        if self.stop_at_loss:
            own["loss reached at"] = "w0"  # results from before stopped there and measured later
        text = json.dumps(own, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def load_data(self) -> datasets.Data:
        """The training and test rows."""
        data = datasets.load(self.data, root=self.root or None, standardise=self.standardise)  # type: ignore[arg-type]
        return data.subset(self.samples) if self.samples else data

    def train(self, seed: int, *, data: datasets.Data | None = None, checkpoint: Path | None = None) -> Run:
        """A run of one seed up to the first window.

        A ValueError if ``stop_at_loss`` is reached before there is room for a window, or not at all.
        """
        settings: dict[str, Any] = {name: getattr(self, name) for name in _SGD}
        settings |= {"data": self.load_data() if data is None else data, "momentum": self.momentum or None}

        def run(epochs: int, **until) -> Run:
            initial, minibatches = (np.random.SeedSequence(seed, spawn_key=(k,)) for k in (0, 1))
            net = MODELS[self.model](self.sizes, initial)
            return sgd(net, epochs=epochs, rng=minibatches, **settings, **until)

        if not self.stop_at_loss:
            return run(self.epochs, checkpoint=checkpoint)
        reached = run(self.epochs, stop_at_loss=self.stop_at_loss, checkpoint=checkpoint)
        after, wrong = f"after {reached.epoch} epochs", ""
        if reached.loss > self.stop_at_loss:
            wrong = (
                f"was not reached: the loss is {reached.loss:.3g} {after}; give more epochs or a larger loss"
            )
        elif reached.epoch <= self.window:
            wrong = f"is reached {after}, no more than the window's {self.window}; give a smaller loss"
        if wrong:
            raise ValueError(f"stop_at_loss={self.stop_at_loss:g} {wrong}")
        return run(reached.epoch - self.window)  # the same way again, to the bit, up to the first window


def measure(
    config: Config, seed: int, *, data: datasets.Data | None = None, checkpoint: Path | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[xr.Dataset, Run]:  # fmt: skip
    """Everything about one seed, which decides initial weights and minibatches; and the run at w₀.

    Two windows follow each other; w₀, where flatness is measured, lies between them, so that a direction has
    one F_i for the motion of either window. ``data`` is loaded unless given; training resumes from the file
    ``checkpoint``; ``log`` is told, in a few words, what comes next.

    The Dataset, dims case and mode, holds ``width`` and the motion (``variance``, ``velocity_variance``,
    ``correlation_time``) of every case, NaN where a case has no such mode; ``spectrum`` (rank) of the first
    window; ``temperature`` and the minibatch ensemble's predictions for the modes of the same window;
    ``loss_history`` (epoch). ``attrs`` hold the run's and the configuration's digest.
    """
    say, started = log or (lambda text: None), time.process_time()
    say("training")
    run = config.train(seed, data=data, checkpoint=checkpoint)
    say("recording two windows")
    windows = _Windows(config, seed, run)
    middle, last, found = windows.middle, windows.last, {}
    for case in dict.fromkeys((SAME, *config.cases)):
        say(case)
        found[case] = windows.case(case)
    modes, own = found[SAME]
    result = _assembled(found, config.directions).assign(
        spectrum=quantity(modes["variance"].to_numpy(), "rank", "variance by rank"),
        rank=quantity(modes["mode"].to_numpy(), "rank", "rank"),
        loss_history=quantity(last.history["loss"].to_numpy(), "epoch", "training loss"),
        epoch=quantity(last.history["epoch"].to_numpy(), "epoch", "epoch"),
    )
    if config.ensemble:
        say("minibatch losses and temperature")
        result = result.merge(_ensemble(middle, modes, own, config, seed), join="outer")
    share = pca.cumulative_variance(modes).to_numpy()
    total = modes.attrs["total_variance"]
    result.attrs = run_attributes(middle) | {
        "title": "variance, flatness and controls of one seed",
        "loss": own.attrs["loss"], "norm": own.attrs["norm"], "loss_start": run.loss, "loss_end": last.loss,
        "epoch_start": run.epoch, "total_variance": total,
        "modes_for_90_percent": float(np.argmax(share >= 0.9)) + 1 if share[-1] >= 0.9 else float("nan"),
        "evaluations_per_direction": own.attrs["evaluations_per_direction"],
        "drift_share": float(modes["variance"][0]) / float(total),
        "test_error": 1.0 - float(middle.history["test_accuracy"][-1]),
        "layer": config.layer, "experiment_seed": int(seed), "cpu_seconds": time.process_time() - started,
        "digest": config.digest, "window": config.window,
    }  # fmt: skip
    return result, middle


class _Windows:
    """Two windows after a run, and the directions and flatness that several cases share."""

    def __init__(self, config: Config, seed: int, run: Run) -> None:
        settings: dict = {"layer": config.layer, "epochs": config.window, "threads": config.threads}
        self.config, self.seed, self.run = config, seed, run
        self.first, self.middle = record_and_continue(run, **settings)
        self.second, self.last = record_and_continue(self.middle, **settings)
        self.known: dict[str, tuple[xr.Dataset, xr.Dataset]] = {}

    def case(self, name: str) -> tuple[xr.Dataset, xr.Dataset]:
        """Motion and flatness of a case."""
        case = CASES[name]
        if case.directions not in self.known:
            modes = self._directions(case.directions)
            self.known[case.directions] = modes, self._widths(self.middle, modes, modes.sizes["mode"])
        modes, widths = self.known[case.directions]
        if case.at_start:
            widths = self._widths(self.run, modes, self.config.fit[1])
        if not case.motion:
            return modes, widths
        window = self.first if case.motion == "first" else self.second
        if case.motion == "shuffled":
            window = controls.shuffled(window, rng=self._rng(name))
        return pca.project(window, modes, detrend=case.straight), widths

    def _directions(self, name: str) -> xr.Dataset:
        """Directions by their name in :class:`Case`."""
        count, rng = self.config.fit[1], self._rng(name)
        if name == "Hessian":
            count = min(count, self.first.sizes["weight"] - 1)
            return controls.hessian_basis(self.middle, layer=self.config.layer, count=count, rng=rng)
        if name == "first":
            return pca.analyse(self.first, count=self.config.directions)
        if name == "second":
            return pca.analyse(self.second, count=count)
        change = {"shuffled": controls.shuffled, "random walk": controls.random_walk}.get(name)
        window = change(self.first, rng=rng) if change else self.first
        return pca.analyse(window, count=count, detrend=name == "detrended")

    def _widths(self, run: Run, modes: xr.Dataset, count: int) -> xr.Dataset:
        """F of every ``stride``-th of the leading modes; the second mode is always among them."""
        first, last = (self.config.fit[0] - 1) % self.config.stride, min(count, modes.sizes["mode"])
        return loss_widths.widths(run, modes, directions=range(first, last, self.config.stride))

    def _rng(self, name: str) -> np.random.SeedSequence | None:
        """The stream of a case; the directions drawn at random have that of the case of their name."""
        if name not in CASES:
            return None
        return np.random.SeedSequence(self.seed, spawn_key=(2, list(CASES).index(name)))


def _assembled(found: Mapping[str, tuple[xr.Dataset, xr.Dataset]], count: int) -> xr.Dataset:
    """All cases in one Dataset, padded with NaN."""
    modes = np.arange(1, count + 1)
    both = (motion[[*MOTION]].assign(width=widths["width"]) for motion, widths in found.values())
    each = [case.reindex(mode=modes) for case in both]
    columns = {
        name: quantity(np.stack([case[name].to_numpy() for case in each]), ("case", "mode"), *words)
        for name, words in _WORDS.items()
    }
    coords = {
        "case": ("case", np.array(list(found)), {"long_name": "case"}),
        "mode": quantity(modes, "mode", "mode i"),
        "basis": ("case", np.array([str(motion.attrs.get("basis", "")) for motion, _ in found.values()])),
    }
    return xr.Dataset(columns, coords)


_WORDS = {
    "width": ("flatness F_i", "1"),
    "variance": ("variance sigma_i^2", "1"),
    "velocity_variance": ("velocity variance D_i", "1/step^2"),
    "correlation_time": ("correlation time tau_i about the mean", "steps"),
}


def _ensemble(run: Run, modes: xr.Dataset, widths: xr.Dataset, config: Config, seed: int) -> xr.Dataset:
    """Temperatures of the modes of the fit, and predictions from minibatch losses for some of them."""
    there = widths["mode"].sel(mode=slice(*config.fit)).to_numpy()
    chosen = np.unique(np.round(np.linspace(0, len(there) - 1, config.ensemble)).astype(int))
    rng, some = np.random.SeedSequence(seed, spawn_key=(3,)), widths.sel(mode=there[chosen])
    curves = minibatch_ensemble.profiles(run, modes, some, points=7, span=0.5, rng=rng)
    predicted = minibatch_ensemble.predictions(curves)
    hot = temperature.active_temperature(run, modes, directions=list(there - 1)).isel(point=0)
    heat = hot[["temperature", "temperature_stderr"]].reset_coords(drop=True)
    result = predicted.rename({name: f"ensemble_{name}" for name in predicted.data_vars})
    return result.reset_coords(drop=True).merge(heat, join="outer")


def seed_path(out: Path, config: Config, seed: int) -> Path:
    """Where a seed of an experiment is stored."""
    return Path(out) / config.name / f"seed_{seed:03d}.nc"


def run_trainings(config: Config, out: Path, *, log: Callable[[str], None] | None = None) -> list[xr.Dataset]:
    """:func:`measure` every seed that is not stored yet; a stopped run goes on at its seed and epoch.

    Each done, ``out`` gets ``NAME/seed_000.nc`` and ``NAME/seed_000.safetensors``, the weights at w₀; ``log``
    is told what is being done. A ValueError if a stored seed has another configuration of the same name.
    """
    from safetensors.torch import save_file

    data = cache(config.load_data)  # once, for the first seed that is not stored

    def compute(seed: int, path: Path) -> xr.Dataset:
        say = None if log is None else (lambda text: log(f"{config.name}, seed {seed}: {text}"))
        result, run = measure(config, seed, data=data(), checkpoint=path.with_suffix(".training"), log=say)
        weights = {k: v.detach().cpu().contiguous() for k, v in run.net.state_dict().items()}
        save_file(weights, path.with_suffix(".safetensors"))
        return result

    results = []
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        path = seed_path(out, config, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = {"settings": config.digest, "seed": seed}
        results.append(kept(path, partial(compute, seed, path), asked=asked))
        path.with_suffix(".training").unlink(missing_ok=True)
    return results
