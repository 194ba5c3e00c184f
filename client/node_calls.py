"""Requests to the hub that outlast its absence, and what its refusals mean to a node."""

from __future__ import annotations

import email.utils
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

from commonroot.client.tls import tls_failure
from commonroot.common.errors import ClockSkew, WrongAuthority

_log = logging.getLogger(__name__)
_Q = TypeVar("_Q")
_A = TypeVar("_A")

#: States of a node on its hub.
JOINED, UNREACHABLE, REFUSED, LEFT = "joined", "unreachable", "refused", "left"

#: How far apart the clocks may be: Flower takes 5 s into the future and 305 s into the past.
_SKEW_AHEAD, _SKEW_BEHIND = 4.0, 300.0
#: The longest that the hub may ask us to wait, in seconds.
_PATIENT: Final = 30


class Stopped(Exception):
    """We were told to stop."""


class Rejected(Exception):
    """The hub does not know us (any more), or not in this role."""


class Dropped(Exception):
    """This message is withdrawn; there is nobody to answer."""


class Caller:
    """Requests to the hub that outlast its absence: connection errors and 5xx are tried again until we are stopped."""

    def __init__(
        self, client: FleetHttpClient, stop: threading.Event, say: Callable[[str], None], give_up: float
    ) -> None:
        self.client = client
        self.give_up = give_up
        self._stop = stop
        self._say = say

    def __call__(self, call: Callable[[_Q], _A], request: _Q, *, first: bool = False, once: bool = False) -> _A:
        """One request; with ``once`` it is not repeated where the hub may have answered it.

        Raises  Stopped; Rejected: the hub refuses this node, or with ``once``, its answer was lost;
                Dropped: it refuses this request; WrongAuthority: only if ``first``
        """
        pause = 0.1
        broken_since: float | None = None
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                answer = call(request)
                if pause > 0.1:
                    self._say(JOINED)
                return answer
            except httpx.TransportError as error:
                failed_tls = tls_failure(error)
                if first and failed_tls is not None:
                    raise WrongAuthority(f"the coordinator's certificate: {failed_tls}") from error
                self._say(UNREACHABLE)
                if once and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    raise Rejected from error
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                again = status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT)
                if status == httpx.codes.UNAUTHORIZED or (
                    request.__class__ is ActivateNodeRequest and status < 500 and not again
                ):
                    raise Rejected from error
                if status < 500 and not again:
                    raise Dropped from error
                wanted = retry_after(error.response)
                if wanted:
                    # It is there and says when to come back; a message is not given up for that.
                    self._stop.wait(wanted * random.uniform(1.0, 1.2))
                    continue
                # The hub fails over this request and not over others: perhaps it belongs to a run it has lost.
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > self.give_up and request.__class__ is not PullMessagesRequest:
                    raise Dropped from error
            except ValueError as error:  # an answer that is no protobuf: something else sits at this address
                _log.debug("an answer that is none of Flower's: %s", type(error).__name__)
                self._say(UNREACHABLE)
            self._stop.wait(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, 3.0)

    def fetch(self, request: PullObjectRequest) -> bytes:
        """One object, waiting while its upload goes on.  Raises Dropped where it does not come for a long time."""
        pause, deadline = 0.02, time.monotonic() + self.give_up
        while True:
            answer = self(self.client.PullObject, request)
            if not answer.object_found:
                raise Dropped
            if answer.object_available:
                return answer.object_content
            if time.monotonic() > deadline:
                raise Dropped
            if self._stop.wait(pause):
                raise Stopped
            pause = min(2 * pause, 0.25)


def retry_after(answer: httpx.Response) -> float:
    """For how long the hub asks us to wait, in seconds, at most :data:`_PATIENT`; 0 if it does not ask."""
    told = answer.headers.get("retry-after", "")
    return float(min(int(told[:6]), _PATIENT)) if told.isascii() and told.isdigit() else 0.0


def clock_skew(refusal: Rejected) -> ClockSkew | None:
    """What clocks have to do with the refusal, if they explain it: node authentication signs the time.

    The answer was dated while we waited for it, so only what is off at both ends of that is.
    """
    cause = refusal.__cause__
    if not isinstance(cause, httpx.HTTPStatusError) or cause.response.status_code != httpx.codes.UNAUTHORIZED:
        return None
    try:
        theirs = email.utils.parsedate_to_datetime(cause.response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    received = time.time() - theirs
    sent = received - cause.response.elapsed.total_seconds()
    if sent > _SKEW_AHEAD:
        return ClockSkew(f"this machine's clock is {sent:.0f} s ahead")
    return ClockSkew(f"this machine's clock is {-received:.0f} s behind") if received < -_SKEW_BEHIND else None
