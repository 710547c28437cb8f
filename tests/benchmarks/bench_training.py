"""Training 784-50-50-10 on MNIST, B = 50, with the hidden weights recorded after every minibatch.

Run ``python -m tests.benchmarks.bench_training`` with ``FPSOLVE_DATA`` naming a directory that holds mnist.npz;
without it the images are noise, which costs the same. One thread. All loops train one epoch in turn and are
compared by medians in one process:

- by hand: preloaded tensors and six matrix products a step, nothing else, recording included;
- ``training.record``: the package's, with the minibatch losses and the evaluation on all training and test rows;
- nn.Module: forward, ``loss.backward()`` and ``torch.optim.SGD``, batches by indexing;
- DataLoader: the same with a DataLoader over a TensorDataset;
- 16 replicas side by side, per replica.

And the loss of the trained net at points of 300 directions of its hidden weights, on 5000 samples, in float64.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nets import models
from nets import training as train
from nets.data import datasets
from nets.measure.subject import Subject, layer_names
from nets.training.step import torch_threads

SIZES, BATCH, RATE, REPEATS, REPLICAS = (784, 50, 50, 10), 50, 0.1, 7, 16


def main() -> None:
    """Print medians, and ratios to the loop by hand."""
    warnings.simplefilter("ignore", UserWarning)  # windows before the exploration phase
    torch.set_num_threads(1)
    data = _data()
    start = models.fully_connected(SIZES, rng=0)
    run = train.sgd(start, data, learning_rate=RATE, batch_size=BATCH, epochs=1, rng=0)
    side = REPLICAS * [run.net]
    module = models.fully_connected(SIZES, rng=0)
    loops: dict[str, tuple[Callable[[], object], int]] = {
        "by hand": (_by_hand(start, data), 1),
        "training.record": (lambda: train.record(run, layer=1, epochs=1), 1),
        "nn.Module": (_by_module(module, data), 1),
        "DataLoader": (_by_loader(module, data), 1),
        f"{REPLICAS} replicas, each": (
            lambda: train.replicas(
                side, data, learning_rate=RATE, batch_size=BATCH, epochs=1, rng=range(REPLICAS)
            ),
            REPLICAS,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(REPEATS):
        for name, (loop, share) in loops.items():
            before = time.process_time()
            loop()
            times[name].append((time.process_time() - before) / share)
    hand = statistics.median(times["by hand"])
    print(f"{'one epoch of MNIST':24}{'seconds':>9}{'fastest':>9}{'/ by hand':>11}")
    for name, sample in times.items():
        median = statistics.median(sample)
        print(f"{name:24}{median:9.3f}{min(sample):9.3f}{median / hand:11.2f}")
    ratios = [a / b for a, b in zip(times["training.record"], times["by hand"], strict=True)]
    print(f"recorded epoch against the loop by hand: {statistics.median(ratios):.2f} (target 1.5 or less)")
    _landscape(run)


def _data() -> datasets.Data:
    try:
        return datasets.load("mnist")
    except FileNotFoundError as error:
        print(f"noise instead of MNIST: {error}")
    return datasets.gaussian_clusters(60_000, 784, 10, rng=0)


def _by_hand(net: nn.Sequential, data: datasets.Data) -> Callable[[], object]:
    x, y = data.train_inputs.flatten(1), nn.functional.one_hot(data.train_labels).float()
    W0, W1, W2 = (p.detach().clone() for p in net.parameters())
    rng = np.random.default_rng(0)

    def epoch() -> torch.Tensor:
        order = torch.from_numpy(rng.permutation(len(x)))
        window = torch.empty(len(x) // BATCH, W1.numel())
        for k in range(len(window)):
            chosen = order[k * BATCH : (k + 1) * BATCH]
            a, t = x[chosen], y[chosen]
            h = (a @ W0.T).relu_()
            g = (h @ W1.T).relu_()
            slope = (torch.softmax(g @ W2.T, 1) - t) / BATCH
            back = (slope @ W2) * (g > 0)
            first = (back @ W1) * (h > 0)
            W2.sub_(slope.T @ g, alpha=RATE)
            W1.sub_(back.T @ h, alpha=RATE)
            W0.sub_(first.T @ a, alpha=RATE)
            window[k] = W1.view(-1)
        return window

    return epoch


def _by_module(net: nn.Sequential, data: datasets.Data) -> Callable[[], object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        order = torch.from_numpy(rng.permutation(data.samples))
        for chosen in order.split(BATCH):
            _module_step(net, optimizer, data.train_inputs[chosen], data.train_labels[chosen])

    return epoch


def _by_loader(net: nn.Sequential, data: datasets.Data) -> Callable[[], object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    rows = torch.utils.data.TensorDataset(data.train_inputs, data.train_labels)
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        for x, y in loader:
            _module_step(net, optimizer, x, y)

    return epoch


def _module_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def _landscape(run: train.Run) -> None:
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(2500, 300)))[0].T
    points = torch.tensor([-4.0, -2.0, 2.0, 4.0, 8.0])
    samples = min(5000, run.data.samples)
    before = time.process_time()
    rows = run.data.train_inputs[:samples], run.data.train_labels[:samples]
    with torch_threads(1):
        loss = Subject(run.net, *rows, weights=layer_names(run.net, 1, bias=False))
        loss.to(torch.float64).along(directions, points)
    seconds = time.process_time() - before
    print(
        f"{len(directions)} directions × {len(points)} losses on {samples} samples: {seconds:.1f} s (target 60)"
    )


if __name__ == "__main__":
    main()
