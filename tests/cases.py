"""Problems with known answers, on which every solver is tested."""

from dataclasses import dataclass

import sympy as sp

from theory import (
    Diffusion,
    Landscape,
    Langevin,
    anisotropic,
    degenerate_valley,
    double_well,
    isotropic,
    random_shift,
)
from theory.langevin import Process

x, y = sp.symbols("x y", real=True)


@dataclass(frozen=True)
class Case:
    """A process, where to solve it (None: the solver's choice), and its stationary averages.

    ``averages`` has the names of ``fpsolve.compare.averages``; ``digits`` bounds the relative error
    of these numbers as printed; ``walls`` says whether the box cuts the density on purpose;
    ``time_step`` is one that resolves the process, None where relaxation is too slow for a test.
    """

    name: str
    process: Process
    averages: dict[str, float]
    source: str
    box: dict[str, tuple[float, float]] | None = None
    walls: str = "far"
    digits: float = 1e-8
    time_step: float | None = None

    @property
    def mirrored(self) -> tuple[str, ...]:
        """Variables whose averages are given for their absolute value."""
        return tuple(n for n in self.process.names if f"std(|{n}|)" in self.averages)


#: (Δ_S, cross terms) → ⟨x²⟩, std|x|, ⟨y²⟩ of the reference valley with D = Δ_S H², averages over x ≥ 0.
VALLEY_REFERENCE = {
    (5e-4, True): (1.26837256e-3, 0.020938406, 3.99873138e-3),
    (5e-4, False): (2.02513156e-3, 0.029131003, 3.99799490e-3),
    (1e-3, True): (0.45257335, 0.017161331, 7.29911104e-3),
    (1e-3, False): (0.44962528, 0.037699691, 7.30865823e-3),
}


def _valley(delta_s: float, cross_diffusion: bool, averages: tuple[float, float, float]) -> Case:
    """The reference valley with the noise of random shifts."""
    return Case(
        f"valley, Delta_S = {delta_s:g}, {'full D' if cross_diffusion else 'no cross terms'}",
        Langevin(degenerate_valley(), random_shift(delta_s=delta_s), cross_diffusion=cross_diffusion),
        dict(zip(("<x^2>", "std(|x|)", "<y^2>"), averages, strict=True)),
        "Hermite functions times spectral elements and a 2D p-FEM, agreeing to 5e-9",
        digits=3e-8,
    )


#: Drift -A X with a D that is not proportional to anything of A: a current flows. A S + S A^T = 2 D.
ORNSTEIN_UHLENBECK = Case(
    "Ornstein-Uhlenbeck with a current",
    Diffusion(
        sp.Matrix([-(x + sp.Rational(4, 5) * y), sp.Rational(3, 5) * x - sp.Rational(3, 2) * y]),
        sp.Matrix([[10, 4], [4, 8]]) / 100,
        (x, y),
    ),
    {"<x^2>": 0.0764040404, "<y^2>": 0.0651313131, "<x y>": 0.0294949495, "<x>": 0.0, "<y>": 0.0},
    "Lyapunov equation",
    box={"x": (-2.0, 2.0), "y": (-2.0, 2.0)},
    digits=2e-9,
    time_step=0.05,
)

#: L = x^2 + x y / 2 + 3 y^2 / 2: the covariance is D H^-1 with H = [[2, 1/2], [1/2, 3]], det H = 23/4.
HARMONIC = Case(
    "harmonic, isotropic noise",
    Langevin(Landscape(x**2 + x * y / 2 + sp.Rational(3, 2) * y**2, (x, y)), isotropic(0.1)),
    {"<x^2>": 0.3 / 5.75, "<y^2>": 0.2 / 5.75, "<x y>": -0.05 / 5.75, "<x>": 0.0, "<y>": 0.0},
    "Boltzmann, Gaussian integral",
    box={"x": (-2.0, 2.0), "y": (-2.0, 2.0)},
    time_step=0.05,
)

DOUBLE_WELL_1D = Case(
    "double well in 1D",
    Langevin(double_well(), isotropic(0.1)),
    {"<x^2>": 0.87136290804204983, "std(|x|)": 0.28526022077640863},
    "Boltzmann, quadrature with 20 digits",
    box={"x": (-2.8, 2.8)},
    time_step=0.05,
)

DOUBLE_WELL_2D = Case(
    "tilted double well in 2D",
    Langevin(Landscape(x**4 / 4 - x**2 / 2 + y**2 + x * y / 4, (x, y)), isotropic(0.08)),
    {"<x^2>": 0.92771985679268254, "<y^2>": 0.054495622762385665, "<x y>": -0.11596498209908532},
    "Boltzmann: y integrated by hand, x by quadrature with 20 digits",
    box={"x": (-2.5, 2.5), "y": (-2.0, 2.0)},
)

CONSTANT_ANISOTROPY = Case(
    "valley with constant anisotropic noise",
    Langevin(degenerate_valley(), anisotropic(delta=0.01, kappa=4)),
    {"<x^2>": 0.32909158},
    "numerical solution with |x| <= 2 reflecting; |y| = 0.35 is more than nine standard deviations",
    box={"x": (-2.0, 2.0), "y": (-0.35, 0.35)},
    walls="reflecting",
    digits=3e-8,
)

VALLEYS = (*(_valley(*key, averages) for key, averages in VALLEY_REFERENCE.items()),)

CASES = (ORNSTEIN_UHLENBECK, HARMONIC, DOUBLE_WELL_1D, DOUBLE_WELL_2D, CONSTANT_ANISOTROPY, *VALLEYS)
