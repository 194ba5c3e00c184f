"""The thread that serves the page and the metrics, beside the rounds and never in their way.

It starts once the hub serves departments, so importing the user interface costs nobody a second; whatever fails here is
told in one line, and the coordinator goes on without a page.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn

from commonroot.common.errors import CommonrootError, KeyFileError
from commonroot.common.ledger import Fact
from commonroot.files import atomic_write, storage_errors
from commonroot.logs import Tell
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.monitor.facts import Sources, Watcher
from commonroot.server.monitor.visits import Result, Visits

_log = logging.getLogger(__name__)

TOKEN: Final = Path("keys") / "monitor.token"
#: What has to be installed beside the program.
HOW_TO_INSTALL: Final = "pip install 'commonroot[monitor]'"
#: How long stopping may take, in seconds.
_PATIENCE: Final = 3.0
#: How often counted logins are looked through, in seconds.
_SETTLE_SECONDS: Final = 5.0


def token_of(folder: CoordinatorFolder) -> str:
    """The token of a coordinator's page, made at first use; a file that only its owner may read.

    Raises  KeyFileError: others may read it, or it is empty
    """
    path = folder.root / TOKEN
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            atomic_write(fresh, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
            with contextlib.suppress(FileExistsError):  # a command beside the coordinator was first: its token stands
                path.hardlink_to(fresh)
            fresh.unlink()
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"{path} can be read by others", hint=f"chmod 600 {path}, or remove it for a new one")
        token = path.read_text().strip()
    if len(token) < 20:
        raise KeyFileError(f"{path} holds no token", hint="remove it, and a new one is made")
    return token


def address_of(folder: CoordinatorFolder, *, port: int | None = None) -> str:
    """Where the page is, for somebody on this machine."""
    settings = folder.config.monitor
    host = settings.host if settings.local else folder.config.names[0]
    scheme = "http" if settings.local else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port if port is None else port}"


class Monitor:
    """The page and the metrics of one coordinator, from ``start`` to ``stop``.  Neither raises."""

    def __init__(self, folder: CoordinatorFolder, sources: Sources, tell: Tell) -> None:
        self._folder = folder
        self._watcher = Watcher(sources)
        self._federation = sources.federation
        self._journal = sources.journal
        self._tell = tell
        self._visits = Visits(self._write_visit)
        self._server: uvicorn.Server | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commonroot-monitor", daemon=True)

    def start(self) -> None:
        """Begin to serve, in a while."""
        if self._folder.config.monitor.enabled:
            self._thread.start()

    def stop(self) -> None:
        """Return when it has stopped, or after a few seconds."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            self._serve()
        except ModuleNotFoundError as error:
            self._tell("no-page", {"why": f"{error.name} is not installed: {HOW_TO_INSTALL}"})
        except OSError as error:
            self._tell("no-page", {"why": f"port {self._folder.config.monitor.port}: {error.strerror or error}"})
        except Exception as error:  # the rounds go on without a page
            _log.exception("the page: %s", type(error).__name__)
            self._tell("no-page", {"why": f"{type(error).__name__}: {error}"})

    def _serve(self) -> None:
        settings = self._folder.config.monitor
        token = token_of(self._folder)
        with _bind(settings.host, settings.port) as listening:
            from commonroot.server.monitor.guard import Guard
            from commonroot.server.monitor.metrics import exporter
            from commonroot.server.monitor.page import application

            names = {"localhost", "127.0.0.1", "::1"} if settings.local else set(self._folder.config.names)
            guard = Guard(
                application(self._watcher.facts),
                token=token,
                hosts=names | {settings.host},
                metrics=exporter(self._watcher.facts),
                federation=self._federation,
                visited=self._visited,
                secure=not settings.local,
            )
            config = uvicorn.Config(
                guard,
                lifespan="on",
                ws="websockets-sansio",  # the other way is deprecated by websockets itself
                access_log=False,
                log_config=None,
                log_level=logging.ERROR,
                server_header=False,
                proxy_headers=False,  # a request may not say itself where it comes from
                timeout_graceful_shutdown=1,
                limit_concurrency=64,
                ssl_certfile=None if settings.local else str(self._folder.server_certificate),
                ssl_keyfile=None if settings.local else str(self._folder.server_key),
            )
            self._server = _Server(config, lambda: self._announce(listening.getsockname()[1]))
            if not self._stopping.is_set():
                threading.Thread(target=self._settle, name="commonroot-visits", daemon=True).start()
                self._server.run(sockets=[listening])
                self._try(lambda: self._visits.settle(all_of_it=True))

    # -- logins, for the audit log -----------------------------------------------------------------------------------

    def _visited(self, result: Result, address: str) -> None:
        self._try(lambda: self._visits.note(result, address))

    def _settle(self) -> None:
        while not self._stopping.wait(_SETTLE_SECONDS):
            self._try(self._visits.settle)

    def _try(self, step: Callable[[], None]) -> None:
        """A log that cannot be written keeps nobody from looking why: what was counted is written once it can be."""
        try:
            step()
        except CommonrootError as error:
            _log.warning("a login could not be noted yet: %s (%s)", error, error.code)

    def _write_visit(self, facts: dict[str, Fact]) -> None:
        self._journal.note("login", facts)
        self._tell("login", dict(facts))

    def _announce(self, port: int) -> None:
        self._tell("page", {"url": address_of(self._folder, port=port), "token": str(self._folder.root / TOKEN)})


class _Server(uvicorn.Server):
    """uvicorn, saying when it serves."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it."""
        await super().startup(sockets)
        if self.started:
            self._serving()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)
