"""Problems in one dimension: any loss, any noise, walls and natural ends; weights, times, committors, evolution."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy import stats

from fpsolve import committor, evolve, mean_first_passage_time, stationary_density
from tests.campaign.referees import gibbs_line, panels, passage_line, splitting_line
from tests.campaign.trial import Claim, Problem
from theory import Diffusion, Landscape, Langevin, isotropic

x = sp.Symbol("x", real=True)
positive = sp.Symbol("x", positive=True)


def rounded(value: float, digits: int = 3) -> sp.Expr:
    """A short exact number, so that problems read well."""
    return sp.Rational(f"{value:.{digits - 1}e}")


def numeric(expression: sp.Expr, variable: sp.Symbol = x):
    """A vectorised function by sympy's own printer."""
    f = sp.lambdify(variable, expression, "numpy")
    return lambda v: np.broadcast_to(np.asarray(f(v), float), np.shape(v))


def moments(density, mean, name: str = "x") -> list[Claim]:
    """⟨v⟩ and ⟨v²⟩ of a density against a referee."""
    weight, v = density * density.cell_volume, density[name]
    stated = float(density.attrs.get("half_grid_estimate", density.attrs.get("convergence", np.nan)))
    first, second = mean(lambda t: t), mean(lambda t: t**2)
    return [
        Claim(f"<{name}>", float((weight * v).sum()), stated * second**0.5, first, second**0.5),
        Claim(f"<{name}^2>", float((weight * v**2).sum()), stated * second, second),
    ]


def confining(rng: np.random.Generator) -> tuple[sp.Expr, tuple[float, float], list[tuple[float, float]]]:
    """A random loss of unit size in one dimension, an interval for its features, and its narrow features."""
    kind = rng.choice(["polynomial", "gaussians", "kink", "flat", "cosine", "far", "mixture", "exponential"])
    if kind == "polynomial":
        a, b, c = rng.uniform(0.3, 2), rng.uniform(-1, 3), rng.uniform(-1, 1)
        loss = rounded(a) * x**4 / 4 - rounded(b) * x**2 / 2 + rounded(c) * x
        if rng.random() < 0.3:
            loss = loss + rounded(rng.uniform(0.01, 0.2)) * x**6 - rounded(rng.uniform(-0.5, 0.5)) * x**3
        return loss, (-6, 6), []
    if kind == "gaussians":
        width = rng.uniform(2, 10)
        loss, features = rounded(1 / width**2) * x**2 / 2, []
        for _ in range(rng.integers(1, 4)):
            centre, size = rng.uniform(-2, 2) * width / 2, 10 ** rng.uniform(-1.5, 0.5)
            height = rng.uniform(-2.5, 2)
            loss = loss + rounded(height) * sp.exp(-((x - rounded(centre)) ** 2) / (2 * rounded(size) ** 2))
            features.append((centre, size))
        return loss, (-12 * width, 12 * width), features
    if kind == "kink":
        a, b, c = rounded(rng.uniform(0.5, 3)), rounded(rng.uniform(-1, 1)), rounded(rng.uniform(0.2, 1))
        loss = [
            a * sp.Abs(x - b) + c * x**2 / 2,
            a * sp.Abs(x - b),
            a * sp.Max(0, x - b) ** 2 + c * sp.Max(0, -x),
            a * sp.Max(0, x) + c * sp.Max(0, -x),
            sp.Piecewise((a * x**2 / 2, sp.Abs(x) < 1), (a * (sp.Abs(x) - sp.Rational(1, 2)), True)),
        ][rng.integers(5)]
        return loss, (-30, 30), [(float(b), 1.0), (0.0, 1.0)]
    if kind == "flat":
        shift, power = rounded(rng.uniform(-3, 3)), int(rng.choice([4, 6, 8]))
        loss = rounded(rng.uniform(0.1, 2)) * (x - shift) ** power
        return loss, (float(shift) - 8, float(shift) + 8), []
    if kind == "cosine":
        loss = rounded(rng.uniform(0.1, 1)) * x**2 / 2
        loss = loss + rounded(rng.uniform(0.2, 2)) * sp.cos(
            rounded(rng.uniform(1, 6)) * x + rounded(rng.uniform(0, 6))
        )
        return loss, (-15, 15), []
    if kind == "mixture":  # −ln of a sum of Gaussians
        places = rng.uniform(-6, 6, rng.integers(2, 4))
        widths = rng.uniform(0.4, 1.5, len(places))
        shares = rng.uniform(0.2, 1, len(places))
        peaks = [
            rounded(a) * sp.exp(-((x - rounded(m)) ** 2) / (2 * rounded(s) ** 2))
            for a, m, s in zip(shares, places, widths, strict=True)
        ]
        return -sp.log(sum(peaks, sp.Integer(0))), (-16, 16), []
    if kind == "exponential":
        a, b = rounded(rng.uniform(0.5, 2)), rounded(rng.uniform(0.3, 2))
        loss = [
            sp.exp(-a * x) + b * x, sp.exp(a * x) - b * x, sp.cosh(a * x) * b,
            sp.log(1 + sp.exp(a * x)) - a * x / 2 + b * x**2 / 10, b * sp.log(sp.cosh(a * x)),
        ][rng.integers(5)]  # fmt: skip
        return loss, (-20, 20), []
    distance, tilt = rng.uniform(5, 40), rng.uniform(-0.3, 0.3)
    u = x / rounded(distance)
    loss = 16 * u**2 * (u - 1) ** 2 * rounded(rng.uniform(0.5, 2)) + rounded(tilt) * u
    return loss, (-2 * distance, 3 * distance), []


def _scaled_problem(rng):
    loss, (low, high), features = confining(rng)
    scale = float(rounded(10 ** rng.uniform(-4, 4))) if rng.random() < 0.4 else 1.0
    D = rounded(10 ** rng.uniform(-1.3, 0.3))
    if scale != 1.0:
        loss = loss.subs(x, x / rounded(scale))
        low, high, features = low * scale, high * scale, [(c * scale, w * scale) for c, w in features]
    U = numeric(loss)
    # Where the weight lies: widen until the exponent has fallen by 45
    for _ in range(6):
        line = np.linspace(low, high, 20001)
        fall = (U(line) - U(line).min()) / float(D)
        if fall[0] > 45 and fall[-1] > 45:
            break
        low, high = 3 * low, 3 * high
    inside = np.flatnonzero(fall < 60)
    low, high = line[max(0, inside[0] - 5)], line[min(len(line) - 1, inside[-1] + 5)]
    return loss, D, gibbs_line(lambda v: -U(v) / float(D), low, high, features)


def density_of_a_loss(rng):
    """The default density of a random loss at any scale, isotropic noise; or the spectral one."""
    loss, D, mean = _scaled_problem(rng)
    method = "spectral" if rng.random() < 0.35 else "finite-volume"

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        return moments(stationary_density(process, method=method), mean)

    return Problem(f"loss, {method}", f"L = {loss}, D = {D}, method = {method!r}", ask)


def density_of_a_drift(rng):
    """The same losses given as a drift, so that nothing knows the potential."""
    loss, D, mean = _scaled_problem(rng)
    drift = -sp.diff(loss, x)

    def ask():
        return moments(stationary_density(Diffusion([drift], [[D]], (x,))), mean)

    return Problem("drift", f"Diffusion([{drift}], [[{D}]])", ask)


def _double_well(rng):
    tilt = rounded(rng.uniform(-0.25, 0.25))
    loss = x**4 / 4 - x**2 / 2 + tilt * x
    a, top, b = sorted(float(r) for r in np.roots([1, 0, -1, float(tilt)]).real)
    return loss, a, top, b


def weights_of_wells(rng):
    """ln of the ratio of two wells' weights, barriers of 5 to 500 D."""
    loss, a, top, b = _double_well(rng)
    U = numeric(loss)
    barrier = float(U(np.array(top)) - min(U(np.array(a)), U(np.array(b))))
    D = rounded(barrier / 10 ** rng.uniform(0.7, 2.7))

    def log_mass(low: float, high: float) -> float:
        v, w = panels(low, high)
        e = -U(v) / float(D)
        return float(e.max() + np.log(np.sum(w * np.exp(e - e.max()))))

    def ask():
        density = stationary_density(Langevin(Landscape(loss, (x,)), isotropic(D)))
        mass, h = (density * density.cell_volume).values, float(density.x[1] - density.x[0])
        cut = int(np.abs(density.x.values + h / 2 - top).argmin())  # the face next to the top
        face = float(density.x[cut]) + h / 2
        truth = log_mass(face, 4) - log_mass(-4, face)
        ours = float(np.log(mass[cut + 1 :].sum()) - np.log(mass[: cut + 1].sum()))
        return [Claim("ln weight ratio", ours, float(density.attrs["weights_estimate"]), truth, 1.0)]

    return Problem("weights of wells", f"L = {loss}, D = {D} ({barrier / float(D):.3g} D)", ask)


def time_of_escape(rng):
    """Mean first-passage time from the left minimum to a point at or beyond the top, 2 to 300 D."""
    loss, a, top, b = _double_well(rng)
    U = numeric(loss)
    height = float(U(np.array(top)) - U(np.array(a)))
    D = rounded(max(height, 0.02) / 10 ** rng.uniform(0.2, 2.4))
    target = rounded(top + rng.uniform(-0.1, 0.8) * (b - top))
    start = float(rounded(a))
    truth = passage_line(
        lambda z: U(z) / float(D), lambda z: np.full_like(z, float(D)), start, float(target), -4.0
    )

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        T = mean_first_passage_time(process, target=x > target)
        value = float(T.interp(x=start))
        return [Claim("mean time", value, T.attrs["half_grid_estimate"] * value, truth)]

    text = f"L = {loss}, D = {D} ({height / float(D):.3g} D), start {start}, target x > {target}"
    return Problem("passage time", text, ask)


def committor_of_wells(rng):
    """Committor between the wells at barriers of 1 to 60 D."""
    loss, a, _, b = _double_well(rng)
    U = numeric(loss)
    D = rounded(0.25 / 10 ** rng.uniform(0, 1.8))
    source, target = rounded(a + rng.uniform(-0.2, 0.3)), rounded(b + rng.uniform(-0.3, 0.2))
    start = float(source) + rng.uniform(0.1, 0.9) * float(target - source)
    truth = splitting_line(lambda v: U(v) / float(D), start, float(source), float(target))

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        q = committor(process, source=x < source, target=x > target)
        stated = float(q.attrs.get("half_grid_estimate", 0.0))
        return [Claim("q", float(q.interp(x=start)), stated, truth, 1.0)]

    text = f"L = {loss}, D = {D}, source x < {source}, target x > {target}, at {start:.6g}"
    return Problem("committor", text, ask)


def noise_of_place(rng):
    """Itô process with D(x) smooth, or with a jump: p ∝ e^{∫b/D}/D, in a box of its own or an automatic one."""
    a, k = rounded(rng.uniform(0.4, 2)), rounded(rng.uniform(0.2, 0.9))
    jump = rounded(rng.uniform(-0.7, 0.7))
    D = [
        rounded(0.5) * (1 + k * sp.sin(2 * x)),
        rounded(0.3) * (1 + k * x**2),
        rounded(0.5) * (1 + k * sp.tanh(3 * x)),
        sp.Piecewise((rounded(rng.uniform(0.2, 1)), x < jump), (rounded(rng.uniform(0.2, 1)), True)),
        sp.Piecewise((rounded(rng.uniform(0.2, 1)), x < jump), (rounded(rng.uniform(0.2, 1)), True)),
    ][rng.integers(5)]
    drift = -a * x if rng.random() < 0.5 else -a * (x**3 - x) + rounded(rng.uniform(-0.4, 0.4))
    b, d = numeric(drift), numeric(D)
    v = np.sort(np.concatenate([np.linspace(-12, 12, 2_000_001), [float(jump)]]))
    middle = (v[1:] + v[:-1]) / 2
    # Cumulative midpoint sums of b/D, exact across the jump because it is an edge
    psi = np.concatenate([[0.0], np.cumsum(b(middle) / d(middle) * np.diff(v))])
    at_middle = (psi[1:] + psi[:-1]) / 2
    p = np.exp(at_middle - at_middle.max()) / d(middle) * np.diff(v)
    p /= p.sum()
    box = {"x": (-6, 6)} if rng.random() < 0.4 else None

    def ask():
        density = stationary_density(Diffusion([drift], [[D]], (x,)), box=box)
        return moments(density, lambda f: float(np.sum(p * f(middle))))

    return Problem("noise of place", f"b = {drift}, D = {D}, box = {box}", ask)


def natural_end(rng):
    """CIR, Verhulst and Jacobi processes: gamma and beta laws, no box."""
    kind = rng.choice(["cir", "verhulst", "jacobi"])
    if kind == "cir":
        shape, mean = rounded(rng.uniform(0.4, 6)), rounded(10 ** rng.uniform(-2, 2))
        # dx = (m − x) dt + √(2 (m/shape) x) dW: gamma with this shape, mean m
        drift, D, v = mean - positive, mean / shape * positive, positive
        law = stats.gamma(float(shape), scale=float(mean / shape))
    elif kind == "verhulst":
        sigma = rounded(rng.uniform(0.3, 1.1))
        drift, D, v = positive - positive**2, sigma**2 * positive**2 / 2, positive
        law = stats.gamma(2 / float(sigma) ** 2 - 1, scale=float(sigma) ** 2 / 2)
    else:
        # D = s (1 − x²)/2, b = −x: p ∝ (1 − x²)^{1/s − 1}
        s = rounded(rng.uniform(0.2, 1.5))
        drift, D, v = -x, s * (1 - x**2) / 2, x
        law = stats.beta(1 / float(s), 1 / float(s), loc=-1, scale=2)
    box = {"x": (-1, 1)} if kind == "jacobi" else None

    def ask():
        density = stationary_density(Diffusion([drift], [[D]], (v,)), box=box)
        return moments(density, lambda f: float(law.expect(f)))

    return Problem("natural end", f"b = {drift}, D = {D}, positive = {v.is_positive}, box = {box}", ask)


def walls(rng):
    """A loss between two reflecting walls, or a tilted cosine on a circle."""
    D = rounded(10 ** rng.uniform(-1, 0.5))
    if rng.random() < 0.6:
        loss, *_ = confining(rng)
        low, high = sorted(rng.uniform(-2, 2, 2))
        low, high = float(rounded(low)), float(rounded(high + 0.3))
        U = numeric(loss)
        mean = gibbs_line(lambda v: -U(v) / float(D), low, high)
        box = {"x": (low, high)}

        def ask():
            process = Langevin(Landscape(loss, (x,)), isotropic(D))
            return moments(stationary_density(process, box=box, walls="reflecting"), mean)

        return Problem("reflecting walls", f"L = {loss}, D = {D}, box = {box}", ask)
    height, tilt = rounded(rng.uniform(0.2, 2)), rounded(rng.uniform(-2, 2))
    drift = 2 * sp.pi * height * sp.sin(2 * sp.pi * x) + tilt
    n = 4096
    v = (np.arange(n) + 0.5) / n
    U = lambda t: float(height) * np.cos(2 * np.pi * t) - float(tilt) * t  # noqa: E731
    # Stratonovich: p(x) ∝ ∫_x^{x+1} e^{(U(y) − U(x))/D} dy

    p = np.array([np.mean(np.exp((U(t + v) - U(t)) / float(D))) for t in v])
    p /= p.sum()

    def ask_periodic():
        process = Diffusion([drift], [[D]], (x,))
        density = stationary_density(process, box={"x": (0, 1)}, walls="periodic")
        weight = density * density.cell_volume
        stated = float(density.attrs["half_grid_estimate"])
        truths = {"cos": np.cos(2 * np.pi * v), "sin": np.sin(2 * np.pi * v)}
        ours = {"cos": np.cos(2 * np.pi * density.x), "sin": np.sin(2 * np.pi * density.x)}
        return [
            Claim(name, float((weight * ours[name]).sum()), stated, float(np.sum(p * truths[name])), 1.0)
            for name in truths
        ]

    return Problem("periodic axis", f"b = {drift}, D = {D} on (0, 1)", ask_periodic)


def evolution(rng):
    """Ornstein–Uhlenbeck from a Gaussian, wide or narrower than a cell, with any time step."""
    k, D = rounded(10 ** rng.uniform(-0.5, 0.7)), rounded(10 ** rng.uniform(-1, 0.5))
    width = float(D / k) ** 0.5
    place, spread = rng.uniform(-3, 3) * width, width * 10 ** rng.uniform(-2.5, 0)
    time, step = float(rounded(10 ** rng.uniform(-1.5, 0.7))), float(rounded(10 ** rng.uniform(-2, 0.5)))
    m, s = rounded(place), rounded(spread)
    initial = sp.exp(-((x - m) ** 2) / (2 * s**2))
    decay = np.exp(-float(k) * time)
    mean = float(m) * decay
    second = mean**2 + float(s) ** 2 * decay**2 + width**2 * (1 - decay**2)
    shape = int(rng.choice([200, 400, 800]))
    reach = 8 * width + abs(place)

    def ask():
        process = Langevin(Landscape(k * x**2 / 2, (x,)), isotropic(D))
        P = evolve(process, initial, times=[time], time_step=step, box={"x": (-reach, reach)}, shape=shape)
        weight = (P * P.cell_volume).isel(time=-1)
        stated = float(P.attrs["half_grid_estimate"] + P.attrs["time_error"])
        return [
            Claim("<x>", float((weight * P.x).sum()), stated * second**0.5, mean, second**0.5),
            Claim("<x^2>", float((weight * P.x**2).sum()), stated * second, second),
            Claim("smallest", float(min(P.isel(time=-1).min() * width, 0.0)), 1e-8, 0.0, 1.0),
        ]

    text = (
        f"k = {k}, D = {D}, start {initial}, time {time}, time_step {step}, reach {reach:.6g}, shape {shape}"
    )
    return Problem("evolution", text, ask)


def no_law(rng):
    """Processes without a stationary law and without a box: only a refusal or a warning is right."""
    a = rounded(rng.uniform(0.3, 2))
    loss = [
        a * x**3 / 3 - x, -a * x**2 / 2, a * x, x**2 / 2 - a * x**4 / 40, a * sp.log(1 + x**2) / 10,
        sp.sin(a * x), -a * sp.Abs(x), a * sp.exp(-(x**2)), a * sp.atan(x),
    ][rng.integers(9)]  # fmt: skip
    D = rounded(10 ** rng.uniform(-1.5, -0.2)) if not loss.has(sp.log) else sp.Integer(1)
    method = rng.choice(["finite-volume", "spectral"])

    def ask():
        stationary_density(Langevin(Landscape(loss, (x,)), isotropic(D)), method=method)
        return []

    return Problem("no stationary law", f"L = {loss}, D = {D}, method = {method!r}", ask, no_answer=True)


KINDS = [
    density_of_a_loss, density_of_a_drift, weights_of_wells, time_of_escape, committor_of_wells,
    noise_of_place, natural_end, walls, evolution, no_law,
]  # fmt: skip
