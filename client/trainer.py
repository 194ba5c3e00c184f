"""Local training: one plain loop that carries out a strategy's plan on a department's rows.

Everything private goes in and comes out as arrays (``Private``), so the caller decides where it is kept; nothing is
held between calls, and the same arguments give the same numbers.  Rows are visited in an order drawn from the
department's secret and the version being trained, so a repeated round repeats exactly.

The loss is the task's mean loss divided by its chance loss, plus λ/2 ‖θ - θ_0‖² where a phase asks for it (L2-SP,
Li, Grandvalet, Davoine, 2018, arXiv:1802.01483).  Steps are SGD with heavy-ball momentum, or Adam, on a clipped
gradient.  What is private beside the head (an adapter, private tensors inside the backbone) moves with the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from commonroot.client.data import Rows, learnable
from commonroot.client.model import DepartmentModel, check_rows, evaluate, initial_adapter, initial_head
from commonroot.client.steps import Flat, Loop, Source, mean_loss, own_dice
from commonroot.client.tasks import Task
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, TrainingDiverged
from commonroot.strategies.base import LocalResult, Part, Phase, Tensors
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS, COMMON_HEAD_WEIGHT

#: What a department keeps between rounds: ``head/weight``, ``head/bias``, ``adapter/…`` where there is one and, after
#: training with momentum, ``optimizer/head``, that of all these together.
Private = dict[str, NDArray[np.float32]]
HEAD_MOMENTUM: Final = "optimizer/head"
EVERYTHING: Final[frozenset[Part]] = frozenset({"backbone", "head"})


@dataclass(frozen=True, slots=True)
class Net:
    """A trained network as arrays: ``backbone`` by the names of the charter, ``head`` with ``weight`` and ``bias``.

    adapter    with ``weight`` and ``bias`` where the charter has one; private tensors of the backbone by their names
    per_token  the head labels tokens
    """

    backbone: dict[str, NDArray[np.float32]] = field(repr=False)
    head: dict[str, NDArray[np.float32]] = field(repr=False)
    adapter: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    per_token: bool = False

    @property
    def private(self) -> Private:
        """``head/…`` and ``adapter/…``: the part that a department keeps to itself."""
        return _under("head", self.head) | _under("adapter", self.adapter)


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
    columns      of this department's rows; needed where the charter's backbone has an adapter
    """

    draft: Draft
    task: Task
    secret: int = field(repr=False)
    shared_head: bool = False
    columns: int | None = None

    def start(self) -> Private:
        """The private state before the first round.  Raises ConfigError where an adapter's columns are not known."""
        return _first(self.draft, self.task, None, secret=self.secret, columns=self.columns).private

    def net(self, received: Tensors, private: Private) -> Net:
        """Broadcast and private state as one network.  Raises ConfigError where a shared head fits another task."""
        spec = self.draft.network
        backbone = {name: np.asarray(received[name]) for name, _ in spec.shapes()}
        adapter = {k.removeprefix("adapter/"): v for k, v in private.items() if k.startswith("adapter/")}
        tokens = self.task.per_token
        if not self.shared_head:
            head = {name: private[f"head/{name}"] for name in ("weight", "bias")}
            return Net(backbone, head, adapter, tokens)
        weight, bias = received[COMMON_HEAD_WEIGHT], received[COMMON_HEAD_BIAS]
        if len(bias) != self.task.outputs:
            raise ConfigError(
                f"the charter shares a head of {len(bias)} outputs; this department's task has {self.task.outputs}",
                hint='every department needs the same labels with head = "shared"; use a method with private heads',
            )
        return Net(backbone, {"weight": np.asarray(weight), "bias": np.asarray(bias)}, adapter, tokens)

    def check(self, received: Tensors, rows: Rows) -> None:
        """Raise ConfigError or DataError where the task or rows do not fit the charter's backbone.

        Raises BackboneMissing or BackboneMismatch where the backbone cannot be built here.
        """
        check_rows(self.draft.network, rows.x)
        _model(self.draft, self.task, self.net(received, self.start()), self.columns)

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

        Raises TrainingDiverged where a loss or tensor is not finite; DataError where rows do not fit the backbone.
        """
        rows = learnable(self.task, rows)
        held_out = None if held_out is None else learnable(self.task, held_out)
        model = _model(self.draft, self.task, self.net(received, private), self.columns)
        source = Source(model, self.task, rows)
        scored = Source(model, self.task, held_out) if held_out is not None and len(held_out) else source
        before = mean_loss(model, self.task, scored)
        momentum = private.get(HEAD_MOMENTUM)
        velocity = None if momentum is None else torch.from_numpy(np.array(momentum, dtype=np.float32))
        random = np.random.default_rng([0x747261696E, self.secret, version])
        loop = Loop(model, self.task, self.draft.training, random, head_velocity=velocity)
        after = None
        with own_dice(0x747261696E, self.secret, version):
            for phase in phases:
                loop.begin(phase)
                for _ in range(phase.epochs):
                    after = loop.epoch(source)
        if after is None:
            after = mean_loss(model, self.task, source)
        _finite(before, after, model)
        net = _exported(model)
        shared: dict[str, NDArray[np.float32]] = dict(net.backbone)
        if self.shared_head:
            shared |= {COMMON_HEAD_WEIGHT: net.head["weight"], COMMON_HEAD_BIAS: net.head["bias"]}
        kept = net.private
        if self.draft.training.optimizer == "sgd":
            # the backbone's momentum is dropped: the sum moves on from elsewhere
            kept[HEAD_MOMENTUM] = loop.head.velocity.numpy()
        return Trained(LocalResult(shared, len(rows), after, before), kept, net)


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

    Raises TrainingDiverged where a loss or tensor is not finite; DataError where rows do not fit the backbone.
    """
    rows = learnable(task, rows)
    model = _fresh(draft, task, rows, secret=secret)
    random = np.random.default_rng([0x7477696E, secret])
    loop = Loop(model, task, draft.training, random)
    loop.begin(Phase(parts=EVERYTHING, epochs=max(epochs)))
    source = Source(model, task, rows)
    curve = []
    done, loss = 0, 0.0
    with own_dice(0x7477696E, secret):
        for goal in sorted(epochs):
            for _ in range(goal - done):
                loss = loop.epoch(source)
            done = goal
            if held_out is not None:
                curve.append(evaluate(model, held_out.x))
    _finite(loss, loss, model)
    return Twin(tuple(sorted(epochs)), tuple(curve), _exported(model))


def train_pooled(
    draft: Draft, departments: Sequence[tuple[Task, Rows]], *, secret: int, epochs: int
) -> tuple[Net, ...]:
    """The centralised reference: one backbone, and a head and adapter per department, trained on everybody's rows.

    Every step takes a batch of one department and moves the backbone and what is that department's own (multi-task
    learning, Caruana, 1997).  No deployed federation can run this; it says what perfect sharing would give.
    """
    departments = [(task, learnable(task, rows)) for task, rows in departments]
    loops: list[Loop] = []
    random = np.random.default_rng([0x706F6F6C, secret])
    common: Flat | None = None
    for at, (task, rows) in enumerate(departments):
        model = _fresh(draft, task, rows, secret=secret + at)
        loops.append(Loop(model, task, draft.training, random, backbone=common))
        common = loops[0].backbone
    for loop in loops:
        loop.begin(Phase(parts=EVERYTHING, epochs=epochs))
    sources = [Source(loop.model, *department) for loop, department in zip(loops, departments, strict=True)]
    loss = 0.0
    with own_dice(0x706F6F6C, secret):
        for loop in loops:
            loop.model.train()
        for _ in range(epochs):
            steps = [(at, batch) for at, loop in enumerate(loops) for batch in loop.batches(len(sources[at]))]
            for step in random.permutation(len(steps)):
                at, batch = steps[int(step)]
                loss = float(loops[at].step(*sources[at].take(batch)))
    for loop in loops:
        loop.model.eval()
        _finite(loss, loss, loop.model)
    return tuple(_exported(loop.model) for loop in loops)


def represent(
    draft: Draft,
    backbone: Mapping[str, NDArray[Any]],
    x: NDArray[Any],
    private: Mapping[str, NDArray[Any]] | None = None,
    *,
    tokens: bool = False,
) -> NDArray[np.float32]:
    """What the backbone makes of rows: (n, …) to (n, outputs) float32, or (n, length, outputs) of ``tokens``.

    private  as a department keeps it; its ``adapter/…`` is used where the charter has one
    """
    spec = draft.network
    adapter = {k.removeprefix("adapter/"): v for k, v in (private or {}).items() if k.startswith("adapter/")}
    model = DepartmentModel(spec, 1, columns=x.shape[-1], per_token=tokens)
    model.load(backbone, initial_head(spec, 1, 0), adapter)
    return evaluate(model, x, representation=True)


def _first(draft: Draft, task: Task, rows: Rows | None, *, secret: int, columns: int | None = None) -> Net:
    """The network before any training: the charter's first backbone, under a head of the department's own seed."""
    spec, seed = draft.network, draft.training.seed
    columns = rows.x.shape[-1] if rows is not None else columns
    head, adapter = initial_head(spec, task.outputs, secret), initial_adapter(spec, columns, seed)
    return Net({} if rows is None else spec.initial(seed), head, adapter, task.per_token)


def _fresh(draft: Draft, task: Task, rows: Rows, *, secret: int) -> DepartmentModel:
    return _model(draft, task, _first(draft, task, rows, secret=secret), rows.x.shape[-1])


def _model(draft: Draft, task: Task, net: Net, columns: int | None) -> DepartmentModel:
    model = DepartmentModel(draft.network, task.outputs, columns=columns, per_token=net.per_token)
    model.load(net.backbone, net.head, net.adapter)
    return model


def _exported(model: DepartmentModel) -> Net:
    return Net(model.export_backbone(), model.export_head(), model.export_adapter(), model.per_token)


def _under(part: str, arrays: Mapping[str, NDArray[np.float32]]) -> Private:
    return {f"{part}/{name}": array for name, array in arrays.items()}


def _finite(before: float, after: float, model: DepartmentModel) -> None:
    trained = (*model.shared.values(), *model.private.values())
    tensors = all(bool(torch.isfinite(parameter).all()) for parameter in trained)
    if not (math.isfinite(before) and math.isfinite(after) and tensors):
        raise TrainingDiverged("local training ended in values that are not finite; nothing was sent")
