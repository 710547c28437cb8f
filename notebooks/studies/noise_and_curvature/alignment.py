"""C and H of several nets along training: measured, averaged with intervals, and who carries the noise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import nn

from fpsolve.progress import shown
from fpsolve.results import quantity
from fpsolve.statistics import over_trainings
from fpsolve.sweeps.store import kept
from nets.data.datasets import Data
from nets.layers import description, net_digest
from nets.measure.fast import residuals
from nets.measure.overlaps import noise_alignment
from nets.measure.subject import as_subject
from nets.training.along import net_at

#: Directions in ``size_ratio_top``, as in PRL's flatness.
SHARPEST = 10
#: What is averaged by its logarithm, by Fisher's z, and as it is.
_AVERAGED = (
    ("size_ratio", "size_ratio_top", "label_ratio"),
    ("pearson_elements", "pearson_diagonal", "log_pearson_diagonal", "overlap"),
    ("slope_diagonal", "coefficient", "gradient_norm"),
)


def alignment_along(
    net: nn.Sequential,
    weights: xr.Dataset,
    data: Data,
    *,
    layer: int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """C·B and the Fisher matrices against the Hessian, for every training at every epoch that was kept.

    ``net`` has the shape of the nets whose ``weights`` are from :func:`nets.training.along.weights_along`.
    All training rows are taken, and the weights of ``layer``, by default of all layers. Files
    ``f"{store}_{training}_{epoch}.nc"`` are kept; a run that is killed goes on from them. A ValueError if
    there are too many weights for dense matrices, or a file holds the answer for other weights, other data or
    another layer.

    The Dataset, dims training, epoch, matrix and mode, is that of
    :func:`nets.measure.overlaps.noise_alignment` with ``size_ratio_top``, the geometric mean of A_ii/H_ii
    over the ten sharpest directions. ``attrs["cpu_seconds"]`` adds up the processor time.
    """
    asked = {"what": "noise_alignment", "net": description(net), "data": data.digest, "layer": layer}

    def measured(k: int, epoch: int) -> xr.Dataset:
        there = net_at(net, weights, training=k, epoch=epoch)
        subject = as_subject(there, data.train_inputs, data.train_labels, layer=layer)
        place = None if store is None else f"{os.fspath(store)}_{k}_{epoch}.nc"
        return kept(place, partial(noise_alignment, subject), asked=asked | {"weights": net_digest(there)})

    places = list(product(range(weights.sizes["training"]), weights["epoch"].to_numpy().tolist()))
    found = [measured(*place) for place in shown(places, unit="net", progress=progress, leave=True)]
    joined, count = partial(xr.concat, combine_attrs="override", data_vars="all"), weights.sizes["epoch"]
    trainings = [joined(found[i : i + count], weights["epoch"]) for i in range(0, len(found), count)]
    every = joined(trainings, "training")
    top = (every["diagonal"] / every["eigenvalue"]).isel(mode=slice(SHARPEST))
    every["size_ratio_top"] = top.reduce(stats.gmean, dim="mode").assign_attrs(
        long_name=f"A_ii / H_ii, geometric mean of the {SHARPEST} sharpest directions", units="1"
    )
    return every.assign_attrs(data=data.name, cpu_seconds=float(sum(p.attrs["cpu_seconds"] for p in found)))


def alignment_summary(every: xr.Dataset, *, confidence: float = 0.95) -> xr.Dataset:
    """Means over trainings with Student's intervals: ratios by their logarithms, correlations by Fisher's z.

    ``every`` is from :func:`alignment_along`. The result, dims epoch and matrix, has each number with
    ``_low`` and ``_high``, and without them ``error``, the mean share of misclassified samples.
    """
    ratios, correlations, plain = ([n for n in names if n in every] for names in _AVERAGED)
    ways: dict = {"geometric": ratios, "correlations": correlations, "confidence": confidence}
    summary = over_trainings(every[ratios + correlations + plain], **ways)
    return summary.assign(error=every["error"].mean("training", keep_attrs=True))


def slopes_above(every: xr.Dataset, floors: Sequence[float], *, matrix: str = "noise") -> xr.Dataset:
    """Log-log slope of A_ii by H_ii over the directions above several floors: does it depend on the range?

    ``every`` is from :func:`alignment_along`; ``floors`` are shares of the largest eigenvalue, below which
    directions are left out; ``matrix`` is A. The result, dims epoch and floor, has ``slope`` with
    ``slope_low`` and ``slope_high`` over trainings, and ``directions``, the mean number of those left.
    """
    part = every.sel(matrix=matrix)
    values = np.full((every.sizes["training"], every.sizes["epoch"], len(floors)), np.nan)
    counts = np.zeros(values.shape)
    for k, j, i in np.ndindex(values.shape):
        here = part.isel(training=k, epoch=j)
        x, y = here["eigenvalue"].to_numpy(), here["diagonal"].to_numpy()
        above = (x > floors[i] * x[0]) & (y > 0)
        counts[k, j, i] = above.sum()
        if above.sum() > 2:
            values[k, j, i] = stats.linregress(np.log(x[above]), np.log(y[above])).slope
    coords = {"epoch": every["epoch"], "floor": np.array(floors, dtype=float)}
    dims, words = ("epoch", "floor"), "log-log slope of C_ii by H_ii"
    result = over_trainings([xr.Dataset({"slope": quantity(v, dims, words)}, coords) for v in values])
    return result.assign(directions=quantity(counts.mean(0), dims, "directions"))


def noise_carriers(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """How many samples carry the noise, (Σ_s r_s²)² / Σ_s r_s⁴ with r_s² = ‖p − e_label‖² of sample s.

    Between 1, where one sample has all of it, and M. ``logits`` have shape (M, K), ``labels`` (M,).
    """
    squares = residuals(logits.double(), labels).square().sum(1)
    return float(squares.sum() ** 2 / squares.square().sum())
