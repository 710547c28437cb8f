"""The command line: ``nets variance-flatness CONFIG.toml`` runs the experiment and prints the verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

#: Names after ``--example``; kept here so that ``--help`` loads nothing (tested against the configurations).
EXAMPLE_NAMES = ("mnist", "digits", "across", "convolutional")
#: Errors that are the input's: one line and exit code 2. Anything else is a bug and shows its traceback.
USER_ERRORS = (ValueError, OSError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default ``sys.argv[1:]``.

    Returns
    -------
    int
        0; 2 for input that cannot be used (one line on stderr); 130 after Ctrl-C, after which the same
        command goes on where it was.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("nets: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        print(f"nets: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    from fpsolve import __version__

    parser = argparse.ArgumentParser(
        prog="nets", description="Measure what theory predicts on trained networks."
    )
    parser.add_argument("--version", action="version", version=f"nets {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "variance-flatness",
        help="variance against flatness with every control, over seeds; prints the verdict",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="the experiment, or several as [[variants]]"
    )
    source.add_argument("--example", choices=EXAMPLE_NAMES, help="an experiment that ships with the package")
    command.add_argument(
        "--out", metavar="DIR", required=True, help="seeds are stored there; a stopped run resumes"
    )
    command.add_argument("--json", action="store_true", help="print the exponents as JSON, and nothing else")
    command.set_defaults(run=_variance_flatness)
    return parser


def _variance_flatness(options: argparse.Namespace) -> int:
    """Run every experiment of the file and print what it says."""
    from notebooks.studies.variance_flatness.files import EXAMPLES, load_experiments, parse_experiments

    configs = (
        parse_experiments(EXAMPLES[options.example]) if options.example else load_experiments(options.config)
    )
    from notebooks.studies.variance_flatness import tables as comparison
    from notebooks.studies.variance_flatness import experiment
    from notebooks.studies.variance_flatness import claims

    def log(line: str) -> None:
        print(f"nets: {line}", file=sys.stderr, flush=True)

    tables, times, every = {}, {}, {}
    for config in configs:
        results = experiment.run_seeds(config, Path(options.out), log=log)
        every[config.name] = results
        tables[config.name] = claims.verdict(results, config)
        times[config.name] = claims.correlation_times_text(claims.correlation_times(results, config))
    if options.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in tables.items()}, indent=1))
        return 0
    for name, rows in tables.items():
        print(f"{name}\n{'-' * len(name)}\n{claims.text(rows)}\n{times[name]}\n")
    if len(configs) > 1:
        print(comparison.markdown(comparison.table(configs, every)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
