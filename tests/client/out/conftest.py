"""Departments whose run has ended: small tables, really prepared, really concluded."""

from __future__ import annotations

import datetime
import tomllib

import numpy as np
import polars as pl
import pytest

from commonroot.client import alone
from commonroot.client.data import DataConfig, prepare
from commonroot.client.learner import DepartmentLearner
from commonroot.client.store import DepartmentStore
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.strategies import build, seal

WARDS = np.array(["north", "south", "west"])


def table(n: int, seed: int = 1) -> pl.DataFrame:
    """Stays: age with gaps, ward, day of admission, a note; long or short, and how many days."""
    random = np.random.default_rng(seed)
    age, ward = random.uniform(20, 90, n).round(), random.integers(0, 3, n)
    days = random.integers(0, 700, n)
    score = (age - 55) / 20 + (ward == 1) + random.normal(0, 0.3, n)
    notes = np.where(score + random.normal(0, 1, n) > 0.2, "frail needs care", "mobile and well")
    start = datetime.date(2023, 1, 1)
    return pl.DataFrame(
        {
            "id": [f"stay-{at}" for at in range(n)],
            "age": [None if at % 17 == 3 else value for at, value in enumerate(age.tolist())],
            "ward": WARDS[ward],
            "admitted": [(start + datetime.timedelta(days=day)).isoformat() for day in days.tolist()],
            "note": notes,
            "days": np.round(5 + 2 * score + random.normal(0, 0.2, n), 2),
            "stay": np.where(score > 0.2, "long", "short"),
        }
    )


def finished(root, data: DataConfig):
    """A folder of a department, its run ended with a chosen model and a report."""
    (root / "department.toml").write_text(
        f'federation = "hospital"\nname = "stays"\ncoordinator = "localhost:9091"\nauthority = "{"ab" * 32}"\n'
        "[data]\n" + "".join(f"{key} = {value}\n" for key, value in SECTION[data.task].items()),
        encoding="utf-8",
    )
    inputs = prepare(data, folder=root).inputs
    backbone = BackboneSpec(inputs=inputs, widths=(8,))
    draft = Draft(federation="hospital", name="pilot", rounds=1, method=Method(name="fedper"), backbone=backbone)
    charter = seal(draft)
    learner = DepartmentLearner(root, "stays", data, bytes(range(32)))
    with pytest.MonkeyPatch.context() as patch:  # two baselines are enough to choose from
        patch.setattr(alone, "GRID", (alone.GRID[0], alone.GRID[-1]))
        name = learner.finish(charter, build(charter).initial(charter), 3, None)
    store = DepartmentStore(root, federation="hospital", department="stays")
    store.commit_closed(charter=charter.digest.hex(), version=3, predictor=name, facts={})
    store.close()
    return root, charter.digest.hex()


FEATURES = '["age", "ward", { column = "admitted", kind = "datetime" }, { column = "note", kind = "text", width = 32 }]'
SECTION = {
    "binary": {"path": '"stays.csv"', "target": '"stay"', "task": '"binary"', "features": FEATURES},
    "regression": {"path": '"stays.csv"', "target": '"days"', "task": '"regression"', "features": FEATURES},
}


def department(root, task):
    table(160).write_csv(root / "stays.csv")
    text = "".join(f"{key} = {value}\n" for key, value in SECTION[task].items())
    return finished(root, DataConfig.model_validate(tomllib.loads(text)))


@pytest.fixture(scope="session")
def stays(tmp_path_factory):
    """A department with a binary task, and the hash of its charter.  Nobody writes into it."""
    return department(tmp_path_factory.mktemp("stays"), "binary")


@pytest.fixture(scope="session")
def lengths(tmp_path_factory):
    """A department with a regression."""
    return department(tmp_path_factory.mktemp("lengths"), "regression")


@pytest.fixture
def new(tmp_path):
    """A file of rows without a target."""
    path = tmp_path / "new.csv"
    table(40, seed=2).drop("days", "stay").write_csv(path)
    return path
