"""Every study can be run from a checkout and says what it does."""

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
