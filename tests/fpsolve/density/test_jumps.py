"""Densities, times and committors where D, the drift or the potential jumps, and at ends where D vanishes."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.special import gammaincc

from fpsolve import committor, mean_first_passage_time, stationary_density
from fpsolve.density import averages
from theory import Diffusion, Landscape, Langevin, isotropic, random_shift

R = sp.Rational
x, y = sp.symbols("x y", real=True)


def order(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0]


def jump_in_noise(place):
    """Drift −x; D = 1/2 below a place, 1/4 above."""
    return Diffusion([-x], [[sp.Piecewise((R(1, 2), x < place), (R(1, 4), True))]], (x,))


def moments_by_quadrature(place):
    """⟨x⟩, ⟨x²⟩ of p ∝ D⁻¹ exp(∫ b/D), the Itô law: D p is continuous."""

    def weight(v):
        D = 0.5 if v < place else 0.25
        return np.exp(-(v**2 - place**2) / (2 * D)) / D

    parts = [quad(lambda v, k=k: v**k * weight(v), -8, 8, points=[place], epsabs=1e-13)[0] for k in range(3)]
    return parts[1] / parts[0], parts[2] / parts[0]


def test_itos_law_at_a_jump_of_the_noise_keeps_the_mean_at_zero():
    found = averages(stationary_density(jump_in_noise(0), box={"x": (-5, 5)}, shape=2000))
    assert found["<x>"] == pytest.approx(0.0, abs=2e-6)
    assert found["<x^2>"] == pytest.approx(1 / np.sqrt(8), rel=1e-5)  # 0.353553


@pytest.mark.parametrize("method", ["finite-volume", "spectral"])
@pytest.mark.parametrize(
    "noise",
    [
        sp.Piecewise((R(1, 2), x < 0), (R(1, 4), True)),
        sp.Piecewise((2, sp.Abs(x) < 1), (R(1, 2), True)),
        sp.Piecewise((1, x < -2), (3, x < 1), (R(1, 3), True)),
        1 + sp.Heaviside(x - R(1, 3)),
    ],
)
def test_an_automatic_box_serves_any_jumps_of_the_noise(noise, method):
    line = np.linspace(-14, 14, 2_800_001)
    D = np.broadcast_to(sp.lambdify(x, noise, "numpy")(line), line.shape)
    slope = -line / D
    weight = np.exp(np.concatenate([[0], np.cumsum(slope[1:] + slope[:-1]) * 5e-6]) - 49 / D[0]) / D
    square = (weight * line**2).sum() / weight.sum()
    found = averages(stationary_density(Diffusion([-x], [[noise]], (x,)), method=method))
    assert found["<x>"] == pytest.approx(0.0, abs=1e-5)  # from ∫x p' for a linear drift
    assert found["<x^2>"] == pytest.approx(square, rel=1e-4)


@pytest.mark.parametrize("place", [0.0, 1 / 3, np.sqrt(0.1)])
def test_density_with_a_jump_on_a_face_or_in_a_cell_is_second_order_and_states_its_error(place):
    mean, square = moments_by_quadrature(place)
    sizes, errors = [100, 200, 401, 800], []
    for n in sizes:
        density = stationary_density(jump_in_noise(sp.Float(place)), box={"x": (-5, 5)}, shape=n)
        found = averages(density)
        errors.append(found["<x^2>"] - square)
        assert abs(found["<x^2>"] / square - 1) < 1.5 * density.attrs["half_grid_estimate"]
        assert abs(found["<x>"] - mean) < 1.5 * density.attrs["half_grid_estimate"] * np.sqrt(square)
    assert order(sizes, errors) == pytest.approx(2.0, abs=0.2)


def test_mean_times_and_committor_across_a_jump_of_the_noise():
    def phi(v):
        return -(v**2) if v < 0 else -2 * v**2

    process = jump_in_noise(0)
    outer = lambda v: np.exp(-phi(v))  # noqa: E731
    inner = lambda v: quad(lambda u: np.exp(phi(u)) * (2 if u < 0 else 4), -6, v, points=[0.0])[0]  # noqa: E731
    exact = quad(lambda v: outer(v) * inner(v), 0, 1, epsrel=1e-9)[0]
    assert exact == pytest.approx(8.69249, rel=1e-5)
    for n in (401, 2001):
        times = mean_first_passage_time(process, target=x > 1, box={"x": (-5, 5)}, shape=n)
        assert float(times.interp(x=0.0)) == pytest.approx(
            exact, rel=1.5 * times.attrs["half_grid_estimate"] + 1e-6
        )
    assert float(times.interp(x=0.0)) == pytest.approx(exact, rel=1e-4)
    q = committor(process, source=x < -1, target=x > R(1, 2), box={"x": (-5, 5)}, shape=2000)
    split = quad(outer, -1, 0)[0] / (quad(outer, -1, 0)[0] + quad(outer, 0, 0.5)[0])
    assert float(q.interp(x=0.0)) == pytest.approx(split, abs=1e-5)


@pytest.mark.parametrize("n", [300, 301])
def test_a_step_of_the_potential_weighs_its_sides_by_boltzmann(n):
    loss = x**2 / 2 + sp.Piecewise((0, x < R(1, 3)), (1, True))
    density = stationary_density(
        Langevin(Landscape(loss, (x,)), isotropic(R(1, 2))), box={"x": (-6, 6)}, shape=n
    )
    weight = lambda v: np.exp(-(v**2) - 2 * (v >= 1 / 3))  # noqa: E731
    total, first = (quad(lambda v, k=k: v**k * weight(v), -6, 6, points=[1 / 3])[0] for k in (0, 1))
    assert averages(density)["<x>"] == pytest.approx(
        first / total, abs=1.5 * density.attrs["half_grid_estimate"]
    )


def test_a_drift_that_jumps_gives_the_laplace_law():
    process = Diffusion([-sp.sign(x - R(1, 7))], [[R(1, 2)]], (x,))
    sizes, errors = [100, 200, 400, 800], []
    for n in sizes:
        found = averages(stationary_density(process, box={"x": (-12, 12)}, shape=n))
        errors.append(found["<x^2>"] - (0.5 + 1 / 49))
    assert order(sizes, errors) > 1.8
    assert abs(errors[-1]) < 2e-4


def test_a_jump_of_the_noise_along_a_slanted_line_is_at_least_first_order():
    """D p is continuous; without drift and inside walls p ∝ 1/D exactly."""
    D = sp.Piecewise((R(1, 2), x + 2 * y < R(1, 3)), (R(1, 8), True))
    process = Diffusion([0, 0], D * sp.eye(2), (x, y))
    density = stationary_density(process, box={"x": (-1, 1), "y": (-1, 1)}, shape=60, walls="reflecting")
    # The line cuts the square between y = 2/3 and −1/3.
    share = (density * density.cell_volume).where(density.x + 2 * density.y < 1 / 3).sum()
    below = 4 * (7 / 12)  # area: mean height of y = (1/3 − x)/2 above −1, times the width
    exact = 2 * below / (2 * below + 8 * (4 - below))
    assert float(share) == pytest.approx(exact, abs=5e-3)
    assert density.attrs["negative_mass"] == 0.0


def test_the_sharp_jump_is_the_limit_of_a_steep_smooth_one_in_two_dimensions():
    steep = R(3, 8) - sp.tanh(200 * x) / 8
    sharp = sp.Piecewise((R(1, 2), x < 0), (R(1, 4), True))
    values = []
    for noise, n in ((sharp, (60, 24)), (steep, (2400, 24))):
        process = Diffusion([-x + y / 4, -y - x / 4], sp.diag(noise, R(1, 3)), (x, y))
        density = stationary_density(process, box={"x": (-4, 4), "y": (-4, 4)}, shape=n)
        values.append(averages(density))
    assert values[0]["<x>"] == pytest.approx(values[1]["<x>"], abs=4e-3)
    assert values[0]["<x^2>"] == pytest.approx(values[1]["<x^2>"], rel=2e-2)


def test_loss_and_noise_that_jump_at_one_place_are_refused():
    loss = sp.Piecewise((x**2 / 2, x < 0), (x**2 + 1, True))  # D = Δ_S H² jumps with it
    with pytest.raises(ValueError, match="both jump"):
        stationary_density(Langevin(Landscape(loss, (x,)), random_shift(delta_s=1)), box={"x": (-5, 5)})


@pytest.mark.parametrize("shape", [R(1, 5), R(1, 2), 1, 2])
def test_gamma_law_of_a_square_root_process_that_reaches_zero(shape):
    """dx = 2(a − x) dt + √(4x) dW has the gamma law of shape a and scale 1."""
    density = stationary_density(
        Diffusion([2 * (shape - x)], [[2 * x]], (x,)), box={"x": (0, 40)}, shape=2000
    )
    a, stated = float(shape), density.attrs["half_grid_estimate"]
    found = averages(density)
    assert found["<x^2>"] == pytest.approx(a * (a + 1), rel=1.5 * stated)
    assert found["<x>"] == pytest.approx(a, abs=1.5 * stated * np.sqrt(a * (a + 1)))
    # Cells hold exactly their mass.
    h = float(density.x[1] - density.x[0])
    held = float((density * density.cell_volume)[:5].sum())
    assert held == pytest.approx(1 - gammaincc(a, 5 * h), rel=1e-5)


def test_verhulst_process_has_its_gamma_law_although_noise_vanishes_quadratically():
    density = stationary_density(
        Diffusion([x - x**2], [[R(49, 200) * x**2]], (x,)), box={"x": (0, 8)}, shape=1000
    )
    assert averages(density)["<x>"] == pytest.approx(0.755, rel=1e-4)


def test_jacobi_process_has_the_arcsine_law():
    density = stationary_density(Diffusion([-x], [[1 - x**2]], (x,)), box={"x": (-1, 1)}, shape=400)
    assert averages(density)["<x^2>"] == pytest.approx(0.5, abs=density.attrs["half_grid_estimate"])
    assert density.attrs["boundary_mass"] == 0.0


def test_variance_and_price_of_a_square_root_volatility():
    """y is the variance, x relaxes with it: ⟨y⟩ and the gamma law of y are those of one dimension."""
    process = Diffusion([-x, 2 * (R(1, 2) - y)], [[y + R(1, 10), 0], [0, 2 * y]], (x, y))
    density = stationary_density(process, box={"x": (-7, 7), "y": (0, 14)}, shape=(60, 280))
    found = averages(density)
    assert found["<y>"] == pytest.approx(0.5, abs=2 * density.attrs["half_grid_estimate"])
    assert found["<x^2>"] == pytest.approx(0.6, rel=2 * density.attrs["half_grid_estimate"])  # ⟨D_xx⟩


def test_an_end_that_collects_all_mass_is_refused():
    with pytest.raises(ValueError, match="not integrable at the low end of x"):
        stationary_density(Diffusion([-x], [[x]], (x,)), box={"x": (0, 10)})


def test_a_drift_that_crosses_whole_cells_carries_mass_through_them():
    """Far out b h/D is 74: times there are those of the drift, not of the escape from a cell in equilibrium."""
    noise = sp.Piecewise((R(1, 2), x < R(-1, 2)), (R(1, 4), True))
    process = Diffusion([-(x**3) / 2 - x], [[noise]], (x,))
    times = [
        mean_first_passage_time(process, target=x > 1, box={"x": (-9, 9)}, shape=n).interp(x=[-8.5, 0.0])
        for n in (160, 320, 2000)
    ]
    for coarse in times[:2]:
        assert coarse.to_numpy() == pytest.approx(times[2].to_numpy(), rel=3e-2)
    assert 0 < float(times[2][0] - times[2][1]) < 5.0


@pytest.mark.parametrize("end", [0.3, 0.301, 0.32, 0.345, 0.37, 0.7])
@pytest.mark.parametrize(("below", "above", "cells"), [(0.25, 0.025, 101), (0.025, 0.25, 200)])
def test_times_to_a_target_in_the_cell_of_a_jump_are_exact(end, below, above, cells):
    noise = sp.Piecewise((sp.Float(below), x < sp.Float(0.3)), (sp.Float(above), True))
    times = mean_first_passage_time(
        Diffusion([-x], [[noise]], (x,)), target=x > sp.Float(end), box={"x": (-4, 4)}, shape=cells
    )
    k = int(np.abs(times.x.to_numpy() + 0.5).argmin())
    start = float(times.x[k])

    def D(v):
        return below if v < 0.3 else above

    def phi(v):
        inner, outer = min(v, 0.3), max(v, 0.3)
        return -(inner**2) / (2 * below) - (outer**2 - 0.3**2) / (2 * above)

    def occupied(v):
        breaks = [0.0, 0.3] if v > 0.3 else [0.0]
        return quad(lambda u: np.exp(phi(u) - phi(v)) / D(u), -4, v, points=breaks, epsabs=1e-12, limit=200)[
            0
        ]

    exact = quad(occupied, start, end, points=[0.0, 0.3], epsabs=1e-12, limit=200)[0]
    error = abs(float(times[k]) / exact - 1)
    assert error < times.attrs["half_grid_estimate"] + 1e-8
    assert times.attrs["half_grid_estimate"] < 1e-6
    q = committor(
        Diffusion([-x], [[noise]], (x,)),
        source=x < -1, target=x > sp.Float(end), box={"x": (-4, 4)}, shape=cells,
    )  # fmt: skip
    whole, part = (
        quad(lambda v: np.exp(-phi(v)), -1, to, points=[0.0, 0.3], epsabs=1e-12)[0] for to in (end, start)
    )
    assert float(q[k]) == pytest.approx(part / whole, abs=1e-8)


@pytest.mark.parametrize(("below", "above"), [(0.25, 0.025), (0.025, 0.25)])
@pytest.mark.parametrize("end", [0.3, 0.33])
def test_times_in_two_variables_to_a_target_in_the_cells_of_a_jump_are_those_of_one(end, below, above):
    noise = sp.Piecewise((sp.Float(below), x < sp.Float(0.3)), (sp.Float(above), True))
    target, box = x > sp.Float(end), {"x": (-4, 4), "y": (-3, 3)}
    line = mean_first_passage_time(
        Diffusion([-x], [[noise]], (x,)), target=target, box={"x": (-4, 4)}, shape=81 * 5
    )
    plane = mean_first_passage_time(
        Diffusion([-x, -y], sp.diag(noise, R(1, 5)), (x, y)), target=target, box=box, shape=(81, 24)
    )
    # Every fifth centre of the line is one of the plane.
    exact = line.to_numpy()[2::5][20:40]
    assert plane.to_numpy()[20:40, 12] == pytest.approx(exact, rel=1e-6)
    assert plane.attrs["half_grid_estimate"] < 0.05
