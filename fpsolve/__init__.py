"""Stationary and evolving Fokker–Planck densities, ensembles of SGD, and their comparison with theory."""

from theory.face import lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
