"""``python -m notebooks.studies.noise_and_curvature``: noise, curvature and flatness of nets on digits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from notebooks.studies.command import finish, study_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure noise, alignment and the gain in flatness by SGD; print the tables."""
    parser = study_parser("noise_and_curvature", __doc__)
    parser.add_argument("--store", metavar="DIR", help="keep what is measured there; run again to go on")
    parser.add_argument("--trainings", type=int, default=3, help="at least 2 (default 3)")
    return finish(parser, _run, arguments)


def _run(options: argparse.Namespace) -> None:
    """Print each table as soon as it is measured."""
    from fpsolve.results import with_interval
    from fpsolve.sweeps.store import kept
    from fpsolve.table import interval_table
    from nets import layers, models
    from nets.data import datasets
    from nets.training.along import net_at, weights_along
    from notebooks.studies.noise_and_curvature import alignment, comparison, dynamics, noise

    seeds, folder = range(options.trainings), None if options.store is None else Path(options.store)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    data = datasets.load("digits")
    nets = [models.fully_connected((64, 20, 20, 10), rng=seed) for seed in seeds]

    def show(title, text):
        print(title, text, sep="\n", end="\n\n", flush=True)

    def found(name, compute, *trained, **settings):
        digests = [layers.net_digest(net) for net in (*nets, *trained)]
        asked = {"name": name, "nets": digests, "data": data.digest}
        return kept(folder and folder / f"{name}.nc", partial(compute, **settings), asked=asked | settings)

    weights = found(
        "weights", partial(weights_along, nets, data), epochs=(0, 3, 30, 100), learning_rate=0.1,
        batch_size=50, rng=tuple(seeds),
    )  # fmt: skip
    several = {"layer": 1, "draws": 400, "repeats": 3, "batch_sizes": (1, 16, 256)}
    studies = []
    for k in seeds:
        net = net_at(nets[0], weights, training=k, epoch=30)
        study = partial(noise.noise_study, net, data.train_inputs, data.train_labels)
        studies.append(found(f"noise_{k}", study, net, rng=k, **several))
    summary = noise.noise_summary(studies)
    show("noise at epoch 30, fitted laws", noise.law_table(summary).to_string())
    show("noise at epoch 30, tests along directions", noise.normality_table(summary).to_string())
    every = alignment.alignment_along(nets[0], weights, data, layer=1, store=folder and folder / "alignment")
    columns = {"pearson_diagonal": "r, diagonal", "slope_diagonal": "slope", "size_ratio": "Tr CB / Tr H"}
    course = alignment.alignment_summary(every).sel(matrix="noise")
    show("noise against curvature", interval_table(course, columns, digits=3).to_string())
    shared = {"steps": [epoch * (data.samples // 50) for epoch in (1, 5, 15)], "learning_rate": 0.1}
    along = [partial(dynamics.flatness_along, net, data) for net in nets]
    descent = [found(f"descent_{k}", along[k], rng=k, **shared) for k in seeds]
    sgd = [found(f"sgd_{k}", along[k], rng=k, batch_size=50, **shared) for k in seeds]
    gain = comparison.flatness_gain(sgd, descent)
    show("gain in ln F, SGD over gradient descent", with_interval(gain, "gain"))
    gain = comparison.flatness_gain(sgd, descent, name="flatness_rescaled")
    show("the same with norms divided out", with_interval(gain, "gain"))


if __name__ == "__main__":
    raise SystemExit(main())
