"""Two departments' ledgers find a coordinator's lie: every lie of the table that its own signature can prove.

Each row of ``test_named_lies`` that a coordinator tells is played, all departments export their ledgers and the
coordinator its audit log, and the files are compared.  What is found must be what the table below says; honest runs, with
crashes, losses and lying departments, give nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from federation import small
from proofs.stage import ASH, ELM, Stage, dropped, playing
from proofs.test_named_lies import LIES, Lie

from commonroot.client.evidence_file import export_ledger
from commonroot.common import parcel, records
from commonroot.common.compare import compare
from commonroot.common.findings import Finding
from commonroot.common.parcel import Parcel
from commonroot.server.audit_file import export_audit
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
        ),
        "neither the coordinator nor the authority has signed it",
    ),
    **dict.fromkeys(("other-letters-than-signed", "another-broadcast-than-signed"), "the body is not what was signed"),
    **dict.fromkeys(
        ("boxes-of-another-member", "boxes-changed", "boxes-cut-short", "other-boxes-for-the-same-set"),
        "who sealed a box does not stand beside it, and boxes differ from member to member",
    ),
    **dict.fromkeys(
        ("replayed-last-round", "replayed-round", "replayed-opening", "unknown-kind-of-request"),
        "an old or unsigned message says nothing new",
    ),
    "older-roster": "the authority signed it, for an epoch of its own",
    "bystander-asked-to-open": "the opening is an honest one, sent to one department more",
    **dict.fromkeys(
        ("charter-with-another-term", "charter-with-a-wider-bound", "charter-with-another-broadcast"),
        "a file that was never approved; whoever hands it on shows it",
    ),
}


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
        findings = found(stage)
    finally:
        stage.at_work.close()
    if lie.name in UNPROVABLE:
        assert proven(findings) == set()
        return
    assert proven(findings), "the ledgers do not show it"
    for one in findings:
        if one.proven:
            assert one.statements or one.signed_by == "authority"
            assert {spoken.signer for spoken in one.statements} <= {stage.coordinator.public.hex()}


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
