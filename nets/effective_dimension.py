"""How many directions of a solution matter: sharp ones, and those that learning still moves in.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Discussion and Fig. 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats
import xarray as xr

import fpsolve
from nets import flatness, models, principal_components, training
from nets.datasets import Data
from nets.progress import shown
from nets.runs import Run

#: Directions looked at together; the search ends with a block that holds no sharp one.
BLOCK = 50
SHARES = (0.99, 0.999)

__all__ = ["against_width", "learning_dimension", "sharp_dimension"]


def sharp_dimension(
    run: Run, modes: xr.Dataset, *, threshold: float | None = None, block: int = BLOCK
) -> int:
    """D_s: number of directions with F_i < ½‖w‖₂, w the layer's weights.

    Flatness grows with the rank, so directions are gone through in blocks until one holds no sharp direction.

    Parameters
    ----------
    run : Run
        Its weights are w₀.
    modes : Dataset
        With ``direction`` (mode, weight), leading first.
    threshold : float, optional
        In the units of the weights; default ½‖w‖₂.
    block : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If every block holds a sharp direction: there are more than the modes show.
    """
    if block < 1:
        raise ValueError(f"block={block} must be at least 1")
    total = 0
    for first in range(0, modes.sizes["mode"], block):
        rows = range(first, min(first + block, modes.sizes["mode"]))
        widths = flatness.widths(run, modes, directions=rows)
        level = 0.5 * float(widths.attrs["norm"]) if threshold is None else threshold
        sharp = int((widths["width"] < level).sum())
        total += sharp
        if sharp == 0:
            return total
    size = modes.sizes["weight"]
    if modes.sizes["mode"] < size:
        raise ValueError(
            f"the last of {modes.sizes['mode']} modes are still sharp: record a longer window "
            "or keep more modes"
        )
    return total


def learning_dimension(modes: xr.Dataset, *, share: float = 0.99) -> int:
    """D_l: number of leading modes that hold a share of the variance.

    Parameters
    ----------
    modes : Dataset
        From :func:`nets.principal_components.analyse`.
    share : float
        The paper's are 0.99 and 0.999.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the modes kept do not hold that much.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share:g} must lie between 0 and 1")
    held = modes["variance"].cumsum("mode").to_numpy() / float(modes.attrs["total_variance"])
    if held[-1] < share:
        raise ValueError(f"the {len(held)} modes hold {held[-1]:.2%} of the variance, less than {share:.2%}")
    return int(np.argmax(held >= share)) + 1


def against_width(
    data: Data,
    widths: Sequence[int],
    *,
    seeds: int = 10,
    learning_rate: float = 0.1,
    batch_size: int = 50,
    epochs: int = 50,
    window: int = 10,
    progress: bool = False,
) -> xr.Dataset:
    """D_s and D_l of the H × H hidden layer of features-H-H-classes nets, for several H and seeds (Fig. 6).

    Parameters
    ----------
    data : Data
    widths : sequence of int
        H.
    seeds : int
        Initial weights and minibatches of each H; at least two.
    learning_rate, batch_size, epochs : float, int, int
        As in :func:`nets.training.sgd`.
    window : int
        Epochs recorded after ``epochs``.
    progress : bool

    Returns
    -------
    Dataset, dims hidden_width, seed
        ``sharp`` D_s, ``learning_99`` and ``learning_999`` D_l, ``loss``, ``norm`` ‖w‖₂; and over seeds
        ``…_mean``, ``…_low``, ``…_high`` (95 %, Student's t).

    Raises
    ------
    ValueError
        If numbers make no sense.
    """
    sizes = [int(h) for h in widths]
    if not sizes or min(sizes) < 2:
        raise ValueError(f"widths={sizes} must be hidden widths of at least 2")
    if seeds < 2:
        raise ValueError(f"seeds={seeds} must be at least 2, for an error bar")
    names = ("sharp", "learning_99", "learning_999", "loss", "norm")
    found = {name: np.empty((len(sizes), seeds)) for name in names}
    jobs = [(i, seed) for i in range(len(sizes)) for seed in range(seeds)]
    for i, seed in shown(jobs, unit="net", progress=progress):
        H = sizes[i]
        net = models.fully_connected(
            (data.features, H, H, len(data.classes)), rng=np.random.SeedSequence(seed, spawn_key=(0,))
        )
        run = training.sgd(
            net, data, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
            rng=np.random.SeedSequence(seed, spawn_key=(1,)),
        )  # fmt: skip
        recorded, last = training.record(run, layer=1, epochs=window, return_run=True)
        modes = principal_components.analyse(recorded)
        found["sharp"][i, seed] = sharp_dimension(last, modes)
        for name, share in zip(names[1:3], SHARES, strict=True):
            found[name][i, seed] = learning_dimension(modes, share=share)
        found["loss"][i, seed] = last.loss
        found["norm"][i, seed] = float(models.checked_layer(last.net, 1).weight.norm())
    words = dict(
        zip(
            names,
            ("D_s", "D_l for 99 %", "D_l for 99.9 %", "training loss", "norm of the layer"),
            strict=True,
        )
    )
    result = xr.Dataset(
        {k: (("hidden_width", "seed"), v, {"long_name": words[k], "units": "1"}) for k, v in found.items()},
        coords={
            "hidden_width": ("hidden_width", sizes, {"long_name": "hidden width H", "units": "1"}),
            "seed": np.arange(seeds),
        },
        attrs={"title": "effective dimensions against width", "data": data.name, "epochs": epochs,
               "window": window, "learning_rate": float(learning_rate), "batch_size": batch_size,
               "fpsolve_version": fpsolve.__version__},
    )  # fmt: skip
    half = scipy.stats.t.ppf(0.975, seeds - 1) / np.sqrt(seeds)
    for name in names[:3]:
        mean, spread = result[name].mean("seed"), half * result[name].std("seed", ddof=1)
        for suffix, value in (("mean", mean), ("low", mean - spread), ("high", mean + spread)):
            text = {"long_name": f"{words[name]}, {suffix} over seeds", "units": "1"}
            result[f"{name}_{suffix}"] = value.assign_attrs(text)
    return result
