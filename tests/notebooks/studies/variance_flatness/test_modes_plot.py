"""Figures of networks: they draw what they are given, label axes, and change nothing."""

import matplotlib
import numpy as np
import pytest
import xarray as xr

from nets.measure import loss_widths
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness import plot

matplotlib.use("Agg")


@pytest.fixture
def ax():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def _over_modes(values):
    return xr.DataArray(
        np.asarray(values, float), dims="mode", coords={"mode": np.arange(1, len(values) + 1)}
    )


def _psi(value=4.0, low=3.5, high=4.5):
    return Exponent("psi", value, low, high, "seeds", -0.9, 30, 0, 2, 30, "basis", "sgd", 1e-4, 5, 2.0)


def test_spectra_and_cumulative_shares_are_drawn_as_given(ax):
    variance = _over_modes(np.arange(1.0, 51) ** -2.5)
    assert plot.spectrum({"raw": variance, "detrended": variance / 2}, ax=ax) is ax
    assert np.array_equal(ax.lines[0].get_ydata(), variance) and ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["raw", "detrended"]
    ax.clear()
    plot.cumulative_variance(_over_modes([0.5, 0.85, 0.95, 1.0]), ax=ax)
    assert "90% at mode 3" in ax.texts[0].get_text()


def test_power_laws_go_through_their_points_with_their_exponent(ax):
    F = _over_modes(np.geomspace(0.4, 4, 40))
    F[7] = np.inf
    plot.against_flatness(F, {"psi": 2.0 * F.where(np.isfinite(F), 1.0) ** -4.0}, fits={"psi": _psi()}, ax=ax)
    points, line = ax.lines
    assert len(points.get_xdata()) == 39  # the open-ended mode is not drawn
    assert np.allclose(line.get_ydata(), 2.0 * line.get_xdata() ** -4.0)
    assert "4.00 [3.50, 4.50]" in ax.get_legend().get_texts()[0].get_text()


def test_profiles_times_and_trajectories_are_drawn(ax):
    x = np.linspace(-1, 1, 11)
    loss = 0.01 * np.exp(2 * x**2)
    coords = {"mode": [3], "distance": (("mode", "point"), x[None])}
    profiles = xr.Dataset({"loss": (("mode", "point"), loss[None])}, coords, {"loss": 0.01})
    plot.profiles(profiles, fits=loss_widths.profile_fits(profiles), ax=ax)
    assert np.allclose(ax.lines[0].get_ydata(), 2 * x**2) and np.allclose(ax.lines[1].get_ydata(), 2 * x**2)
    ax.clear()
    plot.correlation_times({"same window": _over_modes([9.0, 5.0, 2.0])}, nulls={"T/6": 20.0}, ax=ax)
    assert ax.lines[1].get_ydata()[0] == 20.0
    ax.clear()
    modes = xr.Dataset({"projection": (("step", "mode"), np.arange(6.0).reshape(3, 2))}, {"mode": [1, 2]})
    plot.trajectory(modes, 1, 2, ax=ax)
    assert np.array_equal(ax.lines[0].get_xdata(), [0, 2, 4])
