"""The papers' networks as plain ``torch.nn.Sequential``, with seeded initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from fpsolve.symbols.counter_rng import Seed, random_key
from nets.checks import check_option
from nets.layers import weight_layers

Initial = Literal["torch", "he"]


def fully_connected(
    sizes: Sequence[int], *, bias: bool = False, rng: Seed = None, initial: Initial = "torch"
) -> nn.Sequential:
    """A net of fully connected layers with ReLU between them; the last layer's outputs are logits.

    ``fully_connected((784, 50, 50, 10))`` is the net of the main text, (784, 50, 50, 50, 50, 10) the one with
    four hidden layers, (784, H, H, 10) those of Fig. 6. Inputs of any shape are flattened. A ValueError is
    raised if there are fewer than two sizes, a size below 1, or ``initial`` is unknown. Source: Feng, Tu,
    PNAS 118, e2015617118 (2021), Methods; its preprint, arXiv:2001.01678. (PNAS prints the deeper net as 784
    × 50 × 50 × 50 × 10 and says four hidden layers; the preprint prints four.)

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, classes. Two numbers make logistic regression.
    bias : bool
        The papers' nets have none.
    rng : int, SeedSequence, Generator or str, optional
        Seed of the initial weights.
    initial : {"torch", "he"}
        Uniform in ±1/√fan_in, torch's default, which the paper used (biases too); or normal with variance
        2/fan_in (He), biases 0.

    Returns
    -------
    nn.Sequential
        Weights of layer i: shape (sizes[i + 1], sizes[i]), float32.
    """
    sizes = [int(n) for n in sizes]
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes={tuple(sizes)} must be at least two positive numbers: inputs, …, classes")
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i:
            layers.append(nn.ReLU())
        layers.append(_linear(inputs, outputs, bias))
    return initialised(nn.Sequential(*layers), rng=rng, initial=initial)


def logistic(features: int, classes: int, *, bias: bool = True, rng: Seed = None) -> nn.Sequential:
    """Multinomial logistic regression: one layer from features to logits.

    Parameters
    ----------
    features, classes : int
        Numbers in one input, and logits.
    bias, rng
        As in :func:`fully_connected`; here with biases by default.

    Returns
    -------
    nn.Sequential
        The net of :func:`fully_connected` with the sizes (features, classes).
    """
    return fully_connected((features, classes), bias=bias, rng=rng)


def lenet_mnist(*, bias: bool = False, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """The convolutional net for MNIST: 1×3×3×16, 16×5×5×32, each padded and pooled 2×2, then 1568-10.

    Source: Feng, Tu, PNAS 118, e2015617118 (2021), Methods. (The preprint's supplement prints 1586 once; two
    poolings of 28 × 28 leave 7 · 7 · 32 = 1568.)

    Parameters
    ----------
    bias : bool
        The paper gives no biases to its fully connected nets and is silent on this one; none by default.
    rng, initial
        As in :func:`fully_connected`.

    Returns
    -------
    nn.Sequential
        For inputs (N, 1, 28, 28).
    """
    net = nn.Sequential(
        _convolution(1, 16, 3, bias, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        _convolution(16, 32, 5, bias, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), _linear(1568, 10, bias),
    )  # fmt: skip
    return initialised(net, rng=rng, initial=initial)


def lenet_cifar10(*, bias: bool = False, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """The convolutional net for CIFAR-10: 3×5×5×6, 6×5×5×16, each pooled 2×2, then 400-120-84-10.

    Source: Feng, Tu, PNAS 118, e2015617118 (2021), Methods.

    Parameters
    ----------
    bias, rng, initial
        As in :func:`lenet_mnist`.

    Returns
    -------
    nn.Sequential
        For inputs (N, 3, 32, 32).
    """
    net = nn.Sequential(
        _convolution(3, 6, 5, bias), nn.ReLU(), nn.MaxPool2d(2),
        _convolution(6, 16, 5, bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        _linear(400, 120, bias), nn.ReLU(), _linear(120, 84, bias), nn.ReLU(), _linear(84, 10, bias),
    )  # fmt: skip
    return initialised(net, rng=rng, initial=initial)


def initialised(net: nn.Sequential, *, rng: Seed = None, initial: Initial = "torch") -> nn.Sequential:
    """Draw new weights for every layer of a net, in place; the same seed gives the same weights.

    A ValueError is raised if ``initial`` is unknown.

    Parameters
    ----------
    net : nn.Sequential
        Of Linear and Conv2d layers, and layers without weights.
    rng, initial
        As in :func:`fully_connected`. Torch's own generator is neither used nor changed.

    Returns
    -------
    nn.Sequential
        The net given.
    """
    check_option("initial", initial, get_args(Initial))
    generator = np.random.default_rng(random_key(rng))
    with torch.no_grad():
        for _, layer in weight_layers(net):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for part in layer.parameters():  # weights, then biases if there are any
                if initial == "torch":
                    part.copy_(torch.from_numpy(generator.uniform(-bound, bound, size=tuple(part.shape))))
                elif part is layer.weight:
                    drawn = generator.normal(scale=math.sqrt(2) * bound, size=tuple(part.shape))
                    part.copy_(torch.from_numpy(drawn))
                else:
                    part.zero_()
    return net


def _linear(inputs: int, outputs: int, bias: bool) -> nn.Module:
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)


def _convolution(inputs: int, outputs: int, kernel: int, bias: bool, *, padding: int = 0) -> nn.Module:
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, padding=padding, bias=bias)
