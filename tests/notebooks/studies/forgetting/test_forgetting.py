"""Penalties at their best: trainings that choose and trainings that report, fronts, and verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch", reason="needs the extra [nets]")

from nets.data import datasets
from notebooks.studies.forgetting import choice, continual, plot
from notebooks.studies.forgetting.choice import Study
from notebooks.studies.forgetting.claims import Pair, bound, compared, comparisons, less, verdicts
from notebooks.studies.forgetting.penalties import METHODS, constraint_grid
from notebooks.studies.forgetting.solution import first_task
from notebooks.studies.forgetting.tasks import DIGITS


def _made_up(errors, penalties, *, trainings=6, pilots=3, noise=0.0, rng=0):
    """A study with given (ε₁, ε₂) for each (penalty, λ, N_c)."""
    rng = np.random.default_rng(rng)
    names, strengths, counts = zip(*penalties, strict=True)
    both = np.array(errors)[None, :, None, :] + noise * rng.normal(size=(trainings, len(errors), 1, 2))
    dims = ("training", "constraint", "checkpoint")
    result = xr.Dataset(
        {"error_first": (dims, both[..., 0]), "error_second": (dims, both[..., 1])},
        {
            "penalty": ("constraint", list(names)), "strength": ("constraint", np.array(strengths)),
            "count": ("constraint", np.array(counts)),
        },
    )  # fmt: skip
    return Study.split(result, pilots)


def test_each_penalty_is_taken_at_its_best_and_says_when_that_lies_at_the_edge():
    study = _made_up(
        [(0.5, 0.0), (0.1, 0.1), (0.0, 0.6), (0.3, 0.0), (0.2, 0.0)],
        [("L2", 0.1, 0), ("L2", 1.0, 0), ("L2", 10.0, 0), ("LDC", 1.0, 50), ("LDC", 2.0, 50)],
    )
    best = choice.summary(study)
    assert best["total"].to_numpy() == pytest.approx([0.2, 0.2])
    assert best["strength"].to_numpy().tolist() == [1.0, 2.0]
    assert best["at_edge"].to_numpy().tolist() == [0, 1]
    front = choice.front(study, "LDC")
    assert front["strength"].to_numpy().tolist() == [2.0]
    assert choice.front(study, "L2").sizes["setting"] == 3


def test_pilots_choose_and_the_other_trainings_are_reported():
    # The pilots prefer λ = 1, the others λ = 2: what is reported is the others' error at the pilots' choice.
    study = _made_up([(0.1, 0.0), (0.2, 0.0)], [("L2", 1.0, 0), ("L2", 2.0, 0)], trainings=5, pilots=2)
    reported = study.reported.copy(deep=True)
    reported["error_first"][:, 0] = 0.5
    best = choice.at_best(Study(study.pilots, reported), "L2")
    assert best.sizes["training"] == 3 and best.attrs["strength"] == 1.0
    assert best["total"].to_numpy() == pytest.approx(0.5)
    assert best.attrs["pilot"] == pytest.approx(0.1) and best.attrs["least"] == pytest.approx(0.2)


def test_the_time_to_stop_can_be_chosen_too():
    study = _made_up([(0.1, 0.1), (0.3, 0.0)], [("L2", 0.1, 0), ("L2", 1.0, 0)])

    def longer(result):
        later = result.copy(deep=True)
        later["error_first"] = later["error_first"] + 0.3
        return xr.concat([result, later], "checkpoint", data_vars="all", coords="minimal", compat="override")

    both = Study(longer(study.pilots), longer(study.reported))
    assert choice.at_best(both, "L2")["total"].to_numpy() == pytest.approx(0.5)
    stopped = choice.at_best(both, "L2", checkpoint=None)
    assert stopped["total"].to_numpy() == pytest.approx(0.2)
    assert stopped.attrs["stop"] == 0 and stopped.attrs["strength"] == 0.1


def test_choosing_among_many_equal_settings_does_not_make_a_penalty_look_better():
    # One setting against forty of the same true error: the minimum over them would seem better by 2 σ.
    many, gaps, naive, repeats = [("LDC", float(k + 1), 50) for k in range(40)], [], [], 500
    for rng in range(repeats):
        study = _made_up(
            [(0.2, 0.2)] * 41, [("L2", 1.0, 0), *many], noise=0.05, rng=rng, trainings=8, pilots=3
        )
        gaps.append(choice.difference(study, "LDC", "L2"))
        naive.append(choice.at_best(study, "LDC").attrs["least"])
    mean = np.array([g.value for g in gaps])
    error = mean.std(ddof=1) / np.sqrt(repeats)
    assert abs(mean.mean()) < 4 * error
    covered = np.mean([g.low <= 0 <= g.high for g in gaps])
    assert covered == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / repeats) ** 0.5)
    assert 0.4 - np.mean(naive) > 10 * error  # what would have been wrong


def test_a_study_that_cannot_be_is_refused():
    study = _made_up([(0.1, 0.1), (0.3, 0.0)], [("L2", 0.1, 0), ("LDC", 1.0, 50)])
    result = xr.concat([study.pilots, study.reported], "training", data_vars="minimal")
    for pilots in (0, 5):
        with pytest.raises(ValueError, match=f"pilots={pilots} of 6"):
            Study.split(result, pilots)
    with pytest.raises(ValueError, match="differ in strength"):
        Study(study.pilots.assign_coords(strength=("constraint", [1.0, 2.0])), study.reported)
    with pytest.raises(ValueError, match="which has L2, LDC"):
        choice.at_best(study, "EWC true")
    with pytest.raises(ValueError, match="strength=3 and count=50"):
        study.position("LDC", 3.0, 50)
    assert study.has("L2", 200) and not study.has("LDC", 200)


@pytest.fixture(scope="module")
def scanned():
    solution = first_task(datasets.load("digits"), replace(DIGITS, second_epochs=4), rng=1)
    strengths = dict.fromkeys(METHODS, (0.1, 10.0)) | {"EWC true": (10.0, 1e3), "EWC empirical": (1e3, 1e5)}
    some = constraint_grid((200, 0), strengths=strengths)
    parts = [continual.second_task(solution, some, rng=k) for k in range(5)]
    result = xr.concat(parts, "training", data_vars="all", coords="minimal", compat="override")
    return Study.split(result, 2)


def test_verdicts_come_from_a_scan(scanned):
    rows = verdicts({"main": scanned, "other": scanned})
    assert len(rows) == 21 + 6
    assert [row.claim.startswith("other:") for row in rows[-6:]] == [True] * 6
    assert comparisons({"main": scanned}).count("\n") == 5
    found = bound(scanned.reported)
    assert 0 <= float(found["inside"]) <= 1 and float(found["largest"]) < float(found["free_largest"])


def test_verdicts_say_what_the_intervals_say():
    def row(ldc, l2, noise=0.001):
        errors = [(ldc, 0.0), (l2, 0.0)]
        study = _made_up(errors, [("LDC", 1.0, 0), ("L2", 1.0, 0)], noise=noise)
        return compared(Pair("claim", "L2"), study)

    assert row(0.1, 0.2).verdict == "holds: less in 3 of 3 trainings"
    assert row(0.2, 0.1).verdict.startswith("does not hold: the other forgets less; this one in 0 of 3")
    assert row(0.2, 0.2, noise=0.1).outcome == "not decided"


def test_where_one_training_lies_far_out_the_sign_test_decides():
    far, none = (xr.DataArray(v, dims="training") for v in ([-0.01] * 7 + [-3.0], [0.0] * 8))
    found = choice.gap(far, none)
    assert not found.decided and found.sign_test == pytest.approx(2 / 2**8)
    assert less(found).startswith("holds in part: less in 8 of 8 trainings (sign test p = 0.0078)")
    assert less(choice.gap(none, far)).startswith("does not hold: less in 0 of 8 trainings only")


def test_figures_come_from_a_scan(scanned):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 6)
    plot.learning_curves(choice.learning_curve(scanned.reported, 0), ax=axes[0])
    plot.displacements(scanned.reported, scanned.position("LDC", 10.0, 200), ax=axes[1])
    fronts = {m: choice.front(scanned, m) for m in ("LDC", "L2")}
    plot.fronts(fronts, ax=axes[2])
    plot.counts({"LDC": choice.over_counts(scanned, "LDC")}, ax=axes[3])
    each = {"LDC": choice.at_best(scanned, "LDC")["total"].to_numpy()}
    plot.at_their_best(choice.summary(scanned), each=each, ax=axes[4])
    plot.over_steps(choice.over_steps(scanned), ax=axes[5])
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in (*axes[:4], axes[5]))
    plt.close(figure)
