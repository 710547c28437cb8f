"""Two tasks one after the other: penalties and their implicit step, and what they are made of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra [nets]")

from nets.data import datasets
from nets.measure import curvature
from nets.measure.subject import as_subject
from notebooks.studies.forgetting import continual
from notebooks.studies.forgetting.penalties import Constraint, ImplicitStep, Penalty, constraint_grid
from notebooks.studies.forgetting.solution import first_task
from notebooks.studies.forgetting.tasks import DIGITS, Tasks

TASKS = replace(DIGITS, second_epochs=4)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def solution(digits):
    return first_task(digits, TASKS, rng=1)


def _orthonormal(count, size, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(size, count)))[0].T)


def _gradient(penalty, displacement):
    return torch.func.grad(lambda d: penalty(d).sum())(displacement)


@settings(max_examples=30, deadline=None)
@given(
    strength=st.floats(0, 1e12), rate=st.floats(1e-3, 10), seed=st.integers(0, 99), along_axes=st.booleans()
)
def test_the_implicit_step_solves_its_equation_at_any_stiffness(strength, rate, seed, along_axes):
    rng = np.random.default_rng(seed)
    directions = None if along_axes else _orthonormal(4, 9, seed)
    stiffness = torch.from_numpy(10.0 ** rng.uniform(-4, 4, size=9 if along_axes else 4))
    penalty = Penalty(strength, stiffness, directions)
    anchor, before = torch.from_numpy(rng.normal(size=9)), torch.from_numpy(rng.normal(size=(1, 9)))
    after = before.clone()
    ImplicitStep([penalty], anchor=anchor, learning_rate=rate)(after)
    # w⁺ + α ∇R(w⁺) = w: compared along each direction, where the terms are of one size.
    left = after + rate * _gradient(penalty, after - anchor) - before
    scale = 1 + 2 * rate * strength * float(stiffness.max())
    assert left.abs().max() <= 1e-14 * scale * 10
    assert penalty(after - anchor) <= penalty(before - anchor) * (1 + 1e-12)


def test_an_explicit_step_is_unstable_where_the_implicit_one_is_not():
    penalty = Penalty(1.0, torch.tensor([30.0, 0.01]))
    explicit = implicit = torch.tensor([[1.0, 1.0]])
    implicit = implicit.clone()
    step = ImplicitStep([penalty], anchor=torch.zeros(2), learning_rate=0.1)
    for _ in range(50):
        explicit = explicit - 0.1 * _gradient(penalty, explicit)  # 2αλs = 6 > 2
        step(implicit)
    assert explicit[0, 0].abs() > 1e30
    assert implicit[0, 0].abs() < 1e-30
    assert float(implicit[0, 1]) == pytest.approx(float(explicit[0, 1]), abs=2e-4)  # both follow the flat one


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_splitting_stands_still_where_loss_and_penalty_balance_whatever_the_rate(rate):
    # L = ½ (w − c)ᵀ A (w − c), so that A (w − c) + 2 λ Σ s p pᵀ w = 0 at rest.
    rng = np.random.default_rng(3)
    A = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64))
    c, p = torch.from_numpy(rng.normal(size=4)), _orthonormal(2, 4)
    s = torch.tensor([1e5, 0.3], dtype=torch.float64)
    at_rest = torch.linalg.solve(A + 2 * p.T @ torch.diag(s) @ p, A @ c)
    step = ImplicitStep([Penalty(1.0, s, p)], anchor=torch.zeros(4, dtype=torch.float64), learning_rate=rate)
    w = torch.zeros((1, 4), dtype=torch.float64)
    for _ in range(int(250 / rate)):
        w = w - rate * (w - c) @ A
        step(w)
    assert w[0].numpy() == pytest.approx(at_rest.numpy(), abs=1e-10)


def test_rows_side_by_side_are_as_each_alone():
    rng, shared = np.random.default_rng(8), _orthonormal(5, 8)
    s = [torch.from_numpy(rng.random(n)) for n in (5, 8, 2, 5)]
    penalties = [
        None, Penalty(3.0, s[0], shared), Penalty(0.2, s[1]), Penalty(7.0, s[2], shared[:2]),
        Penalty(50.0, s[3], shared),
    ]  # fmt: skip
    anchor, start = torch.from_numpy(rng.random(8)), torch.from_numpy(rng.random((5, 8)))
    together = start.clone()
    ImplicitStep(penalties, anchor=anchor, learning_rate=0.1)(together)
    for row, penalty in enumerate(penalties):
        alone = start[row : row + 1].clone()
        ImplicitStep([penalty], anchor=anchor, learning_rate=0.1)(alone)
        assert together[row].numpy() == pytest.approx(alone[0].numpy(), rel=1e-12)


def test_penalties_are_those_of_their_formulas(solution):
    modes, weights = solution.modes, solution.weights
    displacement = torch.randn(len(weights), generator=torch.Generator().manual_seed(0)).double()
    along = modes["direction"].to_numpy() @ displacement.numpy()
    F = modes["width"].to_numpy()
    value = float(Constraint("LDC", 10.0, 50).penalty(solution)(displacement.float()))
    assert value == pytest.approx(10 * np.sum(along[:50] ** 2 / F[:50] ** 2), rel=1e-4)
    inputs, labels = solution.first.inputs, solution.first.labels
    for kind, method in (("true", "EWC true"), ("empirical", "EWC empirical")):
        G = np.diag(curvature.fisher(as_subject(solution.net, inputs, labels, layer=0), kind=kind))
        value = float(Constraint(method, 4.0).penalty(solution)(displacement.float()))
        assert value == pytest.approx(2 * np.sum(G * displacement.numpy() ** 2), rel=1e-4)
        top = np.argsort(G)[::-1][:30]
        value = float(Constraint(method, 4.0, 30).penalty(solution)(displacement.float()))
        assert value == pytest.approx(2 * np.sum(G[top] * displacement.numpy()[top] ** 2), rel=1e-4)
    G = solution.fisher_true.numpy()
    floored = Constraint("EWC floored", 4.0).penalty(solution).stiffness.numpy()
    assert floored == pytest.approx(np.maximum(G, np.sort(G)[(len(G) - 1) // 2]) / 2)
    capped = Constraint("LDC capped", 1.0).penalty(solution).stiffness.numpy() ** -0.5
    assert capped == pytest.approx(np.minimum(F, np.sort(F)[(len(F) - 1) // 2]))
    value = float(Constraint("L2", 2.0).penalty(solution)(displacement.float()))
    assert value == pytest.approx(2 * float((displacement**2).sum()), rel=1e-5)
    assert Constraint("none").penalty(solution) is None


def test_widths_are_where_the_loss_is_e_times_its_value(solution):
    inputs, labels = (t[: TASKS.samples] for t in (solution.first.inputs, solution.first.labels))
    from nets.measure.subject import Subject, layer_names

    names = layer_names(solution.net, 0)
    loss = Subject(solution.net, inputs, labels, weights=names).to(torch.float64)
    L0 = float(loss.losses()[0])
    assert solution.loss == pytest.approx(L0, rel=1e-4)
    F, p = solution.modes["width"].to_numpy(), solution.modes["direction"].to_numpy()
    for i in (1, 40, 120):
        t = np.linspace(-F[i], F[i], 1001)
        below = t[np.log(loss.along(p[i : i + 1], t)[0].numpy() / L0) < 1]
        connected = below[np.abs(np.diff(below, prepend=below[0])) < 2 * (t[1] - t[0])]
        assert connected.max() - connected.min() == pytest.approx(F[i], rel=1e-2)


def test_with_all_directions_and_equal_widths_the_constraint_is_plain_l2(solution):
    assert solution.modes.sizes["mode"] == len(solution.weights) == 400
    directions = solution.modes["direction"].to_numpy()
    assert directions @ directions.T == pytest.approx(np.eye(400), abs=1e-9)
    F = float(Constraint("LDC equal F", 1.0).penalty(solution).stiffness[0] ** -0.5)
    pair = [Constraint("LDC equal F", 0.3 * F**2), Constraint("L2", 0.3)]
    result = continual.second_task(solution, pair, rng=0)
    final = result["displacement"].to_numpy()
    assert final[0] == pytest.approx(final[1], abs=1e-4 * float(final.max()))


def test_widths_from_the_variance_follow_the_power_law(solution):
    sigma = np.sqrt(solution.modes["variance"].to_numpy()[1:60])
    for psi in (3, 4, 5):
        stiffness = Constraint(f"LDC psi {psi}", 1.0).penalty(solution).stiffness.numpy()[1:60]
        slope = np.polyfit(np.log(sigma), np.log(stiffness**-0.5), 1)[0]
        assert slope == pytest.approx(-2 / psi, rel=1e-6)


def test_strong_constraints_on_all_weights_keep_task_1_and_prevent_task_2(solution):
    result = continual.second_task(solution, [Constraint("none"), Constraint("L2", 1e6)], rng=0)
    first, second = result["error_first"].to_numpy(), result["error_second"].to_numpy()
    assert first[:, 0] == pytest.approx(solution.error) and first[1] == pytest.approx(solution.error)
    assert second[1].min() > 0.6 and second[0, -1] < 0.15 < first[0, -1]
    assert np.all(result["displacement"][1] < 1e-5)


def test_a_constraint_goes_the_same_way_alone_and_beside_others(solution):
    some = [Constraint("none"), Constraint("LDC", 1.0, 50), Constraint("EWC true", 100.0)]
    together = continual.second_task(solution, some, rng=5)
    again = continual.second_task(solution, some, rng=5)
    alone = continual.second_task(solution, some[1:2], rng=5)
    assert together.identical(again)
    moved = together["displacement"][1].to_numpy()
    assert alone["displacement"][0].to_numpy() == pytest.approx(moved, abs=1e-3 * float(moved.max()))


def test_all_layers_can_learn(digits):
    tasks = replace(TASKS, layer=None, modes=40, every=3, first_epochs=4, window_epochs=4, samples=60)
    solution = first_task(digits, tasks, rng=0)
    assert len(solution.weights) == 64 * 20 + 20 * 20 + 20 * 10
    inputs, labels = (t[:60] for t in (solution.first.inputs, solution.first.labels))
    for kind, found in (("true", solution.fisher_true), ("empirical", solution.fisher_empirical)):
        G = np.diag(curvature.fisher(as_subject(solution.net, inputs, labels), kind=kind))
        assert found.numpy() == pytest.approx(G, rel=1e-3, abs=1e-9)
    result = continual.second_task(solution, [Constraint("none"), Constraint("LDC", 10.0, 30)], rng=0)
    assert np.isfinite(result["error_first"]).all()
    assert (result["displacement"][1, :30] < result["displacement"][0, :30]).mean() > 0.9


def test_scans_give_the_same_bits_when_they_go_on_after_a_stop(tmp_path):
    tasks = replace(TASKS, first_epochs=4, window_epochs=3, second_epochs=1, modes=20, samples=50)
    some = constraint_grid((10,), methods=("none", "LDC"), strengths={"LDC": (1.0,)})
    store = tmp_path / "scan.nc"
    whole = continual.scan(tasks, some, trainings=2, seed=4, store=store)
    assert whole.identical(continual.scan(tasks, some, trainings=2, seed=4, store=store))
    clocks = ["cpu_seconds", "wall_seconds"]
    again = continual.scan(tasks, some, trainings=2, seed=4)
    assert whole.drop_vars(clocks).equals(again.drop_vars(clocks)) and (whole[clocks[0]] > 0).all()
    assert whole["penalty"].to_numpy().tolist() == ["none", "LDC"]
    assert not np.array_equal(whole["variance"][0], whole["variance"][1])
    later = continual.scan(replace(tasks, modes=5), [Constraint("L2", 0.1)], trainings=2, seed=4)
    both = continual.joined(whole, later)
    assert both["penalty"].to_numpy().tolist() == ["none", "LDC", "L2"]
    assert np.array_equal(both["error_first"][:, 2], later["error_first"][:, 0])
    assert both.sizes["mode"] == 20 and both["width"].notnull().all()
    assert np.array_equal(both["cpu_seconds"], whole["cpu_seconds"] + later["cpu_seconds"])
    with pytest.raises(ValueError, match="not of the same trainings"):
        continual.joined(whole, continual.scan(tasks, [Constraint("L2", 0.1)], trainings=2, seed=5))


def test_wrong_arguments_are_named(digits, solution):
    wrong = {
        "count=500": lambda: Constraint("LDC", 1.0, 500).penalty(solution),
        "more than the 400": lambda: Constraint("EWC true", 1.0, 401).penalty(solution),
        "none in common": lambda: Tasks(first=(0, 1), second=(1, 2)),
        "classes from 0 to 9": lambda: first_task(digits, replace(TASKS, second=(10, 11))),
        "layer=7": lambda: first_task(digits, replace(TASKS, layer=7)),
        "method='EWC'": lambda: Constraint("EWC", 1.0),
        "strength=-1": lambda: Penalty(-1.0, torch.ones(3)),
        "fewer than batch_size": lambda: first_task(digits, replace(TASKS, batch_size=1000)),
        "at least 2": lambda: continual.scan(TASKS, [Constraint("none")], trainings=1),
    }
    for said, call in wrong.items():
        with pytest.raises(ValueError, match=said):
            call()
