"""Processes: which coefficients are accepted."""

import numpy as np
import pytest
import sympy as sp

from theory import Diffusion

x, y = sp.symbols("x y", real=True)


def test_a_diffusion_that_is_symmetric_but_for_rounding_is_accepted_and_made_symmetric():
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    D = turn @ np.diag([1.0, 0.13]) @ turn.T
    D[0, 1] *= 1 + 1e-15
    process = Diffusion(sp.Matrix([-x, -y]), sp.Matrix(D) * (1 + x**2), (x, y))
    assert process.diffusion == process.diffusion.T


@pytest.mark.parametrize("D", [[[1, x], [y, 1]], [[1.0, 0.5], [0.5001, 1.0]], [[1, 0], [1e-9, 1]]])
def test_a_diffusion_that_is_not_symmetric_is_refused(D):
    with pytest.raises(ValueError, match="must be symmetric"):
        Diffusion(sp.Matrix([-x, -y]), sp.Matrix(D), (x, y))
