"""``python -m tests.campaign N [--seed S] [--kind NAME ...]``: counts per kind, and the worst inputs."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np

from fpsolve.progress import bar
from tests.campaign import formulas, lines, models, planes, walks
from tests.campaign.trial import OUTCOMES, Outcome, tried

KINDS = {draw.__name__: draw for module in (lines, planes, walks, formulas, models) for draw in module.KINDS}


def numbered(name: str, seed: int, number: int) -> Outcome:
    """Problem ``number`` of a kind; the same at every call."""
    rng = np.random.default_rng([seed, number, *name.encode()])
    return tried(KINDS[name](rng))


def table(outcomes: list[Outcome]) -> str:
    """Counts per kind."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.kind][outcome.outcome] += 1
    rows = [f"{'kind':34}" + "".join(f"{name:>9}" for name in OUTCOMES)]
    for kind, count in sorted(counts.items()):
        rows.append(f"{kind:34}" + "".join(f"{count[name] or '.':>9}" for name in OUTCOMES))
    total = sum(counts.values(), Counter())
    return "\n".join([*rows, f"{'all':34}" + "".join(f"{total[name] or '.':>9}" for name in OUTCOMES)])


def described(outcome: Outcome) -> str:
    """One problem and its answer in full."""
    lines_ = [f"[{outcome.outcome}] {outcome.kind}, {outcome.seconds:.1f} s: {outcome.text}"]
    lines_ += [f"    {line}" for line in [*outcome.wrong, outcome.said] if line]
    return "\n".join(lines_)


def main() -> int:
    """Run, print what is there when all is done or stopped, and return 1 if any answer is silent or raw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", type=int, nargs="?", default=200, help="how many, over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="only these kinds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", nargs="*", default=["silent", "raw", "slow"], choices=OUTCOMES)
    given = parser.parse_args()
    names = given.kind or list(KINDS)
    jobs = [(names[i % len(names)], given.seed, i // len(names)) for i in range(given.problems)]
    outcomes = []
    with (
        ProcessPoolExecutor(given.workers) as pool,
        bar(len(jobs), unit="problem", progress=True) as progress,
    ):
        futures = [pool.submit(numbered, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                outcomes.append(future.result())
                progress.update(1)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped after {len(outcomes)} of {len(jobs)}")
    for outcome in sorted(outcomes, key=lambda o: (o.kind, -o.worst)):
        if outcome.outcome in given.show:
            print(described(outcome))
    print(table(outcomes))
    return int(any(o.outcome in ("silent", "raw") for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
