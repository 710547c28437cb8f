"""Loss landscapes: one symbolic loss, its derivatives and its critical points."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import TypeAlias

import numpy as np
import sympy as sp

from theory.critical import Box, CriticalPoint, Surface, critical_points
from theory.starts import MOST_CUT

#: Anything a formula accepts as a parameter: a number, or a symbol that stays symbolic.
Parameter: TypeAlias = float | sp.Expr
Seed: TypeAlias = int | np.random.SeedSequence | np.random.Generator | None


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


def checked_symbols(variables: Iterable[sp.Symbol], used: Iterable[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    """The variables as a tuple, none of them with the name of another symbol among those ``used``.

    Text is a TypeError. Two symbols of one name, such as with and without ``real=True``, are a ValueError.
    """
    found = tuple(variables)
    strangers = [v for v in found if not isinstance(v, sp.Symbol)]
    if strangers:
        name = strangers[0]
        advice = f"give sp.Symbol({str(name)!r}, real=True)"
        raise TypeError(f"variables hold {name!r}, which is no symbol; {advice}")
    for symbol in used:
        twins = [v for v in found if str(v) == str(symbol) and v != symbol]
        if twins:
            raise ValueError(
                f"two symbols are called {symbol}, with other assumptions, in the formula and among the "
                f"variables; make one, sp.Symbol({str(symbol)!r}, real=True), for both"
            )
    return found


def substitution(
    parameters: Iterable[sp.Symbol], values: Mapping[str, Parameter] | None, named: Mapping[str, Parameter]
) -> dict[sp.Symbol, sp.Expr]:
    """Symbols and their values, from names; an unknown name is a ValueError."""
    known = {str(symbol): symbol for symbol in parameters}
    given = dict(values or {}) | dict(named)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown parameters {unknown}; there are {sorted(known)}")
    return {known[key]: exact(value, key) for key, value in given.items()}


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
        object.__setattr__(self, "variables", checked_symbols(variables, self.loss.free_symbols))
        object.__setattr__(self, "fast", checked_symbols(self.fast, self.loss.free_symbols))
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

    def with_parameters(
        self, values: Mapping[str, Parameter] | None = None, /, **named: Parameter
    ) -> Landscape:
        """The landscape with parameters replaced, by mapping or keyword; an unknown name is a ValueError."""
        return replace(self, loss=self.loss.subs(substitution(self.parameters, values, named)))

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
        """Minima, saddles and maxima, lowest loss first: all of them in up to three variables.

        In up to three variables space is cut into boxes that provably hold one critical point or none,
        whatever the units (:mod:`theory.zeros`). Points where a curvature vanishes (x⁴) or does not exist
        (at kinks) are ``degenerate``; a line of critical points is given by one of its points. In more
        variables, or for a function without interval bounds, Newton's method runs from ``starts``
        quasi-random points on the scales on which the loss bends; this proves nothing about points it did
        not find. ``box`` maps each variable's name to (low, high), where to look. Free parameters and a box
        with the wrong variables are ValueErrors. A UserWarning says when there are too many critical points
        for the search to come to its end, or the later half of the starts still came to new ones.
        """
        if self.parameters:
            raise ValueError(f"give values to the parameters {self.parameters} first (with_parameters)")
        ends = None
        if box is not None:
            if set(box) != set(self.names):
                raise ValueError(
                    f"box has the variables {sorted(box)}; the landscape has {sorted(self.names)}"
                )
            ends = tuple((float(box[name][0]), float(box[name][1])) for name in self.names)
        surface = Surface(self.loss, self.variables, tuple(self.gradient), sp.ImmutableMatrix(self.hessian))
        points, complete, settled = critical_points(surface, ends, starts)
        if not complete and len(self.variables) <= MOST_CUT:
            warnings.warn(
                f"the search for critical points of {self.name} did not come to its end: some may be "
                f"missing; give a {'smaller ' if box else ''}box=",
                stacklevel=2,
            )
        elif not settled:
            warnings.warn(
                f"{len(points)} critical points of {self.name} were found, and the later half of {starts} "
                "starts still came to new ones: more are missing; give more starts=, or a "
                f"{'smaller ' if box else ''}box=",
                stacklevel=2,
            )
        return list(points)

    def minimum(self) -> dict[str, float]:
        """The lowest minimum found by :meth:`critical_points`, as a mapping of name to coordinate.

        Without a minimum a ValueError asks for the start or the box.
        """
        minima = [c for c in self.critical_points() if c.kind == "minimum"]
        if not minima:
            raise ValueError(f"no minimum found for the loss {self.loss}; give start= or box= explicitly")
        return minima[0].point
