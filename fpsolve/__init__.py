"""Stationary and evolving Fokker–Planck densities, ensembles of SGD, and their comparison with theory.

Importing this package loads nothing heavy: every name is found on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpsolve import compare, phases, plot, plot_phases  # noqa: F401
    from fpsolve.density import stationary_density  # noqa: F401
    from fpsolve.ensemble import simulate  # noqa: F401
    from fpsolve.escape import simulate_escape  # noqa: F401
    from fpsolve.escape_scans import fit_slope, scan_escape, slope_table  # noqa: F401
    from fpsolve.escape_setting import EscapeSetting, styblinski_tang_setting  # noqa: F401
    from fpsolve.evolution import evolve, probability_current  # noqa: F401
    from fpsolve.exponents import power_law  # noqa: F401
    from fpsolve.first_passage import committor, mean_first_passage_time, relaxation_rates  # noqa: F401
    from fpsolve.flatness_sweep import flatness_diagram  # noqa: F401
    from fpsolve.minibatch_escape import simulate_minibatch_escape  # noqa: F401
    from fpsolve.rare_events import split_escape  # noqa: F401
    from fpsolve.rates import escape_rate  # noqa: F401
    from fpsolve.sweeps import open_sweep, sweep  # noqa: F401
    from fpsolve.valley_ensemble import flatness_growth, simulate_valley  # noqa: F401

__version__ = "0.1.0"

#: Public name → module that defines it; a name that maps to itself is a module.
_HOMES = {
    "EscapeSetting": "fpsolve.escape_setting",
    "committor": "fpsolve.first_passage",
    "compare": "fpsolve.compare",
    "escape_rate": "fpsolve.rates",
    "evolve": "fpsolve.evolution",
    "fit_slope": "fpsolve.escape_scans",
    "flatness_diagram": "fpsolve.flatness_sweep",
    "flatness_growth": "fpsolve.valley_ensemble",
    "mean_first_passage_time": "fpsolve.first_passage",
    "open_sweep": "fpsolve.sweeps",
    "phases": "fpsolve.phases",
    "plot": "fpsolve.plot",
    "plot_phases": "fpsolve.plot_phases",
    "power_law": "fpsolve.exponents",
    "probability_current": "fpsolve.evolution",
    "relaxation_rates": "fpsolve.first_passage",
    "scan_escape": "fpsolve.escape_scans",
    "simulate": "fpsolve.ensemble",
    "simulate_escape": "fpsolve.escape",
    "simulate_minibatch_escape": "fpsolve.minibatch_escape",
    "simulate_valley": "fpsolve.valley_ensemble",
    "slope_table": "fpsolve.escape_scans",
    "split_escape": "fpsolve.rare_events",
    "stationary_density": "fpsolve.density",
    "styblinski_tang_setting": "fpsolve.escape_setting",
    "sweep": "fpsolve.sweeps",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Find a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fpsolve' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(_HOMES[name])
    value = module if _HOMES[name] == f"fpsolve.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return [*__all__, "__version__"]
