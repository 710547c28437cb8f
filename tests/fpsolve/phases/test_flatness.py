"""Flatness over (σ, η) and its figures."""

import numpy as np
import pytest

from fpsolve import flatness_diagram, flatness_growth, plot_phases, simulate_valley
from fpsolve.ensemble import plot
from theory import Langevin, degenerate_valley, random_shift
from theory.valley.flatness import coefficients

VALLEY = degenerate_valley(n_sharp=2, n_flat=6, epsilon=1e-3)


def test_flatness_rises_with_noise_until_half_of_the_walkers_diverge():
    start = (1.0, 0.1)
    grid = {"sigma": [1e-4, 0.1, 50.0], "learning_rate": [0.02]}
    diagram = flatness_diagram(VALLEY, **grid, walkers=8, time=1500, burn_in=1000, start=start)
    F = diagram.flatness.isel(learning_rate=0).to_numpy()
    origin = float(coefficients(VALLEY).flatness(np.zeros(6)))
    assert F[0] == pytest.approx(origin, rel=0.01) and F[1] > 1.1 * origin and np.isnan(F[2])
    assert diagram.phase.isel(learning_rate=0).to_numpy().tolist() == [0, 0, 3]
    assert int(diagram.diverged[2, 0]) >= 4 and diagram.settled.dtype.kind in "iuf"
    axes = plot_phases.phase_map(diagram)
    assert "sigma" in axes.get_xlabel()
    with pytest.raises(ValueError, match="burn_in"):
        flatness_diagram(VALLEY, **grid, time=1, burn_in=2)


def test_figures_draw_what_they_are_given():
    import matplotlib.pyplot as plt

    sgd = Langevin(VALLEY, random_shift(learning_rate=0.02, sigma=0.05))
    start = {"flat": 1.0, "sharp": 0.1}
    options = {"time": 4, "time_step": 0.02, "record_every": 0.4, "rng": 0, "start": start}
    cases = {"SGD": (sgd, 8), "GD": (VALLEY, 1)}
    runs = {k: simulate_valley(process, walkers=n, **options) for k, (process, n) in cases.items()}
    figure, panels = plt.subplots(1, 2)
    lines = plot.flatness_dynamics(runs, ax=panels[0]).lines
    assert np.array_equal(lines[0].get_ydata(), runs["SGD"].flatness) and "time" in panels[0].get_xlabel()
    rates = plot.growth(flatness_growth(runs["SGD"]), ax=panels[1])
    assert len(rates.get_legend().get_texts()) == 4
    plt.close(figure)
