"""Finite-volume Fokker–Planck matrix with its cross-diffusion terms, its null vector, steps in time.

Itô convention: ∂_t P = Σ_i ∂_i[−b_i P + Σ_j ∂_j(D_ij P)], written per axis as
∂_i[(−b_i + ∂_i D_ii) P + D_ii ∂_i P] plus the cross terms ∂_i ∂_j(D_ij P), i ≠ j. FiPy assembles the
former, from rates that are right to rounding. FiPy puts off-diagonal entries of a tensor coefficient on the
lagged right-hand side, which a null vector does not contain. The cross terms are therefore added to FiPy's
matrix as a conservative 9-point stencil. The stencil is not monotone, as one from Selling's decomposition of
D would be.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import permutations
from types import ModuleType

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg

from fpsolve.density.chain import bernoulli, chain_matrix
from fpsolve.density.choices import Scheme
from fpsolve.density.dissection import Dissection, wells
from fpsolve.density.elimination import Elimination, ShutIn, eliminate
from fpsolve.density.fitted import fitted_axis
from fpsolve.density.grid import Grid, drift_values, loss_values, place
from fpsolve.density.modes import slowest_rate
from fpsolve.density.upwind import forward_matrix
from theory.langevin import Process


@dataclass(frozen=True)
class Coefficients:
    """Velocity c_i = −b_i + ∂_i D_ii and D_ii on each axis' inner faces; D (*grid.shape, N, N) at centres."""

    velocity: tuple[np.ndarray, ...]
    face_diffusion: tuple[np.ndarray, ...]
    diffusion: np.ndarray

    def peclet(self, grid: Grid, axis: int) -> np.ndarray:
        """Cell Péclet number |c| h / D on the interior faces of one axis."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(self.velocity[axis]) * grid.widths[axis] / self.face_diffusion[axis]
        return np.nan_to_num(ratio, nan=0.0, posinf=np.inf)


def coefficients(process: Process, grid: Grid) -> Coefficients:
    """Drift and diffusion of a process on a grid.

    The velocity uses cell differences of the loss and of D_ii: with these, exponential fitting makes
    exp(−L/D) an exact discrete stationary state of isotropic noise. A ValueError says where drift or
    diffusion is not finite, or D is not positive semidefinite.
    """
    centres = grid.points()
    D = _diffusion_on(process, centres)
    loss = loss_values(process, centres)
    if loss is not None and not np.isfinite(loss).all():
        where = place(process.names, centres[~np.isfinite(loss)][0])
        raise ValueError(f"the loss is not finite and real at {where}; choose a box that avoids it")
    velocity, face_diffusion = [], []
    for axis in range(len(grid.shape)):
        faces = grid.points(face_axis=axis)
        h = grid.widths[axis]
        beside, D_beside = centres, D
        if grid.names[axis] in grid.periodic:
            beside = grid.points(beside_faces=axis)
            D_beside = _diffusion_on(process, beside)
        heights = loss_values(process, beside)
        slope = (
            -drift_values(process, faces)[..., axis] if heights is None else np.diff(heights, axis=axis) / h
        )
        velocity.append(slope + np.diff(D_beside[..., axis, axis], axis=axis) / h)
        face_diffusion.append(_diffusion_on(process, faces)[..., axis, axis])
        if not np.isfinite(velocity[-1]).all():
            where = place(grid.names, faces[~np.isfinite(velocity[-1])][0])
            raise ValueError(f"the drift along {grid.names[axis]} is not finite near {where}")
    return Coefficients(tuple(velocity), tuple(face_diffusion), D)


def _diffusion_on(process: Process, points: np.ndarray) -> np.ndarray:
    """D on an array of points, checked to be finite and positive semidefinite."""
    flat = points.reshape(-1, points.shape[-1])
    with np.errstate(all="ignore"):
        D = process.diffusion_values(flat)
    names = process.names
    finite = np.isfinite(D).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"D is not finite at {place(names, flat[~finite][0])}")
    # eigvalsh on a thousand points finds an indefinite model; the trace test covers the rest.
    sample = slice(None, None, max(1, len(flat) // 2000))
    lowest, scale = np.linalg.eigvalsh(D[sample])[:, 0], np.abs(D[sample]).max(axis=(1, 2))
    bad = lowest < -1e-9 * np.maximum(scale, 1e-300)
    if bad.any() or (np.diagonal(D, axis1=1, axis2=2) < 0).any():
        worst = int(np.argmin(lowest))
        raise ValueError(
            f"D is not positive semidefinite: its lowest eigenvalue is {lowest[worst]:.3g} at "
            f"{place(names, flat[sample][worst])}"
        )
    return D.reshape(*points.shape[:-1], *D.shape[1:])


#: Schemes of the whole operator, for all axes alike; the others are for one axis each.
WHOLE: dict[Scheme, Callable[[Process, Grid], sparse.csc_matrix]] = {
    "chain": chain_matrix,
    "upwind": forward_matrix,
}


def fokker_planck_matrix(process: Process, grid: Grid, schemes: Sequence[Scheme]) -> sparse.csc_matrix:
    """The matrix A, shape (cells, cells), with dP/dt = A P for cell averages P in C order.

    The process is numeric. ``schemes`` says for each axis how c P + D ∂P is put on its faces, or names one of
    ``WHOLE`` for all axes. Outer faces carry no flux, mirrored ones by symmetry. Columns sum to zero, so that
    mass is conserved to rounding. Second order in the cell widths.
    """
    check_periodic(process, grid)
    if (whole := next((s for s in schemes if s in WHOLE), None)) is not None:
        return WHOLE[whole](process, grid)
    values = coefficients(process, grid)
    total, inner = cross_operator(values.diffusion, grid), {}
    for axis, scheme in enumerate(schemes):
        fitted, h = fitted_axis(process, grid, axis), grid.widths[axis]
        given = values.velocity[axis], values.face_diffusion[axis], h
        rates = fitted.rates(scheme) if fitted else face_rates(*given, scheme)
        if grid.names[axis] in grid.periodic:
            total = total + exchange(grid, axis, *rates)
        else:
            inner[axis] = rates
    return (total + _fipy_operator(grid, inner)).tocsc()


def check_periodic(process: Process, grid: Grid) -> None:
    """ValueError unless drift and D are the same at both ends of every periodic axis."""
    for name in grid.periodic:
        axis = grid.names.index(name)
        length = grid.high[axis] - grid.low[axis]
        low, high = np.array(grid.low), np.array(grid.high)
        points = low + (high - low) * np.random.default_rng(5).random((64, len(low)))
        ahead = points + length * (np.arange(len(low)) == axis)
        for what, values in (("drift", partial(drift_values, process)), ("D", process.diffusion_values)):
            here, there = values(points), values(ahead)
            if not np.allclose(here, there, rtol=1e-6, atol=1e-8 * max(1e-300, float(np.abs(here).max()))):
                raise ValueError(
                    f"walls of {name} are periodic, but the {what} does not repeat after {length:g}: "
                    "give a box of whole periods"
                )


def face_rates(
    velocity: np.ndarray, diffusion: np.ndarray, h: float, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
    """Rates upwards and downwards through faces with the flux −(c P + D ∂P)."""
    if scheme == "central":
        return diffusion / h**2 - velocity / (2 * h), diffusion / h**2 + velocity / (2 * h)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = velocity * h / diffusion
        # Without diffusion the flux is upwind: D B(z) tends to |c| h against the flow, and to 0 along it.
        up = np.where(np.abs(z) < 700, diffusion * bernoulli(z), np.maximum(-velocity, 0) * h)
        down = np.where(np.abs(z) < 700, diffusion * bernoulli(-z), np.maximum(velocity, 0) * h)
    return up / h**2, down / h**2


def exchange(grid: Grid, axis: int, up: np.ndarray, down: np.ndarray) -> sparse.csr_matrix:
    """The matrix of rates between neighbours along an axis, those through a periodic end included."""
    number = np.arange(grid.cells).reshape(grid.shape)
    count = up.shape[axis]
    first = np.take(number, range(count), axis=axis).ravel()
    second = np.take(np.roll(number, -1, axis=axis), range(count), axis=axis).ravel()
    up, down = up.ravel(), down.ravel()
    rows = np.concatenate([second, first, first, second])
    columns = np.concatenate([first, first, second, second])
    entries = np.concatenate([up, -up, down, -down])
    return sparse.coo_matrix((entries, (rows, columns)), shape=(grid.cells, grid.cells)).tocsr()


#: Two threads that import FiPy at once would each put back the other's arguments.
_FIPY_LOCK = threading.Lock()


@contextmanager
def _fipy_environment() -> Iterator[None]:
    """Import FiPy without letting it read this program's arguments or start another solver suite."""
    with _FIPY_LOCK:
        arguments, suite = sys.argv, os.environ.get("FIPY_SOLVERS")
        sys.argv, os.environ["FIPY_SOLVERS"] = [arguments[0] if arguments else ""], "scipy"
        try:
            yield
        finally:
            sys.argv = arguments
            if suite is None:
                del os.environ["FIPY_SOLVERS"]
            else:
                os.environ["FIPY_SOLVERS"] = suite


@cache
def _fipy() -> tuple[ModuleType, type]:
    """FiPy, and its face term with a given coefficient in every entry of the matrix.

    FiPy's own convection terms lose digits where drift dominates: they subtract two nearly equal numbers for
    the rate against it.
    """
    with _fipy_environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # FiPy still imports numpy.core
        import fipy

    class Exchange(fipy.terms.faceTerm.FaceTerm):
        """Flux through each face: rate up times the cell below it less rate down times the cell above."""

        def __init__(self, up: np.ndarray, down: np.ndarray) -> None:
            super().__init__(coeff=1.0)
            self.entries = {
                "cell 1 diag": -up,
                "cell 1 offdiag": down,
                "cell 2 diag": -down,
                "cell 2 offdiag": up,
            }

        def _getGeomCoeff(self, var):
            return 1.0  # rates are per time already

        def _getWeight(self, var, transientGeomCoeff=None, diffusionGeomCoeff=None):
            return {"implicit": self.entries}

    return fipy, Exchange


def _fipy_operator(grid: Grid, rates: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> sparse.csr_matrix:
    """The exchange between neighbours along some axes at given rates up and down, assembled by FiPy."""
    fipy, Exchange = _fipy()
    # FiPy numbers cells with its first axis fastest; reversed axes make that numpy's C order.
    sizes = {f"n{letter}": n for letter, n in zip("xyz", grid.shape[::-1], strict=False)}
    mesh = (fipy.Grid1D, fipy.Grid2D, fipy.Grid3D)[len(sizes) - 1](**sizes)
    cell, beyond = np.ma.filled(mesh.faceCellIDs, -1)
    up, down = np.zeros(len(cell)), np.zeros(len(cell))  # outer faces carry no flux
    for axis, both in rates.items():
        faces = np.flatnonzero(beyond - cell == int(np.prod(grid.shape[axis + 1 :], dtype=int)))
        space = [(0, int(a == axis)) for a in range(len(grid.shape))]
        up[faces], down[faces] = (np.pad(rate, space).ravel()[cell[faces]] for rate in both)
    term = Exchange(up, down)
    term.cacheMatrix()
    term.justResidualVector(var=fipy.CellVariable(mesh=mesh, value=1.0))
    return sparse.csr_matrix(term.matrix.matrix)


def cross_operator(D: np.ndarray, grid: Grid) -> sparse.csr_matrix:
    """The conservative matrix of Σ_{i≠j} ∂_i ∂_j(D_ij P), zero flux through the boundary.

    ``D`` has shape (*grid.shape, N, N). At a mirrored axis D_ij P is odd, which gives its ghost cell.
    """
    dimension = len(grid.shape)
    total = sparse.csr_matrix((grid.cells, grid.cells))
    for i, j in permutations(range(dimension), 2):
        weight = D[..., i, j].ravel()
        if not weight.any():
            continue
        factors = [sparse.identity(n, format="csr") for n in grid.shape]
        factors[i] = _flux_divergence(grid.shape[i], grid.widths[i], grid.names[i] in grid.periodic)
        mirrored, periodic = (grid.names[j] in some for some in (grid.mirrored, grid.periodic))
        factors[j] = _odd_derivative(grid.shape[j], grid.widths[j], mirrored, periodic)
        total = total + reduce(sparse.kron, factors) @ sparse.diags(weight)
    return total.tocsr()


def _flux_divergence(n: int, h: float, periodic: bool) -> sparse.csr_matrix:
    """Divergence of a flux averaged from cells to interior faces; its columns sum to zero."""
    if periodic:
        return _periodic_derivative(n, h)
    face = sparse.diags([np.full(n - 1, 0.5), np.full(n - 1, 0.5)], [0, 1], shape=(n - 1, n))
    return (sparse.diags([np.ones(n - 1), -np.ones(n - 1)], [0, -1], shape=(n, n - 1)) @ face / h).tocsr()


def _periodic_derivative(n: int, h: float) -> sparse.csr_matrix:
    """Central differences around a ring."""
    ahead = sparse.identity(n, format="csr")[np.roll(np.arange(n), -1)]
    return ((ahead - ahead.T) / (2 * h)).tocsr()


def _odd_derivative(n: int, h: float, mirrored: bool, periodic: bool) -> sparse.csr_matrix:
    """Second-order derivative at cell centres; at a mirrored lower end the function is odd."""
    if periodic:
        return _periodic_derivative(n, h)
    d = sparse.diags([-0.5 * np.ones(n - 1), 0.5 * np.ones(n - 1)], [-1, 1], shape=(n, n)).tolil()
    if mirrored:
        d[0, 0] = 0.5
    else:
        d[0, :3] = [-1.5, 2.0, -0.5]
    d[n - 1, n - 3 :] = [0.5, -2.0, 1.5]
    return (d / h).tocsr()


@dataclass(frozen=True)
class NullVector:
    """A discrete stationary state with the outcome of its checks, and the factorised chain."""

    density: np.ndarray
    residual: float
    column_sum: float
    negative_mass: float
    rates: sparse.csr_matrix
    chain: Elimination

    def slowest_rate(self) -> complex:
        """The decay rate of smallest real part."""
        return slowest_rate(self.chain)


def null_vector(matrix: sparse.csc_matrix, grid: Grid, *, mode: int | None = None) -> NullVector:
    """The stationary P with A P = 0 and Σ P V = 1.

    By subtraction-free elimination of the chain with the rates Aᵀ. Where no rate is negative its
    :func:`wells` come last, and every cell has full relative accuracy, however slow the exchange between
    wells. With negative rates wells are not found: ``mode``, a cell that holds some mass, comes last. A
    RuntimeError says which well exchanges no mass with the others, or none that a float can hold.
    """
    rates, places = matrix.T.tocsr(), grid.indices()
    negative = (rates - sparse.diags(rates.diagonal())).data.min(initial=0.0) < 0.0
    last = np.array([mode]) if negative and mode is not None else wells(rates)
    for _ in range(4):
        try:
            chain = eliminate(Dissection.of(rates, places, last), rates)
        except ShutIn as error:
            where = place(grid.names, grid.points().reshape(grid.cells, -1)[error.state])
            raise RuntimeError(
                f"the well around {where} exchanges no mass with the rest of the box, or over a barrier "
                "above about 670 D, which no float holds; solve one well at a time (box=) or raise the noise"
            ) from None
        density = chain.weights()
        top = int(np.argmax(np.abs(density)))
        # A last state of vanishing probability loses digits: the mode comes last instead.
        if np.abs(density[top]) < 1e6 * np.abs(density[chain.dissection.order[-1]]):
            break
        last = np.append(last[last != top], top)
    density = density / grid.cell_volume
    scale = float(abs(matrix).dot(np.abs(density)).max())
    return NullVector(
        density=density.reshape(grid.shape),
        residual=float(np.abs(matrix @ density).max()) / (scale or 1.0),  # 0: no float leaves the last cell
        column_sum=float(np.abs(np.asarray(matrix.sum(axis=0))).max() / abs(matrix).max()),
        negative_mass=float(abs(density[density < 0].sum()) * grid.cell_volume),
        rates=rates,
        chain=chain,
    )


def pinned_system(matrix: sparse.csc_matrix, pin: int) -> tuple[np.ndarray, sparse.csc_matrix, np.ndarray]:
    """A P = 0 with P[pin] = 1, equation ``pin`` left out: the other indices, their matrix, the right side."""
    keep = np.delete(np.arange(matrix.shape[0]), pin)
    return keep, matrix[keep][:, keep].tocsc(), -matrix[:, [pin]].toarray().ravel()[keep]


def factorised(matrix: sparse.csc_matrix) -> sparse_linalg.SuperLU:
    """Sparse LU for the symmetric pattern and near-dominant diagonal of these operators.

    An M-matrix (exponential faces, no cross terms) is factorised without pivoting, which keeps
    every intermediate number of one sign, and with that the density positive. A RuntimeError if the matrix
    is singular to rounding.
    """
    off_diagonal = matrix - sparse.diags(matrix.diagonal())
    signs = off_diagonal.data[off_diagonal.data != 0]
    pivot = 0.0 if signs.size == 0 or (signs > 0).all() or (signs < 0).all() else 1e-3
    try:
        options = {"SymmetricMode": True}
        return sparse_linalg.splu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=pivot, options=options)
    except RuntimeError:
        pass
    except MemoryError:
        raise MemoryError(
            f"the memory does not hold the factors of a matrix with {matrix.shape[0]} unknowns and "
            f"{matrix.nnz} entries; use fewer cells (shape=)"
        ) from None
    try:
        return sparse_linalg.splu(matrix)
    except RuntimeError:
        raise RuntimeError(
            "parts of the box exchange no mass that a float holds; give a smaller box=, or raise the noise"
        ) from None
