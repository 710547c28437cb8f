"""Kernel source: what a step computes is what the expressions say, term by term."""

import numpy as np
import pytest
import sympy as sp

from fpsolve.ensemble.kernel import ensemble_kernel
from fpsolve.symbols.functions import numpy_function
from fpsolve.symbols.source import Emitter

x, y = sp.symbols("x y", real=True)

#: Every kind of node, with zeros, tens and hundreds among the numbers.
TERMS = (
    10 * sp.cos(x) + 100 * y,
    sp.Piecewise((0, x > 0), (y**3, x < -1), (sp.exp(-x), True)),
    sp.Piecewise((x, sp.And(x > 0, y > 0)), (sp.sqrt(2 + x**2), sp.Or(x < -1, sp.Not(y > 0))), (0, True)),
    sp.Heaviside(x, 0) + 20 * sp.Max(0, y) - sp.Min(0, x, y),
    sp.sign(y) * sp.Abs(x) ** sp.Rational(3, 2) / (1 + x**2) ** 2,
    sp.Pow(sp.sin(x), 0, evaluate=False) * y,
    sp.Mul(0, x, evaluate=False) + 10 * y,
    sp.erf(x) - sp.atan(y) * sp.tanh(x) * 2 ** (x * y),
)


@pytest.mark.parametrize("term", TERMS, ids=str)
def test_text_computes_the_expression(term):
    import math

    emitter = Emitter({x: "x", y: "y"})
    lines, (text,) = emitter.statements([term])
    program = compile("\n".join([*lines, f"value = {text}"]), "kernel", "exec")
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(size=(50, 2)), [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    constants = {f"c{k}": number for k, number in enumerate(emitter.constants)}
    expected = np.broadcast_to(numpy_function(term, (x, y))(*points.T), len(points))
    for (px, py), value in zip(points, expected, strict=True):
        scope = {"math": math, "x": float(px), "y": float(py), **constants}
        exec(program, scope)
        assert scope["value"] == pytest.approx(value, rel=1e-13, abs=1e-13)


def test_a_step_leaves_out_only_terms_that_are_zero(monkeypatch):
    # Whatever the text of a term looks like: here every product is written as a call with a zero in it
    product = Emitter._print_Mul
    monkeypatch.setattr(Emitter, "_print_Mul", lambda self, node: f"(abs(0.0) + {product(self, node)})")
    kernel = ensemble_kernel(sp.Matrix([-3 * x * y, 0]), sp.Matrix([[1, 0], [0, 1]]), (x, y))
    (first,) = [line.strip() for line in kernel.source.splitlines() if line.strip().startswith("new0 =")]
    (second,) = [line.strip() for line in kernel.source.splitlines() if line.strip().startswith("new1 =")]
    assert "time_step * (" in first and "x0 * x1" in first
    assert "time_step" not in second
