"""Who signs a request: Flower's own check of a node's signed headers, before there is a body to check them against.

A signature is good for one request.  Flower takes the same signed time again and again for five minutes, which would
let whoever gets hold of one speak as that node; here a time that was used once is used up.
"""

from __future__ import annotations

import threading
import time
from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now as flower_now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

#: How long a signed time is good for, in seconds, from the earliest clock to the latest.
_GOOD_FOR: Final = TIMESTAMP_TOLERANCE + 2 * SYSTEM_TIME_TOLERANCE
#: Signed times remembered of one node; a node that makes more in five minutes is over its rate anyway.
_REMEMBERED: Final = 65536


class Admission:
    """The registered keys, and which of their signatures were used.  For any thread."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._used: dict[bytes, _Used] = {}

    def know(self, nodes: Mapping[bytes, int]) -> None:
        """From now on exactly these keys (PEM) are registered, with Flower's numbers."""
        with self._lock:
            self._nodes = dict(nodes)
            self._used = {key: used for key, used in self._used.items() if key in self._nodes}

    def claims(self, headers: Mapping[str, str]) -> int | None:
        """Number of the node whose key the headers name, if it is registered.  No proof, but no work either."""
        try:
            return self._nodes.get(b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True))
        except (KeyError, ValueError):
            return None

    def __call__(self, headers: Mapping[str, str]) -> int | None:
        """Number of the node that signed these headers just now, for the first time; None for anybody else."""
        try:
            public_key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            signed_at = headers[TIMESTAMP_HEADER]
            age = (flower_now() - datetime.fromisoformat(signed_at)).total_seconds()
            node_id = self._nodes.get(public_key)
            if (
                node_id is None
                or not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
                or not verify_signature(bytes_to_public_key(public_key), signed_at.encode("ascii"), signature)
            ):
                return None
        except Exception:  # whatever a stranger's headers make of a decoder: they are not a node's
            return None
        with self._lock:
            used = self._used.setdefault(public_key, _Used())
            return node_id if used.add(signed_at, time.monotonic()) else None


class _Used:
    """Signed times of one node, each until it is too old to be shown again."""

    def __init__(self) -> None:
        self._times: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def add(self, signed_at: str, now: float) -> bool:
        """Whether it is the first time."""
        while self._order and (now - self._order[0][0] > _GOOD_FOR or len(self._order) >= _REMEMBERED):
            self._times.discard(self._order.popleft()[1])
        if signed_at in self._times:
            return False
        self._times.add(signed_at)
        self._order.append((now, signed_at))
        return True
