"""The thread beside the rounds: its token, its port, and that nothing which fails in it reaches anybody."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import small

from commonroot.common.errors import KeyFileError, StorageFull
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.monitor.board import Board
from commonroot.server.monitor.facts import Sources
from commonroot.server.monitor.serving import TOKEN, Monitor, address_of, token_of
from commonroot.server.monitor.settings import MonitorSettings
from commonroot.simulations.processes import free_port


async def house(scope: Any, receive: Any, send: Any) -> None:
    """In place of the page, of which there can be one in a process."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


class Place:
    """A coordinator's folder with a page of its own, and what its thread tells."""

    def __init__(self, root: Path, stack: list[Callable[[], None]]) -> None:
        self.federation = small.founded(root)
        self.path = self.federation.coordinator.root / "coordinator.toml"
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.heard = threading.Event()
        self._stack = stack

    def settings(self, **values: str) -> CoordinatorFolder:
        """The folder with these lines in its ``[monitor]``."""
        before = self.path.read_text().split("[monitor]")[0]
        self.path.write_text(before + "[monitor]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
        return CoordinatorFolder(self.federation.coordinator.root)

    def start(self, folder: CoordinatorFolder) -> Monitor:
        """A page on that folder, once it has said something."""
        journal: Journal = folder.journal()
        self._stack.append(journal.close)

        def tell(kind: str, facts: dict[str, Any]) -> None:
            self.told.append((kind, facts))
            self.heard.set()

        roster = folder.roster()
        monitor = Monitor(folder, Sources("grove", journal, Board(), dict, lambda: roster), tell)
        self._stack.append(monitor.stop)
        monitor.start()
        assert not folder.config.monitor.enabled or self.heard.wait(60)
        return monitor


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Everything that was started is stopped afterwards, newest first."""
    stack: list[Callable[[], None]] = []
    page = types.ModuleType("commonroot.server.monitor.page")
    page.application = lambda facts: house  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, page.__name__, page)
    yield Place(tmp_path, stack)
    for done in reversed(stack):
        done()


def get(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
        return bytes(answer.read())


def test_it_says_where_it_serves_and_never_the_token(place):
    port = free_port()
    folder = place.settings(port=str(port))
    monitor = place.start(folder)
    ((kind, facts),) = place.told
    assert (kind, facts["url"]) == ("page", f"http://127.0.0.1:{port}")
    assert token_of(folder) not in repr(place.told)
    assert b"Commonroot" in get(f"{facts['url']}/login")
    bearer = {"Authorization": f"Bearer {token_of(folder)}"}
    assert b"commonroot_roster_epoch 1.0" in get(f"{facts['url']}/metrics", **bearer)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{facts['url']}/metrics")
    monitor.stop()
    with pytest.raises(urllib.error.URLError):
        get(f"{facts['url']}/login")


def test_on_another_address_it_is_served_over_tls_under_the_coordinators_names(place):
    port = free_port()
    folder = place.settings(host='"0.0.0.0"', port=str(port))
    place.start(folder)
    ((kind, facts),) = place.told
    assert (kind, facts["url"]) == ("page", f"https://localhost:{port}")
    trusting = ssl.create_default_context(cafile=str(folder.ca))
    with urllib.request.urlopen(f"{facts['url']}/login", timeout=30, context=trusting) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="421"):
        strange = urllib.request.Request(f"{facts['url']}/login", headers={"Host": "evil.example"})
        urllib.request.urlopen(strange, timeout=30, context=trusting)


def test_a_taken_port_is_one_line(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place.start(place.settings(port=str(taken.getsockname()[1])))
    ((kind, facts),) = place.told
    assert kind == "no-page"
    assert "in use" in facts["why"]


def test_a_missing_package_is_one_line_that_says_what_to_install(place, monkeypatch):
    monkeypatch.delitem(sys.modules, "commonroot.server.monitor.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    place.start(place.settings(port=str(free_port())))
    ((kind, facts),) = place.told
    assert kind == "no-page"
    assert "prometheus_client is not installed: pip install 'commonroot[monitor]'" in facts["why"]


def test_whatever_else_fails_is_one_line_too(place, monkeypatch):
    def broken(facts: Any) -> Any:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(sys.modules["commonroot.server.monitor.page"], "application", broken)
    place.start(place.settings(port=str(free_port())))
    assert place.told == [("no-page", {"why": "ZeroDivisionError: no"})]


def test_a_page_that_is_not_wanted_is_not_served(place):
    monitor = place.start(place.settings(enabled="false"))
    monitor.stop()
    assert place.told == []
    assert not (place.federation.coordinator.root / TOKEN).exists()


def test_a_page_that_is_stopped_before_it_serves_does_not_begin(place):
    folder = place.settings(port=str(free_port()))
    with small.journal_of(place.federation) as journal:
        roster = folder.roster()
        monitor = Monitor(folder, Sources("grove", journal, Board(), dict, lambda: roster), lambda kind, facts: None)
        monitor._stopping.set()
        monitor.start()
        monitor.stop()
        assert not monitor._thread.is_alive()


def test_logins_stand_in_the_audit_log_with_the_address_they_came_from_and_nothing_that_was_sent(place):
    """Also where a request says that it comes from elsewhere; scrapes with the right token are no logins."""
    folder = place.settings(port=str(free_port()))
    monitor = place.start(folder)
    url, token = place.told[0][1]["url"], token_of(folder)
    elsewhere = {"X-Forwarded-For": "203.0.113.9", "Origin": url}

    def log_in(given: str) -> int:
        sent = urllib.request.Request(f"{url}/login", headers=elsewhere, data=f"token={given}".encode())
        opener = urllib.request.build_opener(_Stay)
        try:
            return int(opener.open(sent, timeout=30).status)
        except urllib.error.HTTPError as answer:
            return answer.code

    assert [log_in("guess-one"), log_in(token), log_in("guess-two")] == [403, 303, 403]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{url}/metrics", Authorization="Bearer guess-three")
    get(f"{url}/metrics", Authorization=f"Bearer {token}")
    monitor.stop()
    with small.journal_of(place.federation) as journal:
        logins = [entry.facts for entry in journal.audit() if entry.kind == "login"]
    assert [(one["from"], one["result"], one["times"]) for one in logins] == [
        ("127.0.0.1", "refused", 1), ("127.0.0.1", "accepted", 1), ("127.0.0.1", "refused", 2),
    ]  # fmt: skip
    assert [facts for kind, facts in place.told if kind == "login"] == logins
    assert token not in repr(logins)
    assert "guess" not in repr(logins)


def test_who_looks_is_let_in_while_the_log_cannot_be_written_and_is_noted_afterwards(place, monkeypatch):
    folder = place.settings(port=str(free_port()))
    monitor = place.start(folder)
    noted = Journal.note

    def full(self: Journal, kind: str, facts: dict[str, Any]) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(Journal, "note", full)
    sent = urllib.request.Request(f"{place.told[0][1]['url']}/login", data=f"token={token_of(folder)}".encode())
    with pytest.raises(urllib.error.HTTPError, match="303"):
        urllib.request.build_opener(_Stay).open(sent, timeout=30)
    monkeypatch.setattr(Journal, "note", noted)
    monitor.stop()
    assert [facts["result"] for kind, facts in place.told if kind == "login"] == ["accepted"]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Does not follow."""

    def redirect_request(self, *_: Any) -> None:
        return None


# -- the token ---------------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_for_its_owner_alone(place):
    folder = place.federation.coordinator
    token = token_of(folder)
    assert len(token) >= 43  # 32 random bytes
    assert token_of(folder) == token
    assert stat.S_IMODE((folder.root / TOKEN).stat().st_mode) == 0o600
    assert [path.name for path in (folder.root / "keys").iterdir() if "monitor" in path.name] == ["monitor.token"]


@pytest.mark.parametrize(("content", "mode"), [("x" * 43, 0o644), ("x" * 43, 0o640), ("", 0o600), ("short", 0o600)])
def test_a_token_that_others_can_read_or_guess_is_refused(place, content, mode):
    path = place.federation.coordinator.root / TOKEN
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(KeyFileError):
        token_of(place.federation.coordinator)


def test_two_who_make_the_token_at_once_get_the_same(place):
    folder, found = place.federation.coordinator, set()
    threads = [threading.Thread(target=lambda: found.add(token_of(folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.7", False), ("::", False), ("coordinator.example", False)],
)  # fmt: skip
def test_only_loopback_goes_without_tls(host, local):
    assert MonitorSettings(host=host).local is local


def test_a_folder_of_before_there_was_a_page_serves_one(place):
    text = place.path.read_text().split("[monitor]")[0]
    place.path.write_text(text)
    folder = CoordinatorFolder(place.federation.coordinator.root)
    assert folder.config.monitor == MonitorSettings()
    assert address_of(folder) == "http://127.0.0.1:9444"


def test_the_coordinator_imports_nothing_of_the_page_before_it_serves():
    """So a restart is not slower for it, and a coordinator without the extra runs."""
    code = (
        "import sys, commonroot.server.coordinator, commonroot.server.cli\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('nicegui', 'prometheus_client', 'socketio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
