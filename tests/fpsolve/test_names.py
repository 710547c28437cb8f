"""Names of variables: whatever a variable is called, its numbers are the same, or it is to be renamed."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad

from fpsolve import evolve, passage_time_law, relaxation_modes, simulate, simulate_escape, stationary_density
from theory import Landscape, Langevin, hessian_proportional, isotropic

BOX = (-1.5, 1.5)


def square(density):
    return float((density * density.cell_volume * density[density.dims[-1]] ** 2).sum())


def asked(function, v):
    """One number of each function for a walker named v in L = e v²/2 + v⁴/4, D = 1/10."""
    process, name = Langevin(Landscape(sp.exp(1) * v**2 / 2 + v**4 / 4, (v,)), isotropic(0.1)), str(v)
    grid = {"box": {name: BOX}, "shape": 120}
    walk = {"walkers": 20, "time_step": 0.05, "rng": 0, "start": {name: 0}}
    match function:
        case "volumes":
            return square(stationary_density(process))
        case "spectral":
            return square(stationary_density(process, method="spectral"))
        case "modes":
            return relaxation_modes(process, **grid).rate.to_numpy()
        case "evolve":
            return square(evolve(process, {name: 0.5}, times=[9.0], **grid)[0])
        case "passages":
            law = passage_time_law(process, {name: 0}, target=v > 0.5, times=[1.0], **grid)
            return law.survival.to_numpy()
        case "walkers":
            return simulate(process, time=9, burn_in=1, **walk).second_moment.to_numpy()
        case "escapes":
            return simulate_escape(process, target=v > 0.5, max_time=99, **walk).escape_time.to_numpy()


FUNCTIONS = ["volumes", "spectral", "modes", "evolve", "passages", "walkers", "escapes"]


@pytest.fixture(scope="module")
def usual():
    return {function: asked(function, sp.Symbol("x", real=True)) for function in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_variable_of_any_name_has_the_same_numbers_or_is_to_be_renamed(function, usual):
    refused = set()
    for name in ("e", "pi", "lambda", "maximum", "reduce", "np", "x0", "time_step", "density", "cell_volume",
                 "time", "mode", "rate", "right", "survival", "walker", "second_moment", "outcome"):  # fmt: skip
        try:
            found = asked(function, sp.Symbol(name, real=True))
        except ValueError as error:
            refused.add(name)
            said = str(error)
        else:
            np.testing.assert_array_equal(found, usual[function])
            continue
        assert said == f"rename the variable {name}: results use that name"
    assert not refused & {"e", "pi", "lambda", "maximum", "reduce", "np", "x0"}


def test_the_usual_name_has_the_right_number(usual):
    weight = lambda u: np.exp(-(np.e * u * u / 2 + u**4 / 4) / 0.1)  # noqa: E731
    exact = quad(lambda u: u * u * weight(u), *BOX)[0] / quad(weight, *BOX)[0]
    assert exact == pytest.approx(0.0354337, rel=1e-6)
    assert [usual[f] for f in ("volumes", "spectral", "evolve")] == pytest.approx([exact] * 3, rel=1e-3)


def test_names_of_functions_take_any_noise():
    loss = lambda u, v: u**2 + v**2 + u * v / 2 + u**4  # noqa: E731
    found = []
    for names in ("x y", "maximum reduce"):
        u, v = sp.symbols(names, real=True)
        process = Langevin(Landscape(loss(u, v), (u, v)), hessian_proportional(0.1))
        box = dict.fromkeys(process.names, BOX)
        found.append(stationary_density(process, box=box, shape=60).to_numpy())
    np.testing.assert_array_equal(*found)
