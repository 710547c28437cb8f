"""Layers and weights of a net: those that hold weights, descriptions, copies and digests."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from types import CellType, FunctionType, MethodType

import numpy as np
import torch
from torch import nn

from fpsolve.sweeps.store import digest, instructions
from nets.checks import is_whole

#: Attributes of every module, which hold its numbers, modules and hooks.
_INTERNAL = vars(nn.Module()).keys()


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
    if not is_whole(layer) or not 0 <= layer < len(layers):
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


def net_digest(net: nn.Module, within: tuple = ()) -> str:
    """The sha256 of all that a net computes with: its :func:`architecture`, parameters and buffers."""
    tensors = [(name, tensor) for name, tensor in (*net.named_parameters(), *net.named_buffers())]
    return hashlib.sha256(f"{architecture(net, within)} {_text(tensors)}".encode()).hexdigest()


def architecture(net: nn.Module, within: tuple = ()) -> str:
    """The sha256 of what a net is but for its numbers: classes, their methods, and settings, in order.

    Methods count as compiled: comments do not count, another version of Python or torch may. Functions that
    methods call by name are not looked at. The mode, training or not, counts where a method asks for it.
    Settings that lead back to a module of the net, or to what it stands ``within``, are not followed.
    """
    within = (*within, *net.modules())
    said = []
    for name, module in net.named_modules():
        kinds = [kind for kind in type(module).__mro__ if kind not in nn.Module.__mro__]
        own = [f"{k}={_text(v, within)}" for kind in kinds for k, v in vars(kind).items() if _counts(k, v)]
        settings = [f"{k}={_text(v, within)}" for k, v in sorted(vars(module).items()) if k not in _INTERNAL]
        if any("'training'" in text for text in own):  # such as Dropout
            settings.append(f"training={module.training}")
        said.append([name, type(module).__module__, type(module).__qualname__, own, settings])
    return hashlib.sha256(repr(said).encode()).hexdigest()


def call_digest(call: Callable) -> str:
    """The sha256 of what a function or a module computes with, such as a loss; see :func:`architecture`."""
    return hashlib.sha256(_text(call).encode()).hexdigest()


def _counts(key: str, value: object) -> bool:
    """Whether an attribute of a class says what its modules compute."""
    if isinstance(value, bool | int | float | str | tuple):
        return not key.startswith("__")
    return isinstance(value, FunctionType | staticmethod | classmethod | property)


def _text(value: object, within: tuple = ()) -> str:
    """A text that tells a setting, a function or a tensor from others, in every process."""
    if any(value is outer for outer in within):
        return "itself"
    if isinstance(value, torch.Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype} {tuple(value.shape)} {digest(numbers)}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return digest(value)
    if isinstance(value, nn.Module):
        return net_digest(value, within)
    said, parts = type(value).__qualname__, []
    if isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, list | tuple):
        parts = [*value]
    elif isinstance(value, dict):
        parts = [*value.items()]
    elif isinstance(value, property):
        parts = [value.fget, value.fset]
    elif isinstance(value, staticmethod | classmethod | MethodType):
        parts = [value.__func__, getattr(value, "__self__", None)]
    elif isinstance(value, FunctionType):
        said = instructions(value.__code__)
        parts = [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__]
    elif isinstance(value, CellType):
        parts = [value.cell_contents]
    elif type(value).__repr__ is object.__repr__:
        parts = [*getattr(value, "__dict__", {}).items()]
    else:
        return getattr(value, "__qualname__", None) or repr(value)
    return f"{said}[{', '.join(_text(part, (*within, value)) for part in parts)}]"


def altered(module: nn.Module) -> bool:
    """Whether hooks or a ``forward`` of its own change what a module of its type does."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(vars(module)[name] for name in hooks)


def _shape(module: nn.Linear | nn.Conv2d) -> str:
    if isinstance(module, nn.Linear):
        return f"{module.in_features}-{module.out_features}"
    height, width = module.kernel_size
    return f"{module.in_channels}×{height}×{width}×{module.out_channels}"
