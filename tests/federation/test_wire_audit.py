"""Everything that departments send, searched for everything that is theirs alone.

Two runs are audited from beginning to end, closing included: one over links in memory, where every parcel is also taken
apart field by field, and one over real TLS sockets, where the plaintext of every request is captured as it arrives at
the coordinator's public gate.  The last tests show that the audit finds what it looks for.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import small
from federation.audit import Needles, Witness
from flwr.proto.fleet_pb2 import PushMessagesRequest
from safetensors.numpy import load_file

from commonroot.client.daemon import serve as serve_department
from commonroot.client.data import prepare
from commonroot.client.evidence_file import account, export_ledger
from commonroot.client.node_key import load_node_key
from commonroot.client.session import Session
from commonroot.common import parcel
from commonroot.common.enrolment import ROUTE
from commonroot.common.greetings import Greeting, Introduced
from commonroot.common.messages import Masked, Refusal, RoundOpen, Shares, box_bytes
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum import coordinator, department, masks
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.flower import SHORT_PARCEL
from commonroot.server import superlink
from commonroot.server.audit_file import export_audit
from commonroot.server.coordinator import serve as serve_coordinator
from commonroot.server.gate import OPEN_ROUTES
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, write_table
from commonroot.simulations.network import Crossing, MemoryNetwork
from commonroot.simulations.processes import free_port

#: Sorts of secrets that a whole run must have given the audit to look for.
SORTS = {
    "rows",
    "targets",
    "report",
    "predictor",
    "head and optimizer",
    "trained backbone",
    "contribution",
    "unmasked lanes",
    "pairwise secrets",
    "key chains",
    "key material",
}


def founded(root: Path, witness: Witness, *, port: int, widths: tuple[int, ...]) -> Federation:
    """Three departments of 60, 83 and 41 rows with two rounds before them, their keys made under the witness's eyes."""
    names = small.NAMES[:3]
    sections = {name: small.data_section(name) for name in names}
    federation = found(
        root,
        federation="grove",
        charter_toml=small.CHARTER.format(rounds=2, attempts=3, widths=list(widths)),
        departments=sections,
        port=port,
        random=witness.random(os.urandom),
    )
    for at, name in enumerate(names):
        x, y = small.table(at, small.ROWS[name], sections[name].task)
        write_table(federation.departments[name].root / "rows.npz", x, y)
    return federation


def private_data(federation: Federation, needles: Needles) -> None:
    """Rows and targets as stored and as standardised, reports, chosen models: what the departments hold at the end."""
    for folder in federation.departments.values():
        for name in ("identity", "training"):
            needles.add("key material", bytes.fromhex((folder.root / "keys" / f"{name}.key").read_text().strip()))
        # the file holds the public half too, which every request names
        secret = load_node_key(folder.node_key).private_numbers().private_value.to_bytes(48, "big")
        needles.add("key material", secret)
        needles.add("key material", base64.b64encode(secret))
        with np.load(folder.root / "rows.npz") as stored:
            needles.numbers("rows", stored["X"])
            if stored["y"].dtype.kind == "f":
                needles.numbers("targets", stored["y"])
            for label in np.unique(stored["y"]).tolist():
                needles.text("targets", str(label))
        prepared = prepare(folder.data, folder=folder.root)
        for rows in (prepared.train, prepared.validation, prepared.test):
            needles.numbers("rows", rows.x)
        report = (folder.root / "report.json").read_text()
        for value in _leaves(json.loads(report)):
            if isinstance(value, float):
                needles.numbers("report", [value])
            elif isinstance(value, str):
                needles.text("report", value)
        for key in _keys(json.loads(report)):
            needles.text("report", f'"{key}":')
        for path in (folder.root / "predictors").rglob("*.safetensors"):
            for tensor in load_file(path).values():
                needles.numbers("predictor", tensor)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "charter":  # its hash is public
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _keys(inner)


@pytest.fixture(scope="module")
def audited(module_path: Path) -> Iterator[tuple[Federation, list[Crossing], Needles, list[bytes]]]:
    """A whole run over links in memory, with the real trainer and heads: what was sent, and what must not be in it."""
    witness, network, broadcasts = Witness(), MemoryNetwork(), []
    network.keep_sent = True
    with pytest.MonkeyPatch.context() as patch:
        witness.watch(patch)
        federation = founded(module_path / "memory", witness, port=9443, widths=(8, 4))
        at_work = SimulatedFederation(federation, network, random=witness.random(os.urandom))
        with closing(at_work):
            at_work.start_all()
            at_work.queue()
            at_work.run()
    with small.journal_of(federation) as journal:
        assert journal.runs()[0].state == "finished"
        broadcasts = [r.opening for r in journal.rounds()]
    private_data(federation, witness.needles)
    yield federation, network.sent_by_departments, witness.needles, broadcasts


def test_nothing_private_is_in_what_departments_send(audited):
    _, sent, needles, _ = audited
    assert set(needles.counts()) == SORTS
    assert all(number > 20 for number in needles.counts().values()), needles.counts()
    assert needles.found_in([one.parcel.head for one in sent] + [one.parcel.body for one in sent]) == {}


def test_a_department_sends_nothing_but_the_seven_kinds_and_all_of_a_whole_run(audited):
    """3 departments, 2 rounds: ready, greeting, introduced and closed once each, upload and answer in every round."""
    _, sent, _, _ = audited
    kinds = [one.parcel.kind for one in sent]
    assert set(kinds) <= parcel.TO_COORDINATOR
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "ready": 3,
        "greeting": 3,
        "introduced": 3,
        "masked": 6,
        "shares": 6,
        "closed": 3,
    }


def test_every_byte_of_every_parcel_is_accounted_for(audited):
    """A parcel is what the protocol says, and nothing is left over in which a count could travel.

    Upload   version, transcript, sender, hash, count; n boxes of salt and ciphertext, n hashes, signature; and a body
             of exactly 2 bytes a 16-bit lane and 8 a 64-bit lane
    Greeting version, roster, epoch, sender, countersignature, count; a number and a hash for each department with a
             higher number; signature; and a body of exactly one ciphertext for each
    Introduced  version, roster, epoch, sender, count; the numbers of all three; signature
    Answer   version, transcript, member, hash, count; one 32-byte share for each secret that is wanted; signature
    """
    federation, sent, _, openings = audited
    charter = federation.charter.charter
    codec = SumCodec(charter.manifest, 3)
    transcripts = {RoundOpen.decode(opening).transcript for opening in openings}
    for one in sent:
        head, body = one.parcel.head, bytes(one.parcel.body)
        if one.parcel.kind in (parcel.READY, parcel.CLOSED):
            assert (head, body) == (b"", b"")
        elif one.parcel.kind == parcel.MASKED:
            told = Masked.decode(head)
            assert told.encode() == head
            assert told.transcript in transcripts
            assert len(head) == 1 + 32 + 2 + 32 + 2 + 3 * box_bytes(3) + 3 * 32 + 64
            assert len(body) == codec.layout.nbytes
        elif one.parcel.kind == parcel.GREETING:
            greeting = Greeting.decode(head)
            assert greeting.encode() == head
            above = 2 - greeting.sender
            assert len(head) == 1 + 32 + 4 + 2 + 64 + 2 + above * (2 + 32) + 64
            assert len(body) == above * 1088
        elif one.parcel.kind == parcel.INTRODUCED:
            met = Introduced.decode(head)
            assert (met.encode(), met.met, body) == (head, (0, 1, 2), b"")
            assert len(head) == 1 + 32 + 4 + 2 + 2 + 3 * 2 + 64
        elif one.parcel.kind == parcel.SHARES:
            answer = Shares.decode(head)
            assert answer.encode() == head
            assert (answer.transcript in transcripts, body) == (True, b"")
            assert len(head) == 1 + 32 + 2 + 32 + 2 + 3 * 32 + 64


def test_a_refusal_is_a_code_and_nothing_else(audited):
    federation, _, _, _ = audited
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start("ash")
        reply = at_work.sessions["ash"].handle(Parcel(parcel.CHARTER, b"no charter at all"))
    assert reply.kind == parcel.REFUSAL
    assert (len(reply.head), len(reply.body)) == (9, 0)
    assert Refusal.decode(reply.head).round == 0


def test_sizes_do_not_depend_on_the_data(audited):
    """60, 83 and 41 rows, two tasks: every parcel of a kind has one size; greetings differ by place in the roster."""
    _, sent, _, _ = audited
    sizes = defaultdict(set)
    for one in sent:
        sizes[one.parcel.kind].add((len(one.parcel.head), len(one.parcel.body)))
    different = {kind: len(seen) for kind, seen in sizes.items()}
    assert different.pop("greeting") == 3
    assert different == {"ready": 1, "introduced": 1, "masked": 1, "shares": 1, "closed": 1}


def test_what_is_sent_looks_like_noise_whatever_was_trained(audited):
    """Bytes of all masked bodies: χ² over 256 values, 255 degrees of freedom; 420 has a probability of 10^-9."""
    _, sent, _, _ = audited
    seen = np.frombuffer(b"".join(bytes(one.parcel.body) for one in sent), dtype=np.uint8)
    expected = seen.size / 256
    assert expected >= 5
    assert float(((np.bincount(seen, minlength=256) - expected) ** 2 / expected).sum()) < 420


# -- over sockets ------------------------------------------------------------------------------------------------------


class _Tap:
    """The gate, with a copy of everything that comes in: paths, headers, bodies, in the clear, after TLS."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, bytes]] = []
        self._lock = threading.Lock()

    def gate(self) -> type:
        tap = self

        class Gate(superlink.Gate):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                body = bytearray()

                async def listening() -> Any:
                    event = await receive()
                    body.extend(event.get("body", b""))
                    return event

                await super().__call__(scope, listening, send)
                if scope["type"] == "http":
                    headers = b"".join(name + b"\0" + value + b"\0" for name, value in scope["headers"])
                    with tap._lock:
                        tap.requests.append((scope["path"], headers + scope.get("query_string", b""), bytes(body)))

        return Gate


@pytest.fixture(scope="module")
def tapped(module_path: Path) -> Iterator[tuple[Federation, _Tap, Needles, list[Parcel]]]:
    """Coordinator and departments as they are deployed, in threads of this process, over TLS on loopback."""
    witness, tap, replies = Witness(), _Tap(), []
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        witness.watch(patch)
        patch.setattr(superlink, "Gate", tap.gate())
        honest = Session.handle

        def handle(self: Session, request: Parcel) -> Parcel:
            reply = honest(self, request)
            replies.append(reply)
            return reply

        patch.setattr(Session, "handle", handle)
        federation = founded(module_path / "sockets", witness, port=free_port(), widths=(256, 160))
        with small.journal_of(federation) as journal:
            journal.queue(federation.charter)
        stop, failed = threading.Event(), []
        threads = [
            threading.Thread(target=_in_thread, args=(folder.root, stop, failed))
            for folder in federation.departments.values()
        ]
        for thread in threads:
            thread.start()
        try:
            serve_coordinator(federation.coordinator.root, until_idle=True, as_json=True)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
            for number, handler in kept.items():
                signal.signal(number, handler)
        assert failed == []
    with small.journal_of(federation) as journal:
        assert journal.runs()[0].state == "finished", journal.runs()[0].reason
        assert journal.closed_departments(1) == set(federation.departments)
    private_data(federation, witness.needles)
    yield federation, tap, witness.needles, replies


def _values(body: bytes) -> bytes:
    """What a JSON document holds besides the names of its fields."""
    return "\0".join(map(str, _leaves(json.loads(body)))).encode()


def _in_thread(root: Path, stop: threading.Event, failed: list[BaseException]) -> None:
    try:
        serve_department(root, as_json=True, stop=stop)
    except BaseException as error:
        failed.append(error)


@pytest.mark.slow
def test_nothing_private_is_in_any_request_that_reaches_the_gate(tapped):
    _, tap, needles, _ = tapped
    assert set(needles.counts()) == SORTS
    # The signed time of a request may read 0.012345 by chance, like a weight written out; it is taken out first.
    timeless = [(path, re.sub(rb"\d\d:\d\d:\d\d\.\d+", b"", headers), body) for path, headers, body in tap.requests]
    # Questions about membership are JSON, whose names of fields are words that a report uses as well.
    said = [_values(body) if path == ROUTE else body for path, _, body in timeless]
    everything = [part for path, headers, _ in timeless for part in (path.encode(), headers)] + said
    assert sum(map(len, everything)) > 6 * SHORT_PARCEL, "six uploads were to be among it"
    assert needles.found_in(everything) == {}


@pytest.mark.slow
def test_what_was_captured_is_what_the_sessions_said(tapped):
    """The tap is not deaf: all that the sessions replied came through it, in the message or as an object of its own."""
    _, tap, _, replies = tapped
    came_in = b"\0".join(body for _, _, body in tap.requests)
    pieces = [piece for reply in replies for piece in (reply.head, bytes(reply.body)) if piece]
    # 3 departments, 2 rounds: head and body of an upload, head of an answer.  Before that, 3 heads of greetings, of
    # which the last has no body, and at least 3 of introductions, more where departments came one after the other.
    assert len(pieces) >= 3 * 2 * (2 + 1) + 3 + 2 + 3
    assert all(piece in came_in for piece in pieces)
    assert any(path.endswith("/push-object") for path, _, _ in tap.requests)


@pytest.mark.slow
def test_around_the_parcels_travels_only_what_the_link_needs(tapped):
    """Every announcement holds one note of five known fields, no metrics, no arrays, no times of computation."""
    _, tap, _, _ = tapped
    announced = [
        PushMessagesRequest.FromString(body) for path, _, body in tap.requests if path.endswith("push-messages")
    ]
    assert len(announced) >= 3 * (1 + 2 * 2 + 1)
    for request in announced:
        assert list(request.clientapp_runtime_list) == [0.0]
        (message,) = request.messages_list
        assert not message.HasField("error")
        for item in message.content.items:
            assert item.key == "parcel"
            assert {entry.key for entry in item.config_record.items} == {"kind", "head", "size", "mark", "body"}
    assert {path for path, _, _ in tap.requests} <= {path for _, path in OPEN_ROUTES} | {ROUTE}


# -- the audit can fail ------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[small.ToyFederation, Witness]]:
    """A federation with toy learners, a witness, and everything that is sent kept."""
    witness, network = Witness(), MemoryNetwork()
    network.keep_sent = True
    witness.watch(monkeypatch, small.ToyLearner)
    with small.ToyFederation(small.founded(tmp_path), network, random=witness.random(os.urandom)) as at_work:
        yield at_work, witness


def sorts_found(at_work: small.ToyFederation, witness: Witness) -> set[str]:
    at_work.start_all()
    at_work.queue()
    at_work.run()
    sent = at_work.network.sent_by_departments
    return set(witness.needles.found_in([s.parcel.head for s in sent] + [s.parcel.body for s in sent]))


def test_an_honest_run_passes_the_audit(watched):
    assert sorts_found(*watched) == set()


def test_without_masks_the_audit_finds_the_lanes(watched, monkeypatch):
    def no_masks(bulk: Any, exact: Any, _streams: Any, *, threads: int) -> None:
        bulk[:], exact[:] = 0, 0

    monkeypatch.setattr(department, "fill_streams", no_masks)
    monkeypatch.setattr(coordinator, "add_streams", lambda *_, threads: None)
    assert sorts_found(*watched) == {"unmasked lanes"}


def test_with_masks_on_the_bulk_alone_the_audit_finds_the_others(watched, monkeypatch):
    def on_the_bulk(bulk: Any, exact: Any, streams: Any, fresh: bool, threads: int) -> None:
        honest(bulk, exact[:0], streams, fresh, threads)
        if fresh:
            exact[:] = 0

    honest = masks._run
    monkeypatch.setattr(masks, "_run", on_the_bulk)
    assert sorts_found(*watched) == {"unmasked lanes"}


@pytest.mark.parametrize(("order", "width"), [("<", 4), (">", 4), ("<", 8), (">", 8)])
def test_two_numbers_of_a_head_in_a_corner_of_an_upload_are_found(order, width, watched):
    at_work, witness = watched

    def smuggling(name: str, handle: Any) -> Any:
        def handled(request: Parcel) -> Parcel:
            reply = handle(request)
            if name != "birch" or reply.kind != parcel.MASKED:
                return reply
            store = at_work._stores[name]
            head = store.head_before(at_work.federation.charter.charter.digest.hex(), 1)["head/weight"]
            stolen = head[1:3].astype(f"{order}f{width}").tobytes()
            return Parcel(reply.kind, reply.head, bytes(reply.body)[:-16] + stolen[:16].rjust(16, b"\x55"))

        return handled

    at_work.front = smuggling
    assert "head and optimizer" in sorts_found(at_work, witness)


@pytest.mark.parametrize("secret", ["identity.key", "training.key"])
def test_a_quarter_of_a_key_is_found(secret, tmp_path):
    witness = Witness()
    federation = founded(tmp_path, witness, port=9443, widths=(8, 4))
    key = bytes.fromhex((federation.departments["ash"].root / "keys" / secret).read_text().strip())
    witness.needles.add("key material", key)
    # A neighbouring byte is right by chance once in 128 times, and then one needle more is found.
    assert set(witness.needles.found_in([os.urandom(999) + key[11:19] + os.urandom(99)])) == {"key material"}


def test_a_row_written_out_in_decimals_is_found():
    needles = Needles()
    x, _ = small.table(0, 60, "binary")
    needles.numbers("rows", x)
    assert needles.found_in([b"log: row 17 was " + ",".join(map(str, x[17])).encode()])["rows"] >= 6
    assert needles.found_in([f"mean {x[3, 2]:.6f}".encode()])["rows"] == 1


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_nothing_private_is_in_what_either_side_exports(audited, tmp_path):
    """The files as they are, and every hexadecimal string in them as the bytes that it stands for."""
    federation, _, needles, _ = audited
    made = []
    for name, folder in federation.departments.items():
        export_ledger(folder, tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    export_audit(federation.coordinator, tmp_path / "audit")
    made.append((tmp_path / "audit").read_bytes())
    spelled = [bytes.fromhex(text.decode()) for file in made for text in re.findall(rb'"((?:[0-9a-f]{2}){8,})"', file)]
    assert len(spelled) > 100
    made = [re.sub(rb"\d{9,}\.\d+", b"", file) for file in made]  # a time may read 0.012345 by chance
    report = needles.counts().pop("report")
    assert report
    found = needles.found_in(made + spelled)
    found.pop("report", None)  # names of its fields are words that a ledger uses as well; its numbers are below
    assert found == {}
    numbers = Needles()
    for folder in federation.departments.values():
        for value in _leaves(json.loads((folder.root / "report.json").read_text())):
            if isinstance(value, float):
                numbers.numbers("report", [value])
    assert numbers.found_in(made + spelled) == {}


@pytest.mark.slow
def test_the_ledgers_account_of_the_link_is_what_arrived_at_the_gate(tapped):
    """First line, headers and body of every HTTP request, before TLS.  What was cut off at the end never arrived."""
    federation, tap, _, _ = tapped
    arrived = 0
    for path, headers, body in tap.requests:
        arrived += len(f"POST {path} HTTP/1.1\r\n") + len(headers) + headers.count(b"\0") + len(b"\r\n") + len(body)
    counted, parcels = 0, 0
    for folder in federation.departments.values():
        facts = account(folder)
        counted += sum(row["bytes"] for row in facts["link"].values())
        parcels += sum(row["bytes"] for row in facts["parcels"].values())
        assert {"pull-messages", "push-messages"} <= set(facts["link"])
    assert arrived <= counted <= 1.02 * arrived
    assert parcels < counted
