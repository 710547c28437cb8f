"""C and H of several nets along training: measured, averaged with intervals, and who carries the noise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

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
_GEOMETRIC = ("size_ratio", "size_ratio_top", "label_ratio")
_CORRELATIONS = ("pearson_elements", "pearson_diagonal", "log_pearson_diagonal", "overlap")
_PLAIN = ("slope_diagonal", "coefficient", "gradient_norm")


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

    ``net`` has the shape of the nets whose ``weights`` are from
    :func:`nets.training.along.weights_along`. All training rows are taken, and the weights of ``layer``, by
    default of all layers. Files
    ``f"{store}_{training}_{epoch}.nc"`` are kept; a run that is killed goes on from them. A ValueError if
    there are too many weights for dense matrices, or a file holds the answer for other weights, other data or
    another layer.

    The Dataset, dims training, epoch, matrix and mode, is that of
    :func:`nets.measure.overlaps.noise_alignment` with ``size_ratio_top``, the geometric mean of A_ii/H_ii
    over the ten sharpest directions. ``attrs["cpu_seconds"]`` adds up the processor time.
    """
    asked = {"what": "noise_alignment", "net": description(net), "data": data.digest, "layer": layer}
    places = [(k, int(e)) for k in range(weights.sizes["training"]) for e in weights["epoch"].to_numpy()]
    found = []
    for k, epoch in shown(places, unit="net", progress=progress, leave=True):
        there = net_at(net, weights, training=k, epoch=epoch)
        subject = as_subject(there, data.train_inputs, data.train_labels, layer=layer)
        found.append(
            kept(
                None if store is None else f"{os.fspath(store)}_{k}_{epoch}.nc",
                partial(noise_alignment, subject),
                asked=asked | {"weights": net_digest(there)},
            )
        )
    count = weights.sizes["epoch"]
    trainings = [
        xr.concat(found[i : i + count], dim=weights["epoch"], combine_attrs="override", data_vars="all")
        for i in range(0, len(found), count)
    ]
    every = xr.concat(trainings, dim="training", combine_attrs="override", data_vars="all")
    top = (every["diagonal"] / every["eigenvalue"]).isel(mode=slice(SHARPEST))
    every["size_ratio_top"] = top.reduce(stats.gmean, dim="mode").assign_attrs(
        long_name=f"A_ii / H_ii, geometric mean of the {SHARPEST} sharpest directions", units="1"
    )
    return every.assign_attrs(
        data=data.name, cpu_seconds=float(sum(part.attrs["cpu_seconds"] for part in found))
    )


def alignment_summary(every: xr.Dataset, *, confidence: float = 0.95) -> xr.Dataset:
    """Means over trainings with Student's intervals: ratios by their logarithms, correlations by Fisher's z.

    ``every`` is from :func:`alignment_along`. The result, dims epoch and matrix, has each number with
    ``_low`` and ``_high``, and without them ``error``, the mean share of misclassified samples.
    """
    names = [n for n in (*_GEOMETRIC, *_CORRELATIONS, *_PLAIN) if n in every]
    summary = over_trainings(
        [every[names].isel(training=k) for k in range(every.sizes["training"])],
        confidence=confidence,
        geometric=[n for n in _GEOMETRIC if n in every],
        correlations=[n for n in _CORRELATIONS if n in every],
    )
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
    for k, j in np.ndindex(values.shape[:2]):
        here = part.isel(training=k, epoch=j)
        x, y = here["eigenvalue"].to_numpy(), here["diagonal"].to_numpy()
        for i, floor in enumerate(floors):
            above = (x > floor * x[0]) & (y > 0)
            counts[k, j, i] = above.sum()
            if above.sum() > 2:
                values[k, j, i] = stats.linregress(np.log(x[above]), np.log(y[above])).slope
    coords = {"epoch": every["epoch"], "floor": np.array(floors, dtype=float)}
    dims = ("epoch", "floor")
    words = "log-log slope of C_ii by H_ii"
    result = over_trainings([xr.Dataset({"slope": quantity(v, dims, words)}, coords) for v in values])
    return result.assign(directions=quantity(counts.mean(0), dims, "directions"))


def noise_carriers(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """How many samples carry the noise, (Σ_s r_s²)² / Σ_s r_s⁴ with r_s² = ‖p − e_label‖² of sample s.

    Between 1, where one sample has all of it, and M. ``logits`` have shape (M, K), ``labels`` (M,).
    """
    squares = residuals(logits.double(), labels).square().sum(1)
    return float(squares.sum() ** 2 / squares.square().sum())
