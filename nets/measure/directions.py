"""The loss along a few directions in weight space: first and second derivatives, sample by sample.

For the cross-entropy, with logits z(w + Σ_k t_k v_k) of a sample, J = ∂z/∂t and K = ∂²z/∂t∂t at t = 0,
p = softmax z and r = p minus the label's unit vector, the gradient is g_k = r·J_k and the Hessian
h_jk = r·K_jk + Σ_c p_c J_cj J_ck − (p·J_j)(p·J_k). All come from one pass forwards, with no gradient of N
numbers: on MNIST (784-50-50-10, six directions) 13 times as fast as gradients of samples and products with
the Hessian, projected. Single samples' Hessians, whose scatter is a noise of its own, come with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import grad, jacfwd, jacrev

from nets.measure.fast import residuals
from nets.measure.subject import Subject, as_subject, mapped, numpy
from nets.training.networks import dense_biases
from nets.training.run import Run

#: Numbers held at once for second derivatives.
ROOM = 4_000_000


@dataclass(frozen=True, eq=False)
class AlongDirections:
    """The loss of a data set along K directions, from :func:`along_directions`.

    ``loss``; ``gradient`` (K,) and ``hessian`` (K, K), v_jᵀ H v_k, of the mean loss; ``covariance`` (K, K) of
    single samples' gradients, which is B times C of minibatches drawn with replacement;
    ``hessian_covariance`` (K, K, K), for each i the covariance of h_ij and h_ik over single samples: at a
    displacement y the fluctuation of Hessians adds y_j y_k times it to the noise along v_i.
    """

    loss: float
    gradient: np.ndarray
    covariance: np.ndarray
    hessian: np.ndarray
    hessian_covariance: np.ndarray


def along_directions(
    measured: Subject | Run, directions: np.ndarray, *, second: bool = True
) -> AlongDirections:
    """Loss, gradient, Hessian and their scatter over samples along directions, the columns of (N, K).

    What is measured: see :func:`nets.measure.subject.as_subject`. All weights of a fully connected ReLU net
    with cross-entropy have a form of their own; anything else goes through ``torch.func``. ``second=False``
    leaves the Hessians out, as NaN, for half the work. Shapes that do not match are a ValueError, and so is a
    Hessian that is not symmetric.
    """
    subject = as_subject(measured)
    columns = subject.columns(directions)
    if second:
        subject.check_hessian()
    with torch.no_grad():
        blocks = list(_derivatives(subject, columns.T, second))
    loss, g, h = (numpy(torch.cat(kind).double()) for kind in zip(*blocks, strict=True))
    mean = h.mean(0)
    off = h - mean
    scatter = np.einsum("sij,sik->ijk", off, off, optimize=True) / len(h)
    return AlongDirections(
        float(loss.mean()), g.mean(0), np.cov(g.T, bias=True).reshape(mean.shape), mean, scatter
    )


def _derivatives(
    subject: Subject, rows: torch.Tensor, second: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Losses (m,), their first (m, K) and second (m, K, K) derivatives along the rows (K, N), by blocks."""
    tangents, k = subject.split(rows), len(rows)
    weights = list(subject.parameters.values())
    widest = max(len(p) for p in weights)
    whole = len(weights) == sum(1 for _ in subject.model.parameters())
    biases = dense_biases(subject.tail.net) if whole and subject.tail is not None else None
    if biases is None:
        widest = max(widest, subject.inputs[0].numel())
    for x, y in subject.blocks(max(1, ROOM // (k * k * widest))):
        if biases is None:
            yield _by_torch(subject, tangents, second, x, y)
        else:
            yield _of_samples(*_dense(weights, list(tangents.values()), biases, second, x), y)


def _of_samples(
    z: torch.Tensor, J: torch.Tensor, K: torch.Tensor | None, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses (m,), gradients (m, K) and Hessians (m, K, K) from logits (m, c) and their derivatives."""
    p, r = torch.softmax(z, 1), residuals(z, labels)
    losses = nn.functional.cross_entropy(z.double(), labels, reduction="none")
    g = torch.einsum("mc,mkc->mk", r, J)
    if K is None:
        return losses, g, g.new_full((1, J.shape[1], J.shape[1]), torch.nan)
    J = J - J.gather(2, labels[:, None, None].expand(-1, J.shape[1], 1))  # a sure net's digits do not cancel
    pJ = torch.einsum("mc,mkc->mk", p, J)
    h = torch.einsum("mc,mjkc->mjk", r, K) + (J * p[:, None]) @ J.mT - pJ[:, :, None] * pJ[:, None, :]
    return losses, g, h


def _dense(
    weights: list[torch.Tensor], tangents: list[torch.Tensor], biases: bool, second: bool, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Forwards through a = max(W a + b, 0) with W + Σ t_k V_k for W: the product rule, twice."""
    a = x.flatten(1)
    m, k = len(a), len(tangents[0])
    da: torch.Tensor | None = None
    dda: torch.Tensor | None = None
    layers = list(range(0, len(weights), 2 if biases else 1))
    for l in layers:
        W, V = weights[l], tangents[l]
        out = len(W)
        every_V = V.reshape(k * out, -1)
        z, dz = a @ W.T, (a @ every_V.T).view(m, k, out)
        ddz = None
        if biases:
            z, dz = z + weights[l + 1], dz + tangents[l + 1]
        if da is not None:
            dz = dz + da @ W.T
        if da is not None and second:
            mixed = (da.reshape(m * k, -1) @ every_V.T).view(m, k, k, out)
            ddz = mixed + mixed.transpose(1, 2)
            if dda is not None:
                ddz += dda @ W.T
        if l == layers[-1]:
            break
        on = (z > 0).to(z)
        a, da = z * on, dz * on[:, None]
        dda = None if ddz is None else ddz * on[:, None, None]
    if second and ddz is None:
        ddz = z.new_zeros(m, k, k, out)
    return z, dz, ddz


def _by_torch(
    subject: Subject, tangents: dict[str, torch.Tensor], second: bool, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for any model and loss, forward over forward mode, or twice backwards."""
    start = subject.parameters

    def loss(t: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        moved = {name: w + torch.tensordot(t, tangents[name], 1) for name, w in start.items()}
        return subject.sample_losses(moved, x[None], y[None])[0]

    def twice(t: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with suppress(RuntimeError):
            return jacfwd(grad(loss))(t, x, y)
        return jacrev(grad(loss))(t, x, y)

    k = len(next(iter(tangents.values())))
    origin = torch.zeros(k, dtype=subject.dtype, device=subject.device)
    each = subject.by_torch("second derivatives", lambda f: mapped(f, (None, 0, 0))(origin, x, y))
    h = each(twice) if second else origin.new_full((1, k, k), torch.nan)
    return each(loss), each(grad(loss)), h
