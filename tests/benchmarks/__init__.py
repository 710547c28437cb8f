"""Benchmarks: medians of repeats, side by side with peers in one run, as ratios; never a timed test."""
