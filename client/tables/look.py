"""A look at a table, for whoever writes the ``[data]`` section: columns, kinds, a guess at the target; no values."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.decimals import are_written_with_commas, with_points
from commonroot.client.tables.kinds import kind_of_column
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import Reading, Source, open_source
from commonroot.client.tables.sql_source import open_query
from commonroot.client.tasks.registry import kinds

#: Names that a target likes to have, the likeliest first.
TARGETS: Final = ("label", "target", "y", "class", "outcome", "rating", "score", "rul", "sales", "price", "value")
#: A column of whole numbers with more different values than this is counted, not named.
_LABELS: Final = 20
_SEPARATORS: Final = (";", "\t", "|")
#: Kinds whose cells are rows of a shape of their own.
_ALONE: Final = frozenset({"image", "sequence", "tokens"})
#: Of a CSV, looked at for its encoding.
_BYTES: Final = 16 << 20
#: Columns listed in a section; more are counted.
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    rows       looked at, not all there are
    columns    name → (kind, share of gaps, different values)
    target     named, or guessed
    task       named, or guessed
    separator  of a CSV
    encoding   of a CSV, guessed where it is not UTF-8
    decimal    what the numbers of a CSV have before their fractions
    """

    rows: int
    columns: dict[str, tuple[str, float, int]]
    target: str
    task: str
    separator: str
    encoding: str = "utf-8"
    decimal: str = "."


def look_at(
    path: Path | None, *, url: str = "", query: str = "", target: str | None = None, task: str | None = None
) -> Look:
    """Look at a file, a folder of images or a query.  Raises DataError where there is nothing to look at."""
    missing = DataConfig.model_fields["missing"].get_default()
    problems = Problems()
    separator, encoding, decimal = ",", "utf-8", "."
    source: Source | None
    if path is None:
        source = open_query(url, query, Path.cwd(), problems)
    else:
        wanted = [target] if target is not None else [name for name in TARGETS if path.suffix.lower() == ".npz"]
        encoding = _encoding(path)
        separator = _separator(path, encoding)
        reading = Reading(separator=separator, encoding=encoding, missing=missing)
        source = open_source(path, reading, problems, targets=wanted, required=target is not None)
    problems.refuse()
    if source is None:
        raise ValueError("a source without problems was opened")
    frame = source.look()
    if separator != "," and (commas := [one.name for one in frame if _comma(one)]):
        decimal, frame = ",", frame.with_columns(map(with_points, commas))
    chosen = target or _guess_target(list(source.schema))
    if chosen not in source.schema:
        fix = "name one of the table's columns with --target"
        problems.add(Problem(file=source.name, column=chosen, found="no such column", expected="the target", fix=fix))
        problems.refuse()
    columns = {}
    for name in source.schema:
        series = frame[name]
        gaps = float(series.null_count() / max(1, len(series)))
        distinct = 0 if series.dtype.is_nested() else series.n_unique()
        columns[name] = (str(kind_of_column(series, missing=missing)), gaps, distinct)
    task = task or _guess_task(frame[chosen], columns[chosen][0])
    return Look(len(frame), columns, chosen, task, separator, encoding, decimal)


def section(path: Path | None, look: Look, *, url: str = "", query: str = "", seed: int | None = None) -> str:
    """A commented ``[data]`` section."""
    lines = ["", "[data]"]
    if path is not None:
        lines.append(f"path = {json.dumps(str(path), ensure_ascii=False)}")
    else:
        lines += ["# The connection can only read; keep passwords out of it (PGPASSFILE, PGPASSWORD)."]
        lines += [f"url = {json.dumps(url)}", f"query = {json.dumps(query, ensure_ascii=False)}"]
    if look.separator != ",":
        lines.append(f"separator = {json.dumps(look.separator)}")
    if look.decimal != ".":
        lines.append(f"decimal = {json.dumps(look.decimal)}    # 1.234,5 is a number")
    if look.encoding != "utf-8":
        lines.append(f"encoding = {json.dumps(look.encoding)}    # it is not UTF-8, and this is a guess")
    lines += [
        f"target = {json.dumps(look.target, ensure_ascii=False)}    # the column to predict",
        f"task = {json.dumps(look.task)}    # {', '.join(kinds())}",
    ]
    if seed is not None:
        lines.append(f"seed = {seed}    # of the private split; keep it to yourself")
    features = [name for name in look.columns if name != look.target]
    lines += [
        "",
        f"# What a look at {look.rows} rows says.  Every column but the target is a feature unless listed here:",
    ]
    for name in features[:_SHOWN]:
        kind, gaps, distinct = look.columns[name]
        missing = f", {gaps:.0%} missing" if gaps else ""
        values = f", {distinct} values" if kind == "category" else ""
        lines.append(f"#   {json.dumps(name, ensure_ascii=False)}: {kind}{values}{missing}")
    if len(features) > _SHOWN:
        lines.append(f"#   … and {len(features) - _SHOWN} more")
    example = ", ".join(
        f"{{ column = {json.dumps(name, ensure_ascii=False)}, kind = {json.dumps(look.columns[name][0])} }}"
        for name in features[:2]
    )
    chosen = features if path is not None and path.is_dir() else _together(look, features)
    if len(chosen) < len(features):
        left = ", ".join(json.dumps(name, ensure_ascii=False) for name in features if name not in chosen)
        listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in chosen)
        lines += [f"# Empty, or of a kind that makes rows of its own; left out: {left}", f"features = [{listed}]"]
    else:
        lines.append(f"#features = [{example}]")
    lines += [
        "",
        "# How rows are parted: random, stratified, grouped or time.",
        f'#split = {{ kind = "grouped", column = {json.dumps(features[0] if features else "customer")}, test = 0.2 }}',
        "# Rows seen with those before them, for time series:",
        '#window = { group = "machine", order = "time", steps = 30 }',
        "",
    ]
    return "\n".join(lines)


def _together(look: Look, features: list[str]) -> list[str]:
    """Features that make one row together: no empty column and, beside others, none whose cells are rows themselves."""
    filled = [name for name in features if look.columns[name][1] < 1]
    plain = [name for name in filled if look.columns[name][0] not in _ALONE]
    return (plain or filled[:1]) if len(filled) > 1 else filled or features


def _encoding(path: Path) -> str:
    """UTF-8 where a look at the bytes finds nothing else; then by its first two, or what Windows writes in Europe."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return "utf-8"
    with path.open("rb") as file:
        seen = file.read(_BYTES)
    if seen[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(seen)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _separator(path: Path, encoding: str) -> str:
    """What parts the cells of the header: a comma unless only another one does."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return ","
    with path.open("rb") as file:
        header = file.read(1 << 16).decode(encoding, errors="replace").partition("\n")[0]
    found = [one for one in _SEPARATORS if one in header]
    return found[0] if "," not in header and found else ","


def _comma(series: pl.Series) -> bool:
    return isinstance(series.dtype, pl.String) and are_written_with_commas(series)


def _guess_target(names: list[str]) -> str:
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in TARGETS if name in lowered), names[-1] if names else "label")


def _guess_task(series: pl.Series, kind: str) -> str:
    distinct = series.drop_nulls().n_unique() if not series.dtype.is_nested() else 2
    if kind == "number":
        numbers = series.cast(pl.Float64, strict=False).drop_nulls()
        if distinct > _LABELS or (len(numbers) and bool((numbers != numbers.round()).any())):
            return "regression"
    return "binary" if distinct == 2 else "classification"
