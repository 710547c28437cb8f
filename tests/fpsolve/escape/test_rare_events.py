"""Multilevel splitting: exact times at low and high barriers, honest intervals, two dimensions, refusals."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import sympy as sp
from scipy import stats

from fpsolve import committor, compare, mean_first_passage_time, simulate_escape, split_escape
from fpsolve.escape.saddles import local_jacobian, relaxation_rates_below
from theory import Diffusion, Landscape, Langevin, escape, isotropic, random_shift

x, y = sp.symbols("x y", real=True)
WELL = x**4 / 4 - x**2 / 2


def _well(ratio):
    return Langevin(Landscape(WELL, (x,)), isotropic(sp.Rational(1, 4 * ratio)))


def _deviation(result, exact_log):
    """Error of ln T in standard errors, the O(dt) bias (measured: below 0.5 %) left out."""
    error = float(result.log_mean_time) - exact_log
    return max(0.0, abs(error) - 0.005) / float(result.log_mean_time_stderr)


def _error_beside(runs, result):
    """Standard error of the difference of ln T from direct simulation, which must lie within four of them."""
    error = math.hypot(float(result.log_mean_time_stderr), 1 / math.sqrt(runs.sizes["walker"]))
    assert abs(float(result.log_mean_time) - math.log(float(runs.escape_time.mean()))) < 4 * error
    return error


def _exact(ratio, start=-1.0, target=0.0):
    return escape.exact_log_mean_time(_well(ratio), start, target=target)


@pytest.mark.parametrize("ratio", [1, 3, 8, 20, 30])
def test_times_meet_the_exact_ones_from_no_barrier_to_one_that_nothing_crosses(ratio):
    result = split_escape(_well(ratio), start={"x": -1}, target=x > 0, rng=0, walkers=20_000)
    error = float(result.log_mean_time_stderr)
    assert _deviation(result, _exact(ratio)) < 4 and error < 0.1
    # Without the return to the source at the target, time beyond it would count too: a factor of 1.9
    assert abs(float(result.log_mean_time) - _exact(ratio) - math.log(1.9)) > 4 * error


def test_a_barrier_of_twenty_takes_a_ten_thousandth_of_the_steps_and_errs_by_less_than_ten_percent():
    result = split_escape(_well(20), start={"x": -1}, target=x > 0, rng=1)
    assert float(result.mean_time) == pytest.approx(math.exp(_exact(20)), rel=0.1)
    assert float(result.walker_steps) < 1e-4 * float(result.brute_force_steps)
    # As many steps as one escape takes on average, with room to spare
    assert float(result.walker_steps) < 2e-3 * float(result.mean_time) / result.attrs["time_step"]


@pytest.mark.parametrize(
    ("ratio", "start", "target"), [(1, -0.1, 0.0), (3, -0.1, 0.0), (3, -1.6, 0.0), (2, -1.0, 1.0)]
)
def test_times_are_right_from_the_slope_before_the_saddle_and_from_beyond_the_minimum(ratio, start, target):
    result = split_escape(_well(ratio), start={"x": start}, target=x > target, rng=2, walkers=10_000)
    assert _deviation(result, _exact(ratio, start, target)) < 4


@pytest.mark.slow
def test_intervals_hold_as_often_as_they_say_even_with_thirty_walkers_a_group():
    repeats, exact = 120, _exact(5)
    z = []
    for seed in range(repeats):
        options = {"walkers": 600, "time_step": 0.02, "extrapolate": False}
        result = split_escape(_well(5), start={"x": -1}, target=x > 0, rng=seed, **options)
        z.append((float(result.log_mean_time) - exact) / float(result.log_mean_time_stderr))
        inside = float(result.mean_time_low) <= math.exp(exact) <= float(result.mean_time_high)
        assert inside == (abs(z[-1]) <= stats.t.isf(0.025, 19))
        assert float(result.low) * float(result.mean_time_high) == pytest.approx(1.0)
    for confidence in (0.5, 0.95):
        held = int((np.abs(z) <= stats.t.isf((1 - confidence) / 2, 19)).sum())
        assert stats.binomtest(held, repeats, confidence).pvalue > 1e-3
        # an error half as large, as from shares taken for independent, is refused
        halved = int((np.abs(z) <= 0.5 * stats.t.isf((1 - confidence) / 2, 19)).sum())
        assert stats.binomtest(halved, repeats, confidence).pvalue < 1e-3


OU = Diffusion([-x], [[sp.Rational(1, 2)]], (x,))
GROWING = Diffusion([-x], [[sp.Rational(1, 4) + x**2 / 8]], (x,))


@pytest.mark.parametrize(("process", "far"), [(OU, 3 * math.sqrt(2)), (GROWING, 4)])
def test_a_target_that_is_no_saddle_is_met_by_extrapolation(process, far):
    exact, nearer = (escape.exact_log_mean_time(process, 0, target=x0) for x0 in (far, 0.9 * far))
    options = {"start": {"x": 0}, "target": x > far, "rng": 1, "walkers": 20_000}
    result = split_escape(process, time_step=0.1, **options)
    error = float(result.log_mean_time_stderr)
    assert abs(float(result.log_mean_time) - exact) < 4 * error
    assert abs(float(result.log_mean_time) - nearer) > 4 * error
    assert result.step.values == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize("barrier", [10, 20, 40])
def test_an_exit_at_the_wall_of_a_bowl_needs_no_step_of_ones_own(barrier):
    far = math.sqrt(barrier)
    result = split_escape(OU, start={"x": 0}, target=x > far, rng=1, walkers=20_000)
    exact = escape.exact_log_mean_time(OU, 0, target=far)
    error = float(result.log_mean_time_stderr)
    assert abs(float(result.log_mean_time) - exact) < 4 * error < 1


def test_an_oscillator_that_returns_often_leaves_its_well_at_the_known_time():
    # γ = 1/2, T = 1/10 from rest at −1 to the saddle: 73.0 ± 0.5 by 20 000 walkers of an independent program
    v = sp.Symbol("v", real=True)
    process = Diffusion([v, x - x**3 - v / 2], [[0, 0], [0, sp.Rational(1, 20)]], (x, v))
    result = split_escape(process, start={"x": -1, "v": 0}, target=x > 0, rng=1)
    assert abs(float(result.log_mean_time) - math.log(73.0)) < 4 * math.hypot(
        float(result.log_mean_time_stderr), 0.5 / 73
    )
    assert float(result.log_mean_time_stderr) < 0.02


def test_a_target_too_thin_for_any_walk_is_refused_before_it():
    bowl = Diffusion([-x, -y], sp.eye(2), (x, y))
    way = {"start": {"x": 0, "y": 0}, "target": (x - 1) ** 2 + y**2 < 1e-6}
    for walk in (split_escape, partial(compare.escape, methods=("splitting", "simulation"))):
        with pytest.raises(
            ValueError, match=r"0.002 wide: steps that see it.*give a larger target, or time_step="
        ):
            walk(bowl, **way)
    with pytest.warns(UserWarning, match="jump over it unseen: times are too long"):
        split_escape(bowl, time_step=0.01, walkers=100, rng=0, extrapolate=False, **way)


@pytest.mark.slow
@pytest.mark.parametrize(("process", "far"), [(OU, 3 * math.sqrt(2)), (GROWING, 4)])
def test_extrapolated_intervals_hold_as_often_as_they_say(process, far):
    exact, repeats, held, halved = escape.exact_log_mean_time(process, 0, target=far), 60, 0, 0
    for seed in range(repeats):
        result = split_escape(process, start={"x": 0}, target=x > far, rng=seed, walkers=2000, threads=1)
        middle, high = (math.log(float(result[name])) for name in ("mean_time", "mean_time_high"))
        held += abs(middle - exact) <= high - middle
        halved += abs(middle - exact) <= 0.5 * (high - middle)
    assert stats.binomtest(held, repeats, 0.95).pvalue > 1e-3
    assert stats.binomtest(halved, repeats, 0.95).pvalue < 1e-3


def test_rate_flux_and_probabilities_belong_together():
    result = split_escape(_well(8), start={"x": -1}, target=x > 0, rng=3, walkers=2000)
    product = float(result.flux) * float(result.conditional_probability.prod())
    assert product == pytest.approx(float(np.exp(result.log_rate).mean()), rel=1e-12)
    assert 1 / float(result.rate) == pytest.approx(float(result.mean_time), rel=1e-12)
    assert float(result.low) < float(result.rate) < float(result.high)
    assert result.sizes == {"level": int(result.n_levels), "group": 20, "step": 2}
    assert (np.diff(result.level_value) > 0).all() and result.attrs["source"] < float(result.level_value[0])
    assert ((result.conditional_probability > 0.15) & (result.conditional_probability < 0.6)).all()


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads_and_any_order_preserving_level():
    options = {"start": {"x": -1}, "target": x > 0, "walkers": 1000, "time_step": 0.02}
    first = split_escape(_well(5), rng=4, threads=1, **options)
    again = split_escape(_well(5), rng=first.attrs["seed"], threads=3, **options)
    assert first.identical(again)
    other = split_escape(_well(5), rng=4, level=sp.exp(3 * x), **options)
    assert float(other.log_mean_time) == float(first.log_mean_time)
    assert float(split_escape(_well(5), rng=5, **options).log_mean_time) != float(first.log_mean_time)


def test_a_level_that_is_not_monotonic_costs_variance_but_not_truth():
    level = x + sp.sin(12 * x) / 8
    result = split_escape(_well(5), start={"x": -1}, target=x > 0, level=level, rng=5, walkers=10_000)
    assert _deviation(result, _exact(5)) < 4


def test_levels_watched_only_at_the_ends_of_long_steps_leave_no_bias():
    # Steps of 0.3/curvature leap over several levels; both methods see the same discrete walk.
    options = {"start": {"x": -1}, "target": x > 0, "time_step": 0.15}
    result = split_escape(_well(5), rng=6, boundary="none", walkers=20_000, **options)
    runs = simulate_escape(_well(5), walkers=4000, max_time=1e5, boundary="none", rng=7, **options)
    error = _error_beside(runs, result)
    # and that walk is far from the continuous one
    assert float(result.log_mean_time) - _exact(5) > 4 * error


def test_the_sgd_map_escapes_where_the_continuous_process_cannot():
    # D = Δ_S H² vanishes at the inflection point x = −0.577; steps of the map leap over it.
    sgd = Langevin(Landscape(WELL, (x,)), random_shift(learning_rate=0.2, sigma=0.35))
    options = {"start": {"x": -1}, "target": x > 0}
    result = split_escape(sgd, rng=8, walkers=10_000, **options)
    assert result.attrs["boundary"] == "none" and result.attrs["time_step"] == 0.2
    runs = simulate_escape(sgd, walkers=2000, max_time=1e6, rng=9, **options)
    _error_beside(runs, result)
    with pytest.raises(ValueError, match=r"D vanishes at x = -0\.57735.*give time_step=learning_rate"):
        split_escape(sgd, time_step=0.01, rng=8, **options)


def test_both_ways_out_of_a_valley_are_taken():
    both = split_escape(_well(8), start={"x": -1}, target=sp.Or(x > 0, x < -1.4), rng=10, walkers=20_000)
    exact = escape.exact_exit_time(_well(8), -1.0, ends=(-1.4, 0.0))
    assert _deviation(both, math.log(exact)) < 4


@pytest.mark.slow
def test_in_two_dimensions_a_separable_and_a_sheared_problem_give_the_one_dimensional_time():
    separable = Langevin(Landscape(WELL + y**2, (x, y)), isotropic(sp.Rational(1, 80)))
    q = committor(separable, source=x < -1, target=x > 0, shape=(100, 30))
    result = split_escape(separable, start={"x": -1, "y": 0}, target=x > 0, level=q, rng=11, walkers=10_000)
    assert _deviation(result, _exact(20)) < 4
    assert result.attrs["level"] == "grid of committor"
    # u = x + y/2, v = y: off-diagonal D, the same times
    u, v = sp.symbols("u v", real=True)
    old = {x: u - v / 2, y: v}
    map_ = sp.Matrix([[1, sp.Rational(1, 2)], [0, 1]])
    b = map_ * sp.Matrix([-(x**3 - x), -2 * y]).subs(old, simultaneous=True)
    sheared = Diffusion(b.expand(), map_ * map_.T / 32, (u, v))
    result = split_escape(sheared, start={"u": -1, "v": 0}, target=u - v / 2 > 0, rng=12, walkers=10_000)
    assert _deviation(result, _exact(8)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [3, 12])
def test_in_a_curved_valley_the_committor_and_the_plain_level_meet_the_backward_equation(ratio):
    curved = Langevin(Landscape(WELL + (y - x**2 / 2) ** 2 + x * y / 4, (x, y)), isotropic(0.4 / ratio))
    (low,) = (p.point for p in curved.landscape.critical_points() if p.point["x"] < -0.5)
    source = (x - low["x"]) ** 2 + (y - low["y"]) ** 2 < 0.04
    q = committor(curved, source=source, target=x > 0.5, shape=(120, 90))
    times = mean_first_passage_time(curved, target=x > 0.5, shape=(240, 180))
    exact = math.log(float(times.interp(**low, method="cubic")))
    way = {"start": low, "target": x > 0.5, "time_step": 4e-3}
    for level, seed in ((None, 13), (q, 14)):
        result = split_escape(curved, **way, level=level, rng=seed, walkers=16_000)
        assert _deviation(result, exact) < 4
        assert float(result.log_mean_time_stderr) < 0.1
    if ratio == 3:
        _error_beside(simulate_escape(curved, **way, walkers=2000, max_time=1e5, rng=15), result)


def test_bad_input_is_refused_before_any_walk():
    well = _well(5)
    for options, words in (
        ({"start": {"x": 0.5}}, "start is inside the target"),
        ({"start": {"x": 0.5}, "target": x > 1.2, "time_step": -1.0}, "time_step=-1"),
        ({"start": {"y": -1.0}}, "start names y"),
        ({"walkers": 50}, "walkers=50 must be at least 100"),
        ({"confidence": 1.0}, "confidence=1"),
        ({"relaxation_time": 0.0}, "relaxation_time=0"),
        ({"max_levels": 0}, "max_levels=0"),
        ({"start": {"x": 0.2}, "target": x > 0.5}, "drift alone leads .* use simulate_escape"),
        ({"start": {"x": 0.0}, "target": x > 0.5}, "no quadratic minimum; give time_step"),
        ({"level": x + y}, "no number for y"),
    ):
        with pytest.raises(ValueError, match=words):
            split_escape(well, **{"start": {"x": -1}, "target": x > 0, "rng": 0} | options)
    with pytest.raises(TypeError, match="level must be a sympy expression or a DataArray"):
        split_escape(well, start={"x": -1}, target=x > 0, level="x", rng=0)


def test_ways_without_success_are_named():
    options = {"start": {"x": -1}, "target": x > 0, "rng": 0}
    with pytest.raises(ValueError, match=r"the target is not reached: 5 levels from"):
        split_escape(_well(40), max_levels=5, **options)
    with pytest.raises(ValueError, match=r"no walker went on from level .* raise walkers=100"):
        split_escape(_well(40), walkers=100, **options)
    with pytest.raises(ValueError, match="none of 1000 walkers that relaxed"):
        split_escape(_well(40), source=-1.9, **options)
    # A third valley at 0 between source and target holds a walker for longer than max_time.
    three = Langevin(Landscape(x**2 * (x**2 - 1) ** 2 + x**2 / 10, (x,)), isotropic(sp.Rational(1, 150)))
    with pytest.raises(ValueError, match=r"a walker stayed near .* for max_time=500"):
        split_escape(three, start={"x": -0.95}, target=x > 0.9, max_time=500, rng=0)


def test_groups_that_die_out_are_said_and_trials_that_start_beyond_the_next_level_need_no_walk():
    options = {"start": {"x": -1}, "target": x > 0, "walkers": 2000, "rng": 1, "extrapolate": False}
    with pytest.warns(UserWarning, match=r"of 20 groups came to the target.*raise walkers=2000"):
        # Steps as long as several levels are apart
        split_escape(_well(60), time_step=0.2, **options)


def test_walkers_that_diverge_are_reported():
    with pytest.warns(UserWarning, match=r"walkers \(.* of all\) diverged"):
        split_escape(_well(3), start={"x": -1}, target=x > 0, walkers=1000, divergence=1.6, rng=0)


@pytest.mark.parametrize(
    "loss",
    [
        3 * sp.Abs(x),
        sp.Max(3 * x, -2 * x),
        sp.Piecewise((-3 * x, x < 0), (2 * x**2 + x, True)),
        3 * sp.Abs(x) ** sp.Rational(3, 2),
    ],
)
def test_a_valley_with_a_kink_has_its_exact_time_and_no_other_message(loss):
    process = Langevin(Landscape(loss, (x,)), isotropic(sp.Rational(1, 2)))
    exact = escape.exact_mean_time(process, 0.05, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = split_escape(process, start={"x": 0.05}, target=x > 1, walkers=8000, rng=1)
    assert abs(float(runs.log_mean_time) - math.log(exact)) < 4 * float(runs.log_mean_time_stderr)
    assert float(runs.log_mean_time_stderr) < 0.2


def test_rates_at_a_kink_are_those_of_the_noise():
    b, D = 3, sp.Rational(1, 2)
    process = Langevin(Landscape(b * sp.Abs(x) + y**2, (x, y)), isotropic(D))
    jacobian = local_jacobian(process, np.zeros(2))
    # l = D/b, and the mean slope over it is b/l
    assert -jacobian == pytest.approx(np.diag([b**2 / float(D), 2.0]), rel=1e-6)
    slow, fast = relaxation_rates_below(process, np.array([0.4, 3.0]), target=x > 1)
    assert slow == pytest.approx(2 / 4, rel=1e-6) and fast == pytest.approx(18, rel=0.2)
