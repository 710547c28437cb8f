"""Stable and Gaussian laws fitted to samples, and tests of Gaussianity."""

import numpy as np
import pytest
from scipy import stats

from fpsolve.laws import gaussian_noise, gaussianity, law_fits, stable_fit


@pytest.mark.parametrize("alpha", [1.0, 1.5, 1.9])
def test_the_tail_index_of_stable_samples_is_found(alpha):
    estimates = [
        float(stable_fit(stats.levy_stable.rvs(alpha, 0, loc=5, scale=0.01, size=1000, random_state=s), resamples=0).alpha)
        for s in range(30)
    ]  # fmt: skip
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - alpha) < max(4 * error, 0.015)  # the estimator's own bias at n = 1000
    assert abs(np.mean(estimates) - (alpha - 0.15)) > 4 * error


def test_the_interval_of_the_tail_index_covers_it_as_often_as_it_says():
    fits = [
        stable_fit(stats.levy_stable.rvs(1.5, 0, size=250, random_state=s), resamples=50, rng=s)
        for s in range(40)
    ]
    covered = sum(float(f.alpha_low) <= 1.5 <= float(f.alpha_high) for f in fits)
    assert stats.binomtest(covered, 40, 0.95).pvalue > 1e-3


def test_laws_are_told_apart_and_gaussian_samples_are_near_two():
    rng = np.random.default_rng(0)
    gaussian = law_fits(rng.normal(3.0, 0.1, size=2000), rng=1, resamples=50)
    assert float(gaussian.alpha) > 1.97 and float(gaussian.scale) == pytest.approx(0.1 / np.sqrt(2), rel=0.03)
    assert float(gaussian.distance.sel(law="gaussian")) < 1.63 / np.sqrt(
        2000
    )  # 1 % point of Kolmogorov's law
    heavy = law_fits(stats.levy_stable.rvs(1.5, 0, size=2000, random_state=2), rng=1, resamples=50)
    assert float(heavy.preference) > 4 and float(heavy.distance.sel(law="stable")) < 1.63 / np.sqrt(2000)
    assert float(heavy.distance.sel(law="gaussian")) > 5 / np.sqrt(2000)


def test_the_stable_law_is_scipys():
    from fpsolve.laws import _stable_law

    z = np.array([-20.0, -1.3, 0.1, 4.0])
    cdf, log_pdf = _stable_law(z, 1.4)
    assert cdf == pytest.approx(stats.levy_stable.cdf(z, 1.4, 0), abs=1e-3)
    assert log_pdf == pytest.approx(stats.levy_stable.logpdf(z, 1.4, 0), abs=5e-3)


def test_anisotropic_gaussian_noise_looks_heavy_tailed_across_parameters():
    scales = np.exp(np.random.default_rng(0).normal(size=1000))
    noise = gaussian_noise(np.diag(scales**2), draws=400, rng=1)
    assert float(stable_fit(noise[0], resamples=0).alpha) < 1.5
    across = [float(stable_fit(noise[:, i], resamples=0).alpha) for i in range(20)]
    assert np.mean(across) > 1.9
    assert np.cov(noise[:, :5].T) == pytest.approx(
        np.diag(scales[:5] ** 2), abs=4 * scales[:5].max() ** 2 / np.sqrt(200)
    )


def test_cumulants_of_minibatch_means_are_exact_and_rejections_follow_them():
    rng = np.random.default_rng(0)
    components = np.column_stack([rng.exponential(size=3000), rng.normal(size=3000), np.zeros(3000)])
    found = gaussianity(components, batch_sizes=[1, 25], draws=2000, rng=1)
    assert found.direction.to_numpy().tolist() == [0, 1] and found.attrs["constant_directions"] == 1
    assert found.skewness.sel(direction=0).to_numpy() == pytest.approx(
        stats.skew(components[:, 0]) / np.array([1, 5])
    )
    assert found.excess_kurtosis.sel(direction=0).to_numpy() == pytest.approx(
        stats.kurtosis(components[:, 0]) / np.array([1, 25])
    )
    means = components[rng.integers(3000, size=(20_000, 25)), 0].mean(axis=1)
    assert stats.skew(means) == pytest.approx(float(found.skewness.sel(direction=0, batch_size=25)), abs=0.1)
    assert found.rejected.sel(direction=0).to_numpy().tolist() == [1, 1]


def test_gaussian_components_are_rejected_no_more_often_than_the_level():
    components = np.random.default_rng(3).normal(size=(20_000, 200))
    found = gaussianity(components, batch_sizes=[8], draws=500, rng=4)
    assert found.rejected_share.item() <= 0.02


@pytest.mark.parametrize(
    ("samples", "message"), [([1.0] * 50, "equal"), (np.arange(5), "at least 20"), ([np.nan] * 30, "finite"),
     ((-1.0) ** np.arange(2000) * np.exp(np.linspace(-130, 130, 2000)), "no stable law")],
)  # fmt: skip
def test_samples_that_no_law_fits_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        stable_fit(np.array(samples))
