"""Symbols to code: NumPy functions, source text of kernels, random numbers by counter.

numpy_function: an expression, or an array of them, as a NumPy function.
signed_function: the function that is positive inside a target, in symbols.
target_function: the same as a NumPy function.
cache_directory: the directory of compiled kernels.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
