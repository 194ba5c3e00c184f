"""A coordinator that was restored from a backup, and said so, is told from one that lies and says that it was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from federation import small
from federation.interrupted import Interrupted, stop_at
from proofs.stage import Stage, playing
from proofs.test_compare import exported, proven, signed_log
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.common import parcel, records
from commonroot.common.compare import compare
from commonroot.common.restores import SKIPPED
from commonroot.server.audit_file import export_audit
from commonroot.server.backup import backup, restore
from commonroot.server.folder import CoordinatorFolder


@dataclasses.dataclass
class Restored:
    """Files of a federation whose coordinator lost rounds 2 and 3 to a restore."""

    root: Path
    ledgers: list[records.Record]
    before: records.Record
    after: records.Record


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    """Backup after round 1, two more rounds, then the machine is gone; the restored one asks about version 1 again."""
    root = tmp_path_factory.mktemp("restored")
    stage = Stage(root, rounds=5)
    at_work, federation = stage.at_work, stage.federation
    try:
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 1))
        backup(federation.coordinator, root / "backup.tar", with_keys=True)
        with pytest.raises(Interrupted):
            at_work.run(stop_at("closed", 2))
        export_audit(federation.coordinator, root / "before.audit")
        shutil.rmtree(federation.coordinator.root)
        restore(root / "backup.tar", root / "elsewhere")
        stage.federation = dataclasses.replace(federation, coordinator=CoordinatorFolder(root / "elsewhere"))
        at_work.federation = stage.federation
        at_work.run()
        with small.journal_of(stage.federation) as journal:
            assert journal.runs()[0].state == "stopped"
        ledgers, after = exported(stage)
    finally:
        at_work.close()
    return Restored(root, ledgers, records.read((root / "before.audit").read_bytes()), after)


def test_a_restore_is_told_as_one_and_its_forgotten_rounds_are_named(restored: Restored) -> None:
    """Departments hold rounds 2 and 3, and were asked about version 1 again in round 1002."""
    (one,) = compare(restored.ledgers, [restored.after])
    assert (one.rule, one.proven) == ("since-a-restore", False)
    assert f"rounds 2 to {SKIPPED + 1} were forgotten by it" in one.what
    assert "ledgers hold rounds 2, 3" in one.what
    assert f"gone back to before them in round {SKIPPED + 2}" in one.what
    assert one.restored_at is not None


def test_an_export_from_before_the_restore_forks_where_the_log_says_so(restored: Restored) -> None:
    """Of round 1002 the older export cannot know, and that is a suspicion as always."""
    findings = compare(restored.ledgers, [restored.before, restored.after])
    assert proven(findings) == set()
    assert {one.rule for one in findings} == {"since-a-restore", "round-not-in-the-log"}
    assert "two-audit-logs" in proven(compare(restored.ledgers, [restored.before, _without_restore(restored)]))


def _without_restore(restored: Restored) -> records.Record:
    """The log after the restore, as its coordinator might write it to hide that there was one."""
    folder = CoordinatorFolder(restored.root / "elsewhere")
    told = [(e.kind, dict(e.facts)) for e in restored.after.entries if e.kind not in ("checkpoint", "restored")]
    return signed_log(folder, told)


def test_without_the_log_it_cannot_be_told_from_a_lie_and_the_command_says_where_to_look(restored: Restored) -> None:
    assert "version-went-back" in proven(compare(restored.ledgers))
    ledgers = [str(restored.root / f"{one.name}.ledger") for one in restored.ledgers[:2]]
    alone = CliRunner().invoke(app, ["audit", "compare", *ledgers])
    assert alone.exit_code == 1
    assert "compare again with --coordinator" in alone.output
    told = CliRunner().invoke(
        app, ["audit", "compare", *ledgers, "--coordinator", str(restored.root / "coordinator.audit")]
    )
    assert told.exit_code == 0, told.output
    assert "restored  since-a-restore: the coordinator was restored on" in told.output
    assert "0 proven lies, 0 suspicions, 1 explained by a restore" in told.output


def test_the_log_from_before_explains_nothing(restored: Restored) -> None:
    """It ends with round 3 and knows of no restore: that round 1002 went back to version 1 is proven as ever."""
    assert "version-went-back" in proven(compare(restored.ledgers, [restored.before]))


# -- restores that never were ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, list[records.Record], list[tuple[str, dict]]]:
    """Three honest rounds: the ledgers, and the log as kinds and facts."""
    stage = playing(parcel.OPEN, lambda s, n, p: p, rounds=3)(tmp_path_factory.mktemp("honest"))
    try:
        ledgers, audit = exported(stage)
    finally:
        stage.at_work.close()
    return stage, ledgers, [(e.kind, dict(e.facts)) for e in audit.entries if e.kind != "checkpoint"]


def after_round(told: list[tuple[str, dict]], number: int) -> int:
    """The place in a log where that round is over."""
    return 1 + next(
        at for at, (kind, facts) in enumerate(told) if (kind, facts.get("round")) == ("round-closed", number)
    )


def entry(**facts: object) -> tuple[str, dict]:
    usual = {"made_at": 1, "last_round": 1, "rounds_from": 1002, "last_run": 1, "runs_from": 102, "given_up": []}
    return "restored", usual | facts


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, "goes on with round 2, which it forgot"),
        ({"rounds_from": 2}, "do not jump"),
        ({"runs_from": 2}, "do not jump"),
        ({"last_round": 0}, "knows of later rounds than it says"),
        ({"given_up": [1]}, "gives up rounds that were not open"),
        ({"made_at": "monday"}, "cannot be read"),
    ],
)
def test_a_restore_that_the_log_itself_does_not_bear_out_is_a_lie_of_its_own(facts, why, honest) -> None:
    stage, ledgers, told = honest
    at = after_round(told, 1)
    log = signed_log(stage.federation.coordinator, [*told[:at], entry(**facts), *told[at:]])
    (one,) = compare(ledgers, [log])
    assert (one.rule, one.proven) == ("restored-otherwise", True)
    assert why in one.what


def test_rounds_that_are_passed_off_as_forgotten_are_named_and_contradict_departments_clocks(honest) -> None:
    """The log forgets rounds 2 and 3 and says that this was in 1970: departments were asked about them today."""
    stage, ledgers, told = honest
    log = signed_log(stage.federation.coordinator, told[: after_round(told, 1)], restored_from=1)
    findings = compare(ledgers, [log])
    assert proven(findings) == set()
    assert "ledgers hold rounds 2, 3" in next(one.what for one in findings if one.rule == "since-a-restore")
    assert {one.round for one in findings if one.rule == "restored-at-another-time"} == {2, 3}
