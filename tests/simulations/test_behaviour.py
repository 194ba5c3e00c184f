"""What befalls departments: processes that follow from seed, round and department alone, each by what it says."""

from __future__ import annotations

import itertools
import math
from statistics import mean, median

import numpy as np
import pytest
from small_world import CHARTER

from commonroot.client.contribution import Trained
from commonroot.common.charter import model_from_toml
from commonroot.common.errors import ConfigError
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.labels import permuted
from commonroot.simulations.behaviour.misbehaving import Act, Misbehaving
from commonroot.simulations.behaviour.noise import Noise, NotNumbers
from commonroot.simulations.behaviour.scaled import Scaled, SignFlip
from commonroot.simulations.behaviour.stale import Stale
from commonroot.simulations.behaviour.stragglers import Stragglers
from commonroot.simulations.given import values_of
from commonroot.simulations.scenario import Scenario


def many(more: str, *, departments: int = 200, rounds: int = 40, seed: int = 1) -> Scenario:
    """So many departments that nobody ever reads the rows of."""
    sites = "".join(
        f'[[departments]]\nname = "site-{at}"\ndata = {{ path = "x.csv", target = "y", task = "binary" }}\n'
        for at in range(departments)
    )
    return model_from_toml(Scenario, f"seed = {seed}\n" + CHARTER.format(rounds=rounds) + sites + more, path="it")


def behaviour(kind: str, **fields: object) -> str:
    return f'[[behaviour]]\nkind = "{kind}"\n' + "".join(f"{name} = {value}\n" for name, value in fields.items())


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_of_many_departments_the_named_share_drops_out_and_others_in_every_round():
    """200 departments in 40 rounds, 30 %: 2,400 expected of 8,000, one standard deviation is √(8000·0.3·0.7) = 41."""
    cast = many(behaviour("dropout", share=0.3)).cast()
    away = [frozenset(cast.away(at, at)) for at in range(1, 41)]
    assert abs(sum(map(len, away)) - 2400) < 5 * 41
    assert len(set(away)) == 40


def test_who_drops_out_follows_from_seed_round_and_department_and_not_from_the_order_of_questions():
    scenario = many(behaviour("dropout", share=0.3) + behaviour("dropout", up=4, down=2))
    straight = [scenario.cast().away(at, at) for at in range(1, 41)]
    cast = scenario.cast()
    assert list(reversed([cast.away(at, at) for at in range(40, 0, -1)])) == straight
    other = many(behaviour("dropout", share=0.3) + behaviour("dropout", up=4, down=2), seed=2).cast()
    assert [other.away(at, at) for at in range(1, 41)] != straight


def test_a_department_of_a_larger_federation_drops_out_of_the_same_rounds():
    small, large = (many(behaviour("dropout", share=0.3), departments=n).cast() for n in (20, 200))
    assert [n for n in large.away(3, 3) if n in small.names] == small.away(3, 3)


def test_a_round_that_is_tried_again_is_another_draw():
    cast = many(behaviour("dropout", share=0.3)).cast()
    assert cast.away(1, 1) != cast.away(1, 2)


def test_spells_have_the_means_that_were_asked_for():
    """Up 4 rounds and down 2 in the mean: away a third of the time, and a change every three rounds."""
    cast = many(behaviour("dropout", up=4, down=2), departments=300).cast()
    rows = np.array([[name in away for name in cast.names] for away in (set(cast.away(1, n)) for n in range(1, 301))])
    assert rows.mean() == pytest.approx(1 / 3, abs=0.02)
    assert (rows[1:] != rows[:-1]).mean() == pytest.approx(1 / 3, abs=0.02)


def test_a_window_ends_what_it_began():
    cast = many(behaviour("dropout", share=1.0, until=4, **{"from": 3})).cast()
    assert [bool(cast.away(at, at)) for at in range(1, 7)] == [False, False, True, True, False, False]


def test_departments_have_nights_at_hours_of_their_own():
    cast = many(behaviour("diurnal", period=10, awake=0.6)).cast()
    rows = np.array([[name in set(cast.away(1, n)) for name in cast.names] for n in range(1, 21)])
    assert (rows[:10] == rows[10:]).all()
    assert (rows[:10].sum(0) == 4).all()
    assert 40 < rows.sum(1).min() <= rows.sum(1).max() < 120
    assert set(many(behaviour("diurnal", period=10, spread=0)).cast().away(1, 9)) == set(cast.names)


# -- coming and going --------------------------------------------------------------------------------------------------


def test_departments_arrive_as_a_poisson_process_and_stay():
    """100 of 200 are there: as many as a round opens with.  Two per round in the mean fill the rest in 50 rounds."""
    scenario = many(behaviour("arrival", rate=2), rounds=80)
    cast = scenario.cast()
    counts = [len(cast.present(version)) for version in range(80)]
    assert counts[0] == scenario.opens_with == 100
    assert counts == sorted(counts) and counts[-1] == 200
    gaps = np.diff(counts[:40])
    assert gaps.mean() == pytest.approx(2, abs=0.8) and gaps.std() > 0.7


def test_departments_arrive_uniformly_by_the_round_that_is_named():
    cast = many(behaviour("arrival", first=120, until=21, **{"from": 2})).cast()
    counts = [len(cast.present(version)) for version in range(22)]
    assert (counts[0], counts[20]) == (120, 200)
    assert 150 < counts[10] < 175


def test_who_left_does_not_come_back():
    """5 % before each of 20 rounds leave 0.95^20 = 36 % of 200: 72, one standard deviation is 7."""
    cast = many(behaviour("leave", share=0.05)).cast()
    there = [set(cast.present(version)) for version in range(20)]
    assert all(after <= before for before, after in itertools.pairwise(there))
    assert abs(len(there[-1]) - 72) < 28


def test_whom_a_process_concerns_is_named_counted_or_a_share():
    names = many("").names
    for fields, expected in (
        ({"departments": '["site-3", "site-1"]'}, 2),
        ({"count": 7}, 7),
        ({"fraction": 0.25}, 50),
    ):
        cast = many(behaviour("dropout", share=1.0, **fields)).cast()
        assert len(cast.away(1, 1)) == expected
    assert many(behaviour("dropout", share=1.0)).cast().away(1, 1) == list(names)


# -- stragglers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["lognormal", "pareto"])
def test_half_of_all_uploads_take_less_than_the_median_and_some_take_very_long(tail):
    one = Stragglers(kind="stragglers", median=20, tail=tail)
    random = np.random.default_rng(1)
    took = sorted(one.seconds(*random.standard_normal(2)) for _ in range(4000))
    assert median(took) == pytest.approx(20, rel=0.1)
    assert took[-40] > 100 and all(map(math.isfinite, took))


def test_a_steady_department_is_slow_in_every_round():
    one = Stragglers(kind="stragglers", median=20, steady=1.0)
    assert len({one.seconds(0.7, now) for now in (-2.0, 0.0, 2.0)}) == 1


# -- misbehaviour ------------------------------------------------------------------------------------------------------


class Counting:
    """A learner whose tensors say which version they were trained on."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def check(self, charter):
        pass

    def rows_bytes(self, charter):
        return 0

    def train(self, charter, received, version, local):
        self.seen.append(local)
        terms = {"update/w": np.full((2, 3), version + 1.0), "weight": np.array(5.0)}
        return Trained(terms, {"head/w": np.zeros(1)})

    def finish(self, charter, received, version, local):
        self.seen.append(local)
        return ""


def rounds(*hows, many=4):
    """What a department with these misbehaviours contributes in each round; its learner too."""
    honest = Counting()
    learner = Misbehaving("a", honest, [Act(how, Dice(1, f"{how.kind}-{at}")) for at, how in enumerate(hows)])
    found, local = [], None
    for version in range(many):
        trained = learner.train(None, {}, version, local)
        found.append(trained.terms)
        local = trained.local
    learner.finish(None, {}, many, local)
    return found, honest


def test_who_scales_or_turns_the_sign_does_so_to_tensors_and_not_to_weights():
    found, _ = rounds(Scaled(kind="scaled", factor=10, count=1), SignFlip(kind="sign-flip", count=1))
    assert [one["update/w"][0, 0] for one in found] == [-10, -20, -30, -40]
    assert {float(one["weight"]) for one in found} == {5.0}


def test_misbehaviour_keeps_to_its_rounds():
    """from 2 until 3: the rounds that make versions 2 and 3, trained on versions 1 and 2."""
    how = Scaled.model_validate({"kind": "scaled", "factor": 10, "count": 1, "from": 2, "until": 3})
    found, _ = rounds(how)
    assert [one["update/w"][0, 0] for one in found] == [1, 20, 30, 4]


def test_noise_is_as_large_as_what_was_trained_and_another_in_every_round_and_tensor():
    found, _ = rounds(Noise(kind="random", scale=2, count=1), many=400)
    sizes = [np.sqrt(np.mean(one["update/w"] ** 2)) / (at + 1) for at, one in enumerate(found)]
    assert mean(size**2 for size in sizes) == pytest.approx(4, rel=0.1)
    assert not np.array_equal(found[0]["update/w"] * 2, found[1]["update/w"])


def test_values_that_are_no_numbers_are_contributed_as_they_are():
    found, _ = rounds(NotNumbers(kind="nan", count=1))
    assert np.isnan(found[0]["update/w"]).all() and found[0]["weight"] == 5


def test_a_stale_contribution_is_that_of_two_rounds_before_and_the_learner_does_not_see_what_waits():
    found, honest = rounds(Stale(kind="stale", lag=2, count=1), many=6)
    assert [one["update/w"][0, 0] for one in found] == [1, 2, 1, 2, 3, 4]
    assert honest.seen[0] is None
    assert all(set(local) == {"head/w"} for local in honest.seen[1:])


def test_every_label_becomes_another_one_and_amounts_change_places():
    y = np.array([0, 1, 2, 2, 0], dtype=np.int64)
    assert permuted(y, 1).tolist() == [1, 2, 0, 0, 1] and permuted(y, 1).dtype == y.dtype
    assert permuted(np.array([0.0, 1.0]), 1).tolist() == [1.0, 0.0]
    amounts = np.linspace(0.5, 9.7, 20)
    assert sorted(permuted(amounts, 1)) == sorted(amounts) and (permuted(amounts, 1) != amounts).any()
    assert permuted(np.full(3, -1), 1).tolist() == [-1] * 3


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (behaviour("dropt", share=0.3), "behaviour.0: Input tag 'dropt'"),
        (behaviour("dropout"), "give share, or up and down"),
        (behaviour("dropout", share=0.1, up=3, down=2), "give share, or up and down"),
        (behaviour("dropout", up=3), "give share, or up and down"),
        (behaviour("dropout", share=0.1, count=3, fraction=0.5), "one of them"),
        (behaviour("dropout", share=0.1, until=2, **{"from": 3}), "until = 2 is before from = 3"),
        (behaviour("dropout", share=0.1, **{"from": 41}), "from = 41 comes after the last round, 40"),
        (behaviour("dropout", share=0.1, departments='["nobody"]'), "no department is called 'nobody'"),
        (behaviour("scaled"), "say who misbehaves"),
        (behaviour("scaled", count=201), "there are 200 departments"),
        (behaviour("arrival", rate=1, until=9), "give rate or until"),
        (behaviour("arrival", rate=1, first=9), "9 departments are there before the first round, which opens with 100"),
        ('[coordinator]\nlies = ["white-lie"]\n', "coordinator.lies.0"),
        ('[coordinator]\nlies = ["old-backbone"]\ndepartments = ["nobody"]\n', "no department is called 'nobody'"),
    ],
)
def test_a_process_that_cannot_be_is_refused_with_its_reason(text, said):
    with pytest.raises(ConfigError) as caught:
        many(text)
    assert said in str(caught.value).replace(".dropout", "")


def test_people_are_told_what_befalls_whom():
    text = behaviour("dropout", share=0.3) + behaviour("scaled", factor=5, departments='["site-3"]')
    told = many(text + behaviour("leave", fraction=0.5, share=0.1)).told()
    assert told == [
        "out of 30 % of rounds, each by itself: all departments",
        "contributions are 5 times what was trained: site-3",
        "before every round 10 % of those left go for good: 100 departments",
    ]
    assert many(text).cast().misbehaving() == {"site-3": ["scaled × 5"]}


def test_a_scenario_that_is_written_down_is_the_same_when_it_is_read():
    text = behaviour("dropout", share=0.3, until=5, **{"from": 2}) + behaviour("stale", count=1)
    scenario = many(text + '[coordinator]\nlies = ["old-backbone"]\nfrom = 2\n', departments=5)
    assert Scenario.model_validate(values_of(scenario)) == scenario
