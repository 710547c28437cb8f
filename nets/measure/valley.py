"""A flat valley measured from one trained net: λ_i(x), V(x) and C(x) as a Langevin system of ``theory``.

Sharp directions e_i are the top eigenvectors of the Hessian at w₀ (all weights); the flat one, u, is where
pilot trainings from w₀ go, or downhill, with the sharp ones projected out. Along w₀ + x u curvatures
λ_i(x) = e_iᵀ H e_i, the loss and the gradient noise C(x) are measured and become the landscape
L(x, y) = V(x) + ½ Σ_i λ_i(x) y_i², with y from the valley's floor.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import scipy.sparse.linalg as sparse_linalg
import sympy as sp
import torch
import xarray as xr
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike
from torch.nn.utils import parameters_to_vector

import theory
from fpsolve.progress import shown
from fpsolve.results import dataset, quantity
from fpsolve.sweeps.store import digest, kept
from nets.checks import check_option
from nets.layers import net_digest
from nets.measure.curvature import hessian_operator, top_eigenpairs
from nets.measure.directions import AlongDirections, along_directions
from nets.measure.noise import batch_factor
from nets.measure.subject import Subject, as_subject, numpy
from nets.training.optimizers import Plain
from nets.training.run import Run, check_trained
from nets.training.train import replicas

Reading = Literal["measured", "random_shift", "local"]
Flat = Literal["pilots", "gradient"]
#: Eigenvectors are sought with about so many rows first, then with all in so many iterations.
ROWS_FIRST, ITERATIONS = 10_000, 4
#: The range measured, in units of the pilots' mean displacement along u.
RANGE = (-0.5, 1.75)


@dataclass(frozen=True, eq=False)
class MeasuredValley:
    """A valley with n sharp variables y_i and one flat x, measured from a net by :func:`measure_valley`.

    The weights of ``run`` are w₀: x = 0. ``profile`` has dims x, mode and direction: ``loss``, ``gradient``
    and ``hessian`` along all directions, ``curvature`` λ_i, ``floor`` −g_i/λ_i, ``rotation`` (the norm of the
    off-diagonal part of the sharp block of H over that of the diagonal), ``covariance`` C of the minibatch
    gradient and ``hessian_covariance``, that of minibatch Hessians (see
    :class:`nets.measure.directions.AlongDirections`); ``directions`` (weight, direction), orthonormal: e_1 …
    e_n, u.
    """

    run: Run
    profile: xr.Dataset

    @property
    def digest(self) -> str:
        """The sha256 of the run and of the numbers that were measured."""
        names = ("scale", "degree", "epochs")
        said = _identity(self.run) | {name: float(self.profile.attrs[name]) for name in names}
        numbers = (self.profile[name].to_numpy() for name in sorted(map(str, self.profile.variables)))
        return digest(json.dumps(said, sort_keys=True), *numbers)

    @property
    def n_sharp(self) -> int:
        """Number of sharp directions."""
        return self.profile.sizes["mode"]

    @property
    def scale(self) -> float:
        """The pilots' displacement along u."""
        return float(self.profile.attrs["scale"])

    @property
    def learning_rate(self) -> float:
        """η of the run."""
        return self.run.recipe.learning_rate

    @cached_property
    def directions(self) -> np.ndarray:
        """Shape (weights, n + 1)."""
        return self.profile["directions"].to_numpy()

    @cached_property
    def curvature(self) -> np.ndarray:
        """Coefficients of λ_i as polynomials in x/scale, lowest first, shape (n, degree + 1)."""
        return self._fit(self.profile["curvature"])

    @cached_property
    def floor(self) -> np.ndarray:
        """The same for the floor along e_i."""
        return self._fit(self.profile["floor"])

    @cached_property
    def potential(self) -> np.ndarray:
        """The same for V(x), the loss on the floor; one degree more, shape (degree + 2,)."""
        p = self.profile
        return self._fit(p["loss"] - 0.5 * (p["floor"] ** 2 * p["curvature"]).sum("mode"), more=1)

    @cached_property
    def log_noise(self) -> np.ndarray:
        """The same for ln C_ii(x), in the order of ``directions``, shape (n + 1, degree + 1)."""
        return self._fit(np.log(_diagonal(self.profile["covariance"].to_numpy())))

    def _fit(self, values: ArrayLike, more: int = 0) -> np.ndarray:
        z = self.profile["x"].to_numpy() / self.scale
        return polynomial.polyfit(z, np.asarray(values), int(self.profile.attrs["degree"]) + more).T

    def _values(self, coefficients: np.ndarray, x: ArrayLike) -> np.ndarray:
        """The polynomials (n, degree + 1) at x, shape (..., n)."""
        return np.moveaxis(polynomial.polyval(np.asarray(x, float) / self.scale, coefficients.T), 0, -1)

    def curvatures(self, x: ArrayLike) -> np.ndarray:
        """λ_i(x) of the fit, shape (..., n)."""
        return self._values(self.curvature, x)

    def floors(self, x: ArrayLike) -> np.ndarray:
        """Where the floor lies along e_i, shape (..., n)."""
        return self._values(self.floor, x)

    def noise(self, x: ArrayLike) -> np.ndarray:
        """C_ii(x) of the fit, in the order of ``directions``, shape (..., n + 1)."""
        return np.exp(self._values(self.log_noise, x))

    def log_weighted_flatness(self, x: ArrayLike) -> np.ndarray:
        """ln F̂ = −½ Σ γ_i ln λ_i(x), γ_i = λ_i(0)²/Σλ² (PRL 16), shape (...)."""
        return log_weighted_flatness(self.curvatures(x), self.curvatures(0.0))

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
        loss = self._symbols(self.potential, x)
        for row, yi in zip(self.curvature, y, strict=True):
            loss += self._symbols(row, x) * yi**2 / 2
        return theory.Landscape(loss, (x, *y), fast=tuple(y), name="valley measured from a net")

    def _symbols(self, row: np.ndarray, x: sp.Symbol) -> sp.Expr:
        """One fitted polynomial in symbols."""
        return sum((float(c) * (x / self.scale) ** k for k, c in enumerate(row)), sp.Integer(0))

    def langevin(self, *, noise: Literal["measured", "random_shift"] = "measured") -> theory.Langevin:
        """dθ = −∇L dt + √(2D) dW with the measured noise.

        "measured": D = ηC/2 with C of x = 0. "random_shift": D = ησH² with σ fitted (:attr:`shift_strength`),
        also for the flat direction. Another reading is a ValueError.
        """
        rate, n = self.learning_rate, self.n_sharp
        if noise == "random_shift":
            shift = theory.random_shift(learning_rate=rate, sigma=self.shift_strength)
            return theory.Langevin(self.landscape(), shift)
        check_option("noise", noise, ("measured", "random_shift"))
        order = [n, *range(n)]
        C = self.covariance[np.ix_(order, order)]
        return theory.Langevin(self.landscape(), theory.measured((C + C.T) / 2, learning_rate=rate))

    def process(self, *, noise: Reading) -> theory.Langevin | theory.Diffusion:
        """:meth:`langevin`; or for "local" its drift with D_ii(x) = ηC_ii(x)/2 measured along x, and no D_ij.

        The noise of a net that still learns fades along x; :meth:`langevin` keeps that of x = 0.
        """
        if noise != "local":
            return self.langevin(noise=noise)
        system = self.langevin()
        x = system.variables[0]
        *sharp, flat = [self.learning_rate / 2 * sp.exp(self._symbols(row, x)) for row in self.log_noise]
        D = sp.diag(flat, *sharp)
        return theory.Diffusion(system.drift, D, system.variables, name="valley measured from a net")

    def diffusion(self, x: ArrayLike = 0.0, *, noise: Reading) -> np.ndarray:
        """D_ii(x) along the sharp directions, shape (..., n)."""
        check_option("noise", noise, get_args(Reading))
        if noise == "random_shift":
            return self.learning_rate * self.shift_strength * self.curvatures(x) ** 2
        half = self.learning_rate / 2
        if noise == "local":
            return half * self.noise(x)[..., :-1]
        return half * np.diag(self.covariance)[:-1] * np.ones((*np.shape(x), 1))


def measure_valley(
    run: Run,
    *,
    n_sharp: int = 4,
    epochs: int = 10,
    pilots: int = 8,
    points: int = 10,
    degree: int = 2,
    flat: Flat = "pilots",
    tolerance: float = 1e-5,
    rng: int = 0,
    samples: int | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> MeasuredValley:
    """λ_i(x), V(x) and C(x) along a flat direction of a trained net.

    A ValueError is raised if the run is not plain SGD, numbers make no sense, a λ_i is not positive over the
    range, or the store holds another valley.

    Parameters
    ----------
    run : Run
        Of plain SGD, with or without replacement; C is that of its own sampling.
    n_sharp : int
        Top eigendirections of the Hessian of all weights.
    epochs, pilots, rng : int
        Pilot trainings from w₀; their mean displacement sets the range of x. Their seeds, from ``rng``, are
        of kind 0 in :func:`walk_seed`, those of walks of kind 1.
    points : int
        Values of x; 0 is one of them.
    degree : int
        Of λ_i(x); V(x) has one more.
    flat : {"pilots", "gradient"}
        u: where the pilots went, or minus the gradient at w₀, sharp directions projected out of either.
        Along the first V(x) is measured where SGD will pass, along the second it is not.
    tolerance : float
        Of the eigenvectors, relative to each eigenvalue; what is left shows in ``rotation``.
    samples : int, optional
        Rows of the training data for V, Hessians and noise; default all. With fewer, V(x) is the loss of
        those rows and not the one that SGD descends, which the predicted drift inherits.
    store : path, optional
        ``….nc``: kept there, and read from there if it is there already.

    Returns
    -------
    MeasuredValley
        ``profile.attrs`` state ``curvature_fit_error`` (largest |fit − measured|/measured of any λ_i over
        the range), ``noise_fit_error`` (of any C_ii) and ``explained``, the share of the pilots'
        squared mean displacement along u.
    """
    if not isinstance(run, Run):
        raise TypeError(
            "a valley is measured from a Run, which pilot trainings continue; a Subject knows none"
        )
    check_trained(run)
    if run.recipe.optimizer != Plain():
        raise ValueError(f"optimizer={run.recipe.optimizer.name!r}: a valley is measured for plain 'sgd'")
    if min(n_sharp, epochs, pilots, degree) < 1 or points < degree + 3:
        raise ValueError(f"n_sharp, epochs, pilots, degree must be positive and points at least {degree + 3}")
    if samples is not None and not 1 < samples <= run.data.samples:
        raise ValueError(f"samples={samples} must lie between 2 and the {run.data.samples} training rows")
    check_option("flat", flat, get_args(Flat))
    asked = _identity(run) | {
        "n_sharp": n_sharp, "epochs": epochs, "pilots": pilots, "points": points, "degree": degree,
        "flat": flat, "tolerance": tolerance, "rng": rng, "samples": samples or run.data.samples,
    }  # fmt: skip
    profile = kept(store, lambda: _profile(run, asked, progress), asked=asked)
    valley = MeasuredValley(run, profile)
    lam = profile["curvature"].to_numpy()
    if lam.min() <= 0:
        raise ValueError(
            f"a curvature falls to {lam.min():.2g} over the range: ask for fewer than {n_sharp} directions"
        )
    x, C = profile["x"].to_numpy(), _diagonal(profile["covariance"].to_numpy())
    profile.attrs["curvature_fit_error"] = float(np.abs(valley.curvatures(x) / lam - 1).max())
    profile.attrs["noise_fit_error"] = float(np.abs(valley.noise(x) / C - 1).max())
    return valley


def _directions(
    run: Run, asked: dict, inputs: torch.Tensor, labels: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The orthonormal e_1 … e_n, u as columns (N, n + 1), and the pilots' mean displacement (N,)."""
    rng, w0 = asked["rng"], weights_at(run)
    E = _sharp_directions(run, asked)
    inside = at_weights(run, w0, inputs, labels, E).hessian
    E = E @ np.linalg.eigh(inside)[1][:, ::-1]
    later = from_here(run, asked["epochs"], [walk_seed(rng, 0, i) for i in range(asked["pilots"])])
    moved = np.mean([weights_at(r) - w0 for r in later], axis=0)
    towards = moved
    if asked["flat"] == "gradient":
        towards = -numpy(Subject(run.net, inputs, labels).to(torch.float64).gradient())
    towards = towards - E @ (E.T @ towards)
    u = towards / max(float(np.linalg.norm(towards)), 1e-300)
    if not moved @ u > 0:
        raise ValueError(
            "the pilots did not move that way: train with a larger learning rate or for more epochs"
        )
    return np.column_stack([E, u]), moved


def _profile(run: Run, asked: dict, progress: bool) -> xr.Dataset:
    """Everything measured: directions first, then the points along the flat one."""
    n, s = asked["n_sharp"], run.recipe
    rows = slice(asked["samples"])
    inputs, labels = run.data.train_inputs[rows].double(), run.data.train_labels[rows]
    directions, moved = _directions(run, asked, inputs, labels)
    u, w0 = directions[:, -1], weights_at(run)
    scale = float(moved @ u)
    x = np.linspace(*RANGE, asked["points"])
    x[np.abs(x).argmin()] = 0.0
    there = [
        at_weights(run, w0 + t * scale * u, inputs, labels, directions)
        for t in shown(list(x), unit="point", progress=progress)
    ]
    factor = noise_factor(run)
    H = np.array([a.hessian for a in there])
    g = np.array([a.gradient for a in there])
    block = H[:, :n, :n]
    lam = _diagonal(block)
    off = np.linalg.norm(block * (1 - np.eye(n)), axis=(1, 2)) / np.linalg.norm(lam, axis=1)
    both, three = ("direction", "direction_2"), ("mode", "mode_2", "mode_3")
    C = np.array([a.covariance for a in there]) * factor
    C_H = np.array([a.hessian_covariance for a in there])[:, :n, :n, :n] * factor
    return dataset(
        {
            "loss": quantity([a.loss for a in there], "x", "loss"),
            "gradient": quantity(g, ("x", "direction"), "gradient of the loss"),
            "hessian": quantity(H, ("x", *both), "Hessian of the loss"),
            "curvature": quantity(lam, ("x", "mode"), "curvature λ_i"),
            "floor": quantity(-g[:, :n] / lam, ("x", "mode"), "floor of the valley along e_i"),
            "rotation": quantity(off, "x", "off-diagonal over diagonal of the sharp block of H"),
            "covariance": quantity(C, ("x", *both), "gradient-noise covariance C"),
            "hessian_covariance": quantity(C_H, ("x", *three), "covariance of minibatch Hessians"),
            "directions": quantity(directions, ("weight", "direction"), "e_1 … e_n, u"),
        },
        title="valley measured along a flat direction",
        coords={"x": quantity(x * scale, "x", "distance along the flat direction")},
        scale=scale, explained=scale**2 / float(moved @ moved), data=run.data.name, flat=asked["flat"],
        learning_rate=s.learning_rate, batch_size=run.batch_size, loss_at_start=run.loss,
        epochs=int(asked["epochs"]), degree=int(asked["degree"]), seed=int(asked["rng"]),
        samples=int(asked["samples"]),
    )  # fmt: skip


def _sharp_directions(run: Run, asked: dict) -> np.ndarray:
    """Top eigenvectors of the Hessian, in the precision of training, orthonormal in float64, (weights, n).

    Of many rows a part comes first, whose eigenvectors are where the iteration with all rows begins: five
    or ten products with the whole Hessian a direction instead of dozens.
    """
    whole = as_subject(run).rows(slice(asked["samples"]))
    part = slice(None, None, max(1, whole.samples // ROWS_FIRST))
    options = {"count": asked["n_sharp"], "tolerance": asked["tolerance"], "rng": asked["rng"]}
    first = top_eigenpairs(whole.rows(part), **options)
    E = first["eigenvector"].to_numpy()
    if part.step > 1:
        H = hessian_operator(whole)
        limit = asked["tolerance"] * float(first["eigenvalue"][-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it does not reach shows in ``rotation`` and ``residual``
            E = sparse_linalg.lobpcg(H, E, largest=True, tol=limit, maxiter=ITERATIONS)[1]
    return np.linalg.qr(E.astype(float))[0]


def at_weights(
    run: Run, w: np.ndarray, inputs: torch.Tensor, labels: torch.Tensor, directions: np.ndarray,
    *, second: bool = True,
) -> AlongDirections:  # fmt: skip
    """The loss along directions from any weights, in float64; of single samples, see :func:`noise_factor`."""
    subject = Subject(run.net, inputs, labels).to(torch.float64).at(w)
    return along_directions(subject, directions=directions, second=second)


def noise_factor(run: Run) -> float:
    """Variance of a minibatch mean over that of one sample, for the run's own sampling."""
    replacement = run.recipe.sampling == "with_replacement"
    return batch_factor(run.data.samples, batch_size=run.batch_size, replacement=replacement)


def weights_at(run: Run) -> np.ndarray:
    """All weights of a run, float64, shape (N,)."""
    return numpy(parameters_to_vector(run.net.parameters()).double())


def from_here(run: Run, epochs: int, seeds: Sequence[np.random.SeedSequence], **options) -> list[Run]:
    """Independent trainings from the weights a run ended with, with its settings."""
    later = replicas(
        run.net, run.data, run.recipe, epochs=epochs, stop_at_loss=None, threads=1, rng=list(seeds), **options
    )
    for r in later:
        check_trained(r)
    return later


def walk_seed(rng: int, kind: int, index: int) -> np.random.SeedSequence:
    """Seeds of pilots (kind 0) and of walks (kind 1), which never meet."""
    return np.random.SeedSequence(rng, spawn_key=(kind, index))


def _identity(run: Run) -> dict[str, str]:
    """What a result measured from a run depends on, of the run."""
    settings = json.dumps(run.recipe.recorded)
    return {"weights": net_digest(run.net), "data": run.data.digest, "settings": settings}


def _diagonal(matrices: np.ndarray) -> np.ndarray:
    """Diagonals of matrices (points, n, n), shape (points, n)."""
    return np.diagonal(matrices, axis1=1, axis2=2)


def log_weighted_flatness(lam: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """ln F̂ = −½ Σ γ_i ln λ_i with γ_i from the curvatures at the origin, shape (...)."""
    weights = origin**2 / (origin**2).sum()
    return -0.5 * (np.log(lam) * weights).sum(-1)
