"""``coordinator up``: Flower's hub, the run driver and the journal in one process, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commonroot.common.charter import Charter
from commonroot.common.errors import CommonrootError, ConfigError
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import CIPHERTEXT_BYTES
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.console import stop_on_signals
from commonroot.files import take_ownership
from commonroot.flower import MAX_HEAD
from commonroot.logs import LogOptions, Tell, telling
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange, Stopped
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal, Run
from commonroot.server.monitor.board import Board
from commonroot.server.monitor.facts import Sources
from commonroot.server.monitor.serving import Monitor
from commonroot.server.run import RunDriver
from commonroot.server.superlink import SuperLink

_log = logging.getLogger(__name__)

#: How often an idle coordinator looks for queued runs and for departments that lack a final backbone.
_IDLE_SECONDS = 0.5


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

        _serve(root, until_idle, stop or threading.Event(), tell, board)


def _serve(root: Path, until_idle: bool, stop: threading.Event, tell: Tell, board: Board) -> None:
    stop_on_signals(stop)
    folder = CoordinatorFolder(root)
    roster = _valid_roster(folder)
    identity = folder.identity()
    lock = take_ownership(root)
    try:
        journal = folder.journal()
    except BaseException:
        lock.close()
        raise
    monitor: Monitor | None = None
    try:
        backbones = BackboneStore(root / "backbones")
        with SuperLink(
            root / "links", folder.config.host, folder.config.port, folder.server_certificate, folder.server_key
        ) as hub:
            _let_in(hub, roster, tell)
            tell("listening", {"host": folder.config.host, "port": hub.public_port})
            board.expect([member.name for member in roster.departments])
            sources = Sources(folder.config.federation, journal, board, hub.attendance, lambda: roster)
            monitor = Monitor(folder, sources, tell)
            monitor.start()
            with FlowerLinks(hub) as links:

                def driver_of(run: Run) -> tuple[RunDriver, Exchange]:
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
                while not stop.is_set():
                    latest = _valid_roster(folder)
                    if latest.digest != roster.digest:
                        _let_in(hub, latest, tell)
                        roster = latest
                        board.expect([member.name for member in roster.departments])
                        tell("epoch", {"epoch": roster.epoch, "departments": [m.name for m in roster.departments]})
                    run = journal.next_run()
                    if run is not None:
                        board.run_begins(run.charter.charter.timing)
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
        if monitor is not None:
            monitor.stop()
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


def _valid_roster(folder: CoordinatorFolder) -> Roster:
    roster = folder.roster()
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="sign a new one with `commonroot coordinator roster`")
    return roster


def _let_in(hub: SuperLink, roster: Roster, tell: Tell) -> None:
    """The roster's departments may come in, and nobody else.

    A node key that was once shut out stays out: a department that returns does so with a new folder.
    """
    members = {member.node_key: member.name for member in roster.departments}
    for key in hub.registered():
        if key not in members:
            hub.unregister(key)
    for key, name in members.items():
        try:
            hub.register(key, name)
        except ValueError:  # Flower's, for a key that it once deleted
            tell("shut-out", {"department": name, "why": "its node key was in an earlier roster and left"})
