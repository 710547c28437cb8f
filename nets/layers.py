"""Layers and weights of a net: those that hold weights, descriptions, copies and digests."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from types import FunctionType

import numpy as np
import torch
from torch import nn

from fpsolve.sweeps.store import digest, instructions

#: What every module has, and what of a class makes a net another one.
_INTERNAL = vars(nn.Module()).keys() - {"training"}
_PLAIN = (FunctionType, staticmethod, classmethod, property, bool, int, float, str, tuple)


def weight_layers(net: nn.Sequential) -> list[tuple[int, nn.Linear | nn.Conv2d]]:
    """The layers that hold weights, in order, each with its place in the net.

    ``layer=1`` anywhere in this package is the second of these: in (784, 50, 50, 10) the 50 × 50 weights
    between the hidden layers. A net that is no Sequential, or that has weights elsewhere than in Linear and
    Conv2d layers, is a TypeError.
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
    """The layer of a number, which counts the layers that hold weights from 0.

    Where there is no such layer, a ValueError lists the layers.
    """
    layers = weight_layers(net)
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer < len(layers):
        there = ", ".join(f"{i}: {_shape(module)}" for i, (_, module) in enumerate(layers))
        raise ValueError(f"layer={layer!r} does not exist; the net's layers are {there}")
    return layers[layer][1]


def description(net: nn.Sequential) -> str:
    """The net in a few words, such as ``784-50-50-10`` or ``1×3×3×16, pool, 16×5×5×32, pool, 1568-10``."""
    words: list[str] = []
    for module in net:
        if isinstance(module, nn.Linear) and words and words[-1].endswith(f"-{module.in_features}"):
            words[-1] += f"-{module.out_features}"
        elif isinstance(module, nn.Linear | nn.Conv2d):
            words.append(_shape(module))
        elif not isinstance(module, nn.Flatten | nn.ReLU):
            words.append("pool" if isinstance(module, nn.MaxPool2d) else type(module).__name__)
    biased = any(module.bias is not None for _, module in weight_layers(net))
    return ", ".join(words) + (", bias" if biased else "")


def with_parameters(net: nn.Sequential, parameters: Iterable[torch.Tensor]) -> nn.Sequential:
    """A net of the same layers that holds these very tensors, in the order of ``net.parameters()``.

    The net given is not changed, and none of its weights is shared.
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


def net_digest(net: nn.Module) -> str:
    """The sha256 of all that a net computes with: its :func:`architecture`, parameters and buffers."""
    found = hashlib.sha256(architecture(net).encode())
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        found.update(f"{name} {_text(tensor)}".encode())
    return found.hexdigest()


def architecture(net: nn.Module) -> str:
    """The sha256 of what a net is but for its numbers: classes, their methods and settings, in order.

    Methods count as compiled, so that comments do not count and another version of Python does. A setting
    without a text of its own, such as an object, gives a digest that no other process gives.
    """
    said = []
    for name, module in net.named_modules():
        kinds = [kind for kind in type(module).__mro__ if kind not in nn.Module.__mro__]
        own = [(k, v) for kind in kinds for k, v in vars(kind).items() if isinstance(v, _PLAIN)]
        settings = [(k, v) for k, v in vars(module).items() if k not in _INTERNAL]
        texts = sorted(f"{key}={_text(value)}" for key, value in own + settings)
        said.append([name, type(module).__module__, type(module).__qualname__, *texts])
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _text(value: object) -> str:
    """A text that tells a setting, a function or a tensor from others."""
    if isinstance(value, torch.Tensor):
        numbers = value.detach().cpu().contiguous()
        return f"{value.dtype} {tuple(value.shape)} {digest(numbers.reshape(-1).view(torch.uint8))}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, property):
        return _text((value.fget, value.fset))
    value = getattr(value, "__func__", value)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return instructions(value.__code__) + _text([*cells, value.__defaults__, value.__kwdefaults__])
    return getattr(value, "__qualname__", None) or repr(value)


def _shape(module: nn.Linear | nn.Conv2d) -> str:
    if isinstance(module, nn.Linear):
        return f"{module.in_features}-{module.out_features}"
    height, width = module.kernel_size
    return f"{module.in_channels}×{height}×{width}×{module.out_channels}"
