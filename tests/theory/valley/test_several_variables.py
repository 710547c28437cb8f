"""Several sharp and several flat variables: effective losses, averaged dynamics, and the ensemble they describe."""

import numpy as np
import pytest
import sympy as sp

from fpsolve import compare, simulate, stationary_density
from theory import (
    Landscape,
    Langevin,
    adiabatic,
    anisotropic,
    degenerate_valley,
    double_well,
    flatness,
    random_shift,
)

x1, x2, y1, y2 = sp.symbols("x1 x2 y1 y2", real=True)
delta, kappa, eta = sp.symbols("Delta kappa eta", positive=True)
first, second = (sp.Function(n, positive=True)(x1, x2) for n in ("f", "g"))
GENERAL = Landscape(first * y1**2 / 2 + second * y2**2 / 2, (x1, x2, y1, y2), fast=(y1, y2))


def _vanishes(expression):
    return sp.simplify(sp.expand_log(sp.expand(expression), force=True)) == 0


def test_lowest_order_descends_the_averaged_loss_for_any_curvatures():
    reduced = adiabatic.eliminate(Langevin(GENERAL, random_shift(delta_s=delta)), order=1)
    loss = flatness.averaged_loss(GENERAL, delta_s=delta)
    assert all(_vanishes(b + loss.diff(x)) for b, x in zip(reduced.drift, (x1, x2), strict=True))
    at_rate = flatness.averaged_loss(GENERAL, delta_s=delta, learning_rate=eta)
    for x in (x1, x2):
        variances = [delta * c / (1 - eta * c / 2) for c in (first, second)]
        wanted = (variances[0] * first.diff(x) + variances[1] * second.diff(x)) / 2
        assert sp.simplify(at_rate.diff(x) - wanted) == 0


def test_near_the_origin_it_ascends_the_weighted_flatness():
    valley = degenerate_valley(n_sharp=3, n_flat=2, epsilon=0, rng=2)
    total = sum(flatness.noise_strengths(valley, delta_s=delta))
    ascent = total * flatness.log_weighted_flatness(valley)
    loss = flatness.averaged_loss(valley, delta_s=delta)
    at = dict.fromkeys(valley.slow, sp.Rational(1, 10**6))
    for x in valley.slow:
        assert float((loss.diff(x) / ascent.diff(x)).subs(at)) == pytest.approx(-1, rel=1e-9)
        # Farther out the strengths λ_i(x)² replace λ_i(0)²: the published form is then too fast.
        far = dict.fromkeys(valley.slow, 1)
        assert abs(float((loss.diff(x) / ascent.diff(x)).subs(far)) + 1) > 0.1


def test_flatness_loss_of_equation_15_is_that_of_constant_noise_with_several_strengths():
    d1, d2 = sp.symbols("d1 d2", positive=True)
    f, g = (sp.Function(n, positive=True)(x1) for n in ("f", "g"))
    landscape = Landscape(f * y1**2 / 2 + g * y2**2 / 2, (x1, y1, y2), fast=(y1, y2))
    process = Langevin(landscape, anisotropic(D=[(d1 + d2) / 2 / kappa, d1, d2]))
    strengths = dict(zip((d1, d2), flatness.noise_strengths(landscape, delta_s=delta), strict=True))
    published = flatness.flatness_loss(landscape, delta_s=delta, kappa=kappa)
    for order in (0, 1):
        found = adiabatic.eliminate(process, order=order).regularisation
        assert _vanishes((found.subs(strengths) - published).diff(x1))


def test_named_curvatures_give_what_written_out_ones_do():
    f, g = 4 + x1**2 * x2**2 - x1**2 / 3, 3 + x2**4 + x1 * x2 / 2
    written = Landscape(f * y1**2 / 2 + g * y2**2 / 2, (x1, x2, y1, y2), fast=(y1, y2))
    general = adiabatic.eliminate(Langevin(GENERAL, random_shift(delta_s=delta)), order=2)
    special = adiabatic.eliminate(Langevin(written, random_shift(delta_s=delta)), order=2)
    at = {x1: sp.Rational(3, 10), x2: sp.Rational(-7, 10), delta: sp.Rational(1, 100)}
    for name in ("drift", "diffusion"):
        replaced = getattr(general, name).subs({first: f, second: g}).doit().subs(at)
        assert np.array(replaced, float) == pytest.approx(np.array(getattr(special, name).subs(at), float))
    # One curvature that depends on one variable is the reduction to that variable.
    alone = Landscape((8 - 2 * x1**2 + x1**4) * y1**2 / 2, (x1, y1), fast=(y1,))
    single = adiabatic.eliminate(Langevin(alone, random_shift(delta_s=delta)), order=2)
    curvature = {first: 8 - 2 * x1**2 + x1**4, second: sp.Integer(5)}
    joint = general.diffusion.subs(curvature).doit()
    assert sp.simplify(joint[0, 0] - single.diffusion) == 0 and sp.simplify(joint[1, 1]) == 0


@pytest.mark.slow
def test_second_order_meets_the_ensemble_in_two_sharp_and_two_flat_variables_and_lowest_order_is_too_wide():
    valley = degenerate_valley(n_sharp=2, n_flat=2, epsilon=2e-3, rng=3, depth=0.3)
    noise, rate = 4e-3, 0.005
    start = {"x1": 1.03, "x2": 0.84, "y1": 0.1, "y2": 0.1}
    sgd = Langevin(valley, random_shift(delta_s=noise, learning_rate=rate))
    paths = simulate(sgd, walkers=256, time=600, burn_in=200, rng=1, start=start)
    box = {"x1": (0.75, 1.3), "x2": (0.6, 1.1)}
    found = {}
    for order in (1, 2):
        reduced = adiabatic.eliminate(Langevin(valley, random_shift(delta_s=noise)), order=order)
        density = stationary_density(reduced.slow_process, box=box, symmetry=False, walls="reflecting")
        found[order] = compare.averages(density)
    for k, name in enumerate(("x1", "x2")):
        width, error = float(paths.abs_std[k]), float(paths.abs_std_stderr[k])
        # The map's own widening at this rate is 2 %; elimination leaves out as much.
        assert abs(found[2][f"std({name})"] - width) < 0.04 * width + 4 * error
        assert found[1][f"std({name})"] > 1.3 * width
        mean, error = float(paths.abs_mean[k]), float(paths.abs_mean_stderr[k])
        assert abs(found[2][f"<{name}>"] - mean) < 0.005 * mean + 4 * error


def test_flatness_without_sharp_variables_is_refused():
    with pytest.raises(ValueError, match="slow and fast"):
        flatness.log_flatness(double_well())
    valley = degenerate_valley()
    assert float(flatness.log_flatness(valley).subs(valley.variables[0], 1)) == pytest.approx(-np.log(7) / 2)
