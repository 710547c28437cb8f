"""Automatic boxes hold what has weight, whatever the scale: against quadrature, or no box where there is no law."""

import warnings
from functools import partial

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import solve_continuous_lyapunov
from scipy.special import gamma

from fpsolve import mean_first_passage_time, simulate, stationary_density
from fpsolve.density.line import line_window
from fpsolve.density.window import natural_range, starting_window
from theory import Diffusion, Landscape, Langevin, double_well, isotropic
from theory.escape import exact_mean_time
from theory.levels import Unconfined, sublevel_box

R = sp.Rational
x, y, z = sp.symbols("x y z", real=True)
p = sp.Symbol("p", positive=True)
QUARTIC = 2 * gamma(0.75) / gamma(0.25)
BOTH = pytest.mark.parametrize("method", ["finite-volume", "spectral"])


def langevin(loss, D, variables=None):
    return Langevin(Landscape(loss, variables or tuple(v for v in (x, y) if loss.has(v))), isotropic(D))


def averaged(process, function, **options):
    density = stationary_density(process, **options)
    return float((density * density.cell_volume * function(density)).sum())


@pytest.mark.parametrize(
    ("loss", "D", "power", "right"),
    [
        (x**2 * (x - 20) ** 2 / 1600 - x / 100, R(1, 4), 1, 13.764146),
        (x**2 / 2 - 15 * sp.exp(-((x - 3) ** 2) / (2 * R(1, 100) ** 2)), 1, 1, 2.969167),
        ((x - 1) ** 4, 1, 2, 1 + gamma(0.75) / gamma(0.25)),
    ],
)
def test_wells_far_away_narrow_or_flat_have_their_weight(loss, D, power, right):
    assert averaged(langevin(loss, D), lambda d: d.x**power) == pytest.approx(right, rel=1e-4)


@BOTH
@pytest.mark.parametrize("D", [1e-9, 1, 1e6])
def test_a_flat_minimum_gets_its_width_from_the_growth_of_the_loss(method, D):
    square = averaged(langevin(x**4 / 4, D), lambda d: d.x**2, method=method)
    assert square / np.sqrt(D) == pytest.approx(QUARTIC, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "D", "right"),
    [
        (sp.Abs(x), 0.5, 0.5),
        (sp.Max(0, x) + sp.Max(0, -x) / 2, 1, None),
        (sp.Piecewise((x**2 / 2, sp.Abs(x) < 1), (sp.Abs(x) - R(1, 2), True)), 1, None),
    ],
)
def test_kinks_need_no_box(loss, D, right):
    weight = sp.lambdify(x, sp.exp(-loss / D), "numpy")
    norm, square = (
        quad(f, -90, 90, points=[-1, 0, 1], limit=400)[0] for f in (weight, lambda u: u**2 * weight(u))
    )
    assert averaged(langevin(loss, D), lambda d: d.x**2) == pytest.approx(square / norm, rel=1e-3)
    assert right is None or square / norm == pytest.approx(right, rel=1e-8)


@BOTH
@pytest.mark.parametrize("power", [6, 10, 16])
def test_the_flatter_a_minimum_the_steeper_its_walls(method, power):
    right = gamma(3 / power) / gamma(1 / power) / 2 ** (2 / power)
    square = averaged(langevin(2 * (x - 3) ** power, 1), lambda d: (d.x - 3) ** 2, method=method)
    assert square == pytest.approx(right, rel=1e-6)


def test_flat_minima_and_rings_in_two_variables():
    assert averaged(langevin(x**4 + y**4, 1), lambda d: d.x**2) == pytest.approx(QUARTIC / 2, rel=1e-4)
    ring = langevin((x**2 + y**2 - 1) ** 2, 0.05)
    weights = [quad(lambda r, n=n: r**n * np.exp(-((r * r - 1) ** 2) / 0.05), 0, 3)[0] for n in (1, 3)]
    assert averaged(ring, lambda d: d.x**2) == pytest.approx(weights[1] / weights[0] / 2, rel=1e-3)


@BOTH
@pytest.mark.parametrize(
    ("drift", "noise", "variable", "mean"),
    [
        (p - p**2, R(49, 200) * p**2, p, 0.755),
        (x - x**2, R(49, 200) * x**2, x, 0.755),
        (2 * (1 - x), x, x, 1.0),
        (2 * (1 - p), p, p, 1.0),
    ],
)
def test_positive_variables_end_at_zero(method, drift, noise, variable, mean):
    process = Diffusion([drift], [[noise]], (variable,))
    density = stationary_density(process, method=method)
    line = density[str(variable)]
    assert float(line.min()) > 0
    assert float((density * density.cell_volume * line).sum()) == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "shape"), [("finite-volume", R(1, 5)), ("finite-volume", R(1, 2)), ("spectral", R(1, 2))]
)
def test_the_law_of_a_walker_that_reaches_zero_has_its_stated_error(method, shape):
    density = stationary_density(Diffusion([2 * (shape - x)], [[2 * x]], (x,)), method=method)
    mean, square = (float((density * density.cell_volume * density.x**k).sum()) for k in (1, 2))
    stated = density.attrs["half_grid_estimate" if method == "finite-volume" else "convergence"]
    root = float(sp.sqrt(shape * (shape + 1)))
    assert abs(mean - float(shape)) < 1.5 * max(stated, 1e-8) * root
    assert abs(square / root**2 - 1) < 1.5 * max(stated, 1e-7)
    assert stated < 2e-3


@pytest.mark.parametrize("loss", [x**2 / 2 + sp.Heaviside(x), sp.sign(x - 1) + x**4])
def test_a_step_of_the_loss_is_refused_with_the_way_to_write_it(loss):
    process = langevin(loss, 0.5)
    for function in (
        stationary_density,
        partial(stationary_density, method="spectral"),
        partial(simulate, walkers=2, time=1, time_step=0.1, start={"x": 0}),
    ):
        with pytest.raises(ValueError, match=r"holds DiracDelta.*Piecewise"):
            function(process)


def test_natural_ends_in_two_variables():
    two = Diffusion([2 * (1 - x), x - y], [[x, 0], [0, R(1, 10)]], (x, y))
    assert natural_range(two) == {"x": (0.0, np.inf), "y": (-np.inf, np.inf)}
    assert starting_window(two, ()).box["x"][0] == 0.0


def test_the_wells_of_a_drift_without_landscape_are_found():
    drift = -sp.diff(2 * x**2 * (x - 2) ** 2 - x / 2, x)
    assert averaged(Diffusion([drift], [[0.03]], (x,)), lambda d: d.x > 1) == pytest.approx(1, abs=1e-9)
    for loss, D in (
        ((x - 50) ** 2 * (x + 30) ** 2 / 40000 - x / 50, 0.5),
        (x**2 * (x - 7) ** 2 / 50 + x / 200, 0.05),
    ):
        weight = sp.lambdify(x, sp.exp(-(loss - loss.subs(x, 0)) / D), "numpy")
        norm, mean = (
            quad(f, -60, 80, points=[-30, 0, 7, 50], limit=800)[0]
            for f in (weight, lambda u, w=weight: u * w(u))
        )
        process = Diffusion([-sp.diff(loss, x)], [[D]], (x,))
        assert averaged(process, lambda d: d.x) == pytest.approx(mean / norm, rel=1e-5)
    ring = Diffusion(
        [x - y - x * (x**2 + y**2), x + y - y * (x**2 + y**2)], [[R(1, 20), 0], [0, R(1, 20)]], (x, y)
    )
    weights = [quad(lambda r, n=n: r**n * np.exp(-20 * (r**4 / 4 - r**2 / 2)), 0, 3)[0] for n in (1, 3)]
    assert averaged(ring, lambda d: d.x**2) == pytest.approx(weights[1] / weights[0] / 2, rel=2e-3)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (x**3 / 3 - x, "no stationary law"),
        (sp.Max(0, x), "no stationary law"),
        (sp.cos(3 * x), "no stationary law"),
        (1 / x + x**2, "no stationary law"),
        (-(x**2), "no stationary law"),
        (sp.log(1 + x**2), "too wide"),
        (1 / x + x**2 + y**2, "falls below its minima"),
        (x**2 + y**2 - x**2 * y, "does not confine"),
        (1 / x + y**2, "no minimum"),
    ],
)
def test_no_box_is_made_up_where_no_law_exists(loss, reason):
    with pytest.raises(ValueError, match=reason):
        stationary_density(langevin(loss, 1))


def test_in_a_box_the_density_of_an_unconfined_walker_is_called_metastable():
    with pytest.warns(UserWarning, match="metastable"):
        density = stationary_density(langevin(x**3 / 3 - x, 0.05), box={"x": (-0.9, 3)})
    assert float((density * density.cell_volume * density.x).sum()) == pytest.approx(0.987, abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stationary_density(langevin(x**3 / 3 - x, 0.05), box={"x": (-0.9, 3)}, walls="reflecting")
        stationary_density(langevin(x**4 / 4 - x**2 / 2, 0.05), box={"x": (-2, 2)})
    with pytest.raises(ValueError, match="falls to -infinity"):
        stationary_density(langevin(1 / x + y**2, 1), box={"x": (-1, 1), "y": (-2, 2)})


@pytest.mark.parametrize("power", [-8, -3, 3, 8])
def test_a_box_scales_with_the_unit_of_length(power):
    s = sp.Integer(10) ** power
    # Ends are places of a graded sample, whose steps are 9 %.
    one = line_window(langevin(x**4 / 4 - x**2 / 2 + x / 9, 0.1), with_barriers=False)
    other = line_window(langevin((x / s) ** 4 / 4 - (x / s) ** 2 / 2 + x / s / 9, 0.1), with_barriers=False)
    assert np.array(other) / float(s) == pytest.approx(np.array(one), rel=0.1)


def test_times_know_high_wells_and_their_far_sides():
    process = langevin(x**4 / 4 - x**2 / 2 + x / 5, 0.015)
    start = 0.87938524
    times = mean_first_passage_time(process, target=x < 0)
    assert float(times.interp(x=start)) == pytest.approx(exact_mean_time(process, start, 0), rel=2e-3)
    flat = mean_first_passage_time(langevin(x**4 / 4, 1), target=x > 1)
    assert float(flat.interp(x=0)) == pytest.approx(1.88634, rel=1e-4)
    window = starting_window(Langevin(double_well(), isotropic(1e-4)), (), with_barriers=True)
    assert window.box["x"][0] < -1.05
    assert window.box["x"][1] > 1.05


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_boxes_of_random_linear_processes_hold_six_standard_deviations(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 4))
    A = rng.normal(size=(n, n))
    A += (0.3 - np.linalg.eigvals(A).real.min()) * np.eye(n)
    B = rng.normal(size=(n, n))
    D = B @ B.T + 0.2 * np.eye(n)
    A, D = (np.round(m, 3) for m in (A, (D + D.T) / 2))
    variables = (x, y, z)[:n]
    process = Diffusion(-sp.Matrix(A) * sp.Matrix(variables), sp.Matrix(D), variables)
    widths = np.sqrt(np.diag(solve_continuous_lyapunov(A, 2 * D)))
    box = np.array(list(starting_window(process, ()).box.values()))
    assert (box[:, 1] / widths == pytest.approx(-box[:, 0] / widths)) and (box[:, 1] >= 6 * widths).all()


@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-3, 6), st.integers(1, 40)), min_size=1, max_size=4)
)
@settings(max_examples=8, deadline=None)
def test_random_sums_of_gaussians_in_a_wide_trap_against_quadrature(bumps):
    loss = x**2 / 60 - sum(R(a) * sp.exp(-R(w) * (x - c) ** 2) for c, a, w in bumps)
    D = 1
    weight = sp.lambdify(x, sp.exp(-loss / D), "numpy")
    places = sorted({c + s / w**0.5 for c, _, w in bumps for s in (-2, 0, 2)})
    options = {"points": places, "limit": 600}
    norm, mean = (quad(f, -70, 70, **options)[0] for f in (weight, lambda u: u * weight(u)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = averaged(langevin(loss, D, (x,)), lambda d: d.x)
    assert found == pytest.approx(mean / norm, abs=0.02)


def test_level_sets_are_held_and_hardly_wider():
    low, high = sublevel_box(x**2 + 4 * (y - x**2) ** 2, (x, y), 1.0, np.zeros((1, 2)))
    assert (low[0], high[0]) == pytest.approx((-1, 1), rel=0.06)
    assert low[0] <= -1
    assert high[0] >= 1
    with pytest.raises(Unconfined, match=r"x -> |y -> "):
        sublevel_box((x * y) ** 2, (x, y), 1.0, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("loss", "D", "ends"),
    [
        (-sp.log(sp.exp(-((x - 2) ** 2) / 2) + sp.exp(-((x + 2) ** 2) / 2)), 1.0, (-12, 12)),
        (-sp.log(sp.exp(-((x - 3) ** 2) / 2) / 3 + sp.exp(-((x + 3) ** 2) / 8)), 0.3, (-20, 15)),
        (sp.exp(-x) + x, 1.0, (-6, 45)),
        (sp.log(1 + sp.exp(x)) - x / 2, 0.5, (-45, 45)),
        (2 * sp.log(1 + sp.exp(-3 * x)) + x, 0.5, (-10, 25)),
        (sp.log(sp.cosh(x)), 0.5, (-25, 25)),
    ],
)
def test_losses_whose_exponentials_overflow_far_out_against_quadrature(loss, D, ends):
    line = np.linspace(*ends, 400_001)
    weight = np.exp(-sp.lambdify(x, loss)(line) / D)
    process = langevin(loss, D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density = stationary_density(process)
        reach = stationary_density(process, box={"x": ends})
        times = mean_first_passage_time(process, target=x > 2)
    for law, error in ((density, 1e-4), (reach, 1e-3)):
        mean, square = (float((law * law.cell_volume * law.x**k).sum()) for k in (1, 2))
        assert mean == pytest.approx((weight * line).sum() / weight.sum(), abs=error)
        assert square == pytest.approx((weight * line**2).sum() / weight.sum(), rel=error)
    inner = line <= 2
    below = np.cumsum(weight[inner]) / weight[inner]
    exact = np.cumsum(below[::-1])[::-1] * (line[1] - line[0]) ** 2 / D
    assert float(times.interp(x=-0.5)) == pytest.approx(np.interp(-0.5, line[inner], exact), rel=2e-3)


@pytest.mark.parametrize(("mean", "spread"), [(0.7, 0.3), (-1.0, 0.1), (0.0, 0.5)])
def test_a_lognormal_law_needs_no_box(mean, spread):
    b = x * (spread + mean - sp.log(x))
    law = stationary_density(Diffusion(sp.Matrix([b]), sp.Matrix([[spread * x**2]]), (x,)))
    for power in (1, 2):
        moment = float((law * law.cell_volume * law.x**power).sum())
        assert moment == pytest.approx(np.exp(power * mean + power**2 * spread / 2), rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "D", "moments"),
    [
        ((1 - x) ** 2 + 20 * (y - x**2) ** 2, 1.0, (1, 1.5, 1.5, 4.775)),
        ((1 - x) ** 2 / 2 + 5 * (y - x**2 / 2) ** 2, 0.5, (1, 1.5, 0.75, 1.2375)),
    ],
)
def test_the_box_of_a_curved_valley_is_that_of_its_level_set(loss, D, moments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        window = starting_window(langevin(loss, D, (x, y)), ())
    assert np.abs(list(window.box.values())).max() < 60
    law = stationary_density(langevin(loss, D, (x, y)), shape=(240, 300))
    weight = law * law.cell_volume
    found = [float((weight * law[v] ** k).sum()) for v in "xy" for k in (1, 2)]
    assert found == pytest.approx(moments, rel=5e-3)


@pytest.mark.parametrize("ripple", [R(3, 10) * sp.cos(80 * x), R(1, 5) * sp.sin(60 * x)])
def test_hundreds_of_wells_in_a_trap_keep_the_mean_square(ripple):
    line = np.linspace(-9, 9, 400_001)
    weight = np.exp(-sp.lambdify(x, x**2 / 2 + ripple)(line) / 0.5)
    right = (weight * line**2).sum() / weight.sum()
    assert averaged(langevin(x**2 / 2 + ripple, 0.5), lambda d: d.x**2) == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("loss", [3 * sp.sqrt(sp.Abs(x)), sp.Abs(x) + sp.Abs(y) + (x - y) ** 2 / 2])
def test_no_warning_of_numpy_comes_through_at_cusps(loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        starting_window(langevin(loss, 1.0), ())
