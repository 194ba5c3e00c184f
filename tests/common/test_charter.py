"""A charter is what a department approves: every number that may be sent, under one hash and one signature."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common import canonical
from commonroot.common.charter import Charter, Draft, SignedCharter, TermSpec, model_from_toml
from commonroot.common.errors import BadSignature, CommonrootError, ConfigError, Malformed, ManifestError
from commonroot.common.secure_sum.primitives import Identity

COORDINATOR = Identity(hashlib.sha256(b"coordinator").digest())

TOML = """
federation = "works"
name = "demand"
rounds = 30

[method]
name = "fedavg"
options = { rate = 1.0 }

[backbone]
inputs = 12
widths = [32, 16]

[training]
batch = 32
"""


def charter(**changes: object) -> Charter:
    draft = Draft.from_toml(TOML)
    terms = [
        TermSpec(name="update/layers.0.weight", shape=(32, 12), lane="fixed16", bound=5.0),
        TermSpec(name="weight", shape=(), lane="fixed64", bound=1.0),
    ]
    fields = {**draft.model_dump(), "terms": terms, "broadcast": draft.backbone.shapes(), **changes}
    return Charter.model_validate(fields)


SIGNED = SignedCharter.sign(charter(), COORDINATOR)


def test_a_draft_reads_as_it_was_written_and_the_rest_has_sane_values():
    draft = Draft.from_toml(TOML)
    assert (draft.federation, draft.rounds, draft.training.batch) == ("works", 30, 32)
    assert draft.method.options == {"rate": 1.0}
    assert draft.cohort.floor == 3
    assert draft.timing.upload > 0


def test_every_wrong_field_is_named_at_once_with_the_file():
    wrong = (
        TOML.replace("rounds = 30", 'rounds = 0\nround = 5\nsecret = "x"')
        .replace("batch = 32", "batch = 0\nlearning_rate = nan\nmomentum = 1.0")
        .replace("widths = [32, 16]", "widths = []")
    )
    with pytest.raises(ConfigError) as refused:
        Draft.from_toml(wrong, path="demand.toml")
    said = str(refused.value)
    assert said.startswith("demand.toml has 7 wrong field(s):")
    for field in (
        "rounds",
        "round",
        "secret",
        "training.batch",
        "training.learning_rate",
        "training.momentum",
        "backbone.widths",
    ):
        assert f"\n  {field}: " in said


def test_a_file_that_is_no_toml_is_named_with_the_line():
    with pytest.raises(ConfigError, match=r"demand\.toml is not valid TOML.*line 1"):
        Draft.from_toml("rounds = = 3", path="demand.toml")


@pytest.mark.parametrize("floor", [0, 1, 2])
def test_a_charter_never_accepts_a_sum_over_fewer_than_three(floor):
    with pytest.raises(ConfigError, match=r"cohort\.floor"):
        Draft.from_toml(f"{TOML}\n[cohort]\nfloor = {floor}")


@pytest.mark.parametrize("field", ["gather", "upload", "opening"])
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan"])
def test_every_wait_is_bounded(field, value):
    with pytest.raises(ConfigError, match=rf"timing\.{field}"):
        Draft.from_toml(f"{TOML}\n[timing]\n{field} = {value}")


@pytest.mark.parametrize("name", ["../escape", "", "a/b", "a\nb", ".hidden", "x" * 64])
def test_a_name_that_could_be_a_path_or_a_line_is_refused(name):
    with pytest.raises(ConfigError, match="federation"):
        model_from_toml(Draft, TOML.replace('"works"', canonical.dumps(name).decode()), path="x")


def test_a_signed_charter_survives_the_trip():
    back = SignedCharter.from_json(SIGNED.to_json())
    assert back == SIGNED
    assert back.check(COORDINATOR.public).digest == SIGNED.charter.digest
    assert back.charter.manifest.digest == SIGNED.charter.manifest.digest


@given(st.integers(0, 8 * len(SIGNED.to_json()) - 1))
def test_a_charter_with_one_bit_flipped_is_refused(bit):
    data = bytearray(SIGNED.to_json())
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(CommonrootError) as refused:
        SignedCharter.from_json(bytes(data)).check(COORDINATOR.public)
    assert isinstance(refused.value, Malformed | BadSignature)


def test_a_charter_under_another_key_is_refused():
    with pytest.raises(BadSignature, match="the coordinator"):
        SIGNED.check(Identity(bytes(32)).public)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 31},
        {"name": "demand 2"},
        {"method": {"name": "fedavg", "options": {"rate": 0.5}}},
        {"training": {"update_clip": 6.0}},
        {"cohort": {"floor": 4}},
        {"timing": {"upload": 121.0}},
        {"broadcast": (("layers.0.weight", (32, 12)),)},
        {"terms": [TermSpec(name="weight", shape=(), lane="fixed64", bound=2.0)]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_moves_with_every_part(change):
    """A department approves a hash, so nothing that matters may change under it."""
    assert charter(**change).digest != charter().digest
    assert charter().digest == charter().digest


@pytest.mark.parametrize("name", ["head/weight", "update/head.bias", "rows", "twin.layers.0"])
def test_a_charter_that_lists_a_private_term_has_no_manifest(name):
    spec = TermSpec(name=name, shape=(2,), lane="fixed16", bound=1.0)
    with pytest.raises(ManifestError, match="private"):
        _ = charter(terms=[spec]).manifest


def test_a_charter_that_lists_nothing_is_refused():
    value = canonical.loads(SIGNED.to_json(), what="x")
    value["charter"]["terms"] = []
    with pytest.raises(Malformed, match=r"charter\.terms"):
        SignedCharter.from_json(canonical.dumps(value))


def test_a_charter_is_never_changed_once_made():
    with pytest.raises(ValueError, match="frozen"):
        SIGNED.charter.rounds = 5
