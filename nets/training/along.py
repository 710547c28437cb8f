"""Nets of several seeds trained side by side, and their weights kept at some epochs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from fpsolve.results import dataset, quantity
from nets.data.datasets import Data
from nets.layers import description
from nets.training.run import Run, finished
from nets.training.train import continued, replicas


def weights_along(
    nets: Sequence[nn.Sequential],
    data: Data,
    *,
    epochs: Sequence[int],
    learning_rate: float,
    batch_size: int,
    rng: Sequence[int],
    progress: bool = False,
) -> xr.Dataset:
    """Weights of nets trained by SGD, after some numbers of epochs.

    A ValueError is raised if epochs do not ascend, or none is above 0; Diverged if a training diverges.

    Parameters
    ----------
    nets : sequence of nn.Sequential
        Of one shape; one for each training. Not changed.
    epochs : sequence of int
        Ascending; 0 are the weights before training.
    learning_rate, batch_size, progress
        As in :class:`nets.Recipe` and :func:`nets.sgd`.
    rng : sequence of int
        One seed for each training.

    Returns
    -------
    Dataset
        ``weights`` (epoch, training, weight), numbered as ``net.parameters()`` gives them; ``accuracy``
        (training, epoch) on the training data.
    """
    wanted = [int(e) for e in epochs]
    if wanted != sorted(set(wanted)) or not wanted or wanted[0] < 0 or wanted[-1] < 1:
        raise ValueError(f"epochs={wanted} must ascend from 0 or more to at least 1")
    rows = {0: [_flat(net) for net in nets]}
    first, *later = [e for e in wanted if e > 0]
    runs: Sequence[Run] = replicas(
        nets, data, epochs=first, rng=list(rng), learning_rate=learning_rate, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    for epoch in (first, *later):
        runs = runs if epoch == first else continued(runs, epoch - runs[0].epoch, progress=progress)
        rows[epoch] = [_flat(finished(run).net) for run in runs]
    accuracy = np.stack([run.history.accuracy.sel(epoch=wanted) for run in runs])
    return dataset(
        {
            "weights": (("epoch", "training", "weight"), np.array([rows[e] for e in wanted])),
            "accuracy": quantity(accuracy, ("training", "epoch"), "accuracy on the training data"),
        },
        title=f"weights along training: {description(nets[0])}",
        coords={"epoch": quantity(wanted, "epoch", "epochs")},
        data=data.name, learning_rate=float(learning_rate), batch_size=int(batch_size),
        seeds=" ".join(map(str, rng)),
    )  # fmt: skip


def net_at(net: nn.Sequential, weights: xr.Dataset, *, training: int, epoch: int) -> nn.Sequential:
    """The net of one training as it was after some epochs.

    A ValueError is raised if this epoch or training was not kept, or the net has another number of weights.

    Parameters
    ----------
    net : nn.Sequential
        Any of the same shape; not changed.
    weights : Dataset
        From :func:`weights_along`.
    training : int
        Which training, from 0.
    epoch : int
        One of those kept.

    Returns
    -------
    nn.Sequential
        Its parameters ask for no gradient.
    """
    kept, trainings = weights["epoch"].to_numpy().tolist(), weights.sizes["training"]
    if epoch not in kept or not 0 <= training < trainings:
        raise ValueError(f"training={training}, epoch={epoch}: kept are {trainings} trainings at {kept}")
    vector = torch.from_numpy(weights["weights"].sel(epoch=epoch).isel(training=training).to_numpy())
    other = copy.deepcopy(net).requires_grad_(False)
    count = sum(p.numel() for p in other.parameters())
    if count != len(vector):
        raise ValueError(f"the net has {count} weights and {len(vector)} were kept")
    nn.utils.vector_to_parameters(vector, other.parameters())
    return other


def _flat(net: nn.Sequential) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).cpu().numpy().copy()
