"""How flat the loss becomes while a net is trained: F = Π_i λ_i^(−1/2n) over the n sharpest directions.

A net of ReLU layers without biases is homogeneous: c·w gives logits c^layers times as large and the same
classes. On data it already separates, growing weights alone lower the loss and raise F. So F is also
measured with every layer scaled back to a norm of reference, which leaves the classifier as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from fpsolve.progress import shown
from fpsolve.results import quantity
from nets.data.datasets import Data
from nets.layers import weight_layers
from nets.measure.curvature import hessian, leading_eigenpairs, top_eigenpairs
from nets.measure.noise import noise_trace
from nets.measure.subject import as_subject
from nets.training.optimizers import GradientDescent, IsotropicNoise, Optimizer, Plain
from nets.training.run import Run, run_attributes
from nets.training.train import continued, sgd

#: Up to this many weights of one layer the matrix is diagonalised; beyond, products with it.
DENSE = 4_000


def flatness(eigenvalues: np.ndarray) -> float:
    """F = Π_i λ_i^(−1/2n), the geometric mean of the widths λ_i^(−1/2), from eigenvalues of shape (n,).

    NaN if an eigenvalue is not positive: there is no width along that direction. With n = 10 it is
    Π Ĥ_ii^(−1/20) of PRL Eq. 6 and Fig. 3.
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
    """The ``count`` largest eigenvalues of the Hessian, descending, by one layer's weights or by all.

    From the dense matrix for one layer of up to ``DENSE`` weights, else by Lanczos.
    """
    subject = as_subject(net, inputs, labels, layer=layer)
    if subject.piecewise_linear and subject.size <= DENSE:
        return leading_eigenpairs(hessian(subject).to_numpy(), count)[0][::-1]
    return top_eigenpairs(subject, count=count, rng=0).eigenvalue.to_numpy()


def rescaled(net: nn.Sequential, norms: Sequence[float]) -> nn.Sequential:
    """A copy with the weights of each layer scaled to a given norm; the layers have no biases.

    It classifies as before: logits are multiplied by the product of all factors. A ValueError if a layer has
    a bias, or there are not as many norms as layers that hold weights.
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
    """Euclidean norm of the weights of each layer."""
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
    """Go on with a run and measure flatness on the way (PRL Figs. 2b and 3b).

    ``epochs`` ascend and are counted from the start of training; for ``gd`` optimisers an epoch is one step.
    Curvature is by the weights of ``layer`` (1: the hidden 50 × 50 of 784-50-50-10), or by all for None, over
    the first ``samples`` training rows, by default all. F is over ``count`` directions; ``norms`` of
    reference are by default those of the layers where the run stands now. The paper says that scaling drives
    the continued increase, and does not divide it out. A ValueError if epochs do not ascend or begin before
    the run stands.

    The Dataset is the run's history at these epochs, which also have ``step`` and ``time``, with ``flatness``
    and ``eigenvalue`` (epoch, mode), and both with ``_rescaled``, at the reference norms.
    """
    wanted = [int(e) for e in epochs]
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < run.epoch:
        raise ValueError(f"epochs={wanted} must ascend and not begin before the run's epoch {run.epoch}")
    reference = layer_norms(run.net) if norms is None else tuple(norms)
    data = run.data if samples is None else run.data.subset(samples)
    rows, found, done = (data.train_inputs, data.train_labels), [], []
    for last in _course(run, shown(wanted, unit="measurement", progress=progress, leave=True)):
        pair = last.net, rescaled(last.net, reference)
        found.append([top_curvatures(net, *rows, count=count, layer=layer) for net in pair])
        done.append(last.step)
    history = last.history.sel(epoch=wanted) if last.history.sizes else last.history
    steps, result = np.array(done, dtype=np.int64), history.drop_attrs(deep=False)
    words = {"": "F = Π λ_i^(−1/2n)", "_rescaled": "F at the reference norms"}
    for (end, text), top in zip(words.items(), np.array(found).swapaxes(0, 1), strict=True):
        result[f"eigenvalue{end}"] = quantity(top, ("epoch", "mode"), "top eigenvalues of the Hessian")
        result[f"flatness{end}"] = quantity([flatness(row) for row in top], "epoch", text)
    result = result.assign_coords(
        step=quantity(steps, "epoch", "steps done"),
        time=quantity(steps * run.recipe.learning_rate, "epoch", "learning rate × steps"),
        mode=np.arange(1, count + 1),
    )
    result.attrs = run_attributes(last) | {
        "title": "flatness along training",
        "layer": "all" if layer is None else str(layer),
        "reference_norms": " ".join(f"{n:.6g}" for n in reference),
        "curvature_samples": data.samples,
    }
    return result


def _course(run: Run, epochs: Iterable[int]) -> Iterator[Run]:
    """The run at each of these epochs, which ascend."""
    for epoch in epochs:
        run = continued(run, epoch - run.epoch) if epoch > run.epoch else run
        yield run


def flatness_along(
    net: nn.Sequential,
    data: Data,
    *,
    steps: Sequence[int],
    learning_rate: float,
    batch_size: int | None = None,
    noise: float | None = None,
    layer: int | None = 1,
    samples: int | None = None,
    rng: int | None = None,
) -> xr.Dataset:
    """Flatness after so many steps of one kind of training, from these weights and with their norms.

    With ``batch_size`` the training is SGD with shuffled minibatches, and ``steps`` are whole epochs; without
    it every step takes all samples, with white noise of strength D = ``noise`` where it is given. ``layer``,
    ``samples`` and the result are those of :func:`flatness_dynamics`. A ValueError if steps are not whole
    epochs, or both a batch size and white noise are asked for.
    """
    if batch_size is not None and noise is not None:
        raise ValueError(f"batch_size={batch_size}, noise={noise:g}: white noise goes with full-batch steps")
    length = 1 if batch_size is None else data.samples // batch_size
    if any(s % length for s in steps):
        raise ValueError(f"steps={list(steps)} must be whole epochs of {length}")
    full: Optimizer = GradientDescent() if noise is None else IsotropicNoise(noise)
    way = Plain() if batch_size else full
    run = sgd(net, data, optimizer=way, learning_rate=learning_rate, batch_size=batch_size, epochs=1, rng=rng)
    epochs = [s // length for s in steps]
    return flatness_dynamics(run, epochs=epochs, norms=layer_norms(net), layer=layer, samples=samples)


def mean_white_noise(
    net: nn.Sequential, data: Data, *, learning_rate: float, batch_size: int, epochs: Sequence[int], rng: int
) -> float:
    """D of white noise as strong as SGD's on average: η ⟨Tr C₁⟩ / (2 B N), Tr D spread over all N weights.

    The trace is measured at ``epochs`` along the SGD run from ``net`` with seed ``rng``; the mean over time
    is by trapezoids between them.
    """
    start = sgd(net, data, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs[0], rng=rng)
    nets = (run.net for run in _course(start, epochs))
    traces = [noise_trace(as_subject(net, data.train_inputs, data.train_labels)) for net in nets]
    mean = np.trapezoid(traces, epochs) / (epochs[-1] - epochs[0]) if len(epochs) > 1 else traces[0]
    return float(learning_rate * mean / (2 * batch_size * sum(p.numel() for p in net.parameters())))
