"""Shears that turn directions without noise into axes, and make constant noise independent along the others.

y = M x with y_p = x_p + Σ_k c_k x_k for some variables p; the others keep their names and values. Then
dy = M b dt with the noise M D Mᵀ, which is diagonal: what :mod:`fpsolve.density.upwind` needs. Results on a
grid in y are interpolated back, one axis after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp
import xarray as xr
from scipy.interpolate import CubicSpline, PchipInterpolator

from fpsolve.density.grid import Box, Grid, checked_box, checked_shape
from fpsolve.density.upwind import NO_NOISE, noiseless_directions
from theory.langevin import Diffusion, Langevin, Process

#: Ratio of the noise along two directions, beyond which jumps along them are longer than a shear is bad.
MOST_SPREAD = 50.0


@dataclass(frozen=True)
class Shear:
    """y_p = x_p + Σ_k c_k x_k along one axis p, with c_p = 0."""

    axis: int
    coefficients: np.ndarray

    def words(self, names: Sequence[str]) -> str:
        """The variable y_p as text."""
        terms = [f"{c:+.6g} {name}" for c, name in zip(self.coefficients, names, strict=True) if c]
        return " ".join([names[self.axis], *terms])

    def moved(self, points: Sequence, sign: int = 1) -> list:
        """Coordinates y of coordinates x, and x of y for sign −1; numbers, arrays or expressions."""
        moved = list(points)
        for c, other in zip(self.coefficients, points, strict=True):
            if c:
                moved[self.axis] = moved[self.axis] + sign * c * other
        return moved


@dataclass(frozen=True)
class Sheared:
    """A process in sheared variables."""

    process: Diffusion
    shears: tuple[Shear, ...]

    def box(self, box: Mapping[str, tuple[float, float]], sign: int = 1) -> Box:
        """The smallest box in y that holds a box in x; of a box in y for sign −1."""
        names = self.process.names
        ends = [np.array(box[name], float) for name in names]
        for shear in self._order(sign):
            for c, other in zip(shear.coefficients, list(ends), strict=True):
                ends[shear.axis] = ends[shear.axis] + np.sort(sign * c * other)
        return {name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)}

    def function(self, condition: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """A function of x as one of y."""

        def sheared(*points: np.ndarray) -> np.ndarray:
            for shear in self._order(-1):
                points = tuple(shear.moved(points, -1))
            return condition(*points)

        return sheared

    def restored(self, values: np.ndarray, solved: Grid, wanted: Grid, *, smooth: bool) -> np.ndarray:
        """Values on the cells of a grid in y at the centres of one in x.

        Cubic splines along each sheared axis, or monotone cubics, which pass jumps without overshoot.
        """
        curve = CubicSpline if smooth else PchipInterpolator
        lines = [solved.centres(axis) for axis in range(values.ndim)]
        for shear in self._order(-1):
            p, target = shear.axis, wanted.centres(shear.axis)
            places = list(
                np.meshgrid(*[target if a == p else lines[a] for a in range(values.ndim)], indexing="ij")
            )
            asked = np.clip(shear.moved(places)[p], lines[p][0], lines[p][-1])
            columns, asked = np.moveaxis(values, p, -1), np.moveaxis(asked, p, -1)
            flat = zip(
                columns.reshape(-1, columns.shape[-1]), asked.reshape(-1, asked.shape[-1]), strict=True
            )
            found = np.stack([curve(lines[p], column)(points) for column, points in flat])
            values, lines[p] = np.moveaxis(found.reshape(asked.shape), -1, p), target
        return values

    def shape(self, box: Mapping[str, tuple[float, float]], shape: Sequence[int]) -> tuple[int, ...]:
        """Cells in y that are as wide as those of a grid in x."""
        cells = [*shape]
        moved = self.box(box)
        for axis in {shear.axis for shear in self.shears}:
            name = self.process.names[axis]
            longer = (moved[name][1] - moved[name][0]) / (box[name][1] - box[name][0])
            cells[axis] = 2 * round(cells[axis] * longer / 2)
        return tuple(cells)

    def labelled(
        self,
        result: xr.DataArray,
        box: Box | None = None,
        shape: tuple[int, ...] | None = None,
        *,
        smooth: bool = False,
    ) -> xr.DataArray:
        """A result in y as one in x, on a given box and shape or on the smallest box that holds all of it."""
        names = self.process.names
        lines = [result[name].to_numpy() for name in names]
        halves = [(line[1] - line[0]) / 2 for line in lines]
        ends = {v: (line[0] - h, line[-1] + h) for v, line, h in zip(names, lines, halves, strict=True)}
        solved = Grid.on(ends, result.shape)
        wanted = Grid.on({**ends, **(box or self.box(ends, -1))}, shape or result.shape)
        values = self.restored(result.to_numpy(), solved, wanted, smooth=smooth)
        moved = xr.DataArray(values, wanted.coordinates, names, name=result.name, attrs=result.attrs)
        moved.attrs["solved_in"] = ", ".join(shear.words(names) for shear in self.shears)
        return moved

    def solved(
        self,
        solve: Callable[..., xr.DataArray],
        box: Mapping[str, tuple[float, float]] | None,
        shape: Sequence[int] | int | None,
        *,
        smooth: bool = False,
    ) -> tuple[xr.DataArray, xr.DataArray]:
        """``solve(process, box=…, shape=…)`` in y, and the same in x."""
        given = None if box is None else checked_box(self.process, box)
        asked = checked_shape(shape, len(self.process.variables))
        cells = self.shape(given, asked) if given and asked else shape
        inner = solve(self.process, box=self.box(given) if given else None, shape=cells)
        return inner, self.labelled(inner, given, asked, smooth=smooth)

    def moments(self, moments: np.ndarray) -> np.ndarray:
        """⟨x_i x_j⟩ from ⟨y_i y_j⟩, shape (N, N)."""
        for shear in self._order(-1):
            moments = np.array(shear.moved(list(moments), -1)).T
            moments = np.array(shear.moved(list(moments), -1))
        return moments

    def _order(self, sign: int) -> Sequence[Shear]:
        return self.shears if sign > 0 else self.shears[::-1]


def sheared(process: Process) -> Sheared | None:
    """The process in variables whose noise is diagonal; None where the process's own are as good.

    Where noise is missing in a direction, or much weaker than along another and neither is an axis: jumps
    along both would reach over many cells. Only for constant D. The values of other processes, as far as they
    have directions without noise that are no axes, are left to the finite volumes.
    """
    if isinstance(process, Langevin) and process.noise.hessian_factor is not None:
        return None
    if process.diffusion.free_symbols:
        return None
    D, null = np.array(process.diffusion, float), noiseless_directions(process)
    if not len(null) and _spread(D) <= MOST_SPREAD:
        return None
    shears = _shears(D, null)
    if not shears:
        return None
    matrix = np.eye(len(D))
    for shear in shears:
        matrix = np.array(shear.moved(list(matrix)))
    noise = np.diag(matrix @ D @ matrix.T)
    noise = np.where(noise > NO_NOISE * noise.max(), noise, 0.0)
    back: list = list(process.variables)
    for shear in shears[::-1]:
        back = shear.moved(back, -1)
    old = process.drift.subs(dict(zip(process.variables, back, strict=True)), simultaneous=True)
    drift = sp.Matrix(matrix) * old
    return Sheared(Diffusion(drift, sp.diag(*noise.tolist()), process.variables, process.name), tuple(shears))


def _spread(D: np.ndarray) -> float:
    """Largest over smallest eigenvalue of D in units that make its diagonal 1; 1 if D is indefinite."""
    scale = np.sqrt(np.abs(D.diagonal()))
    values = np.linalg.eigvalsh(D / np.outer(scale, scale)) if scale.all() else np.ones(1)
    return float(values[-1] / values[0]) if values[0] > 0 else 1.0


def _shears(D: np.ndarray, null: np.ndarray) -> list[Shear]:
    """Reduce the directions without noise to one variable each, then the noise of the others by columns."""
    null, pivots = null.copy(), []
    for row in range(len(null)):
        pivot = int(np.argmax(np.abs(null[row])))
        null[row] /= null[row, pivot]
        rest = np.arange(len(null)) != row
        null[rest] -= np.outer(null[rest, pivot], null[row])
        pivots.append(pivot)
    null[np.abs(null) < NO_NOISE] = 0.0
    axes = np.arange(len(D))
    found = [Shear(p, np.where(axes == p, 0.0, row)) for p, row in zip(pivots, null, strict=True)]
    noisy = [axis for axis in range(len(D)) if axis not in pivots]
    left = D.copy()
    for i in noisy:
        for j in noisy[noisy.index(i) + 1 :]:
            share = left[i, j] / left[i, i]
            shear = Shear(j, np.where(axes == i, -share, 0.0))
            left = np.array(shear.moved(list(np.array(shear.moved(list(left))).T))).T
            found.append(shear)
    return [shear for shear in found if np.abs(shear.coefficients).max() > NO_NOISE]
