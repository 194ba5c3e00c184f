"""What befalls parcels befalls the same ones whatever the sum: those of a ready stage too, and copies of requests."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from small_world import quick_last_steps, scenario

from commonroot.common import parcel
from commonroot.common.messages import Ready, Train
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import Identity
from commonroot.simulations.network import Crossing, drop
from commonroot.simulations.simulate import simulate
from commonroot.simulations.weather import by_round

PARCELS = ("train", "trained", "round-open", "masked")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


def weathered(folder: Path, seed: int) -> Path:
    """A scenario whose weather is drawn by the seed, and whether departments train before a round opens."""
    draw = random.Random(seed)
    kinds = ", ".join(f'"{kind}"' for kind in draw.sample(PARCELS, draw.randint(1, len(PARCELS))))
    more = f"[network]\ndrop = {draw.choice([0.1, 0.2])}\nrepeat = {draw.choice([0, 0.5, 0.9])}\n"
    more += f"delay = {draw.choice([0, 3.0])}\nparcels = [{kinds}]\n"
    if draw.random() < 0.4:
        more += '[[behaviour]]\nkind = "dropout"\nshare = 0.2\n'
    return trained_first(scenario(folder, seed=seed, rounds=3, more=more), draw.choice(["on", "off"]))


def trained_first(path: Path, ready: str) -> Path:
    path.write_text(path.read_text().replace("[charter]\n", f'[charter]\nready = "{ready}"\n'))
    return path


def facts_of(path: Path, **options) -> list[object]:
    """All of a quick run that the weather decides."""
    found = simulate(path, finish=False, **options)["arms"][0]
    rounds = [[row[key] for key in ("round", "cohort", "survivors")] for row in found["history"]]
    return [found["state"], found["backbone"], found["lost_rounds"], rounds]


@pytest.mark.parametrize("seed", [5, 8, 9, 11, 13, 14, 15, 21, 23, 26])
def test_the_same_befalls_departments_whatever_the_sum(tmp_path, seed):
    path = weathered(tmp_path, seed)
    assert facts_of(path, sum="ring") == facts_of(path, sum="exact")


FIVE = """seed = 1
[charter]
federation = "digits"
name = "tried"
rounds = 4
method = { name = "fedper" }
backbone = { inputs = 64, widths = [8] }
[world]
kind = "digits"
[[behaviour]]
kind = "dropout"
share = 0.3
"""


def test_of_five_that_drop_out_often_rounds_are_lost_and_the_run_ends_whatever_the_sum(tmp_path):
    """Three of five are enough to sum and one too few to open: such a round is lost, under either sum."""
    path = tmp_path / "federation.toml"
    path.write_text(FIVE)
    state, backbone, lost, rounds = facts_of(path, sum="exact")
    assert (state, len(rounds)) == ("finished", 4)
    assert lost > 0
    assert facts_of(path, sum="ring") == [state, backbone, lost, rounds]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


@pytest.mark.parametrize("kind", ["run-lost", "run-round"])
@pytest.mark.parametrize("how", ["ring", "exact"])
def test_who_trained_in_vain_before_a_kill_did_so_after_it_too(tmp_path, how, kind):
    weather = '[network]\ndrop = 0.3\nparcels = ["train", "trained", "masked"]\n[charter.timing]\nattempts = 50\n'
    path = trained_first(scenario(tmp_path, more=weather), "on")
    undisturbed = facts_of(path, sum=how)
    deaths = 0
    while True:
        seen: Counter[str] = Counter()

        def tell(_arm, event, _facts, seen=seen, nth=deaths + 1):
            seen[event] += 1
            if (event, seen[event]) == (kind, nth):
                raise Killed

        try:
            found = facts_of(path, sum=how, folder=tmp_path / "kept", tell=tell)
        except Killed:
            deaths += 1
            continue
        break
    assert deaths >= 2
    assert found == undisturbed


@pytest.mark.parametrize("seed", [3, 9])
def test_who_trained_in_vain_is_counted_after_a_kill_as_before_it(tmp_path, seed):
    """The journal holds no round that was never opened; yet it was lost in a row with those around it."""
    weather = '[network]\ndrop = 0.4\nparcels = ["train", "masked"]\n[charter.timing]\nattempts = 3\n'
    path = trained_first(scenario(tmp_path, seed=seed, more=weather), "on")
    undisturbed = facts_of(path, sum="ring")
    opened = 0

    def tell(_arm, event, _facts):
        nonlocal opened
        opened += event == "run-round"
        if event == "run-round" and opened == 2:
            raise Killed

    with pytest.raises(Killed):
        facts_of(path, sum="ring", folder=tmp_path / "kept", tell=tell)
    assert facts_of(path, sum="ring", folder=tmp_path / "kept") == undisturbed
    assert undisturbed[0] == "stopped"


def test_a_request_to_train_and_its_answer_are_of_their_round():
    """So no parcel of an earlier round changes what befalls them, and neither does a process that began later."""
    identity = Identity(bytes(32))

    def crossings(round: int) -> list[Crossing]:
        facts = {"charter": bytes(32), "roster": bytes(32), "epoch": 1, "version": 0, "broadcast": bytes(32)}
        asked = Train.signed(identity, round=round, seconds=1, **facts)
        said = Ready.signed(identity, asked=asked.digest, sender=0)
        there = Crossing("to-department", "a", Parcel(parcel.TRAIN, asked.encode()))
        return [there, Crossing("to-coordinator", "a", Parcel(parcel.TRAINED, said.encode()))]

    def arriving(rounds: list[int]) -> dict[int, list[int]]:
        weather, stream = by_round(3, [drop(0.5)]), random.Random(0)
        return {one: [len(list(weather(crossing, stream))) for crossing in crossings(one)] for one in rounds}

    straight = arriving(list(range(1, 17)))
    assert arriving(list(range(16, 0, -1))) == straight
    assert {tuple(fate) for fate in straight.values()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
