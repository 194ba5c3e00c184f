"""Files that are not what they seem: changed, forged or another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from commonroot.common.roster import SignedRoster
from commonroot.common.secure_sum.primitives import Identity
from commonroot.simulations.founding import Federation


def other_authority(federation: Federation) -> Path:
    """The roster that stands, signed by somebody else."""
    roster = federation.coordinator.roster()
    path = federation.root / "forged.json"
    path.write_bytes(SignedRoster.sign(roster, Identity(bytes(range(32)))).to_json())
    return path


def write(path: Path, data: bytes) -> Path:
    """A file with this in it; its path."""
    path.write_bytes(data)
    return path


def draft(federation: Federation, old: str, new: str) -> Path:
    """The federation's charter in TOML, with something else in it."""
    text = (federation.root / "charter.toml").read_text()
    assert old in text
    return write(federation.root / "draft.toml", text.replace(old, new).encode())


def field(old: str, new: str) -> Callable[[Path], None]:
    """Changes the configuration in a department's folder."""

    def write(root: Path) -> None:
        config = root / "department.toml"
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))

    return write
