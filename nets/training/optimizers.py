"""The rules by which a gradient g changes the weights w, each for one net or for many side by side.

α is the learning rate, one for each replica where there are several. A rule is one class; :data:`OPTIMIZERS`
holds all of them by the names under which runs are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch

from nets.checks import check_option
from nets.training.networks import Parameters

OptimizerName = Literal["sgd", "momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise"]
Memory: TypeAlias = dict[str, list[torch.Tensor]]
#: Random numbers of an epoch, one stream for each replica.
Streams: TypeAlias = Sequence[np.random.Generator]


@dataclass(frozen=True)
class Optimizer:
    """Base of all rules. ``memory`` names what is remembered between steps for each parameter."""

    name: ClassVar[str]
    memory: ClassVar[tuple[str, ...]] = ()

    def direction(self, gradients: Parameters, memory: Memory, step: int) -> Parameters:
        """What −α is multiplied with, by parameter; changes the memory. ``step`` counts from 1."""
        return gradients

    @property
    def recorded(self) -> dict[str, str | float]:
        """Name, momentum and noise as they stand beside results; 0 for what the optimiser does not take."""
        numbers = {"momentum": 0.0, "noise": 0.0} | {k: float(v) for k, v in asdict(self).items()}
        return {"optimizer": self.name} | numbers

    def fresh_memory(self, parameters: Parameters) -> Memory:
        """What is remembered before the first step: zeros."""
        return {name: [torch.zeros_like(p) for p in parameters] for name in self.memory}

    def move(
        self, parameters: Parameters, gradients: Parameters, memory: Memory,
        *, rate: float | torch.Tensor, step: int,
    ) -> None:  # fmt: skip
        """Make the ``step``-th step in place; ``rate`` is one α, or one for each replica."""
        for p, d in zip(parameters, self.direction(gradients, memory, step), strict=True):
            if isinstance(rate, float):
                p.add_(d, alpha=-rate)
            else:
                p.addcmul_(d, rate.view(-1, *[1] * (p.ndim - 1)), value=-1)


@dataclass(frozen=True)
class Plain(Optimizer):
    """w ← w − α g, with the gradient of a minibatch."""

    name: ClassVar[str] = "sgd"


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v ← m v + g, w ← w − α v: heavy ball as torch writes it; α/(1 − m) acts in the long run. 0 ≤ m < 1."""

    momentum: float = 0.9
    name: ClassVar[str] = "momentum"
    memory: ClassVar[tuple[str, ...]] = ("velocity",)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum:g} is for optimizer='momentum' and lies in [0, 1)")

    def direction(self, gradients: Parameters, memory: Memory, step: int) -> Parameters:
        return [v.mul_(self.momentum).add_(g) for v, g in zip(memory["velocity"], gradients, strict=True)]


@dataclass(frozen=True)
class Adam(Optimizer):
    """Bias-corrected moments of g and g²: Kingma and Ba, arXiv:1412.6980, Algorithm 1, its β and ε."""

    name: ClassVar[str] = "adam"
    memory: ClassVar[tuple[str, ...]] = ("mean", "square")
    decays: ClassVar[tuple[float, float]] = (0.9, 0.999)
    epsilon: ClassVar[float] = 1e-8

    def direction(self, gradients: Parameters, memory: Memory, step: int) -> Parameters:
        b1, b2 = self.decays
        moves = []
        for mean, square, g in zip(memory["mean"], memory["square"], gradients, strict=True):
            mean.lerp_(g, 1 - b1)
            square.mul_(b2).addcmul_(g, g, value=1 - b2)
            moves.append(mean / (1 - b1**step) / ((square / (1 - b2**step)).sqrt_().add_(self.epsilon)))
        return moves


@dataclass(frozen=True)
class GradientDescent(Optimizer):
    """w ← w − α g, with the gradient over all samples: an epoch is one step."""

    name: ClassVar[str] = "gd"

    def drawn_slope(self, p: torch.Tensor, streams: Streams) -> torch.Tensor | None:
        """Random slopes of the logits, of which ξ is the gradient; ``p`` is the softmax, rows × classes."""
        return None

    def draw(self, noise: Parameters, streams: Streams) -> None:
        """Fill in ξ where it is no gradient."""


@dataclass(frozen=True)
class _Noisy(GradientDescent):
    """Gradient descent with noise of strength D = ``noise``."""

    noise: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise={self.noise:g} must be finite and not negative")


@dataclass(frozen=True)
class IsotropicNoise(_Noisy):
    """w ← w − α g + √(2αD) ξ, white ξ: the Langevin equation; D = ``noise``, in units of loss."""

    name: ClassVar[str] = "gd_isotropic_noise"

    def draw(self, noise: Parameters, streams: Streams) -> None:
        for t in noise:
            drawn = np.stack([s.standard_normal(t.numel() // len(streams)) for s in streams])
            t.copy_(torch.from_numpy(drawn).view(t.shape))


@dataclass(frozen=True)
class FlatnessNoise(_Noisy):
    """w ← w − α g + √(2αD) G ξ, where G Gᵀ is the Gauss–Newton Hessian of the loss and D = ``noise``.

    D = η/(2B) would be the strength of SGD's own noise (ICLR 2021).
    """

    name: ClassVar[str] = "gd_flatness_noise"

    def drawn_slope(self, p: torch.Tensor, streams: Streams) -> torch.Tensor:
        """(softmax − one-hot of a label drawn from it) times a normal number, one for each row.

        Its covariance over draws is diag(p) − p pᵀ, the Hessian of the cross-entropy by the logits, so that
        the gradient behind it, over √N, has the Gauss–Newton Hessian of the mean loss as its covariance.
        """
        shape = p.shape if p.ndim == 3 else (1, *p.shape)
        uniform = np.stack([s.random(shape[1]) for s in streams])
        normal = np.stack([s.standard_normal(shape[1]) for s in streams])
        u, z = (torch.from_numpy(drawn).to(p).view(*p.shape[:-1], 1) for drawn in (uniform, normal))
        label = (p.cumsum(-1) < u).sum(-1, keepdim=True).clamp_(max=p.shape[-1] - 1)
        return (p - torch.zeros_like(p).scatter_(-1, label, 1.0)) * z


#: Every rule by its name.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.name: kind for kind in (Plain, Momentum, Adam, GradientDescent, IsotropicNoise, FlatnessNoise)
}


def named_optimizer(optimizer: Optimizer | str, **numbers: float | None) -> Optimizer:
    """The optimiser of a name, with its ``momentum`` or ``noise``; None leaves a default.

    A ValueError if the name is unknown, a number is missing, or one that is not 0 belongs to another
    optimiser. What :attr:`Optimizer.recorded` holds is read back.
    """
    name = optimizer.name if isinstance(optimizer, Optimizer) else optimizer
    check_option("optimizer", name, OPTIMIZERS)
    own, given = fields(OPTIMIZERS[name]), {key: float(x) for key, x in numbers.items() if x is not None}
    for key in given.keys() - {f.name for f in own}:
        if value := given.pop(key):
            takers = [repr(n) for n, kind in OPTIMIZERS.items() if key in {f.name for f in fields(kind)}]
            raise ValueError(f"{key}={value:g} is for optimizer={' or '.join(takers)}")
    if isinstance(optimizer, Optimizer):
        return replace(optimizer, **given)
    for f in own:
        if f.default is MISSING and f.name not in given:
            raise ValueError(f"{f.name}=None: it is needed for optimizer={name!r}")
    return OPTIMIZERS[name](**given)
