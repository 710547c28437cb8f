"""All scans of one start, as one point of a sweep that survives kills: what a figure of escapes needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from fpsolve.results import quantity
from nets.data.datasets import Data
from nets.models import fully_connected
from notebooks.studies.box_escape.box import simulate_box_escape
from notebooks.studies.box_escape.dynamics import Dynamics, NetDynamics, local_dynamics, net_dynamics
from notebooks.studies.box_escape.predictions import free_exit_time, level_crossing_rate, positive_part
from notebooks.studies.box_escape.starts import binary_data, gaussian_noise, minimum, pretrained, start_report

SCANS = ("learning_rate", "shuffled", "batch_size", "injected_noise", "sharpness_sgld")
DYNAMICS = ("network", "none", "quadratic")
#: How many of the lowest eigenvalues are kept.
EIGENVALUES = 8
_PLANE = ("scan", "point")
_KEYS = ("learning_rate", "batch_size", "injected_noise", "sharpness")


def escape_study(
    problem: str, start: str, training_seed: int, rng: np.random.SeedSequence, *, points: int = 8,
    replicas: int = 100, max_steps: int = 30_000, epochs: int = 300, samples: int = 0, decay: float = 1e-3,
    half_width: float = 0.05, langevin_batch: int = 50, scans: tuple[str, ...] = SCANS,
) -> Mapping[str, xr.Variable]:  # fmt: skip
    """First exits along every scan from one start, and predictions from C and H there; made for ``sweep``.

    The range of each scan follows from C at the start: the largest learning rate is that at which free
    diffusion in the noisiest coordinate takes about twenty steps to the wall, and each next one is 1.4
    times smaller; B goes from 1 to 16 at that rate; the injected D is doubled six times.

    ``problem`` is a name for ``starts.binary_data``, ``start`` a key of ``STARTS``; "minimum" goes on from
    "pretrained" with the weight ``decay``. ``points``, ``replicas`` and ``max_steps`` are of each scan; the
    quadratic basin takes half the replicas, injected noise a quarter. ``samples`` training rows are kept, 0
    keeps all. The box of "logistic" is 0.1, as in the paper. ``langevin_batch`` is B where noise is injected.

    Returned: ``x``, ``learning_rate``, ``batch_size``, ``injected_noise``, ``sharpness`` (scan, point);
    ``steps`` (scan, dynamics, point, replica), −n where n steps were taken without an exit, NaN where nothing
    was run; ``uphill`` (scan, point), share of exits where the loss of the whole training set still rises
    outwards; ``diffusion_steps``, ``level_rate``, ``level_exponent`` (scan, point) of the module
    ``predictions``; and the numbers of ``starts.start_report``.
    """
    made_from: dict = {"epochs": epochs, "samples": samples, "decay": decay, "half_width": half_width}
    dynamics, r = study_start(problem, start, training_seed, **made_from)
    report = start_report(dynamics, half_width=r)
    langevin = min(langevin_batch, dynamics.samples)
    settings = scan_settings(report.C.values, points=points, half_width=r, langevin_batch=langevin)
    kinds: dict[str, Dynamics] = {"network": dynamics, "none": local_dynamics(dynamics)}
    if start != "pretrained":
        H = torch.from_numpy(report.H.values)
        kinds["quadratic"] = local_dynamics(dynamics, drift="quadratic", curvature=H)
    measured = _exits(kinds, settings, rng, scans=scans, half_width=r, replicas=replicas, max_steps=max_steps)
    return measured | _readings(report, settings, scans, r) | _described(dynamics, report, settings, r)


def _exits(
    kinds: Mapping[str, Dynamics], settings: Mapping[str, np.ndarray], rng: np.random.SeedSequence, *,
    scans: tuple[str, ...], half_width: float, replicas: int, max_steps: int,
) -> dict[str, xr.Variable]:  # fmt: skip
    """Signed steps to the exit, and how many exits go uphill, at every point of every scan."""
    steps = np.full((len(SCANS), len(DYNAMICS), settings["x"].shape[1], replicas), np.nan)
    uphill = np.full_like(settings["x"], np.nan)
    children = rng.spawn(steps[..., 0].size)
    for child, (i, d, j) in zip(children, np.ndindex(steps.shape[:3]), strict=True):
        scan, kind, (eta, B, D, k) = SCANS[i], DYNAMICS[d], (float(settings[key][i, j]) for key in _KEYS)
        if scan not in scans or kind not in kinds or not _is_run(scan, kind, j, D > 0):
            continue
        many, limit = max(4, replicas // (4 if D > 0 else 1)), max_steps
        if kind == "quadratic":
            many = max(4, replicas // 2)
            limit = int(min(max_steps, 8e9 / (many * len(kinds[kind].start) ** 2)))
        runs = simulate_box_escape(
            kinds[kind], learning_rate=eta, batch_size=int(B), injected_noise=D, sharpness=k,
            half_width=half_width, replicas=many, max_steps=limit, rng=child,
            sampling="without_replacement" if scan == "shuffled" else "with_replacement",
        )  # fmt: skip
        steps[i, d, j, :many] = np.where(runs.outcome == 1, runs.steps, -runs.steps)
        if kind == "network" and j % 3 == 1:
            uphill[i, j] = _uphill(kinds[kind], runs)
    by_run = ("scan", "dynamics", "point", "replica")
    return {
        "steps": quantity(steps, by_run, "steps to the exit, −steps without one"),
        "uphill": quantity(uphill, _PLANE, "share of exits where the loss still rises"),
    }


def _is_run(scan: str, kind: str, point: int, injected: bool) -> bool:
    """Whether a kind of dynamics is run at a point of a scan.

    Where noise is injected, predictions follow from C and H without a simulation: only the network is run.
    Shuffled epochs are compared with the free walk only. The quadratic basin, where a step costs P², is run
    at every other point.
    """
    if injected:
        return kind == "network"
    return kind != "quadratic" or (scan != "shuffled" and point % 2 == 0)


def _readings(
    report: xr.Dataset, settings: Mapping[str, np.ndarray], scans: tuple[str, ...], r: float
) -> dict[str, xr.Variable]:
    """Free diffusion and level crossing at every point, from C and H at the start."""
    C, positive = report.C.values, positive_part(report.H.values)
    free = free_exit_time(C, half_width=r, rng=np.random.SeedSequence(1))
    shape = settings["x"].shape
    diffusion, rate, exponent = np.full((3, *shape), np.nan)
    for i, j in np.ndindex(*shape):
        eta, B, D, k = (float(settings[key][i, j]) for key in _KEYS)
        total = C + 2 * B * D / (eta * k) * np.eye(len(C))
        s = free
        if D > 0 and SCANS[i] in scans:
            s = free_exit_time(total, half_width=r, walkers=200, steps=200, rng=np.random.SeedSequence(2))
        diffusion[i, j] = float(s["mean"]) * B / (eta * k) ** 2
        per_own_time, exponent[i, j] = level_crossing_rate(
            total, positive, learning_rate=eta * k, batch_size=B, half_width=r
        )
        rate[i, j] = k * per_own_time
    numbers = ("mean", "low", "high", "variation")
    return {
        **{f"free_{name}": quantity(float(free[name]), (), f"free exit in s: {name}") for name in numbers},
        "diffusion_steps": quantity(diffusion, _PLANE, "mean steps by free diffusion"),
        "level_rate": quantity(rate, _PLANE, "level crossing rate of the basin", "1/time"),
        "level_exponent": quantity(exponent, _PLANE, "ΔL/D of the basin"),
    }


def _described(
    dynamics: NetDynamics, report: xr.Dataset, settings: Mapping[str, np.ndarray], r: float
) -> dict[str, xr.Variable]:
    """The start in numbers, and the settings of the scans."""
    values, ratio = report.eigenvalue.values, report.noise_curvature.values
    lowest = np.pad(values, (0, EIGENVALUES), constant_values=np.nan)[:EIGENVALUES]
    with torch.no_grad():
        loss = float(dynamics.losses(dynamics.start.unsqueeze(0))[0])
    middle = float(np.median(ratio[np.isfinite(ratio)]))
    return {
        "loss": quantity(loss, (), "loss at the start"),
        "parameters": quantity(float(len(values)), (), "parameters"),
        "box": quantity(r, (), "half width of the box"),
        "largest_eigenvalue": quantity(float(values[-1]), (), "largest eigenvalue of the Hessian"),
        "median_noise_curvature": quantity(middle, (), "median of C_ii/λ_i"),
        **{str(name): v.variable for name, v in report.data_vars.items() if not v.ndim},
        **{key: quantity(plane, _PLANE, key) for key, plane in settings.items()},
        "lowest_eigenvalues": quantity(lowest, "low", "lowest eigenvalues"),
    }


class Asked(NamedTuple):
    """What a start is made from: see :func:`escape_study`."""

    problem: str
    samples: int
    epochs: int
    seed: int
    decay: float

    @property
    def data(self) -> Data:
        if self.problem == "gaussian":
            return gaussian_noise(self.samples or 50_000, rng=0)
        data = binary_data(self.problem)
        return data.subset(self.samples) if 0 < self.samples < data.samples else data


def study_start(
    problem: str, start: str, training_seed: int, *, epochs: int = 300, samples: int = 0, decay: float = 1e-3,
    half_width: float = 0.05,
) -> tuple[NetDynamics, float]:  # fmt: skip
    """The start of a study and the half width of its box; an unknown ``start`` is a ValueError."""
    if start not in STARTS:
        raise ValueError(f"start={start!r} must be one of {', '.join(map(repr, STARTS))}")
    made = STARTS[start](Asked(problem, samples, epochs, training_seed, decay))
    return made, HALF_WIDTHS.get(start, half_width)


@lru_cache(maxsize=2)
def _sgd(asked: Asked) -> NetDynamics:
    return pretrained(asked.data, epochs=asked.epochs, rng=asked.seed)


def _drawn(asked: Asked, hidden: tuple[int, ...], mean: float, deviation: float) -> NetDynamics:
    """A net without biases, its weights from a normal law."""
    data = asked.data
    net = fully_connected((data.features, *hidden, 2), rng=0)
    generator = np.random.default_rng(asked.seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(mean + deviation * generator.standard_normal(tuple(p.shape))))
    return net_dynamics(net, data)


#: Starts by name: trained, its minimum with weight decay, and the artificial starts of appendix E. For three
#: layers the paper prints noise (0, 0.01 I) about 0.1. Read as a variance, that is a standard deviation of
#: 0.1, twice the half width of the box; here 0.01 is the standard deviation.
STARTS: dict[str, Callable[[Asked], NetDynamics]] = {
    "pretrained": _sgd,
    "minimum": lambda asked: minimum(_sgd(asked), weight_decay=asked.decay),
    "logistic": lambda asked: _drawn(asked, (), 0.0, 0.0),
    "three_layers": lambda asked: _drawn(asked, (10, 10), 0.1, 0.01),
}
#: Half widths of boxes that the paper gives for a start of its own.
HALF_WIDTHS = {"logistic": 0.1}


def scan_settings(
    C: np.ndarray, *, points: int, half_width: float, langevin_batch: int
) -> dict[str, np.ndarray]:
    """Learning rate, batch size, injected D and sharpness of every point of every scan, shape (scan, point).

    ``C`` has shape (P, P); ``x`` is the number that is scanned. :func:`escape_study` says the ranges.
    """
    shape, top = (len(SCANS), points), half_width / math.sqrt(20 * np.diag(C).max())
    rates, batches, noises, sharpness = np.full(shape, top), np.ones(shape), np.zeros(shape), np.ones(shape)
    rates[:2] = top * 1.4 ** -np.arange(points)
    for i, wanted in enumerate(np.geomspace(1, 16, points)):
        batches[2, i] = max(round(wanted), batches[2, i - 1] + 1 if i else 1)
    # Injected noise should exceed that of the minibatches, D ≫ η C_ii/2B, at a learning rate with which one
    # parameter diffuses r in thousands of steps. The first of all parameters needs about a tenth of them.
    rates[3:] = min(1e-3, top)
    batches[3:] = langevin_batch
    middle = half_width**2 / (2 * rates[3, 0] * 4000)
    noises[3] = middle * np.geomspace(0.25, 8, points)
    noises[4] = middle
    sharpness[4] = np.geomspace(0.5, 8, points)
    x = np.stack([rates[0], rates[1], batches[2], noises[3], sharpness[4]])
    return dict(zip(_KEYS, (rates, batches, noises, sharpness), strict=True)) | {"x": x}


def _uphill(dynamics: Dynamics, runs: xr.Dataset, most: int = 24) -> float:
    """Share of exits where the loss of all samples rises outwards, so that no saddle has been passed."""
    left = np.flatnonzero(runs.outcome.values == 1)[:most]
    if not len(left):
        return math.nan
    places = dynamics.start + torch.from_numpy(runs.change.values[left])
    with torch.no_grad():
        gradient = dynamics.gradients(places, None).cpu().numpy()
    outward = gradient[np.arange(len(left)), runs.coordinate.values[left]] * runs.side.values[left]
    return float((outward > 0).mean())
