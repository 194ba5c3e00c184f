"""Joining an epoch: which rosters are taken, and what a department that is killed meanwhile does next."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from federation import small
from federation.epochs import key_of, occurs, setup_of, states
from typer.testing import CliRunner

from commonroot.client import ledger_table
from commonroot.client import setup as joining
from commonroot.client.cli import app as department_cli
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import ConfigError, EpochRollback, SplitRoster
from commonroot.common.roster import Roster, SignedRoster
from commonroot.simulations.founding import next_epoch


def test_an_older_roster_is_refused_and_the_same_one_is_a_repeat(tmp_path):
    federation = small.founded(tmp_path, departments=3)
    old = tmp_path / "old.json"
    old.write_bytes((federation.coordinator.root / "roster.json").read_bytes())
    later = next_epoch(federation)
    ash = later.departments["ash"]
    with pytest.raises(EpochRollback, match="epoch 1 was offered, but this department has joined epoch 2"):
        join(ash, old, os.urandom)
    greeting = setup_of(ash, 2).greeting
    join(ash, later.coordinator.root / "roster.json", os.urandom)
    assert setup_of(ash, 2).greeting == greeting


def test_a_second_roster_of_one_epoch_is_refused_and_kept(tmp_path):
    federation = small.founded(tmp_path, departments=3)
    roster = federation.coordinator.roster()
    other = Roster.model_validate(roster.model_dump() | {"expires": roster.expires + 1})
    path = tmp_path / "other.json"
    path.write_bytes(SignedRoster.sign(other, federation.coordinator.authority()).to_json())
    ash = federation.departments["ash"]
    with pytest.raises(SplitRoster):
        join(ash, path, os.urandom)
    assert ash.roster().digest == roster.digest
    assert (ash.root / "roster-1-other.json").read_bytes() == path.read_bytes()
    with small.store_of(ash) as store:
        assert store.ledger()[-1].facts["code"] == "CR52"
    shown = json.loads(CliRunner().invoke(department_cli, ["evidence", str(ash.root), "--json"]).stdout)
    assert shown["rosters"] == [
        {"epoch": 1, "file": str(ash.root / "roster-1-other.json"), "roster": other.digest.hex(), "signed": True}
    ]


def test_a_roster_that_expired_or_was_made_of_spent_keys_is_refused(tmp_path, monkeypatch):
    federation = small.founded(tmp_path, departments=3)
    requests = [folder.root / "request.json" for folder in federation.departments.values()]
    with pytest.raises(ConfigError, match="keys are erased: ash, birch, cedar"):
        federation.coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    monkeypatch.setattr("commonroot.client.setup.time.time", lambda: 1e11)
    with pytest.raises(ConfigError, match="expired"):
        join(federation.departments["ash"], federation.coordinator.root / "roster.json", os.urandom)


def test_renewing_twice_makes_the_same_request_and_leaves_the_epoch_alone(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        ash = at_work.federation.departments["ash"]
        first = renew(ash, os.urandom).read_bytes()
        key = key_of(ash)
        assert renew(ash, os.urandom).read_bytes() == first
        assert key_of(ash) == key
        roster = at_work.federation.coordinator.root / "roster.json"
        at_work.kill("ash")
        join(ash, roster, os.urandom)  # a repeat for the current epoch
        assert key_of(ash) == key  # does not touch the next one's
        at_work.start("ash")
        at_work.run()
        assert states(at_work.federation)[0] == "finished"


class Killed(BaseException):
    """SIGKILL."""


@pytest.mark.parametrize(
    "point",
    ["store.begin_epoch", "setup.atomic_write", "setup.erase", "store._forget_replaced", "ledger_table.append"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_joining_that_is_killed_anywhere_is_finished_by_joining_again(point, when, tmp_path, monkeypatch):
    federation = small.founded(tmp_path, departments=3)
    for folder in federation.departments.values():
        renew(folder, os.urandom)
    requests = [folder.root / "request.json" for folder in federation.departments.values()]
    federation.coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    roster = federation.coordinator.root / "roster.json"
    ash = federation.departments["ash"]
    key = key_of(ash)
    owner, name = point.split(".")
    target: Any = {"store": DepartmentStore, "setup": joining, "ledger_table": ledger_table}[owner]

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **fields: Any) -> Any:
            if when == "after":
                original(*args, **fields)
            raise Killed

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(target, name, mortal(getattr(target, name)))
        with pytest.raises(Killed):
            join(ash, roster, os.urandom)
    if setup_is_there := _has_begun(ash):
        before = setup_of(ash, 2).greeting
        if ash.roster().epoch == 1:
            with pytest.raises(ConfigError, match="interrupted"):
                renew(ash, os.urandom)
    join(ash, roster, os.urandom)
    if setup_is_there:
        assert setup_of(ash, 2).greeting == before
    assert not (ash.root / "keys" / "agreement.key").exists()
    assert not occurs(key.curve, ash.root)
    assert ash.roster().epoch == 2


def _has_begun(folder: DepartmentFolder) -> bool:
    with small.store_of(folder) as store:
        return store.setup(2) is not None
