"""A small fixed draw of the campaign: no wrong number without a word, no error from inside a library."""

import numpy as np
import pytest

from tests.campaign.__main__ import KINDS, described, numbered
from tests.campaign.trial import Claim, Problem, tried

#: Draws per kind here; ``make campaign N=1000`` makes more.
DRAWS = 2


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_wrong_in_silence(name):
    outcomes = [numbered(name, seed=0, number=n) for n in range(DRAWS)]
    bad = [described(o) for o in outcomes if o.outcome in ("silent", "raw", "slow")]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("ask", "outcome"),
    [
        (lambda: [Claim("v", 1.001, 1e-3, 1.0)], "right"),
        (lambda: [Claim("v", 1.01, 1e-3, 1.0)], "silent"),
        (lambda: [Claim("v", np.nan, 1e-3, 1.0)], "silent"),
        (lambda: [Claim("v", 1.01, np.nan, 1.0)], "silent"),
        (lambda: [], "silent"),
        (lambda: 1 / 0, "raw"),
        (lambda: np.linalg.inv(np.zeros((2, 2))), "raw"),
    ],
)
def test_a_wrong_answer_is_seen(ask, outcome):
    assert tried(Problem("trial", "", ask)).outcome == outcome
