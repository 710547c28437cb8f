"""One epoch of training for one net, or for many of one shape side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from nets.training.batches import Sampling, minibatches, noise_stream
from nets.training.networks import DenseNetwork, Network, sample_losses
from nets.training.optimizers import GradientDescent, Memory, Optimizer, Plain

#: What may look at the parameters, with a leading axis of length R for R > 1, after each step.
AfterStep: TypeAlias = Callable[[int, list[torch.Tensor]], None]
#: Rows of a block where all samples are gone through; fewer where convolutions make much of each row.
BLOCK = 8192
CONVOLUTIONAL_BLOCK = 256


@dataclass
class Batch:
    """The state of R replicas: tensors with a leading axis of length R, or without it for one alone."""

    network: Network
    parameters: list[torch.Tensor]
    memory: Memory
    epoch: int
    step: int
    single: bool


@dataclass(frozen=True)
class Rule:
    """How each step goes; ``learning_rates`` and ``seeds`` are one for each replica."""

    optimizer: Optimizer
    learning_rates: tuple[float, ...]
    seeds: tuple[str, ...]
    batch_size: int
    sampling: Sampling


@dataclass(frozen=True)
class Samples:
    """Inputs in the precision of training, and labels as numbers and as rows of 0 and 1."""

    inputs: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, inputs: torch.Tensor, labels: torch.Tensor, classes: int, dtype: torch.dtype) -> Samples:
        return cls(inputs.to(dtype), labels, torch.nn.functional.one_hot(labels, classes).to(dtype))

    def __len__(self) -> int:
        return len(self.targets)


def train_epoch(
    batch: Batch,
    samples: Samples,
    rule: Rule,
    *,
    layer: int | None = None,
    every: int = 1,
    after_step: AfterStep | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train one epoch in place.

    Parameters
    ----------
    batch : Batch
        Changed.
    samples : Samples
    rule : Rule
    layer : int, optional
        Index of the parameter to record after every step whose number is a multiple of ``every``.
    after_step : callable, optional
        Given the number of steps done and the parameters, which it must not change.

    Returns
    -------
    losses : ndarray, shape (R, steps)
        Minibatch losses, each before its step.
    steps : ndarray of int64, shape (kept,)
        Numbers of the recorded steps.
    recorded : ndarray, shape (R, kept, weights)
    """
    if isinstance(rule.optimizer, GradientDescent):
        result = _full_batch_step(batch, samples, rule, rule.optimizer, layer, every)
        if after_step is not None:
            after_step(batch.step, batch.parameters)
        return result
    R, B = len(rule.seeds), rule.batch_size
    device, dtype = samples.inputs.device, samples.inputs.dtype
    draws = [
        minibatches(seed, batch.epoch, samples=len(samples), batch_size=B, sampling=rule.sampling)
        for seed in rule.seeds
    ]
    count = len(draws[0])
    order = torch.from_numpy(np.stack(draws, axis=1).reshape(count, R * B)).to(device)
    kept = [k for k in range(count) if (batch.step + k + 1) % every == 0] if layer is not None else []
    watched = batch.parameters[layer] if layer is not None else torch.empty(0, device=device)
    recorded = torch.empty((len(kept), *watched.shape), dtype=dtype, device=device)
    rows = iter(recorded)
    losses = torch.empty((count, R), dtype=dtype, device=device)
    rates = (
        rule.learning_rates[0] if R == 1 else torch.tensor(rule.learning_rates, dtype=dtype, device=device)
    )
    # Buffers that every step fills anew, and the same with an axis for the replicas.
    inputs, targets = (t.new_empty((R * B, *t.shape[1:])) for t in (samples.inputs, samples.targets))
    x, y = ((t if batch.single else t.view(R, B, *t.shape[1:])) for t in (inputs, targets))
    dense = batch.network if isinstance(batch.network, DenseNetwork) and rule.optimizer == Plain() else None
    for k, chosen in enumerate(order.unbind(0)):
        torch.index_select(samples.inputs, 0, chosen, out=inputs)
        torch.index_select(samples.targets, 0, chosen, out=targets)
        log_p = torch.log_softmax(batch.network.forward(batch.parameters, x), -1)
        torch.sum(y * log_p, (-1, -2), out=losses[k] if R > 1 else losses[k, 0])
        slope = log_p.exp_().sub_(y)  # d (B loss) / d logits = softmax − target
        batch.step += 1
        if dense is not None:
            dense.descend(batch.parameters, slope, rates / B)
        else:
            gradients = batch.network.backward(batch.parameters, slope.div_(B))
            rule.optimizer.move(batch.parameters, gradients, batch.memory, rate=rates, step=batch.step)
        if layer is not None and batch.step % every == 0:
            next(rows).copy_(watched)
        if after_step is not None:
            after_step(batch.step, batch.parameters)
    batch.epoch += 1
    steps = batch.step - count + 1 + np.array(kept, dtype=np.int64)
    weights = recorded.reshape(len(kept), R, watched.numel() // R).transpose(0, 1).cpu().numpy()
    return (losses.T / -B).cpu().numpy(), steps, weights


def _full_batch_step(
    batch: Batch, samples: Samples, rule: Rule, optimizer: GradientDescent, layer: int | None, every: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step with the gradient over all samples, and with noise where the rule has it."""
    R, N = len(rule.seeds), len(samples)
    device, dtype = samples.inputs.device, samples.inputs.dtype
    total: list[torch.Tensor] = [torch.zeros_like(p) for p in batch.parameters]
    kick: list[torch.Tensor] = [torch.zeros_like(p) for p in batch.parameters]
    loss = torch.zeros(R, dtype=torch.float64, device=device)
    streams = [noise_stream(seed, batch.epoch) for seed in rule.seeds]
    for start in range(0, N, BLOCK):
        x, y = (t[start : start + BLOCK] for t in (samples.inputs, samples.targets))
        if not batch.single:
            x = x.unsqueeze(0)
        log_p = torch.log_softmax(batch.network.forward(batch.parameters, x), -1)
        loss -= (y * log_p).sum((-1, -2), dtype=torch.float64) / N
        p = log_p.exp_()
        for t, g in zip(total, batch.network.backward(batch.parameters, (p - y) / N), strict=True):
            t += g
        if (drawn := optimizer.drawn_slope(p, streams)) is not None:
            for t, g in zip(
                kick, batch.network.backward(batch.parameters, drawn / math.sqrt(N)), strict=True
            ):
                t += g
    optimizer.draw(kick, streams)
    rates = torch.tensor(rule.learning_rates, dtype=dtype, device=device)
    for p, g, k in zip(batch.parameters, total, kick, strict=True):
        rate = rates.view(() if batch.single else (-1, *[1] * (p.ndim - 1)))
        p -= rate * g
        if optimizer.diffusion:
            p -= (2.0 * optimizer.diffusion * rate).sqrt() * k
    batch.step += 1
    batch.epoch += 1
    keep = layer is not None and batch.step % every == 0
    recorded = np.empty((R, 0, 0))
    if keep:
        recorded = batch.parameters[layer].reshape(R, 1, -1).cpu().numpy().copy()  # type: ignore[index]
    return loss[:, None].cpu().numpy(), np.array([batch.step] if keep else [], np.int64), recorded


def evaluate(batch: Batch, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and accuracy of each replica over all samples.

    Losses are taken from the logits in float64, so that tiny losses are as good as the logits are.

    Parameters
    ----------
    batch : Batch
    samples : Samples

    Returns
    -------
    loss, accuracy : ndarray, shape (R,)
    """
    sums = []
    block = BLOCK if isinstance(batch.network, DenseNetwork) else CONVOLUTIONAL_BLOCK
    for start in range(0, len(samples), block):
        x, y = (t[start : start + block] for t in (samples.inputs, samples.labels))
        logits = batch.network.forward(batch.parameters, x if batch.single else x.unsqueeze(0), keep=False)
        right = (logits.argmax(-1) == y).sum(-1)
        loss = sample_losses(logits.double(), y.expand(logits.shape[:-1])).sum(-1)
        sums.append(torch.stack([loss, right.double()]).reshape(2, -1))
    means = torch.stack(sums).sum(0) / len(samples)
    return means[0].cpu().numpy(), means[1].cpu().numpy()
