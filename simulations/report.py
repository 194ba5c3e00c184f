"""The report of a federation, for a terminal and as one HTML file that needs no network to be read.

A report is a plain mapping, as ``simulate --json`` prints it::

    federation  name                     charter  hash, hex
    rounds      rounds that opened       seconds_per_round  mean, seconds
    bytes_per_department_per_round       upload of one department in one round, bytes
    departments list of: name, task, metric, n_train, n_test; alone, federated, chosen (the metric on the department's
                own test rows; None where there is none), better (``higher`` or ``lower``); gain and interval
                [low, high] of chosen over alone in unit (``points``, 100 × a metric that is a fraction, or
                ``%``, the share of an error that is gone); choice (which model the guard kept) and why; misbehaves
                (list of words) where it does on purpose what it should not
    history     list of: round, version, cohort, survivors, loss, held_out (None for a lost round), seconds,
                clipped_share
    coordinator_saw  what departments sent, list of: kind, bytes, and parcels (how many; absent where nobody counted)
    faults      what was done to the federation on purpose, by name; absent or empty for nothing.  A list ``told`` of
                sentences is shown as it is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from commonroot import __version__
from commonroot.client.drawing.charts import (
    Row,
    esc,
    gained,
    gains,
    interval,
    losses,
    number,
    points,
    scores,
    seconds,
    unit_of,
    verdict,
)
from commonroot.client.drawing.parts import cell, chart, details, html_table, legend, page, section, size
from commonroot.client.drawing.plots import picture
from commonroot.common import parcel

Report = Mapping[str, Any]

#: What a message of each kind tells the coordinator.
MEANINGS = {
    parcel.READY: "the department approved the charter and its data fits",
    parcel.GREETING: "a signature under the roster, and sealed keys for the other departments",
    parcel.INTRODUCED: "which departments it has met, signed",
    parcel.TRAINED: "the department has trained and waits for the round to open",
    parcel.MASKED: "a vector under masks; it opens only as part of a sum",
    parcel.CONFIRMED: "a signature under one survivor set, before anything is opened for it",
    parcel.SHARES: "shares of one-time mask secrets, for one survivor set",
    parcel.CLOSED: "the department took over the final backbone",
    parcel.REFUSAL: "an error code, without its text",
    parcel.GOODBYE: "the department has left for good, signed",
}
_STYLES = {"better": "green", "worse": "red", "undecided": "dim"}


def render_table(report: Report) -> Table:
    """The departments' results as a table for the terminal."""
    table = Table(
        title=Text(f"{report['federation']}: {_headline(report)}"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("department\nand task", no_wrap=True)
    for name in ("rows\nand metric", "alone", "federated", "chosen", "gain [95 %]"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in report["departments"]:
        table.add_row(
            _two_lines(named(row), str(row["task"])),
            _two_lines(f"{row['n_train']:,}+{row['n_test']:,}", str(row["metric"])),
            *(Text(number(row[key])) for key in ("alone", "federated")),
            _two_lines(number(row["chosen"]), str(row["choice"])),
            Text(f"{gained(row['gain'], row)} [{interval(row, ', ')}]", style=_STYLES[verdict(row)]),
        )
    return table


def _two_lines(above: str, below: str) -> Text:
    """Two facts in one column, so that the table fits 80 columns."""
    return Text(f"{above}\n").append(below, style="dim")


def write_html(report: Report, path: Path | str) -> None:
    """Write the report as one self-contained HTML file.  Every text of the report is escaped."""
    parts = [_tiles(report), *_results(report["departments"])]
    parts += [_rounds(report["history"]), _seen(report), _faults(report.get("faults") or {})]
    text = page(
        title=f"{report['federation']} — Commonroot",
        headline=_headline(report),
        subtitle=f"Federation {esc(report['federation'])} · charter <code>{esc(str(report['charter'])[:16])}…</code>",
        body="\n".join(filter(None, parts)),
        footer=f"Made by Commonroot {esc(__version__)}. Charter <code>{esc(report['charter'])}</code>.",
    )
    Path(path).write_text(text, encoding="utf-8")


def _results(departments: Sequence[Row]) -> list[str]:
    if not departments:
        return [section("Did it help?", "No department has reported yet.")]
    return [
        section(
            "Did it help?",
            "What each department gains with the model its guard chose, over the best model it can train alone, on "
            "test rows that no model saw. An interval that crosses zero settles nothing.",
            legend("better", "undecided", "worse"),
            chart(gains(departments)),
            _table_of_departments(departments),
        ),
        section(
            "Alone, federated, chosen",
            "The department's own metric on its own test rows; bars of an error are relative to its longest. The guard "
            "chose without seeing these rows.",
            legend("alone", "federated", "chosen"),
            chart(scores(departments)),
            details("Which model each department keeps, and why", _choices(departments)),
        ),
        *_closer(departments),
    ]


def _closer(departments: Sequence[Row]) -> list[str]:
    """A picture of the kept model for each department whose task drew one."""
    parts = []
    for at, row in enumerate(departments):
        details = row.get("details")
        drawn = picture(details.get("plot") or {}, f"plot-{at}") if isinstance(details, Mapping) else ""
        if drawn:
            parts.append(f"<div><h3>{esc(row['name'])}, {esc(row['task'])}</h3>{chart(drawn)}</div>")
    if not parts:
        return []
    lead = "The kept model on each department's own test rows, as its task shows them."
    return [section("A closer look", lead, f'<div class="pair">{"".join(parts)}</div>')]


def _headline(report: Report) -> str:
    kinds = [verdict(row) for row in report["departments"]]
    better, worse = kinds.count("better"), kinds.count("worse")
    if not kinds:
        return "no results yet"
    first = f"{better} of {len(kinds)} departments measurably better together"
    return f"{first}, {worse or 'none'} measurably worse"


def _tiles(report: Report) -> str:
    found = [float(row["gain"]) for row in report["departments"] if row["gain"] is not None]
    unit = unit_of(report["departments"])
    mean = sum(found) / len(found) if found else None
    least = min(found, default=None)
    tiles = [
        (f"mean gain, {unit}", points(mean), _mood(mean)),
        (f"least gain, {unit}", points(least), "bad" if _mood(least) == "bad" else ""),
        ("departments", str(len(report["departments"])), ""),
        ("rounds", f"{report['rounds']:,}", ""),
        ("seconds per round", number(report["seconds_per_round"], 2), ""),
        ("upload per round and department", size(report["bytes_per_department_per_round"]), ""),
    ]
    inner = "".join(
        f'<div class="tile {kind}"><dt>{esc(name)}</dt><dd>{esc(text)}</dd></div>' for name, text, kind in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


def _mood(gain: float | None) -> str:
    return "" if not gain else "good" if gain > 0 else "bad"


def _rounds(history: Sequence[Row]) -> str:
    if not history:
        return ""
    head = ("round", "backbone", "in the sum", "training loss", "held-out loss", "seconds", "clipped")
    rows = [
        [
            cell(row["round"], "n"),
            cell(row["version"], "n"),
            cell(f"{row['survivors']} of {row['cohort']}", "n"),
            cell(number(row["loss"], 4), "n"),
            cell(number(row["held_out"], 4), "n"),
            cell(number(row["seconds"], 2), "n"),
            cell("–" if row["clipped_share"] is None else f"{100 * row['clipped_share']:.2f} %", "n"),
        ]
        for row in history
    ]
    table = html_table("Every round", head, rows, numeric=range(7))
    loss = section(
        "Loss over rounds",
        "Known only as sums over departments; 1 is the loss of guessing.",
        legend("held out", "training"),
        chart(losses(history)),
        details("Every round as a table", table),
    )
    time = section(
        "Seconds per round",
        "From opening a round to its new backbone.",
        legend("everybody in the sum", "somebody missing"),
        chart(seconds(history)),
    )
    return f'<div class="pair">{loss}{time}</div>'


def _seen(report: Report) -> str:
    kinds = sorted({str(row["kind"]) for row in report["coordinator_saw"]})
    rows = []
    for kind in kinds:
        those = [row for row in report["coordinator_saw"] if row["kind"] == kind]
        counted = all("parcels" in row for row in those)
        rows.append(
            [
                f'<th scope="row"><code>{esc(kind)}</code></th>',
                cell(f"{sum(row['parcels'] for row in those):,}" if counted else "–", "n"),
                cell(size(sum(row["bytes"] for row in those)), "n"),
                cell(MEANINGS.get(kind, "–")),
            ]
        )
    head = ("kind", "messages", "together", "what it tells")
    return section(
        "What the coordinator saw",
        "Everything that departments sent, by kind. It opened sums and nothing else.",
        html_table("Messages from departments", head, rows, numeric=(1, 2)),
        '<p class="note">Not among them: rows, labels, private heads, and any one department’s update, row count '
        "or loss. The coordinator does learn who took part, when, and how large each message was; and a sum over few "
        "departments still says something about each.</p>",
    )


def _faults(faults: Mapping[str, Any]) -> str:
    if not faults:
        return ""
    told = "".join(f"<li>{esc(line)}</li>" for line in faults.get("told", ()))
    facts = "".join(
        f"<dt>{esc(_words(name))}</dt><dd>{esc(_plain(value))}</dd>" for name, value in faults.items() if name != "told"
    )
    lead = "Done to this federation while it ran."
    return section("Faults on purpose", lead, f"<ul>{told}</ul>" * bool(told), f'<dl class="facts">{facts}</dl>')


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _plain(value: object) -> str:
    """A value as a person reads it: lists by semicolons, mappings as words, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)}: {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(_plain(inner) for inner in value) or "none"
    return "–" if value is None else str(value)


def _table_of_departments(departments: Sequence[Row]) -> str:
    head = ("department", "task", "metric", "train", "test", "alone", "federated", "chosen", "gain", "95 % interval")
    rows = []
    for row in departments:
        rows.append(
            [
                f'<th scope="row">{esc(named(row))}</th>',
                cell(row["task"]),
                cell(row["metric"]),
                *(cell(f"{row[key]:,}", "n") for key in ("n_train", "n_test")),
                *(cell(number(row[key]), "n") for key in ("alone", "federated", "chosen")),
                cell(gained(row["gain"], row), f"n {verdict(row)}"),
                cell(interval(row), "n"),
            ]
        )
    return details("The same as a table", html_table("Results by department", head, rows, numeric=range(3, 10)))


def named(row: Row, key: str = "name") -> str:
    """A department, and in brackets what it does on purpose that it should not."""
    words = ", ".join(row.get("misbehaves", ()))
    return f"{row[key]} (misbehaves: {words})" if words else str(row[key])


def _choices(departments: Sequence[Row]) -> str:
    rows = [
        [f'<th scope="row">{esc(named(row))}</th>', cell(row["choice"]), cell(row["why"], "why")] for row in departments
    ]
    return html_table("The guard's choices", ("department", "keeps", "because"), rows, numeric=())
