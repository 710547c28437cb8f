"""Runs of one shape trained together for some epochs: stacked, stepped, measured, taken apart again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import nn

from nets.gradients import network
from nets.models import weight_layers
from nets.runs import Run, run_attributes
from nets.stepping import Batch, Rule, Samples, evaluate, train_epoch
from nets.threads import torch_threads

_MEASURES = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "weight_norm": "Euclidean norm of all parameters",
}


@dataclass
class Recorder:
    """Which layer to record how often, and what was recorded, epoch by epoch: see ``train_epoch``."""

    layer: int
    every: int
    losses: list[np.ndarray] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)


def trained(
    runs: Sequence[Run],
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
    recorder: Recorder | None = None,
) -> list[Run]:
    """All runs after so many epochs more. They agree but for their weights, learning rates and seeds.

    Parameters
    ----------
    runs : sequence of Run
        Not changed.
    epochs : int
    stop_at_loss : float, optional
        Stop once every replica's training loss is not above this.
    threads, progress
        As in :func:`nets.training.sgd`.
    recorder : Recorder, optional
        Filled.

    Returns
    -------
    list of Run
        One that diverged is as it was after the epoch before.
    """
    runs = list(runs)
    first = runs[0]
    data, dtype = first.data, getattr(torch, first.settings.dtype)
    classes = len(list(first.net.parameters())[-1])
    train = Samples.of(data.train_inputs, data.train_labels, classes, dtype)
    test = Samples.of(data.test_inputs, data.test_labels, classes, dtype)
    layer = None if recorder is None else _parameter_index(first.net, recorder.layer)
    every = 1 if recorder is None else recorder.every
    alive = list(range(len(runs)))
    rows: list[list[tuple[float, ...]]] = [[] for _ in runs]
    with torch_threads(threads), torch.no_grad():
        batch = _stacked(runs)
        if first.epoch == 0:
            _measure(batch, train, test, [rows[i] for i in alive])
        for _ in _bar(epochs, progress):
            before = _copied(batch)
            rule = _rule([runs[i] for i in alive])
            losses, steps, weights = train_epoch(batch, train, rule, layer=layer, every=every)
            if recorder is not None:
                recorder.losses.append(losses)
                recorder.steps.append(steps)
                recorder.weights.append(weights)
            bad = _diverged_steps(before, batch, losses, first.settings.divergence)
            if bad.any():
                for place, i in enumerate(alive):
                    runs[i] = _taken(runs[i], before if bad[place] else batch, place, rows[i])
                    runs[i] = replace(runs[i], diverged_step=int(bad[place]) or -1)
                    rows[i] = []
                alive = [i for i, step in zip(alive, bad, strict=True) if not step]
                if not alive:
                    break
                batch = _stacked([runs[i] for i in alive])
            _measure(batch, train, test, [rows[i] for i in alive])
            if stop_at_loss is not None and all(rows[i][-1][1] <= stop_at_loss for i in alive):
                break
        for place, i in enumerate(alive):
            runs[i] = _taken(runs[i], batch, place, rows[i])
    return runs


def _rule(runs: Sequence[Run]) -> Rule:
    s = runs[0].settings
    rates, seeds = zip(*((r.settings.learning_rate, r.settings.seed) for r in runs), strict=True)
    return Rule(s.optimizer, rates, seeds, s.batch_size, s.momentum, s.noise, s.sampling)


def _stacked(runs: Sequence[Run]) -> Batch:
    """Copies of the runs' weights and memories, side by side."""

    def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return (
            tensors[0].detach().clone() if len(tensors) == 1 else torch.stack([t.detach() for t in tensors])
        )

    parameters = [stack(same) for same in zip(*(r.net.parameters() for r in runs), strict=True)]
    memory = {
        name: [stack(same) for same in zip(*(r.memory[name] for r in runs), strict=True)]
        for name in runs[0].memory
    }
    first = runs[0]
    return Batch(network(first.net), parameters, memory, first.epoch, first.step, single=len(runs) == 1)


def _copied(batch: Batch) -> Batch:
    memory = {name: [t.clone() for t in tensors] for name, tensors in batch.memory.items()}
    return replace(batch, parameters=[p.clone() for p in batch.parameters], memory=memory)


def _taken(run: Run, batch: Batch, place: int, rows: Sequence[tuple[float, ...]]) -> Run:
    """The run in one place of the batch, its history continued by rows of epoch and measures."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if batch.single else tensor[place]).clone()

    net = copy.deepcopy(run.net)
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), batch.parameters, strict=True):
            mine.copy_(own(theirs))
    memory = {name: [own(t) for t in tensors] for name, tensors in batch.memory.items()}
    later = replace(run, net=net, epoch=batch.epoch, step=batch.step, memory=memory)
    return replace(later, history=_history(later, rows))


def _history(run: Run, rows: Sequence[tuple[float, ...]]) -> xr.Dataset:
    columns = np.array(rows, dtype=float).reshape(-1, 1 + len(_MEASURES)).T
    epochs = columns[0].astype(np.int64)
    old = run.history
    if old.sizes:
        epochs = np.concatenate([old.epoch.to_numpy(), epochs])
    variables = {
        name: (
            "epoch",
            np.concatenate([old[name].to_numpy(), column]) if old.sizes else column,
            {"long_name": long_name, "units": "1"},
        )
        for (name, long_name), column in zip(_MEASURES.items(), columns[1:], strict=True)
    }
    coordinates = {"epoch": ("epoch", epochs, {"long_name": "epochs done", "units": "1"})}
    return xr.Dataset(variables, coordinates, {"title": "history of training", **run_attributes(run)})


def _measure(batch: Batch, train: Samples, test: Samples, rows: Sequence[list[tuple[float, ...]]]) -> None:
    """Append epoch and measures of each replica to its rows."""
    squares = [p.double().square().reshape(len(rows), -1).sum(1) for p in batch.parameters]
    norm = torch.stack(squares).sum(0).sqrt().cpu().numpy()
    columns = (*evaluate(batch, train), *evaluate(batch, test), norm)
    for row, *values in zip(rows, *columns, strict=True):
        row.append((batch.epoch, *map(float, values)))


def _diverged_steps(before: Batch, after: Batch, losses: np.ndarray, divergence: float) -> np.ndarray:
    """For each replica the step that diverged, 0 for none."""
    outside = ~(losses < divergence)  # NaN is outside
    steps = np.where(outside.any(1), before.step + 1 + outside.argmax(1), 0)
    # All weights stood still at a large loss: every ReLU of a layer is shut and no gradient comes through.
    still = np.ones(len(losses), bool)
    for old, new in zip(before.parameters, after.parameters, strict=True):
        still &= (old == new).reshape(len(losses), -1).all(1).cpu().numpy()
    return np.where(still & (steps == 0) & (losses.mean(1) > 0.1), after.step, steps)


def _parameter_index(net: nn.Sequential, layer: int) -> int:
    """Where the weights of a layer are among the net's parameters."""
    module = weight_layers(net)[layer][1]
    return next(i for i, p in enumerate(net.parameters()) if p is module.weight)


def _bar(epochs: int, progress: bool) -> Iterable[int]:
    if not progress:
        return range(epochs)
    from tqdm.auto import tqdm

    return tqdm(range(epochs), unit="epoch")
