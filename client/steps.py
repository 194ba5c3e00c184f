"""Steps of training: rows in batches, one flat vector per part, and SGD or Adam on it.

torch.optim would do, but it loads a compiler at its first step and walks over every tensor at each.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commonroot.client.accelerator import PROCESSOR, seed_device, where
from commonroot.client.data import Rows
from commonroot.client.model import DepartmentModel, as_batch, block_rows, check_rows
from commonroot.client.tasks import Task
from commonroot.client.unlabelled import Critic
from commonroot.client.vectors import Vector
from commonroot.client.written_out import WrittenOut
from commonroot.common.charter import Training
from commonroot.strategies.base import Part, Phase

_BETA1: Final = 0.9
_BETA2: Final = 0.999
_TINY: Final = 1e-8


class Source:
    """Rows as batches of tensors.  They may lie in a read-only map of a file: only a batch is ever copied.

    Raises DataError where the rows do not fit the backbone.
    """

    def __init__(self, model: DepartmentModel, task: Task, rows: Rows) -> None:
        check_rows(model.spec, rows.x)
        self._spec, self._task, self._x, self._device = model.spec, task, rows.x, model.device
        self._itself = task.reconstructs
        # targets of one number per row are made once; larger ones batch by batch
        self._ready = rows.y.ndim == 1 and not self._itself
        self._y: NDArray[Any] = task.targets(rows.y) if self._ready else rows.y
        self._block = block_rows(model.spec)
        # nothing to convert or to look at, and a step of a small network takes no longer than a few such looks
        self._plain = rows.x.dtype == np.float32 and model.spec.input.dtype == "float32"

    def __len__(self) -> int:
        return len(self._x)

    def take(self, at: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """The rows at these positions and their targets."""
        found = self._x.take(at, axis=0)
        x = torch.from_numpy(np.asarray(found)) if self._plain else as_batch(self._spec, found)
        y = found if self._itself else self._y.take(at, axis=0)
        targets = torch.from_numpy(y if self._ready else self._task.targets(y))
        return (x, targets) if self._device == PROCESSOR else (x.to(self._device), targets.to(self._device))

    def each(self, batches: Iterable[NDArray[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of rows one after the other, taken from where they lie a block at a time."""
        block: list[NDArray[Any]] = []
        rows = 0
        for batch in batches:
            block.append(batch)
            rows += len(batch)
            if rows >= self._block:
                yield from self._cut(block)
                block, rows = [], 0
        if block:
            yield from self._cut(block)

    def _cut(self, batches: Sequence[NDArray[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.take(np.concatenate(batches))
        sizes = [len(batch) for batch in batches]
        return zip(torch.split_with_sizes(x, sizes), torch.split_with_sizes(y, sizes), strict=True)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order, so many at a time that memory stays bounded."""
        for at in range(0, len(self), self._block):
            yield self.take(np.arange(at, min(at + self._block, len(self))))


@contextlib.contextmanager
def own_dice(*words: int) -> Iterator[None]:
    """Let whatever draws from torch's generator (dropout) draw from a seed of its own, and nobody notice outside."""
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    put_back = seed_device(seed) if where() != PROCESSOR else None
    dice = torch.default_generator  # torch.manual_seed would ask every accelerator too, which takes milliseconds
    before = dice.get_state()
    try:
        dice.manual_seed(seed)
        yield
    finally:
        dice.set_state(before)
        if put_back is not None:
            put_back()


class Flat:
    """One part of a network on its way: its vector, where that began, and its momentum."""

    def __init__(self, part: Vector, velocity: Tensor | None = None) -> None:
        self.part = part
        self.vector, self.gradient = part.whole, part.gradient
        self.first = self.vector.clone()
        self.velocity = torch.zeros_like(self.vector) if velocity is None else velocity
        self.adam = Adam(self.vector)

    def of_another(self, tensors: Mapping[str, nn.Parameter]) -> Flat:
        """The same vector and momentum under another network's tensors."""
        found = copy.copy(self)
        found.part = Vector(tensors, self.vector)
        found.gradient = found.part.gradient
        return found

    def hold_near(self, arrays: Mapping[str, NDArray[np.float32]], names: Iterable[str]) -> None:
        """Let an anchor hold the vector near these instead of near where it began."""
        first = np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in names])
        self.first = torch.from_numpy(first).to(self.vector.device)

    def move(self, training: Training, rate: float) -> None:
        """One step against the gradient, which is overwritten."""
        gradient = self.gradient
        if training.optimizer == "adam":
            self.adam.move(self.vector, gradient, rate=rate, decay=training.weight_decay)
            return
        gradient.add_(self.vector, alpha=training.weight_decay)
        self.velocity.mul_(training.momentum).add_(gradient)
        self.vector.sub_(self.velocity, alpha=rate)


class Adam:
    """Kingma, Ba, 2014, arXiv:1412.6980, algorithm 1, with decoupled weight decay (Loshchilov, Hutter, 2017)."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._means: tuple[Tensor, Tensor] | None = None  # made at the first step: SGD needs neither
        self._steps = 0

    def move(self, vector: Tensor, gradient: Tensor, *, rate: float, decay: float) -> None:
        """One step."""
        if self._means is None:
            self._means = torch.zeros_like(self._like), torch.zeros_like(self._like)
        first, second = self._means
        self._steps += 1
        first.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        size = second.sqrt().div_(math.sqrt(1 - _BETA2**self._steps)).add_(_TINY)
        vector.mul_(1 - rate * decay)
        vector.addcdiv_(first, size, value=-rate / (1 - _BETA1**self._steps))


class Loop:
    """Epochs and steps over one department's model."""

    def __init__(
        self,
        model: DepartmentModel,
        task: Task,
        training: Training,
        random: np.random.Generator,
        *,
        head_velocity: Tensor | None = None,
        backbone: Flat | None = None,
        target: Tensor | None = None,
        critic: Critic | None = None,
        labelled: bool = True,
    ) -> None:
        """A loop over nothing yet.

        backbone  of another model, moved together with this one's
        target    m̄, which batches are drawn to
        critic    which representations are drawn to confuse
        labelled  whether all targets are labels; where not, those below 0 are none
        """
        self.model, self.task, self.training, self.random = model, task, training, random
        self.backbone = Flat(model.shared_vector) if backbone is None else backbone.of_another(model.shared)
        if head_velocity is not None and len(head_velocity) != len(model.private_vector.whole):
            head_velocity = None  # of other tensors than these: a head was put in the place of another
        self.head = Flat(model.private_vector, head_velocity)
        #: Mean representation of the last pass over the rows, where the model's form asks for it.
        self.centre: Tensor | None = None
        if model.form.centre:
            self.centre = torch.zeros(model.spec.outputs, device=model.device)
        self._target = target
        self._critic, self._labelled = critic, labelled
        self._written = WrittenOut.of(model, task)
        self._confusion = 0.0
        self._moving: list[Flat] = []
        self._anchor = 0.0
        self._pull = 0.0
        self._rate = training.learning_rate

    def begin(self, phase: Phase) -> None:
        """Freeze everything but the phase's parts; what is private moves with the head, what is averaged with the
        backbone."""
        self._moving = []
        parts: tuple[tuple[Part, Flat], ...] = (("backbone", self.backbone), ("head", self.head))
        for part, flat in parts:
            for tensor in flat.part.tensors:
                tensor.requires_grad_(part in phase.parts)
            if part in phase.parts and flat.part.tensors:
                self._moving.append(flat)
        if self._written is not None:
            moving = [flat.part for flat in self._moving]
            pairs = (pair for one in moving for pair in zip(one.tensors, one.slopes, strict=True))
            self._written.ask({id(tensor): slope for tensor, slope in pairs})
        self._anchor = phase.anchor
        self._pull = phase.pull
        self._confusion = 0.0 if self._critic is None else phase.confusion
        self._rate = phase.rate * self.training.learning_rate

    def batches(self, n: int) -> Iterator[NDArray[Any]]:
        """One pass over n rows in a random order, in batches whose sizes differ by one at most."""
        # the same order as of 64 bits, in half the memory
        order = self.random.permutation(np.arange(n, dtype=np.uint32 if n < 1 << 32 else np.int64))
        parts = math.ceil(n / self.training.batch)
        size, longer = divmod(n, parts)
        end = 0
        for at in range(parts):
            begin, end = end, end + size + (at < longer)
            yield order[begin:end]

    def epoch(self, source: Source) -> float:
        """One pass; the mean loss over its rows, before each row's step."""
        losses, rows = [], []
        if self.centre is not None:
            self.centre.zero_()
        if self.draws:
            self.model.train()
        with contextlib.nullcontext() if self._records else torch.inference_mode():
            for x, y in source.each(self.batches(len(source))):
                losses.append(self.step(x, y))
                rows.append(len(x))
        if self.draws:
            self.model.eval()
        if self.centre is not None:
            self.centre /= len(source)
        # one after the other, whatever the number of batches
        means = (torch.stack(losses) / self.task.chance).cpu().numpy()
        return float(np.add.accumulate(means * np.array(rows, dtype=np.float32))[-1]) / len(source)

    def mean_loss(self, source: Source) -> float:
        """Mean loss over rows, in multiples of chance; nothing moves."""
        outputs = self.model if self._written is None else self._written.outputs
        total = 0.0
        with torch.inference_mode():
            for x, y in source.blocks():
                total += float(self.task.loss(outputs(x), y)) * len(x)
        return total / len(source) / self.task.chance

    @property
    def finite(self) -> bool:
        """Is every number of the network one?"""
        return all(np.isfinite(flat.vector.cpu().numpy()).all() for flat in (self.backbone, self.head))

    @property
    def draws(self) -> bool:
        """May steps draw from torch's generator?"""
        return self._written is None  # none that is written out has dropout

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on one batch; its loss as the task has it, without penalties."""
        written = None if self._records else self._written
        loss = self._recorded(x, y) if written is None else self._written_out(written, x, y)
        if self._moving:
            self._clip()
            for flat in self._moving:
                flat.move(self.training, self._rate)
        return loss

    def _clip(self) -> None:
        """Anchors added, and gradients shortened where all together are too long."""
        limit = self.training.gradient_clip
        squares = []
        for flat in self._moving:
            if self._anchor and flat is self.backbone:
                flat.gradient.add_(flat.vector - flat.first, alpha=self._anchor)
            squares.append(torch.dot(flat.gradient, flat.gradient))
        if sum(map(float, squares)) < 0.999 * limit**2:  # shorter by more than float32 could round away
            return
        length = torch.stack(squares).sum().sqrt()
        factor = torch.clamp(limit / (length + 1e-12), max=1.0)
        for flat in self._moving:
            flat.gradient.mul_(factor)

    @property
    def _records(self) -> bool:
        """Does PyTorch find the slopes?"""
        return self._written is None or not self._labelled or bool(self._confusion)

    def _written_out(self, written: WrittenOut, x: Tensor, y: Tensor) -> Tensor:
        """The loss; slopes lie in the gradients of what moves."""
        loss, mean = written.slopes(x, y, centre=self.centre is not None, target=self._target, pull=self._pull)
        if self.centre is not None and mean is not None:
            self.centre.add_(mean, alpha=len(x))
        return loss

    def _recorded(self, x: Tensor, y: Tensor) -> Tensor:
        """The same of any network."""
        if not self._labelled or self._confusion:
            loss, cost = self._adapted(x, y)
        elif self.centre is None:
            loss = self.task.loss(self.model(x), y)
            cost = loss / self.task.chance
        else:
            loss, cost = self._drawn_together(self.centre, x, y)
        if self._moving:
            found = iter(torch.autograd.grad(cost, [tensor for flat in self._moving for tensor in flat.part.tensors]))
            for flat in self._moving:
                torch.cat([next(found).reshape(-1) for _ in flat.part.tensors], out=flat.gradient)
        return loss.detach()

    def _adapted(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of what labels there are, and that plus λ times how little the critic is confused.

        Without labels the loss is told as 0; rows that are trusted count in it as many as they are of the batch.
        """
        represented = self.model.represent(x)
        if self._labelled:
            loss = self.task.loss(self.model.read(represented), y)
            cost = loss / self.task.chance
        else:
            known = y >= 0
            share = float(known.float().mean())
            outputs = self.model.read(represented)
            # of no trusted row: nothing, yet something that has a gradient
            cost = outputs.sum() * 0.0
            if share:
                cost = cost + share * self.task.loss(outputs[known], y[known]) / self.task.chance
            loss = torch.zeros((), device=outputs.device)
        if self._critic is None or not self._confusion:
            return loss, cost
        return loss, cost + self._confusion * self._critic.confusion(represented)

    def _drawn_together(self, centre: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and what it costs: in multiples of chance, plus κ‖mean(z) - m̄‖²/d.

        Adds the batch to the mean of this pass.
        """
        represented = self.model.represent(x)
        loss = self.task.loss(self.model.read(represented), y)
        cost = loss / self.task.chance
        mean = represented.reshape(-1, represented.shape[-1]).mean(dim=0)
        centre.add_(mean.detach(), alpha=len(x))
        if self._target is None or not self._pull:
            return loss, cost
        return loss, cost + self._pull * (mean - self._target).square().mean()
