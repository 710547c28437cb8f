"""Random small networks and losses: noise and curvature against autograd, one sample at a time in float64."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from nets import Subject, hessian, noise_covariance, noise_trace, per_sample_gradients, top_eigenpairs
from tests.campaign.trial import Claim, Problem


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inside = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inside(x))


def _dense(rng, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    width = int(rng.integers(3, 6))
    first = nn.Linear(4, width, bias=bool(rng.integers(2)))
    middle = [
        [nn.ReLU(inplace=True)], [nn.Tanh()], [nn.LayerNorm(width), nn.GELU()], [nn.Dropout(0.5), nn.ReLU()],
        [nn.BatchNorm1d(width), nn.Tanh()], [Residual(width)], [nn.Softplus()],
    ][rng.integers(7)]  # fmt: skip
    shared = nn.Linear(width, width)
    tied = [shared, nn.Tanh(), shared] if rng.random() < 0.3 else [shared]
    return nn.Sequential(first, *middle, *tied, nn.ReLU(), nn.Linear(width, outputs)), (4,)


def _convolution(rng, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    mode = str(rng.choice(["zeros", "circular", "reflect", "replicate"]))
    layers = [
        nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, outputs),
    ]
    return nn.Sequential(*layers), (1, 4, 4)


def network(rng):
    """Noise trace and covariance, Hessian and its largest eigenvalue of a random small network."""
    seed = int(rng.integers(10**6))
    torch.manual_seed(seed)
    outputs = int(rng.integers(2, 4))
    model, shape = (_dense if rng.random() < 0.7 else _convolution)(rng, outputs)
    model = model.double()
    if rng.random() < 0.4:  # some weights are frozen
        frozen = list(model.parameters())[int(rng.integers(2))]
        frozen.requires_grad_(False)
    inputs = torch.randn(int(rng.integers(6, 20)), *shape, dtype=torch.float64)
    regression = rng.random() < 0.4
    targets = (
        torch.randn(len(inputs), outputs).double() if regression else torch.randint(outputs, (len(inputs),))
    )
    loss = nn.functional.mse_loss if regression else nn.functional.cross_entropy
    smoothing = {} if regression or rng.random() < 0.6 else {"label_smoothing": 0.1}
    chosen = (
        (lambda o, t, reduction="mean": loss(o, t, reduction=reduction, **smoothing)) if smoothing else loss
    )
    gradients, curvature = _by_autograd(model, inputs, targets, chosen)
    covariance = np.cov(gradients.T, bias=True)
    model.train(bool(rng.integers(2)))

    def ask():
        subject = Subject(model, inputs, targets, loss=chosen)
        H = np.asarray(hessian(subject))
        C = np.asarray(noise_covariance(subject, batch_size=1)["covariance"])
        G = np.asarray(per_sample_gradients(subject))
        top = top_eigenpairs(subject, 1, rng=0)["eigenvalue"]
        scale = float(np.abs(curvature).max())
        return [
            Claim("weights", subject.size, 0.0, gradients.shape[1]),
            Claim("largest miss of a gradient", float(np.abs(G - gradients).max()), 0.0, 0.0, float(np.abs(gradients).max())),
            Claim("noise trace", noise_trace(subject), 0.0, float(np.trace(covariance))),
            Claim("largest miss of C", float(np.abs(C - covariance).max()), 0.0, 0.0, float(np.abs(covariance).max())),
            Claim("largest miss of H", float(np.abs(H - curvature).max()), 0.0, 0.0, scale),
            Claim("top eigenvalue", float(top[0]), 1e-6 * scale, float(np.linalg.eigvalsh(curvature)[-1]), scale),
        ]  # fmt: skip

    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    text = f"torch.manual_seed({seed}), {model}, frozen {frozen}, {loss.__name__} {smoothing}, {len(inputs)} samples"
    return Problem("network", text.replace("\n", " "), ask)


def _by_autograd(model, inputs, targets, loss):
    """Gradients of single samples and the Hessian of the mean loss, in the order of ``named_parameters``."""
    net = copy.deepcopy(model).eval()
    weights = [p for p in net.parameters() if p.requires_grad]
    rows = []
    for one, target in zip(inputs, targets, strict=True):
        value = loss(net(one[None].clone()), target[None])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, weights)]))
    mean = torch.stack(
        [loss(net(i[None].clone()), t[None]) for i, t in zip(inputs, targets, strict=True)]
    ).mean()
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(mean, weights, create_graph=True)])
    curvature = []
    for s in slope:
        parts = torch.autograd.grad(s, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        curvature.append(torch.cat([g.reshape(-1) for g in parts]))
    return torch.stack(rows).detach().numpy(), torch.stack(curvature).detach().numpy()


KINDS = [network]
