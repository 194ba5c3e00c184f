"""What a department's own report says, in numbers and in words."""

from __future__ import annotations

import io
import json
import re

import pytest
from federation import small
from rich.console import Console

from commonroot.client.own_page import show, write_page
from commonroot.client.own_report import own_report, received, sent, told
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import ConfigError, Malformed
from commonroot.common.ledger import append


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A federation after a whole run of two rounds with real training."""
    return small.trained(small.founded(tmp_path_factory.mktemp("reported"), rounds=2))


@pytest.fixture(scope="module")
def facts(finished):
    return own_report(finished.departments["ash"].root)


def report(**changes):
    """A report as a run writes it, as far as sentences read it."""
    plain = {
        "name": "ash",
        "task": "classification",
        "metric": "accuracy",
        "unit": "points",
        "n_train": 80,
        "n_test": 400,
        "alone": 0.8,
        "alone_model": "regularised linear",
        "federated": 0.84,
        "chosen": 0.83,
        "choice": "both",
        "why": "it lowers the loss",
        "gain": 3.0,
        "interval": [1.0, 5.0],
        "charter": "00" * 32,
        "details": {"gain_federated": {"points": 4.0, "low": 1.0, "high": 6.0}, "facts": {}},
        "sent": [{"kind": "masked", "messages": 2, "bytes": 3000, "means": "–"}],
        "received": {"versions": 3, "bytes_each": 1000, "bytes": 3000},
    }
    return plain | changes


def sentence(heading, **changes):
    return {part["heading"]: part["text"] for part in told(report(**changes))}.get(heading, "")


def entries(*facts):
    out = []
    for kind, one in facts:
        out.append(append(out[-1] if out else None, at=0.0, kind=kind, facts=one))
    return out


def test_messages_are_summed_by_kind_the_largest_first():
    """two uploads of 700 and 300 bytes and one of 90 shares"""
    found = sent(
        entries(
            ("sent", {"what": "masked", "bytes": 700}),
            ("sent", {"what": "shares", "bytes": 90}),
            ("approved", {"charter": "x"}),
            ("sent", {"what": "masked", "bytes": 300}),
        )
    )
    assert [(row["kind"], row["messages"], row["bytes"]) for row in found] == [("masked", 2, 1000), ("shares", 1, 90)]
    assert all(row["means"] != "–" for row in found)


def test_what_came_in_is_a_backbone_per_round_and_the_last_one():
    """rounds 1 and 2, the second sent twice over, and the close: 3 versions of 40 bytes"""
    upload = {"what": parcel.MASKED, "bytes": 1, "charter": "c"}
    some = entries(
        ("sent", upload | {"round": 1}),
        ("sent", upload | {"round": 2}),
        ("sent", upload | {"round": 2}),
        ("sent", upload | {"round": 1, "charter": "other"}),
        ("closed", {"charter": "c"}),
    )
    assert received(some, 40, "c") == {"versions": 3, "bytes_each": 40, "bytes": 120}
    assert received(some, None, "c") == {"versions": 3, "bytes_each": None, "bytes": None}


def test_a_real_runs_report_adds_up(finished, facts):
    root = finished.departments["ash"].root
    store = DepartmentStore(root, federation=finished.charter.charter.federation, department="ash")
    try:
        left = [entry.facts["bytes"] for entry in store.ledger() if entry.kind == "sent"]
    finally:
        store.close()
    assert sum(row["bytes"] for row in facts["sent"]) == sum(left) > 0
    assert facts["received"]["versions"] == 3
    assert facts["received"]["bytes"] == 3 * facts["received"]["bytes_each"] > 0
    assert 0 <= facts["details"]["reliability"]["error"] <= 1
    assert sum(row["rows"] for row in facts["details"]["reliability"]["bins"]) == facts["n_test"]


def test_a_ledger_that_was_changed_is_not_reported_from(finished, monkeypatch):
    good = entries(("sent", {"what": "masked", "bytes": 7}), ("sent", {"what": "masked", "bytes": 8}))
    monkeypatch.setattr("commonroot.client.own_report._ledger", lambda root: good[1:])
    with pytest.raises(Malformed):
        own_report(finished.departments["ash"].root)


def test_before_a_run_there_is_nothing_to_report(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        own_report(tmp_path)


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({}, "Yes: the model in use is 3.0 points better"),
        ({"interval": [-1.0, 7.0]}, "It cannot be told"),
        ({"gain": -3.0, "interval": [-5.0, -1.0]}, "No: on 400 test rows the model in use is 3.0 points worse"),
        ({"choice": "alone", "chosen": 0.8, "gain": 0.0, "interval": [0, 0]}, "Joining changed nothing for you"),
        ({"unit": "%", "metric": "RMSE"}, "Yes: the model in use is 3.0 % less wrong"),
    ],
)
def test_whether_it_helped_is_said_in_the_first_words(changes, begins):
    assert sentence("Did it help?", **changes).startswith(begins)


def test_few_test_rows_are_pointed_out():
    assert "20 test rows are few" in sentence("Did it help?", n_test=20, interval=[-9.0, 12.0])
    assert "few" not in sentence("Did it help?", interval=[-9.0, 12.0])


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("alone", "Your own: regularised linear"),
        ("federated", "The shared model"),
        ("both", "average of two"),
        ("family", "departments with the same labels"),
        ("stack", "A mixture (stack)"),
    ],
)
def test_the_model_in_use_is_named_with_its_reason(choice, words):
    text = sentence("Which model is in use, and why", choice=choice)
    assert words in text and "it lowers the loss" in text


def test_how_far_probabilities_can_be_believed():
    bins = [{"confidence": 0.95, "right": 0.9, "rows": 30}, {"confidence": 0.6, "right": 0.6, "rows": 10}]
    good = sentence("Can it be believed?", details={"reliability": {"error": 0.04, "bins": bins}})
    assert "off by 4 percentage points" in good and "taken at their word" in good
    assert "at least 90 % sure, on 30 test rows, it was right on 90 %" in good
    poor = sentence("Can it be believed?", details={"reliability": {"error": 0.2, "bins": bins}})
    assert "do not take them literally" in poor
    few = sentence("Can it be believed?", n_test=12, details={"reliability": {"error": 0.2, "bins": bins}})
    assert "12 test rows are too few to judge them by" in few and "literally" not in few


def test_how_far_intervals_and_quantiles_can_be_believed():
    interval = {"facts": {"interval": {"meant": 0.9, "held": 0.85}}}
    assert "meant to hold 90 % of true values; on the test rows they held 85 %" in sentence(
        "Can it be believed?", details=interval
    )
    below = {"facts": {"below": [{"quantile": 0.1, "held": 0.12}]}}
    assert "12 % lay below the 10 % mark" in sentence("Can it be believed?", details=below)
    assert sentence("Can it be believed?", details={"facts": {}}) == ""


def test_the_terminal_shows_every_sentence_whole(facts):
    console = Console(width=80, file=io.StringIO())
    show(facts, console)
    text = console.file.getvalue()
    for part in facts["told"]:
        assert part["heading"] in text and part["text"] in text
    assert "masked" in text and "(in use)" in text


def test_the_page_is_one_file_with_pictures_and_nothing_to_run(facts, tmp_path):
    path = tmp_path / "report.html"
    write_page(facts | {"name": "<b>ash</b>"}, path)
    text = path.read_text("utf-8")
    assert "<b>ash</b>" not in text and "&lt;b&gt;ash" in text
    assert "<script" not in text and "http" not in re.sub(r"http-equiv", "", text)
    assert {'id="gains-t"', 'id="scores-t"', 'id="reliability-t"'} <= set(re.findall(r'id="[a-z]+-t"', text))
    json.dumps(facts)


def test_the_page_is_for_its_owner_alone(facts, tmp_path):
    """It has this department's scores and rows; whoever should read it gets it from its owner."""
    write_page(facts, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_mode & 0o077 == 0


HOSTILE = '</text><script>alert(1)</script>" onload="alert(1)'


def hostile(found):
    """The same with every text made hostile, but for what decides which picture is drawn."""
    if isinstance(found, dict):
        fixed = {"kind", "choice", "kept", "unit", "better", "heading", "charter"}
        return {
            name: value if name in fixed and isinstance(value, str) else hostile(value) for name, value in found.items()
        }
    if isinstance(found, list | tuple):
        return [hostile(value) for value in found]
    return HOSTILE if isinstance(found, str) else found


PLOTS = (
    {"kind": "confusion", "labels": ["a", "b"], "counts": [[3, 1], [2, 4]]},
    {"kind": "roc", "label": "a", "x": [0.0, 0.5, 1.0], "y": [0.0, 0.8, 1.0]},
    {"kind": "bars", "of": "what", "names": ["a", "b"], "values": [0.2, 0.9]},
)


@pytest.mark.parametrize("plot", PLOTS, ids=[str(plot["kind"]) for plot in PLOTS])
def test_no_text_on_the_page_becomes_markup(facts, tmp_path, plot):
    made = hostile(facts | {"details": facts["details"] | {"plot": plot}})
    write_page(made, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "alert(1)" in text
    assert "<script" not in text and 'onload="' not in text
