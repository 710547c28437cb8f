"""The loss as a function of all weights of a net, or of one layer's, and its gradients sample by sample.

The loss is the mean cross-entropy of the net's logits. ``layer`` counts the layers that hold weights from 0,
as everywhere in this package; ``None`` means all weights. They are numbered as ``net.parameters()`` gives
them, each row by row. What comes before the layer does not depend on its weights and is computed once.

This module gives derivatives at the weights a net has; the loss at other weights, along a direction or at
many points, is :mod:`nets.measure.batched_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from nets.models import checked_layer, weight_layers

#: Bytes of gradients held at once.
MEMORY = 128_000_000
#: Modules without a second derivative by their inputs, almost everywhere.
PIECEWISE_LINEAR = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


@dataclass(frozen=True, eq=False)
class LayerLoss:
    """The part of a net from one layer on, with that part's inputs.

    Attributes
    ----------
    net : nn.Sequential
        Begins with the layer; the whole net where all weights vary.
    inputs : Tensor, shape (M, …)
        What the part before it makes of the data.
    labels : Tensor, shape (M,)
    parameters : tuple of nn.Parameter
        The weights that vary, N numbers together.
    names : tuple of str
        Their names in ``net``.
    layer : int or None
    """

    net: nn.Sequential
    inputs: torch.Tensor
    labels: torch.Tensor
    parameters: tuple[nn.Parameter, ...]
    names: tuple[str, ...]
    layer: int | None

    @classmethod
    def of(
        cls, net: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor, layer: int | None = None
    ) -> LayerLoss:
        """The loss of a net on data, as a function of one layer's weights or of all.

        Parameters
        ----------
        net : nn.Sequential
        inputs : Tensor, shape (M, …)
        labels : Tensor, int64, shape (M,)
        layer : int, optional

        Returns
        -------
        LayerLoss

        Raises
        ------
        ValueError
            If inputs and labels do not match, or there is no such layer.
        """
        if labels.ndim != 1 or len(inputs) != len(labels) or not len(labels):
            raise ValueError(
                f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)} must be M each, M > 0"
            )
        layers = weight_layers(net)
        if layer is None:
            named = dict(net.named_parameters())
            return cls(net, inputs, labels, tuple(named.values()), tuple(named), None)
        module = checked_layer(net, layer)
        place = layers[layer][0]
        rest = nn.Sequential(*list(net)[place:])
        named = dict(rest.named_parameters())
        own = {name: p for name, p in named.items() if any(p is q for q in module.parameters())}
        with torch.no_grad():
            features = torch.cat([net[:place](block) for block in inputs.split(10_000)])
        return cls(rest, features, labels, tuple(own.values()), tuple(own), layer)

    @property
    def size(self) -> int:
        """Number of weights N."""
        return sum(p.numel() for p in self.parameters)

    @property
    def samples(self) -> int:
        """Number of samples M."""
        return len(self.labels)

    @property
    def one_linear_layer(self) -> bool:
        """Whether the weights are one matrix acting on vectors, so that gradients are outer products."""
        return (
            self.layer is not None
            and isinstance(self.net[0], nn.Linear)
            and len(self.parameters) == 1
            and self.inputs.ndim == 2
        )

    @property
    def piecewise_linear(self) -> bool:
        """Whether logits are piecewise linear in these weights: one layer, ReLU and pooling after it."""
        return self.layer is not None and all(isinstance(m, PIECEWISE_LINEAR) for m in self.net)

    def split(self, samples: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels in blocks of so many samples."""
        yield from zip(self.inputs.split(samples), self.labels.split(samples), strict=True)

    def gradient(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean loss of some samples, shape (N,)."""
        chosen = [p.detach().requires_grad_() for p in self.parameters]
        logits = torch.func.functional_call(self.net, dict(zip(self.names, chosen, strict=True)), (inputs,))
        loss = functional.cross_entropy(logits, labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)])

    def gradients(self, *, memory: int = MEMORY) -> Iterator[torch.Tensor]:
        """Gradients of single samples in blocks of shape (m, N) that take about ``memory`` bytes each."""
        for inputs, labels in self.split(self._fitting(memory, 1)):
            logits, pull_back = self._pull_back(inputs)
            yield pull_back(residuals(logits, labels))

    def logit_gradients(self, *, memory: int = MEMORY) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks of probabilities p, shape (m, K), and of the gradients of the logits, shape (m, K, N)."""
        with torch.no_grad():
            classes = self.net(self.inputs[:1]).shape[1]
        for inputs, _ in self.split(self._fitting(memory, classes)):
            logits, pull_back = self._pull_back(inputs)
            rows = [pull_back(unit.expand_as(logits)) for unit in torch.eye(classes).to(logits)]
            yield functional.softmax(logits, dim=1), torch.stack(rows, dim=1)

    def output_blocks(
        self, *, samples: int = 5_000
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For one linear layer z = W h: blocks of h, logits, and ∂ logits / ∂ z, shape (m, K, outputs)."""
        for inputs, _ in self.split(samples):
            with torch.no_grad():
                z = self.net[0](inputs)
            z.requires_grad_()
            logits = self.net[1:](z)
            units = torch.eye(logits.shape[1]).to(logits)
            rows = [torch.autograd.grad(logits, z, u.expand_as(logits), retain_graph=True)[0] for u in units]
            yield inputs, logits.detach(), torch.stack(rows, dim=1)

    def _fitting(self, memory: int, rows: int) -> int:
        """How many samples of so many gradients each fit into memory."""
        return max(1, memory // (rows * self.size * self.inputs.element_size()))

    def _pull_back(self, inputs: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Logits, and the function that takes w (m, K) to Σ_c w_c ∂logit_c/∂θ of each sample, (m, N).

        One backward pass serves all samples: the gradient of a layer's weights is Σ δ hᵀ over the places
        where they act (one in a Linear layer), δ the derivative by the layer's outputs and h its inputs.
        """
        outputs: list[torch.Tensor] = []
        sources: list[tuple[nn.Linear | nn.Conv2d, torch.Tensor]] = []
        varying = {id(p) for p in self.parameters}
        z = inputs
        with torch.enable_grad():
            for module in self.net:
                source = z.detach()
                z = module(z)
                if isinstance(module, nn.Linear | nn.Conv2d):
                    if not outputs:
                        z = z.detach().requires_grad_()
                    if varying & {id(p) for p in module.parameters()}:
                        outputs.append(z)
                        sources.append((module, source))
        logits = z

        def pull_back(weights: torch.Tensor) -> torch.Tensor:
            deltas = torch.autograd.grad(logits, outputs, weights, retain_graph=True)
            parts = []
            for (module, source), delta in zip(sources, deltas, strict=True):
                delta, places = _places(module, source, delta)
                if id(module.weight) in varying:
                    parts.append(torch.einsum("mol,mil->moi", delta, places).flatten(1))
                if module.bias is not None and id(module.bias) in varying:
                    parts.append(delta.sum(2))
            return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

        return logits.detach(), pull_back


def _places(
    module: nn.Linear | nn.Conv2d, source: torch.Tensor, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """δ as (m, outputs, places) and the inputs at each place, (m, inputs, places)."""
    if isinstance(module, nn.Linear):
        if source.ndim != 2:
            raise ValueError(
                f"a Linear layer acts on {tuple(source.shape)}; flatten its inputs to (M, n) first"
            )
        return delta[:, :, None], source[:, :, None]
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError("per-sample gradients know Conv2d with groups=1 and a number of zeros as padding")
    patches = functional.unfold(source, module.kernel_size, module.dilation, module.padding, module.stride)
    return delta.flatten(2), patches


def residuals(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Derivative of the cross-entropy of each sample by its logits, p − e_label, to full relative precision.

    Parameters
    ----------
    logits : Tensor, shape (m, K)
    labels : Tensor, shape (m,)

    Returns
    -------
    Tensor, shape (m, K)
    """
    label = labels[:, None]
    others = functional.softmax(logits, dim=1).scatter(1, label, 0.0)
    # p_label − 1 as the others' sum: it does not cancel where the net is sure.
    return others.scatter(1, label, -others.sum(1, keepdim=True))
