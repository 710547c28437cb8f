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

from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Seed, random_key
from nets.checks import check_whole
from nets.measure.loss_widths import finite_modes, from_profiles, loss_along, parabolas, starting_loss
from nets.measure.subject import Subject, numpy, step_settings
from nets.training.run import Run
from theory import random_landscape

#: Quantiles that stand for one standard deviation of a normal law, for numbers with heavy tails.
QUARTILE = 1.3489795003921634


def profiles(
    measured: Subject | Run,
    modes: xr.Dataset,
    widths: xr.Dataset,
    *,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    points: int = 11,
    span: float = 1.0,
    rng: Seed = 0,
    progress: bool = False,
) -> xr.Dataset:
    """L^μ(w₀ + x p_i) of every minibatch of one epoch, and their mean.

    The samples of a run or subject are dealt into ⌊M/B⌋ minibatches by ``rng``; B and the learning rate are
    the run's where they are not given. ``widths``, from :func:`nets.measure.loss_widths.widths`, sets how far
    to go: from −span·F_i/2 to span·F_i/2. ``points`` is odd and at least 5, so that x = 0 is among them. The
    result has dims (mode, point, batch): ``minibatch_loss``, ``loss`` (their mean) and ``distance`` x
    (mode, point). Modes with an open-ended width are left out; where none is left, or numbers make no sense,
    that is a ValueError.
    """
    if points < 5 or points % 2 == 0:
        raise ValueError(f"points={points} must be odd and at least 5")
    usable = finite_modes(widths, span)
    B, rate = step_settings(measured, batch_size, learning_rate)
    loss = loss_along(measured, modes, double=True)
    samples = loss.samples
    check_whole("batch_size", B, samples // 2, "half of the samples")
    starting_loss(loss)
    count = samples // B
    dealt = np.random.default_rng(random_key(rng)).permutation(samples)[: count * B]
    order = torch.as_tensor(dealt, device=loss.device)
    width = widths["width"].sel(mode=usable).to_numpy()
    x = np.linspace(-0.5, 0.5, points) * span * width[:, None]
    table = modes["direction"].sel(mode=usable).to_numpy()
    values = np.empty((len(usable), points, count))
    for row in shown(range(len(usable)), unit="mode", progress=progress):
        losses = loss.along(table[row : row + 1], x[row : row + 1], reduction="none")[0]
        values[row] = numpy(losses[:, order].unflatten(1, (count, B)).mean(2))
    return dataset(
        {
            "minibatch_loss": quantity(values, ("mode", "point", "batch"), "minibatch loss L^mu"),
            "loss": quantity(values.mean(2), ("mode", "point"), "loss L_i"),
        },
        title="minibatch losses along directions",
        coords={
            "mode": modes["mode"].sel(mode=usable),
            "distance": quantity(x, ("mode", "point"), "displacement along p_i"),
        },
        batch_size=B,
        learning_rate=rate,
        span=float(span),
        basis=str(modes.attrs.get("basis", "given")),
    )


def ensemble(profiles: xr.Dataset) -> xr.Dataset:
    """Least-squares parabolas through ln L^μ: curvature and place of the minimum of every minibatch.

    ln L^μ = a + b x + ½M x², so L^μ_0 = e^a, M^μ_ii = M and θ̃^μ_i = −b/M. Of ``profiles`` from
    :func:`profiles`, with dims (mode, batch): ``curvature`` M^μ_ii, ``slope`` b^μ_i = ∂ ln L^μ, ``minimum``
    θ̃^μ_i (NaN where M ≤ 0), ``value`` L^μ_0 at x = 0, and ``residual``, the root mean square misfit of ln L^μ
    over the profile. A minibatch loss that is zero to rounding is a ValueError.
    """
    losses = profiles["minibatch_loss"].to_numpy()
    if not (losses > 0).all():
        raise ValueError(
            "a minibatch loss is zero to rounding: use a larger batch_size or stop training earlier"
        )
    slope, curvature, fitted = parabolas(np.log(losses), profiles["distance"].to_numpy())
    residual = np.sqrt(np.square(np.log(losses) - fitted).mean(1))
    minimum = np.where(curvature > 0, -slope / np.where(curvature > 0, curvature, 1.0), np.nan)
    middle = losses.shape[1] // 2
    columns = {
        "curvature": (curvature, "curvature M_ii of ln L^mu"),
        "slope": (slope, "slope of ln L^mu at w0"),
        "minimum": (minimum, "place of the minimum of L^mu along p_i"),
        "value": (losses[:, middle], "minibatch loss at w0"),
        "residual": (residual, "misfit of ln L^mu"),
    }
    return from_profiles(profiles, columns, "parabolas of ln L^mu along directions", "batch")


def predictions(profiles: xr.Dataset) -> xr.Dataset:
    """What the random-landscape theory makes of the ensemble, beside what is measured at the same weights.

    The pull on mode i is b^μ_i = −M_ii θ̃_i = −Σ_j M_ij θ_j, so the sums over the other modes in
    M_ii = M⁰_i + ⟨(Σ_j M_ij θ_j)²⟩ need no M_ij: they are ⟨b²⟩ − ⟨b⟩².

    Of ``profiles`` from :func:`profiles`, per mode: ``curvature_mean`` M⁰_i, ``curvature_std`` σ_M,i,
    ``minimum_std`` σ̃_θ,i (from the quartiles, since a ratio with M near 0 has heavy tails), ``no_minimum``
    (share of minibatches with M ≤ 0); ``mean_curvature`` predicted M_ii and ``mean_curvature_measured`` (a
    parabola through ln L_i); ``width_predicted`` √(8/M_ii); ``velocity_variance_predicted`` (PNAS 12: the
    factors taken as independent), ``velocity_variance_measured`` η²⟨(∂L^μ)²⟩ at w₀ with ∂L^μ = L^μ_0 b^μ_i,
    and standard errors of the measured ones over minibatches.
    """
    fitted = ensemble(profiles)
    M, b, value = (fitted[k].to_numpy() for k in ("curvature", "slope", "value"))
    low, high = np.nanquantile(fitted["minimum"].to_numpy(), [0.25, 0.75], axis=1)
    minimum_std = (high - low) / QUARTILE
    rate = float(fitted.attrs["learning_rate"])
    whole = parabolas(np.log(profiles["loss"].to_numpy()), profiles["distance"].to_numpy())[1]
    predicted = M.mean(1) + b.var(1)
    velocity = np.square(rate * value * b)
    D = random_landscape.velocity_variance(
        rate,
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
        "width_predicted": (random_landscape.flatness(predicted), "predicted width F_i"),
        "velocity_variance_predicted": (D, "predicted velocity variance"),
        "velocity_variance_measured": (velocity.mean(1), "velocity variance at w0"),
        "velocity_variance_measured_stderr": (
            velocity.std(1, ddof=1) / np.sqrt(velocity.shape[1]),
            "its standard error over minibatches",
        ),
    }
    return from_profiles(fitted, columns, "random-landscape predictions beside measurements")
