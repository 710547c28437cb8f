"""Which samples each minibatch holds: a function of the seed and the epoch, so any epoch can be replayed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fpsolve.symbols.counter_rng import Seed, random_key

Sampling = Literal["without_replacement", "with_replacement"]
#: Streams of random numbers of one run: what they are for.
_BATCHES, _NOISE = 0, 1


def seed_text(rng: Seed) -> str:
    """The seed of a run as it is recorded, ``"0x…"``; give it as ``rng`` to replay the run.

    Parameters
    ----------
    rng : int, SeedSequence, Generator, str or None
        A string is a recorded seed. None is fresh entropy.

    Returns
    -------
    str
    """
    k0, k1 = random_key(rng)
    return f"0x{k0:016x}{k1:016x}"


def minibatches(
    seed: str, epoch: int, *, samples: int, batch_size: int, sampling: Sampling = "without_replacement"
) -> np.ndarray:
    """The samples of every minibatch of one epoch.

    Without replacement, an epoch is a random permutation cut into ⌊M/B⌋ batches; the M mod B samples left
    over are other ones in each epoch, so all batches have the same size. With replacement, each of the
    ⌊M/B⌋ batches is B independent draws.

    Parameters
    ----------
    seed : str
        As recorded in a run's settings.
    epoch : int
        Epochs done before this one.
    samples, batch_size : int
        M and B.
    sampling : {"without_replacement", "with_replacement"}

    Returns
    -------
    ndarray of int64, shape (steps, batch_size)
    """
    steps = samples // batch_size
    rng = _stream(seed, _BATCHES, epoch)
    if sampling == "with_replacement":
        return rng.integers(samples, size=(steps, batch_size))
    return rng.permutation(samples)[: steps * batch_size].reshape(steps, batch_size)


def noise_stream(seed: str, epoch: int) -> np.random.Generator:
    """Random numbers for noise added in one epoch, independent of the minibatches.

    Parameters
    ----------
    seed : str
    epoch : int

    Returns
    -------
    Generator
    """
    return _stream(seed, _NOISE, epoch)


def _stream(seed: str, purpose: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(int(seed, 16), spawn_key=(purpose, epoch)))
