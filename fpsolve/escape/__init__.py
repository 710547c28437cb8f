"""Escape times of walkers: direct, by splitting, and scans over parameters."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
