"""How a run is trained, checked before any step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nets.training.batches import Sampling
from nets.training.optimizers import (
    GradientDescent,
    Optimizer,
    OptimizerName,
    check_option,
    named_optimizer,
    recorded_optimizer,
    stored_optimizer,
)  # fmt: skip

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Settings:
    """The options of a run, see :func:`nets.training.train.sgd`; ``seed`` is the recorded form of ``rng``."""

    learning_rate: float
    batch_size: int
    optimizer: OptimizerName
    momentum: float
    noise: float
    sampling: Sampling
    seed: str
    dtype: Precision
    divergence: float

    @property
    def rule(self) -> Optimizer:
        """The optimiser with its numbers."""
        return stored_optimizer(self.optimizer, momentum=self.momentum, noise=self.noise)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.float64 if self.dtype == "float64" else torch.float32


def checked_settings(
    samples: int,
    *,
    learning_rate: float,
    batch_size: int | None,
    optimizer: OptimizerName,
    momentum: float | None,
    noise: float | None,
    sampling: Sampling,
    seed: str,
    dtype: Precision,
    divergence: float,
) -> Settings:
    """Settings that make sense for so many training rows, or an error that names what does not.

    Parameters
    ----------
    samples : int
    learning_rate, batch_size, optimizer, momentum, noise, sampling, seed, dtype, divergence
        See :func:`nets.training.train.sgd`.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
    """
    rule = named_optimizer(optimizer, momentum=momentum, noise=noise)
    check_option("sampling", sampling, ("without_replacement", "with_replacement"))
    check_option("dtype", dtype, ("float32", "float64"))
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate={learning_rate:g} must be positive and finite")
    if isinstance(rule, GradientDescent):
        if batch_size not in (None, samples):
            raise ValueError(
                f"batch_size={batch_size}: optimizer={optimizer!r} uses all {samples} samples; leave it out"
            )
        batch_size = samples
    if not is_whole(batch_size) or not 1 <= batch_size <= samples:  # type: ignore[operator]
        raise ValueError(
            f"batch_size={batch_size} must be a whole number from 1 to the {samples} training rows"
        )
    if not divergence > 0:
        raise ValueError(f"divergence={divergence:g} must be positive")
    return Settings(
        float(learning_rate), int(batch_size), **recorded_optimizer(rule),  # type: ignore[arg-type]
        sampling=sampling, seed=seed, dtype=dtype, divergence=float(divergence),
    )  # fmt: skip


def check_epochs(epochs: int) -> None:
    """Raise ValueError unless ``epochs`` is a positive whole number."""
    if not is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be a positive whole number")


def is_whole(value: object) -> bool:
    """Whether a number is a whole one, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def checked_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={str(device)!r} cannot be used here: {error}") from error
    return torch.device(device)
