"""The spectral referee: printed digits of the reference, exact laws, and two discretisations that agree."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from test_convergence import MANUFACTURED, manufactured_process
from test_density import OU, REFERENCE, TILTED

from fpsolve import compare, stationary_density
from fpsolve.density import spectral
from fpsolve.density.operator import factorised
from fpsolve.symbols.functions import numpy_function
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    anisotropic,
    degenerate_valley,
    double_well,
    isotropic,
    random_shift,
)

x, y = sp.symbols("x y", real=True)
QUANTITIES = ("<x^2>", "std(|x|)", "<y^2>")


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c[0]:g}-{'full' if c[1] else 'no cross'}")
def test_reference_valley_moments_are_met_to_the_printed_digits(case):
    delta_s, cross = case
    process = Langevin(degenerate_valley(), random_shift(delta_s=delta_s))
    density = stationary_density(process, method="spectral", cross_diffusion=cross)
    found = compare.averages(density, ("x", "y"))
    for quantity, exact in zip(QUANTITIES, REFERENCE[case], strict=True):
        # The references have eight digits: half a unit of the last is up to 3e-8.
        assert found[quantity] == pytest.approx(exact, rel=1e-7), quantity
    assert density.attrs["convergence"] < 1e-9


@pytest.mark.parametrize(
    ("curvature", "epsilon", "delta_s"),
    [((4, -1, 1), 2e-3, 3e-3), ((10, -4, 2), 5e-4, 2e-4), ((10, -4, 2), 5e-4, 1e-4), ((8, 2, 1), 1e-3, 1e-3), ((8, -2, 1), 1e-4, 1e-3)],
)  # fmt: skip
@pytest.mark.parametrize("cross", [True, False], ids=["full", "no cross"])
def test_finite_volumes_meet_the_referee_on_other_valleys(curvature, epsilon, delta_s, cross):
    process = Langevin(degenerate_valley(curvature, epsilon), random_shift(delta_s=delta_s))
    volumes = compare.averages(stationary_density(process, cross_diffusion=cross), ("x", "y"))
    referee = compare.averages(
        stationary_density(process, cross_diffusion=cross, method="spectral"), ("x", "y")
    )
    for quantity in QUANTITIES:
        assert volumes[quantity] == pytest.approx(referee[quantity], rel=2e-3), quantity


def test_hermite_functions_and_polynomials_in_the_fast_variable_agree(monkeypatch):
    process = Langevin(degenerate_valley(), random_shift(delta_s=5e-4))
    box = {"x": (-0.26, 0.26), "y": (-0.6, 0.6)}  # more than nine standard deviations of y
    hermite = stationary_density(process, method="spectral", box=box)
    monkeypatch.setattr(spectral, "HERMITE_BELOW", 0.0)
    elements = stationary_density(process, method="spectral", box=box)
    assert "Hermite" in hermite.attrs["scheme"] and "Hermite" not in elements.attrs["scheme"]
    first, second = (compare.averages(d, ("x", "y")) for d in (hermite, elements))
    for quantity in QUANTITIES:
        assert first[quantity] == pytest.approx(second[quantity], rel=1e-8)


def test_a_wider_window_does_not_change_the_numbers():
    process = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    narrow = compare.averages(stationary_density(process, method="spectral"), ("x", "y"))
    with pytest.warns(UserWarning, match="still change"):  # most elements of so wide a box are empty
        wide = stationary_density(process, method="spectral", box={"x": (-1.1, 1.1), "y": (-1, 1)})
    for quantity, value in compare.averages(wide, ("x", "y")).items():
        assert value == pytest.approx(narrow[quantity], rel=wide.attrs["convergence"])


def test_constant_anisotropy_has_the_referenced_marginal():
    process = Langevin(degenerate_valley(), anisotropic(delta=0.01, kappa=4))
    density = stationary_density(process, method="spectral", box={"x": (-2, 2), "y": (-1, 1)})
    p = spectral.marginal(density, "x", np.array([0.0, 1.0]))
    assert p[1] / p[0] == pytest.approx(0.26370948, rel=3e-8)
    assert compare.averages(density, ("x", "y"))["<x^2>"] == pytest.approx(0.32909158, rel=3e-8)
    line = np.linspace(-0.4, 0.4, 4001)
    assert np.trapezoid(spectral.marginal(density, "y", line), line) == pytest.approx(1.0, abs=1e-6)


def test_isotropic_noise_gives_boltzmann_point_by_point():
    process = Langevin(Landscape(TILTED, (x, y)), isotropic(0.08))
    density = stationary_density(process, method="spectral")
    exact = np.exp(-numpy_function(TILTED, (x, y))(*np.meshgrid(density.x, density.y, indexing="ij")) / 0.08)
    exact /= (exact * density.cell_volume.to_numpy()).sum()
    assert float((abs(density - exact) * density.cell_volume).sum()) < 1e-8


def test_ornstein_uhlenbeck_with_full_diffusion_has_the_lyapunov_covariance():
    found = compare.averages(stationary_density(OU, method="spectral"))
    assert found["<x^2>"] == pytest.approx(0.0764040404, rel=1e-8)
    assert found["<y^2>"] == pytest.approx(0.0651313131, rel=1e-8)
    assert found["<x y>"] == pytest.approx(0.0294949495, rel=1e-8)


def test_manufactured_state_with_full_position_dependent_diffusion_is_met():
    density = stationary_density(manufactured_process(), method="spectral", box={"x": (-6, 6), "y": (-6, 6)})
    exact = numpy_function(MANUFACTURED, (x, y))(*np.meshgrid(density.x, density.y, indexing="ij"))
    exact /= (exact * density.cell_volume.to_numpy()).sum()
    assert float((abs(density - exact) * density.cell_volume).sum()) < 1e-7


def test_one_dimension_with_multiplicative_noise_has_the_ito_prefactor():
    D = sp.Rational(1, 10) * (1 + x**2 / 2)
    process = Diffusion(sp.Matrix([-x]), sp.Matrix([[D]]), (x,))
    density = stationary_density(process, method="spectral", box={"x": (-12, 12)})
    exact = (1 + density.x.to_numpy() ** 2 / 2) ** -11
    exact /= (exact * density.cell_volume.to_numpy()).sum()
    assert float((abs(density - exact) * density.cell_volume).sum()) < 1e-7


def test_error_falls_exponentially_with_the_degree(monkeypatch):
    process = Langevin(double_well(), isotropic(0.1))
    exact = compare.averages(stationary_density(process, method="spectral"), ("x",))["<x^2>"]
    errors = []
    for degree in (2, 4, 6, 8):
        monkeypatch.setitem(spectral.LEVELS, 1, [(degree, 0, 8), (degree, 0, 8)])
        density = stationary_density(process, method="spectral", box={"x": (-2.6, 2.6)})
        errors.append(abs(compare.averages(density, ("x",))["<x^2>"] / exact - 1))
    # An algebraic method of order p gains 4^p from degree 2 to 8 at most; here it is five decades.
    assert errors[3] < 1e-6 and errors[0] > 1e-3, errors


def test_a_density_that_does_not_converge_warns(monkeypatch):
    monkeypatch.setitem(spectral.LEVELS, 2, [(2, 3, 4), (3, 3, 4)])
    with pytest.warns(UserWarning, match="still change"):
        stationary_density(OU, method="spectral", box={"x": (-2, 2), "y": (-2, 2)})


@pytest.mark.parametrize(
    ("curvature", "epsilon", "delta_s", "narrow", "wide"),
    [
        ((4, -1, 1), 2e-3, 3e-3, (0.21, 0.538), (0.1, 0.7)),
        ((10, -4, 2), 5e-4, 4e-4, (0.682, 0.868), (0.497, 1.054)),
        ((8, 2, 1), 1e-3, 1e-3, (-0.06, 0.06), (-0.18, 0.18)),
    ],
)
def test_windows_up_to_three_times_as_wide_agree_on_other_valleys(curvature, epsilon, delta_s, narrow, wide):
    process = Langevin(degenerate_valley(curvature, epsilon), random_shift(delta_s=delta_s))
    densities = [
        spectral.spectral_density(process, box={"x": window, "y": (-1, 1)}, symmetric=("x", "y"))
        for window in (narrow, wide)
    ]
    first, second = (compare.averages(d, ("x", "y")) for d in densities)
    for quantity in QUANTITIES:
        assert first[quantity] == pytest.approx(second[quantity], rel=1e-8), quantity
    assert max(d.attrs["convergence"] for d in densities) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("D", ["0.02", "0.012", "0.007", "0.005"])
def test_weights_of_wells_that_are_lost_in_rounding_are_said_to_be(D):
    temperature = sp.Rational(D)
    loss = x**4 / 4 - x**2 / 2 + x / 200 + y**2
    process = Langevin(Landscape(loss, (x, y)), isotropic(temperature))
    with pytest.warns(UserWarning, match="rounding limits"):
        density = stationary_density(process, method="spectral", box={"x": (-1.9, 1.9), "y": (-1, 1)})
    boltzmann = numpy_function(sp.exp(-(loss + sp.Rational(13, 50)) / temperature), (x, y))
    exact = boltzmann(*np.meshgrid(density.x, density.y, indexing="ij")) * density.cell_volume.to_numpy()
    right = float((density * density.cell_volume).where(density.x > 0).sum())
    error = abs(right - exact[density.x.to_numpy() > 0].sum() / exact.sum())
    # An estimate of rounding is one of an order of magnitude.
    assert error < 10 * density.attrs["convergence"]


@pytest.mark.parametrize(
    ("process", "middle"),
    [
        *((Langevin(Landscape(x**4 / 4 - x**2 / 2 + x / 2000, (x,)), isotropic(sp.Rational(1, 4 * b))), 0) for b in (40, 75, 300)),
        (Langevin(Landscape(x**2 * (x - 20) ** 2 / 1600 - x / 100, (x,)), isotropic(0.25)), 10),
        (Diffusion([-2 * x * (x - 2) * (2 * x - 2) * 2 + sp.Rational(1, 2)], [[0.03]], (x,)), 1),
    ],
)  # fmt: skip
def test_a_well_that_rounding_has_emptied_is_not_cut_off_unseen(process, middle):
    with pytest.warns(UserWarning, match="rounding limits"):
        density = stationary_density(process, method="spectral")
    assert float(density.x.min()) < middle < float(density.x.max())
    assert density.attrs["convergence"] > 1e-3


def test_of_a_turned_valley_the_density_settles_and_not_its_moments_alone():
    c, s = sp.sqrt(3) / 2, sp.Rational(1, 2)
    loss = sp.expand((c * x + s * y) ** 2 / 2 + 5 * (c * y - s * x) ** 2)
    density = stationary_density(Langevin(Landscape(loss, (x, y)), random_shift(0.01)), method="spectral")
    # D = Δ_S H² on a quadratic loss: HΣ + ΣH = 2D gives Σ = Δ_S H.
    inverse = np.linalg.inv(0.01 * np.array(sp.hessian(loss, (x, y)), float))
    form = (
        inverse[0, 0] * density.x**2
        + 2 * inverse[0, 1] * density.x * density.y
        + inverse[1, 1] * density.y**2
    )
    exact = np.exp(-form / 2)
    exact = exact / float((exact * density.cell_volume).sum())
    assert float((abs(density - exact) * density.cell_volume).sum()) < 1e-8
    assert density.attrs["negative_mass"] < 1e-12


def test_a_density_that_only_changes_sides_is_not_called_settled():
    process = Langevin(Landscape(x**4 / 4 - x**2 / 2 + x / 10, (x,)), isotropic(0.1))
    axes = spectral._axes(process, {"x": (-2.6, 2.6)}, (), {}, (10, 0, 12))
    solution = spectral._solve(process, spectral._coefficients(process), axes, None)
    # Same ⟨x²⟩ and std(x), opposite ⟨x⟩.
    mirrored = replace(solution, density=solution.density[::-1])
    assert spectral._change(solution, mirrored) > 0.1
    assert spectral._change(solution, solution) == 0.0


def test_levels_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    def small_memory(matrix):
        if matrix.shape[0] > 3000:
            raise MemoryError
        return factorised(matrix)

    monkeypatch.setattr(spectral, "factorised", small_memory)
    process = Langevin(double_well(), isotropic(0.1))
    two = Diffusion(sp.Matrix([process.drift[0], -y]), sp.eye(2) / 10, (x, y))
    with pytest.warns(UserWarning, match="still change"):
        density = stationary_density(two, method="spectral", box={"x": (-2.6, 2.6), "y": (-2.5, 2.5)})
    assert density.attrs["unknowns"] <= 3000
    assert density.attrs["mass"] == pytest.approx(1.0, abs=1e-12)


def test_a_density_carries_its_checks_in_attributes_that_files_can_hold():
    process = Langevin(double_well(), isotropic(0.1))
    density = spectral.spectral_density(process, box={"x": (-2.8, 2.8)}, symmetric=("x",))
    checks = "mass residual rounding_error negative_mass boundary_mass convergence unknowns"
    words = "method scheme symmetry units long_name"
    assert {*checks.split(), *words.split()} <= set(density.attrs)
    assert all(type(value) in (str, int, float) for value in density.attrs.values())
    assert float((density * density.cell_volume).sum()) == pytest.approx(1.0, abs=1e-14)
