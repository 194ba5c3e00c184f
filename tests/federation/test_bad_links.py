"""A node that the hub does not take is told why, at once."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import small
from federation.refusing import refused

from commonroot.client import node
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import free_port


@pytest.fixture(scope="module")
def hub(module_path: Path) -> Iterator[tuple[Federation, Path]]:
    """A hub that knows ash and cedar, and nobody else."""
    federation = small.founded(module_path)
    small.move_to_port(federation, free_port())
    folder = small.opened(module_path).coordinator
    with SuperLink(
        module_path / "links", "127.0.0.1", folder.config.port, folder.server_certificate, folder.server_key
    ) as running:
        for member in federation.coordinator.roster().departments:
            if member.name != "birch":
                running.register(member.node_key, member.name)
        yield federation, module_path


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, keep_signals: None) -> None:
    """A node that gives up after half a second of being refused."""
    monkeypatch.setattr(node, "FlowerNode", functools.partial(node.FlowerNode, patience=0.5))


@pytest.mark.slow
def test_a_coordinator_under_another_authority_is_refused_at_once(hub, hasty, monkeypatch, tmp_path):
    federation, _ = hub
    copy = tmp_path / "ash"
    shutil.copytree(federation.departments["ash"].root, copy)
    from commonroot.server.pki import make_authority

    certificate, _ = make_authority(tmp_path / "tls", "desert")
    shutil.copy(certificate, copy / "ca.pem")
    refused(tmp_path, ["department", "up", str(copy)], "CR61", monkeypatch)


@pytest.mark.slow
def test_a_department_that_the_hub_does_not_know_is_told_so(hub, hasty, monkeypatch):
    federation, root = hub
    refused(root, ["department", "up", str(federation.departments["birch"].root)], "CR60", monkeypatch)


@pytest.mark.slow
def test_a_copied_folder_cannot_join_beside_the_original(hub, hasty, monkeypatch, tmp_path):
    federation, _ = hub
    copy = tmp_path / "copy"
    shutil.copytree(federation.departments["cedar"].root, copy)
    joined, stop = threading.Event(), threading.Event()
    folder = small.opened(federation.root).departments["cedar"]
    original = node.FlowerNode.func(  # type: ignore[attr-defined]
        folder.config.coordinator, folder.ca, folder.node_key, on_state=lambda state: state == "joined" and joined.set()
    )
    thread = threading.Thread(target=original.serve, args=(lambda parcel: parcel, stop))
    thread.start()
    try:
        assert joined.wait(20)
        refused(tmp_path, ["department", "up", str(copy)], "CR60", monkeypatch)
    finally:
        stop.set()
        thread.join(20)
