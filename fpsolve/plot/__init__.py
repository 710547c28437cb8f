"""Figures of densities, comparisons and escapes: they draw the data they are given.

density: Probability density as a curve, or as a map of its logarithm in two variables.
marginal: Marginal density of one variable.
marginal_values: Points and values of a marginal density.
landscape: Loss along a valley, before and after the noise reshapes it.
profiles: Functions of one variable, told apart by colour and by dash.
stationary: Density, slow marginal by every method, and deviations, in one figure.
deviations: Deviation of every number of a table from its reference.
escape_times: Mean escape time of every method of a table.
escape_barriers: Mean escape times of many tables against the barrier.
escape_scan: Logarithm of the escape time along a scan, with the theorem's slopes.
crossing_bias: Bias of mean escape times against the time step.
CURVES: Colours and dashes of curves that belong to no method.
RESHAPED: Colours and dashes of losses after reshaping.
INK: Colour of each family of methods.
ORDER_STYLES: Dash of each order of the reduced theory.
"""

from theory.face import lazy

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
