"""Entities by hand: what BIO tags mean, how contradictions are repaired, and what counts as found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.tasks import Tagging, score
from commonroot.client.tasks.entities import Scheme

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SCHEME = Scheme(TAGS)


def ids(*texts):
    rows = [text.split() for text in texts]
    length = max(map(len, rows))
    return np.array([[TAGS.index(t) for t in row] + [-1] * (length - len(row)) for row in rows])


def entities(text):
    spans = SCHEME.spans(ids(text))
    at = np.flatnonzero(spans.starts[0])
    return [f"{SCHEME.types[spans.kind[0, i]]} {i}-{spans.end[0, i]}" for i in at]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O O O", []),
        ("B-PER I-PER O", ["PER 0-2"]),
        ("O B-PER I-PER", ["PER 1-3"]),
        ("B-PER B-PER", ["PER 0-1", "PER 1-2"]),
        ("B-PER I-PER B-PER I-PER", ["PER 0-2", "PER 2-4"]),
        ("I-PER I-PER O", ["PER 0-2"]),  # I at the start begins one
        ("O I-LOC", ["LOC 1-2"]),  # I after O begins one
        ("B-PER I-LOC I-LOC", ["PER 0-1", "LOC 1-3"]),  # I of another type begins one
        ("B-PER O I-PER", ["PER 0-1", "PER 2-3"]),  # not continued over O
        ("B-PER I-PER I-LOC I-PER", ["PER 0-2", "LOC 2-3", "PER 3-4"]),
        ("B-LOC", ["LOC 0-1"]),
    ],
)
def test_tags_mean_these_entities(text, expected):
    assert entities(text) == expected


def slowly(tags):
    """the same, token by token, as conlleval reads them"""
    out, begun, kind = set(), None, None
    for at, tag in enumerate([*tags, "O"]):
        name = None if tag == "O" else tag[2:]
        goes_on = tag.startswith("I-") and name == kind
        if kind is not None and not goes_on:
            out.add((kind, begun, at))
        if name is not None and not goes_on:
            begun = at
        kind = name
    return out


@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=12))
def test_any_tags_mean_what_a_token_by_token_reading_says(tags):
    spans = SCHEME.spans(ids(" ".join(tags)))
    found = {
        (SCHEME.types[spans.kind[0, at]], at, spans.end[0, at]) for at in map(int, np.flatnonzero(spans.starts[0]))
    }
    assert found == slowly(tags)


def f1(true, said):
    y, guess = ids(*true), ids(*said)
    return score(Tagging(TAGS), np.eye(5)[np.maximum(guess, 0)], y)


@pytest.mark.parametrize(
    ("true", "said", "expected"),
    [
        (["B-PER I-PER O"], ["B-PER I-PER O"], 1.0),
        (["B-PER I-PER O"], ["B-PER O O"], 0.0),  # too short is not found, and wrong
        (["B-PER I-PER O"], ["B-LOC I-LOC O"], 0.0),  # another type
        (["B-PER O B-LOC"], ["B-PER O O"], 2 / 3),  # 1 right, 1 missed: 2/(2 + 1)
        (["B-PER O O", "B-LOC O O"], ["B-PER O B-PER", "B-LOC O O"], 4 / 5),  # 2 right, 1 too many: 4/(4 + 1)
        (["I-PER I-PER O"], ["B-PER I-PER O"], 1.0),  # the same entity after repair
        (["O O O"], ["O O O"], 0.0),  # nothing to find
    ],
)
def test_f1_worked_by_hand(true, said, expected):
    assert f1(true, said) == pytest.approx(expected)


def test_what_is_said_beyond_the_end_of_a_text_counts_for_nothing():
    """the second text has two tokens; its padding is tagged B-LOC and must not be a wrong entity"""
    y = ids("B-PER O O O", "O B-LOC")
    said = ids("B-PER O O O", "O B-LOC B-LOC I-LOC")
    assert score(Tagging(TAGS), np.eye(5)[said], y) == 1.0


def test_an_entity_that_a_text_ends_in_does_not_run_into_the_padding():
    """y ends after token 2; a guess that goes on is cut there too"""
    y, said = ids("O B-LOC", "O O O O"), ids("O B-LOC I-LOC I-LOC", "O O O O")
    assert score(Tagging(TAGS), np.eye(5)[said], y) == 1.0


def test_padding_is_outside_for_certain_at_any_temperature():
    task = Tagging(TAGS, 3)
    outputs = np.full((1, 3, 5), 5.0) * np.array([0, 1, 0, 0, 0])
    settled = task.settled(outputs, np.array([[7, 0, 0]], np.int32))
    for degrees in (0.05, 1.0, 20.0):
        predicted = task.predictive(settled / degrees)
        assert predicted[0].argmax(axis=1).tolist() == [1, 0, 0] and predicted[0, 1, 0] > 0.999


def test_entities_are_told_by_token_positions():
    said = np.eye(5)[ids("B-PER I-PER O B-LOC", "O O O O")]
    columns = Tagging(TAGS).columns(said)
    assert columns["entities"].tolist() == ["PER[0:2] LOC[3:4]", ""]
    assert columns["tags"].tolist() == ["B-PER I-PER O B-LOC", "O O O O"]


def test_each_type_is_told_by_itself():
    """PER: 1 of 2 found, nothing wrong; LOC: 1 of 1 found, 1 wrong"""
    y = ids("B-PER O B-PER B-LOC")
    said = np.eye(5)[ids("B-PER O B-LOC B-LOC")]
    person, place = Tagging(TAGS).facts(said, y)["by_type"]
    assert (person["precision"], person["recall"], person["f1"]) == pytest.approx((1.0, 0.5, 2 / 3))
    assert (place["precision"], place["recall"], place["f1"]) == pytest.approx((0.5, 1.0, 2 / 3))
