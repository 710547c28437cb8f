"""Source text of sympy expressions, as lines of scalar code for the compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter


class Emitter(PythonCodePrinter):
    """Writes expressions as lines of scalar code, with their numbers set aside as ``constants``.

    ``names`` holds the name in the code of each symbol, and names of intermediate results begin with
    ``prefix``. Every compound term is written in parentheses.
    """

    # Bitwise, so that conditions are computed without branches
    _operators = {"and": "&", "or": "|", "not": "not"}  # noqa: RUF012

    def __init__(self, names: dict[sp.Symbol, str], prefix: str = "") -> None:
        super().__init__()
        self.names = dict(names)
        self.prefix = prefix
        self.constants: list[float] = []
        self._lines: list[str] = []
        self._powers: dict[tuple[str, int], str] = {}

    def statements(self, entries: Sequence[sp.Expr]) -> tuple[list[str], list[str]]:
        """Lines that compute shared subexpressions, and the text of each entry after them."""
        shared, reduced = sp.cse(list(entries), symbols=sp.numbered_symbols("t", cls=sp.Dummy))
        for k, (symbol, expression) in enumerate(shared):
            text = self._print(expression)
            self.names[symbol] = f"{self.prefix}t{k}"
            self._lines.append(f"{self.prefix}t{k} = {text}")
        texts = [self._print(entry) for entry in reduced]
        return self._lines, texts

    def number(self, value: sp.Expr) -> str:
        """A small integer as itself, any other number as an entry of ``constants``; fails if not finite."""
        if value.is_Integer and abs(int(value)) < 100:
            return f"{int(value)}.0" if value >= 0 else f"({int(value)}.0)"
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"the number {value} in an expression is not finite")
        if number not in self.constants:
            self.constants.append(number)
        return f"c{self.constants.index(number)}"

    def _print(self, node: sp.Basic, **kwargs: object) -> str:
        if isinstance(node, sp.Expr) and node.is_number:
            return self.number(node)
        return super()._print(node, **kwargs)

    def _print_Symbol(self, node: sp.Symbol) -> str:
        return self.names[node]

    _print_Dummy = _print_Symbol

    def _print_Add(self, node: sp.Add) -> str:
        return "(" + " + ".join(map(self._print, node.args)) + ")"

    def _print_Mul(self, node: sp.Mul) -> str:
        number, rest = node.as_independent(*node.free_symbols, as_Add=False)
        above, below = [], []
        for factor in sp.Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            if exponent.is_Rational and exponent < 0:
                below.append(self._power(base, -exponent))
            else:
                above.append(self._print(factor))
        if number == -1:
            above[:1] = [f"(-{above[0]})"] if above else ["(-1.0)"]
        elif number != 1:
            above.insert(0, self.number(number))
        product = " * ".join(above) or "1.0"
        return f"({product} / ({' * '.join(below)}))" if below else f"({product})"

    def _print_Pow(self, node: sp.Pow) -> str:
        return self._power(node.base, node.exp)

    def _power(self, base: sp.Expr, exponent: sp.Expr) -> str:
        if exponent.is_Rational and exponent < 0:
            return f"(1.0 / {self._power(base, -exponent)})"
        text = self._print(base)
        if exponent.is_Integer:
            return self._integer_power(text, int(exponent))
        if exponent.is_Rational and exponent.q == 2 and exponent.p < 20:
            whole = int(exponent.p) // 2
            root = f"math.sqrt({text})"
            return f"({self._integer_power(text, whole)} * {root})" if whole else root
        return f"math.pow({text}, {self._print(exponent)})"

    def _integer_power(self, text: str, n: int) -> str:
        """By squaring, each power computed once: compilers may not reorder x*x*x*x."""
        if n == 1:
            return text
        if (text, n) not in self._powers:
            left = self._integer_power(text, n // 2 if n % 2 == 0 else n - 1)
            right = left if n % 2 == 0 else text
            name = f"{self.prefix}p{len(self._powers)}"
            self._lines.append(f"{name} = {left} * {right}")
            self._powers[text, n] = name
        return self._powers[text, n]

    def _print_sign(self, node: sp.sign) -> str:
        x = self._print(node.args[0])
        return f"(1.0 if {x} > 0.0 else (-1.0 if {x} < 0.0 else 0.0))"

    def _print_Heaviside(self, node: sp.Heaviside) -> str:
        x, middle = map(self._print, node.args)
        return f"(1.0 if {x} > 0.0 else (0.0 if {x} < 0.0 else {middle}))"

    def _print_Not(self, node: sp.Not) -> str:
        return f"(not ({self._print(node.args[0])}))"

    def _print_Piecewise(self, node: sp.Piecewise) -> str:
        """Nested choices; NaN where no condition holds."""
        text = "math.nan"
        for expression, condition in reversed(node.args):
            value = self._print(expression)
            text = value if condition == sp.true else f"({value} if {self._print(condition)} else {text})"
        return text

    def _print_Max(self, node: sp.Max | sp.Min) -> str:
        relation = ">" if isinstance(node, sp.Max) else "<"
        result = self._print(node.args[0])
        for argument in node.args[1:]:
            name = f"{self.prefix}e{len(self._lines)}"
            other = self._print(argument)
            self._lines.append(f"{name} = {result} if {result} {relation} {other} else {other}")
            result = name
        return result

    _print_Min = _print_Max
