"""Words after options of the command line, listed without reading a file or loading a solver."""

from pathlib import Path
from typing import get_args

from fpsolve.density.choices import Method

METHODS = ("all", *get_args(Method))
EXAMPLE_FOLDER = Path(__file__).with_name("examples")
#: Names after ``--example``.
EXAMPLE_NAMES = tuple(sorted(path.stem for path in EXAMPLE_FOLDER.glob("*.toml")))
