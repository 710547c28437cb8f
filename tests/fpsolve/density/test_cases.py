"""Every solver on every problem with a known answer."""

import numpy as np
import pytest
from cases import CASES

from fpsolve import compare, simulate, stationary_density

#: A zero average is compared with the width of the variables instead.
SCALE = 0.1


def _solved(case, **options):
    if case.walls != "far":
        options["walls"] = case.walls
    return stationary_density(case.process, box=case.box, **options)


def _check(found, case, relative):
    for quantity, exact in case.averages.items():
        tolerance = relative * (abs(exact) or SCALE)
        assert found[quantity] == pytest.approx(exact, abs=tolerance), quantity


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_finite_volumes_meet_the_known_averages_to_two_in_a_thousand(case):
    density = _solved(case)
    _check(compare.averages(density, case.mirrored), case, 2e-3)
    assert density.attrs["mass"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_spectral_referee_meets_the_known_averages_to_their_digits(case):
    found = compare.averages(_solved(case, method="spectral"), case.mirrored)
    # The referee stops when its own numbers settle to 1e-9; twice that, and the printed digits, remain.
    _check(found, case, case.digits + 2e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c.time_step], ids=lambda c: c.name)
def test_ensembles_meet_the_known_averages_within_four_standard_errors_and_reject_wrong_ones(case):
    """Two step sizes remove the error of first order in the step; what is left is of second."""
    found, error = {}, {}
    for point, step in enumerate((case.time_step, case.time_step / 2)):
        seed = np.random.SeedSequence(5, spawn_key=(point,))
        start = dict.fromkeys(case.process.names, 0.1)
        run = simulate(
            case.process, walkers=2000, time=300.0, burn_in=100.0, time_step=step, start=start, rng=seed
        )
        assert int(run.diverged.sum()) == 0
        found[point] = _second_moments(run, "second_moment")
        error[point] = _second_moments(run, "second_moment_stderr")
    for quantity in [q for q in case.averages if q in found[0]]:
        exact = case.averages[quantity]
        value = 2 * found[1][quantity] - found[0][quantity]
        stderr = np.hypot(2 * error[1][quantity], error[0][quantity])
        allowed = 4 * stderr + case.time_step**2 * abs(exact)
        assert abs(value - exact) < allowed, quantity
        assert abs(value - 1.1 * exact) > allowed, f"{quantity} does not reject a law 10 % off"


def _second_moments(run, name):
    """⟨v²⟩ and ⟨u v⟩ of an ensemble, by the names of the cases."""
    names = list(run.indexes["variable"])
    matrix = run[name].to_numpy()
    found = {f"<{v}^2>": float(matrix[i, i]) for i, v in enumerate(names)}
    if len(names) == 2:
        found[f"<{names[0]} {names[1]}>"] = float(matrix[0, 1])
    return found
