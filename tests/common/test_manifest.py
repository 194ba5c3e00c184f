"""Only what the manifest lists can be packed, and packing loses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import ManifestError
from commonroot.common.manifest import PRIVATE, Manifest, Term, flatten, unflatten

WORDS = st.from_regex(r"[a-z0-9_]{1,6}", fullmatch=True).filter(lambda word: word not in PRIVATE)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
TERMS = st.builds(Term, NAMES, SHAPES, st.sampled_from(["fixed16", "fixed64"]), st.floats(1e-3, 1e6))
MANIFESTS = st.lists(TERMS, min_size=1, max_size=5, unique_by=lambda term: term.name).map(
    lambda terms: Manifest(tuple(terms))
)


def values_for(manifest: Manifest, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {term.name: draw.normal(size=term.shape) for term in manifest.terms}


@given(MANIFESTS, st.integers(0, 2**32 - 1))
def test_unpacking_is_the_inverse_of_packing(manifest, seed):
    values = values_for(manifest, seed)
    for lane in ("fixed16", "fixed64"):
        flat = manifest.pack(values, lane)
        assert flat.shape == (manifest.length(lane),)
        for name, value in manifest.unpack(flat, lane).items():
            assert np.array_equal(value, values[name])
    assert {t.name for lane in ("fixed16", "fixed64") for t in manifest.lane(lane)} == set(values)


@given(MANIFESTS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_packing_is_linear_so_the_sum_of_packed_vectors_is_the_packed_sum(manifest, one, other):
    """pack(a) + pack(b) = pack(a + b): without this a sum of uploads would mean nothing."""
    a, b = values_for(manifest, one), values_for(manifest, other)
    both = {name: a[name] + b[name] for name in a}
    for lane in ("fixed16", "fixed64"):
        assert np.array_equal(manifest.pack(a, lane) + manifest.pack(b, lane), manifest.pack(both, lane))


def test_terms_are_packed_in_the_order_of_the_manifest_whatever_the_order_of_the_values():
    """w = [[1, 2], [3, 4]], b = [5]: the vector is 1 2 3 4 5."""
    manifest = Manifest((Term("w", (2, 2), "fixed16", 1.0), Term("b", (1,), "fixed16", 1.0)))
    values = {"b": np.array([5.0]), "w": np.array([[1.0, 2.0], [3.0, 4.0]])}
    assert manifest.pack(values, "fixed16").tolist() == [1, 2, 3, 4, 5]


def test_a_manifest_without_a_lane_packs_an_empty_vector():
    manifest = Manifest((Term("count", (), "fixed64", 1.0),))
    assert manifest.pack({"count": np.array(1.0)}, "fixed16").shape == (0,)


@given(st.sampled_from(sorted(PRIVATE)), st.lists(WORDS, max_size=3), st.integers(0, 3), st.sampled_from(["/", "."]))
def test_a_private_name_is_refused_at_any_depth(private, words, place, joint):
    parts = [*words[:place], private, *words[place:]]
    with pytest.raises(ManifestError, match="private and never leaves"):
        Term(joint.join(parts), (2,), "fixed16", 1.0)


def test_a_name_that_only_contains_a_private_word_is_nobodys_secret():
    assert Term("overhead/rowsum", (2,), "fixed16", 1.0).size == 2


@pytest.mark.parametrize("name", ["", "Backbone", "a b", "a//b", "/a", "a/", "a/.b", "../a", "a\n", "é", "a-b"])
def test_a_name_is_lower_case_words_or_it_is_refused(name):
    with pytest.raises(ManifestError, match="lower-case words"):
        Term(name, (2,), "fixed16", 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_is_a_positive_number(bound):
    with pytest.raises(ManifestError, match="bound"):
        Term("w", (2,), "fixed16", bound)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (-1,)])
def test_a_term_of_no_elements_is_refused(shape):
    with pytest.raises(ManifestError, match="dimension"):
        Term("w", shape, "fixed16", 1.0)


def test_a_name_twice_is_refused():
    with pytest.raises(ManifestError, match="'w' is listed twice"):
        Manifest((Term("w", (2,), "fixed16", 1.0), Term("w", (3,), "fixed64", 1.0)))


def test_an_empty_manifest_is_refused():
    with pytest.raises(ManifestError, match="at least one term"):
        Manifest(())


TWO = Manifest((Term("w", (2,), "fixed16", 1.0), Term("loss", (), "fixed64", 9.0)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"w": np.zeros(2)}, "'loss' is missing"),
        ({"w": np.zeros(2), "loss": np.zeros(()), "head/weight": np.zeros(3)}, "'head/weight' is not in the manifest"),
        ({"w": np.zeros(2), "loss": np.zeros(()), "rows": np.zeros(3)}, "'rows' is not in the manifest"),
        ({"w": np.zeros(3), "loss": np.zeros(())}, r"expected shape \(2,\), found \(3,\)"),
        ({"w": np.zeros((2, 1)), "loss": np.zeros(())}, r"expected shape \(2,\), found \(2, 1\)"),
        ({"w": np.array([0.0, np.nan]), "loss": np.zeros(())}, "not finite"),
        ({"w": np.array([0.0, np.inf]), "loss": np.zeros(())}, "not finite"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(values, said):
    with pytest.raises(ManifestError, match=said):
        TWO.pack(values, "fixed16")


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_vector_of_another_length_is_not_unpacked(length):
    with pytest.raises(ManifestError, match="expected a vector of 2"):
        TWO.unpack(np.zeros(length), "fixed16")


def test_the_digest_moves_with_every_field_of_every_term():
    def digest(*term):
        return Manifest((Term(*term),)).digest

    seen = {
        digest("w", (2, 3), "fixed16", 1.0),
        digest("v", (2, 3), "fixed16", 1.0),
        digest("w", (3, 2), "fixed16", 1.0),
        digest("w", (6,), "fixed16", 1.0),
        digest("w", (2, 3), "fixed64", 1.0),
        digest("w", (2, 3), "fixed16", 2.0),
    }
    assert len(seen) == 6
    a, b = Term("a", (1,), "fixed16", 1.0), Term("b", (1,), "fixed16", 1.0)
    assert Manifest((a, b)).digest != Manifest((b, a)).digest


TENSORS = st.lists(st.tuples(NAMES, SHAPES), max_size=4, unique_by=lambda row: row[0])


@given(TENSORS, st.integers(0, 2**32 - 1))
def test_unflattening_is_the_inverse_of_flattening(shapes, seed):
    draw = np.random.default_rng(seed)
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes}
    data = flatten(arrays, shapes)
    assert len(data) == 4 * sum(math.prod(shape) for _, shape in shapes)
    back = unflatten(data, shapes)
    assert list(back) == [name for name, _ in shapes]
    assert all(np.array_equal(back[name], arrays[name]) and back[name].dtype == np.float32 for name in arrays)


def test_a_broadcast_is_little_endian_float32():
    """1.0 is 0x3f800000."""
    assert flatten({"w": np.array([1.0], dtype=">f4")}, [("w", (1,))]) == b"\x00\x00\x80\x3f"


def test_what_was_unflattened_does_not_share_memory_with_the_message():
    data = bytearray(flatten({"w": np.ones(2, dtype=np.float32)}, [("w", (2,))]))
    arrays = unflatten(data, [("w", (2,))])
    data[:] = bytes(8)
    assert arrays["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("change", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 12])
def test_a_broadcast_of_another_length_is_refused(change):
    with pytest.raises(ManifestError, match="expected 8 bytes"):
        unflatten(change, [("w", (2,))])


def test_a_broadcast_that_is_no_number_is_refused():
    with pytest.raises(ManifestError, match="not finite"):
        unflatten(np.array([np.nan, 1.0], dtype="<f4").tobytes(), [("w", (2,))])


def test_a_tensor_that_is_missing_or_misshapen_is_not_flattened():
    with pytest.raises(ManifestError, match="'w' is missing"):
        flatten({}, [("w", (2,))])
    with pytest.raises(ManifestError, match="expected shape"):
        flatten({"w": np.zeros((1, 2), dtype=np.float32)}, [("w", (2,))])
