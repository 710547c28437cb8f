"""Richardson extrapolation of positive fields over meshes, with an error that is observed, not assumed.

A field of order 2 on cells of width h, 2h, 4h has ln f = ln F + c h² + O(h⁴). With δ(h) = ln f(h) − ln f(2h),
the extrapolated ln f(h) + δ(h)/3 is right to O(h⁴). Logarithms keep the field positive, and treat every
height alike: two wells behind a barrier, and the tails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt

from fpsolve.density.grid import Grid

#: Largest |δ(h)|; larger ones, in the far tails, are cut.
LARGEST = 0.5
#: Changes of the numbers below this are rounding: nothing is left to extrapolate.
ROUNDING = 1e-9


class Extrapolated(NamedTuple):
    """ln f on the finest mesh, the error of its numbers, whether it is extrapolated; ln f on each mesh."""

    field: np.ndarray
    error: float
    used: bool
    fields: Sequence[np.ndarray]


def extrapolated(
    fields: Sequence[np.ndarray],
    grids: Sequence[Grid],
    numbers: Callable[[np.ndarray, Grid], np.ndarray],
    *,
    steep: bool = True,
) -> Extrapolated:
    """ln f of order 2 from its values on meshes of h, 2h, 4h and, for its error, 8h; NaN where there is none.

    Between centres ln f is a cubic, or f itself if it is not ``steep``, such as times that vanish linearly.
    ``numbers`` takes ln f and its mesh to numbers of order one: logarithms, or moments in units of their
    scales. The extrapolated field is taken if its numbers change less from 2h to h than those of the field
    itself. Its error is then :func:`remainder` of these changes; for times more, as the boundary of a set
    cuts the cells of each mesh in another way. Else the field on h stays. Its error is its last change, or a
    tenth of the one before if that is more, but at most ten times the last: a field without error but for its
    numbers' quadrature converges fast.
    """
    steps = [
        _change(fine, coarse, grids[k : k + 2], steep) for k, (fine, coarse) in enumerate(pairwise(fields))
    ]
    better = [field + step for field, step in zip(fields[:-1], steps, strict=True)]
    moved, earlier = changes([numbers(f, g) for f, g in zip(fields, grids, strict=True)])[:2]
    found = [numbers(f, g) for f, g in zip(better, grids[:-1], strict=True)]
    of_better = changes(found)
    if moved > ROUNDING and of_better[0] < moved:
        error = remainder(of_better) if steep else _remainder_at_cuts(found)
        return Extrapolated(better[0], error, True, better)
    return Extrapolated(fields[0], float(max(moved, min(earlier / 10, 10 * moved))), False, fields)


def changes(numbers: Sequence[np.ndarray]) -> list[float]:
    """Largest change of numbers from each mesh to the one before, the finest first."""
    with np.errstate(invalid="ignore"):
        moves = [np.abs(a - b).max() for a, b in pairwise(numbers)]
    return [float(np.nan_to_num(move, nan=np.inf)) for move in moves]


def remainder(changes: Sequence[float]) -> float:
    """The error left after the changes c₀ from 2h to h and c₁ from 4h to 2h of extrapolated numbers.

    The rest of a geometric series, c₀ r/(1 − r) with r = c₀/c₁. Order 4 has r = 1/16, order 3 has 1/8; r is
    taken no smaller than 0.15, and no larger than a half, where the series is not yet one. At least c₁/150,
    as c₀ may be small by chance. Where c₁ is not known, a third of c₀; two thirds of more than a tenth,
    where the series is hardly one.
    """
    last, before = (*changes, np.nan)[:2]
    if not np.isfinite(before):
        return last / (3 if last < 0.1 else 1.5)
    ratio = min(max(last / before, 0.15), 0.5) if before > 0 else 0.5
    return max(last * ratio / (1 - ratio), before / 150)


def _remainder_at_cuts(numbers: Sequence[np.ndarray]) -> float:
    """The error of extrapolated numbers that depend on how a boundary cuts the cells of each mesh.

    A third of the last change c₀ where it follows c₁ as order 4 does, 1/24 to 1/6 of it and of its sign; else
    all of it, or c₁/24 if that is more.
    """
    last, before = ([*np.diff(numbers[::-1], axis=0)[::-1], None])[:2]
    if before is None:
        return float(np.abs(last).max()) / 3
    with np.errstate(divide="ignore", invalid="ignore"):
        regular = (last / before > 1 / 24) & (last / before < 1 / 6)
    left = np.where(regular, np.abs(last) / 3, np.maximum(np.abs(last), np.abs(before) / 24))
    return float(left.max())


def _change(fine: np.ndarray, coarse: np.ndarray, grids: Sequence[Grid], steep: bool) -> np.ndarray:
    """δ/(r² − 1) on the cells of the fine mesh, r the ratio of cell widths."""
    if steep:
        here = resampled(fine, *grids)
    else:
        top = np.nanmax(fine)
        with np.errstate(divide="ignore", invalid="ignore"):
            here = np.log(resampled(np.exp(fine - top), *grids)) + top
    change = here - coarse
    nearest = distance_transform_edt(~np.isfinite(change), return_distances=False, return_indices=True)
    change = np.clip(change[tuple(nearest)], -LARGEST, LARGEST)
    lines = [grids[1].centres(axis) for axis in range(fine.ndim)]
    points = np.clip(grids[0].points(), [line[0] for line in lines], [line[-1] for line in lines])
    ratio = (grids[0].cells / grids[1].cells) ** (1 / fine.ndim)
    return RegularGridInterpolator(lines, change)(points) / max(ratio**2 - 1, 1.0)


def error_left(change: float, order: int) -> float:
    """The error on cells of width h that a change from 2h to h leaves; a large change counts in full."""
    return change if change > 1 / 3 else change / (2.0**order - 1.0)


def resampled(values: np.ndarray, fine: Grid, coarse: Grid) -> np.ndarray:
    """Values on the cells of a fine mesh at the centres of a coarse one, or of the same, of the same box."""
    if fine == coarse:
        return values
    for axis in range(values.ndim):
        values = _interpolated(values, axis, fine, coarse.centres(axis))
    return values


def at(values: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Values at points (k, N) from those on cells, by cubics; NaN next to a cell without one."""
    found = []
    for point in points:
        line = values
        for axis in reversed(range(values.ndim)):
            line = _interpolated(line, axis, grid, point[[axis]])[..., 0]
        found.append(float(line))
    return np.array(found)


def _interpolated(values: np.ndarray, axis: int, grid: Grid, targets: np.ndarray) -> np.ndarray:
    """Values at other places of one axis, from the cubic through the four nearest centres."""
    place = (targets - grid.centres(axis)[0]) / grid.widths[axis]
    first = np.clip(np.floor(place).astype(int) - 1, 0, grid.shape[axis] - 4)
    t, shape = place - first, [-1 if a == axis else 1 for a in range(values.ndim)]
    total = 0.0
    for k in range(4):
        weight = np.prod([(t - j) / (k - j) for j in range(4) if j != k], axis=0)
        total = total + weight.reshape(shape) * values.take(first + k, axis)
    return np.asarray(total)
