"""The study of first exits from a box: fits of its laws, starts, scans, summaries and figures."""

import math

import numpy as np
import pytest
import xarray as xr

from nets import models
from notebooks.studies.box_escape import summary
from notebooks.studies.box_escape.dynamics import net_dynamics
from notebooks.studies.box_escape.laws import fit_laws, variation
from notebooks.studies.box_escape.scans import DYNAMICS, SCANS, escape_study
from notebooks.studies.box_escape.starts import binary_data, gaussian_noise, minimum, pretrained, start_report


@pytest.fixture(scope="module")
def data():
    return gaussian_noise(200, 5, rng=0)


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
        rates = {"scanned": "sharpness", "escapes": np.full(8, 60), "total_time": times.sum(1)}
        fit = fit_laws(x, variation=cv, **rates).sel(law="power")
        covered += float(fit.slope_low) < 2 < float(fit.slope_high)
    assert 180 <= covered <= 200  # 95 % of 200, four standard errors; wider where χ² > 1
    wide = fit_laws(x, **rates).sel(law="power")
    assert float(wide.slope_high - wide.slope_low) > 1.3 * float(fit.slope_high - fit.slope_low)


def test_variation_tells_an_exponential_law_from_a_narrow_one():
    rng = np.random.default_rng(1)
    found = variation(rng.exponential(size=400))
    assert found.low < 1 < found.high and found.low < found.value < found.high
    assert variation(rng.gamma(4, size=400)).high < 0.6
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
    rates = {"scanned": "batch_size", "escapes": [1, 1, 1], "total_time": [1, 1, 1]}
    with pytest.raises(ValueError, match=said):
        fit_laws([1, 2, 3], **rates | options)


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
    smooth = start_report(minimum(net_dynamics(models.logistic(5, 2, rng=3), data), weight_decay=0.05))
    assert float(smooth.gradient_norm) < 1e-7 and float(smooth.descent_change) < 1e-6
    assert float(smooth.eigenvalue[0]) == pytest.approx(0.05)  # both logits shifted: the decay alone


def test_binary_data_are_named_and_others_refused():
    data = binary_data("clusters")
    assert data.features == 4 and len(data.classes) == 2 and data.samples == 250
    noise = binary_data("gaussian")
    assert noise.samples == 50_000
    assert abs(float(noise.train_labels.double().mean()) - 0.5) < 4 / (2 * 50_000**0.5)
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
    rates = summary.scan_rates(study, "learning_rate")
    assert (rates.low < rates.rate).all() and (rates.rate < rates.high).all()
    assert np.allclose(rates.rate * rates.mean_steps * study.learning_rate[0].values, 1)
    assert (rates.variation_low < 0.5).all() and (rates.variation_high > 0.5).all()
    assert rates.variation.max() < 0.6
    table = summary.compare_laws(studies, "learning_rate").isel(training_seed=0, problem=0)
    assert float(table.power_low) < 1 < float(table.power_high)  # η² per iteration is η per unit of time
    sharper = summary.compare_laws(studies, "sharpness").isel(training_seed=0, problem=0)
    assert float(sharper.power) == pytest.approx(float(table.power) + 1, abs=0.02)
    assert float(table.aic_difference) > 0 and float(table.residual_ratio) > 10
    assert float(table.off_diffusion) < 0.1 and float(table.off_quadratic) < 0.1
    fits = summary.scan_fits(study, "learning_rate").sel(law="exponential")
    assert float(table.slope_ratio) == pytest.approx(float(fits.slope) / 0.02)
    k = summary.scan_fits(study, "sharpness").sel(law="exponential")
    assert float(sharper.slope_ratio) == pytest.approx(float(k.slope) / (0.02 / float(study.x[0].min())))
    assert float(table.off_level) == pytest.approx(math.log(2), abs=0.1)
    with pytest.raises(ValueError, match="no network"):
        summary.scan_rates(study, "batch_size")
    assert math.isnan(float(summary.compare_laws(studies, "batch_size").power.item()))


def test_censored_scans_have_rates_but_no_spread(studies):
    study = studies.isel(training_seed=0, problem=0).copy(deep=True)
    study["steps"][0, 0, 2, :300] = -5000.0
    rates = summary.scan_rates(study, "learning_rate")
    assert math.isnan(float(rates.variation[2])) and float(rates.escapes[2]) == 100
    assert float(rates.rate[2]) > 0 and float(rates.replicas[2]) == 400
    assert math.isnan(float(summary.scan_readings(study, "learning_rate").ratio[0, 2]))


def test_figures_draw_what_they_are_given(studies):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    from notebooks.studies.box_escape import plot

    study = studies.isel(training_seed=0, problem=0)
    figure, axes = plt.subplots(1, 3)
    readings = summary.scan_readings(study, "learning_rate")
    assert plot.exits(summary.dynamics_rates(study, "learning_rate"), readings, ax=axes[0]) is axes[0]
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    plot.as_in_the_paper(
        summary.scan_rates(study, "sharpness"), summary.scan_fits(study, "sharpness"), ax=axes[1]
    )
    labels = axes[1].get_legend_handles_labels()[1]
    assert sum("R^2" in label for label in labels) == 2
    assert axes[1].get_xlabel() == "$1/k$"
    plot.spread_of_times({"one": summary.scan_rates(study, "learning_rate")}, ax=axes[2])
    assert "variation" in axes[2].get_ylabel()
    plt.close(figure)
