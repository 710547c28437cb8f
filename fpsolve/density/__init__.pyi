from fpsolve.density.backward import committor as committor
from fpsolve.density.backward import mean_first_passage_time as mean_first_passage_time
from fpsolve.density.backward import relaxation_rates as relaxation_rates
from fpsolve.density.evolution import evolve as evolve
from fpsolve.density.evolution import probability_current as probability_current
from fpsolve.density.spectral import marginal as marginal
from fpsolve.density.stationary import stationary_density as stationary_density
