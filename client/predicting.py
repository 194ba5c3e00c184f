"""``department predict``: rows in, named columns out, with the model this department chose.

Rows are read, predicted and written batch by batch, so memory is bounded by a batch where the source allows it; what
is written appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from commonroot.client.data import Problems, kept_columns, read_batches
from commonroot.client.folder import DepartmentFolder
from commonroot.client.out.sinks import CsvSink, ListSink, Sink, as_frame, open_file
from commonroot.client.predictor import Predictor
from commonroot.client.recommender import RECORD, Recommender
from commonroot.client.store import DepartmentStore
from commonroot.client.tables.source import Source
from commonroot.client.tables.sql_source import open_query
from commonroot.common.errors import ConfigError
from commonroot.console import say


def chosen_folder(root: Path) -> Path:
    """Where the newest chosen model of a department's folder lies; an exported folder is its own.

    Raises ConfigError where no run has ended yet.
    """
    if (root / "predictor.json").is_file() or (root / RECORD).is_file():
        return root
    config = DepartmentFolder(root).config
    store = DepartmentStore(root, federation=config.federation, department=config.name)
    try:
        path = store.latest_predictor()
    finally:
        store.close()
    if path is None:
        raise ConfigError(f"{root} holds no chosen model yet", hint="one is chosen when a run ends")
    return path


def chosen_predictor(root: Path) -> Predictor | Recommender:
    """The newest chosen model of a department's folder, or the one of an exported folder.  Raises ConfigError."""
    path = chosen_folder(root)
    return Recommender.load(path) if (path / RECORD).is_file() else Predictor.load(path)


def load_predictor(path: Path) -> Predictor:
    """The predictor of its own folder.  Raises ConfigError for a recommender, which reads users and no features."""
    if (path / RECORD).is_file():
        raise ConfigError(
            "the chosen model is a recommender, which is no predictor", hint="`department predict` and `profiles`"
        )
    return Predictor.load(path)


def chosen_recommender(root: Path) -> Recommender:
    """The same where it must be a recommender.  Raises ConfigError where it is not."""
    found = chosen_predictor(root)
    if not isinstance(found, Recommender):
        raise ConfigError(
            f"the chosen model of {root} predicts no ratings", hint="only recommenders know the best items"
        )
    return found


def predictions(
    predictor: Predictor, source: Path | None, *, url: str = "", query: str = "", keep: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Kept and predicted columns, batch by batch; at least one batch.  Raises DataError or ConfigError."""
    names = tuple(dict.fromkeys(keep))
    for frame, folder in read_batches(source, predictor.features, url=url, query=query, keep=names):
        yield as_frame(predictor.predict(frame, folder), kept_columns(frame, names), names)


def predict(
    root: Path,
    source: Path | None,
    *,
    url: str | None = None,
    query: str | None = None,
    keep: Sequence[str] = (),
    out: str | None = None,
    out_url: str | None = None,
    table: str = "predictions",
    replace: bool = False,
    top: int | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Predict a file, a folder of images or a query; into a file, a database, or the terminal.

    out  a .csv or .parquet file, or the URL of a database (as ``out_url``)
    top  of a recommender: that many best items of each user in the file instead

    Raises ConfigError for options that contradict each other, DataError for rows; nothing is written then.
    """
    if (source is None) == (url is None) or (url is None) != (query is None):
        raise ConfigError("give a file or folder of rows, or --url with --query", hint="one source at a time")
    if out is not None and "://" in out:
        if out_url is not None:
            raise ConfigError("--out and --out-url name a database each", hint="give one")
        out, out_url = None, out
    if out is not None and out_url is not None:
        raise ConfigError("--out and --out-url: one place at a time", hint="run it twice")
    chosen = chosen_recommender(root) if top is not None else chosen_predictor(root)
    if isinstance(chosen, Recommender):
        frames = iter([_of_recommender(chosen, source or _asked(str(url), str(query)), keep, top)])
    else:
        frames = predictions(chosen, source, url=url or "", query=query or "", keep=keep)
    rows, columns = 0, []
    with _sink(out, out_url, table, replace=replace, as_json=as_json) as sink, _progress(as_json) as tell:
        for frame in frames:
            sink.write(frame)
            rows, columns = rows + len(frame), frame.columns
            tell(rows)
        sink.commit()
        if isinstance(sink, ListSink):
            say(json.dumps(sink.columns, default=str, ensure_ascii=False))
    return {"rows": rows, "columns": columns}


def profiles(root: Path, *, top: int, segments: int, out: Path | None, as_json: bool) -> dict[str, Any]:
    """One line per user of a recommender; into a .csv or .parquet file or the terminal."""
    found = pl.DataFrame(chosen_recommender(root).profiles(top=top, segments=segments))
    with _sink(None if out is None else str(out), None, "", replace=False, as_json=as_json) as sink:
        sink.write(found)
        sink.commit()
        if isinstance(sink, ListSink):
            say(json.dumps(sink.columns, default=str, ensure_ascii=False))
    return {"rows": len(found), "columns": found.columns}


def _asked(url: str, query: str) -> Source:
    """The rows of a query.  Raises DataError."""
    problems = Problems()
    found = open_query(url, query, Path(), problems)
    problems.refuse()
    if found is None:
        raise ValueError("a query without problems was asked")
    return found


def _of_recommender(chosen: Recommender, source: Path | Source, keep: Sequence[str], top: int | None) -> pl.DataFrame:
    if keep:
        raise ConfigError("a recommender reads users and items and keeps both", hint="leave --keep out")
    return pl.DataFrame(chosen.predict_file(source) if top is None else chosen.recommend_file(source, top))


def _sink(out: str | None, url: str | None, table: str, *, replace: bool, as_json: bool) -> Sink:
    if url is not None:
        from commonroot.client.out.sql_sink import SqlSink

        return SqlSink(url, table, replace=replace)
    if out is not None:
        return open_file(Path(out))
    return ListSink() if as_json else CsvSink()


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """Counts rows on standard error, where somebody watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda rows: None
        return
    shown = Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} rows predicted"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with shown:
        line = shown.add_task("rows", total=None)
        yield lambda rows: shown.update(line, completed=rows)
