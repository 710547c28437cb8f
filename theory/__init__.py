"""Symbolic theory of SGD as a stochastic process: landscapes, noise, closed forms."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
