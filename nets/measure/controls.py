"""Null models for exponents: shuffled increments, an isotropic random walk, eigenvectors of the Hessian.

A principal component is the direction in which *its* window moved most, so σ_i² of that window is large
along it whatever the landscape; PCA of a pure random walk has the spectrum of a power law. These controls,
beside :func:`nets.measure.components.project` (another window), show what remains.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Seed, random_key
from nets.checks import check_whole
from nets.measure import curvature
from nets.measure.components import recorded
from nets.measure.loss_widths import layer_subject, starting_loss
from nets.measure.subject import Subject
from nets.training.run import Run, run_attributes


def shuffled(window: xr.Dataset | xr.DataArray, *, rng: Seed = None) -> xr.Dataset:
    """The increments of a window in a random order: same start and end, same D, no correlation in time.

    ``weights`` (step, weight) in float64; ``attrs["control"]`` says what was done. What is no window is a
    ValueError, as in :func:`nets.measure.components.analyse`.
    """
    weights = recorded(window)
    steps = np.random.default_rng(random_key(rng)).permutation(np.diff(weights.to_numpy(), axis=0))
    return _walk(weights, steps, window.attrs | {"control": "shuffled increments"})


def random_walk(window: xr.Dataset | xr.DataArray, *, rng: Seed = None) -> xr.Dataset:
    """An isotropic random walk with length, start and mean square step of a window; as :func:`shuffled`."""
    weights = recorded(window)
    increments = np.diff(weights.to_numpy(), axis=0)
    scale = np.sqrt(np.square(increments).mean())
    steps = np.random.default_rng(random_key(rng)).normal(0.0, scale, increments.shape)
    return _walk(weights, steps, window.attrs | {"control": "isotropic random walk"})


def hessian_basis(
    measured: Subject | Run, *, layer: int | None = None, count: int, share: float = 0.999, rng: Seed = 0
) -> xr.Dataset:
    """Leading ``count`` eigenvectors of the Hessian, by a subject's weights or by one layer's of a run.

    From :func:`nets.measure.curvature.top_eigenpairs`, in float64. A layer's biases stay as they are: its
    weights are numbered as in windows, for :func:`nets.measure.loss_widths.widths` and
    :func:`nets.measure.components.project`. For the cross-entropy of labels, samples are taken from the
    largest loss down until they hold ``share`` (in (0, 1]) of it: the curvature of a sample's cross-entropy
    in its logits is at most twice its loss, so the rest can hardly matter. Of another loss, whose curvature
    has no such bound, all samples count. ``rng`` draws the starting vector.

    The result has ``direction`` (mode, weight) and ``curvature`` (mode), largest first, and
    ``attrs["samples_used"]``. A run without ``layer``, a Subject with it, a ``count`` not below the number of
    weights, and a loss that is zero to rounding, are a ValueError.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share:g} must lie in (0, 1]")
    if isinstance(measured, Subject) == (layer is not None):
        raise ValueError("give a run and layer=, or a Subject, whose weights are chosen already")
    subject = measured if isinstance(measured, Subject) else layer_subject(measured, int(layer or 0))
    subject = subject.to(torch.float64)
    starting_loss(subject)
    check_whole("count", count, subject.size - 1, "one less than the weights")
    kept = _heaviest(subject, share if subject.labelled else 1.0)
    start = np.random.default_rng(random_key(rng))
    found = curvature.top_eigenpairs(subject.rows(kept), count=count, rng=start)
    values = found["eigenvalue"].to_numpy() * (len(kept) / subject.samples)
    own = {} if isinstance(measured, Subject) else run_attributes(measured) | {"layer": layer}
    own.pop("fpsolve_version", None)
    return dataset(
        {
            "curvature": quantity(values, "mode", "eigenvalue of the Hessian"),
            "direction": quantity(found["eigenvector"].to_numpy().T, ("mode", "weight"), "eigenvector"),
        },
        title="eigenvectors of the Hessian",
        coords={"mode": quantity(np.arange(1, count + 1), "mode", "mode i")},
        **own,
        basis="eigenvectors of the Hessian",
        samples_used=len(kept),
    )


def _heaviest(subject: Subject, share: float) -> torch.Tensor:
    """Numbers of the samples with the largest losses that together hold a share of it."""
    each = subject.losses(reduction="none")[0]
    order = torch.argsort(each, descending=True)
    if share == 1:
        return order
    return order[: int((torch.cumsum(each[order], 0) / each.sum() < share).sum()) + 1]


def _walk(weights: xr.DataArray, steps: np.ndarray, attrs: dict) -> xr.Dataset:
    """A window with the start of another and other increments."""
    path = np.concatenate([weights[:1].to_numpy(), steps])
    np.cumsum(path, axis=0, out=path)
    return xr.Dataset(
        {"weights": (("step", "weight"), path, weights.attrs)},
        coords={"step": weights["step"]} if "step" in weights.coords else {},
        attrs=attrs,
    )
