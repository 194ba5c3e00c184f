"""systemd units of both sides: what they say, that systemd reads them without a complaint, and what is typed next."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.common.errors import ConfigError
from commonroot.service import service

HARDENED = {
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "UMask=0077",
    "Restart=on-failure",
    "LockPersonality=yes",
    "RestrictSUIDSGID=yes",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    federation = small.founded(tmp_path_factory.mktemp("served"))
    return {"coordinator": federation.coordinator.root, "department": federation.departments["ash"].root}


def installed(side: str, folder: Path, *options: str) -> str:
    result = CliRunner().invoke(app, [side, "install-service", str(folder), *options])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("side", ["coordinator", "department"])
@pytest.mark.parametrize("user", [False, True])
def test_a_unit_is_hardened_and_writes_to_its_folder_alone(folders: dict[str, Path], side: str, user: bool) -> None:
    text = installed(side, folders[side], "--stdout", *(["--user"] if user else []))
    found = set(text.splitlines())
    assert found >= HARDENED
    assert [line for line in found if line.startswith("ReadWritePaths=")] == [f"ReadWritePaths={folders[side]}"]
    (start,) = (line for line in found if line.startswith("ExecStart="))
    assert start.endswith(f"{side} up {folders[side]} --json")
    assert Path(start.removeprefix("ExecStart=").split()[0]).exists()
    assert ("WantedBy=default.target" in found) == user
    assert any(line.startswith("User=") for line in found) != user


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("side", ["coordinator", "department"])
@pytest.mark.parametrize("user", [False, True])
def test_systemd_reads_a_unit_without_a_complaint(
    folders: dict[str, Path], tmp_path: Path, side: str, user: bool
) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("x")
    options = ["--stdout", "--passphrase-file", str(secret), *(["--user"] if user else [])]
    unit = tmp_path / f"commonroot-{side}.service"
    unit.write_text(installed(side, folders[side], *options))
    manager = ["--user"] if user else []
    done = subprocess.run(
        ["systemd-analyze", *manager, "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_a_complaint_would_be_seen(folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards the test above."""
    unit = tmp_path / "commonroot-wrong.service"
    text = installed("coordinator", folders["coordinator"], "--stdout")
    unit.write_text(text.replace("NoNewPrivileges=yes", "NoSuchPrivilege=yes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "NoSuchPrivilege" in done.stderr


def test_a_user_unit_is_written_and_the_next_steps_are_said(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said = installed("department", folders["department"], "--user")
    unit = tmp_path / "systemd" / "user" / "commonroot-department-ash.service"
    assert unit.read_text() == installed("department", folders["department"], "--user", "--stdout")
    assert said.splitlines()[0] == f"written: {unit}"
    assert "systemctl --user enable --now commonroot-department-ash.service" in said
    assert "loginctl enable-linger" in said


def test_the_unit_as_json_says_where_it_goes_and_installs_nothing_when_asked(folders: dict[str, Path]) -> None:
    facts = json.loads(installed("coordinator", folders["coordinator"], "--dry-run", "--json"))
    assert facts["file"] == "/etc/systemd/system/commonroot-coordinator-grove.service"
    assert facts["installed"] is False
    assert not Path(facts["file"]).exists()
    assert facts["next"][1] == "sudo systemctl enable --now commonroot-coordinator-grove.service"


def test_what_opens_sealed_keys_is_a_credential_of_the_service_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    text = installed("department", folders["department"], "--stdout", "--passphrase-file", str(secret))
    assert f"LoadCredential=passphrase:{secret}" in text
    assert "Environment=COMMONROOT_PASSPHRASE_FILE=%d/passphrase" in text
    assert "LoadCredential" not in installed("department", folders["department"], "--stdout")


def test_a_port_below_1024_is_the_one_right_a_coordinator_is_given(tmp_path: Path) -> None:
    low = service("coordinator", tmp_path, for_user=False, name="x", low_port=True).text
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in low
    assert "AmbientCapabilities=\n" in service("coordinator", tmp_path, for_user=False, name="x").text


@pytest.mark.parametrize("path", ["a b", "a%h", "a$b", 'a"b', "a\nExecStartPre=x"])
def test_a_path_that_systemd_reads_in_another_way_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="mean something to systemd"):
        service("department", tmp_path / path, for_user=True, name="x")


def test_the_name_of_a_unit_holds_nothing_but_letters(tmp_path: Path) -> None:
    made = service("department", tmp_path, for_user=True, name="../Sales & Service")
    assert made.name == "commonroot-department-sales-service.service"
