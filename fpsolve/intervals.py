"""Student's interval for the mean of independent trainings."""

from __future__ import annotations

import math

from scipy import stats


def student_factor(count: int, confidence: float = 0.95) -> float:
    """Half of Student's interval for a mean, in sample standard deviations: t / √n.

    Parameters
    ----------
    count : int
        n, at least 2.
    confidence : float

    Returns
    -------
    float
        To be multiplied by the standard deviation with n − 1.
    """
    return float(stats.t.ppf((1 + confidence) / 2, count - 1)) / math.sqrt(count)
