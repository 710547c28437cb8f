"""Measurements of any model: against autograd by hand, and the general form against the fast one."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure import components, controls, loss_widths, minibatch_losses
from nets.measure.curvature import fisher, hessian, hessian_operator, spectral_density, top_eigenpairs
from nets.measure.directions import along_directions
from nets.measure.noise import (
    minibatch_gradients,
    noise_covariance,
    noise_trace,
    per_sample_gradients,
    projected_gradients,
)
from nets.measure.overlaps import noise_alignment
from nets.measure.subject import Subject, as_subject, cross_entropy, layer_names, numpy
from nets.measure.temperature import active_temperature
from nets.training.networks import sample_losses


class Residual(nn.Module):
    """x + W₂ tanh(W₁ x + b), normalised by its batch's statistics in training, then to two outputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4, bias=False))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(x + self.inner(x)))


def _residual(samples=12):
    torch.manual_seed(0)
    model = Residual().double()
    return model, torch.randn(samples, 4).double(), torch.randn(samples, 2).double()


CHOICES = {"all": "all", "one": "inner.0.weight", "pattern": ["inner.*", "head.bias"]}


def _by_hand(model, x, y, names):
    """Losses of samples, their gradients and the mean's Hessian, as functions of one vector of the weights."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    chosen = [dict(model.named_parameters())[n] for n in names]
    losses = [((model(x[s : s + 1]) - y[s : s + 1]) ** 2).mean() for s in range(len(x))]
    flat = lambda parts: torch.cat([p.flatten() for p in parts])  # noqa: E731
    gradients = torch.stack([flat(torch.autograd.grad(l, chosen, retain_graph=True)) for l in losses])
    mean = flat(torch.autograd.grad(sum(losses) / len(losses), chosen, create_graph=True))
    rows = [flat(torch.autograd.grad(g, chosen, retain_graph=True, materialize_grads=True)) for g in mean]
    return torch.stack(losses).detach().numpy(), gradients.numpy(), torch.stack(rows).numpy()


@pytest.mark.parametrize("weights", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("loss", [functional.mse_loss, nn.MSELoss(), lambda o, t: ((o - t) ** 2).mean(1)])
def test_a_residual_block_with_squared_errors_is_measured_as_autograd_says(weights, loss):
    model, x, y = _residual()
    subject = Subject(model, x, y, loss, weights)
    losses, gradients, H = _by_hand(model, x, y, subject.names)
    C = np.cov(gradients.T, bias=True)
    close = lambda values: pytest.approx(values, abs=1e-12)  # noqa: E731
    assert subject.losses(reduction="none")[0].numpy() == close(losses)
    assert float(subject.losses()[0]) == close(losses.mean())
    assert per_sample_gradients(subject).numpy() == close(gradients)
    assert torch.cat(list(subject.gradients(memory=3000))).numpy() == close(gradients)
    assert subject.gradient().numpy() == close(gradients.mean(0))
    assert noise_covariance(subject).covariance.to_numpy() == close(C)
    assert noise_trace(subject) == close(np.trace(C))
    assert hessian(subject).to_numpy() == close(H)
    v = np.random.default_rng(0).normal(size=(subject.size, 3))
    assert hessian_operator(subject) @ v == close(H @ v)
    assert subject.hessian_product(v[:, 0]).numpy() == close(H @ v[:, 0])
    assert projected_gradients(subject, directions=v) == close(gradients @ v)
    drawn = minibatch_gradients(subject, batch_size=12, draws=1, replacement=False, rng=0)
    assert drawn[0] == close(gradients.mean(0))
    top = top_eigenpairs(subject, count=2, tolerance=0)
    assert top.eigenvalue.to_numpy() == close(np.linalg.eigvalsh(H)[::-1][:2])
    ratio = noise_alignment(subject, top=2).size_ratio.to_numpy()
    assert ratio == pytest.approx([np.trace(C) / np.trace(H)], rel=1e-9)
    for kind in ("true", "empirical"):
        with pytest.raises(ValueError, match="cross-entropy of labels"):
            fisher(subject, kind=kind)
    near = along_directions(subject, directions=v)
    assert near.loss == close(losses.mean()) and near.gradient == close(gradients.mean(0) @ v)
    assert near.hessian == close(v.T @ H @ v)
    assert near.covariance == close(np.cov((gradients @ v).T, bias=True))
    assert noise_covariance(subject).attrs["net"] == "Residual"


def test_losses_along_directions_are_those_of_moved_models():
    model, x, y = _residual()
    subject = Subject(model, x, y, functional.mse_loss, "inner.*")
    p, t = torch.randn(2, subject.size).double(), torch.tensor([[0.0, 0.5], [-1.0, 2.0]])
    values, slopes = subject.along(p, t), subject.slopes(p, t)
    each = subject.along(p, t, reduction="none")
    assert values.shape == slopes.shape == (2, 2) and each.shape == (2, 2, 12)
    for k in range(2):
        for j in range(2):
            moved = subject.at(subject.vector + t[k, j] * p[k])
            losses, gradients, _ = _by_hand(moved.model, x, y, subject.names)
            assert each[k, j].numpy() == pytest.approx(losses, abs=1e-12)
            assert float(values[k, j]) == pytest.approx(losses.mean(), abs=1e-12)
            assert float(slopes[k, j]) == pytest.approx(gradients.mean(0) @ p[k].numpy(), abs=1e-12)
    assert float(subject.at(subject.vector + p[1] * 2).losses()[0]) == pytest.approx(float(values[1, 1]))


def test_widths_of_any_loss_end_where_it_is_e_times_its_start():
    model, x, y = _residual()
    subject = Subject(model, x, y, functional.mse_loss, "head.weight")
    modes = xr.Dataset({"direction": (("mode", "weight"), np.eye(8)[:3])}, {"mode": [1, 2, 3]})
    found = loss_widths.widths(subject, modes, double=True)
    ends = np.stack([found.left, found.right], 1)
    reached = subject.along(np.eye(8)[:3], ends).numpy() / float(subject.losses()[0])
    assert reached == pytest.approx(np.e, rel=3e-3)
    hot = active_temperature(subject, modes, batch_size=3, learning_rate=0.2)
    slopes = per_sample_gradients(subject).numpy()[:, :3]
    assert hot.temperature[:, 0].to_numpy() == pytest.approx(0.1 * slopes.var(0) / 3 * 9 / 11, rel=1e-10)
    curves = minibatch_losses.profiles(subject, modes, found, batch_size=4, learning_rate=0.2, points=5)
    assert curves.loss[:, 2].to_numpy() == pytest.approx(float(subject.losses()[0]), rel=1e-10)
    basis = controls.hessian_basis(subject, count=3)
    assert basis.attrs["samples_used"] == subject.samples  # no sample's curvature is bounded by its loss
    assert basis.curvature.to_numpy() == pytest.approx(
        np.linalg.eigvalsh(hessian(subject))[::-1][:3], rel=1e-5
    )
    with pytest.raises(ValueError, match="learning_rate"):
        active_temperature(subject, modes)


def test_the_model_is_as_it_was_after_everything():
    model, x, y = _residual()
    model.head.requires_grad_(False)
    before, digest = copy.deepcopy(model.state_dict()), Subject(model, x, y, functional.mse_loss).digest
    subject = Subject(model, x, y, functional.mse_loss)
    subject.losses(), subject.gradient(), hessian(subject), list(subject.gradients())
    assert model.training and model.norm.training and subject.digest == digest
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False] * 2
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.head.weight.zero_()
    assert subject.digest == digest != Subject(model, x, y, functional.mse_loss).digest


NETS = {
    "dense": lambda: models.fully_connected((64, 5, 6, 10), rng=0),
    "biased": lambda: models.fully_connected((64, 5, 6, 10), rng=0, bias=True),
    "convolutional": lambda: models.initialised(
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3, bias=False),
            nn.ReLU(), nn.Flatten(), nn.Linear(12, 10),
        ),
        rng=0,
    ),
}  # fmt: skip


def _same(one, other, abs=1e-12):
    """All numbers of two results agree."""
    if isinstance(one, xr.Dataset):
        for name in one.data_vars:
            _same(one[name].to_numpy(), other[name].to_numpy(), abs)
        return
    assert np.asarray(one) == pytest.approx(np.asarray(other), abs=abs, rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("layer", [None, 1, 2])
def test_the_general_form_has_the_numbers_of_the_fast_one(name, layer):
    data = datasets.load("digits").subset(60)
    net, x, y = NETS[name]().double(), data.train_inputs, data.train_labels
    weights = "all" if layer is None else layer_names(net, layer, bias=layer != 2)
    fast = Subject(net, x, y, weights=weights)
    slow = Subject(net, x, y, functional.cross_entropy, weights, fast=False)
    assert fast.tail is not None and slow.tail is None and fast.size == slow.size
    v = np.linalg.qr(np.random.default_rng(1).normal(size=(fast.size, 2)))[0]
    _same(per_sample_gradients(fast), per_sample_gradients(slow))
    _same(noise_trace(fast), noise_trace(slow))
    _same(projected_gradients(fast, directions=v), projected_gradients(slow, directions=v))
    _same(minibatch_gradients(fast, batch_size=9, draws=2, rng=0), minibatch_gradients(slow, batch_size=9, draws=2, rng=0))  # fmt: skip
    for f in ("losses", "outputs"):
        _same(getattr(fast, f)(), getattr(slow, f)())
    _same(*(s.losses(numpy(s.vector) + v.T, reduction="none") for s in (fast, slow)))
    t = torch.tensor([-3.0, 0.0, 0.5])
    for reduction in ("mean", "none"):
        for kind in ("along", "slopes"):
            _same(*(getattr(s, kind)(v.T, t, reduction=reduction) for s in (fast, slow)))
    _same(fast.hessian_product(v), slow.hessian_product(v))
    near = [vars(along_directions(s, directions=v)).values() for s in (fast, slow)]
    for one, other in zip(*near, strict=True):
        _same(one, other)
    tops = [top_eigenpairs(s, count=3, tolerance=1e-10, rng=0) for s in (fast, slow)]
    _same(tops[0].eigenvalue, tops[1].eigenvalue)
    _same(abs(tops[0].eigenvector), abs(tops[1].eigenvector), 1e-6)
    if (name, layer) == ("biased", 1):
        densities = [spectral_density(s, nodes=6, repeats=1, rng=0, points=32) for s in (fast, slow)]
        # The ends of the spectrum are found to a per cent: there rounding grows.
        _same(*densities, abs=1e-6 * float(densities[0].max()))
    if fast.size < 600:
        _same(noise_covariance(fast), noise_covariance(slow))
        _same(hessian(fast), hessian(slow))
        for kind in ("true", "empirical"):
            _same(fisher(fast, kind=kind), fisher(slow, kind=kind))
        found = [noise_alignment(s) for s in (fast, slow)]
        for quantity in ("pearson_elements", "coefficient", "size_ratio", "loss", "error", "label_ratio"):
            _same(found[0][quantity], found[1][quantity], 1e-9)


@pytest.fixture(scope="module")
def biased():
    data = datasets.load("digits").subset(300)
    net = models.fully_connected((64, 12, 12, 10), rng=1, bias=True)
    start = train.sgd(net, data, learning_rate=0.1, batch_size=20, epochs=30, rng=0)
    window, run = train.record_and_continue(start, layer=1, epochs=5)
    return run, window


def test_widths_profiles_and_temperatures_have_the_same_numbers_in_both_forms(biased):
    run, window = biased
    modes = components.analyse(window, count=6)
    fast, slow = (
        Subject(run.net, run.data.train_inputs, run.data.train_labels, weights="3.weight", fast=f).to(
            torch.float64
        )
        for f in (True, False)
    )
    found = [loss_widths.widths(s, modes, double=True) for s in (run, fast, slow)]
    for other in found[1:]:
        _same(found[0], other)
    _same(loss_widths.profiles(run, modes, found[0]), loss_widths.profiles(slow, modes, found[0]))
    numbers = {"batch_size": 20, "learning_rate": 0.1}
    _same(active_temperature(run, modes), active_temperature(slow, modes, **numbers))
    curves = minibatch_losses.profiles(run, modes, found[0], points=5)
    _same(curves, minibatch_losses.profiles(slow, modes, found[0], points=5, **numbers))
    own = as_subject(run.net, run.data.train_inputs, run.data.train_labels, layer=1)
    _same(noise_trace(run, layer=1), noise_trace(own))


def test_eigenvectors_of_a_layer_with_bias_are_numbered_as_its_windows(biased):
    run, window = biased
    basis = controls.hessian_basis(run, layer=1, count=4, share=1)
    assert basis.sizes["weight"] == window.sizes["weight"] == 144 and window.attrs["biases"] == "left out"
    assert np.isfinite(loss_widths.widths(run, basis).width).all()
    assert components.project(window, basis).sizes["mode"] == 4
    own = Subject(run.net, run.data.train_inputs, run.data.train_labels, weights="3.weight").to(torch.float64)
    H = hessian(own).to_numpy()
    for value, direction in zip(basis.curvature, basis.direction.to_numpy(), strict=True):
        assert direction @ H @ direction == pytest.approx(float(value), rel=1e-4)
    # The Hessian by weights and biases has more rows.
    assert hessian(run, layer=1).sizes["weight"] == 156


def test_the_cross_entropy_keeps_the_digits_of_tiny_losses_and_does_not_overflow():
    margins = torch.tensor([-2000.0, -800.0, -1.0, 0.0, 3.0, 40.0, 300.0, 700.0], dtype=torch.float64)
    logits = torch.stack([margins, torch.zeros(8), torch.full((8,), -1.0)], 1).double()
    labels = torch.zeros(8, dtype=torch.int64)
    expected = sample_losses(logits, labels).numpy()
    assert cross_entropy(logits, labels).numpy() == pytest.approx(expected, rel=1e-14)
    (gradient,) = torch.autograd.grad(cross_entropy(logits.requires_grad_(), labels).sum(), logits)
    exact = torch.softmax(logits.detach(), 1) - functional.one_hot(labels, 3)
    assert gradient.numpy() == pytest.approx(exact.numpy(), abs=1e-15)


class Wrapped(nn.Module):
    """A dense net with something before or after it: any function of the net and the inputs."""

    def __init__(self, function, outputs=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs)).double()
        self.function = function

    def forward(self, x):
        return self.function(self.net, x)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Sine(nn.ReLU):
    def forward(self, x):
        return x.sin()


class Squared(nn.Sequential):
    def forward(self, x):
        return super().forward(x) ** 2


def _hooked(module, register, hook):
    getattr(module[-1], register)(hook)
    return module


def _net(first=nn.Linear, middle=nn.ReLU, whole=nn.Sequential):
    torch.manual_seed(0)
    return whole(first(4, 3), middle(), nn.Linear(3, 2)).double()


ALTERED = {
    "Linear": lambda: _net(first=Scaled),
    "ReLU": lambda: _net(middle=Sine),
    "Sequential": lambda: _net(whole=Squared),
    "forward hook": lambda: _hooked(_net(), "register_forward_hook", lambda m, x, y: 3 * y),
    "hook before": lambda: _hooked(_net(), "register_forward_pre_hook", lambda m, x: (3 * x[0],)),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2)
    ).double(),
}


@pytest.mark.parametrize("name", ALTERED)
def test_layers_that_are_not_what_their_type_says_take_the_general_form(name):
    model, x, y = ALTERED[name](), torch.randn(9, 4).double(), torch.arange(9) % 2
    for weights in ("all", "0.*"):
        subject = Subject(model, x, y, weights=weights)
        assert subject.tail is None
        own = copy.deepcopy(model).eval()
        chosen = [dict(own.named_parameters())[n] for n in subject.names]
        loss = functional.cross_entropy(own(x), y)
        exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)]).numpy()
        assert subject.gradient().numpy() == pytest.approx(exact, abs=1e-12)
        assert per_sample_gradients(subject).mean(0).numpy() == pytest.approx(exact, abs=1e-12)
        assert float(subject.along(np.zeros((1, subject.size)), [0.0])) == pytest.approx(loss.item())
        H = hessian(subject)
        assert H.attrs["method"] == "products" and H.attrs["asymmetry"] < 1e-12


def test_arrays_and_other_precisions_are_the_same_data():
    model, x, y = _residual()
    labels = torch.arange(12) % 2
    expected = Subject(model, x, labels).gradient()
    for inputs, targets in (
        (x.numpy()[::-1], labels.numpy().astype(np.uint8)[::-1]), (x.tolist(), labels.tolist()),
        (x, labels.int()), (x.clone().requires_grad_(), labels.to(torch.int8)),
    ):  # fmt: skip
        found = as_subject(model, inputs, targets).gradient().numpy()
        assert found == pytest.approx(expected.numpy(), abs=1e-14)
    single = copy.deepcopy(model).float()
    one, other = (Subject(single, x.to(k), y.to(k), nn.MSELoss()) for k in (torch.float32, torch.float64))
    assert hessian(one).to_numpy() == pytest.approx(hessian(other).to_numpy(), abs=1e-6)
    tokens = Wrapped(lambda net, x: net(x)[:, :, None].expand(-1, -1, 2))
    loss = Subject(tokens, x, torch.stack([labels, labels], 1)).losses()
    assert float(loss) == pytest.approx(float(Subject(tokens.net, x, labels).losses()))


@pytest.mark.parametrize("fast", [True, False])
def test_data_that_change_later_are_not_followed(fast):
    net, x, y = _net(), torch.randn(9, 4).double(), torch.arange(9) % 2
    subject, early = (Subject(net, x, y, weights="2.*", fast=fast) for _ in range(2))
    expected = early.losses(), early.gradient(), early.hessian_product(early.vector), *early.gradients()
    x += 1
    found = (
        subject.losses(),
        subject.gradient(),
        subject.hessian_product(subject.vector),
        *subject.gradients(),
    )
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


LABELS, NUMBERS = torch.arange(12) % 2, torch.randn(12, 2).double()
EMBEDDING = nn.Sequential(nn.Embedding(3, 4, padding_idx=0), nn.Flatten(), nn.Linear(16, 2))
REFUSED = {
    "random": (Wrapped(lambda net, x: net(functional.dropout(x, 0.5))), LABELS, "draws random numbers"),
    "centred": (Wrapped(lambda net, x: net(x) - net(x).mean(0)), LABELS, "change with the others beside it"),
    "branch": (Wrapped(lambda net, x: net(x) * x.sum().sign()), LABELS, "change with the others beside it"),
    "batch norm": (
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)), LABELS, "one sample alone"
    ),
    "squeezed": (Wrapped(lambda net, x: net(x).squeeze(), 1), LABELS.double(), "one sample alone"),
    "tuple": (Wrapped(lambda net, x: (net(x), x)), LABELS, "gives a tuple for 12 samples; wrap it"),
    "dict": (Wrapped(lambda net, x: {"logits": net(x)}), LABELS, "gives a dict for 12 samples; wrap it"),
    "pooled": (Wrapped(lambda net, x: net(x)[:3]), LABELS, r"gives shape \(3, 2\) of torch.float64 for 12"),
    "in place": (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), LABELS, "changes its inputs in place"),
    "padding": (EMBEDDING, LABELS, "padding_idx=0"),
    "broadcast": (Wrapped(lambda net, x: net(x), 1), NUMBERS[:, 0], r"\(12, 1\) and targets \(12,\)"),
    "label −1": (Wrapped(lambda net, x: net(x)), LABELS - 1, "labels from -1 to 0 must lie between 0 and 1"),
    "label 2": (Wrapped(lambda net, x: net(x)), LABELS + 1, "labels from 1 to 2 must lie between 0 and 1"),
    "ignored": (Wrapped(lambda net, x: net(x)), LABELS * -100, "ignores labels -100"),
    "columns": (Wrapped(lambda net, x: net(x)), LABELS[:, None], r"the loss fails on outputs \(12, 2\)"),
    "whole inputs": (_net().float(), LABELS, "the model fails on inputs .* of torch.int64"),
    "no module": (torch.tanh, LABELS, "a torch module and a loss to call"),
    "text": (_net(), ["a"] * 12, "targets must be one tensor or array of numbers, not a list"),
    "scalar": (_net(), torch.tensor(1.0), "must be M each"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", REFUSED)
def test_models_and_data_without_one_loss_per_sample_are_refused(name):
    model, targets, message = REFUSED[name]
    x = torch.randn(12, 4).double() if name not in ("whole inputs", "padding") else torch.ones(12, 4).long()
    loss = functional.mse_loss if getattr(targets, "dtype", None) == torch.float64 else cross_entropy
    model = copy.deepcopy(model)
    before, state = x.clone(), torch.random.get_rng_state()
    if isinstance(model, nn.Module):
        model = model.double() if name != "whole inputs" else model
        kept = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        Subject(model, x, targets, loss)
    assert "\n" not in str(caught.value)
    assert torch.equal(x, before) and torch.equal(state, torch.random.get_rng_state())
    if isinstance(model, nn.Module):
        assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters())
        assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": nn.MSELoss}, r"loss=MSELoss is a class: call it, MSELoss\("),
        ({"model": nn.Identity}, "model=Identity is a class"),
        ({"inputs": torch.full((12, 4), torch.nan).double()}, "not all numbers are finite in inputs"),
        ({"targets": NUMBERS / 0, "loss": nn.MSELoss()}, "not all numbers are finite in targets"),
        ({"model": _net().half()}, "the weights are torch.float16: give a model in float32"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).double())}, "torch.float32, torch.float64"),
        ({"loss": lambda o, t: -(o[:, 0].abs() * 0).log()}, "the loss at these weights is inf"),
        ({"loss": nn.CrossEntropyLoss(reduction="none"), "targets": LABELS * -100}, "ignores labels -100"),
        ({"loss": nn.CrossEntropyLoss(ignore_index=1)}, "ignores labels 1"),
    ],
)  # fmt: skip
def test_numbers_and_losses_that_make_no_mean_are_refused(change, message):
    parts = {"model": _net(), "inputs": torch.randn(12, 4).double(), "targets": LABELS}
    with pytest.raises(ValueError, match=message):
        Subject(**(parts | change))


def test_losses_without_a_derivative_and_models_that_use_others_are_refused():
    net, x = _net(), torch.randn(12, 4).double()
    with pytest.raises(ValueError, match="no derivative by the outputs"):
        Subject(net, x, NUMBERS, lambda o, t: ((o.detach() - t) ** 2).mean(1))
    with pytest.raises(ValueError, match="depend on weights that a copy"):
        Subject(Wrapped(lambda own, x: net(x)), x, LABELS)


def test_a_hessian_that_is_not_symmetric_is_refused_and_what_torch_cannot_do_says_so():
    x = torch.randn(12, 4).double()
    with pytest.warns(UserWarning, match="gradient is not the derivative"):
        fixed = Subject(Wrapped(lambda net, x: net[1:](torch.no_grad()(net[0])(x))), x, LABELS)
    assert per_sample_gradients(fixed).shape == (12, fixed.size)
    for measure in (hessian, top_eigenpairs):
        with pytest.raises(ValueError, match="derivatives are not those of the loss"):
            measure(fixed)
    directions = np.eye(fixed.size)[:, :2]
    with pytest.raises(ValueError, match="derivatives are not those of the loss"):
        along_directions(fixed, directions)
    assert np.isnan(along_directions(fixed, directions, second=False).hessian).all()
    hinge = Subject(_net(), x, LABELS, nn.MultiMarginLoss())
    with pytest.raises(RuntimeError, match=r"torch\.func gives no Hessian products") as caught:
        hessian(hinge)
    assert caught.value.__cause__ is not None


def test_gradients_that_are_straight_through_estimates_are_warned_of():
    x = torch.randn(12, 4).double()
    with pytest.warns(UserWarning, match="straight-through") as caught:
        Subject(Wrapped(lambda net, x: net(x) + (net(x).round() - net(x)).detach()), x, LABELS)
    assert caught[0].filename == __file__


class Sequence(nn.Module):
    """A layer for sequences between a spread of the inputs over three places and a mean over them."""

    def __init__(self, layer, width=4):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 2)

    def forward(self, x):
        z = x[:, None] * torch.arange(1.0, 4.0, dtype=x.dtype)[:, None]
        z = self.layer(z, z, z) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(z)
        return self.head((z[0] if isinstance(z, tuple) else z).mean(1))


def _tied(part="weight"):
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    setattr(other, part, getattr(one, part))
    return nn.Sequential(one, nn.Tanh(), other, nn.Linear(4, 2))


def _twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))


def _frozen(*names):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def _with(*modules, width=4):
    return nn.Sequential(nn.Linear(4, 4), *modules, nn.Linear(width, 2))


def _padded(mode):
    convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode)
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


KINDS = {
    "a module twice": (_twice, 30), "tied weights": (_tied, 34), "tied biases": (lambda: _tied("bias"), 46),
    "frozen first": (lambda: _frozen("0.weight", "0.bias"), 23),
    "frozen last": (lambda: _frozen("4.weight", "4.bias", "2.bias"), 32),
    "in place": (lambda: _with(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)), 30),
    "dropout": (lambda: _with(nn.Tanh(), nn.Dropout(0.5)), 30),
    "layer norm": (lambda: _with(nn.LayerNorm(4), nn.SiLU()), 38),
    "group norm": (lambda: _with(nn.GroupNorm(2, 4), nn.GELU()), 38),
    "circular": (lambda: _padded("circular"), 38), "reflect": (lambda: _padded("reflect"), 38),
    "replicate": (lambda: _padded("replicate"), 38),
    "attention": (lambda: Sequence(nn.MultiheadAttention(4, 2, batch_first=True)), 90),
    "transformer": (lambda: Sequence(nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)), 146),
    "GRU": (lambda: Sequence(nn.GRU(4, 2, batch_first=True), 2), 54),
    "RNN": (lambda: Sequence(nn.RNN(4, 2, batch_first=True), 2), 22),
    "LSTM": (lambda: Sequence(nn.LSTM(4, 2, batch_first=True), 2), 70),
}  # fmt: skip
LOSSES = {"squares": functional.mse_loss, "Huber": nn.HuberLoss(delta=0.3), "cross-entropy": cross_entropy}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_measured_as_autograd_says(name, loss):
    make, size = KINDS[name]
    if loss == "Huber" and name not in ("tied weights", "in place"):
        pytest.skip("one layer or another makes no difference")
    torch.manual_seed(1)
    model, x = make().double(), torch.randn(5, 4).double()
    y = torch.arange(5) % 2 if loss == "cross-entropy" else torch.randn(5, 2).double()
    subject = Subject(model, x, y, LOSSES[loss])
    assert subject.size == size == len(subject.vector)
    v = np.random.default_rng(0).normal(size=(size, 2))
    here, there = (
        _by_autograd(subject.at(subject.vector.numpy() + t * v[:, 0]), LOSSES[loss]) for t in (0.0, 0.7)
    )
    for (losses, gradients, _), t in ((there, 0.7), (here, 0.0)):  # the last is as nothing had been moved
        moved = subject.along(v.T[:1], [t], reduction="none")[0, 0].numpy()
        assert moved == pytest.approx(losses, abs=1e-10)
        assert float(subject.slopes(v.T[:1], [t])) == pytest.approx(gradients.mean(0) @ v[:, 0], abs=1e-10)
    losses, gradients, H = here
    assert per_sample_gradients(subject).numpy() == pytest.approx(gradients, abs=1e-10)
    assert subject.gradient().numpy() == pytest.approx(gradients.mean(0), abs=1e-10)
    assert subject.hessian_product(v).numpy() == pytest.approx(H @ v, abs=1e-10)
    near = along_directions(subject, v)
    assert near.gradient == pytest.approx(gradients.mean(0) @ v, abs=1e-10)
    assert near.hessian == pytest.approx(v.T @ H @ v, abs=1e-10)
    if subject.labelled:
        assert fisher(subject, kind="empirical").to_numpy() == pytest.approx(
            gradients.T @ gradients / 5, abs=1e-10
        )
        fisher(subject, kind="true")
    assert subject.losses(reduction="none")[0].numpy() == pytest.approx(losses, abs=1e-10)


def _by_autograd(subject, loss):
    """Losses of samples, their gradients and the mean's Hessian, at a subject's weights."""
    model = copy.deepcopy(subject.model).requires_grad_(True)
    chosen = [model.get_parameter(name) for name in subject.names]
    loss = functional.cross_entropy if loss is cross_entropy else loss
    with sdpa_kernel(SDPBackend.MATH):  # the other form of attention has no second derivative
        losses = [loss(model(x[None]), y[None]) for x, y in zip(subject.inputs, subject.targets, strict=True)]
    flat = lambda parts: torch.cat([p.flatten() for p in parts])  # noqa: E731
    options = {"retain_graph": True, "materialize_grads": True}
    gradients = torch.stack([flat(torch.autograd.grad(l, chosen, **options)) for l in losses])
    mean = flat(torch.autograd.grad(sum(losses) / len(losses), chosen, create_graph=True, **options))
    rows = [flat(torch.autograd.grad(g, chosen, **options)) for g in mean]
    return torch.stack(losses).detach().numpy(), gradients.numpy(), torch.stack(rows).numpy()


def test_tied_and_frozen_weights_are_chosen_by_any_of_their_names():
    x = torch.randn(5, 4)
    for pattern in ("0.*", "2.*", "2.weight"):
        assert Subject(_twice(), x, LABELS[:5], weights=pattern).names[0] == "0.weight"
    assert as_subject(_twice(), x, LABELS[:5], layer=1).size == 20
    assert Subject(_frozen("0.weight"), x, LABELS[:5], weights="0.*").names == ("0.bias",)
    assert Subject(_frozen("0.weight"), x, LABELS[:5], weights="0.weight").size == 16
    with pytest.raises(ValueError, match="frozen weights only"):
        Subject(_frozen("0.weight", "0.bias"), x, LABELS[:5], weights="0.*")
    assert Subject(_frozen().requires_grad_(False), x, LABELS[:5]).size == 43


def _saturated():
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2)).double()
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.copy_(torch.tensor([1e4, 0.0]))
    return Subject(net, torch.randn(12, 4).double(), torch.zeros(12, dtype=torch.int64))


def test_a_hessian_of_zero_has_eigenvalues_zero():
    assert not top_eigenpairs(_saturated(), count=2).eigenvalue.any()
    net = nn.Sequential(nn.Linear(4, 30, bias=False), nn.ReLU(), nn.Linear(30, 2, bias=False)).double()
    subject = Subject(net, torch.zeros(12, 4).double(), LABELS)
    top = top_eigenpairs(subject, count=3)
    assert top.eigenvalue.to_numpy().tolist() == top.residual.to_numpy().tolist() == [0.0] * 3
    assert top.eigenvector.T.to_numpy() @ top.eigenvector.to_numpy() == pytest.approx(np.eye(3), abs=1e-14)
    assert not controls.hessian_basis(subject, count=2).curvature.any()
    for measure, message in ((spectral_density, "no density"), (noise_alignment, "nothing to align with")):
        with pytest.raises(ValueError, match=message):
            measure(subject)


@pytest.mark.parametrize("fast", [True, False])
def test_hessians_of_tiny_losses_keep_their_digits_in_single_precision(fast):
    net, x = _net().float(), torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net[-1].bias.copy_(torch.tensor([20.0, 0.0]))
    subject = Subject(net, x, torch.zeros(12, dtype=torch.int64), fast=fast)
    assert 0 < float(subject.losses()) < 1e-7
    v = np.random.default_rng(0).normal(size=(subject.size, 2)).astype(np.float32)
    exact = subject.to(torch.float64).hessian_product(v).numpy()
    assert subject.hessian_product(v).numpy() == pytest.approx(exact, abs=1e-4 * abs(exact).max())
    near, far = (along_directions(s, v).hessian for s in (subject, subject.to(torch.float64)))
    assert near == pytest.approx(far, abs=1e-4 * abs(far).max())


@pytest.mark.parametrize("fast", [True, False])
def test_a_tiny_loss_in_single_precision_is_no_ground_to_refuse_a_hessian(fast):
    net, x = _net().float(), torch.randn(12, 4)
    with torch.no_grad():
        net[-1].bias.copy_(torch.tensor([40.0, 0.0]))
    subject = Subject(net, x, torch.zeros(12, dtype=torch.int64), fast=fast)
    assert 0 < float(subject.losses()) < 1e-15
    assert torch.isfinite(subject.hessian_product(subject.vector)).all()


def test_numbers_that_are_not_whole_or_out_of_range_are_refused():
    subject = Subject(_net(), torch.randn(12, 4).double(), LABELS)
    for f, options, message in (
        (noise_covariance, {"batch_size": 1.5}, "batch_size=1.5 must be a whole number, at least 1"),
        (noise_covariance, {"batch_size": 13, "replacement": False}, "from 1 to 12, the samples"),
        (top_eigenpairs, {"count": 2.5}, "count=2.5 must be a whole number, from 1 to 22"),
        (spectral_density, {"nodes": 1}, "nodes=1 must be a whole number, at least 2"),
        (hessian, {"columns": 0}, "columns=0 must be a whole number"),
        (noise_alignment, {"top": 24}, "top=24 must be a whole number, from 1 to 23"),
    ):
        with pytest.raises(ValueError, match=message):
            f(subject, **options)
    for rows in (slice(0, 0), torch.tensor([], dtype=torch.int64)):
        for f in (subject.rows, subject.gradient):
            with pytest.raises(ValueError, match="hold no samples"):
                f(rows)
    modes = xr.Dataset({"direction": (("mode", "weight"), np.eye(23)[:2])}, {"mode": [1, 2]})
    for f, options, message in (
        (noise_trace, {"memory": 0}, "memory=0 must be a whole number"),
        (noise_covariance, {"memory": -1}, "memory=-1 must be a whole number"),
        (fisher, {"memory": 1.5, "kind": "true"}, "memory=1.5 must be a whole number"),
        (top_eigenpairs, {"tolerance": -1}, "tolerance=-1 must be a finite number, not negative"),
        (top_eigenpairs, {"tolerance": np.nan}, "tolerance=nan must be"),
        (along_directions, {"directions": np.full((23, 1), np.nan)}, "must be finite numbers"),
        (active_temperature, {"modes": modes, "batch_size": 3, "learning_rate": -0.1}, "learning_rate=-0.1"),
        (active_temperature, {"modes": modes, "batch_size": 3, "learning_rate": 0}, "learning_rate=0"),
    ):
        with pytest.raises(ValueError, match=message):
            f(subject, **options)
    with pytest.raises(ValueError, match="a name, a pattern"):
        Subject(_net(), subject.inputs, LABELS, weights=3)


def test_what_cannot_be_measured_is_refused_with_the_reason():
    model, x, y = _residual()
    with pytest.raises(ValueError, match="must be M each"):
        Subject(model, x, y[:3], functional.mse_loss)
    with pytest.raises(ValueError, match=r"weights='outer.\*' fits none of the model's: inner.0.weight"):
        Subject(model, x, y, functional.mse_loss, "outer.*")
    with pytest.raises(ValueError, match="give a loss of each sample"):
        Subject(model, x, y, lambda o, t: ((o - t) ** 2).mean())
    with pytest.raises(ValueError, match="not the mean"):
        Subject(model, x, y, nn.MSELoss(reduction="sum"))
    labels = torch.arange(12) % 2
    with pytest.raises(ValueError, match="class weights"):
        Subject(model, x, labels, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]).double()))
    smooth = Subject(model, x, labels, nn.CrossEntropyLoss(label_smoothing=0.1))
    assert Subject(model, x, labels).labelled and not smooth.labelled
    subject = Subject(model, x, labels)
    with pytest.raises(ValueError, match="no inputs, targets or layer"):
        as_subject(subject, layer=1)
    with pytest.raises(ValueError, match="give inputs and targets"):
        as_subject(model)
    with pytest.raises(TypeError, match="Sequential"):
        as_subject(model, x, labels, layer=0)
    with pytest.raises(ValueError, match="rows, one per weight"):
        projected_gradients(subject, directions=np.ones((3, 1)))


def test_a_subject_owns_its_loss_and_its_digest_names_it():
    model, x = nn.Linear(3, 2), torch.randn(8, 3)
    labels, weight = torch.arange(8) % 2, torch.tensor([1.0, 2.0])
    loss = nn.MSELoss(reduction="none")
    plain = Subject(model, x, labels)
    smooth = Subject(model, x, labels, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    squares = Subject(model, x, torch.zeros(8, 2), loss=loss)
    again = Subject(model, x, labels, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    assert len({plain.digest, smooth.digest, squares.digest}) == 3 and smooth.digest == again.digest
    weighted = nn.CrossEntropyLoss(weight=weight, reduction="none")
    subject = Subject(model, x, labels, loss=weighted)
    before = subject.losses()
    weighted.weight.mul_(6)
    assert torch.equal(torch.as_tensor(before), torch.as_tensor(subject.losses()))
