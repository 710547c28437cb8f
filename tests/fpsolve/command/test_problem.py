"""Configuration files: what they build, and that every mistake is found before any work, in one line."""

import inspect
import math

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fpsolve import stationary_density
from fpsolve.command import problem as config
from theory import Landscape, Langevin, anisotropic, degenerate_valley, isotropic, random_shift
from theory.catalogue import CATALOGUE
from theory.noise import NOISE_KINDS

x, y = sp.symbols("x y", real=True)

FILE = """
variables = ["x", "y"]
loss = "a*x**4/4 - x**2/2 + y**2"
parameters = { a = 0.5 }
[noise]
kind = "isotropic"
D = 0.08
[box]
y = [-2, 2.0]
x = [-2.5, 2.5]
"""
VALLEY = 'example = "valley"\nlambda = [8, -2, 1]\nepsilon = 1e-3\n'


def _noise(lines):
    return FILE.replace('kind = "isotropic"\nD = 0.08', lines)


def test_a_formula_becomes_the_process_it_says():
    problem = config.parse_problem(FILE)
    half = sp.Rational(1, 2)
    assert problem.process == Langevin(Landscape(half * x**4 / 4 - x**2 / 2 + y**2, (x, y)), isotropic(0.08))
    assert problem.box == {"x": (-2.5, 2.5), "y": (-2.0, 2.0)} and list(problem.box) == ["x", "y"]
    assert problem.method == "all" and problem.solver == {} and problem.simulate is None


def test_an_example_takes_its_own_numbers_for_one_or_several_sharp_variables():
    one = config.parse_problem(VALLEY + '[noise]\nkind = "random_shift"\nlearning_rate = 0.01\nsigma = 0.1')
    assert one.process == Langevin(degenerate_valley(), random_shift(learning_rate=0.01, sigma=0.1))
    two = VALLEY.replace("[8, -2, 1]", "[[8, -2, 1], [3]]")
    two += '[noise]\nkind = "anisotropic"\ndelta = 0.1\nkappa = 4'
    assert config.parse_problem(two).process.landscape == degenerate_valley([(8, -2, 1), (3,)], 1e-3)


@pytest.mark.parametrize(
    ("lines", "noise"),
    [
        ('kind = "anisotropic"\nD = [0.1, 0.2]', anisotropic(D=[0.1, 0.2])),
        ('kind = "anisotropic"\nD = [[0.2, 0.1], [0.1, 0.2]]', anisotropic(D=[[0.2, 0.1], [0.1, 0.2]])),
        ('kind = "random_shift"\ndelta_s = 1e-3', random_shift(1e-3)),
        ('kind = "hessian_proportional"\nlearning_rate = 0.1\nbatch_size = 32', NOISE_KINDS["hessian_proportional"](learning_rate=0.1, batch_size=32)),
        ('kind = "measured"\ncovariance = [[2, 1], [1, 2]]\nlearning_rate = 0.1', NOISE_KINDS["measured"]([[2, 1], [1, 2]], learning_rate=0.1)),
    ],
)  # fmt: skip
def test_every_noise_kind_is_reached_by_its_python_names(lines, noise):
    assert config.parse_problem(_noise(lines)).process.noise == noise


def test_noise_without_a_closed_form_in_three_variables_is_accepted():
    text = 'variables = ["x", "y", "z"]\nloss = "x**2 + y**2 + z**2 + x*y*z/9"\n[noise]\nkind = "hessian_proportional"\nstrength = 0.1'
    assert config.parse_problem(text).process.names == ("x", "y", "z")


def test_options_of_solver_and_simulation_are_read():
    text = FILE + '[solver]\nmethod = "spectral"\nshape = 40\nscheme = ["central", "exponential"]\n'
    text += "cross_diffusion = false\n[simulate]\n"
    text += "walkers = 10\ntime = 9\ntime_step = 0.1\nburn_in = 1\nseed = 3"
    problem = config.parse_problem(text)
    assert problem.method == "spectral"
    scheme = ["central", "exponential"]
    assert problem.solver == {"shape": (40, 40), "scheme": scheme, "cross_diffusion": False}
    assert problem.simulate == {"walkers": 10, "time": 9, "time_step": 0.1, "burn_in": 1, "seed": 3}


def test_walls_are_one_word_or_one_for_each_variable():
    for walls, expected in (
        ('"reflecting"', "reflecting"),
        ('{ x = "periodic", y = "far" }', {"x": "periodic", "y": "far"}),
    ):
        assert config.parse_problem(FILE + f"[solver]\nwalls = {walls}").solver == {"walls": expected}


def _with(table, line):
    return FILE + f"[{table}]\n{line}\n"


MISTAKES = {
    "list for a number": (_noise('kind = "isotropic"\nD = [0.1]'), "noise.D = [0.1] must be a finite number"),
    "number for a list": (_noise('kind = "measured"\ncovariance = 1\nlearning_rate = 0.1'), "must be a list of numbers"),
    "truth value": (_noise('kind = "isotropic"\nD = true'), "must be a finite number"),
    "text for a number": (_noise('kind = "isotropic"\nD = "0.1"'), "must be a finite number"),
    "kind is no name": (_noise('kind = ["isotropic"]\nD = 0.1'), "did you mean 'isotropic'"),
    "ragged matrix": (_noise('kind = "anisotropic"\nD = [[1, 0], [0]]'), "rows of equal length"),
    "mixed rows": (_noise('kind = "anisotropic"\nD = [1, [0]]'), "must not mix"),
    "empty matrix": (_noise('kind = "anisotropic"\nD = []'), "must be a list"),
    "matrix of another size": (_noise('kind = "anisotropic"\nD = [1, 1, 1]'), "the landscape has 2 variables"),
    "no noise": (_noise('kind = "anisotropic"\nD = [0, 0]'), "the noise is zero"),
    "missing noise parameter": (_noise('kind = "isotropic"'), "needs D"),
    "half a pair": (_noise('kind = "random_shift"\nsigma = 1'), "needs learning_rate"),
    "huge integer": (FILE.replace("a = 0.5", f"a = {'9' * 400}"), "must be a finite number"),
    "parameters no table": (FILE.replace("{ a = 0.5 }", "3"), "must be a table"),
    "parameter also variable": (FILE.replace("a = 0.5", "a = 0.5, x = 1"), "both a variable and a parameter"),
    "unused variable": (FILE.replace('["x", "y"]', '["x", "y", "z"]'), "'z' does not appear"),
    "repeated variable": (FILE.replace('["x", "y"]', '["x", "x"]'), "repeats a name"),
    "stranger in fast": ('fast = ["z"]\n' + FILE, "not a variable"),
    "loss is no text": (FILE.replace('"a*x**4/4 - x**2/2 + y**2"', "3"), "must be text"),
    "loss with a kink": (FILE.replace("x**4", "abs(x)"), "not smooth"),
    "loss and example": ('example = "valley"\n' + FILE, "either loss"),
    "no loss": ("[noise]", "either loss"),
    "lambda with a formula": ("lambda = [8]\n" + FILE, "belongs to an example"),
    "lambda is a number": (VALLEY.replace("[8, -2, 1]", "3") + '[noise]\nkind = "isotropic"\nD = 1', "lambda = 3 must be a list"),
    "lambda not positive": (VALLEY.replace("[8", "[-8") + '[noise]\nkind = "isotropic"\nD = 1', "must be positive everywhere"),
    "barrier of a valley": (VALLEY + 'barrier = 1\n[noise]\nkind = "isotropic"\nD = 1', "no parameter of the example"),
    "end of a box is text": (FILE.replace("-2.5", '"a"'), "box.x = 'a' must be a finite number"),
    "box of one end": (FILE.replace("[-2.5, 2.5]", "[1]"), "must be a pair"),
    "box is a list": (FILE.split("[box]")[0].replace("[noise]", "box = [1]\n[noise]"), "[box] must be a table"),
    "unknown method": (_with("solver", 'method = "spectrl"'), "did you mean 'spectral'"),
    "shape of text": (_with("solver", 'shape = "big"'), "solver.shape = 'big'"),
    "fraction of a cell": (_with("solver", "shape = 40.5"), "whole number"),
    "too few cells": (_with("solver", "shape = [4, 40]"), "at least 8"),
    "shape of another dimension": (_with("solver", "shape = [40]"), "each of 2 variables"),
    "more cells than memory": (_with("solver", "shape = 100000"), "use at most 2,000,000"),
    "unknown scheme": (_with("solver", 'scheme = "exponentail"'), "did you mean 'exponential'"),
    "schemes of another dimension": (_with("solver", 'scheme = ["central"]'), "each of 2 variables"),
    "walls of no variable": (_with("solver", 'walls = { z = "far" }'), "walls has the variables"),
    "unknown walls": (_with("solver", "walls = 3"), "known: far, reflecting"),
    "text for a truth value": (_with("solver", 'cross_diffusion = "no"'), "must be true or false"),
    "negative accuracy": (_with("solver", "accuracy = -1"), "between 0 and 1"),
    "unknown solver key": (_with("solver", "acuracy = 1"), "did you mean 'accuracy'"),
    "half a walker": (_with("simulate", "walkers = 9.5\ntime_step = 1"), "whole number"),
    "no walkers": (_with("simulate", "walkers = 0\ntime_step = 1"), "at least 2"),
    "negative time": (_with("simulate", "time = -1\ntime_step = 1"), "simulate.time = -1 must be positive"),
    "no step": (_with("simulate", "time_step = 0"), "simulate.time_step = 0 must be positive"),
    "step unknown": (_with("simulate", "walkers = 9"), "time_step is needed"),
    "burn-in beyond the end": (_with("simulate", "time = 1\nburn_in = 2\ntime_step = 0.1"), "below the time"),
    "negative seed": (_with("simulate", "seed = -1\ntime_step = 1"), "at least 0"),
    "unknown simulate key": (_with("simulate", "walker = 9"), "did you mean 'walkers'"),
    "noise beyond numbers": (FILE.replace("a*x**4", "1e200*a*x**4").replace('"isotropic"\nD = 0.08', '"random_shift"\ndelta_s = 1'), "change the unit"),
    "more walkers than memory": (_with("simulate", "walkers = 1e12\ntime_step = 1"), "simulate.walkers = 1e+12 take 3.84e+05 GB of memory; use at most 4.1e+07 (16 GB)"),
    "more walkers than numbers": (_with("simulate", "walkers = 1e300\ntime_step = 1"), "between 1e-100 and 1e+100"),
    "step of no size": (_with("simulate", "time_step = 1e-300"), "between 1e-100 and 1e+100"),
    "steps without end": (_with("simulate", "time_step = 1e-30"), "days on one core; use at most 1e+14 walker-steps"),
    "huge seed": (_with("simulate", "time_step = 0.1\nseed = 1e30"), "at most 1.84467e+19"),
    "walkers that no escape has": (_with("escape", 'start = { x = 0, y = 0 }\ntarget = "x > 1"\nwalkers = 1e30'), "escape.walkers = 1e+30 take"),
    "target of a complex number": (_with("escape", 'start = { x = 0, y = 0 }\ntarget = "x > log(-1)"'), "'log(-1)' is not a real number"),
    "epsilon of no size": (VALLEY.replace("1e-3", "1e-300"), "epsilon = 1e-300 must be 0 or between"),
    "lambda of many coefficients": (VALLEY.replace("[8, -2, 1]", str([1] * 99)), "lambda has 99 entries; use at most 32"),
    "cells in space": ('variables = ["x", "y", "z"]\nloss = "x**2+y**2+z**2"\n[noise]\nkind = "isotropic"\nD = 1\n[solver]\nshape = 200', "8,000,000 cells, whose factorisation takes 160 GB; use at most 1,400,000"),
    "dimensions without end": ('example = "styblinski_tang"\ndimensions = 1e6', "dimensions = 1000000.0 must be a whole number, at least 1 and at most 100"),
    "half a dimension": ('example = "styblinski_tang"\ndimensions = 1.5', "must be a whole number"),
    "many variables": (f"variables = {[f'x{k}' for k in range(200)]}\nloss = 'x0**2'", "variables has 200 names"),
    "variable is a word of Python": ('variables = ["lambda"]\nloss = "lambda**2"', "'lambda' is a word of Python; rename it, such as lambda_"),
    "power by a hat": (FILE.replace("x**4", "x^4"), "write ** for a power"),
    "constant of a parameter": (FILE.replace("a*x**4", "exp(exp(9*a))*x**4").replace("a = 0.5", "a = 2"), "'exp(exp(9 * a))' is not a finite number"),
    "nested too deeply": ("a = " + "[" * 5000, "not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES, ids=str)
def test_every_mistake_is_one_line_before_any_work(case):
    text, message = MISTAKES[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        config.parse_problem(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("loss", ["a*x + y**2", "a*sin(x) + y**2", "y**2 - a*x**4", "a*exp(x) + y**2"])
def test_a_loss_that_does_not_confine_is_refused_where_no_box_is_given(loss):
    text = FILE.split("[box]")[0].replace("a*x**4/4 - x**2/2 + y**2", loss)
    with pytest.raises(ValueError, match="does not confine the density"):
        config.parse_problem(text)


@pytest.mark.parametrize("loss", ["a*log(1 + x**2) + y**2", "a*cosh(x) + y**2", "a*x**2 + y**2 + sin(3*x)"])
def test_a_loss_that_confines_needs_no_box(loss):
    assert config.parse_problem(FILE.split("[box]")[0].replace("a*x**4/4 - x**2/2 + y**2", loss)).box is None


def test_the_parameters_a_file_may_give_to_an_example_are_those_of_its_factory():
    assert set(config.EXAMPLE_PARAMETERS) == set(CATALOGUE)
    many = {"n_sharp", "n_flat", "depth", "rng"}  # valleys of more variables than a density can have
    for name, factory in CATALOGUE.items():
        taken = set(inspect.signature(factory).parameters) - many
        assert set(config.EXAMPLE_PARAMETERS[name].values()) == taken


def test_the_options_a_file_may_give_to_the_solver_are_its_own():
    assert set(config.solver_checks(2)) <= set(inspect.signature(stationary_density).parameters)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_refused_with_one_line(text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        config.parse_problem(text)
    assert str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_numbers_arrive_as_they_are_written(value):
    noise = config.parse_problem(_noise(f'kind = "isotropic"\nD = {value!r}')).process.noise
    assert math.isclose(float(noise.D), value, rel_tol=1e-15)
