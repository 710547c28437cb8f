from theory import escape as escape
from theory import valley as _valley
from theory.augmented import coloured as coloured
from theory.augmented import underdamped as underdamped
from theory.catalogue import degenerate_valley as degenerate_valley
from theory.catalogue import double_well as double_well
from theory.catalogue import styblinski_tang as styblinski_tang
from theory.expressions import parse_condition as parse_condition
from theory.expressions import parse_expression as parse_expression
from theory.landscape import CriticalPoint as CriticalPoint
from theory.landscape import Landscape as Landscape
from theory.langevin import Diffusion as Diffusion
from theory.langevin import Langevin as Langevin
from theory.langevin import at_finite_step as at_finite_step
from theory.noise import anisotropic as anisotropic
from theory.noise import data_shift as data_shift
from theory.noise import hessian_proportional as hessian_proportional
from theory.noise import isotropic as isotropic
from theory.noise import measured as measured
from theory.noise import random_shift as random_shift
from theory.valley import borders as _borders
from theory.valley import flatness as flatness
from theory.valley import times as _times

adiabatic = _valley
phase_boundaries = _borders
slow_passage = _times
