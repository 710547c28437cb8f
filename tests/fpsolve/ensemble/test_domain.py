"""Walls, edges of D and lost walkers: laws in closed form, with a wrong law that must be rejected."""

import warnings

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import cumulative_simpson, quad

from fpsolve import compare, simulate
from fpsolve.ensemble.wells import _wells
from theory import Diffusion, Landscape, Langevin, isotropic

x, y = sp.symbols("x y", real=True)
R = sp.Rational
WELL = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))
SQUARE = {"x": (0, 1), "y": (0, 1)}


def extrapolated(process, dt=0.02, **options):
    """⟨x⟩ and ⟨x²⟩ for dt → 0 from two steps, each with its standard error."""
    fine, coarse = (simulate(process, time_step=h, rng=k, **options) for k, h in enumerate((dt / 2, dt)))
    pairs = []
    for name in ("mean", "second_moment"):
        a, b = (float(run[name].values.ravel()[0]) for run in (fine, coarse))
        da, db = (float(run[f"{name}_stderr"].values.ravel()[0]) for run in (fine, coarse))
        pairs.append((2 * a - b, float(np.hypot(2 * da, db))))
    return pairs


def assert_moments(found, right, wrong):
    """The right moments within four standard errors, and a wrong law outside."""
    for (value, error), expected, other in zip(found, right, wrong, strict=True):
        assert abs(value - expected) < 4 * error
        assert other is None or abs(value - other) > 4 * error


def test_a_mirror_keeps_boltzmanns_law_and_not_that_without_walls():
    norm, square = (quad(lambda u, k=k: u**k * np.exp(-(u**2) / 2), -1, 1)[0] for k in (0, 2))
    found = extrapolated(WELL, walkers=2000, time=30, burn_in=5, start={"x": 0}, box={"x": (-1, 1)})
    assert_moments(found, (0.0, square / norm), (None, 1.0))


def test_a_mirror_reflects_along_the_noise_where_D_is_not_diagonal():
    process = Diffusion([0, 0], [[1, R(4, 5)], [R(4, 5), 1]], (x, y))
    run = simulate(
        process,
        walkers=2000,
        time=30,
        burn_in=5,
        time_step=0.005,
        start={"x": 0.5, "y": 0.5},
        rng=0,
        box=SQUARE,
    )
    value, error = (float(run[f"second_moment{end}"][0, 1]) for end in ("", "_stderr"))
    assert abs(value - 0.25) < 4 * error  # no flux: x and y are independent and uniform


def test_a_reflected_oscillator_turns_its_velocity():
    process = Diffusion([y, -x - y / 2], [[0, 0], [0, R(1, 2)]], (x, y))
    run = simulate(
        process, walkers=2000, time=100, burn_in=20, time_step=0.1, start={"x": 1, "y": 0}, rng=0,
        box={"x": (0, 9)},
    )  # fmt: skip
    assert run.attrs["scheme"] == "baoab"
    value, error = (float(run[f"mean{end}"][0]) for end in ("", "_stderr"))
    assert abs(value - np.sqrt(2 / np.pi)) < 4 * error
    assert abs(value) > 4 * error  # the mean without a wall


@pytest.mark.parametrize("gamma", [R(1, 20), 2])
def test_an_oscillator_has_its_temperature_at_long_steps_and_weak_friction(gamma):
    process = Diffusion([y, -x - gamma * y], [[0, 0], [0, gamma]], (x, y))
    run = simulate(process, walkers=500, time=400, burn_in=100, time_step=0.2, start={"x": 0, "y": 0}, rng=0)
    value, error = (float(run[f"second_moment{end}"][0, 0]) for end in ("", "_stderr"))
    assert abs(value - 1) < 4 * error
    assert abs(1 / (1 - 0.2 / (2 * float(gamma))) - value) > 4 * error  # heated by Euler's growth ω²dt


def test_a_drift_that_jumps_is_simulated_as_it_is_written():
    drift = -sp.sign(x) + sp.Heaviside(x - 1) / 2  # p ∝ exp(−|x|/D) up to 1, then half as steep
    weight = lambda u: np.exp(-2 * (abs(u) - max(u - 1, 0) / 2))  # noqa: E731
    norm, first, square = (
        quad(lambda u, k=k: u**k * weight(u), -20, 60, points=[0, 1])[0] for k in (0, 1, 2)
    )
    options = {"walkers": 2000, "time": 60, "burn_in": 20, "start": {"x": 0}}
    found = extrapolated(Diffusion([drift], [[R(1, 2)]], (x,)), **options)
    assert_moments(found, (first / norm, square / norm), (0.0, 0.5))  # without the step at 1


def test_a_circle_carries_a_current():
    drift, width = lambda u: 1 + np.sin(u), 2 * np.pi
    potential = lambda u: -u + np.cos(u)  # noqa: E731
    inner = lambda u: np.exp(-potential(u)) * quad(lambda w: np.exp(potential(w)), u, u + width)[0]  # noqa: E731
    norm, first = quad(inner, 0, width)[0], quad(lambda u: u * inner(u), 0, width)[0]
    assert drift(0) == 1
    found = extrapolated(
        Diffusion([1 + sp.sin(x)], [[1]], (x,)), walkers=2000, time=30, burn_in=5, start={"x": 1},
        box={"x": (0, width)}, walls="periodic",
    )  # fmt: skip
    assert_moments(found[:1], (first / norm,), (np.pi,))


def test_absorbing_walls_leave_survivors_at_the_known_rate():
    process = Diffusion([0], [[1]], (x,))
    run = simulate(
        process, walkers=20_000, time=0.3, time_step=2e-3, start={"x": 0.5}, rng=0, box={"x": (0, 1)},
        walls="absorbing",
    )  # fmt: skip
    share, right = 1 - run.attrs["absorbed_walkers"] / 20_000, 4 / np.pi * np.exp(-(np.pi**2) * 0.3)
    assert abs(share - right) < 4 * np.sqrt(right / 20_000)
    assert run.attrs["diverged_walkers"] == 0
    again = simulate(process, start=run, time=0.1)
    assert (again.absorbed >= run.absorbed).all()
    assert again.attrs["absorbed_walkers"] > run.attrs["absorbed_walkers"]


@pytest.mark.parametrize(
    ("drift", "D", "right", "wrong"),
    [
        (2 * (1 - x), x, (1.0, 1.5), (None, 2.0)),  # Gamma(2, 1/2), not the exponential law
        (-x, 1 - x**2, (0.0, 0.5), (None, 1 / 3)),  # arcsine law, not the uniform one
        (1 - 2 * x, x * (1 - x) / 2, (0.5, 0.3), (0.6, 1 / 3)),  # Beta(2, 2)
    ],
)
def test_walkers_stay_where_D_is_a_covariance_and_have_the_known_law(drift, D, right, wrong):
    options = {"walkers": 3000, "time": 30, "burn_in": 10, "start": {"x": 0.5}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extrapolated(Diffusion([drift], [[D]], (x,)), **options)
    assert_moments(found, right, wrong)


def test_a_volatility_that_ends_at_zero_is_kept_above_it_whatever_the_other_variable():
    D = y * sp.Matrix([[R(1, 2), R(-1, 4)], [R(-1, 4), R(1, 2)]])
    process = Diffusion([-y / 2 - x, 1 - y], D, (x, y))
    run = simulate(process, walkers=1000, time=20, burn_in=5, time_step=0.01, start={"x": 0, "y": 1}, rng=0)
    assert run.attrs["walls"] == "y = 0: edge of D (full truncation)"
    assert (run.y >= 0).all()
    assert abs(float(run["mean"][1]) - 1) < 4 * float(run.mean_stderr[1])


def test_a_truncated_run_goes_on_with_the_same_bits():
    process = Diffusion([(1 - x) / 4], [[x]], (x,))
    options = {"walkers": 40, "time_step": 0.02, "start": {"x": 0.1}, "rng": 3}
    whole, half = (simulate(process, time=time, **options) for time in (8, 4))
    assert float(abs(half.excess).max()) > 0
    np.testing.assert_array_equal(simulate(process, start=half, time=4).x, whole.x)


@pytest.mark.parametrize(
    ("D", "time", "message"),
    [
        ([[1, 2], [2, 1]], 1, r"no covariance \(eigenvalue -1\) at x=0, y=0, where walkers start"),
        ([[1, 2 * sp.tanh(x)], [2 * sp.tanh(x), 1]], 5, "no covariance .* where a walker came"),
        ([[1 - x**2 - y**2, 0], [0, 1 - x**2 - y**2]], 5, "no covariance .* where a walker came"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*diverged")
def test_D_that_is_no_covariance_is_refused_before_or_at_the_end(D, time, message):
    with pytest.raises(ValueError, match=message):
        simulate(
            Diffusion([0, 0], D, (x, y)), walkers=200, time=time, time_step=0.1, start={"x": 0, "y": 0}, rng=0
        )


def test_walkers_that_diverge_are_said_and_a_table_shows_no_number_of_many():
    quartic = Langevin(Landscape(x**4 / 4, (x,)), isotropic(1))
    options = {"walkers": 400, "burn_in": 10, "start": {"x": 0}, "rng": 0}
    with pytest.warns(UserWarning, match=r"of 400 walkers \(0\.\d+ of all\) diverged.*smaller time_step"):
        many = simulate(quartic, time=80, time_step=0.25, **options)
    with pytest.raises(ValueError, match="above 10% its averages are not shown"):
        compare.stationary(quartic, many)
    fine = simulate(quartic, time=80, time_step=0.02, **options)
    table = compare.stationary(quartic, many, fine)
    assert {row.method for row in table.rows} == {"ensemble, dt = 0.02"}
    assert any("diverged" in remark for remark in table.remarks)


def test_wells_that_no_walker_leaves_are_said_and_those_in_balance_are_not():
    options = {"walkers": 200, "time": 60, "time_step": 0.05, "start": {"x": 1}, "rng": 0}
    shallow, deep = (
        Langevin(Landscape(x**4 / 4 - x**2 / 2, (x,)), isotropic(D)) for D in (R(1, 4), R(1, 50))
    )
    with pytest.warns(UserWarning, match="0 of 200 walkers ended in another well.*about 100 would"):
        simulate(deep, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(shallow, **options)
        simulate(deep, box={"x": (0.3, 3)}, **options)  # the other well lies beyond the wall


@pytest.mark.parametrize(
    ("drift", "noise", "known"),
    [
        ([x - x**3], [[R(1, 50)]], "in balance"),
        (
            [x - x**3 - y / 2, -y + x / 4 - x**3 / 4],
            sp.eye(2) / 50,
            "if the 2 wells of the drift weighed alike",
        ),
        ([y, x - x**3 - y], sp.diag(0, R(1, 50)), "if the 2 wells of the drift weighed alike"),
    ],
)
def test_wells_of_a_drift_that_no_walker_leaves_are_said(drift, noise, known):
    variables = (x, y)[: len(drift)]
    process = Diffusion(drift, noise, variables)
    start = {str(v): float(v == x) for v in variables}
    with pytest.warns(UserWarning, match=f"0 of 200 walkers ended in another well.*about 100 would {known}"):
        simulate(process, walkers=200, time=60, time_step=0.05, start=start, rng=0)


@pytest.mark.parametrize(
    ("drift", "noise"),
    [
        ([x - x**3], [[R(1, 4)]]),
        ([x - x**3 + R(3, 10)], [[R(1, 50)]]),  # the other well weighs exp(-29)
        ([-x - y, x - y], sp.eye(2)),
        ([y, x - x**3 - y], sp.diag(0, R(1, 4))),
    ],
)
def test_walkers_that_know_all_wells_of_a_drift_are_not_warned_of(drift, noise):
    variables = (x, y)[: len(drift)]
    start = {str(v): float(v == x) for v in variables}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(Diffusion(drift, noise, variables), walkers=200, time=60, time_step=0.05, start=start, rng=0)


def test_weights_of_the_wells_of_a_drift_are_those_of_the_density():
    # A potential hidden in a drift, and noise that depends on the place: P ∝ exp(φ) by scipy.
    D = (1 + x**2 / 2) / 10
    process = Diffusion([x - x**3 + R(1, 10)], [[D]], (x,))
    places, exponents = _wells(process)
    b, d = (sp.lambdify(x, f) for f in (x - x**3 + R(1, 10), D))
    line = np.linspace(-3, 3, 20001)
    phi = cumulative_simpson(b(line) / d(line), x=line, initial=0) - np.log(d(line))
    P = np.exp(phi - phi.max())
    left, right = P[line < 0.1].sum(), P[line > 0.1].sum()
    low, high = np.argsort(places[:, 0])
    assert exponents[low] - exponents[high] == pytest.approx(np.log(right / left), abs=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"walls": "periodic"}, "walls need their places"),
        ({"box": {"x": (-1, 1)}, "walls": {"x": "soft"}}, "must be one of reflecting, periodic, absorbing"),
        ({"box": {"z": (-1, 1)}}, "box names z"),
        ({"box": {"x": (1, -1)}}, "two finite, ascending numbers"),
        ({"box": {"x": (1, 2)}}, "lies between the walkers"),
        ({"box": {"x": (-0.1, 0.1)}, "time_step": 0.5}, "too long for the walls of x"),
    ],
)
def test_senseless_walls_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(WELL, **({"walkers": 2, "time": 1, "time_step": 0.01, "start": {"x": 0}} | change))


def test_a_mirror_without_noise_across_it_is_refused():
    process = Diffusion([-x, x - y], [[1, 0], [0, 0]], (x, y))
    with pytest.raises(ValueError, match="a mirror needs noise across it, and y has none"):
        simulate(process, walkers=2, time=1, time_step=0.1, start={"x": 0, "y": 0}, box={"y": (-1, 1)})


@pytest.mark.parametrize("power", [-16, 0, 16, 32])
def test_the_limit_of_divergence_follows_the_unit(power):
    result = simulate(
        Langevin(Landscape(x**2 / 2, (x,)), isotropic(sp.Integer(10) ** power)),
        walkers=320, time=6, time_step=0.02, rng=1, burn_in=3,
    )  # fmt: skip
    assert not result["diverged"].any()
    size = 10.0 ** (power / 2)
    assert float(result["std"][0]) == pytest.approx(size, rel=0.1)
    assert 1e6 * size <= result.attrs["divergence"] <= 1e12 * size


def test_walkers_that_diverge_name_the_limit():
    steep = Langevin(Landscape(x**4 / 4, (x,)), isotropic(1))
    with pytest.warns(UserWarning, match=r"all 32 walkers diverged \(a coordinate came to divergence=1e\+"):
        simulate(steep, walkers=32, time=50, time_step=1.5, rng=1)
