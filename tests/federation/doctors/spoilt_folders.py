"""Folders for a doctor to look at: in order, until a test spoils them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import small

from commonroot.files import take_ownership
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import free_port


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, SuperLink]]:
    """A federation whose coordinator's port is open; birch is not enrolled."""
    root = tmp_path_factory.mktemp("doctors")
    federation = small.founded(root)
    small.move_to_port(federation, free_port())
    federation = small.opened(root)
    folder = federation.coordinator
    running = SuperLink(
        folder.root / "links", "127.0.0.1", folder.config.port, folder.server_certificate, folder.server_key
    )
    with take_ownership(folder.root), running:
        for member in folder.roster().departments:
            if member.name != "birch":
                running.register(member.node_key, member.name)
        yield federation, running


@pytest.fixture
def ash(hub: tuple[Federation, SuperLink], tmp_path: Path) -> Path:
    """A department's folder to spoil."""
    return shutil.copytree(hub[0].departments["ash"].root, tmp_path / "ash")


@pytest.fixture
def central(tmp_path: Path) -> Path:
    """A coordinator's folder to spoil; it is not up."""
    federation = small.founded(tmp_path)
    small.move_to_port(federation, free_port())
    return federation.coordinator.root
