"""The rules by which a gradient changes the weights, each for one net or for many side by side.

With g the gradient and α the learning rate (one per replica where there are replicas):

- ``sgd``, ``gd``: w ← w − α g; ``gd`` uses all samples in each step;
- ``momentum``: v ← m v + g, w ← w − α v (heavy ball as torch writes it; α/(1 − m) acts in the long run);
- ``adam``: bias-corrected moments of g and g², Kingma and Ba, arXiv:1412.6980, Algorithm 1;
- ``gd_isotropic_noise``: w ← w − α g + √(2αD) ξ, white ξ: the Langevin equation with constant D;
- ``gd_flatness_noise``: w ← w − α g + √(2αD) G ξ, where G Gᵀ is the Gauss–Newton Hessian of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

Optimizer = Literal["sgd", "momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise"]
OPTIMIZERS: tuple[Optimizer, ...] = (
    "sgd", "momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise",
)  # fmt: skip
NOISY: tuple[Optimizer, ...] = ("gd_isotropic_noise", "gd_flatness_noise")
#: What an optimiser remembers between steps, per parameter.
MEMORY: dict[str, tuple[str, ...]] = {"momentum": ("velocity",), "adam": ("mean", "square")}
ADAM_DECAYS, ADAM_EPSILON = (0.9, 0.999), 1e-8

Memory: TypeAlias = dict[str, list[torch.Tensor]]


def fresh_memory(optimizer: Optimizer, parameters: Sequence[torch.Tensor]) -> Memory:
    """What the optimiser remembers before the first step: zeros."""
    return {name: [torch.zeros_like(p) for p in parameters] for name in MEMORY.get(optimizer, ())}


def update(
    optimizer: Optimizer,
    parameters: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    memory: Memory,
    *,
    learning_rate: float | torch.Tensor,
    momentum: float,
    step: int,
) -> None:
    """Change the parameters and the memory in place by one step, the ``step``-th, counted from 1.

    Noise is not added here: see the module's text and ``nets.training.train``.
    """
    if optimizer == "momentum":
        gradients = [v.mul_(momentum).add_(g) for v, g in zip(memory["velocity"], gradients, strict=True)]
    elif optimizer == "adam":
        b1, b2 = ADAM_DECAYS
        moves = []
        for mean, square, g in zip(memory["mean"], memory["square"], gradients, strict=True):
            mean.lerp_(g, 1 - b1)
            square.mul_(b2).addcmul_(g, g, value=1 - b2)
            moves.append(mean / (1 - b1**step) / ((square / (1 - b2**step)).sqrt_().add_(ADAM_EPSILON)))
        gradients = moves
    for p, g in zip(parameters, gradients, strict=True):
        if isinstance(learning_rate, float):
            p.add_(g, alpha=-learning_rate)
        else:  # one per replica
            p.addcmul_(g, learning_rate.view(-1, *[1] * (p.ndim - 1)), value=-1)
