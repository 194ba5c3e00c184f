"""Flower's hub inside the coordinator's process, with a door for departments and no other.

Flower's own ``flower-superlink`` serves nodes, users and task processes on one port and asks the last two for no proof
of who they are.  Here the hub's application is put together from Flower's node-facing routes alone, behind
:mod:`commonroot.server.gate` and TLS under the federation's own CA.  What users and task processes would do over HTTP,
the coordinator does by calling Flower's ``LinkState`` (see ``flower_links.py``): there is no control interface to
reach, not even from this machine, and a payload is not copied through a socket on its way to the next thread.

Links (who is registered, who is online, which messages wait) are in an SQLite file and survive a restart.  Payloads are
in memory only: they are of one round, a lost round is run again, and in the same file they would make it too slow for
the nodes that ask it for messages.

This file, ``link_state.py``, ``announcements.py``, ``gate.py`` and ``flower_links.py`` are everything on the
coordinator's side that knows Flower's inside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from fastapi import FastAPI
from flwr.app import Message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import NodeStatus
from flwr.supercore.error import http_error_translator
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.routers import health
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from sqlalchemy.exc import OperationalError
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from commonroot.common.errors import CommonrootError, ForeignState, KeyFileError, PortTaken
from commonroot.files import atomic_write, private_file, readable_key
from commonroot.flower import quiet
from commonroot.server.admission import Admission
from commonroot.server.asgi import App
from commonroot.server.doorbell import Doorbell
from commonroot.server.doors import Door
from commonroot.server.enrol_door import Desk, EnrolmentDoor
from commonroot.server.gate import MAX_HEADERS, Gate
from commonroot.server.limits import Limits, Refusals
from commonroot.server.link_state import Links, Payloads
from commonroot.server.listener import LAST_ORDERS, PATIENCE, Listener
from commonroot.server.node_keys import as_line, as_pem
from commonroot.server.objects import serve_object

_log = logging.getLogger(__name__)

DATABASE: Final = "links.db"
#: How long a connection may stay open without a request in progress, in seconds.
_KEEP_ALIVE: Final = 30
#: What the port refused, beside the database, for ``coordinator status``; written this often, in seconds.
GATE_BOOK: Final = "gate.json"
_BOOKKEEPING: Final = 5.0


class SuperLink:
    """The hub, running from ``__enter__`` to ``__exit__`` in a thread of this process.

    Raises  PortTaken: the address is in use or not ours; KeyFileError: certificate or key cannot be used;
            ForeignState: the database is not one of Flower's, or of a newer one
    """

    def __init__(
        self,
        state_dir: Path,
        public_host: str,
        public_port: int,
        certificate: Path,
        key: Path,
        *,
        enrolment: Desk | None = None,
        limits: Limits | None = None,
    ) -> None:
        """``enrolment`` answers questions about membership, from whomever; without it there is no such route."""
        self._enrolment = enrolment
        self._state_dir = state_dir
        self._host = public_host
        self._port = public_port
        self._certificate = certificate
        self._key = key
        self._links: Links | None = None
        self._listener: Listener | None = None
        self._limits = limits or Limits()
        self._admission = Admission()
        self._door: Door | None = None
        self._gate: Gate | None = None
        self._book: _Book | None = None
        self.refusals = Refusals()
        self.bell = Doorbell()

    @property
    def public_port(self) -> int:
        """The port departments connect to; worth asking when it was given as 0."""
        return self._port

    @property
    def state(self) -> LinkState:
        """Flower's books: nodes, runs, messages, objects."""
        return self._running()

    def _running(self) -> Links:
        if self._links is None:
            raise RuntimeError("the hub is not running")
        return self._links

    def __enter__(self) -> Self:
        quiet()
        with contextlib.ExitStack() as undo:
            # The socket first: nothing is half-started when the port is taken.
            sock = undo.enter_context(_bind(self._host, self._port))
            self._port = sock.getsockname()[1]
            undo.callback(self._close)
            self._links = self._open_links()
            self._links.most_on_their_way = self._limits.replies_mib * 1024 * 1024
            self._know()
            self.bell = Doorbell()
            self._door = undo.enter_context(Door(sock, self._limits, self.refusals))
            self._gate = gate = Gate(
                _node_routes(self._links),
                self.bell,
                self._admission,
                self._links.belongings,
                limits=self._limits,
                refusals=self.refusals,
                has_room=self._links.has_room,
                objects=partial(serve_object, self._links),
                proved=self._door.proved,
                enrolment=None if self._enrolment is None else EnrolmentDoor(self._enrolment),
            )
            self._listener = Listener(self._listening(gate), self._door)
            self._listener.start()
            self._book = _Book(self._state_dir / GATE_BOOK, self.at_the_gate)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def register(self, public_key: str, name: str) -> None:
        """Let the node with this key in (one OpenSSH line).  Registering it again changes nothing.

        Raises  KeyFileError: not a NIST curve key in OpenSSH form
        """
        pem = as_pem(public_key)
        if self.state.get_node_id_by_public_key(pem) is None:
            self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, HEARTBEAT_DEFAULT_INTERVAL, name=name)
            self._know()

    def unregister(self, public_key: str) -> None:
        """Shut this node out, at once and for good: its key may not be registered again.  Unknown: nothing happens."""
        node_id = self.state.get_node_id_by_public_key(as_pem(public_key))
        if node_id is not None:
            self.state.delete_node(NOOP_FLWR_AID, node_id)
            self._know()
            self.bell.ring(node_id)

    def node_id(self, public_key: str) -> int | None:
        """Flower's number for the node with this key (one OpenSSH line), if it is registered."""
        return self.state.get_node_id_by_public_key(as_pem(public_key))

    def registered(self) -> list[str]:
        """The keys that may come in, one OpenSSH line each."""
        return [as_line(node.public_key) for node in self._nodes()]

    def at_the_gate(self) -> dict[str, Any]:
        """What the public port holds and has refused since it opened, in all and by department."""
        names = {node.node_id: node.name or str(node.node_id) for node in self._nodes()}
        seen = {} if self._gate is None else dict(self._gate.seen)
        refused = self.refusals.by_node()
        return {
            "open": {} if self._door is None else self._door.counts(),
            "refused": self.refusals.by_reason(),
            "departments": {
                name: {
                    "version": seen[node_id].version if node_id in seen else "",
                    "clock_ahead": seen[node_id].clock_ahead if node_id in seen else None,
                    "refused": refused.get(node_id, {}),
                }
                for node_id, name in names.items()
                if node_id in seen or node_id in refused
            },
        }

    def _nodes(self) -> Sequence[NodeInfo]:
        return self.state.get_node_info(statuses=[NodeStatus.REGISTERED, NodeStatus.ONLINE, NodeStatus.OFFLINE])

    def _know(self) -> None:
        """Tell the gate who may come in."""
        self._admission.know({node.public_key: node.node_id for node in self._nodes()})

    def attendance(self) -> dict[str, tuple[bool, float]]:
        """Of every node that ever came, by key (one OpenSSH line): whether it is online, and since when (or since when
        it is not), in seconds since 1970."""
        nodes = self.state.get_node_info(statuses=[NodeStatus.ONLINE, NodeStatus.OFFLINE])
        found = {}
        for node in nodes:
            online = node.status == NodeStatus.ONLINE
            if since := node.last_activated_at if online else node.last_deactivated_at:
                found[as_line(node.public_key)] = (online, datetime.fromisoformat(since).timestamp())
        return found

    def programs(self) -> dict[str, str]:
        """What each node that came since this hub opened said it runs, by key (one OpenSSH line)."""
        seen = {} if self._gate is None else dict(self._gate.seen)
        told = ((node, seen.get(node.node_id)) for node in self._nodes())
        return {as_line(node.public_key): said.version for node, said in told if said is not None}

    def allow(self, largest: int) -> None:
        """From now on replies of up to ``largest`` bytes are expected, and announcements of longer ones refused."""
        self._running().largest = largest

    def post(self, message: Message, tree: ObjectTree, session: str) -> tuple[bool, list[str]]:
        """Store a message to a department; whether that was possible, and which of its objects are missing."""
        return self._running().post(message, tree, session)

    def complete(self, tree: ObjectTree) -> bool:
        """Whether every object of an announced reply has arrived."""
        return self._running().complete(tree)

    def take(self, object_id: str) -> None:
        """An object was copied out of the store, and need not be there any more."""
        self._running().take(object_id)

    def refused(self, message_id: str) -> str | None:
        """Why the reply to this message was refused when it was announced, if it was."""
        return self._running().refused.get(message_id)

    def discard(self, message_ids: Iterable[str], *, withdrawn: bool = False) -> None:
        """Put messages away: nobody gets them any more, payloads are freed; of ``withdrawn`` ones, replies as well."""
        ids = set(message_ids)
        self._running().settle(ids, withdrawn=withdrawn)
        for message_id in ids:
            self._running().refused.pop(message_id, None)
        self._running().belongings.taken(ids)
        self.state.delete_messages(ids)
        for message_id in ids:
            self.state.object_store.delete(message_id)

    def _open_links(self) -> Links:
        database = self._state_dir / DATABASE
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
            private_file(self._state_dir / name, make=name == DATABASE)  # Flower makes it for everybody to read
        links = Links(database, Payloads(verify=True))  # every object against its name, once, as it comes in
        try:
            with warnings.catch_warnings():
                # Flower's migrations are configured in a way that alembic is about to drop.
                warnings.simplefilter("ignore", DeprecationWarning)
                links.initialize()
        except Exception as error:  # Flower's migrations raise whatever alembic, SQLAlchemy and sqlite3 raise
            links.close()
            raise ForeignState(f"{database}: {type(error).__name__}") from error
        return links

    def _listening(self, gate: Gate) -> uvicorn.Config:
        with readable_key(self._key) as key:
            return self._configured(gate, key)

    def _configured(self, gate: Gate, key: Path) -> uvicorn.Config:
        config = uvicorn.Config(
            gate,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            log_level=logging.ERROR,
            server_header=False,
            ssl_certfile=str(self._certificate),
            ssl_keyfile=str(key),
            timeout_keep_alive=_KEEP_ALIVE,
            # h11 bounds a request's headers; httptools would collect them for ever.
            http="h11",
            h11_max_incomplete_event_size=MAX_HEADERS,
            loop="asyncio",  # another loop would accept connections past the door
            timeout_graceful_shutdown=LAST_ORDERS,
        )
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise KeyFileError(f"{self._certificate} and {self._key} are no certificate and its key") from error
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours; nothing older, no renegotiation
        return config

    def _close(self) -> None:
        self.bell.close()
        if self._book is not None:
            self._book.close()
            self._book = None
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        self._door = None
        if self._links is not None:
            self._links.close()
            self._links = None


class _Book:
    """Writes what the gate counts, when it has changed, so that other processes can read it."""

    def __init__(self, path: Path, counts: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._counts = counts
        self._written: dict[str, Any] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="commonroot-gate-book", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left to write."""
        self._over.set()
        self._thread.join(PATIENCE)

    def _keep(self) -> None:
        while not self._over.wait(_BOOKKEEPING):
            self._write()
        self._write()

    def _write(self) -> None:
        try:
            counts = self._counts()
            if counts != self._written:
                atomic_write(self._path, json.dumps(counts | {"at": time.time()}).encode(), mode=0o600)
                self._written = counts
        except (CommonrootError, OSError, OperationalError) as error:  # a full disk, say; the next time may be better
            _log.warning("cannot write %s: %s", self._path.name, type(error).__name__)


def _node_routes(links: LinkState) -> App:
    """Flower's application with the routes for nodes and none of the others."""
    factory = LinkStateFactory("", NoOpFederationManager(), ObjectStoreFactory())
    factory.state_instance = links
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # As in flwr.superlink.main, outermost first, without what is for users and task processes.
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        ],
    )
    app.state.linkstate_factory = factory
    app.state.enable_supernode_auth = True
    app.include_router(health.router)
    app.include_router(fleet_router)
    return app


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortTaken(f"cannot listen on {host} port {port}: {why}") from error
