"""Active temperature of SGD along directions: T_i(x) = (α/2) ⟨(∂δL^μ/∂x)²⟩_μ at w₀ + x p_i.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Eq. 15 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

import fpsolve
from fpsolve.progress import shown
from nets.measure.loss_widths import chosen_rows, loss_along
from nets.training.run import Run

__all__ = ["active_temperature"]


def active_temperature(
    run: Run,
    modes: xr.Dataset,
    *,
    directions: Sequence[int] | None = None,
    distances: Sequence[float] | np.ndarray = (0.0,),
    batch_size: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """T_i(x) from the scatter of the samples' own derivatives, without drawing minibatches.

    For minibatches of B of the M samples drawn without replacement ⟨(∂δL^μ)²⟩ is exactly
    Var_k(∂l_k)/B · (M − B)/(M − 1), and without the last factor with replacement.

    Parameters
    ----------
    run : Run
        Its weights are w₀.
    modes : Dataset
        With ``direction`` (mode, weight).
    directions : sequence of int, optional
        Rows of ``direction``, from 0; default all.
    distances : sequence of float, or array of shape (directions, points)
        x, the same for all directions or for each its own.
    batch_size : int, optional
        B; default the run's.
    progress : bool

    Returns
    -------
    Dataset, dims mode, point
        ``temperature`` with ``temperature_stderr`` (over samples), ``loss`` L_i(x), ``distance`` x.

    Raises
    ------
    ValueError
        If directions, distances or the batch size make no sense.
    """
    rows = chosen_rows(modes, directions)
    B, M = (run.settings.batch_size if batch_size is None else batch_size), run.data.samples
    if not 1 <= B <= M:
        raise ValueError(f"batch_size={B} must lie between 1 and the {M} training samples")
    x = np.asarray(distances, float)
    if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) != len(rows)) or not np.isfinite(x).all():
        raise ValueError(
            f"distances of shape {x.shape} must be a list, or one row for each of {len(rows)} directions"
        )
    x = np.broadcast_to(x, (len(rows), x.shape[-1])).copy()
    function = loss_along(run, modes, double=True)
    replaced = run.settings.sampling == "with_replacement"
    finite = 1.0 if replaced or M == 1 else (M - B) / (M - 1)
    factor = 0.5 * run.settings.learning_rate / B * finite
    table = modes["direction"].to_numpy()
    temperature, error, loss = (np.empty(x.shape) for _ in range(3))
    for j, row in enumerate(shown(rows.tolist(), unit="mode", progress=progress)):
        place = table[row][None], x[j][None]
        slopes = function.slopes(*place, reduction="none")[0].cpu().numpy()  # (point, sample)
        square = (slopes - slopes.mean(1, keepdims=True)) ** 2
        temperature[j] = factor * square.mean(1)
        error[j] = factor * square.std(1) / np.sqrt(M)
        loss[j] = function.along(*place)[0].cpu().numpy()
    return xr.Dataset(
        {
            "temperature": (
                ("mode", "point"),
                temperature,
                {"long_name": "active temperature T_i", "units": "1"},
            ),
            "temperature_stderr": (
                ("mode", "point"),
                error,
                {"long_name": "its standard error", "units": "1"},
            ),
            "loss": (("mode", "point"), loss, {"long_name": "loss L_i", "units": "1"}),
        },
        coords={
            "mode": modes["mode"][rows],
            "distance": (("mode", "point"), x, {"long_name": "displacement along p_i", "units": "1"}),
        },
        attrs={
            "title": "active temperature along directions",
            "batch_size": int(B),
            "learning_rate": float(run.settings.learning_rate),
            "epoch": int(run.epoch),
            "basis": str(modes.attrs.get("basis", "given")),
            "fpsolve_version": fpsolve.__version__,
        },
    )
