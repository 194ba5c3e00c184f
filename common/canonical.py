"""One JSON text for one value, so that hashes and signatures mean the same thing everywhere."""

from __future__ import annotations

import json
from typing import Any

from commonroot.common.errors import Malformed

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dumps(value: Any) -> bytes:
    """Canonical JSON: keys sorted, no blanks, UTF-8, no NaN."""
    return _ENCODER.encode(value).encode()


def loads(data: bytes, *, what: str) -> Any:
    """Parse canonical JSON and refuse any other spelling of the same value, so that one value has one hash."""
    try:
        value = json.loads(data)
        exact = dumps(value) == data
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON") from error
    if not exact:
        raise Malformed(f"{what} is not in canonical form")
    return value
