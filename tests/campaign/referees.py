"""Right answers from formulas and integrators that share no code with the toolkit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import linalg

Function = Callable[[np.ndarray], np.ndarray]


def panels(low: float, high: float, features: Sequence[tuple[float, float]] = (), count: int = 3000):
    """Gauss points and weights on panels of an interval, finer around (place, width) of narrow features."""
    edges = [np.linspace(low, high, count + 1)]
    edges += [c + w * np.linspace(-12, 12, 400) for c, w in features]
    line = np.unique(np.clip(np.concatenate(edges), low, high))
    line = line[np.r_[True, np.diff(line) > 1e-14 * (high - low)]]
    u, g = np.polynomial.legendre.leggauss(8)
    half = np.diff(line) / 2
    points = (line[:-1] + half)[:, None] + half[:, None] * u
    return points.ravel(), (half[:, None] * g).ravel()


def gibbs_line(log_weight: Function, low: float, high: float, features=()):
    """Mass function of p ∝ exp(log_weight): returns mean(f) as a function of f."""
    x, w = panels(low, high, features)
    exponent = log_weight(x)
    p = w * np.exp(exponent - exponent.max())
    p /= p.sum()
    return lambda f: float(np.sum(p * f(x)))


def passage_line(
    potential: Function, diffusion: Function, start: float, target: float, end: float, points: int = 400_000
) -> float:
    """Mean time from start to target > start with a reflecting end below: ∫∫ e^{Ψ(y) − Ψ(z)}/D(z), Ψ = −∫ b/D.

    By the trapezoidal rule with one Richardson step. ``potential`` is Ψ.
    """
    times = []
    for n in (points, 2 * points):
        z = np.linspace(end, target, n + 1)
        psi = potential(z)
        inner = np.exp(-(psi - psi.min())) / diffusion(z)
        steps = (inner[1:] + inner[:-1]) / 2 * np.diff(z)
        total = np.concatenate([[0.0], np.cumsum(steps)])
        # From the point before the start, for the first panel may hold it
        kept = slice(max(0, int(np.searchsorted(z, start)) - 1), None)
        outer, y = np.exp(psi[kept] - psi.min()) * total[kept], z[kept]
        values = np.concatenate([[np.interp(start, y, outer)], outer[y > start]])
        y = np.concatenate([[start], y[y > start]])
        times.append(float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(y))))
    return times[1] + (times[1] - times[0]) / 3


def splitting_line(potential: Function, start: float, source: float, target: float) -> float:
    """Probability to reach target before source: ∫_source^start e^Ψ / ∫_source^target e^Ψ."""
    x, w = panels(min(source, target), max(source, target))
    psi = potential(x)
    weight = w * np.exp(psi - psi.max())
    between = (x < start) if target > source else (x > start)
    # The panel that holds the start is cut there
    inner, v = panels(min(source, start), max(source, start))
    part = float(np.sum(v * np.exp(potential(inner) - psi.max())))
    return part / float(weight.sum()) if between.any() else 0.0


def gibbs_box(log_weight: Callable[..., np.ndarray], box, count: int = 700):
    """Averages of p ∝ exp(log_weight) on a box that holds it, by the midpoint rule (spectrally accurate)."""
    lines = [low + (np.arange(count) + 0.5) * (high - low) / count for low, high in box]
    grid = np.meshgrid(*lines, indexing="ij")
    exponent = log_weight(*grid)
    p = np.exp(exponent - exponent.max())
    p /= p.sum()
    return lambda f: float(np.sum(p * f(*grid)))


def reach_of(log_weight: Callable[..., np.ndarray], least: float = 9.0) -> list[tuple[float, float]]:
    """A square in two variables at whose rim exp(log_weight) is below e^−40 of its peak."""
    while True:
        line = np.linspace(-least, least, 401)
        exponent = log_weight(*np.meshgrid(line, line, indexing="ij"))
        rim = max(exponent[[0, -1]].max(), exponent[:, [0, -1]].max())
        if rim < exponent.max() - 40:
            return [(-least, least)] * 2
        least *= 1.5


def lyapunov(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Covariance of dX = −A X dt + √(2D) dW."""
    return linalg.solve_continuous_lyapunov(A, 2 * D)


def linear_rates(A: np.ndarray, count: int) -> np.ndarray:
    """The slowest nonzero eigenvalues of −𝓛 for drift −A X: sums of eigenvalues of A (Metafune et al., 2002)."""
    base = linalg.eigvals(A)
    sums = {tuple([0] * len(base)): 0j}
    for _ in range(8):
        for key, value in list(sums.items()):
            for i, b in enumerate(base):
                new = tuple(k + (i == j) for j, k in enumerate(key))
                sums[new] = value + b
        if len(sums) > 4000:
            break
    values = np.array([v for k, v in sums.items() if any(k)])
    return values[np.argsort(values.real)][:count]


def brinkman_rates(
    force: Function,
    friction: float,
    temperature: float,
    reach: float,
    count: int,
    nodes: int = 160,
    levels: int = 40,
) -> np.ndarray:
    """Slowest rates of x' = v, v' = f(x) − γv + √(2γT)ξ: Hermite functions in v, Hermite functions in x.

    Brinkman's hierarchy, Risken, The Fokker–Planck Equation (1989), ch. 10, for p = e^{−U/2T} Σ c_n(x) ψ_n(v):
    the couplings are then antisymmetric. On a Fourier grid in x for a density that vanishes at ±reach.
    """
    from scipy.sparse import bmat, diags
    from scipy.sparse.linalg import eigs

    n = nodes
    h = 2 * reach / n
    x = -reach + h * np.arange(n)
    k = np.arange(n)
    delta = k[:, None] - k[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(delta == 0, 0.0, np.pi / (2 * reach) * (-1.0) ** delta / np.tan(np.pi * delta / n))
    s = np.sqrt(temperature)
    up = -s * d - np.diag(force(x) / (2 * s))
    down = -s * d + np.diag(force(x) / (2 * s))
    blocks = [[None] * levels for _ in range(levels)]
    for m in range(levels):
        blocks[m][m] = diags(np.full(n, -friction * m))
        if m + 1 < levels:
            blocks[m][m + 1] = np.sqrt(m + 1) * up
            blocks[m + 1][m] = np.sqrt(m + 1) * down
    matrix = bmat(blocks, format="csc")
    values = eigs(matrix, k=count + 2, sigma=-1e-3, return_eigenvectors=False)
    rates = -values[np.argsort(-values.real)]
    return rates[np.abs(rates) > 1e-7][:count]
