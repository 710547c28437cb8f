"""Generated texts for the readers of formulas and conditions: valid, mutated, malicious, towers of constants.

``python tests/theory/formulas.py 100000 [seed]`` tries so many of them and prints what became of them.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
from collections import Counter

from theory import parse_condition, parse_expression

FUNCTIONS = ("exp", "log", "sqrt", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "abs")
GROWING = ("exp", "sinh", "cosh", "exp", "abs", "atan", "cos", "sqrt", "log", "tan")
NUMBERS = (
    "0", "1", "2", "3", "7", "9", "64", "100", "0.5", "0.1", "1e-5", "1e5", "1e300", "1e-300", "1e308", "1e-320",
    "pi", "0.9999", "123456789012345678901234567890", "(1/3)", "(-7/3)", "-1", "0.30000000000000004",
)  # fmt: skip
EVIL = (
    "__import__('os').system('id')", "().__class__.__bases__", "x.__class__", "lambda: x", "[x for x in y]", "x:=1",
    "eval('1')", "exec('1')", "open('/etc/passwd')", "getattr(x, 'y')", "f'{x}'", "x if y else 1", "{x: y}", "*x",
    "print(x)", "x[0]", "globals()", "9**9**9**9", "'a'*10**9", "1j", "True", "None", "x@y", "x//y", "x%y", "x<<y",
    "exp(x, y)", "exp()", "exp(*x)", "exp(x=1)", "await x", "yield x", "lambda*x", "x^2", "2x", "nan", "inf", "oo",
)  # fmt: skip
MARKS = "()+-*/.,<>=&|~^%@!;:[]{}'\"\\ \t\nexyπ²−×µ0123456789e_\x00\ufeff"
TIME_LIMIT, MEMORY_LIMIT = 1.0, 1 << 30


def formula(rng: random.Random, depth: int) -> str:
    """A well-formed formula of x, y and numbers."""
    if depth <= 0 or rng.random() < 0.1:
        return rng.choice(("x", "y", "x", "y", rng.choice(NUMBERS), f"{rng.uniform(0, 9):.3g}"))
    inner = formula(rng, depth - 1)
    kind = rng.random()
    if kind < 0.35:
        return f"{rng.choice(FUNCTIONS)}({inner})"
    if kind < 0.5:
        return f"({inner})**{rng.choice((formula(rng, depth - 2), '2', '3', '64', '0.5', '-1', '(1/3)', '0.9999'))}"
    return f"({inner}) {rng.choice('+-*/')} ({formula(rng, depth - 1)})"


def tower(rng: random.Random) -> str:
    """Functions of functions of a number, or of what simplifies to one, inside a small formula."""
    text = rng.choice((*NUMBERS, "x/x", "9*x/x", "x-x+3", "x**0*9", "sin(x)**2+cos(x)**2+9", "exp(log(x))/x"))
    for _ in range(rng.randint(1, 9)):
        text = f"{rng.choice(GROWING)}({text})" if rng.random() < 0.85 else f"{text}**{rng.choice(NUMBERS)}"
    around = (
        "{}",
        "x*{}",
        "x**{}",
        "1/({}-1)",
        "x**2+{}*y",
        "atan({})",
        "{}**x",
        "x**2/{}",
        "exp(x+{})",
        "({}*x)**2",
    )
    return rng.choice(around).format(text)


def mutated(rng: random.Random, text: str) -> str:
    """A text with a few characters removed, doubled, replaced or moved."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        piece = rng.choice((rng.choice(MARKS), text[at : at + rng.randint(0, 9)], "", rng.choice(EVIL)[:9]))
        text = text[:at] + piece + text[at + rng.randint(0, 3) :]
    return text


def condition(rng: random.Random) -> str:
    """Comparisons of formulas, joined."""
    sides = [rng.choice((tower, lambda r: formula(r, 2)))(rng) for _ in range(rng.randint(2, 3))]
    text = sides[0] + "".join(f" {rng.choice(('<', '<=', '>', '>='))} {side}" for side in sides[1:])
    return rng.choice(
        ("{}", "{} and x > 1", "not ({})", "({}) | (y < 2)", "~({}) & (x > y)", "x < 1 or {}")
    ).format(text)


def long_one(rng: random.Random) -> str:
    """Many equal pieces, beside each other or inside each other."""
    n, piece = rng.randint(10, 700), formula(rng, 1)
    shapes = (
        lambda: rng.choice("+-*/").join([f"({piece})"] * min(n, 3900 // (len(piece) + 3))),
        lambda: f"{rng.choice(FUNCTIONS)}(" * min(n, 600) + "x" + ")" * min(n, 600),
        lambda: "(" * n + "x" + ")**64" * n, lambda: "-" * n + "x", lambda: "x**" * n + "2", lambda: "(" * n + "x" + ")" * n,
        lambda: " and ".join([f"x > {k}" for k in range(n)]), lambda: "+".join(f"sqrt({k})" for k in range(n)),
        lambda: "*".join(f"(x+{k}.123456789)" for k in range(n)), lambda: "*".join(f"{k}.1234567" for k in range(1, n)),
    )  # fmt: skip
    return rng.choice(shapes)()


def generated(rng: random.Random) -> tuple[str, str]:
    """The kind of a text and the text."""
    kind = rng.choices(
        ("valid", "tower", "condition", "mutated", "malicious", "long"), (30, 25, 20, 15, 8, 2)
    )[0]
    if kind == "valid":
        return kind, formula(rng, rng.randint(1, 6))
    if kind == "tower":
        return kind, tower(rng)
    if kind == "condition":
        return kind, condition(rng)
    if kind == "mutated":
        return kind, mutated(rng, rng.choice((tower, condition, lambda r: formula(r, 3)))(rng))
    if kind == "malicious":
        return kind, formula(rng, 2).replace("x", rng.choice(EVIL), 1)
    return kind, long_one(rng)


def outcome(text: str) -> str:
    """How both readers take a text: "read", "refused", or the name of an error that is not their own."""
    words = []
    for read in (parse_expression, parse_condition):
        try:
            read(text, ["x", "y"])
            words.append("read")
        except ValueError as error:
            said = str(error)
            words.append("refused" if said and "\n" not in said and len(said) < 300 else "unclear")
        except Exception as error:
            words.append(type(error).__name__)
    wrong = [word for word in words if word not in ("read", "refused")]
    return wrong[0] if wrong else "read" if "read" in words else "refused"


def main(count: int, seed: int = 0) -> int:
    """Try ``count`` texts in this process; the number of those that were not read or refused in time."""

    def late(*_):
        raise BaseExceptionGroup("late", [TimeoutError()])

    resource.setrlimit(
        resource.RLIMIT_AS, (MEMORY_LIMIT + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,) * 2
    )
    signal.signal(signal.SIGPROF, late)
    rng, counts, bad, slowest = random.Random(seed), Counter(), 0, (0.0, "")
    for _ in range(count):
        kind, text = generated(rng)
        signal.setitimer(signal.ITIMER_PROF, 20 * TIME_LIMIT)
        began = time.process_time()
        try:
            word = outcome(text)
        except BaseExceptionGroup:
            word = "hang"
        signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - began
        word = "slow" if word in ("read", "refused") and took > TIME_LIMIT else word
        slowest = max(slowest, (took, text))
        counts[kind, word] += 1
        if word not in ("read", "refused"):
            bad += 1
            print(f"{word} {took:.2f} s: {text[:300]!r}", flush=True)
    for key, value in sorted(counts.items()):
        print(*key, value)
    print(f"slowest {slowest[0]:.2f} s: {slowest[1][:100]!r}")
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
