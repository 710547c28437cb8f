"""Training that can be replayed, continued to the bit and resumed after a kill, for one net or many."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import overload

import torch
from torch import nn

from fpsolve.symbols.counter_rng import Seed
from nets.data.datasets import Data
from nets.layers import description, weight_layers, weights_digest, with_parameters
from nets.training.batches import Sampling, seed_text
from nets.training.checkpoints import load, save
from nets.training.optimizers import OptimizerName, fresh_memory
from nets.training.recipe import Precision, Settings, check_epochs, checked_device, checked_settings
from nets.training.run import Diverged, Run, check_trained, finished
from nets.training.side_by_side import trained
from nets.training.step import AfterStep
from nets.training.window import exploration_start, record

__all__ = [
    "Diverged", "Run", "Settings", "continued", "exploration_start", "load", "record", "replicas", "save",
    "sgd",
]  # fmt: skip


def sgd(
    net: nn.Sequential,
    data: Data,
    *,
    learning_rate: float,
    batch_size: int | None = None,
    epochs: int,
    rng: Seed = None,
    optimizer: OptimizerName = "sgd",
    momentum: float | None = None,
    noise: float | None = None,
    sampling: Sampling = "without_replacement",
    stop_at_loss: float | None = None,
    divergence: float = 1e4,
    dtype: Precision = "float32",
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
        See :mod:`nets.training.optimizers`.
    momentum : float, optional
        For "momentum" only; default 0.9.
    noise : float
        D of the two noisy ones: of white noise, in units of loss; or the factor before the Gauss–Newton
        Hessian, where η/(2B) would be the strength of SGD's own noise (ICLR 2021).
    sampling : {"without_replacement", "with_replacement"}
        See :func:`nets.training.batches.minibatches`.
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
    (run,) = _train(
        [net], data, [learning_rate], [rng], batch_size=batch_size, epochs=epochs, optimizer=optimizer,
        momentum=momentum, noise=noise, sampling=sampling, stop_at_loss=stop_at_loss, divergence=divergence,
        dtype=dtype, device=device, threads=threads, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return finished(run)


def replicas(
    net: nn.Sequential | Sequence[nn.Sequential],
    data: Data,
    *,
    learning_rate: float | Sequence[float],
    batch_size: int | None = None,
    epochs: int,
    rng: Sequence[Seed],
    optimizer: OptimizerName = "sgd",
    momentum: float | None = None,
    noise: float | None = None,
    sampling: Sampling = "without_replacement",
    stop_at_loss: float | None = None,
    divergence: float = 1e4,
    dtype: Precision = "float32",
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    after_step: AfterStep | None = None,
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
        One for each replica: its length is the number of replicas. Replica i takes the minibatches that
        ``sgd(…, rng=rng[i])`` takes and has the same weights but for rounding, which training amplifies:
        after three epochs of digits they agree to 10⁻¹² in float64 and 5·10⁻⁶ in float32.
    stop_at_loss : float, optional
        Each replica stops by itself.
    optimizer, momentum, noise, sampling, divergence, dtype, device, threads, checkpoint, progress
        As in :func:`sgd`; the checkpoint is one file for all.
    after_step : callable, optional
        Called with the number of steps done and the list of parameters, which it must not change; each has
        a leading axis for the replicas that still train, if there are several. To follow what is too long
        to keep.

    Returns
    -------
    list of Run
        A replica that diverged says so in ``outcome`` and is as it was after the epoch before; the others
        go on.

    Raises
    ------
    ValueError
        If lengths differ or an argument makes no sense.
    """
    seeds = list(rng)
    if not seeds:
        raise ValueError("rng must hold one seed for each replica; it is empty")
    nets = [net] * len(seeds) if isinstance(net, nn.Sequential) else list(net)
    rates = [learning_rate] * len(seeds) if isinstance(learning_rate, int | float) else list(learning_rate)
    for word, values in (("net", nets), ("learning_rate", rates)):
        if len(values) != len(seeds):
            raise ValueError(
                f"{word} has {len(values)} entries and rng {len(seeds)} seeds: give one for each replica"
            )
    return _train(
        nets, data, rates, seeds, batch_size=batch_size, epochs=epochs, optimizer=optimizer,
        momentum=momentum, noise=noise, sampling=sampling, stop_at_loss=stop_at_loss, divergence=divergence,
        dtype=dtype, device=device, threads=threads, checkpoint=checkpoint, after_step=after_step,
        progress=progress,
    )  # fmt: skip


@overload
def continued(
    run: Run,
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> Run: ...
@overload
def continued(
    run: Sequence[Run], epochs: int, *, stop_at_loss: float | None = None, threads: int | None = 1,
    progress: bool = False,
) -> list[Run]: ...  # fmt: skip
def continued(
    run: Run | Sequence[Run],
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> Run | list[Run]:
    """The same run, or runs side by side, after further epochs, to the bit as if there had been no stop.

    Parameters
    ----------
    run : Run, or sequence of Run
        Not changed. Of several, those that had diverged stay as they are.
    epochs : int
        More epochs.
    stop_at_loss, threads, progress
        As in :func:`sgd`.

    Returns
    -------
    Run, or list of Run

    Raises
    ------
    ValueError
        If ``epochs`` is not positive, the run has diverged, or runs do not fit together.
    Diverged
        With the step, for a single run.
    """
    check_epochs(epochs)
    if not isinstance(run, Run):
        several = trained(run, epochs, stop_at_loss=stop_at_loss, threads=threads, progress=progress)
        _warn_if_not_reached(several, stop_at_loss)
        return several
    check_trained(run)
    later = trained([run], epochs, stop_at_loss=stop_at_loss, threads=threads, progress=progress)
    _warn_if_not_reached(later, stop_at_loss)
    return finished(later[0])


def _train(
    nets: Sequence[nn.Sequential],
    data: Data,
    rates: Sequence[float],
    rngs: Sequence[Seed],
    *,
    batch_size: int | None,
    epochs: int,
    optimizer: OptimizerName,
    momentum: float | None,
    noise: float | None,
    sampling: Sampling,
    stop_at_loss: float | None,
    divergence: float,
    dtype: Precision,
    device: str | torch.device,
    threads: int | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: bool,
    after_step: AfterStep | None = None,
) -> list[Run]:
    """Check everything, start or resume, train."""
    check_epochs(epochs)
    moved = data.to(checked_device(device))
    for net in {id(net): net for net in nets}.values():
        _check_fits(net, data)
    runs = [
        _start(net, moved, checked_settings(
            data.samples, learning_rate=rate, batch_size=batch_size, optimizer=optimizer, momentum=momentum,
            noise=noise, sampling=sampling, seed=seed_text(rng), dtype=dtype, divergence=divergence,
        ))
        for net, rate, rng in zip(nets, rates, rngs, strict=True)
    ]  # fmt: skip
    after_epoch: Callable[[list[Run]], None] | None = None
    if checkpoint is not None:
        path = Path(checkpoint)
        if path.exists():
            runs = _resumed(path, runs, fresh=[rng is None for rng in rngs])
        else:
            save(runs, path)  # a place that cannot be written is found now

        def after_epoch(these: list[Run]) -> None:
            save(these, path)

    done = max(run.epoch for run in runs)
    if done > epochs:
        raise ValueError(
            f"epochs={epochs}, but {checkpoint} already holds {done}; ask for more, or remove it"
        )
    if done < epochs:
        runs = trained(
            runs,
            epochs - done,
            stop_at_loss=stop_at_loss,
            threads=threads,
            progress=progress,
            after_epoch=after_epoch,
            after_step=after_step,
        )
    _warn_if_not_reached(runs, stop_at_loss)
    return runs


def _resumed(path: Path, asked: Sequence[Run], fresh: Sequence[bool]) -> list[Run]:
    """The runs of a checkpoint, if they are those that are asked for."""
    held = load(path, net=asked[0].net, data=asked[0].data)
    if len(held) != len(asked):
        raise ValueError(f"{path} holds {len(held)} runs, not {len(asked)}; name another checkpoint")
    for there, here, any_seed in zip(held, asked, fresh, strict=True):
        kept, wanted = asdict(there.settings), asdict(here.settings)
        kept["initial weights"], wanted["initial weights"] = there.start, here.start
        for key, value in wanted.items():
            if kept[key] != value and not (key == "seed" and any_seed):
                raise ValueError(
                    f"{path} holds a run with {key} {kept[key]}, not {value}; name another checkpoint, or "
                    "remove this one to start anew"
                )
    return held


def _warn_if_not_reached(runs: Sequence[Run], stop_at_loss: float | None) -> None:
    above = [
        r.loss for r in runs if stop_at_loss is not None and r.outcome == "trained" and r.loss > stop_at_loss
    ]
    if above:
        warnings.warn(
            f"stop_at_loss={stop_at_loss:g} was not reached: {len(above)} of {len(runs)} runs end at up to "
            f"{max(above):.3g}; train longer",
            stacklevel=4,
        )


def _start(net: nn.Sequential, data: Data, settings: Settings) -> Run:
    """A run of no epochs."""
    device, dtype = data.train_inputs.device, settings.torch_dtype
    own = with_parameters(net, (p.detach().to(device, dtype, copy=True) for p in net.parameters()))
    memory = fresh_memory(settings.rule, list(own.parameters()))
    return Run(own, data, settings, weights_digest(own), 0, 0, memory)


def _check_fits(net: nn.Sequential, data: Data) -> None:
    """Raise unless the net takes these inputs and has an output for each class."""
    weight_layers(net)
    first = next(net.parameters())
    try:
        with torch.no_grad():
            logits = net(data.train_inputs[:1].to(first.device, first.dtype))
    except RuntimeError as error:
        raise ValueError(
            f"net {description(net)} does not take inputs of shape {data.input_shape}: {error}"
        ) from error
    if logits.shape[-1] < len(data.classes):
        raise ValueError(
            f"net {description(net)} has {logits.shape[-1]} outputs for {len(data.classes)} classes"
        )
