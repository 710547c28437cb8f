"""How many directions of a solution matter: sharp ones, and those that learning still moves in.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Discussion and Fig. 6.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.stats import gmean

from fpsolve import sweep
from fpsolve.results import provenance, quantity
from fpsolve.statistics import mean_interval, over_trainings
from nets import layers
from nets.data.datasets import Data
from nets.measure import components, loss_widths
from nets.training.run import Run
from nets.training.window import exploration_start, record_and_continue
from notebooks.studies.variance_flatness.experiment import Config

#: Directions looked at together; the search ends with a block that holds no sharp one.
BLOCK = 50
DIMENSIONS = ("sharp", "sharp_common", "learning_99", "learning_999")
#: Flatness is kept for so many directions of each net.
RANKS = 1000


def sharp_bounds(
    run: Run, modes: xr.Dataset, *, threshold: float | None = None, block: int = BLOCK
) -> tuple[int, int, np.ndarray]:
    """Bounds of D_s, the number of directions with F_i < ½‖w‖₂, w the layer's weights.

    The weights of ``run`` are w₀; ``modes`` hold ``direction`` (mode, weight), leading first. ``threshold``,
    in the units of the weights, replaces ½‖w‖₂. Flatness grows with the rank, so directions are taken in
    blocks until one block holds no sharp direction. Returned are the smallest and the largest D_s that the
    modes allow, and the F_i that were measured. The bounds differ where every block holds one and the
    layer has more weights than there are modes: along directions in which the window did not move nothing
    was measured.
    """
    if block < 1:
        raise ValueError(f"block={block} must be at least 1")
    widths, level, ended = np.empty(0), math.inf, False
    for first in range(0, modes.sizes["mode"], block):
        rows = range(first, min(first + block, modes.sizes["mode"]))
        found = loss_widths.widths(run, modes, directions=rows)
        level = 0.5 * float(found.attrs["norm"]) if threshold is None else threshold
        widths = np.append(widths, found["width"].to_numpy())
        if ended := not (found["width"] < level).any():
            break
    count = int((widths < level).sum())
    return count, count if ended else count + modes.sizes["weight"] - modes.sizes["mode"], widths


def sharp_dimension(run: Run, modes: xr.Dataset, **options: Any) -> int:
    """D_s, by :func:`sharp_bounds` with its options; where it is a lower bound, a UserWarning says so."""
    count, at_most, _ = sharp_bounds(run, modes, **options)
    if at_most > count:
        warnings.warn(
            f"D_s = {count} is a lower bound (at most {at_most}): the last of {modes.sizes['mode']} modes "
            f"are still sharp and the layer has {modes.sizes['weight']} weights; record a longer window or "
            "keep more modes",
            stacklevel=2,
        )
    return count


def learning_dimension(modes: xr.Dataset, *, share: float = 0.99) -> int:
    """D_l: number of leading modes that hold a share of the variance; the paper's are 0.99 and 0.999.

    ``modes`` are from :func:`nets.measure.components.analyse`. A ValueError if those kept hold less.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share:g} must lie between 0 and 1")
    held = modes["variance"].cumsum("mode").to_numpy() / float(modes.attrs["total_variance"])
    if held[-1] < share:
        raise ValueError(f"the {len(held)} modes hold {held[-1]:.2%} of the variance, less than {share:.2%}")
    return int(np.argmax(held >= share)) + 1


def against_width(
    data: Data, widths: Sequence[int], *, seeds: int = 10, learning_rate: float = 0.1, batch_size: int = 50,
    epochs: int = 50, window: int = 10, store: str | Path | None = None, executor: Executor | None = None,
    progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """D_s and D_l of the H × H hidden layer of features-H-H-classes nets, for several H and seeds (Fig. 6).

    ``widths`` are the H; each has ``seeds`` ≥ 2 nets, trained for ``epochs`` and recorded for ``window``
    epochs more. ``store``, ``executor`` and ``progress`` are those of :func:`fpsolve.sweep`: every finished
    net is kept, and the same call goes on where it was stopped. A ValueError for numbers that make no sense,
    or a store of another experiment.

    The Dataset, dims hidden_width and training, holds the numbers of :func:`one_width`. ``sharp`` D_s has
    half of each net's own norm as threshold; ``sharp_at_most`` is larger where that is a lower bound only;
    ``sharp_common`` has half of the smallest norm (``attrs["common_threshold"]``) for all nets, as the one
    line of Fig. 6A; ``width`` (rank) is F, sorted. The dimensions have ``…_mean``, ``…_low``, ``…_high`` over
    trainings (95 %, Student's t); ``sharp_at_most_mean`` and ``width_mean``, the geometric mean, have no
    interval.
    """
    sizes = [int(h) for h in widths]
    if not sizes or min(sizes) < 2:
        raise ValueError(f"widths={sizes} must be hidden widths of at least 2")
    if seeds < 2:
        raise ValueError(f"seeds={seeds} must be at least 2, for an error bar")
    counts = {"batch_size": batch_size, "epochs": epochs, "window": window}
    grid: dict[str, ArrayLike] = {"hidden_width": sizes, "training": np.arange(seeds)}
    job = partial(one_width, data=data.to("cpu"), learning_rate=learning_rate, **counts)
    result = sweep(job, grid, executor=executor, store=store, progress=progress)
    _add_means(result)
    result["hidden_width"].attrs = {"long_name": "hidden width H", "units": "1"}
    about = {"data": data.name, "samples": data.samples, "learning_rate": float(learning_rate), **counts}
    result.attrs |= provenance("effective dimensions against width", **about)
    return result


def _add_means(result: xr.Dataset) -> None:
    """Add D_s at one threshold for all nets, and what is averaged over trainings."""
    common = 0.5 * float(result["norm"].min())
    sharp = (result["width"] < common).sum("rank").astype(float)
    result["sharp_common"] = sharp.assign_attrs(long_name="D_s, one threshold for all", units="1")
    result.attrs["common_threshold"] = common
    means = over_trainings(result[list(DIMENSIONS)], "training")
    for name, end in product(DIMENSIONS, ("mean", "low", "high")):
        words = f"{result[name].attrs['long_name']}, {end} over trainings"
        mean_or_end = means[name if end == "mean" else f"{name}_{end}"].to_numpy()
        result[f"{name}_{end}"] = quantity(mean_or_end, "hidden_width", words)
    most, flatness = "largest D_s, mean over trainings", "flatness by rank, geometric mean over trainings"
    for name, words, mean in (("sharp_at_most", most, np.mean), ("width", flatness, gmean)):
        values = result[name].reduce(mean, "training")
        result[f"{name}_mean"] = quantity(values.to_numpy(), values.dims, words)


def one_width(
    *, hidden_width: int, training: int, rng: object = None, data: Data, learning_rate: float,
    batch_size: int, epochs: int, window: int,
) -> dict[str, xr.Variable]:  # fmt: skip
    """Effective dimensions of one net, in the form a sweep asks for; see :func:`against_width`.

    ``training`` decides initial weights and minibatches, ``rng`` nothing.
    """
    started, H = time.process_time(), int(hidden_width)
    sizes = (data.features, H, H, len(data.classes))
    config = Config(sizes=sizes, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs)
    run = config.train(int(training), data=data)
    with warnings.catch_warnings():  # an early window is kept as a number, not said for every net
        warnings.simplefilter("ignore", UserWarning)
        recorded, last = record_and_continue(run, layer=1, epochs=window)
    explored = False
    with contextlib.suppress(ValueError):
        exploration_start(run)
        explored = True
    modes = components.analyse(recorded)
    count, at_most, widths = sharp_bounds(last, modes)
    spectrum = np.full(RANKS, np.nan)
    spectrum[: len(widths)] = np.sort(widths)[:RANKS]
    numbers = {
        "sharp": (count, "D_s"),
        "sharp_at_most": (at_most, "largest D_s that the modes allow"),
        "learning_99": (learning_dimension(modes, share=0.99), "D_l for 99 %"),
        "learning_999": (learning_dimension(modes, share=0.999), "D_l for 99.9 %"),
        "modes": (modes.sizes["mode"], "modes above rounding"),
        "loss": (last.loss, "training loss"),
        "norm": (layers.checked_layer(last.net, 1).weight.detach().norm(), "norm of the layer"),
        "explored": (explored, "1 in the exploration phase"),
        "cpu_seconds": (time.process_time() - started, "processor time, s"),
    }
    found = {name: quantity(float(value), (), text) for name, (value, text) in numbers.items()}
    return found | {"width": quantity(spectrum, "rank", "flatness by rank")}


def growth(result: xr.Dataset, name: str = "sharp", *, smallest: int = 0) -> tuple[float, ...]:
    """Exponent κ of D ∝ N_p^κ, N_p = H² the layer's weights: value, low, high.

    ``result`` is from :func:`against_width`, ``name`` one of :data:`DIMENSIONS`; smaller H than ``smallest``
    are left out. κ is the mean over trainings of the slope of ln D against ln N_p, with 95 % by Student's t.
    The paper's "roughly constant" is 0; 1 would be a fixed share of all directions. A ValueError if fewer
    than two H are left, or a dimension is 0.
    """
    part = result.sel(hidden_width=result["hidden_width"] >= smallest)
    if part.sizes["hidden_width"] < 2:
        raise ValueError(f"smallest={smallest} leaves {part.sizes['hidden_width']} widths; a slope needs two")
    values = part[name].transpose("hidden_width", "training").to_numpy()
    if not (values > 0).all():
        raise ValueError(f"{name} is 0 for some net: it has no logarithm")
    slopes = np.polyfit(2 * np.log(part["hidden_width"].to_numpy()), np.log(values), 1)[0]
    return tuple(map(float, mean_interval(slopes)))
