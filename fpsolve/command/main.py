"""The command line: ``fpsolve stationary|escape|phases CONFIG.toml`` run a job and write what they find;
``fpsolve verdicts`` collects what the notebooks found."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from fpsolve.command.problem import Problem
    from fpsolve.table import Table

#: Names after ``--example``; kept here so that ``--help`` loads nothing (tested against the configuration).
EXAMPLE_NAMES = ("valley", "double_well")
METHODS = ("all", "finite-volume", "spectral")
#: Errors that are the input's: one line and exit code 2. Anything else is a bug and shows its traceback.
USER_ERRORS = (ValueError, NotImplementedError, OSError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default ``sys.argv[1:]``.

    Returns
    -------
    int
        0; 2 for input that cannot be used (one line on stderr); 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("fpsolve: interrupted", file=sys.stderr)
        return 130
    except MemoryError:
        return _failed("not enough memory: use fewer cells (solver.shape) or walkers")
    except USER_ERRORS as error:
        return _failed(str(error))


def _failed(message: str) -> int:
    """One line on stderr, and the exit code."""
    print(f"fpsolve: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    from fpsolve import __version__

    parser = argparse.ArgumentParser(
        prog="fpsolve", description="Fokker-Planck densities and SGD ensembles on loss landscapes."
    )
    parser.add_argument("--version", action="version", version=f"fpsolve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stationary = commands.add_parser(
        "stationary", help="stationary density by every method, compared in one table and one figure"
    )
    _add_problem_options(stationary)
    stationary.add_argument("--method", choices=METHODS, help="which densities (default: the file's, or all)")
    stationary.add_argument("--no-simulation", action="store_true", help="leave out the ensemble")
    stationary.set_defaults(run=_stationary)
    escape = commands.add_parser("escape", help="mean escape time by every method, in one table")
    _add_problem_options(escape)
    escape.set_defaults(run=_escape)
    phases = commands.add_parser(
        "phases", help="phases of SGD over noise and learning rate, with their borders"
    )
    _add_problem_options(phases)
    phases.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (default: 1)")
    phases.add_argument("--store", metavar="PATH", help="keep finished points there, .zarr or .nc, and go on")
    phases.set_defaults(run=_phases)
    verdicts = commands.add_parser("verdicts", help="one page of what stored notebooks say about the papers")
    verdicts.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="notebooks, or folders of them")
    verdicts.add_argument("--out", metavar="FILE", help="write the page there (default: print it)")
    verdicts.set_defaults(run=_verdicts)
    return parser


def _add_problem_options(parser: argparse.ArgumentParser) -> None:
    """What every command that reads a problem takes."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("config", nargs="?", metavar="CONFIG.toml", help="landscape, noise and box")
    source.add_argument("--example", choices=EXAMPLE_NAMES, help="a problem that ships with the package")
    parser.add_argument("--out", metavar="DIR", help="write table, figure and netCDF files there")
    parser.add_argument("--json", action="store_true", help="print the table as JSON, and nothing else")
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="seed of the ensemble (default: the file's, or 0)"
    )


def _seed(text: str) -> int:
    """A whole number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 0")
    return int(text)


def _workers(text: str) -> int:
    """A whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def _problem(options: argparse.Namespace) -> Problem:
    """The problem of the command line, checked."""
    from fpsolve.command.problem import EXAMPLES, load_problem, parse_problem

    return parse_problem(EXAMPLES[options.example]) if options.example else load_problem(options.config)


def _stationary(options: argparse.Namespace) -> int:
    """The main job: densities, ensemble and theory of one landscape, compared."""
    problem = _problem(options)
    out = _writable(options.out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        table, figure, results = _solved(problem, options)
    for message in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
        print(f"fpsolve: warning: {' '.join(message.split())}", file=sys.stderr)
    if "ensemble" not in results and not options.no_simulation:
        print("fpsolve: note: no ensemble, since the file has no [simulate] table", file=sys.stderr)
    if out is not None and figure is None:
        print(
            "fpsolve: note: no figure; it needs a finite-volume density in one or two variables",
            file=sys.stderr,
        )
    _report(table, options.json)
    if out is not None:
        _write(out, table, figure, results)
        if not options.json:
            print(f"wrote {', '.join(str(p) for p in sorted(out.iterdir()))}")
    return 0


def _escape(options: argparse.Namespace) -> int:
    """The time to leave, by every method."""
    problem = _problem(options)
    if problem.escape is None:
        raise ValueError("the file has no [escape] table with start and target")
    out = _writable(options.out)
    from fpsolve.compare import densities as compare
    from fpsolve.density import plot

    settings: dict = dict(problem.escape)
    if options.seed is not None:
        settings["rng"] = options.seed
    table = compare.escape(problem.process, box=problem.box, progress=not options.json, **settings)
    _report(table, options.json)
    if out is not None:
        import matplotlib

        matplotlib.use("Agg")
        figure = plot.escape_times(table).figure
        _write(out, table, figure, {}, name="escape")
        if not options.json:
            print(f"wrote {', '.join(str(p) for p in sorted(out.glob('escape.*')))}")
    return 0


def _phases(options: argparse.Namespace) -> int:
    """Phases over a grid of noise and learning rate."""
    from fpsolve.command.phases import run_phases

    return run_phases(options, _writable(options.out))


def _writable(directory: str | None) -> Path | None:
    """The output directory, made now so that a bad one is found before the work."""
    if directory is None:
        return None
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    probe = path / ".fpsolve-probe"
    probe.touch()
    probe.unlink()
    return path


def _solved(problem: Problem, options: argparse.Namespace):
    """Table, figure and named results."""
    import matplotlib

    if options.out is not None:
        matplotlib.use("Agg")
    from fpsolve.compare import densities as compare
    from fpsolve.density import plot
    from fpsolve.progress import bar

    process, reduced = problem.process, _reductions(problem)
    named: dict = {}
    jobs = _jobs(problem, options, named)
    # Each job is a step of the bar; none is shown for JSON, which is read by machines.
    with bar(len(jobs), unit="job", progress=not options.json, leave=False) as counted:
        for name, job in jobs.items():
            counted.set_postfix_str(name)
            named[name] = job()
            counted.update()
    _warn_of_memory(problem, named)
    table = compare.stationary(process, *named.values(), *reduced)
    density = next(r for n, r in named.items() if n in ("density", "spectral"))
    figure = None
    if options.out is not None and len(process.variables) <= 2 and "density" in named:
        figure = plot.stationary(
            density,
            referee=named.get("spectral"),
            ensemble=named.get("ensemble"),
            reduced=reduced,
            table=table,
        )
    return table, figure, named


def _reductions(problem: Problem) -> list:
    """Adiabatic elimination of orders 0, 1, 2 where the landscape is a valley it covers."""
    from theory.valley import elimination

    landscape = problem.process.landscape
    if not landscape.fast or len(landscape.slow) != 1:
        return []
    try:
        return [elimination.eliminate(problem.process, order=order) for order in (0, 1, 2)]
    except (NotImplementedError, ValueError) as error:
        warnings.warn(f"no adiabatic elimination: {error}", stacklevel=2)
        return []


def _jobs(problem: Problem, options: argparse.Namespace, named: dict) -> dict:
    """The computations to run, in order; the ensembles start from samples of the first density."""
    from fpsolve import stationary_density

    process, box = problem.process, problem.box
    jobs: dict = {}
    solver: dict = dict(problem.solver)
    method = options.method or problem.method
    if method in ("all", "finite-volume"):
        jobs["density"] = lambda: stationary_density(process, box=box, **solver)
    if method in ("all", "spectral"):
        shared = {k: v for k, v in solver.items() if k == "cross_diffusion"}
        jobs["spectral"] = lambda: stationary_density(process, box=box, method="spectral", **shared)
    if not options.no_simulation and (problem.simulate is not None or _can_default(problem, options)):
        jobs["ensemble"] = lambda: _simulated(problem, options, named, 1.0)
        jobs["ensemble, half the step"] = lambda: _simulated(problem, options, named, 0.5)
    return jobs


def _warn_of_memory(problem: Problem, named: dict) -> None:
    """Standard errors do not show walkers that still remember their start; the slowest rate does."""
    rate = float(named["density"].attrs.get("second_eigenvalue", 0.0)) if "density" in named else 0.0
    burn_in = (problem.simulate or {}).get("burn_in", 0.0)
    if problem.simulate is not None and "ensemble" in named and rate > 0 and rate * burn_in < 3:
        warnings.warn(
            "the ensemble still remembers its start, samples of the density: it forgets at the rate "
            f"{rate:.2g}, which asks for burn_in = {3 / rate:.2g} or more, not {burn_in:g}",
            stacklevel=2,
        )


def _simulated(problem: Problem, options: argparse.Namespace, named: dict, factor: float) -> xr.Dataset:
    """An ensemble with ``factor`` times the time step; two of them extrapolate to continuous time."""
    import numpy as np

    from fpsolve import simulate
    from fpsolve.command.problem import DEFAULT_TIME, DEFAULT_WALKERS

    density = next(iter(named.values()))
    process, settings = problem.process, dict(problem.simulate or _default_ensemble(problem, density))
    seed = options.seed if options.seed is not None else int(settings.get("seed", 0))
    step = settings.get("time_step", process.learning_rate)
    assert step is not None  # the configuration was refused without one
    walkers = int(settings.get("walkers", DEFAULT_WALKERS))
    start = _samples(density, walkers, np.random.SeedSequence(seed, spawn_key=(2,)))
    slow = process.names[0]
    reach = float(abs(density[slow]).max())
    bins = {slow: np.linspace(-reach, reach, 601)}
    point = 0 if factor == 1.0 else 1
    key = np.random.SeedSequence(seed, spawn_key=(point,))
    return simulate(
        process,
        walkers=walkers,
        time=settings.get("time", DEFAULT_TIME),
        burn_in=settings.get("burn_in", 0.0),
        time_step=step * factor,
        start=start,
        bins=bins,
        rng=key,
        progress=not options.json,
    )


def _samples(density: xr.DataArray, walkers: int, seed) -> dict:
    """Starting points drawn from a density, so that wells which exchange slowly start with their weights."""
    import numpy as np

    rng = np.random.default_rng(seed)
    weight = np.maximum((density * density.cell_volume).to_numpy().ravel(), 0.0)
    chosen = np.unravel_index(rng.choice(weight.size, walkers, p=weight / weight.sum()), density.shape)
    return {str(v): density[v].to_numpy()[k] for v, k in zip(density.dims, chosen, strict=True)}


def _can_default(problem: Problem, options: argparse.Namespace) -> bool:
    """Whether an ensemble can be chosen unasked: one or two variables, finite volumes first."""
    method = options.method or problem.method
    return len(problem.process.variables) <= 2 and method in ("all", "finite-volume")


def _default_ensemble(problem: Problem, density: xr.DataArray) -> dict:
    """An ensemble for a file that asks for none: a step well inside stability, 100 relaxation times.

    At most 2e8 walker-steps; a slower system keeps the weights its walkers were drawn with.
    """
    import numpy as np

    process = problem.process
    minima = [c for c in process.landscape.critical_points() if c.kind == "minimum"]
    stiffest = max((max(c.eigenvalues) for c in minima), default=1.0)
    step = process.learning_rate or float(f"{0.1 / stiffest:.1g}")
    rate = float(density.attrs.get("second_eigenvalue", np.nan))
    wanted = 100.0 / rate if rate > 0 else np.inf
    time = step * np.ceil(min(wanted, 2e8 / 1024 * step) / step)
    return {
        "walkers": 1024,
        "time": float(time),
        "burn_in": float(step * np.floor(0.3 * time / step)),
        "time_step": step,
    }


def _verdicts(options: argparse.Namespace) -> int:
    """The verdicts of stored notebooks, on one page."""
    from fpsolve.compare.verdicts import verdict_page

    given = [Path(name) for name in options.notebooks]
    notebooks = [n for p in given for n in (sorted(p.glob("*.ipynb")) if p.is_dir() else [p])]
    page = verdict_page(notebooks, relative_to=Path(options.out).parent if options.out else ".")
    if options.out:
        Path(options.out).write_text(page, encoding="utf-8")
    else:
        print(page, end="")
    return 0


def _report(table: Table, as_json: bool) -> None:
    """The table on stdout."""
    if as_json:
        import json

        print(json.dumps(table.to_dict()))
    else:
        print(table)


def _write(out: Path, table: Table, figure, results: dict, *, name: str = "stationary") -> None:
    """Table, figure and data, each under its own name."""
    import json

    (out / f"{name}.txt").write_text(f"{table}\n", encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(table.to_dict(), indent=1), encoding="utf-8")
    if figure is not None:
        figure.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight")
    for title, result in results.items():
        file = out / f"{title.replace(', ', '-').replace(' ', '-')}.nc"
        result.to_netcdf(file, engine="h5netcdf")


if __name__ == "__main__":
    sys.exit(main())
