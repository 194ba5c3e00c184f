"""From a source to rows: look, split, fit in one pass, encode in a second.  Everything wrong is told at once.

A table that fits is read once and held; a larger one is read in batches, for its keys and target, for fitting, and for
encoding into files that are mapped (``store.py``).  Nothing is written before the data is known to be sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.coded import Codes
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.encode import Side, assembled, encode_sides
from commonroot.client.tables.features import Features
from commonroot.client.tables.leaks import SAMPLE, find_leaks
from commonroot.client.tables.part import Fitter
from commonroot.client.tables.parting import Keys, check_later, part_rows
from commonroot.client.tables.pinned import Pin, pin_split, pinned_split
from commonroot.client.tables.plan import Plan, fitters, make_plan, plan_keys
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.rows import Prepared, Rows
from commonroot.client.tables.source import BATCH, MEMORY, CellsNotTyped, Reading, Source, Table, open_source
from commonroot.client.tables.split import LEFT_OUT, TEST, TRAIN, balanced
from commonroot.client.tables.sql_source import open_query
from commonroot.client.tables.store import FOLDER, Shelf, cache_key, cached
from commonroot.client.tables.target import Targets, cell_kinds, item_counts, takes_several, target_frame
from commonroot.client.tasks.recommendation import RECOMMENDATION
from commonroot.client.tasks.registry import task_class
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.backbone.inputs import Input, RowInput, SequenceInput
from commonroot.common.errors import ConfigError

#: Fewer rows than this leave nothing to learn, choose and test on.
FEWEST_ROWS = 10


def prepare(
    config: DataConfig,
    *,
    folder: Path = Path(),
    inputs: int | None = None,
    spec_input: Input | None = None,
    adapter: bool = False,
    shared: SharedStatistics | None = None,
    checkpoint: PretrainedSpec | None = None,
    root: Path | None = None,
    pin: Pin | None = None,
    memory: int = MEMORY,
) -> Prepared:
    """Read, check, split, fit and encode.

    folder      what relative paths are relative to
    inputs      columns that the charter's backbone takes; short for ``spec_input=RowInput(inputs)``
    spec_input  the form of rows that the backbone takes; None where there is no charter yet
    adapter     whether a private adapter takes a row of any width
    shared      statistics of all departments' rows: columns that they know are encoded by them, not by own rows
    checkpoint  the pretrained encoder whose tokenizer reads texts
    root        the department's folder, in which rows that do not fit into memory are kept; None keeps them there
    pin         where the split under a charter is kept, so that it never changes under a run
    memory      bytes that a table or its encoded rows may take in memory

    Raises  DataError: lists everything wrong at once; ConfigError: a task without features; SourceChanged: another
            source or section than the run began with
    """
    if config.goal_kind == RECOMMENDATION:
        raise ConfigError("a recommendation has ratings and no features", hint='use a charter with method "als"')
    if checkpoint is not None and task_class(config.goal_kind).per_token:
        raise ConfigError("tags belong to words, and a pretrained tokenizer cuts words into pieces")
    goal = spec_input or (RowInput(inputs) if inputs is not None else None)
    for attempt in (1, 2):
        work = _Work(config, folder, goal, adapter, shared, checkpoint, root, pin, memory, slow=attempt == 2)
        try:
            return work.run()
        except CellsNotTyped:
            continue
    raise ValueError("reading cell by cell asks for no types")


def training_rows(config: DataConfig, *, folder: Path = Path()) -> NDArray[np.int64]:
    """Positions in the source of the rows that training may see, as ``prepare`` parts them, whatever their features.

    Raises DataError.
    """
    for attempt in (1, 2):
        work = _Work(config, folder, None, False, None, None, None, None, MEMORY, slow=attempt == 2)
        try:
            return work.training_rows()
        except CellsNotTyped:
            continue
    raise ValueError("reading cell by cell asks for no types")


class _Work:
    """One preparation, step by step."""

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        goal: Input | None,
        adapter: bool,
        shared: SharedStatistics | None,
        checkpoint: PretrainedSpec | None,
        root: Path | None,
        pin: Pin | None,
        memory: int,
        *,
        slow: bool,
    ) -> None:
        self.config, self.folder, self.goal, self.adapter = config, folder, goal, adapter
        self.shared, self.checkpoint = shared, checkpoint
        self.root, self.pin, self.memory, self.slow = root, pin, memory, slow
        self.reading = Reading.of(config)
        self.targets = Targets(config)
        self.problems = Problems()
        self.notes: list[str] = []

    def run(self) -> Prepared:
        main, plan, tested = self._opened()
        prints = "" if self.root is None and self.pin is None else self._fingerprint(main, tested)
        shelved = self._shelved(prints)
        if shelved is not None and shelved.is_dir():
            found = cached(shelved)
            if found is not None and (self.pin is None or self.pin.path.is_file() or not self.pin.write):
                self._pinned(main, prints)
                return found
        self._check_targets(main, tested)
        if tested is not None and not self.problems:
            check_later(main, tested, self.config, self.problems)
        self._part(main, prints, sound=not self.problems)
        features = self._fit(main, plan, tested)
        if tested is not None:
            tested.where = np.full(tested.rows, TEST, dtype=np.uint8)
            if tested.keys.last is not None:
                tested.where[tested.keys.last < 0] = LEFT_OUT
        if self.pin is not None:
            pin_split(self.pin, main.where, fingerprint=prints, config=self.config)
        sides = [main] if tested is None else [main, tested]
        return self._encode(features, sides, shelved)

    def training_rows(self) -> NDArray[np.int64]:
        """Positions of the rows for training; what is wrong with features is not looked for."""
        source = self._open(self.config.path)
        if source is None:
            self.problems.refuse()
            raise ValueError("a source without problems was opened")
        self._look = source.look()
        keyed = plan_keys(self.config, source, self._look, self.problems)
        self._check_columns(source, self.config.targets)
        if keyed is None or self.problems:
            self.problems.refuse()
            raise ValueError("keys without problems were found")
        main = self._side(source, Plan((), keyed[0], keyed[1], "row", None))
        self._check_targets(main, None)
        self._part(main, "", sound=not self.problems)
        self.problems.refuse()
        return np.flatnonzero(main.where == TRAIN).astype(np.int64)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[Side, Plan, Side | None]:
        source = self._open(self.config.path)
        second = None
        if self.config.test_path is not None:
            second = self._open(self.config.test_path)
        if source is None:
            self.problems.refuse()
            raise ValueError("a source without problems was opened")
        look = source.look()
        plan = make_plan(self.config, source, look, self.goal, self.problems)
        missing = self._check_columns(source, self.config.targets)
        several = len(self.config.targets) > 1 and not takes_several(self.config)
        if several:
            self.problems.add(
                Problem(
                    file=source.name,
                    found=f"{len(self.config.targets)} targets",
                    expected=f"one for a {self.config.goal_kind}",
                    fix="name one column in `target`",
                )
            )
        if plan is None or missing or several:
            if plan is not None and not len(look):
                self._no_rows(source)
            self.problems.refuse()
        if plan is None:
            raise ValueError("a plan without problems was made")
        self._look = look
        main = self._side(source, plan)
        tested = None
        if second is not None:
            fix = "the test rows need the columns of the others"
            if not self._check_columns(second, [*plan.wanted, *self.config.targets], fix):
                tested = self._side(second, plan)
        return main, plan, tested

    def _check_columns(
        self, source: Source, names: Sequence[str], fix: str = "add the column or mend the configuration"
    ) -> list[str]:
        """Those that the source lacks, each a problem."""
        schema = source.schema
        missing = [name for name in names if name not in schema]
        for name in missing:
            self.problems.add(
                Problem(file=source.name, column=name, found="no such column", expected="it in row 1", fix=fix)
            )
        return missing

    def _open(self, path: Path | None) -> Source | None:
        if path is None:
            return open_query(str(self.config.url), str(self.config.query), self.folder, self.problems)
        return open_source(self.folder / path, self.reading, self.problems, targets=self.config.targets)

    def _side(self, source: Source, plan: Plan) -> Side:
        """With its target and keys read, and their problems told."""
        kinds = cell_kinds(self.config, self._look)
        wanted = kinds | plan.wanted
        names = list(dict.fromkeys([*kinds, *plan.keys]))
        tagged = plan.chosen[0].column if self.targets.kind.per_token and plan.form == "token" else None
        if tagged is not None and tagged not in names:
            names.append(tagged)
        names = names or list(wanted)[:1]  # something to count rows by
        codes = Codes(name for name in wanted if name not in plan.keys)
        table = Table(source, wanted, missing=self.config.missing, memory=self.memory, codes=codes)
        if self.slow:
            table.slower()
        if table.held:
            read = table.whole(self.problems).select(names)
        else:
            parts = [frame for _, frame in table.batches(names, problems=self.problems)]
            read = pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame({name: [] for name in names})
        keys = Keys(read.select(list(plan.keys)), plan.window)
        tokens = None if tagged is None else item_counts(read[tagged])
        return Side(source, table, target_frame(read, self.config), len(read), keys, tokens)

    def _no_rows(self, source: Source) -> None:
        fix = "fill the table"
        self.problems.add(Problem(file=source.name, found="no rows", expected="at least one row", fix=fix))

    def _fingerprint(self, main: Side, tested: Side | None) -> str:
        return main.source.fingerprint() + ("" if tested is None else tested.source.fingerprint())

    # --- target and split ---------------------------------------------------------------------------------------------

    def _check_targets(self, main: Side, tested: Side | None) -> None:
        for side in (main, tested):
            if side is not None and not side.rows:
                self._no_rows(side.source)
        self.targets.look(main, tested, self.problems)
        needed = max(FEWEST_ROWS, (self.config.test_rows or 0) + FEWEST_ROWS)
        if 0 < main.rows < needed:
            expected = f"at least {needed}"
            self.problems.add(
                Problem(file=main.source.name, found=f"{main.rows} rows", expected=expected, fix="collect more rows")
            )

    def _part(self, main: Side, prints: str, *, sound: bool) -> None:
        main.where = np.full(main.rows, TRAIN, dtype=np.uint8)
        if not sound:  # no split can be drawn; fit to every row, to tell what is wrong with the features too
            return
        part_rows(main, self.config, self.targets.labels, self.problems)
        pinned = self._pinned(main, prints)
        if pinned is not None:
            main.where = pinned

    def _pinned(self, main: Side, prints: str) -> NDArray[np.uint8] | None:
        if self.pin is None:
            return None
        return pinned_split(self.pin, fingerprint=prints, config=self.config, rows=main.rows)

    # --- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self, main: Side, plan: Plan, tested: Side | None) -> Features:
        fitting = fitters(
            plan,
            self.config,
            main.source,
            self._look,
            adapter=self.adapter,
            shared=self.shared,
            checkpoint=self.checkpoint,
        )
        columns = list(plan.wanted)
        training = main.where == TRAIN
        sample: list[pl.DataFrame] = []
        step = max(1, int(training.sum()) // SAMPLE)
        told = None if main.table.held else self.problems
        for at, frame in main.table.batches(columns, problems=told):
            rows = frame.filter(pl.Series(training[at : at + len(frame)]))
            for one in fitting:
                one.add(rows)
            sample.append(rows[np.arange(0, len(rows), step)])
        if tested is not None and not tested.table.held:
            for _ in tested.table.batches(columns, problems=self.problems):
                pass  # told now, before anything is written
        self._told(main, fitting)
        self._check_leaks(main, plan, sample, training, step)
        self.problems.refuse()
        parts = tuple(one.done() for one in fitting)
        features = assembled(plan, parts, self.reading)
        self._check_shape(main, features)
        self.problems.refuse()
        return features

    def _told(self, main: Side, fitting: Sequence[Fitter]) -> None:
        told = {problem.column for problem in self.problems}
        for one in fitting:
            for column, found, expected, fix in one.faults() if main.rows else []:
                if column in told:
                    continue  # why is told already
                self.problems.add(
                    Problem(file=main.source.name, column=column, found=found, expected=expected, fix=fix)
                )
            self.notes += one.notes()

    def _check_leaks(
        self, main: Side, plan: Plan, sample: list[pl.DataFrame], training: NDArray[np.bool_], step: int
    ) -> None:
        if self.problems or not self.targets.comparable or not sample:
            return
        names = [one.column for one in plan.chosen if one.column not in self.config.trusted]
        y = _sampled(main.y, training, step, BATCH)
        for name in find_leaks(pl.concat(sample, how="vertical_relaxed"), names, y, labels=self.targets.labels):
            fix = f"leave it out of `features`, or say `trusted = [{name[:60]!r}]` if it is known before the target is"
            self.problems.add(
                Problem(
                    file=main.source.name,
                    column=name,
                    found="a copy of the target",
                    expected="what is known before the target",
                    fix=fix,
                )
            )

    def _check_shape(self, main: Side, features: Features) -> None:
        if self.goal is None:
            return
        found, wanted = features.input, self.goal
        if isinstance(found, RowInput) and isinstance(wanted, RowInput):
            if found.width != wanted.width and not self.adapter:
                fix = "list exactly the columns that the charter was made for in `features`"
                if any(name.endswith(" missing") for name in features.names):
                    fix += ', and give those with gaps missing = "mean"'
                self._wrong_shape(main, f"{found.width} feature columns", str(wanted.width), fix)
        elif isinstance(found, SequenceInput) and isinstance(wanted, SequenceInput):
            if found.channels != wanted.channels and not self.adapter:
                fix = "list exactly the columns that the charter was made for in `features`"
                self._wrong_shape(main, f"{found.channels} channels", str(wanted.channels), fix)
            elif found.steps != wanted.steps:
                self._wrong_shape(main, f"{found.steps} steps", str(wanted.steps), "mend `steps`")
        elif found != wanted:
            self._wrong_shape(main, f"rows of shape {found.shape}", f"{wanted.shape}", "mend `features`")

    def _wrong_shape(self, main: Side, found: str, wanted: str, fix: str) -> None:
        expected = f"{wanted}, as the charter's backbone takes"
        self.problems.add(Problem(file=main.source.name, found=found, expected=expected, fix=fix))

    # --- encoding -----------------------------------------------------------------------------------------------------

    def _shelved(self, prints: str) -> Path | None:
        if self.root is None:
            return None
        shared = "" if self.shared is None else self.shared.fingerprint
        tokens = "" if self.checkpoint is None else self.checkpoint.model_dump_json()
        facts = (
            self.config.model_dump_json(),
            prints,
            repr(self.goal),
            str(self.adapter),
            shared,
            tokens,
            str(self.memory),
        )
        return self.root / FOLDER / cache_key(*facts)

    def _encode(self, features: Features, sides: list[Side], shelved: Path | None) -> Prepared:
        rows = sum(side.rows for side in sides)
        bytes_all = rows * int(np.prod(features.input.shape)) * 4
        large = bytes_all > self.memory or not all(side.table.held for side in sides)
        shelf = Shelf(shelved if large else None)
        try:
            arrays = encode_sides(features, sides, shelf)
            task = self.targets.fitted(sides[0], features, arrays[TRAIN])
            encoded = [self.targets.encode(task, side) for side in sides]
            train, validation, test = (
                Rows(x, np.concatenate([y[side.at(place)] for y, side in zip(encoded, sides, strict=True)]))
                for place, x in enumerate(arrays)
            )
            if self.config.balance:
                train = train.take(balanced(train.y, seed=self.config.split_seed))
            return shelf.finish(Prepared(task, features, train, validation, test, tuple(self.notes)))
        except BaseException:
            shelf.discard()
            raise


def _sampled(y: NDArray[Any], training: NDArray[np.bool_], step: int, size: int) -> NDArray[Any]:
    """The targets of the rows that ``gather_every`` takes of each batch's training rows."""
    parts = [y[at : at + size][training[at : at + size]][::step] for at in range(0, len(y), size)]
    return np.concatenate(parts) if parts else y[:0]
