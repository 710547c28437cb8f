"""Runs of one shape trained together for some epochs: stacked, stepped, measured, taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch.nn.functional import one_hot

from fpsolve.progress import shown
from nets.layers import architecture, with_parameters
from nets.training.networks import dense_biases, network
from nets.training.run import Outcome, Run
from nets.training.step import AfterStep, Batch, Samples, evaluate, torch_threads, train_epoch

#: Weights that rest for an epoch at a mean loss above this are no success.
STILL_LOSS = 0.1
AfterEpoch: TypeAlias = Callable[[list[Run], np.ndarray], None]


def trained(
    runs: Sequence[Run],
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
    after_epoch: AfterEpoch | None = None,
    after_step: AfterStep | None = None,
) -> list[Run]:
    """All runs after so many epochs more. They agree but for their weights, learning rates and seeds.

    With ``stop_at_loss`` a replica stops after the epoch in which its training loss is no longer above that.
    ``after_epoch`` is given the runs as they are after each epoch, and the minibatch losses (R, steps) of
    those that trained; ``after_step`` is that of :func:`nets.training.step.train_epoch`. A run that diverged
    or stands still is as it was after the epoch before. Runs that do not fit together are a ValueError.
    """
    runs = list(runs)
    first = runs[0]
    _check_together(runs, _going_on(runs, stop_at_loss))
    train, test = _samples(first)
    with torch_threads(threads), torch.no_grad():
        if not first.rows:
            rows = _measures(_stacked(runs), train, test)
            runs = [replace(run, rows=(row,)) for run, row in zip(runs, rows, strict=True)]
        active = _going_on(runs, stop_at_loss)
        batch = _stacked([runs[i] for i in active]) if active else None
        for _ in shown(range(epochs), unit="epoch", progress=progress, leave=True):
            if batch is None:
                break
            before = _copied(batch)
            losses = train_epoch(batch, train, after_step)
            outcomes, rows = _outcomes(before, batch, losses), _measures(batch, train, test)
            for i, (outcome, step), row in zip(active, outcomes, rows, strict=True):
                # Weights stay in the batch until a callback or the end needs them.
                more = (row,) if outcome == "trained" else ()
                runs[i] = replace(runs[i], outcome=outcome, diverged_step=step, rows=runs[i].rows + more)
            staying = _going_on(runs, stop_at_loss)
            if after_epoch is not None or staying != active:
                for place, i in enumerate(active):
                    runs[i] = _taken(runs[i], batch if runs[i].outcome == "trained" else before, place)
            if staying != active:
                active, batch = staying, _stacked([runs[i] for i in staying]) if staying else None
            if after_epoch is not None:
                after_epoch(runs, losses)
        if batch is not None:
            for place, i in enumerate(active):
                runs[i] = _taken(runs[i], batch, place)
    return runs


def _going_on(runs: Sequence[Run], stop_at_loss: float | None) -> list[int]:
    """Which runs are to be trained further."""
    return [
        i for i, run in enumerate(runs)
        if run.outcome == "trained" and (stop_at_loss is None or not run.rows or run.loss > stop_at_loss)
    ]  # fmt: skip


def _check_together(runs: Sequence[Run], active: Sequence[int]) -> None:
    """Runs side by side share all but weights, learning rates and seeds."""
    first = runs[0]
    for run in runs[1:]:
        same_data = run.data is first.data or run.data.digest == first.data.digest
        if not same_data or architecture(run.net) != architecture(first.net):
            raise ValueError("runs side by side need the same data and nets of one shape")
        if replace(run.recipe, learning_rate=first.recipe.learning_rate) != first.recipe:
            raise ValueError(f"runs side by side need the same recipe: {run.recipe} is not {first.recipe}")
    epochs = sorted({runs[i].epoch for i in active})
    if len(epochs) > 1:
        raise ValueError(f"runs side by side must have done equally many epochs, not {epochs}")


def _samples(run: Run) -> tuple[Samples, Samples]:
    """Training and test rows as the loop wants them: flat where the net is fully connected."""
    data, dtype = run.data, run.recipe.torch_dtype
    classes = len(list(run.net.parameters())[-1])
    flat = dense_biases(run.net) is not None
    parts = ((data.train_inputs, data.train_labels), (data.test_inputs, data.test_labels))
    train, test = (
        Samples((x.flatten(1) if flat else x).to(dtype), y, one_hot(y, classes).to(dtype)) for x, y in parts
    )
    return train, test


def _stacked(runs: Sequence[Run]) -> Batch:
    """Copies of the runs' weights and memories, side by side."""

    def stacked(each: Iterable[Iterable[torch.Tensor]]) -> list[torch.Tensor]:
        same = zip(*each, strict=True)
        return [t[0].detach().clone() if len(t) == 1 else torch.stack(t).detach() for t in same]

    first = runs[0]
    rates, seeds = zip(*((r.recipe.learning_rate, r.seed) for r in runs), strict=True)
    return Batch(
        network(first.net), stacked(r.net.parameters() for r in runs),
        {name: stacked(r.memory[name] for r in runs) for name in first.memory},
        first.epoch, first.step, first.recipe, first.batch_size, rates, seeds,
    )  # fmt: skip


def _copied(batch: Batch, place: int | None = None) -> Batch:
    """A copy of the batch, or of the tensors of one place in it."""

    def own(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        return [(t if place is None or batch.single else t[place]).clone() for t in tensors]

    memory = {name: own(tensors) for name, tensors in batch.memory.items()}
    return replace(batch, parameters=own(batch.parameters), memory=memory)


def _taken(run: Run, batch: Batch, place: int) -> Run:
    """The run with the state in one place of the batch."""
    own = _copied(batch, place)
    net = with_parameters(run.net, own.parameters)
    return replace(run, net=net, epoch=batch.epoch, step=batch.step, memory=own.memory)


def _measures(batch: Batch, train: Samples, test: Samples) -> list[tuple[float, ...]]:
    """For each replica a row of its history."""
    loss, accuracy = evaluate(batch, train)
    squares = [p.double().square().reshape(len(loss), -1).sum(1) for p in batch.parameters]
    norm = torch.stack(squares).sum(0).sqrt().cpu().numpy()
    columns = zip(loss, accuracy, *evaluate(batch, test), norm, strict=True)
    return [(float(batch.epoch), *map(float, row)) for row in columns]


def _outcomes(before: Batch, after: Batch, losses: np.ndarray) -> list[tuple[Outcome, int]]:
    """What became of each replica in an epoch, and at which step if it was bad, else −1."""
    outside = ~(losses < after.recipe.divergence)  # NaN is outside
    still = np.ones(len(losses), bool)
    for old, new in zip(before.parameters, after.parameters, strict=True):
        still &= (old == new).reshape(len(losses), -1).all(1).cpu().numpy()
    # A net fitted to rounding may rest; one whose loss is large has no gradient: all its ReLUs are shut.
    still &= losses.mean(1) > STILL_LOSS
    return [
        ("diverged", before.step + 1 + int(bad.argmax())) if bad.any()
        else ("still", after.step) if rests
        else ("trained", -1)
        for bad, rests in zip(outside, still, strict=True)
    ]  # fmt: skip
