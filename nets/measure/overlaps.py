"""How the noise covariance C and the Hessian H are related: in shape, in slope, and in size.

ICLR Eqs. 6–7 take C = H/B; PRL 7 takes C ∝ H². Shape (correlation), power (log-log slope) and size
(Tr C·B / Tr H) are three statements, and one can hold without the others. See
:mod:`nets.measure.curvature` for why
size is a matter of the labels: for one layer of a ReLU net H is the true Fisher matrix, and C·B is the
empirical one less the mean gradient's square, so C·B = H on average where labels fall as the net's
probabilities say, and not where the net knows them by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse.linalg as sparse_linalg
import torch
import xarray as xr
from scipy import linalg, stats
from torch import nn
from torch.nn import functional

from fpsolve.statistics import student_factor
from nets.measure.curvature import hessian
from nets.measure.layer_loss import MEMORY, LayerLoss
from nets.measure.moments import gradient_moments, logit_moment
from nets.measure.noise import attributes

#: Eigenvalues of H below this share of the largest are left out of log-log slopes: they are rounding.
FLOOR = 1e-5

_NAMES = {
    "pearson_elements": "Pearson's r of all elements",
    "pearson_diagonal": "Pearson's r of the diagonals in H's eigenbasis",
    "log_pearson_diagonal": "Pearson's r of their logarithms",
    "slope_diagonal": "log-log slope of the diagonals in H's eigenbasis",
    "coefficient": "least-squares factor of H, ⟨A, H⟩/⟨H, H⟩",
    "size_ratio": "Tr A / Tr H",
    "overlap": "overlap of the leading subspaces",
    "overlap_by_chance": "overlap of random subspaces",
}


def alignment(matrix: np.ndarray, hessian: np.ndarray, *, top: int = 10, floor: float = FLOOR) -> xr.Dataset:
    """How alike a symmetric matrix A (such as C·B) and the Hessian are.

    Parameters
    ----------
    matrix, hessian : ndarray, shape (N, N)
    top : int
        Dimension k of the leading subspaces. Their overlap is ‖U_kᵀV_k‖²/k, 1 if they are the same and
        k/N on average by chance.
    floor : float
        Directions with H_ii below this share of the largest, or A_ii ≤ 0, are left out of the slope.

    Returns
    -------
    Dataset
        ``pearson_elements`` over all i, j; ``pearson_diagonal``, ``log_pearson_diagonal`` and
        ``slope_diagonal`` (of ln A_ii by ln H_ii, least squares; ``slope_directions`` of them) in H's
        eigenbasis; ``coefficient``; ``size_ratio``; ``overlap``, ``overlap_by_chance``; ``diagonal`` and
        ``eigenvalue`` (mode), descending in H.

    Raises
    ------
    ValueError
        If shapes differ or ``top`` does not fit.

    References
    ----------
    ICLR Figs. 2, 8, 9 (Pearson's r and the coefficient); PRL Fig. 1b (diagonals).
    """
    A, H = np.asarray(matrix, dtype=float), np.asarray(hessian, dtype=float)
    if A.shape != H.shape or A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"matrices of shapes {A.shape} and {H.shape} must be square and alike")
    N = len(A)
    if not 1 <= top <= N:
        raise ValueError(f"top={top} must lie between 1 and {N}")
    return _alignment(A, H, *_eigenbasis(H), top, floor)


def _eigenbasis(H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and eigenvectors as columns."""
    values, U = np.linalg.eigh(H)
    return values[::-1], U[:, ::-1]


def leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix and their vectors, by Lanczos where that is faster.

    Parameters
    ----------
    matrix : ndarray, shape (N, N)
    count : int

    Returns
    -------
    tuple of ndarray
        Values (count,), ascending, and vectors (N, count).
    """
    N = len(matrix)
    if N < 500 or 5 * count > N:
        return linalg.eigh(matrix, subset_by_index=(N - count, N - 1))
    start = np.random.default_rng(0).normal(size=N)
    values, vectors = sparse_linalg.eigsh(matrix, k=count, which="LA", v0=start, ncv=5 * count)
    order = np.argsort(values)
    return values[order], vectors[:, order]


def _pearson(A: np.ndarray, H: np.ndarray) -> float:
    """Pearson's r of all elements."""
    a, h = A - A.mean(), H - H.mean()
    return float(np.vdot(a, h) / np.sqrt(np.vdot(a, a) * np.vdot(h, h)))


def _alignment(
    A: np.ndarray, H: np.ndarray, values: np.ndarray, U: np.ndarray, top: int, floor: float
) -> xr.Dataset:
    N = len(A)
    diagonal = np.einsum("ij,ij->j", U, A @ U)
    V = leading(A, top)[1]
    kept = (values > floor * values[0]) & (diagonal > 0)
    slope = r = np.nan
    if kept.sum() > 2:
        fitted = stats.linregress(np.log(values[kept]), np.log(diagonal[kept]))
        slope, r = fitted.slope, fitted.rvalue
    found = {
        "pearson_elements": _pearson(A, H),
        "pearson_diagonal": np.corrcoef(diagonal, values)[0, 1],
        "log_pearson_diagonal": r,
        "slope_diagonal": slope,
        "coefficient": float((A * H).sum() / (H * H).sum()),
        "size_ratio": np.trace(A) / np.trace(H),
        "overlap": float(((U[:, :top].T @ V) ** 2).sum() / top),
        "overlap_by_chance": top / N,
    }
    data: dict[str, tuple] = {
        name: ((), float(value), {"long_name": _NAMES[name], "units": "1"}) for name, value in found.items()
    }
    data["slope_directions"] = ((), int(kept.sum()), {"long_name": "directions in the slope", "units": "1"})
    data["diagonal"] = ("mode", diagonal, {"long_name": "diagonal in H's eigenbasis", "units": "1"})
    data["eigenvalue"] = ("mode", values, {"long_name": "eigenvalue of H", "units": "1"})
    return xr.Dataset(data, attrs={"top": top, "floor": floor})


def noise_alignment(
    net: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    layer: int | None = None,
    top: int = 10,
    memory: int = MEMORY,
) -> xr.Dataset:
    """C·B and both Fisher matrices against the Hessian at these weights.

    Parameters
    ----------
    net : nn.Sequential
    inputs : Tensor, shape (M, …)
    labels : Tensor, int64, shape (M,)
    layer : int, optional
        This layer's weights; default all.
    top : int
        Dimension of the leading subspaces.
    memory : int

    Returns
    -------
    Dataset, dim matrix = ("noise", "empirical Fisher", "true Fisher")
        As :func:`alignment`; and ``loss``, ``error`` of the samples, ``gradient_norm`` and
        ``label_ratio`` (see :func:`label_ratio`).

    Raises
    ------
    ValueError
        If there are too many weights for dense matrices.
    """
    loss = LayerLoss.of(net, inputs, labels, layer)
    H = hessian(net, inputs, labels, layer=layer, memory=memory)
    second, mean = gradient_moments(loss, memory=memory)
    true = H.to_numpy() if H.attrs["method"] == "gauss-newton" else logit_moment(loss, memory=memory)
    matrices = {"noise": second - np.outer(mean, mean), "empirical Fisher": second, "true Fisher": true}
    basis = _eigenbasis(H.to_numpy())
    parts = [_alignment(A, H.to_numpy(), *basis, top, FLOOR) for A in matrices.values()]
    result = xr.concat(
        parts, dim="matrix", data_vars=[n for n in parts[0].data_vars if n != "eigenvalue"]
    ).assign_coords(matrix=list(matrices))
    with torch.no_grad():
        logits = torch.cat([loss.net(x) for x, _ in loss.split(10_000)])
    scalars = {
        "loss": (float(functional.cross_entropy(logits, loss.labels)), "loss"),
        "error": (float((logits.argmax(1) != loss.labels).float().mean()), "share of samples misclassified"),
        "gradient_norm": (float(np.linalg.norm(mean)), "norm of the mean gradient"),
        "label_ratio": (label_ratio(logits, loss.labels), "labels against probabilities"),
    }
    for name, (value, long_name) in scalars.items():
        result[name] = ((), value, {"long_name": long_name, "units": "1"})
    result.attrs = attributes("alignment of noise and Hessian", net, loss) | {
        "hessian_method": H.attrs["method"],
        "top": top,
    }
    return result


def label_ratio(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """⟨‖p − e_label‖²⟩ / ⟨1 − ‖p‖²⟩: mean square of the residuals over that for labels drawn from p.

    1 for a calibrated net. It is Tr C·B / Tr H at the level of the logits, where no gradient is needed; for
    a net that knows its labels by heart, with p_label = 1 − u, it falls like ⟨u²⟩/⟨u⟩.

    Parameters
    ----------
    logits : Tensor, shape (M, K)
    labels : Tensor, shape (M,)

    Returns
    -------
    float
    """
    p = functional.softmax(logits.double(), dim=1)
    right = p.gather(1, labels[:, None])[:, 0]
    others = p.scatter(1, labels[:, None], 0.0)
    # 1 − p_label from the other classes, which does not cancel when p_label is nearly 1.
    miss = others.sum(1)
    squares = miss**2 + (others**2).sum(1)
    drawn = miss * (1 + right) - (others**2).sum(1)
    return float(squares.mean() / drawn.mean())


def over_seeds(
    results: Sequence[xr.Dataset] | Mapping[int, xr.Dataset],
    *,
    confidence: float = 0.95,
    geometric: Sequence[str] = (),
    correlations: Sequence[str] = (),
) -> xr.Dataset:
    """Mean over independent trainings with Student's interval for each number.

    Parameters
    ----------
    results : sequence of Dataset, or mapping of seed to Dataset
        One for each training; of the same variables and dims.
    confidence : float
    geometric : sequence of str
        Positive variables, such as ratios, whose logarithms are averaged.
    correlations : sequence of str
        Variables between −1 and 1, averaged as Fisher's z = artanh r, so that the interval stays there.

    Returns
    -------
    Dataset
        For each variable ``name`` its mean, and ``name_low``, ``name_high``. ``attrs["trainings"]`` counts.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    several = list(results.values()) if isinstance(results, Mapping) else list(results)
    if len(several) < 2:
        raise ValueError(f"an interval over trainings needs at least 2 of them, not {len(several)}")
    words = {name: several[0][name].attrs for name in (*geometric, *correlations)}
    scales = dict.fromkeys(geometric, (np.log, np.exp)) | dict.fromkeys(correlations, (_fisher_z, np.tanh))
    several = [
        part.assign({name: there(part[name]) for name, (there, _) in scales.items()}) for part in several
    ]
    stacked = xr.concat(several, dim="training", combine_attrs="override")
    mean = stacked.mean("training", keep_attrs=True)
    half = student_factor(len(several), confidence) * stacked.std("training", ddof=1)
    low, high = mean - half, mean + half
    for part in (mean, low, high):
        for name, (_, back) in scales.items():
            part[name] = part[name].copy(data=back(part[name].to_numpy()))
            part[name].attrs = words[name]
    low = low.rename({name: f"{name}_low" for name in mean.data_vars})
    high = high.rename({name: f"{name}_high" for name in mean.data_vars})
    result = xr.merge([mean, low, high])
    result.attrs = mean.attrs | {"trainings": len(several), "confidence": confidence}
    return result


def _fisher_z(r):
    """artanh r, finite for r = ±1 by rounding."""
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
