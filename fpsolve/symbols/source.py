"""Symbols to functions: sympy expressions as vectorised NumPy functions or compiled kernels."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

_ALLOWED_FUNCTIONS: tuple[type, ...] = (
    sp.exp,
    sp.log,
    sp.sin,
    sp.cos,
    sp.tan,
    sp.sinh,
    sp.cosh,
    sp.tanh,
    sp.asin,
    sp.acos,
    sp.atan,
    sp.erf,
    sp.Abs,
    sp.sign,
    sp.Heaviside,
    sp.Min,
    sp.Max,
    sp.Piecewise,
    sp.functions.elementary.piecewise.ExprCondPair,
    sp.Add,
    sp.Mul,
    sp.Pow,
    sp.Symbol,
    sp.Number,
    sp.NumberSymbol,
    sp.core.relational.Relational,
    sp.And,
    sp.Or,
    sp.Not,
    sp.logic.boolalg.BooleanTrue,
    sp.logic.boolalg.BooleanFalse,
)

_FUNCTIONS = {
    sp.exp: "math.exp",
    sp.log: "math.log",
    sp.sin: "math.sin",
    sp.cos: "math.cos",
    sp.tan: "math.tan",
    sp.sinh: "math.sinh",
    sp.cosh: "math.cosh",
    sp.tanh: "math.tanh",
    sp.asin: "math.asin",
    sp.acos: "math.acos",
    sp.atan: "math.atan",
    sp.erf: "math.erf",
    sp.Abs: "abs",
}
_RELATIONS = {
    sp.StrictGreaterThan: ">",
    sp.GreaterThan: ">=",
    sp.StrictLessThan: "<",
    sp.LessThan: "<=",
    sp.Equality: "==",
    sp.Unequality: "!=",
}

Expressions: TypeAlias = sp.Expr | sp.MatrixBase | Sequence[sp.Expr]


def numpy_function(expressions: Expressions, variables: Sequence[sp.Symbol]) -> Callable[..., np.ndarray]:
    """Vectorised function of the variables, for one expression or an array of them.

    Common subexpressions are evaluated once for all entries.

    Parameters
    ----------
    expressions : Expr, sequence of k Expr, or Matrix of shape (n, m)
        Real expressions with no symbols but ``variables``.
    variables : sequence of Symbol
        The arguments of the returned function, in order.

    Returns
    -------
    callable
        Takes one array per variable, of shapes that broadcast to ``S``; returns float64 of shape
        ``S``, ``(k,) + S`` or ``(n, m) + S``. Constant entries are broadcast. Branches of a
        ``Piecewise`` that are not taken may be undefined; a value that is not real is NaN.

    Raises
    ------
    ValueError
        If an expression has other free symbols, or a function outside the known ones.
    """
    if isinstance(expressions, sp.MatrixBase):
        shape: tuple[int, ...] = expressions.shape
        entries = [sp.sympify(entry, strict=True) for entry in expressions]
    elif isinstance(expressions, sp.Basic):
        shape, entries = (), [expressions]
    else:
        entries = [sp.sympify(entry, strict=True) for entry in expressions]
        shape = (len(entries),)
    check_expressions(entries, variables)
    entries = [entry.replace(_overflows, sp.Expr.evalf) for entry in entries]
    function = sp.lambdify(list(variables), entries, modules=["scipy", "numpy"], cse=True)

    def evaluate(*values: ArrayLike) -> np.ndarray:
        arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
        points = np.broadcast_shapes(*(array.shape for array in arrays))
        result = np.empty((len(entries), *points))
        with np.errstate(all="ignore"):  # branches that are not taken may be undefined
            for index, value in enumerate(function(*arrays)):
                result[index] = _real(np.asarray(value))
        return result.reshape(shape + points)

    return evaluate


def check_expressions(entries: Iterable[sp.Basic], variables: Sequence[sp.Symbol]) -> None:
    """Raise ValueError unless the entries hold only known functions of the variables."""
    for entry in entries:
        unknown = sorted(map(str, entry.free_symbols - set(variables)))
        if unknown:
            raise ValueError(
                f"expression {entry} has no number for {', '.join(unknown)}; substitute its value "
                f"first (variables are {', '.join(map(str, variables))})"
            )
        for node in sp.preorder_traversal(entry):
            if not isinstance(node, _ALLOWED_FUNCTIONS):
                raise ValueError(
                    f"expression {entry} holds {type(node).__name__}, which cannot be compiled; "
                    "write it with exp, log, sqrt, powers, trigonometric or hyperbolic functions, "
                    "Abs, Min, Max, Piecewise"
                )


def _overflows(node: sp.Basic) -> bool:
    """A root of an integer above 2⁶³, such as of an exact decimal fraction: NumPy has no such integers."""
    if not (node.is_Pow and node.is_number):
        return False
    base = node.args[0]
    return bool(base.is_Rational) and max(abs(base.p), base.q) >= 2**63


def _real(value: np.ndarray) -> np.ndarray:
    """The real part where a value is real, NaN elsewhere."""
    if not np.iscomplexobj(value):
        return value
    return np.where(np.abs(value.imag) <= 1e-12 * np.abs(value.real), value.real, np.nan)


class Emitter:
    """Writes expressions as lines of scalar code, with their numbers set aside as constants.

    Parameters
    ----------
    names : dict
        The name in the code of each symbol.
    """

    def __init__(self, names: dict[sp.Symbol, str]) -> None:
        self.names = dict(names)
        self.constants: list[float] = []
        self._lines: list[str] = []
        self._powers: dict[tuple[str, int], str] = {}

    def statements(self, entries: Sequence[sp.Expr]) -> tuple[list[str], list[str]]:
        """Lines that compute shared subexpressions, and the text of each entry after them."""
        shared, reduced = sp.cse(list(entries), symbols=sp.numbered_symbols("t", cls=sp.Dummy))
        for k, (symbol, expression) in enumerate(shared):
            text = self.text(expression)
            self.names[symbol] = f"t{k}"
            self._lines.append(f"t{k} = {text}")
        texts = [self.text(entry) for entry in reduced]
        return self._lines, texts

    def number(self, value: sp.Expr) -> str:
        """A small integer as itself, any other number as an entry of ``constants``."""
        if value.is_Integer and abs(int(value)) < 100:
            return f"{int(value)}.0" if value >= 0 else f"({int(value)}.0)"
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"the number {value} in an expression is not finite")
        if number not in self.constants:
            self.constants.append(number)
        return f"c{self.constants.index(number)}"

    def text(self, node: sp.Basic) -> str:
        """One expression, as a parenthesised term."""
        if isinstance(node, sp.Symbol):
            return self.names[node]
        if isinstance(node, sp.Expr) and node.is_number:
            return self.number(node)
        if isinstance(node, sp.Add):
            return "(" + " + ".join(self.text(term) for term in node.args) + ")"
        if isinstance(node, sp.Mul):
            return self._product(node)
        if isinstance(node, sp.Pow):
            return self._power(node.base, node.exp)
        if isinstance(node, sp.Piecewise):
            return self._choice([(pair.expr, pair.cond) for pair in node.args])
        if isinstance(node, (sp.Max, sp.Min)):
            return self._extreme(node)
        if isinstance(node, sp.sign):
            x = self.text(node.args[0])
            return f"(1.0 if {x} > 0.0 else (-1.0 if {x} < 0.0 else 0.0))"
        if isinstance(node, sp.Heaviside):
            x, middle = self.text(node.args[0]), self.text(node.args[1])
            return f"(1.0 if {x} > 0.0 else (0.0 if {x} < 0.0 else {middle}))"
        if isinstance(node, sp.core.relational.Relational):
            return f"({self.text(node.lhs)} {_RELATIONS[type(node)]} {self.text(node.rhs)})"
        if isinstance(node, (sp.And, sp.Or)):
            word = " & " if isinstance(node, sp.And) else " | "
            return "(" + word.join(self.text(part) for part in node.args) + ")"
        if isinstance(node, sp.Not):
            return f"(not {self.text(node.args[0])})"
        if node in (sp.true, sp.false):
            return str(bool(node))
        return f"{_FUNCTIONS[type(node)]}({self.text(node.args[0])})"

    def _product(self, node: sp.Mul) -> str:
        number, rest = node.as_independent(*node.free_symbols, as_Add=False)
        above, below = [], []
        for factor in sp.Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            if exponent.is_Rational and exponent < 0:
                below.append(self._power(base, -exponent))
            else:
                above.append(self.text(factor))
        if number == -1:
            above[:1] = [f"(-{above[0]})"] if above else ["(-1.0)"]
        elif number != 1:
            above.insert(0, self.number(number))
        product = " * ".join(above) or "1.0"
        return f"({product} / ({' * '.join(below)}))" if below else f"({product})"

    def _power(self, base: sp.Expr, exponent: sp.Expr) -> str:
        if exponent.is_Rational and exponent < 0:
            return f"(1.0 / {self._power(base, -exponent)})"
        text = self.text(base)
        if exponent.is_Integer:
            return self._integer_power(text, int(exponent))
        if exponent.is_Rational and exponent.q == 2 and exponent.p < 20:
            whole = int(exponent.p) // 2
            root = f"math.sqrt({text})"
            return f"({self._integer_power(text, whole)} * {root})" if whole else root
        return f"math.pow({text}, {self.text(exponent)})"

    def _integer_power(self, text: str, n: int) -> str:
        """By squaring, each power computed once: compilers may not reorder x*x*x*x."""
        if n == 1:
            return text
        if (text, n) not in self._powers:
            left = self._integer_power(text, n // 2 if n % 2 == 0 else n - 1)
            right = left if n % 2 == 0 else text
            name = f"p{len(self._powers)}"
            self._lines.append(f"{name} = {left} * {right}")
            self._powers[text, n] = name
        return self._powers[text, n]

    def _choice(self, branches: list[tuple[sp.Expr, sp.Basic]]) -> str:
        if not branches:
            return "math.nan"
        (expression, condition), rest = branches[0], branches[1:]
        if condition == sp.true:
            return self.text(expression)
        return f"({self.text(expression)} if {self.text(condition)} else {self._choice(rest)})"

    def _extreme(self, node: sp.Max | sp.Min) -> str:
        relation = ">" if isinstance(node, sp.Max) else "<"
        result = self.text(node.args[0])
        for argument in node.args[1:]:
            name = f"e{len(self._lines)}"
            other = self.text(argument)
            self._lines.append(f"{name} = {result} if {result} {relation} {other} else {other}")
            result = name
        return result


class _SourceText(importlib.abc.SourceLoader):
    """Loads a module from a text in memory; the file of the same content is only its address.

    So neither a stale nor a swapped file, nor a stale bytecode file, can be what runs.
    """

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return self.text.encode()


def load_module(source: str, *, prefix: str) -> ModuleType:
    """The module of a generated source text, kept in a file named by the text's hash.

    The file gives numba's cache an address, so a second process starts without compiling.

    Parameters
    ----------
    source : str
        Complete text of the module.
    prefix : str
        Start of the module's name.

    Returns
    -------
    ModuleType
        The same object for the same text within one process.
    """
    name = f"fpsolve_{prefix}_{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    if name in sys.modules:
        return sys.modules[name]
    path = cache_directory() / f"{name}.py"
    try:
        current = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        current = None
    if current != source:
        _write_atomically(path, source)
    spec = importlib.util.spec_from_loader(name, _SourceText(source, path), origin=str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba's cache finds the module by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def cache_directory() -> Path:
    """Directory of compiled kernels: ``FPSOLVE_CACHE``, else the user's cache directory.

    Compiled code is loaded from there, so a directory that others can write to is not used; a
    fresh temporary directory takes its place, and kernels are then compiled anew in each process.

    Returns
    -------
    Path
        An existing, writable directory.
    """
    named = os.environ.get("FPSOLVE_CACHE")
    if named:
        path = Path(named).expanduser()
    elif sys.platform == "win32":
        path = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fpsolve" / "cache"
    elif sys.platform == "darwin":
        path = Path.home() / "Library" / "Caches" / "fpsolve"
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpsolve"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(path):
            return path
    return _temporary_directory()


def _is_private(path: Path) -> bool:
    """Whether we can write to a directory and nobody else can."""
    if not os.access(path, os.W_OK):
        return False
    if sys.platform == "win32":
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


_temporary: list[Path] = []


def _temporary_directory() -> Path:
    """One private temporary directory per process."""
    if not _temporary:
        _temporary.append(Path(tempfile.mkdtemp(prefix="fpsolve-")))
    return _temporary[0]


def _write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
