"""Files that are there whole or not at all, also where the disk is full."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write beside a file, flush to the disk, then move over it; an OSError names the file and the reason."""
    content = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def netcdf_bytes(data: xr.Dataset | xr.DataArray) -> memoryview:
    """The content of a netCDF file; HDF5 writes in memory, since it does not survive a full disk."""
    return data.to_netcdf(None, engine="h5netcdf")
