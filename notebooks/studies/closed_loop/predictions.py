"""What theory, density and ensemble predict for SGD in a measured valley; no net is trained here.

All predict the same numbers: Var y_i along each sharp direction and the mean and variance of x, for copies
that started together at the valley's origin, averaged over the second half of the walk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias, get_args

import numpy as np
import sympy as sp
import xarray as xr
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_lyapunov

import fpsolve
import theory
from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from nets.measure.valley import MeasuredValley, Reading
from theory.evaluate import lambdified
from theory.valley.elimination import eliminate

#: Share of the walk after which the density in (x, y_i) starts, from theory's Gaussian.
SETTLED = 0.1
#: Bound on ∫|error| from the steps in time of that density.
ACCURACY = 4e-3
#: The methods, in the order of a table, and where their errors come from.
METHODS = {
    "theory": "the finite step, left out",
    "theory, finite step": "couplings, left out",
    "density of y, x held": "half-grid estimate",
    "density of y, x held, finite step": "half-grid estimate",
    "density of (x, y)": "half-grid estimate",
    "ensemble, dt = rate/4": "standard error",
    "ensemble, dt = rate": "standard error",
}
#: The network among the methods.
SGD = "network, SGD"
#: Var y_1 … Var y_n and the numbers along the flat direction, and their errors, both of shape (n + 3,).
Numbers: TypeAlias = tuple[np.ndarray, np.ndarray]
#: The numbers along the flat direction.
FLAT = {
    "displacement": "⟨x⟩ at the end",
    "flat_variance": "Var x at the end",
    "log_flatness": "⟨ln F̂(x)⟩ at the end less ln F̂(0)",
}


def flat_drift(valley: MeasuredValley, *, noise: Reading) -> Callable[[float], float]:
    """ẋ(x) = −V'(x) − ½ Σ_i ⟨y_i²⟩ λ_i'(x), the sharp variables eliminated (PRL 130, 237101, Eqs. 11–14).

    With noise "measured" or "random_shift" by :func:`theory.valley.elimination.eliminate`; with "local" from
    ⟨y_i²⟩ = D_i(x)/λ_i(x). The result is a function of one number. Another ``noise`` is a ValueError.
    """
    if noise not in get_args(Reading):
        raise ValueError(f"noise={noise!r} must be one of {get_args(Reading)}")
    if noise != "local":
        system = valley.langevin(noise=noise)
        reduced = eliminate(system.without_cross_diffusion(), order=1)
        compiled = lambdified(reduced.drift, system.landscape.slow)
        return lambda x: float(compiled(x))
    slope, bend = polynomial.polyder(valley.potential), polynomial.polyder(valley.curvature.T).T

    def drift(x: float) -> float:
        z = x / valley.scale
        spread = valley.diffusion(x, noise=noise) / valley.curvatures(x)
        force = polynomial.polyval(z, slope) + 0.5 * spread @ polynomial.polyval(z, bend.T)
        return -float(force) / valley.scale

    return drift


def flat_path(valley: MeasuredValley, *, steps: int, noise: Reading) -> np.ndarray:
    """x after 0, 1, …, ``steps`` iterations by the averaged drift, shape (steps + 1,)."""
    drift, x = flat_drift(valley, noise=noise), np.zeros(steps + 1)
    for k in range(steps):
        x[k + 1] = x[k] + valley.learning_rate * drift(x[k])
    return x


def stationary_place(valley: MeasuredValley, *, noise: Reading) -> float:
    """Where the averaged drift vanishes and pushes back; NaN if nowhere in range: then only y_i settles."""
    x = valley.profile["x"].to_numpy()
    line, drift = np.linspace(x[0], x[-1], 400), flat_drift(valley, noise=noise)
    v = np.array([drift(t) for t in line])
    found = np.flatnonzero((v[:-1] > 0) & (v[1:] <= 0))
    return float(line[found[0]]) if len(found) else float("nan")


def settled_variance(C: ArrayLike, lam: ArrayLike, rate: float, *, excess: ArrayLike = 0.0) -> np.ndarray:
    """ηC/(λ(2 − ηλ(1 + ρ))): the stationary variance of y ← (1 − ηλ)y − ηξ with ⟨ξ²⟩ = C; ρ is ``excess``."""
    C, lam, more = np.asarray(C), np.asarray(lam), 1 + np.asarray(excess)
    return rate * C / (lam * (2 - rate * lam * more))


def coupled_variances(valley: MeasuredValley, x: float, *, minibatch_hessians: bool = False) -> np.ndarray:
    """Stationary variances of the map y ← (1 − ηH)y − ηξ of all sharp directions, shape (n,).

    Solves Σ = (1 − ηH) Σ (1 − ηH)ᵀ + η²C at x, where Var y_i = ηC_ii/(λ_i(2 − ηλ_i)) leaves out what is not
    on the diagonals; H and C are interpolated between the points measured. ``minibatch_hessians`` adds Σ_jk
    Σ_jk Cov(h_ij, h_ik) to C_ii: each minibatch has a Hessian of its own. Where ηλ ≥ 2 the map has no
    stationary state, a ValueError.
    """
    n, rate = valley.n_sharp, valley.learning_rate
    there = valley.profile[["hessian", "covariance", "hessian_covariance"]].interp(x=x)
    H, C = (there[k].to_numpy()[:n, :n] for k in ("hessian", "covariance"))
    scatter = there["hessian_covariance"].to_numpy()
    A = np.eye(n) - rate * (H + H.T) / 2
    if (by := float(np.abs(np.linalg.eigvalsh(A)).max())) >= 1:
        raise ValueError(f"the map diverges: it multiplies by {by:.3g} along a sharp direction at x={x:g}")
    spread = solve_discrete_lyapunov(A, rate**2 * C)
    for _ in range(200 if minibatch_hessians else 0):
        more = np.einsum("jk,ijk->i", spread, scatter)
        further = solve_discrete_lyapunov(A, rate**2 * (C + np.diag(more)))
        if np.allclose(further, spread, rtol=1e-10, atol=0):
            break
        if further.max() > 1e6 * np.abs(C).max():
            return np.full(n, np.inf)
        spread = further
    return np.diag(spread).copy()


def theory_variances(valley: MeasuredValley, *, steps: int, noise: Reading) -> np.ndarray:
    """D_i/(λ_i(1 − ηλ_i/2)) over the second half of the averaged walk of ``steps`` iterations, shape (n,).

    The walk follows the averaged drift with "local" noise; ``noise`` says where D_i comes from.
    """
    rate = valley.learning_rate
    late = flat_path(valley, steps=steps, noise="local")[steps // 2 :]
    C = 2 / rate * valley.diffusion(late, noise=noise)
    return settled_variance(C, valley.curvatures(late), rate).mean(0)


def conditional_variances(lam: ArrayLike, D: ArrayLike, *, learning_rate: float | None = None) -> Numbers:
    """Variances of the stationary Fokker–Planck densities of y_i with x held, and their numerical errors.

    ``lam`` and ``D`` hold curvatures and diffusion there, shape (n,), as both results. A ``learning_rate``
    corrects the process for steps of this length, :func:`theory.langevin.at_finite_step`: to first order
    in ηλ, where the map itself has D/(λ(1 − ηλ/2)).
    """
    y = sp.Symbol("y", real=True)
    found = []
    for curvature, strength in zip(np.asarray(lam), np.asarray(D), strict=True):
        process: theory.langevin.Process = theory.Langevin(
            theory.Landscape(float(curvature) * y**2 / 2, (y,)), theory.isotropic(float(strength))
        )
        if learning_rate is not None:
            process = process.at_finite_step(learning_rate=learning_rate)
        p = fpsolve.stationary_density(process)
        value = float((p["y"] ** 2 * p).sum() / p.sum())
        found.append((value, value * abs(float(p.attrs["half_grid_estimate"]))))
    variance, error = np.array(found).T
    return variance, error


def evolved_density(
    valley: MeasuredValley, mode: int, *, steps: int, times: int = 6, noise: Reading = "local"
) -> xr.DataArray:
    """Density of (x, y_i) along the walk, the other sharp variables averaged out at each x; dims time, x, y.

    ∂_t P = ∂_x[(V' + ½λ_i'y² + ½Σ_j≠i λ_j' D_j/λ_j)P] + ∂_y[λ_i y P] + ∂_x²[D_x P] + ∂_y²[D_i P], from
    theory's Gaussian at a tenth of the walk. Where V falls over the whole range there is no stationary
    density in x, see :func:`stationary_place`; that of y given x follows x, quasi-stationary.

    ``mode`` is i, from 0; ``steps`` are the iterations of the walk, ``times`` the densities in its second
    half. There are 64 cells along y, along x as many as the start needs.
    Noise "random_shift" gives x next to no noise and is a ValueError, as is a mode that does not exist.
    """
    if noise not in ("measured", "local"):
        raise ValueError(f"noise={noise!r} must be 'measured' or 'local' for a density in x")
    if not 0 <= mode < valley.n_sharp:
        raise ValueError(f"mode={mode} must lie between 0 and {valley.n_sharp - 1}")
    system = valley.process(noise=noise)
    (x, *sharp), (along, *across) = system.variables, system.drift
    y, (D_x, *D) = sharp[mode], sp.Matrix(system.diffusion).diagonal()
    settled = {s**2: D[j] / -across[j].diff(s) for j, s in enumerate(sharp) if j != mode}
    drift = sp.Matrix([along.subs(settled), across[mode]])
    process = theory.Diffusion(drift, sp.diag(D_x, D[mode]), (x, y), name=f"(x, y{mode + 1})")
    rate, path = valley.learning_rate, flat_path(valley, steps=steps, noise=noise)
    start = max(1, int(SETTLED * steps))
    Dx = rate / 2 * (valley.noise(path)[:, -1] if noise == "local" else valley.covariance[-1, -1] + 0 * path)
    spread = np.sqrt(2 * rate * np.cumsum(Dx))
    widths = np.sqrt(valley.diffusion(path, noise=noise)[:, mode] / valley.curvatures(path)[:, mode])
    low, high = path[start:].min() - 6 * spread[-1], path[start:].max() + 6 * spread[-1]
    nx = int(np.clip(np.ceil(3 * (high - low) / spread[start]), 80, 700))
    s0 = max(spread[start], 1.5 * (high - low) / nx)
    first = sp.exp(-((x - path[start]) ** 2) / (2 * s0**2) - y**2 / (2 * widths[start] ** 2))
    reach = 7 * float(widths[start:].max())
    begin, last = rate * (steps // 2 - start), rate * (steps - start)
    return fpsolve.evolve(
        process, first, times=list(np.linspace(max(begin, 0.0), last, times)), accuracy=ACCURACY,
        box={str(x): (low, high), str(y): (-reach, reach)}, shape=(nx, 64),
    )  # fmt: skip


def prediction(
    valley: MeasuredValley, *, steps: int, noise: Reading = "local", walkers: int = 2000, rng: int = 0,
    others: dict[str, Numbers] | None = None, progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Variances, drift and flatness by every method, with errors, for a walk of so many iterations.

    Sharp: Var y_i = D_i/λ_i where theory has the walk be, averaged over the second half of the walk, with
    1/(1 − ηλ_i/2) for the finite step; the stationary density of y_i with x held at the middle of that
    half; the evolving one of (x, y_i); and ensembles in all n + 1 variables with steps of η and of η/4, of
    ``walkers`` in 20 groups for the errors. ``others`` are numbers by further methods. ``noise``: see
    :meth:`nets.measure.valley.MeasuredValley.process`.

    Returned over ``by``, the method, and ``mode``: ``variance`` and, by method, the numbers of :data:`FLAT`,
    each with ``…_error``; NaN where a method does not give it. ``flat_force`` and ``noise_force``, the two
    parts of the averaged force at x = 0; ``stationary_place``. Fewer than 20 steps or 100 walkers are a
    ValueError.
    """
    if steps < 20 or walkers < 100:
        raise ValueError(f"steps={steps} must be at least 20 and walkers={walkers} at least 100")
    rate, n = valley.learning_rate, valley.n_sharp
    others = others or {}
    by_method = _of_theory(valley, steps, noise) | others
    if noise != "random_shift":
        modes = shown(range(n), unit="mode", progress=progress)
        best, error = np.array([_of_density(valley, i, steps, noise) for i in modes]).swapaxes(0, 1)
        by_method["density of (x, y)"] = (
            np.append(best[:, 0], best[:, 1:].mean(0)), np.append(error[:, 0], error[:, 1:].max(0))
        )  # fmt: skip
    for name, step in (("ensemble, dt = rate/4", rate / 4), ("ensemble, dt = rate", rate)):
        by_method[name] = _of_ensemble(valley, steps, noise, walkers, step, rng)
    unknown, methods = np.full((2, n + len(FLAT)), np.nan), [*METHODS, *others]
    values, errors = np.array([by_method.get(m, unknown) for m in methods]).swapaxes(0, 1)
    errors = np.abs(errors)
    drift = flat_drift(valley, noise=noise)(0.0)
    slope = -float(polynomial.polyder(valley.potential)[0]) / valley.scale
    result = {
        "variance": quantity(values[:, :n], ("by", "mode"), "Var y_i, mean over the second half of the walk"),
        "variance_error": quantity(errors[:, :n], ("by", "mode"), "its error"),
        "flat_force": quantity(slope, (), "−V'(0)"),
        "noise_force": quantity(drift - slope, (), "−½ Σ ⟨y_i²⟩ λ_i'(0)"),
        "stationary_place": quantity(stationary_place(valley, noise=noise), (), "x where the drift vanishes"),
    }
    for k, (name, text) in enumerate(FLAT.items()):
        result[name] = quantity(values[:, n + k], "by", text)
        result[name + "_error"] = quantity(errors[:, n + k], "by", "its error")
    return dataset(
        result, title="predictions for SGD in the measured valley",
        coords={"by": methods, "mode": np.arange(1, n + 1)},
        noise=noise, seed=int(rng), walkers=int(walkers), steps=int(steps),
    )  # fmt: skip


def _of_theory(valley: MeasuredValley, steps: int, noise: Reading) -> dict[str, Numbers]:
    """Numbers by theory and by densities with x held."""
    rate, n = valley.learning_rate, valley.n_sharp
    path = flat_path(valley, steps=steps, noise=noise)
    late, climb = path[steps // 2 :], valley.log_weighted_flatness
    lam, D = valley.curvatures(late), valley.diffusion(late, noise=noise)
    bare, stepped = (D / lam).mean(0), settled_variance(2 / rate * D, lam, rate).mean(0)
    middle = float(late.mean())
    lam, C = valley.curvatures(middle), valley.noise(middle)[:n]
    coupled = stepped * coupled_variances(valley, middle) / settled_variance(C, lam, rate)
    flat = np.array([path[-1], np.nan, climb(path[-1]) - climb(0.0)])
    nothing = np.full(len(FLAT), np.nan)
    found = {
        "theory": (np.append(bare, flat), np.append(stepped - bare, nothing)),
        "theory, finite step": (np.append(stepped, nothing), np.append(coupled - stepped, nothing)),
    }
    for name, step in (("", None), (", finite step", rate)):
        variance, error = conditional_variances(
            lam, valley.diffusion(middle, noise=noise), learning_rate=step
        )
        found[f"density of y, x held{name}"] = np.append(variance, nothing), np.append(error, nothing)
    return found


def _of_density(valley: MeasuredValley, mode: int, steps: int, noise: Reading) -> Numbers:
    """Var y, ⟨x⟩, Var x, Δ ln F̂ of the evolving density, and their errors by its own estimates."""
    density = evolved_density(valley, mode, steps=steps, noise=noise)
    relative = density.attrs["half_grid_estimate"] + density.attrs["time_error"]
    numbers, climb = _moments(valley, density), valley.log_weighted_flatness
    of_y, x, of_x, _ = numbers
    of_mean = relative * np.sqrt(x**2 + of_x)
    of_climb = climb(x + of_mean) - climb(x)
    return numbers, np.array([2 * relative * of_y, of_mean, 2 * relative * of_x, abs(float(of_climb))])


def _moments(valley: MeasuredValley, density: xr.DataArray) -> np.ndarray:
    P, (x, y) = density.to_numpy(), (density[str(name)].to_numpy() for name in density.dims[1:])
    mass = P.sum((1, 2))
    of_y, of_x = P.sum(1) / mass[:, None], P[-1].sum(1) / mass[-1]
    spread, mean, climb = of_y @ y**2 - (of_y @ y) ** 2, of_x @ x, valley.log_weighted_flatness
    return np.array([spread.mean(), mean, of_x @ (x - mean) ** 2, of_x @ climb(x) - climb(0.0)])


def _of_ensemble(
    valley: MeasuredValley, steps: int, noise: Reading, walkers: int, time_step: float, rng: int
) -> Numbers:
    """Numbers of walkers, and their standard errors between groups."""
    start = {"x": 0.0} | {f"y{i + 1}": float(-v) for i, v in enumerate(valley.floors(0.0))}
    rate = valley.learning_rate
    between = max(d for d in range(1, max(2, steps // 40 + 1)) if steps % d == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = fpsolve.simulate(
            valley.process(noise=noise), walkers=walkers, time=rate * steps, time_step=time_step, start=start,
            save_every=rate * between, rng=rng, threads=1,
        )["path"].to_numpy()  # fmt: skip
    x, y = paths[:, -1, 0], paths[:, paths.shape[1] // 2 :, 1:].swapaxes(0, 1)
    groups = np.array_split(np.arange(walkers), 20)
    each = np.array([numbers_of(valley, x[g], y[:, g]) for g in groups])
    return numbers_of(valley, x, y), each.std(0, ddof=1) / np.sqrt(len(groups))


def numbers_of(valley: MeasuredValley, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Var y_1 … Var y_n, ⟨x⟩, Var x, Δ ln F̂ of copies, shape (n + 3,).

    ``x`` (copies,) is that at the end, ``y`` (times, copies, n) that over the second half of the walk.
    """
    climb = valley.log_weighted_flatness
    return np.array([*y.var(1, ddof=1).mean(0), x.mean(), x.var(ddof=1), (climb(x) - climb(0.0)).mean()])
