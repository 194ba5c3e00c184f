"""Losses and slopes of networks, written out.

A step of a small network is hardly any arithmetic: much of its time goes into keeping a record of what was done, so
that PyTorch can walk back through it.  Of perceptrons and residual convolutional networks the way back is known, and
gone here; other networks are left to PyTorch, and of losses all but cross-entropy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from commonroot.client.model import DepartmentModel
from commonroot.client.perceptron import Perceptron
from commonroot.client.residual import Residual
from commonroot.client.slopes import Body, Linear, Places
from commonroot.client.tasks import Classes, Task
from commonroot.common.backbone import MlpSpec, RescnnSpec

_forward = torch.ops.aten.nll_loss_forward.default
_backward = torch.ops.aten.nll_loss_backward.default
_through_softmax = torch.ops.aten._log_softmax_backward_data.default
#: Of ATen's reductions, and no label that it leaves out.
_MEAN: Final = 1
_SUM: Final = 2
_NO_LABEL: Final = -100


class WrittenOut:
    """A body, β and a head under one loss.

    It reads and moves the memory that the model's tensors have when it is made; they must not be put elsewhere.
    """

    def __init__(self, model: DepartmentModel, body: Body, task: Task) -> None:
        self._body = body
        self._head, self._shift = Linear(model.head), model.shift
        self._beta = None if model.shift is None else model.shift.detach()
        self._task = task
        self._chance = task.chance
        #: The slope of a loss in multiples of chance.
        self._one = torch.from_numpy(np.asarray(np.float32(1) / np.float32(task.chance))).to(model.device)
        self._entropy = isinstance(task, Classes) and type(task).loss is Classes.loss
        weights = task.weights if isinstance(task, Classes) else None
        self._weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=model.device)
        self._of_shift: Tensor | None = None
        self._below = False

    @classmethod
    def of(cls, model: DepartmentModel, task: Task) -> WrittenOut | None:
        """The model with its way back; None where that is left to PyTorch."""
        if model.family is not None or model.per_token:
            return None
        if isinstance(model.spec, MlpSpec):
            return cls(model, Perceptron(model, model.spec), task)
        if isinstance(model.spec, RescnnSpec):
            return cls(model, Residual(model, model.spec), task)
        return None

    def ask(self, places: Places) -> None:
        """Say whose slopes ``slopes`` is to find, by the tensors' ``id``, and where it is to write them."""
        self._head.ask(places)
        self._of_shift = None if self._shift is None else places.get(id(self._shift))
        self._below = self._body.ask(places)

    def outputs(self, x: Tensor) -> Tensor:
        """(n, …) to (n, outputs)."""
        return self._head.forward(self._read(self._body.represent(x)))

    def _read(self, represented: Tensor) -> Tensor:
        """What the head reads."""
        return represented if self._beta is None else represented + self._beta

    def slopes(
        self, x: Tensor, y: Tensor, *, centre: bool, target: Tensor | None, pull: float
    ) -> tuple[Tensor, Tensor | None]:
        """Find the slopes of the loss, in multiples of chance, plus κ‖mean(z) - m̄‖²/d on a batch; the loss as the task
        has it, and mean(z) where ``centre`` asks for it.  Fastest in ``torch.inference_mode``.

        x       (n, …)
        target  m̄, and ``pull`` its κ; no such term without them
        """
        represented, seen = self._body.forward(x)
        read = self._read(represented)
        loss, slope = self._loss(self._head.forward(read), y)
        mean = represented.mean(dim=0) if centre else None
        self._head.tell(slope, read)
        if not self._below and self._of_shift is None:
            return loss, mean
        slope = slope.mm(self._head.first)
        if self._of_shift is not None:
            torch.sum(slope, 0, out=self._of_shift)
        if target is not None and pull:
            slope = slope + _drawn(represented, target, pull)
        if self._below:
            self._body.back(slope, seen)
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
