"""Run every benchmark: ``python -m tests.benchmarks``."""

import importlib
import pkgutil

from tests import benchmarks

for module in pkgutil.iter_modules(benchmarks.__path__):
    if module.name.startswith("bench_"):
        print(f"== {module.name.removeprefix('bench_')}")
        importlib.import_module(f"tests.benchmarks.{module.name}").main()
