"""The closed loop of one net: theory, density and ensemble of its measured valley beside what SGD did."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nets.measure.valley import MeasuredValley, Reading, log_weighted_flatness, says
from notebooks.studies.closed_loop.budget import variance_budget
from notebooks.studies.closed_loop.predictions import prediction, theory_variances

#: The network among the methods.
SGD = "network, SGD"
_OTHER_NOISE: dict[Reading, str] = {
    "measured": "Var y_i by theory with the finite step, noise as at w₀",
    "random_shift": "Var y_i by theory with the finite step, noise 2σH² with one σ",
}

__all__ = ["SGD", "closed_loop"]


def closed_loop(
    valley: MeasuredValley,
    walked: xr.Dataset,
    *,
    noise: Reading = "local",
    walkers: int = 2000,
    confidence: float = 0.95,
    rng: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Predictions of theory, density and ensemble beside what SGD did, for one net.

    Parameters
    ----------
    valley : MeasuredValley
    walked : Dataset
        From :func:`notebooks.studies.closed_loop.walks.walk`.
    noise : {"local", "measured", "random_shift"}
        See :meth:`nets.measure.valley.MeasuredValley.process`.
    walkers : int
    confidence : float
        Of SGD's intervals, bootstraps over replicas.
    rng : int
    progress : bool

    Returns
    -------
    Dataset
        As :func:`notebooks.studies.closed_loop.predictions.prediction`, with SGD as one method more: its errors are standard
        errors over replicas; ``sgd_low``, ``sgd_high`` (mode) its interval. With the variables of
        :func:`variance_budget` where the sampling is with replacement. ``log_flatness_net`` and ``…_error``:
        the growth of ln F̂ by Hessians at the copies' own weights. ``noise_curvature`` (mode) is BC_ii/λ_i at
        w₀, which is 1 where C = H/B; ``theory_measured`` and ``theory_random_shift`` (mode) are the variances
        with those readings of the noise. ``…_along`` and ``…_fit`` (point, mode): the valley's profile.
        ``loss`` at w₀, ``loss_net`` of the copies at the end, ``loss_line`` at their mean place on the line.

    Raises
    ------
    ValueError
        If an argument makes no sense, before any work.

    References
    ----------
    Yang, Tang, Tu, Phys. Rev. Lett. 130, 237101 (2023), Eqs. 7–16; ICLR 2021, Eqs. 5–7.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    steps = int(walked.attrs["steps"])
    found = prediction(valley, steps=steps, noise=noise, walkers=walkers, rng=rng, progress=progress)
    step = walked["step"].to_numpy()
    late = step - step[0] >= (step[-1] - step[0]) / 2
    y, x = walked["y"].to_numpy()[late], walked["x"].to_numpy()[-1]
    picks = np.random.default_rng([rng, 2]).integers(len(x), size=(400, len(x)))
    drawn = np.array([y[:, pick].var(1, ddof=1).mean(0) for pick in picks])
    tail = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(drawn, tail, axis=0)
    climb = valley.log_weighted_flatness
    gained = climb(x) - climb(0.0)
    root = np.sqrt(len(x))
    own = {
        "variance": ("mode", y.var(1, ddof=1).mean(0)),
        "variance_error": ("mode", drawn.std(0, ddof=1)),
        "displacement": x.mean(), "displacement_error": x.std(ddof=1) / root,
        "flat_variance": x.var(ddof=1), "flat_variance_error": x.var(ddof=1) * np.sqrt(2 / (len(x) - 1)),
        "log_flatness": gained.mean(), "log_flatness_error": gained.std(ddof=1) / root,
    }  # fmt: skip
    sgd = xr.Dataset(own, coords={"mode": found["mode"]}).expand_dims(by=[SGD])
    single = {name: found[name] for name in found.data_vars if "by" not in found[name].dims}
    both = xr.concat([found.drop_vars(list(single)), sgd], "by").assign(single)
    for name in both.data_vars:
        both[name].attrs = found[name].attrs
    origin = valley.profile["curvature"].sel(x=0.0, method="nearest").to_numpy()
    net = log_weighted_flatness(walked["curvature"].to_numpy(), origin)
    net = net - log_weighted_flatness(origin, origin)
    C0 = np.diag(valley.covariance)[: valley.n_sharp]
    others = {
        f"theory_{other}": ("mode", theory_variances(valley, steps=steps, noise=other), says(text))
        for other, text in _OTHER_NOISE.items()
    }
    profile, places = valley.profile, valley.profile["x"].to_numpy()
    C = np.diagonal(profile["covariance"].to_numpy(), axis1=1, axis2=2)
    along = {
        "place_along": ("point", places, says("x of the points measured")),
        "loss_along": ("point", profile["loss"].to_numpy(), says("training loss there")),
        "curvature_along": (("point", "mode"), profile["curvature"].to_numpy(), says("curvature λ_i there")),
        "curvature_fit": (("point", "mode"), valley.curvatures(places), says("its fit")),
        "noise_along": (("point", "mode"), C[:, :-1], says("gradient noise C_ii there")),
        "noise_fit": (("point", "mode"), valley.noise(places)[:, :-1], says("its fit")),
    }
    both = both.assign(others | along).assign(
        sgd_low=("mode", low, says("lower end of SGD's variance")),
        sgd_high=("mode", high, says("its upper end")),
        log_flatness_net=((), net.mean(), says("growth of ln F̂ at the copies' own weights")),
        log_flatness_net_error=((), net.std(ddof=1) / np.sqrt(len(net)), says("its standard error")),
        curvature=("mode", origin, says("curvature λ_i at w₀")),
        noise_curvature=("mode", valley.run.settings.batch_size * C0 / origin, says("B C_ii / λ_i at w₀")),
        learning_rate=((), valley.learning_rate, says("learning rate")),
        explained=((), valley.profile.attrs["explained"], says("share of the displacement along u")),
        fit_error=((), valley.profile.attrs["curvature_fit_error"], says("largest error of a fitted λ_i")),
        loss=((), valley.profile.attrs["loss_at_start"], says("training loss at w₀")),
        loss_line=((), np.interp(x.mean(), places, profile["loss"]), says("on the line where SGD ends")),
        loss_net=((), float(walked["loss"].mean()), says("training loss of the copies at the end")),
    )
    if valley.run.settings.sampling == "with_replacement":
        both = xr.merge([both, variance_budget(valley, walked)], combine_attrs="override")
    both.attrs |= {
        "title": "prediction of the measured valley beside SGD", "confidence": confidence,
        "data": valley.run.data.name, "batch_size": int(valley.run.settings.batch_size),
    }  # fmt: skip
    return both
