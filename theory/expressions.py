"""Text to sympy expressions and conditions: a whitelist over Python's syntax tree, nothing is evaluated."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from keyword import iskeyword
from re import findall, search
from typing import TypeAlias
from unicodedata import normalize

import sympy as sp

from theory.constants import MAX_ROOT, Constant, NotANumber
from theory.landscape import exact

#: Functions a formula may call, each of one argument.
_CALLS = (sp.exp, sp.log, sp.sqrt, sp.sin, sp.cos, sp.tan, sp.atan, sp.sinh, sp.cosh, sp.tanh, sp.Abs)
FUNCTIONS = {function.__name__.lower(): function for function in _CALLS}
CONSTANTS = {"pi": sp.pi}
RELATIONS = {ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
OPERATORS |= {ast.Div: operator.truediv, ast.Pow: operator.pow}
_JOINING = ("and", "or", "not")
MAX_LENGTH = 4000
MAX_NODES = 2000
MAX_EXPONENT = 64
MAX_DEPTH = 60
#: Functions of so many functions inside each other are left as they are: sympy would ask for their signs.
MAX_SIMPLIFIED = 2
#: Functions of imaginary or real period: sympy divides their arguments by it, multiplied out.
_PERIODIC = (sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh)
MAX_TERMS = 1000
#: A piece of a formula: an expression with symbols, or a number.
Part: TypeAlias = sp.Expr | Constant
Names: TypeAlias = dict[str, Part]


def parse_expression(
    text: str, symbols: Iterable[str], *, values: Mapping[str, float] | None = None
) -> sp.Expr:
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
    values : mapping of str to float, optional
        Names that may appear and stand for numbers.

    Returns
    -------
    sympy.Expr
        Constants are exact while they are short, such as ``sqrt(2)`` or ``0.1``; others, such as
        ``exp(exp(1))``, are decimal fractions of 20 digits. A text that is not allowed is a
        ValueError whose line names the piece, and so is a constant that is not real or beyond 1e300.

    Examples
    --------
    >>> parse_expression("a*x**4/4 - x**2/2", ["x", "a"])
    a*x**4/4 - x**2/2
    """
    return _read(text, symbols, "formula", lambda tree, names: _checked(_convert(tree, names)), values)


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


def _read(
    text: str, symbols: Iterable[str], kind: str, convert: Callable, values: Mapping[str, float] | None = None
) -> sp.Basic:
    """A text of bounded size in sympy: what ``convert`` makes of its tree and the symbols by name."""
    if not isinstance(text, str):
        raise ValueError(f"a {kind} must be text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the {kind} has {len(text)} characters; at most {MAX_LENGTH} are read")
    names: Names = {name: sp.Symbol(name, real=True) for name in symbols}
    names |= {name: _constant(exact(value, name), name) for name, value in (values or {}).items()}
    clash = sorted(set(names) & (set(FUNCTIONS) | set(CONSTANTS)))
    if clash:
        raise ValueError(f"the name {clash[0]!r} is taken by a function or constant; rename the symbol")
    text = text.strip()
    tree = _tree(text, kind)
    _check_size(tree, text, kind)
    # Python reads letters such as the micro sign as their plain form
    plain = {normalize("NFKC", name): value for name, value in names.items()}
    try:
        return convert(tree.body, plain)
    except RecursionError:
        raise ValueError(f"the {kind} is nested too deeply") from None


def _check_size(tree: ast.Expression, text: str, kind: str) -> None:
    """ValueError for too many parts, or levels, or a number that is 0 only as a float."""
    parts = 0
    waiting: list[tuple[ast.AST, int]] = [(tree.body, 0)]
    while waiting:
        node, depth = waiting.pop()
        parts += 1
        if parts > MAX_NODES:
            raise ValueError(f"the {kind} has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise ValueError(f"the {kind} is nested too deeply: more than {MAX_DEPTH} levels")
        if isinstance(node, ast.Constant) and node.value == 0:
            written = ast.get_source_segment(text, node) or ""
            if search("[1-9]", written.lower().split("e")[0]):
                raise ValueError(f"the number {_short(written)} is too small; write 0")
        beside = node.left if isinstance(node, ast.BinOp) else None  # long sums are not deep
        waiting += [(child, depth + (child is not beside)) for child in ast.iter_child_nodes(node)]


def _tree(text: str, kind: str) -> ast.Expression:
    """The syntax tree of a text; what Python cannot read is said with what to write instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        reserved = [word for word in findall(r"[^\W\d]\w*", text) if iskeyword(word) and word not in _JOINING]
        if reserved:
            said = f"{reserved[0]!r} is a word of Python; rename the symbol, such as {reserved[0]}_"
        elif search(r"\b(and|or|not)\s*$|^\s*(and|or)\b|[&|~<>=]\s*$|^\s*[&|<>=]", text):
            said = "a part is missing beside its last or first word or sign"
        elif search(r"\d\s*(?!(and|or|not)\b)[^\W\d]|\)\s*(?!(and|or|not)\b)[\w(]", text):
            said += "; write * between factors"
    raise ValueError(f"cannot read the {kind} {_short(text)!r}: {said}")


def _condition(node: ast.expr, names: Names) -> sp.Basic:
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
        if _joined_within(node):
            raise ValueError(
                "& and | bind closer than < and >: write (x > 1) & (x < 2), or x > 1 and x < 2, in "
                f"{_short(ast.unparse(node))!r}"
            )
        sides = [_convert(side, names) for side in (node.left, *node.comparators)]
        relations, simple = [], _nested(node) < MAX_SIMPLIFIED
        for left, sign, right in zip(sides[:-1], node.ops, sides[1:], strict=True):
            if type(sign) not in RELATIONS:
                raise ValueError(f"{_short(ast.unparse(node))!r} is no inequality; use < <= > >=")
            relations.append(_relation(RELATIONS[type(sign)], left, right, simple=simple))
        return sp.And(*relations)
    raise ValueError(f"{_short(ast.unparse(node))!r} is no condition; write one such as x > 0")


def _joined_within(node: ast.Compare) -> bool:
    """Whether & or | took the sides of comparisons, as they do before < and >."""
    sides = (node.left, *node.comparators)
    return any(isinstance(s, ast.BinOp) and isinstance(s.op, (ast.BitAnd, ast.BitOr)) for s in sides)


def _relation(sign: type, left: Part, right: Part, *, simple: bool) -> sp.Basic:
    """A comparison; of two constants, by their digits. One that is not simple is left as it is."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        return sign(sp.Integer(int((left - right).value > 0) - int((left - right).value < 0)), 0)
    relation = sign(_checked(left), _checked(right), evaluate=simple)
    return relation.canonical if simple else relation


def _convert(node: ast.expr, names: Names) -> Part:
    """One node of the syntax tree as sympy; anything not listed here is refused."""
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.Name):
        return _name(node.id, names)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        operand = _convert(node.operand, names)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        if type(node.op) not in OPERATORS:
            hint = "; write ** for a power" if isinstance(node.op, ast.BitXor) else ""
            raise ValueError(f"the operator {type(node.op).__name__} is not allowed in a formula{hint}")
        return _binary(node, _convert(node.left, names), _convert(node.right, names))
    if isinstance(node, ast.Call):
        return _call(node, names)
    raise ValueError(f"{_short(ast.unparse(node))!r} is not allowed in a formula")


def _number(node: ast.Constant) -> Constant:
    """An int or float; floats keep the decimal digits they print with."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{_short(repr(value))} is not a number")
    if isinstance(value, int):
        if value.bit_length() > 1024:
            raise ValueError("an integer in the formula is too large")
        return _constant(sp.Integer(value), node)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return _constant(sp.Rational(repr(value)), node)


def _name(name: str, names: Names) -> Part:
    """A symbol or constant; the nearest known name is suggested for a stranger."""
    if name in names:
        return names[name]
    if name in CONSTANTS:
        return Constant.of(CONSTANTS[name])
    if name in FUNCTIONS:
        raise ValueError(f"{name!r} is a function; write {name}(...)")
    near = get_close_matches(name, [*names, *CONSTANTS, *FUNCTIONS], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(names))}"
    hint = "; write exp(...) for powers of e" if name == "e" else hint
    raise ValueError(f"unknown symbol {_short(name)!r} in the formula{hint}")


def _binary(node: ast.BinOp, left: Part, right: Part) -> Part:
    """Two parts joined; powers are bounded so that no short text builds a huge number."""
    join = OPERATORS[type(node.op)]
    if isinstance(left, Constant) and isinstance(right, Constant):
        return _named(node, lambda: join(left, right))
    if isinstance(node.op, ast.Div) and isinstance(right, Constant) and right.value == 0:
        raise ValueError("division by zero in the formula")
    first, second = (part.symbols if isinstance(part, Constant) else part for part in (left, right))
    if isinstance(node.op, ast.Div) and second == 0:
        raise ValueError("division by zero in the formula")
    if isinstance(node.op, ast.Pow) and isinstance(right, Constant):
        if abs(right.value) > MAX_EXPONENT:
            raise ValueError(f"the exponent {_short(ast.unparse(node.right))} is larger than {MAX_EXPONENT}")
        return _part(node, _power(node, first, right))
    return _part(node, join(first, second))


def _power(node: ast.expr, base: sp.Expr, power: Constant) -> sp.Expr:
    """(c r)ᵖ as |c|ᵖ (± r)ᵖ: the power of the number has bounded size."""
    factor, rest = base.as_coeff_Mul()
    exponent = power.symbols
    if not exponent.is_Rational or exponent.q > MAX_ROOT:
        exponent = sp.Float(power.value, 17)  # sympy writes out polynomials in x**(1/q)
    if factor in (0, 1, -1):
        return base**exponent
    number = _named(node, lambda: abs(_constant(factor, node)) ** power)
    return number.symbols * (rest if factor > 0 else -rest) ** exponent


def _call(node: ast.Call, names: Names) -> Part:
    """A whitelisted function of one argument."""
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        called = _short(ast.unparse(node.func))
        raise ValueError(f"{called!r} is not a known function; known: {', '.join(sorted(FUNCTIONS))}")
    if len(node.args) != 1 or node.keywords:
        raise ValueError(f"{node.func.id} takes one argument")
    function, argument = FUNCTIONS[node.func.id], _convert(node.args[0], names)
    if isinstance(argument, Constant):
        return _named(node, lambda: argument.under(function))
    if function in _PERIODIC and _terms(argument) > MAX_TERMS:
        raise ValueError(
            f"the argument of {_short(ast.unparse(node))!r} has too many terms when multiplied out"
        )
    if function is sp.sqrt:
        return _part(node, _power(node, argument, Constant.of(sp.S.Half)))
    return _part(node, function(argument, evaluate=_nested(node.args[0]) < MAX_SIMPLIFIED))


def _terms(expression: sp.Expr) -> int:
    """How many terms an expression has when it is multiplied out, up to a number above the limit."""
    terms = 1
    if expression.is_Add:
        terms = sum(map(_terms, expression.args))
    elif expression.is_Mul:
        terms = math.prod(map(_terms, expression.args))
    elif expression.is_Pow and expression.exp.is_Integer:
        inner, power = _terms(expression.base), abs(int(expression.exp))
        terms = math.comb(inner + power - 1, power)
    return min(terms, MAX_TERMS + 1)


def _nested(node: ast.AST) -> int:
    """How many functions and powers stand inside each other."""
    inner = max(map(_nested, ast.iter_child_nodes(node)), default=0)
    power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
    return inner + (power or isinstance(node, ast.Call))


def _part(node: ast.expr, expression: sp.Expr) -> Part:
    """What sympy made of a node: a constant where no symbol is left, as of x/x; else with sound constants."""
    if not _has_symbols(expression):
        return _constant(expression, node)
    for inner in expression.args:
        if not _has_symbols(inner):
            _constant(inner, node)
    power = expression.as_base_exp()[1]
    if power.is_number and abs(float(power)) > 4 * MAX_EXPONENT:
        raise ValueError(f"the exponent {_short(str(power))} in the formula is too large")
    return expression


def _has_symbols(expression: sp.Basic) -> bool:
    return any(part.is_Symbol for part in sp.preorder_traversal(expression))


def _checked(part: Part) -> sp.Expr:
    """A whole formula, with every constant in it finite and real."""
    if isinstance(part, Constant):
        return part.symbols
    done: set[sp.Basic] = set()
    waiting = [part]
    while waiting:
        inner = waiting.pop()
        if inner in done:
            continue
        done.add(inner)
        if _has_symbols(inner):
            waiting += inner.args
        else:
            _constant(inner, str(inner))
    return part


def _constant(expression: sp.Expr, said: ast.expr | str) -> Constant:
    """A number in symbols as a constant; ``said`` names it in messages."""
    return _named(said, lambda: Constant.of(expression))


def _named(said: ast.expr | str, compute: Callable[[], Constant]) -> Constant:
    """A constant, or the sentence that names what is no number that can be calculated with."""
    try:
        return compute()
    except NotANumber as error:
        text = said if isinstance(said, str) else ast.unparse(said)
        raise ValueError(f"the constant {_short(text)!r} {error}") from None


def _short(text: str) -> str:
    """At most 60 characters of ``text`` for a message."""
    return text if len(text) <= 60 else text[:57] + "..."
