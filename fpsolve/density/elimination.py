"""Subtraction-free elimination of a Markov chain: full relative accuracy in every entry, at any barrier.

With rates q_ij of i → j, −Q = (I − L) S (I − U): U_kj = q_kj/S_k, L_ik = q_ik/S_k, the pivot S_k = Σ_j q_kj
is the sum of what is left of row k. Rates are only added, multiplied and divided. Sources: Grassmann, Taksar,
Heyman, Oper. Res. 33, 1107 (1985); O'Cinneide, Numer. Math. 65, 109 (1993), for the entrywise bound. Fronts:
:mod:`fpsolve.density.dissection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import scipy.sparse as sparse

from fpsolve.density.dissection import Dissection

#: Pivots of a front that are eliminated before the rest of the front is updated by one matrix product.
PANEL = 32
#: A state is shut in if its rate of leaving is below this share of the largest rate.
SMALLEST_PIVOT = 1e-290


class ShutIn(RuntimeError):
    """A state is left at no rate that a float can hold; ``state`` is its number."""

    def __init__(self, state: int) -> None:
        super().__init__(
            f"state {state} has no way out, or one over a barrier above about 670 D whose rate no float holds"
        )
        self.state = state


@dataclass(frozen=True)
class Elimination:
    """A factorised chain; see :func:`eliminate`. All vectors are in the order of the chain's states."""

    dissection: Dissection
    exits: np.ndarray  # (n, m) in order of elimination
    upper: np.ndarray
    lower: np.ndarray
    #: Smallest |S_k| / Σ_j |q_kj|. It is 1 without negative rates; a small value shows lost digits.
    cancellation: float

    @property
    def closed(self) -> bool:
        """Whether nothing leaves the chain."""
        return self.exits.shape[1] == 0

    def weights(self) -> np.ndarray:
        """The stationary vector π of a closed chain, πQ = 0, Σ π = 1."""
        if not self.closed:
            raise ValueError("a chain with exits has no stationary vector")
        x = np.zeros(len(self.exits))
        x[-1] = 1.0
        x = self._run(x, (_LOWER_LEFT,))
        return x / x.sum()

    def solve(self, right: np.ndarray, *, held: int = 1) -> np.ndarray:
        """u with −Qu = right. In a closed chain u = 0 on the ``held`` states that are eliminated last.

        ``right = 1`` gives the mean times until the chain is left, or until a held state is reached.
        """
        return self._run(self._ordered(right), (_LOWER, _UPPER), held if self.closed else 0)

    def occupation(self, left: np.ndarray, *, held: int = 1) -> np.ndarray:
        """ν with −νQ = left: the mean time spent in each state, from the start ``left``, before the end.

        A closed chain ends at the ``held`` states that are eliminated last.
        """
        return self._run(self._ordered(left), (_UPPER_LEFT, _LOWER_LEFT), held if self.closed else 0)

    def hitting_probabilities(self, held: int) -> np.ndarray:
        """Probability to reach each of the ``held`` last states of a closed chain first, shape (n, held)."""
        values = np.zeros((held, len(self.exits)))
        values[:, -held:] = np.eye(held)
        return np.stack([self._run(v, (_UPPER,), -held) for v in values], axis=1)

    def exit_probabilities(self) -> np.ndarray:
        """Probability to leave through each column of ``exits``, shape (n, m)."""
        columns = [self._run(column.copy(), (_LOWER, _UPPER)) for column in self.exits.T]
        return np.stack(columns, axis=1)

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, float)[self.dissection.order]

    def _run(self, x: np.ndarray, sweeps: Sequence[int], held: int = 0) -> np.ndarray:
        d = self.dissection
        for sweep in sweeps:
            tree = d.start, d.stop, d.first, d.kept, self.upper, self.lower, self.exits.shape[1]
            _sweep(sweep, x, held, *tree)
        result = np.empty_like(x)
        result[d.order] = x
        return result


def eliminate(dissection: Dissection, rates: sparse.spmatrix, exits: np.ndarray | None = None) -> Elimination:
    """Factorise a chain.

    Parameters
    ----------
    dissection : Dissection
        Of a chain with nonzero rates wherever ``rates`` has some.
    rates : sparse matrix, shape (n, n)
        q_ij ≥ 0 of i → j; the diagonal is ignored. A Fokker–Planck matrix A goes in as its transpose.
        Negative rates are allowed and cost accuracy: see ``cancellation``.
    exits : ndarray, shape (n,) or (n, m), optional
        Rates of leaving the chain, in m ways. Without them the chain is closed.

    Returns
    -------
    Elimination
        The last state of a closed chain is the one of greatest weight among those that the dissection
        eliminates last. A :class:`ShutIn` (RuntimeError) if a state is left at no rate that a float can hold.
        A ValueError if the dissection does not fit the rates.
    """
    d, n = dissection, rates.shape[0]
    leaving = np.zeros((n, 0)) if exits is None else np.asarray(exits, float).reshape(n, -1)
    leaving = np.ascontiguousarray(leaving[d.order])
    own, beyond, m = d.stop - d.start, np.diff(d.first), leaving.shape[1]
    sizes = int((own * (own + beyond + m)).sum()), int((own * beyond).sum())
    try:
        upper, lower = np.empty(sizes[0]), np.empty(sizes[1])
    except MemoryError:
        need = 8e-9 * (sum(sizes) + d.deepest[0])
        raise MemoryError(f"the elimination of {n} cells needs {need:.1f} GB; use fewer (shape=)") from None
    rows, columns = sparse.csr_matrix(rates, dtype=float), sparse.csc_matrix(rates, dtype=float)
    smallest = SMALLEST_PIVOT * float(max(abs(rows.data).max(initial=0.0), abs(leaving).max(initial=0.0)))
    lists = (rows.indptr, rows.indices, rows.data, columns.indptr, columns.indices, columns.data)
    tree = (d.order, d.start, d.stop, d.children, d.first, d.kept)
    room = d.deepest[0] + m * d.deepest[1]
    last, worst, fault = _fronts(*lists, leaving, *tree, room, upper, lower, smallest)
    if fault == _STRANGER:
        raise ValueError("the rates join states that the dissection keeps apart")
    if fault >= 0:
        raise ShutIn(int(d.order[fault]))
    if m == 0:
        turn = np.arange(len(last))
        top = _heaviest(last)
        turn[top:] = np.append(turn[top + 1 :], top)
        d, last = _turned(d, turn), last[turn][:, turn].copy()
    worst_of_last, fault = _pivots(last, len(last), smallest, m == 0)
    if fault >= 0:
        raise ShutIn(int(d.order[d.start[-1] + fault]))
    upper[len(upper) - last.size :] = last.ravel()
    return Elimination(d, leaving, upper, lower, min(worst, worst_of_last))


def _heaviest(rates: np.ndarray) -> int:
    """The state of greatest weight of a small closed chain, by logarithms: weights may exceed all floats."""
    q, n = np.abs(rates), len(rates)
    leave = np.zeros(n)
    for k in range(n - 1):
        leave[k] = q[k, k + 1 :].sum()
        if leave[k] > 0.0:
            q[k + 1 :, k + 1 :] += np.outer(q[k + 1 :, k], q[k, k + 1 :] / leave[k])
    weight = np.full(n, -np.inf)
    weight[-1] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in range(n - 2, -1, -1):
            inflow = weight[k + 1 :] + np.log(q[k + 1 :, k])
            weight[k] = np.logaddexp.reduce(inflow) - np.log(leave[k])
    return int(np.argmax(np.nan_to_num(weight, nan=-np.inf)))


def _turned(dissection: Dissection, turn: np.ndarray) -> Dissection:
    """The dissection with the states of its last front in another order."""
    begin, order, kept = dissection.start[-1], dissection.order.copy(), dissection.kept.copy()
    order[begin:] = order[begin:][turn]
    late = kept >= begin
    kept[late] = begin + np.argsort(turn)[kept[late] - begin]
    return replace(dissection, order=order, kept=kept)


#: What is wrong with a factorisation: nothing, or rates outside the dissection; else a state's rank.
_FINE, _STRANGER = -1, -2


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _pivots(F, own, smallest, closed):
    """Eliminate the leading ``own`` states of a front in place: S on the diagonal, U right of it, L below.

    The block of the states beyond is left as it is: it gets the product of L and U there, as a whole.
    Returns the smallest |S_k| / Σ_j |q_kj| and the first state that is shut in. The last state of a closed
    chain has nothing left to go to: its pivot is 0.
    """
    rows, width, worst = F.shape[0], F.shape[1], 1.0
    for a in range(0, own, PANEL):
        b = min(a + PANEL, own)
        for k in range(a, b):
            if closed and k == width - 1:
                F[k, k] = 0.0
                break
            s = F[k, k + 1 :].sum()
            if not abs(s) > smallest:
                return worst, k
            worst = min(worst, abs(s) / np.abs(F[k, k + 1 :]).sum())
            F[k, k], inverse = s, 1.0 / s
            for i in range(k + 1, rows):
                F[i, k] *= inverse
                f = F[i, k]
                for j in range(k + 1, width if i < b else b):
                    F[i, j] += f * F[k, j]
        if b < own:
            right = np.ascontiguousarray(F[a:b, b:])
            F[b:own, b:] += np.dot(np.ascontiguousarray(F[b:own, a:b]), right)
            if own < rows:
                right = np.ascontiguousarray(right[:, : own - b])
                F[own:, b:own] += np.dot(np.ascontiguousarray(F[own:, a:b]), right)
    return worst, _FINE


@numba.njit(cache=True)
def _fronts(
    row_pointers, row_indices, row_rates, column_pointers, column_indices, column_rates, exits,
    order, start, stop, children, first, kept, room, upper, lower, smallest,
):  # fmt: skip
    """Assemble all fronts and eliminate all but the last; the last one as assembled, and the outcome."""
    n, m, worst = len(order), exits.shape[1], 1.0
    rank, local, owner = np.empty(n, np.int64), np.empty(n, np.int64), np.full(n, -1, np.int64)
    rank[order] = np.arange(n)
    stack, blocks = np.empty(len(start), np.int64), np.empty(room)
    largest = (stop - start + np.diff(first)).max()
    front = np.empty(largest * (largest + m))
    top = used = at_upper = at_lower = 0
    for t in range(len(start)):
        s, p, beyond = start[t], stop[t] - start[t], kept[first[t] : first[t + 1]]
        r = p + len(beyond)
        local[s : s + p], local[beyond] = np.arange(p), np.arange(p, r)
        owner[s : s + p], owner[beyond] = t, t
        F = front[: r * (r + m)].reshape(r, r + m)
        F[:] = 0.0
        for k in range(p):
            i = order[s + k]
            for e in range(row_pointers[i], row_pointers[i + 1]):
                j = rank[row_indices[e]]
                if j >= s and row_rates[e] != 0.0:
                    if owner[j] != t:
                        return F, worst, _STRANGER
                    F[k, local[j]] += row_rates[e]
            for e in range(column_pointers[i], column_pointers[i + 1]):
                j = rank[column_indices[e]]
                if j >= s + p and column_rates[e] != 0.0:
                    if owner[j] != t:
                        return F, worst, _STRANGER
                    F[local[j], k] += column_rates[e]
            F[k, r:] += exits[s + k]
        for _ in range(children[t]):
            top -= 1
            rows = local[kept[first[stack[top]] : first[stack[top] + 1]]]
            n_rows = len(rows)
            used -= n_rows * (n_rows + m)
            block = blocks[used : used + n_rows * (n_rows + m)].reshape(n_rows, n_rows + m)
            for i in range(n_rows):
                for j in range(n_rows):
                    F[rows[i], rows[j]] += block[i, j]
                F[rows[i], r:] += block[i, n_rows:]
        if t == len(start) - 1:
            break
        ratio, fault = _pivots(F, p, smallest, False)
        if fault >= 0:
            return F, worst, s + fault
        worst = min(worst, ratio)
        q = r - p
        upper[at_upper : at_upper + p * (r + m)].reshape(p, r + m)[:] = F[:p]
        left = lower[at_lower : at_lower + q * p].reshape(q, p)
        left[:] = F[p:, :p]
        block = blocks[used : used + q * (q + m)].reshape(q, q + m)
        np.dot(left, np.ascontiguousarray(F[:p, p:]), block)
        block += F[p:, p:]
        at_upper, at_lower, used = at_upper + p * (r + m), at_lower + q * p, used + q * (q + m)
        stack[top], top = t, top + 1
    return F, worst, _FINE


#: The four triangular solutions: (I − L)⁻¹x, (S(I − U))⁻¹x, x(S(I − U))⁻¹ and x(I − L)⁻¹.
_LOWER, _UPPER, _UPPER_LEFT, _LOWER_LEFT = 0, 1, 2, 3


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(a, b, low, high):
    """Σ a_j b_j from low to high."""
    total = 0.0
    for j in range(low, high):
        total += a[j] * b[j]
    return total


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _sweep(kind, x, held, start, stop, first, kept, upper, lower, m):
    """One triangular solution in place.

    ``held`` last entries of the second and third are 0; where it is negative they keep their values.
    """
    free = len(x) - abs(held)
    forward = kind in (_LOWER, _UPPER_LEFT)
    at_upper, at_lower = (0, 0) if forward else (len(upper), len(lower))
    for step in range(len(start)):
        t = step if forward else len(start) - 1 - step
        s, p, q = start[t], stop[t] - start[t], first[t + 1] - first[t]
        if not forward:
            at_upper, at_lower = at_upper - p * (p + q + m), at_lower - q * p
        A = upper[at_upper : at_upper + p * (p + q + m)].reshape(p, p + q + m)
        B = lower[at_lower : at_lower + q * p].reshape(q, p)
        if forward:
            at_upper, at_lower = at_upper + p * (p + q + m), at_lower + q * p
        own, beyond = x[s : s + p], kept[first[t] : first[t + 1]]
        if kind == _LOWER:
            for i in range(1, p):
                own[i] += _dot(A[i], own, 0, i)
            for i in range(q):
                x[beyond[i]] += _dot(B[i], own, 0, p)
        elif kind == _UPPER:
            both = np.concatenate((own, x[beyond]))
            for k in range(p - 1, -1, -1):
                if s + k < free:
                    both[k] = (both[k] + _dot(A[k], both, k + 1, p + q)) / A[k, k]
                elif held > 0:
                    both[k] = 0.0
            own[:] = both[:p]
        elif kind == _UPPER_LEFT:
            both = np.concatenate((own, np.zeros(q)))
            for k in range(p):
                f = both[k] = both[k] / A[k, k] if s + k < free else 0.0
                for j in range(k + 1, p + q):
                    both[j] += f * A[k, j]
            own[:] = both[:p]
            for j in range(q):
                x[beyond[j]] += both[p + j]
        else:
            for i in range(q):
                f = x[beyond[i]]
                for j in range(p):
                    own[j] += f * B[i, j]
            for i in range(p - 1, 0, -1):
                f = own[i]
                for j in range(i):
                    own[j] += f * A[i, j]
