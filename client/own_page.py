"""A department's own report for a terminal, and as one HTML page; nobody gets it unless somebody sends it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commonroot import __version__
from commonroot.client.drawing.charts import (
    esc,
    gained,
    gains,
    interval,
    number,
    points,
    reliability,
    scores,
    verdict,
)
from commonroot.client.drawing.parts import cell, chart, details, html_table, legend, page, section, size
from commonroot.client.drawing.plots import picture
from commonroot.files import atomic_write, storage_errors

_STYLES = {"better": "green", "worse": "red", "undecided": "yellow"}


def show(facts: Mapping[str, Any], console: Console) -> None:
    """For people at a terminal."""
    name = f"{facts['name']}: {facts['task']}, {facts['n_train']:,} training rows, {facts['n_test']:,} test rows"
    table = Table(title=Text(name), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", str(facts["metric"]), "gain over alone [95 %]"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for model, score, gain in _models(facts):
        used = model == facts["choice"]
        style = _STYLES[verdict(facts)] if used else ""
        told = Text(f"{model} (in use)" if used else model, style="bold" if used else "")
        table.add_row(told, score, Text(gain, style))
    console.print(table)
    for part in facts["told"]:
        console.print(Text(part["heading"], style="bold"))
        console.print(Text(f"  {part['text']}"), soft_wrap=True)
    sent = Table("sent", "messages", "together", "what it tells", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in facts["sent"]:
        sent.add_row(row["kind"], f"{row['messages']:,}", size(row["bytes"]), row["means"])
    console.print(sent)


def _models(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, score and gain of each model that was compared; the gain is known of two of them."""
    gain = {str(facts["choice"]): f"{gained(facts['gain'], facts)} [{interval(facts, ', ')}]"}
    shared = facts["details"].get("gain_federated")
    if shared is not None:
        told = f"{gained(shared['points'], facts)} [{points(shared['low'])}, {points(shared['high'])}]"
        gain.setdefault("federated", told)
    known = {"alone": facts["alone"], "federated": facts["federated"] if shared is not None else None}
    known[str(facts["choice"])] = facts["chosen"]
    return [(name, number(score), gain.get(name, "")) for name, score in known.items() if score is not None]


def write_page(facts: Mapping[str, Any], path: Path) -> None:
    """The same with pictures, as one self-contained file for its owner alone.  Every text is escaped.

    Raises StorageFull or ConfigError where the disk refuses.
    """
    row = dict(facts)
    plot = picture(facts["details"].get("plot") or {}, "plot")
    sure = reliability(facts["details"].get("reliability"), "reliability")
    texts = {part["heading"]: part["text"] for part in facts["told"]}
    first, use, believed, left, came = (
        texts.get(heading, "")
        for heading in (
            "Did it help?",
            "Which model is in use, and why",
            "Can it be believed?",
            "What left this department",
            "What came in",
        )
    )
    believed = believed or "Its task gives no probabilities."
    contenders = "Those trained alone, by their loss on held-out rows; 1 is guessing."
    pair = "".join(f"<div>{chart(drawn)}</div>" for drawn in (sure, plot) if drawn)
    body = [
        section("Did it help?", first, legend("better", "undecided", "worse"), chart(gains([row]))),
        section("Which model is in use, and why", use, legend("alone", "federated", "chosen"), chart(scores([row]))),
        section(
            "Can it be believed?", believed or "Its task gives no probabilities.", f'<div class="pair">{pair}</div>'
        ),
        section("What left this department", left, _sent(facts), f'<p class="note">{esc(came)}</p>'),
        section("Every model compared", contenders, _alone(facts)),
    ]
    text = page(
        title=f"{facts['name']} — Commonroot",
        headline=_headline(facts),
        subtitle=f"{esc(facts['name'])}, {esc(facts['task'])} · for this department’s eyes",
        body="\n".join(body),
        footer=f"Made by Commonroot {esc(__version__)}. Charter <code>{esc(facts['charter'])}</code>.",
    )
    with storage_errors(path):
        atomic_write(path, text.encode(), mode=0o600)


def _headline(facts: Mapping[str, Any]) -> str:
    if facts["choice"] == "alone":
        return "Your own model stays: nothing changes"
    if facts["interval"] is None:
        return "A model without labels of your own"
    return {
        "better": "Joining helped, measurably",
        "worse": "The model in use is measurably worse than your own",
        "undecided": "No measurable difference yet",
    }[verdict(facts)]


def _sent(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            f'<th scope="row"><code>{esc(row["kind"])}</code></th>',
            cell(f"{row['messages']:,}", "n"),
            cell(size(row["bytes"]), "n"),
            cell(row["means"]),
        ]
        for row in facts["sent"]
    ]
    return html_table("Messages sent", ("kind", "messages", "together", "what it tells"), rows, numeric=(1, 2))


def _alone(facts: Mapping[str, Any]) -> str:
    rows = [
        [f'<th scope="row">{esc(one["name"])}</th>', cell(number(one["loss"], 4), "n")]
        for one in facts["details"].get("contenders", ())
    ]
    return details("As a table", html_table("Models trained alone", ("model", "held-out loss"), rows, numeric=(1,)))
