"""What the coordinator lets go of: exactly what was asked for, and never what a run, a proof or a latecomer needs."""

from __future__ import annotations

import os
import time
from contextlib import closing

import pytest
import sqlalchemy as sa
from federation import small
from typer.testing import CliRunner

from commonroot.common.charter import Charter, SignedCharter
from commonroot.server import journal_tables as tables
from commonroot.server.backbones import BackboneStore
from commonroot.server.cli import app as coordinator_cli
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal_rows import Version
from commonroot.server.retention import Keeper, disk_use, prune

DAY = 86400


@pytest.fixture(scope="module")
def charters(tmp_path_factory):
    founded = small.founded(tmp_path_factory.mktemp("founded"))
    each = [founded.charter.charter.model_copy(update={"rounds": rounds}) for rounds in (3, 4)]
    key = founded.coordinator.identity()
    return [SignedCharter.sign(Charter.model_validate(one.model_dump()), key) for one in each]


@pytest.fixture
def asked(tmp_path):
    """A coordinator's folder with a ``[retention]`` section; made anew for each question."""
    root = small.founded(tmp_path).coordinator.root

    def folder(**section):
        path = root / "coordinator.toml"
        text = path.read_text().partition("\n[retention]")[0]
        path.write_text(text + "\n[retention]\n" + "".join(f"{key} = {value}\n" for key, value in section.items()))
        return CoordinatorFolder(root)

    return folder


def a_run(folder, charter, *, versions, end):
    """A run with that many versions, each of a round of its own; returns its number."""
    store = BackboneStore(folder.root / "backbones")
    with closing(folder.journal()) as journal:
        run = journal.queue(charter)
        journal.set_run(run, "running")
        for number in range(versions):
            name, digest = store.write(run, number, {"w": small.np.full(3, number, small.np.float32)})
            made = Version(run, number, name, digest, b"", time.time())
            if number == 0:
                journal.add_version(made)
                continue
            at = journal.last_round() + 1
            journal.open_round(at, run, number - 1, b"opening")
            journal.fix_round(at, b"masked")
            journal.close_round(at, opened=b"o" * 32, aggregate=b"a" * 32, report={"loss": 0.5}, version=made)
        if end != "running":
            journal.set_run(run, end, "why" if end == "stopped" else "")
    return run


def files(folder):
    return sorted(path.name for path in (folder.root / "backbones").iterdir())


def aged(folder, days):
    """Everything happened so many days earlier."""
    with closing(folder.journal()) as journal, journal._writing() as db:
        db.execute(tables.rounds.update().values(ended=tables.rounds.c.ended - days * DAY))
        db.execute(tables.faults.update().values(at=tables.faults.c.at - days * DAY))


def test_only_the_newest_versions_of_a_finished_run_keep_their_files_and_all_keep_their_hashes(asked, charters):
    folder = asked(versions=2)
    run = a_run(folder, charters[0], versions=4, end="finished")
    with closing(folder.journal()) as journal:
        before = [v.digest for v in journal.versions(run)]
    assert prune(folder, dry_run=True)["files"] == [f"backbones/run-1-version-{n}.safetensors" for n in (0, 1)]
    assert len(files(folder)) == 4
    facts = prune(folder)
    assert len(facts["files"]) == 2 and facts["bytes"] > 0
    assert files(folder) == ["run-1-version-2.safetensors", "run-1-version-3.safetensors"]
    with closing(folder.journal()) as journal:
        assert [v.digest for v in journal.versions(run)] == before
        assert [v.file for v in journal.versions(run)] == ["", "", *files(folder)]
        assert [entry.kind for entry in journal.audit()].count("pruned") == 1
    assert prune(folder)["files"] == []


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_run_that_is_not_finished_keeps_everything(state, asked, charters):
    folder = asked(versions=1, rounds_days=1, faults_days=1)
    a_run(folder, charters[0], versions=4, end=state)
    aged(folder, 400)
    facts = prune(folder)
    assert (facts["files"], facts["rounds"]) == ([], 0)
    assert len(files(folder)) == 4


def test_the_newest_version_of_a_finished_run_can_always_be_given_to_a_latecomer(asked, charters):
    folder = asked(versions=1)
    a_run(folder, charters[0], versions=4, end="finished")
    a_run(folder, charters[1], versions=3, end="finished")
    prune(folder)
    with closing(folder.journal()) as journal:
        for run in (1, 2):
            newest = journal.versions(run)[-1]
            assert BackboneStore(folder.root / "backbones").read(newest.file, newest.digest)


def test_old_requests_of_rounds_go_and_who_took_part_with_what_result_stays(asked, charters):
    folder = asked(rounds_days=30)
    a_run(folder, charters[0], versions=4, end="finished")
    assert prune(folder)["rounds"] == 0
    aged(folder, 31)
    assert prune(folder)["rounds"] == 3
    with closing(folder.journal()) as journal:
        assert [(r.opening, r.opened, r.aggregate, r.state) for r in journal.rounds()] == [
            (b"", b"o" * 32, b"a" * 32, "closed")
        ] * 3
        assert journal.rounds()[0].report == {"loss": 0.5}
        assert journal.last_round() == 3


def test_old_faults_go_and_what_departments_have_signed_stays(asked):
    folder = asked(faults_days=30)
    with closing(folder.journal()) as journal:
        journal.faults.note("ash", "CR21", "old")
        with journal._writing() as db:
            db.execute(
                tables.evidence.insert().values(
                    department="ash", code="CR21", kind="masked", signer="", head=b"h", body=b"", at=0.0
                )
            )
    aged(folder, 31)
    with closing(folder.journal()) as journal:
        journal.faults.note("ash", "CR21", "new")
    assert prune(folder, dry_run=True)["faults"] == 1
    assert prune(folder)["faults"] == 1
    with closing(folder.journal()) as journal:
        assert [fault["what"] for fault in journal.faults.all()] == ["new"]
        assert len(journal.faults.exhibits()) == 1


def test_litter_of_a_crash_goes_once_nobody_can_be_writing_it_and_what_a_charter_starts_from_stays(asked, tmp_path):
    folder = asked(versions=5)
    backbones = folder.root / "backbones"
    for name in ("run-9-version-1.safetensors", "run-9-version-2.safetensors"):
        (backbones / name).write_bytes(b"never named")
    os.utime(backbones / "run-9-version-1.safetensors", (0, 0))
    assert prune(folder)["files"] == ["backbones/run-9-version-1.safetensors"]
    assert files(folder) == ["run-9-version-2.safetensors"]


def test_a_file_that_a_charter_starts_from_is_kept_however_old(asked, charters, monkeypatch):
    folder = asked(versions=1)
    digest = "ab" * 32
    path = folder.root / "backbones" / f"{digest}.safetensors"
    path.write_bytes(b"given")
    os.utime(path, (0, 0))
    monkeypatch.setattr("commonroot.server.retention._warm_starts", lambda charters: {digest})
    assert prune(folder)["files"] == []
    monkeypatch.undo()
    assert prune(folder)["files"] == [f"backbones/{digest}.safetensors"]


def test_killed_between_the_journal_and_the_files_leaves_litter_that_the_next_one_removes(asked, charters, monkeypatch):
    folder = asked(versions=1)
    a_run(folder, charters[0], versions=3, end="finished")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune(folder)
    assert len(files(folder)) == 3
    for name in files(folder):
        os.utime(folder.root / "backbones" / name, (0, 0))
    prune(folder)
    assert files(folder) == ["run-1-version-2.safetensors"]


def test_nothing_is_let_go_of_unless_somebody_asks(tmp_path, charters):
    folder = small.founded(tmp_path).coordinator
    a_run(folder, charters[0], versions=3, end="finished")
    aged(folder, 10_000)
    facts = prune(folder)
    assert (facts["asked"], facts["files"], facts["rounds"], facts["faults"]) == (False, [], 0, 0)


def test_an_idle_coordinator_prunes_by_itself_now_and_then(asked, charters):
    folder = asked(versions=1)
    a_run(folder, charters[0], versions=3, end="finished")
    with closing(folder.journal()) as journal:
        keeper = Keeper(folder, journal)
        assert keeper.look(100.0)["files"] == 2
        a_run(folder, charters[1], versions=3, end="finished")
        assert keeper.look(101.0) is None
        assert keeper.look(100.0 + Keeper.EVERY)["files"] == 2


def test_the_commands_say_what_they_would_do_and_how_much_room_there_is(asked, charters):
    folder = asked(versions=1)
    a_run(folder, charters[0], versions=3, end="finished")
    run = CliRunner()
    told = run.invoke(coordinator_cli, ["prune", str(folder.root), "--dry-run"])
    assert "would let go of 2 files" in told.output and "run-1-version-0" in told.output
    assert len(files(folder)) == 3
    assert run.invoke(coordinator_cli, ["prune", str(folder.root), "--json"]).exit_code == 0
    assert len(files(folder)) == 1
    use = disk_use(folder)
    assert use["uses"]["backbones"] == (folder.root / "backbones" / files(folder)[0]).stat().st_size
    assert use["uses"]["journal"] > 0 and use["free"] > 0
    assert "free" in run.invoke(coordinator_cli, ["disk", str(folder.root)]).output


def test_versions_and_rounds_are_let_go_of_alike_in_postgresql(asked, charters, schema):
    from commonroot.server.backup import with_database

    folder = asked(versions=2, rounds_days=1, faults_days=1)
    path = folder.root / "coordinator.toml"
    path.write_text(with_database(path.read_text(), schema()))
    folder = CoordinatorFolder(folder.root)
    a_run(folder, charters[0], versions=4, end="finished")
    aged(folder, 2)
    facts = prune(folder)
    assert (len(facts["files"]), facts["rounds"]) == (2, 3)
    with closing(folder.journal()) as journal, journal.database.reading() as db:
        assert db.execute(sa.select(tables.versions.c.file).order_by(tables.versions.c.version)).scalars().all()[
            :2
        ] == ["", ""]
