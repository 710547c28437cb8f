"""Processes corrected for a finite learning rate: against the map itself, exactly and in law."""

import numpy as np
import pytest
import sympy as sp
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from fpsolve import compare, mean_first_passage_time, simulate, stationary_density
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    anisotropic,
    degenerate_valley,
    double_well,
    hessian_proportional,
    isotropic,
    random_shift,
)
from theory.langevin import Process

x, y = sp.symbols("x y", real=True)
STEPS = (0.0125, 0.025, 0.05, 0.1)


def _order(errors) -> float:
    """The fitted exponent of errors on STEPS."""
    return float(np.polyfit(np.log(STEPS), np.log(np.abs(errors)), 1)[0])


# Exactly: linear maps, and the generator itself


def _covariance(process: Process) -> np.ndarray:
    """Σ of a linear process with constant noise: JΣ + ΣJᵀ = −2D."""
    J = np.array(sp.Matrix(process.drift).jacobian(process.variables), float)
    return solve_continuous_lyapunov(J, -2 * np.array(process.diffusion, float))


def _map_covariance(process: Process, eta: float) -> np.ndarray:
    """Σ of the map: Σ = (I + ηJ)Σ(I + ηJ)ᵀ + 2ηD."""
    J = np.array(sp.Matrix(process.drift).jacobian(process.variables), float)
    return solve_discrete_lyapunov(np.eye(len(J)) + eta * J, 2 * eta * np.array(process.diffusion, float))


BOWL = Landscape(2 * x**2 + x * y + sp.Rational(3, 2) * y**2, (x, y))
LINEAR = {
    "random shift": Langevin(BOWL, random_shift(delta_s=0.05)),
    "isotropic": Langevin(BOWL, isotropic(0.1)),
    "any matrix": Langevin(BOWL, anisotropic(D=[[0.2, 0.05], [0.05, 0.03]])),
    "with a current": Diffusion(
        sp.Matrix([-x - 0.8 * y, 0.6 * x - 1.5 * y]), sp.Matrix([[0.1, 0.04], [0.04, 0.08]]), (x, y)
    ),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("form", ["small-noise", "expanded"])
def test_on_quadratic_losses_the_covariance_is_that_of_the_map_to_second_order(name, form):
    process = LINEAR[name]
    errors, uncorrected, drift_only = [], [], []
    for eta in STEPS:
        exact = _map_covariance(process, eta)
        corrected = process.at_finite_step(learning_rate=eta, form=form)
        only = process.at_finite_step(learning_rate=eta, form="drift-only")
        for found, errs in ((corrected, errors), (process, uncorrected), (only, drift_only)):
            errs.append(np.abs(_covariance(found) - exact).max() / exact.max())
    assert _order(errors) == pytest.approx(2, abs=0.2)
    assert _order(uncorrected) == pytest.approx(1, abs=0.2)
    assert _order(drift_only) == pytest.approx(1, abs=0.2)
    assert errors[-1] < 0.4 * uncorrected[-1] < 0.4 * drift_only[-1]


def test_widths_and_rates_of_one_mode_are_the_series_of_the_exact_ones():
    eta, rate, D = sp.symbols("eta lambda D", positive=True)
    bowl = Langevin(Landscape(rate * y**2 / 2, (y,)), isotropic(D))
    exact = {"width": D / rate / (1 - eta * rate / 2), "rate": -sp.log(1 - eta * rate) / eta}
    for form in ("small-noise", "expanded", "drift-only"):
        process = bowl.at_finite_step(learning_rate=eta, form=form)
        slope = -process.drift[0].diff(y)
        found = {"width": process.diffusion[0] / slope, "rate": slope}
        for quantity, difference in ((q, sp.series(found[q] - exact[q], eta, 0, 2).removeO()) for q in found):
            wrong = quantity == "width" and form == "drift-only"
            assert sp.simplify(difference + (D * eta if wrong else 0)) == 0, (form, quantity)


def test_the_generator_differs_from_the_expansion_of_the_map_by_the_third_derivatives_it_names():
    """η(A₂ − 𝓛²/2) f = (𝓛̃ − 𝓛) f − η D_kl (∂_k D_ij) ∂_l∂_i∂_j f, identically."""
    v, eta = (x, y), sp.Symbol("eta", positive=True)
    b = sp.Matrix([sp.Function("b1")(x, y), sp.Function("b2")(x, y)])
    a11, a12, a22 = (sp.Function(n)(x, y) for n in ("a11", "a12", "a22"))
    D = sp.Matrix([[a11, a12], [a12, a22]])
    corrected = Diffusion(b, D, v).at_finite_step(learning_rate=eta, form="expanded")
    f = x**3 * y + x**2 * y**2 / 2 + x * y + y**2 * x - x**4 / 7 + y**3  # reaches every order
    both = range(2)

    def generator(drift, diffusion, g):
        first = sum(drift[i] * g.diff(v[i]) for i in both)
        return first + sum(diffusion[i, j] * g.diff(v[i], v[j]) for i in both for j in both)

    frozen = sum(b[i] * b[j] * f.diff(v[i], v[j]) / 2 for i in both for j in both)
    frozen += sum(b[i] * D[j, k] * f.diff(v[i], v[j], v[k]) for i in both for j in both for k in both)
    frozen += sum(
        D[i, j] * D[k, m] * f.diff(v[i], v[j], v[k], v[m]) / 2
        for i in both for j in both for k in both for m in both
    )  # fmt: skip
    wanted = eta * (frozen - generator(b, D, generator(b, D, f)) / 2)
    third = sum(
        D[k, m] * D[i, j].diff(v[k]) * f.diff(v[m], v[i], v[j])
        for i in both for j in both for k in both for m in both
    )  # fmt: skip
    found = generator(corrected.drift, corrected.diffusion, f) - generator(b, D, f) - eta * third
    assert sp.expand(wanted - found) == 0


# Densities in one variable, against the map's own transition kernel


def _map_density(b, D, eta: float, reach: float, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The stationary density of x → x + ηb + √(2ηD)ξ: the fixed point of its Gaussian kernel."""
    b, D = (sp.lambdify(x, e + 0 * x, "numpy") for e in (b, D))
    grid = np.linspace(-reach, reach, count)
    mean, width = grid + eta * b(grid), np.sqrt(2 * eta * D(grid) * np.ones_like(grid))
    kernel = np.exp(-(((grid[:, None] - mean) / width) ** 2) / 2) / width
    system = kernel / kernel.sum(axis=0) - np.eye(count)
    system[0] = 1.0
    p = np.linalg.solve(system, np.eye(count)[0])
    return grid, p / (p.sum() * (grid[1] - grid[0]))


def _errors(process: Process, form: str | None, reach: float) -> tuple[list[float], list[float]]:
    """L1 distances and relative errors of ⟨x²⟩ from the map on STEPS."""
    distances, widths = [], []
    for eta in STEPS:
        grid, exact = _map_density(process.drift[0], process.diffusion[0], eta, reach)
        corrected = process if form is None else process.at_finite_step(learning_rate=eta, form=form)
        density = stationary_density(corrected, box={"x": (-reach, reach)}, method="spectral")
        volume = density.cell_volume.to_numpy()
        there = CubicSpline(grid, exact)(density.x)
        distances.append(float(np.abs(density - there).to_numpy() @ volume))
        widths.append(
            float((density * density.x**2) @ density.cell_volume / (exact @ grid**2 / exact.sum()) - 1)
        )
    return distances, widths


WELL = Langevin(Landscape(x**2 / 2 + x**4 / 4, (x,)), isotropic(0.2))


def test_the_density_of_a_well_is_that_of_the_map_to_second_order_and_drift_alone_is_worse_than_nothing():
    plain, corrected, only = (_errors(WELL, form, 3.0)[0] for form in (None, "small-noise", "drift-only"))
    assert _order(corrected) == pytest.approx(2, abs=0.2)
    assert _order(plain) == pytest.approx(1, abs=0.2) and _order(only) == pytest.approx(1, abs=0.2)
    assert corrected[-1] < 0.0035  # 0.022 uncorrected, 0.042 with the drift alone
    assert only[-1] > 1.8 * plain[-1] > 7 * corrected[-1]


def test_where_noise_depends_on_place_what_remains_is_first_order_unless_third_derivatives_are_absorbed():
    uneven = Diffusion(sp.Matrix([-x]), sp.Matrix([[(1 + x**2 / (1 + x**2)) / 10]]), (x,))
    plain, small = (_errors(uneven, form, 4.0)[0] for form in (None, "small-noise"))
    assert _order(small) == pytest.approx(1, abs=0.2)
    assert small[-1] < 0.4 * plain[-1]
    absorbed, _ = _errors(uneven, "stationary", 4.0)
    assert _order(absorbed) == pytest.approx(2, abs=0.2) and absorbed[-1] < 0.4 * small[-1]
    # Second moments of a linear drift feel no third derivative.
    _, widths = _errors(uneven, "expanded", 4.0)
    assert _order(widths) == pytest.approx(2, abs=0.25)


# The reference valley


@pytest.mark.slow
@pytest.mark.parametrize(("eta", "share"), [(0.01, 0.06), (0.05, 0.2), (0.1, 0.4)])
def test_the_density_of_the_valley_follows_the_map_up_to_a_learning_rate_of_a_tenth(eta, share):
    """⟨x²⟩ and ⟨y²⟩ of the map, Δ_S = 10⁻³; ηλ = 0.07, 0.36, 0.73: the error left is a share of the correction."""
    sgd = Langevin(degenerate_valley(), random_shift(delta_s=1e-3, learning_rate=eta))
    start = {"x": 0.7, "y": 0.0}
    paths = simulate(sgd, walkers=1024, time=2000, burn_in=400, start=start, rng=1)
    found = {}
    # With the drift alone the spectral method needs half a minute at the larger rates.
    for form in (None, "small-noise", "drift-only")[: 3 if eta < 0.05 else 2]:
        process = sgd if form is None else sgd.at_finite_step(learning_rate=eta, form=form)
        method = "finite-volume" if form == "small-noise" else "spectral"
        found[form] = compare.averages(stationary_density(process, method=method))
    for k, quantity in enumerate(("<x^2>", "<y^2>")):
        exact, error = float(paths.second_moment[k, k]), float(paths.second_moment_stderr[k, k])
        gap = exact - found[None][quantity]
        assert gap > 20 * error
        assert abs(exact - found["small-noise"][quantity]) < share * gap + 4 * error, quantity
        if "drift-only" in found:
            assert exact - found["drift-only"][quantity] > gap, quantity


def test_it_is_simulated_with_a_time_step_of_its_own_and_timed_like_any_process():
    sgd = Langevin(Landscape(4 * y**2, (y,)), random_shift(delta_s=1e-3, learning_rate=0.05))
    corrected = sgd.at_finite_step(learning_rate=0.05)
    with pytest.raises(ValueError, match="time_step"):
        simulate(corrected, walkers=10, time=1, start={"y": 0.0}, rng=0)
    paths = simulate(corrected, walkers=1000, time=20, burn_in=2, time_step=1e-3, start={"y": 0.0}, rng=0)
    value, error = float(paths.second_moment[0, 0]), float(paths.second_moment_stderr[0, 0])
    assert abs(value - 8e-3 * 1.2 * (1 + 8e-3 * 1.2 / 2)) < 4 * error  # Δλ(1 + ηλ/2), and the step's own
    assert abs(value - 8e-3) > 20 * error
    well = Langevin(double_well(), isotropic(0.1)).at_finite_step(learning_rate=0.1)
    assert well.landscape is not None and well.drift[0].equals(-well.landscape.gradient[0])
    times = mean_first_passage_time(well, target=well.variables[0] > 0)
    assert float(times.sel(x=-1.0, method="nearest")) > 0


# What it refuses


def test_a_diffusion_that_is_not_positive_is_refused_with_the_way_out():
    valley = Langevin(degenerate_valley(), random_shift(delta_s=1e-3, learning_rate=0.05))
    literal = valley.at_finite_step(learning_rate=0.05, form="expanded")
    with pytest.raises(ValueError, match="not positive semidefinite"):
        stationary_density(literal)
    with pytest.raises(ValueError, match="use form='small-noise'"):
        simulate(literal, walkers=4, time=1, time_step=0.01, start={"x": 0.7, "y": 0.0}, rng=0)


def test_senseless_arguments_are_refused():
    sgd = Langevin(BOWL, random_shift(learning_rate=0.05, sigma=0.1))
    for options, message in (
        ({"learning_rate": 0.0}, "must be positive"),
        ({"learning_rate": 0.1}, "differs from 0.05"),
        ({"learning_rate": 0.05, "form": "best"}, "must be one of"),
        ({"learning_rate": 0.05, "form": "stationary"}, "needs one variable"),
    ):
        with pytest.raises(ValueError, match=message):
            sgd.at_finite_step(**options)


def test_symbols_stay_symbols_and_cross_terms_can_be_dropped():
    eta = sp.Symbol("eta", positive=True)
    process = Langevin(BOWL, hessian_proportional(0.1)).at_finite_step(learning_rate=eta)
    assert process.free_parameters == ("eta",) and "eta" in process.name
    assert process.without_cross_diffusion().diffusion[0, 1] == 0
