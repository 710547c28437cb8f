"""The README's examples run as printed."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_printed(capsys):
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})  # the project's own text
    assert "theory, order 2" in capsys.readouterr().out


def test_the_configuration_in_the_readme_is_read():
    from fpsolve.command.problem import parse_problem

    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    problem = parse_problem(block)
    assert problem.box == {"x": (-2.5, 2.5), "y": (-2.0, 2.0)}
