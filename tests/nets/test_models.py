"""The papers' nets: sizes, seeded weights and their law, descriptions, digests."""

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from nets import layers, models

#: Net, shapes of its weights as the papers print them, shape of an input.
NETS = {
    "784-50-50-10": (lambda **o: models.fully_connected((784, 50, 50, 10), **o), [(50, 784), (50, 50), (10, 50)], (1, 28, 28)),
    "784-50-50-50-50-10": (
        lambda **o: models.fully_connected((784, 50, 50, 50, 50, 10), **o),
        [(50, 784), (50, 50), (50, 50), (50, 50), (10, 50)], (1, 28, 28),
    ),
    "1×3×3×16, pool, 16×5×5×32, pool, 1568-10": (models.lenet_mnist, [(16, 1, 3, 3), (32, 16, 5, 5), (10, 1568)], (1, 28, 28)),
    "3×5×5×6, pool, 6×5×5×16, pool, 400-120-84-10": (
        models.lenet_cifar10, [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)], (3, 32, 32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_nets_have_the_papers_layers(name):
    make, shapes, inputs = NETS[name]
    net = make(rng=0)
    held = layers.weight_layers(net)
    assert [tuple(layer.weight.shape) for _, layer in held] == shapes
    assert all(layer.bias is None for _, layer in held) and layers.description(net) == name
    assert net(torch.zeros(2, *inputs)).shape == (2, 10)
    biased = make(rng=0, bias=True)
    assert all(layer.bias is not None for _, layer in layers.weight_layers(biased))
    assert layers.description(biased) == name + ", bias"


def test_the_same_seed_gives_the_same_weights_and_torchs_generator_is_left_alone():
    state = torch.get_rng_state()
    a, b, c = (models.fully_connected((9, 8, 7), rng=r) for r in (0, 0, 1))
    assert layers.net_digest(a) == layers.net_digest(b) != layers.net_digest(c)
    assert torch.equal(torch.get_rng_state(), state)


class Scale(nn.Module):
    """A factor: in the class, in the module, as a buffer, or in a function."""

    power = 1

    def __init__(self, factor=1.0, buffer=1.0, function=torch.sin):
        super().__init__()
        self._factor, self.function = factor, function
        self.register_buffer("buffer", torch.tensor(buffer), persistent=False)

    def forward(self, x):
        """The product."""
        return self._factor * self.buffer * self.function(x) ** self.power


def _power(exponent):
    return lambda x: x**exponent


def _subclass(base, **own):
    return type(base.__name__, (base,), own)()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.ReLU(), nn.Tanh()), (nn.LeakyReLU(0.01), nn.LeakyReLU(0.5)), (nn.Softplus(1), nn.Softplus(5)),
        (nn.MaxPool1d(2), nn.AvgPool1d(2)), (nn.Dropout(0.5), nn.Dropout(0.5).eval()),
        (nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")),
        (nn.Sequential(nn.ReLU(), nn.Softmax(1)), nn.Sequential(nn.Softmax(1), nn.ReLU())),
        (nn.ReLU(), _subclass(nn.ReLU, forward=lambda self, x: torch.sin(x))),
        (_subclass(nn.ReLU, forward=lambda self, x: x), _subclass(nn.ReLU, forward=lambda self, x: -x)),
        (Scale(), Scale(factor=2.0)), (Scale(), Scale(buffer=2.0)), (Scale(), _subclass(Scale, power=2)),
        (Scale(), Scale(function=torch.cos)), (Scale(function=_power(2)), Scale(function=_power(3))),
        (nn.Linear(1, 1).float(), nn.Linear(1, 1).double()),
    ],
)  # fmt: skip
def test_a_digest_tells_nets_apart_that_compute_otherwise(one, other):
    for net in (one, other):
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
    digests = [layers.net_digest(nn.Sequential(net)) for net in (one, copy.deepcopy(one), other)]
    assert digests[0] == digests[1] != digests[2]


def _digests():
    nets = models.fully_connected((4, 3), rng=0), models.lenet_cifar10(rng=0), Scale(function=_power(2))
    return [layers.net_digest(net) for net in nets]


def test_a_digest_is_the_same_in_every_process():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        there = executor.submit(_digests).result()
    assert there == _digests()


def test_initial_weights_follow_the_law_that_is_named():
    uniform = models.fully_connected((400, 300, 10), rng=0)
    he = models.fully_connected((400, 300, 10), rng=0, initial="he")
    for place in (1, 3):
        fan_in = uniform[place].in_features
        scaled = uniform[place].weight.detach().numpy().ravel() * np.sqrt(fan_in)
        assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 1e-3
        normal = he[place].weight.detach().numpy().ravel() * np.sqrt(fan_in / 2)
        assert stats.kstest(normal, "norm").pvalue > 1e-3
        assert stats.kstest(normal / np.sqrt(2), "norm").pvalue < 1e-9
    # Torch's own nets, the paper's: the same law.
    torch_scale = nn.Linear(400, 300, bias=False).weight.std().item() * np.sqrt(3 * 400)
    assert torch_scale == pytest.approx(1, abs=0.02)
    assert (models.fully_connected((4, 3), bias=True, rng=0, initial="he")[1].bias == 0).all()


def test_nets_that_make_no_sense_are_refused():
    for sizes in ((), (5,), (5, 0, 2)):
        with pytest.raises(ValueError, match="at least two positive numbers"):
            models.fully_connected(sizes)
    with pytest.raises(ValueError, match="initial='xavier'"):
        models.fully_connected((3, 2), initial="xavier")
