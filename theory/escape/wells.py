"""Several saddles, several valleys: rates add, jumps between valleys, occupation in the long run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def total_rate(times: Sequence[float]) -> float:
    """Total escape rate over several saddles: rates add, Σ 1/τ_i (Xie, Sato, Sugiyama, ICLR 2021, Rule 1).

    Parameters
    ----------
    times : sequence of float
        Mean times, one per saddle; all to the saddle or all to the other well. None, or one that is not
        positive, is a ValueError.

    Returns
    -------
    float
        In 1 / time.
    """
    values = np.asarray(times, float)
    if values.size == 0 or not (values > 0).all():
        raise ValueError("times must be positive")
    return float((1.0 / values).sum())


def rate_matrix(times: Mapping[tuple[int, int], float], *, valleys: int) -> np.ndarray:
    """Generator K of jumps between valleys, dp/dt = K p, from mean times per ordered pair.

    Parameters
    ----------
    times : mapping of (from, to) to mean time
        Times to the other *well* (``to="well"``): a walker on the saddle has not jumped yet. Pairs without a
        direct saddle are left out; several saddles of a pair are first added (``1 / total_rate``). A pair
        that is not among the valleys and a time that is not positive are ValueErrors.
    valleys : int
        Number of valleys.

    Returns
    -------
    ndarray, shape (valleys, valleys)
        K_ji = 1/τ_{i→j}, in 1 / time; columns sum to zero.
    """
    if valleys < 1:
        raise ValueError(f"valleys={valleys} must be at least 1")
    K = np.zeros((valleys, valleys))
    for (i, j), time in times.items():
        if not (0 <= i < valleys and 0 <= j < valleys and i != j and time > 0):
            raise ValueError(f"times[{i}, {j}] = {time} must be positive, between two of {valleys} valleys")
        K[j, i] += 1.0 / time
        K[i, i] -= 1.0 / time
    return K


def occupation(matrix: np.ndarray) -> np.ndarray:
    """Stationary probabilities of the valleys: K p = 0, Σ p = 1.

    For two valleys p_v = τ_v/(τ_1 + τ_2), with τ_v the time to leave valley v; that form does not hold
    for more. Sources: Xie, Sato, Sugiyama, ICLR 2021, Prop. 1 (two valleys); Grassmann, Taksar, Heyman, Oper.
    Res. 33, 1107 (1985).

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        From :func:`rate_matrix`. One that is not square is a ValueError, as are valleys that fall into parts
        that do not exchange walkers.

    Returns
    -------
    ndarray, shape (n,)
        Every digit is kept for rates of any size.
    """
    K = np.array(matrix, float)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"matrix has the shape {K.shape}; it must be square")
    n = len(K)
    p = np.ones(n)
    # Grassmann–Taksar–Heyman elimination: no subtraction, so no digit is lost.
    for k in range(n - 1, 0, -1):
        out = K[:k, k].sum()
        if not out > 0:
            raise ValueError("the valleys do not all exchange walkers")
        K[:k, :k] += np.outer(K[:k, k], K[k, :k]) / out
        K[k, :k] /= out
    for k in range(1, n):
        p[k] = K[k, :k] @ p[:k]
    return p / p.sum()
