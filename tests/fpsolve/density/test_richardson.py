"""Extrapolation over three meshes: order 4 from order 2, errors that hold, no use outside its range."""

import numpy as np
import pytest

from fpsolve.density.grid import Grid
from fpsolve.density.richardson import extrapolated


def _exact(points):
    return np.sin(points[..., 0]) - points[..., 1] ** 2 / 3


def _meshes(shape, mirrored=()):
    grid = Grid(("x", "y"), (0.0, -2.0), (3.0, 2.0), shape, mirrored)
    return [grid, grid.coarsened(), grid.coarsened().coarsened()]


def _field(grid, slope=1.0):
    """The exact logarithm with errors of h² and h⁴; unknown beyond x = 1.5."""
    points, h = grid.points(), grid.widths[0]
    error = slope * (h**2 * np.cos(points[..., 1]) + h**4 * points[..., 0])
    return np.where(points[..., 0] < 1.5, _exact(points) + error, np.nan)


def _means(field, grid):
    return np.array([np.nanmean(field), np.log(np.nanmean(np.exp(field)))])


@pytest.mark.parametrize("shape", [(64, 48), (72, 70)])
@pytest.mark.parametrize("mirrored", [(), ("x",)])
def test_order_two_becomes_order_three_or_more_and_the_error_holds(shape, mirrored):
    errors = []
    for factor in (1, 2):
        grids = _meshes(tuple(factor * n for n in shape), mirrored)
        fields = [_field(grid) for grid in grids]
        found = extrapolated(fields, grids, _means)
        exact = _field(grids[0], slope=0.0)
        errors.append(np.nanmax(np.abs(found.field - exact)))
        assert found.used
        assert errors[-1] < 0.1 * np.nanmax(np.abs(fields[0] - exact))
        assert np.abs(_means(found.field, grids[0]) - _means(exact, grids[0])).max() < found.error
    assert np.log2(errors[0] / errors[1]) > 2.7


def test_an_exact_state_stays_as_it_is():
    grids = [Grid(("x", "y"), (-6.0, -7.0), (6.0, 7.0), (n, n)) for n in (64, 32, 16)]
    fields = [-((grid.points()[..., 0] - 0.3) ** 4) - grid.points()[..., 1] ** 2 for grid in grids]

    def moments(field, grid):
        weights = np.exp(field - np.log(np.exp(field).sum()))
        return np.einsum("xy,xya->a", weights, grid.points() ** 2)

    found = extrapolated(fields, grids, moments)
    assert not found.used
    np.testing.assert_array_equal(found.field, fields[0])


@pytest.mark.parametrize("slope", [1.0, -30.0])
def test_a_field_outside_the_asymptotic_range_stays_and_its_error_is_its_change(slope):
    grids = _meshes((32, 32))
    fields = [_field(g) + slope * s for g, s in zip(grids, (0.0, 0.03, -0.05), strict=True)]
    found = extrapolated(fields, grids, _means)
    assert not found.used
    np.testing.assert_array_equal(found.field, fields[0])
    assert found.error >= np.abs(_means(fields[0], grids[0]) - _means(fields[1], grids[1])).max()
