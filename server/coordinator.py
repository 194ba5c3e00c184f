"""``coordinator up``: Flower's hub, the run driver and the journal in one process, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commonroot.common.charter import Charter
from commonroot.common.errors import CommonrootError
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import CIPHERTEXT_BYTES
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.console import event_printer, stop_on_signals
from commonroot.files import take_ownership
from commonroot.flower import MAX_HEAD
from commonroot.server.backbones import BackboneStore
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.enrol_desk import EnrolmentDesk
from commonroot.server.enrol_watch import Doorkeeper
from commonroot.server.exchange import Exchange, Stopped
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal, Run
from commonroot.server.run import RunDriver
from commonroot.server.superlink import SuperLink

_log = logging.getLogger(__name__)

#: How often an idle coordinator looks for queued runs and for departments that lack a final backbone.
_IDLE_SECONDS = 0.5


def serve(root: Path, *, until_idle: bool = False, as_json: bool = False, stop: threading.Event | None = None) -> None:
    """Serve until stopped by a signal (or ``stop``).  Raises PortTaken, KeyFileError, ForeignState before it begins."""
    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = CoordinatorFolder(root)
    folder.standing()  # a roster that cannot be believed is said here and now
    identity = folder.identity()
    lock = take_ownership(root)
    try:
        journal = folder.journal()
    except BaseException:
        lock.close()
        raise
    tell = event_printer(as_json)
    try:
        backbones = BackboneStore(root / "backbones")
        book = EnrolmentBook(journal, federation=folder.config.federation)
        desk = EnrolmentDesk(folder, journal, book, on_event=tell)
        hub = SuperLink(
            root / "links",
            folder.config.host,
            folder.config.port,
            folder.server_certificate,
            folder.server_key,
            enrolment=desk.answer,
        )
        with hub, Doorkeeper(hub, book, folder.standing, tell) as door:
            tell("listening", {"host": folder.config.host, "port": hub.public_port})
            with FlowerLinks(hub) as links:

                def driver_of(run: Run) -> tuple[RunDriver, Exchange]:
                    roster = folder.roster()
                    hub.allow(longest_reply(run.charter.charter, roster))
                    absence = run.charter.charter.timing.absence
                    exchange = Exchange(links, roster, time.monotonic, absence=absence, stop=stop)
                    return RunDriver(
                        run,
                        roster=roster,
                        identity=identity,
                        journal=journal,
                        backbones=backbones,
                        exchange=exchange,
                        on_event=tell,
                        newest_roster=lambda: folder.roster().digest,
                    ), exchange

                late = LateClosings(journal, driver_of)
                known: Roster | None = None
                told: set[str] = set()

                def once(kind: str, facts: dict[str, Any]) -> None:
                    if kind not in told:
                        told.add(kind)
                        tell(kind, facts)

                while not stop.is_set():
                    latest = _standing_roster(folder, once)
                    if latest is None:
                        if until_idle:
                            break
                        if stop.wait(_IDLE_SECONDS):
                            break
                        continue
                    if known is None or latest.digest != known.digest:
                        door.look()
                        door.leave_only(latest)
                        names = [member.name for member in latest.departments]
                        tell("epoch", {"epoch": latest.epoch, "departments": names})
                        known = latest
                    run = journal.next_run()
                    if run is not None:
                        try:
                            driver_of(run)[0].drive()
                        except CommonrootError as error:
                            journal.set_run(run.run, "stopped", f"{error} ({error.code})")
                            tell("stopped", error.describe())
                        except Stopped:
                            raise
                        except Exception as error:  # the last line of defence: one run ends, the hub does not
                            reason = f"internal error {type(error).__name__}"
                            _log.exception("run %s: %s", run.run, reason)
                            journal.set_run(run.run, "stopped", reason)
                            tell("stopped", {"why": reason})
                    elif until_idle:
                        break
                    else:
                        try:
                            late.look()
                        except (CommonrootError, Stopped):
                            raise
                        except Exception as error:
                            _log.exception("late closings: internal error %s", type(error).__name__)
                        stop.wait(_IDLE_SECONDS)
    except Stopped:
        pass
    finally:
        journal.close()
        lock.close()
    tell("down", {})


def longest_reply(charter: Charter, roster: Roster) -> int:
    """Bytes of the longest parcel that a department may send under this charter: an upload, or a greeting."""
    upload = SumCodec.of_round(charter, roster, len(roster.departments)).layout.nbytes
    return MAX_HEAD + max(upload, CIPHERTEXT_BYTES * len(roster.departments))


class LateClosings:
    """Hands the newest finished run's backbone to departments that were away when it ended, once they are back."""

    def __init__(self, journal: Journal, driver_of: Callable[[Run], tuple[RunDriver, Exchange]]) -> None:
        self._journal = journal
        self._driver_of = driver_of
        #: Department → the incarnation that was asked already: one that said no is not asked again until it comes back.
        self._asked: dict[int, str] = {}

    def look(self) -> None:
        """Deliver to whoever is back; returns at once where nobody is."""
        finished = [run for run in self._journal.runs() if run.state == "finished"]
        if not finished:
            return
        driver, exchange = self._driver_of(finished[-1])
        present = exchange.present()
        back = {who for who in driver.without_closing() if who in present and self._asked.get(who) != present[who]}
        if back:
            self._asked.update({who: present[who] for who in back})
            driver.deliver_closing(back, seconds=finished[-1].charter.charter.timing.closing)


def _standing_roster(folder: CoordinatorFolder, tell: Callable[[str, dict[str, Any]], None]) -> Roster | None:
    """The roster that stands; None before the first, and where it has expired: then only membership is spoken of."""
    roster = folder.standing()
    if roster is None or roster.expires >= time.time():
        return roster
    tell("expired", {"epoch": roster.epoch, "next": "`coordinator enrolments`, then `coordinator roster DIR --sign`"})
    return None
