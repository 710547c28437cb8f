"""Text to sympy expressions and conditions: a whitelist over Python's syntax tree, nothing is evaluated."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches

import sympy as sp

#: Functions a formula may call, each of one argument.
_CALLS = (sp.exp, sp.log, sp.sqrt, sp.sin, sp.cos, sp.tan, sp.atan, sp.sinh, sp.cosh, sp.tanh, sp.Abs)
FUNCTIONS = {function.__name__.lower(): function for function in _CALLS}
CONSTANTS = {"pi": sp.pi}
RELATIONS = {ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
OPERATORS |= {ast.Div: operator.truediv, ast.Pow: operator.pow}
MAX_LENGTH = 4000
MAX_NODES = 2000
MAX_EXPONENT = 64


def parse_expression(text: str, symbols: Iterable[str]) -> sp.Expr:
    """Return the formula in ``text`` as a sympy expression.

    Allowed are numbers, the given symbols, ``pi``, ``+ - * / **``, parentheses and the functions
    ``exp log sqrt sin cos tan atan sinh cosh tanh abs``. Exponents are numbers of size at most 64
    or free of other powers. The text is parsed, never evaluated.

    Parameters
    ----------
    text : str
        The formula, Python notation, at most 4000 characters.
    symbols : iterable of str
        Names that may appear; each becomes a real symbol.

    Returns
    -------
    sympy.Expr
        A text that is not allowed is a ValueError whose line names the piece.

    Examples
    --------
    >>> parse_expression("a*x**4/4 - x**2/2", ["x", "a"])
    a*x**4/4 - x**2/2
    """
    expression = _read(text, symbols, "formula", _convert)
    if expression.has(sp.zoo, sp.nan, sp.oo, -sp.oo) or expression.has(sp.I):
        raise ValueError(f"the formula {_short(text)!r} is not finite and real")
    return expression


def parse_condition(text: str, symbols: Iterable[str]) -> sp.Basic:
    """Return the condition in ``text`` as a sympy condition.

    Comparisons ``< <= > >=`` of formulas, also chained, joined by ``and``, ``or``, ``not`` (or ``& | ~``) and
    parentheses. The text is parsed, never evaluated.

    Parameters
    ----------
    text : str
        At most 4000 characters.
    symbols : iterable of str
        Names that may appear; each becomes a real symbol.

    Returns
    -------
    sympy condition
        A text that is not allowed is a ValueError whose line names the piece; so is a condition that is
        always true or false.

    Examples
    --------
    >>> parse_condition("x > 1 and x**2 + y**2 < 4", ["x", "y"])
    (x > 1) & (x**2 + y**2 < 4)
    """
    condition = _read(text, symbols, "condition", _condition)
    if condition in (sp.true, sp.false):
        raise ValueError(f"the condition {_short(text)!r} is always {bool(condition)}")
    return condition


def _read(text: str, symbols: Iterable[str], kind: str, convert: Callable) -> sp.Basic:
    """A text of bounded size in sympy: what ``convert`` makes of its tree and the symbols by name."""
    if not isinstance(text, str):
        raise ValueError(f"a {kind} must be text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the {kind} has {len(text)} characters; at most {MAX_LENGTH} are read")
    names = {name: sp.Symbol(name, real=True) for name in symbols}
    clash = sorted(set(names) & (set(FUNCTIONS) | set(CONSTANTS)))
    if clash:
        raise ValueError(f"the name {clash[0]!r} is taken by a function or constant; rename the symbol")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read the {kind} {_short(text)!r}: {error}") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise ValueError(f"the {kind} has more than {MAX_NODES} parts")
    try:
        return convert(tree.body, names)
    except RecursionError:
        raise ValueError(f"the {kind} is nested too deeply") from None


def _condition(node: ast.expr, names: dict[str, sp.Symbol]) -> sp.Basic:
    """One node of a condition; anything not listed here is refused."""
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, names) for value in node.values]
        return sp.And(*parts) if isinstance(node.op, ast.And) else sp.Or(*parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        left, right = _condition(node.left, names), _condition(node.right, names)
        return sp.And(left, right) if isinstance(node.op, ast.BitAnd) else sp.Or(left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        return sp.Not(_condition(node.operand, names))
    if isinstance(node, ast.Compare):
        sides = [_convert(side, names) for side in (node.left, *node.comparators)]
        relations = []
        for left, sign, right in zip(sides[:-1], node.ops, sides[1:], strict=True):
            if type(sign) not in RELATIONS:
                raise ValueError(f"{_short(ast.unparse(node))!r} is no inequality; use < <= > >=")
            relations.append(RELATIONS[type(sign)](left, right).canonical)
        return sp.And(*relations)
    raise ValueError(f"{_short(ast.unparse(node))!r} is no condition; write one such as x > 0")


def _convert(node: ast.expr, names: dict[str, sp.Symbol]) -> sp.Expr:
    """One node of the syntax tree as sympy; anything not listed here is refused."""
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return _name(node.id, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _convert(node.operand, names)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        return _binary(type(node.op), _convert(node.left, names), _convert(node.right, names))
    if isinstance(node, ast.Call):
        return _call(node, names)
    raise ValueError(f"{_short(ast.unparse(node))!r} is not allowed in a formula")


def _number(value: object) -> sp.Expr:
    """An int or float; floats keep the decimal digits they print with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{_short(repr(value))} is not a number")
    if isinstance(value, int):
        if value.bit_length() > 1024:
            raise ValueError("an integer in the formula is too large")
        return sp.Integer(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return sp.Rational(repr(value))


def _name(name: str, names: dict[str, sp.Symbol]) -> sp.Expr:
    """A symbol or constant; the nearest known name is suggested for a stranger."""
    if name in names:
        return names[name]
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in FUNCTIONS:
        raise ValueError(f"{name!r} is a function; write {name}(...)")
    near = get_close_matches(name, [*names, *CONSTANTS, *FUNCTIONS], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(names))}"
    raise ValueError(f"unknown symbol {_short(name)!r} in the formula{hint}")


def _binary(sign: type[ast.operator], left: sp.Expr, right: sp.Expr) -> sp.Expr:
    """``left sign right``; powers are bounded so that no short text builds a huge number."""
    if sign not in OPERATORS:
        raise ValueError(f"the operator {sign.__name__} is not allowed in a formula")
    if sign is ast.Div and right.is_zero:
        raise ValueError("division by zero in the formula")
    if sign is ast.Pow:
        if right.is_number and abs(float(right)) > MAX_EXPONENT:
            raise ValueError(f"the exponent {_short(str(right))} is larger than {MAX_EXPONENT}")
        if left.is_number and right.is_number and left.is_Rational and left != 0:
            digits = abs(float(sp.log(abs(left), 10))) * abs(float(right))
            if digits > 300:
                raise ValueError("a power of numbers in the formula is too large")
    return OPERATORS[sign](left, right)


def _call(node: ast.Call, names: dict[str, sp.Symbol]) -> sp.Expr:
    """A whitelisted function of one argument."""
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        called = _short(ast.unparse(node.func))
        raise ValueError(f"{called!r} is not a known function; known: {', '.join(sorted(FUNCTIONS))}")
    if len(node.args) != 1 or node.keywords:
        raise ValueError(f"{node.func.id} takes one argument")
    return FUNCTIONS[node.func.id](_convert(node.args[0], names))


def _short(text: str) -> str:
    """At most 60 characters of ``text`` for a message."""
    return text if len(text) <= 60 else text[:57] + "..."
