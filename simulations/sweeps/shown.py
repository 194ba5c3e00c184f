"""A sweep for people and programs: a table in the terminal, CSV, Parquet, JSON, and a page with marginal plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commonroot import __version__
from commonroot.client.drawing.charts import esc, number, points
from commonroot.client.drawing.parts import cell, chart, html_table, page, section
from commonroot.files import atomic_write, storage_errors
from commonroot.simulations.sweeps.cells import short, told
from commonroot.simulations.sweeps.drawing import marginal

Row = Mapping[str, Any]

#: How test figures are headed wherever they are shown.
TEST: Final = "test gain, not to choose by"
LEAD: Final = (
    "Means over seeds, on private validation rows: losses in multiples of guessing; the gain is of federated models "
    "over those trained alone, as an evaluation of a deployed run would open it. No test row decides."
)
LEAD_QUICK: Final = (
    "Means over seeds of the held-out loss that the last round's sum carries, 1 is guessing: of the shared model as it "
    "is received, before departments fine-tune it."
)
_FILES: Final = ("sweep.json", "sweep.csv", "sweep.parquet", "sweep.html")


def frame_of_rows(result: Row, *, show_test: bool = False) -> pl.DataFrame:
    """One row for each cell: a column for each axis, then scores; values that are no plain numbers or words as text."""
    axes = result["axes"]
    columns: dict[str, list[Any]] = {}
    for axis in axes:
        values = [row["setting"].get(axis) for row in result["cells"]]
        kinds = {type(value) for value in values}
        plain = kinds <= {int, float} or kinds in ({bool}, {str})
        columns[axis] = [float(one) if float in kinds and plain else one if plain else told(one) for one in values]
    columns |= {"seed": [row["seed"] for row in result["cells"]]}
    numbers = ["alone", "federated", "gain", "error", "held_out", "seconds", *(["test_gain"] if show_test else [])]
    for name in ("state", "why", "rounds", *numbers, "key"):
        columns[name] = [row[name] for row in result["cells"]]
    found = pl.DataFrame(columns).with_columns(pl.col(numbers).cast(pl.Float64))
    return found.with_columns(pl.col("rounds").cast(pl.Int64), pl.col("why").cast(pl.String))


def without_test(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result as it is shown unless somebody asks for more."""
    hidden = {
        name: [{key: value for key, value in row.items() if key != "test_gain"} for row in result[name]]
        for name in ("cells", "settings")
    }
    return dict(result) | hidden


def save(result: Mapping[str, Any], folder: Path, *, show_test: bool = False) -> list[Path]:
    """Write ``sweep.json``, ``.csv``, ``.parquet`` and ``.html`` into a folder; the files."""
    record, text, columns, written = (folder / name for name in _FILES)
    said = dict(result) if show_test else without_test(result)
    frame = frame_of_rows(result, show_test=show_test)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic_write(record, json.dumps(said, indent=1, ensure_ascii=False, default=str).encode())
    atomic_write(text, frame.write_csv().encode())
    with storage_errors(columns):
        frame.write_parquet(columns)
    atomic_write(written, page_of(result, show_test=show_test).encode())
    return [record, text, columns, written]


# -- as text -----------------------------------------------------------------------------------------------------------


def show(result: Mapping[str, Any], console: Console, *, show_test: bool = False, most: int = 30) -> None:
    """The settings for people, best first."""
    quick, axes = result["quick"], _judged(result)
    about = "held-out losses of the last sums, 1 is guessing" if quick else "losses on validation rows, 1 is guessing"
    table = Table(title=Text(headline(result)), title_justify="left", title_style="bold", caption=f"mean {about}")
    for axis in axes:
        table.add_column(Text(short(axis)), overflow="fold")
    for name in _head(result, show_test):
        table.add_column(Text(name), justify="right", style="dim" if name == TEST else None)
    for row in result["settings"][:most]:
        values = [told(row["setting"][axis]) for axis in axes]
        table.add_row(*values, *_cells(row, result, show_test))
    console.print(table)
    if len(result["settings"]) > most:
        console.print(f"… and {len(result['settings']) - most} more settings", highlight=False)
    for line in in_words(result):
        console.print(line, highlight=False, soft_wrap=True)


def headline(result: Row) -> str:
    """What was run, as one line."""
    return f"{result['federation']}: {result['told']}"


def in_words(result: Row) -> list[str]:
    """What the sweep says and what it does not, a sentence a line."""
    rows = result["settings"]
    scored = [row for row in rows if row["score"] is not None]
    lines = [
        f"{_named(row)}: no score, {row['of'] - row['runs']} of {row['of']} cells did not finish"
        + (f": {row['why'].splitlines()[0]}" if row["why"] else "")
        for row in rows
        if row["score"] is None
    ][:10]
    if not scored:
        return [*lines, "nothing has a score yet"]
    best = scored[0]
    lines.insert(0, f"best: {_named(best)}")
    if not result["quick"] and best["score"] <= 0:
        lines.append("it is no better than training alone on these rows, so no setting is worth choosing by them")
    undecided = sum(1 for row in scored[1:] if not row["decides"])
    if undecided:
        others = "another setting" if undecided == 1 else f"{undecided} other settings"
        lines.append(f"these rows and seeds do not tell it from {others}")
    return lines


def _named(row: Row) -> str:
    return ", ".join(f"{axis} = {told(value)}" for axis, value in row["setting"].items()) or "the scenario as it is"


def _judged(result: Row) -> list[str]:
    return [axis for axis in result["axes"] if axis != "seed"]


def _head(result: Row, show_test: bool) -> list[str]:
    scores = ["held-out loss"] if result["quick"] else ["alone", "federated", "gain"]
    return [*scores, "against the best", "cells", "seconds", *([TEST] if show_test else [])]


def _cells(row: Row, result: Row, show_test: bool) -> list[str]:
    score = "–"
    if row["score"] is not None:
        score = f"{row['score']:.3f}" if result["quick"] else f"{row['score']:+.3f}"
        score += "" if row["error"] is None else f" ± {row['error']:.3f}"
    losses = [] if result["quick"] else [number(row["alone"]), number(row["federated"])]
    behind = row["behind"]
    against = "best" if row["score"] is not None else "–"
    if behind is not None:
        against = f"{-behind[0]:+.3f} ± {behind[1]:.3f}" + ("" if row["decides"] else ", undecided")
    out = [*losses, score, against, f"{row['runs']} of {row['of']}", number(row["seconds"], 1)]
    return [*out, points(row["test_gain"])] if show_test else out


# -- as a page ---------------------------------------------------------------------------------------------------------


def page_of(result: Mapping[str, Any], *, show_test: bool = False) -> str:
    """One self-contained page: the table of settings, and a marginal plot for each axis."""
    axes = _judged(result)
    head = [*axes, *_head(result, show_test)]
    rows = []
    for row in result["settings"]:
        values = [cell(told(row["setting"][axis])) for axis in axes]
        rows.append([*values, *(cell(one, "n") for one in _cells(row, result, show_test))])
    numeric = range(len(axes), len(head))
    lead = LEAD_QUICK if result["quick"] else LEAD
    score = "held-out loss" if result["quick"] else "gain"
    plots = [
        chart(marginal(axis, result["settings"], score=score, name=f"marginal-{at}")) for at, axis in enumerate(axes)
    ]
    body = [
        section("Settings, best first", lead, html_table("Settings", head, rows, numeric=list(numeric))),
        section("In words", "", f"<ul>{''.join(f'<li>{esc(line)}</li>' for line in in_words(result))}</ul>"),
    ]
    if axes and any(row["score"] is not None for row in result["settings"]):
        told_of = "A ring is a setting, a dot the mean of all that share the value: other axes move too."
        body.append(section("Axis by axis", told_of, f'<div class="pair">{"".join(plots)}</div>'))
    return page(
        title=f"{result['federation']} — Commonroot",
        headline=headline(result),
        subtitle=f"Sweep <code>{esc(result['name'])}</code>",
        body="\n".join(body),
        footer=f"Made by Commonroot {esc(__version__)}.",
    )


def settings_frame(rows: Sequence[Row], axes: Sequence[str]) -> pl.DataFrame:
    """Settings, best first, as a frame: a column for each axis as text, then scores."""
    names = ("score", "error", "alone", "federated", "held_out", "seconds")
    columns: dict[str, list[Any]] = {axis: [told(row["setting"][axis]) for row in rows] for axis in axes}
    columns |= {name: [row[name] for row in rows] for name in names}
    columns |= {"runs": [row["runs"] for row in rows], "of": [row["of"] for row in rows]}
    columns["decides"] = [row["decides"] for row in rows]
    found = pl.DataFrame(columns).with_columns(pl.col(list(names)).cast(pl.Float64))
    return found.with_columns(pl.col("decides").cast(pl.Boolean))
