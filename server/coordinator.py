"""``coordinator up``: Flower's hub, the run driver and the journal in one process, until told to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from commonroot.common.errors import CommonrootError, ConfigError
from commonroot.console import event_printer, stop_on_signals
from commonroot.files import take_ownership
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange, Stopped
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.run import RunDriver
from commonroot.server.superlink import SuperLink

#: How often an idle coordinator looks for queued runs and for departments that still lack a final backbone.
_IDLE_SECONDS = 0.5


def serve(root: Path, *, until_idle: bool = False, as_json: bool = False, stop: threading.Event | None = None) -> None:
    """Serve until stopped by a signal (or ``stop``).  Raises PortTaken, KeyFileError, ForeignState before it begins."""
    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = CoordinatorFolder(root)
    roster = folder.roster()
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="sign a new one with `commonroot coordinator roster`")
    lock = take_ownership(root)
    try:
        journal = folder.journal()
    except BaseException:
        lock.close()
        raise
    tell = event_printer(as_json)
    try:
        backbones = BackboneStore(root / "backbones")
        with SuperLink(
            root / "links", folder.config.host, folder.config.port, folder.server_certificate, folder.server_key
        ) as hub:
            for member in roster.departments:
                hub.register(member.node_key, member.name)
            tell("listening", {"host": folder.config.host, "port": hub.public_port})
            with FlowerLinks(hub) as links:
                while not stop.is_set():
                    run = journal.next_run()
                    if run is not None:
                        exchange = Exchange(
                            links,
                            roster,
                            time.monotonic,
                            absence=run.charter.charter.timing.absence,
                            stop=stop,
                        )
                        driver = RunDriver(
                            run,
                            roster=roster,
                            identity=folder.identity(),
                            journal=journal,
                            backbones=backbones,
                            exchange=exchange,
                            on_event=tell,
                        )
                        try:
                            driver.drive()
                        except CommonrootError as error:
                            journal.set_run(run.run, "stopped", f"{error} ({error.code})")
                            tell("stopped", error.describe())
                        continue
                    if until_idle:
                        break
                    stop.wait(_IDLE_SECONDS)
    except Stopped:
        pass
    finally:
        journal.close()
        lock.close()
    tell("down", {})
