"""Escape times of walkers: direct, by splitting, and scans over parameters.

simulate_escape: the time at which each walker first reaches a target.
simulate_minibatch_escape: the same for SGD on a finite data set.
split_escape: the mean time to a target behind a high barrier, by splitting.
escape_rate: the rate of escape with its interval.
EscapeSetting: a way out of a valley, with every number that a scan may vary.
styblinski_tang_setting: the escape experiment of ICLR 2021 in three readings.
scan_escape: escape rates for several values of one number of a setting.
fit_slope: the slope of −ln γ along a scan, by Poisson likelihood.
slope_table: fitted slopes beside those of the theorems.
ways_out: the saddles between the start's valley and a target.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
