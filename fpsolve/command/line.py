"""The command line: ``fpsolve stationary|escape|phases CONFIG.toml`` run a job and write what they find;
``fpsolve verdicts`` collects what the notebooks found."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpsolve.command.choices import EXAMPLE_NAMES, METHODS
from fpsolve.command.exits import exit_code
from fpsolve.command.output import in_file_words, pyplot, report, writable
from fpsolve.files import write_whole

if TYPE_CHECKING:
    from fpsolve.command.jobs import Solution
    from fpsolve.command.problem import Problem


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments``, by default ``sys.argv[1:]``.

    The exit code is 0; 2 for input that cannot be used, with one line on stderr; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    return exit_code(
        lambda: options.run(options),
        name="fpsolve",
        no_memory="not enough memory: use fewer cells (solver.shape) or walkers",
        words=in_file_words,
    )


def _parser() -> argparse.ArgumentParser:
    from fpsolve import __version__

    parser = argparse.ArgumentParser(
        prog="fpsolve", description="Fokker-Planck densities and SGD ensembles on loss landscapes."
    )
    parser.add_argument("--version", action="version", version=f"fpsolve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    words = "stationary density by every method, compared in one table and one figure"
    stationary = _problem_command(commands, _stationary, "stationary", words)
    stationary.add_argument("--method", choices=METHODS, help="which densities (default: the file's, or all)")
    stationary.add_argument("--no-simulation", action="store_true", help="leave out the ensemble")
    _problem_command(commands, _escape, "escape", "mean escape time by every method, in one table")
    words = "phases of SGD over noise and learning rate, with their borders"
    phases = _problem_command(commands, _phases, "phases", words)
    phases.add_argument(
        "--workers", type=partial(_whole, least=1), default=1, metavar="N", help="processes (default: 1)"
    )
    phases.add_argument("--store", metavar="PATH", help="keep finished points there, .zarr or .nc, and go on")
    verdicts = commands.add_parser("verdicts", help="one page of what stored notebooks say about the papers")
    verdicts.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="notebooks, or folders of them")
    verdicts.add_argument("--out", metavar="FILE", help="write the page there (default: print it)")
    verdicts.set_defaults(run=_verdicts)
    return parser


def _problem_command(commands: Any, run: Callable, name: str, words: str) -> argparse.ArgumentParser:
    """A new command with the options of every command that reads a problem."""
    parser = commands.add_parser(name, help=words)
    parser.set_defaults(run=run)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("config", nargs="?", metavar="CONFIG.toml", help="landscape, noise and box")
    source.add_argument("--example", choices=EXAMPLE_NAMES, help="a problem that ships with the package")
    parser.add_argument("--out", metavar="DIR", help="write table, figure and netCDF files there")
    parser.add_argument("--json", action="store_true", help="print the table as JSON, and nothing else")
    parser.add_argument(
        "--seed", type=_whole, metavar="N", help="seed of the ensemble (default: the file's, or 0)"
    )
    return parser


def _whole(text: str, least: int = 0) -> int:
    """A whole number that is not too small."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least {least}")
    return int(text)


def _problem(options: argparse.Namespace) -> Problem:
    """The problem of the command line, checked."""
    from fpsolve.command.problem import configuration, parse_problem

    return parse_problem(configuration(options))


def _stationary(options: argparse.Namespace) -> int:
    """Densities, ensemble and theory of one landscape, compared."""
    from fpsolve.command import jobs

    problem = _problem(options)
    out = writable(options.out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        solution = jobs.solve(
            problem, method=options.method, simulation=not options.no_simulation, seed=options.seed,
            progress=not options.json,
        )  # fmt: skip
        figure = None if out is None else _figure(problem, solution)
    for message in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
        print(f"fpsolve: warning: {in_file_words(' '.join(message.split()))}", file=sys.stderr)
    if "ensemble" not in solution.results and not options.no_simulation:
        print("fpsolve: note: no ensemble, since the file has no [simulate] table", file=sys.stderr)
    if out is not None and figure is None:
        words = "it needs a finite-volume density in one or two variables"
        print(f"fpsolve: note: no figure; {words}", file=sys.stderr)
    table, found = solution.table, solution.results
    report("stationary", table, table.to_dict(), out=out, quiet=options.json, figure=figure, results=found)
    return 0


def _escape(options: argparse.Namespace) -> int:
    """Mean escape time by every method."""
    problem = _problem(options)
    if problem.escape is None:
        words = "such as start = { x = -1.0 }, target = 'x > 0'; each --example has one"
        raise ValueError(f"the file has no [escape] table with start and target, {words}")
    out = writable(options.out)
    from fpsolve.command.jobs import walls_of
    from fpsolve.compare.escapes import escape
    from fpsolve.escape.plot import escape_times

    settings: dict = dict(problem.escape)
    if options.seed is not None:
        settings["rng"] = options.seed
    walls = walls_of(problem).get("walls")
    table = escape(problem.process, box=problem.box, walls=walls, progress=not options.json, **settings)
    figure = None
    if out is not None:
        figure, ax = pyplot().subplots()
        escape_times(table, ax=ax)
    report("escape", table, table.to_dict(), out=out, quiet=options.json, figure=figure)
    return 0


def _phases(options: argparse.Namespace) -> int:
    """Phases over a grid of noise and learning rate."""
    from fpsolve.command.phases import run_phases

    return run_phases(options, writable(options.out))


def _figure(problem: Problem, solution: Solution):
    """The density beside all others, where there is one by finite volumes in one or two variables."""
    if len(problem.process.variables) > 2 or "density" not in solution.results:
        return None
    from fpsolve.density import plot

    pyplot()
    found = solution.results
    return plot.stationary(
        found["density"],
        referee=found.get("spectral"),
        ensemble=found.get("ensemble"),
        reduced=list(solution.reductions),
        table=solution.table,
    )


def _verdicts(options: argparse.Namespace) -> int:
    """The verdicts of stored notebooks, on one page."""
    from fpsolve.compare.verdicts import verdict_page

    given = [Path(name) for name in options.notebooks]
    notebooks = [n for p in given for n in (sorted(p.glob("*.ipynb")) if p.is_dir() else [p])]
    page = verdict_page(notebooks, relative_to=Path(options.out).parent if options.out else ".")
    if options.out:
        write_whole(Path(options.out), page)
    else:
        print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
