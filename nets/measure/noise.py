"""The noise of minibatch gradients: its covariance C, exactly, and samples of it.

C = ⟨(∇L^μ − ∇L)(∇L^μ − ∇L)ᵀ⟩ over minibatches μ (PRL 4). It follows from the gradients of single samples,
without drawing any minibatch. See :mod:`nets.measure.layer_loss` for the loss and the numbering of weights.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
import xarray as xr
from torch import nn

import fpsolve
from nets.measure.layer_loss import MEMORY, LayerLoss
from nets.measure.moments import gradient_moments
from nets.models import description

Rng: TypeAlias = int | np.random.SeedSequence | np.random.Generator | None


def per_sample_gradients(
    net: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor, *, layer: int | None = None
) -> torch.Tensor:
    """Gradients ∇l(s; θ) of the loss of each sample.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
        Gradients by this layer's weights; default all.

    Returns
    -------
    Tensor, shape (M, N)
        All at once; :meth:`nets.measure.layer_loss.LayerLoss.gradients` gives them in blocks.

    Raises
    ------
    ValueError
        If inputs and labels do not match, or the layer does not exist.

    Notes
    -----
    One backward pass for all samples, by the outer products δ hᵀ that make each of them.
    """
    return torch.cat(list(LayerLoss.of(net, inputs, labels, layer).gradients()))


def noise_covariance(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    batch_size: int = 1,
    replacement: bool = True,
    memory: int = MEMORY,
) -> xr.Dataset:
    """Covariance C of the minibatch gradient, exact for these weights.

    With g_s the gradients of the M samples and ḡ their mean, C₁ = (1/M) Σ_s g_s g_sᵀ − ḡ ḡᵀ, and

    - with replacement C = C₁ / B;
    - without, as in an epoch's shuffled pass, C = (C₁ / B)(M − B)/(M − 1).

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
        This layer's weights; default all.
    batch_size : int
        B.
    replacement : bool
        Whether a sample may come twice in a minibatch.
    memory : int
        Bytes of gradients held at once.

    Returns
    -------
    Dataset
        ``covariance`` (weight, weight_2) and ``mean_gradient`` (weight), float64.

    Raises
    ------
    ValueError
        If B is out of range, or there are too many weights for a dense matrix.

    References
    ----------
    PRL Eq. 4; ICLR Eq. 5. The finite-population factor: Cochran, *Sampling Techniques* (1977), sec. 2.6.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    factor = batch_factor(loss.samples, batch_size=batch_size, replacement=replacement)
    covariance, mean = gradient_moments(loss, memory=memory)
    covariance -= np.outer(mean, mean)
    covariance *= factor
    words = {"long_name": "gradient-noise covariance C", "units": "1"}
    result = xr.Dataset(
        {
            "covariance": (("weight", "weight_2"), covariance, words),
            "mean_gradient": ("weight", mean, {"long_name": "gradient of the loss", "units": "1"}),
        }
    )
    result.attrs = attributes("gradient-noise covariance", net, loss) | {
        "batch_size": int(batch_size),
        "sampling": "with replacement" if replacement else "without replacement",
    }
    return result


def noise_trace(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    memory: int = MEMORY,
) -> float:
    """Tr C₁ = ⟨‖g_s‖²⟩ − ‖ḡ‖², the size of single samples' noise, for any number of weights.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
    memory : int

    Returns
    -------
    float
        Times :func:`batch_factor` it is Tr C.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    squares, mean = 0.0, torch.zeros(loss.size, dtype=torch.float64)
    for gradients in loss.gradients(memory=memory):
        squares += float(gradients.square().sum(dtype=torch.float64))
        mean += gradients.sum(0).double()
    return squares / loss.samples - float((mean / loss.samples).square().sum())


def batch_factor(samples: int, *, batch_size: int, replacement: bool = True) -> float:
    """Variance of a minibatch mean over that of one sample: 1/B, or (M − B)/((M − 1)B) without replacement.

    Parameters
    ----------
    samples : int
        M.
    batch_size : int
        B, at least 1, and at most M without replacement.
    replacement : bool

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If B is out of range.
    """
    if batch_size < 1 or (not replacement and batch_size > samples):
        raise ValueError(f"batch_size={batch_size} must lie between 1 and the {samples} samples")
    if replacement or samples == 1:
        return 1.0 / batch_size if replacement else 0.0
    return (samples - batch_size) / ((samples - 1) * batch_size)


def minibatch_gradients(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    batch_size: int,
    draws: int,
    layer: int | None = None,
    replacement: bool = True,
    rng: Rng = None,
) -> np.ndarray:
    """Gradients ∇L^μ of independent random minibatches.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    batch_size : int
    draws : int
        How many minibatches.
    layer : int, optional
    replacement : bool
        Whether a sample may come twice in one minibatch.
    rng : int, SeedSequence or Generator, optional

    Returns
    -------
    ndarray, shape (draws, N)

    Raises
    ------
    ValueError
        If B is out of range.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    batch_factor(loss.samples, batch_size=batch_size, replacement=replacement)
    generator = np.random.default_rng(rng)
    gradients = np.empty((draws, loss.size), dtype=loss.parameters[0].detach().numpy().dtype)
    for i in range(draws):
        if replacement:
            rows = generator.integers(loss.samples, size=batch_size)
        else:
            rows = generator.choice(loss.samples, size=batch_size, replace=False)
        chosen = torch.from_numpy(rows)
        gradients[i] = loss.gradient(loss.inputs[chosen], loss.labels[chosen]).numpy()
    return gradients


def projected_gradients(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    directions: np.ndarray,
    layer: int | None = None,
    memory: int = MEMORY,
) -> np.ndarray:
    """Components g_s · v of the single samples' gradients along some directions v.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    directions : ndarray, shape (N, K)
        One direction per column.
    layer : int, optional
    memory : int

    Returns
    -------
    ndarray, shape (M, K), float64
        Their mean over any rows is that minibatch's gradient along v.

    Raises
    ------
    ValueError
        If the directions do not have N rows.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    if directions.ndim != 2 or len(directions) != loss.size:
        raise ValueError(f"directions of shape {directions.shape} must have {loss.size} rows, one per weight")
    columns = torch.from_numpy(np.ascontiguousarray(directions)).to(loss.parameters[0].dtype)
    return torch.cat([(g @ columns).double() for g in loss.gradients(memory=memory)]).numpy()


def attributes(title: str, net: nn.Sequential, loss: LayerLoss) -> dict[str, str | int]:
    """What every result of this kind records.

    Parameters
    ----------
    title : str
    net : nn.Sequential
    loss : LayerLoss

    Returns
    -------
    dict
    """
    return {
        "title": f"{title}: {description(net)}",
        "net": description(net),
        "layer": "all" if loss.layer is None else str(loss.layer),
        "samples": loss.samples,
        "fpsolve_version": fpsolve.__version__,
    }
