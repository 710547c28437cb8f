"""Loss landscapes: one symbolic loss, its derivatives and its critical points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import TypeAlias

import numpy as np
import sympy as sp

from theory.evaluate import values_at

#: Anything a formula accepts as a parameter: a number, or a symbol that stays symbolic.
Parameter: TypeAlias = float | sp.Expr
Seed: TypeAlias = int | np.random.SeedSequence | np.random.Generator | None

Box: TypeAlias = Mapping[str, tuple[float, float]]


def exact(value: Parameter, name: str = "parameter") -> sp.Expr:
    """``value`` as a finite sympy expression; a float becomes the rational it prints as.

    A number that is not finite is a ValueError. Text or another type is a TypeError: text goes through
    ``theory.parse_expression``.
    """
    if isinstance(value, sp.Expr):
        expression = value
    elif isinstance(value, Real):
        if not np.isfinite(float(value)):
            raise ValueError(f"{name}={value} is not finite")
        expression = sp.Rational(repr(float(value)))
    else:
        raise TypeError(f"{name} must be a number or a sympy expression, got {value!r}")
    if expression.is_finite is False:
        raise ValueError(f"{name}={value} is not finite")
    return expression


def positive(value: Parameter, name: str) -> sp.Expr:
    """``value`` as :func:`exact` gives it; a number that is not positive is a ValueError."""
    expression = exact(value, name)
    if expression.is_nonpositive:
        raise ValueError(f"{name}={value} must be positive")
    return expression


@dataclass(frozen=True)
class CriticalPoint:
    """A point with ∇L = 0: its coordinates, its loss and the eigenvalues of its Hessian (ascending)."""

    point: dict[str, float]
    loss: float
    eigenvalues: tuple[float, ...]

    @property
    def index(self) -> int:
        """Number of negative Hessian eigenvalues (0: minimum, 1: saddle that a path crosses)."""
        scale = max(map(abs, self.eigenvalues))
        return sum(value < -1e-8 * scale for value in self.eigenvalues)

    @property
    def kind(self) -> str:
        """``"minimum"``, ``"saddle"`` or ``"maximum"`` by the signs of the eigenvalues."""
        if self.index == 0:
            return "minimum"
        return "maximum" if self.index == len(self.eigenvalues) else "saddle"


@dataclass(frozen=True)
class Landscape:
    """A loss L(θ) written once in sympy.

    A ValueError if a variable is missing from the loss, repeated, or ``fast`` names a stranger.

    Parameters
    ----------
    loss : sympy.Expr
        Every free symbol that is not in ``variables`` is a parameter.
    variables : tuple of sympy.Symbol
        The coordinates θ, in order. Declare them real: ``sp.symbols("x y", real=True)``.
    fast : tuple of sympy.Symbol, optional
        The sharp (non-degenerate) coordinates, if the landscape has a valley along the others.
    name : str
        Used in titles and in the provenance of results.
    """

    loss: sp.Expr
    variables: tuple[sp.Symbol, ...]
    fast: tuple[sp.Symbol, ...] = ()
    name: str = "landscape"

    def __post_init__(self) -> None:
        if isinstance(self.loss, Real):
            object.__setattr__(self, "loss", exact(self.loss, "loss"))
        if not isinstance(self.loss, sp.Expr):
            raise TypeError(
                f"loss must be a sympy expression, got {type(self.loss).__name__}; "
                "for text use theory.parse_expression"
            )
        variables = (self.variables,) if isinstance(self.variables, sp.Symbol) else self.variables
        object.__setattr__(self, "variables", tuple(variables))
        object.__setattr__(self, "fast", tuple(self.fast))
        if not self.variables or len(set(self.variables)) != len(self.variables):
            raise ValueError(f"variables={self.variables} must be distinct and at least one")
        missing = [str(v) for v in self.variables if v not in self.loss.free_symbols]
        if missing:
            raise ValueError(f"the loss {self.loss} does not depend on {', '.join(missing)}")
        strangers = [str(v) for v in self.fast if v not in self.variables]
        if strangers:
            raise ValueError(f"fast={strangers} are not among the variables {self.variables}")

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names, in order."""
        return tuple(str(variable) for variable in self.variables)

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """Free symbols of the loss that are not variables, sorted by name."""
        return tuple(sorted(self.loss.free_symbols - set(self.variables), key=str))

    @property
    def slow(self) -> tuple[sp.Symbol, ...]:
        """The variables that are not fast."""
        return tuple(v for v in self.variables if v not in self.fast)

    @cached_property
    def gradient(self) -> sp.Matrix:
        """∇L, shape (N, 1)."""
        return sp.Matrix([sp.diff(self.loss, v) for v in self.variables])

    @cached_property
    def hessian(self) -> sp.Matrix:
        """H = ∇∇L, shape (N, N)."""
        return sp.hessian(self.loss, self.variables)

    def with_parameters(self, values: Mapping[str, Parameter]) -> Landscape:
        """Return the landscape with parameters replaced; an unknown name is an error."""
        known = {str(symbol): symbol for symbol in self.parameters}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown parameters {unknown}; this landscape has {sorted(known)}")
        substitution = {known[key]: exact(value, key) for key, value in values.items()}
        return replace(self, loss=self.loss.subs(substitution))

    def scaled(self, k: Parameter) -> Landscape:
        """L_k(θ) = L(√k θ), k > 0: the same landscape k times as sharp, H → kH, every place divided by √k.

        One step of gradient descent on L_k is one step on L at k times the learning rate, for φ = √k θ. A
        number k that is not positive is a ValueError. Source: Xie, Sato, Sugiyama, ICLR 2021, section 4
        (L(θ) = f(√k θ)).
        """
        stretched = {v: sp.sqrt(positive(k, "k")) * v for v in self.variables}
        loss = sp.expand(self.loss.subs(stretched, simultaneous=True))
        return replace(self, loss=loss, name=f"{self.name}, k = {k}")

    def smoothed(self, variance: Parameter) -> Landscape:
        """E L(θ − x) over x ~ N(0, vI): the mean loss of shifted data, Σ_n (v/2)ⁿ ∇²ⁿL / n!.

        A loss that is no polynomial and a negative number v are ValueErrors.
        """
        v = exact(variance, "variance")
        if v.is_negative or not self.loss.is_polynomial(*self.variables):
            raise ValueError(f"variance={variance} must not be negative, the loss {self.loss} a polynomial")
        term, total, n = sp.expand(self.loss), sp.Integer(0), 0
        while term != 0:
            total, n = total + term, n + 1
            term = sp.expand(sum(sp.diff(term, t, 2) for t in self.variables) * v / (2 * n))
        return replace(self, loss=total, name=f"{self.name}, mean over shifts of variance {variance}")

    def critical_points(self, box: Box | None = None, *, starts: int = 600) -> list[CriticalPoint]:
        """Minima, saddles and maxima found by Newton's method from many starts, lowest loss first.

        ``box`` maps each variable's name to (low, high), where to look; by default start points lie on scales
        from 0.1 to 10 around the origin. They are quasi-random, ``starts`` in number, and the same at every
        call. The points are distinct, with max |∂_i L| below 1e-9 of its scale. A multi-start search proves
        nothing about points it did not find. Free parameters and a box with the wrong variables are
        ValueErrors.
        """
        if self.parameters:
            raise ValueError(f"give values to the parameters {self.parameters} first (with_parameters)")
        points = self._converged(_start_points(self.names, box, starts))
        if box is not None:
            low, high = np.array([box[name] for name in self.names], float).T
            points = points[((points >= low) & (points <= high)).all(axis=1)]
        places = _distinct(points)
        losses = values_at(self.loss, self.variables, places)
        spectra = np.linalg.eigvalsh(values_at(self.hessian, self.variables, places))
        found = [
            CriticalPoint(dict(zip(self.names, place, strict=True)), loss, tuple(spectrum))
            for place, loss, spectrum in zip(places.tolist(), losses.tolist(), spectra.tolist(), strict=True)
        ]
        # Equal losses (mirror images) are ordered by place, so that the answer is the same everywhere.
        return sorted(found, key=lambda c: (round(c.loss, 9), [round(v, 9) for v in c.point.values()]))

    def _converged(self, points: np.ndarray, *, iterations: int = 200) -> np.ndarray:
        """Newton's method on ∇L = 0 from every row of ``points`` (k, N); the rows that converged."""
        gradient, hessian = list(self.gradient), self.hessian
        with np.errstate(all="ignore"):
            for _ in range(iterations):
                g, h = (values_at(f, self.variables, points) for f in (gradient, hessian))
                good = np.isfinite(g).all(axis=1) & np.isfinite(h).all(axis=(1, 2))
                points, g, h = points[good], g[good], h[good]
                if not len(points):
                    return points
                # A tiny shift keeps exactly singular Hessians (flat directions) solvable.
                shift = 1e-12 * (np.abs(h).max(axis=(1, 2)) + 1e-30)
                step = np.linalg.solve(h + shift[:, None, None] * np.eye(len(self.variables)), g[..., None])
                length = np.linalg.norm(step[..., 0], axis=1, keepdims=True)
                limit = 0.5 * (1.0 + np.linalg.norm(points, axis=1, keepdims=True))
                points = points - step[..., 0] * np.minimum(1.0, limit / np.maximum(length, 1e-300))
            g, h = (values_at(f, self.variables, points) for f in (gradient, hessian))
        scale = np.abs(h).max(axis=(1, 2)) * (1.0 + np.abs(points).max(axis=1))
        return points[np.abs(g).max(axis=1) < 1e-9 * np.maximum(scale, 1e-9)]

    def minimum(self) -> dict[str, float]:
        """The lowest minimum found by :meth:`critical_points`, as a mapping of name to coordinate.

        Without a minimum a ValueError asks for the start or the box.
        """
        minima = [c for c in self.critical_points() if c.kind == "minimum"]
        if not minima:
            raise ValueError(f"no minimum found for the loss {self.loss}; give start= or box= explicitly")
        return minima[0].point


def _start_points(names: Sequence[str], box: Box | None, starts: int) -> np.ndarray:
    """Start points of the multi-start search, shape (starts, N); the origin is the first."""
    rng = np.random.default_rng(20230607)
    unit = rng.uniform(-1.0, 1.0, size=(starts, len(names)))
    if box is None:
        scale = np.resize([0.1, 0.5, 1.0, 2.0, 4.0, 10.0], starts)
        unit[0] = 0.0
        return unit * scale[:, None]
    if set(box) != set(names):
        raise ValueError(f"box has the variables {sorted(box)}; the landscape has {sorted(names)}")
    low, high = np.array([box[name] for name in names], float).T
    return low + (unit + 1.0) / 2.0 * (high - low)


def _distinct(points: np.ndarray) -> np.ndarray:
    """Rows of ``points`` that differ by more than 1e-5 of their size."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.linalg.norm(point - other) > 1e-5 * (1.0 + np.linalg.norm(other)) for other in kept):
            kept.append(np.where(np.abs(point) < 1e-12, 0.0, point))
    return np.reshape(kept, (len(kept), points.shape[1]))
