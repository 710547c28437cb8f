"""Outputs of one net or many nets of one shape, and the gradients behind them.

Fully connected ReLU nets are multiplied out by hand, all replicas in one batch of matrix products; any
other net goes through autograd, one replica after the other. A test in test_training.py compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import nn

from nets.layers import altered

#: Weights, and biases after each where there are any, in the order of ``net.parameters()``. With R replicas
#: every tensor has a leading axis of length R; one net alone has none.
Parameters: TypeAlias = Sequence[torch.Tensor]


def sample_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, ln(1 + Σ exp(z_c − z_label)), the sum over c ≠ label; (…, classes) → (…).

    In this form a tiny loss keeps its relative precision; −ln softmax is rounded to a multiple of the
    machine precision.
    """
    chosen = labels.unsqueeze(-1)
    others = (logits - logits.gather(-1, chosen)).exp_().scatter_(-1, chosen, 0.0)
    loss = others.sum(-1).log1p_()
    if not torch.isfinite(loss).all():  # exp overflowed: the loss is large, and −ln softmax is right
        loss = torch.where(torch.isinf(loss), -torch.log_softmax(logits, -1).gather(-1, chosen)[..., 0], loss)
    return loss


def network(net: nn.Sequential) -> Network:
    """The fast form where the net is fully connected with ReLU, else the general one."""
    biases = dense_biases(net)
    return AutogradNetwork(net) if biases is None else DenseNetwork(biases)


def dense_biases(net: nn.Sequential) -> bool | None:
    """Whether a fully connected ReLU net has biases; None if the net is of another kind.

    Subclasses of torch's own modules, and modules with hooks, are of another kind: they may do anything.
    """
    modules = list(net)
    if modules and type(modules[0]) is nn.Flatten and modules[0].start_dim == 1:
        modules = modules[1:]
    kinds = [nn.Linear if place % 2 == 0 else nn.ReLU for place in range(len(modules))]
    if type(net) is not nn.Sequential or [type(m) for m in modules] != kinds or len(modules) % 2 == 0:
        return None
    if any(altered(module) for module in net.modules()):
        return None
    biases = {m.bias is not None for m in modules[::2]}
    return biases.pop() if len(biases) == 1 else None


#: Slope before a ReLU from the slope after it, where its output is above a threshold.
_through_relu = torch.ops.aten.threshold_backward.default


@dataclass
class DenseNetwork:
    """z_l = a_l W_lᵀ (+ b_l), a_{l+1} = max(z_l, 0), by matrix products over all replicas at once."""

    biases: bool
    _activations: list[torch.Tensor] = field(default_factory=list)

    def forward(self, parameters: Parameters, inputs: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
        """Logits (N, classes) of inputs (N, …); with replicas (R, N, classes) of inputs (R or 1, N, …).

        ``keep`` what ``backward`` needs.
        """
        weights = parameters[::2] if self.biases else parameters
        single = weights[0].ndim == 2
        a = inputs.flatten(1 if single else 2)
        self._activations = [a]
        for l, W in enumerate(weights):
            z = torch.matmul(a, W.mT)
            if self.biases:
                z += parameters[2 * l + 1].unsqueeze(-2)
            if l + 1 < len(weights):
                a = z.relu_()
                if keep:
                    self._activations.append(a)
        return z

    def backward(self, parameters: Parameters, slope: torch.Tensor) -> list[torch.Tensor]:
        """Gradient of Σ slope · logits by each parameter, at the inputs of the last forward."""
        gradients: list[torch.Tensor] = []
        for _, a, dz in self._backwards(parameters, slope):
            if self.biases:
                gradients.append(dz.sum(-2))
            gradients.append(torch.matmul(dz.mT, a))
        return gradients[::-1]

    def descend(self, parameters: Parameters, slope: torch.Tensor, rate: float | torch.Tensor) -> None:
        """w ← w − rate × gradient of Σ slope · logits, in place, each product added where it belongs.

        ``rate`` is one number, or one for each replica.
        """
        slope, factor = (slope, -rate) if isinstance(rate, float) else (slope * rate.view(-1, 1, 1), -1.0)
        for at, a, dz in self._backwards(parameters, slope):
            if self.biases:
                parameters[at + 1].add_(dz.sum(-2), alpha=factor)
            W = parameters[at]
            add_product = W.addmm_ if W.ndim == 2 else W.baddbmm_
            add_product(dz.mT, a, alpha=factor)

    def _backwards(
        self, parameters: Parameters, slope: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """From the last layer: the place of its weights, what enters it, and the slope by what leaves it.

        The weights may change between two layers: the slope below is found first.
        """
        per_layer = 2 if self.biases else 1
        for l in range(len(parameters) // per_layer - 1, -1, -1):
            a, W, dz = self._activations[l], parameters[per_layer * l], slope
            if l:
                slope = _through_relu(torch.matmul(dz, W), a, 0)
            yield per_layer * l, a, dz


@dataclass
class AutogradNetwork:
    """Any Sequential, through ``torch.func.functional_call``."""

    net: nn.Sequential
    _outputs: list[tuple[list[torch.Tensor], torch.Tensor]] = field(default_factory=list)

    def forward(self, parameters: Parameters, inputs: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
        """As :meth:`DenseNetwork.forward`."""
        names, template = zip(*self.net.named_parameters(), strict=True)
        single = parameters[0].ndim == template[0].ndim
        self._outputs = []
        for r in range(1 if single else len(parameters[0])):
            own = [p if single else p[r] for p in parameters]
            x = inputs if single else inputs[min(r, len(inputs) - 1)]
            with torch.set_grad_enabled(keep):
                if keep:
                    own = [p.detach().requires_grad_() for p in own]
                logits = torch.func.functional_call(self.net, dict(zip(names, own, strict=True)), (x,))
            self._outputs.append((own, logits))
        stacked = [logits.detach() for _, logits in self._outputs]
        return stacked[0] if single else torch.stack(stacked)

    def backward(self, parameters: Parameters, slope: torch.Tensor) -> list[torch.Tensor]:
        """As :meth:`DenseNetwork.backward`."""
        single = slope.ndim == 2
        parts = [
            torch.autograd.grad(logits, own, slope if single else slope[r], retain_graph=True)
            for r, (own, logits) in enumerate(self._outputs)
        ]
        return list(parts[0]) if single else [torch.stack(g) for g in zip(*parts, strict=True)]


#: Logits from inputs, and the gradient of Σ slope · logits.
Network: TypeAlias = DenseNetwork | AutogradNetwork
