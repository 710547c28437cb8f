"""Fast losses and per-sample gradients of a flat ``nn.Sequential`` with cross-entropy, by outer products.

A flat net is a Sequential whose weights are those of Linear and Conv2d layers. What comes before the first
layer that varies does not depend on its weights and is computed once. Gradients of single samples are sums of
outer products δ hᵀ, from one backward pass for all samples. Where one layer varies, its output at W + t p is
z + t (p a) with z and a fixed: a whole profile along p costs one product.

Any other model or loss: :mod:`nets.measure.subject`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeGuard, cast

import torch
from torch import nn
from torch.nn import functional

from nets.layers import altered
from nets.training.networks import network, sample_losses

Reduction = Literal["mean", "none"]
#: Bytes of gradients held at once.
MEMORY = 128_000_000
#: Numbers in the largest intermediate result of losses; small enough to stay in a processor's cache. A
#: convolution is faster on more samples at once.
BLOCK = 1 << 18
CONVOLUTIONAL_BLOCK = 1 << 20
#: Modules without a second derivative by their inputs, almost everywhere.
PIECEWISE_LINEAR = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


@dataclass(frozen=True, eq=False)
class Tail:
    """A flat net from the first layer that varies on, with that part's inputs.

    ``net`` begins with that layer (the whole net where all weights vary), ``inputs`` (M, …) are what the part
    before makes of the data, ``labels`` (M,). ``names`` are the weights that vary, as ``net`` calls them.
    """

    net: nn.Sequential
    inputs: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]

    @cached_property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The weights that vary."""
        named = dict(self.net.named_parameters())
        return tuple(named[name] for name in self.names)

    @property
    def one_matrix(self) -> bool:
        """Whether the weights are one matrix that acts on vectors, so that gradients are outer products."""
        return self.shiftable and isinstance(self.net[0], nn.Linear)

    @property
    def shiftable(self) -> bool:
        """Whether :meth:`along` applies: one layer varies, its biases do not."""
        return self.names == ("0.weight",)

    @property
    def piecewise_linear(self) -> bool:
        """Whether logits are piecewise linear in these weights: one layer, ReLU and pooling after it."""
        own = {f"0.{name}" for name, _ in self.net[0].named_parameters()}
        return own.issuperset(self.names) and all(type(m) in PIECEWISE_LINEAR for m in self.net)

    def gradients(self, *, memory: int = MEMORY) -> Iterator[torch.Tensor]:
        """Gradients of single samples in blocks of shape (m, N) that take about ``memory`` bytes each."""
        block = self._fitting(memory, 1)
        for inputs, labels in zip(self.inputs.split(block), self.labels.split(block), strict=True):
            logits, pull_back = self._pull_back(inputs)
            yield pull_back(residuals(logits, labels))

    def logit_gradients(self, *, memory: int = MEMORY) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks of logits, shape (m, K), and of their gradients, shape (m, K, N)."""
        with torch.no_grad():
            classes = self.net(self.inputs[:1]).shape[1]
        for inputs in self.inputs.split(self._fitting(memory, classes)):
            logits, pull_back = self._pull_back(inputs)
            rows = [pull_back(unit.expand_as(logits)) for unit in torch.eye(classes).to(logits)]
            yield logits, torch.stack(rows, dim=1)

    def factors(self, *, samples: int = 5_000) -> Iterator[tuple[torch.Tensor, ...]]:
        """Where one matrix varies, z = W h: blocks of h, logits, ∂ logits / ∂ z (m, K, outputs), labels."""
        for inputs, labels in zip(self.inputs.split(samples), self.labels.split(samples), strict=True):
            with torch.no_grad():
                z = self.net[0](inputs)
            with torch.enable_grad():
                logits = self.net[1:](z.requires_grad_())
            units = torch.eye(logits.shape[1]).to(logits)
            rows = [torch.autograd.grad(logits, z, u.expand_as(logits), retain_graph=True)[0] for u in units]
            yield inputs, logits.detach(), torch.stack(rows, dim=1), labels

    def _fitting(self, memory: int, rows: int) -> int:
        """How many samples of so many gradients each fit into memory."""
        size = sum(p.numel() for p in self.parameters)
        return max(1, memory // (rows * size * self.inputs.element_size()))

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
                delta = delta[:, :, None] if isinstance(module, nn.Linear) else delta.flatten(2)
                if id(module.weight) in varying:
                    parts.append(torch.einsum("mol,mil->moi", delta, _places(module, source)).flatten(1))
                if module.bias is not None and id(module.bias) in varying:
                    parts.append(delta.sum(2))
            return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

        return logits.detach(), pull_back

    @cached_property
    def outputs(self) -> torch.Tensor:
        """The first layer's, (M, …)."""
        with torch.no_grad():
            return torch.cat([self.net[0](x) for x in self.inputs.split(4096)])

    def along(self, p: torch.Tensor, t: torch.Tensor, *, slopes: bool, reduction: Reduction) -> torch.Tensor:
        """Loss, or its derivative by t, at w₀ + t p for p (K, N) and t (K, T): shape (K, T) or (K, T, M).

        Applies where :attr:`shiftable`. Means are summed in float64; derivatives are by forward mode.
        """
        (K, T), M = t.shape, len(self.labels)
        shape, dtype = ((K, T, M), self.inputs.dtype) if reduction == "none" else ((K, T), torch.float64)
        result = torch.zeros(shape, dtype=dtype, device=self.inputs.device)
        kind = self._slopes if slopes else self._losses
        with torch.no_grad():
            for ks, rows in self._blocks(K, T):
                moved = self._moved(p[ks], rows)  # (k, m, …)
                ones = [1] * (moved.ndim - 1)
                z = self.outputs[rows] + t[ks].view(-1, T, *ones) * moved.unsqueeze(1)
                values = kind(z, moved, rows)  # (k, T, m)
                if reduction == "none":
                    result[ks, :, rows] = values
                else:
                    result[ks] += values.sum(-1, dtype=torch.float64) / M
        return result

    def _losses(self, z: torch.Tensor, moved: torch.Tensor, rows: slice) -> torch.Tensor:
        labels = self.labels[rows].expand(z.shape[:3]).reshape(-1)
        return sample_losses(self.net[1:](z.flatten(0, 2)), labels).view(z.shape[:3])

    def _slopes(self, z: torch.Tensor, moved: torch.Tensor, rows: slice) -> torch.Tensor:
        tangent = moved.unsqueeze(1).expand(z.shape).flatten(0, 2)
        logits, change = torch.func.jvp(self.net[1:], (z.flatten(0, 2),), (tangent,))  # type: ignore[misc]
        p = torch.softmax(logits, -1)
        chosen = self.labels[rows].expand(z.shape[:3]).reshape(-1, 1)
        return (p * (change - change.gather(1, chosen))).sum(-1).view(z.shape[:3])

    def _moved(self, p: torch.Tensor, rows: slice) -> torch.Tensor:
        """What the first layer's outputs gain per unit of t, shape (k, m, …)."""
        a, layer = self.inputs[rows], cast("nn.Linear | nn.Conv2d", self.net[0])
        shape = layer.weight.shape
        if isinstance(layer, nn.Linear):
            return torch.matmul(a, p.view(len(p), *shape).mT)
        filters = p.reshape(len(p) * shape[0], *shape[1:])
        out = functional.conv2d(a, filters, None, layer.stride, layer.padding, layer.dilation)
        return out.view(len(a), len(p), shape[0], *out.shape[2:]).transpose(0, 1)

    def _blocks(self, K: int, T: int) -> Iterator[tuple[slice, slice]]:
        """Slices of directions and of samples whose intermediate results hold about ``BLOCK`` numbers."""
        M, width = len(self.labels), math.prod(self.outputs.shape[1:])
        block = BLOCK if isinstance(self.net[0], nn.Linear) else CONVOLUTIONAL_BLOCK
        m = max(1, min(M, block // (width * T)))
        k = max(1, min(K, block // (width * T * m)))
        for start in range(0, M, m):
            for first in range(0, K, k):
                yield slice(first, min(first + k, K)), slice(start, min(start + m, M))

    def losses(self, vectors: torch.Tensor) -> torch.Tensor:
        """Where all weights of a net vary: each sample's loss at many vectors (K, N), shape (K, M)."""
        sizes = [p.numel() for p in self.parameters]
        parts: list[torch.Tensor] = []
        function = network(self.net)
        with torch.no_grad():
            for some in vectors.split(max(1, BLOCK // max(1, *sizes))):
                pairs = zip(some.split(sizes, 1), self.parameters, strict=True)
                weights, values = [w.reshape(len(some), *p.shape) for w, p in pairs], []
                for x, y in zip(self.inputs.split(1024), self.labels.split(1024), strict=True):
                    logits = function.forward(weights, x.unsqueeze(0), keep=False)
                    values.append(sample_losses(logits, y.expand(len(some), -1)))
                parts.append(torch.cat(values, 1))
        return torch.cat(parts)


def flat(net: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether the fast forms know a model: a Sequential of Linear, Conv2d and modules without weights.

    Every layer comes once, none works in place, none is a subclass of torch's own or has hooks, and
    convolutions have ``groups=1`` and zeros as padding.
    """
    return (
        type(net) is nn.Sequential
        and not any(altered(module) for module in net.modules())
        and [name for name, _ in net.named_children()] == [str(place) for place in range(len(net))]
        and len({id(p) for m in net for p in m.parameters()}) == sum(len(list(m.parameters())) for m in net)
        and all(_known(module) for module in net)
    )


def _known(module: nn.Module) -> bool:
    """Whether a module of a flat net is one the fast forms know."""
    if isinstance(module, PIECEWISE_LINEAR) and type(module) not in PIECEWISE_LINEAR:
        return False
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    bare = not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
    return isinstance(module, nn.Linear) or (bare and not getattr(module, "inplace", False))


def _places(module: nn.Linear | nn.Conv2d, source: torch.Tensor) -> torch.Tensor:
    """A layer's inputs at each place where its weights act, (m, inputs, places)."""
    if isinstance(module, nn.Linear):
        return source[:, :, None]
    padding = cast(tuple[int, ...], module.padding)
    return functional.unfold(source, module.kernel_size, module.dilation, padding, module.stride)


def residuals(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Derivative of the cross-entropy of each sample by its logits, p − e_label, to full relative precision.

    Logits have shape (m, K), labels (m,); the result has shape (m, K).
    """
    label = labels[:, None]
    others = functional.softmax(logits, dim=1).scatter(1, label, 0.0)
    # p_label − 1 as the others' sum: it does not cancel where the net is sure.
    return others.scatter(1, label, -others.sum(1, keepdim=True))
