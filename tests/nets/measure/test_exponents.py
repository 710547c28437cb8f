"""Exponents: exact slopes, coverage of the intervals, the identity that is none, seeds, refusals."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fpsolve.statistics import power_law
from nets.measure import exponents


def _sets(noise=0.0, seed=0, count=120, psi_D=2.0, psi_tau=1.5):
    rng = np.random.default_rng(seed)
    F = np.geomspace(0.4, 4.0, count) * np.exp(0.1 * rng.normal(size=count))
    D = 1e-9 * F**-psi_D * np.exp(noise * rng.normal(size=count))
    tau = 100 * F**-psi_tau * np.exp(noise * rng.normal(size=count))
    mode = {"mode": np.arange(1, count + 1)}
    attrs = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 50, "sampling": "without_replacement"}
    motion = xr.Dataset(
        {"variance": ("mode", D * tau), "velocity_variance": ("mode", D), "correlation_time": ("mode", tau)},
        mode, attrs | {"basis": "principal components of the same window"},
    )  # fmt: skip
    return motion, xr.Dataset({"width": ("mode", F)}, mode, {"loss": 1e-4})


def test_exact_power_laws_give_their_exponents_and_everything_needed_to_judge_them():
    motion, widths = _sets()
    found = exponents.variance_flatness(motion, widths, fit=(2, 100))
    assert [round(found[k].value, 9) for k in ("psi", "psi_D", "psi_tau")] == [3.5, 2.0, 1.5]
    psi = found["psi"]
    assert (psi.points, psi.first, psi.last, psi.left_out, psi.loss) == (99, 2, 100, 0, 1e-4)
    assert psi.correlation == pytest.approx(-1) and "same window" in psi.basis
    assert psi.sampler == "sgd, eta=0.1, B=50, without replacement"
    assert psi.low == pytest.approx(3.5) and psi.high == pytest.approx(3.5)
    assert "psi" in exponents.table([psi]) and str(psi) == "psi = 3.50 [3.50, 3.50]"


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_of_either_quantity_do_not_change_an_exponent(a, b):
    motion, widths = _sets(noise=0.3)
    x, y = widths.width.to_numpy(), motion.variance.to_numpy()
    found = power_law(a * x, b * y, resample="blocks", resamples=10).exponent
    assert found == pytest.approx(power_law(x, y, resample="blocks", resamples=10).exponent)


def test_the_sum_of_two_exponents_is_the_third_whatever_the_data():
    motion, widths = _sets(noise=0.8)
    found = exponents.variance_flatness(motion, widths, fit=(2, 100))
    assert found["psi"].value == pytest.approx(found["psi_D"].value + found["psi_tau"].value, abs=1e-9)
    # With a correlation time from elsewhere the sum says something, and here it fails.
    other = exponents.variance_flatness(
        motion, widths, fit=(2, 100), correlation_time=motion.correlation_time**2
    )
    assert abs(other["psi"].value - other["psi_D"].value - other["psi_tau"].value) > 1


def test_intervals_hold_the_true_exponent_about_as_often_as_they_say_and_not_a_wrong_one():
    inside = wrong = 0
    for seed in range(60):
        motion, widths = _sets(noise=0.4, seed=seed)
        law = power_law(widths.width, motion.variance, resample="blocks", resamples=400)
        inside += law.low <= -3.5 <= law.high
        wrong += law.low <= -4.2 <= law.high
    assert inside >= 49  # 95 % of 60 less 4 standard deviations, and a few for the small blocks
    assert wrong <= 5


def test_open_ended_modes_are_left_out_and_counted():
    motion, widths = _sets()
    widths.width[5:9] = np.inf
    psi = exponents.variance_flatness(motion, widths, fit=(2, 100))["psi"]
    assert (psi.points, psi.left_out) == (95, 4) and psi.value == pytest.approx(3.5)


def test_the_rank_exponent_of_a_power_law_spectrum_is_found_in_its_range():
    i = np.arange(1.0, 301)
    spectrum = np.where(i < 20, 20.0**-2.6, i**-2.6)
    modes = xr.Dataset({"variance": ("mode", spectrum)}, {"mode": i.astype(int)})
    assert exponents.rank_exponent(modes, fit=(20, 200)).value == pytest.approx(2.6)
    assert exponents.rank_exponent(modes, fit=(2, 200)).value < 2.5


def test_seeds_give_an_interval_of_their_own():
    each = [exponents.variance_flatness(*_sets(noise=0.3, seed=s), fit=(2, 100))["psi"] for s in range(6)]
    together = exponents.over_trainings(each)
    values = np.array([e.value for e in each])
    assert together.value == pytest.approx(values.mean()) and together.seeds == 6
    half = 2.5706 * values.std(ddof=1) / np.sqrt(6)  # Student's t, 5 degrees of freedom
    assert together.high - together.value == pytest.approx(half, rel=1e-4)
    assert together.interval == "seeds" and not together.excludes(3.5) and together.excludes(4.5)
    with pytest.raises(ValueError, match="at least two"):
        exponents.over_trainings(each[:1])
    with pytest.raises(ValueError, match="one quantity"):
        exponents.over_trainings([each[0], dataclasses.replace(each[1], basis="another")])


def test_what_defines_no_exponent_is_refused():
    with pytest.raises(ValueError, match="too few"):
        power_law([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], resample="blocks")
    with pytest.raises(ValueError, match="y must be positive"):
        power_law(np.arange(1.0, 9), np.zeros(8), resample="blocks")
    with pytest.raises(ValueError, match="all x are equal"):
        power_law(np.ones(8), np.arange(1.0, 9), resample="blocks")
    with pytest.raises(ValueError, match="fit="):
        exponents.variance_flatness(*_sets(), fit=(100, 2))
    motion, widths = _sets()
    widths.width[:] = np.inf
    with pytest.raises(ValueError, match="open-ended"):
        exponents.variance_flatness(motion, widths)
