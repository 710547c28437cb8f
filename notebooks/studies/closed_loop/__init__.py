"""From a trained network to a measured valley and back: theory, density, ensemble, SGD."""
