"""The finite-volume matrix against FiPy's own terms."""

import warnings

import fipy
import numpy as np
import pytest
import sympy as sp

from fpsolve.density.grid import Grid
from fpsolve.density.operator import fokker_planck_matrix
from theory import Diffusion, Landscape, Langevin, isotropic

x, y, z = sp.symbols("x y z", real=True)
SLANTED = Diffusion([y - x, -y - x / 2], sp.diag(1 + x**2 / 4, sp.Rational(3, 2) + sp.sin(y) / 2), (x, y))
STEEP = Langevin(Landscape(8 * x**4 - 4 * x**2 + y**2 + z**2 / 2 + x * y * z, (x, y, z)), isotropic(0.05))
LINE = Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), isotropic(0.02))
TERMS = {"central": fipy.CentralDifferenceConvectionTerm, "exponential": fipy.ExponentialConvectionTerm}


def _by_fipys_terms(process, grid, schemes):
    """∂_i[(−b_i + ∂_i D_ii) P + D_ii ∂_i P] by FiPy alone, ∂L and ∂D by differences between centres."""
    size = len(grid.shape)
    mesh = (fipy.Grid1D, fipy.Grid2D, fipy.Grid3D)[size - 1](
        **{f"n{c}": n for c, n in zip("xyz", grid.shape, strict=False)},
        **{f"d{c}": h for c, h in zip("xyz", grid.widths, strict=False)},
    )
    places = np.asarray(mesh.faceCenters) + np.array(grid.low)[:, None]
    axes = np.abs(np.asarray(mesh.faceNormals)).argmax(axis=0)
    half = np.array(grid.widths)[axes] / 2 * (np.arange(size)[:, None] == axes)
    L = sp.lambdify(process.variables, getattr(process.landscape, "loss", sp.Integer(0)))
    b, D = (sp.lambdify(process.variables, list(m)) for m in (process.drift, process.diffusion.diagonal()))
    velocity, diffusion = np.zeros_like(places), np.zeros(len(axes))
    for f, a in enumerate(axes):
        low, at, high = places[:, f] - half[:, f], places[:, f], places[:, f] + half[:, f]
        slope = -b(*at)[a] if process.landscape is None else (L(*high) - L(*low)) / grid.widths[a]
        velocity[a, f] = slope + (D(*high)[a] - D(*low)[a]) / grid.widths[a]
        diffusion[f] = D(*at)[a]
    equation = fipy.DiffusionTerm(coeff=fipy.FaceVariable(mesh=mesh, value=diffusion))
    for scheme in set(schemes):
        of_scheme = velocity * np.array([[s == scheme] for s in schemes])
        equation -= TERMS[scheme](coeff=fipy.FaceVariable(mesh=mesh, rank=1, value=-of_scheme))
    equation = equation == 0
    equation.cacheMatrix()
    equation.justResidualVector(var=fipy.CellVariable(mesh=mesh, value=1.0))
    number = np.arange(grid.cells).reshape(grid.shape, order="F").ravel()  # FiPy's first axis is the fastest
    return equation.matrix.matrix.toarray()[np.ix_(number, number)] / grid.cell_volume


@pytest.mark.parametrize(
    ("process", "grid", "schemes", "tolerance"),
    [
        (SLANTED, Grid(("x", "y"), (-2, -1), (1, 2), (9, 12)), ("central", "central"), 1e-13),
        (SLANTED, Grid(("x", "y"), (-2, -1), (1, 2), (9, 12)), ("central", "exponential"), 1e-6),
        (STEEP, Grid(("x", "y", "z"), (-1, -1, -2), (1, 2, 2), (6, 5, 7)), ("exponential",) * 3, 1e-6),
        (LINE, Grid(("x",), (-2,), (2,), (40,)), ("exponential",), 1e-6),
    ],
    ids=["central", "mixed", "three variables", "line"],
)
def test_the_matrix_is_that_of_fipys_own_terms(process, grid, schemes, tolerance):
    """FiPy takes faces with a Péclet number below 1e-3 as central, which costs 1e-7."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = _by_fipys_terms(process, grid, schemes)
    found = fokker_planck_matrix(process, grid, schemes).toarray()
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert np.abs(found.sum(axis=0)).max() < 1e-13 * np.abs(found).max()


def test_the_rate_against_a_strong_drift_has_full_relative_accuracy():
    grid = Grid(("x",), (-2,), (2,), (40,))
    A = fokker_planck_matrix(LINE, grid, ("exponential",)).toarray()
    loss = np.array([float(LINE.landscape.loss.subs(x, sp.Rational(k * 2 - 39, 20))) for k in range(40)])
    ratio = np.diagonal(A, -1) / np.diagonal(A, 1)
    assert ratio == pytest.approx(np.exp(-np.diff(loss) / 0.02), rel=1e-11)
