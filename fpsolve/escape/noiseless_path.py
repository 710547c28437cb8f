"""What the walk without noise tells before a simulation: where it rests, and how fast it comes there."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.target import signed_function
from theory.langevin import Process

_REMEDY = "; give time_step and relaxation_time"


def relaxation_rates_below(process: Process, start: np.ndarray, *, target: sp.Basic) -> tuple[float, float]:
    """Slowest and fastest rate of relaxation at the minimum that the drift leads to from a start.

    ẋ = b(x) is followed until it rests; the rates are the eigenvalues of −∂b/∂x there (the curvatures, for
    a landscape). The fastest one is the larger of those at the start and at the end.

    Parameters
    ----------
    process : Process
        Without free parameters.
    start : array of shape (n,)
    target : sympy condition

    Returns
    -------
    tuple of two floats
        Smallest real part and largest size, units 1 / time.

    Raises
    ------
    ValueError
        If the path enters the target, or its end is no quadratic minimum.
    """
    variables = process.variables
    b = numpy_function(list(process.drift), variables)
    jacobian = numpy_function(sp.Matrix(process.drift).jacobian(variables), variables)
    g = numpy_function(signed_function(target, variables), variables)

    def rates(point: np.ndarray) -> np.ndarray:
        return -np.linalg.eigvals(np.reshape(jacobian(*point), (len(point), len(point))))

    at_start = rates(start)
    point, span = start, 1.0 / max(float(np.abs(at_start).max()), 1e-6)
    for _ in range(60):
        path = solve_ivp(lambda _, x: np.ravel(b(*x)), (0, span), point, "LSODA", rtol=1e-8, atol=1e-10)
        if not path.success:
            raise ValueError(f"the drift cannot be followed from the start{_REMEDY}")
        if (np.broadcast_to(g(*path.y), len(path.t)) > 0).any():
            raise ValueError(
                f"the drift alone leads from the start into the target {target}: there is no barrier; use "
                "simulate_escape"
            )
        moved = float(np.abs(path.y[:, -1] - point).max())
        point, span = path.y[:, -1], 2.0 * span
        if moved < 1e-6 * (1.0 + float(np.abs(point).max())):
            break
    found = rates(point)
    slow, fast = float(found.real.min()), float(max(np.abs(found).max(), np.abs(at_start).max()))
    if not slow > 1e-6 * fast:
        shown = ", ".join(f"{name}={value:.4g}" for name, value in zip(process.names, point, strict=True))
        raise ValueError(
            f"the drift leads from the start to {shown}, where the smallest curvature is {slow:.2g}: no "
            f"quadratic minimum{_REMEDY}"
        )
    return slow, fast
