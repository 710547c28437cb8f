"""Principal components of a recorded stretch of training: variances, directions and the motion along them.

w(t) = origin + Σ_i θ_i(t) p_i over a window of T minibatch steps (PNAS 5). Modes are numbered from 1, as in
the paper. Velocities are differences between recorded steps and D_i = ⟨v_i²⟩ per step (PNAS 12): twice a
diffusion coefficient in the sense of ``theory``. Windows for velocities keep every step.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.fft
import scipy.linalg
import xarray as xr

from fpsolve.results import provenance, quantity
from nets.checks import check_option, check_whole
from nets.measure.curvature import lanczos
from theory.random_landscape import correlation_time_from_velocities

#: Estimates of drift and of D_i get their errors from this many blocks where the window names no epochs.
BLOCKS = 10
#: Attributes of a window that its modes and exponents carry along.
CARRIED = (
    "net", "data", "data_selected", "samples", "layer", "layer_shape", "optimizer", "momentum", "noise",
    "sampling", "learning_rate", "batch_size", "steps_per_epoch", "every", "seed", "dtype", "epoch_start",
    "epoch_end", "loss_start", "loss_end", "control",
)  # fmt: skip


def analyse(
    window: xr.Dataset | xr.DataArray,
    *,
    count: int | None = None,
    origin: Literal["mean", "start"] = "mean",
    detrend: bool = False,
) -> xr.Dataset:
    """Principal components of a window: the eigenvectors of ⟨(w − origin)(w − origin)ᵀ⟩, largest first.

    The covariance (or, with fewer steps than weights, the Gram matrix) is formed and diagonalised in float64:
    variances below about 10⁻¹⁵ of the first are rounding and are left out. A ValueError is raised if the
    window has fewer than 3 steps, holds values that are not finite, or does not move.

    Parameters
    ----------
    window : Dataset or DataArray, dims (step, weight)
        Weights at every minibatch, such as :func:`nets.record` returns.
    count : int, optional
        How many modes; default every one above rounding.
    origin : {"mean", "start"}
        What the weights are measured from: their mean over the window (as a PCA does) or their first value
        (as the paper's formula for τ does).
    detrend : bool
        Subtract from every weight its least-squares straight line in time first, which takes the
        persistent drift out of all modes, not of the first alone.

    Returns
    -------
    Dataset, dims mode, weight, step
        ``variance`` σ_i², ``direction`` p_i, ``projection`` θ_i(t) (float32), ``origin``, and with their
        errors ``drift`` ⟨v_i⟩ and ``velocity_variance`` D_i = ⟨v_i²⟩; ``correlation_time`` σ_i²/D_i about
        the mean (null T/6 without correlations, T/15 detrended) and ``correlation_time_from_start``
        (null T/2, the paper's). A direction's sign makes its net motion positive.
        ``attrs["total_variance"]`` counts the modes left out as well.
    """
    weights = recorded(window).to_numpy()
    check_option("origin", origin, ("mean", "start"))
    if count is not None:
        check_whole("count", count)
    centre = weights[0].copy() if origin == "start" else weights.mean(0)
    centred = weights - centre
    if detrend:
        centred = _detrended(centred) if origin == "mean" else centred - _line(centred)
    total = float(np.square(centred).sum()) / len(weights)
    if not total > 0:
        raise ValueError("the weights do not move in this window: nothing to analyse")
    variance, direction = _eigen(centred, count)
    result = _motion(
        window, weights, centre, direction, detrend=detrend, origin=origin,
        title="principal components of SGD weights", basis="principal components of the same window",
    )  # fmt: skip
    # The eigenvalues are the exact second moments; those of the projections agree to rounding.
    result["variance"].data[:] = variance
    for name, other in (("correlation_time", "mean"), ("correlation_time_from_start", "start")):
        if origin == other:
            result[name].data[:] = variance / result.velocity_variance
    return result.assign_attrs(total_variance=total)


def project(
    window: xr.Dataset | xr.DataArray, modes: xr.Dataset, *, count: int | None = None, detrend: bool = False
) -> xr.Dataset:
    """The motion in a window along directions that were chosen elsewhere: the cross-window control.

    Directions that a PCA picks carry the largest variance of *their* window by construction. Measured in
    another window, the variance along them is free of that selection. A ValueError is raised if the numbers
    of weights differ, or the window is unusable.

    Parameters
    ----------
    window : Dataset or DataArray, dims (step, weight)
        Where variances and velocities are measured.
    modes : Dataset
        With ``direction`` (mode, weight): of another window, of the Hessian, or any orthonormal set.
    count : int, optional
        The first so many directions; default all.
    detrend : bool
        Subtract each θ_i's straight line in time.

    Returns
    -------
    Dataset
        As :func:`analyse`, about the window's mean, in the order of ``modes``: the variances need not fall.
    """
    weights = recorded(window).to_numpy()
    direction = modes["direction"].to_numpy()[:count]
    if direction.shape[1] != weights.shape[1]:
        raise ValueError(
            f"the directions have {direction.shape[1]} weights and the window {weights.shape[1]}: "
            "they belong to different layers"
        )
    centre = weights.mean(0)
    basis = str(modes.attrs.get("basis", "directions given")).replace("the same window", "another window")
    title = "motion of SGD weights along given directions"
    result = _motion(
        window, weights, centre, direction, detrend=detrend, origin="mean", title=title, basis=basis
    )
    result = result.assign_coords(mode=modes["mode"][: len(direction)])
    result["direction"] = modes["direction"][: len(direction)]
    return result.assign_attrs(total_variance=float(np.square(weights - centre).sum()) / len(weights))


def cumulative_variance(modes: xr.Dataset, *, first: int = 2) -> xr.DataArray:
    """Share of the variance in modes ``first`` … i.

    ``modes`` are from :func:`analyse`; the paper leaves out the drift mode 1. It rises to 1 if all modes were
    kept; the modes left out by ``count`` are in the denominator.
    """
    variance = modes["variance"].sel(mode=slice(first, None))
    if variance.size == 0:
        raise ValueError(f"first={first} leaves no mode; there are {modes.sizes['mode']}")
    before = float(modes["variance"].sel(mode=slice(None, first - 1)).sum())
    share = variance.cumsum("mode") / (float(modes.attrs["total_variance"]) - before)
    share.attrs = {"long_name": f"share of the variance in modes {first} to i", "units": "1"}
    return share.rename("cumulative_variance").assign_coords(mode=variance.mode)


def velocity_correlation(modes: xr.Dataset, *, lags: int) -> xr.DataArray:
    """c_i(k) = ⟨v_i(t + k) v_i(t)⟩ / D_i for k = 0 … lags steps, dims (lag, mode) (PNAS above 12).

    ``modes`` hold ``projection``, from :func:`analyse` or :func:`project`. Averages run over all pairs of
    steps at that distance; no mean is subtracted, as in the paper. A window not longer than the lags is a
    ValueError.
    """
    velocity = np.diff(modes["projection"].to_numpy().astype(float), axis=0)
    steps = len(velocity)
    check_whole("lags", lags, steps - 1, "one less than the steps of the window")
    length = scipy.fft.next_fast_len(steps + lags, real=True)
    correlation = np.empty((lags + 1, velocity.shape[1]))
    for first in range(0, velocity.shape[1], 64):  # so that the transforms stay small
        part = slice(first, first + 64)
        spectrum = scipy.fft.rfft(velocity[:, part], length, axis=0)
        correlation[:, part] = scipy.fft.irfft(np.abs(spectrum) ** 2, length, axis=0)[: lags + 1]
    correlation /= (steps - np.arange(lags + 1))[:, None]
    with np.errstate(invalid="ignore"):  # a mode that does not move
        correlation /= correlation[0]
    coords = {"lag": quantity(np.arange(lags + 1), "lag", "lag", "steps"), "mode": modes["mode"]}
    found = quantity(correlation, ("lag", "mode"), "normalised velocity correlation c_i")
    return xr.DataArray(found, coords, name="velocity_correlation")


def correlation_times(modes: xr.Dataset, *, lags: int) -> xr.DataArray:
    """τ_i in steps from the velocities alone, by the double sum of PNAS 13 with c_i = 0 beyond ``lags``.

    The origin is the window's start (null T/2). Independent of σ_i², unlike ``modes.correlation_time``, so ψ
    = ψ_D + ψ_τ is no identity for it. ``lags`` may be an epoch for sampling without replacement, whose c_i is
    about −1/(m − 1) at every lag inside an epoch.
    """
    c = velocity_correlation(modes, lags=lags)
    tau = correlation_time_from_velocities(c.to_numpy(), steps=modes.sizes["step"])
    found = quantity(tau, "mode", f"correlation time from c_i(t), t ≤ {lags}", "steps")
    return xr.DataArray(found, {"mode": c["mode"]}, name="correlation_time_from_velocities")


def recorded(window: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """The window's one variable over (step, weight), in float64.

    Other dims, fewer than 3 steps and numbers that are not finite are a ValueError.
    """
    if isinstance(window, xr.Dataset):
        found = [v for v in window.data_vars.values() if set(v.dims) == {"step", "weight"}]
        if len(found) != 1:
            raise ValueError(f"a window has one variable over (step, weight); found {len(found)}")
        window = found[0]
    if set(window.dims) != {"step", "weight"}:
        raise ValueError(f"a window has dims ('step', 'weight'), got {window.dims}")
    window = window.transpose("step", "weight").astype(float)
    if len(window) < 3:
        raise ValueError(f"the window has {len(window)} steps; at least 3 are needed")
    weights = window.to_numpy()
    # One sum finds every infinity and NaN without a table of booleans.
    if not np.isfinite(weights.sum()):
        step = int(np.flatnonzero(~np.isfinite(weights).all(1))[0])
        raise ValueError(f"the weights are not finite from step {step} of the window on: training diverged")
    return window


def _line(values: np.ndarray) -> np.ndarray:
    """The slope part of the straight line through every column."""
    time = np.arange(len(values)) - (len(values) - 1) / 2
    return time[:, None] * (time @ values / (time @ time))


def _detrended(values: np.ndarray) -> np.ndarray:
    """Every column without its least-squares straight line."""
    return values - values.mean(0) - _line(values)


def _eigen(centred: np.ndarray, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of the second-moment matrix and their vectors, as rows."""
    steps, size = centred.shape
    small = min(steps, size)
    matrix = (centred.T @ centred if size <= steps else centred @ centred.T) / steps
    wanted = small if count is None else min(count, small)
    if 8 * wanted < small:  # a few of many: Lanczos, from a fixed start
        values, vectors = lanczos(matrix, wanted, np.random.default_rng(0).normal(size=small))
    else:
        values, vectors = scipy.linalg.eigh(matrix, overwrite_a=True, check_finite=False, driver="evd")
    values, vectors = values[::-1][:wanted], vectors[:, ::-1][:, :wanted]
    kept = values > np.finfo(float).eps * max(centred.shape) * values[0]
    values, vectors = values[kept], vectors[:, kept]
    if size > steps:
        vectors = centred.T @ vectors / np.sqrt(steps * values)
    direction = np.ascontiguousarray(vectors.T)
    net = direction @ (centred[-1] - centred[0])
    direction[net < 0] *= -1.0
    return values.copy(), direction


def _motion(
    window: xr.Dataset | xr.DataArray, weights: np.ndarray, centre: np.ndarray, direction: np.ndarray, *,
    detrend: bool, origin: str, title: str, basis: str,
) -> xr.Dataset:  # fmt: skip
    """Motion along directions: variance, drift, D and both correlation times, with what a window carries."""
    steps, attrs = len(weights), {key: window.attrs[key] for key in CARRIED if key in window.attrs}
    theta = (weights - centre) @ direction.T
    velocity = np.diff(theta, axis=0)
    if detrend:
        theta = _detrended(theta)
    blocks = _blocks(steps - 1, attrs)
    drift, drift_error = _block_mean(velocity, blocks)
    D, D_error = _block_mean(np.square(velocity, out=velocity), blocks)
    variance = theta.var(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        tau, tau_start = variance / D, np.square(theta - theta[0]).mean(0) / D
    time = "correlation time σ_i²/D_i, about the"
    columns = {
        "variance": (variance, "variance σ_i²", "1"),
        "drift": (drift, "drift velocity ⟨v_i⟩", "1/step"),
        "drift_stderr": (drift_error, "standard error of the drift, over blocks", "1/step"),
        "velocity_variance": (D, "velocity variance D_i = ⟨v_i²⟩", "1/step^2"),
        "velocity_variance_stderr": (D_error, "standard error of D_i, over blocks", "1/step^2"),
        "correlation_time": (tau, f"{time} mean", "steps"),
        "correlation_time_from_start": (tau_start, f"{time} window's start", "steps"),
    }
    variables = {name: quantity(value, "mode", *words) for name, (value, *words) in columns.items()}
    variables["projection"] = quantity(theta.astype(np.float32), ("step", "mode"), "projection θ_i")
    variables["direction"] = quantity(direction, ("mode", "weight"), "principal direction p_i")
    variables["origin"] = quantity(centre, "weight", f"{origin} of the weights")
    mode = quantity(np.arange(1, len(direction) + 1), "mode", "mode i")
    own = provenance(title, steps=steps, basis=basis, origin=origin, detrended=detrend)
    return xr.Dataset(variables, {"mode": mode}, attrs | own)


def _blocks(steps: int, attrs: dict) -> int:
    """Number of blocks for errors: the epochs, where the window knows them."""
    epoch = int(attrs.get("steps_per_epoch", 0)) // int(attrs.get("every", 1))
    return steps // epoch if epoch and steps // epoch >= 2 else min(BLOCKS, steps)


def _block_mean(values: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error from the scatter of blocks."""
    length = len(values) // blocks
    means = values[: length * blocks].reshape(blocks, length, -1).mean(1)
    error = means.std(0, ddof=1) / np.sqrt(blocks) if blocks > 1 else np.full(values.shape[1], np.nan)
    return values.mean(0), error
