"""Data sets as standardised tensors: public ones by name, one's own from arrays, Gaussian clusters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from fpsolve.sweeps.store import digest
from fpsolve.symbols.counter_rng import Rng
from nets.checks import check_option, check_whole
from nets.data.files import PUBLIC, SPLIT_SEED, file_digest, read_npz

Standardise = Literal["pixel", "channel", "none"]

#: Of data without a test set, this share of the permuted rows is kept for the test.
TEST_SHARE = 0.2
_TENSORS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and labels of a classification problem, standardised, training and test rows apart.

    ``name`` is that of the data set, or of the file. Inputs are float32, (N, features), or images (N,
    channels, height, width); labels int64, (N,), from 0 to len(classes) − 1; ``classes`` holds a word for
    each class. Arrays become tensors, other numbers such ones; float64 stays. A ValueError is raised if rows
    and labels do not match, inputs are not finite, or labels are no whole numbers in that range.
    ``provenance`` maps words to words: ``file``, ``sha256`` of the file, ``content_sha256`` of
    these tensors' raw rows, ``standardised``, ``split``, and what was ``selected``.
    """

    name: str
    train_inputs: torch.Tensor
    train_labels: torch.Tensor
    test_inputs: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tensors = {name: _tensor(self.name, name, getattr(self, name)) for name in _TENSORS}
        for part in ("train", "test"):
            x, y = tensors[f"{part}_inputs"], tensors[f"{part}_labels"]
            if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
                raise ValueError(
                    f"{self.name}: {part}_inputs {tuple(x.shape)} and {part}_labels {tuple(y.shape)} must be "
                    "(N, …) and (N,)"
                )
            if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(self.classes):
                raise ValueError(
                    f"{self.name}: {part}_labels from {int(y.min())} to {int(y.max())} must lie between 0 "
                    f"and {len(self.classes) - 1}, one for each of the {len(self.classes)} classes"
                )
        vars(self).update(tensors)

    def __repr__(self) -> str:
        return (
            f"Data({self.name!r}: {self.samples} + {len(self.test_labels)} rows of {self.input_shape}, "
            f"{len(self.classes)} classes)"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (features,) or (channels, height, width)."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one input."""
        return int(np.prod(self.input_shape))

    @property
    def samples(self) -> int:
        """Training rows."""
        return len(self.train_labels)

    @cached_property
    def digest(self) -> str:
        """The sha256 of all rows and labels as they are, with shapes and types, in hexadecimal."""
        return digest(*(getattr(self, name).cpu() for name in _TENSORS))

    def subset(self, samples: int, *, test_samples: int | None = None) -> Data:
        """The first ``samples`` training rows and ``test_samples`` test rows (default all).

        The rows stay standardised as before. More rows than there are, or none, are a ValueError.
        """
        there = len(self.test_labels)
        test_samples = there if test_samples is None else test_samples
        counts = {"samples": (samples, self.samples), "test_samples": (test_samples, there)}
        for word, (wanted, most) in counts.items():
            if not 0 < wanted <= most:
                raise ValueError(f"{word}={wanted} must lie between 1 and {most}")
        note = f"first {samples} of {self.samples} training and {test_samples} of {there} test rows"
        return self._with_rows(torch.arange(samples), torch.arange(test_samples), note)

    def select(self, classes: Sequence[int], *, binary: bool = False) -> Data:
        """The rows of some classes, relabelled 0, 1, … in the order given.

        With ``binary`` all rows are kept instead, labelled 1 where the class is one of these, else 0. A class
        that does not exist or is given twice is a ValueError.
        """
        chosen = [int(c) for c in classes]
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(self.classes))):
            raise ValueError(
                f"classes={list(classes)} must be different numbers from 0 to {len(self.classes) - 1}"
            )
        new = torch.full((len(self.classes),), 0 if binary else -1)
        new[chosen] = 1 if binary else torch.arange(len(chosen))
        train, test = new[self.train_labels], new[self.test_labels]
        names = [self.classes[c] for c in chosen]
        labels = ("other", "/".join(names)) if binary else tuple(names)
        rows = [torch.nonzero(part >= 0).ravel() for part in (train, test)]
        note = f"{'binary: ' if binary else ''}classes {', '.join(names)}"
        part = self._with_rows(rows[0], rows[1], note)
        return replace(part, train_labels=train[rows[0]], test_labels=test[rows[1]], classes=labels)

    def to(self, device: str | torch.device) -> Data:
        """The same data on another device, for instance ``"cuda"``."""
        if torch.device(device) == self.train_inputs.device:
            return self
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def _with_rows(self, train: torch.Tensor, test: torch.Tensor, note: str) -> Data:
        taken = {name: getattr(self, name)[train if "train" in name else test] for name in _TENSORS}
        before = self.provenance.get("selected")
        selected = f"{before}; {note}" if before else note
        return replace(self, **taken, provenance={**self.provenance, "selected": selected})


def _tensor(data: str, name: str, values: object) -> torch.Tensor:
    """Inputs as floating-point numbers, labels as int64; a ValueError where they are others."""
    try:
        found = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{data}: {name} must be a tensor or an array of numbers: {error}") from error
    if found.dtype is torch.bool or found.is_complex() or ("labels" in name and found.is_floating_point()):
        kind = "whole" if "labels" in name else "real"
        raise ValueError(f"{data}: {name} are {found.dtype}, not {kind} numbers")
    if "labels" in name:
        return found.long()
    found = found if found.dtype is torch.float64 else found.float()
    if not found.isfinite().all():
        raise ValueError(f"{data}: {name} are not finite everywhere; remove those rows")
    return found


def load(
    name: str = "digits", root: str | os.PathLike[str] | None = None, *, standardise: Standardise = "pixel"
) -> Data:
    """A public data set by name, standardised, with training and test rows apart.

    ``"digits"`` comes with scikit-learn and needs no file. The others are looked for in ``root`` or the
    directory named by the environment variable ``FPSOLVE_DATA``; else in the cache; else fetched from their
    public address (``mnist``, ``cifar10``). Every file must have its pinned sha256. A ValueError is raised
    for an unknown name, or a file whose sha256 is not the pinned one (the file is kept). A FileNotFoundError
    is raised if the file cannot be found; the message says what to do.

    Parameters
    ----------
    name : str
        A key of :data:`nets.data.files.PUBLIC`. Sets without a test set of their own are split once and for
        all: one row in five for the test (``digits``: 297 of 1797), by a fixed permutation.
    root : path, optional
        Directory with the files.
    standardise : {"pixel", "channel", "none"}
        "pixel" shifts and scales each pixel or feature to mean 0 and variance 1 over the training rows;
        one that is constant there becomes 0 everywhere. "channel" uses one mean and scale for all pixels
        of a channel. "none" leaves features as they are and divides bytes by 255.

    Returns
    -------
    Data
    """
    check_option("name", name, PUBLIC)
    check_option("standardise", standardise, get_args(Standardise))
    arrays, provenance = PUBLIC[name].read(root)
    return _from_arrays(name, arrays, standardise, provenance)


def from_npz(path: str | os.PathLike[str], *, standardise: Standardise = "pixel") -> Data:
    """Data of one's own from an npz file, which is never unpickled.

    A ValueError is raised if arrays are missing, of unequal length or not finite, or a class has no training
    row. A FileNotFoundError is raised if there is no such file.

    Parameters
    ----------
    path : path
        With arrays ``x_train, y_train, x_test, y_test``, or ``x, y`` (then one row in five is kept for the
        test). Images (N, height, width) or (N, height, width, channels), or features (N, n).
    standardise : {"pixel", "channel", "none"}
        As in :func:`load`.

    Returns
    -------
    Data
        Named by the file; its sha256 is in ``provenance``.
    """
    check_option("standardise", standardise, get_args(Standardise))
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    provenance = {"file": file.name, "sha256": file_digest(file)}
    return _from_arrays(file.stem, read_npz(file), standardise, provenance)


def gaussian_clusters(
    samples: int = 1000, features: int = 10, classes: int = 2, *, separation: float = 2.0, rng: Rng = None
) -> Data:
    """Synthetic data: equally many rows around each of some random centres, with unit variance.

    Rows of class c are normal with mean μ_c and covariance I; the μ_c are normal with variance separation² /
    (2 features) per component, so that two of them are ``separation`` apart on average (root mean square).
    Inputs are not standardised. A ValueError is raised if there are fewer samples than classes, no feature or
    fewer than two classes.

    Parameters
    ----------
    samples : int
        Training rows; a quarter as many test rows are drawn beside them.
    features, classes : int
        Numbers in one input, and clusters.
    separation : float
        Distance of centres in standard deviations.
    rng : int, SeedSequence or Generator, optional
        Seed of the centres and rows.

    Returns
    -------
    Data
    """
    limits = {"samples": (samples, classes), "features": (features, 1), "classes": (classes, 2)}
    for word, (value, least) in limits.items():
        check_whole(word, value, least=least)
    seed = str(rng) if isinstance(rng, int) else type(rng).__name__
    rng = np.random.default_rng(rng)
    centres = rng.normal(scale=separation / np.sqrt(2 * features), size=(classes, features))
    arrays = {}
    for part, count in (("train", samples), ("test", max(classes, samples // 4))):
        labels = rng.permutation(np.arange(count) % classes)
        arrays[f"x_{part}"] = centres[labels] + rng.normal(size=(count, features))
        arrays[f"y_{part}"] = labels
    provenance = {"file": "synthetic", "seed": seed, "separation": f"{separation:g}"}
    return _from_arrays("gaussian_clusters", arrays, "none", provenance)


def _from_arrays(
    name: str, arrays: Mapping[str, np.ndarray], standardise: Standardise, provenance: Mapping[str, str]
) -> Data:
    """The arrays checked, split into training and test rows, standardised; each failure is a ValueError."""
    split = "as published"
    if {"x", "y"} <= arrays.keys() and "x_train" not in arrays:
        if arrays["y"].ndim != 1 or len(arrays["x"]) != len(arrays["y"]):
            raise ValueError(
                f"{name}: x {arrays['x'].shape} and y {arrays['y'].shape} must be (N, …) and (N,)"
            )
        order = np.random.default_rng(SPLIT_SEED).permutation(len(arrays["y"]))
        kept = len(order) - round(TEST_SHARE * len(order))
        parts = {"train": order[:kept], "test": order[kept:]}
        rows = {f"{k}_{part}": arrays[k][chosen] for part, chosen in parts.items() for k in "xy"}
        arrays = {**{k: v for k, v in arrays.items() if k not in "xy"}, **rows}
        split = f"{kept} + {len(order) - kept} rows, permuted by seed {SPLIT_SEED}"
    missing = [k for k in ("x_train", "y_train", "x_test", "y_test") if k not in arrays]
    if missing:
        raise ValueError(f"{name}: arrays {', '.join(missing)} are missing; there are {', '.join(arrays)}")
    inputs = {part: _channels_first(np.asarray(arrays[f"x_{part}"]), name) for part in ("train", "test")}
    labels = {part: _whole(name, part, np.asarray(arrays[f"y_{part}"])) for part in ("train", "test")}
    count = _checked_classes(name, inputs, labels)
    names = tuple(map(str, arrays.get("class_names", ())))
    content = hashlib.sha256()
    for part in ("train", "test"):
        content.update(inputs[part].tobytes())
        content.update(labels[part].tobytes())
    train, test, how = _standardised(inputs["train"], inputs["test"], standardise)
    provenance = {"split": split, **provenance, "content_sha256": content.hexdigest(), "standardised": how}
    x, y, x_test, y_test = map(torch.from_numpy, (train, labels["train"], test, labels["test"]))
    words = names if len(names) == count else tuple(map(str, range(count)))
    return Data(name, x, y, x_test, y_test, words, provenance)


def _whole(name: str, part: str, y: np.ndarray) -> np.ndarray:
    """Labels in int64: whole numbers of any type, or written as text."""
    text, found = y.dtype.kind in "US", None
    with suppress(ValueError), np.errstate(invalid="ignore"):
        found = y.astype(np.int64) if text or y.dtype.kind in "biuf" else None
    if found is None or not (text or (found == y).all()):
        said = f"{y.dtype}, such as {y.flat[0]}" if y.size else y.dtype
        raise ValueError(f"{name}: {part} labels must be whole numbers that count from 0; they are {said}")
    return found


def _channels_first(x: np.ndarray, name: str) -> np.ndarray:
    """(N, H, W) and (N, H, W, C) to (N, C, H, W); (N, n) stays."""
    if x.dtype.kind not in "uif":
        raise ValueError(f"{name}: inputs are {x.dtype}, not numbers")
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] <= 4:
        return x.transpose(0, 3, 1, 2)
    raise ValueError(f"{name}: inputs of shape {x.shape} are neither (N, n) nor (N, H, W) nor (N, H, W, C)")


def _checked_classes(name: str, inputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> int:
    for part in ("train", "test"):
        x, y = inputs[part], labels[part]
        if y.ndim != 1 or len(x) != len(y) or len(y) == 0:
            raise ValueError(f"{name}: {part} inputs {x.shape} and labels {y.shape} do not match")
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: {part} inputs are not finite everywhere; remove those rows")
        if y.min() < 0:
            raise ValueError(f"{name}: {part} labels must count from 0; there is {y.min()}")
    if inputs["train"].shape[1:] != inputs["test"].shape[1:]:
        raise ValueError(
            f"{name}: training inputs {inputs['train'].shape} and test inputs {inputs['test'].shape} differ"
        )
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes)
    if len(classes) <= classes[-1] or len(unknown):
        first = next((i for i, label in enumerate(classes) if i != label), *unknown[:1])
        raise ValueError(f"{name}: every class needs training rows; label {first} has none")
    return len(classes)


def _standardised(
    train: np.ndarray, test: np.ndarray, how: Standardise
) -> tuple[np.ndarray, np.ndarray, str]:
    """Both parts in float32, with what was done in words. Mean and scale come from the training rows."""
    if how == "none":
        scale = 255.0 if train.dtype == np.uint8 else 1.0
        said = "bytes / 255" if scale > 1 else "no"
        if not max(abs(train).max(), abs(test).max()) <= np.finfo(np.float32).max:
            raise ValueError("inputs beyond the range of float32: divide them by their size first")
        return (train / scale).astype(np.float32), (test / scale).astype(np.float32), said
    axes = (0,) if how == "pixel" or train.ndim == 2 else (0, 2, 3)
    mean = _mean(train, axes, lambda x: x)
    with np.errstate(over="ignore"):
        scale = np.sqrt(_mean(train, axes, lambda x: (x - mean) ** 2))
    constant = train.max(axes, keepdims=True) == train.min(axes, keepdims=True)
    if not (constant | np.isfinite(scale) & (scale > 0)).all():
        raise ValueError("the scale of an input is no finite number: divide the inputs by their size first")
    inverse = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, scale))
    said = f"per {how} on training rows; {int(constant.sum())} of {constant.size} constant, set to 0"

    def apply(x: np.ndarray) -> np.ndarray:
        out = np.empty(x.shape, np.float32)
        for rows in _blocks(x):
            out[rows] = (x[rows] - mean) * inverse
        return out

    return apply(train), apply(test), said


def _mean(x: np.ndarray, axes: tuple[int, ...], term: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of a term over axes, in float64."""
    total = np.zeros([1 if axis in axes else n for axis, n in enumerate(x.shape)])
    for rows in _blocks(x):
        total += term(x[rows].astype(np.float64)).sum(axes, keepdims=True)
    return total / (x.size / total.size)


def _blocks(x: np.ndarray) -> Iterator[slice]:
    """Rows a few thousand at a time: float64 of all of MNIST would be a third of a gigabyte."""
    return (slice(start, start + 4096) for start in range(0, len(x), 4096))
