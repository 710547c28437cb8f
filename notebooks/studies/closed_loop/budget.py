"""Why a predicted variance fails: SGD's own variance as a product of factors.

Over copies at the same time, one step of SGD turns Var p_i into Var(p_i − ηg_i) + η²⟨C_ii⟩, with p_i the
coordinate along e_i and g_i = e_i·∇L at each copy's own weights. Where Var p_i stands still,
Var p_i = η⟨C_ii⟩/(λ(2 − ηλ(1 + ρ))), λ = Cov(p_i, g_i)/Var p_i and ρ = Var g_i/(λ²Var p_i) − 1. This
identity is exact. The ratio of SGD's variance to D_i/λ_i is a product of factors, one per approximation.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fpsolve.results import dataset, quantity
from nets.measure.valley import MeasuredValley
from notebooks.studies.closed_loop.predictions import coupled_variances, settled_variance
from notebooks.studies.closed_loop.walks import PLACES

#: The corrections, one after the other, that lead from D_i/λ_i at w₀ to the identity.
CORRECTIONS = {
    "D/λ at the start": "noise and curvature of w₀, continuous time",
    "finite step": "1/(1 − ηλ/2)",
    "moving": "C and λ where the walk is, not where it began",
    "couplings": "H and C between sharp directions",
    "minibatch Hessians": "each minibatch has its own λ",
    "noise at y": "C at the copies' sharp and flat coordinates",
    "noise of the net": "C at the copies' own weights",
    "D/λ of the net": "C and e_iᵀHe_i at the copies' own weights",
    "force of the net": "g_i at the copies' own weights",
}


def variance_budget(valley: MeasuredValley, walked: xr.Dataset) -> xr.Dataset:
    """Predictions of Var y_i with one correction after the other, down to the exact identity.

    ``walked`` comes from ``walks.walk``, with minibatches drawn with replacement, so that steps are
    independent; other sampling is a ValueError. Returned over ``correction`` and ``mode``: ``predicted``,
    cumulative in the order of :data:`CORRECTIONS`, except that "noise at y" holds "minibatch Hessians"
    already, and that the last two take all from the copies: "D/λ of the net" is D_i/(λ_i(1 − ηλ_i/2)), "force
    of the net" the identity. ``sgd`` is of the second half of the walk; ``stiffness`` (place, mode), λ, and
    ``excess``, ρ at the copies' own weights, are of its end.
    """
    if valley.run.recipe.sampling != "with_replacement":
        raise ValueError("sampling='without_replacement': steps are not independent; train with replacement")
    n, rate, rows = valley.n_sharp, valley.learning_rate, ("correction", "mode")
    start = valley.profile.sel(x=0.0, method="nearest")
    C0, lam0 = np.diag(start["covariance"].to_numpy())[:n], start["curvature"].to_numpy()
    steps = walked["step"].to_numpy() - int(walked["step"][0])
    late = steps >= steps[-1] / 2
    place = walked["x"].to_numpy()[late].mean(1)
    middle = float(place.mean())
    C = valley.noise(middle)[:n]
    moving = settled_variance(valley.noise(place)[:, :n], valley.curvatures(place), rate).mean(0)
    share = moving / settled_variance(C, valley.curvatures(middle), rate)
    coupled = share * coupled_variances(valley, middle)
    ratio = walked["noise"].mean("measured") / C
    stiffness, excess = _response(valley, walked)
    noise = walked["noise"].sel(place="own").mean("measured").to_numpy()
    predicted = {
        "D/λ at the start": rate * C0 / (2 * lam0),
        "finite step": settled_variance(C0, lam0, rate),
        "moving": moving,
        "couplings": coupled,
        "minibatch Hessians": share * coupled_variances(valley, middle, minibatch_hessians=True),
        "noise at y": coupled * ratio.sel(place="shadow").to_numpy(),
        "noise of the net": coupled * ratio.sel(place="own").to_numpy(),
        "D/λ of the net": settled_variance(noise, walked["curvature"].mean("measured").to_numpy(), rate),
        "force of the net": settled_variance(noise, stiffness[0], rate, excess=excess[0]),
    }
    sgd = walked["y"].to_numpy()[late].var(1, ddof=1).mean(0)
    return dataset(
        {
            "predicted": quantity([predicted[c] for c in CORRECTIONS], rows, "Var y_i, predicted"),
            "sgd": quantity(sgd, "mode", "Var y_i of SGD"),
            "stiffness": quantity(stiffness, ("place", "mode"), "Cov(p_i, g_i) / Var p_i"),
            "excess": quantity(excess[0], "mode", "Var g_i / (λ² Var p_i) − 1"),
        },
        title="budget of Var y_i",
        coords={"correction": list(CORRECTIONS), "place": [*PLACES], "mode": np.arange(1, n + 1)},
    )


def _response(valley: MeasuredValley, walked: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """λ = Cov(p_i, g_i)/Var p_i and ρ = Var g_i/(λ²Var p_i) − 1 at the copies' ends, shape (place, mode)."""
    count = walked.sizes["measured"]
    x, y = (walked[name].to_numpy()[-1, :count] for name in ("x", "y"))
    p, g = y + valley.floors(x), walked["gradient"].sel(place=[*PLACES]).to_numpy()
    p, g = p - p.mean(0), g - g.mean(1, keepdims=True)
    square = (p**2).sum(0)
    stiffness = (p * g).sum(1) / square
    return stiffness, (g**2).sum(1) / (stiffness**2 * square) - 1
