"""What theory, density and ensemble predict for SGD in a measured valley; no net is trained here.

All predict the same numbers: Var y_i along each sharp direction and the mean and variance of x, for copies
that started together at the valley's origin, averaged over the second half of the walk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import sympy as sp
import xarray as xr
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_lyapunov

import fpsolve
import theory
from nets.measure.valley import MeasuredValley, Reading, says
from fpsolve.progress import shown
from theory.valley.elimination import eliminate
from theory.finite_step import at_finite_step

#: Share of the walk after which the density in (x, y_i) starts, from theory's Gaussian.
SETTLED = 0.1
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

__all__ = [
    "METHODS", "conditional_variances", "coupled_variances", "evolved_density", "flat_drift", "flat_path",
    "prediction", "stationary_place",
]  # fmt: skip


def flat_drift(valley: MeasuredValley, *, noise: Reading) -> Callable[[float], float]:
    """ẋ(x) = −V'(x) − ½ Σ_i ⟨y_i²⟩ λ_i'(x), the sharp variables eliminated.

    Parameters
    ----------
    valley : MeasuredValley
    noise : {"measured", "random_shift", "local"}
        For the first two by :func:`theory.valley.elimination.eliminate`; for "local" with ⟨y_i²⟩ = D_i(x)/λ_i(x).

    Returns
    -------
    callable
        Of one number.

    Raises
    ------
    ValueError
        If the reading is unknown.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 11–14.
    """
    if noise not in get_args(Reading):
        raise ValueError(f"noise={noise!r} must be one of {get_args(Reading)}")
    if noise != "local":
        system = valley.langevin(noise=noise)
        reduced = eliminate(system.without_cross_diffusion(), order=1)
        compiled = sp.lambdify(system.landscape.slow, reduced.drift, "numpy")
        return lambda x: float(compiled(x))
    slope, bend = polynomial.polyder(valley.potential), polynomial.polyder(valley.curvature.T).T

    def drift(x: float) -> float:
        z = x / valley.scale
        spread = valley.diffusion(x, noise=noise) / valley.curvatures(x)
        force = polynomial.polyval(z, slope) + 0.5 * spread @ polynomial.polyval(z, bend.T)
        return -float(force) / valley.scale

    return drift


def flat_path(valley: MeasuredValley, *, steps: int, noise: Reading) -> np.ndarray:
    """x after 0, 1, …, ``steps`` iterations by the averaged drift, shape (steps + 1,).

    Parameters
    ----------
    valley : MeasuredValley
    steps : int
    noise : {"measured", "random_shift", "local"}

    Returns
    -------
    ndarray
    """
    drift, x = flat_drift(valley, noise=noise), np.zeros(steps + 1)
    for k in range(steps):
        x[k + 1] = x[k] + valley.learning_rate * drift(x[k])
    return x


def stationary_place(valley: MeasuredValley, *, noise: Reading) -> float:
    """Where the averaged drift vanishes and pushes back, within the range measured; NaN if nowhere.

    Parameters
    ----------
    valley : MeasuredValley
    noise : {"measured", "random_shift", "local"}

    Returns
    -------
    float
        NaN means that the valley has no stationary density: only that of y_i given x can settle.
    """
    x = valley.profile["x"].to_numpy()
    line = np.linspace(x[0], x[-1], 400)
    v = np.array([flat_drift(valley, noise=noise)(t) for t in line]) if noise == "local" else None
    if v is None:
        drift = flat_drift(valley, noise=noise)
        v = np.array([drift(t) for t in line])
    found = np.flatnonzero((v[:-1] > 0) & (v[1:] <= 0))
    return float(line[found[0]]) if len(found) else float("nan")


def coupled_variances(valley: MeasuredValley, x: float, *, minibatch_hessians: bool = False) -> np.ndarray:
    """Stationary variances of the map y ← (1 − ηH)y − ηξ with all of H and C among sharp directions.

    Solves Σ = (1 − ηH) Σ (1 − ηH)ᵀ + η²C at x, where Var y_i = ηC_ii/(λ_i(2 − ηλ_i)) leaves out what is
    not on the diagonals; H and C are interpolated between the points measured.

    Parameters
    ----------
    valley : MeasuredValley
    x : float
    minibatch_hessians : bool
        Add Σ_jk Σ_jk Cov(h_ij, h_ik) to C_ii: each minibatch has a Hessian of its own.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If ηλ ≥ 2: the map has no stationary state.
    """
    n, rate = valley.n_sharp, valley.learning_rate
    there = valley.profile[["hessian", "covariance", "hessian_covariance"]].interp(x=x)
    H, C = (there[k].to_numpy()[:n, :n] for k in ("hessian", "covariance"))
    scatter = there["hessian_covariance"].to_numpy()
    A = np.eye(n) - rate * (H + H.T) / 2
    if (largest := float(np.abs(np.linalg.eigvalsh(A)).max())) >= 1:
        raise ValueError(
            f"the map multiplies by {largest:.3g} along a sharp direction at x={x:g}: it diverges"
        )
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
    """D_i/(λ_i(1 − ηλ_i/2)) over the second half of the averaged walk, shape (n,).

    Parameters
    ----------
    valley : MeasuredValley
    steps : int
        Of the walk, which follows the averaged drift with "local" noise.
    noise : {"measured", "random_shift", "local"}
        Where D_i comes from.

    Returns
    -------
    ndarray, shape (n,)
    """
    rate = valley.learning_rate
    late = flat_path(valley, steps=steps, noise="local")[steps // 2 :]
    lam = valley.curvatures(late)
    return (valley.diffusion(late, noise=noise) / (lam * (1 - rate * lam / 2))).mean(0)


def conditional_variances(
    lam: ArrayLike, D: ArrayLike, *, learning_rate: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the stationary Fokker–Planck densities of y_i with x held, and their numerical errors.

    Parameters
    ----------
    lam, D : array-like, shape (n,)
        Curvatures and diffusion there.
    learning_rate : float, optional
        Correct the process for steps of this length, :func:`theory.finite_step.at_finite_step`: to first
        order in ηλ, where the map itself has D/(λ(1 − ηλ/2)).

    Returns
    -------
    variance, error : ndarray, shape (n,)
    """
    y = sp.Symbol("y", real=True)
    found = []
    for curvature, strength in zip(np.asarray(lam), np.asarray(D), strict=True):
        process: theory.langevin.Process = theory.Langevin(
            theory.Landscape(float(curvature) * y**2 / 2, (y,)), theory.isotropic(float(strength))
        )
        if learning_rate is not None:
            process = at_finite_step(process, learning_rate=learning_rate)
        density = fpsolve.stationary_density(process)
        centres, p = density["y"].to_numpy(), density.to_numpy()
        value = float((centres**2 * p).sum() / p.sum())
        found.append((value, value * abs(float(density.attrs["half_grid_estimate"]))))
    variance, error = np.array(found).T
    return variance, error


def evolved_density(
    valley: MeasuredValley, mode: int, *, steps: int, times: int = 6, noise: Reading = "local", fine: int = 2
) -> xr.DataArray:
    """Density of (x, y_i) along the walk, the other sharp variables averaged out at each x.

    ∂_t P = ∂_x[(V' + ½λ_i'y² + ½Σ_j≠i λ_j' D_j/λ_j)P] + ∂_y[λ_i y P] + ∂_x²[D_x P] + ∂_y²[D_i P], from
    theory's Gaussian at a tenth of the walk. Where V falls over the whole range there is no stationary
    density in x, see :func:`stationary_place`; that of y given x follows x, quasi-stationary.

    Parameters
    ----------
    valley : MeasuredValley
    mode : int
        i, counted from 0.
    steps : int
        Iterations of the walk.
    times : int
        Densities in the second half of the walk.
    noise : {"measured", "local"}
        "random_shift" gives x next to no noise and is refused.
    fine : int
        Cells along y are 32 times this, along x as many as the start needs; for half-grid estimates.

    Returns
    -------
    DataArray, dims time, x, y
        See :func:`fpsolve.evolve`.

    Raises
    ------
    ValueError
        If the mode or the reading does not exist.
    """
    if noise not in ("measured", "local"):
        raise ValueError(f"noise={noise!r} must be 'measured' or 'local' for a density in x")
    if not 0 <= mode < valley.n_sharp:
        raise ValueError(f"mode={mode} must lie between 0 and {valley.n_sharp - 1}")
    system = valley.process(noise=noise)
    x, y = system.variables[0], system.variables[1 + mode]
    z, D = x / valley.scale, sp.Matrix(system.diffusion).diagonal()

    def of_z(row: np.ndarray) -> sp.Expr:
        return sum((float(c) * z**k for k, c in enumerate(row)), sp.Integer(0))

    lam = [of_z(row) for row in valley.curvature]
    force = of_z(valley.potential).diff(x) + lam[mode].diff(x) * y**2 / 2
    for j in range(valley.n_sharp):
        if j != mode:
            force += lam[j].diff(x) * D[1 + j] / lam[j] / 2
    process = theory.Diffusion(
        sp.Matrix([-force, -lam[mode] * y]), sp.diag(D[0], D[1 + mode]), (x, y), name=f"(x, y{mode + 1})"
    )
    rate, path = valley.learning_rate, flat_path(valley, steps=steps, noise=noise)
    start = max(1, int(SETTLED * steps))
    Dx = rate / 2 * (valley.noise(path)[:, -1] if noise == "local" else valley.covariance[-1, -1] + 0 * path)
    spread = np.sqrt(2 * rate * np.cumsum(Dx))
    widths = np.sqrt(valley.diffusion(path, noise=noise)[:, mode] / valley.curvatures(path)[:, mode])
    low, high = path[start:].min() - 6 * spread[-1], path[start:].max() + 6 * spread[-1]
    nx = int(np.clip(np.ceil(1.5 * fine * (high - low) / spread[start]), 40 * fine, 350 * fine))
    s0 = max(spread[start], 1.5 * (high - low) / nx)
    first = sp.exp(-((x - path[start]) ** 2) / (2 * s0**2) - y**2 / (2 * widths[start] ** 2))
    reach = 7 * float(widths[start:].max())
    last = rate * (steps - start)
    begin = rate * (steps // 2 - start)
    return fpsolve.evolve(
        process, first, times=list(np.linspace(max(begin, 0.0), last, times)), time_step=last / (75 * fine),
        box={str(x): (low, high), str(y): (-reach, reach)}, shape=(nx, 32 * fine),
    )  # fmt: skip


def prediction(
    valley: MeasuredValley,
    *,
    steps: int,
    noise: Reading = "local",
    walkers: int = 2000,
    rng: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Variances, drift and flatness by every method, with errors.

    Sharp: Var y_i = D_i/λ_i where theory has the walk be, averaged over the second half of the walk, with
    1/(1 − ηλ_i/2) for the finite step; the stationary density of y_i with x held at the middle of that
    half; the evolving one of (x, y_i); and ensembles in all n + 1 variables with steps of η and of η/4.

    Parameters
    ----------
    valley : MeasuredValley
    steps : int
        Iterations of the walk.
    noise : {"measured", "random_shift", "local"}
        See :meth:`nets.measure.valley.MeasuredValley.process`.
    walkers : int
        Of each ensemble, in 20 groups for the errors.
    rng : int
    progress : bool

    Returns
    -------
    Dataset, dims by, mode
        ``variance``, ``variance_error``; by method ``displacement`` ⟨x⟩ and ``flat_variance`` Var x at the
        walk's end, ``log_flatness`` ⟨ln F̂(x)⟩ − ln F̂(0), each with ``…_error``; NaN where a method does
        not give it. ``flat_force`` and ``noise_force``, the two parts of the averaged force at x = 0;
        ``stationary_place``.

    Raises
    ------
    ValueError
        If a number makes no sense, before any work.
    """
    if steps < 20 or walkers < 100:
        raise ValueError(f"steps={steps} must be at least 20 and walkers={walkers} at least 100")
    rate, n = valley.learning_rate, valley.n_sharp
    path = flat_path(valley, steps=steps, noise=noise)
    late = path[steps // 2 :]
    lam, D = valley.curvatures(late), valley.diffusion(late, noise=noise)
    bare, stepped = (D / lam).mean(0), (D / (lam * (1 - rate * lam / 2))).mean(0)
    middle = float(late.mean())
    here = (
        rate
        / 2
        * valley.noise(middle)[:n]
        / (valley.curvatures(middle) * (1 - rate * valley.curvatures(middle) / 2))
    )
    coupled = stepped * (coupled_variances(valley, middle) / here)
    values = {"theory": (bare, stepped - bare), "theory, finite step": (stepped, coupled - stepped)}
    at_middle = valley.curvatures(middle), valley.diffusion(middle, noise=noise)
    for name, step in (("", None), (", finite step", rate)):
        values["density of y, x held" + name] = conditional_variances(*at_middle, learning_rate=step)
    climb = valley.log_weighted_flatness
    flat: dict[str, Sequence[float]] = {"theory": (path[-1], np.nan, float(climb(path[-1]) - climb(0.0)))}
    flat_errors: dict[str, Sequence[float]] = {"theory": (np.nan, np.nan, np.nan)}
    if noise != "random_shift":
        modes = [
            _of_density(valley, i, steps, noise) for i in shown(range(n), unit="mode", progress=progress)
        ]
        best, error = (np.array([m[k] for m in modes]) for k in (0, 1))
        values["density of (x, y)"] = best[:, 0], error[:, 0]
        flat["density of (x, y)"] = tuple(best[:, 1:].mean(0))
        flat_errors["density of (x, y)"] = tuple(error[:, 1:].max(0))
    for name, step in (("ensemble, dt = rate/4", rate / 4), ("ensemble, dt = rate", rate)):
        estimate, stderr = _of_ensemble(valley, steps, noise, walkers, step, rng)
        values[name] = estimate[:n], stderr[:n]
        flat[name], flat_errors[name] = estimate[n:].tolist(), stderr[n:].tolist()
    nothing = np.full(n, np.nan), np.full(n, np.nan)
    both = np.array([values.get(m, nothing) for m in METHODS])
    scalars = np.array([flat.get(m, (np.nan,) * 3) for m in METHODS], float)
    scalar_errors = np.abs(np.array([flat_errors.get(m, (np.nan,) * 3) for m in METHODS], float))
    drift = flat_drift(valley, noise=noise)(0.0)
    slope = -float(polynomial.polyder(valley.potential)[0]) / valley.scale
    result: dict[str, tuple] = {
        "variance": (("by", "mode"), both[:, 0], says("Var y_i, mean over the second half of the walk")),
        "variance_error": (("by", "mode"), np.abs(both[:, 1]), says("its error")),
        "flat_force": ((), slope, says("−V'(0)")),
        "noise_force": ((), drift - slope, says("−½ Σ ⟨y_i²⟩ λ_i'(0)")),
        "stationary_place": ((), stationary_place(valley, noise=noise), says("x where the drift vanishes")),
    }
    for k, (name, text) in enumerate(FLAT.items()):
        result[name] = ("by", scalars[:, k], says(text))
        result[name + "_error"] = ("by", scalar_errors[:, k], says("its error"))
    return xr.Dataset(
        result,
        coords={"by": list(METHODS), "mode": np.arange(1, n + 1)},
        attrs={
            "title": "predictions for SGD in the measured valley", "noise": noise, "seed": int(rng),
            "walkers": int(walkers), "steps": int(steps), "fpsolve_version": fpsolve.__version__,
        },
    )  # fmt: skip


#: The numbers along the flat direction.
FLAT = {
    "displacement": "⟨x⟩ at the end",
    "flat_variance": "Var x at the end",
    "log_flatness": "⟨ln F̂(x)⟩ at the end less ln F̂(0)",
}


def _of_density(
    valley: MeasuredValley, mode: int, steps: int, noise: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Var y, ⟨x⟩, Var x, Δ ln F̂ of the evolving density, and a third of their change from half the grid."""
    fine, coarse = (
        _moments(valley, evolved_density(valley, mode, steps=steps, noise=noise, fine=k)) for k in (2, 1)
    )
    return fine, np.abs(fine - coarse) / 3


def _moments(valley: MeasuredValley, density: xr.DataArray) -> np.ndarray:
    x, y = (density[str(name)].to_numpy() for name in density.dims[1:])
    P = density.to_numpy()
    mass = P.sum((1, 2))
    of_y, of_x = P.sum(1) / mass[:, None], P[-1].sum(1) / mass[-1]
    spread = of_y @ y**2 - (of_y @ y) ** 2
    mean = of_x @ x
    climb = valley.log_weighted_flatness
    return np.array([spread.mean(), mean, of_x @ (x - mean) ** 2, of_x @ climb(x) - climb(0.0)])


def _of_ensemble(
    valley: MeasuredValley, steps: int, noise: Reading, walkers: int, time_step: float, rng: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same numbers (Var y_1 … Var y_n first) from walkers, and their standard errors between groups."""
    start = {"x": 0.0} | {f"y{i + 1}": float(-v) for i, v in enumerate(valley.floors(0.0))}
    rate = valley.learning_rate
    between = max(d for d in range(1, max(2, steps // 40 + 1)) if steps % d == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = fpsolve.simulate(
            valley.process(noise=noise), walkers=walkers, time=rate * steps, time_step=time_step, start=start,
            save_every=rate * between, rng=rng, threads=1,
        )["path"].to_numpy()  # fmt: skip
    groups = np.array_split(np.arange(walkers), 20)
    climb = valley.log_weighted_flatness

    def numbers(chosen: np.ndarray) -> np.ndarray:
        x, y = chosen[:, -1, 0], chosen[:, chosen.shape[1] // 2 :, 1:]
        return np.array([*y.var(0, ddof=1).mean(0), x.mean(), x.var(ddof=1), (climb(x) - climb(0.0)).mean()])

    each = np.array([numbers(paths[g]) for g in groups])
    return numbers(paths), each.std(0, ddof=1) / np.sqrt(len(groups))
