"""What SGD does slowly along a flat valley: elimination of fast variables, borders, times, flatness."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
