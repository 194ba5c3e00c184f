"""One place where everything is read: for the status command, the page and Prometheus alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import small
from prometheus_client.parser import text_string_to_metric_families

from commonroot import __version__
from commonroot.common import errors
from commonroot.server.journal import Journal
from commonroot.server.monitor import plots, views
from commonroot.server.monitor.board import Board
from commonroot.server.monitor.facts import Sources, Watcher
from commonroot.server.monitor.metrics import METRICS, exporter
from commonroot.server.reports import newest
from commonroot.server.status import Books, advice, status_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[small.ToyFederation, Journal]]:
    """A run of three rounds with toy learners, and its journal."""
    with small.running(tmp_path_factory.mktemp("finished")) as at_work:
        at_work.run()
        with small.journal_of(at_work.federation) as journal:
            journal.faults.note("ash", "link", "the department is not online", run=1)
            yield at_work, journal


def watcher(finished: tuple[small.ToyFederation, Journal], **change: Any) -> Watcher:
    """Two departments online, one that left an hour ago."""
    at_work, journal = finished
    roster = at_work.federation.coordinator.roster()
    ash, birch, cedar = (" ".join(m.node_key.split()[:2]) for m in roster.departments)
    seen = {ash: (True, 900.0), birch: (False, 500.0), cedar: (True, 950.0)}
    board = Board(clock=lambda: 1000.0)
    board.expect([m.name for m in roster.departments])
    sources = {
        "federation": "grove", "journal": journal, "board": board,
        "attendance": lambda: seen, "roster": lambda: roster,
    } | change  # fmt: skip
    return Watcher(Sources(**sources), clock=lambda: 1000.0)


def test_the_command_and_the_page_read_the_same(finished):
    at_work, _ = finished
    said, shown = status_of(at_work.federation.coordinator), watcher(finished).facts()
    alike = {key: shown[key] for key in ("runs", "faults", "fault_counts", "received", "federation", "program")}
    assert said == alike | {"trouble": [], "restored_at": None, "restored": None, "gate": {}}


def test_a_department_is_online_absent_or_never_came(finished):
    rows = watcher(finished).facts()["departments"]
    assert [(row["name"], row["online"], row["since"], row["doing"]) for row in rows] == [
        ("ash", True, 900.0, "waiting"),
        ("birch", False, 500.0, "absent"),
        ("cedar", True, 950.0, "waiting"),
    ]
    nobody = watcher(finished, attendance=dict).facts()["departments"]
    assert {(row["online"], row["since"]) for row in nobody} == {(False, None)}
    assert "never came" in views.departments(watcher(finished, attendance=dict).facts())


def test_departments_show_which_version_they_run_and_one_that_differs_is_marked(finished):
    at_work, _ = finished
    ash, birch, _ = (" ".join(m.node_key.split()[:2]) for m in at_work.federation.coordinator.roster().departments)
    facts = watcher(finished, programs=lambda: {ash: __version__, birch: "0.0.9"}).facts()
    assert [row["version"] for row in facts["departments"]] == [__version__, "0.0.9", ""]
    made = views.departments(facts)
    assert made.count("another than here") == 1
    assert f"<td>{__version__}</td>" in made and "<td>–</td>" in made


def test_rounds_that_are_over_are_read_once(finished, monkeypatch):
    _, journal = finished
    books = Books(journal)
    first = books.read()
    parsed: list[str] = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or real(text))
    assert books.read() == first
    assert parsed == []


def test_a_round_in_progress_is_read_again_until_it_is_over(tmp_path):
    """Rounds 1 open, then closed with round 2 fixed: only what is settled, and everything before it, is kept."""
    federation = small.founded(tmp_path)
    with small.journal_of(federation) as journal:
        run = journal.queue(federation.charter)
        books = Books(journal)
        journal.open_round(1, run, 0, b"")
        assert [one["state"] for one in books.read()["runs"][0]["rounds"]] == ["open"]
        journal.lose_round(1, "nobody came (CR40)")
        journal.open_round(2, run, 0, b"")
        journal.fix_round(2, b"sum")
        assert [one["state"] for one in books.read()["runs"][0]["rounds"]] == ["lost", "fixed"]
        journal.lose_round(2, "nobody came (CR41)")
        run = books.read()["runs"][0]
        assert [one["state"] for one in run["rounds"]] == ["lost", "lost"]
        assert (run["closed"], run["lost"], run["privacy"]["sums_opened"]) == (0, 2, 0)


def test_readers_at_the_same_moment_cost_one_reading(finished):
    made: list[int] = []

    def attendance() -> dict[str, tuple[bool, float]]:
        made.append(1)
        return {}

    seen = watcher(finished, attendance=attendance)
    assert seen.facts() is seen.facts()
    assert len(made) == 1


def test_only_the_newest_faults_are_shown_but_all_are_counted(tmp_path):
    federation = small.founded(tmp_path)
    with small.journal_of(federation) as journal:
        for number in range(5):
            journal.faults.note("ash", "link" if number % 2 else "CR20", f"number {number}")
        found = Books(journal).read(newest_faults=2)
        assert [one["what"] for one in found["faults"]] == ["number 3", "number 4"]
        assert found["fault_counts"] == {"CR20": 3, "link": 2}


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("2 rounds in a row came to nothing; the last: too few (CR40)", "see who is absent"),
        ("3 are needed; 'ash' refused with CR12; 'elm' refused with CR12 (CR40)", "'ash', 'elm' (NotApproved): read"),
        (f"no room to write the coordinator's journal ({errors.StorageFull.code})", errors.StorageFull.hint),
        ("internal error KeyError", "log has the details"),
        ("epoch 1 has ended: another roster was signed; resume the run under it", "`commonroot coordinator resume"),
        ("something (CR99)", "`commonroot coordinator resume"),
    ],
)
def test_advice_follows_from_the_codes_in_a_reason(reason, said):
    assert said in advice(4, "stopped", reason)
    assert "`commonroot coordinator resume DIR 4`" in advice(4, "stopped", reason)
    assert advice(4, "running", reason) == ""


# -- metrics -----------------------------------------------------------------------------------------------------------


def exported(facts: Any) -> dict[str, Any]:
    text, kind = exporter(lambda: facts)()
    assert kind.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_the_page_in_the_documentation_lists_exactly_what_is_exported(finished):
    """Name, kind, labels and meaning, row by row; process metrics are the client library's own."""
    text = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(commonroot_\w+)` \| (\w+) \| (.*?) \| (.+?) \|$", text, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows}
    assert listed == dict(METRICS)
    found = exported(watcher(finished).facts())
    ours = {name: family for name, family in found.items() if not name.startswith("process_")}
    assert {n + "_total" * (f.type == "counter"): f.type for n, f in ours.items()} == {
        n: m[0] for n, m in METRICS.items()
    }
    for name, family in ours.items():
        _, labels, meaning = METRICS[name + "_total" * (family.type == "counter")]
        assert family.documentation == meaning
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {frozenset(labels)}, name


def test_metrics_add_up_to_the_facts(finished):
    facts = watcher(finished).facts()
    found = exported(facts)

    def value(name: str, **labels: str) -> float:
        family = found[name.removesuffix("_total").removesuffix("_count").removesuffix("_sum").removesuffix("_bucket")]
        return next(s.value for s in family.samples if s.name == name and s.labels == labels)

    run = facts["runs"][0]
    took = [one["report"]["seconds"] for one in run["rounds"]]
    assert value("commonroot_rounds_total", state="closed") == 3
    assert value("commonroot_round_seconds_count") == 3
    assert value("commonroot_round_seconds_sum") == pytest.approx(sum(took))
    assert value("commonroot_round_seconds_bucket", le="1800.0") == 3
    assert value("commonroot_departments_online") == 2
    assert value("commonroot_departments", state="absent") == 1
    assert value("commonroot_faults_total", code="link") == 1
    assert value("commonroot_run_loss", of="held_out") == run["rounds"][-1]["report"]["held_out"]
    kinds = {row["kind"]: row["bytes"] for row in facts["received"]}
    assert value("commonroot_received_bytes_total", kind="masked") == kinds["masked"] > 0


def test_metrics_before_the_first_run_are_there_without_those_of_a_run(tmp_path):
    federation = small.founded(tmp_path)
    with small.journal_of(federation) as journal:
        roster = federation.coordinator.roster()
        sources = Sources("grove", journal, Board(), dict, lambda: roster)
        found = exported(Watcher(sources).facts())
    assert "commonroot_runs" in found and "commonroot_run_version" not in found


def test_no_metric_and_no_fact_is_of_one_departments_learning(finished):
    """Losses, clipped shares and sizes stand only where they are of a sum; departments have a state and a time."""
    facts = watcher(finished).facts()
    assert {frozenset(row) for row in facts["departments"]} == {
        frozenset({"name", "online", "since", "doing", "declined", "version"})
    }
    allowed = {"cohort", "survivors", "clipped_share", "upload_bytes", "share_bytes", "seconds", "loss", "held_out"}
    assert {key for run in facts["runs"] for one in run["rounds"] for key in one["report"]} == allowed
    assert not {"department", "name"} & {label for _, labels, _ in METRICS.values() for label in labels}


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["departments", "received", "events", "runs", "faults", "stage"])
def test_what_comes_from_outside_is_escaped(finished, name):
    facts = watcher(finished).facts()
    evil = "<img src=x onerror=alert(1)>"
    text = json.dumps(facts).replace('"ash"', json.dumps(evil)).replace("the department is not online", evil)
    changed = json.loads(text.replace('"small"', json.dumps(evil)).replace('"masked"', json.dumps(evil)))
    changed["events"] = [{"at": 1.0, "event": evil, "facts": {evil: evil}}]
    changed["moment"] |= {"stage": "uploading", "round": 1, "asked": [evil], "until": 1001.0}
    made = getattr(views, name)(changed)
    assert "<img" not in made and "&lt;img" in made


# -- plots -------------------------------------------------------------------------------------------------------------


def test_a_plot_has_a_point_for_every_round_that_closed(finished):
    run = watcher(finished).facts()["runs"][0]
    training, held_out = plots.loss(run)["series"]
    assert (training["name"], held_out["name"]) == ("training", "held out")
    assert [x for x, _ in training["data"]] == [1, 2, 3]
    assert [y for _, y in held_out["data"]] == pytest.approx([r["report"]["held_out"] for r in run["rounds"]], rel=1e-4)
    assert [y for _, y in plots.members(run)["series"][1]["data"]] == [3, 3, 3]


def test_what_was_not_scored_is_drawn_through_and_the_newest_score_is_told(finished):
    run = watcher(finished).facts()["runs"][0]
    first, *others = run["rounds"]
    seldom = run | {"rounds": [first, *(r | {"report": {**r["report"], "held_out": None}} for r in others)]}
    training, held_out = plots.loss(seldom)["series"]
    assert [x for x, _ in training["data"]] == [1, 2, 3] and [x for x, _ in held_out["data"]] == [1]
    told = f"{first['report']['held_out']:.3f}"
    assert told in views.run_tiles(watcher(finished).facts(), seldom)
    assert told in views.runs(watcher(finished).facts() | {"runs": [seldom]})
    assert newest([one["report"] for one in seldom["rounds"]], "held_out") == first["report"]["held_out"]
    assert newest([], "held_out") is None
    [family] = [one for one in exported(watcher(finished).facts() | {"runs": [seldom]}).values() if "loss" in one.name]
    values = {sample.labels["of"]: sample.value for sample in family.samples}
    assert values == {"held_out": first["report"]["held_out"], "training": others[-1]["report"]["loss"]}


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_of_many_rounds_so_many_are_drawn_as_a_plot_can_show(finished, every):
    [one, *_] = watcher(finished).facts()["runs"][0]["rounds"]
    count = 3 * plots._MOST + 1
    rounds = [
        one | {"version": at, "report": one["report"] | {"held_out": 0.5 if at % every == 0 else None}}
        for at in range(count)
    ]
    training, held_out = plots.loss({"rounds": rounds})["series"]
    assert plots._MOST / 2 <= len(training["data"]) <= plots._MOST and training["data"][-1][0] == count
    scored = -(-count // every)
    assert min(scored, plots._MOST / 2) <= len(held_out["data"]) <= plots._MOST


def test_a_plot_without_points_says_why(finished):
    run = watcher(finished).facts()["runs"][0]
    bare = run | {"rounds": [r | {"report": {**r["report"], "loss": None, "held_out": None}} for r in run["rounds"]]}
    for of, said in ((None, "No round has closed yet."), (bare, "No losses are summed by this method.")):
        assert plots.loss(of)["graphic"][0]["style"]["text"] == said
    assert plots.loss(run)["graphic"] == []


def test_a_long_run_is_thinned_and_keeps_its_newest_round(finished):
    """3,001 rounds in steps of 3 from the newest: versions 3001, 2998, … 1, which is 1,001 points."""
    one = watcher(finished).facts()["runs"][0]["rounds"][0]
    points = plots.seconds({"rounds": [one | {"version": version} for version in range(3001)]})["series"][0]["data"]
    assert (len(points), points[0][0], points[-1][0]) == (1001, 1, 3001)
