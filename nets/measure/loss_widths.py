"""Flatness of the loss along directions in one layer: the width of {L ≤ e L₀}, and profiles of ln L.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import xarray as xr

import fpsolve
from fpsolve.progress import shown
from nets.measure.batched_loss import ShiftedLoss, shifted_loss
from nets.training.run import Run
from theory import random_landscape

#: A crossing is interpolated once ln(L/L₀) is this close to its level; what is left is of third order.
CLOSE = 0.03
#: Heights ln(L/L₀) above so many levels are not interpolated.
USABLE = 25.0
#: Steps outwards grow by at most this factor, so that a near crossing is not jumped over.
GROWTH = 3.0
MOST_ROUNDS = 60
#: A bracket this narrow, relative to its distance, is done.
NARROW = 1e-4
#: Directions worked on together.
BATCH = 4
#: A side is called open where L stays below the level this many times the layer's norm away.
REACH = 20.0
#: Losses below this have lost their digits to underflow.
SMALLEST_LOSS = 1e-30

__all__ = ["chosen_rows", "loss_along", "profile_fits", "profiles", "starting_loss", "widths"]


def widths(
    run: Run,
    modes: xr.Dataset,
    *,
    directions: Sequence[int] | None = None,
    factor: float = math.e,
    reach: float = REACH,
    double: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Flatness F_i = θ_i^r − θ_i^l between the closest points on each side with L_i = e L₀ (PNAS 7).

    One loss on each side gives the slope and curvature of ln L along a direction, and with them both
    crossings; they are then closed in on by cubic interpolation, inside a bracket or within a few per cent
    of a loss that is as near to the level: 4 to 5 losses a direction, crossings right to 0.2 % (mostly
    2·10⁻⁵). The loss is that of all training samples, at the weights the run ended with.

    Parameters
    ----------
    run : Run
        From :func:`nets.training.train.sgd`.
    modes : Dataset
        With ``direction`` (mode, weight) of one layer.
    directions : sequence of int, optional
        Rows of ``direction``, from 0; default all.
    factor : float
        The level, in units of L₀.
    reach : float
        How far to look, in units of the layer's norm ‖w₀‖₂.
    double : bool
        Work in float64. The loss keeps its relative accuracy in float32 however small it is (see
        :func:`nets.training.networks.sample_losses`); on MNIST at L₀ = 7·10⁻⁵ the widths agree to 10⁻⁶.
    progress : bool
        Show a bar.

    Returns
    -------
    Dataset, dim mode
        ``width``, ``left`` < 0 and ``right`` > 0. A side on which the loss stays below the level is
        infinite and marked in ``open_left``/``open_right``; the width is then infinite, never the reach.
        ``attrs``: ``loss`` L₀, ``norm`` ‖w₀‖₂, ``evaluations_per_direction``, ``open_directions``.

    Raises
    ------
    ValueError
        If a direction does not exist, the layer does not fit, or L₀ is zero to rounding.
    """
    if not factor > 1:
        raise ValueError(f"factor={factor:g} must be larger than 1")
    if not reach > 0:
        raise ValueError(f"reach={reach:g} must be positive")
    chosen = chosen_rows(modes, directions)
    loss = loss_along(run, modes, double=double)
    start = starting_loss(loss)
    norm = float(loss.weights.double().norm())
    if not norm > 0:
        raise ValueError("the layer's weights are all zero: there is no scale to look for crossings on")
    search = CrossingSearch(loss, level=math.log(factor), start=start, farthest=reach * norm)
    table = modes["direction"].to_numpy()
    ends = np.empty((len(chosen), 2))
    guess = np.full(2, 0.05 * norm)
    for first in shown(range(0, len(chosen), BATCH), unit="batch of directions", progress=progress):
        part = chosen[first : first + BATCH]
        found = search.crossings(table[part], guess)
        ends[first : first + len(part)] = found
        for side in (0, 1):  # the neighbours in rank are the best guess there is
            finite = found[np.isfinite(found[:, side]), side]
            guess[side] = np.median(finite) if finite.size else guess[side]
    left, right = -ends[:, 0], ends[:, 1]
    opened = ~np.isfinite(ends)
    columns = {
        "width": (right - left, "flatness F_i", "1"),
        "left": (left, "crossing on the left", "1"),
        "right": (right, "crossing on the right", "1"),
        "open_left": (opened[:, 0].astype(np.int64), "1 where the left side never reaches the level", "1"),
        "open_right": (opened[:, 1].astype(np.int64), "1 where the right side never reaches the level", "1"),
    }
    return xr.Dataset(
        {
            name: ("mode", value, {"long_name": text, "units": u})
            for name, (value, text, u) in columns.items()
        },
        coords={"mode": modes["mode"][chosen]},
        attrs={key: modes.attrs[key] for key in ("basis", "layer", "data", "seed") if key in modes.attrs}
        | {
            "title": f"width of L <= {factor:.6g} L0 along directions of one layer",
            "loss": start,
            "norm": norm,
            "factor": float(factor),
            "reach": reach * norm,
            "open_directions": int(opened.any(1).sum()),
            "evaluations_per_direction": search.evaluations / max(len(chosen), 1),
            "samples": run.data.samples,
            "precision": "float64" if double else "float32",
            "fpsolve_version": fpsolve.__version__,
        },
    )


def profiles(
    run: Run,
    modes: xr.Dataset,
    widths: xr.Dataset,
    *,
    points: int = 41,
    span: float = 1.2,
) -> xr.Dataset:
    """L_i(x) = L(w₀ + x p_i) across the width of each direction (PNAS 6, Fig. 2A, B).

    Parameters
    ----------
    run : Run
        Its weights are w₀.
    modes : Dataset
        With ``direction`` (mode, weight).
    widths : Dataset
        From :func:`widths`, of the modes wanted; those with an open side are left out.
    points : int
    span : float
        Profiles reach from span·θ^l to span·θ^r.

    Returns
    -------
    Dataset, dims mode, point
        ``loss`` and the coordinate ``distance`` x.

    Raises
    ------
    ValueError
        If numbers make no sense or no width is finite.
    """
    if points < 5:
        raise ValueError(f"points={points} must be at least 5")
    if not span > 0:
        raise ValueError(f"span={span:g} must be positive")
    kept = widths["mode"][np.isfinite(widths["width"])].to_numpy()
    if kept.size == 0:
        raise ValueError("no mode has a finite width: there is no scale for the profiles")
    loss = loss_along(run, modes, double=True)
    start = starting_loss(loss)
    ends = [span * widths[side].sel(mode=kept).to_numpy()[:, None] for side in ("left", "right")]
    x = ends[0] + (ends[1] - ends[0]) * np.linspace(0.0, 1.0, points)
    values = loss.along(np.ascontiguousarray(modes["direction"].sel(mode=kept)), x).cpu().numpy()
    return xr.Dataset(
        {"loss": (("mode", "point"), values, {"long_name": "loss L_i", "units": "1"})},
        coords={
            "mode": modes["mode"].sel(mode=kept),
            "distance": (("mode", "point"), x, {"long_name": "displacement along p_i", "units": "1"}),
        },
        attrs={"title": "loss along directions", "loss": start, "fpsolve_version": fpsolve.__version__},
    )


def profile_fits(profiles: xr.Dataset) -> xr.Dataset:
    """A parabola through L and an inverse Gaussian, a parabola through ln L, fitted to each profile.

    Parameters
    ----------
    profiles : Dataset
        From :func:`profiles`.

    Returns
    -------
    Dataset, dim mode
        ``quadratic_misfit`` and ``inverse_gaussian_misfit``: root mean square deviation of the fit from L
        over the standard deviation of L; ``slope`` and ``curvature`` M of ln L at x = 0;
        ``width`` √(8/M) of the inverse Gaussian, NaN where M ≤ 0.
    """
    x, loss = profiles["distance"].to_numpy(), profiles["loss"].to_numpy()
    scale = np.abs(x).max(1)
    u = x / scale[:, None]
    basis = np.stack([np.ones_like(u), u, 0.5 * u**2], axis=-1)
    inverse = np.linalg.pinv(basis)

    def fitted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        coefficients = np.einsum("mcp,mp->mc", inverse, values)
        return coefficients, np.einsum("mpc,mc->mp", basis, coefficients)

    spread = loss.std(1)
    parabola = fitted(loss)[1]
    coefficients, logarithm = fitted(np.log(loss))
    curvature = coefficients[:, 2] / scale**2
    columns = {
        "quadratic_misfit": (np.sqrt(np.square(parabola - loss).mean(1)) / spread, "misfit of a parabola"),
        "inverse_gaussian_misfit": (
            np.sqrt(np.square(np.exp(logarithm) - loss).mean(1)) / spread,
            "misfit of an inverse Gaussian",
        ),
        "slope": (coefficients[:, 1] / scale, "slope of ln L"),
        "curvature": (curvature, "curvature of ln L"),
        "width": (random_landscape.flatness(curvature), "flatness of the inverse Gaussian"),
    }
    return xr.Dataset(
        {k: ("mode", v, {"long_name": text, "units": "1"}) for k, (v, text) in columns.items()},
        coords={"mode": profiles["mode"]},
        attrs=dict(profiles.attrs) | {"title": "fits of the loss along directions"},
    )


def loss_along(run: Run, modes: xr.Dataset, *, double: bool) -> ShiftedLoss:
    """The training loss as a function of the weights that directions belong to.

    Parameters
    ----------
    run : Run
        Its weights are w₀.
    modes : Dataset
        With ``attrs["layer"]`` and ``direction`` (mode, weight).
    double : bool
        Work in float64, else in float32.

    Returns
    -------
    ShiftedLoss

    Raises
    ------
    ValueError
        If the directions do not say their layer, or do not fit it.
    """
    if "layer" not in modes.attrs:
        raise ValueError("modes.attrs['layer'] is missing: say whose weights the directions belong to")
    layer = int(modes.attrs["layer"])
    dtype = torch.float64 if double else torch.float32
    loss = shifted_loss(run.net, layer, run.data.train_inputs, run.data.train_labels, dtype=dtype)
    if modes.sizes["weight"] != loss.size:
        raise ValueError(
            f"the directions have {modes.sizes['weight']} weights and layer {layer} has {loss.size}"
        )
    return loss


def starting_loss(loss: ShiftedLoss) -> float:
    """L₀ = L(w₀), refused where its logarithm means nothing.

    Parameters
    ----------
    loss : ShiftedLoss

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is zero to rounding, or not finite.
    """
    value = float(loss(torch.zeros(1, loss.size))[0])
    if not math.isfinite(value):
        raise ValueError(f"the loss at these weights is {value}: training diverged")
    if value < SMALLEST_LOSS:
        raise ValueError(
            f"the loss {value:.1e} is zero to rounding: its logarithm has no shape; stop training earlier"
        )
    return value


def chosen_rows(modes: xr.Dataset, directions: Sequence[int] | None) -> np.ndarray:
    """Checked row numbers."""
    there = modes.sizes["mode"]
    chosen = np.arange(there) if directions is None else np.asarray(list(directions), int)
    if chosen.size == 0:
        raise ValueError("directions is empty")
    if chosen.min() < 0 or chosen.max() >= there:
        raise ValueError(
            f"directions from {chosen.min()} to {chosen.max()} do not exist: there are {there} modes, "
            f"rows 0 to {there - 1}"
        )
    return chosen


class LossAlong(Protocol):
    """A loss that can be had along directions, such as :class:`nets.measure.batched_loss.ShiftedLoss`."""

    def along(self, directions: np.ndarray, distances: np.ndarray) -> torch.Tensor:
        """Loss at w₀ + t p, shape (K, T), for directions p, (K, N), and distances t, (K, T)."""


class CrossingSearch:
    """Crossings of one level on both sides of a point, for several directions at once.

    y(s) = ln(L/L₀)/level is 0 at the start and 1 at the crossing. A parabola of unknown slope and curvature
    takes one loss on each side; the crossings of that parabola are then close, and a cubic ends the search.
    """

    def __init__(self, loss: LossAlong, *, level: float, start: float, farthest: float) -> None:
        self.loss, self.level, self.start, self.farthest = loss, level, start, farthest
        self.evaluations = 0

    def crossings(self, directions: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """Distances to the closest crossing found, left and right, shape (directions, 2)."""
        s = np.tile(np.minimum(guess, self.farthest), (len(directions), 1))
        low, y_low = np.zeros_like(s), np.zeros_like(s)
        high, y_high = np.full_like(s, np.inf), np.full_like(s, np.inf)
        found = np.full_like(s, np.nan)
        tried: list[np.ndarray] = []
        for _ in range(MOST_ROUNDS):
            asked = np.isnan(found)
            if not asked.any():
                return found
            y = self._heights(directions, s, asked)
            tried.append(np.stack([np.where(asked, s, np.nan), y]))
            up, down = asked & (y >= 1), asked & (y < 1)
            high[up], y_high[up] = s[up], y[up]
            low[down], y_low[down] = s[down], y[down]
            found[down & np.isinf(high) & (low >= self.farthest)] = np.inf
            closed = np.isfinite(high)
            width = np.where(closed, high - low, 0.0)
            estimate = _interpolated(np.array(tried), low, high)
            bare = ~np.isfinite(estimate)
            estimate[bare] = self._outwards_or_between(low, y_low, high, y_high)[bare]
            # From below, a crossing is believed where it lies as close as the height says.
            near = (np.abs(y - 1) * self.level < CLOSE) & (closed | (estimate < (1 + CLOSE) * low) & ~bare)
            ready = asked & np.isnan(found) & (near | closed & (width < NARROW * high))
            found[ready] = estimate[ready]
            # Inside a bracket keep off its ends; else step outwards, neither too little nor too far.
            margin = np.where(bare, 0.02, 0.005)
            inside = np.clip(estimate, low + margin * width, high - margin * width)
            outside = np.clip(estimate, (1 + margin) * low, np.minimum(GROWTH * low, self.farthest))
            s = np.where(closed, inside, np.minimum(outside, self.farthest))
        return np.where(np.isnan(found), 0.5 * (low + high), found)

    def _outwards_or_between(self, low, y_low, high, y_high) -> np.ndarray:
        """The next place to try where interpolation has no answer: √y as linear between the ends."""
        h_low, h_high = (np.sign(y) * np.sqrt(np.abs(y)) for y in (y_low, y_high))
        with np.errstate(divide="ignore", invalid="ignore"):
            between = low + (1 - h_low) / (h_high - h_low) * (high - low)
        return np.where(np.isinf(high), low * np.clip(1.05 / np.maximum(h_low, 1e-9), 1.02, GROWTH), between)

    def _heights(self, directions: np.ndarray, s: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """y at s on the sides that are asked for, elsewhere NaN."""
        losses = np.full_like(s, np.nan)
        for left, right in ((True, True), (True, False), (False, True)):
            rows = np.flatnonzero((asked == (left, right)).all(1))
            sides = np.flatnonzero((left, right))
            if rows.size:
                signed = s[np.ix_(rows, sides)] * np.array([-1.0, 1.0])[sides]
                values = self.loss.along(directions[rows], signed).cpu().numpy()
                self.evaluations += values.size
                # An overflow on the way out means far above the level.
                losses[np.ix_(rows, sides)] = np.where(np.isfinite(values), values, np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(losses / self.start) / self.level


def _interpolated(tried: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where y(s) = 1, from polynomials through what was tried, shape (rounds, 2, directions, sides).

    y/s is a straight line for a parabola. It is interpolated on each side by the two places there whose y is
    nearest to 1, and by the nearest one of the other side (at −s) until there are three. NaN where nothing
    near was tried, or the crossing is not in the bracket.
    """
    s, y = tried[:, 0], tried[:, 1]
    distance = np.where(np.abs(y) < USABLE, np.abs(y - 1), np.inf)
    order = np.argsort(distance, axis=0, kind="stable")[:3]

    def nearest(rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Place and y/s of rank 0, 1, 2 on each side; y/s is NaN where there is none."""
        if rank >= len(order):
            return np.full_like(low, np.nan), np.full_like(low, np.nan)
        place, height, far = (np.take_along_axis(v, order[rank][None], 0)[0] for v in (s, y, distance))
        return place, np.where(np.isfinite(far), height / place, np.nan)

    x0, Y0 = nearest(0)
    other, Y_other = -x0[:, ::-1], -Y0[:, ::-1]
    x1, Y1 = nearest(1)
    x2, Y2 = nearest(2)
    single, double = np.isnan(Y1), np.isnan(Y2)
    # Without anything usable on the other side: no slope at the start, y/s = 0 there.
    x_far, Y_far = (np.where(np.isnan(Y_other), 0.0, v) for v in (other, Y_other))
    x1, Y1 = np.where(single, x_far, x1), np.where(single, Y_far, Y1)
    x2, Y2 = np.where(double, x_far, x2), np.where(double, Y_far, Y2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        first = (Y1 - Y0) / (x1 - x0)
        second = np.where(single, 0.0, ((Y2 - Y1) / (x2 - x1) - first) / (x2 - x0))
        x = x0.copy()
        for _ in range(8):  # Newton on x Y(x) = 1
            Y = Y0 + (x - x0) * (first + (x - x1) * second)
            slope = Y + x * (first + (2 * x - x0 - x1) * second)
            x -= (x * Y - 1) / slope
        solved = np.isfinite(x) & (np.abs(x * Y - 1) < 1e-3) & (x >= low) & (x <= high)
    return np.where(solved, x, np.nan)
