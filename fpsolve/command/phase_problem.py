"""Configuration of a phase diagram: a landscape, and a [phases] table with its grid over (σ, η)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fpsolve.command.problem import _landscape, _number, _one_of, _read_table, _refuse_unknown, _whole
from fpsolve.phases.diagram import check_valley
from theory.landscape import Landscape

PHASES_KEYS = (
    "sigma", "learning_rate", "walkers", "time", "burn_in", "start", "search_limit", "seed",
)  # fmt: skip
#: A grid that shows all three phases of the reference valley in a minute.
DEFAULT_SIGMA = (1e-3, 3.0, 12)
DEFAULT_LEARNING_RATE = (0.01, 0.25, 8)
MAX_POINTS = 1_000_000


@dataclass(frozen=True)
class PhasesProblem:
    """A checked configuration: the landscape, the grid, options of ``phase_diagram``."""

    landscape: Landscape
    sigma: tuple[float, ...]
    learning_rate: tuple[float, ...]
    options: Mapping[str, object] = field(default_factory=dict)


def parse_phases(text: str) -> PhasesProblem:
    """Check a configuration of a phase diagram given as TOML text.

    Parameters
    ----------
    text : str

    Returns
    -------
    PhasesProblem

    Raises
    ------
    ValueError
        With one line that says what is wrong.
    """
    table = _read_table(text)
    noise = table.get("noise", {})
    if isinstance(noise, Mapping) and noise.get("kind", "random_shift") != "random_shift":
        _one_of(noise["kind"], ("random_shift",), "noise.kind")
    landscape = _landscape(table)
    check_valley(landscape)
    given = table.get("phases", {})
    _refuse_unknown(given, PHASES_KEYS, "[phases]")
    sigma = _values(given.get("sigma"), DEFAULT_SIGMA, "phases.sigma")
    learning_rate = _values(given.get("learning_rate"), DEFAULT_LEARNING_RATE, "phases.learning_rate")
    if len(sigma) * len(learning_rate) > MAX_POINTS:
        raise ValueError(f"phases has {len(sigma) * len(learning_rate):,} points; use at most {MAX_POINTS:,}")
    options: dict[str, object] = {"walkers": _whole(given.get("walkers", 32), "phases.walkers", at_least=2)}
    for key, default in (("time", 3000.0), ("burn_in", 2000.0), ("search_limit", None)):
        if key in given or default is not None:
            options[key] = float(_number(given.get(key, default), f"phases.{key}"))
    options["seed"] = _whole(given.get("seed", 0), "phases.seed", at_least=0)
    if "start" in given:
        start = given["start"]
        if not isinstance(start, list) or len(start) != 2:
            raise ValueError("phases.start must be two numbers, such as start = [1.5, 1.5]")
        options["start"] = tuple(float(_number(v, "phases.start")) for v in start)
    return PhasesProblem(landscape, sigma, learning_rate, options)


def _values(given: object, default: tuple[float, float, int], name: str) -> tuple[float, ...]:
    """A list, or ends and a number of points even in logarithm."""
    if isinstance(given, list):
        values = [float(_number(v, name)) for v in given]
    else:
        low, high, points = default
        if given is not None:
            if not isinstance(given, Mapping):
                raise ValueError(f"{name} must be a list, or {{ from = 1e-3, to = 1, points = 20 }}")
            _refuse_unknown(given, ("from", "to", "points"), name)
            low, high = (float(_number(given.get(key), f"{name}.{key}")) for key in ("from", "to"))
            points = _whole(given.get("points"), f"{name}.points", at_least=1)
        if not 0 < low <= high or points > MAX_POINTS:
            raise ValueError(f"{name}: 0 < from <= to, and at most {MAX_POINTS:,} points")
        values = np.geomspace(low, high, points).tolist()
    if not values or min(values) <= 0 or len(set(values)) < len(values):
        raise ValueError(f"{name} must hold positive numbers, each once")
    return tuple(values)
