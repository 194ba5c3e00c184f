"""Making a department's folder, joining an epoch, approving a charter: keys are made here and the right ones stay."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from federation import small

from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import approve, create, data_section, join, plain_words
from commonroot.common.errors import (
    BadSignature,
    CommonrootError,
    ConfigError,
    KeyFileError,
    NotApproved,
    StorageFull,
    WrongFederation,
)
from commonroot.common.roster import Member, parse
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.files import read_secret
from commonroot.server.folder import CoordinatorFolder


@pytest.fixture
def coordinator(tmp_path):
    return CoordinatorFolder.create(
        tmp_path / "coordinator",
        federation="grove",
        host="127.0.0.1",
        port=9443,
        names=("localhost",),
        random=os.urandom,
    )


def department(coordinator: CoordinatorFolder, name: str, **changes: object) -> DepartmentFolder:
    fields = {
        "federation": "grove",
        "name": name,
        "coordinator": "localhost:9443",
        "authority": coordinator.authority_public().hex(),
        "ca": coordinator.ca,
        "data": "",
        "random": os.urandom,
    }
    return create(coordinator.root.parent / name, **(fields | changes))  # type: ignore[arg-type]


def enrolled(coordinator: CoordinatorFolder, *names: str) -> list[DepartmentFolder]:
    """Departments with a signed roster over them, not yet joined."""
    made = [department(coordinator, name) for name in names]
    coordinator.sign_roster([one.root / "request.json" for one in made], colluders=None, survivors_min=None)
    return made


def test_a_new_folder_has_keys_that_only_its_owner_reads(coordinator):
    root = department(coordinator, "ash").root
    keys = sorted((root / "keys").iterdir())
    assert [key.name for key in keys] == ["agreement.key", "identity.key", "node.key", "training.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (root / "keys").stat().st_mode & 0o777 == 0o700
    assert len({key.read_bytes() for key in keys}) == 4


def test_the_request_holds_public_keys_under_the_departments_own_signature_and_no_secret(coordinator):
    root = department(coordinator, "ash").root
    text = (root / "request.json").read_text()
    member = parse(Member, text.encode(), what="it")
    member.check()
    assert member.name == "ash"
    for name, length in (("identity", 32), ("agreement", 96), ("training", 32)):
        assert read_secret(root / "keys" / f"{name}.key", length=length).hex() not in text


def test_a_departments_folder_is_for_its_owner_alone(coordinator):
    assert department(coordinator, "ash").root.stat().st_mode & 0o077 == 0


def test_a_training_secret_may_be_given_so_that_a_run_can_be_repeated(coordinator):
    secret = hashlib.sha256(b"seed").digest()
    assert department(coordinator, "ash", training_secret=secret).secret() == secret


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../ash"},
        {"name": 'a"b'},
        {"authority": "zz"},
        {"coordinator": "nowhere"},
        {"federation": ""},
        {"data": "[data]\npath = 3\n"},
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_anything_is_written(coordinator, changes):
    target = coordinator.root.parent / "new"
    fields = {"name": "ash", "federation": "grove", "coordinator": "h:1", "authority": "0" * 64, "data": ""} | changes
    with pytest.raises(ConfigError):
        create(target, ca=coordinator.ca, random=os.urandom, **fields)
    assert not target.exists()


def test_a_path_with_quotes_and_backslashes_survives_the_configuration(coordinator):
    path = Path('/data/our "best" table\\2026.csv')
    made = department(coordinator, "ash", data=data_section(path, target='the "label"', task="binary"))
    assert (made.data.path, made.data.target) == (path, 'the "label"')


def test_joining_sets_up_the_epoch_and_erases_the_agreement_key(coordinator):
    folders = enrolled(coordinator, "ash", "birch", "cedar")
    for folder in folders:
        roster = join(folder, coordinator.root / "roster.json", os.urandom)
        assert not (folder.root / "keys" / "agreement.key").exists()
        assert folder.roster() == roster
    # Nobody has met anybody yet: of all chains each department holds its own alone.
    for at, folder in enumerate(folders):
        with small.store_of(folder) as store:
            chains = DepartmentMemory.from_bytes(store.memory(1)).chains
        assert [bool(key) for key in chains.rounds] == [peer == at for peer in range(3)]


def test_joining_twice_changes_nothing(coordinator):
    folder = enrolled(coordinator, "ash", "birch", "cedar")[0]
    join(folder, coordinator.root / "roster.json", os.urandom)
    with small.store_of(folder) as store:
        before = store.memory(1)
    join(folder, coordinator.root / "roster.json", os.urandom)
    with small.store_of(folder) as store:
        assert store.memory(1) == before


@pytest.mark.parametrize("step", ["roster.json", "erase"])
def test_a_join_that_was_interrupted_can_be_repeated(coordinator, step, monkeypatch):
    from commonroot.client import setup

    folder = enrolled(coordinator, "ash", "birch", "cedar")[0]

    def broken(*_: object, **__: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(setup, "erase" if step == "erase" else "atomic_write", broken)
        with pytest.raises(StorageFull):
            join(folder, coordinator.root / "roster.json", os.urandom)
    assert (folder.root / "keys" / "agreement.key").exists()
    with small.store_of(folder) as store:
        before = store.memory(1)
    join(folder, coordinator.root / "roster.json", os.urandom)
    with small.store_of(folder) as store:
        assert store.memory(1) == before


def test_a_roster_of_another_authority_is_refused_and_nothing_is_set_up(coordinator):
    folder = enrolled(coordinator, "ash", "birch", "cedar")[0]
    other = folder.root / "department.toml"
    other.write_text(other.read_text().replace(coordinator.authority_public().hex(), "0" * 64))
    with pytest.raises(BadSignature):
        join(DepartmentFolder(folder.root), coordinator.root / "roster.json", os.urandom)
    assert (folder.root / "keys" / "agreement.key").exists()
    assert not (folder.root / "state.db").exists()


def test_a_roster_without_this_department_is_refused(coordinator):
    stranger = department(coordinator, "oak")
    enrolled(coordinator, "ash", "birch", "cedar")
    with pytest.raises(WrongFederation):
        join(stranger, coordinator.root / "roster.json", os.urandom)


def test_a_folder_whose_node_key_was_replaced_is_refused(coordinator):
    ash, birch, _ = enrolled(coordinator, "ash", "birch", "cedar")
    shutil.copy(birch.node_key, ash.node_key)
    with pytest.raises(WrongFederation, match="node key"):
        join(ash, coordinator.root / "roster.json", os.urandom)


def test_a_charter_is_approved_by_its_hash(tmp_path):
    federation = small.founded(tmp_path)
    folder, digest = federation.departments["ash"], federation.charter.charter.digest
    folder.charter_path(digest).unlink()
    assert folder.approved(digest) is None
    with pytest.raises(NotApproved, match="not the expected"):
        approve(folder, federation.charter_path, expected="0" * 64)
    assert folder.approved(digest) is None
    approve(folder, federation.charter_path, expected=digest.hex().upper())
    assert folder.approved(digest) == federation.charter.charter
    with small.store_of(folder) as store:
        assert store.ledger()[-1].kind == "approved"


def test_a_charter_is_read_anew_once_its_file_is_another(tmp_path):
    made = small.founded(tmp_path)
    folder, digest = made.departments["ash"], made.charter.charter.digest
    assert folder.approved(digest).digest == digest
    path = folder.charter_path(digest)
    path.write_bytes(b"damaged")
    with pytest.raises(CommonrootError):
        folder.approved(digest)
    path.unlink()
    assert folder.approved(digest) is None


def test_plain_words_say_how_often_held_out_rows_are_scored(tmp_path):
    charter = small.founded(tmp_path).charter.charter
    assert "in the last." not in " ".join(plain_words(charter))
    seldom = charter.model_copy(update={"training": charter.training.model_copy(update={"held_out_every": 5})})
    assert "held_out is 0 but in one of 5 rounds and in the last." in " ".join(plain_words(seldom))


def test_plain_words_name_what_leaves_and_what_stays(tmp_path):
    """6·8 + 8 + 8·4 + 4 = 92 numbers of update."""
    words = " ".join(plain_words(small.founded(tmp_path).charter.charter))
    assert "92 numbers" in words
    assert "fewer than 3" in words
    assert "Rows, labels, heads, counts and scores stay" in words


@pytest.mark.parametrize("name", ["identity.key", "training.key"])
def test_a_key_that_others_could_read_is_not_used(tmp_path, name):
    folder = small.founded(tmp_path).departments["ash"]
    (folder.root / "keys" / name).chmod(0o640)
    with pytest.raises(KeyFileError, match="read by others"):
        folder.identity() if name == "identity.key" else folder.secret()
