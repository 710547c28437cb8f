"""Second moments of gradients over samples, dense: with the labels that came, and with the net's own.

Both are sums of M or M·K outer products of gradients g. For one linear layer z = W h every gradient is δ hᵀ,
so a sample's share is K_s ⊗ h hᵀ with a small matrix K_s. Both factors are symmetric: with their upper
triangles as rows, the sum is one matrix product with a quarter of the operations (and a tenth of the sum
over K classes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from nets.checks import check_whole
from nets.measure.fast import MEMORY, Tail, residuals
from nets.measure.subject import Subject, numpy

#: Most weights of a dense matrix: 2 GB of float64.
DENSE_WEIGHTS = 16_000


def gradient_moments(subject: Subject, *, memory: int = MEMORY) -> tuple[np.ndarray, np.ndarray]:
    """(1/M) Σ_s g_s g_sᵀ, shape (N, N), and (1/M) Σ_s g_s, with g_s the gradient of the loss of sample s.

    Both in float64; ``memory`` bounds the bytes of gradients held at once. The first is the empirical Fisher
    matrix. More than ``DENSE_WEIGHTS`` weights are a ValueError.
    """
    check_dense(subject)
    check_whole("memory", memory)
    mean = torch.zeros(subject.size, dtype=torch.float64, device=subject.device)
    tail = subject.tail
    if tail is not None and tail.one_matrix:
        total = _Packed(tail)
        for h, logits, slopes, labels in total.blocks(memory):
            delta = torch.einsum("mk,mko->mo", residuals(logits, labels), slopes)
            total.add(delta[:, :, None] * delta[:, None, :], h)
            mean += (delta.T @ h).flatten().double()
        return total.dense() / subject.samples, numpy(mean / subject.samples)

    def rows() -> Iterator[torch.Tensor]:
        for gradients in subject.gradients(memory=memory):
            mean.add_(gradients.sum(0).double())
            yield gradients

    return _second_moment(subject, rows()), numpy(mean / subject.samples)


def logit_moment(subject: Subject, *, memory: int = MEMORY) -> np.ndarray:
    """(1/M) Σ_s J_sᵀ (diag p_s − p_s p_sᵀ) J_s, J_s the gradients of the logits, p_s the probabilities.

    The true Fisher matrix, shape (N, N), float64: the second moment of g when labels are drawn from the net's
    own probabilities. For the cross-entropy it is also the Gauss–Newton matrix; another loss is a ValueError,
    and so are more than ``DENSE_WEIGHTS`` weights.
    """
    subject.labels("the true Fisher matrix")
    check_dense(subject)
    check_whole("memory", memory)
    tail = subject.tail
    if tail is not None and tail.one_matrix:
        total = _Packed(tail)
        for h, logits, slopes, _ in total.blocks(memory):
            rows = _centred(torch.softmax(logits, dim=1), slopes)
            total.add(torch.einsum("mko,mkp->mop", rows, rows), h)
        return total.dense() / subject.samples
    blocks = subject.output_gradients(memory=memory)
    return _second_moment(subject, (_centred(torch.softmax(z, dim=1), g).flatten(0, 1) for z, g in blocks))


def _second_moment(subject: Subject, blocks: Iterable[torch.Tensor]) -> np.ndarray:
    """(1/M) Σ r rᵀ over the rows r of all blocks (…, N)."""
    total = torch.zeros((subject.size, subject.size), dtype=torch.float64, device=subject.device)
    for rows in blocks:
        total += (rows.T @ rows).double()
    return numpy(total / subject.samples)


def check_dense(subject: Subject) -> None:
    """ValueError where there are more than ``DENSE_WEIGHTS`` weights, with a way out."""
    if subject.size > DENSE_WEIGHTS:
        raise ValueError(
            f"{subject.size} weights make a dense matrix of {8e-9 * subject.size**2:.0f} GB; choose one "
            f"layer (layer=), or top_eigenpairs and spectral_density, which need products only"
        )


def _centred(probabilities: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Rows √p_c (∂logit_c − Σ_c' p_c' ∂logit_c'), whose outer products sum to Jᵀ(diag p − p pᵀ)J."""
    mean = torch.einsum("mk,mkn->mn", probabilities, gradients)
    return probabilities.sqrt()[:, :, None] * (gradients - mean[:, None, :])


class _Packed:
    """Σ_s K_s ⊗ h_s h_sᵀ, kept as one matrix over pairs of outputs and pairs of inputs."""

    def __init__(self, tail: Tail) -> None:
        self.tail, device = tail, tail.inputs.device
        self.outputs, self.inputs = tail.parameters[0].shape
        self.rows = torch.triu_indices(self.outputs, self.outputs, device=device)
        self.columns = torch.triu_indices(self.inputs, self.inputs, device=device)
        shape = self.rows.shape[1], self.columns.shape[1]
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    def blocks(self, memory: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Blocks of h, logits, ∂ logits / ∂ z and labels."""
        numbers = self.inputs**2 + 2 * self.outputs**2 + self.columns.shape[1]
        return self.tail.factors(samples=max(1, memory // (numbers * self.tail.inputs.element_size())))

    def add(self, left: torch.Tensor, h: torch.Tensor) -> None:
        pairs = h[:, self.columns[0]] * h[:, self.columns[1]]
        self.total += (left[:, self.rows[0], self.rows[1]].T @ pairs).double()

    def dense(self) -> np.ndarray:
        """The (N, N) matrix, weights numbered row by row."""
        left, right = _pair_numbers(self.outputs, self.rows), _pair_numbers(self.inputs, self.columns)
        full = self.total[left[:, None, :, None], right[None, :, None, :]]
        size = self.outputs * self.inputs
        return numpy(full.reshape(size, size))


def _pair_numbers(count: int, pairs: torch.Tensor) -> torch.Tensor:
    """Which pair (i, j) belongs to: shape (count, count), symmetric."""
    number = torch.zeros((count, count), dtype=torch.int64, device=pairs.device)
    number[pairs[0], pairs[1]] = torch.arange(pairs.shape[1], device=pairs.device)
    return torch.maximum(number, number.T)
