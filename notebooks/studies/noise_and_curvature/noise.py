"""The gradient noise of one net, looked at from all sides, and several such studies with intervals.

What ICLR Figs. 1 and 7 show by eye: noise pooled across parameters, noise across minibatches, and beside each
the same statistics of a Gaussian vector with the same covariance, which says what anisotropy alone does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import nn

from fpsolve.laws import gaussian_noise, gaussianity, law_fits
from fpsolve.results import quantity
from fpsolve.statistics import mean_and_error, over_trainings
from fpsolve.table import interval_table
from nets.measure.curvature import hessian
from nets.measure.noise import Rng, batch_factor, minibatch_gradients, noise_covariance, projected_gradients
from nets.measure.subject import as_subject

if TYPE_CHECKING:
    import pandas as pd

#: What is fitted: all weights' components of one draw, or all draws of one weight's.
POOLED = tuple(
    f"across {over}: {of}" for over in ("parameters", "minibatches") for of in ("noise", "N(0, C)")
)
#: Directions that are tested, with their numbers.
DIRECTIONS = {"ten sharpest": 10, "random": 40, "single weights": 50}
#: Share of minibatches without any gradient above which a weight is not fitted.
MOST_ZEROS = 0.1


def noise_study(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    batch_size: int = 50,
    large_batch: int | None = None,
    draws: int = 2000,
    repeats: int = 20,
    batch_sizes: Sequence[int] = (1, 16, 64, 256, 1024),
    rng: Rng = None,
) -> xr.Dataset:
    """Trace of C drawn and exact, fitted laws, norms, and Gaussianity per direction and batch size.

    It is for the weights of ``layer``, by default of all layers, at ``inputs`` (M, …) and ``labels`` (M,).
    ``draws`` minibatches of ``batch_size`` are drawn with replacement, and as many vectors of N(0, C); an
    eighth as many minibatches of ``large_batch`` without, by default a third of the samples, where the two
    kinds of sampling differ. ``repeats`` single minibatches, and single weights, are each fitted by itself.
    ``batch_sizes`` are those of the tests per direction. A ValueError if there are too many weights for dense
    matrices, or a batch size does not fit. See ICLR Figs. 1 and 7 and Appendix C.

    The Dataset holds ``trace``, ``trace_drawn``, ``trace_stderr`` (sampling, with ``drawn_batch_size``); over
    (pooled, repeat) the fits of :func:`fpsolve.laws.law_fits` to the weights whose gradient is 0 in less than
    a tenth of the minibatches, ``fitted_share`` of all; ``component`` (weight); ``norm`` (source, draw) of
    noise and of N(0, C), with their ``norm_distance`` and ``norm_p``; and over (batch_size, direction), with
    ``group``, the tests of :func:`fpsolve.laws.gaussianity`.
    """
    subject = as_subject(net, inputs, labels, layer=layer)
    large = subject.samples // 3 if large_batch is None else large_batch
    batch_factor(subject.samples, batch_size=large, replacement=False)
    streams = np.random.default_rng(rng).spawn(6)
    exact = noise_covariance(subject)
    covariance, mean = exact["covariance"].to_numpy(), exact["mean_gradient"].to_numpy()
    data, noise, zeros = _traces(subject, (batch_size, large), draws, mean, covariance, streams)
    gaussian = gaussian_noise(covariance / batch_size, draws=draws, rng=streams[2])
    data |= _laws(noise, zeros, gaussian, min(repeats, draws), streams[3])
    norms = np.linalg.norm(noise, axis=1), np.linalg.norm(gaussian, axis=1)
    test = stats.ks_2samp(*norms)
    data |= {
        "component": quantity(noise[0], "weight", "noise of one minibatch"),
        "norm": quantity(np.array(norms), ("source", "draw"), "norm of the noise"),
        "norm_distance": quantity(float(test.statistic), (), "Kolmogorov distance of the norms"),
        "norm_p": quantity(float(test.pvalue), (), "its p"),
    }  # fmt: skip
    coords = {
        "sampling": ["with replacement", "without replacement"], "pooled": list(POOLED),
        "law": ["gaussian", "stable"], "source": ["minibatches", "N(0, C)"],
    }  # fmt: skip
    normality = _normality(subject, batch_sizes, streams[4:])
    result = xr.Dataset(data, coords).merge(normality, combine_attrs="drop")
    numbers = {"batch_size": int(batch_size), "draws": int(draws), "repeats": int(repeats)}
    return result.assign_attrs(subject.attributes("gradient noise") | numbers)


def noise_summary(studies: Sequence[xr.Dataset]) -> xr.Dataset:
    """Means over trainings with Student's intervals of what studies found, one study for each training.

    ``alpha``, ``preference`` (pooled; each training's median over repeats), ``norm_distance``,
    ``excess_kurtosis`` (group, batch_size; the median direction's, by logarithms), ``rejected`` (group,
    batch_size; share of directions); each with ``_low`` and ``_high``. ``alpha_least`` and ``alpha_most``
    (pooled) are over all repeats of all trainings.
    """
    parts = []
    for study in studies:
        part = study[["alpha", "preference"]].median("repeat").assign(norm_distance=study["norm_distance"])
        kurtosis, rejected = (study[name].groupby("group") for name in ("excess_kurtosis", "rejected"))
        part = part.assign(excess_kurtosis=kurtosis.median(), rejected=rejected.mean())
        parts.append(part.transpose("pooled", "group", "batch_size"))
    summary = over_trainings(parts, geometric=["excess_kurtosis"])
    alphas = xr.concat([study["alpha"] for study in studies], dim="training")
    return summary.assign(
        alpha_least=alphas.min(["training", "repeat"]), alpha_most=alphas.max(["training", "repeat"])
    ).sel(group=list(DIRECTIONS))


def law_table(summary: xr.Dataset) -> pd.DataFrame:
    """Stable fits as a table of text: α, Vuong's z for the stable law, and the range of α over all fits.

    ``summary`` is from :func:`noise_summary`; there is a row for each of :data:`POOLED`.
    """
    columns = {"alpha": "α of the stable fit", "preference": "Vuong's z for it"}
    ends = zip(summary["alpha_least"].to_numpy(), summary["alpha_most"].to_numpy(), strict=True)
    return interval_table(summary, columns, over="pooled", digits=3).assign(
        **{"α of all fits": [f"{low:.2f}–{high:.2f}" for low, high in ends]}
    )


def normality_table(summary: xr.Dataset) -> pd.DataFrame:
    """Tests per direction as a table of text: share rejected and median excess kurtosis for each batch size.

    ``summary`` is from :func:`noise_summary`; there are two rows for each of :data:`DIRECTIONS`.
    """
    import pandas as pd

    shown = {"rejected": ("Gaussian rejected", ".0%"), "excess_kurtosis": ("excess kurtosis", ".2g")}
    rows = {
        (group, word): {
            f"B = {b}": f"{v:{form}}" for b, v in summary[name].sel(group=group).to_series().items()
        }
        for group in DIRECTIONS
        for name, (word, form) in shown.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _traces(subject, sizes, draws, mean, covariance, streams):
    """Tr C exact and drawn, for both kinds of sampling; of the first the noise, and how often it is 0."""
    found, gradients, trace = [], [], float(np.trace(covariance))
    for size, count, again, stream in zip(
        sizes, (draws, max(draws // 8, 20)), (True, False), streams[:2], strict=True
    ):
        way = {"batch_size": size, "replacement": again}
        gradients.append(minibatch_gradients(subject, **way, draws=count, rng=stream))
        squares = ((gradients[-1] - mean).astype(float) ** 2).sum(axis=1)
        found.append((trace * batch_factor(subject.samples, **way), *mean_and_error(squares)))
    exact, measured, error = np.array(found).T
    traces = {
        "drawn_batch_size": quantity(np.array(sizes, dtype=np.int64), "sampling", "batch size"),
        "trace": quantity(exact, "sampling", "Tr C, exact"),
        "trace_drawn": quantity(measured, "sampling", "Tr C of drawn minibatches"),
        "trace_stderr": quantity(error, "sampling", "its standard error"),
    }
    return traces, gradients[0] - mean, (gradients[0] == 0).mean(axis=0)


def _laws(
    noise: np.ndarray, zeros: np.ndarray, gaussian: np.ndarray, repeats: int, rng: np.random.Generator
) -> dict:
    """Fits to single draws across weights, and to single weights across draws."""
    # A weight that often has no gradient at all has an atom at 0: no continuous law to fit.
    alive = np.flatnonzero(zeros < MOST_ZEROS)
    if not len(alive):
        raise ValueError("all weights are often without gradient; draw larger minibatches (batch_size=)")
    weights = rng.choice(alive, repeats, replace=repeats > len(alive))
    rows = rng.choice(len(noise), repeats, replace=False)
    samples = (
        [noise[r, alive] for r in rows], [gaussian[r, alive] for r in rows],
        [noise[:, w] for w in weights], [gaussian[:, w] for w in weights],
    )  # fmt: skip
    fits = [[law_fits(values, resamples=0) for values in each] for each in samples]
    share = len(alive) / noise.shape[1]
    result: dict = {"fitted_share": quantity(share, (), "share of weights that are fitted")}
    for name in ("alpha", "scale", "location", "preference", "distance"):
        values = np.array([[fit[name] for fit in each] for each in fits])
        result[name] = (("pooled", "repeat", "law")[: values.ndim], values, fits[0][0][name].attrs)
    return result


def _normality(subject, batch_sizes, streams) -> xr.Dataset:
    """Tests along the sharpest directions, random ones, and single weights."""
    H, (few, many, weights) = hessian(subject).to_numpy(), DIRECTIONS.values()
    N = len(H)
    sharp = np.linalg.eigh(H)[1][:, : -few - 1 : -1]
    random = streams[0].normal(size=(N, many)) / np.sqrt(N)
    single = np.eye(N)[:, streams[0].choice(N, weights, replace=weights > N)]
    components = projected_gradients(subject, np.concatenate((sharp, random, single), axis=1))
    found = gaussianity(components, batch_sizes=batch_sizes, rng=streams[1])
    names = np.repeat(list(DIRECTIONS), [part.shape[1] for part in (sharp, random, single)])
    return found.assign_coords(group=("direction", names[found["direction"].to_numpy()])).drop_vars(
        ["rejected_share", "rejected_share_low", "rejected_share_high"]
    )
