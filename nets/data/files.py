"""Public data sets, one row of a table each: where the arrays come from, and which files are accepted."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Name of the environment variable that names a directory with data files.
ROOT_VARIABLE = "FPSOLVE_DATA"
#: Arrays of one file together; a file that claims more is refused before it is unpacked.
LARGEST_BYTES = 1 << 30
#: Rows of data sets that come without a test set are permuted by this seed before they are split.
SPLIT_SEED = 0

Arrays = dict[str, np.ndarray]


class Digits:
    """The digits that come with scikit-learn: 1797 images of 8 × 8 numbers from 0 to 16."""

    def read(self, root: str | os.PathLike[str] | None) -> tuple[Arrays, dict[str, str]]:
        """Arrays and provenance: the first 1500 of the permuted rows for training, 297 for the test."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        order = np.random.default_rng(SPLIT_SEED).permutation(len(bunch.target))
        arrays: Arrays = {}
        for part, rows in (("train", order[:1500]), ("test", order[1500:])):
            arrays |= {f"x_{part}": bunch.images.astype(np.uint8)[rows], f"y_{part}": bunch.target[rows]}
        provenance = {"file": "sklearn.datasets.load_digits", "sha256": "", "split": "1500 + 297, permuted"}
        return arrays, provenance


@dataclass(frozen=True)
class PublicFile:
    """A data set in one file, npz or the binary form of CIFAR-10, with its sha256 and public address.

    ``other`` is the sha256 of another accepted version, ``labels`` the array of labels among several.
    """

    file: str
    sha256: str
    url: str | None = None
    other: str | None = None
    labels: str | None = None

    def read(self, root: str | os.PathLike[str] | None) -> tuple[Arrays, dict[str, str]]:
        """Arrays and provenance; a file of another sha256 is a ValueError and stays where it is."""
        path = self._found(root)
        digest = file_digest(path)
        known = [sha256 for sha256 in (self.sha256, self.other) if sha256]
        if digest not in known:
            raise ValueError(
                f"{path} has sha256 {digest}, not {' or '.join(known)}: it is corrupted or another file. "
                "It was left where it is; move it away, or read it as your own data with datasets.from_npz"
            )
        arrays = read_cifar(path) if path.suffix == ".gz" else read_npz(path)
        if self.labels is not None:
            arrays["y"] = arrays[self.labels]
        return arrays, {"file": path.name, "sha256": digest}

    def _found(self, root: str | os.PathLike[str] | None) -> Path:
        """The file in the directory that is named; where none is named, in the cache or by a download.

        A directory that is named must hold the file: nothing else is used in its stead. A file that cannot be
        had is a FileNotFoundError that says what to do.
        """
        named = os.environ.get(ROOT_VARIABLE) if root is None else root
        if named is not None:
            if (path := Path(named) / self.file).is_file():
                return path
            raise FileNotFoundError(
                f"{named} holds no {self.file}; put the file there, name another directory (root= or "
                f"{ROOT_VARIABLE}), or leave both out to use the cache and the public address"
            )
        import pooch

        cache = Path(pooch.os_cache("fpsolve"))
        if (path := cache / self.file).is_file():
            return path
        if self.url is None:
            raise FileNotFoundError(
                f"{self.file} has no public address this package could check: put {self.file} (sha256 "
                f"{self.sha256}) into a directory and name it with root= or {ROOT_VARIABLE}; data of your "
                "own is read by datasets.from_npz; datasets.load('digits') needs no file"
            )
        try:
            return Path(pooch.retrieve(self.url, f"sha256:{self.sha256}", fname=self.file, path=cache))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{self.file} could not be fetched from {self.url} ({error}); fetch it yourself into a "
                f"directory and name that with root= or {ROOT_VARIABLE}"
            ) from error


#: Every data set by its name. ``cifar10_10k2k`` is the first training batch and 2000 test images of CIFAR-10,
#: ``mnist_5k1k`` 5000 + 1000 images of MNIST, ``sensorless_2200`` 2200 rows of Sensorless Drive Diagnosis.
#: Cardiotocography has two labellings; the three states N, S, P are the usual one.
PUBLIC: dict[str, Digits | PublicFile] = {
    "digits": Digits(),
    "avila": PublicFile("avila.npz", "83d122d6e337ff5d981999993010c570abbb3f6733705b730ea05e275ae97619"),
    "banknote": PublicFile(
        "banknote.npz", "40d7a669d1b4cfcde358afb1df9a0a483fb969e28a5b8fe7822f7ef5d880154e"
    ),
    "cardiotocography": PublicFile(
        "cardiotocography.npz",
        "43048aa4f5180562ed6cb31dda582a7394d0e69cff292f76c65a0510fbb64598",
        labels="y_nsp",
    ),
    "cifar10": PublicFile(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ),
    "cifar10_10k2k": PublicFile(
        "cifar10_10k2k.npz", "5ab35b2792943e4ceb0bee7e0550380e986c084323a6a90cf2d6d85597b5ef2d"
    ),
    "mnist": PublicFile(
        "mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        other="06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
    ),
    "mnist_5k1k": PublicFile(
        "mnist_5k1k.npz", "3a70a2c59eccab98fde41f67bf81107e6cd9b6bfa1ab8e273d0a8f99b5e9baa4"
    ),
    "sensorless_2200": PublicFile(
        "sensorless_2200.npz", "891f85f21c2a42521ef52189cae0f60b879fea20e8ad4ad872ca30f2abca41fa"
    ),
}


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path) -> Arrays:
    """The arrays of an npz file; never unpickles, never unpacks more than ``LARGEST_BYTES``."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_BYTES:
            raise ValueError(f"{path} unpacks to {size} bytes; at most {LARGEST_BYTES} are read")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # zip, zlib and numpy have many kinds
        said = str(error) if isinstance(error, ValueError) else f"{path} is no npz file, or damaged: {error}"
        raise ValueError(said) from error


def read_cifar(path: Path) -> Arrays:
    """CIFAR-10 in its binary form, read in memory: records of one label and 3 × 32 × 32 bytes."""
    arrays = {}
    with tarfile.open(path, "r:gz") as archive:
        for part, batches in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
            held = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in batches]
            rows = np.frombuffer(b"".join(f.read(LARGEST_BYTES) for f in held if f), np.uint8).reshape(
                -1, 3073
            )
            arrays[f"x_{part}"] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            arrays[f"y_{part}"] = rows[:, 0]
    return arrays
