"""The first step: the source is opened and looked at, its columns are planned, and its target and keys are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from commonroot.client.tables.coded import Codes
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.encode import Side
from commonroot.client.tables.job import Job
from commonroot.client.tables.parting import Keys
from commonroot.client.tables.plan import Plan, make_plan, plan_keys
from commonroot.client.tables.source import Held, Source, Table, columns_in, open_source
from commonroot.client.tables.sql_source import open_query
from commonroot.client.tables.target import cell_kinds, item_counts, takes_several, target_frame


def open_tables(job: Job) -> tuple[Side, Plan, Side | None]:
    """The department's table, the plan of its features, and the table of test rows where there is one.

    Raises DataError where that much cannot be found.
    """
    source = _open(job, job.config.path, Held(job.memory, _asked(job.config)))
    second = None
    if job.config.test_path is not None:
        second = _open(job, job.config.test_path)
    if source is None:
        job.problems.refuse()
        raise ValueError("a source without problems was opened")
    job.look = source.look()
    _check_ahead(job, source)
    plan = make_plan(job.config, source, job.look, job.goal, job.problems)
    missing = _check_columns(job, source, job.config.learned_targets)
    several = len(job.config.targets) > 1 and not takes_several(job.config)
    if several:
        found, expected = f"{len(job.config.targets)} targets", f"one for a {job.config.goal_kind}"
        job.wrong(source, found, expected, "name one column in `target`")
    if plan is None or missing or several:
        if plan is not None and not len(job.look):
            no_rows(job, source)
        job.problems.refuse()
    if plan is None:
        raise ValueError("a plan without problems was made")
    main = _side(job, source, plan)
    tested = None
    if second is not None:
        fix = "the test rows need the columns of the others"
        if not _check_columns(job, second, [*plan.wanted, *job.config.targets], fix):
            tested = _side(job, second, plan, labelled=True)
    return main, plan, tested


def open_keys(job: Job, opened: Source | None) -> Side:
    """The department's table without features: what decides which rows are for training.  Raises DataError.

    opened  where it is open already
    """
    source = opened or _open(job, job.config.path)
    if source is None:
        job.problems.refuse()
        raise ValueError("a source without problems was opened")
    job.look = source.look()
    keyed = plan_keys(job.config, source, job.look, job.problems)
    _check_columns(job, source, job.config.learned_targets)
    if keyed is None or job.problems:
        job.problems.refuse()
        raise ValueError("keys without problems were found")
    return _side(job, source, Plan((), keyed[0], keyed[1], "row", None))


def no_rows(job: Job, source: Source) -> None:
    """A table that ends below its header."""
    job.wrong(source, "no rows", "at least one row", "fill the table")


def _asked(config: DataConfig) -> frozenset[str] | None:
    """Every column that the configuration names; None where it takes all there are."""
    if config.listed is None:
        return None
    split = config.split.column if config.split is not None else None
    window = (config.window.order, config.window.group) if config.window is not None else ()
    named = [*(one.column for one in config.listed), *config.targets, split, *window]
    return frozenset(name for name in named if name is not None)


def _open(job: Job, path: Path | None, held: Held | None = None) -> Source | None:
    if path is None:
        return open_query(str(job.config.url), str(job.config.query), job.folder, job.problems)
    required = job.config.labelled or path == job.config.test_path
    return open_source(
        job.folder / path, job.reading, job.problems, targets=job.config.targets, required=required, held=held
    )


def _check_columns(
    job: Job, source: Source, names: Sequence[str], fix: str = "add the column or mend the configuration"
) -> list[str]:
    """Those that the source lacks, each a problem."""
    schema = source.schema
    missing = [name for name in names if name not in schema]
    for name in missing:
        job.wrong(source, "no such column", "it in row 1", fix, column=name)
    return missing


def _check_ahead(job: Job, source: Source) -> None:
    """What lies ahead is looked for in a column of single values; lists hold their future already."""
    target = job.config.targets[0] if job.config.targets else ""
    if job.config.horizon is None or not isinstance(source.schema.get(target), pl.List | pl.Array):
        return
    found, expected = "lists, under a `horizon` beside a `window`", "a number a row, whose next ones are the target"
    job.wrong(
        source, found, expected, "leave `horizon` out of window and task where the lists are the target", column=target
    )
    job.problems.refuse()


def _side(job: Job, source: Source, plan: Plan, *, labelled: bool | None = None) -> Side:
    """With its target and keys read, and their problems told.

    labelled  whether it has a target; as the configuration says of the department's own table where not given
    """
    has = job.config.labelled if labelled is None else labelled
    kinds = cell_kinds(job.config, job.look) if has else {}
    wanted = kinds | plan.wanted
    names = list(dict.fromkeys([*kinds, *plan.keys]))
    tagged = plan.chosen[0].column if job.targets.kind.per_token and plan.form == "token" else None
    if tagged is not None and tagged not in names:
        names.append(tagged)
    names = names or list(wanted)[:1]  # something to count rows by
    codes = Codes((name for name in wanted if name not in plan.keys), whole=source.bytes <= job.memory)
    table = Table(
        source, wanted, missing=job.config.missing, memory=job.memory, decimal=job.config.decimal, codes=codes
    )
    if job.slow:
        table.slower()
    if table.held:
        read = columns_in(table.whole(job.problems), names)
    else:
        parts = [frame for _, frame in table.batches(names, problems=job.problems)]
        read = pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame({name: [] for name in names})
    keys = Keys(columns_in(read, list(plan.keys)), plan.window)
    tokens = None if tagged is None else item_counts(read[tagged])
    target = target_frame(read, job.config) if has else pl.DataFrame()
    return Side(source, table, target, len(read), keys, tokens)
