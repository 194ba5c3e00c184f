"""Flower's hub inside the coordinator's process: everything on loopback, eight routes for the world.

Two listeners serve one application.  The loopback listener has all of Flower's interfaces and is for this process
alone.  The public one speaks TLS under the federation's own CA and goes through :mod:`commonroot.server.gate`.

Links (who is registered, who is online, which messages wait) are in an SQLite file and survive a restart.  Payloads are
in memory only: they are of one round, a lost round is run again, and in the same file they would make it too slow for
the nodes that ask it for messages.

This file and ``links.py`` hold everything on the coordinator's side that knows Flower's inside (see docs/adr).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import flwr.superlink.main as flwr_main
import httpx
import uvicorn
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.federation import FederationManager

from commonroot.common.errors import ForeignState, KeyFileError, PortTaken
from commonroot.flower import VersionStamp, quiet
from commonroot.server.gate import Doorbell, Gate

DATABASE: Final = "links.db"
LOOPBACK: Final = "127.0.0.1"
#: How long starting or stopping a listener may take, in seconds.
_PATIENCE: Final = 15.0
#: How long requests in progress may take when the hub closes, in seconds.
_LAST_ORDERS: Final = 2

_composing = threading.Lock()


class _OneAtATime(InMemoryObjectStore):
    """Flower's object store in memory, with registering as one step.

    Two departments share the objects of one broadcast.  Flower checks for a shared object and counts the reference to
    it in two steps; a department that confirms its copy in between would delete it under the other's feet.
    """

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note which objects of a message are missing."""
        with self.lock_store:
            return super().preregister(run_id, object_tree)


class _MemoryStoreFactory(ObjectStoreFactory):
    def __init__(self) -> None:
        super().__init__()
        self.store_instance = _OneAtATime()


class SuperLink:
    """The hub, running from ``__enter__`` to ``__exit__`` in threads of this process.

    Raises  PortTaken: an address is in use or not ours; KeyFileError: certificate or key cannot be used;
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
        loopback_port: int = 0,
    ) -> None:
        self._state_dir = state_dir
        self._public = (public_host, public_port)
        self._certificate = certificate
        self._key = key
        self._loopback = (LOOPBACK, loopback_port)
        self._servers: list[_Listener] = []
        self._state: LinkState | None = None
        self._control: ControlHttpClient | None = None
        self.bell = Doorbell()

    @property
    def public_port(self) -> int:
        """The port the world sees; useful when it was asked for as 0."""
        return self._public[1]

    @property
    def loopback_address(self) -> str:
        """``host:port`` of the listener with all of Flower's interfaces."""
        return f"{self._loopback[0]}:{self._loopback[1]}"

    def __enter__(self) -> Self:
        quiet()
        with contextlib.ExitStack() as undo:
            # Both sockets first: nothing is half-started when one of them is taken.
            inner = undo.enter_context(_bind(*self._loopback))
            outer = undo.enter_context(_bind(*self._public))
            self._loopback = (LOOPBACK, inner.getsockname()[1])
            self._public = (self._public[0], outer.getsockname()[1])
            app = self._compose()
            self.bell = Doorbell()
            undo.callback(self._close)
            self._servers = [
                _Listener("commonroot-hub", _config(app, lifespan="on"), inner),
                _Listener("commonroot-gate", self._public_config(Gate(app, self.bell)), outer),
            ]
            for server in self._servers:
                server.start()
            self._control = loopback_client(ControlHttpClient, self.loopback_address, "flwr-cli")
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
        if pem in self._registered():
            return
        self.control.RegisterNode(RegisterNodeRequest(public_key=pem, name=name))

    def unregister(self, public_key: str) -> None:
        """Shut this node out, at once and until it is registered again.  Unknown: nothing happens."""
        node_id = self._registered().get(_as_pem(public_key))
        if node_id is not None:
            self.control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
            self.bell.ring(node_id)

    def registered(self) -> dict[str, int]:
        """Who may come in: public key (one OpenSSH line) to Flower's node id."""
        return {as_line(pem): node_id for pem, node_id in self._registered().items()}

    def discard(self, message_ids: Iterable[str]) -> None:
        """Withdraw messages: nobody gets them any more and their payloads are freed."""
        state = self._state
        if state is None:
            return
        ids = set(message_ids)
        state.delete_messages(ids)
        for message_id in ids:
            state.object_store.delete(message_id)

    @property
    def objects(self) -> int:
        """How many objects are held in memory now."""
        return len(self._state.object_store) if self._state is not None else 0

    @property
    def control(self) -> ControlHttpClient:
        """Flower's user interface, on loopback."""
        if self._control is None:
            raise RuntimeError("the hub is not running")
        return self._control

    def _registered(self) -> dict[bytes, int]:
        nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node.node_id for node in nodes if node.status != "unregistered"}

    def _compose(self) -> Any:
        """Flower's application, with our choice of stores."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        host, port = self._loopback
        config = SuperLinkLifespanConfig(
            control_address=f"{host}:{port}",
            health_server_address=None,
            host=host,
            port=port,
            insecure=True,  # of the loopback listener; the public one has its own configuration
            certificates=None,
            superexec_auth_secret=None,
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=str(self._state_dir / DATABASE),
            isolation=ISOLATION_MODE_PROCESS,
            runtime_dependency_install=False,
        )
        # create_app takes one database for links and payloads alike; this is the one place where they part.
        with _composing:
            usual = flwr_main.get_objectstore_linkstate_factories
            flwr_main.get_objectstore_linkstate_factories = _links_on_disk_payloads_in_memory
            try:
                app = flwr_main.create_app(config, SuperLinkLifespan)
            except Exception as error:
                # Flower's migrations raise whatever alembic, SQLAlchemy and sqlite3 raise.
                raise ForeignState(f"{self._state_dir / DATABASE}: {type(error).__name__}") from error
            finally:
                flwr_main.get_objectstore_linkstate_factories = usual
        self._state = app.state.linkstate_factory.state()
        return app

    def _public_config(self, gate: Gate) -> uvicorn.Config:
        config = _config(gate, lifespan="off")
        config.ssl_certfile = str(self._certificate)
        config.ssl_keyfile = str(self._key)
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise KeyFileError(f"{self._certificate} and {self._key} are no certificate and its key") from error
        return config

    def _close(self) -> None:
        self.bell.close()
        if self._control is not None:
            self._control.close()
            self._control = None
        for server in reversed(self._servers):
            server.stop()
        self._servers = []
        state, self._state = self._state, None
        engine = getattr(state, "_engine", None)
        if engine is not None:
            engine.dispose()


class _Listener:
    """One uvicorn server in a thread.  In a thread it leaves signals alone, which is what we want."""

    def __init__(self, name: str, config: uvicorn.Config, sock: socket.socket) -> None:
        self._server = uvicorn.Server(config)
        self._socket = sock
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + _PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{self._thread.name} did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(_PATIENCE)
        self._socket.close()


def loopback_client(kind: Any, address: str, component: str, *interceptors: Any) -> Any:
    """One of Flower's HTTP clients for the loopback listener.

    Whatever proxy the environment names is not for talking to ourselves.
    """
    client = kind(f"http://{address}", interceptors=[VersionStamp(component), *interceptors])
    client._client.close()
    client._client = httpx.Client(timeout=30.0, trust_env=False)
    return client


def as_line(pem: bytes) -> str:
    """A public key in PEM as one OpenSSH line without a comment."""
    key = serialization.load_pem_public_key(pem)
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")


def _as_pem(line: str) -> bytes:
    """One OpenSSH line as the hub stores it."""
    try:
        key = serialization.load_ssh_public_key(line.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError("this is no OpenSSH public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError("node authentication takes NIST curves only")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _links_on_disk_payloads_in_memory(
    database: str, federation_manager: FederationManager
) -> tuple[ObjectStoreFactory, LinkStateFactory]:
    objects = _MemoryStoreFactory()
    return objects, LinkStateFactory(database, federation_manager, objects)


def _config(app: Any, *, lifespan: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan=lifespan,
        access_log=False,
        log_config=None,
        log_level=logging.ERROR,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_ORDERS,
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortTaken(f"cannot listen on {host} port {port}: {why}") from error
