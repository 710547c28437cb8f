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
from notebooks.studies.closed_loop.predictions import coupled_variances

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

    ``walked`` comes from :func:`notebooks.studies.closed_loop.walks.walk`, with minibatches drawn with
    replacement, so that steps are independent; other sampling is a ValueError. Returned over ``correction``
    and ``mode``: ``predicted``, cumulative in the order of :data:`CORRECTIONS`, except that "noise at y"
    holds "minibatch Hessians" already, and that the last two take all from the copies: "D/λ of the net" is
    D_i/(λ_i(1 − ηλ_i/2)), "force of the net" the identity. ``sgd``, SGD's variance over the second half of
    the walk; what is measured at copies is of its end. ``stiffness`` (place, mode), Cov(p_i, g_i)/Var p_i,
    and ``excess``, ρ at the copies' own weights.
    """
    if valley.run.recipe.sampling != "with_replacement":
        raise ValueError(
            "sampling='without_replacement': its steps are not independent; train with replacement"
        )
    n, rate = valley.n_sharp, valley.learning_rate
    origin = valley.profile.sel(x=0.0, method="nearest")
    C0, lam0 = np.diag(origin["covariance"].to_numpy())[:n], origin["curvature"].to_numpy()
    steps = walked["step"].to_numpy() - int(walked["step"][0])
    late = steps >= steps[-1] / 2
    x = walked["x"].to_numpy()
    place = x[late].mean(1)
    lam, C = valley.curvatures(place), valley.noise(place)[:, :n]
    predicted = {
        "D/λ at the start": rate * C0 / (2 * lam0),
        "finite step": rate * C0 / (2 * lam0 - rate * lam0**2),
        "moving": (rate * C / (2 * lam - rate * lam**2)).mean(0),
    }
    middle = float(place.mean())
    lam_m, C_m = valley.curvatures(middle), valley.noise(middle)[:n]
    alone = rate * C_m / (lam_m * (2 - rate * lam_m))
    predicted["couplings"] = predicted["moving"] * coupled_variances(valley, middle) / alone
    with_hessians = coupled_variances(valley, middle, minibatch_hessians=True)
    predicted["minibatch Hessians"] = predicted["moving"] * with_hessians / alone
    ends = x[-1, : walked.sizes["measured"]]
    ratio = walked["noise"].mean("measured") / C_m
    for name, at in (("noise at y", "shadow"), ("noise of the net", "own")):
        predicted[name] = predicted["couplings"] * ratio.sel(place=at).to_numpy()
    p = walked["y"].to_numpy()[-1, : len(ends)] + valley.floors(ends)
    p = p - p.mean(0)
    stiff, excess = {}, {}
    for at in ("shadow", "own"):
        g = walked["gradient"].sel(place=at).to_numpy()
        g = g - g.mean(0)
        slope = (p * g).sum(0) / (p**2).sum(0)
        stiff[at] = slope
        excess[at] = (g**2).sum(0) / (slope**2 * (p**2).sum(0)) - 1
    noisy = walked["noise"].sel(place="own").mean("measured").to_numpy()
    curved, forced = walked["curvature"].mean("measured").to_numpy(), stiff["own"]
    predicted["D/λ of the net"] = rate * noisy / (curved * (2 - rate * curved))
    predicted["force of the net"] = rate * noisy / (forced * (2 - rate * forced * (1 + excess["own"])))
    return dataset(
        {
            "predicted": quantity(
                [predicted[c] for c in CORRECTIONS], ("correction", "mode"), "Var y_i, predicted"
            ),
            "sgd": quantity(walked["y"].to_numpy()[late].var(1, ddof=1).mean(0), "mode", "Var y_i of SGD"),
            "stiffness": quantity(
                [stiff["own"], stiff["shadow"]], ("place", "mode"), "Cov(p_i, g_i) / Var p_i"
            ),
            "excess": quantity(excess["own"], "mode", "Var g_i / (λ² Var p_i) − 1"),
        },
        title="budget of Var y_i",
        coords={
            "correction": list(CORRECTIONS), "place": ["own", "shadow"], "mode": np.arange(1, n + 1),
        },
    )  # fmt: skip
