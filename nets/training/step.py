"""One epoch of training for one net, or for many of one shape side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from nets.training.batches import noise_stream, steps
from nets.training.networks import DenseNetwork, Network, sample_losses
from nets.training.optimizers import GradientDescent, Memory, Plain
from nets.training.recipe import Recipe

#: What may look at the parameters, with a leading axis of length R for R > 1, after each step.
AfterStep: TypeAlias = Callable[[int, list[torch.Tensor]], None]
#: Rows of a block where all samples are gone through; fewer where convolutions make much of each row.
BLOCK = 8192
CONVOLUTIONAL_BLOCK = 256


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads inside ``with``; None leaves the number as it is.

    Small nets are fastest on one thread, and only one thread promises the same bits everywhere.
    """
    if count is not None and count < 1:
        raise ValueError(f"threads={count} must be at least 1")
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Batch:
    """The state of R replicas: tensors with a leading axis of length R, or without it for one alone.

    ``rates`` and ``seeds`` are one for each replica; the rest of the recipe is the same for all.
    """

    network: Network
    parameters: list[torch.Tensor]
    memory: Memory
    epoch: int
    step: int
    recipe: Recipe
    batch_size: int
    rates: tuple[float, ...]
    seeds: tuple[str, ...]

    @property
    def single(self) -> bool:
        """Whether there is one replica."""
        return len(self.seeds) == 1


@dataclass(frozen=True)
class Samples:
    """Inputs in the precision of training, and labels as numbers and as rows of 0 and 1."""

    inputs: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


def train_epoch(batch: Batch, samples: Samples, after_step: AfterStep | None = None) -> np.ndarray:
    """Train one epoch in place; losses of the minibatches, each before its step, shape (R, steps).

    ``after_step`` is given the number of steps done and the parameters, which it must not change.
    """
    optimizer = batch.recipe.optimizer
    if isinstance(optimizer, GradientDescent):
        losses = _full_batch_step(batch, samples, optimizer)
        if after_step is not None:
            after_step(batch.step, batch.parameters)
    else:
        losses = _minibatch_steps(batch, samples, after_step)
    batch.epoch += 1
    return losses


def _minibatch_steps(batch: Batch, samples: Samples, after_step: AfterStep | None) -> np.ndarray:
    """One epoch of minibatches."""
    recipe, net, parameters = batch.recipe, batch.network, batch.parameters
    R, B, (inputs, targets) = len(batch.seeds), batch.batch_size, (samples.inputs, samples.targets)
    rates = batch.rates[0] if batch.single else inputs.new_tensor(batch.rates)
    losses = inputs.new_empty((len(samples) // B, R))
    # Buffers that every step fills anew, and the same with an axis for the replicas.
    drawn = [t.new_empty((R * B, *t.shape[1:])) for t in (inputs, targets)]
    x, y = (t if batch.single else t.view(R, B, *t.shape[1:]) for t in drawn)
    fused = net if isinstance(net, DenseNetwork) and recipe.optimizer == Plain() else None
    order = steps(
        batch.seeds, [batch.epoch], samples=len(samples), batch_size=B, sampling=recipe.sampling,
        done=batch.step, device=inputs.device,
    )  # fmt: skip
    for loss, (step, rows) in zip(losses, order, strict=True):
        chosen = rows.view(-1)
        torch.index_select(inputs, 0, chosen, out=drawn[0])
        torch.index_select(targets, 0, chosen, out=drawn[1])
        log_p = torch.log_softmax(net.forward(parameters, x), -1)
        torch.sum(y * log_p, (-1, -2), out=loss[0] if batch.single else loss)
        slope = log_p.exp_().sub_(y)  # d (B loss) / d logits = softmax − target
        if fused is not None:
            fused.descend(parameters, slope, rates / B)
        else:
            gradients = net.backward(parameters, slope.div_(B))
            recipe.optimizer.move(parameters, gradients, batch.memory, rate=rates, step=step)
        batch.step = step
        if after_step is not None:
            after_step(step, parameters)
    return (losses.T / -B).cpu().numpy()


def _full_batch_step(batch: Batch, samples: Samples, optimizer: GradientDescent) -> np.ndarray:
    """One step with the gradient over all samples, and with the optimiser's noise."""
    N, parameters = len(samples), batch.parameters
    total, kick = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    loss = torch.zeros(len(batch.seeds), dtype=torch.float64, device=samples.inputs.device)
    streams = [noise_stream(seed, batch.epoch) for seed in batch.seeds]
    for x, y in zip(samples.inputs.split(BLOCK), samples.targets.split(BLOCK), strict=True):
        log_p = torch.log_softmax(batch.network.forward(parameters, x if batch.single else x[None]), -1)
        loss -= (y * log_p).sum((-1, -2), dtype=torch.float64) / N
        p = log_p.exp_()
        for t, g in zip(total, batch.network.backward(parameters, (p - y) / N), strict=True):
            t += g
        if (drawn := optimizer.drawn_slope(p, streams)) is not None:
            drawn /= math.sqrt(N)
            for t, g in zip(kick, batch.network.backward(parameters, drawn), strict=True):
                t += g
    optimizer.draw(kick, streams)
    D = float(optimizer.recorded["noise"])
    rates = samples.inputs.new_tensor(batch.rates)
    for p, g, k in zip(parameters, total, kick, strict=True):
        rate = rates.view(() if batch.single else (-1, *[1] * (p.ndim - 1)))
        p -= rate * g
        if D:
            p -= (2.0 * D * rate).sqrt() * k
    batch.step += 1
    return loss[:, None].cpu().numpy()


def evaluate(batch: Batch, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and accuracy of each replica over all samples, shape (R,) each.

    Losses are taken from the logits in float64, so that tiny losses are as good as the logits are.
    """
    sums = []
    block = BLOCK if isinstance(batch.network, DenseNetwork) else CONVOLUTIONAL_BLOCK
    for x, y in zip(samples.inputs.split(block), samples.labels.split(block), strict=True):
        logits = batch.network.forward(batch.parameters, x if batch.single else x[None], keep=False)
        right = (logits.argmax(-1) == y).sum(-1)
        loss = sample_losses(logits.double(), y.expand(logits.shape[:-1])).sum(-1)
        sums.append(torch.stack([loss, right.double()]).reshape(2, -1))
    means = torch.stack(sums).sum(0) / len(samples)
    return means[0].cpu().numpy(), means[1].cpu().numpy()
