"""Tables: rows of a comparison with their errors and distances to the reference; numbers with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fpsolve.results import with_interval

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class Row:
    """One number by one method, its error, the source of the error, and the deviation from the reference.

    ``deviation`` and ``relative_error`` are relative to the value, or to the width of the variable where the
    value vanishes; ``sigmas`` is the deviation in units of the combined error.
    """

    quantity: str
    method: str
    value: float
    error: float
    error_kind: str
    relative_error: float
    deviation: float
    sigmas: float
    #: Ends of the interval, where the error has one of its own; else NaN.
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of a comparison, the reference they are measured against, and remarks on their validity."""

    title: str
    reference: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        intervals = any(math.isfinite(row.high) for row in self.rows)
        words = "interval" if intervals else "error"
        lines = [("quantity", "method", "value", words, "deviation", "sigmas", f"{words} is")]
        previous = ""
        for row in self.rows:
            own = row.method == self.reference
            deviation = f"{row.deviation:+.2e}" if math.isfinite(row.deviation) else ""
            sigmas = f"{row.sigmas:.1f}" if math.isfinite(row.sigmas) and not own else ""
            interval = f"[{row.low:.5g}, {row.high:.5g}]" if math.isfinite(row.low) else ""
            error = interval if intervals else f"{row.error:.1e}"
            name, previous = "" if row.quantity == previous else row.quantity, row.quantity
            said = "reference" if own else deviation
            lines.append((name, row.method, f"{row.value:.8g}", error, said, sigmas, row.error_kind))
        text = columns(lines)
        rule = "-" * max(map(len, text))
        notes = [f"note: {remark}" for remark in self.remarks]
        return "\n".join([self.title, rule, text[0], rule, *text[1:], rule, *notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"

    def to_dataframe(self):
        """The rows as a pandas DataFrame, one column per field."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self.rows])

    def to_dict(self) -> dict:
        """Plain numbers and strings, ready for JSON; numbers that are not finite become None."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        head = {"title": self.title, "reference": self.reference}
        return head | {"rows": rows, "remarks": list(self.remarks)}

    def value(self, quantity: str, method: str) -> Row:
        """The row of one quantity and method; a KeyError where there is none names those there are."""
        for row in self.rows:
            if (row.quantity, row.method) == (quantity, method):
                return row
        known = sorted({(row.quantity, row.method) for row in self.rows})
        raise KeyError(f"no {quantity!r} by {method!r}; there are {known}")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under a head as a table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def interval_table(
    summary: xr.Dataset, columns: Mapping[str, str], *, over: str = "epoch", digits: int = 2
) -> pd.DataFrame:
    """Numbers with intervals along the one dimension of a summary, a row for each place.

    ``columns`` gives the heading of each variable. A variable without ``_low`` and ``_high`` is shown alone.
    """
    import pandas as pd

    rows = {}
    for place in summary[over].to_numpy():
        here = summary.sel({over: place})
        rows[place] = {
            heading: with_interval(here, name, digits=digits)
            if f"{name}_low" in here
            else f"{float(here[name]):.{digits}g}"
            for name, heading in columns.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(over)
