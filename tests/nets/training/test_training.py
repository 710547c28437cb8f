"""Training: bits that repeat, windows, replicas, optimisers' rules, noise by its law, resuming, refusals."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import stats
from torch import nn

from nets import layers, models
from nets import training as train
from nets.data import datasets
from nets.training import batches, optimizers
from nets.training import window as recording
from nets.training.networks import AutogradNetwork, DenseNetwork, dense_biases, network
from nets.training.recipe import Options, Recipe, changed

OPTIONS = {"learning_rate": 0.1, "batch_size": 50, "rng": 0}


def _net(rng=1, bias=False):
    return models.fully_connected((64, 20, 20, 10), rng=rng, bias=bias)


def _small_images():
    """A convolutional net and data of its shape, small enough for tests."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
    return models.initialised(net, rng=0)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def explored(digits):
    """A run in its exploration phase, on few samples."""
    return train.sgd(_net(), digits.subset(300), epochs=120, **OPTIONS)


def _same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.net.parameters(), right.net.parameters(), strict=True))


def _vector(run_or_net):
    net = getattr(run_or_net, "net", run_or_net)
    return nn.utils.parameters_to_vector(net.parameters()).detach().double()


# Bits


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(digits):
    first, again = (train.sgd(_net(), digits, epochs=2, **OPTIONS) for _ in range(2))
    assert _same(first, again) and first.rows == again.rows
    other = train.sgd(_net(), digits, epochs=2, **(OPTIONS | {"rng": 1}))
    assert not _same(first, other)


def test_the_recorded_seed_replays_a_run_that_had_none(digits):
    first = train.sgd(_net(), digits, epochs=1, **(OPTIONS | {"rng": None}))
    assert _same(first, train.sgd(_net(), digits, epochs=1, **(OPTIONS | {"rng": first.seed})))


@pytest.mark.parametrize(
    "optimizer", ["sgd", "momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise"]
)
def test_continuing_is_the_uninterrupted_run_to_the_bit(digits, optimizer):
    options = {"learning_rate": 0.01, "rng": 0, "optimizer": optimizer}
    options |= {"noise": 1e-4} if "noise" in optimizer else {}
    options |= {"batch_size": 50} if not optimizer.startswith("gd") else {}
    whole = train.sgd(_net(), digits, epochs=4, **options)
    start = train.sgd(_net(), digits, epochs=1, **options)
    kept = _vector(start)
    later = train.continued(start, 3)
    assert _same(later, whole) and later.rows == whole.rows
    assert (later.epoch, later.step) == (whole.epoch, whole.step)
    assert torch.equal(_vector(start), kept)


def test_the_number_of_threads_of_torch_is_put_back_and_does_not_change_the_bits(digits):
    before = torch.get_num_threads()
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs.append(train.sgd(_net(), digits, epochs=1, **OPTIONS))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert _same(*runs)


def test_training_neither_changes_the_given_net_nor_touches_the_global_generators(digits):
    net = _net()
    before, state, numpy_state = _vector(net), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train.sgd(net, digits, epochs=1, **OPTIONS)
    assert torch.equal(_vector(net), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# Recipes


def test_a_recipe_is_the_same_as_its_fields_as_keywords(digits):
    recipe = Recipe(learning_rate=0.1, batch_size=50, epochs=2, optimizer=optimizers.Momentum(0.5))
    words = {"learning_rate": 0.1, "batch_size": 50, "optimizer": "momentum", "momentum": 0.5}
    first = train.sgd(_net(), digits, recipe, rng=0)
    second = train.sgd(_net(), digits, epochs=2, rng=0, **words)
    assert _same(first, second) and first.rows == second.rows and first.recipe == second.recipe == recipe
    longer = train.sgd(_net(), digits, recipe, epochs=3, rng=0)
    assert longer.epoch == 3 and longer.rows[:3] == first.rows and longer.recipe == recipe
    slower = train.sgd(_net(), digits, recipe, momentum=0.0, rng=0)
    assert slower.recipe.optimizer == optimizers.Momentum(0.0) and slower.recipe != recipe
    pair = train.replicas(_net(), digits, recipe, learning_rate=[0.1, 0.2], rng=[0, 1])
    assert [run.recipe.learning_rate for run in pair] == [0.1, 0.2] and pair[0].recipe == recipe


def test_every_field_of_a_recipe_is_an_option():
    fields = {f.name for f in dataclasses.fields(Recipe)}
    assert set(Options.__annotations__) == fields | {"momentum", "noise"}


@pytest.mark.parametrize("value", [0.25, 0.0])
@pytest.mark.parametrize(("name", "kind"), optimizers.OPTIMIZERS.items())
def test_a_recipe_is_read_back_from_what_is_recorded(name, kind, value):
    numbers = {f.name: value for f in dataclasses.fields(kind)}
    recipe = Recipe(learning_rate=0.1, batch_size=50, epochs=2, optimizer=kind(**numbers), dtype="float64")
    recorded = {
        "learning_rate": 0.1, "batch_size": 50, "optimizer": name, "momentum": numbers.get("momentum", 0.0),
        "noise": numbers.get("noise", 0.0), "sampling": "without_replacement", "dtype": "float64",
        "divergence": 1e4,
    }  # fmt: skip
    assert list(recipe.recorded.items()) == list(recorded.items())
    assert changed(None, recorded | {"epochs": 7}) == recipe


# Against torch's own autograd and optimisers


RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 0.003}


def _reference(net, data, optimizer, epochs, seed):
    """Plain torch in float64: module, backward, torch.optim."""
    own, more = net.double(), {"momentum": 0.9} if optimizer == "momentum" else {}
    kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    steps = kind(own.parameters(), lr=RATES[optimizer], **more)
    for epoch in range(epochs):
        for batch in torch.from_numpy(batches.minibatches(seed, epoch, samples=data.samples, batch_size=50)):
            steps.zero_grad()
            logits = own(data.train_inputs[batch].double())
            nn.functional.cross_entropy(logits, data.train_labels[batch]).backward()
            steps.step()
    return own


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("shape", ["dense", "biased", "convolutional"])
def test_training_meets_autograd_and_torchs_own_optimisers(digits, optimizer, shape):
    net = _small_images() if shape == "convolutional" else _net(bias=shape == "biased")
    data = digits.subset(300)
    options = OPTIONS | {"learning_rate": RATES[optimizer], "optimizer": optimizer}
    run = train.sgd(net, data, epochs=4, dtype="float64", **options)
    reference = _reference(net, data, optimizer, 4, run.seed)
    assert _vector(run) == pytest.approx(_vector(reference), rel=1e-11, abs=1e-13)


def test_float32_follows_float64_to_rounding_for_some_epochs(digits):
    fine = train.sgd(_net(), digits, epochs=3, dtype="float64", **OPTIONS)
    coarse = train.sgd(_net(), digits, epochs=3, **OPTIONS)
    # 90 steps: the difference is some rounding errors of weights of order 0.2.
    assert (_vector(fine) - _vector(coarse)).abs().max() < 2e-6


@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_multiplied_out_by_hand_is_autograds(digits, bias):
    nets = [_net(rng, bias).double() for rng in (1, 2, 3)]
    x = digits.train_inputs[:90].double().flatten(1).view(3, 30, 64)
    slope = torch.randn(3, 30, 10, dtype=torch.float64)
    parameters = [torch.stack(p).detach() for p in zip(*(net.parameters() for net in nets), strict=True)]
    hand, general = network(nets[0]), AutogradNetwork(nets[0])
    assert isinstance(hand, DenseNetwork)
    logits = general.forward(parameters, x).numpy()
    assert hand.forward(parameters, x).numpy() == pytest.approx(logits, rel=1e-13)
    for a, b in zip(hand.backward(parameters, slope), general.backward(parameters, slope), strict=True):
        assert a.numpy() == pytest.approx(b.numpy(), rel=1e-12, abs=1e-13)


def test_only_plain_fully_connected_nets_take_the_fast_path():
    assert dense_biases(models.fully_connected((4, 3, 2))) is False
    assert dense_biases(models.logistic(4, 2)) is True
    assert dense_biases(models.lenet_mnist()) is None
    assert dense_biases(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))) is None
    assert dense_biases(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))) is None
    assert dense_biases(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) is None


# Replicas


@pytest.mark.parametrize(
    ("dtype", "error", "bias"),
    [("float64", 1e-12, False), ("float64", 1e-12, True), ("float32", 5e-6, False)],
)
def test_replicas_side_by_side_are_the_runs_on_their_own(digits, dtype, error, bias):
    nets, rates = [_net(rng, bias) for rng in (1, 2, 3)], [0.1, 0.05, 0.2]
    together = train.replicas(
        nets, digits, learning_rate=rates, batch_size=50, epochs=3, rng=[7, 8, 7], dtype=dtype
    )
    for run, net, rate, seed in zip(together, nets, rates, [7, 8, 7], strict=True):
        alone = train.sgd(net, digits, learning_rate=rate, batch_size=50, epochs=3, rng=seed, dtype=dtype)
        assert run.recipe == alone.recipe and run.seed == alone.seed and run.start == alone.start
        assert (_vector(run) - _vector(alone)).abs().max() < error
        assert np.array(run.rows) == pytest.approx(np.array(alone.rows), rel=1e2 * error)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "gd", "gd_isotropic_noise", "gd_flatness_noise"])
def test_replicas_of_every_optimiser_and_of_convolutional_nets_are_runs_on_their_own(digits, optimizer):
    data = digits.subset(200)
    options = {"learning_rate": 0.01, "epochs": 2, "optimizer": optimizer, "dtype": "float64"}
    options |= {"noise": 1e-3} if "noise" in optimizer else {}
    options |= {"batch_size": 50} if not optimizer.startswith("gd") else {}
    for net in (_net(), _small_images()):
        for run, seed in zip(train.replicas(net, data, rng=[3, 4], **options), [3, 4], strict=True):
            assert (_vector(run) - _vector(train.sgd(net, data, rng=seed, **options))).abs().max() < 1e-12


@pytest.mark.parametrize("optimizer", ["sgd", "gd"])
def test_replicas_can_be_followed_step_by_step_without_a_trace(digits, optimizer):
    seen, options = [], {"learning_rate": 0.1, "epochs": 2, "rng": [0, 1, 2], "optimizer": optimizer}
    options |= {"batch_size": 300} if optimizer == "sgd" else {}
    runs = train.replicas(
        _net(), digits, **options, after_step=lambda step, p: seen.append((step, [w.clone() for w in p]))
    )
    assert [step for step, _ in seen] == list(range(1, runs[0].step + 1))
    for r, run in enumerate(runs):
        assert all(torch.equal(w[r], p) for w, p in zip(seen[-1][1], run.net.parameters(), strict=True))
    assert all(_same(a, b) for a, b in zip(runs, train.replicas(_net(), digits, **options), strict=True))


def test_a_replica_that_diverges_is_reported_and_disturbs_no_other(digits):
    rates = [0.1, 50.0, 0.05]
    runs = train.replicas(_net(), digits, learning_rate=rates, batch_size=50, epochs=3, rng=[0, 1, 2])
    assert [run.outcome == "trained" for run in runs] == [True, False, True]
    assert runs[1].diverged_step > 0 and runs[1].epoch < 3 and torch.isfinite(_vector(runs[1])).all()
    pair = train.replicas(_net(), digits, learning_rate=[0.1, 0.05], batch_size=50, epochs=3, rng=[0, 2])
    for one, same in zip((runs[0], runs[2]), pair, strict=True):
        assert (_vector(one) - _vector(same)).abs().max() < 5e-6
    later = train.continued(runs, 1)
    assert [run.epoch for run in later] == [4, runs[1].epoch, 4]
    with pytest.raises(ValueError, match="at step"):
        train.continued(runs[1], 1)
    with pytest.raises(ValueError, match="at step"):
        train.record(runs, layer=1, epochs=1)


# Minibatches


@pytest.mark.parametrize("kind", ["without_replacement", "with_replacement"])
def test_minibatches_are_uniform_and_cover_an_epoch_as_their_name_says(kind):
    seed = batches.seed_text(0)
    epochs = [batches.minibatches(seed, e, samples=103, batch_size=10, sampling=kind) for e in range(300)]
    assert epochs[0].shape == (10, 10) and not np.array_equal(epochs[0], epochs[1])
    distinct = [len(np.unique(e)) for e in epochs]
    if kind == "without_replacement":
        assert set(distinct) == {100}
    else:  # 103 (1 − (1 − 1/103)^100)
        mean, stderr = np.mean(distinct), np.std(distinct) / np.sqrt(300)
        assert abs(mean - 103 * (1 - (1 - 1 / 103) ** 100)) < 4 * stderr < abs(mean - 100)
    counts = np.bincount(np.concatenate(epochs).ravel(), minlength=103)
    assert stats.chisquare(counts).pvalue > 1e-4 or kind == "without_replacement"
    assert counts.min() > 230


def test_with_replacement_the_minibatch_gradients_scatter_as_independent_draws_do(digits):
    # Var of the mean of a scalar over B draws is var/B; without replacement, over a whole epoch, the means'
    # mean has no scatter at all.
    values = np.random.default_rng(0).normal(size=100)
    means = {
        kind: np.array([
            values[batches.minibatches(batches.seed_text(1), e, samples=100, batch_size=10, sampling=kind)].mean(1)
            for e in range(400)
        ])
        for kind in ("with_replacement", "without_replacement")
    }  # fmt: skip
    spread = means["with_replacement"].var() / (values.var() / 10)
    assert abs(spread - 1) < 4 * np.sqrt(2 / 2000)
    assert means["without_replacement"].mean(1).std() < 1e-14
    # A batch drawn without replacement has the finite-population factor (M − B)/(M − 1).
    spread = means["without_replacement"].var() / (values.var() / 10) / (90 / 99)
    assert abs(spread - 1) < 4 * np.sqrt(2 / 2000)


# Windows


def test_a_window_holds_the_weights_after_each_minibatch(explored):
    window, later = train.record_and_continue(explored, layer=1, epochs=2)
    steps = explored.steps_per_epoch
    assert dict(window.sizes) == {"step": 2 * steps, "weight": 400}
    assert np.array_equal(window.step, explored.step + 1 + np.arange(2 * steps))
    assert window.weights.dtype == np.float32
    flat = layers.weight_layers(later.net)[1][1].weight.detach().reshape(-1)
    assert np.array_equal(window.weights[-1], flat)
    assert _same(later, train.continued(explored, 2))
    assert window.attrs["loss_start"] == explored.loss and window.attrs["loss_end"] == later.loss
    assert window.epoch[-1] == later.epoch == explored.epoch + 2


def test_each_recorded_move_is_the_learning_rate_times_the_minibatch_gradient(digits):
    data = digits.subset(300)
    run = train.sgd(_net(), data, epochs=120, dtype="float64", **OPTIONS)
    window = train.record(run, layer=1, epochs=1)
    net = nn.Sequential(*run.net)
    first = layers.weight_layers(net)[1][1].weight
    batch = torch.from_numpy(batches.minibatches(run.seed, run.epoch, samples=300, batch_size=50)[0])
    for p in net.parameters():
        p.requires_grad_(True)
    loss = nn.functional.cross_entropy(net(data.train_inputs[batch].double()), data.train_labels[batch])
    loss.backward()
    move = window.weights[0].to_numpy() - first.detach().numpy().ravel()
    assert move == pytest.approx(-0.1 * first.grad.numpy().ravel(), rel=1e-9, abs=1e-15)
    assert window.minibatch_loss[0].item() == pytest.approx(loss.item(), rel=1e-11)


def test_a_thinned_window_is_every_nth_row_of_the_full_one(explored):
    full, thin = (train.record(explored, layer=0, epochs=2, every=every) for every in (1, 4))
    rows = full.where(full.step % 4 == 0, drop=True)
    assert np.array_equal(thin.step, rows.step) and np.array_equal(thin.weights, rows.weights)
    assert np.array_equal(thin.minibatch_loss, rows.minibatch_loss)


@pytest.mark.filterwarnings("ignore:the window starts")
@pytest.mark.parametrize("every", [1, 2])
def test_a_window_of_full_batch_steps_has_one_state_in_every(digits, every):
    options = {"learning_rate": 0.1, "epochs": 3, "optimizer": "gd"}
    window = train.record(train.sgd(_net(), digits, **options), layer=1, epochs=4, every=every)
    assert window.step.values.tolist() == [s for s in (4, 5, 6, 7) if s % every == 0]
    later = train.sgd(_net(), digits, **(options | {"epochs": 6}))
    assert np.array_equal(
        window.weights.sel(step=6), layers.weight_layers(later.net)[1][1].weight.detach().reshape(-1)
    )


def test_replicas_are_recorded_side_by_side(digits):
    data = digits.subset(300)
    runs = train.replicas(
        _net(), data, learning_rate=[0.1, 0.2], batch_size=50, epochs=120, rng=[0, 1], dtype="float64"
    )
    window, later = train.record_and_continue(runs, layer=1, epochs=1)
    assert window.weights.dims == ("replica", "step", "weight")
    assert list(window.learning_rate.values) == [0.1, 0.2]
    for i in range(2):
        alone = train.record(runs[i], layer=1, epochs=1)
        assert window.weights[i].to_numpy() == pytest.approx(alone.weights.to_numpy(), rel=1e-9, abs=1e-12)
        assert window.seed[i] == alone.attrs["seed"] and float(window.loss_end[i]) == later[i].loss


def test_a_window_survives_netcdf(explored, tmp_path):
    import xarray as xr

    window = train.record(explored, layer=1, epochs=1)
    window.to_netcdf(tmp_path / "window.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "window.nc", engine="h5netcdf") as back:
        assert back.identical(window)
    explored.history.to_netcdf(tmp_path / "history.nc", engine="h5netcdf")
    assert all(
        isinstance(v, str | int | float) for v in (*window.attrs.values(), *explored.history.attrs.values())
    )


def test_the_exploration_phase_begins_where_the_error_is_gone_and_the_loss_falls_slowly(explored):
    start = train.exploration_start(explored)
    history = explored.history
    assert 10 < start < 120
    assert history.accuracy.sel(epoch=start) >= 0.999
    log_loss = np.log(history.loss.to_numpy())
    fastest = ((log_loss[:-3] - log_loss[3:]) / 3)[: start - 2].max()
    assert (log_loss[start - 3] - log_loss[start]) / 3 <= 0.2 * fastest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.record(explored, layer=1, epochs=1)


def test_a_window_before_the_exploration_phase_is_warned_of(digits):
    run = train.sgd(_net(), digits, epochs=4, **OPTIONS)
    with pytest.raises(ValueError, match=r"training error .*train longer"):
        train.exploration_start(run)
    with pytest.warns(UserWarning, match="fast phase"):
        train.record(run, layer=1, epochs=1)


# Losses and equal losses


def test_the_history_is_the_loss_and_accuracy_over_all_rows(digits):
    run = train.sgd(_net(), digits, epochs=2, **OPTIONS)
    assert list(run.history.epoch) == [0, 1, 2]
    for part, x, y in (
        ("", digits.train_inputs, digits.train_labels),
        ("test_", digits.test_inputs, digits.test_labels),
    ):
        with torch.no_grad():
            logits = run.net.double()(x.double())
        assert run.history[f"{part}loss"][-1].item() == pytest.approx(
            nn.functional.cross_entropy(logits, y).item(), rel=1e-5
        )
        assert run.history[f"{part}accuracy"][-1].item() == (logits.argmax(1) == y).double().mean()
    assert run.history.weight_norm[-1].item() == pytest.approx(_vector(run).norm().item(), rel=1e-12)


def test_runs_of_different_learning_rates_can_be_stopped_at_equal_loss(digits):
    runs = train.replicas(
        _net(), digits, learning_rate=[0.05, 0.2], batch_size=50, epochs=60, rng=[0, 1], stop_at_loss=0.05
    )
    for run in runs:
        losses = run.history.loss.to_numpy()
        assert losses[-1] <= 0.05 < losses[:-1].min()
    assert runs[0].epoch > runs[1].epoch
    with pytest.warns(UserWarning, match="was not reached"):
        train.sgd(_net(), digits, epochs=1, stop_at_loss=1e-3, **OPTIONS)


# Noise added to the full gradient


def test_gradient_descent_uses_all_samples_in_each_step(digits):
    run = train.sgd(_net(), digits, learning_rate=0.1, epochs=3, optimizer="gd", dtype="float64")
    assert run.steps_per_epoch == 1 and run.step == 3
    net = _net().double()
    for _ in range(3):
        nn.functional.cross_entropy(net(digits.train_inputs.double()), digits.train_labels).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
                p.grad = None
    assert _vector(run) == pytest.approx(_vector(net), rel=1e-12, abs=1e-14)


def test_isotropic_noise_is_white_with_variance_two_alpha_d(digits):
    data = digits.subset(50)
    options = {"learning_rate": 0.1, "epochs": 1, "dtype": "float64"}
    plain = _vector(train.sgd(_net(), data, optimizer="gd", **options))
    options |= {"optimizer": "gd_isotropic_noise", "noise": 1e-3}
    kicks = torch.stack([_vector(train.sgd(_net(), data, rng=r, **options)) - plain for r in range(5)])
    standard = (kicks / np.sqrt(2 * 0.1 * 1e-3)).numpy().ravel()
    assert stats.kstest(standard, "norm").pvalue > 1e-3
    assert stats.kstest(standard * np.sqrt(2), "norm").pvalue < 1e-9  # √(αD) is rejected
    assert abs(np.corrcoef(kicks.numpy())[np.triu_indices(5, 1)]).max() < 4 / np.sqrt(kicks.shape[1])


def _gauss_newton(net, x):
    """Σ Jᵀ (diag p − p pᵀ) J / N, dense."""
    names, values = zip(*net.named_parameters(), strict=True)
    vector = nn.utils.parameters_to_vector(values).detach()
    sizes = [v.numel() for v in values]

    def logits(w):
        parts = {n: part.view_as(v) for n, part, v in zip(names, w.split(sizes), values, strict=True)}
        return torch.func.functional_call(net, parts, (x,))

    J = torch.func.jacrev(logits)(vector)
    p = torch.softmax(logits(vector), -1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("nci,ncd,ndj->ij", J, inner, J) / len(x)


def test_flatness_noise_has_the_gauss_newton_hessian_as_its_covariance():
    data = datasets.gaussian_clusters(40, 3, 3, rng=0)
    net = models.fully_connected((3, 4, 3), rng=0)
    options = {"learning_rate": 0.1, "epochs": 1, "dtype": "float64"}
    plain = _vector(train.sgd(net, data, optimizer="gd", **options))
    runs = train.replicas(net, data, optimizer="gd_flatness_noise", noise=1e-2, rng=range(2000), **options)
    kicks = (torch.stack([_vector(r) for r in runs]) - plain).numpy() / np.sqrt(2 * 0.1 * 1e-2)
    exact = _gauss_newton(net.double(), data.train_inputs.double()).numpy()
    # Each entry of the sample covariance has the standard error √((C_ii C_jj + C_ij²)/n) (Gaussian; the sum
    # over 40 samples is nearly so), and the mean is zero.
    diagonal = np.diag(exact)
    stderr = np.sqrt((np.outer(diagonal, diagonal) + exact**2) / 2000) + 1e-12
    z = (kicks.T @ kicks / 2000 - exact) / stderr
    assert abs(z).max() < 5 and 0.7 < z[np.triu_indices(len(z))].std() < 1.3
    isotropic = np.eye(len(exact)) * diagonal.mean()
    assert abs((kicks.T @ kicks / 2000 - isotropic) / stderr).max() > 20


# Files


def test_a_run_in_a_file_goes_on_to_the_bit(digits, tmp_path):
    for optimizer in ("sgd", "adam"):
        run = train.sgd(_net(), digits, epochs=2, optimizer=optimizer, **OPTIONS)
        train.save(run, tmp_path / "run.safetensors")
        (back,) = train.load(tmp_path / "run.safetensors", net=_net(9), data=digits)
        assert _same(run, back) and back.rows == run.rows
        assert back.recipe == run.recipe and back.seed == run.seed
        assert _same(train.continued(run, 2), train.continued(back, 2))


def test_a_file_of_runs_names_its_settings_as_it_always_has(digits, tmp_path):
    run = train.sgd(_net(), digits, epochs=1, optimizer="momentum", momentum=0.5, **OPTIONS)
    with safe_open(train.save(run, tmp_path / "run.safetensors"), framework="pt") as file:
        (text,) = json.loads(file.metadata()["runs"])
    assert text["settings"] == {
        "learning_rate": 0.1, "batch_size": 50, "optimizer": "momentum", "momentum": 0.5, "noise": 0.0,
        "sampling": "without_replacement", "seed": run.seed, "dtype": "float32", "divergence": 1e4,
    }  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_checkpoint_and_ends_as_if_it_had_never_stopped(digits, tmp_path):
    file = tmp_path / "run.safetensors"
    script = f"""
from nets import datasets, layers, models, training
training.sgd(models.fully_connected((64, 20, 20, 10), rng=1), datasets.load("digits"), learning_rate=0.1,
             batch_size=50, rng=0, epochs=100000, checkpoint={str(file)!r})
"""
    root = str(Path(__file__).parents[3])
    child = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": root})
    held = 0
    while held < 3:
        assert child.poll() is None
        if file.exists():
            held = train.load(file, net=_net(), data=digits)[0].epoch
    child.send_signal(signal.SIGKILL)
    child.wait()
    (left,) = train.load(file, net=_net(), data=digits)
    resumed = train.sgd(_net(), digits, epochs=left.epoch + 2, checkpoint=file, **OPTIONS)
    whole = train.sgd(_net(), digits, epochs=left.epoch + 2, **OPTIONS)
    assert _same(resumed, whole) and resumed.rows == whole.rows
    assert train.load(file, net=_net(), data=digits)[0].epoch == whole.epoch


def test_replicas_resume_from_one_checkpoint(digits, tmp_path):
    options = {"learning_rate": [0.1, 50.0, 0.05], "batch_size": 50, "rng": [0, 1, 2]}
    file = tmp_path / "runs.safetensors"
    train.replicas(_net(), digits, epochs=2, checkpoint=file, **options)
    resumed = train.replicas(_net(), digits, epochs=4, checkpoint=file, **options)
    whole = train.replicas(_net(), digits, epochs=4, **options)
    assert [r.outcome for r in resumed] == [r.outcome for r in whole]
    assert all(_same(a, b) and a.rows == b.rows for a, b in zip(resumed, whole, strict=True))


def test_a_checkpoint_of_another_run_is_refused_and_kept(digits, tmp_path):
    file = tmp_path / "run.safetensors"
    train.sgd(_net(), digits, epochs=2, checkpoint=file, **OPTIONS)
    held = file.read_bytes()
    for change, match in (({"learning_rate": 0.2}, "learning_rate 0.1, not 0.2"), ({"rng": 5}, "seed")):
        with pytest.raises(ValueError, match=match):
            train.sgd(_net(), digits, epochs=4, checkpoint=file, **(OPTIONS | change))
    with pytest.raises(ValueError, match="initial weights"):
        train.sgd(_net(2), digits, epochs=4, checkpoint=file, **OPTIONS)
    train.load(file, net=_net().eval(), data=digits)
    with pytest.raises(ValueError, match="data_digest"):
        train.sgd(_net(), digits.subset(1000), epochs=4, checkpoint=file, **OPTIONS)
    with pytest.raises(ValueError, match="64-10"):
        train.sgd(models.fully_connected((64, 10)), digits, epochs=4, checkpoint=file, **OPTIONS)
    with pytest.raises(ValueError, match="already holds 2"):
        train.sgd(_net(), digits, epochs=1, checkpoint=file, **OPTIONS)
    assert file.read_bytes() == held
    file.write_bytes(held[:-100])
    with pytest.raises(ValueError, match="damaged"):
        train.load(file, net=_net(), data=digits)
    with pytest.raises(FileNotFoundError, match="no directory"):
        train.sgd(_net(), digits, epochs=1, checkpoint=tmp_path / "nowhere" / "run", **OPTIONS)


def test_no_flipped_bit_in_a_file_of_runs_goes_unseen(digits, tmp_path):
    data = digits.subset(40, test_samples=5)
    run = train.sgd(
        models.fully_connected((64, 2, 10), rng=0), data, learning_rate=0.1, batch_size=20, epochs=1, rng=0,
        optimizer="momentum",
    )  # fmt: skip
    held = train.save(run, tmp_path / "run").read_bytes()
    assert repr(run).startswith("Run(64-2-10 on digits, 1 epochs, loss ") and len(repr(run)) < 80
    draw, seen = np.random.default_rng(0), []
    for place in (*range(16), *draw.integers(len(held), size=150)):
        bad = bytearray(held)
        bad[place] ^= 1 << draw.integers(8)
        (tmp_path / "bad").write_bytes(bad)
        try:
            (found,) = train.load(tmp_path / "bad", net=run.net, data=data)
        except ValueError as error:
            seen.append(str(error))
        else:  # such as a space of the header, which says nothing
            assert torch.equal(_vector(found), _vector(run)) and found.rows == run.rows
            assert found.recipe.recorded == run.recipe.recorded and found.seed == run.seed
    assert all("damaged" in said or "holds no run" in said for said in seen) and len(seen) > 140
    for cut in (0, 7, 8, len(held) // 2, len(held) - 1):
        (tmp_path / "bad").write_bytes(held[:cut])
        with pytest.raises(ValueError, match="damaged"):
            train.load(tmp_path / "bad", net=run.net, data=data)


def test_a_checkpoint_of_other_activations_is_refused(digits, tmp_path):
    nets = [
        torch.nn.Sequential(torch.nn.Flatten(), *models.fully_connected((64, 10), rng=0), torch.nn.LeakyReLU(slope))
        for slope in (0.1, 0.5)
    ]  # fmt: skip
    train.sgd(nets[0], digits, epochs=1, checkpoint=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="architecture"):
        train.sgd(nets[1], digits, epochs=2, checkpoint=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="one shape"):
        train.replicas(nets, digits, epochs=1, rng=[0, 1], **{k: v for k, v in OPTIONS.items() if k != "rng"})


# Refusals


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1501}, "1500 training rows"),
        ({"batch_size": None}, "batch_size=None"),
        ({"batch_size": 2.5}, "whole number"),
        ({"epochs": 0}, "epochs=0"),
        ({"optimizer": "adan"}, "did you mean 'adam'"),
        ({"optimizer": "gd"}, "leave it out"),
        ({"momentum": 0.5}, "optimizer='momentum'"),
        ({"optimizer": "momentum", "momentum": 1.0}, r"\[0, 1\)"),
        ({"noise": 1.0}, "gd_isotropic_noise"),
        ({"optimizer": "gd_isotropic_noise", "batch_size": None}, "needed for"),
        ({"optimizer": "gd_isotropic_noise", "batch_size": None, "noise": -1.0}, "noise=-1"),
        ({"sampling": "cyclic"}, "sampling='cyclic'"),
        ({"dtype": "float16"}, "float32, float64"),
        ({"divergence": 0.0}, "divergence=0"),
        ({"threads": 0}, "threads=0"),
        ({"device": "tpu"}, "device='tpu'"),
    ],
)  # fmt: skip
def test_options_without_sense_are_refused_by_name(digits, change, match):
    with pytest.raises(ValueError, match=match):
        train.sgd(_net(), digits, **({"epochs": 1} | OPTIONS | change))


def test_a_recipe_needs_its_numbers_and_an_optimiser(digits):
    with pytest.raises(ValueError, match="such as Plain"):
        Recipe(learning_rate=0.1, epochs=1, optimizer="momentum")
    with pytest.raises(ValueError, match=r"learning_rate=\[0.1, 0.2\]"):
        Recipe(learning_rate=[0.1, 0.2], epochs=1)
    with pytest.raises(TypeError, match="learning_rat'"):
        train.sgd(_net(), digits, learning_rat=0.1, epochs=1)
    with pytest.raises(TypeError, match="'epochs'"):
        train.sgd(_net(), digits, learning_rate=0.1)


def test_a_net_that_does_not_fit_the_data_is_refused(digits):
    with pytest.raises(ValueError, match=r"the model fails on inputs \(8, 1, 8, 8\)"):
        train.sgd(models.fully_connected((10, 10)), digits, epochs=1, **OPTIONS)
    with pytest.raises(ValueError, match="5 outputs for 10 classes"):
        train.sgd(models.fully_connected((64, 5)), digits, epochs=1, **OPTIONS)
    with pytest.raises(TypeError, match="Sequential"):
        train.sgd(nn.Linear(64, 10), digits, epochs=1, **OPTIONS)


def test_windows_without_sense_are_refused(explored):
    with pytest.raises(ValueError, match="layers are 0: 64-20, 1: 20-20, 2: 20-10"):
        train.record(explored, layer=3, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "LARGEST_WINDOW", 10_000)
        with pytest.raises(ValueError, match="use every=2 or fewer epochs"):
            train.record(explored, layer=1, epochs=2, every=1)
    with pytest.raises(ValueError, match="every=99"):
        train.record(explored, layer=1, epochs=1, every=99)
    with pytest.raises(ValueError, match="epochs=0"):
        train.record(explored, layer=1, epochs=0)


def test_replicas_need_one_entry_each_and_one_shape(digits):
    with pytest.raises(ValueError, match="learning_rate has 2 entries and rng 3"):
        train.replicas(_net(), digits, learning_rate=[0.1, 0.2], batch_size=50, epochs=1, rng=[0, 1, 2])
    nets = [_net(), models.fully_connected((64, 10))]
    with pytest.raises(ValueError, match="one shape"):
        train.replicas(nets, digits, learning_rate=0.1, batch_size=50, epochs=1, rng=[0, 1])
    with pytest.raises(ValueError, match="empty"):
        train.replicas(_net(), digits, learning_rate=0.1, batch_size=50, epochs=1, rng=[])
    a, b = (train.sgd(_net(), digits, epochs=n, **OPTIONS) for n in (1, 2))
    with pytest.raises(ValueError, match="equally many epochs"):
        train.continued([a, b], 1)


def test_divergence_is_reported_with_its_step(digits):
    with pytest.raises(train.Diverged, match="lower the learning rate") as caught:
        train.sgd(_net(), digits, epochs=5, **(OPTIONS | {"learning_rate": 50.0}))
    step = caught.value.step
    # The same run in single steps: up to there all minibatch losses are below the bound.
    run = (
        train.sgd(_net(), digits, epochs=1, **(OPTIONS | {"learning_rate": 50.0, "divergence": float("inf")}))
        if caught.value.epoch
        else None
    )
    assert step >= 1 and (run is None or run.epoch == 1)


def test_a_net_whose_units_are_all_shut_is_reported(digits):
    net = _net()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(-p.abs())
    shut = dataclasses.replace(
        digits, train_inputs=digits.train_inputs.abs(), test_inputs=digits.test_inputs.abs()
    )
    with pytest.raises(train.Diverged, match="all units of a layer are shut") as caught:
        train.sgd(net, shut, epochs=3, **OPTIONS)
    assert caught.value.step == 30 and caught.value.epoch == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_the_same_net_to_rounding(digits):
    there = train.sgd(_net(), digits, epochs=2, device="cuda", dtype="float64", **OPTIONS)
    here = train.sgd(_net(), digits, epochs=2, dtype="float64", **OPTIONS)
    assert _vector(there).cpu() == pytest.approx(_vector(here), rel=1e-9, abs=1e-11)
    window = train.record(there, layer=1, epochs=1)
    assert dict(window.sizes) == {"step": 30, "weight": 400}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_to_be_missing(digits):
    with pytest.raises(ValueError, match="device='cuda' cannot be used here"):
        train.sgd(_net(), digits, epochs=1, device="cuda", **OPTIONS)


class _Leaky(nn.ReLU):
    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * x)


@pytest.mark.parametrize("kind", ["subclass", "hook", "own forward"])
def test_nets_that_only_look_like_dense_ones_are_trained_as_they_are(kind):
    net = models.fully_connected((3, 4, 2), rng=0)
    if kind == "subclass":
        net[-2] = _Leaky()
    elif kind == "hook":
        net[-1].register_forward_hook(lambda module, inputs, output: 2 * output)
    else:
        net[-2].forward = lambda x: x
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    parameters = [p.detach() for p in net.parameters()]
    assert torch.equal(network(net).forward(parameters, x), net(x).detach())


def _frozen():
    net = models.fully_connected((64, 8, 10), rng=0)
    net[1].weight.requires_grad_(False)
    return net


def _hooked():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def _tied():
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, 10))


class _Scaled(nn.Sequential):
    def forward(self, x):
        return 100 * super().forward(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_frozen, "frozen"),
        (_hooked, "without hooks"),
        (_tied, "twice"),
        (lambda: _Scaled(nn.Flatten(), nn.Linear(64, 10)), "nn.Sequential itself"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)), "random numbers"),
    ],
)
def test_nets_that_training_would_change_into_others_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        train.sgd(make(), datasets.load("digits"), learning_rate=0.1, batch_size=50, epochs=1, rng=0)
