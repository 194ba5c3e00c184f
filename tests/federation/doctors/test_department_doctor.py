"""``department doctor``: each line is made to fail for real and says what to type; looking writes nothing."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.doctors.findings import DAY, NOW, contents, fails, seen
from typer.testing import CliRunner

from commonroot import __version__
from commonroot.cli import app
from commonroot.client import doctor as department_doctor
from commonroot.client import standing
from commonroot.client.folder import DepartmentFolder
from commonroot.common.findings import lines, worst
from commonroot.server import pki
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation, write_table
from commonroot.simulations.processes import free_port


def test_a_department_in_order_is_told_so_and_nothing_is_written(hub: Any, ash: Path) -> None:
    """Run twice, since the first look makes SQLite's own working files where a database was never opened."""
    department_doctor.examine(ash)
    before = contents(ash)
    found = department_doctor.examine(ash)
    assert worst(found) == "ok", lines(found)
    assert contents(ash) == before
    assert [f.what for f in found] == [
        "versions", "configuration", "folder", "disk", "permissions", "standing", "keys", "authority", "dns",
        "coordinator", "certificate", "clock", "enrolment", "program", "roster", "charters", "data",
    ]  # fmt: skip


def test_the_command_prints_a_line_each_and_its_exit_code_says_whether_to_act(hub: Any, ash: Path) -> None:
    good = CliRunner().invoke(app, ["department", "doctor", str(ash)])
    assert good.exit_code == 0, good.output
    assert "0 to mend, 0 to watch" in good.output
    (ash / "keys" / "identity.key").chmod(0o644)
    bad = CliRunner().invoke(app, ["department", "doctor", str(ash), "--no-data", "--json"])
    assert bad.exit_code == 2
    report = json.loads(bad.output)
    assert report["worst"] == "fail"
    assert any(f["what"] == "permissions" and f["fix"].startswith("chmod 600") for f in report["findings"])


def test_a_paused_department_is_told_how_to_go_on(ash: Path) -> None:
    standing.pause(DepartmentFolder(ash))
    found = seen(department_doctor.examine(ash, data=False), "standing")
    assert (found.state, "`commonroot department resume" in found.fix) == ("warn", True)


def test_a_leaving_that_was_killed_is_told_how_to_finish(ash: Path) -> None:
    with small.store_of(DepartmentFolder(ash)) as store:
        store.set_standing("leaving")
    fails(department_doctor.examine(ash, data=False), "standing", "not finished", f"department leave {ash} --yes")


def test_whoever_has_left_is_told_that_nothing_is_missing_and_never_to_put_keys_back(ash: Path) -> None:
    """Node and agreement key are erased on purpose: no backup, no request and no approval is advised."""
    standing.leave(DepartmentFolder(ash), wait=0)
    found = department_doctor.examine(ash)
    assert worst(found) == "ok", lines(found)
    assert "predict, export, report and ledger go on working" in seen(found, "standing").told
    assert [f.what for f in found][-2:] == ["standing", "keys"]
    assert not [f for f in found if f.what in ("coordinator", "enrolment", "roster", "charters", "data")]


def test_whoever_has_left_and_still_holds_keys_of_rounds_erases_them_by_the_same_command(ash: Path) -> None:
    key = (ash / "keys" / "node.key").read_bytes()
    standing.leave(DepartmentFolder(ash), wait=0)
    (ash / "keys" / "node.key").write_bytes(key)
    (ash / "keys" / "node.key").chmod(0o600)
    fails(department_doctor.examine(ash), "keys", "node.key", f"department leave {ash} --yes")
    assert CliRunner().invoke(app, ["department", "leave", str(ash), "--yes", "--wait", "0"]).exit_code == 0
    assert worst(department_doctor.examine(ash)) == "ok"


def test_whoever_has_left_and_lost_the_identity_is_told_what_it_is_for(ash: Path) -> None:
    standing.leave(DepartmentFolder(ash), wait=0)
    (ash / "keys" / "identity.key").unlink()
    found = seen(department_doctor.examine(ash), "keys")
    assert found.state == "warn"
    assert "signed with it" in found.told and "--with-keys" in found.fix


def test_a_backup_of_whoever_has_left_is_restored_without_advice_for_a_run(ash: Path, tmp_path: Path) -> None:
    standing.leave(DepartmentFolder(ash), wait=0)
    run = CliRunner()
    assert run.invoke(app, ["department", "backup", str(ash), str(tmp_path / "b.tar"), "--with-keys"]).exit_code == 0
    said = run.invoke(app, ["department", "restore", str(tmp_path / "b.tar"), str(tmp_path / "again")])
    assert said.exit_code == 0
    assert "it had left the federation" in said.output
    assert not [word for word in ("renew", "approve", "missing") if word in said.output]
    assert worst(department_doctor.examine(tmp_path / "again")) == "ok"


@pytest.mark.parametrize("path", [".", "keys", "keys/identity.key", "keys/node.key"])
def test_what_others_may_read_of_a_department_is_named_with_the_command(ash: Path, path: str) -> None:
    spoiled = ash / path
    spoiled.chmod(0o755 if spoiled.is_dir() else 0o644)
    fails(department_doctor.examine(ash, data=False), "permissions", spoiled.name, f"{spoiled}")


@pytest.mark.parametrize("name", ["identity.key", "training.key", "node.key"])
def test_a_missing_key_is_named(ash: Path, name: str) -> None:
    (ash / "keys" / name).unlink()
    fails(department_doctor.examine(ash, data=False), "keys", name, "backup")


def moved(root: Path, address: str) -> Path:
    toml = root / "department.toml"
    old = next(line for line in toml.read_text().splitlines() if line.startswith("coordinator ="))
    toml.write_text(toml.read_text().replace(old, f'coordinator = "{address}"'))
    return root


def test_a_name_without_an_address_is_seen(ash: Path) -> None:
    found = department_doctor.examine(moved(ash, "no-such-host.invalid:9443"), data=False)
    fails(found, "dns", "no-such-host.invalid", "/etc/hosts")


def test_a_port_where_nobody_listens_is_seen(ash: Path) -> None:
    found = department_doctor.examine(moved(ash, f"127.0.0.1:{free_port()}"), data=False)
    fails(found, "coordinator", "Connection refused", "coordinator up")


def test_something_else_on_that_port_is_seen(ash: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)
        import threading

        def hang_up() -> None:
            connection, _ = other.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = department_doctor.examine(moved(ash, f"127.0.0.1:{other.getsockname()[1]}"), data=False)
        thread.join()
    assert seen(found, "coordinator").state == "fail"


def test_another_authoritys_certificate_is_seen(ash: Path, tmp_path: Path) -> None:
    other, _ = pki.make_authority(tmp_path / "other", "desert")
    shutil.copy(other, ash / "ca.pem")
    fails(department_doctor.examine(ash, data=False), "certificate", "certificate", "another CA")


def test_a_certificate_for_other_names_is_seen(hub: tuple[Federation, SuperLink], ash: Path) -> None:
    """127.0.0.2 is the same machine, and stands in no certificate."""
    config = hub[0].coordinator.config
    with SuperLink(
        ash / "links", "127.0.0.2", 0, hub[0].coordinator.server_certificate, hub[0].coordinator.server_key
    ) as elsewhere:
        found = department_doctor.examine(moved(ash, f"127.0.0.2:{elsewhere.public_port}"), data=False)
    fails(found, "certificate", "127.0.0.2", "names this host")
    assert "127.0.0.2" not in config.names


def test_a_ca_file_that_is_none_is_seen(ash: Path) -> None:
    (ash / "ca.pem").write_text("hello")
    fails(department_doctor.examine(ash, data=False), "authority", "no CA certificate", "ca.pem")


def test_expiries_are_told_before_they_come_and_after(hub: Any, ash: Path) -> None:
    """The server's certificate is good for 825 days, the CA for 3650, the roster for 366."""
    soon = department_doctor.examine(ash, clock=lambda: NOW + 800 * DAY, data=False)
    assert seen(soon, "certificate").state == "warn"
    assert "renew-certificate" in seen(soon, "certificate").fix
    assert seen(soon, "roster").state == "fail"
    late = department_doctor.examine(ash, clock=lambda: NOW + 4000 * DAY, data=False)
    assert seen(late, "authority").state == "fail"


@pytest.mark.parametrize(
    ("ahead", "state"), [(0.0, "ok"), (-30.0, "ok"), (-100.0, "warn"), (30.0, "fail"), (-400.0, "fail")]
)
def test_a_clock_that_is_off_is_seen_on_the_departments_side(hub: Any, ash: Path, ahead: float, state: str) -> None:
    import time

    found = department_doctor.examine(ash, clock=lambda: time.time() + ahead, data=False)
    assert seen(found, "clock").state == state
    if state != "ok":
        assert "timedatectl" in seen(found, "clock").fix


def test_a_department_that_is_not_enrolled_is_seen(hub: tuple[Federation, SuperLink]) -> None:
    found = department_doctor.examine(hub[0].departments["birch"].root, data=False)
    fails(found, "enrolment", "does not know", "request.json")


def test_another_program_at_the_coordinator_is_seen(hub: Any, ash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(department_doctor, "__version__", "9.9")
    found = seen(department_doctor.examine(ash, data=False), "program")
    assert found.state == "warn"
    assert f"9.9 here, {__version__} at the coordinator" in found.told


def test_a_roster_that_is_missing_or_changed_is_seen(ash: Path) -> None:
    path = ash / "roster.json"
    text = path.read_text()
    path.write_text(text.replace('"epoch":1', '"epoch":2'))
    assert path.read_text() != text
    fails(department_doctor.examine(ash, data=False), "roster", "sign", "")
    path.unlink()
    fails(department_doctor.examine(ash, data=False), "roster", "missing", "join")


def test_a_charter_that_was_changed_is_seen_and_none_is_a_warning(ash: Path) -> None:
    path = next((ash / "charters").glob("*.json"))
    path.write_text(path.read_text().replace('"rounds":3', '"rounds":4'))
    fails(department_doctor.examine(ash, data=False), "charters", path.name[:16], "approve the charter again")
    path.unlink()
    assert seen(department_doctor.examine(ash, data=False), "charters").state == "warn"


def test_data_that_does_not_fit_is_seen(ash: Path) -> None:
    x, y = small.table(0, 30, "binary")
    write_table(ash / "rows.npz", x[:, :4], y)
    fails(department_doctor.examine(ash), "data", "", "department check")
    (ash / "rows.npz").unlink()
    fails(department_doctor.examine(ash), "data", "", "department check")


def test_departments_take_a_renewed_certificate_without_doing_anything(
    hub: tuple[Federation, SuperLink], ash: Path, tmp_path: Path
) -> None:
    folder = hub[0].coordinator
    tls = shutil.copytree(folder.root / "tls", tmp_path / "tls")
    pki.make_server_certificate(tls, ["127.0.0.1"], ca_certificate=tls / "ca.pem", ca_key=tls / "ca.key")
    assert (tls / "server.pem").read_bytes() != folder.server_certificate.read_bytes()
    with SuperLink(tmp_path / "links", "127.0.0.1", 0, tls / "server.pem", tls / "server.key") as renewed:
        renewed.register(next(m.node_key for m in folder.roster().departments if m.name == "ash"), "ash")
        found = department_doctor.examine(moved(ash, f"127.0.0.1:{renewed.public_port}"), data=False)
    assert worst(found) == "ok", lines(found)
