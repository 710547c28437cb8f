"""The landscapes of the papers: degenerate valleys, the double well, the Styblinski–Tang function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from theory.evaluate import lambdified
from theory.landscape import Landscape, Parameter, Seed, exact, positive


def degenerate_valley(
    lambda_: Sequence[Parameter] | sp.Expr | Sequence[Sequence[Parameter] | sp.Expr] = (8, -2, 1),
    epsilon: Parameter = 1e-3,
    *,
    n_sharp: int | None = None,
    n_flat: int | None = None,
    depth: float = 0.5,
    rng: Seed = 0,
) -> Landscape:
    """The degenerate valley L(x, y) = ½ Σ_i λ_i(x) y_i² + ½ ε λ̄₀ Σ_j x_j², λ̄₀ = mean_i λ_i(0).

    With numbers of variables instead of ``lambda_``, the λ_i have random coefficients. Source: Yang, Tang,
    Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 5 and 8; the reference parameters ε = 10⁻³, λ = (8, −2, 1)
    are those of its Fig. 5.

    Parameters
    ----------
    lambda_ : sequence of numbers, or sympy expression in x, or a sequence of those
        Coefficients (λ₀, λ₁, λ₂, …) of λ(x) = Σ_n λ_n x^{2n}; or λ(x) itself as an expression in
        ``sp.Symbol("x", real=True)``; or one of these per sharp variable y1, y2, ….
    epsilon : number or sympy expression
        How much the valley floor is lifted, 0 ≤ ε ≪ 1.
    n_sharp, n_flat : int, optional
        Numbers of sharp and flat variables of a random valley; the other one is then 1 by default.
    depth, rng
        See :func:`random_valley`, which says how coefficients are drawn.

    Returns
    -------
    Landscape
        Variables x, y (or x, y1, y2, …) with the sharp ones in ``fast``. A ValueError if a numeric λ(x) is
        not positive everywhere, or ε < 0: the valley would not confine. So are both ``lambda_`` and numbers
        of variables.
    """
    if n_sharp is not None or n_flat is not None:
        if lambda_ != (8, -2, 1):
            raise ValueError("give either lambda_, or n_sharp and n_flat for random coefficients, not both")
        return random_valley(n_sharp or 1, n_flat or 1, epsilon=epsilon, depth=depth, rng=rng)
    x = sp.Symbol("x", real=True)
    several = not isinstance(lambda_, sp.Expr) and any(
        isinstance(item, (list, tuple)) or (isinstance(item, sp.Expr) and item.has(x)) for item in lambda_
    )
    rows = list(lambda_) if several else [lambda_]
    curvatures = [_curvature(row, x) for row in rows]
    lift = exact(epsilon, "epsilon")
    if lift.is_negative:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    sharp = _symbols("y", len(rows))
    mean_curvature = sum(c.subs(x, 0) for c in curvatures) / sp.Integer(len(rows))
    walls = sum(c * y**2 for c, y in zip(curvatures, sharp, strict=True))
    loss = walls / 2 + lift * mean_curvature * x**2 / 2
    return Landscape(loss, (x, *sharp), fast=sharp, name="degenerate valley")


def _curvature(row, x: sp.Symbol) -> sp.Expr:
    """λ(x) from coefficients or from an expression; refuses one that is not positive."""
    if isinstance(row, sp.Expr):
        curvature = row
    else:
        curvature = sum((exact(c, f"lambda_[{n}]") * x ** (2 * n) for n, c in enumerate(row)), sp.Integer(0))
    if curvature.free_symbols <= {x} and not curvature.atoms(AppliedUndef):
        lowest = float(lambdified(curvature, (x,))(np.linspace(-20.0, 20.0, 8001)).min())
        if not lowest > 0:
            raise ValueError(f"λ(x) = {curvature} must be positive everywhere; its minimum is {lowest:.3g}")
    return curvature


def random_valley(
    n_sharp: int = 5, n_flat: int = 100, *, epsilon: Parameter = 1e-3, depth: float = 0.5, rng: Seed = 0
) -> Landscape:
    """A degenerate valley with random coefficients, sharp at the origin and flatter around it.

    λ_i(x) = λ_i0 + Σ_j (a_ij x_j² + b_ij x_j⁴) with λ_i0 = 8 t, a_ij = −(2 λ̄₀/Σ_k λ_k0²) λ_i0 u and b_ij =
    a_ij² N_F/(4 · depth · λ_i0) · v, where all t, u and 1/v are independent and uniform on [½, 3/2].
    Coefficients have six decimals. The N_F variables are x1, x2, …, the N_S ``fast`` ones y1, y2, … (x and y
    where there is one). The default seed is fixed: a landscape should be the same at every call.

    The published high-dimensional figures do not give their coefficients. These are chosen so that
    one flat and one sharp variable have the λ₀ = 8, λ₁ = −2 of the published two-dimensional
    example on average; that −ε λ̄₀/Σ_i a_ij λ_i0, the noise Δ_S at which x_j leaves the origin, is spread
    around ε/2 whatever the dimensions; and that λ_i falls to about (1 − depth) λ_i0 at its flattest point,
    where x_j² is about depth · Σ_k λ_k0²/(λ̄₀ N_F). Further out every λ_i grows like x⁴.

    A size below one, ε < 0 and a ``depth`` outside (0, 2/3), where λ_i may vanish, are ValueErrors.
    Source: Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eq. 5 and Figs. 2a, 3 (N_S = 5, N_F = 100).
    """
    if n_sharp < 1 or n_flat < 1:
        raise ValueError(f"n_sharp={n_sharp} and n_flat={n_flat} must be at least 1")
    if not 0 < depth < 2 / 3:
        raise ValueError(f"depth={depth:g} must lie between 0 and 2/3: λ would not be positive")
    lift = exact(epsilon, "epsilon")
    if lift.is_negative:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    generator = np.random.default_rng(rng)
    constant = np.round(8.0 * generator.uniform(0.5, 1.5, n_sharp), 6)
    scale = 2 * constant.mean() / np.sum(constant**2) * constant[:, None]
    quadratic = np.round(-scale * generator.uniform(0.5, 1.5, (n_sharp, n_flat)), 6)
    share = generator.uniform(0.5, 1.5, (n_sharp, n_flat)) * depth / n_flat
    quartic = np.round(quadratic**2 / (4 * share * constant[:, None]), 6)
    flat, sharp = _symbols("x", n_flat), _symbols("y", n_sharp)
    curvatures = []
    for c, *row in zip(constant, quadratic, quartic, strict=True):
        bends = (exact(a) * x**2 + exact(b) * x**4 for a, b, x in zip(*row, flat, strict=True))
        curvatures.append(sp.Add(exact(c), *bends))
    floor = lift * exact(round(float(constant.mean()), 9)) / 2
    walls = (c * y**2 / 2 for c, y in zip(curvatures, sharp, strict=True))
    loss = sp.Add(*walls, *(floor * x**2 for x in flat))
    name = f"random degenerate valley, {n_sharp} sharp and {n_flat} flat"
    return Landscape(loss, (*flat, *sharp), fast=sharp, name=name)


def _symbols(letter: str, count: int) -> tuple[sp.Symbol, ...]:
    """x, or x1, x2, … where there are several."""
    names = [letter] if count == 1 else [f"{letter}{k + 1}" for k in range(count)]
    return tuple(sp.Symbol(name, real=True) for name in names)


def double_well(barrier: Parameter = 0.25) -> Landscape:
    """The quartic double well L = 4ΔL (x⁴/4 − x²/2): minima ±1, saddle 0, barrier height ΔL.

    Parameters
    ----------
    barrier : number or sympy expression
        ΔL > 0; the default ¼ gives L = x⁴/4 − x²/2. A number that is not positive is a ValueError.

    Returns
    -------
    Landscape
    """
    x = sp.Symbol("x", real=True)
    return Landscape(4 * positive(barrier, "barrier") * (x**4 / 4 - x**2 / 2), (x,), name="double well")


def styblinski_tang(dimensions: int = 1, *, shift_variance: Parameter = 0) -> Landscape:
    """The Styblinski–Tang function L = ½ Σ_i (θ_i⁴ − 16θ_i² + 5θ_i), or its mean over shifted data.

    With data x ~ N(0, vI), v = ``shift_variance``, the mean of f(θ − x) is
    L = ½ Σ_i (θ_i⁴ − (16 − 6v)θ_i² + 5θ_i + 3v² − 16v). Per coordinate:

    =====  ==========  =========  =========  =======  ========  =======
    v      minimum a   other      saddle b   H(a)     H(b)      L(b)−L(a)
    =====  ==========  =========  =========  =======  ========  =======
    0      −2.903534   2.746803   0.156731   34.5831  −15.8526  39.3618
    1      −2.351910   2.098662   0.253248   23.1889  −9.6152   18.5530
    =====  ==========  =========  =========  =======  ========  =======

    Parameters
    ----------
    dimensions : int
        1 gives the variable x; more give x1, x2, ….
    shift_variance : number or sympy expression
        v, with 0 ≤ v < 1.9357, above which one well is left. Xie, Sato and Sugiyama draw data from
        N(0, I), so v = 1 is what their SGD descends, and v = 0 is where they take start and boundary.

    Returns
    -------
    Landscape
        A ValueError if there is no dimension, or v is negative or leaves one well. Sources: Styblinski, Tang,
        Neural Networks 3, 467 (1990); Xie, Sato, Sugiyama, ICLR 2021, appendix E.1.
    """
    v = exact(shift_variance, "shift_variance")
    if dimensions != int(dimensions) or dimensions < 1:
        raise ValueError(f"dimensions={dimensions} must be a whole number, at least 1")
    c = 16 - 6 * v  # t⁴ − ct² + 5t has two minima where 4t³ − 2ct + 5 has three real roots
    if v.is_negative or (v.is_number and not (c > 0 and 8 * c**3 > 27 * 5**2)):
        raise ValueError(f"shift_variance={shift_variance} must lie in [0, 1.9357): beyond, one well is left")
    variables = _symbols("x", int(dimensions))
    wells = (t**4 - c * t**2 + 5 * t + 3 * v**2 - 16 * v for t in variables)
    return Landscape(sp.expand(sum(wells, sp.Integer(0)) / 2), variables, name="Styblinski-Tang function")


#: Landscapes known by name to configuration files and the command line.
CATALOGUE: dict[str, Callable[..., Landscape]] = {
    "valley": degenerate_valley,
    "double_well": double_well,
    "styblinski_tang": styblinski_tang,
}
