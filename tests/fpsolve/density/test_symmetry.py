"""A mirror symmetry is used only where it is proved: against quadrature on landscapes that hide their asymmetry."""

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from fpsolve import compare, stationary_density
from fpsolve.density.symmetry import mirror_symmetries
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    degenerate_valley,
    hessian_proportional,
    isotropic,
    random_shift,
)

R = sp.Rational
x, y, z = sp.symbols("x y z", real=True)


def symmetric(loss, noise=None):
    variables = tuple(v for v in (x, y) if loss.has(v))
    return mirror_symmetries(Langevin(Landscape(loss, variables), noise or isotropic(R(1, 10))))


@pytest.mark.parametrize(
    ("loss", "noise", "mean", "square"),
    [
        (x**2 / 200 + 2 * sp.exp(-((x - 10) ** 2)), 1, -0.497930, 100.033060),
        (x**2 / 200 - 2 * sp.exp(-((x - 10) ** 2) / 2), R(3, 10), 9.1239, None),
        (x**2 / 50 + 3 * sp.exp(-4 * (x + 9) ** 2), 1, None, None),
        (x**4 / 4000 - 5 * sp.exp(-100 * (x - 11) ** 2), 1, None, None),
    ],
)
@pytest.mark.parametrize("method", ["finite-volume", "spectral"])
def test_an_asymmetry_away_from_the_origin_is_not_folded_away(loss, noise, mean, square, method):
    process = Langevin(Landscape(loss, (x,)), isotropic(noise))
    averages = compare.averages(stationary_density(process, method=method))
    weight = sp.lambdify(x, sp.exp(-loss / noise), "numpy")
    powers = [lambda u: weight(u), lambda u: u * weight(u), lambda u: u**2 * weight(u)]
    moments = [quad(f, -120, 120, points=[-9, 8, 10, 11, 12], limit=400)[0] for f in powers]
    assert mean is None or moments[1] / moments[0] == pytest.approx(mean, rel=1e-4)
    assert averages["<x>"] == pytest.approx(moments[1] / moments[0], rel=2e-3)
    assert averages["<x^2>"] == pytest.approx(moments[2] / moments[0], rel=2e-3)
    if square:
        assert averages["<x^2>"] == pytest.approx(square, rel=2e-3)


@pytest.mark.parametrize(
    "loss",
    [
        (x - sp.Float(0.1)) ** 2 * (x + sp.Float(0.1)) ** 2,
        x**2 + sp.exp(-((x - 1) ** 2)) + sp.exp(-((x + 1) ** 2)),
        sp.Abs(x - 1) + sp.Abs(x + 1),
        sp.Max(x - 1, -x - 1, 0) + sp.log(sp.cosh(x)),
        x**2 + sp.cos(x - 1) + sp.cos(x + 1),
        x**2 + sp.tanh(x - 1) - sp.tanh(x + 1),
        x**4 - 1 / (x + 1) + 1 / (x - 1),
        sp.Piecewise((x**2, x < 0), (x**2, x < 1), (x**2, True)),
        sp.Piecewise((-x, x < 0), (x, True)),
    ],
)
def test_symmetries_of_every_form_are_proved(loss):
    assert symmetric(loss) == ("x",)
    assert symmetric(loss + sp.exp(-((x - 40) ** 2))) == ()


@pytest.mark.parametrize(
    "noise",
    [random_shift(delta_s=1e-3), hessian_proportional(learning_rate=0.1, batch_size=5), isotropic(1)],
)
def test_noise_of_an_even_loss_is_even_as_a_matrix(noise):
    assert symmetric((x**2 + y**2 - 1) ** 2, noise) == ("x", "y")
    assert symmetric(x**2 + (x - y) ** 2 + y**4, noise) == ()
    assert symmetric(x**2 + (y - 1) ** 2 * x**4 + y**2, noise) == ("x",)


def test_drift_and_noise_without_a_landscape_are_compared_entry_by_entry():
    assert mirror_symmetries(Diffusion([-x, -y + x**2], [[1, x * y], [x * y, 2]], (x, y))) == ("x",)
    assert mirror_symmetries(Diffusion([-x, -y + x**2], [[1, y], [y, 2]], (x, y))) == ()
    assert mirror_symmetries(Diffusion([-x, -y + x], [[1, 0], [0, 1]], (x, y))) == ()
    valley = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    assert mirror_symmetries(valley.at_finite_step(learning_rate=0.01)) == ("x", "y")


def test_a_variable_that_is_positive_has_no_mirror_image():
    p = sp.Symbol("p", positive=True)
    assert mirror_symmetries(Diffusion([p * (1 - p**2)], [[p**2]], (p,))) == ()


def test_a_formula_too_long_to_expand_is_not_called_symmetric():
    assert symmetric((x - y + 2) ** 200 + (x + y + 2) ** 200 + (x + y + sp.exp(x)) ** 300) == ()


@given(
    st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=3)
)
@settings(max_examples=40, deadline=None)
def test_sums_of_gaussians_are_symmetric_exactly_if_every_one_has_its_mirror_image(bumps):
    gaussians = [R(a) * sp.exp(-R(w) * (x - c) ** 2) for c, a, w in bumps]
    mirrored = [g.subs(x, -x) for g in gaussians]
    assert symmetric(x**2 + sum(gaussians) + sum(mirrored)) == ("x",)
    alone = {}
    for c, a, w in bumps:
        alone[c, w] = alone.get((c, w), 0) + a
    even = all(alone.get((-c, w), 0) == a for (c, w), a in alone.items())
    assert symmetric(x**2 + sum(gaussians)) == (("x",) if even else ())
