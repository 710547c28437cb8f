"""Effective dimensions: counting, shares, against width."""

import numpy as np
import pytest
import xarray as xr

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure import components, loss_widths
from notebooks.studies.variance_flatness import dimension


def test_the_learning_dimension_counts_the_modes_that_hold_the_share():
    modes = xr.Dataset(
        {"variance": ("mode", [90.0, 8.0, 1.5, 0.4])}, {"mode": [1, 2, 3, 4]}, {"total_variance": 100.0}
    )
    assert dimension.learning_dimension(modes, share=0.9) == 1
    assert dimension.learning_dimension(modes) == 3
    with pytest.raises(ValueError, match=r"hold 99\.90%"):
        dimension.learning_dimension(modes, share=0.9995)


@pytest.fixture(scope="module")
def trained():
    data = datasets.load("digits")
    net = models.fully_connected((64, 12, 12, 10), rng=0)
    run = train.sgd(net, data, learning_rate=0.1, batch_size=50, epochs=30, rng=0)
    window, last = train.record_and_continue(run, layer=1, epochs=8)
    return last, components.analyse(window)


def test_the_sharp_dimension_is_the_number_of_narrow_widths_among_all(trained):
    run, modes = trained
    widths = loss_widths.widths(run, modes)
    level = 0.5 * widths.attrs["norm"]
    exact = int((widths.width < level).sum())
    assert exact > 0
    assert dimension.sharp_dimension(run, modes, block=40) == exact
    narrow = float(np.sort(widths.width)[2])
    assert dimension.sharp_dimension(run, modes, threshold=narrow * 1.0001) == 3


def test_a_dimension_is_a_lower_bound_where_all_modes_are_sharp_and_says_so(trained):
    run, modes = trained
    few = modes.isel(mode=slice(0, 4))
    assert dimension.sharp_bounds(run, few)[:2] == (3, 143)
    with pytest.warns(UserWarning, match="lower bound"):
        assert dimension.sharp_dimension(run, few) == 3
    whole = dimension.sharp_bounds(run, modes, threshold=1e9)
    assert whole[0] <= modes.sizes["mode"] and whole[1] <= 144


def test_the_growth_of_a_dimension_is_the_slope_in_the_number_of_weights():
    H, rng = np.array([10, 20, 40]), np.random.default_rng(0)
    values = 3.0 * H[:, None] ** (2 * 0.25) * np.exp(0.02 * rng.normal(size=(3, 8)))
    result = xr.Dataset({"sharp": (("hidden_width", "training"), values)}, {"hidden_width": H})
    value, low, high = dimension.growth(result)
    assert low < 0.25 < high < 0.3 and value == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="leaves 1 widths"):
        dimension.growth(result, smallest=40)


@pytest.mark.slow
def test_dimensions_against_width_come_with_error_bars_over_seeds_and_are_kept(tmp_path, monkeypatch):
    data, store = datasets.load("digits"), tmp_path / "width.nc"
    found = dimension.against_width(data, [8, 12], seeds=2, epochs=25, window=5, store=store)
    assert (found.sharp_at_most >= found.sharp).all()
    assert ((found.width < 0.5 * found.norm).sum("rank") == found.sharp).all()
    assert (found.sharp_common <= found.sharp).all() and (found.sharp_common == found.sharp).any()
    monkeypatch.setattr(train, "sgd", None)  # nothing is trained again
    again = dimension.against_width(data, [8, 12], seeds=2, epochs=25, window=5, store=store)
    assert again.equals(found)
    assert found.sharp.shape == (2, 2) and (found.sharp > 0).all()
    assert (found.learning_999 >= found.learning_99).all()
    assert (found.sharp_low <= found.sharp_mean).all() and (found.sharp_mean <= found.sharp_high).all()
    assert found.width_mean.dims == ("hidden_width", "rank")
    assert found.width_mean.to_numpy() == pytest.approx(
        np.exp(np.log(found.width.transpose("training", ...)).mean("training", skipna=False)).to_numpy(),
        nan_ok=True,
    )
    assert np.array_equal(found.sharp_at_most_mean, found.sharp_at_most.mean("training"))
    with pytest.raises(ValueError, match="seeds=1"):
        dimension.against_width(data, [8], seeds=1)
