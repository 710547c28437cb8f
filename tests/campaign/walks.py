"""Problems for walkers: ensembles under any noise and walls, escape times with and without a barrier."""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy import stats

from fpsolve import escape_rate, simulate, simulate_escape, split_escape
from tests.campaign.lines import numeric, positive, rounded, x
from tests.campaign.planes import VARIABLES
from tests.campaign.referees import gibbs_line, passage_line
from tests.campaign.trial import Claim, Problem
from theory import Diffusion, Landscape, Langevin, isotropic

y = VARIABLES[1]


def averages_of(run, name: str, first: float, second: float, bias: float) -> list[Claim]:
    """Mean and second moment of an ensemble; ``bias`` is the share that steps of this size are known to add."""
    mean = float(run["mean"].sel(variable=name))
    square = float(run["second_moment"].sel(variable=name, variable_2=name))
    errors = (
        float(run["mean_stderr"].sel(variable=name)),
        float(run["second_moment_stderr"].sel(variable=name, variable_2=name)),
    )
    return [
        Claim("mean", mean, errors[0] + bias * second**0.5, first, second**0.5, statistical=True),
        Claim("second moment", square, errors[1] + bias * second, second, statistical=True),
    ]


def ensemble_of_a_line(rng):
    """An ensemble in a random loss, from the lowest minimum, long or short; steps of 1 % of a relaxation time."""
    a, t = rounded(rng.uniform(-1, 1)), rounded(rng.uniform(-0.4, 0.4))
    loss = x**4 / 4 - a * x**2 / 2 + t * x
    D = rounded(10 ** rng.uniform(-1.6, 0.3))
    U = numeric(loss)
    mean = gibbs_line(lambda v: -U(v) / float(D), -6, 6)
    walkers, time, step, seed = int(rng.choice([8, 32, 256])), 400.0, 0.005, int(rng.integers(10**6))

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        run = simulate(process, walkers=walkers, time=time, burn_in=40, time_step=step, rng=seed, threads=1)
        return averages_of(run, "x", mean(lambda v: v), mean(lambda v: v**2), 0.002)

    return Problem("ensemble", f"L = {loss}, D = {D}, {walkers} walkers, rng {seed}", ask)


def ensemble_at_an_end(rng):
    """Gamma and beta laws, D that vanishes at an end; and reflecting walls."""
    seed, kind = int(rng.integers(10**6)), rng.choice(["gamma", "beta", "walls"])
    options = {}
    if kind == "gamma":
        shape = rounded(rng.uniform(0.8, 5))
        process, law = Diffusion([1 - positive], [[positive / shape]], (positive,)), None
        law = stats.gamma(float(shape), scale=1 / float(shape))
        first, second, start = 1.0, float(law.moment(2)), {"x": 1.0}
    elif kind == "beta":
        s = rounded(rng.uniform(0.3, 0.9))
        process = Diffusion([-x], [[s * (1 - x**2) / 2]], (x,))
        law = stats.beta(1 / float(s), 1 / float(s), loc=-1, scale=2)
        first, second, start = 0.0, float(law.moment(2)), {"x": 0.0}
    else:
        k, D = rounded(rng.uniform(0.2, 2)), rounded(rng.uniform(0.2, 2))
        low, high = -float(rounded(rng.uniform(0.3, 1))), float(rounded(rng.uniform(0.3, 1)))
        process = Langevin(Landscape(k * x**2 / 2, (x,)), isotropic(D))
        mean = gibbs_line(lambda v: -float(k) * v**2 / 2 / float(D), low, high)
        first, second, start = mean(lambda v: v), mean(lambda v: v**2), {"x": 0.0}
        options = {"walls": {"x": "reflecting"}, "box": {"x": (low, high)}}

    def ask():
        run = simulate(
            process,
            walkers=512,
            time=60,
            burn_in=10,
            time_step=0.002,
            start=start,
            rng=seed,
            threads=1,
            **options,
        )
        return averages_of(run, "x", first, second, 0.003)

    return Problem(
        f"ensemble, {kind}",
        f"{process.drift.tolist()}, {process.diffusion.tolist()}, {options}, rng {seed}",
        ask,
    )


def ensemble_not_possible(rng):
    """Indefinite D, or steps too long for the drift: only a refusal or a warning is right."""
    seed = int(rng.integers(10**6))
    if indefinite := rng.random() < 0.5:
        c = rounded(rng.uniform(1.2, 3))
        D = (
            sp.Matrix([[1, c], [c, 1]])
            if rng.random() < 0.5
            else sp.Matrix([[1, c * sp.tanh(x)], [c * sp.tanh(x), 1]])
        )
        process, step, start = Diffusion([-x, -y], D, (x, y)), 0.1, {"x": 0.1, "y": 0.0}
    else:
        process, step, start = (
            Langevin(Landscape(x**4 / 4, (x,)), isotropic(rounded(rng.uniform(0.5, 2)))),
            0.3,
            {"x": 0},
        )

    def ask():
        run = simulate(process, walkers=2000, time=100, time_step=step, start=start, rng=seed, threads=1)
        return [Claim("diverged", int(run["diverged"].sum()), 0.0, 0)]

    text = f"{process.drift.tolist()}, {process.diffusion.tolist()}, time_step {step}, rng {seed}"
    return Problem("ensemble, impossible", text, ask, no_answer=indefinite)


def _exit(rng):
    """An exit in one dimension: loss, D, start, target, and the exact mean time."""
    if rng.random() < 0.5:
        loss, D = x**2 / 2, rounded(rng.uniform(0.3, 1))
        target = rounded(float(np.sqrt(float(D))) * rng.uniform(1.5, 3))
    else:
        t = rounded(rng.uniform(-0.1, 0.1))
        loss, D = x**4 / 4 - x**2 / 2 + t * x, rounded(rng.uniform(0.06, 0.2))
        target = rounded(rng.uniform(-0.1, 0.8))
    start = 0.0 if loss.is_polynomial() and loss == x**2 / 2 else -1.0
    U = numeric(loss)
    truth = passage_line(
        lambda z: U(z) / float(D), lambda z: np.full_like(z, float(D)), start, float(target), -4.5
    )
    return loss, D, start, target, truth


def escape_by_simulation(rng):
    """Simulated first passages at the default treatment of the boundary, as a rate with its interval."""
    loss, D, start, target, truth = _exit(rng)
    seed = int(rng.integers(10**6))

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        coarse, fine = (
            simulate_escape(
                process, start={"x": start}, target=x > target, walkers=2000, time_step=step, max_time=60 * truth,
                rng=draw, threads=1,
            )
            for step, draw in ((0.02, seed), (0.01, seed + 1))
        )  # fmt: skip
        rate = escape_rate(coarse, finer=fine)
        error = float(np.log(rate.high / rate.low)) / 3.92
        return [
            Claim("ln rate", float(np.log(rate.rate)), error, -float(np.log(truth)), 1.0, statistical=True)
        ]

    return Problem("simulated escape", f"L = {loss}, D = {D}, {start} to x > {target}, rng {seed}", ask)


def escape_by_splitting(rng):
    """Splitting with its defaults over barriers of up to 40 D, at tops and at targets that are none."""
    if rng.random() < 0.5:
        loss, D, start = x**2 / 2, sp.Rational(1, 2), 0.0
        target = rounded(rng.uniform(2.5, 6))
    else:
        loss, D, start = x**4 / 4 - x**2 / 2, rounded(0.25 / rng.uniform(5, 40)), -1.0
        target = rounded(rng.uniform(-0.3, 0.5))
    U = numeric(loss)
    truth = passage_line(
        lambda z: U(z) / float(D), lambda z: np.full_like(z, float(D)), start, float(target), -5.0
    )
    seed = int(rng.integers(10**6))

    def ask():
        process = Langevin(Landscape(loss, (x,)), isotropic(D))
        run = split_escape(process, start={"x": start}, target=x > target, walkers=4000, rng=seed, threads=1)
        error = float(run["log_mean_time_stderr"])
        return [
            Claim("ln T", float(run["log_mean_time"]), error, float(np.log(truth)), 1.0, statistical=True)
        ]

    return Problem("splitting", f"L = {loss}, D = {D}, {start} to x > {target}, rng {seed}", ask)


KINDS = [
    ensemble_of_a_line, ensemble_at_an_end, ensemble_not_possible, escape_by_simulation, escape_by_splitting,
]  # fmt: skip
