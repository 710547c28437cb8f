"""Learning a second task without forgetting the first: many penalties side by side after one first task.

The protocol of PNAS, Methods: a net is trained on all classes; its first and last layers stay fixed, the
hidden layer is drawn anew (``layer=1``), trained on the classes of task 1, watched over a window for its
principal directions, and then trained on the classes of task 2 with a penalty. With ``layer=None`` all
layers start from random weights and all take part. The net has one output for each class of the data set in
both tasks, and an error is a largest output that is not the label.

References: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Eq. 14 and Fig. 4; elastic weight constraints:
Kirkpatrick et al., PNAS 114, 3521 (2017).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from fpsolve import sweep
from fpsolve.results import provenance, quantity
from nets.data import datasets
from nets.training.batches import seed_text
from nets.training.step import torch_threads
from notebooks.studies.forgetting.penalties import Constraint, ImplicitStep
from notebooks.studies.forgetting.solution import FirstTask, first_task
from notebooks.studies.forgetting.tasks import Tasks, descend, errors, views

#: Errors are measured before training, at its end and at so many steps between, at equal ratios.
CHECKPOINTS = 12


def second_task(
    first: FirstTask, constraints: Sequence[Constraint], *, rng: int | np.random.SeedSequence = 0,
    progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Test errors of both tasks while the second is learned under each constraint, on the same minibatches.

    Each step is w ← w − α ∇L₂ on a minibatch and then the implicit step of the penalty
    (``penalties.ImplicitStep``). All constraints go side by side; ``first`` is not changed; ``rng`` is of the
    minibatches. No constraint, or one that asks for more directions than there are, is a ValueError.

    Returned over ``constraint`` (with ``penalty``, ``strength``, ``count``), ``checkpoint`` (with ``step``)
    and ``mode``: ``error_first`` ε₁, ``error_second`` ε₂, ``displacement`` q_i at the end, ``variance``,
    ``width``; of task 1 ``error_before``, ``loss_before``, and the number of ``weights``.
    """
    if not constraints:
        raise ValueError("constraints is empty")
    tasks, weights = first.tasks, first.weights.repeat(len(constraints), 1)
    implicit = ImplicitStep(
        [c.penalty(first) for c in constraints], anchor=first.weights, learning_rate=tasks.learning_rate
    )
    parameters = views(first.net, weights)
    steps = len(first.second.labels) // tasks.batch_size * tasks.second_epochs
    checkpoints = sorted({0, *np.round(np.geomspace(1, steps, CHECKPOINTS + 1)).astype(int).tolist()})
    measured, both = [], (first.first, first.second)
    path = descend(
        first.net, weights, first.second, tasks, epochs=tasks.second_epochs, seed=seed_text(rng),
        progress=progress,
    )  # fmt: skip
    with torch_threads(1), torch.no_grad():
        for step in chain([0], path):
            if step:
                implicit(weights)
            if step in checkpoints:
                measured.append([errors(parameters, task.test_inputs, task.test_labels) for task in both])
        moved = ((weights - first.weights) @ first.directions.T).abs().cpu().numpy().astype(np.float32)
    one, two = np.stack(measured, axis=-1)
    by_step = ("constraint", "checkpoint")
    variables = {
        "error_first": quantity(one, by_step, "test error of task 1, ε₁"),
        "error_second": quantity(two, by_step, "test error of task 2, ε₂"),
        "displacement": quantity(moved, ("constraint", "mode"), "displacement q_i along p_i"),
        "variance": quantity(first.modes["variance"].to_numpy(), "mode", "variance σ_i²"),
        "width": quantity(first.modes["width"].to_numpy(), "mode", "flatness F_i"),
        "error_before": quantity(first.error, (), "test error of task 1 before task 2"),
        "weights": quantity(len(first.weights), (), "weights that learn"),
        "loss_before": quantity(first.loss, (), "training loss of task 1 before task 2"),
    }
    return _named(xr.Dataset(variables, attrs=_attributes(tasks)), constraints, np.array(checkpoints))


def scan(
    tasks: Tasks, constraints: Sequence[Constraint], *, trainings: int = 5, seed: int = 0,
    store: str | Path | None = None, progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Both tasks under every constraint, over independent trainings.

    Data files are found through the environment variable ``FPSOLVE_DATA``. Each of the ``trainings``, at
    least two, has its own initial weights, minibatches, principal directions and Fisher matrices. Finished
    trainings are kept in ``store``, see :func:`fpsolve.sweep`; run again to go on after a kill. Returned as
    by :func:`second_task`, over ``training``, with ``cpu_seconds`` and ``wall_seconds`` of each, the only
    numbers that the seed does not determine. Errors as there.
    """
    if trainings < 2:
        raise ValueError(f"trainings={trainings}: an interval needs at least 2")
    constraints = tuple(constraints)
    result = sweep(
        partial(_one_training, tasks=tasks, constraints=constraints),
        {"training": np.arange(trainings)}, seed=seed, store=store, progress=progress,
    )  # fmt: skip
    result.attrs |= _attributes(tasks) | {"seed": seed}
    return _named(result.drop_vars("step"), constraints, result["step"].isel(training=0).to_numpy())


def joined(result: xr.Dataset, *others: xr.Dataset) -> xr.Dataset:
    """Several scans of the same trainings as one, their constraints one after the other.

    Trainings depend on the seed and on the tasks, not on the constraints: more of these can be added later.
    What does not depend on the constraint is taken from the first; times add up. Where errors after task 1,
    or steps, differ, a ValueError.
    """

    def trained(one: xr.Dataset) -> list[xr.DataArray]:
        return [one["step"], one["error_before"], one["error_second"].isel(constraint=0, checkpoint=0)]

    for other in others:
        if not all(map(np.array_equal, trained(result), trained(other))):
            raise ValueError("these scans are not of the same trainings: their errors after task 1 differ")
    both = xr.concat(
        [result, *others], "constraint", data_vars="minimal", coords="minimal", compat="override",
        join="outer", combine_attrs="override",
    )  # fmt: skip
    clocks = {k: sum((r[k] for r in others), result[k]) for k in ("cpu_seconds", "wall_seconds")}
    return both.assign({k: v.assign_attrs(result[k].attrs) for k, v in clocks.items()})


def _one_training(training: int, *, tasks: Tasks, constraints: Sequence[Constraint], rng) -> dict:
    """One point of :func:`scan`."""
    cpu, wall = time.process_time(), time.perf_counter()
    after = first_task(datasets.load(tasks.data), tasks, rng=rng)
    own = np.random.SeedSequence(rng.entropy, spawn_key=(*rng.spawn_key, 4))
    result = second_task(after, constraints, rng=own)
    return {
        **result.data_vars,
        "step": ("checkpoint", result["step"].to_numpy()),
        "cpu_seconds": quantity(time.process_time() - cpu, (), "processor time", "s"),
        "wall_seconds": quantity(time.perf_counter() - wall, (), "time by the clock", "s"),
    }


def _named(result: xr.Dataset, constraints: Sequence[Constraint], step: np.ndarray) -> xr.Dataset:
    """The result with its coordinates."""
    return result.assign_coords(
        penalty=("constraint", [c.method for c in constraints], {"long_name": "penalty"}),
        strength=quantity([c.strength for c in constraints], "constraint", "strength λ"),
        count=quantity([c.count for c in constraints], "constraint", "constraints N_c, 0 for all"),
        mode=quantity(np.arange(1, result.sizes["mode"] + 1), "mode", "principal direction"),
        step=quantity(step, "checkpoint", "steps of task 2"),
    )


def _attributes(tasks: Tasks) -> dict[str, str | int | float]:
    values = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(tasks).items()}
    title = "errors of two tasks learned one after the other"
    return provenance(title, **values, torch_version=str(torch.__version__))
