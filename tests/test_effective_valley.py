"""A valley measured from a trained net: it is the net's, it is the toolkit's, and SGD follows it where it says."""

import numpy as np
import pytest
import sympy as sp

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from nets import datasets, models, training  # noqa: E402
from nets.curvature import top_eigenpairs  # noqa: E402
from nets.effective_valley import _flat_drift, closed_loop, measure_valley, walk  # noqa: E402
from nets.gradient_noise import noise_covariance  # noqa: E402
from theory.adiabatic import eliminate  # noqa: E402


@pytest.fixture(scope="module")
def run():
    return training.sgd(
        models.fully_connected((64, 8, 10), rng=0), datasets.load("digits"), learning_rate=0.1, batch_size=50,
        epochs=60, rng=0, sampling="with_replacement", dtype="float64",
    )  # fmt: skip


@pytest.fixture(scope="module")
def valley(run):
    return measure_valley(run, n_sharp=2, epochs=6, pilots=4, points=8)


@pytest.fixture(scope="module")
def walked(valley):
    return walk(valley, replicas=48)


def test_the_valley_has_the_curvatures_and_the_noise_of_the_net_at_its_origin(run, valley):
    inputs, labels = run.data.train_inputs.double(), run.data.train_labels
    exact = top_eigenpairs(run.net, inputs, labels, count=2, rng=1, tolerance=1e-6).eigenvalue.to_numpy()
    there = valley.profile.sel(x=0.0)
    assert there["curvature"].to_numpy() == pytest.approx(exact, rel=1e-5)
    assert float(there["rotation"]) < 1e-4
    C = noise_covariance(run.net, inputs, labels, batch_size=50)["covariance"].to_numpy()
    assert valley.covariance == pytest.approx(
        valley.directions.T @ C @ valley.directions, rel=1e-9, abs=1e-15
    )
    assert valley.directions.T @ valley.directions == pytest.approx(np.eye(3), abs=1e-10)


def test_the_fits_reproduce_what_was_measured_within_the_error_they_state(valley):
    x = valley.profile["x"].to_numpy()
    worst = np.abs(valley.curvatures(x) / valley.profile["curvature"].to_numpy() - 1).max()
    assert worst == pytest.approx(valley.profile.attrs["curvature_fit_error"])
    assert worst < 0.05
    C = np.diagonal(valley.profile["covariance"].to_numpy(), axis1=1, axis2=2)[:, :-1]
    D = np.array([valley.diffusion(t, noise="local") for t in x])
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


def test_the_local_drift_is_the_eliminated_one_where_the_noise_is_that_of_the_origin(valley):
    reduced = eliminate(valley.langevin().without_cross_diffusion(), order=1)
    (x,) = reduced.slow
    found = float(reduced.drift.subs(x, 0.0))

    assert _flat_drift(valley, "measured")(0.0) == pytest.approx(found, rel=1e-12)
    # The fit of ln C misses C(0) by its stated error, which enters through the small noise force alone.
    assert _flat_drift(valley, "local")(0.0) == pytest.approx(found, rel=1e-2)


def test_sgd_moves_along_the_flat_direction_as_predicted_and_noise_is_not_what_drives_it(valley, walked):
    found = closed_loop(valley, walked, noise="local", walkers=1000)
    assert float(found["displacement_theory"]) == pytest.approx(float(found["displacement_sgd"]), rel=0.05)
    assert float(found["displacement_theory"]) == pytest.approx(
        float(found["displacement_ensemble"]), rel=0.02
    )
    assert abs(float(found["noise_force"])) < 0.05 * abs(float(found["flat_force"]))
    # Within a factor of two along the sharp directions; a prediction ten times larger is rejected.
    assert (found["factor_low"] < 2).all() and (found["factor_high"] > 0.5).all()
    assert (found["factor_high"] < 10).all() and (found["factor_low"] > 0.1).all()
    assert found["density"].to_numpy() == pytest.approx(found["theory"].to_numpy(), rel=0.05)


def test_the_same_seed_gives_the_same_walk_and_bad_questions_are_refused(run, valley):
    again = walk(valley, replicas=8, epochs=1, rng=3)
    assert walk(valley, replicas=8, epochs=1, rng=3).identical(again)
    assert again["y"].sizes == {"epoch": 1, "replica": 8, "mode": 2}
    with pytest.raises(ValueError, match="noise='white'"):
        valley.langevin(noise="white")
    with pytest.raises(ValueError, match="points at least 5"):
        measure_valley(run, points=4)
    with pytest.raises(ValueError, match="replicas=2"):
        walk(valley, replicas=2)
