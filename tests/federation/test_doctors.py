"""``doctor`` on both sides: each line is made to fail for real and says what to type; looking writes nothing."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot import __version__, machine
from commonroot.cli import app
from commonroot.client import doctor as department_doctor
from commonroot.client import standing
from commonroot.client.folder import DepartmentFolder
from commonroot.common.findings import Finding, clocks_apart, days_left, lines, record, worst
from commonroot.files import take_ownership
from commonroot.server import doctor as coordinator_doctor
from commonroot.server import pki, superlink
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation, write_table
from commonroot.simulations.processes import free_port

NOW = datetime.datetime.now(datetime.UTC).timestamp()
DAY = 86400.0


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


def seen(findings: list[Finding], what: str) -> Finding:
    """The worst line about something."""
    about = [finding for finding in findings if finding.what == what]
    assert about, [finding.what for finding in findings]
    return max(about, key=lambda finding: ["ok", "warn", "fail"].index(finding.state))


def fails(findings: list[Finding], what: str, told: str, fix: str) -> None:
    finding = seen(findings, what)
    assert finding.state == "fail", finding
    assert told in finding.told
    assert fix in finding.fix


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# -- in order ----------------------------------------------------------------------------------------------------------


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


def test_a_coordinator_in_order_is_told_so_and_nothing_is_written(central: Path) -> None:
    before = contents(central)
    found = coordinator_doctor.examine(central)
    assert worst(found) == "ok", lines(found)
    assert contents(central) == before
    assert "is free" in seen(found, "port").told


def test_a_coordinator_that_is_up_is_asked_over_its_own_port(hub: tuple[Federation, SuperLink]) -> None:
    found = coordinator_doctor.examine(hub[0].coordinator.root)
    assert seen(found, "port").state == "ok"
    assert "is up and answered 200" in seen(found, "port").told
    assert seen(found, "permissions").state == "ok", "what the hub itself wrote is its owner's alone"


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


# -- sealed keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "battery staple"])
def test_without_the_passphrase_it_is_asked_for_and_no_backup_or_renewal_is_advised(
    given: str, ash: Path, central: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMONROOT_PASSPHRASE", "correct horse")
    for words in (["coordinator", "seal", str(central)], ["department", "seal", str(ash)]):
        done = CliRunner().invoke(app, [*words, "--passphrase"])
        assert done.exit_code == 0, done.output
    if given:
        monkeypatch.setenv("COMMONROOT_PASSPHRASE", given)
    else:
        monkeypatch.delenv("COMMONROOT_PASSPHRASE")
    for found in (coordinator_doctor.examine(central), department_doctor.examine(ash, data=False)):
        fails(found, "keys", "passphrase", "COMMONROOT_PASSPHRASE")
        assert not [f for f in found if "backup" in f.fix or ("renew-certificate" in f.fix and f.state == "fail")]


# -- pausing and leaving -----------------------------------------------------------------------------------------------


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


# -- this machine ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("path", [".", "keys", "keys/identity.key", "keys/node.key"])
def test_what_others_may_read_of_a_department_is_named_with_the_command(ash: Path, path: str) -> None:
    spoiled = ash / path
    spoiled.chmod(0o755 if spoiled.is_dir() else 0o644)
    fails(department_doctor.examine(ash, data=False), "permissions", spoiled.name, f"{spoiled}")


@pytest.mark.parametrize("path", ["keys", "keys/coordinator.key", "authority/authority.key", "tls/server.key"])
def test_what_others_may_read_of_a_coordinator_is_named_with_the_command(central: Path, path: str) -> None:
    spoiled = central / path
    spoiled.chmod(0o755 if spoiled.is_dir() else 0o644)
    fails(coordinator_doctor.examine(central), "permissions", spoiled.name, f"{spoiled}")


@pytest.mark.parametrize("name", ["identity.key", "training.key", "node.key"])
def test_a_missing_key_is_named(ash: Path, name: str) -> None:
    (ash / "keys" / name).unlink()
    fails(department_doctor.examine(ash, data=False), "keys", name, "backup")


def test_a_missing_key_of_the_coordinator_is_named(central: Path) -> None:
    (central / "keys" / "coordinator.key").unlink()
    fails(coordinator_doctor.examine(central), "keys", "coordinator.key", "backup")


# -- the way to the coordinator ----------------------------------------------------------------------------------------


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


def test_a_stranger_learns_no_version(hub: tuple[Federation, SuperLink]) -> None:
    folder = hub[0].coordinator
    answer = machine.ask_health(f"127.0.0.1:{folder.config.port}", folder.ca, NOW)
    assert answer.status == 200
    assert "commonroot-version" not in answer.headers


# -- what was agreed ---------------------------------------------------------------------------------------------------


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


# -- the coordinator's side --------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_seen(central: Path) -> None:
    port = CoordinatorFolder(central).config.port
    with socket.create_server(("127.0.0.1", port)):
        fails(coordinator_doctor.examine(central), "port", str(port), "ss -ltnp")


def test_a_coordinator_that_is_up_and_does_not_answer_is_seen(central: Path) -> None:
    with take_ownership(central):
        fails(coordinator_doctor.examine(central), "port", "Connection refused", "journalctl")


def spoil_key(root: Path) -> None:
    _, other_key = pki.make_authority(root / "other", "desert")
    shutil.copy(other_key, root / "tls" / "server.key")


def spoil_issuer(root: Path) -> None:
    other, other_key = pki.make_authority(root / "other", "desert")
    pki.make_server_certificate(root / "tls", ["127.0.0.1", "localhost"], ca_certificate=other, ca_key=other_key)


def spoil_names(root: Path) -> None:
    pki.make_server_certificate(
        root / "tls", ["elsewhere"], ca_certificate=root / "tls" / "ca.pem", ca_key=root / "tls" / "ca.key"
    )


def spoil_file(root: Path) -> None:
    (root / "tls" / "server.pem").write_text("hello")


def spoil_time(root: Path) -> None:
    pki.make_server_certificate(
        root / "tls",
        ["127.0.0.1", "localhost"],
        ca_certificate=root / "tls" / "ca.pem",
        ca_key=root / "tls" / "ca.key",
        days=-1,
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_key, "is not the key of"),
        (spoil_issuer, "was not issued by"),
        (spoil_names, "does not name"),
        (spoil_file, "server.pem"),
        (spoil_time, "expired 1 days ago"),
    ],
)
def test_a_certificate_that_does_not_belong_is_seen_and_renewing_it_mends_it(
    central: Path, spoil: Callable[[Path], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pki, "_BACKDATED", datetime.timedelta(days=2))
    spoil(central)
    fails(coordinator_doctor.examine(central), "certificate", told, "renew-certificate")
    done = CliRunner().invoke(app, ["coordinator", "renew-certificate", str(central)])
    assert done.exit_code == 0, done.output
    assert seen(coordinator_doctor.examine(central), "certificate").state == "ok"


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


def test_a_name_of_its_own_that_nobody_knows_is_a_warning(central: Path) -> None:
    toml = central / "coordinator.toml"
    toml.write_text(toml.read_text().replace("names = [", 'names = ["no-such-host.invalid", '))
    spoiled = coordinator_doctor.examine(central)
    assert seen(spoiled, "dns").state == "warn"
    assert seen(spoiled, "certificate").state == "fail"


@pytest.mark.parametrize("url", ["postgresql+psycopg://nobody@127.0.0.1:1/none", "nonsense://"])
def test_a_database_that_cannot_be_reached_is_seen(central: Path, url: str) -> None:
    toml = central / "coordinator.toml"
    toml.write_text(toml.read_text().replace('database = ""', f'database = "{url}"'))
    fails(coordinator_doctor.examine(central), "database", "", "coordinator.toml")


def test_a_damaged_journal_is_seen(central: Path) -> None:
    (central / "journal.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    for name in ("journal.db-wal", "journal.db-shm"):
        (central / name).unlink(missing_ok=True)
    fails(coordinator_doctor.examine(central), "database", "", "coordinator.toml")


def test_a_roster_that_ends_is_seen_before_it_does(central: Path) -> None:
    soon = coordinator_doctor.examine(central, clock=lambda: NOW + 350 * DAY)
    assert seen(soon, "roster").state == "warn"
    late = coordinator_doctor.examine(central, clock=lambda: NOW + 400 * DAY)
    fails(late, "roster", "expired", "renew")
    (central / "roster.json").unlink()
    assert seen(coordinator_doctor.examine(central), "roster").state == "warn"


def test_a_charter_whose_signature_does_not_hold_is_seen(central: Path) -> None:
    path = next((central / "charters").glob("*.json"))
    path.write_text(path.read_text().replace('"rounds":3', '"rounds":4'))
    fails(coordinator_doctor.examine(central), "charters", path.name[:16], "coordinator charter")


def test_too_few_connections_for_a_roster_are_a_warning(central: Path) -> None:
    with (central / "coordinator.toml").open("a") as toml:
        toml.write("\n[limits]\nconnections = 8\n")
    found = seen(coordinator_doctor.examine(central), "limits")
    assert found.state == "warn"
    assert "connections = 12" in found.fix


def test_what_departments_run_and_how_their_clocks_go_is_seen_at_the_gate(
    hub: tuple[Federation, SuperLink], ash: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A department 40 s behind, with another program, asked something; the coordinator has it written down."""
    import flwr.supernode.node_auth_http_interceptor as flower_signs
    from flwr.supercore.date import now as flower_now

    from commonroot.client.node import signed_headers

    folder = hub[0].coordinator
    with monkeypatch.context() as patch:
        patch.setattr(flower_signs, "now", lambda: flower_now() - datetime.timedelta(seconds=80))
        headers = signed_headers(ash / "keys" / "node.key") | {"commonroot-version": "0.0.9"}
    assert machine.ask_health(f"127.0.0.1:{folder.config.port}", folder.ca, NOW, headers).status == 200
    (folder.root / "links" / superlink.GATE_BOOK).write_text(json.dumps(hub[1].at_the_gate()))
    found = coordinator_doctor.examine(folder.root)
    assert seen(found, "clock").state == "warn"
    assert "ash's is -80 s ahead" in seen(found, "clock").told
    assert "ash runs commonroot 0.0.9" in seen(found, "program").told
    assert hub[1].programs() == {" ".join(folder.roster().departments[0].node_key.split()[:2]): "0.0.9"}
    shown = CliRunner().invoke(app, ["coordinator", "status", str(folder.root)])
    assert f"ash runs commonroot 0.0.9, and this is {__version__}" in shown.output


# -- judging -----------------------------------------------------------------------------------------------------------


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
