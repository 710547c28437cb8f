"""Densities and times on a mesh: stationary, evolving, spectral, backward.

stationary_density: Stationary density by finite volumes or spectral elements.
evolve: Density at given times, from a given start.
passage_time_law: Law of the time at which a target is reached.
probability_current: Probability current of a density.
mean_first_passage_time: Mean time to reach a target, from everywhere.
committor: Probability to reach a target before a source.
relaxation_rates: Slowest relaxation rates of a process.
relaxation_modes: Slowest relaxation rates with their eigenfunctions.
averages: Stationary averages of a density.
marginal: Marginal of a spectral density at any points.
marginal_values: Marginal of a density on uniform cells.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
