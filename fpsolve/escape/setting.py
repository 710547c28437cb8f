"""A way out of a valley, and the Styblinski–Tang experiment of ICLR 2021 in its three readings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import sympy as sp
import xarray as xr

from fpsolve.escape.kernel import Boundary
from fpsolve.escape.minibatch import simulate_minibatch_escape
from fpsolve.escape.passages import simulate_escape
from fpsolve.symbols.counter_rng import Seed
from fpsolve.symbols.target import target_edges
from theory import data_shift, hessian_proportional, isotropic, random_shift, styblinski_tang
from theory.escape.exact import exact_log_mean_time
from theory.escape.formulas import barrier_height
from theory.escape.vanishing_noise import inflection_dimension
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.noise import Noise

NoiseName: TypeAlias = Literal["isotropic", "hessian_proportional", "random_shift", "data_shift", "minibatch"]
Reading: TypeAlias = Literal["unshifted", "mean", "data"]


@dataclass(frozen=True)
class _Kind:
    """One noise of a setting: its model, the numbers that it needs, and those that can be scanned."""

    model: Callable[[EscapeSetting], Noise]
    needed: tuple[str, ...] = ("learning_rate", "batch_size")
    scanned: tuple[str, ...] = ("sharpness", "batch_size", "learning_rate", "time_step")
    #: Minibatches are drawn; the model is Gaussian noise with the same covariance.
    drawn: bool = False
    #: The noise does not depend on the landscape, so the prefactor of the rate does not change with k.
    thermal: bool = False


def _shifted_data(setting: EscapeSetting) -> Noise:
    eta, B = setting.numbers
    return data_shift(learning_rate=eta, batch_size=B, variance=setting.scaled_variance)


def _random_shift(setting: EscapeSetting) -> Noise:
    eta, B = setting.numbers
    return random_shift(delta_s=eta * setting.scaled_variance / (2 * B), learning_rate=eta)


_KINDS: dict[str, _Kind] = {
    "isotropic": _Kind(
        lambda setting: isotropic(float(setting.D)),  # type: ignore[arg-type]
        ("D", "time_step"), ("D", "sharpness", "time_step"), thermal=True,
    ),
    "hessian_proportional": _Kind(
        lambda setting: hessian_proportional(learning_rate=setting.numbers[0], batch_size=setting.numbers[1])
    ),
    "random_shift": _Kind(_random_shift),
    "data_shift": _Kind(_shifted_data),
    "minibatch": _Kind(
        _shifted_data, ("learning_rate", "batch_size", "data"),
        ("sharpness", "batch_size", "learning_rate"), drawn=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class EscapeSetting:
    """A way out of a valley, with every number that a scan may vary.

    Parameters
    ----------
    landscape : Landscape
        The mean loss at sharpness 1; for ``noise="minibatch"`` the loss f of one unshifted sample.
    noise : str
        ``"isotropic"`` (SGLD, needs ``D``); ``"hessian_proportional"``, D = (η/2B)|H|; ``"random_shift"``,
        D = (ηv/2B)H²; ``"data_shift"``, the same to all orders of the shift; ``"minibatch"``: batches drawn
        from ``data``.
    start : mapping
        At sharpness 1. At sharpness k the walk starts at start/√k.
    target : sympy condition
        At sharpness 1; scaled in the same way.
    minimum, saddle : mapping
        Critical points of the mean loss at sharpness 1, for the predicted slopes.
    learning_rate, batch_size, D : float, optional
        η, B and the diffusion coefficient of isotropic noise. In a noise model B may be any positive
        number: B < 1 is noise above that of one sample.
    sharpness : float, optional
        k of L(√k θ).
    shift_variance : float, optional
        v, of data N(0, vI).
    time_step : float, optional
        Default the learning rate: then a step is an iteration. Isotropic noise needs it.
    data : array of shape (M, n), optional
        For ``"minibatch"``.
    boundary : {"bridge", "shift", "none"}, optional
        As in :func:`fpsolve.simulate_escape`.
    """

    landscape: Landscape
    noise: NoiseName
    start: Mapping[str, float]
    target: sp.Basic
    minimum: Mapping[str, float]
    saddle: Mapping[str, float]
    learning_rate: float | None = None
    batch_size: float | None = None
    D: float | None = None
    sharpness: float = 1.0
    shift_variance: float = 1.0
    time_step: float | None = None
    data: np.ndarray | None = None
    boundary: Boundary | None = None

    def __post_init__(self) -> None:
        if self.noise not in _KINDS:
            raise ValueError(f"noise={self.noise!r} must be one of {', '.join(_KINDS)}")
        missing = [name for name in self.kind.needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"noise {self.noise!r} needs {', '.join(missing)}")

    @property
    def kind(self) -> _Kind:
        """The row of the noise in the table of noises."""
        return _KINDS[self.noise]

    @property
    def numbers(self) -> tuple[float, float]:
        """η and B."""
        return float(self.learning_rate), float(self.batch_size)  # type: ignore[arg-type]

    @property
    def scaled_variance(self) -> float:
        """Variance of the shifts of θ: f(√k θ − x) shifts θ by x/√k."""
        return self.shift_variance / self.sharpness

    @property
    def mean_landscape(self) -> Landscape:
        """The mean loss at the setting's sharpness."""
        mean = self.landscape.smoothed(self.shift_variance) if self.kind.drawn else self.landscape
        return _scaled(mean, self.sharpness)

    @property
    def process(self) -> Langevin:
        """The Langevin system; that of the Gaussian noise of all orders where minibatches are drawn."""
        return Langevin(self.mean_landscape, self.kind.model(self))

    def place(self, point: Mapping[str, float]) -> dict[str, float]:
        """A point given at sharpness 1, at the setting's sharpness."""
        return {name: value / math.sqrt(self.sharpness) for name, value in point.items()}

    @property
    def scaled_target(self) -> sp.Basic:
        """The target at the setting's sharpness."""
        if self.sharpness == 1:
            return self.target
        root = sp.Float(math.sqrt(self.sharpness))
        stretched = {v: root * v for v in self.landscape.variables}
        scaled = {}
        for atom in self.target.atoms(sp.core.relational.Relational):
            if atom.lhs in stretched and atom.rhs.is_number:  # x > b/√k has one form for all k
                scaled[atom] = atom.func(atom.lhs, atom.rhs / root)
            else:
                scaled[atom] = atom.subs(stretched, simultaneous=True)
        return self.target.xreplace(scaled)

    def simulate(self, *, walkers: int, max_steps: int, rng: Seed = None) -> xr.Dataset:
        """Passages of this setting, as :func:`fpsolve.simulate_escape` gives them."""
        way: dict[str, Any] = {"start": self.place(self.start), "target": self.scaled_target}
        way |= {"walkers": walkers, "rng": rng}
        if self.kind.drawn:
            data = np.asarray(self.data) / math.sqrt(self.sharpness)
            way |= {"learning_rate": self.numbers[0], "batch_size": self.batch_size, "max_steps": max_steps}
            return simulate_minibatch_escape(_scaled(self.landscape, self.sharpness), data, **way)
        step = self.time_step or float(self.learning_rate)  # type: ignore[arg-type]
        way |= {"time_step": step, "max_time": max_steps * step, "boundary": self.boundary}
        return simulate_escape(self.process, **way)

    def exponent(self, s: float) -> float:
        """ΔL (s/D_a + (1 − s)/D_b), with D along the escape direction at the minimum and at the saddle.

        For D = (η/2B)|H| this is Theorem 3.2 of Xie, Sato, Sugiyama (2021), for isotropic noise their
        Theorem 3.1, and for any other noise their two-temperature form (Eq. 72).
        """
        mean, a, b = self.mean_landscape, self.place(self.minimum), self.place(self.saddle)
        hessian = np.array(mean.hessian.subs({v: b[str(v)] for v in mean.variables}), float)
        direction = np.linalg.eigh(hessian)[1][:, 0]
        points = np.array([[place[name] for name in mean.names] for place in (a, b)])
        D_a, D_b = np.einsum("i,kij,j->k", direction, self.process.diffusion_values(points), direction)
        return barrier_height(mean, minimum=a, saddle=b) * (s / D_a + (1 - s) / D_b)

    def exact_log_time(self) -> float:
        """ln of the exact mean time of the Langevin equation, or NaN: several variables, or D vanishes."""
        way = self._way()
        if way is None or self._zeros_of_noise():
            return math.nan
        return exact_log_mean_time(self.process, *way)

    def step_exponent(self) -> float:
        """δ of the law T ∝ dt^{−δ}, the sum of the squared-Bessel dimensions of the zeros of D, or NaN.

        Near a zero the density falls as r^{δ/2−1}, one step jumps where r ~ dt, and on the far side the
        walker leaves dt behind with probability dt^{1+δ/2}: the rate is dt^{δ/2}/dt · dt^{1+δ/2} = dt^δ.
        It holds where D falls to zero with a slope, as |H| does and H² does not.
        """
        zeros = self._zeros_of_noise()
        return float(sum(zeros)) if zeros and all(map(math.isfinite, zeros)) else math.nan

    def _way(self) -> tuple[float, float] | None:
        """The start and the target's only edge, in one variable."""
        if len(self.landscape.variables) > 1:
            return None
        edges = target_edges(self.scaled_target, self.landscape.variables[0])
        (start,) = self.place(self.start).values()
        return (start, edges[0]) if len(edges) == 1 else None

    def _zeros_of_noise(self) -> list[float]:
        """Squared-Bessel dimensions of the zeros of D on the way to the target."""
        way = self._way()
        return [d for _, d in inflection_dimension(self.process, start=way[0], target=way[1])] if way else []


def styblinski_tang_setting(
    reading: Reading,
    *,
    dimensions: int = 1,
    noise: NoiseName | None = None,
    learning_rate: float | None = None,
    batch_size: float | None = None,
    D: float | None = None,
    time_step: float | None = None,
    samples: int = 50_000,
    data_seed: int = 0,
) -> EscapeSetting:
    """The escape experiment of ICLR 2021 on the Styblinski–Tang function, in one of its three readings.

    Source: Xie, Sato, Sugiyama, ICLR 2021, section 4 and appendix E.1. Its data are x ~ N(0, I) and its loss
    f(θ − x), while start and boundary are critical points of f. So

    - ``"unshifted"``: f itself, from its lowest minimum to its saddle, as in the paper's formulas; noise
      (η/2B)|H| unless another is given.
    - ``"mean"``: the mean loss, from its own minimum to its own saddle; noise of shifted data unless
      another is given.
    - ``"data"``: SGD with minibatches of a finite data set, between the critical points of the mean loss.

    Parameters
    ----------
    dimensions : int
        The walker escapes when any coordinate passes the saddle.
    noise, learning_rate, batch_size, D, time_step : optional
        As in :class:`EscapeSetting`.
    samples, data_seed : int, optional
        Size and seed of the data set.

    Returns
    -------
    EscapeSetting
    """
    usual: dict[str, NoiseName]
    usual = {"unshifted": "hessian_proportional", "mean": "data_shift", "data": "minibatch"}
    if reading not in usual:
        raise ValueError(f"reading={reading!r} must be one of {', '.join(usual)}")
    shift = 0 if reading == "unshifted" else 1
    low, _, high = (c.point["x"] for c in styblinski_tang(shift_variance=shift).critical_points())
    landscape = styblinski_tang(dimensions, shift_variance=0 if reading == "data" else shift)
    passed = [v > high for v in landscape.variables]
    minimum = dict.fromkeys(landscape.names, low)
    drawn = reading == "data"
    data = np.random.default_rng(data_seed).standard_normal((samples, dimensions)) if drawn else None
    return EscapeSetting(
        landscape, noise or usual[reading], minimum, sp.Or(*passed), minimum,
        {**minimum, landscape.names[0]: high}, learning_rate=learning_rate, batch_size=batch_size, D=D,
        time_step=time_step, data=data,
    )  # fmt: skip


def _scaled(landscape: Landscape, k: float) -> Landscape:
    """L(√k θ) with decimal coefficients: then every k shares one compiled kernel."""
    scaled = landscape if k == 1 else landscape.scaled(k)
    return replace(scaled, loss=scaled.loss.evalf(17))
