"""Escape theory: exact quadratures, asymptotic formulas and where they hold, several valleys, vanishing noise."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Diffusion,
    Landscape,
    Langevin,
    degenerate_valley,
    escape,
    hessian_proportional,
    isotropic,
    random_shift,
)

x, y = sp.symbols("x y", real=True)
WELL = x**4 / 4 - x**2 / 2

#: ΔL/D: mean times from −1 to the saddle and to the other well, by independent quadrature, printed to 1e-8.
EXACT = {
    3: (50.79340023, 106.56035125),
    5: (361.90375950, 729.67069194),
    8: (6996.76353834, 14000.13924474),
}


def _well(ratio, loss=WELL):
    return Langevin(Landscape(loss, (x,)), isotropic(sp.Rational(1, 4) / sp.nsimplify(ratio)))


@pytest.mark.parametrize("ratio", EXACT)
def test_exact_times_meet_the_printed_digits_from_either_side(ratio):
    saddle, other = EXACT[ratio]
    assert escape.exact_mean_time(_well(ratio), start=-1, target=0) == pytest.approx(saddle, rel=1e-9)
    assert escape.exact_mean_time(_well(ratio), start=-1, target=1) == pytest.approx(other, rel=1e-9)
    assert escape.exact_mean_time(_well(ratio), start=1, target=0) == pytest.approx(saddle, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.1, 1])
def test_exact_times_meet_arbitrary_precision_at_low_barriers(ratio):
    mpmath.mp.dps = 16
    D = mpmath.mpf("0.25") / mpmath.mpf(str(ratio))
    psi = lambda u: (u**4 / 4 - u**2 / 2) / D  # noqa: E731
    inner = lambda u: mpmath.quad(lambda z: mpmath.exp(-psi(z)), [-8, -3, -1.5, -1, u])  # noqa: E731
    exact = mpmath.quad(lambda u: mpmath.exp(psi(u)) * inner(u), [-1, -0.6, -0.2, 0]) / D
    assert escape.exact_mean_time(_well(ratio), start=-1, target=0) == pytest.approx(float(exact), rel=1e-9)


def test_a_barrier_of_five_hundred_does_not_overflow_and_meets_kramers():
    log = escape.exact_log_mean_time(_well(500), start=-1, target=1)
    kramers = 500 + math.log(2 * math.pi / math.sqrt(2))
    # The next term of the asymptotic series is (3/8) D/ΔL for this well.
    assert log == pytest.approx(kramers + 3 / (8 * 500), abs=1e-5)
    with pytest.raises(OverflowError):
        escape.exact_mean_time(_well(800), start=-1, target=1)
    assert escape.exact_log_mean_time(_well(800), start=-1, target=1) > 800


def test_position_dependent_noise_meets_arbitrary_precision():
    D = sp.Rational(1, 10) * (1 + x**2 / 2)
    process = Diffusion(sp.Matrix([x - x**3]), sp.Matrix([[D]]), (x,))
    mpmath.mp.dps = 16
    psi = lambda u: 10 * (u**2 - 3 * mpmath.log(1 + u**2 / 2))  # noqa: E731
    inner = lambda u: mpmath.quad(lambda z: mpmath.exp(-psi(z)) * 10 / (1 + z**2 / 2), [-6, -2, -1, u])  # noqa: E731
    exact = mpmath.quad(lambda u: mpmath.exp(psi(u)) * inner(u), [-1, -0.5, 0, 0.5])
    assert escape.exact_mean_time(process, start=-1, target=0.5) == pytest.approx(float(exact), rel=1e-9)


def test_free_diffusion_has_its_closed_forms():
    free = Diffusion(sp.Matrix([0]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
    assert escape.exact_exit_time(free, 0.3, ends=(-1, 1)) == pytest.approx(1 - 0.09, rel=1e-12)
    assert escape.exact_splitting_probability(free, 0.3, target=1, other=-1) == pytest.approx(0.65, rel=1e-12)
    assert escape.exact_mean_time(free, 0, 1, other_end=-1) == pytest.approx(3.0, rel=1e-12)
    with pytest.raises(ValueError, match="does not confine"):
        escape.exact_mean_time(free, 0, 1)


def test_ornstein_uhlenbeck_time_is_the_series_in_the_error_function():
    bowl = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))
    exact = mpmath.quad(
        lambda u: mpmath.sqrt(mpmath.pi / 2) * mpmath.exp(u**2 / 2) * (1 + mpmath.erf(u / mpmath.sqrt(2))),
        [0, 2],
    )
    assert escape.exact_mean_time(bowl, start=0, target=2) == pytest.approx(float(exact), rel=1e-10)


def test_the_second_moment_is_that_of_an_exponential_law_at_high_barriers():
    mean = escape.exact_mean_time(_well(20), start=-1, target=1)
    assert escape.exact_second_moment(_well(20), start=-1, target=1) == pytest.approx(2 * mean**2, rel=1e-6)
    # From the far wall of an interval without drift: ⟨T⟩ = 1, ⟨T²⟩ = 5/3 for D = 1/2.
    free = Diffusion(sp.Matrix([0]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
    second = escape.exact_second_moment(free, 1e-9, 1, other_end=0)
    assert second == pytest.approx(5 / 3, rel=1e-7)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.05, 20.0), ratio=st.floats(1.0, 20.0))
def test_scaling_loss_and_noise_together_only_rescales_time(scale, ratio):
    D = 0.25 / ratio
    plain = Langevin(Landscape(WELL, (x,)), isotropic(D))
    scaled = Langevin(Landscape(scale * WELL, (x,)), isotropic(scale * D))
    time = escape.exact_mean_time(plain, -1, 0.5)
    assert escape.exact_mean_time(scaled, -1, 0.5) == pytest.approx(time / scale, rel=1e-8)


def test_kramers_approaches_the_exact_time_linearly_in_the_noise():
    errors = []
    for ratio in (16, 32, 64):
        kramers = escape.kramers_time(_well(ratio), minimum=-1, saddle=0)
        errors.append(escape.exact_mean_time(_well(ratio), -1, 1) / kramers - 1)
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.06)
    saddle = escape.kramers_time(_well(32), minimum=-1, saddle=0, to="saddle")
    assert escape.exact_mean_time(_well(32), -1, 0) == pytest.approx(saddle, rel=0.02)


def test_a_quartic_minimum_and_a_quartic_saddle_have_their_own_prefactors():
    flat = x**4 - sp.Rational(4, 5) * x**5  # minimum at 0 with L'' = 0; saddle at 1 with L'' = −4
    quartic = Langevin(Landscape(flat, (x,)), isotropic(sp.Rational(1, 150)))
    kramers = escape.kramers_time(quartic, minimum=0, saddle=1, to="saddle")
    assert escape.exact_mean_time(quartic, 0, 1) == pytest.approx(kramers, rel=0.15)
    # A saddle with L'' = 0: −x⁴ between two minima.
    top = Langevin(Landscape(x**6 / 3 - x**4 / 2, (x,)), isotropic(sp.Rational(1, 240)))
    kramers = escape.kramers_time(top, minimum=-1, saddle=0)
    assert escape.exact_mean_time(top, -1, 1) == pytest.approx(kramers, rel=0.12)


def test_in_many_dimensions_spectator_directions_cancel_or_count():
    well = _well(8)
    free = Langevin(Landscape(WELL + 3 * y**2, (x, y)), well.noise)
    one = escape.kramers_time(well, minimum=-1, saddle=0)
    assert escape.kramers_time(free, minimum=(-1, 0), saddle=(0, 0)) == pytest.approx(one)
    # A tube that narrows at the saddle slows the escape by the square root of its curvature.
    narrow = Langevin(Landscape(WELL + (1 + 3 * (1 - x**2) ** 2) * y**2, (x, y)), well.noise)
    slow = escape.kramers_time(narrow, minimum={"x": -1, "y": 0}, saddle={"x": 0, "y": 0})
    assert slow / one == pytest.approx(2.0)


def test_two_temperatures_that_agree_are_kramers_and_noise_from_curvature_is_theorem_3_2():
    landscape = Landscape(WELL, (x,))
    same = escape.two_temperature_time(landscape, minimum=-1, saddle=0, T_a=0.05, T_b=0.05, s=0.3)
    assert same == pytest.approx(escape.kramers_time(_well(5), minimum=-1, saddle=0))
    eta, B, s = 0.1, 10, 0.4
    ends = {"T_a": eta / (2 * B) * 2, "T_b": eta / (2 * B) * 1}  # (η/2B)|H| at −1 and at 0
    sgd = escape.sgd_escape_time(landscape, minimum=-1, saddle=0, learning_rate=eta, batch_size=B, s=s)
    assert sgd == pytest.approx(escape.two_temperature_time(landscape, minimum=-1, saddle=0, s=s, **ends))
    assert math.log(sgd) == pytest.approx(math.log(2 * math.pi) + 2 * B * 0.25 / eta * (s / 2 + (1 - s)))


def test_rates_of_saddles_add_and_occupations_balance_the_flux():
    assert escape.total_rate([2.0, 4.0]) == 0.75
    two = escape.rate_matrix({(0, 1): 3.0, (1, 0): 5.0}, valleys=2)
    assert escape.occupation(two) == pytest.approx([3 / 8, 5 / 8])
    times = {(0, 1): 1e3, (1, 0): 1e9, (1, 2): 2.0, (2, 1): 7.0}
    K = escape.rate_matrix(times, valleys=3)
    p = escape.occupation(K)
    assert K @ p == pytest.approx(0, abs=1e-15)
    # The two-valley form does not hold for more: shares of the total time differ from occupations.
    assert p[0] == pytest.approx(1e3 / 1e9 * p[1], rel=1e-9)


def test_exact_occupation_of_an_asymmetric_well_is_boltzmann_within_the_asymptotic_error():
    tilted = Landscape(WELL + x / 20, (x,))
    process = Langevin(tilted, isotropic(sp.Rational(1, 50)))
    left, right, top = (c.point["x"] for c in tilted.critical_points())
    K = escape.rate_matrix(
        {
            (0, 1): escape.kramers_time(process, minimum=left, saddle=top),
            (1, 0): escape.kramers_time(process, minimum=right, saddle=top),
        },
        valleys=2,
    )
    line = np.linspace(-3, 3, 60001)
    weight = np.exp(-(line**4 / 4 - line**2 / 2 + line / 20) * 50)
    assert escape.occupation(K)[0] == pytest.approx(weight[line < top].sum() / weight.sum(), abs=0.01)


def test_noise_that_vanishes_at_the_inflection_point_is_found_and_never_passed():
    process = Langevin(Landscape(WELL, (x,)), hessian_proportional(0.01))
    ((place, dimension),) = escape.inflection_dimension(process, start=-1, target=0)
    assert place == pytest.approx(-1 / math.sqrt(3), abs=1e-6)
    # δ = 2|L'|/(strength |L'''|) = 2 (2/(3√3)) / (0.01 · 6/√3) at the inflection point.
    assert dimension == pytest.approx(2 * 2 / (3 * math.sqrt(3)) / (0.01 * 6 / math.sqrt(3)), rel=1e-3)
    assert dimension > 2
    with pytest.raises(ValueError, match="non-positive D"):
        escape.exact_mean_time(process, -1, 0)
    ((_, touching),) = escape.inflection_dimension(
        Langevin(Landscape(WELL, (x,)), random_shift(delta_s=0.01)), start=-1, target=0
    )
    assert touching == math.inf


def test_low_barriers_warn_and_give_their_value():
    with pytest.warns(UserWarning, match="ΔL/D = 1"):
        assert escape.kramers_time(_well(1), minimum=-1, saddle=0) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: escape.kramers_time(_well(5), minimum=-1, saddle=0.5), "no critical point"),
        (lambda: escape.kramers_time(_well(5), minimum=-1, saddle=1), "not a saddle"),
        (lambda: escape.kramers_time(_well(5), minimum=0, saddle=0), "not a minimum"),
        (lambda: escape.kramers_time(_well(5), minimum=-1, saddle=0, to="moon"), "to='moon'"),
        (lambda: escape.kramers_time(_well(5), minimum=(-1, 0), saddle=0), "1 finite coordinates"),
        (lambda: escape.kramers_time(Langevin(Landscape(WELL, (x,)), random_shift(delta_s=1)), minimum=-1, saddle=0), "isotropic"),
        (lambda: escape.exact_mean_time(_well(5), 0, 0), "must be finite and differ"),
        (lambda: escape.exact_mean_time(_well(5), -1, 0, other_end=-0.5), "far side"),
        (lambda: escape.exact_mean_time(Langevin(degenerate_valley(), isotropic(1)), 0, 1), "one-dimensional"),
        (lambda: escape.exact_splitting_probability(_well(5), 2, target=1, other=-1), "between the ends"),
        (lambda: escape.total_rate([0.0]), "positive"),
        (lambda: escape.rate_matrix({(0, 0): 1.0}, valleys=2), "two of 2"),
        (lambda: escape.occupation(np.zeros((2, 2))), "exchange"),
        (lambda: escape.two_temperature_time(Landscape(WELL, (x,)), minimum=-1, saddle=0, T_a=1, T_b=1, s=1), "inside"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@settings(max_examples=10, deadline=None)
@given(a=st.floats(0.5, 2.0), tilt=st.floats(-0.1, 0.1), D=st.floats(0.03, 0.5))
def test_random_quartic_wells_agree_with_an_independent_package(a, tilt, D):
    kramers = pytest.importorskip("kramers", reason="needs the extra [dev]")
    process = Langevin(Landscape(a * x**4 / 4 - x**2 / 2 + tilt * x, (x,)), isotropic(D))
    other = kramers.FirstPassage1D(
        lambda u: (a * u**4 / 4 - u**2 / 2 + tilt * u) / D,
        D=D, domain=(-math.inf, 0.2), left="natural", right="absorbing",
    )  # fmt: skip
    time = float(np.asarray(other.mean_time(-1.0).value).item())
    assert escape.exact_mean_time(process, -1.0, 0.2) == pytest.approx(time, rel=1e-9)
