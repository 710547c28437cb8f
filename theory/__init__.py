"""Symbolic theory of SGD as a stochastic process: landscapes, noise, closed forms.

Landscape: a loss written once in sympy, with gradient, Hessian and critical points.
CriticalPoint: a point with ∇L = 0, its loss and its curvatures.
degenerate_valley: ½ Σ λ_i(x) y_i² + ½ ε λ̄₀ Σ x_j², sharp along y and flat along x.
double_well: the quartic well of a given barrier height.
styblinski_tang: the Styblinski–Tang function, or its mean over shifted data.
isotropic: noise D·I, of one temperature in every direction.
anisotropic: constant noise along each variable, or any constant matrix.
random_shift: D = Δ_S H², minibatch losses that are shifted copies of L.
hessian_proportional: D = (η/2B)|H|.
data_shift: D of shifted samples to all orders, for polynomial losses.
measured: D = ηC/2 of a measured gradient covariance C.
Langevin: dθ = −∇L dt + √(2D) dW of a landscape under a noise.
Diffusion: an Itô process with any drift and diffusion.
underdamped: a particle with friction, in places and velocities.
coloured: a process driven by noise of a correlation time.
at_finite_step: the process corrected for steps of length η.
parse_expression: a formula from text, by a whitelist.
parse_condition: a condition from text, by a whitelist.
escape: closed forms and exact times of escape from a well.
flatness: flatness of valleys in many dimensions, in symbols and in arrays.
adiabatic: the package theory.valley, elimination of fast variables.
phase_boundaries: the module theory.valley.borders, where phases I, II and III meet.
slow_passage: the module theory.valley.times, search times and lifetimes.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
