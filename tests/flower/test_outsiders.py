"""Somebody with network access and the CA certificate attacks a federation at work; then an enrolled department does.

Each attempt is one test.  Attackers come from the address of the departments, and while all of it goes on those finish
a run; the last test says so, and is about nothing unless the others ran before it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from attacked import ROUNDS, STRANGERS, World, at_work, header, wait_until
from federation import small
from flwr.proto import control_pb2, fleet_pb2, runtime_pb2
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.node_pb2 import Node
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

from commonroot.flower import VersionStamp
from commonroot.server.gate import MAX_REQUEST
from commonroot.server.limits import BURST_SECONDS, Limits
from commonroot.simulations.network import MemoryNetwork

LIMITS = Limits()
GET = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
PUSH = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """See ``attacked``.  The run is under way when the first attempt is made."""
    with at_work(tmp_path_factory.mktemp("attacked")) as world:
        wait_until(lambda: world.closed_since(0) > 0)
        world.began = time.time()
        yield world


def every_route(node_id: int, key: bytes) -> dict[str, object]:
    node = Node(node_id=node_id)
    return {
        "activate-node": fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=10),
        "deactivate-node": fleet_pb2.DeactivateNodeRequest(node_id=node_id),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=10),
        "pull-messages": fleet_pb2.PullMessagesRequest(node=node),
        "push-messages": fleet_pb2.PushMessagesRequest(node=node),
        "pull-object": PullObjectRequest(node=node, object_id="0" * 64),
        "push-object": PushObjectRequest(node=node, object_id="0" * 64),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=node, message_object_id="0" * 64),
    }


# == an outsider: the address and the CA certificate ===================================================================


def patiently(call: Callable[[object], object], request: object) -> int:
    """The status of a refusal, coming back when told to."""
    for _ in range(40):
        with pytest.raises(httpx.HTTPStatusError) as refusal:
            call(request)
        status: int = refusal.value.response.status_code
        if status != 429:
            return status
        time.sleep(0.1)
    raise AssertionError("never listened to")


def test_an_outsider_lists_starts_and_stops_no_run_and_registers_no_node(world: World) -> None:
    """With Flower's own client for users."""
    runs, nodes = len(world.hub.state.get_run_info()), world.hub.registered()
    stamp = [VersionStamp("flwr-cli")]
    address, ca = f"127.0.0.1:{world.port}", world.ca.read_bytes()
    with ControlHttpClient.from_server_address(address, False, ca, stamp) as control:
        for call, request in (
            (control.ListRuns, control_pb2.ListRunsRequest()),
            (control.ListNodes, control_pb2.ListNodesRequest()),
            (control.StartRun, control_pb2.StartRunRequest()),
            (control.StopRun, control_pb2.StopRunRequest(run_id=world.hub.state.get_run_info()[0].run_id)),
            (control.RegisterNode, control_pb2.RegisterNodeRequest(public_key=world.public_key("stranger"))),
        ):
            assert patiently(call, request) == 404  # type: ignore[arg-type]
    register = fleet_pb2.RegisterNodeFleetRequest(public_key=world.public_key("stranger"))
    assert world.post("register-node", register) == 404
    assert world.post("register-node", register, world.signature("stranger")) == 404
    assert len(world.hub.state.get_run_info()) == runs
    assert world.hub.registered() == nodes


def test_an_outsider_takes_no_task(world: World) -> None:
    """The task of the coordinator's own run: whoever had it could send messages to every node."""
    address, ca = f"127.0.0.1:{world.port}", world.ca.read_bytes()
    with RuntimeHttpClient.from_server_address(address, False, ca, [VersionStamp("flwr-serverapp")]) as runtime:
        wanted = runtime_pb2.AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
        assert patiently(runtime.AcquireTask, wanted) == 404  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [b"/", b"/docs", b"/redoc", b"/openapi.json", b"/v1", b"/metrics", b"/.well-known/"])
def test_routes_are_not_enumerated(world: World, path: bytes) -> None:
    answer = world.say(GET % path)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b"\r\n\r\n"), "not a word"


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE", b"HEAD", b"PUT", b"DELETE", b"CONNECT", b"PATCH", b"GET"])
def test_no_other_method_says_more(world: World, method: bytes) -> None:
    assert world.status(method + b" /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n") == 404
    assert world.status(method + b" * HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n") == 404


@pytest.mark.parametrize("who", ["nobody", "a stranger", "ash's key, a stranger's signature"])
def test_nobody_impersonates_a_node_without_its_key(world: World, who: str) -> None:
    """On every route that nodes have, with ash's number: without a key, with an own one, with a forged signature."""
    for route, request in every_route(world.node_id("ash"), world.public_key("ash")).items():
        signature = {
            "nobody": lambda: b"",
            "a stranger": lambda: world.signature("stranger"),
            "ash's key, a stranger's signature": lambda: world.signature("ash", signer="stranger"),
        }[who]()
        assert world.post(route, request, signature) == 401  # type: ignore[arg-type]


def test_a_signature_that_was_seen_is_worth_nothing(world: World) -> None:
    """Once it is good: otherwise this would be about nothing."""
    caught = world.signature("ash")
    beat = SendNodeHeartbeatRequest(node=Node(node_id=world.node_id("ash")), heartbeat_interval=10)
    assert world.post("send-node-heartbeat", beat, caught) == 200
    assert world.post("send-node-heartbeat", beat, caught) == 401
    assert world.post("deactivate-node", fleet_pb2.DeactivateNodeRequest(node_id=world.node_id("ash")), caught) == 401


@pytest.mark.parametrize("ago", [400, 86400, -60])
def test_nor_is_one_of_another_time(world: World, ago: float) -> None:
    beat = SendNodeHeartbeatRequest(node=Node(node_id=world.node_id("ash")), heartbeat_interval=10)
    assert world.post("send-node-heartbeat", beat, world.signature("ash", ago=ago)) == 401


SPELLINGS = [
    b"/v1/fleet/../control/list-runs", b"/v1/fleet/..//control/list-runs", b"/v1/fleet/%2e%2e/control/list-runs",
    b"/health/../v1/control/list-runs", b"//v1/control/list-runs", b"/V1/CONTROL/LIST-RUNS", b"/v1/control/list-runs/",
    b"/v1/control/list-runs%00", b"/v1/fleet/pull-messages/../../control/list-runs", b"/v1%2fcontrol%2flist-runs",
    b"/./v1/control/list-runs", b"/v1/control/list-runs?x=/v1/fleet/pull-messages", b"\\v1\\control\\list-runs",
    b"https://127.0.0.1/v1/control/list-runs", b"http://localhost:1/v1/control/list-runs", b"/%76%31/control/list-runs",
    b"/v1/fleet/%70ull-messages", b"/health?", b"/health;x", b"/health%2f", b"/v1/fleet/pull-messages?a=b",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS, ids=lambda path: path.decode())
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_no_spelling_of_a_path_gets_past_the_gate(world: World, method: bytes, path: bytes) -> None:
    """Signed by a registered node, so that it is the path that is refused."""
    signature = world.signature("dogwood")
    asked = method + b" " + path + b" HTTP/1.1\r\nhost: x\r\n" + signature + b"content-length: 0\r\n\r\n"
    answer = world.say(asked)
    if path == b"/health?" and method == b"GET":
        assert answer.startswith(b"HTTP/1.1 200")  # an empty query is none
    else:
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))


SMUGGLED = b"GET /v1/control/list-runs HTTP/1.1\r\nhost: x\r\n\r\n"
SMUGGLING = {
    "chunked and a length": b"transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\nG",
    "a length and chunked": b"content-length: 60\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 0\r\ncontent-length: 50\r\n\r\n",
    "a list of lengths": b"content-length: 0, 50\r\n\r\n",
    "a signed length": b"content-length: +50\r\n\r\n",
    "a hexadecimal length": b"content-length: 0x32\r\n\r\n",
    "a negative length": b"content-length: -1\r\n\r\n",
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "almost chunked": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a chunk longer than numbers go": b"transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    "a space before the colon": b"content-length : 50\r\n\r\n",
    "a bare line feed": b"content-length: 50\n\n",
    "two hosts": b"host: y\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("head", SMUGGLING.values(), ids=SMUGGLING)
def test_no_request_is_smuggled_inside_another(world: World, head: bytes) -> None:
    """Whatever the first is taken for, what hides behind it is never answered as a request of its own would be."""
    answer = world.say(b"GET /health HTTP/1.1\r\nhost: x\r\n" + head + SMUGGLED)
    assert b"HTTP/1.1 200" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    "head",
    [b"content-length: 0\r\ncontent-length: 0\r\n\r\n", b"x: y\r\n content-length: 50\r\n\r\n", b"\r\n"],
    ids=["the same length twice", "a folded header", "nothing special"],
)
def test_a_request_behind_another_is_judged_like_any(world: World, head: bytes) -> None:
    """These are odd and mean one thing only: no body.  What follows is a second request, and is refused as one."""
    answer = world.say(b"GET /health HTTP/1.1\r\nhost: x\r\n" + head + SMUGGLED)
    assert [part.split(b" ")[0] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


@pytest.mark.parametrize(
    "host",
    [b"x/v1/runtime/pull-object?", b"x/v1/control/start-run#", b"x@y", b"x y", b"", b"x:99999999", b"x\\v1"],
    ids=lambda host: host.decode() or "empty",
)
def test_no_host_makes_two_readers_see_two_paths(world: World, host: bytes) -> None:
    """Flower's middleware authenticates by the path of a URL that is put together from the Host header."""
    body = PullObjectRequest(node=Node(node_id=world.node_id("ash")), object_id="0" * 64).SerializeToString()
    head = b"POST /v1/fleet/pull-object HTTP/1.1\r\nhost: " + host + b"\r\ncontent-type: application/protobuf\r\n"
    assert world.status(head + b"content-length: %d\r\n\r\n" % len(body) + body) == 400


@pytest.mark.parametrize(
    "words",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /v1/control/list-runs HTTP/0.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\x00" * 64,
    ],
    ids=["http-2", "http-0.9", "old", "no-host", "tls-in-tls", "zeros"],
)
def test_other_protocols_are_no_way_in(world: World, words: bytes) -> None:
    assert world.status(words) in (0, 400, 404)


def test_a_websocket_is_no_way_in(world: World) -> None:
    upgrade = (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AA==\r\n\r\n"
    )
    assert world.status(b"GET /v1/control/stream-logs HTTP/1.1\r\nhost: x\r\n" + upgrade) == 404


def test_plain_http_gets_no_answer(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.port), timeout=10) as plain:
        plain.sendall(GET % b"/health")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = plain.recv(4096)
    assert b"HTTP" not in answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1])
def test_old_tls_is_refused_and_with_it_renegotiation(world: World, version: ssl.TLSVersion) -> None:
    """TLS 1.3 has no renegotiation to attack."""
    context = world.tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning) if version < ssl.TLSVersion.TLSv1_2 else contextlib.nullcontext():
        context.minimum_version = version
        context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionResetError)), world.connected(context):
        pass
    with world.connected() as tls:
        assert tls.version() == "TLSv1.3"


def test_headers_without_an_end_are_cut_off(world: World) -> None:
    assert world.status(b"GET /health HTTP/1.1\r\nhost: x\r\nx: ", *[b"a" * 4096] * 32) in (0, 400)
    # more than is ever read at once: what is there whole in one read is not an unfinished request
    assert world.status(b"GET /health HTTP/1.1\r\nhost: x\r\n", *[b"x: y\r\n" * 700] * 80, b"\r\n") in (0, 400, 431)
    assert world.status(b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n") in (0, 400, 431)


@pytest.mark.parametrize("length", [b"content-length: 9999999999999999999999", b"content-length: 5000000", b"chunked"])
def test_a_huge_body_is_not_read(world: World, length: bytes) -> None:
    """The answer comes although no byte of the body was sent."""
    if length == b"chunked":
        length = b"transfer-encoding: chunked"
    assert world.status(PUSH + length + b"\r\n\r\n") in (400, 401, 413)
    assert world.status(PUSH + world.signature("stranger") + length + b"\r\n\r\n") in (400, 401, 413)
    assert world.status(PUSH + world.signature("ash", signer="stranger") + length + b"\r\n\r\n") in (400, 401, 413)


def test_slow_requests_take_no_place_from_departments(world: World) -> None:
    """More half-asked requests than strangers have places: the oldest have to go, and somebody new gets through."""
    with contextlib.ExitStack() as held:
        slow = []
        for _ in range(STRANGERS + 8):
            with contextlib.suppress(OSError):
                tls = held.enter_context(world.connected())
                tls.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx: ")
                slow.append(tls)
            time.sleep(0.02)
        open_now = world.hub.at_the_gate()["open"]
        assert open_now["strangers"] <= STRANGERS
        assert world.refused("strangers-sent-away") >= 8
        assert world.status(GET % b"/health") == 200
        world.goes_on()


def test_connections_without_a_handshake_take_none_either(world: World) -> None:
    """As fast as they come; above the rate they are hung up on before a handshake."""
    with contextlib.ExitStack() as held:
        for _ in range(400):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_connection(("127.0.0.1", world.port), timeout=5))
        wait_until(lambda: world.refused("connections-too-fast") > 0)
        open_now = world.hub.at_the_gate()["open"]
        assert open_now["strangers"] <= STRANGERS
        world.goes_on()
        wait_until(lambda: answered(world))


def answered(world: World) -> bool:
    with contextlib.suppress(OSError):
        return world.status(GET % b"/health") == 200
    return False


def test_a_stranger_who_asks_too_often_is_told_when_to_come_back(world: World) -> None:
    """From another address, so that other tests are not slowed down; its budget is its own."""
    answers = []
    with world.connected(source="127.0.0.9") as tls:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (answers and answers[-1].startswith(b"HTTP/1.1 429")):
            tls.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            answers.append(tls.recv(4096))
    assert len(answers) > LIMITS.requests_of_strangers * BURST_SECONDS
    assert answers[0].startswith(b"HTTP/1.1 200")
    assert int(header(answers[-1], b"retry-after")) >= 1
    assert world.status(GET % b"/health") == 200  # from the departments' address


# == an enrolled department, turned hostile ============================================================================


def test_a_department_reads_no_others_objects(world: World) -> None:
    """It is even told their names, which it cannot guess."""
    with world.as_node("dogwood") as fleet:
        me = Node(node_id=world.node_id("dogwood"))
        run = world.hub.state.get_run_info()[-1].run_id
        name = world.pending("ash")
        assert patiently(fleet.PullObject, PullObjectRequest(node=me, run_id=run, object_id=name)) == 403
        assert patiently(fleet.PullObject, PullObjectRequest(node=me, run_id=run, object_id="ab" * 32)) == 403
        ash = Node(node_id=world.node_id("ash"))
        assert patiently(fleet.PullObject, PullObjectRequest(node=ash, run_id=run, object_id=name)) in (401, 403)
        assert patiently(fleet.PullMessages, fleet_pb2.PullMessagesRequest(node=ash)) == 401


def test_a_department_puts_no_others_messages_away(world: World) -> None:
    with world.as_node("dogwood") as fleet:
        me = Node(node_id=world.node_id("dogwood"))
        name = world.pending("ash")
        gone = ConfirmMessageReceivedRequest(
            node=me, run_id=world.hub.state.get_run_info()[-1].run_id, message_object_id=name
        )
        assert patiently(fleet.ConfirmMessageReceived, gone) == 403


@pytest.mark.parametrize("sender", ["ash", "dogwood"])
def test_a_department_does_not_answer_for_another(world: World, sender: str) -> None:
    """A reply to ash's message, under ash's number or its own."""
    root = "cd" * 32
    with world.as_node("dogwood") as fleet:
        reply = MetadataProto(
            run_id=world.hub.state.get_run_info()[-1].run_id,
            message_id=root,
            src_node_id=world.node_id(sender),
            dst_node_id=1,
            reply_to_message_id=world.pending("ash"),
            created_at=time.time(),
            ttl=60.0,
            message_type="query",
        )
        pushed = fleet_pb2.PushMessagesRequest(
            node=Node(node_id=world.node_id("dogwood")),
            messages_list=[MessageProto(metadata=reply)],
            message_object_trees=[ObjectTree(object_id=root)],
        )
        assert patiently(fleet.PushMessages, pushed) == 403
    assert root not in world.hub.state.object_store


def test_a_department_announces_no_message_to_another(world: World) -> None:
    root = "ef" * 32
    with world.as_node("dogwood") as fleet:
        message = MetadataProto(
            run_id=world.hub.state.get_run_info()[-1].run_id,
            message_id=root,
            src_node_id=world.node_id("dogwood"),
            dst_node_id=world.node_id("birch"),
            created_at=time.time(),
            ttl=60.0,
            message_type="query",
        )
        pushed = fleet_pb2.PushMessagesRequest(
            node=Node(node_id=world.node_id("dogwood")),
            messages_list=[MessageProto(metadata=message)],
            message_object_trees=[ObjectTree(object_id=root)],
        )
        assert patiently(fleet.PushMessages, pushed) == 403
    assert root not in world.hub.state.object_store


def test_a_department_signs_no_other_on_or_off(world: World) -> None:
    with world.as_node("dogwood") as fleet:
        ash = world.node_id("ash")
        assert patiently(fleet.DeactivateNode, fleet_pb2.DeactivateNodeRequest(node_id=ash)) == 401
        beat = SendNodeHeartbeatRequest(node=Node(node_id=ash), heartbeat_interval=10)
        assert patiently(fleet.SendNodeHeartbeat, beat) == 401
        on = fleet_pb2.ActivateNodeRequest(public_key=world.public_key("ash"), heartbeat_interval=10)
        assert patiently(fleet.ActivateNode, on) == 401


def test_a_department_that_floods_slows_down_itself_alone(world: World) -> None:
    """It asks for others' objects as fast as it can, from several threads; others' rounds go on meanwhile."""
    statuses: list[int] = []
    waits: list[int] = []

    def flood() -> None:
        with world.as_node("dogwood") as fleet:
            wanted = PullObjectRequest(node=Node(node_id=world.node_id("dogwood")), object_id="ab" * 32)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not waits:
                try:
                    fleet.PullObject(wanted)
                except httpx.HTTPStatusError as refusal:
                    statuses.append(refusal.response.status_code)
                    if statuses[-1] == 429:
                        waits.append(int(refusal.response.headers["retry-after"]))
                except httpx.TransportError:
                    continue  # connecting too often is refused, too

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(statuses) == {403, 429}
    assert min(waits) >= 1
    assert world.refused("node-too-fast", "dogwood") + world.refused("node-too-many-at-once", "dogwood") > 0
    assert world.refused("node-too-fast", "ash") == 0
    assert "dogwood" in world.hub.at_the_gate()["departments"]
    world.goes_on()


def test_a_department_keeps_only_a_few_requests_waiting(world: World) -> None:
    """Bodies that are announced and do not come: each may hold memory, so there are few at once."""
    with contextlib.ExitStack() as held:
        refused = []
        for _ in range(LIMITS.at_once_per_node + 4):
            tls = held.enter_context(world.connected())
            tls.sendall(PUSH + world.signature("dogwood") + b"content-length: %d\r\n\r\n" % MAX_REQUEST)
            tls.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                refused.append(tls.recv(4096))
        assert len([answer for answer in refused if answer.startswith(b"HTTP/1.1 429")]) >= 4


# == and the federation ================================================================================================


def test_all_the_while_a_run_went_on_and_ends_as_if_nobody_had_been_there(world: World, tmp_path: object) -> None:
    """Version by version as the same federation in memory, and no department was ever turned away."""
    closed_meanwhile = world.closed_since(world.began)
    world.hurry.set()

    def over() -> bool:
        with small.journal_of(world.federation) as journal:
            return journal.runs()[0].state in ("finished", "stopped")

    wait_until(over, 200)
    with small.journal_of(world.federation) as journal:
        assert (journal.runs()[0].state, journal.runs()[0].reason) == ("finished", "")
        assert all(len(r.report["survivors"]) == 4 for r in journal.rounds() if r.state == "closed")
    assert closed_meanwhile >= 3
    assert all("refused" not in states for states in world.states.values())
    quiet = small.running(tmp_path, departments=4, rounds=ROUNDS, network=MemoryNetwork())  # type: ignore[arg-type]
    with quiet:
        quiet.run()
        assert small.versions(world.federation) == small.versions(quiet.federation)
