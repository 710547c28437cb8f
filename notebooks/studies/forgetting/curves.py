"""What is kept of task 1 against what is learned of task 2: fronts, over N_c, and over the length of task 2.

Reference: PNAS = Feng, Tu, PNAS 118, e2015617118 (2021), Fig. 4 E, F.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from notebooks.studies.forgetting.choice import Study, at_best, interval, summary
from notebooks.studies.forgetting.penalties import Method

__all__ = ["front", "over_counts", "over_steps"]


def front(
    study: Study, method: Method, *, count: int | None = None, checkpoint: int = -1, confidence: float = 0.95
) -> xr.Dataset:
    """(ε₁, ε₂) of the settings that no other setting of a penalty beats in both, by ε₁ (PNAS Fig. 4 E).

    Parameters
    ----------
    study : Study
        The pilots say which settings these are; their errors are those of the reported trainings.
    method : str
    count, checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    Dataset, dim setting
        Means over the reported trainings with intervals, ``strength`` λ and ``count`` N_c.
    """
    there = study.settings(method, count)

    def errors(result: xr.Dataset, name: str) -> np.ndarray:
        return result[name].isel(checkpoint=checkpoint).transpose("training", ...).to_numpy()[:, there]

    names = ("error_first", "error_second")
    e1, e2 = (errors(study.pilots, name).mean(0) for name in names)
    beaten = [(((e1 <= a) & (e2 <= b)) & ((e1 < a) | (e2 < b))).any() for a, b in zip(e1, e2, strict=True)]
    kept = np.flatnonzero(~np.array(beaten))
    kept = kept[np.argsort(errors(study.reported, "error_first").mean(0)[kept], kind="stable")]
    columns: dict[str, np.ndarray] = {}
    for name in names:
        values = errors(study.reported, name)
        ends = np.array([interval(values[:, k], confidence) for k in kept]).T
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    for name in ("strength", "count"):
        columns[name] = study.reported[name].to_numpy()[there[kept]]
    return xr.Dataset(
        {k: ("setting", v, {"long_name": k, "units": "1"}) for k, v in columns.items()},
        attrs={"title": f"front of {method}", "penalty": method, "confidence": confidence},
    )


def over_counts(
    study: Study, method: Method, *, checkpoint: int | None = -1, confidence: float = 0.95
) -> xr.Dataset:
    """ε₁ + ε₂ over N_c, each at its best λ (PNAS Fig. 4 F).

    Parameters
    ----------
    study : Study
    method : str
    checkpoint, confidence
        As in :func:`summary`.

    Returns
    -------
    Dataset, dim count
        ``total`` with its interval, ``strength``, ``at_edge``. Where 0 stood for all, the number is given.
    """
    every = study.everything(method)
    scanned = {int(c) for c in study.reported["count"].to_numpy()[study.settings(method)]}
    counts = sorted(scanned, key=lambda c: c or np.inf)
    rows = []
    for count in counts:
        best = at_best(study, method, count=count, checkpoint=checkpoint)
        ends = interval(best["total"].to_numpy(), confidence)
        rows.append((*ends, best.attrs["strength"], best.attrs["at_edge"]))
    names = ("total", "total_low", "total_high", "strength", "at_edge")
    return xr.Dataset(
        {
            k: ("count", np.array(v), {"long_name": k, "units": "1"})
            for k, v in zip(names, zip(*rows, strict=True), strict=True)
        },
        {"count": ("count", [c or every for c in counts], {"long_name": "constraints N_c", "units": "1"})},
        attrs={"title": f"{method} over N_c", "penalty": method, "confidence": confidence},
    )


def over_steps(study: Study, *, confidence: float = 0.95) -> xr.Dataset:
    """ε₁ + ε₂ over the length of task 2, each penalty at its best λ and N_c for that length.

    Parameters
    ----------
    study : Study
    confidence : float

    Returns
    -------
    Dataset, dims penalty, checkpoint
        ``total`` with its interval, ``strength``, ``count``; coordinate ``step``.
    """
    last = study.reported.sizes["checkpoint"]
    parts = [summary(study, checkpoint=k, confidence=confidence) for k in range(last)]
    names = ["total", "total_low", "total_high", "strength", "count"]
    both = xr.concat([part[names] for part in parts], "checkpoint", combine_attrs="override")
    return both.transpose("penalty", "checkpoint").assign_coords(step=study.reported["step"])
