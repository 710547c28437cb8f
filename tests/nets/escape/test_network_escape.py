"""First exits of SGD from a box: one law for every way of running it, exact exits, readings, fits, starts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from fpsolve import escape_rate
from nets import models
from nets.escape.box import simulate_box_escape
from nets.escape.dynamics import local_dynamics, net_dynamics, noise_and_curvature
from nets.escape.predictions import (
    SHIFT,
    basin_covariance,
    free_exit_time,
    isotropic_exit_time,
    level_crossing_rate,
    positive_part,
)
from nets.measure import curvature
from nets.measure import noise as gradient_noise
from nets.training import train
from notebooks.studies.box_escape.laws import fit_laws, variation
from notebooks.studies.box_escape.scans import DYNAMICS, SCANS, escape_study
from notebooks.studies.box_escape.starts import binary_data, gaussian_noise, minimum, pretrained, start_report
from notebooks.studies.box_escape.summary import compare_laws, scan_fits, scan_rates, scan_readings


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
    runs = simulate_box_escape(
        net_dynamics(net, data), replicas=3, rng=5, half_width=10, max_steps=30, **options
    )
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
        weights = [
            w.view(s) for w, s in zip((root * theta).split([s.numel() for s in shapes]), shapes, strict=True)
        ]
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
    net, x = _nets()["two layers"].double(), data.train_inputs.double()
    assert np.allclose(C, gradient_noise.noise_covariance(net, x, data.train_labels).covariance, atol=1e-14)
    assert np.allclose(H, curvature.hessian(net, x, data.train_labels), atol=1e-13)
    step = torch.linspace(-1, 1, len(g), dtype=torch.float64)
    ahead, behind = (dynamics.gradients((dynamics.start + e * step)[None], None)[0] for e in (1e-6, -1e-6))
    assert np.allclose((ahead - behind) / 2e-6, H @ step.numpy(), atol=1e-5)


def test_the_local_models_have_the_noise_of_the_net_at_the_start(dynamics):
    rows = torch.arange(12).reshape(4, 3)
    there = dynamics.start.expand(4, -1)
    exact = dynamics.gradients(there, rows)
    quadratic = local_dynamics(dynamics, drift="quadratic")
    assert torch.allclose(quadratic.gradients(there, rows), exact, atol=1e-14)
    assert torch.allclose(
        local_dynamics(dynamics, drift="linear").gradients(there + 1, rows), exact, atol=1e-14
    )
    mean = dynamics.gradients(there, None)
    assert torch.allclose(local_dynamics(dynamics).gradients(there + 1, rows), exact - mean, atol=1e-14)
    near = there + 1e-7
    assert torch.allclose(quadratic.gradients(near, None), dynamics.gradients(near, None), atol=1e-10)


def test_free_exit_of_independent_coordinates_is_exact():
    assert isotropic_exit_time(1, half_width=2, diffusion=0.5) == pytest.approx(4.0, rel=1e-10)  # r²/2D
    for P in (1, 5, 40):
        free = free_exit_time(np.eye(P), half_width=2, walkers=1500, steps=400, rng=P)
        exact = isotropic_exit_time(P, half_width=2, diffusion=0.5)
        stderr = float(free.high - free["mean"]) / 1.96
        assert abs(float(free["mean"]) - exact) < 4 * stderr
    with pytest.raises(ValueError, match="parameters"):
        isotropic_exit_time(0)


def test_a_wrong_law_of_free_exit_is_rejected():
    free = free_exit_time(np.eye(5), half_width=2, walkers=1500, steps=400, rng=5)
    assert not float(free.low) < isotropic_exit_time(1, half_width=2, diffusion=0.5) / 5 < float(free.high)
    assert float(free.variation) < 0.8  # nothing like the 1 of an exponential law


def test_free_walks_of_a_net_obey_the_parameter_free_diffusion():
    dynamics, eta, B = net_dynamics(_nets()["two layers"], gaussian_noise(2000, 5, rng=0)), 2e-3, 2
    C = noise_and_curvature(dynamics)[1]
    free = free_exit_time(C, walkers=600, steps=400, rng=0)
    runs = simulate_box_escape(
        local_dynamics(dynamics), learning_rate=eta, batch_size=B, sampling="with_replacement",
        replicas=150, max_steps=100_000, rng=1,
    )  # fmt: skip
    # Looked at once a step, a walk ends 0.58 standard deviations of a step behind the wall.
    late = (1 + SHIFT * eta * math.sqrt(C.diagonal().max() / B) / 0.05) ** 2
    predicted = float(free["mean"]) * B / eta**2 * late
    stderr = math.hypot(
        float(runs.steps.std()) / math.sqrt(150), float(free.high - free.low) / 3.92 * B / eta**2
    )
    assert abs(float(runs.steps.mean()) - predicted) < 4 * stderr
    assert abs(float(runs.steps.mean()) - predicted * eta) > 4 * stderr  # per iteration it is η², not η


def test_level_crossing_is_kramers_in_one_dimension_and_cancels_the_curvature():
    h, c, eta, B, r = 0.7, 0.3, 0.01, 2.0, 0.05
    D = eta * c / (2 * B)
    barrier = h * r**2 / (2 * D)
    rate, exponent = level_crossing_rate([[c]], [[h]], learning_rate=eta, batch_size=B, half_width=r)
    assert exponent == pytest.approx(barrier)
    assert rate == pytest.approx(2 * h * math.sqrt(barrier / math.pi) * math.exp(-barrier))
    H = np.array([[2.0, 0.5], [0.5, 0.1]])
    H = H @ H
    assert level_crossing_rate(H, H, learning_rate=eta, batch_size=B)[1] == pytest.approx(B * 0.05**2 / eta)
    assert math.isnan(level_crossing_rate(np.eye(2), np.diag([1.0, 0.0]), learning_rate=1, batch_size=1)[0])


def test_the_basin_has_the_covariance_of_lyapunovs_equation():
    rng = np.random.default_rng(0)
    A, F = rng.standard_normal((2, 4, 4))
    C, H = A @ A.T, F @ F.T + 0.1 * np.eye(4)
    sigma = basin_covariance(C, H)
    assert np.allclose(H @ sigma + sigma @ H, C)
    silent = np.diag([1.0, 0.0])
    assert np.allclose(basin_covariance(silent, silent), np.diag([0.5, 0.0]))
    assert np.allclose(positive_part(np.diag([-2.0, 1.0])), np.diag([2.0, 1.0]))


def test_rare_exits_of_an_ornstein_uhlenbeck_basin_come_at_the_level_crossing_rate():
    # One-dimensional logistic model in disguise: frozen ±1 noise, curvature 1, many steps per relaxation.
    from nets.escape.dynamics import LocalDynamics

    noise = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(2000, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    basin = LocalDynamics(
        torch.zeros(1, dtype=torch.float64), noise, torch.zeros(1, dtype=torch.float64), one, {}
    )
    eta, r = 0.01, 0.2
    runs = simulate_box_escape(
        basin, learning_rate=eta, batch_size=1, half_width=r, replicas=150, sampling="with_replacement",
        max_steps=100_000, rng=0,
    )  # fmt: skip
    rate = escape_rate(runs)
    # Seen once a step the wall stands 0.58 η further; the next order in D/ΔL adds 1/(exponent) or so.
    wall = r + SHIFT * eta
    predicted, exponent = level_crossing_rate(
        [[1.0]], [[1.0]], learning_rate=eta, batch_size=1, half_width=wall
    )
    assert 4 < exponent < 5
    assert float(rate.low) < predicted * (1 - 1 / (2 * exponent)) < float(rate.high)
    _, low, high = variation(runs.steps)
    # Exponential times, here at last, after about one relaxation time 1/η h in which nobody can leave.
    assert low < 1 - 1 / (eta * float(runs.steps.mean())) < high


# --- fits


def test_each_law_wins_on_its_own_rates():
    x = np.geomspace(1, 10, 7)
    for scanned, u in (("learning_rate", -1 / x), ("batch_size", -x), ("injected_noise", -1 / x)):
        truth = {"exponential": np.exp(1 + 2 * u), "power": 3 * x**1.7}
        for law, rate in truth.items():
            fit = fit_laws(x, scanned=scanned, escapes=np.full(7, 100), total_time=100 / rate)
            assert float(fit.slope.sel(law=law)) == pytest.approx({"exponential": 2.0, "power": 1.7}[law])
            assert float(fit.r_squared.sel(law=law)) == pytest.approx(1)
            assert (float(fit.aic_difference) > 0) == (law == "power")


def test_slopes_cover_the_truth_and_the_spread_counts():
    rng = np.random.default_rng(0)
    x, covered = np.geomspace(1, 10, 8), 0
    for _ in range(200):
        times = rng.gamma(4, 1 / (4 * x[:, None] ** 2), size=(8, 60))  # cv = 0.5
        cv = times.std(1) / times.mean(1)
        fit = fit_laws(
            x, scanned="sharpness", escapes=np.full(8, 60), total_time=times.sum(1), variation=cv
        ).sel(law="power")
        covered += float(fit.slope_low) < 2 < float(fit.slope_high)
    assert 180 <= covered <= 200  # 95 % of 200, four standard errors; wider where χ² > 1
    wide = fit_laws(x, scanned="sharpness", escapes=np.full(8, 60), total_time=times.sum(1)).sel(law="power")
    assert float(wide.slope_high - wide.slope_low) > 1.3 * float(fit.slope_high - fit.slope_low)


def test_variation_tells_an_exponential_law_from_a_narrow_one():
    rng = np.random.default_rng(1)
    value, low, high = variation(rng.exponential(size=400))
    assert low < 1 < high and low < value < high
    assert variation(rng.gamma(4, size=400))[2] < 0.6
    with pytest.raises(ValueError, match="three"):
        variation([1.0, 2.0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scanned": "epochs"}, "scanned"),
        ({"escapes": [1, 0, 1]}, "escape"),
        ({"escapes": [1, 1]}, "three|3 or more"),
    ],
)
def test_fits_refuse_what_they_cannot_use(options, said):
    with pytest.raises(ValueError, match=said):
        fit_laws(
            [1, 2, 3], **({"scanned": "batch_size", "escapes": [1, 1, 1], "total_time": [1, 1, 1]} | options)
        )


# --- starts and studies


def test_a_minimum_has_no_gradient_and_descent_stays(data):
    start = pretrained(data, epochs=20, rng=0)
    there = minimum(start, weight_decay=0.05)
    before, after = (start_report(d, time=20) for d in (start, there))
    # ReLU's kinks, where such a minimum sits, leave jumps of the gradient of this size.
    assert float(after.gradient_norm) < 0.1 * float(before.gradient_norm)
    assert math.isnan(float(after.descent_exit_time)) and float(after.descent_change) < 0.002
    assert there.attributes["weight_decay"] == 0.05
    assert len(after.eigenvalue) == there.attributes["parameters"] == 82
    smooth = start_report(minimum(net_dynamics(_nets()["logistic regression"], data), weight_decay=0.05))
    assert float(smooth.gradient_norm) < 1e-7 and float(smooth.descent_change) < 1e-6
    assert float(smooth.eigenvalue[0]) == pytest.approx(0.05)  # both logits shifted: the decay alone


def test_binary_data_are_named_and_others_refused():
    data = binary_data("clusters")
    assert data.features == 4 and len(data.classes) == 2 and data.samples == 250
    noise = binary_data("gaussian")
    assert noise.samples == 50_000 and abs(float(noise.train_labels.double().mean()) - 0.5) < 4 / (
        2 * 50_000**0.5
    )
    with pytest.raises(ValueError, match="clusters"):
        binary_data("iris")


def test_a_study_holds_every_scan_and_runs_in_a_sweep(tmp_path):
    from functools import partial

    from fpsolve import sweep

    run = partial(escape_study, samples=100, points=3, replicas=8, max_steps=60, scans=("learning_rate",))
    grid = {"problem": ["gaussian"], "start": ["logistic"], "training_seed": [0]}
    study = sweep(run, grid, store=tmp_path / "study.nc", seed=1).isel(problem=0, start=0, training_seed=0)
    assert study.steps.shape == (len(SCANS), len(DYNAMICS), 3, 8)
    done = np.isfinite(study.steps.values).any(-1)
    assert done[0, :2].all() and done[0, 2, ::2].all() and not done[1:].any()
    assert (abs(study.steps.values[0, 0]) <= 60).all()
    assert (np.diff(study.diffusion_steps[0]) > 0).all()
    assert float(study.box) == 0.1 and 0 < float(study.gradient_norm) < 0.4
    with pytest.raises(ValueError, match="logistic"):
        escape_study("gaussian", "origin", 0, np.random.SeedSequence(0), samples=50)


# --- summaries and figures


@pytest.fixture(scope="module")
def studies():
    """A study made up of exactly gamma-distributed times whose mean steps follow η⁻² exactly."""
    rng, points, replicas = np.random.default_rng(0), 6, 400
    eta = 0.01 * 1.4 ** -np.arange(points)
    steps = np.full((1, 1, len(SCANS), len(DYNAMICS), points, replicas), np.nan)
    mean = 10 * (eta / 0.01) ** -2
    steps[0, 0, 0, :] = np.round(1000 * rng.gamma(4, mean[:, None] / 4, (len(DYNAMICS), points, replicas)))
    plane = ("training_seed", "problem", "scan", "point")
    full = np.broadcast_to(eta, (1, 1, len(SCANS), points))
    numbers = {"free_mean": 1.0, "free_low": 0.99, "free_high": 1.01}
    return xr.Dataset(
        {
            "steps": (("training_seed", "problem", "scan", "dynamics", "point", "replica"), steps),
            "learning_rate": (plane, full), "x": (plane, full), "uphill": (plane, np.ones_like(full)),
            "level_exponent": (plane, 0.02 / full),
            "diffusion_steps": (plane, np.broadcast_to(1000 * mean, full.shape)),
            "level_rate": (plane, 2 / (full * 1000 * mean)),
        } | {name: (("training_seed", "problem"), [[value]]) for name, value in numbers.items()},
        {"training_seed": [0], "problem": ["made up"]},
    )  # fmt: skip


def test_summaries_find_the_law_that_was_put_in(studies):
    study = studies.isel(training_seed=0, problem=0)
    rates = scan_rates(study, "learning_rate")
    assert (rates.low < rates.rate).all() and (rates.rate < rates.high).all()
    assert np.allclose(rates.rate * rates.mean_steps * study.learning_rate[0].values, 1)
    assert (
        (rates.variation_low < 0.5).all()
        and (rates.variation_high > 0.5).all()
        and rates.variation.max() < 0.6
    )
    table = compare_laws(studies, "learning_rate").isel(training_seed=0, problem=0)
    assert float(table.power_low) < 1 < float(table.power_high)  # η² per iteration is η per unit of time
    sharper = compare_laws(studies, "sharpness").isel(training_seed=0, problem=0)
    assert float(sharper.power) == pytest.approx(float(table.power) + 1, abs=0.02)
    assert float(table.aic_difference) > 0 and float(table.residual_ratio) > 10
    assert float(table.off_diffusion) < 0.1 and float(table.off_quadratic) < 0.1
    fits = scan_fits(study, "learning_rate").sel(law="exponential")
    assert float(table.slope_ratio) == pytest.approx(float(fits.slope) / 0.02)
    k = scan_fits(study, "sharpness").sel(law="exponential")
    assert float(sharper.slope_ratio) == pytest.approx(float(k.slope) / (0.02 / float(study.x[0].min())))
    assert float(table.off_level) == pytest.approx(math.log(2), abs=0.1)
    with pytest.raises(ValueError, match="no network"):
        scan_rates(study, "batch_size")
    assert math.isnan(float(compare_laws(studies, "batch_size").power.item()))


def test_censored_scans_have_rates_but_no_spread(studies):
    study = studies.isel(training_seed=0, problem=0).copy(deep=True)
    study["steps"][0, 0, 2, :300] = -5000.0
    rates = scan_rates(study, "learning_rate")
    assert math.isnan(float(rates.variation[2])) and float(rates.escapes[2]) == 100
    assert float(rates.rate[2]) > 0 and float(rates.replicas[2]) == 400
    assert math.isnan(float(scan_readings(study, "learning_rate").ratio[0, 2]))


def test_figures_draw_what_they_are_given(studies):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    from notebooks.studies.box_escape import plot

    study = studies.isel(training_seed=0, problem=0)
    figure, axes = plt.subplots(1, 3)
    assert plot.exits(study, "learning_rate", ax=axes[0]) is axes[0]
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    labels = plot.as_in_the_paper(study, "sharpness", ax=axes[1]).get_legend_handles_labels()[1]
    assert sum("R^2" in label for label in labels) == 2
    assert axes[1].get_xlabel() == "$1/k$"
    plot.spread_of_times({"one": study}, "learning_rate", ax=axes[2])
    assert "variation" in axes[2].get_ylabel()
    plt.close(figure)
