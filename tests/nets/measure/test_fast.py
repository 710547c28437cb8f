"""Losses of flat nets at many weight vectors, against one net at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from nets import layers, models
from nets.data import datasets
from nets.measure import fast
from nets.measure.subject import Subject, layer_names
from nets.training.networks import sample_losses

functional = nn.functional


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits").subset(300)


def _convolutional():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 10),
    )  # fmt: skip
    return models.initialised(net, rng=0, initial="he")


NETS = {
    "dense": lambda: models.fully_connected((64, 20, 20, 10), rng=0),
    "biased": lambda: models.fully_connected((64, 20, 20, 10), rng=0, bias=True),
    "convolutional": _convolutional,
}
CASES = [(name, layer) for name in NETS for layer in range(3)]


def _moved(net, layer, change):
    """A net of its own with one layer changed, float64."""
    place, _ = layers.weight_layers(net)[layer]
    own = layers.with_parameters(net, [p.detach().double().clone() for p in net.parameters()])
    with torch.no_grad():
        own[place].weight += change.view_as(own[place].weight)
    return own


def _of_layer(net, layer, digits):
    """The loss by one layer's weights, float64."""
    names = layer_names(net, layer, bias=False)
    return Subject(net, digits.train_inputs, digits.train_labels, weights=names).to(torch.float64)


def _directions(size, count=3):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(count, size)) / np.sqrt(size))


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_losses_along_directions_are_those_of_moved_nets(digits, monkeypatch, name, layer):
    net, x, y = NETS[name](), digits.train_inputs, digits.train_labels
    p, t = _directions(layers.checked_layer(net, layer).weight.numel()), torch.tensor([-2.0, 0.0, 0.5, 30.0])
    for block in (1 << 18, 3000):  # in one piece, and in many
        monkeypatch.setattr(fast, "BLOCK", block)
        monkeypatch.setattr(fast, "CONVOLUTIONAL_BLOCK", block)
        loss = _of_layer(net, layer, digits)
        values = loss.along(p, t)
        samples = loss.along(p, t, reduction="none")
        slopes = loss.slopes(p, t)
        assert values.shape == slopes.shape == (3, 4) and samples.shape == (3, 4, 300)
        for k in range(3):
            for j in range(4):
                moved = _moved(net, layer, t[j] * p[k])
                each = functional.cross_entropy(moved(x.double()), y, reduction="none")
                assert samples[k, j].numpy() == pytest.approx(each.detach().numpy(), rel=1e-10, abs=1e-12)
                assert values[k, j].item() == pytest.approx(each.mean().item(), rel=1e-12)
                (gradient,) = torch.autograd.grad(each.mean(), layers.checked_layer(moved, layer).weight)
                exact = (gradient.reshape(-1) @ p[k]).item()
                assert slopes[k, j].item() == pytest.approx(exact, rel=1e-9, abs=1e-13)


def test_each_direction_can_have_distances_of_its_own_and_changes_are_distance_one(digits):
    net = NETS["dense"]()
    loss = _of_layer(net, 1, digits)
    p, t = _directions(loss.size), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    own = loss.along(p, t)
    for k in range(3):
        assert own[k].numpy() == pytest.approx(loss.along(p[k : k + 1], t[k])[0].numpy(), rel=1e-13)
    assert loss.losses(loss.vector + t[:, :1] * p).numpy() == pytest.approx(own[:, 0].numpy(), rel=1e-12)
    assert loss.losses(p.numpy(), reduction="none").shape == (3, 300)


def test_slopes_of_samples_average_to_the_slope_and_scatter_as_their_gradients_do(digits):
    net = NETS["dense"]()
    loss = _of_layer(net, 1, digits)
    p = _directions(loss.size)
    each = loss.slopes(p, torch.zeros(1), reduction="none")[:, 0]
    assert each.mean(1).numpy() == pytest.approx(loss.slopes(p, torch.zeros(1))[:, 0].numpy(), rel=1e-10)
    own = _moved(net, 1, torch.zeros(loss.size))
    for n in (0, 17):
        one = functional.cross_entropy(
            own(digits.train_inputs[n : n + 1].double()), digits.train_labels[n : n + 1]
        )
        (gradient,) = torch.autograd.grad(one, layers.checked_layer(own, 1).weight)
        assert each[:, n].numpy() == pytest.approx((p @ gradient.reshape(-1)).numpy(), rel=1e-9, abs=1e-13)


def test_tiny_losses_keep_their_relative_precision_and_large_ones_do_not_overflow():
    from mpmath import exp, log1p

    margins = torch.tensor([-2000.0, -800.0, -1.0, 0.0, 3.0, 40.0, 300.0, 700.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(8), torch.full((8,), -1.0)], 1).double()
    loss = sample_losses(logits, torch.zeros(8, dtype=torch.int64))
    exact = [float(log1p(exp(-m) + exp(-m - 1))) for m in margins.tolist()]
    assert loss.numpy() == pytest.approx(exact, rel=1e-14)
    # −ln softmax rounds the loss at a margin of 40 to zero, even in float64.
    assert functional.cross_entropy(logits[5:6], torch.tensor([0])) == 0 < loss[5]
    assert sample_losses(logits.float(), torch.zeros(8, dtype=torch.int64))[:6].numpy() == pytest.approx(
        exact[:6], rel=1e-5
    )


@pytest.mark.parametrize("name", NETS)
def test_losses_at_whole_weight_vectors_are_those_of_the_nets(digits, monkeypatch, name):
    nets = [models.initialised(NETS[name](), rng=r) for r in range(5)]
    vectors = torch.stack([nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets])
    x, y = digits.train_inputs, digits.train_labels
    for block in (1 << 18, 3000):
        monkeypatch.setattr(fast, "BLOCK", block)
        monkeypatch.setattr(fast, "CONVOLUTIONAL_BLOCK", block)
        loss = Subject(nets[0], x, y).to(torch.float64)
        values, samples = loss.losses(vectors), loss.losses(vectors, reduction="none")
        for k, net in enumerate(nets):
            each = functional.cross_entropy(net.double()(x.double()), y, reduction="none").detach()
            assert samples[k].numpy() == pytest.approx(each.numpy(), rel=1e-10)
            assert values[k].item() == pytest.approx(each.mean().item(), rel=1e-12)


def test_the_net_given_is_not_changed_nor_followed(digits):
    net = NETS["dense"]()
    loss = _of_layer(net, 1, digits)
    before, digest = loss.losses(), layers.net_digest(net)
    loss.along(_directions(loss.size), torch.ones(2))
    assert layers.net_digest(net) == digest
    with torch.no_grad():
        next(net.parameters()).zero_()
    assert torch.equal(loss.losses(), before)


def test_shapes_that_do_not_fit_are_refused(digits):
    net = NETS["dense"]()
    with pytest.raises(ValueError, match="layers are 0"):
        _of_layer(net, 5, digits)
    loss = _of_layer(net, 1, digits)
    with pytest.raises(ValueError, match=r"must be \(K, 400\)"):
        loss.losses(torch.zeros(2, 399))
    with pytest.raises(ValueError, match=r"\(T,\) or \(2, T\)"):
        loss.along(torch.zeros(2, 400), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="reduction='sum'"):
        loss.losses(torch.zeros(2, 400), reduction="sum")
    with pytest.raises(ValueError, match=r"must be \(K, 1880\)"):
        Subject(net, digits.train_inputs, digits.train_labels).losses(torch.zeros(2, 400))
