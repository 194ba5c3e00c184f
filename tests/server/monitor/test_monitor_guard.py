"""Who may look: host, origin, token, session, and what every answer forbids the browser."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from commonroot.server.monitor.guard import COOKIE, SESSION_SECONDS, Guard

TOKEN = "k5tZk1bQ0m3f7Yv2Hq8sWc6dXa9eRu4g"
HERE = "http://127.0.0.1:9444"


class House:
    """What stands behind the guard: notes that it was reached."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(f"{scope['type']} {scope['path']}")
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"inside"})


class Door:
    """A guard at a settable time, and requests to it."""

    def __init__(self, **options: Any) -> None:
        self.now = 1_800_000_000.0
        self.house = House()
        self.guard = Guard(
            self.house,
            token=options.pop("token", TOKEN),
            hosts={"127.0.0.1", "localhost"},
            metrics=lambda: (b"one 1\n", "text/plain; version=0.0.4"),
            federation="grove <b>",
            clock=lambda: self.now,
            **options,
        )

    def ask(self, method: str, path: str, **about: Any) -> httpx.Response:
        async def asking() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.guard), base_url=HERE) as client:
                return await client.request(method, path, **about)

        return asyncio.run(asking())

    def log_in(self, token: str = TOKEN, **about: Any) -> httpx.Response:
        return self.ask("POST", "/login", data={"token": token}, **about)

    def session(self) -> dict[str, str]:
        return {"cookie": f"{COOKIE}={self.log_in().cookies[COOKIE]}"}

    def channel(self, **headers: str) -> str:
        """What becomes of a web socket: accept or close."""
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        lines = [(name.encode(), value.encode()) for name, value in ({"host": "127.0.0.1:9444"} | headers).items()]
        asyncio.run(self.guard({"type": "websocket", "path": "/_nicegui_ws/", "headers": lines}, None, send))
        return str(sent[0]["type"])


def test_without_a_session_nothing_behind_the_guard_is_reached():
    door = Door()
    assert door.ask("GET", "/runs", headers={"accept": "text/html"}).headers["location"] == "/login"
    for path in ("/", "/_nicegui/3/static/nicegui.js", "/docs", "/login/", "/metrics/x"):
        assert door.ask("GET", path).status_code == 401
    assert door.house.reached == []


def test_the_token_opens_a_session_that_scripts_cannot_read_and_other_sites_cannot_send():
    door = Door()
    answer = door.log_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    said = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_SECONDS}"} <= set(said.split("; "))
    assert TOKEN not in said
    assert "Secure" not in said
    assert "Secure" in Door(secure=True).log_in().headers["set-cookie"]
    assert door.ask("GET", "/", headers=door.session()).text == "inside"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 32, "x" * 4000])
def test_another_token_opens_nothing(token):
    door = Door()
    answer = door.log_in(token)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "not the token" in answer.text


def test_a_session_ends_when_its_time_is_over_or_its_token_replaced():
    door = Door()
    session = door.session()
    door.now += SESSION_SECONDS - 1
    assert door.ask("GET", "/", headers=session).status_code == 200
    door.now += 2
    assert door.ask("GET", "/", headers=session).status_code == 401
    assert Door(token="another" * 5).ask("GET", "/", headers=Door().session()).status_code == 401
    assert Door().ask("GET", "/", headers=Door().session()).status_code == 200  # it outlives a restart


@pytest.mark.parametrize(
    "value",
    ["", "9999999999", "9999999999.", "9999999999." + "0" * 64, "x.y", "-1.0", "99999999999999999999.0", "٣.٣", '"'],
)
def test_a_made_up_session_opens_nothing(value):
    assert Door().ask("GET", "/", headers={"cookie": f"{COOKIE}={value}".encode()}).status_code == 401


def test_a_later_expiry_under_an_old_seal_opens_nothing():
    door = Door()
    until, _, seal = door.session()["cookie"].partition("=")[2].partition(".")
    assert door.ask("GET", "/", headers={"cookie": f"{COOKIE}={int(until) + 1}.{seal}"}).status_code == 401


def test_logging_out_ends_the_browsers_session():
    answer = Door().ask("POST", "/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9444", "127.0.0.1.evil.example", "", "[", "127.1"])
def test_a_request_under_another_hosts_name_is_refused_whatever_it_brings(host):
    """A page of somebody else's that has its own name point at 127.0.0.1 gets nothing, not even the login."""
    door = Door()
    session = door.session()
    for path in ("/", "/login", "/metrics"):
        assert door.ask("GET", path, headers={"host": host, **session}).status_code == 421
    assert door.channel(host=host, origin=f"http://{host}", **session) == "websocket.close"
    assert door.house.reached == []


@pytest.mark.parametrize("host", ["127.0.0.1:9444", "localhost:9444", "LOCALHOST:19444", "localhost"])
def test_the_servers_own_names_are_good_at_any_port(host):
    """``ssh -L 19444:127.0.0.1:9444`` arrives under another port."""
    assert Door().ask("GET", "/login", headers={"host": host}).status_code == 200


def test_only_a_page_of_this_server_may_log_in_or_open_a_channel():
    door = Door()
    session = door.session()
    assert door.log_in(headers={"origin": HERE}).status_code == 303
    for origin in ("http://127.0.0.1:8000", "https://127.0.0.1:9444", "http://evil.example", "null", ""):
        assert door.log_in(headers={"origin": origin}).status_code == 403
        assert door.channel(origin=origin, **session) == "websocket.close"
    assert door.channel(**session) == "websocket.close", "browsers always say where a channel comes from"
    assert door.channel(origin=HERE) == "websocket.close"
    assert door.channel(origin=HERE, **session) == "websocket.accept"
    assert door.house.reached == ["websocket /_nicegui_ws/"]


def test_metrics_take_the_token_as_a_bearer_or_a_session():
    door = Door()
    assert door.ask("GET", "/metrics").headers["www-authenticate"] == "Bearer"
    for given in (f"Basic {TOKEN}", "Bearer wrong", "Bearer", TOKEN, f"Bearer {TOKEN}x"):
        assert door.ask("GET", "/metrics", headers={"authorization": given}).status_code == 401
    answer = door.ask("GET", "/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.text, answer.headers["content-type"]) == ("one 1\n", "text/plain; version=0.0.4")
    assert door.ask("GET", "/metrics", headers=door.session()).status_code == 200


def test_a_bearer_opens_no_page():
    assert Door().ask("GET", "/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 401


def test_no_answer_may_load_anything_from_elsewhere_or_stand_in_a_frame():
    door = Door()
    answers = [door.ask("GET", "/login"), door.ask("GET", "/", headers=door.session()), door.ask("GET", "/x")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert {"default-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "http" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[0].headers["cache-control"] == "no-store"


def test_the_login_escapes_the_federations_name():
    assert "grove &lt;b&gt;" in Door().ask("GET", "/login").text
