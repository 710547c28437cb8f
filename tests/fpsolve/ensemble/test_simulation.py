"""Ensembles: the generator's published vectors, laws of one step and of many, bytes, and refusals."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import sympy as sp
from scipy import stats

from fpsolve import compare, simulate, stationary_density
from fpsolve.symbols.counter_rng import threefry2x64
from theory import (
    Diffusion,
    Landscape,
    Langevin,
    adiabatic,
    degenerate_valley,
    double_well,
    hessian_proportional,
    isotropic,
    random_shift,
)

x, y, z = sp.symbols("x y z", real=True)
OU = Diffusion(
    sp.Matrix([-(x + sp.Rational(4, 5) * y), sp.Rational(3, 5) * x - sp.Rational(3, 2) * y]),
    sp.Matrix([[10, 4], [4, 8]]) / 100,
    (x, y),
)
SGD = Langevin(degenerate_valley(), random_shift(learning_rate=0.01, sigma=0.1))


def _bytes(dataset):
    return {name: dataset[name].to_numpy().tobytes() for name in dataset.data_vars}


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), (0, 0), (0xF167B032C3B480BD, 0xE91F9FEE4B7A6FB5)),
        ((2**64 - 1, 2**64 - 1), (2**64 - 1, 2**64 - 1), (0xCCDEC5C917A874B1, 0x4DF53ABCA26CEB01)),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344),
            (0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0xC3AAC71561042993, 0x3FE7AE8801AFF316),
        ),
    ],
)
def test_generator_reproduces_the_published_vectors(counter, key, expected):
    # Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), kat_vectors.
    words = [np.uint64(v) for v in (*key, *counter)]
    with np.errstate(over="ignore"):  # arithmetic is modulo 2⁶⁴
        assert tuple(int(v) for v in threefry2x64(*words)) == expected


def test_one_step_with_dt_equal_to_the_learning_rate_is_the_law_of_the_sgd_map():
    start, eta, sigma = (0.7, 0.1), 0.01, 0.1
    one = simulate(SGD, walkers=40_000, time=0.01, start={"x": start[0], "y": start[1]}, rng=1)
    assert one.attrs["time_step"] == eta
    at = dict(zip(SGD.variables, start, strict=True))
    gradient = np.array(SGD.landscape.gradient.subs(at), float).ravel()
    H = np.array(SGD.landscape.hessian.subs(at), float)
    # θ' = θ − η∇L + ηHμ, μ ~ N(0, 2σI): mean and covariance known exactly, and the law is Gaussian.
    sample = np.stack([one.x.to_numpy(), one.y.to_numpy()], axis=1)
    mean, covariance = np.array(start) - eta * gradient, 2 * sigma * eta**2 * H @ H
    z = np.linalg.solve(np.linalg.cholesky(covariance), (sample - mean).T)
    for k in (0, 1):
        assert stats.kstest(z[k], "norm").pvalue > 1e-3
        assert stats.kstest(z[k] * np.sqrt(2), "norm").pvalue < 1e-12  # a stray factor of two is rejected
    assert abs(np.corrcoef(z)[0, 1]) < 4 / np.sqrt(sample.shape[0])


def test_ornstein_uhlenbeck_covariance_is_met_within_four_standard_errors():
    paths = simulate(
        OU, walkers=4000, time=60, burn_in=20, time_step=0.005, start={"x": 0.0, "y": 0.0}, rng=2
    )
    A, D, dt = np.array([[1, 0.8], [-0.6, 1.5]]), np.array([[0.10, 0.04], [0.04, 0.08]]), 0.005
    # The discrete process has its own Lyapunov equation: Σ = (I − dt A) Σ (I − dt A)ᵀ + 2 dt D.
    step = np.eye(2) - dt * A
    covariance = np.linalg.solve(np.eye(4) - np.kron(step, step), 2 * dt * D.ravel()).reshape(2, 2)
    error = (paths.covariance.to_numpy() - covariance) / paths.covariance_stderr.to_numpy()
    assert np.abs(error).max() < 4
    doubled = (paths.covariance.to_numpy() - 2 * covariance) / paths.covariance_stderr.to_numpy()
    assert np.abs(doubled).max() > 20


def test_the_linear_sgd_map_has_its_finite_step_variance_and_not_the_continuous_one():
    # L = λy²/2: ⟨y²⟩ = Δ_S λ/(1 − ηλ/2) for the map, Δ_S λ in continuous time.
    bowl = Langevin(Landscape(4 * y**2, (y,)), random_shift(delta_s=1e-3, learning_rate=0.05))
    paths = simulate(bowl, walkers=4000, time=50, burn_in=5, rng=3)
    value, error = float(paths.second_moment[0, 0]), float(paths.second_moment_stderr[0, 0])
    assert abs(value - 8e-3 / (1 - 0.05 * 8 / 2)) < 4 * error
    assert abs(value - 8e-3) > 20 * error


def test_stationary_moments_meet_the_density_after_the_finite_step_correction():
    # At finite η the map widens y by 1/(1 − ηλ/2): to leading order a larger Δ_S, at the density's own λ.
    eta, delta_s = 0.002, 1e-3
    sgd = Langevin(degenerate_valley(), random_shift(delta_s=delta_s, learning_rate=eta))
    paths = simulate(sgd, walkers=2048, time=600, burn_in=300, start={"x": 0.68, "y": 0.0}, rng=4)
    curvature = 8 - 2 * 0.675**2 + 0.675**4
    corrected = Langevin(degenerate_valley(), random_shift(delta_s=delta_s / (1 - eta * curvature / 2)))
    expected = compare.averages(stationary_density(corrected, method="spectral"), ("x", "y"))
    plain = compare.averages(stationary_density(sgd, method="spectral"), ("x", "y"))
    place, error = float(paths.second_moment[0, 0]), float(paths.second_moment_stderr[0, 0])
    assert abs(place - expected["<x^2>"]) < 4 * error
    assert abs(place - plain["<x^2>"]) > 4 * error
    value, error = float(paths.second_moment[1, 1]), float(paths.second_moment_stderr[1, 1])
    assert abs(value - expected["<y^2>"]) < 4 * error
    assert abs(value - plain["<y^2>"]) > 4 * error
    # The closed form at the mean place says the same; it leaves out what is O(Δ_S) smaller.
    formula = adiabatic.sgd_fast_variance(sgd.landscape, delta_s=delta_s, learning_rate=eta)
    assert float(formula.subs(x, np.sqrt(place))) == pytest.approx(value, rel=2e-3)


def test_histogram_of_a_double_well_follows_boltzmann_and_not_another_temperature():
    well = Langevin(double_well(), isotropic(0.2))
    edges = np.linspace(-2, 2, 21)
    paths = simulate(well, walkers=3000, time=60, burn_in=20, time_step=0.002, bins={"x": edges}, rng=5)

    def share(D):
        fine = np.linspace(-2.6, 2.6, 20001)
        weight = np.exp(-(fine**4 / 4 - fine**2 / 2) / D)
        return np.histogram(fine, edges, weights=weight)[0] / weight.sum()

    measured = paths.histogram.to_numpy() / (paths.histogram.to_numpy().sum() + int(paths.histogram_outside))
    # Independent walkers × a few decorrelation times each: errors of a bin are below 1 % of the peak.
    assert np.abs(measured - share(0.2)).max() < 0.01 * share(0.2).max() + 2e-3
    assert np.abs(measured - share(0.3)).max() > 0.01


def test_bits_do_not_depend_on_threads():
    arguments = {"walkers": 300, "time": 20, "rng": 6, "burn_in": 5, "bins": {"x": np.linspace(-1, 1, 9)}}
    assert _bytes(simulate(SGD, threads=1, **arguments)) == _bytes(simulate(SGD, threads=2, **arguments))


@pytest.mark.parametrize("parts", [1, 3, 1000])
def test_an_ensemble_split_over_processes_has_the_same_bits_and_goes_on(parts):
    options = {"bins": {"x": np.linspace(-1, 1, 9)}, "save_every": 0.5, "first_walker": 7}
    start = {"x": 0.7, "y": np.linspace(-50, 0.1, 150)}  # some diverge
    whole = simulate(SGD, time=1.0, start=start, rng=3, **options)
    with ProcessPoolExecutor(2) as executor:
        split = simulate(SGD, time=1.0, start=start, rng=3, executor=executor, parts=parts, **options)
        assert 0 < int(whole.diverged.sum()) < 150
        assert split.identical(whole) and _bytes(split) == _bytes(whole)
        again = simulate(SGD, time=1.0, start=split, save_every=0.5, executor=executor, parts=parts)
    assert _bytes(again) == _bytes(simulate(SGD, time=1.0, start=whole, save_every=0.5))


def test_bits_do_not_depend_on_how_time_is_cut(monkeypatch):
    from fpsolve.ensemble import simulation

    whole = simulate(SGD, walkers=100, time=20, rng=7, burn_in=3, save_every=5)
    monkeypatch.setattr(simulation, "_CHUNK", 1000)
    assert _bytes(simulate(SGD, walkers=100, time=20, rng=7, burn_in=3, save_every=5)) == _bytes(whole)


def test_a_run_goes_on_from_its_own_result_bit_by_bit():
    whole = simulate(SGD, walkers=100, time=30, rng=8, burn_in=5)
    part = simulate(SGD, walkers=100, time=12, rng=8, burn_in=5)
    assert _bytes(simulate(SGD, start=part, time=18)) == _bytes(whole)


def test_a_result_survives_netcdf_and_goes_on(tmp_path):
    import xarray as xr

    whole = simulate(SGD, walkers=50, time=10, rng=9)
    simulate(SGD, walkers=50, time=4, rng=9).to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "part.nc", engine="h5netcdf") as part:
        assert _bytes(simulate(SGD, start=part.load(), time=6)) == _bytes(whole)


def test_walkers_are_independent_of_who_runs_beside_them():
    all_of_them = simulate(SGD, walkers=80, time=10, rng=10)
    alone = simulate(SGD, walkers=7, first_walker=41, time=10, rng=10)
    assert alone.x.to_numpy().tobytes() == all_of_them.x.to_numpy()[41:48].tobytes()


def test_different_seeds_give_different_paths_and_the_recorded_seed_replays():
    first, second = (simulate(SGD, walkers=10, time=5, rng=seed) for seed in (0, 1))
    assert first.x.to_numpy().tobytes() != second.x.to_numpy().tobytes()
    assert _bytes(simulate(SGD, walkers=10, time=5, rng=first.attrs["seed"])) == _bytes(first)


def test_diverging_walkers_are_counted_and_left_out_of_averages():
    # ηλ = 2.4 > 2: the map is unstable and every walker leaves.
    wild = Langevin(degenerate_valley((8, -2, 1), 1e-3), random_shift(delta_s=1e-3, learning_rate=0.3))
    with pytest.warns(UserWarning, match="diverged"):
        paths = simulate(wild, walkers=64, time=3000, rng=11)
    assert int(paths.diverged.sum()) == 64
    assert np.isfinite(paths.divergence_time).all()
    # Some but not all: no NaN gets into an average.
    steep = Langevin(Landscape(x**4 / 4, (x,)), isotropic(0.5))
    some = simulate(steep, walkers=64, time=40, time_step=0.5, rng=12, divergence=50.0)
    assert 0 < int(some.diverged.sum()) < 64
    assert np.isfinite(some.second_moment).all()


def test_noise_without_a_symbolic_root_is_simulated_all_the_same():
    process = Langevin(
        Landscape(x**2 + y**2 + z**2 + x * y / 2 + y * z / 3, (x, y, z)), hessian_proportional(0.05)
    )
    paths = simulate(process, walkers=400, time=10, burn_in=4, time_step=0.02, rng=13)
    H = np.array(process.landscape.hessian, float)
    # D = s|H| with H > 0: covariance s I in continuous time; the step widens it by 1/(1 − dt λ/2).
    values, vectors = np.linalg.eigh(H)
    expected = vectors @ np.diag(0.05 / (1 - 0.02 * values / 2)) @ vectors.T
    error = np.abs(paths.covariance.to_numpy() - expected) / paths.covariance_stderr.to_numpy()
    assert error.max() < 4.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"walkers": 0, "time": 1}, "walkers"),
        ({"walkers": 5, "time": -1}, "time"),
        ({"walkers": 5, "time": 1, "time_step": 0.0}, "time_step"),
        ({"walkers": 5, "time": 1, "burn_in": 2}, "burn_in"),
        ({"walkers": 5, "time": 1, "start": {"q": 0.0}}, "start"),
        ({"walkers": 5, "time": 1, "start": {"x": np.nan, "y": 0.0}}, "start"),
        ({"walkers": 5, "time": 1, "bins": {"q": [0, 1]}}, "bins"),
    ],
)
def test_bad_input_is_refused_before_any_step(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        simulate(SGD, rng=0, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_time_step_is_named():
    with pytest.raises(ValueError, match="time_step"):
        simulate(
            Diffusion(sp.Matrix([-x]), sp.Matrix([[1]]), (x,)), walkers=5, time=1, start={"x": 0.0}, rng=0
        )
