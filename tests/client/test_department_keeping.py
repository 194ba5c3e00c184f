"""What a department lets go of, and the commands around its backups."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.client.cli import app as department_cli
from commonroot.client.folder import DepartmentFolder
from commonroot.client.retention import RetentionConfig, disk_use, prune
from commonroot.client.setup import create, renew
from commonroot.common.errors import ConfigError
from commonroot.files import take_ownership

DAY = 86400


@pytest.fixture
def root(tmp_path):
    """Three chosen models, an encoded table and a log; the table and the log are two days old."""
    for name in ("first", "second", "third"):
        (tmp_path / "predictors" / name).mkdir(parents=True)
        (tmp_path / "predictors" / name / "head").write_bytes(b"x" * 10)
    for path in (tmp_path / "tables" / "key" / "rows", tmp_path / "logs" / "old.log"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"y" * 10)
    before = time.time() - 2 * DAY
    for path in [*(tmp_path / "tables").rglob("*"), tmp_path / "logs" / "old.log"]:
        os.utime(path, (before, before))
    return tmp_path


def let_go(root, *, dry_run=False, owner=True, **asked):
    return prune(root, RetentionConfig(**asked), ["first", "second", "third"], dry_run=dry_run, owner=owner)["paths"]


def test_the_newest_models_stay_and_one_that_is_chosen_again_is_new(root):
    again = RetentionConfig(predictors=2)
    assert let_go(root, predictors=2, dry_run=True) == ["predictors/first"]
    assert prune(root, again, ["first", "second", "third", "first"], dry_run=True, owner=True)["paths"] == [
        "predictors/second"
    ]
    assert let_go(root, predictors=1) == ["predictors/second", "predictors/first"]
    assert [path.name for path in (root / "predictors").iterdir()] == ["third"]


def test_tables_and_logs_go_when_they_are_old_and_not_before(root):
    assert let_go(root, tables_days=3, logs_days=3) == []
    assert let_go(root, tables_days=1, logs_days=1) == ["logs/old.log", "tables/key"]
    assert disk_use(root)["uses"] == {"logs": 0, "predictors": 30, "tables": 0}


def test_tables_that_a_daemon_may_be_training_on_stay(root):
    with closing(take_ownership(root)):
        assert let_go(root, tables_days=1, owner=False) == []
    assert let_go(root, tables_days=1, owner=False) == ["tables/key"]


def test_nothing_goes_unless_somebody_asks(root):
    assert let_go(root) == []


def test_a_department_is_backed_up_and_restored_by_its_commands(tmp_path):
    federation = small.founded(tmp_path / "founded")
    folder, run = federation.departments["ash"], CliRunner()
    told = run.invoke(department_cli, ["backup", str(folder.root), str(tmp_path / "ash.tar"), "--with-keys"])
    assert told.exit_code == 0 and "keep it like the keys themselves" in told.output
    again = run.invoke(department_cli, ["backup", str(folder.root), str(tmp_path / "ash.tar")])
    assert again.exit_code == 2
    done = run.invoke(department_cli, ["restore", str(tmp_path / "ash.tar"), str(tmp_path / "ash"), "--json"])
    facts = json.loads(done.output)
    assert (facts["department"], facts["epoch"], facts["missing_keys"]) == ("ash", 1, [])
    restored = DepartmentFolder(tmp_path / "ash")
    assert restored.identity().public == folder.identity().public
    assert [path.name for path in (tmp_path / "ash" / "charters").iterdir()] == [
        f"{federation.charter.charter.digest.hex()}.json"
    ]
    assert run.invoke(department_cli, ["prune", str(tmp_path / "ash")]).exit_code == 0
    assert "free" in run.invoke(department_cli, ["disk", str(tmp_path / "ash")]).output
    assert run.invoke(department_cli, ["renew", str(tmp_path / "ash"), "--offline"]).exit_code == 0


def test_a_backup_from_before_the_first_roster_needs_a_new_token(tmp_path):
    folder = small.founded(tmp_path / "founded").departments["ash"]
    config, run = folder.config, CliRunner()
    create(
        tmp_path / "early",
        federation=config.federation,
        name="ash",
        coordinator=config.coordinator,
        authority=config.authority,
        ca=folder.ca,
        data="",
        random=os.urandom,
    )
    run.invoke(department_cli, ["backup", str(tmp_path / "early"), str(tmp_path / "ash.tar"), "--with-keys"])
    run.invoke(department_cli, ["restore", str(tmp_path / "ash.tar"), str(tmp_path / "ash")])
    with pytest.raises(ConfigError, match="the keys of the first request are gone"):
        renew(DepartmentFolder(tmp_path / "ash"), os.urandom)
