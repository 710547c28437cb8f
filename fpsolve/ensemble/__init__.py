"""Ensembles of walkers: SGD maps and Euler–Maruyama.

simulate: final positions, moments, histograms and paths of any process.
simulate_valley: flatness, loss and final positions in a valley of many dimensions.
flatness_growth: the growth of flatness beside that of the averaged dynamics.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
