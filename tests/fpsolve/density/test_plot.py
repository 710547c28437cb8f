"""Figures of fields on a mesh: what the axes and the colour bar say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from fpsolve import plot


@pytest.mark.parametrize(
    ("long_name", "label", "largest"),
    [("stationary probability density", r"$\log_{10} P(x, y)$", -1.0), ("committor", "committor", 0.1)],
)
def test_a_map_is_logarithmic_for_a_density_alone(long_name, label, largest):
    coords = {"x": np.arange(3.0), "y": np.arange(4.0)}
    field = xr.DataArray(
        np.linspace(0, 0.1, 12).reshape(3, 4), coords, ("x", "y"), attrs={"long_name": long_name}
    )
    figure, (axes, curve) = plt.subplots(2)
    plot.density(field, ax=axes)
    assert axes.collections[0].get_array().max() == pytest.approx(largest)
    assert figure.axes[-1].get_ylabel() == label
    plot.density(field.isel(y=1), ax=curve)
    plt.close(figure)
    assert curve.get_ylabel() == ("$p(x)$" if "density" in long_name else long_name)
