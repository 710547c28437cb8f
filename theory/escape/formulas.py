"""Kramers' time with its prefactor, and SGD's escape formulas.

Every formula gives a mean time in units of learning rate × iterations. ``to="well"`` is the time to reach
the next well, ``to="saddle"`` half of it: from the top of the barrier the walker returns with probability ½.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import sympy as sp

from theory.landscape import Landscape, Parameter, exact
from theory.langevin import Langevin

Place: TypeAlias = float | Sequence[float] | Mapping[str, float]
#: Below this barrier, in units of the noise, asymptotic formulas warn.
SAFE_BARRIER = 3.0


@dataclass(frozen=True)
class _Passage:
    """A minimum and a saddle with what the formulas need of them."""

    barrier: float
    minimum: np.ndarray
    saddle: np.ndarray
    minimum_eigenvalues: np.ndarray
    saddle_eigenvalues: np.ndarray
    #: H_ae: curvature of the minimum along the escape direction at the saddle.
    minimum_curvature: float

    @property
    def escape_curvature(self) -> float:
        """|H_be|: size of the saddle's one negative eigenvalue."""
        return float(-self.saddle_eigenvalues[0])

    @property
    def determinants(self) -> float:
        """−det H_b / det H_a."""
        return abs(np.prod(self.saddle_eigenvalues)) / np.prod(self.minimum_eigenvalues)


def _passage(landscape: Landscape, minimum: Place, saddle: Place) -> _Passage:
    """The passage; a ValueError if the points are no minimum, no saddle, or without a barrier."""
    if landscape.parameters:
        raise ValueError(f"give values to the parameters {landscape.parameters} first (with_parameters)")
    a, b = _point(landscape, minimum, "minimum"), _point(landscape, saddle, "saddle")
    hessian_a, hessian_b = (_at(landscape, landscape.hessian, p) for p in (a, b))
    for place, hessian, name in ((a, hessian_a, "minimum"), (b, hessian_b, "saddle")):
        slope = np.abs(_at(landscape, landscape.gradient, place)).max()
        if slope > 1e-4 * max(1.0, float(np.abs(hessian).max())):
            raise ValueError(f"{name}={_shown(landscape, place)} is no critical point: |∇L| = {slope:.2g}")
    values_a = np.linalg.eigvalsh(hessian_a)
    values_b, vectors_b = np.linalg.eigh(hessian_b)
    if values_a[0] < -1e-9 * abs(values_a[-1]):
        raise ValueError(
            f"minimum={_shown(landscape, a)} is not a minimum: lowest curvature {values_a[0]:.3g}"
        )
    small = 1e-9 * np.abs(values_b).max()
    index, flat = int((values_b < -small).sum()), int((np.abs(values_b) <= small).sum()) if small else 1
    if index != 1 and not (index == 0 and flat == 1):
        raise ValueError(
            f"saddle={_shown(landscape, b)} is not a saddle that a path crosses: {index} negative curvatures"
        )
    low, high = (float(_at(landscape, sp.Matrix([landscape.loss]), p)[0, 0]) for p in (a, b))
    barrier = high - low
    if not barrier > 0:
        raise ValueError(f"the saddle lies {-barrier:.3g} below the minimum: no barrier")
    along = float(vectors_b[:, 0] @ hessian_a @ vectors_b[:, 0])
    return _Passage(barrier, a, b, values_a, values_b, along)


def _point(landscape: Landscape, place: Place, name: str) -> np.ndarray:
    """A place as an array, from a number (one variable), a sequence or a mapping."""
    if isinstance(place, Mapping):
        if set(place) != set(landscape.names):
            raise ValueError(f"{name} names {sorted(place)}; the landscape has {list(landscape.names)}")
        values = [place[v] for v in landscape.names]
    else:
        values = list(np.atleast_1d(np.asarray(place, float)))
    point = np.asarray(values, float)
    if point.shape != (len(landscape.variables),) or not np.isfinite(point).all():
        raise ValueError(f"{name}={place} must give {len(landscape.variables)} finite coordinates")
    return point


def _at(landscape: Landscape, matrix: sp.Matrix, point: np.ndarray) -> np.ndarray:
    at = {v: float(c) for v, c in zip(landscape.variables, point, strict=True)}
    return np.array(matrix.subs(at).evalf(), float)


def _shown(landscape: Landscape, point: np.ndarray) -> str:
    return "(" + ", ".join(f"{n}={c:.4g}" for n, c in zip(landscape.names, point, strict=True)) + ")"


def _warn_if_low(ratio: float) -> None:
    if ratio < SAFE_BARRIER:
        warnings.warn(f"the formula needs a barrier well above the noise; ΔL/D = {ratio:.2g}", stacklevel=3)


def barrier_height(landscape: Landscape, *, minimum: Place, saddle: Place) -> float:
    """ΔL = L(saddle) − L(minimum).

    Parameters
    ----------
    landscape : Landscape
        Every parameter has a value.
    minimum, saddle : float, sequence or mapping
        Coordinates of the two points. A ValueError says which point is not what it is called, or that there
        is no barrier.

    Returns
    -------
    float
        Positive.
    """
    return _passage(landscape, minimum, saddle).barrier


def kramers_time(
    process: Langevin, *, minimum: Place, saddle: Place, to: Literal["well", "saddle"] = "well"
) -> float:
    """Kramers' (Eyring–Kramers) mean escape time for isotropic noise, in any dimension.

    τ = (2π/|H_be|) √(−det H_b / det H_a) e^{ΔL/D} to the next well, half of it to the saddle. In one
    dimension a quartic minimum or saddle (zero curvature) is covered: each Gaussian width √(2πD/|L''|)
    becomes 2Γ(5/4)(24D/|L''''|)^{1/4}. Sources: Xie, Sato, Sugiyama, ICLR 2021, Thm 3.1; Hänggi, Talkner,
    Borkovec, Rev. Mod. Phys. 62, 251 (1990).

    Parameters
    ----------
    process : Langevin
        Isotropic noise D·I.
    minimum, saddle : float, sequence or mapping
        A minimum, and a saddle of index one.
    to : {"well", "saddle"}
        What counts as the end of the escape.

    Returns
    -------
    float
        Relative error O(D/ΔL); a UserWarning if ΔL/D < 3. A ValueError if the noise is not isotropic, or a
        point is not what it is called.
    """
    if not isinstance(process, Langevin):
        raise TypeError("escape formulas need a theory.Langevin system")
    if process.noise.hessian_factor is not None:
        raise ValueError("Kramers' formula needs isotropic noise; for noise ∝ Hessian use sgd_escape_time")
    if (D := process.temperature) is None:
        raise ValueError("Kramers' formula needs isotropic noise with a value; see two_temperature_time")
    if to not in ("well", "saddle"):
        raise ValueError(f"to={to!r} must be 'well' or 'saddle'")
    share = 1.0 if to == "well" else 0.5
    passage = _passage(process.landscape, minimum, saddle)
    _warn_if_low(passage.barrier / D)
    if len(process.variables) == 1:
        widths = [_laplace_width(process.landscape, p, D) for p in (passage.minimum, passage.saddle)]
        return share * widths[0] * widths[1] / D * math.exp(passage.barrier / D)
    if np.abs(passage.saddle_eigenvalues).min() <= 1e-9 or passage.minimum_eigenvalues[0] <= 1e-9:
        raise ValueError("a flat direction at the minimum or the saddle: no quadratic prefactor exists")
    prefactor = share * 2 * math.pi / passage.escape_curvature * math.sqrt(passage.determinants)
    return prefactor * math.exp(passage.barrier / D)


def _laplace_width(landscape: Landscape, point: np.ndarray, D: float) -> float:
    """∫ e^{∓(L − L_c)/D} near a critical point of one variable, quadratic or quartic."""
    (x,) = landscape.variables
    second, fourth = (float(sp.diff(landscape.loss, x, n).subs(x, point[0]).evalf()) for n in (2, 4))
    scale = max(abs(fourth), 1e-300)
    if abs(second) > 1e-6 * math.sqrt(D * scale):
        return math.sqrt(2 * math.pi * D / abs(second))
    return 2 * math.gamma(1.25) * (24 * D / scale) ** 0.25


def two_temperature_time(
    landscape: Landscape, *, minimum: Place, saddle: Place, T_a: float, T_b: float, s: float = 0.5
) -> float:
    """Escape time with one temperature at the minimum and another at the saddle.

    τ = (2π/|H_be|) √(−det H_b/det H_a) (T_a/T_b)^{N/2} exp[s ΔL/T_a + (1−s) ΔL/T_b], for D = T_a·I around the
    minimum and T_b·I around the saddle (Xie, Sato, Sugiyama, ICLR 2021, appendix, Eqs. 71, 72 and 81).

    Parameters
    ----------
    landscape, minimum, saddle
        As in :func:`barrier_height`, with the same errors.
    T_a, T_b : float
        Diffusion coefficients along the escape direction at the minimum and at the saddle. One that is not
        positive is a ValueError.
    s : float
        Share of the barrier climbed at temperature T_a; set by the path. Outside (0, 1) it is a ValueError.

    Returns
    -------
    float
        Time to the next well; equals Kramers' time for T_a = T_b = D.
    """
    if not (T_a > 0 and T_b > 0 and 0 < s < 1):
        raise ValueError(f"T_a={T_a}, T_b={T_b} must be positive and s={s} inside (0, 1)")
    passage = _passage(landscape, minimum, saddle)
    ratio = passage.determinants * (T_a / T_b) ** len(landscape.variables)
    exponent = passage.barrier * (s / T_a + (1 - s) / T_b)
    _warn_if_low(exponent)
    return 2 * math.pi / passage.escape_curvature * math.sqrt(ratio) * math.exp(exponent)


def sgd_escape_time(
    landscape: Landscape,
    *,
    minimum: Place,
    saddle: Place,
    learning_rate: float,
    batch_size: float,
    s: float = 0.5,
) -> float:
    """Escape time of SGD with noise ∝ Hessian: τ = (2π/|H_be|) exp[(2BΔL/η)(s/H_ae + (1−s)/|H_be|)].

    It rests on a temperature that is constant near each end. For the literal D(x) = (η/2B)|L''(x)| the noise
    vanishes at the inflection point between them; :func:`theory.escape.inflection_dimension` tells
    whether the continuous-time walker can pass it at all. Source: Xie, Sato, Sugiyama, ICLR 2021, Thm 3.2.

    Parameters
    ----------
    landscape, minimum, saddle
        As in :func:`barrier_height`, with the same errors.
    learning_rate, batch_size : float
        η and B.
    s : float
        Path-dependent share in (0, 1).

    Returns
    -------
    float
        Time to the next well. A ValueError if a number is not positive or s is outside (0, 1).
    """
    if not (learning_rate > 0 and batch_size > 0 and 0 < s < 1):
        raise ValueError(
            f"learning_rate={learning_rate}, batch_size={batch_size} must be positive and s={s} in (0, 1)"
        )
    passage = _passage(landscape, minimum, saddle)
    exponent = effective_barrier(
        landscape, minimum=minimum, saddle=saddle, learning_rate=learning_rate, batch_size=batch_size, s=s
    )
    _warn_if_low(exponent)
    return 2 * math.pi / passage.escape_curvature * math.exp(exponent)


def effective_barrier(
    landscape: Landscape,
    *,
    minimum: Place,
    saddle: Place,
    learning_rate: Parameter,
    batch_size: Parameter,
    s: Parameter = 0.5,
) -> float:
    """(2BΔL/η)(s/H_ae + (1−s)/|H_be|): the exponent of :func:`sgd_escape_time`.

    Parameters
    ----------
    landscape, minimum, saddle, learning_rate, batch_size, s
        As in :func:`sgd_escape_time`.

    Returns
    -------
    float
    """
    passage = _passage(landscape, minimum, saddle)
    eta, size, share = (float(exact(value)) for value in (learning_rate, batch_size, s))
    inverse = share / passage.minimum_curvature + (1 - share) / passage.escape_curvature
    return 2 * size * passage.barrier / eta * inverse
