"""``python -m notebooks.studies.variance_flatness CONFIG.toml --out DIR``: variance against flatness."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from notebooks.studies.command import finish, study_parser

#: Names after ``--example``; listed, not read, so that ``--help`` loads nothing.
EXAMPLE_NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("examples/*.toml")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiments of a file; print the verdict."""
    about = "Variance against flatness with every control, over seeds; prints the verdict."
    parser = study_parser("variance_flatness", about)
    source, several = (
        parser.add_mutually_exclusive_group(required=True),
        "the experiment, or several as [[variants]]",
    )
    source.add_argument("config", nargs="?", metavar="CONFIG.toml", help=several)
    source.add_argument("--example", choices=EXAMPLE_NAMES, help="an experiment that ships with the study")
    resumes = "seeds are stored there; a stopped run resumes"
    parser.add_argument("--out", metavar="DIR", required=True, help=resumes)
    parser.add_argument("--json", action="store_true", help="print the exponents as JSON, and nothing else")
    return finish(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    """Run every experiment of the file and print what it says."""
    from fpsolve.command.reader import read_text
    from notebooks.studies.variance_flatness import claims, experiment, files, tables

    text = files.EXAMPLES[options.example] if options.example else read_text(options.config)
    configs = files.parse_experiments(text)

    def log(line: str) -> None:
        print(f"variance_flatness: {line}", file=sys.stderr, flush=True)

    every = {c.name: experiment.run_trainings(c, Path(options.out), log=log) for c in configs}
    verdicts = {config.name: claims.verdict(every[config.name], config) for config in configs}
    if options.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in verdicts.items()}, indent=1))
        return
    for config in configs:
        times = claims.correlation_times_text(claims.correlation_times(every[config.name], config))
        print(f"{config.name}\n{'-' * len(config.name)}\n{claims.text(verdicts[config.name])}\n{times}\n")
    if len(configs) > 1:
        print(tables.markdown(tables.table(configs, every)))


if __name__ == "__main__":
    raise SystemExit(main())
