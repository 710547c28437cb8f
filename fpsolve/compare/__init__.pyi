from fpsolve.compare import verdicts as verdicts
from fpsolve.compare.densities import averages as averages
from fpsolve.compare.densities import stationary as stationary
from fpsolve.compare.escapes import escape as escape
from fpsolve.compare.verdicts import Verdict as Verdict
from fpsolve.compare.verdicts import VerdictTable as VerdictTable
from fpsolve.compare.verdicts import read_verdicts as read_verdicts
from fpsolve.compare.verdicts import verdict_page as verdict_page
