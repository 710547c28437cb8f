"""Outputs of a model, one row for each sample: what training and measurements ask of every model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Samples on which a model is tried; and how many of them one by one.
TRIED, ALONE = 64, 8


#: Why a model is refused whose outputs for some samples depend on the others.
_MIXED = (
    "the outputs of a sample change with the others beside it (statistics of the batch?): "
    "samples must not influence each other"
)


def checked_outputs(model: nn.Module, given: Tensor) -> Tensor:
    """Outputs for some samples; a ValueError where they are no numbers for each sample on its own.

    The model asks for no gradients.
    """
    x = given.clone()
    held = [b.clone() for b in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        with said(f"the model fails on inputs {tuple(x.shape)} of {x.dtype}"), torch.enable_grad():
            outputs = model(x)
        drawn = not torch.equal(state, torch.random.get_rng_state())
    if not (isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.shape[:1] == x.shape[:1]):
        raise ValueError(
            f"the model gives {kind(outputs)} for {len(x)} samples; wrap it in a module that returns "
            "one tensor of real numbers (M, …)"
        )
    if outputs.requires_grad:
        raise ValueError(
            "the outputs depend on weights that a copy of the model does not hold: a forward or a hook "
            "uses a module from outside"
        )
    if not torch.equal(x.nan_to_num(), given.nan_to_num()):
        raise ValueError("the model changes its inputs in place: give one that leaves them")
    if drawn or not close(model(x), outputs):
        raise ValueError(
            "the model draws random numbers, as Dropout in training mode does: take model.eval(), or leave "
            "these layers out"
        )
    with said("the model fails on one sample alone"):
        alone = torch.cat([model(some) for some in x[:ALONE].split(1)])
    if not close(alone, outputs[:ALONE]):
        raise ValueError(_MIXED)
    if not all(map(torch.equal, held, model.buffers())):
        raise ValueError("the model changes its buffers (running statistics?): take model.eval()")
    return outputs


def check_block(model: nn.Module, block: Tensor) -> None:
    """ValueError where a model mixes samples when as many as these are taken at once."""
    every = model(block)
    if not all(close(every[rows], model(block[rows])) for rows in (slice(TRIED), slice(-TRIED, None))):
        raise ValueError(_MIXED)


def warn_of_probabilities(outputs: Tensor, stacklevel: int) -> None:
    """A UserWarning where logits (M, K, …) are probabilities, as behind a softmax."""
    if outputs.shape[1] > 1 and outputs.min() >= 0 and bool((outputs.sum(1) - 1).abs().max() < 1e-3):
        warnings.warn(
            "the outputs are probabilities, and this loss takes logits or logarithms (a cross-entropy has "
            "its own softmax): leave out the last layer's softmax",
            stacklevel=stacklevel + 1,
        )


@contextmanager
def said(what: str, error_kind: type[Exception] = ValueError) -> Iterator[None]:
    """Errors come as one sentence, with the first line of the error behind it."""
    try:
        yield
    except Exception as error:
        raise error_kind(f"{what}: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def kind(value: object) -> str:
    """What a value is, for messages."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are one, but for rounding on the scale of the largest number."""
    if found.shape != expected.shape:
        return False
    scale = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().amax()) if expected.numel() else 0.0
    bound = torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(found, expected, rtol=bound, atol=bound * scale, equal_nan=True)
