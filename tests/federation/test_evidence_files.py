"""Ledgers and audit logs as evidence: what is in them, what tampering shows, what others can verify."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.evidence_file import account, export_ledger, verify_folder
from commonroot.client.folder import DepartmentFolder
from commonroot.client.standing import leave
from commonroot.client.traffic import Traffic
from commonroot.common import canonical, ledger, parcel, records
from commonroot.common.errors import BadSignature, CommonrootError, Malformed, StorageFull
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.server.audit_file import verify_audit
from commonroot.server.folder import CoordinatorFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A federation after a run of two rounds."""
    root = tmp_path_factory.mktemp("evidence")
    with closing(small.running(root, rounds=2)) as work:
        work.run()
    return work.federation


@pytest.fixture
def ash(finished, tmp_path):
    """A copy of ash's folder to tamper with."""
    shutil.copytree(finished.departments["ash"].root, tmp_path / "ash")
    return DepartmentFolder(tmp_path / "ash")


def tamper(folder, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder.root / "state.db")) as db, db:
        db.execute(statement, values)


# -- what is in a ledger -----------------------------------------------------------------------------------------------


def test_every_reply_that_left_is_in_the_ledger_with_its_size_and_what_it_answers(finished):
    """Ready, greeting, introduced, 2 uploads, 2 answers and closed: eight replies, two of them empty."""
    facts = account(finished.departments["ash"])
    assert {kind: row["messages"] for kind, row in facts["parcels"].items()} == {
        "ready": 1,
        "greeting": 1,
        "introduced": 1,
        "masked": 2,
        "shares": 2,
        "closed": 1,
    }
    with small.journal_of(finished) as journal:
        received = {row["kind"]: row["bytes"] for row in journal.received()}
    totals = dict.fromkeys(received, 0)
    for folder in finished.departments.values():
        for kind, row in account(folder)["parcels"].items():
            totals[kind] += row["bytes"]
    shares, heard = totals.pop("shares"), received.pop("shares")
    assert totals == received, "both sides count the same bytes"
    assert shares >= heard, "whoever answers after the quorum is not listened to any more"
    for entry in facts["entries"]:
        if entry["kind"] == "sent":
            assert len(entry["facts"]["asked"]) == 64


def test_a_runs_end_signs_the_ledger_and_the_audit_log(finished):
    facts = verify_folder(finished.departments["ash"])
    assert facts["entries"] == facts["signed"] + 1 + facts["since"]
    assert facts["signed"] > 0 and facts["since"] == 0
    told = verify_audit(finished.coordinator)
    assert told["signed"] > 0 and told["since"] == 0


def test_a_refusal_is_counted_and_what_the_coordinator_signed_of_it_is_kept(tmp_path):
    with closing(small.running(tmp_path)) as work:
        work.run()
        folder = work.federation.departments["ash"]
        with small.store_of(folder) as store:
            last = next(s for s in store.statements() if s.kind == parcel.ROUND_OPEN)
        assert work.sessions["ash"].handle(Parcel(parcel.ROUND_OPEN, last.head)).kind == parcel.REFUSAL
        with small.store_of(folder) as store:
            entry = store.ledger()[-1]
        assert (entry.kind, entry.facts["bytes"], entry.facts["digest"]) == ("refused", 9, sha256(last.head).hex())


def test_the_links_account_survives_and_a_full_disk_loses_none_of_it(finished):
    with small.store_of(finished.departments["birch"]) as store:
        now = [0.0]
        traffic = Traffic(store, clock=lambda: now[0])
        honest, failing = store.count_traffic, [True]

        def full(counts):
            if failing.pop() if failing else False:
                raise StorageFull("full")
            honest(counts)

        store.count_traffic = full
        traffic.count("push-object", 1000)
        now[0] = 61.0
        traffic.count("heartbeat", 200)
        assert store.traffic() == {}
        traffic.flush()
        assert store.traffic() == {"push-object": (1, 1000), "heartbeat": (1, 200)}
        head = store.checkpoint(ledger.owner_of_ledger("grove", "birch"), finished.departments["birch"].identity())
        entry = store.ledger()[head.entries - 1]
    assert (entry.kind, entry.facts) == ("link", {"heartbeat": 200, "push-object": 1000, "requests": 2})


# -- tampering ---------------------------------------------------------------------------------------------------------


def test_an_untouched_ledger_verifies(ash):
    assert verify_folder(ash)["department"] == "ash"


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE ledger SET facts = '{}' WHERE sequence = 2", ()),
        ("UPDATE ledger SET at = at + 1 WHERE sequence = 2", ()),
        ("DELETE FROM ledger WHERE sequence = 3", ()),
        ("DELETE FROM ledger WHERE sequence > 5", ()),
        ("DELETE FROM ledger", ()),
        ('UPDATE sealed SET facts = \'{"abstained": "CR19"}\'', ()),
        ("DELETE FROM sealed", ()),
        (
            "INSERT INTO statements VALUES (999, 'open', ?, 7, 1, ?, '', NULL)",
            (b"x" * 32, b"an opening that was never asked for"),
        ),
    ],
)
def test_a_ledger_that_was_changed_or_cut_short_does_not_verify(ash, statement, values):
    tamper(ash, statement, *values)
    with pytest.raises(Malformed):
        verify_folder(ash)


def rewritten(folder, *, resign: Identity | None) -> None:
    """The whole chain made anew without its third entry, heads and all, under some key."""
    with closing(sqlite3.connect(folder.root / "state.db")) as db, db:
        rows = db.execute("SELECT at, kind, facts FROM ledger ORDER BY sequence").fetchall()
        db.execute("DELETE FROM ledger")
        db.execute("DELETE FROM sealed")
        db.execute("DELETE FROM statements")
        last = None
        for at, kind, facts in rows[:2] + rows[3:]:
            told = {k: v for k, v in json.loads(facts).items() if k != "sealed"}
            if kind == ledger.CHECKPOINT and resign is not None:
                last = ledger.checkpoint(last, at=at, owner=ledger.owner_of_ledger("grove", "ash"), identity=resign)
            else:
                last = ledger.append(last, at=at, kind=kind, facts=told)
            row = (last.sequence, last.at, last.kind, json.dumps(last.facts), last.hash)
            db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)
    (folder.root / "ledger.head").write_text(json.dumps(last.facts if last else {}))


def test_a_ledger_written_anew_without_the_key_does_not_verify(ash):
    rewritten(ash, resign=None)
    with pytest.raises((Malformed, BadSignature)):
        verify_folder(ash)


def test_a_ledger_that_its_own_keeper_wrote_anew_is_found_by_an_earlier_export(ash, tmp_path):
    """Whoever has the key can sign another story; whoever has seen the first one knows."""
    export_ledger(ash, tmp_path / "earlier")
    rewritten(ash, resign=ash.identity())
    verify_folder(ash)
    with pytest.raises(Malformed, match=r"written anew|cut short"):
        verify_folder(ash, against=tmp_path / "earlier")


def test_a_ledger_goes_on_from_its_earlier_export(ash, tmp_path):
    export_ledger(ash, tmp_path / "earlier")
    with small.store_of(ash) as store:
        store.record("paused", {})
    verify_folder(ash, against=tmp_path / "earlier")
    export_ledger(ash, tmp_path / "later")
    first, second = (records.read((tmp_path / name).read_bytes()) for name in ("earlier", "later"))
    assert second.entries[: len(first.entries)] == first.entries


def test_an_audit_log_that_was_changed_does_not_verify(finished, tmp_path):
    shutil.copytree(finished.coordinator.root, tmp_path / "hq")
    with closing(sqlite3.connect(tmp_path / "hq" / "journal.db")) as db, db:
        db.execute("UPDATE audit SET facts = '{\"round\": 1}' WHERE kind = 'round-lost' OR kind = 'survivors'")
    with pytest.raises(Malformed):
        verify_audit(CoordinatorFolder(tmp_path / "hq"))


# -- exports -----------------------------------------------------------------------------------------------------------


def test_an_export_is_verified_without_the_folder(ash, tmp_path, finished):
    export_ledger(ash, tmp_path / "file")
    record = records.read((tmp_path / "file").read_bytes())
    assert (record.name, record.federation, record.what) == ("ash", "grove", "ledger")
    assert record.authority == finished.coordinator.authority_public().hex()
    assert record.verified.since == 0
    kinds = {one.kind for one in record.statements}
    assert kinds == {"charter", "greet", "introduce", "round-open", "open", "run-close"}


def _changed(value, path, new):
    inside = value
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = new
    return value


@pytest.mark.parametrize(
    "path",
    [
        ("name",),
        ("authority",),
        ("identity",),
        ("entries", 2, 2),
        ("entries", 2, 4),
        ("statements", 0, 1),
        ("rosters", 0, "signature"),
        ("signature",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
@pytest.mark.parametrize("resign", [False, True], ids=["as-it-was", "signed-anew"])
def test_an_export_that_was_changed_is_refused_even_if_its_keeper_signs_it_anew(path, resign, ash, tmp_path):
    export_ledger(ash, tmp_path / "file")
    value = canonical.loads((tmp_path / "file").read_bytes(), what="it")
    old = value
    for step in path:
        old = old[step]
    flipped = ("0" if old[-1] != "0" else "1") if isinstance(old, str) else old
    value = _changed(value, path, old[:-1] + flipped)
    if resign and path != ("signature",):
        del value["signature"]
        signature = ash.identity().sign("record", sha256(canonical.dumps(value)))
        value["signature"] = signature.hex()
    with pytest.raises(CommonrootError):
        records.read(canonical.dumps(value))


def test_an_export_cut_short_before_its_last_head_is_refused(ash, tmp_path):
    with small.store_of(ash) as store:
        store.record("paused", {})
    export_ledger(ash, tmp_path / "file")
    value = canonical.loads((tmp_path / "file").read_bytes(), what="it")
    value["entries"] = value["entries"][:-1]
    del value["signature"]
    value["signature"] = ash.identity().sign("record", sha256(canonical.dumps(value))).hex()
    with pytest.raises(Malformed, match="no signed head"):
        records.read(canonical.dumps(value))


def test_what_is_sealed_stays_here(tmp_path):
    """Whether a department could train is its own affair: entries look alike, and the file holds a commitment only."""
    with closing(small.running(tmp_path, rounds=2)) as work:
        honest = work.learners["ash"].train

        def failing(charter, received, version, local):
            if version == 1:
                raise ValueError("boom")
            return honest(charter, received, version, local)

        work.learners["ash"].train = failing
        work.run()
    folder = work.federation.departments["ash"]
    export_ledger(folder, tmp_path / "file")
    entries = [e for e in records.read((tmp_path / "file").read_bytes()).entries if e.facts.get("what") == "masked"]
    assert [set(entry.facts) for entry in entries] == [set(entries[0].facts)] * 2
    assert b"ValueError" not in (tmp_path / "file").read_bytes()
    private = [one.get("private") for one in account(folder)["entries"] if one["facts"].get("what") == "masked"]
    assert private == [{"abstained": None}, {"abstained": "ValueError"}]


def test_whoever_has_left_can_still_show_its_ledger(ash, tmp_path):
    leave(ash, wait=0)
    export_ledger(ash, tmp_path / "file")
    kinds = [entry.kind for entry in records.read((tmp_path / "file").read_bytes()).entries]
    assert kinds[-4:] == ["leaving", "left", "checkpoint", "checkpoint"]


# -- commands ----------------------------------------------------------------------------------------------------------


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout


def test_commands_verify_export_and_compare_and_their_exit_codes_tell(finished, ash, tmp_path):
    files = []
    for name, folder in finished.departments.items():
        files.append(tmp_path / f"{name}.ledger")
        assert run("department", "ledger", "export", folder.root, files[-1])[0] == 0
    log = tmp_path / "hq.audit"
    assert run("coordinator", "audit", "export", finished.coordinator.root, log)[0] == 0
    assert run("department", "ledger", "verify", files[0])[0] == 0
    assert run("coordinator", "audit", "verify", log)[0] == 0
    status, said = run("audit", "compare", *files, "--coordinator", log, "--json")
    assert (status, json.loads(said)["findings"]) == (0, [])
    status, said = run("coordinator", "audit", finished.coordinator.root, "--json")
    kinds = {event["kind"] for event in json.loads(said)["events"]}
    assert {"roster", "charter", "queued", "run", "round-open", "survivors", "round-closed"} <= kinds
    tamper(ash, "DELETE FROM ledger WHERE sequence > 5")
    assert run("department", "ledger", "verify", ash.root)[0] == 3
    assert run("department", "ledger", ash.root)[0] == 3
    files[0].write_bytes(files[0].read_bytes().replace(b"ash", b"oak"))
    assert run("department", "ledger", "verify", files[0])[0] == 3


def test_what_central_it_does_is_noted_under_its_login_name_and_what_it_looks_at_is_not(finished, monkeypatch):
    monkeypatch.setenv("LOGNAME", "otto")
    root: Path = finished.coordinator.root
    before = len(json.loads(run("coordinator", "audit", root, "--json")[1])["events"])
    assert run("coordinator", "status", root)[0] == 0
    assert run("coordinator", "charters", root)[0] == 0
    assert run("coordinator", "roster", root)[0] == 0
    events = json.loads(run("coordinator", "audit", root, "--json")[1])["events"][before:]
    assert [event["facts"] for event in events] == [{"command": "roster", "by": "otto"}]
