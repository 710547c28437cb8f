"""The closed loop: theory, density, ensemble and SGD of one measured valley, side by side."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch", reason="needs the extra [nets]")
pytest.importorskip("curvlinops", reason="needs the extra [nets]")

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.valley import MeasuredValley, measure_valley
from notebooks.studies.closed_loop import predictions
from notebooks.studies.closed_loop.budget import CORRECTIONS, variance_budget
from notebooks.studies.closed_loop.claims import loop_verdicts, near
from notebooks.studies.closed_loop.loop import LoopStudy, closed_loop, closed_loops
from notebooks.studies.closed_loop.predictions import METHODS, SGD
from notebooks.studies.closed_loop.tables import budget_table, in_words, loop_table, noise_exponent
from notebooks.studies.closed_loop.walks import walk
from theory.valley.elimination import eliminate

SMALL = LoopStudy(
    "digits", (8,), epochs=30, window=4, n_sharp=1, pilots=4, points=8, replicas=24, measured=6, walkers=400,
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return train.sgd(
        models.fully_connected((64, 8, 10), rng=0), datasets.load("digits"), learning_rate=0.1, batch_size=50,
        epochs=60, rng=0, sampling="with_replacement", dtype="float64",
    )  # fmt: skip


@pytest.fixture(scope="module")
def valley(run):
    return measure_valley(run, n_sharp=2, epochs=6, pilots=4, points=8)


@pytest.fixture(scope="module")
def walked(valley):
    return walk(valley, replicas=48)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    return folder, closed_loops(SMALL, nets=2, folder=folder)


def test_the_local_drift_is_the_eliminated_one_where_the_noise_is_that_of_the_origin(valley):
    reduced = eliminate(valley.langevin().without_cross_diffusion(), order=1)
    (x,) = reduced.slow
    found = float(reduced.drift.subs(x, 0.0))

    assert predictions.flat_drift(valley, noise="measured")(0.0) == pytest.approx(found, rel=1e-12)
    # The fit of ln C misses C(0) by its stated error, which enters through the small noise force alone.
    assert predictions.flat_drift(valley, noise="local")(0.0) == pytest.approx(found, rel=1e-2)


@pytest.mark.slow
def test_theory_density_and_ensemble_of_one_valley_agree_within_their_errors(valley):
    found = predictions.prediction(valley, steps=180, walkers=2000)
    variance, error = found["variance"], found["variance_error"]

    def of(by):
        return variance.sel(by=by).to_numpy(), error.sel(by=by).to_numpy()

    theory, left_out = of("theory")
    held, _ = of("density of y, x held")
    stepped, _ = of("theory, finite step")
    assert left_out == pytest.approx(stepped - theory)
    assert held == pytest.approx(theory, rel=5e-3)  # one x for a range of them
    assert of("density of y, x held, finite step")[0] == pytest.approx(stepped, rel=5e-3)
    (dense, e), (walkers, s) = of("density of (x, y)"), of("ensemble, dt = rate/4")
    assert (np.abs(dense - walkers) < 4 * np.hypot(e, s) + 0.02 * dense).all()
    assert (np.abs(dense / 1.3 - walkers) > 4 * np.hypot(e, s) + 0.02 * dense).all()
    x, dx = found["displacement"], found["displacement_error"]
    apart = abs(float(x.sel(by="density of (x, y)") - x.sel(by="ensemble, dt = rate/4")))
    assert apart < 4 * float(dx.sel(by="ensemble, dt = rate/4"))
    assert np.isnan(float(found["stationary_place"])) and np.isnan(
        predictions.stationary_place(valley, noise="measured")
    )


@pytest.mark.slow
def test_sgd_moves_along_the_flat_direction_as_predicted_and_noise_is_not_what_drives_it(valley, walked):
    found = closed_loop(valley, walked, noise="local", walkers=1000)
    x = found["displacement"].sel(by=["theory", "ensemble, dt = rate", SGD]).to_numpy()
    assert x == pytest.approx(x[-1], rel=0.05)
    assert abs(float(found["noise_force"])) < 0.05 * abs(float(found["flat_force"]))
    # Within a factor of two along the sharp directions; a predictions.prediction ten times larger is rejected.
    ahead = found["variance"].sel(by="ensemble, dt = rate")
    assert (found["sgd_low"] < 2 * ahead).all() and (found["sgd_high"] > 0.5 * ahead).all()
    assert (found["sgd_high"] < 10 * ahead).all() and (found["sgd_low"] > 0.1 * ahead).all()
    assert (found["sgd_low"] < found["sgd"]).all() and (found["sgd"] < found["sgd_high"]).all()


def _one_mode(run, *, lam=2.0, noise=0.02, scatter=0.0):
    """A valley made by hand: one sharp direction, everything constant along x."""
    x = np.linspace(-1.0, 1.0, 5)
    ones = np.ones((5, 1))
    profile = xr.Dataset(
        {
            "loss": ("x", 0.1 * x**2), "curvature": (("x", "mode"), lam * ones), "floor": (("x", "mode"), 0 * ones),
            "hessian": (("x", "direction", "direction_2"), np.broadcast_to(np.diag([lam, 0.2]), (5, 2, 2))),
            "covariance": (("x", "direction", "direction_2"), np.broadcast_to(np.diag([noise, 1e-3]), (5, 2, 2))),
            "hessian_covariance": (("x", "mode", "mode_2", "mode_3"), scatter * ones[:, :, None, None]),
        },
        coords={"x": x}, attrs={"scale": 1.0, "degree": 1},
    )  # fmt: skip
    return MeasuredValley(run, profile)


def test_a_stationary_place_is_found_where_the_loss_has_a_floor_in_reach(run):
    assert predictions.stationary_place(_one_mode(run), noise="local") == pytest.approx(0.0, abs=0.01)


def test_each_minibatch_with_a_hessian_of_its_own_widens_the_law_as_the_linear_map_says(run):
    rate, lam, C, v = 0.1, 2.0, 0.02, 3.0
    plain = predictions.coupled_variances(_one_mode(run), 0.0)
    widened = predictions.coupled_variances(_one_mode(run, scatter=v), 0.0, minibatch_hessians=True)
    assert plain == pytest.approx([rate * C / (lam * (2 - rate * lam))], rel=1e-10)
    assert widened == pytest.approx([rate * C / (lam * (2 - rate * lam) - rate * v)], rel=1e-8)
    with pytest.raises(ValueError, match="diverges"):
        predictions.coupled_variances(_one_mode(run, lam=21.0), 0.0)


def test_the_last_correction_of_the_budget_is_the_variance_and_the_first_is_rejected(run):
    """The map y ← y − η(f(y) + ξ), f = λ(y + 20 y³), ⟨ξ²⟩ = C(1 + 300 y²): stiffer and noisier away from 0."""
    rate, lam, C = 0.1, 2.0, 0.02
    rng, y, kept = np.random.default_rng(3), np.zeros(4000), []

    def force(y):
        return lam * (y + 20 * y**3)

    def strength(y):
        return C * (1 + 300 * y**2)

    for k in range(600):
        y = y - rate * (force(y) + np.sqrt(strength(y)) * rng.normal(size=len(y)))
        if k % 10 == 9:
            kept.append(y)
    at = ("place", "measured", "mode")
    walked = xr.Dataset(
        {
            "x": (("step", "replica"), np.zeros((60, 4000))),
            "y": (("step", "replica", "mode"), np.array(kept)[..., None]),
            "gradient": (at, np.array([force(y)[:, None]] * 2)),
            "noise": (at, np.array([strength(y)[:, None]] * 2)),
            "curvature": (at[1:], (lam * (1 + 60 * y**2))[:, None]),
        },
        coords={"step": 10 * np.arange(1, 61), "place": ["own", "shadow"]},
    )
    budget = variance_budget(_one_mode(run), walked)
    factor = (budget["sgd"] / budget["predicted"]).isel(mode=0)
    assert list(factor["correction"].to_numpy()) == list(CORRECTIONS)
    assert float(factor.sel(correction="force of the net")) == pytest.approx(1.0, abs=0.03)
    assert abs(float(factor.sel(correction="finite step")) - 1) > 0.04
    C, slope = strength(y).mean(), (lam * (1 + 60 * y**2)).mean()
    assert float(budget["predicted"].sel(correction="D/λ of the net")[0]) == pytest.approx(
        rate * C / (slope * (2 - rate * slope)), rel=1e-9
    )
    assert float(budget["stiffness"].sel(place="own")[0]) > 1.05 * lam
    shuffled = _one_mode(replace(run, recipe=replace(run.recipe, sampling="without_replacement")))
    with pytest.raises(ValueError, match="sampling='without_replacement'"):
        variance_budget(shuffled, walked)


def test_finite_step_corrections_of_a_conditional_density_are_right_to_first_order():
    for rate, allowed in ((0.05, 1e-3), (0.1, 4e-3)):
        found, error = predictions.conditional_variances([1.0], [0.01], learning_rate=rate)
        assert found[0] == pytest.approx(0.01 / (1 - rate / 2), rel=allowed)
        assert abs(found[0] - 0.01) > 10 * error[0]  # without the correction it is not


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped_and_refuses_what_is_not_its_own(study, monkeypatch):
    folder, first = study
    for kind in ("loop", "walk"):
        (folder / f"{SMALL.name}_{kind}_1.nc").unlink()

    def again(*args, **kwargs):
        raise AssertionError("measured a second time")

    monkeypatch.setattr("nets.measure.valley._profile", again)
    second = closed_loops(SMALL, nets=2, folder=folder)
    xr.testing.assert_equal(first.drop_vars("cpu_seconds"), second.drop_vars("cpu_seconds"))
    with pytest.raises(ValueError, match="walkers"):
        closed_loops(replace(SMALL, walkers=401), nets=2, folder=folder)


@pytest.mark.slow
def test_all_methods_meet_in_one_table_and_factors_have_intervals(study):
    _, found = study
    table = loop_table(found)
    assert {row.quantity for row in table.rows} == {"Var y1", "<x>", "Var x", "growth of ln F"}
    assert {row.method for row in table.rows} == {*METHODS, SGD}
    row = table.value("Var y1", "ensemble, dt = rate")
    ratio = (found["variance"].sel(by="ensemble, dt = rate") / found["variance"].sel(by=SGD)).isel(mode=0)
    assert 1 + row.deviation == pytest.approx(float(np.exp(np.log(ratio).mean())))
    assert row.error > 0 and row.sigmas > 0
    budget = budget_table(found)
    assert len(budget.rows) == len(CORRECTIONS)
    assert all(row.low < row.value < row.high for row in budget.rows)
    assert (found["cpu_seconds"] > 0).all()
    assert in_words(np.array([-1.0, 3.0]), scale="linear").startswith("1.00 [")
    with pytest.raises(ValueError, match="scale='linear'"):
        in_words(np.array([-1.0, 3.0]))
    assert in_words(np.array([1.0, 4.0])).startswith("2.00 [")


def test_verdicts_follow_the_numbers_and_wide_intervals_decide_nothing(study):
    _, found = study

    def judged(values, **how):
        return near("claim", "paper", values, **how).verdict

    assert judged(np.array([1.02, 1.05, 1.03])).startswith("holds: 1.03")
    assert judged(np.array([0.8, 1.0, 0.9])).startswith("holds: 0.90")  # 1 lies in a narrow interval
    assert judged(np.array([1.4, 1.5, 1.45])).startswith("holds in part")
    assert judged(np.array([3.0, 3.1, 3.2])).startswith("does not hold")
    assert judged(np.array([0.3, 3.0, 1.0])).startswith("not decided")
    assert judged(np.array([2.1, 2.0, 1.9]), scale="linear", expected=2.0).startswith("holds: 2.00")
    with pytest.raises(ValueError, match="larger n_sharp"):
        noise_exponent(found)
    # Two modes with C = 2σH², and a control that grows flatter than SGD.
    two = xr.concat([found, found.assign(curvature=found["curvature"] / 2)], "mode", data_vars="minimal")
    two = two.assign(noise_curvature=0.3 * two["curvature"]) if "curvature" in two else two
    two = two.assign(quiet_log_flatness_net=two["log_flatness_net"] + 0.2 + 0.01 * two["training"])
    assert noise_exponent(two) == pytest.approx(2.0)
    rows = loop_verdicts(two, downhill=found)
    assert len(rows) == 14 and rows[5].outcome == "holds"
    assert rows[-1].verdict.startswith("does not hold: ln F̂ grows more with less noise")
    assert in_words(np.array([1.0, 1.0])) == "1.00 [1.00, 1.00]"


def test_the_same_seed_gives_the_same_walk_and_bad_questions_are_refused(run, valley, tmp_path):
    small = {"replicas": 8, "epochs": 1, "measured": 2}
    again = walk(valley, **small, rng=3, store=tmp_path / "walk.nc")
    once_more = walk(valley, **small, rng=3)
    for name in again.data_vars:
        assert np.array_equal(again[name], once_more[name]), name
    assert again["y"].sizes == {"step": 30, "replica": 8, "mode": 2}
    sparse = walk(valley, **small, every=13)
    assert sparse["step"].to_numpy().tolist() == [13, 26, 30]
    refused = {
        "made with rng=3, not 4": lambda: walk(valley, **small, rng=4, store=tmp_path / "walk.nc"),
        "noise='white'": lambda: predictions.flat_drift(valley, noise="white"),
        "noise='Local'": lambda: predictions.flat_drift(valley, noise="Local"),
        "noise='random_shift'": lambda: predictions.evolved_density(
            valley, 0, steps=100, noise="random_shift"
        ),
        "mode=2": lambda: predictions.evolved_density(valley, 2, steps=100),
        "replicas=2": lambda: walk(valley, replicas=2),
        "measured=1": lambda: walk(valley, measured=1),
        "every=0": lambda: walk(valley, every=0),
        "walkers=10": lambda: predictions.prediction(valley, steps=100, walkers=10),
        "nets=1": lambda: closed_loops(SMALL, nets=1),
        "no directory": lambda: closed_loops(SMALL, folder=tmp_path / "nowhere"),
        "points=5": lambda: replace(SMALL, points=5),
        "24 r": lambda: replace(SMALL, measured=25),
        "flat='up'": lambda: replace(SMALL, flat="up"),
        "window=1 has 15 steps": lambda: closed_loops(replace(SMALL, window=1, batch_size=100, quiet=2)),
        "quiet=100": lambda: closed_loops(replace(SMALL, quiet=100)),
    }
    for said, question in refused.items():
        with pytest.raises(ValueError, match=said):
            question()
    assert LoopStudy("digits", (8,)).name == "digits_8_eta0.1_B50_pilots"
