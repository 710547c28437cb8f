"""Fokker–Planck matrix of a lattice Markov chain: jump rates that are never negative, for full D(x).

Selling's decomposition writes D, in units of the cell widths, as Σ_e w_e e eᵀ with w_e ≥ 0 over integer
offsets e: one in 1D, three in 2D, six in 3D. The chain jumps along these offsets. With v = b − div D, the
step s from cell x to cell y = x + e, p = ∫ D⁻¹v · ds and B(z) = z/(eᶻ − 1),

    q(x → y) = ½ (w_e(x) + w_e(y)) B(−p),    q(y → x) = ½ (w_e(x) + w_e(y)) B(p).

Where D⁻¹v = −∇U, detailed balance holds jump by jump, and exp(−U) at the cell centres is the exact stationary
state at any barrier, up to the quadrature of p. Otherwise the scheme has order 2. Jumps that would end behind
a wall are replaced by jumps along it, which keeps order 2 where a current runs along a reflecting wall.

Sources: Selling, J. reine angew. Math. 77, 143 (1874); Conway, Sloane, Proc. R. Soc. A 436, 55 (1992) for
superbases; Bonnans, Ottenwaelter, Zidani, ESAIM: M2AN 38, 723 (2004) for positive schemes by such offsets;
Scharfetter, Gummel, IEEE Trans. Electron Devices 16, 64 (1969) for exponential fitting.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import scipy.sparse as sparse

from fpsolve.density.grid import Grid, drift_values, loss_values, place
from theory.langevin import Process

#: Longest jump in cells, by dimension: beyond it the elimination costs too much and D is all but singular.
MAX_REACH = {1: 1, 2: 16, 3: 4}
#: Nodes on [0, 1] and weights of the quadrature of p: exact for a U of degree 6.
NODES = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18))
#: Share of D by which it may change along a jump beyond the integral of its derivative.
LARGEST_JUMP = 0.3
_ELSE = "use method='finite-volume', or a box= that avoids it"


def chain_matrix(process: Process, grid: Grid) -> sparse.csc_matrix:
    """The matrix A, shape (cells, cells), with dP/dt = A P for the density at cell centres in C order.

    The process is numeric. Columns sum to zero, and no off-diagonal entry is negative. A ValueError says
    where D or the drift is not finite, where D is singular or jumps, or where a jump of the chain would be
    longer than ``MAX_REACH`` cells.
    """
    points = grid.points().reshape(grid.cells, -1)
    D = _diffusion(process, points)
    start, end, step, weight = _jumps(D, points, grid)
    push = _exact_push(process, points[start], step)
    if push is None:
        push = _push(process, points[start], step, (D[start], D[end]))
    if not np.isfinite(push).all():
        where = place(grid.names, points[start[~np.isfinite(push)][0]])
        raise ValueError(f"the drift or the loss is not finite near {where}; choose a box that avoids it")
    rate = np.concatenate([weight * bernoulli(-push), weight * bernoulli(push)])
    origin, goal = np.concatenate([start, end]), np.concatenate([end, start])
    shape = (grid.cells, grid.cells)
    gains = sparse.coo_matrix((rate, (goal, origin)), shape=shape).tocsc()
    return (gains - sparse.diags(np.asarray(gains.sum(axis=0)).ravel())).tocsc()


def suits_chain(process: Process, grid: Grid) -> bool:
    """Whether the chain is better than finite volumes: D constant, in reach, and not diagonal.

    In three dimensions, where cells are few, its extrapolation pays for a diagonal D too.
    """
    points = grid.points().reshape(grid.cells, -1)
    D = process.diffusion_values(points[:: max(1, grid.cells // 100)])
    size = D.shape[1]
    if size == 1 or not np.isfinite(D).all() or not np.allclose(D, D[:1], rtol=1e-12, atol=0):
        return False
    eigenvalues = np.linalg.eigvalsh(D[0])
    diagonal = not D[0][~np.eye(size, dtype=bool)].any()
    if (diagonal and size < 3) or eigenvalues[0] <= 1e-12 * eigenvalues[-1]:
        return False
    return bool(_reach(*selling(D[:1] / np.multiply.outer(grid.widths, grid.widths)))[0] <= MAX_REACH[size])


def in_equilibrium(rates: sparse.csr_matrix, density: np.ndarray) -> bool:
    """Whether no pair of cells exchanges more one way than the other, to 1e-7 of what it exchanges."""
    flux = (sparse.diags(density) @ rates).tocsr()
    flux.setdiag(0.0)
    return bool((abs(flux - flux.T) > 1e-7 * (flux + flux.T)).nnz == 0)


def bernoulli(z: np.ndarray) -> np.ndarray:
    """z/(eᶻ − 1), to full relative accuracy."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(np.abs(z) < 1e-5, 1 - z / 2 + z * z / 12, z / np.expm1(z))


def selling(D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer offsets (k, m, N) and weights w ≥ 0 (k, m) with D = Σ w e eᵀ, for D (k, N, N), N ≤ 3.

    Vectors s_0 … s_N of integers that sum to zero are changed until no s_i·D s_j is positive, i < j. Then
    D = Σ −(s_i·D s_j) e eᵀ with e = f_i − f_j, where f_1 … f_N is the dual basis of s_1 … s_N and f_0 = 0.
    D that needs more than 200 changes is singular to rounding; its weights do not make up D.
    """
    count, size = len(D), D.shape[1]
    pairs = np.array([*combinations(range(size + 1), 2)])
    base = np.tile(np.vstack([-np.ones(size), np.eye(size)]), (count, 1, 1))
    left, tiny = np.arange(count), 1e-14 * np.trace(D, axis1=1, axis2=2)
    for _ in range(200):
        s = base[left]
        products = np.einsum("kim,kmn,kjn->kij", s, D[left], s)[:, pairs[:, 0], pairs[:, 1]]
        worst = np.argmax(products, axis=1)
        acute = products[np.arange(len(left)), worst] > tiny[left]
        left, s, (i, j) = left[acute], s[acute], pairs[worst[acute]].T
        if not len(left):
            break
        row = np.arange(len(left))
        turned = s[row, i]
        share = {1: 0.0, 2: 2.0, 3: 1.0}[size]
        s += share * turned[:, None]
        s[row, i], s[row, j] = -turned, s[row, j] - share * turned
        base[left] = s
    products = np.einsum("kim,kmn,kjn->kij", base, D, base)[:, pairs[:, 0], pairs[:, 1]]
    dual = np.zeros_like(base)
    dual[:, 1:] = np.swapaxes(np.rint(np.linalg.inv(base[:, 1:])), 1, 2)
    offsets = (dual[:, pairs[:, 0]] - dual[:, pairs[:, 1]]).astype(int)
    weights = np.where(products < -tiny[:, None], -products, 0.0)
    return offsets, weights


def _reach(offsets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The longest jump of every cell along an axis, in cells."""
    return np.abs(offsets * (weights[..., None] > 0)).max(axis=(1, 2))


def _jumps(
    D: np.ndarray, points: np.ndarray, grid: Grid
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All jumps: cell of departure, cell of arrival, step (k, N), ½ w_e of the cell of departure."""
    widths = np.array(grid.widths)
    D = D / np.multiply.outer(widths, widths)
    offsets, weights = selling(D)
    reach = _reach(offsets, weights)
    if reach.max() > MAX_REACH[len(widths)]:
        raise ValueError(
            f"D is too anisotropic at {place(grid.names, points[np.argmax(reach)])}: it needs jumps of "
            f"{reach.max()} cells; use method='finite-volume', or a shape= with narrower cells along the "
            "axes of weak noise"
        )
    index = np.stack(np.unravel_index(np.arange(grid.cells), grid.shape), axis=-1)
    everywhere = [(np.arange(grid.cells), offsets, weights)]
    found = []
    for cells, offset, weight in everywhere + _along_walls(D, offsets, weights, index, grid):
        for k, sign in product(range(weight.shape[1]), (1, -1)):
            e, w = sign * offset[:, k], weight[:, k]
            arrival = index[cells] + e
            for axis, name in enumerate(grid.names):
                if name in grid.periodic:
                    arrival[:, axis] %= grid.shape[axis]
                elif name in grid.mirrored:
                    arrival[:, axis] = np.where(arrival[:, axis] < 0, -1 - arrival[:, axis], arrival[:, axis])
            inside = ((arrival >= 0) & (arrival < grid.shape)).all(axis=1) & (w > 0)
            start, end = cells[inside], np.ravel_multi_index(tuple(arrival[inside].T), grid.shape)
            moves = start != end  # at a mirror, or around a period, a cell may be its own image
            found.append((start[moves], end[moves], e[inside][moves] * widths, w[inside][moves] / 2))
    start, end, step, weight = (np.concatenate(part) for part in zip(*found, strict=True))
    return start, end, step, weight


def _along_walls(
    D: np.ndarray, offsets: np.ndarray, weights: np.ndarray, index: np.ndarray, grid: Grid
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Jumps along the walls that stand for those left out there: cells, offsets, weights, for every wall."""
    found = []
    size = D.shape[1]
    for axis, name in enumerate(grid.names):
        ends = [grid.shape[axis] - 1] if name in grid.mirrored else [0, grid.shape[axis] - 1]
        along = [a for a in range(size) if a != axis]
        for end in ends if along and name not in grid.periodic else ():
            cells = np.flatnonzero(index[:, axis] == end)
            flat, weight = selling(_lacking(D[cells], offsets[cells], weights[cells], axis))
            offset = np.zeros((*flat.shape[:2], size), int)
            offset[..., along] = flat
            tiny = 1e-12 * np.trace(D[cells], axis1=1, axis2=2)[:, None]
            found.append((cells, offset, np.where(weight > tiny, weight, 0.0)))
    return found


def _lacking(D: np.ndarray, offsets: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """What a wall lacks of the diffusion along it, (k, N − 1, N − 1), where jumps through it are left out.

    A slope g along the wall, with no flux through it, has the slope −g·D_tn/D_nn along the normal. A jump e
    then meets the difference a·g, a = e_t − e_n D_tn/D_nn, and carries w (a·g)². A wall takes the jumps e off
    |e_n|/2 layers of cells. The rows next to it are left with sources, and settle at values η, Λη = source,
    which takes off more. Both are positive.
    """
    normal = offsets[..., axis]
    upward = offsets * np.where(normal < 0, -1, 1)[..., None]
    height, across = np.abs(normal), D[:, axis, axis]
    slope = np.delete(D[:, axis], axis, axis=1) / np.where(across > 0, across, 1.0)[:, None]
    a = np.delete(upward, axis, axis=2) - height[..., None] * slope[:, None]
    lacking = np.einsum("ke,kei,kej->kij", weights * height / 2, a, a)
    rows = 4 * int(height.max())
    laplacian, source = np.zeros((len(D), rows, rows)), np.zeros((len(D), rows, a.shape[2]))
    for m in range(1, int(height.max()) + 1):
        w = np.where(height == m, weights, 0.0)
        low = np.arange(rows - m)
        for i, j, sign in ((low, low, 1), (low + m, low + m, 1), (low, low + m, -1), (low + m, low, -1)):
            laplacian[:, i, j] += sign * w.sum(axis=1)[:, None]
        source[:, :m] += np.einsum("ke,kei->ki", w, a)[:, None]
    if rows > 4:  # jumps of one cell leave no sources
        laplacian[:, -1, -1] += across
        lacking += np.einsum("kri,krj->kij", source, np.linalg.solve(laplacian, source))
    return lacking


def _diffusion(process: Process, points: np.ndarray) -> np.ndarray:
    """D at points (k, N), checked to be finite and positive definite."""
    with np.errstate(all="ignore"):
        D = process.diffusion_values(points)
    finite = np.isfinite(D).all(axis=(1, 2))
    eigenvalues = np.linalg.eigvalsh(D[finite])
    singular = eigenvalues[:, 0] <= 1e-12 * eigenvalues[:, -1]
    for wrong, what in ((~finite, "not finite"), (singular, "not positive definite")):
        if wrong.any():
            raise ValueError(f"D is {what} at {place(process.names, points[wrong][0])}; {_ELSE}")
    return D


def _exact_push(process: Process, start: np.ndarray, step: np.ndarray) -> np.ndarray | None:
    """p = (L(x) − L(x + s))/D of isotropic noise on a landscape; None for another process."""
    before, after = loss_values(process, start), loss_values(process, start + step)
    if before is None or after is None or process.temperature is None:
        return None
    return (before - after) / process.temperature


def _push(
    process: Process, start: np.ndarray, step: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """p = ∫ D⁻¹(b − div D) · ds along straight steps by quadrature; ``ends`` holds D before and after."""
    push, change = np.zeros(len(start)), np.zeros(ends[0].shape)
    constant = all(np.array_equal(D, np.broadcast_to(D[:1], D.shape)) for D in ends)
    for node, weight in NODES:
        points = start + node * step
        v, D = drift_values(process, points), ends[0]
        if not constant:
            D, slope = _diffusion_and_slope(process, points, step)
            v = v - np.einsum("kiij->kj", slope)
            change += weight * np.einsum("kaij,ka->kij", slope, step)
        push += weight * np.einsum("ki,ki->k", np.linalg.solve(D, v[..., None])[..., 0], step)
    # An image behind a mirror or after a period has the same diagonal.
    before, after, change = (np.diagonal(D, axis1=1, axis2=2) for D in (*ends, change))
    torn = (np.abs(after - before - change) > LARGEST_JUMP * (before + after) / 2).any(axis=1)
    if torn.any():
        where = place(process.names, start[torn][0])
        raise ValueError(f"D jumps or is not resolved near {where}: use more cells (shape=), or {_ELSE}")
    return push


def _diffusion_and_slope(
    process: Process, points: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """D (k, N, N) and ∂_a D_ij (k, N, N, N) by central differences over 1e-3 of the longest step."""
    reach = 1e-3 * np.abs(step).max(axis=0)
    slope = [
        (_diffusion(process, points + shift) - _diffusion(process, points - shift)) / (2 * reach[axis])
        for axis, shift in enumerate(np.diag(reach))
    ]
    return _diffusion(process, points), np.stack(slope, axis=1)
