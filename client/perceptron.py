"""Losses and slopes of a perceptron, written out.

A step of a small network is hardly any arithmetic: nearly all of its time goes into keeping a record of what was done,
so that PyTorch can walk back through it.  For a chain of linear maps the way back is known.  It is gone here with the
very products, sums and functions that PyTorch's derivatives call, so that every bit is the same; other networks are
left to PyTorch, and of losses all but cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from commonroot.client.model import DepartmentModel
from commonroot.client.tasks import Classes, Task
from commonroot.common.backbone import MlpSpec

_forward = torch.ops.aten.nll_loss_forward.default
_backward = torch.ops.aten.nll_loss_backward.default
_through_relu = torch.ops.aten.threshold_backward.default
_through_tanh = torch.ops.aten.tanh_backward.default
_through_softmax = torch.ops.aten._log_softmax_backward_data.default
#: Of ATen's reductions, and no label that it leaves out.
_MEAN: Final = 1
_SUM: Final = 2
_NO_LABEL: Final = -100


@dataclass(slots=True)
class _Linear:
    """One map of the chain, and where its slopes are to lie; None where nobody asks for them."""

    layer: nn.Linear = field(repr=False)
    active: bool = True
    #: What the layer holds, as tensors that nobody records.
    weight: Tensor = field(init=False, repr=False)
    bias: Tensor = field(init=False, repr=False)
    of_weight: Tensor | None = field(default=None, init=False, repr=False)
    of_bias: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.weight, self.bias = self.layer.weight.detach(), self.layer.bias.detach()

    def ask(self, places: Mapping[int, Tensor]) -> bool:
        self.of_weight, self.of_bias = places.get(id(self.layer.weight)), places.get(id(self.layer.bias))
        return self.of_weight is not None or self.of_bias is not None

    def tell(self, slope: Tensor, read: Tensor) -> None:
        if self.of_weight is not None:
            torch.mm(slope.t(), read, out=self.of_weight)
        if self.of_bias is not None:
            torch.sum(slope, 0, out=self.of_bias)


class Perceptron:
    """A model that is a chain: adapter, layers with their activations, β, head.

    It reads and moves the memory that the model's tensors have when it is made; they must not be put elsewhere.
    """

    def __init__(self, model: DepartmentModel, spec: MlpSpec, task: Task) -> None:
        layers = [_Linear(layer) for layer in model.backbone.layers]  # type: ignore[union-attr]
        first = [] if model.adapter is None else [_Linear(model.adapter, active=False)]
        self._below = [*first, *layers]
        self._head, self._shift = _Linear(model.head), model.shift
        self._beta = None if model.shift is None else model.shift.detach()
        self._relu = spec.activation == "relu"
        self._activation = torch.relu if self._relu else torch.tanh
        self._task = task
        self._chance = task.chance
        #: The slope of a loss in multiples of chance.
        self._one = torch.from_numpy(np.asarray(np.float32(1) / np.float32(task.chance))).to(model.device)
        self._entropy = isinstance(task, Classes) and type(task).loss is Classes.loss
        weights = task.weights if isinstance(task, Classes) else None
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=model.device)
        self._of_shift: Tensor | None = None
        self._lowest = 0

    @classmethod
    def of(cls, model: DepartmentModel, task: Task) -> Perceptron | None:
        """The model as a chain; None where it is none."""
        spec = model.spec
        if isinstance(spec, MlpSpec) and model.family is None and not model.per_token:
            return cls(model, spec, task)
        return None

    def ask(self, places: Mapping[int, Tensor]) -> None:
        """Say whose slopes ``slopes`` is to find, by the tensors' ``id``, and where it is to write them."""
        self._head.ask(places)
        self._of_shift = None if self._shift is None else places.get(id(self._shift))
        asked = [at for at, layer in enumerate(self._below) if layer.ask(places)]
        self._lowest = min(asked, default=len(self._below))

    def outputs(self, x: Tensor) -> Tensor:
        """(n, columns) to (n, outputs)."""
        return self._answers(self._read(self._seen(x)[-1]))

    def _seen(self, x: Tensor) -> list[Tensor]:
        """What each map reads, and last the representation."""
        seen = [x]
        for layer in self._below:
            out = F.linear(seen[-1], layer.weight, layer.bias)
            seen.append(self._activation(out) if layer.active else out)
        return seen

    def _read(self, represented: Tensor) -> Tensor:
        """What the head reads."""
        return represented if self._beta is None else represented + self._beta

    def _answers(self, read: Tensor) -> Tensor:
        return F.linear(read, self._head.weight, self._head.bias)

    def slopes(
        self, x: Tensor, y: Tensor, *, centre: bool, target: Tensor | None, pull: float
    ) -> tuple[Tensor, Tensor | None]:
        """Find the slopes of the loss, in multiples of chance, plus κ‖mean(z) - m̄‖²/d on a batch; the loss as the task
        has it, and mean(z) where ``centre`` asks for it.  Fastest in ``torch.inference_mode``.

        x       (n, columns)
        target  m̄, and ``pull`` its κ; no such term without them
        """
        seen = self._seen(x)
        represented = seen[-1]
        read = self._read(represented)
        loss, slope = self._loss(self._answers(read), y)
        mean = represented.mean(dim=0) if centre else None
        self._head.tell(slope, read)
        if self._lowest == len(self._below) and self._of_shift is None:
            return loss, mean
        slope = slope.mm(self._head.weight)
        if self._of_shift is not None:
            torch.sum(slope, 0, out=self._of_shift)
        if target is not None and pull:
            slope = slope + _drawn(represented, target, pull)
        for at in range(len(self._below) - 1, self._lowest - 1, -1):
            layer = self._below[at]
            if layer.active:
                slope = _through_relu(slope, seen[at + 1], 0) if self._relu else _through_tanh(slope, seen[at + 1])
            layer.tell(slope, seen[at])
            if at > self._lowest:
                slope = slope.mm(layer.weight)
        return loss, mean

    def _loss(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its slope over outputs in multiples of chance."""
        if not self._entropy:
            with torch.inference_mode(False):
                held, targets = outputs.clone().requires_grad_(), y.clone()
                loss = self._task.loss(held, targets)
                [slope] = torch.autograd.grad(loss / self._chance, [held])
            return loss.detach(), slope
        logs = torch._log_softmax(outputs, 1, False)
        if self._weights is None:
            loss, weight = _forward(logs, y, None, _MEAN, _NO_LABEL)
            slope = _backward(self._one, logs, y, None, _MEAN, _NO_LABEL, weight)
        else:
            loss, weight = _forward(logs, y, self._weights, _SUM, _NO_LABEL)
            loss = loss / len(y)
            slope = _backward(self._one / len(y), logs, y, self._weights, _SUM, _NO_LABEL, weight)
        return loss, _through_softmax(slope, logs, 1, torch.float32)


def _drawn(represented: Tensor, target: Tensor, pull: float) -> Tensor:
    """The slope of κ‖mean(z) - m̄‖²/d over z."""
    with torch.inference_mode(False):
        held = represented.clone().requires_grad_()
        [slope] = torch.autograd.grad(pull * (held.mean(dim=0) - target).square().mean(), [held])
    return slope
