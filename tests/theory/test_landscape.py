"""Landscapes and noise models: derivatives, roots, symmetry of D, and what they refuse."""

import pickle

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fpsolve.symbols.functions import numpy_function
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    anisotropic,
    degenerate_valley,
    double_well,
    hessian_proportional,
    isotropic,
    measured,
    random_shift,
)

x, y, z = sp.symbols("x y z", real=True)
TILTED = Landscape(x**4 / 4 - x**2 / 2 + y**2 + x * y / 4, (x, y))
NOISES = [
    isotropic(0.08),
    anisotropic(D=[0.1, 0.3]),
    anisotropic(D=[[0.10, 0.04], [0.04, 0.08]]),
    random_shift(delta_s=1e-3),
    random_shift(learning_rate=0.01, sigma=0.1),
    hessian_proportional(0.02),
    hessian_proportional(learning_rate=0.1, batch_size=5),
    measured([[2.0, 0.5], [0.5, 1.0]], learning_rate=0.1),
]


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("landscape", [TILTED, degenerate_valley()], ids=["tilted", "valley"])
def test_the_root_squares_to_twice_the_diffusion_at_random_points(landscape, noise):
    process = Langevin(landscape, noise)
    points = np.random.default_rng(0).normal(size=(50, 2))
    D = process.diffusion_values(points)
    symbolic = np.moveaxis(numpy_function(process.root, process.variables)(*points.T), 2, 0)
    assert symbolic @ np.swapaxes(symbolic, 1, 2) == pytest.approx(2 * D, rel=1e-9, abs=1e-12)
    numeric = process.root_values(points)
    assert numeric @ np.swapaxes(numeric, 1, 2) == pytest.approx(2 * D, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.001, 1))
def test_hessian_proportional_noise_is_the_absolute_value_of_the_hessian(a, b, strength):
    process = Langevin(TILTED, hessian_proportional(strength))
    H = np.array(TILTED.hessian.subs({x: a, y: b}), float)
    values, vectors = np.linalg.eigh(H)
    absolute = strength * vectors @ np.diag(np.abs(values)) @ vectors.T
    assert process.diffusion_values(np.array([[a, b]]))[0] == pytest.approx(absolute, abs=1e-10)
    assert np.array(process.diffusion.subs({x: a, y: b}).evalf(), float) == pytest.approx(absolute, abs=1e-10)


def test_random_shift_diffusion_is_the_published_matrix():
    process = Langevin(degenerate_valley(), random_shift(delta_s=sp.Rational(1, 1000)))
    curvature = 8 - 2 * x**2 + x**4
    slope, bend = sp.diff(curvature, x), sp.diff(curvature, x, 2)
    h_xx = sp.Rational(8, 1000) + bend * y**2 / 2
    published = sp.Matrix(
        [
            [h_xx**2 + slope**2 * y**2, slope * y * (curvature + h_xx)],
            [slope * y * (curvature + h_xx), curvature**2 + slope**2 * y**2],
        ]
    )
    assert (process.diffusion - published / 1000).applyfunc(sp.expand) == sp.zeros(2, 2)


def test_noise_level_is_learning_rate_times_shift_strength():
    process = Langevin(degenerate_valley(), random_shift(learning_rate=0.01, sigma=0.1))
    assert process.learning_rate == 0.01
    assert process.diffusion == Langevin(degenerate_valley(), random_shift(delta_s=1e-3)).diffusion
    assert Langevin(degenerate_valley(), random_shift(delta_s=1e-3)).learning_rate is None


def test_several_sharp_variables_share_the_mean_curvature_of_the_floor():
    valley = degenerate_valley(((8, -2, 1), (4, 1)), 0.01)
    assert [str(v) for v in valley.fast] == ["y1", "y2"]
    lift = valley.loss.coeff(x, 2).subs(dict.fromkeys(valley.fast, 0))
    assert lift == sp.Rational(1, 2) * sp.Rational(6, 100)


def test_critical_points_of_the_double_well_are_two_minima_and_a_saddle_of_index_one():
    points = [(p.kind, round(p.point["x"], 9)) for p in double_well().critical_points()]
    assert points == [("minimum", -1), ("minimum", 1), ("maximum", 0)]
    kinds = [p.kind for p in TILTED.critical_points()]
    assert sorted(kinds) == ["minimum", "minimum", "saddle"]
    assert TILTED.minimum()["x"] == pytest.approx(-1.0155048, abs=1e-6)


def test_processes_survive_pickling_so_that_workers_can_rebuild_them():
    process = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    assert pickle.loads(pickle.dumps(process)) == process


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Landscape(x**2, (x, y)), "does not depend on y"),
        (lambda: Landscape(x**2 + y**2, (x, x)), "distinct"),
        (lambda: Landscape(x**2, (x,), fast=(y,)), "not among the variables"),
        (lambda: degenerate_valley((1, -3, 1), 1e-3), "positive everywhere"),
        (lambda: degenerate_valley((8, -2, 1), -1e-3), "must not be negative"),
        (lambda: isotropic(-1.0), "must be positive"),
        (lambda: isotropic(float("nan")), "not finite"),
        (lambda: random_shift(), "needs delta_s"),
        (lambda: random_shift(sigma=0.1), "needs learning_rate"),
        (lambda: random_shift(delta_s=1e-3, sigma=0.1), "needs delta_s, or"),
        (lambda: hessian_proportional(learning_rate=0.1), "batch_size"),
        (lambda: anisotropic(D=[[1, 2], [2, 1]]), "positive semidefinite"),
        (lambda: anisotropic(D=[[1, 2], [0, 1]]), "symmetric"),
        (lambda: anisotropic(delta=0.1), "needs delta and kappa"),
        (lambda: Langevin(TILTED, anisotropic(delta=0.1, kappa=2)).diffusion, "slow and fast"),
        (lambda: Langevin(TILTED, anisotropic(D=[1, 2, 3])).diffusion, "2 variables"),
        (lambda: TILTED.with_parameters({"a": 1.0}), "unknown parameters"),
        (lambda: Diffusion(sp.Matrix([x, y]), sp.Matrix([[1, x], [0, 1]]), (x, y)), "symmetric"),
    ],
)
def test_bad_models_are_refused_with_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_text_is_not_taken_for_a_loss_or_a_number():
    with pytest.raises(TypeError, match="parse_expression"):
        Landscape("x**2", (x,))
    with pytest.raises(TypeError, match="number or a sympy expression"):
        isotropic("0.1")


def test_three_dimensional_hessian_noise_works_by_numbers_where_no_closed_form_exists():
    process = Langevin(Landscape(x**4 + y**2 + z**2 + x * y + y * z, (x, y, z)), hessian_proportional(0.1))
    points = np.random.default_rng(1).normal(size=(5, 3))
    G = process.root_values(points)
    assert G @ np.swapaxes(G, 1, 2) == pytest.approx(2 * process.diffusion_values(points), abs=1e-12)
    assert process.free_parameters == ()
    with pytest.raises(NotImplementedError, match="root_values"):
        _ = process.root


def test_two_symbols_of_one_name_and_names_in_place_of_symbols_are_told():
    plain = sp.Symbol("x")
    for make in (
        lambda v: Landscape(plain**2, (v,)),
        lambda v: Diffusion([-plain], [[1]], (v,)),
        lambda v: Diffusion([-v], [[1 + plain**2]], (v,)),
    ):
        with pytest.raises(ValueError, match="two symbols are called x, with other assumptions"):
            make(x)
    with pytest.raises(
        TypeError, match=r"variables hold 'x', which is no symbol; give sp.Symbol\('x', real=True\)"
    ):
        Landscape(x**2, ("x",))
