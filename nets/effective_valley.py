"""The toolkit's Langevin system measured from one trained net, and whether SGD then does what it predicts.

Sharp directions e_i are the top eigenvectors of the Hessian at w₀ (all weights); the flat one, u, is where
pilot trainings from w₀ go, with the sharp ones projected out. Along w₀ + x u curvatures λ_i(x) = e_iᵀ H e_i,
the loss and the gradient noise C(x) are measured and become L(x, y) = V(x) + ½ Σ_i λ_i(x) y_i², with y from
the valley's floor: a closed loop from network to theory and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import sympy as sp
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import fpsolve
import theory
from nets.curvature import hessian_operator, top_eigenpairs
from nets.gradient_noise import batch_factor, projected_gradients
from nets.models import with_parameters
from nets.runs import Run, check_trained
from nets.training import continued, replicas
from theory.adiabatic import eliminate

Reading = Literal["measured", "random_shift", "local"]
#: The range measured, in units of the pilots' mean displacement along u.
RANGE = (-0.5, 1.75)

__all__ = ["MeasuredValley", "closed_loop", "measure_valley", "walk"]


@dataclass(frozen=True, eq=False)
class MeasuredValley:
    """A valley with n sharp variables y_i and one flat x, measured from a net; from :func:`measure_valley`.

    Attributes
    ----------
    run : Run
        Its weights are w₀: x = 0.
    directions : ndarray, shape (weights, n + 1)
        Orthonormal: e_1 … e_n, u.
    profile : Dataset, dim x
        ``loss``, ``curvature`` λ_i, ``floor`` −g_i/λ_i, ``rotation`` (the norm of the off-diagonal part of
        the sharp block of H over that of the diagonal) and ``covariance`` C of the minibatch gradient.
    curvature, floor : ndarray, shape (n, degree + 1)
        Coefficients of polynomials in x/scale, lowest first.
    potential : ndarray
        The same for V(x), the loss on the floor; one degree more.
    log_noise : ndarray, shape (n + 1, degree + 1)
        The same for ln C_ii(x), in the order of ``directions``.
    scale : float
        The pilots' displacement along u.
    """

    run: Run
    directions: np.ndarray
    profile: xr.Dataset
    curvature: np.ndarray
    floor: np.ndarray
    potential: np.ndarray
    log_noise: np.ndarray
    scale: float

    @property
    def n_sharp(self) -> int:
        """Number of sharp directions."""
        return len(self.curvature)

    def curvatures(self, x: ArrayLike) -> np.ndarray:
        """λ_i(x) of the fit, shape (..., n)."""
        return _values(self.curvature, np.asarray(x, float) / self.scale)

    def floors(self, x: ArrayLike) -> np.ndarray:
        """Where the floor lies along e_i, shape (..., n)."""
        return _values(self.floor, np.asarray(x, float) / self.scale)

    def log_weighted_flatness(self, x: ArrayLike) -> np.ndarray:
        """ln F̂ = −½ Σ γ_i ln λ_i(x), γ_i = λ_i(0)²/Σλ² (PRL 16), shape (...)."""
        return _log_weighted_flatness(self.curvatures(x), self.curvatures(0.0))

    @property
    def covariance(self) -> np.ndarray:
        """C at x = 0, shape (n + 1, n + 1)."""
        return self.profile["covariance"].sel(x=0.0, method="nearest").to_numpy()

    @property
    def shift_strength(self) -> float:
        """σ of C_ii = 2σλ_i², fitted to the sharp directions at x = 0 in logarithms."""
        ratio = np.diag(self.covariance)[:-1] / (2 * self.curvatures(0.0) ** 2)
        return float(np.exp(np.log(ratio).mean()))

    def landscape(self) -> theory.Landscape:
        """L(x, y) = V(x) + ½ Σ λ_i(x) y_i² as :class:`theory.Landscape`, variables x, y1 … yn."""
        x, *y = sp.symbols(" ".join(["x"] + [f"y{i + 1}" for i in range(self.n_sharp)]), real=True)
        z = x / self.scale

        def polynomial(row: np.ndarray) -> sp.Expr:
            return sum((float(c) * z**k for k, c in enumerate(row)), sp.Integer(0))

        loss = polynomial(self.potential)
        for row, yi in zip(self.curvature, y, strict=True):
            loss += polynomial(row) * yi**2 / 2
        return theory.Landscape(loss, (x, *y), fast=tuple(y), name="valley measured from a net")

    def langevin(self, *, noise: Literal["measured", "random_shift"] = "measured") -> theory.Langevin:
        """dθ = −∇L dt + √(2D) dW with the measured noise.

        Parameters
        ----------
        noise : {"measured", "random_shift"}
            D = ηC/2 with C of x = 0; or D = ησH² with σ fitted (:attr:`shift_strength`), which has to
            answer for the flat direction as well.

        Returns
        -------
        theory.Langevin

        Raises
        ------
        ValueError
            If the reading is unknown.
        """
        rate = self.run.settings.learning_rate
        if noise == "measured":
            n = self.n_sharp
            order = [n, *range(n)]
            C = self.covariance[np.ix_(order, order)]
            return theory.Langevin(self.landscape(), theory.measured((C + C.T) / 2, learning_rate=rate))
        if noise == "random_shift":
            shift = theory.random_shift(learning_rate=rate, sigma=self.shift_strength)
            return theory.Langevin(self.landscape(), shift)
        raise ValueError(f"noise={noise!r} must be 'measured' or 'random_shift'")

    def local_diffusion(self) -> theory.Diffusion:
        """The same drift with D_ii(x) = ηC_ii(x)/2 as measured along the walk, and no D_ij.

        The noise of a net that still learns fades along x; :meth:`langevin` keeps that of x = 0.
        """
        system = self.langevin()
        z = system.variables[0] / self.scale
        logs = [sum((float(c) * z**k for k, c in enumerate(row)), sp.Integer(0)) for row in self.log_noise]
        rate = self.run.settings.learning_rate
        D = [rate / 2 * sp.exp(power) for power in (logs[-1], *logs[:-1])]
        return theory.Diffusion(
            system.drift, sp.diag(*D), system.variables, name="valley measured from a net"
        )

    def process(self, *, noise: Reading) -> theory.Langevin | theory.Diffusion:
        """:meth:`langevin` or, for "local", :meth:`local_diffusion`."""
        return self.local_diffusion() if noise == "local" else self.langevin(noise=noise)

    def diffusion(self, x: float = 0.0, *, noise: Reading) -> np.ndarray:
        """D_ii(x) along the sharp directions, shape (n,)."""
        rate = self.run.settings.learning_rate
        if noise == "local":
            return rate / 2 * np.exp(_values(self.log_noise, x / self.scale))[:-1]
        if noise == "measured":
            return rate * np.diag(self.covariance)[:-1] / 2
        return rate * self.shift_strength * self.curvatures(x) ** 2


def measure_valley(
    run: Run,
    *,
    n_sharp: int = 4,
    epochs: int = 10,
    pilots: int = 8,
    points: int = 10,
    degree: int = 2,
    rng: int = 0,
    samples: int | None = None,
) -> MeasuredValley:
    """λ_i(x), V(x) and C(x) along the flat direction that SGD takes from a trained net.

    Parameters
    ----------
    run : Run
        Of plain SGD, with or without replacement; C is that of its own sampling.
    n_sharp : int
        Top eigendirections of the Hessian of all weights.
    epochs, pilots : int
        Pilot trainings from w₀ whose mean displacement, sharp directions projected out, is u. Their seeds
        are not those of :func:`walk`.
    points : int
        Values of x; 0 is one of them.
    degree : int
        Of λ_i(x); V(x) has one more.
    rng : int
    samples : int, optional
        Rows of the training data for V, Hessians and noise; default all. With fewer, V(x) is the loss of
        those rows and not the one that SGD descends, which the predicted drift inherits.

    Returns
    -------
    MeasuredValley
        ``profile.attrs`` state ``curvature_fit_error`` (largest |fit − measured|/measured of any λ_i over
        the range), ``noise_fit_error`` (of any C_ii) and ``explained``, the share of the pilots'
        squared mean displacement along u.

    Raises
    ------
    ValueError
        If the run is not plain SGD, numbers make no sense, or a λ_i is not positive over the range.
    """
    check_trained(run)
    if run.settings.optimizer != "sgd":
        raise ValueError(f"optimizer={run.settings.optimizer!r}: a valley is measured for plain 'sgd'")
    if min(n_sharp, epochs, pilots, degree) < 1 or points < degree + 3:
        raise ValueError(f"n_sharp, epochs, pilots, degree must be positive and points at least {degree + 3}")
    dtype = run.settings.torch_dtype
    rows = slice(samples)
    x_rows, labels = run.data.train_inputs[rows].to(dtype), run.data.train_labels[rows]
    sharp = top_eigenpairs(run.net, x_rows, labels, count=n_sharp, tolerance=1e-5, rng=rng)
    E = np.linalg.qr(sharp["eigenvector"].to_numpy().astype(float))[0]
    w0 = _weights(run)
    later = _from_here(run, epochs, [_seed(rng, 0, i) for i in range(pilots)])
    moved = np.mean([_weights(r) - w0 for r in later], axis=0)
    flat = moved - E @ (E.T @ moved)
    scale = float(np.linalg.norm(flat))
    if not scale > 0:
        raise ValueError("the pilots did not move: train with a larger learning rate or for more epochs")
    directions = np.column_stack([E, flat / scale])
    x = np.linspace(*RANGE, points)
    x[np.abs(x).argmin()] = 0.0
    rows_of = [_at(run, w0 + t * flat, x_rows, labels, directions) for t in x]
    loss, gradient, block, covariance = (np.array(part) for part in zip(*rows_of, strict=True))
    lam = np.diagonal(block, axis1=1, axis2=2)
    if lam.min() <= 0:
        raise ValueError(
            f"a curvature falls to {lam.min():.2g} over the range: ask for fewer than {n_sharp} directions"
        )
    covariance *= batch_factor(
        run.data.samples,
        batch_size=run.settings.batch_size,
        replacement=run.settings.sampling == "with_replacement",
    )
    floor = -gradient[:, :n_sharp] / lam
    ground = loss - 0.5 * (gradient[:, :n_sharp] ** 2 / lam).sum(1)
    polynomial = np.polynomial.polynomial
    curvature, floors = (polynomial.polyfit(x, v, degree).T for v in (lam, floor))
    potential = polynomial.polyfit(x, ground, degree + 1)
    error = np.abs(_values(curvature, x) / lam - 1).max()
    C_ii = np.diagonal(covariance, axis1=1, axis2=2)
    log_noise = polynomial.polyfit(x, np.log(C_ii), degree).T
    noise_error = np.abs(np.exp(_values(log_noise, x)) / C_ii - 1).max()
    off = np.linalg.norm(block * (1 - np.eye(n_sharp)), axis=(1, 2)) / np.linalg.norm(lam, axis=1)
    both = ("direction", "direction_2")
    profile = xr.Dataset(
        {
            "loss": ("x", loss, _says("loss")),
            "curvature": (("x", "mode"), lam, _says("curvature λ_i")),
            "floor": (("x", "mode"), floor, _says("floor of the valley along e_i")),
            "rotation": ("x", off, _says("off-diagonal over diagonal of the sharp block of H")),
            "covariance": (("x", *both), covariance, _says("gradient-noise covariance C")),
        },
        coords={"x": ("x", x * scale, _says("distance along the flat direction"))},
        attrs={
            "title": "valley measured along the direction of SGD",
            "curvature_fit_error": float(error),
            "noise_fit_error": float(noise_error),
            "explained": scale**2 / float(moved @ moved),
            "data": run.data.name,
            "learning_rate": run.settings.learning_rate,
            "batch_size": int(run.settings.batch_size),
            "epochs": int(epochs),
            "seed": int(rng),
            "fpsolve_version": fpsolve.__version__,
        },
    )
    return MeasuredValley(run, directions, profile, curvature, floors, potential, log_noise, scale)


def walk(
    valley: MeasuredValley, *, replicas: int = 64, epochs: int | None = None, rng: int = 0
) -> xr.Dataset:
    """What SGD does from w₀: coordinates of independent replicas after each epoch.

    Parameters
    ----------
    valley : MeasuredValley
    replicas : int
    epochs : int, optional
        Default those of the pilots.
    rng : int

    Returns
    -------
    Dataset, dims epoch, replica
        ``x``, ``y`` (from the floor at that x), and at the last epoch ``curvature`` e_iᵀHe_i at the
        replica's weights (the first eight replicas).
    """
    epochs = int(valley.profile.attrs["epochs"]) if epochs is None else epochs
    if replicas < 8 or epochs < 1:
        raise ValueError(f"replicas={replicas} must be at least 8 and epochs={epochs} positive")
    w0, n = _weights(valley.run), valley.n_sharp
    runs = _from_here(valley.run, 1, [_seed(rng, 1, i) for i in range(replicas)])
    places = []
    for epoch in range(epochs):
        runs = continued(runs, 1) if epoch else runs
        places.append((np.array([_weights(r) for r in runs]) - w0) @ valley.directions)
    p = np.array(places)
    x = p[..., n]
    data = valley.run.data
    inputs = data.train_inputs.to(valley.run.settings.torch_dtype)
    lam = np.array(
        [
            np.diag(_block(hessian_operator(r.net, inputs, data.train_labels), valley.directions[:, :n]))
            for r in runs[:8]
        ]
    )
    return xr.Dataset(
        {
            "x": (("epoch", "replica"), x, _says("distance along the flat direction")),
            "y": (("epoch", "replica", "mode"), p[..., :n] - valley.floors(x), _says("from the floor")),
            "curvature": (("measured", "mode"), lam, _says("curvature at the end")),
        },
        coords={"epoch": np.arange(1, epochs + 1)},
        attrs={"title": "SGD in the measured valley", "seed": int(rng), "data": data.name,
               "fpsolve_version": fpsolve.__version__},
    )  # fmt: skip


def closed_loop(
    valley: MeasuredValley,
    walked: xr.Dataset,
    *,
    noise: Reading = "measured",
    walkers: int = 2000,
    confidence: float = 0.95,
    rng: int = 0,
) -> xr.Dataset:
    """Predictions of theory, density and ensemble beside SGD, as factors SGD / prediction with intervals.

    Sharp: Var y_i = D_i/(λ_i(1 − ηλ_i/2)) in the stationary state at x = 0, or for "local" at the x where
    theory has the walk end (the density is that of continuous time), and the ensemble's variance at the
    same time from the same start. Flat: ẋ = −V' − ½ Σ ⟨y_i²⟩ λ_i', by :func:`theory.adiabatic.eliminate`
    for the two noise models and with ⟨y_i²⟩ = D_i(x)/λ_i(x) for "local", read as Δ ln F̂ over the walk.

    Parameters
    ----------
    valley : MeasuredValley
    walked : Dataset
        From :func:`walk`.
    noise : {"measured", "random_shift", "local"}
        See :meth:`MeasuredValley.process`.
    walkers : int
    confidence : float
    rng : int

    Returns
    -------
    Dataset
        By mode: ``sgd``, ``theory``, ``density``, ``ensemble`` (variances) and ``factor_low``, ``factor``,
        ``factor_high`` of SGD over the ensemble. Scalars: ``displacement_*`` and ``log_flatness_*`` for
        sgd, theory, ensemble, ``_low``/``_high`` of SGD's; ``log_flatness_net`` from Hessians at the end of
        the walk; ``flat_force`` and ``noise_force``, the two parts of the averaged force at x = 0. Intervals
        are bootstraps over replicas.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 11–16; the finite step of S10–S12 added.
    """
    rate, n = valley.run.settings.learning_rate, valley.n_sharp
    steps = valley.run.steps_per_epoch * walked.sizes["epoch"]
    process, drift = valley.process(noise=noise), _flat_drift(valley, noise)
    place = 0.0
    for _ in range(steps):
        place += rate * drift(place)
    end = place if noise == "local" else 0.0
    lam, D = valley.curvatures(end), valley.diffusion(end, noise=noise)
    start = {"x": 0.0} | {f"y{i + 1}": float(-v) for i, v in enumerate(valley.floors(0.0))}
    ensemble = fpsolve.simulate(
        process, walkers=walkers, time=rate * steps, time_step=rate, start=start, rng=rng, threads=1
    )
    y = walked["y"].to_numpy()[-1]
    simulated = np.stack([ensemble[f"y{i + 1}"].to_numpy() for i in range(n)], axis=1)
    sgd, ahead = y.var(0, ddof=1), simulated.var(0, ddof=1)
    generator = np.random.default_rng([rng, 2])
    picks = generator.integers(len(y), size=(1000, len(y)))
    tail = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(y[picks].var(1, ddof=1), tail, axis=0) / ahead
    x, xs = walked["x"].to_numpy()[-1], ensemble["x"].to_numpy()
    force = float(np.polynomial.polynomial.polyder(valley.potential)[0]) / valley.scale
    climb = valley.log_weighted_flatness
    gained, displaced = climb(x) - climb(0.0), np.percentile(x[picks].mean(1), tail)
    change = np.percentile(gained[picks].mean(1), tail)
    origin = valley.profile["curvature"].sel(x=0.0, method="nearest").to_numpy()
    net = _log_weighted_flatness(walked["curvature"].to_numpy(), origin) - _log_weighted_flatness(
        origin, origin
    )
    modes = {
        "sgd": (sgd, "variance of SGD"),
        "theory": (D / (lam * (1 - rate * lam / 2)), "stationary variance, theory"),
        "density": (_density_variances(lam, D), "stationary variance, density"),
        "ensemble": (ahead, "variance at the same time, ensemble"),
        "factor": (sgd / ahead, "SGD over ensemble"),
        "factor_low": (low, "its lower end"),
        "factor_high": (high, "its upper end"),
    }
    numbers = {
        "displacement_sgd": x.mean(), "displacement_low": displaced[0], "displacement_high": displaced[1],
        "displacement_theory": place, "displacement_ensemble": xs.mean(),
        "log_flatness_sgd": gained.mean(), "log_flatness_low": change[0], "log_flatness_high": change[1],
        "log_flatness_theory": float(climb(place) - climb(0.0)),
        "log_flatness_ensemble": (climb(xs) - climb(0.0)).mean(),
        "log_flatness_net": net.mean(), "log_flatness_net_stderr": net.std(ddof=1) / np.sqrt(len(net)),
        "flat_force": -force, "noise_force": drift(0.0) + force,
        "flat_variance_sgd": x.var(ddof=1), "flat_variance_ensemble": xs.var(ddof=1),
    }  # fmt: skip
    return xr.Dataset(
        {k: ("mode", v, _says(text)) for k, (v, text) in modes.items()}
        | {k: ((), float(v), _says(k.replace("_", " "))) for k, v in numbers.items()},
        coords={"mode": np.arange(1, n + 1)},
        attrs={"title": "prediction of the measured valley beside SGD", "noise": noise, "seed": int(rng),
               "walkers": int(walkers), "confidence": confidence, "data": valley.run.data.name,
               "fpsolve_version": fpsolve.__version__},
    )  # fmt: skip


def _flat_drift(valley: MeasuredValley, noise: Reading) -> Callable[[float], float]:
    """ẋ(x) with the sharp variables eliminated."""
    if noise != "local":
        system = valley.langevin(noise=noise)
        reduced = eliminate(system.without_cross_diffusion(), order=1)
        compiled = sp.lambdify(system.landscape.slow, reduced.drift, "numpy")
        return lambda x: float(compiled(x))
    derivative = np.polynomial.polynomial.polyder
    slope, bend = derivative(valley.potential), derivative(valley.curvature.T).T

    def drift(x: float) -> float:
        z = x / valley.scale
        spread = valley.diffusion(x, noise=noise) / valley.curvatures(x)
        force = np.polynomial.polynomial.polyval(z, slope) + 0.5 * spread @ _values(bend, z)
        return -float(force) / valley.scale

    return drift


def _density_variances(lam: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Variances of the stationary Fokker–Planck densities along each sharp direction, x held at 0."""
    y = sp.Symbol("y", real=True)
    found = []
    for curvature, strength in zip(lam, D, strict=True):
        process = theory.Langevin(
            theory.Landscape(float(curvature) * y**2 / 2, (y,)), theory.isotropic(float(strength))
        )
        density = fpsolve.stationary_density(process)
        centres, p = density["y"].to_numpy(), density.to_numpy()
        found.append(float((centres**2 * p).sum() / p.sum()))
    return np.array(found)


def _at(run: Run, w: np.ndarray, inputs, labels, directions: np.ndarray):
    """Loss, gradient along all directions, sharp block of H and covariance of one sample's gradient."""
    net = with_parameters(run.net, (p.detach().clone() for p in run.net.parameters()))
    vector_to_parameters(torch.from_numpy(w).to(inputs.dtype), net.parameters())
    with torch.no_grad():
        loss = float(torch.nn.functional.cross_entropy(net(inputs).double(), labels))
    g = projected_gradients(net, inputs, labels, directions=directions)
    block = _block(hessian_operator(net, inputs, labels), directions[:, :-1])
    return loss, g.mean(0), block, np.cov(g.T, bias=True)


def _block(H, E: np.ndarray) -> np.ndarray:
    return E.T @ np.asarray(H @ E.astype(H.dtype), dtype=float)


def _weights(run: Run) -> np.ndarray:
    return parameters_to_vector(run.net.parameters()).detach().double().cpu().numpy()


def _from_here(run: Run, epochs: int, seeds: Sequence[np.random.SeedSequence]) -> list[Run]:
    """Independent trainings from the weights a run ended with, with its settings."""
    s = run.settings
    return replicas(
        run.net, run.data, learning_rate=s.learning_rate, batch_size=s.batch_size, epochs=epochs,
        rng=list(seeds), sampling=s.sampling, dtype=s.dtype,
    )  # fmt: skip


def _seed(rng: int, kind: int, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(rng, spawn_key=(kind, index))


def _values(coefficients: np.ndarray, z: ArrayLike) -> np.ndarray:
    return np.moveaxis(np.polynomial.polynomial.polyval(np.asarray(z, float), coefficients.T), 0, -1)


def _log_weighted_flatness(lam: np.ndarray, origin: np.ndarray) -> np.ndarray:
    weights = origin**2 / (origin**2).sum()
    return -0.5 * (np.log(lam) * weights).sum(-1)


def _says(text: str) -> dict[str, str]:
    return {"long_name": text, "units": "1"}
