"""Local training: one plain loop that carries out a strategy's plan on a department's rows.

Everything private goes in and comes out as arrays (``Private``), so the caller decides where it is kept; nothing is
held between calls, and the same arguments give the same numbers.  Rows are visited in an order drawn from the
department's secret and the version being trained, so a repeated round repeats exactly.

The loss is the task's mean loss divided by its chance loss, plus λ/2 ‖θ - θ_0‖² where a phase asks for it (L2-SP,
Li, Grandvalet, Davoine, 2018, arXiv:1802.01483).  Steps are SGD with heavy-ball momentum and a clipped gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commonroot.client.data import Rows
from commonroot.client.model import DepartmentModel, initial_head
from commonroot.client.tasks import Task
from commonroot.common.charter import Draft, Training
from commonroot.common.errors import ConfigError, TrainingDiverged
from commonroot.strategies.base import LocalResult, Part, Phase, Tensors
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS, COMMON_HEAD_WEIGHT

#: What a department keeps between rounds: ``head/weight``, ``head/bias`` and, after training, ``optimizer/head``.
Private = dict[str, NDArray[np.float32]]
HEAD_MOMENTUM: Final = "optimizer/head"
EVERYTHING: Final[frozenset[Part]] = frozenset({"backbone", "head"})


@dataclass(frozen=True, slots=True)
class Net:
    """A trained network as arrays: ``backbone`` by the names of the charter, ``head`` with ``weight`` and ``bias``."""

    backbone: dict[str, NDArray[np.float32]] = field(repr=False)
    head: dict[str, NDArray[np.float32]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a plan produced.

    result   for the strategy's ``contribute``; stays inside the department
    private  to be kept for the next round
    net      the network after training
    """

    result: LocalResult = field(repr=False)
    private: Private = field(repr=False)
    net: Net = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trainer:
    """A department's way of training under one charter.

    secret       the department's own seed; decides its first head and the order of rows
    shared_head  the strategy's ``shares_head``
    """

    draft: Draft
    task: Task
    secret: int = field(repr=False)
    shared_head: bool = False

    def start(self) -> Private:
        """The private state before the first round."""
        head = initial_head(self.draft.network, self.task.outputs, self.secret)
        return {f"head/{name}": array for name, array in head.items()}

    def net(self, received: Tensors, private: Private) -> Net:
        """Broadcast and private state as one network.  Raises ConfigError where a shared head fits another task."""
        backbone = {name: np.asarray(received[name]) for name, _ in self.draft.network.shapes()}
        if not self.shared_head:
            return Net(backbone, {name: private[f"head/{name}"] for name in ("weight", "bias")})
        weight, bias = received[COMMON_HEAD_WEIGHT], received[COMMON_HEAD_BIAS]
        if len(bias) != self.task.outputs:
            raise ConfigError(
                f"the charter shares a head of {len(bias)} outputs; this department's task has {self.task.outputs}",
                hint='every department needs the same labels with head = "shared"; use a method with private heads',
            )
        return Net(backbone, {"weight": np.asarray(weight), "bias": np.asarray(bias)})

    def train(
        self,
        phases: Sequence[Phase],
        received: Tensors,
        private: Private,
        rows: Rows,
        held_out: Rows | None,
        *,
        version: int,
    ) -> Trained:
        """Carry out a plan from a broadcast.

        rows      training rows
        held_out  rows on which the *received* network is scored; None or empty scores it on ``rows``
        version   of the broadcast; any number that is never reused for other contents

        Raises TrainingDiverged where a loss or tensor is not finite.
        """
        model = DepartmentModel(self.draft.network, self.task.outputs)
        received_net = self.net(received, private)
        model.load(received_net.backbone, received_net.head)
        scored = held_out if held_out is not None and len(held_out) else rows
        before = self.mean_loss(model, scored)
        momentum = private.get(HEAD_MOMENTUM)
        velocity = None if momentum is None else torch.from_numpy(np.array(momentum, dtype=np.float32))
        random = np.random.default_rng([0x747261696E, self.secret, version])
        loop = _Loop(model, self.task, self.draft.training, random, head_velocity=velocity)
        after = None
        x, y = _tensors(self.task, rows)
        for phase in phases:
            loop.begin(phase)
            for _ in range(phase.epochs):
                after = loop.epoch(x, y)
        if after is None:
            after = self.mean_loss(model, rows)
        _finite(before, after, model)
        net = Net(model.export_backbone(), model.export_head())
        shared: dict[str, NDArray[np.float32]] = dict(net.backbone)
        if self.shared_head:
            shared |= {COMMON_HEAD_WEIGHT: net.head["weight"], COMMON_HEAD_BIAS: net.head["bias"]}
        kept = {f"head/{name}": array for name, array in net.head.items()}
        # the backbone's momentum is dropped: the sum moves on from elsewhere
        kept[HEAD_MOMENTUM] = loop.head.velocity.numpy()
        return Trained(LocalResult(shared, len(rows), after, before), kept, net)

    def mean_loss(self, model: DepartmentModel, rows: Rows) -> float:
        """Mean loss over rows, divided by the chance loss."""
        x, y = _tensors(self.task, rows)
        with torch.inference_mode():
            return float(self.task.loss(model(x), y)) / self.task.chance


@dataclass(frozen=True, slots=True)
class Twin:
    """The network a department trains alone: a curve while it is being looked at, and a net.

    epochs   passes at each point of the curve
    outputs  head outputs of the held-out rows at each point
    net      after the last pass
    """

    epochs: tuple[int, ...]
    outputs: tuple[NDArray[np.float32], ...] = field(repr=False)
    net: Net = field(repr=False)


def train_alone(
    draft: Draft, task: Task, rows: Rows, held_out: Rows | None, *, secret: int, epochs: Sequence[int]
) -> Twin:
    """The local twin: the same network from the same first backbone, trained on one department's rows alone.

    epochs  ascending; the net is scored on ``held_out`` after each of these many passes, and training ends at the last

    Raises TrainingDiverged where a loss or tensor is not finite.
    """
    model = DepartmentModel(draft.network, task.outputs)
    head = initial_head(draft.network, task.outputs, secret)
    model.load(draft.network.initial(draft.training.seed), head)
    random = np.random.default_rng([0x7477696E, secret])
    loop = _Loop(model, task, draft.training, random)
    loop.begin(Phase(parts=EVERYTHING, epochs=max(epochs)))
    x, y = _tensors(task, rows)
    curve = []
    done, loss = 0, 0.0
    for goal in sorted(epochs):
        for _ in range(goal - done):
            loss = loop.epoch(x, y)
        done = goal
        if held_out is not None:
            curve.append(_outputs(model, held_out))
    _finite(loss, loss, model)
    return Twin(tuple(sorted(epochs)), tuple(curve), Net(model.export_backbone(), model.export_head()))


def train_pooled(
    draft: Draft, departments: Sequence[tuple[Task, Rows]], *, secret: int, epochs: int
) -> tuple[Net, ...]:
    """The centralised reference: one backbone and one head per department, trained on everybody's rows together.

    Every step takes a batch of one department and moves the backbone and that department's head (multi-task learning,
    Caruana, 1997).  No deployed federation can run this; it says what perfect sharing would give.
    """
    backbone = draft.network.initial(draft.training.seed)
    loops: list[_Loop] = []
    random = np.random.default_rng([0x706F6F6C, secret])
    for at, (task, _) in enumerate(departments):
        model = DepartmentModel(draft.network, task.outputs)
        model.load(backbone, initial_head(draft.network, task.outputs, secret + at))
        if loops:
            model.backbone = loops[0].model.backbone
        common = loops[0].backbone if loops else None
        loops.append(_Loop(model, task, draft.training, random, backbone=common))
    for loop in loops:
        loop.begin(Phase(parts=EVERYTHING, epochs=epochs))
    tensors = [_tensors(task, rows) for task, rows in departments]
    loss = 0.0
    for _ in range(epochs):
        steps = [(at, batch) for at, loop in enumerate(loops) for batch in loop.batches(len(departments[at][1]))]
        for step in random.permutation(len(steps)):
            at, batch = steps[int(step)]
            x, y = tensors[at]
            loss = float(loops[at].step(x[batch], y[batch]))
    for loop in loops:
        _finite(loss, loss, loop.model)
    return tuple(Net(loop.model.export_backbone(), loop.model.export_head()) for loop in loops)


def represent(draft: Draft, backbone: Mapping[str, NDArray[Any]], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the backbone makes of standardised rows: (n, inputs) to (n, widths[-1]) float32."""
    hidden = x
    for at in range(len(draft.network.widths)):
        hidden = hidden @ backbone[f"layers.{at}.weight"].T + backbone[f"layers.{at}.bias"]
        hidden = np.maximum(hidden, 0) if draft.network.activation == "relu" else np.tanh(hidden)
    return hidden.astype(np.float32)


class _Flat:
    """The tensors of one part as one vector, so that a step costs a few operations however many layers there are."""

    def __init__(self, module: nn.Module, velocity: Tensor | None = None) -> None:
        self.tensors = list(module.parameters())
        self.vector = torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])
        self.first = self.vector.clone()
        self.velocity = torch.zeros_like(self.vector) if velocity is None else velocity
        at = 0
        for tensor in self.tensors:
            tensor.data = self.vector[at : at + tensor.numel()].view(tensor.shape)  # a view: moving one moves both
            at += tensor.numel()


class _Loop:
    """SGD over a model; torch.optim would do, but it loads a compiler at its first step."""

    def __init__(
        self,
        model: DepartmentModel,
        task: Task,
        training: Training,
        random: np.random.Generator,
        *,
        head_velocity: Tensor | None = None,
        backbone: _Flat | None = None,
    ) -> None:
        self.model, self.task, self.training, self.random = model, task, training, random
        self.backbone = _Flat(model.backbone) if backbone is None else backbone
        self.head = _Flat(model.head, head_velocity)
        self._moving: list[_Flat] = []
        self._anchor = 0.0
        self._rate = training.learning_rate

    def begin(self, phase: Phase) -> None:
        """Freeze everything but the phase's parts."""
        self._moving = []
        parts: tuple[tuple[Part, _Flat], ...] = (("backbone", self.backbone), ("head", self.head))
        for part, flat in parts:
            for tensor in flat.tensors:
                tensor.requires_grad_(part in phase.parts)
            if part in phase.parts:
                self._moving.append(flat)
        self._anchor = phase.anchor
        self._rate = phase.rate * self.training.learning_rate

    def batches(self, n: int) -> list[Tensor]:
        """One pass over n rows in a random order, in batches whose sizes differ by one at most."""
        order = torch.from_numpy(self.random.permutation(n))
        return list(torch.tensor_split(order, math.ceil(n / self.training.batch)))

    def epoch(self, x: Tensor, y: Tensor) -> float:
        """One pass; the mean loss over its rows, before each row's step."""
        total = torch.zeros(())
        for batch in self.batches(len(y)):
            total += self.step(x[batch], y[batch]) * len(batch)
        return float(total) / len(y)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on one batch; its loss."""
        training = self.training
        loss = self.task.loss(self.model(x), y) / self.task.chance
        found = iter(torch.autograd.grad(loss, [tensor for flat in self._moving for tensor in flat.tensors]))
        with torch.no_grad():
            gradients = [torch.cat([next(found).reshape(-1) for _ in flat.tensors]) for flat in self._moving]
            squares = torch.zeros(())
            for flat, gradient in zip(self._moving, gradients, strict=True):
                if self._anchor and flat is self.backbone:
                    gradient.add_(flat.vector - flat.first, alpha=self._anchor)
                squares += torch.dot(gradient, gradient)
            factor = torch.clamp(training.gradient_clip / (squares.sqrt() + 1e-12), max=1.0)
            for flat, gradient in zip(self._moving, gradients, strict=True):
                gradient.mul_(factor).add_(flat.vector, alpha=training.weight_decay)
                flat.velocity.mul_(training.momentum).add_(gradient)
                flat.vector.sub_(flat.velocity, alpha=self._rate)
        return loss.detach()


def _tensors(task: Task, rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.x), torch.from_numpy(task.targets(rows.y))


def _outputs(model: DepartmentModel, rows: Rows) -> NDArray[np.float32]:
    with torch.inference_mode():
        out: NDArray[np.float32] = model(torch.from_numpy(rows.x)).numpy()
        return out


def _finite(before: float, after: float, model: DepartmentModel) -> None:
    tensors = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if not (math.isfinite(before) and math.isfinite(after) and tensors):
        raise TrainingDiverged("local training ended in values that are not finite; nothing was sent")
