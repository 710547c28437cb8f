"""One command line for every study, ``python -m notebooks.studies.NAME``: its parser and its exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from fpsolve import __version__
from fpsolve.command.exits import exit_code


def study_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for the study in ``notebooks/studies/NAME`` that knows ``--version``."""
    parser = argparse.ArgumentParser(prog=f"python -m notebooks.studies.{name}", description=description)
    parser.add_argument("--version", action="version", version=f"fpsolve {__version__}")
    return parser


def finish(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """The exit code of ``run`` with the options in ``arguments``, by default ``sys.argv[1:]``.

    It is 0; 2 for input that cannot be used, with one line on stderr; 130 after Ctrl-C, after which the same
    command goes on where it was.
    """
    options = parser.parse_args(arguments)

    def work() -> int:
        run(options)
        return 0

    name = parser.prog.rpartition(".")[2]
    return exit_code(work, name=name, interrupted="interrupted; the same command goes on from here")
