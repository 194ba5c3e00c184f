"""One JSON text for one value: whatever parses is already in the only spelling."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common import canonical
from commonroot.common.errors import Malformed

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_what_is_written_is_read_back(value):
    assert canonical.loads(canonical.dumps(value), what="x") == value


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=5), st.randoms())
def test_the_order_in_which_keys_were_set_does_not_show(value, order):
    shuffled = list(value.items())
    order.shuffle(shuffled)
    assert canonical.dumps(dict(shuffled)) == canonical.dumps(value)


@given(VALUES, st.sampled_from([" ", "\n", "\t", "\r"]), st.booleans())
def test_the_same_value_with_a_blank_around_it_is_refused(value, blank, in_front):
    text = canonical.dumps(value).decode()
    with pytest.raises(Malformed, match="canonical form"):
        canonical.loads((blank + text if in_front else text + blank).encode(), what="x")


@given(st.binary(max_size=40))
def test_bytes_that_parse_are_the_only_bytes_of_their_value(data):
    try:
        value = canonical.loads(data, what="x")
    except Malformed:
        return
    assert canonical.dumps(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1,"a":2}',  # keys not sorted
        b'{"a":1,"a":1}',  # a key twice
        b'{"a": 1}',  # a blank
        b"1e0",  # another spelling of 1.0
        b"1.00",
        b'"\\u0041"',  # an escape that is not needed
        b"\xef\xbb\xbf1",  # a byte order mark
        '"a"'.encode("utf-16"),
    ],
)
def test_another_spelling_is_refused(data):
    json.loads(data.decode("utf-16" if b"\0" in data else "utf-8-sig"))  # it is JSON, only not ours
    with pytest.raises(Malformed):
        canonical.loads(data, what="the roster")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"NaN",
        b"Infinity",
        b'"\\ud800"',  # half a surrogate pair
        b'"\xff"',  # not UTF-8
        b"9" * 10_000,  # more digits than Python converts
        b"[" * 200_000,  # deeper than anybody's stack
    ],
    ids=lambda data: repr(data[:9]),
)
def test_what_is_not_json_is_malformed_and_nothing_else(data):
    with pytest.raises(Malformed, match="the roster"):
        canonical.loads(data, what="the roster")


def test_a_value_that_is_not_a_number_is_never_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical.dumps({"x": float("nan")})
