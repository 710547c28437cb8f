"""The backward equation: exact one-dimensional times, order, committors, rates, two dimensions, refusals."""

import warnings

import numpy as np
import pytest
import scipy.integrate
import sympy as sp
from scipy.integrate import quad

from fpsolve import committor, mean_first_passage_time, relaxation_modes, relaxation_rates, stationary_density
from theory import Diffusion, Landscape, Langevin, escape, isotropic, random_shift

x, y = sp.symbols("x y", real=True)
WELL = x**4 / 4 - x**2 / 2

#: ΔL/D: mean times from −1 to the saddle 0 and to the other well 1, constant D, by quadrature.
EXACT = {3: (50.79340023, 106.56035125), 5: (361.90375950, 729.67069194), 8: (6996.76353834, 14000.13924474)}


def _well(ratio):
    return Langevin(Landscape(WELL, (x,)), isotropic(sp.Rational(1, 4 * ratio)))


def _at(times, **place):
    return float(times.interp(**place, method="cubic"))


@pytest.mark.parametrize("ratio", EXACT)
def test_times_from_the_well_to_saddle_and_other_well_meet_the_quadrature(ratio):
    for target, exact in zip((x > 0, x > 1), EXACT[ratio], strict=True):
        times = mean_first_passage_time(_well(ratio), target=target)
        assert _at(times, x=-1.0) == pytest.approx(exact, rel=2e-5)
        assert times.attrs["half_grid_estimate"] < 2e-5


def test_time_at_a_barrier_of_ten_is_good_to_five_in_ten_thousand_even_on_a_coarse_mesh():
    D = 0.025
    inner = lambda z: np.exp(-(z**4 / 4 - z**2 / 2) / D)  # noqa: E731
    outer = lambda u: np.exp((u**4 / 4 - u**2 / 2) / D) * quad(inner, -3, u, epsabs=0, epsrel=1e-11)[0]  # noqa: E731
    exact = quad(outer, -1, 0, epsabs=0, epsrel=1e-10)[0] / D
    assert _at(mean_first_passage_time(_well(10), target=x > 0, shape=400), x=-1.0) == pytest.approx(
        exact, rel=5e-4
    )


def test_the_time_to_the_saddle_is_half_the_time_to_the_other_well_in_the_limit():
    ratio = [EXACT[r][1] / EXACT[r][0] for r in EXACT]
    assert abs(ratio[-1] - 2) < 2e-3 < abs(ratio[0] - 2)


@pytest.mark.parametrize("edge", [0.0, 0.0123, 0.3])
def test_times_are_better_than_second_order_wherever_the_boundary_cuts_the_mesh(edge):
    exact = escape.exact_mean_time(_well(3), start=-1, target=edge)
    sizes, errors = [100, 200, 400, 800], []
    for n in sizes:
        times = mean_first_passage_time(_well(3), target=x > edge, shape=n, box={"x": (-2.2, 2.2)})
        errors.append(abs(_at(times, x=-1.0) / exact - 1))
        assert errors[-1] < 2 * times.attrs["half_grid_estimate"]
    # Extrapolated: below a tenth of 0.4 h², which second order would leave.
    assert all(error < 0.04 * (4.4 / n) ** 2 for n, error in zip(sizes, errors, strict=True)), errors
    assert errors[-1] < 2e-6


def test_free_diffusion_out_of_an_interval_has_its_two_moments():
    free = Diffusion(sp.Matrix([0]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
    target, box = sp.Or(x > 1, x < -1), {"x": (-1.2, 1.2)}
    first = mean_first_passage_time(free, target=target, box=box, shape=600)
    second = mean_first_passage_time(free, target=target, box=box, shape=600, moment=2)
    # D = 1/2: T = 1 − x², and T₂'' /2 = −2T gives T₂ = (5 − 6x² + x⁴)/3.
    line = first.x.to_numpy()
    inside = np.abs(line) < 1
    assert first.to_numpy()[inside] == pytest.approx(1 - line[inside] ** 2, abs=2e-5)
    exact = (5 - 6 * line**2 + line**4)[inside] / 3
    assert second.to_numpy()[inside] == pytest.approx(exact, abs=1e-4)


def test_free_diffusion_out_of_a_disc_takes_the_closed_form_time():
    free = Diffusion(sp.Matrix([0, 0]), sp.eye(2) / 2, (x, y))
    times = mean_first_passage_time(
        free, target=x**2 + y**2 > 1, box={"x": (-1.1, 1.1), "y": (-1.1, 1.1)}, shape=120
    )
    # T = (R² − r²)/(4D) at a curved boundary that cuts cells everywhere.
    assert _at(times, x=0.0, y=0.0) == pytest.approx(0.5, rel=1e-3)
    assert _at(times, x=0.5, y=0.3) == pytest.approx((1 - 0.34) / 2, rel=2e-3)


def test_a_separable_landscape_gives_the_one_dimensional_time():
    separable = Langevin(Landscape(WELL + 2 * y**2, (x, y)), isotropic(0.05))
    times = mean_first_passage_time(
        separable, target=x > 0, box={"x": (-1.9, 1.9), "y": (-0.9, 0.9)}, shape=(200, 60)
    )
    assert _at(times, x=-1.0, y=0.0) == pytest.approx(EXACT[5][0], rel=1e-3)


def test_full_diffusion_in_rotated_coordinates_gives_the_same_time():
    # The separable problem in coordinates u = x + y/2, v = y: D gets off-diagonal entries, T does not change.
    u, v = sp.symbols("u v", real=True)
    old = {x: u - v / 2, y: v}
    b = sp.Matrix([-(x**3 - x), -4 * y]).subs(old, simultaneous=True)
    map_ = sp.Matrix([[1, sp.Rational(1, 2)], [0, 1]])
    process = Diffusion((map_ * b).expand(), map_ * map_.T / 20, (u, v))
    errors = []
    for cells in ((260, 110), (520, 220)):
        times = mean_first_passage_time(
            process, target=u - v / 2 > 0, box={"u": (-2.2, 2.2), "v": (-0.9, 0.9)}, shape=cells
        )
        errors.append(_at(times, u=-1.0, v=0.0) / EXACT[5][0] - 1)
        assert abs(errors[-1]) < 2 * times.attrs["half_grid_estimate"]
    assert abs(errors[1]) < 2e-5
    assert abs(errors[0]) > 4 * abs(errors[1])


def test_committor_in_one_dimension_is_the_splitting_probability():
    q = committor(_well(3), source=x < -1, target=x > 1, shape=1200)
    weight = lambda s: np.exp(12 * (s**4 / 4 - s**2 / 2))  # noqa: E731
    total = quad(weight, -1, 1)[0]
    for place in (-0.5, 0.0, 0.7):
        assert _at(q, x=place) == pytest.approx(quad(weight, -1, place)[0] / total, abs=1e-5)
    assert float(q.min()) == 0.0 and float(q.max()) == 1.0


def test_relaxation_rates_of_a_parabola_are_its_multiples_and_of_two_wells_the_sum_of_escapes():
    parabola = Langevin(Landscape(3 * x**2 / 2, (x,)), isotropic(0.1))
    assert relaxation_rates(parabola, count=3, shape=1000) == pytest.approx([3.0, 6.0, 9.0], rel=2e-4)
    # Each well is left at the rate 1/T(−1 → +1); the difference of populations decays with both.
    assert relaxation_rates(_well(8))[0] == pytest.approx(2 / EXACT[8][1], rel=2e-3)


@pytest.mark.parametrize("power", [4, 6])
@pytest.mark.parametrize("noise", [0.01, 1, 100])
def test_rates_of_flat_minima_are_those_of_the_schroedinger_operator(power, noise):
    # exp(L/2D) 𝓛 exp(−L/2D) = D ∂² − L'²/4D + L''/2, on sinc functions; lengths scale as D^(1/power)
    n = np.arange(300)
    h = 10 / len(n)
    u = h * (n - 149.5)
    k = np.subtract.outer(n, n)
    kinetic = np.where(k == 0, np.pi**2 / 3, 2.0 * (-1.0) ** k / np.where(k == 0, 1, k) ** 2) / h**2
    potential = u ** (2 * power - 2) / 4 - (power - 1) * u ** (power - 2) / 2
    exact = np.linalg.eigvalsh(kinetic + np.diag(potential))[1:4] * noise ** (1 - 2 / power)
    rates = relaxation_rates(Langevin(Landscape(x**power / power, (x,)), isotropic(noise)), count=3)
    assert rates == pytest.approx(exact, rel=1e-4)


def test_random_shift_noise_in_a_bowl_leaves_a_ball_as_in_its_linear_law():
    # L = λx²/2 in one dimension: D = Δ_S λ² is constant, and T follows by quadrature.
    bowl = Langevin(Landscape(2 * x**2, (x,)), random_shift(delta_s=0.01))
    D = 0.01 * 16
    outer = lambda u: np.exp(2 * u**2 / D) * quad(lambda z: np.exp(-2 * z**2 / D), -u, u)[0] / 2  # noqa: E731
    exact = quad(outer, 0, 0.8)[0] / D
    times = mean_first_passage_time(bowl, target=sp.Or(x > 0.8, x < -0.8), box={"x": (-1, 1)})
    assert _at(times, x=0.0) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("barrier", [10, 40, 100, 300])
def test_times_and_rates_behind_any_barrier_are_right_within_their_estimate(barrier):
    process = Langevin(Landscape(WELL + x / 20, (x,)), isotropic(sp.Rational(1, 4 * barrier)))
    box = {"x": (-2, 2)}
    there = mean_first_passage_time(process, target=x > 0.9, box=box)
    back = mean_first_passage_time(process, target=x < -1, box=box)
    for times, start, end in ((there, -1, 0.9), (back, 0.9, -1)):
        exact = escape.exact_log_mean_time(process, start=start, target=end)
        error = abs(np.log(_at(times, x=start)) - exact)
        assert error < 3 * times.attrs["half_grid_estimate"] + 1e-9
    rate = relaxation_rates(process, count=1, box=box)[0]
    expected = 1 / _at(there, x=-1.0) + 1 / _at(back, x=0.9)
    assert rate == pytest.approx(expected, rel=2e-2 if barrier == 10 else 1e-7)


def test_times_over_a_barrier_beyond_floats_are_refused():
    with pytest.raises(RuntimeError, match="above about 670 D"):
        mean_first_passage_time(_well(800), target=x > 0, box={"x": (-1.8, 1.0)}, shape=4000)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (x > 50, "holds no cell"),
        (x > -50, "the target fills the whole box"),
        (y > 0, "the target uses y"),
        (sp.Eq(x, 0), "inequality"),
        (sp.true, "always"),
    ],
)
def test_targets_that_make_no_sense_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        mean_first_passage_time(_well(3), target=target)


def test_a_source_that_overlaps_the_target_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        committor(_well(3), source=x < 1, target=x > 0)
    with pytest.raises(ValueError, match="source and target together fill"):
        committor(_well(3), source=x < 0, target=x >= 0)


@pytest.mark.parametrize(("noise", "right"), [(25, 0.0532361), (28, 0.0382448), (34, 0.0195)])
def test_committor_over_deep_wells_is_the_splitting_probability(noise, right):
    process = Langevin(Landscape(x**2 * (x**2 - 4) ** 2 / 8 + x / 20, (x,)), isotropic(sp.Rational(1, noise)))
    q = committor(process, source=x < -2, target=x > 2, box={"x": (-3.2, 3.2)})
    weight = lambda s: np.exp(noise * (s**2 * (s**2 - 4) ** 2 / 8 + s / 20 - 1.2))  # noqa: E731
    total = quad(weight, -2, 2, points=[-1.15, 1.15], epsrel=1e-11)[0]
    exact = quad(weight, -2, 0, points=[-1.15], epsrel=1e-11)[0] / total
    assert exact == pytest.approx(right, rel=1e-3)
    assert abs(_at(q, x=0.0) - exact) < 2 * q.attrs["half_grid_estimate"] + 1e-9
    assert q.attrs["half_grid_estimate"] < 1e-4


def test_a_committor_inside_a_well_between_sets_beyond_it_is_a_half():
    line = np.linspace(-1.5, 1.5, 300_001)
    weight = np.exp(100 * (line**4 / 4 - line**2 / 2))
    exact = weight[line < -1].sum() / weight.sum()
    q = committor(_well(25), source=x < -1.5, target=x > 1.5)
    assert exact == pytest.approx(0.49999, abs=1e-5)
    assert abs(_at(q, x=-1.0) - exact) < q.attrs["half_grid_estimate"] + 1e-9 < 1e-4


def test_committor_and_rates_on_cells_too_wide_say_so():
    narrow = Langevin(Landscape(WELL + 50 * (y - x**2) ** 2, (x, y)), isotropic(0.03))
    box = {"x": (-1.6, 1.6), "y": (-0.6, 2.4)}
    with pytest.warns(UserWarning, match="committor is good to about"):
        q = committor(narrow, source=x < -0.8, target=x > 0.8, box=box, shape=16)
    true = committor(narrow, source=x < -0.8, target=x > 0.8, box=box, shape=160)
    difference = abs(float(q.interp(x=0.3, y=0.1)) - float(true.interp(x=0.3, y=0.1)))
    assert difference < 3 * q.attrs["half_grid_estimate"]
    with pytest.warns(UserWarning, match="relaxation rates are good to about"):
        relaxation_rates(narrow, box=box, shape=20)


def test_modes_that_rotate_are_complex_and_ordered_by_their_real_part():
    drift = sp.Matrix([-x - 3 * y, 3 * x - y])
    rotating = Diffusion(drift, sp.eye(2), (x, y))
    rates = relaxation_rates(rotating, count=5, box={"x": (-6, 6), "y": (-6, 6)}, shape=64)
    assert rates[:2] == pytest.approx([1 + 3j, 1 - 3j], rel=2e-2)
    assert sorted(rates[2:], key=np.imag) == pytest.approx([2 - 6j, 2, 2 + 6j], rel=2e-2)
    density = stationary_density(rotating, box={"x": (-6, 6), "y": (-6, 6)}, shape=(64, 64))
    assert density.attrs["second_eigenvalue"] == pytest.approx(1.0, rel=2e-2)


def test_rotation_faster_than_decay_is_found_all_the_same():
    fast = Diffusion(sp.Matrix([-x - 40 * y, 40 * x - y]), sp.eye(2), (x, y))
    rates = relaxation_rates(fast, count=2, box={"x": (-5, 5), "y": (-5, 5)}, shape=80)
    assert rates == pytest.approx([1 + 40j, 1 - 40j], rel=1e-2)


@pytest.mark.parametrize("barrier", [8, 60, 200])
def test_relaxation_modes_of_two_wells_are_steps_and_decay_as_they_say(barrier):
    modes = relaxation_modes(_well(barrier), count=3, box={"x": (-2, 2)}, shape=800)
    assert set(modes.dims) == {"mode", "x"} and (modes.frequency == 0).all()
    assert (np.diff(modes.rate) > 0).all() and float(modes.rate[0]) > 0
    # The slowest mode takes one value in each well; the others relax within a well.
    step = modes.right[0].to_numpy()
    left, right = step[modes.x < -0.7], step[modes.x > 0.7]
    assert abs(left.mean() + right.mean()) < 1e-6 and abs(left).min() > 0.99
    assert float(modes.rate[1]) > 0.5
    # Biorthogonal: ∫ψ_i φ_j = 0 for i ≠ j, and ∫ψ = 0 for all of them.
    h = float(modes.x[1] - modes.x[0])
    product = modes.left.to_numpy() @ modes.right.to_numpy().T * h
    scale = np.abs(np.diag(product))
    assert np.abs(product - np.diag(np.diag(product))).max() < 1e-6 * scale.max()
    assert np.abs(modes.left.sum("x") * h).max() < 1e-8
    assert np.abs(modes.left).sum("x").to_numpy() * h == pytest.approx(1.0)


def test_a_high_well_is_not_cut_by_the_window_of_times():
    process = Langevin(Landscape(x**4 / 4 - x**2 / 2 + x / 5, (x,)), isotropic(0.015))
    times = mean_first_passage_time(process, target=x < -1)
    start = max(
        next(iter(c.point.values())) for c in process.landscape.critical_points() if c.kind == "minimum"
    )
    exact = escape.exact_log_mean_time(process, start=start, target=-1)
    error = abs(np.log(_at(times, x=start)) - exact)
    assert error < 3 * times.attrs["half_grid_estimate"] and error < 1e-3


def test_results_on_one_box_have_the_same_coordinates_to_the_bit():
    box = {"x": (-1.7, 1.7)}
    process = Langevin(Landscape(WELL, (x,)), isotropic(0.18))
    P = stationary_density(process, box=box, shape=np.int64(400), walls="reflecting")
    q = committor(process, source=x < -1, target=x > 1, box=box, shape=np.int64(400))
    product = P * (1 - q) * P.cell_volume
    assert product.sizes == {"x": 400}
    assert float(product.sum()) == pytest.approx(0.5, abs=1e-6)


def test_the_chain_gives_times_for_full_noise_over_a_barrier():
    D = sp.Matrix([[1, sp.Rational(3, 5)], [sp.Rational(3, 5), 1]]) / 40
    loss = WELL + 2 * y**2
    process = Diffusion(-40 * D * sp.Matrix([loss.diff(v) for v in (x, y)]) / 40 * 1, D / 40 * 1, (x, y))
    box = {"x": (-1.8, 1.8), "y": (-0.6, 0.6)}
    chain = mean_first_passage_time(process, target=x > 0, method="chain", box=box, shape=(120, 60))
    finer = mean_first_passage_time(process, target=x > 0, method="chain", box=box, shape=(240, 120))
    change = abs(np.log(_at(chain, x=-1.0, y=0.0) / _at(finer, x=-1.0, y=0.0)))
    assert change < 1.5 * chain.attrs["half_grid_estimate"] < 0.2
    with pytest.raises(ValueError, match="method='magic'"):
        mean_first_passage_time(process, target=x > 0, method="magic", box=box, shape=20)


@pytest.mark.parametrize("barrier", [10, 40, 100, 300])
def test_turned_wells_in_two_dimensions_have_right_weights_and_times_within_their_estimate(barrier):
    c, s = sp.sqrt(3) / 2, sp.Rational(1, 2)
    u, v = c * x + s * y, -s * x + c * y
    D = sp.Rational(1, 4 * barrier)
    line = Langevin(Landscape(WELL + x / 20, (x,)), isotropic(D))
    turned = Langevin(Landscape((WELL + x / 20).subs(x, u) + v**2, (x, y)), isotropic(D))
    mesh = {"box": {"x": (-1.6, 1.6), "y": (-1.3, 1.3)}, "shape": (200, 164)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P = stationary_density(turned, **mesh)
        flat = stationary_density(line, box={"x": (-1.8, 1.8)}, shape=4000)
        times = mean_first_passage_time(turned, target=u > 0, **mesh)
    along = float(c) * P.x + 0.5 * P.y
    ratios = [
        float(np.log(p.where(w < 0, 0.0).sum() / p.where(w > 0, 0.0).sum()))
        for p, w in ((P, along), (flat, flat.x))
    ]
    assert ratios[0] == pytest.approx(ratios[1], abs=1e-8 if barrier > 10 else 1e-5)
    exact = escape.exact_log_mean_time(line, start=-1, target=0)
    found = np.log(_at(times, x=-float(c), y=-0.5))
    assert abs(found - exact) < 2 * times.attrs["half_grid_estimate"]


@pytest.mark.parametrize("seed", range(4))
def test_times_of_turned_wells_under_full_noise_lie_within_their_stated_error(seed):
    # Along u the process is one of one variable, whose time scipy integrates: T = ∫ e^U/d ∫ e^−U.
    rng = np.random.default_rng(seed)
    angle, d, tilt, end = (
        rng.uniform(0, np.pi),
        rng.uniform(0.06, 0.2),
        rng.uniform(-0.1, 0.1),
        rng.uniform(-0.3, 0.9),
    )
    c, s = (sp.Float(float(f(angle))) for f in (np.cos, np.sin))
    u, v = c * x + s * y, -s * x + c * y
    across = d * float(rng.choice([0.3, 3.0, 8.0]))
    push, pull = -(u**3 - u + tilt), -2 * v
    D = sp.Matrix([[c, -s], [s, c]]) * sp.diag(d, across) * sp.Matrix([[c, s], [-s, c]])
    process = Diffusion([c * push - s * pull, s * push + c * pull], (D + D.T) / 2, (x, y))
    reach = 2.2 * np.abs([c, s]).astype(float) + 6 * np.sqrt(across / 2) * np.abs([s, c]).astype(float)
    box = {"x": (-reach[0], reach[0]), "y": (-reach[1], reach[1])}
    times = mean_first_passage_time(process, target=u > end, method="chain", box=box, shape=160)

    def energy(w):
        return (w**4 / 4 - w**2 / 2 + tilt * w) / d

    line = np.linspace(-3, end, 40001)
    inner = scipy.integrate.cumulative_simpson(np.exp(-energy(line)), x=line, initial=0)
    whole = scipy.integrate.cumulative_simpson(np.exp(energy(line)) * inner / d, x=line, initial=0)
    exact = whole[-1] - np.interp(-1.0, line, whole)
    error = abs(_at(times, x=-float(c), y=-float(s)) / exact - 1)
    assert error < times.attrs["half_grid_estimate"] < 4e-4
