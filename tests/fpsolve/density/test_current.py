"""The probability current of a density lies within its stated error, cell by cell."""

import numpy as np
import pytest
import sympy as sp

from fpsolve import evolve, probability_current, stationary_density
from theory import Diffusion, Landscape, Langevin, isotropic

x, y = sp.symbols("x y", real=True)
WELLS = x**4 / 4 - x**2 / 2


def _swirl(loss, turn, D):
    """A swirl along the level lines of a loss: exp(−L/D) stays stationary, with J = turn·P·(−∂L/∂y, ∂L/∂x)."""
    drift = [-loss.diff(x) - turn * loss.diff(y), -loss.diff(y) + turn * loss.diff(x)]
    return Diffusion(sp.Matrix(drift), D * sp.eye(2), (x, y))


def _exact(density, loss, turn, D):
    """The density and the current on its cells."""
    lines = np.meshgrid(density.x, density.y, indexing="ij")
    value, *slopes = (sp.lambdify((x, y), f)(*lines) for f in (loss, loss.diff(x), loss.diff(y)))
    P = np.exp(-value / D)
    P = P / (P * density.cell_volume.to_numpy()).sum()
    return P, {"x": -turn * slopes[1] * P, "y": turn * slopes[0] * P}


@pytest.mark.parametrize("options", [{"method": "chain"}, {"scheme": "exponential"}, {"scheme": "central"}])
@pytest.mark.parametrize(
    ("loss", "turn", "D"),
    [
        (WELLS + y**2, 2.0, 0.2),
        (WELLS + x / 10 + y**2 / 2 + x * y / 3, 0.5, 0.15),
        (x**2 / 2 + y**2, 1.0, 0.2),
    ],
)
def test_the_stated_error_of_a_current_holds_in_its_cells(loss, turn, D, options):
    process = _swirl(loss, turn, D)
    density = stationary_density(process, box={"x": (-2.8, 2.8), "y": (-2.8, 2.8)}, shape=96, **options)
    current = probability_current(process, density)
    P, exact = _exact(density, loss, turn, D)
    bulk = P / P.max() > 1e-3
    for name, J in exact.items():
        error = np.abs(current[f"J_{name}"].to_numpy() - J)[bulk]
        stated = current[f"J_{name}_error"].to_numpy()[bulk]
        assert (error < 2 * stated).mean() > 0.98
        assert np.sqrt((stated**2).mean()) < 5 * np.sqrt((error**2).mean())


def test_the_stated_error_of_a_current_that_still_flows_holds_in_its_cells():
    # From a Gaussian about 1 with variance 1/4 under L = x²/2: mean e⁻ᵗ, variance 1 − 3/4 e⁻²ᵗ, J = −xP − ∂P.
    process, time = Langevin(Landscape(x**2 / 2, (x,)), isotropic(1)), 0.4
    start = sp.exp(-2 * (x - 1) ** 2)
    run = evolve(process, start, times=[time], box={"x": (-6, 6)}, shape=300)
    density = (run.density if "density" in run else run).isel(time=-1, drop=True)
    current = probability_current(process, density)
    mean, variance = np.exp(-time), 1 - 0.75 * np.exp(-2 * time)
    line = density.x.to_numpy()
    P = np.exp(-((line - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    error = np.abs(current.J_x.to_numpy() - P * ((line - mean) / variance - line))
    bulk = P / P.max() > 1e-3
    assert (error < 2 * current.J_x_error.to_numpy())[bulk].mean() > 0.98
