"""Training that can be replayed, continued to the bit and recorded step by step, alone or side by side."""

from __future__ import annotations

import copy
import difflib
import math
import os
import warnings
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import torch
import xarray as xr
from torch import nn

from fpsolve.counter_rng import Seed
from nets.datasets import Data
from nets.models import checked_layer, description, weight_layers
from nets.optimizers import OPTIMIZERS, Optimizer, fresh_memory
from nets.runs import Diverged, Run, Settings, run_attributes
from nets.sampling import Sampling, seed_text
from nets.side_by_side import Recorder, trained

__all__ = [
    "Diverged", "Run", "Settings", "continued", "exploration_start", "record", "replicas", "sgd",
]  # fmt: skip


def sgd(
    net: nn.Sequential,
    data: Data,
    *,
    learning_rate: float,
    batch_size: int | None = None,
    epochs: int,
    rng: Seed = None,
    optimizer: Optimizer = "sgd",
    momentum: float | None = None,
    noise: float | None = None,
    sampling: Sampling = "without_replacement",
    stop_at_loss: float | None = None,
    divergence: float = 1e4,
    dtype: Literal["float32", "float64"] = "float32",
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Run:
    """Train a net on the cross-entropy of minibatches: w ← w − α ∂L^μ/∂w, or another optimiser's rule.

    L^μ is the mean over minibatch μ of −ln softmax(logits)[label]. The minibatches of an epoch are a function
    of the seed and the epoch's number alone, so a run that is continued, resumed or recorded goes the same
    way, to the bit, as one that never stopped (same machine, same torch, same ``threads``).

    Parameters
    ----------
    net : nn.Sequential
        Where training starts; not changed. See :mod:`nets.models`.
    data : Data
    learning_rate : float
        α, called η in the theory; one step lasts α in its time.
    batch_size : int
        B. An epoch has ⌊M/B⌋ minibatches. Left out for the ``gd`` optimisers, which use all samples.
    epochs : int
        Epochs to train; for the ``gd`` optimisers an epoch is one step.
    rng : int, SeedSequence, Generator or str, optional
        Seed of minibatches and noise. A string is the ``seed`` of an earlier run. The initial weights have
        a seed of their own, in :mod:`nets.models`.
    optimizer : {"sgd", "momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise"}
        See :mod:`nets.optimizers`.
    momentum : float, optional
        For "momentum" only; default 0.9.
    noise : float
        D of the two noisy ones: of white noise, in units of loss; or the factor before the Gauss–Newton
        Hessian, where η/(2B) would be the strength of SGD's own noise (ICLR 2021).
    sampling : {"without_replacement", "with_replacement"}
        See :func:`nets.sampling.minibatches`.
    stop_at_loss : float, optional
        Stop after the first epoch whose training loss is not above this, to compare runs at equal loss.
        A warning says if it is not reached in ``epochs`` epochs.
    divergence : float
        A minibatch loss not below this has diverged.
    dtype : {"float32", "float64"}
    device : str or torch.device
        "cuda" trains there; on a GPU the last bits may change from run to run.
    threads : int or None
        Threads torch may use; None leaves its setting. Other numbers may give other last bits.
    checkpoint : path, optional
        File that holds the run after each epoch (safetensors, written whole or not at all). If it exists, the
        run resumes from it and ends as if it had never stopped.
    progress : bool

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If an argument makes no sense; before any step.
    Diverged
        With the step.

    Warns
    -----
    UserWarning
        If ``stop_at_loss`` is not reached.

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), Eqs. 1–3 and Methods.
    """
    settings = _checked_settings(
        data,
        learning_rate,
        batch_size,
        optimizer,
        momentum,
        noise,
        sampling,
        divergence,
        dtype,
        seed_text(rng),
    )
    _check_epochs(epochs)
    start = _start(net, data.to(device), settings)
    (run,) = trained([start], epochs, stop_at_loss=stop_at_loss, threads=threads, progress=progress)
    return _not_diverged(run)


def replicas(
    net: nn.Sequential | Sequence[nn.Sequential],
    data: Data,
    *,
    learning_rate: float | Sequence[float],
    batch_size: int | None = None,
    epochs: int,
    rng: Sequence[Seed],
    optimizer: Optimizer = "sgd",
    momentum: float | None = None,
    noise: float | None = None,
    sampling: Sampling = "without_replacement",
    divergence: float = 1e4,
    dtype: Literal["float32", "float64"] = "float32",
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    progress: bool = False,
) -> list[Run]:
    """Train nets of one shape side by side, in one batch of matrix products where they are fully connected.

    Parameters
    ----------
    net : nn.Sequential, or one for each replica
    data : Data
    learning_rate : float, or one for each replica
    batch_size, epochs
        As in :func:`sgd`.
    rng : sequence of seeds
        One for each replica: its length is the number of replicas. Replica i follows the minibatches that
        ``sgd(…, rng=rng[i])`` follows, and the same weights but for rounding.
    optimizer, momentum, noise, sampling, divergence, dtype, device, threads, progress
        As in :func:`sgd`.

    Returns
    -------
    list of Run
        A replica that diverged has ``diverged_step`` ≥ 0 and stays as it was after the epoch before; the
        others go on.

    Raises
    ------
    ValueError
        If lengths differ or an argument makes no sense.
    """
    seeds = [seed_text(seed) for seed in rng]
    count = len(seeds)
    if count == 0:
        raise ValueError("rng must hold one seed for each replica; it is empty")
    nets = [net] * count if isinstance(net, nn.Sequential) else list(net)
    rates = [learning_rate] * count if isinstance(learning_rate, int | float) else list(learning_rate)
    for word, values in (("net", nets), ("learning_rate", rates)):
        if len(values) != count:
            raise ValueError(
                f"{word} holds {len(values)} entries, rng holds {count} seeds: one for each replica"
            )
    if len({description(n) for n in nets}) > 1:
        raise ValueError(
            f"replicas must have one shape, not {', '.join(sorted({description(n) for n in nets}))}"
        )
    _check_epochs(epochs)
    moved = data.to(device)
    starts = [
        _start(
            own, moved,
            _checked_settings(
                data, rate, batch_size, optimizer, momentum, noise, sampling, divergence, dtype, seed
            ),
        )
        for own, rate, seed in zip(nets, rates, seeds, strict=True)
    ]  # fmt: skip
    return trained(starts, epochs, threads=threads, progress=progress)


def continued(
    run: Run,
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> Run:
    """The same run after further epochs, to the bit as if it had not stopped.

    Parameters
    ----------
    run : Run
        Not changed.
    epochs : int
        More epochs.
    stop_at_loss, threads, progress
        As in :func:`sgd`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If ``epochs`` is not positive or the run has diverged.
    Diverged
        With the step.
    """
    _check_epochs(epochs)
    _check_alive(run)
    (later,) = trained([run], epochs, stop_at_loss=stop_at_loss, threads=threads, progress=progress)
    return _not_diverged(later)


@overload
def record(
    run: Run, *, layer: int, epochs: int, every: int = 1, return_run: Literal[False] = False,
    threads: int | None = 1, progress: bool = False,
) -> xr.Dataset: ...  # fmt: skip
@overload
def record(
    run: Run, *, layer: int, epochs: int, every: int = 1, return_run: Literal[True],
    threads: int | None = 1, progress: bool = False,
) -> tuple[xr.Dataset, Run]: ...  # fmt: skip
def record(
    run: Run,
    *,
    layer: int,
    epochs: int,
    every: int = 1,
    return_run: bool = False,
    threads: int | None = 1,
    progress: bool = False,
) -> xr.Dataset | tuple[xr.Dataset, Run]:
    """Go on with a run and record the weights of one layer after each minibatch.

    Parameters
    ----------
    run : Run
        Not changed: recording twice gives the same window.
    layer : int
        Which weights, see :func:`nets.models.weight_layers`; 1 is the hidden layer of 784-50-50-10.
    epochs : int
        Length of the window; the paper's has 10.
    every : int
        Keep one state in so many.
    return_run : bool
        Also return the run at the window's end, from which the next window starts.
    threads, progress
        As in :func:`sgd`.

    Returns
    -------
    Dataset
        ``weights`` (step, weight): flattened, after minibatch ``step``, counted from the start of training.
        ``minibatch_loss`` (step): L^μ of that minibatch at the weights before it. Coordinate ``epoch``
        (step). ``attrs``: settings, data, ``steps_per_epoch``, and the loss over all training rows at both
        ends, ``loss_start`` and ``loss_end``.
    Run
        With ``return_run``.

    Raises
    ------
    ValueError
        If the layer does not exist, a number makes no sense, or the run has diverged.
    Diverged
        With the step.

    Warns
    -----
    UserWarning
        If the window starts before the exploration phase (see :func:`exploration_start`).

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), Methods (window T = 10 epochs, a row for each minibatch).
    """
    checked_layer(run.net, layer)
    _check_epochs(epochs)
    _check_alive(run)
    if every < 1 or every > epochs * run.steps_per_epoch:
        raise ValueError(
            f"every={every} must lie between 1 and the window's {epochs * run.steps_per_epoch} steps"
        )
    try:
        exploration_start(run)
    except ValueError as error:
        warnings.warn(f"the window starts in the first, fast phase of learning: {error}", stacklevel=2)
    recorder = Recorder(layer, every)
    (later,) = trained([run], epochs, threads=threads, progress=progress, recorder=recorder)
    later = _not_diverged(later)
    dataset = _window(run, later, recorder)
    return (dataset, later) if return_run else dataset


def exploration_start(run: Run, *, error: float = 0.01, slowing: float = 0.2) -> int:
    """The first epoch of the exploration phase, by the training error and the slowing of the loss.

    The paper describes two phases: in the first, training error and loss fall fast; in the second the
    error is almost 0 and the loss still falls, but much slower. Here the second starts at the first epoch
    (i) at which the training error is at most ``error``, and (ii) before which ln L, averaged over three
    epochs, fell by at most ``slowing`` times the fastest such fall until then.

    Parameters
    ----------
    run : Run
    error : float
        Largest training error, 1 − accuracy.
    slowing : float
        In (0, 1).

    Returns
    -------
    int
        An epoch of ``run.history``.

    Raises
    ------
    ValueError
        If the run has not come so far; the message says where it stands.

    References
    ----------
    Feng, Tu, PNAS 118, e2015617118 (2021), second section: the two phases, without a criterion.
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


def _window(run: Run, later: Run, recorder: Recorder) -> xr.Dataset:
    """The Dataset of recorded weights."""
    module = checked_layer(run.net, recorder.layer)
    step = np.concatenate(recorder.steps)
    weights = np.concatenate(recorder.weights, axis=1)[0]
    losses = np.concatenate(recorder.losses, axis=1)[0]
    return xr.Dataset(
        {
            "weights": (("step", "weight"), weights, {"long_name": "weights of one layer", "units": "1"}),
            "minibatch_loss": (
                "step", losses[step - run.step - 1],
                {"long_name": "loss of the minibatch before its step", "units": "1"},
            ),
        },
        {
            "step": ("step", step, {"long_name": "minibatches done", "units": "1"}),
            "epoch": ("step", step / run.steps_per_epoch, {"long_name": "epochs done", "units": "1"}),
        },
        {
            "title": "weights of one layer along training",
            **run_attributes(run),
            "layer": recorder.layer,
            "layer_shape": "×".join(map(str, module.weight.shape)),
            "layers": len(weight_layers(run.net)),
            "every": recorder.every,
            "epoch_start": run.epoch,
            "epoch_end": later.epoch,
            "loss_start": run.loss,
            "loss_end": later.loss,
        },
    )  # fmt: skip


def _start(net: nn.Sequential, data: Data, settings: Settings) -> Run:
    """A run of no epochs."""
    weight_layers(net)
    dtype = getattr(torch, settings.dtype)
    own = copy.deepcopy(net).to(data.train_inputs.device, dtype).requires_grad_(False)
    try:
        logits = own(data.train_inputs[:1].to(dtype))
    except RuntimeError as error:
        raise ValueError(
            f"net {description(net)} does not take inputs of shape {data.input_shape}: {error}"
        ) from error
    if logits.shape[-1] < len(data.classes):
        raise ValueError(
            f"net {description(net)} has {logits.shape[-1]} outputs for {len(data.classes)} classes"
        )
    memory = fresh_memory(settings.optimizer, list(own.parameters()))
    return Run(own, data, settings, xr.Dataset(), 0, 0, memory)


def _checked_settings(
    data: Data,
    learning_rate: float,
    batch_size: int | None,
    optimizer: Optimizer,
    momentum: float | None,
    noise: float | None,
    sampling: Sampling,
    divergence: float,
    dtype: str,
    seed: str,
) -> Settings:
    """Settings that make sense, or an error that says which does not."""
    if optimizer not in OPTIMIZERS:
        close = difflib.get_close_matches(str(optimizer), OPTIMIZERS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown optimizer {optimizer!r}: {hint}known are {', '.join(OPTIMIZERS)}")
    if not math.isfinite(learning_rate) or learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate:g} must be positive and finite")
    full = optimizer.startswith("gd")
    if full:
        if batch_size not in (None, data.samples):
            raise ValueError(
                f"batch_size={batch_size}: {optimizer!r} uses all {data.samples} samples; leave it out"
            )
        batch_size = data.samples
    if batch_size is None or isinstance(batch_size, bool) or not 1 <= batch_size <= data.samples:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and the {data.samples} training rows")
    if momentum is not None and (optimizer != "momentum" or not 0 <= momentum < 1):
        raise ValueError(f"momentum={momentum:g} is for optimizer='momentum' and lies in [0, 1)")
    noisy = optimizer.endswith("noise")
    if noisy != (noise is not None):
        raise ValueError(f"noise={noise}: optimizer={optimizer!r} needs {'it' if noisy else 'none'}")
    if noise is not None and not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise={noise:g} must be finite and not negative")
    if sampling not in ("without_replacement", "with_replacement"):
        raise ValueError(f"sampling={sampling!r} must be 'without_replacement' or 'with_replacement'")
    if not divergence > 0:
        raise ValueError(f"divergence={divergence:g} must be positive")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={dtype!r} must be 'float32' or 'float64'")
    heavy = 0.0 if optimizer != "momentum" else 0.9 if momentum is None else float(momentum)
    return Settings(
        float(learning_rate), int(batch_size), optimizer, heavy, float(noise or 0.0), sampling, seed, dtype,
        float(divergence),
    )  # fmt: skip


def _check_epochs(epochs: int) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int | np.integer) or epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be a positive whole number")


def _check_alive(run: Run) -> None:
    if run.diverged_step >= 0:
        raise ValueError(f"this replica diverged at step {run.diverged_step}; lower the learning rate")


def _not_diverged(run: Run) -> Run:
    """The run, or the error that it has diverged."""
    if run.diverged_step < 0:
        return run
    s = run.settings
    raise Diverged(
        f"training diverged at step {run.diverged_step} (epoch {run.epoch + 1}): learning_rate="
        f"{s.learning_rate:g} with {s.optimizer!r} and batch_size={s.batch_size}; lower the learning rate",
        step=run.diverged_step,
        epoch=run.epoch,
    )
