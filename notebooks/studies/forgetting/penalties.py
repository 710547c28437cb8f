"""Quadratic penalties that hold weights near an earlier solution, and the implicit step for any stiffness.

R(w) = λ Σ_i s_i (p_i · (w − w₁))², with directions p_i orthonormal, or the weights themselves. An explicit
step w ← w − α ∇R is stable only while 2αλ s_i ≤ 2; with s_i = 1/F_i² the largest s_i is 10² to 10⁶ times the
smallest, so that the scan of λ runs into that bound long before the flat directions feel the penalty. The
implicit step solves w⁺ = w − α ∇R(w⁺) exactly, direction by direction:

    p_i · (w⁺ − w₁) = p_i · (w − w₁) / (1 + 2αλ s_i),

stable for every λ. Alternated with the gradient step on the loss (forward–backward splitting), it stands
still exactly where ∇L + ∇R = 0, whatever α is (Lions, Mercier, SIAM J. Numer. Anal. 16, 964 (1979)).

References: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Eq. 14; elastic weight constraints: Kirkpatrick et
al., PNAS 114, 3521 (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Method = Literal[
    "none", "L2", "EWC true", "EWC empirical", "EWC floored",
    "LDC", "LDC psi 3", "LDC psi 4", "LDC psi 5", "LDC equal F", "LDC capped",
]  # fmt: skip
#: Every penalty. "LDC": F measured along each principal direction; "psi": F ∝ σ^(−2/ψ) (PNAS 8); "equal F":
#: the same F for all constrained directions, and "capped": the larger half of F lowered to its median, two
#: controls. "EWC": by the diagonal of the true or of the empirical Fisher matrix; "floored" raises the
#: smaller half of the true one to its median. "L2": ‖w − w₁‖².
METHODS: tuple[Method, ...] = (
    "none", "L2", "EWC true", "EWC empirical", "EWC floored",
    "LDC", "LDC psi 3", "LDC psi 4", "LDC psi 5", "LDC equal F", "LDC capped",
)  # fmt: skip
#: λ and N_c of PNAS Fig. 4 C, D.
PAPER_STRENGTH, PAPER_CONSTRAINTS = 10.0, 200
#: Slope of the upper bound of q_i over F_i in PNAS Fig. 4 D.
PAPER_BOUND = 0.008
_LDC = (0.01, 0.05, 0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
_PSI = (0.05, 0.2, 1.0, 5.0, 20.0, 100.0, 500.0, 2000.0, 1e4, 5e4)
#: λ scanned for each method; the scales of F and of the Fisher matrices are far apart.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "L2": (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    "EWC true": (1.0, 10.0, 50.0, 200.0, 1e3, 2e3, 5e3, 2e4, 1e5, 1e6),
    "EWC empirical": (1.0, 10.0, 100.0, 500.0, 2e3, 1e4, 5e4, 2e5, 1e6, 1e7, 1e8),
    "EWC floored": (5.0, 20.0, 50.0, 200.0, 500.0, 1e3, 2e3, 5e3, 2e4, 1e5),
    "LDC": _LDC,
    "LDC equal F": _LDC,
    "LDC capped": _LDC,
} | {f"LDC psi {psi}": _PSI for psi in (3, 4, 5)}
__all__ = ["METHODS", "STRENGTHS", "Constraint", "ImplicitStep", "Penalty", "constraint_grid"]


@dataclass(frozen=True)
class Constraint:
    """How the first task is protected while the second is learned.

    Attributes
    ----------
    method : str
        One of ``METHODS``.
    strength : float
        λ of "LDC" as in Eq. 14; of "EWC" as in (λ/2) Σ G_i (w − w₁)_i², G the diagonal of a Fisher matrix; of
        "L2" as in λ ‖w − w₁‖².
    count : int
        N_c: so many directions of largest variance, or weights of largest G; 0 for all.
    """

    method: Method
    strength: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {', '.join(METHODS)}")
        if not (math.isfinite(self.strength) and self.strength >= 0) or self.count < 0:
            raise ValueError(
                f"strength={self.strength:g} and count={self.count} must be finite, none negative"
            )


def constraint_grid(
    counts: Sequence[int] = (50, PAPER_CONSTRAINTS, 800, 0),
    *,
    strengths: Mapping[str, Sequence[float]] | None = None,
    methods: Sequence[Method] = METHODS,
) -> tuple[Constraint, ...]:
    """Every method over its own λ and over N_c, and the paper's setting of "LDC".

    Parameters
    ----------
    counts : sequence of int
        N_c; 0 for all. "L2" has none.
    strengths : mapping of str to sequence of float, optional
        λ by method; default ``STRENGTHS``, wide enough for the best λ of each on MNIST and CIFAR-10 to lie
        inside.
    methods : sequence of str

    Returns
    -------
    tuple of Constraint
    """
    found: list[Constraint] = []
    for method in methods:
        if method == "none":
            found.append(Constraint("none"))
            continue
        for count in (0,) if method == "L2" else counts:
            each = (STRENGTHS if strengths is None else strengths)[method]
            found += [Constraint(method, float(strength), int(count)) for strength in each]
    if "LDC" in methods and PAPER_CONSTRAINTS in counts:
        found.append(Constraint("LDC", PAPER_STRENGTH, PAPER_CONSTRAINTS))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Penalty:
    """R(w) = λ Σ_i s_i (p_i · (w − w₁))².

    Attributes
    ----------
    strength : float
        λ, not negative.
    stiffness : Tensor, shape (n,)
        s_i, not negative and finite: 1/F_i² (landscape-dependent constraints), half the diagonal of a Fisher
        matrix (elastic weight constraints), or 1 (plain L2).
    directions : Tensor or None
        p_i, orthonormal rows, shape (n, N); None for the weights themselves, n = N.
    """

    strength: float
    stiffness: torch.Tensor
    directions: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength={self.strength:g} must be finite and not negative")
        if self.stiffness.ndim != 1 or not bool(((self.stiffness >= 0) & self.stiffness.isfinite()).all()):
            raise ValueError("stiffness must be a vector of finite numbers, none negative")
        if self.directions is not None and len(self.directions) != len(self.stiffness):
            raise ValueError(
                f"{len(self.stiffness)} numbers in stiffness do not match {len(self.directions)} directions"
            )

    def __call__(self, displacement: torch.Tensor) -> torch.Tensor:
        """R at w₁ + displacement.

        Parameters
        ----------
        displacement : Tensor, shape (…, N)

        Returns
        -------
        Tensor, shape (…)
        """
        along = displacement if self.directions is None else displacement @ self.directions.T
        return self.strength * (self.stiffness * along**2).sum(-1)

    def gradient(self, displacement: torch.Tensor) -> torch.Tensor:
        """∇R at w₁ + displacement.

        Parameters
        ----------
        displacement : Tensor, shape (…, N)

        Returns
        -------
        Tensor, shape (…, N)
        """
        along = displacement if self.directions is None else displacement @ self.directions.T
        along = 2 * self.strength * self.stiffness * along
        return along if self.directions is None else along @ self.directions


class ImplicitStep:
    """One implicit step of many penalties, each on its own row of weights.

    Rows that share directions are worked on together, in two matrix products.

    Parameters
    ----------
    penalties : sequence of Penalty or None
        One for each row; None leaves the row alone.
    anchor : Tensor, shape (N,)
        w₁.
    learning_rate : float
        α.
    """

    def __init__(
        self, penalties: Sequence[Penalty | None], *, anchor: torch.Tensor, learning_rate: float
    ) -> None:
        self.anchor = anchor
        groups: dict[tuple[int, int], list[int]] = {}
        for row, penalty in enumerate(penalties):
            if penalty is not None:
                directions = penalty.directions
                key = (0 if directions is None else directions.data_ptr(), len(penalty.stiffness))
                groups.setdefault(key, []).append(row)
        self.groups: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []
        for rows in groups.values():
            some = [p for p in (penalties[row] for row in rows) if p is not None]
            stiff = torch.stack([2 * learning_rate * p.strength * p.stiffness.double() for p in some])
            lost = (stiff / (1 + stiff)).to(anchor)  # of the displacement along each direction
            directions = some[0].directions
            index = torch.tensor(rows, device=anchor.device)
            self.groups.append((index, None if directions is None else directions.to(anchor), lost))

    def __call__(self, weights: torch.Tensor) -> None:
        """Take the step, in place.

        Parameters
        ----------
        weights : Tensor, shape (rows, N)
        """
        for rows, directions, lost in self.groups:
            displacement = weights[rows] - self.anchor
            if directions is None:
                displacement *= lost
            else:
                displacement = (displacement @ directions.T).mul_(lost) @ directions
            weights.index_add_(0, rows, displacement, alpha=-1)
