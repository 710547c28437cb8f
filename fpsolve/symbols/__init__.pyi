from fpsolve.symbols.cache import cache_directory as cache_directory
from fpsolve.symbols.functions import numpy_function as numpy_function
from fpsolve.symbols.target import signed_function as signed_function
from fpsolve.symbols.target import target_function as target_function
