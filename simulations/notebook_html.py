"""How a notebook shows what came out of a simulation: a table, what it took, and two pictures, as HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from commonroot.client.drawing.charts import gained, number, points
from commonroot.simulations.pictures import Picture

#: Beyond so many rows a summary is no summary.
_MOST_ROWS: Final = 40
_HEAD: Final = ("department", "metric", "arm", "alone", "federated", "gain [95 %]", "keeps", "gain kept")


def summary(
    told: str,
    report: Mapping[str, Any],
    costs: pl.DataFrame,
    *,
    gains: Callable[[], Picture],
    rounds: Callable[[], Picture],
) -> str:
    """Every word escaped, pictures with a style of their own.

    told    one line about the simulation
    report  of the simulation, as JSON values
    costs   what each arm took
    gains   draws each department's gain; rounds: losses over rounds.  Called only where there is something to draw
    """
    parts = [f"<p><b>{html.escape(told)}</b></p>"]
    shown = [row for row in report["table"] if row["task"] is not None]
    if shown:
        parts.append(_html_table(_HEAD, [_cells(row) for row in shown[:_MOST_ROWS]]))
    if len(shown) > _MOST_ROWS:
        parts.append(f"<p>… and {len(shown) - _MOST_ROWS} more rows in <code>.table</code></p>")
    parts += [_html_table(tuple(costs.columns), [[_word(v) for v in row] for row in costs.iter_rows()])]
    for one in report["arms"]:
        if one["state"] != "finished":
            parts.append(f"<p>{html.escape(one['arm'])} is {one['state']}: {html.escape(str(one['reason']))}</p>")
        if "note" in one:
            parts.append(f"<p>{html.escape(one['arm'])}: {html.escape(one['note'])}</p>")
    faults = report["arms"][0].get("faults", {}).get("told", ())
    parts += [f"<p>on purpose: {html.escape(line)}</p>" for line in faults]
    if 0 < len(shown) <= _MOST_ROWS and any(row["gain"] is not None for row in shown):
        parts.append(_image(gains(), "gain of each department, as in the table above"))
    if any(one["history"] for one in report["arms"]):
        parts.append(_image(rounds(), "losses over rounds"))
    return "".join(parts)


def _cells(row: Mapping[str, Any]) -> list[str]:
    gain = "–"
    if row["gain"] is not None and row["interval"] is not None:
        gain = f"{gained(row['gain'], row)} [{', '.join(points(end) for end in row['interval'])}]"
    return [
        *(str(row[name]) for name in ("department", "metric", "arm")),
        number(row["alone"]),
        number(row["federated"]),
        gain,
        str(row["kept"]),
        gained(row["kept_gain"], row),
    ]


def _word(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)[:16]


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _image(picture: Picture, told: str) -> str:
    data = base64.b64encode(picture.svg.encode()).decode()
    return f'<img alt="{html.escape(told)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'
