"""Published files become departments' tables in which nothing of the test rows can be learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from commonroot.client.data import DataConfig, prepare
from commonroot.client.ratings import read_book
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.simulations.datasets import DATASETS, find, get
from commonroot.simulations.datasets.download import published
from commonroot.strategies import seal

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
#: Departments of each protocol.
DEPARTMENTS = {
    ("clothing", "recommended"): 6,
    ("clothing", "stars"): 6,
    ("digit-images", "labels"): 4,
    ("digits", "het"): 6,
    ("digits", "tiny"): 8,
    ("digits", "skew"): 8,
    ("digits", "dom"): 8,
    ("digits", "bad"): 8,
    ("digits", "dir"): 8,
    ("digits", "groups"): 9,
    ("engines", "forty"): 4,
    ("films", "occupations"): 6,
    ("heart", "flamby"): 4,
    ("heart", "boosting"): 4,
    ("office", "surf"): 4,
    ("office", "googlenet"): 3,
    ("sales", "weeks-13"): 45,
    ("school", "quarter"): 139,
    ("school", "network"): 139,
    ("sentiment", "even"): 4,
    ("sentiment", "uneven"): 4,
    ("sentiment", "unlabelled"): 4,
    ("stars", "raw"): 4,
    ("tags", "templates"): 3,
    ("valves", "benchmark"): 3,
}


def source(name):
    dataset = get(name)
    if not dataset.folder:
        return Path()
    found = find(dataset.folder, DATA)
    if found is None:
        pytest.skip(f"{dataset.folder} is not on this machine; `commonroot download {name}` fetches it")
    return found


def write(name, folder, *, seed=1, protocol=None):
    return get(name).write(source(name), folder, seed=seed, protocol=protocol)


def rows(path):
    """A file's rows as a list of tuples."""
    if path.endswith(".npz"):
        with np.load(path) as arrays:
            return [(*map(float, x), y) for x, y in zip(arrays["X"], arrays["y"].tolist(), strict=True)]
    return pl.read_parquet(path).rows()


@pytest.mark.parametrize(("name", "protocol"), DEPARTMENTS)
def test_a_world_has_its_departments_with_rows_to_learn_from_and_to_test_on(name, protocol, tmp_path):
    world = write(name, tmp_path, protocol=protocol)
    assert len(world.departments) == DEPARTMENTS[name, protocol]
    for section in world.departments.values():
        assert Path(section["path"]).is_file() and Path(section["test_path"]).is_file()
        assert section["path"] != section["test_path"]


@pytest.mark.parametrize("name", ["heart", "clothing", "films", "engines"])
def test_the_same_seed_gives_the_same_rows_and_another_one_others(name, tmp_path):
    first, again, other = (write(name, tmp_path / str(at), seed=seed) for at, seed in enumerate((3, 3, 4)))
    for department in first.departments:
        one, two, three = (rows(world.departments[department]["test_path"]) for world in (first, again, other))
        assert one == two
        assert one != three


@pytest.mark.parametrize("name", ["stars", "films", "sales"])
def test_no_row_both_learns_and_tests(name, tmp_path):
    for section in write(name, tmp_path).departments.values():
        assert not set(rows(section["path"])) & set(rows(section["test_path"]))


@pytest.mark.parametrize(("seed", "name"), [(0, "books"), (1, "dvd"), (2, "electronics"), (7, "kitchen")])
def test_every_category_in_turn_has_no_labels_to_learn_from(seed, name, tmp_path):
    world = write("sentiment", tmp_path, seed=seed, protocol="unlabelled")
    assert [one for one, section in world.departments.items() if section.get("labelled") is False] == [name]
    for department, section in world.departments.items():
        with np.load(section["path"]) as arrays:
            assert ("y" in arrays.files) == (department != name) and arrays["X"].shape == (2000, 5000)


def test_an_engine_is_on_one_side_alone(tmp_path):
    for section in write("engines", tmp_path).departments.values():
        learn, test = (set(pl.read_parquet(section[key])["engine"]) for key in ("path", "test_path"))
        assert (len(learn), len(test)) == (60, 40)
        assert not learn & test


def test_an_engine_ends_with_nothing_left(tmp_path):
    section = write("engines", tmp_path).departments["fd001"]
    ends = pl.read_parquet(section["path"]).sort("cycle").group_by("engine").last()
    assert (ends["left"] == 0).all()
    assert pl.read_parquet(section["path"])["left"].max() == 125


def test_wear_is_told_apart_from_the_conditions_an_engine_flies_under(tmp_path):
    """learning rows have mean 0 and spread 1 under each condition, so over all six as well"""
    for section in write("engines", tmp_path).departments.values():
        learn = pl.read_parquet(section["path"], columns=section["features"]).to_numpy()
        np.testing.assert_allclose(learn.mean(axis=0), 0.0, atol=1e-6)
        np.testing.assert_allclose(learn.std(axis=0), 1.0, atol=1e-3)


def test_sensors_are_measured_from_the_start_of_their_own_experiment(tmp_path):
    for section in write("valves", tmp_path).departments.values():
        learn = pl.read_parquet(section["path"])
        start = learn.group_by("experiment").agg(pl.col(section["features"]).mean()).drop("experiment").to_numpy()
        np.testing.assert_allclose(start, 0.0, atol=1e-6)


def test_what_a_sentence_is_about_is_its_first_name(tmp_path):
    learn = pl.read_parquet(write("tags", tmp_path).departments["service"]["path"])
    for text, tags, about in learn.select("text", "tags", "about").rows():
        words, named = text.split(), tags.split()
        start = next(at for at, tag in enumerate(named) if tag.startswith("B-"))
        assert words[start : start + len(about.split())] == about.split()
        assert all(tag.startswith("I-") for tag in named[start + 1 : start + len(about.split())])
        assert not named[start + len(about.split()) :][:1] or not named[start + len(about.split())].startswith("I-")


def test_sales_are_tested_after_what_is_learned(tmp_path):
    for section in write("sales", tmp_path).departments.values():
        learn, test = (pl.read_parquet(section[key])["date"] for key in ("path", "test_path"))
        assert learn.max() < test.min()
        assert (learn.n_unique(), test.n_unique()) == (13, 13)


def test_last_weeks_sales_repeated_come_out_at_the_error_known_for_them(tmp_path):
    """Σ|sales - last week's| / Σ sales over stores, complete series, last 13 weeks: 0.095 to three digits."""
    world = write("sales", tmp_path)
    missed = sold = 0.0
    for section in world.departments.values():
        test = pl.read_parquet(section["test_path"])
        levels = pl.read_parquet(section["test_path"].replace("-test", "-levels"))
        missed += float((levels["sales"] - test["week_1"] * levels["level"]).abs().sum())
        sold += float(levels["sales"].sum())
    assert missed / sold == pytest.approx(0.0946, abs=5e-4)


def test_hospitals_have_the_rows_that_flamby_reports(tmp_path):
    """199 + 104, 172 + 89, 30 + 16 and 85 + 45 rows."""
    world = write("heart", tmp_path)
    sizes = {name: sum(len(rows(s[key])) for key in ("path", "test_path")) for name, s in world.departments.items()}
    assert sizes == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}


def test_every_film_rating_stands_once(tmp_path):
    world = write("films", tmp_path)
    frames = [pl.read_parquet(s[key]) for s in world.departments.values() for key in ("path", "test_path")]
    together = pl.concat(frames)
    assert len(together) == 100_000
    assert together["item"].min() == 1 and together["item"].max() == 1682
    assert together.select("user", "item").is_duplicated().sum() == 0


def test_lines_learn_from_the_first_400_seconds_of_each_experiment(tmp_path):
    for section in write("valves", tmp_path).departments.values():
        learn = pl.read_parquet(section["path"])
        assert set(learn.group_by("experiment").len()["len"]) == {400}


def test_tags_fit_their_words_and_a_third_of_the_names_is_new(tmp_path):
    world = write("tags", tmp_path)
    for section in world.departments.values():
        for text, tags, _ in rows(section["test_path"]):
            assert len(text.split()) == len(tags.split())
        assert not set(rows(section["path"])) >= set(rows(section["test_path"]))


def test_no_image_of_a_digit_is_in_two_places(tmp_path):
    """300 + 410, 100 + 165, 50 + 215 and 50 + 485 images, of 1,797; equal ones would be a coincidence of 64 pixels"""
    world = write("digit-images", tmp_path)
    seen = []
    sizes = {}
    for name, section in world.departments.items():
        parts = []
        for key in ("path", "test_path"):
            with np.load(section[key]) as arrays:
                assert arrays["X"].shape[1:] == (8, 8) and set(map(str, arrays["y"])) == set(section["labels"])
                parts.append([image.tobytes() for image in arrays["X"]])
        sizes[name] = tuple(map(len, parts))
        seen += [image for part in parts for image in part]
    assert len(seen) == len(set(seen))
    assert {name: learn for name, (learn, _) in sizes.items()} == {
        "sorting": 300, "parcels": 100, "returns": 50, "archive": 50,
    }  # fmt: skip


def test_an_unknown_protocol_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no protocol") as refused:
        get("office").write(tmp_path, tmp_path, seed=1, protocol="photos")
    assert "googlenet" in str(refused.value.advice)


@pytest.mark.parametrize("name", sorted(name for name in DATASETS if get(name).folder))
def test_missing_files_are_named_with_what_fetches_them(name, tmp_path):
    with pytest.raises(ConfigError, match="lacks") as refused:
        get(name).write(tmp_path / "nothing", tmp_path / "to", seed=1)
    assert f"commonroot download {name}" in str(refused.value.advice)


@pytest.mark.parametrize("folder", sorted(published()))
def test_published_hashes_are_those_of_the_files(folder):
    found = find(folder, DATA)
    if found is None:
        pytest.skip(f"{folder} is not on this machine")
    assert [file.name for file in published()[folder].files if not file.present(found)] == []


def charter_of(world, name):
    return seal(Draft.model_validate({"federation": "tried", "name": name} | dict(world.charter)))


def some(world, count=3):
    """The smallest, a middle and the largest department."""
    ordered = sorted(world.departments.items(), key=lambda one: Path(one[1]["path"]).stat().st_size)
    return dict(ordered[:: max(1, (len(ordered) - 1) // (count - 1))])


@pytest.mark.parametrize(("name", "protocol"), DEPARTMENTS)
def test_a_worlds_sections_are_rows_for_its_charters_backbone(name, protocol, tmp_path):
    """as a department itself would read them: no leak, no gap, every shape as the backbone takes it"""
    world = write(name, tmp_path, protocol=protocol)
    charter = charter_of(world, name)
    for data in map(DataConfig.model_validate, some(world).values()):
        if data.goal_kind == "recommendation":
            book = read_book(data, Path(), charter.factors)
            assert len(book.items) == charter.factors.items and min(map(len, (book.train, book.test))) > 0
            continue
        network = charter.network
        found = prepare(data, spec_input=network.input, adapter=network.adapter)
        network.check_heads(per_token=found.task.per_token)
        assert network.adapter or found.train.x.shape[1:] == network.input.shape
        for rows_of in (found.train, found.validation, found.test):
            assert len(rows_of) or (rows_of is found.validation and not found.labelled)
            assert np.isfinite(rows_of.x).all() and len(rows_of.x) == len(rows_of.y)
        assert found.task.learnable(found.train.y).any()
