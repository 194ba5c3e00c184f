"""The report says what the numbers say, escapes every word, and needs nothing from a network."""

from __future__ import annotations

import copy
import io
import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from commonroot.client.drawing.charts import gains, losses, number, points, scores, seconds, ticks, verdict
from commonroot.simulations.report import MEANINGS, render_table, size, write_html


def department(name: str, gain: float, low: float, high: float, **changes: object) -> dict[str, object]:
    row = {
        "name": name,
        "task": "classification",
        "metric": "accuracy",
        "n_train": 1200,
        "n_test": 300,
        "alone": 0.8,
        "federated": 0.83,
        "chosen": 0.8 + gain / 100,
        "gain": gain,
        "interval": [low, high],
        "choice": "federated",
        "why": "the lower bound is the largest",
    }
    return {**row, **changes}


def round_(at: int, **changes: object) -> dict[str, object]:
    row = {"round": at, "version": at, "cohort": 3, "survivors": 3, "loss": 1.0 / at, "held_out": 1.1 / at}
    return {**row, "seconds": 0.5, "clipped_share": 0.01, **changes}


REPORT = {
    "federation": "works",
    "charter": "ab" * 32,
    "rounds": 3,
    "seconds_per_round": 0.5,
    "bytes_per_department_per_round": 132_000,
    "departments": [
        department("sales", 5.0, 2.0, 8.0),
        department("service", 0.4, -1.0, 1.8, federated=None),
        department("quality", -3.0, -4.0, -2.0, metric="explained variance"),
    ],
    "coordinator_saw": [
        {"kind": "masked", "bytes": 910_000, "parcels": 7},
        {"kind": "masked", "bytes": 260_000, "parcels": 2},
        {"kind": "shares", "bytes": 9_000},
    ],
    "history": [round_(1), round_(2, loss=None, held_out=None, survivors=0, clipped_share=None), round_(3)],
}
HOSTILE = "</title><script>alert('x')</script>\"&'$body"


class _Reader(HTMLParser):
    """Collects tags, attributes and text, and insists that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(tmp_path, report) -> tuple[str, _Reader]:
    write_html(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return page, reader


def test_a_page_needs_nothing_from_a_network(tmp_path):
    page, reader = read(tmp_path, REPORT)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not {"src", "href", "srcset", "onload", "onclick"} & {name for name, _ in reader.attributes}
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in reader.attributes


def test_every_word_of_a_report_is_escaped(tmp_path):
    report = copy.deepcopy(REPORT)
    report["federation"] = report["charter"] = HOSTILE
    for row in report["departments"]:
        row.update(name=HOSTILE, task=HOSTILE, metric=HOSTILE, choice=HOSTILE, why=HOSTILE)
    report["coordinator_saw"].append({"kind": HOSTILE, "bytes": 1})
    report["faults"] = {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}
    page, reader = read(tmp_path, report)
    assert "script" not in reader.tags
    assert page.count("<script") == 0
    assert any(HOSTILE in text for text in reader.text)


def test_a_dollar_in_a_name_is_only_a_dollar(tmp_path):
    report = {**REPORT, "federation": "$style ${mark} $$"}
    assert "$style ${mark} $$" in read(tmp_path, report)[0]


def test_the_headline_counts_intervals_and_not_dots(tmp_path):
    """5.0 [2, 8] lies above zero, 0.4 [−1, 1.8] crosses it, −3.0 [−4, −2] lies below."""
    assert [verdict(row) for row in REPORT["departments"]] == ["better", "undecided", "worse"]
    text = " ".join(read(tmp_path, REPORT)[1].text)
    assert "1 of 3 departments measurably better together, 1 measurably worse" in text


def test_nobody_is_called_better_on_an_interval_that_touches_zero():
    assert verdict(department("x", 1.0, 0.0, 2.0)) == "undecided"
    assert verdict(department("x", -1.0, -2.0, 0.0)) == "undecided"


def test_the_tiles_are_the_mean_and_the_least_gain(tmp_path):
    """(5.0 + 0.4 − 3.0) / 3 = 0.8; the least is −3.0."""
    page, _ = read(tmp_path, REPORT)
    assert "<dt>mean gain, points</dt><dd>+0.8</dd>" in page
    assert "<dt>least gain, points</dt><dd>−3.0</dd>" in page
    assert "<dd>132 kB</dd>" in page


def test_messages_are_added_up_by_kind(tmp_path):
    """910,000 B + 260,000 B = 1.17 MB, shown as 1.2 MB, in 7 + 2 = 9; nobody counted the parcels of shares."""
    text = read(tmp_path, REPORT)[1].text
    at = text.index("masked")
    assert text[at : at + 4] == ["masked", "9", "1.2 MB", MEANINGS["masked"]]
    at = text.index("shares")
    assert text[at : at + 3] == ["shares", "–", "9.0 kB"]


def test_every_message_kind_of_a_department_is_explained():
    from commonroot.common.parcel import TO_COORDINATOR

    assert set(MEANINGS) == TO_COORDINATOR


def test_faults_are_shown_only_where_there_were_any(tmp_path):
    assert "Faults on purpose" not in read(tmp_path, {**REPORT, "faults": {}})[0]
    faults = {"dropped_messages": 12, "intact": True, "killed": [{"who": "a", "in_round": 5}], "told": ["a was killed"]}
    page, _ = read(tmp_path, {**REPORT, "faults": faults})
    assert "<li>a was killed</li>" in page
    for fact in (
        "<dt>dropped messages</dt><dd>12</dd>",
        "<dt>intact</dt><dd>yes</dd>",
        "<dt>killed</dt><dd>who: a, in round: 5</dd>",
    ):
        assert fact in page


def test_a_federation_without_rounds_or_results_still_has_a_report(tmp_path):
    page, _ = read(tmp_path, {**REPORT, "history": [], "rounds": 0, "departments": []})
    assert "Loss over rounds" not in page
    assert "no results yet" in page
    assert render_table({**REPORT, "departments": []}).row_count == 0


@pytest.mark.parametrize("draw", [gains, scores, losses, seconds])
def test_a_chart_is_valid_xml_with_a_title_and_a_description(draw):
    rows = REPORT["departments"] if draw in (gains, scores) else REPORT["history"]
    root = ElementTree.fromstring(draw(rows))
    assert root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    assert [root.find(f"*[@id='{name}']").tag for name in named] == ["title", "desc"]
    assert all((root.find(f"*[@id='{name}']").text or "").strip() for name in named)


def test_dots_stand_in_the_order_of_their_gains_and_within_their_whiskers():
    root = ElementTree.fromstring(gains(REPORT["departments"]))
    circles = [float(node.get("cx")) for node in root.iter("circle")]  # sales +5.0, service +0.4
    assert circles[0] > circles[1]
    whiskers = [node for node in root.iter("line") if (node.get("class") or "").startswith("whisker")]
    spans = [sorted((float(n.get("x1")), float(n.get("x2")))) for n in whiskers if n.get("y1") == n.get("y2")]
    assert all(low < x < high for x, (low, high) in zip(circles, spans[:2], strict=True))


def test_a_worse_department_differs_by_shape_and_not_by_colour_alone():
    root = ElementTree.fromstring(gains([department("x", -3.0, -4.0, -2.0)]))
    assert not list(root.iter("circle"))
    assert [node.get("class") for node in root.iter("path")] == ["dot worse"]


def test_bars_are_as_long_as_their_scores():
    """.8 and .4 on one axis that starts at 0: the first bar is twice as long."""
    root = ElementTree.fromstring(scores([department("x", 0.0, -1.0, 1.0, alone=0.8, federated=0.4, chosen=0.8)]))
    widths = [float(node.get("width")) for node in root.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], rel=1e-3)
    assert widths[0] == widths[2]


def test_a_score_that_is_missing_is_a_dash_and_a_negative_one_points_left():
    root = ElementTree.fromstring(scores([department("x", 0.0, -1.0, 1.0, alone=-0.2, federated=None, chosen=0.4)]))
    left, right = [(float(node.get("x")), float(node.get("width"))) for node in root.iter("rect")]
    assert left[0] + left[1] == pytest.approx(right[0], abs=0.1)
    assert "–" in [node.text for node in root.iter("text")]


def test_a_lost_round_leaves_a_gap_in_the_lines():
    paths = [node.get("d") for node in ElementTree.fromstring(losses(REPORT["history"])).iter("path")]
    assert [path.count("M") for path in paths] == [2, 2]


def test_a_round_whose_held_out_rows_were_not_scored_leaves_none():
    history = [round_(1), round_(2, held_out=None), round_(3)]
    paths = [node.get("d") for node in ElementTree.fromstring(losses(history)).iter("path")]
    assert [(path.count("M"), path.count("L")) for path in paths] == [(1, 2), (1, 1)]


def test_a_round_without_everybody_is_hatched():
    root = ElementTree.fromstring(seconds(REPORT["history"]))
    bars = [node.get("class") for node in root.iter("rect") if node.find("title") is not None]
    assert bars == ["bar federated", "bar short", "bar federated"]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_round_evenly_spaced_and_cover_the_data(one, other):
    low, high = sorted((one, other))
    found = ticks(low, high)
    step = found[1] - found[0]
    assert 2 <= len(found) <= 12
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert all(b - a == pytest.approx(step) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("gain", "text"), [(5.04, "+5.0"), (-3.0, "−3.0"), (0.04, "±0.0"), (-0.04, "±0.0"), (None, "–")]
)
def test_a_gain_shows_its_sign_and_none_that_rounding_took_away(gain, text):
    assert points(gain) == text


def test_numbers_and_sizes_read_as_people_write_them():
    assert [number(v) for v in (0.5, -1.25, 1234.5, None, float("nan"))] == ["0.500", "−1.250", "1,234.500", "–", "–"]
    assert [size(v) for v in (0, 999, 1000, 132_820, 30_353_400, 2 * 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "133 kB",
        "30.4 MB",
        "2.0 GB",
    ]


def test_the_terminal_table_has_a_row_for_each_department_and_no_markup_of_theirs():
    report = copy.deepcopy(REPORT)
    report["departments"][0]["name"] = "[red]sales[/red]"
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_table(report))
    text = console.export_text()
    assert "[red]sales[/red]" in text
    assert "+5.0 [+2.0, +8.0]" in text
    assert "−3.0 [−4.0, −2.0]" in text
