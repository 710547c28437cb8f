"""Widths of the loss along directions, {L ≤ e L₀}, by a search for both crossings; profiles of ln L.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021). "Flatness" F_i is there the width along p_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from nets.checks import check_whole
from nets.measure.subject import Subject, layer_names, numpy
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


def widths(
    measured: Subject | Run,
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
    crossings. Each crossing is refined by cubic interpolation, inside a bracket or within a few per cent of a
    loss that is as near to the level: four to five losses a direction. On the papers' nets crossings are
    accurate to 0.2 %, mostly to 2·10⁻⁵. Along random directions of nets of other kinds 3 to 9 % of the widths
    were off by more than 0.2 %, at most by 1.1 %. The loss is that of all samples. A ValueError is raised if
    numbers make no sense, the directions do not fit the weights, or the loss is zero to rounding.

    Parameters
    ----------
    measured : Subject or Run
        Its weights are w₀. Of a run, the weights of the layer that ``modes`` name, without biases, and the
        training samples.
    modes : Dataset
        With ``direction`` (mode, weight).
    directions : sequence of int, optional
        Rows of ``direction``, from 0; default all.
    factor : float
        The level, in units of L₀.
    reach : float
        How far to look, in units of ‖w₀‖₂.
    double : bool
        Work in float64. The cross-entropy keeps its relative accuracy in float32 however small it is (see
        :func:`nets.training.networks.sample_losses`); on MNIST at L₀ = 7·10⁻⁵ the widths agree to 10⁻⁶. A
        loss whose small residuals are differences of large outputs needs float64.

    Returns
    -------
    Dataset, dim mode
        ``width``, ``left`` < 0 and ``right`` > 0. A side on which the loss stays below the level is
        infinite and marked in ``open_left``/``open_right``; the width is then infinite, never the reach.
        ``attrs`` hold the loss L₀, the norm ‖w₀‖ and ``open_directions``.
    """
    if not factor > 1:
        raise ValueError(f"factor={factor:g} must be larger than 1")
    if not reach > 0:
        raise ValueError(f"reach={reach:g} must be positive")
    chosen = chosen_rows(modes, directions)
    loss = loss_along(measured, modes, double=double)
    start = starting_loss(loss)
    norm = float(loss.vector.double().norm())
    if not norm > 0:
        raise ValueError("the layer's weights are all zero: there is no scale to look for crossings on")
    ends, evaluations = crossings(
        loss, modes["direction"].to_numpy()[chosen], factor=factor, start=start, norm=norm, reach=reach,
        progress=progress,
    )  # fmt: skip
    left, right = -ends[:, 0], ends[:, 1]
    opened = (~np.isfinite(ends)).astype(np.int64)
    return dataset(
        {
            "width": quantity(right - left, "mode", "flatness F_i"),
            "left": quantity(left, "mode", "crossing on the left"),
            "right": quantity(right, "mode", "crossing on the right"),
            "open_left": quantity(opened[:, 0], "mode", "1 where the left side never reaches the level"),
            "open_right": quantity(opened[:, 1], "mode", "1 where the right side never reaches the level"),
        },
        title=f"width of L <= {factor:.6g} L0 along directions of one layer",
        coords={"mode": modes["mode"][chosen]},
        **{key: modes.attrs[key] for key in ("basis", "layer", "data", "seed") if key in modes.attrs},
        loss=start,
        norm=norm,
        factor=float(factor),
        reach=reach * norm,
        open_directions=int(opened.any(1).sum()),
        evaluations_per_direction=evaluations,
        samples=loss.samples,
        precision="float64" if double else "float32",
    )


def crossings(
    loss: Subject,
    directions: np.ndarray,
    *,
    factor: float = math.e,
    start: float,
    norm: float,
    reach: float = REACH,
    progress: bool = False,
) -> tuple[np.ndarray, float]:
    """Distances at which L = factor·L₀ along directions (K, N), left and right, (K, 2); losses a direction.

    L₀ is ``start``; the search begins at 0.05 ``norm`` and ends, with infinity, at ``reach`` times it.
    """
    search = CrossingSearch(loss, level=math.log(factor), start=start, farthest=reach * norm)
    ends, guess = np.empty((len(directions), 2)), np.full(2, 0.05 * norm)
    for first in shown(range(0, len(directions), BATCH), unit="batch of directions", progress=progress):
        found = search.crossings(directions[first : first + BATCH], guess)
        ends[first : first + BATCH] = found
        for side in (0, 1):  # the neighbours in rank are the best guess there is
            finite = found[np.isfinite(found[:, side]), side]
            guess[side] = np.median(finite) if finite.size else guess[side]
    return ends, search.evaluations / max(len(directions), 1)


def profiles(
    measured: Subject | Run, modes: xr.Dataset, widths: xr.Dataset, *, points: int = 41, span: float = 1.2
) -> xr.Dataset:
    """L_i(x) = L(w₀ + x p_i) across the width of each direction (PNAS 6, Fig. 2A, B).

    ``loss`` (mode, point) with the coordinate ``distance`` x, from span·θ^l to span·θ^r, at the weights of a
    subject or a run; ``widths`` is that of the modes wanted, from :func:`widths`. Modes with an open side are
    left out; where none is left, or numbers make no sense, that is a ValueError.
    """
    check_whole("points", points, least=5)
    kept = finite_modes(widths, span)
    loss = loss_along(measured, modes, double=True)
    start = starting_loss(loss)
    ends = [span * widths[side].sel(mode=kept).to_numpy()[:, None] for side in ("left", "right")]
    x = ends[0] + (ends[1] - ends[0]) * np.linspace(0.0, 1.0, points)
    values = numpy(loss.along(np.ascontiguousarray(modes["direction"].sel(mode=kept)), x))
    return dataset(
        {"loss": quantity(values, ("mode", "point"), "loss L_i")},
        title="loss along directions",
        coords={
            "mode": modes["mode"].sel(mode=kept),
            "distance": quantity(x, ("mode", "point"), "displacement along p_i"),
        },
        loss=start,
    )


def finite_modes(widths: xr.Dataset, span: float) -> np.ndarray:
    """Modes with a finite width, a ValueError where there is none or ``span`` is not positive."""
    if not span > 0:
        raise ValueError(f"span={span:g} must be positive")
    kept = widths["mode"][np.isfinite(widths["width"])].to_numpy()
    if kept.size == 0:
        raise ValueError("no mode has a finite width: there is no scale for the profiles")
    return kept


def parabolas(values: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least-squares parabolas a + b x + ½M x² of values (mode, point, …) at x (mode, point).

    Slope b and curvature M (mode, …), and the fitted values (mode, point, …).
    """
    scale = np.abs(x).max(1).reshape(-1, *[1] * (values.ndim - 2))
    u = x / np.abs(x).max(1)[:, None]
    basis = np.stack([np.ones_like(u), u, 0.5 * u**2], axis=-1)  # (mode, point, 3)
    fit = np.einsum("mcp,mp...->mc...", np.linalg.pinv(basis), values)
    return fit[:, 1] / scale, fit[:, 2] / scale**2, np.einsum("mpc,mc...->mp...", basis, fit)


def profile_fits(profiles: xr.Dataset) -> xr.Dataset:
    """A parabola through L and an inverse Gaussian, a parabola through ln L, fitted to each profile.

    Of ``profiles`` from :func:`profiles`, per mode: ``quadratic_misfit`` and ``inverse_gaussian_misfit``, the
    root mean square deviation of the fit from L over the standard deviation of L; ``slope`` and ``curvature``
    M of ln L at x = 0; ``width`` √(8/M) of the inverse Gaussian, NaN where M ≤ 0.
    """
    x, loss = profiles["distance"].to_numpy(), profiles["loss"].to_numpy()
    slope, curvature, logarithm = parabolas(np.log(loss), x)
    misfits = [
        np.sqrt(np.square(fitted - loss).mean(1)) / loss.std(1)
        for fitted in (parabolas(loss, x)[2], np.exp(logarithm))
    ]
    columns = {
        "quadratic_misfit": (misfits[0], "misfit of a parabola"),
        "inverse_gaussian_misfit": (misfits[1], "misfit of an inverse Gaussian"),
        "slope": (slope, "slope of ln L"),
        "curvature": (curvature, "curvature of ln L"),
        "width": (random_landscape.flatness(curvature), "width of the inverse Gaussian"),
    }
    return from_profiles(profiles, columns, "fits of the loss along directions")


def from_profiles(
    profiles: xr.Dataset, columns: dict[str, tuple[np.ndarray, str]], title: str, *dims: str
) -> xr.Dataset:
    """Columns, each with its name in words, over the modes of profiles and ``dims``, and their attributes."""
    variables = {name: quantity(values, ("mode", *dims), text) for name, (values, text) in columns.items()}
    return xr.Dataset(variables, {"mode": profiles["mode"]}, profiles.attrs | {"title": title})


def loss_along(measured: Subject | Run, modes: xr.Dataset, *, double: bool) -> Subject:
    """The loss as a function of the weights that directions (mode, weight) belong to, in float64 or float32.

    Of a run it is the training loss by the weights, without biases, of the layer ``modes.attrs["layer"]``. A
    ValueError where the directions do not say their layer, or do not fit the weights.
    """
    if isinstance(measured, Subject):
        subject, weights = measured, "the subject"
    else:
        if "layer" not in modes.attrs:
            raise ValueError("modes.attrs['layer'] is missing: say whose weights the directions belong to")
        subject = layer_subject(measured, int(modes.attrs["layer"]))
        weights = f"layer {modes.attrs['layer']}"
    if modes.sizes["weight"] != subject.size:
        raise ValueError(
            f"the directions have {modes.sizes['weight']} weights and {weights} has {subject.size}"
        )
    lengths = np.linalg.norm(modes["direction"].to_numpy(), axis=-1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("directions must be finite and not zero")
    return subject.to(torch.float64 if double else torch.float32)


def layer_subject(run: Run, layer: int) -> Subject:
    """The training loss of a run by the weights of one layer, without biases: those that windows record."""
    names = layer_names(run.net, layer, bias=False)
    return Subject(run.net, run.data.train_inputs, run.data.train_labels, weights=names)


def starting_loss(loss: Subject) -> float:
    """L₀ = L(w₀); a ValueError where it is not finite, or zero to rounding, without a logarithm."""
    value = float(loss.losses()[0])
    if not math.isfinite(value):
        raise ValueError(f"the loss at these weights is {value}: training diverged")
    if value < SMALLEST_LOSS:
        said = "negative" if value < 0 else "zero to rounding"
        raise ValueError(
            f"the loss {value:.1e} is {said}: its logarithm has no shape; stop training earlier, or take a "
            "positive loss"
        )
    return value


def chosen_rows(modes: xr.Dataset, directions: Sequence[int] | None) -> np.ndarray:
    """Row numbers of directions, default all, checked against the modes there are."""
    there = range(modes.sizes["mode"])
    chosen = list(there if directions is None else map(int, directions))
    if not chosen:
        raise ValueError("directions is empty")
    if not {min(chosen), max(chosen)} <= set(there):
        raise ValueError(
            f"directions from {min(chosen)} to {max(chosen)} do not exist: there are {len(there)} modes, "
            f"rows 0 to {len(there) - 1}"
        )
    return np.array(chosen)


class CrossingSearch:
    """Crossings of one level on both sides of a point, for several directions at once.

    y(s) = ln(L/L₀)/level is 0 at the start and 1 at the crossing. A parabola of unknown slope and curvature
    takes one loss on each side; the crossings of that parabola are then close, and a cubic ends the search.
    """

    def __init__(self, loss: Subject, *, level: float, start: float, farthest: float) -> None:
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
            estimate[bare] = _outwards_or_between(low, y_low, high, y_high)[bare]
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

    def _heights(self, directions: np.ndarray, s: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """y at s on the sides that are asked for, elsewhere NaN."""
        losses = np.full_like(s, np.nan)
        for left, right in ((True, True), (True, False), (False, True)):
            rows = np.flatnonzero((asked == (left, right)).all(1))
            sides = np.flatnonzero((left, right))
            if rows.size:
                signed = s[np.ix_(rows, sides)] * np.array([-1.0, 1.0])[sides]
                values = numpy(self.loss.along(directions[rows], signed))
                self.evaluations += values.size
                # An overflow on the way out means far above the level.
                losses[np.ix_(rows, sides)] = np.where(np.isfinite(values), values, np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(losses / self.start) / self.level


def _outwards_or_between(low, y_low, high, y_high) -> np.ndarray:
    """The next place to try where interpolation has no answer: √y as linear between the ends."""
    h_low, h_high = (np.sign(y) * np.sqrt(np.abs(y)) for y in (y_low, y_high))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = low + (1 - h_low) / (h_high - h_low) * (high - low)
    return np.where(np.isinf(high), low * np.clip(1.05 / np.maximum(h_low, 1e-9), 1.02, GROWTH), between)


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
