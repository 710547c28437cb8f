"""Problems in two and three dimensions: linear processes, Gibbs laws, full noise, momentum, coloured noise."""

from __future__ import annotations

import numpy as np
import sympy as sp

from fpsolve import mean_first_passage_time, relaxation_modes, relaxation_rates, stationary_density
from tests.campaign.lines import numeric, rounded
from tests.campaign.referees import brinkman_rates, gibbs_box, linear_rates, lyapunov, passage_line, reach_of
from tests.campaign.trial import Claim, Problem
from theory import Diffusion, Landscape, Langevin, isotropic

VARIABLES = sp.symbols("x y z", real=True)
x, y, z = VARIABLES


def second_moments(density, expected) -> list[Claim]:
    """⟨u v⟩ of every pair against a function of two indices."""
    weight, claims = density * density.cell_volume, []
    stated = float(density.attrs.get("half_grid_estimate", density.attrs.get("convergence", np.nan)))
    names = list(density.dims)
    for i, u in enumerate(names):
        for j in range(i, len(names)):
            scale = float(np.sqrt(expected(i, i) * expected(j, j)))
            value = float((weight * density[u] * density[names[j]]).sum())
            claims.append(Claim(f"<{u} {names[j]}>", value, stated * scale, expected(i, j), scale))
    return claims


def products(mean):
    """⟨u_i u_j⟩ of a referee's average, as a function of the two indices."""
    return lambda i, j: mean(lambda *point: point[i] * point[j])


def rates_of(process, truth) -> list[Claim]:
    """The slowest rates with their stated errors; a rate without one is good to 1e-2, or a warning is due."""
    try:
        modes = relaxation_modes(process, count=2)
        values, stated = modes.rate.values, modes.rate_error.values
    except ValueError as error:  # noise missing in a direction that is no axis: rates alone
        if "use relaxation_rates" not in str(error):
            raise
        values = relaxation_rates(process, count=2).real
        stated = 1e-2 * values
    return [
        Claim(f"rate {i + 1}", float(values[i]), float(stated[i]), float(right.real), abs(right))
        for i, right in enumerate(truth)
    ]


def _matrix(entries) -> sp.Matrix:
    return sp.Matrix(entries.shape[0], entries.shape[1], lambda i, j: rounded(entries[i, j]))


def _linear(rng, size: int, rank: int) -> tuple[sp.Matrix, sp.Matrix]:
    """Random stable A (drift −A X) and D = B Bᵀ of a rank; controllable with probability one."""
    while True:
        A = rng.normal(size=(size, size)) + np.diag(rng.uniform(0.5, 2, size))
        if np.linalg.eigvals(A).real.min() > 0.2:
            break
    B = rng.normal(size=(size, rank)) * 10 ** rng.uniform(-1, 0.5)
    exact = _matrix(B)
    return _matrix(A), exact * exact.T


def linear_density(rng):
    """Ornstein–Uhlenbeck in one to three dimensions, with full noise."""
    size = int(rng.choice([2, 2, 2, 3]))
    A, D = _linear(rng, size, size)
    v = VARIABLES[:size]
    S = lyapunov(np.array(A, float), np.array(D, float))
    method = "spectral" if size == 2 and rng.random() < 0.3 else "finite-volume"

    def ask():
        process = Diffusion(-A * sp.Matrix(v), D, v)
        return second_moments(stationary_density(process, method=method), lambda i, j: S[i, j])

    return Problem(f"linear in {size}D, {method}", f"A = {A.tolist()}, D = {D.tolist()}", ask)


def linear_missing_noise(rng):
    """The same in two dimensions with noise of rank one."""
    A, D = _linear(rng, 2, 1)
    if rng.random() < 0.6:  # noise along an axis, as in momentum and coloured noise
        D = sp.diag(0, D[1, 1])
    S = lyapunov(np.array(A, float), np.array(D, float))

    def ask():
        process = Diffusion(-A * sp.Matrix([x, y]), D, (x, y))
        return second_moments(stationary_density(process), lambda i, j: S[i, j])

    return Problem("linear, noise of rank one", f"A = {A.tolist()}, D = {D.tolist()}", ask)


def linear_rates_of(rng):
    """Slowest relaxation rates of a linear process that may rotate."""
    A, D = _linear(rng, 2, int(rng.choice([1, 2, 2])))
    if A.rank() and rng.random() < 0.3:
        D = D.T * D / 1 if D.rank() == 2 else sp.diag(0, 1)
    truth = linear_rates(np.array(A, float), 3)

    def ask():
        process = Diffusion(-A * sp.Matrix([x, y]), D, (x, y))
        return rates_of(process, truth[:2])

    return Problem("relaxation rates, linear", f"A = {A.tolist()}, D = {D.tolist()}", ask)


def gibbs_plane(rng):
    """A random loss in two variables with isotropic noise: rings, quartics, coupled wells, Gaussians."""
    a, b, c = (rounded(rng.uniform(0.3, 1.5)) for _ in range(3))
    t = rounded(rng.uniform(-0.4, 0.4))
    turn = rng.uniform(0, np.pi)
    u = rounded(np.cos(turn)) * x + rounded(np.sin(turn)) * y
    w = -rounded(np.sin(turn)) * x + rounded(np.cos(turn)) * y
    loss = [
        (x**2 + y**2 - a) ** 2 + t * x,
        u**4 / 4 - u**2 / 2 + t * u + b * w**2,
        x**4 / 4 + b * y**4 / 4 + c * x * y / 2,
        x**2 / 2 + b * y**2 - c * sp.exp(-((x - 2) ** 2) - (y + 1) ** 2),
        (1 + a * x**2) * y**2 / 2 + b * (x - t) ** 2 / 2,
        x**4 + y**4,
        sp.Abs(x) * a + y**2 * b + t * y,
        (a - x) ** 2 + 5 * b * (y - x**2) ** 2,
        -sp.log(sp.exp(-(u**2) - a * w**2) + b * sp.exp(-c * (x - 3) ** 2 - (y + 2) ** 2)),
    ][rng.integers(9)]
    D = rounded(10 ** rng.uniform(-1.2, 0.2))
    f = sp.lambdify((x, y), loss, "numpy")
    weight = lambda p, q: -f(p, q) / float(D)  # noqa: E731
    mean = gibbs_box(weight, reach_of(weight), count=2400)

    def ask():
        density = stationary_density(Langevin(Landscape(loss, (x, y)), isotropic(D)))
        return second_moments(density, products(mean))

    return Problem("loss in 2D", f"L = {loss}, D = {D}", ask)


def full_noise(rng):
    """p = e^{−U} made by hand: b = −D∇U + div D + a current, D(x, y) full and positive."""
    a, c, s = rounded(rng.uniform(0.3, 1)), rounded(rng.uniform(-0.5, 0.5)), rounded(rng.uniform(-1.5, 1.5))
    U = [
        x**2 / 2 + a * y**2,
        x**4 / 4 - x**2 / 2 + a * y**2 + c * x * y / 2,
        x**2 / 2 + y**4 / 4 + c * x * y / 2,
    ][rng.integers(3)]
    angle = rounded(rng.uniform(0, 3)) + (c * x if rng.random() < 0.5 else 0)
    small = rounded(10 ** rng.uniform(-1.5, 0))
    R = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    D = R * sp.diag(1, small) * R.T * (1 if rng.random() < 0.5 else 1 + a * sp.sin(x) / 2)
    slope = sp.Matrix([sp.diff(U, v) for v in (x, y)])
    divergence = sp.Matrix([sum(sp.diff(D[i, j], (x, y)[j]) for j in range(2)) for i in range(2)])
    current = s * sp.Matrix([slope[1], -slope[0]])  # p·current is divergence-free
    drift = -D * slope + divergence + current
    f = sp.lambdify((x, y), U, "numpy")
    mean = gibbs_box(lambda p, q: -f(p, q), reach_of(lambda p, q: -f(p, q)), count=1400)
    method = str(rng.choice(["finite-volume", "chain"]))

    def ask():
        process = Diffusion(drift, D, (x, y))
        density = stationary_density(process, method=method)
        return second_moments(density, products(mean))

    text = f"U = {U}, D = R({angle}) diag(1, {small}) Rᵀ…, swirl {s}: b = {drift.tolist()}, D = {D.tolist()}"
    return Problem(f"full noise, {method}", text, ask)


def full_noise_between_walls(rng):
    """p = e^{−U} on [−1, 1]² with reflecting walls, full D(x, y) and a current along the walls."""
    a, c, s = rounded(rng.uniform(0.5, 3)), rounded(rng.uniform(-1, 1)), rounded(rng.uniform(-0.3, 0.3))
    U = [
        a * x**2 + y**2 + c * x * y,
        a * (x**2 - sp.Rational(1, 4)) ** 2 * 4 + c * y,
        a * sp.cos(2 * x + c * y),
    ][rng.integers(3)]
    r = rounded(rng.uniform(-0.8, 0.8))
    D = sp.Matrix([[1 + x**2 / 2, r * sp.cos(x)], [r * sp.cos(x), 1 + y**2 / 4]]) * rounded(
        10 ** rng.uniform(-1, 0.5)
    )
    stream = s * (1 - x**2) * (1 - y**2)
    slope = sp.Matrix([sp.diff(U, v) for v in (x, y)])
    spread = sp.Matrix([sum(sp.diff(D[i, j], (x, y)[j]) for j in range(2)) for i in range(2)])
    drift = spread - D * slope + sp.exp(U) * sp.Matrix([sp.diff(stream, y), -sp.diff(stream, x)])
    f = sp.lambdify((x, y), U, "numpy")
    mean = gibbs_box(lambda p, q: -f(p, q), [(-1, 1), (-1, 1)], count=1500)

    def ask():
        process, box = Diffusion(drift, D, (x, y)), {"x": (-1, 1), "y": (-1, 1)}
        density = stationary_density(process, box=box, walls="reflecting")
        return second_moments(density, products(mean))

    return Problem("full noise between walls", f"U = {U}, D = {D.tolist()}, stream function {stream}", ask)


def rotated_wells(rng):
    """A double well along a turned axis: time over a barrier of 3 to 200 D, exact in one dimension."""
    turn, t = rng.uniform(0, np.pi / 2), rounded(rng.uniform(-0.15, 0.15))
    cosine, sine = rounded(np.cos(turn), 12), rounded(np.sin(turn), 12)
    u, w = cosine * x + sine * y, -sine * x + cosine * y
    one = lambda q: q**4 / 4 - q**2 / 2 + t * q  # noqa: E731
    loss = one(u) + 2 * w**2
    D = rounded(0.25 / 10 ** rng.uniform(0.5, 2.3))
    line = sp.Symbol("q", real=True)
    U = numeric(one(line), line)
    start, goal = -1.0, 0.9
    truth = passage_line(lambda q: U(q) / float(D), lambda q: np.full_like(q, float(D)), start, goal, -4.0)
    mixed = _matrix(np.eye(2) + rng.uniform(-0.6, 0.6, (2, 2))) if rng.random() < 0.4 else sp.eye(2)

    def ask():
        process = Langevin(Landscape(loss, (x, y)), isotropic(D))
        place, condition = sp.Matrix([start * cosine, start * sine]), u > goal
        if mixed != sp.eye(2):  # X → M X: the same times with full noise and a drift that is no gradient
            back = dict(zip((x, y), mixed.inv() * sp.Matrix([x, y]), strict=True))
            drift = mixed * process.drift.subs(back, simultaneous=True)
            process = Diffusion(drift, D * mixed * mixed.T, (x, y))
            place, condition = mixed * place, sp.expand(u.subs(back, simultaneous=True)) > goal
        T = mean_first_passage_time(process, target=condition)
        value = float(T.interp(x=float(place[0]), y=float(place[1])))
        return [Claim("mean time", value, T.attrs["half_grid_estimate"] * value, truth)]

    kind = "passage time in 2D" + ("" if mixed == sp.eye(2) else ", full noise")
    text = f"L = {loss}, D = {D} ({0.25 / float(D):.3g} D), target {u} > {goal}, X -> {mixed.tolist()} X"
    return Problem(kind, text, ask)


def momentum(rng):
    """Underdamped wells: density against Gibbs, slowest rate against Brinkman's hierarchy."""
    friction = rounded(10 ** rng.uniform(-1, 0.7))
    T = rounded(10 ** rng.uniform(-1, 0))
    t = rounded(rng.uniform(-0.2, 0.2))
    U = [x**4 / 4 - x**2 / 2 + t * x, x**2 / 2, x**4 / 4 + t * x][rng.integers(3)]
    drift = [y, -sp.diff(U, x) - friction * y]
    process = Diffusion(drift, [[0, 0], [0, friction * T]], (x, y))
    f = sp.lambdify(x, U, "numpy")
    mean = gibbs_box(lambda p, q: -(f(p) + q**2 / 2) / float(T), [(-9, 9), (-9, 9)], count=900)
    text = f"b = {drift}, D = diag(0, {friction * T})"
    if rng.random() < 0.6:

        def ask():
            expected = {(0, 0): mean(lambda p, q: p * p), (0, 1): 0.0, (1, 1): float(T)}
            return second_moments(stationary_density(process), lambda i, j: expected[i, j])

        return Problem("momentum, density", text, ask)
    force = numeric(-sp.diff(U, x))
    sizes = ({}, {"nodes": 121, "levels": 60})
    truth, check = (brinkman_rates(force, float(friction), float(T), 4.5, 1, **size) for size in sizes)
    if not np.allclose(truth, check, rtol=1e-4):  # the hierarchy closes slowly at weak friction
        return momentum(rng)

    def ask_rates():
        return rates_of(process, truth[:1])

    return Problem("momentum, rates", text, ask_rates)


def coloured_noise(rng):
    """A linear force under coloured noise, with the covariance of the joint linear process."""
    k, tau, D = (
        rounded(rng.uniform(0.3, 3)),
        rounded(10 ** rng.uniform(-1.3, 0.7)),
        rounded(10 ** rng.uniform(-1, 0)),
    )
    A = np.array([[float(k), -1], [0, 1 / float(tau)]])
    S = lyapunov(A, np.diag([0, float(D / tau**2)]))

    def ask():
        process = Diffusion([-k * x + y, -y / tau], [[0, 0], [0, D / tau**2]], (x, y))
        return second_moments(stationary_density(process), lambda i, j: S[i, j])

    return Problem("coloured noise", f"x' = −{k} x + y, y' = −y/{tau}, D = {D}", ask)


KINDS = [
    linear_density, linear_missing_noise, linear_rates_of, gibbs_plane, full_noise, full_noise_between_walls,
    rotated_wells, momentum, coloured_noise,
]  # fmt: skip
