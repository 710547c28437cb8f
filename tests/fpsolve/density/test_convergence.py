"""Orders of convergence, on four meshes each: fitted slope within 0.2 of what is promised."""

import warnings

import numpy as np
import pytest
import sympy as sp

from fpsolve import compare, evolve, stationary_density
from fpsolve.symbols.functions import numpy_function
from theory import Diffusion, Langevin, degenerate_valley, random_shift

x, y = sp.symbols("x y", real=True)


def _slope(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def _quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the coarse meshes of a convergence study are meant
        return stationary_density(*arguments, **options)


def test_valley_density_with_full_sgd_noise_is_second_order():
    sgd = Langevin(degenerate_valley(), random_shift(delta_s=1e-3))
    sizes, errors = [1, 2, 3, 4], []
    for k in sizes:
        density = _quiet(sgd, box={"x": (-0.8, 0.8), "y": (-0.6, 0.6)}, shape=(480 * k, 80 * k))
        errors.append(abs(compare.averages(density, ("x", "y"))["std(|x|)"] / 0.017161331 - 1))
    assert _slope(sizes, errors) == pytest.approx(2.0, abs=0.2)
    assert errors[-1] < 1.5e-3


@pytest.mark.parametrize("scheme", ["central", "exponential"])
def test_ornstein_uhlenbeck_covariance_is_second_order(scheme):
    drift = sp.Matrix([-(x + sp.Rational(4, 5) * y), sp.Rational(3, 5) * x - sp.Rational(3, 2) * y])
    process = Diffusion(drift, sp.Matrix([[10, 4], [4, 8]]) / 100, (x, y))
    exact = {"<x^2>": 0.0764040404, "<y^2>": 0.0651313131, "<x y>": 0.0294949495}
    sizes, errors = [60, 90, 135, 200], []
    for n in sizes:
        found = compare.averages(_quiet(process, box={"x": (-2, 2), "y": (-2, 2)}, shape=n, scheme=scheme))
        errors.append(max(abs(found[q] - value) for q, value in exact.items()))
    assert _slope(sizes, errors) == pytest.approx(2.0, abs=0.2)
    assert errors[-1] < 2e-3 * exact["<x^2>"]


#: A density, a full position-dependent D, and a divergence-free current make a drift with a known state.
MANUFACTURED = sp.exp(-(x**2) - y**2 + x * y / 2 + sp.Rational(3, 10) * sp.cos(x + y))
MANUFACTURED_D = sp.Matrix(
    [
        [1 + sp.Rational(3, 10) * sp.sin(x), sp.Rational(3, 10) * sp.cos(x * y)],
        [sp.Rational(3, 10) * sp.cos(x * y), 1 + sp.Rational(1, 4) * sp.cos(y + x)],
    ]
)


def manufactured_process():
    """b = (1/P) [∂_j(D_ij P) + J_i] with J = rot(ψ), ψ = P: a swirl that carries a current."""
    P, D = MANUFACTURED, MANUFACTURED_D
    swirl = [sp.diff(P, y), -sp.diff(P, x)]
    drift = [
        sp.expand(sp.simplify((sum(sp.diff(D[i, j] * P, v) for j, v in enumerate((x, y))) + swirl[i]) / P))
        for i in range(2)
    ]
    return Diffusion(sp.Matrix(drift), D, (x, y))


def test_manufactured_state_with_full_position_dependent_diffusion_is_second_order():
    process = manufactured_process()
    sizes, errors = [32, 48, 72, 108], []
    for n in sizes:
        density = _quiet(process, box={"x": (-5, 5), "y": (-5, 5)}, shape=n)
        exact = density.copy(
            data=numpy_function(MANUFACTURED, (x, y))(*np.meshgrid(density.x, density.y, indexing="ij"))
        )
        exact = exact / (exact * density.cell_volume).sum()
        errors.append(float((abs(density - exact) * density.cell_volume).sum()))
    assert _slope(sizes, errors) == pytest.approx(2.0, abs=0.2)
    assert errors[-1] < 5e-3


def test_evolution_is_second_order_in_time_and_conserves_mass():
    process = Diffusion(sp.Matrix([-x]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
    initial = sp.exp(-((x - 1) ** 2) / (2 * sp.Rational(1, 4)))
    box, shape = {"x": (-6, 6)}, 1200

    def mean_square(steps):
        # No step is shortened for its error.
        density = evolve(
            process, initial, times=[1.0], time_step=1.0 / steps, box=box, shape=shape, accuracy=100.0
        )
        assert density.attrs["mass_drift"] < 1e-12
        return float((density.isel(time=0) * density.cell_volume * density.x**2).sum())

    finest = mean_square(512)
    # Exact: mean e^{−t}, variance 1/2 + (1/4 − 1/2) e^{−2t}; what is left is the error in space, O(h²).
    exact = np.exp(-2) + 0.5 - 0.25 * np.exp(-2)
    assert finest == pytest.approx(exact, rel=2e-4)
    steps = [4, 8, 16, 32]
    errors = [abs(mean_square(n) - finest) for n in steps]
    assert _slope(steps, errors) == pytest.approx(2.0, abs=0.2)


def test_evolution_in_two_dimensions_conserves_mass_to_rounding_and_ends_stationary():
    process = manufactured_process()
    final = _quiet(process, box={"x": (-5, 5), "y": (-5, 5)}, shape=48)
    density = evolve(
        process, sp.exp(-((x - 1) ** 2 + (y + 1) ** 2) * 4), times=[0.0, 0.5, 30.0], time_step=0.05,
        box={"x": (-5, 5), "y": (-5, 5)}, shape=48,
    )  # fmt: skip
    assert density.attrs["mass_drift"] < 1e-12
    assert float((abs(density.isel(time=-1) - final) * final.cell_volume).sum()) < 1e-8


def test_evolution_goes_on_from_a_density_and_refuses_nonsense():
    process = Diffusion(sp.Matrix([-x]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
    start = stationary_density(process, box={"x": (-6, 6)}, shape=200)
    kept = evolve(process, start, times=[1.0, 2.0], time_step=0.25)
    assert float(abs(kept.isel(time=-1) - start).max()) < 1e-10
    with pytest.raises(ValueError, match="increasing"):
        evolve(process, start, times=[2.0, 1.0], time_step=0.1)
    with pytest.raises(ValueError, match="time_step"):
        evolve(process, start, times=[1.0], time_step=0.0)
    with pytest.raises(ValueError, match="box= and shape="):
        evolve(process, sp.exp(-(x**2)), times=[1.0], time_step=0.1)
