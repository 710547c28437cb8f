"""Curvature of the loss: Hessian, Fisher matrices, top eigenpairs and spectral density.

The Hessian of the mean cross-entropy is H = F + R. F = (1/M) Σ_s J_sᵀ(diag p_s − p_s p_sᵀ)J_s is the true
Fisher matrix, which is the Gauss–Newton matrix too; R = (1/M) Σ_s Σ_c (p_sc − [c = label]) ∇∇logit_c.
Where logits are piecewise linear in the weights, R = 0 almost everywhere: so in a net of ReLU layers the
Hessian *of one layer* is its true Fisher matrix, and Tr H = Tr F for all layers together. The empirical
Fisher matrix has the data's labels in place of the net's: it is C·B plus the outer product of the gradient.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse.linalg as sparse_linalg
import torch
import xarray as xr
from torch import nn

from nets.measure.layer_loss import MEMORY, LayerLoss
from nets.measure.moments import check_dense, gradient_moments, logit_moment
from nets.measure.noise import Rng, attributes

Method = Literal["auto", "products", "gauss-newton"]


def hessian(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    method: Method = "auto",
    columns: int = 64,
    memory: int = MEMORY,
) -> xr.DataArray:
    """The Hessian H = ∇∇L of the mean loss, dense.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
        By this layer's weights; default by all.
    method : {"auto", "products", "gauss-newton"}
        "products": N Hessian–vector products. "gauss-newton": the true Fisher matrix, which is H for one
        layer of a piecewise linear net and refused otherwise. "auto" takes it where it holds.
    columns : int
        Products taken at once.
    memory : int
        Bytes of gradients held at once.

    Returns
    -------
    DataArray, dims ("weight", "weight_2"), float64, symmetric
        ``attrs["method"]`` says which; with products ``attrs["asymmetry"]`` is max|H − Hᵀ| / max|H|
        before it was symmetrised, a measure of rounding.

    Raises
    ------
    ValueError
        If the method does not apply, or there are too many weights.
    """
    if method not in ("auto", "products", "gauss-newton"):
        raise ValueError(f"method={method!r} must be 'auto', 'products' or 'gauss-newton'")
    loss = LayerLoss.of(net, inputs, labels, layer)
    check_dense(loss)
    if method == "gauss-newton" and not loss.piecewise_linear:
        raise ValueError(
            "the Gauss–Newton matrix is the Hessian for one layer of a ReLU net only; use 'products'"
        )
    attrs = attributes("Hessian", net, loss)
    if method != "products" and loss.piecewise_linear:
        matrix = logit_moment(loss, memory=memory)
        return _matrix(matrix, "Hessian", attrs | {"method": "gauss-newton"})
    operator = _operator(loss)
    matrix = np.empty((loss.size, loss.size))
    for start in range(0, loss.size, columns):
        some = np.eye(loss.size, min(columns, loss.size - start), -start, dtype=operator.dtype)
        matrix[:, start : start + some.shape[1]] = operator @ some
    asymmetry = float(np.abs(matrix - matrix.T).max() / max(np.abs(matrix).max(), 1e-300))
    return _matrix((matrix + matrix.T) / 2, "Hessian", attrs | {"method": "products", "asymmetry": asymmetry})


def fisher(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    kind: Literal["true", "empirical"],
    layer: int | None = None,
    memory: int = MEMORY,
) -> xr.DataArray:
    """Second moment of the samples' gradients, with labels from the net ("true") or the data ("empirical").

    true: (1/M) Σ_s Σ_c p_sc g_sc g_scᵀ, g_sc the gradient were c the label; empirical: (1/M) Σ_s g_s g_sᵀ.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    kind : {"true", "empirical"}
        There is no default: the two differ by a factor of a hundred once the training error is zero.
    layer : int, optional
    memory : int

    Returns
    -------
    DataArray, dims ("weight", "weight_2"), float64
        ``attrs["kind"]`` says which.

    Raises
    ------
    ValueError
        If the kind is unknown, or there are too many weights.

    References
    ----------
    Kunstner, Balles, Hennig, NeurIPS 2019, on what the empirical one is not. ICLR Eq. 6 takes it for H.
    """
    if kind not in ("true", "empirical"):
        raise ValueError(f"kind={kind!r} must be 'true' or 'empirical'")
    loss = LayerLoss.of(net, inputs, labels, layer)
    matrix = logit_moment(loss, memory=memory) if kind == "true" else gradient_moments(loss, memory=memory)[0]
    return _matrix(
        matrix, f"{kind} Fisher matrix", attributes(f"{kind} Fisher matrix", net, loss) | {"kind": kind}
    )


def hessian_operator(
    net: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor, *, layer: int | None = None
) -> sparse_linalg.LinearOperator:
    """The Hessian as an operator: products H v, for any number of weights.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional

    Returns
    -------
    scipy LinearOperator, shape (N, N), in the precision of the net
        Products by ``curvlinops``, forward over reverse mode.

    Raises
    ------
    ValueError
        If inputs and labels do not match, or the layer does not exist.
    """
    return _operator(LayerLoss.of(net, inputs, labels, layer))


def top_eigenpairs(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    count: int = 10,
    layer: int | None = None,
    tolerance: float = 1e-3,
    rng: Rng = None,
) -> xr.Dataset:
    """The largest eigenvalues of the Hessian and their directions, H v = λ v.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    count : int
        How many; algebraically largest.
    layer : int, optional
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

    Raises
    ------
    ValueError
        If ``count`` is not between 1 and N − 1.
    ArpackNoConvergence
        If ARPACK gives up.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    if not 1 <= count < loss.size:
        raise ValueError(f"count={count} must lie between 1 and {loss.size - 1}, one less than the weights")
    H = _operator(loss)
    done = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal done
        done += 1
        return H @ v.ravel()

    counted = sparse_linalg.LinearOperator(H.shape, matvec=product, dtype=H.dtype)
    start = np.random.default_rng(rng).normal(size=loss.size).astype(H.dtype)
    room = min(loss.size, max(5 * count // 2, 20))
    values, vectors = sparse_linalg.eigsh(counted, k=count, which="LA", tol=tolerance, v0=start, ncv=room)
    order = np.argsort(values)[::-1]
    values, vectors = values[order].astype(float), vectors[:, order]
    residual = np.linalg.norm(H @ vectors - vectors * values, axis=0)
    result = xr.Dataset(
        {
            "eigenvalue": ("mode", values, {"long_name": "eigenvalue of the Hessian", "units": "1"}),
            "eigenvector": (("weight", "mode"), vectors, {"long_name": "direction", "units": "1"}),
            "residual": ("mode", residual.astype(float), {"long_name": "‖Hv − λv‖", "units": "1"}),
        },
        coords={"mode": np.arange(1, count + 1)},
    )
    result.attrs = attributes("top eigenpairs of the Hessian", net, loss) | {"products": done}
    return result


def spectral_density(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    nodes: int = 64,
    repeats: int = 3,
    points: int = 512,
    scale: Literal["linear", "log"] = "linear",
    rng: Rng = None,
) -> xr.DataArray:
    """Density of the Hessian's eigenvalues, p(λ) = (1/N) Σ_i δ(λ − λ_i) with each δ a narrow Gaussian.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
    nodes : int
        Lanczos vectors of one quadrature, each one product with H.
    repeats : int
        Quadratures, from different random vectors, to average.
    points : int
        Of the grid.
    scale : {"linear", "log"}
        Density of λ; or of |λ|, per unit of |λ| too, with Gaussians and a grid in ln(|λ| + 10⁻⁵).
    rng : int, SeedSequence or Generator, optional
        Torch's own generator is left as it was.

    Returns
    -------
    DataArray, dims ("eigenvalue",)
        With its grid; ``attrs`` hold nodes and repeats.

    Raises
    ------
    ValueError
        If ``scale`` is unknown.

    References
    ----------
    Papyan, J. Mach. Learn. Res. 21, 252 (2020), algorithm 2, as in ``curvlinops``.
    """
    if scale not in ("linear", "log"):
        raise ValueError(f"scale={scale!r} must be 'linear' or 'log'")
    import curvlinops

    estimate = (
        curvlinops.lanczos_approximate_spectrum
        if scale == "linear"
        else curvlinops.lanczos_approximate_log_spectrum
    )
    loss = LayerLoss.of(net, inputs, labels, layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng(rng).integers(2**62)))
        # The library's own search for the ends would start from numpy's global generator: give them.
        grid, density = estimate(
            _curvlinops(loss), min(nodes, loss.size), points, repeats, boundaries=_ends(loss, scale, rng)
        )
    result = xr.DataArray(
        density.double().numpy(),
        dims=("eigenvalue",),
        coords={
            "eigenvalue": ("eigenvalue", grid.double().numpy(), {"long_name": "eigenvalue", "units": "1"})
        },
        name="spectral_density",
    )
    word = "λ" if scale == "linear" else "|λ|"
    result.attrs = attributes("spectral density of the Hessian", net, loss) | {
        "long_name": f"density of {word}", "units": "1", "scale": scale, "nodes": nodes, "repeats": repeats,
    }  # fmt: skip
    return result


def _ends(loss: LayerLoss, scale: str, rng: Rng) -> tuple[float, float]:
    """Smallest and largest eigenvalue to a per cent; for the logarithm 0 and the largest size."""
    H = _operator(loss)
    start = np.random.default_rng(rng).normal(size=loss.size).astype(H.dtype)
    low, high = np.sort(
        sparse_linalg.eigsh(H, k=2, which="BE", tol=1e-2, v0=start, return_eigenvectors=False)
    )
    return (float(low), float(high)) if scale == "linear" else (0.0, float(max(abs(low), abs(high))))


def _curvlinops(loss: LayerLoss):
    """The library's operator on blocks of data."""
    import curvlinops

    data = list(loss.split(10_000))
    mean = nn.CrossEntropyLoss(reduction="mean")
    return curvlinops.HessianLinearOperator(
        loss.net, mean, list(loss.parameters), data, check_deterministic=False
    )


def _operator(loss: LayerLoss) -> sparse_linalg.LinearOperator:
    """The same for scipy, in the precision of the weights."""
    kind = np.dtype(str(loss.parameters[0].dtype).removeprefix("torch."))
    return _curvlinops(loss).to_scipy(dtype=kind)


def _matrix(values: np.ndarray, name: str, attrs: dict) -> xr.DataArray:
    labels = {"long_name": name, "units": "1"}
    return xr.DataArray(
        values, dims=("weight", "weight_2"), name=name.replace(" ", "_"), attrs=attrs | labels
    )
