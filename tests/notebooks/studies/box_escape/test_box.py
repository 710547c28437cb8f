"""First exits of SGD from a box: one law for every way of running it, exact exits, readings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fpsolve import escape_rate
from nets import models
from nets import training as train
from nets.measure import curvature
from nets.measure import noise as gradient_noise
from nets.measure.subject import as_subject
from notebooks.studies.box_escape.box import simulate_box_escape
from notebooks.studies.box_escape.dynamics import local_dynamics, net_dynamics, noise_and_curvature
from notebooks.studies.box_escape.starts import gaussian_noise


@pytest.fixture(scope="module")
def data():
    return gaussian_noise(200, 5, rng=0)


def _nets():
    return {
        "two layers": models.fully_connected((5, 10, 2), bias=True, rng=1),
        "three layers without biases": models.fully_connected((5, 6, 4, 2), rng=2),
        "logistic regression": models.logistic(5, 2, rng=3),
    }


@pytest.fixture(scope="module")
def dynamics(data):
    return net_dynamics(_nets()["two layers"], data)


# --- gradients and steps


@pytest.mark.parametrize("kind", list(_nets()))
def test_gradients_at_many_places_are_those_of_autograd(kind, data):
    net = _nets()[kind].double()
    dynamics = net_dynamics(net, data, weight_decay=0.02)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(data.samples, size=(4, 3)))
    places = dynamics.start + 0.1 * torch.from_numpy(rng.standard_normal((4, len(dynamics.start))))
    for chosen in (rows, None):
        ours = dynamics.gradients(places, chosen)
        for r in range(4):
            torch.nn.utils.vector_to_parameters(places[r], net.parameters())
            of = slice(None) if chosen is None else chosen[r]
            logits = net(data.train_inputs[of].double())
            decay = sum(p.square().sum() for p in net.parameters())
            loss = torch.nn.functional.cross_entropy(logits, data.train_labels[of]) + 0.01 * decay
            theirs = torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(net.parameters()))])
            assert torch.allclose(ours[r], theirs, atol=1e-14)
            if chosen is None:
                assert dynamics.losses(places)[r] == pytest.approx(loss.item(), abs=1e-13)


@pytest.mark.parametrize("kind", list(_nets()))
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_compiled_steps_are_the_matrix_products(kind, noise, data):
    net = net_dynamics(_nets()[kind], data, weight_decay=0.01)
    options = {"learning_rate": 0.02, "batch_size": 3, "replicas": 6, "rng": 3, "injected_noise": noise}
    for dynamics in (net, local_dynamics(net, drift="quadratic")):
        one = simulate_box_escape(dynamics, max_steps=150, **options)
        other = simulate_box_escape(dynamics, max_steps=150, method="batched", **options)
        assert (one.steps == other.steps).all() and (one.coordinate == other.coordinate).all()
        assert abs(one.change - other.change).max() < 1e-13


@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
def test_a_replica_goes_where_training_goes(sampling, data):
    net = _nets()["two layers"]
    options = {"learning_rate": 0.05, "batch_size": 20, "sampling": sampling}
    asked = {"replicas": 3, "rng": 5, "half_width": 10, "max_steps": 30}
    runs = simulate_box_escape(net_dynamics(net, data), **asked, **options)
    seed = np.random.SeedSequence(int(runs.attrs["seed"], 16), spawn_key=(2,))
    trained = train.sgd(net, data, epochs=3, rng=seed, dtype="float64", **options).net
    change = torch.nn.utils.parameters_to_vector(trained.parameters()) - net_dynamics(net, data).start
    assert np.allclose(runs.change[2], change.detach(), atol=1e-13)


def test_replicas_do_not_depend_on_their_number_and_seeds_differ(dynamics):
    options = {"learning_rate": 0.02, "batch_size": 2}
    few = simulate_box_escape(dynamics, replicas=3, rng=1, **options)
    many = simulate_box_escape(dynamics, replicas=6, rng=1, **options)
    other = simulate_box_escape(dynamics, replicas=3, rng=2, **options)
    assert few.identical(many.isel(replica=slice(3)))
    assert not (few.steps == other.steps).all()
    assert len(np.unique(many.change[:, 0])) == 6


def test_sharpness_is_a_learning_rate_in_disguise(dynamics, data):
    k, eta = 4.0, 0.01
    options = {"batch_size": 2, "replicas": 8, "rng": 0}
    scaled = simulate_box_escape(dynamics, learning_rate=eta, sharpness=k, **options)
    faster = simulate_box_escape(dynamics, learning_rate=k * eta, **options)
    assert (scaled.steps == faster.steps).all() and scaled.change.identical(faster.change)
    assert np.allclose(k * scaled.observed_time, faster.observed_time)
    # Word for word: θ ← θ − η ∂L(√k θ)/∂θ by autograd, from w₀/√k, in the box r/√k.
    net = _nets()["two layers"].double()
    shapes, root = [p.shape for p in net.parameters()], math.sqrt(k)
    from nets.training.batches import minibatches, seed_text

    seed = seed_text(np.random.SeedSequence(int(scaled.attrs["seed"], 16), spawn_key=(0,)))
    start = dynamics.start / root
    theta, steps = start.clone(), 0
    while (theta - start).abs().max() <= 0.05 / root:
        rows = minibatches(seed, steps // 100, samples=200, batch_size=2)[steps % 100]
        theta.requires_grad_(True)
        parts = (root * theta).split([s.numel() for s in shapes])
        weights = [w.view(s) for w, s in zip(parts, shapes, strict=True)]
        names = dict(zip(dict(net.named_parameters()), weights, strict=True))
        logits = torch.func.functional_call(net, names, (data.train_inputs[rows].double(),))
        loss = torch.nn.functional.cross_entropy(logits, data.train_labels[rows])
        theta, steps = (theta - eta * torch.autograd.grad(loss, theta)[0]).detach(), steps + 1
    assert steps == int(scaled.steps[0])


# --- the driver


def test_gradient_descent_leaves_when_its_own_path_does(dynamics):
    out = simulate_box_escape(dynamics, learning_rate=0.05, batch_size=None, replicas=1, max_steps=5000)
    place, steps = dynamics.start.unsqueeze(0).clone(), 0
    while steps < 5000 and (place - dynamics.start).abs().max() <= 0.05:
        place, steps = place - 0.05 * dynamics.gradients(place, None), steps + 1
    assert int(out.steps[0]) == steps and int(out.outcome[0]) == 1


def test_censored_replicas_count_as_observed_time(dynamics):
    runs = simulate_box_escape(dynamics, learning_rate=0.012, batch_size=2, replicas=20, max_steps=120, rng=0)
    inside = runs.outcome == 0
    assert 0 < inside.sum() < 20 and (runs.steps[inside] == 120).all()
    assert (abs(runs.change).max("parameter") <= 0.05)[inside].all()
    assert (abs(runs.change).max("parameter") > 0.05)[~inside].all()
    rate = escape_rate(runs)
    assert float(rate.total_time) == pytest.approx(0.012 * float(runs.steps.sum()))
    assert int(rate.n_escaped) == 20 - int(inside.sum())


def test_walks_that_overflow_have_left(dynamics):
    wild = replace(dynamics, inputs=dynamics.inputs * 1e200)
    runs = simulate_box_escape(wild, learning_rate=1.0, batch_size=2, replicas=2, max_steps=10, rng=0)
    assert (runs.outcome == 1).all() and (runs.steps <= 2).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"half_width": -1.0}, "half_width"),
        ({"sharpness": math.inf}, "sharpness"),
        ({"injected_noise": -1.0}, "injected_noise"),
        ({"batch_size": 201}, "batch_size"),
        ({"replicas": 0}, "replicas"),
        ({"max_steps": 0}, "max_steps"),
        ({"batch_size": None}, "replicas=1"),
        ({"method": "fast"}, "method"),
        ({"batch_size": None, "injected_noise": 0.1, "method": "compiled"}, "compiled"),
    ],
)
def test_what_makes_no_sense_is_refused(dynamics, options, said):
    with pytest.raises(ValueError, match=said):
        simulate_box_escape(dynamics, **({"learning_rate": 0.1, "batch_size": 1} | options))


def test_nets_of_another_kind_are_refused(data):
    with pytest.raises(ValueError, match="fully connected"):
        net_dynamics(torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.Tanh()), data)
    with pytest.raises(ValueError, match="weight_decay"):
        net_dynamics(_nets()["two layers"], data, weight_decay=-1)
    with pytest.raises(ValueError, match="drift"):
        local_dynamics(net_dynamics(_nets()["two layers"], data), drift="cubic")


# --- noise, curvature, readings


def test_noise_and_curvature_are_those_of_the_curvature_modules(dynamics, data):
    g, C, H = noise_and_curvature(dynamics)
    net = as_subject(_nets()["two layers"].double(), data.train_inputs.double(), data.train_labels)
    assert np.allclose(C, gradient_noise.noise_covariance(net).covariance, atol=1e-14)
    assert np.allclose(H, curvature.hessian(net), atol=1e-13)
    step = torch.linspace(-1, 1, len(g), dtype=torch.float64)
    ahead, behind = (dynamics.gradients((dynamics.start + e * step)[None], None)[0] for e in (1e-6, -1e-6))
    assert np.allclose((ahead - behind) / 2e-6, H @ step.numpy(), atol=1e-5)


def test_the_local_models_have_the_noise_of_the_net_at_the_start(dynamics):
    rows = torch.arange(12).reshape(4, 3)
    there = dynamics.start.expand(4, -1)
    exact = dynamics.gradients(there, rows)
    quadratic = local_dynamics(dynamics, drift="quadratic")
    assert torch.allclose(quadratic.gradients(there, rows), exact, atol=1e-14)
    linear = local_dynamics(dynamics, drift="linear")
    assert torch.allclose(linear.gradients(there + 1, rows), exact, atol=1e-14)
    mean = dynamics.gradients(there, None)
    assert torch.allclose(local_dynamics(dynamics).gradients(there + 1, rows), exact - mean, atol=1e-14)
    near = there + 1e-7
    assert torch.allclose(quadratic.gradients(near, None), dynamics.gradients(near, None), atol=1e-10)
