"""Velocities and coloured noise beside the variables: Gibbs' law, Lyapunov's equation, the limits."""

import numpy as np
import pytest
import sympy as sp
from scipy.linalg import solve_continuous_lyapunov

from fpsolve import relaxation_rates, simulate, stationary_density
from theory import Diffusion, Landscape, Langevin, coloured, isotropic, underdamped

x, y = sp.symbols("x y", real=True)
R = sp.Rational


def covariance(process):
    """Of a linear process, by Lyapunov's equation."""
    A = np.array(sp.Matrix(process.drift).jacobian(process.variables), float)
    return solve_continuous_lyapunov(A, -2 * np.array(process.diffusion, float))


def test_the_law_of_places_and_velocities_is_gibbs():
    well = Landscape(x**4 / 4 - x**2 / 2, (x,))
    process = underdamped(well, friction=R(1, 2), temperature=R(2, 5))
    assert process.names == ("x", "v_x") and process.diffusion == sp.diag(0, R(1, 5))
    density = stationary_density(process)
    line = np.linspace(-5, 5, 20001)
    p = np.exp(-(line**4 / 4 - line**2 / 2) / 0.4)
    weight = density * density.cell_volume
    assert float((weight * density.x**2).sum()) == pytest.approx((line**2 @ p) / p.sum(), rel=2e-3)
    assert float((weight * density.v_x**2).sum()) == pytest.approx(0.4, rel=2e-3)
    run = simulate(
        process, start={"x": 1, "v_x": 0}, walkers=1000, time=60, burn_in=10, time_step=0.05, rng=2
    )
    square = run.second_moment.sel(variable="v_x", variable_2="v_x")
    assert float(square) == pytest.approx(0.4, abs=4.5 * float(run.second_moment_stderr.sel(variable="v_x", variable_2="v_x")) + 1e-3)  # fmt: skip


def test_rates_of_the_damped_oscillator():
    process = underdamped(Landscape(2 * x**2, (x,)), friction=1, temperature=1)
    assert relaxation_rates(process, count=1) == pytest.approx([0.5 - 0.5j * np.sqrt(15)], rel=1e-4) or (
        relaxation_rates(process, count=1) == pytest.approx([0.5 + 0.5j * np.sqrt(15)], rel=1e-4)
    )


@pytest.mark.parametrize("tau", [0.05, 1.0, 4.0])
def test_coloured_noise_widens_less_the_longer_it_lasts(tau):
    process = coloured(Langevin(Landscape(x**2 / 2, (x,)), isotropic(1)), correlation_time=tau)
    assert process.names == ("x", "z_x")
    assert covariance(process)[0, 0] == pytest.approx(1 / (1 + tau))
    density = stationary_density(process)
    assert float((density * density.cell_volume * density.x**2).sum()) == pytest.approx(
        1 / (1 + tau), rel=5e-3
    )


def test_short_noise_follows_stratonovich():
    D = R(1, 2) * (1 + x**2 / 2)
    white = Diffusion([-2 * x], [[D]], (x,), reading="stratonovich")
    short = coloured(Diffusion([-2 * x], [[D]], (x,)), correlation_time=R(1, 50))
    common = {"walkers": 4000, "time": 20, "burn_in": 4, "time_step": 0.002}
    runs = [
        simulate(p, start=dict.fromkeys(p.names, 0.1), rng=k, **common) for k, p in enumerate((white, short))
    ]
    moments = [float(r.second_moment.sel(variable="x", variable_2="x")) for r in runs]
    errors = [float(r.second_moment_stderr.sel(variable="x", variable_2="x")) for r in runs]
    # The correction for τ is of first order.
    assert moments[1] == pytest.approx(moments[0], abs=4.5 * np.hypot(*errors) + 2 * 0.02 * moments[0])


def test_names_that_are_taken_and_bad_numbers_are_refused():
    v = sp.Symbol("v_x", positive=True)
    with pytest.raises(ValueError, match="v_x is used in the formulas"):
        underdamped(Landscape(v * x**2, (x,)), 1, 1)
    with pytest.raises(ValueError, match="friction"):
        underdamped(Landscape(x**2, (x,)), 0, 1)
    with pytest.raises(ValueError, match="correlation_time"):
        coloured(Langevin(Landscape(x**2, (x,)), isotropic(1)), -1)
    pair = coloured(Langevin(Landscape(x**2 + y**2 + x * y, (x, y)), isotropic(1)), 1)
    assert pair.names == ("x", "y", "z_x", "z_y")
