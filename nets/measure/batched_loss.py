"""The loss at many weight vectors: the form in which landscapes are measured.

Where the vectors differ in one layer only, what comes before it is computed once, and of the layer itself
only the change is multiplied out: its output at W + t p is z + t (p a) with z and a fixed, so that a whole
profile along p costs one product.

This module gives values of the loss (and its slope) away from w₀, at thousands of places; gradients and
Hessians at w₀, sample by sample, are :mod:`nets.measure.layer_loss`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from nets.models import checked_layer, weight_layers
from nets.training.networks import network, sample_losses
from nets.training.threads import torch_threads

Reduction = Literal["mean", "none"]
Values: TypeAlias = torch.Tensor | np.ndarray
#: Numbers in the largest intermediate result; small enough to stay in a processor's cache. A convolution
#: is faster on more samples at once.
BLOCK = 1 << 18
CONVOLUTIONAL_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class ShiftedLoss:
    """Loss L(w₀ + δ) as a function of a change δ of one layer's weights; made by :func:`shifted_loss`.

    Attributes
    ----------
    layer : Linear or Conv2d
        At w₀. Its biases, if any, stay as they are.
    after : nn.Sequential
        What follows it.
    inputs, outputs : Tensor, shape (N, …)
        The layer's, at w₀.
    labels : Tensor of int64, shape (N,)
    threads : int or None
    """

    layer: nn.Linear | nn.Conv2d
    after: nn.Sequential
    inputs: torch.Tensor
    outputs: torch.Tensor
    labels: torch.Tensor
    threads: int | None

    @property
    def size(self) -> int:
        """Number of weights of the layer."""
        return self.layer.weight.numel()

    @property
    def weights(self) -> torch.Tensor:
        """w₀, flattened, shape (size,)."""
        return self.layer.weight.detach().reshape(-1)

    def __call__(self, changes: torch.Tensor, *, reduction: Reduction = "mean") -> torch.Tensor:
        """Loss at w₀ + δ for each row δ of ``changes``.

        Parameters
        ----------
        changes : Tensor or ndarray, shape (K, size)
        reduction : {"mean", "none"}

        Returns
        -------
        Tensor, shape (K,); with "none" the loss of each sample, (K, N)
        """
        return self.along(changes, torch.ones(1), reduction=reduction)[:, 0]

    def along(self, directions: Values, distances: Values, *, reduction: Reduction = "mean") -> torch.Tensor:
        """Loss at w₀ + t p for each direction p and each of its distances t.

        Parameters
        ----------
        directions : Tensor or ndarray, shape (K, size)
        distances : Tensor or ndarray, shape (K, T), or (T,) for all directions the same
        reduction : {"mean", "none"}
            Mean over samples, summed in float64; or each sample's own.

        Returns
        -------
        Tensor, shape (K, T); with "none" (K, T, N)
        """
        return self._swept(directions, distances, reduction, self._losses)

    def slopes(self, directions: Values, distances: Values, *, reduction: Reduction = "mean") -> torch.Tensor:
        """Derivative dL/dt at w₀ + t p, by forward differentiation.

        Parameters
        ----------
        directions, distances, reduction
            As in :meth:`along`.

        Returns
        -------
        Tensor, shape (K, T); with "none" (K, T, N)
        """
        return self._swept(directions, distances, reduction, self._slopes)

    def _swept(self, directions, distances, reduction: Reduction, kind) -> torch.Tensor:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction={reduction!r} must be 'mean' or 'none'")
        p, t = self._checked(directions, distances)
        (K, T), N = t.shape, len(self.labels)
        shape, dtype = ((K, T, N), self.inputs.dtype) if reduction == "none" else ((K, T), torch.float64)
        result = torch.zeros(shape, dtype=dtype, device=self.inputs.device)
        with torch_threads(self.threads), torch.no_grad():
            for ks, rows in self._blocks(K, T):
                moved = self._moved(p[ks], rows)  # (k, n, …)
                ones = [1] * (moved.ndim - 1)
                z = self.outputs[rows] + t[ks].view(-1, T, *ones) * moved.unsqueeze(1)
                values = kind(z, moved, rows)  # (k, T, n)
                if reduction == "none":
                    result[ks, :, rows] = values
                else:
                    result[ks] += values.sum(-1, dtype=torch.float64) / N
        return result

    def _losses(self, z: torch.Tensor, moved: torch.Tensor, rows: slice) -> torch.Tensor:
        labels = self.labels[rows].expand(z.shape[:3]).reshape(-1)
        return sample_losses(self.after(z.flatten(0, 2)), labels).view(z.shape[:3])

    def _slopes(self, z: torch.Tensor, moved: torch.Tensor, rows: slice) -> torch.Tensor:
        tangent = moved.unsqueeze(1).expand(z.shape).flatten(0, 2)
        logits, change = torch.func.jvp(self.after, (z.flatten(0, 2),), (tangent,))  # type: ignore[misc]
        p = torch.softmax(logits, -1)
        chosen = self.labels[rows].expand(z.shape[:3]).reshape(-1, 1)
        return (p * (change - change.gather(1, chosen))).sum(-1).view(z.shape[:3])

    def _moved(self, p: torch.Tensor, rows: slice) -> torch.Tensor:
        """What the layer's outputs gain per unit of t, shape (k, n, …)."""
        a, shape = self.inputs[rows], self.layer.weight.shape
        if isinstance(self.layer, nn.Linear):
            return torch.matmul(a, p.view(len(p), *shape).mT)
        layer = self.layer
        filters = p.reshape(len(p) * shape[0], *shape[1:])
        out = nn.functional.conv2d(a, filters, None, layer.stride, layer.padding, layer.dilation)
        return out.view(len(a), len(p), shape[0], *out.shape[2:]).transpose(0, 1)

    def _blocks(self, K: int, T: int) -> Iterator[tuple[slice, slice]]:
        """Slices of directions and of samples whose intermediate results hold about ``BLOCK`` numbers."""
        N, width = len(self.labels), math.prod(self.outputs.shape[1:])
        block = BLOCK if isinstance(self.layer, nn.Linear) else CONVOLUTIONAL_BLOCK
        n = max(1, min(N, block // (width * T)))
        k = max(1, min(K, block // (width * T * n)))
        for start in range(0, N, n):
            for first in range(0, K, k):
                yield slice(first, min(first + k, K)), slice(start, min(start + n, N))

    def _checked(self, directions, distances) -> tuple[torch.Tensor, torch.Tensor]:
        p = torch.as_tensor(directions).to(self.inputs)
        t = torch.as_tensor(distances).to(self.inputs)
        if p.ndim != 2 or p.shape[1] != self.size:
            raise ValueError(
                f"directions of shape {tuple(p.shape)} must be (K, {self.size}), the layer's weights"
            )
        t = t.expand(len(p), -1) if t.ndim == 1 else t
        if t.ndim != 2 or len(t) != len(p) or t.shape[1] == 0:
            raise ValueError(f"distances of shape {tuple(t.shape)} must be (T,) or ({len(p)}, T)")
        return p, t


def shifted_loss(
    net: nn.Sequential,
    layer: int,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    threads: int | None = None,
) -> ShiftedLoss:
    """The loss as a function of changes of one layer's weights, on given samples.

    Parameters
    ----------
    net : nn.Sequential
        At w₀; copied.
    layer : int
        See :func:`nets.models.weight_layers`.
    inputs, labels : Tensor
        For instance ``data.train_inputs, data.train_labels``.
    dtype : torch.dtype
        Precision of the evaluation; float64 where losses are tiny.
    threads : int, optional
        Threads torch may use; default leaves its setting.

    Returns
    -------
    ShiftedLoss

    Raises
    ------
    ValueError
        If the layer does not exist.
    """
    checked_layer(net, layer)
    own = copy.deepcopy(net).to(inputs.device, dtype).requires_grad_(False)
    place, module = weight_layers(own)[layer]
    before, after = nn.Sequential(*list(own)[:place]), nn.Sequential(*list(own)[place + 1 :])
    with torch_threads(threads), torch.no_grad():
        a = torch.cat([before(x.to(dtype)) for x in inputs.split(4096)])
        z = torch.cat([module(x) for x in a.split(4096)])
    return ShiftedLoss(module, after, a, z, labels, threads)


def losses(
    net: nn.Sequential,
    weights: torch.Tensor,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    reduction: Reduction = "mean",
    threads: int | None = None,
) -> torch.Tensor:
    """Loss at many vectors of all of a net's parameters.

    Parameters
    ----------
    net : nn.Sequential
        Its shape; its own weights do not enter.
    weights : Tensor or ndarray, shape (K, P)
        Each row all parameters, in the order of ``torch.nn.utils.parameters_to_vector``.
    inputs, labels : Tensor
        N samples.
    dtype, threads
        As in :func:`shifted_loss`.
    reduction : {"mean", "none"}

    Returns
    -------
    Tensor, shape (K,); with "none" (K, N)

    Raises
    ------
    ValueError
        If the rows have the wrong length.
    """
    template = list(net.parameters())
    sizes = [p.numel() for p in template]
    rows = torch.as_tensor(weights).to(inputs.device, dtype)
    if rows.ndim != 2 or rows.shape[1] != sum(sizes):
        raise ValueError(f"weights of shape {tuple(rows.shape)} must be (K, {sum(sizes)}), all parameters")
    together = max(1, BLOCK // max(1, max(sizes)))
    parts: list[torch.Tensor] = []
    function = network(copy.deepcopy(net).to(inputs.device, dtype))
    with torch_threads(threads), torch.no_grad():
        for some in rows.split(together):
            parameters = [
                w.reshape(len(some), *p.shape) for w, p in zip(some.split(sizes, 1), template, strict=True)
            ]
            values = []
            for x, y in zip(inputs.split(1024), labels.split(1024), strict=True):
                logits = function.forward(parameters, x.to(dtype).unsqueeze(0), keep=False)
                values.append(sample_losses(logits, y.expand(len(some), -1)))
            parts.append(torch.cat(values, 1))
    each_sample = torch.cat(parts)
    return each_sample if reduction == "none" else each_sample.mean(1, dtype=torch.float64)
