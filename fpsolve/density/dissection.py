"""Nested dissection of a grid: the order in which its states are eliminated, and the tree of fronts.

A set of states is halved by a coordinate plane. The states that touch the other side are its separator and
are eliminated after both halves. A front is the dense matrix of one leaf or separator and of the later states
that it couples to. Sources: George, SIAM J. Numer. Anal. 10, 345 (1973); Duff, Reid, ACM Trans. Math. Softw.
9, 302 (1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sparse

#: Sets of at most this many states are not halved any further.
LEAF = 24
#: At most this many wells are eliminated last.
MOST_WELLS = 64
#: Depth in units of D from which on a dip of the density between two wells is a barrier.
BARRIER = 1.0


@dataclass(frozen=True)
class Dissection:
    """Elimination order and fronts of all chains on one grid with one stencil.

    ``places`` are the states' integer coordinates. ``order[k]`` is the state eliminated at rank k. Front t
    eliminates the ranks ``start[t]`` to ``stop[t]``, takes in the blocks that its ``children[t]`` latest
    unused predecessors leave, and keeps the ranks ``kept[first[t]:first[t + 1]]``. The last front holds the
    states that were to be eliminated last.
    """

    places: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    children: np.ndarray
    first: np.ndarray
    kept: np.ndarray
    #: Greatest numbers of entries and of rows that wait on the stack of blocks.
    deepest: tuple[int, int]

    @classmethod
    def of(
        cls, rates: sparse.spmatrix, coordinates: np.ndarray, last: np.ndarray | None = None
    ) -> Dissection:
        """The dissection for chains whose rates are nonzero where those of ``rates`` (n, n) are.

        ``coordinates`` are the states' integer places on the grid, shape (n, N). ``last`` are the states to
        eliminate last, the :func:`wells` by default.
        """
        last = wells(rates) if last is None else np.atleast_1d(np.asarray(last, np.int64))
        entries = rates.tocoo()
        apart = entries.row != entries.col
        row, column = entries.row[apart], entries.col[apart]
        ones = np.ones(2 * len(row), np.int8)
        both = np.concatenate([row, column]), np.concatenate([column, row])
        pattern = sparse.csr_matrix((ones, both), shape=rates.shape)
        n = rates.shape[0]
        inner = np.ones(n, bool)
        inner[last] = False
        order = np.concatenate([np.flatnonzero(inner), last]).astype(np.int64)
        pointers, neighbours = pattern.indptr.astype(np.int64), pattern.indices.astype(np.int64)
        places = np.ascontiguousarray(coordinates, np.int64)
        start, stop, children = _fronts(pointers, neighbours, places, order, n - len(last))
        first, kept, *deepest = _structure(pointers, neighbours, order, start, stop, children)
        return cls(places, order, start, stop, children, first, kept, (deepest[0], deepest[1]))


def wells(rates: sparse.spmatrix, share: float = 0.0) -> np.ndarray:
    """One state for each well of a chain that holds at least this share of all states.

    The largest come first, ``MOST_WELLS`` of them at most.
    """
    found, sizes = np.unique(basins(rates), return_counts=True)
    order = np.argsort(-sizes, kind="stable")[:MOST_WELLS]
    return found[order[sizes[order] >= share * rates.shape[0]]]


def width_in_wells(rates: sparse.spmatrix) -> float:
    """Energy from the floor of a well to the nearest cell, in units of D, the largest of all wells: h²/2σ².

    Above one half every cell is wider than the standard deviation σ. 0 where some rate is negative, which has
    no such reading.
    """
    off = rates - sparse.diags(rates.diagonal())
    floors = wells(rates)
    if off.data.min(initial=0.0) < 0.0:
        return 0.0
    uphill, downhill = off.tocsr()[floors].tocoo(), off.tocsc()[:, floors].T.tocsr()
    back = np.asarray(downhill[uphill.row, uphill.col]).ravel()
    nearest = np.full(len(floors), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        np.minimum.at(nearest, uphill.row, np.nan_to_num(np.log(back / uphill.data), nan=np.inf))
    return float(nearest.max())


def basins(rates: sparse.spmatrix) -> np.ndarray:
    """For each state of a chain the state that stands for its well, shape (n,).

    From each state the walk takes the step that is likeliest against its reverse. In equilibrium this is the
    steepest descent of the energy. It ends in a well, or on a cycle, of which one state is taken.
    """
    entries = rates.tocoo()
    reverse = np.asarray(rates.tocsr()[entries.col, entries.row]).ravel()
    chosen = (entries.row != entries.col) & (entries.data > reverse) & (reverse >= 0)
    row, column = entries.row[chosen], entries.col[chosen]
    with np.errstate(divide="ignore"):
        gain = np.log(entries.data[chosen]) - np.log(reverse[chosen])
    by_gain = np.lexsort((gain, row))
    row, column = row[by_gain], column[by_gain]
    best = np.flatnonzero(np.diff(row, append=-1))
    step = np.arange(rates.shape[0])
    step[row[best]] = column[best]
    smallest = step.copy()
    for _ in range(max(1, rates.shape[0]).bit_length()):
        smallest = np.minimum(smallest, smallest[step])
        step = step[step]
    return smallest[step]


def separate_wells(rates: sparse.spmatrix, density: np.ndarray) -> np.ndarray:
    """For each state of a chain the peak of the stationary density whose well it belongs to, shape (n,).

    The density alone tells wells from one another, as a current carries walks along ``rates`` past them. Two
    wells are one if the highest pass between them is less than ``BARRIER`` below the lower of their peaks, in
    units of D. Ripples no higher than ten times the most negative value are level ground.
    """
    level = max(1e-300, -10.0 * float(density.min()))
    height = np.log(np.maximum(density, level))
    pattern = (abs(rates) + abs(rates.T)).tocsr()
    order = np.argsort(-height, kind="stable").astype(np.int64)
    return _watershed(
        pattern.indptr.astype(np.int64), pattern.indices.astype(np.int64), order, height, BARRIER
    )


@numba.njit(cache=True)
def _watershed(pointers, neighbours, order, height, barrier):
    """The peak of each state's basin: states join from the highest down, and basins where no barrier is."""
    above = np.full(len(order), -1)
    for i in order:
        highest = -1
        for j in neighbours[pointers[i] : pointers[i + 1]]:
            if j != i and above[j] >= 0 and (highest < 0 or height[j] > height[highest]):
                highest = j
        above[i] = i if highest < 0 else highest
        for j in neighbours[pointers[i] : pointers[i + 1]]:
            if above[j] < 0:
                continue
            one, other = _peak(above, i), _peak(above, j)
            if height[one] < height[other]:
                one, other = other, one
            if one != other and height[i] > height[other] - barrier:
                above[other] = one
    for i in order:
        above[i] = _peak(above, i)
    return above


@numba.njit(cache=True)
def _peak(above, i):
    """The end of the way up from a state, which is shortened."""
    while above[i] != above[above[i]]:
        above[i] = above[above[i]]
    return above[i]


def _fronts(pointers, neighbours, places, order, inner):
    """Sort ``order`` in place; start, stop and number of children of each front, children first."""
    # No numba list: its compiled code is not kept, and costs seconds in each process.
    found, count = np.empty((len(order), 3), np.int64), np.zeros(1, np.int64)
    side = np.full(len(order), _DONE, np.int8)
    children = _dissect(pointers, neighbours, places, order, 0, inner, side, found, count) if inner else 0
    number = count[0]
    if inner < len(order):
        found[number] = inner, len(order), children
        number += 1
    return found[:number].T.copy()


#: A state below or above the cut, in the separator, or already placed.
_BELOW, _ABOVE, _BETWEEN, _DONE = 0, 1, 2, 9


@numba.njit(cache=True)
def _cut(pointers, neighbours, places, states, side):
    """The median plane with the smallest separator: axis, place, and whether the lower side gives it."""
    smallest, chosen = 1 << 60, (-1, 0, True)
    for axis in range(places.shape[1]):
        line = np.sort(places[states, axis])
        middle = line[len(line) // 2]
        cut = middle if 2 * np.searchsorted(line, middle) >= len(line) // 2 else middle + 1
        if line[0] >= cut or line[-1] < cut:
            continue
        touching = np.zeros(2, np.int64)
        for i in states:
            below = places[i, axis] < cut
            for j in neighbours[pointers[i] : pointers[i + 1]]:
                if side[j] == _BELOW and (places[j, axis] < cut) != below:
                    touching[0 if below else 1] += 1
                    break
        if touching.min() < smallest:
            smallest, chosen = touching.min(), (axis, cut, touching[0] <= touching[1])
    return chosen


@numba.njit(cache=True)
def _dissect(pointers, neighbours, places, order, low, high, side, fronts, count):
    """Sort order[low:high] into one half, the other half and the separator, and each half in turn.

    Returns how many fronts are left without a parent: the separator's own, or those of the halves.
    """
    axis, cut, from_below = -1, 0, True
    if high - low > LEAF:
        side[order[low:high]] = _BELOW
        axis, cut, from_below = _cut(pointers, neighbours, places, order[low:high], side)
        side[order[low:high]] = _ABOVE if axis >= 0 else _DONE
    if axis < 0:
        fronts[count[0]] = low, high, 0
        count[0] += 1
        return 1
    states, kind, sizes = order[low:high].copy(), np.empty(high - low, np.int8), np.zeros(3, np.int64)
    for k, i in enumerate(states):
        below = places[i, axis] < cut
        kind[k] = _BELOW if below else _ABOVE
        if below == from_below:
            for j in neighbours[pointers[i] : pointers[i + 1]]:
                if side[j] == _ABOVE and (places[j, axis] < cut) != below:
                    kind[k] = _BETWEEN
                    break
        sizes[kind[k]] += 1
    place = np.array([low, low + sizes[0], high - sizes[2]])
    for k, i in enumerate(states):
        order[place[kind[k]]] = i
        place[kind[k]] += 1
        side[i] = _DONE
    children = 0
    for a, b in ((low, low + sizes[0]), (low + sizes[0], high - sizes[2])):
        if b > a:
            children += _dissect(pointers, neighbours, places, order, a, b, side, fronts, count)
    if sizes[2] == 0:
        return children
    fronts[count[0]] = high - sizes[2], high, children
    count[0] += 1
    return 1


@numba.njit(cache=True)
def _structure(pointers, neighbours, order, start, stop, children):
    """Ranks that each front keeps beyond its own, and the deepest stack of blocks: entries, rows."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    mark, first = np.full(len(order), -1, np.int64), np.zeros(len(start) + 1, np.int64)
    kept, stack = np.empty(1 << 16, np.int64), np.empty(len(start), np.int64)
    top = entries = rows = most_entries = most_rows = 0
    for t in range(len(start)):
        begin = end = first[t]
        for s in range(children[t] + stop[t] - start[t]):
            if s < children[t]:
                child = stack[top - 1 - s]
                new = kept[first[child] : first[child + 1]]
                entries -= len(new) ** 2
                rows -= len(new)
            else:
                i = order[start[t] + s - children[t]]
                new = rank[neighbours[pointers[i] : pointers[i + 1]]]
            while end + len(new) > len(kept):
                kept = np.concatenate((kept, np.empty_like(kept)))
            for j in new:
                if j >= stop[t] and mark[j] != t:
                    mark[j], kept[end] = t, j
                    end += 1
        kept[begin:end].sort()
        first[t + 1] = end
        entries += (end - begin) ** 2
        rows += end - begin
        most_entries, most_rows = max(most_entries, entries), max(most_rows, rows)
        top += 1 - children[t]
        stack[top - 1] = t
    return first, kept[: first[-1]].copy(), most_entries, most_rows
