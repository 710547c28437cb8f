"""What a command leaves behind: a table on stdout; text, JSON, figure and data in a folder."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fpsolve.files import netcdf_bytes, write_whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def writable(directory: str | None) -> Path | None:
    """The output directory, made now so that a bad one is found before the work."""
    if directory is None:
        return None
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    probe = path / ".fpsolve-probe"
    probe.touch()
    probe.unlink()
    return path


def pyplot():
    """``matplotlib.pyplot``, drawing without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def in_file_words(message: str) -> str:
    """A message that names arguments of Python with the keys of a file instead.

    >>> in_file_words("enlarge the box=, or say walls='reflecting', or use more cells (shape=)")
    'enlarge the [box], or say solver.walls = "reflecting", or use more cells (solver.shape)'
    """
    message = re.sub(r"\b(walls|method|scheme)='(\w+)'", r'solver.\1 = "\2"', message)
    message = re.sub(r"\b(shape|accuracy|walls|scheme|method)=(?=[\s,;:.)]|$)", r"solver.\1", message)
    return re.sub(r"\bbox=(?=[\s,;:.)]|$)", "[box]", message)


def report(
    name: str,
    text: object,
    data: object,
    *,
    out: Path | None,
    quiet: bool,
    figure: Figure | None = None,
    results: Mapping[str, xr.Dataset | xr.DataArray] | None = None,
) -> None:
    """A table on stdout, as text, or as one line of JSON if ``quiet``; the same in the folder ``out``.

    There, ``name`` .txt, .json and .png and each result as netCDF under its own name are written. The files
    are named on stdout unless ``quiet``.
    """
    print(json.dumps(data) if quiet else text)
    if out is None:
        return
    files: dict[Path, bytes | memoryview | str] = {
        out / f"{name}.txt": f"{text}\n",
        out / f"{name}.json": json.dumps(data, indent=1),
    }
    if figure is not None:
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, bbox_inches="tight")
        pyplot().close(figure)
        files[out / f"{name}.png"] = picture.getvalue()
    for title, result in (results or {}).items():
        files[out / f"{title.replace(', ', '-').replace(' ', '-')}.nc"] = netcdf_bytes(result)
    for path, content in files.items():
        write_whole(path, content)
    if not quiet:
        print(f"wrote {', '.join(map(str, sorted(files)))}")
