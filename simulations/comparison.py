"""Several methods on the same departments: rows, terminal tables and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from commonroot import __version__
from commonroot.client.drawing.charts import Row, esc, gained, number, points, verdict
from commonroot.client.drawing.parts import cell, html_table, page, section, size
from commonroot.files import atomic_write, storage_errors
from commonroot.simulations.report import named, write_html

_STYLES = {"better": "green", "worse": "red", "undecided": "dim"}


def table_rows(names: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each department and arm, by department.

    department, arm, task, metric, better; alone and federated, the metric on the department's own test rows; gain and
    interval [low, high] of the *federated* model over the best one trained alone, in unit (points, 0.01 of a metric
    that is a fraction, or % of an error); kept, what the department's guard chose without seeing those rows, with
    kept_score, kept_gain and kept_interval.  None where an arm
    has no federated model, and all but the first two where a department did not finish.  ``misbehaves`` is what it does
    on purpose that it should not, in words; the key is missing where that is nothing.
    """
    rows = []
    told = [{row["name"]: row for row in report["departments"]} for report in reports]
    for name in names:
        for report, by_name in zip(reports, told, strict=True):
            found = by_name.get(name)
            row = {"department": name, "arm": report["arm"]} | (_NOTHING if found is None else _row(found))
            if words := report.get("misbehaving", {}).get(name):
                row["misbehaves"] = words
            rows.append(row)
    return rows


_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "task",
        "metric",
        "better",
        "unit",
        "alone",
        "federated",
        "gain",
        "interval",
        "kept",
        "kept_score",
        "kept_gain",
        "kept_interval",
    )
)


def _row(found: Row) -> dict[str, Any]:
    effect = found["details"]["gain_federated"]
    return {
        "task": found["task"],
        "metric": found["metric"],
        "better": found.get("better", "higher"),
        "unit": found.get("unit", "points"),
        "alone": found["alone"],
        "federated": None if effect is None else found["federated"],
        "gain": None if effect is None else effect["points"],
        "interval": None if effect is None else [effect["low"], effect["high"]],
        "kept": found["choice"],
        "kept_score": found["chosen"],
        "kept_gain": found["gain"],
        "kept_interval": found["interval"],
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """The result for people."""
    if any(row["metric"] is not None for row in result["table"]):  # else no department has finished
        console.print(_departments(result))
    else:
        console.print(Text(_title(result), style="bold"))
    console.print(_arms(result))
    for report in result["arms"]:
        if report["state"] != "finished":
            console.print(f"{report['arm']} is {report['state']}: {report['reason'] or 'not every round was made'}")
        if "note" in report:
            console.print(f"{report['arm']}: {report['note']}")
    for line in result["arms"][0].get("faults", {}).get("told", ()):
        console.print(f"on purpose: {line}", soft_wrap=True)


def save(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``report.json`` and ``report.html`` into ``folder``, made where needed; the files written.

    One arm gets the report of a run, several get a page that compares them.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    page, record = folder / "report.html", folder / "report.json"
    atomic_write(record, json.dumps(result, indent=2, ensure_ascii=False).encode())
    with storage_errors(page):
        if len(result["arms"]) == 1:
            write_html(result["arms"][0], page)
        else:
            page.write_text(_page(result), encoding="utf-8")
    return [record, page]


# -- as text -----------------------------------------------------------------------------------------------------------

_DEPARTMENTS = ("department", "metric", "arm", "alone", "federated", "gain [95 %]", "keeps", "gain kept")
_ARMS = ("arm", "rounds", "lost", "held-out loss", "upload", "received", "seconds", "backbone")


def _departments(result: Mapping[str, Any]) -> Table:
    table = Table(title=Text(_title(result)), title_justify="left", title_style="bold")
    for name in _DEPARTMENTS:
        text = name in ("department", "metric", "arm", "keeps")
        table.add_column(Text(name), justify="left" if text else "right", no_wrap=not text)
    before = None
    for row in result["table"]:
        if before not in (None, row["department"]):
            table.add_section()
        first = row["department"] != before
        before = row["department"]
        table.add_row(
            _named(row) if first else Text(""),
            Text(_word(row["metric"]) if first else ""),
            Text(row["arm"]),
            number(row["alone"]),
            number(row["federated"]),
            _gain(row),
            _word(row["kept"]),
            gained(row["kept_gain"], row),
        )
    return table


def _named(row: Row) -> Text:
    """The department, and below it what it does that it should not."""
    text = Text(row["department"])
    for word in row.get("misbehaves", ()):
        text.append(f"\n! {word}", style="yellow")
    return text


def _arms(result: Mapping[str, Any]) -> Table:
    table = Table()
    for name in _ARMS:
        text = name in ("arm", "backbone")
        table.add_column(Text(name), justify="left" if text else "right", no_wrap=name != "arm")
    for report in result["arms"]:
        table.add_row(*(Text(cell) for cell in _arm_cells(report)))
    return table


def _arm_cells(report: Mapping[str, Any]) -> list[str]:
    received, backbone = report["bytes_received"], report["backbone"]
    return [
        report["arm"],
        f"{report['rounds']} of {report['rounds_wanted']}" if report["rounds_wanted"] else "–",
        str(report["lost_rounds"]),
        _losses(report["history"]),
        size(report["bytes_per_department_per_round"]) if report["rounds"] else "–",
        "–" if received is None else size(received),
        f"{report['wall_seconds']:.1f}",
        "–" if backbone is None else backbone[:16],
    ]


def _losses(history: Sequence[Row]) -> str:
    """The sums' held-out loss in the first and the last round; 1 is guessing."""
    known = [row["held_out"] for row in history if row.get("held_out") is not None]
    return f"{number(known[0])} → {number(known[-1])}" if known else "–"


def _gain(row: Row) -> Text:
    if row["gain"] is None or row["interval"] is None:
        return Text("–")
    low, high = row["interval"]
    return Text(f"{gained(row['gain'], row)} [{points(low)}, {points(high)}]", style=_STYLES[verdict(row)])


def _title(result: Mapping[str, Any]) -> str:
    arms = len(result["arms"])
    many = f"{arms} arms" if arms > 1 else "one arm"
    return f"{result['federation']}: {many}, {result['rounds_wanted']} rounds, seed {result['seed']}{on_device(result)}"


def on_device(result: Mapping[str, Any]) -> str:
    """To be put behind what says how a result came about: the device, where it was not the processor."""
    return "" if result["device"] == "cpu" else f", on {result['device']}"


def _word(value: object) -> str:
    return "–" if value is None else str(value)


# -- as a page ---------------------------------------------------------------------------------------------------------


def _page(result: Mapping[str, Any]) -> str:
    lead = (
        "The metric on each department's own test rows. Gains are of the federated model over the best model trained "
        "alone, in points (% where the metric is an error) with 95 % interval; an interval that crosses zero settles "
        "nothing."
    )
    costs = "Held-out loss is known only as sums over departments, first and last round; 1 is the loss of guessing."
    notes = [f"{report['arm']}: {report['note']}" for report in result["arms"] if "note" in report]
    notes += [
        f"{report['arm']} is {report['state']}: {report['reason']}"
        for report in result["arms"]
        if report["state"] != "finished"
    ]
    notes += result["arms"][0].get("faults", {}).get("told", [])
    body = [
        section("Departments and methods", lead, _html_departments(result["table"])),
        section("What each method cost", costs, _html_table(_ARMS, [_costs(report) for report in result["arms"]])),
        "".join(f'<p class="note">{esc(note)}</p>' for note in notes),
    ]
    return page(
        title=f"{result['federation']} — Commonroot",
        headline=_title(result),
        subtitle=f"Charter {esc(result['charter'])}, the same data, splits and seed in every arm",
        body="\n".join(body),
        footer=f"Made by Commonroot {esc(__version__)}.",
    )


def _html_departments(rows: Sequence[Row]) -> str:
    head = ("department", "metric", "arm", "alone", "federated", "gain", "95 % interval", "keeps", "gain kept")
    body = []
    for row in rows:
        cells = [
            f'<th scope="row">{esc(named(row, "department"))}</th>',
            *(cell(_word(row[k])) for k in ("metric", "arm")),
        ]
        cells += [cell(number(row[key]), "n") for key in ("alone", "federated")]
        if row["interval"] is None:
            cells += [cell("–", "n")] * 2
        else:
            low, high = row["interval"]
            cells += [
                cell(gained(row["gain"], row), f"n {verdict(row)}"),
                cell(f"{points(low)} … {points(high)}", "n"),
            ]
        cells += [cell(_word(row["kept"])), cell(gained(row["kept_gain"], row), "n")]
        body.append(cells)
    return _html_table(head, body)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = ("department", "metric", "arm", "keeps")
    numeric = [at for at, name in enumerate(head) if name not in text]
    return html_table("Departments" if "department" in head else "Methods", head, rows, numeric=numeric)


def _costs(report: Mapping[str, Any]) -> list[str]:
    first, *others = _arm_cells(report)
    return [f'<th scope="row">{esc(first)}</th>', *(cell(one, "n") for one in others)]
