"""How the noise covariance C and the Hessian H are related: in shape, in slope, and in size.

ICLR Eqs. 6–7 take C = H/B; PRL 7 takes C ∝ H². Shape (correlation), power (log-log slope) and size
(Tr C·B / Tr H) are three statements, and one can hold without the others. Size is a matter of the labels: for
one layer of a ReLU net H is the true Fisher matrix (see :mod:`nets.measure.curvature`), and C·B is the
empirical one less the mean gradient's square. So C·B = H on average where labels fall as the net's
probabilities say, and not where the net fits every label.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch.nn import functional

from fpsolve.results import quantity
from nets.checks import check_whole
from nets.measure.curvature import hessian, leading_eigenpairs
from nets.measure.fast import MEMORY
from nets.measure.moments import gradient_moments, logit_moment
from nets.measure.subject import Subject, as_subject
from nets.training.run import Run

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
    """How alike a symmetric matrix A (such as C·B) and the Hessian are, both (N, N).

    ``top`` is the dimension k of the leading subspaces, whose overlap is ‖U_kᵀV_k‖²/k: 1 if they are the same
    and k/N on average by chance. Directions with H_ii below the share ``floor`` of the largest, or A_ii ≤ 0,
    are left out of the slope. The result holds ``pearson_elements`` over all i, j; ``pearson_diagonal``,
    ``log_pearson_diagonal`` and ``slope_diagonal`` (of ln A_ii by ln H_ii, least squares;
    ``slope_directions`` of them) in H's eigenbasis; ``coefficient``; ``size_ratio``; ``overlap`` and
    ``overlap_by_chance``; ``diagonal`` and ``eigenvalue`` (mode), descending in H. Shapes that differ and a
    ``top`` that does not fit are a ValueError. As in ICLR Figs. 2, 8, 9 (Pearson's r and the coefficient) and
    PRL Fig. 1b (diagonals).
    """
    A, H = np.asarray(matrix, dtype=float), np.asarray(hessian, dtype=float)
    if A.shape != H.shape or A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"matrices of shapes {A.shape} and {H.shape} must be square and alike")
    return _alignments([A], H, top, floor)[0]


def _alignments(matrices: Iterable[np.ndarray], H: np.ndarray, top: int, floor: float) -> list[xr.Dataset]:
    """:func:`alignment` of several matrices with one Hessian, which is diagonalised once."""
    check_whole("top", top, len(H), "their size")
    if not H.any():
        raise ValueError("the Hessian is zero: there is nothing to align with")
    values, U = (part[..., ::-1] for part in np.linalg.eigh(H))
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where A is zero
        return [_alignment(A, H, values, U, top, floor) for A in matrices]


def _alignment(
    A: np.ndarray, H: np.ndarray, values: np.ndarray, U: np.ndarray, top: int, floor: float
) -> xr.Dataset:
    """:func:`alignment`, with the eigenvalues of H, descending, and its eigenvectors as columns."""
    a, h = A - A.mean(), H - H.mean()
    diagonal = np.einsum("ij,ij->j", U, A @ U)
    V = leading_eigenpairs(A, top)[1]
    kept = (values > floor * values[0]) & (diagonal > 0)
    slope = r = np.nan
    if kept.sum() > 2:
        fitted = stats.linregress(np.log(values[kept]), np.log(diagonal[kept]))
        slope, r = fitted.slope, fitted.rvalue
    found = {
        "pearson_elements": np.vdot(a, h) / np.sqrt(np.vdot(a, a) * np.vdot(h, h)),
        "pearson_diagonal": np.corrcoef(diagonal, values)[0, 1],
        "log_pearson_diagonal": r,
        "slope_diagonal": slope,
        "coefficient": (A * H).sum() / (H * H).sum(),
        "size_ratio": np.trace(A) / np.trace(H),
        "overlap": ((U[:, :top].T @ V) ** 2).sum() / top,
        "overlap_by_chance": top / len(A),
    }
    data = {name: quantity(float(value), (), _NAMES[name]) for name, value in found.items()}
    data["slope_directions"] = quantity(int(kept.sum()), (), "directions in the slope")
    data["diagonal"] = quantity(diagonal, "mode", "diagonal in H's eigenbasis")
    data["eigenvalue"] = quantity(values, "mode", "eigenvalue of H")
    return xr.Dataset(data, attrs={"top": top, "floor": floor})


def noise_alignment(
    measured: Subject | Run, *, layer: int | None = None, top: int = 10, memory: int = MEMORY
) -> xr.Dataset:
    """C·B and both Fisher matrices against the Hessian at these weights.

    A ValueError is raised if there are too many weights for dense matrices, or ``top`` is out of range.

    Parameters
    ----------
    measured, layer, memory
        As in :func:`nets.measure.curvature.hessian`.
    top : int
        Dimension of the leading subspaces.

    Returns
    -------
    Dataset, dim matrix = ("noise", "empirical Fisher", "true Fisher")
        As :func:`alignment`; and ``loss``, ``error`` of the samples, ``gradient_norm`` and
        ``label_ratio`` (see :func:`label_ratio`). Of a loss that is not the cross-entropy of labels
        ``matrix`` is "noise" alone, and ``error`` and ``label_ratio`` are left out.
    """
    subject = as_subject(measured, layer=layer)
    check_whole("top", top, subject.size, "the weights")
    H = hessian(subject, memory=memory)
    second, mean = gradient_moments(subject, memory=memory)
    matrices = {"noise": second - np.outer(mean, mean)}
    scalars = {
        "loss": (float(subject.losses()[0]), "loss"),
        "gradient_norm": (float(np.linalg.norm(mean)), "norm of the mean gradient"),
    }
    if subject.labelled:
        matrices["empirical Fisher"] = second
        exact = H.attrs["method"] == "gauss-newton"
        matrices["true Fisher"] = H.to_numpy() if exact else logit_moment(subject, memory=memory)
        logits, y = subject.outputs(), subject.targets.to(subject.device)
        wrong = float((logits.argmax(1) != y).float().mean())
        scalars["error"] = wrong, "share of samples misclassified"
        scalars["label_ratio"] = label_ratio(logits, y), "labels against probabilities"
    parts = _alignments(matrices.values(), H.to_numpy(), top, FLOOR)
    several = [name for name in parts[0].data_vars if name != "eigenvalue"]
    result = xr.concat(parts, dim="matrix", data_vars=several).assign_coords(matrix=list(matrices))
    result = result.assign({name: quantity(value, (), text) for name, (value, text) in scalars.items()})
    result.attrs = subject.attributes(
        "alignment of noise and Hessian", hessian_method=H.attrs["method"], top=top
    )
    return result


def label_ratio(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """⟨‖p − e_label‖²⟩ / ⟨1 − ‖p‖²⟩: mean square of the residuals over that for labels drawn from p.

    Logits (M, K), labels (M,). 1 for a calibrated net. It is Tr C·B / Tr H at the level of the logits, where
    no gradient is needed; for a net that fits every label, p_label = 1 − u, it falls like ⟨u²⟩/⟨u⟩.
    """
    p = functional.softmax(logits.double(), dim=1)
    right = p.gather(1, labels[:, None])[:, 0]
    others = p.scatter(1, labels[:, None], 0.0)
    # 1 − p_label from the other classes, which does not cancel when p_label is nearly 1.
    miss = others.sum(1)
    squares = miss**2 + (others**2).sum(1)
    drawn = miss * (1 + right) - (others**2).sum(1)
    return float(squares.mean() / drawn.mean())
