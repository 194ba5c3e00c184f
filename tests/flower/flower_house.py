"""A hub with real sockets and real TLS on loopback, and department nodes in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from commonroot.client.node import FlowerNode, Handler
from commonroot.client.node_key import make_node_key
from commonroot.common.errors import CommonrootError
from commonroot.common.parcel import MASKED, Parcel
from commonroot.server import pki
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.limits import Limits
from commonroot.server.links import Fault
from commonroot.server.superlink import SuperLink

#: Tests come all from one address, and more often than anybody should.
ROOMY = Limits(new_connections=1000, requests_per_address=5000, requests_per_node=5000, requests_of_strangers=5000)


def echo(parcel: Parcel) -> Parcel:
    """A department that sends back what it got."""
    return Parcel(MASKED, parcel.head, parcel.body)


def until(fact: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for a fact, in small steps, and fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@dataclass
class Place:
    """The certificates of a federation and the keys of its departments."""

    folder: Path
    lines: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ca, ca_key = pki.make_authority(self.folder / "pki", "acme")
        self.certificate, self.key = pki.make_server_certificate(
            self.folder / "pki", ["127.0.0.1", "localhost"], ca_certificate=self.ca, ca_key=ca_key
        )

    def department(self, name: str) -> str:
        """Make a department's key and return its public line."""
        self.lines[name] = make_node_key(self.node_key(name))
        return self.lines[name]

    def node_key(self, name: str) -> Path:
        return self.folder / "departments" / name / "node.key"

    def hub(self, port: int = 0, state: str = "hub", limits: Limits = ROOMY) -> SuperLink:
        return SuperLink(self.folder / state, "127.0.0.1", port, self.certificate, self.key, limits=limits)


class Department:
    """A node in a thread, from ``with`` to the end of it."""

    def __init__(
        self,
        place: Place,
        port: int,
        name: str,
        handle: Handler = echo,
        *,
        patience: float = 30.0,
        ca: Path | None = None,
    ) -> None:
        self.states: list[str] = []
        self.troubles: list[CommonrootError] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        address = f"127.0.0.1:{port}"
        node = FlowerNode(
            address,
            ca or place.ca,
            place.node_key(name),
            on_state=self.states.append,
            on_trouble=self.troubles.append,
            patience=patience,
        )
        self._thread = threading.Thread(target=self._serve, args=(node, handle), daemon=True)

    def _serve(self, node: FlowerNode, handle: Handler) -> None:
        try:
            node.serve(handle, self.stop)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def ended(self, seconds: float = 10.0) -> BaseException | None:
        """What ended it, by itself."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.error


def ask(links: FlowerLinks, node_key: str, parcel: Parcel, seconds: float = 20.0) -> Parcel | Fault:
    """One question, one answer."""
    ticket = links.send(node_key, parcel)
    answers = links.collect([ticket], seconds)
    assert [answered for answered, _ in answers] == [ticket]
    return answers[0][1]


@dataclass
class House:
    """A running federation: the hub, its links, and who is enrolled."""

    place: Place
    hub: SuperLink
    links: FlowerLinks


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A hub with three registered departments a, b and c; none of them is running."""
    place = Place(tmp_path_factory.mktemp("federation"))
    with place.hub() as hub:
        for name in "abc":
            hub.register(place.department(name), name)
        with FlowerLinks(hub) as links:
            yield House(place, hub, links)
