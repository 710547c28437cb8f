"""The lattice chain: nonnegative rates, exact Gibbs states, order 2 with currents, walls and mirrors."""

from itertools import combinations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_continuous_lyapunov

from fpsolve import stationary_density
from fpsolve.density.chain import chain_matrix, selling
from fpsolve.density.grid import Grid
from fpsolve.density.moments import averages
from fpsolve.density.operator import null_vector
from fpsolve.density.window import starting_window
from theory import Diffusion, Landscape, Langevin, isotropic
from theory.evaluate import values_at

x, y, z = sp.symbols("x y z", real=True)


def _matrices(size, condition, count, seed):
    """Random positive definite D, shape (count, size, size)."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(count, size, size)))[0]
    values = condition ** -rng.uniform(0, 1, size=(count, size))
    D = np.einsum("kia,ka,kja->kij", turned, values, turned)
    return (D + np.swapaxes(D, 1, 2)) / 2


def _turned(angle, weak):
    """D with the eigenvalues 1 and ``weak``, turned by an angle."""
    along = np.array([np.cos(angle), np.sin(angle)])
    return weak * np.eye(2) + (1 - weak) * np.outer(along, along)


def _gibbs(U, D, variables):
    """The process with D constant and b = −D∇U, whose stationary density is exp(−U)."""
    D = sp.Matrix(D)
    return Diffusion(-D * sp.Matrix([U.diff(v) for v in variables]), D, variables)


def _stationary(process, grid):
    """The chain's stationary density on the cells, with unit mass."""
    return null_vector(chain_matrix(process, grid), grid).density


def _points(grid):
    return grid.points().reshape(grid.cells, -1)


def _exact(density, grid, variables):
    """A density given up to its constant, on the cells, with unit mass by the midpoint rule."""
    values = values_at([density], variables, _points(grid)).reshape(grid.shape)
    return values / values.sum() / grid.cell_volume


def _order(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("condition", [1.0, 30.0, 1e4])
def test_sellings_offsets_and_weights_make_up_the_matrix_and_are_nonnegative(size, condition):
    D = _matrices(size, condition, 300, seed=size)
    offsets, weights = selling(D)
    np.testing.assert_allclose(np.einsum("ke,kei,kej->kij", weights, offsets, offsets), D, atol=1e-13)
    assert weights.min() >= 0
    assert offsets.shape[1] == {1: 1, 2: 3, 3: 6}[size]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 3.14), st.floats(0.02, 1.0), st.floats(-2, 2), st.booleans())
def test_rates_are_nonnegative_and_conserve_mass(angle, weak, swirl, mirrored):
    D = _turned(angle, weak) * (np.eye(2) if mirrored else 1.0)
    drift = sp.Matrix([-x - swirl * x * y**2, -y + swirl * x**2 * y])
    names, low = ("x",) if mirrored else (), 0.0 if mirrored else -3.0
    grid = Grid(("x", "y"), (low, -2.0), (3.0, 2.0), (20, 24), names)
    A = chain_matrix(Diffusion(drift, sp.Matrix(D) * (1 + x**2 / 5), (x, y)), grid).toarray()
    assert (A - np.diag(np.diag(A))).min() >= 0
    assert np.abs(A.sum(axis=0)).max() <= 1e-12 * np.abs(A).max()


@pytest.mark.parametrize("weak", [0.1, 0.01])
def test_full_constant_noise_keeps_the_gibbs_state_exactly(weak):
    U = 4 * (x**4 / 4 - x**2 / 2 + x / 20 + y**2 + x * y / 4)
    process = _gibbs(U, _turned(0.5, weak), (x, y))
    grid = Grid(("x", "y"), (-2.0, -1.6), (2.0, 1.6), (60, 50))
    found, exact = _stationary(process, grid), _exact(sp.exp(-U), grid, (x, y))
    np.testing.assert_allclose(np.log(found / exact), 0, atol=1e-9)


def test_isotropic_noise_on_a_loss_that_is_no_polynomial_keeps_the_gibbs_state_exactly():
    L = sp.cosh(x) - sp.cos(3 * x) + sp.log(1 + y**2) + y**2 / 2 + sp.exp(-((x - y) ** 2))
    grid = Grid(("x", "y"), (-2.5, -2.5), (2.5, 2.5), (30, 40))
    found = _stationary(Langevin(Landscape(L, (x, y)), isotropic(0.5)), grid)
    np.testing.assert_allclose(np.log(found / _exact(sp.exp(-2 * L), grid, (x, y))), 0, atol=1e-9)


def test_three_dimensions_with_full_noise_keep_the_gibbs_state_exactly():
    U = 3 * (x**4 / 4 - x**2 / 2) + y**2 + z**2 + x * z / 3
    process = _gibbs(U, _matrices(3, 10.0, 1, seed=5)[0], (x, y, z))
    grid = Grid(("x", "y", "z"), (-2.0, -2.0, -2.0), (2.0, 2.2, 2.0), (16, 14, 15))
    found, exact = _stationary(process, grid), _exact(sp.exp(-U), grid, (x, y, z))
    np.testing.assert_allclose(np.log(found / exact), 0, atol=1e-9)


@pytest.mark.parametrize(("size", "sizes"), [(2, [30, 45, 68]), (3, [14, 20, 28])])
def test_covariance_of_a_linear_process_with_full_noise_is_second_order(size, sizes):
    variables = (x, y, z)[:size]
    A = -np.eye(size) + 0.8 * np.triu(np.ones((size, size)), 1) - 0.5 * np.tril(np.ones((size, size)), -1)
    D = _matrices(size, 8.0, 1, seed=2)[0]
    exact = solve_continuous_lyapunov(A, -2 * D)
    process = Diffusion(sp.Matrix(A) * sp.Matrix(variables), sp.Matrix(D), variables)
    errors = []
    for n in sizes:
        reach = 6.5 * np.sqrt(np.diag(exact))
        grid = Grid(tuple(map(str, variables)), tuple(-reach), tuple(reach), (n,) * size)
        mass = _stationary(process, grid).ravel() * grid.cell_volume
        found = np.einsum("k,ki,kj->ij", mass, _points(grid), _points(grid))
        errors.append(np.abs(found - exact).max() / exact.max())
    assert _order(sizes, errors) == pytest.approx(2.0, abs=0.2)


#: Full D(x, y); drift b = −D∇U + div D + e^U rot ψ has the stationary density exp(−U), whatever ψ.
VARYING_D = sp.Matrix([[1 + sp.sin(x) / 2, sp.cos(x * y) / 3], [sp.cos(x * y) / 3, 1 + sp.cos(x + y) / 2]])


def _manufactured(U, psi, D=VARYING_D):
    gradient = sp.Matrix([U.diff(x), U.diff(y)])
    divergence = sp.Matrix([sum(D[i, j].diff(v) for j, v in enumerate((x, y))) for i in range(2)])
    rotation = sp.exp(U) * sp.Matrix([psi.diff(y), -psi.diff(x)])
    return Diffusion(-D * gradient + divergence + rotation.applyfunc(sp.simplify), D, (x, y))


def test_a_current_with_full_position_dependent_noise_is_second_order():
    U = x**2 + y**2 - x * y / 2 - sp.cos(x + y) / 3
    process, sizes, errors = _manufactured(U, sp.exp(-U)), [24, 36, 54, 80], []
    for n in sizes:
        grid = Grid(("x", "y"), (-4.0, -4.0), (4.0, 4.0), (n, n))
        errors.append(np.abs(_stationary(process, grid) - _exact(sp.exp(-U), grid, (x, y))).max())
    assert _order(sizes, errors) == pytest.approx(2.0, abs=0.2)


def test_without_a_current_full_position_dependent_noise_is_almost_exact():
    U = x**2 + y**2 - x * y / 2
    grid = Grid(("x", "y"), (-3.5, -3.5), (3.5, 3.5), (70, 70))
    found, exact = _stationary(_manufactured(U, sp.Integer(0)), grid), _exact(sp.exp(-U), grid, (x, y))
    np.testing.assert_allclose(np.log(found / exact), 0, atol=1e-5)


@pytest.mark.parametrize(("D", "tolerance"), [(VARYING_D, 0.2), (sp.Matrix(_turned(0.5, 0.02)), 0.25)])
def test_reflecting_walls_that_hold_mass_and_guide_a_current_are_second_order(D, tolerance):
    U, sizes, errors = sp.cos(x + y) / 2 + x * y / 5, [24, 36, 54, 80], []
    # ψ vanishes on the walls of [−1, 1]²: the current runs along them. The second D needs jumps of 2 cells.
    process = _manufactured(U, (1 - x**2) * (1 - y**2) * sp.exp(-U) / 50, D)
    for n in sizes:
        grid = Grid(("x", "y"), (-1.0, -1.0), (1.0, 1.0), (n, n))
        difference = _stationary(process, grid) - _exact(sp.exp(-U), grid, (x, y))
        errors.append(np.abs(difference).sum() * grid.cell_volume)
    assert _order(sizes, errors) == pytest.approx(2.0, abs=tolerance)


def test_a_mirrored_axis_gives_half_of_the_whole_box():
    D = sp.Matrix([[1 + y**2 / 8, x * y / 4], [x * y / 4, 1 + x**2 / 4]])
    process = Diffusion(sp.Matrix([-x - x * y**2 / 2, -y + x**2 / 3]), D, (x, y))
    whole = Grid(("x", "y"), (-3.0, -3.5), (3.0, 3.5), (24, 26))
    half = Grid(("x", "y"), (0.0, -3.5), (3.0, 3.5), (12, 26), ("x",))
    np.testing.assert_allclose(_stationary(process, half), 2 * _stationary(process, whole)[12:], atol=1e-12)


@pytest.mark.parametrize(
    ("D", "message"),
    [
        (sp.Matrix([[1, 1], [1, 1]]), "not positive definite"),
        (sp.Matrix([[1, 0], [0, 1]]) * (1 + sp.Heaviside(x - sp.Rational(1, 7))), "jumps"),
        (sp.Matrix([[1, 0], [0, 1]]) * sp.log(x), "not finite"),
        (sp.Matrix(_turned(0.03, 1e-6)), "jumps of"),
    ],
)
def test_noise_that_no_chain_of_this_reach_follows_is_refused_with_the_place(D, message):
    grid = Grid(("x", "y"), (-1.0, -1.0), (1.0, 1.0), (21, 21))
    with pytest.raises(ValueError, match=rf"{message}.* x=|x=.*{message}"):
        chain_matrix(Diffusion(sp.Matrix([-x, -y]), D, (x, y)), grid)


def _linear(size, seed, condition=10.0):
    """A random stable linear process with full constant noise, and its covariance by Lyapunov's equation."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(size, size))
    A -= (np.linalg.eigvals(A).real.max() + rng.uniform(0.5, 1.5)) * np.eye(size)
    D = _matrices(size, condition, 1, seed)[0]
    variables = (x, y, z)[:size]
    process = Diffusion(sp.Matrix(A) * sp.Matrix(variables), sp.Matrix(D), variables)
    return process, solve_continuous_lyapunov(A, -2 * D)


def _largest_error(density, covariance):
    """Largest error of ⟨v²⟩ and ⟨uv⟩, relative to the root mean squares."""
    names = [str(d) for d in density.dims]
    found = averages(density)
    errors = [abs(found[f"<{v}^2>"] / covariance[i, i] - 1) for i, v in enumerate(names)]
    for (i, u), (j, v) in combinations(enumerate(names), 2):
        scale = np.sqrt(covariance[i, i] * covariance[j, j])
        errors.append(abs(found[f"<{u} {v}>"] - covariance[i, j]) / scale)
    return max(errors)


@pytest.mark.parametrize("seed", range(6))
def test_stated_errors_of_extrapolated_moments_are_one_to_five_times_the_true_ones(seed):
    process, covariance = _linear(2, seed)
    reach = 6.5 * np.sqrt(np.diag(covariance))
    box = {"x": (-reach[0], reach[0]), "y": (-reach[1], reach[1])}
    density = stationary_density(process, method="chain", box=box, shape=96)
    plain = _stationary(process, Grid.on(box, (96, 96)))
    error = _largest_error(density, covariance)
    assert error < density.half_grid_estimate < 5 * error
    assert error < 0.2 * _largest_error(density.copy(data=plain), covariance)
    assert float(density.min()) >= 0


@pytest.mark.parametrize("seed", range(4))
def test_stated_errors_of_two_wells_with_a_swirl_that_keeps_gibbs_are_tight(seed):
    # b = −D∇U + Q∇U with a constant antisymmetric Q: exp(−U) stays stationary, with a current.
    rng = np.random.default_rng(seed)
    U = 10 * (x**4 / 4 - x**2 / 2 + rng.uniform(-0.03, 0.03) * x) + rng.uniform(-0.5, 0.5) * x * y + y**2 / 2
    D, turn = sp.Matrix(_matrices(2, 6.0, 1, seed)[0]), rng.uniform(0.3, 1.5)
    drift = (sp.Matrix([[0, turn], [-turn, 0]]) - D) * sp.Matrix([U.diff(x), U.diff(y)])
    box = {"x": (-2.3, 2.3), "y": (-7.0, 7.0)}
    density = stationary_density(Diffusion(drift, D, (x, y)), method="chain", box=box, shape=128)
    exact = density.copy(data=_exact(sp.exp(-U), Grid.on(box, (128, 128)), (x, y)))
    found, wanted = averages(density), averages(exact)
    error = max(abs(found[f"<{v}^2>"] / wanted[f"<{v}^2>"] - 1) for v in "xy")
    assert error < density.half_grid_estimate < 10 * error
    left, right = (float(np.log((p * (p.x < 0)).sum() / (p * (p.x > 0)).sum())) for p in (density, exact))
    assert abs(left - right) < 2 * (density.weights_estimate or density.half_grid_estimate)


@pytest.mark.parametrize("cells", [12, 16, 24])
def test_the_error_of_an_exact_chain_is_that_of_sums_over_its_cells(cells):
    U = x**2 / 2 + y**2 + x * y / 2
    process = _gibbs(U, _matrices(2, 4.0, 1, 3)[0], (x, y))
    density = stationary_density(process, method="chain", box={"x": (-7, 7), "y": (-6, 6)}, shape=cells)
    error = _largest_error(density, np.linalg.inv([[1, 0.5], [0.5, 2]]))
    assert error < density.half_grid_estimate


def test_the_chain_is_the_default_for_full_constant_noise_and_three_dimensions_are_exact():
    U = 3 * (x**4 / 4 - x**2 / 2 + x / 10) + y**2 + z**2 + x * z / 3
    process = _gibbs(U, _matrices(3, 10.0, 1, seed=5)[0], (x, y, z))
    box = {"x": (-2.6, 2.5), "y": (-4.5, 4.5), "z": (-4.5, 4.5)}
    density = stationary_density(process, box=box, shape=(24, 20, 20))
    exact = _exact(sp.exp(-U), Grid.on(box, (24, 20, 20)), (x, y, z))
    assert density.attrs["method"] == "chain"
    assert density.attrs["negative_mass"] == 0
    np.testing.assert_allclose(np.log(density / exact), 0, atol=1e-9)


def test_the_chain_refuses_a_scheme_of_finite_volumes():
    process, _ = _linear(2, 0)
    with pytest.raises(ValueError, match="no meaning"):
        stationary_density(process, method="chain", scheme="central")


def test_periodic_axes_keep_the_gibbs_state_and_a_tilt_that_drives_a_current_is_second_order():
    U, box = sp.cos(2 * sp.pi * x) + sp.sin(2 * sp.pi * (x + 2 * y)) / 2, {"x": (0, 1), "y": (-0.5, 0.5)}
    process = _gibbs(U, _turned(0.4, 0.05), (x, y))
    grid = Grid.on(box, (30, 40), ("x", "y"))
    found = _stationary(process, grid)
    np.testing.assert_allclose(np.log(found / _exact(sp.exp(-U), grid, (x, y))), 0, atol=2e-6)
    # A current without divergence leaves the state as it is.
    swirl = sp.exp(U) * sp.Matrix([1 + sp.cos(2 * sp.pi * y), 2 + sp.sin(2 * sp.pi * x)])
    driven = Diffusion(process.drift + swirl, process.diffusion, (x, y))
    sizes, errors = [20, 30, 45], []
    for n in sizes:
        grid = Grid.on(box, (n, n), ("x", "y"))
        errors.append(np.abs(_stationary(driven, grid) - _exact(sp.exp(-U), grid, (x, y))).max())
    assert _order(sizes, errors) == pytest.approx(2.0, abs=0.25)


def test_the_automatic_box_of_a_full_noise_in_decimals_is_that_of_its_wells():
    # Rounding of D∇U leaves small terms of third order in every drift, which have zeros far away.
    U = (x**4 / 4 - x**2 / 2) / 0.08 + y**2 / 0.3 + z**2 / 0.4
    box = starting_window(_gibbs(U, _matrices(3, 8.0, 1, seed=4)[0], (x, y, z)), ()).box
    assert all(1.2 < high < 5 and -5 < low < -1.2 for low, high in box.values())
