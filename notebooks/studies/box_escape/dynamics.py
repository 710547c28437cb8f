"""Minibatch gradients around a start: of the net, or of a local model with its noise and curvature.

Both give gradients at many places at once, all parameters of a replica in one row, so that
:func:`notebooks.studies.box_escape.box.simulate_box_escape` runs either. The local models are the null models
of escape: the same samples, the same noise at the start, but no landscape (``"none"``) or only its curvature
(``"quadratic"``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import nn

from fpsolve.results import Attribute
from nets.data.datasets import Data
from nets.layers import description
from nets.measure.curvature import hessian
from nets.measure.subject import as_subject
from nets.training.networks import Network, dense_biases, network
from notebooks.studies.box_escape.kernel import local_steps, net_steps

Drift = Literal["none", "linear", "quadratic"]
#: Numbers in the largest intermediate result of a sum over all samples.
_BLOCK = 1 << 21
#: Moves a position (P,) in place along rows (steps, B) with noise (steps or 0, P) added. Returned are the
#: number of steps taken, and whether the last of them left the box.
Stepper: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[int, bool]]


@dataclass(frozen=True, eq=False)
class NetDynamics:
    """Gradients of a net's cross-entropy, all replicas in one batch of matrix products.

    ``shapes`` are those of the parameters, in order; ``start`` (P,), ``inputs`` (M, …) and ``targets``, the
    labels as rows of 0 and 1, are float64; ``weight_decay`` is the λ of the ½ λ |w|² in the loss.
    ``attributes`` name net, data and drift in the ``attrs`` of a result.
    """

    net: nn.Sequential
    network: Network
    shapes: tuple[torch.Size, ...]
    start: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    weight_decay: float
    attributes: dict[str, Attribute]

    @property
    def samples(self) -> int:
        """Rows of data, M."""
        return len(self.targets)

    def gradients(self, positions: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        """Minibatch gradients (R, P) at positions (R, P) for rows (R, B); None takes all samples."""
        decay = self.weight_decay * positions
        if rows is not None:
            return self._gradients(positions, self.inputs[rows], self.targets[rows]) + decay
        width = max(max(s[0] for s in self.shapes), int(self.inputs[0].numel()))
        block = max(1, _BLOCK // (width * len(positions)))
        total = torch.zeros_like(positions)
        for x, y in zip(self.inputs.split(block), self.targets.split(block), strict=True):
            total += self._gradients(positions, x.unsqueeze(0), y.unsqueeze(0)) * (len(y) / self.samples)
        return total + decay

    def mean_and_noise(self) -> tuple[torch.Tensor, torch.Tensor]:
        """At the start, the mean gradient ḡ, shape (P,), and g_s − ḡ of each sample, shape (M, P)."""
        w = self.start
        parts = torch.arange(self.samples, device=w.device)[:, None].split(max(1, _BLOCK // len(w)))
        gradients = torch.cat([self.gradients(w.expand(len(part), -1), part) for part in parts])
        mean = gradients.mean(0)
        return mean, gradients - mean

    def losses(self, positions: torch.Tensor) -> torch.Tensor:
        """Loss over all samples at each place, shape (R,)."""
        total = 0.5 * self.weight_decay * positions.square().sum(1)
        block = max(1, _BLOCK // (len(positions) * self.inputs[0].numel()))
        for x, y in zip(self.inputs.split(block), self.targets.split(block), strict=True):
            logits = self.network.forward(self._parameters(positions), x.unsqueeze(0), keep=False)
            total = total - (y * torch.log_softmax(logits, -1)).sum((-1, -2)) / self.samples
        return total

    def hessian(self) -> torch.Tensor:
        """Hessian of the loss over all samples at the start, shape (P, P); see :mod:`nets.measure.curvature`.

        ReLU's kinks add curvature only where a sample lies on a kink; here none does.
        """
        there = copy.deepcopy(self.net)
        nn.utils.vector_to_parameters(self.start, there.parameters())
        H = hessian(as_subject(there, self.inputs, self.targets.argmax(1))).values
        return torch.from_numpy(H).to(self.start) + self.weight_decay * torch.eye(len(H)).to(self.start)

    def stepper(self, r: float, rate: float) -> Stepper:
        """Compiled steps of one replica at the learning rate ``rate`` in the box ``r``."""
        weights = [s for s in self.shapes if len(s) == 2]
        sizes = np.array([weights[0][1], *(s[0] for s in weights)])
        inputs = np.ascontiguousarray(self.inputs.flatten(1).cpu().numpy())
        labels = self.targets.argmax(1).cpu().numpy()
        start = self.start.cpu().numpy()
        biases, scratch = len(weights) < len(self.shapes), np.empty((len(sizes) + 2, int(sizes.max())))
        return partial(
            net_steps, start, r, rate, inputs, labels, sizes, biases, self.weight_decay, scratch,
            np.empty_like(start),
        )  # fmt: skip

    def _parameters(self, positions: torch.Tensor) -> list[torch.Tensor]:
        parts = positions.split([s.numel() for s in self.shapes], 1)
        return [part.reshape(len(positions), *s) for part, s in zip(parts, self.shapes, strict=True)]

    def _gradients(self, positions: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parameters = self._parameters(positions)
        p = torch.softmax(self.network.forward(parameters, x), -1)
        parts = self.network.backward(parameters, p.sub_(y).div_(x.shape[1]))
        return torch.cat([g.reshape(len(positions), -1) for g in parts], 1)


@dataclass(frozen=True, eq=False)
class LocalDynamics:
    """Frozen noise: each sample's gradient g_s as it is at the start w₀, plus a drift.

    The minibatch gradient at w₀ + Δ is mean_{s ∈ μ}(g_s − ḡ) + ``mean`` + ``hessian`` Δ. The drift is 0
    ("none"), ḡ ("linear"), or ḡ + HΔ ("quadratic"). Covariance C and higher moments of the noise are exactly
    those of the net at the start. ``noise`` holds g_s − ḡ, shape (M, P); ``start`` and ``mean`` have shape
    (P,), ``hessian`` (P, P).
    """

    start: torch.Tensor
    noise: torch.Tensor
    mean: torch.Tensor
    hessian: torch.Tensor | None
    attributes: dict[str, Attribute]

    @property
    def samples(self) -> int:
        """Rows of data, M."""
        return len(self.noise)

    def gradients(self, positions: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        """As :meth:`NetDynamics.gradients`."""
        drift = self.mean if self.hessian is None else self.mean + (positions - self.start) @ self.hessian
        return drift.expand_as(positions) if rows is None else self.noise[rows].mean(1) + drift

    def stepper(self, r: float, rate: float) -> Stepper:
        """As :meth:`NetDynamics.stepper`."""
        start, mean, frozen = (t.cpu().numpy() for t in (self.start, self.mean, self.noise))
        hessian = np.empty((0, 0)) if self.hessian is None else np.ascontiguousarray(self.hessian.cpu())
        return partial(local_steps, start, r, rate, frozen, mean, hessian, np.empty_like(start))


Dynamics: TypeAlias = NetDynamics | LocalDynamics


def net_dynamics(net: nn.Sequential, data: Data, *, weight_decay: float = 0.0) -> NetDynamics:
    """SGD of a net on the training rows of some data, started at the net's weights, in float64.

    The loss is the mean cross-entropy plus ½ λ |w|² over all parameters. A net that is not fully connected
    with ReLU between its layers, or a negative λ, is a ValueError.
    """
    if dense_biases(net) is None:
        raise ValueError(f"net {description(net)} must be fully connected with ReLU; see nets.models")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay={weight_decay:g} must not be negative")
    own = copy.deepcopy(net).double().to(data.train_inputs.device)
    targets = nn.functional.one_hot(data.train_labels, len(data.classes)).double()
    start = nn.utils.parameters_to_vector(own.parameters()).detach()
    attributes: dict[str, Attribute] = {
        "net": description(net), "data": data.name, "samples": data.samples, "parameters": len(start),
        "data_sha256": data.provenance.get("content_sha256", ""),
        "data_selected": data.provenance.get("selected", "all"),
        "weight_decay": float(weight_decay), "drift": "network",
    }  # fmt: skip
    shapes = tuple(p.shape for p in own.parameters())
    inputs = data.train_inputs.double()
    return NetDynamics(own, network(own), shapes, start, inputs, targets, float(weight_decay), attributes)


def local_dynamics(
    dynamics: NetDynamics, *, drift: Drift = "none", curvature: torch.Tensor | None = None
) -> LocalDynamics:
    """The model of a net around its start, with the noise of the samples there.

    ``drift`` "none" is free diffusion, "linear" adds the mean gradient at the start, "quadratic" adds the
    ``curvature`` too, shape (P, P), by default ``dynamics.hessian()``. Another drift is a ValueError.
    """
    if drift not in get_args(Drift):
        raise ValueError(f"drift={drift!r} must be 'none', 'linear' or 'quadratic'")
    mean, noise = dynamics.mean_and_noise()
    H = (dynamics.hessian() if curvature is None else curvature) if drift == "quadratic" else None
    kept = torch.zeros_like(mean) if drift == "none" else mean
    return LocalDynamics(dynamics.start, noise, kept, H, {**dynamics.attributes, "drift": drift})


def noise_and_curvature(dynamics: NetDynamics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At the start, the mean gradient (P,), the covariance C of one sample's gradient, and the Hessian H.

    C and H have shape (P, P). A minibatch of B drawn with replacement has the covariance C/B.
    """
    mean, noise = dynamics.mean_and_noise()
    C = noise.T @ noise / len(noise)
    return mean.cpu().numpy(), C.cpu().numpy(), dynamics.hessian().cpu().numpy()
