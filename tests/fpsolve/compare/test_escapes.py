"""All methods for one escape in one table, the saddles behind the formulas, figures, and what is refused."""

import json

import numpy as np
import pytest
import sympy as sp

from fpsolve import compare, plot
from fpsolve.compare import escapes
from fpsolve.escape.saddles import ways_out
from theory import Diffusion, Landscape, Langevin, escape, hessian_proportional, isotropic, random_shift

x, y = sp.symbols("x y", real=True)
WELL = Landscape(x**4 / 4 - x**2 / 2, (x,))
TILTED = Landscape(x**4 / 4 - x**2 / 2 + x * y / 4 + y**2, (x, y))


def _well(ratio):
    return Langevin(WELL, isotropic(sp.Rational(1, 4 * ratio)))


@pytest.fixture(scope="module")
def table():
    return compare.escape(_well(4), start={"x": -1}, target=x > 0)


def test_every_method_meets_the_exact_time_within_its_interval(table):
    exact = escape.exact_mean_time(_well(4), -1, 0)
    assert table.reference == "exact"
    assert table.value("ΔL/D", "landscape").value == pytest.approx(4.0)
    assert table.value("mean time", "exact").value == exact
    assert abs(table.value("mean time", "backward equation").deviation) < 2e-5
    kramers = table.value("mean time", "Kramers")
    assert kramers.low < exact < kramers.high and kramers.deviation < -0.05
    for method in ("splitting, dt -> 0", "simulation, dt -> 0"):
        row = table.value("mean time", method)
        assert row.sigmas < 4 and row.low < row.value < row.high
    assert not table.remarks


def test_the_table_prints_intervals_and_turns_into_json(table):
    text = str(table)
    assert "ΔL/D" in text and "[" in text and "next term" in text
    rows = json.loads(json.dumps(table.to_dict()))["rows"]
    assert len(rows) == len(table.rows)


def test_two_variables_compare_formula_equation_splitting_and_simulation():
    table = compare.escape(
        Langevin(TILTED, isotropic(0.06)), start={"x": -1, "y": 0.1}, target=x > 0.8, walkers=1500, rng=1
    )  # fmt: skip
    assert table.reference == "backward equation"
    for row in table.rows:
        if "95 %" in row.error_kind:
            assert row.sigmas < 4
    assert abs(table.value("mean time", "Eyring-Kramers").deviation) < 0.25


def test_the_map_of_sgd_stands_beside_continuous_time_and_differs():
    sgd = Langevin(WELL, random_shift(learning_rate=0.2, sigma=0.3))
    table = compare.escape(
        sgd, start={"x": -1}, target=x > 0, methods=("theory", "simulation"), walkers=400, max_time=200
    )
    methods = [row.method for row in table.rows]
    assert any(m.startswith("two temperatures") for m in methods)
    assert any(m.startswith("map of SGD, η = 0.2") for m in methods)


def test_noise_that_vanishes_on_the_way_is_said_with_its_meaning():
    sgd = Langevin(WELL, hessian_proportional(learning_rate=0.4, batch_size=1))
    table = compare.escape(sgd, start={"x": -1}, target=x > 0, methods=("exact", "theory"))
    assert any("non-positive D on the path at x=-0.57735" in r for r in table.remarks)
    row = table.value("mean time", "noise ∝ Hessian, s = 1/2")
    assert row.low < row.value < row.high


def test_no_escape_in_the_time_given_is_a_bound_and_no_row():
    table = compare.escape(
        _well(30), start={"x": -1}, target=x > 0, methods=("exact", "simulation"), walkers=100, max_time=10
    )
    assert [row.method for row in table.rows if row.quantity == "mean time"] == ["exact"]
    assert any("no escape in a total of 7" in r and "the mean time is above" in r for r in table.remarks)


def test_a_simulation_that_would_take_hours_is_left_out():
    table = compare.escape(_well(30), start={"x": -1}, target=x > 0, methods=("exact", "simulation"))
    assert any("not run; 100 walkers would take" in remark for remark in table.remarks)


@pytest.mark.parametrize(("stretch", "stiffness", "trials"), [(1, 1, 40_000), (6, 5, 11_111), (30, 50, 2000)])
def test_splitting_takes_fewer_trials_where_walkers_forget_their_start_slowly(
    monkeypatch, stretch, stiffness, trials
):
    asked = []
    monkeypatch.setattr(escapes, "split_escape", lambda *_, walkers, **options: asked.append(walkers))
    loss = WELL.loss.subs(x, x / stretch) + stiffness * y**2
    process = Langevin(Landscape(loss, (x, y)), isotropic(sp.Rational(1, 12)))
    with pytest.raises(TypeError):  # no result
        compare.escape(process, start={"x": -stretch, "y": 0}, target=x > 0, methods=("splitting",))
    assert asked == [trials]


def test_the_saddles_that_lead_into_the_target_are_found():
    three = Landscape(x**6 / 6 - 5 * x**4 / 4 + 2 * x**2, (x,))  # wells at −2, 0, 2, saddles at ±1
    both = ways_out(three, start={"x": 0.1}, target=sp.Or(x > 2, x < -2))
    assert sorted(way.saddle["x"] for way in both) == pytest.approx([-1, 1])
    assert {way.to for way in both} == {"well"}
    (one,) = ways_out(three, start={"x": 0.1}, target=x > 1)
    assert one.to == "saddle" and one.barrier == pytest.approx(11 / 12)
    with pytest.raises(ValueError, match="no saddle leads"):
        ways_out(three, start={"x": -2.1}, target=x > 2)  # through the middle well: two steps
    with pytest.raises(ValueError, match="begins before the saddle"):
        ways_out(three, start={"x": 0.1}, target=x > 0.8)
    with pytest.raises(ValueError, match="holds the minimum"):
        ways_out(three, start={"x": 0.1}, target=x < 0.05)


def test_rates_over_two_saddles_add_and_meet_the_exact_exit_time():
    three = Langevin(Landscape(x**6 / 6 - 5 * x**4 / 4 + 2 * x**2, (x,)), isotropic(0.1))
    table = compare.escape(three, start={"x": 0}, target=sp.Abs(x) > 1, methods=("exact", "theory"))
    assert table.value("mean time", "exact").value == escape.exact_exit_time(three, 0.0, ends=(-1.0, 1.0))
    assert abs(table.value("mean time", "Kramers").deviation) < 0.15


def test_a_process_without_a_landscape_has_no_formula_but_the_rest():
    swirl = Diffusion(sp.Matrix([-x + y, -y - x]), sp.eye(2) / 4, (x, y))
    table = compare.escape(
        swirl, start={"x": 0, "y": 0}, target=x**2 + y**2 > 1, methods=("backward", "theory", "simulation"),
        walkers=1000, box={"x": (-1.3, 1.3), "y": (-1.3, 1.3)},
    )  # fmt: skip
    assert table.value("mean time", "simulation, dt -> 0").sigmas < 4


def test_figures_of_escapes_show_every_method(table):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = plot.escape_times(table, ax=plt.figure().gca())
    assert len(axes.get_yticks()) == 5 and "learning rate" in axes.get_xlabel()
    other = compare.escape(_well(6), start={"x": -1}, target=x > 0, methods=("exact", "backward", "theory"))
    figure = plot.escape_barriers([table, other])
    assert "\\Delta L / D" in figure.axes[1].get_xlabel()
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": {"x": 0.5}}, "inside the target"),
        ({"target": x > 50, "methods": ("backward",)}, "no cell of the box"),
        ({"target": x > 50, "box": {"x": (-2, 2)}, "methods": ("backward",)}, "no cell of the box"),
        ({"methods": ("guess",)}, "must be some of"),
        ({"start": {"x": np.nan}}, "finite"),
        ({"start": {"x": -1, "y": 0}}, "y"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"start": {"x": -1}, "target": x > 0} | change
    with pytest.raises(ValueError, match=message):
        compare.escape(_well(4), **arguments)


@pytest.mark.parametrize("target", [x > 1, sp.Or(x > 1, x < -1)])
def test_every_method_finds_the_time_out_of_a_valley_with_a_kink(target):
    process = Langevin(Landscape(3 * sp.Abs(x), (x,)), isotropic(sp.Rational(1, 2)))
    table = compare.escape(process, start={"x": 0.0}, target=target, walkers=400)
    assert len(table.rows) == 4 and all(row.sigmas < 4 or row.method == "exact" for row in table.rows)
    assert not any("infs or NaNs" in remark for remark in table.remarks)
