"""Estimates: Student's intervals on three scales, pairs, power laws, Poisson lines, bootstraps."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from fpsolve.statistics import (
    Estimate,
    bootstrap,
    mean_interval,
    over_trainings,
    paired,
    poisson_line,
    power_law,
    student_factor,
)


def test_means_of_trainings_have_students_interval():
    values = np.random.default_rng(0).normal(1.0, 0.1, size=(5, 3))
    mean, low, high = mean_interval(values)
    exact = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values, 0))
    assert low == pytest.approx(exact[0]) and high == pytest.approx(exact[1]) and mean.shape == (3,)
    assert student_factor(5) == pytest.approx(2.776445 / 5**0.5)
    found = over_trainings([xr.Dataset({"a": ("x", v)}) for v in values])
    assert found.a_low.to_numpy() == pytest.approx(low) and found.attrs["trainings"] == 5
    whole = xr.Dataset({"a": (("training", "x"), values)})
    assert over_trainings(whole).equals(found)
    logs = over_trainings(whole, geometric=["a"])
    for name, end in zip(("a", "a_low", "a_high"), mean_interval(values, scale="log"), strict=True):
        assert logs[name].to_numpy() == pytest.approx(end)
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="positive"):
        mean_interval([1.0, -1.0], scale="log")


def test_pairs_are_compared_one_by_one():
    start = np.array([1.0, 10.0, 100.0])
    found = paired(1.1 * start, start, scale="log")
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1)) and found.side(
        1.0
    ) == "above"
    assert paired(start + np.array([1.0, -1.0, 0.5]), start).side() == "neither"
    found = Estimate(0.2123, 0.19, 0.2249)
    assert str(found) == "0.21 [0.19, 0.22]" and f"{found:.3f}" == "0.212 [0.190, 0.225]"
    with pytest.raises(ValueError, match="one length"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("resample", ["scatter", "blocks"])
def test_an_exponent_is_signed_as_the_slope(resample):
    x = np.geomspace(1, 10, 20)
    rising, falling = (power_law(x, 3 * x**p, resample=resample) for p in (2.0, -2.0))
    for law, p in ((rising, 2.0), (falling, -2.0)):
        assert (law.exponent, law.low, law.high, law.amplitude) == pytest.approx((p, p, p, 3.0))
        assert law.correlation == pytest.approx(np.sign(p))
    assert rising(2.0) == pytest.approx(12.0)
    with pytest.raises(ValueError, match="too few"):
        power_law([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="standard errors"):
        power_law(x, x, stderr=0.1 * x, resample="blocks")


@pytest.mark.parametrize("n", [3, 4, 5])
def test_an_exponent_of_few_points_is_covered_as_often_as_it_says(n):
    rng, x, held, narrow = np.random.default_rng(n), np.geomspace(1, 10, n), 0, 0
    normal, student = stats.norm.ppf(0.975), stats.t.ppf(0.975, n - 2)
    for repeat in range(400):
        law = power_law(x, np.exp(0.1 * rng.normal(size=n)), resamples=600, rng=repeat)
        half = (law.high - law.low) / 2
        held += abs(law.exponent) <= half
        narrow += abs(law.exponent) <= half * normal / student  # without Student's widening
    assert stats.binomtest(held, 400, 0.95).pvalue > 1e-3
    assert stats.binomtest(narrow, 400, 0.95).pvalue < 1e-6


@pytest.mark.parametrize("n", [12, 50])
def test_an_exponent_of_points_that_resemble_their_neighbours_is_covered_at_least_as_often_as_it_says(n):
    rng, x, held = np.random.default_rng(n), np.geomspace(1, 10, n), 0
    for repeat in range(300):
        noise = rng.normal(size=n + 50)
        for k in range(1, n + 50):
            noise[k] += 0.6 * noise[k - 1]
        law = power_law(x, np.exp(0.1 * noise[50:]), resample="blocks", resamples=400, rng=repeat)
        held += law.low <= 0 <= law.high
    assert held >= 0.92 * 300


def test_a_line_through_rates_is_the_likeliest_and_its_errors_are_those_of_counts():
    rng, u = np.random.default_rng(1), np.linspace(0, 2, 6)
    time = np.full(6, 5e3)
    lines = []
    for _ in range(200):
        line, covariance, expected = poisson_line(
            u, rng.poisson(time * np.exp(-3 - 1.5 * u)).astype(float), time
        )
        lines.append(line)
    assert np.mean(lines, 0) == pytest.approx([-3, -1.5], abs=0.01)
    assert np.std(lines, 0) == pytest.approx(np.sqrt(np.diag(covariance)), rel=0.2)
    assert expected.shape == (6,)


def test_a_bootstrap_of_a_mean_is_as_wide_as_its_standard_error():
    values = np.random.default_rng(2).normal(size=400)
    found = bootstrap(lambda x: x.mean(-1), values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    alike = np.repeat(values[:40], 10)  # neighbours are equal: blocks see 40 numbers, not 400
    single, blocks = (bootstrap(lambda x: x.mean(-1), alike, block=b) for b in (1, 40))
    assert blocks.high - blocks.low > 2 * (single.high - single.low)
    assert np.isnan(bootstrap(lambda x: x.mean(-1), values, resamples=0).low)
