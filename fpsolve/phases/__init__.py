"""Phase diagrams of SGD in a valley, over noise strength σ and learning rate η.

phase_diagram: Steady state, flatness, search time and phase on a grid of (σ, η).
phase_point: The same at one (σ, η), for a sweep.
boundaries: Borders of the phases as theory gives them.
transition: Border between phases I and II as simulated.
curvature_point: Curvature of ln p at the sharp minimum, for a sweep.
check_valley: Refusal of landscapes whose phases cannot be told apart.
flatness_diagram: Flatness in a valley of many dimensions on a grid of (σ, η).
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
