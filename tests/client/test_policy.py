"""A department's policy: which charters it permits, by which rules, and when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from federation import small

from commonroot.client.policy import FILE, TEMPLATE, Policy, read_policy
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write
from commonroot.strategies import seal
from commonroot.strategies.evaluation import evaluation_of

TOML = small.CHARTER.format(rounds=20, widths=[8, 4], attempts=3)
STATISTICS = """
federation = "grove"
name = "sums"
rounds = 1
method = { name = "statistics" }
columns = [{ name = "age", kind = "number", low = 0, high = 100 }, { name = "pay", kind = "number", low = 0, high = 9 }]
"""


@pytest.fixture(scope="module")
def roster(tmp_path_factory):
    return small.founded(tmp_path_factory.mktemp("policy")).coordinator.roster()


def charter(**changes):
    """92 numbers of update and weight, loss and held-out loss: 95 in a round."""
    return seal(Draft.from_toml(TOML).model_copy(update=changes))


def rules(policy: Policy, roster, **changes) -> list[str]:
    return [name for name, _ in policy.broken(charter(**changes), roster)]


def test_without_rules_nothing_is_forbidden_and_nothing_is_automatic(roster):
    assert rules(Policy(), roster) == []
    assert Policy().automatic is False


@pytest.mark.parametrize(
    ("inside", "outside", "rule"),
    [
        ({"methods": ("fedper",)}, {"methods": ("fedavg", "feddbe")}, "methods"),
        ({"rounds": 20}, {"rounds": 19}, "rounds"),
        ({"numbers": 95}, {"numbers": 94}, "numbers"),
        ({"weight_cap": 10_000}, {"weight_cap": 9_999}, "weight_cap"),
        ({"update_clip": 5.0}, {"update_clip": 4.9}, "update_clip"),
        ({"cohort_floor": 3}, {"cohort_floor": 4}, "cohort_floor"),
        ({"gatherings": ()}, None, ""),
        ({"columns": ()}, None, ""),
        ({"evaluations": False}, None, ""),
    ],
)
def test_a_rule_holds_up_to_its_number_and_is_named_beyond_it(inside, outside, rule, roster):
    assert rules(Policy(**inside), roster) == []
    if outside is not None:
        assert rules(Policy(**outside), roster) == [rule]


def test_every_broken_rule_is_named_at_once(roster):
    strict = Policy(methods=("fedavg",), rounds=1, numbers=1, weight_cap=1, update_clip=1.0, cohort_floor=5)
    broken = strict.broken(charter(), roster)
    assert [name for name, _ in broken] == [
        "methods",
        "cohort_floor",
        "rounds",
        "numbers",
        "weight_cap",
        "update_clip",
    ]
    assert "20 rounds; at most 1" in dict(broken)["rounds"]


def test_a_start_from_a_file_is_a_rule_of_its_own(roster):
    training = charter().training.model_copy(update={"warm_start": "ab" * 32})
    assert rules(Policy(warm_starts=False), roster, training=training) == ["warm_starts"]
    assert rules(Policy(warm_starts=True), roster, training=training) == []


def test_gatherings_are_judged_by_name_and_column_and_not_by_the_rules_of_training(roster):
    sums = seal(Draft.from_toml(STATISTICS))
    assert Policy(methods=(), weight_cap=1, update_clip=0.1).broken(sums, roster) == []
    assert [name for name, _ in Policy(gatherings=()).broken(sums, roster)] == ["gatherings"]
    assert Policy(gatherings=("statistics",), columns=("age", "pay")).broken(sums, roster) == []
    ((rule, why),) = Policy(columns=("age",)).broken(sums, roster)
    assert (rule, "'pay'" in why) == ("columns", True)


def test_evaluations_and_what_they_count_are_two_rules(roster):
    plain, counting = (seal(evaluation_of(charter(), counts=counts)) for counts in (False, True))
    assert [name for name, _ in Policy(evaluations=False).broken(plain, roster)] == ["evaluations"]
    no_counts = Policy(evaluations=True, counted_choices=False)
    assert no_counts.broken(plain, roster) == []
    assert [name for name, _ in no_counts.broken(counting, roster)] == ["counted_choices"]


@pytest.mark.parametrize(
    ("spans", "hour", "open_then"),
    [
        (None, 12, True),
        ((), 12, False),
        (("20:00-06:00",), 23, True),
        (("20:00-06:00",), 5, True),
        (("20:00-06:00",), 6, False),
        (("08:00-12:00", "13:00-24:00"), 12, False),
        (("08:00-12:00", "13:00-24:00"), 23, True),
    ],
)
def test_hours_are_local_and_may_pass_midnight(spans, hour, open_then):
    moment = time.mktime((2026, 3, 2, hour, 0, 0, 0, 61, -1))
    assert Policy(hours=spans).open_at(moment) is open_then


@pytest.mark.parametrize(
    "text",
    [
        'methods = ["fedavgg"]',
        'gatherings = ["evaluation"]',
        'hours = ["8-9"]',
        'hours = ["20:00-24:30"]',
        "cohort_floor = 2",
        "round = 3",
        "rounds = 0",
    ],
)
def test_a_policy_with_a_mistake_is_refused_and_not_half_obeyed(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=FILE):
        read_policy(tmp_path)


def test_the_written_template_is_a_policy_without_rules_and_so_is_each_of_its_lines(tmp_path: Path):
    """Uncommented, every example in it is valid."""
    assert read_policy(tmp_path) is None
    (tmp_path / FILE).write_text(TEMPLATE)
    stored = read_policy(tmp_path)
    assert stored is not None
    assert stored.policy == Policy()
    lines = [line[1:] for line in TEMPLATE.splitlines() if line.startswith("#") and " = " in line and "`" not in line]
    assert len(lines) == len(Policy.model_fields)
    (tmp_path / FILE).write_text("\n".join(lines))
    again = read_policy(tmp_path)
    assert again is not None
    assert again.digest != stored.digest
    assert None not in again.policy.model_dump().values()


def test_a_policy_that_was_changed_is_read_again(tmp_path: Path):
    """Even to as many bytes, and also where it comes or goes."""
    for most in (3, 5):
        atomic_write(tmp_path / FILE, f"rounds = {most}\n".encode())
        stored = read_policy(tmp_path)
        assert stored is not None
        assert stored.policy.rounds == most
    (tmp_path / FILE).unlink()
    assert read_policy(tmp_path) is None
