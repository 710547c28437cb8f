"""Quadratic penalties that hold weights near an earlier solution, and the implicit step for any stiffness.

R(w) = λ Σ_i s_i (p_i · (w − w₁))², with directions p_i orthonormal, or the weights themselves. An explicit
step w ← w − α ∇R is stable only while 2αλ s_i ≤ 2; with s_i = 1/F_i² the largest s_i is 10² to 10⁶ times the
smallest, so that a scan of λ meets that bound long before the penalty acts along flat directions. The
implicit step solves w⁺ = w − α ∇R(w⁺) exactly, direction by direction:

    p_i · (w⁺ − w₁) = p_i · (w − w₁) / (1 + 2αλ s_i),

stable for every λ. Alternated with the gradient step on the loss (forward–backward splitting), its fixed
points lie exactly where ∇L + ∇R = 0, whatever α is (Lions, Mercier, SIAM J. Numer. Anal. 16, 964 (1979)).

References: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Eq. 14; elastic weight constraints: Kirkpatrick et
al., PNAS 114, 3521 (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from notebooks.studies.forgetting.solution import FirstTask

#: λ and N_c of PNAS Fig. 4 C, D.
PAPER_STRENGTH, PAPER_CONSTRAINTS = 10.0, 200
#: Slope of the upper bound of q_i over F_i in PNAS Fig. 4 D.
PAPER_BOUND = 0.008
#: However F is found, it has the same geometric mean over so many of the first directions.
SCALE_MODES = 200
_LDC = (0.01, 0.05, 0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
_PSI = (0.05, 0.2, 1.0, 5.0, 20.0, 100.0, 500.0, 2000.0, 1e4, 5e4)


@dataclass(frozen=True, eq=False)
class Penalty:
    """R(w) = λ Σ_i s_i (p_i · (w − w₁))².

    ``strength`` is λ ≥ 0. ``stiffness`` holds s_i ≥ 0, finite, shape (n,): 1/F_i² (landscape-dependent
    constraints), half the diagonal of a Fisher matrix (elastic weight constraints), or 1 (plain L2).
    ``directions`` holds orthonormal rows p_i, shape (n, N); None stands for the weights themselves, n = N.
    Other numbers or shapes are a ValueError.
    """

    strength: float
    stiffness: torch.Tensor
    directions: torch.Tensor | None = None

    def __post_init__(self) -> None:
        s = self.stiffness
        if not 0 <= self.strength < math.inf or s.ndim != 1 or not bool(((s >= 0) & s.isfinite()).all()):
            raise ValueError(f"strength={self.strength:g} and a vector stiffness must be finite and ≥ 0")
        if self.directions is not None and len(self.directions) != len(s):
            raise ValueError(f"{len(s)} in stiffness do not match {len(self.directions)} directions")

    def __call__(self, displacement: torch.Tensor) -> torch.Tensor:
        """R at w₁ + displacement, shape (…, N) → (…)."""
        along = displacement if self.directions is None else displacement @ self.directions.T
        return self.strength * (self.stiffness * along**2).sum(-1)


@dataclass(frozen=True)
class Kind:
    """One kind of penalty; plain L2, λ ‖w − w₁‖², unless a subclass says otherwise.

    ``strengths`` are the λ scanned by default. N_c applies where it is ``counted``; it counts principal
    directions instead of weights ``along_directions``.
    """

    strengths: tuple[float, ...] = ()
    counted: ClassVar[bool] = False
    along_directions: ClassVar[bool] = False

    def penalty(self, at: FirstTask, strength: float, count: int) -> Penalty | None:
        """The penalty at a solution, with λ and N_c (0: all)."""
        return Penalty(strength, torch.ones(len(at.weights)))


class Unconstrained(Kind):
    """No penalty."""

    def penalty(self, at: FirstTask, strength: float, count: int) -> None:
        return None


@dataclass(frozen=True)
class Fisher(Kind):
    """(λ/2) Σ G_i (w − w₁)_i² over the largest G_i, the diagonal of the true or the empirical Fisher matrix.

    ``floored`` raises the smaller half of G to its median.
    """

    empirical: bool = False
    floored: bool = False
    counted = True

    def penalty(self, at: FirstTask, strength: float, count: int) -> Penalty:
        diagonal = at.fisher_empirical if self.empirical else at.fisher_true
        if self.floored:
            diagonal = diagonal.clamp(min=float(diagonal.median()))
        top = torch.topk(diagonal, count or len(diagonal)).indices
        return Penalty(strength, torch.zeros_like(diagonal).index_copy(0, top, diagonal[top]) / 2)


@dataclass(frozen=True)
class Landscape(Kind):
    """By the flatness F_i measured along each principal direction, s_i = 1/F_i² (PNAS Eq. 14)."""

    counted = True
    along_directions = True

    def flatness(self, width: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """F_i from measured widths, infinite where the loss never reaches e L₀, and from σ_i."""
        return width

    def penalty(self, at: FirstTask, strength: float, count: int) -> Penalty:
        width, variance = (torch.from_numpy(at.modes[name].to_numpy()) for name in ("width", "variance"))
        count = count or len(at.directions)
        stiffness = self.flatness(width, variance.sqrt())[:count] ** -2.0
        return Penalty(strength, stiffness, at.directions[:count])


class Capped(Landscape):
    """The larger half of F lowered to its median: a control."""

    def flatness(self, width: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return width.clamp(max=float(width.median()))


@dataclass(frozen=True)
class FromVariance(Landscape):
    """F ∝ σ^(−2/ψ) (PNAS Eq. 8), with the geometric mean of the measured F over the first directions.

    ψ = ∞ gives the same F for all constrained directions: a control.
    """

    psi: float = math.inf

    def flatness(self, width: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        shape = sigma ** (-2 / self.psi)
        scaled = (torch.arange(len(width)) < SCALE_MODES) & width.isfinite()
        return shape * torch.exp((width.log() - shape.log())[scaled].mean())


#: Every penalty, with λ to scan: the scales of F and of the Fisher matrices are far apart.
METHODS: dict[str, Kind] = {
    "none": Unconstrained(),
    "L2": Kind((0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)),
    "EWC true": Fisher((1.0, 10.0, 50.0, 200.0, 1e3, 2e3, 5e3, 2e4, 1e5, 1e6)),
    "EWC empirical": Fisher((1.0, 10.0, 100.0, 500.0, 2e3, 1e4, 5e4, 2e5, 1e6, 1e7, 1e8), empirical=True),
    "EWC floored": Fisher((5.0, 20.0, 50.0, 200.0, 500.0, 1e3, 2e3, 5e3, 2e4, 1e5), floored=True),
    "LDC": Landscape(_LDC),
    "LDC psi 3": FromVariance(_PSI, psi=3.0),
    "LDC psi 4": FromVariance(_PSI, psi=4.0),
    "LDC psi 5": FromVariance(_PSI, psi=5.0),
    "LDC equal F": FromVariance(_LDC),
    "LDC capped": Capped(_LDC),
}
#: λ scanned for each method.
STRENGTHS = {name: kind.strengths for name, kind in METHODS.items() if kind.strengths}


@dataclass(frozen=True)
class Constraint:
    """How the first task is protected while the second is learned.

    ``method`` is one of ``METHODS``, ``strength`` its λ. ``count`` is N_c: so many directions of largest
    variance, or weights of largest G; 0 for all. Anything else is a ValueError.
    """

    method: str
    strength: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {', '.join(METHODS)}")
        if not 0 <= self.strength < math.inf or self.count < 0:
            raise ValueError(f"strength={self.strength:g}, count={self.count} must be finite, none negative")

    def penalty(self, at: FirstTask) -> Penalty | None:
        """The penalty at a solution; None where nothing is held. A ``count`` above all is a ValueError."""
        kind = METHODS[self.method]
        there = len(at.directions if kind.along_directions else at.weights)
        if kind.counted and self.strength and self.count > there:
            raise ValueError(f"count={self.count} of {self.method!r} is more than the {there} there are")
        return kind.penalty(at, self.strength, self.count) if self.strength else None


def constraint_grid(
    counts: Sequence[int] = (50, PAPER_CONSTRAINTS, 800, 0),
    *,
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    methods: Sequence[str] = tuple(METHODS),
) -> tuple[Constraint, ...]:
    """Every method over its own λ and over N_c (0: all), and the paper's setting of "LDC".

    The default λ are wide enough for the best λ of each method on MNIST and CIFAR-10 to lie inside.
    """
    found = [
        Constraint(method, float(strength), int(count))
        for method in methods
        for count in (counts if METHODS[method].counted else (0,))
        for strength in (strengths[method] if METHODS[method].strengths else (0.0,))
    ]
    if "LDC" in methods and PAPER_CONSTRAINTS in counts:
        found.append(Constraint("LDC", PAPER_STRENGTH, PAPER_CONSTRAINTS))
    return tuple(dict.fromkeys(found))


class ImplicitStep:
    """One implicit step of ``penalties``, each on its own row of weights; None leaves the row alone.

    ``anchor`` is w₁, shape (N,). Rows that share directions are worked on together, in two matrix products.
    """

    def __init__(
        self, penalties: Sequence[Penalty | None], *, anchor: torch.Tensor, learning_rate: float
    ) -> None:
        self.anchor = anchor
        groups: dict[tuple[int, int], dict[int, Penalty]] = {}
        for row, p in enumerate(penalties):
            if p is not None:
                key = (0 if p.directions is None else p.directions.data_ptr(), len(p.stiffness))
                groups.setdefault(key, {})[row] = p
        self.groups: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []
        for some in groups.values():
            s = torch.stack([2 * learning_rate * p.strength * p.stiffness.double() for p in some.values()])
            lost = (s / (1 + s)).to(anchor)  # of the displacement along each direction
            directions = next(iter(some.values())).directions
            index = torch.tensor([*some], device=anchor.device)
            self.groups.append((index, None if directions is None else directions.to(anchor), lost))

    def __call__(self, weights: torch.Tensor) -> None:
        """Take the step, in place, for weights of shape (rows, N)."""
        for rows, directions, lost in self.groups:
            displacement = weights[rows] - self.anchor
            if directions is None:
                displacement *= lost
            else:
                displacement = (displacement @ directions.T).mul_(lost) @ directions
            weights.index_add_(0, rows, displacement, alpha=-1)
