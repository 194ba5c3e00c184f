"""The ready stage as it is deployed: processes, TLS, real training, and a charter that asks for it."""

from __future__ import annotations

import json
import shutil
import signal
from typing import Any

from federation import small
from federation.test_crash import Deployed, undisturbed_versions

from commonroot.common import parcel
from commonroot.common.messages import RoundOpen
from commonroot.simulations.processes import free_port, processes

ROUNDS = 5


class Watched(Deployed):
    """What the coordinator says of its ready stages."""

    def told(self, event: str) -> list[dict[str, Any]]:
        lines = self.log.read_bytes().decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith(f'{{"event": "{event}"')]

    def trains(self) -> bool:
        """A ready stage that only waits for one of three."""
        asked = self.told("training")[-1]["round"]
        ready = [event["ready"] for event in self.told("trained") if event["round"] == asked]
        return ready == [1, 2] and len(self.rounds()) < asked

    def waits(self) -> str:
        """What only waits for one of three: training, or a round for its upload."""
        if self.trains():
            return "training"
        last = self.rounds()[-1]
        return "uploading" if last.state == "open" and self.uploads(last.round) == 2 else ""


def test_a_daemon_killed_before_it_is_ready_is_asked_again_and_the_run_ends_where_an_undisturbed_one_ends(tmp_path):
    """SIGSTOP holds a daemon in the ready stage; two of three are ready, and nobody masks meanwhile.

    Birch, stopped at some moment, may hold a round that waits for its upload instead.  Then ash, which has uploaded, is
    stopped: birch and cedar open that round, and the next ready stage waits for ash.
    """
    shape = {"departments": 3, "rounds": ROUNDS, "attempts": 6, "widths": (12, 5), "ready": "on"}
    quiet = small.founded(tmp_path / "undisturbed", **shape)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "killed")
    expected = undisturbed_versions(quiet)

    federation = small.opened(tmp_path / "killed")
    assert federation.charter.charter.trains_first(federation.coordinator.roster())
    small.move_to_port(federation, free_port())
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    with processes(tmp_path / "logs") as started:
        at_work = Watched(federation, started, tmp_path / "logs")
        at_work.until(at_work.rounds, "a first round")
        held = "birch"
        at_work.signal(held, signal.SIGSTOP)
        if at_work.until(at_work.waits, "a stage that only waits for birch") == "uploading":
            at_work.signal("ash", signal.SIGSTOP)
            at_work.restart("birch")
            held = "ash"
            at_work.until(at_work.trains, "a ready stage that only waits for ash")
        opened = len(at_work.rounds())
        at_work.restart(held)
        at_work.until(at_work.over, "the end of the run")
        asked = {event["round"] for event in at_work.told("training")}
        ready = {event["round"] for event in at_work.told("trained") if event["ready"] == 3}
    assert opened < ROUNDS
    small.check_books(federation)
    with small.journal_of(federation) as journal:
        assert journal.runs()[0].state == "finished"
        rounds = journal.rounds()
        kinds = {row["kind"]: row["parcels"] for row in journal.received()}
    # A machine under load may bring a daemon back too late for a round, which is then lost and tried again.
    assert len([r for r in rounds if r.state == "closed"]) == ROUNDS
    assert {RoundOpen.decode(r.opening).cohort for r in rounds} == {(0, 1, 2)}
    assert {r.round for r in rounds} == ready <= asked
    assert kinds[parcel.TRAINED] >= kinds[parcel.MASKED] >= 3 * ROUNDS
    assert small.versions(federation) == expected
    assert small.heads(federation) == small.heads(quiet)
