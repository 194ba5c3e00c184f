"""Local training: one plain loop that carries out a strategy's plan on a department's rows.

Everything private goes in and comes out as arrays (``Private``), so the caller decides where it is kept; nothing is
held between calls, and the same arguments give the same numbers.  Rows are visited in an order drawn from the
department's secret and the version being trained, so a repeated round repeats exactly.

The loss is the task's mean loss divided by its chance loss, plus λ/2 ‖θ - θ_0‖² where a phase asks for it (L2-SP,
Li, Grandvalet, Davoine, 2018, arXiv:1802.01483).  Steps are SGD with heavy-ball momentum, or Adam, on a clipped
gradient.  What is private beside the head (an adapter, private tensors inside the backbone) moves with the head.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from commonroot.client.data import Rows, learnable
from commonroot.client.model import HEAD, DepartmentModel, check_rows, evaluate, workbench
from commonroot.client.nets import HEAD_MOMENTUM as HEAD_MOMENTUM
from commonroot.client.nets import Net as Net
from commonroot.client.nets import Private as Private
from commonroot.client.nets import exported, first_private, loaded, part, under, with_missing
from commonroot.client.nets import represent as represent
from commonroot.client.steps import Flat, Loop, Source, own_dice
from commonroot.client.tasks import Classes, Task
from commonroot.client.unlabelled import Critic, trusted_labels
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, TrainingDiverged
from commonroot.strategies.averaging import LOSS_LIMIT
from commonroot.strategies.base import PLAIN, Form, LocalResult, Part, Phase, Tensors
from commonroot.strategies.consensus import KNOWN, MEAN
from commonroot.strategies.families import family_tensors
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS
from commonroot.strategies.self_training import SHARES

EVERYTHING: Final[frozenset[Part]] = frozenset({"backbone", "head"})
#: Where a department's own copy of the network lies in its private state.
COPY: Final = "twin"


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
    form         the strategy's, for this department
    labelled     whether the rows have labels; where not, training moves by what needs none (``unlabelled``)
    """

    draft: Draft
    task: Task
    secret: int = field(repr=False)
    shared_head: bool = False
    columns: int | None = None
    form: Form = PLAIN
    labelled: bool = True

    def start(self) -> Private:
        """The private state before the first round.  Raises ConfigError where an adapter's columns are not known."""
        form = replace(self.form, head=self.shared_head)
        first = first_private(self.draft, self.task, secret=self.secret, columns=self.columns, form=form)
        if self.labelled:
            return first
        # nothing trains a head of its own, so beside a family's it says nothing
        return {name: np.zeros_like(array) if name.startswith("head/") else array for name, array in first.items()}

    def net(self, received: Tensors, private: Private) -> Net:
        """Broadcast and private state as one network.  Raises ConfigError where a shared head fits another task."""
        return exported(self._model(received, private))

    def check(self, received: Tensors, rows: Rows) -> None:
        """Raise ConfigError or DataError where the task or rows do not fit the charter's backbone.

        Raises BackboneMissing or BackboneMismatch where the backbone cannot be built here.
        """
        check_rows(self.draft.network, rows.x)
        self._model(received, self.start())

    def in_family(self, received: Tensors) -> bool:
        """Does the broadcast hold a head of this department's family?"""
        return self._family(received) is not None

    def own_head(self, received: Tensors, head: Mapping[str, NDArray[np.float32]]) -> Private:
        """The private head under which all heads together are ``head``: what a family's head says is taken off it."""
        family = self._family(received)
        if family is not None:
            head = {name: head[name] - received[there] for name, there in zip(HEAD, family, strict=True)}
        return under("head", head)

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
        held_out  rows on which the *received* network is scored, where the charter has this version scored; None or
                  empty scores it on ``rows``
        version   of the broadcast; any number that is never reused for other contents

        Raises TrainingDiverged where a loss or tensor is not finite; DataError where rows do not fit the backbone.
        """
        rows = learnable(self.task, rows)
        held_out = None if held_out is None else learnable(self.task, held_out)
        model = self._model(received, private)
        source = Source(model, self.task, rows)
        scored = Source(model, self.task, held_out) if held_out is not None and len(held_out) else source
        dice = (0x747261696E, self.secret, version)
        loop = self._loop(model, received, dice, private.get(HEAD_MOMENTUM))
        before = loop.mean_loss(scored) if self.labelled and self.draft.scores(version) else 0.0
        if not math.isfinite(before):  # hopeless; whether to train must not depend on which versions are scored
            before = LOSS_LIMIT
        label_losses = None
        if self.form.label_evidence and version == self.draft.rounds - 1:
            phases, label_losses = (), self._label_losses(model, held_out)
        critic, trusted = Critic.of(received), 0.0
        seen = None if critic is None else evaluate(model, rows.x, representation=True)
        if not self.labelled:
            trusted = max((phase.trust for phase in phases), default=0.0) * min(1.0, version / self.draft.rounds)
            source = Source(model, self.task, self._trusted(model, received, rows, trusted, every=critic is not None))
        after = _carried_out(loop, [phase for phase in phases if not phase.copy and len(source)], source, dice)
        if after is None:
            after = loop.mean_loss(source) if self.labelled else 0.0
        _finite(after, loop)
        kept = model.export_private()
        if self.draft.training.optimizer == "sgd" and loop.head.part.tensors:
            # the backbone's momentum is dropped: the sum moves on from elsewhere
            kept[HEAD_MOMENTUM] = loop.head.velocity.cpu().numpy()
        centre = None if loop.centre is None else loop.centre.cpu().numpy()
        result = LocalResult(
            model.export_shared(),
            len(rows),
            after,
            before,
            centre,
            self.labelled,
            seen,
            self._shares(rows),
            trusted,
            label_losses,
        )
        copying = [phase for phase in phases if phase.copy]
        if not copying:
            return Trained(result, kept | under(COPY, part(COPY, private)), exported(model))
        copy = self._copy(received, private, copying, rows, (*dice, 1))
        mine = under("shared", copy.export_shared()) | copy.export_private()
        return Trained(result, kept | under(COPY, mine), exported(copy))

    def _model(self, received: Tensors, private: Mapping[str, NDArray[Any]], place: int = 0) -> DepartmentModel:
        """Broadcast and private state as a network that can be trained, until the next is asked for in its place."""
        spec, task, family = self.draft.network, self.task, self._family(received)
        for what, name in (
            ("a head", COMMON_HEAD_BIAS if self.shared_head else None),
            (f"the head of family {self.form.family!r}", None if family is None else family[1]),
        ):
            if name is not None and len(received[name]) != task.outputs:
                raise ConfigError(
                    f"the charter shares {what} of {len(received[name])} outputs; this department's task has "
                    f"{task.outputs}",
                    hint="whoever shares a head needs the same labels; a private head beside none needs nothing alike",
                )
        form = replace(self.form, head=self.shared_head, family=None if family is None else self.form.family)
        model = workbench(spec, task.outputs, self.columns, task.per_token, form, place)
        model.take(received, with_missing(spec, form, received, private))
        return model

    def _trusted(self, model: DepartmentModel, received: Tensors, rows: Rows, trusted: float, *, every: bool) -> Rows:
        """Rows without labels under those that the received model gives them; -1, or left out, where it is not trusted.

        every  keep rows that are not trusted: there is something to learn from them without labels
        """
        if trusted:
            said = self.task.predictive(evaluate(model, rows.x))
            rows = Rows(rows.x, trusted_labels(said, received[SHARES], trusted))
        return rows if every else rows.take(np.flatnonzero(rows.y >= 0))

    def _shares(self, rows: Rows) -> NDArray[np.float64] | None:
        """Share of each label in the training rows, where the method asks.  Raises ConfigError for other targets."""
        if not self.form.unlabelled or not self.labelled:
            return None
        if self.task.learns != "label":
            raise ConfigError(
                f"this method adapts a model of labels, and a {self.task.kind} has none",
                hint="another method, or a binary task or classification",
            )
        labels = 2 if self.task.outputs == 1 else self.task.outputs
        return np.bincount(rows.y, minlength=labels) / len(rows)

    def _label_losses(self, model: DepartmentModel, held_out: Rows | None) -> NDArray[np.float64]:
        """Mean loss by label, NaN for labels without rows.  Raises ConfigError for other targets."""
        if not isinstance(self.task, Classes):
            raise ConfigError(
                f"the charter tells of labels, and a {self.task.kind} has none", hint="label_evidence = false"
            )
        labels = len(self.task.labels)
        if held_out is None or not len(held_out) or not self.labelled:
            return np.full(labels, np.nan)
        losses = self.task.unweighted(self.task.predictive(evaluate(model, held_out.x)), held_out.y)
        rows = np.bincount(held_out.y, minlength=labels)
        summed = np.bincount(held_out.y, losses, minlength=labels)
        return np.where(rows > 0, summed / np.maximum(rows, 1), np.nan)

    def _copy(
        self, received: Tensors, private: Private, phases: Sequence[Phase], rows: Rows, dice: tuple[int, ...]
    ) -> DepartmentModel:
        """The department's own copy of the network, trained near the broadcast; it begins as that under its head."""
        own = part(COPY, private)
        copy = self._model({**received, **part("shared", own)}, own or private, 1)
        loop = self._loop(copy, received, dice, None)
        loop.backbone.hold_near(received, copy.shared)
        loss = _carried_out(loop, phases, Source(copy, self.task, rows), dice)
        _finite(0.0 if loss is None else loss, loop)
        return copy

    def _family(self, received: Tensors) -> tuple[str, str] | None:
        """Names of the tensors of the department's family, where the broadcast holds them."""
        names = None if self.form.family is None else family_tensors(self.form.family)
        return names if names is not None and names[0] in received else None

    def _loop(
        self,
        model: DepartmentModel,
        received: Tensors,
        dice: tuple[int, ...],
        momentum: NDArray[np.float32] | None,
    ) -> Loop:
        velocity = None if momentum is None else torch.from_numpy(np.array(momentum, dtype=np.float32)).to(model.device)
        known = float(received.get(KNOWN, np.zeros(())))
        target = torch.from_numpy(np.array(received[MEAN])).to(model.device) if known else None
        random = np.random.default_rng(dice)
        return Loop(
            model,
            self.task,
            self.draft.training,
            random,
            head_velocity=velocity,
            target=target,
            critic=Critic.of(received),
            labelled=self.labelled,
        )


def _carried_out(loop: Loop, phases: Sequence[Phase], source: Source, dice: tuple[int, ...]) -> float | None:
    """Carry out phases; the mean loss of the last pass, None where there is none."""
    after = None
    with own_dice(*dice) if loop.draws else contextlib.nullcontext():
        for phase in phases:
            loop.begin(phase)
            for _ in range(phase.epochs):
                after = loop.epoch(source)
    return after


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
    _finite(loss, loop)
    return Twin(tuple(sorted(epochs)), tuple(curve), exported(model))


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
        _finite(loss, loop)
    return tuple(exported(loop.model) for loop in loops)


def _fresh(draft: Draft, task: Task, rows: Rows, *, secret: int) -> DepartmentModel:
    """The network before any training: the charter's first backbone, under a head of the department's own seed."""
    columns = rows.x.shape[-1]
    own = first_private(draft, task, secret=secret, columns=columns)
    first = Net(draft.network.initial(draft.training.seed), part("head", own), part("adapter", own), task.per_token)
    return loaded(draft, task, first, columns)


def _finite(loss: float, loop: Loop) -> None:
    if not (math.isfinite(loss) and loop.finite):
        raise TrainingDiverged("local training ended in values that are not finite; nothing was sent")
