"""Rates whose modes the box cuts, and rates of a continuum, lie within their stated error and are warned of."""

import warnings

import numpy as np
import pytest
import sympy as sp

from fpsolve import relaxation_modes, relaxation_rates
from theory import Diffusion, Landscape, Langevin, isotropic

x, y = sp.symbols("x y", real=True)
HALF = sp.Rational(1, 2)


def _line(drift, D):
    return Diffusion(sp.Matrix([drift]), sp.Matrix([[D]]), (x,))


def _modes(process, **options):
    """Modes, and whether ends of the box are said to cut them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        modes = relaxation_modes(process, **options)
    return modes, any("ends of the box cut modes" in str(w.message) for w in caught)


@pytest.mark.parametrize("drift", [sp.Rational(1, 5), HALF, 2])
def test_rates_of_laguerre_modes_that_the_box_cuts_hold_their_error(drift):
    # b = a − x, D = x: the rates are 1, 2, 3, …; the higher the mode, the further it reaches.
    modes, said = _modes(_line(drift - x, x), count=4)
    error = np.abs(modes.rate.to_numpy() - np.arange(1, 5))
    assert (error < 1.5 * modes.rate_error).all()
    assert said == bool((modes.rate_error > 1e-2 * modes.rate).any())


@pytest.mark.parametrize("box", [None, {"x": (-15, 15)}, {"x": (-25, 25)}])
def test_rates_of_a_continuum_are_told(box):
    # L = |x|: no eigenvalue, the continuum begins at 1/4.
    modes, said = _modes(Langevin(Landscape(sp.Abs(x), (x,)), isotropic(1)), box=box)
    assert said and (np.abs(modes.rate - 0.25) < 2 * modes.rate_error).all()
    with pytest.warns(UserWarning, match="continuum of rates"):
        relaxation_rates(Langevin(Landscape(sp.Abs(x), (x,)), isotropic(1)), box=box)


@pytest.mark.parametrize("pull", [2, 3])
def test_a_continuum_under_a_heavy_tail_is_told_and_the_eigenvalue_before_it_holds(pull):
    # b = −k x, D = 1 + x²: the eigenvalue k, then a continuum from (k + 1)²/4 on.
    modes, said = _modes(_line(-pull * x, 1 + x**2), count=2)
    edge = (pull + 1) ** 2 / 4
    assert said and (np.abs(modes.rate - np.array([pull, edge])) < 1.5 * modes.rate_error).all()
    assert modes.rate_error[0] < 0.01 * pull < modes.rate_error[1]


def test_a_mode_of_the_cells_next_to_a_natural_end_is_no_rate():
    # b = x(2 − x), D = x²/2: the eigenvalue is 1, with φ = 1 − 1/x.
    modes, said = _modes(_line(x * (2 - x), x**2 / 2))
    assert said and (np.abs(modes.rate[0] - 1.0) < modes.rate_error[0]).all()


@pytest.mark.parametrize("count", [4, 9])
def test_modes_that_fit_into_the_box_are_not_told(count):
    modes, said = _modes(Langevin(Landscape(x**2 / 2, (x,)), isotropic(1)), count=count)
    error = np.abs(modes.rate.to_numpy() - np.arange(1, count + 1))
    assert (
        not said and (error < 1.1 * modes.rate_error).all() and (modes.rate_error < 2e-4 * modes.rate).all()
    )


def test_walls_that_are_meant_are_not_told():
    modes, said = _modes(_line(0, 1), count=3, box={"x": (0, 1)})
    error = np.abs(modes.rate.to_numpy() - (np.pi * np.arange(1, 4)) ** 2)
    assert not said and (error < 1.1 * modes.rate_error).all()
