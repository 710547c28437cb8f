"""Verdicts: their form, the page of all of them, and that the page in the repository is the stored notebooks'."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fpsolve.command import line
from fpsolve.compare.verdicts import (
    MIME,
    About,
    Below,
    Between,
    Claim,
    Sides,
    Verdict,
    VerdictTable,
    read_verdicts,
    verdict_page,
)

ROOT = Path(__file__).parents[3]

HOLDS = Verdict("the sum is even (Book Eq. 1)", "2", "2.0 [1.9, 2.1]", "holds: within 5 %")
FAILS = Verdict("a | b", "x < y", "p <script>", "does not hold, by a factor 3")


def _notebook(path, *tables, title="A title"):
    outputs = [{"output_type": "execute_result", "data": table._repr_mimebundle_()} for table in tables]
    cells = [
        {"cell_type": "markdown", "source": [f"# {title}\n", "text"]},
        {"cell_type": "code", "source": "x", "outputs": outputs},
    ]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("holds", "holds"),
        ("holds in part: half", "holds in part"),
        ("does not hold; 3 ×", "does not hold"),
        ("not decided, n = 2", "not decided"),
    ],
)
def test_a_verdict_begins_with_its_outcome(words, outcome):
    assert Verdict("c", "p", "o", words).outcome == outcome


@pytest.mark.parametrize("words", ["reproduced", "holds up", "Holds", "not holds"])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="a verdict begins with"):
        Verdict("c", "p", "o", words)


def test_empty_fields_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="ours of a verdict must be text"):
        Verdict("c", "p", " ", "holds")
    with pytest.raises(ValueError, match="needs rows"):
        VerdictTable([])


@pytest.mark.parametrize(
    ("expected", "numbers", "outcome"),
    [
        (Sides("holds", below="holds in part"), (1.0, 0.1, 2.0), "holds"),
        (Sides("holds", below="holds in part"), (-1.0, -2.0, -0.1), "holds in part"),
        (Sides("holds"), (1.0, -0.1, 2.0), "not decided"),
        (Sides("holds", negligible=0.3), (0.1, 0.05, 0.2), "does not hold"),
        (Below(), (-1.0, -2.0, -0.1), "holds"),
        (Below(), (1.0, 0.1, 2.0), "does not hold"),
        (Below(), (-1.0, -2.0, 0.1), "not decided"),
        (Below(3.0), (1.0, 0.1, 2.0), "holds"),
        (Below(3.0, refuted=0.0), (1.0, 0.1, 2.0), "does not hold"),
        (Between(1.5, 2.5), (2.0, 1.0, 3.0), "holds"),
        (Between(1.5, 2.5), (3.0, 2.4, 3.6), "holds in part"),
        (Between(1.5, 2.5), (3.0, 2.6, 3.4), "does not hold"),
        (About(), (1.05, 1.02, 1.08), "holds"),
        (About(), (1.2, 0.9, 1.5), "holds"),
        (About(), (1.2, 0.7, 1.7), "not decided"),
        (About(), (1.5, 1.2, 1.8), "holds in part"),
        (About(2.0), (5.0, 4.5, 5.5), "does not hold"),
    ],
)
def test_a_claim_is_judged_by_its_number_and_interval(expected, numbers, outcome):
    measured = SimpleNamespace(**dict(zip(("value", "low", "high"), numbers, strict=True)))
    claim = Claim("x falls", "less", measured, expected, source="PRL Eq. 1")
    said = claim.judge({outcome: "why", "other": "never"})
    assert said.outcome == claim.outcome == outcome
    assert (said.claim, said.verdict) == ("x falls (PRL Eq. 1)", f"{outcome}: why")
    assert said.ours == "{:.3g} [{:.3g}, {:.3g}]".format(*numbers)
    assert Claim("x falls", "less", measured, expected, shown="few").judge() == Verdict(
        "x falls", "less", "few", outcome
    )


def test_cells_stay_cells_and_are_no_markup():
    rows = str(VerdictTable([HOLDS, FAILS])).splitlines()
    assert rows[3] == "| a \\| b | x &lt; y | p &lt;script> | does not hold, by a factor 3 |"


def test_verdicts_survive_the_notebook(tmp_path):
    table = VerdictTable([HOLDS, FAILS], setting="full: 3 trainings", seconds=600)
    title, found = read_verdicts(_notebook(tmp_path / "a.ipynb", table))
    assert title == "A title"
    assert found == [table]
    assert table.source == "full: 3 trainings; 10 min of one core"


def test_the_page_counts_outcomes_and_links_the_notebooks(tmp_path):
    (tmp_path / "notebooks").mkdir()
    _notebook(tmp_path / "notebooks" / "b.ipynb", VerdictTable([HOLDS, FAILS]), VerdictTable([HOLDS]))
    _notebook(tmp_path / "notebooks" / "a.ipynb", title="No verdicts")
    assert line.main(["verdicts", str(tmp_path / "notebooks"), "--out", str(tmp_path / "VERDICTS.md")]) == 0
    page = (tmp_path / "VERDICTS.md").read_text(encoding="utf-8")
    assert "3 (holds: 2, does not hold: 1)" in page
    assert "## [A title](notebooks/b.ipynb)" in page
    assert "No verdicts" not in page


def test_what_is_no_notebook_is_refused_in_one_line(tmp_path, capsys):
    bad = tmp_path / "bad.ipynb"
    for text, words in (
        ("{", "no notebook with verdicts"),
        ('{"cells": []}', "no heading"),
        ('{"cells": [{"source": 3}]}', "no notebook"),
    ):
        bad.write_text(text, encoding="utf-8")
        assert line.main(["verdicts", str(bad)]) == 2
        assert words in capsys.readouterr().err
    row = {
        "setting": "",
        "seconds": None,
        "rows": [{"claim": "c", "paper": "p", "ours": "o", "verdict": "yes"}],
    }
    output = {"data": {MIME: row}}
    bad.write_text(
        json.dumps({"cells": [{"source": "# T"}, {"source": "", "outputs": [output]}]}), encoding="utf-8"
    )
    assert line.main(["verdicts", str(bad)]) == 2
    assert "a verdict begins with" in capsys.readouterr().err
    assert line.main(["verdicts", str(_notebook(bad))]) == 2
    assert "no notebook holds verdicts" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_notebooks():
    page = ROOT / "VERDICTS.md"
    assert page.read_text(encoding="utf-8") == verdict_page(
        sorted((ROOT / "notebooks").glob("*.ipynb")), relative_to=ROOT
    )
