"""Where files of public data come from, checked: a directory the user names, the cache, or a download."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Name of the environment variable that names a directory with data files.
ROOT_VARIABLE = "FPSOLVE_DATA"
#: Arrays of one file together; a file that claims more is refused before it is unpacked.
LARGEST_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """One file that holds a data set: its name, its sha256, and where it can be fetched from."""

    file: str
    sha256: str
    url: str | None = None


_MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"

#: Data set → files that hold it, the preferred one first.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "avila": (Source("avila.npz", "83d122d6e337ff5d981999993010c570abbb3f6733705b730ea05e275ae97619"),),
    "banknote": (Source("banknote.npz", "40d7a669d1b4cfcde358afb1df9a0a483fb969e28a5b8fe7822f7ef5d880154e"),),
    "cardiotocography": (
        Source("cardiotocography.npz", "43048aa4f5180562ed6cb31dda582a7394d0e69cff292f76c65a0510fbb64598"),
    ),
    "cifar10": (
        Source(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            _CIFAR_URL + "cifar-10-binary.tar.gz",
        ),
    ),
    "cifar10_10k2k": (
        Source("cifar10_10k2k.npz", "5ab35b2792943e4ceb0bee7e0550380e986c084323a6a90cf2d6d85597b5ef2d"),
    ),
    "mnist": (
        Source("mnist.npz", "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"),
        Source(
            "mnist.npz",
            "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            _MNIST_URL + "mnist.npz",
        ),
    ),
    "mnist_5k1k": (
        Source("mnist_5k1k.npz", "3a70a2c59eccab98fde41f67bf81107e6cd9b6bfa1ab8e273d0a8f99b5e9baa4"),
    ),
    "sensorless_2200": (
        Source("sensorless_2200.npz", "891f85f21c2a42521ef52189cae0f60b879fea20e8ad4ad872ca30f2abca41fa"),
    ),
}


def arrays_of(
    name: str, root: str | os.PathLike[str] | None = None
) -> tuple[dict[str, np.ndarray], str, str]:
    """The arrays of a public data set, with the file they came from and its sha256.

    Looked for in ``root`` (or the directory named by the environment variable ``FPSOLVE_DATA``), then in
    the cache, then at the public address. A directory that is named must hold the file: nothing else is
    used in its stead.

    Parameters
    ----------
    name : str
        A key of ``SOURCES``.
    root : path, optional

    Returns
    -------
    arrays : dict of str to ndarray
    file, sha256 : str

    Raises
    ------
    FileNotFoundError
        If the file is in none of these places and has no public address, or that cannot be reached.
    ValueError
        If a file is not the one its sha256 promises (the file is kept), or is too large.
    """
    sources = SOURCES[name]
    named = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if named is not None:
        path = _in_directory(name, sources, Path(named))
    else:
        path = _cached_or_fetched(name, sources)
    digest = checked_digest(path, sources)
    arrays = _read_cifar(path) if path.name.endswith(".tar.gz") else read_npz(path)
    return arrays, path.name, digest


def checked_digest(path: Path, sources: tuple[Source, ...]) -> str:
    """The sha256 of a file, which must be one of those pinned."""
    digest = file_digest(path)
    known = [source.sha256 for source in sources]
    if digest not in known:
        raise ValueError(
            f"{path} has sha256 {digest}, not {' or '.join(known)}: it is corrupted or another file. It was "
            "left where it is; move it away, or read it as your own data with datasets.from_npz"
        )
    return digest


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; never unpickles, never unpacks more than ``LARGEST_BYTES``."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_BYTES:
            raise ValueError(f"{path} unpacks to {size} bytes; at most {LARGEST_BYTES} are read")
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no npz file: {error}") from error


def _in_directory(name: str, sources: tuple[Source, ...], directory: Path) -> Path:
    for source in sources:
        if (path := directory / source.file).is_file():
            return path
    files = " or ".join(sorted({source.file for source in sources}))
    raise FileNotFoundError(
        f"data set {name!r}: {directory} holds no {files}; put the file there, name another directory "
        f"(root= or {ROOT_VARIABLE}), or leave both out to use the cache and the public address"
    )


def _cached_or_fetched(name: str, sources: tuple[Source, ...]) -> Path:
    import pooch

    cache = Path(pooch.os_cache("fpsolve"))
    for source in sources:
        if (path := cache / source.file).is_file():
            return path
    for source in sources:
        if source.url is None:
            continue
        try:
            return Path(
                pooch.retrieve(
                    source.url, f"sha256:{source.sha256}", fname=source.file, path=cache, progressbar=False
                )
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"data set {name!r} could not be fetched from {source.url} ({error}); fetch it yourself into "
                f"a directory and name that with root= or {ROOT_VARIABLE}"
            ) from error
    files = " or ".join(sorted({source.file for source in sources}))
    raise FileNotFoundError(
        f"data set {name!r} has no public address this package could check: put {files} (sha256 "
        f"{sources[0].sha256}) into a directory and name it with root= or {ROOT_VARIABLE}; data of your own "
        "is read by datasets.from_npz; datasets.load('digits') needs no file"
    )


def _read_cifar(path: Path) -> dict[str, np.ndarray]:
    """CIFAR-10 in its binary form: records of one label and 3 × 32 × 32 bytes."""

    def records(archive: tarfile.TarFile, batch: str) -> np.ndarray:
        member = archive.extractfile(f"cifar-10-batches-bin/{batch}.bin")
        if member is None:
            raise ValueError(f"{path} holds no {batch}.bin")
        return np.frombuffer(member.read(LARGEST_BYTES), np.uint8).reshape(-1, 3073)

    with tarfile.open(path, "r:gz") as archive:
        train = np.concatenate([records(archive, f"data_batch_{i}") for i in range(1, 6)])
        test = records(archive, "test_batch")
    images = [part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for part in (train, test)]
    return {"x_train": images[0], "y_train": train[:, 0], "x_test": images[1], "y_test": test[:, 0]}
