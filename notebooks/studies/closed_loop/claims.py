"""The closed loop beside the claims of the papers, from the numbers of several nets.

References: PRL = Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023); ICLR = Xie, Sato, Sugiyama, ICLR 2021.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fpsolve.compare.verdicts import About, Claim, Verdict
from fpsolve.statistics import Scale
from notebooks.studies.closed_loop.predictions import SGD
from notebooks.studies.closed_loop.tables import (
    in_words,
    noise_exponent,
    over_modes,
    over_nets,
    pooled_factor,
)

#: Methods that solve the same equation, in continuous time.
ALIKE = ("theory", "density of y, x held", "density of (x, y)", "ensemble, dt = rate/4")
#: Methods that agree within such a share are alike, and a smaller share of a force does not drive.
NEAR = About().near


def near(
    claim: str,
    paper: str,
    values: xr.DataArray | np.ndarray,
    *,
    expected: float = 1.0,
    scale: Scale = "log",
    shown: str = "",
) -> Verdict:
    """The verdict on numbers of several nets, first axis, that are expected near a value."""
    mean = over_nets(values, scale)
    shown = shown or in_words(values, scale=scale)
    found = Claim(claim, paper, mean, About(expected), shown=shown)
    wide = found.outcome == "not decided"
    return found.judge("the interval is wide" if wide else f"{mean.value:.2f} against {expected:g}")


def loop_verdicts(found: xr.Dataset, *, downhill: xr.Dataset | None = None) -> tuple[Verdict, ...]:
    """Claims of PRL and ICLR beside what was measured, from ``closed_loops`` of two sharp modes at least.

    ``downhill`` holds other nets, along another flat direction, where no pilot training went: for the drift
    along x, and for the size of the noise at their loss.
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
        near(
            "Noise is C = 2σH² (PRL Eq. 7): exponent of C against λ", "2", exponent, expected=2.0,
            scale="linear",
        ),
        near(f"Noise is C = H/B (ICLR Eqs. 5–7): BC/λ at a training loss of {start:.2g}", "1", size),
        near("x follows the averaged force (PRL Eqs. 11–14)", "SGD/theory = 1", drift),
    ]  # fmt: skip
    if downhill is not None:
        further = _over(downhill, "displacement", "theory")
        claim = f"The same, u downhill, where no pilot went ({downhill.attrs['data']})"
        rows.append(near(claim, "SGD/theory = 1", further))
        loss, other = float(downhill["loss"].mean()), over_modes(downhill["noise_curvature"])
        rows.insert(
            7, near(f"The same at a training loss of {loss:.2g} ({downhill.attrs['data']})", "1", other)
        )
    rows += [
        near("x spreads by its own noise (PRL Eq. 10)", "SGD/density = 1", spread),
        near(
            "ln F̂ at the copies' weights grows as in the valley (PRL Eq. 16)", "SGD/theory = 1", grown,
            scale="linear",
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


def _variances(found: xr.Dataset, correction: str, by: str) -> Verdict:
    ratio = (found["sgd"] / found["predicted"].sel(correction=correction)).transpose("net", "mode")
    modes, pooled = np.exp(np.log(ratio.to_numpy()).mean(0)), pooled_factor(found, correction)
    shown = f"{in_words(pooled)}; modes {modes.min():.2f} to {modes.max():.2f}"
    return near(f"Var y by {by}", "SGD/prediction = 1", pooled, shown=shown)


def _of_share(share: xr.DataArray) -> str:
    found = over_nets(share, "linear")
    if max(abs(found.low), abs(found.high)) < NEAR:
        return f"does not hold: the slope of the loss does, by a factor of {float(1 / abs(share).mean()):.0f}"
    beside = "holds in part: beside the slope of the loss"
    return beside if found.side() == "above" else "not decided: the interval is wide"


def _of_quiet(more: xr.DataArray, growth: float) -> str:
    found = over_nets(more, "linear")
    if found.side() == "above":
        return f"does not hold: ln F̂ grows more with less noise, by {found.value:.2f}"
    if found.low > -0.5 * abs(growth):
        return "does not hold: ln F̂ grows as much with less noise"
    less = "holds: less noise, less growth"
    return less if found.side() == "below" else "not decided: the interval is wide"
