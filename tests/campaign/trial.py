"""One random problem, what the toolkit says of it, and how the answer is classed."""

from __future__ import annotations

import math
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

#: An answer may miss the truth by so many of its stated errors; a statistical one by so many standard errors.
STATED, SIGMAS = 3.0, 4.5
#: Digits of a referee, relative to the scale of the quantity: differences below are not judged.
REFEREE = 1e-6
OUTCOMES = ("right", "warned", "refused", "silent", "raw", "slow")
_OWN = {str(Path(__file__).parents[2] / package) for package in ("theory", "fpsolve", "nets")}


@dataclass(frozen=True)
class Claim:
    """A number of the toolkit with its stated error, and the referee's number; ``scale`` is its natural size."""

    name: str
    value: complex
    error: float
    truth: complex
    scale: float | None = None
    statistical: bool = False

    @property
    def excess(self) -> float:
        """|value − truth| in units of what is allowed; above 1 is wrong."""
        scale = abs(self.truth) if self.scale is None else self.scale
        allowed = (SIGMAS if self.statistical else STATED) * self.error + REFEREE * scale
        miss = abs(self.value - self.truth)
        return math.inf if math.isnan(miss) or math.isnan(allowed) else miss / max(allowed, 1e-300)


@dataclass(frozen=True)
class Problem:
    """``ask`` returns the claims; ``text`` is enough to build the problem again by hand."""

    kind: str
    text: str
    ask: Callable[[], list[Claim]]
    #: The right answer is that there is none: only a refusal or a warning is right.
    no_answer: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one problem ended."""

    kind: str
    outcome: str
    text: str
    said: str
    seconds: float
    worst: float = 0.0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError after so many seconds (in the main thread, between Python instructions)."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not finished in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(problem: Problem, seconds: int = 180) -> Outcome:
    """Ask, and class the answer."""
    begin, claims, refusal = time.perf_counter(), [], ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            with limited(seconds):
                claims = problem.ask()
        except TimeoutError as error:
            return Outcome(problem.kind, "slow", problem.text, str(error), time.perf_counter() - begin)
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
            own = _raised_here(error)
    spent = time.perf_counter() - begin
    if refusal:
        return Outcome(problem.kind, "refused" if own else "raw", problem.text, refusal, spent)
    said = "; ".join(str(w.message) for w in caught if type(w.message) is not RuntimeWarning)
    wrong = [f"{c.name} {c.value:.9g} ± {c.error:.2g}, right {c.truth:.9g}" for c in claims if c.excess > 1]
    worst = max((c.excess for c in claims), default=math.inf)
    if problem.no_answer:
        outcome = "warned" if said else "silent"
    else:
        outcome = "right" if claims and not wrong else ("warned" if said else "silent")
    return Outcome(problem.kind, outcome, problem.text, said, spent, worst, wrong)


def _raised_here(error: Exception) -> bool:
    """Whether the toolkit itself raised the error, as one that a user can read."""
    if not isinstance(error, ValueError | NotImplementedError | RuntimeError | MemoryError | OverflowError):
        return False
    if isinstance(error, np.linalg.LinAlgError | RecursionError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return any(last.startswith(place) for place in _OWN)
