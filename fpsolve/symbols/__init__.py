"""From sympy expressions to arrays: NumPy functions, kernel source and cache, targets, random numbers."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
