"""Figures of the study of variance and flatness: they draw what they are given, and label axes."""

import matplotlib
import numpy as np
import pytest
import xarray as xr

from nets.measure import loss_widths
from nets.measure.exponents import Exponent
from notebooks.studies.variance_flatness import plot
from notebooks.studies.variance_flatness.claims import Row

matplotlib.use("Agg")


@pytest.fixture
def ax():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def _over_modes(values):
    return xr.DataArray(np.asarray(values, float), {"mode": np.arange(1, len(values) + 1)}, "mode")


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


def test_controls_show_every_case_from_top_to_bottom(ax):
    measured = {"same window": _psi(), "random walk": _psi(0.0, -9.0, 9.0)}
    row = Row("psi", 4.0, 3.5, 4.5, measured, "reproduced")
    plot.controls(row, ax=ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["same window", "random walk"]
    # An interval that says nothing does not set the scale.
    assert ax.yaxis_inverted() and ax.get_xlim()[1] < 6


def test_minibatches_temperatures_agreement_and_histories_are_drawn(ax):
    x = np.linspace(-1, 1, 11)
    loss = 0.01 * np.exp(2 * x**2)
    coords = {"mode": [3], "distance": (("mode", "point"), x[None])}
    profiles = xr.Dataset({"loss": (("mode", "point"), loss[None])}, coords, {"loss": 0.01})
    batches = profiles.assign(
        minibatch_loss=(("mode", "point", "batch"), np.stack([loss, 2 * loss], -1)[None])
    )
    plot.minibatch_profiles(batches, 3, ax=ax)
    assert len(ax.lines) == 4
    ax.clear()
    plot.temperatures(xr.Dataset({"temperature": (("mode", "point"), loss[None])}, coords), ax=ax)
    assert np.array_equal(ax.lines[0].get_ydata(), loss)
    ax.clear()
    plot.agreement(_over_modes([1.0, 2.0, 4.0]), {"theory": _over_modes([1.1, 2.1, 3.9])}, ax=ax)
    assert ax.get_xlabel() == "measured"
    ax.clear()
    history = xr.DataArray([1.0, 0.1, 0.01], dims="epoch", coords={"epoch": [0, 1, 2]})
    plot.loss_history(history, windows=[(1, 2)], ax=ax)
    assert ax.get_yscale() == "log"


def _table():
    """Three experiments, the last not run."""
    value = np.array([[4.0, 2.0], [5.0, 2.2], [np.nan, np.nan]])
    both = ("experiment", "case")
    return xr.Dataset(
        {
            "psi": (both, value), "psi_low": (both, value - 0.5), "psi_high": (both, value + 0.7),
            "learning_rate": ("experiment", [0.1, 0.05, 0.2]), "seeds": ("experiment", [3, 3, 0]),
        },
        {"experiment": ["base", "slow", "fast"], "case": ["same window", "next window"]},
    )  # fmt: skip


def test_experiments_are_drawn_with_their_intervals_and_those_not_run_are_left_out(ax):
    plot.experiments(_table(), "psi", paper=(3.5, 4.5), ax=ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["base", "slow"]
    assert list(ax.lines[0].get_xdata()) == [4.0, 5.0] and list(ax.lines[1].get_xdata()) == [2.0, 2.2]
    ax.clear()
    plot.against_setting(_table(), "learning_rate", {"equal epochs": ["base", "slow", "fast"]}, ax=ax)
    line = ax.lines[0]
    assert list(line.get_xdata()) == [0.05, 0.1] and list(line.get_ydata()) == [5.0, 4.0]
    assert ax.get_legend().get_texts()[1].get_text() == "next window, equal epochs"


def test_dimensions_are_drawn_over_the_number_of_weights_and_lower_bounds_are_marked(ax):
    H, D = np.array([10, 20]), np.array([[90.0, 91.0], [100.0, 110.0]])
    parts = {"sharp": D, "sharp_at_most": D + np.array([[1.0], [0.0]])}
    for name in ("sharp", "sharp_common", "learning_99", "learning_999"):
        parts |= {f"{name}_{end}": D.mean(1) + k for end, k in (("mean", 0), ("low", -5), ("high", 5))}
    parts["sharp_at_most_mean"] = parts["sharp_at_most"].mean(1)
    result = xr.Dataset(
        {k: (("hidden_width", "training")[: v.ndim], v) for k, v in parts.items()}, {"hidden_width": H}
    )
    plot.dimensions(result, ax=ax)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "$D_s$ at most" in labels and "all weights" in labels
    bounds = next(line for line in ax.lines if line.get_label() == "$D_s$ at most")
    assert list(bounds.get_xdata()) == [100] and list(bounds.get_ydata()) == [91.5]
    ax.clear()
    F = np.array([[0.2, 2.0, np.nan]])
    spectra = xr.Dataset(
        {"width_mean": (("hidden_width", "rank"), F)}, {"hidden_width": [10]}, {"common_threshold": 2.0}
    )
    plot.flatness_spectra(spectra, ax=ax)
    assert ax.lines[0].get_ydata() == pytest.approx([0.2, 2.0, np.nan], nan_ok=True)
