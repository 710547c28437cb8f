"""Gradient noise and curvature along training."""
