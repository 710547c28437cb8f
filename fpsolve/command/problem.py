"""Configuration files: a landscape, its noise and a box in TOML, checked before any work."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from keyword import iskeyword
from typing import get_args

import numpy as np
import sympy as sp

from fpsolve.command.choices import EXAMPLE_FOLDER, METHODS
from fpsolve.command.reader import (
    Check,
    checked,
    like,
    number,
    one_of,
    parse,
    positive,
    read_text,
    refuse_unknown,
    shipped,
    short,
    whole,
)
from fpsolve.command.sizes import check_cells, check_walkers
from fpsolve.density.choices import Scheme, Walls
from fpsolve.density.grid import Box, checked_box, checked_walls
from theory.catalogue import CATALOGUE
from theory.evaluate import lambdified
from theory.expressions import parse_condition, parse_expression
from theory.landscape import Landscape
from theory.langevin import Langevin
from theory.noise import NOISE_KINDS

#: The catalogue's own parameters, by their names in a file.
EXAMPLE_PARAMETERS = {
    "valley": {"lambda": "lambda_", "epsilon": "epsilon"},
    "double_well": {"barrier": "barrier"},
    "styblinski_tang": {"dimensions": "dimensions", "shift_variance": "shift_variance"},
}
_EXAMPLE_KEYS = tuple(key for own in EXAMPLE_PARAMETERS.values() for key in own)
SECTIONS = ("variables", "fast", "loss", "example", *_EXAMPLE_KEYS, "parameters")
TABLES = ("noise", "box", "solver", "simulate", "escape", "phases")
#: Symbolic derivatives of more variables, and of longer lists of coefficients, take minutes.
MAX_VARIABLES = 100
MAX_COEFFICIENTS = 32
MIN_CELLS_PER_AXIS = 8
DEFAULT_WALKERS = 1024
DEFAULT_TIME = 1000.0
MAX_SEED = 2**64 - 1

#: Configurations that ship with the package, by the name after ``--example``.
EXAMPLES = shipped(EXAMPLE_FOLDER)


@dataclass(frozen=True)
class Problem:
    """A checked configuration: the process, where to solve it, and options of solver and simulation.

    ``method`` says which densities are wanted; ``solver`` are options of ``stationary_density``;
    ``simulate`` those of the ensemble, None where the file asks for no ensemble; ``escape`` those of
    ``compare.escape``, None where the file names no target.
    """

    process: Langevin
    box: Box | None = None
    method: str = "all"
    solver: Mapping[str, object] = field(default_factory=dict)
    simulate: Mapping[str, float] | None = None
    escape: Mapping[str, object] | None = None


def configuration(options: argparse.Namespace) -> str:
    """The text of the file or example that the command line names."""
    return EXAMPLES[options.example] if options.example else read_text(options.config)


def parse_problem(text: str) -> Problem:
    """Check a configuration given as TOML text.

    A ValueError says in one line what is wrong: unknown key (with the nearest known one), unknown symbol,
    number that is not finite, box with other variables.
    """
    table = problem_table(text)
    process = Langevin(chosen_landscape(table), _noise(table.get("noise")))
    if process.free_parameters:
        raise ValueError(f"no value for {', '.join(process.free_parameters)}; add it to parameters")
    for name, ends in table.get("box", {}).items():
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"box.{name} = {short(ends)} must be a pair of numbers, low < high")
        for end in ends:
            number(end, f"box.{name}")
    box = checked_box(process, table["box"]) if "box" in table else None
    _refuse_rough_and_silent(process)
    if box is None:
        _refuse_unconfined(process)
    solver = checked(table.get("solver", {}), solver_checks(len(process.variables)), "solver")
    checked_walls(process, solver.get("walls", "far"), box)
    simulate = _simulate(table["simulate"], process) if "simulate" in table else None
    escape = _escape(table["escape"], process) if "escape" in table else None
    return Problem(process, box, solver.pop("method", "all"), solver, simulate, escape)


def problem_table(text: str) -> dict:
    """A configuration as a mapping of known keys; its tables are not looked into."""
    return parse(text, SECTIONS, tables=TABLES)


def _refuse_rough_and_silent(process: Langevin) -> None:
    """ValueError if the second derivatives hold a Dirac delta, as those of abs(x) do, or the noise is zero.

    D is evaluated at 16 random points, since |H| has no closed form in general.
    """
    if process.landscape.hessian.has(sp.DiracDelta, sp.Derivative, sp.Subs):
        raise ValueError("the loss is not smooth: write sqrt(x**2 + c) with a small c instead of abs(x)")
    points = np.random.default_rng(1).normal(size=(16, len(process.variables)))
    try:
        with np.errstate(all="ignore"):
            D = process.diffusion_values(points)
        beyond = bool(np.isinf(D).any())
    except OverflowError:
        beyond = True
    if beyond:
        raise ValueError("the noise is beyond floating-point numbers; change the unit of the loss")
    if not np.any(D):
        raise ValueError("the noise is zero: without noise there is no density")


def _refuse_unconfined(process: Langevin) -> None:
    """ValueError if isotropic noise has no box and the loss, in exp(−L/D), does not grow along every axis."""
    if not process.noise.is_isotropic:
        return
    loss = lambdified(process.landscape.loss, process.variables)
    near, far = np.geomspace(1e2, 1e3, 200), np.geomspace(1e5, 1e6, 200)
    for name in process.names:
        for sign in (-1.0, 1.0):
            with np.errstate(all="ignore"):
                inner, outer = (
                    loss(*(sign * r if n == name else 0.0 for n in process.names)) for r in (near, far)
                )
            if np.isfinite(inner).all() and not (outer.min() > inner.max() or np.isnan(outer).any()):
                raise ValueError(
                    f"the loss does not confine the density: it does not grow towards "
                    f"{name} = {'-' if sign < 0 else ''}infinity; give a [box]"
                )


def solver_checks(dimension: int) -> dict[str, Check]:
    """What a [solver] table may hold, for so many variables."""
    return {
        "method": partial(one_of, known=METHODS),
        "shape": partial(_shape, dimension=dimension),
        "scheme": partial(_scheme, dimension=dimension),
        "walls": _walls,
        "cross_diffusion": partial(like, default=True),
        "accuracy": _share,
    }


def _walls(value: object, name: str) -> object:
    """One word for all variables, or a table with one for each name."""
    if isinstance(value, dict):
        return {v: one_of(word, f"{name}.{v}", get_args(Walls)) for v, word in value.items()}
    return one_of(value, name, get_args(Walls))


def _share(value: object, name: str) -> float:
    """A number between 0 and 1."""
    found = number(value, name)
    if not 0 < found < 1:
        raise ValueError(f"{name} = {found:g} must lie between 0 and 1")
    return found


def _scheme(value: object, name: str, dimension: int) -> object:
    """One scheme for all axes, or a list with one for each."""
    known = get_args(Scheme)
    if not isinstance(value, list):
        return one_of(value, name, ("auto", *known))
    if len(value) != dimension:
        raise ValueError(f"{name} = {value!r} must name one scheme for each of {dimension} variables")
    return [one_of(entry, name, known) for entry in value]


def _shape(value: object, name: str, dimension: int) -> tuple[int, ...]:
    """Cells per axis."""
    counts = value if isinstance(value, list) else [value] * dimension
    if len(counts) != dimension:
        raise ValueError(f"{name} = {value!r} must give a number of cells for each of {dimension} variables")
    cells = tuple(whole(n, name, at_least=MIN_CELLS_PER_AXIS) for n in counts)
    check_cells(math.prod(cells), dimension, f"{name} = {short(value)}")
    return cells


#: What the tables of walkers have in common; phases have their own times.
WALKERS: dict[str, Check] = {
    "walkers": partial(whole, at_least=2),
    "seed": partial(whole, at_least=0, at_most=MAX_SEED),
}
_SIMULATE: dict[str, Check] = {**WALKERS, "time": positive, "time_step": positive, "burn_in": number}


def _simulate(table: Mapping[str, object], process: Langevin) -> dict[str, float]:
    """Options of the ensemble."""
    options = checked(table, _SIMULATE, "simulate")
    if "time_step" not in options and process.learning_rate is None:
        raise ValueError("simulate.time_step is needed: the noise model has no learning rate")
    burn_in, time = options.get("burn_in", 0.0), options.get("time", DEFAULT_TIME)
    if not 0 <= burn_in < time:
        raise ValueError(f"simulate.burn_in = {burn_in:g} must be at least 0 and below the time, {time:g}")
    step = options.get("time_step", process.learning_rate)
    # a second ensemble takes half the step
    check_walkers(
        options.get("walkers", DEFAULT_WALKERS),
        3 * time / step,
        variables=len(process.names),
        where="simulate",
    )
    return options


def _escape(table: Mapping[str, object], process: Langevin) -> dict[str, object]:
    """Start, target and options of an escape."""
    from fpsolve.compare.escapes import METHODS as KNOWN

    symbols = {str(variable): variable for variable in process.variables}

    def start(value: object, name: str) -> dict[str, float]:
        if not isinstance(value, dict) or set(value) != set(process.names):
            raise ValueError(f"{name} must give a number for each of {', '.join(process.names)}")
        return {key: float(number(value[key], f"{name}.{key}")) for key in process.names}

    def target(value: object, _: str) -> sp.Basic:
        # A string without markup: parsed through the whitelist, over the process's own symbols
        condition = parse_condition(value, process.names)  # type: ignore[arg-type]
        return condition.xreplace({s: symbols[str(s)] for s in condition.free_symbols})

    def methods(value: object, name: str) -> list[str]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} must be a list of some of {', '.join(KNOWN)}")
        return [one_of(method, name, KNOWN) for method in value]

    checks: dict[str, Check] = {"start": start, "target": target, "methods": methods, "time_step": positive}
    options = checked(table, {**WALKERS, **checks, "max_time": positive}, "escape")
    missing = [key for key in ("start", "target") if key not in options]
    if missing:
        raise ValueError(f"[escape] needs {missing[0]}, such as start = {{ x = -1.0 }}, target = 'x > 0'")
    if "walkers" in options:
        check_walkers(options["walkers"], 1, variables=len(process.names), where="escape")
    if "seed" in options:
        options["rng"] = options.pop("seed")
    return options


def chosen_landscape(table: Mapping[str, object]) -> Landscape:
    """The loss: an example from the catalogue, or a formula."""
    if ("example" in table) == ("loss" in table):
        raise ValueError("give either loss (a formula) or example (a name)")
    if "example" in table:
        return _example(table)
    own = [k for k in _EXAMPLE_KEYS if k in table]
    if own:
        raise ValueError(f"{own[0]} belongs to an example; put a formula's numbers into parameters")
    variables = _names(table.get("variables"), "variables")
    parameters = table.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError("parameters must be a table of numbers")
    values = {name: number(value, f"parameters.{name}") for name, value in parameters.items()}
    both = sorted(set(variables) & set(values))
    if both:
        raise ValueError(f"{both[0]!r} is both a variable and a parameter")
    loss = parse_expression(table["loss"], variables, values=values)  # type: ignore[arg-type]
    written = re.findall(r"[^\W\d]\w*", str(table["loss"]))
    symbols = {str(s): s for s in loss.free_symbols}
    unused = [n for n in (*variables, *values) if n not in (symbols if n in variables else written)]
    if unused:
        raise ValueError(f"{unused[0]!r} does not appear in the loss")
    fast = _names(table["fast"], "fast") if "fast" in table else ()
    strangers = [name for name in fast if name not in variables]
    if strangers:
        raise ValueError(f"fast names {strangers[0]!r}, which is not a variable")
    chosen = tuple(symbols[name] for name in variables)
    return Landscape(loss, chosen, fast=tuple(s for s in chosen if str(s) in fast))


def _names(value: object, key: str) -> tuple[str, ...]:
    """A list of distinct identifiers."""
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(v, str) and v.isidentifier() for v in value)
    ):
        raise ValueError(f"{key} must be a list of names, such as {key} = ['x', 'y']")
    if len(value) > MAX_VARIABLES:
        raise ValueError(f"{key} has {len(value)} names; use at most {MAX_VARIABLES}")
    if len(set(value)) != len(value):
        raise ValueError(f"{key} repeats a name")
    if reserved := [name for name in value if iskeyword(name)]:
        raise ValueError(f"{key}: {reserved[0]!r} is a word of Python; rename it, such as {reserved[0]}_")
    return tuple(value)


def _example(table: Mapping[str, object]) -> Landscape:
    """A landscape of the catalogue with its own parameters."""
    name = one_of(table["example"], "example", tuple(CATALOGUE))
    clash = [k for k in ("variables", "fast", "parameters") if k in table]
    if clash:
        raise ValueError(f"{clash[0]} cannot be given with an example")
    allowed = EXAMPLE_PARAMETERS[name]
    arguments: dict[str, object] = {}
    for key in _EXAMPLE_KEYS:
        if key not in table:
            continue
        if key not in allowed:
            raise ValueError(f"{key} is no parameter of the example {name!r}")
        arguments[allowed[key]] = _EXAMPLE_CHECKS.get(key, number)(table[key], key)
    return CATALOGUE[name](**arguments)


def _noise(table: object):
    """A noise model from its kind and that kind's own parameters."""
    if not isinstance(table, dict) or "kind" not in table:
        raise ValueError(f"a [noise] table with kind = ... is needed; kinds: {', '.join(NOISE_KINDS)}")
    kind = one_of(table["kind"], "noise.kind", tuple(NOISE_KINDS))
    factory = NOISE_KINDS[kind]
    signature = inspect.signature(factory).parameters
    given = {key: value for key, value in table.items() if key != "kind"}
    refuse_unknown(given, list(signature), f"[noise] of kind {kind!r}")
    missing = [n for n, p in signature.items() if p.default is p.empty and n not in given]
    if missing:
        raise ValueError(f"noise kind {kind!r} needs {', '.join(missing)}")
    arguments = {
        key: (_matrix if "Sequence" in str(signature[key].annotation) else number)(value, f"noise.{key}")
        for key, value in given.items()
    }
    return factory(**arguments)


def _rows(value: object, name: str) -> list:
    """A list of numbers, or of rows of numbers."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} = {short(value)} must be a list of numbers, or of rows of numbers")
    if not any(isinstance(item, list) for item in value):
        return [number(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if not all(isinstance(item, list) and item for item in value):
        raise ValueError(f"{name} = {short(value)} must not mix numbers and rows")
    return [[number(v, f"{name}[{i}][{j}]") for j, v in enumerate(row)] for i, row in enumerate(value)]


def _coefficients(value: object, name: str) -> list:
    """Coefficients of λ(x), or of each λᵢ(x)."""
    rows = _rows(value, name)
    longest = max(len(rows), *(len(row) for row in rows if isinstance(row, list)), 0)
    if longest > MAX_COEFFICIENTS:
        raise ValueError(f"{name} has {longest} entries; use at most {MAX_COEFFICIENTS}")
    return rows


#: Parameters of examples that are more than a number.
_EXAMPLE_CHECKS: dict[str, Check] = {
    "lambda": _coefficients, "dimensions": partial(whole, at_least=1, at_most=MAX_VARIABLES),
}  # fmt: skip


def _matrix(value: object, name: str) -> list:
    """A list of numbers, or rows of equal length."""
    rows = _rows(value, name)
    if isinstance(rows[0], list) and len({len(row) for row in rows}) > 1:
        raise ValueError(f"{name} = {short(value)} must have rows of equal length")
    return rows
