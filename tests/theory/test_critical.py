"""Every critical point, whatever the units: against numpy roots, fine scans and known minima of every form."""

import itertools
import warnings

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Landscape
from theory.evaluate import lambdified
from theory.intervals import enclosed

R = sp.Rational
x, y, z = sp.symbols("x y z", real=True)


def points(loss, kind=None):
    variables = tuple(v for v in (x, y, z) if loss.has(v))
    found = Landscape(loss, variables).critical_points()
    return [(*p.point.values(),) for p in found if kind in (None, p.kind)]


@pytest.mark.parametrize("power", [*range(-8, 9, 2), 20])
def test_critical_points_do_not_depend_on_the_unit_of_length(power):
    s = sp.Integer(10) ** power
    u = x / s
    found = np.array(points(u**4 / 4 - u**2 / 2 + u / 10))[:, 0] / float(s)
    low, top, high = np.sort(np.roots([1, 0, -1, 0.1]))
    assert found == pytest.approx([low, high, top], rel=1e-8)
    u, v = x / s, y * s
    found = np.array(points(u**4 / 4 - u**2 / 2 + v**2 + u * v / 4)) / [float(s), 1 / float(s)]
    expected = [(-1.0155048, 0.1269381), (1.0155048, -0.1269381), (0, 0)]
    assert found == pytest.approx(np.array(expected), abs=1e-7)


@pytest.mark.parametrize(
    ("loss", "minima"),
    [
        (x**2 * (x - 20) ** 2 / 1600 - x / 100, [20.019941, 0.020060]),
        (x**2 / 2 - 15 * sp.exp(-((x - 3) ** 2) / (2 * R(1, 100) ** 2)), [2.999980, 0.0]),
        (x**2 / 200 - 2 * sp.exp(-((x - 10) ** 2) / 2), [9.950187, 0.0]),
        (x**2 / 2 - 900 * sp.exp(-((x - 31) ** 2) * 10**10), [31, 0.0]),
        (2 * x**2 * (x - 2) ** 2 - x / 2, [2.029837, 0.032851]),
    ],
)
def test_far_and_narrow_wells_are_found(loss, minima):
    assert np.array(points(loss, "minimum"))[:, 0] == pytest.approx(minima, abs=1e-4)


@pytest.mark.parametrize(
    ("loss", "kind", "where"),
    [
        (x**4 / 4, "minimum", (0,)),
        (x**6, "minimum", (0,)),
        (-(x**4), "maximum", (0,)),
        (x**3, "saddle", (0,)),
        ((x - 1) ** 4, "minimum", (1,)),
        (sp.expand((x - 1) ** 4), "minimum", (1,)),
        (((x - R(1, 10**6)) * 10**6) ** 6, "minimum", (1e-6,)),
        (x**4 + y**4, "minimum", (0, 0)),
        (x**4 + y**2, "minimum", (0, 0)),
        ((x - 3) ** 4 + y**2, "minimum", (3, 0)),
        (x**4 - y**4, "saddle", (0, 0)),
        ((y - x**2) ** 2 + x**4 / 10, "minimum", (0, 0)),
        (sp.Abs(x), "minimum", (0,)),
        (sp.Abs(x - 2), "minimum", (2,)),
        (sp.Abs(x) + y**2, "minimum", (0, 0)),
        (x**2 + sp.Abs(x - y), "minimum", (0, 0)),
        (sp.Max(0, x) + sp.Abs(x - 3) / 4 + sp.Max(0, -x - 1), "minimum", (0,)),
        (sp.Piecewise((x**2, x < 0), (3 * x, True)), "minimum", (0,)),
    ],
)
def test_degenerate_points_and_kinks_are_found_and_their_kind_is_seen(loss, kind, where):
    variables = tuple(v for v in (x, y) if loss.has(v))
    (point,) = Landscape(loss, variables).critical_points()
    assert (point.kind, point.degenerate) == (kind, True)
    assert tuple(point.point.values()) == pytest.approx(where, rel=2e-5, abs=1e-12)


def test_a_huber_loss_is_an_ordinary_minimum():
    huber = sp.Piecewise((x**2 / 2, sp.Abs(x) < 1), (sp.Abs(x) - R(1, 2), True))
    (point,) = Landscape(huber, (x,)).critical_points()
    assert (point.kind, point.degenerate, point.eigenvalues) == ("minimum", False, (1.0,))


@pytest.mark.parametrize("loss", [(x**2 + y**2 - 1) ** 2, (x**2 + y**2 + z**2 - 1) ** 2])
def test_of_a_ring_of_minima_one_is_given_and_the_top_inside(loss):
    variables = tuple(v for v in (x, y, z) if loss.has(v))
    ring, top = Landscape(loss, variables).critical_points()
    assert (ring.kind, ring.degenerate, top.kind, top.degenerate) == ("minimum", True, "maximum", False)
    assert sum(v**2 for v in ring.point.values()) == pytest.approx(1, abs=1e-6)


def test_poles_are_no_critical_points():
    assert points(1 / x + y**2) == []
    assert points(x - 2 * sp.log(x)) == [(pytest.approx(2),)]


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=7), st.integers(-12, 12))
@settings(max_examples=15, deadline=None)
def test_random_polynomials_against_numpy_roots(coefficients, power):
    slope = sp.Poly([1, *coefficients], x)
    if not slope.is_sqf or slope.degree() < 1:
        return
    roots = np.roots([1.0, *map(float, coefficients)])
    real = np.sort(roots[np.abs(roots.imag) < 1e-7].real)
    u = x / sp.Integer(10) ** power
    loss = sp.integrate(slope.as_expr(), x).subs(x, u)
    found = np.sort(np.array(points(loss)).ravel()) / 10.0**power
    assert found == pytest.approx(real, rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-4, 9), st.integers(1, 50)), min_size=1, max_size=5)
)
@settings(max_examples=8, deadline=None)
def test_random_sums_of_gaussians_against_a_fine_scan(bumps):
    loss = x**2 / 40 - sum(R(a) * sp.exp(-R(w) * (x - c) ** 2) for c, a, w in bumps)
    if not loss.diff(x).free_symbols:
        return
    line = np.linspace(-60.00123, 60.0, 2_000_001)
    slope = np.sign(lambdified(loss.diff(x), (x,))(line))
    assert len(points(loss)) == np.count_nonzero(slope[1:] != slope[:-1])


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_indices_of_confining_losses_add_up(seed):
    rng = np.random.default_rng(seed)
    a, b, c, d, e = (R(int(n), 7) for n in rng.integers(-20, 20, 5))
    loss = x**4 + y**4 + a * x**2 + b * y**2 + c * x * y + d * x + e * y + a * x**2 * y / 3
    found = Landscape(loss, (x, y)).critical_points()
    if any(p.degenerate for p in found):
        return
    # Poincare and Hopf: the signs of the Hessian's determinant add up to one where the loss grows outwards.
    assert sum((-1) ** p.index for p in found) == 1


def test_enclosures_hold_every_value():
    formulas = [
        x**3 - x * y + 1 / (x - y),
        sp.exp(-((x - 3) ** 2)) * sp.sin(5 * x * y),
        sp.log(x) + sp.sqrt(y),
        sp.tanh(x * y) - sp.cosh(y) + x**-2,
        sp.Piecewise((x**2, x < y), (sp.cos(x), x < 1), (sp.Abs(y), True)),
        sp.Max(x, y, 0) * sp.atan(x),
        sp.erf(x) * sp.tan(y),
        sp.Heaviside(x - y) * x ** R(3, 2),
        sp.acos(x / (1 + x**2)) + x**y,
    ]
    rng = np.random.default_rng(0)
    values = lambdified(formulas, (x, y))
    for _ in range(60):
        centre = rng.normal(size=(50, 2)) * 10 ** rng.uniform(-3, 3, size=(50, 1))
        width = np.abs(rng.normal(size=(50, 2))) * 10 ** rng.uniform(-6, 2, size=(50, 1))
        low, high = enclosed(formulas, (x, y), centre - width, centre + width)
        inside = centre + width * rng.uniform(-1, 1, size=(50, 2))
        value = values(*inside.T).T
        assert (np.isnan(value) | ((low <= value) & (value <= high))).all()


def test_more_variables_are_searched_on_the_scale_on_which_the_loss_bends():
    variables = sp.symbols("a:d", real=True)
    for s in (R(1, 1000), 1, 10**6):
        loss = sum((v / s) ** 4 / 4 - (v / s) ** 2 / 2 for v in variables)
        found = [p for p in Landscape(loss, variables).critical_points() if p.kind == "minimum"]
        assert len(found) == 16
        assert np.abs([*found[0].point.values()]) / float(s) == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_places_with_many_digits_are_not_lost_to_rounding(k):
    t, c = sp.Rational(397 * k, 1000), sp.Rational(163, 500)
    (point,) = Landscape(
        y**2 * (c * x**2 + 1) / 2 + sp.Rational(123, 400) * (x - t) ** 2, (x, y)
    ).critical_points()
    assert point.point == pytest.approx({"x": float(t), "y": 0.0}, abs=1e-12)
    steep = [sp.expand(sp.prod([100 * v - sp.Rational(r, 1000) for r in roots])) for v, roots in ((x, (-1550, -48 * k, 1930)), (y, (-1740, -557, 1550 + k, 2410, 2920)))]  # fmt: skip
    loss = sum(sp.integrate(slope, v) for slope, v in zip(steep, (x, y), strict=True))
    assert len(Landscape(sp.expand(loss), (x, y)).critical_points()) == 15


def test_a_search_whose_later_starts_still_find_points_says_so():
    variables = sp.symbols("a b c d e", real=True)
    landscape = Landscape(sum((v**2 - 1) ** 2 for v in variables), variables)
    with pytest.warns(UserWarning, match="later half of 100 starts still came to new ones"):
        assert len(landscape.critical_points(starts=100)) < 243
    valley = Landscape(sum(v**2 for v in variables), variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(valley.critical_points()) == 1


def test_a_coordinate_that_shrinks_to_zero_does_not_lose_a_saddle():
    variables = sp.symbols("a b c d", real=True)
    landscape = Landscape(sum((v**2 - 1) ** 2 for v in variables), variables)
    found = {tuple(round(v) for v in p.point.values()) for p in landscape.critical_points(starts=4000)}
    assert found == set(itertools.product((-1, 0, 1), repeat=4))


@pytest.mark.parametrize(("box", "words"), [(None, "give a box="), ({"x": (-1, 1)}, "give a smaller box=")])
def test_a_search_in_a_box_that_does_not_end_asks_for_a_smaller_one(box, words, monkeypatch):
    monkeypatch.setattr("theory.landscape.critical_points", lambda *_: ([], False, True))
    with pytest.warns(UserWarning, match=words):
        Landscape(x**2, (x,)).critical_points(box)
