"""Phases of SGD: borders, the simulated transition and which border it follows, exponents, divergence."""

import numpy as np
import pytest
import sympy as sp

from fpsolve import open_sweep, phases, power_law
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    adiabatic,
    degenerate_valley,
    escape,
    phase_boundaries,
    random_shift,
    slow_passage,
)

VALLEY = degenerate_valley()
SEED = np.random.SeedSequence(3, spawn_key=(0,))


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_search_time_is_the_exact_first_passage_time_of_the_reduced_process(ratio):
    noise = 5.0247e-4 * ratio
    reduced = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=noise)), order=2)
    process = Diffusion(sp.Matrix([reduced.drift]), sp.Matrix([[reduced.diffusion]]), reduced.slow)
    target = slow_passage.steady_state(VALLEY, delta_s=noise)
    exact = escape.exact_mean_time(process, 1.5, target)
    assert slow_passage.search_time(VALLEY, delta_s=noise, start=1.5) == pytest.approx(exact, rel=1e-3)
    # and from the other side, both wells as one
    if target > 0:
        exact = escape.exact_mean_time(process, 0.0, target, other_end=0.0)
        assert slow_passage.search_time(VALLEY, delta_s=noise, start=0.0) == pytest.approx(exact, rel=1e-3)


def test_the_steady_state_is_the_mode_of_the_reduced_density_and_splits_at_the_critical_noise():
    critical = phase_boundaries.critical_noise(VALLEY, order=2)
    assert slow_passage.steady_state(VALLEY, delta_s=0.999 * critical) == 0
    for ratio in (1.01, 1.5):
        reduced = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=ratio * critical)), order=2)
        mode = reduced.moments()["mode |x|"]
        assert slow_passage.steady_state(VALLEY, delta_s=ratio * critical) == pytest.approx(mode, abs=2e-4)


def test_the_order_parameter_of_the_reduced_theory_grows_linearly():
    critical = phase_boundaries.critical_noise(VALLEY, order=2)
    ratio = np.geomspace(1.002, 1.02, 8)
    curvature = sp.lambdify("x", phase_boundaries.floor_curvature(VALLEY))
    states = [slow_passage.steady_state(VALLEY, delta_s=r * critical) for r in ratio]
    gain = np.array([curvature(x) ** -0.5 - 8**-0.5 for x in states])
    beta = power_law(ratio, gain, origin=1.0)
    assert beta.exponent == pytest.approx(1.0, abs=0.03)


def test_equivalent_noise_is_critical_where_the_finite_step_border_says():
    star = phase_boundaries.critical_sigma(VALLEY, learning_rate=0.04)
    assert float(phase_boundaries.equivalent_noise(VALLEY, sigma=star, learning_rate=0.04)) == pytest.approx(
        5e-4
    )


def test_the_flattest_point_and_where_y_runs_away_solve_their_equations():
    assert phase_boundaries.flattest_point(VALLEY) == pytest.approx(1.0, abs=1e-6)
    assert phase_boundaries.flattest_point(degenerate_valley((8, 2, 1), 1e-3)) == 0.0
    sigma, eta = 0.3, 0.04
    x = phase_boundaries.second_moment_limit(VALLEY, sigma=sigma, learning_rate=eta)
    curvature, slope = 8 - 2 * x**2 + x**4, -4 * x + 4 * x**3
    assert (1 - eta * curvature) ** 2 + 2 * sigma * eta**2 * slope**2 == pytest.approx(1, abs=1e-9)
    assert x > 1


def test_divergence_conditions_of_the_paper_are_the_derived_numbers():
    eta = 0.04
    bound = phase_boundaries.divergence_noise(VALLEY, learning_rate=eta)
    assert eta * 7 * (1 + 3 * bound**2 * 4) == pytest.approx(2)
    assert phase_boundaries.divergence_noise(VALLEY, learning_rate=0.3) == 0
    # with the full p(x), ⟨λ⟩ stays between λ_F = 7 and λ(0) = 8
    rates = [slow_passage.divergence_learning_rate(VALLEY, delta_s=d) for d in (1e-5, 1e-2, 1.0)]
    assert rates[0] == pytest.approx(2 / 8, rel=1e-3)
    assert all(2 / 8 < rate < 2 / 7 for rate in rates[1:])
    reduced = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=1e-3)), order=1)
    points = np.linspace(*reduced.support, 4001)
    mean = np.trapezoid(reduced.density(points) * (8 - 2 * points**2 + points**4), points)
    assert slow_passage.divergence_learning_rate(VALLEY, delta_s=1e-3) == pytest.approx(2 / mean, rel=1e-4)


def test_walkers_diverge_where_the_lifetime_says_and_far_below_the_published_bound():
    eta, time = 0.1, 300.0
    half = slow_passage.divergence_sigma(VALLEY, learning_rate=eta, time=time)
    options = {"landscape": VALLEY, "walkers": 64, "time": time, "burn_in": 100.0}
    below, above = (phases.phase_point(f * half, eta, SEED, **options) for f in (0.5, 2.0))
    assert below["diverged"][1] < 16 and below["phase"][1] == 2
    assert above["diverged"][1] > 48 and above["phase"][1] == 3
    assert 2.0 * half < 0.1 * phase_boundaries.divergence_noise(VALLEY, learning_rate=eta) / eta
    # a longer run loses more walkers: phase III is a matter of time
    assert slow_passage.divergence_sigma(VALLEY, learning_rate=eta, time=10 * time) < half


@pytest.fixture(scope="module")
def diagram(tmp_path_factory):
    store = tmp_path_factory.mktemp("phases") / "diagram.nc"
    return phases.phase_diagram(
        VALLEY, sigma=[0.001, 0.02, 2.0], learning_rate=[0.05, 0.1], walkers=32, time=1500, burn_in=1200, store=store
    )  # fmt: skip


def test_the_three_phases_are_found_and_divergence_is_counted(diagram):
    assert diagram.phase.to_numpy().tolist() == [[1, 1], [2, 2], [3, 3]]
    assert diagram.diverged.to_numpy().tolist() == [[0, 0], [0, 0], [32, 32]]
    assert (diagram.settled.to_numpy()[:2] == 1).all()
    assert (diagram.steady_state[0] == 0).all() and diagram.flatness[0].to_numpy() == pytest.approx(8**-0.5)
    assert diagram.flatness[2].isnull().all() and diagram.search_time[2].isnull().all()


def test_flatness_of_phase_two_meets_the_reduced_theory_at_the_equivalent_noise(diagram):
    for eta in (0.05, 0.1):
        noise = float(phase_boundaries.equivalent_noise(VALLEY, sigma=0.02, learning_rate=eta))
        cell = diagram.sel(sigma=0.02, learning_rate=eta)
        theory = adiabatic.eliminate(Langevin(VALLEY, random_shift(delta_s=noise)), order=2).moments()
        mean_square, spread = theory["<x^2>"], theory["std(|x|)"]
        expected = np.sqrt(mean_square - spread**2)
        # the equivalent noise is right at x = 0 only: 3 % where x is large
        assert float(cell.abs_x) == pytest.approx(expected, rel=0.03)


def test_search_time_of_the_map_is_that_of_the_reduced_process():
    # From the floor: no descent in y comes first. Relative error η plus statistics.
    eta, ratio = 0.01, 2.0
    sigma = ratio * float(phase_boundaries.critical_sigma(VALLEY, learning_rate=eta))
    noise = float(phase_boundaries.equivalent_noise(VALLEY, sigma=sigma, learning_rate=eta))
    options = {"landscape": VALLEY, "walkers": 64, "time": 1500.0, "burn_in": 1000.0, "start": (0.0, 0.0)}
    point = phases.phase_point(sigma, eta, SEED, **options)
    found, error = point["search_time"][1], point["search_time_stderr"][1]
    theory = slow_passage.search_time(VALLEY, delta_s=noise, start=0.0, target=point["steady_state"][1])
    assert abs(found - theory) < 4 * error + 0.05 * theory
    wrong = slow_passage.search_time(VALLEY, delta_s=0.5 * noise * 1.1, start=0.0)
    assert abs(found - wrong) > 4 * error


@pytest.mark.slow
def test_the_simulated_transition_follows_the_finite_step_border_and_not_the_leading_one():
    found = phases.transition(
        VALLEY, learning_rate=[0.08], factor=(0.98, 1.0, 1.02), walkers=256, time=1.5e4, burn_in=5e3
    )
    borders = phases.boundaries(VALLEY, learning_rate=[0.08], time=100.0)
    star, low, high = (float(found[f"sigma_star{end}"].item()) for end in ("", "_low", "_high"))
    assert low < star < high and (high - low) / star < 0.02
    assert star == pytest.approx(float(borders.finite_step_second_order.item()), rel=0.01)
    assert abs(star / float(borders.finite_step.item()) - 1) < 0.02
    for wrong in ("leading", "ito_prefactor", "second_order"):
        assert float(borders[wrong].item()) / high > 1.4  # 1/(1 − ηλ₀/2) = 1.47 at η = 0.08


def test_borders_are_those_of_the_theory_in_their_order():
    borders = phases.boundaries(VALLEY, learning_rate=[0.04], time=3000.0)
    sigma = {
        name: float(borders[name].item()) for name in borders if borders[name].dims == ("learning_rate",)
    }
    assert sigma["leading"] * 0.04 == pytest.approx(5e-4)
    assert sigma["ito_prefactor"] * 0.04 == pytest.approx(5.0401e-4, rel=1e-5)
    assert sigma["finite_step"] / sigma["leading"] == pytest.approx(0.84)
    assert sigma["kappa_at_zero"] > 50 * sigma["lifetime"]


def test_a_diagram_in_a_store_is_read_again(diagram, tmp_path):
    store, grid = tmp_path / "again.nc", {"sigma": [0.02], "learning_rate": [0.1]}
    options = grid | {"walkers": 8, "time": 50.0, "burn_in": 10.0, "store": store}
    first = phases.phase_diagram(VALLEY, **options)
    assert phases.phase_diagram(VALLEY, **options).identical(first)
    assert open_sweep(store).phase.equals(first.phase)
    with pytest.raises(ValueError, match="another sweep"):
        phases.phase_diagram(degenerate_valley((8, -2, 2), 1e-3), **options)


def test_a_power_law_is_recovered_with_an_interval_that_covers_and_another_exponent_is_not():
    generator = np.random.default_rng(0)
    x = np.geomspace(0.02, 0.5, 12) + 1.0
    hits = 0
    for trial in range(40):
        errors = 0.03 * np.ones(12)
        y = 2.0 * (x - 1.0) ** 1.3
        fit = power_law(
            x, y * (1 + errors * generator.normal(size=12)), origin=1.0, stderr=errors * y, rng=trial
        )
        hits += fit.low < 1.3 < fit.high
        assert not fit.low < 1.0 < fit.high
    assert hits >= 33  # 95 % of 40 is 38 ± 1.4


def test_mistakes_are_named_before_any_run():
    x, y = sp.symbols("x y", real=True)
    tilted = Landscape(x + (4 + x**2) * y**2, (x, y), fast=(y,))
    with pytest.raises(ValueError, match="even in x"):
        phases.phase_diagram(tilted, sigma=[0.1], learning_rate=[0.1])
    with pytest.raises(ValueError, match="sigma="):
        phases.phase_diagram(VALLEY, sigma=[-0.1], learning_rate=[0.1])
    with pytest.raises(ValueError, match="burn_in"):
        phases.phase_diagram(VALLEY, sigma=[0.1], learning_rate=[0.1], time=10, burn_in=10)
    with pytest.raises(ValueError, match="at least 3"):
        phases.transition(VALLEY, learning_rate=[0.1], factor=(1.0, 1.1))
    with pytest.raises(ValueError, match="one slow and one fast"):
        phases.boundaries(degenerate_valley(((8, -2, 1), (6,)), 1e-3), learning_rate=[0.1], time=1.0)
    with pytest.raises(ValueError, match="one side"):
        power_law([0.9, 1.1, 1.2], [1, 1, 1], origin=1.0)
