"""Hessians, Fisher matrices, eigenpairs and spectra against dense oracles."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from torch import nn

from nets import layers, models
from nets import training as train
from nets.data import datasets
from nets.measure.curvature import fisher, hessian, hessian_operator, spectral_density, top_eigenpairs
from nets.measure.noise import noise_covariance, per_sample_gradients
from nets.measure.subject import as_subject


def _problem(samples=30, *, sizes=(6, 7, 5, 4), seed=0):
    rng = np.random.default_rng(seed)
    net = models.fully_connected(sizes, rng=seed).double()
    inputs, labels = rng.normal(size=(samples, sizes[0])), rng.integers(sizes[-1], size=samples)
    return net, torch.from_numpy(inputs), torch.from_numpy(labels)


def _dense(net, inputs, labels, layer):
    """torch's own Hessian of the loss as a function of one vector."""
    values = {n: p.detach() for n, p in net.named_parameters()}
    chosen = net if layer is None else layers.checked_layer(net, layer)
    names = [n for n, p in net.named_parameters() if any(p is q for q in chosen.parameters())]

    def loss(vector):
        parts = vector.split([values[n].numel() for n in names])
        own = values | {n: part.view(values[n].shape) for n, part in zip(names, parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, own, (inputs,)), labels)

    start = torch.cat([values[n].flatten() for n in names])
    return torch.autograd.functional.hessian(loss, start).numpy()


@pytest.mark.parametrize("method", ["auto", "products"])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_the_hessian_is_that_of_the_dense_oracle(layer, method):
    net, inputs, labels = _problem()
    found = hessian(as_subject(net, inputs, labels, layer=layer), method=method, columns=7)
    assert found.to_numpy() == pytest.approx(_dense(net, inputs, labels, layer), abs=1e-15)
    assert found.attrs["method"] == ("gauss-newton" if method == "auto" and layer is not None else "products")


def test_the_hessian_of_a_convolutional_layer_is_its_true_fisher_matrix():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    models.initialised(net.double(), rng=0)
    rng = np.random.default_rng(1)
    inputs, labels = map(torch.from_numpy, (rng.normal(size=(9, 1, 6, 6)), rng.integers(3, size=9)))
    exact = pytest.approx(_dense(net, inputs, labels, 0), abs=1e-15)
    subject = as_subject(net, inputs, labels, layer=0)
    assert hessian(subject).to_numpy() == exact
    assert hessian(subject, method="products").to_numpy() == exact


def test_all_layers_together_differ_from_the_fisher_matrix_but_not_in_the_trace():
    subject = as_subject(*_problem())
    H, F = hessian(subject).to_numpy(), fisher(subject, kind="true").to_numpy()
    assert np.trace(H) == pytest.approx(np.trace(F), rel=1e-12)
    assert np.abs(H - F).max() > 0.1 * np.abs(H).max()
    with pytest.raises(ValueError, match="one layer"):
        hessian(subject, method="gauss-newton")


def test_a_smooth_activation_is_not_taken_for_a_piecewise_linear_one():
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    models.initialised(net, rng=0)
    _, inputs, labels = _problem(sizes=(4, 5, 3))
    subject = as_subject(net, inputs, labels, layer=0)
    found = hessian(subject)
    assert found.attrs["method"] == "products"
    assert found.to_numpy() == pytest.approx(_dense(net, inputs, labels, 0), abs=1e-15)
    assert np.abs(found.to_numpy() - fisher(subject, kind="true").to_numpy()).max() > 1e-3


@pytest.mark.parametrize("layer", [None, 1])
def test_fisher_matrices_are_averages_over_the_labels_they_are_named_for(layer):
    net, inputs, labels = _problem(samples=12)
    with torch.no_grad():
        p = torch.softmax(net(inputs), 1).numpy()
    every = [
        per_sample_gradients(as_subject(net, inputs, torch.full_like(labels, c), layer=layer)).numpy()
        for c in range(4)
    ]
    true = sum(np.einsum("m,mi,mj->ij", p[:, c], g, g) for c, g in enumerate(every)) / 12
    subject = as_subject(net, inputs, labels, layer=layer)
    assert fisher(subject, kind="true").to_numpy() == pytest.approx(true, abs=1e-15)
    empirical = fisher(subject, kind="empirical")
    C = noise_covariance(subject, batch_size=5)
    square = np.outer(C.mean_gradient, C.mean_gradient)
    assert empirical.to_numpy() == pytest.approx(5 * C.covariance.to_numpy() + square, abs=1e-15)
    assert empirical.attrs["kind"] == "empirical"
    with pytest.raises(ValueError, match="'true' or 'empirical'"):
        fisher(subject, kind="observed")


@pytest.mark.parametrize("layer", [None, 1])
def test_top_eigenpairs_are_the_dense_ones_in_order(layer):
    net, inputs, labels = _problem(samples=60, sizes=(10, 12, 8, 5))
    exact = np.linalg.eigvalsh(_dense(net, inputs, labels, layer))[::-1]
    found = top_eigenpairs(as_subject(net, inputs, labels, layer=layer), count=6, rng=3)
    assert found.eigenvalue.to_numpy() == pytest.approx(exact[:6], rel=1e-5)
    assert (np.abs(found.eigenvalue.to_numpy() - exact[:6]) <= found.residual.to_numpy() + 1e-12).all()
    V = found.eigenvector.to_numpy()
    gram = V.T @ V
    assert gram == pytest.approx(np.eye(6), abs=1e-6)
    assert found.attrs["products"] < len(exact)
    with pytest.raises(ValueError, match="count=0"):
        top_eigenpairs(as_subject(net, inputs, labels), count=0)


def test_single_precision_finds_the_same_top_ten_on_real_data():
    data = datasets.load("digits")
    net = train.sgd(models.fully_connected((64, 20, 20, 10), rng=0), data, learning_rate=0.1, batch_size=50, epochs=20, rng=0).net  # fmt: skip
    single = top_eigenpairs(as_subject(net, data.train_inputs, data.train_labels, layer=1), rng=0)
    H = hessian(as_subject(net.double(), data.train_inputs.double(), data.train_labels, layer=1)).to_numpy()
    assert single.eigenvalue.to_numpy() == pytest.approx(np.linalg.eigvalsh(H)[::-1][:10], rel=3e-5)


def test_the_operator_multiplies_like_the_matrix_and_blocks_of_data_add_up():
    net, inputs, labels = _problem()
    many, more = inputs.repeat(700, 1), labels.repeat(700)  # three blocks, the last one smaller
    H = hessian_operator(as_subject(net, many, more))
    v = np.random.default_rng(0).normal(size=H.shape[0])
    assert H.dtype == np.float64
    assert H @ v == pytest.approx(_dense(net, inputs, labels, None) @ v, abs=1e-14)


def test_the_spectral_density_has_the_moments_of_the_eigenvalues():
    net, inputs, labels = _problem(samples=60, sizes=(10, 12, 8, 5))
    values = np.linalg.eigvalsh(_dense(net, inputs, labels, None))
    subject = as_subject(net, inputs, labels)
    state = torch.random.get_rng_state()
    repeats = 6
    found = spectral_density(subject, nodes=24, repeats=repeats, points=1024, rng=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert float(found.integrate("eigenvalue")) == pytest.approx(1, abs=1e-3)
    for power in (1, 2):
        moment = float((found * found.eigenvalue**power).integrate("eigenvalue"))
        exact = (values**power).mean()
        error = np.sqrt(2 * (values ** (2 * power)).sum() / repeats) / len(values)  # Hutchinson's
        assert abs(moment - exact) < 4 * error
    assert abs(moment - 1.8 * exact) > 4 * error
    one, two = (spectral_density(subject, nodes=8, repeats=1, scale="log", rng=1) for _ in range(2))
    assert (one == two).all() and float(one.min()) >= 0
    many = spectral_density(subject, nodes=60, repeats=1, scale="log", rng=0)
    assert float(many.integrate("eigenvalue")) == pytest.approx(1, abs=0.02)  # per unit of |λ|
    with pytest.raises(ValueError, match="scale"):
        spectral_density(subject, scale="cubic")


def test_too_many_weights_for_a_dense_matrix_are_refused_with_a_way_out():
    net = models.fully_connected((784, 50, 10), rng=0)
    with pytest.raises(ValueError, match="top_eigenpairs"):
        hessian(as_subject(net, torch.zeros(2, 784), torch.tensor([0, 1])))
