"""Every study can be run from a checkout and says what it does."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STUDIES = sorted(path.parent.name for path in (ROOT / "notebooks" / "studies").glob("*/__init__.py"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_answers_to_its_name(name):
    command = [sys.executable, "-m", f"notebooks.studies.{name}", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"usage: python -m notebooks.studies.{name}")


@pytest.mark.parametrize("name", STUDIES)
def test_input_that_cannot_be_used_is_one_line_and_exit_code_2(name, tmp_path, monkeypatch, capsys):
    study = importlib.import_module(f"notebooks.studies.{name}.__main__")
    wrong = {
        "box_escape": ["--start", "nowhere"], "closed_loop": ["--nets", "1"], "forgetting": ["--store", "a.txt"],
        "noise_and_curvature": ["--trainings", "1"], "variance_flatness": ["none.toml", "--out", "."],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert study.main(wrong[name]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}: error: ")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"foreign"])
def test_a_damaged_seed_in_the_folder_of_a_study_is_named_with_what_to_do(content, tmp_path, capsys):
    study = importlib.import_module("notebooks.studies.variance_flatness.__main__")
    stored = tmp_path / "digits" / "seed_000.nc"
    stored.parent.mkdir()
    stored.write_bytes(content)
    assert study.main(["--example", "digits", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said.startswith("variance_flatness: error: ")
        and f"{stored}' is damaged" in said
        and "delete it" in said
    )
