from fpsolve.sweeps.runner import Failure as Failure
from fpsolve.sweeps.runner import SweepError as SweepError
from fpsolve.sweeps.runner import open_sweep as open_sweep
from fpsolve.sweeps.runner import sweep as sweep
from fpsolve.sweeps.store import digest as digest
from fpsolve.sweeps.store import kept as kept
