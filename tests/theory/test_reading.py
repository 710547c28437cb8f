"""Readings of noise that depends on the place: the laws that each must have, by quadrature."""

import numpy as np
import pytest
import sympy as sp
from scipy import integrate

from fpsolve import simulate, stationary_density
from theory import Diffusion

x, y = sp.symbols("x y", real=True)
D = sp.Rational(1, 2) * (1 + x**2 / 2)


def second_moment(power):
    """⟨x²⟩ of p ∝ D^(−power) exp ∫ b/D for b = −2x: Itô 1, Stratonovich ½, isothermal 0."""
    p = lambda v: (1 + v**2 / 2) ** (-4 - power)  # noqa: E731  (∫ −2x/D = −4 ln(1 + x²/2))
    return integrate.quad(lambda v: v**2 * p(v), -np.inf, np.inf)[0] / integrate.quad(p, -np.inf, np.inf)[0]


@pytest.mark.parametrize(("reading", "power"), [("ito", 1), ("stratonovich", 0.5), ("isothermal", 0)])
def test_the_law_of_each_reading(reading, power):
    process = Diffusion([-2 * x], [[D]], (x,), reading=reading)
    density = stationary_density(process, box={"x": (-60, 60)}, shape=6000)
    moment = float((density * density.cell_volume * density.x**2).sum())
    assert moment == pytest.approx(second_moment(power), rel=2e-3)
    others = [second_moment(q) for q in (1, 0.5, 0) if q != power]
    assert all(abs(moment / other - 1) > 0.03 for other in others)
    assert (reading == "ito") == (process.name == "diffusion process")


def test_isothermal_noise_in_two_variables_keeps_gibbs_law_and_walkers_follow():
    loss = (x**2 + 2 * y**2) / 2
    full = sp.Matrix([[1 + sp.sin(x) / 2, sp.cos(y) / 4], [sp.cos(y) / 4, 1]])
    process = Diffusion(-full * sp.Matrix([loss.diff(x), loss.diff(y)]), full, (x, y), reading="isothermal")
    density = stationary_density(process)
    weight = density * density.cell_volume
    assert float((weight * density.x**2).sum()) == pytest.approx(1, rel=5e-3)
    assert float((weight * density.y**2).sum()) == pytest.approx(0.5, rel=5e-3)
    assert (
        sp.simplify(process.drift[0] - (-full * sp.Matrix([x, 2 * y]))[0] - sp.cos(x) / 2 + sp.sin(y) / 4)
        == 0
    )
    line = Diffusion([-2 * x], [[D]], (x,), reading="stratonovich")
    run = simulate(line, start={"x": 0}, walkers=2000, time=20, burn_in=5, time_step=0.002, rng=1)
    error = float(run.second_moment_stderr.squeeze())
    assert float(run.second_moment.squeeze()) == pytest.approx(second_moment(0.5), abs=4.5 * error + 2e-3)


def test_what_a_reading_cannot_be_is_refused():
    full = sp.Matrix([[1 + x**2, x / 2], [x / 2, 1]])
    with pytest.raises(ValueError, match="depends on which root of 2D"):
        Diffusion([-x, -y], full, (x, y), reading="stratonovich")
    with pytest.raises(ValueError, match="'anti' must be one of ito, stratonovich, isothermal"):
        Diffusion([-x], [[D]], (x,), reading="anti")


def test_parameters_get_values_in_every_process():
    mu, T = sp.symbols("mu T", positive=True)
    process = Diffusion([y, mu * (1 - x**2) * y - x], [[0, 0], [0, T]], (x, y))
    assert process.free_parameters == ("T", "mu")
    given = process.with_parameters(mu=1.5, T=sp.Rational(1, 10))
    assert given == process.with_parameters({"mu": 1.5, "T": 0.1})
    assert sp.expand(given.drift[1] - 1.5 * (1 - x**2) * y + x) == 0 and not given.free_parameters
    with pytest.raises(ValueError, match=r"unknown parameters \['nu'\]; there are \['T', 'mu'\]"):
        process.with_parameters(nu=1)
    read_once = Diffusion([-mu * x], [[T * (1 + x**2)]], (x,), reading="stratonovich").with_parameters(
        mu=1, T=2
    )
    assert sp.expand(read_once.drift[0] - (-x + 2 * x)) == 0
