"""What a simulation and its processes of sessions tell each other: a line of JSON, then the bytes that belong to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

Buffer = bytes | bytearray | memoryview


def write(file: IO[bytes], facts: dict[str, Any], blobs: Sequence[Buffer] = ()) -> None:
    """One frame, on its way when this returns."""
    sizes = [memoryview(blob).nbytes for blob in blobs]
    file.write(json.dumps(facts | {"sizes": sizes}).encode() + b"\n")
    for blob in blobs:
        file.write(blob)
    file.flush()


def read(file: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame; None where the other end is gone, be it in the middle of one."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    facts: dict[str, Any] = json.loads(line)
    blobs = [file.read(size) for size in facts["sizes"]]
    return (facts, blobs) if [len(blob) for blob in blobs] == facts["sizes"] else None
