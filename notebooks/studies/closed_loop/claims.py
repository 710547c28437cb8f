"""What the closed loop says about the claims of the papers, from the numbers of several nets."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr

from fpsolve.compare.verdicts import Verdict
from notebooks.studies.closed_loop.loop import SGD
from notebooks.studies.closed_loop.tables import (
    in_words,
    noise_exponent,
    over_modes,
    over_nets,
    pooled_factor,
)

#: Methods that solve the same equation, in continuous time.
ALIKE = ("theory", "density of y, x held", "density of (x, y)", "ensemble, dt = rate/4")
#: A mean so near to what was expected holds; an interval of such a width, relative to it, decides nothing.
NEAR, WIDE = 0.1, 0.7

__all__ = ["judged", "loop_verdicts"]


def judged(
    values: xr.DataArray | np.ndarray, *, scale: Literal["log", "linear"] = "log", expected: float = 1.0
) -> str:
    """A verdict on the mean over nets: as expected, within a factor of two of it, or further off.

    Parameters
    ----------
    values : array, first axis nets
    scale : {"log", "linear"}
        See :func:`notebooks.studies.closed_loop.tables.over_nets`.
    expected : float

    Returns
    -------
    str
        "holds" within a tenth, or where the interval has the expected value in it; "not decided" where
        such an interval is wide.
    """
    mean, low, high = np.array(over_nets(values, scale=scale)) / expected
    inside = low <= 1 <= high
    if inside and high - low > WIDE:
        return "not decided: the interval is wide"
    near = inside or abs(mean - 1) < NEAR
    word = "holds" if near else "holds in part" if 0.5 < mean < 2 else "does not hold"
    return f"{word}: {mean * expected:.2f} against {expected:g}"


def loop_verdicts(found: xr.Dataset, *, downhill: xr.Dataset | None = None) -> tuple[Verdict, ...]:
    """Claims of PRL 2023 and ICLR 2021 beside what was measured.

    Parameters
    ----------
    found : Dataset
        From :func:`notebooks.studies.closed_loop.study.closed_loops`, two sharp modes at least.
    downhill : Dataset, optional
        Other nets, along another flat direction, where no pilot training went: for the drift along x, and for
        the size of the noise at their loss.

    Returns
    -------
    tuple of Verdict

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023); Xie, Sato, Sugiyama, ICLR 2021.
    """
    same = found["variance"].sel(by=list(ALIKE))
    apart = float((same.max("by") / same.min("by") - 1).max())
    drift = _over(found, "displacement", "theory")
    spread = _over(found, "flat_variance", "density of (x, y)")
    grown = found["log_flatness_net"] / found["log_flatness"].sel(by="theory")
    share = found["noise_force"] / found["flat_force"]
    more = found["quiet_log_flatness_net"] - found["log_flatness_net"]
    exponent, size = noise_exponent(found), over_modes(found["noise_curvature"])
    quiet, start = float(found.attrs["quiet"]), float(found["loss"].mean())
    alike = f"{'holds' if apart < NEAR else 'holds in part'}: {apart:.1%} at most"
    rows = [
        Verdict(
            "Theory, density and ensemble of one landscape agree (PRL Eqs. 10, 11)", "the same law",
            f"apart by at most {apart:.1%}", alike,
        ),
        _variances(found, "D/λ at the start", "C and λ of the start (PRL Eqs. 10, 11)"),
        _variances(found, "moving", "C and λ along the averaged walk (PRL Eq. 11)"),
        _variances(found, "D/λ of the net", "C and λ at weights that SGD visits (PRL Eqs. 3, 11)"),
        _variances(found, "force of the net", "noise and force at the copies' weights (PRL Eqs. 3, 4)"),
        Verdict(
            "Noise is C = 2σH² (PRL Eq. 7): exponent of C against λ", "2", in_words(exponent, scale="linear"),
            judged(exponent, scale="linear", expected=2.0),
        ),
        _ratio(f"Noise is C = H/B (ICLR Eqs. 5–7): BC/λ at a training loss of {start:.2g}", "1", size),
        _ratio("x follows the averaged force (PRL Eqs. 11–14)", "SGD/theory = 1", drift),
    ]  # fmt: skip
    if downhill is not None:
        further = _over(downhill, "displacement", "theory")
        claim = f"The same, u downhill, where no pilot went ({downhill.attrs['data']})"
        rows.append(_ratio(claim, "SGD/theory = 1", further))
        loss, other = float(downhill["loss"].mean()), over_modes(downhill["noise_curvature"])
        rows.insert(
            7, _ratio(f"The same at a training loss of {loss:.2g} ({downhill.attrs['data']})", "1", other)
        )
    rows += [
        _ratio("x spreads by its own noise (PRL Eq. 10)", "SGD/density = 1", spread),
        Verdict(
            "ln F̂ at the copies' weights grows as in the valley (PRL Eq. 16)", "SGD/theory = 1",
            in_words(grown, scale="linear"), judged(grown, scale="linear"),
        ),
        Verdict(
            "Noise is what drives x to flatter places (PRL Eq. 16)", "noise force, no slope of the loss",
            f"noise force / slope {in_words(share, scale='linear', form='.3f')}", _of_share(share),
        ),
        Verdict(
            "ln F̂ at own weights grows in proportion to the noise (PRL Eq. 16)",
            f"1/{quiet:g} of the noise, 1/{quiet:g} of the growth",
            f"growth with 1/{quiet:g} less growth of SGD {in_words(more, scale='linear', form='.3f')}",
            _of_quiet(more, float(found["log_flatness_net"].mean())),
        ),
    ]  # fmt: skip
    return tuple(rows)


def _over(found: xr.Dataset, name: str, by: str) -> xr.DataArray:
    """SGD over a method."""
    return found[name].sel(by=SGD) / found[name].sel(by=by)


def _ratio(claim: str, paper: str, values: xr.DataArray) -> Verdict:
    return Verdict(claim, paper, in_words(values), judged(values))


def _variances(found: xr.Dataset, correction: str, by: str) -> Verdict:
    ratio = (found["sgd"] / found["predicted"].sel(correction=correction)).transpose("net", "mode")
    modes, pooled = over_nets(ratio)[0], pooled_factor(found, correction)
    said = f"{in_words(pooled)}; modes {modes.min():.2f} to {modes.max():.2f}"
    return Verdict(f"Var y by {by}", "SGD/prediction = 1", said, judged(pooled))


def _of_share(share: xr.DataArray) -> str:
    low, high = (float(v) for v in over_nets(share, scale="linear")[1:])
    if max(abs(low), abs(high)) < NEAR:
        return f"does not hold: the slope of the loss does, by a factor of {float(1 / abs(share).mean()):.0f}"
    return "holds in part: beside the slope of the loss" if low > 0 else "not decided: the interval is wide"


def _of_quiet(more: xr.DataArray, growth: float) -> str:
    mean, low, high = (float(v) for v in over_nets(more, scale="linear"))
    if low > 0:
        return f"does not hold: ln F̂ grows more with less noise, by {mean:.2f}"
    if low > -0.5 * abs(growth):
        return "does not hold: ln F̂ grows as much with less noise"
    return "holds: less noise, less growth" if high < 0 else "not decided: the interval is wide"
