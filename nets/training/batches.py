"""Which samples each minibatch holds: a function of the seed and the epoch, so any epoch can be replayed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from fpsolve.symbols.counter_rng import Seed, random_key

Sampling = Literal["without_replacement", "with_replacement"]
#: Streams of random numbers of one run: what they are for.
_BATCHES, _NOISE = 0, 1


def seed_text(rng: Seed) -> str:
    """The seed of a run as it is recorded, ``"0x…"``; give it as ``rng`` to replay the run.

    A string is a recorded seed. None is fresh entropy.
    """
    k0, k1 = random_key(rng)
    return f"0x{k0:016x}{k1:016x}"


def minibatches(
    seed: str, epoch: int, *, samples: int, batch_size: int, sampling: Sampling = "without_replacement"
) -> np.ndarray:
    """The samples of every minibatch of one epoch, shape (steps, B); ``seed`` is from :func:`seed_text`.

    Without replacement, an epoch is a random permutation cut into ⌊M/B⌋ batches; the M mod B samples left
    over are other ones in each epoch, so all batches have the same size. With replacement, each of the
    ⌊M/B⌋ batches is B independent draws. ``epoch`` is the number of epochs done before.
    """
    steps = samples // batch_size
    rng = _stream(seed, _BATCHES, epoch)
    if sampling == "with_replacement":
        return rng.integers(samples, size=(steps, batch_size))
    return rng.permutation(samples)[: steps * batch_size].reshape(steps, batch_size)


def side_by_side_minibatches(
    seeds: Sequence[str], epoch: int, *, samples: int, batch_size: int, sampling: Sampling
) -> torch.Tensor:
    """The :func:`minibatches` of R runs, shape (steps, R, B)."""
    each = [minibatches(s, epoch, samples=samples, batch_size=batch_size, sampling=sampling) for s in seeds]
    return torch.from_numpy(np.stack(each, axis=1))


def steps(
    seeds: Sequence[str], epochs: Iterable[int], *, samples: int, batch_size: int, sampling: Sampling,
    done: int = 0, device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:  # fmt: skip
    """Each step of some epochs of R runs: its number, from ``done`` + 1, and the rows it takes, (R, B)."""
    for epoch in epochs:
        order = side_by_side_minibatches(
            seeds, epoch, samples=samples, batch_size=batch_size, sampling=sampling
        )
        for rows in order.to(device):
            done += 1
            yield done, rows


def noise_stream(seed: str, epoch: int) -> np.random.Generator:
    """Random numbers for noise added in one epoch, independent of the minibatches."""
    return _stream(seed, _NOISE, epoch)


def _stream(seed: str, purpose: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(int(seed, 16), spawn_key=(purpose, epoch)))
