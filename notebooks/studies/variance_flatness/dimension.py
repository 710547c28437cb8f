"""How many directions of a solution matter: sharp ones, and those that learning still moves in.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Discussion and Fig. 6.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve import sweep
from fpsolve.statistics import student_factor
from nets import models
from nets.data.datasets import Data
from nets.measure import components, loss_widths
from nets.training import train
from nets.training.run import Run

#: Directions looked at together; the search ends with a block that holds no sharp one.
BLOCK = 50
DIMENSIONS = ("sharp", "sharp_common", "learning_99", "learning_999")
#: Flatness is kept for so many directions of each net.
RANKS = 1000

__all__ = ["against_width", "growth", "learning_dimension", "one_width", "sharp_bounds", "sharp_dimension"]


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

    Warns
    -----
    UserWarning
        If every block holds a sharp direction and the layer has more weights than there are modes: the number
        is a lower bound.
    """
    found, at_most = sharp_bounds(run, modes, threshold=threshold, block=block)
    if at_most > found:
        warnings.warn(
            f"D_s = {found} is a lower bound (at most {at_most}): the last of {modes.sizes['mode']} modes "
            f"are still sharp and the layer has {modes.sizes['weight']} weights; record a longer window or "
            "keep more modes",
            stacklevel=2,
        )
    return found


def sharp_bounds(
    run: Run, modes: xr.Dataset, *, threshold: float | None = None, block: int = BLOCK
) -> tuple[int, int]:
    """The smallest and the largest D_s that the modes allow.

    They differ where no block is without a sharp direction though the layer has more weights than there are
    modes: along what the window did not move in nothing was measured.

    Parameters
    ----------
    run, modes, threshold, block
        As in :func:`sharp_dimension`.

    Returns
    -------
    low, high : int
    """
    widths, level, ended = _leading_widths(run, modes, threshold=threshold, block=block)
    found = int((widths < level).sum())
    return found, found if ended else found + modes.sizes["weight"] - modes.sizes["mode"]


def _leading_widths(
    run: Run, modes: xr.Dataset, *, threshold: float | None = None, block: int = BLOCK
) -> tuple[np.ndarray, float, bool]:
    """F_i up to a block without a sharp direction, what counts as sharp, and if such a block came."""
    if block < 1:
        raise ValueError(f"block={block} must be at least 1")
    found: list[np.ndarray] = []
    for first in range(0, modes.sizes["mode"], block):
        rows = range(first, min(first + block, modes.sizes["mode"]))
        widths = loss_widths.widths(run, modes, directions=rows)
        level = 0.5 * float(widths.attrs["norm"]) if threshold is None else threshold
        found.append(widths["width"].to_numpy())
        if not (found[-1] < level).any():
            return np.concatenate(found), level, True
    return np.concatenate(found), level, False


def learning_dimension(modes: xr.Dataset, *, share: float = 0.99) -> int:
    """D_l: number of leading modes that hold a share of the variance.

    Parameters
    ----------
    modes : Dataset
        From :func:`nets.measure.components.analyse`.
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
    store: str | Path | None = None,
    executor: Executor | None = None,
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
        As in :func:`nets.training.train.sgd`.
    window : int
        Epochs recorded after ``epochs``.
    store : path, optional
        Keeps every finished net; the same call goes on where it was stopped. See :func:`fpsolve.sweep`.
    executor : concurrent.futures.Executor, optional
    progress : bool

    Returns
    -------
    Dataset, dims hidden_width, seed
        ``sharp`` D_s, each with half of its own norm as threshold, and ``sharp_at_most``, which is larger
        where that is a lower bound only; ``sharp_common`` D_s with half of the smallest norm
        (``attrs["common_threshold"]``) for all nets, as the one line of Fig. 6A; ``width`` (rank) F sorted;
        ``learning_99`` and ``learning_999`` D_l; ``modes``, ``loss``, ``norm`` ‖w‖₂, ``cpu_seconds``, and
        ``explored``, 1 where the window lies in the exploration phase; and of the dimensions ``…_mean``,
        ``…_low``, ``…_high`` over seeds (95 %, Student's t).

    Raises
    ------
    ValueError
        If numbers make no sense, or the store holds another experiment.
    """
    sizes = [int(h) for h in widths]
    if not sizes or min(sizes) < 2:
        raise ValueError(f"widths={sizes} must be hidden widths of at least 2")
    if seeds < 2:
        raise ValueError(f"seeds={seeds} must be at least 2, for an error bar")
    rows = {
        part: getattr(data, part).cpu().numpy()
        for part in ("train_inputs", "train_labels", "test_inputs", "test_labels")
    }
    job = partial(
        one_width, name=data.name, classes=tuple(data.classes), learning_rate=learning_rate,
        batch_size=batch_size, epochs=epochs, window=window, **rows,
    )  # fmt: skip
    grid: dict[str, ArrayLike] = {"hidden_width": sizes, "seed": np.arange(seeds)}
    result = sweep(job, grid, executor=executor, store=store, progress=progress)
    common = 0.5 * float(result["norm"].min())
    result["sharp_common"] = (result["width"] < common).sum("rank").astype(float)
    result["sharp_common"].attrs = {"long_name": "D_s, one threshold for all", "units": "1"}
    half = student_factor(seeds)
    for name in DIMENSIONS:
        mean, spread = result[name].mean("seed"), half * result[name].std("seed", ddof=1)
        for suffix, value in (("mean", mean), ("low", mean - spread), ("high", mean + spread)):
            text = {"long_name": f"{result[name].attrs['long_name']}, {suffix} over seeds", "units": "1"}
            result[f"{name}_{suffix}"] = value.assign_attrs(text)
    result["hidden_width"].attrs = {"long_name": "hidden width H", "units": "1"}
    result.attrs |= {
        "title": "effective dimensions against width", "data": data.name, "samples": data.samples,
        "epochs": epochs, "window": window, "learning_rate": float(learning_rate), "batch_size": batch_size,
        "common_threshold": common,
    }  # fmt: skip
    return result


def one_width(
    *,
    hidden_width: int,
    seed: int,
    rng: object = None,
    name: str,
    classes: tuple[str, ...],
    train_inputs: np.ndarray,
    train_labels: np.ndarray,
    test_inputs: np.ndarray,
    test_labels: np.ndarray,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    window: int,
) -> dict[str, tuple]:
    """Effective dimensions of one net, in the form a sweep asks for; see :func:`against_width`.

    Parameters
    ----------
    hidden_width, seed : int
        H, and the seed of initial weights and minibatches.
    rng : ignored
    name, classes, train_inputs, train_labels, test_inputs, test_labels
        Of :class:`nets.data.datasets.Data`.
    learning_rate, batch_size, epochs, window
        As in :func:`against_width`.

    Returns
    -------
    dict of str to (dims, value, attrs)
    """
    started = time.process_time()
    x, y, x_test, y_test = map(torch.from_numpy, (train_inputs, train_labels, test_inputs, test_labels))
    data = Data(name, x, y, x_test, y_test, classes)
    H = int(hidden_width)
    net = models.fully_connected(
        (data.features, H, H, len(classes)), rng=np.random.SeedSequence(int(seed), spawn_key=(0,))
    )
    run = train.sgd(
        net, data, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
        rng=np.random.SeedSequence(int(seed), spawn_key=(1,)),
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as said:  # kept as a number, not said for every net
        warnings.simplefilter("always")
        recorded, last = train.record(run, layer=1, epochs=window, return_run=True)
    modes = components.analyse(recorded)
    widths, level, ended = _leading_widths(last, modes)
    low = int((widths < level).sum())
    high = low if ended else low + modes.sizes["weight"] - modes.sizes["mode"]
    spectrum = np.full(RANKS, np.nan)
    spectrum[: len(widths)] = np.sort(widths)[:RANKS]
    found: dict[str, tuple[float, str]] = {
        "sharp": (low, "D_s"),
        "sharp_at_most": (high, "largest D_s that the modes allow"),
        "learning_99": (learning_dimension(modes, share=0.99), "D_l for 99 %"),
        "learning_999": (learning_dimension(modes, share=0.999), "D_l for 99.9 %"),
        "modes": (modes.sizes["mode"], "modes above rounding"),
        "explored": (not any("fast phase" in str(w.message) for w in said), "1 in the exploration phase"),
        "loss": (last.loss, "training loss"),
        "norm": (float(models.checked_layer(last.net, 1).weight.detach().norm()), "norm of the layer"),
        "cpu_seconds": (time.process_time() - started, "processor time, s"),
    }
    result: dict[str, tuple] = {
        k: ((), float(v), {"long_name": text, "units": "1"}) for k, (v, text) in found.items()
    }
    result["width"] = ("rank", spectrum, {"long_name": "flatness by rank", "units": "1"})
    return result


def growth(result: xr.Dataset, name: str = "sharp", *, smallest: int = 0) -> tuple[float, float, float]:
    """Exponent κ of D ∝ N_p^κ, N_p = H² the layer's weights, with its interval over seeds.

    Parameters
    ----------
    result : Dataset
        From :func:`against_width`.
    name : {"sharp", "sharp_common", "learning_99", "learning_999"}
    smallest : int
        Leave out smaller H.

    Returns
    -------
    value, low, high : float
        Mean over seeds of the slope of ln D against ln N_p, and 95 % by Student's t. The paper's
        "roughly constant" is 0; 1 would be a fixed share of all directions.

    Raises
    ------
    ValueError
        If fewer than two H are left, or a dimension is 0.
    """
    part = result.sel(hidden_width=result["hidden_width"] >= smallest)
    if part.sizes["hidden_width"] < 2:
        raise ValueError(f"smallest={smallest} leaves {part.sizes['hidden_width']} widths; a slope needs two")
    values = part[name].transpose("hidden_width", "seed").to_numpy()
    if not (values > 0).all():
        raise ValueError(f"{name} is 0 for some net: it has no logarithm")
    u = 2 * np.log(part["hidden_width"].to_numpy())
    slopes = np.polyfit(u, np.log(values), 1)[0]
    half = student_factor(len(slopes)) * slopes.std(ddof=1)
    return float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half)
