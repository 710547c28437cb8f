"""Minibatch losses near a solution: profiles, curvatures, places of minima, and what theory makes of them.

Along a direction p_i each minibatch has ln L^μ(w₀ + x p_i) ≈ ln L^μ_0 + ½M^μ_ii x(x − 2θ̃^μ_i) (PNAS 9). From
the fitted M^μ_ii and θ̃^μ_i the random-landscape theory predicts the mean loss, its flatness and the velocity
variance D_i; all three are measured beside it.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

import fpsolve
from fpsolve.progress import shown
from fpsolve.symbols.counter_rng import Seed, random_key
from nets.measure.loss_widths import loss_along, starting_loss
from nets.training.run import Run
from theory import random_landscape

#: Quantiles that stand for one standard deviation of a normal law, for numbers with heavy tails.
QUARTILE = 1.3489795003921634

__all__ = ["ensemble", "predictions", "profiles"]


def profiles(
    run: Run,
    modes: xr.Dataset,
    widths: xr.Dataset,
    *,
    batch_size: int | None = None,
    points: int = 11,
    span: float = 1.0,
    rng: Seed = 0,
    progress: bool = False,
) -> xr.Dataset:
    """L^μ(w₀ + x p_i) of every minibatch of one epoch, and their mean.

    Parameters
    ----------
    run : Run
        Its weights are w₀, and its training samples are dealt into ⌊M/B⌋ minibatches.
    modes : Dataset
        With ``direction`` (mode, weight).
    widths : Dataset
        From :func:`nets.measure.loss_widths.widths`, of the modes wanted: sets how far to go.
    batch_size : int, optional
        B; default the run's.
    points : int
        Odd, at least 5, so that x = 0 is among them.
    span : float
        Profiles reach from −span·F_i/2 to span·F_i/2.
    rng : int, SeedSequence, Generator or str
        Deals the samples.
    progress : bool

    Returns
    -------
    Dataset, dims mode, point, batch
        ``minibatch_loss``, ``loss`` (their mean) and ``distance`` x (mode, point). Modes with an open-ended
        width are left out.

    Raises
    ------
    ValueError
        If numbers make no sense or no mode has a finite width.
    """
    if points < 5 or points % 2 == 0:
        raise ValueError(f"points={points} must be odd and at least 5")
    if not span > 0:
        raise ValueError(f"span={span:g} must be positive")
    B = run.settings.batch_size if batch_size is None else batch_size
    samples = run.data.samples
    if not 1 <= B <= samples // 2:
        raise ValueError(f"batch_size={B} must lie between 1 and half of the {samples} training samples")
    usable = widths["mode"][np.isfinite(widths["width"])].to_numpy()
    if usable.size == 0:
        raise ValueError("no mode has a finite width: there is no scale for the profiles")
    loss = loss_along(run, modes, double=True)
    starting_loss(loss)
    count = samples // B
    dealt = np.random.default_rng(random_key(rng)).permutation(samples)[: count * B]
    order = torch.as_tensor(dealt, device=loss.labels.device)
    width = widths["width"].sel(mode=usable).to_numpy()
    x = np.linspace(-0.5, 0.5, points) * span * width[:, None]
    table = modes["direction"].sel(mode=usable).to_numpy()
    values = np.empty((len(usable), points, count))
    for row in shown(range(len(usable)), unit="mode", progress=progress):
        losses = loss.along(table[row : row + 1], x[row : row + 1], reduction="none")[0]
        values[row] = losses[:, order].unflatten(1, (count, B)).mean(2).cpu().numpy()
    return xr.Dataset(
        {
            "minibatch_loss": (
                ("mode", "point", "batch"),
                values,
                {"long_name": "minibatch loss L^mu", "units": "1"},
            ),
            "loss": (("mode", "point"), values.mean(2), {"long_name": "loss L_i", "units": "1"}),
        },
        coords={
            "mode": modes["mode"].sel(mode=usable),
            "distance": (("mode", "point"), x, {"long_name": "displacement along p_i", "units": "1"}),
        },
        attrs={
            "title": "minibatch losses along directions",
            "batch_size": int(B),
            "learning_rate": float(run.settings.learning_rate),
            "span": float(span),
            "basis": str(modes.attrs.get("basis", "given")),
            "fpsolve_version": fpsolve.__version__,
        },
    )


def ensemble(profiles: xr.Dataset) -> xr.Dataset:
    """Least-squares parabolas through ln L^μ: curvature and place of the minimum of every minibatch.

    ln L^μ = a + b x + ½M x², so L^μ_0 = e^a, M^μ_ii = M and θ̃^μ_i = −b/M.

    Parameters
    ----------
    profiles : Dataset
        From :func:`profiles`.

    Returns
    -------
    Dataset, dims mode, batch
        ``curvature`` M^μ_ii, ``slope`` b^μ_i = ∂ ln L^μ, ``minimum`` θ̃^μ_i (NaN where M ≤ 0), ``value``
        L^μ_0 at x = 0, and ``residual``, the root mean square misfit of ln L^μ over the profile.

    Raises
    ------
    ValueError
        If a minibatch loss is zero to rounding.
    """
    losses = profiles["minibatch_loss"].to_numpy()
    if not (losses > 0).all():
        raise ValueError(
            "a minibatch loss is zero to rounding: use a larger batch_size or stop training earlier"
        )
    slope, curvature, residual = _parabolas(losses, profiles["distance"].to_numpy())
    minimum = np.where(curvature > 0, -slope / np.where(curvature > 0, curvature, 1.0), np.nan)
    middle = losses.shape[1] // 2
    columns = {
        "curvature": (curvature, "curvature M_ii of ln L^mu"),
        "slope": (slope, "slope of ln L^mu at w0"),
        "minimum": (minimum, "place of the minimum of L^mu along p_i"),
        "value": (losses[:, middle], "minibatch loss at w0"),
        "residual": (residual, "misfit of ln L^mu"),
    }
    return xr.Dataset(
        {k: (("mode", "batch"), v, {"long_name": text, "units": "1"}) for k, (v, text) in columns.items()},
        coords={"mode": profiles["mode"]},
        attrs=dict(profiles.attrs) | {"title": "parabolas of ln L^mu along directions"},
    )


def _parabolas(losses: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, curvature and misfit of ln L, each (mode, batch), from losses (mode, point, batch)."""
    scale = np.abs(x).max(1)
    u = x / scale[:, None]
    basis = np.stack([np.ones_like(u), u, 0.5 * u**2], axis=-1)  # (mode, point, 3)
    logs = np.log(losses)
    fit = np.einsum("mcp,mpb->mcb", np.linalg.pinv(basis), logs)
    residual = np.sqrt(np.square(logs - np.einsum("mpc,mcb->mpb", basis, fit)).mean(1))
    return fit[:, 1] / scale[:, None], fit[:, 2] / scale[:, None] ** 2, residual


def predictions(profiles: xr.Dataset) -> xr.Dataset:
    """What the random-landscape theory makes of the ensemble, beside what is measured at the same weights.

    The pull on mode i is b^μ_i = −M_ii θ̃_i = −Σ_j M_ij θ_j, so the sums over the other modes in
    M_ii = M⁰_i + ⟨(Σ_j M_ij θ_j)²⟩ need no M_ij: they are ⟨b²⟩ − ⟨b⟩².

    Parameters
    ----------
    profiles : Dataset
        From :func:`profiles`.

    Returns
    -------
    Dataset, dim mode
        ``curvature_mean`` M⁰_i, ``curvature_std`` σ_M,i, ``minimum_std`` σ̃_θ,i (from the quartiles, since a
        ratio with M near 0 has heavy tails), ``no_minimum`` (share of minibatches with M ≤ 0);
        ``mean_curvature`` predicted M_ii and ``mean_curvature_measured`` (a parabola through ln L_i);
        ``width_predicted`` √(8/M_ii); ``velocity_variance_predicted`` (PNAS 12: the factors taken as
        independent), ``velocity_variance_measured`` α²⟨(∂L^μ)²⟩ at w₀ with ∂L^μ = L^μ_0 b^μ_i, and standard
        errors of the measured ones over minibatches.
    """
    fitted = ensemble(profiles)
    M, b, value = (fitted[k].to_numpy() for k in ("curvature", "slope", "value"))
    low, high = np.nanquantile(fitted["minimum"].to_numpy(), [0.25, 0.75], axis=1)
    minimum_std = (high - low) / QUARTILE
    alpha = float(fitted.attrs["learning_rate"])
    whole = _parabolas(profiles["loss"].to_numpy()[..., None], profiles["distance"].to_numpy())[1][:, 0]
    predicted = M.mean(1) + b.var(1)
    velocity = np.square(alpha * value * b)
    D = random_landscape.velocity_variance(
        alpha,
        mean_square_loss=np.square(value).mean(1),
        mean_square_curvature=np.square(M).mean(1),
        position_variance=minimum_std**2,
    )
    columns = {
        "curvature_mean": (M.mean(1), "mean curvature of ln L^mu"),
        "curvature_std": (M.std(1), "standard deviation of the curvature of ln L^mu"),
        "minimum_std": (minimum_std, "spread of the places of minima, from quartiles"),
        "no_minimum": ((M <= 0).mean(1), "share of minibatches without a minimum"),
        "mean_curvature": (predicted, "predicted curvature of ln L"),
        "mean_curvature_measured": (whole, "measured curvature of ln L"),
        "width_predicted": (random_landscape.flatness(predicted), "predicted flatness"),
        "velocity_variance_predicted": (D, "predicted velocity variance"),
        "velocity_variance_measured": (velocity.mean(1), "velocity variance at w0"),
        "velocity_variance_measured_stderr": (
            velocity.std(1, ddof=1) / np.sqrt(velocity.shape[1]),
            "its standard error over minibatches",
        ),
    }
    return xr.Dataset(
        {k: ("mode", v, {"long_name": text, "units": "1"}) for k, (v, text) in columns.items()},
        coords={"mode": fitted["mode"]},
        attrs=dict(fitted.attrs) | {"title": "random-landscape predictions beside measurements"},
    )
