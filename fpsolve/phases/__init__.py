"""Phase diagrams of SGD in a valley."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
