"""``python -m notebooks.studies.forgetting``: claims and comparisons in the small setting of notebook 07."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from notebooks.studies.command import finish, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan, choose, report; print the verdicts and the table of comparisons."""
    parser = study_parser("forgetting", __doc__)
    parser.add_argument("--store", metavar="FILE.nc", help="keep finished trainings; run again to go on")
    parser.add_argument("--seed", type=int, default=2021)
    return finish(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    from fpsolve.compare.verdicts import VerdictTable
    from notebooks.studies.forgetting import choice, claims, continual
    from notebooks.studies.forgetting.penalties import METHODS, constraint_grid
    from notebooks.studies.forgetting.tasks import DIGITS

    coarse = {name: kind.strengths[1::3] for name, kind in METHODS.items()}
    base = ("none", "L2", "EWC true", "EWC empirical", "LDC", "LDC equal F")
    every = constraint_grid((50, 200, 0), strengths=coarse, methods=base)
    every += constraint_grid((0,), strengths=coarse, methods=[m for m in METHODS if m not in base])
    result = continual.scan(DIGITS, every, trainings=8, seed=options.seed, store=options.store, progress=True)
    studies = {"digits, 0-4 then 5-9": choice.Study.split(result, 3)}
    print(VerdictTable(claims.verdicts(studies), setting="digits, 3 trainings choose, 5 are reported"))
    print()
    print(claims.comparisons(studies))


if __name__ == "__main__":
    raise SystemExit(main())
