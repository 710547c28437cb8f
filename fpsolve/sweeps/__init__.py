"""Grids of runs, and datasets kept on disk.

sweep: a function at every point of a grid, kept on disk.
open_sweep: the finished points of a sweep.
Failure: a point whose run raised an error.
SweepError: the error that names the failed points of a grid.
kept: a dataset on disk, with the question that it answers.
digest: the hash of arrays in such a question.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
