"""Richardson extrapolation of positive fields over three meshes, with an error that is observed, not assumed.

A field of order 2 on cells of width h, 2h, 4h has ln f = ln F + c h² + O(h⁴). With δ(h) = ln f(h) − ln f(2h),
the extrapolated ln f(h) + δ(h)/3 is right to O(h⁴). Logarithms keep the field positive, and treat every
height alike: two wells behind a barrier, and the tails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """ln f on the finest mesh, the error of its numbers, and whether it is extrapolated."""

    field: np.ndarray
    error: float
    used: bool


def extrapolated(
    fields: Sequence[np.ndarray],
    grids: Sequence[Grid],
    numbers: Callable[[np.ndarray, Grid], np.ndarray],
    *,
    steep: bool = True,
) -> Extrapolated:
    """ln f of order 2 from its values on meshes of h, 2h and 4h; NaN where there is none.

    Between centres ln f is a cubic, or f itself if it is not ``steep``, such as times that vanish linearly.
    ``numbers`` takes ln f and its mesh to numbers of order one: logarithms, or moments in units of their
    scales. The extrapolated field is taken if its numbers change less from 2h to h than those of the field
    itself. Its error is then a third of that change, and at least a thirtieth of the change of the field.
    Else the field on h stays. Its error is its last change, or a tenth of the one before if that is more, but
    at most ten times the last: a field without error but for its numbers' quadrature converges fast.
    """
    fine, middle, coarse = fields
    last, before = _change(fine, middle, grids[:2], steep), _change(middle, coarse, grids[1:], steep)
    plain = [numbers(field, grid) for field, grid in zip(fields, grids, strict=True)]
    moved, earlier = np.abs(plain[0] - plain[1]).max(), np.abs(plain[1] - plain[2]).max()
    better = fine + last, middle + before
    change = np.abs(numbers(better[0], grids[0]) - numbers(better[1], grids[1])).max()
    if moved > ROUNDING and change < moved:
        return Extrapolated(better[0], float(max(change / 3, moved / 30)), True)
    return Extrapolated(fine, float(max(moved, min(earlier / 10, 10 * moved))), False)


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
    """Values on the cells of a fine mesh at the centres of a coarse one of the same box."""
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
