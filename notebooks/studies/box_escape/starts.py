"""Where escapes start: trained nets, whether they are minima, and the paper's artificial starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Rng
from nets.data.datasets import Data, gaussian_clusters, load
from nets.models import fully_connected
from nets.training.recipe import Recipe
from nets.training.train import sgd
from notebooks.studies.box_escape.box import simulate_box_escape
from notebooks.studies.box_escape.dynamics import NetDynamics, net_dynamics, noise_and_curvature

#: Data sets of ICLR 2021 as two classes. The paper groups labels without saying how: here one group is
#: the classes listed (by number), about as many rows as the rest where that is possible.
BINARY: Mapping[str, tuple[int, ...]] = {
    "avila": (0,),  # A against the others
    "banknote": (1,),
    "cardiotocography": (1, 2),  # suspect or pathologic against normal
    "sensorless_2200": (0, 1, 2, 3, 4),
}


def binary_data(name: str, root: str | os.PathLike[str] | None = None) -> Data:
    """A data set as two classes, standardised.

    ``name`` is a key of ``BINARY``, or "clusters" (250 rows around two centres in four dimensions, for
    trying things out), or "gaussian": standard normal inputs and random labels, 50 000 rows of 10 features,
    as in appendix E; another name is a ValueError. Files are found as by :func:`nets.data.datasets.load`.
    """
    if name in BINARY:
        return load(name, root).select(BINARY[name], binary=True)
    if name == "gaussian":
        return gaussian_noise(50_000, 10, rng=0)
    if name == "clusters":
        return gaussian_clusters(250, 4, rng=0)
    raise ValueError(f"name={name!r} must be one of {', '.join(BINARY)}, clusters, gaussian")


def gaussian_noise(samples: int = 50_000, features: int = 10, *, rng: Rng = None) -> Data:
    """Inputs from N(0, I) with labels 0 and 1 at random: nothing to learn (ICLR 2021, appendix E.1).

    The paper has 50 000 samples and does not print the number of features. The test rows are up to a hundred
    training rows, since no test error is asked for.
    """
    generator = np.random.default_rng(rng)
    x = torch.from_numpy(generator.standard_normal((samples, features)).astype(np.float32))
    y = torch.from_numpy(generator.integers(2, size=samples))
    return Data("gaussian", x, y, x[:100], y[:100], ("0", "1"), {"file": "", "seed": str(rng)})


def pretrained(
    data: Data, *, width: int = 10, epochs: int = 300, learning_rate: float = 0.1, batch_size: int = 50,
    rng: int = 0, progress: bool = False,
) -> NetDynamics:  # fmt: skip
    """A two-layer net after some hundred epochs of SGD: the paper's start, minimum or not.

    ``width`` neurons in the hidden layer, biases in both layers; the paper says 200–1000 epochs and no more.
    ``rng`` is the seed of weights and minibatches.
    """
    net = fully_connected((data.features, width, len(data.classes)), bias=True, rng=rng)
    recipe = Recipe(learning_rate=learning_rate, batch_size=batch_size, epochs=epochs)
    dynamics = net_dynamics(sgd(net, data, recipe, rng=rng, progress=progress).net, data)
    start = f"SGD, {epochs} epochs, learning rate {learning_rate:g}, batch {batch_size}"
    return replace(dynamics, attributes={**dynamics.attributes, "start": start, "training_seed": rng})


def minimum(
    dynamics: NetDynamics, *, weight_decay: float = 0.0, iterations: int = 1500, tolerance: float = 1e-8
) -> NetDynamics:
    """The same dynamics started at a minimum of its loss, by BFGS on all samples.

    A separable problem without weight decay has no minimum: the loss falls to 0 at infinity. With weight
    decay, λ of ½ λ |w|², the problem has a minimum, and no direction is flat. ReLU leaves kinks, one for each
    sample and neuron, on which such minima lie; the norm of the gradient there, in ``attributes``, is about
    the size of the jumps. The dynamics returned keep the ``weight_decay``; ``tolerance`` bounds the largest
    component of the gradient.
    """
    from scipy import optimize

    there = replace(dynamics, weight_decay=float(weight_decay))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        position = torch.from_numpy(w).unsqueeze(0)
        with torch.no_grad():
            return float(there.losses(position)[0]), there.gradients(position, None)[0].cpu().numpy().copy()

    w, left = dynamics.start.cpu().numpy().copy(), iterations
    while left > 0:  # BFGS stops at kinks with a bad metric; a fresh one goes on
        options = {"maxiter": left, "gtol": tolerance}
        found = optimize.minimize(loss, w, jac=True, method="BFGS", options=options)
        progress = float(np.linalg.norm(found.x - w))
        w, left = found.x, left - max(found.nit, 1)
        if found.success or progress < 1e-6:
            break
    note: dict = {"weight_decay": float(weight_decay), "gradient_norm": float(np.linalg.norm(loss(w)[1]))}
    note["start"] = f"{dynamics.attributes.get('start', 'given')}; then BFGS, weight decay {weight_decay:g}"
    return replace(there, start=torch.from_numpy(w), attributes={**dynamics.attributes, **note})


def start_report(
    dynamics: NetDynamics, *, half_width: float = 0.05, time: float = 100.0, steps: int = 400
) -> xr.Dataset:
    """Is the start a minimum? Gradient, curvature, and what plain gradient descent does from it.

    Gradient descent runs for η × steps = ``time``, or less where ``steps`` steps at η = 1/λ_max do not
    reach this time, in a box of ``half_width``; from a minimum it stays inside. ``eigenvalue`` ascends.
    ``noise_curvature`` is NaN where λ_i is below 10⁻⁶ λ_max, ``descent_exit_time`` where descent stays inside
    for ``descent_time``.
    """
    g, C, H = noise_and_curvature(dynamics)
    values, U = np.linalg.eigh(H)
    noise = np.einsum("ij,ik,kj->j", U, C, U)
    rate = max(min(time / steps, 1 / max(values[-1], 1e-12)), 1e-12)
    down = simulate_box_escape(
        dynamics, learning_rate=rate, batch_size=None, replicas=1, half_width=half_width, max_steps=steps
    )
    followed, change = float(down.observed_time[0]), float(abs(down.change[0]).max())
    fine = values > 1e-6 * values[-1]
    ratio = np.where(fine, noise / np.where(fine, values, 1), np.nan)
    exit_time = followed if down.outcome[0] else math.nan
    square = ("parameter", "other")
    return dataset(
        {
            "gradient_norm": quantity(np.linalg.norm(g), (), "norm of the gradient over all samples"),
            "eigenvalue": quantity(values, "parameter", "eigenvalues of the Hessian"),
            "noise_curvature": quantity(ratio, "parameter", "C_ii/λ_i in the Hessian's eigenbasis"),
            "noise_trace": quantity(np.trace(C), (), "trace of C"),
            "curvature_trace": quantity(np.trace(H), (), "trace of H"),
            "descent_exit_time": quantity(exit_time, (), "time at which gradient descent leaves the box"),
            "descent_time": quantity(followed, (), "time for which gradient descent was followed"),
            "descent_change": quantity(change, (), "its largest change of a parameter"),
            "gradient": quantity(g, "parameter", "mean gradient"),
            "C": quantity(C, square, "covariance of one sample's gradient"),
            "H": quantity(H, square, "Hessian"),
        },
        title="is the start a minimum?", half_width=float(half_width),
    ).assign_attrs(dynamics.attributes)  # fmt: skip
