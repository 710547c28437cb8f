"""Any file is read, or refused in one line: arbitrary bytes, and sound files with pieces replaced.

``FPSOLVE_FILES=10000 pytest tests/fpsolve/command/test_hostile_files.py`` tries so many of the second kind.
"""

import os
import random

import pytest
from hostile import WELL, generated, outcome
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fpsolve.command import line


@pytest.mark.parametrize("seed", range(4))
def test_a_sound_file_with_pieces_replaced_is_read_or_refused_in_one_line(seed):
    rng = random.Random(seed)
    for _ in range(int(os.environ.get("FPSOLVE_FILES", "240")) // 4):
        content = generated(rng)
        assert outcome(content) in ("read", "refused"), content.decode()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), at=st.integers(0, len(WELL)))
@example(content=b"\xef\xbb\xbf\xef\xbb\xbf", at=0)
@example(content=b"\r", at=5)
def test_any_bytes_in_a_file_end_in_one_line_and_exit_code_2(content, at, tmp_path, capsys):
    path = tmp_path / "any.toml"
    path.write_bytes(content if at == 0 else WELL[:at].encode() + content)
    for command in ("stationary", "escape", "phases"):
        code = line.main(
            [command, str(path), "--out", str(tmp_path / "any.toml")]
        )  # which no run could write
        said = capsys.readouterr().err
        assert code == 2 and said.startswith("fpsolve: error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 10_000, b'{"cells": 3}', b'{"cells": [{}]}', b"\xff", b"null"]
)
def test_any_bytes_in_a_notebook_end_in_one_line_and_exit_code_2(content, tmp_path, capsys):
    path = tmp_path / "any.ipynb"
    path.write_bytes(content)
    assert line.main(["verdicts", str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and said.count("\n") == 1
