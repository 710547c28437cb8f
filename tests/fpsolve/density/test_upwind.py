"""Noise missing in a direction: densities, rates, times and committors against Brinkman's hierarchy, Lyapunov, walkers."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sparse
import sympy as sp
from scipy.integrate import quad
from scipy.linalg import solve_continuous_lyapunov
from scipy.sparse.linalg import eigs

from fpsolve import committor, mean_first_passage_time, relaxation_rates, stationary_density
from fpsolve.density.shear import sheared
from fpsolve.density.upwind import check_reach, noiseless_directions
from theory import Diffusion

x, v, z = sp.symbols("x v z", real=True)
BOX = {"x": (-2.2, 2.2), "v": (-2.2, 2.2)}


def _underdamped(friction, temperature):
    """x' = v, v' = x − x³ − γv + √(2γT) ξ."""
    gamma, T = sp.Rational(str(friction)), sp.Rational(str(temperature))
    return Diffusion([v, x - x**3 - gamma * v], [[0, 0], [0, gamma * T]], (x, v), "underdamped double well")


def _second_moment(temperature):
    weight = lambda q: np.exp(-(q**4 / 4 - q**2 / 2) / temperature)  # noqa: E731
    return quad(lambda q: q**2 * weight(q), -4, 4)[0] / quad(weight, -4, 4)[0]


def _linear(drift, diffusion, names):
    """X' = A X with noise D."""
    A = sp.Matrix(drift)
    return Diffusion(A * sp.Matrix(names), sp.Matrix(diffusion), names)


def _brinkman_rates(friction, temperature, count, hermite=60, points=70):
    """Rates of Brinkman's hierarchy: −𝓛 = γ a†a − √T (a† B − a Bᵀ), a lowers Hermite functions of v.

    B = ∂ + V'/2T on sinc functions of x (Risken, The Fokker–Planck Equation, ch. 10).
    """
    line = np.linspace(-2.6, 2.6, points)
    h = line[1] - line[0]
    k = np.subtract.outer(np.arange(points), np.arange(points))
    derivative = np.where(k == 0, 0.0, (-1.0) ** k / (h * np.where(k == 0, 1, k)))
    B = derivative + np.diag((line**3 - line) / (2 * temperature))
    lower = sparse.diags(np.sqrt(np.arange(1, hermite)), 1)
    hops = sparse.kron(lower.T, B) - sparse.kron(lower, B.T)
    operator = friction * sparse.kron(lower.T @ lower, sparse.identity(points)) - np.sqrt(temperature) * hops
    values = eigs(operator.tocsc(), k=20, sigma=-1e-3, return_eigenvectors=False)
    return values[np.argsort(values.real)][1 : count + 1]


@pytest.mark.parametrize(("friction", "temperature"), [(0.1, 0.2), (1, 0.1), (5, 0.1)])
def test_density_of_an_underdamped_well_is_found_in_a_box_of_its_own(friction, temperature):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        P = stationary_density(_underdamped(friction, temperature))
    W = P * P.cell_volume
    error = abs(float((W * P.x**2).sum()) / _second_moment(temperature) - 1)
    assert error < P.attrs["half_grid_estimate"] < 1e-4
    assert float((W * P.v**2).sum()) == pytest.approx(temperature, rel=1e-6)
    exact = np.exp(-(P.x**4 / 4 - P.x**2 / 2 + P.v**2 / 2) / temperature)
    assert float(abs(W - exact / exact.sum()).sum()) < 1e-4


@pytest.mark.parametrize(
    "noise", [(0, 0, 1), pytest.param((0, sp.Rational(1, 2), sp.Rational(1, 3)), marks=pytest.mark.slow)]
)
def test_three_variables_driven_through_the_drift_have_the_covariance_of_lyapunov(noise):
    # x' = v, v' = −x − v + z, and z' = −z with noise in z alone, or in v and z.
    process = _linear([[0, 1, 0], [-1, -1, 1], [0, 0, -1]], sp.diag(*noise), (x, v, z))
    A, D = (np.array(m, float) for m in (process.drift.jacobian((x, v, z)), process.diffusion))
    S = solve_continuous_lyapunov(A, -2 * D)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P = stationary_density(process, shape=16)
    W = P * P.cell_volume
    errors = [abs(float((W * u * u).sum()) / S[k, k] - 1) for k, u in enumerate((P.x, P.v, P.z))]
    assert max(errors) < min(1e-3, P.attrs["half_grid_estimate"])


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1, 2])
def test_an_underdamped_double_well_under_coloured_noise_is_right_within_its_stated_error(rate):
    # Exact for every U: <v²> = <v z> at friction 1, <z²> = D/rate, and <v²> + <x z> = <x U'>.
    process = Diffusion([v, x - x**3 - v + z, -rate * z], sp.diag(0, 0, sp.Rational(rate, 2)), (x, v, z))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        P = stationary_density(process)
    W, stated = P * P.cell_volume, P.attrs["half_grid_estimate"]
    assert stated < 0.1
    mean = {name: float((W * value).sum()) for name, value in
            {"vv": P.v**2, "vz": P.v * P.z, "zz": P.z**2, "xz": P.x * P.z, "xU": P.x**4 - P.x**2}.items()}  # fmt: skip
    assert mean["vv"] == pytest.approx(mean["vz"], rel=2 * stated)
    assert mean["zz"] == pytest.approx(0.5, rel=2 * stated)
    assert mean["vv"] + mean["xz"] == pytest.approx(mean["xU"], abs=2 * stated)


@pytest.mark.parametrize("time", [0.05, 0.5, 2])
def test_coloured_noise_has_the_covariance_of_lyapunov_within_its_stated_error(time):
    tau = sp.Rational(str(time))
    process = _linear([[-1, 1], [0, -1 / tau]], [[0, 0], [0, 1 / (2 * tau**2)]], (x, z))
    S = solve_continuous_lyapunov(
        np.array(process.drift.jacobian((x, z)), float), -2.0 * np.array(process.diffusion, float)
    )
    P = stationary_density(process)
    W = P * P.cell_volume
    assert P.attrs["half_grid_estimate"] < 1e-4
    for u, w, exact in ((P.x, P.x, S[0, 0]), (P.x, P.z, S[0, 1]), (P.z, P.z, S[1, 1])):
        assert float((W * u * w).sum()) == pytest.approx(exact, rel=max(P.attrs["half_grid_estimate"], 1e-8))


@pytest.mark.parametrize("friction", [0.5, 1, 5])
def test_rates_of_an_underdamped_well_are_those_of_brinkmans_hierarchy(friction):
    exact = _brinkman_rates(friction, 0.1, 2)
    rates = relaxation_rates(_underdamped(friction, 0.1), box=BOX, shape=100)
    assert np.real(rates) == pytest.approx(exact.real, rel=2e-4)
    assert np.abs(np.imag(rates)) == pytest.approx(np.abs(exact.imag), rel=2e-4, abs=1e-8)


def test_rates_of_a_linear_process_are_sums_of_the_drifts_eigenvalues():
    process = _linear([[-1, 1], [0, -3]], [[0, 0], [0, 1]], (x, z))
    assert relaxation_rates(process, count=4, shape=60) == pytest.approx([1, 2, 3, 3], rel=1e-5)


def test_velocity_on_a_tilted_washboard_is_that_of_brinkmans_hierarchy():
    friction, T, force, waves, hermite = 0.5, 0.5, 0.3, 16, 30
    k = np.arange(-waves, waves + 1)
    lower, along = np.diag(np.sqrt(np.arange(1, hermite)), 1), np.diag(1j * k)
    shift = np.eye(len(k), k=-1)
    push = force * np.eye(len(k)) - (shift - shift.T) / 2j
    operator = -friction * np.kron(lower.T @ lower, np.eye(len(k)))
    operator = operator - np.sqrt(T) * np.kron(lower + lower.T, along) + np.kron(lower.T, push) / np.sqrt(T)
    operator[waves], right = np.eye(len(operator))[waves], np.eye(len(operator))[waves]
    exact = np.sqrt(T) * np.linalg.solve(operator, right).reshape(hermite, -1)[1, waves].real

    process = Diffusion([v, force - sp.sin(x) - friction * v], [[0, 0], [0, friction * T]], (x, v))
    box = {"x": (-np.pi, np.pi), "v": (-6, 6)}
    P = stationary_density(process, box=box, walls={"x": "periodic", "v": "far"}, shape=100)
    assert float((P * P.cell_volume * P.v).sum()) == pytest.approx(exact, rel=P.attrs["half_grid_estimate"])
    assert P.attrs["half_grid_estimate"] < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_along_any_line_gives_the_covariance_of_lyapunov_within_its_stated_error(seed):
    rng = np.random.default_rng(seed)
    drift, direction = rng.normal(size=(2, 2)), rng.normal(size=2)
    drift -= (np.linalg.eigvals(drift).real.max() + 0.5) * np.eye(2)
    noise = np.outer(direction, direction)
    S = solve_continuous_lyapunov(drift, -2 * noise)
    reach = 6 * np.sqrt(S.diagonal())
    box = {"x": (-reach[0], reach[0]), "z": (-reach[1], reach[1])}
    P = stationary_density(_linear(drift, noise, (x, z)), box=box)
    W, error = P * P.cell_volume, P.attrs["half_grid_estimate"]
    assert error < 1e-4
    for u, w, i, j in ((P.x, P.x, 0, 0), (P.x, P.z, 0, 1), (P.z, P.z, 1, 1)):
        assert abs(float((W * u * w).sum()) - S[i, j]) < error * np.sqrt(S[i, i] * S[j, j])


@pytest.mark.parametrize(("noise", "words"), [([[0, 0], [0, 1]], "reaches x,"), ([[1, 1], [1, 1]], "x .* z")])
def test_a_law_that_noise_never_reaches_is_refused(noise, words):
    with pytest.raises(ValueError, match=words):
        stationary_density(_linear([[-1, 0], [0, -1]], noise, (x, z)))


@pytest.mark.parametrize("exponent", [-20, -8, 8, 20])
@pytest.mark.parametrize(
    ("drift", "noise", "reached"),
    [
        ([[-1, 0], [0, -2]], [[1, 0], [0, 1]], True),
        ([[-1, 0], [0, -2]], [[1, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]], True),
        ([[-1, 0], [0, -2]], [[1, 1], [1, 1]], True),
        ([[0, 1], [-1, -3]], [[0, 0], [0, 1]], True),
        ([[-1, 0], [0, -2]], [[1, 0], [0, 0]], False),
        ([[-2, 0], [0, -2]], [[1, 1], [1, 1]], False),
    ],
)
def test_what_noise_reaches_does_not_depend_on_the_units(drift, noise, reached, exponent):
    units = sp.diag(1, sp.Integer(10) ** exponent)
    process = _linear(units * sp.Matrix(drift) * units.inv(), units * sp.Matrix(noise) * units, (x, z))
    assert len(noiseless_directions(process)) == 2 - sp.Matrix(noise).rank()
    if reached:
        check_reach(process)
    else:
        with pytest.raises(ValueError, match="no noise reaches"):
            check_reach(process)


def test_a_density_of_two_variables_in_very_unlike_units_is_that_of_ornstein_and_uhlenbeck():
    noise = [[sp.Rational(1, 10**8), 0], [0, 10**8]]
    P = stationary_density(_linear([[-1, 0], [0, -2]], noise, (x, z)))
    W = P * P.cell_volume
    assert float((W * P.x**2).sum()) == pytest.approx(1e-8, rel=1e-3)
    assert float((W * P.z**2).sum()) == pytest.approx(5e7, rel=1e-3)


def test_an_oscillator_in_very_unlike_units_has_the_variances_of_equipartition():
    drift = [[0, 10**8], [-sp.Rational(1, 10**8), -1]]
    P = stationary_density(_linear(drift, [[0, 0], [0, sp.Rational(1, 10**4)]], (x, v)))
    W = P * P.cell_volume
    assert float((W * P.x**2).sum()) == pytest.approx(1e12, rel=1e-3)
    assert float((W * P.v**2).sum()) == pytest.approx(1e-4, rel=1e-3)


#: Committor at (−0.3, 0.5) between |x| > 1 and mean time from (−1, 0) to x > 0 at T = 0.1, with standard errors:
#: BAOAB of 300 000 and 20 000 walkers, time step 0.005 and 0.01.
WALKERS = {
    0.1: ((0.96705, 0.0003), (120.1, 0.75)),
    0.5: ((0.68327, 0.0008), (73.01, 0.49)),
    1: ((0.51987, 0.0009), (80.26, 0.55)),
    5: ((0.27895, 0.0008), (193.1, 1.3)),
}


@pytest.mark.parametrize("friction", WALKERS)
def test_committors_and_times_of_an_underdamped_well_are_those_of_walkers(friction):
    (probability, scatter), (time, spread) = WALKERS[friction]
    process = _underdamped(friction, 0.1)
    q = committor(process, source=x < -1, target=x > 1, box=BOX, shape=100)
    assert float(q.interp(x=-0.3, v=0.5, method="cubic")) == pytest.approx(probability, abs=3 * scatter)
    assert q.attrs["half_grid_estimate"] < 0.02
    times = mean_first_passage_time(process, target=x > 0, box=BOX, shape=150)
    assert float(times.interp(x=-1, v=0, method="cubic")) == pytest.approx(time, abs=3 * spread)
    assert times.attrs["usable"] == 1
    assert times.attrs["half_grid_estimate"] < 0.01
    assert float(times.min()) >= 0


def test_a_committor_between_sets_within_one_swing_is_that_of_walkers():
    """From (0, 0.2), T = 0.05, to x > 0.9 before x < −0.9: 40 000 walkers, steps OBABO of 0.005: 0.757 ± 0.002."""
    box = {"x": (-1.8, 1.8), "v": (-1.5, 1.5)}
    q = committor(_underdamped(1, 0.05), source=x < -0.9, target=x > 0.9, box=box, shape=100)
    assert float(q.interp(x=0, v=0.2, method="cubic")) == pytest.approx(0.757, abs=3 * 0.002)
    middle = q.where(abs(q.x) < 0.1)
    assert 0 < float(middle.min()) < 0.01 and 0.99 < float(middle.max()) < 1


def test_times_over_a_barrier_of_twelve_converge_within_their_stated_error():
    process, box = _underdamped(1, 0.02), {"x": (-1.7, 1.7), "v": (-1.3, 1.3)}
    fine, coarse = (mean_first_passage_time(process, target=x > 0, box=box, shape=n) for n in (180, 100))
    found, exact = (float(t.interp(x=-1, v=0, method="cubic")) for t in (coarse, fine))
    assert abs(found / exact - 1) < coarse.attrs["half_grid_estimate"] < 1
    # Twice Kramers' rate for moderate friction bounds the rate of first crossings of the saddle from above.
    rate = (np.sqrt(0.25 + 1) - 0.5) * np.sqrt(2) / (2 * np.pi) * np.exp(-12.5)
    assert 1 < 1 / (exact * rate) < 2


def test_sets_and_times_in_sheared_variables_are_those_of_the_straight_process():
    """x' = v with u = v + x/2 as second variable: the noise acts along u, the drift mixes both."""
    straight = _underdamped(1, 0.1)
    u = sp.Symbol("u", real=True)
    w = u - x / 2
    mixed = Diffusion([w, x - x**3 - w + w / 2], [[0, 0], [0, sp.Rational(1, 10)]], (x, u))
    turned = Diffusion([w + (x - x**3 - w), x - x**3 - w + w / 2], sp.ones(2, 2) / 10, (x, u))
    assert sheared(mixed) is None
    assert sheared(turned) is not None
    q = committor(straight, source=x < -1, target=x > 1, box=BOX, shape=80)
    r = committor(mixed, source=x < -1, target=x > 1, box={"x": BOX["x"], "u": (-2.2, 2.2)}, shape=80)
    here, there = q.interp(x=-0.3, v=0.5, method="cubic"), r.interp(x=-0.3, u=0.35, method="cubic")
    assert float(here) == pytest.approx(float(there), abs=2e-3)


def test_committors_for_noise_along_a_line_are_those_of_walkers():
    """From (0.3, 0.5) to x > 1 before x < −1: 40 000 walkers with a bridge, time step 5e-4: 0.6686 ± 0.0024."""
    drift, direction = np.array([[-1.0, 0.7], [-0.9, -0.5]]), np.array([1.0, 0.6])
    process = _linear(drift, np.outer(direction, direction) / 2, (x, z))
    q = committor(process, source=x < -1, target=x > 1, box={"x": (-4, 4), "z": (-4, 4)}, shape=100)
    assert float(q.interp(x=0.3, z=0.5)) == pytest.approx(0.6686, abs=0.007)
    assert q.attrs["half_grid_estimate"] < 0.05
