"""Symbols to arrays: NumPy functions, numba kernels and random numbers."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
