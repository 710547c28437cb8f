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
