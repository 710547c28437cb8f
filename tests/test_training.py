"""Training: the same seed gives the same bits, recorded windows, replicas, outcomes and refusals."""

import pytest
import torch

from nets import datasets, models, training


def _net(rng=1):
    return models.fully_connected((64, 20, 20, 10), rng=rng)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def _same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.net.parameters(), right.net.parameters(), strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(digits):
    options = {"learning_rate": 0.1, "batch_size": 50, "epochs": 2}
    first, again = (training.sgd(_net(), digits, rng=0, **options) for _ in range(2))
    assert _same(first, again)
    assert not _same(first, training.sgd(_net(), digits, rng=1, **options))


def test_continuing_is_the_uninterrupted_run_to_the_bit(digits):
    options = {"learning_rate": 0.1, "batch_size": 50, "rng": 0}
    whole = training.sgd(_net(), digits, epochs=4, **options)
    assert _same(training.continued(training.sgd(_net(), digits, epochs=1, **options), 3), whole)
