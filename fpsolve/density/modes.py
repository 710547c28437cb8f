"""Slowest modes of a Markov chain at any separation of time scales, by Arnoldi iteration on its elimination.

Right modes are functions, Qφ = −λφ; left ones are densities, ψQ = −λψ. The inverse of −Q amplifies rounding
by 1/λ₁, so one Arnoldi iteration gives only the rates within ``RANGE`` of the slowest. Each next one holds
one state for each left mode ψ_j found. With h_j the probability to reach held state j first and G the inverse
of −Q with the held states absorbing, the modes left over are those of f → G f − Σ_j c_j h_j, where the
c_j make the result orthogonal to every ψ_i. This is exact: (−Q)⁻¹f and G f differ by a function that is
harmonic outside the held states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
from scipy.optimize import linear_sum_assignment

from fpsolve.density.dissection import Dissection
from fpsolve.density.elimination import Elimination, eliminate

#: Rates of one iteration are used up to this multiple of its slowest.
RANGE = 1e6
#: Modes that an iteration finds beyond those that are wanted: the slowest need not be the nearest to zero.
SPARE = 5
#: Chains up to this size are solved densely.
DENSE = 120

_Map: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SlowModes:
    """Decay rates by ascending real part, shape (count,), right and left modes as columns, (n, count)."""

    rates: np.ndarray
    right: np.ndarray
    left: np.ndarray
    #: Whether one of them rotates so fast that it is not among the nearest to zero.
    far: bool = False

    def chosen(self, which: np.ndarray) -> SlowModes:
        """Some of the modes, in the order of ``which``."""
        return SlowModes(self.rates[which], self.right[:, which], self.left[:, which], self.far)

    def slowest(self, count: int) -> SlowModes:
        """Those of smallest real part, the slower rotation first."""
        order = np.lexsort((-self.rates.imag, np.abs(self.rates.imag), self.rates.real))
        return self.chosen(order[:count])

    def joined(self, other: SlowModes) -> SlowModes:
        """These modes and others after them."""
        return SlowModes(
            np.concatenate([self.rates, other.rates]),
            np.concatenate([self.right, other.right], axis=1),
            np.concatenate([self.left, other.left], axis=1),
        )


def slowest_rate(chain: Elimination) -> complex:
    """The decay rate of smallest real part of those next to zero, to three digits; NaN if none is found."""
    inverse, _ = _inverses(chain, chain.weights()[:, None])
    try:
        rates = _arnoldi(inverse, len(chain.exits), 3, 1e-3, room=6)[0]
    except RuntimeError:
        return complex("nan")
    return complex(rates[np.argmin(rates.real)])


def slow_modes(
    rates: sparse.csr_matrix, chain: Elimination, count: int, *, with_left: bool = True, look_far: bool = True
) -> SlowModes:
    """The ``count`` modes of smallest real part of a closed chain, the stationary one left out.

    ``chain`` is the elimination of ``rates``. The largest entry of each is 1. Left ones cost
    as much again; without them they are NaN. ``look_far`` for modes that rotate much faster than they decay
    costs three times as much. A RuntimeError if the modes do not converge, a ValueError if the
    chain has too few states.
    """
    size, places = len(chain.exits), chain.dissection.places
    if count > size - 2 * SPARE:
        raise ValueError(f"{size} cells do not resolve {count} modes: use more cells (shape=)")
    weights = chain.weights()[:, None]
    found = _next_modes(*_inverses(chain, weights), size, count, with_left=with_left)
    if len(found.rates) < count and not with_left:
        return slow_modes(rates, chain, count, look_far=look_far)
    while len(found.rates) < count:
        basis = np.concatenate([weights, _real_span(found)], axis=1)
        # The rows of the left modes that differ most: one state in each of the wells.
        last = scipy.linalg.qr(basis.T, mode="r", pivoting=True)[1][: basis.shape[1]]
        inner = eliminate(Dissection.of(rates, places, last), rates)
        found = found.joined(_next_modes(*_inverses(inner, basis), size, count - len(found.rates)))
    near = found.slowest(count)
    if not look_far or not _has_current(rates, weights[:, 0]):
        return near
    every = _with_rotations(rates, chain.dissection, weights[:, 0], found, count, with_left).slowest(count)
    return replace(every, far=bool(np.abs(every.rates - near.rates).max() > 1e-3 * np.abs(near.rates).max()))


def _inverses(chain: Elimination, basis: np.ndarray) -> tuple[_Map, _Map]:
    """The inverse of −Q beyond the left modes that ``basis`` (n, k) spans, and its adjoint."""
    k = basis.shape[1]
    harmonic = chain.hitting_probabilities(k)
    overlap = scipy.linalg.lu_factor(basis.T @ harmonic)

    def orthogonal(f: np.ndarray) -> np.ndarray:
        return f - harmonic @ scipy.linalg.lu_solve(overlap, basis.T @ f)

    def adjoint(g: np.ndarray) -> np.ndarray:
        return g - basis @ scipy.linalg.lu_solve(overlap, harmonic.T @ g, trans=1)

    return (
        lambda f: orthogonal(chain.solve(orthogonal(f), held=k)),
        lambda g: adjoint(chain.occupation(adjoint(g), held=k)),
    )


def _next_modes(
    inverse: _Map,
    adjoint: _Map,
    size: int,
    wanted: int,
    *,
    with_left: bool = True,
    tolerance: float = 0.0,
    shift: float = 0.0,
) -> SlowModes:
    """The modes nearest to −``shift``, nearest first, of which ``wanted`` or more are complete."""
    rates, right = _arnoldi(inverse, size, wanted + SPARE, tolerance, shift)
    good, left = np.abs(rates) <= RANGE * np.abs(rates[0]), np.full_like(right, np.nan)
    if with_left:
        others, found = _arnoldi(adjoint, size, wanted + SPARE, tolerance, shift)
        # Left and right modes come in any order, and those at the end may differ.
        gap = np.abs(rates[:, None] - others) / np.abs(rates[:, None])
        row, partner = linear_sum_assignment(gap)
        good &= np.cumprod(gap[row, partner] < 1e-5) > 0
        left = found[:, partner]
    apart = np.abs(rates[:, None] - rates.conj()) > 1e-6 * np.abs(rates)
    good &= ~(apart | ~good).all(axis=1)  # no half of a pair
    if not good.any():
        raise RuntimeError("the slow modes do not converge: use another mesh (shape=)")
    return SlowModes(rates, right, left).chosen(np.flatnonzero(good))


def _arnoldi(
    operator: _Map, size: int, number: int, tolerance: float, shift: float = 0.0, room: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rates λ and vectors of the eigenvalues 1/(λ + shift) of largest modulus, by ascending |λ + shift|."""
    # The start is without any symmetry, and not small in any well. The inverse is scaled to order one: the
    # square of a time above 1e154 is no float.
    start = operator(np.random.default_rng(1).normal(size=size))
    scale = float(np.abs(start).max())
    linear = sparse_linalg.LinearOperator(
        (size, size), matvec=lambda f: operator(np.ravel(f)) / scale, dtype=float
    )
    if size <= DENSE:
        values, vectors = np.linalg.eig(linear @ np.eye(size))
    else:
        options = {
            "which": "LM",
            "ncv": min(size, number + (room or 2 * number + 10)),
            "tol": tolerance,
            "maxiter": 100,
        }
        try:
            values, vectors = sparse_linalg.eigs(linear, number, v0=start / scale, **options)
        except sparse_linalg.ArpackError as error:
            raise RuntimeError(f"the slow modes do not converge ({error}); use more cells (shape=)") from None
    order = np.lexsort((-values.imag, -np.log(np.abs(values) + 1e-300).round(9)))[:number]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return 1.0 / scale / values[order] - shift, (vectors / largest)[:, order]


def _real_span(modes: SlowModes) -> np.ndarray:
    """Real columns that span the left modes, scaled to Σ |ψ| = 1."""
    turning = modes.left[:, modes.rates.imag > 0]
    columns = [modes.left[:, modes.rates.imag == 0].real, turning.real, turning.imag]
    span = np.concatenate(columns, axis=1)
    return span / np.abs(span).sum(axis=0)


def _has_current(rates: sparse.csr_matrix, weights: np.ndarray) -> bool:
    """Whether the chain is out of equilibrium: π_i q_ij differs from π_j q_ji."""
    flux = sparse.diags(weights) @ (rates - sparse.diags(rates.diagonal()))
    return bool(abs(flux - flux.T).max() > 1e-6 * abs(flux).max())


def _with_rotations(
    rates: sparse.csr_matrix,
    dissection: Dissection,
    weights: np.ndarray,
    found: SlowModes,
    count: int,
    with_left: bool,
) -> SlowModes:
    """The modes with those added that rotate faster than they decay.

    1/|λ + s| grows with the real part of λ alone if s is large. Rates far below s keep their values.
    """
    shift = 4.0 * float(np.abs(found.rates).max())
    chain = eliminate(dissection, rates, np.full(len(weights), shift))

    def inverse(f: np.ndarray) -> np.ndarray:
        u = chain.solve(f - weights @ f)
        return u - weights @ u

    def adjoint(g: np.ndarray) -> np.ndarray:
        nu = chain.occupation(g - weights * g.sum())
        return nu - weights * nu.sum()

    slow = found.chosen(np.flatnonzero(np.abs(found.rates) < 1e-3 * shift))
    near = _next_modes(
        inverse, adjoint, len(weights), count + 2 * SPARE, with_left=with_left, tolerance=1e-8, shift=shift
    )
    return slow.joined(near.chosen(np.flatnonzero(np.abs(near.rates) >= 1e-3 * shift)))
