"""Walkers that the drift carries to infinity: told from the paths of the drift, and from nothing else."""

import warnings

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from fpsolve import mean_first_passage_time, stationary_density
from fpsolve.density.flight import why_it_flies
from theory import Diffusion, Langevin, degenerate_valley, random_shift

x, y, z = sp.symbols("x y z", real=True)
R = sp.Rational
FULL = sp.Matrix([[R(1, 10), R(3, 100)], [R(3, 100), R(1, 20)]])
CUBIC, QUARTIC = x**3 / 3 - x + y**2 / 2, x**2 / 2 - x**4 / 40 + y**2
EVERYWHERE = dict.fromkeys("xyzv", (-np.inf, np.inf))


def _down(loss, turn=0):
    gradient = sp.Matrix([loss.diff(x), loss.diff(y)])
    return sp.Matrix([[-1, -turn], [turn, -1]]) * gradient


FLYING = [
    Diffusion(_down(CUBIC), sp.diag(R(1, 20), R(1, 10)), (x, y)),
    Diffusion(_down(QUARTIC), FULL, (x, y)),
    Diffusion(_down(CUBIC, R(1, 2)), sp.eye(2) / 15, (x, y)),
    Diffusion(_down(CUBIC), sp.diag((1 + x**2 / 4) / 20, R(1, 10)), (x, y)),
    Diffusion([1 - x**2, x - y, y - z], sp.eye(3) / 10, (x, y, z)),
]


@pytest.mark.parametrize("process", FLYING)
def test_no_density_is_made_up_where_the_drift_leads_to_infinity(process):
    with pytest.raises(ValueError, match=r"no stationary law: the drift carries walkers from .* to infinity"):
        stationary_density(process)
    box = dict(zip(process.names, [(-0.9, 2.9), (-2.5, 2.5), (-1, 1)], strict=False))
    reason = why_it_flies(process, box, EVERYWHERE)
    start = [float(part.split("=")[1]) for part in reason.split(" from ")[1].split(" to ")[0].split(", ")]
    # Followed by scipy, the place that is named leads further out than a thousand times the box.
    drift = sp.lambdify([process.variables], list(process.drift))
    stop = lambda t, u: np.linalg.norm(u) - 3e3  # noqa: E731
    stop.terminal = True
    path = solve_ivp(lambda t, u: drift(u), (0, 100), start, events=stop, method="LSODA")
    assert path.status == 1


def test_in_a_box_the_density_is_called_metastable_and_times_need_a_box():
    with pytest.warns(UserWarning, match="metastable, of walkers still in the box: the drift carries"):
        stationary_density(FLYING[0], box={"x": (-0.8, 3), "y": (-2, 2)}, shape=40)
    with pytest.raises(ValueError, match="no stationary law"):
        mean_first_passage_time(FLYING[0], target=x < -1)


@pytest.mark.parametrize(
    ("process", "ends"),
    [
        (Diffusion(_down(x**4 / 4 - x**2 / 2 + y**2), FULL, (x, y)), {}),
        (Diffusion([-x, -1000 * (y - x**2)], sp.eye(2) / 10, (x, y)), {}),
        (Diffusion([-x + 20 * y, -y - 20 * x], sp.eye(2), (x, y)), {}),
        (Diffusion([y, (1 - x**2) * y - x], sp.eye(2) / 10, (x, y)), {}),
        (Diffusion([10 * (y - x), x * (28 - z) - y, x * y - R(8, 3) * z], sp.eye(3), (x, y, z)), {}),
        (Diffusion([x - x**2, -y], sp.diag(x**2 / 4, 1), (x, y)), {"x": (0.0, np.inf)}),
        (Diffusion([x / 2 + 1, -y], sp.diag(x**2 + 1, 1), (x, y)), {}),  # held by its noise
        (Langevin(degenerate_valley(lambda_=(8, -2, 1), epsilon=1e-3), random_shift(delta_s=1e-3)), {}),
    ],
)
def test_drifts_that_come_back_are_not_called_flying(process, ends):
    for reach in (0.1, 1.0, 10.0):
        box = dict.fromkeys(process.names, (-reach, reach)) | ({"x": (0.0, reach)} if ends else {})
        assert why_it_flies(process, box, EVERYWHERE | ends) == ""


def test_walls_that_are_meant_hold_a_walker():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stationary_density(
            FLYING[0], box={"x": (-0.8, 3), "y": (-2.5, 2.5)}, shape=100,
            walls={"x": "reflecting", "y": "reflecting"},
        )  # fmt: skip
