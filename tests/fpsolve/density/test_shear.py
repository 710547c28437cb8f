"""Noise along directions that are no axes, much weaker along one: moments, times and rates of linear processes."""

import numpy as np
import pytest
import sympy as sp
from scipy.linalg import eigvals, solve_continuous_lyapunov

from fpsolve import mean_first_passage_time, relaxation_modes, relaxation_rates, stationary_density
from theory import Diffusion, Landscape, Langevin, isotropic, measured

x, y = sp.symbols("x y", real=True)
A = sp.Matrix([[2, sp.Rational(3, 10)], [sp.Rational(-7, 10), 1]])


def nearly_dependent(condition):
    r = sp.Rational(str(round((condition - 1) / (condition + 1), 8)))
    return sp.Matrix([[1, r], [r, 1]])


@pytest.mark.parametrize("condition", [60, 1e3, 1e5])
def test_moments_and_rates_where_the_noise_of_two_variables_is_nearly_one(condition):
    D = nearly_dependent(condition)
    process = Diffusion(-A * sp.Matrix([x, y]), D, (x, y))
    S = solve_continuous_lyapunov(np.array(A, float), 2 * np.array(D, float))
    density = stationary_density(process)
    assert density.attrs["solved_in"].startswith("y -0.9")
    weight, stated = density * density.cell_volume, density.attrs["half_grid_estimate"]
    for u, v, right in (("x", "x", S[0, 0]), ("x", "y", S[0, 1]), ("y", "y", S[1, 1])):
        assert float((weight * density[u] * density[v]).sum()) == pytest.approx(right, rel=3 * stated)
    assert stated < 2e-3 and float(density.min()) > -1e-12 * float(density.max())
    slowest = np.sort(eigvals(np.array(A, float)).real)
    assert relaxation_rates(process, count=1) == pytest.approx(slowest[:1], rel=2e-3)


def test_the_time_along_nearly_dependent_noise_is_that_of_one_variable():
    # L = x²/2 + y²/2 with D = (1 r; r 1)/4: the drift −∇L moves x alone, whatever y does.
    noise = measured(nearly_dependent(200) / 4, learning_rate=2)
    T = mean_first_passage_time(
        Langevin(Landscape((x**2 + y**2) / 2, (x, y)), noise), target=x > 1, shape=160
    )
    alone = mean_first_passage_time(
        Langevin(Landscape(x**2 / 2, (x,)), isotropic(sp.Rational(1, 4))), target=x > 1, shape=800
    )
    right = float(alone.interp(x=0))
    assert float(T.interp(x=0, y=0)) == pytest.approx(right, rel=3 * T.attrs["half_grid_estimate"])
    assert T.attrs["half_grid_estimate"] < 0.02


def test_modes_of_the_mesh_are_said():
    weak = sp.Rational(1, 10**5)
    process = Diffusion(-A * sp.Matrix([x, y]), sp.diag(1, weak * (1 + x**2 / 10)), (x, y))
    with pytest.warns(UserWarning, match=r"the relaxation rates are good to about 1.0e\+00 only"):
        modes = relaxation_modes(process, shape=100)
    assert (modes.rate_error >= 0.99 * modes.rate).all()
