"""First exits of SGD from a box around its start, hundreds of replicas in one batch of matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from fpsolve.command.reader import number, positive
from fpsolve.progress import bar, shown
from fpsolve.results import Attribute, dataset, quantity
from fpsolve.symbols.counter_rng import Seed
from nets.training.batches import Sampling, minibatches, noise_stream, seed_text, side_by_side_minibatches
from nets.training.step import torch_threads
from notebooks.studies.box_escape.dynamics import Dynamics

#: Numbers in the positions kept between two checks of which replicas have left.
_BUFFER = 1 << 20
#: Steps of an "epoch" where gradients are taken over all samples: the length of a stream of noise.
_FULL_BATCH_EPOCH = 1024


def simulate_box_escape(
    dynamics: Dynamics, *, learning_rate: float, batch_size: int | None, replicas: int = 100,
    half_width: float = 0.05, sharpness: float = 1.0, injected_noise: float = 0.0,
    sampling: Sampling = "without_replacement", max_steps: int = 100_000, rng: Seed = None,
    method: Literal["compiled", "batched"] | None = None, threads: int | None = 1, progress: bool = False,
) -> xr.Dataset:  # fmt: skip
    """When each of many replicas of SGD first leaves the box |θ_i − θ_i⁰| ≤ r around its start.

    All start at θ⁰ and follow θ ← θ − η ∇L_k^μ + √(2ηD) ξ with L_k(θ) = L(√k θ), white ξ, from the start
    θ⁰ = w₀/√k in the box r = ``half_width``/√k, which is checked after every step. With φ = √k θ that is

        φ ← φ − kη ∇L^μ(φ) + √(2kηD) ξ,   φ⁰ = w₀,   |φ_i − w₀_i| ≤ ``half_width``,

    SGD on L itself at the learning rate kη: the number of steps depends on k and η through kη alone, and
    only the unit of time, η steps, tells them apart. The iteration of φ is what is run.

    ``batch_size`` B = None takes all samples: gradient descent, with injected noise a Langevin equation.
    ``injected_noise`` D, in units of loss, is the isotropic one of SGLD; ``sharpness`` is k. ``half_width``
    is 0.05 in the paper, which rescales the box "by k"; 1/√k is the factor that leaves the landscape inside
    the box the same. ``sampling`` is as in :func:`nets.training.train.sgd`. Replicas that are inside after
    ``max_steps`` are censored. Replica i has the child ``spawn_key=(i,)`` of the seed ``rng``, so that its
    minibatches depend neither on the other replicas nor on their number. Torch may use so many ``threads``;
    None leaves its setting.

    ``method`` "compiled" runs one replica after another in compiled code; "batched" runs all in one batch of
    matrix products, also on a GPU. Both give the same paths but for rounding. The default is compiled where
    that is possible, with minibatches and on a processor.

    The Dataset, dim replica, holds ``outcome`` (1 escaped, 0 censored), ``steps``, ``observed_time`` = η
    steps, the ``coordinate`` that left first (−1 if none; the farthest if several in one step), its ``side``
    (±1), and ``change`` (replica, parameter) = φ − w₀ after the last step. :func:`fpsolve.escape_rate` takes
    this Dataset. A ValueError before any step if a number is out of its range, ``method`` is unknown or
    cannot run this case, or all replicas would be the same.

    Xie, Sato, Sugiyama, ICLR 2021, section 4, appendices D.1 and E.1.
    """
    named = {"learning_rate": learning_rate, "half_width": half_width, "sharpness": sharpness}
    numbers = {name: positive(float(value), name) for name, value in named.items()}
    if min(replicas, max_steps) < 1:
        raise ValueError(f"{replicas=} and {max_steps=} must be at least 1")
    if number(float(injected_noise), "injected_noise") < 0:
        raise ValueError(f"injected_noise={injected_noise:g} must not be negative")
    if batch_size is not None and not 1 <= batch_size <= dynamics.samples:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and {dynamics.samples}, the samples")
    if batch_size is None and not injected_noise and replicas > 1:
        raise ValueError("without minibatches and injected noise all replicas are the same; use replicas=1")
    possible = batch_size is not None and dynamics.start.device.type == "cpu"
    if method not in (None, "batched") and not (possible and method == "compiled"):
        raise ValueError(f"{method=} must be 'batched', or 'compiled' with minibatches and data on the CPU")
    seed = seed_text(rng)
    seeds = [seed_text(np.random.SeedSequence(int(seed, 16), spawn_key=(i,))) for i in range(replicas)]
    rate, kick = learning_rate * sharpness, math.sqrt(2 * learning_rate * sharpness * injected_noise)
    drawn = {"samples": dynamics.samples, "batch_size": batch_size, "sampling": sampling}
    state = _Replicas(
        dynamics, seeds, drawn if batch_size else None, rate, kick, half_width, max_steps, progress
    )
    with torch_threads(threads), torch.no_grad():
        (_run_compiled if possible and method != "batched" else _run_batched)(state)
    change, at = state.change.numpy(), state.coordinate
    side = np.where(at >= 0, np.sign(change[np.arange(replicas), at]), 0)
    variables = {
        "outcome": quantity((at >= 0).astype(np.int64), "replica", "1 escaped, 0 still inside"),
        "steps": quantity(state.steps, "replica", "steps taken"),
        "observed_time": quantity(learning_rate * state.steps, "replica", "learning rate × steps", "time"),
        "coordinate": quantity(at, "replica", "parameter that left the box, −1 for none"),
        "side": quantity(side.astype(np.int64), "replica", "side on which it left"),
        "change": quantity(change, ("replica", "parameter"), "√k θ − w₀ at the end"),
    }
    attrs: dict[str, Attribute] = {
        **dynamics.attributes, **numbers, "batch_size": int(batch_size or dynamics.samples),
        "injected_noise": float(injected_noise), "sampling": sampling if batch_size else "all samples",
        "max_steps": int(max_steps), "seed": seed,
    }  # fmt: skip
    return dataset(variables, title="first exits of SGD from a box", coords=None, **attrs)


@dataclass
class _Replicas:
    """What is asked, which replicas are ``inside`` the box of half width ``r``, and how the others ended.

    ``drawn`` says how minibatches are drawn, None for all samples. ``rate`` is kη, ``kick`` is √(2kηD).
    """

    dynamics: Dynamics
    seeds: list[str]
    drawn: dict[str, Any] | None
    rate: float
    kick: float
    r: float
    max_steps: int
    progress: bool

    def __post_init__(self) -> None:
        count = len(self.seeds)
        self.inside = np.arange(count)
        self.change = torch.zeros(count, len(self.dynamics.start), dtype=torch.float64)
        self.coordinate = np.full(count, -1, np.int64)
        self.steps = np.zeros(count, np.int64)


def _run_compiled(state: _Replicas) -> None:
    """Run one replica after another in compiled code, until it is outside or ``max_steps`` is reached."""
    # Of the loop of nets.training only the order of minibatches and the streams of noise are shared: a step
    # there takes a hundred microseconds, a compiled one takes about one.
    assert state.drawn is not None
    advance = state.dynamics.stepper(state.r, state.rate)
    start = state.dynamics.start.cpu().numpy()
    none = np.empty((0, len(start)))
    for i, seed in enumerate(shown(state.seeds, unit="replica", progress=state.progress, leave=True)):
        position, done, epoch, left = start.copy(), 0, 0, False
        while not left and done < state.max_steps:
            rows = minibatches(seed, epoch, **state.drawn)[: state.max_steps - done]
            stream = noise_stream(seed, epoch) if state.kick else None
            block = len(rows) if stream is None else max(1, _BUFFER // (16 * len(start)))
            for part in np.split(rows, range(block, len(rows), block)):
                shape = len(part), len(start)
                noise = none if stream is None else state.kick * stream.standard_normal(shape)
                count, left = advance(position, part, noise)
                done += count
                if left:
                    break
            epoch += 1
        state.steps[i] = done
        state.change[i] = torch.from_numpy(position - start)
        if left:
            state.coordinate[i] = np.abs(position - start).argmax()


def _run_batched(state: _Replicas) -> None:
    """Run all replicas at once, step by step, until all are outside or ``max_steps`` is reached."""
    # Not nets.training.batches.steps: replicas leave within an epoch, and their minibatches leave with them.
    # Who has left is looked up once for a block of steps.
    start, epoch, done = state.dynamics.start, 0, 0
    positions = start.expand(len(state.seeds), -1).clone()
    rows = streams = None
    with bar(len(state.seeds), unit="replica", progress=state.progress) as counted:
        while len(state.inside) and done < state.max_steps:
            seeds = [state.seeds[i] for i in state.inside]
            if state.drawn is not None:
                rows = side_by_side_minibatches(seeds, epoch, **state.drawn).to(start.device)
            if state.kick:
                streams = [noise_stream(seed, epoch) for seed in seeds]
            length = _FULL_BATCH_EPOCH if rows is None else len(rows)
            k, block = 0, 16
            while k < length and len(state.inside) and done < state.max_steps:
                many = max(1, _BUFFER // positions.numel())
                count = min(block, many, length - k, state.max_steps - done)
                taken = None if rows is None else rows[k : k + count]
                path = _block(state, positions, taken, streams, count)
                keep = _ended(state, path, done)
                done, k, block = done + count, k + count, min(2 * block, 1024)
                counted.update(len(positions) - len(keep))
                positions = path[-1][keep]
                rows = None if rows is None else rows[:, keep]
                streams = None if streams is None else [streams[j] for j in keep.tolist()]
            epoch += 1
    state.steps[state.inside] = done
    state.change[state.inside] = (positions - start).cpu()


def _block(
    state: _Replicas, positions: torch.Tensor, rows: torch.Tensor | None,
    streams: list[np.random.Generator] | None, count: int,
) -> torch.Tensor:  # fmt: skip
    """Positions after each of ``count`` steps, shape (count, R, P)."""
    path = positions.new_empty(count, *positions.shape)
    noise = None
    if streams is not None:
        drawn = np.stack([s.standard_normal((count, positions.shape[1])) for s in streams], 1)
        noise = torch.from_numpy(drawn).to(positions.device).mul_(state.kick)
    for n in range(count):
        gradient = state.dynamics.gradients(positions, None if rows is None else rows[n])
        torch.add(positions, gradient, alpha=-state.rate, out=path[n])
        if noise is not None:
            path[n] += noise[n]
        positions = path[n]
    return path


def _ended(state: _Replicas, path: torch.Tensor, done: int) -> torch.Tensor:
    """Record the replicas that left during a block; the places of those that stay."""
    start = state.dynamics.start
    inside = ((path - start).abs_() <= state.r).all(-1)  # a NaN is outside
    left = ~inside.all(0)
    if not left.any():
        return torch.arange(len(left))
    gone = torch.nonzero(left).ravel()
    first = (~inside[:, gone]).to(torch.int8).argmax(0)
    change = path[first, gone] - start
    who = state.inside[gone.cpu().numpy()]
    state.steps[who] = done + 1 + first.cpu().numpy()
    state.change[who] = change.cpu()
    state.coordinate[who] = change.abs().argmax(1).cpu().numpy()
    keep = torch.nonzero(~left).ravel()
    state.inside = state.inside[keep.cpu().numpy()]
    return keep
