"""The command line and its files: outcomes, exit codes, one clear line for bad input, nothing evaluated."""

import errno
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import xarray as xr

from fpsolve.command import jobs, line
from fpsolve.command import problem as config
from fpsolve.command.sizes import check_processes
from theory import Langevin, degenerate_valley, random_shift

GOOD = """
variables = ["x", "y"]
loss = "a*x**4/4 - x**2/2 + y**2"
parameters = { a = 1.0 }
[noise]
kind = "isotropic"
D = 0.2
[box]
x = [-2.5, 2.5]
y = [-2.0, 2.0]
[solver]
shape = [60, 50]
[simulate]
walkers = 64
time = 20
burn_in = 5
time_step = 0.02
"""
PROGRAM = [sys.executable, "-m", "fpsolve.command.line", "stationary"]


def _run(tmp_path, text, *options, command="stationary"):
    path = tmp_path / "problem.toml"
    path.write_text(text, encoding="utf-8")
    return line.main([command, str(path), *options])


def test_a_file_gives_table_figure_and_data(tmp_path, capsys):
    assert _run(tmp_path, GOOD, "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert "<x^2>" in printed.out and "spectral" in printed.out and "ensemble" in printed.out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"stationary.png", "stationary.txt", "stationary.json", "density.nc", "spectral.nc"} <= names
    with xr.open_dataarray(tmp_path / "out" / "density.nc", engine="h5netcdf") as density:
        assert float((density * density.cell_volume).sum()) == pytest.approx(1.0)
        assert "exponential" in density.attrs["scheme"]


def test_python_m_fpsolve_is_the_command():
    shown = subprocess.run(
        [sys.executable, "-m", "fpsolve", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: fpsolve" in shown.stdout and "stationary" in shown.stdout


def test_messages_name_the_keys_of_the_file(tmp_path, capsys):
    ring = """
variables = ["x"]
loss = "cos(x) - x/2"
[noise]
kind = "isotropic"
D = 0.5
[box]
x = [0.0, 6.283185307179586]
"""
    assert _run(tmp_path, ring, "--method", "finite-volume") == 2
    said = capsys.readouterr().err
    assert 'solver.walls = "reflecting"' in said and "walls='" not in said
    walls = '[solver]\nwalls = { x = "periodic" }\n'
    assert _run(tmp_path, ring + walls, "--method", "finite-volume") == 0


def test_json_is_all_that_is_printed(tmp_path, capsys):
    assert _run(tmp_path, GOOD, "--json", "--method", "finite-volume", "--no-simulation") == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in table["rows"]} == {"finite-volume"}


def test_the_same_seed_gives_the_same_table_and_another_does_not(tmp_path, capsys):
    printed = []
    for seed in ("3", "3", "4"):
        _run(tmp_path, GOOD, "--json", "--seed", seed, "--method", "finite-volume")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_the_valley_example_is_the_reference_problem():
    problem = config.parse_problem(config.EXAMPLES["valley"])
    assert problem.process == Langevin(degenerate_valley((8, -2, 1), 1e-3), random_shift(delta_s=1e-3))
    assert set(line.EXAMPLE_NAMES) == set(config.EXAMPLES)


BAD = {
    "unknown symbol": (GOOD.replace("a*x", "b*x"), "unknown symbol 'b'"),
    "non-finite parameter": (GOOD.replace("a = 1.0", "a = nan"), "must be a finite number"),
    "infinite noise": (GOOD.replace("D = 0.2", "D = inf"), "must be a finite number"),
    "negative noise": (GOOD.replace("D = 0.2", "D = -0.2"), "must be positive"),
    "indefinite D": (GOOD.replace('"isotropic"\nD = 0.2', '"anisotropic"\nD = [[1, 2], [2, 1]]'), "positive semidefinite"),
    "loss does not confine": (GOOD.replace("a*x**4/4 - x**2/2", "a*x"), "does not confine"),
    "unknown key": (GOOD.replace("parameters", "paramters"), "did you mean 'parameters'"),
    "unknown noise": (GOOD.replace('"isotropic"', '"isotropc"'), "did you mean 'isotropic'"),
    "unknown noise parameter": (GOOD.replace("D = 0.2", "d = 0.2"), "unknown key 'd'"),
    "box with other variables": (GOOD.replace("y = [-2.0", "z = [-2.0"), "box has the variables"),
    "empty box": (GOOD.replace("[-2.5, 2.5]", "[2.5, -2.5]"), "low < high"),
    "code in the loss": (GOOD.replace("y**2", "__import__('os').system('touch hacked')"), "not a known function"),
    "attribute in the loss": (GOOD.replace("y**2", "y.__class__"), "not allowed"),
    "huge power": (GOOD.replace("y**2", "9**9**9 + y"), "not a finite number"),
    "not TOML": ("this is not toml", "not valid TOML"),
    "missing noise": (GOOD.split("[noise]")[0], "[noise] table"),
    "unused parameter": (GOOD.replace("a = 1.0", "a = 1.0, q = 2.0"), "does not appear"),
    "example with variables": ('example = "valley"\nvariables = ["x"]\n[noise]\nkind = "isotropic"\nD = 1.0', "cannot be given"),
    "unknown example": ('example = "vally"\n[noise]\nkind = "isotropic"\nD = 1.0', "did you mean 'valley'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_gets_one_clear_line_and_exit_code_two(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = BAD[case]
    assert _run(tmp_path, text) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("fpsolve: error:")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "hacked").exists()


def test_unreadable_files_get_one_clear_line(tmp_path, capsys):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.toml").write_text("#" * 70_000)
    said = {
        "none.toml": "cannot read",
        "binary.toml": "not UTF-8",
        "large.toml": "larger than",
        "": "cannot read",
    }
    for name, message in said.items():
        assert line.main(["stationary", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_of_other_editors_are_read(start, end, tmp_path, capsys):
    (tmp_path / "a.toml").write_bytes((start + GOOD.replace("\n", end)).encode())
    options = ["--json", "--method", "spectral", "--no-simulation"]
    assert line.main(["stationary", str(tmp_path / "a.toml"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]


def test_the_program_starts_and_fails_cleanly_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [*PROGRAM, str(tmp_path / "none.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_an_output_that_is_a_file_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "solve", lambda *_, **__: pytest.fail("worked before looking at --out"))
    (tmp_path / "out").write_text("not a directory")
    for out in ("out", "out/inside"):
        assert _run(tmp_path, GOOD, "--out", str(tmp_path / out)) == 2
        assert capsys.readouterr().err.startswith("fpsolve: error:")


def test_a_directory_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr(jobs, "solve", lambda *_, **__: pytest.fail("worked before looking at --out"))
    monkeypatch.setattr(line.Path, "touch", refuse)
    assert _run(tmp_path, GOOD, "--out", str(tmp_path / "out")) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [[], ["a.toml", "--example", "valley"], ["--example", "vally"], ["--example", "valley", "--method", "fv"],
     ["--example", "valley", "--seed", "-1"], ["--example", "valley", "--seed", "x"]],
)  # fmt: skip
def test_wrong_options_exit_with_two(options, capsys):
    with pytest.raises(SystemExit) as left:
        line.main(["stationary", *options])
    assert left.value.code == 2 and "error:" in capsys.readouterr().err


def test_interruption_exits_with_130_and_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "solve", interrupted)
    assert _run(tmp_path, GOOD) == 130
    assert capsys.readouterr().err == "fpsolve: interrupted\n"


def test_a_running_ensemble_can_be_interrupted_from_the_keyboard(tmp_path):
    path = tmp_path / "long.toml"
    path.write_text(GOOD.replace("time = 20", "time = 1e9"), encoding="utf-8")
    command = [*PROGRAM, str(path), "--method", "finite-volume"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a test run in the background of a shell ignores Ctrl-C, and its children would inherit that
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as running:
        shown = ""
        while "step/s" not in shown:  # the ensemble's own bar: it is running
            character = running.stderr.read(1)
            assert character, shown
            shown += character
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == "" and "Traceback" not in err


def test_the_method_of_the_file_holds_unless_the_command_line_says_another(tmp_path, capsys):
    text = GOOD.replace("[solver]", '[solver]\nmethod = "spectral"')
    for options, expected in (([], "spectral"), (["--method", "finite-volume"], "finite-volume")):
        assert _run(tmp_path, text, "--json", "--no-simulation", *options) == 0
        assert {row["method"] for row in json.loads(capsys.readouterr().out)["rows"]} == {expected}


def test_what_is_left_out_is_said(tmp_path, capsys):
    text = GOOD.split("[simulate]")[0]
    assert _run(tmp_path, text, "--json", "--method", "spectral", "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert "no ensemble" in printed.err and "no figure" in printed.err
    json.loads(printed.out, parse_constant=pytest.fail)  # strict JSON: no NaN, no Infinity
    assert not (tmp_path / "out" / "stationary.png").exists()


def test_warnings_of_the_solvers_are_one_line_each(tmp_path, capsys):
    text = GOOD.replace("[60, 50]", "[16, 12]")
    assert _run(tmp_path, text, "--json", "--method", "finite-volume", "--no-simulation") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("fpsolve: warning:") for line in lines)


def test_the_version_is_printed(capsys):
    import fpsolve

    with pytest.raises(SystemExit) as left:
        line.main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out == f"fpsolve {fpsolve.__version__}\n"


@pytest.mark.parametrize(("burn_in", "warned"), [(1, True), (15, False)])
def test_an_ensemble_that_remembers_its_start_is_pointed_out(burn_in, warned, tmp_path, capsys):
    # One quadratic well relaxes at the rate 1: three relaxation times are 3.
    text = 'variables = ["x"]\nloss = "x**2/2"\n[noise]\nkind = "isotropic"\nD = 0.1\n[simulate]\nwalkers = 50\ntime = 20\ntime_step = 0.1\n'
    assert _run(tmp_path, text + f"burn_in = {burn_in}", "--json") == 0
    assert ("depend on its start" in capsys.readouterr().err) == warned


ESCAPE = """
variables = ["x"]
loss = "x**4/4 - x**2/2"
[noise]
kind = "isotropic"
D = 0.1
[escape]
start = { x = -1.0 }
target = "x > 0"
methods = ["exact", "backward", "theory", "simulation"]
walkers = 200
"""
_escape = partial(_run, command="escape")


def test_an_escape_from_a_file_gives_the_table_of_all_methods_and_its_files(tmp_path, capsys):
    out = tmp_path / "out"
    assert _escape(tmp_path, ESCAPE, "--json", "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["reference"] == "exact"
    assert {row["method"] for row in printed["rows"]} >= {"exact", "backward equation", "Kramers"}
    assert sorted(path.name for path in out.iterdir()) == ["escape.json", "escape.png", "escape.txt"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[escape]", "[escapes]", "did you mean 'escape'"),
        ('target = "x > 0"', 'target = "x = 0"', "cannot read the condition"),
        ('target = "x > 0"', 'target = "z > 0"', "unknown symbol 'z'"),
        ('target = "x > 0"', "", "needs target"),
        ("x = -1.0", "y = -1.0", "escape.start must give a number for each of x"),
        ("x = -1.0", "x = 0.5", "inside the target"),
        ("walkers = 200", "walkers = 0", "at least 2"),
        ("walkers = 200", "time_step = 0.0", "must be positive"),
        ("walkers = 200", "time_step = 1e-12", "which resolves the curvature"),
        ("walkers = 200", "walkers = 1e30", "escape.walkers = 1e+30 take"),
        ('"exact", ', '"exactly", ', "did you mean 'exact'"),
    ],
)
def test_a_bad_escape_is_one_line_and_code_2(old, new, message, tmp_path, capsys):
    assert _escape(tmp_path, ESCAPE.replace(old, new)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_file_without_an_escape_says_what_is_missing(tmp_path, capsys):
    assert _escape(tmp_path, ESCAPE.split("[escape]")[0]) == 2
    assert "no [escape] table" in capsys.readouterr().err


PHASES = """
example = "valley"
lambda = [8, -2, 1]
epsilon = 1e-3
[phases]
sigma = [0.001, 0.05, 2.0]
learning_rate = { from = 0.05, to = 0.1, points = 2 }
walkers = 8
time = 300
burn_in = 100
"""


def test_a_phase_diagram_comes_as_table_figure_and_data_and_goes_on_from_its_store(tmp_path, capsys):
    out, store = tmp_path / "out", str(tmp_path / "runs.nc")
    phases = partial(_run, tmp_path, PHASES, "--store", store, command="phases")
    assert phases("--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "not settled" in printed and "Delta_m/eta" in printed
    assert {p.name for p in out.iterdir()} == {"phases.json", "phases.nc", "phases.png", "phases.txt"}
    assert phases("--json", "--workers", "2") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["learning_rate"] for row in rows] == [0.05, pytest.approx(0.1)]
    assert all(row["II_to_III"] == [0.05, 2.0] and row["diverged"] >= 8 for row in rows)
    with xr.open_dataset(out / "phases.nc", engine="h5netcdf") as diagram:
        assert diagram.phase.shape == (3, 2) and "border_finite_step" in diagram


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("sigma = [", "sigmas = ["), "did you mean 'sigma'"),
        (("0.001, 0.05", "-0.001, 0.05"), "positive"),
        (("burn_in = 100", "burn_in = 400"), "burn_in"),
        (("points = 2", "points = 0"), "points"),
        (('example = "valley"', 'example = "double_well"'), "double_well"),
        (("[phases]", '[noise]\nkind = "isotropic"\nD = 0.1\n[phases]'), "phases are those of random_shift"),
        (
            ("walkers = 8", "walkers = 1000000000"),
            "phases.walkers = 1e+09 take 384 GB of memory; use at most",
        ),
        (("time = 300", "time = 1e18"), "days on one core"),
        (("time = 300", "time = -300"), "phases.time = -300 must be positive"),
    ],
)
def test_mistakes_in_a_phase_diagram_are_one_line(tmp_path, capsys, change, word):
    assert _run(tmp_path, PHASES.replace(*change), command="phases") == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_processes_are_bounded_by_cores_and_points(tmp_path, capsys):
    assert _run(tmp_path, PHASES, "--workers", "1000000000", command="phases") == 2
    assert "--workers 1000000000 would take 3e+08 GB of memory; this machine has" in capsys.readouterr().err
    assert check_processes(4, 3) == 3 and check_processes(1, 5) == 1


FLAT = (
    PHASES.replace("[8, -2, 1]", "[8, 2, 1]")
    .replace("[0.001, 0.05, 2.0]", "[0.001]")
    .replace("points = 2", "points = 1")
    .replace("to = 0.1", "to = 0.05")
)


def test_a_valley_without_a_transition_gets_its_diagram_and_a_note(tmp_path, capsys):
    out = tmp_path / "out"
    assert _run(tmp_path, FLAT, "--out", str(out), command="phases") == 0
    printed = capsys.readouterr()
    assert "no transition from I to II" in printed.err
    assert {p.name for p in out.iterdir()} == {"phases.json", "phases.nc", "phases.png", "phases.txt"}


def test_every_example_has_an_escape():
    for name in config.EXAMPLES:
        assert config.parse_problem(config.EXAMPLES[name]).escape is not None


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(tmp_path, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert (
        _run(tmp_path, GOOD, "--method", "finite-volume", "--no-simulation", "--out", str(tmp_path / "out"))
        == 2
    )
    printed = capsys.readouterr()
    assert f"cannot write {tmp_path / 'out' / 'stationary.txt'}: No space left on device" in printed.err
    assert "wrote" not in printed.out and not list((tmp_path / "out").iterdir())


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import os, time\nfrom concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n"
        "from fpsolve.command.phases import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n    time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")
