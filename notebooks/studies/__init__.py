"""The papers' studies: one package for each notebook on networks."""
