"""Generated configuration files: sound ones with values, keys and bytes replaced by what no file should hold.

``python tests/fpsolve/command/hostile.py 10000 [seed]`` tries so many of them and prints what became of them.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter

from fpsolve.command.phases import parse_phases
from fpsolve.command.problem import EXAMPLES, parse_problem

WELL = """
variables = ["x", "y"]
fast = ["y"]
loss = "a*x**4/4 - x**2/2 + y**2"
parameters = { a = 0.5 }
[noise]
kind = "anisotropic"
D = [[0.2, 0.1], [0.1, 0.2]]
[box]
x = [-2.5, 2.5]
y = [-2.0, 2.0]
[solver]
method = "spectral"
shape = [40, 30]
scheme = ["central", "exponential"]
walls = "reflecting"
cross_diffusion = true
accuracy = 1e-3
[simulate]
walkers = 64
time = 20.0
burn_in = 5.0
time_step = 0.02
seed = 1
[escape]
start = { x = -1.0, y = 0.0 }
target = "x > 0.5"
methods = ["exact", "backward"]
max_time = 100.0
"""
PHASES = """
example = "valley"
lambda = [8, -2, 1]
epsilon = 1e-3
[phases]
sigma = [0.001, 0.05, 2.0]
learning_rate = { from = 0.05, to = 0.1, points = 2 }
start = [1.5, 1.5]
walkers = 8
time = 300.0
burn_in = 100.0
search_limit = 50.0
seed = 3
"""
TANG = 'example = "styblinski_tang"\ndimensions = 2\nshift_variance = 0.1\n[noise]\nkind = "hessian_proportional"\nlearning_rate = 0.1\nbatch_size = 8\n'
FILES = (WELL, WELL, PHASES, TANG, *EXAMPLES.values())
VALUES = (
    "0", "-1", "1e-320", "1e308", "1e300", "-1e99", "nan", "inf", "-inf", "9" * 400, "1e-99", "1_0", "0x10", "true", '""', '"x"',
    "[]", "[[]]", "[1]", "[1, [2]]", "[[1, 2], [3]]", "{}", "{ a = 1 }", "{ x = nan }", "1979-05-27", "07:32:00", '"nan"', "2.5", "1e30",
    "3", "1000000000", '"x**2"', '"lambda"', '["lambda"]', '["x", "x"]', '["x y"]', '["exp"]', '["pi"]', "[1, 2, 3]", '"x\\u0000"', "'''x\n'''",
    '"exp(exp(exp(9)))*x**2"', '"x**2 + log(-1)"', '"1e299*x**2"', '"x**2/(x-x)"', '"abs(x)"', '"sqrt(x)"', '"log(x) + y"', '"x**64"', '"1/x + y**2"',
    '"x > log(-1)"', '"x > x"', '"x == 1"', '"not x"', '"isotropic"', '"random_shift"', '"measured"', '"valley"', '"double_well"', '"all"',
)  # fmt: skip
KEYS = (
    "D",
    "x",
    "loss",
    "example",
    "kind",
    "noise",
    "box",
    "",
    '"a b"',
    "a.b",
    "delta_s",
    "covariance",
    "seed",
    "lambda",
    "fast",
    "é",
)


def generated(rng: random.Random) -> bytes:
    """A file with one to three of its pieces replaced, removed or doubled."""
    text = rng.choice(FILES)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        lines = text.split("\n")
        k = rng.randrange(len(lines))
        kind = rng.random()
        if kind < 0.6 and "=" in lines[k]:
            lines[k] = lines[k].split("=")[0] + "= " + rng.choice(VALUES)
        elif kind < 0.7 and "=" in lines[k]:
            numbers = list(re.finditer(r"-?\d[\d.e-]*", lines[k]))
            if numbers:
                found = rng.choice(numbers)
                lines[k] = lines[k][: found.start()] + rng.choice(VALUES[:13]) + lines[k][found.end() :]
        elif kind < 0.8:
            lines[k] = rng.choice(KEYS) + " = " + rng.choice(VALUES)
        elif kind < 0.85:
            del lines[k]
        elif kind < 0.9:
            lines.insert(k, rng.choice(lines))
        elif kind < 0.95:
            lines[k] = f"[{rng.choice(KEYS)}]"
        else:
            at = rng.randrange(len(lines[k]) + 1)
            lines[k] = lines[k][:at] + rng.choice("\"'[]{}=#.,\\\t\x00\ufeffé ") + lines[k][at:]
        text = "\n".join(lines)
    return text.encode()


def outcome(content: bytes) -> str:
    """How both readers take a file: "read", "refused", or the error that is not their own."""
    words = []
    for read in (parse_problem, parse_phases):
        try:
            read(content.decode("utf-8-sig"))
            words.append("read")
        except ValueError as error:
            said = str(error)
            words.append(
                "refused" if said and "\n" not in said and len(said) < 400 else f"unclear: {said[:99]!r}"
            )
        except Exception as error:
            words.append(f"{type(error).__name__}: {str(error)[:99]}")
    wrong = [word for word in words if word not in ("read", "refused")]
    return wrong[0] if wrong else "read" if "read" in words else "refused"


def main(count: int, seed: int = 0) -> int:
    """Try ``count`` files; the number of those that were neither read nor refused."""
    rng, counts, bad = random.Random(seed), Counter(), 0
    for _ in range(count):
        content, began = generated(rng), time.process_time()
        word = outcome(content)
        took = time.process_time() - began
        if word not in ("read", "refused") or took > 2:
            bad += 1
            print(f"--- {word} {took:.2f} s\n{content.decode()}", flush=True)
        counts[word[:12]] += 1
    print(counts)
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
