"""Where a loss is low: the box around {L ≤ level}, by interval bounds, anywhere in space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy as sp

from theory.intervals import enclosed
from theory.zeros import MOST_BOXES, OVERFLOW, away, halved, place, search_region

#: The hull is found to this share of its width.
MARGIN = 0.02
#: A loss that is low this far out does not confine.
FAR = 1e24


class Unconfined(ValueError):
    """The loss is as low as asked arbitrarily far out, or falls without bound."""


def sublevel_box(
    loss: sp.Expr, variables: Sequence[sp.Symbol], level: float, inside: np.ndarray
) -> np.ndarray:
    """Ends (2, N) of a box that holds every point with L ≤ ``level``, too wide by a few per cent at most.

    ``inside`` (k, N) are points with L ≤ level, among them the lowest. An :class:`Unconfined` error says
    where the loss does not rise, or falls below its lowest minimum as at a pole. A function without interval
    bounds is a NotImplementedError.
    """
    lowest = float(enclosed([loss], variables, inside, inside)[0].min())
    hull = np.array([inside.min(axis=0), inside.max(axis=0)])
    low, high = (end[None] for end in search_region(variables, None))
    seen = 0
    while len(low):
        seen += len(low)
        a, b = place(low), place(high)
        margin = MARGIN * (hull[1] - hull[0])
        held = ((a >= hull[0] - margin) & (b <= hull[1] + margin)).all(axis=1)
        bounds = enclosed([loss], variables, a, b)[0][:, 0]
        far = away(a, b) > OVERFLOW
        keep = (bounds <= level) & ~held & ~(far & (bounds == -np.inf))
        low, high, a, b = low[keep], high[keep], a[keep], b[keep]
        if not len(low):
            break
        if seen > MOST_BOXES:
            return np.array([np.minimum(hull[0], a.min(axis=0)), np.maximum(hull[1], b.max(axis=0))])
        centre = place((low + high) / 2)
        value = enclosed([loss], variables, centre, centre)[1][:, 0]
        _refuse(centre, value, level, lowest, variables)
        found = centre[value <= level]
        if len(found):
            hull = np.array([np.minimum(hull[0], found.min(axis=0)), np.maximum(hull[1], found.max(axis=0))])
        low, high = halved(low, high)
    return hull + np.array([-1, 1])[:, None] * MARGIN * (hull[1] - hull[0])


def _refuse(centre: np.ndarray, value: np.ndarray, level: float, lowest: float, variables) -> None:
    """An error if a point shows that the loss does not confine."""
    below = value < lowest - 1e-6 * (level - lowest)
    away = (value <= level) & (np.abs(centre).max(axis=1) > FAR)
    if away.any():
        axis = int(np.argmax(np.abs(centre[away][0])))
        towards = "+inf" if centre[away][0, axis] > 0 else "-inf"
        raise Unconfined(f"the loss does not confine: it stays low towards {variables[axis]} -> {towards}")
    if below.any():
        spot = ", ".join(f"{v}={c:.4g}" for v, c in zip(variables, centre[below][0], strict=True))
        raise Unconfined(f"the loss does not confine: it falls below its minima, as at {spot}")
