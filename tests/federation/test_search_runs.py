"""A search as it is deployed: charters signed, approved and run in turn, each followed by its evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.checking import check_folder
from commonroot.client.setup import approve
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.server.search import best, compared, in_words, queue_search, results_of
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork

DEPARTMENTS = 4


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commonroot.client.alone.GRID", ())
        patch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
        yield


def command(*words: object) -> str:
    result = CliRunner().invoke(app, ["coordinator", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def drafts(root: Path) -> list[Path]:
    """Two charters that differ in their method."""
    text = (root / "charter.toml").read_text()
    paths = [root / "one.toml", root / "two.toml"]
    for path, method in zip(paths, ("fedper", "structure"), strict=True):
        path.write_text(text.replace('name = "fedper"', f'name = "{method}"').replace('"small"', f'"{method}"'))
    return paths


def run_next(federation: Federation) -> None:
    with closing(SimulatedFederation(federation, MemoryNetwork())) as at_work:
        at_work.start_all()
        at_work.run()


@pytest.fixture(scope="module")
def searched(module_path: Path) -> tuple[Federation, list[dict[str, Any]]]:
    """All four runs; one department has lost what the first run left, so it is in the second evaluation only."""
    made = small.founded(module_path / "searched", departments=DEPARTMENTS, rounds=1)
    listed = [word for path in drafts(made.root) for word in ("--charter", path)]
    queued = json.loads(command("search", made.coordinator.root, *listed, "--json"))["queued"]
    for folder in made.departments.values():
        for one in queued:
            approve(folder, Path(one["file"]))
    check_folder(made.departments["ash"].root)  # an approved evaluation waits for its run and is no data error
    run_next(made)
    next((made.departments["dogwood"].root / "evaluations").glob("*.json")).unlink()
    for _ in queued[1:]:
        run_next(made)
    return made, queued


def test_a_search_queues_each_charter_and_then_its_evaluation(searched):
    _, queued = searched
    assert [one["run"] for one in queued] == [1, 2, 3, 4]
    names = [one["charter"] for one in queued]
    assert names == ["fedper", "evaluation of fedper", "structure", "evaluation of structure"]


def test_results_are_the_weighted_means_of_what_departments_in_the_sum_kept(searched):
    federation, _ = searched
    rows = json.loads(command("results", federation.coordinator.root, "--json"))["charters"]
    assert sorted(len(row["departments"]) for row in rows) == [3, 4]
    for row in rows:
        found = [
            json.loads((federation.departments[name].root / "evaluations" / f"{row['hash']}.json").read_text())
            for name in row["departments"]
        ]
        weights = [one["weight"] for one in found]
        assert row["weight"] == sum(weights)
        for name in ("alone", "federated"):
            assert row[name] == pytest.approx(np.average([one[name] for one in found], weights=weights), rel=1e-6)


def test_results_say_what_they_do_not_say(searched):
    federation, _ = searched
    rows = results_of(federation.coordinator)
    assert "the sums are not over the same departments" in in_words(rows)
    first, second = compared(rows)
    behind, error = second["behind"]
    assert behind == pytest.approx(first["gain"] - second["gain"])
    assert error == pytest.approx(np.hypot(first["error"], second["error"]))
    assert second["decides"] == (behind > 2 * error)
    told = command("results", federation.coordinator.root)
    assert in_words(rows)[0] in told
    assert "fedper" in told


def test_the_best_charter_is_written_as_a_draft(searched, tmp_path):
    federation, _ = searched
    command("results", federation.coordinator.root, "--write", tmp_path / "best.toml")
    draft = Draft.from_toml((tmp_path / "best.toml").read_text())
    assert draft.method.name == (best(results_of(federation.coordinator)) or {})["method"]["name"]


def test_asked_again_a_search_queues_nothing_twice(searched):
    federation, queued = searched
    assert queue_search(federation.coordinator, drafts(federation.root)) == queued
    assert queue_search(federation.coordinator, drafts(federation.root), counts=True) == queued


def test_the_chosen_model_is_still_that_of_the_last_training_run(searched):
    federation, queued = searched
    with small.store_of(federation.departments["ash"]) as store:
        assert store.latest_predictor().name.startswith(queued[2]["hash"][:16])


def test_departments_and_the_journal_agree_on_what_was_opened(searched):
    federation, _ = searched
    for row in results_of(federation.coordinator):
        for name in row["departments"]:
            path = federation.departments[name].root / "evaluations" / f"{row['hash']}.opened.json"
            said = json.loads(path.read_text())
            assert {key: said[key] for key in ("gain", "error", "weight")} == {
                key: row[key] for key in ("gain", "error", "weight")
            }


@pytest.mark.parametrize("method", ['name = "statistics"', f'name = "evaluation", options = {{ of = "{"ab" * 32}" }}'])
def test_only_what_ends_in_a_model_can_be_searched_among(tmp_path, method):
    made = small.founded(tmp_path, rounds=1)
    text = f'federation = "grove"\nname = "x"\nrounds = 1\nmethod = {{ {method} }}\n'
    text += '[[columns]]\nname = "a"\nkind = "number"\nlow = 0\nhigh = 1\n'
    (tmp_path / "draft.toml").write_text(text)
    with pytest.raises(ConfigError, match="no model that could be chosen"):
        queue_search(made.coordinator, [tmp_path / "draft.toml"])
    with small.journal_of(made) as journal:
        assert journal.runs() == []


def test_the_same_charter_twice_is_no_search(tmp_path):
    made = small.founded(tmp_path, rounds=1)
    with pytest.raises(ConfigError, match="stands twice"):
        queue_search(made.coordinator, [made.root / "charter.toml"] * 2)
