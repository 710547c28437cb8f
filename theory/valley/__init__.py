"""What SGD does slowly along a flat valley: elimination of fast variables, borders, times, flatness.

eliminate: the slow process left when the fast variables are eliminated.
eliminate_map: the same for the SGD map of steps η.
Reduced: drift, diffusion, density and effective loss of the slow process.
effective_loss_constant_noise: L_eff(x, y) of constant anisotropic noise.
transition_condition: the sign that tells maximum from minimum of p(x) at x = 0.
critical_noise: Δ_S* of the transition from phase I to II.
critical_sigma: σ* of the same transition at a finite learning rate.
sgd_fast_variance: ⟨y²⟩ of the SGD map at fixed x.
equivalent_noise: Δ_S in continuous time with the map's ⟨y²⟩ at x = 0.
floor_curvature: λ(x) on the floor of a two-variable valley.
flattest_point: x_F ≥ 0 with the smallest λ(x).
divergence_noise: Δ_m by η⟨λ⟩ = 2, an upper bound of phase II.
second_moment_limit: the x at which ⟨y²⟩ of the map grows.
steady_state: the mode of the reduced density.
search_time: the mean time from a start to the steady state.
log_lifetime: ln of the mean time that phase II lasts.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
