"""Layers of a net: numbers, copies with other weights, nets that are refused."""

from types import MethodType

import pytest
import torch
from torch import nn

from nets import layers, models


def test_layer_one_of_the_main_net_is_the_hidden_one_of_2500_weights():
    assert layers.checked_layer(models.fully_connected((784, 50, 50, 10)), 1).weight.numel() == 2500
    for bad in (3, -1, True, 1.0, "1"):
        with pytest.raises(ValueError, match="layers are 0: 784-50, 1: 50-50, 2: 50-10"):
            layers.checked_layer(models.fully_connected((784, 50, 50, 10)), bad)


def test_with_parameters_shares_no_weights():
    net = models.lenet_mnist(rng=0, bias=True)
    other = layers.with_parameters(net, [2 * p.detach() for p in net.parameters()])
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(2 * a, b)
    before = net(x)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(net(x), before) and (other(x) == 0).all()


def test_weights_outside_linear_and_convolutional_layers_are_refused():
    with pytest.raises(TypeError, match=r"is an nn\.Sequential"):
        layers.weight_layers(nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"module 1 \(BatchNorm1d\) holds weights"):
        layers.weight_layers(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))


def test_a_module_that_holds_itself_has_a_digest():
    net = nn.Sequential(nn.Linear(3, 2))
    net.forward = MethodType(lambda own, x: 2 * own[0](x), net)
    other = nn.Sequential(nn.Linear(3, 2))
    other.load_state_dict(net.state_dict())
    assert len({layers.net_digest(net), layers.net_digest(other)}) == 2
