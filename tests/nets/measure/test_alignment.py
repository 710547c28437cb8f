"""How alike noise and Hessian are: known matrices, calibrated labels, a net that learnt by heart, intervals."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from fpsolve.statistics import over_trainings
from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.curvature import leading_eigenpairs
from nets.measure.overlaps import alignment, label_ratio, noise_alignment
from nets.measure.subject import as_subject


def _random_hessian(n=60, seed=0):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return (U * np.geomspace(1e-4, 1, n)) @ U.T


@pytest.mark.parametrize(("power", "size"), [(1, 1.0), (1, 0.01), (2, 3.0)])
def test_powers_and_sizes_of_the_hessian_are_told_apart(power, size):
    H = _random_hessian()
    found = alignment(size * np.linalg.matrix_power(H, power), H)
    assert float(found.slope_diagonal) == pytest.approx(power, abs=1e-6)
    assert float(found.log_pearson_diagonal) == pytest.approx(1)
    assert float(found.overlap) == pytest.approx(1)
    assert float(found.size_ratio) == pytest.approx(
        size * np.trace(np.linalg.matrix_power(H, power)) / np.trace(H)
    )
    if power == 1:
        assert float(found.pearson_elements) == pytest.approx(1)
        assert float(found.coefficient) == pytest.approx(size)
    else:
        assert float(found.pearson_elements) < 0.99


def test_unrelated_matrices_overlap_by_chance_only():
    overlaps = [
        float(alignment(_random_hessian(seed=s), _random_hessian(seed=100 + s)).overlap) for s in range(20)
    ]
    error = np.std(overlaps) / np.sqrt(20)
    assert abs(np.mean(overlaps) - 10 / 60) < 4 * error


def test_leading_eigenvectors_by_lanczos_are_the_dense_ones():
    H = _random_hessian(600)
    values, vectors = leading_eigenpairs(H, 10)
    assert values == pytest.approx(np.linalg.eigvalsh(H)[-10:], rel=1e-10)
    assert H @ vectors == pytest.approx(vectors * values, abs=1e-10)


def _labelled_by_the_net(samples, seed):
    rng = np.random.default_rng(seed)
    net = models.fully_connected((8, 6, 5, 4), rng=0, initial="he").double()
    inputs = torch.from_numpy(rng.normal(size=(samples, 8)))
    with torch.no_grad():
        p = torch.softmax(net(inputs), 1).numpy()
    labels = (p.cumsum(1) < rng.random((samples, 1))).sum(1)
    return net, inputs, torch.from_numpy(labels)


def test_noise_equals_the_hessian_where_labels_fall_as_the_net_says():
    ratios, calibrations = [], []
    for seed in range(12):
        net, inputs, labels = _labelled_by_the_net(2000, seed)
        found = noise_alignment(as_subject(net, inputs, labels, layer=1))
        ratios.append(float(found.size_ratio.sel(matrix="noise")))
        calibrations.append(float(found.label_ratio))
        assert float(found.pearson_elements.sel(matrix="noise")) > 0.98
        assert float(found.slope_diagonal.sel(matrix="noise")) == pytest.approx(1, abs=0.1)
    for values in (ratios, calibrations):
        assert abs(np.mean(values) - 1) < 4 * np.std(values) / np.sqrt(len(values))
    # Random labels are not what the net says.
    net, inputs, labels = _labelled_by_the_net(2000, 0)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    wrong = noise_alignment(as_subject(net, inputs, labels[order], layer=1))
    assert abs(float(wrong.size_ratio.sel(matrix="noise")) - 1) > 10 * np.std(ratios)


def test_a_net_that_knows_its_labels_by_heart_has_little_noise_in_the_same_directions():
    data = datasets.load("digits")
    start = models.fully_connected((64, 20, 20, 10), rng=0)
    sizes = []
    for epochs in (3, 100):
        run = train.sgd(start, data, learning_rate=0.1, batch_size=50, epochs=epochs, rng=0)
        found = noise_alignment(as_subject(run.net, data.train_inputs, data.train_labels, layer=1))
        sizes.append(float(found.size_ratio.sel(matrix="noise")))
    assert float(found.error) < 0.002 and sizes[1] < 0.05 < 0.3 < sizes[0]
    assert float(found.pearson_diagonal.sel(matrix="noise")) > 0.9
    assert float(found.overlap.sel(matrix="noise")) > 10 * float(found.overlap_by_chance[0])
    true = found.sel(matrix="true Fisher")
    assert float(true.size_ratio) == pytest.approx(1) and found.attrs["hessian_method"] == "gauss-newton"
    assert float(found.gradient_norm) ** 2 < 1e-2 * found.diagonal.sel(matrix="noise").sum()


def test_the_true_fisher_matrix_of_all_weights_is_near_the_hessian_in_shape_and_equal_in_size():
    data = datasets.load("digits").subset(400)
    run = train.sgd(
        models.fully_connected((64, 6, 10), rng=0), data, learning_rate=0.1, batch_size=50, epochs=60, rng=0
    )
    found = noise_alignment(as_subject(run.net, data.train_inputs, data.train_labels))
    assert found.attrs["hessian_method"] == "products"
    true = found.sel(matrix="true Fisher")
    assert float(true.size_ratio) == pytest.approx(1, abs=1e-4)
    assert 0.9 < float(true.pearson_elements) < 1 - 1e-6


def test_the_label_ratio_of_a_sure_net_keeps_its_digits():
    logits = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    u = 2 * np.exp(-40.0)  # p_label = 1 − u, the others u/2 each
    assert label_ratio(logits, torch.tensor([0])) == pytest.approx((u**2 + u**2 / 2) / (2 * u), rel=1e-9)
    assert label_ratio(torch.zeros(7, 5), torch.arange(7) % 5) == pytest.approx(1)


def test_intervals_over_trainings_are_students():
    values = [1.0, 2.0, 4.0]
    found = over_trainings([xr.Dataset({"a": ((), v)}) for v in values])
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert float(found.a_low) == pytest.approx(np.mean(values) - half)
    assert float(found.a_high) == pytest.approx(np.mean(values) + half)
    logs = over_trainings([xr.Dataset({"a": ((), v)}) for v in values], geometric=["a"])
    assert float(logs.a) == pytest.approx(2.0)
    assert float(logs.a_low) * float(logs.a_high) == pytest.approx(4.0) and float(logs.a_low) > 0
    with pytest.raises(ValueError, match="at least 2"):
        over_trainings([xr.Dataset({"a": ((), 1.0)})])


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="square and alike"):
        alignment(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match="top=9"):
        alignment(np.eye(3), np.eye(3), top=9)
