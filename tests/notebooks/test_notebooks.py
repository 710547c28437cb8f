"""Every notebook runs from top to bottom, its closing assertions included."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_its_assertions_hold(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra [notebooks]")
    client = pytest.importorskip("nbclient", reason="needs the extra [notebooks]")
    notebook = nbformat.read(path, as_version=4)
    committed = _figures(notebook)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where notebooks/studies is found from the folder of the run
    monkeypatch.setenv("MPLBACKEND", "Agg")  # as in `make notebooks`, which must not lose the figures
    for name in ("FPSOLVE_NOTEBOOKS", "FPSOLVE_RESULTS"):  # the small setting, computed here
        monkeypatch.delenv(name, raising=False)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=resources).execute()
    assert _figures(notebook) == committed


def _figures(notebook):
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_notebooks_are_committed_executed_and_hold_no_machine_paths():
    nbformat = pytest.importorskip("nbformat", reason="needs the extra [notebooks]")
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), f"{path.name} has cells that were not run"
        kinds = {output.get("name", output.output_type) for cell in code for output in cell.outputs}
        assert not kinds & {"error", "stderr"}, f"{path.name} was committed with an error or a warning"
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text and "/root/" not in text and "site-packages" not in text
