"""From a file of ratings to positions, and a recommender from factors."""

import sqlite3

import numpy as np
import pytest
from federation import small

from commonroot.client.data import DataConfig, prepare
from commonroot.client.predicting import chosen_recommender, predict
from commonroot.client.ratings import Ratings, catalogue_digest, read_book
from commonroot.client.recommender import FactorModel, Recommender, mix
from commonroot.client.recommending import biases, gain_in_percent
from commonroot.common.backbone.factors import FactorsSpec
from commonroot.common.errors import ConfigError, DataError, ForeignState

SPEC = FactorsSpec(family="factors", items=4, width=2)


def config(**changes):
    values = {"path": "r.csv", "task": "recommendation", "user": "who", "item": "what", "target": "stars", "seed": 2}
    return DataConfig.model_validate(values | changes)


def write(folder, lines, name="r.csv", head="who,what,stars"):
    (folder / name).write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return folder


GOOD = [f"u{user},{item},{(user + item) % 5 + 1}" for user in range(8) for item in range(1, 5)]


def test_users_and_items_become_positions(tmp_path):
    book = read_book(config(), write(tmp_path, GOOD), SPEC)
    assert book.users == tuple(f"u{at}" for at in range(8))
    assert book.items == ("1", "2", "3", "4")
    whole = book.train.join(book.validation).join(book.test)
    assert len(whole) == 32
    assert len(book.test) == 6
    np.testing.assert_array_equal(whole.rating, (whole.user + whole.item + 1) % 5 + 1)


def test_whole_numbers_stored_as_floats_name_the_same_items(tmp_path):
    cells = np.array([[float(line.split(",")[1]), float(line.split(",")[2])] for line in GOOD])
    users = np.array([line.split(",")[0] for line in GOOD])
    np.savez(tmp_path / "r.npz", X=cells, names=np.array(["what", "stars"]), who=users)
    one, other = (read_book(config(path=path), write(tmp_path, GOOD), SPEC) for path in ("r.csv", "r.npz"))
    np.testing.assert_array_equal(one.train.item, other.train.item)
    np.testing.assert_array_equal(one.train.rating, other.train.rating)


def test_a_query_of_ratings_is_read_as_its_file_is(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE r (who TEXT, what INT, stars REAL)")
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", [line.split(",") for line in GOOD])
    db.close()
    asked = {"path": None, "url": "sqlite:///shop.db", "query": "SELECT who, what, stars FROM r ORDER BY rowid"}
    one, other = (read_book(config(**changes), write(tmp_path, GOOD), SPEC) for changes in ({}, asked))
    assert one.users == other.users and one.items == other.items
    for part in ("train", "validation", "test"):
        for column in ("user", "item", "rating"):
            np.testing.assert_array_equal(getattr(getattr(one, part), column), getattr(getattr(other, part), column))
    with pytest.raises(DataError, match="the query, row 2, column 'stars': found an empty cell"):
        gap = asked | {"query": "SELECT who, what, NULLIF(rowid, 2) AS stars FROM r ORDER BY rowid"}
        read_book(config(**gap), tmp_path, SPEC)


def test_a_file_of_test_ratings_is_kept_apart(tmp_path):
    write(tmp_path, GOOD[:24])
    write(tmp_path, GOOD[24:], "later.csv")
    book = read_book(config(test_path="later.csv"), tmp_path, SPEC)
    assert (len(book.train) + len(book.validation), len(book.test)) == (24, 8)
    assert set(book.test.user) == {6, 7}


def test_a_catalogue_gives_items_names_and_the_charter_may_pin_it(tmp_path):
    names = ("milk", "bread", "salt", "tea")
    write(tmp_path, names, "items.csv", "what")
    write(tmp_path, [f"u{u},{names[i]},3" for u in range(8) for i in range(4)])
    pinned = SPEC.model_copy(update={"catalogue": catalogue_digest(names).hex()})
    assert read_book(config(catalogue="items.csv"), tmp_path, pinned).items == names
    with pytest.raises(ConfigError, match="other items or another order"):
        other = SPEC.model_copy(update={"catalogue": catalogue_digest(names[::-1]).hex()})
        read_book(config(catalogue="items.csv"), tmp_path, other)
    with pytest.raises(ConfigError, match="4 items; the charter's catalogue has 5"):
        read_book(config(catalogue="items.csv"), tmp_path, SPEC.model_copy(update={"items": 5}))
    with pytest.raises(ConfigError, match="pins a catalogue"):
        read_book(config(), tmp_path, pinned)


WRONG = {
    "an unknown item": ([*GOOD, "u1,9,3"], r"row 34, column 'what': found an unknown item"),
    "an empty user": ([*GOOD, ",1,3"], r"row 34, column 'who': found an empty cell"),
    "a rating of letters": ([*GOOD, "u9,1,good"], r"row 34, column 'stars': found no number"),
    "a rating without end": ([*GOOD, "u9,1,inf"], r"row 34, column 'stars': found no number"),
    "two ratings of one item": ([*GOOD, "u1,1,3"], r"row 34: found a second rating of an item"),
    "too few": (GOOD[:9], "found 9 ratings, expected at least 10"),
}


@pytest.mark.parametrize("case", WRONG)
def test_ratings_that_cannot_be_used_are_named(tmp_path, case):
    lines, expected = WRONG[case]
    with pytest.raises(DataError, match=expected):
        read_book(config(), write(tmp_path, lines), SPEC)


def test_other_tasks_and_ratings_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="learns from ratings"):
        read_book(DataConfig(path="r.csv", target="stars", task="regression"), write(tmp_path, GOOD), SPEC)
    with pytest.raises(ConfigError, match="no features"):
        prepare(config(), folder=tmp_path)
    with pytest.raises(ValueError, match="names the columns user and item"):
        DataConfig(path="r.csv", target="stars", task="recommendation")
    with pytest.raises(ValueError, match="only a recommendation"):
        DataConfig(path="r.csv", target="stars", task="regression", catalogue="items.csv")


# -- the recommender ---------------------------------------------------------------------------------------------------


def recommender():
    """Two users, three items, one factor: mean 3; u0 likes what u1 dislikes."""
    items = np.array([[0.5, 1.0], [0.0, -1.0], [-0.5, 0.0]])
    users = np.array([[0.0, 1.0], [0.2, -1.0], [0.0, 0.0]])
    model = FactorModel("factors", 3.0, items, users)
    flat = FactorModel("biases", 3.0, items * [1, 0], users * [1, 0])
    seen = Ratings(np.array([0, 1, 1]), np.array([0, 1, 2]), np.array([5.0, 5.0, 2.0]))
    members = ((0.75, model), (0.25, flat))
    return Recommender(
        ("who", "what", "stars"), 1.0, 5.0, ("ann", "bob"), ("a", "b", "c"), members, seen, {"kept": "x"}
    )


def test_ratings_by_hand():
    """ann, a: ¾ (3 + ½ + 1) + ¼ (3 + ½) = 4.25; bob, b: ¾ (3 + .2 + 1) + ¼ · 3.2 = 3.95; a stranger, a: 3.5"""
    found = recommender().predict(["ann", "bob", "eve"], ["a", "b", "a"])
    np.testing.assert_allclose(found["rating"], [4.25, 3.95, 3.5])
    np.testing.assert_array_equal(found["known"], [True, True, False])


def test_an_item_outside_the_catalogue_is_refused():
    with pytest.raises(DataError, match="1 item"):
        recommender().predict(["ann"], ["z"])


def test_the_best_items_leave_out_what_was_rated():
    """ann has rated a: c (2.5) before b (2.25); bob has rated b and c; a stranger gets what everybody likes."""
    found = recommender().recommend(["ann", "bob", "eve"], 2)
    assert list(zip(found["user"].tolist(), found["rank"].tolist(), found["item"].tolist(), strict=True)) == [
        ("ann", 1, "c"),
        ("ann", 2, "b"),
        ("bob", 1, "a"),
        ("eve", 1, "a"),
        ("eve", 2, "b"),
    ]
    np.testing.assert_allclose(found["rating"][:2], [2.5, 2.25])


def test_profiles_by_hand():
    found = recommender().profiles(top=2, segments=2)
    assert found["user"].tolist() == ["ann", "bob"]
    assert found["ratings"].tolist() == [1, 2]
    assert found["mean"].tolist() == [5.0, 3.5]
    assert found["factor 1"].tolist() == [1.0, -1.0]
    assert (found["liked 1"].tolist(), found["liked 2"].tolist()) == (["a", "b"], ["", "c"])
    assert sorted(found["segment"].tolist()) == [1, 2]


def test_segments_are_groups_of_alike_users():
    random = np.random.default_rng(4)
    points = np.concatenate([random.normal(5, 0.1, (30, 2)), random.normal(-5, 0.1, (12, 2))])
    users = np.column_stack([np.zeros(43), np.concatenate([points, [[0, 0]]])])
    model = FactorModel("factors", 3.0, np.zeros((1, 3)), users)
    none = Ratings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    made = Recommender(("w", "x", "y"), 1, 5, tuple(f"u{at}" for at in range(42)), ("a",), ((1.0, model),), none)
    np.testing.assert_array_equal(made.profiles(segments=2)["segment"], [1] * 30 + [2] * 12)


def test_it_comes_back_whole_from_its_folder(tmp_path):
    recommender().save(tmp_path / "one")
    again = Recommender.load(tmp_path / "one")
    for found, expected in zip(
        again.recommend(["ann", "eve"], 3).values(), recommender().recommend(["ann", "eve"], 3).values(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    (tmp_path / "one" / "tensors.safetensors").write_bytes(b"nothing")
    with pytest.raises(ForeignState):
        Recommender.load(tmp_path / "one")


def test_ratings_are_cut_to_the_charters_range():
    model = FactorModel("factors", 9.0, np.zeros((1, 2)), np.zeros((1, 2)))
    assert mix([(1.0, model)], np.array([0]), np.array([0]), 1.0, 5.0).tolist() == [5.0]


def test_biases_by_hand():
    """Mean 3; item 0 rated 5 and 3: (2 + 0)/(2 + 5) = 2/7; then its user 0: (2 - 2/7)/(1 + 5) = 2/7"""
    rows = Ratings(np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([5.0, 3.0, 1.0]))
    model = biases(rows, 3, 2)
    assert (model.mean, model.items[0, 0]) == (3.0, pytest.approx(2 / 7))
    assert model.users[0, 0] == pytest.approx(2 / 7)


def test_a_gain_is_how_much_lower_the_error_is():
    """Errors halved: RMSE 50 % lower, and surely so; equal errors: 0 ± 0."""
    alone = np.random.default_rng(1).random(400) + 0.1
    found = gain_in_percent(alone / 4, alone, seed=1)
    assert (found["points"], found["low"], found["high"]) == pytest.approx((50.0, 50.0, 50.0))
    assert gain_in_percent(alone, alone, seed=1) == pytest.approx({"points": 0, "low": 0, "high": 0}, abs=1e-9)


def test_only_a_recommender_is_asked_for_the_best_items(tmp_path):
    federation = small.founded(tmp_path)
    folder = federation.departments["ash"]
    with pytest.raises(ConfigError, match="no chosen model yet"):
        chosen_recommender(folder.root)


def test_a_recommender_predicts_the_rows_of_a_query_as_those_of_a_file(tmp_path):
    """ratings of pairs, and the best items, of users that a database knows"""
    recommender().save(tmp_path / "model")
    columns = recommender().columns
    pairs = [(user, item) for user in recommender().users for item in recommender().items]
    write(tmp_path, [f"{user},{item}" for user, item in pairs], "pairs.csv", ",".join(columns[:2]))
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute(f"CREATE TABLE pairs ({columns[0]} TEXT, {columns[1]} TEXT)")
        db.executemany("INSERT INTO pairs VALUES (?, ?)", pairs)
    db.close()
    asked = {"url": f"sqlite:///{tmp_path}/shop.db", "query": "SELECT * FROM pairs ORDER BY rowid"}
    for top in (None, 2):
        predict(tmp_path / "model", tmp_path / "pairs.csv", top=top, out=str(tmp_path / "file.csv"))
        predict(tmp_path / "model", None, **asked, top=top, out=str(tmp_path / "query.csv"))
        assert (tmp_path / "query.csv").read_text() == (tmp_path / "file.csv").read_text()
    with pytest.raises(DataError, match="the query, column"):
        predict(tmp_path / "model", None, **asked | {"query": "SELECT 1 AS one"})


def test_ratings_may_have_a_decimal_comma(tmp_path):
    """stars of 1,5 … 5,5; what names users and items stays as it is"""
    lines = [line.replace(",", ";") for line in GOOD]
    write(tmp_path, [f"{line}.5" for line in lines], head="who;what;stars")
    points = read_book(config(separator=";"), tmp_path, SPEC)
    write(tmp_path, [f"{line},5" for line in lines], head="who;what;stars")
    commas = read_book(config(separator=";", decimal=","), tmp_path, SPEC)
    assert commas.users == points.users and commas.items == points.items
    np.testing.assert_array_equal(commas.train.rating, points.train.rating)
