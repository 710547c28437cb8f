"""The experiment from a file to the verdict: resuming, refusals, the command line, tables."""

import dataclasses
import json

import numpy as np
import pytest

from fpsolve.sweeps.store import read_store
from nets import training as train
from notebooks.studies.variance_flatness import __main__ as command
from notebooks.studies.variance_flatness import claims, files, tables
from notebooks.studies.variance_flatness import experiment as variance_flatness

SMALL = """
name = "tiny"
data = "digits"
sizes = [64, 12, 12, 10]
batch_size = 50
epochs = 12
window = 3
seeds = 2
directions = 30
stride = 2
fit = [2, 30]
rank_fit = [5, 25]
cases = ["same window", "next window", "shuffled", "shuffled, next window", "Hessian", "previous window"]
ensemble = 4
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment: its file, its directory and its seeds."""
    out = tmp_path_factory.mktemp("experiment")
    (out / "tiny.toml").write_text(SMALL)
    (experiment,) = files.parse_experiments(SMALL)
    with pytest.warns(UserWarning, match="fast phase"):
        results = variance_flatness.run_trainings(experiment, out)
    return out, experiment, results


@pytest.mark.slow
def test_a_seed_is_stored_when_done_and_measured_once(finished, monkeypatch):
    out, experiment, results = finished
    monkeypatch.setattr(variance_flatness, "measure", None)  # nothing is measured again
    again = variance_flatness.run_trainings(experiment, out)
    for i, (a, b) in enumerate(zip(again, results, strict=True)):
        assert a.identical(read_store(variance_flatness.seed_path(out, experiment, i)))
        assert np.array_equal(a.width, b.width, equal_nan=True)
    kept = {path.name for path in (out / "tiny").glob("seed_001.*")}
    assert "seed_001.safetensors" in kept and "seed_001.training" not in kept
    other = dataclasses.replace(experiment, learning_rate=0.05)
    with pytest.raises(ValueError, match="was made with settings="):
        variance_flatness.run_trainings(other, out)


@pytest.mark.slow
def test_a_run_killed_between_seeds_ends_the_same(finished, tmp_path):
    _, experiment, results = finished
    second = dataclasses.replace(experiment, first_seed=1, seeds=1, cases=("same window",))
    with pytest.warns(UserWarning, match="fast phase"):
        (alone,) = variance_flatness.run_trainings(second, tmp_path)
    case = {"case": "same window"}
    assert np.array_equal(alone.width.sel(case), results[1].width.sel(case), equal_nan=True)


@pytest.mark.slow
def test_every_exponent_has_its_controls_and_the_verdict_says_what_they_are(finished):
    _, experiment, results = finished
    found = claims.exponents_over(results, experiment)
    assert {name for _, name in found} == {"psi", "psi_D", "psi_tau", "gamma"}
    assert {case for case, _ in found} == set(experiment.cases)
    psi = found["same window", "psi"]
    assert psi.seeds == 2 and psi.interval == "seeds" and psi.points == 15
    assert found["shuffled", "psi"].sampler.startswith("shuffled")
    assert "another window" in found["next window", "psi"].basis
    # Directions of one shuffled window know nothing of the next; those of their own window do.
    assert found["shuffled", "psi_tau"].value > found["shuffled, next window", "psi_tau"].value
    rows = claims.verdict(results, experiment)
    assert [row.quantity for row in rows] == ["psi", "psi_D", "psi_tau", "gamma", "modes for 90 %"]
    text = claims.text(rows)
    assert "next window" in text and "reproduced" in text and "2 seed(s)" in text
    times = claims.correlation_times(results, experiment)
    # 30 steps an epoch, 3 epochs: (m + 1)/6 (1 − 1/6).
    assert float(times.attrs["null"]) == pytest.approx(31 / 6 * (5 / 6)) and times.sizes["case"] == 6
    assert "uncorrelated minibatches: 4" in claims.correlation_times_text(times)
    one = claims.exponents_over(results[:1], experiment)["same window", "psi"]
    assert one.interval == "blocks of modes"


@pytest.mark.slow
def test_experiments_are_compared_in_one_table_and_those_not_run_say_so(finished):
    out, experiment, results = finished
    absent = dataclasses.replace(experiment, name="absent")
    changed = dataclasses.replace(experiment, learning_rate=0.05)
    assert tables.stored(absent, out) == tables.stored(changed, out) == []
    there = tables.stored(experiment, out)
    assert [r.attrs["experiment_seed"] for r in there] == [0, 1]
    table = tables.table([experiment, absent], {"tiny": there})
    psi = claims.exponents_over(results, experiment)["next window", "psi"]
    row = table.sel(experiment="tiny", case="next window")
    assert (row.psi, row.psi_low, row.psi_high) == (psi.value, psi.low, psi.high)
    assert float(row.loss) == pytest.approx(psi.loss) and int(row.seeds) == 2
    assert table.seeds.sel(experiment="absent") == 0
    lines = tables.markdown(table).splitlines()
    assert f"{psi.value:.2f} [{psi.low:.2f}, {psi.high:.2f}]" in lines[2] and "not run" in lines[3]
    assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(ValueError, match="name of its own"):
        tables.table([experiment, experiment], {})


@pytest.mark.slow
def test_the_ensemble_and_the_temperature_are_stored_beside(finished):
    result = finished[2][0]
    assert int(np.isfinite(result.ensemble_width_predicted).sum()) == 4
    hot, at = result.temperature.dropna("mode"), result.ensemble_velocity_variance_measured.dropna("mode")
    # T_i = (α/2)⟨(∂δL)²⟩ and D_i = α²⟨(∂L)²⟩ at one place: D_i is at least 2αT_i but for the draw of minibatches.
    ratio = 2 * 0.1 * hot.sel(mode=at.mode) / at
    assert float(ratio.max()) < 2


@pytest.mark.slow
def test_the_command_prints_the_verdict_or_json(finished, capsys):
    out = finished[0]
    assert command.main([str(out / "tiny.toml"), "--out", str(out)]) == 0
    assert "psi: paper 4" in capsys.readouterr().out
    assert command.main([str(out / "tiny.toml"), "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tiny"]
    assert rows[0]["quantity"] == "psi" and rows[0]["measured"]["same window"]["seeds"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate = 0.1", "did you mean 'learning_rate'"),
        ("learning_rate = 'fast'", "must be a number"),
        ("epochs = 2.5", "must be a whole number"),
        ("epochs = true", "must be a whole number"),
        ("epochs = 0", "epochs = 0 must be positive"),
        ("fit = [2]", "must be two modes"),
        ("fit = [2, 900]", "fit reaches mode 900"),
        ("cases = ['next windw']", "is not known"),
        ("model = 'resnet'", "model = 'resnet' is not known"),
        ("name = '../up'", "plain name of a folder"),
        ("sizes = 5", "must be a list"),
        ("epochs = ", "not valid TOML"),
        ("[[variants]]\nepochs = 3", "variant 1 needs a name"),
        ("[[variants]]\nname = 'a'\n[[variants]]\nname = 'a'", "two variants are named 'a'"),
        ("variants = 3", r"write \[\[variants\]\]"),
    ],
)
def test_mistakes_in_a_file_are_found_before_any_work(text, message):
    with pytest.raises(ValueError, match=message):
        files.parse_experiments(text)


def test_variants_differ_from_the_file_in_what_they_name_only():
    one, two = files.parse_experiments(
        "epochs = 7\nmomentum = 0\n[[variants]]\nname = 'a'\n[[variants]]\nname = 'b'\nlearning_rate = 1"
    )
    assert (one.epochs, two.epochs, one.learning_rate, two.learning_rate) == (7, 7, 0.1, 1.0)
    assert one.digest != two.digest == dataclasses.replace(two, name="c", seeds=9, threads=2).digest


def test_at_equal_loss_the_loss_between_the_windows_is_the_one_asked_for(tmp_path):
    (base,) = files.parse_experiments(SMALL)
    for rate in (0.05, 0.2):
        equal = dataclasses.replace(base, learning_rate=rate, epochs=60, stop_at_loss=0.1)
        before = equal.train(0, checkpoint=tmp_path / f"{rate}.training")
        middle = train.continued(before, equal.window)
        assert middle.loss <= 0.1 < float(middle.history.loss[-2])
    with pytest.raises(ValueError, match="no more than the window's 3"):
        dataclasses.replace(base, stop_at_loss=2.0).train(0)
    with (
        pytest.warns(UserWarning, match="was not reached"),
        pytest.raises(ValueError, match="was not reached: the loss is"),
    ):
        dataclasses.replace(base, stop_at_loss=1e-9).train(0)


def test_the_examples_are_valid_and_named_on_the_command_line(capsys):
    assert set(command.EXAMPLE_NAMES) == set(files.EXAMPLES)
    for text in files.EXAMPLES.values():
        assert all(experiment.seeds >= 2 for experiment in files.parse_experiments(text))
    (paper,) = files.parse_experiments(files.EXAMPLES["mnist"])
    assert paper.sizes == (784, 50, 50, 10)
    assert (paper.batch_size, paper.learning_rate, paper.seeds) == (50, 0.1, 5)
    with pytest.raises(SystemExit):
        command.main(["--example", "nothing", "--out", "."])
    assert "invalid choice" in capsys.readouterr().err


def test_errors_of_the_command_line_are_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path / "none.toml"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("variance_flatness: error: cannot read") and error.count("\n") == 1


def test_after_ctrl_c_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(variance_flatness, "run_trainings", interrupted)
    assert command.main(["--example", "digits", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from here\n")
