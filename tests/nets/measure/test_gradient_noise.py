"""Per-sample gradients, and the covariance of minibatches."""

import itertools

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch", reason="needs the extra [nets]")

from torch import nn

from nets import layers, models
from nets.measure.fast import residuals
from nets.measure.noise import (
    batch_factor,
    minibatch_gradients,
    noise_covariance,
    noise_trace,
    per_sample_gradients,
    projected_gradients,
)
from nets.measure.subject import as_subject


def _problem(samples=30, *, sizes=(6, 7, 5, 4), bias=False, seed=0):
    rng = np.random.default_rng(seed)
    net = models.fully_connected(sizes, bias=bias, rng=seed).double()
    inputs, labels = rng.normal(size=(samples, sizes[0])), rng.integers(sizes[-1], size=samples)
    return net, torch.from_numpy(inputs), torch.from_numpy(labels)


def _convolutional(seed=0):
    rng = np.random.default_rng(seed)
    torch_rng = torch.random.get_rng_state()
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip
    torch.random.set_rng_state(torch_rng)
    models.initialised(net, rng=seed)
    return net, torch.from_numpy(rng.normal(size=(12, 2, 8, 8))), torch.from_numpy(rng.integers(3, size=12))


def _one_by_one(net, inputs, labels, parameters):
    """Autograd, one sample after the other."""
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(net(x[None]), y[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("make", [_problem, lambda: _problem(bias=True), _convolutional])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_gradients_of_samples_are_those_of_autograd_one_by_one(make, layer):
    net, inputs, labels = make()
    chosen = net if layer is None else layers.checked_layer(net, layer)
    exact = _one_by_one(net, inputs, labels, list(chosen.parameters()))
    found = per_sample_gradients(as_subject(net, inputs, labels, layer=layer)).numpy()
    assert found == pytest.approx(exact, abs=1e-15)


def test_a_net_that_training_left_without_gradients_works_as_well():
    net, inputs, labels = _problem()
    expected = noise_covariance(as_subject(net, inputs, labels, layer=1))
    net.requires_grad_(False)
    xr.testing.assert_identical(noise_covariance(as_subject(net, inputs, labels, layer=1)), expected)
    assert minibatch_gradients(as_subject(net, inputs, labels), batch_size=3, draws=2, rng=0).shape == (2, 97)


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"groups": 2}, {"padding": "same"}])
def test_convolutions_that_the_fast_form_does_not_know_take_the_general_one(options):
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 2, 3, **({"padding": 1} | options))
    net = nn.Sequential(convolution, nn.Flatten(), nn.Linear(32, 2)).double()
    inputs, labels = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    exact = _one_by_one(net, inputs, labels, list(net.parameters()))
    assert per_sample_gradients(as_subject(net, inputs, labels)).numpy() == pytest.approx(exact, abs=1e-14)


@pytest.mark.parametrize(("replacement", "batches"), [(True, lambda n, b: itertools.product(range(n), repeat=b)), (False, lambda n, b: itertools.permutations(range(n), b))])  # fmt: skip
def test_the_covariance_is_that_of_all_minibatches_enumerated(replacement, batches):
    subject = as_subject(*_problem(samples=5), layer=1)
    gradients = per_sample_gradients(subject).numpy()
    means = np.array([gradients[list(rows)].mean(axis=0) for rows in batches(5, 3)])
    found = noise_covariance(subject, batch_size=3, replacement=replacement)
    assert found.covariance.to_numpy() == pytest.approx(np.cov(means.T, bias=True), abs=1e-16)
    assert found.mean_gradient.to_numpy() == pytest.approx(gradients.mean(axis=0), abs=1e-16)
    # The other way of sampling is told apart.
    other = noise_covariance(subject, batch_size=3, replacement=not replacement)
    assert abs(np.trace(other.covariance) / np.trace(found.covariance) - 1) > 0.4


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_the_covariance_does_not_depend_on_how_it_is_summed(layer):
    subject = as_subject(*_problem(samples=40), layer=layer)
    gradients = per_sample_gradients(subject).numpy()
    for memory in (1_000, 10**8):
        found = noise_covariance(subject, memory=memory).covariance.to_numpy()
        assert found == pytest.approx(np.cov(gradients.T, bias=True), abs=1e-16)
    assert noise_trace(subject) == pytest.approx(np.trace(found), rel=1e-12)


@pytest.mark.parametrize("replacement", [True, False])
def test_drawn_minibatches_have_this_covariance(replacement):
    subject = as_subject(*_problem(samples=30), layer=2)
    draws, B = 1500, 10
    drawn = minibatch_gradients(subject, batch_size=B, draws=draws, replacement=replacement, rng=1)
    exact = noise_covariance(subject, batch_size=B, replacement=replacement)
    noise = drawn - exact.mean_gradient.to_numpy()
    squares = (noise**2).sum(axis=1)
    error = squares.std() / np.sqrt(draws)
    trace = float(np.trace(exact.covariance))
    assert abs(squares.mean() - trace) < 4 * error
    wrong = noise_covariance(subject, batch_size=B, replacement=not replacement)
    assert abs(squares.mean() - np.trace(wrong.covariance)) > 6 * error


def test_without_replacement_the_whole_data_have_no_noise():
    assert batch_factor(10, batch_size=10, replacement=False) == 0
    assert batch_factor(10, batch_size=1, replacement=False) == 1
    assert batch_factor(10, batch_size=20) == 1 / 20
    with pytest.raises(ValueError, match="batch_size=11"):
        batch_factor(10, batch_size=11, replacement=False)


def test_components_are_projections_of_the_gradients():
    subject = as_subject(*_problem(), layer=1)
    directions = np.random.default_rng(0).normal(size=(35, 4))
    found = projected_gradients(subject, directions=directions, memory=3_000)
    assert found == pytest.approx(per_sample_gradients(subject).numpy() @ directions, abs=1e-14)
    with pytest.raises(ValueError, match="35 rows"):
        projected_gradients(subject, directions=directions.T)


def test_residuals_keep_their_digits_where_the_net_is_sure():
    logits = torch.tensor([[30.0, 0.0, 1.0]])
    found = residuals(logits, torch.tensor([0])).double()
    exact = residuals(logits.double(), torch.tensor([0]))
    assert float((found / exact - 1).abs().max()) < 1e-6
    assert float(found[0, 0]) < 0


def test_the_same_seed_draws_the_same_minibatches():
    subject = as_subject(*_problem())
    one, two, other = (minibatch_gradients(subject, batch_size=4, draws=3, rng=s) for s in (1, 1, 2))
    assert (one == two).all() and not (one == other).all()
