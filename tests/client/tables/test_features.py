"""Fitted features: exact statistics in one pass, gaps and unseen values without a fault, the same after storing."""

import datetime
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures
from safetensors.numpy import load, save

from commonroot.client.data import Features, RowInput, SequenceInput, TokenInput
from commonroot.client.tables.categories import CategoryFitter
from commonroot.client.tables.dates import DateFitter, find_format
from commonroot.client.tables.images import Image, ImageFitter
from commonroot.client.tables.numbers import Moments, NumbersFitter
from commonroot.client.tables.sequences import SequenceFitter, Window
from commonroot.client.tables.text import LENGTH, TextFitter, Tokens, hashes, terms
from commonroot.common.schema import bucket_of


def fitted(fitter, *frames):
    for frame in frames:
        fitter.add(frame)
    return fitter.done()


def again(features):
    """Through JSON and safetensors, as a predictor stores them."""
    record = json.loads(json.dumps(features.to_json()))
    return Features.from_json(record, load(save(features.arrays())))


# --- numbers ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=2, max_size=2), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_moments_merged_over_any_batches_are_those_of_all_rows(rows, cuts):
    x = np.array(rows, dtype=np.float64).reshape(-1, 2)
    moments = Moments(2)
    for part in np.split(x, sorted(min(cut, len(x)) for cut in cuts)):
        moments.add(part)
    for at in range(2):
        known = x[~np.isnan(x[:, at]), at]
        assert moments.count[at] == len(known)
        if len(known):
            np.testing.assert_allclose(moments.mean[at], known.mean(), rtol=1e-9, atol=1e-6)
            np.testing.assert_allclose(moments.spread[at], known.std(), rtol=1e-7, atol=1e-6)


def test_one_batch_gives_numpys_own_mean_and_deviation_bit_for_bit():
    x = np.random.default_rng(1).normal(size=(999, 3)) * [1, 1e-3, 1e6]
    moments = Moments(3)
    moments.add(x)
    np.testing.assert_array_equal(moments.mean, x.mean(axis=0))
    np.testing.assert_array_equal(moments.spread, x.std(axis=0))


def test_a_gap_is_the_training_mean_and_a_column_says_so():
    """1, 3 and a gap: mean 2, deviation 1; so -1, 1, 0, and the second column 0, 0, 1"""
    frame = pl.DataFrame({"a": [1.0, 3.0, None]})
    part = fitted(NumbersFitter(("a",), frozenset({"a"}), "columns"), frame)
    assert part.names == ("a", "a missing")
    assert part.encode(frame, None).tolist() == [[-1, 0], [1, 0], [0, 1]]


def test_a_gap_without_a_column_of_its_own_is_the_mean_alone():
    frame = pl.DataFrame({"a": [1.0, 3.0, None]})
    part = fitted(NumbersFitter(("a",), frozenset(), "columns"), frame)
    assert part.encode(frame, None).tolist() == [[-1], [1], [0]]


def test_a_gap_that_training_never_had_is_the_mean_when_predicting():
    part = fitted(NumbersFitter(("a",), frozenset({"a"}), "columns"), pl.DataFrame({"a": [1.0, 3.0]}))
    assert part.encode(pl.DataFrame({"a": [None, 5.0]}, schema={"a": pl.Float64}), None).tolist() == [[0], [3]]


# --- categories ------------------------------------------------------------------------------------------------------


def test_categories_have_columns_by_how_often_they_came_and_an_unseen_one_has_none():
    part = fitted(CategoryFitter("c", 64), pl.DataFrame({"c": ["x", "y", "y"]}), pl.DataFrame({"c": ["z", "y"]}))
    assert part.names == ("c = y", "c = x", "c = z")
    assert part.encode(pl.DataFrame({"c": ["z", "never", None]}), None).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_beyond_the_limit_values_share_a_column_and_gaps_have_one():
    frame = pl.DataFrame({"c": ["a"] * 3 + ["b"] * 2 + ["r", "s", None]})
    part = fitted(CategoryFitter("c", 2), frame)
    assert part.names == ("c = a", "c = b", "c rare", "c missing")
    found = part.encode(pl.DataFrame({"c": ["b", "s", None, "never"]}), None)
    assert found.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_categories_are_in_no_representation():
    assert "secret" not in repr(fitted(CategoryFitter("c", 2), pl.DataFrame({"c": ["secret", "other"]})))


# --- dates -----------------------------------------------------------------------------------------------------------


def test_a_date_turns_with_the_year_and_the_week_and_goes_along_the_trend():
    """Two days a week apart are at one point of the week's circle; the trend of two dates is -1 and 1."""
    frame = pl.DataFrame({"d": ["2024-01-03", "2024-01-10"], "e": ["2024-01-03", "2024-01-04"]})
    part = fitted(DateFitter("d", "%Y-%m-%d"), frame)
    found = part.encode(frame, None)
    assert part.names == ("d trend", "d year sin", "d year cos")  # every row is a Wednesday, at midnight
    np.testing.assert_allclose(found[:, 0], [-1, 1])
    part = fitted(DateFitter("e", "%Y-%m-%d"), frame)
    assert part.names[3:] == ("e week sin", "e week cos")
    shifted = part.encode(pl.DataFrame({"e": ["2024-01-03", "2024-01-10"]}), None)
    np.testing.assert_allclose(shifted[0, 3:], shifted[1, 3:], atol=1e-5)
    np.testing.assert_allclose(np.square(found[:, 1:]).sum(axis=1), 1.0, atol=1e-6)


def test_a_date_without_a_value_is_zero_and_told():
    frame = pl.DataFrame({"d": [datetime.date(2024, 1, 1), None, datetime.date(2024, 2, 1)]})
    part = fitted(DateFitter("d", None), frame)
    assert part.names[-1] == "d missing"
    found = part.encode(frame, None)
    assert found[1].tolist() == [0] * (found.shape[1] - 1) + [1]


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2024-02-01", "2024-12-31"], "%Y-%m-%d"),
        (["01.02.2024", "31.12.2024"], "%d.%m.%Y"),
        (["02/13/2024", "12/31/2024"], "%m/%d/%Y"),
        (["2024-02-01 10:11:12"], "%Y-%m-%d %H:%M:%S"),
        (["2024-02-01", "soon"], None),
        ([], None),
    ],
)
def test_a_way_of_writing_dates_is_the_first_that_reads_them_all(texts, form):
    assert find_format(texts) == form


# --- text ------------------------------------------------------------------------------------------------------------


def test_words_and_runs_of_words_and_letters_are_terms():
    found = terms(pl.Series(["Good dress", "fit"]), ngrams=2, chars=3).sort("row", maintain_order=True)
    assert found.filter(pl.col("row") == 0)["term"].to_list() == [
        *["good", "dress", "good dress"],
        *["#<go", "#<dr", "#goo", "#dre", "#ood", "#res", "#od>", "#ess", "#ss>"],
    ]
    assert found.filter(pl.col("row") == 1)["term"].to_list() == ["fit", "#<fi", "#fit", "#it>"]


def test_a_hash_is_the_same_on_every_machine():
    """First eight bytes of BLAKE2b with an 8-byte digest, big endian; shared statistics count in the same places."""
    import hashlib

    expected = int.from_bytes(hashlib.blake2b(b"good", digest_size=8).digest(), "big")
    assert expected % 4096 == bucket_of("good", 4096)
    assert hashes(pl.Series(["good", "x", "good"])).tolist()[::2] == [expected, expected]


def test_a_text_is_a_vector_of_one_length_and_an_empty_one_is_nought():
    frame = pl.DataFrame({"t": ["good good dress", "bad fit", "", None]})
    part = fitted(TextFitter("t", width=512, ngrams=2, chars=0), frame)
    found = part.encode(frame, None)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [LENGTH, LENGTH, 0, 0], rtol=1e-5)


def test_a_word_of_every_text_weighs_less_than_one_of_few():
    """idf of a word in all of 3 texts: ln(4/4) + 1 = 1; in one: ln(4/2) + 1"""
    frame = pl.DataFrame({"t": ["the red", "the blue", "the green"]})
    part = fitted(TextFitter("t", width=4096, ngrams=1, chars=0), frame.slice(0, 2), frame.slice(2))
    found = np.sort(np.abs(part.encode(frame, None)[0]))[-2:]
    np.testing.assert_allclose(found[1] / found[0], math.log(2) + 1, rtol=1e-5)


def test_tokens_keep_their_order_are_cut_and_padded():
    frame = pl.DataFrame({"t": ["a b", "a", "b a b a", None]})
    part = Tokens("t", 3, 1000, "words")
    a, b = (int(h % 999) + 1 for h in hashes(pl.Series(["a", "b"])).tolist())
    assert part.encode(frame, None).tolist() == [[a, b, 0], [a, 0, 0], [b, a, b], [0, 0, 0]]


def test_an_item_of_a_list_keeps_its_place_even_when_empty():
    """so that tags of the items stay aligned"""
    frame = pl.DataFrame({"t": [["New", "", "York"], []]})
    found = Tokens("t", 4, 1000, "items").encode(frame, None)
    assert (found[0] > 0).tolist() == [True, False, True, False] and not found[1].any()


# --- images and sequences --------------------------------------------------------------------------------------------


def test_image_files_are_brought_to_one_size_and_range(tmp_path):
    Pictures.new("RGB", (9, 5), (255, 0, 0)).save(tmp_path / "red.png")
    Pictures.new("L", (4, 4), 0).save(tmp_path / "black.png")
    shape = Image("i", 3, 6, 8)
    frame = pl.DataFrame({"i": ["red.png", "black.png"]})
    found = fitted(ImageFitter(shape, tmp_path), frame).encode(frame, tmp_path)
    assert found.shape == (2, 3, 6, 8)
    assert found[0, :, 0, 0].tolist() == [1, -1, -1] and (found[1] == -1).all()


def test_image_arrays_take_their_range_from_the_training_rows():
    frame = pl.DataFrame({"i": pl.Series(np.array([[[0, 16], [8, 4]]], dtype=np.float64))})
    part = fitted(ImageFitter(Image("i", 1, 2, 2), None), frame)
    np.testing.assert_allclose(part.encode(frame, None), [[[[-1, 1], [0, -0.5]]]])


def test_a_list_column_is_the_last_steps_with_noughts_before_a_shorter_one():
    """items 1, 2, 3, 4, 6: standardised by their mean 3.2 and deviation"""
    frame = pl.DataFrame({"s": [[1.0, 2.0, 3.0], [4.0], [6.0, 2.0, 3.0, 4.0], []]})
    part = fitted(SequenceFitter("s", 3, 1), frame)
    found = part.encode(frame, None)[:, :, 0]
    z = [(v - part.scaler.centre[0]) / part.scaler.scale[0] for v in range(7)]
    np.testing.assert_allclose(found, [[z[1], z[2], z[3]], [0, 0, z[4]], [z[2], z[3], z[4]], [0, 0, 0]], rtol=1e-5)


def test_lists_of_channels_are_sequences_with_channels():
    frame = pl.DataFrame({"s": [[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0]]]})
    part = fitted(SequenceFitter("s", 2, 2), frame)
    found = part.encode(frame, None)
    assert found.shape == (2, 2, 2)
    np.testing.assert_allclose(found[0, :, 0], found[0, :, 1], rtol=1e-6)
    assert (found[1, 0] == 0).all()


def test_a_window_is_a_row_with_those_before_it_in_its_group():
    """Two machines, rows in disorder: machine a has 1, 2, 3 in order, machine b has 10; the first row is repeated."""
    frame = pl.DataFrame({"m": ["a", "b", "a", "a"], "t": [3, 1, 1, 2], "v": [3.0, 10.0, 1.0, 2.0]})
    numbers = fitted(NumbersFitter(("v",), frozenset(), "columns"), pl.DataFrame({"v": [-1.0, 1.0]}))
    features = Features(SequenceInput(2, 1), (numbers,), Window("t", 2, "m"))
    limited = np.minimum([[2, 3], [10, 10], [1, 1], [1, 2]], 5.0)  # standardised values end at 5
    np.testing.assert_array_equal(features.encode(frame)[:, :, 0], limited)


# --- together --------------------------------------------------------------------------------------------------------


def test_features_are_the_same_after_storing():
    frame = pl.DataFrame(
        {
            "n": [1.0, None, 3.0],
            "c": ["x", None, "y"],
            "d": ["2024-01-01", "2024-02-02", None],
            "t": ["good dress", None, "bad fit"],
        }
    )
    parts = (
        fitted(NumbersFitter(("n",), frozenset({"n"}), "columns"), frame),
        fitted(CategoryFitter("c", 1), frame),
        fitted(DateFitter("d", "%Y-%m-%d"), frame),
        fitted(TextFitter("t", width=16, ngrams=2, chars=3), frame),
    )
    features = Features(RowInput(sum(len(part.names) for part in parts)), parts)
    stored = again(features)
    assert stored.to_json() == features.to_json() and stored.names == features.names
    np.testing.assert_array_equal(stored.encode(frame), features.encode(frame))
    assert stored.columns == ("n", "c", "d", "t")
    assert stored.kinds == {"n": "number", "c": "category", "d": "datetime", "t": "text"}


@pytest.mark.parametrize(
    "features",
    [
        Features(TokenInput(4, 50), (Tokens("t", 4, 50, "words", 2),)),
        Features(SequenceInput(2, 1), (fitted(SequenceFitter("s", 2, 1), pl.DataFrame({"s": [[1.0, 2.0]]})),)),
        Features(RowInput(1), (fitted(NumbersFitter(("v",), frozenset(), "table"), pl.DataFrame({"v": [1.0]})),)),
    ],
    ids=["tokens", "sequence", "number"],
)
def test_every_form_of_rows_is_the_same_after_storing(features):
    assert again(features).to_json() == features.to_json()
    assert again(features).input == features.input
