"""A department's side of ``boosting``: its rows as slots, the opened trees as a model, and trees of its own on top.

Scores start at the department's own level.  The shared trees may fit it less well than its own rows would have it, so
private trees are grown on top, on its own rows and in the same way, starting from the shared scores; they cost no
message and never leave.  Validation rows must prove that they, or fewer shared trees, help: picking the least of some
noisy losses did harm when tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.choice import FEWEST_TO_DECIDE, calibrate
from commonroot.client.common_columns import CommonColumns, LabelsHere, NumberHere
from commonroot.client.data import Prepared, Rows
from commonroot.client.models import Model
from commonroot.client.shared_models import Shared
from commonroot.client.tasks import Task
from commonroot.client.tasks.regression import Values
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError
from commonroot.strategies.base import Tensors
from commonroot.strategies.booster import GROWN, LEAF, OFFSET, SPLIT, Boosting, grown
from commonroot.strategies.common_target import CommonTarget
from commonroot.strategies.histogram_trees import Slots
from commonroot.strategies.linear import SharedLinear

#: What may be kept instead of all shared trees and no others: a share of them, and how many of its own on top.
OTHERWISE: Final = ((0.5, 0), (1.0, 10), (1.0, 30))
#: Depth of private trees, and fewest rows on either side of their splits.
PRIVATE_DEPTH, PRIVATE_ROWS = 2, 5
#: No encoded number is beyond this.
_FAR: Final = 1e30


def check_task(method: CommonTarget, task: Task) -> None:
    """Raise ConfigError unless the task is the one that the charter's loss and labels are of."""
    if method.loss == "squared":
        if not isinstance(task, Values):
            raise ConfigError(f"the charter predicts a value, and the task here is {task.kind!r}")
        return
    labels = getattr(task, "labels", None)
    if task.learns != "label" or labels is None:
        raise ConfigError(f"the charter tells labels apart, and the task here is {task.kind!r}")
    if tuple(labels) != method.named:
        raise ConfigError(
            "the labels here are not the charter's, in its order",
            hint=f"labels = [{', '.join(repr(label) for label in method.named)}] under [data]",
        )


def target_of(method: Boosting | SharedLinear, y: NDArray[Any]) -> NDArray[Any]:
    """Encoded targets as the method gathers them.  Raises DataError for a value beyond the charter's range."""
    if method.loss == "logistic":
        return np.asarray(y, np.int64)
    told = (np.asarray(y, np.float64) - method.middle) / method.half
    beyond = int(np.count_nonzero(np.abs(told) > 1))
    if beyond:
        raise DataError(f"{beyond} target value(s) are not between {method.low:g} and {method.high:g}")
    return np.asarray(told)


@dataclass(frozen=True, slots=True)
class Booster:
    """Opened trees over a department's encoded rows.

    state  the final broadcast
    """

    draft: Draft
    method: Boosting
    columns: CommonColumns
    state: Tensors = field(repr=False)

    @property
    def trees(self) -> int:
        """Whole trees of each output that have grown."""
        return max(0, int(self.state[GROWN]) - 1) // self.method.depth

    def fitted(self, task: Task, rows: Rows, shared: int, private: int) -> Model:
        """The first ``shared`` trees, and ``private`` ones grown on these rows on top of them."""
        kept = [(self.state[SPLIT][at], self.state[LEAF][at]) for at in range(shared)]
        level = self.method.level_of(target_of(self.method, rows.y))
        if private and len(rows):
            codes = self.columns.codes(rows.x)
            base = self.method.scores_of(self.draft, self.state, codes, shared) + level
            draft = self._own_draft(private, len(rows))
            own = grown(draft, {"codes": codes, "target": target_of(self.method, rows.y), "base": base}, guess=False)
            kept += [(own[SPLIT][at], own[LEAF][at]) for at in range(private)]
        return self._model(task, kept, level)

    def _own_draft(self, trees: int, rows: int) -> Draft:
        options = {"depth": PRIVATE_DEPTH, "least_rows": PRIVATE_ROWS, "most_rows": max(rows, 1)}
        method = self.draft.method.model_copy(update={"options": self.draft.method.options | options})
        return self.draft.model_copy(update={"rounds": 1 + trees * PRIVATE_DEPTH, "method": method})

    def _model(
        self, task: Task, kept: list[tuple[NDArray[np.float32], NDArray[np.float32]]], level: NDArray[np.float64]
    ) -> Model:
        """Node tables as ``models`` walks them; values in the task's own units where it predicts one."""
        slots = Slots.of(self.draft.columns)
        tables = [
            _Table(self.columns, slots, splits[output].astype(np.int64), leaves[output].astype(np.float64))
            for splits, leaves in kept
            for output in range(self.method.outputs)
        ] or [_Table.empty(self.columns, slots) for _ in range(self.method.outputs)]
        offset = self.state[OFFSET].astype(np.float64) + level
        factor = 1.0
        if isinstance(task, Values):
            factor = self.method.half / task.scale
            offset = offset * factor + (self.method.middle - task.centre) / task.scale
        return Model("trees", _padded(tables, factor) | {"offset": offset})


class _Table:
    """One tree as rows of a table: feature, threshold, left, right, value; a leaf's sides are itself.

    A place of the tree that several rows of the table lead to stands there once: repeated for every label it would grow
    with the labels to the power of the levels, by splits that others chose.
    """

    def __init__(
        self, columns: CommonColumns, slots: Slots, splits: NDArray[np.int64], leaves: NDArray[np.float64]
    ) -> None:
        self._columns, self._slots, self._splits, self._leaves = columns, slots, splits, leaves
        self.nodes: list[tuple[int, float, int, int, float]] = []
        self._at: dict[int, int] = {}
        self._put(0)

    @classmethod
    def empty(cls, columns: CommonColumns, slots: Slots) -> _Table:
        """A single leaf of 0."""
        return cls(columns, slots, np.zeros(0, np.int64), np.zeros(1))

    def _put(self, place: int) -> int:
        """The subtree at a place of the whole tree, numbered level by level; the number of its first node."""
        if place not in self._at:
            self._at[place] = self._made(place)
        return self._at[place]

    def _made(self, place: int) -> int:
        if place >= len(self._splits):
            return self._node(float(self._leaves[place - len(self._splits)]))
        split = int(self._splits[place])
        if not split:
            return self._put(2 * place + 1)
        slot, way = divmod(split - 1, 2)
        column = int(self._slots.column[slot])
        here, at = self._columns.columns[column], slot - int(self._slots.starts[column])
        sides = (2 * place + 1, 2 * place + 2)
        if isinstance(here, NumberHere):
            return self._number(here, at, sides, gap=sides[0] if way else sides[1])
        return self._label(here, at, sides)

    def _number(self, here: NumberHere, at: int, sides: tuple[int, int], *, gap: int) -> int:
        """A gap is encoded as 0 and goes where 0 goes; only where it is to go elsewhere must it be asked for."""
        threshold = float(here.thresholds[at]) if at < len(here.edges) else _FAR
        first = self._reserve()
        usual = 0 if threshold >= 0 else 1
        ends = []
        for side, place in enumerate(sides):
            if side == usual and here.gap is not None and place != gap:
                ends.append(self._asked(here.gap, gap, place))
            else:
                ends.append(self._put(place))
        self.nodes[first] = (here.at, threshold, ends[0], ends[1], 0.0)
        return first

    def _asked(self, feature: int, one: int, zero: int) -> int:
        """Rows where a 0/1 column is 1 go to the one place, others to the other."""
        first = self._reserve()
        left, right = self._put(zero), self._put(one)
        self.nodes[first] = (feature, 0.5, left, right, 0.0)
        return first

    def _label(self, here: LabelsHere, at: int, sides: tuple[int, int]) -> int:
        """The left side for the label (or others, or gaps) at this slot; what no column stands for is nobody's."""
        left, right = sides
        gap = -1 if here.gap is None else here.gap
        if at != len(here.at):
            asked = here.at[at] if at < len(here.at) else gap
            return self._put(right) if asked < 0 else self._asked(asked, left, right)
        return self._others([one for one in (*here.at, gap) if one >= 0], left, right)

    def _others(self, listed: list[int], left: int, right: int) -> int:
        """Rows where none of the columns listed is 1 go left: one column is asked for after another."""
        asked = [self._reserve() for _ in listed]
        ends = [*asked, self._put(left)]
        for feature, here, following in zip(listed, asked, ends[1:], strict=True):
            self.nodes[here] = (feature, 0.5, following, self._put(right), 0.0)
        return ends[0]

    def _reserve(self) -> int:
        return self._node(0.0)

    def _node(self, value: float) -> int:
        """A leaf, or the place of what is filled in later."""
        own = len(self.nodes)
        self.nodes.append((0, 0.0, own, own, value))
        return own


def _padded(tables: list[_Table], factor: float) -> dict[str, NDArray[Any]]:
    most = max(len(table.nodes) for table in tables)
    own = np.tile(np.arange(most, dtype=np.int32), (len(tables), 1))
    arrays: dict[str, NDArray[Any]] = {
        "feature": np.zeros((len(tables), most), dtype=np.int32),
        "threshold": np.zeros((len(tables), most)),
        "left": own,
        "right": own.copy(),
        "value": np.zeros((len(tables), most)),
    }
    for at, table in enumerate(tables):
        columns = zip(*table.nodes, strict=True)
        for name, values in zip(("feature", "threshold", "left", "right", "value"), columns, strict=True):
            arrays[name][at, : len(values)] = values
    arrays["value"] *= factor
    return arrays


def shared_trees(booster: Booster, prepared: Prepared) -> Shared:
    """All shared trees, or what is better by more than a standard error on enough validation rows."""
    task, train, held = prepared.task, prepared.train, prepared.validation
    best, losses = _candidate(booster, task, train, held, booster.trees, 0)
    if len(held) < FEWEST_TO_DECIDE:
        return best
    bound, usual = 0.0, losses
    for share, private in OTHERWISE if booster.trees else ():
        other, losses = _candidate(booster, task, train, held, max(1, round(share * booster.trees)), private)
        gains = usual - losses
        proven = float(gains.mean()) - float(gains.std(ddof=1)) / math.sqrt(len(gains))
        if proven > bound:
            best, bound = other, proven
    return best


def _candidate(
    booster: Booster, task: Task, train: Rows, held: Rows, shared: int, private: int
) -> tuple[Shared, NDArray[np.float64]]:
    """A candidate and its losses on the validation rows."""
    model = booster.fitted(task, train, shared, private)
    calibration = calibrate(task, model.outputs(task, held.x), held.y)
    model = calibration.of(model)
    losses = task.row_losses(model.predict(task, held.x), held.y)
    name = f"{shared} shared trees" + (f" and {private} of its own" if private else "")
    loss = float(losses.mean()) if len(held) else 0.0
    return Shared(name, loss, model, lambda rows: calibration.of(booster.fitted(task, rows, shared, private))), losses


def gathered(method: Boosting, columns: CommonColumns, rows: Rows) -> Mapping[str, NDArray[np.generic]]:
    """What ``Boosting.gather`` reads of encoded rows."""
    target = target_of(method, rows.y)
    base = np.repeat(method.level_of(target)[None], len(rows), axis=0)
    return {"codes": columns.codes(rows.x), "target": target, "base": base}
