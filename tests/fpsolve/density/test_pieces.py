"""Spectral elements end where coefficients jump or bend; what they cannot follow is refused with the reason."""

import numpy as np
import pytest
import sympy as sp

from fpsolve import stationary_density
from fpsolve.density import averages, spectral
from theory import Diffusion, Landscape, Langevin, degenerate_valley, isotropic, random_shift
from theory.breakpoints import borders, denominators, switches

R = sp.Rational
x, y = sp.symbols("x y", real=True)
WELL = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1))


def solve(process, **options):
    return stationary_density(process, method="spectral", **options)


def test_borders_are_found_in_conditions_absolute_values_and_ties():
    step = sp.Piecewise((1, sp.cos(2 * sp.pi * x) < 0), (2, x**2 < 2), (3, x + y < 1), (4, True))
    found = switches((step, sp.Abs(x - R(1, 3)), sp.Max(y, 1 - y), sp.Heaviside(y - R(1, 4))))
    box = {"x": (0.0, 1.5), "y": (0.0, 1.0)}
    jumps, bends = (borders(zero_at, box) for zero_at in found)
    assert jumps.points["x"] == pytest.approx((0.25, 0.75, 1.25, np.sqrt(2)), abs=1e-9)
    assert jumps.points["y"] == pytest.approx((0.25,))
    assert jumps.oblique == (x + y - 1,)
    assert bends.points == {"x": pytest.approx((1 / 3,)), "y": pytest.approx((0.5,))}
    assert set(denominators((1 / x + sp.log(y + 2), y**2))) == {x, y + 2}


def test_a_jump_of_the_noise_in_one_variable_keeps_all_digits():
    process = Diffusion([-x], [[sp.Piecewise((R(1, 2), x < 0), (R(1, 4), True))]], (x,))
    found = averages(solve(process, box={"x": (-6, 6)}))
    assert found["<x>"] == pytest.approx(0.0, abs=1e-9)
    assert found["<x^2>"] == pytest.approx(1 / np.sqrt(8), rel=1e-9)


def test_kinks_of_the_loss_keep_all_digits():
    found = averages(
        solve(Langevin(Landscape(sp.Abs(x - R(1, 3)), (x,)), isotropic(R(1, 2))), box={"x": (-15, 15)})
    )
    assert found["<x^2>"] == pytest.approx(0.5 + 1 / 9, rel=1e-9)
    loss = sp.Max(x, 0) + x**2 / 9  # zero on its kink
    found = averages(solve(Langevin(Landscape(loss, (x,)), isotropic(R(1, 2))), box={"x": (-15, 15)}))
    line = np.linspace(-15, 15, 300001)
    weight = np.exp(-2 * (np.maximum(line, 0) + line**2 / 9))
    assert found["<x>"] == pytest.approx((line * weight).sum() / weight.sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("process", "box", "words"),
    [
        (Langevin(Landscape(x**2 / 2 + sp.Piecewise((0, x < 1), (1, True)), (x,)), isotropic(1)),
         {"x": (-8, 8)}, "loss jumps at x = 1"),
        (Diffusion([-x, -y], sp.diag(sp.Piecewise((1, x < 0), (2, True)), 1), (x, y)),
         {"x": (-9, 9), "y": (-7, 7)}, "D jumps at x = 0"),
        (Diffusion([-x, -y], sp.eye(2) * sp.Piecewise((1, x + y < 0), (2, True)), (x, y)),
         {"x": (-9, 9), "y": (-9, 9)}, "coefficients jump where x \\+ y = 0"),
        (Diffusion([-x - 1 / x, -y], sp.eye(2), (x, y)), {"x": (-3, 3), "y": (-3, 3)},
         "not finite at x = 0"),
        (Diffusion([-x], [[1 - x**2]], (x,)), {"x": (-2, 2)}, "not positive semidefinite"),
        (WELL, {"x": (-1, 1)}, "lies at the (low|high) end of x"),
    ],
    ids=["loss jumps", "D jumps in two variables", "slanted", "pole", "no covariance", "mass at a far wall"],
)  # fmt: skip
def test_what_elements_cannot_follow_is_refused(process, box, words):
    with pytest.raises(ValueError, match=words):
        solve(process, box=box)


def test_walls_that_are_meant_and_periodic_ones_are_respected():
    found = averages(solve(WELL, box={"x": (-1, 1)}, walls="reflecting"))
    assert found["<x^2>"] == pytest.approx(0.2911250947, rel=1e-9)
    tilted = Langevin(Landscape(sp.cos(x) - x, (x,)), isotropic(R(1, 2)))
    options = {"box": {"x": (-np.pi, np.pi)}, "walls": "periodic"}
    volumes = averages(stationary_density(tilted, shape=1000, **options))
    for quantity, value in averages(solve(tilted, **options)).items():
        assert volumes[quantity] == pytest.approx(value, rel=1e-4)


def test_a_box_on_the_fast_variable_of_a_valley_is_respected():
    process = Langevin(degenerate_valley(), isotropic(R(1, 50)))
    box = {"x": (-1, 1), "y": (-0.06, 0.06)}  # little more than one standard deviation of y
    density = solve(process, box=box, walls="reflecting")
    assert float(abs(density.y).max()) <= 0.06
    volumes = stationary_density(process, box=box, walls="reflecting", shape=(80, 80))
    assert averages(density)["<y^2>"] == pytest.approx(averages(volumes)["<y^2>"], rel=1e-3)


def test_natural_ends_are_no_walls():
    found = averages(solve(Diffusion([2 * (2 - x)], [[2 * x]], (x,)), box={"x": (0, 50)}))
    assert found["<x^2>"] == pytest.approx(6.0, rel=1e-8)


def test_levels_that_need_too_much_memory_are_not_begun(monkeypatch):
    monkeypatch.setattr(spectral, "MEMORY", 1e4)
    with pytest.raises(MemoryError, match="coarsest level"):
        solve(WELL, box={"x": (-6, 6)})


def test_a_loss_that_falls_without_end_has_no_density():
    with pytest.raises(ValueError, match="falls to -infinity at x = 0"):
        stationary_density(
            Langevin(Landscape(1 / x + y**2, (x, y)), isotropic(1)), box={"x": (-3, 3), "y": (-3, 3)}
        )
    # p ∝ |x|^(−1/2) has an integral: the Gamma function gives ⟨x²⟩ = 2 Γ(5/4)/Γ(1/4).
    loss = x**2 / 2 + sp.log(x**2) / 4
    density = stationary_density(
        Langevin(Landscape(loss, (x,)), isotropic(1)), box={"x": (-8, 8)}, shape=4000
    )
    assert averages(density)["<x^2>"] == pytest.approx(0.5, rel=5e-2)


def test_noise_from_the_hessian_of_a_loss_with_a_linear_part_sees_no_delta_there():
    """Huber's loss: D = H²/2 is 1/2 inside |x| < 1 and 0 beyond, where walls keep the walker from going."""
    huber = sp.Piecewise((x**2 / 2, sp.Abs(x) < 1), (sp.Abs(x) - R(1, 2), True))
    process = Langevin(Landscape(huber, (x,)), random_shift(delta_s=R(1, 2)))
    inside = process.diffusion_values(np.array([[0.5], [2.0]]))[:, 0, 0]
    assert inside.tolist() == [0.5, 0.0]
