"""The Fokker–Planck matrix outside absorbing sets, and its slowest decay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.chain import bernoulli
from fpsolve.density.choices import Scheme
from fpsolve.density.dissection import Dissection
from fpsolve.density.elimination import ShutIn, eliminate
from fpsolve.density.fitted import FittedAxis, fitted_axis
from fpsolve.density.grid import Grid
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
    if not len(inside):  # no float is as small as the rates into the set
        return np.zeros(0)
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


class Outside(NamedTuple):
    """A chain outside absorbing sets: which cells each set holds, and the chain among the other cells."""

    members: list[np.ndarray]
    keep: np.ndarray
    rates: sparse.csr_matrix  # (n, n) of i → j; the diagonal has no meaning
    exits: np.ndarray  # (n, sets)

    @classmethod
    def of(
        cls,
        process: Process,
        matrix: sparse.spmatrix,
        grid: Grid,
        functions: Sequence[Callable[..., np.ndarray]],
        schemes: Sequence[Scheme],
        parts: int = 4,
    ) -> Outside:
        """The chain of A on a grid outside the sets in which signed functions are positive.

        On a line with jumps, where the chain does not depend on A, integrals between centres are cut into
        ``parts``.

        Values of the backward equation, and P, vanish on the sets' boundaries to second order. A ValueError
        if a set holds no cell, two of them meet, or they fill the box.
        """
        points = np.moveaxis(grid.points(), -1, 0)
        signed = [np.broadcast_to(np.asarray(f(*points), float), grid.shape).ravel() for f in functions]
        members = [g > 0 for g in signed]
        if not all(member.any() for member in members):
            raise ValueError("the target holds no cell of the box: enlarge the box or use more cells")
        if np.sum(members, axis=0).max() > 1:
            raise ValueError("source and target overlap")
        if np.all(np.any(members, axis=0)):
            who = "the target fills" if len(members) == 1 else "source and target together fill"
            raise ValueError(f"{who} the whole box: leave cells outside, or enlarge the box")
        if "upwind" in schemes:
            equation = backward(process, grid, [g.reshape(grid.shape) for g in signed])
            return cls(members, equation.outside, equation.rates, equation.exits)
        keep = np.flatnonzero(~np.any(members, axis=0))
        lines = lines_with_jumps(process, grid, schemes)
        matrix = _without_axes(matrix, grid, [line.axis for line in lines])
        rows, exits = sparse.csr_matrix(matrix.T)[keep], np.zeros((len(keep), len(signed)))
        for k, g in enumerate(signed):
            inside = np.flatnonzero(g > 0)
            jumps = rows[:, inside].tocoo()
            if not jumps.nnz:
                continue
            out = exit_rates(matrix, grid, g, inside[jumps.col], keep[jumps.row])
            np.add.at(exits[:, k], jumps.row, out)
        for line in lines:
            moves, into = _exact_chain(line, signed, parts)
            rows, exits = rows + moves[keep], exits + into[keep]
        return cls(members, keep, rows[:, keep], exits)


def lines_with_jumps(process: Process, grid: Grid, schemes: Sequence[Scheme]) -> list[FittedAxis]:
    """The fitted axes along which coefficients jump, but not the loss, and noise is independent."""
    lines = [
        fitted_axis(process, grid, axis)
        for axis, (name, scheme) in enumerate(zip(grid.names, schemes, strict=True))
        if scheme == "exponential" and name not in grid.periodic and name not in grid.mirrored
    ]
    found = [line for line in lines if line is not None and not any(line.ends) and not line.steps_of_loss]
    D = process.diffusion_values(grid.points().reshape(grid.cells, -1)[:: max(1, grid.cells // 500)])
    return found if not (D * (1 - np.eye(D.shape[1]))).any() else []


def _without_axes(matrix: sparse.spmatrix, grid: Grid, axes: Sequence[int]) -> sparse.spmatrix:
    """A matrix without its rates between neighbours along some axes; the diagonal has no meaning."""
    if not axes:
        return matrix
    entries = sparse.coo_matrix(matrix)
    here, there = (np.array(np.unravel_index(k, grid.shape)) for k in (entries.row, entries.col))
    left = ~(here != there)[list(axes)].any(axis=0)
    return sparse.csr_matrix((entries.data[left], (entries.row[left], entries.col[left])), matrix.shape)


def _exact_chain(
    line: FittedAxis, signed: Sequence[np.ndarray], parts: int
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Rates along an axis among all cells and into each set, from integrals that part the way at the jumps.

    In one variable times and committors are exact at the centres, wherever jumps and the sets' boundaries cut
    the cells.
    """
    grid, n = line.grid, line.grid.cells
    number = np.arange(n).reshape(grid.shape)
    resistance, exits, into = np.full((2, n), np.inf), np.zeros((n, len(signed))), np.full((2, n), -1)
    mass = np.moveaxis(line.mass_of_halves(), -1, line.axis + 1).reshape(2, n)
    next_to = np.zeros((2, n), int)
    for row, side in enumerate((-1, 1)):
        ahead = np.roll(number, -side, axis=line.axis)
        inner = np.abs(np.indices(grid.shape)[line.axis] + side * 0.5 - (grid.shape[line.axis] - 1) / 2)
        open_ahead = (inner < (grid.shape[line.axis] - 1) / 2).ravel()
        start, end = number.ravel()[open_ahead], ahead.ravel()[open_ahead]
        share = np.ones(len(start))
        for k, g in enumerate(signed):
            crossed = (g[start] <= 0) & (g[end] > 0)
            into[row, start[crossed]] = k
            here, there = g[start[crossed]], g[end[crossed]]
            share[crossed] = np.clip(here / (here - there), 1e-12, 1.0)
        resistance[row, start], mass[row, start] = line.towards(start, side, share, parts)
        next_to[row, start] = end
    rates = 1.0 / (resistance * mass.sum(axis=0))
    for row in (0, 1):
        there = np.flatnonzero(into[row] >= 0)
        exits[there, into[row, there]] += rates[row, there]
        rates[row, there] = 0.0
    origin = np.tile(np.arange(n), 2)
    return sparse.csr_matrix((rates.ravel(), (origin, next_to.ravel())), (n, n)), exits


@dataclass(frozen=True)
class Absorbed:
    """dP/dt = A P on the cells outside a set; ``exits`` are the rates into it."""

    matrix: sparse.csc_matrix
    keep: np.ndarray
    exits: np.ndarray
    rates: sparse.csr_matrix  # among the kept cells, without diagonal
    places: np.ndarray  # of the kept cells on the grid

    @classmethod
    def of(
        cls,
        process: Process,
        matrix: sparse.csc_matrix,
        grid: Grid,
        function: Callable[..., np.ndarray],
        schemes: Sequence[Scheme],
    ) -> Absorbed:
        """The matrix outside the set where a signed function is positive; fails as :meth:`Outside.of`."""
        outside = Outside.of(process, matrix, grid, [function], schemes)
        inner, exits = outside.rates.T, outside.exits[:, 0]
        inner = inner - sparse.diags(np.asarray(inner.sum(axis=0)).ravel() + exits)
        rates = outside.rates - sparse.diags(outside.rates.diagonal())
        return cls(inner.tocsc(), outside.keep, exits, rates.tocsr(), grid.indices()[outside.keep])

    def slowest_decay(self) -> tuple[float, np.ndarray]:
        """The smallest decay rate and its density on all kept cells, of sum 1: the quasi-stationary state.

        Inverse iteration with the elimination, right to rounding at any barrier. NaN where it does not
        settle, where negative rates lose it in rounding, and, with the density, where no float leaves some
        cell.
        """
        try:
            chain = eliminate(Dissection.of(self.rates, self.places), self.rates, self.exits)
        except ShutIn:
            return np.nan, np.full(len(self.keep), np.nan)
        density, rate = np.full(len(self.keep), 1.0 / len(self.keep)), np.nan
        for _ in range(500):
            ahead = chain.occupation(density)
            before, rate = rate, 1.0 / float(ahead.sum())
            ahead = ahead * rate
            settled = np.abs(ahead - density).sum() < 1e-10
            density = ahead
            if settled and abs(rate / before - 1.0) < 1e-10:
                break
        else:
            rate = np.nan
        # Rates of one sign are summed without loss; else what is smaller than rounding is lost.
        rounding = np.finfo(float).eps * float(np.abs(self.matrix.diagonal()).max())
        lost = self.rates.data.min(initial=0.0) < 0.0 and not rate > 1e3 * rounding
        return (np.nan if lost else rate), density
