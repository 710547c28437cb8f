"""The papers' networks as plain ``torch.nn.Sequential``, with seeded initial weights."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import nn

from fpsolve.symbols.counter_rng import Seed, random_key

Initial = Literal["torch", "he"]


def fully_connected(
    sizes: Sequence[int], *, bias: bool = False, rng: Seed = None, initial: Initial = "torch"
) -> nn.Sequential:
    """A net of fully connected layers with ReLU between them; the last layer's outputs are logits.

    ``fully_connected((784, 50, 50, 10))`` is the net of the main text, (784, 50, 50, 50, 50, 10) the one
    with four hidden layers, (784, H, H, 10) those of Fig. 6. Inputs of any shape are flattened.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, classes. Two numbers make logistic regression.
    bias : bool
        The papers' nets have none.
    rng : int, SeedSequence, Generator or str, optional
        Seed of the initial weights.
    initial : {"torch", "he"}
        Uniform in ±1/√fan_in, the habit of torch, which the paper used (biases too); or normal with
        variance 2/fan_in (He), biases 0.

    Returns
    -------
    nn.Sequential
        Weights of layer i: shape (sizes[i + 1], sizes[i]), float32.

    Raises
    ------
    ValueError
        If sizes or ``initial`` make no sense.

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), Methods; its preprint, arXiv:2001.01678. (PNAS prints the deeper
    net as 784 × 50 × 50 × 50 × 10 and says four hidden layers; the preprint prints four.)
    """
    sizes = [int(n) for n in sizes]
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes={tuple(sizes)} must be at least two positive numbers: inputs, …, classes")
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i:
            layers.append(nn.ReLU())
        layers.append(nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias))
    return initialised(nn.Sequential(*layers), rng=rng, initial=initial)


def logistic(features: int, classes: int, *, bias: bool = True, rng: Seed = None) -> nn.Sequential:
    """Multinomial logistic regression: one layer from features to logits.

    Parameters
    ----------
    features, classes : int
    bias : bool
    rng : int, SeedSequence, Generator or str, optional

    Returns
    -------
    nn.Sequential
    """
    return fully_connected((features, classes), bias=bias, rng=rng)


def lenet_mnist(*, bias: bool = False, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """The convolutional net for MNIST: 1×3×3×16, 16×5×5×32, each padded and pooled 2×2, then 1568-10.

    Parameters
    ----------
    bias : bool
        The paper speaks of no bias for its fully connected nets only; none here either by default.
    rng, initial
        As in :func:`fully_connected`.

    Returns
    -------
    nn.Sequential
        For inputs (N, 1, 28, 28).

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), Methods. (The preprint's supplement prints 1586 once; two
    poolings of 28 × 28 leave 7 · 7 · 32 = 1568.)
    """
    net = nn.Sequential(
        _convolution(1, 16, 3, bias, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        _convolution(16, 32, 5, bias, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.utils.skip_init(nn.Linear, 1568, 10, bias=bias),
    )  # fmt: skip
    return initialised(net, rng=rng, initial=initial)


def lenet_cifar10(*, bias: bool = False, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """The convolutional net for CIFAR-10: 3×5×5×6, 6×5×5×16, each pooled 2×2, then 400-120-84-10.

    Parameters
    ----------
    bias, rng, initial
        As in :func:`lenet_mnist`.

    Returns
    -------
    nn.Sequential
        For inputs (N, 3, 32, 32).

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), Methods.
    """
    net = nn.Sequential(
        _convolution(3, 6, 5, bias), nn.ReLU(), nn.MaxPool2d(2),
        _convolution(6, 16, 5, bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.utils.skip_init(nn.Linear, 400, 120, bias=bias), nn.ReLU(),
        nn.utils.skip_init(nn.Linear, 120, 84, bias=bias), nn.ReLU(),
        nn.utils.skip_init(nn.Linear, 84, 10, bias=bias),
    )  # fmt: skip
    return initialised(net, rng=rng, initial=initial)


def initialised(net: nn.Sequential, *, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """Draw new weights for every layer of a net, in place; the same seed gives the same weights.

    Parameters
    ----------
    net : nn.Sequential
    rng, initial
        As in :func:`fully_connected`. Torch's own generator is neither used nor changed.

    Returns
    -------
    nn.Sequential
        The net given.
    """
    if initial not in ("torch", "he"):
        raise ValueError(f"initial={initial!r} must be 'torch' or 'he'")
    generator = np.random.default_rng(random_key(rng))
    with torch.no_grad():
        for _, layer in weight_layers(net):
            weight = layer.weight
            fan_in = weight[0].numel()
            bound = 1 / math.sqrt(fan_in)
            if initial == "torch":
                values = generator.uniform(-bound, bound, size=tuple(weight.shape))
            else:
                values = generator.normal(scale=math.sqrt(2) * bound, size=tuple(weight.shape))
            weight.copy_(torch.from_numpy(values))
            if layer.bias is not None:
                size = layer.bias.shape
                drawn = (
                    generator.uniform(-bound, bound, size=tuple(size))
                    if initial == "torch"
                    else np.zeros(size)
                )
                layer.bias.copy_(torch.from_numpy(drawn))
    return net


def weight_layers(net: nn.Sequential) -> list[tuple[int, nn.Linear | nn.Conv2d]]:
    """The layers that hold weights, in order, each with its place in the net.

    ``layer=1`` anywhere in this package is the second of these: in (784, 50, 50, 10) the 50 × 50 weights
    between the hidden layers.

    Parameters
    ----------
    net : nn.Sequential

    Returns
    -------
    list of (int, Linear or Conv2d)

    Raises
    ------
    TypeError
        If the net is no Sequential, or has weights elsewhere than in Linear and Conv2d layers.
    """
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"a net is an nn.Sequential of layers, not {type(net).__name__}; see nets.models")
    layers: list[tuple[int, nn.Linear | nn.Conv2d]] = []
    for place, module in enumerate(net):
        if isinstance(module, nn.Linear | nn.Conv2d):
            layers.append((place, module))
        elif any(True for _ in module.parameters()):
            raise TypeError(f"module {place} ({type(module).__name__}) holds weights; use Linear and Conv2d")
    return layers


def checked_layer(net: nn.Sequential, layer: int) -> nn.Linear | nn.Conv2d:
    """The layer of that number.

    Parameters
    ----------
    net : nn.Sequential
    layer : int
        Counts the layers that hold weights, from 0.

    Returns
    -------
    Linear or Conv2d

    Raises
    ------
    ValueError
        If there is none; the message lists the layers.
    """
    layers = weight_layers(net)
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer < len(layers):
        there = ", ".join(f"{i}: {_shape(module)}" for i, (_, module) in enumerate(layers))
        raise ValueError(f"layer={layer!r} does not exist; the net's layers are {there}")
    return layers[layer][1]


def description(net: nn.Sequential) -> str:
    """The net in a few words, such as ``784-50-50-10`` or ``1×3×3×16, pool, 16×5×5×32, pool, 1568-10``.

    Parameters
    ----------
    net : nn.Sequential

    Returns
    -------
    str
    """
    words: list[str] = []
    for module in net:
        if isinstance(module, nn.Linear):
            chained = words and words[-1].endswith(f"-{module.in_features}")
            if chained:
                words[-1] += f"-{module.out_features}"
            else:
                words.append(_shape(module))
        elif isinstance(module, nn.Conv2d):
            words.append(_shape(module))
        elif not isinstance(module, nn.Flatten | nn.ReLU):
            words.append("pool" if isinstance(module, nn.MaxPool2d) else type(module).__name__)
    biased = any(module.bias is not None for _, module in weight_layers(net))
    return ", ".join(words) + (", bias" if biased else "")


def with_parameters(net: nn.Sequential, parameters: Iterable[torch.Tensor]) -> nn.Sequential:
    """A net of the same layers with other weights.

    Parameters
    ----------
    net : nn.Sequential
        Not changed, and nothing of its weights is shared.
    parameters : iterable of Tensor
        In the order of ``net.parameters()``; the new net holds these very tensors.

    Returns
    -------
    nn.Sequential
    """
    given = iter(parameters)
    modules = []
    for module in net:
        own = copy.copy(module)
        own._parameters = {
            name: None if p is None else nn.Parameter(next(given)) for name, p in module._parameters.items()
        }
        modules.append(own)
    return nn.Sequential(*modules)


def weights_digest(net: nn.Sequential) -> str:
    """The sha256 of a net's parameters, in hexadecimal.

    Parameters
    ----------
    net : nn.Sequential

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    for parameter in net.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _convolution(inputs: int, outputs: int, kernel: int, bias: bool, *, padding: int = 0) -> nn.Module:
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, padding=padding, bias=bias)


def _shape(module: nn.Linear | nn.Conv2d) -> str:
    if isinstance(module, nn.Linear):
        return f"{module.in_features}-{module.out_features}"
    height, width = module.kernel_size
    return f"{module.in_channels}×{height}×{width}×{module.out_channels}"
