"""Adiabatic elimination: closed forms, orders, the transition, and what the expansion refuses."""

import numpy as np
import pytest
import sympy as sp
from cases import VALLEY_REFERENCE

from theory import (
    Landscape,
    Langevin,
    adiabatic,
    anisotropic,
    degenerate_valley,
    hessian_proportional,
    isotropic,
    random_shift,
)

x, y = sp.symbols("x y", real=True)
delta, epsilon, kappa = sp.symbols("Delta epsilon kappa", positive=True)
lambda_x = sp.Function("lambda", positive=True)(x)
lambda_0 = lambda_x.subs(x, 0)

#: Full two-dimensional averages of the reference valley.
REFERENCE = {
    key: dict(zip(("<x^2>", "std(|x|)", "<y^2>"), averages, strict=True))
    for key, averages in VALLEY_REFERENCE.items()
}


def _sgd(delta_s, cross=True, **valley):
    return Langevin(degenerate_valley(**valley), random_shift(delta_s=delta_s), cross)


def _vanishes(expression):
    return sp.simplify(sp.expand(expression)) == 0


def test_lowest_order_drift_and_diffusion_are_the_averages_of_the_supplement_for_any_curvature():
    reduced = adiabatic.eliminate(_sgd(delta, lambda_=lambda_x, epsilon=epsilon), order=1)
    s = delta * lambda_x
    first, second = sp.diff(lambda_x, x), sp.diff(lambda_x, x, 2)
    drift = -(epsilon * lambda_0 * x + first * delta * lambda_x / 2)
    bracket = (epsilon * lambda_0) ** 2 + epsilon * lambda_0 * second * s
    bracket += sp.Rational(3, 4) * second**2 * s**2 + first**2 * s
    assert _vanishes(reduced.drift - drift)
    assert _vanishes(reduced.diffusion - delta * bracket)
    assert _vanishes(reduced.conditional_variance[0] - s)


@pytest.mark.parametrize(("cross", "c"), [(True, sp.Rational(1, 4)), (False, sp.Rational(5, 4))])
def test_second_order_diffusion_has_the_coefficient_one_quarter_with_and_five_quarters_without_cross_terms(
    cross, c
):
    process = _sgd(delta, cross, lambda_=lambda_x, epsilon=epsilon)
    low, high = (adiabatic.eliminate(process, order=order) for order in (1, 2))
    shift = delta**2 * lambda_x * sp.diff(lambda_x, x) ** 2
    assert _vanishes(high.diffusion - low.diffusion - (c - 1) * shift)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c[0]:g}-{'full' if c[1] else 'no cross'}")
def test_second_order_moments_agree_with_the_two_dimensional_density(case):
    # Truncation is O(Δ_S λ'^2/λ) ≈ 1e-3 of the drift, amplified near the transition (Δ_S = 5e-4).
    moments = adiabatic.eliminate(_sgd(*case), order=2).moments()
    for quantity, exact in REFERENCE[case].items():
        assert moments[quantity] == pytest.approx(exact, rel=0.008), quantity


def test_lowest_order_doubles_the_width_above_the_transition_and_second_order_mends_it():
    exact = REFERENCE[1e-3, True]["std(|x|)"]
    errors = [adiabatic.eliminate(_sgd(1e-3), order=o).moments()["std(|x|)"] / exact - 1 for o in (1, 2)]
    assert errors[0] > 0.9
    assert abs(errors[1]) < 0.005


def test_anisotropy_at_the_origin_is_the_published_one():
    coefficients = sp.symbols("lambda0:3", real=True)
    reduced = adiabatic.eliminate(_sgd(delta, lambda_=coefficients, epsilon=epsilon), order=1)
    inverse = sp.expand(sp.cancel(1 / reduced.anisotropy.subs(x, 0)))
    published = epsilon**2 + 2 * epsilon * delta * coefficients[1] + 3 * delta**2 * coefficients[1] ** 2
    assert _vanishes(inverse - published)


@pytest.mark.slow
def test_effective_loss_of_constant_noise_is_equation_14_of_the_paper():
    process = Langevin(degenerate_valley(lambda_x, epsilon), anisotropic(delta=delta, kappa=kappa))
    floor = epsilon * lambda_0 * x**2 / 2
    published = delta * (1 - kappa) * sp.log(lambda_x ** sp.Rational(-1, 2)) + (kappa - 1) * floor
    for order in (0, 1, 2):
        reduced = adiabatic.eliminate(process, order=order)
        difference = sp.expand_log(sp.expand(reduced.regularisation - published), force=True)
        assert not sp.simplify(difference).has(x) or order == 2
    whole = adiabatic.effective_loss_constant_noise(process.landscape, delta=delta, kappa=kappa)
    assert _vanishes(sp.expand_log(whole - process.landscape.loss - published, force=True))


def test_regularisation_of_sgd_noise_is_equation_13_and_the_prefactor_adds_delta_log_d():
    process = _sgd(sp.Rational(1, 1000))
    without, with_prefactor = (adiabatic.eliminate(process, order=o) for o in (0, 1))
    strength, ratio, curvature = without.noise_strength, without.anisotropy, without.curvatures[0]
    floor = process.landscape.loss.subs(y, 0)
    # Both sides divided by Δ(x) and differentiated, which removes the integral and its constant.
    published = ratio * sp.diff(floor, x) / strength + ratio * sp.diff(curvature, x) / (2 * curvature)
    published -= sp.diff(sp.log(curvature / strength), x) / 2
    ours = sp.diff((without.regularisation + floor) / strength, x)
    assert _vanishes(sp.together(ours - published))
    gained = sp.diff((with_prefactor.regularisation - without.regularisation) / strength, x)
    assert _vanishes(sp.together(gained - sp.diff(sp.log(with_prefactor.diffusion), x)))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_effective_loss_in_numbers_is_the_formula_and_vanishes_where_it_is_told_to(order):
    reduced = adiabatic.eliminate(_sgd(sp.Rational(1, 1000)), order=order)
    points = np.array([-0.4, 0.0, 0.3, 1.1])
    formula = np.vectorize(sp.lambdify(x, reduced.effective_loss, ["scipy", "numpy"]))(points)
    strength = sp.lambdify(x, reduced.noise_strength)(points)
    expected = formula - strength * formula[2] / strength[2]  # ln P less its value at 0.3
    np.testing.assert_allclose(
        reduced.effective_loss_at(points, zero_at=0.3), expected, rtol=1e-6, atol=1e-12
    )
    constant = Langevin(degenerate_valley(lambda_=(8, -2, 1), epsilon=1e-3), anisotropic(delta=0.01, kappa=4))
    exact = adiabatic.effective_loss_constant_noise(constant.landscape, delta=0.01, kappa=4).subs(y, 0)
    exact = sp.lambdify(x, exact - exact.subs(x, 0))(points)
    if order < 2:
        numbers = adiabatic.eliminate(constant, order=order).effective_loss_at(points)
        np.testing.assert_allclose(numbers, exact, rtol=1e-9, atol=1e-12)


def test_effective_loss_in_numbers_needs_numbers():
    reduced = adiabatic.eliminate(_sgd(delta))
    with pytest.raises(ValueError, match="give values to the parameters"):
        reduced.effective_loss_at([0.1])


def test_transition_condition_with_the_prefactor_is_the_derived_polynomial():
    l0, l1, l2 = sp.symbols("lambda0:3", real=True)
    reduced = adiabatic.eliminate(_sgd(delta, lambda_=(l0, l1, l2), epsilon=epsilon), order=1)
    derived = epsilon + delta * l1 + 8 * delta**2 * l1**2 + 24 * delta**2 * epsilon * l0 * l2
    derived += 4 * delta**2 * epsilon * l1**2 + 72 * delta**3 * l0 * l1 * l2 + 12 * delta**3 * l1**3
    assert _vanishes(adiabatic.transition_condition(reduced) + l0 * derived)


def test_critical_noise_is_the_published_one_and_the_corrected_one():
    valley = degenerate_valley()
    assert adiabatic.critical_noise(valley, order=0) == pytest.approx(5e-4, rel=1e-12)
    assert adiabatic.critical_noise(valley, order=1) == pytest.approx(5.0401e-4, rel=2e-6)
    with pytest.raises(ValueError, match="no transition"):
        adiabatic.critical_noise(degenerate_valley((8, 2, 1), 1e-3))


def test_finite_learning_rate_bends_the_boundary_and_leaves_the_leading_one_for_small_rates():
    for eta, expected in ((0.04, 5e-4 * 0.84), (1e-9, 5e-4)):
        sigma = adiabatic.critical_sigma(degenerate_valley(), learning_rate=eta)
        assert float(sigma) * eta == pytest.approx(expected)


def test_fast_variance_of_the_map_solves_its_second_moment_equation():
    # y → (1 − ηλ) y + noise of variance 2 η Δ_S (λ² + λ'² y²): the stationary ⟨y²⟩ is a fixed point.
    valley, eta = degenerate_valley((8, -2, 1), 1e-3), sp.Rational(1, 25)
    s = adiabatic.sgd_fast_variance(valley, delta_s=sp.Rational(1, 1000), learning_rate=eta)
    curvature = 8 - 2 * x**2 + x**4
    noise = 2 * eta * sp.Rational(1, 1000) * (curvature**2 + sp.diff(curvature, x) ** 2 * s)
    assert _vanishes(((1 - eta * curvature) ** 2 * s + noise - s).subs(x, sp.Rational(7, 10)))


def test_several_fast_variables_add_their_drifts_and_diffusions():
    rows = ((8, -2, 1), (5, 1, sp.Rational(1, 2)))
    both = adiabatic.eliminate(_sgd(delta, lambda_=rows, epsilon=epsilon), order=1)
    mean0 = sp.Rational(13, 2)
    expected = epsilon * mean0 * x
    for a, b, c in rows:
        curvature = a + b * x**2 + c * x**4
        expected += sp.diff(curvature, x) * delta * curvature / 2
    assert _vanishes(both.drift + expected)
    assert [str(v) for v in both.fast] == ["y1", "y2"]


def test_a_spectator_fast_variable_changes_nothing():
    # A second sharp direction with constant curvature does not feel x: the reduction is the old one.
    alone = adiabatic.eliminate(_sgd(delta, lambda_=(8, -2, 1), epsilon=0), order=2)
    joined = adiabatic.eliminate(_sgd(delta, lambda_=((8, -2, 1), (6,)), epsilon=0), order=2)
    assert _vanishes(alone.drift - joined.drift)
    assert _vanishes(alone.diffusion - joined.diffusion)


def test_isotropic_noise_gives_boltzmann_at_every_order():
    process = Langevin(degenerate_valley((8, -2, 1), sp.Rational(1, 100)), isotropic(sp.Rational(1, 50)))
    points = np.linspace(-1.2, 1.2, 7)
    weight = (8 - 2 * points**2 + points**4) ** -0.5 * np.exp(-0.08 * points**2 / 2 / 0.02)
    for order in (0, 1):
        p = adiabatic.eliminate(process, order=order).density(points)
        assert p / p[3] == pytest.approx(weight / weight[3], rel=1e-6)


def test_use_outside_the_range_warns():
    reduced = adiabatic.eliminate(_sgd(0.02), order=1)
    with pytest.warns(UserWarning, match="needs a small") as caught:
        reduced.moments()
    assert ["timescale" in str(w.message) or "noise" in str(w.message) for w in caught] == [True, True]


def test_a_floor_that_is_not_flat_in_y_is_refused():
    tilted = Landscape(x**4 / 4 - x**2 / 2 + y**2 + x * y / 4, (x, y), fast=(y,))
    with pytest.raises(ValueError, match="not the floor"):
        adiabatic.eliminate(Langevin(tilted, isotropic(0.1)))


def test_noise_that_is_not_smooth_and_losses_odd_in_y_are_refused():
    with pytest.raises(NotImplementedError, match="not smooth"):
        adiabatic.eliminate(Langevin(degenerate_valley(), hessian_proportional(0.01)))
    odd = Landscape(x**2 / 100 + (4 + x**2) * y**2 + x * y**3, (x, y), fast=(y,))
    with pytest.raises(NotImplementedError, match="odd"):
        adiabatic.eliminate(Langevin(odd, isotropic(0.1)))


def test_unknown_fast_variables_and_orders_are_refused():
    with pytest.raises(ValueError, match="must name some"):
        adiabatic.eliminate(_sgd(1e-3), fast="z")
    with pytest.raises(ValueError, match="order=3"):
        adiabatic.eliminate(_sgd(1e-3), order=3)
    with pytest.raises(ValueError, match="give values"):
        adiabatic.eliminate(_sgd(delta)).moments()
