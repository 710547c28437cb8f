"""Training that can be replayed, continued to the bit and resumed after a kill, for one net or many."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from fpsolve.symbols.counter_rng import Seed
from nets.checks import check_whole
from nets.data.datasets import Data
from nets.layers import altered, description, net_digest, weight_layers, with_parameters
from nets.outputs import ALONE, check_block, checked_outputs, said, warn_of_probabilities
from nets.training.batches import seed_text
from nets.training.checkpoints import load, save
from nets.training.networks import dense_biases
from nets.training.recipe import Options, Recipe, changed, checked_device
from nets.training.run import Run, Runs, check_trained, finished
from nets.training.side_by_side import trained
from nets.training.step import BLOCK, CONVOLUTIONAL_BLOCK, AfterStep


def sgd(
    net: nn.Sequential,
    data: Data,
    recipe: Recipe | None = None,
    *,
    rng: Seed = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> Run:
    """Train a net on the cross-entropy of minibatches: w ← w − α ∂L^μ/∂w, or another optimiser's rule.

    L^μ is the mean over minibatch μ of −ln softmax(logits)[label]. The minibatches of an epoch are a function
    of the seed and the epoch's number alone, so a run that is continued, resumed or recorded goes the same
    way, to the bit, as one that never stopped (same machine, same torch, same ``threads``). Before any step a
    ValueError is raised if an argument makes no sense. A training that diverges raises Diverged with the
    step. A UserWarning says that ``stop_at_loss`` is not reached. Source: Feng, Tu, PNAS 118, e2015617118
    (2021), Eqs. 1–3 and Methods.

    Parameters
    ----------
    net : nn.Sequential
        Where training starts; not changed. See :mod:`nets.models`.
    recipe : Recipe, optional
        Learning rate, batch size, epochs, optimiser and all else, see :class:`nets.Recipe`.
    rng : int, SeedSequence, Generator or str, optional
        Seed of minibatches and noise. A string is the ``seed`` of an earlier run. The initial weights have
        a seed of their own, in :mod:`nets.models`.
    checkpoint : path, optional
        File that holds the run after each epoch (safetensors, written whole or not at all). If it exists, the
        run resumes from it and ends as if it had never stopped.
    **options
        Fields of a recipe, as keywords: ``learning_rate=0.1, epochs=10``; they replace those of ``recipe``.
        ``optimizer`` may be a name as well: "sgd", "momentum", "adam", "gd", "gd_isotropic_noise" or
        "gd_flatness_noise", with ``momentum`` (by default 0.9) for the second and ``noise`` for the last two.

    Returns
    -------
    Run
    """
    (run,) = _train([net], data, [changed(recipe, options)], [rng], checkpoint, progress)
    return finished(run)


def replicas(
    net: nn.Sequential | Sequence[nn.Sequential],
    data: Data,
    recipe: Recipe | None = None,
    *,
    rng: Sequence[Seed],
    checkpoint: str | os.PathLike[str] | None = None,
    after_step: AfterStep | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> list[Run]:
    """Train nets of one shape side by side, in one batch of matrix products where they are fully connected.

    A ValueError is raised if lengths differ or an argument makes no sense.

    Parameters
    ----------
    net : nn.Sequential, or one for each replica
    recipe : Recipe, optional
        As in :func:`sgd`; with ``stop_at_loss`` each replica stops by itself.
    rng : sequence of seeds
        One for each replica: its length is the number of replicas. Replica i takes the minibatches that
        ``sgd(…, rng=rng[i])`` takes and has the same weights but for rounding, which training amplifies:
        after three epochs of digits they agree to 10⁻¹² in float64 and 5·10⁻⁶ in float32.
    checkpoint : path, optional
        As in :func:`sgd`; one file for all.
    after_step : callable, optional
        Called with the number of steps done and the list of parameters, which it must not change; each has
        a leading axis for the replicas that still train, if there are several. To follow what is too long
        to keep.
    **options
        As in :func:`sgd`; ``learning_rate`` may be one for each replica.

    Returns
    -------
    list of Run
        A replica that diverged says so in ``outcome`` and is as it was after the epoch before; the others
        go on.
    """
    seeds = list(rng)
    if not seeds:
        raise ValueError("rng must hold one seed for each replica; it is empty")
    nets = [net] * len(seeds) if isinstance(net, nn.Sequential) else list(net)
    rates: Any = options.get("learning_rate", recipe and recipe.learning_rate)
    rates = [rates] * len(seeds) if np.ndim(rates) == 0 else list(rates)
    for word, values in (("net", nets), ("learning_rate", rates)):
        if len(values) != len(seeds):
            raise ValueError(
                f"{word} has {len(values)} entries and rng {len(seeds)} seeds: give one for each replica"
            )
    recipes = [changed(recipe, {**options, "learning_rate": rate}) for rate in rates]
    return _train(nets, data, recipes, seeds, checkpoint, progress, after_step)


def continued(
    run: Runs,
    epochs: int,
    *,
    stop_at_loss: float | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> Runs:
    """The same run, or runs side by side, after further epochs, to the bit as if there had been no stop.

    A ValueError is raised if ``epochs`` is not positive, the run has diverged, or runs do not fit together. A
    single run that diverges raises Diverged with the step.

    Parameters
    ----------
    run : Run, or sequence of Run
        Not changed. Of several, those that had diverged stay as they are.
    epochs : int
        More epochs.
    stop_at_loss, threads, progress
        As in :class:`nets.Recipe` and :func:`sgd`.

    Returns
    -------
    Run, or list of Run
    """
    check_whole("epochs", epochs)
    if isinstance(run, Run):
        check_trained(run)
    runs = [run] if isinstance(run, Run) else run
    later = trained(runs, epochs, stop_at_loss=stop_at_loss, threads=threads, progress=progress)
    _warn_if_not_reached(later, stop_at_loss)
    return finished(later[0]) if isinstance(run, Run) else later


def _train(
    nets: Sequence[nn.Sequential],
    data: Data,
    recipes: Sequence[Recipe],
    rngs: Sequence[Seed],
    checkpoint: str | os.PathLike[str] | None,
    progress: bool,
    after_step: AfterStep | None = None,
) -> list[Run]:
    """Check nets and data, start or resume, train. Recipes differ in their learning rates alone."""
    recipe = recipes[0]
    moved = data.to(checked_device(recipe.device))
    size = recipe.for_samples(data.samples).batch_size or 1
    for net in {id(net): net for net in nets}.values():
        _check_fits(net, data, min(max(size, CONVOLUTIONAL_BLOCK), BLOCK))
    runs = [
        _start(net, moved, own.for_samples(data.samples), seed_text(rng))
        for net, own, rng in zip(nets, recipes, rngs, strict=True)
    ]
    if checkpoint is not None:
        if Path(checkpoint).exists():
            runs = _resumed(Path(checkpoint), runs, fresh=[rng is None for rng in rngs])
        else:
            save(runs, checkpoint)  # a place that cannot be written is found now

    def after_epoch(runs: list[Run], losses: np.ndarray) -> None:
        if checkpoint is not None:
            save(runs, checkpoint)

    done = max(run.epoch for run in runs)
    if done > recipe.epochs:
        raise ValueError(
            f"epochs={recipe.epochs}, but {checkpoint} already holds {done}; ask for more, or remove it"
        )
    if done < recipe.epochs:
        runs = trained(
            runs, recipe.epochs - done, stop_at_loss=recipe.stop_at_loss, threads=recipe.threads,
            progress=progress, after_epoch=after_epoch if checkpoint else None, after_step=after_step,
        )  # fmt: skip
    _warn_if_not_reached(runs, recipe.stop_at_loss)
    return runs


def _resumed(path: Path, asked: Sequence[Run], fresh: Sequence[bool]) -> list[Run]:
    """The runs of a checkpoint, if they are those that are asked for; a fresh seed is any seed."""
    held = load(path, net=asked[0].net, data=asked[0].data)
    if len(held) != len(asked):
        raise ValueError(f"{path} holds {len(held)} runs, not {len(asked)}; name another checkpoint")
    for there, here, any_seed in zip(held, asked, fresh, strict=True):
        kept, wanted = (
            run.recipe.recorded | {"seed": run.seed, "initial weights": run.start} for run in (there, here)
        )
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


def _start(net: nn.Sequential, data: Data, recipe: Recipe, seed: str) -> Run:
    """A run of no epochs."""
    device, dtype = data.train_inputs.device, recipe.torch_dtype
    own = with_parameters(net, (p.detach().to(device, dtype, copy=True) for p in net.parameters()))
    memory = recipe.optimizer.fresh_memory(list(own.parameters()))
    return Run(own, data, recipe, seed, net_digest(own), 0, 0, memory)


def _check_fits(net: nn.Sequential, data: Data, rows: int) -> None:
    """Raise unless the net can be trained as it is, so many rows at once, with an output for each class."""
    weight_layers(net)
    if type(net) is not nn.Sequential or altered(net):
        raise ValueError("net must be an nn.Sequential itself, without hooks: put all else into its modules")
    parameters = list(net.parameters())
    if sum(len(list(module.parameters())) for module in net) > len(parameters):
        raise ValueError(f"net {description(net)} uses weights twice; training moves each weight once")
    if not all(p.requires_grad for p in parameters):
        raise ValueError(f"net {description(net)} has frozen weights; training moves all of them")
    x = data.train_inputs[:rows].to(parameters[0].device, parameters[0].dtype)
    with torch.no_grad(), said(f"net {description(net)}"):
        own = copy.deepcopy(net).requires_grad_(False)
        logits = checked_outputs(own, x[:ALONE])
        if dense_biases(net) is None:
            check_block(own, x)
    warn_of_probabilities(logits, 4)
    if logits.shape[-1] < len(data.classes):
        raise ValueError(
            f"net {description(net)} has {logits.shape[-1]} outputs for {len(data.classes)} classes"
        )
