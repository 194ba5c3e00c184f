"""From a source to rows: look, split, fit in one pass, encode in a second.  Everything wrong is told at once.

A table that fits is read once and held; a larger one is read in batches, for its keys and target, for fitting, and for
encoding into files that are mapped (``store.py``).  Nothing is written before the data is known to be sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.encode import Side, encode_sides
from commonroot.client.tables.features import Features
from commonroot.client.tables.fitting import fit
from commonroot.client.tables.job import Job
from commonroot.client.tables.opening import no_rows, open_keys, open_tables
from commonroot.client.tables.parting import check_later, part_rows
from commonroot.client.tables.pinned import Pin, pin_split, pinned_split
from commonroot.client.tables.rows import Prepared, Rows
from commonroot.client.tables.source import MEMORY, CellsNotTyped, Source
from commonroot.client.tables.split import LEFT_OUT, TEST, TRAIN, balanced
from commonroot.client.tables.store import FOLDER, Shelf, cache_key, cached
from commonroot.client.tables.target import wide
from commonroot.client.tasks.recommendation import RECOMMENDATION
from commonroot.client.tasks.registry import task_class
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.backbone.inputs import Input, RowInput
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
        raise ConfigError(
            "tags belong to words, and a pretrained tokenizer cuts words into pieces",
            hint="use a charter whose backbone is a transformer of its own words",
        )
    goal = spec_input or (RowInput(inputs) if inputs is not None else None)
    for attempt in (1, 2):
        job = Job(
            config=config, folder=folder, slow=attempt == 2, goal=goal, adapter=adapter, shared=shared,
            checkpoint=checkpoint, root=root, pin=pin, memory=memory,
        )  # fmt: skip
        try:
            return _prepared(job)
        except CellsNotTyped:
            continue
    raise ValueError("reading cell by cell asks for no types")


def training_rows(config: DataConfig, *, folder: Path = Path(), source: Source | None = None) -> NDArray[np.int64]:
    """Positions in the source of the rows that training may see, as ``prepare`` parts them, whatever their features.

    source  where it is open already: a query that is asked twice may answer in another order

    Raises DataError.
    """
    for attempt in (1, 2):
        try:
            return _training(Job(config=config, folder=folder, slow=attempt == 2), source)
        except CellsNotTyped:
            continue
    raise ValueError("reading cell by cell asks for no types")


def _prepared(job: Job) -> Prepared:
    main, plan, tested = open_tables(job)
    prints = "" if job.root is None and job.pin is None else _fingerprint(main, tested)
    shelved = _shelved(job, prints)
    if shelved is not None and shelved.is_dir():
        found = cached(shelved)
        if found is not None and (job.pin is None or job.pin.path.is_file() or not job.pin.write):
            _pinned(job, main, prints)
            return found
    _check_targets(job, main, tested)
    if tested is not None and not job.problems:
        check_later(main, tested, job.config, job.problems)
    _part(job, main, prints, sound=not job.problems)
    features = fit(job, main, plan, tested)
    if tested is not None:
        tested.where = np.full(tested.rows, TEST, dtype=np.uint8)
        if tested.keys.last is not None:
            tested.where[tested.keys.last < 0] = LEFT_OUT
    if job.pin is not None:
        pin_split(job.pin, main.where, fingerprint=prints, config=job.config)
    sides = [main] if tested is None else [main, tested]
    return _encoded(job, features, sides, shelved)


def _training(job: Job, opened: Source | None) -> NDArray[np.int64]:
    main = open_keys(job, opened)
    _check_targets(job, main, None)
    _part(job, main, "", sound=not job.problems)
    job.problems.refuse()
    return main.at(TRAIN)


def _fingerprint(main: Side, tested: Side | None) -> str:
    return main.source.fingerprint() + ("" if tested is None else tested.source.fingerprint())


def _check_targets(job: Job, main: Side, tested: Side | None) -> None:
    for side in (main, tested):
        if side is not None and not side.rows:
            no_rows(job, side.source)
    job.targets.look(main, tested, job.problems)
    needed = max(FEWEST_ROWS, (job.config.test_rows or 0) + FEWEST_ROWS)
    if 0 < main.rows < needed:
        job.wrong(main.source, f"{main.rows} rows", f"at least {needed}", "collect more rows")


def _part(job: Job, main: Side, prints: str, *, sound: bool) -> None:
    main.where = np.full(main.rows, TRAIN, dtype=np.uint8)
    if not sound:  # no split can be drawn; fit to every row, to tell what is wrong with the features too
        return
    part_rows(main, job.config, job.targets.labels, job.problems)
    pinned = _pinned(job, main, prints)
    if pinned is not None:
        main.where = pinned


def _pinned(job: Job, main: Side, prints: str) -> NDArray[np.uint8] | None:
    if job.pin is None:
        return None
    return pinned_split(job.pin, fingerprint=prints, config=job.config, rows=main.rows)


def _shelved(job: Job, prints: str) -> Path | None:
    if job.root is None:
        return None
    shared = "" if job.shared is None else job.shared.fingerprint
    tokens = "" if job.checkpoint is None else job.checkpoint.model_dump_json()
    facts = (
        job.config.model_dump_json(exclude={"decimal"} if job.config.decimal == "." else None),
        prints,
        repr(job.goal),
        str(job.adapter),
        shared,
        tokens,
        str(job.memory),
    )
    return job.root / FOLDER / cache_key(*facts)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _encoded(job: Job, features: Features, sides: list[Side], shelved: Path | None) -> Prepared:
    rows = sum(side.rows for side in sides)
    bytes_all = rows * int(np.prod(features.input.shape)) * 4
    large = bytes_all > job.memory or not all(side.table.held for side in sides)
    shelf = Shelf(shelved if large else None)
    try:
        arrays = encode_sides(features, sides, shelf)
        task = job.targets.fitted(sides[0], features, arrays[TRAIN])
        encoded = [job.targets.encode(task, side) for side in sides]
        train, validation, test = (
            Rows(x, _joined([wide(y.take(side.at(place), axis=0)) for y, side in zip(encoded, sides, strict=True)]))
            for place, x in enumerate(arrays)
        )
        if job.config.balance:
            train = train.take(balanced(train.y, seed=job.config.split_seed))
        return shelf.finish(Prepared(task, features, train, validation, test, tuple(job.notes), job.config.labelled))
    except BaseException:
        shelf.discard()
        raise
