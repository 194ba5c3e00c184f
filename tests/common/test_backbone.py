"""Every department builds version 0 from the charter's seed, so it must be the same everywhere and for ever."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.common.backbone import BackboneSpec
from commonroot.common.manifest import flatten

SPECS = st.builds(
    BackboneSpec,
    inputs=st.integers(1, 12),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "tanh"]),
)


def digest(spec: BackboneSpec, seed: int) -> str:
    return hashlib.sha256(flatten(spec.initial(seed), spec.shapes())).hexdigest()


def test_the_first_weights_are_pinned():
    """Changing these bytes breaks federations in the field, so a change must be a new family, never an edit.

    A department that was upgraded and one that was not would start from different backbones: their updates would be
    differences from different points, and the sum would mean nothing.  The hash was computed once, from raw PCG64
    output, which numpy guarantees to be stable (NEP 19), unlike its distributions.
    """
    relu = BackboneSpec(inputs=12, widths=(32, 16))
    assert digest(relu, 1) == "858bfa4e3a9a4359e40607db05e2d973a80e49a0f83633a376cf53bcfffed1db"
    tanh = BackboneSpec(inputs=3, widths=(5,), activation="tanh")
    assert digest(tanh, 2**63 - 1) == "a2d460c1290b95627be2fff6cc0470c710b30d52eecece148652fd86aa961580"


@given(SPECS, st.integers(0, 2**63 - 1))
def test_one_seed_gives_one_backbone_of_the_stated_shapes(spec, seed):
    arrays = spec.initial(seed)
    assert [(name, array.shape) for name, array in arrays.items()] == list(spec.shapes())
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert sum(array.size for array in arrays.values()) == spec.parameters()
    assert digest(spec, seed) == digest(spec, seed)


@given(SPECS, st.integers(0, 2**63 - 2))
def test_another_seed_gives_another_backbone(spec, seed):
    assert digest(spec, seed) != digest(spec, seed + 1)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 6.0), ("tanh", 3.0)])
def test_weights_are_uniform_within_the_bound_of_he_and_biases_are_zero(activation, gain):
    """Uniform on [-b, b] with b = √(gain / fan-in): mean 0, variance b²/3; 60,000 draws are within 2 % of it."""
    arrays = BackboneSpec(inputs=200, widths=(300,), activation=activation).initial(7)
    weight, bound = arrays["layers.0.weight"].astype(float), math.sqrt(gain / 200)
    assert not arrays["layers.0.bias"].any()
    assert np.abs(weight).max() <= bound
    assert np.abs(weight).max() > 0.999 * bound
    assert abs(weight.mean()) < 0.01 * bound
    assert weight.var() == pytest.approx(bound**2 / 3, rel=0.02)


def test_a_small_backbone_counted_by_hand():
    """3 → 4 → 2: 4·3 + 4 + 2·4 + 2 = 26 parameters."""
    spec = BackboneSpec(inputs=3, widths=(4, 2))
    assert spec.shapes() == (
        ("layers.0.weight", (4, 3)),
        ("layers.0.bias", (4,)),
        ("layers.1.weight", (2, 4)),
        ("layers.1.bias", (2,)),
    )
    assert spec.parameters() == 26
    assert spec.outputs == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": 0},
        {"widths": ()},
        {"widths": (4, 0)},
        {"widths": (1,) * 33},
        {"activation": "gelu"},
        {"family": "cnn"},
        {"depth": 2},
    ],
    ids=str,
)
def test_a_backbone_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValidationError):
        BackboneSpec.model_validate({"inputs": 3, "widths": (4,), **wrong})
