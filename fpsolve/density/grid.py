"""Mesh for densities: uniform cells without grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

import numpy as np
import xarray as xr

from fpsolve.density.choices import Walls
from fpsolve.results import check_names, quantity
from fpsolve.symbols.functions import numpy_function
from theory.langevin import Process

Box = dict[str, tuple[float, float]]
#: Outer share of the box whose mass tells whether the density fits into it.
RIM = 0.02
#: Names in results beside those of the variables.
RESERVED = frozenset({"cell_volume", "time", "survival", "mode"})


@dataclass(frozen=True)
class Grid:
    """A uniform tensor grid of cells.

    The lower end of a ``mirrored`` axis is v = 0, no wall; the ends of a ``periodic`` axis are one place.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    mirrored: tuple[str, ...] = ()
    periodic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names(self.names, RESERVED | {f"{name}_weight" for name in self.names})

    @classmethod
    def on(cls, box: Box, shape: tuple[int, ...], periodic: tuple[str, ...] = ()) -> Grid:
        """The grid of ``shape`` cells on a box."""
        low, high = zip(*box.values(), strict=True)
        return cls(tuple(box), low, high, shape, periodic=periodic)

    @property
    def widths(self) -> tuple[float, ...]:
        """Cell widths h, one per axis."""
        return tuple((b - a) / n for a, b, n in zip(self.low, self.high, self.shape, strict=True))

    @property
    def cell_volume(self) -> float:
        """Volume of one cell."""
        return float(np.prod(self.widths))

    @property
    def cells(self) -> int:
        """Number of cells."""
        return int(np.prod(self.shape))

    def centres(self, axis: int) -> np.ndarray:
        """Cell centres along one axis, shape (n,)."""
        n, low, high = self.shape[axis], self.low[axis], self.high[axis]
        # Odd about the middle to the last bit, so that both halves of a symmetric box agree.
        return (low + high) / 2 + (2 * np.arange(n) + 1 - n) * ((high - low) / (2 * n))

    def indices(self) -> np.ndarray:
        """Integer places of the cells in C order, shape (cells, N)."""
        return np.indices(self.shape).reshape(len(self.shape), -1).T

    def points(self, *, face_axis: int | None = None, beside_faces: int | None = None) -> np.ndarray:
        """Cell centres as an array (..., N) of grid shape.

        With ``face_axis`` the centres of one axis' faces between cells, the upper end of a periodic axis
        among them; with ``beside_faces`` the cell centres on both sides of those.
        """
        lines = [self.centres(a) for a in range(len(self.shape))]
        axis = beside_faces if face_axis is None else face_axis
        if axis is not None and self.names[axis] in self.periodic:
            lines[axis] = np.append(lines[axis], self.high[axis] + 0.5 * self.widths[axis])
        if face_axis is not None:
            lines[face_axis] = (lines[face_axis][1:] + lines[face_axis][:-1]) / 2.0
        return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)

    @property
    def coordinates(self) -> dict[str, xr.Variable]:
        """Cell centres as coordinates of a result."""
        return {v: quantity(self.centres(axis), v, v) for axis, v in enumerate(self.names)}

    def coarsened(self) -> Grid:
        """The same region with cells twice as wide."""
        return replace(self, shape=tuple(max(4, n // 2) for n in self.shape))


def kept_axes(values: np.ndarray, *axes: int) -> np.ndarray:
    """An array summed over all axes but ``axes``."""
    return values.sum(axis=tuple(a for a in range(values.ndim) if a not in axes))


def rim_masses(density: np.ndarray, grid: Grid) -> dict[tuple[str, str], float]:
    """|Mass| in the outer ``RIM`` share of the box, by end, such as ("x", "low").

    Left out are v = 0 of mirrored axes and the ends of periodic ones.
    """
    masses = {}
    for axis, name in enumerate(grid.names):
        marginal = kept_axes(np.abs(density), axis) * grid.cell_volume
        cells = max(1, round(RIM * len(marginal)))
        if name in grid.periodic:
            continue
        if name not in grid.mirrored:
            masses[name, "low"] = float(marginal[:cells].sum())
        masses[name, "high"] = float(marginal[-cells:].sum())
    return masses


def unfolded(values: np.ndarray, axis: int = 0, *, odd: bool = False) -> np.ndarray:
    """Values on v ≥ 0 with their mirror image before them, its sign changed if ``odd``."""
    image = np.flip(values, axis)
    return np.concatenate([-image if odd else image, values], axis)


def place(names: Sequence[str], point: np.ndarray) -> str:
    """A point in words, "x=0.5, y=1"."""
    return ", ".join(f"{n}={v:.4g}" for n, v in zip(names, point, strict=True))


def checked_box(process: Process, box: Mapping[str, tuple[float, float]]) -> Box:
    """``box`` in the order of the variables, as floats.

    A ValueError names wrong variables, and an interval that is empty or not finite.
    """
    if set(box) != set(process.names):
        raise ValueError(f"box has the variables {sorted(box)}; the process has {sorted(process.names)}")
    checked: Box = {}
    for name in process.names:
        try:
            low, high = map(float, box[name])
        except (TypeError, ValueError):
            raise ValueError(f"box[{name!r}]={box[name]!r} must be a pair (low, high)") from None
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"box[{name!r}]=({low:g}, {high:g}) must be finite with low < high")
        checked[name] = (low, high)
    return checked


def checked_walls(
    process: Process,
    walls: Walls | Mapping[str, Walls],
    box: Mapping[str, tuple[float, float]] | None,
) -> dict[str, Walls]:
    """The walls of every variable, given by one word for all or by a mapping (which leaves others "far").

    A ValueError names an unknown word or variable, and a periodic axis without a box.
    """
    given = dict(walls) if isinstance(walls, Mapping) else dict.fromkeys(process.names, walls)
    if strangers := sorted(set(given) - set(process.names)):
        raise ValueError(f"walls has the variables {strangers}; the process has {sorted(process.names)}")
    for kind in given.values():
        if kind not in get_args(Walls):
            raise ValueError(f"walls={kind!r} must be {' or '.join(map(repr, get_args(Walls)))}")
    if "periodic" in given.values() and box is None:
        raise ValueError("periodic walls need box=: give one period, or several")
    return {name: given.get(name, "far") for name in process.names}


def is_number(value: object) -> bool:
    """Whether an argument is a real number, and no word or truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def walls_in_words(walls: Mapping[str, Walls]) -> str:
    """The walls of every variable in one attribute, "x: periodic, y: far"."""
    return ", ".join(f"{name}: {kind}" for name, kind in walls.items())


def checked_shape(shape: Sequence[int] | int | None, dimension: int) -> tuple[int, ...] | None:
    """Cells per axis as a tuple, at least 8 each; None for None."""
    if shape is None:
        return None
    given = tuple(cast(Sequence[int], shape)) if np.ndim(shape) else (shape,) * dimension
    if len(given) != dimension or not all(isinstance(n, int | np.integer) and n >= 8 for n in given):
        raise ValueError(
            f"shape={shape} must give a whole number of at least 8 cells for each of {dimension} variables"
        )
    return tuple(int(cast(int, n)) for n in given)


def loss_values(process: Process, points: np.ndarray) -> np.ndarray | None:
    """The loss at ``points`` of shape (..., N), NaN where it is not real; None without a landscape."""
    if process.landscape is None:
        return None
    return numpy_function(process.landscape.loss, process.variables)(*np.moveaxis(points, -1, 0))


def lowest(process: Process, points: np.ndarray) -> int:
    """Index among points (..., N) of the lowest loss, or without a landscape of the smallest drift.

    At a stationary point the density is not negligible.
    """
    loss = loss_values(process, points)
    score = np.sum(drift_values(process, points) ** 2, axis=-1) if loss is None else loss
    return int(np.argmin(score))


def drift_values(process: Process, points: np.ndarray) -> np.ndarray:
    """b at ``points`` of shape (..., N), same shape."""
    drift = numpy_function(list(process.drift), process.variables)
    return np.stack(list(drift(*np.moveaxis(points, -1, 0))), axis=-1)
