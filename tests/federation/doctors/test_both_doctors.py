"""What the doctors of both sides judge alike: folders, disks, packages, clocks and expiries."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from federation.doctors.findings import DAY, NOW, fails

from commonroot import __version__, machine
from commonroot.client import doctor as department_doctor
from commonroot.common.findings import Finding, clocks_apart, days_left, lines, record
from commonroot.server import doctor as coordinator_doctor
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation


@pytest.mark.parametrize("side", [department_doctor, coordinator_doctor])
def test_a_folder_that_is_none_is_one_line(side: Any, tmp_path: Path) -> None:
    fails(side.examine(tmp_path), "configuration", "is not a", "init")


@pytest.mark.parametrize("side", ["department", "coordinator"])
def test_a_wrong_field_is_named(side: str, ash: Path, central: Path) -> None:
    root, examine = {
        "department": (ash, department_doctor.examine),
        "coordinator": (central, coordinator_doctor.examine),
    }[side]
    with (root / f"{side}.toml").open("a") as toml:
        toml.write("\n[nonsense]\nx = 1\n")
    fails(examine(root), "configuration", "nonsense", "")


def test_a_package_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade of something else in the same environment."""
    real = machine.importlib.metadata.version
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: "1.42.0" if name == "flwr" else real(name))
    found = machine.packages(__version__)
    assert found.state == "fail"
    assert "flwr is 1.42.0 and should be" in found.told
    assert "pip install" in found.fix


def test_a_disk_that_is_nearly_full_is_seen(tmp_path: Path) -> None:
    """A file system of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        found = machine.disk(place)
        assert found.state == "fail"
        assert "0.0 GiB free" in found.told
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_seen(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert machine.writable(tmp_path).state == "fail"
    tmp_path.chmod(0o700)


def test_a_stranger_learns_no_version(hub: tuple[Federation, SuperLink]) -> None:
    folder = hub[0].coordinator
    answer = machine.ask_health(f"127.0.0.1:{folder.config.port}", folder.ca, NOW)
    assert answer.status == 200
    assert "commonroot-version" not in answer.headers


def test_an_expiry_is_judged_by_the_days_that_are_left() -> None:
    """30 days are soon: 31 is fine, 29 is told, and yesterday is too late."""
    assert days_left(31 * DAY, 0, soon=30)[0] == "ok"
    assert days_left(29 * DAY, 0, soon=30)[0] == "warn"
    assert days_left(-DAY, 0, soon=30) == ("fail", "expired 1 days ago")


def test_clocks_may_be_five_seconds_ahead_and_five_minutes_behind() -> None:
    assert [clocks_apart(ahead)[0] for ahead in (5.1, 5.0, 2.9, -59, -61, -300, -301)] == [
        "fail", "warn", "ok", "ok", "warn", "warn", "fail",
    ]  # fmt: skip


def test_a_fix_is_shown_for_what_is_not_in_order_only() -> None:
    found = [Finding("a", "ok", "fine", "no"), Finding("b", "fail", "broken", "mend it")]
    assert lines(found) == [
        "ok    a  fine",
        "fail  b  broken",
        "         → mend it",
        "2 looked at, 1 to mend, 0 to watch",
    ]
    assert record(found)["worst"] == "fail"
