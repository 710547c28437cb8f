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

from theory.evaluate import lambdified
from theory.landscape import Landscape, Parameter, exact
from theory.langevin import Langevin
from theory.starts import without_kinks

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
    dimension flat minima and saddles (zero curvature, leading power n) are covered: each Gaussian width
    √(2πD/|L''|) becomes 2Γ(1+1/n)(n! D/|L⁽ⁿ⁾|)^{1/n}. Sources: Xie, Sato, Sugiyama, ICLR 2021, Thm 3.1;
    Hänggi, Talkner, Borkovec, Rev. Mod. Phys. 62, 251 (1990).

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
        Relative error O(D/ΔL); a UserWarning if ΔL/D < 3, or the loss bends within the width of the noise at
        an end. A ValueError if the noise is not isotropic, a point is not what it is called, or the saddle
        does not lead out of the minimum's well.
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
    _check_neighbours(process.landscape, passage)
    _warn_if_low(passage.barrier / D)
    for values in (passage.minimum_eigenvalues, passage.saddle_eigenvalues):
        if len(values) > 1 and np.abs(values).min() <= 1e-9 * np.abs(values).max():
            raise ValueError("a flat direction at the minimum or the saddle: no quadratic prefactor exists")
    well = _widths(process.landscape, passage.minimum, D, downwards=0)
    top = _widths(process.landscape, passage.saddle, D, downwards=1)
    # For Gaussian widths √(2πD/|λ|) this is the formula with its determinants.
    prefactor = share * math.prod(well) * top[0] / math.prod(top[1:]) / D
    return prefactor * _exp(passage.barrier / D)


def _widths(landscape: Landscape, place: np.ndarray, D: float, *, downwards: int) -> list[float]:
    """The widths of exp(∓L/D) along the eigenvectors of the Hessian; the loss falls along the first ones."""
    _, vectors = np.linalg.eigh(_at(landscape, landscape.hessian, place))
    signs = [-1] * downwards + [1] * (len(place) - downwards)
    return [_laplace_width(landscape, place, w, D, s) for w, s in zip(vectors.T, signs, strict=True)]


def _laplace_width(landscape: Landscape, place: np.ndarray, way: np.ndarray, D: float, sign: int) -> float:
    """∫ e^{−sign (L − L_c)/D} along a line through a critical point, from the power of L that rules there.

    The term L⁽ⁿ⁾rⁿ/n! reaches D at r_n = (n! D/|L⁽ⁿ⁾|)^{1/n}; the smallest r_n rules. A warning says where
    the integral of the loss itself over that width differs by more than 15 %.
    """
    r = sp.Dummy("r", real=True)
    line = {v: float(c) + r * float(w) for v, c, w in zip(landscape.variables, place, way, strict=True)}
    loss = landscape.loss.subs(line, simultaneous=True)
    slopes = {n: float(sp.diff(loss, r, n).subs(r, 0).evalf()) for n in range(2, 9)}
    # Rounding of a coordinate by 1e-12 of its size must not pass for a curvature.
    reach = {n: (math.factorial(n) * D / abs(v)) ** (1 / n) for n, v in slopes.items() if abs(v) > 1e-250}
    if not reach:
        raise ValueError("the loss is flat to eighth order at the minimum or the saddle: no prefactor exists")
    n = min(reach, key=lambda m: reach[m])
    width = 2 * math.gamma(1 + 1 / n) * reach[n]
    if n % 2 or sign * slopes[n] < 0:
        raise ValueError(
            f"at {_shown(landscape, place)} the term of order {n} rules over the width of the noise, "
            f"{reach[n]:.2g}: it is no {'minimum' if sign > 0 else 'top'} for this D; use exact_mean_time"
        )
    nodes, weights = np.polynomial.legendre.leggauss(100)
    rise = lambdified(loss - loss.subs(r, 0), (r,))(1.5 * reach[n] * nodes)
    ratio = float(np.sum(weights * np.exp(np.clip(-sign * rise / D, -700, 3))))
    ratio /= float(np.sum(weights * np.exp(-(np.abs(1.5 * nodes) ** n))))
    if not 0.85 < ratio < 1 / 0.85:
        warnings.warn(
            f"at {_shown(landscape, place)} the loss bends within the width of the noise, {reach[n]:.2g}: "
            f"the prefactor is off by a factor of about {ratio:.2g}; use exact_mean_time",
            stacklevel=3,
        )
    return width


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        raise OverflowError(f"the time grows as e^{exponent:.6g}, above the largest float") from None


def _check_neighbours(landscape: Landscape, passage: _Passage) -> None:
    """A ValueError if steepest descent from the saddle reaches the minimum on neither side."""
    _, vectors = np.linalg.eigh(_at(landscape, landscape.hessian, passage.saddle))
    ends = [_descended(landscape, passage, side * vectors[:, 0]) for side in (1, -1)]
    distance = float(np.linalg.norm(passage.saddle - passage.minimum))
    if all(np.linalg.norm(end - passage.minimum) > 0.05 * distance for end in ends):
        places = " and ".join(_shown(landscape, end) for end in ends)
        raise ValueError(
            f"saddle={_shown(landscape, passage.saddle)} does not lead out of the well of "
            f"minimum={_shown(landscape, passage.minimum)}: descent from it leads to {places}"
        )


def _descended(landscape: Landscape, passage: _Passage, way: np.ndarray) -> np.ndarray:
    """The end of steepest descent from beside the saddle by implicit steps (1/h + H) δ = −∇L."""
    gradient = lambdified(list(landscape.gradient), landscape.variables)
    hessian = lambdified(without_kinks(landscape.hessian), landscape.variables)
    distance = float(np.linalg.norm(passage.saddle - passage.minimum))
    point = passage.saddle + 1e-2 * distance * way
    g = gradient(*point)
    h = 0.05 * distance / max(float(np.linalg.norm(g)), 1e-300)
    for _ in range(500):
        H = hessian(*point)
        if not np.isfinite(H).all():
            break
        # Negative curvatures are left out: an implicit step along them would climb.
        values, vectors = np.linalg.eigh(H)
        step = -vectors @ ((vectors.T @ g) / (1 / h + np.maximum(values, 0.0)))
        # No well is jumped over: steps are short, and the slope does not turn round in one.
        step *= min(1.0, 0.05 * distance / max(float(np.linalg.norm(step)), 1e-300))
        new = gradient(*(point + step))
        if not float(new @ g) > -0.1 * float(g @ g):
            h /= 4
            if h < 1e-300:
                break
            continue
        point, g, h = point + step, new, 2 * h
        gone = float(np.linalg.norm(point - passage.minimum))
        if gone < 0.02 * distance or gone > 20 * distance or np.linalg.norm(step) < 1e-9 * distance:
            break
    return point


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
    _check_neighbours(landscape, passage)
    ratio = passage.determinants * (T_a / T_b) ** len(landscape.variables)
    exponent = passage.barrier * (s / T_a + (1 - s) / T_b)
    _warn_if_low(exponent)
    return 2 * math.pi / passage.escape_curvature * math.sqrt(ratio) * _exp(exponent)


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
    _check_neighbours(landscape, passage)
    exponent = effective_barrier(
        landscape, minimum=minimum, saddle=saddle, learning_rate=learning_rate, batch_size=batch_size, s=s
    )
    _warn_if_low(exponent)
    return 2 * math.pi / passage.escape_curvature * _exp(exponent)


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
