"""What every candidate of the guard says of a department's rows, once for all rules that are tried on it.

A *case* is one department of one world under one seed.  Its federation is trained by the strategies' own steps (plan,
contribute, a sum in the clear, combine), without network and masks; then every candidate predicts

    cross   the learning rows, each by a fit that did not see it (folds)
    held    the validation rows, by a fit to the training rows
    test    the test rows, by a fit to all learning rows

as head outputs before calibration.  Rules then cost nothing to try.  The backbone of the federated candidates has seen
the training rows in the rounds, whatever fold they are in; validation rows it has never seen.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from commonroot.client import alone
from commonroot.client.alone_memory import Basis
from commonroot.client.baselines import GRID
from commonroot.client.data import Prepared, Rows, folds, prepare
from commonroot.client.finish import passes
from commonroot.client.models import Model
from commonroot.client.shared_models import shared_networks
from commonroot.client.tasks import Task, task_from_json
from commonroot.client.trainer import Private, Trainer
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.simulations.guard_worlds import GuardWorld, write
from commonroot.strategies import build_trained
from commonroot.strategies.base import Strategy, Tensors

Array = NDArray[Any]
ARRAYS: Final = ("y", "seen", "fold", "cross", "held", "test", "y_test")
ROUNDS: Final = 15
BATCH: Final = 32
FOLDS: Final = 4
#: Passes of the local twin at most, for it is half of the work; a department's own may train longer.
TWIN: Final = 24


@dataclass(frozen=True, slots=True)
class Case:
    """One department under one seed, as arrays.

    y       of learning rows, training rows first; ``seen`` marks those
    fold    of each learning row
    names   of candidates, those trained alone first; ``ours`` of them are
    cross   (candidates, learning rows, outputs)
    held    (candidates, validation rows, outputs)
    test    (candidates, test rows, outputs)
    """

    world: str
    seed: int
    department: str
    task: Task
    names: tuple[str, ...]
    ours: int
    y: Array = field(repr=False)
    seen: Array = field(repr=False)
    fold: Array = field(repr=False)
    cross: Array = field(repr=False)
    held: Array = field(repr=False)
    test: Array = field(repr=False)
    y_test: Array = field(repr=False)

    def save(self, path: Path) -> None:
        """As one .npz."""
        about = {
            "world": self.world,
            "seed": self.seed,
            "department": self.department,
            "task": self.task.to_json(),
            "names": list(self.names),
            "ours": self.ours,
        }
        arrays = {name: getattr(self, name) for name in ARRAYS}
        np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Case:
        """The inverse of ``save``."""
        with np.load(path, allow_pickle=False) as found:
            about = json.loads(str(found["about"]))
            arrays = {name: found[name] for name in found.files if name != "about"}
        about["task"] = task_from_json(about["task"])
        about["names"] = tuple(about["names"])
        return cls(**about, **arrays)


def cases(
    worlds: Sequence[str], seeds: Sequence[int], cache: Path, *, data: Path | None = None, tell: Any = lambda name: None
) -> Iterator[Case]:
    """Every case of these worlds and seeds: from ``cache``, or made and put there."""
    cache.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for world in worlds:
            done = cache / f"{world}-{seed}.done"
            if not done.exists():
                tell(f"{world}, seed {seed}")
                for case in make(world, seed, data=data):
                    case.save(cache / f"{world}-{seed}-{case.department}.npz")
                done.touch()
            for path in sorted(cache.glob(f"{world}-{seed}-*.npz")):
                yield Case.load(path)


def make(world: str, seed: int, *, data: Path | None = None) -> Iterator[Case]:
    """Train one world's federations and every candidate of each of its departments."""
    with tempfile.TemporaryDirectory() as folder:
        written = write(world, Path(folder), seed=seed, data=data)
        runs = [Run.of(written, Method(name="fedper"), Path(folder), seed)]
        if written.labels is not None:
            shared: dict[str, bool | int | float | str] = {"head": "shared", "outputs": written.labels}
            runs.append(Run.of(written, Method(name="fedavg-ft", options=shared), Path(folder), seed))
        for run in runs:
            run.train()
        for at, name in enumerate(written.departments):
            yield _case(world, seed, name, at, runs)


@dataclass(slots=True)
class Run:
    """One federation in the clear."""

    draft: Draft
    strategy: Strategy
    prepared: list[Prepared]
    trainers: list[Trainer]
    private: list[Private]
    state: Tensors

    @classmethod
    def of(cls, world: GuardWorld, method: Method, folder: Path, seed: int) -> Run:
        draft = Draft(
            federation="guard",
            name="bench",
            rounds=ROUNDS,
            method=method,
            backbone=TypeAdapter(BackboneSpec).validate_python(dict(world.backbone)),
            training=Training(batch=BATCH),
        )
        strategy = build_trained(draft)
        prepared = [prepare(one, folder=folder, spec_input=draft.network.input) for one in world.departments.values()]
        trainers = [
            Trainer(draft, one.task, seed * 1000 + at, strategy.shares_head, one.train.x.shape[-1])
            for at, one in enumerate(prepared)
        ]
        return cls(draft, strategy, prepared, trainers, [one.start() for one in trainers], strategy.initial(draft))

    def train(self) -> None:
        """All rounds."""
        for version in range(self.draft.rounds):
            sums: dict[str, Array] = {}
            for at, (trainer, rows) in enumerate(zip(self.trainers, self.prepared, strict=True)):
                plan = self.strategy.plan(self.draft)
                trained = trainer.train(
                    plan, self.state, self.private[at], rows.train, rows.validation, version=version
                )
                self.private[at] = trained.private
                for name, term in self.strategy.contribute(self.draft, self.state, trained.result).items():
                    sums[name] = sums.get(name, 0.0) + np.asarray(term, dtype=np.float64)
            self.state = self.strategy.combine(self.draft, self.state, sums)


def _case(world: str, seed: int, name: str, at: int, runs: Sequence[Run]) -> Case:
    first, rows = runs[0], runs[0].prepared[at]
    task, secret = rows.task, runs[0].trainers[at].secret
    whole = rows.train.join(rows.validation)
    fold = folds(whole.y, count=FOLDS, seed=secret, stratify=task.learns == "label")
    seen = np.arange(len(whole)) < len(rows.train)
    crossing = [
        alone.Part(whole.take(np.flatnonzero(fold != k)), whole.take(np.flatnonzero(fold == k)), seen[fold == k])
        for k in range(FOLDS)
    ]
    back = np.argsort(np.concatenate([np.flatnonzero(fold == k) for k in range(FOLDS)]))
    names, cross, held, test = [], [], [], []
    ours = _alone(first, rows, world, secret, crossing)
    for label, crossed, kept, tested in ours:
        names.append(label)
        cross.append(crossed[back])
        held.append(kept)
        test.append(tested)
    for run in runs:
        several = shared_networks(
            run.draft,
            run.strategy,
            rows,
            run.state,
            run.private[at],
            secret=secret,
            version=run.draft.rounds,
        )
        if not several:
            continue
        shared = several[0]
        names.append("family" if run.strategy.shares_head else "federated")
        again = [_plain(shared.fit(part.fit)).outputs(task, part.held.x) for part in crossing]
        cross.append(np.concatenate(again)[back])
        held.append(_plain(shared.model).outputs(task, rows.validation.x))
        test.append(_plain(shared.fit(whole)).outputs(task, rows.test.x))
    stacked = [np.stack(one).astype(np.float32) for one in (cross, held, test)]
    return Case(
        world,
        seed,
        name,
        task,
        tuple(names),
        len(ours),
        whole.y,
        seen,
        fold,
        stacked[0],
        stacked[1],
        stacked[2],
        rows.test.y,
    )


def _alone(
    run: Run, rows: Prepared, world: str, secret: int, crossing: alone.Parts
) -> list[tuple[str, Array, Array, Array]]:
    """Label and outputs (cross-fitted, held-out, test) of every local candidate.

    Boosted trees are tried on the heart tables only, to save time: elsewhere training alone is that much weaker.
    """
    grid = GRID if world == "heart" else tuple(recipe for recipe in GRID if recipe.kind != "trees")
    whole = rows.train.join(rows.validation)
    epochs = min(TWIN, passes(run.draft, run.strategy))
    crossed, held, tested = (
        alone.candidates(run.draft, rows, epochs=epochs, basis=Basis(secret), parts=some, grid=grid, ranked=False)
        for some in (crossing, [_part(rows.train, rows.validation)], [_part(whole, rows.test)])
    )
    return [(a.name, a.outputs, b.outputs, c.outputs) for a, b, c in zip(crossed, held, tested, strict=True)]


def _part(fit: Rows, held: Rows) -> alone.Part:
    return alone.Part(fit, held, np.zeros(len(held), dtype=np.bool_))


def _plain(model: Model) -> Model:
    return replace(model, temperature=1.0, shift=0.0)
