"""What somebody who holds the CA certificate, and no registered key, can do at the public port: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from base64 import b64decode
from collections.abc import Iterator, MutableMapping

import flwr.supernode.node_auth_http_interceptor as flower_signs
import httpx
import pytest
from flower_house import Department, House, ask, until
from flwr.proto import control_pb2, fleet_pb2, runtime_pb2
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.date import now as flower_now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from commonroot.client.node_key import load_node_key
from commonroot.common.parcel import Parcel
from commonroot.flower import VersionStamp
from commonroot.server import listener
from commonroot.server.admission import Admission
from commonroot.server.belongings import Belongings
from commonroot.server.doorbell import Doorbell
from commonroot.server.gate import MAX_REQUEST, OPEN_ROUTES, SIGNED_WITH, Gate
from commonroot.server.limits import Limits


@pytest.fixture
def outsider(house: House) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(house.place.ca))
    with httpx.Client(base_url=f"https://127.0.0.1:{house.hub.public_port}", verify=context, trust_env=False) as client:
        yield client


FLOWERS_ROUTES = sorted(set(PROTOBUF_REQUEST_TYPES) - OPEN_ROUTES)


@pytest.mark.parametrize(("method", "path"), FLOWERS_ROUTES, ids=[path for _, path in FLOWERS_ROUTES])
def test_every_route_of_flowers_that_a_department_does_not_need_is_404(
    outsider: httpx.Client, method: str, path: str
) -> None:
    body = PROTOBUF_REQUEST_TYPES[(method, path)]().SerializeToString()
    answer = outsider.request(method, path, content=body, headers={"content-type": "application/protobuf"})
    assert answer.status_code == 404
    assert answer.content == b""


def test_flower_has_control_runtime_and_registration_routes_to_be_kept_out() -> None:
    """Guards the test above: were Flower to rename its routes, it would be about nothing."""
    kept_out = [path for _, path in FLOWERS_ROUTES]
    for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"):
        assert path in kept_out
    assert "/v1/fleet/register-node" in kept_out
    assert set(PROTOBUF_REQUEST_TYPES) >= OPEN_ROUTES - {("GET", "/health")}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
        "/V1/FLEET/PULL-MESSAGES",
        "/health/../v1/control/list-runs",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_no_spelling_of_a_path_gets_past_the_gate(house: House, method: str, path: str) -> None:
    """Over a bare socket, because a client would tidy the path up first."""
    status, _ = raw(house, f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    assert status == 404


def test_health_is_open(outsider: httpx.Client) -> None:
    answer = outsider.get("/health")
    assert answer.status_code == 200
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_an_outsider_lists_starts_and_stops_nothing(house: House) -> None:
    """With Flower's own clients and the CA certificate."""
    ca, address = house.place.ca.read_bytes(), f"127.0.0.1:{house.hub.public_port}"
    before = len(house.hub.state.get_run_info())
    with ControlHttpClient.from_server_address(address, False, ca, [VersionStamp("flwr-cli")]) as control:
        for call, request in (
            (control.ListRuns, control_pb2.ListRunsRequest()),
            (control.ListNodes, control_pb2.ListNodesRequest()),
            (control.StartRun, control_pb2.StartRunRequest()),
            (control.StopRun, control_pb2.StopRunRequest(run_id=1)),
            (control.RegisterNode, control_pb2.RegisterNodeRequest(public_key=b"x")),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                call(request)  # type: ignore[operator]
    with (
        RuntimeHttpClient.from_server_address(address, False, ca, [VersionStamp("flwr-serverapp")]) as runtime,
        pytest.raises(httpx.HTTPStatusError, match="404"),
    ):
        runtime.AcquireTask(runtime_pb2.AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    assert len(house.hub.state.get_run_info()) == before


def test_an_outsider_with_a_key_of_their_own_does_nothing_on_the_open_routes_either(house: House) -> None:
    """Registered nodes a is online; the stranger signs properly, with a key that nobody registered."""
    house.place.department("intruder")
    key = load_node_key(house.place.node_key("intruder"))
    signed = [VersionStamp("SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())]
    ca, address = house.place.ca.read_bytes(), f"127.0.0.1:{house.hub.public_port}"
    victim = house.hub.node_id(house.place.lines["a"])
    assert victim is not None
    node = Node(node_id=victim)
    with (
        Department(house.place, house.hub.public_port, "a"),
        FleetHttpClient.from_server_address(address, False, ca, signed) as fleet,
    ):
        until(lambda: house.place.lines["a"] in house.links.present())
        for call, request in (
            (
                fleet.ActivateNode,
                fleet_pb2.ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=10),
            ),
            (fleet.PullMessages, fleet_pb2.PullMessagesRequest(node=node)),
            (fleet.PushMessages, fleet_pb2.PushMessagesRequest(node=node)),
            (fleet.PullObject, PullObjectRequest(node=node, object_id="0" * 64)),
            (fleet.PushObject, PushObjectRequest(node=node, object_id="0" * 64)),
            (fleet.SendNodeHeartbeat, SendNodeHeartbeatRequest(node=node, heartbeat_interval=10)),
            (fleet.DeactivateNode, fleet_pb2.DeactivateNodeRequest(node_id=victim)),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refusal:
                call(request)  # type: ignore[operator]
            assert 400 <= refusal.value.response.status_code < 500
        assert isinstance(ask(house.links, house.place.lines["a"], Parcel("open")), Parcel)


def test_a_body_that_is_announced_too_long_is_refused_unread(house: House) -> None:
    request = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (MAX_REQUEST + 1)
    assert raw(house, request)[0] == 413


def test_a_body_that_turns_out_too_long_is_refused_on_the_way(house: House) -> None:
    """Chunked, so no length is announced: 7 MiB in pieces of 1 MiB."""
    piece = b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n" + signed(house, "a")
    head += b"transfer-encoding: chunked\r\n\r\n"
    assert raw(house, head, *[piece] * 7, b"0\r\n\r\n")[0] == 413


def test_the_longest_body_that_is_allowed_reaches_the_hub(house: House) -> None:
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"
    head += signed(house, "a")
    status, answer = raw(house, head + b"content-length: %d\r\n\r\n" % MAX_REQUEST, bytes(MAX_REQUEST))
    assert 400 <= status < 500
    assert b"content-length: 0" not in answer  # the hub's words; the gate answers without any
    assert status not in (404, 413)  # what the hub thinks of six megabytes of zeros, not what the gate does


def test_a_body_cut_short_harms_nobody(house: House, outsider: httpx.Client) -> None:
    raw(
        house,
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n"
        + signed(house, "a")
        + b"content-length: 100\r\n\r\nabc",
        hang_up=True,
    )
    assert outsider.get("/health").status_code == 200


def test_plain_http_is_no_way_in(house: House) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{house.hub.public_port}/health", trust_env=False)


LONG = 64 * 1024 + 1
PUSH = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("length", [b"content-length: 10\r\n\r\n", b"content-length: 6291456\r\n\r\n", CHUNKED])
def test_who_signs_nothing_is_refused_before_sending_a_body(house: House, length: bytes) -> None:
    """Not a byte of the body is sent, so a gate that read first would keep this waiting."""
    assert raw(house, PUSH + length)[0] == 401


@pytest.mark.parametrize("length", [b"content-length: 10\r\n\r\n", b"content-length: %d\r\n\r\n" % LONG, CHUNKED])
@pytest.mark.parametrize("fault", ["unregistered", "another-signature", "old", "junk"])
def test_a_body_is_read_for_registered_nodes_only(house: House, length: bytes, fault: str) -> None:
    if "passer-by" not in house.place.lines:
        house.place.department("passer-by")
    headers = {
        "unregistered": lambda: signed(house, "passer-by"),
        "another-signature": lambda: signed(house, "a", signer="passer-by"),
        "old": lambda: signed(house, "a", ago=400),
        "junk": lambda: b"flwr-public-key: x\r\nflwr-signature: y\r\nflwr-timestamp: z\r\n",
    }[fault]()
    assert raw(house, PUSH + headers + length)[0] == 401


def test_the_headers_that_the_gate_asks_for_are_those_that_nodes_send(house: House) -> None:
    sent = {line.split(b":")[0] for line in signed(house, "a").splitlines()}
    assert sent == SIGNED_WITH


def test_health_takes_no_body(house: House) -> None:
    status, _ = raw(house, b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody")
    assert status == 413


def test_a_body_that_does_not_arrive_in_time_is_given_up(house: House) -> None:
    answers: list[dict[str, object]] = []

    async def trickle() -> dict[str, object]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def hub(scope: object, receive: object, send: object) -> None:
        raise AssertionError("the hub must not see it")

    async def send(event: MutableMapping[str, object]) -> None:
        answers.append(dict(event))

    lines = dict(line.split(b": ") for line in signed(house, "a").splitlines())
    admission = Admission()
    admission.know({b64decode(lines[b"flwr-public-key"]): 5})
    gate = Gate(hub, Doorbell(), admission, Belongings(), limits=Limits(body_seconds=0.1))
    headers = [*lines.items(), (b"host", b"x"), (b"content-length", b"100000")]
    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "headers": headers}
    asyncio.run(asyncio.wait_for(gate(scope, trickle, send), 5))
    assert answers[0]["status"] == 408


def test_headers_without_an_end_are_cut_off(house: House) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: "
    assert raw(house, request, *[b"a" * 1024] * 64)[0] == 400


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: "], ids=["silent", "half-a-head"])
def test_who_connects_and_never_asks_is_hung_up_on(house: House, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(listener, "_DAWDLING", 0.5)
    context = ssl.create_default_context(cafile=str(house.place.ca))
    with (
        socket.create_connection(("127.0.0.1", house.hub.public_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(begun)
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):  # hung up on, too
            assert tls.recv(1) == b""


def signed(house: House, name: str, *, signer: str | None = None, ago: float = 0.0) -> bytes:
    """The header lines with which this department's node signs a request made some seconds ago."""
    request = httpx.Request("POST", "https://x")
    key = load_node_key(house.place.node_key(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flower_signs, "now", lambda: flower_now() - datetime.timedelta(seconds=ago))
        NodeAuthHttpInterceptor(load_node_key(house.place.node_key(signer or name)), key.public_key()).intercept(
            ProtobufRequestContext("", fleet_pb2.PullMessagesRequest(), request), lambda _: httpx.Response(200)
        )
    return b"".join(f"{n}: {v}\r\n".encode() for n, v in request.headers.items() if n.startswith("flwr-"))


def raw(house: House, *pieces: bytes, hang_up: bool = False) -> tuple[int, bytes]:
    """Send bytes over TLS and return status and answer."""
    context = ssl.create_default_context(cafile=str(house.place.ca))
    with (
        socket.create_connection(("127.0.0.1", house.hub.public_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        try:
            for piece in pieces:
                tls.sendall(piece)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # it has answered already and closed
        if hang_up:
            return 0, b""
        answer = b""
        while b"\r\n\r\n" not in answer and (more := tls.recv(65536)):
            answer += more
    return int(answer.split(b" ", 2)[1]), answer
