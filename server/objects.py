"""The two routes that carry payloads, served without Flower's stack of middleware.

That stack makes six copies of a 5 MiB object, and its requests lie about in reference cycles with their bodies until
the collector comes by.  What Flower does for these two routes is a few lines over its books; here they are, with one
copy on the way in and none on the way out.  The gate has checked the signature and what the node may name before.
"""

from __future__ import annotations

from typing import Final

from flwr.common.constant import Status
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.server.superlink.linkstate import LinkState
from flwr.server.superlink.utils import check_abort
from google.protobuf.message import DecodeError

PULL: Final = "/v1/fleet/pull-object"
PUSH: Final = "/v1/fleet/push-object"
#: States of a run in which nothing is moved.
_NOT_RUNNING: Final = [Status.PENDING, Status.STARTING, Status.FINISHED]
#: Protobuf's mark of field 3, bytes: ``PullObjectResponse.object_content``.
_CONTENT: Final = b"\x1a"

#: Status and body in pieces.
Answer = tuple[int, tuple[bytes, ...]]


def serve_object(links: LinkState, path: str, node_id: int, body: bytes | bytearray) -> Answer | None:
    """One request to push or pull an object, by the node that signed it; None where the body cannot be read."""
    try:
        if path == PUSH:
            return _push(links, node_id, PushObjectRequest.FromString(body))
        return _pull(links, node_id, PullObjectRequest.FromString(body))
    except DecodeError:
        return None


def _push(links: LinkState, node_id: int, request: PushObjectRequest) -> Answer:
    if request.node.node_id != node_id:
        return 401, ()
    if not _running(links, request.run_id):
        return 409, ()
    content = request.object_content  # every look at it is another copy
    request.ClearField("object_content")
    stored = links.store_object(request.run_id, request.session_id, request.object_id, content)
    return 200, (PushObjectResponse(stored=stored).SerializeToString(),)


def _pull(links: LinkState, node_id: int, request: PullObjectRequest) -> Answer:
    if request.node.node_id != node_id:
        return 401, ()
    if not _running(links, request.run_id):
        return 409, ()
    content = links.get_object(request.run_id, request.object_id)
    told = PullObjectResponse(object_found=content is not None, object_available=bool(content)).SerializeToString()
    if not content:
        return 200, (told,)
    return 200, (told + _CONTENT + _varint(len(content)), content)


def _running(links: LinkState, run_id: int) -> bool:
    try:
        return check_abort(run_id, _NOT_RUNNING, links) is None
    except KeyError:
        return False


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
