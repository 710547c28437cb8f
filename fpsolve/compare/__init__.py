"""Methods side by side, and claims with their outcome.

stationary: Table of stationary averages by every method.
escape: Table of the mean escape time by every method.
averages: Stationary averages of a density.
verdicts: Claims of papers and their outcomes, as a module.
Claim: What a paper claims, as data.
Below: Claim that a number is below a border.
Between: Claim that a number lies in a range.
About: Claim that a number is near a target.
Sides: Claim decided by the side of 0 on which an interval lies.
Verdict: One claim beside what was measured.
VerdictTable: The verdicts of one notebook.
read_verdicts: Title and verdicts of a stored notebook.
verdict_page: One page of all verdicts.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
