"""Second moments of gradients over samples, dense: with the labels that came, and with the net's own.

Both are sums of M or M·K outer products of gradients g. For one linear layer z = W h every gradient is δ hᵀ,
so a sample's share is K_s ⊗ h hᵀ with a small matrix K_s. Both factors are symmetric: with their upper
triangles as rows, the sum is one matrix product with a quarter of the operations (and a tenth of the sum
over K classes).
"""

from __future__ import annotations

import numpy as np
import torch

from nets.measure.layer_loss import MEMORY, LayerLoss, residuals

#: Most weights of a dense matrix: 2 GB of float64.
DENSE_WEIGHTS = 16_000


def gradient_moments(loss: LayerLoss, *, memory: int = MEMORY) -> tuple[np.ndarray, np.ndarray]:
    """(1/M) Σ_s g_s g_sᵀ and (1/M) Σ_s g_s with g_s the gradient of the loss of sample s.

    The first is the empirical Fisher matrix.

    Parameters
    ----------
    loss : LayerLoss
    memory : int
        Bytes of gradients held at once.

    Returns
    -------
    tuple of ndarray, shapes (N, N) and (N,), float64

    Raises
    ------
    ValueError
        If there are more than ``DENSE_WEIGHTS`` weights.
    """
    check_dense(loss)
    mean = torch.zeros(loss.size, dtype=torch.float64)
    if loss.one_linear_layer:
        total = _Packed(loss)
        for h, logits, slopes, labels in total.blocks(memory):
            delta = torch.einsum("mk,mko->mo", residuals(logits, labels), slopes)
            total.add(delta[:, :, None] * delta[:, None, :], h)
            mean += (delta.T @ h).flatten().double()
        return total.dense() / loss.samples, (mean / loss.samples).numpy()
    second = torch.zeros((loss.size, loss.size), dtype=torch.float64)
    for gradients in loss.gradients(memory=memory):
        second += (gradients.T @ gradients).double()
        mean += gradients.sum(0).double()
    return (second / loss.samples).numpy(), (mean / loss.samples).numpy()


def logit_moment(loss: LayerLoss, *, memory: int = MEMORY) -> np.ndarray:
    """(1/M) Σ_s J_sᵀ (diag p_s − p_s p_sᵀ) J_s, J_s the gradients of the logits, p_s the probabilities.

    The true Fisher matrix: the second moment of g when labels are drawn from the net's own probabilities.
    For the cross-entropy it is also the Gauss–Newton matrix.

    Parameters
    ----------
    loss : LayerLoss
    memory : int

    Returns
    -------
    ndarray, shape (N, N), float64

    Raises
    ------
    ValueError
        If there are more than ``DENSE_WEIGHTS`` weights.
    """
    check_dense(loss)
    if loss.one_linear_layer:
        total = _Packed(loss)
        for h, logits, slopes, _ in total.blocks(memory):
            rows = _centred(torch.softmax(logits, dim=1), slopes)
            total.add(torch.einsum("mko,mkp->mop", rows, rows), h)
        return total.dense() / loss.samples
    second = torch.zeros((loss.size, loss.size), dtype=torch.float64)
    for probabilities, gradients in loss.logit_gradients(memory=memory):
        rows = _centred(probabilities, gradients).flatten(0, 1)
        second += (rows.T @ rows).double()
    return (second / loss.samples).numpy()


def check_dense(loss: LayerLoss) -> None:
    """Refuse matrices that do not fit.

    Parameters
    ----------
    loss : LayerLoss

    Raises
    ------
    ValueError
        If there are more than ``DENSE_WEIGHTS`` weights.
    """
    if loss.size > DENSE_WEIGHTS:
        raise ValueError(
            f"{loss.size} weights make a dense matrix of {8e-9 * loss.size**2:.0f} GB; choose one layer "
            f"(layer=), or top_eigenpairs and spectral_density, which need products only"
        )


def _centred(probabilities: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Rows √p_c (∂logit_c − Σ_c' p_c' ∂logit_c'), whose outer products sum to Jᵀ(diag p − p pᵀ)J."""
    mean = torch.einsum("mk,mkn->mn", probabilities, gradients)
    return probabilities.sqrt()[:, :, None] * (gradients - mean[:, None, :])


class _Packed:
    """Σ_s K_s ⊗ h_s h_sᵀ, kept as one matrix over pairs of outputs and pairs of inputs."""

    def __init__(self, loss: LayerLoss) -> None:
        self.loss = loss
        self.outputs, self.inputs = loss.parameters[0].shape
        self.rows = torch.triu_indices(self.outputs, self.outputs)
        self.columns = torch.triu_indices(self.inputs, self.inputs)
        self.total = torch.zeros((self.rows.shape[1], self.columns.shape[1]), dtype=torch.float64)

    def blocks(self, memory: int):
        """Blocks of h, logits, ∂ logits / ∂ z and labels."""
        numbers = self.inputs**2 + 2 * self.outputs**2 + self.columns.shape[1]
        size = max(1, memory // (numbers * self.loss.inputs.element_size()))
        for block, labels in zip(
            self.loss.output_blocks(samples=size), self.loss.labels.split(size), strict=True
        ):
            yield *block, labels

    def add(self, left: torch.Tensor, h: torch.Tensor) -> None:
        pairs = h[:, self.columns[0]] * h[:, self.columns[1]]
        self.total += (left[:, self.rows[0], self.rows[1]].T @ pairs).double()

    def dense(self) -> np.ndarray:
        """The (N, N) matrix, weights numbered row by row."""
        pair_of_outputs = _pair_numbers(self.outputs, self.rows)
        pair_of_inputs = _pair_numbers(self.inputs, self.columns)
        full = self.total[pair_of_outputs[:, None, :, None], pair_of_inputs[None, :, None, :]]
        size = self.outputs * self.inputs
        return full.reshape(size, size).numpy()


def _pair_numbers(count: int, pairs: torch.Tensor) -> torch.Tensor:
    """Which pair (i, j) belongs to: shape (count, count), symmetric."""
    number = torch.zeros((count, count), dtype=torch.int64)
    number[pairs[0], pairs[1]] = torch.arange(pairs.shape[1])
    return torch.maximum(number, number.T)
