"""Compiled steps of one replica, of a net or of a local model.

For nets of a hundred weights at B = 1 a step takes about a microsecond here, and hundreds of microseconds in
calls to a library of matrix products. The tests of this study compare the paths of both.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def net_steps(start, r, rate, inputs, labels, sizes, biases, decay, scratch, gradient, position, rows, noise):
    """Steps of SGD of a dense ReLU net along ``rows`` (steps, B), in place, until outside the box.

    Returns the number of steps taken, and whether the last left the box.
    """
    layers = len(sizes) - 1
    for n in range(len(rows)):
        for i in range(len(position)):
            gradient[i] = decay * position[i]
        weight = 1.0 / rows.shape[1]
        for j in range(rows.shape[1]):
            sample = rows[n, j]
            # scratch: activations layer by layer, then slopes of two neighbouring layers.
            for i in range(sizes[0]):
                scratch[0, i] = inputs[sample, i]
            at = 0
            for l in range(layers):
                bias = at + sizes[l] * sizes[l + 1]
                for o in range(sizes[l + 1]):
                    z = position[bias + o] if biases else 0.0
                    row = at + o * sizes[l]
                    for i in range(sizes[l]):
                        z += position[row + i] * scratch[l, i]
                    scratch[l + 1, o] = z if z > 0.0 or l == layers - 1 else 0.0
                at = bias + (sizes[l + 1] if biases else 0)
            logits, slope = scratch[layers], scratch[layers + 1]
            classes = sizes[layers]
            top = logits[:classes].max()
            total = 0.0
            for o in range(classes):
                slope[o] = np.exp(logits[o] - top)
                total += slope[o]
            for o in range(classes):
                slope[o] *= weight / total
            slope[labels[sample]] -= weight
            below = scratch[layers + 2]
            for l in range(layers - 1, -1, -1):
                bias = at - (sizes[l + 1] if biases else 0)
                at = bias - sizes[l] * sizes[l + 1]
                below[: sizes[l]] = 0.0
                for o in range(sizes[l + 1]):
                    s = slope[o]
                    if s == 0.0:
                        continue
                    if biases:
                        gradient[bias + o] += s
                    row = at + o * sizes[l]
                    for i in range(sizes[l]):
                        gradient[row + i] += s * scratch[l, i]
                    if l:
                        for i in range(sizes[l]):
                            below[i] += s * position[row + i]
                if l:
                    for i in range(sizes[l]):
                        slope[i] = below[i] if scratch[l, i] > 0.0 else 0.0
        if _moved(position, start, r, rate, gradient, noise, n):
            return n + 1, True
    return len(rows), False


@numba.njit(cache=True)
def local_steps(start, r, rate, frozen, mean, hessian, gradient, position, rows, noise):
    """Steps of SGD with frozen noise of samples, a mean gradient, and a Hessian (of shape (0, 0) for none).

    Arguments and results are those of :func:`net_steps`.
    """
    for n in range(len(rows)):
        weight = 1.0 / rows.shape[1]
        for i in range(len(position)):
            gradient[i] = mean[i]
        if len(hessian):
            gradient += hessian @ (position - start)
        for j in range(rows.shape[1]):
            sample = rows[n, j]
            for i in range(len(position)):
                gradient[i] += weight * frozen[sample, i]
        if _moved(position, start, r, rate, gradient, noise, n):
            return n + 1, True
    return len(rows), False


@numba.njit(cache=True)
def _moved(position, start, r, rate, gradient, noise, n):
    """Make step ``n``, and say whether it ended outside the box (a NaN is outside)."""
    inside = True
    for i in range(len(position)):
        position[i] -= rate * gradient[i]
        if len(noise):
            position[i] += noise[n, i]
        inside = inside and abs(position[i] - start[i]) <= r
    return not inside
