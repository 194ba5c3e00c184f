"""Every kind of message has vectors, good and bad: the same bytes mean the same, or nothing, in every version.

A vector is a JSON file ``tests/vectors/<module>/<kind>/<good or bad>-<why>.json`` with the name of a class as
``message``, ``accept`` or an error as ``expect``, and the encoding as ``hex`` or as ``text``.  What is signed is read
and its signatures are checked, as a receiver would.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict
from flwr.proto.message_pb2 import ObjectTree
from pydantic import BaseModel

from commonroot.common import canonical, charter, errors, evidence, greetings, manifest, messages, parcel, roster
from commonroot.common.evidence import Exhibit
from commonroot.common.manifest import Manifest, Term
from commonroot.common.parcel import TO_COORDINATOR, Parcel
from commonroot.common.roster import parse
from commonroot.common.secure_sum.wire import PROTOCOL, Reader
from commonroot.flower import unpack

ROOT = Path(__file__).parents[1] / "vectors"
VECTORS = sorted(ROOT.glob("*/*/*.json"))
MODULES = (messages, greetings, parcel, roster, charter, manifest, evidence)
#: Encodings that have a function of their own and no class.
FUNCTIONS = {"Letters"}

Vector = dict[str, Any]


def kinds() -> dict[str, type]:
    """Every public class of the modules above; whatever is added to them is a message too."""
    return {
        name: kind
        for module in MODULES
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and kind.__module__.startswith(module.__name__) and not inspect.isabstract(kind)
        if not name.startswith("_")
    }


def is_binary(kind: type) -> bool:
    """A message of its own: version, fields, nothing after them."""
    return hasattr(kind, "decode")


def read(vector: Vector) -> Any:
    """What a vector says, read as whoever receives it would; raises what it raises."""
    name, data = vector["message"], content(vector)
    if name in READERS:
        return READERS[name](data, vector)
    kind = kinds()[name]
    if is_binary(kind):
        return kind.decode(data)
    if issubclass(kind, BaseModel):
        return parse(kind, data, what=name)
    raise LookupError(f"nothing reads {name}: a new kind of message needs a line in READERS")


def content(vector: Vector) -> bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()


def previous(data: bytes, vector: Vector) -> messages.Previous:
    reader = Reader(bytes([PROTOCOL]) + data, "a result")
    made = messages.Previous.take(reader)
    reader.end()
    return made


def member(data: bytes, vector: Vector) -> roster.Member:
    made = parse(roster.Member, data, what="a request")
    made.check()
    return made


def signed_roster(data: bytes, vector: Vector) -> roster.SignedRoster:
    made = roster.SignedRoster.from_json(data)
    made.check(signer_of("roster/signed-roster", vector))
    return made


def signed_charter(data: bytes, vector: Vector) -> charter.SignedCharter:
    made = charter.SignedCharter.from_json(data)
    made.check(signer_of("charter/signed-charter", vector))
    return made


def signer_of(folder: str, vector: Vector) -> bytes:
    """Bad vectors are to be checked under the key of the good one beside them."""
    good = next((ROOT / folder).glob("good-*.json"))
    return bytes.fromhex(json.loads(good.read_text())["signer"])


def term_spec(data: bytes, vector: Vector) -> charter.TermSpec:
    made = parse(charter.TermSpec, data, what="a term")
    made.term()
    return made


def sealed_charter(data: bytes, vector: Vector) -> charter.Charter:
    made = parse(charter.Charter, data, what="the charter")
    assert made.manifest.terms
    return made


def manifest_of(data: bytes, vector: Vector) -> Manifest:
    return Manifest(tuple(term(canonical.dumps(row), vector) for row in canonical.loads(data, what="a manifest")))


def term(data: bytes, vector: Vector) -> Term:
    name, shape, lane, bound = canonical.loads(data, what="a term")
    return Term(name, tuple(shape), lane, bound)


def exhibit(data: bytes, vector: Vector) -> Exhibit:
    told = canonical.loads(data, what="an exhibit")
    return Exhibit(**(told | {name: bytes.fromhex(told[name]) for name in ("head", "body", "accepted")}))


def note(data: bytes, vector: Vector) -> Parcel:
    """The object that names a parcel's kind and holds its head, as a link fetches it."""
    tree = ObjectTree(object_id="message", children=[ObjectTree(children=[ObjectTree(object_id="note")])])
    return unpack(RecordDict(), tree, lambda object_id: {"note": data}[object_id], kinds=TO_COORDINATOR)


READERS: dict[str, Callable[[bytes, Vector], Any]] = {
    "Previous": previous,
    "Letters": lambda data, vector: greetings.take_letters(data, vector["count"]),
    "Member": member,
    "SignedRoster": signed_roster,
    "SignedCharter": signed_charter,
    "TermSpec": term_spec,
    "Charter": sealed_charter,
    "Manifest": manifest_of,
    "Term": term,
    "Exhibit": exhibit,
    "Parcel": note,
}


def written(made: Any) -> bytes | None:
    """The encoding of what was read; None where only the reading is ours."""
    if isinstance(made, list):
        return greetings.put_letters((greeting.encode(), ciphertext) for greeting, ciphertext in made)
    if isinstance(made, BaseModel):
        return canonical.dumps(made.model_dump(mode="json"))
    return made.encode() if hasattr(made, "encode") else None


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_vector_is_read_as_its_name_says(path):
    vector = json.loads(path.read_text())
    if vector["expect"] == "unsigned":  # evidence is kept whatever it is; what it proves is computed
        assert {vector["signed"], vector["contradicts_signed"]} != {True, None}
    elif vector["expect"] != "accept":
        assert path.stem.startswith("bad-")
        with pytest.raises(getattr(errors, vector["expect"])):
            read(vector)
        return
    made = read(vector)
    assert path.stem.startswith("good-" if vector["expect"] == "accept" else "bad-")
    if (again := written(made)) is not None:
        assert again == content(vector)
    for name in ("transcript", "opened", "digest"):
        if name in vector:
            assert getattr(made, name).hex() == vector[name]
    if "manifest" in vector:
        assert made.manifest.digest.hex() == vector["manifest"]
    if isinstance(made, Parcel):
        assert (made.kind, made.head.hex(), bytes(made.body).hex()) == tuple(
            vector[k] for k in ("kind", "head", "body")
        )
    elif isinstance(made, Exhibit):
        shown = made.describe()
        assert {name: shown[name] for name in ("signed", "contradicts_signed", "round")} == {
            name: vector[name] for name in ("signed", "contradicts_signed", "round")
        }
    elif "signer" in vector and hasattr(made, "check"):
        signer = bytes.fromhex(vector["signer"])
        made.check(signer, who="the signer") if is_binary(type(made)) else made.check(signer)


def held() -> dict[str, list[str]]:
    """Names of the vectors by the class that they are of."""
    found: dict[str, list[str]] = {}
    for path in VECTORS:
        found.setdefault(json.loads(path.read_text())["message"], []).append(path.stem)
    return found


def lacking(classes: dict[str, type], vectors: dict[str, list[str]]) -> dict[str, list[str]]:
    """What each class still needs: one good vector, three bad ones, and those that every binary message has."""
    out = {}
    for name, kind in classes.items():
        stems = vectors.get(name, [])
        needed = [] if any(stem.startswith("good-") for stem in stems) else ["a good one"]
        needed += ["three bad ones"] if sum(stem.startswith("bad-") for stem in stems) < 3 else []
        if is_binary(kind):
            wanted = ("bad-cut", "bad-trailing", "bad-version")
            needed += [one for one in wanted if not any(stem.startswith(one) for stem in stems)]
        if needed:
            out[name] = needed
    return out


def test_every_kind_of_message_has_good_and_bad_vectors():
    assert lacking(kinds(), held()) == {}
    assert set(held()) == set(kinds()) | FUNCTIONS


def test_a_kind_of_message_without_vectors_is_noticed():
    class Newest(messages.RunClose):
        """Has none yet."""

    some = held() | {"Greet": ["good-one", "bad-cut-short", "bad-cut-shorter"]}
    found = lacking(kinds() | {"Newest": Newest}, some)
    everything = ["a good one", "three bad ones", "bad-cut", "bad-trailing", "bad-version"]
    assert found == {"Newest": everything, "Greet": ["three bad ones", "bad-trailing", "bad-version"]}


def test_a_vector_lies_in_a_folder_of_its_kind():
    for path in VECTORS:
        name = json.loads(path.read_text())["message"]
        assert path.parent.name == re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower(), path
