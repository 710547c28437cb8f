"""What training leaves behind: the net, how it was trained, and what is needed to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, final

import numpy as np
import torch
import xarray as xr
from torch import nn

import fpsolve
from fpsolve.results import dataset, quantity
from nets.data.datasets import Data
from nets.layers import description
from nets.training.optimizers import Memory
from nets.training.recipe import Recipe

Outcome = Literal["trained", "diverged", "still"]
_MEASURES = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "weight_norm": "Euclidean norm of all parameters",
}
_SAID = {"diverged": "diverged", "still": "came to a stand"}
_WHY = {
    "diverged": "its minibatch loss is not below divergence={:g}; lower the learning rate",
    "still": "no weight has moved for an epoch though the loss is large: either all units of a layer are "
    "shut (lower the learning rate), or the steps are lost in rounding (raise it)",
}


class Diverged(RuntimeError):
    """Training left the finite numbers, or fell into a state without gradient.

    ``step`` is the minibatch, counted from 1 at the start of training, whose loss was the first not to be
    below ``divergence``; or, where all weights stood still for an epoch at a large loss, its last. ``epoch``
    counts the epochs done before.
    """

    def __init__(self, message: str, *, step: int, epoch: int) -> None:
        super().__init__(message)
        self.step, self.epoch = step, epoch


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A trained net, with what is needed to go on exactly.

    ``net`` is trained and not shared with the net that training started from; do not change it. ``data`` are
    on the device of training, ``recipe`` says how each step went, ``seed`` given as ``rng`` replays the run,
    and ``start`` is the sha256 of the weights training started from. ``epoch`` and ``step`` count epochs and
    minibatches done; ``memory`` is the optimiser's, velocities or moments; ``rows`` are what ``history``
    shows, an epoch and the measures after it. ``outcome`` is "diverged" or "still" for a replica whose loss
    left the numbers below ``divergence``, or whose weights all stood still for an epoch at a large loss, at
    ``diverged_step`` (else −1); such a run is as it was after the epoch before.
    """

    net: nn.Sequential
    data: Data
    recipe: Recipe
    seed: str
    start: str
    epoch: int
    step: int
    memory: Memory
    rows: tuple[tuple[float, ...], ...] = ()
    outcome: Outcome = "trained"
    diverged_step: int = -1

    def __repr__(self) -> str:
        at = f", loss {self.loss:.4g}" if self.rows else ""
        return f"Run({description(self.net)} on {self.data.name}, {self.epoch} epochs{at}, {self.outcome})"

    @property
    def loss(self) -> float:
        """Training loss at the end, over all training rows."""
        return self.rows[-1][1]

    @cached_property
    def history(self) -> xr.Dataset:
        """After each epoch, from the start at epoch 0, over all rows and parameters; dim ``epoch``.

        ``loss``, ``accuracy``, ``test_loss``, ``test_accuracy``, ``weight_norm`` ‖w‖₂.
        """
        columns = np.array(self.rows, dtype=float).reshape(-1, 1 + len(_MEASURES)).T
        measured = zip(_MEASURES.items(), columns[1:], strict=True)
        return dataset(
            {name: quantity(column, "epoch", long_name) for (name, long_name), column in measured},
            title="history of training",
            coords={"epoch": quantity(columns[0].astype(np.int64), "epoch", "epochs done")},
            **run_attributes(self),
        )

    @property
    def batch_size(self) -> int:
        """B; the number of training rows where all are used."""
        return self.recipe.batch_size or self.data.samples

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, ⌊M/B⌋; 1 with full-batch gradients."""
        return self.data.samples // self.batch_size


#: One run, or several side by side.
Runs = TypeVar("Runs", Run, Sequence[Run])


def run_attributes(run: Run) -> dict[str, str | int | float]:
    """Where a result comes from: net, data, recipe, versions, as text and numbers for ``attrs``."""
    data = run.data
    recorded = {key: value for key, value in run.recipe.recorded.items() if key != "divergence"}
    return {
        "net": description(run.net),
        "data": data.name,
        "data_sha256": data.provenance.get("content_sha256", ""),
        "data_selected": data.provenance.get("selected", "all"),
        "standardised": data.provenance.get("standardised", ""),
        "samples": data.samples,
        "steps_per_epoch": run.steps_per_epoch,
        **recorded,
        "seed": run.seed,
        "start_sha256": run.start,
        "torch_version": str(torch.__version__),
        "fpsolve_version": fpsolve.__version__,
    }


def check_trained(run: Run) -> None:
    """Raise ValueError if a run has diverged or come to a stand, and cannot go on."""
    if run.outcome != "trained":
        raise ValueError(f"this run {_SAID[run.outcome]} at step {run.diverged_step}; train another")


def finished(run: Run) -> Run:
    """The run, if training went well; else :class:`Diverged` is raised."""
    if run.outcome == "trained":
        return run
    recipe = run.recipe
    raise Diverged(
        f"training {_SAID[run.outcome]} at step {run.diverged_step} (epoch {run.epoch + 1}, learning_rate="
        f"{recipe.learning_rate:g}, {recipe.optimizer.name!r}, batch_size={recipe.batch_size}): "
        + _WHY[run.outcome].format(recipe.divergence),
        step=run.diverged_step,
        epoch=run.epoch,
    )
