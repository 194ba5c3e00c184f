"""Whatever bytes a peer sends, or a disk gives back: a typed refusal, or a value whose encoding is those very bytes.

Each decoder gets ten thousand inputs in ``make test``, or as many as ``COMMONROOT_FUZZ`` says (``make fuzz``: a hundred
thousand).  The seed is fixed unless ``COMMONROOT_FUZZ_SEED`` names another.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation import small
from flwr.app import ConfigRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from google.protobuf.message import DecodeError
from large_federation import LargeFederation
from proofs.fuzzing import JsonMutator, Mutator
from sum_federation import Federation

from commonroot import flower
from commonroot.common import canonical, greetings, messages, parcel
from commonroot.common.charter import SignedCharter
from commonroot.common.enrolment import Answer, Application, Question, RosterDraft
from commonroot.common.errors import CommonrootError, ForeignState, Malformed
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Member, Roster, SignedRoster, parse
from commonroot.common.secure_sum import snapshots
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.common.secure_sum.wire import PROTOCOL, Reader
from commonroot.flower import INLINE_BODY, MESSAGE_TYPE, Envelope, Sealed, reading, unpack
from commonroot.simulations.network import MemoryNetwork

INPUTS = int(os.environ.get("COMMONROOT_FUZZ", "10000"))
SEED = int(os.environ.get("COMMONROOT_FUZZ_SEED", "1"))
MIB = 1024 * 1024


#: Every message with a decoder, by the kind of parcel that it is the head of.
MESSAGES: dict[str, type] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower(): kind
    for module in (messages, greetings)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and hasattr(kind, "decode") and kind.__module__.startswith(module.__name__)
}
#: Messages that travel in a parcel of another name.
PARCELS = {"ready": parcel.TRAINED, "offer": parcel.CHARTER}


def good_vectors(name: str) -> tuple[bytes, ...]:
    """Encodings that every version reads; for what a small run without faults does not send, such as refusals."""
    paths = sorted((Path(__file__).parents[1] / "vectors").glob(f"*/{name}/good-*.json"))
    return tuple(bytes.fromhex(json.loads(path.read_text())["hex"]) for path in paths)


@dataclass(frozen=True)
class Target:
    """One decoder: valid inputs, and what decodes bytes and gives back the encoding of what came out.

    wrap      what is done to a mutated input so that it gets past an outer check, such as a checksum
    peer      sent by a peer, so that it has one encoding; what one's own disk gives back may be spelled otherwise (a
              digest in capitals), but then it means what its own encoding means
    """

    name: str
    valid: tuple[bytes, ...]
    again: Callable[[bytes], bytes]
    wrap: Callable[[bytes], bytes] = bytes
    peer: bool = True


def of_message(kind: type) -> Callable[[bytes], bytes]:
    return lambda data: kind.decode(data).encode()


def of_json(kind: type) -> Callable[[bytes], bytes]:
    return lambda data: kind.from_json(data).to_json()


def previous(data: bytes) -> bytes:
    reader = Reader(bytes([PROTOCOL]) + data, "a result")
    made = messages.Previous.take(reader)
    reader.end()
    return made.encode()


def again_letters(data: bytes) -> bytes:
    made = greetings.take_letters(data, 2)
    return greetings.put_letters((greeting.encode(), ciphertext) for greeting, ciphertext in made)


def with_checksum(data: bytes) -> bytes:
    """A snapshot begins with the hash of the rest: most damage is seen there, and here it is mended."""
    return sha256(data[32:]) + data[32:]


@pytest.fixture(scope="module")
def targets(module_path: Path) -> dict[str, Target]:
    """Every decoder with what a whole small run really sent and stored."""
    heads = {kind: set() for kind in (*parcel.TO_DEPARTMENT, *parcel.TO_COORDINATOR)}
    network = MemoryNetwork()
    stored: list[bytes] = []
    with small.running(module_path, network=network, departments=4, rounds=2, ready="on") as at_work:
        for name, session in at_work.sessions.items():
            at_work.network.attach(at_work._keys[name], name, watching(session.handle, heads))
        at_work.run()
        federation = at_work.federation
        epoch = federation.coordinator.roster().epoch
        for folder in federation.departments.values():
            with small.store_of(folder) as store:
                stored.append(store.memory(epoch))
    roster = (federation.coordinator.root / "roster.json").read_bytes()
    machines = Federation(4)
    at_work = machines.gathered(machines.opening(), range(3))
    at_work.fix()
    many = LargeFederation(34)
    wide = many.gathered(many.opening(), range(20))
    wide_uploads = [many.upload(at, many.opening())[0] for at in (20, 21)]
    wide._survivors = wide.uploaded  # whether so few could be opened is not what decoders ask, nor who confirmed it
    wide._confirmations = dict.fromkeys(many.committee[:19], bytes(64))
    results = [messages.RoundOpen.decode(head).previous.encode() for head in heads[parcel.ROUND_OPEN]]
    two = sorted(heads[parcel.GREETING])[:2]
    letters = greetings.put_letters(zip(two, (bytes(range(64)), b""), strict=True))
    requests = [canonical.dumps(m) for m in json.loads(roster)["roster"]["departments"]]
    signed = SignedRoster.from_json(roster)
    entry, identity = signed.roster.departments[0], Identity(bytes(32))
    application = Application.by_identity(signed.roster, entry, identity, made=7)
    question = Question.about_roster("grove", identity, epoch=1, at=7)
    questions = (Question(ask="ca"), Question(ask="enrol", application=application), question)
    chained = signed.roster.model_dump(mode="json") | {"epoch": 2, "previous": signed.roster.digest.hex()}
    following = Roster.model_validate(chained)
    made = [
        *(
            Target(name, (*heads.get(PARCELS.get(name, name), ()), *good_vectors(name)), of_message(kind))
            for name, kind in MESSAGES.items()
        ),
        Target("masked-by-many", tuple(wide_uploads), of_message(messages.Masked)),
        Target("open-of-many", (wide.open_for(many.committee[0]),), of_message(messages.Open)),
        Target("letters", (letters,), again_letters),
        Target("previous", tuple(results), previous),
        Target("signed-roster", (roster,), of_json(SignedRoster)),
        Target("signed-charter", (federation.charter.to_json(),), of_json(SignedCharter)),
        Target("application", (application.to_json(),), of_json(Application)),
        Target("question", tuple(question.to_json() for question in questions), of_json(Question)),
        Target("answer", (Answer(state="member", renew=True, roster=signed).to_json(),), of_json(Answer)),
        Target("draft", (RosterDraft(before=signed, roster=following).to_json(),), of_json(RosterDraft)),
        Target(
            "enrolment-request",
            tuple(requests),
            lambda data: canonical.dumps(parse(Member, data, what="a request").model_dump(mode="json")),
        ),
        Target("memory", tuple(stored), lambda data: DepartmentMemory.from_bytes(data).to_bytes(), peer=False),
        Target(
            "snapshot",
            (at_work.snapshot(),),
            lambda data: snapshots.encode(snapshots.decode(data)),
            with_checksum,
            peer=False,
        ),
    ]
    return {target.name: target for target in made}


def watching(handle: Callable[[Parcel], Parcel], heads: dict[str, set[bytes]]) -> Callable[[Parcel], Parcel]:
    def handled(request: Parcel) -> Parcel:
        reply = handle(request)
        for one in (request, reply):
            heads[one.kind].add(bytes(one.head))
        return reply

    return handled


NAMES = (
    *MESSAGES,
    "masked-by-many",
    "open-of-many",
    "letters",
    "previous",
    "signed-roster",
    "signed-charter",
    "enrolment-request",
    "application",
    "question",
    "answer",
    "draft",
    "memory",
    "snapshot",
)
JSON = ("signed-roster", "signed-charter", "enrolment-request", "application", "question", "answer", "draft", "memory")


def fed(target: Target, inputs: Iterable[bytes]) -> tuple[int, int]:
    """How many of the inputs were refused and how many decoded, to what they were; anything else is a failure."""
    refused = decoded = 0
    for data in inputs:
        try:
            again = target.again(data)
            if again != data and not target.peer:
                data = again
                again = target.again(data)
        except CommonrootError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__} ({error}) from {len(data)} bytes: {data[:4000].hex()}")
        else:
            assert again == data, f"not canonical: {data[:4000].hex()}"
            decoded += 1
    return refused, decoded


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_refuses_by_name_or_decodes_to_the_very_same_bytes(name, targets):
    target = targets[name]
    for valid in target.valid:
        assert target.again(valid) == valid
    mutator = Mutator(target.valid, SEED)
    refused, decoded = fed(target, (target.wrap(mutator.next()) for _ in range(INPUTS)))
    assert refused > INPUTS // 2, "hardly anything was refused: the mutations are too weak to prove anything"
    assert refused + decoded == INPUTS


@pytest.mark.parametrize("name", [name for name in NAMES if name in JSON])
def test_a_decoder_of_json_refuses_other_values_by_name_or_keeps_them_as_they_are(name, targets):
    """Sound JSON in canonical form with other values, types, keys and lengths in it."""
    mutator = JsonMutator(targets[name].valid, SEED)
    refused, _ = fed(targets[name], (mutator.next() for _ in range(INPUTS // 5)))
    assert refused > INPUTS // 50


def test_the_names_are_all_decoders(targets):
    assert set(NAMES) == set(targets)
    assert {
        "train",
        "round-open",
        "masked",
        "confirm",
        "confirmed",
        "open",
        "shares",
        "run-close",
        "refusal",
        "greeting",
    } <= set(MESSAGES)


# -- parcels inside Flower messages ------------------------------------------------------------------------------------


def envelope(one: Parcel) -> tuple[RecordDict, ObjectTree, dict[str, bytes]]:
    """A parcel as it lies on the hub: content, tree, objects by id."""
    metadata = Metadata(
        run_id=7,
        message_id="",
        src_node_id=1,
        dst_node_id=9,
        reply_to_message_id="",
        group_id="1",
        created_at=1.0,
        ttl=60.0,
        message_type=MESSAGE_TYPE,
    )
    made = Envelope(Sealed(one), metadata)
    wanted = {node.object_id for node in iterate_object_tree(made.tree)}
    return made.content, made.tree, dict(made.contents(wanted))


def taken(content: RecordDict, tree: ObjectTree, objects: dict[str, bytes]) -> Parcel:
    return unpack(content, tree, lambda object_id: objects.get(object_id, b""), kinds=parcel.TO_COORDINATOR)


def nothing_stored(_object_id: str) -> bytes:
    return b""


def records(proto: RecordDictProto) -> RecordDict:
    with reading("content that is none of Flower's"):
        return recorddict_from_proto(proto)


def only_malformed(work: Callable[[], Parcel], data: bytes) -> Parcel | None:
    try:
        return work()
    except Malformed:
        return None
    except Exception as error:
        pytest.fail(f"{type(error).__name__} ({error}) from {len(data)} bytes: {data[:2000].hex()}")


SHORT = Parcel(parcel.MASKED, bytes(range(200)), b"body" * 50)


def test_the_note_of_a_short_parcel_is_refused_or_read_for_what_it_is():
    """Mutated below Flower's own parser, which refuses what is no message at all before we see it."""
    content, tree, _ = envelope(SHORT)
    valid = recorddict_to_proto(content).SerializeToString()
    mutator, read, parsed = Mutator([valid], SEED), 0, 0
    for _ in range(INPUTS):
        data = mutator.next()
        try:
            proto = RecordDictProto.FromString(data)
        except DecodeError:
            continue  # no message at all: the link does not hand it over
        try:
            changed = records(proto)
        except Malformed:
            continue
        parsed += 1
        out = only_malformed(
            lambda changed=changed: unpack(changed, tree, nothing_stored, kinds=parcel.TO_COORDINATOR), data
        )
        if out is not None:
            read += 1
            note = changed["parcel"]
            assert (out.kind, out.head, bytes(out.body)) == (note["kind"], note["head"], note["body"])
    assert parsed > INPUTS // 20
    assert read > 0


def test_the_note_of_a_short_parcel_may_hold_any_types_in_any_place():
    _, tree, _ = envelope(SHORT)
    mutator = Mutator([b"any"], SEED)
    values = ["masked", "", b"", b"bytes", 0, -1, 5, 1 << 62, 1.5, True, [1, 2], ["a"], [b"x"], [0.5]]
    honest = {"kind": "masked", "head": b"head", "size": 5, "body": b"bytes", "mark": "", "other": ""}
    read = 0
    for _ in range(INPUTS):
        note = {
            key: values[mutator.below(len(values))] if mutator.below(2) else honest[key]
            for key in honest
            if mutator.below(8)
        }
        record = RecordDict({"parcel": ConfigRecord(note)})
        out = only_malformed(
            lambda record=record: unpack(record, tree, nothing_stored, kinds=parcel.TO_COORDINATOR), repr(note).encode()
        )
        read += out is not None
    assert read > 0


@pytest.fixture
def inline_limit(monkeypatch):
    """Bodies of a kilobyte as arrays beside the note: the decoding of megabytes, without the megabytes."""
    monkeypatch.setattr(flower, "INLINE_BODY", 1000)
    monkeypatch.setattr(flower, "SHORT_PARCEL", 500)


@pytest.mark.parametrize("size", [900, 1100], ids=["inline", "array"])
def test_the_objects_of_a_long_parcel_are_refused_or_make_up_a_parcel(size, inline_limit):
    """Each object a peer stores on the hub is its own bytes: any of them may be mutated, or put in another's place."""
    body = (bytes(range(256)) * 5)[:size]
    content, tree, objects = envelope(Parcel(parcel.MASKED, b"head", body))
    assert bytes(taken(content, tree, objects).body) == body
    mutators = {key: Mutator([value], SEED) for key, value in objects.items()}
    keys, dice, read = sorted(mutators), Mutator([b"dice"], SEED + 1), 0
    for _ in range(INPUTS):
        key = keys[dice.below(len(keys))]
        data = mutators[key].next() if dice.below(20) else objects[keys[dice.below(len(keys))]]
        changed = objects | {key: data}
        out = only_malformed(lambda changed=changed: taken(content, tree, changed), data)
        read += out is not None
    assert 0 < read < INPUTS


def test_an_array_of_several_chunks_some_of_them_alike_is_refused_or_put_together():
    """Twelve real megabytes: chunks dropped, cut, lengthened, and in each other's place."""
    body = bytes(5 * MIB) + b"x" * (5 * MIB) + bytes(2 * MIB)
    content, tree, objects = envelope(Parcel(parcel.MASKED, b"head", body))
    chunks = sorted(key for key, value in objects.items() if value.startswith(b"ArrayChunk "))
    dice = Mutator([b"dice"], SEED)
    for _ in range(100):
        key, other = chunks[dice.below(len(chunks))], chunks[dice.below(len(chunks))]
        data = (b"", objects[key][:-1], objects[key] + b"x", objects[other], objects[key][:5])[dice.below(5)]
        out = only_malformed(lambda key=key, data=data: taken(content, tree, objects | {key: data}), data[:256])
        assert out is None or len(out.body) == len(body)


def test_the_tree_of_a_parcel_may_have_any_shape():
    content, _, objects = envelope(Parcel(parcel.MASKED, b"head", bytes(INLINE_BODY + 1)))
    ids, dice = sorted(objects), Mutator([b"dice"], SEED)

    def grown(depth: int) -> ObjectTree:
        children = [grown(depth - 1) for _ in range(dice.below(3))] if depth else []
        return ObjectTree(object_id=ids[dice.below(len(ids))], children=children)

    for _ in range(min(5000, INPUTS)):
        shape = grown(1 + dice.below(4))
        only_malformed(lambda shape=shape: taken(content, shape, objects), shape.SerializeToString())


# -- what a mutation hardly ever finds ---------------------------------------------------------------------------------

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "text", [DEEP, b'{"a":' * 50_000, b"9" * 5000, b'"\xed\xa0\x80"', b'"\\ud800"', b"1e999", b"NaN"]
)
def test_json_that_breaks_parsers_is_refused_by_every_decoder_of_json(text, targets):
    for name in ("signed-roster", "signed-charter", "enrolment-request"):
        with pytest.raises(Malformed):
            targets[name].again(text)
    with pytest.raises(ForeignState):
        targets["memory"].again(text)


@pytest.mark.parametrize("text", [DEEP, b"[]", b"null", b'{"arraychunk_ids":[[]]}', b"9" * 5000, b"\xff"])
def test_an_array_whose_list_of_chunks_is_none_is_refused(text):
    body = bytes(range(256)) * ((INLINE_BODY + MIB) // 256)
    content, tree, objects = envelope(Parcel(parcel.MASKED, b"head", body))
    (array,) = (key for key, value in objects.items() if value.startswith(b"Array "))
    before, _, _ = objects[array].partition(b"\0")
    head = before.rsplit(b" ", 1)[0] + b" %d" % len(text)
    with pytest.raises(Malformed):
        taken(content, tree, objects | {array: head + b"\0" + text})


def test_a_fuzzer_of_a_careless_decoder_finds_its_carelessness():
    """The loop above can fail: a decoder that forgets trailing bytes is caught as not canonical at once."""
    valid = messages.Refusal(3, "CR20").encode()
    mutator, caught = Mutator([valid], SEED), 0
    for _ in range(2000):
        data = mutator.next()
        try:
            again = messages.Refusal.decode(data[:9]).encode()
        except CommonrootError:
            continue
        caught += again != data
    assert caught > 10
