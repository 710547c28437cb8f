"""Texts that would make sympy evaluate endless constants: read, or refused in one line that names the piece.

``FPSOLVE_FORMULAS=100000 pytest tests/theory/test_hostile_formulas.py`` tries so many generated ones.
"""

import math
import os
import random

import pytest
import sympy as sp
from formulas import generated, outcome

from theory import parse_condition, parse_expression

x, y = sp.symbols("x y", real=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_generated_text_is_read_or_refused_in_one_line(seed):
    rng = random.Random(seed)
    for _ in range(int(os.environ.get("FPSOLVE_FORMULAS", "400")) // 4):
        kind, text = generated(rng)
        assert outcome(text) in ("read", "refused"), (kind, text)


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("atan(cos(atan(cos(sinh(exp(cosh(pi)))))))", "sinh(exp(cosh(pi)))"),
        ("1/((cosh(exp(exp(exp(pi)))))-1)", "exp(exp(exp(pi)))"),
        ("x*(sinh(sinh(sinh(exp(exp(sinh(9)))))))", "exp(sinh(9))"),
        ("sin(cosh(cosh(exp(sinh(sinh(exp(exp(pi))))))))", "sinh(exp(exp(pi)))"),
        ("x**(exp(exp(exp(100))))+y**2", "exp(exp(100))"),
        ("tanh(exp(exp(50)))", "exp(exp(50))"),
        ("exp(exp(x/x*9))*x", "exp(exp(x / x * 9))"),
        ("exp(400)*x*exp(400)", "exp(400) * x * exp(400)"),
        ("((2*x)**64)**64", "(2 * x) ** 64"),
        ("1e308*x**2", "1e+308"),
        ("10**60**2 + x", "10 ** 60 ** 2"),
    ],
)
def test_a_constant_beyond_numbers_is_named_before_it_is_evaluated(text, constant):
    with pytest.raises(ValueError, match="not a finite number, or beyond 1e300") as caught:
        parse_expression(text, ["x", "y"])
    assert f"the constant {constant!r}" in str(caught.value) or constant == "(2 * x) ** 64"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(sinh(sqrt(-1))) <= (cos(x))", "'sqrt(-1)' is not a real number"),
        ("cos(x) <= (log(-(7/3)))", "'log(-(7 / 3))' is not a real number"),
        ("x > log(-1)", "'log(-1)' is not a real number"),
        ("x**log(-1) > 2", "'log(-1)' is not a real number"),
        ("(-8)**(1/3)*x > 1", "'(-8) ** (1 / 3)' is not a real number"),
        ("x > log(2 - sqrt(4))", "'log(2 - sqrt(4))' is not a finite number"),
        ("x/(exp(1) - exp(1)) > 0", "division by zero"),
        ("x > exp(-exp(10))", "nearer to 0 than 1e-300"),
        ("x*1e-400 > 2", "the number 1e-400 is too small"),
        ("sqrt(-x**2) < 3", "not a real number"),
    ],
)  # fmt: skip
def test_a_constant_that_is_no_number_is_named(text, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_condition(text, ["x"])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("123456789012345678901234567890**0.9999", 123456789012345678901234567890**0.9999),
        ("exp(exp(exp(1)))", 3814279.1047602205), ("7**0.123456789", 7**0.123456789),
        ("cos(1e-5)**100000", math.cos(1e-5) ** 100000), ("log(exp(log(exp(2))))", 2.0),
        ("exp(exp(1)) - exp(exp(1))", 0.0), ("(" * 20 + "2" + ")**0.5" * 20, 2 ** 2**-20),
    ],
)  # fmt: skip
def test_a_constant_without_a_short_exact_form_is_a_decimal_fraction(text, value):
    found = parse_expression(text, [])
    assert float(found) == pytest.approx(value, rel=1e-10)


def test_short_constants_stay_exact():
    third = sp.Rational(1, 3)
    text = "sqrt(2)*x + pi/3 - exp(2)*y + 2**(1/3) + cos(pi/3) + x**0.5"
    expected = sp.sqrt(2) * x + sp.pi / 3 - sp.exp(2) * y + 2**third + sp.Rational(1, 2) + sp.sqrt(x)
    assert parse_expression(text, ["x", "y"]) == expected


def test_a_name_may_stand_for_a_number_and_is_bounded_as_one():
    assert parse_expression("a*x**a", ["x"], values={"a": 0.5}) == sp.sqrt(x) / 2
    with pytest.raises(ValueError, match=r"'exp\(exp\(a\)\)' is not a finite number"):
        parse_expression("x + exp(exp(a))", ["x"], values={"a": 10})
    with pytest.raises(ValueError, match="exponent a is larger than 64"):
        parse_expression("x**a", ["x"], values={"a": 1e9})


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lambda*x**2", "'lambda' is a word of Python; rename the symbol, such as lambda_"),
        ("x^2", r"write \*\* for a power"),
        ("2x + 1", r"write \* between factors"),
        ("(x+1)(x-1)", "not a known function"),
        ("e**x", r"write exp\(\.\.\.\)"),
        ("x +", "cannot read the formula 'x [+]': invalid syntax$"),
    ],
)
def test_habits_from_elsewhere_get_the_word_to_write(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse_expression(text, ["x"])


def test_letters_that_python_reads_as_others_are_the_variables_that_were_named():
    micro = "\N{MICRO SIGN}"
    assert parse_expression(f"{micro}**2", [micro]).free_symbols == {sp.Symbol(micro, real=True)}


def test_a_power_of_a_sum_that_sympy_would_multiply_out_is_refused_in_functions_with_a_period():
    for power in ("(x + y + log(x)**3)**64", "((x + y)**20 + log(x))**20"):
        with pytest.raises(ValueError, match="too many terms when multiplied out"):
            parse_expression(f"cosh({power})", ["x", "y"])
        assert parse_expression(power, ["x", "y"]).is_Pow
    assert parse_expression("cos((x + y)**20)", ["x", "y"]) == sp.cos((x + y) ** 20)
