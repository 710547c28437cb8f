"""What training leaves behind: the net, how it was trained, and what is needed to go on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from torch import nn

import fpsolve
from nets.datasets import Data
from nets.models import description
from nets.optimizers import Memory, Optimizer
from nets.sampling import Sampling


class Diverged(RuntimeError):
    """Training left the finite numbers, or fell into a state without gradient.

    Attributes
    ----------
    step : int
        The minibatch, counted from 1 at the start of training, whose loss was the first not to be below
        ``divergence``; or, where all weights stood still for an epoch at a large loss, its last.
    epoch : int
        Epochs done before.
    """

    def __init__(self, message: str, *, step: int, epoch: int) -> None:
        super().__init__(message)
        self.step, self.epoch = step, epoch


@dataclass(frozen=True)
class Settings:
    """How a run is trained; see :func:`nets.training.sgd`. ``seed`` is the recorded form of ``rng``."""

    learning_rate: float
    batch_size: int
    optimizer: Optimizer
    momentum: float
    noise: float
    sampling: Sampling
    seed: str
    dtype: str
    divergence: float


@dataclass(frozen=True, eq=False)
class Run:
    """A trained net, with what is needed to go on exactly.

    Attributes
    ----------
    net : nn.Sequential
        Trained; not shared with the net that training started from. Do not change it.
    data : Data
        On the device of training.
    settings : Settings
    history : Dataset, dim ``epoch``
        ``loss``, ``accuracy``, ``test_loss``, ``test_accuracy`` over all rows, ``weight_norm`` ‖w‖₂ over all
        parameters; epoch 0 is the start.
    epoch, step : int
        Epochs and minibatches done.
    memory : dict
        The optimiser's: velocities, or moments.
    diverged_step : int
        −1; or the step at which a replica diverged, which stays as it was after the epoch before.
    """

    net: nn.Sequential
    data: Data
    settings: Settings
    history: xr.Dataset
    epoch: int
    step: int
    memory: Memory
    diverged_step: int = -1

    @property
    def loss(self) -> float:
        """Training loss at the end."""
        return float(self.history.loss[-1])

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, ⌊M/B⌋; 1 with full-batch gradients."""
        return self.data.samples // self.settings.batch_size


def run_attributes(run: Run) -> dict[str, str | int | float]:
    """Where a result comes from: net, data, settings, versions; for ``attrs``.

    Parameters
    ----------
    run : Run

    Returns
    -------
    dict
        Of str, int and float.
    """
    s, data = run.settings, run.data
    return {
        "net": description(run.net),
        "data": data.name,
        "data_sha256": data.provenance.get("content_sha256", ""),
        "data_selected": data.provenance.get("selected", "all"),
        "standardised": data.provenance.get("standardised", ""),
        "samples": data.samples,
        "learning_rate": s.learning_rate,
        "batch_size": s.batch_size,
        "steps_per_epoch": run.steps_per_epoch,
        "optimizer": s.optimizer,
        "momentum": s.momentum,
        "noise": s.noise,
        "sampling": s.sampling,
        "seed": s.seed,
        "dtype": s.dtype,
        "torch_version": str(torch.__version__),
        "fpsolve_version": fpsolve.__version__,
    }
