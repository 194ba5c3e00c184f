"""The codec's laws, against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonroot.common.errors import ConfigError, ManifestError, OutsideCharter, SumRejected, TooFewDepartments
from commonroot.common.manifest import Manifest, Term
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.lanes import STEP, THREE21, UINT16, UINT32, choose
from commonroot.common.secure_sum.primitives import sha256

MANIFEST = Manifest(
    (
        Term("a", (4, 3), "fixed16", 2.0),
        Term("count", (), "fixed64", 1e9),
        Term("b", (5,), "fixed16", 0.1),
        Term("stats", (2, 2), "fixed64", 0.7),
    )
)
BULK = Manifest((Term("a", (200_003,), "fixed16", 1.0),))


LANES = pytest.mark.parametrize("lanes", [UINT16, THREE21, UINT32], ids=lambda lanes: lanes.name)


def key(i: int) -> bytes:
    return sha256(bytes([i]))


def zeros(manifest: Manifest) -> dict[str, np.ndarray]:
    return {term.name: np.zeros(term.shape) for term in manifest.terms}


def add(lanes: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    total16, total64 = (part.copy() for part in lanes[0])
    for a, b in lanes[1:]:
        total16 += a
        total64 += b
    return total16, total64


finite = st.floats(-4, 4, width=32)


@LANES
@given(data=st.data())
def test_every_element_of_the_opened_sum_is_within_the_stated_error(lanes, data):
    """Exact: sums of clipped values as fractions, against survivors · step (and its float slack)."""
    n = data.draw(st.integers(3, 32 if lanes is UINT16 else 1000))
    survivors = data.draw(st.integers(1, min(n, 9)))
    codec = SumCodec(MANIFEST, n, lanes)
    full = codec.initial_bounds()
    bounds = [data.draw(st.floats(float(b) * 2.0**-20, float(b), width=32)) for b in full]
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.float16]))
    values = []
    for _ in range(survivors):
        own = {
            "a": np.array(data.draw(st.lists(finite, min_size=12, max_size=12)), dtype).reshape(4, 3),
            "b": np.array(data.draw(st.lists(finite, min_size=5, max_size=5)), dtype),
            "count": np.array(float(data.draw(st.integers(-(10**9), 10**9)))),
            "stats": np.array(data.draw(st.lists(st.floats(-0.7, 0.7), min_size=4, max_size=4))).reshape(2, 2),
        }
        values.append(own)
    opened = codec.decode(*add([codec.encode(v, bounds, key(i)) for i, v in enumerate(values)]), survivors, bounds)
    limits = dict(zip(["a", "b"], bounds, strict=True)) | {"count": 1e9, "stats": 0.7}
    stated = codec.error_bound(survivors, bounds)
    for name, limit in limits.items():
        for at in np.ndindex(opened.values[name].shape):
            exact = sum(Fraction(min(limit, max(-limit, float(v[name][at])))) for v in values)
            assert abs(Fraction(float(opened.values[name][at])) - exact) < Fraction(stated[name])
    assert float(opened.values["count"]) == sum(float(v["count"]) for v in values)


def test_the_stated_error_is_one_step_per_survivor():
    """n = 10: L = ⌊65535·15/16/10⌋ = 6143, made even 6142; B = 2: step 4/6142, three survivors 12/6142 = 0.001954"""
    codec = SumCodec(MANIFEST, 10)
    assert codec.levels == 6142
    assert codec.error_bound(3, codec.initial_bounds())["a"] == pytest.approx(12 / 6142, rel=1 / 250)


def levels_of(codec: SumCodec, bulk: np.ndarray) -> list[int]:
    """The fields of words, element by element, by Python integers: the layout spelled out a second time."""
    count = codec.manifest.length("fixed16")
    if codec.lanes is not THREE21:
        return [int(word) for word in bulk]
    out = [0] * count
    for first in range(0, count, 3 * 2**15):
        here = min(3 * 2**15, count - first)
        third = -(-here // 3)
        for k in range(third):
            word = int(bulk[first // 3 + k])
            assert word < 2**63
            for field in range(3):
                level = word >> (21 * field) & (2**21 - 1)
                if field * third + k < here:
                    out[first + field * third + k] = level
                else:
                    assert level == 0
    return out


@pytest.mark.parametrize(
    ("n", "lanes"),
    [(n, UINT16) for n in range(3, 33)] + [(n, lanes) for n in (3, 16, 17, 100) for lanes in (THREE21, UINT32)],
)
def test_no_lane_can_wrap_even_when_everyone_sends_the_most(n, lanes):
    codec = SumCodec(MANIFEST, n, lanes)
    assert n * codec.levels < 2**lanes.bits
    bounds = codec.initial_bounds()
    most = {t.name: np.full(t.shape, t.bound) for t in MANIFEST.terms}
    for sign in (1.0, -1.0):
        given = [codec.encode({k: sign * v for k, v in most.items()}, bounds, key(i)) for i in range(n)]
        exact = [levels_of(codec, a) for a, _ in given]
        assert max(map(sum, zip(*exact, strict=True))) <= n * codec.levels
        opened = codec.decode(*add(given), n, bounds)
        stated = codec.error_bound(n, bounds)
        for t in MANIFEST.terms:
            # the published bound is a float32 that may lie a rounding below the term's
            slack = stated[t.name] + n * t.bound * 2.0**-23
            assert np.abs(opened.values[t.name] - sign * n * t.bound).max() < slack


@LANES
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 2, 3, 4, 5, 7, 65_537, 98_303, 98_305, 98_308, 163_841]))
def test_the_ring_sum_of_words_is_the_sum_of_levels_bit_for_bit(lanes, seed, size):
    """Masks on every word that cancel in the sum change nothing; fields never carry into one another.

    The levels are taken apart by Python integers, department by department, and added without any modulus.
    """
    rng = np.random.default_rng(seed)
    codec = SumCodec(Manifest((Term("a", (size,), "fixed16", 1.0),)), 5, lanes)
    given = [codec.encode({"a": rng.normal(0, 0.5, size).astype(np.float32)}, [1.0], key(i)) for i in range(4)]
    mask = rng.integers(0, 1 << 8 * lanes.width, codec.layout.bulk, dtype=np.dtype(lanes.word), endpoint=False)
    total, _ = add(given)
    masked = (given[0][0] + mask) + given[1][0] + given[2][0] + (given[3][0] - mask)
    assert np.array_equal(masked, total)
    whole = [sum(column) for column in zip(*(levels_of(codec, bulk) for bulk, _ in given), strict=True)]
    assert levels_of(codec, total) == whole
    opened = codec.decode(*add(given), 4, [1.0]).values["a"]
    assert np.array_equal(opened, (np.array(whole, dtype=float) - 4 * (codec.levels // 2)) * (2.0 / codec.levels))


def test_levels_are_what_the_fields_hold_with_a_reserve():
    """15/16 of 2^21 - 1 is 1,966,079: 19,660 each for 100, 1,966 for 1,000.  float32 has no more than 2^24 levels."""
    assert (THREE21.levels(100), THREE21.levels(1000)) == (19_660, 1_966)
    assert UINT16.levels(16) == 3_838
    assert (UINT32.levels(3), UINT32.levels(1000)) == (2**24, 4_026_530)
    for lanes, too_many in ((UINT16, 3_840), (THREE21, 122_880)):
        lanes.levels(too_many - 1)
        with pytest.raises(ConfigError, match=lanes.name):
            lanes.levels(too_many)


@pytest.mark.parametrize(
    ("departments", "lanes"),
    [(3, UINT16), (16, UINT16), (17, THREE21), (1000, THREE21), (1001, UINT32), (65_000, UINT32)],
)
def test_left_to_itself_a_charter_takes_the_smallest_lanes_meant_for_the_roster(departments, lanes):
    assert choose("auto", departments) is lanes
    assert choose(lanes.name, departments) is lanes


def test_lanes_that_a_roster_has_outgrown_are_refused():
    with pytest.raises(ConfigError, match="uint16"):
        choose("uint16", 5000)


@LANES
def test_an_upload_has_the_promised_size(lanes):
    """10^6 parameters beside float32: 0.5, 2/3 and 1, and three scalars of the codec's own."""
    codec = SumCodec(Manifest((Term("a", (10**6,), "fixed16", 1.0),)), 10, lanes)
    assert codec.layout.nbytes / 4e6 == pytest.approx({UINT16: 0.5, THREE21: 2 / 3, UINT32: 1.0}[lanes], rel=1e-4)


@LANES
@pytest.mark.parametrize("awkward", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_stands(lanes, awkward):
    codec = SumCodec(BULK, 3, lanes)
    for at in (0, STEP - 1, STEP, 200_002):
        values = np.zeros(200_003, dtype=np.float32)
        values[at] = awkward
        with pytest.raises(ManifestError, match="not finite"):
            codec.encode({"a": values}, [1.0], key(0))


@LANES
@pytest.mark.parametrize("departments", [3, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whatever_lies_beyond_its_bound_is_clipped_however_far(lanes, departments, dtype):
    """Also where its level, as 32 bits or the lowest 16 of them, would be an innocent one: k·2^16 levels away."""
    codec = SumCodec(BULK, departments, lanes)
    levels = codec.levels
    distances = [1.0 + 2.0**-20, 1.5, 2.0, 7.0, 1e3, 1e9, 1e20, 3e38]
    distances += [2.0 * (k * 2.0**16) / levels + part for k in (1, 2, 3, 255, 2**15, 2**16) for part in (-0.5, 0, 0.5)]
    inside = np.random.default_rng(1).uniform(-1, 1, 200_003).astype(dtype)
    for distance in distances:
        values = inside.copy()
        far = np.arange(5, 200_003, 40_000)
        values[far] = distance
        values[far + 1] = -distance
        words = codec.encode({"a": values}, [1.0], key(0))
        opened = codec.decode(*words, 1, [1.0])
        allowed = codec.error_bound(1, [1.0])["a"]
        assert np.abs(opened.values["a"] - np.clip(values, -1, 1)).max() <= allowed
        if distance > 1.4:
            assert opened.clipped_share == pytest.approx(10 / 200_003)


def test_a_value_at_its_bound_never_rounds_beyond_the_last_level():
    """(L/2)/B rounded to the nearest float32 is sometimes too large, and the noise would carry B over L.

    Such bounds are searched for; 64 too much in 2^16 shows once in 1,000 values, so never in 50,000 once in e^50.
    """
    codec = SumCodec(Manifest((Term("a", (50_000,), "fixed16", 8.0),)), 3)
    half = codec.levels * 2.0**15
    drawn = np.random.default_rng(0).uniform(0.01, 8, 1000).astype(np.float32)
    awkward = drawn[drawn * (half / drawn.astype(float)).astype(np.float32) > half][:4]
    assert awkward.size == 4
    for i, bound in enumerate(awkward):
        for value, end in ((bound, codec.levels), (-bound, 0)):
            lanes = codec.encode({"a": np.full(50_000, value)}, [bound], key(i))[0].astype(int)
            assert lanes.max() <= codec.levels
            assert np.abs(lanes - end).max() <= 1


@LANES
def test_zero_is_exact_in_both_lanes(lanes):
    codec = SumCodec(MANIFEST, 7, lanes)
    given = [codec.encode(zeros(MANIFEST), codec.initial_bounds(), key(i)) for i in range(5)]
    opened = codec.decode(*add(given), 5, codec.initial_bounds())
    assert all(not value.any() for value in opened.values.values())


@given(st.lists(st.integers(-(2**47), 2**47), min_size=3, max_size=32))
def test_integers_within_the_bound_are_exact(numbers):
    """n·bound = 32·2^47 = 2^52: even the sum of all is an exact float64"""
    codec = SumCodec(Manifest((Term("n", (), "fixed64", 2.0**47),)), 32)
    lanes = [codec.encode({"n": np.array(float(number))}, [], key(0)) for number in numbers]
    assert int(codec.decode(*add(lanes), len(numbers), []).values["n"]) == sum(numbers)


@LANES
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_is_unbiased_and_a_function_of_its_key(lanes, sign):
    """Constant 0.3 of a step beyond a level, 200,003 times: the mean is off by about sqrt(0.21/200003) = 0.001 steps,
    and with 2^24 levels by up to 2^-6 more, for so many bits of noise are left there."""
    codec = SumCodec(BULK, 3, lanes)
    step = 2 / codec.levels
    values = {"a": np.full(200_003, sign * 100.3 * step)}
    one, again, other = (codec.encode(values, [1.0], key(i))[0] for i in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    levels = np.array(levels_of(codec, one)) - codec.levels // 2
    assert set(levels.tolist()) == ({100, 101} if sign > 0 else {-101, -100})
    assert abs(levels.mean() - sign * 100.3) < (0.03 if lanes is UINT32 else 0.01)


@LANES
def test_rounding_errors_of_neighbours_have_nothing_to_do_with_one_another(lanes):
    """Correlation of 200,003 errors with the ones next to them: 0 give or take sqrt(1/200003) = 0.0022"""
    codec = SumCodec(BULK, 3, lanes)
    values = np.full(200_003, 100.5 * 2 / codec.levels)
    error = np.array(levels_of(codec, codec.encode({"a": values}, [1.0], key(7))[0])) - codec.levels // 2 - 100.5
    for apart in (1, 2, 2**15, 2**16):
        assert abs(np.mean(error[apart:] * error[:-apart]) / np.mean(error**2)) < 0.015


@LANES
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_terms_are_encoded_as_if_they_were_one(lanes, factor):
    """Terms that are rounded together, and those of which some values are clipped, take their own places' uniforms."""
    sizes = (5, 40_000, 1, 99_999, 700)
    apart = Manifest(tuple(Term(f"t{at}", (size,), "fixed16", 1.0) for at, size in enumerate(sizes)))
    together = Manifest((Term("t", (sum(sizes),), "fixed16", 1.0),))
    values = np.random.default_rng(2).normal(0, 0.1, sum(sizes))
    values[5:40_005] *= factor  # of one term, more or fewer lie beyond the bound
    parts = np.split(values, np.cumsum(sizes)[:-1])
    one = SumCodec(apart, 3, lanes)
    left, own = one.encode({f"t{at}": part for at, part in enumerate(parts)}, one.initial_bounds(), key(1))
    other = SumCodec(together, 3, lanes)
    right, whole = other.encode({"t": values}, other.initial_bounds(), key(1))
    assert np.array_equal(left, right)
    assert own[-1] == whole[-1], "the share that was clipped"


def test_the_next_bounds_are_ten_root_mean_squares_and_the_clipped_share_is_counted():
    """b: all 0.01 → rms 0.01 → 0.1, the term's bound; a: 12 values, 3 of them beyond 2 → clipped 3/17 of all."""
    codec = SumCodec(MANIFEST, 3)
    values = zeros(MANIFEST)
    values["a"] = np.array([5.0, -5.0, 5.0] + [0.0] * 9).reshape(4, 3)
    values["b"] = np.full(5, 0.004)
    bounds = codec.initial_bounds()
    opened = codec.decode(*add([codec.encode(values, bounds, key(i)) for i in range(3)]), 3, bounds)
    assert opened.clipped_share == pytest.approx(3 / 17)
    assert opened.next_bounds.dtype == np.float32
    assert opened.next_bounds.tolist() == pytest.approx([2.0, 0.04], rel=1e-4)
    assert codec.check_bounds(opened.next_bounds) is not None


@given(st.integers(0, 60))
def test_published_bounds_always_lie_within_the_terms_however_small_the_updates(shift):
    codec = SumCodec(MANIFEST, 3)
    bounds = codec.initial_bounds()
    for _ in range(3):
        values = zeros(MANIFEST) | {"a": np.full((4, 3), 2.0**-shift), "b": np.full(5, -(2.0**-shift))}
        opened = codec.decode(*add([codec.encode(values, bounds, key(i)) for i in range(3)]), 3, bounds)
        bounds = codec.check_bounds(opened.next_bounds)


@pytest.mark.parametrize(
    "bounds",
    [[2.0], [2.0, 0.1, 1.0], [np.nan, 0.1], [np.inf, 0.1], [0.0, 0.1], [-1.0, 0.1], [2.0000002, 0.1], [1e-30, 0.1]],
    ids=["few", "many", "nan", "infinite", "zero", "negative", "above", "below-the-floor"],
)
def test_bounds_outside_the_terms_are_refused(bounds):
    codec = SumCodec(MANIFEST, 3)
    with pytest.raises(OutsideCharter):
        codec.check_bounds(bounds)
    with pytest.raises(OutsideCharter):
        codec.encode(zeros(MANIFEST), bounds, key(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", np.full((4, 3), np.nan)),
        ("a", np.full((4, 3), -np.inf)),
        ("a", np.zeros((3, 4))),
        ("a", np.zeros((4, 3), dtype=bool)),
        ("a", np.zeros((4, 3), dtype=complex)),
        ("count", np.array(1e9 + 1)),
        ("count", np.array(np.nan)),
        ("stats", np.full((2, 2), -0.8)),
        ("other", np.zeros(())),
        ("square:a", np.zeros(())),
    ],
)
def test_what_does_not_fit_the_manifest_is_not_encoded(name, value):
    codec = SumCodec(MANIFEST, 3)
    with pytest.raises(ManifestError):
        codec.encode(zeros(MANIFEST) | {name: value}, codec.initial_bounds(), key(0))


def test_a_missing_term_is_named():
    codec = SumCodec(MANIFEST, 3)
    with pytest.raises(ManifestError, match="'stats'"):
        codec.encode({k: v for k, v in zeros(MANIFEST).items() if k != "stats"}, codec.initial_bounds(), key(0))


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_packed_lane_beyond_what_survivors_can_produce_is_rejected_whichever_field_it_is_in(field):
    """17 elements: 6 words, of which the last holds two; its third field and the top bit of all are always 0"""
    codec = SumCodec(MANIFEST, 4, THREE21)
    bounds = codec.initial_bounds()
    most = 3 * codec.levels
    full = most | most << 21 | most << 42
    bulk = np.array([full] * 5 + [most | most << 21], dtype=np.uint64)
    exact = np.zeros(codec.layout.exact, dtype=np.uint64)
    codec.decode(bulk, exact, 3, bounds)
    for word, extra in ((2, 1 << 21 * field), (5, 1 << 42), (0, 1 << 63)):
        wrong = bulk.copy()
        wrong[word] += np.uint64(extra)
        with pytest.raises(SumRejected):
            codec.decode(wrong, exact, 3, bounds)


def test_lanes_beyond_what_survivors_can_produce_are_rejected_at_the_very_edge():
    codec = SumCodec(MANIFEST, 4)
    bounds = codec.initial_bounds()
    total16 = np.full(codec.layout.bulk, 3 * codec.levels, dtype=np.uint16)
    total64 = np.zeros(codec.layout.exact, dtype=np.uint64)
    codec.decode(total16, total64, 3, bounds)
    total16[7] += 1
    with pytest.raises(SumRejected):
        codec.decode(total16, total64, 3, bounds)
    total16[7] -= 1
    most = 3 * round(math.ldexp(1e9, codec._exact[0].bits))
    for edge in (most, 2**64 - most):
        total64[0] = edge
        codec.decode(total16, total64, 3, bounds)
    for beyond in (most + 1, 2**64 - most - 1):
        total64[0] = beyond
        with pytest.raises(SumRejected, match="'count'"):
            codec.decode(total16, total64, 3, bounds)


@LANES
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_random_lanes_are_rejected(lanes, seed):
    """1,000 random fields pass the range check with probability at most (15/16)^1000 = 1e-28"""
    rng = np.random.default_rng(seed)
    codec = SumCodec(Manifest((Term("a", (1000,), "fixed16", 1.0),)), 3, lanes)
    with pytest.raises(SumRejected):
        codec.decode(
            rng.integers(0, 1 << 8 * lanes.width, codec.layout.bulk, dtype=np.dtype(lanes.word)),
            np.zeros(codec.layout.exact, dtype=np.uint64),
            3,
            [1.0],
        )


@LANES
def test_words_of_another_layout_are_not_decoded(lanes):
    codec = SumCodec(MANIFEST, 3, lanes)
    bulk, exact = codec.encode(zeros(MANIFEST), codec.initial_bounds(), key(0))
    for wrong in ((bulk[:-1], exact), (bulk, exact[:-1]), (bulk.astype("<i2"), exact), (bulk.reshape(1, -1), exact)):
        with pytest.raises(ConfigError):
            codec.decode(*wrong, 3, codec.initial_bounds())


def test_lanes_lie_in_one_buffer_so_that_an_upload_needs_no_copy():
    lanes16, lanes64 = SumCodec(MANIFEST, 3).encode(zeros(MANIFEST), [2.0, np.float32(0.1) * np.float32(0.9)], key(0))
    assert lanes16.base is lanes64.base
    assert (lanes16.size, lanes64.size) == (17, 1 + 4 + 2 + 1)


def test_sizes_that_no_codec_serves_are_refused():
    for few in (0, 1, 2):
        with pytest.raises(TooFewDepartments):
            SumCodec(MANIFEST, few)
    with pytest.raises(ConfigError):
        SumCodec(MANIFEST, 5000)
    with pytest.raises(ManifestError):
        SumCodec(Manifest((Term("a", (1,), "fixed16", 1e30),)), 3)
    with pytest.raises(ManifestError):
        SumCodec(Manifest((Term("a", (1,), "fixed64", 1e300),)), 3)
    codec = SumCodec(MANIFEST, 3)
    lanes = codec.encode(zeros(MANIFEST), codec.initial_bounds(), key(0))
    for survivors in (0, 4):
        with pytest.raises(ConfigError):
            codec.decode(*lanes, survivors, codec.initial_bounds())
    with pytest.raises(ConfigError):
        codec.decode(lanes[0][:-1], lanes[1], 3, codec.initial_bounds())
