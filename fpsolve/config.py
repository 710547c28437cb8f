"""Configuration files: a landscape, its noise and a box in TOML, checked before any work."""

from __future__ import annotations

import inspect
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from fpsolve.mesh import Box, checked_box
from theory.expressions import parse_expression
from theory.landscape import CATALOGUE, Landscape
from theory.langevin import NOISE_KINDS, Langevin

#: A configuration is a page of text; anything larger is a mistake.
MAX_BYTES = 64 * 1024
SECTIONS = ("variables", "fast", "loss", "example", "lambda", "epsilon", "barrier", "parameters")
TABLES = ("noise", "box", "solver", "simulate")
#: The catalogue's own parameters, by their names in a file.
EXAMPLE_PARAMETERS = {
    "valley": {"lambda": "lambda_", "epsilon": "epsilon"},
    "double_well": {"barrier": "barrier"},
}
SOLVER_KEYS = ("shape", "scheme", "walls", "cross_diffusion", "accuracy")
SIMULATE_KEYS = ("walkers", "time", "time_step", "burn_in", "seed")

#: Configurations that ship with the package, by the name after ``--example``.
EXAMPLES = {
    "valley": """
example = "valley"
lambda = [8, -2, 1]
epsilon = 1e-3
[noise]
kind = "random_shift"
delta_s = 1e-3
[simulate]
walkers = 2048
time = 900.0
burn_in = 500.0
time_step = 0.01
seed = 0
""",
    "double_well": """
variables = ["x", "y"]
loss = "a*x**4/4 - x**2/2 + y**2 + x*y/4"
parameters = { a = 1.0 }
[noise]
kind = "isotropic"
D = 0.08
[box]
x = [-2.5, 2.5]
y = [-2.0, 2.0]
[simulate]
walkers = 2048
time = 1000.0
burn_in = 300.0
time_step = 0.02
seed = 0
""",
}


@dataclass(frozen=True)
class Problem:
    """A checked configuration: the process, where to solve it, and options of solver and simulation."""

    process: Langevin
    box: Box | None = None
    solver: Mapping[str, object] = field(default_factory=dict)
    simulate: Mapping[str, float] = field(default_factory=dict)


def load_problem(path: str | Path) -> Problem:
    """Read a configuration file.

    Parameters
    ----------
    path : str or Path
        A TOML file of at most 64 KiB.

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        With one line that says what is wrong: unreadable file, unknown key (with the nearest known
        one), unknown symbol, number that is not finite, box with other variables.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    return parse_problem(text)


def parse_problem(text: str) -> Problem:
    """Check a configuration given as TOML text; see :func:`load_problem`.

    Parameters
    ----------
    text : str

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"not valid TOML: {error}") from None
    _refuse_unknown(table, (*SECTIONS, *TABLES), "the file")
    for name in TABLES:
        if name in table and not isinstance(table[name], dict):
            raise ValueError(f"[{name}] must be a table")
    process = Langevin(_landscape(table), _noise(table.get("noise")))
    _ = process.diffusion if process.free_parameters == () else None
    if process.free_parameters:
        raise ValueError(f"no value for {', '.join(process.free_parameters)}; add it to parameters")
    box = None if "box" not in table else checked_box(process, table["box"])
    solver, simulate = table.get("solver", {}), table.get("simulate", {})
    _refuse_unknown(solver, SOLVER_KEYS, "[solver]")
    _refuse_unknown(simulate, SIMULATE_KEYS, "[simulate]")
    return Problem(process, box, solver, {k: _number(v, f"simulate.{k}") for k, v in simulate.items()})


def _refuse_unknown(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """An unknown key is an error that names the nearest known one."""
    for key in table:
        if key not in known:
            near = get_close_matches(key, list(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown key {key!r} in {where}; {hint}")


def _number(value: object, name: str) -> float:
    """A finite number; whole numbers stay whole."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} = {value!r} must be a finite number")
    return value


def _landscape(table: Mapping[str, object]) -> Landscape:
    """The loss: an example from the catalogue, or a formula."""
    if ("example" in table) == ("loss" in table):
        raise ValueError("give either loss (a formula) or example (a name)")
    if "example" in table:
        return _example(table)
    own = [k for k in ("lambda", "epsilon", "barrier") if k in table]
    if own:
        raise ValueError(f"{own[0]} belongs to an example; put a formula's numbers into parameters")
    variables = _names(table.get("variables"), "variables")
    parameters = table.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError("parameters must be a table of numbers")
    values = {name: _number(value, f"parameters.{name}") for name, value in parameters.items()}
    both = sorted(set(variables) & set(values))
    if both:
        raise ValueError(f"{both[0]!r} is both a variable and a parameter")
    loss = parse_expression(table["loss"], [*variables, *values])  # type: ignore[arg-type]
    symbols = {str(s): s for s in loss.free_symbols}
    unused = [name for name in (*variables, *values) if name not in symbols]
    if unused:
        raise ValueError(f"{unused[0]!r} does not appear in the loss")
    fast = _names(table["fast"], "fast") if "fast" in table else ()
    chosen = tuple(symbols[name] for name in variables)
    landscape = Landscape(loss, chosen, fast=tuple(s for s in chosen if str(s) in fast))
    strangers = [name for name in fast if name not in variables]
    if strangers:
        raise ValueError(f"fast names {strangers[0]!r}, which is not a variable")
    return landscape.with_parameters(values)


def _names(value: object, key: str) -> tuple[str, ...]:
    """A list of distinct identifiers."""
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(v, str) and v.isidentifier() for v in value)
    ):
        raise ValueError(f"{key} must be a list of names, such as {key} = ['x', 'y']")
    if len(set(value)) != len(value):
        raise ValueError(f"{key} repeats a name")
    return tuple(value)


def _example(table: Mapping[str, object]) -> Landscape:
    """A landscape of the catalogue with its own parameters."""
    name = table["example"]
    if name not in CATALOGUE:
        near = get_close_matches(str(name), list(CATALOGUE), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CATALOGUE)}"
        raise ValueError(f"unknown example {name!r}; {hint}")
    clash = [k for k in ("variables", "fast", "parameters") if k in table]
    if clash:
        raise ValueError(f"{clash[0]} cannot be given with an example")
    allowed = EXAMPLE_PARAMETERS[str(name)]
    arguments: dict[str, object] = {}
    for key in ("lambda", "epsilon", "barrier"):
        if key not in table:
            continue
        if key not in allowed:
            raise ValueError(f"{key} is no parameter of the example {name!r}")
        value = table[key]
        if isinstance(value, list):
            arguments[allowed[key]] = [_number(v, key) for v in value]
        else:
            arguments[allowed[key]] = _number(value, key)
    return CATALOGUE[str(name)](**arguments)


def _noise(table: object):
    """A noise model from its kind and that kind's own parameters."""
    if not isinstance(table, dict) or "kind" not in table:
        raise ValueError(f"a [noise] table with kind = ... is needed; kinds: {', '.join(NOISE_KINDS)}")
    kind = table["kind"]
    if kind not in NOISE_KINDS:
        near = get_close_matches(str(kind), list(NOISE_KINDS), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NOISE_KINDS)}"
        raise ValueError(f"unknown noise kind {kind!r}; {hint}")
    factory = NOISE_KINDS[kind]
    signature = inspect.signature(factory).parameters
    arguments = {key: _numbers(value, f"noise.{key}") for key, value in table.items() if key != "kind"}
    _refuse_unknown(arguments, list(signature), f"[noise] of kind {kind!r}")
    missing = [n for n, p in signature.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise ValueError(f"noise kind {kind!r} needs {', '.join(missing)}")
    return factory(**arguments)


def _numbers(value: object, name: str):
    """A number, or a list or matrix of numbers."""
    if isinstance(value, list):
        return [_numbers(item, name) for item in value]
    return _number(value, name)
