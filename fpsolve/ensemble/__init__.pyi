from fpsolve.ensemble.simulation import simulate as simulate
from fpsolve.ensemble.wide_valley import flatness_growth as flatness_growth
from fpsolve.ensemble.wide_valley import simulate_valley as simulate_valley
