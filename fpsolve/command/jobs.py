"""Jobs of the command line, callable from Python: densities and ensembles of a checked problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import xarray as xr

from fpsolve.command.problem import DEFAULT_TIME, DEFAULT_WALKERS, Problem
from fpsolve.progress import bar
from fpsolve.symbols.counter_rng import Rng
from theory.langevin import Langevin

if TYPE_CHECKING:
    from fpsolve.table import Table

#: Most walker-steps of an ensemble that no file describes.
MOST_STEPS = 2e8
#: A job takes what the jobs before it found, by name.
Job = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Solution:
    """Result of :func:`solve`: results by name, theory's reductions, and the table that compares them."""

    results: Mapping[str, Any]
    reductions: tuple
    table: Table


def solve(problem: Problem, *, progress: bool = False, **choices: Any) -> Solution:
    """Every job of :func:`plan` for its ``choices``, compared with adiabatic elimination in one table."""
    from fpsolve.compare.densities import stationary

    reduced = reductions(problem.process)
    found: dict[str, Any] = {}
    jobs = plan(problem, progress=progress, **choices)
    with bar(len(jobs), unit="job", progress=progress, leave=False) as counted:
        for name, job in jobs.items():
            counted.set_postfix_str(name)
            found[name] = job(found)
            counted.update()
    if "ensemble" in found and (remark := memory_remark(problem, found)):
        warnings.warn(remark, stacklevel=2)
    return Solution(found, reduced, stationary(problem.process, *found.values(), *reduced))


def plan(
    problem: Problem,
    *,
    method: str | None = None,
    simulation: bool = True,
    seed: int | None = None,
    progress: bool = False,
) -> dict[str, Job]:
    """The computations of a stationary density by name, in the order in which they must run.

    ``method`` and ``seed`` replace those of the file. "density" is by finite volumes or the chain, "spectral"
    by spectral elements; "ensemble" and "ensemble, half the step" start from samples of the first density. A
    file without a [simulate] table gets :func:`default_ensemble` in one or two variables, where finite
    volumes come first.
    """
    from fpsolve.density.stationary import stationary_density

    process, box, solver = problem.process, problem.box, dict(problem.solver)
    method = method or problem.method
    jobs: dict[str, Job] = {}
    volumes = method in ("all", "finite-volume", "chain")
    if volumes:
        solver["method"] = "chain" if method == "chain" else "finite-volume"
        jobs["density"] = lambda _: stationary_density(process, box=box, **solver)  # type: ignore[arg-type]
    if method in ("all", "spectral"):
        shared: dict = {k: v for k, v in solver.items() if k in ("cross_diffusion", "walls")}
        jobs["spectral"] = lambda _: stationary_density(process, box=box, method="spectral", **shared)
    if simulation and (problem.simulate is not None or (volumes and len(process.variables) <= 2)):
        for name, factor in (("ensemble", 1.0), ("ensemble, half the step", 0.5)):
            jobs[name] = lambda found, factor=factor: ensemble(  # type: ignore[misc]
                problem, next(iter(found.values())), factor=factor, seed=seed, progress=progress
            )
    return jobs


def ensemble(
    problem: Problem,
    density: xr.DataArray,
    *,
    factor: float = 1.0,
    seed: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """An ensemble with ``factor`` times the time step, from samples of a density.

    Two of them, with factors 1 and 1/2, extrapolate to continuous time; their random numbers differ.
    """
    from fpsolve.ensemble.simulation import simulate

    process = problem.process
    settings = dict(problem.simulate or default_ensemble(process, density))
    seed = int(settings.get("seed", 0)) if seed is None else seed
    step = settings.get("time_step", process.learning_rate)
    assert step is not None  # the configuration was refused without one
    walkers = int(settings.get("walkers", DEFAULT_WALKERS))
    slow = process.names[0]
    reach = float(abs(density[slow]).max())
    return simulate(
        process,
        walkers=walkers,
        time=settings.get("time", DEFAULT_TIME),
        burn_in=settings.get("burn_in", 0.0),
        time_step=step * factor,
        start=samples(density, walkers, np.random.SeedSequence(seed, spawn_key=(2,))),
        bins={slow: np.linspace(-reach, reach, 601)},
        rng=np.random.SeedSequence(seed, spawn_key=(0 if factor == 1.0 else 1,)),
        **walls_of(problem),
        progress=progress,
    )


def walls_of(problem: Problem) -> dict[str, Any]:
    """Box and walls of the walkers: those of the solver that are meant as walls, not as far away."""
    from fpsolve.ensemble.domain import Wall

    box, given = problem.box or {}, problem.solver.get("walls", "far")
    kinds = given if isinstance(given, Mapping) else dict.fromkeys(box, given)
    walls = {name: kind for name, kind in kinds.items() if kind in get_args(Wall) and name in box}
    return {"box": {name: box[name] for name in walls}, "walls": walls} if walls else {}


def samples(density: xr.DataArray, walkers: int, rng: Rng = None) -> dict[str, np.ndarray]:
    """Starting points, shape (walkers,) for each variable, drawn among the cells of a density.

    Wells between which walkers pass slowly then start with their weights.
    """
    generator = np.random.default_rng(rng)
    weight = np.maximum((density * density.cell_volume).to_numpy().ravel(), 0.0)
    chosen = np.unravel_index(generator.choice(weight.size, walkers, p=weight / weight.sum()), density.shape)
    return {str(v): density[v].to_numpy()[k] for v, k in zip(density.dims, chosen, strict=True)}


def _stiffest(process: Langevin, density: xr.DataArray) -> float:
    """The largest curvature at a minimum, or D over the variance, where a flat minimum or a kink has none."""
    minima = [c for c in process.landscape.critical_points() if c.kind == "minimum"]
    curvatures = [v for c in minima for v in c.eigenvalues if 0 < v < np.inf]
    if curvatures and not any(c.degenerate for c in minima):
        return max(curvatures)
    mass = density * density.cell_volume
    means = {v: float((mass * density[v]).sum()) for v in process.names}
    spreads = [float((mass * (density[v] - mean) ** 2).sum()) for v, mean in means.items()]
    D = np.diag(process.diffusion_values(np.array([list(means.values())]))[0])
    return max([*curvatures, *(D / np.array(spreads)).tolist()])


def default_ensemble(process: Langevin, density: xr.DataArray) -> dict[str, float]:
    """Walkers, time, burn-in and step of an ensemble that no file describes.

    The step is the learning rate where the noise has one, else a tenth of the stiffest time at a minimum. The
    time is 100 relaxations at the density's ``second_eigenvalue``, in at most 2e8 walker-steps. Of a density
    that was folded at a mirror it is the rate of even functions; in a parabola odd ones relax half as fast,
    and so half of it is taken. A slower system keeps the weights its walkers were drawn with. The first 30 %
    are burn-in.
    """
    stiffest = _stiffest(process, density)
    step = process.learning_rate or float(f"{0.1 / stiffest:.1g}")
    folded = density.attrs.get("symmetry", "none used") != "none used"
    rate = float(density.attrs.get("second_eigenvalue", np.nan)) / (2 if folded else 1)
    wanted = 100.0 / rate if rate > 0 else np.inf
    time = step * np.ceil(min(wanted, MOST_STEPS / DEFAULT_WALKERS * step) / step)
    return {
        "walkers": DEFAULT_WALKERS,
        "time": float(time),
        "burn_in": float(step * np.floor(0.3 * time / step)),
        "time_step": step,
    }


def memory_remark(problem: Problem, results: Mapping[str, Any]) -> str | None:
    """A remark if the asked burn-in is shorter than three times 1/rate, the slowest rate of the density.

    Walkers are then correlated with their start, which their standard errors do not show.
    """
    rate = float(results["density"].attrs.get("second_eigenvalue", 0.0)) if "density" in results else 0.0
    if problem.simulate is None or rate <= 0:
        return None
    burn_in = problem.simulate.get("burn_in", 0.0)
    if rate * burn_in >= 3:
        return None
    return (
        "averages of the ensemble depend on its start, samples of the density: correlation with the start "
        f"decays at the rate {rate:.2g}; give burn_in = {3 / rate:.2g} or more, not {burn_in:g}"
    )


def reductions(process: Langevin) -> tuple:
    """Adiabatic elimination of orders 0, 1, 2 of a valley; () with a warning where it does not apply."""
    from theory.valley.elimination import eliminate

    landscape = process.landscape
    if not landscape.fast or len(landscape.slow) != 1:
        return ()
    try:
        return tuple(eliminate(process, order=order) for order in (0, 1, 2))
    except (NotImplementedError, ValueError) as error:
        warnings.warn(f"no adiabatic elimination: {error}", stacklevel=2)
        return ()
