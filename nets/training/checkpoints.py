"""Runs in safetensors files, written whole or not at all, with a sha256; such a file holds no code."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialized
from torch import nn

from fpsolve.files import write_whole
from fpsolve.sweeps.store import digest
from nets.data.datasets import Data
from nets.layers import architecture, description, with_parameters
from nets.training.recipe import changed
from nets.training.run import Run

_FORMAT = "fpsolve nets run, 2"
#: Fields of a run that are plain text and whole numbers.
_STATE = ("start", "epoch", "step", "outcome", "diverged_step")


def save(runs: Run | Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Write one run or several to a safetensors file: weights, optimiser's memory, history, settings.

    The file appears whole or not at all: it is written beside its place and then renamed. A FileNotFoundError
    is raised if the directory does not exist.

    Parameters
    ----------
    runs : Run or sequence of Run
        :func:`load` gives as many back.
    path : path
        Its directory must exist. A file of that name is replaced.

    Returns
    -------
    Path
        The file.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {target.parent} to write {target.name} into")
    tensors, texts = dict[str, torch.Tensor](), []
    for i, run in enumerate(several):
        for name, parameter in run.net.named_parameters():
            tensors[f"{i}/net/{name}"] = parameter.detach()
        for kind, values in run.memory.items():
            tensors |= {f"{i}/memory/{kind}/{j}": value for j, value in enumerate(values)}
        tensors[f"{i}/rows"] = torch.tensor(run.rows, dtype=torch.float64)
        settings = run.recipe.recorded | {"seed": run.seed}
        state = {name: getattr(run, name) for name in _STATE}
        texts.append(state | {"settings": settings, "identity": _identity(run.net, run.data)})
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    said = json.dumps(texts)
    metadata = {"format": _FORMAT, "runs": said, "sha256": _sha256(tensors, said)}
    write_whole(target, serialized(tensors, metadata))
    return target


def load(path: str | os.PathLike[str], *, net: nn.Sequential, data: Data) -> list[Run]:
    """The runs in a file of :func:`save`; when continued they equal, to the bit, runs that never stopped.

    A FileNotFoundError is raised if there is no such file. A ValueError is raised if the file is damaged, of
    another kind, or belongs to another net or other data.

    Parameters
    ----------
    net : nn.Sequential
        The shape of net that was trained; its weights do not enter.
    data : Data
        The data of the training; the device of these data becomes that of the runs.

    Returns
    -------
    list of Run
        As many as were saved together.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    texts, tensors = _read(file)
    identity = _identity(net, data)
    for text in texts:
        for key, value in identity.items():
            if (there := text["identity"].get(key)) != value:
                raise ValueError(
                    f"{file} holds a run with {key} {there!r}, not {value!r}; give that, or name another file"
                )
    return [_run(i, text, tensors, net, data) for i, text in enumerate(texts)]


def _read(file: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """What each run says and all tensors; a ValueError if the file is damaged or of another kind."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        found, said = metadata.get("format"), metadata.get("runs", "")
        whole = metadata.get("sha256") == _sha256(tensors, said)
        texts = json.loads(said) if found == _FORMAT and whole else []
    except PermissionError:
        raise
    except Exception as error:  # the reader's own, of many kinds
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"{file} is damaged or no file of runs ({first}); delete it to start anew"
        ) from error
    if found != _FORMAT:
        raise ValueError(f"{file} holds no run of this package (format {found!r}); name another file")
    if not whole:
        raise ValueError(f"{file} is damaged: its content has another sha256; delete it to start anew")
    return texts, tensors


def _sha256(tensors: dict[str, torch.Tensor], said: str) -> str:
    """The sha256 of all tensors with their names, and of what the runs say."""
    names = sorted(tensors)
    return digest([*names, said], *(tensors[name].numpy() for name in names))


def _run(i: int, text: dict, tensors: dict[str, torch.Tensor], net: nn.Sequential, data: Data) -> Run:
    settings = dict(text["settings"])
    seed = settings.pop("seed")
    recipe = changed(None, settings | {"epochs": max(text["epoch"], 1)})
    device = data.train_inputs.device
    names = [name for name, _ in net.named_parameters()]
    own = with_parameters(net, (tensors[f"{i}/net/{name}"].to(device) for name in names))
    memory = {
        kind: [tensors[f"{i}/memory/{kind}/{j}"].to(device) for j in range(len(names))]
        for kind in sorted({key.split("/")[2] for key in tensors if key.startswith(f"{i}/memory/")})
    }
    rows = tuple(tuple(row) for row in tensors[f"{i}/rows"].tolist())
    return Run(own, data, recipe, seed, memory=memory, rows=rows, **{name: text[name] for name in _STATE})


def _identity(net: nn.Sequential, data: Data) -> dict[str, str]:
    """What a file of runs must share with the net and the data it is read for."""
    return {
        "net": description(net), "architecture": architecture(net), "data": data.name,
        "data_digest": data.digest,
    }  # fmt: skip
