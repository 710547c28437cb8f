"""A valley measured from a trained net: its curvatures, its noise and its symbols are those of the net."""

import numpy as np
import pytest
import sympy as sp

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.curvature import hessian, top_eigenpairs
from nets.measure.directions import along_directions
from nets.measure.noise import noise_covariance, per_sample_gradients
from nets.measure.subject import as_subject
from nets.measure.valley import measure_valley


@pytest.fixture(scope="module")
def run():
    return train.sgd(
        models.fully_connected((64, 8, 10), rng=0), datasets.load("digits"), learning_rate=0.1, batch_size=50,
        epochs=60, rng=0, sampling="with_replacement", dtype="float64",
    )  # fmt: skip


@pytest.fixture(scope="module")
def valley(run):
    return measure_valley(run, n_sharp=2, epochs=6, pilots=4, points=8)


def _net(kind):
    torch.manual_seed(0)
    if kind == "convolutional":
        layers = [torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3)]
        return torch.nn.Sequential(*layers).double(), torch.randn(7, 1, 4, 4, dtype=torch.float64)
    net = models.fully_connected((5, 6, 4, 3), rng=1, bias=kind == "with biases").double()
    return net, torch.randn(7, 5, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["without biases", "with biases", "convolutional"])
def test_derivatives_along_directions_are_the_projected_gradients_and_hessians_of_single_samples(kind):
    net, inputs = _net(kind)
    labels = torch.arange(7) % 3
    size = sum(p.numel() for p in net.parameters())
    V = np.linalg.qr(np.random.default_rng(0).normal(size=(size, 3)))[0]
    found = along_directions(as_subject(net, inputs, labels), directions=V)
    g = per_sample_gradients(as_subject(net, inputs, labels)).numpy() @ V
    each = [as_subject(net, inputs[s : s + 1], labels[s : s + 1]) for s in range(7)]
    h = np.array([V.T @ hessian(one, method="products").to_numpy() @ V for one in each])
    assert found.gradient == pytest.approx(g.mean(0), rel=1e-10)
    assert found.covariance == pytest.approx(np.cov(g.T, bias=True), rel=1e-9)
    assert found.hessian == pytest.approx(h.mean(0), rel=1e-9, abs=1e-12)
    for i in range(3):
        assert found.hessian_covariance[i] == pytest.approx(np.cov(h[:, i].T, bias=True), rel=1e-8, abs=1e-12)
    quick = along_directions(as_subject(net, inputs, labels), directions=V, second=False)
    assert quick.covariance == pytest.approx(found.covariance, rel=1e-12)
    assert np.isnan(quick.hessian).all()
    with pytest.raises(ValueError, match="one per weight"):
        along_directions(as_subject(net, inputs, labels), directions=V[1:])


def test_the_valley_has_the_curvatures_and_the_noise_of_the_net_at_its_origin(run, valley):
    inputs, labels = run.data.train_inputs.double(), run.data.train_labels
    subject = as_subject(run.net, inputs, labels)
    exact = top_eigenpairs(subject, count=2, rng=1, tolerance=1e-6).eigenvalue.to_numpy()
    there = valley.profile.sel(x=0.0)
    assert there["curvature"].to_numpy() == pytest.approx(exact, rel=1e-5)
    assert float(there["rotation"]) < 1e-4
    C = noise_covariance(subject, batch_size=50)["covariance"].to_numpy()
    along = valley.directions.T @ C @ valley.directions
    assert valley.covariance == pytest.approx(along, rel=1e-9, abs=1e-15)
    assert valley.directions.T @ valley.directions == pytest.approx(np.eye(3), abs=1e-10)


def test_eigenvectors_found_from_a_part_of_the_rows_first_are_those_of_all(run, monkeypatch):
    whole = measure_valley(run, n_sharp=2, epochs=1, pilots=2, points=5)
    monkeypatch.setattr("nets.measure.valley.ROWS_FIRST", 300)
    parts = measure_valley(run, n_sharp=2, epochs=1, pilots=2, points=5, tolerance=1e-3)
    at = {"x": 0.0, "method": "nearest"}
    assert parts.profile["curvature"].sel(**at).to_numpy() == pytest.approx(
        whole.profile["curvature"].sel(**at).to_numpy(), rel=1e-4
    )


def test_downhill_is_another_flat_direction_orthogonal_to_the_sharp_ones(run, valley):
    other = measure_valley(run, n_sharp=2, epochs=6, pilots=4, points=8, flat="gradient")
    assert other.directions.T @ other.directions == pytest.approx(np.eye(3), abs=1e-10)
    slope = other.profile["gradient"].sel(x=0.0).to_numpy()
    assert slope[-1] < 0 and abs(slope[-1]) > abs(valley.profile["gradient"].sel(x=0.0).to_numpy()[-1])
    assert other.profile.attrs["explained"] < valley.profile.attrs["explained"]


def test_the_fits_reproduce_what_was_measured_within_the_error_they_state(valley):
    x = valley.profile["x"].to_numpy()
    worst = np.abs(valley.curvatures(x) / valley.profile["curvature"].to_numpy() - 1).max()
    assert worst == pytest.approx(valley.profile.attrs["curvature_fit_error"])
    assert worst < 0.05
    C = np.diagonal(valley.profile["covariance"].to_numpy(), axis1=1, axis2=2)[:, :-1]
    D = valley.diffusion(x, noise="local")
    assert np.abs(D / (0.1 * C / 2) - 1).max() <= valley.profile.attrs["noise_fit_error"] + 1e-12


def test_the_langevin_system_is_the_valley_in_symbols(valley):
    system = valley.langevin()
    H = sp.lambdify(system.variables, system.landscape.hessian)(0.1, 0.0, 0.0)
    assert np.diag(H)[1:] == pytest.approx(valley.curvatures(0.1), rel=1e-12)
    D = np.array(system.diffusion, float)
    assert D[1:, 1:] == pytest.approx(0.05 * valley.covariance[:2, :2], rel=1e-9)
    assert valley.diffusion(noise="measured") == pytest.approx(np.diag(D)[1:], rel=1e-9)
    shifted = valley.langevin(noise="random_shift").diffusion_values(np.zeros((1, 3)))[0]
    assert np.diag(shifted)[1:] == pytest.approx(valley.diffusion(noise="random_shift"), rel=1e-9)


def test_bad_questions_about_a_valley_are_refused(run, valley, tmp_path):
    with pytest.raises(ValueError, match="no directory"):
        measure_valley(run, store=tmp_path / "nowhere" / "valley.nc")
    with pytest.raises(ValueError, match="noise='white'"):
        valley.langevin(noise="white")
    with pytest.raises(TypeError, match="a Subject knows none"):
        measure_valley(as_subject(run))
    with pytest.raises(ValueError, match="points at least 5"):
        measure_valley(run, points=4)
    with pytest.raises(ValueError, match="flat='up'"):
        measure_valley(run, flat="up")
    with pytest.raises(ValueError, match="samples=0"):
        measure_valley(run, samples=0)
