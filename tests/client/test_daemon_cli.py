"""A department's commands, from making a folder to predicting, and the daemon's start and stop."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from device_apart import a_device_apart
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client import daemon
from commonroot.client.accelerator import PROCESSOR, where
from commonroot.client.daemon import serve
from commonroot.client.folder import DepartmentFolder
from commonroot.common.errors import ConfigError, DataError
from commonroot.common.roster import SignedRoster
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.processes import free_port


def say(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_three_departments_are_set_up_by_commands_alone(tmp_path):
    """Offline: init on both sides with tokens, files carried, a roster, a charter, join, approve, check, ledger."""
    centre = tmp_path / "centre"
    made = json.loads(say("coordinator", "init", centre, "--federation", "grove", "--json"))
    for at, name in enumerate(small.NAMES[:3]):
        table = tmp_path / f"{name}.csv"
        x, y = small.table(at, 40, "binary")
        rows = [",".join([*map(repr, row.tolist()), str(label)]) for row, label in zip(x, y, strict=True)]
        table.write_text("\n".join(["a,b,c,d,e,f,label", *rows]) + "\n")
        token = json.loads(say("coordinator", "enrol", centre, name, "--json"))["token"]
        say(
            *["department", "init", tmp_path / name, "--token", token, "--offline", "--ca", made["ca"]],
            *["--data", table, "--task", "binary"],
        )
    requests = [tmp_path / name / "request.json" for name in small.NAMES[:3]]
    assert json.loads(say("coordinator", "admit", centre, *requests, "--json")) == {"admitted": list(small.NAMES[:3])}
    roster = json.loads(say("coordinator", "roster", centre, "--sign", "--json"))
    assert [member["name"] for member in roster["departments"]] == list(small.NAMES[:3])
    draft = tmp_path / "charter.toml"
    draft.write_text(small.CHARTER.format(rounds=3, widths=[8, 4], attempts=3))
    charter = json.loads(say("coordinator", "charter", centre, draft, "--json"))
    for name in small.NAMES[:3]:
        folder = tmp_path / name
        joined = json.loads(say("department", "join", folder, roster["file"], "--json"))
        assert joined["roster"] == roster["hash"]
        assert "approved" in say("department", "approve", folder, charter["file"], "--hash", charter["hash"])
        checked = json.loads(say("department", "check", folder, "--json"))
        assert (checked["columns"], checked["charters"]) == (6, [charter["hash"]])
        assert checked["train"] + checked["validation"] + checked["test"] == 40
        ledger = json.loads(say("department", "ledger", folder, "--json"))
        assert [entry["kind"] for entry in ledger["entries"]] == ["joined", "approved"]
        assert ledger["bytes_sent"] == 0
    assert json.loads(say("coordinator", "run", centre, charter["file"], "--json")) == {"run": 1}
    status = json.loads(say("coordinator", "status", centre, "--json"))
    assert [(run["state"], run["charter"]) for run in status["runs"]] == [("queued", charter["hash"])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A federation after a whole run of one round with real training."""
    return small.trained(small.founded(tmp_path_factory.mktemp("finished"), rounds=1))


def test_the_report_says_what_was_gained_and_why(finished):
    folder = finished.departments["ash"].root
    facts = json.loads(say("department", "report", folder, "--json"))
    assert {"alone", "federated", "chosen", "choice", "gain", "interval", "why"} <= set(facts)
    text = say("department", "report", folder)
    assert facts["why"] in text


def test_predictions_name_a_label_for_every_row(finished, tmp_path):
    folder = finished.departments["ash"].root
    rows = tmp_path / "new.npz"
    x, _ = small.table(0, 9, "binary")
    with rows.open("wb") as file:
        np.savez(file, X=x)
    lines = say("department", "predict", folder, rows).splitlines()
    assert len(lines) == 1 + 9
    out = tmp_path / "predicted.csv"
    facts = json.loads(say("department", "predict", folder, rows, "--out", out, "--json"))
    assert facts["rows"] == 9
    assert out.read_text().splitlines() == lines
    as_json = json.loads(say("department", "predict", folder, rows, "--json"))
    assert {len(column) for column in as_json.values()} == {9}


def test_the_ledger_adds_up_to_what_was_sent(finished):
    facts = json.loads(say("department", "ledger", finished.departments["ash"].root, "--json"))
    sent = [entry["facts"] for entry in facts["entries"] if entry["kind"] == "sent"]
    assert [one["what"] for one in sent] == ["ready", "greeting", "introduced", "masked", "shares", "closed"]
    assert facts["bytes_sent"] == sum(one["bytes"] for one in sent) > 0
    assert "chain intact" in say("department", "ledger", finished.departments["ash"].root)


def test_the_coordinators_view_names_kinds_and_bytes_and_nothing_else(finished):
    status = json.loads(say("coordinator", "status", finished.coordinator.root, "--json"))
    assert {row["kind"] for row in status["received"]} == {
        "ready",
        "greeting",
        "introduced",
        "masked",
        "shares",
        "closed",
    }
    assert status["runs"][0]["closed_departments"] == ["ash", "birch", "cedar"]
    models = json.loads(say("coordinator", "models", finished.coordinator.root, "--json"))
    assert [row["version"] for row in models] == [0, 1]


@pytest.fixture
def alone(tmp_path):
    """A department whose coordinator is not there, and its signal handlers put back afterwards."""
    federation = small.founded(tmp_path)
    small.move_to_port(federation, free_port())
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield federation.departments["ash"].root
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_daemon_whose_coordinator_is_not_there_goes_on_trying_until_it_is_stopped(alone, capsys):
    stop = threading.Event()
    threading.Timer(4.0, stop.set).start()
    serve(alone, as_json=True, stop=stop)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The learner is loaded beside it, which may be over before the end or not.
    assert [event["event"] for event in events if event["event"] != "loaded"] == ["up", "link", "link", "down"]
    assert [event["state"] for event in events if event["event"] == "link"] == ["unreachable", "left"]


def test_a_daemon_whose_table_cannot_be_read_says_so_and_ends(alone):
    (alone / "rows.npz").write_bytes(b"no table")
    with pytest.raises(DataError):
        serve(alone, stop=threading.Event())


def on(folder: Path, device: str) -> None:
    path = folder / "department.toml"
    path.write_text(f'device = "{device}"\n{path.read_text()}')


def test_a_daemon_whose_device_is_not_there_says_so_and_ends(alone):
    on(alone, "meta")
    with pytest.raises(ConfigError, match="'meta' computes nothing"):
        serve(alone, stop=threading.Event())


def test_a_daemon_computes_where_its_configuration_says_until_it_ends(alone):
    for device in ("cpu", "apart"):
        if device == "apart":
            on(alone, device)
        with a_device_apart(), ExitStack() as undo:
            daemon._loaded(DepartmentFolder(alone), lambda kind, facts: None, undo)
            assert where().type == device
        assert where() == PROCESSOR


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_daemon_in_an_orderly_way(alone, number, capsys):
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    serve(alone)
    assert capsys.readouterr().out.splitlines()[-1].startswith("down")
    serve(alone, stop=_set())  # the folder is free again


def _set() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_a_daemon_does_not_start_on_a_roster_that_has_expired(alone):
    path = alone / "roster.json"
    signed = SignedRoster.from_json(path.read_bytes())
    authority = CoordinatorFolder(Path(alone).parent.parent / "coordinator").authority()
    past = signed.roster.model_copy(update={"expires": 1_000_000_000})
    path.write_bytes(SignedRoster.sign(past, authority).to_json())
    with pytest.raises(ConfigError, match="expired"):
        serve(alone, stop=_set())
