"""What a newcomer mistypes while founding a federation: the message says what is wrong, the hint what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator in ``hq``, enrolled departments, and a token in ``oak.token``."""
    root = tmp_path_factory.mktemp("newcomer")
    federation = small.founded(root)
    federation.coordinator.root.rename(root / "hq")
    federation.departments["ash"].root.rename(root / "ash")
    made = CliRunner().invoke(app, ["coordinator", "enrol", str(root / "hq"), "oak"])
    assert made.exit_code == 0, made.output
    (root / "oak.token").write_text(made.stdout)
    return root


def told(*words: object, code: int = 2) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def test_a_name_that_no_certificate_can_hold_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("bad name", "https://hq.example", "", "a..b"):
        said = told("coordinator", "init", tmp_path / "hq", "--federation", "works", "--name", name)
        assert f"names: {name!r} is neither a host's name nor an address" in said
    assert not (tmp_path / "hq").exists()


@pytest.mark.parametrize("name", ["hq.works.example", "10.0.0.7", "::1", "localhost", "*.works.example"])
def test_names_and_addresses_are_taken(name: str, tmp_path: Path) -> None:
    assert "coordinator of" in told("coordinator", "init", tmp_path, "--federation", "w", "--name", name, code=0)


def test_a_federation_that_is_no_name_is_told_in_words(tmp_path: Path) -> None:
    said = told("coordinator", "init", tmp_path / "hq", "--federation", "Works!")
    assert "federation: 'Works!' is no name: letters, digits, spaces" in said
    assert "pattern" not in said


def test_a_department_that_is_no_name_is_told_before_a_token_is_made(place: Path) -> None:
    said = told("coordinator", "enrol", place / "hq", "a/b")
    assert "'a/b' is no name for a department" in said and "letters, digits" in said


def test_the_tokens_file_in_the_place_of_the_token_is_recognised(place: Path, tmp_path: Path) -> None:
    said = told("department", "init", tmp_path / "oak", "--token", place / "oak.token")
    assert "is a file, and no enrolment token" in said and f'--token "$(cat {place / "oak.token"})"' in said


def test_a_file_that_is_not_there_is_a_matter_of_the_path(place: Path, tmp_path: Path) -> None:
    for words in (
        ("coordinator", "admit", place / "hq", tmp_path / "nowhere.json"),
        ("coordinator", "run", place / "hq", tmp_path / "nowhere.json"),
    ):
        said = told(*words)
        assert "nowhere.json does not exist" in said and "look at the path" in said


def test_another_file_than_a_request_is_named_and_nobody_is_accused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    said = told("coordinator", "admit", place / "hq", tmp_path / "table.csv", code=3)
    assert f"{tmp_path / 'table.csv'} is no enrolment request" in said
    assert "request.json in the folder" in said and "hostile" not in said


def test_another_file_than_a_roster_is_named_and_nobody_is_accused(place: Path) -> None:
    said = told("department", "join", place / "ash", place / "hq" / "coordinator.toml", code=3)
    assert "coordinator.toml is no roster" in said
    assert "roster.json in the coordinator's folder" in said and "hostile" not in said
