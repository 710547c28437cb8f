"""Data sets for classification.

load: a public data set by name, standardised, with training and test rows apart.
from_npz: a data set of one's own from an npz file.
gaussian_clusters: a synthetic data set of normal clusters with unit variance.
Data: inputs and labels of a classification problem, training and test rows apart.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
