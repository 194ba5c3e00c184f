"""What the transfer benchmark found: tables for a terminal, and one HTML page that needs no network to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from commonroot import __version__
from commonroot.client.drawing.charts import esc, gains, number, points
from commonroot.client.drawing.parts import chart, details, html_table, legend, page, section, size
from commonroot.files import storage_errors
from commonroot.simulations.report_transfer_charts import choices, curves
from commonroot.simulations.transfer_summary import Arm, Reading, label, worse

_STYLES = {"worse": "red", "no worse": "green", "no evidence of harm": "dim"}
#: A picture of more departments than this is folded away.
MOST_SHOWN = 20


# -- as text -----------------------------------------------------------------------------------------------------------


def tables(found: Sequence[Arm]) -> list[Table]:
    """One table for each dataset and protocol."""
    ordered = sorted(found, key=_place_of)
    return [_table(list(some)) for _, some in groupby(ordered, _place_of)]


def _place_of(arm: Arm) -> tuple[str, str]:
    return arm.dataset, arm.protocol


def _table(some: Sequence[Arm]) -> Table:
    first = some[0]
    seeds = len(first.cells)
    title = f"{first.dataset} ({first.protocol}): {len(first.departments)} departments, {seeds} seed(s)"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for name in ("method", "alone", "shared", "gain of all [95 %]", "worse", "kept", "gain kept [95 %]", "worse"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
    for name in ("rounds", "received", "seconds"):
        table.add_column(name, justify="right")
    for arm in some:
        received, rounds, seconds = (arm.cost(name) for name in ("bytes_received", "rounds", "seconds"))
        table.add_row(
            Text(label(arm)),
            number(arm.score("alone")),
            number(arm.score("federated")),
            *_gain(arm, "federated"),
            number(arm.score("kept")),
            *_gain(arm, "kept"),
            f"{rounds:.0f}" if rounds else "–",
            size(int(received)) if received else "–",
            number(seconds, 0),
        )
    return table


def _gain(arm: Arm, reading: Reading) -> tuple[Text, Text]:
    if not arm.having(reading):
        return Text("–"), Text("–")
    found, harmed = arm.mean_gain(reading), worse(arm.findings(reading))
    style = "green" if found.low > 0 else "red" if found.high < 0 else "dim"
    told = f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"
    return Text(told, style=style), Text(f"{len(harmed)} of {len(arm.having(reading))}", style="red" if harmed else "")


# -- as a page ---------------------------------------------------------------------------------------------------------


def write_page(summary: Mapping[str, Any], path: Path) -> None:
    """Everything of a summary as one self-contained page."""
    places: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for arm in summary["arms"]:
        places.setdefault((arm["dataset"], arm["protocol"]), []).append(arm)
    asked = [row for row in summary["rows"] if row["target"] != "none"]
    body = [_asked(asked)] if asked else []
    body += [_place(at, *place, some) for at, (place, some) in enumerate(places.items())]
    if summary["not_run"]:
        body.append(_not_run(summary["not_run"]))
    held = sum(row["holds"] for row in asked)
    harmed = sum(len(arm["gain_kept"]["worse"]) for arm in summary["arms"] if arm["own"] and "gain_kept" in arm)
    departments = "1 department" if harmed == 1 else f"{harmed or 'no'} departments"
    text = page(
        title="Does transfer help?",
        headline=f"{held} of {len(asked)} targets reached; {departments} significantly worse",
        subtitle=f"Seeds {', '.join(map(str, summary['seeds']))}; gains are over each department's best local model",
        body="\n".join(body),
        footer=f"Made by Commonroot {esc(__version__)}.",
    )
    with storage_errors(path):
        path.write_text(text, encoding="utf-8")


def _asked(rows: Sequence[Mapping[str, Any]]) -> str:
    lead = "What must be reached, and what was. A row that misses says what stands beside it."
    cells = [
        [
            f'<th scope="row">{esc(row["what"])}</th>',
            f'<td class="n">{esc(row["target"])}</td>',
            _n("–" if row["value"] is None else f"{row['value']:.4g}".replace("-", "−")),
            f'<td class="{"better" if row["holds"] else "worse"}">{"yes" if row["holds"] else "no"}</td>',
            f'<td class="why">{esc(row.get("why", ""))}</td>',
        ]
        for row in rows
    ]
    head = ("what", "target", "found", "holds", "beside it")
    return section("Targets", lead, html_table("Targets", head, cells, numeric=(1, 2)))


def _place(at: int, dataset: str, protocol: str, some: Sequence[Mapping[str, Any]]) -> str:
    own = next((arm for arm in some if arm["own"]), some[0])
    parts = [_methods(some)]
    rows = [_row(department, "gain_kept") for department in own["departments"]]
    if rows:
        drawn = legend("better", "undecided", "worse") + chart(gains(rows, name=f"gains-{at}"))
        parts.append(drawn if len(rows) <= MOST_SHOWN else details(f"The gain of each of {len(rows)}", drawn))
    losses = curves({arm["method"]: arm["curve"] for arm in some if arm["curve"]}, f"curves-{at}")
    guards = choices({arm["method"]: arm["choices"] for arm in some}, f"choices-{at}")
    pictures = [(losses, "Held-out loss by round"), (guards, "What guards kept")]
    halves = "".join(f"<div><h3>{esc(title)}</h3>{chart(drawn)}</div>" for drawn, title in pictures if drawn)
    parts.append(f'<div class="pair">{halves}</div>')
    parts.append(details("Every department", _departments(own)))
    about = own["about"][0].upper() + own["about"][1:]
    lead = f"{about}. Gains of the model each department's guard kept under {own['method']}, with 95 % intervals."
    return section(f"{dataset} ({protocol})", lead, *parts)


def _row(department: Mapping[str, Any], reading: str) -> dict[str, Any]:
    """A department as the report's pictures take it."""
    gain = department[reading]
    return {
        "name": department["name"],
        "gain": gain["mean"],
        "interval": [gain["low"], gain["high"]],
        "unit": department["unit"],
    }


def _methods(some: Sequence[Mapping[str, Any]]) -> str:
    head = ("method", "alone", "shared", "gain of all", "worse", "kept", "gain kept", "worse", "rounds", "received")
    rows = []
    for arm in some:
        cells = [f'<th scope="row">{esc(arm["method"])}</th>']
        for which, reading in (("federated", "gain_federated"), ("kept", "gain_kept")):
            if which == "federated":
                cells.append(_n(number(arm["scores"]["alone"])))
            cells.append(_n(number(arm["scores"][which])))
            gain = arm.get(reading)
            if gain is None:
                cells += [_n("–"), _n("–")]
                continue
            told = f"{points(gain['mean'])} [{points(gain['low'])}, {points(gain['high'])}]"
            cells += [_n(told), _n(f"{len(gain['worse'])} of {gain['departments']}")]
        received, rounds = arm["bytes_received"], arm["rounds"]
        cells += [_n(f"{rounds:.0f}" if rounds else "–"), _n(size(int(received)) if received else "–")]
        rows.append(cells)
    return html_table("Methods", head, rows, numeric=range(1, 10))


def _departments(arm: Mapping[str, Any]) -> str:
    head = ("department", "metric", "rows", "alone", "shared", "kept", "gain", "95 % interval", "verdict", "keeps")
    rows = []
    for one in arm["departments"]:
        gain = one["gain_kept"]
        rows.append(
            [
                f'<th scope="row">{esc(one["name"])}</th>',
                f"<td>{esc(one['metric'])}</td>",
                _n(f"{one['n_train']:,}+{one['n_test']:,}"),
                *(_n(number(one[which])) for which in ("alone", "federated", "kept")),
                _n(points(gain["mean"])),
                _n(f"{points(gain['low'])} … {points(gain['high'])}"),
                f"<td>{esc(gain['verdict'])}</td>",
                f'<td class="why">{esc(", ".join(one["choices"]))}</td>',
            ]
        )
    return html_table("Departments", head, rows, numeric=range(2, 8))


def _not_run(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            f'<th scope="row">{esc(row["dataset"])} ({esc(row["protocol"])})</th>',
            f"<td>{esc(row['method'])}</td>",
            _n(str(row["seed"])),
            f'<td class="why">{esc(row["why"])}</td>',
        ]
        for row in rows
    ]
    lead = "Methods that do not fit the data, and data that is not on this machine."
    return section("Not run", lead, html_table("Not run", ("data", "method", "seed", "why"), cells, numeric=(2,)))


def _n(text: str) -> str:
    return f'<td class="n">{esc(text)}</td>'
