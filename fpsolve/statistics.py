"""Estimates with intervals: means over trainings, pairs, power laws, lines through rates, bootstraps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from fpsolve.results import interval_text
from fpsolve.symbols.counter_rng import Seed, random_key

RESAMPLES = 2000
Scale = Literal["linear", "log", "correlation"]


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, form: str) -> str:
        """ "0.21 [0.19, 0.22]"; ``form`` is that of each number, by default two digits."""
        return interval_text(self.value, self.low, self.high, form=form)

    def side(self, of: float = 0.0) -> Literal["above", "below", "neither"]:
        """On which side of a value, 0 by default, the interval lies as a whole."""
        return "above" if self.low > of else "below" if self.high < of else "neither"


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Mean of independent numbers, shape (n,), and its standard error; NaN where n is too small."""
    numbers = np.asarray(values, float)
    n = len(numbers)
    error = numbers.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(numbers.mean()) if n else math.nan, float(error)


def student_factor(n: int, confidence: float = 0.95) -> float:
    """t/√n: half of Student's interval for a mean of n ≥ 2 numbers, in standard deviations with n − 1."""
    return float(stats.t.ppf((1 + confidence) / 2, n - 1)) / math.sqrt(n)


def _fisher_z(r):
    """artanh r, finite for r = ±1 by rounding."""
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


#: To the scale a mean is taken on, and back.
_SCALES: dict[str, tuple[Callable, Callable]] = {
    "linear": (np.asarray, np.asarray),
    "log": (np.log, np.exp),
    "correlation": (_fisher_z, np.tanh),
}


def mean_interval(
    values: ArrayLike, axis: int = 0, confidence: float = 0.95, *, scale: Scale = "linear"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of independent numbers along an axis, and the ends of Student's interval.

    On the scale "log" it is the geometric mean of positive numbers, on "correlation" that of Fisher's
    z = artanh r. A ValueError where there are fewer than two numbers, or a logarithm of what is not positive.
    """
    numbers = np.asarray(values, float)
    if numbers.ndim == 0 or numbers.shape[axis] < 2:
        raise ValueError("an interval over independent numbers needs at least 2 of them")
    if scale == "log" and (numbers <= 0).any():
        raise ValueError("values must be positive for a geometric mean; use scale='linear'")
    there, back = _SCALES[scale]
    numbers = there(numbers)
    mean = numbers.mean(axis)
    half = student_factor(numbers.shape[axis], confidence) * numbers.std(axis, ddof=1)
    return back(mean), back(mean - half), back(mean + half)


def estimate(values: ArrayLike, confidence: float = 0.95, *, scale: Scale = "linear") -> Estimate:
    """:func:`mean_interval` of independent numbers, shape (n,)."""
    return Estimate(*map(float, mean_interval(values, 0, confidence, scale=scale)))


def paired(
    one: ArrayLike, other: ArrayLike, confidence: float = 0.95, *, scale: Scale = "linear"
) -> Estimate:
    """Mean of one − other over trainings, pair by pair, with Student's interval; on "log" of one/other."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"pairs need two lists of one length, not shapes {a.shape} and {b.shape}")
    return estimate(a / b if scale == "log" else a - b, confidence, scale=scale)


def over_trainings(
    datasets: xr.Dataset | Sequence[xr.Dataset] | Mapping[int, xr.Dataset],
    dim: str = "training",
    *,
    confidence: float = 0.95,
    geometric: Sequence[str] = (),
    correlations: Sequence[str] = (),
) -> xr.Dataset:
    """Mean over independent trainings with Student's interval for each variable.

    ``datasets`` holds one Dataset for each training, of the same variables and dims, in a list or by seed, or
    is one Dataset with ``dim``. For each variable ``name`` the result has ``name``, ``name_low`` and
    ``name_high``. NaN is left out of the mean. Variables in ``geometric`` are positive, such as ratios: their
    logarithms are averaged. Those in ``correlations`` lie in [−1, 1]: Fisher's z = artanh r is averaged, so
    that the interval stays there. ``attrs["trainings"]`` counts; fewer than two are a ValueError.
    """
    if isinstance(datasets, xr.Dataset):
        several = [datasets.isel({dim: k}, drop=True) for k in range(datasets.sizes[dim])]
    else:
        several = [*datasets.values()] if isinstance(datasets, Mapping) else [*datasets]
    if len(several) < 2:
        raise ValueError(f"an interval over trainings needs at least 2 of them, not {len(several)}")
    scaled = dict.fromkeys(geometric, _SCALES["log"]) | dict.fromkeys(correlations, _SCALES["correlation"])
    words = {name: several[0][name].attrs for name in scaled}
    several = [part.assign({n: there(part[n]) for n, (there, _) in scaled.items()}) for part in several]
    stacked = xr.concat(several, dim=dim, combine_attrs="override")
    mean = stacked.mean(dim, keep_attrs=True)
    half = student_factor(len(several), confidence) * stacked.std(dim, ddof=1)
    parts = []
    for end, part in (("", mean), ("_low", mean - half), ("_high", mean + half)):
        for name, (_, back) in scaled.items():
            part[name] = part[name].copy(data=back(part[name].to_numpy()))
            part[name].attrs = words[name]
        parts.append(part.rename({name: f"{name}{end}" for name in part.data_vars}))
    result = xr.merge(parts)
    result.attrs = mean.attrs | {"trainings": len(several), "confidence": confidence}
    return result


def _drawn(n: int, resamples: int, block: int, generator: np.random.Generator) -> np.ndarray:
    """Indices (resamples, n) of resamples of n points in circular blocks of neighbours."""
    starts = generator.integers(n, size=(resamples, -(-n // block)))
    return ((starts[..., None] + np.arange(block)) % n).reshape(resamples, -1)[:, :n]


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: ArrayLike,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    block: int = 1,
    rng: int | Sequence[int] | np.random.SeedSequence | np.random.Generator | None = 0,
) -> Estimate:
    """A statistic of samples and its percentile interval over resampled samples.

    ``statistic`` takes as many arrays as there are ``samples``, all of length n along the last axis, and
    gives one number for each place along the others. Samples are drawn together, in circular blocks of
    ``block`` neighbours. NaN is left out; without resamples the interval is NaN.
    """
    arrays = [np.asarray(sample, float) for sample in samples]
    value = float(statistic(*arrays))
    if not resamples:
        return Estimate(value, math.nan, math.nan)
    index = _drawn(len(arrays[0]), resamples, block, np.random.default_rng(rng))
    found = statistic(*(array[index] for array in arrays))
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class PowerLaw:
    """y = amplitude |x − origin|^exponent, with the exponent's interval.

    ``span`` holds the ends of the fitted x. ``misfit`` is χ² per degree of freedom of the line in
    logarithms: well above 1, the points do not lie on a power law, whatever the interval says.
    ``correlation`` is Pearson's, of the logarithms.
    """

    exponent: float
    low: float
    high: float
    amplitude: float
    origin: float
    span: tuple[float, float]
    misfit: float
    correlation: float = math.nan

    def __str__(self) -> str:
        return interval_text(self.exponent, self.low, self.high, form=".3f")

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The fitted values at x."""
        return self.amplitude * np.abs(np.asarray(x, float) - self.origin) ** self.exponent


def power_law(
    x: ArrayLike,
    y: ArrayLike,
    *,
    origin: float = 0.0,
    stderr: ArrayLike | None = None,
    origin_stderr: float = 0.0,
    resample: Literal["scatter", "blocks"] = "scatter",
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    rng: Seed = 0,
) -> PowerLaw:
    """Fit of y = A |x − origin|^p by weighted least squares in logarithms; y = x² gives p = 2.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        x all on one side of ``origin``, where the law starts; y positive. n is at least 3, or 5 for blocks.
    stderr : array_like, shape (n,), optional
        Standard errors of y; without them all points weigh the same.
    resample : {"scatter", "blocks"}
        What the interval, a percentile one of the exponent, comes from. "scatter": y is redrawn from
        ``stderr``, or from the scatter about the line without it, and the origin from ``origin_stderr``. The
        scatter is widened as Student's interval with n − 2 degrees of freedom is.
        "blocks": points are redrawn in blocks of √n neighbours, for n ordered points whose residuals are
        alike in neighbours; drawn one by one they would make the interval too narrow. The interval is widened
        for the number m of blocks, by √(m/(m − 2)) and as Student's with m − 2 degrees of freedom.
    rng : int, SeedSequence, Generator, optional
        For the resampling; also a recorded key, for blocks.

    Returns
    -------
    PowerLaw
        A ValueError if there are too few points, all x are equal, y is not positive, x lies on both sides,
        or blocks are asked for with standard errors.
    """
    x, y = np.array(x, float), np.array(y, float)
    blocks = resample == "blocks"
    _check_points(x, y, origin, 5 if blocks else 3)
    relative = None if stderr is None else np.maximum(np.array(stderr, float) / y, 1e-12)
    if blocks and (relative is not None or origin_stderr):
        raise ValueError("blocks of points are resampled without standard errors; leave them out")
    u, v = np.log(np.abs(x - origin)), np.log(y)
    p, log_a, misfit = _line(u, v, relative)
    if blocks:
        found, blocks_drawn = _block_slopes(u, v, resamples, rng)
        freedom = max(blocks_drawn - 2, 1.0)
        found = p + _widening(freedom, confidence) * math.sqrt(blocks_drawn / freedom) * (found - p)
    else:
        if relative is None:
            noise = np.full(len(x), np.sqrt(misfit)) * _widening(len(x) - 2, confidence)
        else:
            noise = relative * max(1.0, np.sqrt(misfit))
        generator = np.random.default_rng(rng)  # type: ignore[arg-type]
        moved = origin + origin_stderr * generator.normal(size=resamples)
        distance = x - moved[:, None]
        distance = np.abs(distance[(distance > 0).all(axis=1) | (distance < 0).all(axis=1)])
        found = _line(np.log(distance), v + noise * generator.normal(size=distance.shape), relative)[0]
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    spread = float(np.std(u) * np.std(v))
    return PowerLaw(
        exponent=float(p), low=float(low), high=float(high), amplitude=float(np.exp(log_a)),
        origin=float(origin), span=(float(x.min()), float(x.max())), misfit=float(misfit),
        correlation=float(np.mean((u - u.mean()) * (v - v.mean())) / spread) if spread > 0 else 0.0,
    )  # fmt: skip


def _check_points(x: np.ndarray, y: np.ndarray, origin: float, least: int) -> None:
    """ValueError where the points define no exponent."""
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be two lists of one length n, not shapes {x.shape} and {y.shape}")
    if len(x) < least:
        raise ValueError(f"{len(x)} points are too few for an exponent; give at least {least}")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise ValueError("y must be positive and finite: subtract its value at the transition, omit zeros")
    if not np.isfinite(x).all() or len(set(np.sign(x - origin))) != 1 or (x == origin).any():
        raise ValueError(f"x must be finite and lie on one side of origin={origin:g}")
    if np.ptp(x) == 0:
        raise ValueError("all x are equal: they define no exponent")


def _widening(freedom: float, confidence: float) -> float:
    """Student's quantile over that of the normal law."""
    share = (1 + confidence) / 2
    return float(stats.t.ppf(share, freedom) / stats.norm.ppf(share))


def _block_slopes(u: np.ndarray, v: np.ndarray, resamples: int, rng: Seed) -> tuple[np.ndarray, float]:
    """Slopes of resampled blocks of √n neighbours, NaN where all u are equal; how many blocks there are."""
    block = max(1, round(math.sqrt(len(u))))
    index = _drawn(len(u), resamples, block, np.random.default_rng(random_key(rng)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _line(u[index], v[index], None)[0], len(u) / block


def _line(x: np.ndarray, y: np.ndarray, errors: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Slope, intercept, and χ² per degree of freedom, along the last axis."""
    weight = np.ones(x.shape[-1]) if errors is None else errors**-2.0
    share = weight / weight.sum()
    mean_x, mean_y = (v @ share for v in (x, y))
    left_x, left_y = x - mean_x[..., None], y - mean_y[..., None]
    slope = (left_x * left_y) @ weight / (left_x**2 @ weight)
    rest = (left_y - slope[..., None] * left_x) ** 2 @ weight
    return slope, mean_y - slope * mean_x, rest / (x.shape[-1] - 2)


def poisson_line(
    u: np.ndarray, events: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln γ = a + b u fitted to events in observed times by likelihood, Σ events (a + b u) − time e^{a + b u}.

    All arrays have shape (points,); events may be 0. Returns (a, b), their covariance (2, 2) for exponential
    waiting times, and the expected events. Newton's method on a concave function, to steps of 1e-12
    (McCullagh, Nelder, *Generalized Linear Models*, 1989, ch. 6).
    """
    centre, width = u.mean(), max(float(np.ptp(u)), 1e-300)
    X = np.stack([np.ones_like(u), (u - centre) / width], axis=1)
    seen = events > 0
    root = np.sqrt(events[seen])
    beta = np.linalg.lstsq(X[seen] * root[:, None], np.log(events[seen] / time[seen]) * root, rcond=None)[0]
    for _ in range(100):
        expected = time * np.exp(X @ beta)
        step = np.linalg.solve(X.T @ (X * expected[:, None]), X.T @ (events - expected))
        beta = beta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-12:
            break
    expected = time * np.exp(X @ beta)
    back = np.array([[1.0, -centre / width], [0.0, 1.0 / width]])
    return back @ beta, back @ np.linalg.inv(X.T @ (X * expected[:, None])) @ back.T, expected
