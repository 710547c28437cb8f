"""Escape from a well: closed forms, exact times in one dimension, several wells.

barrier_height: L(saddle) − L(minimum), both points checked.
kramers_time: the Eyring–Kramers time of isotropic noise.
two_temperature_time: the time with one temperature at the minimum, one at the saddle.
sgd_escape_time: the time of SGD with noise ∝ Hessian.
effective_barrier: the exponent of the SGD time.
exact_mean_time: the mean first-passage time in one dimension, to 1e-9.
exact_log_mean_time: its logarithm, finite where the time overflows.
exact_second_moment: ⟨T²⟩ in one dimension.
exact_exit_time: the mean time to leave an interval.
exact_splitting_probability: which of two ends is reached first.
inflection_dimension: zeros of the noise on a path, and who passes them.
total_rate: rates over several saddles add.
rate_matrix: the generator of jumps between valleys.
occupation: the stationary probabilities of the valleys.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
