"""``coordinator doctor``: each line is made to fail for real and says what to type; looking writes nothing."""

from __future__ import annotations

import datetime
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from federation.doctors.findings import DAY, NOW, contents, fails, seen
from typer.testing import CliRunner

from commonroot import __version__, machine
from commonroot.cli import app
from commonroot.client import doctor as department_doctor
from commonroot.common.findings import lines, worst
from commonroot.files import take_ownership
from commonroot.server import doctor as coordinator_doctor
from commonroot.server import pki, superlink
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation


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


@pytest.mark.parametrize("path", ["keys", "keys/coordinator.key", "authority/authority.key", "tls/server.key"])
def test_what_others_may_read_of_a_coordinator_is_named_with_the_command(central: Path, path: str) -> None:
    spoiled = central / path
    spoiled.chmod(0o755 if spoiled.is_dir() else 0o644)
    fails(coordinator_doctor.examine(central), "permissions", spoiled.name, f"{spoiled}")


def test_a_missing_key_of_the_coordinator_is_named(central: Path) -> None:
    (central / "keys" / "coordinator.key").unlink()
    fails(coordinator_doctor.examine(central), "keys", "coordinator.key", "backup")


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
