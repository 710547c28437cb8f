"""Labels, headings and intervals of results."""

import numpy as np
import pytest
import xarray as xr

import fpsolve
from fpsolve import style
from fpsolve.results import dataset, interval_text, provenance, quantity, side_of_zero, with_interval
from fpsolve.table import markdown


def test_a_dataset_is_labelled_headed_and_can_be_stored(tmp_path):
    found = dataset(
        {"rate": quantity([1.0, 2.0], "x", "escape rate", "1/time")},
        coords={"x": quantity([0, 1], "x", "place", origin=np.float64(0.5))},
        title="rates", walkers=np.int64(3), exact=True, seed=None,
    )  # fmt: skip
    assert found.rate.attrs == {"long_name": "escape rate", "units": "1/time"}
    assert found.x.attrs == {"long_name": "place", "units": "1", "origin": 0.5}
    assert found.attrs == {
        "title": "rates", "walkers": 3, "exact": 1, "fpsolve_version": fpsolve.__version__
    }  # fmt: skip
    found.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as read:
        assert read.identical(found)
    with pytest.raises(TypeError, match=r"fit=\(2, 3\) must be text or a number"):
        provenance("rates", fit=(2, 3))


def test_intervals_are_written_in_one_way():
    assert interval_text(0.2123, 0.19, 0.2249) == "0.21 [0.19, 0.22]"
    assert interval_text(1, 0.5, 2, form=".2f") == "1.00 [0.50, 2.00]"
    summary = xr.Dataset({"a": 1.5, "a_low": 1.0, "a_high": 2.0})
    assert with_interval(summary, "a") == "1.5 [1, 2]" and side_of_zero(summary, "a") == "above"
    with pytest.raises(ValueError, match="select one place"):
        with_interval(summary.expand_dims("x"), "a")


def test_axes_and_their_labels_come_from_the_data():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots()
    assert style.axes(ax) is ax and style.axes() is ax
    assert len(set(style.palette.values())) == len(style.palette)
    assert style.label(xr.DataArray(1.0, attrs={"long_name": "rate", "units": "1/time"})) == "rate (1/time)"
    assert style.label(xr.DataArray(1.0, name="psi")) == "psi"
    found = xr.Dataset({"a": ("x", [1.0, 2.0]), "a_low": ("x", [0.5, 1.0]), "a_high": ("x", [3.0, 2.5])})
    assert style.sides(found, "a").tolist() == [[0.5, 1.0], [2.0, 0.5]]
    style.band(ax, [0, 1], found, "a", marker="o")
    assert ax.lines[-1].get_ydata().tolist() == [1.0, 2.0] and len(ax.collections) == 1
    ax.set(xscale="log", xlim=(1, 20))
    style.few_ticks(ax)
    assert ax.xaxis.get_major_formatter()(5) == "5" and 5 in ax.get_xticks().tolist()
    assert style.curve(5) == style.curve(0) != style.curve(1)
    plt.close(figure)


def test_cells_under_a_head_are_a_table_in_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
