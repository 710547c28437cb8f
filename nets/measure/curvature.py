"""Curvature of the loss: Hessian, Fisher matrices, top eigenpairs and spectral density, by Lanczos.

The Hessian of the mean cross-entropy is H = F + R. F = (1/M) Σ_s J_sᵀ(diag p_s − p_s p_sᵀ)J_s is the true
Fisher matrix, which is the Gauss–Newton matrix too; R = (1/M) Σ_s Σ_c (p_sc − [c = label]) ∇∇logit_c.
Where logits are piecewise linear in the weights, R = 0 almost everywhere: so in a net of ReLU layers the
Hessian *of one layer* is its true Fisher matrix, and Tr H = Tr F for all layers together. The empirical
Fisher matrix has the data's labels in place of the net's: it is C·B plus the outer product of the gradient.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import scipy.sparse.linalg as sparse_linalg
import torch
import xarray as xr
from scipy import linalg

from fpsolve.results import quantity
from fpsolve.symbols.counter_rng import Rng
from nets.checks import check_option, check_whole
from nets.measure.fast import MEMORY
from nets.measure.moments import check_dense, gradient_moments, logit_moment
from nets.measure.subject import Subject, as_subject, numpy
from nets.training.run import Run

Method = Literal["auto", "products", "gauss-newton"]
Labels = Literal["true", "empirical"]


def hessian(
    measured: Subject | Run,
    *,
    layer: int | None = None,
    method: Method = "auto",
    columns: int = 64,
    memory: int = MEMORY,
) -> xr.DataArray:
    """The Hessian H = ∇∇L of the mean loss, dense.

    A ValueError is raised if the method does not apply, or there are too many weights.

    Parameters
    ----------
    measured, layer
        A Subject, or a run by all weights or those of one layer (:func:`nets.measure.subject.as_subject`).
    method : {"auto", "products", "gauss-newton"}
        "products": N Hessian–vector products. "gauss-newton": the true Fisher matrix, which is H for one
        layer of a piecewise linear net and refused otherwise. "auto" takes it where it holds.
    columns, memory : int
        Products taken at once, and bytes of gradients held at once.

    Returns
    -------
    DataArray, dims ("weight", "weight_2"), float64, symmetric
        ``attrs["method"]`` says which; with products ``attrs["asymmetry"]`` is max|H − Hᵀ| / max|H|
        before it was symmetrised, a measure of rounding.
    """
    check_option("method", method, get_args(Method))
    check_whole("columns", columns)
    subject = as_subject(measured, layer=layer)
    check_dense(subject)
    if method != "products" and subject.piecewise_linear:
        matrix = logit_moment(subject, memory=memory)
        return _matrix(subject, matrix, "Hessian", method="gauss-newton")
    if method == "gauss-newton":
        raise ValueError(
            "the Gauss–Newton matrix is the Hessian for one layer of a ReLU net only; use 'products'"
        )
    H = hessian_operator(subject)
    matrix = np.empty((subject.size, subject.size))
    for start in range(0, subject.size, columns):
        some = np.eye(subject.size, min(columns, subject.size - start), -start, dtype=H.dtype)
        matrix[:, start : start + some.shape[1]] = H @ some
    asymmetry = float(np.abs(matrix - matrix.T).max() / max(np.abs(matrix).max(), 1e-300))
    return _matrix(subject, (matrix + matrix.T) / 2, "Hessian", method="products", asymmetry=asymmetry)


def fisher(
    measured: Subject | Run, *, kind: Labels, layer: int | None = None, memory: int = MEMORY
) -> xr.DataArray:
    """Second moment of the samples' gradients, with labels from the net ("true") or the data ("empirical").

    true: (1/M) Σ_s Σ_c p_sc g_sc g_scᵀ, g_sc the gradient were c the label; empirical: (1/M) Σ_s g_s g_sᵀ. A
    ValueError is raised if the kind is unknown, the loss is not the cross-entropy of labels, or there are too
    many weights. Source: Kunstner, Balles, Hennig, NeurIPS 2019, on what the empirical one is not. ICLR Eq. 6
    takes it for H.

    Parameters
    ----------
    measured, layer, memory
        As in :func:`hessian`.
    kind : {"true", "empirical"}
        There is no default: the two differ by a factor of a hundred once the training error is zero.

    Returns
    -------
    DataArray, dims ("weight", "weight_2"), float64
        ``attrs["kind"]`` says which.
    """
    if kind not in get_args(Labels):
        raise ValueError(f"kind={kind!r} must be 'true' or 'empirical'")
    subject = as_subject(measured, layer=layer)
    subject.labels(f"the {kind} Fisher matrix")
    true = kind == "true"
    matrix = logit_moment(subject, memory=memory) if true else gradient_moments(subject, memory=memory)[0]
    return _matrix(subject, matrix, f"{kind} Fisher matrix", kind=kind)


def hessian_operator(measured: Subject | Run, *, layer: int | None = None) -> sparse_linalg.LinearOperator:
    """The Hessian as an operator for scipy, (N, N), in the precision of the model, for any number of weights.

    Products are those of :meth:`nets.measure.subject.Subject.hessian_product`.
    """
    subject = as_subject(measured, layer=layer)
    every = dict.fromkeys(
        ("matvec", "rmatvec", "matmat", "rmatmat"), lambda v: numpy(subject.hessian_product(v))
    )
    return sparse_linalg.LinearOperator((subject.size,) * 2, dtype=numpy(subject.vector).dtype, **every)


def top_eigenpairs(
    measured: Subject | Run,
    count: int = 10,
    *,
    layer: int | None = None,
    tolerance: float = 1e-3,
    rng: Rng = None,
) -> xr.Dataset:
    """The largest eigenvalues of the Hessian and their directions, H v = λ v, by Lanczos.

    A ValueError is raised if ``count`` is not between 1 and N − 1, ``tolerance`` is negative, or products
    with H are not finite; a RuntimeError if Lanczos does not converge. Where H = 0, eigenvalues are 0.

    Parameters
    ----------
    measured, layer
        A Subject, or a run by all weights or those of one layer (:func:`nets.measure.subject.as_subject`).
    count : int
        How many; algebraically largest.
    tolerance : float
        Of ARPACK, relative to each eigenvalue. The error of an eigenvalue goes with its square: 10⁻³ left
        errors below 4·10⁻⁶ on MNIST, the rounding of float32.
    rng : int, SeedSequence or Generator, optional
        Of the starting vector.

    Returns
    -------
    Dataset
        ``eigenvalue`` (mode), descending; ``eigenvector`` (weight, mode), normalised; ``residual`` (mode),
        ‖Hv − λv‖, within which an exact eigenvalue lies. ``attrs["products"]`` counts products with H.
    """
    subject = as_subject(measured, layer=layer)
    check_whole("count", count, subject.size - 1, "one less than the weights")
    if not (isinstance(tolerance, int | float | np.number) and math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance={tolerance!r} must be a finite number, not negative")
    H = hessian_operator(subject)
    done = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal done
        done += 1
        return H @ v.ravel()

    counted = sparse_linalg.LinearOperator(H.shape, matvec=product, dtype=H.dtype)
    start = np.random.default_rng(rng).normal(size=subject.size).astype(H.dtype)
    room = min(subject.size, max(5 * count // 2, 20))
    values, vectors = lanczos(counted, count, start, tol=tolerance, ncv=room)
    values, vectors = values[::-1].astype(float), vectors[:, ::-1]
    residual = np.linalg.norm(H @ vectors - vectors * values, axis=0)
    return xr.Dataset(
        {
            "eigenvalue": quantity(values, "mode", "eigenvalue of the Hessian"),
            "eigenvector": quantity(vectors, ("weight", "mode"), "direction"),
            "residual": quantity(residual.astype(float), "mode", "‖Hv − λv‖"),
        },
        coords={"mode": np.arange(1, count + 1)},
        attrs=subject.attributes("top eigenpairs of the Hessian", products=done),
    )


def leading_eigenpairs(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix, ascending, and their vectors as columns.

    By Lanczos from a fixed start where that is faster than a dense solution.
    """
    N = len(matrix)
    if N < 500 or 5 * count > N:
        return linalg.eigh(matrix, subset_by_index=(N - count, N - 1))
    return lanczos(matrix, count, np.random.default_rng(0).normal(size=N), ncv=5 * count)


def lanczos(matrix, count: int, start: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """The algebraically largest eigenvalues, ascending, and their vectors as columns, by ARPACK.

    Any vectors and zeros where the matrix takes ``start`` to zero, as it takes every vector then.
    """
    first = matrix @ start
    if not np.isfinite(first).all():
        raise ValueError("products with the matrix are not finite: the loss overflows at these weights")
    if not first.any():
        some = np.random.default_rng(0).normal(size=(len(start), count)).astype(start.dtype)
        return np.zeros(count, start.dtype), np.linalg.qr(some)[0]
    try:
        values, vectors = sparse_linalg.eigsh(matrix, k=count, which="LA", v0=start, **options)
    except sparse_linalg.ArpackError as error:
        said = str(error).splitlines()[0]
        raise RuntimeError(f"Lanczos found no {count} eigenpairs ({said}); try a larger tolerance") from error
    order = np.argsort(values)
    return values[order], vectors[:, order]


def spectral_density(
    measured: Subject | Run,
    *,
    layer: int | None = None,
    nodes: int = 64,
    repeats: int = 3,
    points: int = 512,
    scale: Literal["linear", "log"] = "linear",
    rng: Rng = None,
) -> xr.DataArray:
    """Density of the Hessian's eigenvalues, p(λ) = (1/N) Σ_i δ(λ − λ_i) with each δ a narrow Gaussian.

    A ValueError is raised if ``scale`` is unknown, or nodes, repeats or points are too few or no whole
    numbers. Source: Papyan, J. Mach. Learn. Res. 21, 252 (2020), algorithm 2, as in ``curvlinops``.

    Parameters
    ----------
    measured, layer
        A Subject, or a run by all weights or those of one layer (:func:`nets.measure.subject.as_subject`).
    nodes, repeats, points : int
        Lanczos vectors of one quadrature, each one product with H; quadratures, from different random
        vectors, to average; points of the grid.
    scale : {"linear", "log"}
        Density of λ; or of |λ|, per unit of |λ| too, with Gaussians and a grid in ln(|λ| + 10⁻⁵).
    rng : int, SeedSequence or Generator, optional
        Torch's own generator is left as it was.

    Returns
    -------
    DataArray, dims ("eigenvalue",)
        With its grid; ``attrs`` hold nodes and repeats.
    """
    check_option("scale", scale, ("linear", "log"))
    for name, value, least in (("nodes", nodes, 2), ("repeats", repeats, 1), ("points", points, 2)):
        check_whole(name, value, least=least)
    import curvlinops

    estimate, name = {
        "linear": (curvlinops.lanczos_approximate_spectrum, "density of λ"),
        "log": (curvlinops.lanczos_approximate_log_spectrum, "density of |λ|"),
    }[scale]
    subject = as_subject(measured, layer=layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng(rng).integers(2**62)))
        # The library's own search for the ends would start from numpy's global generator: give them.
        ends, nodes_taken = _ends(subject, scale, rng), min(nodes, subject.size)
        grid, density = estimate(_Operator(subject), nodes_taken, points, repeats, boundaries=ends)
    attrs = subject.attributes("spectral density of the Hessian", scale=scale, nodes=nodes, repeats=repeats)
    return xr.DataArray(
        quantity(numpy(density.double()), "eigenvalue", name),
        coords={"eigenvalue": quantity(numpy(grid.double()), "eigenvalue", "eigenvalue")},
        name="spectral_density",
    ).assign_attrs(attrs)


class _Operator:
    """The Hessian in the form in which ``curvlinops`` multiplies: ``H @ v`` of tensors."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.shape = subject, (subject.size, subject.size)
        self.dtype, self.device = subject.dtype, subject.device

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        return self.subject.hessian_product(v)

    def to_scipy(self) -> sparse_linalg.LinearOperator:
        return hessian_operator(self.subject)


def _ends(subject: Subject, scale: str, rng: Rng) -> tuple[float, float]:
    """Smallest and largest eigenvalue to a per cent; for the logarithm 0 and the largest size."""
    H = hessian_operator(subject)
    start = np.random.default_rng(rng).normal(size=subject.size).astype(H.dtype)
    if not (H @ start).any():
        raise ValueError("the Hessian is zero: its eigenvalues have no density")
    ends = sparse_linalg.eigsh(H, k=2, which="BE", tol=1e-2, v0=start, return_eigenvectors=False)
    return (float(min(ends)), float(max(ends))) if scale == "linear" else (0.0, float(max(abs(ends))))


def _matrix(subject: Subject, values: np.ndarray, name: str, **more: object) -> xr.DataArray:
    """A matrix over pairs of weights, labelled."""
    matrix = xr.DataArray(quantity(values, ("weight", "weight_2"), name), name=name.replace(" ", "_"))
    return matrix.assign_attrs(subject.attributes(name, **more))
