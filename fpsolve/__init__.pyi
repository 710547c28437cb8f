__version__: str
from fpsolve import compare as compare
from fpsolve import phases as phases
from fpsolve import plot as plot
from fpsolve.density.backward import committor as committor
from fpsolve.density.backward import mean_first_passage_time as mean_first_passage_time
from fpsolve.density.backward import relaxation_modes as relaxation_modes
from fpsolve.density.backward import relaxation_rates as relaxation_rates
from fpsolve.density.current import probability_current as probability_current
from fpsolve.density.evolution import evolve as evolve
from fpsolve.density.evolution import passage_time_law as passage_time_law
from fpsolve.density.stationary import stationary_density as stationary_density
from fpsolve.ensemble.simulation import simulate as simulate
from fpsolve.ensemble.wide_valley import flatness_growth as flatness_growth
from fpsolve.ensemble.wide_valley import simulate_valley as simulate_valley
from fpsolve.escape.minibatch import simulate_minibatch_escape as simulate_minibatch_escape
from fpsolve.escape.passages import simulate_escape as simulate_escape
from fpsolve.escape.rare_events import split_escape as split_escape
from fpsolve.escape.rates import escape_rate as escape_rate
from fpsolve.escape.scans import fit_slope as fit_slope
from fpsolve.escape.scans import scan_escape as scan_escape
from fpsolve.escape.scans import slope_table as slope_table
from fpsolve.escape.setting import EscapeSetting as EscapeSetting
from fpsolve.escape.setting import styblinski_tang_setting as styblinski_tang_setting
from fpsolve.phases import plot as _plot
from fpsolve.phases.flatness import flatness_diagram as flatness_diagram
from fpsolve.statistics import power_law as power_law
from fpsolve.sweeps.runner import open_sweep as open_sweep
from fpsolve.sweeps.runner import sweep as sweep

plot_phases = _plot
