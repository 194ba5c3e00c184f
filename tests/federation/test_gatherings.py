"""Gatherings from founding to the last file: real folders, keys, masks and rounds, simulated and over sockets."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gathering_cases as cases
import numpy as np
import pytest
from federation import small
from federation.audit import Witness

from commonroot.client.checking import check_folder
from commonroot.client.daemon import serve as serve_department
from commonroot.client.data import DataConfig, prepare, training_rows
from commonroot.client.folder import DepartmentFolder
from commonroot.client.predicting import chosen_recommender, predict
from commonroot.client.predictor import Predictor
from commonroot.client.ratings import read_book
from commonroot.client.recommending import factorise
from commonroot.client.setup import approve
from commonroot.client.shared_statistics import load
from commonroot.common import parcel
from commonroot.common.errors import DataError, StatisticsMissing
from commonroot.server.backbones import BackboneStore
from commonroot.server.coordinator import serve as serve_coordinator
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, reopen
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port
from commonroot.strategies import build
from commonroot.strategies.als import items_of

NAMES = ("ash", "birch", "cedar")
TIMING = """
[timing]
gather = 20
upload = 30
opening = 15
absence = 10
closing = 40
"""
ALS = f"""\
federation = "grove"
name = "films"
rounds = 5

[method]
name = "als"
options = {{ strength = 2.0, most_users = 200 }}

[backbone]
family = "factors"
items = {cases.ITEMS}
width = {cases.WIDTH}
{TIMING}"""
STATISTICS = f"""\
federation = "grove"
name = "counts"
rounds = 1

[method]
name = "statistics"
options = {{ most_rows = 1000 }}

[[columns]]
name = "age"
kind = "number"
low = 0
high = 120
bins = 12

[[columns]]
name = "weight"
kind = "number"
low = 0
high = 500

[[columns]]
name = "since"
kind = "datetime"
low = "2020-01-01"
high = "2026-01-01"

[[columns]]
name = "segment"
kind = "category"
labels = ["retail", "business"]

[[columns]]
name = "note"
kind = "text"
buckets = 64
{TIMING}"""
TRAINING = f"""\
federation = "grove"
name = "demand"
rounds = 2
statistics = "{{digest}}"

[method]
name = "fedper"

[backbone]
inputs = 2
widths = [8, 4]
{TIMING}"""


def write_ratings(path: Path, seed: int) -> None:
    made = cases.ratings(seed, users=18)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "film", "stars"])
        for user, item, stars in zip(made["user"], made["item"], made["rating"], strict=True):
            writer.writerow([f"customer-{seed}-{user:02d}", item + 1, stars])


def write_people(path: Path, seed: int) -> None:
    random = np.random.default_rng([31, seed])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "weight", "since", "segment", "note", "label"])
        for _ in range(60 + 11 * seed):
            age, weight = random.integers(18, 90), round(float(random.normal(70 + 40 * seed, 9)), 2)
            day = f"202{random.integers(0, 6)}-0{random.integers(1, 10)}-1{random.integers(0, 10)}"
            segment = random.choice(["retail", "business", "public", ""])
            note = " ".join(random.choice(["late", "on time", "kind", "never again"], random.integers(0, 4)))
            label = "yes" if age + random.normal() * 10 > 50 else "no"
            writer.writerow([age, weight, day, segment, note, label])


RATINGS = DataConfig(
    path=Path("table.csv"), task="recommendation", user="customer", item="film", target="stars", validation=0.1, seed=3
)
PEOPLE = DataConfig(path=Path("table.csv"), task="binary", target="label", features=("age", "weight"), seed=3)


def federation_of(root: Path, charter: str, data: DataConfig, write: Any, *, port: int = 9443, **options: Any) -> Any:
    sections = dict.fromkeys(NAMES, data)
    made = found(root, federation="grove", charter_toml=charter, departments=sections, port=port, **options)
    for at, folder in enumerate(made.departments.values()):
        write(folder.root / "table.csv", at)
    return made


def simulate(federation: Federation, network: MemoryNetwork | None = None, **options: Any) -> None:
    with closing(SimulatedFederation(federation, network or MemoryNetwork(), **options)) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()


def deploy(federation: Federation) -> None:
    """Coordinator and departments in threads of this process, over TLS on loopback, until nothing is left to do."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    stop, failed = threading.Event(), []

    def department(root: Path) -> None:
        try:
            serve_department(root, as_json=True, stop=stop)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=department, args=(one.root,)) for one in federation.departments.values()]
    for thread in threads:
        thread.start()
    try:
        serve_coordinator(federation.coordinator.root, until_idle=True, as_json=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert failed == []


def finished(federation: Federation, run: int = 1) -> None:
    with small.journal_of(federation) as journal:
        one = next(each for each in journal.runs() if each.run == run)
        assert (one.state, one.reason) == ("finished", "")
        assert journal.closed_departments(run) == set(federation.departments)


def newest(federation: Federation) -> dict[str, np.ndarray]:
    with small.journal_of(federation) as journal:
        version = journal.versions(journal.runs()[-1].run)[-1]
    return BackboneStore(federation.coordinator.root / "backbones").read(version.file, version.digest)


# -- factorisation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rated(module_path: Path) -> Iterator[tuple[Federation, Witness, MemoryNetwork]]:
    """A whole simulated run, every parcel kept, with a witness beside the departments."""
    witness, network = Witness(), MemoryNetwork()
    network.keep_sent = True
    with pytest.MonkeyPatch.context() as patch:
        witness.watch(patch)
        random = witness.random(os.urandom)
        made = federation_of(module_path / "rated", ALS, RATINGS, write_ratings, random=random)
        simulate(made, network, random=random)
    finished(made)
    yield made, witness, network


def test_items_are_those_of_all_ratings_in_one_place(rated):
    federation, _, _ = rated
    charter = federation.charter.charter
    parts = []
    for folder in federation.departments.values():
        book = read_book(folder.data, folder.root, charter.factors)
        rows, users = book.train, np.asarray(len(book.users))
        parts.append({"user": rows.user, "item": rows.item, "rating": rows.rating, "users": users})
    together = cases.rounds_of(charter, [cases.pooled_ratings(parts)], through=cases.plain_sum)[-1]
    for name, array in newest(federation).items():
        if name.endswith("high"):
            np.testing.assert_allclose(array, together[name], atol=1e-6)


def test_every_department_ends_with_a_recommender_and_a_report(rated):
    federation, _, _ = rated
    for name, folder in federation.departments.items():
        report = json.loads((folder.root / "report.json").read_text())
        assert (report["name"], report["metric"], report["task"]) == (name, "RMSE", "recommendation")
        assert report["details"]["users_cut"] == 0
        assert chosen_recommender(folder.root).users[0].startswith("customer-")


def test_users_names_and_factors_and_ratings_are_in_nothing_that_was_sent(rated):
    """Factors of all departments' users, as kept from round to round and in the chosen models; contributions; names."""
    federation, witness, network = rated
    needles = witness.needles
    for folder in federation.departments.values():
        recommender = chosen_recommender(folder.root)
        for _, model in recommender.members:
            needles.numbers("users", model.users)
        for user in recommender.users:
            needles.add("names", user.encode()[4:])
    counts = needles.counts()
    assert {"head and optimizer", "contribution", "unmasked lanes", "users", "names"} <= set(counts)
    assert all(number > 20 for number in counts.values()), counts
    sent = network.sent_by_departments
    assert {one.parcel.kind for one in sent} <= parcel.TO_COORDINATOR
    assert needles.found_in([one.parcel.head for one in sent] + [one.parcel.body for one in sent]) == {}


def test_prediction_and_the_best_items_come_out_as_columns(rated, tmp_path, capsys):
    federation, _, _ = rated
    root = federation.departments["ash"].root
    asked = tmp_path / "asked.csv"
    asked.write_text("customer,film\ncustomer-0-03,2\nnobody,2\n")
    assert predict(root, asked)["columns"] == ["user", "item", "rating", "known"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("customer-0-03,2,")
    assert (lines[1].endswith("true"), lines[2].endswith("false")) == (True, True)
    facts = predict(root, asked, out=str(tmp_path / "best.csv"), top=2)
    assert facts["columns"] == ["user", "rank", "item", "rating"]


@pytest.mark.slow
def test_a_deployed_run_ends_with_the_very_bits_of_the_simulated_one(rated, tmp_path):
    federation, _, _ = rated
    deployed = federation_of(tmp_path / "deployed", ALS, RATINGS, write_ratings, port=free_port())
    assert deployed.charter.charter.digest == federation.charter.charter.digest
    deploy(deployed)
    finished(deployed)
    ours, theirs = newest(deployed), newest(federation)
    assert {name: array.tobytes() for name, array in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}
    for name, folder in deployed.departments.items():
        one, other = chosen_recommender(folder.root), chosen_recommender(federation.departments[name].root)
        for (_, a), (_, b) in zip(one.members, other.members, strict=True):
            assert a.users.tobytes() == b.users.tobytes()


def test_a_department_that_dies_in_a_sweep_is_summed_no_more_and_the_run_goes_on(tmp_path):
    """Four departments, one killed after the third round opened: the last sweeps are over three."""
    names = (*NAMES, "dogwood")
    made = found(tmp_path, federation="grove", charter_toml=ALS, departments=dict.fromkeys(names, RATINGS))
    for at, folder in enumerate(made.departments.values()):
        write_ratings(folder.root / "table.csv", at)
    with closing(SimulatedFederation(made, MemoryNetwork())) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run(lambda kind, facts: at_work.kill("dogwood") if kind == "round" and facts["version"] == 2 else None)
    with small.journal_of(made) as journal:
        assert journal.runs()[0].state == "finished"
        survivors = [len(r.report["survivors"]) for r in journal.rounds() if r.state == "closed"]
    assert survivors == [4, 4, 3, 3, 3]


def test_the_models_trained_alone_are_the_same_factorisation_on_own_ratings(rated):
    """The guard's rival is no straw man: the same code, on this department's ratings, is what it says it is."""
    federation, _, _ = rated
    charter, folder = federation.charter.charter, federation.departments["birch"]
    book = read_book(folder.data, folder.root, charter.factors)
    method = build(charter)
    own = factorise(charter, method, book.train, len(book.users), name="own")
    part = {"user": book.train.user, "item": book.train.item, "rating": book.train.rating}
    state = cases.rounds_of(charter, [part | {"users": np.asarray(len(book.users))}], through=cases.plain_sum)[-1]
    np.testing.assert_array_equal(own.items, items_of(state))


# -- statistics --------------------------------------------------------------------------------------------------------


def pooled_numbers(federation: Federation, column: str) -> np.ndarray:
    """A column's training values of all departments."""
    out = []
    for folder in federation.departments.values():
        with (folder.root / "table.csv").open() as file:
            values = np.array([float(row[column]) for row in csv.DictReader(file)])
        out.append(values[training_rows(folder.data, folder=folder.root)])
    return np.concatenate(out)


def next_charter(federation: Federation, text: str) -> Federation:
    """The same federation with another charter signed, not approved yet."""
    path = federation.root / "next.toml"
    path.write_text(text)
    signed, at = federation.coordinator.sign_charter(path)
    return Federation(federation.root, federation.coordinator, federation.departments, signed, at)


def check_standardised(federation: Federation, digest: str, counted: Federation) -> None:
    """Every department holds the same statistics, equal to the pooled ones, and standardises with them."""
    held = [load(folder.root, digest) for folder in federation.departments.values()]
    for column in ("age", "weight"):
        values = pooled_numbers(federation, column)
        assert {one.standardise(column) for one in held} == {held[0].standardise(column)}
        assert held[0].standardise(column) == pytest.approx((values.mean(), values.std()), rel=1e-9)
    for folder in federation.departments.values():
        path = next((folder.root / "predictors").iterdir())
        scaler = Predictor.load(path).features.numbers_only.scaler
        expected = [held[0].standardise(column) for column in ("age", "weight")]
        np.testing.assert_array_equal(scaler.centre, [mean for mean, _ in expected])
        np.testing.assert_array_equal(scaler.scale, [scale for _, scale in expected])


@pytest.fixture(scope="module")
def counted(module_path: Path) -> Federation:
    made: Federation = federation_of(module_path / "counted", STATISTICS, PEOPLE, write_people)
    simulate(made)
    finished(made)
    return made


def test_statistics_then_training_that_standardises_with_them(counted):
    digest = counted.charter.charter.digest.hex()
    training = next_charter(counted, TRAINING.format(digest=digest))
    for folder in training.departments.values():
        approve(folder, training.charter_path)
        assert training.charter.charter.digest.hex() in check_folder(folder.root)["charters"]
    simulate(training)
    finished(training, run=2)
    check_standardised(training, digest, counted)


def test_what_is_kept_says_what_was_counted(counted):
    shared = load(counted.departments["cedar"].root, counted.charter.charter.digest.hex())
    assert shared.count == len(pooled_numbers(counted, "age"))
    labels = dict(shared.categories("segment"))
    assert set(labels) == {"retail", "business", "other"}
    assert sum(labels.values()) == shared.known("segment") < shared.count
    assert shared.facts()["rows"] == shared.count
    assert len(shared.idf("note")) == 64


def test_a_run_of_statistics_leaves_the_chosen_model_alone(counted):
    """A statistics run closes without a predictor; whatever was chosen before it stays the newest."""
    for folder in counted.departments.values():
        with small.store_of(folder) as store:
            assert store.closed(counted.charter.charter.digest.hex(), 1) == ""
            assert (latest := store.latest_predictor()) is None or latest.is_dir()


def test_a_charter_on_statistics_that_are_not_held_is_not_approved(tmp_path):
    made = federation_of(tmp_path, STATISTICS, PEOPLE, write_people)
    training = next_charter(made, TRAINING.format(digest="ab" * 32))
    with pytest.raises(StatisticsMissing) as caught:
        approve(made.departments["ash"], training.charter_path)
    assert (caught.value.code, "ab" * 32 in str(caught.value)) == ("CR69", True)


def test_a_table_beyond_the_charters_range_is_named_cell_by_cell(tmp_path):
    made = federation_of(tmp_path, STATISTICS.replace("high = 120", "high = 60"), PEOPLE, write_people)
    with pytest.raises(DataError, match=r"table\.csv, row \d+, column 'age': found a value beyond"):
        check_folder(made.departments["ash"].root)


@pytest.mark.slow
def test_statistics_and_training_over_sockets(tmp_path):
    made = federation_of(tmp_path, STATISTICS, PEOPLE, write_people, port=free_port())
    deploy(made)
    finished(made)
    digest = made.charter.charter.digest.hex()
    training = next_charter(reopen(made.root), TRAINING.format(digest=digest))
    for folder in training.departments.values():
        approve(DepartmentFolder(folder.root), training.charter_path)
    deploy(training)
    finished(training, run=2)
    check_standardised(training, digest, made)


def test_without_shared_statistics_a_department_standardises_by_its_own_rows(counted):
    """The counter-check: the deviation of ``weight`` differs, for departments' means lie 40 apart."""
    folder = counted.departments["ash"]
    own = prepare(folder.data, folder=folder.root).features.numbers_only.scaler
    shared = load(folder.root, counted.charter.charter.digest.hex())
    assert shared.standardise("weight")[1] > 2 * own.scale[1]
