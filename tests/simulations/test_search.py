"""``commonroot search``: what is compared is what the evaluations opened, and no test row has a say in it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.server.search import in_words
from commonroot.simulations.arms import Arm, parse_arm
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.search import better_half, rounds_to_judge, search
from commonroot.simulations.simulate import simulate

CHARTER = """
[charter]
federation = "works"
name = "tried"
rounds = {rounds}
method = {{ name = "fedper", options = {{ fine_tune_head_epochs = 1, fine_tune_epochs = 1 }} }}
backbone = {{ inputs = 2, widths = [4] }}
"""
NAMES = ("north", "east", "south")
ARMS = ["fedper", "local"]


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commonroot.client.alone.GRID", ())
        patch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
        yield


def works(folder: Path, *, rounds: int = 1, others_test: bool = False) -> Path:
    """Three departments with a table to learn from and another to be tested on; ``others_test``: test rows differ."""
    folder.mkdir(parents=True, exist_ok=True)
    text = CHARTER.format(rounds=rounds)
    for at, name in enumerate(NAMES):
        for kind, seed in (("rows", at), ("test", 90 + at if others_test else 10 + at)):
            x = np.random.default_rng(seed).normal(0.0, 1.0, size=(40, 2))
            with (folder / f"{name}-{kind}.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["a", "b", "target"])
                rows.writerows([*row, "yes" if row[0] + at * row[1] > 0 else "no"] for row in x)
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\ntask = "binary"\n'
        text += f'path = "{name}-rows.csv"\ntest_path = "{name}-test.csv"\ntarget = "target"\n'
    (folder / "federation.toml").write_text(text)
    return folder / "federation.toml"


def records(kept: Path, what: str) -> dict[str, bytes]:
    """Files of one kind in all departments of all arms, by arm and department."""
    found = {}
    for path in sorted(kept.glob(f"arms/*/departments/*/{what}")):
        found[f"{path.relative_to(kept).parts[1]} {path.relative_to(kept).parts[3]}"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    module_path = tmp_path_factory.mktemp("searched")
    path = works(module_path / "data")
    result = search(path, arms=ARMS, folder=module_path / "kept", counts=True, write=module_path / "best.toml")
    return path, module_path, result


def test_what_was_opened_is_the_weighted_mean_of_what_departments_kept_to_themselves(searched):
    """Σ w·L / Σ w over the three departments' own files, and √Σ(w·e)² / Σ w."""
    _, root, result = searched
    for row in result["charters"]:
        found = [json.loads(one) for one in records(root / "kept", f"evaluations/{row['hash']}.json").values()]
        assert len(found) == 3
        weights = [one["weight"] for one in found]
        for name in ("alone", "federated"):
            assert row[name] == pytest.approx(np.average([one[name] for one in found], weights=weights), rel=1e-6)
        errors = [one["weight"] * one["error"] for one in found]
        assert row["error"] == pytest.approx(math.hypot(*errors) / sum(weights), rel=1e-5)
        assert row["gain"] == pytest.approx(row["alone"] - row["federated"], abs=1e-9)
        assert set(row["departments"]) == set(NAMES)
        assert 0 < row["weight"] <= 3


def test_departments_hold_what_was_opened_too(searched):
    _, root, result = searched
    opened = records(root / "kept", "evaluations/*.opened.json")
    assert len(opened) == 6
    gains = {row["hash"]: row["gain"] for row in result["charters"]}
    for content in opened.values():
        said = json.loads(content)
        assert said["gain"] == pytest.approx(gains[said["charter"]], abs=1e-9)


def test_without_anything_from_the_others_the_gain_is_exactly_nothing(searched):
    _, _, result = searched
    row = next(row for row in result["charters"] if row["arm"] == "local")
    assert (row["gain"], row["error"]) == (0.0, 0.0)


def test_the_best_arm_leads_and_its_charter_is_written_as_it_was_run(searched):
    path, root, result = searched
    gains = [row["gain"] for row in result["charters"]]
    assert gains == sorted(gains, reverse=True)
    assert result["best"] == result["charters"][0]["arm"]
    draft = parse_arm(result["best"], read_scenario(path).draft).draft
    assert Draft.from_toml((root / "best.toml").read_text()) == draft
    assert in_words(result["charters"])[0].startswith(f"best: {result['best']}, ")


def test_a_search_that_is_done_is_read_and_not_run_again(searched):
    path, root, result = searched
    heard: list[str] = []
    again = search(path, arms=ARMS, folder=root / "kept", tell=lambda arm, kind, facts: heard.append(kind))
    assert set(heard) == {"stands", "done"}
    for rows in (result["charters"], again["charters"]):
        for row in rows:
            row.pop("seconds", None)
    assert again["charters"] == result["charters"]


def test_a_simulation_in_the_same_folder_still_reports_the_arms_own_run(searched):
    path, root, _ = searched
    (report,) = simulate(path, arms=["fedper"], folder=root / "kept")["arms"]
    assert (report["rounds"], len(report["departments"])) == (1, 3)
    assert report["history"][0]["held_out"] is not None


def test_other_test_rows_change_nothing_that_departments_give(searched):
    """The same federation with other test tables: scores differ, files that evaluations read do not."""
    _, root, result = searched
    path = works(root / "elsewhere", others_test=True)
    other = search(path, arms=["fedper"], folder=root / "other")
    row = next(row for row in result["charters"] if row["arm"] == "fedper")
    assert {key: row[key] for key in ("alone", "federated", "error", "weight")} == {
        key: other["charters"][0][key] for key in ("alone", "federated", "error", "weight")
    }
    figures = [records(root / which, f"evaluations/{row['hash']}.json") for which in ("kept", "other")]
    assert len(figures[0]) == 3
    assert figures[0] == figures[1]
    scores = [
        {json.loads(one)["alone"] for name, one in records(root / which, "report.json").items() if "fedper" in name}
        for which in ("kept", "other")
    ]
    assert scores[0] != scores[1], "the counter-check: test rows did differ"


def test_halving_drops_the_worse_arms_on_the_way_and_evaluates_the_rest(tmp_path):
    """Of three arms two are left after a quarter of the rounds, and after half of them one."""
    result = search(works(tmp_path / "data", rounds=8), arms=["fedper", "fedavg", "local"], halving=True)
    done = {row["arm"]: row["rounds_done"] for row in result["charters"]}
    assert sorted(done.values()) == [2, 4, 8]
    (last,) = [row for row in result["charters"] if row["state"] == "finished"]
    assert last["arm"] == result["best"]
    assert [row["state"] for row in result["charters"][1:]] == ["dropped"] * 2


def test_the_better_half_keeps_ties_in_order_and_those_without_a_loss():
    drafts = Draft.model_validate({"federation": "f", "name": "n", "rounds": 1})
    arms = [Arm(label, drafts) for label in "abcd"]
    stays = better_half(arms, {"a": 0.5, "b": None, "c": 0.4, "d": math.inf})
    assert [arm.label for arm in stays] == ["a", "b", "c"]


def test_an_arm_that_no_federation_can_choose_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no federation can choose it"):
        search(works(tmp_path), arms=["fedper", "pooled"])


@pytest.mark.parametrize(
    ("rounds", "every", "share", "judged"),
    [(20, 1, 0.25, 5), (20, 5, 0.25, 6), (20, 10, 0.25, 11), (20, 10, 0.5, 11), (20, 99, 0.25, 20), (4, 1, 0.25, 2),
     (2, 1, 0.5, 2), (1, 1, 0.25, 1)],
)  # fmt: skip
def test_nobody_is_dropped_by_a_loss_that_no_training_has_part_in(rounds, every, share, judged):
    """after rounds that scored version judged - 1, which is not the first unless there is no other"""
    draft = Draft.from_toml(
        f'federation = "f"\nname = "n"\nrounds = {rounds}\ntraining = {{ held_out_every = {every} }}\n'
    )
    assert rounds_to_judge(draft, share) == judged
    assert draft.scores(judged - 1)
