"""Escape of a network from a box around a minimum.

simulate_box_escape: first exits of many replicas of SGD from a box around their start.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
