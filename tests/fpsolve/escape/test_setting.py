"""The Styblinski–Tang experiments: exact numbers, both readings, scans and slopes, zeros of the noise."""

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import fpsolve
from fpsolve import (
    EscapeSetting,
    escape_rate,
    fit_slope,
    plot,
    scan_escape,
    simulate_escape,
    simulate_minibatch_escape,
    slope_table,
    styblinski_tang_setting,
    sweep,
)
from fpsolve.command import problem
from fpsolve.escape.scans import escape_point, styblinski_tang_point
from fpsolve.symbols.target import target_edges
from theory import (
    Landscape,
    Langevin,
    data_shift,
    double_well,
    escape,
    hessian_proportional,
    isotropic,
    random_shift,
    styblinski_tang,
)

x, y = sp.symbols("x y", real=True)

#: Variance of the shift: minimum, other minimum, saddle, H(a), H(b), barrier. ICLR 2021, E.1, prints the first.
EXACT = {
    0: (-2.903534, 2.746803, 0.156731, 34.5831, -15.8526, 39.36178),
    1: (-2.351910, 2.098662, 0.253248, 23.18890, -9.61519, 18.55304),
}


@pytest.mark.parametrize("variance", EXACT)
def test_critical_points_of_both_readings_are_the_known_ones(variance):
    landscape = styblinski_tang(shift_variance=variance)
    a, saddle, other = landscape.critical_points()[0], *landscape.critical_points()[:0:-1]
    found = (a.point["x"], other.point["x"], saddle.point["x"], *a.eigenvalues, *saddle.eigenvalues)
    assert found == pytest.approx(EXACT[variance][:5], rel=2e-6)
    barrier = escape.barrier_height(landscape, minimum=a.point, saddle=saddle.point)
    assert barrier == pytest.approx(EXACT[variance][5], rel=1e-6)
    assert (a.kind, other.kind) == ("minimum", "minimum")


@pytest.mark.parametrize("dimensions", [2, 10])
def test_coordinates_are_independent_and_the_way_over_one_of_them_is_a_saddle(dimensions):
    landscape = styblinski_tang(dimensions)
    one = styblinski_tang().loss
    assert sp.expand(landscape.loss - sum(one.subs(x, v) for v in landscape.variables)) == 0
    a, b, D = EXACT[0][0], EXACT[0][2], 6.0
    minimum = dict.fromkeys(landscape.names, a)
    process = Langevin(landscape, isotropic(D))
    time = escape.kramers_time(process, minimum=minimum, saddle={**minimum, "x1": b})
    single = escape.kramers_time(Langevin(styblinski_tang(), isotropic(D)), minimum=a, saddle=b)
    assert time == pytest.approx(single, rel=1e-5)  # one of the n saddles


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 30))
def test_sharpness_scales_places_by_one_over_root_k_and_curvature_by_k(k):
    scaled = styblinski_tang(shift_variance=1).scaled(k)
    for z in EXACT[1][:3]:
        place = z / math.sqrt(k)
        assert float(scaled.gradient[0].subs(x, place)) == pytest.approx(0, abs=1e-4 * math.sqrt(k))
    curvature = float(scaled.hessian[0].subs(x, EXACT[1][0] / math.sqrt(k)))
    assert curvature == pytest.approx(k * EXACT[1][3], rel=1e-5)


def _gauss_hermite(gradient, points, variance):
    """Mean and covariance of ∇f(θ − x), x ~ N(0, vI), by quadrature that is exact for polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    grids = np.meshgrid(*[nodes * math.sqrt(variance)] * len(points), indexing="ij")
    weight = np.prod(np.meshgrid(*[weights / weights.sum()] * len(points), indexing="ij"), axis=0)
    values = np.array(gradient(*(p - g for p, g in zip(points, grids, strict=True))))
    mean = (values * weight).reshape(len(points), -1).sum(1)
    centred = (values.T - mean).T.reshape(len(points), -1)
    return mean, (centred * weight.ravel()) @ centred.T


@pytest.mark.parametrize("variance", [0.3, 1.0])
@pytest.mark.parametrize("loss", [(x**4 - 16 * x**2 + 5 * x) / 2, x**4 / 4 + x**2 * y - x * y**3 + y**4])
def test_mean_loss_and_noise_of_shifted_data_are_those_of_gauss_hermite_quadrature(loss, variance):
    variables = tuple(sorted(loss.free_symbols, key=str))
    sample = Landscape(loss, variables)
    mean_loss = sample.smoothed(variance)
    D = data_shift(learning_rate=2, batch_size=1, variance=variance).diffusion(mean_loss)  # η/2B = 1: D = C
    point = (-0.7, 0.4)[: len(variables)]
    at = dict(zip(variables, point, strict=True))
    mean, C = _gauss_hermite(sp.lambdify(variables, list(sample.gradient)), point, variance)
    assert np.array(mean_loss.gradient.subs(at), float).ravel() == pytest.approx(mean, rel=1e-12)
    assert np.array(D.subs(at), float) == pytest.approx(C, rel=1e-11)


def test_the_mean_of_shifted_data_is_the_second_reading_and_random_shift_its_lowest_order():
    assert sp.expand(styblinski_tang().smoothed(1).loss - styblinski_tang(shift_variance=1).loss) == 0
    mean = styblinski_tang(shift_variance=1)
    full = data_shift(learning_rate=0.02, batch_size=1).diffusion(mean)[0, 0]
    lowest = random_shift(0.01).diffusion(mean)[0, 0]
    assert sp.expand(full - lowest) == (72 * x**2 + 24) / 100
    # Where H = 0 there is noise all the same, so the diffusion has an escape time.
    zero = math.sqrt(10 / 6)
    assert float(lowest.subs(x, zero)) == pytest.approx(0, abs=1e-12)
    assert float(full.subs(x, zero)) == pytest.approx(1.44)


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
def test_the_exponent_of_a_setting_is_that_of_the_theorems(s):
    one = styblinski_tang_setting("unshifted", learning_rate=0.01, batch_size=0.02)
    ends = {"minimum": one.minimum, "saddle": one.saddle}
    theorem = escape.effective_barrier(one.landscape, **ends, learning_rate=0.01, batch_size=0.02, s=s)
    assert one.exponent(s) == pytest.approx(theorem, rel=1e-6)
    ten = styblinski_tang_setting("unshifted", dimensions=10, learning_rate=0.01, batch_size=0.02)
    assert ten.exponent(s) == pytest.approx(theorem, rel=1e-6)
    assert replace(one, sharpness=4.0).exponent(s) == pytest.approx(theorem / 4, rel=1e-6)
    cold = styblinski_tang_setting("unshifted", noise="isotropic", D=6, time_step=1e-3)
    assert cold.exponent(s) == pytest.approx(EXACT[0][5] / 6, rel=1e-6)


def test_simulated_langevin_escape_takes_the_exact_time_and_not_that_to_the_other_well():
    setting = styblinski_tang_setting("unshifted", noise="isotropic", D=9, time_step=5e-4)
    rate = escape_rate(setting.simulate(walkers=1000, max_steps=100_000, rng=3), confidence=0.9999)
    exact = math.exp(-setting.exact_log_time())
    assert float(rate.low) < exact < float(rate.high)
    assert not float(rate.low) < exact / 2 < float(rate.high)
    mean_time = escape.exact_mean_time(setting.process, EXACT[0][0], EXACT[0][2])
    assert setting.exact_log_time() == pytest.approx(math.log(mean_time), abs=1e-4)


@pytest.mark.slow
def test_shifted_data_noise_has_an_escape_time_and_steps_of_the_langevin_equation_reach_it():
    # D > 0 everywhere: dt → 0 has a limit, though √D dt ~ 1e-4 is far below any learning rate in use.
    setting = replace(styblinski_tang_setting("mean", learning_rate=0.04, batch_size=1), time_step=2e-4)
    rate = escape_rate(setting.simulate(walkers=400, max_steps=2_000_000, rng=1), confidence=0.9999)
    exact = math.exp(-setting.exact_log_time())
    assert setting.exact_log_time() == pytest.approx(3.66662, abs=1e-4)
    assert float(rate.low) < exact < float(rate.high)
    as_map = escape_rate(replace(setting, time_step=None).simulate(walkers=400, max_steps=10_000, rng=1))
    assert float(as_map.low) > 20 * exact


def test_rates_over_several_saddles_add():
    one, ten = (
        scan_escape(
            styblinski_tang_setting("unshifted", dimensions=n, learning_rate=0.012, batch_size=0.02),
            "batch_size", [0.0205], walkers=600, rng=n,
        )
        for n in (1, 10)
    )  # fmt: skip
    ratio = float(ten.rate[0] / one.rate[0])
    error = ratio * math.sqrt(1 / float(one.n_escaped[0]) + 1 / float(ten.n_escaped[0]))
    assert abs(ratio - 10) < 4 * error
    assert abs(ratio - 1) > 10 * error


# --- minibatches -----------------------------------------------------------------------------------


def test_one_minibatch_step_escapes_as_often_as_the_data_say():
    data = np.random.default_rng(5).standard_normal(2000)
    start, eta = -2.0, 0.02
    runs = {
        B: simulate_minibatch_escape(
            styblinski_tang(), data, start={"x": start}, target=x > -1.2, learning_rate=eta, batch_size=B,
            walkers=20_000, max_steps=1, rng=B,
        )
        for B in (1, 2)
    }  # fmt: skip
    moved = start - eta * (2 * (start - data) ** 3 - 16 * (start - data) + 2.5)
    exact = float((moved > -1.2).mean())
    error = math.sqrt(exact * (1 - exact) / 20_000)
    assert abs(runs[1].attrs["n_escaped"] / 20_000 - exact) < 4 * error
    assert abs(runs[2].attrs["n_escaped"] / 20_000 - exact) > 8 * error
    pairs = (moved[:, None] + moved[None, :]) / 2 > -1.2
    exact = float(pairs.mean())
    assert abs(runs[2].attrs["n_escaped"] / 20_000 - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)


def test_k_times_the_sharpness_is_the_same_walk_as_k_times_the_learning_rate():
    sgd = styblinski_tang_setting("data", learning_rate=0.01, batch_size=2, samples=1000)
    options = {"walkers": 60, "max_steps": 3000, "rng": 7}
    sharp = replace(sgd, sharpness=3.0).simulate(**options)
    fast = replace(sgd, learning_rate=0.03).simulate(**options)
    assert sharp.end_step.equals(fast.end_step) and sharp.attrs["n_escaped"] > 30
    assert sharp.x.to_numpy() * math.sqrt(3) == pytest.approx(fast.x.to_numpy(), rel=1e-6)
    for name in ("mean", "unshifted"):
        model = styblinski_tang_setting(name, learning_rate=0.01, batch_size=0.8 if name == "mean" else 0.012)
        sharp = replace(model, sharpness=1.5).simulate(**options)
        fast = replace(model, learning_rate=0.015).simulate(**options)
        assert (sharp.end_step == fast.end_step).mean() > 0.95  # chaos of rounding may part a few


# --- scans and slopes ------------------------------------------------------------------------------


def test_intervals_of_the_slope_cover_the_true_one_in_95_of_100_repeats():
    rng = np.random.default_rng(0)
    u, S, slope = np.linspace(0, 3, 5), 60.0, 1.3
    hits, wrong = 0, 0
    for _ in range(600):
        scan = xr.Dataset(
            {
                "abscissa": ("u", u),
                "n_escaped": ("u", rng.poisson(S * np.exp(-slope * u))),
                "total_time": ("u", np.full(5, S)),
                "prefactor": ("u", np.zeros(5)),
                "exact_log_time": ("u", np.full(5, np.nan)),
                "slope_minimum": 1.0,
                "slope_saddle": 2.0,
            },
            attrs={"title": "drawn"},
        )
        fit = fit_slope(scan)
        hits += float(fit.slope_low) < slope < float(fit.slope_high)
        wrong += float(fit.slope_low) < 1.25 * slope < float(fit.slope_high)
    assert 0.93 < hits / 600 < 0.97
    assert wrong / 600 < 0.75
    assert float(fit.s) == pytest.approx(2 - float(fit.slope), rel=1e-9)


def _slope_error(fit):
    return float(fit.slope_high - fit.slope_low) / 3.92


def test_sgld_slopes_are_those_of_theorem_3_1():
    setting = styblinski_tang_setting("unshifted", noise="isotropic", D=8, time_step=5e-4)
    scan = scan_escape(setting, "D", [6.5, 7.5, 9], walkers=400, rng=2)
    fit = fit_slope(scan, confidence=0.9999)
    assert float(fit.slope_low) < float(fit.exact_slope) < float(fit.slope_high)
    assert float(fit.exact_slope) == pytest.approx(float(fit.slope_minimum), rel=0.03)
    assert float(fit.slope_minimum) == pytest.approx(EXACT[0][5], rel=1e-6)
    assert not float(fit.slope_low) < 0.6 * EXACT[0][5] < float(fit.slope_high)
    sharp = replace(setting, D=9.0, time_step=2.5e-4)
    fit = fit_slope(scan_escape(sharp, "sharpness", [0.5, 1, 2], walkers=300, rng=2), confidence=0.9999)
    assert float(fit.slope_low) < -1 < float(fit.slope_high)


def test_straight_lines_do_not_make_theorem_3_2_hold():
    # The theorem's exponent depends on B/η alone, whatever s: d ln τ/d ln B = d ln τ/d ln(1/η). Pearson's
    # correlation is above 0.99 for both scans, yet the two derivatives are far apart.
    centre = styblinski_tang_setting("unshifted", learning_rate=0.012, batch_size=0.018)
    over_B = fit_slope(scan_escape(centre, "batch_size", [0.016, 0.017, 0.018, 0.019, 0.02], rng=1))
    over_eta = fit_slope(scan_escape(centre, "learning_rate", [0.0108, 0.0114, 0.012, 0.0126, 0.0132], rng=2))
    assert min(float(over_B.pearson), float(over_eta.pearson)) > 0.99
    by_B, by_eta = float(over_B.slope) * 0.018, float(over_eta.slope) / 0.012
    error = math.hypot(_slope_error(over_B) * 0.018, _slope_error(over_eta) / 0.012)
    assert by_eta > by_B + 8 * error and by_eta > 1.5 * by_B
    assert float(over_eta.s_high) < -1  # no s in (0, 1) gives this slope


def test_the_gaussian_and_the_drawn_minibatch_map_both_escape_far_faster_than_their_diffusion():
    mean = styblinski_tang_setting("mean", learning_rate=0.01, batch_size=1)
    gaussian = escape_rate(mean.simulate(walkers=200, max_steps=200_000, rng=1))
    sgd = styblinski_tang_setting("data", learning_rate=0.01, batch_size=1)
    drawn = escape_rate(sgd.simulate(walkers=200, max_steps=20_000, rng=1))
    diffusion = mean.exact_log_time()
    assert diffusion == pytest.approx(21.696, abs=1e-3)
    assert -math.log(float(gaussian.low)) < diffusion - 14
    assert -math.log(float(drawn.low)) < -math.log(float(gaussian.high)) - 2


def test_a_scan_is_reproducible_point_by_point_and_travels():
    setting = styblinski_tang_setting("unshifted", learning_rate=0.02, batch_size=0.03)
    options = {"walkers": 50, "max_steps": 5000}
    scan = scan_escape(setting, "batch_size", [0.03, 0.04], rng=11, **options)
    again = scan_escape(pickle.loads(pickle.dumps(setting)), "batch_size", [0.03, 0.04], rng=11, **options)
    assert scan.identical(again)
    second = np.random.SeedSequence(11, spawn_key=(1,))
    point = escape_point(setting, "batch_size", 0.04, rng=second, **options)
    assert float(point.total_time) == float(scan.total_time[1])
    assert scan.attrs["seed"] == "11" and scan.attrs["fpsolve_version"] == fpsolve.__version__
    assert all(isinstance(v, (str, int, float)) for v in scan.attrs.values())


def test_points_are_the_same_on_an_executor_and_in_a_sweep():
    plain = {"reading": "data", "learning_rate": 0.02, "walkers": 30, "max_steps": 500}
    grid = {"batch_size": [1, 2], "sharpness": [1.0, 1.5]}
    table = sweep(partial(styblinski_tang_point, **plain), grid, seed=4)
    assert table.rate.dims == ("batch_size", "sharpness") and table.n_escaped.min() > 0
    setting = styblinski_tang_setting("data", learning_rate=0.02, batch_size=1)
    options = {"walkers": 30, "max_steps": 500, "rng": 4}
    scan = scan_escape(setting, "sharpness", [1.0, 1.5], **options)
    with ThreadPoolExecutor(2) as executor:
        assert scan.identical(scan_escape(setting, "sharpness", [1.0, 1.5], executor=executor, **options))
    assert scan.rate.to_numpy().tolist() == table.rate.sel(batch_size=1).to_numpy().tolist()


def test_values_without_an_escape_bound_the_line_from_below():
    setting = styblinski_tang_setting("unshifted", learning_rate=0.02, batch_size=0.03)
    scan = scan_escape(setting, "batch_size", [0.03, 0.04, 0.2], walkers=50, max_steps=3000, rng=0)
    assert scan.n_escaped[-1] == 0 and scan.rate[-1] == 0 and scan.high[-1] > 0
    assert float(fit_slope(scan).slope) > 0


# --- where the noise vanishes ----------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.15, 0.3])
def test_euler_steps_cross_a_zero_of_the_noise_in_a_time_that_grows_as_a_power_of_the_step(strength):
    # D = c|L''|: T ∝ dt^{−δ}, δ = 2L'/(dD/dx) at the inflection point; without end as dt → 0.
    setting = EscapeSetting(
        double_well(), "hessian_proportional", {"x": -1.0}, x > 0, {"x": -1.0}, {"x": 0.0},
        learning_rate=1.0, batch_size=0.5 / strength, time_step=0.1, boundary="none",
    )  # fmt: skip
    options = {"walkers": 300, "max_steps": 400_000, "rng": 1}
    fit = fit_slope(scan_escape(setting, "time_step", [0.0125, 0.00625, 0.003125], **options))
    delta, error = 2 / 9 / strength, _slope_error(fit)
    assert float(fit.slope_minimum) == pytest.approx(delta, rel=1e-3)
    assert abs(float(fit.slope) - delta) < 3 * error + 0.08  # the power is reached from below or above
    assert abs(float(fit.slope)) > 8 * error  # a diffusion with an escape time would have slope 0


def test_the_same_steps_under_isotropic_noise_have_a_limit():
    setting = EscapeSetting(
        double_well(), "isotropic", {"x": -1.0}, x > 0, {"x": -1.0}, {"x": 0.0}, D=0.1, time_step=0.01
    )
    fit = fit_slope(scan_escape(setting, "time_step", [0.05, 0.0125, 0.003125], walkers=600, rng=1))
    assert abs(float(fit.slope)) < 3 * _slope_error(fit)


def test_noise_as_the_square_of_the_hessian_lets_the_quartic_walls_throw_walkers_across():
    # p ~ θ^{−4−1/(18Δ_S)} far out, where a step of size θ²dt ~ 1 reaches everywhere: T ∝ dt^{−(1/2 + 1/(36Δ_S))}.
    setting = styblinski_tang_setting("mean", noise="random_shift", learning_rate=1.0, batch_size=10.0)
    setting = replace(setting, time_step=1e-3, boundary="none")  # Δ_S = ηv/2B = 0.05
    fit = fit_slope(scan_escape(setting, "time_step", [0.001, 0.0005, 0.00025], walkers=400, rng=1))
    assert abs(float(fit.slope) - (0.5 + 1 / 1.8)) < 3 * _slope_error(fit) + 0.05
    assert math.isnan(float(fit.slope_minimum))  # no power law from the zero itself


@pytest.mark.parametrize(
    ("noise", "target", "time_step", "warned"),
    [
        (hessian_proportional(learning_rate=0.01, batch_size=1), x > 0.15, 1e-3, True),
        (random_shift(0.01, learning_rate=0.01), x > 0.15, 1e-3, True),
        (random_shift(0.01), x > 0.15, 1e-3, True),
        (random_shift(0.01, learning_rate=0.01), x > 0.15, 0.01, False),
        (random_shift(0.01), x > -2, 1e-3, False),
        (random_shift(0.01), sp.Or(x > 0.15, x < -4), 1e-3, False),
        (data_shift(learning_rate=0.01, batch_size=1), x > 0.15, 1e-3, False),
        (isotropic(5), x > 0.15, 1e-3, False),
    ],
)
def test_a_zero_of_the_noise_on_every_way_to_the_target_is_warned_of(
    noise, target, time_step, warned, monkeypatch
):
    def stop(*arguments, **options):
        raise InterruptedError

    monkeypatch.setattr("fpsolve.escape.passages.run_walkers", stop)  # the warning comes before any step
    process = Langevin(styblinski_tang(), noise)
    options = {"start": {"x": -2.9}, "walkers": 2, "max_time": 0.02, "rng": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InterruptedError):
            simulate_escape(process, target=target, time_step=time_step, **options)
    messages = [str(w.message) for w in caught if "vanishes" in str(w.message)]
    assert len(messages) == warned
    if warned:
        assert "x = -1.63299" in messages[0] and "time_step=learning_rate" in messages[0]


def test_edges_of_a_target_are_the_roots_of_its_inequalities():
    assert target_edges(sp.Or(x > 1, x**2 + x < -3, x < -2), x) == pytest.approx((-2, 1))
    assert target_edges(x**2 > 4, x) == pytest.approx((-2, 2))
    assert target_edges(sp.sin(x) > 0, x) == ()


# --- contracts -------------------------------------------------------------------------------------


def test_the_figure_of_a_scan_shows_points_line_and_theory():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    setting = styblinski_tang_setting("unshifted", learning_rate=0.02, batch_size=0.03)
    scan = scan_escape(setting, "sharpness", [0.9, 1.1, 1.3], walkers=50, max_steps=20_000, rng=0)
    figure, ax = plt.subplots()
    fit = fit_slope(scan)
    assert plot.escape_scan(scan, fit, ax=ax) is ax
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "1/k" in ax.get_xlabel() and any("fit" in t for t in texts) and any("theory" in t for t in texts)
    plt.close(figure)
    assert slope_table({"here": fit}).count("\n") == 1 and "1/k" in slope_table([fit])


def test_a_configuration_file_knows_the_function():
    text = 'example = "styblinski_tang"\ndimensions = 2\nshift_variance = 1\n[noise]\nkind = "data_shift"\nlearning_rate = 0.01\nbatch_size = 1\n'
    process = problem.parse_problem(text).process
    assert process.landscape == styblinski_tang(2, shift_variance=1)
    assert process.noise == data_shift(learning_rate=0.01, batch_size=1)


SETTING = styblinski_tang_setting("unshifted", learning_rate=0.02, batch_size=0.03)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: styblinski_tang(0), "at least 1"),
        (lambda: styblinski_tang(shift_variance=2), "one well"),
        (lambda: styblinski_tang(shift_variance=-1), "shift_variance=-1"),
        (lambda: styblinski_tang().scaled(0), "k=0 must be positive"),
        (lambda: Landscape(sp.cos(x), (x,)).smoothed(1), "polynomial"),
        (lambda: data_shift(learning_rate=1, batch_size=1).diffusion(Landscape(sp.cos(x), (x,))), "polynomial"),
        (lambda: styblinski_tang_setting("paper", learning_rate=1, batch_size=1), "reading='paper'"),
        (lambda: styblinski_tang_setting("mean", learning_rate=1), "needs batch_size"),
        (lambda: styblinski_tang_setting("unshifted", noise="isotropic", D=1), "needs time_step"),
        (lambda: scan_escape(SETTING, "D", [1, 2]), "over='D'"),
        (lambda: scan_escape(SETTING, "batch_size", [1, 1]), "distinct"),
        (lambda: scan_escape(SETTING, "batch_size", [1, -1]), "positive"),
        (lambda: fit_slope(scan_escape(SETTING, "batch_size", [1, 2], walkers=2, max_steps=2)), "a slope needs two"),
        (lambda: _drawn(np.zeros((5, 2))), "1 columns"),
        (lambda: _drawn(np.zeros(5), batch_size=0), "batch_size=0"),
        (lambda: _drawn(np.zeros(5), start={"x": 1.0}), "inside the target"),
        (lambda: _drawn(np.zeros(5), start={"z": 1.0}), "start names"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def _drawn(data, *, batch_size=1, start=None):
    return simulate_minibatch_escape(
        styblinski_tang(), data, start=start or {"x": -2.0}, target=x > 0, learning_rate=0.01,
        batch_size=batch_size, walkers=2, max_steps=2,
    )  # fmt: skip
