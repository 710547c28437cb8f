"""Variance and flatness of trained networks (Feng and Tu)."""
