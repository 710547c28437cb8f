"""What an exponent is held against: motion without correlations, directions that the motion did not choose.

A principal component is the direction in which *its* window moved most, so σ_i² of that window is large
along it whatever the landscape; PCA of a pure random walk has the spectrum of a power law. Beside
:func:`nets.measure.components.project` (another window), these controls say what is left.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import xarray as xr

import fpsolve
from fpsolve.symbols.counter_rng import Seed, random_key
from nets.measure import curvature
from nets.measure.batched_loss import ShiftedLoss, shifted_loss
from nets.measure.loss_widths import starting_loss
from nets.training.run import Run, run_attributes

__all__ = ["hessian_basis", "random_walk", "shuffled"]


def shuffled(window: xr.Dataset, *, rng: Seed = None) -> xr.Dataset:
    """The same increments in a random order: same start and end, same D, no correlation in time.

    Parameters
    ----------
    window : Dataset
        From :func:`nets.training.train.record`.
    rng : int, SeedSequence, Generator or str

    Returns
    -------
    Dataset
        ``weights`` (step, weight), float64; ``attrs["control"]`` says what was done.
    """
    weights = _recorded(window)
    steps = np.random.default_rng(random_key(rng)).permutation(np.diff(weights, axis=0))
    return _walk(window, weights[0], steps, "shuffled increments")


def random_walk(window: xr.Dataset, *, rng: Seed = None) -> xr.Dataset:
    """An isotropic random walk of the same length, start and mean square step.

    Parameters
    ----------
    window : Dataset
    rng : int, SeedSequence, Generator or str

    Returns
    -------
    Dataset
        As :func:`shuffled`.
    """
    weights = _recorded(window)
    scale = np.sqrt(np.square(np.diff(weights, axis=0)).mean())
    steps = np.random.default_rng(random_key(rng)).normal(0.0, scale, (len(weights) - 1, weights.shape[1]))
    return _walk(window, weights[0], steps, "isotropic random walk")


def hessian_basis(
    run: Run,
    *,
    layer: int,
    count: int,
    share: float = 0.999,
    rng: Seed = 0,
) -> xr.Dataset:
    """Leading eigenvectors of the Hessian of the loss by one layer's weights.

    From :func:`nets.measure.curvature.top_eigenpairs`, in float64. Samples are gone through from the
    largest loss
    down until they hold ``share`` of it: the curvature of a sample's cross-entropy in its logits is at most
    twice its loss, so the rest can hardly matter.

    Parameters
    ----------
    run : Run
    layer : int
        Counts the layers that hold weights, from 0.
    count : int
        How many eigenvectors.
    share : float
        In (0, 1]; 1 takes all samples.
    rng : int, SeedSequence, Generator or str
        Of the starting vector.

    Returns
    -------
    Dataset
        ``direction`` (mode, weight) and ``curvature`` (mode), largest first, for ``flatness.widths`` and
        ``principal_components.project``; ``attrs["samples_used"]``.

    Raises
    ------
    ValueError
        If ``count`` is not below the number of weights, or the loss is zero to rounding.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share:g} must lie in (0, 1]")
    whole = shifted_loss(run.net, layer, run.data.train_inputs, run.data.train_labels)
    starting_loss(whole)
    if not 1 <= count < whole.size:
        raise ValueError(f"count={count} must lie between 1 and {whole.size - 1}, below the layer's weights")
    kept = _heaviest(whole, share)
    net = copy.deepcopy(run.net).double()
    inputs, labels = run.data.train_inputs[kept].double(), run.data.train_labels[kept]
    found = curvature.top_eigenpairs(
        net, inputs, labels, count=count, layer=layer, rng=np.random.default_rng(random_key(rng))
    )
    values = found["eigenvalue"].to_numpy() * (len(kept) / run.data.samples)
    attributes = run_attributes(run) | {
        "title": "eigenvectors of the Hessian by one layer's weights",
        "basis": "eigenvectors of the Hessian",
        "layer": layer,
        "samples_used": len(kept),
        "fpsolve_version": fpsolve.__version__,
    }
    return xr.Dataset(
        {
            "curvature": ("mode", values, {"long_name": "eigenvalue of the Hessian", "units": "1"}),
            "direction": (
                ("mode", "weight"),
                found["eigenvector"].to_numpy().T,
                {"long_name": "eigenvector", "units": "1"},
            ),
        },
        coords={"mode": ("mode", np.arange(1, count + 1), {"long_name": "mode i", "units": "1"})},
        attrs=attributes,
    )


def _heaviest(loss: ShiftedLoss, share: float) -> torch.Tensor:
    """Numbers of the samples with the largest losses that together hold a share of it."""
    each = loss(torch.zeros(1, loss.size), reduction="none")[0]
    order = torch.argsort(each, descending=True)
    if share == 1:
        return order
    reached = torch.cumsum(each[order], 0) / each.sum()
    return order[: int((reached < share).sum()) + 1]


def _recorded(window: xr.Dataset) -> np.ndarray:
    weights = window["weights"].transpose("step", "weight").to_numpy().astype(float)
    if len(weights) < 3:
        raise ValueError(f"the window has {len(weights)} steps; a control needs at least 3")
    return weights


def _walk(window: xr.Dataset, start: np.ndarray, steps: np.ndarray, control: str) -> xr.Dataset:
    """A window with other increments."""
    path = np.concatenate([start[None], steps])
    np.cumsum(path, axis=0, out=path)
    result = xr.Dataset(
        {"weights": (("step", "weight"), path, dict(window["weights"].attrs))},
        coords={"step": window["step"]} if "step" in window.coords else {},
        attrs=dict(window.attrs) | {"control": control},
    )
    return result
