"""Central IT's folder: made once, every file in its place, rosters and charters under the right signatures."""

from __future__ import annotations

import os

import pytest
from federation import small

from commonroot.client.setup import create as create_department
from commonroot.common.errors import BadSignature, ConfigError, KeyFileError, Malformed, TooFewDepartments
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.folder import CoordinatorFolder


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "centre")


def made(root, **changes):
    fields = {"federation": "grove", "host": "127.0.0.1", "port": 9443, "names": ("localhost",), "random": os.urandom}
    return CoordinatorFolder.create(root, **(fields | changes))


def requests(folder, *names):
    out = []
    for name in names:
        department = create_department(
            folder.root.parent / name,
            federation="grove",
            name=name,
            coordinator="localhost:9443",
            authority=folder.authority_public().hex(),
            ca=folder.ca,
            data="",
            random=os.urandom,
        )
        out.append(department.root / "request.json")
    return out


def test_a_new_folder_reads_back_as_it_was_made(folder):
    again = CoordinatorFolder(folder.root)
    assert (again.config.federation, again.config.port, again.config.names) == ("grove", 9443, ("localhost",))
    assert again.authority().public == again.authority_public()
    assert again.identity().public != again.authority_public()


def test_private_keys_are_their_owners_alone(folder):
    keys = [folder.root / "keys" / "coordinator.key", folder.root / "authority" / "authority.key", folder.server_key]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    private = ("keys", "authority", "links", "backbones")
    assert {(folder.root / name).stat().st_mode & 0o777 for name in private} == {0o700}
    folder.journal().close()
    assert {file.stat().st_mode & 0o777 for file in folder.root.glob("journal.db*")} == {0o600}


@pytest.mark.parametrize(
    "changes",
    [{"federation": "a/b"}, {"federation": ""}, {"port": 0}, {"port": 70_000}, {"host": 'x"\ny = 1'}],
    ids=str,
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(ConfigError):
        made(tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "centre").mkdir()
    (tmp_path / "centre" / "thesis.txt").write_text("two years of work")
    with pytest.raises(ConfigError, match="not empty"):
        made(tmp_path / "centre")
    assert [path.name for path in (tmp_path / "centre").iterdir()] == ["thesis.txt"]


def test_a_roster_is_signed_over_requests_and_the_next_one_is_of_the_next_epoch(folder):
    asked = requests(folder, "ash", "birch", "cedar", "dogwood")
    folder.sign_roster(asked[:3], colluders=None, survivors_min=None)
    first = folder.roster()
    assert (first.epoch, [m.name for m in first.departments]) == (1, ["ash", "birch", "cedar"])
    assert (first.parameters.colluders, first.parameters.opening_quorum, first.parameters.survivors_min) == (0, 2, 3)
    folder.sign_roster(requests(folder, "elm", "fir", "oak", "yew"), colluders=None, survivors_min=4)
    second = folder.roster()
    assert (second.epoch, len(second.departments), second.parameters.survivors_min) == (2, 4, 4)


@pytest.mark.parametrize("count", [1, 2])
def test_a_roster_of_fewer_than_three_is_refused_and_the_old_one_stays(folder, count):
    asked = requests(folder, "ash", "birch", "cedar")
    folder.sign_roster(asked, colluders=None, survivors_min=None)
    before = (folder.root / "roster.json").read_bytes()
    with pytest.raises(TooFewDepartments):
        folder.sign_roster(asked[:count], colluders=None, survivors_min=None)
    assert (folder.root / "roster.json").read_bytes() == before


def test_one_department_twice_is_a_clear_error(folder):
    ash, birch, _ = asked = requests(folder, "ash", "birch", "cedar")
    with pytest.raises(ConfigError, match="two departments share one name: ash"):
        folder.sign_roster([ash, birch, ash], colluders=None, survivors_min=None)
    assert not (folder.root / "roster.json").exists()
    folder.sign_roster(asked, colluders=None, survivors_min=None)


def test_a_request_that_its_department_did_not_sign_is_refused(folder):
    asked = requests(folder, "ash", "birch", "cedar")
    asked[0].write_bytes(asked[0].read_bytes().replace(b'"ash"', b'"oak"'))
    with pytest.raises(BadSignature, match="oak"):
        folder.sign_roster(asked, colluders=None, survivors_min=None)


def test_a_roster_that_was_changed_on_disk_is_not_believed(folder):
    folder.sign_roster(requests(folder, "ash", "birch", "cedar"), colluders=None, survivors_min=None)
    path = folder.root / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"epoch":1', b'"epoch":2'))
    with pytest.raises(BadSignature):
        folder.roster()


def test_the_authority_may_be_kept_elsewhere(folder):
    asked = requests(folder, "ash", "birch", "cedar")
    folder.sign_roster(asked, colluders=None, survivors_min=None)
    (folder.root / "authority" / "authority.key").unlink()
    assert len(folder.roster().departments) == 3
    with pytest.raises(KeyFileError, match=r"authority\.key"):
        folder.sign_roster(requests(folder, "elm", "fir", "oak"), colluders=None, survivors_min=None)


def test_a_charter_is_sealed_signed_and_named_by_its_hash(folder, tmp_path):
    draft = tmp_path / "draft.toml"
    draft.write_text(small.CHARTER.format(rounds=3, widths=[8, 4], attempts=3))
    signed, path = folder.sign_charter(draft)
    assert path.name == f"{signed.charter.digest.hex()}.json"
    assert folder.charter(path) == signed
    assert [term.name for term in signed.charter.terms][-3:] == ["weight", "loss", "held_out"]
    again, _ = folder.sign_charter(draft)
    assert again.charter.digest == signed.charter.digest


def test_a_charter_of_another_coordinator_is_refused(folder, tmp_path):
    federation = small.founded(tmp_path / "founded")
    with pytest.raises(BadSignature):
        folder.charter(federation.charter_path)
    with pytest.raises(Malformed):
        folder.charter(folder.root / "coordinator.toml")
    assert Identity(bytes(32)).public != folder.identity().public
