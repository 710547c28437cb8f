"""The closed loop beside the claims of the papers, from the numbers of several nets.

References: PRL = Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023); ICLR = Xie, Sato, Sugiyama, ICLR 2021.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fpsolve.compare.verdicts import About, Below, Claim, Sides, Verdict
from fpsolve.statistics import Scale, estimate
from notebooks.studies.closed_loop.predictions import SGD
from notebooks.studies.closed_loop.tables import in_words, noise_exponent, over_modes, pooled_factor

#: Methods that solve the same equation, in continuous time.
ALIKE = ("theory", "density of y, x held", "density of (x, y)", "ensemble, dt = rate/4")
#: Methods that agree within such a share are alike, and a smaller share of a force does not drive.
NEAR = About().near


def near(
    claim: str, paper: str, values: xr.DataArray | np.ndarray, *, expected: float = 1.0, scale: Scale = "log",
    shown: str = "",
) -> Verdict:  # fmt: skip
    """The verdict on numbers of several nets, first axis, that are expected near a value."""
    mean = estimate(values, scale=scale)
    found = Claim(claim, paper, mean, About(expected), shown=shown or f"{mean:.2f}")
    return found.judge(
        "the interval is wide" if found.outcome == "not decided" else f"{mean.value:.2f} against {expected:g}"
    )


def loop_verdicts(found: xr.Dataset, *, downhill: xr.Dataset | None = None) -> tuple[Verdict, ...]:
    """Claims of PRL and ICLR beside what was measured, from ``closed_loops`` of two sharp modes at least.

    ``downhill`` holds other nets, along another flat direction, where no pilot training went: for the drift
    along x, and for the size of the noise at their loss.
    """
    grown = found["log_flatness_net"] / found["log_flatness"].sel(by="theory")
    followed = _over(found, "displacement", "theory")
    spread = _over(found, "flat_variance", "density of (x, y)")
    exponent = "Noise is C = 2σH² (PRL Eq. 7): exponent of C against λ"
    growth = "ln F̂ at the copies' weights grows as in the valley (PRL Eq. 16)"
    size = f"Noise is C = H/B (ICLR Eqs. 5–7): BC/λ at a training loss of {float(found['loss'].mean()):.2g}"
    other = () if downhill is None else _downhill(downhill)
    return (
        _alike(found),
        _variances(found, "D/λ at the start", "C and λ of the start (PRL Eqs. 10, 11)"),
        _variances(found, "moving", "C and λ along the averaged walk (PRL Eq. 11)"),
        _variances(found, "D/λ of the net", "C and λ at weights that SGD visits (PRL Eqs. 3, 11)"),
        _variances(found, "force of the net", "noise and force at the copies' weights (PRL Eqs. 3, 4)"),
        near(exponent, "2", noise_exponent(found), expected=2.0, scale="linear"),
        near(size, "1", over_modes(found["noise_curvature"])),
        *other[:1],
        near("x follows the averaged force (PRL Eqs. 11–14)", "SGD/theory = 1", followed),
        *other[1:],
        near("x spreads by its own noise (PRL Eq. 10)", "SGD/density = 1", spread),
        near(growth, "SGD/theory = 1", grown, scale="linear"),
        _driving(found),
        _quiet(found),
    )


def _alike(found: xr.Dataset) -> Verdict:
    """Methods that solve the same equation."""
    same = found["variance"].sel(by=list(ALIKE))
    apart = float((same.max("by") / same.min("by") - 1).max())
    outcome, most = "holds" if apart < NEAR else "holds in part", f"{apart:.1%}"
    claim = "Theory, density and ensemble of one landscape agree (PRL Eqs. 10, 11)"
    return Verdict(claim, "the same law", f"apart by at most {most}", f"{outcome}: {most} at most")


def _downhill(found: xr.Dataset) -> tuple[Verdict, Verdict]:
    """The size of the noise, and the drift, of nets along another flat direction."""
    data, loss = found.attrs["data"], float(found["loss"].mean())
    size, drift = over_modes(found["noise_curvature"]), _over(found, "displacement", "theory")
    return (
        near(f"The same at a training loss of {loss:.2g} ({data})", "1", size),
        near(f"The same, u downhill, where no pilot went ({data})", "SGD/theory = 1", drift),
    )


def _over(found: xr.Dataset, name: str, by: str) -> xr.DataArray:
    """SGD over a method."""
    return found[name].sel(by=SGD) / found[name].sel(by=by)


def _variances(found: xr.Dataset, correction: str, by: str) -> Verdict:
    """SGD's variance over its prediction by a correction, pooled over modes."""
    ratio = (found["sgd"] / found["predicted"].sel(correction=correction)).transpose("training", "mode")
    modes, pooled = np.exp(np.log(ratio.to_numpy()).mean(0)), pooled_factor(found, correction)
    shown = f"{in_words(pooled)}; modes {modes.min():.2f} to {modes.max():.2f}"
    return near(f"Var y by {by}", "SGD/prediction = 1", pooled, shown=shown)


def _driving(found: xr.Dataset) -> Verdict:
    """The force of the noise beside that of the slope at w₀."""
    share = found["noise_force"] / found["flat_force"]
    mean, factor = estimate(share), float(1 / abs(share).mean())
    return Claim(
        "Noise is what drives x to flatter places (PRL Eq. 16)", "noise force, no slope of the loss", mean,
        Sides(above="holds in part", negligible=NEAR), shown=f"noise force / slope {mean:.3f}",
    ).judge({
        "does not hold": f"the slope of the loss does, by a factor of {factor:.0f}",
        "holds in part": "beside the slope of the loss",
        "not decided": "the interval is wide",
    })  # fmt: skip


def _quiet(found: xr.Dataset) -> Verdict:
    """Growth of ln F̂ with hardly any noise: half the growth of SGD refutes."""
    quiet, growth = float(found.attrs["quiet"]), float(found["log_flatness_net"].mean())
    more = estimate(found["quiet_log_flatness_net"] - found["log_flatness_net"])
    by = f"more with less noise, by {more.value:.2f}" if more.side() == "above" else "as much with less noise"
    return Claim(
        "ln F̂ at own weights grows in proportion to the noise (PRL Eq. 16)",
        f"1/{quiet:g} of the noise, 1/{quiet:g} of the growth", more, Below(refuted=-0.5 * abs(growth)),
        shown=f"growth with 1/{quiet:g} less growth of SGD {more:.3f}",
    ).judge({
        "does not hold": f"ln F̂ grows {by}",
        "holds": "less noise, less growth",
        "not decided": "the interval is wide",
    })  # fmt: skip
