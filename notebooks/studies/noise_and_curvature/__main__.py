"""``python -m notebooks.studies.noise_and_curvature``: noise, curvature and flatness of nets on digits."""

from __future__ import annotations

import argparse


def main() -> None:
    """Train, measure noise, alignment and the gain in flatness by SGD; print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.studies.noise_and_curvature", description=__doc__
    )
    parser.add_argument("--store", metavar="DIR", help="keep what is measured there; run again to go on")
    parser.add_argument("--trainings", type=int, default=3, help="at least 2 (default 3)")
    options = parser.parse_args()

    from functools import partial
    from pathlib import Path

    from fpsolve.results import with_interval
    from fpsolve.sweeps.store import kept
    from fpsolve.table import interval_table
    from nets import models
    from nets.data import datasets
    from nets.training.along import net_at, weights_along
    from notebooks.studies.noise_and_curvature import alignment, comparison, dynamics, noise

    data, epochs, seeds = datasets.load("digits"), (0, 3, 30, 100), range(options.trainings)
    nets = [models.fully_connected((64, 20, 20, 10), rng=seed) for seed in seeds]
    folder = None if options.store is None else Path(options.store)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def found(name, compute, **settings):
        asked = {"name": name, "nets": [models.weights_digest(net) for net in nets], "data": data.digest}
        return kept(folder and folder / f"{name}.nc", partial(compute, **settings), asked=asked | settings)

    weights = found(
        "weights", partial(weights_along, nets, data), epochs=epochs, learning_rate=0.1, batch_size=50,
        rng=tuple(seeds),
    )  # fmt: skip
    studies = [
        found(
            f"noise_{k}",
            partial(
                noise.noise_study, net_at(nets[0], weights, training=k, epoch=30), data.train_inputs,
                data.train_labels,
            ),
            layer=1, draws=400, repeats=3, batch_sizes=(1, 16, 256), rng=k,
        )
        for k in seeds
    ]  # fmt: skip
    summary = noise.noise_summary(studies)
    for table in (noise.law_table(summary), noise.normality_table(summary)):
        print("noise at epoch 30", table.to_string(), sep="\n", end="\n\n")
    every = alignment.alignment_along(nets[0], weights, data, layer=1, store=folder and folder / "alignment")
    columns = {"pearson_diagonal": "r, diagonal", "slope_diagonal": "slope", "size_ratio": "Tr CB / Tr H"}
    course = alignment.alignment_summary(every).sel(matrix="noise")
    print("noise against curvature", interval_table(course, columns, digits=3), sep="\n", end="\n\n")
    steps = [epoch * (data.samples // 50) for epoch in (1, 5, 15)]
    descent, sgd = (
        [
            found(
                f"{name}_{k}", partial(dynamics.flatness_along, nets[k], data), steps=steps,
                learning_rate=0.1, rng=k, **size,
            )
            for k in seeds
        ]
        for name, size in (("descent", {}), ("sgd", {"batch_size": 50}))
    )  # fmt: skip
    for words, gain in (
        ("F", comparison.flatness_gain(sgd, descent)),
        ("F with norms divided out", comparison.flatness_gain(sgd, descent, name="flatness_rescaled")),
    ):
        print(f"gain in ln of {words}, SGD over gradient descent: {with_interval(gain, 'gain')}")


if __name__ == "__main__":
    main()
