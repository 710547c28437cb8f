"""What SGD does in a measured valley: many trainings from the same weights, seen along its directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from fpsolve.sweeps.store import kept
from nets.measure.valley import MeasuredValley, at_weights, from_here, noise_factor, walk_seed, weights_at
from nets.training.run import Run

#: Where a copy's end is measured: at its own weights, and at their shadow w₀ + x u + Σ p_i e_i, projected on
#: the valley's directions.
PLACES = ("own", "shadow")


def walk(
    valley: MeasuredValley, *, replicas: int = 64, epochs: int | None = None, every: int | None = None,
    measured: int = 16, rng: int = 0, store: str | Path | None = None, progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Coordinates of independent trainings from w₀, and the loss around their ends.

    ``epochs`` are by default those of the pilots. Places are kept after steps whose number is a multiple of
    ``every``, by default a hundredth of the walk. ``measured`` counts the replicas at whose ends gradient,
    noise and Hessian are measured. A ``store``, ``….nc``, keeps the walk, and is read if it is there already.

    Returned over ``step``, ``replica`` and ``mode``: ``x``; ``y``, from the floor at that x. At the end of
    the first ``measured`` replicas, at each ``place`` of :data:`PLACES`: ``gradient`` e_i·∇L, ``noise`` C_ii
    of the minibatch gradient and ``flat_gradient`` u·∇L; ``curvature`` e_iᵀHe_i, own. A number that makes no
    sense, or a store of another walk, is a ValueError before any work; so is a replica that diverged.
    """
    epochs = int(valley.profile.attrs["epochs"]) if epochs is None else epochs
    steps = epochs * valley.run.steps_per_epoch
    every = max(1, steps // 100) if every is None else every
    numbers = {"replicas": replicas, "epochs": epochs, "every": every, "measured": measured}
    limits = (8, math.inf), (1, math.inf), (1, steps), (2, replicas)
    for (name, value), (low, high) in zip(numbers.items(), limits, strict=True):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} must lie between {low} and {high}")
    asked = {"valley": valley.digest, "rng": rng} | numbers
    return kept(store, lambda: _walk(valley, asked, progress), asked=asked)


def _walk(valley: MeasuredValley, asked: dict, progress: bool) -> xr.Dataset:
    w0, n, run = weights_at(valley.run), valley.n_sharp, valley.run
    columns = torch.from_numpy(np.ascontiguousarray(valley.directions)).to(run.recipe.torch_dtype)
    pieces = columns.split([p.numel() for p in run.net.parameters()])
    origin = torch.from_numpy(w0 @ valley.directions)
    places, when, steps = [], [], asked["epochs"] * run.steps_per_epoch

    def after_step(step: int, parameters: list[torch.Tensor]) -> None:
        if step % asked["every"] == 0 or step == steps:  # the end, where copies are measured, is always kept
            p = sum(w.flatten(1) @ piece for w, piece in zip(parameters, pieces, strict=True))
            places.append((p.double() - origin).cpu().numpy())
            when.append(step)

    seeds = [walk_seed(asked["rng"], 1, i) for i in range(asked["replicas"])]
    runs = from_here(run, asked["epochs"], seeds, after_step=after_step, progress=progress)
    p = np.array(places)
    x = p[..., n]
    return dataset(
        {
            "x": quantity(x, ("step", "replica"), "distance along the flat direction"),
            "y": quantity(p[..., :n] - valley.floors(x), ("step", "replica", "mode"), "from the floor"),
            "loss": quantity([r.loss for r in runs], "replica", "training loss at the end"),
        }
        | _at_ends(valley, runs[: asked["measured"]], progress),
        title="SGD in the measured valley",
        coords={"step": np.array(when), "place": [*PLACES]},
        seed=int(asked["rng"]), data=run.data.name, epochs=int(asked["epochs"]), steps=int(steps),
    )  # fmt: skip


def _at_ends(valley: MeasuredValley, copies: Sequence[Run], progress: bool) -> dict[str, xr.Variable]:
    """Gradient, noise and curvature at the copies' own weights and at their shadows."""
    run, directions, n = valley.run, valley.directions, valley.n_sharp
    inputs, labels, w0 = run.data.train_inputs.double(), run.data.train_labels, weights_at(run)
    ends = []
    for own in (weights_at(copy) for copy in shown(copies, unit="replica", progress=progress)):
        shadow = w0 + directions @ (directions.T @ (own - w0))
        at_own = at_weights(run, own, inputs, labels, directions)
        ends.append((at_own, at_weights(run, shadow, inputs, labels, directions, second=False)))
    places = list(zip(*ends, strict=True))
    gradient = np.array([[end.gradient for end in place] for place in places])
    noise = np.array([[np.diag(end.covariance)[:n] for end in place] for place in places])
    curvature = np.array([np.diag(own.hessian)[:n] for own in places[0]])
    at = ("place", "measured", "mode")
    return {
        "gradient": quantity(gradient[..., :n], at, "gradient of the loss along e_i"),
        "flat_gradient": quantity(gradient[..., n], at[:2], "gradient of the loss along u"),
        "noise": quantity(noise_factor(run) * noise, at, "gradient noise C_ii"),
        "curvature": quantity(curvature, at[1:], "curvature e_iᵀHe_i"),
    }
