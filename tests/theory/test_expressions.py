"""Formulas from text: what is read, what is refused, and that nothing is ever run."""

import math

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import parse_condition, parse_expression

x, y = sp.symbols("x y", real=True)

_LEAVES = st.one_of(
    st.sampled_from(["x", "y", "pi"]),
    st.floats(0.1, 5.0).map(lambda v: f"{v:.3f}"),
    st.integers(1, 9).map(str),
)
_FORMULAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"(-{t})"),
        inner.map(lambda t: f"sin({t})"),
        inner.map(lambda t: f"tanh({t})"),
        st.tuples(inner, st.integers(1, 3)).map(lambda t: f"({t[0]})**{t[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(_FORMULAS)
def test_a_formula_means_what_python_means_by_it(text):
    at = {"x": 0.3, "y": -0.7, "pi": math.pi, "sin": math.sin, "tanh": math.tanh}
    expected = eval(text, {"__builtins__": {}}, at)  # the test's own text, not a user's
    parsed = parse_expression(text, ["x", "y"])
    assert float(parsed.subs({x: 0.3, y: -0.7})) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_either_an_expression_or_one_clear_line(text):
    try:
        outcome = parse_expression(text, ["x"])
    except ValueError as error:
        outcome = str(error)
    assert isinstance(outcome, sp.Expr) or "\n" not in outcome


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('ls')", "x.__class__.__mro__", "().__class__", "[x for x in (1,)]", "lambda: x",
        "x if x else y", "f'{x}'", "exec('1')", "eval('1')", "open('f')", "x; y", "x := 1", "x[0]", "x @ y", "x // y",
        "x < y", "not x", "1j*x", "'x'", "True", "exp(x, y)", "exp(x=1)", "getattr(x, 'y')", "9**9**9", "x**100",
        "(10**60)**60", "1/0", "log(0)", "sqrt(-1)", "1e999*x", "nan", "", "x +", "10" * 400, "-" * 3000 + "x",
    ],
)  # fmt: skip
def test_code_and_nonsense_are_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_expression(text, ["x", "y"])


def test_an_unknown_symbol_names_the_nearest_known_one():
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        parse_expression("alpa*x", ["x", "alpha"])
    with pytest.raises(ValueError, match="taken by a function"):
        parse_expression("x", ["x", "exp"])


def test_decimals_stay_exact():
    assert parse_expression("0.1*x", ["x"]) == x / 10


def test_conditions_are_inequalities_and_their_combinations():
    x, y = sp.symbols("x y", real=True)
    assert parse_condition("x > 1", ["x"]) == (x > 1)
    assert parse_condition("0 < x <= 1", ["x"]) == sp.And(x > 0, x <= 1)
    assert parse_condition("x > 1 or not y < 2", ["x", "y"]) == sp.Or(x > 1, y >= 2)
    assert parse_condition("(x > 1) & ~(y < 2) | (x < -3)", ["x", "y"]) == sp.Or(
        sp.And(x > 1, y >= 2), x < -3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "no condition"),
        ("x == 1", "no inequality"),
        ("x in y", "no inequality"),
        ("__import__('os') > 1", "not a known function"),
        ("x > 1 if y else 2", "no condition"),
        ("1 > 0", "always True"),
        ("x > q", "unknown symbol 'q'"),
        ("(lambda: x)() > 1", "not a known function"),
        ("x > ", "a part is missing"),
        ("x > 1 and", "a part is missing"),
        ("or x > 1", "a part is missing"),
        ("2x > 1 and x < 3", r"write \* between factors"),
        ("x > 1 & x < 2", r"write \(x > 1\) & \(x < 2\)"),
        ("x > 1 | y < 2", "bind closer"),
        ("x > 1 and " * 700 + "x > 1", "at most 4000"),
    ],
)
def test_anything_else_is_no_condition(text, message):
    with pytest.raises(ValueError, match=message):
        parse_condition(text, ["x", "y"])
