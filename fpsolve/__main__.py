"""``python -m fpsolve`` is the command ``fpsolve``."""

import sys

from fpsolve.command.line import main

if __name__ == "__main__":
    sys.exit(main())
