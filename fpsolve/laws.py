"""Gaussian or heavy-tailed noise: stable and Gaussian fits to gradient noise, and tests of Gaussianity.

Two questions that are easily mixed (ICLR Fig. 1). *Across minibatches*: the law of one component, or of the
norm, over random minibatches at fixed weights. *Across parameters*: the components of one gradient vector
pooled as if they were draws from one law. Anisotropic Gaussian noise looks heavy-tailed across parameters,
so the second needs the control that :func:`gaussian_noise` gives: a Gaussian vector with the same covariance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from fpsolve.results import dataset, quantity
from fpsolve.symbols.counter_rng import Rng

#: Where the empirical characteristic function is read, in units of 1/scale.
FREQUENCIES = 0.1 * np.arange(1, 11)
#: Half the interquartile range of a symmetric stable law of scale 1; 0.954 to 1 for 1 ≤ α ≤ 2.
HALF_QUARTILES = 0.97
#: Points at which scipy evaluates the stable law; the rest is interpolated.
LAW_POINTS = 80


def stable_fit(
    samples: np.ndarray, *, confidence: float = 0.95, resamples: int = 200, rng: Rng = None
) -> xr.Dataset:
    """Tail index α and scale γ of a symmetric stable law, φ(t) = exp(iμt − |γt|^α), by regression.

    With φ̂ the real part of the empirical characteristic function about the median, ln(−ln φ̂(t)) is fitted
    by α ln γ + α ln t, by least squares over ten t in [0.1, 1]/γ, and again until γ stands still. α = 2 is
    the Gaussian of variance 2γ², and the largest returned. The result has ``alpha``, the ends ``alpha_low``
    and ``alpha_high`` of a bootstrap interval of that ``confidence``, ``scale``, and ``location`` (the
    median). Fewer than 20 samples, samples that are not finite or half of them equal, and samples that no
    stable law fits are a ValueError.

    Koutrouvelis, J. Am. Stat. Assoc. 75, 918 (1980), for symmetric laws and with equal weights. Errors as
    measured: tests/fpsolve/test_laws.py.
    """
    values = np.asarray(samples, dtype=float).ravel()
    if len(values) < 20 or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} samples must be at least 20 and finite")
    if np.subtract(*np.percentile(values, [75, 25])) <= 0:
        raise ValueError("half the samples are equal: no continuous law; leave out weights without gradient")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence:g} must be between 0 and 1")
    alpha, scale, location = _stable(values)
    if not np.isfinite(alpha):
        raise ValueError("no stable law of index above 0.05 fits; are many samples equal?")
    generator = np.random.default_rng(rng)
    drawn = [_stable(generator.choice(values, len(values)))[0] for _ in range(resamples)]
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(drawn, ends) if drawn else (np.nan, np.nan)
    percent = f"{100 * confidence:g} %"
    return dataset(
        {
            "alpha": quantity(alpha, (), "tail index α"),
            "alpha_low": quantity(low, (), f"α, lower end, {percent} bootstrap"),
            "alpha_high": quantity(high, (), f"α, upper end, {percent} bootstrap"),
            "scale": quantity(scale, (), "scale γ"),
            "location": quantity(location, (), "median"),
        },
        title="symmetric stable law",
        n=len(values),
    )


def _stable(values: np.ndarray) -> tuple[float, float, float]:
    """α, γ, μ by regression on the characteristic function."""
    location = float(np.median(values))
    centred = values - location
    scale = max(float(np.subtract(*np.percentile(values, [75, 25]))) / (2 * HALF_QUARTILES), 1e-300)
    alpha = 2.0
    for _ in range(8):
        characteristic = np.clip(_cosine_means(centred * (FREQUENCIES[0] / scale)), 1e-12, 1 - 1e-15)
        alpha, intercept = np.polyfit(np.log(FREQUENCIES), np.log(-np.log(characteristic)), 1)
        if not alpha > 0.05:
            return np.nan, np.nan, location  # the characteristic function hardly depends on t
        change = float(np.exp(intercept / alpha))
        scale *= change
        if abs(change - 1) < 1e-3:
            break
    return min(float(alpha), 2.0), scale, location


def _cosine_means(angles: np.ndarray) -> np.ndarray:
    """⟨cos kx⟩ for k = 1 … 10 by cos (k + 1)x = 2 cos x cos kx − cos (k − 1)x: the real part of φ̂."""
    first = np.cos(angles)
    means, before, now = [], np.ones_like(first), first
    for _ in FREQUENCIES:
        means.append(now.mean())
        before, now = now, 2 * first * now - before
    return np.array(means)


def law_fits(samples: np.ndarray, *, rng: Rng = None, resamples: int = 200) -> xr.Dataset:
    """A Gaussian and a symmetric stable law fitted to the same samples, and how far each is from them.

    Over dim law = ("gaussian", "stable"): ``distance``, Kolmogorov's max|F̂ − F|, and ``log_likelihood``, the
    mean per sample. ``preference`` is Vuong's z for the stable law, the summed difference of log-likelihoods
    over its standard deviation (above 2: the stable law is better; below −2: the Gaussian); α is as in
    :func:`stable_fit`, which also says what is a ValueError. Vuong, Econometrica 57, 307 (1989). ICLR Fig. 1
    compares histograms by eye.
    """
    fit = stable_fit(samples, rng=rng, resamples=resamples)
    values = np.sort(np.asarray(samples, dtype=float).ravel())
    n = len(values)
    normal = stats.norm(values.mean(), values.std())
    z = (values - float(fit.location)) / float(fit.scale)
    stable_cdf, stable_log_pdf = _stable_law(z, float(fit.alpha))
    stable_log_pdf = stable_log_pdf - np.log(float(fit.scale))
    laws = {"gaussian": (normal.cdf(values), normal.logpdf(values)), "stable": (stable_cdf, stable_log_pdf)}
    step = np.arange(n + 1) / n
    distance = [max((step[1:] - cdf).max(), (cdf - step[:-1]).max()) for cdf, _ in laws.values()]
    difference = stable_log_pdf - laws["gaussian"][1]
    spread = difference.std()
    preference = np.sqrt(n) * difference.mean() / spread if spread > 0 else 0.0
    means = [log.mean() for _, log in laws.values()]
    result = fit.assign(
        distance=quantity(distance, "law", "Kolmogorov distance"),
        log_likelihood=quantity(means, "law", "mean log-likelihood"),
        preference=quantity(preference, (), "Vuong's z for the stable law"),
    )
    return result.assign_coords(law=list(laws)).assign_attrs(title="Gaussian and stable fits")


def _stable_law(z: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Distribution function and log density of the standard symmetric stable law."""
    if alpha > 1.999:
        law = stats.norm(0, np.sqrt(2))
        return law.cdf(z), law.logpdf(z)
    far = max(float(np.abs(z).max()), 10.0) * 1.01
    grid = np.concatenate([np.linspace(0, 3, LAW_POINTS // 2), np.geomspace(3, far, LAW_POINTS // 2 + 1)[1:]])
    density = stats.levy_stable.pdf(grid, alpha, 0.0)
    upper = stats.levy_stable.sf(grid, alpha, 0.0)
    tail = np.interp(np.abs(z), grid, upper)
    return np.where(z > 0, 1 - tail, tail), np.interp(np.abs(z), grid, np.log(np.maximum(density, 1e-300)))


def gaussian_noise(covariance: np.ndarray, *, draws: int, rng: Rng = None) -> np.ndarray:
    """Draws (draws, N) from N(0, C), C symmetric (N, N): what the noise would be if only C mattered.

    Eigenvalues below 0 by rounding count as 0.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=float))
    normal = np.random.default_rng(rng).normal(size=(draws, len(values)))
    return (normal * np.sqrt(np.maximum(values, 0))) @ vectors.T


def gaussianity(
    components: np.ndarray,
    *,
    batch_sizes: Sequence[int],
    draws: int = 1000,
    level: float = 0.05,
    rng: Rng = None,
) -> xr.Dataset:
    """How Gaussian minibatch noise is along each direction, and how that depends on B.

    ``components`` (M, K) are those of the single samples' gradients along K directions, from
    :func:`nets.measure.noise.projected_gradients`. Exact for sampling with replacement: the mean of B samples
    has the single samples' skewness over √B and their excess kurtosis over B. Tested: D'Agostino and
    Pearson's K² on ``draws`` (at least 20) minibatch means per direction, with the share of false rejections
    among all held to ``level`` (Benjamini, Hochberg).

    Over (batch_size, direction): ``skewness``, ``excess_kurtosis``, ``p_value``, ``rejected`` (0 or 1); over
    batch_size ``rejected_share`` with ``_low`` and ``_high`` (95 %, Clopper–Pearson, as if directions were
    independent). Directions without any variance are left out; ``attrs["constant_directions"]`` counts them.
    Where nothing varies, or a number makes no sense, that is a ValueError.

    D'Agostino, Pearson, Biometrika 60, 613 (1973); Benjamini, Hochberg, J. R. Stat. Soc. B 57, 289 (1995).
    """
    P = np.asarray(components, dtype=float)
    if P.ndim != 2 or min(batch_sizes, default=0) < 1 or draws < 20:
        raise ValueError(
            f"components {P.shape} must be (M, K), batch_sizes={list(batch_sizes)} ≥ 1, draws={draws} ≥ 20"
        )
    P = P - P.mean(axis=0)
    varies = P.std(axis=0) > 1e-12 * max(np.abs(P).max(), 1e-300)
    if not varies.any():
        raise ValueError("no direction has any variance")
    P = P[:, varies] / P[:, varies].std(axis=0)
    skewness, kurtosis = (P**3).mean(axis=0), (P**4).mean(axis=0) - 3
    generator = np.random.default_rng(rng)
    p_values = []
    for B in batch_sizes:
        means = np.zeros((draws, P.shape[1]))
        for _ in range(B):  # one sample of each minibatch at a time: memory for draws × K only
            means += P[generator.integers(len(P), size=draws)]
        p_values.append(stats.normaltest(means, axis=0).pvalue)
    p = np.array(p_values)
    rejected = np.array([stats.false_discovery_control(row) <= level for row in p]).astype(np.int64)
    sizes = np.array(list(batch_sizes), dtype=np.int64)
    K = P.shape[1]
    interval = [stats.binomtest(int(r.sum()), K).proportion_ci() for r in rejected]
    roots = np.sqrt(sizes)[:, None]
    both, one = ("batch_size", "direction"), "batch_size"
    return dataset(
        {
            "skewness": quantity(skewness / roots, both, "skewness, exact"),
            "excess_kurtosis": quantity(kurtosis / roots**2, both, "excess kurtosis, exact"),
            "p_value": quantity(p, both, "p of K²"),
            "rejected": quantity(rejected, both, "Gaussian law rejected"),
            "rejected_share": quantity(rejected.mean(axis=1), one, "share of directions rejected"),
            "rejected_share_low": quantity([i.low for i in interval], one, "lower end, 95 %"),
            "rejected_share_high": quantity([i.high for i in interval], one, "upper end, 95 %"),
        },
        title="Gaussianity of minibatch noise",
        coords={"batch_size": sizes, "direction": np.flatnonzero(varies)},
        draws=draws, level=level, samples=len(P), constant_directions=int((~varies).sum()),
    )  # fmt: skip


def law_density(x: np.ndarray, *, alpha: float, scale: float, location: float = 0.0) -> np.ndarray:
    """Density at x of the law of :func:`stable_fit`; α = 2 is the Gaussian of variance 2 scale²."""
    z = (np.asarray(x, dtype=float) - location) / scale
    return np.exp(_stable_law(z, alpha)[1]) / scale
