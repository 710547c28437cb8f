"""Forgetting of a first task under constraints on flat directions."""
