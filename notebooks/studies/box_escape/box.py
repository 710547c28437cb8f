"""First exits of SGD from a box around its start, hundreds of replicas in one batch of matrix products."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import xarray as xr

from fpsolve.progress import bar, shown
from fpsolve.results import Attribute, dataset, quantity
from fpsolve.symbols.counter_rng import Seed
from nets.training.batches import (
    Sampling,
    minibatches,
    noise_stream,
    seed_text,
    side_by_side_minibatches,
)
from nets.training.step import torch_threads
from notebooks.studies.box_escape.dynamics import Dynamics

#: Numbers in the positions kept between two checks of which replicas have left.
_BUFFER = 1 << 20
#: Steps of an "epoch" where gradients are taken over all samples: the length of a stream of noise.
_FULL_BATCH_EPOCH = 1024


def simulate_box_escape(
    dynamics: Dynamics,
    *,
    learning_rate: float,
    batch_size: int | None,
    replicas: int = 100,
    half_width: float = 0.05,
    sharpness: float = 1.0,
    injected_noise: float = 0.0,
    sampling: Sampling = "without_replacement",
    max_steps: int = 100_000,
    rng: Seed = None,
    method: Literal["compiled", "batched"] | None = None,
    threads: int | None = 1,
    progress: bool = False,
) -> xr.Dataset:
    """When each of many replicas of SGD first leaves the box |θ_i − θ_i⁰| ≤ r around its start.

    All start at θ⁰ and follow θ ← θ − η ∇L_k^μ + √(2ηD) ξ with L_k(θ) = L(√k θ), white ξ, from the start
    θ⁰ = w₀/√k in the box r = ``half_width``/√k, which is checked after every step. With φ = √k θ that is

        φ ← φ − kη ∇L^μ(φ) + √(2kηD) ξ,   φ⁰ = w₀,   |φ_i − w₀_i| ≤ ``half_width``,

    SGD on L itself at the learning rate kη: the number of steps depends on k and η through kη alone, and
    only the unit of time, η steps, tells them apart. The iteration of φ is what is run.

    Parameters
    ----------
    dynamics : NetDynamics or LocalDynamics
        See :mod:`notebooks.studies.box_escape.dynamics`.
    learning_rate : float
        η.
    batch_size : int or None
        B; None takes all samples: gradient descent, with injected noise a Langevin equation.
    half_width : float
        0.05 in the paper.
    sharpness : float
        k.
    injected_noise : float
        D, the isotropic noise of SGLD, in units of loss.
    sampling : {"without_replacement", "with_replacement"}
        As in :func:`nets.training.train.sgd`.
    max_steps : int
        A replica that is inside after so many steps is censored.
    rng : int, SeedSequence, Generator or str, optional
        Replica i has the child ``spawn_key=(i,)`` of this seed, so that its minibatches depend neither on
        the other replicas nor on their number.
    method : {"compiled", "batched"}, optional
        One replica after another in compiled code, or all in one batch of matrix products, which also
        runs on a GPU. Both give the same paths but for rounding. Default: compiled where that is possible,
        with minibatches and on a processor.
    threads : int or None
        Threads torch may use; None leaves its setting.

    Returns
    -------
    Dataset, dim ``replica``
        ``outcome`` (1 escaped, 0 censored), ``steps``, ``observed_time`` = η steps, ``coordinate`` that left
        first (−1 if none; the farthest if several in one step), ``side`` (±1), and ``change`` (replica,
        parameter) = φ − w₀ after the last step. :func:`fpsolve.escape_rate` takes this Dataset.

    Raises
    ------
    ValueError
        Before any step: if a number is out of its range, ``method`` is unknown or cannot run this case, or
        all replicas would be the same.

    References
    ----------
    Xie, Sato, Sugiyama, ICLR 2021, section 4, appendices D.1 and E.1. The paper rescales the box "by k";
    1/√k is the factor that leaves the landscape inside the box the same.
    """
    positive = {
        "learning_rate": float(learning_rate), "half_width": float(half_width), "sharpness": float(sharpness)
    }  # fmt: skip
    counts = {"replicas": replicas, "max_steps": max_steps}
    _check(dynamics.samples, batch_size, counts, injected_noise, positive)
    seed = seed_text(rng)
    seeds = [seed_text(np.random.SeedSequence(int(seed, 16), spawn_key=(i,))) for i in range(replicas)]
    state = _Replicas(dynamics, seeds, sampling, batch_size)
    kick = math.sqrt(2 * learning_rate * sharpness * injected_noise)
    run = _run_compiled if _compiled(method, dynamics, batch_size) else _run_batched
    with torch_threads(threads), torch.no_grad():
        run(state, learning_rate * sharpness, kick, half_width, max_steps, progress)
    attrs: dict[str, Attribute] = {
        **dynamics.attributes,
        **positive,
        "batch_size": int(batch_size or dynamics.samples),
        "injected_noise": float(injected_noise),
        "sampling": sampling if batch_size else "all samples",
        "max_steps": int(max_steps),
        "seed": seed,
    }
    return _dataset(state, learning_rate, attrs)


class _Replicas:
    """Which replicas are inside the box, and how the others ended."""

    def __init__(
        self, dynamics: Dynamics, seeds: list[str], sampling: Sampling, batch_size: int | None
    ) -> None:
        count = len(seeds)
        self.dynamics, self.seeds, self.sampling, self.batch_size = dynamics, seeds, sampling, batch_size
        self.inside = np.arange(count)
        self.change = torch.zeros(count, len(dynamics.start), dtype=torch.float64)
        self.coordinate = np.full(count, -1)
        self.steps = np.zeros(count, np.int64)
        self.epoch = 0

    def draws(self) -> torch.Tensor | None:
        """Rows of this epoch's minibatches, shape (steps, R, B), of those still inside."""
        if self.batch_size is None:
            return None
        drawn = side_by_side_minibatches(
            [self.seeds[i] for i in self.inside], self.epoch, samples=self.dynamics.samples,
            batch_size=self.batch_size, sampling=self.sampling,
        )  # fmt: skip
        return drawn.to(self.dynamics.start.device)


def _compiled(method: str | None, dynamics: Dynamics, batch_size: int | None) -> bool:
    possible = batch_size is not None and dynamics.start.device.type == "cpu"
    if method not in (None, "compiled", "batched"):
        raise ValueError(f"method={method!r} must be 'compiled' or 'batched'")
    if method == "compiled" and not possible:
        raise ValueError("method='compiled' needs minibatches and data on the CPU; use 'batched'")
    return possible if method is None else method == "compiled"


def _run_compiled(
    state: _Replicas, rate: float, kick: float, r: float, max_steps: int, progress: bool
) -> None:
    """Run one replica after another in compiled code, until it is outside or ``max_steps`` is reached."""
    # Of the loop of nets.training only the order of minibatches and the streams of noise are shared: a step
    # there takes a hundred microseconds, a compiled one takes about one.
    assert state.batch_size is not None
    advance = state.dynamics.stepper(r, rate)
    start = state.dynamics.start.cpu().numpy()
    none = np.empty((0, len(start)))
    for i, seed in enumerate(shown(state.seeds, unit="replica", progress=progress, leave=True)):
        position, done, epoch, left = start.copy(), 0, 0, False
        while not left and done < max_steps:
            rows = minibatches(
                seed, epoch, samples=state.dynamics.samples, batch_size=state.batch_size,
                sampling=state.sampling,
            )[: max_steps - done]  # fmt: skip
            stream = noise_stream(seed, epoch) if kick else None
            block = len(rows) if stream is None else max(1, _BUFFER // (16 * len(start)))
            for part in np.split(rows, range(block, len(rows), block)):
                noise = none if stream is None else kick * stream.standard_normal((len(part), len(start)))
                count, left = advance(position, part, noise)
                done += count
                if left:
                    break
            epoch += 1
        state.steps[i] = done
        state.change[i] = torch.from_numpy(position - start)
        if left:
            state.coordinate[i] = np.abs(position - start).argmax()
    state.inside = state.inside[:0]


def _run_batched(
    state: _Replicas, rate: float, kick: float, r: float, max_steps: int, progress: bool
) -> None:
    """Run all replicas at once, step by step, until all are outside or ``max_steps`` is reached."""
    # Not nets.training.batches.steps: replicas leave within an epoch, and their minibatches leave with them.
    # Who has left is looked up once for a block of steps.
    dynamics, done = state.dynamics, 0
    start = dynamics.start
    positions = start.expand(len(state.seeds), -1).clone()
    with bar(len(state.seeds), unit="replica", progress=progress) as counted:
        while len(state.inside) and done < max_steps:
            rows, streams = state.draws(), None
            length = _FULL_BATCH_EPOCH if rows is None else len(rows)
            if kick:
                streams = [noise_stream(state.seeds[i], state.epoch) for i in state.inside]
            k, block = 0, 16
            while k < length and len(state.inside) and done < max_steps:
                many = max(1, _BUFFER // positions.numel())
                count = min(block, many, length - k, max_steps - done)
                taken = None if rows is None else rows[k : k + count]
                noise = None
                if streams is not None:
                    drawn = [s.standard_normal((count, len(start))) for s in streams]
                    noise = torch.from_numpy(np.stack(drawn, 1)).to(start.device).mul_(kick)
                path = _block(dynamics, positions, taken, noise, rate, count)
                keep = _ended(state, path, r, done)
                done, k, block = done + count, k + count, min(2 * block, 1024)
                if keep is None:
                    positions = path[-1]
                    continue
                counted.update(len(positions) - len(keep))
                positions = path[-1][keep]
                rows = None if rows is None else rows[:, keep]
                streams = None if streams is None else [streams[j] for j in keep.tolist()]
            state.epoch += 1
    state.steps[state.inside] = done
    state.change[state.inside] = (positions - start).cpu()


def _block(
    dynamics: Dynamics,
    positions: torch.Tensor,
    rows: torch.Tensor | None,
    noise: torch.Tensor | None,
    rate: float,
    count: int,
) -> torch.Tensor:
    """Positions after each of ``count`` steps, shape (count, R, P)."""
    path = positions.new_empty(count, *positions.shape)
    for n in range(count):
        gradient = dynamics.gradients(positions, None if rows is None else rows[n])
        torch.add(positions, gradient, alpha=-rate, out=path[n])
        if noise is not None:
            path[n] += noise[n]
        positions = path[n]
    return path


def _ended(state: _Replicas, path: torch.Tensor, r: float, done: int) -> torch.Tensor | None:
    """Record the replicas that left during a block; the places of those that stay, None if none left."""
    start = state.dynamics.start
    inside = ((path - start).abs_() <= r).all(-1)  # a NaN is outside
    left = ~inside.all(0)
    if not left.any():
        return None
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


def _dataset(state: _Replicas, learning_rate: float, attrs: dict[str, Attribute]) -> xr.Dataset:
    change = state.change.cpu().numpy()
    at = state.coordinate.astype(np.int64)
    side = np.where(at >= 0, np.sign(np.take_along_axis(change, np.maximum(at, 0)[:, None], 1)[:, 0]), 0)
    variables = {
        "outcome": quantity((at >= 0).astype(np.int64), "replica", "1 escaped, 0 still inside"),
        "steps": quantity(state.steps, "replica", "steps taken"),
        "observed_time": quantity(learning_rate * state.steps, "replica", "learning rate × steps", "time"),
        "coordinate": quantity(at, "replica", "parameter that left the box, −1 for none"),
        "side": quantity(side.astype(np.int64), "replica", "side on which it left"),
        "change": quantity(change, ("replica", "parameter"), "√k θ − w₀ at the end"),
    }
    return dataset(variables, coords=None, title="first exits of SGD from a box", **attrs)


def _check(
    samples: int, batch_size: int | None, counts: dict[str, int], noise: float, positive: dict[str, float]
) -> None:
    """Refuse, by a ValueError, numbers that make no sense; ``noise`` is the injected one."""
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be positive and finite")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"injected_noise={noise:g} must be finite and not negative")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if batch_size is not None and not 1 <= batch_size <= samples:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and {samples}, the samples")
    if batch_size is None and not noise and counts["replicas"] > 1:
        raise ValueError("without minibatches and injected noise all replicas are the same; use replicas=1")
