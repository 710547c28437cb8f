"""How flat the loss becomes while a net is trained: F = Π_i λ_i^(−1/2n) over the n sharpest directions.

A net of ReLU layers without biases is homogeneous: c·w gives logits c^layers times as large and the same
classes. On data it already separates, growing weights alone lower the loss and raise F. So F is also
measured with every layer scaled back to a norm of reference, which leaves the classifier as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from fpsolve.progress import shown
from nets.data.datasets import Data
from nets.measure.curvature import hessian, leading_eigenpairs, top_eigenpairs
from nets.measure.subject import as_subject
from nets.models import weight_layers
from nets.training.run import Run, run_attributes
from nets.training.train import continued

#: Up to this many weights of one layer the matrix is diagonalised; beyond, products with it.
DENSE = 4_000


def flatness(eigenvalues: np.ndarray) -> float:
    """F = Π_i λ_i^(−1/2n), the geometric mean of the widths λ_i^(−1/2).

    Parameters
    ----------
    eigenvalues : ndarray, shape (n,)

    Returns
    -------
    float
        NaN if an eigenvalue is not positive: there is no width along that direction.

    References
    ----------
    PRL Eq. 6 and Fig. 3, with n = 10: Π Ĥ_ii^(−1/20).
    """
    values = np.asarray(eigenvalues, dtype=float)
    return float(np.exp(-0.5 * np.log(values).mean())) if (values > 0).all() else float("nan")


def top_curvatures(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    count: int = 10,
    layer: int | None = None,
) -> np.ndarray:
    """The largest eigenvalues of the Hessian, descending.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    count : int
    layer : int, optional

    Returns
    -------
    ndarray, shape (count,)
        From the dense matrix for one layer of up to ``DENSE`` weights, else by Lanczos.
    """
    subject = as_subject(net, inputs, labels, layer=layer)
    if subject.piecewise_linear and subject.size <= DENSE:
        return leading_eigenpairs(hessian(subject).to_numpy(), count)[0][::-1]
    return top_eigenpairs(subject, count=count, rng=0).eigenvalue.to_numpy()


def rescaled(net: nn.Sequential, norms: Sequence[float]) -> nn.Sequential:
    """A copy with the weights of each layer scaled to a given norm.

    Parameters
    ----------
    net : nn.Sequential
        Layers without biases.
    norms : sequence of float
        One for each layer that holds weights.

    Returns
    -------
    nn.Sequential
        It classifies as before: logits are multiplied by the product of all factors.

    Raises
    ------
    ValueError
        If a layer has a bias, or there are not as many norms as layers.
    """
    other = copy.deepcopy(net)
    layers = [module for _, module in weight_layers(other)]
    if len(norms) != len(layers) or any(module.bias is not None for module in layers):
        raise ValueError(f"rescaling needs {len(layers)} norms, not {len(norms)}, and layers without biases")
    with torch.no_grad():
        for module, norm in zip(layers, norms, strict=True):
            module.weight.mul_(norm / float(module.weight.norm()))
    return other


def layer_norms(net: nn.Sequential) -> tuple[float, ...]:
    """Euclidean norm of the weights of each layer.

    Parameters
    ----------
    net : nn.Sequential

    Returns
    -------
    tuple of float
    """
    return tuple(float(module.weight.detach().norm()) for _, module in weight_layers(net))


def flatness_dynamics(
    run: Run,
    *,
    epochs: Sequence[int],
    layer: int | None = 1,
    count: int = 10,
    norms: Sequence[float] | None = None,
    samples: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Go on with a run and measure flatness on the way.

    Parameters
    ----------
    run : Run
        From :func:`nets.training.train.sgd`, with any optimiser; for ``gd`` ones an epoch is one step.
    epochs : sequence of int
        Ascending epochs at which to measure, counted from the start of training; none before the run's own.
    layer : int or None
        Curvature by this layer's weights (1: the hidden 50 × 50 of 784-50-50-10), or by all.
    count : int
        Directions n in F.
    norms : sequence of float, optional
        Reference norms for the rescaled F; default those of the layers where the run stands now.
    samples : int, optional
        Take curvatures over the first so many training rows; default all.
    progress : bool

    Returns
    -------
    Dataset, dim epoch
        ``flatness``; ``flatness_rescaled``, at the reference norms; ``eigenvalue`` (epoch, mode) and
        ``eigenvalue_rescaled``; ``loss``, ``accuracy``, ``test_accuracy``, ``weight_norm``; coordinates
        ``epoch``, ``step`` and ``time`` = learning rate × steps.

    Raises
    ------
    ValueError
        If epochs do not ascend or begin before the run stands.

    References
    ----------
    PRL Figs. 2b and 3b. The paper says that scaling drives the continued increase,
    and does not divide it out.
    """
    wanted = [int(e) for e in epochs]
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < run.epoch:
        raise ValueError(f"epochs={wanted} must ascend and not begin before the run's epoch {run.epoch}")
    reference = layer_norms(run.net) if norms is None else tuple(norms)
    inputs, labels = _rows(run.data, samples)
    found: dict[str, list] = {"eigenvalue": [], "eigenvalue_rescaled": [], "steps": []}
    for epoch in shown(wanted, unit="measurement", progress=progress, leave=True):
        if epoch > run.epoch:
            run = continued(run, epoch - run.epoch)
        for name, net in (("eigenvalue", run.net), ("eigenvalue_rescaled", rescaled(run.net, reference))):
            found[name].append(top_curvatures(net, inputs, labels, count=count, layer=layer))
        found["steps"].append(run.step)
    history = run.history.sel(epoch=wanted) if run.history.sizes else run.history
    result = history.drop_attrs(deep=False)
    words = {"flatness": "F = Π λ_i^(−1/2n)", "flatness_rescaled": "F at the reference norms"}
    for name, source in (("flatness", "eigenvalue"), ("flatness_rescaled", "eigenvalue_rescaled")):
        values = np.array(found[source])
        result[source] = (
            ("epoch", "mode"),
            values,
            {"long_name": "top eigenvalues of the Hessian", "units": "1"},
        )
        result[name] = ("epoch", [flatness(row) for row in values], {"long_name": words[name], "units": "1"})
    steps = np.array(found["steps"], dtype=np.int64)
    result = result.assign_coords(
        step=("epoch", steps, {"long_name": "steps done", "units": "1"}),
        time=(
            "epoch",
            steps * run.settings.learning_rate,
            {"long_name": "learning rate × steps", "units": "1"},
        ),
        mode=np.arange(1, count + 1),
    )
    result.attrs = run_attributes(run) | {
        "title": "flatness along training",
        "layer": "all" if layer is None else str(layer),
        "reference_norms": " ".join(f"{n:.6g}" for n in reference),
        "curvature_samples": len(labels),
    }
    return result


def _rows(data: Data, samples: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    part = data if samples is None else data.subset(samples)
    return part.train_inputs, part.train_labels
