"""``python -m notebooks.studies.box_escape``: laws of escape in the small setting of notebook 06."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from notebooks.studies.command import finish, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Scan one start; print the laws along every scan."""
    parser = study_parser("box_escape", __doc__)
    parser.add_argument("--problem", default="clusters", help="see binary_data; default clusters")
    parser.add_argument("--start", default="minimum", help="a key of STARTS; default minimum")
    parser.add_argument("--store", metavar="FILE.nc", help="keep finished starts there; run again to go on")
    parser.add_argument("--seed", type=int, default=6)
    return finish(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    from functools import partial
    from typing import get_args

    from fpsolve import sweep
    from notebooks.studies.box_escape.scans import escape_study
    from notebooks.studies.box_escape.summary import Scan, compare_laws

    run = partial(escape_study, epochs=50, points=4, replicas=20, max_steps=1500)
    grid = {"training_seed": [0], "problem": [options.problem], "start": [options.start]}
    studies = sweep(run, grid, store=options.store, seed=options.seed, progress=True)
    for scan in get_args(Scan):
        print(f"scan over {scan}, {options.problem}, {options.start}")
        for name, value in compare_laws(studies, scan).data_vars.items():
            print(f"    {name:16} {value.item():10.4g}")


if __name__ == "__main__":
    raise SystemExit(main())
