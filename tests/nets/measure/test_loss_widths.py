"""Flatness, profiles, minibatch losses and temperatures of a small trained net, against independent computations."""

import types

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from nets import layers, models
from nets import training as train
from nets.data import datasets
from nets.measure import components, controls, loss_widths, minibatch_losses, temperature


@pytest.fixture(scope="module")
def trained():
    """A run between two windows, and the first window's modes."""
    data = datasets.load("digits")
    net = models.fully_connected((64, 16, 16, 10), rng=1)
    start = train.sgd(net, data, learning_rate=0.1, batch_size=50, epochs=40, rng=0)
    window, run = train.record_and_continue(start, layer=1, epochs=10)
    return types.SimpleNamespace(run=run, window=window, modes=components.analyse(window))


@pytest.fixture(scope="module")
def widths(trained):
    return loss_widths.widths(trained.run, trained.modes, directions=range(40))


def _outputs(run, change, layer=1):
    """Logits in float64 with one layer's weights changed, by the plain net."""
    net = models.fully_connected((64, 16, 16, 10)).double()
    net.load_state_dict({k: v.double() for k, v in run.net.state_dict().items()})
    module = layers.checked_layer(net, layer)
    with torch.no_grad():
        module.weight += torch.as_tensor(change).reshape(module.weight.shape)
        return net(run.data.train_inputs.double())


def _loss(run, change, layer=1):
    return float(torch.nn.functional.cross_entropy(_outputs(run, change, layer), run.data.train_labels))


def test_crossings_are_those_of_a_root_finder_on_the_plain_loss(trained, widths):
    start = _loss(trained.run, np.zeros(256))
    assert widths.attrs["loss"] == pytest.approx(start, rel=1e-5)
    for row in (0, 1, 7, 39):
        p = trained.modes.direction.to_numpy()[row]
        for side, sign in (("left", -1), ("right", 1)):
            found = abs(float(widths[side][row]))
            level = lambda s, p=p, sign=sign: np.log(_loss(trained.run, sign * s * p) / start) - 1  # noqa: E731
            exact = brentq(level, 0.3 * found, 2 * found, xtol=1e-8)
            assert found == pytest.approx(exact, rel=2e-3)
        assert float(widths.width[row]) == pytest.approx(float(widths.right[row] - widths.left[row]))
    assert widths.attrs["evaluations_per_direction"] < 5


def test_single_and_double_precision_agree_though_the_loss_is_small(trained, widths):
    double = loss_widths.widths(trained.run, trained.modes, directions=range(40), double=True)
    assert np.allclose(double.width, widths.width, rtol=1e-4)


class _Exact:
    """A loss L₀ exp(height(s)) along every direction, in the place of a net's."""

    def __init__(self, height):
        self.height = height

    def along(self, directions, distances):
        return torch.as_tensor(1e-4 * np.exp(self.height(np.asarray(distances))))


def _crossings(height, guess=1.0, farthest=1e3):
    search = loss_widths.CrossingSearch(_Exact(height), level=1.0, start=1e-4, farthest=farthest)
    return search.crossings(np.zeros((1, 1)), np.full(2, guess))[0]


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e2), st.floats(1.0, 4.0), st.floats(-0.8, 0.8))
def test_crossings_of_power_laws_are_found_from_any_guess(scale, guess, power, tilt):
    height = lambda s: np.abs(s / scale) ** power * (1 + tilt * np.sign(s))  # noqa: E731
    left, right = _crossings(height, guess * scale, 1e3 * scale)
    assert left == pytest.approx(scale * (1 - tilt) ** (-1 / power), rel=2e-2)
    assert right == pytest.approx(scale * (1 + tilt) ** (-1 / power), rel=2e-2)


def test_a_parabola_is_found_exactly_a_slope_shifts_it_and_a_wall_is_closed_in_on():
    assert _crossings(lambda s: s**2 / 4) == pytest.approx([2.0, 2.0], rel=1e-9)
    shifted = [np.roots([1, -0.5, -1]).max(), np.roots([1, 0.5, -1]).max()]
    assert _crossings(lambda s: s**2 + 0.5 * s) == pytest.approx(shifted, rel=1e-3)
    wall = _crossings(lambda s: np.where(np.abs(s) > 0.3, 50.0, 0.0))
    assert wall == pytest.approx([0.3, 0.3], rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.6, 2.0), st.floats(-1.0, 1.0))
def test_a_parabola_of_any_slope_takes_two_losses_on_each_side(guess, slope):
    search = loss_widths.CrossingSearch(
        _Exact(lambda s: s**2 + slope * s), level=1.0, start=1e-4, farthest=1e3
    )
    (ends,) = search.crossings(np.zeros((1, 1)), np.full(2, guess))
    exact = [np.roots([1, sign * slope, -1]).max() for sign in (-1, 1)]
    assert ends == pytest.approx(exact, rel=1e-6)
    assert search.evaluations <= 4


def test_a_side_that_never_reaches_the_level_is_open_and_not_the_reach():
    left, right = _crossings(lambda s: np.where(s > 0, s**2, np.tanh(s) / 2))
    assert left == np.inf and right == pytest.approx(1.0, rel=1e-3)


def test_an_open_direction_of_a_net_is_reported(trained):
    # Weights into a unit that is dead for all samples change nothing at all.
    run = trained.run
    net = models.fully_connected((64, 16, 16, 10))
    net.load_state_dict(run.net.state_dict())
    with torch.no_grad():
        layers.checked_layer(net, 2).weight[:, 3] = 0.0  # nothing listens to unit 3
    deaf = types.SimpleNamespace(net=net, data=run.data)
    axis = np.zeros((1, 16, 16))
    axis[0, 3, 5] = 1.0
    modes = xr.Dataset({"direction": (("mode", "weight"), axis.reshape(1, -1))}, {"mode": [1]}, {"layer": 1})
    found = loss_widths.widths(deaf, modes)
    assert np.isinf(found.width[0]) and int(found.open_left[0]) == int(found.open_right[0]) == 1
    assert found.attrs["open_directions"] == 1


def test_a_loss_that_is_zero_to_rounding_is_refused(trained):
    net = models.fully_connected((64, 16, 16, 10))
    net.load_state_dict(trained.run.net.state_dict())
    with torch.no_grad():
        layers.checked_layer(net, 2).weight *= 1e4
    x, y = trained.run.data.train_inputs, trained.run.data.train_labels
    kept = net(x).argmax(1) == y
    data = types.SimpleNamespace(train_inputs=x[kept], train_labels=y[kept], samples=1)
    with pytest.raises(ValueError, match="zero to rounding"):
        loss_widths.widths(types.SimpleNamespace(net=net, data=data), trained.modes, directions=[0])


def test_input_that_does_not_fit_is_refused_by_name(trained):
    run, modes = trained.run, trained.modes
    with pytest.raises(ValueError, match="factor=1"):
        loss_widths.widths(run, modes, factor=1.0)
    with pytest.raises(ValueError, match="do not exist"):
        loss_widths.widths(run, modes, directions=[10_000])
    with pytest.raises(ValueError, match="directions is empty"):
        loss_widths.widths(run, modes, directions=[])
    other = modes.assign_attrs(layer=2)
    with pytest.raises(ValueError, match="layer 2 has 160"):
        loss_widths.widths(run, other)
    with pytest.raises(ValueError, match="points=4"):
        minibatch_losses.profiles(run, modes, modes, points=4)
    with pytest.raises(ValueError, match="count=256"):
        controls.hessian_basis(run, layer=1, count=256)


def test_profiles_are_the_plain_loss_and_their_inverse_gaussian_has_about_the_measured_width(trained, widths):
    profiles = loss_widths.profiles(trained.run, trained.modes, widths.isel(mode=slice(1, 20)))
    middle = profiles.sizes["point"] // 2
    row = trained.modes.direction.to_numpy()[4]
    x = float(profiles.distance[3, middle + 5])
    assert float(profiles.loss[3, middle + 5]) == pytest.approx(_loss(trained.run, x * row), rel=1e-9)
    fits = loss_widths.profile_fits(profiles)
    assert float(fits.inverse_gaussian_misfit.max()) < 0.5 and float(fits.quadratic_misfit.max()) < 0.5
    # ln L is no parabola all the way to the crossing: its width is near the one measured, not equal.
    assert np.allclose(fits.width, widths.width[1:20], rtol=0.3)


def test_profiles_of_an_exact_inverse_gaussian_give_back_its_curvature():
    x = np.linspace(-1, 1, 21)
    loss = 0.3 * np.exp(0.2 * x + 0.5 * 4.0 * x**2)
    profiles = xr.Dataset(
        {"loss": (("mode", "point"), loss[None])}, {"mode": [1], "distance": (("mode", "point"), x[None])}
    )
    fits = loss_widths.profile_fits(profiles)
    assert float(fits.curvature[0]) == pytest.approx(4.0)
    assert float(fits.slope[0]) == pytest.approx(0.2)
    assert float(fits.width[0]) == pytest.approx(np.sqrt(2.0))
    assert float(fits.inverse_gaussian_misfit[0]) < 1e-9 < float(fits.quadratic_misfit[0])


def test_hessian_products_give_the_eigenvectors_of_the_dense_hessian(trained):
    run = trained.run
    basis = controls.hessian_basis(run, layer=1, count=6, share=1.0)
    weight = layers.checked_layer(run.net, 1).weight.detach().double()
    net = models.fully_connected((64, 16, 16, 10)).double()
    net.load_state_dict({k: v.double() for k, v in run.net.state_dict().items()})
    names = [name for name, _ in net.named_parameters()]
    rest = {k: v.detach() for k, v in net.named_parameters()}

    def loss(w):
        y = torch.func.functional_call(
            net, rest | {names[1]: w.view(16, 16)}, (run.data.train_inputs.double(),)
        )
        return torch.nn.functional.cross_entropy(y, run.data.train_labels)

    hessian = torch.func.hessian(loss)(weight.reshape(-1)).numpy()
    values, vectors = np.linalg.eigh(hessian)
    assert np.allclose(basis.curvature, values[::-1][:6], rtol=1e-3)
    assert np.abs(basis.direction.to_numpy()[0] @ vectors[:, -1]) == pytest.approx(1, abs=1e-3)
    fewer = controls.hessian_basis(run, layer=1, count=6)
    assert fewer.attrs["samples_used"] < run.data.samples
    assert np.allclose(fewer.curvature, basis.curvature, rtol=0.02)


def test_minibatch_profiles_are_the_losses_of_minibatches(trained, widths):
    some = widths.isel(mode=slice(1, 12))
    curves = minibatch_losses.profiles(trained.run, trained.modes, some, rng=7)
    count = trained.run.data.samples // 50
    assert curves.minibatch_loss.shape == (11, 11, count)
    # An epoch deals every sample once, so the mean is the loss itself (1500 = 30 · 50).
    row = trained.modes.direction.to_numpy()[3]
    x = float(curves.distance[2, 9])
    assert float(curves.loss[2, 9]) == pytest.approx(_loss(trained.run, x * row), rel=1e-9)


def test_parabolas_of_exact_inverse_gaussians_are_found_again():
    rng = np.random.default_rng(0)
    x = np.linspace(-0.5, 0.5, 7)
    M, place, value = rng.uniform(1, 5, (3, 8)), rng.normal(size=(3, 8)), rng.uniform(0.1, 2, (3, 8))
    logs = np.log(value)[:, None] + 0.5 * M[:, None] * (
        x[None, :, None] ** 2 - 2 * x[None, :, None] * place[:, None]
    )
    curves = xr.Dataset(
        {
            "minibatch_loss": (("mode", "point", "batch"), np.exp(logs)),
            "loss": (("mode", "point"), np.exp(logs).mean(2)),
        },
        {"mode": [1, 2, 3], "distance": (("mode", "point"), np.tile(x, (3, 1)))},
        {"learning_rate": 0.1},
    )
    fitted = minibatch_losses.ensemble(curves)
    assert np.allclose(fitted.curvature, M) and np.allclose(fitted.minimum, place)
    assert np.allclose(fitted.value, value) and float(fitted.residual.max()) < 1e-9
    predicted = minibatch_losses.predictions(curves)
    assert np.allclose(predicted.mean_curvature, M.mean(1) + (M * place).var(1))
    assert np.allclose(predicted.velocity_variance_measured, 0.01 * np.square(value * M * place).mean(1))


def test_the_temperature_is_half_the_learning_rate_times_the_variance_of_minibatch_slopes(trained):
    run, modes = trained.run, trained.modes
    hot = temperature.active_temperature(run, modes, directions=[1, 5], distances=[0.0, 0.4], batch_size=50)
    p = modes.direction.to_numpy()[5]
    step = 1e-5

    def each(x):
        y = _outputs(run, x * p)
        return torch.nn.functional.cross_entropy(y, run.data.train_labels, reduction="none").numpy()

    slopes = (each(0.4 + step) - each(0.4 - step)) / (2 * step)
    rng = np.random.default_rng(0)
    drawn = np.array([slopes[rng.permutation(len(slopes))[:50]].mean() for _ in range(20_000)])
    square = np.square(drawn - slopes.mean())
    value, error = square.mean() * 0.05, square.std() / np.sqrt(len(square)) * 0.05
    assert abs(float(hot.temperature[1, 1]) - value) < 4 * error
    whole = temperature.active_temperature(
        run, modes, directions=[5], distances=[0.4], batch_size=run.data.samples
    )
    assert float(whole.temperature[0, 0]) == 0.0  # one batch of everything has no noise
    # The correction for drawing without replacement (1 − 49/1499) is seen at this precision or not: state it.
    exact = 0.05 * slopes.var() / 50 * (len(slopes) - 50) / (len(slopes) - 1)
    assert float(hot.temperature[1, 1]) == pytest.approx(exact, rel=1e-5)
