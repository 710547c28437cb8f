"""``python -m notebooks.studies.closed_loop``: the small setting of notebook 08, its tables and claims."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from notebooks.studies.command import finish, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Close the loop for three nets; print both tables and the verdicts."""
    parser = study_parser("closed_loop", __doc__)
    parser.add_argument("--folder", help="keep trainings, valleys and walks there; run again to go on")
    parser.add_argument("--nets", type=int, default=3, help="independent trainings, at least 2 (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    return finish(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    from fpsolve.compare.verdicts import VerdictTable
    from notebooks.studies.closed_loop.claims import loop_verdicts
    from notebooks.studies.closed_loop.loop import LoopStudy, closed_loops
    from notebooks.studies.closed_loop.tables import budget_table, loop_table

    study = LoopStudy("digits", (16,), epochs=60, window=10, n_sharp=2, replicas=48, walkers=500)
    found = closed_loops(study, nets=options.nets, seed=options.seed, folder=options.folder, progress=True)
    for table in (loop_table(found), budget_table(found), VerdictTable(loop_verdicts(found))):
        print(table, end="\n\n")


if __name__ == "__main__":
    raise SystemExit(main())
