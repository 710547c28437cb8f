"""What is measured: the mean loss of any torch model as a function of chosen weights, and its derivatives.

Per-sample gradients, losses along directions and Hessian–vector products come from ``torch.func``, in blocks
of bounded memory. Where the model is a flat ``nn.Sequential`` with cross-entropy, the same numbers come
faster from :mod:`nets.measure.fast`.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fpsolve.results import provenance
from fpsolve.sweeps.store import digest
from nets.checks import check_whole
from nets.layers import call_digest, checked_layer, description, net_digest, weight_layers
from nets.measure.fast import MEMORY, PIECEWISE_LINEAR, Reduction, Tail, flat
from nets.outputs import ALONE, TRIED, check_block, checked_outputs, close, kind, said, warn_of_probabilities
from nets.training.run import Run

Loss: TypeAlias = Callable[..., Tensor]
Values: TypeAlias = Tensor | np.ndarray
#: Samples of one Hessian product or one forward pass.
SAMPLES = 10_000
#: Numbers in the largest intermediate result of losses at many weight vectors.
NUMBERS = 1 << 22
NO_MEAN = (
    "the loss of several samples is not the mean of their losses (class weights, ignored labels or "
    "reduction='sum'?): measurements need a mean over samples"
)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, ln(1 + Σ exp(z_c − z_label)), the sum over c ≠ label.

    Logits have shape (M, K), labels (M,). A tiny loss keeps its relative precision, as in
    :func:`nets.training.networks.sample_losses`; ``torch.func`` can differentiate and vectorise this form.
    """
    chosen = labels.unsqueeze(-1)
    margins = (logits - logits.gather(-1, chosen)).scatter(-1, chosen, -torch.inf)
    top = margins.detach().amax(-1).clamp_min(0.0)
    return top + torch.log1p(torch.expm1(-top) + (margins - top.unsqueeze(-1)).exp().sum(-1))


@dataclass(frozen=True, eq=False)
class Subject:
    """L(w) = (1/M) Σ_s loss(model(x_s), y_s), w the weights chosen; the others stay as they are.

    Model and data are copied: neither is changed, and later changes of them are not followed. The copy is in
    evaluation mode: no dropout, and batch norms with their running statistics. Weights form one vector of N
    numbers, in the order of ``model.named_parameters()``, each row by row; tied ones count once. A ValueError
    is raised if inputs and targets do not match, a pattern fits no weights, numbers are not finite, the loss
    is not a mean over samples, or the model is random, changes its inputs or buffers or mixes samples (as
    seen on 64 of them and on the first block); if the weights are an embedding's with ``padding_idx``,
    ``max_norm`` or ``scale_grad_by_freq``. A UserWarning says that outputs are probabilities, not logits,
    or that torch's gradient is not the derivative of the loss, by differences along one direction.

    Parameters
    ----------
    model : nn.Module
        Any; its first dimension is that of samples, which do not influence each other.
    inputs, targets : Tensor or array, shapes (M, …)
        Floating-point inputs are cast to the precision of the model, floating-point targets to that of its
        outputs, block by block; targets that are whole numbers become int64.
    loss : callable
        Of (outputs, targets): one number per sample; or, as torch's losses, a function with the argument
        ``reduction`` or a module. Where "none" leaves several numbers per sample, their mean counts.
    weights : str or sequence of str
        "all", names as in ``model.named_parameters()``, or patterns such as ``"encoder.*"``. Frozen weights
        (``requires_grad=False``, where others are not) vary only if they are named in full.
    fast : bool
        False takes the general form everywhere, to check the fast one.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss = cross_entropy
    weights: str | Sequence[str] = "all"
    fast: bool = True

    def __post_init__(self) -> None:
        for what, value in (("model", self.model), ("loss", self.loss)):
            if isinstance(value, type):
                raise ValueError(f"{what}={value.__name__} is a class: call it, {value.__name__}(…)")
        if not (isinstance(self.model, nn.Module) and callable(self.loss)):
            found = f"{kind(self.model)} and {kind(self.loss)}"
            raise ValueError(f"a Subject has a torch module and a loss to call, not {found}")
        inputs, targets = _copied(self.inputs, "inputs"), _copied(self.targets, "targets")
        if inputs.ndim == 0 or targets.shape[:1] != inputs.shape[:1] or not len(targets):
            raise ValueError(
                f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must be M each, M > 0"
            )
        if not (targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool):
            targets = targets.long()
        given = list(self.model.named_parameters())
        with said("the model cannot be copied"):
            model = copy.deepcopy(self.model).eval().requires_grad_(False)
            loss = copy.deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        vars(self).update(model=model, loss=loss, inputs=inputs, targets=targets)
        vars(self)["weights"] = self._chosen({n for n, p in given if not p.requires_grad})
        self._check_numbers()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self._check_loss(checked_outputs(model, self._cast(inputs[self._few])))
            if not (flat(model) and all(type(m) in PIECEWISE_LINEAR for m in model)):
                check_block(model, self._cast(inputs[: self._block]))

        if not flat(model):
            self._warn_of_gradients()

    def _warn_of_gradients(self) -> None:
        """A UserWarning where the gradient along a random direction is not that of differences in float64."""
        with suppress(RuntimeError):  # what torch cannot do, measurements say
            exact = self.rows(self._few[:ALONE]).to(torch.float64)
            v = torch.randn(self.size, generator=torch.Generator().manual_seed(0)).to(exact.vector)
            step, g = 1e-6 / v.norm(), exact.gradient()
            up, down = exact.losses(torch.stack([exact.vector + step * v, exact.vector - step * v]))
            if abs((up - down) / (2 * step) - g @ v) > 0.05 * g.norm() + 1e-6 * (1 + abs(up)):
                warnings.warn(
                    "torch's gradient is not the derivative of this loss (detach, no_grad or "
                    "straight-through estimates inside?): gradients and noise are those that torch gives",
                    stacklevel=4,
                )

    def __repr__(self) -> str:
        return f"Subject({self.description}, {self.samples} samples, {self.size} weights)"

    def _chosen(self, frozen: set[str]) -> tuple[str, ...]:
        """Names of the weights asked for; a ValueError where there are none, or torch's gradient is wrong."""
        every = dict(self.model.named_parameters())
        first = {id(p): name for name, p in every.items()}
        alike = [(n, first[id(p)]) for n, p in self.model.named_parameters(remove_duplicate=False)]
        with said("weights must be 'all', a name, a pattern or several of them"):
            asked = [self.weights] if isinstance(self.weights, str) else list(self.weights)
            asked = ["*"] if asked == ["all"] else asked or ["(nothing)"]
            fits = {pattern: [own for name, own in alike if fnmatchcase(name, pattern)] for pattern in asked}
        frozen = frozen if len(frozen) < len(every) else set()  # such a model was made to be measured
        for pattern, names in fits.items():
            if not names:
                raise ValueError(
                    f"weights={pattern!r} fits none of the model's: {', '.join(every) or 'none'}"
                )
            if all(pattern != name for name, _ in alike):
                fits[pattern] = [name for name in names if name not in frozen]
            if not fits[pattern]:
                raise ValueError(f"weights={pattern!r} fits frozen weights only; name those that are to vary")
        chosen = tuple(name for name in every if any(name in names for names in fits.values()))
        for module in self.model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (
                (module.padding_idx, module.max_norm, module.scale_grad_by_freq) != (None, None, False)
                and any(every[name] is module.weight for name in chosen)
            ):
                raise ValueError(
                    f"torch's gradient by the weights of {module} is not the derivative of the loss: leave "
                    "them out, or measure a model without that option"
                )
        return chosen

    def _check_numbers(self) -> None:
        """ValueError where weights are of several precisions, or numbers are not finite."""
        named = dict(self.model.named_parameters())
        precisions = {p.dtype for p in named.values()}
        if len(precisions) > 1 or not precisions <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(map(str, precisions)))
            raise ValueError(f"the weights are {found}: give a model in float32 or float64, as model.float()")
        data = {"inputs": self.inputs, "targets": self.targets}
        bad = [name for name, values in (data | named).items() if not values.isfinite().all()]
        if bad:
            raise ValueError(f"not all numbers are finite in {', '.join(bad)}: leave those samples out")

    @property
    def _few(self) -> Tensor:
        """Rows of some samples, spread over the data."""
        count = min(TRIED, self.samples)
        return torch.arange(count) * self.samples // count

    def _check_loss(self, outputs: Tensor) -> None:
        """ValueError where the loss gives no number per sample whose mean it is."""
        loss = functional.cross_entropy if self.loss is cross_entropy else self.loss
        ignored = _option(loss, "ignore_index")
        if ignored is not None and outputs.ndim > 1:
            warn_of_probabilities(outputs, 4)
        if ignored is not None and outputs.ndim > 1 and not self.targets.is_floating_point():  # classes
            labels, last = self.targets, outputs.shape[1] - 1
            if (labels == ignored).any():
                raise ValueError(f"the loss ignores labels {ignored}: leave such samples out of the data")
            if _option(loss, "reduction") != "none" and _option(loss, "weight") is not None:
                raise ValueError(NO_MEAN)
            if not 0 <= labels.min() <= labels.max() <= last:
                raise ValueError(
                    f"labels from {int(labels.min())} to {int(labels.max())} must lie between 0 and {last}, "
                    f"one for each of the {last + 1} outputs"
                )
        y = self.targets[self._few].to(outputs.device)
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(y.shape)} of {y.dtype}"
        y = _like(outputs, y)
        outputs = outputs.detach().requires_grad_()
        with said(f"the loss fails on {shapes}"), torch.enable_grad():
            each, mean = self.each(outputs, y), loss(outputs, y)
        if not (isinstance(each, Tensor) and each.is_floating_point() and each.shape == y.shape[:1]):
            raise ValueError(
                f"the loss gives {kind(each)} for {len(y)} samples; give a loss of each "
                "sample, or one with an argument reduction= that knows 'none'"
            )
        if not each.isfinite().all():
            raise ValueError(f"the loss at these weights is {float(each.mean())}: nothing to measure")
        if not each.requires_grad:
            raise ValueError("the loss has no derivative by the outputs (a detach or no_grad inside?)")
        pairs = zip(outputs[:ALONE].split(1), y[:ALONE].split(1), strict=True)
        if not close(torch.cat([self.each(*pair) for pair in pairs]), each[:ALONE]):
            raise ValueError(f"the loss of a sample changes with the others beside it: {shapes}")
        if not torch.isclose(mean.mean(), each.mean(), rtol=1e-3, atol=1e-6, equal_nan=True):
            raise ValueError(NO_MEAN)

    # What is there

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that vary, as ``model.named_parameters()`` names them."""
        return cast(tuple[str, ...], self.weights)

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Their values w₀ by name."""
        named = dict(self.model.named_parameters())
        return {name: named[name].detach() for name in self.names}

    @property
    def vector(self) -> Tensor:
        """w₀ as one vector, shape (N,)."""
        return _joined(self.parameters.values(), 0)

    @property
    def size(self) -> int:
        """Number of weights N."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def samples(self) -> int:
        """Number of samples M."""
        return len(self.targets)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.parameters.values())).device

    @cached_property
    def digest(self) -> str:
        """sha256 of the model with its numbers, the loss, the data, and the names of what varies."""
        data = (numpy(values.contiguous()) for values in (self.inputs, self.targets))
        return digest(net_digest(self.model), call_digest(self.loss), list(self.names), *data)

    @property
    def layer(self) -> int | None:
        """Of a flat net the layer whose weights vary, with or without its bias, counted from 0; else None."""
        if not flat(self.model):
            return None
        places = {name.split(".")[0] for name in self.names}
        found = [i for i, (place, _) in enumerate(weight_layers(self.model)) if {str(place)} == places]
        return found[0] if found else None

    @property
    def description(self) -> str:
        """The model in a few words."""
        return description(self.model) if flat(self.model) else type(self.model).__name__

    def attributes(self, title: str, **more: object) -> dict[str, str | int | float]:
        """What every result of a measurement records."""
        every = len(self.names) == sum(1 for _ in self.model.parameters())
        named = ", ".join(self.names) if self.layer is None else str(self.layer)
        return provenance(
            f"{title}: {self.description}", net=self.description, layer="all" if every else named,
            samples=self.samples, **more,
        )  # fmt: skip

    @cached_property
    def labelled(self) -> bool:
        """Whether the loss is the cross-entropy of labels: integers (M,) for outputs (M, K)."""
        plain = type(self.loss) is nn.CrossEntropyLoss and (
            (self.loss.weight, self.loss.ignore_index, self.loss.label_smoothing) == (None, -100, 0.0)
        )
        if not plain and self.loss not in (cross_entropy, functional.cross_entropy):
            return False
        whole = not (self.targets.is_floating_point() or self.targets.ndim != 1)
        return whole and self.model(self._cast(self.inputs[:1])).ndim == 2

    def labels(self, purpose: str) -> Tensor:
        """The targets where the loss is the cross-entropy of labels, else a ValueError with the purpose."""
        if not self.labelled:
            raise ValueError(f"{purpose} is defined for the cross-entropy of labels; this loss is another")
        return self.targets

    @property
    def piecewise_linear(self) -> bool:
        """Whether the outputs are known to be piecewise linear in the weights: one layer of a ReLU net."""
        return self.tail is not None and self.tail.piecewise_linear

    @cached_property
    def each(self) -> Loss:
        """The loss of each sample, (M,), from outputs and targets."""
        if self.labelled:
            return cross_entropy
        if self.loss is cross_entropy:
            return partial(_sample_means, partial(functional.cross_entropy, reduction="none"))
        if isinstance(self.loss, nn.Module) and hasattr(self.loss, "reduction"):
            own: Any = copy.copy(self.loss)
            own.reduction = "none"
            return partial(_sample_means, own)
        if _option(self.loss, "reduction") is None:
            return self.loss
        return partial(_sample_means, partial(self.loss, reduction="none"))

    # Other subjects

    def to(self, dtype: torch.dtype) -> Subject:
        """The same in another precision; itself where that is the one it has."""
        if dtype == self.dtype:
            return self
        return self._with(model=copy.deepcopy(self.model).to(dtype))

    def at(self, vector: Values) -> Subject:
        """The same at other weights, shape (N,)."""
        model = copy.deepcopy(self.model)
        named = dict(model.named_parameters())
        for name, values in self.split(self._vectors(vector, 1)).items():
            named[name].copy_(values)
        return self._with(model=model)

    def rows(self, chosen: Tensor | slice) -> Subject:
        """The same on some of the samples."""
        chosen = chosen if isinstance(chosen, slice) else chosen.to(self.inputs.device)
        return self._with(inputs=self.inputs[chosen], targets=_some(self.targets[chosen]))

    def _with(self, **parts: object) -> Subject:
        """The same with other parts, which need no new check."""
        other = object.__new__(Subject)
        vars(other).update({field.name: vars(self)[field.name] for field in fields(self)} | parts)
        return other

    # The general form

    @cached_property
    def tail(self) -> Tail | None:
        """The fast form, where there is one."""
        if not (self.fast and self.labelled and flat(self.model)):
            return None
        net = self.model
        place = min(int(name.split(".")[0]) for name in self.names)
        with torch.no_grad():
            z = self._cast(self.inputs[:1])
            for module in net:
                if isinstance(module, nn.Linear) and z.ndim != 2:
                    return None
                z = module(z)
            before, after = nn.Sequential(*list(net)[:place]), nn.Sequential(*list(net)[place:])
            if any(True for _ in before.parameters()):
                features = torch.cat([before(x) for x, _ in self.blocks(SAMPLES)])
            else:
                features = before(self._cast(self.inputs))
        shifted = tuple(f"{int(n.split('.')[0]) - place}.{n.split('.')[1]}" for n in self.names)
        return Tail(after, features, self.targets.to(self.device), shifted)

    def blocks(self, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs, in the precision of the model, and targets in blocks of so many samples."""
        for x, y in zip(self.inputs.split(samples), self.targets.split(samples), strict=True):
            yield self._cast(x), y.to(self.device)

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors (…, N) as one tensor (…, *shape) for each name."""
        parts = vectors.split([p.numel() for p in self.parameters.values()], -1)
        return {
            name: part.reshape(*vectors.shape[:-1], *p.shape)
            for (name, p), part in zip(self.parameters.items(), parts, strict=True)
        }

    def sample_losses(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample at other values of the weights, by name; for ``torch.func``."""
        outputs = self._moved(parameters, x)
        return self.each(outputs, _like(outputs, y))

    @cached_property
    def _holders(self) -> dict[str, list[str]]:
        """For each weight that varies, its name in every module that holds it."""
        found: dict[int, list[str]] = {}
        for path, module in self.model.named_modules():
            for name, p in module.named_parameters(path, recurse=False, remove_duplicate=False):
                found.setdefault(id(p), []).append(name)
        named = dict(self.model.named_parameters())
        return {name: found[id(named[name])] for name in self.names}

    def _moved(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """Outputs at other values of the weights, by name.

        With ties torch would put a module back that comes twice with weights that are not its own.
        """
        own = {name: p for first, p in parameters.items() for name in self._holders[first]}
        with _plain_attention():
            return functional_call(self.model, own, (x,), tie_weights=False)

    def by_torch(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; where torch fails, a RuntimeError says what has failed."""
        return said(f"torch.func gives no {what} of this model ({self.description})", RuntimeError)(function)

    def _cast(self, x: Tensor) -> Tensor:
        some = next(self.model.parameters())
        return x.to(some.device, some.dtype if x.is_floating_point() else x.dtype)

    def _tensor(self, values: Values) -> Tensor:
        """In the precision of the model; torch knows no arrays with negative strides."""
        values = values if isinstance(values, Tensor) else np.array(values, order="C")
        found = torch.as_tensor(values).to(self.device, self.dtype)
        if not found.isfinite().all():
            raise ValueError("weights, directions and distances must be finite numbers")
        return found

    def _vectors(self, values: Values, ndim: int, what: str = "weights") -> Tensor:
        """Vectors of weights in the precision of the model, checked."""
        found = self._tensor(values)
        if found.ndim != ndim or found.shape[-1] != self.size:
            shape = f"(K, {self.size})" if ndim == 2 else f"({self.size},)"
            raise ValueError(f"{what} of shape {tuple(found.shape)} must be {shape}, the weights that vary")
        return found

    def columns(self, directions: Values) -> Tensor:
        """Directions as columns (N, K), in the precision of the model, checked."""
        found = self._tensor(directions)
        if found.ndim != 2 or len(found) != self.size:
            raise ValueError(
                f"directions of shape {tuple(found.shape)} must have {self.size} rows, one per weight"
            )
        return found

    @property
    def _block(self) -> int:
        """Samples of one gradient."""
        return max(1, min(SAMPLES, 8 * NUMBERS // self._widest))

    @cached_property
    def _widest(self) -> int:
        """Numbers in the largest result of any module for one sample."""
        sizes = [self.inputs[0].numel()]

        def note(module: nn.Module, arguments: object, result: object) -> None:
            if isinstance(result, Tensor):
                sizes.append(result.numel())

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            with torch.no_grad():
                self.model(self._cast(self.inputs[:1]))
        finally:
            for hook in hooks:
                hook.remove()
        return max(sizes)

    # Measurements that all others are made of

    def outputs(self) -> Tensor:
        """The model's outputs for all samples, (M, …)."""
        with torch.no_grad():
            if self.tail is not None:
                return torch.cat([self.tail.net(h) for h in self.tail.inputs.split(SAMPLES)])
            return torch.cat([self.model(x) for x, _ in self.blocks(SAMPLES)])

    def losses(self, vectors: Values | None = None, *, reduction: Reduction = "mean") -> Tensor:
        """L at many vectors of weights (K, N), default w₀ alone.

        Shape (K,), float64; with ``reduction="none"`` the loss of each sample, (K, M).
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction={reduction!r} must be 'mean' or 'none'")
        w = self._vectors(self.vector[None] if vectors is None else vectors, 2)
        if self.tail is not None and self.tail.shiftable:
            return self.along(w - self.vector, torch.ones(1), reduction=reduction)[:, 0]
        if self.tail is None or len(self.names) < sum(1 for _ in self.model.parameters()):
            return self._swept(w, None, reduction)
        each = self.tail.losses(w)
        return each if reduction == "none" else each.mean(1, dtype=torch.float64)

    def along(self, directions: Values, distances: Values, *, reduction: Reduction = "mean") -> Tensor:
        """L(w₀ + t p) for directions p (K, N) and distances t, (K, T) or (T,) for all the same.

        Shape (K, T), summed over samples in float64; with ``reduction="none"`` (K, T, M).
        """
        return self._profile(directions, distances, slopes=False, reduction=reduction)

    def slopes(self, directions: Values, distances: Values, *, reduction: Reduction = "mean") -> Tensor:
        """dL/dt at w₀ + t p, by forward differentiation; shapes as in :meth:`along`."""
        return self._profile(directions, distances, slopes=True, reduction=reduction)

    def _profile(
        self, directions: Values, distances: Values, *, slopes: bool, reduction: Reduction
    ) -> Tensor:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction={reduction!r} must be 'mean' or 'none'")
        p = self._vectors(directions, 2, "directions")
        t = self._tensor(distances)
        t = t.expand(len(p), -1) if t.ndim == 1 else t
        if t.ndim != 2 or len(t) != len(p) or t.shape[1] == 0:
            raise ValueError(f"distances of shape {tuple(t.shape)} must be (T,) or ({len(p)}, T)")
        if self.tail is not None and self.tail.shiftable:
            return self.tail.along(p, t, slopes=slopes, reduction=reduction)
        places = (self.vector + t[:, :, None] * p[:, None]).flatten(0, 1)
        if slopes:
            found = self._swept(places, p.repeat_interleave(t.shape[1], 0), reduction)
        else:
            found = self.losses(places, reduction=reduction)
        return found.view(*t.shape, *found.shape[1:])

    def _swept(self, places: Tensor, tangents: Tensor | None, reduction: Reduction) -> Tensor:
        """Losses at many places (K, N), or their derivatives along one tangent each, in blocks."""

        def each(w: dict[str, Tensor], v: dict[str, Tensor] | None, x: Tensor, y: Tensor) -> Tensor:
            at = partial(self.sample_losses, x=x, y=y)
            return at(w) if v is None else cast(Tensor, _pushed(at, w, v))

        moved = None if tangents is None else 0
        what = "losses at other weights" if moved is None else "slopes"
        every = self.by_torch(what, mapped(each, (0, moved, None, None)))
        together = max(1, min(len(places), NUMBERS // max(self.size, self._widest)))
        samples = max(1, NUMBERS // (together * self._widest))
        parts = []
        with torch.no_grad():
            for first in range(0, len(places), together):
                w = self.split(places[first : first + together])
                v = None if tangents is None else self.split(tangents[first : first + together])
                found = [every(w, v, x, y) for x, y in self.blocks(samples)]
                if reduction == "mean":
                    parts.append(
                        torch.stack([f.sum(1, dtype=torch.float64) for f in found]).sum(0) / self.samples
                    )
                else:
                    parts.append(torch.cat(found, 1))
        return torch.cat(parts)

    def gradients(self, *, memory: int = MEMORY) -> Iterator[Tensor]:
        """Gradients of single samples' losses in blocks (m, N) that take about ``memory`` bytes each."""
        check_whole("memory", memory)
        if self.tail is not None:
            yield from self.tail.gradients(memory=memory)
            return

        def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.sample_losses(w, x[None], y[None])[0]

        one = mapped(grad(loss), (None, 0, 0))
        one = self.by_torch("gradients of single samples", one)
        for x, y in self.blocks(self._fitting(memory, 1)):
            yield _joined(one(self.parameters, x, y).values(), 1)

    def output_gradients(self, *, memory: int = MEMORY) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of outputs (m, K) and of their gradients by the weights, (m, K, N)."""
        check_whole("memory", memory)
        if self.tail is not None:
            yield from self.tail.logit_gradients(memory=memory)
            return
        one = mapped(jacrev(lambda w, x: self._moved(w, x[None])[0]), (None, 0))
        one = self.by_torch("gradients of outputs", one)
        with torch.no_grad():
            for x, _ in self.blocks(self._fitting(memory, self.model(self._cast(self.inputs[:1])).shape[1])):
                yield self.model(x), _joined(one(self.parameters, x).values(), 2)

    def _fitting(self, memory: int, rows: int) -> int:
        """How many samples of so many gradients each fit into memory."""
        numbers = rows * (self.size + self._widest) * torch.finfo(self.dtype).bits // 8
        return max(1, memory // numbers)

    def gradient(self, rows: Tensor | slice | None = None) -> Tensor:
        """∇L of all samples, or of some, shape (N,)."""
        one = self.by_torch("gradient", grad(self._block_loss))
        return self._mean(one, rows=slice(None) if rows is None else rows)

    def hessian_product(self, vectors: Values) -> Tensor:
        """H v for a vector (N,), or for each column of (N, K), forward over reverse mode.

        In the general form a ValueError where H is not symmetric: torch's gradient is then not the derivative
        of the loss, or all of H is rounding.
        """
        V = self._tensor(vectors)
        columns = self.columns(V[:, None] if V.ndim == 1 else V)
        self.check_hessian()
        return self._products(columns).reshape(V.shape)

    def check_hessian(self) -> None:
        """In the general form a ValueError where H is not symmetric."""
        if self.tail is None and not self._symmetric:
            raise ValueError(
                "u·Hv and v·Hu differ: in this model torch's derivatives are not those of the loss "
                "(weight_norm, padding_idx, no_grad or .data inside?), or float32 is too coarse here"
            )

    def _products(self, V: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """H V for columns (N, K)."""

        def product(w: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
            gradient = partial(grad(self._block_loss), x=x, y=y)

            def along(v: dict[str, Tensor]) -> dict[str, Tensor]:
                with suppress(RuntimeError):
                    return cast(dict[str, Tensor], jvp(gradient, (w,), (v,))[1])
                return cast(dict[str, Tensor], vjp(gradient, w)[1](v)[0])  # H is symmetric

            return cast(dict[str, Tensor], mapped(along, (0,))(self.split(V.T)))

        return self._mean(self.by_torch("Hessian products", product), 1, rows).T

    @cached_property
    def _symmetric(self) -> bool:
        """Whether u·Hv = v·Hu for random vectors, on some of the samples."""
        U = self._tensor(torch.randn(self.size, 4, generator=torch.Generator().manual_seed(0)))
        products = self._products(U, self._few)
        S = U.T @ products
        return not bool((S - S.T).abs().max() > _rounding(S) * products.norm(dim=0).max())

    def _block_loss(self, w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a block, of the part of the model that varies."""
        if self.tail is None:
            return self.sample_losses(w, x, y).mean()
        own = dict(zip(self.tail.names, w.values(), strict=True))
        return cross_entropy(functional_call(self.tail.net, own, (x,)), y).mean()

    def _mean(
        self, derivative: Callable[..., dict[str, Tensor]], lead: int = 0, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Mean over samples of a derivative of a block's loss, ``lead`` dimensions before the weights'."""
        x = (self.inputs if self.tail is None else self.tail.inputs)[rows]
        y = _some(self.targets[rows]).to(self.device)
        block = SAMPLES if self.tail is not None else self._block
        total = None
        with torch.no_grad():
            for some, of in zip(x.split(block), y.split(block), strict=True):
                found = derivative(self.parameters, self._cast(some), of)
                part = _joined(found.values(), lead) * (len(of) / len(y))
                total = part if total is None else total + part
        return cast(Tensor, total)


def as_subject(
    measured: Subject | Run | nn.Module,
    inputs: Values | None = None,
    targets: Values | None = None,
    *,
    layer: int | None = None,
) -> Subject:
    """The Subject of a measurement, from a run, or from a model with its data.

    A ValueError is raised if data are missing or given twice, there is no such layer, or a :class:`Subject`
    is refused.

    Parameters
    ----------
    measured : Subject, Run or nn.Module
        A Subject is returned as it is. A run is measured at its weights and on its training data, a model on
        the data given; the loss is the cross-entropy.
    inputs, targets : Tensor or array, shapes (M, …), optional
        The data of a model, and of a model only.
    layer : int, optional
        For a net of layers: only the weights (and biases) of this layer, counted from 0; default all.

    Returns
    -------
    Subject
    """
    if isinstance(measured, Subject):
        if inputs is not None or targets is not None or layer is not None:
            raise ValueError("a Subject has its data and weights: give no inputs, targets or layer beside it")
        return measured
    if isinstance(measured, Run):
        if inputs is not None or targets is not None:
            raise ValueError("a run is measured on its training data; for others give run.net and the data")
        data, measured = measured.data, measured.net
        inputs, targets = data.train_inputs, data.train_labels
    if inputs is None or targets is None:
        raise ValueError("a model is measured on data: give inputs and targets too")
    weights = "all" if layer is None else layer_names(measured, layer)
    return Subject(measured, cast(Tensor, inputs), cast(Tensor, targets), weights=weights)


def layer_names(net: nn.Module, layer: int, *, bias: bool = True) -> list[str]:
    """Names of the weights of one layer of a net of layers, counted from 0, with or without its bias."""
    module = checked_layer(cast(nn.Sequential, net), layer)
    place = weight_layers(cast(nn.Sequential, net))[layer][0]
    return [f"{place}.{name}" for name, _ in module.named_parameters() if bias or name == "weight"]


def step_settings(
    measured: Subject | Run, batch_size: int | None, learning_rate: float | None
) -> tuple[int, float]:
    """B and η: what is given, else those of the run; a ValueError where a Subject leaves them open."""
    if isinstance(measured, Run):
        batch_size = measured.batch_size if batch_size is None else batch_size
        learning_rate = measured.recipe.learning_rate if learning_rate is None else learning_rate
    if batch_size is None or learning_rate is None:
        raise ValueError("a Subject knows no training: give batch_size and learning_rate")
    check_whole("batch_size", batch_size)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate={learning_rate} must be positive and finite")
    return int(batch_size), float(learning_rate)


def numpy(values: Tensor) -> np.ndarray:
    """A tensor, from whichever device, as an array."""
    return values.detach().cpu().numpy()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by its formula: torch's faster forms have no forward derivatives."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def mapped(function: Callable[..., Any], dims: tuple[int | None, ...]) -> Callable[..., Any]:
    """``vmap``; one after the other where torch has no form for many at once, as of recurrent layers."""

    def every(*arguments: Any) -> Any:
        with suppress(RuntimeError):
            return vmap(function, dims)(*arguments)
        pairs = list(zip(arguments, dims, strict=True))
        count = next(len(a if isinstance(a, Tensor) else next(iter(a.values()))) for a, d in pairs if d == 0)
        parts = [function(*(a if d is None else _row(a, i) for a, d in pairs)) for i in range(count)]
        if isinstance(parts[0], dict):
            return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return torch.stack(parts)

    return every


def _row(values: Any, i: int) -> Any:
    """One row of a tensor, or of each in a mapping."""
    return values[i] if isinstance(values, Tensor) else {name: v[i] for name, v in values.items()}


def _pushed(function: Callable[..., Tensor], w: dict[str, Tensor], v: dict[str, Tensor]) -> Tensor:
    """The derivative along v, forwards; twice backwards where torch has no forward derivative."""
    with suppress(RuntimeError):
        return cast(Tensor, jvp(function, (w,), (v,))[1])
    pull = vjp(function, w)[1]
    return cast(Tensor, vjp(lambda u: pull(u)[0], torch.zeros_like(function(w)))[1](v)[0])


def _copied(values: Values, what: str) -> Tensor:
    """Data as a tensor of its own."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    with said(f"{what} must be one tensor or array of numbers, not {kind(values)}"):
        return torch.from_numpy(np.array(values, order="C"))


def _some(targets: Tensor) -> Tensor:
    """The targets; a ValueError where there are none."""
    if not len(targets):
        raise ValueError("the rows chosen hold no samples")
    return targets


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the precision of the outputs; whole numbers stay."""
    return targets.to(outputs.dtype) if targets.is_floating_point() else targets


def _option(loss: Loss, name: str) -> Any:
    """An option of a loss: a module's attribute, or the default of a function's argument; else None."""
    if isinstance(loss, nn.Module):
        return getattr(loss, name, None)
    try:
        found = inspect.signature(loss).parameters.get(name)
    except (TypeError, ValueError):
        return None
    return None if found is None else found.default


def _rounding(values: Tensor) -> float:
    """Relative differences that rounding may leave: 5·10⁻³ in float32, 6·10⁻⁶ in float64."""
    return float(torch.finfo(values.dtype).eps ** (1 / 3))


def _joined(parts, lead: int) -> Tensor:
    """Tensors (…, *shape) as one, flattened and joined behind ``lead`` dimensions."""
    flattened = [p.flatten(lead) for p in parts]
    return flattened[0] if len(flattened) == 1 else torch.cat(flattened, lead)


def _sample_means(each: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """One number per sample, the mean of those that a loss leaves for it."""
    values = each(outputs, targets)
    return values.flatten(1).mean(1) if values.ndim > 1 else values
