"""Training loops, recorded windows, checkpoints."""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
