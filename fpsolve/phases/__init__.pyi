from fpsolve.phases.diagram import boundaries as boundaries
from fpsolve.phases.diagram import check_valley as check_valley
from fpsolve.phases.diagram import curvature_point as curvature_point
from fpsolve.phases.diagram import phase_diagram as phase_diagram
from fpsolve.phases.diagram import phase_point as phase_point
from fpsolve.phases.diagram import transition as transition
from fpsolve.phases.flatness import flatness_diagram as flatness_diagram
