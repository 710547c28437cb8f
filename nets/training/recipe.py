"""How a net is trained: every choice in one place, checked before any step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np
import torch

from nets.checks import check_option, check_whole
from nets.training.batches import Sampling
from nets.training.optimizers import GradientDescent, Optimizer, OptimizerName, Plain, named_optimizer

Precision = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained, for :func:`nets.sgd` and :func:`nets.replicas`; both take the fields by name too.

    Two recipes are equal if each step goes alike: ``epochs``, ``stop_at_loss``, ``device`` and ``threads`` do
    not count. A ValueError is raised if a field makes no sense.

    Parameters
    ----------
    learning_rate : float
        α, called η in the theory; one step lasts α in its time.
    batch_size : int
        B. An epoch has ⌊M/B⌋ minibatches. Left out for gradient descent, which uses all samples.
    epochs : int
        Epochs to train; of gradient descent an epoch is one step.
    optimizer : Optimizer
        ``Plain()``, ``Momentum(0.9)``, ``Adam()``, ``GradientDescent()``, ``IsotropicNoise(D)`` or
        ``FlatnessNoise(D)``, see :mod:`nets.training.optimizers`.
    sampling : {"without_replacement", "with_replacement"}
        See :func:`nets.training.batches.minibatches`.
    stop_at_loss : float, optional
        Stop after the first epoch whose training loss is not above this, to compare runs at equal loss.
        A warning says if it is not reached in ``epochs`` epochs.
    divergence : float
        A minibatch loss not below this has diverged.
    device : str or torch.device
        "cuda" trains there; on a GPU the last bits may change from run to run.
    threads : int or None
        Threads torch may use; None leaves its setting. Other numbers may give other last bits.
    """

    learning_rate: float
    batch_size: int | None = None
    epochs: int = field(compare=False)
    optimizer: Optimizer = field(default_factory=Plain)
    sampling: Sampling = "without_replacement"
    stop_at_loss: float | None = field(default=None, compare=False)
    divergence: float = 1e4
    dtype: Precision = "float32"
    device: str | torch.device = field(default="cpu", compare=False)
    threads: int | None = field(default=1, compare=False)

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if not (isinstance(rate, int | float | np.number) and math.isfinite(rate) and rate > 0):
            raise ValueError(f"learning_rate={rate} must be positive and finite")
        check_whole("epochs", self.epochs)
        if not isinstance(self.optimizer, Optimizer):
            raise ValueError(f"optimizer={self.optimizer!r} must be one such as Plain() or Momentum(0.9)")
        check_option("sampling", self.sampling, get_args(Sampling))
        check_option("dtype", self.dtype, get_args(Precision))
        if not self.divergence > 0:
            raise ValueError(f"divergence={self.divergence:g} must be positive")
        object.__setattr__(self, "learning_rate", float(rate))
        object.__setattr__(self, "divergence", float(self.divergence))

    def for_samples(self, samples: int) -> Recipe:
        """The recipe for so many training rows; a ValueError if ``batch_size`` does not fit them."""
        size = self.batch_size
        if isinstance(self.optimizer, GradientDescent):
            if size not in (None, samples):
                raise ValueError(
                    f"batch_size={size}: optimizer={self.optimizer.name!r} uses all {samples} samples; "
                    "leave it out"
                )
            size = samples
        check_whole("batch_size", size, samples, f"the {samples} training rows")
        return replace(self, batch_size=int(cast(int, size)))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def recorded(self) -> dict[str, Any]:
        """What decides how each step goes, as text and numbers, for files and ``attrs``."""
        return {
            "learning_rate": self.learning_rate, "batch_size": self.batch_size,
            **self.optimizer.recorded, "sampling": self.sampling, "dtype": self.dtype,
            "divergence": self.divergence,
        }  # fmt: skip


class Options(TypedDict, total=False):
    """The fields of a :class:`Recipe` as keywords.

    ``optimizer`` may be a name too, with ``momentum`` or ``noise``; ``learning_rate`` is one for each replica
    where :func:`nets.replicas` is given several.
    """

    learning_rate: float | Sequence[float]
    batch_size: int | None
    epochs: int
    optimizer: Optimizer | OptimizerName
    momentum: float | None
    noise: float | None
    sampling: Sampling
    stop_at_loss: float | None
    divergence: float
    dtype: Precision
    device: str | torch.device
    threads: int | None


def changed(recipe: Recipe | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe with some :class:`Options` in place of its own; they must say all where there is none.

    What :attr:`Recipe.recorded` holds are options, too.
    """
    fields = dict(options)
    numbers = {key: fields.pop(key, None) for key in ("momentum", "noise")}
    optimizer = fields.get("optimizer", Plain() if recipe is None else recipe.optimizer)
    fields["optimizer"] = named_optimizer(optimizer, **numbers)
    return Recipe(**fields) if recipe is None else replace(recipe, **fields)


def checked_device(device: str | torch.device) -> torch.device:
    """The device; a ValueError if torch cannot use it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={str(device)!r} cannot be used here: {error}") from error
    return torch.device(device)
