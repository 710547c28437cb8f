"""The Fokker–Planck matrix outside an absorbing set, and its slowest decay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.chain import bernoulli
from fpsolve.density.choices import Scheme
from fpsolve.density.grid import Grid
from fpsolve.density.operator import factorised
from fpsolve.density.upwind import backward
from theory.langevin import Process

#: A boundary is kept at least this share of a cell away from a cell's centre.
SMALLEST_CUT = 1e-3


def exit_rates(
    matrix: sparse.spmatrix, grid: Grid, signed: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """Rates from outer cells through a boundary to inner ones, which are absorbing.

    ``matrix`` is A of dP/dt = A P; ``signed`` is positive inside, one value per cell. The boundary cuts the
    line between two cells at a share s of its length; through the end of a periodic axis, at half of it.
    Where both rates k between the cells are positive, their ratio e^z tells drift over diffusion, and the
    rate over the share is k B(−z s)/(s B(−z)) with B(z) = z/(e^z − 1); else it is k/s.
    """
    share = np.clip(signed[outside] / (signed[outside] - signed[inside]), SMALLEST_CUT, 1.0)
    here, there = (np.array(np.unravel_index(cells, grid.shape)) for cells in (inside, outside))
    distance = np.abs(here - there)
    for axis, name in enumerate(grid.names):
        if name in grid.periodic:
            share = np.where(2 * distance[axis] > grid.shape[axis], 0.5, share)
    rows = sparse.csr_matrix(matrix)
    leaving, back = (np.asarray(rows[i, j]).ravel() for i, j in ((inside, outside), (outside, inside)))
    with np.errstate(all="ignore"):
        z = np.log(leaving / back)
        fitted = bernoulli(-z * share) / bernoulli(-z)
    return leaving / share * np.where((leaving > 0) & (back > 0) & np.isfinite(fitted), fitted, 1.0)


@dataclass(frozen=True)
class Absorbed:
    """dP/dt = A P on the cells outside a set; ``exits`` are the rates into it."""

    matrix: sparse.csc_matrix
    keep: np.ndarray
    exits: np.ndarray

    @classmethod
    def of(
        cls,
        process: Process,
        matrix: sparse.csc_matrix,
        grid: Grid,
        function: Callable[..., np.ndarray],
        schemes: Sequence[Scheme],
    ) -> Absorbed:
        """The matrix outside the set where a signed function is positive.

        The rates into the set make P vanish on its boundary to second order. A ValueError if the set holds
        no cell, or every cell.
        """
        points = np.moveaxis(grid.points(), -1, 0)
        signed = np.broadcast_to(np.asarray(function(*points), float), grid.shape).ravel()
        member = signed > 0
        if not member.any():
            raise ValueError("the target holds no cell of the box: enlarge the box or use more cells")
        if member.all():
            raise ValueError("the target fills the whole box")
        if "upwind" in schemes:
            generator = backward(process, grid, [signed.reshape(grid.shape)])
            exits = generator.exits[:, 0]
            leaving = np.asarray(generator.rates.sum(axis=1)).ravel() + exits
            inner = (generator.rates - sparse.diags(leaving)).T
            return cls(inner.tocsc(), generator.outside, exits)
        keep = np.flatnonzero(~member)
        entries = matrix.tocoo()
        leaving = member[entries.row] & ~member[entries.col]
        cells = entries.col[leaving]
        rates = exit_rates(matrix, grid, signed, entries.row[leaving], cells)
        exits = np.bincount(cells, rates, grid.cells)[keep]
        inner = matrix[keep][:, keep]
        inner = inner - sparse.diags(np.asarray(inner.sum(axis=0)).ravel() + exits)
        return cls(inner.tocsc(), keep, exits)

    def slowest_decay(self) -> tuple[float, np.ndarray]:
        """The smallest decay rate and its density on all kept cells, of sum 1: the quasi-stationary state.

        Inverse iteration. NaN where it does not settle, or where the rate is lost in the rounding of A.
        """
        lu = factorised(self.matrix)
        density, rate = np.full(len(self.keep), 1.0 / len(self.keep)), np.nan
        for _ in range(500):
            ahead = -lu.solve(density)
            before, rate = rate, 1.0 / float(ahead.sum())
            ahead = ahead * rate
            settled = np.abs(ahead - density).sum() < 1e-10
            density = ahead
            if settled and abs(rate / before - 1.0) < 1e-10:
                break
        else:
            rate = np.nan
        rounding = np.finfo(float).eps * float(np.abs(self.matrix.diagonal()).max())
        return (rate if rate > 1e3 * rounding else np.nan), density
