"""Sweeps: the same bits on every executor, after every kill; failures named; stores that are whole or absent."""

import filecmp
import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fpsolve import open_sweep, sweep
from fpsolve.sweeps.runner import SweepError
from fpsolve.sweeps.store import digest, kept, read_store

GRID = {"sigma": [0.3, 0.1, 0.2], "learning_rate": [0.01, 0.02]}


def noisy(sigma, learning_rate, rng):
    """Random numbers, an integer and an array with a dim of its own."""
    generator = np.random.default_rng(rng)
    return {
        "product": sigma * learning_rate + generator.normal(),
        "count": 3,
        "path": (("time",), generator.normal(size=4), {"units": "time"}),
    }


def scaled(sigma, learning_rate, rng, factor=1.0, log=None):
    """One number; with ``log``, a line in that file for every call."""
    if log:
        with open(log, "a") as file:
            file.write(f"{sigma} {learning_rate}\n")
    return {"value": factor * sigma + learning_rate}


def failing(sigma, learning_rate, rng):
    """Fails at one point."""
    if sigma == 0.1 and learning_rate == 0.02:
        raise ZeroDivisionError("no such valley")
    return {"value": sigma}


def unequal(sigma, learning_rate, rng):
    """Arrays of unequal length."""
    return {"value": np.zeros(2 if sigma == 0.1 else 3)}


class Rows:
    """A value with a digest, and a method, which no worker could be sent by name."""

    def __init__(self, digest):
        self.digest = digest

    def scaled(self, sigma, learning_rate, rng):
        """One number."""
        return {"value": sigma}


def dying(sigma, learning_rate, rng):
    """Kills its worker at one point."""
    if sigma == 0.2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": sigma}


def slow(sigma, learning_rate, rng, log="", pause=0.0):
    """Writes where it is, then waits."""
    with open(log, "a") as file:
        file.write(f"{sigma} {learning_rate}\n")
    time.sleep(pause)
    return {"value": np.random.default_rng(rng).normal(size=3)}


@pytest.fixture(scope="module")
def reference():
    return sweep(noisy, GRID, seed=5)


def _same_files(left, right):
    left, right = Path(left), Path(right)
    if left.is_file():
        return filecmp.cmp(left, right, shallow=False)
    names = [sorted(str(p.relative_to(root)) for p in root.rglob("*")) for root in (left, right)]
    files = [name for name in names[0] if (left / name).is_file()]
    return names[0] == names[1] and not any(filecmp.cmpfiles(left, right, files, shallow=False)[1:])


def test_every_point_gets_its_own_stream_and_its_place_in_the_callers_order(reference):
    assert list(reference.sigma) == GRID["sigma"]
    assert reference.path.dims == ("sigma", "learning_rate", "time")
    for i, (sigma, eta) in enumerate((s, e) for s in GRID["sigma"] for e in GRID["learning_rate"]):
        alone = noisy(sigma, eta, np.random.SeedSequence(5, spawn_key=(i,)))
        there = reference.sel(sigma=sigma, learning_rate=eta)
        assert float(there["product"]) == alone["product"]
        assert np.array_equal(there.path, alone["path"][1])
    assert reference["count"].dtype == int and reference.path.attrs["units"] == "time"
    assert reference.attrs["seed"] == 5
    assert all(isinstance(v, (str, int, float)) for v in reference.attrs.values())


def test_threads_and_processes_give_the_same_bits_and_the_same_file(reference, tmp_path):
    sweep(noisy, GRID, seed=5, store=tmp_path / "serial.zarr")
    for kind in (ThreadPoolExecutor, ProcessPoolExecutor):
        with kind(2) as executor:
            store = tmp_path / f"{kind.__name__}.zarr"
            assert sweep(noisy, GRID, seed=5, executor=executor, store=store).identical(reference)
            assert executor.submit(abs, -1).result() == 1  # the caller's executor still works
        assert _same_files(store, tmp_path / "serial.zarr")


@pytest.mark.slow
def test_loky_gives_the_same_bits(reference):
    loky = pytest.importorskip("loky", reason="needs the extra [distributed]")
    executor = loky.get_reusable_executor(2)
    assert sweep(noisy, GRID, seed=5, executor=executor).identical(reference)
    executor.shutdown()


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bits_and_the_same_file(reference, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra [distributed]")
    sweep(noisy, GRID, seed=5, store=tmp_path / "serial.zarr")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor(pure=False)
        store = tmp_path / "dask.zarr"
        assert sweep(noisy, GRID, seed=5, executor=executor, store=store).identical(reference)
        assert _same_files(store, tmp_path / "serial.zarr")
        with pytest.raises(SweepError, match=r"sigma=0\.1, learning_rate=0\.02: ZeroDivisionError"):
            sweep(failing, GRID, executor=executor)


_OVER_MPI = """
import sys
from test_sweeps import GRID, noisy
from fpsolve import sweep
if __name__ == "__main__":
    from mpi4py.futures import MPIPoolExecutor
    with MPIPoolExecutor() as executor:
        sweep(noisy, GRID, seed=5, executor=executor, store=sys.argv[1])
"""


@pytest.mark.slow
def test_mpi_processes_give_the_same_bits(reference, tmp_path):
    pytest.importorskip("mpi4py", reason="needs the extra [mpi]")
    starter = shutil.which(
        "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if starter is None:
        pytest.skip("needs mpiexec of an MPI library")
    script, store = tmp_path / "over_mpi.py", tmp_path / "mpi.nc"
    script.write_text(_OVER_MPI)
    command = [starter, "-n", "2", sys.executable, "-m", "mpi4py.futures", str(script), str(store)]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # workers have no argv of their own
    subprocess.run(command, check=True, timeout=100, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    assert open_sweep(store).identical(reference)


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_finished_store_is_read_again_without_running_anything(tmp_path, suffix):
    log, store = tmp_path / "log", tmp_path / f"runs.{suffix}"
    run = functools.partial(scaled, factor=2.0, log=str(log))
    first = sweep(run, GRID, store=store)
    before = log.read_text()
    assert sweep(run, GRID, store=store).identical(first) and open_sweep(store).identical(first)
    assert log.read_text() == before and len(before.splitlines()) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", f"runs.{suffix}"]


_KILLED = """
import functools, sys
sys.path.insert(0, sys.argv[1])
from test_sweeps import GRID, slow
from fpsolve import sweep
sweep(functools.partial(slow, log=sys.argv[2], pause=0.2), {**GRID, "sigma": [0.1, 0.2, 0.3, 0.4]}, seed=2, store=sys.argv[3])
"""


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_goes_on_and_ends_in_the_same_file(tmp_path):
    log, store = tmp_path / "log", tmp_path / "runs.zarr"
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(log), str(store)]
    process = subprocess.Popen(command)
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not store.exists()
    partial = open_sweep(store)
    kept, begun = int(partial.finished.sum()), len(log.read_text().splitlines())
    assert begun - 1 <= kept < 8  # the point that was running is the only one lost
    assert np.isnan(partial.value.values[partial.finished.values == 0]).all()
    subprocess.run(command, check=True)
    calls = log.read_text().splitlines()
    assert len(calls) == begun + 8 - kept
    assert len(calls) - len(set(calls)) == begun - kept  # no finished point ran twice
    undisturbed = tmp_path / "whole.zarr"
    subprocess.run([*command[:-2], str(log), str(undisturbed)], check=True)
    # the log's name is part of what identifies the function, and it is the same in all three
    assert _same_files(store, undisturbed)


def test_a_line_cut_short_is_dropped_and_its_point_runs_again(tmp_path):
    """What a kill in the middle of a write leaves: every possible length of the last line."""
    log, store = tmp_path / "log", tmp_path / "runs.nc"
    whole = sweep(scaled, GRID)
    with pytest.raises(SweepError):
        sweep(functools.partial(once_failing, log=str(log)), GRID, store=store)
    journal = store.with_name("runs.nc.journal")
    text = journal.read_bytes()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 6  # a header and five of six points
    log.touch()  # from now on the function succeeds
    for cut in (1, 9, 10, len(lines[-1]) // 2, len(lines[-1]) - 1):
        journal.write_bytes(text[: len(text) - len(lines[-1]) + cut])
        done = sweep(functools.partial(once_failing, log=str(log)), GRID, store=store)
        assert np.array_equal(done.value, whole.value)
        assert not journal.exists()
        store.unlink()


def once_failing(sigma, learning_rate, rng, log=""):
    """Fails at one point until the log exists."""
    if sigma == 0.2 and learning_rate == 0.01 and not os.path.exists(log):
        raise OSError("not yet")
    return {"value": sigma + learning_rate}


def test_damage_in_the_middle_of_a_journal_is_an_error_not_a_silent_loss(tmp_path):
    store = tmp_path / "runs.nc"
    with pytest.raises(SweepError):
        sweep(failing, GRID, store=store)
    journal = store.with_name("runs.nc.journal")
    text = bytearray(journal.read_bytes())
    text[len(text) // 2] ^= 1
    journal.write_bytes(text)
    with pytest.raises(ValueError, match="damaged at byte"):
        sweep(failing, GRID, store=store)


def test_a_kill_while_the_store_is_written_leaves_the_journal_to_write_it_again(tmp_path, monkeypatch):
    store = tmp_path / "runs.zarr"
    move = os.replace

    def stopped(source, target):
        if Path(target) == store:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(noisy, GRID, seed=5, store=store)
    monkeypatch.undo()
    assert not store.exists() and "finished" not in open_sweep(store)  # every point is in the journal
    again = sweep(noisy, GRID, seed=5, store=store)
    assert again.identical(sweep(noisy, GRID, seed=5)) and store.exists()


@pytest.mark.parametrize("pool", [None, ProcessPoolExecutor])
def test_a_failing_point_is_named_and_the_others_are_kept(tmp_path, pool):
    store = tmp_path / "runs.zarr"
    executor = pool and pool(2)
    with pytest.raises(
        SweepError, match=r"1 of 6 points failed: sigma=0\.1, learning_rate=0\.02: Zero.*valley"
    ) as caught:
        sweep(failing, GRID, store=store, executor=executor)
    assert "in failing" in caught.value.failures[0].traceback
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert int(open_sweep(store).finished.sum()) == 5
    recorded = sweep(failing, GRID, store=store, executor=executor, errors="record")
    assert "no such valley" in str(recorded.error.sel(sigma=0.1, learning_rate=0.02).item())
    assert (recorded.error == "").sum() == 5 and int(recorded.value.isnull().sum()) == 1
    if executor:
        executor.shutdown()


def test_a_worker_that_is_killed_breaks_the_sweep_but_not_what_is_finished(tmp_path):
    store = tmp_path / "runs.zarr"
    with ProcessPoolExecutor(1) as executor, pytest.raises(RuntimeError, match=r"executor broke.*to go on"):
        sweep(dying, GRID, store=store, executor=executor)
    assert int(open_sweep(store).finished.sum()) >= 2


@pytest.mark.parametrize(
    ("change", "word"),
    [({"seed": 1}, "seed is 0, not 1"), ({"grid": {**GRID, "sigma": [0.3]}}, "its grid is"), ({"run": failing}, "its run is")],
)  # fmt: skip
def test_a_store_of_another_sweep_is_refused(tmp_path, change, word):
    store = tmp_path / "runs.nc"
    sweep(scaled, GRID, store=store)
    arguments = {"run": scaled, "grid": GRID, "seed": 0} | change
    run, grid = arguments.pop("run"), arguments.pop("grid")
    with pytest.raises(ValueError, match=word):
        sweep(run, grid, store=store, **arguments)
    with pytest.raises(ValueError, match="choose another store"):
        sweep(functools.partial(scaled, factor=3.0), GRID, store=store)


def test_functions_typed_at_a_prompt_are_told_apart(tmp_path):
    for factor in (2, 3):
        text = f"def typed(sigma, rng):\n    return {{'value': {factor} * sigma}}\n"
        names = {"__name__": "__main__"}
        exec(text, names)
        if factor == 2:
            sweep(names["typed"], {"sigma": [1.0]}, store=tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"function .* differs"):
        sweep(names["typed"], {"sigma": [1.0]}, store=tmp_path / "a.nc")


def test_two_sweeps_of_one_process_cannot_write_one_store_at_the_same_time(tmp_path):
    run, store = functools.partial(slow, log=str(tmp_path / "log"), pause=0.1), tmp_path / "runs.nc"
    with ThreadPoolExecutor(1) as executor:
        first = executor.submit(sweep, run, GRID, store=store)
        while not (tmp_path / "log").exists():
            time.sleep(0.01)
        open_sweep(store) if "point" in store.with_name("runs.nc.journal").read_text() else None
        with pytest.raises(ValueError, match="another sweep is writing"):
            sweep(run, GRID, store=store)
    assert first.result().identical(sweep(run, GRID))


def test_two_sweeps_cannot_write_one_store_at_the_same_time(tmp_path):
    # a second process, since the lock is between processes
    store = tmp_path / "runs.zarr"
    log = tmp_path / "log"
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(log), str(store)]
    process = subprocess.Popen(command)
    try:
        while not log.exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another sweep is writing"):
            sweep(functools.partial(slow, log=str(log)), GRID, store=store)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"grid": {}}, "at least one name"),
        ({"grid": {"sigma": [0.1, 0.1], "learning_rate": [1]}}, "twice"),
        ({"grid": {"sigma": [np.nan], "learning_rate": [1]}}, "finite"),
        ({"grid": {"sigma": 0.1, "learning_rate": [1]}}, "list of numbers"),
        ({"grid": {"sigma": [0.1]}}, "cannot be called"),
        ({"grid": {"sigma": [0.1], "rng": [1]}}, "cannot be an argument"),
        ({"run": lambda sigma, learning_rate, rng: {}}, "level of its module"),
        ({"run": Rows("a1").scaled}, "level of its module"),
        ({"run": functools.partial(scaled, factor=object())}, "number, string"),
        ({"seed": -1}, "seed=-1"),
        ({"store": "runs.csv"}, "must end in"),
        ({"store": "no/such/place/runs.nc"}, "no directory"),
        ({"errors": "ignore"}, "errors='ignore'"),
    ],
)
def test_mistakes_are_found_before_any_point_runs(arguments, word):
    arguments = {"run": scaled, "grid": GRID} | arguments
    with pytest.raises(ValueError, match=word):
        sweep(arguments.pop("run"), arguments.pop("grid"), **arguments)


def test_shapes_that_differ_between_points_are_named():
    with pytest.raises(
        SweepError, match=r"sigma=0\.1, learning_rate=0\.01: returned value with shape \(2,\)"
    ):
        sweep(unequal, GRID)


def labelled(sigma, rng):
    return xr.Dataset({"twice": ("place", [2 * sigma], {"long_name": "2σ"})})


def test_variables_of_xarray_are_results():
    found = sweep(labelled, {"sigma": [1.0, 2.0]})
    assert found["twice"].dims == ("sigma", "place") and found["twice"].attrs["long_name"] == "2σ"
    assert found["twice"].to_numpy().tolist() == [[2.0], [4.0]]


def counted(sigma, rows, rng):
    return {"twice": 2 * sigma}


def test_an_object_with_a_digest_is_a_fixed_value(tmp_path):
    store, grid = tmp_path / "rows.nc", {"sigma": [1.0, 2.0]}
    found = sweep(functools.partial(counted, rows=Rows("a1")), grid, store=store)
    assert found.attrs["run"] == "counted(rows=Rows a1)"
    assert sweep(functools.partial(counted, rows=Rows("a1")), grid, store=store).identical(found)
    with pytest.raises(ValueError, match="rows=Rows a1"):
        sweep(functools.partial(counted, rows=Rows("b2")), grid, store=store)


def test_progress_says_how_much_time_is_left(capsys):
    sweep(scaled, GRID, progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown and "<" in shown


def test_a_result_is_read_back_from_netcdf_and_zarr_without_a_warning(tmp_path, recwarn):
    for suffix, reader in (("nc", xr.open_dataset), ("zarr", xr.open_zarr)):
        whole = sweep(noisy, GRID, store=tmp_path / f"a.{suffix}")
        with reader(tmp_path / f"a.{suffix}") as read:
            assert len(read.attrs.pop("store_sha256")) == 64 and read.load().identical(whole)
    assert not [w for w in recwarn if "onsolidated" in str(w.message)]


def test_a_kept_result_is_computed_once_and_carries_its_time_and_question(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return xr.Dataset({"a": ((), 3.0)})

    path, asked = tmp_path / "a.nc", {"seed": 1, "sizes": (3, 4), "rate": np.float64(0.1)}
    first, second = (kept(path, compute, asked=asked) for _ in range(2))
    assert len(calls) == 1 and float(second.a) == 3 and second.attrs == first.attrs
    assert first.attrs["cpu_seconds"] >= 0 and [p.name for p in path.parent.iterdir()] == ["a.nc"]
    assert json.loads(second.attrs["asked"]) == {"seed": 1, "sizes": [3, 4], "rate": 0.1}
    kept(None, compute, asked=asked)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": 2, "net": "a"}, "made with seed=1, not 2"),
        ({"seed": 1}, "made with net in its question"),
        ({"seed": 1, "net": "a", "layer": None}, "made without layer in its question"),
        ({}, "says nothing"),
    ],
)
def test_a_store_of_another_question_is_refused_before_any_work(tmp_path, asked, message):
    kept(tmp_path / "a.nc", lambda: xr.Dataset({"a": 3.0}), asked={"seed": 1, "net": "a"})
    with pytest.raises(ValueError, match=message):
        kept(tmp_path / "a.nc", lambda: pytest.fail("computed"), asked=asked)


def test_a_result_that_the_disk_does_not_take_is_returned_with_a_warning(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.warns(UserWarning, match="cannot be written: No space left.*returned, not kept"):
        found = kept(tmp_path / "a.nc", lambda: xr.Dataset({"a": 3.0}), asked={"seed": 1})
    assert float(found.a) == 3.0 and not list(tmp_path.glob("*.nc"))


def test_a_store_without_a_question_or_a_hash_is_refused(tmp_path):
    whole = sweep(scaled, GRID, store=tmp_path / "a.nc")
    whole.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    for name, message in (
        ("a.nc", "not say which question"),
        ("b.nc", "has no store_sha256.*or delete that"),
    ):
        with pytest.raises(ValueError, match=message):
            kept(tmp_path / name, lambda: pytest.fail("computed"), asked={"seed": 1})


NAN = float("nan")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (1, 1.0, False), (1, True, False), (0, False, False), (0.0, -0.0, False), (1, "1", False),
        (None, "None", False), ({}, [], False), ({"b": 1}, {"b": 1, "c": None}, False), (0.1, np.float32(0.1), False),
        (float(2**53), 2**53 + 1, False), (NAN, "NaN", False), (NAN, None, False), (NAN, np.array(NAN), True),
        ((1, 2), [1, 2], True), (np.arange(2), (0, 1), True), (np.float64(0.1), 0.1, True), (np.bool_(True), True, True),
        (np.int64(3), 3, True), ({"b": 1, "c": 2}, {"c": 2, "b": 1}, True), (np.str_("a"), "a", True),
    ],
)  # fmt: skip
def test_which_questions_are_the_same(tmp_path, first, second, same):
    kept(tmp_path / "a.nc", lambda: xr.Dataset({"a": 3.0}), asked={"q": first})
    if same:
        kept(tmp_path / "a.nc", lambda: pytest.fail("computed"), asked={"q": second})
    else:
        with pytest.raises(ValueError, match="was made with q="):
            kept(tmp_path / "a.nc", lambda: pytest.fail("computed"), asked={"q": second})


def _holds_itself():
    asked = {}
    return asked | {"q": [asked.setdefault("p", asked)]}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"q": object()}, r"asked\['q'\] holds <object.*not JSON; give"), ({"q": {1: 2}}, "keys"), ({1: 2}, "keys"),
        ({"q": 1j}, "not JSON"), ({"q": {1}}, "not JSON"), ({"q": b""}, "not JSON"), ({"q": Path("a")}, "not JSON"),
        ({"q": np.datetime64("2020")}, "not JSON"), ({"q": np.array([None, len])}, "not JSON"),
        ([("q", 1)], "mapping"), (None, "mapping"), (_holds_itself(), "holds itself"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_compared_is_refused_before_any_work(asked, message):
    with pytest.raises(TypeError, match=message):
        kept(None, lambda: pytest.fail("computed"), asked=asked)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (xr.DataArray([1.0]), "gives DataArray, not Dataset"),
        (xr.Dataset({"a": ("x", np.array([len, 1], object))}), "a holds objects; give numbers or text"),
        (xr.Dataset({"a": 1.0}, attrs={"l": [1, 2]}), r"l=\[1, 2\] must be text or a number"),
        (xr.Dataset({"a": ((), 1.0, {"f": len})}), "f=<built-in function len> must be text or a number"),
        (xr.Dataset({"a": ((), 1.0, {"units": "days since 2000-01-01"})}), "variable a would come back changed"),
        (xr.Dataset({"a": ((), 1.25, {})}).assign(a=lambda d: d.a.assign_attrs(scale_factor=0.1)), "come back changed"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_stored_is_named_and_leaves_nothing(tmp_path, suffix, result, message):
    with pytest.raises(TypeError, match=message):
        kept(tmp_path / f"a.{suffix}", lambda: result, asked={"seed": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_what_can_be_stored_comes_back_the_same(tmp_path, suffix):
    negative = -np.array(np.nan)
    whole = xr.Dataset(
        {
            "bits": ("x", [True, False]), "bytes": ("x", np.array([1, 2], "u1")), "text": ("x", ["", "yé"]),
            "complex": ("x", [1j, complex(1, np.nan)]), "half": ("x", np.array([1, np.nan], "f4")), "nan": ((), negative),
            "objects": ("x", np.array(["p", "qq"], object)), "none": ("y", np.empty(0)), "big": ("x", np.array([1, np.nan], ">f8")),
            "time": ("x", np.array(["2020", "2021"], "M8[ns]")),
        },
        {"x": ["p", "q"], "place": ("x", [1, 2])},
        {"empty": "", "true": True, "none": None, "number": np.int64(3), "store_sha256": "mine"},
    )  # fmt: skip
    first = kept(tmp_path / f"a.{suffix}", lambda: whole, asked={"seed": 1})
    again = kept(tmp_path / f"a.{suffix}", lambda: pytest.fail("computed"), asked={"seed": 1})
    assert again.identical(first) and first.drop_attrs(deep=False).identical(whole.drop_attrs(deep=False))
    assert again.attrs.keys() == {"cpu_seconds", "empty", "true", "number", "asked"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder.nc", "is a directory; choose another name, or"), ("file.zarr", "is a file; choose another name, or"),
        ("none/a.nc", "there is no directory .*none; create it first"), ("a.csv", "must end in"),
        ("link.nc", r"cannot be written \(.*\); choose another folder"),
        pytest.param("/proc/a.nc", "cannot be written", marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_is_found_out_before_any_work(tmp_path, name, message):
    (tmp_path / "folder.nc").mkdir()
    (tmp_path / "file.zarr").touch()
    (tmp_path / "link.nc").symlink_to(tmp_path / "none" / "a.nc")
    with pytest.raises(ValueError, match=message):
        kept(tmp_path / name, lambda: pytest.fail("computed"), asked={"seed": 1})


def _kept_slowly(store, question):
    """Adds a line to a file beside the store whenever it computes."""

    def compute():
        with open(store.with_suffix(".log"), "a") as file:
            file.write("computed\n")
        time.sleep(0.3)
        return xr.Dataset({name: ("x", np.full(2000, float(question))) for name in "abcd"})

    try:
        return set(np.unique(kept(store, compute, asked={"question": question}).to_dataarray()).tolist())
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("questions", [(1, 1, 1), (1, 2, 3)])
def test_of_several_who_ask_at_once_one_computes_and_the_others_read_that(tmp_path, pool, suffix, questions):
    store = tmp_path / f"a.{suffix}"
    with pool(3) as executor:
        found = list(executor.map(_kept_slowly, [store] * 3, questions))
    assert (tmp_path / "a.log").read_text() == "computed\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log", store.name]
    right = [answer == {float(question)} for answer, question in zip(found, questions, strict=True)]
    assert sum(right) == (3 if questions[0] == questions[1] else 1)
    assert all(there or "was made with question=" in said for said, there in zip(found, right, strict=True))


_STOPPED = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from fpsolve.sweeps.store import kept
def compute():
    executor = ProcessPoolExecutor(1)
    print(executor.submit(os.getpid).result(), flush=True)
    time.sleep(100)
kept(sys.argv[1], compute, asked={"seed": 1})
"""


def test_the_lock_ends_with_a_killed_process_even_if_its_workers_live_on(tmp_path):
    store = tmp_path / "a.nc"
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, str(store)], stdout=subprocess.PIPE, text=True
    )
    worker = int(process.stdout.readline())
    (tmp_path / ".a.nc.0123.part").touch()  # of a kill while the store was written
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(worker, 0)  # alive
    assert float(kept(store, lambda: xr.Dataset({"a": 3.0}), asked={"seed": 1}).a) == 3
    os.kill(worker, signal.SIGKILL)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_a_function_that_asks_for_the_store_it_fills_is_refused(tmp_path):
    def compute():
        return kept(tmp_path / "a.nc", compute, asked={"seed": 1})

    with pytest.raises(ValueError, match="by the very function that fills it"):
        compute()


def test_a_digest_tells_arrays_apart_by_values_shape_and_type():
    x = np.arange(6.0)
    assert digest(x, x) == digest(x.copy(), x)
    assert len({digest(x), digest(-x), digest(x.reshape(2, 3)), digest(x.astype("f4")), digest(x, x)}) == 5
    with pytest.raises(TypeError, match="objects"):
        digest([None])


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        ("a.nc", "", lambda text: b"\x89HDF"),
        ("b.nc", "", lambda text: text[: len(text) // 2]),
        ("c.nc", "", lambda text: text.replace(*(np.array([1.0, x]).tobytes() for x in (2.0, 2.5)))),
        ("d.nc", "", lambda text: text.replace(b'"seed": 1', b'"seed": 2')),
        ("e.zarr", "a/0", lambda text: b"?"),
        ("f.zarr", "a/0", None),
        ("g.zarr", ".zmetadata", lambda text: b"{"),
        ("h.zarr", ".zmetadata", lambda text: text.replace(b"long", b"lang")),
    ],
)
def test_a_damaged_store_is_named_and_what_to_do_is_said(tmp_path, name, file, damage):
    store, asked = tmp_path / name, {"seed": 1}
    kept(store, lambda: xr.Dataset({"a": ("x", [1.0, 2.0], {"long_name": "a"})}), asked=asked)
    part = store / file if file else store
    if damage is None:
        part.unlink()
    else:
        text = part.read_bytes()
        part.write_bytes(damage(text))
        assert part.read_bytes() != text
    with pytest.raises(ValueError, match=rf"{name}' is damaged \(.+\); delete it to begin again$"):
        kept(store, lambda: pytest.fail("computed"), asked=asked)
    with pytest.raises(FileNotFoundError):
        read_store(tmp_path / "none.nc")
