"""Simulated first passages and their rates: exact laws, treatment of boundaries, coverage, bits, refusals."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.special import erfcx

from fpsolve import escape_rate, mean_first_passage_time, simulate, simulate_escape, split_escape
from fpsolve.ensemble.steps import weak_order
from theory import Diffusion, Landscape, Langevin, escape, isotropic, random_shift

x, y = sp.symbols("x y", real=True)
WELL = Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), isotropic(sp.Rational(1, 12)))
FREE = Diffusion(sp.Matrix([0]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
FREE_2D = Diffusion(sp.zeros(2, 1), sp.eye(2) / 4, (x, y))
#: From the minimum of WELL to its saddle.
OUT = {"start": {"x": -1.0}, "target": x > 0}


def _sigmas(runs, exact):
    times = runs["escape_time"].to_numpy()
    assert not np.isnan(times).any()
    return (times.mean() - exact) / (times.std(ddof=1) / math.sqrt(len(times)))


def test_bridge_and_shift_remove_the_bias_of_watching_only_the_ends_of_steps():
    exact = escape.exact_mean_time(WELL, start=-1, target=0)
    arguments = OUT | {"walkers": 20_000, "time_step": 0.02, "max_time": 1e4, "rng": 1}
    treated = {b: simulate_escape(WELL, boundary=b, **arguments) for b in ("bridge", "shift", "none")}
    by = {b: _sigmas(runs, exact) for b, runs in treated.items()}
    assert abs(by["bridge"]) < 4 and abs(by["shift"]) < 4
    assert by["none"] > 8  # the wrong law is refused


def test_naive_bias_falls_with_the_root_of_the_step():
    bias = []
    for step in (0.04, 0.01):
        options = {"walkers": 20_000, "max_time": 1e4, "rng": 2, "boundary": "none"}
        runs = simulate_escape(WELL, **OUT, time_step=step, **options)
        bias.append(float(runs["escape_time"].mean()) / escape.exact_mean_time(WELL, -1, 0) - 1)
    # √4 = 2 within the error of two biases of 0.1 known to 0.007 each
    assert bias[0] / bias[1] == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("start", [0.0, 0.6])
def test_free_diffusion_leaves_an_interval_after_the_parabolic_time(start):
    runs = simulate_escape(
        FREE, start={"x": start}, target=sp.Or(x > 1, x < -1), walkers=40_000, time_step=5e-3, max_time=50, rng=3
    )  # fmt: skip
    assert abs(_sigmas(runs, (1 - start**2) / (2 * 0.5))) < 4


def test_a_curved_boundary_is_met_to_first_order_in_the_step():
    # Free diffusion leaves a disc after (R² − r²)/(4D)
    way = {"start": {"x": 0.3, "y": 0.0}, "target": x**2 + y**2 > 1, "time_step": 2e-3, "max_time": 50}
    for boundary in ("bridge", "shift", "none"):
        runs = simulate_escape(FREE_2D, **way, walkers=20_000, rng=4, boundary=boundary)
        away = _sigmas(runs, (1 - 0.09) / (4 * 0.25))
        assert away > 4 if boundary == "none" else abs(away) < 4


def test_ornstein_uhlenbeck_meets_its_closed_form():
    # dX = −X dt + √2 dW from 0 to 1: T = √π ∫ e^{u²}(1 + erf u) du over [0, 1/√2]
    exact = math.sqrt(math.pi) * quad(lambda u: erfcx(-u), 0, 1 / math.sqrt(2))[0]
    process = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))
    assert escape.exact_mean_time(process, 0, 1) == pytest.approx(exact, rel=1e-9)
    runs = simulate_escape(
        process, start={"x": 0}, target=x > 1, walkers=40_000, time_step=2e-3, max_time=100, rng=5
    )  # fmt: skip
    assert abs(_sigmas(runs, exact)) < 4


@pytest.mark.parametrize(
    "target",
    [sp.And(x > sp.S.Half, y > 0), sp.Or(x > 1, y > 1), (x - 1) ** 2 + (y - 1) ** 2 < sp.Rational(1, 4)],
)
def test_quadrants_unions_and_balls_agree_with_the_backward_equation_for_full_D(target):
    A = sp.Matrix([[1, sp.Rational(4, 5)], [-sp.Rational(3, 5), sp.Rational(3, 2)]])
    D = sp.Matrix([[sp.Rational(1, 2), sp.Rational(1, 5)], [sp.Rational(1, 5), sp.Rational(2, 5)]])
    process = Diffusion(-A * sp.Matrix([x, y]), D, (x, y))
    start, box = {"x": 0.0, "y": -0.5}, {"x": (-5, 5), "y": (-5, 5)}
    _agrees_with_the_backward_equation(process, start, target, box, time_step=2e-3, rng=6)


def _agrees_with_the_backward_equation(process, start, target, box, **options):
    exact = float(mean_first_passage_time(process, target=target, box=box).interp(start))
    runs = simulate_escape(process, start=start, target=target, walkers=20_000, max_time=500, **options)
    error = 4 * float(runs["escape_time"].std()) / math.sqrt(20_000) + 5e-3 * exact
    assert abs(float(runs["escape_time"].mean()) - exact) < error


def test_noise_that_depends_on_the_place_agrees_with_the_backward_equation():
    process = Langevin(Landscape(x**2 / 2 + x * y / 4 + y**2, (x, y)), random_shift(delta_s=0.2))
    start, box = {"x": 0.0, "y": 0.0}, {"x": (-3, 1.2), "y": (-2.5, 2.5)}
    _agrees_with_the_backward_equation(process, start, x + y**2 > 1, box, time_step=5e-3, rng=7)


def test_times_of_constant_noise_err_as_the_square_of_the_step():
    process, target = Diffusion([-x], [[sp.Rational(1, 2)]], (x,)), x > 1.5
    exact = escape.exact_mean_time(process, 0, 1.5)
    for step, bound in ((0.4, 0.03), (0.2, 0.01)):
        runs = simulate_escape(
            process, start={"x": 0}, target=target, walkers=40_000, time_step=step, max_time=1e4, rng=5
        )
        assert runs.attrs["scheme"] == "taylor"
        times = runs["escape_time"].to_numpy()
        error = times.std() / np.sqrt(len(times)) / exact
        assert abs(times.mean() / exact - 1) < bound + 4 * error


def test_two_steps_extrapolate_a_rate_under_noise_that_depends_on_the_place():
    process = Diffusion([-x], [[sp.Rational(1, 4) + x**2 / 8]], (x,))
    exact = 1 / escape.exact_mean_time(process, 0, 2)
    way = {"start": {"x": 0}, "target": x > 2, "walkers": 10_000, "max_time": 1e4}
    coarse, fine = (simulate_escape(process, time_step=h, rng=k, **way) for k, h in enumerate((0.3, 0.15)))
    assert coarse.attrs["scheme"] == "euler"
    single, rate = escape_rate(fine), escape_rate(coarse, finer=fine)
    half = math.log(float(rate.high) / float(rate.low)) / 2 / 1.96
    assert abs(math.log(float(rate.rate) / exact)) < 4 * half
    assert not float(single.low) < exact < float(single.high)  # one step alone is off
    with pytest.raises(ValueError, match="smaller step"):
        escape_rate(fine, finer=coarse)


def test_a_strip_far_thinner_than_a_step_is_met_as_a_half_line_is():
    process = Diffusion([-x], [[sp.Rational(1, 2)]], (x,))
    way = {"start": {"x": 0}, "walkers": 5000, "time_step": 0.05, "max_time": 1e4, "rng": 6}
    thin = simulate_escape(process, target=(x > 1) & (x < 1.0001), **way)
    assert abs(_sigmas(thin, escape.exact_mean_time(process, 0, 1))) < 4


def test_a_thin_target_in_two_variables_is_warned_of_and_an_empty_one_refused():
    process = Diffusion([-x, -y], [[1, 0], [0, 1]], (x, y))
    way = {"start": {"x": 0, "y": 0}, "walkers": 2, "time_step": 0.01, "max_time": 0.05}
    with pytest.warns(UserWarning, match=r"0.002 wide.*jump over it unseen.*time_step below"):
        simulate_escape(process, target=(x - 1) ** 2 + y**2 < 1e-6, **way)
    for empty in ((x > 1) & (x < sp.Rational(1, 2)) & (y > 0), x**2 + y**2 <= -1):
        with pytest.raises(ValueError, match=r"empty|always False"):
            simulate_escape(process, target=empty, **way)


@pytest.mark.parametrize("walls", ["reflecting", "absorbing"])
def test_walls_beside_a_target(walls):
    free = Diffusion([0], [[1]], (x,))
    runs = simulate_escape(
        free, start={"x": 0.4}, target=x > 1, walkers=20_000, time_step=2e-3, max_time=50, rng=7,
        box={"x": (0, 3)}, walls=walls,
    )  # fmt: skip
    if walls == "reflecting":
        assert abs(_sigmas(runs, (1 - 0.4**2) / 2)) < 4
    else:
        share = runs.attrs["n_escaped"] / 20_000
        assert abs(share - 0.4) < 4 * np.sqrt(0.24 / 20_000)
        assert runs.attrs["n_absorbed"] == 20_000 - runs.attrs["n_escaped"]


def test_an_oscillator_leaves_its_well_at_the_known_time_at_long_steps():
    # x' = v, v' = -x - v/2 + noise, T = 1/10, from rest to x > 1/2: steps of the exact Gaussian propagator
    friction, T, h = 0.5, 0.1, 0.01
    step = expm(np.array([[0, 1], [-1, -friction]]) * h)
    spread = np.linalg.cholesky(T * (np.eye(2) - step @ step.T))
    rng, state, times, k = np.random.default_rng(0), np.zeros((2, 4000)), [], 0
    while state.size:
        state, k = step @ state + spread @ rng.standard_normal(state.shape), k + 1
        times += [(k - 0.5) * h] * int((state[0] > 0.5).sum())
        state = state[:, state[0] <= 0.5]
    v = sp.Symbol("v", real=True)
    process = Diffusion([v, -x - v / 2], [[0, 0], [0, sp.Rational(1, 20)]], (x, v))
    way = {"start": {"x": 0, "v": 0}, "target": x > 0.5, "walkers": 4000, "max_time": 1e4, "rng": 8}
    runs = simulate_escape(process, time_step=0.1, **way)
    assert runs.attrs["scheme"] == "baoab"
    error = np.hypot(np.std(times), float(runs.escape_time.std())) / np.sqrt(4000)
    assert abs(np.mean(times) - float(runs.escape_time.mean())) < 4 * error
    heated = simulate_escape(process, time_step=0.1, boundary="none", **way)  # Euler's steps
    assert abs(np.mean(times) - float(heated.escape_time.mean())) > 8 * error


def test_the_sgd_map_is_watched_at_its_own_steps_only():
    sgd = Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), random_shift(learning_rate=0.1, sigma=0.5))
    runs = simulate_escape(sgd, start={"x": -1}, target=x > 1, walkers=64, max_time=1e4, rng=8)
    assert runs.attrs["boundary"] == "none" and runs.attrs["time_step"] == 0.1
    whole = runs["escape_time"].to_numpy() / 0.1
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-6)
    assert (runs["x"].to_numpy() > 1).all()


def test_bits_depend_neither_on_threads_nor_on_the_number_of_walkers():
    arguments = OUT | {"time_step": 0.05, "max_time": 50, "rng": 9}
    one = simulate_escape(WELL, walkers=300, threads=1, **arguments)
    two = simulate_escape(WELL, walkers=300, threads=2, **arguments)
    few = simulate_escape(WELL, walkers=70, threads=1, **arguments)
    assert one.equals(two)
    assert (one["escape_time"][:70].fillna(-1) == few["escape_time"].fillna(-1)).all()
    again = simulate_escape(WELL, walkers=300, threads=1, **(arguments | {"rng": one.attrs["seed"]}))
    assert again.equals(one)


def test_walkers_stopped_by_the_clock_count_their_time_and_no_escape():
    runs = simulate_escape(WELL, **OUT, walkers=4000, time_step=0.02, max_time=30, rng=10)
    rate = escape_rate(runs)
    assert runs.attrs["n_censored"] > 1000
    assert float(rate.total_time) == pytest.approx(float(runs["observed_time"].sum()))
    np.testing.assert_allclose(runs["observed_time"][runs["outcome"] == 0], 30.0)
    slowest = 1 / escape.exact_mean_time(WELL, -1, 0)
    assert float(rate.low) * 0.9 < slowest < float(rate.high) * 1.1
    # Without the stopped walkers' time the rate would be far too high
    assert 1 / float(runs["escape_time"].mean()) > 2 * slowest


def test_early_divergence_is_reported_apart_from_escape():
    sgd = Langevin(Landscape(x**4 - x**2, (x,)), isotropic(0.05))
    # One unstable step from −9 lands at 137, inside the target: only the bound tells this from an escape
    way = {"target": x > 0, "time_step": 0.05, "max_time": 2000, "rng": 0, "divergence": 20}
    few, many = (np.where(np.arange(40) < lost, -9.0, -0.7) for lost in (2, 9))
    with pytest.warns(UserWarning, match=r"2 of 40 walkers \(0.05 of all\) diverged.*smaller time_step"):
        runs = simulate_escape(sgd, start={"x": few}, **way)
    assert list(runs["outcome"].to_numpy()[:3]) == [2, 2, 1]
    assert np.isnan(runs["escape_time"].to_numpy()[:2]).all() and runs.attrs["n_diverged"] == 2
    with pytest.warns(UserWarning, match="2 of 40 walkers"):
        assert int(escape_rate(runs).n_diverged) == 2
    with pytest.warns(UserWarning, match="9 of 40 walkers"):
        runs = simulate_escape(sgd, start={"x": many}, **way)
    with pytest.raises(ValueError, match="no rate: 9 of 40 walkers"):
        escape_rate(runs)


def test_no_escape_gives_an_upper_bound_and_no_division_by_zero():
    cold = Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), isotropic(0.005))
    rate = escape_rate(simulate_escape(cold, **OUT, walkers=50, time_step=0.05, max_time=20, rng=11))
    assert float(rate.rate) == float(rate.low) == 0.0
    assert float(rate.high) == pytest.approx(-math.log(0.025) / 1000)


def _coverage(observe, repeats=1000):
    rng = np.random.default_rng(12)
    held = 0
    for _ in range(repeats):
        r = escape_rate(**observe(rng.exponential(1.0, 30)))
        held += float(r.low) <= 1.0 <= float(r.high)
    return held / repeats


def test_exact_intervals_hold_in_95_of_100_repeats_with_stopped_walkers():
    stopped = lambda t: {"times": t[t < 0.8], "censored_time": 0.8 * (t >= 0.8).sum()}  # noqa: E731
    dropped = lambda t: {"times": t[t < 0.8]}  # noqa: E731
    assert 0.93 <= _coverage(stopped) <= 0.97
    assert _coverage(dropped) < 0.1  # forgetting the stopped walkers is refused


def test_the_papers_estimator_is_what_it_says():
    times = np.array([1.0, 2.0, 3.0, 4.0])
    rate = escape_rate(times=times, method="asymptotic")
    assert float(rate.rate) == pytest.approx(2 / 10)
    assert float(rate.high) == pytest.approx(0.2 * (1 + 1.959964 / 2))
    with pytest.raises(ValueError, match="at least 3 escapes"):
        escape_rate(times=[1.0, 2.0], method="asymptotic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": {"x": 0.5}}, "start is inside the target"),
        ({"target": x > -1}, "start is on the boundary of the target"),
        ({"target": (x > 1) & (x < 1)}, "the target .* is empty"),
        ({"target": sp.exp(x) < 0}, "no place in the target|always False"),
        ({"target": x + sp.Symbol("q") > 0}, "the target uses q"),
        ({"target": sp.Eq(x, 0)}, "must be an inequality"),
        ({"start": {"z": 0.5}}, "z"),
        ({"max_time": -1.0}, "max_time"),
        ({"max_time": math.inf}, "max_time"),
        ({"time_step": 0.0}, "time_step"),
        ({"walkers": 0}, "walkers"),
        ({"threads": 0}, "threads"),
        ({"boundary": "soft"}, "boundary"),
        ({"start": {"x": math.nan}}, "finite"),
    ],
)
def test_bad_input_is_refused_before_any_step(change, message):
    good = OUT | {"walkers": 10, "time_step": 0.01, "max_time": 10.0, "rng": 0}
    with pytest.raises(ValueError, match=message):
        simulate_escape(WELL, **(good | change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either runs"),
        ({"times": [1.0, -2.0]}, "not negative"),
        ({"times": []}, "total observed time is 0"),
        ({"times": [1.0], "confidence": 1.5}, "confidence"),
        ({"times": [1.0], "method": "bayes"}, "method"),
    ],
)
def test_bad_observations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        escape_rate(**arguments)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"walkers": 2.5}, "walkers=2.5 must be a whole number, at least 1"),
        ({"walkers": "many"}, "walkers='many' must be a whole number, at least 1"),
        ({"walkers": True}, "walkers=True must be a whole number"),
        ({"time_step": "short"}, "time_step='short' must be a number"),
        ({"time_step": [0.1]}, "time_step=.* must be a number"),
        ({"max_time": "long"}, "max_time='long' must be a number"),
        ({"threads": 1.5}, "threads=1.5 must be a whole number, at least 1"),
        ({"divergence": "far"}, "divergence='far' must be a number"),
        ({"max_time": 1e300}, "max_time=1e.300 is more than 1e.18 steps"),
    ],
)
def test_arguments_that_are_no_numbers_are_refused_in_one_line(wrong, words):
    process = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))
    common = {"start": {"x": 0.0}, "walkers": 100, "time_step": 0.1}
    calls = [lambda: simulate_escape(process, **(common | {"max_time": 1.0, "target": x > 1} | wrong))]
    calls += [lambda: split_escape(process, **(common | {"target": x > 1} | wrong))]
    if "max_time" not in wrong:
        calls += [lambda: simulate(process, **(common | {"time": 1.0} | wrong))]
    for call in calls:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_kink_on_the_way_is_extrapolated_within_an_interval_of_both_orders():
    loss = sp.Min((x + 1) ** 2, 2 * (x - 1) ** 2 + sp.Rational(1, 2))
    process = Langevin(Landscape(loss, (x,)), isotropic(sp.Rational(1, 2)))
    way = {"start": {"x": -1.0}, "target": x > 1, "walkers": 20_000, "max_time": 400}
    runs = [simulate_escape(process, time_step=dt, rng=k, **way) for k, dt in enumerate((0.04, 0.02))]
    assert runs[0].attrs["weak_order"] == 0.5
    exact = 1 / escape.exact_mean_time(process, -1, 1)
    with pytest.warns(UserWarning, match="order of smooth drifts does not hold"):
        found = escape_rate(runs[0], finer=runs[1])
    assert float(found.low) < exact < float(found.high) < 1.2 * exact
    assert float(escape_rate(runs[1]).high) < exact  # one run alone is too slow


@pytest.mark.parametrize(
    ("drift", "jumps"),
    [
        ([-sp.sign(x - 10**8), -y], True),
        ([-sp.Heaviside(x + 2 * y - sp.Rational(1, 10**6)), -y], True),
        ([sp.Piecewise((-x, x < 1), (-2 * x, True)), -y], True),
        ([sp.Piecewise((-x, x < 1), (1 - 2 * x, True)), -y], False),
        ([-x * sp.sign(x) * 10**6, -y], False),
        ([-sp.sqrt(sp.Abs(x)) * sp.sign(x), -y], False),
        ([-x - sp.Abs(y), -y + sp.Max(x, y)], False),
    ],
)
def test_a_drift_that_jumps_is_told_from_one_that_bends(drift, jumps):
    process = Diffusion(sp.Matrix(drift), sp.eye(2), (x, y))
    assert weak_order(process, "euler") == (0.5 if jumps else 1.0)
