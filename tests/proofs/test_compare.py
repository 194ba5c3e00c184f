"""Two departments' ledgers find a coordinator's lie: every lie of the table that its own signature can prove.

Each row of ``test_named_lies`` that a coordinator tells is played, all departments export their ledgers and the
coordinator its audit log, and the files are compared.  What is found must be what the table below says; honest runs,
with crashes, losses and lying departments, give nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from federation import small
from proofs.stage import ASH, ELM, Stage, dropped, playing
from proofs.test_named_lies import LIES, Lie

from commonroot.client.evidence_file import export_ledger
from commonroot.common import ledger, parcel, records, restores
from commonroot.common.compare import compare
from commonroot.common.contradictions import Finding
from commonroot.common.errors import ConfigError
from commonroot.common.parcel import Parcel
from commonroot.common.roster import SignedRoster
from commonroot.server.audit_file import export_audit
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.network import Crossing, MemoryNetwork, delay, drop, repeat

#: Lies that no comparison of signatures can prove, and why.
UNPROVABLE: dict[str, str] = {
    **dict.fromkeys(
        (
            "charter-under-another-key",
            "round-under-another-key",
            "opening-under-another-key",
            "close-under-another-key",
            "signature-of-another-kind",
            "bytes-that-are-no-message",
            "another-protocol-version",
            "greet-under-another-key",
            "confirm-under-another-key",
            "roster-of-another-authority",
            "roster-with-an-exchanged-key",
            "roster-with-a-member-dropped",
            "roster-with-a-lower-quorum",
            "roster-with-a-lower-floor",
            "roster-with-fewer-colluders",
            "roster-with-a-thinner-graph",
            "roster-with-a-complete-graph",
            "roster-with-a-smaller-committee",
            "roster-with-a-lower-floor-for-many",
            "train-under-another-key",
        ),
        "neither the coordinator nor the authority has signed it",
    ),
    **dict.fromkeys(
        (
            "other-letters-than-signed",
            "another-broadcast-than-signed",
            "close-with-another-backbone",
            "train-on-what-was-not-signed",
            "round-without-a-broadcast",
        ),
        "the body is not what was signed",
    ),
    **dict.fromkeys(
        ("boxes-of-another-member", "boxes-changed", "boxes-cut-short", "other-boxes-for-the-same-set"),
        "who sealed a box does not stand beside it, and boxes differ from member to member",
    ),
    **dict.fromkeys(
        (
            "replayed-last-round",
            "replayed-round",
            "replayed-opening",
            "unknown-kind-of-request",
            "train-for-a-round-that-is-past",  # byte for byte what it signed before that round
        ),
        "an old or unsigned message says nothing new",
    ),
    "opening-to-a-bystander": "the same opening was rightly sent to a member: a signature names no receiver",
    "older-roster": "the authority signed it, for an epoch of its own",
    **dict.fromkeys(
        ("charter-with-another-term", "charter-with-a-wider-bound", "charter-with-another-broadcast"),
        "a file that was never approved; whoever hands it on shows it",
    ),
}


#: Where the lie is itself a jump in numbers, as after a restore, steps over it are not proven by that log.
JUMPED = {"round-beyond-the-roster": frozenset({"version-improved-twice"})}


def exported(stage: Stage) -> tuple[list[records.Record], records.Record]:
    """Every department's ledger and the coordinator's audit log, as others read them."""
    ledgers = []
    for name in stage.names:
        path = stage.root / f"{name}.ledger"
        export_ledger(stage.federation.reopen(name), path)
        ledgers.append(records.read(path.read_bytes()))
    path = stage.root / "coordinator.audit"
    export_audit(stage.federation.coordinator, path)
    return ledgers, records.read(path.read_bytes())


def found(stage: Stage) -> list[Finding]:
    ledgers, audit = exported(stage)
    return compare(ledgers, [audit])


def proven(findings: Iterable[Finding]) -> set[str]:
    return {one.rule for one in findings if one.proven}


OF_THE_COORDINATOR = [lie for lie in LIES if lie.who == "coordinator"]


@pytest.mark.parametrize("lie", OF_THE_COORDINATOR, ids=lambda lie: lie.name)
def test_a_coordinators_lie_is_proven_by_its_own_signatures(lie: Lie, tmp_path: Path) -> None:
    stage = lie.play(tmp_path)
    try:
        assert isinstance(stage, Stage)
        ledgers, audit = exported(stage)
    finally:
        stage.at_work.close()
    findings = compare(ledgers, [audit])
    by_ledgers = proven(compare(ledgers))
    for pretended in restores_made_up(stage, audit):
        excused = by_ledgers - proven(compare(ledgers, [pretended]))
        assert excused <= JUMPED.get(lie.name, frozenset()), "a restore that is made up excuses nothing"
    if lie.name in UNPROVABLE:
        assert proven(findings) == set()
        return
    assert proven(findings), "the ledgers do not show it"
    for one in findings:
        if one.proven:
            assert one.statements or one.signed_by == "authority"
            assert {spoken.signer for spoken in one.statements} <= {stage.coordinator.public.hex()}


def restores_made_up(stage: Stage, audit: records.Record) -> Iterable[records.Record]:
    """Logs that say, well signed, that there was a restore: after everything, and instead of all rounds."""
    told = [(e.kind, dict(e.facts)) for e in audit.entries if e.kind != "checkpoint"]
    first = next((at for at, (kind, _) in enumerate(told) if kind == "round-open"), len(told))
    newest = max((facts["round"] for kind, facts in told if kind == "round-open"), default=0)
    yield signed_log(stage.federation.coordinator, told, restored_from=newest)
    yield signed_log(stage.federation.coordinator, told[:first], restored_from=0)


def test_what_is_unprovable_is_a_lie_of_the_table():
    assert set(UNPROVABLE) <= {lie.name for lie in OF_THE_COORDINATOR}


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie.who != "coordinator"], ids=lambda lie: lie.name)
def test_a_lying_department_does_not_make_the_coordinator_look_guilty(lie: Lie, tmp_path: Path) -> None:
    stage = lie.play(tmp_path)
    if not isinstance(stage, Stage):
        return  # played with machines alone, which keep no ledger
    try:
        assert found(stage) == []
    finally:
        stage.at_work.close()


# -- honest runs -------------------------------------------------------------------------------------------------------


def weathered(root: Path, *weather: object, rounds: int = 3, **shape: object) -> Stage:
    """A run through bad weather, with everything that the honest code does about it."""
    stage = Stage(root, rounds=rounds, attempts=8, **shape)  # type: ignore[arg-type]
    stage.at_work.close()
    stage.at_work = small.ToyFederation(stage.federation, MemoryNetwork(seed=3, weather=weather))  # type: ignore[arg-type]
    stage.at_work.start_all()
    stage.run()
    return stage


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param(drop(0.3, kinds={parcel.MASKED, parcel.SHARES}), id="lost"),
        pytest.param(repeat(0.5), id="repeated"),
        pytest.param(delay(20.0), id="late"),
    ],
)
@pytest.mark.parametrize("ready", ["off", "on"])
def test_losses_repeats_and_delays_are_no_lies(weather: object, ready: str, tmp_path: Path) -> None:
    stage = weathered(tmp_path, weather, ready=ready)
    try:
        assert found(stage) == []
    finally:
        stage.at_work.close()


class _Killed(Exception):
    """The coordinator dies here."""


@pytest.mark.parametrize(
    "at", ["ready", "round", "uploaded", "confirming", "opening", "closed", "closing", "taken-over"]
)
def test_a_coordinator_that_crashes_and_resumes_has_not_lied(at: str, tmp_path: Path) -> None:
    """Killed once at each step of a run in which elm's uploads never arrive, and started again."""
    stage = Stage(tmp_path, rounds=2, attempts=3)
    stage.forge = dropped(parcel.MASKED, {ELM})
    left = [at]

    def die(kind: str, facts: dict[str, object]) -> None:
        if left and kind == left[0]:
            left.pop()
            raise _Killed

    with pytest.raises(_Killed):
        stage.at_work.run(die)
    stage.run()
    try:
        assert stage.outcome() == "unharmed"
        assert found(stage) == []
    finally:
        stage.at_work.close()


def test_departments_that_crash_and_come_back_have_not_been_lied_to(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rounds=3, attempts=3)
    restarted: list[str] = []

    def restart(stage: Stage, crossing: Crossing) -> Iterable[Parcel] | None:
        if crossing.parcel.kind == parcel.MASKED and crossing.department not in restarted:
            restarted.append(crossing.department)
            stage.at_work.kill(crossing.department)
            stage.at_work.start(crossing.department)
        return None

    stage.forge = restart
    stage.run()
    try:
        assert sorted(restarted) == sorted(stage.names)
        assert found(stage) == []
    finally:
        stage.at_work.close()


# -- what the coordinator's log adds -----------------------------------------------------------------------------------


def signed_log(
    folder: CoordinatorFolder, told: list[tuple[str, dict]], *, restored_from: int | None = None, at: float = 1.0
) -> records.Record:
    """The coordinator's audit log as it might write it; ``restored_from``: the last round of a made-up backup."""
    chain, made = None, []
    for kind, facts in told:
        if kind == "restored":
            facts = facts | {"entries": len(made), "head": (made[-1].hash if made else bytes(32)).hex()}
        chain = ledger.append(chain, at=at, kind=kind, facts=facts)
        made.append(chain)
    if restored_from is not None:
        numbers = (restored_from, restored_from + restores.SKIPPED)
        facts = restores.facts_of(chain, made_at=at, rounds=numbers, runs=(0, restores.SKIPPED_RUNS), given_up=())
        chain = ledger.append(chain, at=at, kind=restores.KIND, facts=facts)
        made.append(chain)
    owner = ledger.owner_of_audit("grove")
    made.append(ledger.checkpoint(chain, at=at, owner=owner, identity=folder.identity()))
    roster = SignedRoster.from_json((folder.root / "roster.json").read_bytes())
    return records.read(
        records.write(
            folder.identity(),
            what="audit",
            federation="grove",
            name="coordinator",
            authority=folder.authority_public(),
            rosters=[roster],
            entries=made,
        )
    )


def spoiled_log(root: Path, change: Callable[[list[tuple[str, dict]]], list[tuple[str, dict]]]) -> list[Finding]:
    """An honest run, and an audit log that its coordinator wrote anew: what is found of it."""
    stage = playing(parcel.OPEN, lambda s, n, p: p, rounds=3)(root)
    try:
        ledgers, audit = exported(stage)
    finally:
        stage.at_work.close()
    forged = signed_log(
        stage.federation.coordinator, change([(e.kind, dict(e.facts)) for e in audit.entries if e.kind != "checkpoint"])
    )
    assert compare(ledgers, [audit]) == []
    return compare(ledgers, [forged])


def changed(kind: str, **facts: object) -> Callable[[list[tuple[str, dict]]], list[tuple[str, dict]]]:
    """The first entry of a kind with other facts."""

    def change(told: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
        at = next(at for at, (one, _) in enumerate(told) if one == kind)
        told[at] = (kind, told[at][1] | facts)
        return told

    return change


def without_round(number: int) -> Callable[[list[tuple[str, dict]]], list[tuple[str, dict]]]:
    return lambda told: [(kind, facts) for kind, facts in told if facts.get("round") != number]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (without_round(2), "round-not-in-the-log"),
        (without_round(2), "set-not-in-the-log"),
        (without_round(2), "result-not-in-the-log"),
        (changed("round-open", opening="00" * 32), "another-opening-in-the-log"),
        (changed("survivors", opened="00" * 32, survivors=[0, 1, 2]), "another-set-in-the-log"),
        (changed("round-closed", aggregate="00" * 32), "another-result-in-the-log"),
        (changed("queued", charter="00" * 32), "another-charter-in-the-log"),
        (changed("roster", roster="00" * 32), "another-roster-in-the-log"),
    ],
)
def test_a_log_that_says_otherwise_than_was_signed_is_proven_false(change, rule, tmp_path):
    assert rule in proven(spoiled_log(tmp_path, change))


def test_a_log_that_ends_before_a_round_is_suspected_and_not_proven(tmp_path):
    """It may have been exported earlier: of round 3 nothing can be told, and nothing comes after it."""
    findings = spoiled_log(tmp_path, without_round(3))
    assert {one.rule for one in findings} == {"round-not-in-the-log", "set-not-in-the-log", "result-not-in-the-log"}
    assert proven(findings) == set()


def test_two_exports_of_one_log_must_be_the_beginning_of_one_another(tmp_path):
    stage = Stage(tmp_path)
    try:
        stage.run()
        ledgers, first = exported(stage)
        with small.journal_of(stage.federation) as journal:
            journal.note("command", {"command": "status", "by": "somebody"})
        _, second = exported(stage)
        assert compare(ledgers, [first, second]) == []
        other = small.founded(tmp_path / "other")
        stage.federation.coordinator.root.joinpath("journal.db").unlink()
        with small.journal_of(stage.federation) as journal:
            journal.note("command", {"command": "run", "by": "nobody"})
        third = tmp_path / "third"
        export_audit(stage.federation.coordinator, third)
        assert "two-audit-logs" in proven(compare(ledgers, [first, records.read(third.read_bytes())]))
        with pytest.raises(ConfigError, match="different federations"):
            path = tmp_path / "stranger"
            export_ledger(other.departments[ASH], path)
            compare([*ledgers, records.read(path.read_bytes())])
    finally:
        stage.at_work.close()
