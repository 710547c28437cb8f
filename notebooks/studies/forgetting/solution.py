"""The solution of a first task, with all that penalties need to know of the landscape around it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import nn

from fpsolve.results import quantity
from nets.data.datasets import Data
from nets.layers import checked_layer, weight_layers
from nets.measure import components as principal_components
from nets.measure import loss_widths
from nets.measure.fast import residuals
from nets.measure.subject import Subject, layer_names
from nets.models import fully_connected
from nets.training import train
from nets.training.batches import seed_text
from nets.training.step import torch_threads
from notebooks.studies.forgetting.tasks import BLOCK, Rows, Tasks, descend, errors, rows_of, views

#: Largest number of weights for which directions without motion are added, up to all.
COMPLETED = 5000


@dataclass(frozen=True, eq=False)
class FirstTask:
    """A net after task 1, and what is known of the landscape there.

    ``net`` starts at the layer that learns, at w₁; ``first`` and ``second`` hold the rows of each task as
    they reach it. ``modes`` (mode, weight) has ``variance`` and ``direction`` of the principal components
    of the window, and ``width`` F. The Fisher matrices are diagonals, shape (N,). ``error`` is the test
    error of task 1, ``loss`` its training loss, the L₀ of F.
    """

    tasks: Tasks
    net: nn.Sequential
    first: Rows
    second: Rows
    modes: xr.Dataset
    fisher_true: torch.Tensor
    fisher_empirical: torch.Tensor
    error: float
    loss: float

    @property
    def weights(self) -> torch.Tensor:
        """w₁, shape (N,)."""
        return nn.utils.parameters_to_vector(_learning(self.net, self.tasks)).detach()

    @cached_property
    def directions(self) -> torch.Tensor:
        """p_i, shape (n, N), float32: one tensor for all penalties, so that they are applied together."""
        return torch.from_numpy(self.modes["direction"].to_numpy().astype(np.float32))


def first_task(
    data: Data, tasks: Tasks, *, rng: int | np.random.SeedSequence = 0, progress: bool = False
) -> FirstTask:
    """Learn task 1, and measure what the penalties need there.

    ``tasks.data`` is not looked at; ``rng`` is of initial weights and minibatches. A class or a layer that
    does not exist, a task with fewer rows than a minibatch, or a loss that cannot be measured along
    directions, is a ValueError.
    """
    root = rng if isinstance(rng, np.random.SeedSequence) else np.random.SeedSequence(rng)
    seeds = [np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, k)) for k in range(4)]
    classes, size = len(data.classes), tasks.batch_size
    for name, chosen in (("first", tasks.first), ("second", tasks.second)):
        if not set(chosen) <= set(range(classes)):
            raise ValueError(f"{name}={chosen} must be classes from 0 to {classes - 1}")
        if (count := int(torch.isin(data.train_labels, torch.tensor(chosen)).sum())) < size:
            raise ValueError(f"task {name} has {count} rows, fewer than batch_size={size}")
    before, rest = _net(data, tasks, seeds, progress=progress)
    with torch_threads(1), torch.no_grad():
        first, second = (rows_of(data, before, chosen) for chosen in (tasks.first, tasks.second))
        window, weights = _learned(rest, first, tasks, seed_text(seeds[3]))
    modes = _components(window, tasks.modes)
    one_layer = tasks.layer is not None
    whole = Subject(rest, first.inputs, first.labels, weights=layer_names(rest, 0) if one_layer else "all")
    few = whole.rows(slice(tasks.samples))
    width, loss = _widths(few, modes["direction"].to_numpy(), threads=1 if one_layer else None)
    modes["width"] = quantity(width, "mode", "flatness F_i: width of L ≤ e L₀ along p_i")
    true, empirical = _fisher_diagonals(whole if one_layer else few)
    error = float(errors(views(rest, weights), first.test_inputs, first.test_labels)[0])
    return FirstTask(tasks, rest, first, second, modes, true, empirical, error, loss)


def _learning(net: nn.Sequential, tasks: Tasks) -> list[nn.Parameter]:
    """The parameters that learn: those of the first layer of ``net``, or all."""
    every = list(net.parameters())
    return every if tasks.layer is None else every[:1]


def _learned(net: nn.Sequential, rows: Rows, tasks: Tasks, seed: str) -> tuple[np.ndarray, torch.Tensor]:
    """Train ``net`` on the rows, in place: the weights of the window (step, N), and the last (1, N)."""
    learning = _learning(net, tasks)
    weights = nn.utils.parameters_to_vector(learning)[None].clone()
    fast, epochs = len(rows.labels) // tasks.batch_size * tasks.first_epochs, tasks.first_epochs
    path = descend(net, weights, rows, tasks, epochs=epochs + tasks.window_epochs, seed=seed)
    window = [weights[0].cpu().numpy().copy() for k in path if k > fast and k % tasks.every == 0]
    for p, (row,) in zip(learning, views(net, weights), strict=False):  # what is fixed comes last
        p.copy_(row)
    return np.stack(window), weights


def _net(
    data: Data, tasks: Tasks, seeds: list[np.random.SeedSequence], *, progress: bool
) -> tuple[nn.Sequential, nn.Sequential]:
    """What comes before the layer that learns, trained on all classes, and the rest, drawn anew."""
    sizes, place = (data.features, *tasks.hidden, len(data.classes)), 0
    net = fully_connected(sizes, rng=seeds[0])
    if tasks.layer is not None:
        checked_layer(net, tasks.layer)
        net = train.sgd(
            net, data, learning_rate=tasks.learning_rate, batch_size=tasks.batch_size,
            epochs=tasks.pretraining_epochs, rng=seeds[1], progress=progress,
        ).net  # fmt: skip
        place = weight_layers(net)[tasks.layer][0]
        net[place] = checked_layer(fully_connected(sizes, rng=seeds[2]), tasks.layer)
    layers = list(net)
    return nn.Sequential(*layers[:place]), nn.Sequential(*copy.deepcopy(layers[place:])).requires_grad_(False)


def _components(window: np.ndarray, count: int) -> xr.Dataset:
    """``variance`` and ``direction`` of as many principal directions of the window as asked for.

    Directions in which rounding is all the motion come last, in any order. They matter: where constraints
    are scanned up to all weights, "equal F" must end at plain L2.
    """
    recorded = xr.DataArray(window, dims=("step", "weight"))
    found = principal_components.analyse(recorded, count=min(count, len(window) - 1))
    modes = found[["variance", "direction"]]
    there, weights = modes["direction"].shape
    if there >= (count := min(count, weights)) or weights > COMPLETED:
        return modes
    rest = np.linalg.qr(modes["direction"].to_numpy().T, mode="complete")[0][:, there:count].T
    variance = ((window - window.mean(0)) @ rest.T.astype(window.dtype)).var(0, dtype=float)
    every = {"variance": ("mode", variance), "direction": (("mode", "weight"), rest)}
    more = xr.Dataset(every, {"mode": np.arange(there + 1, count + 1)})
    return xr.concat([modes, more], "mode", combine_attrs="override").assign_attrs(moving_modes=there)


def _widths(subject: Subject, directions: np.ndarray, *, threads: int | None) -> tuple[np.ndarray, float]:
    """F_i of each direction, and L₀."""
    with torch_threads(threads):
        start = float(subject.along(directions[:1], np.zeros((1, 1)))[0, 0])
        if not (math.isfinite(start) and start > loss_widths.SMALLEST_LOSS):
            raise ValueError(f"the loss of task 1 is {start:.1e}: no scale for F; train for fewer epochs")
        norm = float(subject.vector.norm())
        ends, _ = loss_widths.crossings(subject, directions, start=start, norm=norm)
    return ends.sum(1), start


def _fisher_diagonals(subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
    """Diagonals of the true and of the empirical Fisher matrix."""
    true, empirical, tail = torch.zeros(subject.size), torch.zeros(subject.size), subject.tail
    if tail is not None and tail.one_matrix:  # gradients are outer products, and so are their squares
        for h, logits, slopes, labels in tail.factors(samples=BLOCK):
            p, square = torch.softmax(logits, 1), h.square()
            delta = torch.einsum("mk,mko->mo", residuals(logits, labels), slopes)
            slopes = slopes - torch.einsum("mk,mko->mo", p, slopes)[:, None]
            true += (torch.einsum("mk,mko->mo", p, slopes.square()).T @ square).flatten()
            empirical += (delta.square().T @ square).flatten()
        return true / subject.samples, empirical / subject.samples
    for logits, gradients in subject.output_gradients():
        p = torch.softmax(logits, 1)
        centred = gradients - torch.einsum("mk,mkn->mn", p, gradients)[:, None]
        true += torch.einsum("mk,mkn->n", p, centred.square_())
    for gradients in subject.gradients():
        empirical += gradients.square().sum(0)
    return true / subject.samples, empirical / subject.samples
