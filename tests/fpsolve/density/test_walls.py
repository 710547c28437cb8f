"""Walls of every kind: far, reflecting, periodic, and a mapping that mixes them."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import dblquad

from fpsolve import (
    committor,
    mean_first_passage_time,
    passage_time_law,
    probability_current,
    relaxation_rates,
    stationary_density,
)
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


def test_rates_on_a_ring_are_those_of_rotating_modes():
    """Drift v, D on a ring of length 2π: eigenvalues n² D ± i n v."""
    found = relaxation_rates(
        Diffusion([0], [[R(1, 2)]], (x,)), count=4, box={"x": (0, 2 * np.pi)}, shape=200, walls="periodic"
    )
    assert found == pytest.approx([0.5, 0.5, 2.0, 2.0], rel=1e-3)


@pytest.mark.parametrize("place", [0.0, np.pi - 0.4])
def test_times_and_committor_reach_a_set_through_the_periodic_end(place):
    """Brownian motion on a ring: T = (d² − r²)/2D in the distance r from the far side."""
    free = Diffusion([0], [[R(1, 2)]], (x,))
    options = {"box": {"x": (-np.pi, np.pi)}, "shape": 400, "walls": "periodic"}
    near = sp.cos(x - sp.Float(place)) > sp.cos(R(1, 2))
    times = mean_first_passage_time(free, target=near, **options)
    far = (times.x - place) % (2 * np.pi) - np.pi
    exact = ((np.pi - 0.5) ** 2 - far**2).clip(min=0.0)
    assert float(abs(times - exact).max()) < 1e-3
    q = committor(free, source=near, target=sp.cos(x - sp.Float(place)) < -sp.cos(R(1, 2)), **options)
    around = np.abs((q.x - place + np.pi) % (2 * np.pi) - np.pi)
    assert float(abs(q - ((around - 0.5) / (np.pi - 1)).clip(0.0, 1.0)).max()) < 1e-3


def test_a_target_at_the_periodic_end_is_met_from_both_sides():
    """The set is x > 3 in a box that ends at π: an arc of 2(π − 3) there if it holds both sides."""
    free = Diffusion([0], [[R(1, 2)]], (x,))
    times = mean_first_passage_time(
        free, target=x > 3, box={"x": (-np.pi, np.pi)}, shape=2000, walls="periodic"
    )
    half = (3 + np.pi) / 2
    exact = (half**2 - (times.x + np.pi - half) ** 2).where(times.x < 3, 0.0)
    assert float(abs(times - exact).max()) < 1e-2


def test_the_time_for_one_period_of_a_tilted_cosine_gives_its_drift_velocity():
    """A passage over k periods takes k·2π/v: the renewal of periods."""
    process = tilted(1, R(1, 2))
    velocity = 2 * np.pi * stratonovich_current(1.0, 0.5)
    low, high = -6 * np.pi, 2 * np.pi
    times = mean_first_passage_time(process, target=x > high, box={"x": (low, high + 0.1)}, shape=2000)
    waited = float(times.interp(x=0.0) - times.interp(x=2 * np.pi - 1e-9))
    assert waited == pytest.approx(2 * np.pi / velocity, rel=2e-3)
    law = passage_time_law(
        process,
        {"x": 0.0},
        target=x > high,
        times=np.linspace(0.0, 80.0, 161),
        box={"x": (low, high + 0.1)},
        shape=600,
    )
    assert float(np.trapezoid(law.survival, law.time)) == pytest.approx(float(times.interp(x=0.0)), rel=5e-3)
