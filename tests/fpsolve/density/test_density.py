"""Stationary densities by finite volumes: reference numbers, exact laws, self-checks, and refusals."""

import warnings

import numpy as np
import pytest
import sympy as sp
from cases import VALLEY_REFERENCE as REFERENCE
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import solve_continuous_lyapunov

from fpsolve import compare, probability_current, stationary_density
from fpsolve.density.symmetry import mirror_symmetries
from fpsolve.symbols.functions import numpy_function
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    adiabatic,
    anisotropic,
    degenerate_valley,
    double_well,
    hessian_proportional,
    isotropic,
    random_shift,
)

x, y, z = sp.symbols("x y z", real=True)
TILTED = x**4 / 4 - x**2 / 2 + y**2 + x * y / 4
OU = Diffusion(
    sp.Matrix([-(x + sp.Rational(4, 5) * y), sp.Rational(3, 5) * x - sp.Rational(3, 2) * y]),
    sp.Matrix([[10, 4], [4, 8]]) / 100,
    (x, y),
)


def _exact_on(density, formula):
    """A formula on the cells of a density, normalised like it."""
    names = [sp.Symbol(str(d), real=True) for d in density.dims]
    mesh = np.meshgrid(*(density[str(d)].to_numpy() for d in density.dims), indexing="ij")
    values = density.copy(data=numpy_function(formula, names)(*mesh))
    return values / float((values * density.cell_volume).sum())


def _l1(density, formula):
    return float((abs(density - _exact_on(density, formula)) * density.cell_volume).sum())


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c[0]:g}-{'full' if c[1] else 'no cross'}")
def test_reference_valley_moments_are_met_to_two_in_a_thousand_on_sixty_thousand_cells(case):
    delta_s, cross = case
    density = stationary_density(
        Langevin(degenerate_valley(), random_shift(delta_s=delta_s)), cross_diffusion=cross
    )
    found = compare.averages(density, ("x", "y"))
    for quantity, exact in zip(("<x^2>", "std(|x|)", "<y^2>"), REFERENCE[case], strict=True):
        assert found[quantity] == pytest.approx(exact, rel=2e-3), quantity
        # The density's own estimate of its error is honest: the true error is within twice of it.
        assert abs(found[quantity] / exact - 1) < 2 * density.attrs["half_grid_estimate"] + 1e-6
    assert density.attrs["cells"] <= 60_000


def test_dropping_the_cross_terms_doubles_the_width_of_the_density():
    widths = [REFERENCE[1e-3, cross][1] for cross in (True, False)]
    assert 2.0 < widths[1] / widths[0] < 2.4


def test_isotropic_noise_gives_boltzmann_to_rounding_with_the_interface_as_documented():
    mine = Langevin(Landscape(TILTED, (x, y)), isotropic(0.08))
    density = stationary_density(mine, box={"x": (-2.5, 2.5), "y": (-2, 2)}, shape=(200, 160))
    assert density.dims == ("x", "y") and density.shape == (200, 160)
    assert float((density * density.cell_volume).sum()) == pytest.approx(1.0, abs=1e-14)
    assert _l1(density, sp.exp(-TILTED / sp.Rational(8, 100))) < 1e-9


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    a=st.floats(0.2, 2.0),
    b=st.floats(-0.5, 0.5),
    c=st.floats(0.3, 2.0),
    D=st.floats(0.03, 1.0),
    scale=st.floats(0.1, 10.0),
)
def test_any_isotropic_landscape_is_boltzmann_conserves_mass_and_scales(a, b, c, D, scale):
    assume(0.25 * (1 + b**2 / (2 * c)) ** 2 / a + 0.2 < 600 * D)
    loss = a * x**4 / 4 - x**2 / 2 + c * y**2 + b * x * y + sp.Rational(1, 10) * sp.cos(3 * x)
    mesh = {"box": {"x": (-3, 3), "y": (-4, 4)}, "shape": (40, 32), "walls": "reflecting"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # coarse on purpose: only the discrete law is tested
        density, scaled = (
            stationary_density(Langevin(Landscape(c * loss, (x, y)), isotropic(c * D)), **mesh)
            for c in (1, scale)
        )
    assert _l1(density, sp.exp(-loss / D)) < 1e-9
    assert float(density.min()) >= -1e-30 * float(density.max())  # rounding in tails of 1e-70
    assert density.attrs["mass"] == pytest.approx(1.0, abs=1e-13)
    # V → cV, D → cD, t → t/c leaves the density and multiplies rates by c.
    assert float(abs(density - scaled).max()) < 1e-9 * float(density.max())
    rate = density.attrs["second_eigenvalue"]
    if rate > 1e-9:
        assert scaled.attrs["second_eigenvalue"] == pytest.approx(scale * rate, rel=1e-4)


def test_one_dimension_with_isotropic_noise_is_boltzmann_and_its_slow_rate_is_kramers():
    well = Langevin(double_well(), isotropic(0.025))
    density = stationary_density(well, symmetry=False)
    assert _l1(density, sp.exp(-well.landscape.loss / sp.Rational(1, 40))) < 1e-9
    kramers = 2 * np.sqrt(2) / (2 * np.pi) * np.exp(-0.25 / 0.025)
    # Both wells' rates add; the next order of the asymptotic series is 15/8 D/(4ΔL) ≈ 5 %.
    assert density.attrs["second_eigenvalue"] == pytest.approx(kramers, rel=0.1)


@pytest.mark.parametrize("barrier", [10, 40, 100, 300, 500])
def test_weights_of_unequal_wells_meet_the_quadrature_at_any_barrier(barrier):
    D, loss = sp.Rational(1, 4 * barrier), x**4 / 4 - x**2 / 2 + x / 20
    process = Langevin(Landscape(loss, (x,)), isotropic(D))
    density = stationary_density(process, box={"x": (-2, 2)}, shape=2000)
    left = float(density.where(density.x < 0, 0.0).sum() / density.where(density.x > 0, 0.0).sum())
    energy = lambda u: (u**4 / 4 - u**2 / 2 + u / 20) / float(D)  # noqa: E731
    exact = 0.0
    for sign, (low, high) in ((1, (-2, 0)), (-1, (0, 2))):
        line = np.linspace(low, high, 4001)
        bottom, at = energy(line).min(), line[np.argmin(energy(line))]
        mass = quad(
            lambda u, b=bottom: np.exp(b - energy(u)), low, high, points=[at], epsabs=0, epsrel=1e-12
        )[0]
        exact += sign * (np.log(mass) - bottom)
    assert np.log(left) == pytest.approx(exact, abs=1e-9)


def test_wells_that_exchange_nothing_are_refused_and_symmetry_saves_equal_ones():
    shift = Langevin(Landscape(x**4 / 4 - x**2 / 2 + x / 20, (x,)), random_shift(0.01))
    with pytest.raises(RuntimeError, match="exchanges no mass"):
        stationary_density(shift)
    well = Langevin(double_well(), isotropic(1 / 3200))  # a barrier of 800 D
    with pytest.raises(RuntimeError, match="above about 670 D"):
        stationary_density(well, symmetry=False, box={"x": (-2, 2)}, shape=2000)
    assert _l1(stationary_density(well), sp.exp(-800 * 4 * well.landscape.loss)) < 1e-9


@pytest.mark.parametrize("noise", [1e-5, 1e-7, 1e-9])
def test_equal_wells_keep_their_width_however_small_the_noise(noise):
    # Laplace's method around ±1: ⟨x²⟩ = 1 − D + O(D²)
    density = stationary_density(Langevin(double_well(), isotropic(noise)))
    assert compare.averages(density)["<x^2>"] - 1 == pytest.approx(-noise, rel=1e-2)


def test_multiplicative_noise_in_one_dimension_has_the_ito_prefactor():
    D = sp.Rational(1, 10) * (1 + x**2 / 2)
    process = Diffusion(sp.Matrix([-x]), sp.Matrix([[D]]), (x,))
    # ln p = −ln D + ∫ b/D = −ln D − 10 ln(1 + x²/2): a power law with tails at |x| = 12 of 1e-20.
    density = stationary_density(process, box={"x": (-12, 12)}, shape=4000)
    assert _l1(density, (1 + x**2 / 2) ** -11) < 3e-5
    assert _l1(density, (1 + x**2 / 2) ** -10) > 0.01


def test_ornstein_uhlenbeck_with_full_diffusion_has_the_lyapunov_covariance_and_a_current():
    density = stationary_density(OU, box={"x": (-2, 2), "y": (-2, 2)}, shape=(160, 160))
    found = compare.averages(density)
    assert found["<x^2>"] == pytest.approx(0.0764040404, rel=2e-3)
    assert found["<y^2>"] == pytest.approx(0.0651313131, rel=2e-3)
    assert found["<x y>"] == pytest.approx(0.0294949495, rel=6e-3)
    covariance = np.array([[0.0764040404, 0.0294949495], [0.0294949495, 0.0651313131]])
    inverse = np.linalg.inv(covariance)
    # J = (−A + D Σ⁻¹) θ P, divergence-free and not zero: the process is out of equilibrium.
    A, D = np.array([[1, 0.8], [-0.6, 1.5]]), np.array([[0.10, 0.04], [0.04, 0.08]])
    current = probability_current(OU, density)
    matrix = -A + D @ inverse
    place = density.x + 0 * density.y, density.y + 0 * density.x
    for k, name in enumerate(("J_x", "J_y")):
        exact = (matrix[k, 0] * place[0] + matrix[k, 1] * place[1]) * density
        assert float(abs(current[name] - exact).max()) < 0.02 * float(abs(exact).max())
        assert float(abs(exact).max()) > 0.05


def test_equilibrium_carries_no_current():
    mine = Langevin(Landscape(TILTED, (x, y)), isotropic(0.2))
    density = stationary_density(mine, shape=(200, 200), box={"x": (-3, 3), "y": (-3, 3)})
    current = probability_current(mine, density)
    assert float(abs(current.J_x).max()) < 2e-3


def test_constant_anisotropy_meets_the_published_law_and_the_digits_of_its_numerical_solution():
    process = Langevin(degenerate_valley(), anisotropic(delta=0.01, kappa=4))
    density = stationary_density(
        process, box={"x": (-2, 2), "y": (-0.35, 0.35)}, shape=(400, 240), walls="reflecting"
    )
    marginal = density.sum("y")
    ends = marginal.interp(x=[0.0, 1.0], method="cubic").to_numpy()
    # Reference for y unbounded; at |y| = 0.35 > 9 standard deviations the cut is below rounding.
    assert ends[1] / ends[0] == pytest.approx(0.26370948, rel=2e-4)
    assert compare.averages(density, ("x", "y"))["<x^2>"] == pytest.approx(0.32909158, rel=1e-3)
    loss = adiabatic.effective_loss_constant_noise(process.landscape, delta=0.01, kappa=4)
    adiabatic_law = _exact_on(density, sp.exp(-loss / sp.Rational(1, 100)))
    assert float((abs(density - adiabatic_law) * density.cell_volume).sum()) < 5e-3
    sharp = adiabatic.effective_loss_constant_noise(process.landscape, delta=0.01, kappa=1)
    wrong = _exact_on(density, sp.exp(-sharp / sp.Rational(1, 100)))
    assert float((abs(density - wrong) * density.cell_volume).sum()) > 0.3


def test_an_automatic_box_and_a_wide_one_give_the_same_density():
    process = Langevin(Landscape(TILTED, (x, y)), isotropic(0.08))
    automatic = compare.averages(stationary_density(process))
    wide = compare.averages(stationary_density(process, box={"x": (-4, 4), "y": (-4, 4)}, shape=(400, 400)))
    # Midpoint sums of a smooth density that vanishes at the ends converge faster than any power.
    for quantity, value in automatic.items():
        assert value == pytest.approx(wide[quantity], abs=1e-7)


def test_symmetry_is_found_used_said_and_changes_nothing():
    sgd = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    assert mirror_symmetries(sgd) == ("x", "y")
    assert mirror_symmetries(OU) == ()
    assert mirror_symmetries(Langevin(Landscape(TILTED, (x, y)), isotropic(1))) == ()
    mesh = {"box": {"x": (-1.2, 1.2), "y": (-0.8, 0.8)}, "shape": (240, 80), "walls": "reflecting"}
    warm = Langevin(degenerate_valley((8, -2, 1), 0.02), random_shift(delta_s=0.012))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded = stationary_density(warm, **mesh)
        whole = stationary_density(warm, symmetry=False, scheme=("central", "exponential"), **mesh)
    assert "mirrored by x -> -x, y -> -y" in folded.attrs["symmetry"]
    assert whole.attrs["symmetry"] == "none used"
    assert folded.attrs["cells"] == whole.attrs["cells"] // 4
    if folded.attrs["scheme"] == whole.attrs["scheme"]:
        assert float(abs(folded - whole).max()) < 1e-6 * float(whole.max())


def test_both_wells_of_a_symmetric_valley_weigh_the_same_however_slow_the_exchange():
    density = stationary_density(Langevin(degenerate_valley(), random_shift(delta_s=1e-3)))
    left = float((density * density.cell_volume).where(density.x < 0, 0.0).sum())
    assert left == pytest.approx(0.5, abs=1e-12)


def test_every_self_check_is_reported_as_a_number_or_text():
    density = stationary_density(Langevin(Landscape(TILTED, (x, y)), isotropic(0.08)))
    checks = "mass residual column_sum negative_mass boundary_mass second_eigenvalue half_grid_estimate"
    for key in checks.split():
        assert isinstance(density.attrs[key], float), key
    assert density.attrs["residual"] < 1e-12 and density.attrs["column_sum"] < 1e-12
    assert all(isinstance(v, (str, int, float)) for v in density.attrs.values())
    assert "exponential" in density.attrs["scheme"]


@pytest.mark.parametrize("noise", [random_shift(delta_s=0.01), hessian_proportional(0.05)], ids=str)
def test_noise_from_the_hessian_of_a_convex_landscape_agrees_with_the_linearised_law(noise):
    # L = quadratic + small quartic: nearly constant D, covariance solves HΣ + ΣH = 2D.
    loss = x**2 + 2 * y**2 + x * y / 2 + (x**4 + y**4) / 1000
    process = Langevin(Landscape(loss, (x, y)), noise)
    density = stationary_density(process)
    H = np.array([[2, 0.5], [0.5, 4]])
    D = process.diffusion_values(np.zeros((1, 2)))[0]
    covariance = solve_continuous_lyapunov(H, 2 * D)
    found = compare.averages(density)
    assert found["<x^2>"] == pytest.approx(covariance[0, 0], rel=5e-3)
    assert found["<y^2>"] == pytest.approx(covariance[1, 1], rel=5e-3)


def test_three_variables_work_on_a_small_mesh():
    loss = x**4 / 4 - x**2 / 2 + y**2 + z**2 + x * z / 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = stationary_density(
            Langevin(Landscape(loss, (x, y, z)), isotropic(0.2)),
            box={"x": (-3, 3), "y": (-2, 2), "z": (-2, 2)},
            shape=(20, 16, 16),
        )
    assert _l1(density, sp.exp(-5 * loss)) < 1e-9


@pytest.mark.slow
def test_three_variables_with_full_diffusion_have_the_lyapunov_covariance():
    A = np.array([[1, 0.4, 0], [-0.3, 1.2, 0.2], [0.1, 0, 0.8]])
    D = np.array([[0.10, 0.03, 0.01], [0.03, 0.08, -0.02], [0.01, -0.02, 0.09]])
    process = Diffusion(-sp.Matrix(A) * sp.Matrix([x, y, z]), sp.Matrix(D), (x, y, z))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = stationary_density(process, box=dict.fromkeys("xyz", (-1.8, 1.8)), shape=30)
    covariance = solve_continuous_lyapunov(A, 2 * D)
    found = compare.averages(density)
    # h = 0.12 against a width of 0.3: the second-order error is h²/(12 σ²)-sized, about 1 %.
    assert found["<x^2>"] == pytest.approx(covariance[0, 0], rel=0.02)
    assert found["<x y>"] == pytest.approx(covariance[0, 1], abs=0.02 * covariance[0, 0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: stationary_density(Langevin(Landscape(sp.Symbol("a") * x**2, (x,)), isotropic(1))), "give values to the parameters a"),
        (lambda: stationary_density(Langevin(Landscape(TILTED, (x, y)), isotropic(1)), box={"x": (-1, 1)}), "box has the variables"),
        (lambda: stationary_density(Langevin(Landscape(TILTED, (x, y)), isotropic(1)), box={"x": (1, -1), "y": (0, 1)}), "low < high"),
        (lambda: stationary_density(Langevin(Landscape(TILTED, (x, y)), isotropic(1)), box={"x": (-1, np.inf), "y": (0, 1)}), "finite"),
        (lambda: stationary_density(Langevin(Landscape(x**3 + y**2, (x, y)), isotropic(1)), box={"x": (-1, 1), "y": (-3, 3)}), "does not confine"),
        (lambda: stationary_density(Langevin(Landscape(sp.log(x) + y**2, (x, y)), isotropic(1)), box={"x": (-1, 1), "y": (-3, 3)}), "not finite and real"),
        (lambda: stationary_density(Diffusion(sp.Matrix([-x, -y]), sp.Matrix([[1, 2], [2, 1]]), (x, y)), box={"x": (-5, 5), "y": (-5, 5)}), "not positive semidefinite"),
        (lambda: stationary_density(OU, method="magic"), "method='magic'"),
        *((lambda n=n: stationary_density(OU, shape=n), "at least 8 cells") for n in (4, 40.0, "40", True, (40, 40.5))),
        (lambda: stationary_density(OU, scheme="sideways"), "scheme='sideways'"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_line_before_any_long_work(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_coarse_mesh_warns_with_the_remedy():
    with pytest.warns(UserWarning, match="use more cells"):
        stationary_density(OU, box={"x": (-2, 2), "y": (-2, 2)}, shape=(12, 12))


def _turning(size, seed):
    """A random linear process that may turn, with full noise, and its covariance by Lyapunov's equation."""
    rng = np.random.default_rng(seed)
    A, B, turn = rng.normal(size=(3, size, size))
    J = -(A @ A.T / size + 0.3 * np.eye(size)) - seed % 3 * (turn - turn.T)
    D = 0.1 * (B @ B.T / size + 0.1 * np.eye(size))
    process = Diffusion(sp.Matrix(J) * sp.Matrix((x, y, z)[:size]), sp.Matrix(D), (x, y, z)[:size])
    return process, solve_continuous_lyapunov(J, -2 * D)


@pytest.mark.parametrize(
    ("size", "cells", "seed"), [*((2, 64, k) for k in range(6)), *((3, 20, k) for k in (0, 1, 3, 4))]
)
def test_a_linear_process_is_not_told_of_wells_and_lies_within_its_stated_error(size, cells, seed):
    process, covariance = _turning(size, seed)
    reach = (7.0 if size == 2 else 5.5) * np.sqrt(np.diag(covariance))
    box = {v: (-r, r) for v, r in zip(process.names, reach, strict=True)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = stationary_density(process, box=box, shape=cells)
    assert density.weights_estimate < 1e-12
    assert not any("wells" in str(w.message) for w in caught)
    found = compare.averages(density)
    errors = [abs(found[f"<{v}^2>"] / c - 1) for v, c in zip(process.names, np.diag(covariance), strict=True)]
    assert max(errors) < 1.5 * density.half_grid_estimate


@pytest.mark.slow
def test_a_turning_process_in_three_variables_that_no_mesh_resolves_is_refused():
    # The box is that of the Gaussian: numerical diffusion does not widen it, turn by turn.
    process, _ = _turning(3, 2)
    with pytest.raises(ValueError, match=r"does not resolve .* method='spectral' or simulate"):
        stationary_density(process)


@pytest.mark.parametrize("cells", [60, 120])
def test_weights_of_wells_with_a_current_are_right_within_their_stated_error(cells):
    # A swirl along the level lines of L leaves exp(−L/D) as it is, and puts an error into the exponent.
    loss = x**4 / 4 - x**2 / 2 + y**2 / 2 + x / 50
    swirl = Diffusion(
        [-loss.diff(x) - loss.diff(y), -loss.diff(y) + loss.diff(x)], sp.eye(2) / 80, (x, y), "swirl"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = stationary_density(
            swirl, box={"x": (-1.7, 1.7), "y": (-1, 1)}, shape=cells, scheme="exponential"
        )
    said = any("weights of wells are good to a factor" in str(w.message) for w in caught)
    assert said == (density.attrs["weights_estimate"] > 0.1)
    exact = _exact_on(density, sp.exp(-80 * loss))
    left, right = (
        float(np.log(p.where(p.x < 0, 0.0).sum() / p.where(p.x > 0, 0.0).sum())) for p in (density, exact)
    )
    assert 0.02 < abs(left - right) < 2 * density.attrs["weights_estimate"]


@pytest.mark.parametrize("scheme", ["exponential", "central", "upwind", "chain"])
@pytest.mark.parametrize(("turn", "cells"), [(1, 80), (2, 80), (4, 96)])
def test_no_scheme_loses_the_error_of_weights_under_a_fast_swirl(scheme, turn, cells):
    # The swirl carries walks along the rates from one well into the other; the density tells them apart.
    loss = x**4 / 4 - x**2 / 2 + x / 30 + y**2
    drift = [-loss.diff(x) - turn * loss.diff(y), -loss.diff(y) + turn * loss.diff(x)]
    process = Diffusion(drift, sp.eye(2) / 30, (x, y))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        box = {"x": (-1.9, 1.9), "y": (-1.1, 1.1)}
        density = stationary_density(process, box=box, shape=cells, scheme=scheme)
    stated = density.attrs["weights_estimate"]
    exact = _exact_on(density, sp.exp(-30 * loss))
    left, right = (
        float(np.log(p.where(p.x < 0, 0.0).sum() / p.where(p.x > 0, 0.0).sum())) for p in (density, exact)
    )
    assert 0.0 < abs(left - right) < 3 * stated
    assert any("weights of wells" in str(w.message) for w in caught) == (stated > 0.1)


def test_noise_along_one_axis_only_gives_no_warnings_from_inside():
    process = Diffusion([y, -x - y], [[0, 0], [0, 1]], (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        mesh = {"box": {"x": (-7, 7), "y": (-7, 7)}, "shape": (60, 60)}
        density = stationary_density(process, scheme="exponential", **mesh)
    assert float(density.min()) >= 0.0


@pytest.mark.parametrize("accuracy", [0, -1e-3, 1.0, float("nan"), "high", None])
def test_an_accuracy_that_is_none_is_refused(accuracy):
    with pytest.raises(ValueError, match="accuracy="):
        stationary_density(Langevin(double_well(), isotropic(0.1)), accuracy=accuracy)


@pytest.mark.parametrize("box", [None, {"x": (-3, 3)}])
def test_weights_on_two_sides_of_a_place_that_no_path_crosses_are_told(box):
    process = Diffusion([x - x**3], [[x**2 / 4]], (x,))
    with pytest.warns(UserWarning, match="vanish at x=0, which no path crosses"):
        stationary_density(process, box=box)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_side = stationary_density(process, box={"x": (0, 3)})
    # P ~ x^2 exp(-2 x^2) on either side.
    weight = lambda v: v**2 * np.exp(-2 * v**2)  # noqa: E731
    exact = quad(lambda v: v * weight(v), 0, 5)[0] / quad(weight, 0, 5)[0]
    mean = float((one_side * one_side.x * one_side.cell_volume).sum())
    assert mean == pytest.approx(exact, rel=2e-3)
