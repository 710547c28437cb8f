"""Stationary and evolving Fokker–Planck densities, ensembles of SGD, and their comparison with theory.

stationary_density: the stationary density of an Itô process, by finite volumes or spectral elements.
evolve: the density at given times, from a given initial density.
passage_time_law: survival before a target, the law of the time to it, and the quasi-stationary state.
probability_current: the current of a density on a uniform grid.
relaxation_rates: the slowest rates at which densities become stationary.
relaxation_modes: these rates with their left and right eigenfunctions.
committor: the probability to reach a target before a source.
mean_first_passage_time: the mean time to a target, from everywhere.
simulate: an ensemble of walkers, its moments, histograms and paths.
simulate_valley: an ensemble in a valley of many dimensions, its flatness and loss.
flatness_growth: the growth of flatness beside that of the averaged dynamics.
simulate_escape: the time at which each walker first reaches a target.
simulate_minibatch_escape: the same for SGD on a finite data set.
split_escape: the mean time to a target behind a high barrier, by splitting.
escape_rate: the rate of escape with its interval.
EscapeSetting: a way out of a valley, with every number that a scan may vary.
styblinski_tang_setting: the escape experiment of ICLR 2021 in three readings.
scan_escape: escape rates for several values of one number of a setting.
fit_slope: the slope of −ln γ along a scan, by Poisson likelihood.
slope_table: fitted slopes beside those of the theorems.
power_law: the exponent of a power law with its interval.
sweep: a function at every point of a grid, kept on disk.
open_sweep: the finished points of a sweep.
flatness_diagram: flatness of stationary SGD over noise and learning rate.
compare: methods side by side, and claims with their outcome.
phases: phase diagrams of SGD in a valley.
plot: figures of densities, comparisons and escapes.
plot_phases: figures of phases, borders and critical behaviour.
"""

from theory.face import lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
