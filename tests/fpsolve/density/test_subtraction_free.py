"""Subtraction-free elimination against rational arithmetic, on chains whose rates span many orders."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.sparse as sparse

from fpsolve.density import elimination
from fpsolve.density.dissection import Dissection, wells
from fpsolve.density.elimination import ShutIn, eliminate


def _grid(*shape):
    return np.array([*product(*map(range, shape))])


def _chain(rng, places, reach=1):
    """Random rates e^±30 between places that are neighbours on a grid, some of the diagonal ones left out."""
    apart = np.abs(places[:, None] - places[None])
    joined = (apart.sum(axis=2) == 1) | ((apart.max(axis=2) <= reach) & (rng.random(apart.shape[:2]) < 0.7))
    np.fill_diagonal(joined, False)
    rates = np.where(joined, np.exp(rng.uniform(-30, 30, joined.shape)), 0.0)
    return sparse.csr_matrix(rates)


def _solved(matrix, right):
    """The rational solution of a rational system by elimination with pivots."""
    rows = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(k + 1, n):
            if rows[i][k] != 0:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    solution = [Fraction(0)] * n
    for k in range(n - 1, -1, -1):
        known = sum(rows[k][j] * solution[j] for j in range(k + 1, n))
        solution[k] = (rows[k][n] - known) / rows[k][k]
    return solution


def _generator(rates, exits=()):
    """−Q as fractions, its diagonal from the exact sums."""
    q = [[Fraction(float(v)) for v in row] for row in rates.toarray()]
    leaving = [sum(map(Fraction, map(float, row)), Fraction(0)) for row in exits] or [Fraction(0)] * len(q)
    for i, row in enumerate(q):
        row[i] = Fraction(0)
        total = sum(row) + leaving[i]
        q[i] = [-value for value in row]
        q[i][i] = total
    return q


def _error(found, exact):
    """Largest relative error of any entry."""
    pairs = zip(found, exact, strict=True)
    return max(abs(float(Fraction(float(f)) / e) - 1.0) if e else abs(float(f)) for f, e in pairs)


@pytest.mark.parametrize(("shape", "reach"), [((30,), 1), ((5, 5), 1), ((5, 4), 2), ((3, 3, 3), 1)])
@pytest.mark.parametrize("seed", range(2))
def test_every_weight_is_exact_to_rounding(shape, reach, seed):
    places = _grid(*shape)
    rates = _chain(np.random.default_rng(seed), places, reach)
    n = len(places)
    minus_q = _generator(rates)
    balance = [[minus_q[j][i] for j in range(n)] for i in range(n)]
    balance[0] = [Fraction(1)] * n
    exact = _solved(balance, [Fraction(1)] + [Fraction(0)] * (n - 1))
    chain = eliminate(Dissection.of(rates, places), rates)
    assert _error(chain.weights(), exact) < 1e-13
    assert chain.cancellation == pytest.approx(1.0, abs=1e-14)
    assert exact[chain.dissection.order[-1]] == max(exact[well] for well in wells(rates))


@pytest.mark.parametrize("shape", [(30,), (6, 4), (3, 3, 3)])
@pytest.mark.parametrize("seed", range(2))
def test_times_exits_and_occupations_are_exact_to_rounding(shape, seed):
    rng, places = np.random.default_rng(10 + seed), _grid(*shape)
    rates, n = _chain(rng, places), len(places)
    source, target = np.arange(n) == 1, np.arange(n) >= n - 2
    outside = np.flatnonzero(~(source | target))
    rows = sparse.csr_matrix(rates)[outside]
    inner, exits = (
        rows[:, outside],
        np.stack([rows @ source.astype(float), rows @ target.astype(float)], axis=1),
    )
    chain = eliminate(Dissection.of(inner, places[outside]), inner, exits)
    minus_q = _generator(inner, exits)
    right = rng.random(len(outside))
    rational = [Fraction(float(v)) for v in right]
    assert _error(chain.solve(right), _solved(minus_q, rational)) < 1e-13
    assert _error(chain.occupation(right), _solved([*zip(*minus_q, strict=True)], rational)) < 1e-13
    for k in (0, 1):
        exact = _solved(minus_q, [Fraction(float(v)) for v in exits[:, k]])
        assert _error(chain.exit_probabilities()[:, k], exact) < 1e-13


def test_a_closed_chain_holds_its_heaviest_state():
    rates, places = _chain(np.random.default_rng(5), _grid(6, 6)), _grid(6, 6)
    chain = eliminate(Dissection.of(rates, places), rates)
    top = chain.dissection.order[-1]
    keep = np.delete(np.arange(36), top)
    minus_q = _generator(rates)
    exact = _solved([[minus_q[i][j] for j in keep] for i in keep], [Fraction(1)] * 35)
    times = chain.solve(np.ones(36))
    assert times[top] == 0.0 and _error(times[keep], exact) < 1e-13


def _walk(energy):
    """A walk on a line with rates exp(−ΔE/2), so that its weights are exp(−E)."""
    up = np.exp(-np.diff(energy) / 2)
    return sparse.diags([up, 1 / up], [1, -1]).tocsr(), np.arange(len(energy))[:, None]


def test_weights_of_wells_hold_behind_barriers_of_hundreds_of_D():
    line = np.linspace(-1.4, 1.4, 401)
    energy = 4 * 600 * (line**4 / 4 - line**2 / 2) + 20 * line
    rates, places = _walk(energy)
    weights = eliminate(Dissection.of(rates, places), rates).weights()
    exact = np.exp(-(energy - energy.min()))
    seen = exact > 1e-280
    assert weights[seen] / weights.max() == pytest.approx(exact[seen], rel=1e-12)
    assert set(wells(rates)) == {int(np.argmin(energy[:200])), 200 + int(np.argmin(energy[200:]))}


def test_a_barrier_beyond_floats_and_a_state_without_a_way_out_are_refused():
    line = np.linspace(-1.4, 1.4, 401)
    rates, places = _walk(4 * 800 * (line**4 / 4 - line**2 / 2))
    with pytest.raises(ShutIn, match="above about 670 D"):
        eliminate(Dissection.of(rates, places), rates)
    apart = sparse.block_diag([rates, rates]).tocsr()
    with pytest.raises(ShutIn, match="no way out"):
        eliminate(Dissection.of(apart, np.arange(802)[:, None]), apart)


def test_one_dissection_serves_all_chains_on_a_grid_and_refuses_other_stencils():
    places = _grid(12, 11)
    first, second = (_chain(np.random.default_rng(seed), places) for seed in (1, 2))
    joined = first + second
    dissection = Dissection.of(joined, places)
    for rates in (first, second):
        fresh = eliminate(Dissection.of(rates, places), rates).weights()
        assert eliminate(dissection, rates).weights() == pytest.approx(fresh, rel=1e-12)
    with pytest.raises(ValueError, match="keeps apart"):
        eliminate(dissection, _chain(np.random.default_rng(3), places, reach=3))


def test_free_diffusion_and_a_ring_current_have_even_weights():
    flat = sparse.csr_matrix((np.abs(_grid(20, 20)[:, None] - _grid(20, 20)[None]).sum(axis=2) == 1) * 1.0)
    assert eliminate(Dissection.of(flat, _grid(20, 20)), flat).weights() == pytest.approx(1 / 400, rel=1e-13)
    ring = sparse.csr_matrix((np.ones(50), (np.arange(50), (np.arange(50) + 1) % 50)))
    angle = 2 * np.pi * np.arange(50) / 50
    places = np.rint(20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(int)
    assert eliminate(Dissection.of(ring, places), ring).weights() == pytest.approx(0.02, rel=1e-13)


def test_negative_rates_are_allowed_and_their_cancellation_is_told():
    rng, places = np.random.default_rng(4), _grid(9, 9)
    rates = _chain(rng, places)
    rates.data = rng.uniform(0.5, 1.5, rates.nnz) * np.where(rng.random(rates.nnz) < 0.1, -0.2, 1.0)
    chain = eliminate(Dissection.of(rates, places), rates)
    generator = rates - sparse.diags(np.asarray(rates.sum(axis=1)).ravel())
    assert np.abs(chain.weights() @ generator).max() < 1e-12
    assert 0.0 < chain.cancellation < 0.9


def test_panels_of_any_width_give_the_same_answer():
    rates, places = _chain(np.random.default_rng(8), _grid(40, 3)), _grid(40, 3)
    last = np.arange(0, 120, 2)
    weights = eliminate(Dissection.of(rates, places, last), rates).weights()
    assert len(last) > elimination.PANEL
    assert weights == pytest.approx(eliminate(Dissection.of(rates, places), rates).weights(), rel=1e-12)
