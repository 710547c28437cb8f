"""What SGD does in a measured valley: many trainings from the same weights, seen along its directions.

At the walk's end noise and gradient are measured again at the replicas' own weights, and at their shadows
w₀ + x u + Σ p_i e_i, which have left the directions out that the valley leaves out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

import fpsolve
from nets.measure.valley import (
    MeasuredValley,
    at_weights,
    from_here,
    noise_factor,
    says,
    walk_seed,
    weights_at,
)
from fpsolve.progress import shown
from fpsolve.sweeps.store import kept

__all__ = ["walk"]


def walk(
    valley: MeasuredValley,
    *,
    replicas: int = 64,
    epochs: int | None = None,
    every: int | None = None,
    measured: int = 16,
    rng: int = 0,
    store: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Coordinates of independent trainings from w₀, and the loss around their ends.

    Parameters
    ----------
    valley : MeasuredValley
    replicas : int
    epochs : int, optional
        Default those of the pilots.
    every : int, optional
        Keep the places after steps whose number is a multiple of this; default a hundredth of the walk.
    measured : int
        Replicas at whose ends gradient, noise and Hessian are measured.
    rng : int
    store : path, optional
        ``….nc``: kept there, and read from there if it is there already.
    progress : bool

    Returns
    -------
    Dataset, dims step, replica, mode
        ``x``; ``y`` (from the floor at that x); at the end of the first ``measured`` replicas, at ``place``
        "own" (their weights) and "shadow" (with only the valley's directions): ``gradient`` e_i·∇L,
        ``noise`` C_ii of the minibatch gradient and ``flat_gradient`` u·∇L; ``curvature`` e_iᵀHe_i, own.

    Raises
    ------
    ValueError
        If a number makes no sense or the store holds another walk, before any work; or if a replica diverged.
    """
    epochs = int(valley.profile.attrs["epochs"]) if epochs is None else epochs
    if replicas < 8 or epochs < 1:
        raise ValueError(f"replicas={replicas} must be at least 8 and epochs={epochs} positive")
    if not 2 <= measured <= replicas:
        raise ValueError(f"measured={measured} must lie between 2 and the {replicas} replicas")
    steps = epochs * valley.run.steps_per_epoch
    every = max(1, steps // 100) if every is None else every
    if not 1 <= every <= steps:
        raise ValueError(f"every={every} must lie between 1 and the walk's {steps} steps")
    asked = {
        "valley": str(valley.profile.attrs.get("asked", valley.profile.attrs["title"])),
        "replicas": replicas, "epochs": epochs, "every": every, "measured": measured, "rng": rng,
    }  # fmt: skip
    return kept(store, lambda: _walk(valley, asked, progress), asked=asked)


def _walk(valley: MeasuredValley, asked: dict, progress: bool) -> xr.Dataset:
    w0, n, run = weights_at(valley.run), valley.n_sharp, valley.run
    dtype = run.settings.torch_dtype
    columns = torch.from_numpy(np.ascontiguousarray(valley.directions)).to(dtype)
    pieces = columns.split([p.numel() for p in run.net.parameters()])
    origin = torch.from_numpy(w0 @ valley.directions)
    places, when, steps = [], [], asked["epochs"] * run.steps_per_epoch

    def after_step(step: int, parameters: list[torch.Tensor]) -> None:
        if step % asked["every"] == 0 or step == steps:  # the end, where copies are measured, is always kept
            p = sum(w.flatten(1) @ piece for w, piece in zip(parameters, pieces, strict=True))
            places.append((p.double() - origin).numpy())
            when.append(step)

    seeds = [walk_seed(asked["rng"], 1, i) for i in range(asked["replicas"])]
    runs = from_here(run, asked["epochs"], seeds, after_step=after_step, progress=progress)
    p = np.array(places)
    x = p[..., n]
    inputs, labels = run.data.train_inputs.double(), run.data.train_labels
    ends = []
    for r in shown(runs[: asked["measured"]], unit="replica", progress=progress):
        own = weights_at(r)
        shadow = w0 + valley.directions @ (valley.directions.T @ (own - w0))
        ends.append(
            [
                at_weights(run, own, inputs, labels, valley.directions),
                at_weights(run, shadow, inputs, labels, valley.directions, second=False),
            ]
        )

    def of_ends(what) -> np.ndarray:
        return np.array([[what(a) for a in pair] for pair in ends]).swapaxes(0, 1)

    factor, at = noise_factor(run), ("place", "measured", "mode")
    gradient = of_ends(lambda a: a.gradient)
    return xr.Dataset(
        {
            "x": (("step", "replica"), x, says("distance along the flat direction")),
            "y": (("step", "replica", "mode"), p[..., :n] - valley.floors(x), says("from the floor")),
            "gradient": (at, gradient[..., :n], says("gradient of the loss along e_i")),
            "flat_gradient": (at[:2], gradient[..., n], says("gradient of the loss along u")),
            "noise": (at, factor * of_ends(lambda a: np.diag(a.covariance)[:n]), says("gradient noise C_ii")),
            "curvature": (at[1:], of_ends(lambda a: np.diag(a.hessian)[:n])[0], says("curvature e_iᵀHe_i")),
            "loss": ("replica", [r.loss for r in runs], says("training loss at the end")),
        },
        coords={"step": np.array(when), "place": ["own", "shadow"]},
        attrs={
            "title": "SGD in the measured valley", "seed": int(asked["rng"]), "data": run.data.name,
            "epochs": int(asked["epochs"]), "steps": int(asked["epochs"] * run.steps_per_epoch),
            "fpsolve_version": fpsolve.__version__,
        },
    )  # fmt: skip
