"""Problems for theory: critical points in any units, exact times past narrow features, Kramers at flat places."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from tests.campaign.lines import numeric, rounded, x
from tests.campaign.planes import VARIABLES
from tests.campaign.referees import passage_line
from tests.campaign.trial import Claim, Problem
from theory import Landscape, Langevin, escape, isotropic

y = VARIABLES[1]


def critical_points(rng):
    """A separable random polynomial loss in one or two variables, in units of 10⁻⁸ to 10⁸."""
    size, scale = int(rng.choice([1, 2])), sp.Rational(10) ** int(rng.integers(-8, 9))
    loss, truth = sp.Integer(0), []
    for v in VARIABLES[:size]:
        degree = int(rng.choice([4, 6]))
        roots = np.sort(rng.uniform(-3, 3, degree - 1))
        if np.diff(roots).min() < 0.1:
            return critical_points(rng)
        exact = [rounded(r) for r in roots]
        slope = sp.expand(sp.prod([v / scale - r for r in exact]))
        loss = loss + sp.integrate(slope, v)
        truth.append([float(r) * float(scale) for r in exact])
    count = int(np.prod([len(t) for t in truth]))
    minima = int(np.prod([(len(t) + 1) // 2 for t in truth]))

    def ask():
        found = Landscape(sp.expand(loss), VARIABLES[:size]).critical_points()
        claims = [
            Claim("points", len(found), 0.0, count), Claim("minima", sum(c.kind == "minimum" for c in found), 0.0, minima)
        ]  # fmt: skip
        if len(found) == count:
            for c in found:
                for v, places in zip(VARIABLES[:size], truth, strict=True):
                    here = c.point[str(v)]
                    near = min(places, key=lambda p: abs(p - here))
                    claims.append(Claim(f"place {v}", here, 0.0, near, float(scale)))
        return claims

    return Problem(f"critical points, {size}D", f"L = {loss}", ask)


def critical_points_of_gaussians(rng):
    """A quadratic trap with Gaussian wells in one dimension: critical points by a fine scan of the slope."""
    width = rng.uniform(3, 30)
    loss = rounded(1 / width**2) * x**2 / 2
    edges = [np.linspace(-3.01 * width, 3 * width, 200_001)]  # no node where the slope is 0 by symmetry
    for _ in range(rng.integers(1, 4)):
        centre, size = rng.uniform(-1.5, 1.5) * width, width * 10 ** rng.uniform(-2, -0.5)
        loss = loss - rounded(rng.uniform(-1, 3)) * sp.exp(
            -((x - rounded(centre)) ** 2) / (2 * rounded(size) ** 2)
        )
        edges.append(centre + size * np.linspace(-9, 9, 4001))
    slope = numeric(sp.diff(loss, x))
    line = np.unique(np.concatenate(edges))
    g = slope(line)
    cross = np.flatnonzero(g[1:] * g[:-1] < 0)
    truth = sorted(brentq(lambda v: float(slope(np.array(v))), line[i], line[i + 1]) for i in cross)

    def ask():
        found = sorted(c.point["x"] for c in Landscape(loss, (x,)).critical_points())
        claims = [Claim("points", len(found), 0.0, len(truth))]
        if len(found) == len(truth):
            claims += [Claim("place", a, 0.0, b, width) for a, b in zip(found, truth, strict=True)]
        return claims

    return Problem("critical points of Gaussians", f"L = {loss}", ask)


def exact_time(rng):
    """exact_mean_time past a narrow spike or well on the path, against cumulative sums on a fine grid."""
    D = rounded(10 ** rng.uniform(-1, 0))
    loss = x**2 / 2 + rounded(rng.uniform(-0.5, 0.5)) * x
    features = []
    for _ in range(rng.integers(0, 3)):
        centre, size = rng.uniform(-1.5, 1.5), 10 ** rng.uniform(-4, -0.5)
        loss = loss + rounded(rng.uniform(-3, 3)) * sp.exp(
            -((x - rounded(centre)) ** 2) / (2 * rounded(size) ** 2)
        )
        features.append((float(rounded(centre)), float(rounded(size))))
    U = numeric(loss)
    start, target = -1.0, 1.9
    edges = [np.linspace(-12, target, 300_001)]
    edges += [c + s * np.linspace(-9, 9, 20_001) for c, s in features]
    line = np.unique(np.concatenate([*edges, [start, target]]))
    line = line[(line >= -12) & (line <= target)]
    times = []
    for refine in (False, True):
        z = np.sort(np.concatenate([line, (line[1:] + line[:-1]) / 2])) if refine else line
        h, psi = np.diff(z), U(z) / float(D)
        inner = np.exp(-(psi - psi.min()))
        total = np.concatenate([[0.0], np.cumsum((inner[1:] + inner[:-1]) / 2 * h)])
        kept = z >= start
        outer = np.exp(psi[kept] - psi.min()) * total[kept] / float(D)
        times.append(float(np.sum((outer[1:] + outer[:-1]) / 2 * h[kept[1:] & kept[:-1]])))
    truth = times[1] + (times[1] - times[0]) / 3

    def ask():
        value = escape.exact_mean_time(Langevin(Landscape(loss, (x,)), isotropic(D)), start, target)
        return [Claim("mean time", value, 1e-8 * truth, truth)]

    return Problem("exact time", f"L = {loss}, D = {D}, {start} to {target}", ask)


def kramers(rng):
    """Kramers' time at high barriers, at quadratic, quartic or sextic minima, against quadrature."""
    power, D = int(rng.choice([2, 4, 6])), rounded(1 / rng.uniform(15, 60))
    steep = rounded(rng.uniform(0.5, 2))
    # A minimum at 0 of this power, a quadratic top at 1 of height 1
    loss = steep * (x**power * (power + 2 - power * x**2) / 2)
    U = numeric(loss)
    truth = passage_line(lambda z: U(z) / float(D), lambda z: np.full_like(z, float(D)), 0.0, 1.0, -0.999999)

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        value = escape.kramers_time(process, minimum=0.0, saddle=1.0, to="saddle")
        # The formula is asymptotic: its next order is the share (D/ΔL)^{2/power}
        return [Claim("time to the top", value, float(D / steep) ** (2 / power) * truth, truth)]

    return Problem("Kramers", f"L = {loss}, D = {D}", ask)


KINDS = [critical_points, critical_points_of_gaussians, exact_time, kramers]
