"""When a walker has diverged: the size beyond which no walker of a process is taken to return."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import sympy as sp

from fpsolve.symbols.functions import numpy_function
from theory.evaluate import values_at
from theory.langevin import Process

#: Sizes of a walk beyond which it has diverged, and its steps: far more than a relaxation takes.
_SIZES, _STEPS = 1e6, 1e6
#: The largest limit; squares of places below it, summed, are floats.
_LARGEST = 1e100


def divergence_limit(
    process: Process, points: np.ndarray, root: np.ndarray, time_step: float,
    box: Mapping[str, tuple[float, float]] | None,
) -> float:  # fmt: skip
    """A power of ten, about 10⁶ times the size of a walk from ``points`` (k, n), in any unit.

    ``root`` is G at the points, shape (k, n, m). The size is the largest of the starts, the ends of the box,
    the length √(2Dt) of the noise in t = 10⁶ steps, and the way |b| min(t, 1/|∂b_i/∂x_i|) that the drift
    makes from the starts and from places moved by that noise.
    """
    horizon = _STEPS * time_step
    spans = [float(np.abs(ends).max()) for ends in (box or {}).values()]
    with np.errstate(all="ignore"):
        noise = np.sqrt(horizon * (root**2).sum(axis=2))
        moved = np.concatenate([points, points + noise, points - noise])
        drift = numpy_function(list(process.drift), process.variables)(*moved.T)
        own = [sp.diff(b, v) for b, v in zip(process.drift, process.variables, strict=True)]
        own = [sp.Integer(0) if slope.has(sp.Derivative, sp.Subs) else slope for slope in own]
        rates = np.abs(values_at(own, process.variables, moved)).T
        ways = np.abs(drift).reshape(rates.shape) * np.minimum(horizon, 1.0 / rates)
    lengths = np.concatenate([np.abs(points).ravel(), noise.ravel(), ways.ravel(), spans])
    size = float(lengths[np.isfinite(lengths)].max(initial=0.0)) or 1.0
    return min(_SIZES * 10.0 ** math.ceil(math.log10(size)), _LARGEST)
