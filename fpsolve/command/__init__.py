"""The command line ``fpsolve``."""
