"""Studies over trainings: kept files, snapshots, noise from all sides, alignment along training, whose noise flattens."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from fpsolve.laws import law_density, law_fits
from fpsolve.results import side_of_zero, with_interval
from fpsolve.statistics import over_trainings
from fpsolve.table import interval_table
from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.noise import noise_trace
from nets.measure.overlaps import noise_alignment
from nets.measure.subject import as_subject
from nets.training.along import net_at, weights_along
from notebooks.studies.noise_and_curvature import alignment, comparison, noise
from notebooks.studies.noise_and_curvature.dynamics import flatness_along, mean_white_noise
from notebooks.studies.noise_and_curvature.plot import component_laws, with_intervals


@pytest.fixture(scope="module")
def few():
    return datasets.load("digits").subset(300)


@pytest.fixture(scope="module")
def nets():
    return [models.fully_connected((64, 10, 8, 10), rng=s) for s in (0, 1)]


@pytest.fixture(scope="module")
def weights(few, nets):
    return weights_along(nets, few, epochs=(0, 2, 5), learning_rate=0.1, batch_size=50, rng=(0, 1))


def test_weights_along_training_are_those_of_training_alone(few, nets, weights):
    for k, net in enumerate(nets):
        alone = train.sgd(net, few, learning_rate=0.1, batch_size=50, epochs=5, rng=k).net
        there = net_at(nets[0], weights, training=k, epoch=5)
        for p, q in zip(alone.parameters(), there.parameters(), strict=True):
            assert p.detach().numpy() == pytest.approx(q.numpy(), abs=1e-4)
        start = net_at(nets[0], weights, training=k, epoch=0)
        assert all((p == q).all() for p, q in zip(net.parameters(), start.parameters(), strict=True))
        accuracy = (there(few.train_inputs).argmax(1) == few.train_labels).double().mean()
        assert float(weights.accuracy.sel(epoch=5)[k]) == pytest.approx(float(accuracy))
    with pytest.raises(ValueError, match="kept are 2 trainings"):
        net_at(nets[0], weights, training=0, epoch=3)
    with pytest.raises(ValueError, match="ascend"):
        weights_along(nets, few, epochs=(5, 2), learning_rate=0.1, batch_size=50, rng=(0, 1))
    with pytest.raises(ValueError, match="weights"):
        net_at(models.fully_connected((64, 3, 10), rng=0), weights, training=0, epoch=0)


def test_correlations_are_averaged_where_their_interval_stays_below_one():
    several = [xr.Dataset({"r": ((), v)}) for v in (0.99, 0.7, 0.9)]
    plain, found = over_trainings(several), over_trainings(several, correlations=["r"])
    assert float(plain.r_high) > 1 > float(found.r_high) > float(found.r) > float(found.r_low)
    assert float(found.r) == pytest.approx(np.tanh(np.arctanh([0.99, 0.7, 0.9]).mean()))
    same = over_trainings([xr.Dataset({"r": ((), 1.0)})] * 2, correlations=["r"])
    assert float(same.r) == pytest.approx(1)


def test_a_study_of_noise_finds_its_trace_and_is_the_same_for_the_same_seed(few, nets, weights):
    def study(seed):
        net = net_at(nets[0], weights, training=0, epoch=5)
        return noise.noise_study(
            net, few.train_inputs, few.train_labels, layer=1, batch_size=20, draws=400, repeats=2,
            batch_sizes=(1, 16), rng=seed,
        )  # fmt: skip

    found, other = study(0), study(1)
    assert (np.abs(found.trace_drawn - found.trace) < 4 * found.trace_stderr).all()
    # A third of all samples without replacement: with C₁/B in place of the exact factor it would fail.
    assert abs(float((found.trace_drawn - 1.5 * found.trace)[1])) > 4 * float(found.trace_stderr[1])
    assert found.identical(study(0)) and not found.identical(other)
    control = found.sel(pooled=noise.POOLED[3])
    assert (control.alpha > 1.9).all() and (found.alpha <= 2).all()
    kurtosis = found.excess_kurtosis
    assert kurtosis.sel(batch_size=1).to_numpy() == pytest.approx(16 * kurtosis.sel(batch_size=16).to_numpy())
    summary = noise.noise_summary([found, other])
    both = xr.concat([found.alpha, other.alpha], "t")
    assert float(summary.alpha_least.sel(pooled=noise.POOLED[0])) == float(
        both.sel(pooled=noise.POOLED[0]).min()
    )
    assert summary.rejected.dims == ("group", "batch_size")
    assert list(noise.law_table(summary).index) == list(noise.POOLED)
    tested = noise.normality_table(summary)
    assert list(tested.columns) == ["B = 1", "B = 16"] and len(tested) == 2 * len(noise.DIRECTIONS)
    rejected = float(summary.rejected.sel(group="random", batch_size=16))
    assert tested.loc[("random", "Gaussian rejected"), "B = 16"] == f"{rejected:.0%}"
    share = [
        float(s.rejected.sel(direction=s.group == "random", batch_size=1).mean()) for s in (found, other)
    ]
    assert float(summary.rejected.sel(group="random", batch_size=1)) == pytest.approx(np.mean(share))


def test_the_stable_density_is_the_gaussian_at_two_and_has_heavy_tails_below():
    x = np.linspace(-4, 4, 9)
    gauss = np.exp(-(x**2) / 4) / np.sqrt(4 * np.pi)
    assert law_density(x, alpha=2.0, scale=1.0) == pytest.approx(gauss)
    assert law_density(x / 3 + 1, alpha=2.0, scale=1 / 3, location=1.0) == pytest.approx(3 * gauss)
    cauchy = 1 / (np.pi * (1 + x**2))
    assert law_density(x, alpha=1.0, scale=1.0) == pytest.approx(cauchy, rel=0.01)


def test_alignment_along_training_is_that_of_each_net_and_is_kept(few, nets, weights, tmp_path):
    store = tmp_path / "alignment"
    every = alignment.alignment_along(nets[0], weights, few, layer=1, store=store)
    assert every.identical(alignment.alignment_along(nets[0], weights, few, layer=1, store=store))
    assert len(list(tmp_path.iterdir())) == 6
    net = net_at(nets[0], weights, training=1, epoch=5)
    alone = noise_alignment(as_subject(net, few.train_inputs, few.train_labels, layer=1)).sel(matrix="noise")
    here = every.sel(matrix="noise", epoch=5).isel(training=1)
    for name in ("size_ratio", "slope_diagonal", "label_ratio", "overlap"):
        assert float(here[name]) == pytest.approx(float(alone[name]))
    ratios = (alone.diagonal / alone.eigenvalue).to_numpy()[:10]
    assert float(here.size_ratio_top) == pytest.approx(np.exp(np.log(ratios).mean()))
    summary = alignment.alignment_summary(every)
    mean = np.exp(np.log(every.size_ratio.sel(matrix="noise", epoch=2)).mean())
    assert float(summary.size_ratio.sel(matrix="noise", epoch=2)) == pytest.approx(float(mean))
    assert float(summary.pearson_diagonal_high.sel(matrix="noise", epoch=0)) <= 1
    assert float(summary.error.sel(epoch=0)) == pytest.approx(1 - float(weights.accuracy.sel(epoch=0).mean()))
    table = interval_table(summary.sel(matrix="noise"), {"size_ratio": "size", "error": "error"})
    assert list(table.columns) == ["size", "error"] and list(table.index) == [0, 2, 5]
    assert table["size"][2] == with_interval(summary.sel(matrix="noise", epoch=2), "size_ratio")
    with pytest.raises(ValueError, match="select"):
        with_interval(summary, "size_ratio")


def test_a_store_of_another_net_seed_layer_or_data_is_refused(few, nets, weights, tmp_path):
    store = tmp_path / "alignment"
    part = weights.isel(training=[0], epoch=[1])
    alignment.alignment_along(nets[0], part, few, layer=1, store=store)
    others = {
        "weights": (weights.isel(training=[1], epoch=[1]), few, 1),
        "layer": (part, few, 0),
        "data": (part, few.subset(100), 1),
    }
    for key, (course, data, layer) in others.items():
        with pytest.raises(ValueError, match=f"was made with {key}="):
            alignment.alignment_along(nets[0], course, data, layer=layer, store=store)
    steeper = torch.nn.Sequential(
        *(torch.nn.LeakyReLU(0.1) if isinstance(m, torch.nn.ReLU) else m for m in nets[0])
    )
    with pytest.raises(ValueError, match=r"was made with (net|weights)="):
        alignment.alignment_along(steeper, part, few, layer=1, store=store)


def test_slopes_over_a_range_find_the_power():
    x = np.geomspace(1, 1e-4, 50)
    both = np.where(x > 0.01, x, 0.01 * (x / 0.01) ** 2)  # a power of 1 above 0.01, of 2 below
    every = xr.Dataset(
        {"eigenvalue": (("training", "epoch", "mode"), np.tile(x, (2, 1, 1))),
         "diagonal": (("training", "epoch", "matrix", "mode"), np.tile(both, (2, 1, 1, 1)))},
        {"epoch": [7], "matrix": ["noise"]},
    )  # fmt: skip
    found = alignment.slopes_above(every, (0.01, 1e-6))
    assert found.slope.sel(epoch=7).to_numpy()[0] == pytest.approx(1)
    assert 1.3 < float(found.slope[0, 1]) < 1.8 and found.directions.to_numpy().tolist() == [[25, 50]]


def test_carriers_count_samples_with_the_same_residual():
    logits = torch.zeros(10, 4)
    labels = torch.arange(10) % 4
    assert alignment.noise_carriers(logits, labels) == pytest.approx(10)
    logits[3:] = 50 * torch.nn.functional.one_hot(labels[3:], 4)
    assert alignment.noise_carriers(logits, labels) == pytest.approx(3)


def _course(steps, flatness, loss, rate=0.1, size=50):
    return xr.Dataset(
        {"flatness": ("epoch", np.exp(flatness)), "flatness_rescaled": ("epoch", np.ones(len(steps))),
         "loss": ("epoch", loss), "test_accuracy": ("epoch", 1 - loss), "weight_norm": ("epoch", 1 / loss)},
        {"epoch": np.arange(1, len(steps) + 1), "step": ("epoch", steps), "time": ("epoch", rate * np.array(steps))},
        {"learning_rate": rate, "batch_size": size},
    )  # fmt: skip


def test_a_run_that_is_only_further_along_gains_at_equal_steps_and_not_at_equal_loss():
    # ln F = −ln(loss)/2 in both; the faster has half the loss at each step.
    steps, loss = [10, 100, 1000], np.array([1.0, 0.1, 0.01])
    slow, fast = _course(steps, -0.5 * np.log(loss), loss), _course(steps, -0.5 * np.log(loss / 2), loss / 2)
    noisy = _course(steps, -0.5 * np.log(loss / 2) + 0.01, loss / 2)
    gain = comparison.flatness_gain([fast, noisy], [slow, slow])
    assert float(gain.gain) == pytest.approx(0.5 * np.log(2) + 0.005)
    assert float(comparison.flatness_gain([fast, noisy], [slow, slow], value=10).gain) == pytest.approx(
        float(gain.gain)
    )
    gain = comparison.flatness_gain([fast, noisy], [slow, slow], at="loss")
    assert float(gain.gain) == pytest.approx(0.005) and float(gain.gain_low) < 0 < float(gain.gain_high)
    assert comparison.log_flatness(slow, at="loss", value=np.sqrt(0.001)) == pytest.approx(
        0.25 * np.log(1000)
    )
    assert comparison.log_flatness(slow, at="time", value=10.0) == pytest.approx(-0.5 * np.log(0.1))
    with pytest.raises(ValueError, match="not measured"):
        comparison.log_flatness(slow, at="step", value=50)
    with pytest.raises(ValueError, match="between"):
        comparison.log_flatness(slow, at="loss", value=0.001)


def test_courses_of_flatness_are_averaged_by_their_logarithms():
    steps, loss = [10, 100, 1000], np.array([1.0, 0.1, 0.01])
    several = [_course(steps, np.array([0.0, 1.0, 3.0]) + off, loss) for off in (0.0, 1.0)]
    found = comparison.flatness_summary(several, over="step")
    assert found.ln_flatness.to_numpy() == pytest.approx([0.5, 1.5, 3.5])
    assert found.step.to_numpy().tolist() == steps and (found.ln_flatness_low < found.ln_flatness).all()
    assert found.test_accuracy.to_numpy() == pytest.approx(1 - loss)
    growth = comparison.flatness_growth(several, steps=(100, 1000))
    assert float(growth.growth) == pytest.approx(2) and float(growth.growth_high) == pytest.approx(2)


def test_slopes_of_flatness_by_the_noise_are_found_in_each_training():
    loss = np.array([1.0, 0.1])
    cases = [
        [_course([10, 100], [0.0, 0.3 * np.log(0.1 / B) + off], loss, size=B) for off in (0.0, 5.0)]
        for B in (50, 100, 200)
    ]
    found = comparison.flatness_slope(cases, at="step", value=100)
    assert float(found.slope) == pytest.approx(0.3) and float(found.slope_high) == pytest.approx(0.3)
    assert float(comparison.flatness_slope(cases, at="loss").slope) == pytest.approx(0.3)
    assert float(
        comparison.flatness_slope(cases, at="loss", name="flatness_rescaled").slope
    ) == pytest.approx(0)
    with pytest.raises(ValueError, match="needs a value"):
        comparison.flatness_slope(cases, at="epoch")
    with pytest.raises(ValueError, match="same η/B"):
        comparison.flatness_slope([cases[0], cases[0]], at="loss")
    with pytest.raises(ValueError, match="at least two cases"):
        comparison.flatness_slope(cases[:1], at="loss")


def test_white_noise_is_as_strong_as_that_of_sgd_and_takes_its_place(few, nets):
    D = mean_white_noise(nets[0], few, learning_rate=0.1, batch_size=50, epochs=(2,), rng=0)
    run = train.sgd(nets[0], few, learning_rate=0.1, batch_size=50, epochs=2, rng=0)
    weights = sum(p.numel() for p in nets[0].parameters())
    trace = noise_trace(as_subject(run.net, few.train_inputs, few.train_labels))
    assert pytest.approx(0.1 * trace / (2 * 50 * weights)) == D
    longer = mean_white_noise(nets[0], few, learning_rate=0.1, batch_size=50, epochs=(1, 2, 4), rng=0)
    assert 0.3 < longer / D < 3
    common = {"steps": [6, 12], "learning_rate": 0.1, "rng": 0}
    ways = {
        "sgd": flatness_along(nets[0], few, batch_size=50, **common),
        "gd": flatness_along(nets[0], few, **common),
        "gd_isotropic_noise": flatness_along(nets[0], few, noise=D, **common),
    }
    for optimizer, found in ways.items():
        assert found.attrs["optimizer"] == optimizer and found.step.to_numpy().tolist() == [6, 12]
    with pytest.raises(ValueError, match="whole epochs of 6"):
        flatness_along(nets[0], few, batch_size=50, steps=[7], learning_rate=0.1)
    with pytest.raises(ValueError, match="full-batch"):
        flatness_along(nets[0], few, batch_size=50, noise=D, steps=[6], learning_rate=0.1)


def test_the_figure_of_components_shows_their_density_and_both_fits():
    plt = pytest.importorskip("matplotlib.pyplot")
    components = np.random.default_rng(0).standard_t(2, size=4000)
    figure, ax = plt.subplots()
    component_laws(components, law_fits(components, resamples=0), ax=ax)
    gauss, stable = ax.get_lines()
    x = gauss.get_xdata()
    assert np.trapezoid(gauss.get_ydata(), x) == pytest.approx(1, abs=0.1)
    assert stable.get_ydata()[-1] > 100 * gauss.get_ydata()[-1]  # heavy tails
    assert np.interp(1.0, x, stable.get_ydata()) == pytest.approx(2 * stats.t.pdf(1.0, 2), rel=0.1)
    plt.close(figure)


@pytest.mark.parametrize(
    ("values", "side"), [((1.0, 1.2), "above"), ((-1.0, -1.2), "below"), ((0.1, -0.1), "neither")]
)
def test_intervals_say_on_which_side_of_zero_they_lie_and_are_drawn(values, side):
    plt = pytest.importorskip("matplotlib.pyplot")
    found = over_trainings([xr.Dataset({"a": ((), v)}) for v in values])
    found = found.assign(a_low=found.a - 0.5, a_high=found.a + 0.5)
    assert side_of_zero(found, "a") == side
    figure, ax = plt.subplots()
    with_intervals([2.0, 3.0], [found, found], "a", ax=ax)
    (bars,) = ax.collections
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(np.tile([float(found.a_low), float(found.a_high)], (2, 1)))
    plt.close(figure)
