"""Flower's hub inside the coordinator's process, with a door for departments and no other.

Flower's own ``flower-superlink`` serves nodes, users and task processes on one port and asks the last two for no proof
of who they are.  Here the hub's application is put together from Flower's node-facing routes alone, behind
:mod:`commonroot.server.gate` and TLS under the federation's own CA.  What users and task processes would do over HTTP,
the coordinator does by calling Flower's ``LinkState`` (see ``flower_links.py``): there is no control interface to
reach, not even from this machine, and a payload is not copied through a socket on its way to the next thread.

Links (who is registered, who is online, which messages wait) are in an SQLite file and survive a restart.  Payloads are
in memory only: they are of one round, a lost round is run again, and in the same file they would make it too slow for
the nodes that ask it for messages.

This file, ``announcements.py``, ``gate.py`` and ``flower_links.py`` are everything on the coordinator's side that knows
Flower's inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
import warnings
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.app import Message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, NodeStatus
from flwr.supercore.date import now as flower_now
from flwr.supercore.error import http_error_translator
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.routers import health
from flwr.supercore.utils import int64_to_uint64
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from sqlalchemy.orm import Session
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from commonroot.common.errors import ForeignState, KeyFileError, Malformed, PortTaken
from commonroot.files import readable_key
from commonroot.flower import MAX_BODY, MAX_HEAD, quiet
from commonroot.server.announcements import check_announcement
from commonroot.server.enrol_door import Desk, EnrolmentDoor
from commonroot.server.gate import Admit, App, Doorbell, Gate

DATABASE: Final = "links.db"
#: How long starting or stopping the listener may take, in seconds.
_PATIENCE: Final = 15.0
#: How long requests in progress may take when the hub closes, in seconds.
_LAST_ORDERS: Final = 2
#: How long a connection may stay open without a request in progress, in seconds.
_KEEP_ALIVE: Final = 30
#: The same for one that does send something, but never the whole head of a request.
_DAWDLING: Final = 35.0
#: The longest head of a request, in bytes.
_MAX_HEADERS: Final = 16 * 1024
#: Connections that are served at once; the rest get 503.  A department needs two or three, a roster has at most 32.
_CONNECTIONS: Final = 256


class _Payloads(InMemoryObjectStore):
    """Flower's object store in memory, with registering as one step.

    Departments share the objects of one broadcast.  Flower looks whether a shared object is there and counts the
    reference to it in two steps; a department that confirms its copy in between would delete it under the other's feet.
    """

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note which objects of a message are missing."""
        with self.lock_store:
            return super().preregister(run_id, object_tree)

    def children_of(self, object_id: str) -> list[str] | None:
        """The children under which an object was registered; None for one that was not."""
        with self.lock_store:
            entry = self.store.get(object_id)
            return None if entry is None else entry.child_object_ids


class _Links(SqlLinkState):
    """Flower's link state in SQLite, one transaction at a time.

    SQLite has one writer.  Left to itself it turns a second one away ("database is locked", HTTP 500) or makes it sleep
    and try again; all of ours are threads of one process and can simply queue.
    """

    def __init__(self, database: Path, payloads: _Payloads) -> None:
        super().__init__(str(database), NoOpFederationManager(), payloads)
        self._turn = threading.RLock()
        self._payloads = payloads
        #: Bytes of the longest reply that is expected.
        self.largest = MAX_HEAD + MAX_BODY
        #: Why the reply to a message was refused when it was announced, by that message.
        self.refused: dict[str, str] = {}

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """What a node announces, if it may; see ``announcements``."""
        told = message.metadata
        with self._turn:
            try:
                check_announcement(told, object_tree, self.largest, self._payloads.children_of)
            except Malformed as error:
                asked = self.get_valid_message_ins(told.reply_to_message_id)
                if asked is not None and int64_to_uint64(asked["dst_node_id"]) == told.src_node_id:
                    self.refused[told.reply_to_message_id] = str(error)
                return False, []
            return self.post(message, object_tree, session_id)

    def post(self, message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        """What the coordinator sends: stored without asking."""
        return super().store_message_and_object_tree(message, object_tree, session_id)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction; nested calls in the same thread join it."""
        with self._turn, super().session() as session:
            yield session

    def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            self._engine.dispose()


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
    ) -> None:
        """``enrolment`` answers questions about membership, from whomever; without it there is no such route."""
        self._enrolment = enrolment
        self._state_dir = state_dir
        self._host = public_host
        self._port = public_port
        self._certificate = certificate
        self._key = key
        self._links: _Links | None = None
        self._listener: _Listener | None = None
        self.bell = Doorbell()

    @property
    def public_port(self) -> int:
        """The port departments connect to; worth asking when it was given as 0."""
        return self._port

    @property
    def state(self) -> LinkState:
        """Flower's books: nodes, runs, messages, objects."""
        return self._running()

    def _running(self) -> _Links:
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
            self.bell = Doorbell()
            door = None if self._enrolment is None else EnrolmentDoor(self._enrolment)
            gate = Gate(_node_routes(self._links), self.bell, _admission(self._links), enrolment=door)
            config = self._listening(gate)
            self._listener = _Listener(config, sock)
            self._listener.start()
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
        pem = _as_pem(public_key)
        if self.state.get_node_id_by_public_key(pem) is None:
            self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, HEARTBEAT_DEFAULT_INTERVAL, name=name)

    def unregister(self, public_key: str) -> None:
        """Shut this node out, at once and for good: its key may not be registered again.  Unknown: nothing happens."""
        node_id = self.state.get_node_id_by_public_key(_as_pem(public_key))
        if node_id is not None:
            self.state.delete_node(NOOP_FLWR_AID, node_id)
            self.bell.ring(node_id)

    def node_id(self, public_key: str) -> int | None:
        """Flower's number for the node with this key (one OpenSSH line), if it is registered."""
        return self.state.get_node_id_by_public_key(_as_pem(public_key))

    def registered(self) -> list[str]:
        """The keys that may come in, one OpenSSH line each."""
        nodes = self.state.get_node_info(statuses=[NodeStatus.REGISTERED, NodeStatus.ONLINE, NodeStatus.OFFLINE])
        return [as_line(node.public_key) for node in nodes]

    def allow(self, largest: int) -> None:
        """From now on replies of up to ``largest`` bytes are expected, and announcements of longer ones refused."""
        self._running().largest = largest

    def post(self, message: Message, tree: ObjectTree, session: str) -> tuple[bool, list[str]]:
        """Store a message to a department; whether that was possible, and which of its objects are missing."""
        return self._running().post(message, tree, session)

    def refused(self, message_id: str) -> str | None:
        """Why the reply to this message was refused when it was announced, if it was."""
        return self._running().refused.get(message_id)

    def discard(self, message_ids: Iterable[str]) -> None:
        """Withdraw messages: nobody gets them any more and their payloads are freed."""
        ids = set(message_ids)
        for message_id in ids:
            self._running().refused.pop(message_id, None)
        self.state.delete_messages(ids)
        for message_id in ids:
            self.state.object_store.delete(message_id)

    def _open_links(self) -> _Links:
        database = self._state_dir / DATABASE
        self._state_dir.mkdir(parents=True, exist_ok=True)
        links = _Links(database, _Payloads(verify=True))  # every object against its name, once, as it comes in
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
            h11_max_incomplete_event_size=_MAX_HEADERS,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_LAST_ORDERS,
        )
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise KeyFileError(f"{self._certificate} and {self._key} are no certificate and its key") from error
        return config

    def _close(self) -> None:
        self.bell.close()
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        if self._links is not None:
            self._links.close()
            self._links = None


class _Server(uvicorn.Server):
    """uvicorn, closing briskly, and hanging up on who connects and never finishes asking.

    When it closes it would wait for every idle connection to be closed from the other end, which a node does when it
    next asks.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._idle_since: dict[object, float] = {}

    async def on_tick(self, counter: int) -> bool:
        """Look once a second for connections without a request in progress."""
        if counter % 10 == 0:
            self._hang_up(time.monotonic())
        return await super().on_tick(counter)

    def _hang_up(self, now: float) -> None:
        idle: dict[object, float] = {}
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                continue
            idle[connection] = self._idle_since.get(connection, now)
            if now - idle[connection] > _DAWDLING and connection.transport is not None:
                connection.transport.abort()
        self._idle_since = idle

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in progress finish, hang up, and then do what uvicorn does."""
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + _LAST_ORDERS
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class _Listener:
    """One uvicorn server in a thread.  In a thread it leaves signals alone, which is what we want."""

    def __init__(self, config: uvicorn.Config, sock: socket.socket) -> None:
        self._server = _Server(config)
        self._socket = sock
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name="commonroot-hub", daemon=True)

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        deadline = time.monotonic() + _PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the hub's listener did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """Return when it has stopped, or after :data:`_PATIENCE` seconds."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(_PATIENCE)
        self._socket.close()


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


def _admission(links: LinkState) -> Admit:
    """Flower's own check of a node's signed headers, before there is a body to check them against."""

    def admit(headers: Mapping[str, str]) -> bool:
        try:
            public_key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            signed_at = headers[TIMESTAMP_HEADER]
            age = (flower_now() - datetime.fromisoformat(signed_at)).total_seconds()
            return (
                -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
                and links.get_node_id_by_public_key(public_key) is not None
                and verify_signature(bytes_to_public_key(public_key), signed_at.encode("ascii"), signature)
            )
        except Exception:  # whatever a stranger's headers make of a decoder: they are not a node's
            return False

    return admit


def as_line(pem: bytes) -> str:
    """A public key in PEM as one OpenSSH line without a comment."""
    key = serialization.load_pem_public_key(pem)
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")


def _as_pem(line: str) -> bytes:
    """One OpenSSH line as the hub stores it."""
    try:
        key = serialization.load_ssh_public_key(line.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:  # UnicodeEncodeError is a ValueError
        raise KeyFileError("this is no OpenSSH public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError("node authentication takes NIST curves only")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortTaken(f"cannot listen on {host} port {port}: {why}") from error
