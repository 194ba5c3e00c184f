"""Every family in numbers: what a charter may say of it, and the tensors and first values that follow."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from pydantic import ValidationError

from commonroot.common.backbone import (
    BackboneSpec,
    ImageInput,
    InstalledSpec,
    MlpSpec,
    NgramsSpec,
    RescnnSpec,
    ResmlpSpec,
    RowInput,
    SequenceInput,
    TcnSpec,
    TokenInput,
    TransformerSpec,
    families,
)
from commonroot.common.charter import Charter, Draft, SignedCharter
from commonroot.common.errors import ConfigError, ManifestError
from commonroot.common.manifest import flatten
from commonroot.common.secure_sum.primitives import Identity
from commonroot.strategies import check_sealed, seal

OWN = InstalledSpec(
    name="own",
    reads=RowInput(3),
    width=2,
    tensors=(("layer.weight", (2, 3)), ("layer.bias", (2,)), ("level.gain", (2,))),
)
SMALL = {
    "mlp": MlpSpec(inputs=4, widths=(3,)),
    "resmlp": ResmlpSpec(inputs=4, width=6, blocks=2),
    "ngrams": NgramsSpec(vocabulary=20, length=7, width=4),
    "transformer": TransformerSpec(vocabulary=20, length=7, width=4, heads=2, layers=2),
    "tcn": TcnSpec(steps=9, channels=2, width=4, layers=2, kernel=3),
    "rescnn": RescnnSpec(channels=1, height=6, width=5, stages=(4, 6)),
    "installed": OWN,
}
#: SHA-256 of the first values of seed 1, as computed once; see ``test_backbone``.
PINNED = {
    "resmlp": "4e982d04cf311df3e1c97d66fb9f054a7ab24d43387795c20afda1f345e3db21",
    "ngrams": "d3bb2dc9adfede94a3820058601d9bff66822a799f7e49de89f8a169335e3491",
    "transformer": "180b56a1ffc07456baf148f8682a84fc294a1b545e51b24b6525ef52a7faa1af",
    "tcn": "fab725d8a6bf1f6f502cf447362b05924176cb383d5e439f449a68b6ec1ded2d",
    "rescnn": "9af39176ad31d7c75557a8628283ac1bef3b0f91290689ec4e8ad0ce2a4eed5e",
    "installed": "b0deadeb7ce6049382c557d56ea78eff03094b6e79a26a3874fa7b8356ee2428",
}
HEAD = 'federation = "works"\nname = "demand"\nrounds = 3\nmethod = { name = "fedper" }\n'


def draft_of(spec: BackboneSpec) -> Draft:
    return Draft.model_validate(
        {"federation": "works", "name": "demand", "rounds": 3, "method": {"name": "fedper"}, "backbone": spec}
    )


def test_every_family_is_tried_here_or_has_a_test_of_its_own():
    assert set(families()) == set(SMALL) | {"pretrained"}


@pytest.mark.parametrize("family", PINNED)
def test_the_first_values_of_a_family_are_pinned(family):
    """Changing them breaks federations in the field: a department that was upgraded would begin elsewhere."""
    spec = SMALL[family]
    assert hashlib.sha256(flatten(spec.initial(1), spec.shapes())).hexdigest() == PINNED[family]


@pytest.mark.parametrize("family", SMALL)
def test_first_values_have_the_stated_shapes_and_plain_biases_and_gains(family):
    spec = SMALL[family]
    arrays = spec.initial(5)
    assert [(name, array.shape) for name, array in arrays.items()] == list(spec.shapes())
    assert sum(array.size for array in arrays.values()) == spec.parameters()
    for name, array in arrays.items():
        last = name.rpartition(".")[2]
        if last in ("bias", "shift", "gain"):
            assert (array == (1.0 if last == "gain" else 0.0)).all()
        else:
            assert array.std() > 0


@pytest.mark.parametrize("family", SMALL)
def test_a_charter_of_every_family_is_sealed_signed_and_read_back(family):
    """a term per tensor, three scalars, none private; what comes back is the same charter by its hash"""
    spec = SMALL[family]
    sealed = seal(draft_of(spec))
    assert [term.name for term in sealed.terms[:-3]] == [f"update/{name}" for name, _ in spec.shapes()]
    assert sealed.manifest.length("fixed16") == spec.parameters()
    identity = Identity.generate(lambda count: bytes(range(count)))
    signed = SignedCharter.from_json(SignedCharter.sign(sealed, identity).to_json())
    again: Charter = signed.check(identity.public)
    assert again.backbone == spec and again.digest == sealed.digest
    check_sealed(again)


@pytest.mark.parametrize(
    ("family", "reads", "shape", "dtype"),
    [
        ("mlp", RowInput(4), (4,), "float32"),
        ("ngrams", TokenInput(7, 20), (7,), "int32"),
        ("tcn", SequenceInput(9, 2), (9, 2), "float32"),
        ("rescnn", ImageInput(1, 6, 5), (1, 6, 5), "float32"),
    ],
)
def test_what_a_family_reads(family, reads, shape, dtype):
    found = SMALL[family].input
    assert (found, found.shape, found.dtype) == (reads, shape, dtype)


def test_a_transformer_counted_by_hand():
    """20·4 + 7·4 embeddings and positions; a block 2·4 + (12·4 + 12) + (4·4 + 4) + 2·4 + (8·4 + 8) + (4·8 + 4) = 172"""
    assert SMALL["transformer"].parameters() == 80 + 28 + 2 * 172 + 8


def test_a_residual_network_for_images_counted_by_hand():
    """Entry 4·9 + 4 = 40; stage 4 → 4: 8 + (4·4·9 + 4) + 8 + (4·4·9 + 4) = 312; stage 4 → 6 with its shortcut:

    8 + (6·4·9 + 6) + 12 + (6·6·9 + 6) + (6·4 + 6) = 602; last 12.
    """
    assert SMALL["rescnn"].parameters() == 40 + 312 + 602 + 12


def test_no_family_means_the_perceptron():
    spec = Draft.from_toml(f"{HEAD}backbone = {{ inputs = 3, widths = [2] }}").backbone
    assert spec == MlpSpec(inputs=3, widths=(2,)) == BackboneSpec(inputs=3, widths=(2,))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ('family = "transfomer"', "backbone: no backbone family 'transfomer'; did you mean 'transformer'?"),
        ("family = 3", "backbone: no backbone family 3; known: "),
        ('family = "resmlp"', "backbone.inputs: Field required"),
        ('family = "resmlp", inputs = 3, dropout = 1.0', "backbone.dropout: Input should be less than 1"),
        ('family = "ngrams", vocabulary = 1', "backbone.vocabulary: Input should be greater than or equal to 2"),
        ('family = "ngrams", widths = [3]', "backbone.widths: Extra inputs are not permitted"),
        ('family = "transformer", width = 30', "a width of 30 cannot be divided among 4 heads"),
        ('family = "tcn", channels = 2', "backbone.steps: Field required"),
        ('family = "rescnn", stages = []', "backbone.stages: Tuple should have at least 1 item"),
        ('family = "ngrams", adapter = true', "family 'ngrams' does not read rows, so it can have no adapter"),
        ('family = "installed", name = "a b"', "backbone.name: String should match pattern"),
        ('family = "pretrained", library = "keras"', "backbone.library: Input should be 'transformers' or 'timm'"),
    ],
)
def test_what_is_wrong_with_a_backbone_is_said_by_its_field(section, says):
    with pytest.raises(ConfigError) as refused:
        Draft.from_toml(f"{HEAD}backbone = {{ {section} }}", path="demand.toml")
    assert f"\n  {says}" in str(refused.value) or f"\n  backbone: {says}" in str(refused.value)


@pytest.mark.parametrize("word", ["head", "adapter", "norm", "optimizer", "twin", "row", "rows", "guard"])
def test_a_listed_tensor_may_not_have_a_private_name(word):
    for name in (f"{word}.weight", f"layer.{word}.weight", f"layer.{word}"):
        with pytest.raises(ValidationError, match=f"'{word}' is private and never leaves a department"):
            OWN.model_validate({**OWN.model_dump(), "tensors": [[name, [2, 2]]]})


@pytest.mark.parametrize(
    "tensors", [[["a", [2]], ["a", [2]]], [["A", [2]]], [["a", [0]]], []], ids=["twice", "capital", "empty", "none"]
)
def test_other_lists_of_tensors_are_refused(tensors):
    with pytest.raises(ValidationError):
        OWN.model_validate({**OWN.model_dump(), "tensors": tensors})


def test_a_private_name_that_slips_through_is_refused_at_sealing():
    odd = OWN.model_copy(update={"tensors": (("norm.weight", (2, 2)),)})  # copies are not validated
    with pytest.raises(ManifestError, match=r"'norm' is private"):
        seal(draft_of(odd))


def test_a_head_on_tokens_needs_a_family_that_reads_them():
    for family in ("ngrams", "transformer"):
        SMALL[family].check_heads(per_token=True)
    for family in ("mlp", "tcn", "rescnn", "installed"):
        SMALL[family].check_heads(per_token=False)
        with pytest.raises(ConfigError, match=r"labels single tokens"):
            SMALL[family].check_heads(per_token=True)


def test_branches_together_add_as_much_as_they_are_added_to():
    """``back`` of a block of 4: variance 1/4 over its fan; uniform on [-b, b] has variance b²/3"""
    weight = ResmlpSpec(inputs=4, width=100, blocks=4).initial(3)["blocks.0.back.weight"].astype(float)
    assert weight.var() == pytest.approx(1 / 4 / 100, rel=0.05)
    assert np.abs(weight).max() <= math.sqrt(3 / 4 / 100)


def test_specs_can_be_told_apart_and_kept_in_sets():
    assert len({spec.model_dump_json() for spec in SMALL.values()}) == len(SMALL)
    assert all(spec == BackboneSpec.model_validate(spec.model_dump(mode="json")) for spec in SMALL.values())
