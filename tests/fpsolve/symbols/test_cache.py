"""Compiled kernels on disk: found again, compiled anew where a file is damaged, and never run from elsewhere."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fpsolve.symbols import machine_code
from fpsolve.symbols.cache import cache_directory, load_module

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
import sympy as sp
from fpsolve import simulate
from theory import Diffusion
x = sp.Symbol('x', real=True)
process = Diffusion(sp.Matrix([-x**3]), sp.Matrix([[sp.Rational(1, 2)]]), (x,))
paths = simulate(process, walkers=3, time=1, time_step=0.1, start={'x': 0}, rng=0)
(kernel,) = [m for name, m in sys.modules.items() if name.startswith('fpsolve_ensemble_')]
print(paths.x.values.tobytes().hex(), sum(kernel.advance.stats.cache_hits.values()))
"""
KERNEL = "from numba import njit\n\n\n@njit\ndef advance(x):\n    return x + {number}\n"


def run(cache, program=PROGRAM, **environment):
    """The two words that a fresh process prints."""
    environment = {**os.environ, "FPSOLVE_CACHE": str(cache), **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.split()


def test_a_second_process_starts_from_the_cache_with_the_same_bits(tmp_path):
    cold, warm = run(tmp_path / "cache"), run(tmp_path / "cache")
    assert cold[0] == warm[0]
    assert (cold[1], warm[1]) == ("0", "1")


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A private directory of kernels, and loading into it as a fresh process would."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("FPSOLVE_CACHE", str(tmp_path))

    def load(number=1):
        module = load_module(KERNEL.format(number=number), prefix="test")
        del sys.modules[module.__name__]
        assert module.advance(1) == 1 + number
        return sum(module.advance.stats.cache_hits.values())

    return tmp_path, load


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "one bit"])
def test_a_damaged_file_is_compiled_anew(private, suffix, damage):
    folder, load = private
    assert (load(), load()) == (0, 1)
    (path,) = folder.glob(f"*.{suffix}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-9], "emptied": b"", "one bit": bytes(content)}[damage])
    assert (load(), load()) == (0, 1)


def test_a_disk_that_takes_nothing_costs_a_compilation_and_no_result(private, monkeypatch):
    _, load = private

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine_code.os, "utime", full)
    monkeypatch.setattr(machine_code._CheckedFiles, "_open_for_write", full)
    assert (load(), load()) == (0, 0)


def test_numbas_own_directory_is_not_used(private, monkeypatch, tmp_path_factory):
    _, load = private
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(elsewhere))
    assert (load(), load()) == (0, 1)
    assert not list(elsewhere.iterdir())


def test_the_cache_is_bounded_and_keeps_what_was_used_last(private, monkeypatch):
    folder, load = private
    load(1)
    monkeypatch.setattr(machine_code, "LARGEST", 5 * sum(p.stat().st_size for p in folder.iterdir()) // 2)
    for number in range(2, 6):
        load(number)
        os.utime(next(folder.iterdir()))
        assert sum(p.stat().st_size for p in folder.iterdir()) <= machine_code.LARGEST
    assert load(5) == 1


def test_a_module_is_found_complete_by_every_thread(private):
    text = "import time\ntime.sleep(0.2)\nvalue = 1\n"
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(lambda _: load_module(text, prefix="test"), range(4)))
    assert {id(module) for module in modules} == {id(modules[0])}
    assert modules[0].value == 1
    del sys.modules[modules[0].__name__]


def test_threads_of_a_fresh_process_share_a_kernel(tmp_path):
    program = """
from concurrent.futures import ThreadPoolExecutor
import sympy as sp
import sys
sys.argv = ['program', '--option']
import fpsolve
from fpsolve.density.operator import _fipy
from theory import Diffusion
x = sp.Symbol('x', real=True)
process = Diffusion([-x**3], [[1]], (x,))
def one(k):
    if k % 2:
        return float(fpsolve.simulate(process, walkers=3, time=1, time_step=0.1, start={'x': 0}, rng=0).x.sum())
    return _fipy()[0].__name__
with ThreadPoolExecutor(6) as pool:
    print(*set(pool.map(one, range(9))), *sys.argv)
"""
    assert run(tmp_path / "cache", program)[2:] == ["program", "--option"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_a_directory_open_to_others_is_not_used(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("FPSOLVE_CACHE", str(tmp_path))
    assert cache_directory() != tmp_path


def test_without_a_home_the_directory_is_temporary_and_removed_at_the_end(tmp_path, monkeypatch):
    program = """
from pathlib import Path
def nowhere():
    raise RuntimeError('Could not determine home directory.')
Path.home = nowhere
from fpsolve.symbols import cache_directory
print(cache_directory(), cache_directory().is_dir())
"""
    folder, existed = run(None, program, FPSOLVE_CACHE=None, XDG_CACHE_HOME=None, TMPDIR=str(tmp_path))
    assert existed == "True"
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()
