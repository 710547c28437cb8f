"""Active temperature of SGD along directions: T_i(x) = (η/2) ⟨(∂δL^μ/∂x)²⟩_μ at w₀ + x p_i.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Eq. 15 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from nets.checks import check_whole
from nets.measure.loss_widths import chosen_rows, loss_along
from nets.measure.noise import batch_factor
from nets.measure.subject import Subject, numpy, step_settings
from nets.training.run import Run


def active_temperature(
    measured: Subject | Run,
    modes: xr.Dataset,
    *,
    directions: Sequence[int] | None = None,
    distances: Sequence[float] | np.ndarray = (0.0,),
    batch_size: int | None = None,
    learning_rate: float | None = None,
    replacement: bool | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """T_i(x) from the scatter of the samples' own derivatives, without drawing minibatches.

    For minibatches of B of the M samples drawn without replacement ⟨(∂δL^μ)²⟩ is exactly Var_k(∂l_k)/B · (M −
    B)/(M − 1), and without the last factor with replacement. A ValueError is raised if directions, distances
    or the batch size make no sense.

    Parameters
    ----------
    measured, modes, directions
        As in :func:`nets.measure.loss_widths.widths`.
    distances : sequence of float, or array of shape (directions, points)
        x, the same for all directions or for each its own.
    batch_size, learning_rate : optional
        B and η; default the run's. A Subject needs them.
    replacement : bool, optional
        Whether a sample may come twice in a minibatch; default as in the run, or False.

    Returns
    -------
    Dataset, dims mode, point
        ``temperature`` with ``temperature_stderr`` (over samples), ``loss`` L_i(x), ``distance`` x.
    """
    rows = chosen_rows(modes, directions)
    B, rate = step_settings(measured, batch_size, learning_rate)
    function = loss_along(measured, modes, double=True)
    M = function.samples
    check_whole("batch_size", B, M, "the samples")
    x = np.asarray(distances, float)
    if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) != len(rows)) or not np.isfinite(x).all():
        raise ValueError(
            f"distances of shape {x.shape} must be a list, or one row for each of {len(rows)} directions"
        )
    x = np.broadcast_to(x, (len(rows), x.shape[-1])).copy()
    run = measured if isinstance(measured, Run) else None
    if replacement is None:
        replacement = run is not None and run.recipe.sampling == "with_replacement"
    factor = 0.5 * rate * batch_factor(M, batch_size=B, replacement=replacement or M == 1)
    table = modes["direction"].to_numpy()
    temperature, error, loss = (np.empty(x.shape) for _ in range(3))
    for j, row in enumerate(shown(rows.tolist(), unit="mode", progress=progress)):
        place = table[row][None], x[j][None]
        slopes = numpy(function.slopes(*place, reduction="none")[0])  # (point, sample)
        square = (slopes - slopes.mean(1, keepdims=True)) ** 2
        temperature[j] = factor * square.mean(1)
        error[j] = factor * square.std(1) / np.sqrt(M)
        loss[j] = numpy(function.along(*place)[0])
    both = ("mode", "point")
    return dataset(
        {
            "temperature": quantity(temperature, both, "active temperature T_i"),
            "temperature_stderr": quantity(error, both, "its standard error"),
            "loss": quantity(loss, both, "loss L_i"),
        },
        title="active temperature along directions",
        coords={"mode": modes["mode"][rows], "distance": quantity(x, both, "displacement along p_i")},
        batch_size=B,
        learning_rate=rate,
        epoch=None if run is None else int(run.epoch),
        basis=str(modes.attrs.get("basis", "given")),
    )
