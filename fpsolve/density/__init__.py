"""Densities and times on a mesh: stationary, evolving, spectral, backward."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
