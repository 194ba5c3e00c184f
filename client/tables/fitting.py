"""The second step: features are fitted to the training rows in one pass, and what is wrong with them is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.encode import Side, assembled
from commonroot.client.tables.features import Features
from commonroot.client.tables.job import Job
from commonroot.client.tables.leaks import FIRST, SAMPLE, could_be_labels, find_leaks
from commonroot.client.tables.part import Fitter, Picked
from commonroot.client.tables.plan import Plan, fitters
from commonroot.client.tables.problems import Problems
from commonroot.client.tables.source import BATCH, columns_in
from commonroot.client.tables.split import TRAIN
from commonroot.common.backbone.inputs import RowInput, SequenceInput


def fit(job: Job, main: Side, plan: Plan, tested: Side | None) -> Features:
    """All features, fitted.  Raises DataError that lists everything that is wrong with any table."""
    fitting = fitters(
        plan,
        job.config,
        main.source,
        job.look,
        adapter=job.adapter,
        shared=job.shared,
        checkpoint=job.checkpoint,
    )
    columns = list(plan.wanted)
    step = max(1, int(np.count_nonzero(main.where == TRAIN)) // SAMPLE)
    sample: list[pl.DataFrame] = []
    sampled: list[NDArray[np.int64]] = []
    told = None if main.table.held else job.problems
    for at, rows in _training(main, columns, told):
        for one in fitting:
            one.add(rows)
        if job.targets.comparable:
            sampled.append(at[::step])
            if not main.table.held:
                sample.append(rows.every(step))
    if tested is not None and not tested.table.held:
        for _ in tested.table.batches(columns, problems=job.problems):
            pass  # told now, before anything is written
    _told(job, main, fitting)
    _check_leaks(job, main, plan, sample, sampled)
    job.problems.refuse()
    parts = tuple(one.done() for one in fitting)
    features = assembled(plan, parts, job.reading)
    _check_shape(job, main, features)
    job.problems.refuse()
    return features


def _training(main: Side, columns: list[str], told: Problems | None) -> Iterator[tuple[NDArray[np.int64], Picked]]:
    """(positions, rows) for training of one batch after the other; none of a batch that has none."""
    for start, table in main.columns(columns, problems=told):
        at = np.flatnonzero(main.where[start : start + len(table)] == TRAIN)
        ends = np.searchsorted(at, np.arange(0, len(table) + BATCH, BATCH)).tolist()
        for begin, end in pairwise(ends):
            if begin < end:
                yield start + at[begin:end], Picked(table, at[begin:end])


def _told(job: Job, main: Side, fitting: Sequence[Fitter]) -> None:
    told = {problem.column for problem in job.problems}
    for one in fitting:
        for column, found, expected, fix in one.faults() if main.rows else []:
            if column in told:
                continue  # why is told already
            job.wrong(main.source, found, expected, fix, column=column)
        job.notes += one.notes()


def _check_leaks(
    job: Job, main: Side, plan: Plan, sample: list[pl.DataFrame], sampled: list[NDArray[np.int64]]
) -> None:
    """``sampled``: positions of some training rows; ``sample``: these rows, where the table is not held."""
    if job.problems or not job.targets.comparable or not sampled:
        return
    names = [one.column for one in plan.chosen if one.column not in job.config.trusted]
    if not names:
        return
    at = np.concatenate(sampled)
    y, labels = main.y[at], job.targets.labels
    if main.table.held:
        rows = columns_in(main.table.whole(job.problems), names)
        if labels:  # a few rows tell of most columns that they are none
            names = could_be_labels(rows[at[:FIRST]], names, y)
        frame = columns_in(rows, names)[at] if names else rows[at[:0]]
    else:
        frame = pl.concat(sample, how="vertical_relaxed")
    for name in find_leaks(frame, names, y, labels=labels):
        fix = f"leave it out of `features`, or say `trusted = [{name[:60]!r}]` if it is known before the target is"
        job.wrong(main.source, "a copy of the target", "what is known before the target", fix, column=name)


def _check_shape(job: Job, main: Side, features: Features) -> None:
    if job.goal is None:
        return
    found, wanted = features.input, job.goal
    if isinstance(found, RowInput) and isinstance(wanted, RowInput):
        if found.width != wanted.width and not job.adapter:
            fix = "list exactly the columns that the charter was made for in `features`"
            if any(name.endswith(" missing") for name in features.names):
                fix += ', and give those with gaps missing = "mean"'
            _wrong_shape(job, main, f"{found.width} feature columns", str(wanted.width), fix)
    elif isinstance(found, SequenceInput) and isinstance(wanted, SequenceInput):
        if found.channels != wanted.channels and not job.adapter:
            fix = "list exactly the columns that the charter was made for in `features`"
            _wrong_shape(job, main, f"{found.channels} channels", str(wanted.channels), fix)
        elif found.steps != wanted.steps:
            _wrong_shape(job, main, f"{found.steps} steps", str(wanted.steps), "mend `steps`")
    elif found != wanted:
        _wrong_shape(job, main, f"rows of shape {found.shape}", f"{wanted.shape}", "mend `features`")


def _wrong_shape(job: Job, main: Side, found: str, wanted: str, fix: str) -> None:
    job.wrong(main.source, found, f"{wanted}, as the charter's backbone takes", fix)
