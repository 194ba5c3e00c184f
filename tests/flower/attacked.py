"""A federation at work, and what an attacker has: the address, the CA certificate, sometimes an enrolled node's key.

The coordinator is the real one with the limits it ships with, but for fewer places for strangers, which take less time
to fill.  The departments are real nodes and sessions with toy learners.  Departments and attackers come from one
address, which is the harder case.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flwr.supernode.node_auth_http_interceptor as flower_signs
import httpx
import pytest
from federation import small
from flwr.proto import fleet_pb2
from flwr.supercore.date import now as flower_now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import Message

from commonroot.client.node import FlowerNode
from commonroot.client.node_key import load_node_key, make_node_key
from commonroot.common.parcel import ROUND_OPEN, Parcel
from commonroot.server import coordinator, superlink
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port

FLEET = "/v1/fleet/"
ROUNDS = 16
#: Places for strangers in this federation.
STRANGERS = 24
#: How long a department takes its time over a round while nobody waits for one, in seconds.
LEISURE = 3.0


@dataclass
class World:
    """The federation under attack."""

    federation: Federation
    hub: superlink.SuperLink
    stranger_key: Path
    hurry: threading.Event
    began: float
    states: dict[str, list[str]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.hub.public_port

    @property
    def ca(self) -> Path:
        return self.federation.coordinator.ca

    def key(self, name: str) -> Path:
        return self.stranger_key if name == "stranger" else self.federation.departments[name].node_key

    def node_id(self, name: str) -> int:
        line = next(m.node_key for m in self.federation.coordinator.roster().departments if m.name == name)
        found = self.hub.node_id(line)
        assert found is not None
        return found

    # -- ways to talk to the port ------------------------------------------------------------------------------------

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    @contextlib.contextmanager
    def connected(self, context: ssl.SSLContext | None = None, source: str = "127.0.0.1") -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0)) as plain,
            (context or self.tls()).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            yield tls

    def say(self, *pieces: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes and return everything that comes back, as often as it takes to be listened to (429)."""
        for _ in range(40):
            answer = b""
            with self.connected(source=source) as tls:
                with contextlib.suppress(OSError):  # it has answered already, and closed
                    for piece in pieces:
                        tls.sendall(piece)
                with contextlib.suppress(OSError):
                    tls.settimeout(1.5)
                    while more := tls.recv(65536):
                        answer += more
            if not answer.startswith(b"HTTP/1.1 429"):
                return answer
            time.sleep(float(header(answer, b"retry-after")) / 10)
        raise AssertionError("never listened to")

    def status(self, *pieces: bytes, source: str = "127.0.0.1") -> int:
        """The first answer's status; 0 if the connection was closed without one."""
        answer = self.say(*pieces, source=source)
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0

    def post(self, route: str, message: Message, signature: bytes = b"") -> int:
        """One request to one of nodes' routes, with these headers."""
        body = message.SerializeToString()
        head = b"POST %s%s HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\nconnection: close\r\n"
        return self.status(
            head % (FLEET.encode(), route.encode()) + signature + b"content-length: %d\r\n\r\n" % len(body), body
        )

    def as_node(self, name: str) -> FleetHttpClient:
        """Flower's own client, with the key of a department (or the stranger's)."""
        key = load_node_key(self.key(name))
        signed = [NodeAuthHttpInterceptor(key, key.public_key())]
        return FleetHttpClient.from_server_address(f"127.0.0.1:{self.port}", False, self.ca.read_bytes(), signed)

    def signature(self, name: str, *, signer: str | None = None, ago: float = 0.0) -> bytes:
        """Header lines under which ``name``'s key stands, signed by ``signer``, some seconds ago."""
        request = httpx.Request("POST", "https://x")
        shown = load_node_key(self.key(name)).public_key()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flower_signs, "now", lambda: flower_now() - datetime.timedelta(seconds=ago))
            NodeAuthHttpInterceptor(load_node_key(self.key(signer or name)), shown).intercept(
                ProtobufRequestContext("", fleet_pb2.PullMessagesRequest(), request), lambda _: httpx.Response(200)
            )
        return b"".join(f"{n}: {v}\r\n".encode() for n, v in request.headers.items() if n.startswith("flwr-"))

    def public_key(self, name: str) -> bytes:
        return public_key_to_bytes(load_node_key(self.key(name)).public_key())

    # -- what to look at -----------------------------------------------------------------------------------------------

    def pending(self, name: str) -> str:
        """A message that lies at the hub for this department at this moment."""
        links = self.hub._running()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            for message_id, (node_id, _) in list(links.belongings._messages.items()):
                if node_id == self.node_id(name) and message_id in links.object_store:
                    return message_id
            time.sleep(0.002)
        raise AssertionError(f"nothing was sent to {name}")

    def refused(self, reason: str, name: str | None = None) -> int:
        counts = (
            self.hub.refusals.by_reason() if name is None else self.hub.refusals.by_node().get(self.node_id(name), {})
        )
        return counts.get(reason, 0)

    def goes_on(self) -> None:
        """Wait until a round has closed that was open, or opened, after now."""
        began = time.time()
        self.hurry.set()
        wait_until(lambda: self.closed_since(began) >= 1)
        self.hurry.clear()

    def closed_since(self, moment: float) -> int:
        with small.journal_of(self.federation) as journal:
            return sum(r.state == "closed" and (r.ended or 0) >= moment for r in journal.rounds())


def header(answer: bytes, name: bytes) -> bytes:
    """A header's value in the first answer, or nothing."""
    for line in answer.split(b"\r\n\r\n", 1)[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""


@contextlib.contextmanager
def at_work(root: Path) -> Iterator[World]:
    """Coordinator and four departments, with a run that takes as long as the attack does."""
    federation = small.founded(root, departments=4, rounds=ROUNDS)
    small.move_to_port(federation, free_port())
    with (federation.coordinator.root / "coordinator.toml").open("a") as toml:
        toml.write(f"\n[limits]\nstrangers_per_address = {STRANGERS}\n")
    federation = small.opened(root)
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    hubs: list[superlink.SuperLink] = []

    class Seen(superlink.SuperLink):
        def __enter__(self) -> Any:
            hubs.append(self)
            return super().__enter__()

    stop, hurry = threading.Event(), threading.Event()
    ended: list[BaseException | None] = []
    sessions = small.ToyFederation(federation, MemoryNetwork())
    sessions.start_all()
    states: dict[str, list[str]] = {}

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            ended.append(error)

    def node(name: str) -> None:
        folder = federation.departments[name]
        states[name] = []
        link = FlowerNode(folder.config.coordinator, folder.ca, folder.node_key, on_state=states[name].append)

        def slowly(request: Parcel) -> Parcel:
            if request.kind == ROUND_OPEN:
                hurry.wait(LEISURE)
            return sessions.sessions[name].handle(request)

        link.serve(slowly, stop)

    make_node_key(root / "stranger.key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator, "SuperLink", Seen)
        work: list[Callable[[], None]] = [lambda: coordinator.serve(federation.coordinator.root, stop=stop)]
        work += [lambda name=name: node(name) for name in federation.departments]
        threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in work]
        try:
            threads[0].start()
            wait_until(lambda: bool(ended) or (bool(hubs) and hubs[0]._listener is not None))
            wait_until(lambda: bool(ended) or len(hubs[0].registered()) == len(federation.departments))
            assert not ended, ended
            for thread in threads[1:]:
                thread.start()
            yield World(federation, hubs[0], root / "stranger.key", hurry, time.time(), states)
            assert not ended, ended
        finally:
            stop.set()
            hurry.set()
            for thread in threads:
                thread.join(20)
            sessions.close()


def wait_until(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
