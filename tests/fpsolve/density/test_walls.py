"""Walls of every kind: far, reflecting, periodic, and a mapping that mixes them."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import dblquad

from fpsolve import probability_current, stationary_density
from fpsolve.density import averages
from theory import Diffusion, Landscape, Langevin, isotropic

R = sp.Rational
x, y = sp.symbols("x y", real=True)


def tilted(force, D):
    """The cosine cos x tilted by a force."""
    return Langevin(Landscape(sp.cos(x) - force * x, (x,)), isotropic(D))


def stratonovich_current(force, D):
    """J of the stationary state on the ring (Stratonovich 1958; Risken, sec. 11.3)."""

    def integrand(u, v):
        return np.exp((np.cos(v + u) - np.cos(v) - force * u) / D)

    double = dblquad(integrand, 0, 2 * np.pi, 0, 2 * np.pi, epsabs=1e-11, epsrel=1e-11)[0]
    return D * (1 - np.exp(-2 * np.pi * force / D)) / double


@pytest.mark.parametrize(("force", "D"), [(R(1, 2), R(1, 5)), (1, R(1, 2)), (2, R(1, 10))])
def test_drift_velocity_and_current_in_a_tilted_cosine_follow_stratonovich(force, D):
    exact = stratonovich_current(float(force), float(D))
    sizes, errors = [50, 100, 200, 400], []
    for n in sizes:
        density = stationary_density(tilted(force, D), box={"x": (-np.pi, np.pi)}, shape=n, walls="periodic")
        current = probability_current(tilted(force, D), density)
        errors.append(abs(current.attrs["mean_velocity_x"] / (2 * np.pi * exact) - 1))
        stated = current.attrs["mean_velocity_x_error"]
        assert abs(current.attrs["mean_velocity_x"] - 2 * np.pi * exact) < 1.5 * stated
        assert float(np.sqrt(((current.J_x - exact) ** 2).mean())) < 1.5 * float(current.J_x_error.max())
    assert -np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.3)
    assert errors[-1] < 1e-3


def test_density_on_the_ring_without_tilt_is_boltzmann():
    density = stationary_density(tilted(0, R(1, 3)), box={"x": (0, 2 * np.pi)}, shape=200, walls="periodic")
    exact = np.exp(-3 * np.cos(density.x))
    exact = exact / (exact * density.cell_volume).sum()
    assert float(abs(density - exact).max()) < 1e-12
    assert density.attrs["boundary_mass"] == 0.0
    assert density.attrs["walls"] == "x: periodic"


def test_a_periodic_and_a_far_axis_with_full_noise():
    """The frame turns with the drift: on the ring the law is uniform, and y is an Ornstein–Uhlenbeck process."""
    noise = sp.Matrix([[1, R(1, 4)], [R(1, 4), R(1, 2)]])
    process = Diffusion([3, -y], noise, (x, y))
    box = {"x": (0, 2), "y": (-5, 5)}
    walls = {"x": "periodic", "y": "far"}
    density = stationary_density(process, box=box, shape=(16, 200), walls=walls)
    assert float((density.max("x") - density.min("x")).max()) < 1e-10
    assert averages(density)["<y^2>"] == pytest.approx(0.5, rel=2e-3)
    current = probability_current(process, density)
    assert current.attrs["mean_velocity_x"] == pytest.approx(3.0, rel=1e-6)


def test_noise_that_jumps_on_a_ring_is_seen_from_both_sides():
    D = sp.Piecewise((R(1, 2), sp.cos(2 * sp.pi * x) < R(1, 3)), (R(1, 4), True))
    density = stationary_density(Diffusion([0], [[D]], (x,)), box={"x": (0, 1)}, shape=60, walls="periodic")
    share = np.arccos(1 / 3) / np.pi  # of the ring where D = 1/4
    assert float(density.max()) == pytest.approx(4 / (4 * share + 2 * (1 - share)), rel=1e-10)
    assert float(density.min()) == pytest.approx(2 / (4 * share + 2 * (1 - share)), rel=1e-10)


@pytest.mark.parametrize(
    ("walls", "box", "words"),
    [
        ("open", {"x": (0, 1)}, "must be 'far' or 'reflecting' or 'periodic'"),
        ({"z": "far"}, {"x": (0, 1)}, "walls has the variables"),
        ("periodic", None, "need box="),
        ("periodic", {"x": (0, 3)}, "whole periods"),
    ],
)
def test_walls_that_do_not_fit_are_refused(walls, box, words):
    with pytest.raises(ValueError, match=words):
        stationary_density(tilted(1, 1), box=box, walls=walls)
