"""Two tasks made of a data set's classes, and SGD on one of them for many weight vectors at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fpsolve.progress import shown
from nets.data.datasets import Data
from nets.training.batches import steps
from nets.training.networks import DenseNetwork, dense_biases
from nets.training.optimizers import Plain

#: Rows worked on together where all samples are gone through.
BLOCK = 500


@dataclass(frozen=True)
class Tasks:
    """Two tasks, the net that learns them, and how.

    ``data`` is a name for :func:`nets.data.datasets.load`, ``first`` and ``second`` are the classes of the
    two tasks, ``hidden`` the sizes of the hidden layers. ``layer`` learns; the others are fixed after
    ``pretraining_epochs`` on all classes. None: all layers learn. The window of ``window_epochs`` after task
    1 keeps one state in ``every``; at most ``modes`` principal directions are kept. F is measured on at most
    ``samples`` rows of task 1, and where all layers learn the Fisher diagonals too. Classes in common, or a
    number below 1, are a ValueError.
    """

    data: str = "mnist"
    first: tuple[int, ...] = (0, 1)
    second: tuple[int, ...] = (2, 3)
    hidden: tuple[int, ...] = (50, 50)
    layer: int | None = 1
    learning_rate: float = 0.1
    batch_size: int = 50
    pretraining_epochs: int = 3
    first_epochs: int = 10
    window_epochs: int = 10
    second_epochs: int = 5
    every: int = 1
    modes: int = 2500
    samples: int = 1000

    def __post_init__(self) -> None:
        if not self.first or not self.second or set(self.first) & set(self.second):
            raise ValueError(f"first={self.first} and second={self.second} must hold classes, none in common")
        epochs = ("first_epochs", "window_epochs", "second_epochs")
        for name in ("batch_size", *epochs, "every", "modes", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.layer is not None and self.pretraining_epochs < 1:
            raise ValueError("pretraining_epochs must be at least 1 where only one layer learns")


#: The small setting of notebook 07.
DIGITS = Tasks(
    data="digits", first=(0, 1, 2, 3, 4), second=(5, 6, 7, 8, 9), hidden=(20, 20), batch_size=20,
    pretraining_epochs=10, first_epochs=10, window_epochs=12, second_epochs=15, modes=400, samples=300,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rows:
    """What one task is learned from, ``inputs`` and ``labels``, and tested on."""

    inputs: torch.Tensor
    labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor


def rows_of(data: Data, before: nn.Sequential, classes: Sequence[int]) -> Rows:
    """Rows of some classes as the layers ``before`` give them, with their labels among all classes."""
    parts: list[torch.Tensor] = []
    for inputs, labels in ((data.train_inputs, data.train_labels), (data.test_inputs, data.test_labels)):
        chosen = torch.isin(labels, torch.tensor(list(classes)))
        parts += [before(inputs[chosen]).flatten(1), labels[chosen]]
    return Rows(*parts)


def views(net: nn.Sequential, weights: torch.Tensor) -> list[torch.Tensor]:
    """Parameters of as many nets as there are rows of weights: views of the rows; what is fixed is shared.

    The first parameters of ``net`` learn, as many as a row of ``weights``, shape (R, N), is long. Each
    result has a leading axis of length R.
    """
    parameters, start = [], 0
    for p in net.parameters():
        if start < weights.shape[1]:
            parameters.append(weights[:, start : start + p.numel()].view(-1, *p.shape))
            start += p.numel()
        else:
            parameters.append(p.detach().expand(len(weights), *p.shape))
    return parameters


def descend(
    net: nn.Sequential, weights: torch.Tensor, task: Rows, tasks: Tasks, *, epochs: int, seed: str,
    progress: bool = False,
) -> Iterator[int]:  # fmt: skip
    """SGD on one task, in place, for all rows of ``weights``, shape (R, N), on the same minibatches.

    ``tasks`` gives learning rate and batch size, ``seed`` is as recorded by
    :func:`nets.training.batches.seed_text`. Yielded is the number of each step, from 1, after which the
    weights may be changed in place. A net that is not fully connected, with ReLU and without biases, is a
    ValueError at the first step.
    """
    if dense_biases(net) is not False:
        raise ValueError("the net must be fully connected, with ReLU and without biases")
    parameters = views(net, weights)
    targets = nn.functional.one_hot(task.labels, parameters[-1].shape[1]).to(task.inputs.dtype)
    dense, rate = DenseNetwork(False), tasks.learning_rate / tasks.batch_size
    learning = int(np.searchsorted(np.cumsum([p[0].numel() for p in parameters]), weights.shape[1])) + 1
    order = steps(
        [seed], shown(range(epochs), unit="epoch", progress=progress, leave=True), samples=len(targets),
        batch_size=tasks.batch_size, sampling="without_replacement",
    )  # fmt: skip
    # Not nets.training.replicas: there each row would gather a minibatch of its own and all parameters learn.
    for step, rows in order:
        slope = torch.softmax(dense.forward(parameters, task.inputs[rows]), -1).sub_(targets[rows])
        gradients = dense.backward(parameters, slope)[:learning]
        Plain().move(parameters[:learning], gradients, {}, rate=rate, step=step)
        yield step


def errors(parameters: Sequence[torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Share of rows that each net misclassifies, shape (R,), for ``parameters`` from :func:`views`."""
    dense, wrong = DenseNetwork(False), torch.zeros(len(parameters[0]))
    for x, y in zip(inputs.split(BLOCK), labels.split(BLOCK), strict=True):
        wrong += (dense.forward(parameters, x[None], keep=False).argmax(-1) != y).sum(1)
    return (wrong / len(labels)).double().cpu().numpy()
