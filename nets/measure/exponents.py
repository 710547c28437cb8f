"""Exponents of power laws between modes, such as variance against flatness, with intervals and provenance.

σ_i² ∝ F_i^{−ψ}, D_i ∝ F_i^{−ψ_D}, τ_i ∝ F_i^{−ψ_τ}, σ_i² ∝ i^{−γ} (PNAS 8, 12, 13). The paper's letters are
minus the slopes of least-squares lines through logarithms. With τ_i = σ_i²/D_i on the same modes
ψ = ψ_D + ψ_τ holds to rounding, whatever the data: it is an identity and no test of a theory.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fpsolve.statistics import Estimate, mean_interval, power_law
from fpsolve.symbols.counter_rng import Seed

#: Modes of the fits: the drift mode is left out, and so is the tail of the spectrum (PNAS Fig. 1A, 2D).
FIT = (2, 200)
RANK_FIT = (20, 200)
CONFIDENCE = 0.95
#: The first and the last mode of a fit.
Modes: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Exponent:
    """ψ of y = A x^{−ψ}, with the sign of the paper, and everything needed to judge it.

    ``name`` is "psi", "psi_D", "psi_tau" or "gamma"; ``low`` and ``high`` end the 95 % interval, which comes
    from "blocks of modes" or "seeds" (``interval``). ``correlation`` is Pearson's, of the logarithms: without
    it near −1 the slope says little; r² times the slope of the regression the other way round is this slope.
    ``points`` modes from ``first`` to ``last`` are in the fit; ``left_out`` of the range have no finite
    positive value, such as open-ended widths. ``basis`` and ``sampler`` say where directions and minibatches
    come from. ``loss`` is L₀ at the weights the flatness was measured at; ``seeds`` counts trainings;
    ``amplitude`` is A.
    """

    name: str
    value: float
    low: float
    high: float
    interval: str
    correlation: float
    points: int
    left_out: int
    first: int
    last: int
    basis: str
    sampler: str
    loss: float
    seeds: int = 1
    amplitude: float = math.nan

    def __str__(self) -> str:
        return f"{self.name} = {self.estimate:.2f}"

    @property
    def estimate(self) -> Estimate:
        """The value and its interval."""
        return Estimate(self.value, self.low, self.high)

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The fitted line A x^{−ψ}."""
        return self.amplitude * np.asarray(x, float) ** -self.value

    def excludes(self, value: float) -> bool:
        """Whether the interval leaves a value out."""
        return not self.low <= value <= self.high


def rank_exponent(modes: xr.Dataset, *, fit: Modes = RANK_FIT, rng: Seed = 0) -> Exponent:
    """γ of σ_i² ∝ i^{−γ} for modes from :func:`nets.measure.components.analyse` (PNAS Fig. 1A: 20 to 200).

    ``fit`` holds the first and the last mode; ``rng`` draws the bootstrap.
    """
    variance = modes["variance"]
    return _fitted("gamma", variance["mode"].astype(float), variance, fit, modes.attrs, modes.attrs, rng)


def variance_flatness(
    modes: xr.Dataset,
    widths: xr.Dataset,
    *,
    fit: Modes = FIT,
    correlation_time: xr.DataArray | None = None,
    rng: Seed = 0,
) -> dict[str, Exponent]:
    """ψ, ψ_D and ψ_τ ("psi", "psi_D", "psi_tau") of variance, velocity variance and time against flatness.

    ``modes`` hold the motion, from :func:`nets.measure.components.analyse`, or ``project`` for another
    window; ``widths``, from :func:`nets.measure.loss_widths.widths`, lie along the same directions. ``fit``
    holds the first and the last mode. ``correlation_time`` (mode) is τ_i measured without σ_i², such as
    :func:`nets.measure.components.correlation_times`; the default is σ_i²/D_i, with which ψ = ψ_D + ψ_τ to
    rounding where no mode is left out. ``rng`` draws the bootstraps. Fewer than 5 common modes are a
    ValueError.
    """
    tau = modes["correlation_time"] if correlation_time is None else correlation_time
    quantities = {"psi": modes["variance"], "psi_D": modes["velocity_variance"], "psi_tau": tau}
    return {
        name: _fitted(name, widths["width"], quantity, fit, modes.attrs, widths.attrs, rng)
        for name, quantity in quantities.items()
    }


def _fitted(
    name: str, x: xr.DataArray, y: xr.DataArray, fit: Modes, motion: Mapping, landscape: Mapping, rng: Seed
) -> Exponent:
    """The exponent of y against x over the modes of ``fit``, with its provenance."""
    first, last = fit
    if not 1 <= first < last:
        raise ValueError(f"fit={fit} must be two modes, the first at least 1 and below the last")
    x, y = (values.sel(mode=slice(first, last)) for values in xr.align(x, y, join="inner"))
    usable = np.isfinite(x) & (x > 0) & np.isfinite(y) & (y > 0)
    points, left_out = int(usable.sum()), int((~usable).sum())
    if points < 5:
        raise ValueError(
            f"{name}: modes {first} to {last} hold {points} usable points "
            f"({left_out} are open-ended or not positive); an exponent needs at least 5"
        )
    law = power_law(
        x.to_numpy()[usable], y.to_numpy()[usable], resample="blocks", confidence=CONFIDENCE, rng=rng
    )
    return Exponent(
        name,
        -law.exponent,
        -law.high,
        -law.low,
        interval="blocks of modes",
        correlation=law.correlation,
        points=points,
        left_out=left_out,
        first=int(x["mode"][0]),
        last=int(x["mode"][-1]),
        basis=str(motion.get("basis", "given")),
        sampler=_sampler(motion),
        loss=float(landscape.get("loss", motion.get("loss_end", np.nan))),
        amplitude=law.amplitude,
    )


def _sampler(attrs: Mapping) -> str:
    """Optimiser, its numbers and how minibatches are drawn, in a few words."""
    forms = {"learning_rate": "eta={:g}", "batch_size": "B={:d}", "sampling": "{}"}
    numbers = [form.format(attrs[key]).replace("_", " ") for key, form in forms.items() if key in attrs]
    return ", ".join([str(attrs.get("control") or attrs.get("optimizer", "unknown")), *numbers])


def over_trainings(exponents: Sequence[Exponent]) -> Exponent:
    """Mean over independent trainings with the 95 % interval of Student's t from their scatter.

    Correlation, loss and amplitude are means (of logarithms for the latter two), ``points`` is the smallest.
    Fewer than two exponents, or some of another quantity, basis or sampler, are a ValueError.
    """
    items = list(exponents)
    if len(items) < 2:
        raise ValueError(f"{len(items)} training(s) show no scatter; give at least two")
    if len({(e.name, e.basis, e.sampler) for e in items}) > 1:
        raise ValueError("exponents over trainings must be of one quantity, basis and sampler")
    mean, low, high = map(float, mean_interval([e.value for e in items], confidence=CONFIDENCE))
    loss, amplitude = np.exp(np.mean(np.log([(e.loss, e.amplitude) for e in items]), axis=0)).tolist()
    together: dict[str, Any] = {
        "correlation": float(np.mean([e.correlation for e in items])),
        "points": min(e.points for e in items),
        "left_out": max(e.left_out for e in items),
        "seeds": sum(e.seeds for e in items),
    }
    own = Estimate(mean, low, high)
    return replace(items[0], **vars(own), interval="seeds", loss=loss, amplitude=amplitude, **together)


def table(exponents: Iterable[Exponent]) -> str:
    """The exponents as lines of text, one each, under a head."""
    head = (
        f"{'exponent':8} {'value':>6} {'95 % interval':>16} {'from':15} {'r':>6} {'modes':>9} {'points':>6} "
        f"{'L0':>8} {'seeds':>5}  basis; sampler"
    )
    rows = [
        f"{e.name:8} {e.value:6.2f} {f'[{e.low:.2f}, {e.high:.2f}]':>16} {e.interval:15} "
        f"{e.correlation:6.2f} "
        f"{f'{e.first}-{e.last}':>9} {e.points:6d} {e.loss:8.1e} {e.seeds:5d}  {e.basis}; {e.sampler}"
        for e in exponents
    ]
    return "\n".join([head, *rows])
