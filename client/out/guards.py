"""What stands in front of ``department serve``: who may ask, how much, and that nothing of a row is ever logged."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

from commonroot.common.errors import ConfigError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: A shorter token could be guessed.
SHORTEST_TOKEN: Final = 16
#: What anybody may ask, without a token.
OPEN: Final = frozenset({"/health"})
#: What is said of an error inside.
FAILED: Final = "the request could not be answered; the log names the kind of error"
_log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Does an address stay on this machine?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> bytes:
    """The token of a file that its owner alone can read.  Raises ConfigError for anything else."""
    try:
        mode, token = path.stat().st_mode, path.read_bytes().strip()
    except OSError:
        raise ConfigError(f"--token-file {path} cannot be read") from None
    if mode & 0o077:
        raise ConfigError(f"--token-file {path} can be read by others", hint=f"chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN or any(byte <= 32 or byte > 126 for byte in token):
        raise ConfigError(
            f"--token-file {path}: a token is at least {SHORTEST_TOKEN} printable characters without blanks",
            hint="openssl rand -hex 32 > FILE",
        )
    return token


class TooLarge(Exception):
    """More bytes came than a request may have."""


class Guard:
    """The outermost layer: hosts, token, size; whatever goes wrong inside becomes one line without values.

    token  None where none is asked for
    local  only requests that name this machine itself are answered: a page in a browser that reaches this port under
           a name of its own is not
    bytes  of a body, by path
    """

    def __init__(self, app: App, *, token: bytes | None, local: bool, bytes: Callable[[str], int]) -> None:
        self._app, self._token, self._local, self._bytes = app, token, local, bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(str(scope["path"]), headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        await self._passed(scope, receive, send, self._bytes(str(scope["path"])))

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.startswith("[") and host.endswith("]") else host.rsplit(":", 1)[0]
        if self._local and not is_loopback(name):
            return 421, "another host", "this address answers only requests to this machine itself"
        if self._token is not None and path not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                return 401, "no valid token", "send the header Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._bytes(path):
            return 413, "too large", f"at most {self._bytes(path)} bytes"
        return None

    async def _passed(self, scope: Scope, receive: Receive, send: Send, allowed: int) -> None:
        seen, begun, over = 0, False, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen, over
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > allowed:
                over = True
                raise TooLarge
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if over and not begun:
                return  # whatever the inside made of it, this is told below
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except TooLarge:
            pass
        except Exception as error:  # a message may hold a cell: neither log nor answer repeats it
            _log.error("a request failed: %s", type(error).__name__)
            if not begun and not over:
                await _answer(send, 500, "failed", FAILED)
        if over and not begun:
            await _answer(send, 413, "too large", f"at most {allowed} bytes")


def problem(status: int, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """A problem document (RFC 9457)."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}


async def _answer(send: Send, status: int, title: str, detail: str) -> None:
    body = json.dumps(problem(status, title, detail)).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
