"""Results that no store can hold, and bytes that no sweep has written: refused by the stores' own errors."""

import base64
import json
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpsolve import open_sweep, sweep
from fpsolve.sweeps import kept
from fpsolve.sweeps.store import read_store

GRID = {"a": [1.0, 2.0, 3.0]}
RETURNED = {
    "slash in a name": lambda a: {"v/w": a},
    "slash in a dim": lambda a: {"v": (("t/u",), np.zeros(2))},
    "no name": lambda a: {"": a},
    "two sizes of one dim": lambda a: {"v": (("t",), np.zeros(3)), "w": (("t",), np.zeros(4))},
    "list in an attribute": lambda a: {"v": ((), a, {"ok": [1, 2]})},
    "attribute that readers apply": lambda a: {"v": ((), a, {"scale_factor": 2.0})},
    "attribute that readers take as a date": lambda a: {"v": ((), a, {"units": "days since 2000-01-01"})},
    "zero byte in a name": lambda a: {"x\0y": a},
    "dot": lambda a: {".": a},
    "no number": lambda a: {"v": object()},
    "no mapping": lambda a: a,
}


def returned(a, rng, case="", log=""):
    with open(log, "a") as file:
        file.write("called\n")
    return RETURNED[case](a)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("case", RETURNED)
def test_what_a_store_cannot_hold_is_refused_at_the_first_point(tmp_path, case, suffix):
    log, store = tmp_path / "log", tmp_path / f"a.{suffix}"
    with pytest.raises(ValueError, match="cannot hold") as caught:
        sweep(partial(returned, case=case, log=str(log)), GRID, store=store)
    assert "\n" not in str(caught.value) and log.read_text().count("\n") == 1
    assert not store.exists() and not list(tmp_path.glob(".*.part"))


def mended(a, rng):
    return {"v": ((), a, {"n": np.int64(3), "ok": True, "none": None})}


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_function_mended_after_that_takes_the_same_store_and_its_attributes_are_plain(tmp_path, suffix):
    store = tmp_path / f"a.{suffix}"
    with pytest.raises(ValueError, match="cannot hold"):
        sweep(partial(returned, case="dot", log=str(tmp_path / "log")), GRID, store=store)
    found = sweep(mended, GRID, store=store)
    assert found.v.attrs == {"long_name": "v", "units": "1", "n": 3, "ok": 1}
    assert sweep(mended, GRID, store=store).identical(found)


def failing(a, rng):
    if a == 3.0:
        raise OSError("not yet")
    return {"v": a}


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """The store of a sweep with one point missing, and the bytes of its journal."""
    store = tmp_path_factory.mktemp("journal") / "a.nc"
    sweep(failing, GRID, store=store, errors="record")
    path = store.with_name("a.nc.journal")
    return store, path, path.read_bytes()


def line(record):
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
_ENTRY = st.tuples(
    st.lists(st.text(max_size=3), max_size=2),
    st.sampled_from(["<f8", "|O", "<i4", "?", "<M8[s]", "<U3", "", "f8,f8", "<f99"]),
    st.lists(st.integers(-2, 2**40), max_size=2),
    st.binary(max_size=17).map(lambda b: base64.b64encode(b).decode()) | st.text(max_size=9),
    _JSON,
)
_POINTS = st.fixed_dictionaries(
    {
        "point": st.integers(-2, 9) | _JSON,
        "values": st.dictionaries(st.sampled_from("vw"), _ENTRY, max_size=2) | _JSON,
    }
)
_LINES = st.lists(st.one_of(_JSON.map(line), _POINTS.map(line), st.binary(max_size=40)), max_size=4).map(
    b"".join
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=_LINES, keep=st.booleans(), cut=st.integers(0, 400))
def test_any_journal_is_read_or_named_with_what_to_do(journal, lines, keep, cut):
    store, path, text = journal
    path.write_bytes((text[:cut] if not keep else text) + lines)
    for read in (partial(open_sweep, store), partial(sweep, failing, GRID, store=store, errors="record")):
        said = str(store)
        try:
            read()
        except ValueError as error:
            said = str(error)
        assert str(store) in said and "\n" not in said


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # h5netcdf closes what it refused
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_of_a_store_is_read_as_it_was_or_named(tmp_path, suffix, data):
    store, asked = tmp_path / f"a.{suffix}", {"seed": 1}
    compute = partial(sweep, mended, GRID)
    if not store.exists():
        kept(store, compute, asked=asked)
    whole = read_store(store)
    files = [p for p in ([store] if suffix == "nc" else sorted(store.rglob("*"))) if p.is_file()]
    file = data.draw(st.sampled_from(files))
    before = file.read_bytes()
    at = data.draw(st.integers(0, len(before)))
    piece = data.draw(st.binary(max_size=8) | st.just(b""))
    length = data.draw(st.sampled_from([0, 1, 8, len(before)]))
    file.write_bytes(before[:at] + piece + before[at + length :])
    said = ""
    try:
        assert kept(store, compute, asked=asked).identical(whole)
    except ValueError as error:
        said = str(error)
    finally:
        file.write_bytes(before)
    assert not said or (f"store='{store}'" in said and "delete" in said and "\n" not in said)


def reading(a, rng, store=""):
    """Reads the sweep that is running, then asks for its store in another thread and another process."""
    if a > 1.0:
        open_sweep(store)
    said = []
    for pool in (ThreadPoolExecutor(1), ProcessPoolExecutor(1, get_context("spawn"))):
        with pool:
            error = pool.submit(sweep, mended, GRID, store=store).exception()
            said.append(int("another sweep is writing there" in str(error)))
    return {"refused": min(said)}


def test_reading_a_sweep_while_it_runs_does_not_open_its_store_to_others(tmp_path):
    store = str(tmp_path / "a.nc")
    assert sweep(partial(reading, store=store), {"a": [1.0, 2.0]}, store=store).refused.to_numpy().all()
