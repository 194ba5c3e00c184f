"""Federations with what befalls them: equal with the whole protocol and without masks, ended, resumed, refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_world import CHARTER, quick_last_steps, scenario

from commonroot.common.errors import ConfigError
from commonroot.simulations.behaviour.includes import READY
from commonroot.simulations.comparison import save
from commonroot.simulations.founding import write_table
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate


def behaviour(kind: str, **fields: object) -> str:
    return f'[[behaviour]]\nkind = "{kind}"\n' + "".join(f"{name} = {value}\n" for name, value in fields.items())


PRESENCE = {
    "dropout": behaviour("dropout", share=0.25),
    "spells": behaviour("dropout", up=4, down=1.5),
    "nights": behaviour("diurnal", period=4, awake=0.8),
    "stragglers": behaviour("stragglers", median=60, spread=1.2),
    "arrival": behaviour("arrival", rate=0.7),
    "leave": behaviour("leave", share=0.1),
}
MISBEHAVIOUR = {
    "scaled": behaviour("scaled", count=1, factor=50),
    "sign-flip": behaviour("sign-flip", count=1, **{"from": 2}),
    "random": behaviour("random", count=1),
    "nan": behaviour("nan", count=1),
    "label-flip": behaviour("label-flip", departments='["east"]'),
    "stale": behaviour("stale", count=1),
}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(1):
        yield


def arm(path: Path, **options):
    return simulate(path, **options)["arms"][0]


# -- one fate, whatever the sum ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PRESENCE, *MISBEHAVIOUR])
def test_whatever_befalls_departments_a_ring_sum_gives_the_backbone_of_the_whole_protocol(tmp_path, kind):
    path = scenario(tmp_path, rounds=3, more=(PRESENCE | MISBEHAVIOUR)[kind])
    exact, ring = (arm(path, sum=kind, finish=False) for kind in ("exact", "ring"))
    assert ring["backbone"] == exact["backbone"]
    told = ("round", "version", "cohort", "survivors", "loss", "held_out", "clipped_share")
    assert [[row[key] for key in told] for row in ring["history"]] == [
        [row[key] for key in told] for row in exact["history"]
    ]
    assert (ring["state"], ring["lost_rounds"]) == (exact["state"], exact["lost_rounds"])


def test_everything_at_once_does_not_depend_on_processes(tmp_path):
    more = "".join((PRESENCE | MISBEHAVIOUR)[kind] for kind in ("dropout", "scaled", "label-flip", "stale"))
    path = scenario(tmp_path, more=more)
    assert len({arm(path, sum="ring", workers=workers, finish=False)["backbone"] for workers in (1, 3)}) == 1


@pytest.mark.slow
def test_sessions_in_other_processes_fall_silent_and_misbehave_alike(tmp_path):
    more = "".join((PRESENCE | MISBEHAVIOUR)[kind] for kind in ("dropout", "arrival", "scaled", "stale"))
    path = scenario(tmp_path, rounds=3, more=more)
    exact = arm(path, sum="exact", workers=2, finish=False)
    assert exact["backbone"] == arm(path, sum="ring", finish=False)["backbone"]


@pytest.mark.parametrize("kind", ["scaled", "sign-flip", "random", "nan", "label-flip", "stale"])
def test_misbehaviour_changes_the_backbone_and_is_named_in_the_report(tmp_path, kind):
    honest = arm(scenario(tmp_path / "honest"), sum="ring", finish=False)
    found = arm(scenario(tmp_path / "not", more=MISBEHAVIOUR[kind]), sum="ring", finish=False)
    assert found["backbone"] != honest["backbone"]
    assert len(found["misbehaving"]) == 1 and "misbehaving" not in honest
    assert len(found["faults"]["told"]) == 1


def test_who_shouts_too_loud_is_heard_by_nobody_whatever_the_sum(tmp_path):
    """A mean change longer than any that clipped parts can have is refused, five times over; nothing is made of it."""
    path = scenario(tmp_path, more=behaviour("scaled", count=1, factor=10_000))
    exact, ring = (arm(path, sum=kind, finish=False) for kind in ("exact", "ring"))
    assert (exact["state"], exact["rounds"]) == (ring["state"], ring["rounds"]) == ("stopped", 0)
    assert exact["backbone"] == ring["backbone"]
    assert "CR42" in exact["reason"] and exact["reason"] == ring["reason"]


def test_values_that_are_no_numbers_count_as_zeros(tmp_path):
    """Who sends NaN is in the sum with nothing: as many survivors, and the weights of the others alone."""
    path = scenario(tmp_path, more=MISBEHAVIOUR["nan"])
    abstained: list[tuple[str, str]] = []

    def tell(_arm, kind, facts):
        if kind == "abstained":
            abstained.append((facts["department"], facts["code"]))

    found = arm(path, sum="ring", finish=False, tell=tell)
    assert [row["survivors"] for row in found["history"]] == [4] * 4
    assert abstained == [(next(iter(found["misbehaving"])), "CR18")] * 4


def test_misbehaving_departments_are_marked_in_table_and_page(tmp_path):
    result = simulate(scenario(tmp_path, rounds=2, more=MISBEHAVIOUR["label-flip"]), sum="ring")
    assert {row["department"]: row.get("misbehaves") for row in result["table"]} == {
        "north": None,
        "east": ["label-flip"],
        "south": None,
        "west": None,
    }
    page = save(result, tmp_path / "out")[1].read_text()
    assert "east (misbehaves: label-flip)" in page and "north (misbehaves" not in page


# -- many departments, and kills ---------------------------------------------------------------------------------------


def world_of(folder: Path, departments: int, more: str, *, rounds: int = 3) -> Path:
    """So many small departments with rows of their own."""
    text = 'seed = 3\nsum = "ring"\n' + more + CHARTER.format(rounds=rounds)
    for at in range(departments):
        random = np.random.default_rng(at)
        x = random.normal(size=(24, 4))
        write_table(folder / f"{at}.npz", x, np.where(x @ [1.0, -1.0, 0.5, 0.0] > 0, "yes", "no"))
        text += f'[[departments]]\nname = "site-{at}"\ndata = {{ path = "{at}.npz", target = "y", task = "binary" }}\n'
    path = folder / "federation.toml"
    path.write_text(text)
    return path


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


def test_two_hundred_departments_of_which_30_percent_drop_out_end_and_resume_to_the_same_backbone(tmp_path):
    """140 of 200 expected; a round needs 100."""
    path = world_of(tmp_path, 200, 'include = ["dropout-30.toml"]\n')
    undisturbed = arm(path, finish=False)
    assert undisturbed["state"] == "finished"
    assert [row["cohort"] for row in undisturbed["history"]] == [200] * 3
    assert all(110 < row["survivors"] < 170 for row in undisturbed["history"])
    seen = 0

    def tell(_arm, kind, _facts):
        nonlocal seen
        seen += kind == "trained"
        if seen == 200:  # in the middle of the second round
            raise Killed

    with pytest.raises(Killed):
        arm(path, finish=False, folder=tmp_path / "kept", tell=tell)
    assert arm(path, finish=False, folder=tmp_path / "kept")["backbone"] == undisturbed["backbone"]


def _made(kept: Path) -> bool:
    try:
        return any(kept.glob("arms/*/coordinator/backbones/run-1-version-[2-9].*"))
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "ring"])
def test_a_killed_process_resumes_to_the_same_hash_under_everything_at_once(tmp_path, kind):
    more = behaviour("dropout", share=0.1) + behaviour("stragglers", median=20) + MISBEHAVIOUR["stale"]
    more += behaviour("scaled", count=1, factor=3) + "[charter.timing]\nattempts = 30\n"
    path = scenario(tmp_path, rounds=12, more=more)
    undisturbed = arm(path, sum="ring", finish=False)
    assert undisturbed["rounds"] > 2
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "commonroot", "simulate", str(path), "--sum", kind, "--folder", str(kept)]
    command += ["--json", *(["--quick", "--workers", "2"] if kind == "ring" else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _made(kept):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert json.loads(done.stdout)["arms"][0]["backbone"] == undisturbed["backbone"]


# -- a coordinator that lies -------------------------------------------------------------------------------------------


def lying(*lies: str, **fields: object) -> str:
    return f"[coordinator]\nlies = {json.dumps(lies)}\n" + "".join(f"{k} = {v}\n" for k, v in fields.items())


@pytest.mark.parametrize(
    ("lie", "asked", "code"),
    [
        ("second-survivor-set", 8, "CR27"),
        ("too-few-survivors", 8, "CR28"),
        ("unconfirmed-survivors", 8, "CR38"),
        ("old-backbone", 4, "CR24"),
        ("another-charter", 4, "CR12"),
    ],
)
def test_a_lie_beside_the_truth_is_refused_by_everybody_and_changes_nothing(tmp_path, lie, asked, code):
    """Four departments and two rounds; version 0 has no older one, and a charter is shown once."""
    honest = arm(scenario(tmp_path / "honest", rounds=2), sum="ring", finish=False)
    found = arm(scenario(tmp_path / "lying", rounds=2, more=lying(lie)))
    assert (found["state"], found["backbone"]) == ("finished", honest["backbone"])
    assert found["lies"] == [
        {"lie": lie, "asked": asked, "departments": 4, "refused": {code: asked}, "masked": 0, "opened": 0}
    ]
    assert f"refused {asked} with {code}; opened nothing" in found["faults"]["told"][-1]


@pytest.mark.parametrize(("lie", "made"), [("different-backbones", 1), ("different-cohorts", 0)])
def test_a_coordinator_that_shows_departments_different_things_gets_no_sum(tmp_path, lie, made):
    """Two of four mask under another transcript, five times over; nobody opens for them, and two are too few."""
    found = arm(scenario(tmp_path, rounds=2, more=lying(lie)))
    assert (found["state"], found["rounds"]) == ("stopped", made)
    assert found["lies"] == [
        {"lie": lie, "asked": 20, "departments": 2, "refused": {"CR33": 10}, "masked": 10, "opened": 0}
    ]


def test_lies_keep_to_their_rounds_and_departments(tmp_path):
    more = lying("second-survivor-set", departments='["east"]', until=3, **{"from": 2})
    [heard] = arm(scenario(tmp_path, rounds=4, more=more))["lies"]
    assert (heard["asked"], heard["departments"]) == (2, 1)


@pytest.mark.parametrize("kind", ["ring", "off"])
def test_without_the_protocol_there_is_nobody_to_lie_to(tmp_path, kind):
    path = scenario(tmp_path, more=lying("old-backbone"))
    with pytest.raises(ConfigError, match="no messages to lie in"):
        simulate(path, sum=kind)


def test_labels_that_are_not_trained_on_cannot_be_flipped(tmp_path):
    path = scenario(tmp_path, more=MISBEHAVIOUR["label-flip"])
    with pytest.raises(ConfigError, match="label-flip"):
        simulate(path, arms=["als"], sum="ring")


# -- put together from files -------------------------------------------------------------------------------------------


def test_a_scenario_is_put_together_from_fragments_and_its_own_come_last(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "bad.toml").write_text('include = ["worse.toml"]\n' + behaviour("nan", count=1))
    (tmp_path / "parts" / "worse.toml").write_text("[network]\ndrop = 0.1\n" + behaviour("random", count=1))
    path = scenario(tmp_path, more=behaviour("stale", count=1) + "[network]\ndelay = 2.0\n")
    path.write_text('include = ["parts/bad.toml", "dropout-30.toml"]\n' + path.read_text())
    found = read_scenario(path)
    assert [one.kind for one in found.behaviour] == ["random", "nan", "dropout", "stale"]
    assert (found.network.drop, found.network.delay) == (0.1, 2.0)


def test_every_wrong_field_is_named_with_the_file_it_stands_in(tmp_path):
    (tmp_path / "a.toml").write_text("[network]\ndrop = 3\n" + behaviour("dropout", share=2))
    path = scenario(tmp_path, more=behaviour("nan", count=1) + behaviour("scaled", count=1, factr=2))
    path.write_text('include = ["a.toml"]\n' + path.read_text().replace("rounds = 4", "rounds = 0"))
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    fragment, main = sorted(str(caught.value).split(f"{path} has "), key=len)
    assert f"{tmp_path / 'a.toml'} has 2" in fragment or f"{tmp_path / 'a.toml'} has 2" in main
    for word in ("network.drop", "behaviour.0.share", "charter.rounds", "behaviour.1.factr"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("fragments", "said"),
    [
        ({"a": 'include = ["b.toml"]\n', "b": 'include = ["a.toml"]\n'}, "b.toml.*\n.*'a.toml' leads back"),
        ({"a": "[network]\ndrop = 0.1\n", "b": "[network]\ndrop = 0.2\n"}, "network.drop: stands in .*a.toml too"),
        ({"a": "[charter]\nrounds = 3\n", "b": ""}, "a.toml.*\n.*charter: a fragment holds network"),
        ({"a": 'include = "c.toml"\n', "b": ""}, "include: a list of files"),
        ({"a": 'include = ["nowhere.toml"]\n', "b": ""}, "there is no 'nowhere.toml'.*dropout-30.toml"),
        ({"a": 'include = ["b.toml"]\n', "b": ""}, "'b.toml' is included twice"),
        ({"a": "[network\n", "b": ""}, "a.toml is not valid TOML"),
        ({"a": "network = 3\n", "b": ""}, r"network: a table, as in \[network\]"),
        ({"a": "behaviour = 3\n", "b": ""}, r"behaviour: a list of tables, as in \[\[behaviour\]\]"),
    ],
)
def test_fragments_that_do_not_fit_are_refused_by_name(tmp_path, fragments, said):
    for name, text in fragments.items():
        (tmp_path / f"{name}.toml").write_text(text)
    path = scenario(tmp_path)
    path.write_text('include = ["a.toml", "b.toml"]\n' + path.read_text())
    with pytest.raises(ConfigError, match=said):
        read_scenario(path)


@pytest.mark.parametrize("name", sorted(path.name for path in READY.glob("*.toml")))
def test_every_fragment_that_comes_with_the_program_fits_a_scenario(tmp_path, name):
    path = scenario(tmp_path)
    path.write_text(f'include = ["{name}"]\n' + path.read_text())
    assert read_scenario(path).told()


def test_a_folder_belongs_to_what_befell_it(tmp_path):
    path = scenario(tmp_path, rounds=1, more=MISBEHAVIOUR["nan"])
    simulate(path, sum="ring", finish=False, folder=tmp_path / "kept")
    with pytest.raises(ConfigError, match="behaviour"):
        simulate(scenario(tmp_path, rounds=1), sum="ring", finish=False, folder=tmp_path / "kept")
