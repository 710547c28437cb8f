"""The noise of minibatch gradients from per-sample gradients: its covariance C, exactly, and samples of it.

C = ⟨(∇L^μ − ∇L)(∇L^μ − ∇L)ᵀ⟩ over minibatches μ (PRL 4). It follows from the gradients of single samples,
without drawing any minibatch.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from fpsolve.results import quantity
from fpsolve.symbols.counter_rng import Rng
from nets.checks import check_whole
from nets.measure.fast import MEMORY
from nets.measure.moments import gradient_moments
from nets.measure.subject import Subject, as_subject, numpy
from nets.training.run import Run


def per_sample_gradients(measured: Subject | Run, *, layer: int | None = None) -> torch.Tensor:
    """Gradients ∇l(s; θ) of the loss of each sample.

    A ValueError is raised if inputs and labels do not match, or the layer does not exist.

    Parameters
    ----------
    measured, layer
        A Subject, or a run by all weights or those of one layer (:func:`nets.measure.subject.as_subject`).

    Returns
    -------
    Tensor, shape (M, N)
        All at once; :meth:`nets.measure.subject.Subject.gradients` gives them in blocks.
    """
    return torch.cat(list(as_subject(measured, layer=layer).gradients()))


def noise_covariance(
    measured: Subject | Run,
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

    A ValueError is raised if B is out of range, or there are too many weights for a dense matrix. Source: PRL
    Eq. 4; ICLR Eq. 5. The finite-population factor: Cochran, *Sampling Techniques* (1977), sec. 2.6.

    Parameters
    ----------
    measured, layer, memory
        As in :func:`nets.measure.curvature.hessian`.
    batch_size, replacement
        B, and whether a sample may come twice in a minibatch.

    Returns
    -------
    Dataset
        ``covariance`` (weight, weight_2) and ``mean_gradient`` (weight), float64.
    """
    subject = as_subject(measured, layer=layer)
    factor = batch_factor(subject.samples, batch_size=batch_size, replacement=replacement)
    covariance, mean = gradient_moments(subject, memory=memory)
    covariance -= np.outer(mean, mean)
    covariance *= factor
    sampling = "with replacement" if replacement else "without replacement"
    return xr.Dataset(
        {
            "covariance": quantity(covariance, ("weight", "weight_2"), "gradient-noise covariance C"),
            "mean_gradient": quantity(mean, "weight", "gradient of the loss"),
        },
        attrs=subject.attributes("gradient-noise covariance", batch_size=int(batch_size), sampling=sampling),
    )


def noise_trace(measured: Subject | Run, *, layer: int | None = None, memory: int = MEMORY) -> float:
    """Tr C₁ = ⟨‖g_s‖²⟩ − ‖ḡ‖², the size of single samples' noise, for any number of weights.

    Parameters
    ----------
    measured, layer, memory
        As in :func:`nets.measure.curvature.hessian`.

    Returns
    -------
    float
        Times :func:`batch_factor` it is Tr C.
    """
    subject = as_subject(measured, layer=layer)
    squares = 0.0
    mean = torch.zeros(subject.size, dtype=torch.float64, device=subject.device)
    for gradients in subject.gradients(memory=memory):
        squares += float(gradients.square().sum(dtype=torch.float64))
        mean += gradients.sum(0).double()
    return squares / subject.samples - float((mean / subject.samples).square().sum())


def batch_factor(samples: int, *, batch_size: int, replacement: bool = True) -> float:
    """Variance of a minibatch mean over that of one of M samples.

    1/B with replacement; (M − B)/((M − 1)B) without, where B > M is a ValueError, as B < 1 is in both.
    """
    check_whole("batch_size", batch_size, np.inf if replacement else samples, "the samples")
    if replacement or samples == 1:
        return 1.0 / batch_size if replacement else 0.0
    return (samples - batch_size) / ((samples - 1) * batch_size)


def minibatch_gradients(
    measured: Subject | Run,
    *,
    batch_size: int,
    draws: int,
    layer: int | None = None,
    replacement: bool = True,
    rng: Rng = None,
) -> np.ndarray:
    """Gradients ∇L^μ of ``draws`` independent random minibatches, shape (draws, N).

    ``replacement`` says whether a sample may come twice in one. A B out of range is a ValueError.
    """
    subject = as_subject(measured, layer=layer)
    batch_factor(subject.samples, batch_size=batch_size, replacement=replacement)
    generator = np.random.default_rng(rng)
    gradients = np.empty((draws, subject.size), dtype=numpy(subject.vector).dtype)
    for i in range(draws):
        rows = generator.choice(subject.samples, size=batch_size, replace=replacement)
        gradients[i] = numpy(subject.gradient(torch.from_numpy(rows)))
    return gradients


def projected_gradients(
    measured: Subject | Run, directions: np.ndarray, *, layer: int | None = None, memory: int = MEMORY
) -> np.ndarray:
    """Components g_s · v of single samples' gradients along the columns v of (N, K): (M, K), float64.

    Their mean over any rows is that minibatch's gradient along v. Directions without N rows are a ValueError.
    """
    subject = as_subject(measured, layer=layer)
    columns = subject.columns(directions)
    return numpy(torch.cat([(g @ columns).double() for g in subject.gradients(memory=memory)]))
