"""``coordinator up``: Flower's hub, the run driver and the journal in one process, until told to stop."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from commonroot.common.charter import Charter
from commonroot.common.errors import (
    AnotherCoordinator,
    CommonrootError,
    DatabaseRefused,
    DatabaseUnreachable,
    StorageFull,
)
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import CIPHERTEXT_BYTES
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.console import stop_on_signals
from commonroot.files import take_ownership
from commonroot.flower import MAX_HEAD
from commonroot.logs import LogOptions, Tell, telling
from commonroot.machine import give_memory_back
from commonroot.server.backbones import BackboneStore
from commonroot.server.duties import LateClosings, Space
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.enrol_desk import EnrolmentDesk
from commonroot.server.enrol_watch import Doorkeeper
from commonroot.server.exchange import Exchange, Stopped
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.server.monitor.board import Board
from commonroot.server.monitor.facts import Sources
from commonroot.server.monitor.serving import Monitor
from commonroot.server.offers import Offers
from commonroot.server.retention import Keeper
from commonroot.server.run import RunDriver
from commonroot.server.superlink import SuperLink

_log = logging.getLogger(__name__)

#: How often an idle coordinator looks for queued runs and for departments that lack a final backbone.
_IDLE_SECONDS = 0.5
#: After these the journal cannot be written any more.
JOURNAL_GONE = (AnotherCoordinator, DatabaseRefused, DatabaseUnreachable)
#: A department that the hub has not seen for this long is not waited for when a charter is shown, in seconds.
_ABSENCE = 5.0


def serve(
    root: Path,
    *,
    until_idle: bool = False,
    as_json: bool = False,
    log: LogOptions | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until stopped by a signal (or ``stop``).

    Parameters  as_json: short for ``log=LogOptions("json")``
    Raises  PortTaken, KeyFileError, ForeignState before it begins
    """
    with telling(log or LogOptions("json" if as_json else "text")) as tell_log:
        board = Board()

        def tell(kind: str, facts: dict[str, Any]) -> None:
            tell_log(kind, facts)
            board.tell(kind, facts)

        stop = stop or threading.Event()
        stop_on_signals(stop)
        give_memory_back()
        folder = CoordinatorFolder(root)
        folder.standing()  # a roster that cannot be believed is said here and now
        with ExitStack() as undo:
            undo.enter_context(take_ownership(root))
            journal = folder.journal(owner=secrets.token_hex(16), say=tell)
            undo.callback(journal.close)
            with suppress(Stopped):
                _Coordinator(folder, journal, board, stop, tell, undo).serve(until_idle=until_idle)
        tell("down", {})


class _Coordinator:
    """The hub, open until ``undo`` ends, and what goes on behind it."""

    def __init__(
        self,
        folder: CoordinatorFolder,
        journal: Journal,
        board: Board,
        stop: threading.Event,
        tell: Tell,
        undo: ExitStack,
    ) -> None:
        self._folder, self._journal, self._board, self._stop, self._tell = folder, journal, board, stop, tell
        self._identity = folder.identity()
        journal.sign_restore(self._identity)  # where `coordinator restore` had no key
        self._backbones = BackboneStore(folder.root / "backbones")
        book = EnrolmentBook(journal, federation=folder.config.federation)
        self._hub = undo.enter_context(
            SuperLink(
                folder.root / "links",
                folder.config.host,
                folder.config.port,
                folder.server_certificate,
                folder.server_key,
                enrolment=EnrolmentDesk(folder, journal, book, on_event=tell).answer,
                limits=folder.config.limits,
            )
        )
        self._door = undo.enter_context(Doorkeeper(self._hub, book, folder.standing, tell))
        tell("listening", {"host": folder.config.host, "port": self._hub.public_port})
        #: The roster that runs are carried out under; None before the first.
        self._roster: Roster | None = None
        self._told: set[str] = set()
        hub, federation = self._hub, folder.config.federation
        sources = Sources(federation, journal, board, hub.attendance, lambda: self._roster, hub.programs)
        monitor = Monitor(folder, sources, tell)
        undo.callback(monitor.stop)
        monitor.start()
        self._links = undo.enter_context(FlowerLinks(self._hub))
        self._late = LateClosings(journal, self._driver_of)
        self._keeper = Keeper(folder, journal)
        self._offers = Offers(journal, self._identity, tell)
        self._space = Space(folder.config.waits, stop, tell)

    def serve(self, *, until_idle: bool) -> None:
        """Runs as they are queued, and in between whatever else there is to do.  Raises Stopped once told to stop."""
        while not self._stop.is_set():
            self._follow_roster()
            run = self._journal.next_run() if self._roster is not None else None
            if run is not None:
                self._carry_out(run)
            elif until_idle:
                return
            else:
                self._idle()
                self._stop.wait(_IDLE_SECONDS)

    def _follow_roster(self) -> None:
        latest = self._standing()
        if latest is None or (self._roster is not None and latest.digest == self._roster.digest):
            self._roster = latest
            return
        self._door.look()
        self._door.leave_only(latest)
        names = [member.name for member in latest.departments]
        self._board.expect(names)
        self._roster = latest
        self._tell("epoch", {"epoch": latest.epoch, "departments": names})

    def _standing(self) -> Roster | None:
        """The roster that stands; None before the first and once it expired: then only membership is spoken of."""
        roster = self._folder.standing()
        if roster is None or roster.expires >= time.time():
            return roster
        if "expired" not in self._told:
            self._told.add("expired")
            following = "`coordinator enrolments`, then `coordinator roster DIR --sign`"
            self._tell("expired", {"epoch": roster.epoch, "next": following})
        return None

    def _carry_out(self, run: Run) -> None:
        self._board.run_begins(run.charter.charter.timing)
        try:
            self._driver_of(run)[0].drive()
            self._space.found()
        except JOURNAL_GONE:
            raise  # there is nowhere to write it down; the run goes on from the journal's last line
        except StorageFull as error:
            self._space.wait(error)  # the journal says where to go on
        except CommonrootError as error:
            self._journal.set_run(run.run, "stopped", f"{error} ({error.code})")
            self._tell("stopped", error.describe())
        except Stopped:
            raise
        except Exception as error:  # the last line of defence: one run ends, the hub does not
            reason = f"internal error {type(error).__name__}"
            _log.exception("run %s: %s", run.run, reason)
            self._journal.set_run(run.run, "stopped", reason)
            self._tell("stopped", {"why": reason})

    def _idle(self) -> None:
        try:
            if self._roster is not None:
                self._late.look()
                self._show_offers(self._roster)
            let_go = self._keeper.look(time.monotonic())
            if let_go:
                self._tell("pruned", let_go)
        except StorageFull as error:
            self._space.wait(error)
        except (CommonrootError, Stopped):
            raise
        except Exception as error:
            _log.exception("between runs: internal error %s", type(error).__name__)

    def _show_offers(self, roster: Roster) -> None:
        self._hub.allow(MAX_HEAD + CIPHERTEXT_BYTES * len(roster.departments))  # a greeting is the longest reply
        self._offers.look(roster, Exchange(self._links, roster, time.monotonic, absence=_ABSENCE, stop=self._stop))

    def _driver_of(self, run: Run) -> tuple[RunDriver, Exchange]:
        roster = self._folder.roster()
        self._hub.allow(longest_reply(run.charter.charter, roster))
        absence = run.charter.charter.timing.absence
        exchange = Exchange(self._links, roster, time.monotonic, absence=absence, stop=self._stop)
        return RunDriver(
            run,
            roster=roster,
            identity=self._identity,
            journal=self._journal,
            backbones=self._backbones,
            exchange=exchange,
            on_event=self._tell,
            newest_roster=lambda: self._folder.roster().digest,
            retry=self._folder.config.waits.retry,
        ), exchange


def longest_reply(charter: Charter, roster: Roster) -> int:
    """Bytes of the longest parcel that a department may send under this charter: an upload, or a greeting."""
    upload = SumCodec.of_round(charter, roster, len(roster.departments)).layout.nbytes
    return MAX_HEAD + max(upload, CIPHERTEXT_BYTES * len(roster.departments))
