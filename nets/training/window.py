"""Windows of weights along training, and where the exploration phase begins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from fpsolve.results import dataset, quantity
from nets.checks import check_whole
from nets.layers import checked_layer
from nets.training.run import Run, Runs, check_trained, finished, run_attributes
from nets.training.side_by_side import trained

#: Bytes of recorded weights; putting the epochs together needs twice this for a moment.
LARGEST_WINDOW = 4 << 30


def record(
    run: Runs, *, layer: int, epochs: int, every: int = 1, threads: int | None = 1, progress: bool = False
) -> xr.Dataset:
    """Go on with a run and record the weights of one layer, without its biases, after each minibatch.

    A ValueError is raised if the layer does not exist, a number makes no sense, or a run has diverged; a
    training that diverges now raises Diverged with the step. A UserWarning says that the window starts before
    the exploration phase, see :func:`exploration_start`. Source: Feng, Tu, PNAS 118, e2015617118 (2021),
    Methods (window T = 10 epochs, a row for each minibatch).

    Parameters
    ----------
    run : Run, or sequence of Run
        Not changed: recording twice gives the same window. Several runs (of
        :func:`nets.training.train.replicas`) go on side by side.
    layer : int
        Which weights, see :func:`nets.layers.weight_layers`; 1 is the hidden layer of 784-50-50-10.
    epochs : int
        Length of the window; the paper's has 10.
    every : int
        Keep the states after steps whose number is a multiple of this.
    threads, progress
        As in :class:`nets.Recipe` and :func:`nets.sgd`.

    Returns
    -------
    Dataset
        ``weights`` (step, weight): flattened, after minibatch ``step``, counted from the start of training.
        ``minibatch_loss`` (step): L^μ of that minibatch at the weights before it. Coordinate ``epoch``
        (step). ``attrs``: recipe, data, ``steps_per_epoch``, ``biases`` ("none", or "left out":
        they move, and the window does not hold them), and the loss over all training rows at both
        ends, ``loss_start`` and ``loss_end``. With several runs a leading dim ``replica``, with coordinates
        ``learning_rate``, ``seed``, ``loss_start``, ``loss_end`` and ``start_sha256`` along it.
    """
    return _recorded(run, layer, epochs, every, threads, progress)[0]


def record_and_continue(
    run: Runs, *, layer: int, epochs: int, every: int = 1, threads: int | None = 1, progress: bool = False
) -> tuple[xr.Dataset, Runs]:
    """The window of :func:`record`, and the run at the window's end, from which the next window starts.

    Parameters
    ----------
    run, layer, epochs, every, threads, progress
        As in :func:`record`.

    Returns
    -------
    Dataset and Run, or Dataset and list of Run
    """
    return _recorded(run, layer, epochs, every, threads, progress)


@dataclass
class _Recorder:
    """Weights of one parameter after every ``every``-th step, and all minibatch losses, epoch by epoch."""

    parameter: int
    every: int
    steps: list[int] = field(default_factory=list)
    fresh: list[torch.Tensor] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)

    def after_step(self, step: int, parameters: list[torch.Tensor]) -> None:
        if step % self.every == 0:
            self.steps.append(step)
            self.fresh.append(parameters[self.parameter].clone())

    def after_epoch(self, runs: list[Run], losses: np.ndarray) -> None:
        self.losses.append(losses)
        if self.fresh:
            kept = torch.stack(self.fresh).reshape(len(self.fresh), len(losses), -1)
            self.weights.append(kept.transpose(0, 1).cpu().numpy())
        self.fresh = []


def _recorded(
    run: Runs, layer: int, epochs: int, every: int, threads: int | None, progress: bool
) -> tuple[xr.Dataset, Runs]:
    """The window and the run, or runs, at its end."""
    runs = [run] if isinstance(run, Run) else run
    for one in runs:
        checked_layer(one.net, layer)
        check_trained(one)
    check_whole("epochs", epochs)
    first = runs[0]
    steps, weight = epochs * first.steps_per_epoch, checked_layer(first.net, layer).weight
    check_whole("every", every, steps, "the steps of the window")
    kept, weights = steps // every, weight.numel()
    size = kept * weights * len(runs) * first.recipe.torch_dtype.itemsize
    if size > LARGEST_WINDOW:
        raise ValueError(
            f"a window of {kept} steps × {weights} weights takes {size / 2**30:.1f} GiB, more than "
            f"{LARGEST_WINDOW / 2**30:.0f}; use every={-(-size * every // LARGEST_WINDOW)} or fewer epochs"
        )
    for one in runs:
        try:
            exploration_start(one)
        except ValueError as error:
            warnings.warn(f"the window starts in the first, fast phase of learning: {error}", stacklevel=3)
            break
    recorder = _Recorder(next(i for i, p in enumerate(first.net.parameters()) if p is weight), every)
    later = trained(
        runs, epochs, threads=threads, progress=progress, after_step=recorder.after_step,
        after_epoch=recorder.after_epoch,
    )  # fmt: skip
    later = [finished(r) for r in later]
    window = _window(runs, later, recorder).assign_attrs(
        layer=int(layer),
        layer_shape="×".join(map(str, weight.shape)),
        every=int(every),
        biases="none" if checked_layer(first.net, layer).bias is None else "left out",
    )
    return (window.isel(replica=0, drop=True), later[0]) if isinstance(run, Run) else (window, later)


def _window(runs: Sequence[Run], later: Sequence[Run], recorder: _Recorder) -> xr.Dataset:
    """The Dataset of what was recorded, dims replica, step, weight."""
    first, step = runs[0], np.array(recorder.steps, dtype=np.int64)
    weights = np.concatenate(recorder.weights, axis=1)
    losses = np.concatenate(recorder.losses, axis=1)[:, step - first.step - 1]
    own: dict[str, list[str] | list[float]] = {
        "learning_rate": [r.recipe.learning_rate for r in runs],
        "seed": [r.seed for r in runs],
        "start_sha256": [r.start for r in runs],
        "loss_start": [r.loss for r in runs],
        "loss_end": [r.loss for r in later],
    }
    window = dataset(
        {
            "weights": quantity(weights, ("replica", "step", "weight"), "weights of one layer"),
            "minibatch_loss": quantity(losses, ("replica", "step"), "loss of the minibatch before its step"),
        },
        title="weights of one layer along training",
        coords={
            "step": quantity(step, "step", "minibatches done"),
            "epoch": quantity(step / first.steps_per_epoch, "step", "epochs done"),
        },
        **{key: value for key, value in run_attributes(first).items() if key not in own},
        epoch_start=first.epoch, epoch_end=later[0].epoch,
    )  # fmt: skip
    if len(runs) == 1:
        return window.assign_attrs({key: values[0] for key, values in own.items()})
    return window.assign_coords({key: ("replica", values) for key, values in own.items()})


def exploration_start(run: Run, *, error: float = 0.001, slowing: float = 0.2) -> int:
    """The first epoch of the exploration phase, by the training error and the slowing of the loss.

    The paper describes two phases: in the first, training error and loss fall fast; in the second the error
    is almost 0 and the loss still falls, but much slower. Here the second starts at the first epoch (i) at
    which the training error is at most ``error``, and (ii) before which ln L, averaged over three epochs,
    fell by at most ``slowing`` times the fastest such fall until then. A ValueError is raised if the run has
    not come so far; the message says where it stands. Source: Feng, Tu, PNAS 118, e2015617118 (2021), second
    section: the two phases, without a criterion.

    Parameters
    ----------
    error : float
        Largest training error, 1 − accuracy. Where a net cannot fit its data, give a larger one.
    slowing : float
        In (0, 1).

    Returns
    -------
    int
        An epoch of ``run.history``.
    """
    epochs, error_there = run.history.epoch.to_numpy(), 1 - run.history.accuracy.to_numpy()
    log_loss = np.log(np.maximum(run.history.loss.to_numpy(), np.finfo(float).tiny))
    falls = (log_loss[:-3] - log_loss[3:]) / 3  # per epoch, ending at epoch 3, 4, …
    reached = (error_there[3:] <= error) & (falls <= slowing * np.maximum.accumulate(falls))
    if reached.any():
        return int(epochs[3 + reached.argmax()])
    now = f"training error {error_there[-1]:.2%}"
    if len(falls):
        now += f", ln L falling by {falls[-1]:.2g} an epoch, {falls[-1] / falls.max():.0%} of the fastest"
    raise ValueError(
        f"after {run.epoch} epochs the run is not in the exploration phase ({now}; wanted: {error:.2%} "
        f"and {slowing:.0%}); train longer"
    )
