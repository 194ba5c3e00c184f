"""Who may look: an ASGI application in front of the page and the metrics.

* A request must name this server as its host, so that a web page of somebody else's cannot reach it under a name that
  was made to point here (DNS rebinding).
* Everything but the login wants a session, which the token in the coordinator's folder opens.  A session is a cookie
  that scripts cannot read and other sites cannot send; it is the expiry under a key made from the token, so it survives
  a restart and ends when the token is replaced.
* What changes something, or opens a channel, must come from a page of this very server (``Origin``).
* Metrics take the token as a bearer, as Prometheus sends it, or a session.
* Every login, accepted or refused, and every wrong bearer is noted with the address that it came from.
* No answer may load anything from elsewhere, stand in a frame, or be kept by a cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from commonroot.server.asgi import App, Event, Receive, Scope, Send, read_body
from commonroot.server.monitor.login import login_page
from commonroot.server.monitor.visits import Result

COOKIE: Final = "commonroot_session"
#: How long a session lasts, in seconds.
SESSION_SECONDS: Final = 12 * 3600
#: The longest body of a login, in bytes.
_LOGIN_BYTES: Final = 2048

#: NiceGUI's pages compile templates in the browser, hence ``unsafe-eval``; nothing may come from another host.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """Passes on to ``app`` what may pass; answers the rest itself.

    Parameters  token: what opens a session, as text; hosts: names and addresses this server goes by; metrics: makes
                the text for Prometheus and its content type; visited: told of each login and where it came from, in a
                thread of its own; secure: whether it is served over TLS
    """

    def __init__(
        self,
        app: App,
        *,
        token: str,
        hosts: Collection[str],
        metrics: Callable[[], tuple[bytes, str]],
        federation: str,
        visited: Callable[[Result, str], None] = lambda result, address: None,
        secure: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self._token = token.encode()
        self._key = hashlib.sha256(b"commonroot monitor session\0" + self._token).digest()
        self._hosts = {host.lower() for host in hosts}
        self._metrics = metrics
        self._federation = federation
        self._visited = visited
        self._secure = secure
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one channel."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket":
            ours = self._is_host(headers) and self._same_origin(headers, wanted=True) and self._in_session(headers)
            if ours:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(_hardened(send))
        path, method = scope["path"], scope["method"]
        if not self._is_host(headers):
            await answer(421, "this server does not go by that name; see [monitor] in coordinator.toml")
        elif method not in ("GET", "HEAD") and not self._same_origin(headers, wanted=False):
            await answer(403, "sent by a page of another server")
        elif path == "/login":
            await self._login(method, _address(scope), receive, answer)
        elif path == "/logout" and method == "POST":
            await answer(303, headers=[("location", "/login"), ("set-cookie", self._cookie("", 0))])
        elif path == "/metrics":
            await self._serve_metrics(headers, _address(scope), answer)
        elif self._in_session(headers):
            await self.app(scope, receive, _hardened(send))
        elif method == "GET" and "text/html" in headers.get("accept", ""):
            await answer(303, headers=[("location", "/login")])
        else:
            await answer(401, "log in first")

    # -- sessions --------------------------------------------------------------------------------------------------

    def _session(self, until: int) -> str:
        return f"{until}.{hmac.new(self._key, str(until).encode(), hashlib.sha256).hexdigest()}"

    def _in_session(self, headers: MutableMapping[str, str]) -> bool:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        if morsel is None:
            return False
        until = morsel.value.partition(".")[0]
        if not until.isascii() or not until.isdigit() or len(until) > 12:
            return False
        ours = hmac.compare_digest(morsel.value.encode("utf-8", "replace"), self._session(int(until)).encode())
        return ours and int(until) > self._clock()

    def _cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)

    # -- where a request comes from ----------------------------------------------------------------------------------

    def _is_host(self, headers: MutableMapping[str, str]) -> bool:
        try:
            name = urlsplit("//" + headers.get("host", "")).hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._hosts

    def _same_origin(self, headers: MutableMapping[str, str], *, wanted: bool) -> bool:
        """Whether the page that asks is of this very server.  Programs send no origin; browsers always do where it is
        ``wanted``, and "null" says that they would rather not tell."""
        origin = headers.get("origin")
        if origin is None:
            return not wanted
        scheme = "https" if self._secure else "http"
        return origin.lower() == f"{scheme}://{headers.get('host', '').lower()}"

    # -- what is answered here ---------------------------------------------------------------------------------------

    async def _login(self, method: str, address: str, receive: Receive, answer: _Answer) -> None:
        if method in ("GET", "HEAD"):
            await answer(200, login_page(self._federation), kind="text/html; charset=utf-8")
            return
        if method != "POST":
            await answer(405, "GET or POST")
            return
        body = await read_body(receive, _LOGIN_BYTES)
        given = parse_qs((body or b"").decode("ascii", "replace"), max_num_fields=8).get("token", [""])[0]
        accepted = self._is_token(given)
        await asyncio.to_thread(self._visited, "accepted" if accepted else "refused", address)
        if not accepted:
            refused = login_page(self._federation, refused=True)
            await answer(403, refused, kind="text/html; charset=utf-8")
            return
        until = int(self._clock()) + SESSION_SECONDS
        cookie = self._cookie(self._session(until), SESSION_SECONDS)
        await answer(303, headers=[("location", "/"), ("set-cookie", cookie)])

    async def _serve_metrics(self, headers: MutableMapping[str, str], address: str, answer: _Answer) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not (scheme.lower() == "bearer" and self._is_token(given)) and not self._in_session(headers):
            if given:
                await asyncio.to_thread(self._visited, "refused", address)
            await answer(401, "send the token as a bearer", headers=[("www-authenticate", "Bearer")])
            return
        text, kind = await asyncio.to_thread(self._metrics)
        await answer(200, text, kind=kind)


def _address(scope: Scope) -> str:
    """Where a request comes from, by its connection; what a request says of itself anybody can write."""
    client = scope.get("client")
    return str(client[0])[:64] if client else "unknown"


class _Answer:
    """A whole answer in one call."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(
        self,
        status: int,
        body: str | bytes = b"",
        *,
        kind: str = "text/plain; charset=utf-8",
        headers: Collection[tuple[str, str]] = (),
    ) -> None:
        content = body.encode() if isinstance(body, str) else body
        lines = [("content-type", kind), ("content-length", str(len(content))), ("cache-control", "no-store"), *headers]
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        await self._send({"type": "http.response.body", "body": content})


def _hardened(send: Send) -> Send:
    async def sending(event: Event) -> None:
        if event["type"] == "http.response.start":
            said = {name.lower() for name, _ in event["headers"]}
            event = {**event, "headers": [*event["headers"], *(pair for pair in _HEADERS if pair[0] not in said)]}
        await send(event)

    return sending
