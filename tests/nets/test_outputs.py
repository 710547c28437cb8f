"""What is asked of every model: a row of numbers for each sample, on its own and the same each time."""

import pytest
import torch
from torch import nn

from nets import Subject, load, sgd
from nets.outputs import check_block, checked_outputs

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))


class Mixing(nn.Module):
    """Outputs that depend on the others beside them, where there are more than some."""

    def __init__(self, more_than, share=1.0):
        super().__init__()
        self.more_than, self.share = more_than, share

    def forward(self, x):
        return x - self.share * x.mean(0) if len(x) > self.more_than else x


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Mixing(1), "change with the others"),
        (Mixing(1, 0.01), "change with the others"),
        (Mixing(64), "change with the others"),
        (Mixing(256), "change with the others"),
        (nn.BatchNorm1d(4, affine=False, track_running_stats=False).eval(), "one sample alone"),
        (nn.Dropout(1e-4), "random numbers"),
        (nn.RReLU(), "random numbers"),
        (nn.ReLU(inplace=True), "in place"),
        (Counting(), "buffers"),
        (nn.BatchNorm2d(1, affine=False), "change with the others"),
    ],
)
def test_models_that_mix_draw_or_change_are_refused(model, message):
    x = X[:, None, :, None] if isinstance(model, nn.BatchNorm2d) else X

    def checked():
        checked_outputs(model, x[:20].clone())
        check_block(model, x)

    with torch.no_grad(), pytest.raises(ValueError, match=message):
        checked()


def test_a_mixture_of_more_samples_than_are_tried_is_refused_in_measurements():
    net = nn.Sequential(nn.Linear(4, 3), Mixing(100))
    with pytest.raises(ValueError, match="change with the others"):
        Subject(net, X, torch.arange(300) % 3)
    Subject(net, X[:90], torch.arange(90) % 3)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(1, affine=False), "change with the others"),
        (Mixing(200), "change with the others"),
        (nn.ReLU(inplace=True), "in place"),
    ],
)
def test_nets_that_mix_or_change_their_data_are_not_trained(layer, message):
    data = load("digits")
    before = data.digest
    with pytest.raises(ValueError, match=message):
        sgd(
            nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 10)),
            data,
            learning_rate=0.1,
            batch_size=50,
            epochs=1,
        )
    assert load("digits").digest == before


def test_probabilities_in_place_of_logits_are_warned_of():
    x, y = X, torch.arange(300) % 3
    with pytest.warns(UserWarning, match="outputs are probabilities") as caught:
        Subject(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), x, y)
    assert caught[0].filename == __file__
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
    with pytest.warns(UserWarning, match="outputs are probabilities"):
        sgd(net, load("digits"), learning_rate=0.1, batch_size=50, epochs=1, rng=0)
    soft = torch.softmax(torch.randn(300, 3), 1)
    with pytest.warns(UserWarning, match="outputs are probabilities"):
        Subject(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), x, soft, nn.CrossEntropyLoss())
    Subject(nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)), x, y)
    Subject(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), x, torch.rand(300, 3), nn.MSELoss())
